//! How good predictions are before and after compression, for `pc compress --labels-file`.
//!
//! The bytes that are written go to a second reader as well, which decodes them on a thread of its own: what
//! is scored is what the file will give.

use std::io::{self, BufReader, PipeReader, PipeWriter, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, ensure};

use super::reference::References;
use super::row_labels::RowLabels;
use crate::huffman::{FrameReader, Kind};
use crate::io::source::Values;
use crate::metrics::{Accuracy, CalibrationError, LogLoss, softmax};

/// What is measured of predictions whose true classes are known.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Scores {
    pub log_loss: LogLoss,
    pub accuracy: Accuracy,
    pub calibration: CalibrationError,
}

impl Scores {
    /// Takes rows in, of probabilities or logits.
    fn add<T: Copy + Into<f64>>(
        &mut self,
        values: &[T],
        n_classes: usize,
        labels: &[usize],
        kind: Kind,
    ) {
        let mut probabilities = Vec::new();
        for (row, &label) in values.chunks_exact(n_classes).zip(labels) {
            match kind {
                Kind::Logits => {
                    softmax(row, &mut probabilities);
                    self.add_row(&probabilities, label);
                }
                _ => self.add_row(row, label),
            }
        }
    }

    fn add_row<T: Copy + Into<f64>>(&mut self, row: &[T], label: usize) {
        self.log_loss.add(row, label);
        self.accuracy.add(row, label);
        self.calibration.add(row, label);
    }
}

/// Scores rows as they came and as they decode.
pub(super) struct Comparison {
    labels: RowLabels,
    n_classes: usize,
    kind: Kind,
    original: Scores,
    /// The labels of rows on their way to the second reader.
    sender: Sender<Vec<usize>>,
    decoded: JoinHandle<Result<Scores>>,
}

impl Comparison {
    /// Starts the second reader; also returns what it reads from. `n_rows` is how many rows there are, if it is
    /// known.
    ///
    /// # Errors
    /// For values of which no score is known; if it is known that there are not as many labels as rows; if no
    /// thread or pipe can be had.
    pub fn start(
        mut labels: RowLabels,
        n_rows: Option<u64>,
        n_classes: usize,
        kind: Kind,
        references: Arc<References>,
    ) -> Result<(Self, PipeWriter)> {
        ensure!(
            kind != Kind::Values,
            "--labels-file is for probabilities and logits; the rows are taken for values, --kind says otherwise"
        );
        if let Some(n_rows) = n_rows {
            labels.expect(n_rows)?;
        }
        let (reader, writer) = io::pipe().context("cannot make a pipe")?;
        let (sender, receiver) = mpsc::channel();
        let decoded = std::thread::Builder::new()
            .spawn(move || score_decoded(reader, &receiver, n_classes, kind, &references))
            .context("cannot start a thread")?;
        let comparison = Self {
            labels,
            n_classes,
            kind,
            original: Scores::default(),
            sender,
            decoded,
        };
        Ok((comparison, writer))
    }

    /// Takes rows in that are about to be written.
    ///
    /// # Errors
    /// A label that is missing or no class.
    pub fn add(&mut self, values: &Values) -> Result<()> {
        let n_rows = values.len() / self.n_classes;
        let classes = (0..n_rows).map(|_| self.labels.next_class(self.n_classes));
        let classes: Vec<usize> = classes.collect::<Result<_>>()?;
        match values {
            Values::F32(values) => self
                .original
                .add(values, self.n_classes, &classes, self.kind),
            Values::F64(values) => self
                .original
                .add(values, self.n_classes, &classes, self.kind),
        }
        // If nobody is there to take them, finish will tell.
        let _ = self.sender.send(classes);
        Ok(())
    }

    /// The scores before and after, once all that is written has been sent to the second reader and its
    /// writer is closed.
    ///
    /// # Errors
    /// If there are more labels than rows; if what was written cannot be decoded.
    pub fn finish(self) -> Result<(Scores, Scores)> {
        self.labels.finish()?;
        drop(self.sender);
        let decoded = self
            .decoded
            .join()
            .map_err(|_| anyhow!("decoding failed"))?;
        Ok((self.original, decoded?))
    }
}

/// Decodes what comes through a pipe, and scores it.
fn score_decoded(
    reader: PipeReader,
    labels: &Receiver<Vec<usize>>,
    n_classes: usize,
    kind: Kind,
    references: &References,
) -> Result<Scores> {
    // What this process has written asks for no more than it has.
    let reader = BufReader::with_capacity(1 << 16, reader);
    let mut frames = FrameReader::with_memory_limit(reader, u64::MAX)?;
    let mut scores = Scores::default();
    let mut waiting = Vec::new();
    while let Some(block) = frames.next_block_with(|needed| references.find(needed))? {
        while waiting.len() < block.n_rows() {
            waiting.extend(labels.recv().context("a row has no label")?);
        }
        let of_block: Vec<usize> = waiting.drain(..block.n_rows()).collect();
        scores.add(block.values(), n_classes, &of_block, kind);
    }
    Ok(scores)
}

/// Writes to an output, and the same to a second reader if there is one.
pub(super) struct Tee<W> {
    output: W,
    copy: Option<PipeWriter>,
}

impl<W> Tee<W> {
    pub fn new(output: W, copy: Option<PipeWriter>) -> Self {
        Self { output, copy }
    }

    /// The output; the second reader sees the end.
    pub fn into_output(self) -> W {
        self.output
    }
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n_written = self.output.write(bytes)?;
        if let Some(copy) = &mut self.copy
            && copy.write_all(&bytes[..n_written]).is_err()
        {
            // The reader has given up; why, it says itself.
            self.copy = None;
        }
        Ok(n_written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
