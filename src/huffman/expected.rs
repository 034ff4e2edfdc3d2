//! Rows of probabilities in which many classes live: each class is coded in the context of its expected level
//! (FORMAT.md, section 8).
//!
//! The head has the top class, and whether the row is certain: the top class alone, with all of the mass. Otherwise
//! every other class follows in order. A [`Regression`] on the rows and classes already known gives the expectation of
//! its level, which, rounded, is the context. The level of the top class comes last: it is nearly the mass that is
//! left.

use super::Corrupt;
use super::bitstream::{BitReader, BitWriter, Coder};
use super::codebook::Alphabet;
use super::coded::{Coded, CodedRows, Tables};
use super::contexts::{ContextDecoder, Groups, N_POSITIONS, Sequence, Stream};
use super::fineness::{self, FinenessFinder, Need};
use super::meter::{Part, Watch};
use super::order::Order;
use super::quantizer::{Root, Roots, Uniform};
use super::regression::{Regression, Ridge, Visitor};
use super::sphere::Sphere;
use super::symbols::{Symbol, TopClasses};
use super::tokens::{LEVELS, Tokens, from_zigzag, zigzag};
use crate::matrix::{Rows, argmax};

const HEAD: usize = 0;
const RAW: usize = 1;
const ORDER: usize = 2;

/// Contexts of expectations; after them those of the top level, by the number of other levels, and that of the
/// fineness.
const N_EXPECTATIONS: usize = 90;
const N_RESTS: usize = 5;
const FINENESS: usize = N_EXPECTATIONS + N_RESTS;

pub(super) const RIDGE: Ridge = Ridge {
    absolute: 64.0,
    relative: 0.0,
    own: 0.0,
};

/// The ridge for levels that the regression sees as shares of the level of 1.
const RIDGE_OF_LINEAR: Ridge = Ridge {
    absolute: 0.1,
    relative: 0.0,
    own: 0.0,
};

/// The quantizers by which probabilities become levels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Levels {
    /// Levels in the same steps in all rows.
    Uniform(Uniform),
    /// Levels of square roots, in each row as fine as its divergence asks for; encoders keep that below a bound.
    Root {
        /// The finenesses that rows state.
        roots: Roots,
        /// The bound in bits; decoders do not look at it.
        max_kl: f64,
    },
    /// Levels on a sphere, in the same steps in all rows.
    Sphere(Sphere),
}

impl Levels {
    /// Levels of roots, as a decoder needs to know them.
    pub fn of_roots(roots: Roots) -> Self {
        Self::Root {
            roots,
            max_kl: f64::NAN,
        }
    }

    /// The levels that a model beside a reference has for these; `None` if there is none.
    pub fn beside(self) -> Option<Self> {
        match self {
            Self::Uniform(uniform) => uniform.is_plain().then_some(self),
            Self::Root { roots, .. } if roots.are_linear() => None,
            Self::Root { max_kl, .. } => Some(Self::Root {
                roots: Roots::HALVING,
                max_kl,
            }),
            Self::Sphere(_) => None,
        }
    }

    /// Whether the regression sees levels as shares of the level of 1.
    fn are_linear(self) -> bool {
        matches!(self, Self::Root { roots, .. } if roots.are_linear())
    }

    /// The scheme of tokens of levels.
    fn tokens(self) -> Tokens {
        match self {
            Self::Uniform(uniform) => uniform.tokens(),
            Self::Root { .. } => LEVELS,
            Self::Sphere(sphere) => sphere.tokens(),
        }
    }
}

/// A level as the regression sees it: log2(1 + 4 level), linear between powers of two; 0 for 0, which is farther from
/// the feature of 1 than that is from the feature of 2.
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

/// Computes a feature. The bits of a binary32 hold its logarithm: the exponent and, as a fraction, the way to the next
/// one.
#[inline(always)]
const fn compute_feature(level: u32) -> f32 {
    // Vectors convert signed integers faster. Levels that cannot be may get any feature.
    logarithm(level.wrapping_mul(4).wrapping_add(1) as i32 as f32)
}

/// log2 of a number that is at least 1, linear between powers of two.
#[inline(always)]
const fn logarithm(number: f32) -> f32 {
    const SCALE: f32 = 1.0 / (1 << (f32::MANTISSA_DIGITS - 1)) as f32;
    (number.to_bits() - 1.0f32.to_bits()) as i32 as f32 * SCALE
}

/// Bands of contexts: of variances below 0.1, 0.3, 1, and above. Format-stable.
pub(super) const N_BANDS: usize = 4;

/// The first context of a class whose features have this variance about their expectations.
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

/// The [`position`]s of several expectations, by operations that vectors have; a single one is faster without.
#[inline(always)]
fn positions<const N: usize>(expectations: [f32; N]) -> [u16; N] {
    if N == 1 {
        return expectations.map(|expectation| position(expectation) as u16);
    }
    /// Small numbers added to this become integers in the lowest bits.
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

/// How the regression sees the levels of `N` rows.
trait Features<const N: usize>: Copy {
    /// The features of rows with these quantizers, `None` for rows without one.
    fn of_rows(scales: [Option<Scale>; N]) -> Self;

    /// The features of levels of a class.
    fn features(self, levels: [u32; N]) -> [f32; N];

    /// The feature of the level of one row.
    fn feature(self, row: usize, level: u32) -> f32;

    /// The [`position`]s of expectations of features.
    fn positions(self, expectations: [f32; N]) -> [u16; N];
}

/// Features that are logarithms of levels: [`feature`].
#[derive(Clone, Copy)]
struct Logarithms;

impl<const N: usize> Features<N> for Logarithms {
    #[inline(always)]
    fn of_rows(_: [Option<Scale>; N]) -> Self {
        Self
    }

    #[inline(always)]
    fn features(self, levels: [u32; N]) -> [f32; N] {
        let mut features = [0.0; N];
        for (feature_of, level) in features.iter_mut().zip(levels) {
            // Several at once by operations that vectors have.
            *feature_of = match N {
                1 => feature(level),
                _ => compute_feature(level),
            };
        }
        features
    }

    #[inline(always)]
    fn feature(self, _: usize, level: u32) -> f32 {
        feature(level)
    }

    #[inline(always)]
    fn positions(self, expectations: [f32; N]) -> [u16; N] {
        positions(expectations)
    }
}

/// Features that are shares of the level of 1, which is this in each row. Format-stable.
#[derive(Clone, Copy)]
struct Linear<const N: usize>([f32; N]);

impl<const N: usize> Features<N> for Linear<N> {
    #[inline(always)]
    fn of_rows(scales: [Option<Scale>; N]) -> Self {
        Self(scales.map(|scale| match scale {
            Some(Scale::Root(root)) => root.level_of_one() as f32,
            _ => 1.0,
        }))
    }

    #[inline(always)]
    fn features(self, levels: [u32; N]) -> [f32; N] {
        std::array::from_fn(|row| self.feature(row, levels[row]))
    }

    #[inline(always)]
    fn feature(self, row: usize, level: u32) -> f32 {
        level as i32 as f32 / self.0[row]
    }

    #[inline(always)]
    fn positions(self, expectations: [f32; N]) -> [u16; N] {
        positions(std::array::from_fn(|row| {
            let level = expectations[row] * self.0[row];
            // A comparison that is false for NaN.
            let level = if level > 0.0 { level } else { 0.0 };
            logarithm(4.0 * level + 1.0)
        }))
    }
}

/// The expectations of other classes' levels, as encoder and decoder both know them.
struct Expecting {
    regression: Regression,
    /// The first context of each class.
    first_contexts: Vec<u16>,
}

impl Expecting {
    fn new(n_classes: usize, n_rows: usize, levels: Levels, are_after: bool) -> Self {
        let ridge = match levels.are_linear() {
            true => RIDGE_OF_LINEAR,
            false => RIDGE,
        };
        let regression = Regression::new(n_classes, n_rows, true, ridge);
        Self {
            regression: match are_after {
                true => regression.with_running_means(),
                false => regression,
            },
            first_contexts: vec![0; n_classes],
        }
    }

    /// Learns the rows at hand that have a top class here.
    fn learn<const N: usize>(&mut self, tops: [Option<usize>; N]) {
        if self.regression.learn(tops) {
            for (class, first) in self.first_contexts.iter_mut().enumerate() {
                *first = first_context(self.regression.variance(class));
            }
        }
    }
}

/// Walks the rows that have a top class here, if there are any.
#[inline(always)]
fn walk<const N: usize>(
    regression: &mut Regression,
    tops: [Option<usize>; N],
    visitor: &mut impl Visitor<N>,
) -> Result<(), Corrupt> {
    match tops.into_iter().flatten().next() {
        // The other rows are walked as if they had that one.
        Some(any) => regression.walk(tops.map(|top| top.unwrap_or(any)), visitor),
        None => Ok(()),
    }
}

/// Finds the contexts of known levels, for an encoder: of `N` rows side by side, even where a decoder has only one at a
/// time.
struct ContextFinder<const N: usize> {
    expecting: Expecting,
    /// By class, the features and contexts of all rows at hand.
    features: Vec<[f32; N]>,
    contexts: Vec<[u16; N]>,
    /// The contexts row after row.
    contexts_of_rows: Vec<u16>,
}

impl<const N: usize> ContextFinder<N> {
    fn new(n_classes: usize, n_rows: usize, levels: Levels, are_after: bool) -> Self {
        Self {
            expecting: Expecting::new(n_classes, n_rows, levels, are_after),
            features: vec![[0.0; N]; n_classes],
            contexts: vec![[0; N]; n_classes],
            contexts_of_rows: vec![0; N * n_classes],
        }
    }

    /// Finds the contexts of all levels of the next rows that have a top class here. If a decoder does not take these
    /// rows together, expectations may change after each of them.
    #[inline(always)]
    fn find(
        &mut self,
        features: impl Features<N>,
        tops: [Option<usize>; N],
        levels_of_rows: &[u32],
        are_together: bool,
    ) {
        let n_classes = self.features.len();
        self.features.fill([0.0; N]);
        for (side, row_levels) in levels_of_rows.chunks_exact(n_classes).enumerate() {
            if let Some(top) = tops[side] {
                for (of_class, &level) in self.features.iter_mut().zip(row_levels) {
                    of_class[side] = features.feature(side, level);
                }
                self.features[top][side] = 0.0;
            }
        }
        let mut to_walk = tops;
        while to_walk != [None; N] {
            let mut tops = to_walk;
            if !are_together {
                let live = tops.iter_mut().filter(|top| top.is_some());
                live.skip(self.expecting.regression.n_rows_to_change())
                    .for_each(|top| *top = None);
            }
            let mut visitor = KnownLevels {
                scheme: features,
                features: &self.features,
                first_contexts: &self.expecting.first_contexts,
                contexts: &mut self.contexts,
            };
            let regression = &mut self.expecting.regression;
            walk(regression, tops, &mut visitor).expect("nothing is read");
            let rows = self.contexts_of_rows.chunks_exact_mut(n_classes);
            for (side, row_contexts) in rows.enumerate() {
                if tops[side].is_some() {
                    to_walk[side] = None;
                    for (context, of_rows) in row_contexts.iter_mut().zip(&self.contexts) {
                        *context = of_rows[side];
                    }
                }
            }
            self.expecting.learn(tops);
        }
    }
}

/// Shows the levels of all classes, and takes their contexts.
struct KnownLevels<'a, F, const N: usize> {
    scheme: F,
    features: &'a [[f32; N]],
    first_contexts: &'a [u16],
    contexts: &'a mut [[u16; N]],
}

impl<F: Features<N>, const N: usize> Visitor<N> for KnownLevels<'_, F, N> {
    const IS_SPARSE: bool = true;

    #[inline(always)]
    fn features(&mut self, class: usize, expectations: [f32; N]) -> Result<[f32; N], Corrupt> {
        let first = self.first_contexts[class];
        let positions = self.scheme.positions(expectations);
        self.contexts[class] = positions.map(|position| first + position);
        Ok(self.features[class])
    }
}

/// The context of the top level, by the number of other levels above 0.
pub(super) fn rest_context(n_others: usize) -> usize {
    N_EXPECTATIONS + ((n_others + 1).ilog2() as usize).min(N_RESTS - 1)
}

/// Sums over the levels of the other classes, which the top level depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Others {
    /// The number of levels above 0.
    pub(super) n: usize,
    pub(super) largest: u32,
    sum: u64,
    pub(super) sum_of_squares: u64,
}

impl Others {
    /// The sums of a row with these levels.
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
        // For floats, the square may be too large; it is not used.
        let square = u64::from(level) * u64::from(level);
        self.sum_of_squares = self.sum_of_squares.wrapping_add(square);
    }

    /// The most likely top level: the mass left, but at least the largest other level.
    pub(super) fn likely_top(&self, scale: Scale) -> u32 {
        let left = match scale {
            Scale::Uniform(uniform) => {
                u64::from(uniform.n_levels()).saturating_sub(self.sum) as u32
            }
            Scale::Root(root) => root.likely_top(self.sum_of_squares),
            // The sphere has no top level.
            Scale::Sphere(_) => return 0,
        };
        left.max(self.largest)
    }

    /// The top level that is `distance` below the likely one.
    ///
    /// # Errors
    /// [`Corrupt`] if there is no such level.
    pub(super) fn top(&self, scale: Scale, distance: i32) -> Result<u32, Corrupt> {
        let mut number = i64::from(scale.number(self.likely_top(scale))) - i64::from(distance);
        let numbers = i64::from(scale.number(self.largest))..=i64::from(scale.max_number());
        if scale.floats().is_some() {
            number = number.rem_euclid(numbers.end() + 1);
        }
        match numbers.contains(&number) {
            true => Ok(scale.level(number as u32)),
            false => Err(Corrupt("the level of a top class is out of range")),
        }
    }
}

/// The largest level of a root that a decoder accepts. Format-stable.
pub(super) const MAX_LEVEL_OF_ROOTS: u32 = 1 << 21;

/// The quantizer of a row.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scale {
    Uniform(Uniform),
    Root(Root),
    Sphere(Sphere),
}

impl Scale {
    /// The levels, if they are floating-point numbers.
    fn floats(self) -> Option<Uniform> {
        match self {
            Self::Uniform(uniform) => Some(uniform).filter(Uniform::is_floats),
            Self::Root(_) | Self::Sphere(_) => None,
        }
    }

    /// Whether a number says the level of the top class, as those of the others do not determine it.
    fn tells_top(self) -> bool {
        !matches!(self, Self::Sphere(_))
    }

    /// The number that a level is coded as: of floating-point numbers, its place among these.
    fn number(self, level: u32) -> u32 {
        self.floats().map_or(level, |floats| floats.number(level))
    }

    /// The level of a number.
    fn level(self, number: u32) -> u32 {
        self.floats().map_or(number, |floats| floats.level(number))
    }

    /// Fills in the values of a row with this top class.
    ///
    /// # Errors
    /// [`Corrupt`] if no values have these levels.
    #[inline(always)]
    pub(super) fn dequantize_row(
        self,
        levels: &[u32],
        top: usize,
        row: &mut [f32],
    ) -> Result<(), Corrupt> {
        match self {
            Self::Uniform(uniform) => uniform.dequantize_row(levels, row),
            Self::Root(_) => Root::dequantize_row(levels, row)?,
            Self::Sphere(sphere) => sphere.dequantize_row(levels, top, row)?,
        }
        Ok(())
    }

    /// The largest number of a level that a decoder accepts.
    pub(super) fn max_number(self) -> u32 {
        match self {
            Self::Uniform(uniform) => self.number(uniform.n_levels()),
            Self::Root(_) => MAX_LEVEL_OF_ROOTS,
            Self::Sphere(sphere) => sphere.scale(),
        }
    }
}

/// The alphabets, given the number of symbols of top classes and the alphabets of the groups.
fn alphabets(n_tops: usize, keep_top: usize, of_groups: Vec<Alphabet>) -> Vec<Alphabet> {
    let mut alphabets = vec![
        Alphabet::of_symbols(2 * n_tops + 1).telling(Part::TopClass),
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

/// What an encoder knows, beside its levels, of a row that is not exact.
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
            Levels::Root { .. } => {
                let (root, others) = finder.quantize(row, top, needs[index], row_levels);
                let scale = Scale::Root(root);
                return Self { top, scale, others };
            }
            Levels::Sphere(sphere) => {
                sphere.quantize(row, top, row_levels);
                Scale::Sphere(sphere)
            }
        };
        let others = Others::of(row_levels, top);
        Self { top, scale, others }
    }

    /// How far the top level is below the most likely one.
    pub(super) fn distance(&self, row_levels: &[u32]) -> i32 {
        let [likely, top] = [self.others.likely_top(self.scale), row_levels[self.top]];
        let distance = self.scale.number(likely) as i32 - self.scale.number(top) as i32;
        let n_numbers = self.scale.max_number() as i32 + 1;
        match self.scale.floats() {
            // Modulo the number of levels, as no token stands for twice as many.
            Some(_) if 2 * distance > n_numbers => distance - n_numbers,
            Some(_) if 2 * distance < -n_numbers => distance + n_numbers,
            _ => distance,
        }
    }

    /// Whether the top class is alone, with all of the mass.
    pub(super) fn is_certain(&self, row_levels: &[u32]) -> bool {
        self.others.n == 0 && self.distance(row_levels) == 0
    }
}

/// Codes the rows of `matrix`, those marked in `is_exact` bit for bit; in `N` bitstreams, `N` rows being taken
/// together, or in one. Even then, `N` rows are walked side by side where no fit comes between them.
#[inline(always)]
pub fn encode<const N: usize>(
    matrix: Rows<'_>,
    is_exact: &[bool],
    levels: Levels,
    tops: TopClasses,
    keep_top: usize,
    coder: Coder,
    n_streams: usize,
) -> Coded {
    match levels.are_linear() {
        true => {
            encode_as::<N, Linear<N>>(matrix, is_exact, levels, tops, keep_top, coder, n_streams)
        }
        false => {
            encode_as::<N, Logarithms>(matrix, is_exact, levels, tops, keep_top, coder, n_streams)
        }
    }
}

#[inline(always)]
fn encode_as<const N: usize, F: Features<N>>(
    matrix: Rows<'_>,
    is_exact: &[bool],
    levels: Levels,
    mut top_classes: TopClasses,
    keep_top: usize,
    coder: Coder,
    n_streams: usize,
) -> Coded {
    let n_classes = matrix.n_classes();
    let mut context_finder =
        ContextFinder::<N>::new(n_classes, matrix.n_rows(), levels, top_classes.are_after());
    let mut order = Order::new(keep_top, n_classes, true, ORDER);
    let mut finder = FinenessFinder::new(levels);
    let mut last_fineness = 0;
    let needs = finder.needs(matrix, is_exact, |_| 0);
    let tells_certain = !fineness::are_rarely_certain(&needs, n_classes);
    let mut sequences = Sequence::several(n_streams, matrix.values().len(), levels.tokens());

    let mut levels_of_rows = vec![0; N * n_classes];
    let batches = matrix.values().chunks(N * n_classes);
    for (batch, (rows, is_exact)) in batches.zip(is_exact.chunks(N)).enumerate() {
        let rows = rows.chunks_exact(n_classes);
        let mut quantized = [const { None }; N];
        // The top classes of the rows that are not certain.
        let mut tops = [None; N];
        let row_levels = levels_of_rows.chunks_exact_mut(n_classes);
        for (side, (row, row_levels)) in rows.clone().zip(row_levels).enumerate() {
            if is_exact[side] {
                continue;
            }
            let index = batch * N + side;
            let of_row = Quantized::of(row, levels, &mut finder, &needs, index, row_levels);
            if !(tells_certain && of_row.is_certain(row_levels)) {
                tops[side] = Some(of_row.top);
            }
            quantized[side] = Some(of_row);
        }
        let scales = quantized.each_ref().map(|row| Some(row.as_ref()?.scale));
        let features = F::of_rows(scales);
        context_finder.find(features, tops, &levels_of_rows, n_streams == N);

        let row_levels = levels_of_rows.chunks_exact(n_classes);
        let known = row_levels.zip(context_finder.contexts_of_rows.chunks_exact(n_classes));
        for (side, (row, (row_levels, contexts))) in rows.zip(known).enumerate() {
            let sequence = &mut sequences[side % n_streams];
            let Some(quantized) = &quantized[side] else {
                let mark = 2 * top_classes.count() as u32;
                sequence.push(Symbol::new(HEAD, mark));
                Symbol::of_bits(RAW, row).for_each(|symbol| sequence.push(symbol));
                continue;
            };
            let top = quantized.top;
            let mut head = top_classes.token(top);
            if tops[side].is_none() {
                head.value += top_classes.count() as u32;
            }
            sequence.push(Symbol::with_extra(HEAD, head));
            if let Scale::Root(root) = quantized.scale {
                sequence.push_number(FINENESS, zigzag(root.fineness() as i32 - last_fineness));
                last_fineness = root.fineness() as i32;
            }
            if tops[side].is_some() {
                for others in [0..top, top + 1..n_classes] {
                    let known = contexts[others.clone()].iter().zip(&row_levels[others]);
                    let known = known.map(|(&context, &level)| (context.into(), level));
                    match quantized.scale.floats() {
                        Some(floats) => sequence
                            .extend(known.map(|(context, level)| (context, floats.number(level)))),
                        None => sequence.extend(known),
                    }
                }
                if quantized.scale.tells_top() {
                    let context = rest_context(quantized.others.n);
                    sequence.push_number(context, zigzag(quantized.distance(row_levels)));
                }
            }
            order.encode(row, row_levels, Some(top), |symbol| sequence.push(symbol));
        }
    }
    let groups = Groups::of(&mut sequences, N_BANDS, groups_alphabet(keep_top), coder);
    Coded {
        alphabets: alphabets(top_classes.count(), keep_top, groups.alphabets()),
        choices: BitWriter::new(),
        rows: CodedRows::InContexts(groups, sequences),
    }
}

/// Decodes the rows of a block from `N` bitstreams.
///
/// # Errors
/// [`Corrupt`] if the payload is not what an encoder writes.
#[inline(always)]
pub fn decode<const N: usize>(
    reader: &mut BitReader,
    tops: TopClasses,
    levels: Levels,
    keep_top: usize,
    values: &mut [f32],
    watch: impl Watch,
) -> Result<(), Corrupt> {
    match levels.are_linear() {
        true => decode_as::<N, Linear<N>>(reader, tops, levels, keep_top, values, watch),
        false => decode_as::<N, Logarithms>(reader, tops, levels, keep_top, values, watch),
    }
}

#[inline(always)]
fn decode_as<const N: usize, F: Features<N>>(
    reader: &mut BitReader,
    mut top_classes: TopClasses,
    levels: Levels,
    keep_top: usize,
    values: &mut [f32],
    watch: impl Watch,
) -> Result<(), Corrupt> {
    let n_classes = top_classes.n_classes();
    let contexts =
        ContextDecoder::read_from(reader, N_BANDS, groups_alphabet(keep_top), levels.tokens())?;
    let alphabets = alphabets(top_classes.count(), keep_top, contexts.alphabets());
    let (tables, readers) = Tables::read_from(reader, &alphabets, watch)?;
    let mut streams = readers.map(|reader| contexts.stream(reader));
    let mut expecting = Expecting::new(
        n_classes,
        values.len() / n_classes,
        levels,
        top_classes.are_after(),
    );
    let mut order = Order::new(keep_top, n_classes, true, ORDER);
    let mut fineness = 0;
    let floats = match levels {
        Levels::Uniform(uniform) => Scale::Uniform(uniform).floats(),
        Levels::Root { .. } | Levels::Sphere(_) => None,
    };
    // By class, the levels of all rows at hand.
    let mut levels_of_rows = vec![[0; N]; n_classes];
    let mut row_levels = vec![0; n_classes];
    for rows in values.chunks_mut(N * n_classes) {
        // Top class and quantizer of each row that is not exact, and the top class of each row that is not certain
        // either.
        let mut heads = [None; N];
        let mut tops = [None; N];
        let mut max_numbers = [0; N];
        for (side, row) in rows.chunks_exact_mut(n_classes).enumerate() {
            let stream = &mut streams[side];
            let head = tables.number(HEAD, &mut stream.reader)?;
            let n_symbols = top_classes.count() as u32;
            if head == 2 * n_symbols {
                tables.bits(RAW, &mut stream.reader, row)?;
                continue;
            }
            let top = top_classes.read(head % n_symbols, &mut stream.reader)?;
            let scale = match levels {
                Levels::Uniform(uniform) => Scale::Uniform(uniform),
                Levels::Root { roots, .. } => {
                    let number = contexts.number(FINENESS, &tables, stream)?;
                    fineness = from_zigzag(number).wrapping_add(fineness);
                    Scale::Root(roots.root(fineness)?)
                }
                Levels::Sphere(sphere) => Scale::Sphere(sphere),
            };
            heads[side] = Some((top, scale));
            if head < n_symbols {
                tops[side] = Some(top);
                max_numbers[side] = scale.max_number();
            }
        }
        let mut visitor = LevelReader {
            features: F::of_rows(heads.map(|head| Some(head?.1))),
            streams: &mut streams,
            tables: &tables,
            contexts: &contexts,
            first_contexts: &expecting.first_contexts,
            floats,
            tops,
            max_numbers,
            levels: &mut levels_of_rows,
        };
        walk(&mut expecting.regression, tops, &mut visitor)?;
        expecting.learn(tops);

        for (side, row) in rows.chunks_exact_mut(n_classes).enumerate() {
            let Some((top, scale)) = heads[side] else {
                continue;
            };
            let stream = &mut streams[side];
            if tops[side].is_some() {
                for (level, of_rows) in row_levels.iter_mut().zip(&levels_of_rows) {
                    *level = of_rows[side];
                }
                row_levels[top] = 0;
                if scale.tells_top() {
                    let others = Others::of(&row_levels, top);
                    let rest = contexts.number(rest_context(others.n), &tables, stream)?;
                    row_levels[top] = others.top(scale, from_zigzag(rest))?;
                }
            } else {
                row_levels.fill(0);
                row_levels[top] = Others::default().likely_top(scale);
            }
            scale.dequantize_row(&row_levels, top, row)?;
            order.decode(row, Some(top), &tables, &mut stream.reader)?;
        }
    }
    streams
        .into_iter()
        .try_for_each(|stream| tables.finish(stream.reader))
}

/// Reads the levels of all classes but the top one, in rows that have a top class here.
struct LevelReader<'a, 'b, F, W, const N: usize> {
    features: F,
    streams: &'a mut [Stream<'b>; N],
    tables: &'a Tables<W>,
    contexts: &'a ContextDecoder,
    first_contexts: &'a [u16],
    floats: Option<Uniform>,
    tops: [Option<usize>; N],
    max_numbers: [u32; N],
    /// By class, the levels of all rows.
    levels: &'a mut [[u32; N]],
}

impl<F: Features<N>, W: Watch, const N: usize> Visitor<N> for LevelReader<'_, '_, F, W, N> {
    const IS_SPARSE: bool = true;

    #[inline(always)]
    fn features(&mut self, class: usize, expectations: [f32; N]) -> Result<[f32; N], Corrupt> {
        let first = self.first_contexts[class];
        let positions = self.features.positions(expectations);
        let mut levels = [0; N];
        for row in 0..N {
            if self.tops[row].is_some_and(|top| top != class) {
                let context = usize::from(first + positions[row]);
                let stream = &mut self.streams[row];
                levels[row] = self.contexts.number(context, self.tables, stream)?;
            }
        }
        let limits = levels.iter().zip(&self.max_numbers);
        if limits.fold(false, |any, (level, max)| any | (level > max)) {
            return Err(Corrupt("a level is out of range"));
        }
        if let Some(floats) = self.floats {
            levels = levels.map(|number| floats.level(number));
        }
        self.levels[class] = levels;
        Ok(self.features.features(levels))
    }
}

#[cfg(test)]
mod tests {
    use super::super::models::N_STREAMS;
    use super::*;

    #[test]
    fn rows_side_by_side_become_the_same_symbols() {
        // Live rows, certain ones and exact ones, in every order.
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
            for levels in [
                uniform,
                Levels::Root {
                    roots: Roots::HALVING,
                    max_kl: 1e-3,
                },
            ] {
                let tops = || TopClasses::new(n_classes, false);
                let of_one = encode::<1>(matrix, &is_exact, levels, tops(), 1, Coder::Huffman, 1);
                let of_sides =
                    encode::<N_STREAMS>(matrix, &is_exact, levels, tops(), 1, Coder::Huffman, 1);
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
        // As in the specification.
        for level in 0..=MAX_LEVEL_OF_ROOTS {
            let number = 4 * level + 1;
            let power = 1 << number.ilog2();
            let expected = number.ilog2() as f32 + (number - power) as f32 / power as f32;
            assert_eq!(feature(level), expected);
            assert_eq!(compute_feature(level), expected);
        }
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
                    usize::from(positions([value, 0.0])[0]),
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
