//! Values of which nothing is known beforehand: the bits that vary most are a symbol, the rest extra bits (FORMAT.md,
//! section 12).

use super::Corrupt;
use super::bitstream::{BitReader, BitWriter};
use super::codebook::Alphabet;
use super::coded::{Coded, CodedRows, Tables};
use super::meter::{Part, Watch};
use super::order::Order;
use super::quantizer::Step;
use super::symbols::Symbol;
use super::tokens::Token;
use crate::matrix::{Rows, range};

/// Bits of a float32 below its exponent.
const N_MANTISSA_BITS: u32 = 23;

const HEAD: usize = 0;
const RAW: usize = 1;
const ORDER: usize = 2;

/// Multiples of a step within a range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Multiples {
    /// The step.
    pub step: Step,
    /// The least multiple.
    pub least: i32,
    /// How far the largest multiple is above the least.
    pub range: u32,
}

impl Multiples {
    /// The range of the rows not marked.
    pub fn of(matrix: Rows<'_>, is_exact: &[bool], step: Step) -> Self {
        let (mut smallest, mut largest) = (f32::INFINITY, f32::NEG_INFINITY);
        for (row, _) in matrix.rows().zip(is_exact).filter(|(_, exact)| !**exact) {
            let (smallest_of_row, largest_of_row) = range(row);
            smallest = smallest.min(smallest_of_row);
            largest = largest.max(largest_of_row);
        }
        // Values that are too large have no number.
        let (least, range) = match (step.quantize(smallest), step.quantize(largest)) {
            (Some(least), Some(largest)) => (least, (largest - least) as u32),
            _ => (0, 0),
        };
        Self { step, least, range }
    }

    /// Low bits that are extra bits, so that the alphabet stays small.
    fn n_extra_bits(self) -> u32 {
        const MAX_BITS: u32 = 12;
        (u32::BITS - self.range.leading_zeros()).saturating_sub(MAX_BITS)
    }

    fn alphabets(self, keep_top: usize) -> Vec<Alphabet> {
        let mut alphabets = [2, 1]
            .map(|n| Alphabet::of_symbols(n).telling(Part::ExactRows))
            .to_vec();
        let of_order = Alphabet::of_levels().telling(Part::Order);
        alphabets.resize(Self::numbers(keep_top), of_order);
        let n_symbols = (self.range >> self.n_extra_bits()) as usize + 1;
        alphabets.push(Alphabet::of_symbols(n_symbols));
        alphabets
    }

    /// The index of the alphabet of numbers.
    fn numbers(keep_top: usize) -> usize {
        ORDER + Order::n_alphabets(keep_top, false)
    }

    /// Codes the rows of `matrix`; bit for bit those marked in `is_exact`, and rows with other numbers, which get
    /// marked.
    #[inline(always)]
    pub fn encode(self, matrix: Rows<'_>, is_exact: &mut [bool], keep_top: usize) -> Coded {
        let n_extra_bits = self.n_extra_bits();
        let alphabet = Self::numbers(keep_top);
        let mut order = Order::new(keep_top, matrix.n_classes(), false, ORDER);
        let mut symbols = Vec::with_capacity(matrix.values().len() + matrix.n_rows());
        let mut numbers = Vec::new();
        for (row, is_exact) in matrix.rows().zip(is_exact) {
            numbers.clear();
            numbers.extend(row.iter().map_while(|&value| {
                let number = self.step.quantize(value)?;
                let above = i64::from(number) - i64::from(self.least);
                u32::try_from(above)
                    .ok()
                    .filter(|&above| above <= self.range)
            }));
            *is_exact |= numbers.len() < row.len();
            symbols.push(Symbol::new(HEAD, u32::from(*is_exact)));
            if *is_exact {
                symbols.extend(Symbol::of_bits(RAW, row));
                continue;
            }
            symbols.extend(numbers.iter().map(|&above| {
                let token = Token {
                    value: above >> n_extra_bits,
                    extra: above & ((1 << n_extra_bits) - 1),
                    n_extra_bits,
                };
                Symbol::with_extra(alphabet, token)
            }));
            order.encode(row, &numbers, None, |symbol| symbols.push(symbol));
        }
        Coded {
            alphabets: self.alphabets(keep_top),
            choices: BitWriter::new(),
            rows: CodedRows::Symbols(symbols),
        }
    }

    /// Decodes the rows of a block.
    ///
    /// # Errors
    /// [`Corrupt`] if the payload is not what an encoder writes.
    pub fn decode(
        self,
        reader: &mut BitReader,
        n_classes: usize,
        keep_top: usize,
        values: &mut [f32],
        watch: impl Watch,
    ) -> Result<(), Corrupt> {
        let (tables, [mut reader]) = Tables::read_from(reader, &self.alphabets(keep_top), watch)?;
        let n_extra_bits = self.n_extra_bits();
        let mut order = Order::new(keep_top, n_classes, false, ORDER);
        for row in values.chunks_exact_mut(n_classes) {
            if tables.number(HEAD, &mut reader)? == 1 {
                tables.bits(RAW, &mut reader, row)?;
                continue;
            }
            for value in row.iter_mut() {
                let high = tables.number(Self::numbers(keep_top), &mut reader)?;
                let above = high << n_extra_bits | reader.read(n_extra_bits)?;
                if above > self.range {
                    return Err(Corrupt("a number is out of range"));
                }
                *value = self.step.dequantize(self.least.wrapping_add(above as i32));
            }
            order.decode(row, None, &tables, &mut reader)?;
        }
        tables.finish(reader)
    }
}

/// The alphabet of the highest bits of values, which vary most.
pub fn alphabet_of_bits() -> Alphabet {
    Alphabet::of_symbols(1 << (32 - N_MANTISSA_BITS))
}

/// The symbol of a value in [that alphabet](alphabet_of_bits), with all other bits as extra bits.
pub fn symbol_of_bits(alphabet: usize, value: f32) -> Symbol {
    let bits = value.to_bits();
    let token = Token {
        value: bits >> N_MANTISSA_BITS,
        extra: bits & ((1 << N_MANTISSA_BITS) - 1),
        n_extra_bits: N_MANTISSA_BITS,
    };
    Symbol::with_extra(alphabet, token)
}

/// Reads a value that [`symbol_of_bits`] made a symbol of.
///
/// # Errors
/// [`Corrupt`] if the bitstream ends.
#[inline(always)]
pub fn read_bits(
    alphabet: usize,
    tables: &Tables<impl Watch>,
    reader: &mut BitReader,
) -> Result<f32, Corrupt> {
    let high = tables.number(alphabet, reader)?;
    let low = reader.read(N_MANTISSA_BITS)?;
    Ok(f32::from_bits(high << N_MANTISSA_BITS | low))
}

/// Codes all values of `matrix` bit for bit.
pub fn encode_bits(matrix: Rows<'_>) -> Coded {
    let symbols = matrix.values().iter();
    let symbols = symbols.map(|&value| symbol_of_bits(0, value)).collect();
    Coded {
        alphabets: vec![alphabet_of_bits()],
        choices: BitWriter::new(),
        rows: CodedRows::Symbols(symbols),
    }
}

/// Decodes the values that [`encode_bits`] coded.
///
/// # Errors
/// [`Corrupt`] if the bitstream ends.
pub fn decode_bits(
    reader: &mut BitReader,
    values: &mut [f32],
    watch: impl Watch,
) -> Result<(), Corrupt> {
    let (tables, [mut reader]) = Tables::read_from(reader, &[alphabet_of_bits()], watch)?;
    for value in values {
        *value = read_bits(0, &tables, &mut reader)?;
    }
    tables.finish(reader)
}
