//! Prediction from weights, without burn: matrix products on reused memory, one batch per thread.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};
use rayon::prelude::*;

use super::dataset::Samples;
use super::{Layer, Weights};
use crate::io::images::scale_u8;
use crate::matrix::{PredictionMatrix, argmax};

/// Rows that go through the network together: their activations stay in the cache.
const BATCH_ROWS: usize = 256;

/// What the rows of a prediction are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// What the last layer gives.
    Logits,
    /// Their softmax.
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
}

impl Predictor {
    /// The predictor for these weights.
    pub fn new(weights: Weights) -> Self {
        Self { weights }
    }

    /// The weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Predicts rows of `n_inputs` numbers. The result does not depend on the number of threads.
    ///
    /// # Panics
    /// If `inputs` is not made of whole rows.
    pub fn predict(&self, inputs: &[f32], output: Output) -> PredictionMatrix {
        let (n_inputs, n_classes) = (self.weights.n_inputs(), self.weights.n_classes());
        assert!(inputs.len().is_multiple_of(n_inputs));
        let mut values = vec![0.0; inputs.len() / n_inputs * n_classes];
        inputs
            .par_chunks(BATCH_ROWS * n_inputs)
            .zip(values.par_chunks_mut(BATCH_ROWS * n_classes))
            .for_each_init(Vec::new, |hidden, (inputs, values)| {
                self.forward(inputs, hidden, values);
                if output == Output::Probabilities {
                    values.chunks_exact_mut(n_classes).for_each(softmax);
                }
            });
        PredictionMatrix::new(n_classes, values)
    }

    /// One batch through all layers; `hidden` is scratch memory.
    fn forward(&self, inputs: &[f32], hidden: &mut Vec<Vec<f32>>, logits: &mut [f32]) {
        let n_rows = inputs.len() / self.weights.n_inputs();
        let (last, layers) = self
            .weights
            .layers
            .split_last()
            .expect("at least one layer");
        hidden.resize_with(layers.len(), Vec::new);
        let mut input = inputs;
        for (layer, output) in layers.iter().zip(hidden) {
            output.resize(n_rows * layer.n_outputs, 0.0);
            affine(layer, input, output);
            for value in output.iter_mut() {
                // Not f32::max, which would make a NaN from a bad pixel a plausible 0.
                if *value < 0.0 {
                    *value = 0.0;
                }
            }
            input = output;
        }
        affine(last, input, logits);
    }

    /// Loss and accuracy on labelled images.
    pub fn evaluate(&self, samples: &Samples) -> Evaluation {
        /// Images taken as f32 at a time.
        const CHUNK: usize = 4096;
        let (mut loss, mut n_right) = (0.0, 0);
        for (pixels, labels) in samples
            .pixels
            .chunks(CHUNK * samples.n_pixels)
            .zip(samples.labels.chunks(CHUNK))
        {
            let inputs: Vec<f32> = pixels.iter().map(|&pixel| scale_u8(pixel)).collect();
            let logits = self.predict(&inputs, Output::Logits);
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

/// `output = input * weight^T + bias`, row by row.
fn affine(layer: &Layer, input: &[f32], output: &mut [f32]) {
    let n_rows = input.len() / layer.n_inputs;
    for row in output.chunks_exact_mut(layer.n_outputs) {
        row.copy_from_slice(&layer.bias);
    }
    let shapes = "the batch has the layer's shape";
    let input = ArrayView2::from_shape((n_rows, layer.n_inputs), input).expect(shapes);
    let weight =
        ArrayView2::from_shape((layer.n_outputs, layer.n_inputs), &layer.weight).expect(shapes);
    let mut output = ArrayViewMut2::from_shape((n_rows, layer.n_outputs), output).expect(shapes);
    general_mat_mul(1.0, &input, &weight.t(), 1.0, &mut output);
}

/// Turns logits into probabilities, in place; the largest is subtracted first, so nothing overflows.
fn softmax(row: &mut [f32]) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for value in row.iter_mut() {
        *value = (*value - largest).exp();
        sum += *value;
    }
    for value in row.iter_mut() {
        *value /= sum;
    }
}

/// Cross-entropy of one row of logits, in nats.
fn cross_entropy(logits: &[f32], label: usize) -> f64 {
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
        let logits = predictor().predict(&[1.0, 2.0], Output::Logits);
        assert_eq!(logits.values(), [5.5, 10.0]);
    }

    #[test]
    fn probabilities_sum_to_1_and_survive_huge_logits() {
        let mut row = [1000.0, 999.0, -1000.0];
        softmax(&mut row);
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((row[0] - 0.731_058_6).abs() < 1e-6);
        assert_eq!(row[2], 0.0);
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
        let all = predictor().predict(&inputs, Output::Probabilities);
        for i in [0, 255, 256, 999] {
            let one = predictor().predict(&inputs[2 * i..2 * i + 2], Output::Probabilities);
            assert_eq!(one.values(), all.rows().nth(i).unwrap());
        }
    }
}
