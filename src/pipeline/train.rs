//! `pc train`: data set in, checkpoint out.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};

use super::log::Log;
use super::progress::{Progress, thousands};
use super::{STOP, STOPS_GRACEFULLY, set_threads, teacher};
use crate::cli::{TrainArgs, TrainingOptions};
use crate::io::output::OutputFile;
use crate::model::checkpoint::{Checkpoint, CheckpointInfo, PREPROCESSING};
use crate::model::dataset::{self, Dataset};
use crate::model::state::{self, State};
use crate::model::training::{
    self, Distillation, EpochStats, Event, Task, Trained, TrainingConfig,
};

/// Runs `pc train`.
///
/// # Errors
/// Data that cannot be used, an output that cannot be written, or training stopped before its first
/// batch.
pub fn run(args: &TrainArgs, progress: &Progress) -> Result<()> {
    set_threads(args.options.threads)?;
    let mut inputs = args.data.as_deref().map(dataset::files).unwrap_or_default();
    inputs.extend(args.teacher.clone());
    let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
    let mut output = OutputFile::create(&args.output, args.force, &inputs)?;
    let state_output = match args.save_state {
        true => Some(OutputFile::create(
            &state_path(&args.output),
            args.force,
            &inputs,
        )?),
        false => None,
    };
    let dataset = match &args.data {
        Some(path) => Dataset::open(path)?,
        None => Dataset::bundled(),
    };
    let mut state = args.resume.as_deref().map(read_state).transpose()?;
    let config = match &mut state {
        Some(state) => resumed_config(args, state)?,
        None => TrainingConfig {
            distillation: args.teacher.is_some().then_some(Distillation {
                temperature: args.temperature,
                mix: args.mix,
            }),
            ..config(&args.options, &dataset)
        },
    };
    let teacher = args.teacher.as_deref();
    let teacher = teacher
        .map(|path| teacher::read(path, dataset.train.len(), config.classes))
        .transpose()?;
    if let Some((path, state)) = args.resume.as_deref().zip(state.as_ref()) {
        ensure!(
            state.sizes()[0] == dataset.train.n_pixels
                && state.data == state::fingerprint(&dataset.train, teacher.as_ref()),
            "{}: trained on other images or labels; name with --data and --teacher what it was trained on",
            path.display()
        );
    }
    check(&config, &dataset)?;
    let mut log = match &args.log {
        Some(path) => Some(Log::open(path, args.force, args.resume.is_some())?),
        None => None,
    };

    // Until the model is saved, one signal does not end the process.
    STOPS_GRACEFULLY.store(true, Ordering::SeqCst);
    let task = Task {
        config: &config,
        dataset: &dataset,
        teacher: teacher.as_ref(),
        state,
    };
    let (trained, printed) = train(task, &STOP, progress, log.as_mut());
    let Some(metrics) = trained.metrics else {
        bail!("stopped before the first batch; nothing to save");
    };
    let ended = match (trained.was_stopped, metrics.epoch < trained.state.n_epochs) {
        (true, _) => ", training stopped early",
        (false, true) if trained.state.is_out_of_patience() => ", training out of patience",
        (false, _) => "",
    };
    let state_bytes = trained.state.to_bytes();
    let temperature = trained.temperature;
    let checkpoint = checkpoint(&config, &dataset, trained);
    output
        .write_all(&checkpoint.to_bytes()?)
        .with_context(|| format!("cannot write {}", args.output.display()))?;
    output.finish()?;
    if let Some(mut output) = state_output {
        let path = state_path(&args.output);
        output
            .write_all(&state_bytes?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        output.finish()?;
    }
    STOPS_GRACEFULLY.store(false, Ordering::SeqCst);
    printed?;
    let temperature = temperature.map_or(String::new(), |t| format!(", temperature {t:.3}"));
    progress.result(format_args!(
        "wrote {} (weights of epoch {}{temperature}{ended})",
        args.output.display(),
        metrics.epoch,
    ))?;
    Ok(())
}

/// Where the state of a run is kept: beside its model.
fn state_path(model: &Path) -> PathBuf {
    let mut name: OsString = model.into();
    name.push(".state");
    name.into()
}

fn read_state(model: &Path) -> Result<State> {
    let path = state_path(model);
    let bytes = fs::read(&path).with_context(|| {
        format!(
            "cannot read {}, which pc train --save-state writes beside the model",
            path.display()
        )
    })?;
    State::from_bytes(&bytes).with_context(|| path.display().to_string())
}

/// The configuration of a run that goes on: its own, but for where it ends.
fn resumed_config(args: &TrainArgs, state: &State) -> Result<TrainingConfig> {
    let name = args.resume.as_deref().unwrap_or(&args.output).display();
    let mut config = state.config.clone();
    ensure!(
        config.distillation.is_some() == args.teacher.is_some(),
        "{name}: trained {}",
        match args.teacher {
            Some(_) => "without a teacher; leave --teacher out",
            None => "with a teacher; name its labels with --teacher",
        }
    );
    if let Some(epochs) = args
        .options
        .epochs
        .filter(|&epochs| epochs != config.epochs)
    {
        ensure!(
            config.schedule.is_open_ended(),
            "{name}: its learning rate falls to 0 at epoch {}; leave --epochs out",
            config.epochs
        );
        config.epochs = epochs;
    }
    ensure!(
        state.n_epochs < config.epochs,
        "{name}: it has run {} epochs already; give more with --epochs",
        state.n_epochs
    );
    ensure!(
        !state.is_out_of_patience(),
        "{name}: it ended by --patience already; train anew with more"
    );
    Ok(config)
}

/// Trains without a teacher, a log or a state.
pub(super) fn train_plainly(
    options: &TrainingOptions,
    dataset: &Dataset,
    stop: &AtomicBool,
    progress: &Progress,
) -> Result<(Trained, Result<()>)> {
    let config = config(options, dataset);
    check(&config, dataset)?;
    Ok(train(Task::new(&config, dataset), stop, progress, None))
}

/// Refuses what cannot be trained.
fn check(config: &TrainingConfig, dataset: &Dataset) -> Result<()> {
    dataset.check_classes(config.classes)?;
    let (n_training, n_validation) = training::split(dataset.train.len(), config.validation);
    ensure!(
        n_training > 0,
        "--validation {} leaves nothing of {} training images",
        config.validation,
        dataset.train.len()
    );
    for (is_given, option) in [
        (config.patience.is_some(), "--patience"),
        (config.calibrate, "--calibrate"),
    ] {
        ensure!(
            !is_given || n_validation > 0,
            "{option} needs images that are held out; hold out a share with --validation 0.1"
        );
    }
    let n_pixels = dataset.train.n_pixels;
    ensure!(
        config.augment.is_none() || n_pixels.isqrt().pow(2) == n_pixels,
        "--augment needs square images; these have {n_pixels} pixels"
    );
    Ok(())
}

/// Trains with a progress bar, and a line for each epoch here and in the log. That a line could not be written is
/// returned beside what was trained, so that it costs nothing.
fn train(
    task: Task,
    stop: &AtomicBool,
    progress: &Progress,
    mut log: Option<&mut Log>,
) -> (Trained, Result<()>) {
    let (config, dataset) = (task.config, task.dataset);
    let (n_training, n_validation) = training::split(dataset.train.len(), config.validation);
    let mut printed = progress.result(format_args!(
        "{} training images, {} held out, {} test images; {} on {}",
        thousands(n_training as u64),
        thousands(n_validation as u64),
        thousands(dataset.test.as_ref().map_or(0, |test| test.len()) as u64),
        [dataset.train.n_pixels]
            .iter()
            .chain(&config.hidden)
            .chain([&config.classes])
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("-"),
        config.backend.package(),
    ));

    let mut bar = None;
    let trained = training::train(task, stop, &mut |event| match event {
        Event::Batch {
            epoch,
            n_seen,
            n_samples,
            loss,
        } => {
            let bar = bar.get_or_insert_with(|| progress.bar(n_samples as u64, "images"));
            bar.set_position(n_seen as u64);
            bar.set_message(format!("epoch {epoch}/{} loss {loss:.4}", config.epochs));
        }
        Event::Epoch(stats) => {
            if let Some(bar) = bar.take() {
                bar.finish_and_clear();
            }
            if printed.is_ok() {
                printed = progress.result(epoch_line(stats, config.epochs));
            }
            // The log goes on if nobody reads the lines.
            let logged = log.as_mut().map_or(Ok(()), |log| log.write(stats));
            if printed.is_ok() {
                printed = logged;
            }
        }
    });
    (trained, printed)
}

fn epoch_line(stats: &EpochStats, n_epochs: usize) -> String {
    let mut line = format!(
        "epoch {:>width$}/{n_epochs}  training loss {:.4}",
        stats.epoch,
        stats.training_loss,
        width = n_epochs.to_string().len(),
    );
    for (part, evaluation) in [("validation", stats.validation), ("test", stats.test)] {
        if let Some(evaluation) = evaluation {
            line += &format!(
                "  {part} loss {:.4} accuracy {:.2}%",
                evaluation.loss,
                100.0 * evaluation.accuracy
            );
        }
    }
    line + &format!(
        "  {:.2} s  {} samples/s",
        stats.seconds,
        thousands((stats.n_samples as f64 / stats.seconds) as u64)
    )
}

fn config(options: &TrainingOptions, dataset: &Dataset) -> TrainingConfig {
    let (n_training, _) = training::split(dataset.train.len(), options.validation);
    let default_epochs = training::default_epochs(n_training);
    TrainingConfig {
        hidden: options.hidden.clone(),
        classes: options.classes,
        epochs: options.epochs.unwrap_or(default_epochs),
        batch_size: options.batch_size,
        learning_rate: options.learning_rate,
        seed: options.seed,
        backend: options.backend,
        validation: options.validation,
        schedule: options.schedule,
        weight_decay: options.weight_decay,
        label_smoothing: options.label_smoothing,
        dropout: options.dropout,
        augment: options.augment,
        standardize: options.standardize,
        average: options.average,
        patience: options.patience,
        calibrate: options.calibrate,
        distillation: None,
    }
}

/// The checkpoint of a run.
fn checkpoint(config: &TrainingConfig, dataset: &Dataset, trained: Trained) -> Checkpoint {
    // Classes that the data set does not name go by their number.
    let class_names = dataset.class_names.as_ref().map(|names| {
        (0..config.classes)
            .map(|class| names.get(class).cloned().unwrap_or(class.to_string()))
            .collect()
    });
    Checkpoint {
        info: Some(CheckpointInfo {
            producer: concat!("pc ", env!("CARGO_PKG_VERSION")).to_owned(),
            layers: trained.weights.sizes(),
            preprocessing: PREPROCESSING.to_owned(),
            options: config.clone(),
            metrics: trained.metrics,
            class_names,
            temperature: trained.temperature,
        }),
        weights: trained.weights,
    }
}
