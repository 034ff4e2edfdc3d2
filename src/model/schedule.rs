//! How the step size changes during training.

use std::f64::consts::PI;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The course of the learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// It stays what it is.
    #[default]
    Constant,
    /// It falls to 0 along half a wave (Loshchilov and Hutter, "SGDR", 2017, without restarts).
    Cosine,
}

impl Schedule {
    /// The names of all schedules.
    pub const NAMES: [&'static str; 2] = ["constant", "cosine"];

    /// Whether a run may end later than it was to without any change of its steps.
    pub fn is_open_ended(self) -> bool {
        self == Self::Constant
    }

    /// What the learning rate is multiplied with at step `step` of `n_steps`, counted from 0.
    pub fn factor(self, step: usize, n_steps: usize) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Cosine => 0.5 * (1.0 + (PI * step as f64 / n_steps as f64).cos()),
        }
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "constant" => Ok(Self::Constant),
            "cosine" => Ok(Self::Cosine),
            _ => Err(format!("expected one of {}", Self::NAMES.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_falls_from_1_to_0_and_constant_does_not() {
        let factors = [0, 25, 50, 75, 99].map(|step| Schedule::Cosine.factor(step, 100));
        assert_eq!(factors[0], 1.0);
        assert!((factors[2] - 0.5).abs() < 1e-12);
        assert!(factors.is_sorted_by(|a, b| a > b) && factors[4] < 1e-3);
        assert_eq!(Schedule::Constant.factor(99, 100), 1.0);
        for (schedule, name) in [Schedule::Constant, Schedule::Cosine]
            .iter()
            .zip(Schedule::NAMES)
        {
            assert_eq!(name.parse(), Ok(*schedule));
        }
        assert!("step".parse::<Schedule>().is_err());
    }
}
