//! The training loop: Adam on the mean cross-entropy of shuffled batches.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Weights;
use super::adam::{Gradients, StepSize};
use super::augment::Augmentation;
use super::calibration;
use super::dataset::{Dataset, Samples};
use super::inference::{Evaluation, Output, Predictor};
use super::network::{Backend, Parameters, Scaling};
use super::parts::Parts;
use super::schedule::Schedule;
use super::state::{self, State};
use crate::matrix::PredictionMatrix;

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
    /// How the learning rate changes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub schedule: Schedule,
    /// What weights lose at each step, as a share of them and of the learning rate.
    #[serde(default, skip_serializing_if = "is_default")]
    pub weight_decay: f64,
    /// What is taken from each label and shared by all classes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub label_smoothing: f64,
    /// Share of hidden units left out at each step.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dropout: f64,
    /// How images are distorted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub augment: Option<Augmentation>,
    /// Whether pixels are scaled to mean 0 and variance 1 while training; the weights given take them as they
    /// are.
    #[serde(default, skip_serializing_if = "is_default")]
    pub standardize: bool,
    /// If not 0, the weights given are a running mean over the steps, which keeps this share of itself at each.
    #[serde(default, skip_serializing_if = "is_default")]
    pub average: f64,
    /// Epochs without a lower validation loss after which training ends.
    #[serde(default, skip_serializing_if = "is_default")]
    pub patience: Option<usize>,
    /// Whether a temperature for the probabilities is fitted on the validation part.
    #[serde(default, skip_serializing_if = "is_default")]
    pub calibrate: bool,
    /// How to learn from a teacher's labels.
    #[serde(default, skip_serializing_if = "is_default")]
    pub distillation: Option<Distillation>,
}

/// How to learn from a teacher's labels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Distillation {
    /// By what logits are divided before both networks' probabilities are compared.
    pub temperature: f64,
    /// Share of the loss that the teacher's labels make up; the rest are the labels.
    pub mix: f64,
}

impl Distillation {
    /// Whether its numbers are among those that can be given.
    pub(super) fn is_usable(&self) -> bool {
        (0.1..=100.0).contains(&self.temperature) && (0.0..=1.0).contains(&self.mix)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The plain run: 784-128-100, ten epochs, nothing but Adam.
impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            hidden: vec![128],
            classes: 100,
            epochs: 10,
            batch_size: 128,
            learning_rate: 1e-3,
            seed: 42,
            backend: Backend::Ndarray,
            validation: 0.0,
            schedule: Schedule::Constant,
            weight_decay: 0.0,
            label_smoothing: 0.0,
            dropout: 0.0,
            augment: None,
            standardize: false,
            average: 0.0,
            patience: None,
            calibrate: false,
            distillation: None,
        }
    }
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
    /// Wall time of the epoch's training, evaluation excluded; of one that was interrupted, of all its parts.
    #[serde(skip)]
    pub seconds: f64,
    /// Training samples seen in the epoch.
    #[serde(skip)]
    pub n_samples: usize,
    /// The learning rate at the end of the epoch.
    #[serde(skip)]
    pub learning_rate: f64,
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
    /// What to divide logits by for calibrated probabilities, if it was asked for and there is a validation part.
    pub temperature: Option<f64>,
    /// What is needed to go on.
    pub state: State,
}

/// Training that came to numbers that are none, of which no model is made.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error(
    "training diverged: {what} is {value} in epoch {epoch}; train anew with a --learning-rate below {learning_rate}"
)]
pub struct Diverged {
    /// Which number.
    pub what: &'static str,
    /// NaN, or infinity.
    pub value: f64,
    /// When, counted from 1.
    pub epoch: usize,
    /// What the run was given.
    pub learning_rate: f64,
}

/// What is to be done.
#[derive(Debug)]
pub struct Task<'a> {
    /// How.
    pub config: &'a TrainingConfig,
    /// On what.
    pub dataset: &'a Dataset,
    /// A teacher's probabilities of the training samples, in their order; used if the configuration says how.
    pub teacher: Option<&'a PredictionMatrix>,
    /// Where an earlier run of the same configuration and data got to.
    pub state: Option<State>,
}

impl<'a> Task<'a> {
    /// A run from the beginning, without a teacher.
    pub fn new(config: &'a TrainingConfig, dataset: &'a Dataset) -> Self {
        Self {
            config,
            dataset,
            teacher: None,
            state: None,
        }
    }
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
/// of threads, and however often it was stopped and went on.
///
/// # Errors
/// [`Diverged`], as soon as a batch's loss, or after an epoch a weight or another loss, is NaN or infinite.
///
/// # Panics
/// If a label is not below `config.classes` (see [`Dataset::check_classes`]), the batch size is 0, images are to be
/// distorted and are not square, or a teacher's labels or a state are of other data.
pub fn train(
    task: Task,
    stop: &AtomicBool,
    on_event: &mut (dyn FnMut(Event) + Send),
) -> Result<Trained, Diverged> {
    // On a thread of the pool, where handing out the parts of a batch costs least.
    rayon::scope(|_| train_here(task, stop, on_event))
}

fn train_here(
    task: Task,
    stop: &AtomicBool,
    on_event: &mut dyn FnMut(Event),
) -> Result<Trained, Diverged> {
    let Task {
        config,
        dataset,
        teacher,
        state,
    } = task;
    let mut rng = StdRng::seed_from_u64(config.seed);
    let sizes: Vec<usize> = [dataset.train.n_pixels]
        .iter()
        .chain(&config.hidden)
        .chain([&config.classes])
        .copied()
        .collect();
    // Drawn even if a state replaces them, so that the order of samples is the same.
    let parameters = Parameters::init(&sizes, &mut rng);

    let mut order: Vec<usize> = (0..dataset.train.len()).collect();
    order.shuffle(&mut rng);
    let (n_training, n_validation) = split(order.len(), config.validation);
    let validation = order.split_off(n_training);
    let validation = (n_validation > 0).then(|| dataset.train.select(&validation));
    let scaling = match config.standardize {
        true => {
            let images = order.iter().map(|&i| dataset.train.image(i));
            Scaling::standardizing(images.flatten())
        }
        false => Scaling::default(),
    };
    let parts = Parts::new(config, &dataset.train, scaling, teacher);

    let data = state::fingerprint(&dataset.train, teacher);
    let mut state = match state {
        Some(state) => state.with_config(config),
        None => State::new(config, data, parameters),
    };
    assert_eq!(
        state.parameters.sizes, sizes,
        "the state is of another network"
    );
    assert_eq!(state.data, data, "the state is of other data");
    for _ in 0..state.n_epochs {
        order.shuffle(&mut rng);
    }

    let batches_per_epoch = order.len().div_ceil(config.batch_size);
    let n_batches = config.epochs * batches_per_epoch;
    // Of an epoch that was stopped midway, which is not for the state to remember.
    let mut partial = None;
    let mut was_stopped = false;
    while state.n_epochs < config.epochs && !state.is_out_of_patience() {
        if stop.load(Ordering::Relaxed) {
            was_stopped = true;
            break;
        }
        let start = Instant::now();
        let epoch = state.n_epochs + 1;
        let check = |what, value: f64| match value.is_finite() {
            true => Ok(()),
            false => Err(Diverged {
                what,
                value,
                epoch,
                learning_rate: config.learning_rate,
            }),
        };
        order.shuffle(&mut rng);
        let mut learning_rate = config.learning_rate;
        for (batch, indices) in order.chunks(config.batch_size).enumerate() {
            if batch < state.n_batches {
                continue;
            }
            let gradients: Vec<(f64, Gradients)> = indices
                .par_chunks(PART_SAMPLES)
                .map(|part| {
                    let (loss, tensors) = parts.gradients(&state.parameters, epoch, part);
                    let share = part.len() as f32 / indices.len() as f32;
                    (loss * part.len() as f64, Gradients { share, tensors })
                })
                .collect();
            let (losses, gradients): (Vec<f64>, Vec<Gradients>) = gradients.into_iter().unzip();
            let n_before = state.n_epochs * batches_per_epoch + batch;
            learning_rate = config.learning_rate * config.schedule.factor(n_before, n_batches);
            let size = StepSize {
                learning_rate: learning_rate as f32,
                weight_decay: config.weight_decay as f32,
            };
            state.step(size, &gradients);
            state.loss_sum += losses.iter().sum::<f64>();
            check("the training loss", state.loss_sum)?;
            state.n_batches = batch + 1;
            let n_seen = order.len().min(state.n_batches * config.batch_size);
            on_event(Event::Batch {
                epoch,
                n_seen,
                n_samples: order.len(),
                loss: state.loss_sum / n_seen as f64,
            });
            if stop.load(Ordering::Relaxed) {
                was_stopped = true;
                break;
            }
        }
        state.seconds += start.elapsed().as_secs_f64();

        let weights = scaling.fold_into(state.averaged().weights());
        let mut numbers = weights
            .layers
            .iter()
            .flat_map(|l| l.weight.iter().chain(&l.bias));
        if let Some(&weight) = numbers.find(|weight| !weight.is_finite()) {
            check("a weight", weight.into())?;
        }
        let predictor = Predictor::new(weights);
        let n_samples = order.len().min(state.n_batches * config.batch_size);
        let stats = EpochStats {
            epoch,
            training_loss: state.loss_sum / n_samples as f64,
            validation: validation.as_ref().map(|part| predictor.evaluate(part)),
            test: dataset.test.as_ref().map(|part| predictor.evaluate(part)),
            seconds: state.seconds,
            n_samples,
            learning_rate,
        };
        for (what, part) in [
            ("the validation loss", stats.validation),
            ("the test loss", stats.test),
        ] {
            check(what, part.map_or(0.0, |part| part.loss))?;
        }
        on_event(Event::Epoch(&stats));
        match state.n_batches == batches_per_epoch {
            true => state.finish_epoch(stats),
            false => partial = Some(stats),
        }
    }
    let (parameters, metrics) = state.chosen(partial);
    let weights = scaling.fold_into(parameters.weights());
    let calibrated = validation.filter(|_| config.calibrate && metrics.is_some());
    Ok(Trained {
        temperature: calibrated.map(|part| temperature(&weights, &part)),
        weights,
        metrics,
        was_stopped,
        state,
    })
}

/// The temperature that makes the probabilities of a network fit labels best.
fn temperature(weights: &Weights, samples: &Samples) -> f64 {
    let predictor = Predictor::new(weights.clone());
    let logits = predictor.predict(&samples.pixels[..], Output::Logits);
    calibration::temperature(&logits, &samples.labels)
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
            ..TrainingConfig::default()
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
        let task = Task::new(config, dataset);
        let trained = train(task, &AtomicBool::new(false), &mut |event| {
            if let Event::Epoch(stats) = event {
                epochs.push(*stats);
            }
        });
        (trained.unwrap(), epochs)
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
        let (config, dataset) = (config(), dataset(20));
        let trained = train(Task::new(&config, &dataset), &stop, &mut |event| {
            if let Event::Batch { .. } = event {
                n_batches += 1;
                stop.store(n_batches == 6, Ordering::Relaxed);
            }
        })
        .unwrap();
        assert!(trained.was_stopped);
        assert_eq!(n_batches, 6);
        let metrics = trained.metrics.unwrap();
        assert_eq!((metrics.epoch, metrics.n_samples), (2, 10));

        let stop = AtomicBool::new(true);
        let at_once = train(Task::new(&config, &dataset), &stop, &mut |_| {}).unwrap();
        assert!(at_once.was_stopped && at_once.metrics.is_none());
    }

    #[test]
    fn small_sets_get_more_epochs() {
        assert_eq!(default_epochs(60_000), 10);
        assert_eq!(default_epochs(8_000), 40);
        assert_eq!(default_epochs(5), 2_500);
    }

    /// All that draws random numbers or remembers something.
    fn elaborate() -> TrainingConfig {
        TrainingConfig {
            epochs: 4,
            batch_size: 70,
            validation: 0.2,
            schedule: Schedule::Cosine,
            weight_decay: 0.1,
            label_smoothing: 0.1,
            dropout: 0.2,
            augment: Some(Augmentation::DIGITS.parse().unwrap()),
            standardize: true,
            average: 0.9,
            calibrate: true,
            ..config()
        }
    }

    #[test]
    fn a_run_that_was_stopped_and_went_on_gives_the_same_bits() {
        let (config, dataset) = (elaborate(), dataset(200));
        let (whole, epochs) = run(&config, &dataset);
        assert!(whole.temperature.is_some());
        // After a batch in the midst of an epoch, after the last of one, before the first, twice.
        for stops in [vec![3], vec![6], vec![0], vec![2, 3, 3]] {
            let mut state = None;
            let mut n_epochs = 0;
            for n_batches in stops.into_iter().chain([usize::MAX]) {
                let stop = AtomicBool::new(n_batches == 0);
                let mut n_seen = 0;
                let task = Task {
                    state: state.take(),
                    ..Task::new(&config, &dataset)
                };
                let trained = train(task, &stop, &mut |event| match event {
                    Event::Batch { .. } => {
                        n_seen += 1;
                        stop.store(n_seen == n_batches, Ordering::Relaxed);
                    }
                    Event::Epoch(_) => n_epochs += 1,
                })
                .unwrap();
                let bytes = trained.state.to_bytes("").unwrap();
                state = Some(State::from_bytes(&bytes, "").unwrap());
                assert_eq!(state.as_ref().unwrap().to_bytes("").unwrap(), bytes);
                if n_batches == usize::MAX {
                    assert_eq!(trained.weights, whole.weights);
                    assert_eq!(trained.temperature, whole.temperature);
                    let figures = |t: &Trained| serde_json::to_string(&t.metrics).unwrap();
                    assert_eq!(figures(&trained), figures(&whole));
                }
            }
            assert!(n_epochs >= epochs.len());
        }
    }

    #[test]
    fn an_epoch_that_was_interrupted_takes_the_time_of_its_parts() {
        let (config, dataset) = (config(), dataset(20));
        let stop = AtomicBool::new(false);
        let mut first = train(Task::new(&config, &dataset), &stop, &mut |_| {
            stop.store(true, Ordering::Relaxed);
        })
        .unwrap()
        .state;
        assert!(first.seconds > 0.0 && first.n_batches == 1);
        first.seconds += 100.0;
        let task = Task {
            state: Some(first),
            ..Task::new(&config, &dataset)
        };
        let mut seconds = Vec::new();
        train(task, &AtomicBool::new(false), &mut |event| {
            if let Event::Epoch(stats) = event {
                assert_eq!(stats.n_samples, 20);
                seconds.push(stats.seconds);
            }
        })
        .unwrap();
        assert!(seconds[0] > 100.0 && seconds[1] < 100.0, "{seconds:?}");
    }

    #[test]
    fn more_epochs_go_on_where_a_run_ended() {
        let (config, dataset) = (config(), dataset(50));
        let short = TrainingConfig {
            epochs: 8,
            ..config.clone()
        };
        let (first, _) = run(&short, &dataset);
        let task = Task {
            state: Some(first.state),
            ..Task::new(&config, &dataset)
        };
        let rest = train(task, &AtomicBool::new(false), &mut |_| {}).unwrap();
        assert_eq!(rest.weights, run(&config, &dataset).0.weights);
        assert_eq!(rest.metrics.unwrap().epoch, 20);
    }

    #[test]
    fn what_diverges_is_told() {
        // Weights 99 times as large after each step.
        let config = TrainingConfig {
            learning_rate: 10.0,
            weight_decay: 10.0,
            epochs: 200,
            ..config()
        };
        let mut n_epochs = 0;
        let dataset = dataset(20);
        let task = Task::new(&config, &dataset);
        let trained = train(task, &AtomicBool::new(false), &mut |event| match event {
            Event::Batch { loss, .. } => assert!(loss.is_finite()),
            Event::Epoch(stats) => n_epochs = stats.epoch,
        });
        let diverged = trained.unwrap_err();
        assert_eq!(diverged.epoch, n_epochs + 1);
        let message = diverged.to_string();
        assert!(message.starts_with("training diverged: "), "{message}");
        let end = "; train anew with a --learning-rate below 10";
        assert!(message.ends_with(end), "{message}");
    }

    #[test]
    fn patience_ends_training_after_so_many_epochs_without_a_lower_loss() {
        let config = TrainingConfig {
            validation: 0.25,
            learning_rate: 0.1,
            epochs: 200,
            patience: Some(3),
            ..config()
        };
        let (trained, epochs) = run(&config, &dataset(80));
        assert!(!trained.was_stopped);
        assert_eq!(trained.metrics.unwrap().epoch + 3, epochs.len());
    }

    #[test]
    fn each_means_changes_the_weights_and_threads_do_not() {
        let plain = TrainingConfig {
            epochs: 2,
            batch_size: 130,
            ..config()
        };
        let dataset = dataset(200);
        let (reference, _) = run(&plain, &dataset);
        type Change = fn(&mut TrainingConfig);
        let changes: [Change; 7] = [
            |c| c.schedule = Schedule::Cosine,
            |c| c.weight_decay = 0.1,
            |c| c.label_smoothing = 0.1,
            |c| c.dropout = 0.1,
            |c| c.augment = Some(Augmentation::DIGITS.parse().unwrap()),
            |c| c.standardize = true,
            |c| c.average = 0.9,
        ];
        for change in changes {
            let mut config = plain.clone();
            change(&mut config);
            let (changed, _) = run(&config, &dataset);
            assert_ne!(changed.weights, reference.weights, "{config:?}");
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build();
            let (again, _) = pool.unwrap().install(|| run(&config, &dataset));
            assert_eq!(changed.weights, again.weights, "{config:?}");
        }
    }

    #[test]
    fn a_teacher_is_followed_against_the_labels() {
        let dataset = dataset(40);
        // The teacher says the class after the label.
        let mut values = vec![0.0; 40 * 100];
        for (row, &label) in dataset.train.labels.iter().enumerate() {
            values[row * 100 + (label as usize + 1) % 100] = 1.0;
        }
        let teacher = PredictionMatrix::new(100, values);
        let config = TrainingConfig {
            epochs: 60,
            distillation: Some(Distillation {
                temperature: 2.0,
                mix: 0.9,
            }),
            ..config()
        };
        let task = Task {
            teacher: Some(&teacher),
            ..Task::new(&config, &dataset)
        };
        let trained = train(task, &AtomicBool::new(false), &mut |_| {}).unwrap();
        let predictor = Predictor::new(trained.weights);
        let predictions = predictor.predict(&dataset.train.pixels[..], Output::Logits);
        let n_followed = predictions
            .rows()
            .zip(teacher.rows())
            .filter(|(student, teacher)| {
                crate::matrix::argmax(student) == crate::matrix::argmax(teacher)
            })
            .count();
        assert!(n_followed > 35, "{n_followed}");
    }
}
