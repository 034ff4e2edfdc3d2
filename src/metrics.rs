//! How good predictions are, measured against the true classes: accumulators that take row after row of
//! probabilities, in float32 or float64.

/// The least probability that counts: that of a true class below it, 0 say, is taken for this. It is the
/// machine epsilon of float32, as in scikit-learn's `log_loss`.
pub const LEAST_PROBABILITY: f64 = f32::EPSILON as f64;
/// Bins of [`CalibrationError`], as in Guo et al., "On Calibration of Modern Neural Networks" (2017).
pub const N_BINS: usize = 15;

/// The mean negative log of the probability of the true class, in nats.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogLoss {
    total: f64,
    n_rows: u64,
    n_least: u64,
}

impl LogLoss {
    /// Takes a row in.
    pub fn add<T: Copy + Into<f64>>(&mut self, row: &[T], label: usize) {
        let probability = row.get(label).map_or(0.0, |&p| p.into());
        self.total -= probability.max(LEAST_PROBABILITY).ln();
        self.n_rows += 1;
        self.n_least += u64::from(probability < LEAST_PROBABILITY);
    }

    /// Rows whose true class has less than [`LEAST_PROBABILITY`].
    pub fn n_least(&self) -> u64 {
        self.n_least
    }

    /// The mean; 0 without rows.
    pub fn mean(&self) -> f64 {
        self.total / self.n_rows.max(1) as f64
    }
}

/// The share of rows whose most probable class is the true one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Accuracy {
    n_right: u64,
    n_rows: u64,
}

impl Accuracy {
    /// Takes a row in.
    pub fn add<T: Copy + Into<f64>>(&mut self, row: &[T], label: usize) {
        self.n_right += u64::from(top(row).0 == label);
        self.n_rows += 1;
    }

    /// The share; 0 without rows.
    pub fn share(&self) -> f64 {
        self.n_right as f64 / self.n_rows.max(1) as f64
    }
}

/// The expected calibration error: rows are binned by the probability of their most probable class, in bins
/// of equal width; the error is the mean distance of that probability from the share of rows in which that
/// class was true, weighted by the rows of each bin.
#[derive(Debug, Clone, Copy, Default)]
pub struct CalibrationError {
    bins: [Bin; N_BINS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Bin {
    total: f64,
    n_right: u64,
    n_rows: u64,
}

impl CalibrationError {
    /// Takes a row in.
    pub fn add<T: Copy + Into<f64>>(&mut self, row: &[T], label: usize) {
        let (class, confidence) = top(row);
        // A border belongs to the bin below it.
        let bin = (confidence * N_BINS as f64).ceil() as usize;
        let bin = &mut self.bins[bin.clamp(1, N_BINS) - 1];
        bin.total += confidence;
        bin.n_right += u64::from(class == label);
        bin.n_rows += 1;
    }

    /// The mean confidence, the share of rows that were right, and the number of rows of each bin.
    pub fn bins(&self) -> impl Iterator<Item = (f64, f64, u64)> {
        self.bins.iter().map(|bin| {
            let n_rows = bin.n_rows.max(1) as f64;
            (bin.total / n_rows, bin.n_right as f64 / n_rows, bin.n_rows)
        })
    }

    /// The error; 0 without rows.
    pub fn error(&self) -> f64 {
        let n_rows: u64 = self.bins.iter().map(|bin| bin.n_rows).sum();
        let gap = |bin: &Bin| (bin.total - bin.n_right as f64).abs();
        self.bins.iter().map(gap).sum::<f64>() / n_rows.max(1) as f64
    }
}

/// The most probable class, the first of equals, and its probability; class 0 of a row without numbers.
fn top<T: Copy + Into<f64>>(row: &[T]) -> (usize, f64) {
    let mut top = (0, f64::NEG_INFINITY);
    for (class, &value) in row.iter().enumerate() {
        let value = value.into();
        if value > top.1 {
            top = (class, value);
        }
    }
    top
}

/// Replaces `probabilities` by those that logits stand for.
pub fn softmax<T: Copy + Into<f64>>(logits: &[T], probabilities: &mut Vec<f64>) {
    let (_, largest) = top(logits);
    probabilities.clear();
    probabilities.extend(logits.iter().map(|&logit| (logit.into() - largest).exp()));
    let sum: f64 = probabilities.iter().sum();
    probabilities.iter_mut().for_each(|value| *value /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_loss_is_that_of_scikit_learn() {
        let mut loss = LogLoss::default();
        assert_eq!(loss.mean(), 0.0);
        loss.add(&[0.5f32, 0.25, 0.25], 0);
        loss.add(&[0.5f64, 0.25, 0.25], 2);
        assert!((loss.mean() - (2f64.ln() + 4f64.ln()) / 2.0).abs() < 1e-12);
        let mut certain = LogLoss::default();
        certain.add(&[1.0f32, 0.0], 1);
        assert!((certain.mean() - 15.9424).abs() < 1e-4);
        assert_eq!((loss.n_least(), certain.n_least()), (0, 1));
    }

    #[test]
    fn calibration_compares_confidence_with_accuracy() {
        let mut error = CalibrationError::default();
        // Right in one of two rows at 0.9, in both at 0.6.
        for (row, label) in [
            ([0.9, 0.1], 0),
            ([0.9, 0.1], 1),
            ([0.4, 0.6], 1),
            ([0.4, 0.6], 1),
        ] {
            error.add(&row, label);
        }
        assert!((error.error() - (0.8 + 0.8) / 4.0).abs() < 1e-12);
        let mut accuracy = Accuracy::default();
        accuracy.add(&[0.5f32, 0.5], 0);
        accuracy.add(&[0.5f32, 0.5], 1);
        assert_eq!(accuracy.share(), 0.5);
    }

    #[test]
    fn bins_are_closed_above() {
        let mut error = CalibrationError::default();
        error.add(&[0.0f32, 0.0], 0);
        error.add(&[1.0f32, 0.0], 0);
        error.add(&[2.0f32 / 15.0, 0.0], 0);
        assert_eq!(error.bins[0].n_rows, 1);
        assert_eq!(error.bins[N_BINS - 1].n_rows, 1);
    }

    #[test]
    fn softmax_does_not_overflow() {
        let mut probabilities = Vec::new();
        softmax(&[1000.0f32, 1000.0, 0.0], &mut probabilities);
        assert_eq!(probabilities, [0.5, 0.5, 0.0]);
    }
}
