//! Array formats in and out, and output files that appear whole or not at all.

pub mod csv;
pub mod format;
pub mod idx;
pub mod images;
pub mod input;
pub mod labels;
pub mod npy;
pub mod npy_source;
pub mod npz;
pub mod output;
pub mod sink;
pub mod source;
#[cfg(feature = "arrow")]
pub mod table;
#[cfg(feature = "arrow")]
pub mod table_sink;

use std::io::{self, BufRead, BufReader, Cursor, Read};

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
    /// The first bytes belong to no format that matrices are read from.
    #[error(
        "unknown format: it starts with the bytes {found:02x?}; expected .npy, .npz, CSV, Parquet or Arrow IPC, gzipped or not"
    )]
    UnknownMatrixFormat {
        /// The bytes found, at most eight.
        found: Vec<u8>,
    },
    /// A format that is known and not read, with the way out.
    #[error("{0}")]
    NotRead(&'static str),
    /// There is nothing in the file.
    #[error("the file is empty; expected .npy, .npz, CSV, Parquet or Arrow IPC")]
    Empty,
    /// A cell of a text that is no number.
    #[error("line {line}, column {column}: {found}; expected a number")]
    Cell {
        /// The line, counted from 1.
        line: u64,
        /// The column, counted from 1.
        column: usize,
        /// What stands there.
        found: String,
    },
    /// A number as some countries write it.
    #[error(
        "line {line}, column {column}: {found:.40?} has a decimal comma, it seems; write the file with decimal points"
    )]
    DecimalComma {
        /// The line, counted from 1.
        line: u64,
        /// The column, counted from 1.
        column: usize,
        /// What stands there.
        found: String,
    },
    /// A line with more or fewer cells than those before.
    #[error(
        "line {line}: {found} {columns}; expected {expected}, as in the lines before",
        columns = if *found == 1 { "column" } else { "columns" }
    )]
    Ragged {
        /// The line, counted from 1.
        line: u64,
        /// Its cells.
        found: usize,
        /// The cells of the lines before.
        expected: usize,
    },
    /// A text that is no table of numbers.
    #[error("line {line}: {what}")]
    Text {
        /// The line, counted from 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
    /// Columns of a table that are no classes, or are not there.
    #[error("{0}")]
    Columns(String),
    /// A value that is missing.
    #[error("row {row}, column {column}: no value (null); fill or drop it first")]
    Null {
        /// The row, counted from 0.
        row: u64,
        /// The column's name, or its number in a list.
        column: String,
    },
    /// A list of another length than those before.
    #[error("row {row}: a list of {found} values; expected {expected}, as in the rows before")]
    RaggedList {
        /// The row, counted from 0.
        row: u64,
        /// Its length.
        found: usize,
        /// The length of the lists before.
        expected: usize,
    },
    /// A table file that cannot be read.
    #[error("no readable {format} file: {reason}")]
    Table {
        /// The name of the format.
        format: &'static str,
        /// What the reader says.
        reason: String,
    },
    /// An option that means nothing for the format found.
    #[error("{option} is for {formats}; this is {found}; leave it out")]
    Option {
        /// The option.
        option: &'static str,
        /// The formats that it is for.
        formats: &'static str,
        /// The format found.
        found: &'static str,
    },
    /// The data end before the header says so.
    #[error(
        "truncated: the header promises {expected} bytes of data, the file has {found}; copy or write it again"
    )]
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
    #[error("no array {name:?} in this .npz; it holds {}", listed(found))]
    NpzMissing {
        /// The name looked for.
        name: String,
        /// The names there are.
        found: Vec<String>,
    },
    /// An archive of several arrays, none of which is named.
    #[error(
        "this .npz holds several arrays; name one with --array: {}",
        listed(found)
    )]
    NpzAmbiguous {
        /// The names there are.
        found: Vec<String>,
    },
    /// An archive without any array.
    #[error(
        "no array in this archive; expected one written by numpy.savez, found {}",
        listed(found)
    )]
    NpzEmpty {
        /// The files there are.
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
    mut reader: impl Read + Send + 'a,
) -> io::Result<(Box<dyn BufRead + Send + 'a>, bool)> {
    const CAPACITY: usize = 1 << 16;
    let mut start = [0; 2];
    let n_start = read_up_to(&mut reader, &mut start)?;
    let is_gzipped = start == [0x1F, 0x8B];
    let reader = Cursor::new(start).take(n_start as u64).chain(reader);
    let reader = BufReader::with_capacity(CAPACITY, reader);
    let plain: Box<dyn BufRead + Send + 'a> = match is_gzipped {
        true => {
            let decoder = MultiGzDecoder::new(reader);
            Box::new(BufReader::with_capacity(CAPACITY, decoder))
        }
        false => Box::new(reader),
    };
    Ok((plain, is_gzipped))
}

/// Fills as much of `bytes` as there is and returns how much that was.
fn read_up_to(reader: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut n_read = 0;
    while n_read < bytes.len() {
        match reader.read(&mut bytes[n_read..]) {
            Ok(0) => break,
            Ok(n) => n_read += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(n_read)
}

/// Names for a message, some of them if they are many.
fn listed(names: &[String]) -> String {
    const MOST: usize = 10;
    let some: Vec<String> = names
        .iter()
        .take(MOST)
        .map(|name| name.chars().take(60).collect::<String>())
        .map(|name| name.escape_debug().to_string())
        .collect();
    match names.len() {
        0 => "nothing".to_owned(),
        1..=MOST => some.join(", "),
        n => format!("{} and {} more", some.join(", "), n - MOST),
    }
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
