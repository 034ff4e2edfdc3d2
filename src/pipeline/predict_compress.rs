//! `pc predict-compress`: the main job. Images are read, the network predicts, the codec quantizes and
//! codes, and the bytes go out, some blocks at a time, while the next images are read.

use anyhow::{Context, Result};

use super::predict::Predictions;
use super::progress::{Progress, thousands};
use super::{check_extension, check_keep_top, input_name, output_name, set_threads};
use crate::cli::PredictCompressArgs;
use crate::huffman::BitCounts;
use crate::huffman::{self, Bound, FrameHeader, FrameWriter, Kind, Promise, Summary};
use crate::io::output;
use crate::model::inference::Output;

/// Runs `pc predict-compress`.
///
/// # Errors
/// A model or images that cannot be used, predictions that are no probabilities, or an output that
/// cannot be written.
pub fn run(args: &PredictCompressArgs, progress: &Progress) -> Result<()> {
    set_threads(args.input.threads)?;
    check_extension(&args.output, "pc predict-compress", ".huff")?;
    let output = output::Output::create(
        &args.output,
        args.force,
        &[&args.input.images, &args.input.model],
        false,
    )?;
    let progress = progress.beside(&output);
    let predictions = Predictions::open(&args.input)?;
    let n_classes = predictions.n_classes();
    check_keep_top(args.promise.keep_top, n_classes)
        .with_context(|| args.input.model.display().to_string())?;

    let promise = args.promise.promise(match args.input.output() {
        Output::Logits => Kind::Logits,
        Output::Probabilities => Kind::Probabilities,
    });
    let mut header = FrameHeader::new(n_classes, promise)?;
    header.model_sha256 = Some(predictions.model_sha256.clone());
    header.class_names = predictions.class_names.clone();

    let failed = |error| match error {
        huffman::Error::Io(_) => {
            anyhow::Error::new(error).context(format!("cannot write {}", output_name(&args.output)))
        }
        // What cannot be compressed is the fault of the model or of its input.
        _ => anyhow::Error::new(error)
            .context(format!("predictions on {}", input_name(&args.input.images))),
    };
    let mut frame = FrameWriter::new(output, header).map_err(failed)?;
    let bar = progress.bar(predictions.n_rows(), "images");
    predictions.for_each(|matrix| {
        frame.write(matrix).map_err(failed)?;
        bar.inc(matrix.n_rows() as u64);
        Ok(())
    })?;
    bar.finish_and_clear();
    let (output, summary, bits) = frame.finish().map_err(failed)?;
    output.finish()?;

    progress.result(format_args!("wrote {}", output_name(&args.output)))?;
    for line in summary_lines(&summary, &bits, n_classes, &promise) {
        progress.result(line)?;
    }
    Ok(())
}

/// What a compressed file holds and what it cost, for a person.
pub(super) fn summary_lines(
    summary: &Summary,
    bits: &BitCounts,
    n_classes: usize,
    promise: &Promise,
) -> Vec<String> {
    let n_raw_bytes = summary.n_rows * n_classes as u64 * 4;
    // Figures by row mean nothing without rows.
    let n_rows = summary.n_rows.max(1) as f64;
    let per_row = |n_bits: f64| n_bits / 8.0 / n_rows;
    let exact = match summary.figures.n_exact_rows {
        0 => String::new(),
        n => format!(" ({} of them stored exactly)", thousands(n)),
    };
    let mut lines = vec![
        format!("  rows           {}{exact}", thousands(summary.n_rows)),
        format!("  classes        {}", thousands(n_classes as u64)),
        format!(
            "  in             {} bytes as float32",
            thousands(n_raw_bytes)
        ),
        format!("  out            {} bytes", thousands(summary.n_bytes)),
        format!(
            "  bytes a row    {:.3}, of {}",
            summary.n_bytes as f64 / n_rows,
            thousands(n_classes as u64 * 4)
        ),
        format!(
            "  ratio          {:.1}",
            n_raw_bytes as f64 / summary.n_bytes as f64
        ),
        format!(
            "  symbols        {:.3} bytes a row, their entropy {:.3}; with {:.3} raw and {:.3} for codebooks",
            per_row(bits.codes as f64),
            per_row(bits.entropy),
            per_row(bits.raw as f64),
            per_row(bits.codebooks as f64),
        ),
    ];
    let figures = &summary.figures;
    match promise.bound {
        Bound::MaxError(max_error) => lines.push(format!(
            "  largest error  {:.4e}, bound {max_error:e}",
            figures.largest_error
        )),
        Bound::MaxKl(max_kl) => lines.push(format!(
            "  divergence     at most {:.4e} bits, mean {:.4e}, bound {max_kl:e}; largest error {:.4e}",
            figures.largest_kl,
            figures.total_kl / n_rows,
            figures.largest_error,
        )),
        Bound::Exact => lines.push("  exact          every bit comes back".to_owned()),
    }
    // The writer has decoded every row and compared; one that differed was stored exactly.
    let kept = match promise.keep_top {
        1 => "argmax kept    in".to_owned(),
        n => format!("{:<14} in", format!("top {n} kept")),
    };
    lines.push(format!("  {kept} all {} rows", thousands(summary.n_rows)));
    lines
}
