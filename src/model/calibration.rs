//! Temperature scaling (Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", 2017): logits
//! are divided by one number, so that probabilities say how often they are right. The order of classes stays.

use super::inference::cross_entropy;
use crate::matrix::PredictionMatrix;

/// Within what a temperature is looked for.
const RANGE: [f64; 2] = [0.05, 20.0];

/// The temperature of least mean cross-entropy on labelled rows of logits.
pub fn temperature(logits: &PredictionMatrix, labels: &[u32]) -> f64 {
    let mut row = Vec::new();
    let mut loss = |log_temperature: f64| {
        let factor = (-log_temperature).exp() as f32;
        let mut sum = 0.0;
        for (logits, &label) in logits.rows().zip(labels) {
            row.clear();
            row.extend(logits.iter().map(|logit| logit * factor));
            sum += cross_entropy(&row, label as usize);
        }
        sum
    };
    // The loss has one minimum, by the inverse of the temperature as well as by its logarithm: a golden-section
    // search narrows it down.
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    let [mut low, mut high] = RANGE.map(f64::ln);
    let (mut left, mut right) = (high - GOLDEN * (high - low), low + GOLDEN * (high - low));
    let (mut at_left, mut at_right) = (loss(left), loss(right));
    while high - low > 1e-4 {
        if at_left < at_right {
            (high, right, at_right) = (right, left, at_left);
            left = high - GOLDEN * (high - low);
            at_left = loss(left);
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = low + GOLDEN * (high - low);
            at_right = loss(right);
        }
    }
    ((low + high) / 2.0).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temperature_that_was_applied_is_found_again() {
        // Class 1 has the logit ln 3 more, and is right three times of four: calibrated as it is.
        let labels: Vec<u32> = (0..400).map(|i| u32::from(i % 4 != 0)).collect();
        for applied in [0.25, 1.0, 3.0] {
            let row = [0.0, (3f64.ln() * applied) as f32];
            let logits = PredictionMatrix::new(2, row.repeat(400));
            let found = temperature(&logits, &labels);
            assert!((found / applied - 1.0).abs() < 1e-3, "{found} {applied}");
        }
    }

    #[test]
    fn what_is_always_right_stays_within_the_range() {
        let logits = PredictionMatrix::new(2, vec![0.0, 5.0]);
        let found = temperature(&logits, &[1]);
        assert!((RANGE[0]..=RANGE[1]).contains(&found));
    }
}
