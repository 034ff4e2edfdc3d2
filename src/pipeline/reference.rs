//! References: earlier predictions that later ones are compressed against, in a `.huff` file or any other
//! format that matrices are read from.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::open_to_seek;
use super::rows::{RowReader, check_order};
use crate::huffman::MAGIC;
use crate::huffman::index::within;
use crate::huffman::{Error, FileIndex, ReferenceName, ReferenceRows};
use crate::io::input::is_standard;
use crate::io::source::{SourceOptions, Values};
use crate::matrix::PredictionMatrix;

/// The references at hand. One may need another itself.
#[derive(Debug)]
pub struct References(Vec<Reference>);

#[derive(Debug)]
struct Reference {
    path: PathBuf,
    sha256: String,
    n_rows: u64,
    n_classes: usize,
    class_names: Option<Vec<String>>,
    file: Mutex<File>,
    /// Where the rows stand in a `.huff` file. Those of another format were copied, as float32
    /// (little-endian), to a file without a name.
    index: Option<FileIndex>,
}

impl References {
    /// Opens files and finds their hashes; `memory` is the limit of readers.
    ///
    /// # Errors
    /// A file that cannot be read, or holds no matrix.
    pub fn open(paths: &[PathBuf], memory: u64) -> Result<Self> {
        let references = paths.iter().map(|path| Reference::open(path, memory));
        references.collect::<Result<_>>().map(Self)
    }

    /// The name of the first, for the header of a file that is compressed against it; none if there is none.
    pub fn name(&self) -> Option<ReferenceName> {
        self.0.first().map(|first| ReferenceName {
            sha256: first.sha256.clone(),
            rows: first.n_rows,
        })
    }

    /// Checks that rows can be compressed against the first, as far as it is known how many they are.
    ///
    /// # Errors
    /// If they cannot.
    pub(super) fn check(&self, name: &str, rows: &RowReader) -> Result<()> {
        let (n_classes, n_rows) = (rows.n_classes(), rows.n_rows());
        let Some(first) = self.0.first() else {
            return Ok(());
        };
        ensure!(
            n_classes == first.n_classes,
            "{name}: {n_classes} classes; the reference {} has {}, expected as many",
            first.path.display(),
            first.n_classes
        );
        let path = first.path.display().to_string();
        check_order(
            (name, rows.class_names()),
            (&path, first.class_names.as_deref()),
        )?;
        match n_rows {
            Some(n_rows) if n_rows > first.n_rows => bail!(
                "{name}: {n_rows} rows; the reference {} has {}, expected no fewer",
                first.path.display(),
                first.n_rows
            ),
            _ => Ok(()),
        }
    }

    /// Rows of the first, beside those of the file `name`; none if there is none.
    ///
    /// # Errors
    /// If there are fewer, or they are damaged.
    pub fn beside(&self, name: &str, rows: Range<u64>) -> Result<Option<PredictionMatrix>> {
        let Some(first) = self.0.first() else {
            return Ok(None);
        };
        ensure!(
            rows.end <= first.n_rows,
            "{name}: more than {} rows; the reference {} has no more, expected no fewer",
            first.n_rows,
            first.path.display()
        );
        let matrix = self.rows(first, rows);
        matrix
            .map(Some)
            .with_context(|| first.path.display().to_string())
    }

    /// The rows that a block needs.
    ///
    /// # Errors
    /// [`Error::ReferenceMissing`] or [`Error::OtherReference`] if they are of none of the files;
    /// [`Error::InReference`] if they cannot be read.
    pub fn find(&self, needed: &ReferenceRows) -> Result<PredictionMatrix, Error> {
        let sha256 = needed.sha256.clone();
        let mut references = self.0.iter();
        match references.find(|reference| reference.sha256 == sha256) {
            Some(reference) => {
                let rows = self.rows(reference, needed.rows.clone());
                rows.map_err(|error| Error::InReference {
                    name: reference.path.display().to_string(),
                    error: Box::new(error),
                })
            }
            None if self.0.is_empty() => Err(Error::ReferenceMissing { sha256 }),
            None => {
                let named = |of: &Reference| format!("{} ({})", of.path.display(), of.sha256);
                let found: Vec<String> = self.0.iter().map(named).collect();
                Err(Error::OtherReference {
                    sha256,
                    found: found.join(", "),
                })
            }
        }
    }

    /// Reads rows; those of a `.huff` file are decoded block by block on all threads.
    fn rows(&self, reference: &Reference, rows: Range<u64>) -> Result<PredictionMatrix, Error> {
        let Some(index) = &reference.index else {
            return reference.copied_rows(rows);
        };
        index.check_rows(&rows)?;
        let of_blocks: Vec<Vec<f32>> = index
            .blocks_of(&rows)
            .into_par_iter()
            .map(|block| {
                let read = |file: &mut File| index.read_block(file, block);
                let matrix = reference
                    .with_file(read)?
                    .decode_with(|needed| self.find(needed))?;
                Ok(within(&matrix, index.rows_of(block).start, &rows).to_vec())
            })
            .collect::<Result<_, Error>>()?;
        Ok(PredictionMatrix::new(index.n_classes(), of_blocks.concat()))
    }
}

impl Reference {
    fn open(path: &Path, memory: u64) -> Result<Self> {
        ensure!(
            !is_standard(path),
            "--reference -: a reference is read more than once; write it to a file first, and name that"
        );
        let name = || path.display().to_string();
        let mut file = open_to_seek(path)?;
        let mut hasher = Sha256::new();
        io::copy(&mut file, &mut hasher).with_context(name)?;
        let hash = hasher.finalize();
        file.seek(SeekFrom::Start(0)).with_context(name)?;
        let mut start = Vec::new();
        let mut magic = Read::by_ref(&mut file).take(MAGIC.len() as u64);
        magic.read_to_end(&mut start).with_context(name)?;
        file.seek(SeekFrom::Start(0)).with_context(name)?;

        let mut reference = Self {
            path: path.to_owned(),
            sha256: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            n_rows: 0,
            n_classes: 0,
            class_names: None,
            file: Mutex::new(file),
            index: None,
        };
        match start == MAGIC {
            true => {
                let read = |file: &mut File| FileIndex::with_memory_limit(file, memory);
                let index = reference.with_file(read).with_context(name)?;
                reference.n_rows = index.summary().n_rows;
                reference.n_classes = index.n_classes();
                reference.class_names = index.headers()[0].class_names.clone();
                reference.index = Some(index);
            }
            false => reference.copy()?,
        }
        Ok(reference)
    }

    /// Copies the rows of a file in another format to a file without a name.
    fn copy(&mut self) -> Result<()> {
        let name = self.path.display().to_string();
        let file = self.with_file(|file| file.try_clone());
        let file = file.with_context(|| name.clone())?;
        let mut rows =
            RowReader::new(file, name.clone(), &SourceOptions::default()).map_err(|error| {
                match error.downcast_ref() {
                    // What --array names is in the input.
                    Some(crate::io::Error::NpzAmbiguous { .. }) => anyhow!(
                        "{name}: this .npz holds several arrays; save the one that is the reference alone"
                    ),
                    _ => error,
                }
            })?;
        self.n_classes = rows.n_classes();
        self.class_names = rows.class_names().map(<[String]>::to_vec);
        let unwritable = || "cannot write a temporary file";
        let copy = tempfile::tempfile().with_context(unwritable)?;
        let mut copy = BufWriter::with_capacity(1 << 16, copy);
        while let Some(values) = rows.next()? {
            self.n_rows += (values.len() / self.n_classes) as u64;
            let values = match values {
                Values::F32(values) => values,
                Values::F64(values) => values.into_iter().map(|value| value as f32).collect(),
            };
            for value in values {
                copy.write_all(&value.to_le_bytes())
                    .with_context(unwritable)?;
            }
        }
        let copy = copy.into_inner().map_err(io::IntoInnerError::into_error);
        self.file = Mutex::new(copy.with_context(unwritable)?);
        Ok(())
    }

    /// Rows that were copied.
    fn copied_rows(&self, rows: Range<u64>) -> Result<PredictionMatrix, Error> {
        if rows.start > rows.end || rows.end > self.n_rows {
            return Err(Error::RowsOutOfRange {
                start: rows.start,
                end: rows.end,
                n_rows: self.n_rows,
            });
        }
        let n_values = (rows.end - rows.start) as usize * self.n_classes;
        let mut bytes = vec![0; 4 * n_values];
        self.with_file(|file| {
            file.seek(SeekFrom::Start(4 * rows.start * self.n_classes as u64))?;
            file.read_exact(&mut bytes)
        })?;
        let (values, _) = bytes.as_chunks::<4>();
        let values = values.iter().map(|&bytes| f32::from_le_bytes(bytes));
        Ok(PredictionMatrix::new(self.n_classes, values.collect()))
    }

    /// Reads from the file while no other thread does.
    fn with_file<T>(&self, read: impl FnOnce(&mut File) -> T) -> T {
        read(&mut self.file.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether rows are missing for want of a reference, and not for damage.
pub fn is_of_reference(error: &Error) -> bool {
    matches!(
        error,
        Error::ReferenceMissing { .. }
            | Error::OtherReference { .. }
            | Error::InReference { .. }
            | Error::WrongReference
    )
}
