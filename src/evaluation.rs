//! How good predictions are, in all the figures that people ask for: one pass over rows and labels.

use std::collections::HashMap;

use serde::Serialize;

use crate::metrics::{CalibrationError, LogLoss};

/// Rows whose true class is among so many of the most probable ones count for [`Report::top_5_accuracy`].
const TOP: usize = 5;
/// Pairs of classes told in a report.
const N_CONFUSED: usize = 10;

/// Takes rows of probabilities and their true classes, and gives a [`Report`].
#[derive(Debug, Clone)]
pub struct Evaluation {
    n_rows: u64,
    n_right: u64,
    n_in_top: u64,
    log_loss: LogLoss,
    calibration: CalibrationError,
    brier: f64,
    /// By true class and by predicted class.
    confusion: HashMap<(usize, usize), u64>,
    n_true: Vec<u64>,
    n_predicted: Vec<u64>,
}

/// What [`Evaluation`] found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Rows evaluated.
    pub rows: u64,
    /// Classes (columns).
    pub classes: usize,
    /// Share of rows whose most probable class is the true one.
    pub accuracy: f64,
    /// Share of rows whose true class is among the five most probable ones.
    pub top_5_accuracy: f64,
    /// Mean negative log of the true class's probability, in nats.
    pub log_loss: f64,
    /// Rows whose true class has less than [`LEAST_PROBABILITY`](crate::metrics::LEAST_PROBABILITY), 0 say,
    /// and is taken to have that.
    pub rows_at_least_probability: u64,
    /// The same as `log_loss` in bits: what a label costs once the model has predicted it (Shannon 1948).
    pub bits_per_label: f64,
    /// What it costs without a model: log2 of the number of classes.
    pub bits_without_model: f64,
    /// Expected calibration error.
    pub calibration_error: f64,
    /// Mean squared distance of the row from the true class's (Brier, "Verification of forecasts expressed
    /// in terms of probability", 1950): 0 at best, 2 at worst.
    pub brier_score: f64,
    /// One for each class that occurs or was predicted.
    pub per_class: Vec<ClassReport>,
    /// The pairs taken for each other most often, most often first.
    pub most_confused: Vec<Confused>,
    /// Bins of the calibration error: mean confidence, accuracy, rows.
    pub calibration: Vec<(f64, f64, u64)>,
}

/// Figures of a class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassReport {
    /// The class's number.
    pub class: usize,
    /// Its name, or its number as text.
    pub name: String,
    /// Rows of this class.
    pub rows: u64,
    /// Of the rows predicted to be of this class, the share that is; `None` if there is none.
    pub precision: Option<f64>,
    /// Of the rows of this class, the share predicted to be; `None` if there is none.
    pub recall: Option<f64>,
}

/// A class that was taken for another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Confused {
    /// The true class's name.
    pub truth: String,
    /// The predicted class's name.
    pub predicted: String,
    /// How often.
    pub rows: u64,
}

impl Evaluation {
    /// Before the first row.
    pub fn new(n_classes: usize) -> Self {
        Self {
            n_rows: 0,
            n_right: 0,
            n_in_top: 0,
            log_loss: LogLoss::default(),
            calibration: CalibrationError::default(),
            brier: 0.0,
            confusion: HashMap::new(),
            n_true: vec![0; n_classes],
            n_predicted: vec![0; n_classes],
        }
    }

    /// Takes a row of probabilities in.
    ///
    /// # Panics
    /// If `label` is no column of the row.
    pub fn add<T: Copy + Into<f64>>(&mut self, row: &[T], label: usize) {
        let truth: f64 = row[label].into();
        let mut predicted = 0;
        let mut highest = f64::NEG_INFINITY;
        // Classes before the true one, under NumPy's rule for ties.
        let mut n_before = 0;
        let mut squares = 0.0;
        for (class, &value) in row.iter().enumerate() {
            let value: f64 = value.into();
            if value > highest {
                (predicted, highest) = (class, value);
            }
            n_before += usize::from(value > truth || (value == truth && class < label));
            squares += value * value;
        }
        self.n_rows += 1;
        self.n_right += u64::from(predicted == label);
        self.n_in_top += u64::from(n_before < TOP);
        self.log_loss.add(row, label);
        self.calibration.add(row, label);
        // The squares of the others, and of what the true class lacks.
        self.brier += squares - truth * truth + (1.0 - truth) * (1.0 - truth);
        *self.confusion.entry((label, predicted)).or_default() += 1;
        self.n_true[label] += 1;
        self.n_predicted[predicted] += 1;
    }

    /// How often each of these classes was taken for each, by true class; square, so for few classes.
    pub fn confusion(&self, classes: &[usize]) -> Vec<Vec<u64>> {
        let count = |pair| self.confusion.get(&pair).copied().unwrap_or(0);
        let row = |&truth| classes.iter().map(|&class| count((truth, class))).collect();
        classes.iter().map(row).collect()
    }

    /// The figures. Classes without a name go by their number.
    pub fn report(&self, class_names: Option<&[String]>) -> Report {
        let name = |class: usize| match class_names.and_then(|names| names.get(class)) {
            Some(name) => name.clone(),
            None => class.to_string(),
        };
        let share = |n: u64, of: u64| (of > 0).then(|| n as f64 / of as f64);
        let n_right = |class| self.confusion.get(&(class, class)).copied().unwrap_or(0);
        let n_classes = self.n_true.len();
        let mut confused: Vec<_> = self
            .confusion
            .iter()
            .filter(|((truth, predicted), _)| truth != predicted)
            .collect();
        confused.sort_unstable_by_key(|&(pair, count)| (std::cmp::Reverse(count), pair));
        Report {
            rows: self.n_rows,
            classes: n_classes,
            accuracy: share(self.n_right, self.n_rows).unwrap_or(0.0),
            top_5_accuracy: share(self.n_in_top, self.n_rows).unwrap_or(0.0),
            log_loss: self.log_loss.mean(),
            rows_at_least_probability: self.log_loss.n_least(),
            bits_per_label: self.log_loss.mean() / std::f64::consts::LN_2,
            bits_without_model: (n_classes as f64).log2(),
            calibration_error: self.calibration.error(),
            brier_score: self.brier / self.n_rows.max(1) as f64,
            per_class: (0..n_classes)
                .filter(|&class| self.n_true[class] + self.n_predicted[class] > 0)
                .map(|class| ClassReport {
                    class,
                    name: name(class),
                    rows: self.n_true[class],
                    precision: share(n_right(class), self.n_predicted[class]),
                    recall: share(n_right(class), self.n_true[class]),
                })
                .collect(),
            most_confused: confused
                .into_iter()
                .take(N_CONFUSED)
                .map(|(&(truth, predicted), &rows)| Confused {
                    truth: name(truth),
                    predicted: name(predicted),
                    rows,
                })
                .collect(),
            calibration: self.calibration.bins().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_worked_out_by_hand() {
        let mut evaluation = Evaluation::new(3);
        evaluation.add(&[0.5f32, 0.25, 0.25], 0);
        evaluation.add(&[0.5f32, 0.25, 0.25], 2);
        evaluation.add(&[0.0f32, 1.0, 0.0], 1);
        evaluation.add(&[0.25f32, 0.25, 0.5], 0);
        let names = ["a", "b", "c"].map(String::from);
        let report = evaluation.report(Some(&names));
        assert_eq!((report.rows, report.classes), (4, 3));
        assert_eq!((report.accuracy, report.top_5_accuracy), (0.5, 1.0));
        // Bits: 1, 2, 0 and 2.
        assert!((report.bits_per_label - 1.25).abs() < 1e-12);
        assert_eq!(report.bits_without_model, 3f64.log2());
        // Squares: 0.25 + 2 * 0.0625; 0.25 + 0.0625 + 0.5625; 0; 0.5625 + 0.0625 + 0.25.
        assert!((report.brier_score - (0.375 + 0.875 + 0.0 + 0.875) / 4.0).abs() < 1e-12);
        let classes: Vec<_> = report
            .per_class
            .iter()
            .map(|c| (c.name.as_str(), c.rows, c.precision, c.recall))
            .collect();
        assert_eq!(
            classes,
            [
                ("a", 2, Some(0.5), Some(0.5)),
                ("b", 1, Some(1.0), Some(1.0)),
                ("c", 1, Some(0.0), Some(0.0)),
            ]
        );
        let confused: Vec<_> = report
            .most_confused
            .iter()
            .map(|c| (c.truth.as_str(), c.predicted.as_str(), c.rows))
            .collect();
        assert_eq!(confused, [("a", "c", 1), ("c", "a", 1)]);
        let confusion = evaluation.confusion(&[0, 1, 2]);
        assert_eq!(confusion, [[1, 0, 1], [0, 1, 0], [1, 0, 0]]);
        assert_eq!(evaluation.confusion(&[0, 2]), [[1, 1], [1, 0]]);
    }

    #[test]
    fn the_true_class_must_be_among_the_first_five() {
        let mut evaluation = Evaluation::new(7);
        let row = [0.1f64, 0.1, 0.1, 0.1, 0.1, 0.1, 0.4];
        for label in 0..7 {
            evaluation.add(&row, label);
        }
        // Class 6, then 0 to 3: of equals, the first.
        assert_eq!(evaluation.report(None).top_5_accuracy, 5.0 / 7.0);
    }
}
