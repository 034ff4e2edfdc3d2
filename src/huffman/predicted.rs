//! Rows of any values, logits above all: each value is predicted from those before it in the row, and
//! the difference is coded in the context of how good the prediction has been (FORMAT.md, section 11).
//!
//! Values are integers here: multiples of a step, or the bits of a float32 in the order of the values.
//! The [`Regression`] takes them as differences from the first row.

use super::Corrupt;
use super::bitstream::BitReader;
use super::block::{Choices, Coded, Symbol, Tables};
use super::codebook::Alphabet;
use super::contexts::{ContextDecoder, N_POSITIONS, Sequence};
use super::meter::{Part, Watch};
use super::order::Order;
use super::quantizer::{Step, from_ordered, ordered};
use super::regression::{Regression, Ridge, Visitor};
use super::tokens::{from_zigzag, zigzag};
use crate::matrix::Rows;

const HEAD: usize = 0;
pub(super) const RAW: usize = 1;
pub(super) const ORDER: usize = 2;

/// The contexts of numbers in the first row, and before the first fit.
pub(super) const FIRST_ROW: usize = N_POSITIONS - 2;
pub(super) const NOT_FITTED: usize = N_POSITIONS - 1;

/// How values become integers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Numbers {
    /// Multiples of a step.
    Steps(Step),
    /// All bits, predicted as they are: about as logarithms.
    OrderedBits,
    /// All bits, predicted as values.
    Bits,
}

impl Numbers {
    /// Whether values come back bit for bit.
    pub(super) fn is_exact(self) -> bool {
        matches!(self, Self::OrderedBits | Self::Bits)
    }

    pub(super) fn ridge(self) -> Ridge {
        match self {
            // About the noise of rounding to a step.
            Self::Steps(_) => Ridge {
                absolute: 1.0,
                relative: 0.0,
            },
            _ => Ridge {
                absolute: 0.0,
                relative: 1.0 / (1 << 20) as f64,
            },
        }
    }
}

/// A value, or 0 for one that is no finite number.
#[inline]
pub(super) fn finite(value: f32) -> f32 {
    if value.is_finite() { value } else { 0.0 }
}

/// Numbers below this are small.
const SMALL: f32 = (1 << 22) as f32;
/// Added to this, small numbers become integers in the lowest bits.
const MAGIC: f32 = 1.5 * (1 << 23) as f32;

/// The nearest integer, of two the even one; of large numbers that next to 0. Format-stable.
#[inline(always)]
pub(super) fn round(value: f32) -> i32 {
    match value.abs() < SMALL {
        true => (value + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32,
        false => value as i32,
    }
}

/// The exponent of 2 of a number, rounded down; -1023 for 0.
#[inline]
pub(super) fn exponent(value: f64) -> i32 {
    (value.to_bits() >> 52 & 0x7FF) as i32 - 1023
}

/// The context of a variance of about two to the power of `exponent`. Format-stable.
#[inline]
pub(super) fn context(exponent: i32) -> usize {
    (exponent + 8).clamp(0, FIRST_ROW as i32 - 1) as usize
}

/// The alphabets, given those of the groups.
pub(super) fn alphabets(keep_top: usize, of_groups: Vec<Alphabet>) -> Vec<Alphabet> {
    let mut alphabets = [2, 1]
        .map(|n| Alphabet::of_symbols(n).telling(Part::ExactRows))
        .to_vec();
    let of_order = Alphabet::of_levels().telling(Part::Order);
    alphabets.resize(groups_alphabet(keep_top), of_order);
    alphabets.extend(of_groups);
    alphabets
}

pub(super) fn groups_alphabet(keep_top: usize) -> usize {
    ORDER + Order::n_alphabets(keep_top, false)
}

/// What encoder and decoder know alike while they walk a row.
struct Walk {
    numbers: Numbers,
    regression: Regression,
    /// Of the first row, once there is one.
    first: Option<Vec<i32>>,
    /// The exponents of the variances of all classes, as of the last fit, and the contexts of these.
    exponents: Vec<i32>,
    contexts: Vec<u8>,
    /// Of the row at hand: for encoders, who know all features beforehand.
    features: Vec<f32>,
    expectations: Vec<f32>,
}

impl Walk {
    fn new(numbers: Numbers, n_classes: usize, n_rows: usize) -> Self {
        let regression = Regression::new(n_classes, n_rows, false, numbers.ridge());
        Self {
            numbers,
            first: None,
            regression,
            exponents: vec![0; n_classes],
            contexts: vec![FIRST_ROW as u8; n_classes],
            features: vec![0.0; n_classes],
            expectations: vec![0.0; n_classes],
        }
    }

    /// Appends the numbers of a row: how much each is larger than predicted, in its context.
    #[inline(always)]
    fn push_row(&mut self, row: &[i32], sequence: &mut Sequence) {
        let mut push = |number: i32, predicted: i32, context: usize| {
            sequence.push_number(context, zigzag(number.wrapping_sub(predicted)));
        };
        let Some(first) = &self.first else {
            let mut before = 0;
            for &number in row {
                push(number, before, FIRST_ROW);
                before = number;
            }
            self.start(row);
            return;
        };
        let is_bits = self.numbers == Numbers::Bits;
        for ((feature, &number), &first) in self.features.iter_mut().zip(row).zip(first) {
            *feature = match is_bits {
                true => feature_of_bits(number, first),
                false => number.wrapping_sub(first) as f32,
            };
        }
        self.regression
            .expect::<false>(0, &self.features, &mut self.expectations);
        let expectations = self.expectations.iter().zip(first);
        if is_bits {
            let is_fitted = self.regression.is_fitted();
            let known = expectations.zip(&self.exponents);
            for (((&expectation, &first), &of_variance), &number) in known.zip(row) {
                let (predicted, context) = predict_bits(first, expectation, is_fitted, of_variance);
                push(number, predicted, context);
            }
        } else {
            let known = expectations.zip(&self.contexts);
            for (((&expectation, &first), &context), &number) in known.zip(row) {
                let predicted = first.wrapping_add(round(expectation));
                push(number, predicted, context.into());
            }
        }
        self.learn();
    }

    /// Reads a row.
    #[inline(always)]
    fn read_row(
        &mut self,
        row: &mut [i32],
        read: &mut NumberReader<impl Watch>,
    ) -> Result<(), Corrupt> {
        if self.numbers == Numbers::Bits && self.first.is_some() && self.regression.is_fitted() {
            let mut visitor = BitsReader {
                read,
                first: self.first.as_deref().unwrap_or_default(),
                exponents: &self.exponents,
                row,
            };
            self.regression.walk(0, &mut visitor)?;
            self.learn();
            return Ok(());
        }
        // Reading all differences first gives the processor more to do at a time.
        for (difference, &context) in row.iter_mut().zip(&self.contexts) {
            *difference = read.difference(context.into())?;
        }
        let Some(first) = &self.first else {
            let mut before = 0i32;
            for number in row.iter_mut() {
                *number = before.wrapping_add(*number);
                before = *number;
            }
            self.start(row);
            return Ok(());
        };
        if self.numbers == Numbers::Bits {
            // Before the first fit, all expectations are 0.
            for ((number, &first), feature) in row.iter_mut().zip(first).zip(&mut self.features) {
                let (predicted, _) = predict_bits(first, 0.0, false, 0);
                *number = predicted.wrapping_add(*number);
                *feature = feature_of_bits(*number, first);
            }
            self.regression
                .expect::<false>(0, &self.features, &mut self.expectations);
        } else {
            self.regression.walk(0, &mut Differences { first, row })?;
        }
        self.learn();
        Ok(())
    }

    /// Takes the first row, whose features are 0.
    fn start(&mut self, row: &[i32]) {
        self.first = Some(row.to_vec());
        self.contexts.fill(NOT_FITTED as u8);
        self.regression.learn(0);
    }

    /// Learns the row at hand.
    fn learn(&mut self) {
        if self.regression.learn(0) {
            for class in 0..self.exponents.len() {
                self.exponents[class] = exponent(self.regression.variance(class));
                self.contexts[class] = context(self.exponents[class]) as u8;
            }
        }
    }
}

/// What a number is for the regression if all bits are predicted as values.
#[inline(always)]
pub(super) fn feature_of_bits(number: i32, first: i32) -> f32 {
    finite(finite(from_ordered(number)) - finite(from_ordered(first)))
}

/// The prediction of a value's bits and its context.
#[inline(always)]
pub(super) fn predict_bits(
    first: i32,
    expectation: f32,
    is_fitted: bool,
    of_variance: i32,
) -> (i32, usize) {
    let expected = finite(finite(from_ordered(first)) + expectation);
    let context = match is_fitted {
        true => {
            // A unit in the last place grows with the value; near 0, the spread counts.
            let size = exponent(f64::from(expected)).max(of_variance >> 1);
            context(of_variance - 2 * size + 46)
        }
        false => NOT_FITTED,
    };
    (ordered(expected), context)
}

/// Reads differences from a bitstream.
struct NumberReader<'a, 'b, W> {
    reader: &'a mut BitReader<'b>,
    tables: &'a Tables<W>,
    contexts: &'a mut ContextDecoder,
}

impl<W: Watch> NumberReader<'_, '_, W> {
    #[inline(always)]
    fn difference(&mut self, context: usize) -> Result<i32, Corrupt> {
        let number = self.contexts.number(context, self.tables, self.reader)?;
        Ok(from_zigzag(number))
    }
}

/// Reads the bits of values whose contexts depend on those before.
struct BitsReader<'a, 'b, 'c, W> {
    read: &'a mut NumberReader<'b, 'c, W>,
    first: &'a [i32],
    exponents: &'a [i32],
    row: &'a mut [i32],
}

impl<W: Watch> Visitor for BitsReader<'_, '_, '_, W> {
    const IS_SPARSE: bool = false;

    #[inline(always)]
    fn feature(&mut self, class: usize, expectation: f32) -> Result<f32, Corrupt> {
        let first = self.first[class];
        let (predicted, context) = predict_bits(first, expectation, true, self.exponents[class]);
        let number = predicted.wrapping_add(self.read.difference(context)?);
        self.row[class] = number;
        Ok(feature_of_bits(number, first))
    }
}

/// Adds predictions to differences.
struct Differences<'a> {
    first: &'a [i32],
    row: &'a mut [i32],
}

impl Visitor for Differences<'_> {
    const IS_SPARSE: bool = false;

    #[inline(always)]
    fn feature(&mut self, class: usize, expectation: f32) -> Result<f32, Corrupt> {
        let difference = self.row[class];
        let feature = round(expectation).wrapping_add(difference);
        self.row[class] = self.first[class].wrapping_add(feature);
        // Small numbers need not become integers on the way to the next expectation.
        Ok(
            match expectation.abs() < SMALL && difference.unsigned_abs() < SMALL as u32 {
                true => (expectation + MAGIC) - MAGIC + difference as f32,
                false => feature as f32,
            },
        )
    }
}

/// Codes the rows of `matrix`; those marked in `is_exact` bit for bit, as are rows that have no numbers
/// (which get marked).
#[inline(always)]
pub fn encode(matrix: Rows<'_>, is_exact: &mut [bool], numbers: Numbers, keep_top: usize) -> Coded {
    let n_classes = matrix.n_classes();
    let mut walk = Walk::new(numbers, n_classes, matrix.n_rows());
    let mut order = Order::new(keep_top, n_classes, false, ORDER);
    let mut row_numbers = vec![0; n_classes];
    let mut sequence = Sequence::new(1, matrix.values().len());
    for (row, is_exact) in matrix.rows().zip(is_exact) {
        match numbers {
            Numbers::Steps(step) => *is_exact |= !step.quantize_row(row, &mut row_numbers),
            Numbers::OrderedBits | Numbers::Bits => {
                for (number, &value) in row_numbers.iter_mut().zip(row) {
                    *number = ordered(value);
                }
            }
        }
        sequence.push(Symbol::new(HEAD, u32::from(*is_exact)));
        if *is_exact {
            Symbol::of_bits(RAW, row).for_each(|symbol| sequence.push(symbol));
            continue;
        }
        walk.push_row(&row_numbers, &mut sequence);
        if !numbers.is_exact() {
            order.encode(row, &row_numbers, None, |symbol| sequence.push(symbol));
        }
    }
    let (groups, symbols) = sequence.into_symbols(groups_alphabet(keep_top));
    Coded {
        alphabets: alphabets(keep_top, groups.alphabets()),
        choices: Choices::Groups(groups),
        symbols,
    }
}

/// Decodes the rows of a block.
///
/// # Errors
/// [`Corrupt`] if the payload is not what an encoder writes.
#[inline(always)]
pub fn decode(
    reader: &mut BitReader,
    n_classes: usize,
    numbers: Numbers,
    keep_top: usize,
    values: &mut [f32],
    watch: impl Watch,
) -> Result<(), Corrupt> {
    let mut contexts = ContextDecoder::read_from(reader, 1, groups_alphabet(keep_top))?;
    let tables = Tables::read_from(reader, &alphabets(keep_top, contexts.alphabets()), watch)?;
    let mut walk = Walk::new(numbers, n_classes, values.len() / n_classes);
    let mut order = Order::new(keep_top, n_classes, false, ORDER);
    let mut row_numbers = vec![0; n_classes];
    for row in values.chunks_exact_mut(n_classes) {
        if tables.number(HEAD, reader)? == 1 {
            tables.bits(RAW, reader, row)?;
            continue;
        }
        let mut numbers_of_row = NumberReader {
            reader,
            tables: &tables,
            contexts: &mut contexts,
        };
        walk.read_row(&mut row_numbers, &mut numbers_of_row)?;
        for (value, &number) in row.iter_mut().zip(&row_numbers) {
            *value = match numbers {
                Numbers::Steps(step) => step.dequantize(number),
                Numbers::OrderedBits | Numbers::Bits => from_ordered(number),
            };
        }
        if !numbers.is_exact() {
            order.decode(row, None, &tables, reader)?;
        }
    }
    Ok(())
}
