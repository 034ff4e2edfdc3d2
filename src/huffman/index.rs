//! Finding rows in a file without reading the rest.

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use super::frame::{
    BLOCK_TAG, DEFAULT_MEMORY_LIMIT, END_MAGIC, INDEX_TAG, Index, N_END_BYTES, check_memory,
    read_exact,
};
use super::reader::{block_name, check_fits};
use super::{Block, Error, FrameHeader, Summary};
use crate::matrix::PredictionMatrix;

/// Where the blocks of all frames of a file stand, from the indexes at the frames' ends.
#[derive(Debug)]
pub struct FileIndex {
    headers: Vec<FrameHeader>,
    blocks: Vec<Place>,
    summary: Summary,
    memory: u64,
}

/// Where a block stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    frame: usize,
    /// Number of the block in its frame.
    number: usize,
    offset: u64,
    n_bytes: u32,
    first_row: u64,
    n_rows: u32,
}

impl FileIndex {
    /// Reads the indexes and headers of a file.
    ///
    /// # Errors
    /// As [`FrameReader::new`](super::FrameReader::new), if the file does not end with a whole index or
    /// an index or header is damaged.
    pub fn read_from<R: Read + Seek>(reader: &mut R) -> Result<Self, Error> {
        Self::with_memory_limit(reader, DEFAULT_MEMORY_LIMIT)
    }

    /// As [`read_from`](Self::read_from), with the limit of
    /// [`FrameReader::with_memory_limit`](super::FrameReader::with_memory_limit).
    ///
    /// # Errors
    /// As [`read_from`](Self::read_from).
    pub fn with_memory_limit<R: Read + Seek>(reader: &mut R, memory: u64) -> Result<Self, Error> {
        let mut end = reader.seek(SeekFrom::End(0))?;
        if end == 0 {
            return Err(Error::Empty);
        }
        // A file that is none of ours says so by its first bytes.
        reader.seek(SeekFrom::Start(0))?;
        FrameHeader::read_from(reader, memory)?;
        let mut frames = Vec::new();
        while end > 0 {
            let frame = read_frame_before(reader, end, memory)?;
            end = frame.start;
            frames.push(frame);
        }
        frames.reverse();

        let mut file = Self {
            headers: Vec::new(),
            blocks: Vec::new(),
            summary: Summary::default(),
            memory,
        };
        for frame in frames {
            if let Some(before) = file.headers.last() {
                check_fits(before, &frame.header)?;
            }
            let mut offset = frame.start + frame.index.n_header_bytes;
            let mut first_row = file.summary.n_rows;
            for (number, entry) in frame.index.blocks.iter().enumerate() {
                file.blocks.push(Place {
                    frame: file.headers.len(),
                    number,
                    offset,
                    n_bytes: entry.n_bytes,
                    first_row,
                    n_rows: entry.n_rows,
                });
                offset += u64::from(entry.n_bytes);
                first_row += u64::from(entry.n_rows);
            }
            file.summary.add(&Summary {
                n_rows: first_row - file.summary.n_rows,
                figures: frame.index.figures,
                n_bytes: frame.n_bytes,
            });
            file.headers.push(frame.header);
        }
        Ok(file)
    }

    /// The header of the frame that a block is in.
    pub fn header_of(&self, block: usize) -> &FrameHeader {
        &self.headers[self.blocks[block].frame]
    }

    /// The headers of all frames.
    pub fn headers(&self) -> &[FrameHeader] {
        &self.headers
    }

    /// Number of classes.
    pub fn n_classes(&self) -> usize {
        self.headers[0].classes
    }

    /// What the file holds.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Number of blocks.
    pub fn n_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// The rows of a block, counted over the whole file.
    pub fn rows_of(&self, block: usize) -> Range<u64> {
        let place = self.blocks[block];
        place.first_row..place.first_row + u64::from(place.n_rows)
    }

    /// The blocks that hold a range of rows.
    pub fn blocks_of(&self, rows: &Range<u64>) -> Range<usize> {
        if rows.is_empty() {
            return 0..0;
        }
        let end_of = |place: &Place| place.first_row + u64::from(place.n_rows);
        let first = self
            .blocks
            .partition_point(|place| end_of(place) <= rows.start);
        let end = self
            .blocks
            .partition_point(|place| place.first_row < rows.end);
        first..end.max(first)
    }

    /// Reads a block.
    ///
    /// # Errors
    /// [`Error::Checksum`] and the like if it is damaged, which other blocks do not suffer from.
    pub fn read_block<R: Read + Seek>(&self, reader: &mut R, block: usize) -> Result<Block, Error> {
        let place = self.blocks[block];
        let header = &self.headers[place.frame];
        let name = || block_name(place.number, place.first_row, place.n_rows.into());
        let unlike_index = || Error::Damaged { part: name() };
        reader.seek(SeekFrom::Start(place.offset))?;
        let mut bytes = reader.take(place.n_bytes.into());
        let mut tag = [0];
        read_exact(&mut bytes, &mut tag, "a block").map_err(|_| unlike_index())?;
        if tag[0] != BLOCK_TAG {
            return Err(unlike_index());
        }
        let (block, n_bytes) = match Block::read_from(&mut bytes, header, self.memory, |_| name()) {
            Err(Error::Truncated { .. } | Error::Corrupt(_) | Error::LimitExceeded { .. }) => {
                return Err(unlike_index());
            }
            other => other?,
        };
        match n_bytes == u64::from(place.n_bytes) && block.n_rows() == place.n_rows as usize {
            true => Ok(block),
            false => Err(unlike_index()),
        }
    }

    /// Reads and decodes a range of rows, and no block but those that hold them.
    ///
    /// # Errors
    /// [`Error::RowsOutOfRange`] for rows that the file does not have; as
    /// [`read_block`](Self::read_block) and [`Block::decode`].
    pub fn read_rows<R: Read + Seek>(
        &self,
        reader: &mut R,
        rows: Range<u64>,
    ) -> Result<PredictionMatrix, Error> {
        self.check_rows(&rows)?;
        let mut values = Vec::new();
        for block in self.blocks_of(&rows) {
            let of_block = self.rows_of(block);
            let matrix = self.read_block(reader, block)?.decode()?;
            values.extend_from_slice(within(&matrix, of_block.start, &rows));
        }
        Ok(PredictionMatrix::new(self.n_classes(), values))
    }

    /// Checks that the file has these rows.
    ///
    /// # Errors
    /// [`Error::RowsOutOfRange`] otherwise.
    pub fn check_rows(&self, rows: &Range<u64>) -> Result<(), Error> {
        match rows.start <= rows.end && rows.end <= self.summary.n_rows {
            true => Ok(()),
            false => Err(Error::RowsOutOfRange {
                start: rows.start,
                end: rows.end,
                n_rows: self.summary.n_rows,
            }),
        }
    }
}

/// The values of those rows of a block, the first of which is `first_row`, that are among `rows`.
pub fn within<'a>(matrix: &'a PredictionMatrix, first_row: u64, rows: &Range<u64>) -> &'a [f32] {
    let clamp = |row: u64| row.saturating_sub(first_row).min(matrix.n_rows() as u64) as usize;
    let (start, end) = (clamp(rows.start), clamp(rows.end));
    &matrix.values()[start * matrix.n_classes()..end.max(start) * matrix.n_classes()]
}

struct FrameAtEnd {
    start: u64,
    n_bytes: u64,
    header: FrameHeader,
    index: Index,
}

/// Reads the frame that ends at `end`.
fn read_frame_before<R: Read + Seek>(
    reader: &mut R,
    end: u64,
    memory: u64,
) -> Result<FrameAtEnd, Error> {
    const NO_END: Error = Error::Truncated {
        part: "a frame, before its end",
    };
    const CORRUPT: Error = Error::Corrupt("the index does not match the blocks");
    let end_start = end.checked_sub(N_END_BYTES as u64).ok_or(NO_END)?;
    reader.seek(SeekFrom::Start(end_start))?;
    let mut bytes = [0; N_END_BYTES];
    read_exact(reader, &mut bytes, "the index")?;
    let (n_index_bytes, magic) = bytes.split_at(4);
    if magic != END_MAGIC {
        return Err(NO_END);
    }
    let n_index_bytes = u32::from_le_bytes(n_index_bytes.try_into().expect("4 bytes")).into();
    check_memory("the index", n_index_bytes, memory)?;
    let index_start = end.checked_sub(n_index_bytes).ok_or(CORRUPT)?;

    // What the index states of its header is needed to find the promise, by which the rest is read.
    let mut index_bytes = vec![0; n_index_bytes as usize];
    reader.seek(SeekFrom::Start(index_start))?;
    read_exact(reader, &mut index_bytes, "the index")?;
    let (n_header_bytes, n_block_bytes) = Index::sizes(&index_bytes)?;
    let start = n_block_bytes
        .checked_add(n_header_bytes)
        .and_then(|n_bytes| index_start.checked_sub(n_bytes))
        .ok_or(CORRUPT)?;
    reader.seek(SeekFrom::Start(start))?;
    let (header, found) = FrameHeader::read_from(reader, memory)?;
    let rest = index_bytes.strip_prefix(&[INDEX_TAG]).ok_or(CORRUPT)?;
    let (index, n_bytes) = Index::read_from(&mut &rest[..], &header, memory)?;
    if n_bytes != n_index_bytes || found != n_header_bytes {
        return Err(CORRUPT);
    }
    Ok(FrameAtEnd {
        start,
        n_bytes: end - start,
        header,
        index,
    })
}
