//! Writing a frame.

use std::io::Write;

use rayon::prelude::*;

use super::block;
use super::choice::{self, Choice};
use super::coded::{BitCounts, Payload};
use super::frame::{BLOCK_TAG, Index, IndexEntry, append_checksum, rows_per_block, write_varint};
use super::promise::{Bound, Figures, Promise};
use super::{Error, FrameHeader, Summary, rounding};
use crate::matrix::{PredictionMatrix, Rows};

/// Number of blocks that share a choice, which is made on the first of them.
const BLOCKS_PER_CHOICE: usize = 64;

/// Writes a frame. Rows become blocks of [`rows_per_block`], coded by all threads of the current rayon
/// pool; the bytes depend neither on their number nor on how the rows are handed over.
#[derive(Debug)]
pub struct FrameWriter<W> {
    writer: W,
    header: FrameHeader,
    index: Index,
    /// The choice for the blocks at hand.
    choice: Option<Choice>,
    /// Values of rows that do not make a block yet, and those of the reference beside them.
    pending: Vec<f32>,
    pending_reference: Vec<f32>,
    /// The float64 values that the rows were rounded from, if they were.
    pending_f64: Vec<f64>,
    summary: Summary,
    bit_counts: BitCounts,
}

/// A block as it is written.
struct EncodedBlock {
    bytes: Vec<u8>,
    n_rows: u32,
    figures: Figures,
    bit_counts: BitCounts,
}

impl<W: Write> FrameWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// [`Error::Header`] and the like for a header that no reader would accept; [`Error::Io`].
    pub fn new(mut writer: W, header: FrameHeader) -> Result<Self, Error> {
        header.validate()?;
        let bytes = header.to_bytes()?;
        writer.write_all(&bytes)?;
        let n_bytes = bytes.len() as u64;
        Ok(Self {
            writer,
            header,
            index: Index {
                n_header_bytes: n_bytes,
                blocks: Vec::new(),
                figures: Figures::default(),
            },
            choice: None,
            pending: Vec::new(),
            pending_reference: Vec::new(),
            pending_f64: Vec::new(),
            summary: Summary {
                n_bytes,
                ..Summary::default()
            },
            bit_counts: BitCounts::default(),
        })
    }

    /// Compresses rows, and checks them by decoding: a row that does not come back as promised is stored
    /// exactly instead.
    ///
    /// # Errors
    /// As [`Promise::check`] for values that the promise is not about: of `matrix`, at most blocks before them are
    /// written then; [`Error::Io`].
    ///
    /// # Panics
    /// If the matrix has other classes than the header, rows of float64 are waiting to be written, or the header names
    /// a reference.
    pub fn write(&mut self, matrix: &PredictionMatrix) -> Result<(), Error> {
        self.assert_alone();
        self.write_rows(matrix, &[])
    }

    /// Compresses rows as [`write`](Self::write) does, given the same rows of the reference that the header names.
    ///
    /// # Errors
    /// As [`write`](Self::write), and [`Error::ReferenceTooShort`].
    ///
    /// # Panics
    /// If one of the matrices has other classes than the header or other rows than the other one, rows of float64 are
    /// waiting to be written, or the header names no reference.
    pub fn write_with_reference(
        &mut self,
        matrix: &PredictionMatrix,
        reference: &PredictionMatrix,
    ) -> Result<(), Error> {
        self.assert_beside(matrix.values().len(), reference);
        self.write_rows(matrix, reference.values())
    }

    fn write_rows(&mut self, matrix: &PredictionMatrix, reference: &[f32]) -> Result<(), Error> {
        assert_eq!(matrix.n_classes(), self.header.classes);
        self.append(matrix.values(), &[], reference)
    }

    /// Compresses rows of float64 as [`write`](Self::write) does: the promise is kept of the float64 values.
    ///
    /// # Errors
    /// As [`write`](Self::write); [`Error::NotFloat32`] for a value that would not come back exactly as promised,
    /// [`Error::Float32TooCoarse`] for one that float32 cannot hold within the bound.
    ///
    /// # Panics
    /// If `values` are no rows of the header's classes, rows of float32 are waiting to be written, or the
    /// header names a reference.
    pub fn write_f64(&mut self, values: &[f64]) -> Result<(), Error> {
        self.assert_alone();
        self.write_f64_rows(values, &[])
    }

    /// Compresses rows as [`write_f64`](Self::write_f64) does, given the same rows of the reference that the header
    /// names.
    ///
    /// # Errors
    /// As [`write_f64`](Self::write_f64), and [`Error::ReferenceTooShort`].
    ///
    /// # Panics
    /// As [`write_f64`](Self::write_f64) and [`write_with_reference`](Self::write_with_reference).
    pub fn write_f64_with_reference(
        &mut self,
        values: &[f64],
        reference: &PredictionMatrix,
    ) -> Result<(), Error> {
        self.assert_beside(values.len(), reference);
        self.write_f64_rows(values, reference.values())
    }

    fn write_f64_rows(&mut self, values: &[f64], reference: &[f32]) -> Result<(), Error> {
        let promise = self.header.promise;
        let first_row = self.next_row();
        let rounded = rounding::round(values, self.header.classes, &promise, first_row)?;
        match promise.bound {
            // Rounding has changed no value.
            Bound::Exact => self.append(rounded.values(), &[], reference),
            _ => self.append(rounded.values(), values, reference),
        }
    }

    fn assert_alone(&self) {
        assert!(
            self.header.reference.is_none(),
            "rows of a frame that names a reference come with its rows"
        );
    }

    fn assert_beside(&self, n_values: usize, reference: &PredictionMatrix) {
        assert!(
            self.header.reference.is_some(),
            "a header that names a reference"
        );
        assert_eq!(self.header.classes, reference.n_classes());
        assert_eq!(n_values, reference.values().len());
    }

    /// The number of the next row.
    pub fn next_row(&self) -> u64 {
        self.summary.n_rows + (self.pending.len() / self.header.classes) as u64
    }

    /// Writes values: whole blocks now, the rest when there are more. `originals` are what they were rounded from,
    /// `reference` is the rows of the reference; both may be empty.
    fn append(
        &mut self,
        mut values: &[f32],
        mut originals: &[f64],
        mut reference: &[f32],
    ) -> Result<(), Error> {
        if values.is_empty() {
            return Ok(());
        }
        if let Some(name) = &self.header.reference
            && self.next_row() + (values.len() / self.header.classes) as u64 > name.rows
        {
            return Err(Error::ReferenceTooShort { n_rows: name.rows });
        }
        assert!(
            self.pending.is_empty() || self.pending_f64.is_empty() == originals.is_empty(),
            "rows of float32 and of float64 in one frame"
        );
        let block_values = rows_per_block(self.header.classes) * self.header.classes;
        if !self.pending.is_empty() {
            let n_missing = block_values - self.pending.len();
            self.keep(
                take_first(&mut values, n_missing),
                take_first(&mut originals, n_missing),
                take_first(&mut reference, n_missing),
            )?;
            if self.pending.len() < block_values {
                return Ok(());
            }
            self.write_pending()?;
        }
        let n_whole = values.len() / block_values * block_values;
        self.write_blocks(
            take_first(&mut values, n_whole),
            take_first(&mut originals, n_whole),
            take_first(&mut reference, n_whole),
        )?;
        self.keep(values, originals, reference)
    }

    /// Keeps values until there are enough for a block.
    fn keep(&mut self, values: &[f32], originals: &[f64], reference: &[f32]) -> Result<(), Error> {
        let rows = Rows::new(self.header.classes, values);
        self.header.promise.check(rows, self.next_row())?;
        self.pending.extend_from_slice(values);
        self.pending_f64.extend_from_slice(originals);
        self.pending_reference.extend_from_slice(reference);
        Ok(())
    }

    fn write_pending(&mut self) -> Result<(), Error> {
        let values = std::mem::take(&mut self.pending);
        let originals = std::mem::take(&mut self.pending_f64);
        let reference = std::mem::take(&mut self.pending_reference);
        self.write_blocks(&values, &originals, &reference)
    }

    /// Writes the index and returns the writer, the frame's figures and where its bits went. A frame
    /// that was not finished is truncated, and readers say so.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<(W, Summary, BitCounts), Error> {
        self.write_pending()?;
        self.index.figures = self.summary.figures;
        let bytes = self.index.to_bytes(&self.header.promise);
        self.writer.write_all(&bytes)?;
        self.writer.flush()?;
        self.summary.n_bytes += bytes.len() as u64;
        Ok((self.writer, self.summary, self.bit_counts))
    }

    /// Writes blocks of [`rows_per_block`]; the last may have fewer rows. `originals` are what the values were rounded
    /// from, `reference` is the rows of the reference; both may be empty.
    fn write_blocks(
        &mut self,
        values: &[f32],
        mut originals: &[f64],
        mut reference: &[f32],
    ) -> Result<(), Error> {
        let (n_classes, promise) = (self.header.classes, self.header.promise);
        let block_values = rows_per_block(n_classes) * n_classes;
        // Some blocks at a time, so that not all of a large file waits in memory, but enough that threads hardly
        // wait for the last of them.
        for batch in values.chunks(block_values * rayon::current_num_threads() * 8) {
            let mut blocks = Vec::new();
            let mut first_row = self.summary.n_rows;
            for (values, number) in batch.chunks(block_values).zip(self.index.blocks.len()..) {
                let rows = Rows::new(n_classes, values);
                let originals = take_first(&mut originals, values.len());
                let known = match take_first(&mut reference, values.len()) {
                    [] => None,
                    known => Some(Rows::new(n_classes, known)),
                };
                // Chosen once for 64 large blocks. A small last block keeps that choice; a file of one small block has
                // none and tries everything.
                if choice::is_large(rows)
                    && number.is_multiple_of(BLOCKS_PER_CHOICE)
                    && promise.check(rows, first_row).is_ok()
                {
                    self.choice = Some(choice::choose(rows, known, &promise));
                }
                blocks.push((first_row, rows, originals, known, self.choice));
                first_row += rows.n_rows() as u64;
            }
            let blocks: Vec<Result<EncodedBlock, Error>> = blocks
                .into_par_iter()
                .map(|(first_row, rows, originals, known, choice)| {
                    // Only now, so that the rows come from memory once. Ranked rows are checked as they are quantized:
                    // here only where some got marked, for the error that names the first one.
                    let marks_unfit_rows =
                        choice.is_some_and(|choice| choice.marks_unfit_rows(&promise));
                    if !marks_unfit_rows {
                        promise.check(rows, first_row)?;
                    }
                    let block = encode(rows, originals, known, &promise, choice)?;
                    if marks_unfit_rows && block.figures.n_exact_rows > 0 {
                        promise.check(rows, first_row)?;
                    }
                    Ok(block)
                })
                .collect();
            for block in blocks {
                let block = block?;
                self.writer.write_all(&block.bytes)?;
                self.index.blocks.push(IndexEntry {
                    n_rows: block.n_rows,
                    n_bytes: block.bytes.len() as u32,
                });
                self.summary.n_rows += u64::from(block.n_rows);
                self.summary.figures.add(&block.figures);
                self.summary.n_bytes += block.bytes.len() as u64;
                self.bit_counts += block.bit_counts;
            }
        }
        Ok(())
    }
}

/// Takes `n` values off the front, or all if they are fewer.
fn take_first<'a, T>(values: &mut &'a [T], n: usize) -> &'a [T] {
    let (first, rest) = values.split_at(n.min(values.len()));
    *values = rest;
    first
}

/// Codes the rows of a block so that each of them keeps the promise; `originals` are what they were rounded from, or
/// empty.
fn encode(
    rows: Rows<'_>,
    originals: &[f64],
    reference: Option<Rows<'_>>,
    promise: &Promise,
    choice: Option<Choice>,
) -> Result<EncodedBlock, Error> {
    let (n_rows, n_classes) = (rows.n_rows(), rows.n_classes());
    let mut is_exact = vec![false; n_rows];
    loop {
        let Payload {
            bytes: payload,
            counts: bit_counts,
        } = choice::encode(rows, reference, &mut is_exact, promise, choice);
        let mut check = Check {
            rows,
            originals,
            promise,
            is_exact: &mut is_exact,
            n_checked: 0,
            figures: Figures::default(),
            is_kept: true,
        };
        let take = |decoded: Rows<'_>| check.add(decoded);
        block::decode_in_parts(
            &payload,
            n_rows,
            n_classes,
            reference,
            promise.keep_top,
            take,
        )?;
        let (mut figures, is_kept) = (check.figures, check.is_kept);
        if is_kept {
            figures.n_exact_rows = is_exact.iter().filter(|&&exact| exact).count() as u64;
            return Ok(EncodedBlock {
                bytes: block_bytes(n_rows, &payload),
                n_rows: n_rows as u32,
                figures,
                bit_counts,
            });
        }
    }
}

/// Measures rows as they are decoded, and marks those that break the promise.
struct Check<'a> {
    rows: Rows<'a>,
    /// The values that the rows were rounded from, or empty.
    originals: &'a [f64],
    promise: &'a Promise,
    is_exact: &'a mut [bool],
    n_checked: usize,
    /// Of the rows that keep the promise.
    figures: Figures,
    /// Whether no row had to be marked.
    is_kept: bool,
}

impl Check<'_> {
    /// Checks the next rows, with the vector instructions of this machine.
    fn add(&mut self, decoded: Rows<'_>) {
        pulp::Arch::new().dispatch(CheckRows(self, decoded));
    }

    #[inline(always)]
    fn add_row(&mut self, decoded: &[f32]) {
        let row = self.n_checked;
        self.n_checked += 1;
        let original = self.rows.row(row);
        let is_kept = match take_first(&mut self.originals, original.len()) {
            [] => self
                .promise
                .add_measured(original, decoded, &mut self.figures),
            originals => match self.promise.measure_f64(originals, decoded) {
                Some(of_row) => {
                    self.figures.add(&of_row);
                    true
                }
                None => false,
            },
        };
        if is_kept {
            return;
        }
        match self.is_exact[row] {
            // A row that the promise cannot measure (zeros under max_kl) must at least be bit for bit the original.
            true => assert!(is_same(original, decoded)),
            false => {
                self.is_exact[row] = true;
                self.is_kept = false;
            }
        }
    }
}

struct CheckRows<'a, 'b>(&'a mut Check<'b>, Rows<'a>);

impl pulp::WithSimd for CheckRows<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Self(check, decoded) = self;
        decoded.rows().for_each(|row| check.add_row(row));
    }
}

fn is_same(original: &[f32], decoded: &[f32]) -> bool {
    let bits = |row: &[f32]| row.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    bits(original) == bits(decoded)
}

fn block_bytes(n_rows: usize, payload: &[u8]) -> Vec<u8> {
    /// Room for the tag, two numbers and the checksum.
    const ROOM: usize = 1 + 2 * 10 + 4;
    let mut bytes = Vec::with_capacity(payload.len() + ROOM);
    bytes.push(BLOCK_TAG);
    write_varint(&mut bytes, n_rows as u64);
    write_varint(&mut bytes, payload.len() as u64);
    bytes.extend_from_slice(payload);
    append_checksum(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::models::FirstByte;
    use super::super::noise;
    use super::super::promise::Kind;
    use super::*;

    #[test]
    fn the_first_row_that_is_not_fit_is_named_wherever_it_is() {
        const N_CLASSES: usize = 16;
        let block = rows_per_block(N_CLASSES);
        let writer = || {
            let promise = Promise::new(Kind::Probabilities, Bound::MaxError(0.01));
            let header = FrameHeader::new(N_CLASSES, promise).unwrap();
            FrameWriter::new(Vec::new(), header).unwrap()
        };
        let matrix = |n_rows: usize, unfit: &[usize]| {
            let mut values = vec![0.5; n_rows * N_CLASSES];
            for row in unfit {
                values[row * N_CLASSES + 7] = f32::NAN;
            }
            values
        };
        let write = |writer: &mut FrameWriter<Vec<u8>>, values: &[f32]| {
            let matrix = PredictionMatrix::new(N_CLASSES, values.to_vec());
            match writer.write(&matrix) {
                Ok(()) => None,
                Err(Error::NotAProbability { row, class: 7, .. }) => Some(row as usize),
                Err(error) => panic!("{error}"),
            }
        };
        let n_rows = 2 * block + 100;
        let unfit = [3, block - 1, block, 2 * block, n_rows - 1];
        for (index, &row) in unfit.iter().enumerate() {
            let values = matrix(n_rows, &unfit[index..]);
            for n_at_once in [n_rows, block, 300] {
                let mut writer = writer();
                let mut parts = values.chunks(n_at_once * N_CLASSES);
                let mut named = parts.by_ref().map(|values| write(&mut writer, values));
                // By the call that it came with.
                let part = named.position(|named| named == Some(row));
                assert_eq!(part, Some(row / n_at_once));
            }
        }
        // Rows before, which wait, are not lost; and another block comes before the one that models are chosen on.
        let mut writer = writer();
        assert_eq!(write(&mut writer, &matrix(10, &[])), None);
        assert_eq!(write(&mut writer, &matrix(block, &[5])), Some(15));
        assert_eq!(writer.next_row(), 10);
        let (first, second) = (62 * block, 64 * block);
        let of_many = matrix(65 * block, &[first, second]);
        assert_eq!(write(&mut writer, &of_many), Some(10 + first));
    }

    #[test]
    fn values_that_are_not_fit_are_found_among_ranked_rows() {
        const N_CLASSES: usize = 100;
        let block = rows_per_block(N_CLASSES);
        let n_rows = 2 * block + 1000;
        // Nearly certain rows.
        let mut values = vec![0.0; n_rows * N_CLASSES];
        for (row, values) in values.chunks_exact_mut(N_CLASSES).enumerate() {
            let [top, other] = [row, n_rows + row].map(|i| noise(i) as usize % N_CLASSES);
            values[other] = 0.01;
            values[top] = 0.99;
        }
        let promise = Promise::new(Kind::Probabilities, Bound::MaxError(0.002));
        let write = |values: &[f32]| {
            let header = FrameHeader::new(N_CLASSES, promise).unwrap();
            let mut writer = FrameWriter::new(Vec::new(), header).unwrap();
            writer.write(&PredictionMatrix::new(N_CLASSES, values.to_vec()))?;
            assert!(writer.choice.unwrap().marks_unfit_rows(&promise));
            writer.finish()
        };
        let unfit = [f32::NAN, f32::INFINITY, -1e-9, 1.0f32.next_up(), 1.001];
        for (value, row) in unfit.into_iter().zip((0..).map(|i| 7 + i * block / 2)) {
            let mut values = values.clone();
            values[row * N_CLASSES + 42] = value;
            values[(n_rows - 1) * N_CLASSES] = f32::NAN;
            match write(&values) {
                Err(Error::NotAProbability {
                    row: named,
                    class: 42,
                    value: found,
                }) => {
                    assert_eq!(named, row as u64);
                    assert_eq!(found.to_bits(), value.to_bits());
                }
                other => panic!("{value}: {:?}", other.err()),
            }
        }
        // A sum that no row of probabilities has is no error, nor is -0.
        values[..N_CLASSES].fill(1.0);
        values[block * N_CLASSES + 3] = -0.0;
        let (_, summary, _) = write(&values).unwrap();
        assert_eq!(summary.n_rows, n_rows as u64);
        assert!(summary.figures.largest_error <= 0.002);
    }

    #[test]
    fn what_is_left_of_large_blocks_is_coded_as_these() {
        const N_CLASSES: usize = 200;
        const N_LEFT: usize = 100;
        let n_rows = rows_per_block(N_CLASSES) + N_LEFT;
        // In each of the last rows, one value determines the others.
        let value = |i: usize| match i / N_CLASSES < n_rows - N_LEFT {
            true => noise(i) as f32 / (1u64 << 32) as f32,
            false => noise(i / N_CLASSES) as f32 / (1u64 << 32) as f32 * (i % N_CLASSES) as f32,
        };
        let values: Vec<f32> = (0..n_rows * N_CLASSES).map(value).collect();
        let promise = Promise::new(Kind::Values, Bound::MaxError(0.01));
        let write = |values: &[f32], n_rows_at_once: usize| {
            let header = FrameHeader::new(N_CLASSES, promise).unwrap();
            let mut writer = FrameWriter::new(Vec::new(), header).unwrap();
            for values in values.chunks(n_rows_at_once * N_CLASSES) {
                let matrix = PredictionMatrix::new(N_CLASSES, values.to_vec());
                writer.write(&matrix).unwrap();
            }
            writer.write_pending().unwrap();
            writer
        };
        let models = |writer: &FrameWriter<Vec<u8>>| {
            let mut rest = &writer.writer[writer.index.n_header_bytes as usize..];
            let mut models = Vec::new();
            for block in &writer.index.blocks {
                let (block, others) = rest.split_at(block.n_bytes as usize);
                // After the tag and two numbers, each of which ends with a byte below 128.
                let mut ends = block
                    .iter()
                    .enumerate()
                    .skip(1)
                    .filter(|(_, byte)| **byte < 128);
                let (end, _) = ends.nth(1).unwrap();
                models.push(FirstByte::of(&block[end + 1..]).id());
                rest = others;
            }
            models
        };
        let of_both = write(&values, n_rows);
        let [of_large, of_left] = models(&of_both)[..] else {
            panic!("two blocks");
        };
        assert_eq!(of_left, of_large);
        assert!(write(&values, 999).writer == of_both.writer);
        let alone = write(&values[values.len() - N_LEFT * N_CLASSES..], N_LEFT);
        assert_ne!(models(&alone), [of_large]);
    }
}
