//! `.npz`, the format of `numpy.savez` and of Keras' data sets: a zip archive of `.npy` files.

use std::fs::File;
use std::io::{BufReader, Read};

use zip::ZipArchive;
use zip::result::ZipError;

use super::npy::NpyHeader;
use super::{Error, read_vec};

/// An open archive.
pub struct NpzReader {
    archive: ZipArchive<BufReader<File>>,
}

impl NpzReader {
    /// Reads the archive's directory.
    ///
    /// # Errors
    /// [`Error::Npz`].
    pub fn new(file: File) -> Result<Self, Error> {
        Ok(Self {
            archive: ZipArchive::new(BufReader::new(file))?,
        })
    }

    /// Whether the archive holds an array of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.archive
            .index_for_name(&format!("{name}.npy"))
            .is_some()
    }

    /// Reads a whole array: its header and its data as they stand in the file.
    ///
    /// # Errors
    /// [`Error::NpzMissing`], [`Error::Npz`], those of [`NpyHeader::read_from`],
    /// [`Error::Truncated`], [`Error::TooLong`].
    pub fn read(&mut self, name: &str) -> Result<(NpyHeader, Vec<u8>), Error> {
        if !self.contains(name) {
            return Err(Error::NpzMissing {
                name: name.to_owned(),
                found: self
                    .archive
                    .file_names()
                    .map(|name| name.trim_end_matches(".npy").to_owned())
                    .collect(),
            });
        }
        let mut file = match self.archive.by_name(&format!("{name}.npy")) {
            Err(ZipError::UnsupportedArchive(what)) => {
                return Err(Error::NpyHeader(format!("array {name:?}: {what}")));
            }
            file => file?,
        };
        let header = NpyHeader::read_from(&mut file)?;
        let n_bytes = header.n_data_bytes();
        let data = read_vec(&mut file, n_bytes)?;
        if file.read(&mut [0])? > 0 {
            return Err(Error::TooLong { expected: n_bytes });
        }
        Ok((header, data))
    }
}
