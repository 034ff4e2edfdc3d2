//! The frame: a whole `.huff` stream (FORMAT.md, section 3).
//!
//! A frame is a header, blocks of rows, and an index that closes it. [`FrameWriter`](super::FrameWriter)
//! needs no seeking and [`FrameReader`](super::FrameReader) none either, so both work on pipes;
//! [`FileIndex`](super::FileIndex) finds rows in files. Frames that follow each other in one file hold the rows of the
//! first, then those of the second.
//!
//! Here is what all three share beside the [header](super::FrameHeader): the index, and how numbers are written.

use std::io::{self, Read};

use super::promise::{Bound, Figures, Promise};
use super::{Error, FrameHeader};

/// The last bytes of every frame.
pub(super) const END_MAGIC: [u8; 4] = [b'H', b'U', b'F', 0x0A];
/// The largest number of values (rows times classes) in a block, so that a reader's memory is bounded.
pub(super) const MAX_BLOCK_VALUES: u64 = 1 << 22;
/// The largest payload of a block in bytes.
pub(super) const MAX_PAYLOAD_BYTES: u64 = 16 * MAX_BLOCK_VALUES;
/// The memory that sizes stated by a file may make a reader allocate, if nothing else is asked for.
pub const DEFAULT_MEMORY_LIMIT: u64 = 1 << 28;

/// The memory that a reader keeps for each block.
pub(super) const BYTES_A_BLOCK: u64 = 64;

/// The bytes of a block of one row and a payload of one byte: tag, number of rows, length, payload and checksum.
const MIN_BLOCK_BYTES: u64 = 8;

/// The error where another tag stands.
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

/// The size of frames, and the figures measured while they were written.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Summary {
    /// Number of rows.
    pub n_rows: u64,
    /// The figures measured of the rows.
    pub figures: Figures,
    /// Bytes of the frame or frames.
    pub n_bytes: u64,
}

impl Summary {
    /// Adds the size and figures of another frame.
    pub fn add(&mut self, other: &Self) {
        self.n_rows += other.n_rows;
        self.figures.add(&other.figures);
        self.n_bytes += other.n_bytes;
    }
}

/// The line of a block in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub(super) n_rows: u32,
    /// All bytes of the block, tag and checksum included.
    pub(super) n_bytes: u32,
}

/// The end of a frame: its index.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Index {
    /// All bytes of the header.
    pub(super) n_header_bytes: u64,
    pub(super) blocks: Vec<IndexEntry>,
    pub(super) figures: Figures,
}

impl Index {
    /// The bytes of the index in a frame under this promise, to the frame's end.
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

    /// The bytes of the header and of all blocks, as an index states them.
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

    /// Reads the index of a frame with this header, but for its tag; also returns its bytes, tag included.
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

/// The figures that an index states, which depend on the bound, each with its largest possible value.
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

/// A part of a frame as it is read, up to its checksum.
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

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
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

    /// Reads the checksum and compares it with that of the bytes before it; returns the number of all bytes read.
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

/// The number of bytes that [`write_varint`] writes.
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
