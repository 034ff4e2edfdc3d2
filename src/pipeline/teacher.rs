//! A teacher's labels for `pc train --teacher`: probabilities of the training images, from a `.huff` file, which may
//! hold logits instead, or any format that `pc compress` reads.

use std::io::BufRead;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use rayon::prelude::*;

use super::progress::thousands;
use super::rows::SUMS;
use super::{input_name, open_input};
use crate::huffman::MAGIC;
use crate::huffman::{Error, FrameReader, Kind};
use crate::io;
use crate::io::input::Input;
use crate::io::source::{self, SourceOptions, Values};
use crate::matrix::PredictionMatrix;
use crate::metrics::softmax;

/// Rows read at a time from other files.
const CHUNK_ROWS: usize = 4096;

/// What is read, and what it must fit.
struct Labels {
    name: String,
    n_images: usize,
    n_classes: usize,
    values: Vec<f32>,
}

/// Reads the labels of `n_images` images for a network of `n_classes` outputs; `.huff` files may ask for `memory` bytes
/// at once.
///
/// # Errors
/// A file that cannot be read, or whose rows are something else.
pub(super) fn read(
    path: &Path,
    n_images: usize,
    n_classes: usize,
    memory: u64,
) -> Result<PredictionMatrix> {
    let name = input_name(path);
    let input = Input::new(open_input(path)?).with_context(|| name.clone())?;
    let mut labels = Labels {
        name,
        n_images,
        n_classes,
        values: Vec::new(),
    };
    match input.start().starts_with(&MAGIC) {
        true => labels.add_frames(input.into_reader(), memory)?,
        false => labels.add_rows(input)?,
    }
    labels.check_number(labels.values.len() / n_classes)?;
    Ok(PredictionMatrix::new(n_classes, labels.values))
}

impl Labels {
    /// Takes compressed rows in.
    fn add_frames(&mut self, reader: impl BufRead, memory: u64) -> Result<()> {
        let name = || self.name.clone();
        let mut reader = FrameReader::with_memory_limit(reader, memory).with_context(name)?;
        self.check_classes(reader.header().classes)?;
        let mut blocks = Vec::new();
        let mut n_rows = 0;
        while let Some(block) = reader.next_raw_block().with_context(name)? {
            // Of concatenated frames, each has a header of its own.
            let kind = reader.header().promise.kind;
            ensure!(
                kind != Kind::Values,
                "{}: it holds {kind}; expected probabilities or logits",
                self.name
            );
            n_rows += block.n_rows();
            self.check_not_more(n_rows)?;
            blocks.push((kind, block));
        }
        self.check_number(n_rows)?;
        let decoded: Vec<PredictionMatrix> = blocks
            .par_iter()
            .map(|(kind, block)| match (kind, block.decode()) {
                (Kind::Logits, Ok(rows)) => Ok(probabilities(&rows)),
                (_, Ok(rows)) => Ok(rows),
                (_, Err(Error::ReferenceMissing { sha256 })) => Err(anyhow!(
                    "its rows are compressed against a reference (SHA-256 {sha256}); write them into a file of their own: pc decode FILE --reference REF -o x.npy, then pc compress x.npy --exact --kind {kind} -o x.huff"
                )),
                (_, Err(error)) => Err(error.into()),
            })
            .collect::<Result<_>>()
            .with_context(name)?;
        // Within a bound of 0.5, rows sum to anything.
        let sums = 0.0..f32::INFINITY;
        for block in &decoded {
            self.add(block.values(), &sums)?;
        }
        Ok(())
    }

    /// Takes rows of another format in.
    fn add_rows(&mut self, input: Input) -> Result<()> {
        let name = || self.name.clone();
        let source = source::open(input, &SourceOptions::default());
        let mut source = source.map_err(|error| match error {
            io::Error::Columns(_) | io::Error::NpzAmbiguous { .. } => anyhow!(
                "{}: more than a matrix of labels; pc compress has --array and --columns to choose it with, and writes a .huff file that will do",
                self.name
            ),
            error => anyhow::Error::new(error).context(name()),
        })?;
        self.check_classes(source.n_classes())?;
        let sums = *SUMS.start() as f32..*SUMS.end() as f32;
        while let Some(values) = source
            .next_rows(CHUNK_ROWS)
            .with_context(|| self.name.clone())?
        {
            self.check_not_more((self.values.len() + values.len()) / self.n_classes)?;
            match values {
                Values::F32(values) => self.add(&values, &sums)?,
                Values::F64(values) => {
                    let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
                    self.add(&values, &sums)?;
                }
            }
        }
        Ok(())
    }

    /// Takes rows in that are probabilities and sum to what is expected.
    fn add(&mut self, values: &[f32], sums: &std::ops::Range<f32>) -> Result<()> {
        let n_before = self.values.len() / self.n_classes;
        for (row, values) in (n_before..).zip(values.chunks_exact(self.n_classes)) {
            let is_usable = |value: &f32| (0.0..=1.01).contains(value);
            if let Some(column) = values.iter().position(|value| !is_usable(value)) {
                anyhow::bail!(
                    "{}: {} in row {row}, column {column}; expected probabilities, or a .huff file of logits, which pc compress --kind logits writes",
                    self.name,
                    values[column]
                );
            }
            let sum: f32 = values.iter().sum();
            ensure!(
                sums.contains(&sum),
                "{}: row {row} sums to {sum}; expected probabilities",
                self.name
            );
        }
        self.values.extend_from_slice(values);
        Ok(())
    }

    fn check_classes(&self, n_classes: usize) -> Result<()> {
        ensure!(
            n_classes == self.n_classes,
            "{}: {n_classes} classes, the network has {}; give --classes {n_classes}",
            self.name,
            self.n_classes
        );
        Ok(())
    }

    /// Before it costs memory to go on.
    fn check_not_more(&self, n_rows: usize) -> Result<()> {
        self.ensure_rows(n_rows <= self.n_images, "at least", n_rows)
    }

    fn check_number(&self, n_rows: usize) -> Result<()> {
        self.ensure_rows(n_rows == self.n_images, "only", n_rows)
    }

    fn ensure_rows(&self, is_right: bool, how: &str, n_rows: usize) -> Result<()> {
        ensure!(
            is_right,
            "{}: {how} {} rows, but there are {} training images; expected one row an image",
            self.name,
            thousands(n_rows as u64),
            thousands(self.n_images as u64)
        );
        Ok(())
    }
}

/// What logits stand for.
fn probabilities(logits: &PredictionMatrix) -> PredictionMatrix {
    let (mut row_of_probabilities, mut values) = (Vec::new(), Vec::new());
    for row in logits.rows() {
        softmax(row, &mut row_of_probabilities);
        values.extend(row_of_probabilities.iter().map(|&value| value as f32));
    }
    PredictionMatrix::new(logits.n_classes(), values)
}
