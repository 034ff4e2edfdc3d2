//! `pc train`: data set in, checkpoint out.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};

use super::progress::{Progress, thousands};
use super::{STOP, STOPS_GRACEFULLY, set_threads};
use crate::cli::{TrainArgs, TrainingOptions};
use crate::io::output::OutputFile;
use crate::model::checkpoint::{Checkpoint, CheckpointInfo, PREPROCESSING};
use crate::model::dataset::{self, Dataset};
use crate::model::training::{self, EpochStats, Event, Trained, TrainingConfig};

/// Runs `pc train`.
///
/// # Errors
/// Data that cannot be used, an output that cannot be written, or training stopped before its first
/// batch.
pub fn run(args: &TrainArgs, progress: &Progress) -> Result<()> {
    set_threads(args.options.threads)?;
    let inputs = args.data.as_deref().map(dataset::files).unwrap_or_default();
    let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
    let mut output = OutputFile::create(&args.output, args.force, &inputs)?;
    let dataset = match &args.data {
        Some(path) => Dataset::open(path)?,
        None => Dataset::bundled(),
    };

    // Until the model is saved, one signal does not end the process.
    STOPS_GRACEFULLY.store(true, Ordering::SeqCst);
    let (trained, printed) = train(&args.options, &dataset, &STOP, progress)?;
    let Some(metrics) = trained.metrics else {
        bail!("stopped before the first batch; nothing to save");
    };
    let stopped = match trained.was_stopped {
        true => ", training stopped early",
        false => "",
    };
    let checkpoint = checkpoint(&args.options, &dataset, trained);
    output
        .write_all(&checkpoint.to_bytes()?)
        .with_context(|| format!("cannot write {}", args.output.display()))?;
    output.finish()?;
    STOPS_GRACEFULLY.store(false, Ordering::SeqCst);
    printed?;
    progress.result(format_args!(
        "wrote {} (weights of epoch {}{stopped})",
        args.output.display(),
        metrics.epoch,
    ))?;
    Ok(())
}

/// Trains with a progress bar and a line for each epoch. That a line could not be printed is returned beside
/// what was trained, so that it costs nothing.
pub(super) fn train(
    options: &TrainingOptions,
    dataset: &Dataset,
    stop: &AtomicBool,
    progress: &Progress,
) -> Result<(Trained, Result<()>)> {
    dataset.check_classes(options.classes)?;
    let config = config(options, dataset);
    let (n_training, n_validation) = training::split(dataset.train.len(), config.validation);
    if n_training == 0 {
        bail!(
            "--validation {} leaves nothing of {} training images",
            config.validation,
            dataset.train.len()
        );
    }
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
    let trained = training::train(&config, dataset, stop, &mut |event| match event {
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
        }
    });
    Ok((trained, printed))
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
    }
}

/// The checkpoint of a run.
fn checkpoint(options: &TrainingOptions, dataset: &Dataset, trained: Trained) -> Checkpoint {
    // Classes that the data set does not name go by their number.
    let class_names = dataset.class_names.as_ref().map(|names| {
        (0..options.classes)
            .map(|class| names.get(class).cloned().unwrap_or(class.to_string()))
            .collect()
    });
    Checkpoint {
        info: Some(CheckpointInfo {
            producer: concat!("pc ", env!("CARGO_PKG_VERSION")).to_owned(),
            layers: trained.weights.sizes(),
            preprocessing: PREPROCESSING.to_owned(),
            options: config(options, dataset),
            metrics: trained.metrics,
            class_names,
        }),
        weights: trained.weights,
    }
}
