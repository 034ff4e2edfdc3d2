//! Where the bits of a payload went, found by decoding it.
//!
//! Decoders show every symbol to a [`Watch`] before they take it. The usual one, `()`, does nothing and leaves no trace
//! in the code; a [`Meter`] counts bits as they stand in the payload (FORMAT.md, section 5): codes, or refills of the
//! state of rANS after a symbol, by the part of their alphabet, and what follows up to the next symbol as extra bits of
//! the same part.

use std::cell::RefCell;
use std::collections::HashMap;

use super::bitstream::BitReader;
use super::codebook::{Alphabet, entropy_bits};

/// The part of a row that the symbols of an alphabet are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Part {
    /// The top class of a row, with all else that its head says: heads, kinds of ranked rows, and which distinct row a
    /// repeated one is.
    TopClass,
    /// The other classes of a ranked row: its ranks.
    OtherClasses,
    /// Levels, or numbers: those in contexts; distances, misses and levels of ranked rows; plain numbers.
    #[default]
    Levels,
    /// The order of the first classes, but for numbers in contexts, by which block-sorted rows tell the top class.
    Order,
    /// Exact rows, and the marks by which predicted, plain and block-sorted rows are exact or not.
    ExactRows,
}

/// The number of parts.
const N_PARTS: usize = 5;

/// The bits of one part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartBits {
    /// Huffman codes, or refills of rANS.
    pub codes: u64,
    /// Extra bits, which follow codes as they are.
    pub raw: u64,
}

/// Where the bits of a payload, or of many, went.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PayloadBits {
    /// Bits before the rows: the model, its parameters, the codebooks, the lengths of bitstreams with their padding,
    /// and first states.
    pub codebooks: u64,
    parts: [PartBits; N_PARTS],
    /// Bits that fill the last byte of each bitstream.
    pub padding: u64,
    /// The empirical entropy of the symbols, by alphabet and block: the least that their codes could be, but for up to
    /// 16 bits that a first state of rANS holds.
    pub entropy: f64,
}

impl PayloadBits {
    /// The bits of a part.
    pub fn of(&self, part: Part) -> PartBits {
        self.parts[part as usize]
    }

    /// The bits of all parts.
    pub fn of_rows(&self) -> PartBits {
        let sum = |bits: fn(&PartBits) -> u64| self.parts.iter().map(bits).sum();
        PartBits {
            codes: sum(|part| part.codes),
            raw: sum(|part| part.raw),
        }
    }
}

impl std::ops::AddAssign for PayloadBits {
    fn add_assign(&mut self, other: Self) {
        self.codebooks += other.codebooks;
        for (part, other) in self.parts.iter_mut().zip(other.parts) {
            part.codes += other.codes;
            part.raw += other.raw;
        }
        self.padding += other.padding;
        self.entropy += other.entropy;
    }
}

/// Watches the symbols of a block as they are decoded.
pub trait Watch: Copy {
    /// The codebooks of these alphabets have been read; the rows follow in these bitstreams.
    fn start(self, alphabets: &[Alphabet], readers: &[BitReader]);
    /// A symbol of an alphabet is next: `upcoming` returns it, as a number, and how many bits the reader gives for it.
    fn symbol(
        self,
        alphabet: usize,
        reader: &mut BitReader,
        upcoming: impl FnOnce(&mut BitReader) -> (u32, u32),
    );
    /// The last row of a bitstream has been decoded.
    fn end(self, reader: &BitReader);
}

/// Watches nothing.
impl Watch for () {
    #[inline(always)]
    fn start(self, _: &[Alphabet], _: &[BitReader]) {}

    #[inline(always)]
    fn symbol(self, _: usize, _: &mut BitReader, _: impl FnOnce(&mut BitReader) -> (u32, u32)) {}

    #[inline(always)]
    fn end(self, _: &BitReader) {}
}

/// Counts the bits of one payload.
#[derive(Debug)]
pub struct Meter(RefCell<State>);

#[derive(Debug)]
struct State {
    /// The part of each alphabet.
    parts: Vec<Part>,
    bits: PayloadBits,
    /// The part decoded last in each bitstream, and the bits left there after its code.
    streams: Vec<(Part, u64)>,
    /// The frequencies of low keys, by alphabet.
    of_low_keys: Vec<[u32; N_LOW]>,
    /// The frequencies of other keys, which are rare, by alphabet.
    of_high_keys: HashMap<(usize, u32), u64>,
}

/// Keys below this are counted in lists: nearly all.
const N_LOW: usize = 512;

impl Meter {
    /// A meter at the first bit of a payload of so many bytes.
    pub fn new(n_bytes: usize) -> Self {
        Self(RefCell::new(State {
            parts: Vec::new(),
            bits: PayloadBits::default(),
            streams: vec![(Part::default(), 8 * n_bytes as u64)],
            of_low_keys: Vec::new(),
            of_high_keys: HashMap::new(),
        }))
    }

    /// The bits counted, once the last row has been decoded.
    pub fn finish(self) -> PayloadBits {
        let mut state = self.0.into_inner();
        // In order, so that rounding is always the same.
        let mut high: Vec<_> = state.of_high_keys.into_iter().collect();
        high.sort_unstable();
        let mut high = &high[..];
        for (alphabet, low) in state.of_low_keys.iter().enumerate() {
            let n_high = high.partition_point(|((of, _), _)| *of == alphabet);
            let (of_alphabet, rest) = high.split_at(n_high);
            high = rest;
            let counts = low.iter().map(|&n| n.into());
            let counts: Vec<u64> = counts.chain(of_alphabet.iter().map(|&(_, n)| n)).collect();
            state.bits.entropy += entropy_bits(&counts);
        }
        state.bits
    }
}

impl Watch for &Meter {
    fn start(self, alphabets: &[Alphabet], readers: &[BitReader]) {
        let mut state = self.0.borrow_mut();
        state.parts = alphabets.iter().map(|alphabet| alphabet.part).collect();
        state.of_low_keys = vec![[0; N_LOW]; alphabets.len()];
        let [(_, n_bits)] = state.streams[..] else {
            unreachable!("there are rows once");
        };
        let n_left = readers.iter().map(BitReader::n_bits_left);
        state.streams = n_left.map(|n_left| (Part::default(), n_left)).collect();
        let of_rows: u64 = state.streams.iter().map(|(_, n_left)| n_left).sum();
        state.bits.codebooks = n_bits - of_rows;
    }

    fn symbol(
        self,
        alphabet: usize,
        reader: &mut BitReader,
        upcoming: impl FnOnce(&mut BitReader) -> (u32, u32),
    ) {
        let mut guard = self.0.borrow_mut();
        let state = &mut *guard;
        let (key, n_bits) = upcoming(reader);
        let n_left = reader.n_bits_left();
        let n_code_bits = n_left.min(n_bits.into());
        let part = state.parts[alphabet];
        let (last, n_uncounted) = std::mem::replace(
            &mut state.streams[reader.index],
            (part, n_left - n_code_bits),
        );
        state.bits.parts[last as usize].raw += n_uncounted - n_left;
        state.bits.parts[part as usize].codes += n_code_bits;
        match state.of_low_keys[alphabet].get_mut(key as usize) {
            Some(n) => *n += 1,
            None => *state.of_high_keys.entry((alphabet, key)).or_default() += 1,
        }
    }

    fn end(self, reader: &BitReader) {
        let mut state = self.0.borrow_mut();
        let n_left = reader.n_bits_left();
        let (last, n_uncounted) = state.streams[reader.index];
        state.bits.parts[last as usize].raw += n_uncounted - n_left;
        state.bits.padding += n_left;
    }
}

#[cfg(test)]
mod tests {
    use super::super::noise;
    use super::*;
    use crate::huffman::coded::BitCounts;
    use crate::huffman::{Bound, FrameHeader, FrameReader, FrameWriter, Kind, Promise};
    use crate::matrix::PredictionMatrix;

    /// The bits that decoding finds, and those that the encoder counted.
    fn measured(promise: Promise, matrix: &PredictionMatrix) -> (PayloadBits, BitCounts) {
        let header = FrameHeader::new(matrix.n_classes(), promise).unwrap();
        let mut writer = FrameWriter::new(Vec::new(), header).unwrap();
        writer.write(matrix).unwrap();
        let (bytes, _, counted) = writer.finish().unwrap();
        let mut reader = FrameReader::new(&bytes[..]).unwrap();
        let mut bits = PayloadBits::default();
        while let Some(block) = reader.next_raw_block().unwrap() {
            bits += block.measure().unwrap();
        }
        (bits, counted)
    }

    fn matrix(n_rows: usize, n_classes: usize, is_flat: bool) -> PredictionMatrix {
        let mut values: Vec<f32> = (0..n_rows * n_classes)
            .map(|i| {
                let noise = noise(i) >> 16;
                match is_flat || noise.is_multiple_of(7) {
                    true => 1.0 + (noise % 97) as f32,
                    false => 0.001,
                }
            })
            .collect();
        for row in values.chunks_exact_mut(n_classes) {
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|value| *value /= sum);
        }
        PredictionMatrix::new(n_classes, values)
    }

    #[test]
    fn decoding_finds_the_bits_that_the_encoder_counted() {
        for is_flat in [false, true] {
            for (kind, bound, keep_top) in [
                (Kind::Probabilities, Bound::MaxError(0.002), 1),
                (Kind::Probabilities, Bound::MaxError(0.01), 4),
                (Kind::Probabilities, Bound::MaxKl(0.001), 2),
                (Kind::Values, Bound::MaxError(0.001), 1),
                (Kind::Values, Bound::MaxError(0.1), 3),
                (Kind::Probabilities, Bound::Exact, 1),
            ] {
                for n_classes in [1, 3, 40] {
                    let promise = Promise {
                        keep_top,
                        ..Promise::new(kind, bound)
                    };
                    let matrix = matrix(3000, n_classes, is_flat);
                    let (found, counted) = measured(promise, &matrix);
                    assert_eq!(found.codebooks, counted.codebooks, "{promise:?}");
                    assert_eq!(found.of_rows().codes, counted.codes, "{promise:?}");
                    assert_eq!(found.of_rows().raw, counted.raw, "{promise:?}");
                    let difference = (found.entropy - counted.entropy).abs();
                    assert!(difference <= 1e-9 * counted.entropy, "{promise:?}");
                }
            }
        }
    }

    #[test]
    fn each_part_is_told_apart() {
        let mut peaked = matrix(3000, 10, false).into_values();
        // No multiple of the step is near, so that the rows are stored exactly.
        peaked[30..50].fill(1e30);
        let values = PredictionMatrix::new(10, peaked);
        let promise = Promise::new(Kind::Values, Bound::MaxError(0.001));
        let (bits, _) = measured(promise, &values);
        assert_eq!(bits.of(Part::ExactRows).raw, 2 * 10 * 32);
        assert!(bits.of(Part::Levels).codes > 0);
        assert_eq!(bits.of(Part::TopClass), PartBits::default());

        let promise = Promise::new(Kind::Probabilities, Bound::MaxError(0.002));
        let (bits, _) = measured(promise, &matrix(3000, 50, false));
        for part in [Part::TopClass, Part::Levels] {
            assert!(bits.of(part).codes > 0, "{part:?}");
        }
        assert_eq!(bits.of(Part::ExactRows), PartBits::default());
    }
}
