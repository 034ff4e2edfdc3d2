//! `pc predict`: images in, probabilities or logits out.

use std::path::Path;

use anyhow::{Context, Result};

use super::progress::{Progress, thousands};
use super::{check_extension, input_name, open_input, output_name, read_checkpoint, set_threads};
use crate::cli::{PredictArgs, PredictInput};
use crate::huffman::frame::rows_per_block;
use crate::io::images::{ImageBatch, ImageReader};
use crate::io::npy;
use crate::io::output;
use crate::matrix::PredictionMatrix;
use crate::model::inference::{Output, Predictor};

/// Bytes of images read at a time for each thread, at most. Twice this is held.
const BYTES_PER_READ: usize = 1 << 24;

/// Runs `pc predict`.
///
/// # Errors
/// A model or images that cannot be used, or an output that cannot be written.
pub fn run(args: &PredictArgs, progress: &Progress) -> Result<()> {
    set_threads(args.input.threads)?;
    check_extension(&args.output, "pc predict", ".npy")?;
    let mut output = output::Output::create(
        &args.output,
        args.force,
        &[&args.input.images, &args.input.model],
        false,
    )?;
    let progress = progress.beside(&output);
    let source = Predictions::open(&args.input)?;
    let (n_rows, n_classes) = (source.n_rows(), source.n_classes());
    let failed = || format!("cannot write {}", output_name(&args.output));
    npy::write_matrix_header(&mut output, n_rows, n_classes).with_context(failed)?;
    let bar = progress.bar(n_rows, "images");
    source.for_each(|matrix| {
        npy::write_f32(&mut output, matrix.values()).with_context(failed)?;
        bar.inc(matrix.n_rows() as u64);
        Ok(())
    })?;
    bar.finish_and_clear();
    output.finish()?;
    progress.result(format_args!(
        "wrote {}: {} rows of {n_classes} {}",
        output_name(&args.output),
        thousands(n_rows),
        match args.input.output() {
            Output::Logits => "logits",
            Output::Probabilities => "probabilities",
        },
    ))?;
    Ok(())
}

/// The predictions of a model on a file of images.
pub(super) struct Predictions {
    images: ImageReader,
    predictor: Predictor,
    output: Output,
    name: String,
    /// A name for each class, if the model has them.
    pub class_names: Option<Vec<String>>,
    /// The checkpoint's identity.
    pub model_sha256: String,
}

impl Predictions {
    /// Reads the model and opens the images.
    pub fn open(input: &PredictInput) -> Result<Self> {
        let (checkpoint, model_sha256) = read_checkpoint(&input.model)?;
        let images = open_images(&input.images, checkpoint.weights.n_inputs())?;
        let temperature = checkpoint.temperature();
        Ok(Self {
            images,
            predictor: Predictor::new(checkpoint.weights).with_temperature(temperature),
            output: input.output(),
            name: input_name(&input.images),
            class_names: checkpoint.info.and_then(|info| info.class_names),
            model_sha256,
        })
    }

    /// Number of rows of all blocks together.
    pub fn n_rows(&self) -> u64 {
        self.images.n_images()
    }

    /// Number of columns.
    pub fn n_classes(&self) -> usize {
        self.predictor.weights().n_classes()
    }

    /// Hands over all rows in order, some blocks at a time. While these are predicted and taken, the images
    /// of the next ones are read.
    pub fn for_each(
        mut self,
        mut take: impl FnMut(&PredictionMatrix) -> Result<()> + Send,
    ) -> Result<()> {
        let n_threads = rayon::current_num_threads();
        let max_images = (n_threads * rows_per_block(self.n_classes()))
            .min(n_threads * BYTES_PER_READ / self.images.n_image_bytes())
            .max(1);
        let (mut batch, mut next) = (ImageBatch::default(), ImageBatch::default());
        let mut values = Vec::new();
        self.images
            .read_batch(max_images, &mut batch)
            .with_context(|| self.name.clone())?;
        while batch.n_images() > 0 {
            let (read, taken) = rayon::join(
                || self.images.read_batch(max_images, &mut next),
                || {
                    let mut values = std::mem::take(&mut values);
                    self.predictor
                        .predict_into(&batch, self.output, &mut values);
                    let matrix =
                        PredictionMatrix::new(self.predictor.weights().n_classes(), values);
                    take(&matrix).map(|()| matrix)
                },
            );
            values = taken?.into_values();
            read.with_context(|| self.name.clone())?;
            std::mem::swap(&mut batch, &mut next);
        }
        Ok(())
    }
}

fn open_images(path: &Path, n_pixels: usize) -> Result<ImageReader> {
    ImageReader::open(open_input(path)?, n_pixels).with_context(|| input_name(path))
}
