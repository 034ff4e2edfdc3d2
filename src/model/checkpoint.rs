//! Checkpoints: weights in a safetensors file, in the names and layout of a PyTorch
//! `nn.Sequential(Linear, ReLU, Linear, ...)`, so that `load_state_dict` takes them as they are.
//!
//! Tensor `0.weight` is `[n_outputs, n_inputs]` of the first layer, `0.bias` its biases; the second layer is
//! `2`, since the ReLU between them is `1`, and so on. Files from elsewhere may number otherwise, as PyTorch does
//! where a `Flatten` or a `Dropout` stands between. What else is worth knowing stands as JSON under
//! `pc` in the file's metadata: one entry, so that the same run gives the same bytes.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::training::{EpochStats, TrainingConfig};
use super::{Layer, Weights};

/// The metadata entry.
const METADATA_KEY: &str = "pc";

/// What a checkpoint says of its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointInfo {
    /// The program that wrote it.
    pub producer: String,
    /// Numbers of units from input to output.
    pub layers: Vec<usize>,
    /// What is done to pixels before they go in.
    pub preprocessing: String,
    /// How it was trained.
    pub options: TrainingConfig,
    /// Figures of the epoch that the weights come from.
    pub metrics: Option<EpochStats>,
    /// A name for each class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_names: Option<Vec<String>>,
    /// What logits are divided by for calibrated probabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
}

/// What is done to pixels, in words.
pub const PREPROCESSING: &str = "u8 pixels divided by 255; float pixels as they are";

/// A checkpoint in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The weights.
    pub weights: Weights,
    /// What is known of them; a file from elsewhere may have nothing.
    pub info: Option<CheckpointInfo>,
}

/// Errors of checkpoints. The file's name is the caller's to add.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Not a safetensors file, or a damaged one.
    #[error("not a usable safetensors file; write one with pc train")]
    Safetensors(#[from] SafeTensorError),
    /// The tensors are not those of fully connected layers.
    #[error(
        "{0}; expected tensors 0.weight, 0.bias, 2.weight, 2.bias ... of float32, as a PyTorch nn.Sequential(Linear, ReLU, Linear) has them"
    )]
    Tensors(String),
    /// A weight that is no number.
    #[error("tensor {0} holds NaN or infinity: the training did not converge")]
    NotFinite(String),
    /// Metadata that do not belong to the weights.
    #[error("the metadata name {n_names} classes, the network has {n_classes}")]
    ClassNames {
        /// How many names there are.
        n_names: usize,
        /// How many outputs the network has.
        n_classes: usize,
    },
    /// A temperature that divides nothing.
    #[error("the metadata give {0} as temperature; expected a number above 0")]
    Temperature(f64),
    /// Metadata that cannot be understood.
    #[error("metadata entry \"pc\" is not what pc train writes")]
    Metadata(#[from] serde_json::Error),
}

impl Checkpoint {
    /// The bytes of the safetensors file.
    ///
    /// # Errors
    /// [`CheckpointError::NotFinite`]: such weights are not worth keeping.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CheckpointError> {
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        for (i, layer) in self.weights.layers.iter().enumerate() {
            let parts = [
                (
                    "weight",
                    &layer.weight,
                    vec![layer.n_outputs, layer.n_inputs],
                ),
                ("bias", &layer.bias, vec![layer.n_outputs]),
            ];
            for (part, values, shape) in parts {
                let name = format!("{}.{part}", 2 * i);
                if values.iter().any(|value| !value.is_finite()) {
                    return Err(CheckpointError::NotFinite(name));
                }
                let bytes = values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect();
                tensors.push((name, shape, bytes));
            }
        }
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| {
                Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?))
            })
            .collect::<Result<Vec<_>, SafeTensorError>>()?;
        let metadata = match &self.info {
            None => None,
            Some(info) => Some(HashMap::from([(
                METADATA_KEY.to_owned(),
                serde_json::to_string(info)?,
            )])),
        };
        Ok(safetensors::serialize(views, metadata)?)
    }

    /// Reads the bytes of a safetensors file; layer sizes are found out from the tensors.
    ///
    /// # Errors
    /// Any [`CheckpointError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let tensors = SafeTensors::deserialize(bytes)?;
        let mut places: Vec<u32> = tensors
            .names()
            .iter()
            .filter_map(|name| name.strip_suffix(".weight")?.parse().ok())
            .collect();
        places.sort_unstable();
        let mut layers: Vec<Layer> = Vec::new();
        for place in places {
            let name = |part: &str| format!("{place}.{part}");
            let weight = tensors.tensor(&name("weight"))?;
            let [n_outputs, n_inputs] = *weight.shape() else {
                return Err(CheckpointError::Tensors(format!(
                    "{} has shape {:?}",
                    name("weight"),
                    weight.shape()
                )));
            };
            let bias = tensors
                .tensor(&name("bias"))
                .map_err(|_| CheckpointError::Tensors(format!("no tensor {}", name("bias"))))?;
            let n_given = layers.last().map_or(n_inputs, |layer| layer.n_outputs);
            if bias.shape() != [n_outputs] || n_given != n_inputs || n_inputs * n_outputs == 0 {
                return Err(CheckpointError::Tensors(format!(
                    "{} is {:?} and {} is {:?} after {n_given} units",
                    name("weight"),
                    weight.shape(),
                    name("bias"),
                    bias.shape()
                )));
            }
            layers.push(Layer {
                n_inputs,
                n_outputs,
                weight: numbers(&name("weight"), &weight)?,
                bias: numbers(&name("bias"), &bias)?,
            });
        }
        if layers.is_empty() || tensors.len() != 2 * layers.len() {
            let mut names = tensors.names();
            names.sort_unstable();
            return Err(CheckpointError::Tensors(format!(
                "the tensors are [{}]",
                names.join(", ")
            )));
        }
        let weights = Weights { layers };
        let (_, metadata) = SafeTensors::read_metadata(bytes)?;
        let info: Option<CheckpointInfo> = metadata
            .metadata()
            .as_ref()
            .and_then(|metadata| metadata.get(METADATA_KEY))
            .map(|json| serde_json::from_str(json))
            .transpose()?;
        if let Some(names) = info.as_ref().and_then(|info| info.class_names.as_ref())
            && names.len() != weights.n_classes()
        {
            return Err(CheckpointError::ClassNames {
                n_names: names.len(),
                n_classes: weights.n_classes(),
            });
        }
        let checkpoint = Self { weights, info };
        match checkpoint.temperature() {
            Some(temperature) if !(temperature > 0.0 && temperature.is_finite()) => {
                Err(CheckpointError::Temperature(temperature))
            }
            _ => Ok(checkpoint),
        }
    }

    /// What logits are to be divided by for calibrated probabilities.
    pub fn temperature(&self) -> Option<f64> {
        self.info.as_ref().and_then(|info| info.temperature)
    }
}

fn numbers(name: &str, tensor: &TensorView) -> Result<Vec<f32>, CheckpointError> {
    if tensor.dtype() != Dtype::F32 {
        return Err(CheckpointError::Tensors(format!(
            "{name} has dtype {:?}",
            tensor.dtype()
        )));
    }
    let values: Vec<f32> = tensor
        .data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("4 bytes")))
        .collect();
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(values),
        false => Err(CheckpointError::NotFinite(name.to_owned())),
    }
}

/// The SHA-256 of a checkpoint's bytes, in hexadecimal: the model's identity.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::network::Backend;

    fn checkpoint() -> Checkpoint {
        let layer = |n_inputs: usize, n_outputs: usize| Layer {
            n_inputs,
            n_outputs,
            weight: (0..n_inputs * n_outputs).map(|i| i as f32 / 7.0).collect(),
            bias: (0..n_outputs).map(|i| -(i as f32) / 3.0).collect(),
        };
        Checkpoint {
            weights: Weights {
                layers: vec![layer(4, 3), layer(3, 2)],
            },
            info: Some(CheckpointInfo {
                producer: "pc test".to_owned(),
                layers: vec![4, 3, 2],
                preprocessing: PREPROCESSING.to_owned(),
                options: TrainingConfig {
                    hidden: vec![3],
                    classes: 2,
                    backend: Backend::Flex,
                    validation: 0.1,
                    ..TrainingConfig::default()
                },
                metrics: None,
                class_names: Some(vec!["cat".to_owned(), "dog".to_owned()]),
                temperature: Some(1.25),
            }),
        }
    }

    #[test]
    fn a_checkpoint_is_read_back_bit_for_bit_and_always_has_the_same_bytes() {
        let bytes = checkpoint().to_bytes().unwrap();
        assert_eq!(Checkpoint::from_bytes(&bytes).unwrap(), checkpoint());
        assert_eq!(checkpoint().to_bytes().unwrap(), bytes);
        assert_eq!(sha256(b"abc")[..16], *"ba7816bf8f01cfea");
    }

    #[test]
    fn tensors_have_pytorchs_names_and_shapes() {
        let bytes = checkpoint().to_bytes().unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let mut shapes: Vec<(String, Vec<usize>)> = tensors
            .iter()
            .map(|(name, tensor)| (name.to_owned(), tensor.shape().to_vec()))
            .collect();
        shapes.sort();
        let expected = [
            ("0.bias", vec![3]),
            ("0.weight", vec![3, 4]),
            ("2.bias", vec![2]),
            ("2.weight", vec![2, 3]),
        ];
        assert_eq!(
            shapes,
            expected.map(|(name, shape)| (name.to_owned(), shape))
        );
    }

    #[test]
    fn other_numbers_of_layers_are_understood() {
        // nn.Sequential(Flatten, Linear, ReLU, Dropout, Linear), which PyTorch saves in order of names.
        let tensors = |names: [&'static str; 4]| {
            let shapes = [vec![3], vec![3, 4], vec![2], vec![2, 3]];
            let zeros = [0; 48];
            let views = names.into_iter().zip(&shapes).map(|(name, shape)| {
                let n_bytes = 4 * shape.iter().product::<usize>();
                let view = TensorView::new(Dtype::F32, shape.clone(), &zeros[..n_bytes]);
                (name, view.unwrap())
            });
            Checkpoint::from_bytes(&safetensors::serialize(views, None).unwrap())
        };
        let read = tensors(["1.bias", "1.weight", "10.bias", "10.weight"]).unwrap();
        assert_eq!(read.weights.sizes(), [4, 3, 2]);
        assert_eq!(read.temperature(), None);
        let message = tensors(["fc1.bias", "fc1.weight", "2.bias", "2.weight"]);
        let message = message.unwrap_err().to_string();
        assert!(message.starts_with("the tensors are [2.bias,"), "{message}");
    }

    #[test]
    fn what_is_no_network_is_refused() {
        let refused = |checkpoint: &Checkpoint, message: &str| {
            let bytes = checkpoint.to_bytes().unwrap();
            let error = Checkpoint::from_bytes(&bytes).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        };
        let mut mismatched = checkpoint();
        mismatched.weights.layers.remove(0);
        mismatched
            .weights
            .layers
            .push(mismatched.weights.layers[0].clone());
        refused(&mismatched, "after 2 units");
        let mut named = checkpoint();
        if let Some(info) = &mut named.info {
            info.class_names = Some(vec!["cat".to_owned()]);
        }
        refused(&named, "the metadata name 1 classes, the network has 2");
        let mut cold = checkpoint();
        if let Some(info) = &mut cold.info {
            info.temperature = Some(0.0);
        }
        refused(&cold, "give 0 as temperature; expected a number above 0");
        let mut empty = checkpoint();
        empty.weights.layers.clear();
        refused(&empty, "the tensors are []");
        assert!(Checkpoint::from_bytes(b"garbage").is_err());
        let bytes = checkpoint().to_bytes().unwrap();
        assert!(Checkpoint::from_bytes(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn weights_that_diverged_are_not_written() {
        let mut diverged = checkpoint();
        diverged.weights.layers[1].bias[0] = f32::NAN;
        let message = diverged.to_bytes().unwrap_err().to_string();
        assert!(message.starts_with("tensor 2.bias holds NaN"), "{message}");
    }
}
