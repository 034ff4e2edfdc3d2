//! `pc eval`: predictions and the true classes in, how good they are out.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::picture::Picture;
use super::progress::{Progress, thousands};
use super::reference::References;
use super::row_labels::RowLabels;
use super::rows::{Doubt, RowReader, doubt};
use super::{input_name, open_input, read_checkpoint, set_threads};
use crate::cli::{EvalArgs, Part};
use crate::evaluation::{ClassReport, Evaluation, Report};
use crate::huffman::MAGIC;
use crate::huffman::{FrameReader, Kind};
use crate::io::input::Input;
use crate::io::source::Values;
use crate::metrics::{LEAST_PROBABILITY, softmax};
use crate::model::dataset::{Dataset, Samples};
use crate::model::inference::{Output, Predictor};
use crate::plots::{self, ReliabilityBin};

/// Rows evaluated at a time.
const CHUNK_ROWS: usize = 4096;
/// Classes told one by one, where not all are asked for.
const MAX_CLASSES_TOLD: usize = 20;
/// Characters of a class name for which columns make room.
const MAX_WIDTH: usize = 40;
/// Classes that a picture of confusions still shows.
const MAX_CLASSES_SHOWN: usize = 1000;

/// Runs `pc eval`.
///
/// # Errors
/// A model, images, predictions or labels that cannot be used, or a picture that cannot be written.
pub fn run(args: &EvalArgs, progress: &Progress) -> Result<()> {
    set_threads(args.threads)?;
    let (evaluation, class_names) = match (&args.predictions, &args.labels_file) {
        (Some(predictions), Some(labels)) => of_predictions(predictions, labels, args, progress)?,
        (Some(_), None) => {
            bail!("predictions alone do not tell the true classes; name a file with --labels-file")
        }
        (None, _) => of_model(args)?,
    };
    let report = evaluation.report(class_names.as_deref());
    ensure!(
        report.rows > 0,
        "{}: no rows to evaluate",
        args.predictions
            .as_deref()
            .or(args.data.as_deref())
            .map_or_else(String::new, input_name)
    );
    let written = match &args.plots {
        Some(folder) => {
            Pictures::create(folder, args.force)?.write(&evaluation, &report, progress)?
        }
        None => Vec::new(),
    };
    match args.json {
        true => progress.result(serde_json::to_string_pretty(&report)?)?,
        false => lines(&report)
            .into_iter()
            .try_for_each(|line| progress.result(line))?,
    }
    // The object stays alone on standard output.
    let progress = progress.beside_data(args.json);
    written
        .into_iter()
        .try_for_each(|path| progress.result(format_args!("wrote {}", path.display())))
}

/// The model on a data set.
fn of_model(args: &EvalArgs) -> Result<(Evaluation, Option<Vec<String>>)> {
    let (checkpoint, _) = read_checkpoint(&args.model)?;
    let dataset = match &args.data {
        Some(path) => Dataset::open(path)?,
        None => Dataset::bundled(),
    };
    let samples = match args.part {
        Part::Train => Some(dataset.train),
        Part::Test => dataset.test,
    };
    let samples =
        samples.context("the data have no test part; --part train evaluates the other")?;
    let (n_inputs, n_classes) = (
        checkpoint.weights.n_inputs(),
        checkpoint.weights.n_classes(),
    );
    ensure!(
        samples.n_pixels == n_inputs,
        "{}: it takes {n_inputs} numbers, the images have {} pixels",
        args.model.display(),
        samples.n_pixels
    );
    let largest = samples.labels.iter().max().copied().unwrap_or(0) as usize;
    ensure!(
        largest < n_classes,
        "{}: it tells {n_classes} classes, the data have a label {largest}",
        args.model.display()
    );
    let temperature = checkpoint.temperature();
    let predictor = Predictor::new(checkpoint.weights).with_temperature(temperature);
    let evaluation = of_samples(&predictor, &samples);
    let names = checkpoint.info.and_then(|info| info.class_names);
    Ok((evaluation, names.or(dataset.class_names)))
}

/// A network on labelled images.
pub(super) fn of_samples(predictor: &Predictor, samples: &Samples) -> Evaluation {
    let mut evaluation = Evaluation::new(predictor.weights().n_classes());
    let chunks = samples.pixels.chunks(CHUNK_ROWS * samples.n_pixels);
    for (pixels, labels) in chunks.zip(samples.labels.chunks(CHUNK_ROWS)) {
        let rows = predictor.predict(pixels, Output::Probabilities);
        for (row, &label) in rows.rows().zip(labels) {
            evaluation.add(row, label as usize);
        }
    }
    evaluation
}

/// Predictions in a file, compressed or not.
fn of_predictions(
    path: &Path,
    labels: &Path,
    args: &EvalArgs,
    progress: &Progress,
) -> Result<(Evaluation, Option<Vec<String>>)> {
    let name = || input_name(path);
    let input = Input::new(open_input(path)?).with_context(name)?;
    let labels = RowLabels::open(labels)?;
    let mut labelled = Labelled {
        name: name(),
        evaluation: None,
        labels,
        kind: args.kind,
        n_rows: 0,
        n_lost: 0,
        probabilities: Vec::new(),
    };
    if input.start().starts_with(&MAGIC) {
        let memory = args.memory.memory_limit;
        let references = References::open(&args.reference, memory)?;
        let mut frames =
            FrameReader::with_memory_limit(input.into_reader(), memory).with_context(name)?;
        let header = frames.header().clone();
        let of_file = Some(header.promise.kind).filter(|&kind| kind != Kind::Values);
        labelled.kind = labelled.kind.or(of_file);
        let bar = progress.bar(0, "rows");
        while let Some(matrix) = frames
            .next_block_with(|needed| references.find(needed))
            .with_context(name)?
        {
            bar.inc(matrix.n_rows() as u64);
            let rows = Values::F32(matrix.into_values());
            labelled.add_rows(&rows, header.classes, progress)?;
        }
        bar.finish_and_clear();
        return Ok((
            labelled.finish(header.classes, progress)?,
            header.class_names,
        ));
    }
    ensure!(
        args.reference.is_empty(),
        "{}: --reference is for .huff files; this is none; leave it out",
        name()
    );
    let mut rows = RowReader::of_input(input, name(), &args.source.options())?;
    let n_classes = rows.n_classes();
    let class_names = rows.class_names().map(<[String]>::to_vec);
    let bar = progress.bar(rows.n_rows().unwrap_or(0), "rows");
    while let Some(values) = rows.next()? {
        labelled.add_rows(&values, n_classes, progress)?;
        bar.inc((values.len() / n_classes) as u64);
    }
    bar.finish_and_clear();
    Ok((labelled.finish(n_classes, progress)?, class_names))
}

/// Rows that meet their labels.
struct Labelled {
    /// The predictions, for messages.
    name: String,
    evaluation: Option<Evaluation>,
    labels: RowLabels,
    /// What the numbers are, once it is known.
    kind: Option<Kind>,
    n_rows: u64,
    /// Rows without a number, as damage leaves them.
    n_lost: u64,
    probabilities: Vec<f64>,
}

impl Labelled {
    /// Finds out what the numbers are, if nobody has said it, by the first rows.
    fn find_kind(&mut self, rows: &Values, n_classes: usize, progress: &Progress) -> Result<()> {
        if self.kind.is_some() {
            return Ok(());
        }
        self.kind = Some(match doubt(rows, n_classes) {
            None => Kind::Probabilities,
            Some(doubt @ Doubt::Value { value, .. }) if value.is_finite() => {
                progress.warn(format_args!(
                    "{doubt}: taken for logits; --kind says otherwise"
                ));
                Kind::Logits
            }
            Some(doubt) => {
                bail!(
                    "{}: {doubt}; say what the numbers are: --kind probabilities, or --kind logits",
                    self.name
                )
            }
        });
        Ok(())
    }

    /// Takes rows in; the first ones tell what the numbers are, if nobody has said it.
    fn add_rows(&mut self, rows: &Values, n_classes: usize, progress: &Progress) -> Result<()> {
        self.find_kind(rows, n_classes, progress)?;
        match rows {
            Values::F32(values) => self.add(values, n_classes),
            Values::F64(values) => self.add(values, n_classes),
        }
    }

    fn add<T: Copy + Into<f64>>(&mut self, values: &[T], n_classes: usize) -> Result<()> {
        let evaluation = self
            .evaluation
            .get_or_insert_with(|| Evaluation::new(n_classes));
        let is_of_logits = self.kind == Some(Kind::Logits);
        for row in values.chunks_exact(n_classes) {
            let class = self.labels.next_class(n_classes)?;
            let row_number = self.n_rows;
            self.n_rows += 1;
            if row.iter().all(|&value| value.into().is_nan()) {
                self.n_lost += 1;
                continue;
            }
            // Bounds and rounding make a bit more of 1.
            let is_usable = |value: f64| match is_of_logits {
                true => value < f64::INFINITY,
                false => (0.0..=1.01).contains(&value),
            };
            if let Some(class) = row.iter().position(|&value| !is_usable(value.into())) {
                bail!(
                    "{}: row {row_number}, class {class}: {} is no {}",
                    self.name,
                    row[class].into(),
                    if is_of_logits { "logit" } else { "probability" }
                );
            }
            match is_of_logits {
                false => evaluation.add(row, class),
                true => {
                    softmax(row, &mut self.probabilities);
                    evaluation.add(&self.probabilities, class);
                }
            }
        }
        Ok(())
    }

    fn finish(self, n_classes: usize, progress: &Progress) -> Result<Evaluation> {
        self.labels.finish()?;
        if self.n_lost > 0 {
            progress.warn(format_args!(
                "{} rows hold no numbers (NaN) and are left out",
                thousands(self.n_lost)
            ));
        }
        Ok(self
            .evaluation
            .unwrap_or_else(|| Evaluation::new(n_classes)))
    }
}

/// The pictures of an evaluation, which can be begun before it is known, so that what stands in their way is
/// told first.
pub(super) struct Pictures {
    reliability: Picture,
    confusion: Picture,
}

impl Pictures {
    /// Begins them in a folder, which is made if it is not there.
    pub fn create(folder: &Path, force: bool) -> Result<Self> {
        Ok(Self {
            reliability: Picture::create(folder, "reliability.svg", force)?,
            confusion: Picture::create(folder, "confusion.svg", force)?,
        })
    }

    /// Draws them, and returns their paths.
    pub fn write(
        self,
        evaluation: &Evaluation,
        report: &Report,
        progress: &Progress,
    ) -> Result<Vec<PathBuf>> {
        let bins: Vec<ReliabilityBin> = report
            .calibration
            .iter()
            .map(|&(confidence, accuracy, n_rows)| ReliabilityBin {
                confidence,
                accuracy,
                n_rows,
            })
            .collect();
        let reliability = plots::reliability_diagram(&bins, report.calibration_error);
        let mut written = vec![self.reliability.write(&reliability)?];
        // Classes that neither occur nor were predicted are left out: a network of 100 outputs on 10 classes.
        let classes: Vec<usize> = report.per_class.iter().map(|class| class.class).collect();
        if classes.len() > MAX_CLASSES_SHOWN {
            progress.warn(format_args!(
                "no picture of confusions: {} classes occur; at most {} can be told apart in one",
                thousands(classes.len() as u64),
                thousands(MAX_CLASSES_SHOWN as u64)
            ));
            return Ok(written);
        }
        let names: Vec<String> = report
            .per_class
            .iter()
            .map(|class| class.name.clone())
            .collect();
        let counts = evaluation.confusion(&classes);
        let confusion = plots::confusion_matrix(&counts, &names);
        written.push(self.confusion.write(&confusion)?);
        Ok(written)
    }
}

/// What to know of a log loss, for a person.
pub(super) fn of_least(n_rows: u64) -> String {
    match n_rows {
        0 => String::new(),
        1 => format!(
            "; 1 row gives its true class less than {LEAST_PROBABILITY:.1e}, taken for that"
        ),
        n => format!(
            "; {} rows give their true class less than {LEAST_PROBABILITY:.1e}, taken for that",
            thousands(n)
        ),
    }
}

/// The report for a person.
fn lines(report: &Report) -> Vec<String> {
    let percent = |share: f64| format!("{:.2}%", 100.0 * share);
    let mut lines = vec![
        format!("rows           {}", thousands(report.rows)),
        format!("classes        {}", thousands(report.classes as u64)),
        format!("accuracy       {}", percent(report.accuracy)),
        format!("top 5          {}", percent(report.top_5_accuracy)),
        format!(
            "log loss       {:.4} nats{}",
            report.log_loss,
            of_least(report.rows_at_least_probability)
        ),
        format!(
            "bits a label   {:.4}, of {:.4} without a model",
            report.bits_per_label, report.bits_without_model
        ),
        format!(
            "calibration    {:.4} expected calibration error",
            report.calibration_error
        ),
        format!("Brier score    {:.4}", report.brier_score),
    ];
    for (i, pair) in report.most_confused.iter().enumerate() {
        let title = if i == 0 { "most confused" } else { "" };
        lines.push(format!(
            "{title:<14} {} taken for {}: {}",
            pair.truth,
            pair.predicted,
            thousands(pair.rows)
        ));
    }
    let mut classes: Vec<&ClassReport> = report.per_class.iter().collect();
    let mut title = "class".to_owned();
    if classes.len() > MAX_CLASSES_TOLD {
        title = "worst classes".to_owned();
        classes.sort_by(|a, b| a.recall.unwrap_or(1.0).total_cmp(&b.recall.unwrap_or(1.0)));
        classes.truncate(MAX_CLASSES_TOLD);
    }
    let width = classes
        .iter()
        .map(|class| class.name.chars().count())
        .max()
        .unwrap_or(0);
    let width = width.max(title.len()).min(MAX_WIDTH);
    lines.push(format!("{title:<width$}  precision  recall    rows"));
    for class in classes {
        let share = |share: Option<f64>| share.map_or("-".to_owned(), percent);
        lines.push(format!(
            "{:<width$}  {:>9}  {:>7}  {:>6}",
            class.name,
            share(class.precision),
            share(class.recall),
            thousands(class.rows)
        ));
    }
    lines
}
