//! `pc predict-compress`: the main job. Images are read, the network predicts, the codec quantizes and
//! codes, and the bytes go out, some blocks at a time, while the next images are read.

use anyhow::{Context, Result};

use super::predict::Predictions;
use super::progress::Progress;
use super::summary::summary_lines;
use super::{check_extension, check_keep_top, input_name, output_name, set_threads};
use crate::cli::PredictCompressArgs;
use crate::huffman::{self, FrameHeader, FrameWriter, Kind};
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
