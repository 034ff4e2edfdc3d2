//! Finding rows in a file without reading all of it.

use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

use super::frame::{
    BLOCK_TAG, BYTES_A_BLOCK, DEFAULT_MEMORY_LIMIT, END_MAGIC, INDEX_TAG, Index, IndexEntry,
    N_END_BYTES, NEITHER, check_memory, n_varint_bytes, read_exact,
};
use super::models::FirstByte;
use super::reader::{BlockStart, ReferenceRows, block_name, check_fits, missing};
use super::{Block, Error, FrameHeader, Summary};
use crate::matrix::PredictionMatrix;

/// The places of the blocks of all frames of a file, read from the indexes at the frames' ends.
#[derive(Debug)]
pub struct FileIndex {
    headers: Vec<FrameHeader>,
    blocks: Vec<Place>,
    n_frames: usize,
    sizes: Sizes,
    summary: Summary,
    memory: u64,
}

/// Bytes of the parts of all frames of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Headers, from magic to checksum.
    pub headers: u64,
    /// Payloads of the blocks.
    pub payloads: u64,
    /// Bytes around the payloads: tags, numbers of rows, lengths, checksums.
    pub block_framing: u64,
    /// Indexes, from tag to end magic.
    pub indexes: u64,
}

/// The bytes after the last whole frame of a file.
#[derive(Debug)]
pub struct Tail {
    /// The position of the first byte: the bytes of all whole frames.
    pub start: u64,
    /// The number of bytes.
    pub n_bytes: u64,
    /// Whether the end of a frame stands among the bytes. If so, a frame that was whole has been damaged; if not, they
    /// may be what is left of a frame that was not written to its end.
    pub holds_end: bool,
    /// The error that the bytes cause.
    pub error: Error,
}

/// The place of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// The index of its frame's header.
    header: usize,
    /// The number of the block in its frame.
    number: usize,
    offset: u64,
    n_bytes: u32,
    first_row: u64,
    row_in_frame: u64,
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

    /// Reads a file as [`read_from`](Self::read_from) does, with the limit of
    /// [`FrameReader::with_memory_limit`](super::FrameReader::with_memory_limit).
    ///
    /// # Errors
    /// As [`read_from`](Self::read_from).
    pub fn with_memory_limit<R: Read + Seek>(reader: &mut R, memory: u64) -> Result<Self, Error> {
        let mut end = reader.seek(SeekFrom::End(0))?;
        check_start(reader, end, memory)?;
        let mut frames = Frames::new(memory);
        while end > 0 {
            let frame = read_frame_before(reader, end, memory)?;
            end = frame.start;
            frames.push(frame)?;
        }
        frames.all.reverse();
        Self::of_frames(frames)
    }

    /// Reads a file as [`with_memory_limit`](Self::with_memory_limit) does, but bytes that are no whole frame may
    /// follow, as where an append was cut short: then, the frames are found from the start of the file, by the lengths
    /// in it, up to the last whole one.
    ///
    /// # Errors
    /// As [`read_from`](Self::read_from), if not even the first frame is whole.
    pub fn of_whole_frames<R: Read + Seek>(
        reader: &mut R,
        memory: u64,
    ) -> Result<(Self, Option<Tail>), Error> {
        let error = match Self::with_memory_limit(reader, memory) {
            Ok(index) => return Ok((index, None)),
            Err(error @ Error::Io(_)) => return Err(error),
            Err(error) => error,
        };
        let file_end = reader.seek(SeekFrom::End(0))?;
        let mut frames = Frames::new(memory);
        let mut start = 0;
        let reason = loop {
            match read_frame_at(reader, start, file_end, memory) {
                Ok(frame) => {
                    start += frame.n_bytes;
                    if let Some(before) = frames.all.last() {
                        check_fits(&before.header, &frame.header)?;
                    }
                    frames.push(frame)?;
                }
                Err(error @ Error::Io(_)) => return Err(error),
                Err(reason) => break reason,
            }
        };
        if frames.all.is_empty() {
            return Err(error);
        }
        let index = Self::of_frames(frames)?;
        let holds_end = holds_end(reader, start)?;
        let tail = Tail {
            start,
            n_bytes: file_end - start,
            holds_end,
            error: match holds_end {
                true => reason,
                false => Error::TrailingBytes {
                    n_rows: index.summary.n_rows,
                    n_bytes: start,
                },
            },
        };
        Ok((index, Some(tail)))
    }

    fn of_frames(frames: Frames) -> Result<Self, Error> {
        let n_blocks = frames.all.iter().map(|frame| frame.index.blocks.len());
        let mut file = Self {
            headers: Vec::new(),
            blocks: Vec::with_capacity(n_blocks.sum()),
            n_frames: frames.all.len(),
            sizes: Sizes::default(),
            summary: Summary::default(),
            memory: frames.memory,
        };
        for frame in frames.all {
            if let Some(before) = file.headers.last() {
                check_fits(before, &frame.header)?;
            }
            if file.headers.last() != Some(&frame.header) {
                file.headers.push(Arc::unwrap_or_clone(frame.header));
            }
            let mut offset = frame.start + frame.index.n_header_bytes;
            file.sizes.headers += frame.index.n_header_bytes;
            let mut first_row = file.summary.n_rows;
            for (number, entry) in frame.index.blocks.iter().enumerate() {
                file.blocks.push(Place {
                    header: file.headers.len() - 1,
                    number,
                    offset,
                    n_bytes: entry.n_bytes,
                    first_row,
                    row_in_frame: first_row - file.summary.n_rows,
                    n_rows: entry.n_rows,
                });
                let n_framing = n_framing_bytes(*entry);
                file.sizes.block_framing += n_framing;
                file.sizes.payloads += u64::from(entry.n_bytes).saturating_sub(n_framing);
                offset += u64::from(entry.n_bytes);
                first_row += u64::from(entry.n_rows);
            }
            file.sizes.indexes += frame.start + frame.n_bytes - offset;
            file.summary.add(&Summary {
                n_rows: first_row - file.summary.n_rows,
                figures: frame.index.figures,
                n_bytes: frame.n_bytes,
            });
        }
        Ok(file)
    }

    /// The header of the frame that a block is in.
    pub fn header_of(&self, block: usize) -> &FrameHeader {
        &self.headers[self.blocks[block].header]
    }

    /// The headers of all frames in order; frames with equal headers that follow each other share one.
    pub fn headers(&self) -> &[FrameHeader] {
        &self.headers
    }

    /// Number of classes.
    pub fn n_classes(&self) -> usize {
        self.headers[0].classes
    }

    /// Number of frames.
    pub fn n_frames(&self) -> usize {
        self.n_frames
    }

    /// Bytes of the parts of all frames.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// The rows, figures and bytes of the file.
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
    /// [`Error::Checksum`] and the like if the block is damaged; other blocks can still be read.
    pub fn read_block<R: Read + Seek>(&self, reader: &mut R, block: usize) -> Result<Block, Error> {
        let place = self.blocks[block];
        let header = &self.headers[place.header];
        let name = || block_name(place.number, place.first_row, place.n_rows.into());
        let unlike_index = || Error::Damaged { part: name() };
        reader.seek(SeekFrom::Start(place.offset))?;
        let mut bytes = reader.take(place.n_bytes.into());
        let mut tag = [0];
        read_exact(&mut bytes, &mut tag, "a block").map_err(|_| unlike_index())?;
        if tag[0] != BLOCK_TAG {
            return Err(unlike_index());
        }
        let read = Block::read_from(&mut bytes, header, self.memory, |_| name());
        let (block, n_bytes) = match read {
            Err(Error::Truncated { .. } | Error::Corrupt(_) | Error::LimitExceeded { .. }) => {
                return Err(unlike_index());
            }
            other => other?,
        };
        match n_bytes == u64::from(place.n_bytes) && block.n_rows() == place.n_rows as usize {
            true => block.checked(header, place.row_in_frame),
            false => Err(unlike_index()),
        }
    }

    /// Reads which model codes the rows of a block, and nothing else of the block.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the block is not what the index says; other blocks can still be read. [`Error::Io`].
    pub fn read_model<R: Read + Seek>(
        &self,
        reader: &mut R,
        block: usize,
    ) -> Result<FirstByte, Error> {
        let place = self.blocks[block];
        let n_payload = u64::from(place.n_bytes).saturating_sub(n_framing_bytes(IndexEntry {
            n_rows: place.n_rows,
            n_bytes: place.n_bytes,
        }));
        let before = 1 + n_varint_bytes(place.n_rows.into()) + n_varint_bytes(n_payload);
        let mut start = Vec::new();
        reader.seek(SeekFrom::Start(place.offset))?;
        reader.take(before + 1).read_to_end(&mut start)?;
        match start[..] {
            [BLOCK_TAG, .., first] if start.len() as u64 == before + 1 => {
                Ok(FirstByte::of(&[first]))
            }
            _ => Err(Error::Damaged {
                part: block_name(place.number, place.first_row, place.n_rows.into()),
            }),
        }
    }

    /// Reads and decodes a range of rows; reads no other blocks.
    ///
    /// # Errors
    /// [`Error::RowsOutOfRange`] for rows that the file does not have; as
    /// [`read_block`](Self::read_block) and [`Block::decode`].
    pub fn read_rows<R: Read + Seek>(
        &self,
        reader: &mut R,
        rows: Range<u64>,
    ) -> Result<PredictionMatrix, Error> {
        self.read_rows_with(reader, rows, missing)
    }

    /// Reads rows as [`read_rows`](Self::read_rows) does, with rows of references from `find`.
    ///
    /// # Errors
    /// As [`read_rows`](Self::read_rows) and [`Block::decode_with`].
    pub fn read_rows_with<R: Read + Seek>(
        &self,
        reader: &mut R,
        rows: Range<u64>,
        mut find: impl FnMut(&ReferenceRows) -> Result<PredictionMatrix, Error>,
    ) -> Result<PredictionMatrix, Error> {
        self.check_rows(&rows)?;
        let mut values = Vec::new();
        for block in self.blocks_of(&rows) {
            let of_block = self.rows_of(block);
            let matrix = self.read_block(reader, block)?.decode_with(&mut find)?;
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

/// The values of a block's rows that are among `rows`; the block's first row is `first_row`.
pub fn within<'a>(matrix: &'a PredictionMatrix, first_row: u64, rows: &Range<u64>) -> &'a [f32] {
    let clamp = |row: u64| row.saturating_sub(first_row).min(matrix.n_rows() as u64) as usize;
    let (start, end) = (clamp(rows.start), clamp(rows.end));
    &matrix.values()[start * matrix.n_classes()..end.max(start) * matrix.n_classes()]
}

/// Bytes around the payload of a block.
fn n_framing_bytes(entry: IndexEntry) -> u64 {
    // Tag and checksum.
    let n_bytes = 1 + n_varint_bytes(entry.n_rows.into()) + 4;
    let rest = u64::from(entry.n_bytes).saturating_sub(n_bytes);
    // The shortest length that fits what is left.
    let is_long_enough = |&n: &u64| n_varint_bytes(rest.saturating_sub(n)) <= n;
    n_bytes + (1..=5).find(is_long_enough).unwrap_or(5)
}

/// The header of the last whole frame of a file, and the bytes after it. Of a file whose end is whole, only that
/// frame's header and index are read.
///
/// # Errors
/// As [`FileIndex::of_whole_frames`].
pub fn last_header<R: Read + Seek>(
    reader: &mut R,
    memory: u64,
) -> Result<(FrameHeader, Option<Tail>), Error> {
    let end = reader.seek(SeekFrom::End(0))?;
    check_start(reader, end, memory)?;
    if let Ok(frame) = read_frame_before(reader, end, memory) {
        return Ok((Arc::unwrap_or_clone(frame.header), None));
    }
    let (mut index, tail) = FileIndex::of_whole_frames(reader, memory)?;
    let header = index.headers.pop().ok_or(Error::Empty)?;
    Ok((header, tail))
}

/// Checks that a file that ends at `end` begins with a header of ours.
fn check_start<R: Read + Seek>(reader: &mut R, end: u64, memory: u64) -> Result<(), Error> {
    if end == 0 {
        return Err(Error::Empty);
    }
    reader.seek(SeekFrom::Start(0))?;
    FrameHeader::read_from(reader, memory).map(|_| ())
}

/// Whether the file has, from `start` on, what looks like the end of a frame and all of its index.
fn holds_end<R: Read + Seek>(reader: &mut R, start: u64) -> Result<bool, Error> {
    const CHUNK: usize = 1 << 16;
    let mut offset = start;
    // The bytes so far that may belong to the last bytes of a frame.
    let mut bytes: Vec<u8> = Vec::new();
    loop {
        let kept = bytes.len().min(N_END_BYTES - 1);
        bytes.drain(..bytes.len() - kept);
        reader.seek(SeekFrom::Start(offset))?;
        let n_read = reader.take(CHUNK as u64).read_to_end(&mut bytes)? as u64;
        if n_read == 0 {
            return Ok(false);
        }
        offset += n_read;
        let first = offset - bytes.len() as u64;
        for (position, window) in (first..).zip(bytes.windows(N_END_BYTES)) {
            let (n_index_bytes, magic) = window.split_at(4);
            if magic != END_MAGIC {
                continue;
            }
            let n_index_bytes = u32::from_le_bytes(n_index_bytes.try_into().expect("4 bytes"));
            let end = position + N_END_BYTES as u64;
            let Some(tag_at) = end.checked_sub(n_index_bytes.into()) else {
                continue;
            };
            if tag_at >= start && n_index_bytes as usize > N_END_BYTES {
                let mut tag = [0];
                reader.seek(SeekFrom::Start(tag_at))?;
                read_exact(reader, &mut tag, "the index")?;
                if tag[0] == INDEX_TAG {
                    return Ok(true);
                }
            }
        }
    }
}

struct Frame {
    start: u64,
    n_bytes: u64,
    header: Arc<FrameHeader>,
    index: Index,
}

/// The frames of a file, as they were found, within a limit of memory.
struct Frames {
    all: Vec<Frame>,
    n_held_bytes: u64,
    memory: u64,
}

impl Frames {
    fn new(memory: u64) -> Self {
        Self {
            all: Vec::new(),
            n_held_bytes: 0,
            memory,
        }
    }

    /// Adds a frame; it shares the header of the previous one if they are equal.
    fn push(&mut self, mut frame: Frame) -> Result<(), Error> {
        /// The frame itself, and what is allocated for its blocks.
        const BYTES_A_FRAME: u64 = 160;
        self.n_held_bytes += BYTES_A_FRAME + frame.index.blocks.len() as u64 * BYTES_A_BLOCK;
        match self.all.last() {
            Some(last) if last.header == frame.header => frame.header = Arc::clone(&last.header),
            _ => self.n_held_bytes += frame.header.n_held_bytes(),
        }
        check_memory("what is kept of all frames", self.n_held_bytes, self.memory)?;
        self.all.push(frame);
        Ok(())
    }
}

/// Reads the frame that ends at `end`.
fn read_frame_before<R: Read + Seek>(
    reader: &mut R,
    end: u64,
    memory: u64,
) -> Result<Frame, Error> {
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

    // The index states where the header is, and the header has the promise that is needed to read the rest of the
    // index.
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
    Ok(Frame {
        start,
        n_bytes: end - start,
        header: Arc::new(header),
        index,
    })
}

/// Reads the frame that begins at `start` in a file of `file_end` bytes: its header, the lengths of its blocks, and its
/// index, which must confirm them.
fn read_frame_at<R: Read + Seek>(
    reader: &mut R,
    start: u64,
    file_end: u64,
    memory: u64,
) -> Result<Frame, Error> {
    let mut reader = BufReader::with_capacity(1 << 12, reader);
    reader.seek(SeekFrom::Start(start))?;
    let (header, n_header_bytes) = FrameHeader::read_from(&mut reader, memory)?;
    let mut offset = start + n_header_bytes;
    let mut blocks = Vec::new();
    loop {
        let mut tag = [0];
        read_exact(&mut reader, &mut tag, "a frame, before its index")?;
        match tag[0] {
            BLOCK_TAG => {
                let block = BlockStart::read_from(&mut reader, &header)?;
                let n_bytes = block.n_bytes();
                offset += n_bytes;
                if offset > file_end {
                    return Err(Error::Truncated { part: "a block" });
                }
                // Both are limited by the format.
                blocks.push(IndexEntry {
                    n_rows: block.n_rows as u32,
                    n_bytes: n_bytes as u32,
                });
                check_memory("the index", blocks.len() as u64 * BYTES_A_BLOCK, memory)?;
                reader.seek_relative(block.n_payload_bytes as i64 + 4)?;
            }
            INDEX_TAG => {
                let (index, n_bytes) = Index::read_from(&mut reader, &header, memory)?;
                if index.blocks != blocks || index.n_header_bytes != n_header_bytes {
                    return Err(Error::Corrupt("the index does not match the blocks"));
                }
                return Ok(Frame {
                    start,
                    n_bytes: offset + n_bytes - start,
                    header: Arc::new(header),
                    index,
                });
            }
            _ => return Err(NEITHER),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::super::noise;
    use super::*;
    use crate::huffman::{Bound, FrameReader, FrameWriter, Kind, Promise};

    const MEMORY: u64 = DEFAULT_MEMORY_LIMIT;

    fn frame(n_rows: usize, max_error: f64) -> Vec<u8> {
        let promise = Promise::new(Kind::Probabilities, Bound::MaxError(max_error));
        let mut writer =
            FrameWriter::new(Vec::new(), FrameHeader::new(3, promise).unwrap()).unwrap();
        // Few values, but no rows that repeat or resemble those before.
        let value = |i: usize| (noise(i) % 101) as f32 / 400.0 + i as f32 * 1e-8;
        let values = (0..3 * n_rows).map(value);
        let matrix = PredictionMatrix::new(3, values.collect());
        writer.write(&matrix).unwrap();
        writer.finish().unwrap().0
    }

    #[test]
    fn sizes_are_those_of_the_file() {
        for n_rows in [0, 1, 5, 40, 70_000] {
            let bytes = [frame(n_rows, 0.1), frame(3, 0.001), frame(n_rows, 0.001)].concat();
            let mut file = Cursor::new(&bytes);
            let index = FileIndex::read_from(&mut file).unwrap();
            let sizes = index.sizes();
            assert_eq!(
                sizes.headers + sizes.payloads + sizes.block_framing + sizes.indexes,
                bytes.len() as u64
            );
            assert_eq!((index.n_frames(), index.headers().len()), (3, 2));
            let mut n_payload_bits = 0;
            for block in 0..index.n_blocks() {
                let bits = index
                    .read_block(&mut file, block)
                    .unwrap()
                    .measure()
                    .unwrap();
                let rows = bits.of_rows();
                n_payload_bits += bits.codebooks + rows.codes + rows.raw + bits.padding;
                // Ranked, expected or predicted, with either coder.
                let model = index.read_model(&mut file, block).unwrap().id();
                assert!(matches!(model, 0 | 1 | 3 | 24), "{model}");
            }
            assert_eq!(n_payload_bits, 8 * sizes.payloads);
        }
    }

    #[test]
    fn memory_is_limited_for_all_frames_together() {
        let frame = frame(5, 0.1);
        let read = |n_frames: usize, memory: u64| {
            let bytes = frame.repeat(n_frames);
            let mut file = Cursor::new(&bytes);
            let whole = FileIndex::with_memory_limit(&mut file, memory).map(drop);
            // The last byte is cut off.
            let mut file = Cursor::new(&bytes[..bytes.len() - 1]);
            let cut = FileIndex::of_whole_frames(&mut file, memory).map(drop);
            (whole, cut)
        };
        // One header is kept for all; each has one block.
        let (header, _) = FrameHeader::read_from(&mut &frame[..], MEMORY).unwrap();
        let of_20 = header.n_held_bytes() + 20 * (160 + BYTES_A_BLOCK);
        assert!(matches!(read(20, of_20), (Ok(()), Ok(()))));
        let (whole, cut) = read(21, of_20);
        assert!(cut.is_ok(), "{cut:?}");
        assert!(matches!(whole, Err(Error::MemoryLimit { .. })), "{whole:?}");
        let (_, cut) = read(22, of_20);
        assert!(matches!(cut, Err(Error::MemoryLimit { .. })), "{cut:?}");
    }

    #[test]
    fn an_index_of_blocks_that_are_too_small_is_refused() {
        let header =
            FrameHeader::new(3, Promise::new(Kind::Probabilities, Bound::MaxError(0.1))).unwrap();
        for (n_bytes, is_possible) in [(0, false), (7, false), (8, true)] {
            let index = Index {
                n_header_bytes: 80,
                blocks: vec![IndexEntry { n_rows: 1, n_bytes }],
                figures: Default::default(),
            };
            let bytes = index.to_bytes(&header.promise);
            let read = Index::read_from(&mut &bytes[1..], &header, MEMORY);
            assert_eq!(read.is_ok(), is_possible, "{n_bytes}");
        }
    }

    #[test]
    fn whole_frames_are_found_wherever_the_next_is_cut_short() {
        let first = frame(20, 0.1);
        let before = [&first[..], &frame(7, 0.1)].concat();
        let next = frame(30, 0.1);
        for n_bytes in 0..next.len() {
            let cut = [&before[..], &next[..n_bytes]].concat();
            let mut file = Cursor::new(&cut);
            let (index, tail) = FileIndex::of_whole_frames(&mut file, MEMORY).unwrap();
            assert_eq!(index.summary().n_rows, 27);
            assert_eq!(index.read_rows(&mut file, 0..27).unwrap().n_rows(), 27);
            assert_eq!(tail.is_some(), n_bytes > 0);
            let (header, of_last) = last_header(&mut file, MEMORY).unwrap();
            assert_eq!(&header, &index.headers()[0]);
            for tail in [tail, of_last].into_iter().flatten() {
                assert_eq!(
                    (tail.start, tail.n_bytes, tail.holds_end),
                    (before.len() as u64, n_bytes as u64, false)
                );
                assert!(matches!(
                    tail.error,
                    Error::TrailingBytes { n_rows: 27, .. }
                ));
            }
            if n_bytes > 0 {
                // A stream reports the same when it gets there.
                let mut reader = FrameReader::new(&cut[..]).unwrap();
                let error = loop {
                    match reader.next_raw_block() {
                        Ok(block) => assert!(block.is_some()),
                        Err(error) => break error,
                    }
                };
                assert!(matches!(error, Error::TrailingBytes { n_rows: 27, .. }));
            }
        }
        // Without one whole frame, there is nothing to keep.
        for n_bytes in 0..first.len() {
            let mut file = Cursor::new(&first[..n_bytes]);
            assert!(FileIndex::of_whole_frames(&mut file, MEMORY).is_err());
            assert!(last_header(&mut file, MEMORY).is_err());
        }
    }

    #[test]
    fn damage_before_whole_frames_is_not_taken_for_a_frame_cut_short() {
        let frames = [frame(20, 0.1), frame(7, 0.1), frame(30, 0.1)];
        let bytes = frames.concat();
        let second = frames[0].len()..frames[0].len() + frames[1].len();
        for position in second {
            for n_cut in [0, 9] {
                let mut damaged = bytes[..bytes.len() - n_cut].to_vec();
                damaged[position] ^= 0x55;
                let mut file = Cursor::new(&damaged);
                let (index, tail) = FileIndex::of_whole_frames(&mut file, MEMORY).unwrap();
                let n_frames = index.n_frames();
                match tail {
                    // The checksum of a block will find it.
                    None => assert_eq!(n_frames, 3),
                    Some(tail) if n_frames == 2 => assert!(!tail.holds_end && n_cut > 0),
                    // At the very end, damage may look like an append that was cut short.
                    Some(tail) => assert!(tail.holds_end || n_cut > 0, "{position}"),
                }
            }
        }
        let zeros = [&bytes[..], &[0; 100_000]].concat();
        let (index, tail) = FileIndex::of_whole_frames(&mut Cursor::new(zeros), MEMORY).unwrap();
        assert_eq!(index.n_frames(), 3);
        assert!(tail.is_some_and(|tail| !tail.holds_end && tail.n_bytes == 100_000));
    }
}
