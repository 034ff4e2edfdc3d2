//! `pc verify`: whether a `.huff` file is whole, and whether it keeps what it promises of its original.

use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;

use super::compress::MatrixReader;
use super::progress::{Progress, thousands};
use super::{open_input, set_threads};
use crate::cli::VerifyArgs;
use crate::huffman::meter::Part;
use crate::huffman::order::first_classes;
use crate::huffman::quantizer::divergence;
use crate::huffman::{Block, Bound, Error, Figures, FileIndex, FrameHeader, FrameReader, Promise};
use crate::matrix::PredictionMatrix;

/// Runs `pc verify`.
///
/// # Errors
/// A file that is damaged, states figures that its rows do not have, or breaks a promise; the first row
/// that does is named.
pub fn run(args: &VerifyArgs, progress: &Progress) -> Result<()> {
    set_threads(args.threads)?;
    let name = || args.input.display().to_string();
    let mut blocks =
        Blocks::open(open_input(&args.input)?, args.memory_limit).with_context(name)?;
    let mut originals = match &args.original {
        Some(path) => Some(Originals::open(path, &args.input, &blocks)?),
        None => None,
    };
    let bar = progress.bar(blocks.n_rows().unwrap_or(0), "rows");
    let mut checked = Checked::default();
    let mut n_damaged = 0;
    let (mut n_blocks, mut n_rows) = (0, 0);
    loop {
        let mut batch = blocks.next_batch().with_context(name)?;
        if batch.is_empty() {
            break;
        }
        if let Some(originals) = &mut originals {
            for piece in &mut batch {
                let n_rows = piece.rows.end - piece.rows.start;
                piece.original = Some(originals.take(n_rows as usize)?);
            }
        }
        let of_batch: Vec<_> = batch.into_par_iter().map(Piece::check).collect();
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
    if let Some(originals) = &originals {
        originals.check_end(n_rows)?;
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

    /// Checks what the indexes state.
    fn check_figures(&self, stated: &Figures, has_original: bool) -> Result<()> {
        if has_original {
            let found = &self.figures;
            for (name, stated, found) in [
                ("a largest error", stated.largest_error, found.largest_error),
                ("a largest divergence", stated.largest_kl, found.largest_kl),
                ("a sum of divergences", stated.total_kl, found.total_kl),
            ] {
                // Logarithms and the order of sums may differ from machine to machine.
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
    original: Option<PredictionMatrix>,
}

impl Piece {
    /// Checks the rows; the outer error is a broken promise, the inner one damage.
    fn check(self) -> (Range<u64>, Result<Result<Checked, String>>) {
        let checked = match &self.original {
            Some(original) => self.compare(original),
            None => Ok(self.measure()),
        };
        (self.rows, checked)
    }

    /// Without an original: whether the block decodes, and its exact rows.
    fn measure(&self) -> Result<Checked, String> {
        let block = self.block.as_ref().map_err(ToString::to_string)?;
        let bits = block.measure().map_err(|error| self.named(&error))?;
        let n_rows = self.rows.end - self.rows.start;
        let n_exact = bits.of(Part::ExactRows).raw / (32 * block.n_classes() as u64);
        let is_quantized = self.promise.bound != Bound::Exact && !block.is_bits();
        Ok(Checked {
            n_exact: match is_quantized {
                true => n_exact..n_exact,
                false => 0..n_rows,
            },
            figures: Figures::default(),
        })
    }

    fn compare(&self, original: &PredictionMatrix) -> Result<Result<Checked, String>> {
        let decoded = match &self.block {
            Ok(block) => block.decode().map_err(|error| self.named(&error)),
            Err(error) => Err(error.to_string()),
        };
        let decoded = match decoded {
            Ok(decoded) => decoded,
            Err(damage) => return Ok(Err(damage)),
        };
        let mut checked = Checked::default();
        let rows = original.rows().zip(decoded.rows());
        for (row, (original, decoded)) in (self.rows.start..).zip(rows) {
            match self.promise.measure(original, decoded) {
                Some(figures) => checked.figures.add(&figures),
                None if first_other_bits(original, decoded).is_none() => {}
                None => bail!("row {row}{}", violation(&self.promise, original, decoded)),
            }
        }
        Ok(Ok(checked))
    }

    /// What is wrong with the bytes of a block, with its rows.
    fn named(&self, error: &Error) -> String {
        format!("rows {}..{}: {error}", self.rows.start, self.rows.end)
    }
}

/// The first class whose bits differ.
fn first_other_bits(original: &[f32], decoded: &[f32]) -> Option<usize> {
    let mut pairs = original.iter().zip(decoded);
    pairs.position(|(a, b)| a.to_bits() != b.to_bits())
}

/// In what way a row breaks a promise.
fn violation(promise: &Promise, original: &[f32], decoded: &[f32]) -> String {
    let at = |class: usize| {
        format!(
            ", class {class}: {} decodes to {}",
            original[class], decoded[class]
        )
    };
    match promise.bound {
        Bound::Exact => {
            let class = first_other_bits(original, decoded).unwrap_or(0);
            return format!("{}; every bit is promised", at(class));
        }
        Bound::MaxError(max_error) => {
            let error =
                |class: usize| (f64::from(original[class]) - f64::from(decoded[class])).abs();
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
    let [before, after] = [original, decoded].map(|row| first_classes(row, promise.keep_top));
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

    /// Some blocks, enough for all threads; none at the end.
    fn next_batch(&mut self) -> Result<Vec<Piece>, Error> {
        let mut pieces = Vec::new();
        while pieces.len() < 2 * rayon::current_num_threads() {
            match self.next()? {
                Some(piece) => pieces.push(piece),
                None => break,
            }
        }
        Ok(pieces)
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
    reader: MatrixReader,
    name: String,
    n_rows: u64,
    pending: PredictionMatrix,
    /// Values of `pending` that have been taken.
    n_taken: usize,
}

impl Originals {
    /// Opens them, and checks that there are as many as in the file.
    fn open(path: &Path, huff: &Path, blocks: &Blocks) -> Result<Self> {
        let name = path.display().to_string();
        let reader = MatrixReader::open(open_input(path)?).with_context(|| name.clone())?;
        let (n_classes, expected) = (reader.n_classes(), blocks.header().classes);
        ensure!(
            n_classes == expected,
            "{name}: {n_classes} classes; {} has {expected}",
            huff.display()
        );
        let n_rows = reader.n_rows_left();
        if let Some(expected) = blocks.n_rows() {
            ensure!(
                n_rows == expected,
                "{name}: {n_rows} rows; {} has {expected}",
                huff.display()
            );
        }
        Ok(Self {
            reader,
            name,
            n_rows,
            pending: PredictionMatrix::new(n_classes, Vec::new()),
            n_taken: 0,
        })
    }

    /// The next rows.
    fn take(&mut self, n_rows: usize) -> Result<PredictionMatrix> {
        let n_classes = self.pending.n_classes();
        let n_values = n_rows * n_classes;
        let mut values = Vec::with_capacity(n_values);
        while values.len() < n_values {
            let rest = &self.pending.values()[self.n_taken..];
            if rest.is_empty() {
                let next = self.reader.next().with_context(|| self.name.clone())?;
                self.pending = next.with_context(|| {
                    format!("{}: {} rows; the file has more", self.name, self.n_rows)
                })?;
                self.n_taken = 0;
                continue;
            }
            let n = rest.len().min(n_values - values.len());
            values.extend_from_slice(&rest[..n]);
            self.n_taken += n;
        }
        Ok(PredictionMatrix::new(n_classes, values))
    }

    /// Checks that all rows have been taken.
    fn check_end(&self, n_rows: u64) -> Result<()> {
        ensure!(
            self.n_rows == n_rows,
            "{}: {} rows; the file has {n_rows}",
            self.name,
            self.n_rows
        );
        Ok(())
    }
}
