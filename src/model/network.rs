//! The network as a burn module, on the backend chosen at run time.

use std::str::FromStr;

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData, activation};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::{Layer, Weights};

/// The backend that burn trains on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// burn-ndarray: the default; deprecated upstream since burn 0.22.
    Ndarray,
    /// burn-flex: its successor.
    Flex,
}

impl Backend {
    /// The names of all backends.
    pub const NAMES: [&'static str; 2] = ["ndarray", "flex"];

    /// The package that the backend is.
    pub fn package(self) -> &'static str {
        match self {
            Self::Ndarray => "burn-ndarray",
            Self::Flex => "burn-flex",
        }
    }

    /// The backend's device, with gradients.
    pub fn device(self) -> Device {
        match self {
            // Asked for by the project's owner; see "Backends" in the README.
            #[expect(deprecated)]
            Self::Ndarray => Device::ndarray(),
            Self::Flex => Device::flex(),
        }
        .autodiff()
    }
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "ndarray" => Ok(Self::Ndarray),
            "flex" => Ok(Self::Flex),
            _ => Err(format!("expected one of {}", Self::NAMES.join(", "))),
        }
    }
}

/// What is learned: for each layer its weights, as burn keeps them (`n_inputs` rows of `n_outputs`), and its
/// biases.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    /// Units from input to output.
    pub(super) sizes: Vec<usize>,
    /// Two a layer.
    pub tensors: Vec<Vec<f32>>,
}

impl Parameters {
    /// Draws the initial weights as Keras' `Dense` does: uniform within `sqrt(6 / (n_inputs + n_outputs))`
    /// of 0 (Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    /// networks", 2010), biases 0. `sizes` are the numbers of units from input to output.
    pub fn init(sizes: &[usize], rng: &mut impl Rng) -> Self {
        let layers = sizes
            .windows(2)
            .map(|pair| {
                let (n_inputs, n_outputs) = (pair[0], pair[1]);
                let bound = (6.0 / (n_inputs + n_outputs) as f32).sqrt();
                Layer {
                    n_inputs,
                    n_outputs,
                    weight: (0..n_inputs * n_outputs)
                        .map(|_| rng.random_range(-bound..bound))
                        .collect(),
                    bias: vec![0.0; n_outputs],
                }
            })
            .collect();
        Self::from_weights(&Weights { layers })
    }

    /// Given weights.
    pub fn from_weights(weights: &Weights) -> Self {
        let tensors = weights
            .layers
            .iter()
            .flat_map(|layer| {
                let weight = transposed(&layer.weight, layer.n_inputs);
                [weight, layer.bias.clone()]
            })
            .collect();
        Self {
            sizes: weights.sizes(),
            tensors,
        }
    }

    /// Other numbers for the same network.
    ///
    /// # Panics
    /// If they are not as many.
    pub(super) fn with_tensors(&self, tensors: Vec<Vec<f32>>) -> Self {
        let lengths = |tensors: &[Vec<f32>]| tensors.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(&tensors), lengths(&self.tensors));
        Self {
            sizes: self.sizes.clone(),
            tensors,
        }
    }

    /// A copy in PyTorch's layout.
    pub fn weights(&self) -> Weights {
        let layers = self
            .sizes
            .windows(2)
            .zip(self.tensors.chunks_exact(2))
            .map(|(sizes, tensors)| Layer {
                n_inputs: sizes[0],
                n_outputs: sizes[1],
                weight: transposed(&tensors[0], sizes[1]),
                bias: tensors[1].clone(),
            })
            .collect();
        Weights { layers }
    }
}

/// What is done to pixels of 0 to 1 before they go into training: they become `(pixel - mean) / deviation`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaling {
    mean: f32,
    deviation: f32,
}

/// Pixels stay what they are.
impl Default for Scaling {
    fn default() -> Self {
        Self {
            mean: 0.0,
            deviation: 1.0,
        }
    }
}

impl Scaling {
    /// The scaling that gives these pixels a mean of 0 and a variance of 1; black images stay as they are.
    pub fn standardizing<'a>(pixels: impl Iterator<Item = &'a u8>) -> Self {
        let mut counts = [0u64; 256];
        for &pixel in pixels {
            counts[usize::from(pixel)] += 1;
        }
        let n = counts.iter().sum::<u64>() as f64;
        let mean_of = |f: &dyn Fn(f64) -> f64| {
            let values = (0u8..=255).map(|pixel| f(f64::from(pixel) / 255.0));
            values.zip(counts).map(|(x, n)| x * n as f64).sum::<f64>() / n
        };
        let mean = mean_of(&|x| x);
        let variance = mean_of(&|x| (x - mean) * (x - mean));
        // Of a single grey, rounding leaves a little.
        match variance > 1e-9 {
            true => Self {
                mean: mean as f32,
                deviation: variance.sqrt() as f32,
            },
            false => Self::default(),
        }
    }

    /// Scales pixels in place.
    pub fn apply(self, pixels: &mut [f32]) {
        if self != Self::default() {
            let factor = 1.0 / self.deviation;
            for pixel in pixels {
                *pixel = (*pixel - self.mean) * factor;
            }
        }
    }

    /// The weights that do to unscaled pixels what `weights` do to scaled ones, so that whoever predicts
    /// need not know of the scaling.
    pub fn fold_into(self, mut weights: Weights) -> Weights {
        if self != Self::default()
            && let Some(layer) = weights.layers.first_mut()
        {
            let (mean, deviation) = (f64::from(self.mean), f64::from(self.deviation));
            let rows = layer.weight.chunks_exact_mut(layer.n_inputs);
            for (row, bias) in rows.zip(&mut layer.bias) {
                let sum: f64 = row.iter().map(|&weight| f64::from(weight)).sum();
                *bias = (f64::from(*bias) - sum * mean / deviation) as f32;
                for weight in row {
                    *weight = (f64::from(*weight) / deviation) as f32;
                }
            }
        }
        weights
    }
}

/// A matrix with rows and columns exchanged.
fn transposed(matrix: &[f32], n_columns: usize) -> Vec<f32> {
    (0..n_columns)
        .flat_map(|column| matrix[column..].iter().step_by(n_columns).copied())
        .collect()
}

/// A multi-layer perceptron: fully connected layers with a ReLU between any two.
#[derive(Module, Debug)]
pub struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    /// The network with a copy of these parameters.
    pub fn new(parameters: &Parameters, device: &Device) -> Self {
        let layers = parameters
            .sizes
            .windows(2)
            .zip(parameters.tensors.chunks_exact(2))
            .map(|(sizes, tensors)| {
                let weight = TensorData::new(tensors[0].clone(), [sizes[0], sizes[1]]);
                let bias = TensorData::new(tensors[1].clone(), [sizes[1]]);
                Linear {
                    weight: Param::from_tensor(Tensor::from_data(weight, device)),
                    bias: Some(Param::from_tensor(Tensor::from_data(bias, device))),
                }
            })
            .collect();
        Self { layers }
    }

    /// The gradients of a loss by the parameters, laid out as in [`Parameters`].
    pub fn gradients(&self, loss: &Tensor<1>) -> Vec<Vec<f32>> {
        let mut gradients = GradientsParams::from_grads(loss.backward(), self);
        let mut tensors = Vec::with_capacity(2 * self.layers.len());
        for layer in &self.layers {
            let weight = gradients.remove::<2>(layer.weight.id);
            tensors.push(to_vec(weight.expect("all parameters have a gradient")));
            let bias = layer.bias.as_ref().expect("layers are made with a bias");
            let bias = gradients.remove::<1>(bias.id);
            tensors.push(to_vec(bias.expect("all parameters have a gradient")));
        }
        tensors
    }

    /// Logits of a batch.
    ///
    /// # Shapes
    /// - `images`: `[n, n_inputs]`
    /// - result: `[n, n_classes]`
    pub fn forward(&self, images: Tensor<2>) -> Tensor<2> {
        self.forward_with(images, &[])
    }

    /// As [`Self::forward`], the hidden layers' units multiplied with `masks`, one a layer, or none at all.
    pub fn forward_with(&self, images: Tensor<2>, masks: &[Tensor<2>]) -> Tensor<2> {
        let (last, hidden) = self.layers.split_last().expect("at least one layer");
        let mut activations = images;
        for (i, layer) in hidden.iter().enumerate() {
            activations = activation::relu(layer.forward(activations));
            if let Some(mask) = masks.get(i) {
                activations = activations * mask.clone();
            }
        }
        last.forward(activations)
    }
}

fn to_vec<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .into_data()
        .try_into_vec()
        .expect("parameters are f32")
}

#[cfg(test)]
mod tests {
    use burn::nn::loss::CrossEntropyLossConfig;
    use burn::tensor::Int;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::model::adam::{Adam, Gradients, StepSize};
    use crate::model::inference::{Output, Predictor};

    const BACKENDS: [Backend; 2] = [Backend::Ndarray, Backend::Flex];

    fn tensor(values: &[f32], shape: [usize; 2], device: &Device) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
    }

    #[test]
    fn names_of_backends_are_read_back() {
        for (backend, name) in BACKENDS.into_iter().zip(Backend::NAMES) {
            assert_eq!(name.parse(), Ok(backend));
        }
        assert!("cuda".parse::<Backend>().is_err());
    }

    #[test]
    fn initial_weights_have_glorot_variance_and_no_bias() {
        let parameters = Parameters::init(&[784, 128, 100], &mut StdRng::seed_from_u64(1));
        for layer in parameters.weights().layers {
            let n = layer.weight.len() as f32;
            let variance = layer.weight.iter().map(|w| w * w).sum::<f32>() / n;
            let expected = 2.0 / (layer.n_inputs + layer.n_outputs) as f32;
            assert!((variance / expected - 1.0).abs() < 0.03);
            assert!(layer.bias.iter().all(|&bias| bias == 0.0));
        }
    }

    #[test]
    fn standardized_pixels_have_mean_0_and_variance_1_and_fold_into_the_weights() {
        let pixels: Vec<u8> = (0..4 * 9).map(|i| (i * 71 % 256) as u8).collect();
        let scaling = Scaling::standardizing(pixels.iter());
        let plain: Vec<f32> = pixels.iter().map(|&p| f32::from(p) / 255.0).collect();
        let mut scaled = plain.clone();
        scaling.apply(&mut scaled);
        let n = scaled.len() as f32;
        assert!((scaled.iter().sum::<f32>() / n).abs() < 1e-5);
        assert!((scaled.iter().map(|x| x * x).sum::<f32>() / n - 1.0).abs() < 1e-5);

        let weights = Parameters::init(&[9, 5, 3], &mut StdRng::seed_from_u64(6)).weights();
        let folded = Predictor::new(scaling.fold_into(weights.clone()));
        let expected = Predictor::new(weights).predict(&scaled[..], Output::Logits);
        let found = folded.predict(&plain[..], Output::Logits);
        for (a, b) in found.values().iter().zip(expected.values()) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
        assert_eq!(Scaling::standardizing([7; 5].iter()), Scaling::default());
    }

    #[test]
    fn burn_and_our_own_forward_agree() {
        let inputs: Vec<f32> = (0..300 * 784)
            .map(|i| (i * 31 % 256) as f32 / 255.0)
            .collect();
        let parameters = Parameters::init(&[784, 64, 32, 10], &mut StdRng::seed_from_u64(2));
        let logits = Predictor::new(parameters.weights()).predict(&inputs[..], Output::Logits);
        for backend in BACKENDS {
            let device = backend.device();
            let images = tensor(&inputs, [300, 784], &device);
            let expected = to_vec(Mlp::new(&parameters, &device).forward(images));
            for (a, b) in logits.values().iter().zip(&expected) {
                assert!((a - b).abs() < 1e-5, "{a} {b}");
            }
        }
    }

    /// Mean cross-entropy in f64, straight from the definition.
    fn loss(weights: &Weights, inputs: &[f32], labels: &[usize]) -> f64 {
        let n_inputs = weights.n_inputs();
        let mut total = 0.0;
        for (input, &label) in inputs.chunks(n_inputs).zip(labels) {
            let mut values: Vec<f64> = input.iter().map(|&x| f64::from(x)).collect();
            for (i, layer) in weights.layers.iter().enumerate() {
                values = (0..layer.n_outputs)
                    .map(|o| {
                        let row = &layer.weight[o * layer.n_inputs..(o + 1) * layer.n_inputs];
                        let product: f64 = row
                            .iter()
                            .zip(&values)
                            .map(|(&w, x)| f64::from(w) * x)
                            .sum();
                        product + f64::from(layer.bias[o])
                    })
                    .collect();
                if i + 1 < weights.layers.len() {
                    values.iter_mut().for_each(|x| *x = x.max(0.0));
                }
            }
            let sum: f64 = values.iter().map(|x| x.exp()).sum();
            total += sum.ln() - values[label];
        }
        total / labels.len() as f64
    }

    const INPUTS: [f32; 12] = [0.1, 0.9, 0.3, 0.5, 0.7, 0.2, 0.8, 0.4, 0.6, 0.3, 0.2, 0.9];
    const LABELS: [usize; 3] = [0, 1, 1];

    fn small_network() -> Parameters {
        Parameters::init(&[4, 3, 2], &mut StdRng::seed_from_u64(5))
    }

    fn gradients(parameters: &Parameters, device: &Device) -> Vec<Vec<f32>> {
        let mlp = Mlp::new(parameters, device);
        let labels = Tensor::<1, Int>::from_data(TensorData::from([0, 1, 1]), device);
        let logits = mlp.forward(tensor(&INPUTS, [3, 4], device));
        let loss = CrossEntropyLossConfig::new()
            .init(device)
            .forward(logits, labels);
        mlp.gradients(&loss)
    }

    /// Central differences of the loss by every parameter.
    fn numeric_gradient(parameters: &Parameters) -> Vec<f64> {
        const STEP: f32 = 1e-3;
        let mut gradient = Vec::new();
        for (t, tensor) in parameters.tensors.iter().enumerate() {
            for i in 0..tensor.len() {
                let at = |step: f32| {
                    let mut parameters = parameters.clone();
                    parameters.tensors[t][i] += step;
                    loss(&parameters.weights(), &INPUTS, &LABELS)
                };
                gradient.push((at(STEP) - at(-STEP)) / (2.0 * f64::from(STEP)));
            }
        }
        gradient
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let parameters = small_network();
        let expected = numeric_gradient(&parameters);
        for backend in BACKENDS {
            let found = gradients(&parameters, &backend.device()).concat();
            assert_eq!(found.len(), expected.len());
            for (a, b) in found.iter().zip(&expected) {
                // The differences are exact to about the square of the step.
                assert!((f64::from(*a) - b).abs() < 1e-5, "{a} {b}");
            }
        }
    }

    #[test]
    fn a_step_of_adam_is_that_of_kingma_and_ba() {
        // First step, so the bias-corrected moments are the gradient and its square (Algorithm 1).
        let before = small_network();
        let gradient = numeric_gradient(&before);
        let mut after = before.clone();
        let part = Gradients {
            share: 1.0,
            tensors: gradients(&before, &Backend::Ndarray.device()),
        };
        let size = StepSize {
            learning_rate: 1e-3,
            weight_decay: 0.0,
        };
        Adam::new(before.tensors.iter().map(Vec::len)).step(size, &mut after.tensors, &[part]);
        let (before, after) = (before.tensors.concat(), after.tensors.concat());
        for ((before, after), g) in before.into_iter().zip(after).zip(gradient) {
            let expected = f64::from(before) - 1e-3 * g / (g.abs() + 1e-7);
            assert!(
                (f64::from(after) - expected).abs() < 2e-6,
                "{after} {expected}"
            );
        }
    }
}
