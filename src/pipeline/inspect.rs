//! `pc inspect`: what a `.huff` file is and where its bytes went, for a person or, with `--json`, for a
//! program. It reads headers and indexes, and of each block a few bytes; with `--entropy` it decodes all.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Error, Result, bail};
use rayon::prelude::*;
use serde::{Serialize, Serializer};

use super::progress::{Progress, thousands};
use super::reference::{References, is_of_reference};
use super::{open_to_seek, promise_text, set_threads};
use crate::cli::InspectArgs;
use crate::huffman::meter::{Part, PayloadBits};
use crate::huffman::{
    self, Bound, FileIndex, FrameHeader, FrameReader, Kind, Promise, ReferenceName,
};

/// Runs `pc inspect`.
///
/// # Errors
/// A file that is no `.huff` file or a damaged one, after all that can be said of it.
pub fn run(args: &InspectArgs, progress: &Progress) -> Result<()> {
    set_threads(args.threads)?;
    let references = match args.entropy {
        true => Some(References::open(&args.reference, args.memory.memory_limit)?),
        false => None,
    };
    let mut n_failed = 0;
    for path in &args.files {
        let inspected = inspect(path, args, references.as_ref(), progress);
        match (inspected, args.files.len()) {
            (Ok(()), _) => {}
            (Err(error), 1) => return Err(error),
            (Err(error), _) => {
                progress.warn(format_args!("{error:#}"));
                n_failed += 1;
            }
        }
    }
    match n_failed {
        0 => Ok(()),
        n => bail!(
            "{n} of {} files cannot be read or are not whole",
            args.files.len()
        ),
    }
}

fn inspect(
    path: &Path,
    args: &InspectArgs,
    references: Option<&References>,
    progress: &Progress,
) -> Result<()> {
    let mut file = open_to_seek(path)?;
    let name = || path.display().to_string();
    let (report, failure) =
        Report::of(&mut file, path, references, args.memory.memory_limit).with_context(name)?;
    match args.json {
        true => progress.result(serde_json::to_string(&report)?)?,
        false => {
            for line in report.lines() {
                progress.result(line)?;
            }
        }
    }
    match failure {
        None => Ok(()),
        Some(failure) => Err(failure).with_context(name),
    }
}

/// What `pc inspect --json` prints, its members in this order.
#[derive(Debug, Serialize)]
struct Report {
    /// The file as it was named.
    file: String,
    /// Its length.
    bytes: u64,
    /// Version of the format.
    version: u8,
    /// `"probabilities"`, `"logits"` or `"values"`.
    kind: Kind,
    /// Rows of all whole frames.
    rows: u64,
    /// Classes (columns).
    classes: usize,
    /// Their names, if the file has them.
    class_names: Option<Vec<String>>,
    /// What is promised of the rows, as headers say it (FORMAT.md, section 3): one member for the
    /// frames that promise the same.
    promises: Vec<Promise>,
    /// Rows stored exactly because a promise would have been broken.
    exact_rows: u64,
    /// The largest absolute error as the writer measured it; none if every bit comes back.
    largest_error: Option<f64>,
    /// The largest divergence of a row in bits, under `max_kl`.
    largest_kl: Option<f64>,
    /// The mean divergence of all rows, under `max_kl`.
    mean_kl: Option<f64>,
    /// Whole frames.
    frames: usize,
    /// Their blocks.
    blocks: usize,
    /// Rows of the block that has most.
    rows_a_block: u64,
    /// How many blocks each model of rows codes (FORMAT.md, section 5).
    models: BTreeMap<String, usize>,
    /// SHA-256 of the checkpoints that predicted the rows, where that is known.
    models_sha256: Vec<String>,
    /// What the rows of frames are compressed against.
    references: Vec<ReferenceName>,
    /// The programs that wrote the frames.
    producers: Vec<String>,
    /// What the bits of the file are, by part; their sum is 8 times `bytes`.
    #[serde(serialize_with = "as_map")]
    bits: Vec<(&'static str, u64)>,
    /// With `--entropy`: the least bits that the codes of the symbols could take, by alphabet and block.
    entropy_bits: Option<f64>,
    /// With `--entropy`: the bits that they take.
    code_bits: Option<u64>,
    /// What is wrong with the file; none if it is whole.
    error: Option<String>,
}

/// The part of a file that follows the last whole frame.
const REST: &str = "no_whole_frame";

impl Report {
    /// All that can be said of a file, and what is wrong with it; with `references`, all blocks are decoded.
    fn of(
        file: &mut File,
        path: &Path,
        references: Option<&References>,
        memory: u64,
    ) -> Result<(Self, Option<Error>)> {
        let n_bytes = file.metadata()?.len();
        let (index, tail) = match FileIndex::of_whole_frames(file, memory) {
            Ok(found) => found,
            Err(error) => return Self::of_start(file, path, n_bytes, error, memory),
        };
        let mut report = Self::new(path, n_bytes, index.headers());
        let summary = index.summary();
        report.rows = summary.n_rows;
        report.exact_rows = summary.figures.n_exact_rows;
        let is = |of: fn(&Bound) -> bool| report.promises.iter().any(|p| of(&p.bound));
        if is(|bound| *bound != Bound::Exact) {
            report.largest_error = Some(summary.figures.largest_error);
        }
        if is(|bound| matches!(bound, Bound::MaxKl(_))) {
            report.largest_kl = Some(summary.figures.largest_kl);
            let is_only = !is(|bound| !matches!(bound, Bound::MaxKl(_)));
            let n_rows = summary.n_rows.max(1) as f64;
            report.mean_kl = is_only.then_some(summary.figures.total_kl / n_rows);
        }
        report.frames = index.n_frames();
        report.blocks = index.n_blocks();
        let mut failure = None;
        for block in 0..index.n_blocks() {
            let rows = index.rows_of(block);
            report.rows_a_block = report.rows_a_block.max(rows.end - rows.start);
            let name = match index.read_model(file, block) {
                Ok(model) => model.name(),
                Err(error) => {
                    failure = failure.or(Some(error));
                    None
                }
            };
            let name = name.unwrap_or_else(|| "unknown".to_owned());
            *report.models.entry(name).or_default() += 1;
        }

        let sizes = index.sizes();
        let mut payloads = vec![("payloads", 8 * sizes.payloads)];
        if let Some(references) = references.filter(|_| failure.is_none()) {
            match measure(file, &index, references) {
                Ok(bits) => {
                    payloads = parts(&bits);
                    report.entropy_bits = Some(bits.entropy);
                    report.code_bits = Some(bits.of_rows().codes);
                }
                // The file may well be whole.
                Err(error) if is_of_reference(&error) => return Err(error.into()),
                Err(error) => failure = Some(error),
            }
        }
        report.bits = vec![("headers", 8 * sizes.headers)];
        report.bits.extend(payloads);
        report.bits.push(("block_framing", 8 * sizes.block_framing));
        report.bits.push(("indexes", 8 * sizes.indexes));
        if let Some(tail) = tail {
            report.bits.push((REST, 8 * tail.n_bytes));
            failure = failure.or(Some(tail.error));
        }
        let failure = failure.map(Error::new);
        report.error = failure.as_ref().map(|error| format!("{error:#}"));
        Ok((report, failure))
    }

    /// What can be said of a file of which not even the first frame is whole.
    fn of_start(
        file: &mut File,
        path: &Path,
        n_bytes: u64,
        error: huffman::Error,
        memory: u64,
    ) -> Result<(Self, Option<Error>)> {
        file.seek(SeekFrom::Start(0))?;
        let Ok(mut frame) = FrameReader::with_memory_limit(BufReader::new(file), memory) else {
            return Err(error.into());
        };
        let mut report = Self::new(path, n_bytes, std::slice::from_ref(frame.header()));
        while let Ok(Some(block)) = frame.next_raw_block() {
            report.rows += block.n_rows() as u64;
            report.blocks += 1;
            report.rows_a_block = report.rows_a_block.max(block.n_rows() as u64);
        }
        report.bits = vec![(REST, 8 * n_bytes)];
        report.error = Some(error.to_string());
        Ok((report, Some(error.into())))
    }

    /// What headers say.
    fn new(path: &Path, n_bytes: u64, headers: &[FrameHeader]) -> Self {
        let first = &headers[0];
        let mut report = Self {
            file: path.display().to_string(),
            bytes: n_bytes,
            version: headers
                .iter()
                .map(|header| header.version)
                .max()
                .unwrap_or(1),
            kind: first.promise.kind,
            rows: 0,
            classes: first.classes,
            class_names: first.class_names.clone(),
            promises: Vec::new(),
            exact_rows: 0,
            largest_error: None,
            largest_kl: None,
            mean_kl: None,
            frames: 0,
            blocks: 0,
            rows_a_block: 0,
            models: BTreeMap::new(),
            models_sha256: Vec::new(),
            references: Vec::new(),
            producers: Vec::new(),
            bits: Vec::new(),
            entropy_bits: None,
            code_bits: None,
            error: None,
        };
        for header in headers {
            push_new(&mut report.promises, &header.promise);
            push_new(&mut report.producers, &header.producer);
            if let Some(model) = &header.model_sha256 {
                push_new(&mut report.models_sha256, model);
            }
            if let Some(reference) = &header.reference {
                push_new(&mut report.references, reference);
            }
        }
        report
    }

    /// For a person.
    fn lines(&self) -> Vec<String> {
        // What a file says of itself must not reach a terminal as control characters.
        let plain = |texts: &[String]| {
            let texts = texts.iter().map(|text| text.escape_debug().to_string());
            texts.collect::<Vec<_>>().join(", ")
        };
        let line = |name: &str, text: String| format!("  {name:<14} {text}");
        let n_rows = self.rows.max(1) as f64;
        let mut lines = vec![
            format!(
                "{}: .huff version {}, {} bytes",
                self.file,
                self.version,
                thousands(self.bytes)
            ),
            line("kind", self.kind.to_string()),
            line("rows", thousands(self.rows)),
            line("classes", thousands(self.classes as u64)),
        ];
        if let Some(names) = &self.class_names {
            const N_SHOWN: usize = 8;
            let shown = plain(&names[..names.len().min(N_SHOWN)]);
            lines.push(line(
                "class names",
                match names.len().checked_sub(N_SHOWN) {
                    None | Some(0) => shown,
                    Some(n) => format!("{shown} and {} more", thousands(n as u64)),
                },
            ));
        }
        for promise in &self.promises {
            lines.push(line("promise", promise_text(promise)));
        }
        if let Some(error) = self.largest_error.filter(|_| self.frames > 0) {
            lines.push(line("largest error", format!("{error:.4e}")));
        }
        if let Some(largest) = self.largest_kl.filter(|_| self.frames > 0) {
            let mean = self.mean_kl.map(|mean| format!(", mean {mean:.4e}"));
            let mean = mean.unwrap_or_default();
            lines.push(line(
                "divergence",
                format!("at most {largest:.4e} bits{mean}"),
            ));
        }
        if self.frames > 0 {
            lines.push(line("exact rows", thousands(self.exact_rows)));
            let per_row = self.bytes as f64 / n_rows;
            lines.push(line("bytes a row", format!("{per_row:.3}")));
        }
        lines.push(line("frames", thousands(self.frames as u64)));
        let of = match self.blocks {
            0 => String::new(),
            1 => format!(", of {} rows", thousands(self.rows_a_block)),
            _ => format!(", of up to {} rows", thousands(self.rows_a_block)),
        };
        lines.push(line(
            "blocks",
            format!("{}{of}", thousands(self.blocks as u64)),
        ));
        for (model, &n) in &self.models {
            let blocks = if n == 1 { "block" } else { "blocks" };
            let text = format!("{model}: {} {blocks}", thousands(n as u64));
            lines.push(line("model of rows", text));
        }
        if !self.models_sha256.is_empty() {
            lines.push(line("predicted by", plain(&self.models_sha256)));
        }
        for ReferenceName { sha256, rows } in &self.references {
            let text = format!("{sha256}, {} rows", thousands(*rows));
            lines.push(line("reference", text));
        }
        lines.push(line("written by", plain(&self.producers)));
        lines.push("  bytes by part".to_owned());
        for ((part, bits), bytes) in self.bits.iter().zip(whole_bytes(&self.bits)) {
            let share = *bits as f64 * 12.5 / self.bytes.max(1) as f64;
            lines.push(format!(
                "    {:<16} {:>14}  {share:>5.1}%",
                part.replace('_', " "),
                thousands(bytes)
            ));
        }
        if let (Some(entropy), Some(codes)) = (self.entropy_bits, self.code_bits) {
            let more = 100.0 * (codes as f64 / entropy.max(1.0) - 1.0).max(0.0);
            lines.push(line(
                "entropy",
                format!(
                    "of the symbols {} bytes; their codes take {}, {more:.2}% more",
                    thousands((entropy / 8.0).round() as u64),
                    thousands(codes.div_ceil(8))
                ),
            ));
        }
        lines
    }
}

/// Decodes all blocks, a few at a time, to find where their bits went.
fn measure(
    file: &mut File,
    index: &FileIndex,
    references: &References,
) -> Result<PayloadBits, huffman::Error> {
    let mut bits = PayloadBits::default();
    let blocks: Vec<usize> = (0..index.n_blocks()).collect();
    for batch in blocks.chunks(2 * rayon::current_num_threads()) {
        let batch = batch.iter().map(|&block| index.read_block(file, block));
        let batch: Vec<_> = batch.collect::<Result<_, _>>()?;
        let measured: Vec<_> = batch
            .par_iter()
            .map(|block| block.measure_with(|needed| references.find(needed)))
            .collect();
        for of_block in measured {
            bits += of_block?;
        }
    }
    Ok(bits)
}

/// The parts of payloads. Rows stored exactly are all their bits; of other parts, what follows the codes
/// as it is counts as extra bits.
fn parts(bits: &PayloadBits) -> Vec<(&'static str, u64)> {
    let exact = bits.of(Part::ExactRows);
    vec![
        ("codebooks", bits.codebooks),
        ("top_class", bits.of(Part::TopClass).codes),
        ("other_classes", bits.of(Part::OtherClasses).codes),
        ("levels", bits.of(Part::Levels).codes),
        ("order", bits.of(Part::Order).codes),
        ("exact_rows", exact.codes + exact.raw),
        ("extra_bits", bits.of_rows().raw - exact.raw),
        ("padding", bits.padding),
    ]
}

/// Bits as bytes that have the same sum: each is what is full after it and was not before.
fn whole_bytes(parts: &[(&str, u64)]) -> impl Iterator<Item = u64> {
    parts.iter().scan(0, |sum, (_, bits)| {
        let before = *sum / 8;
        *sum += bits;
        Some(*sum / 8 - before)
    })
}

fn as_map<S: Serializer>(parts: &[(&'static str, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(parts.iter().copied())
}

fn push_new<T: PartialEq + Clone>(list: &mut Vec<T>, item: &T) {
    if !list.contains(item) {
        list.push(item.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_sum_of_the_bits() {
        let parts = [("a", 3), ("b", 0), ("c", 12), ("d", 1), ("e", 8)];
        let bytes: Vec<u64> = whole_bytes(&parts).collect();
        assert_eq!(bytes, [0, 0, 1, 1, 1]);
    }
}
