//! The true class of each row, from a file of labels.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{input_name, open_input};
use crate::io::input::Input;
use crate::io::labels::LabelReader;

/// Labels that meet their rows one by one.
pub(super) struct RowLabels {
    labels: LabelReader,
    /// The file, for messages.
    name: String,
    /// Labels read.
    n_read: u64,
    /// Rows there are, if that is known.
    n_rows: Option<u64>,
}

impl RowLabels {
    /// Opens a file in any format that [`LabelReader`] reads.
    ///
    /// # Errors
    /// A file that cannot be read, or holds something else.
    pub fn open(path: &Path) -> Result<Self> {
        let name = input_name(path);
        let input = Input::new(open_input(path)?).with_context(|| name.clone())?;
        let labels = LabelReader::open(input).with_context(|| name.clone())?;
        Ok(Self {
            labels,
            name,
            n_read: 0,
            n_rows: None,
        })
    }

    /// Says how many rows will come.
    ///
    /// # Errors
    /// If it is known already that there are not as many labels.
    pub fn expect(&mut self, n_rows: u64) -> Result<()> {
        self.n_rows = Some(n_rows);
        match self.labels.n_left() {
            Some(n_labels) if n_labels != n_rows => Err(self.wrong_number(n_labels)),
            _ => Ok(()),
        }
    }

    /// The class of the next row.
    ///
    /// # Errors
    /// If there is no label left, or it is none of so many classes.
    pub fn next_class(&mut self, n_classes: usize) -> Result<usize> {
        let label = self
            .labels
            .next_label()
            .with_context(|| self.name.clone())?;
        let label = label.ok_or_else(|| self.wrong_number(self.n_read))?;
        let row = self.n_read;
        self.n_read += 1;
        let class = usize::try_from(label).ok();
        class.filter(|&class| class < n_classes).with_context(|| {
            format!(
                "{}: row {row} has label {label}; expected the number of a class, 0 to {}",
                self.name,
                n_classes - 1
            )
        })
    }

    /// Ends with the rows.
    ///
    /// # Errors
    /// If there are more labels.
    pub fn finish(mut self) -> Result<()> {
        let next = self
            .labels
            .next_label()
            .with_context(|| self.name.clone())?;
        ensure!(
            next.is_none(),
            "{}: more labels than the {} rows",
            self.name,
            self.n_read
        );
        Ok(())
    }

    fn wrong_number(&self, n_labels: u64) -> anyhow::Error {
        let rows = match self.n_rows {
            Some(n_rows) => format!(" for {n_rows} rows"),
            None => ", and there are more rows".to_owned(),
        };
        anyhow::anyhow!(
            "{}: {n_labels} labels{rows}; expected one for every row",
            self.name
        )
    }
}
