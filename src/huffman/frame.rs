//! The frame: a whole `.huff` stream (FORMAT.md, section 3).
//!
//! A frame is a header, blocks of rows, and an index that closes it. [`FrameWriter`](super::FrameWriter)
//! needs no seeking and [`FrameReader`](super::FrameReader) none either, so both work on pipes;
//! [`FileIndex`](super::FileIndex) finds rows in files. Frames that follow each other in one file are the
//! rows of the first, then of the second.
//!
//! Here is what all three share: the header, the index, and the numbers on the wire.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use super::Error;
use super::promise::{Bound, Figures, Promise};

/// The first bytes of every frame. The first of them is no ASCII, so no text file begins like this.
pub const MAGIC: [u8; 4] = [0x89, b'H', b'U', b'F'];
/// The last bytes of every frame.
pub(super) const END_MAGIC: [u8; 4] = [b'H', b'U', b'F', 0x0A];
/// The format version written, and the newest one read.
pub const VERSION: u8 = 9;
/// The first versions: of frames that name a reference, and of those that name none. Which way of coding a block
/// a later one brought, [`first_version`](super::block::first_version) tells.
const VERSION_BESIDE: u8 = 2;
const VERSION_ALONE: u8 = 1;
/// The largest number of classes.
pub const MAX_CLASSES: usize = 1 << 20;
/// The largest number of values (rows times classes) in a block, so that a reader's memory is bounded.
pub(super) const MAX_BLOCK_VALUES: u64 = 1 << 22;
/// The largest payload of a block in bytes.
pub(super) const MAX_PAYLOAD_BYTES: u64 = 16 * MAX_BLOCK_VALUES;
/// The largest JSON header in bytes.
pub(super) const MAX_HEADER_BYTES: u64 = 1 << 26;
/// What sizes stated by a file may make a reader allocate, if nothing else is asked for.
pub const DEFAULT_MEMORY_LIMIT: u64 = 1 << 28;

/// What a reader keeps of a block in memory.
pub(super) const BYTES_A_BLOCK: u64 = 64;
/// What a reader keeps of a byte of a header at most: a list of empty names takes so many times its bytes.
pub(super) const BYTES_A_HEADER_BYTE: u64 = 24;

/// A block of one row and its model, of a byte: tag, number of rows, length and checksum.
const MIN_BLOCK_BYTES: u64 = 8;

/// What is wrong where another tag stands.
pub(super) const NEITHER: Error =
    Error::Corrupt("neither a block nor the index stands where one must");
pub(super) const BLOCK_TAG: u8 = b'B';
pub(super) const INDEX_TAG: u8 = b'I';
/// Bytes after the index's checksum: its length and the end magic.
pub const N_END_BYTES: usize = 8;

/// Rows in each block but the last: enough to pay for the codebooks, few enough to hold in memory.
pub fn rows_per_block(n_classes: usize) -> usize {
    ((1 << 21) / n_classes).clamp(1, 1 << 14)
}

/// The JSON header of a frame. Readers ignore members that they do not know.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FrameHeader {
    /// What is promised of the rows.
    #[serde(flatten)]
    pub promise: Promise,
    /// Number of classes (columns).
    pub classes: usize,
    /// A name for each class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_names: Option<Vec<String>>,
    /// SHA-256 of the checkpoint that made the predictions, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_sha256: Option<String>,
    /// What the rows are told against: row `k` of the frame against row `k` of the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<ReferenceName>,
    /// The program that wrote the frame.
    pub producer: String,
    /// The format version of the frame that this is the header of; frames are written in the newest one.
    #[serde(skip)]
    pub version: u8,
}

/// The members of a header beside those of its promise. Both are read by themselves: members in one another would be
/// kept until the end, unknown ones as well.
#[derive(Deserialize)]
struct Members {
    classes: usize,
    class_names: Option<Vec<String>>,
    model_sha256: Option<String>,
    reference: Option<ReferenceName>,
    producer: String,
}

/// Which predictions rows are told against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceName {
    /// SHA-256 of the reference's file, in hexadecimal.
    pub sha256: String,
    /// Number of its rows; the frame has no more.
    pub rows: u64,
}

impl FrameHeader {
    /// The header for rows of `classes` classes.
    ///
    /// # Errors
    /// As [`Promise::validate`], and [`Error::ClassesOutOfRange`].
    pub fn new(classes: usize, promise: Promise) -> Result<Self, Error> {
        let header = Self {
            promise,
            classes,
            class_names: None,
            model_sha256: None,
            reference: None,
            producer: concat!("pc ", env!("CARGO_PKG_VERSION")).to_owned(),
            version: VERSION,
        };
        header.validate()?;
        Ok(header)
    }

    /// Checks what serde cannot.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`Error::Header`] for class names of another number, or a reference
    /// whose hash is none.
    pub fn validate(&self) -> Result<(), Error> {
        self.promise.validate()?;
        if !(1..=MAX_CLASSES).contains(&self.classes) {
            return Err(Error::ClassesOutOfRange(self.classes));
        }
        if let Some(ReferenceName { sha256, .. }) = &self.reference {
            let is_hex = |digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
            if sha256.len() != 64 || !sha256.bytes().all(is_hex) {
                return Err(Error::Header("the SHA-256 of the reference is none".into()));
            }
        }
        match &self.class_names {
            Some(names) if names.len() != self.classes => Err(Error::Header(format!(
                "{} class names for {} classes",
                names.len(),
                self.classes
            ))),
            _ => Ok(()),
        }
    }

    /// Bytes of the header in a frame.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`] if the JSON is too long.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let json = serde_json::to_vec(self).map_err(|error| Error::Header(error.to_string()))?;
        check_limit("the header's size", json.len() as u64, MAX_HEADER_BYTES)?;
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        write_varint(&mut bytes, json.len() as u64);
        bytes.extend(json);
        append_checksum(&mut bytes);
        Ok(bytes)
    }

    fn from_json(json: &[u8], version: u8) -> serde_json::Result<Self> {
        let promise = serde_json::from_slice(json)?;
        let members: Members = serde_json::from_slice(json)?;
        Ok(Self {
            promise,
            classes: members.classes,
            class_names: members.class_names,
            model_sha256: members.model_sha256,
            reference: members.reference,
            producer: members.producer,
            version,
        })
    }

    /// Reads a header; also returns how many bytes it takes in the frame.
    ///
    /// # Errors
    /// [`Error::Empty`] if there is nothing, [`Error::NotHuff`], [`Error::TooNew`],
    /// [`Error::Truncated`], [`Error::Checksum`], [`Error::Header`], [`Error::LimitExceeded`],
    /// [`Error::MemoryLimit`], [`Error::Io`].
    pub(super) fn read_from(reader: &mut impl Read, memory: u64) -> Result<(Self, u64), Error> {
        const PART: &str = "the header";
        let mut magic = Vec::new();
        reader.take(4).read_to_end(&mut magic)?;
        if magic != MAGIC {
            return Err(match magic.is_empty() {
                true => Error::Empty,
                false if MAGIC.starts_with(&magic) => Error::Truncated {
                    part: "the magic number",
                },
                false => Error::NotHuff { found: magic },
            });
        }
        let mut part = Part::new(reader, PART);
        part.hasher.update(&magic);
        let [version] = part.array()?;
        match version {
            VERSION_ALONE..=VERSION => {}
            0 => return Err(Error::Corrupt("format version 0 does not exist")),
            found => return Err(Error::TooNew { found }),
        }
        let n_json_bytes = part.varint()?;
        check_limit("the header's size", n_json_bytes, MAX_HEADER_BYTES)?;
        check_memory(
            PART,
            n_json_bytes.saturating_mul(BYTES_A_HEADER_BYTE),
            memory,
        )?;
        let json = part.bytes(n_json_bytes)?;
        let n_bytes = part.check(|| PART.to_owned())?;
        let header =
            Self::from_json(&json, version).map_err(|error| Error::Header(error.to_string()))?;
        header.validate()?;
        match (version, &header.reference) {
            (VERSION_ALONE, Some(_)) | (VERSION_BESIDE, None) => Err(Error::Header(
                "frames of version 2 name a reference, those of version 1 do not".to_owned(),
            )),
            _ => Ok((header, 4 + n_bytes)),
        }
    }
}

/// What was written or read, and what was measured while writing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Summary {
    /// Number of rows.
    pub n_rows: u64,
    /// What was measured of them.
    pub figures: Figures,
    /// Bytes of the frame or frames.
    pub n_bytes: u64,
}

impl Summary {
    /// Takes those of another frame in.
    pub fn add(&mut self, other: &Self) {
        self.n_rows += other.n_rows;
        self.figures.add(&other.figures);
        self.n_bytes += other.n_bytes;
    }
}

/// One block's line of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub(super) n_rows: u32,
    /// All bytes of the block, tag and checksum included.
    pub(super) n_bytes: u32,
}

/// The end of a frame.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Index {
    /// All bytes of the header.
    pub(super) n_header_bytes: u64,
    pub(super) blocks: Vec<IndexEntry>,
    pub(super) figures: Figures,
}

impl Index {
    /// Bytes of the index in a frame under this promise, to the frame's end.
    pub(super) fn to_bytes(&self, promise: &Promise) -> Vec<u8> {
        let mut bytes = vec![INDEX_TAG];
        write_varint(&mut bytes, self.n_header_bytes);
        write_varint(&mut bytes, self.blocks.len() as u64);
        for block in &self.blocks {
            write_varint(&mut bytes, block.n_rows.into());
            write_varint(&mut bytes, block.n_bytes.into());
        }
        write_varint(&mut bytes, self.figures.n_exact_rows);
        for (figure, _) in stated_figures(&mut self.figures.clone(), promise) {
            bytes.extend(figure.to_le_bytes());
        }
        append_checksum(&mut bytes);
        bytes.extend((bytes.len() as u32 + N_END_BYTES as u32).to_le_bytes());
        bytes.extend(END_MAGIC);
        bytes
    }

    /// Bytes of the header and of all blocks, as an index states them.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Corrupt`].
    pub(super) fn sizes(bytes: &[u8]) -> Result<(u64, u64), Error> {
        let mut reader = bytes.get(1..).unwrap_or_default();
        let mut part = Part::new(&mut reader, "the index");
        let [n_header_bytes, n_blocks] = [part.varint()?, part.varint()?];
        let mut n_block_bytes = 0u64;
        for _ in 0..n_blocks {
            let [_, n_bytes] = [part.varint()?, part.varint()?];
            n_block_bytes = n_block_bytes.saturating_add(n_bytes);
        }
        Ok((n_header_bytes, n_block_bytes))
    }

    /// Reads the index of a frame with this header, its tag excepted; also returns its bytes, tag and
    /// all.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Checksum`], [`Error::Corrupt`], [`Error::MemoryLimit`],
    /// [`Error::Io`].
    pub(super) fn read_from(
        reader: &mut impl Read,
        header: &FrameHeader,
        memory: u64,
    ) -> Result<(Self, u64), Error> {
        const PART: &str = "the index";
        const IMPOSSIBLE: Error = Error::Corrupt("the index states impossible figures");
        let mut part = Part::new(reader, PART);
        part.hasher.update(&[INDEX_TAG]);
        let n_header_bytes = part.varint()?;
        let n_blocks = part.varint()?;
        check_memory(PART, n_blocks.saturating_mul(BYTES_A_BLOCK), memory)?;
        let mut blocks = Vec::new();
        let mut n_rows = 0u64;
        for _ in 0..n_blocks {
            let [rows, bytes] = [part.varint()?, part.varint()?];
            let n_values = rows.saturating_mul(header.classes as u64);
            if rows == 0 || n_values > MAX_BLOCK_VALUES || bytes < MIN_BLOCK_BYTES {
                return Err(IMPOSSIBLE);
            }
            n_rows = n_rows.saturating_add(rows);
            blocks.push(IndexEntry {
                n_rows: u32::try_from(rows).map_err(|_| IMPOSSIBLE)?,
                n_bytes: u32::try_from(bytes).map_err(|_| IMPOSSIBLE)?,
            });
        }
        let mut figures = Figures {
            n_exact_rows: part.varint()?,
            ..Figures::default()
        };
        for (figure, _) in stated_figures(&mut figures, &header.promise) {
            *figure = f64::from_le_bytes(part.array()?);
        }
        let n_bytes = 1 + part.check(|| PART.to_owned())? + N_END_BYTES as u64;

        let mut is_possible = figures.n_exact_rows <= n_rows;
        for (figure, limit) in stated_figures(&mut figures, &header.promise) {
            is_possible &= (0.0..=limit).contains(figure);
        }
        if !is_possible {
            return Err(IMPOSSIBLE);
        }
        let mut end = [0; N_END_BYTES];
        read_exact(reader, &mut end, PART)?;
        if end[..4] != (n_bytes as u32).to_le_bytes() || end[4..] != END_MAGIC {
            return Err(Error::Corrupt("the end of the frame is not marked"));
        }
        let index = Self {
            n_header_bytes,
            blocks,
            figures,
        };
        Ok((index, n_bytes))
    }
}

/// The figures that an index states, each with the most that it can be: those that the bound is about.
fn stated_figures<'a>(
    figures: &'a mut Figures,
    promise: &Promise,
) -> impl Iterator<Item = (&'a mut f64, f64)> {
    let stated = match promise.bound {
        Bound::MaxError(max_error) => vec![(&mut figures.largest_error, max_error)],
        Bound::MaxKl(max_kl) => vec![
            (&mut figures.largest_error, 1.0),
            (&mut figures.largest_kl, max_kl),
            (&mut figures.total_kl, f64::MAX),
        ],
        Bound::Exact => vec![],
    };
    stated.into_iter()
}

/// A part of a frame on its way in, up to its checksum.
pub(super) struct Part<'a, R> {
    reader: &'a mut R,
    name: &'static str,
    pub(super) hasher: crc32fast::Hasher,
    n_bytes: u64,
}

impl<'a, R: Read> Part<'a, R> {
    pub(super) fn new(reader: &'a mut R, name: &'static str) -> Self {
        Self {
            reader,
            name,
            hasher: crc32fast::Hasher::new(),
            n_bytes: 0,
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        read_exact(self.reader, &mut bytes, self.name)?;
        self.hasher.update(&bytes);
        self.n_bytes += N as u64;
        Ok(bytes)
    }

    /// Reads a number as [`write_varint`] wrote it.
    pub(super) fn varint(&mut self) -> Result<u64, Error> {
        const CORRUPT: Error = Error::Corrupt("a number is not in its shortest form");
        let mut number = 0;
        for shift in (0..63).step_by(7) {
            let [byte] = self.array()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return match byte == 0 && shift > 0 {
                    true => Err(CORRUPT),
                    false => Ok(number),
                };
            }
        }
        Err(CORRUPT)
    }

    /// Reads `n_bytes`, allocating only as they come.
    pub(super) fn bytes(&mut self, n_bytes: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.reader.take(n_bytes).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != n_bytes {
            return Err(Error::Truncated { part: self.name });
        }
        self.hasher.update(&bytes);
        self.n_bytes += n_bytes;
        Ok(bytes)
    }

    /// Reads the checksum and compares it with that of what came before it; returns all bytes read.
    pub(super) fn check(self, name: impl FnOnce() -> String) -> Result<u64, Error> {
        let mut stored = [0; 4];
        read_exact(self.reader, &mut stored, self.name)?;
        let expected = u32::from_le_bytes(stored);
        let found = self.hasher.finalize();
        match found == expected {
            true => Ok(self.n_bytes + 4),
            false => Err(Error::Checksum {
                part: name(),
                found,
                expected,
            }),
        }
    }
}

/// Appends a number, at most 2^63 - 1, seven bits a byte, the lowest first (LEB128, as in DWARF 5, section
/// 7.6).
pub(super) fn write_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// How many bytes [`write_varint`] makes of a number.
pub(super) fn n_varint_bytes(number: u64) -> u64 {
    u64::from((u64::BITS - (number | 1).leading_zeros()).div_ceil(7))
}

pub(super) fn append_checksum(bytes: &mut Vec<u8>) {
    let checksum = crc32fast::hash(bytes);
    bytes.extend(checksum.to_le_bytes());
}

pub(super) fn check_limit(what: &'static str, found: u64, limit: u64) -> Result<(), Error> {
    match found > limit {
        false => Ok(()),
        true => Err(Error::LimitExceeded { what, found, limit }),
    }
}

pub(super) fn check_memory(what: &'static str, needed: u64, limit: u64) -> Result<(), Error> {
    match needed > limit {
        false => Ok(()),
        true => Err(Error::MemoryLimit {
            what,
            needed,
            limit,
        }),
    }
}

pub(super) fn read_exact(
    reader: &mut impl Read,
    bytes: &mut [u8],
    part: &'static str,
) -> Result<(), Error> {
    reader
        .read_exact(bytes)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::Truncated { part },
            _ => Error::Io(error),
        })
}
