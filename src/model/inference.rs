//! Prediction from weights, without burn: packed weights on reused memory, one batch per thread.

use std::ops::Range;

use rayon::prelude::*;

use super::Weights;
use super::dataset::Samples;
use super::packed::{Activation, PackedLayer, TILE_ROWS};
use crate::io::images::{ImageBatch, scale_u8};
use crate::matrix::{PredictionMatrix, argmax};

/// Rows that go through the network together: whole tiles, and few enough that they and their activations
/// stay in the cache.
const BATCH_ROWS: usize = 16 * TILE_ROWS;

/// Rows of numbers that a network takes.
pub trait Inputs: Sync {
    /// Number of rows of `n_inputs` numbers.
    fn n_rows(&self, n_inputs: usize) -> usize;

    /// Some of the rows, one after another; `scratch` is there to hold them.
    fn rows<'a>(
        &'a self,
        rows: Range<usize>,
        n_inputs: usize,
        scratch: &'a mut Vec<f32>,
    ) -> &'a [f32];
}

impl Inputs for [f32] {
    fn n_rows(&self, n_inputs: usize) -> usize {
        self.len() / n_inputs
    }

    fn rows<'a>(&'a self, rows: Range<usize>, n_inputs: usize, _: &'a mut Vec<f32>) -> &'a [f32] {
        &self[rows.start * n_inputs..rows.end * n_inputs]
    }
}

/// Pixels, which the network takes as numbers from 0 to 1.
impl Inputs for [u8] {
    fn n_rows(&self, n_inputs: usize) -> usize {
        self.len() / n_inputs
    }

    fn rows<'a>(
        &'a self,
        rows: Range<usize>,
        n_inputs: usize,
        scratch: &'a mut Vec<f32>,
    ) -> &'a [f32] {
        let pixels = &self[rows.start * n_inputs..rows.end * n_inputs];
        scratch.clear();
        scratch.extend(pixels.iter().map(|&pixel| scale_u8(pixel)));
        scratch
    }
}

impl Inputs for ImageBatch {
    fn n_rows(&self, _: usize) -> usize {
        self.n_images()
    }

    fn rows<'a>(&'a self, rows: Range<usize>, _: usize, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        self.pixels(rows, scratch);
        scratch
    }
}

/// What the rows of a prediction are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// What the last layer gives.
    Logits,
    /// Their softmax, at the predictor's temperature.
    Probabilities,
}

/// How well predictions fit labels.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Evaluation {
    /// Mean cross-entropy in nats.
    pub loss: f64,
    /// Share of samples whose argmax is the label.
    pub accuracy: f64,
}

/// A network ready to predict.
#[derive(Debug, Clone)]
pub struct Predictor {
    weights: Weights,
    layers: Vec<PackedLayer>,
    /// What logits are multiplied with for probabilities.
    factor: f32,
}

impl Predictor {
    /// The predictor for these weights.
    pub fn new(weights: Weights) -> Self {
        Self {
            layers: weights.layers.iter().map(PackedLayer::new).collect(),
            weights,
            factor: 1.0,
        }
    }

    /// The same with calibrated probabilities: those of the logits divided by `temperature`, if there is one.
    /// Logits stay what they are.
    pub fn with_temperature(self, temperature: Option<f64>) -> Self {
        Self {
            factor: temperature.map_or(1.0, |temperature| (1.0 / temperature) as f32),
            ..self
        }
    }

    /// The weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Predicts rows, on all threads of the current rayon pool. The result does not depend on their number.
    ///
    /// # Panics
    /// If `inputs` are no rows of [`Weights::n_inputs`].
    pub fn predict<I: Inputs + ?Sized>(&self, inputs: &I, output: Output) -> PredictionMatrix {
        let mut values = Vec::new();
        self.predict_into(inputs, output, &mut values);
        PredictionMatrix::new(self.weights.n_classes(), values)
    }

    /// As [`Self::predict`], into memory that is there already: `values` are replaced.
    pub fn predict_into<I: Inputs + ?Sized>(
        &self,
        inputs: &I,
        output: Output,
        values: &mut Vec<f32>,
    ) {
        let (n_inputs, n_classes) = (self.weights.n_inputs(), self.weights.n_classes());
        let n_rows = inputs.n_rows(n_inputs);
        values.resize(n_rows * n_classes, 0.0);
        values
            .par_chunks_mut(BATCH_ROWS * n_classes)
            .enumerate()
            .for_each_init(Default::default, |scratch: &mut Scratch, (i, values)| {
                let rows = i * BATCH_ROWS..n_rows.min((i + 1) * BATCH_ROWS);
                let inputs = inputs.rows(rows, n_inputs, &mut scratch.inputs);
                self.forward(inputs, output, &mut scratch.activations, values);
            });
    }

    /// One batch through all layers; `activations` is scratch memory.
    fn forward(
        &self,
        inputs: &[f32],
        output: Output,
        activations: &mut [Vec<f32>; 2],
        values: &mut [f32],
    ) {
        let n_rows = inputs.len() / self.weights.n_inputs();
        let (last, hidden) = self.layers.split_last().expect("at least one layer");
        let [mut now, mut next] = activations.each_mut();
        let mut input = inputs;
        for layer in hidden {
            next.resize(n_rows * layer.n_outputs(), 0.0);
            layer.forward(input, next, Activation::Relu);
            std::mem::swap(&mut now, &mut next);
            input = now;
        }
        let activation = match output {
            Output::Logits => Activation::None,
            Output::Probabilities => Activation::Softmax {
                factor: self.factor,
            },
        };
        last.forward(input, values, activation);
    }

    /// Loss and accuracy on labelled images.
    pub fn evaluate(&self, samples: &Samples) -> Evaluation {
        /// Images whose logits are held at a time.
        const CHUNK: usize = 4096;
        let (mut loss, mut n_right) = (0.0, 0);
        for (pixels, labels) in samples
            .pixels
            .chunks(CHUNK * samples.n_pixels)
            .zip(samples.labels.chunks(CHUNK))
        {
            let logits = self.predict(pixels, Output::Logits);
            for (row, &label) in logits.rows().zip(labels) {
                loss += cross_entropy(row, label as usize);
                n_right += usize::from(argmax(row) == label as usize);
            }
        }
        Evaluation {
            loss: loss / samples.len() as f64,
            accuracy: n_right as f64 / samples.len() as f64,
        }
    }
}

/// Memory of a thread.
#[derive(Default)]
struct Scratch {
    inputs: Vec<f32>,
    activations: [Vec<f32>; 2],
}

/// Cross-entropy of one row of logits, in nats.
pub(super) fn cross_entropy(logits: &[f32], label: usize) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|&logit| f64::from(logit - largest).exp())
        .sum();
    sum.ln() - f64::from(logits[label] - largest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Layer;

    /// A small network worked out by hand: 2 -> 2 -> 2.
    fn predictor() -> Predictor {
        Predictor::new(Weights {
            layers: vec![
                Layer {
                    n_inputs: 2,
                    n_outputs: 2,
                    weight: vec![1.0, 2.0, -1.0, 1.0],
                    bias: vec![0.5, -4.0],
                },
                Layer {
                    n_inputs: 2,
                    n_outputs: 2,
                    weight: vec![1.0, 0.0, 2.0, 3.0],
                    bias: vec![0.0, -1.0],
                },
            ],
        })
    }

    #[test]
    fn logits_are_those_worked_out_by_hand() {
        // First layer: 1 + 4 + 0.5 = 5.5; -1 + 2 - 4 = -3, which ReLU makes 0.
        let logits = predictor().predict(&[1.0, 2.0][..], Output::Logits);
        assert_eq!(logits.values(), [5.5, 10.0]);
    }

    #[test]
    fn a_temperature_changes_probabilities_alone() {
        let inputs = &[1.0, 2.0][..];
        let hot = predictor().with_temperature(Some(3.0));
        let plain = predictor().with_temperature(None);
        assert_eq!(hot.predict(inputs, Output::Logits).values(), [5.5, 10.0]);
        let first = |p: &Predictor| f64::from(p.predict(inputs, Output::Probabilities).values()[0]);
        assert!((first(&hot) - 1.0 / (1.0 + f64::exp(1.5))).abs() < 1e-6);
        assert!((first(&plain) - 1.0 / (1.0 + f64::exp(4.5))).abs() < 1e-6);
    }

    #[test]
    fn evaluation_counts_and_averages() {
        let samples = Samples {
            n_pixels: 2,
            pixels: vec![255, 0, 0, 255],
            labels: vec![1, 0],
        };
        let evaluation = predictor().evaluate(&samples);
        // Logits: (1.5, 2.0) and (2.5, 4.0).
        let expected = ((1.0 + f64::exp(-0.5)).ln() + (1.0 + f64::exp(1.5)).ln()) / 2.0;
        assert!((evaluation.loss - expected).abs() < 1e-6);
        assert_eq!(evaluation.accuracy, 0.5);
    }

    #[test]
    fn a_row_does_not_depend_on_the_batch_it_is_in() {
        let inputs: Vec<f32> = (0..2 * 1000)
            .map(|i| (i * 37 % 101) as f32 / 100.0)
            .collect();
        let all = predictor().predict(&inputs[..], Output::Probabilities);
        for i in [0, 255, 256, 999] {
            let one = predictor().predict(&inputs[2 * i..2 * i + 2], Output::Probabilities);
            assert_eq!(one.values(), all.rows().nth(i).unwrap());
        }
    }
}
