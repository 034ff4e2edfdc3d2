//! Rows of any values, logits above all: each value is predicted from the values before it in the row, and the
//! difference is coded in the context of how good the prediction has been (FORMAT.md, section 11).
//!
//! Values are integers here: multiples of a step, or the bits of a float32 in the order of the values.
//! The [`Regression`] takes them as differences from the first row.

use super::Corrupt;
use super::bitstream::{BitReader, BitWriter, Coder};
use super::codebook::Alphabet;
use super::coded::{Coded, CodedRows, Tables};
use super::contexts::{ContextDecoder, Groups, N_POSITIONS, Sequence, Stream};
use super::meter::{Part, Watch};
use super::minifloat::{Float, Float32, Minifloat};
use super::order::Order;
use super::quantizer::Step;
use super::regression::{Regression, Ridge, Visitor};
use super::symbols::Symbol;
use super::tokens::{LEVELS, from_zigzag, zigzag};
use crate::matrix::Rows;

pub(super) const HEAD: usize = 0;
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
    /// All bits, predicted in the order of the values, which is about logarithmic.
    OrderedBits(Minifloat),
    /// All bits, predicted as values.
    Bits(Minifloat),
}

impl Numbers {
    /// Whether the values have fewer bits than float32.
    pub fn are_minifloats(self) -> bool {
        matches!(self, Self::OrderedBits(of) | Self::Bits(of) if !of.is_f32())
    }

    /// Whether values come back bit for bit.
    pub(super) fn is_exact(self) -> bool {
        matches!(self, Self::OrderedBits(_) | Self::Bits(_))
    }

    /// Fills in the numbers of a row; returns whether all values have one.
    #[inline(always)]
    pub(super) fn quantize_row(self, row: &[f32], numbers: &mut [i32]) -> bool {
        match self {
            Self::Steps(step) => step.quantize_row(row, numbers),
            Self::OrderedBits(float) | Self::Bits(float) => {
                float.fill_numbers(row, numbers);
                true
            }
        }
    }

    /// Fills in the values of numbers.
    #[inline(always)]
    pub(super) fn dequantize_row(self, numbers: impl Iterator<Item = i32>, row: &mut [f32]) {
        match self {
            Self::Steps(step) => {
                for (value, number) in row.iter_mut().zip(numbers) {
                    *value = step.dequantize(number);
                }
            }
            Self::OrderedBits(float) | Self::Bits(float) => float.fill_values(numbers, row),
        }
    }

    pub(super) fn ridge(self) -> Ridge {
        match self {
            // About the noise of rounding to a step.
            Self::Steps(_) => Ridge {
                absolute: 1.0,
                relative: 0.0,
                own: 0.0,
            },
            _ => Ridge {
                absolute: 0.0,
                relative: 1.0 / (1 << 20) as f64,
                own: 0.0,
            },
        }
    }
}

/// The value, or 0 if it is infinite or no number.
#[inline]
pub(super) fn finite(value: f32) -> f32 {
    if value.is_finite() { value } else { 0.0 }
}

/// Numbers below this are small.
const SMALL: f32 = (1 << 22) as f32;
/// Added to this, small numbers become integers in the lowest bits.
const MAGIC: f32 = 1.5 * (1 << 23) as f32;

/// Rounds to the nearest integer, of two the even one; large numbers towards 0. Format-stable.
#[inline(always)]
pub(super) fn round(value: f32) -> i32 {
    match value.abs() < SMALL {
        true => small_to_integer(value),
        false => value as i32,
    }
}

/// Rounds a small number as [`round`] does; of others, returns anything.
#[inline(always)]
fn small_to_integer(value: f32) -> i32 {
    ((value + MAGIC).to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32)
}

/// The exponent of the largest power of 2 up to a number; -1023 for 0.
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

/// The state that encoder and decoder share while they walk rows.
struct Walk {
    regression: Regression,
    /// The numbers of the first row, once there is one.
    first: Option<Vec<i32>>,
    /// The exponents of the variances of all classes, since the last fit, and their contexts.
    exponents: Vec<i32>,
    contexts: Vec<u8>,
}

impl Walk {
    fn new(numbers: Numbers, n_classes: usize, n_rows: usize) -> Self {
        Self {
            regression: Regression::new(n_classes, n_rows, false, numbers.ridge()),
            first: None,
            exponents: vec![0; n_classes],
            contexts: vec![FIRST_ROW as u8; n_classes],
        }
    }

    /// Takes the first row, whose features are 0.
    fn start(&mut self, row: &[i32]) {
        self.first = Some(row.to_vec());
        self.contexts.fill(NOT_FITTED as u8);
        self.regression.learn_zeros();
    }

    /// Learns the rows at hand that are live.
    fn learn<const N: usize>(&mut self, is_live: [bool; N]) {
        if self
            .regression
            .learn(is_live.map(|is_live| is_live.then_some(0)))
        {
            for class in 0..self.exponents.len() {
                self.exponents[class] = exponent(self.regression.variance(class));
                self.contexts[class] = context(self.exponents[class]) as u8;
            }
        }
    }
}

/// Walking rows after the first one.
impl Walk {
    /// The numbers of the first row.
    #[inline(always)]
    fn first(first: &Option<Vec<i32>>) -> &[i32] {
        first.as_ref().expect("a first row")
    }

    /// Subtracts predictions from numbers less those of the first row.
    #[inline(always)]
    fn subtract<const N: usize>(&mut self, rows: &mut [[i32; N]]) {
        let walked = self.regression.walk([0; N], &mut Subtracting(rows));
        walked.expect("nothing is read");
    }

    /// Subtracts predictions from numbers of bits, and takes their contexts.
    #[inline(always)]
    fn subtract_bits<const N: usize>(
        &mut self,
        float: impl Float,
        rows: &mut [[i32; N]],
        contexts: &mut [[u16; N]],
    ) {
        let mut visitor = SubtractingBits {
            float,
            is_fitted: self.regression.is_fitted(),
            first: Self::first(&self.first),
            exponents: &self.exponents,
            rows,
            contexts,
        };
        let walked = self.regression.walk([0; N], &mut visitor);
        walked.expect("nothing is read");
    }

    /// Adds predictions to differences, in the rows that are live.
    #[inline(always)]
    fn add<const N: usize>(&mut self, is_live: [bool; N], rows: &mut [[i32; N]]) {
        let mut visitor = Adding {
            is_live,
            first: Self::first(&self.first),
            rows,
        };
        let walked = self.regression.walk([0; N], &mut visitor);
        walked.expect("nothing is read");
    }

    /// Reads numbers of bits, in the rows that are live.
    #[inline(always)]
    fn read_bits<const N: usize>(
        &mut self,
        float: impl Float,
        contexts: &ContextDecoder,
        tables: &Tables<impl Watch>,
        streams: &mut [Stream; N],
        is_live: [bool; N],
        rows: &mut [[i32; N]],
    ) -> Result<(), Corrupt> {
        let mut visitor = BitsReader {
            float,
            streams,
            tables,
            contexts,
            is_live,
            is_fitted: self.regression.is_fitted(),
            first: Self::first(&self.first),
            exponents: &self.exponents,
            rows,
        };
        self.regression.walk([0; N], &mut visitor)
    }
}

/// Numbers of bits as the regression sees them if they are predicted as values.
#[inline(always)]
pub(super) fn features_of_bits<const N: usize>(
    float: impl Float,
    numbers: [i32; N],
    first: i32,
) -> [f32; N] {
    let first = finite(float.value(first));
    let mut features = [0.0; N];
    for row in 0..N {
        features[row] = finite(finite(float.value(numbers[row])) - first);
    }
    features
}

/// Predictions of numbers of bits in `N` rows, and their contexts.
#[inline(always)]
pub(super) fn predict_bits<const N: usize>(
    float: impl Float,
    first: i32,
    expectations: [f32; N],
    is_fitted: bool,
    of_variance: i32,
) -> ([i32; N], [u16; N]) {
    /// The exponent in the bits of 0 and of subnormal numbers, below all others.
    const LEAST_EXPONENT: i32 = f32::MIN_EXP - 2;
    let first = finite(float.value(first));
    let (mut predicted, mut exponents) = ([0; N], [0; N]);
    let mut contexts = [NOT_FITTED as u16; N];
    for row in 0..N {
        let expected = finite(first + expectations[row]);
        predicted[row] = float.number(expected);
        exponents[row] =
            (expected.abs().to_bits() >> (f32::MANTISSA_DIGITS - 1)) as i32 + LEAST_EXPONENT;
    }
    if is_fitted {
        let spread = (of_variance >> 1).max(float.least_exponent());
        if spread < LEAST_EXPONENT {
            for row in 0..N {
                exponents[row] = exponent(f64::from(finite(first + expectations[row])));
            }
        }
        for row in 0..N {
            // A unit in the last place grows with the value; near 0, the spread counts.
            let size = exponents[row].max(spread);
            contexts[row] = context(of_variance - 2 * size + 46) as u16;
        }
    }
    (predicted, contexts)
}

/// Reads numbers of bits, whose contexts depend on those before, in the rows that are live.
struct BitsReader<'a, 'b, W, F, const N: usize> {
    float: F,
    streams: &'a mut [Stream<'b>; N],
    tables: &'a Tables<W>,
    contexts: &'a ContextDecoder,
    is_live: [bool; N],
    is_fitted: bool,
    first: &'a [i32],
    exponents: &'a [i32],
    rows: &'a mut [[i32; N]],
}

impl<W: Watch, F: Float, const N: usize> Visitor<N> for BitsReader<'_, '_, W, F, N> {
    const IS_SPARSE: bool = false;

    #[inline(always)]
    fn features(&mut self, class: usize, expectations: [f32; N]) -> Result<[f32; N], Corrupt> {
        let (first, of_variance) = (self.first[class], self.exponents[class]);
        let (predicted, contexts) =
            predict_bits(self.float, first, expectations, self.is_fitted, of_variance);
        let mut numbers = self.rows[class];
        for row in 0..N {
            if self.is_live[row] {
                let (context, stream) = (contexts[row].into(), &mut self.streams[row]);
                let number = self.contexts.number(context, self.tables, stream)?;
                numbers[row] = predicted[row].wrapping_add(from_zigzag(number));
            }
        }
        self.rows[class] = numbers;
        Ok(features_of_bits(self.float, numbers, first))
    }
}

/// Adds predictions to differences, in the rows that are live.
struct Adding<'a, const N: usize> {
    is_live: [bool; N],
    first: &'a [i32],
    rows: &'a mut [[i32; N]],
}

impl<const N: usize> Visitor<N> for Adding<'_, N> {
    const IS_SPARSE: bool = false;

    #[inline(always)]
    fn features(&mut self, class: usize, expectations: [f32; N]) -> Result<[f32; N], Corrupt> {
        let (first, differences) = (self.first[class], self.rows[class]);
        let (mut numbers, mut features) = (differences, [0.0; N]);
        let mut are_small = true;
        for row in 0..N {
            let (expectation, difference) = (expectations[row], differences[row]);
            are_small &= expectation.abs() < SMALL && difference.unsigned_abs() < SMALL as u32;
            // Small numbers need not become integers before the next expectation.
            features[row] = (expectation + MAGIC) - MAGIC + difference as f32;
            let rounded = small_to_integer(expectation);
            numbers[row] = first.wrapping_add(rounded.wrapping_add(difference));
        }
        if !are_small {
            for row in 0..N {
                let feature = round(expectations[row]).wrapping_add(differences[row]);
                features[row] = feature as f32;
                numbers[row] = first.wrapping_add(feature);
            }
        }
        let rows = self.rows[class].iter_mut().zip(numbers);
        for ((number, decoded), is_live) in rows.zip(self.is_live) {
            if is_live {
                *number = decoded;
            }
        }
        Ok(features)
    }
}

/// Subtracts predictions from numbers less those of the first row.
struct Subtracting<'a, const N: usize>(&'a mut [[i32; N]]);

impl<const N: usize> Visitor<N> for Subtracting<'_, N> {
    const IS_SPARSE: bool = false;

    #[inline(always)]
    fn features(&mut self, class: usize, expectations: [f32; N]) -> Result<[f32; N], Corrupt> {
        let numbers = self.0[class];
        let mut features = [0.0; N];
        let mut differences = [0; N];
        let mut are_small = true;
        for row in 0..N {
            are_small &= expectations[row].abs() < SMALL;
            features[row] = numbers[row] as f32;
            differences[row] = numbers[row].wrapping_sub(small_to_integer(expectations[row]));
        }
        if !are_small {
            for row in 0..N {
                differences[row] = numbers[row].wrapping_sub(round(expectations[row]));
            }
        }
        self.0[class] = differences;
        Ok(features)
    }
}

/// Subtracts predictions from numbers of bits, and takes their contexts.
struct SubtractingBits<'a, F, const N: usize> {
    float: F,
    is_fitted: bool,
    first: &'a [i32],
    exponents: &'a [i32],
    rows: &'a mut [[i32; N]],
    contexts: &'a mut [[u16; N]],
}

impl<F: Float, const N: usize> Visitor<N> for SubtractingBits<'_, F, N> {
    const IS_SPARSE: bool = false;

    #[inline(always)]
    fn features(&mut self, class: usize, expectations: [f32; N]) -> Result<[f32; N], Corrupt> {
        let (first, of_variance) = (self.first[class], self.exponents[class]);
        let (predicted, contexts) =
            predict_bits(self.float, first, expectations, self.is_fitted, of_variance);
        let numbers = self.rows[class];
        for row in 0..N {
            self.rows[class][row] = numbers[row].wrapping_sub(predicted[row]);
        }
        self.contexts[class] = contexts;
        Ok(features_of_bits(self.float, numbers, first))
    }
}

/// Codes the rows of `matrix` in `N` bitstreams; bit for bit those marked in `is_exact`, and rows without numbers,
/// which get marked.
#[inline(always)]
pub fn encode<const N: usize>(
    matrix: Rows<'_>,
    is_exact: &mut [bool],
    numbers: Numbers,
    keep_top: usize,
    coder: Coder,
) -> Coded {
    let n_classes = matrix.n_classes();
    let mut walk = Walk::new(numbers, n_classes, matrix.n_rows());
    let mut order = Order::new(keep_top, n_classes, false, ORDER);
    let mut sequences = Sequence::several(N, matrix.values().len(), LEVELS);
    let mut numbers_of_rows = vec![vec![0; n_classes]; N];
    let is_bits = matches!(numbers, Numbers::Bits(_));
    // By class: numbers, less those of the first row unless they are bits; then their differences from predictions.
    let mut differences = vec![[0; N]; n_classes];
    let mut contexts = vec![[0; N]; if is_bits { n_classes } else { 0 }];
    let batches = matrix.values().chunks(N * n_classes);
    for (rows, is_exact) in batches.zip(is_exact.chunks_mut(N)) {
        let rows = rows.chunks_exact(n_classes);
        // The rows whose numbers are predicted.
        let mut is_live = [false; N];
        for (index, (row, is_exact)) in rows.clone().zip(is_exact.iter_mut()).enumerate() {
            let (sequence, row_numbers) = (&mut sequences[index], &mut numbers_of_rows[index]);
            *is_exact |= !numbers.quantize_row(row, row_numbers);
            sequence.push(Symbol::new(HEAD, u32::from(*is_exact)));
            if *is_exact {
                Symbol::of_bits(RAW, row).for_each(|symbol| sequence.push(symbol));
                continue;
            }
            let Some(first) = &walk.first else {
                let mut before = 0;
                for &number in row_numbers.iter() {
                    sequence.push_number(FIRST_ROW, zigzag(number.wrapping_sub(before)));
                    before = number;
                }
                walk.start(row_numbers);
                continue;
            };
            is_live[index] = true;
            let known = row_numbers.iter().zip(first);
            for (of_rows, (&number, &first)) in differences.iter_mut().zip(known) {
                of_rows[index] = number.wrapping_sub(if is_bits { 0 } else { first });
            }
        }
        if is_live != [false; N] {
            match numbers {
                Numbers::Bits(float) if float.is_f32() => {
                    walk.subtract_bits(Float32, &mut differences, &mut contexts);
                }
                Numbers::Bits(float) => walk.subtract_bits(float, &mut differences, &mut contexts),
                _ => walk.subtract(&mut differences),
            }
        }
        for (index, (row, &is_exact)) in rows.zip(is_exact.iter()).enumerate() {
            let (sequence, row_numbers) = (&mut sequences[index], &numbers_of_rows[index]);
            if is_live[index] {
                let differences = differences.iter().map(|of_rows| zigzag(of_rows[index]));
                if is_bits {
                    let contexts = contexts.iter().map(|of_rows| of_rows[index].into());
                    sequence.extend(contexts.zip(differences));
                } else {
                    let contexts = walk.contexts.iter().map(|&context| context.into());
                    sequence.extend(contexts.zip(differences));
                }
            }
            if !is_exact && !numbers.is_exact() {
                order.encode(row, row_numbers, None, |symbol| sequence.push(symbol));
            }
        }
        if is_live != [false; N] {
            walk.learn(is_live);
        }
    }
    let groups = Groups::of(&mut sequences, 1, groups_alphabet(keep_top), coder);
    Coded {
        alphabets: alphabets(keep_top, groups.alphabets()),
        choices: BitWriter::new(),
        rows: CodedRows::InContexts(groups, sequences),
    }
}

/// Decodes the rows of a block.
///
/// # Errors
/// [`Corrupt`] if the payload is not what an encoder writes.
#[inline(always)]
pub fn decode<const N: usize>(
    reader: &mut BitReader,
    n_classes: usize,
    numbers: Numbers,
    keep_top: usize,
    values: &mut [f32],
    watch: impl Watch,
) -> Result<(), Corrupt> {
    let contexts = ContextDecoder::read_from(reader, 1, groups_alphabet(keep_top), LEVELS)?;
    let alphabets = alphabets(keep_top, contexts.alphabets());
    let (tables, readers) = Tables::read_from(reader, &alphabets, watch)?;
    let mut streams = readers.map(|reader| contexts.stream(reader));
    let mut walk = Walk::new(numbers, n_classes, values.len() / n_classes);
    let mut order = Order::new(keep_top, n_classes, false, ORDER);
    let mut numbers_of_rows = vec![[0; N]; n_classes];
    let is_bits = matches!(numbers, Numbers::Bits(_));
    for rows in values.chunks_mut(N * n_classes) {
        let mut is_exact = [true; N];
        let mut is_live = [false; N];
        for (index, row) in rows.chunks_exact_mut(n_classes).enumerate() {
            let stream = &mut streams[index];
            if tables.number(HEAD, &mut stream.reader)? == 1 {
                tables.bits(RAW, &mut stream.reader, row)?;
                continue;
            }
            is_exact[index] = false;
            is_live[index] = walk.first.is_some();
            if is_live[index] {
                continue;
            }
            let mut before = 0i32;
            for of_rows in &mut numbers_of_rows {
                let number = contexts.number(FIRST_ROW, &tables, stream)?;
                before = before.wrapping_add(from_zigzag(number));
                of_rows[index] = before;
            }
            let of_row = numbers_of_rows.iter().map(|of_rows| of_rows[index]);
            walk.start(&of_row.collect::<Vec<_>>());
        }
        // Reading all differences first gives the processor more to do at once; but contexts of bits depend on earlier
        // numbers.
        if !is_bits {
            for (of_rows, &context) in numbers_of_rows.iter_mut().zip(&walk.contexts) {
                let group = contexts.group(context.into(), &tables);
                if is_live == [true; N] {
                    *of_rows = group.numbers(&mut streams)?.map(from_zigzag);
                    continue;
                }
                for row in 0..N {
                    if is_live[row] {
                        of_rows[row] = from_zigzag(group.number(&mut streams[row])?);
                    }
                }
            }
        }
        if is_live != [false; N] {
            let rows = &mut numbers_of_rows;
            match numbers {
                Numbers::Bits(float) if float.is_f32() => {
                    walk.read_bits(Float32, &contexts, &tables, &mut streams, is_live, rows)?;
                }
                Numbers::Bits(float) => {
                    walk.read_bits(float, &contexts, &tables, &mut streams, is_live, rows)?;
                }
                _ => walk.add(is_live, rows),
            }
            walk.learn(is_live);
        }
        for (index, row) in rows.chunks_exact_mut(n_classes).enumerate() {
            if is_exact[index] {
                continue;
            }
            let of_row = numbers_of_rows.iter().map(|of_rows| of_rows[index]);
            numbers.dequantize_row(of_row, row);
            if !numbers.is_exact() {
                order.decode(row, None, &tables, &mut streams[index].reader)?;
            }
        }
    }
    streams
        .into_iter()
        .try_for_each(|stream| tables.finish(stream.reader))
}

#[cfg(test)]
mod tests {
    use super::super::quantizer::ordered;
    use super::*;

    #[test]
    fn bits_are_predicted_in_the_contexts_of_the_specification() {
        let mut state = 1u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32
        };
        let (mut n_small, mut n_slow) = (0, 0);
        for _ in 0..300_000 {
            // Any value, and numbers that are subnormal, 0, or next to that of the first row.
            let first = f32::from_bits(random() >> (random() % 32));
            let expectations: [f32; 4] = std::array::from_fn(|_| match random() % 4 {
                0 => -first,
                1 => f32::from_bits(random() >> 9),
                2 => first.next_up() - first,
                _ => f32::from_bits(random()),
            });
            let v = (random() % 2047) as i32 - 1023;
            let (predicted, contexts) =
                predict_bits(Float32, ordered(first), expectations, true, v);
            for row in 0..4 {
                let g = finite(finite(first) + expectations[row]);
                let of_g = match g == 0.0 {
                    true => -1023,
                    false => f64::from(g.abs()).log2().floor() as i32,
                };
                let context = v - 2 * of_g.max(v.div_euclid(2)) + 54;
                assert_eq!(predicted[row], ordered(g));
                assert_eq!(i32::from(contexts[row]), context.clamp(0, 93), "{g} {v}");
                n_small += usize::from(g.is_subnormal());
                n_slow += usize::from(v < -254);
            }
            let (_, contexts) = predict_bits(Float32, ordered(first), expectations, false, v);
            assert_eq!(contexts, [NOT_FITTED as u16; 4]);
        }
        assert!(n_small > 1000 && n_slow > 1000);
    }
}
