//! `pc train`: data set in, checkpoint out.

use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::log::Log;
use super::picture::Picture;
use super::progress::{Progress, thousands};
use super::{STOP, STOPS_GRACEFULLY, eval, set_threads, teacher, unreadable};
use crate::cli::{TrainArgs, TrainingOptions};
use crate::io::output::{OutputFile, is_same_place};
use crate::model::checkpoint::{self, Checkpoint, CheckpointInfo, PREPROCESSING};
use crate::model::dataset::{self, Dataset, Samples};
use crate::model::inference::Predictor;
use crate::model::state::{self, State};
use crate::model::training::{
    self, Distillation, Diverged, EpochStats, Event, Task, Trained, TrainingConfig,
};
use crate::plots::{self, Chart, Series};

/// Runs `pc train`.
///
/// # Errors
/// Data that cannot be used, an output that cannot be written, training that diverged, or was stopped before its
/// first batch.
pub fn run(args: &TrainArgs, progress: &Progress) -> Result<()> {
    set_threads(args.options.threads)?;
    let mut inputs = args.data.as_deref().map(dataset::files).unwrap_or_default();
    inputs.extend(args.teacher.clone());
    let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
    check_places(args, &inputs)?;
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
        .map(|path| {
            let memory = args.memory.memory_limit;
            teacher::read(path, dataset.train.len(), config.classes, memory)
        })
        .transpose()?;
    if let Some((path, state)) = args.resume.as_deref().zip(state.as_ref()) {
        ensure!(
            state.sizes()[0] == dataset.train.n_pixels
                && state.data == state::fingerprint(&dataset.train, teacher.as_ref()),
            "{}: trained on other images or labels; name with --data and --teacher what it was trained on",
            path.display()
        );
        ensure!(
            state.fits(dataset.train.len()),
            "{}: it has learned other batches than these images make; train anew",
            state_path(path).display()
        );
    }
    check(&config, &dataset)?;
    let pictures = args.plots.as_deref();
    let pictures = pictures
        .map(|folder| Pictures::create(folder, args.force, dataset.test.is_some()))
        .transpose()?;
    let mut record = Record {
        log: match &args.log {
            Some(path) => {
                let n_epochs = state.as_ref().map(|state| state.n_epochs);
                Some(Log::open(path, args.force, n_epochs)?)
            }
            None => None,
        },
        epochs: Vec::new(),
    };

    // Until the model is saved, one signal does not end the process.
    STOPS_GRACEFULLY.store(true, Ordering::SeqCst);
    let task = Task {
        config: &config,
        dataset: &dataset,
        teacher: teacher.as_ref(),
        state,
    };
    let (trained, printed) = train(task, &STOP, progress, &mut record)?;
    let Some(metrics) = trained.metrics else {
        bail!("stopped before the first batch; nothing to save");
    };
    let ended = match (trained.was_stopped, metrics.epoch < trained.state.n_epochs) {
        (true, _) => ", training stopped early",
        (false, true) if trained.state.is_out_of_patience() => ", training out of patience",
        (false, _) => "",
    };
    let state = state_output.map(|output| (output, trained.state.clone()));
    let temperature = trained.temperature;
    let checkpoint = checkpoint(&config, &dataset, trained);
    let bytes = checkpoint.to_bytes()?;
    output
        .write_all(&bytes)
        .with_context(|| format!("cannot write {}", args.output.display()))?;
    output.finish()?;
    if let Some((mut output, state)) = state {
        let path = state_path(&args.output);
        output
            .write_all(&state.to_bytes(&checkpoint::sha256(&bytes))?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        output.finish()?;
    }
    let pictures = match pictures {
        Some(pictures) => {
            pictures.write(&record.epochs, &checkpoint, dataset.test.as_ref(), progress)?
        }
        None => Vec::new(),
    };
    STOPS_GRACEFULLY.store(false, Ordering::SeqCst);
    printed?;
    let temperature = temperature.map_or(String::new(), |t| format!(", temperature {t:.3}"));
    progress.result(format_args!(
        "wrote {} (weights of epoch {}{temperature}{ended})",
        args.output.display(),
        metrics.epoch,
    ))?;
    pictures
        .into_iter()
        .try_for_each(|path| progress.result(format_args!("wrote {}", path.display())))
}

/// Refuses a log or pictures that would take the place of something else that is written, or read.
fn check_places(args: &TrainArgs, inputs: &[&Path]) -> Result<()> {
    let mut written = vec![("-o", args.output.clone())];
    if args.save_state {
        written.push(("--save-state", state_path(&args.output)));
    }
    written.extend(args.log.clone().map(|log| ("--log", log)));
    let n_before = written.len();
    if let Some(folder) = &args.plots {
        written.push(("--plots", folder.clone()));
        let names = ["learning.svg", "reliability.svg", "confusion.svg"];
        written.extend(names.map(|name| ("--plots", folder.join(name))));
    }
    let resumed = args.resume.iter();
    let resumed: Vec<PathBuf> = resumed
        .flat_map(|model| [model.clone(), state_path(model)])
        .collect();
    for (i, (option, path)) in written.iter().enumerate() {
        let mut before = written[..i.min(n_before)].iter();
        if let Some((other, _)) = before.find(|(_, other)| is_same_place(path, other)) {
            bail!(
                "{}: {option} would write it as well as {other}; give another name with {option}",
                path.display()
            );
        }
        let mut read = inputs
            .iter()
            .copied()
            .chain(resumed.iter().map(|p| p.as_path()));
        // What is resumed may be replaced by what comes of it.
        ensure!(
            matches!(*option, "-o" | "--save-state") || !read.any(|read| is_same_place(path, read)),
            "{}: {option} would write it, and it is read; give another name with {option}",
            path.display()
        );
    }
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
    let bytes = fs::read(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow!(
            "{}: no such file or folder; pc train --save-state writes it beside the model",
            path.display()
        ),
        _ => unreadable(&path, "read", error),
    })?;
    let of_model = fs::read(model).map_err(|error| unreadable(model, "read", error))?;
    let state = State::from_bytes(&bytes, &checkpoint::sha256(&of_model));
    state.with_context(|| path.display().to_string())
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
            "{name}: its learning rate falls to 0 at epoch {}; {}",
            config.epochs,
            match state.n_epochs < config.epochs {
                true => "leave --epochs out",
                false => "train anew for more",
            }
        );
        config.epochs = epochs;
    }
    ensure!(
        state.n_epochs < config.epochs,
        "{name}: it has run {} epochs already; {}",
        state.n_epochs,
        match config.schedule.is_open_ended() {
            true => "give more with --epochs",
            false => "train anew for more",
        }
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
    let mut record = Record::default();
    let task = Task::new(&config, dataset);
    Ok(train(task, stop, progress, &mut record)?)
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

/// What is kept of the epochs.
#[derive(Default)]
struct Record {
    log: Option<Log>,
    epochs: Vec<EpochStats>,
}

impl Record {
    fn add(&mut self, stats: &EpochStats) -> Result<()> {
        self.epochs.push(*stats);
        // The log goes on if nobody reads the lines.
        self.log.as_mut().map_or(Ok(()), |log| log.write(stats))
    }
}

/// The pictures of a run, begun before it, so that what stands in their way is told first.
struct Pictures {
    learning: Picture,
    /// Of the test part, if there is one.
    test: Option<eval::Pictures>,
}

impl Pictures {
    fn create(folder: &Path, force: bool, has_test: bool) -> Result<Self> {
        Ok(Self {
            learning: Picture::create(folder, "learning.svg", force)?,
            test: match has_test {
                true => Some(eval::Pictures::create(folder, force)?),
                false => None,
            },
        })
    }

    fn write(
        self,
        epochs: &[EpochStats],
        checkpoint: &Checkpoint,
        test: Option<&Samples>,
        progress: &Progress,
    ) -> Result<Vec<PathBuf>> {
        let mut written = vec![self.learning.write(&plots::charts(&curves(epochs)))?];
        if let Some((pictures, test)) = self.test.zip(test) {
            let predictor = Predictor::new(checkpoint.weights.clone());
            let predictor = predictor.with_temperature(checkpoint.temperature());
            let evaluation = eval::of_samples(&predictor, test);
            let info = checkpoint.info.as_ref();
            let names = info.and_then(|info| info.class_names.as_deref());
            written.extend(pictures.write(&evaluation, &evaluation.report(names), progress)?);
        }
        Ok(written)
    }
}

/// Loss and accuracy by epoch.
fn curves(epochs: &[EpochStats]) -> Vec<Chart> {
    let series = |name: &str, y: &dyn Fn(&EpochStats) -> Option<f64>| {
        let points = epochs
            .iter()
            .filter_map(|stats| Some((stats.epoch as f64, y(stats)?)));
        Series {
            name: name.to_owned(),
            points: points.filter(|(_, y)| y.is_finite()).collect(),
        }
    };
    let chart = |title: &str, y: &str, series: Vec<Series>| Chart {
        title: title.to_owned(),
        x: "epoch".to_owned(),
        y: y.to_owned(),
        is_logarithmic: false,
        series: series
            .into_iter()
            .filter(|series| !series.points.is_empty())
            .collect(),
    };
    let charts = [
        chart(
            "Loss",
            "cross-entropy, nats",
            vec![
                series("training", &|stats| Some(stats.training_loss)),
                series("validation", &|stats| Some(stats.validation?.loss)),
                series("test", &|stats| Some(stats.test?.loss)),
            ],
        ),
        chart(
            "Accuracy",
            "accuracy",
            vec![
                series("validation", &|stats| Some(stats.validation?.accuracy)),
                series("test", &|stats| Some(stats.test?.accuracy)),
            ],
        ),
    ];
    let has_series = |chart: &Chart| !chart.series.is_empty();
    charts.into_iter().filter(has_series).collect()
}

/// Trains with a progress bar, and a line for each epoch here and in the log. That a line could not be written is
/// returned beside what was trained, so that it costs nothing.
fn train(
    task: Task,
    stop: &AtomicBool,
    progress: &Progress,
    record: &mut Record,
) -> Result<(Trained, Result<()>), Diverged> {
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
            let logged = record.add(stats);
            if printed.is_ok() {
                printed = logged;
            }
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok((trained?, printed))
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
