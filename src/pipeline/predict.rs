//! `pc predict`: images in, probabilities or logits out.

use std::path::Path;

use anyhow::{Context, Result};

use super::progress::{Progress, thousands};
use super::{open_input, read_checkpoint, set_threads};
use crate::cli::{PredictArgs, PredictInput};
use crate::huffman::frame::rows_per_block;
use crate::io::images::ImageReader;
use crate::io::npy;
use crate::io::output::OutputFile;
use crate::matrix::PredictionMatrix;
use crate::model::inference::{Output, Predictor};

/// Images read before they are predicted: bounds the memory for pixels.
const IMAGES_PER_READ: usize = 2048;

/// Runs `pc predict`.
///
/// # Errors
/// A model or images that cannot be used, or an output that cannot be written.
pub fn run(args: &PredictArgs, progress: &Progress) -> Result<()> {
    set_threads(args.input.threads)?;
    let mut output = OutputFile::create(
        &args.output,
        args.force,
        &[&args.input.images, &args.input.model],
    )?;
    let predictions = match args.logits {
        true => Output::Logits,
        false => Output::Probabilities,
    };
    let mut source = Predictions::open(&args.input, predictions)?;
    let n_classes = source.n_classes();
    let failed = || format!("cannot write {}", args.output.display());
    npy::write_matrix_header(&mut output, source.n_rows(), n_classes).with_context(failed)?;
    let bar = progress.bar(source.n_rows(), "images");
    while let Some(matrix) = source.next_block()? {
        npy::write_f32(&mut output, matrix.values()).with_context(failed)?;
        bar.inc(matrix.n_rows() as u64);
    }
    bar.finish_and_clear();
    output.finish()?;
    progress.result(format_args!(
        "wrote {}: {} rows of {n_classes} {}",
        args.output.display(),
        thousands(source.n_rows()),
        match predictions {
            Output::Logits => "logits",
            Output::Probabilities => "probabilities",
        },
    ))?;
    Ok(())
}

/// The predictions of a model on a file of images, block by block.
pub(super) struct Predictions {
    images: ImageReader,
    predictor: Predictor,
    output: Output,
    name: String,
    /// A name for each class, if the model has them.
    pub class_names: Option<Vec<String>>,
    /// The checkpoint's identity.
    pub model_sha256: String,
    pixels: Vec<f32>,
}

impl Predictions {
    /// Reads the model and opens the images.
    pub fn open(input: &PredictInput, output: Output) -> Result<Self> {
        let (checkpoint, model_sha256) = read_checkpoint(&input.model)?;
        let images = open_images(&input.images, checkpoint.weights.n_inputs())?;
        Ok(Self {
            images,
            predictor: Predictor::new(checkpoint.weights),
            output,
            name: input.images.display().to_string(),
            class_names: checkpoint.info.and_then(|info| info.class_names),
            model_sha256,
            pixels: Vec::new(),
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

    /// The next rows, as many as a block of a frame takes; `None` at the end.
    pub fn next_block(&mut self) -> Result<Option<PredictionMatrix>> {
        let n_rows = rows_per_block(self.n_classes());
        let mut values = Vec::with_capacity(n_rows * self.n_classes());
        let mut n_left = n_rows;
        while n_left > 0 {
            let n_read = self
                .images
                .read_batch(n_left.min(IMAGES_PER_READ), &mut self.pixels)
                .with_context(|| self.name.clone())?;
            if n_read == 0 {
                break;
            }
            let rows = self.predictor.predict(&self.pixels, self.output);
            values.extend_from_slice(rows.values());
            n_left -= n_read;
        }
        Ok((!values.is_empty()).then(|| PredictionMatrix::new(self.n_classes(), values)))
    }
}

fn open_images(path: &Path, n_pixels: usize) -> Result<ImageReader> {
    ImageReader::open(open_input(path)?, n_pixels).with_context(|| path.display().to_string())
}
