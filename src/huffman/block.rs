//! One block: rows to payload and back (FORMAT.md, sections 6 and 7).
//!
//! A payload is the codebooks of all alphabets, then the rows, in one bitstream. Nothing outside the
//! payload but the number of rows and classes and the quantizer is needed to decode it.

use super::Error;
use super::bitstream::{BitReader, BitWriter};
use super::codebook::{Codebook, DecodeTable};
use super::quantizer::Quantizer;
use super::symbols::{
    Alphabet, Head, RowModel, Shape, Symbol, from_token, from_zigzag, token, token_extra_bits,
    zigzag,
};
use crate::matrix::{PredictionMatrix, argmax};

/// What the bits of a block, or of a frame, went to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BitCounts {
    /// Codebooks.
    pub codebooks: u64,
    /// Huffman codes.
    pub codes: u64,
    /// Extra bits, and the rows stored exactly.
    pub raw: u64,
    /// Empirical entropy of the coded symbols, by alphabet and block: the least that `codes` could be.
    pub entropy: f64,
}

impl std::ops::AddAssign for BitCounts {
    fn add_assign(&mut self, other: Self) {
        self.codebooks += other.codebooks;
        self.codes += other.codes;
        self.raw += other.raw;
        self.entropy += other.entropy;
    }
}

/// Encodes the rows of `matrix`, those marked in `is_exact` bit for bit, the others quantized.
///
/// The values of quantized rows must be probabilities (0..=1).
pub fn encode(
    matrix: &PredictionMatrix,
    is_exact: &[bool],
    quantizer: Quantizer,
) -> (Vec<u8>, BitCounts) {
    let n_classes = matrix.n_classes();
    let symbols = symbols_of(matrix, is_exact, quantizer);

    let mut frequencies: Vec<Vec<u64>> = (0..Alphabet::COUNT)
        .map(|index| vec![0; Alphabet::size(index, n_classes)])
        .collect();
    for symbol in &symbols {
        frequencies[symbol.alphabet.index()][symbol.value as usize] += 1;
    }
    let codebooks: Vec<Codebook> = frequencies
        .iter()
        .map(|frequencies| Codebook::from_frequencies(frequencies))
        .collect();

    let mut writer = BitWriter::new();
    for codebook in &codebooks {
        codebook.write_to(&mut writer);
    }
    let codebook_bits = writer.n_bits();

    let escape = Head::Exact.symbol(n_classes);
    let mut rows = matrix.rows();
    for symbol in &symbols {
        codebooks[symbol.alphabet.index()].encode(symbol.value as usize, &mut writer);
        writer.write(symbol.extra, u32::from(symbol.n_extra_bits));
        if symbol.alphabet == Alphabet::Head {
            let row = rows.next().expect("one head a row");
            if *symbol == escape {
                for value in row {
                    writer.write(value.to_bits(), 32);
                }
            }
        }
    }

    let codes = frequencies
        .iter()
        .zip(&codebooks)
        .flat_map(|(frequencies, codebook)| {
            frequencies
                .iter()
                .enumerate()
                .map(|(symbol, n)| n * u64::from(codebook.code_length(symbol)))
        })
        .sum();
    let counts = BitCounts {
        codebooks: codebook_bits,
        codes,
        raw: writer.n_bits() - codebook_bits - codes,
        entropy: frequencies.iter().map(|f| entropy_bits(f)).sum(),
    };
    (writer.finish(), counts)
}

/// Empirical entropy of all symbols together, in bits.
fn entropy_bits(frequencies: &[u64]) -> f64 {
    let total: u64 = frequencies.iter().sum();
    frequencies
        .iter()
        .filter(|&&n| n > 0)
        .map(|&n| n as f64 * (total as f64 / n as f64).log2())
        .sum()
}

/// The symbols of all rows, in the order in which they are written.
fn symbols_of(matrix: &PredictionMatrix, is_exact: &[bool], quantizer: Quantizer) -> Vec<Symbol> {
    let n_classes = matrix.n_classes();
    let mut symbols = Vec::with_capacity(4 * matrix.n_rows());
    let mut model = RowModel::new(n_classes);
    // (level, rank, class) of the classes other than the top one, largest level first.
    let mut others: Vec<(u32, usize, usize)> = Vec::new();
    for (row, &is_exact) in matrix.rows().zip(is_exact) {
        if is_exact {
            symbols.push(Head::Exact.symbol(n_classes));
            continue;
        }
        let top = argmax(row);
        let top_level = quantizer.quantize(row[top]);
        others.clear();
        for (class, &value) in row.iter().enumerate() {
            let level = quantizer.quantize(value);
            if level > 0 && class != top {
                others.push((level, model.rank(top, class), class));
            }
        }
        others.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));

        let distance = quantizer.n_levels() - top_level;
        let shape = match (others.len(), distance) {
            (0, 0) => Shape::Certain,
            (0, _) => Shape::Alone,
            (1, _) => Shape::One,
            (2, _) => Shape::Two,
            _ => Shape::Many,
        };
        symbols.push(Head::Levels { top, shape }.symbol(n_classes));
        if shape == Shape::Many {
            symbols.push(token(Alphabet::Count, others.len() as u32 - 3));
        }
        if let Some(least) = least_distance(shape) {
            symbols.push(token(Alphabet::TopDistance(shape), distance - least));
        }

        let mut mass_left = i64::from(distance);
        let mut previous = top_level;
        for (position, &(level, rank, _)) in others.iter().enumerate() {
            symbols.push(token(Alphabet::rank(position), rank as u32));
            if previous > 1 {
                let ceiling = ceiling(mass_left, previous);
                symbols.push(token(
                    Alphabet::level(position, others.len(), ceiling),
                    zigzag(ceiling as i32 - level as i32),
                ));
            }
            mass_left -= i64::from(level);
            previous = level;
        }
        for &(_, _, class) in &others {
            model.learn(top, class);
        }
    }
    symbols
}

/// The least distance of the top level from 1 that has to be told; `None` if it is known to be 0.
fn least_distance(shape: Shape) -> Option<u32> {
    match shape {
        Shape::Certain => None,
        Shape::Alone => Some(1),
        Shape::One | Shape::Two | Shape::Many => Some(0),
    }
}

/// What a level most likely does not exceed: the mass left, but no more than the level before it (which
/// it cannot exceed) and no less than 1. Format-stable.
fn ceiling(mass_left: i64, previous: u32) -> u32 {
    mass_left.clamp(1, i64::from(previous)) as u32
}

/// Decodes a payload of `n_rows` rows of `n_classes`.
///
/// # Errors
/// [`Error::Corrupt`] if the payload is not what [`encode`] writes for these numbers.
pub fn decode(
    payload: &[u8],
    n_rows: usize,
    n_classes: usize,
    quantizer: Quantizer,
) -> Result<PredictionMatrix, Error> {
    let mut reader = BitReader::new(payload);
    let tables = (0..Alphabet::COUNT)
        .map(|index| DecodeTable::read_from(&mut reader, Alphabet::size(index, n_classes)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut decoder = RowDecoder {
        tables,
        quantizer,
        model: RowModel::new(n_classes),
        n_classes,
        levels: Vec::new(),
        is_present: vec![false; n_classes],
    };
    let mut values = vec![0.0; n_rows * n_classes];
    for row in values.chunks_exact_mut(n_classes) {
        decoder.decode_row(&mut reader, row)?;
    }
    reader.finish()?;
    Ok(PredictionMatrix::new(n_classes, values))
}

struct RowDecoder {
    tables: Vec<DecodeTable>,
    quantizer: Quantizer,
    model: RowModel,
    n_classes: usize,
    /// (class, level) of the row at hand, the top class first.
    levels: Vec<(usize, u32)>,
    /// Which classes are in `levels`.
    is_present: Vec<bool>,
}

impl RowDecoder {
    fn decode_row(&mut self, reader: &mut BitReader, row: &mut [f32]) -> Result<(), Error> {
        let head = self.tables[Alphabet::Head.index()].decode(reader)? as u32;
        let extra = reader.read(u32::from(Head::n_extra_bits(head, self.n_classes)))?;
        match Head::from_symbol(head, extra, self.n_classes) {
            None => Err(Error::Corrupt("a top class does not exist")),
            Some(Head::Exact) => {
                for value in row {
                    *value = f32::from_bits(reader.read(32)?);
                }
                Ok(())
            }
            Some(Head::Levels { top, shape }) => {
                let result = self.decode_levels(reader, top, shape);
                for &(class, _) in &self.levels {
                    self.is_present[class] = false;
                }
                result?;
                for &(class, _) in &self.levels[1..] {
                    self.model.learn(top, class);
                }
                self.quantizer.dequantize_row(&self.levels, top, row);
                Ok(())
            }
        }
    }

    /// Fills `levels`.
    fn decode_levels(
        &mut self,
        reader: &mut BitReader,
        top: usize,
        shape: Shape,
    ) -> Result<(), Error> {
        let n_others = match shape {
            Shape::Certain | Shape::Alone => 0,
            Shape::One => 1,
            Shape::Two => 2,
            Shape::Many => 3 + self.number(reader, Alphabet::Count)? as usize,
        };
        if n_others >= self.n_classes {
            return Err(Error::Corrupt("a row has more levels than classes"));
        }
        let distance = match least_distance(shape) {
            None => 0,
            Some(least) => least + self.number(reader, Alphabet::TopDistance(shape))?,
        };
        let top_level = self
            .quantizer
            .n_levels()
            .checked_sub(distance)
            .ok_or(Error::Corrupt("a top level is below 0"))?;

        self.levels.clear();
        self.levels.push((top, top_level));
        self.is_present[top] = true;
        let mut mass_left = i64::from(distance);
        let mut previous = top_level;
        for position in 0..n_others {
            let rank = self.number(reader, Alphabet::rank(position))? as usize;
            let class = self
                .model
                .class(top, rank)
                .ok_or(Error::Corrupt("a rank exceeds the classes"))?;
            if self.is_present[class] {
                return Err(Error::Corrupt("a class occurs twice in a row"));
            }
            let level = match previous {
                0 => 0,
                1 => 1,
                _ => {
                    let ceiling = ceiling(mass_left, previous);
                    let alphabet = Alphabet::level(position, n_others, ceiling);
                    let distance = from_zigzag(self.number(reader, alphabet)?);
                    u32::try_from(ceiling as i32 - distance).unwrap_or(0)
                }
            };
            if level == 0 || level > previous {
                return Err(Error::Corrupt("a level is 0 or exceeds the one before it"));
            }
            self.levels.push((class, level));
            self.is_present[class] = true;
            mass_left -= i64::from(level);
            previous = level;
        }
        Ok(())
    }

    /// Reads a token of `alphabet` with its extra bits.
    fn number(&self, reader: &mut BitReader, alphabet: Alphabet) -> Result<u32, Error> {
        let value = self.tables[alphabet.index()].decode(reader)? as u32;
        let extra = reader.read(u32::from(token_extra_bits(value)))?;
        Ok(from_token(value, extra))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quantized(matrix: &PredictionMatrix, quantizer: Quantizer) -> Vec<f32> {
        let mut expected = Vec::new();
        for row in matrix.rows() {
            let levels: Vec<_> = row
                .iter()
                .map(|&value| quantizer.quantize(value))
                .enumerate()
                .filter(|&(_, level)| level > 0)
                .collect();
            let mut decoded = vec![0.0; row.len()];
            quantizer.dequantize_row(&levels, argmax(row), &mut decoded);
            expected.extend(decoded);
        }
        expected
    }

    fn assert_round_trip(matrix: &PredictionMatrix, max_error: f64) {
        let quantizer = Quantizer::new(max_error).unwrap();
        let n_rows = matrix.n_rows();
        let (payload, counts) = encode(matrix, &vec![false; n_rows], quantizer);
        let spent = counts.codebooks + counts.codes + counts.raw;
        assert_eq!(payload.len() as u64, spent.div_ceil(8));
        assert!(counts.codes as f64 >= counts.entropy - 1e-6);
        let decoded = decode(&payload, n_rows, matrix.n_classes(), quantizer).unwrap();
        assert_eq!(decoded.values(), quantized(matrix, quantizer));
    }

    #[test]
    fn rows_of_every_shape_survive() {
        let rows = [
            [1.0, 0.0, 0.0, 0.0, 0.0],
            [0.97, 0.0, 0.0, 0.0, 0.0],
            [0.2, 0.8, 0.0, 0.0, 0.0],
            [0.3, 0.1, 0.6, 0.0, 0.0],
            [0.2, 0.2, 0.2, 0.2, 0.2],
            [0.01, 0.01, 0.01, 0.01, 0.96],
            [0.0, 0.0, 0.0, 0.0, 0.0],
            [1.0, 1.0, 1.0, 1.0, 1.0],
        ];
        for max_error in [0.5, 0.1, 0.002, 1e-6] {
            assert_round_trip(&PredictionMatrix::new(5, rows.concat()), max_error);
            assert_round_trip(&PredictionMatrix::new(1, rows.concat()), max_error);
            assert_round_trip(&PredictionMatrix::new(40, rows.concat()), max_error);
        }
        assert_round_trip(&PredictionMatrix::new(3, vec![]), 0.002);
    }

    #[test]
    fn rows_marked_exact_keep_every_bit() {
        let matrix = PredictionMatrix::new(2, vec![f32::NAN, -7.5, 0.25, 0.75]);
        let quantizer = Quantizer::new(0.1).unwrap();
        let (payload, counts) = encode(&matrix, &[true, false], quantizer);
        assert_eq!(counts.raw, 64);
        let decoded = decode(&payload, 2, 2, quantizer).unwrap();
        let bits: Vec<u32> = decoded.values()[..2].iter().map(|v| v.to_bits()).collect();
        assert_eq!(bits, [f32::NAN.to_bits(), (-7.5f32).to_bits()]);
        assert!((decoded.values()[2] - 0.25).abs() < 0.1);
    }

    #[test]
    fn certain_rows_cost_nothing_beyond_the_codebook() {
        let matrix = PredictionMatrix::new(100, [vec![1.0], vec![0.0; 99]].concat().repeat(1000));
        let (payload, _) = encode(&matrix, &[false; 1000], Quantizer::new(0.002).unwrap());
        assert!(payload.len() < 10, "{} bytes", payload.len());
    }

    #[test]
    fn every_flipped_bit_and_every_prefix_decodes_or_is_refused_without_a_panic() {
        let values: Vec<f32> = (0..300)
            .map(|i| ((i * 7919) % 97) as f32 / 97.0 * if i % 5 == 0 { 0.9 } else { 0.02 })
            .collect();
        let matrix = PredictionMatrix::new(10, values);
        let quantizer = Quantizer::new(0.002).unwrap();
        let (payload, _) = encode(&matrix, &[false; 30], quantizer);
        for bit in 0..payload.len() * 8 {
            let mut damaged = payload.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(decoded) = decode(&damaged, 30, 10, quantizer) {
                assert_eq!(decoded.n_rows(), 30);
            }
        }
        for end in 0..payload.len() {
            assert!(decode(&payload[..end], 30, 10, quantizer).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_probabilities_survive(
            n_classes in 1usize..30,
            values in prop::collection::vec(prop_oneof![4 => Just(0.0f32), 1 => 0.0f32..=1.0, 1 => 0.0f32..0.01], 0..300),
            max_error in prop_oneof![1e-6..1e-4f64, 1e-3..0.5f64],
        ) {
            let n_rows = values.len() / n_classes;
            let matrix = PredictionMatrix::new(n_classes, values[..n_rows * n_classes].to_vec());
            assert_round_trip(&matrix, max_error);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, 50, 12, Quantizer::new(0.01).unwrap());
        }
    }
}
