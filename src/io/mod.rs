//! Array formats in and out, and output files that appear whole or not at all.

pub mod idx;
pub mod images;
pub mod npy;
pub mod npz;
pub mod output;

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// Errors of the array formats. The file's name is the caller's to add.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The first bytes belong to no format that is read here.
    #[error(
        "unknown format: the file starts with the bytes {found:02x?}; expected an array written by numpy.save (.npy) or IDX images, gzipped or not"
    )]
    UnknownFormat {
        /// The bytes found, at most eight.
        found: Vec<u8>,
    },
    /// The data end before the header says so.
    #[error("truncated: the header promises {expected} bytes of data, the file has {found}")]
    Truncated {
        /// Bytes that the header promises.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// The file ends before the data begin.
    #[error("truncated: the file ends inside its header")]
    HeaderTruncated,
    /// The data go on after the header says they end.
    #[error("more data than the {expected} bytes that the header promises")]
    TooLong {
        /// Bytes that the header promises.
        expected: u64,
    },
    /// A magic number of another kind of IDX file.
    #[error("IDX magic number {found:#010x}; expected {expected:#010x} ({meaning})")]
    IdxMagic {
        /// The magic number found, big-endian as in the file.
        found: u32,
        /// The one expected.
        expected: u32,
        /// What the expected one stands for.
        meaning: &'static str,
    },
    /// A version of the .npy format that does not exist yet.
    #[error(".npy version {major}.{minor}; expected 1.0, 2.0 or 3.0")]
    NpyVersion {
        /// Major version.
        major: u8,
        /// Minor version.
        minor: u8,
    },
    /// A .npy header that cannot be understood.
    #[error(".npy header: {0}")]
    NpyHeader(String),
    /// An array of Python objects.
    #[error(
        "an array of Python objects is a pickle, which can run code, and is not read; save numbers instead: numpy.save(path, x.astype('float32'))"
    )]
    ObjectArray,
    /// Numbers of a type that is not taken here.
    #[error("dtype {found}; expected {expected}")]
    Dtype {
        /// NumPy's name of the type found.
        found: String,
        /// The types that are taken.
        expected: &'static str,
    },
    /// An array of another shape than needed.
    #[error("shape {found:?}; expected {expected}")]
    Shape {
        /// The shape found.
        found: Vec<u64>,
        /// The shapes that are taken.
        expected: String,
    },
    /// An array in Fortran order of which no image can be had without the whole.
    #[error(
        "an array in Fortran order cannot be read image by image from gzip or a pipe; give it as a plain file"
    )]
    FortranOrderStream,
    /// An archive without the array looked for.
    #[error("no array {name:?} in this .npz; it holds {}", found.join(", "))]
    NpzMissing {
        /// The name looked for.
        name: String,
        /// The names there are.
        found: Vec<String>,
    },
    /// Not a zip archive, or a damaged one.
    #[error("no readable .npz archive")]
    Npz(#[from] zip::result::ZipError),
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A reader of plain data, and whether they came out of gzip; found out from the first two bytes.
///
/// # Errors
/// As the reader's.
pub fn gunzip_if_needed<'a>(
    reader: impl Read + Send + 'a,
) -> io::Result<(Box<dyn BufRead + Send + 'a>, bool)> {
    const CAPACITY: usize = 1 << 16;
    let mut reader = BufReader::with_capacity(CAPACITY, reader);
    let is_gzipped = reader.fill_buf()?.starts_with(&[0x1F, 0x8B]);
    let plain: Box<dyn BufRead + Send + 'a> = match is_gzipped {
        true => {
            let decoder = MultiGzDecoder::new(reader);
            Box::new(BufReader::with_capacity(CAPACITY, decoder))
        }
        false => Box::new(reader),
    };
    Ok((plain, is_gzipped))
}

/// Fills `bytes` with a part of a header.
fn read_header(reader: &mut impl Read, bytes: &mut [u8]) -> Result<(), Error> {
    reader
        .read_exact(bytes)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::HeaderTruncated,
            _ => Error::Io(error),
        })
}

/// Reads exactly `n_bytes`, allocating only as they come.
fn read_vec(reader: &mut impl Read, n_bytes: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    reader.take(n_bytes).read_to_end(&mut bytes)?;
    match bytes.len() as u64 == n_bytes {
        true => Ok(bytes),
        false => Err(Error::Truncated {
            expected: n_bytes,
            found: bytes.len() as u64,
        }),
    }
}
