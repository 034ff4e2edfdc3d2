//! The record of a run, `pc train --log`: one JSON object an epoch, a line each, written as training goes on.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::model::training::EpochStats;

/// A log being written. A line is complete once it is there, so that others can follow.
pub(super) struct Log {
    path: PathBuf,
    file: File,
}

/// What a line says. Flat, so that it is a row of a table to whoever reads it.
#[derive(Serialize)]
struct Line {
    epoch: usize,
    learning_rate: f64,
    training_loss: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation_accuracy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    test_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    test_accuracy: Option<f64>,
    samples: usize,
    seconds: f64,
}

impl Log {
    /// Starts a log, or goes on with one if the run goes on.
    ///
    /// # Errors
    /// If there is one already and neither `is_resumed` nor `force`, or it cannot be written.
    pub fn open(path: &Path, force: bool, is_resumed: bool) -> Result<Self> {
        let mut options = OpenOptions::new();
        match (is_resumed, force) {
            (true, _) => options.append(true).create(true),
            (false, true) => options.write(true).truncate(true).create(true),
            (false, false) => options.write(true).create_new(true),
        };
        match options.open(path) {
            Ok(file) => Ok(Self {
                path: path.to_owned(),
                file,
            }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!(
                "{} exists already; give another name with --log, or --force to replace it",
                path.display()
            ),
            Err(error) if error.kind() == ErrorKind::NotFound => bail!(
                "cannot write {}: there is no such folder; make it first",
                path.display()
            ),
            Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
        }
    }

    /// Adds an epoch.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&mut self, stats: &EpochStats) -> Result<()> {
        let line = Line {
            epoch: stats.epoch,
            learning_rate: stats.learning_rate,
            training_loss: stats.training_loss,
            validation_loss: stats.validation.map(|part| part.loss),
            validation_accuracy: stats.validation.map(|part| part.accuracy),
            test_loss: stats.test.map(|part| part.loss),
            test_accuracy: stats.test.map(|part| part.accuracy),
            samples: stats.n_samples,
            seconds: stats.seconds,
        };
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        self.file
            .write_all(&bytes)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}
