//! A teacher's labels for `pc train --teacher`: probabilities of the training images, read from a `.huff` file.

use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;

use super::open_input;
use super::progress::thousands;
use crate::huffman::{FrameReader, Kind};
use crate::matrix::PredictionMatrix;

/// Reads the labels of `n_images` images for a network of `n_classes` outputs.
///
/// # Errors
/// A file that cannot be read, or whose rows are something else.
pub(super) fn read(path: &Path, n_images: usize, n_classes: usize) -> Result<PredictionMatrix> {
    let name = || path.display().to_string();
    let mut reader = FrameReader::new(BufReader::new(open_input(path)?)).with_context(name)?;
    let classes = reader.header().classes;
    ensure!(
        classes == n_classes,
        "{}: {classes} classes, the network has {n_classes}; give --classes {classes}",
        path.display()
    );
    let mut blocks = Vec::new();
    let mut n_rows = 0;
    while let Some(block) = reader.next_raw_block().with_context(name)? {
        // Of concatenated frames, each has a header of its own.
        let kind = reader.header().promise.kind;
        ensure!(
            kind == Kind::Probabilities,
            "{}: it holds {kind}; expected probabilities",
            path.display()
        );
        n_rows += block.n_rows();
        // Before it costs memory to go on.
        if n_rows > n_images {
            break;
        }
        blocks.push(block);
    }
    ensure!(
        n_rows == n_images,
        "{}: {} {} rows, but there are {} training images; expected one row an image",
        path.display(),
        if n_rows > n_images {
            "at least"
        } else {
            "only"
        },
        thousands(n_rows as u64),
        thousands(n_images as u64)
    );
    let decoded: Vec<PredictionMatrix> = blocks
        .par_iter()
        .map(|block| block.decode())
        .collect::<Result<_, _>>()
        .with_context(name)?;
    let mut values = Vec::with_capacity(n_rows * classes);
    for block in &decoded {
        values.extend_from_slice(block.values());
    }
    let is_usable = |value: &f32| (0.0..=2.0).contains(value);
    if let Some(at) = values.iter().position(|value| !is_usable(value)) {
        let (row, column) = (at / classes, at % classes);
        anyhow::bail!(
            "{}: {} in row {row}, column {column}; expected probabilities",
            path.display(),
            values[at]
        );
    }
    Ok(PredictionMatrix::new(classes, values))
}
