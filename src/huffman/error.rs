//! Errors of compressing predictions and of reading `.huff` files.

use std::io;

/// Errors of the codec. The caller adds the file's name; messages call the parts of a promise by their command-line
/// options.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value that is not a probability.
    #[error(
        "row {row}, class {class}: {value} is not a probability; expected a number from 0 to 1"
    )]
    NotAProbability {
        /// Row of the matrix, counted from 0 over the whole frame.
        row: u64,
        /// Class (column), counted from 0.
        class: usize,
        /// The value found.
        value: f32,
    },
    /// A value that is infinite or no number.
    #[error("row {row}, class {class}: {value} is not a finite number; only --exact takes it")]
    NotFinite {
        /// Row of the matrix, counted from 0 over the whole frame.
        row: u64,
        /// Class (column), counted from 0.
        class: usize,
        /// The value found.
        value: f32,
    },
    /// A float64 that is no float32, where every bit is to come back.
    #[error(
        "row {row}, class {class}: {value} is no float32, so that not every bit would come back; make the matrix float32 first, or give --max-error instead of --exact"
    )]
    NotFloat32 {
        /// Row of the matrix, counted from 0 over the whole frame.
        row: u64,
        /// Class (column), counted from 0.
        class: usize,
        /// The value found.
        value: f64,
    },
    /// A float64 that float32 cannot hold within the bound.
    #[error(
        "row {row}, class {class}: float32, which .huff files hold, is farther from {value} than --max-error; give a larger one"
    )]
    Float32TooCoarse {
        /// Row of the matrix, counted from 0 over the whole frame.
        row: u64,
        /// Class (column), counted from 0.
        class: usize,
        /// The value found.
        value: f64,
    },
    /// A row of probabilities that do not sum to 1.
    #[error("row {row}: the probabilities sum to {sum:.6}; expected 1 for a bound on divergence")]
    NotADistribution {
        /// Row of the matrix, counted from 0 over the whole frame.
        row: u64,
        /// The sum found.
        sum: f64,
    },
    /// A bound on errors that no quantizer can keep.
    #[error(
        "--max-error {0} is out of range; expected a number from {min} to {max} for probabilities, above 0 for other values",
        min = super::quantizer::MIN_MAX_ERROR,
        max = super::quantizer::MAX_MAX_ERROR
    )]
    MaxErrorOutOfRange(f64),
    /// A bound on divergence that no quantizer can keep.
    #[error(
        "--max-kl {0} is out of range; expected a number of bits from {min} to {max}",
        min = super::quantizer::MIN_MAX_KL,
        max = super::quantizer::MAX_MAX_KL
    )]
    MaxKlOutOfRange(f64),
    /// A bound on divergence for values that are no distribution.
    #[error(
        "--max-kl is for probabilities; take the softmax of logits first, or give --max-error or --exact"
    )]
    KlOfNoProbabilities,
    /// A number of first classes that cannot be kept.
    #[error("--keep-top {0} is out of range; expected 1 to {max}", max = super::order::MAX_KEEP_TOP)]
    KeepTopOutOfRange(usize),
    /// A number of classes that the format does not allow.
    #[error("{0} classes; expected 1 to {max}", max = super::header::MAX_CLASSES)]
    ClassesOutOfRange(usize),
    /// The first bytes are not those of a `.huff` file.
    #[error("not a .huff file: it starts with the bytes {found:02x?}, expected {expected:02x?}", expected = super::header::MAGIC)]
    NotHuff {
        /// The bytes found, at most four.
        found: Vec<u8>,
    },
    /// The file is empty.
    #[error("the file is empty; expected a .huff file")]
    Empty,
    /// Bytes after the last whole frame that are no frame: what is left of an append that was cut short, or other
    /// bytes.
    #[error(
        "after {n_rows} rows, at byte {n_bytes}, something follows that is no whole .huff frame, as when an append is cut short or the file is damaged there; decode with --skip-damaged to keep the rows"
    )]
    TrailingBytes {
        /// Rows of the whole frames.
        n_rows: u64,
        /// Bytes of the whole frames.
        n_bytes: u64,
    },
    /// A frame of a later version of the format.
    #[error("format version {found} is newer than this pc supports ({supported}); upgrade pc", supported = super::header::VERSION)]
    TooNew {
        /// The version found.
        found: u8,
    },
    /// The file ends early.
    #[error("truncated: the file ends inside {part}; copy or write it again")]
    Truncated {
        /// The part of the frame that is incomplete.
        part: &'static str,
    },
    /// A part does not match its checksum.
    #[error(
        "{part} is damaged: its checksum is {found:08x}, expected {expected:08x}; copy or write the file again"
    )]
    Checksum {
        /// The damaged part.
        part: String,
        /// Checksum of the bytes found.
        found: u32,
        /// Checksum stored with them.
        expected: u32,
    },
    /// A part that differs from what the index says.
    #[error("{part} is damaged: it is not what the index says; copy or write the file again")]
    Damaged {
        /// The damaged part.
        part: String,
    },
    /// Rows coded given those of a reference, which is not there.
    #[error(
        "its rows are compressed against a reference (SHA-256 {sha256}); name that file with --reference"
    )]
    ReferenceMissing {
        /// The hash of the reference, in hexadecimal.
        sha256: String,
    },
    /// Rows coded given those of another reference than the files at hand.
    #[error(
        "its rows are compressed against a reference (SHA-256 {sha256}); --reference names {found} only; name that file with it"
    )]
    OtherReference {
        /// The hash of the reference, in hexadecimal.
        sha256: String,
        /// The files at hand, and their hashes.
        found: String,
    },
    /// Rows of a reference other than those given which rows were coded.
    #[error(
        "the rows of the reference are not those that it was compressed against: it is damaged, or another pc has written it, which reads the reference in another way"
    )]
    WrongReference,
    /// Rows of a reference that cannot be read.
    #[error("its reference {name}: {error}")]
    InReference {
        /// The file's name.
        name: String,
        /// The error of reading it.
        error: Box<Self>,
    },
    /// Rows beyond those of the reference.
    #[error("more rows than the reference has: {n_rows}")]
    ReferenceTooShort {
        /// Rows of the reference.
        n_rows: u64,
    },
    /// Rows that a file does not have.
    #[error("rows {start}..{end} are out of range; the file has rows 0..{n_rows}")]
    RowsOutOfRange {
        /// The first row asked for.
        start: u64,
        /// The first row no longer asked for.
        end: u64,
        /// Rows of the file.
        n_rows: u64,
    },
    /// A size in the file that needs more memory than the reader may use.
    #[error(
        "{what} needs {needed} bytes of memory, the limit is {limit}; raise it with --memory-limit"
    )]
    MemoryLimit {
        /// The part that needs it.
        what: &'static str,
        /// Bytes needed.
        needed: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Whole bytes that mean nothing.
    #[error("corrupt: {0}")]
    Corrupt(&'static str),
    /// A JSON header that cannot be used.
    #[error("corrupt header: {0}")]
    Header(String),
    /// A size in the file that exceeds what the format allows.
    #[error("corrupt: {what} is {found}, the format allows 1 to {limit}")]
    LimitExceeded {
        /// The name of the size.
        what: &'static str,
        /// The size found.
        found: u64,
        /// The largest size allowed.
        limit: u64,
    },
    /// A failure of reading or writing.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Bytes that mean nothing. A type of its own that fits in registers, as it is returned for every symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corrupt(pub &'static str);

impl From<Corrupt> for Error {
    fn from(Corrupt(what): Corrupt) -> Self {
        Self::Corrupt(what)
    }
}
