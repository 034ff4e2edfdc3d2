//! One block: rows to payload and back (FORMAT.md, section 5).
//!
//! A payload is one bitstream: which of two models codes the rows, what that model needs, the codebooks
//! of its alphabets, then the symbols of the rows. Nothing outside the payload but the number of rows
//! and classes and the quantizer is needed to decode it.

use super::bitstream::{BitReader, BitWriter};
use super::codebook::{Codebook, DecodeTable, entropy_bits};
use super::quantizer::Quantizer;
use super::tokens::{Token, Tokens};
use super::{Error, expected, ranked};
use crate::matrix::PredictionMatrix;

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

/// A symbol of one of a model's alphabets and the raw bits that go with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol {
    alphabet: u16,
    n_extra_bits: u8,
    value: u32,
    extra: u32,
}

impl Symbol {
    /// A symbol without raw bits.
    pub fn new(alphabet: usize, value: u32) -> Self {
        Self::with_extra(
            alphabet,
            Token {
                value,
                extra: 0,
                n_extra_bits: 0,
            },
        )
    }

    /// A token as a symbol, with its extra bits.
    pub fn with_extra(alphabet: usize, token: Token) -> Self {
        Self {
            alphabet: alphabet as u16,
            n_extra_bits: token.n_extra_bits as u8,
            value: token.value,
            extra: token.extra,
        }
    }

    /// Which alphabet it is of.
    pub fn alphabet(&self) -> usize {
        self.alphabet.into()
    }

    /// The symbol within the alphabet.
    pub fn value(&self) -> u32 {
        self.value
    }

    /// The number of raw bits.
    pub fn n_extra_bits(&self) -> u32 {
        self.n_extra_bits.into()
    }
}

/// How the rows of a block are coded. Format-stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Model {
    Ranked = 0,
    Expected = 1,
}

/// Encodes the rows of `matrix`, those marked in `is_exact` bit for bit, the others quantized, with the
/// model that takes fewer bytes, or is about to.
///
/// The values of quantized rows must be probabilities (0..=1).
pub fn encode(
    matrix: &PredictionMatrix,
    is_exact: &[bool],
    quantizer: Quantizer,
) -> (Vec<u8>, BitCounts) {
    if matrix.n_classes() > expected::MAX_CLASSES {
        return encode_ranked(matrix, is_exact, quantizer);
    }
    // Of a large block, the first rows tell which model suits it.
    if matrix.n_rows() > 2 * SAMPLE_ROWS {
        let values = matrix.values()[..SAMPLE_ROWS * matrix.n_classes()].to_vec();
        let sample = PredictionMatrix::new(matrix.n_classes(), values);
        let is_exact_in_sample = &is_exact[..SAMPLE_ROWS];
        let (_, _, model) = encode_best(&sample, is_exact_in_sample, quantizer);
        return match model {
            Model::Ranked => encode_ranked(matrix, is_exact, quantizer),
            Model::Expected => encode_expected(matrix, is_exact, quantizer),
        };
    }
    let (payload, counts, _) = encode_best(matrix, is_exact, quantizer);
    (payload, counts)
}

/// Rows that stand for a large block when its model is chosen.
const SAMPLE_ROWS: usize = 2048;

fn encode_best(
    matrix: &PredictionMatrix,
    is_exact: &[bool],
    quantizer: Quantizer,
) -> (Vec<u8>, BitCounts, Model) {
    let ranked = encode_ranked(matrix, is_exact, quantizer);
    let expected = encode_expected(matrix, is_exact, quantizer);
    // Ranked rows are decoded several times as fast, which is worth a few bytes.
    match expected.0.len() * 100 < ranked.0.len() * 95 {
        true => (expected.0, expected.1, Model::Expected),
        false => (ranked.0, ranked.1, Model::Ranked),
    }
}

fn encode_ranked(
    matrix: &PredictionMatrix,
    is_exact: &[bool],
    quantizer: Quantizer,
) -> (Vec<u8>, BitCounts) {
    let symbols = ranked::symbols(matrix, is_exact, quantizer);
    let sizes = ranked::Alphabet::sizes(matrix.n_classes());
    write(Model::Ranked, |_| (), &symbols, &sizes)
}

fn encode_expected(
    matrix: &PredictionMatrix,
    is_exact: &[bool],
    quantizer: Quantizer,
) -> (Vec<u8>, BitCounts) {
    let coding = expected::Coding::new(matrix, is_exact, quantizer);
    let sizes = coding.alphabet_sizes(matrix.n_classes());
    let write_groups = |writer: &mut BitWriter| coding.write_groups(writer);
    write(Model::Expected, write_groups, &coding.symbols, &sizes)
}

/// Writes a payload: the model, what `write_model` writes, the codebooks, the symbols.
fn write(
    model: Model,
    write_model: impl Fn(&mut BitWriter),
    symbols: &[Symbol],
    alphabet_sizes: &[usize],
) -> (Vec<u8>, BitCounts) {
    let mut frequencies: Vec<Vec<u64>> = alphabet_sizes.iter().map(|&n| vec![0; n]).collect();
    for symbol in symbols {
        frequencies[symbol.alphabet()][symbol.value as usize] += 1;
    }
    let codebooks: Vec<Codebook> = frequencies
        .iter()
        .map(|frequencies| Codebook::from_frequencies(frequencies))
        .collect();

    let mut writer = BitWriter::new();
    writer.write(model as u32, 8);
    write_model(&mut writer);
    for codebook in &codebooks {
        codebook.write_to(&mut writer);
    }
    let codebook_bits = writer.n_bits();
    let mut raw = 0;
    for symbol in symbols {
        codebooks[symbol.alphabet()].encode(symbol.value as usize, &mut writer);
        writer.write(symbol.extra, symbol.n_extra_bits());
        raw += u64::from(symbol.n_extra_bits);
    }
    let counts = BitCounts {
        codebooks: codebook_bits,
        codes: writer.n_bits() - codebook_bits - raw,
        raw,
        entropy: frequencies.iter().map(|f| entropy_bits(f)).sum(),
    };
    (writer.finish(), counts)
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
    let model = reader.read(8)?;
    let mut values = vec![0.0; n_rows * n_classes];
    if model == Model::Ranked as u32 {
        ranked::decode(&mut reader, n_classes, quantizer, &mut values)?;
    } else if model == Model::Expected as u32 {
        expected::decode(&mut reader, n_classes, quantizer, &mut values)?;
    } else {
        return Err(Error::Corrupt("a block has an unknown model"));
    }
    reader.finish()?;
    Ok(PredictionMatrix::new(n_classes, values))
}

/// The decode tables of a block's alphabets.
#[derive(Debug)]
pub struct Tables(Vec<DecodeTable>);

impl Tables {
    /// Reads the codebooks of alphabets of these sizes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] as [`DecodeTable::read_from`].
    pub fn read_from(reader: &mut BitReader, alphabet_sizes: &[usize]) -> Result<Self, Error> {
        alphabet_sizes
            .iter()
            .map(|&size| DecodeTable::read_from(reader, size))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Decodes a symbol of an alphabet.
    ///
    /// # Errors
    /// [`Error::Corrupt`] as [`DecodeTable::decode`].
    #[inline]
    pub fn symbol(&self, alphabet: usize, reader: &mut BitReader) -> Result<u32, Error> {
        self.0[alphabet].decode(reader)
    }

    /// Decodes a token of an alphabet and reads its extra bits.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the bitstream ends.
    #[inline]
    pub fn number(
        &self,
        alphabet: usize,
        tokens: Tokens,
        reader: &mut BitReader,
    ) -> Result<u32, Error> {
        let value = self.symbol(alphabet, reader)?;
        let extra = reader.read(tokens.n_extra_bits(value))?;
        Ok(tokens.join(value, extra))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::matrix::argmax;

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
        for encode in [encode_ranked, encode_expected] {
            let (payload, counts) = encode(matrix, &vec![false; n_rows], quantizer);
            let spent = counts.codebooks + counts.codes + counts.raw;
            assert_eq!(payload.len() as u64, spent.div_ceil(8));
            assert!(counts.codes as f64 >= counts.entropy - 1e-6);
            let decoded = decode(&payload, n_rows, matrix.n_classes(), quantizer).unwrap();
            assert_eq!(decoded.values(), quantized(matrix, quantizer));
        }
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
        for encode in [encode_ranked, encode_expected] {
            let (payload, counts) = encode(&matrix, &[true, false], quantizer);
            assert_eq!(counts.raw, 64);
            let decoded = decode(&payload, 2, 2, quantizer).unwrap();
            let bits: Vec<u32> = decoded.values()[..2].iter().map(|v| v.to_bits()).collect();
            assert_eq!(bits, [f32::NAN.to_bits(), (-7.5f32).to_bits()]);
            assert!((decoded.values()[2] - 0.25).abs() < 0.1);
        }
    }

    #[test]
    fn certain_rows_cost_nothing_beyond_the_codebook() {
        let matrix = PredictionMatrix::new(100, [vec![1.0], vec![0.0; 99]].concat().repeat(1000));
        for encode in [encode_ranked, encode_expected] {
            let (payload, _) = encode(&matrix, &[false; 1000], Quantizer::new(0.002).unwrap());
            assert!(payload.len() < 12, "{} bytes", payload.len());
        }
    }

    #[test]
    fn every_flipped_bit_and_every_prefix_decodes_or_is_refused_without_a_panic() {
        let values: Vec<f32> = (0..300)
            .map(|i| ((i * 7919) % 97) as f32 / 97.0 * if i % 5 == 0 { 0.9 } else { 0.02 })
            .collect();
        let matrix = PredictionMatrix::new(10, values);
        let quantizer = Quantizer::new(0.002).unwrap();
        for encode in [encode_ranked, encode_expected] {
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
        fn arbitrary_bytes_never_panic(
            model in 0u8..3,
            mut bytes in prop::collection::vec(any::<u8>(), 1..200),
        ) {
            bytes[0] = model;
            let _ = decode(&bytes, 50, 12, Quantizer::new(0.01).unwrap());
        }

        #[test]
        fn damaged_payloads_never_panic(
            n_classes in 1usize..20,
            flips in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
            seed in 0usize..1000,
        ) {
            let values: Vec<f32> = (0..60 * n_classes)
                .map(|i| ((i * 7919 + seed * 31) % 97) as f32 / 97.0 / n_classes as f32)
                .collect();
            let matrix = PredictionMatrix::new(n_classes, values);
            let quantizer = Quantizer::new(0.002).unwrap();
            for encode in [encode_ranked, encode_expected] {
                let (mut payload, _) = encode(&matrix, &[false; 60], quantizer);
                for flip in &flips {
                    let bit = flip.index(payload.len() * 8);
                    payload[bit / 8] ^= 1 << (bit % 8);
                }
                if let Ok(decoded) = decode(&payload, 60, n_classes, quantizer) {
                    prop_assert_eq!(decoded.n_rows(), 60);
                }
            }
        }
    }
}
