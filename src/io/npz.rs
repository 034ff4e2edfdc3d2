//! `.npz`, the format of `numpy.savez` and of Keras' data sets: a zip archive of `.npy` files.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use flate2::bufread::DeflateDecoder;
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::npy::NpyHeader;
use super::npy_source::NpySource;
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

/// Opens a matrix in an archive, the only one if no `name` is given, to be read row by row.
///
/// # Errors
/// [`Error::NpzMissing`], [`Error::NpzAmbiguous`], [`Error::NpzEmpty`], [`Error::Npz`], and those of
/// [`NpySource::open`].
pub fn open(file: File, name: Option<&str>) -> Result<NpySource, Error> {
    let mut archive = ZipArchive::new(BufReader::new(file.try_clone()?))?;
    let files: Vec<String> = archive.file_names().map(str::to_owned).collect();
    let mut names: Vec<String> = files
        .iter()
        .filter_map(|file| file.strip_suffix(".npy").map(str::to_owned))
        .collect();
    names.sort();
    let name = match (name, &names[..]) {
        (Some(name), _) if names.iter().any(|found| found == name) => name,
        (Some(name), _) => {
            return Err(Error::NpzMissing {
                name: name.to_owned(),
                found: names,
            });
        }
        (None, [name]) => name,
        (None, []) => return Err(Error::NpzEmpty { found: files }),
        (None, _) => return Err(Error::NpzAmbiguous { found: names }),
    };
    let index = archive
        .index_for_name(&format!("{name}.npy"))
        .ok_or(ZipError::FileNotFound)?;
    let (start, n_stored_bytes, n_bytes, crc32, method) = {
        let entry = archive.by_index_raw(index)?;
        if entry.encrypted() {
            return Err(ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED).into());
        }
        (
            entry.data_start().ok_or(ZipError::FileNotFound)?,
            entry.compressed_size(),
            entry.size(),
            entry.crc32(),
            entry.compression(),
        )
    };
    drop(archive);

    let mut stored = file.try_clone()?;
    stored.seek(SeekFrom::Start(start))?;
    let stored = BufReader::with_capacity(1 << 16, stored.take(n_stored_bytes));
    let checked = |reader: Box<dyn Read + Send>| {
        Box::new(BufReader::with_capacity(
            1 << 16,
            Checked {
                reader,
                hasher: crc32fast::Hasher::new(),
                expected: crc32,
            },
        ))
    };
    match method {
        CompressionMethod::Stored => {
            // A file that ends before its archive says so is told by what is missing of the array.
            let plain = (file.metadata()?.len() >= start.saturating_add(n_stored_bytes))
                .then_some((file, start));
            NpySource::from_reader(checked(Box::new(stored)), plain, Some(n_bytes))
        }
        CompressionMethod::Deflated => {
            let unpacked = DeflateDecoder::new(stored);
            NpySource::from_reader(checked(Box::new(unpacked)), None, Some(n_bytes))
        }
        _ => Err(ZipError::UnsupportedArchive(
            "a compression method that NumPy does not write; expected stored or deflated",
        )
        .into()),
    }
}

/// Data that must have a checksum by their end.
struct Checked {
    reader: Box<dyn Read + Send>,
    hasher: crc32fast::Hasher,
    expected: u32,
}

impl Read for Checked {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        const MISMATCH: &str =
            "the array is damaged: it does not match its checksum; copy or write the file again";
        let n_read = self.reader.read(bytes)?;
        if n_read == 0 && !bytes.is_empty() && self.hasher.clone().finalize() != self.expected {
            return Err(io::Error::new(io::ErrorKind::InvalidData, MISMATCH));
        }
        self.hasher.update(&bytes[..n_read]);
        Ok(n_read)
    }
}
