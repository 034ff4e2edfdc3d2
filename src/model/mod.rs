//! The classifier: a multi-layer perceptron, 784 -> 128 -> 100 by default.
//!
//! [`dataset`] reads images and labels, [`network`] and [`training`] train on burn ([`parts`] makes what goes in,
//! [`augment`] distorts it), [`checkpoint`] keeps the weights in PyTorch's layout, [`state`] what a run needs to go
//! on, and [`inference`] predicts without burn.

pub mod adam;
pub mod augment;
pub mod calibration;
pub mod checkpoint;
pub mod dataset;
pub mod inference;
pub mod network;
pub mod packed;
pub mod parts;
pub mod schedule;
pub mod state;
pub mod training;

/// One fully connected layer, `output = weight * input + bias`, in PyTorch's layout.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Number of inputs.
    pub n_inputs: usize,
    /// Number of outputs.
    pub n_outputs: usize,
    /// `n_outputs` rows of `n_inputs` weights.
    pub weight: Vec<f32>,
    /// `n_outputs` biases.
    pub bias: Vec<f32>,
}

/// The weights of a network: its layers in order, with a ReLU between any two.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// At least one layer; each takes what the one before it gives.
    pub layers: Vec<Layer>,
}

impl Weights {
    /// Numbers of units from the input to the output: 784, 128, 100 for the default network.
    pub fn sizes(&self) -> Vec<usize> {
        let inputs = self.layers.iter().take(1).map(|layer| layer.n_inputs);
        let outputs = self.layers.iter().map(|layer| layer.n_outputs);
        inputs.chain(outputs).collect()
    }

    /// Numbers that the network takes for each sample.
    pub fn n_inputs(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.n_inputs)
    }

    /// Numbers that the network gives for each sample.
    pub fn n_classes(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.n_outputs)
    }
}
