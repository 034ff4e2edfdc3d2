//! `pc train`: data set in, checkpoint out.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};

use super::progress::{Progress, thousands};
use super::{STOP, STOPS_GRACEFULLY, set_threads};
use crate::cli::{TrainArgs, TrainingOptions};
use crate::io::output::OutputFile;
use crate::model::checkpoint::{Checkpoint, CheckpointInfo, PREPROCESSING};
use crate::model::dataset::Dataset;
use crate::model::network::Backend;
use crate::model::training::{self, EpochStats, Event, Trained, TrainingConfig};

/// Runs `pc train`.
///
/// # Errors
/// Data that cannot be used, an output that cannot be written, or training stopped before its first
/// batch.
pub fn run(args: &TrainArgs, progress: &Progress) -> Result<()> {
    set_threads(args.options.threads)?;
    let mut output = OutputFile::create(&args.output, args.force, &[])?;
    let dataset = match &args.data {
        Some(path) => Dataset::open(path)?,
        None => Dataset::bundled(),
    };

    STOPS_GRACEFULLY.store(true, Ordering::SeqCst);
    let trained = train(&args.options, &dataset, &STOP, progress)?;
    STOPS_GRACEFULLY.store(false, Ordering::SeqCst);
    let Some(metrics) = trained.metrics else {
        bail!("stopped before the first batch; nothing to save");
    };

    let checkpoint = checkpoint(&args.options, &dataset, trained)?;
    output
        .write_all(&checkpoint.to_bytes()?)
        .with_context(|| format!("cannot write {}", args.output.display()))?;
    output.finish()?;
    let stopped = match STOP.load(Ordering::SeqCst) {
        true => ", training stopped early",
        false => "",
    };
    progress.result(format_args!(
        "wrote {} (weights of epoch {}{stopped})",
        args.output.display(),
        metrics.epoch,
    ))?;
    Ok(())
}

/// Trains with a progress bar and a line for each epoch.
pub(super) fn train(
    options: &TrainingOptions,
    dataset: &Dataset,
    stop: &AtomicBool,
    progress: &Progress,
) -> Result<Trained> {
    dataset.check_labels(options.classes)?;
    let config = config(options, dataset);
    let (n_training, n_validation) = training::split(dataset.train.len(), config.validation);
    if n_training == 0 {
        bail!(
            "--validation {} leaves nothing of {} training images",
            config.validation,
            dataset.train.len()
        );
    }
    progress.result(format_args!(
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
        match config.backend {
            Backend::Ndarray => "burn-ndarray",
            Backend::Flex => "burn-flex",
        },
    ))?;

    let mut bar = None;
    let mut printed = Ok(());
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
    printed?;
    Ok(trained)
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
    let default_epochs = training::default_epochs(n_training, options.batch_size);
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
///
/// # Errors
/// If the data set names more classes than the network has.
pub(super) fn checkpoint(
    options: &TrainingOptions,
    dataset: &Dataset,
    trained: Trained,
) -> Result<Checkpoint> {
    let class_names = match &dataset.class_names {
        None => None,
        Some(names) if names.len() > options.classes => bail!(
            "classes.txt names {} classes; expected at most the {} of --classes",
            names.len(),
            options.classes
        ),
        // Classes that the file does not name go by their number.
        Some(names) => Some(
            (0..options.classes)
                .map(|class| names.get(class).cloned().unwrap_or(class.to_string()))
                .collect(),
        ),
    };
    Ok(Checkpoint {
        info: Some(CheckpointInfo {
            producer: concat!("pc ", env!("CARGO_PKG_VERSION")).to_owned(),
            layers: trained.weights.sizes(),
            preprocessing: PREPROCESSING.to_owned(),
            options: config(options, dataset),
            metrics: trained.metrics,
            class_names,
        }),
        weights: trained.weights,
    })
}
