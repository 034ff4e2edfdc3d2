//! Rows of probabilities in which many classes live: each class is coded in the context of what is
//! expected of it (FORMAT.md, section 8).
//!
//! The head tells the top class, and whether the row is certain: the top class alone, with all of the
//! mass. Otherwise every other class follows in order. A [`Regression`] on the rows and classes already
//! known gives what to expect of its level; the expectation, rounded, is the context. The level of the
//! top class comes last: it is nearly what is left of the mass.

use super::Corrupt;
use super::bitstream::{BitReader, Coder};
use super::block::{ClassSymbols, Coded, CodedRows, Symbol, Tables};
use super::codebook::Alphabet;
use super::contexts::{ContextDecoder, Groups, N_POSITIONS, Sequence, Stream};
use super::fineness::{self, FinenessFinder, Need};
use super::meter::{Part, Watch};
use super::order::Order;
use super::quantizer::{Root, Uniform};
use super::regression::{Regression, Ridge, Visitor};
use super::tokens::{from_zigzag, zigzag};
use crate::matrix::{Rows, argmax};

const HEAD: usize = 0;
const RAW: usize = 1;
const ORDER: usize = 2;

/// Contexts of expectations; then come those of the top level, by the number of other levels, and that of
/// the fineness.
const N_EXPECTATIONS: usize = 90;
const N_RESTS: usize = 5;
const FINENESS: usize = N_EXPECTATIONS + N_RESTS;

pub(super) const RIDGE: Ridge = Ridge {
    absolute: 64.0,
    relative: 0.0,
};

/// How probabilities become levels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Levels {
    /// In the same steps in all rows.
    Uniform(Uniform),
    /// As square roots, in each row as fine as its divergence asks for; encoders keep it below so many
    /// bits.
    Root {
        /// The bound in bits; decoders do not look at it.
        max_kl: f64,
    },
}

/// A level as the regression sees it: log2(1 + 4 level), linear between powers of two; 0 for 0, which is
/// farther from 1 than 1 is from 2.
#[inline(always)]
pub(super) fn feature(level: u32) -> f32 {
    match FEATURES.get(level as usize) {
        Some(&feature) => feature,
        None => compute_feature(level),
    }
}

/// The features of the levels that nearly all classes have: looking them up is faster.
static FEATURES: [f32; 256] = {
    let mut features = [0.0; 256];
    let mut level = 0;
    while level < features.len() {
        features[level] = compute_feature(level as u32);
        level += 1;
    }
    features
};

const fn compute_feature(level: u32) -> f32 {
    let number = 4 * level + 1;
    let exponent = number.ilog2();
    let power = 1u32 << exponent;
    exponent as f32 + (number - power) as f32 / power as f32
}

/// Bands of contexts: of variances below 0.1, 0.3, 1, and above. Format-stable.
pub(super) const N_BANDS: usize = 4;

/// The first context of a class whose features have such a variance about their expectations.
pub(super) fn first_context(variance: f64) -> u16 {
    let n_below = [0.1, 0.3, 1.0].map(|least| usize::from(variance >= least));
    (n_below.iter().sum::<usize>() * N_POSITIONS) as u16
}

/// The context of an expectation within its band: from below 0 to above 22 in steps of a quarter.
/// Format-stable.
#[inline(always)]
pub(super) fn position(expectation: f32) -> usize {
    // A cast of a float saturates.
    ((expectation * 4.0 + 2.5) as u8)
        .min(N_EXPECTATIONS as u8 - 1)
        .into()
}

/// The [`position`]s of several expectations, by operations that vectors have as well.
#[inline(always)]
fn positions<const N: usize>(expectations: [f32; N]) -> [u16; N] {
    /// Added to this, small numbers become integers in the lowest bits.
    const MAGIC: f32 = (1 << 23) as f32;
    const LAST: f32 = (N_EXPECTATIONS - 1) as f32;
    let mut positions = [0; N];
    for (position, expectation) in positions.iter_mut().zip(expectations) {
        let quarters = expectation * 4.0 + 2.5;
        let quarters = if quarters > 0.0 { quarters } else { 0.0 }.min(LAST);
        let nearest = quarters + MAGIC;
        let is_above = nearest - MAGIC > quarters;
        *position = ((nearest.to_bits() - MAGIC.to_bits()) - u32::from(is_above)) as u16;
    }
    positions
}

/// What encoder and decoder know alike of the levels of the other classes.
struct Expecting {
    regression: Regression,
    /// Of each class.
    first_contexts: Vec<u16>,
}

impl Expecting {
    fn new(n_classes: usize, n_rows: usize) -> Self {
        Self {
            regression: Regression::new(n_classes, n_rows, true, RIDGE),
            first_contexts: vec![0; n_classes],
        }
    }

    /// Learns those of the rows at hand that have a top class here.
    fn learn<const N: usize>(&mut self, tops: [Option<usize>; N]) {
        if self.regression.learn(tops) {
            for (class, first) in self.first_contexts.iter_mut().enumerate() {
                *first = first_context(self.regression.variance(class));
            }
        }
    }
}

/// Finds the contexts of levels that are known, as an encoder knows them: of `N` rows side by side, though a decoder
/// has only one at a time.
struct ContextFinder<const N: usize> {
    expecting: Expecting,
    /// Of the rows at hand, by class.
    features: Vec<[f32; N]>,
    contexts: Vec<[u16; N]>,
}

impl<const N: usize> ContextFinder<N> {
    fn new(n_classes: usize, n_rows: usize) -> Self {
        Self {
            expecting: Expecting::new(n_classes, n_rows),
            features: vec![[0.0; N]; n_classes],
            contexts: vec![[0; N]; n_classes],
        }
    }

    /// Finds the contexts of all levels in some of the rows, each given by its number and its top class.
    #[inline(always)]
    fn find(&mut self, mut rows: &[(usize, usize)], levels: &[u32], contexts: &mut [u16]) {
        let n_classes = self.features.len();
        while !rows.is_empty() {
            // A fit comes after the same row as in a decoder.
            let n_rows_to_fit = self.expecting.regression.n_rows_to_fit();
            let (here, later) = rows.split_at(rows.len().min(N).min(n_rows_to_fit));
            rows = later;
            let mut tops = [here[0].1; N];
            let mut learned = [None; N];
            if here.len() < N {
                self.features.fill([0.0; N]);
            }
            for (side, &(row, top)) in here.iter().enumerate() {
                tops[side] = top;
                learned[side] = Some(top);
                let levels = &levels[row * n_classes..][..n_classes];
                for (features, &level) in self.features.iter_mut().zip(levels) {
                    features[side] = feature(level);
                }
                self.features[top][side] = 0.0;
            }
            let mut visitor = KnownLevels {
                features: &self.features,
                first_contexts: &self.expecting.first_contexts,
                contexts: &mut self.contexts,
            };
            let walked = self.expecting.regression.walk(tops, &mut visitor);
            walked.expect("nothing is read");
            for (side, &(row, _)) in here.iter().enumerate() {
                let contexts = &mut contexts[row * n_classes..][..n_classes];
                for (context, of_sides) in contexts.iter_mut().zip(&self.contexts) {
                    *context = of_sides[side];
                }
            }
            self.expecting.learn(learned);
        }
    }
}

/// Shows the levels of all classes, and takes their contexts.
struct KnownLevels<'a, const N: usize> {
    features: &'a [[f32; N]],
    first_contexts: &'a [u16],
    contexts: &'a mut [[u16; N]],
}

impl<const N: usize> Visitor<N> for KnownLevels<'_, N> {
    const IS_SPARSE: bool = true;

    #[inline(always)]
    fn features(&mut self, class: usize, expectations: [f32; N]) -> Result<[f32; N], Corrupt> {
        let first = self.first_contexts[class];
        let contexts = positions(expectations).map(|position| first + position);
        self.contexts[class] = contexts;
        Ok(self.features[class])
    }
}

/// The context of the top level, by the number of other levels above 0.
pub(super) fn rest_context(n_others: usize) -> usize {
    N_EXPECTATIONS + ((n_others + 1).ilog2() as usize).min(N_RESTS - 1)
}

/// What the levels of the other classes tell of the top level.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Others {
    /// How many are above 0.
    pub(super) n: usize,
    pub(super) largest: u32,
    sum: u64,
    sum_of_squares: u64,
}

impl Others {
    /// Those of a row with these levels.
    #[inline(always)]
    pub(super) fn of(levels: &[u32], top: usize) -> Self {
        let mut others = Self::default();
        // Without branches, so that the compiler can turn it into vector instructions.
        for levels in [&levels[..top], &levels[top + 1..]] {
            for &level in levels {
                others.add(level);
            }
        }
        others
    }

    #[inline(always)]
    pub(super) fn add(&mut self, level: u32) {
        self.n += usize::from(level > 0);
        self.largest = self.largest.max(level);
        self.sum += u64::from(level);
        self.sum_of_squares += u64::from(level) * u64::from(level);
    }

    /// What the top level most likely is: the mass left, but not below the largest other level.
    pub(super) fn likely_top(&self, scale: Scale) -> u32 {
        let left = match scale {
            Scale::Uniform(uniform) => {
                u64::from(uniform.n_levels()).saturating_sub(self.sum) as u32
            }
            Scale::Root(root) => root.likely_top(self.sum_of_squares),
        };
        left.max(self.largest)
    }
}

/// The quantizer of a row.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scale {
    Uniform(Uniform),
    Root(Root),
}

impl Scale {
    /// The largest level that a decoder takes.
    pub(super) fn max_level(self) -> u32 {
        match self {
            Self::Uniform(uniform) => uniform.n_levels(),
            Self::Root(_) => 1 << 21,
        }
    }
}

/// The alphabets, given those of the groups.
fn alphabets(n_classes: usize, keep_top: usize, of_groups: Vec<Alphabet>) -> Vec<Alphabet> {
    let n_heads = 2 * ClassSymbols::new(n_classes).count() + 1;
    let mut alphabets = vec![
        Alphabet::of_symbols(n_heads).telling(Part::TopClass),
        Alphabet::of_symbols(1).telling(Part::ExactRows),
    ];
    let of_order = Alphabet::of_levels().telling(Part::Order);
    alphabets.resize(groups_alphabet(keep_top), of_order);
    alphabets.extend(of_groups);
    alphabets
}

fn groups_alphabet(keep_top: usize) -> usize {
    ORDER + Order::n_alphabets(keep_top, true)
}

/// What an encoder knows of a row that is not stored bit for bit, beside its levels.
pub(super) struct Quantized {
    pub(super) top: usize,
    pub(super) scale: Scale,
    pub(super) others: Others,
}

impl Quantized {
    /// Fills in the levels of row number `index` of a block, whose `needs` the finder has found.
    #[inline(always)]
    pub(super) fn of(
        row: &[f32],
        levels: Levels,
        finder: &mut FinenessFinder,
        needs: &[Need],
        index: usize,
        row_levels: &mut [u32],
    ) -> Self {
        let top = argmax(row);
        let scale = match levels {
            Levels::Uniform(uniform) => {
                for (level, &value) in row_levels.iter_mut().zip(row) {
                    *level = uniform.quantize(value);
                }
                Scale::Uniform(uniform)
            }
            Levels::Root { .. } => Scale::Root(finder.quantize(row, top, needs[index], row_levels)),
        };
        let others = Others::of(row_levels, top);
        Self { top, scale, others }
    }

    /// How far the top level is below what it most likely is.
    pub(super) fn distance(&self, row_levels: &[u32]) -> i32 {
        self.others.likely_top(self.scale) as i32 - row_levels[self.top] as i32
    }

    /// Whether the top class is alone, with all of the mass.
    pub(super) fn is_certain(&self, row_levels: &[u32]) -> bool {
        self.others.n == 0 && self.distance(row_levels) == 0
    }
}

/// Rows that an encoder walks side by side if there are many.
pub const N_SIDES: usize = 8;

/// Codes the rows of `matrix`, those marked in `is_exact` bit for bit; `N` of them side by side, which changes
/// nothing but the time that it takes.
#[inline(always)]
pub fn encode<const N: usize>(
    matrix: Rows<'_>,
    is_exact: &[bool],
    levels: Levels,
    keep_top: usize,
    coder: Coder,
) -> Coded {
    // Rows that take each step together.
    let n_together = 8 * N;
    let n_classes = matrix.n_classes();
    let class_symbols = ClassSymbols::new(n_classes);
    let mut context_finder = ContextFinder::<N>::new(n_classes, matrix.n_rows());
    let mut order = Order::new(keep_top, n_classes, true, ORDER);
    let mut finder = FinenessFinder::new();
    let mut last_fineness = 0;
    let needs = finder.needs(matrix, is_exact, levels, |_| 0);
    let tells_certain = !fineness::are_rarely_certain(&needs, n_classes);
    let [mut sequence] = Sequence::several(matrix.values().len());

    let mut levels_of_rows = vec![0; n_classes * n_together.min(matrix.n_rows())];
    let mut contexts = vec![0; levels_of_rows.len()];
    // With whether they are told to be certain.
    let mut quantized: Vec<Option<(Quantized, bool)>> = Vec::new();
    let mut live = Vec::new();
    let batches = matrix.values().chunks(n_classes * n_together);
    for (batch, (rows, is_exact)) in batches.zip(is_exact.chunks(n_together)).enumerate() {
        let rows = rows.chunks_exact(n_classes);
        quantized.clear();
        live.clear();
        let row_levels = levels_of_rows.chunks_exact_mut(n_classes);
        for (number, (row, row_levels)) in rows.clone().zip(row_levels).enumerate() {
            if is_exact[number] {
                quantized.push(None);
                continue;
            }
            let index = batch * n_together + number;
            let of_row = Quantized::of(row, levels, &mut finder, &needs, index, row_levels);
            let is_certain = tells_certain && of_row.is_certain(row_levels);
            if !is_certain {
                live.push((number, of_row.top));
            }
            quantized.push(Some((of_row, is_certain)));
        }
        context_finder.find(&live, &levels_of_rows, &mut contexts);
        let row_levels = levels_of_rows.chunks_exact(n_classes);
        let known = row_levels.zip(contexts.chunks_exact(n_classes));
        for ((row, quantized), (row_levels, contexts)) in rows.zip(&quantized).zip(known) {
            let Some((quantized, is_certain)) = quantized else {
                let mark = 2 * class_symbols.count() as u32;
                sequence.push(Symbol::new(HEAD, mark));
                Symbol::of_bits(RAW, row).for_each(|symbol| sequence.push(symbol));
                continue;
            };
            let top = quantized.top;
            let mut head = class_symbols.token(top);
            if *is_certain {
                head.value += class_symbols.count() as u32;
            }
            sequence.push(Symbol::with_extra(HEAD, head));
            if let Scale::Root(root) = quantized.scale {
                sequence.push_number(FINENESS, zigzag(root.fineness() as i32 - last_fineness));
                last_fineness = root.fineness() as i32;
            }
            if !is_certain {
                for others in [0..top, top + 1..n_classes] {
                    let known = contexts[others.clone()].iter().zip(&row_levels[others]);
                    sequence.extend(known.map(|(&context, &level)| (context.into(), level)));
                }
                let context = rest_context(quantized.others.n);
                sequence.push_number(context, zigzag(quantized.distance(row_levels)));
            }
            order.encode(row, row_levels, Some(top), |symbol| sequence.push(symbol));
        }
    }
    let mut sequences = vec![sequence];
    let groups = Groups::of(&mut sequences, N_BANDS, groups_alphabet(keep_top), coder);
    Coded {
        alphabets: alphabets(n_classes, keep_top, groups.alphabets()),
        rows: CodedRows::InContexts(groups, sequences),
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
    levels: Levels,
    keep_top: usize,
    values: &mut [f32],
    watch: impl Watch,
) -> Result<(), Corrupt> {
    let contexts = ContextDecoder::read_from(reader, N_BANDS, groups_alphabet(keep_top))?;
    let alphabets = alphabets(n_classes, keep_top, contexts.alphabets());
    let (tables, [reader]) = Tables::read_from(reader, &alphabets, watch)?;
    let mut decoder = Decoder {
        tables,
        stream: contexts.stream(reader),
        contexts,
        expecting: Expecting::new(n_classes, values.len() / n_classes),
        row_levels: vec![0; n_classes],
    };
    let mut order = Order::new(keep_top, n_classes, true, ORDER);
    let class_symbols = ClassSymbols::new(n_classes);
    let mut fineness = 0;
    for row in values.chunks_exact_mut(n_classes) {
        let reader = &mut decoder.stream.reader;
        let head = decoder.tables.number(HEAD, reader)?;
        if head as usize == 2 * class_symbols.count() {
            decoder.tables.bits(RAW, reader, row)?;
            continue;
        }
        let n_symbols = class_symbols.count() as u32;
        let top = class_symbols.read(head % n_symbols, reader)?;
        let scale = match levels {
            Levels::Uniform(uniform) => Scale::Uniform(uniform),
            Levels::Root { .. } => {
                let stream = &mut decoder.stream;
                let number = decoder.contexts.number(FINENESS, &decoder.tables, stream)?;
                fineness = from_zigzag(number).wrapping_add(fineness);
                Scale::Root(Root::new(fineness)?)
            }
        };
        if head >= n_symbols {
            decoder.row_levels.fill(0);
            decoder.row_levels[top] = Others::default().likely_top(scale);
        } else {
            decoder.levels(top, scale)?;
        }
        match scale {
            Scale::Uniform(uniform) => {
                for (value, &level) in row.iter_mut().zip(&decoder.row_levels) {
                    *value = uniform.dequantize(level);
                }
            }
            Scale::Root(_) => Root::dequantize_row(&decoder.row_levels, row)?,
        }
        let reader = &mut decoder.stream.reader;
        order.decode(row, Some(top), &decoder.tables, reader)?;
    }
    decoder.tables.finish(decoder.stream.reader)
}

struct Decoder<'a, W> {
    tables: Tables<W>,
    stream: Stream<'a>,
    contexts: ContextDecoder,
    expecting: Expecting,
    row_levels: Vec<u32>,
}

impl<W: Watch> Decoder<'_, W> {
    /// Decodes the levels of a row.
    #[inline(always)]
    fn levels(&mut self, top: usize, scale: Scale) -> Result<(), Corrupt> {
        let max_level = scale.max_level();
        let mut visitor = LevelReader {
            stream: &mut self.stream,
            tables: &self.tables,
            contexts: &self.contexts,
            first_contexts: &self.expecting.first_contexts,
            top,
            max_level,
            row_levels: &mut self.row_levels,
            others: Others::default(),
        };
        self.expecting.regression.walk([top], &mut visitor)?;
        let others = visitor.others;
        self.expecting.learn([Some(top)]);
        let context = rest_context(others.n);
        let rest = self
            .contexts
            .number(context, &self.tables, &mut self.stream)?;
        let level = i64::from(others.likely_top(scale)) - i64::from(from_zigzag(rest));
        if !(i64::from(others.largest)..=i64::from(max_level)).contains(&level) {
            return Err(Corrupt("the level of a top class is out of range"));
        }
        self.row_levels[top] = level as u32;
        Ok(())
    }
}

/// Reads the levels of all classes but the top one.
struct LevelReader<'a, 'b, W> {
    stream: &'a mut Stream<'b>,
    tables: &'a Tables<W>,
    contexts: &'a ContextDecoder,
    first_contexts: &'a [u16],
    top: usize,
    max_level: u32,
    row_levels: &'a mut [u32],
    others: Others,
}

impl<W: Watch> Visitor<1> for LevelReader<'_, '_, W> {
    const IS_SPARSE: bool = true;

    #[inline(always)]
    fn features(&mut self, class: usize, [expectation]: [f32; 1]) -> Result<[f32; 1], Corrupt> {
        if class == self.top {
            return Ok([0.0]);
        }
        let context = usize::from(self.first_contexts[class]) + position(expectation);
        let level = self.contexts.number(context, self.tables, self.stream)?;
        if level > self.max_level {
            return Err(Corrupt("a level is out of range"));
        }
        self.row_levels[class] = level;
        if level == 0 {
            return Ok([0.0]);
        }
        self.others.add(level);
        Ok([feature(level)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_side_by_side_become_the_same_symbols() {
        // Live rows, certain ones and such as are stored exactly, in every order.
        let mut state = 1u32;
        let mut random = |n: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % n
        };
        for (n_classes, n_rows) in [(1, 90), (2, 70), (20, 300), (300, 150), (5000, 70)] {
            let mut values = vec![0.0; n_rows * n_classes];
            let mut is_exact = vec![false; n_rows];
            for (row, is_exact) in values.chunks_exact_mut(n_classes).zip(&mut is_exact) {
                *is_exact = random(7) == 0;
                let top = random(n_classes as u32) as usize;
                if random(3) > 0 {
                    for _ in 0..random(30) {
                        row[random(n_classes as u32) as usize] += random(9) as f32;
                    }
                }
                row[top] += 20.0;
                let sum: f32 = row.iter().sum();
                row.iter_mut().for_each(|value| *value /= sum);
            }
            let matrix = Rows::new(n_classes, &values);
            let uniform = Levels::Uniform(Uniform::new(1e-3).unwrap());
            for levels in [uniform, Levels::Root { max_kl: 1e-3 }] {
                let of_one = encode::<1>(matrix, &is_exact, levels, 1, Coder::Huffman);
                let of_sides = encode::<N_SIDES>(matrix, &is_exact, levels, 1, Coder::Huffman);
                let [of_one, of_sides] = [of_one, of_sides].map(|coded| match coded.rows {
                    CodedRows::InContexts(groups, sequences) => groups.symbols(&sequences[0], 0),
                    _ => Vec::new(),
                });
                assert!(of_one.len() > n_rows);
                assert_eq!(of_one, of_sides);
            }
        }
    }

    #[test]
    fn features_are_logarithms_at_powers_of_two_and_lines_between() {
        assert_eq!([0, 1, 4, 16].map(feature), [0.0, 2.25, 4.0625, 6.015625]);
        assert_eq!(feature((1 << 20) - 1), 22.0 - 3.0 / (1 << 21) as f32);
    }

    #[test]
    fn contexts_are_quarters_of_the_expectation_in_bands_of_the_variance() {
        let expectations = [f32::NAN, -9.0, -0.4, 0.0, 0.2, 1.0, 21.75, 99.0];
        assert_eq!(expectations.map(position), [0, 0, 0, 2, 3, 6, 89, 89]);
        let mut n = 0;
        for bits in (0..=u32::MAX).step_by(9973) {
            let near_a_border = (bits % 400) as f32 / 4.0 - 3.125;
            for value in [f32::from_bits(bits), near_a_border, near_a_border.next_up()] {
                assert_eq!(
                    usize::from(positions([value])[0]),
                    position(value),
                    "{value}"
                );
                n += 1;
            }
        }
        assert!(n > 1_000_000);
        let bands = [0.0, 0.1, 0.5, 7.0].map(|variance| first_context(variance) / 96);
        assert_eq!(bands, [0, 1, 2, 3]);
    }
}
