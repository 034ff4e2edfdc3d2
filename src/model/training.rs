//! The training loop: Adam on the mean cross-entropy of shuffled batches.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Weights;
use super::adam::{Adam, Gradients};
use super::dataset::{Dataset, Samples};
use super::inference::{Evaluation, Predictor};
use super::network::{Backend, Mlp, Parameters};
use crate::io::images::scale_u8;

/// Samples of a batch that go through burn together, on one thread. Batches are cut into parts of this size
/// whatever the number of threads, so that the result does not depend on it.
const PART_SAMPLES: usize = 64;

/// What a run is made of; with the data, it fixes the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingConfig {
    /// Units of each hidden layer.
    pub hidden: Vec<usize>,
    /// Number of outputs.
    pub classes: usize,
    /// Times that every training sample is seen.
    pub epochs: usize,
    /// Samples in a batch.
    pub batch_size: usize,
    /// Adam's step size.
    pub learning_rate: f64,
    /// Seed of the initial weights, the validation part and the order of samples.
    pub seed: u64,
    /// Where burn computes.
    pub backend: Backend,
    /// Share of the training part held out to choose the epoch, 0 for none.
    pub validation: f64,
}

/// Figures of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EpochStats {
    /// Which epoch, counted from 1.
    pub epoch: usize,
    /// Mean cross-entropy over the epoch's batches, in nats, each before its step.
    pub training_loss: f64,
    /// On the samples held out, after the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<Evaluation>,
    /// On the test part, after the epoch. Reported, never used for choosing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<Evaluation>,
    /// Wall time of the epoch's training, evaluation excluded.
    #[serde(skip)]
    pub seconds: f64,
    /// Training samples seen in the epoch.
    #[serde(skip)]
    pub n_samples: usize,
}

/// What happens during training.
#[derive(Debug)]
pub enum Event<'a> {
    /// A batch was learned.
    Batch {
        /// Epoch, counted from 1.
        epoch: usize,
        /// Samples seen in this epoch so far.
        n_seen: usize,
        /// Samples of an epoch.
        n_samples: usize,
        /// Mean loss of the epoch so far.
        loss: f64,
    },
    /// An epoch is over, or training was stopped within it.
    Epoch(&'a EpochStats),
}

/// What training gives.
#[derive(Debug, Clone)]
pub struct Trained {
    /// The weights chosen.
    pub weights: Weights,
    /// Figures of the epoch that they come from; `None` if no batch was learned.
    pub metrics: Option<EpochStats>,
    /// Whether `stop` ended training early.
    pub was_stopped: bool,
}

/// Epochs worth training without being told: 10, or on a small set as many as make 2,500 batches of 128.
///
/// Ten epochs of MNIST are 4,690 batches, of 8,000 images 630, which is too few steps for Adam.
pub fn default_epochs(n_samples: usize) -> usize {
    2_500usize.div_ceil(n_samples.div_ceil(128).max(1)).max(10)
}

/// The sizes of the two parts that `n_samples` are split into: to train on, and held out.
pub fn split(n_samples: usize, validation: f64) -> (usize, usize) {
    let n_validation = (validation * n_samples as f64).round() as usize;
    (n_samples - n_validation, n_validation)
}

/// Trains a network. After each batch, `stop` is looked at: once true, training ends and what there is
/// is returned. With a validation part, the epoch of least validation loss is returned, else the last.
///
/// The result is the same bit for bit on one machine for the same data and configuration, whatever the number
/// of threads.
///
/// # Panics
/// If a label is not below `config.classes` (see [`Dataset::check_classes`]) or the batch size is 0.
pub fn train(
    config: &TrainingConfig,
    dataset: &Dataset,
    stop: &AtomicBool,
    on_event: &mut (dyn FnMut(Event) + Send),
) -> Trained {
    // On a thread of the pool, where handing out the parts of a batch costs least.
    rayon::scope(|_| train_here(config, dataset, stop, on_event))
}

fn train_here(
    config: &TrainingConfig,
    dataset: &Dataset,
    stop: &AtomicBool,
    on_event: &mut dyn FnMut(Event),
) -> Trained {
    let mut rng = StdRng::seed_from_u64(config.seed);
    let device = config.backend.device();
    let sizes: Vec<usize> = [dataset.train.n_pixels]
        .iter()
        .chain(&config.hidden)
        .chain([&config.classes])
        .copied()
        .collect();
    let mut parameters = Parameters::init(&sizes, &mut rng);
    let mut adam = Adam::new(parameters.tensors.iter().map(Vec::len));

    let mut order: Vec<usize> = (0..dataset.train.len()).collect();
    order.shuffle(&mut rng);
    let (n_training, n_validation) = split(order.len(), config.validation);
    let validation = order.split_off(n_training);
    let validation = (n_validation > 0).then(|| dataset.train.select(&validation));

    let mut best: Option<(f64, Trained)> = None;
    let mut last = None;
    let mut was_stopped = false;
    for epoch in 1..=config.epochs {
        if was_stopped || stop.load(Ordering::Relaxed) {
            was_stopped = true;
            break;
        }
        let start = Instant::now();
        order.shuffle(&mut rng);
        let (mut loss_sum, mut n_seen) = (0.0, 0);
        for indices in order.chunks(config.batch_size) {
            let parts: Vec<(f64, Gradients)> = indices
                .par_chunks(PART_SAMPLES)
                .map(|part| {
                    let (loss, tensors) = gradients(&parameters, &dataset.train, part, &device);
                    let share = part.len() as f32 / indices.len() as f32;
                    (loss * part.len() as f64, Gradients { share, tensors })
                })
                .collect();
            let (losses, parts): (Vec<f64>, Vec<Gradients>) = parts.into_iter().unzip();
            adam.step(config.learning_rate as f32, &mut parameters.tensors, &parts);
            loss_sum += losses.iter().sum::<f64>();
            n_seen += indices.len();
            on_event(Event::Batch {
                epoch,
                n_seen,
                n_samples: order.len(),
                loss: loss_sum / n_seen as f64,
            });
            if stop.load(Ordering::Relaxed) {
                was_stopped = true;
                break;
            }
        }
        let seconds = start.elapsed().as_secs_f64();

        let predictor = Predictor::new(parameters.weights());
        let stats = EpochStats {
            epoch,
            training_loss: loss_sum / n_seen as f64,
            validation: validation.as_ref().map(|part| predictor.evaluate(part)),
            test: dataset.test.as_ref().map(|part| predictor.evaluate(part)),
            seconds,
            n_samples: n_seen,
        };
        on_event(Event::Epoch(&stats));
        let trained = Trained {
            weights: predictor.weights().clone(),
            metrics: Some(stats),
            was_stopped: false,
        };
        if let Some(validation) = stats.validation
            && best
                .as_ref()
                .is_none_or(|(least, _)| validation.loss < *least)
        {
            best = Some((validation.loss, trained.clone()));
        }
        last = Some(trained);
    }
    let trained = best.map(|(_, trained)| trained).or(last);
    Trained {
        was_stopped,
        ..trained.unwrap_or_else(|| Trained {
            weights: parameters.weights(),
            metrics: None,
            was_stopped,
        })
    }
}

/// The mean cross-entropy of the samples at `indices`, and its gradients.
fn gradients(
    parameters: &Parameters,
    samples: &Samples,
    indices: &[usize],
    device: &Device,
) -> (f64, Vec<Vec<f32>>) {
    let mut pixels = Vec::with_capacity(indices.len() * samples.n_pixels);
    for &i in indices {
        pixels.extend(samples.image(i).iter().map(|&pixel| scale_u8(pixel)));
    }
    let labels: Vec<i32> = indices.iter().map(|&i| samples.labels[i] as i32).collect();
    let images = TensorData::new(pixels, [indices.len(), samples.n_pixels]);
    let labels = TensorData::new(labels, [indices.len()]);

    // Each part has tensors of its own: burn keeps gradients of shared ones in one graph behind a lock.
    let network = Mlp::new(parameters, device);
    let logits = network.forward(Tensor::from_data(images, device));
    let labels = Tensor::<1, Int>::from_data(labels, device);
    let loss = CrossEntropyLossConfig::new()
        .init(device)
        .forward(logits, labels);
    let gradients = network.gradients(&loss);
    (f64::from(loss.into_scalar::<f32>()), gradients)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TrainingConfig {
        TrainingConfig {
            hidden: vec![16],
            classes: 100,
            epochs: 20,
            batch_size: 5,
            learning_rate: 1e-2,
            seed: 7,
            backend: Backend::Ndarray,
            validation: 0.0,
        }
    }

    /// The first `n` images of the bundled set.
    fn dataset(n: usize) -> Dataset {
        let bundled = Dataset::bundled();
        let indices: Vec<usize> = (0..n).collect();
        Dataset {
            train: bundled.train.select(&indices),
            test: bundled.test.map(|test| test.select(&indices)),
            class_names: None,
        }
    }

    fn run(config: &TrainingConfig, dataset: &Dataset) -> (Trained, Vec<EpochStats>) {
        let mut epochs = Vec::new();
        let trained = train(config, dataset, &AtomicBool::new(false), &mut |event| {
            if let Event::Epoch(stats) = event {
                epochs.push(*stats);
            }
        });
        (trained, epochs)
    }

    #[test]
    fn the_loss_falls_on_20_samples() {
        for backend in [Backend::Ndarray, Backend::Flex] {
            let config = TrainingConfig {
                backend,
                ..config()
            };
            let (trained, epochs) = run(&config, &dataset(20));
            assert_eq!(epochs.len(), 20);
            assert!(epochs[19].training_loss < 0.2 * epochs[0].training_loss);
            assert_eq!(trained.metrics.unwrap().epoch, 20);
            assert_eq!(trained.weights.sizes(), [784, 16, 100]);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_bits_and_another_seed_others() {
        for backend in [Backend::Ndarray, Backend::Flex] {
            let config = TrainingConfig {
                backend,
                epochs: 2,
                ..config()
            };
            let dataset = dataset(200);
            let (first, _) = run(&config, &dataset);
            let (again, _) = run(&config, &dataset);
            let (other, _) = run(&TrainingConfig { seed: 8, ..config }, &dataset);
            assert_eq!(first.weights, again.weights);
            assert_ne!(first.weights, other.weights);
        }
    }

    #[test]
    fn the_epoch_of_least_validation_loss_is_kept_whatever_the_test_part_says() {
        let config = TrainingConfig {
            validation: 0.25,
            learning_rate: 0.1,
            ..config()
        };
        let (trained, epochs) = run(&config, &dataset(80));
        assert_eq!(epochs[0].n_samples, 60);
        let loss = |stats: &EpochStats| stats.validation.unwrap().loss;
        let best = epochs
            .iter()
            .min_by(|a, b| loss(a).total_cmp(&loss(b)))
            .unwrap();
        assert!(
            best.epoch < epochs.len(),
            "a last epoch that is best shows nothing"
        );
        assert_eq!(trained.metrics.unwrap(), *best);
        let test = dataset(80).test.unwrap();
        let evaluation = Predictor::new(trained.weights).evaluate(&test);
        assert_eq!(Some(evaluation), best.test);
    }

    #[test]
    fn stopping_keeps_what_there_is() {
        let stop = AtomicBool::new(false);
        let mut n_batches = 0;
        let trained = train(&config(), &dataset(20), &stop, &mut |event| {
            if let Event::Batch { .. } = event {
                n_batches += 1;
                stop.store(n_batches == 6, Ordering::Relaxed);
            }
        });
        assert!(trained.was_stopped);
        assert_eq!(n_batches, 6);
        let metrics = trained.metrics.unwrap();
        assert_eq!((metrics.epoch, metrics.n_samples), (2, 10));

        let at_once = train(&config(), &dataset(20), &AtomicBool::new(true), &mut |_| {});
        assert!(at_once.was_stopped && at_once.metrics.is_none());
    }

    #[test]
    fn small_sets_get_more_epochs() {
        assert_eq!(default_epochs(60_000), 10);
        assert_eq!(default_epochs(8_000), 40);
        assert_eq!(default_epochs(5), 2_500);
    }
}
