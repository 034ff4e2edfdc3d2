//! `pc verify`: whether a `.huff` file is whole, and whether it keeps what it promises of its original.

use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;

use super::progress::{Progress, thousands};
use super::reference::{References, is_of_reference};
use super::rows::{RowReader, check_order};
use super::{input_name, next_batch, open_input, set_threads};
use crate::cli::VerifyArgs;
use crate::huffman::meter::Part;
use crate::huffman::{
    Block, Bound, Error, Figures, FileIndex, FrameHeader, FrameReader, Promise, divergence,
    first_classes,
};
use crate::io::source::{SourceOptions, Values};

/// Runs `pc verify`.
///
/// # Errors
/// A file that is damaged, states figures that its rows do not have, or breaks a promise; the first row
/// that does is named.
pub fn run(args: &VerifyArgs, progress: &Progress) -> Result<()> {
    set_threads(args.threads)?;
    let name = || args.input.display().to_string();
    let mut blocks =
        Blocks::open(open_input(&args.input)?, args.memory.memory_limit).with_context(name)?;
    let references = References::open(&args.reference, args.memory.memory_limit)?;
    let mut options = args.source.options();
    options.takes_non_finite = true;
    let mut originals = match &args.original {
        Some(path) => Some(Originals::open(path, &options, &args.input, &blocks)?),
        None => None,
    };
    let bar = progress.bar(blocks.n_rows().unwrap_or(0), "rows");
    let mut checked = Checked::default();
    let mut n_damaged = 0;
    let (mut n_blocks, mut n_rows) = (0, 0);
    loop {
        let mut batch = next_batch(|| blocks.next()).with_context(name)?;
        if batch.is_empty() {
            break;
        }
        if let Some(originals) = &mut originals {
            for piece in &mut batch {
                let n_rows = piece.rows.end - piece.rows.start;
                piece.original = Some(originals.take(n_rows as usize, &piece.promise)?);
            }
        }
        let check = |piece: Piece| piece.check(&references);
        let of_batch: Vec<_> = batch.into_par_iter().map(check).collect();
        for (rows, found) in of_batch {
            n_blocks += 1;
            n_rows = rows.end;
            match found.with_context(name)? {
                Ok(of_block) => checked.add(&of_block),
                Err(damage) => {
                    progress.warn(format_args!("{}: {damage}", args.input.display()));
                    n_damaged += 1;
                }
            }
        }
        bar.set_position(n_rows);
    }
    bar.finish_and_clear();
    ensure!(
        n_damaged == 0,
        "{}: {n_damaged} of {n_blocks} blocks are damaged; copy or write the file again, or decode the others with --skip-damaged",
        args.input.display()
    );
    if let Some(originals) = &mut originals {
        originals.check_end()?;
    }
    let stated = blocks.figures();
    checked
        .check_figures(&stated, originals.is_some())
        .with_context(name)?;
    if let Some(error) = blocks.take_tail() {
        return Err(error).with_context(name);
    }
    progress.result(format_args!(
        "{}: {} rows in {} {}, {}",
        args.input.display(),
        thousands(n_rows),
        thousands(n_blocks),
        if n_blocks == 1 { "block" } else { "blocks" },
        match &args.original {
            None => "all checksums and figures right".to_owned(),
            Some(path) => format!("all as promised of {}", path.display()),
        }
    ))
}

/// What was found in blocks.
#[derive(Debug, Default)]
struct Checked {
    /// Rows that are stored exactly, for certain and at most: where all rows of a block are, which of them
    /// had to be is not to be seen.
    n_exact: Range<u64>,
    /// Measured against the original.
    figures: Figures,
}

impl Checked {
    fn add(&mut self, other: &Self) {
        self.n_exact.start += other.n_exact.start;
        self.n_exact.end += other.n_exact.end;
        self.figures.add(&other.figures);
    }

    /// Takes a row in that was measured against its original; one that keeps no bound must be the original.
    fn add_row<T: Copy + Into<f64>>(
        &mut self,
        promise: &Promise,
        row: u64,
        (original, decoded): (&[T], &[f32]),
        measured: Option<Figures>,
    ) -> Result<()> {
        if let Some(figures) = measured {
            self.figures.add(&figures);
            return Ok(());
        }
        let original: Vec<f64> = original.iter().map(|&value| value.into()).collect();
        let is_other = |(&a, &b): (&f64, &f32)| match promise.bound {
            Bound::Exact => a.to_bits() != f64::from(b).to_bits(),
            // A row that was stored bit for bit, in float32.
            _ => (a as f32).to_bits() != b.to_bits(),
        };
        match original.iter().zip(decoded).position(is_other) {
            None => Ok(()),
            Some(class) => bail!("row {row}{}", violation(promise, &original, decoded, class)),
        }
    }

    /// Checks what the indexes state.
    fn check_figures(&self, stated: &Figures, has_original: bool) -> Result<()> {
        if has_original {
            let found = &self.figures;
            for (name, stated, found) in [
                ("a largest error", stated.largest_error, found.largest_error),
                ("a largest divergence", stated.largest_kl, found.largest_kl),
                ("a sum of divergences", stated.total_kl, found.total_kl),
            ] {
                // Older writers took other logarithms, and sums in another order.
                let is_same = (stated - found).abs() <= 1e-6 * stated.max(found) + 1e-12;
                ensure!(
                    is_same,
                    "the index states {name} of {stated:e}, found {found:e}; the original is not the one that was compressed, or the index is wrong"
                );
            }
        } else {
            let possible = self.n_exact.start..=self.n_exact.end;
            ensure!(
                possible.contains(&stated.n_exact_rows),
                "the index states {} rows stored exactly, found {}; copy or write the file again",
                stated.n_exact_rows,
                self.n_exact.start
            );
        }
        Ok(())
    }
}

/// A block, or why it cannot be read, and the rows it was made from, if they are at hand.
struct Piece {
    block: Result<Block, Error>,
    rows: Range<u64>,
    promise: Promise,
    original: Option<Values>,
}

impl Piece {
    /// Checks the rows; the outer error is a broken promise or a missing reference, the inner one damage.
    fn check(self, references: &References) -> (Range<u64>, Result<Result<Checked, String>>) {
        let checked = match &self.original {
            Some(original) => self.compare(original, references),
            None => self.measure(references),
        };
        (self.rows, checked)
    }

    /// Without an original: whether the block decodes, and its exact rows.
    fn measure(&self, references: &References) -> Result<Result<Checked, String>> {
        let block = match &self.block {
            Ok(block) => block,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let bits = match block.measure_with(|needed| references.find(needed)) {
            Ok(bits) => bits,
            Err(error) => return self.damage(error).map(Err),
        };
        let n_rows = self.rows.end - self.rows.start;
        let n_exact = bits.of(Part::ExactRows).raw / (32 * block.n_classes() as u64);
        let is_quantized = self.promise.bound != Bound::Exact && !block.is_bits();
        Ok(Ok(Checked {
            n_exact: match is_quantized {
                true => n_exact..n_exact,
                false => 0..n_rows,
            },
            figures: Figures::default(),
        }))
    }

    fn compare(
        &self,
        original: &Values,
        references: &References,
    ) -> Result<Result<Checked, String>> {
        let block = match &self.block {
            Ok(block) => block,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let decoded = match block.decode_with(|needed| references.find(needed)) {
            Ok(decoded) => decoded,
            Err(error) => return self.damage(error).map(Err),
        };
        let n_classes = decoded.n_classes();
        let mut checked = Checked::default();
        let rows = (self.rows.start..).zip(decoded.rows());
        match original {
            Values::F32(values) => {
                for ((row, decoded), original) in rows.zip(values.chunks_exact(n_classes)) {
                    let measured = self.promise.measure(original, decoded);
                    checked.add_row(&self.promise, row, (original, decoded), measured)?;
                }
            }
            Values::F64(values) => {
                for ((row, decoded), original) in rows.zip(values.chunks_exact(n_classes)) {
                    let measured = match self.promise.bound {
                        // Told by the bits.
                        Bound::Exact => None,
                        _ => self.promise.measure_f64(original, decoded),
                    };
                    checked.add_row(&self.promise, row, (original, decoded), measured)?;
                }
            }
        }
        Ok(Ok(checked))
    }

    /// What is wrong with the bytes of a block, with its rows; an error if nothing is, but its reference is
    /// missing.
    fn damage(&self, error: Error) -> Result<String> {
        match is_of_reference(&error) {
            true => Err(error.into()),
            false => Ok(format!(
                "rows {}..{}: {error}",
                self.rows.start, self.rows.end
            )),
        }
    }
}

/// In what way a row breaks a promise; `other` is the first class that is not the original.
fn violation(promise: &Promise, original: &[f64], decoded: &[f32], other: usize) -> String {
    let at = |class: usize| {
        format!(
            ", class {class}: {} decodes to {}",
            shortest(original[class]),
            decoded[class]
        )
    };
    match promise.bound {
        Bound::Exact => {
            return format!("{}; every bit is promised", at(other));
        }
        Bound::MaxError(max_error) => {
            let error = |class: usize| (original[class] - f64::from(decoded[class])).abs();
            // No number is no small error either.
            let is_off = |&class: &usize| error(class) > max_error || error(class).is_nan();
            if let Some(class) = (0..original.len()).find(is_off) {
                return format!(
                    "{}, {:e} off; at most {max_error:e} is promised",
                    at(class),
                    error(class)
                );
            }
        }
        Bound::MaxKl(max_kl) => {
            if let Some(class) = decoded.iter().position(|&q| q <= 0.0 || q.is_nan()) {
                return format!("{}; numbers above 0 are promised", at(class));
            }
            let found = divergence(original, decoded);
            if found > max_kl || found.is_nan() {
                return format!(": {found:e} bits of divergence; at most {max_kl:e} is promised");
            }
        }
    }
    let before = first_classes(original, promise.keep_top);
    let after = first_classes(decoded, promise.keep_top);
    let position = before.iter().zip(&after).position(|(a, b)| a != b);
    let position = position.unwrap_or(0);
    format!(
        ": class {} stands at position {} by size, class {} does when decoded; the first {} are promised",
        before[position],
        position + 1,
        after[position],
        promise.keep_top
    )
}

/// A number in as few digits as tell it apart, as a float32 if it is one.
fn shortest(value: f64) -> String {
    match value as f32 {
        rounded if f64::from(rounded) == value => rounded.to_string(),
        _ => value.to_string(),
    }
}

/// The blocks of a file in order.
enum Blocks {
    /// By the index: damage in one does not hide the others.
    Indexed {
        file: File,
        index: FileIndex,
        next: usize,
        tail: Option<Error>,
    },
    /// As they come through a pipe.
    Streamed {
        frames: FrameReader<BufReader<File>>,
        n_rows: u64,
    },
}

impl Blocks {
    fn open(mut file: File, memory: u64) -> Result<Self, Error> {
        if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            let (index, tail) = FileIndex::of_whole_frames(&mut file, memory)?;
            return Ok(Self::Indexed {
                file,
                index,
                next: 0,
                tail: tail.map(|tail| tail.error),
            });
        }
        let reader = BufReader::with_capacity(1 << 16, file);
        Ok(Self::Streamed {
            frames: FrameReader::with_memory_limit(reader, memory)?,
            n_rows: 0,
        })
    }

    fn header(&self) -> &FrameHeader {
        match self {
            Self::Indexed { index, .. } => &index.headers()[0],
            Self::Streamed { frames, .. } => frames.header(),
        }
    }

    /// How many rows there are, if that is known beforehand.
    fn n_rows(&self) -> Option<u64> {
        match self {
            Self::Indexed { index, .. } => Some(index.summary().n_rows),
            Self::Streamed { .. } => None,
        }
    }

    /// What the indexes state, once all blocks have come.
    fn figures(&self) -> Figures {
        match self {
            Self::Indexed { index, .. } => index.summary().figures,
            Self::Streamed { frames, .. } => frames.summary().figures,
        }
    }

    /// What is wrong after the last whole frame.
    fn take_tail(&mut self) -> Option<Error> {
        match self {
            Self::Indexed { tail, .. } => tail.take(),
            // Said by the reader already.
            Self::Streamed { .. } => None,
        }
    }

    fn next(&mut self) -> Result<Option<Piece>, Error> {
        match self {
            Self::Indexed {
                file, index, next, ..
            } => {
                if *next == index.n_blocks() {
                    return Ok(None);
                }
                let piece = Piece {
                    block: index.read_block(file, *next),
                    rows: index.rows_of(*next),
                    promise: index.header_of(*next).promise,
                    original: None,
                };
                *next += 1;
                Ok(Some(piece))
            }
            Self::Streamed { frames, n_rows } => {
                let Some(block) = frames.next_raw_block()? else {
                    return Ok(None);
                };
                let start = *n_rows;
                *n_rows += block.n_rows() as u64;
                Ok(Some(Piece {
                    block: Ok(block),
                    rows: start..*n_rows,
                    promise: frames.header().promise,
                    original: None,
                }))
            }
        }
    }
}

/// The rows that were compressed, in order.
struct Originals {
    reader: RowReader,
    name: String,
    /// Rows handed out.
    n_rows: u64,
    /// What was read and not handed out.
    pending: Option<Values>,
}

impl Originals {
    /// Opens them, and checks that there are as many as in the file, if that can be told.
    fn open(path: &Path, options: &SourceOptions, huff: &Path, blocks: &Blocks) -> Result<Self> {
        let name = input_name(path);
        let reader = RowReader::open(path, options)?;
        let (n_classes, expected) = (reader.n_classes(), blocks.header().classes);
        ensure!(
            n_classes == expected,
            "{name}: {n_classes} classes; {} has {expected}",
            huff.display()
        );
        let of_file = blocks.header().class_names.as_deref();
        check_order(
            (&name, reader.class_names()),
            (&huff.display().to_string(), of_file),
        )?;
        if let (Some(n_rows), Some(expected)) = (reader.n_rows(), blocks.n_rows()) {
            ensure!(
                n_rows == expected,
                "{name}: {n_rows} rows; {} has {expected}",
                huff.display()
            );
        }
        Ok(Self {
            reader,
            name,
            n_rows: 0,
            pending: None,
        })
    }

    /// The next rows, as they were compressed under a promise.
    fn take(&mut self, n_rows: usize, promise: &Promise) -> Result<Values> {
        let n_values = n_rows * self.reader.n_classes();
        let mut values = self.pending.take();
        while values.as_ref().map_or(0, Values::len) < n_values {
            let more = self.reader.next()?.with_context(|| {
                let n_found = values.as_ref().map_or(0, Values::len) / self.reader.n_classes();
                let n_rows = self.n_rows + n_found as u64;
                format!("{}: {n_rows} rows; the file has more", self.name)
            })?;
            match &mut values {
                Some(values) => values.append(more),
                None => values = Some(more),
            }
        }
        self.n_rows += n_rows as u64;
        let mut values = values.unwrap_or_default();
        let rest = values.split_off(n_values);
        self.pending = (!rest.is_empty()).then_some(rest);
        Ok(self.reader.as_promised(values, promise))
    }

    /// Checks that all rows have been taken.
    fn check_end(&mut self) -> Result<()> {
        let is_at_end = self.pending.is_none() && self.reader.next()?.is_none();
        let n_rows = match self.reader.n_rows() {
            Some(n_rows) => format!("{n_rows} rows"),
            None => "more rows".to_owned(),
        };
        ensure!(
            is_at_end,
            "{}: {n_rows}; the file has {}",
            self.name,
            self.n_rows
        );
        Ok(())
    }
}
