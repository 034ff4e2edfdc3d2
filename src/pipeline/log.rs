//! The record of a run, `pc train --log`: one JSON object an epoch, a line each, written as training goes on.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::model::training::EpochStats;

/// A log being written. A line is complete once it is there, so that others can follow.
pub(super) struct Log {
    path: PathBuf,
    file: File,
    /// To what length the file is cut before the first line.
    n_kept: Option<u64>,
    /// Whether it was not there before, and holds nothing yet.
    is_new: bool,
}

impl Drop for Log {
    /// A run that came to nothing leaves none.
    fn drop(&mut self) {
        if self.is_new {
            let _ = std::fs::remove_file(&self.path);
        }
    }
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

/// What is read of a line.
#[derive(Deserialize)]
struct Written {
    epoch: usize,
}

/// The bytes of a log that a run of so many complete epochs goes on after; those of later epochs it learns, and
/// writes, again. `None` if all of them are.
fn kept(path: &Path, n_epochs: usize) -> Result<Option<u64>> {
    // Whatever else takes lines in keeps none.
    if !path.is_file() {
        return Ok(None);
    }
    let name = || format!("cannot read {}", path.display());
    let mut reader = BufReader::new(File::open(path).with_context(name)?);
    let mut n_bytes = 0;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.read_until(b'\n', &mut line).with_context(name)? == 0 {
            return Ok(None);
        }
        let written: Option<Written> = serde_json::from_slice(&line).ok();
        // The last line may lack its end, if the process had a sudden one.
        let is_complete = line.ends_with(b"\n");
        ensure!(
            written.is_some() || (!is_complete && line.starts_with(b"{\"epoch\":")),
            "{}: line {number} is not one of a log; give another name with --log",
            path.display()
        );
        if !is_complete || written.is_some_and(|written| written.epoch > n_epochs) {
            break;
        }
        n_bytes += line.len() as u64;
    }
    Ok(Some(n_bytes))
}

impl Log {
    /// Starts a log, or goes on with one if the run goes on after `n_epochs`.
    ///
    /// # Errors
    /// If there is one already that is not to be gone on with and not `force`, or it cannot be written.
    pub fn open(path: &Path, force: bool, n_epochs: Option<usize>) -> Result<Self> {
        let is_new = !path.exists();
        let n_kept = match n_epochs {
            Some(n_epochs) => kept(path, n_epochs)?,
            // What is replaced is so by the first epoch.
            None => path.is_file().then_some(0),
        };
        let mut options = OpenOptions::new();
        match n_epochs.is_some() || force {
            true => options.append(true).create(true),
            false => options.append(true).create_new(true),
        };
        match options.open(path) {
            Ok(file) => Ok(Self {
                path: path.to_owned(),
                file,
                n_kept,
                is_new,
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
        let cut = match self.n_kept.take() {
            // Not through the file at hand: some systems do not let it, as it only appends.
            Some(n_kept) => OpenOptions::new()
                .write(true)
                .open(&self.path)
                .and_then(|file| file.set_len(n_kept)),
            None => Ok(()),
        };
        self.is_new = false;
        cut.and_then(|()| self.file.write_all(&bytes))
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_an_epoch_leaves_the_logs_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        drop(Log::open(&path, false, None).unwrap());
        assert!(!path.exists());
        std::fs::write(&path, "earlier").unwrap();
        assert!(Log::open(&path, false, None).is_err());
        drop(Log::open(&path, true, None).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"earlier");
    }
}
