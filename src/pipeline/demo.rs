//! `pc demo`: the whole road on the bundled digit pairs, in memory, with a table at the end.

use std::io::Write;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::progress::{Progress, thousands};
use super::summary::summary_lines;
use super::{set_threads, train};
use crate::cli::DemoArgs;
use crate::huffman::{Bound, FrameHeader, FrameReader, FrameWriter, Kind, Promise};
use crate::io::npy;
use crate::matrix::{PredictionMatrix, argmax};
use crate::model::dataset::Dataset;
use crate::model::inference::{Output, Predictor};

/// Runs `pc demo`.
///
/// # Errors
/// If a promise of the codec is broken, which would be a bug.
pub fn run(args: &DemoArgs, progress: &Progress) -> Result<()> {
    set_threads(args.options.threads)?;
    let dataset = Dataset::bundled();
    let test = dataset
        .test
        .as_ref()
        .expect("the bundled set has a test part");

    progress.result("Training on the bundled digit pairs:")?;
    let (trained, printed) =
        train::train_plainly(&args.options, &dataset, &AtomicBool::new(false), progress)?;
    printed?;

    progress.result("\nPredicting the test images and compressing the probabilities:")?;
    let predictor = Predictor::new(trained.weights).with_temperature(trained.temperature);
    let original = predictor.predict(&test.pixels[..], Output::Probabilities);
    let n_classes = original.n_classes();
    let promise = Promise::new(Kind::Probabilities, Bound::MaxError(args.max_error));
    let mut frame = FrameWriter::new(Vec::new(), FrameHeader::new(n_classes, promise)?)?;
    frame.write(&original)?;
    let (huff, summary, bits) = frame.finish()?;
    for line in summary_lines(&summary, &bits, n_classes, &promise) {
        progress.result(line)?;
    }

    let mut reader = FrameReader::new(&huff[..])?;
    let mut values = Vec::new();
    while let Some(block) = reader.next_block()? {
        values.extend_from_slice(block.values());
    }
    let decoded = PredictionMatrix::new(n_classes, values);
    ensure!(decoded.n_rows() == original.n_rows(), "rows were lost");
    for (row, (original, decoded)) in original.rows().zip(decoded.rows()).enumerate() {
        ensure!(
            promise.measure(original, decoded).is_some(),
            "row {row} is not what was promised"
        );
    }

    let accuracy = |matrix: &PredictionMatrix| {
        let n_right = matrix
            .rows()
            .zip(&test.labels)
            .filter(|(row, label)| argmax(row) == **label as usize)
            .count();
        n_right as f64 / test.len() as f64
    };
    let halves: Vec<half::f16> = original
        .values()
        .iter()
        .map(|&v| half::f16::from_f32(v))
        .collect();
    let from_halves = halves.iter().map(|v| v.to_f32()).collect();
    let float16: Vec<u8> = halves.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut float32 = Vec::new();
    npy::write_matrix_header(&mut float32, original.n_rows() as u64, n_classes)?;
    npy::write_f32(&mut float32, original.values())?;

    progress.result("\nThe same predictions, stored in other ways:")?;
    progress.result("                       bytes   bytes a row   largest error   accuracy")?;
    let line = |name: &str, n_bytes: usize, matrix: &PredictionMatrix| {
        let largest_error = original
            .values()
            .iter()
            .zip(matrix.values())
            .map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs())
            .fold(0.0, f64::max);
        progress.result(format_args!(
            "{name:<18} {:>9}   {:>11.2}   {largest_error:>13.6}   {:>7.2}%",
            thousands(n_bytes as u64),
            n_bytes as f64 / original.n_rows() as f64,
            100.0 * accuracy(matrix),
        ))
    };
    line("float32 .npy", float32.len(), &original)?;
    line("float32 .npy.gz", gzip(&float32)?.len(), &original)?;
    let from_halves = PredictionMatrix::new(n_classes, from_halves);
    line("float16", float16.len(), &from_halves)?;
    line("float16, gzip", gzip(&float16)?.len(), &from_halves)?;
    line(".huff", huff.len(), &decoded)?;
    Ok(())
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder
        .write_all(bytes)
        .and_then(|()| encoder.finish())
        .context("cannot gzip")
}
