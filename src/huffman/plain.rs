//! Values bit for bit that nothing can be said of: sign and exponent as one symbol, the rest as it is
//! (FORMAT.md, section 12).

use super::Corrupt;
use super::bitstream::BitReader;
use super::block::{Choices, Coded, Symbol, Tables};
use super::codebook::Alphabet;
use super::tokens::Token;
use crate::matrix::Rows;

/// Bits of a float32 below its exponent.
const N_MANTISSA_BITS: u32 = 23;

fn alphabets() -> Vec<Alphabet> {
    vec![Alphabet::of_symbols(1 << (32 - N_MANTISSA_BITS))]
}

/// Codes all values of `matrix`.
pub fn encode(matrix: Rows<'_>) -> Coded {
    let symbol = |value: &f32| {
        let bits = value.to_bits();
        let token = Token {
            value: bits >> N_MANTISSA_BITS,
            extra: bits & ((1 << N_MANTISSA_BITS) - 1),
            n_extra_bits: N_MANTISSA_BITS,
        };
        Symbol::with_extra(0, token)
    };
    Coded {
        choices: Choices::None,
        symbols: matrix.values().iter().map(symbol).collect(),
        alphabets: alphabets(),
    }
}

/// Decodes the values of a block.
///
/// # Errors
/// [`Corrupt`] if the bitstream ends.
pub fn decode(reader: &mut BitReader, values: &mut [f32]) -> Result<(), Corrupt> {
    let tables = Tables::read_from(reader, &alphabets())?;
    for value in values {
        let high = tables.number(0, reader)?;
        *value = f32::from_bits(high << N_MANTISSA_BITS | reader.read(N_MANTISSA_BITS)?);
    }
    Ok(())
}
