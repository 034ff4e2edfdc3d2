//! Reading frames from a stream.

use std::io::Read;
use std::ops::Range;

use super::block;
use super::frame::{
    BLOCK_TAG, BYTES_A_BLOCK, DEFAULT_MEMORY_LIMIT, INDEX_TAG, Index, IndexEntry, MAX_BLOCK_VALUES,
    MAX_PAYLOAD_BYTES, NEITHER, Part, check_limit, check_memory, n_varint_bytes, read_exact,
};
use super::meter::PayloadBits;
use super::models::FirstByte;
use super::{Error, FrameHeader, Summary};
use crate::matrix::PredictionMatrix;

/// Rows of a reference given which those of a block are coded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceRows {
    /// SHA-256 of the reference's file, in hexadecimal.
    pub sha256: String,
    /// The range of its rows.
    pub rows: Range<u64>,
}

/// A block as read: whole, but not decoded yet, so that another thread can do this.
#[derive(Debug, Clone)]
pub struct Block {
    n_rows: usize,
    n_classes: usize,
    keep_top: usize,
    payload: Vec<u8>,
    /// The rows of a reference that decoding needs.
    reference: Option<ReferenceRows>,
}

/// The name of any block in messages.
const PART: &str = "a block";

/// The numbers between the tag and the payload of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockStart {
    pub(super) n_rows: u64,
    pub(super) n_payload_bytes: u64,
}

impl BlockStart {
    /// Reads the numbers and checks them against the format's limits.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Corrupt`], [`Error::LimitExceeded`], [`Error::Io`].
    pub(super) fn read_from(reader: &mut impl Read, header: &FrameHeader) -> Result<Self, Error> {
        Self::of_part(&mut Part::new(reader, PART), header)
    }

    fn of_part(part: &mut Part<'_, impl Read>, header: &FrameHeader) -> Result<Self, Error> {
        let [n_rows, n_payload_bytes] = [part.varint()?, part.varint()?];
        if n_rows == 0 {
            return Err(Error::Corrupt("a block has no rows"));
        }
        let n_values = n_rows.saturating_mul(header.classes as u64);
        check_limit("a block's number of values", n_values, MAX_BLOCK_VALUES)?;
        check_limit("a block's size", n_payload_bytes, MAX_PAYLOAD_BYTES)?;
        Ok(Self {
            n_rows,
            n_payload_bytes,
        })
    }

    /// Bytes of the whole block, from its tag to its checksum.
    pub(super) fn n_bytes(&self) -> u64 {
        let n_numbers = n_varint_bytes(self.n_rows) + n_varint_bytes(self.n_payload_bytes);
        1 + n_numbers + self.n_payload_bytes + 4
    }
}

impl Block {
    /// Reads a block, but for its tag, which is still to be [`checked`](Self::checked); also returns its bytes, tag
    /// included. `name` is for messages.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Checksum`], [`Error::Corrupt`], [`Error::LimitExceeded`],
    /// [`Error::MemoryLimit`], [`Error::Io`].
    pub(super) fn read_from(
        reader: &mut impl Read,
        header: &FrameHeader,
        memory: u64,
        name: impl FnOnce(u64) -> String,
    ) -> Result<(Self, u64), Error> {
        let mut part = Part::new(reader, PART);
        part.hasher.update(&[BLOCK_TAG]);
        let start = BlockStart::of_part(&mut part, header)?;
        let (n_rows, n_payload_bytes) = (start.n_rows, start.n_payload_bytes);
        let n_values = n_rows * header.classes as u64;
        let needed = n_payload_bytes + 4 * n_values;
        check_memory(PART, needed, memory)?;
        let payload = part.bytes(n_payload_bytes)?;
        let n_bytes = 1 + part.check(|| name(n_rows))?;
        let (n_classes, keep_top) = (header.classes, header.promise.keep_top);
        let n_working_bytes =
            block::n_working_bytes(&payload, n_rows as usize, n_classes, keep_top);
        check_memory(PART, needed + n_working_bytes, memory)?;
        let block = Self {
            reference: None,
            n_rows: n_rows as usize,
            n_classes: header.classes,
            keep_top: header.promise.keep_top,
            payload,
        };
        Ok((block, n_bytes))
    }

    /// The block if its frame may have it, with the rows of a reference that it needs. `first_row` counts within the
    /// frame.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub(super) fn checked(self, header: &FrameHeader, first_row: u64) -> Result<Self, Error> {
        if header.version < block::first_version(&self.payload) {
            return Err(Error::Corrupt(
                "a block is coded in a way that its frame's version does not have",
            ));
        }
        let Some(name) = &header.reference else {
            return Ok(self);
        };
        let end = first_row.saturating_add(self.n_rows as u64);
        if end > name.rows {
            return Err(Error::Corrupt("a frame has more rows than its reference"));
        }
        let reference = FirstByte::of(&self.payload)
            .needs_reference()
            .then(|| ReferenceRows {
                sha256: name.sha256.clone(),
                rows: first_row..end,
            });
        Ok(Self { reference, ..self })
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Number of classes (columns).
    pub fn n_classes(&self) -> usize {
        self.n_classes
    }

    /// Whether all rows are coded bit for bit, whatever the promise is.
    pub fn is_bits(&self) -> bool {
        block::is_of_bits(&self.payload)
    }

    /// The rows of a reference that decoding needs, if any.
    pub fn reference(&self) -> Option<&ReferenceRows> {
        self.reference.as_ref()
    }

    /// Decodes the rows only to find where the bits of the payload went.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn measure(&self) -> Result<PayloadBits, Error> {
        self.measure_with(missing)
    }

    /// Measures as [`measure`](Self::measure) does, with rows of a reference from `find` if needed.
    ///
    /// # Errors
    /// As [`decode_with`](Self::decode_with).
    pub fn measure_with(
        &self,
        find: impl FnOnce(&ReferenceRows) -> Result<PredictionMatrix, Error>,
    ) -> Result<PayloadBits, Error> {
        let reference = self.find(find)?;
        let reference = reference.as_ref().map(PredictionMatrix::view);
        let Self {
            n_rows,
            n_classes,
            keep_top,
            ..
        } = *self;
        block::measure(&self.payload, n_rows, n_classes, reference, keep_top)
    }

    /// Decodes the rows.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for bytes that no writer makes; [`Error::ReferenceMissing`] if the block has a
    /// [`reference`](Self::reference).
    pub fn decode(&self) -> Result<PredictionMatrix, Error> {
        self.decode_with(missing)
    }

    /// Decodes as [`decode`](Self::decode) does, with rows of a reference from `find` if needed.
    ///
    /// # Errors
    /// As [`decode`](Self::decode) and `find`, and [`Error::WrongReference`] for other rows.
    pub fn decode_with(
        &self,
        find: impl FnOnce(&ReferenceRows) -> Result<PredictionMatrix, Error>,
    ) -> Result<PredictionMatrix, Error> {
        let reference = self.find(find)?;
        let reference = reference.as_ref().map(PredictionMatrix::view);
        let Self {
            n_rows,
            n_classes,
            keep_top,
            ..
        } = *self;
        block::decode_beside(&self.payload, n_rows, n_classes, reference, keep_top)
    }

    /// Gets the rows of a reference that decoding needs.
    fn find(
        &self,
        find: impl FnOnce(&ReferenceRows) -> Result<PredictionMatrix, Error>,
    ) -> Result<Option<PredictionMatrix>, Error> {
        let Some(needed) = &self.reference else {
            return Ok(None);
        };
        let reference = find(needed)?;
        match (reference.n_rows(), reference.n_classes()) == (self.n_rows, self.n_classes) {
            true => Ok(Some(reference)),
            false => Err(Error::WrongReference),
        }
    }
}

/// Fails to find rows of a reference.
pub(super) fn missing(rows: &ReferenceRows) -> Result<PredictionMatrix, Error> {
    Err(Error::ReferenceMissing {
        sha256: rows.sha256.clone(),
    })
}

/// Reads the frames of a stream, block by block.
#[derive(Debug)]
pub struct FrameReader<R> {
    reader: R,
    memory: u64,
    header: FrameHeader,
    n_header_bytes: u64,
    /// Blocks of the current frame.
    blocks: Vec<IndexEntry>,
    /// Sums of all complete frames.
    summary: Summary,
    /// Sums of the current frame.
    frame: Summary,
    is_at_end: bool,
}

impl<R: Read> FrameReader<R> {
    /// Reads the header of the first frame.
    ///
    /// # Errors
    /// [`Error::NotHuff`], [`Error::TooNew`], [`Error::Truncated`], [`Error::Checksum`],
    /// [`Error::Header`], [`Error::LimitExceeded`], [`Error::MemoryLimit`], [`Error::Io`].
    pub fn new(reader: R) -> Result<Self, Error> {
        Self::with_memory_limit(reader, DEFAULT_MEMORY_LIMIT)
    }

    /// Reads as [`new`](Self::new) does, but refuses files whose sizes ask for more than `memory` bytes at once (tables
    /// of codes, a few MB, come on top).
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_memory_limit(mut reader: R, memory: u64) -> Result<Self, Error> {
        let (header, n_bytes) = FrameHeader::read_from(&mut reader, memory)?;
        Ok(Self {
            reader,
            memory,
            header,
            n_header_bytes: n_bytes,
            blocks: Vec::new(),
            summary: Summary::default(),
            frame: Summary {
                n_bytes,
                ..Summary::default()
            },
            is_at_end: false,
        })
    }

    /// The header of the current frame.
    pub fn header(&self) -> &FrameHeader {
        &self.header
    }

    /// The rows, figures and bytes of the complete frames read.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// The rows of the next block, or `None` after the last frame.
    ///
    /// # Errors
    /// As [`next_raw_block`](Self::next_raw_block) and [`Block::decode`].
    pub fn next_block(&mut self) -> Result<Option<PredictionMatrix>, Error> {
        self.next_raw_block()?
            .map(|block| block.decode())
            .transpose()
    }

    /// The rows of the next block as from [`next_block`](Self::next_block), with rows of references from `find`.
    ///
    /// # Errors
    /// As [`next_raw_block`](Self::next_raw_block) and [`Block::decode_with`].
    pub fn next_block_with(
        &mut self,
        find: impl FnOnce(&ReferenceRows) -> Result<PredictionMatrix, Error>,
    ) -> Result<Option<PredictionMatrix>, Error> {
        self.next_raw_block()?
            .map(|block| block.decode_with(find))
            .transpose()
    }

    /// The next block, not decoded yet, or `None` after the last frame.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`Error::Corrupt`] for bytes that no writer makes; [`Error::TrailingBytes`] if the
    /// file ends inside a frame that follows a whole one. Do not use the reader after an error.
    pub fn next_raw_block(&mut self) -> Result<Option<Block>, Error> {
        self.read_next().map_err(|error| match error {
            Error::Truncated { .. } if self.summary.n_bytes > 0 => Error::TrailingBytes {
                n_rows: self.summary.n_rows,
                n_bytes: self.summary.n_bytes,
            },
            error => error,
        })
    }

    fn read_next(&mut self) -> Result<Option<Block>, Error> {
        while !self.is_at_end {
            let mut tag = [0];
            read_exact(&mut self.reader, &mut tag, "a frame, before its index")?;
            match tag[0] {
                BLOCK_TAG => return self.read_block().map(Some),
                INDEX_TAG => {
                    self.read_index()?;
                    self.read_next_frame()?;
                }
                _ => return Err(NEITHER),
            }
        }
        Ok(None)
    }

    fn read_block(&mut self) -> Result<Block, Error> {
        let number = self.blocks.len();
        let first_row = self.summary.n_rows + self.frame.n_rows;
        let name = |n_rows| block_name(number, first_row, n_rows);
        let (block, n_bytes) = Block::read_from(&mut self.reader, &self.header, self.memory, name)?;
        let block = block.checked(&self.header, self.frame.n_rows)?;
        self.blocks.push(IndexEntry {
            n_rows: block.n_rows as u32,
            n_bytes: n_bytes as u32,
        });
        check_memory(
            "the index",
            self.blocks.len() as u64 * BYTES_A_BLOCK,
            self.memory,
        )?;
        self.frame.n_rows += block.n_rows as u64;
        self.frame.n_bytes += n_bytes;
        Ok(block)
    }

    /// Reads the index, but for its tag, and checks it against the blocks read.
    fn read_index(&mut self) -> Result<(), Error> {
        let (index, n_bytes) = Index::read_from(&mut self.reader, &self.header, self.memory)?;
        if index.blocks != self.blocks || index.n_header_bytes != self.n_header_bytes {
            return Err(Error::Corrupt("the index does not match the blocks"));
        }
        self.frame.figures = index.figures;
        self.frame.n_bytes += n_bytes;
        Ok(())
    }

    /// Goes on to the next frame, if there is one.
    fn read_next_frame(&mut self) -> Result<(), Error> {
        self.summary.add(&std::mem::take(&mut self.frame));
        self.blocks.clear();
        let (header, n_bytes) = match FrameHeader::read_from(&mut self.reader, self.memory) {
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
        check_fits(&self.header, &header)?;
        self.header = header;
        self.n_header_bytes = n_bytes;
        self.frame.n_bytes = n_bytes;
        Ok(())
    }
}

/// The name of a block in messages.
pub(super) fn block_name(number: usize, first_row: u64, n_rows: u64) -> String {
    format!(
        "block {number} (rows {first_row}..{})",
        first_row.saturating_add(n_rows)
    )
}

/// Checks that a frame can follow another one.
pub(super) fn check_fits(before: &FrameHeader, header: &FrameHeader) -> Result<(), Error> {
    if header.classes != before.classes {
        return Err(Error::Header(format!(
            "a frame of {} classes follows one of {}",
            header.classes, before.classes
        )));
    }
    match header.promise.kind == before.promise.kind {
        true => Ok(()),
        false => Err(Error::Header(format!(
            "a frame of {} follows one of {}",
            header.promise.kind, before.promise.kind
        ))),
    }
}

/// The first class whose name differs, if both have the same names in different orders; else `None`.
pub fn first_moved_class(found: &[String], expected: &[String]) -> Option<usize> {
    let class = found.iter().zip(expected).position(|(a, b)| a != b)?;
    let [mut found, mut expected]: [Vec<&String>; 2] =
        [found, expected].map(|names| names.iter().collect());
    found.sort_unstable();
    expected.sort_unstable();
    (found == expected).then_some(class)
}

#[cfg(test)]
mod tests {
    use super::super::header::{VERSION, header_bytes};
    use super::super::noise;
    use super::*;
    use crate::huffman::frame::rows_per_block;
    use crate::huffman::{Bound, FileIndex, FrameWriter, Kind, Promise, ReferenceName};

    const N_CLASSES: usize = 4;

    fn matrix() -> PredictionMatrix {
        let rows = [
            [0.97, 0.01, 0.01, 0.01],
            [0.25, 0.25, 0.25, 0.25],
            [0.0, 0.5001, 0.4999, 0.0],
        ];
        PredictionMatrix::new(N_CLASSES, rows.concat())
    }

    fn header() -> FrameHeader {
        let promise = Promise::new(Kind::Probabilities, Bound::MaxError(0.002));
        FrameHeader::new(N_CLASSES, promise).unwrap()
    }

    fn frame(matrix: &PredictionMatrix) -> Vec<u8> {
        let mut writer = FrameWriter::new(Vec::new(), header()).unwrap();
        writer.write(matrix).unwrap();
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
        let position = damaged.len() - 40;
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
        newer[4] = VERSION + 1;
        let message = read_all(&newer).unwrap_err().to_string();
        assert_eq!(
            message,
            "format version 14 is newer than this pc supports (13); upgrade pc"
        );
    }

    #[test]
    fn values_that_are_no_probabilities_are_refused_by_row_and_class() {
        for value in [f32::NAN, f32::INFINITY, -0.1, 1.1] {
            let mut values = matrix().values().to_vec();
            values[6] = value;
            let header = header();
            let mut writer = FrameWriter::new(Vec::new(), header).unwrap();
            writer.write(&matrix()).unwrap();
            let error = writer
                .write(&PredictionMatrix::new(N_CLASSES, values))
                .unwrap_err();
            assert!(error.to_string().starts_with("row 4, class 2: "), "{error}");
        }
    }

    #[test]
    fn rows_are_found_without_reading_the_rest() {
        let n_rows = 3 * rows_per_block(N_CLASSES) + 17;
        let values: Vec<f32> = (0..n_rows * N_CLASSES)
            .map(|i| (i * 7919 % 101) as f32 / 400.0)
            .collect();
        let large = PredictionMatrix::new(N_CLASSES, values);
        let bytes = [frame(&large), frame(&matrix()), frame(&large)].concat();
        let (all, _) = read_all(&bytes).unwrap();
        let mut file = std::io::Cursor::new(bytes);
        let index = FileIndex::read_from(&mut file).unwrap();
        let n_rows = n_rows as u64;
        assert_eq!(index.summary().n_rows, 2 * n_rows + 3);
        assert_eq!(index.n_blocks(), 9);
        for rows in [
            0..0,
            0..1,
            16_383..16_385,
            n_rows - 1..n_rows + 4,
            n_rows + 1..n_rows + 2,
            0..2 * n_rows + 3,
            2 * n_rows + 3..2 * n_rows + 3,
        ] {
            let found = index.read_rows(&mut file, rows.clone()).unwrap();
            let values = &all[rows.start as usize * N_CLASSES..rows.end as usize * N_CLASSES];
            assert_eq!(found.values(), values, "{rows:?}");
        }
        for rows in [0..2 * n_rows + 4, u64::MAX..u64::MAX] {
            assert!(matches!(
                index.read_rows(&mut file, rows),
                Err(Error::RowsOutOfRange { .. })
            ));
        }
    }

    #[test]
    fn damage_costs_one_block_only() {
        let n_rows = 3 * rows_per_block(N_CLASSES);
        let values: Vec<f32> = (0..n_rows * N_CLASSES)
            .map(|i| (noise(i) >> 12) as f32 / (1 << 22) as f32)
            .collect();
        let bytes = frame(&PredictionMatrix::new(N_CLASSES, values));
        let index = FileIndex::read_from(&mut std::io::Cursor::new(&bytes)).unwrap();
        // From the tag of the first block to the checksum of the last.
        let second = bytes.len() / 2;
        let mut n_named = 0;
        for position in (second - 2000..second + 2000).step_by(97) {
            let mut damaged = bytes.clone();
            damaged[position] ^= 0x10;
            let mut file = std::io::Cursor::new(&damaged);
            for block in 0..3 {
                match index.read_block(&mut file, block) {
                    Ok(_) => assert_ne!(block, 1),
                    Err(error) => {
                        assert_eq!(block, 1);
                        assert!(
                            error
                                .to_string()
                                .starts_with("block 1 (rows 16384..32768) is")
                        );
                        n_named += 1;
                    }
                }
            }
        }
        assert!(n_named > 40);
    }

    #[test]
    fn every_flipped_bit_is_an_error_when_read_by_the_index() {
        let bytes = [frame(&matrix()), frame(&matrix())].concat();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let mut file = std::io::Cursor::new(&damaged);
            let result = FileIndex::read_from(&mut file)
                .and_then(|index| index.read_rows(&mut file, 0..6).map(|_| index));
            assert!(result.is_err(), "bit {bit}");
        }
        for end in 0..bytes.len() / 2 {
            assert!(FileIndex::read_from(&mut std::io::Cursor::new(&bytes[..end])).is_err());
        }
    }

    #[test]
    fn bytes_depend_neither_on_threads_nor_on_how_rows_are_handed_over() {
        let n_rows = 5 * rows_per_block(N_CLASSES) / 2;
        let values: Vec<f32> = (0..n_rows * N_CLASSES)
            .map(|i| (i * 7919 % 101) as f32 / 400.0)
            .collect();
        let whole = frame(&PredictionMatrix::new(N_CLASSES, values.clone()));
        for (n_threads, n_rows_at_once) in [(1, n_rows), (2, 1000), (8, 20_000), (8, n_rows)] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(n_threads)
                .build()
                .unwrap();
            let bytes = pool.install(|| {
                let mut writer = FrameWriter::new(Vec::new(), header()).unwrap();
                for values in values.chunks(n_rows_at_once * N_CLASSES) {
                    let rows = PredictionMatrix::new(N_CLASSES, values.to_vec());
                    writer.write(&rows).unwrap();
                }
                writer.finish().unwrap().0
            });
            assert!(bytes == whole, "{n_threads} threads, {n_rows_at_once} rows");
        }
    }

    #[test]
    fn a_file_that_asks_for_more_memory_than_allowed_is_refused() {
        let bytes = frame(&PredictionMatrix::new(
            N_CLASSES,
            matrix().values().repeat(100),
        ));
        let read = |limit| {
            let mut reader = FrameReader::with_memory_limit(&bytes[..], limit)?;
            while reader.next_block()?.is_some() {}
            Ok(())
        };
        assert!(read(10_000).is_ok());
        for limit in [0, 50, 4800] {
            let error: Error = read(limit).unwrap_err();
            assert!(matches!(error, Error::MemoryLimit { .. }), "{error}");
        }
    }

    #[test]
    fn labels_of_many_classes_keep_a_divergence() {
        // As fractions without zeros, the other classes would take too much from the top one.
        let n_classes = 1000;
        let mut values = vec![0.0; 50 * n_classes];
        for (number, row) in values.chunks_exact_mut(n_classes).enumerate() {
            row[number * 7919 % n_classes] = 1.0;
        }
        let rows = PredictionMatrix::new(n_classes, values);
        for max_kl in [1e-4, 1e-5, 1e-6] {
            let promise = Promise::new(Kind::Probabilities, Bound::MaxKl(max_kl));
            let header = FrameHeader::new(n_classes, promise).unwrap();
            let mut writer = FrameWriter::new(Vec::new(), header).unwrap();
            writer.write(&rows).unwrap();
            let (bytes, summary, _) = writer.finish().unwrap();
            assert!(bytes.len() < 600, "{} bytes", bytes.len());
            assert_eq!(summary.figures.n_exact_rows, 0);
        }
    }

    #[test]
    fn what_is_learned_of_many_classes_counts_as_memory() {
        let (n_classes, n_rows) = (5000, 40);
        let of_class = |i: usize| (i % n_classes * 7919 % 1000) as f32;
        let noise = |i: usize| {
            let mixed = (i as u32).wrapping_mul(2_654_435_761);
            ((mixed ^ mixed >> 15).wrapping_mul(2_246_822_519) >> 28) as f32 / 100.0
        };
        let values = (0..n_rows * n_classes).map(|i| of_class(i) + noise(i));
        let rows = PredictionMatrix::new(n_classes, values.collect());
        let promise = Promise::new(Kind::Logits, Bound::MaxError(0.01));
        let header = FrameHeader::new(n_classes, promise).unwrap();
        let mut writer = FrameWriter::new(Vec::new(), header).unwrap();
        writer.write(&rows).unwrap();
        let bytes = writer.finish().unwrap().0;
        let read = |limit| {
            let mut reader = FrameReader::with_memory_limit(&bytes[..], limit)?;
            reader.next_raw_block()
        };
        let block = read(1 << 28).unwrap().unwrap();
        let model = FirstByte::of(&block.payload).name().unwrap();
        assert!(model.starts_with("predicted, steps"), "{model}");
        // The rows, and those that are not learned yet.
        let n_bytes = (block.payload.len() + 2 * 4 * n_rows * n_classes) as u64;
        let error = read(n_bytes + 400_000).map(drop).unwrap_err();
        assert!(matches!(error, Error::MemoryLimit { .. }), "{error}");
        assert!(read(n_bytes + 500_000).is_ok());
    }

    #[test]
    fn every_promise_survives_in_the_header() {
        let rows = matrix();
        for (json, promise) in [
            (
                r#""kind":"probabilities","max_error":0.002,"#,
                Promise::new(Kind::Probabilities, Bound::MaxError(0.002)),
            ),
            (
                r#""kind":"probabilities","max_kl":0.001,"keep_top":3,"#,
                Promise {
                    keep_top: 3,
                    ..Promise::new(Kind::Probabilities, Bound::MaxKl(0.001))
                },
            ),
            (
                r#""kind":"logits","max_error":0.01,"#,
                Promise::new(Kind::Logits, Bound::MaxError(0.01)),
            ),
            (
                r#""kind":"values","exact":true,"#,
                Promise::new(Kind::Values, Bound::Exact),
            ),
        ] {
            let header = FrameHeader::new(N_CLASSES, promise).unwrap();
            let mut writer = FrameWriter::new(Vec::new(), header.clone()).unwrap();
            writer.write(&rows).unwrap();
            let (bytes, written, _) = writer.finish().unwrap();
            let text = serde_json::to_string(&header).unwrap();
            assert!(text.starts_with(&format!("{{{json}")), "{text}");
            let mut reader = FrameReader::new(&bytes[..]).unwrap();
            assert_eq!(reader.header(), &header);
            let decoded = reader.next_block().unwrap().unwrap();
            for (original, decoded) in rows.rows().zip(decoded.rows()) {
                assert!(promise.measure(original, decoded).is_some());
            }
            assert!(reader.next_block().unwrap().is_none());
            let mut read = *reader.summary();
            // Less is stated for logits and exact rows than was measured.
            read.figures.largest_error = written.figures.largest_error;
            assert_eq!(read, written);
        }
    }

    /// A header that names a reference of `rows` rows.
    fn header_beside(rows: u64) -> FrameHeader {
        FrameHeader {
            reference: Some(ReferenceName {
                sha256: "0123456789abcdef".repeat(4),
                rows,
            }),
            ..header()
        }
    }

    /// Some rows, much like those of seed 0.
    fn rows_like(n_rows: usize, seed: usize) -> PredictionMatrix {
        let value = |i: usize| {
            let rest = (noise(i) >> 12) as f32 / (1 << 22) as f32;
            rest + ((i + seed) * 31 % 7 * seed.min(1)) as f32 / 2000.0
        };
        PredictionMatrix::new(N_CLASSES, (0..n_rows * N_CLASSES).map(value).collect())
    }

    #[test]
    fn rows_beside_a_reference_come_back_whole_and_in_part() {
        let n_rows = 2 * rows_per_block(N_CLASSES) + 5000;
        let reference = rows_like(n_rows + 7, 0);
        let matrix = rows_like(n_rows, 3);
        let mut first = reference.values().to_vec();
        first.truncate(n_rows * N_CLASSES);
        let first = PredictionMatrix::new(N_CLASSES, first);
        let write = |n_rows_at_once: usize| {
            let header = header_beside(n_rows as u64 + 7);
            let mut writer = FrameWriter::new(Vec::new(), header).unwrap();
            let n_values = n_rows_at_once * N_CLASSES;
            let chunks = matrix.values().chunks(n_values);
            for (values, known) in chunks.zip(first.values().chunks(n_values)) {
                let [rows, known] =
                    [values, known].map(|v| PredictionMatrix::new(N_CLASSES, v.to_vec()));
                writer.write_with_reference(&rows, &known).unwrap();
            }
            writer.finish().unwrap().0
        };
        let bytes = write(n_rows);
        assert!(bytes == write(1000), "how rows are handed over");
        assert_eq!(bytes[4], VERSION);
        assert!(bytes.len() < frame(&matrix).len());

        let find = |needed: &ReferenceRows| {
            assert_eq!(needed.sha256, "0123456789abcdef".repeat(4));
            let [start, end] = [needed.rows.start, needed.rows.end].map(|row| row as usize);
            let values = reference.values()[start * N_CLASSES..end * N_CLASSES].to_vec();
            Ok(PredictionMatrix::new(N_CLASSES, values))
        };
        // Each frame counts the rows of its reference from 0.
        let twice = [frame(&matrix), bytes.clone(), bytes.clone()].concat();
        let mut reader = FrameReader::new(&twice[..]).unwrap();
        let mut all = Vec::new();
        while let Some(block) = reader.next_block_with(find).unwrap() {
            all.extend_from_slice(block.values());
        }
        assert_eq!(all.len(), 3 * n_rows * N_CLASSES);
        for (a, b) in all.iter().zip(matrix.values().repeat(3)) {
            assert!((a - b).abs() <= 0.002);
        }
        let mut file = std::io::Cursor::new(&twice);
        let index = FileIndex::read_from(&mut file).unwrap();
        let n_rows = n_rows as u64;
        for rows in [
            0..1,
            n_rows - 1..n_rows + 1,
            2 * n_rows + 16_000..2 * n_rows + 17_000,
            3 * n_rows - 1..3 * n_rows,
        ] {
            let found = index.read_rows_with(&mut file, rows.clone(), find).unwrap();
            let values = &all[rows.start as usize * N_CLASSES..rows.end as usize * N_CLASSES];
            assert_eq!(found.values(), values, "{rows:?}");
        }

        // Nothing comes without the reference, or with another one.
        let error = read_all(&bytes).unwrap_err().to_string();
        let hash = "0123456789abcdef".repeat(4);
        assert_eq!(
            error,
            format!(
                "its rows are compressed against a reference (SHA-256 {hash}); name that file with --reference"
            )
        );
        assert!(matches!(
            index.read_rows(&mut file, n_rows..n_rows + 1),
            Err(Error::ReferenceMissing { .. })
        ));
        for others in [rows_like(rows_per_block(N_CLASSES), 1), rows_like(3, 0)] {
            let mut reader = FrameReader::new(&bytes[..]).unwrap();
            let error = reader.next_block_with(|_| Ok(others)).unwrap_err();
            assert!(matches!(error, Error::WrongReference), "{error}");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_frame_beside_a_reference_is_an_error() {
        let (reference, matrix) = (rows_like(40, 0), rows_like(40, 3));
        let mut writer = FrameWriter::new(Vec::new(), header_beside(40)).unwrap();
        writer.write_with_reference(&matrix, &reference).unwrap();
        let (bytes, ..) = writer.finish().unwrap();
        let read = |bytes: &[u8]| {
            let mut reader = FrameReader::new(bytes)?;
            let mut n_beside = 0;
            while let Some(block) = reader.next_raw_block()? {
                n_beside += usize::from(block.reference().is_some());
                block.decode_with(|_| Ok(reference.clone()))?;
            }
            Ok::<_, Error>(n_beside)
        };
        assert_eq!(read(&bytes).unwrap(), 1);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged).is_err(), "bit {bit}");
        }
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).is_err());
        }
    }

    #[test]
    fn headers_and_versions_agree_on_references() {
        let mut header = header_beside(3);
        let bytes = header.to_bytes().unwrap();
        assert_eq!(bytes[4], VERSION);
        // Some older versions must name a reference, others must not.
        let of_version = |header: &FrameHeader, version: u8| {
            let json = serde_json::to_vec(header).unwrap();
            let bytes = header_bytes(version, &json);
            FrameReader::new(&bytes[..]).map(|reader| reader.header().version)
        };
        assert_eq!(of_version(&header, 3).unwrap(), 3);
        assert_eq!(of_version(&header, 2).unwrap(), 2);
        assert!(matches!(of_version(&header, 1), Err(Error::Header(_))));
        header.reference = None;
        assert_eq!(of_version(&header, 3).unwrap(), 3);
        assert_eq!(of_version(&header, 1).unwrap(), 1);
        assert!(matches!(of_version(&header, 2), Err(Error::Header(_))));
        header = header_beside(3);
        for sha256 in ["", "0123", &"0123456789ABCDEF".repeat(4)] {
            header.reference.as_mut().unwrap().sha256 = sha256.to_owned();
            assert!(matches!(header.validate(), Err(Error::Header(_))));
        }
        let mut writer = FrameWriter::new(Vec::new(), header_beside(3)).unwrap();
        let rows = rows_like(2, 0);
        writer.write_with_reference(&rows, &rows).unwrap();
        assert!(matches!(
            writer.write_with_reference(&rows, &rows),
            Err(Error::ReferenceTooShort { n_rows: 3 })
        ));
        // A frame that has more rows than its reference all the same.
        let rows = rows_like(40, 0);
        let mut writer = FrameWriter::new(Vec::new(), header_beside(40)).unwrap();
        writer.write_with_reference(&rows, &rows).unwrap();
        let (bytes, ..) = writer.finish().unwrap();
        let n_header = header_beside(40).to_bytes().unwrap().len();
        let shorter = [&header_beside(39).to_bytes().unwrap(), &bytes[n_header..]].concat();
        let mut reader = FrameReader::new(&shorter[..]).unwrap();
        assert!(matches!(reader.next_raw_block(), Err(Error::Corrupt(_))));
    }

    #[test]
    fn the_example_of_the_specification_is_what_is_written() {
        let specification = include_str!("FORMAT.md");
        let (_, example) = specification.split_once("The file, 66 bytes:").unwrap();
        let text = example.split("```").nth(1).unwrap();
        let expected: Vec<u8> = text
            .split_whitespace()
            .filter_map(|word| u8::from_str_radix(word, 16).ok())
            .collect();
        let rows = [[0.97, 0.01, 0.01, 0.01], [0.25; 4], [0.0, 0.5, 0.5, 0.0]];
        let promise = Promise::new(Kind::Probabilities, Bound::MaxError(0.1));
        let mut header = FrameHeader::new(4, promise).unwrap();
        header.producer = "pc".to_owned();
        let mut writer = FrameWriter::new(Vec::new(), header).unwrap();
        let matrix = PredictionMatrix::new(4, rows.concat());
        writer.write(&matrix).unwrap();
        assert_eq!(writer.finish().unwrap().0, expected);
        let third = (2.0f64 / 6.0) as f32;
        let decoded = [[1.0, 0.0, 0.0, 0.0], [third; 4], [0.0, 0.5, 0.5, 0.0]];
        assert_eq!(read_all(&expected).unwrap().0, decoded.concat());
    }
}
