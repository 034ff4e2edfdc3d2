//! Where a run of training is: all that it needs to go on as if it had never ended.
//!
//! It is kept in a file beside the checkpoint, also a safetensors file, so that the checkpoint holds weights and
//! nothing else; the checkpoint's hash tells whether the two belong together. The order of samples is not in it: it
//! follows from the seed and the number of epochs.

use std::collections::HashMap;
use std::fmt::Debug;

use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::adam::{Adam, Gradients, StepSize};
use super::dataset::Samples;
use super::network::Parameters;
use super::training::{self, EpochStats, TrainingConfig};
use crate::matrix::PredictionMatrix;

/// The metadata entry.
const METADATA_KEY: &str = "pc-state";

/// Where a run is.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// How it trains.
    pub config: TrainingConfig,
    /// The [`fingerprint`] of what it trains on.
    pub data: u32,
    /// Epochs that are complete.
    pub n_epochs: usize,
    /// Batches of the next epoch that are learned.
    pub n_batches: usize,
    /// Their samples' losses.
    pub(super) loss_sum: f64,
    /// The time that they took.
    pub(super) seconds: f64,
    /// What is learned, as the last step left it.
    pub(super) parameters: Parameters,
    adam: Adam,
    /// The running mean of the parameters, if there is to be one.
    average: Option<Vec<Vec<f32>>>,
    /// Figures of the last epoch.
    last: Option<EpochStats>,
    /// The epoch of least validation loss, and what was learned by then.
    best: Option<(EpochStats, Vec<Vec<f32>>)>,
}

/// Errors of state files. The file's name is the caller's to add.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Not a safetensors file, or a damaged one.
    #[error("not a usable safetensors file; write one with pc train --save-state")]
    Safetensors(#[from] SafeTensorError),
    /// Something else than a state.
    #[error("not the state of a run; write one with pc train --save-state")]
    NoState,
    /// Metadata that cannot be understood.
    #[error("metadata entry \"pc-state\" is not what this pc writes; train anew")]
    Metadata(#[from] serde_json::Error),
    /// The state of a run that wrote another model.
    #[error(
        "saved with another model (SHA-256 {expected}) than the one beside it ({found}); put that model there, or train anew with --save-state"
    )]
    OtherModel {
        /// The hash of the model that it was saved with, in hexadecimal.
        expected: String,
        /// The hash of the model at hand.
        found: String,
    },
    /// Metadata that contradict themselves, or that no run has.
    #[error("metadata entry \"pc-state\" says {0}, which no run has; train anew")]
    Unfit(String),
    /// A tensor that does not fit the metadata.
    #[error("tensor {0} is not as long as its network has it")]
    Tensor(String),
}

/// What stands in the metadata.
#[derive(Serialize, Deserialize)]
struct Metadata {
    /// The SHA-256 of the model file.
    model: String,
    config: TrainingConfig,
    layers: Vec<usize>,
    data: u32,
    n_epochs: usize,
    n_batches: usize,
    loss_sum: f64,
    #[serde(default)]
    seconds: f64,
    n_steps: i32,
    has_average: bool,
    last: Option<EpochStats>,
    best: Option<EpochStats>,
}

impl Metadata {
    /// Checks that a run can have got there, as far as can be told without its data.
    fn check(&self) -> Result<(), StateError> {
        let config = &self.config;
        let is_share = |share: f64| (0.0..=0.9).contains(&share);
        // As the command line has it; products of two of them do not overflow.
        let is_count = |n: usize| (1..=1 << 20).contains(&n);
        let sizes = config.hidden.iter().chain([&config.classes]);
        let n_layers = self.layers.len();
        let last = self.last.map_or(0, |last| last.epoch);
        let best = self.best.map_or(0, |best| best.epoch);
        let checks: [(bool, &str, &dyn Debug); 16] = [
            (
                n_layers > 1 && self.layers.iter().all(|&n| n > 0) && sizes.eq(&self.layers[1..]),
                "layers",
                &self.layers,
            ),
            (
                is_count(config.batch_size),
                "batch_size",
                &config.batch_size,
            ),
            (is_count(config.epochs), "epochs", &config.epochs),
            (
                config.learning_rate > 0.0 && config.learning_rate <= 10.0,
                "learning_rate",
                &config.learning_rate,
            ),
            (
                is_share(config.validation),
                "validation",
                &config.validation,
            ),
            (
                (0.0..=10.0).contains(&config.weight_decay),
                "weight_decay",
                &config.weight_decay,
            ),
            (
                is_share(config.label_smoothing),
                "label_smoothing",
                &config.label_smoothing,
            ),
            (is_share(config.dropout), "dropout", &config.dropout),
            (
                (0.0..1.0).contains(&config.average),
                "average",
                &config.average,
            ),
            (
                config.augment.is_none_or(|augment| augment.is_usable()),
                "augment",
                &config.augment,
            ),
            (
                config.distillation.is_none_or(|d| d.is_usable()),
                "distillation",
                &config.distillation,
            ),
            (
                self.has_average == (config.average > 0.0),
                "has_average",
                &self.has_average,
            ),
            (self.n_epochs <= config.epochs, "n_epochs", &self.n_epochs),
            (last == self.n_epochs, "last epoch", &last),
            (best <= last, "best epoch", &best),
            (self.seconds >= 0.0, "seconds", &self.seconds),
        ];
        match checks.into_iter().find(|(is_usable, ..)| !is_usable) {
            Some((_, name, value)) => Err(StateError::Unfit(format!("{name} {value:?}"))),
            None => Ok(()),
        }
    }
}

/// What tells data sets apart: a checksum of the training samples and of the teacher's labels.
pub fn fingerprint(samples: &Samples, teacher: Option<&PredictionMatrix>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&samples.pixels);
    for label in &samples.labels {
        hasher.update(&label.to_le_bytes());
    }
    for value in teacher.map_or(&[][..], |teacher| teacher.values()) {
        hasher.update(&value.to_le_bytes());
    }
    hasher.finalize()
}

impl State {
    /// Before the first step.
    pub(super) fn new(config: &TrainingConfig, data: u32, parameters: Parameters) -> Self {
        Self {
            config: config.clone(),
            data,
            n_epochs: 0,
            n_batches: 0,
            loss_sum: 0.0,
            seconds: 0.0,
            adam: Adam::new(parameters.tensors.iter().map(Vec::len)),
            average: (config.average > 0.0).then(|| parameters.tensors.clone()),
            parameters,
            last: None,
            best: None,
        }
    }

    /// The same with another configuration: one that ends later, say.
    pub(super) fn with_config(self, config: &TrainingConfig) -> Self {
        Self {
            config: config.clone(),
            ..self
        }
    }

    /// Learns a batch.
    pub(super) fn step(&mut self, size: StepSize, gradients: &[Gradients]) {
        self.adam
            .step(size, &mut self.parameters.tensors, gradients);
        if let Some(average) = &mut self.average {
            // The first steps count more, or the mean would long remember where it began.
            let n_steps = f64::from(self.adam.n_steps);
            let kept = self.config.average.min((1.0 + n_steps) / (10.0 + n_steps)) as f32;
            for (average, values) in average.iter_mut().zip(&self.parameters.tensors) {
                pulp::Arch::new().dispatch(|| {
                    for (average, value) in average.iter_mut().zip(values) {
                        *average = kept * *average + (1.0 - kept) * value;
                    }
                });
            }
        }
    }

    /// Notes that an epoch is complete.
    pub(super) fn finish_epoch(&mut self, stats: EpochStats) {
        self.n_epochs = stats.epoch;
        self.n_batches = 0;
        self.loss_sum = 0.0;
        self.seconds = 0.0;
        if is_better(&stats, self.best.as_ref().map(|(best, _)| best)) {
            self.best = Some((stats, self.averaged().tensors));
        }
        self.last = Some(stats);
    }

    /// Whether so many epochs brought no lower validation loss that training should end.
    pub fn is_out_of_patience(&self) -> bool {
        let best = self.best.as_ref().map_or(0, |(best, _)| best.epoch);
        let patience = self.config.patience.unwrap_or(usize::MAX);
        self.best.is_some() && self.n_epochs - best >= patience
    }

    /// What is learned: the running mean if there is one.
    pub(super) fn averaged(&self) -> Parameters {
        match &self.average {
            Some(average) => self.parameters.with_tensors(average.clone()),
            None => self.parameters.clone(),
        }
    }

    /// What to keep, and its figures; `partial` are those of an epoch that is not complete.
    pub(super) fn chosen(&self, partial: Option<EpochStats>) -> (Parameters, Option<EpochStats>) {
        match (&self.best, partial) {
            (Some((best, tensors)), partial)
                if partial.is_none_or(|partial| !is_better(&partial, Some(best))) =>
            {
                (self.parameters.with_tensors(tensors.clone()), Some(*best))
            }
            (_, partial) => (self.averaged(), partial.or(self.last)),
        }
    }

    /// The bytes of the state file beside a model file of this SHA-256.
    ///
    /// # Errors
    /// [`StateError::Safetensors`], for more tensors than such a file holds.
    pub fn to_bytes(&self, model: &str) -> Result<Vec<u8>, StateError> {
        let metadata = Metadata {
            model: model.to_owned(),
            config: self.config.clone(),
            layers: self.parameters.sizes.clone(),
            data: self.data,
            n_epochs: self.n_epochs,
            n_batches: self.n_batches,
            loss_sum: self.loss_sum,
            seconds: self.seconds,
            n_steps: self.adam.n_steps,
            has_average: self.average.is_some(),
            last: self.last,
            best: self.best.as_ref().map(|(best, _)| *best),
        };
        let [first, second] = [0, 1].map(|i| {
            let moments = self.adam.moments.iter();
            moments.map(|moments| &moments[i]).collect::<Vec<_>>()
        });
        let groups = [
            ("parameters", Some(self.parameters.tensors.iter().collect())),
            ("moment_1", Some(first)),
            ("moment_2", Some(second)),
            (
                "average",
                self.average
                    .as_ref()
                    .map(|average| average.iter().collect()),
            ),
            (
                "best",
                self.best.as_ref().map(|(_, best)| best.iter().collect()),
            ),
        ];
        let mut tensors: Vec<(String, Vec<u8>)> = Vec::new();
        for (group, members) in groups {
            for (i, values) in members.into_iter().flatten().enumerate() {
                let bytes = values.iter().flat_map(|value| value.to_le_bytes());
                tensors.push((format!("{group}.{i}"), bytes.collect()));
            }
        }
        let views = tensors
            .iter()
            .map(|(name, bytes)| {
                Ok((
                    name,
                    TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes)?,
                ))
            })
            .collect::<Result<Vec<_>, SafeTensorError>>()?;
        let metadata =
            HashMap::from([(METADATA_KEY.to_owned(), serde_json::to_string(&metadata)?)]);
        Ok(safetensors::serialize(views, Some(metadata))?)
    }

    /// Reads the bytes of the state file beside a model file of this SHA-256.
    ///
    /// # Errors
    /// Any [`StateError`].
    pub fn from_bytes(bytes: &[u8], model: &str) -> Result<Self, StateError> {
        let (_, metadata) = SafeTensors::read_metadata(bytes)?;
        let metadata = metadata.metadata().as_ref();
        let json = metadata.and_then(|metadata| metadata.get(METADATA_KEY));
        let metadata: Metadata = serde_json::from_str(json.ok_or(StateError::NoState)?)?;
        if metadata.model != model {
            return Err(StateError::OtherModel {
                expected: metadata.model,
                found: model.to_owned(),
            });
        }
        metadata.check()?;
        let tensors = SafeTensors::deserialize(bytes)?;
        let group = |group: &str| -> Result<Vec<Vec<f32>>, StateError> {
            let lengths = metadata
                .layers
                .windows(2)
                .flat_map(|pair| [pair[0].checked_mul(pair[1]), Some(pair[1])]);
            lengths
                .enumerate()
                .map(|(i, length)| {
                    let name = format!("{group}.{i}");
                    let tensor = tensors.tensor(&name)?;
                    if tensor.dtype() != Dtype::F32 || Some(tensor.data().len() / 4) != length {
                        return Err(StateError::Tensor(name));
                    }
                    let (values, _) = tensor.data().as_chunks::<4>();
                    Ok(values
                        .iter()
                        .map(|bytes| f32::from_le_bytes(*bytes))
                        .collect())
                })
                .collect()
        };
        let (first, second) = (group("moment_1")?, group("moment_2")?);
        let has_average = metadata.has_average;
        Ok(Self {
            parameters: Parameters {
                tensors: group("parameters")?,
                sizes: metadata.layers.clone(),
            },
            adam: Adam {
                n_steps: metadata.n_steps,
                moments: first.into_iter().zip(second).map(Into::into).collect(),
            },
            average: has_average.then(|| group("average")).transpose()?,
            best: match metadata.best {
                Some(best) => Some((best, group("best")?)),
                None => None,
            },
            config: metadata.config,
            data: metadata.data,
            n_epochs: metadata.n_epochs,
            n_batches: metadata.n_batches,
            loss_sum: metadata.loss_sum,
            seconds: metadata.seconds,
            last: metadata.last,
        })
    }

    /// Whether a run over this many samples, those held out included, takes the steps that this one took.
    pub fn fits(&self, n_samples: usize) -> bool {
        let (n_training, _) = training::split(n_samples, self.config.validation);
        let n_batches = n_training.div_ceil(self.config.batch_size);
        // In this order, since so the sum does not overflow.
        self.n_batches < n_batches
            && usize::try_from(self.adam.n_steps) == Ok(self.n_epochs * n_batches + self.n_batches)
    }

    /// Numbers of units from input to output.
    pub fn sizes(&self) -> &[usize] {
        &self.parameters.sizes
    }
}

/// Whether an epoch has a lower validation loss than the best before it.
fn is_better(stats: &EpochStats, best: Option<&EpochStats>) -> bool {
    let loss = |stats: &EpochStats| stats.validation.map(|evaluation| evaluation.loss);
    match (loss(stats), best.and_then(loss)) {
        (Some(loss), Some(least)) => loss < least,
        (Some(_), None) => true,
        (None, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn state() -> State {
        let config = TrainingConfig {
            hidden: vec![3],
            classes: 2,
            ..TrainingConfig::default()
        };
        let parameters = Parameters::init(&[4, 3, 2], &mut StdRng::seed_from_u64(1));
        State::new(&config, 7, parameters)
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let state = state();
        let bytes = state.to_bytes("ab").unwrap();
        assert_eq!(State::from_bytes(&bytes, "ab").unwrap(), state);
        assert!(State::from_bytes(&bytes[..bytes.len() - 1], "ab").is_err());
        assert!(State::from_bytes(b"", "ab").is_err());
        assert_eq!(
            State::from_bytes(&bytes, "cd").unwrap_err().to_string(),
            "saved with another model (SHA-256 ab) than the one beside it (cd); put that model there, or train anew with --save-state"
        );
        let at = bytes
            .windows(7)
            .position(|piece| piece == b"[4,3,2]")
            .unwrap();
        let mut other = bytes.clone();
        other[at + 1] = b'5';
        let message = State::from_bytes(&other, "ab").unwrap_err().to_string();
        assert!(message.starts_with("tensor moment_1.0 is not"), "{message}");
        let nothing = safetensors::serialize(Vec::<(String, TensorView)>::new(), None).unwrap();
        let message = State::from_bytes(&nothing, "ab").unwrap_err().to_string();
        assert!(message.starts_with("not the state of a run"), "{message}");
    }

    #[test]
    fn what_no_run_has_is_refused() {
        let bytes = state().to_bytes("ab").unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let json = &header.metadata().as_ref().unwrap()[METADATA_KEY];
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        // The state with a piece of its JSON replaced.
        let with = |from: &str, to: &str| {
            let other = json.replace(from, to);
            assert_ne!(&other, json, "{from}");
            let metadata = HashMap::from([(METADATA_KEY.to_owned(), other)]);
            let bytes = safetensors::serialize(tensors.tensors(), Some(metadata)).unwrap();
            State::from_bytes(&bytes, "ab")
        };
        assert!(with("\"seed\":42", "\"seed\":43").is_ok());
        for (from, to, what) in [
            ("layers\":[4,3,2]", "layers\":[]", "layers []"),
            ("layers\":[4,3,2]", "layers\":[4]", "layers [4]"),
            ("layers\":[4,3,2]", "layers\":[0,3,2]", "layers [0, 3, 2]"),
            ("layers\":[4,3,2]", "layers\":[4,5,2]", "layers [4, 5, 2]"),
            ("classes\":2", "classes\":3", "layers [4, 3, 2]"),
            ("batch_size\":128", "batch_size\":0", "batch_size 0"),
            ("epochs\":10", "epochs\":9999999", "epochs 9999999"),
            ("rate\":0.001", "rate\":-1", "learning_rate -1.0"),
            ("validation\":0.0", "validation\":1.5", "validation 1.5"),
            ("seed\"", "dropout\":1,\"seed\"", "dropout 1.0"),
            ("seed\"", "average\":1,\"seed\"", "average 1.0"),
            ("seed\"", "average\":0.5,\"seed\"", "has_average false"),
            (
                "seed\"",
                "distillation\":{\"temperature\":0,\"mix\":1},\"seed\"",
                "distillation Some(Distillation { temperature: 0.0, mix: 1.0 })",
            ),
            (
                "seed\"",
                "augment\":{\"shift\":1e30,\"rotate\":0,\"scale\":0,\"elastic\":0,\"flip\":false},\"seed\"",
                "augment Some(Augmentation { shift: 1e30, rotate: 0.0, scale: 0.0, elastic: 0.0, flip: false })",
            ),
            ("n_epochs\":0", "n_epochs\":11", "n_epochs 11"),
            ("n_epochs\":0", "n_epochs\":2", "last epoch 0"),
            (
                "best\":null",
                "best\":{\"epoch\":3,\"training_loss\":1}",
                "best epoch 3",
            ),
        ] {
            assert_eq!(
                with(from, to).unwrap_err().to_string(),
                format!("metadata entry \"pc-state\" says {what}, which no run has; train anew")
            );
        }
        // What only the number of samples tells: 3 batches of 128 an epoch.
        assert!(state().fits(300));
        for (from, to) in [
            ("n_batches\":0", "n_batches\":1"),
            ("n_batches\":0", "n_batches\":3"),
            ("n_batches\":0", "n_batches\":18446744073709551615"),
            ("n_steps\":0", "n_steps\":1"),
            ("n_steps\":0", "n_steps\":-1"),
        ] {
            assert!(!with(from, to).unwrap().fits(300), "{to}");
        }
    }

    #[test]
    fn fingerprints_tell_data_apart() {
        let samples = Samples {
            n_pixels: 1,
            pixels: vec![1, 2],
            labels: vec![0, 1],
        };
        let other = Samples {
            labels: vec![0, 0],
            ..samples.clone()
        };
        let teacher = PredictionMatrix::new(1, vec![0.5, 0.25]);
        let plain = fingerprint(&samples, None);
        assert_ne!(plain, fingerprint(&other, None));
        assert_ne!(plain, fingerprint(&samples, Some(&teacher)));
    }
}
