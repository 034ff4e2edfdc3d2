//! Parts of a batch: their pixels as the network takes them, what it should say of them, and the gradients.

use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::augment::{Augmenter, Scratch};
use super::dataset::Samples;
use super::network::{Mlp, Parameters, Scaling};
use super::training::TrainingConfig;
use crate::io::images::scale_u8;
use crate::matrix::PredictionMatrix;

/// What parts are made of, the same for a whole run.
pub struct Parts<'a> {
    config: &'a TrainingConfig,
    samples: &'a Samples,
    scaling: Scaling,
    augmenter: Option<Augmenter>,
    /// The teacher's labels at the temperature of distillation, one row a sample.
    soft_labels: Option<PredictionMatrix>,
    /// What label smoothing gives each class.
    smoothing: Vec<f32>,
    device: Device,
}

impl<'a> Parts<'a> {
    /// Parts of `samples`; the classes that have samples share what label smoothing takes from the label.
    ///
    /// # Panics
    /// If images are to be distorted and are not square, or soft labels fit neither samples nor classes.
    pub fn new(
        config: &'a TrainingConfig,
        samples: &'a Samples,
        scaling: Scaling,
        teacher: Option<&PredictionMatrix>,
    ) -> Self {
        let augmenter = config.augment.map(|augmentation| {
            Augmenter::new(augmentation, samples.n_pixels, config.seed).expect("images are square")
        });
        let distillation = teacher.zip(config.distillation);
        let soft_labels = distillation.map(|(teacher, distillation)| {
            let shape = (teacher.n_rows(), teacher.n_classes());
            assert_eq!(shape, (samples.len(), config.classes));
            softened(teacher, distillation.temperature)
        });
        let mut is_live = vec![false; config.classes];
        for &label in &samples.labels {
            is_live[label as usize] = true;
        }
        let n_live = is_live.iter().filter(|&&live| live).count();
        let share = config.label_smoothing as f32 / n_live as f32;
        Self {
            config,
            samples,
            scaling,
            augmenter,
            soft_labels,
            smoothing: is_live
                .into_iter()
                .map(|live| if live { share } else { 0.0 })
                .collect(),
            device: config.backend.device(),
        }
    }

    /// The mean loss of the samples at `indices` in an epoch, and its gradients. What is drawn at random for
    /// a sample follows from the seed, the epoch and the sample, so it does not matter which thread does it.
    pub fn gradients(
        &self,
        parameters: &Parameters,
        epoch: usize,
        indices: &[usize],
    ) -> (f64, Vec<Vec<f32>>) {
        let n_pixels = self.samples.n_pixels;
        let mut pixels = Vec::with_capacity(indices.len() * n_pixels);
        let mut masks: Vec<Vec<f32>> = match self.config.dropout > 0.0 {
            true => vec![Vec::new(); self.config.hidden.len()],
            false => Vec::new(),
        };
        let mut scratch = Scratch::default();
        for &i in indices {
            let image = self.samples.image(i);
            // Seeding costs as much as a few pixels, so what is plain goes without.
            let rng = || sample_rng(self.config.seed, epoch, i);
            match &self.augmenter {
                Some(augmenter) => {
                    let mut rng = rng();
                    augmenter.distort(image, &mut rng, &mut scratch, &mut pixels);
                    dropout(self.config, &mut rng, &mut masks);
                }
                None => {
                    pixels.extend(image.iter().map(|&pixel| scale_u8(pixel)));
                    if !masks.is_empty() {
                        dropout(self.config, &mut rng(), &mut masks);
                    }
                }
            }
        }
        self.scaling.apply(&mut pixels);

        let tensor = |values: Vec<f32>, width: usize| {
            let data = TensorData::new(values, [indices.len(), width]);
            Tensor::<2>::from_data(data, &self.device)
        };
        // Each part has tensors of its own: burn keeps gradients of shared ones in one graph behind a lock.
        let network = Mlp::new(parameters, &self.device);
        let masks: Vec<Tensor<2>> = masks
            .into_iter()
            .zip(&self.config.hidden)
            .map(|(mask, &width)| tensor(mask, width))
            .collect();
        let logits = network.forward_with(tensor(pixels, n_pixels), &masks);
        let loss = self.loss(logits, indices);
        let gradients = network.gradients(&loss);
        (f64::from(loss.into_scalar::<f32>()), gradients)
    }

    /// The mean cross-entropy to the labels, mixed with that to the soft labels if there are any (Hinton,
    /// Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015).
    fn loss(&self, logits: Tensor<2>, indices: &[usize]) -> Tensor<1> {
        let Some((soft_labels, distillation)) =
            self.soft_labels.as_ref().zip(self.config.distillation)
        else {
            return self.hard_loss(logits, indices);
        };
        let n_classes = self.config.classes;
        let mut targets = Vec::with_capacity(indices.len() * n_classes);
        for &i in indices {
            targets.extend_from_slice(&soft_labels.values()[i * n_classes..(i + 1) * n_classes]);
        }
        let (temperature, mix) = (distillation.temperature, distillation.mix);
        let soft = self.cross_entropy(logits.clone().div_scalar(temperature), targets);
        // Gradients at a temperature are smaller by its square.
        let soft = soft.mul_scalar(mix * temperature * temperature);
        match mix < 1.0 {
            true => soft + self.hard_loss(logits, indices).mul_scalar(1.0 - mix),
            false => soft,
        }
    }

    /// The mean cross-entropy to the labels, smoothed if they are to be.
    fn hard_loss(&self, logits: Tensor<2>, indices: &[usize]) -> Tensor<1> {
        let labels = indices.iter().map(|&i| self.samples.labels[i]);
        if self.config.label_smoothing == 0.0 {
            let labels: Vec<i32> = labels.map(|label| label as i32).collect();
            let labels = TensorData::new(labels, [indices.len()]);
            let labels = Tensor::<1, Int>::from_data(labels, &self.device);
            return CrossEntropyLossConfig::new()
                .init(&self.device)
                .forward(logits, labels);
        }
        let mut targets = Vec::with_capacity(indices.len() * self.config.classes);
        for label in labels {
            let start = targets.len();
            targets.extend_from_slice(&self.smoothing);
            targets[start + label as usize] += 1.0 - self.config.label_smoothing as f32;
        }
        self.cross_entropy(logits, targets)
    }

    /// The mean cross-entropy to rows of probabilities.
    fn cross_entropy(&self, logits: Tensor<2>, targets: Vec<f32>) -> Tensor<1> {
        let [n_rows, n_classes] = logits.dims();
        let targets = TensorData::new(targets, [n_rows, n_classes]);
        let targets = Tensor::<2>::from_data(targets, &self.device);
        let products = targets * activation::log_softmax(logits, 1);
        products.sum().mul_scalar(-1.0 / n_rows as f64)
    }
}

/// The numbers drawn for one sample in one epoch.
fn sample_rng(seed: u64, epoch: usize, sample: usize) -> StdRng {
    // splitmix64, twice: neighbours become unrelated.
    let mix = |x: u64| {
        let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    };
    StdRng::seed_from_u64(mix(mix(seed ^ mix(epoch as u64)) ^ sample as u64))
}

/// Appends to each hidden layer's mask what its units are multiplied with for one sample: 0 for those that
/// are dropped, and more than 1 for the others, so that the mean stays.
fn dropout(config: &TrainingConfig, rng: &mut impl Rng, masks: &mut [Vec<f32>]) {
    let (rate, kept) = (config.dropout as f32, 1.0 / (1.0 - config.dropout as f32));
    for (mask, &n_units) in masks.iter_mut().zip(&config.hidden) {
        mask.extend((0..n_units).map(|_| match rng.random::<f32>() < rate {
            true => 0.0,
            false => kept,
        }));
    }
}

/// Probabilities at a temperature: as if the logits that they come from had been divided by it.
fn softened(teacher: &PredictionMatrix, temperature: f64) -> PredictionMatrix {
    let power = (1.0 / temperature) as f32;
    // What decodes a little below 0 counts as nothing.
    let values = teacher.values().iter().map(|p| p.max(0.0).powf(power));
    let mut softened = PredictionMatrix::new(teacher.n_classes(), values.collect());
    softened.normalize();
    softened
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::training::Distillation;

    fn samples() -> Samples {
        Samples {
            n_pixels: 4,
            pixels: vec![0, 50, 100, 255, 30, 0, 200, 10],
            labels: vec![0, 2],
        }
    }

    fn config() -> TrainingConfig {
        TrainingConfig {
            hidden: vec![3],
            classes: 4,
            ..TrainingConfig::default()
        }
    }

    fn parameters() -> Parameters {
        Parameters::init(&[4, 3, 4], &mut StdRng::seed_from_u64(3))
    }

    fn loss(config: &TrainingConfig, teacher: Option<&PredictionMatrix>) -> f64 {
        let samples = samples();
        let parts = Parts::new(config, &samples, Scaling::default(), teacher);
        parts.gradients(&parameters(), 1, &[0, 1]).0
    }

    /// The log of the softmax of the network's logits at a temperature, row by row.
    fn log_softmax(temperature: f64) -> Vec<Vec<f64>> {
        use crate::model::inference::{Output, Predictor};
        let logits =
            Predictor::new(parameters().weights()).predict(&samples().pixels[..], Output::Logits);
        let rows = logits.rows().map(|row| {
            let row: Vec<f64> = row.iter().map(|&x| f64::from(x) / temperature).collect();
            let sum: f64 = row.iter().map(|x| x.exp()).sum();
            row.iter().map(|x| x - sum.ln()).collect()
        });
        rows.collect()
    }

    fn cross_entropy(targets: [[f64; 4]; 2], temperature: f64) -> f64 {
        let rows = log_softmax(temperature);
        let terms = targets.iter().flatten().zip(rows.iter().flatten());
        -terms.map(|(t, l)| t * l).sum::<f64>() / 2.0
    }

    #[test]
    fn smoothing_goes_to_the_classes_that_occur() {
        let smoothed = TrainingConfig {
            label_smoothing: 0.1,
            ..config()
        };
        let expected = cross_entropy([[0.95, 0.0, 0.05, 0.0], [0.05, 0.0, 0.95, 0.0]], 1.0);
        assert!((loss(&smoothed, None) - expected).abs() < 1e-5);
        let plain = cross_entropy([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]], 1.0);
        assert!((loss(&config(), None) - plain).abs() < 1e-5);
    }

    #[test]
    fn distillation_is_that_of_hinton() {
        let teacher = PredictionMatrix::new(4, vec![0.64, 0.36, 0.0, 0.0, 0.25, 0.25, 0.25, 0.25]);
        let distillation = |mix| TrainingConfig {
            distillation: Some(Distillation {
                temperature: 2.0,
                mix,
            }),
            ..config()
        };
        let soft = [[0.8 / 1.4, 0.6 / 1.4, 0.0, 0.0], [0.25; 4]];
        let soft = 4.0 * cross_entropy(soft, 2.0);
        let hard = cross_entropy([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]], 1.0);
        for mix in [1.0, 0.75] {
            let found = loss(&distillation(mix), Some(&teacher));
            let expected = mix * soft + (1.0 - mix) * hard;
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }

    #[test]
    fn dropout_keeps_the_mean_and_is_the_same_for_the_same_sample_and_epoch() {
        let config = TrainingConfig {
            hidden: vec![20_000],
            dropout: 0.25,
            ..config()
        };
        let mask = |epoch| {
            let mut masks = [Vec::new()];
            dropout(&config, &mut sample_rng(1, epoch, 5), &mut masks);
            let [mask] = masks;
            mask
        };
        assert_eq!(mask(1), mask(1));
        assert_ne!(mask(1), mask(2));
        assert_ne!(
            sample_rng(1, 1, 2).random::<u64>(),
            sample_rng(1, 2, 1).random::<u64>()
        );
        let mean = mask(1).iter().sum::<f32>() / 20_000.0;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        let n_dropped = mask(1).iter().filter(|&&x| x == 0.0).count();
        assert!((4_700..5_300).contains(&n_dropped), "{n_dropped}");
    }
}
