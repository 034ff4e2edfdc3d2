//! The frame: a whole `.huff` stream (FORMAT.md, section 3).
//!
//! A frame is a header, blocks of rows, and an index that closes it. [`FrameWriter`] needs no seeking
//! and [`FrameReader`] none either, so both work on pipes. Frames that follow each other in one file
//! are read as the rows of the first, then of the second.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use super::Error;
use super::block::{self, BitCounts};
use super::quantizer::{MAX_MAX_ERROR, MIN_MAX_ERROR, Quantizer};
use crate::matrix::{PredictionMatrix, argmax};

/// The first bytes of every frame. The first of them is no ASCII, so no text file begins like this.
pub const MAGIC: [u8; 4] = [0x89, b'H', b'U', b'F'];
/// The last bytes of every frame.
const END_MAGIC: [u8; 4] = [b'H', b'U', b'F', 0x0A];
/// The format version written and the newest one read.
pub const VERSION: u8 = 1;
/// The largest number of classes.
pub const MAX_CLASSES: usize = 1 << 20;
/// The largest number of values (rows times classes) in a block, so that a reader's memory is bounded.
const MAX_BLOCK_VALUES: usize = 1 << 22;
/// The largest JSON header in bytes.
const MAX_HEADER_BYTES: u32 = 1 << 26;

const BLOCK_TAG: u8 = b'B';
const INDEX_TAG: u8 = b'I';

/// Rows in each block but the last: enough to pay for the codebooks, few enough to hold in memory.
pub fn rows_per_block(n_classes: usize) -> usize {
    ((1 << 21) / n_classes).clamp(1, 1 << 14)
}

/// What the numbers of the matrix are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// Class probabilities, each from 0 to 1.
    Probabilities,
}

/// The JSON header of a frame. Readers ignore fields that they do not know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrameHeader {
    /// What the numbers are.
    pub kind: Kind,
    /// Number of classes (columns).
    pub classes: usize,
    /// The bound on the absolute error of every entry.
    pub max_error: f64,
    /// The level of probability 1; a level decodes to `level / levels`.
    pub levels: u32,
    /// A name for each class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_names: Option<Vec<String>>,
    /// SHA-256 of the checkpoint that made the predictions, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_sha256: Option<String>,
    /// The program that wrote the frame.
    pub producer: String,
}

impl FrameHeader {
    /// The header for probabilities of `classes` classes within `max_error`.
    ///
    /// # Errors
    /// [`Error::MaxErrorOutOfRange`], [`Error::ClassesOutOfRange`].
    pub fn probabilities(classes: usize, max_error: f64) -> Result<Self, Error> {
        if !(1..=MAX_CLASSES).contains(&classes) {
            return Err(Error::ClassesOutOfRange(classes));
        }
        Ok(Self {
            kind: Kind::Probabilities,
            classes,
            max_error,
            levels: Quantizer::new(max_error)?.n_levels(),
            class_names: None,
            model_sha256: None,
            producer: concat!("pc ", env!("CARGO_PKG_VERSION")).to_owned(),
        })
    }

    /// Checks what serde cannot.
    fn validate(&self) -> Result<Quantizer, Error> {
        if !(MIN_MAX_ERROR..=MAX_MAX_ERROR).contains(&self.max_error) {
            return Err(Error::MaxErrorOutOfRange(self.max_error));
        }
        if !(1..=MAX_CLASSES).contains(&self.classes) {
            return Err(Error::ClassesOutOfRange(self.classes));
        }
        if let Some(names) = &self.class_names
            && names.len() != self.classes
        {
            return Err(Error::Header(format!(
                "{} class names for {} classes",
                names.len(),
                self.classes
            )));
        }
        Quantizer::from_levels(self.levels)
    }
}

/// What was written or read, and what was measured while writing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Summary {
    /// Number of rows.
    pub n_rows: u64,
    /// Rows stored bit for bit because quantizing would have broken a promise.
    pub n_exact_rows: u64,
    /// The largest absolute error of any entry.
    pub largest_error: f64,
    /// Bytes of the frame or frames.
    pub n_bytes: u64,
}

impl Summary {
    fn add(&mut self, other: &Self) {
        self.n_rows += other.n_rows;
        self.n_exact_rows += other.n_exact_rows;
        self.largest_error = self.largest_error.max(other.largest_error);
        self.n_bytes += other.n_bytes;
    }
}

/// Writes a frame, block by block.
#[derive(Debug)]
pub struct FrameWriter<W> {
    writer: W,
    header: FrameHeader,
    quantizer: Quantizer,
    index: Vec<IndexEntry>,
    summary: Summary,
    bit_counts: BitCounts,
}

/// One block's line of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct IndexEntry {
    n_rows: u32,
    /// All bytes of the block, tag and checksum included.
    n_bytes: u32,
}

impl<W: Write> FrameWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// [`Error::Header`] and the like for a header that no reader would accept; [`Error::Io`].
    pub fn new(mut writer: W, header: FrameHeader) -> Result<Self, Error> {
        let quantizer = header.validate()?;
        let json = serde_json::to_vec(&header).map_err(|error| Error::Header(error.to_string()))?;
        let n_json_bytes = u32::try_from(json.len())
            .ok()
            .filter(|&n| n <= MAX_HEADER_BYTES)
            .ok_or(Error::LimitExceeded {
                what: "the header's size",
                found: json.len() as u64,
                limit: u64::from(MAX_HEADER_BYTES),
            })?;
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        bytes.extend(n_json_bytes.to_le_bytes());
        bytes.extend(json);
        append_checksum(&mut bytes);
        writer.write_all(&bytes)?;
        Ok(Self {
            writer,
            header,
            quantizer,
            index: Vec::new(),
            summary: Summary {
                n_bytes: bytes.len() as u64,
                ..Summary::default()
            },
            bit_counts: BitCounts::default(),
        })
    }

    /// Compresses the rows of `matrix` into one block and checks it by decoding it: a row that comes
    /// back outside the bound or with another argmax is stored exactly instead. No rows, no block.
    ///
    /// # Errors
    /// [`Error::NotAProbability`] with the first value that is none; [`Error::Io`].
    ///
    /// # Panics
    /// If the matrix has other classes than the header, or more rows than [`rows_per_block`].
    pub fn write_block(&mut self, matrix: &PredictionMatrix) -> Result<(), Error> {
        assert_eq!(matrix.n_classes(), self.header.classes);
        assert!(matrix.n_rows() <= rows_per_block(matrix.n_classes()));
        if matrix.n_rows() == 0 {
            return Ok(());
        }
        self.check_probabilities(matrix)?;

        let mut is_exact = vec![false; matrix.n_rows()];
        let (payload, bit_counts) = loop {
            let (payload, bit_counts) = block::encode(matrix, &is_exact, self.quantizer);
            let decoded = block::decode(
                &payload,
                matrix.n_rows(),
                matrix.n_classes(),
                self.quantizer,
            )?;
            let mut largest_error = 0.0f64;
            let mut n_broken = 0;
            for ((original, decoded), is_exact) in
                matrix.rows().zip(decoded.rows()).zip(&mut is_exact)
            {
                let error = row_error(original, decoded);
                if error <= self.header.max_error && argmax(original) == argmax(decoded) {
                    largest_error = largest_error.max(error);
                } else {
                    assert!(!*is_exact, "an exact row came back changed");
                    *is_exact = true;
                    n_broken += 1;
                }
            }
            if n_broken == 0 {
                self.summary.largest_error = self.summary.largest_error.max(largest_error);
                break (payload, bit_counts);
            }
        };

        let mut bytes = vec![BLOCK_TAG];
        bytes.extend((matrix.n_rows() as u32).to_le_bytes());
        bytes.extend((payload.len() as u32).to_le_bytes());
        bytes.extend(payload);
        append_checksum(&mut bytes);
        self.writer.write_all(&bytes)?;

        self.index.push(IndexEntry {
            n_rows: matrix.n_rows() as u32,
            n_bytes: bytes.len() as u32,
        });
        self.summary.n_rows += matrix.n_rows() as u64;
        self.summary.n_exact_rows += is_exact.iter().filter(|&&exact| exact).count() as u64;
        self.summary.n_bytes += bytes.len() as u64;
        self.bit_counts += bit_counts;
        Ok(())
    }

    fn check_probabilities(&self, matrix: &PredictionMatrix) -> Result<(), Error> {
        let position = matrix
            .values()
            .iter()
            .position(|value| !(0.0..=1.0).contains(value));
        match position {
            None => Ok(()),
            Some(position) => Err(Error::NotAProbability {
                row: self.summary.n_rows + (position / matrix.n_classes()) as u64,
                class: position % matrix.n_classes(),
                value: matrix.values()[position],
            }),
        }
    }

    /// Writes the index and returns the writer, the frame's figures and where its bits went. A frame
    /// that was not finished is truncated, and readers say so.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<(W, Summary, BitCounts), Error> {
        let mut bytes = vec![INDEX_TAG];
        bytes.extend((self.index.len() as u32).to_le_bytes());
        for entry in &self.index {
            bytes.extend(entry.n_rows.to_le_bytes());
            bytes.extend(entry.n_bytes.to_le_bytes());
        }
        bytes.extend(self.summary.n_exact_rows.to_le_bytes());
        bytes.extend(self.summary.largest_error.to_le_bytes());
        append_checksum(&mut bytes);
        bytes.extend((bytes.len() as u32 + 8).to_le_bytes());
        bytes.extend(END_MAGIC);
        self.writer.write_all(&bytes)?;
        self.writer.flush()?;
        self.summary.n_bytes += bytes.len() as u64;
        Ok((self.writer, self.summary, self.bit_counts))
    }
}

/// The largest absolute error of a row, in f64, where the difference of two probabilities is exact
/// enough to be compared; NaN counts as infinite.
fn row_error(original: &[f32], decoded: &[f32]) -> f64 {
    original
        .iter()
        .zip(decoded)
        .map(|(&original, &decoded)| (f64::from(original) - f64::from(decoded)).abs())
        .map(|error| if error.is_nan() { f64::INFINITY } else { error })
        .fold(0.0, f64::max)
}

fn append_checksum(bytes: &mut Vec<u8>) {
    let checksum = crc32fast::hash(bytes);
    bytes.extend(checksum.to_le_bytes());
}

/// Reads the frames of a stream, block by block.
#[derive(Debug)]
pub struct FrameReader<R> {
    reader: R,
    header: FrameHeader,
    quantizer: Quantizer,
    /// Blocks of the frame at hand.
    index: Vec<IndexEntry>,
    /// All frames that are complete.
    summary: Summary,
    /// The frame at hand.
    frame: Summary,
    is_at_end: bool,
}

impl<R: Read> FrameReader<R> {
    /// Reads the header of the first frame.
    ///
    /// # Errors
    /// [`Error::NotHuff`], [`Error::TooNew`], [`Error::Truncated`], [`Error::Checksum`],
    /// [`Error::Header`], [`Error::LimitExceeded`], [`Error::Io`].
    pub fn new(mut reader: R) -> Result<Self, Error> {
        let start = read_start(&mut reader)?;
        let (header, quantizer, n_bytes) = read_header(&mut reader, &start)?;
        Ok(Self {
            reader,
            header,
            quantizer,
            index: Vec::new(),
            summary: Summary::default(),
            frame: Summary {
                n_bytes,
                ..Summary::default()
            },
            is_at_end: false,
        })
    }

    /// The header of the frame at hand.
    pub fn header(&self) -> &FrameHeader {
        &self.header
    }

    /// Bytes read so far, of all frames.
    pub fn n_bytes_read(&self) -> u64 {
        self.summary.n_bytes + self.frame.n_bytes
    }

    /// What has been read of complete frames.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// The rows of the next block, or `None` after the last frame.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`Error::Corrupt`] for bytes that no writer makes. The reader is of
    /// no use after an error.
    pub fn next_block(&mut self) -> Result<Option<PredictionMatrix>, Error> {
        while !self.is_at_end {
            let mut tag = [0];
            read_exact(&mut self.reader, &mut tag, "a frame, before its index")?;
            match tag[0] {
                BLOCK_TAG => return self.read_block().map(Some),
                INDEX_TAG => {
                    self.read_index()?;
                    self.read_next_frame()?;
                }
                _ => {
                    return Err(Error::Corrupt(
                        "neither a block nor the index stands where one must",
                    ));
                }
            }
        }
        Ok(None)
    }

    fn read_block(&mut self) -> Result<PredictionMatrix, Error> {
        const PART: &str = "a block";
        let mut sizes = [0; 8];
        read_exact(&mut self.reader, &mut sizes, PART)?;
        let [n_rows, n_payload_bytes] = two_u32(&sizes);
        let n_values = u64::from(n_rows) * self.header.classes as u64;
        if n_rows == 0 {
            return Err(Error::Corrupt("a block has no rows"));
        }
        check_limit("a block's number of values", n_values, MAX_BLOCK_VALUES)?;
        check_limit(
            "a block's size",
            u64::from(n_payload_bytes),
            16 * MAX_BLOCK_VALUES,
        )?;
        let payload = read_vec(&mut self.reader, n_payload_bytes, PART)?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&[BLOCK_TAG]);
        hasher.update(&sizes);
        hasher.update(&payload);
        read_checksum(&mut self.reader, hasher, PART, || {
            let first = self.summary.n_rows + self.frame.n_rows;
            let end = first + u64::from(n_rows);
            format!("block {} (rows {first}..{end})", self.index.len())
        })?;
        let matrix = block::decode(
            &payload,
            n_rows as usize,
            self.header.classes,
            self.quantizer,
        )?;
        let n_bytes = 13 + n_payload_bytes;
        self.index.push(IndexEntry { n_rows, n_bytes });
        self.frame.n_rows += u64::from(n_rows);
        self.frame.n_bytes += u64::from(n_bytes);
        Ok(matrix)
    }

    /// Reads the index, its tag excepted, and checks it against the blocks that came.
    fn read_index(&mut self) -> Result<(), Error> {
        const PART: &str = "the index";
        let mut bytes = vec![INDEX_TAG];
        // Never more than what the blocks that were read ask for.
        let n_body_bytes =
            u32::try_from(4 + 8 * self.index.len() + 16).map_err(|_| Error::LimitExceeded {
                what: "the number of blocks",
                found: self.index.len() as u64,
                limit: u64::from(u32::MAX) / 8,
            })?;
        bytes.extend(read_vec(&mut self.reader, n_body_bytes, PART)?);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes);
        read_checksum(&mut self.reader, hasher, PART, || PART.to_owned())?;

        let mut expected = (self.index.len() as u32).to_le_bytes().to_vec();
        for entry in &self.index {
            expected.extend(entry.n_rows.to_le_bytes());
            expected.extend(entry.n_bytes.to_le_bytes());
        }
        let (listed, measured) = bytes[1..].split_at(expected.len());
        if listed != expected {
            return Err(Error::Corrupt("the index does not match the blocks"));
        }
        let (n_exact_rows, largest_error) = measured.split_at(8);
        self.frame.n_exact_rows = u64::from_le_bytes(n_exact_rows.try_into().expect("8 bytes"));
        self.frame.largest_error = f64::from_le_bytes(largest_error.try_into().expect("8 bytes"));
        if self.frame.n_exact_rows > self.frame.n_rows
            || !(0.0..=self.header.max_error).contains(&self.frame.largest_error)
        {
            return Err(Error::Corrupt("the index states impossible figures"));
        }

        let n_index_bytes = bytes.len() as u32 + 4 + 8;
        let mut end = [0; 8];
        read_exact(&mut self.reader, &mut end, PART)?;
        if end[..4] != n_index_bytes.to_le_bytes() || end[4..] != END_MAGIC {
            return Err(Error::Corrupt("the end of the frame is not marked"));
        }
        self.frame.n_bytes += u64::from(n_index_bytes);
        Ok(())
    }

    /// Goes on with the frame that follows, if any.
    fn read_next_frame(&mut self) -> Result<(), Error> {
        self.summary.add(&std::mem::take(&mut self.frame));
        self.index.clear();
        let start = match read_start(&mut self.reader) {
            Ok(start) => start,
            Err(Error::Empty) => {
                self.is_at_end = true;
                return Ok(());
            }
            Err(Error::NotHuff { .. }) => {
                return Err(Error::TrailingBytes {
                    n_rows: self.summary.n_rows,
                    n_bytes: self.summary.n_bytes,
                });
            }
            Err(error) => return Err(error),
        };
        let (header, quantizer, n_bytes) = read_header(&mut self.reader, &start)?;
        if header.classes != self.header.classes {
            return Err(Error::Header(format!(
                "a frame of {} classes follows one of {}",
                header.classes, self.header.classes
            )));
        }
        self.header = header;
        self.quantizer = quantizer;
        self.frame = Summary {
            n_bytes,
            ..Summary::default()
        };
        Ok(())
    }
}

/// Reads the magic number and what follows it up to the JSON.
fn read_start(reader: &mut impl Read) -> Result<[u8; 9], Error> {
    let mut magic = Vec::new();
    reader.take(4).read_to_end(&mut magic)?;
    if magic != MAGIC {
        if magic.is_empty() {
            return Err(Error::Empty);
        }
        if MAGIC.starts_with(&magic) {
            return Err(Error::Truncated {
                part: "the magic number",
            });
        }
        return Err(Error::NotHuff { found: magic });
    }
    let mut start = [0; 9];
    start[..4].copy_from_slice(&magic);
    read_exact(reader, &mut start[4..5], "the header")?;
    match start[4] {
        VERSION => {}
        0 => return Err(Error::Corrupt("format version 0 does not exist")),
        found => return Err(Error::TooNew { found }),
    }
    read_exact(reader, &mut start[5..], "the header")?;
    Ok(start)
}

/// Reads and checks the JSON header; also returns the bytes that the header takes in the frame.
fn read_header(
    reader: &mut impl Read,
    start: &[u8; 9],
) -> Result<(FrameHeader, Quantizer, u64), Error> {
    const PART: &str = "the header";
    let n_json_bytes = u32::from_le_bytes(start[5..].try_into().expect("4 bytes"));
    check_limit(
        "the header's size",
        u64::from(n_json_bytes),
        MAX_HEADER_BYTES as usize,
    )?;
    let json = read_vec(reader, n_json_bytes, PART)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(start);
    hasher.update(&json);
    read_checksum(reader, hasher, PART, || PART.to_owned())?;
    let header: FrameHeader =
        serde_json::from_slice(&json).map_err(|error| Error::Header(error.to_string()))?;
    let quantizer = header.validate()?;
    Ok((header, quantizer, 13 + u64::from(n_json_bytes)))
}

fn check_limit(what: &'static str, found: u64, limit: usize) -> Result<(), Error> {
    match found > limit as u64 {
        false => Ok(()),
        true => Err(Error::LimitExceeded {
            what,
            found,
            limit: limit as u64,
        }),
    }
}

fn two_u32(bytes: &[u8; 8]) -> [u32; 2] {
    let (low, high) = bytes.split_at(4);
    [low, high].map(|half| u32::from_le_bytes(half.try_into().expect("4 bytes")))
}

fn read_exact(reader: &mut impl Read, bytes: &mut [u8], part: &'static str) -> Result<(), Error> {
    reader
        .read_exact(bytes)
        .map_err(|error| truncated(error, part))
}

/// Reads `n_bytes`, allocating only as they come.
fn read_vec(reader: &mut impl Read, n_bytes: u32, part: &'static str) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    reader.take(u64::from(n_bytes)).read_to_end(&mut bytes)?;
    match bytes.len() == n_bytes as usize {
        true => Ok(bytes),
        false => Err(Error::Truncated { part }),
    }
}

fn truncated(error: io::Error, part: &'static str) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Truncated { part },
        _ => Error::Io(error),
    }
}

/// Reads a stored checksum and compares it with that of what came before it.
fn read_checksum(
    reader: &mut impl Read,
    hasher: crc32fast::Hasher,
    part: &'static str,
    name: impl FnOnce() -> String,
) -> Result<(), Error> {
    let mut stored = [0; 4];
    read_exact(reader, &mut stored, part)?;
    let expected = u32::from_le_bytes(stored);
    let found = hasher.finalize();
    match found == expected {
        true => Ok(()),
        false => Err(Error::Checksum {
            part: name(),
            found,
            expected,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N_CLASSES: usize = 4;

    fn matrix() -> PredictionMatrix {
        let rows = [
            [0.97, 0.01, 0.01, 0.01],
            [0.25, 0.25, 0.25, 0.25],
            [0.0, 0.5001, 0.4999, 0.0],
        ];
        PredictionMatrix::new(N_CLASSES, rows.concat())
    }

    fn frame(matrix: &PredictionMatrix) -> Vec<u8> {
        let header = FrameHeader::probabilities(matrix.n_classes(), 0.002).unwrap();
        let mut writer = FrameWriter::new(Vec::new(), header).unwrap();
        writer.write_block(matrix).unwrap();
        let (bytes, summary, _) = writer.finish().unwrap();
        assert_eq!(summary.n_bytes, bytes.len() as u64);
        bytes
    }

    fn read_all(bytes: &[u8]) -> Result<(Vec<f32>, Summary), Error> {
        let mut reader = FrameReader::new(bytes)?;
        let mut values = Vec::new();
        while let Some(block) = reader.next_block()? {
            values.extend_from_slice(block.values());
        }
        Ok((values, *reader.summary()))
    }

    #[test]
    fn frames_and_their_concatenation_decode_to_their_rows() {
        let bytes = frame(&matrix());
        let (values, summary) = read_all(&bytes).unwrap();
        assert_eq!(summary.n_rows, 3);
        assert_eq!(summary.n_bytes, bytes.len() as u64);
        for (decoded, original) in values.iter().zip(matrix().values()) {
            assert!((decoded - original).abs() <= 0.002);
        }
        let (twice, summary) = read_all(&[&bytes[..], &bytes].concat()).unwrap();
        assert_eq!(twice, [&values[..], &values].concat());
        assert_eq!(
            (summary.n_rows, summary.n_bytes),
            (6, 2 * bytes.len() as u64)
        );
    }

    #[test]
    fn no_rows_are_a_valid_frame() {
        let bytes = frame(&PredictionMatrix::new(N_CLASSES, vec![]));
        assert_eq!(read_all(&bytes).unwrap().1.n_rows, 0);
    }

    #[test]
    fn every_prefix_is_an_error_and_all_but_the_first_few_are_called_truncated() {
        let bytes = frame(&matrix());
        for end in 0..bytes.len() {
            match read_all(&bytes[..end]) {
                Err(Error::Empty) => assert_eq!(end, 0),
                Err(Error::Truncated { .. }) => {}
                other => panic!("prefix of {end} bytes: {other:?}"),
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_an_error() {
        let bytes = frame(&matrix());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read_all(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn damage_in_a_block_is_named_with_its_rows() {
        let bytes = frame(&matrix());
        let mut damaged = [&bytes[..], &bytes].concat();
        let position = damaged.len() - 60;
        damaged[position] ^= 1;
        let message = read_all(&damaged).unwrap_err().to_string();
        assert!(
            message.starts_with("block 0 (rows 3..6) is damaged"),
            "{message}"
        );
    }

    #[test]
    fn other_files_and_newer_versions_are_told_apart() {
        assert!(matches!(
            read_all(b"\x93NUMPY\x01\x00"),
            Err(Error::NotHuff { .. })
        ));
        let mut newer = frame(&matrix());
        newer[4] = 2;
        let message = read_all(&newer).unwrap_err().to_string();
        assert_eq!(
            message,
            "format version 2 is newer than this pc supports (1); upgrade pc"
        );
    }

    #[test]
    fn an_error_that_is_not_a_number_counts_as_infinite() {
        assert_eq!(row_error(&[f32::NAN, 0.1], &[0.0, 0.1]), f64::INFINITY);
        assert_eq!(row_error(&[0.5, 0.25], &[0.25, 0.25]), 0.25);
    }

    #[test]
    fn values_that_are_no_probabilities_are_refused_by_row_and_class() {
        for value in [f32::NAN, f32::INFINITY, -0.1, 1.1] {
            let mut values = matrix().values().to_vec();
            values[6] = value;
            let header = FrameHeader::probabilities(N_CLASSES, 0.002).unwrap();
            let mut writer = FrameWriter::new(Vec::new(), header).unwrap();
            writer.write_block(&matrix()).unwrap();
            let error = writer
                .write_block(&PredictionMatrix::new(N_CLASSES, values))
                .unwrap_err();
            assert!(error.to_string().starts_with("row 4, class 2: "), "{error}");
        }
    }

    #[test]
    fn a_row_that_would_leave_the_bound_is_stored_exactly() {
        // A header may state fewer levels than the bound needs; the writer still keeps the bound.
        let mut header = FrameHeader::probabilities(N_CLASSES, 0.002).unwrap();
        header.levels = 3;
        let mut writer = FrameWriter::new(Vec::new(), header).unwrap();
        let exact = PredictionMatrix::new(
            N_CLASSES,
            [[0.0, 0.5, 0.5, 0.0], [0.0, 0.0, 0.0, 1.0]].concat(),
        );
        writer.write_block(&exact).unwrap();
        let (bytes, summary, _) = writer.finish().unwrap();
        assert_eq!((summary.n_exact_rows, summary.largest_error), (1, 0.0));
        let (values, read) = read_all(&bytes).unwrap();
        assert_eq!(values, exact.values());
        assert_eq!(read, summary);
    }
}
