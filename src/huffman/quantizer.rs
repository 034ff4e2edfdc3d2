//! Numbers that stand for values (FORMAT.md, section 4).
//!
//! - [`Uniform`]: probabilities within `max_error`; 0 and 1 are exact. Also probabilities bit for bit that are
//!   fractions of few, or floating-point numbers of few bits.
//! - [`Root`]: probabilities within `max_kl`; levels of their square roots, so that small ones are kept
//!   finer than large ones.
//! - [`Sphere`](super::sphere::Sphere): the same, in steps that are even for few classes.
//! - [`Step`]: any values within `max_error`.
//! - [`ordered`]: any values bit for bit, as integers in the order of the values; there are fewer of these for
//!   [`Minifloat`]s.

use super::logarithm::log2;
use super::minifloat::Minifloat;
use super::tokens::{FINE_LEVELS, LEVELS, Tokens};
use super::{Corrupt, Error};

/// The smallest `max_error` for probabilities; below it, float32 itself is hardly finer.
pub const MIN_MAX_ERROR: f64 = 1e-6;
/// The largest `max_error` for probabilities; beyond it, nothing is left.
pub const MAX_MAX_ERROR: f64 = 0.5;
/// The smallest `max_kl` in bits: about what rounding to float32 costs.
pub const MIN_MAX_KL: f64 = 1e-6;
/// The largest `max_kl` in bits.
pub const MAX_MAX_KL: f64 = 1.0;
/// The largest number of levels of probabilities. Format-stable.
pub const MAX_LEVELS: u32 = 1 << 20;

/// The largest number of levels that are floating-point numbers. Format-stable.
pub const MAX_LEVELS_OF_FLOATS: u32 = 1 << 24;
/// Bits of a mantissa with which all numbers are levels.
const ALL_BITS: u32 = 31;

/// Added to this, numbers below 2^32 are rounded to integers, which become the lowest bits.
pub(super) const TWO_TO_52: f64 = (1u64 << 52) as f64;

/// What f32 rounding (half a unit in the last place below 1, 2^-25) and the argmax nudge (one unit,
/// 2^-24) may take of the bound.
pub(super) const F32_MARGIN: f64 = 1.5 / (1 << 24) as f64;

/// Probabilities to levels `0..=n_levels` and back: the level of `p` is `round(p * n_levels)` and decodes
/// to `level / n_levels`. The error is at most half a step, `1 / (2 n_levels)`, plus the rounding to f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Uniform {
    n_levels: u32,
    /// Whether a level decodes to its share of all levels of the row, and level 0 to next to nothing.
    is_shares: bool,
    /// Levels have at most one significant bit more than this.
    n_mantissa_bits: u32,
    has_fine_tokens: bool,
}

impl Uniform {
    /// The coarsest quantizer whose decoded values stay within `max_error` of the originals.
    ///
    /// # Errors
    /// [`Error::MaxErrorOutOfRange`] outside [`MIN_MAX_ERROR`]`..=`[`MAX_MAX_ERROR`], or for NaN.
    pub fn new(max_error: f64) -> Result<Self, Error> {
        if !(MIN_MAX_ERROR..=MAX_MAX_ERROR).contains(&max_error) {
            return Err(Error::MaxErrorOutOfRange(max_error));
        }
        Ok(Self::of((0.5 / (max_error - F32_MARGIN)).ceil() as u32))
    }

    /// Fewer levels than this are few; those of shares must be. Format-stable.
    pub const FEW: u32 = 1 << 12;

    /// The coarsest quantizer of fewer than `n_levels` that keeps all values, as `keeps` says, given a value and what
    /// it decodes to; `None` if there is none of few levels or for rounded decimals.
    ///
    /// Counts and averages of few (shares of the trees of a forest, or of neighbours) have one, and so have values
    /// rounded to a few decimal places.
    pub fn of_fractions(
        values: &[f32],
        n_levels: u32,
        keeps: impl Fn(f32, f32) -> bool,
    ) -> Option<Self> {
        /// Levels of values rounded to so many decimal places.
        const DECIMALS: [u32; 3] = [10_000, 100_000, 1_000_000];
        const N_TELLING: usize = 64;
        const MAX_TRIALS: usize = 8;
        // Values near 0 and 1 say nothing: all quantizers keep them.
        let is_telling = |&&value: &&f32| !keeps(value, 0.0) && !keeps(value, 1.0);
        let telling: Vec<f32> = values
            .iter()
            .filter(is_telling)
            .take(N_TELLING)
            .copied()
            .collect();
        let candidates = (1..Self::FEW).chain(DECIMALS);
        let candidates = candidates.filter(|&n| n < n_levels).map(Self::of);
        let keeps_all = |uniform: Self, values: &[f32]| {
            let is_kept = |&value: &f32| {
                (0.0..=1.0).contains(&value)
                    && keeps(value, uniform.dequantize(uniform.quantize(value)))
            };
            values.iter().all(is_kept)
        };
        candidates
            .filter(|&uniform| keeps_all(uniform, &telling))
            .take(MAX_TRIALS)
            .find(|&uniform| keeps_all(uniform, values))
    }

    /// The quantizer of a number of levels that a block states.
    ///
    /// # Errors
    /// [`Corrupt`] if `n_levels` is 0 or above [`MAX_LEVELS`].
    pub fn from_levels(n_levels: u32) -> Result<Self, Corrupt> {
        match (1..=MAX_LEVELS).contains(&n_levels) {
            true => Ok(Self::of(n_levels)),
            false => Err(Corrupt("the number of levels is out of range")),
        }
    }

    const fn of(n_levels: u32) -> Self {
        Self {
            n_levels,
            is_shares: false,
            n_mantissa_bits: ALL_BITS,
            has_fine_tokens: false,
        }
    }

    /// The same quantizer, with tokens for single levels even where these are not small: for few different levels.
    pub fn with_fine_tokens(self) -> Self {
        Self {
            has_fine_tokens: true,
            ..self
        }
    }

    /// Whether the quantizer has fine tokens.
    pub fn has_fine_tokens(&self) -> bool {
        self.has_fine_tokens
    }

    /// The quantizer whose levels are floating-point numbers with so many bits of mantissa, the smallest being 1 /
    /// `n_levels`.
    ///
    /// # Errors
    /// [`Corrupt`] if `n_levels` is 0, above [`MAX_LEVELS_OF_FLOATS`] or not one of the levels, or for more bits than
    /// float32 has.
    pub fn floats(n_levels: u32, n_mantissa_bits: u32) -> Result<Self, Corrupt> {
        let floats = Self {
            n_mantissa_bits,
            ..Self::of(n_levels)
        };
        let are_there = (1..=MAX_LEVELS_OF_FLOATS).contains(&n_levels)
            && n_mantissa_bits < f32::MANTISSA_DIGITS
            && floats.level(floats.number(n_levels)) == n_levels;
        match are_there {
            true => Ok(floats),
            false => Err(Corrupt("the number of levels is out of range")),
        }
    }

    /// The levels that have all of the values, which are some of `numbers`, bit for bit; `None` if there are none.
    pub fn of_minifloats(numbers: Minifloat, values: &[f32]) -> Option<Self> {
        let n_levels = 1.0 / numbers.unit().size();
        let floats = Self::floats(n_levels.round() as u32, numbers.n_mantissa_bits()).ok()?;
        floats.keep(values).then_some(floats)
    }

    /// Whether these levels have all of the values, bit for bit.
    pub fn keep(self, values: &[f32]) -> bool {
        values.iter().all(|&value| {
            let level = self.quantize(value);
            (0.0..=1.0).contains(&value)
                && self.dequantize(level).to_bits() == value.to_bits()
                && self.level(self.number(level)) == level
        })
    }

    /// Whether levels are neither shares nor floating-point numbers, and have the usual tokens.
    pub fn is_plain(&self) -> bool {
        *self == Self::of(self.n_levels)
    }

    /// Whether levels are those of floating-point numbers.
    #[inline(always)]
    pub fn is_floats(&self) -> bool {
        self.n_mantissa_bits < ALL_BITS
    }

    /// The number of bits of a mantissa.
    pub fn n_mantissa_bits(&self) -> u32 {
        self.n_mantissa_bits
    }

    /// The number of a level among those there are, or of the one nearest to it. Format-stable.
    #[inline(always)]
    pub fn number(&self, level: u32) -> u32 {
        let n_dropped = (level | 1).ilog2().saturating_sub(self.n_mantissa_bits);
        ((level + (1 << n_dropped >> 1)) >> n_dropped) + (n_dropped << self.n_mantissa_bits)
    }

    /// The level of a number, at most that of [`n_levels`](Self::n_levels). Format-stable.
    #[inline(always)]
    pub fn level(&self, number: u32) -> u32 {
        let n_dropped = (number >> self.n_mantissa_bits).saturating_sub(1);
        (number - (n_dropped << self.n_mantissa_bits)) << n_dropped
    }

    /// The tokens of numbers; for floats, at most a quarter of a doubling of the level each. Format-stable.
    pub fn tokens(&self) -> Tokens {
        match self.is_floats() {
            true => LEVELS.limited_to(self.n_mantissa_bits.saturating_sub(2).max(2)),
            false if self.has_fine_tokens => FINE_LEVELS,
            false => LEVELS,
        }
    }

    /// The same levels as shares: rows sum to 1 and have no zeros.
    ///
    /// # Errors
    /// [`Corrupt`] if the levels are not [few](Self::FEW).
    pub fn into_shares(self) -> Result<Self, Corrupt> {
        match self.n_levels < Self::FEW {
            true => Ok(Self {
                is_shares: true,
                ..self
            }),
            false => Err(Corrupt("the number of levels is out of range")),
        }
    }

    /// Whether levels decode to shares.
    pub fn is_shares(&self) -> bool {
        self.is_shares
    }

    /// The level of probability 1.
    pub fn n_levels(&self) -> u32 {
        self.n_levels
    }

    /// The distance from one level to the next.
    pub fn step(&self) -> Step {
        Step(1.0 / f64::from(self.n_levels))
    }

    /// The nearest level of a probability in 0..=1.
    #[inline]
    pub fn quantize(&self, probability: f32) -> u32 {
        (f64::from(probability) * f64::from(self.n_levels) + TWO_TO_52).to_bits() as u32
    }

    /// All probabilities below this have level 0.
    pub fn least_live(&self) -> f32 {
        // Half a step, and a little less against rounding.
        (0.499_999 / f64::from(self.n_levels)) as f32
    }

    /// The probability that a level stands for. Format-stable: one IEEE division in f64, rounded to f32.
    #[inline]
    pub fn dequantize(&self, level: u32) -> f32 {
        // For integers up to 2^24, one division in f32 gives the same: f64 has more than twice the bits, and rounding
        // twice does no harm then (Figueroa, "When is double rounding innocuous?", 1995).
        const _: () = assert!(MAX_LEVELS <= 1 << 24 && MAX_LEVELS_OF_FLOATS <= 1 << 24);
        // Vectors convert signed integers faster.
        level as i32 as f32 / self.n_levels as i32 as f32
    }

    /// Decodes a row from all its levels, none above that of 1. Format-stable: one IEEE division in f64 each, rounded
    /// to f32.
    #[inline(always)]
    pub fn dequantize_row(&self, levels: &[u32], row: &mut [f32]) {
        if !self.is_shares {
            for (value, &level) in row.iter_mut().zip(levels) {
                *value = self.dequantize(level);
            }
            return;
        }
        // Below 2^58, in a row of [`MAX_CLASSES`](super::header::MAX_CLASSES).
        let weight = |level: u32| u64::from(level.max(1)) << if level > 0 { 26 } else { 0 };
        let sum = levels.iter().map(|&level| weight(level)).sum::<u64>() as f64;
        for (value, &level) in row.iter_mut().zip(levels) {
            *value = (weight(level) as f64 / sum) as f32;
        }
    }
}

/// Probabilities to levels of their square roots and back. Level `l` weighs `64 l^2`, level 0 weighs 1,
/// and a class decodes to its share of the row's weight: rows sum to 1 and have no zeros.
///
/// Near `p`, a step of the root is a step of `2 sqrt(p)` in the probability, which costs the same
/// divergence whatever `p` is (the Fisher information of a probability is `1 / p`). So a uniform step in
/// the root spends the bits where the divergence is, and each row states how fine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    pub(super) of: Roots,
    pub(super) fineness: u32,
}

/// The finenesses that rows may have, and how the regression sees their levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roots {
    log_n_steps: u32,
    are_linear: bool,
}

impl Roots {
    /// The finenesses each of which about halves the divergence of the one before.
    pub const HALVING: Self = Self::of_steps(0);

    /// The largest logarithm of the number of steps. Format-stable.
    pub const MAX_LOG_STEPS: u32 = 3;

    /// The finenesses of which two to the power of `log_n_steps` halve the divergence: the finer these steps, the less
    /// of a bound is left over, and the longer it takes to state them. At most [`MAX_LOG_STEPS`](Self::MAX_LOG_STEPS).
    pub const fn of_steps(log_n_steps: u32) -> Self {
        Self {
            log_n_steps,
            are_linear: false,
        }
    }

    /// The same finenesses, but the regression sees levels as shares of the level of 1, not as logarithms: averages
    /// over many trees are about as uncertain wherever their roots are.
    pub fn linear(self) -> Self {
        Self {
            are_linear: true,
            ..self
        }
    }

    /// Whether the regression sees levels as shares of the level of 1.
    pub fn are_linear(self) -> bool {
        self.are_linear
    }

    /// The logarithm of the number of steps that halve the divergence.
    pub fn log_n_steps(self) -> u32 {
        self.log_n_steps
    }

    /// The number of finenesses. Format-stable.
    pub fn count(self) -> u32 {
        40 << self.log_n_steps
    }

    /// The quantizer of a fineness that a row states.
    ///
    /// # Errors
    /// [`Corrupt`] if the fineness is not below their [number](Self::count).
    pub fn root(self, fineness: i32) -> Result<Root, Corrupt> {
        match u32::try_from(fineness) {
            Ok(fineness) if fineness < self.count() => Ok(Root { of: self, fineness }),
            _ => Err(Corrupt("the fineness of a row is out of range")),
        }
    }
}

impl Root {
    /// The fineness, for a row to state.
    pub fn fineness(self) -> u32 {
        self.fineness
    }

    /// The square of the level of probability 1, rounded down. Format-stable.
    pub fn square_of_one(self) -> u64 {
        /// 2^(k / 8) times 2^24, rounded down.
        const POWERS: [u64; 8] = [
            16_777_216, 18_295_683, 19_951_584, 21_757_357, 23_726_566, 25_874_004, 28_215_801,
            30_769_549,
        ];
        let n_eighths = self.fineness << (Roots::MAX_LOG_STEPS - self.of.log_n_steps);
        (POWERS[n_eighths as usize % 8] << (n_eighths / 8)) >> 24
    }

    /// The level of probability 1 before rounding. Format-stable.
    pub fn level_of_one(self) -> f64 {
        (self.square_of_one() as f64).sqrt()
    }

    /// Fills in the levels of probabilities, given their square roots.
    #[inline(always)]
    pub fn quantize(self, roots: &[f64], levels: &mut [u32]) {
        let level_of_one = self.level_of_one();
        for (level, root) in levels.iter_mut().zip(roots) {
            *level = (root * level_of_one + TWO_TO_52).to_bits() as u32;
        }
    }

    /// The level of the top class if the levels of all others have `sum_of_squares`.
    pub fn likely_top(self, sum_of_squares: u64) -> u32 {
        // The root, rounded down: below 2^52, f64 gives the same in less time.
        let left = self.square_of_one().saturating_sub(sum_of_squares);
        (left as f64).sqrt() as u32
    }

    /// The weight of a level. Format-stable.
    #[inline(always)]
    pub fn weight(level: u32) -> u64 {
        match level {
            0 => 1,
            _ => (u64::from(level) * u64::from(level)).saturating_mul(64),
        }
    }

    /// Decodes a row from all its levels. Format-stable: one IEEE division in f64 each, rounded to f32.
    ///
    /// # Errors
    /// [`Corrupt`] if the levels are larger than any writer makes them.
    #[inline(always)]
    pub fn dequantize_row(levels: &[u32], row: &mut [f32]) -> Result<(), Corrupt> {
        /// Levels below this have a sum of at most 64 bits, in a row of [`MAX_CLASSES`](super::header::MAX_CLASSES).
        const HIGH: u32 = 1 << 15;
        let is_high = levels
            .iter()
            .fold(false, |any, &level| any | (level >= HIGH));
        let sum = match is_high {
            false => levels.iter().map(|&level| Self::weight(level)).sum(),
            true => {
                let add = |sum: u64, &level: &u32| sum.checked_add(Self::weight(level));
                levels
                    .iter()
                    .try_fold(0, add)
                    .ok_or(Corrupt("the levels of a row are too large"))?
            }
        };
        // Divided in f32, as in `Uniform::dequantize`: no weight is above the sum.
        const MOST: u64 = 1 << 24;
        if sum <= MOST {
            for (value, &level) in row.iter_mut().zip(levels) {
                let weight = (64 * level * level).max(1);
                *value = weight as i32 as f32 / sum as f32;
            }
            return Ok(());
        }
        let sum = sum as f64;
        for (value, &level) in row.iter_mut().zip(levels) {
            *value = (Self::weight(level) as f64 / sum) as f32;
        }
        Ok(())
    }
}

/// The divergence of Kullback and Leibler of a decoded row from the original, in bits; infinite where a class that is
/// possible has become impossible. The original is scaled to sum 1.
#[inline(always)]
pub fn divergence<T: Copy + Into<f64>>(original: &[T], decoded: &[f32]) -> f64 {
    // Lanes, which the compiler turns into vector instructions.
    const N_LANES: usize = 8;
    let (mut masses, mut sums) = ([0.0; N_LANES], [0.0; N_LANES]);
    let mut is_possible = true;
    let mut add = |originals: &[T], decodeds: &[f32]| {
        for (lane, (&p, &q)) in originals.iter().zip(decodeds).enumerate() {
            let (p, q): (f64, f64) = (p.into(), q.into());
            is_possible &= (p == 0.0) | (q > 0.0);
            // A class of probability 0 counts nothing, whatever its logarithm.
            let ratio = if p > 0.0 { p / q } else { 1.0 };
            masses[lane] += p;
            sums[lane] += p * log2(ratio);
        }
    };
    let originals = original.chunks_exact(N_LANES);
    let decodeds = decoded.chunks_exact(N_LANES);
    add(originals.remainder(), decodeds.remainder());
    originals.zip(decodeds).for_each(|(p, q)| add(p, q));
    let [mass, sum] = [masses, sums].map(|lanes| lanes.iter().sum::<f64>());
    match is_possible {
        true => sum / mass - log2(mass),
        false => f64::INFINITY,
    }
}

/// Any values to multiples of a step and back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step(f64);

impl Step {
    /// The step of the smallest positive float32.
    pub const FINEST: Self = Self(f32::from_bits(1) as f64);

    /// The step for values of magnitudes up to `largest` that keeps `max_error`, rounding to f32 and the
    /// argmax nudge included; `None` if float32 is too coarse for that.
    pub fn new(max_error: f64, largest: f32) -> Option<Self> {
        // Half a unit in the last place for the rounding, one for the nudge.
        let ulp = f64::from(largest.next_up()) - f64::from(largest);
        let half = max_error - 1.5 * ulp;
        (half >= max_error / 2.0).then_some(Self((2.0 * half).min(f64::MAX)))
    }

    /// The step that a block states.
    ///
    /// # Errors
    /// [`Corrupt`] if the bits are no positive number.
    pub fn from_bits(bits: u64) -> Result<Self, Corrupt> {
        let step = f64::from_bits(bits);
        match step > 0.0 && step.is_finite() {
            true => Ok(Self(step)),
            false => Err(Corrupt("a step is no positive number")),
        }
    }

    /// The step as a number.
    #[inline]
    pub(super) fn size(self) -> f64 {
        self.0
    }

    /// The bits of the step, for a block to state.
    pub fn to_bits(self) -> u64 {
        self.0.to_bits()
    }

    /// The nearest level; `None` if it takes more than 31 bits.
    #[inline]
    pub fn quantize(self, value: f32) -> Option<i32> {
        let level = (f64::from(value) / self.0 + 0.5).floor();
        (level.abs() < f64::from(1 << 30)).then_some(level as i32)
    }

    /// Fills in the nearest levels of a row; returns whether all fit 31 bits.
    #[inline(always)]
    pub fn quantize_row(self, row: &[f32], levels: &mut [i32]) -> bool {
        // Added to this, integers of 32 bits become the lowest bits: faster than a conversion.
        const MAGIC: f64 = 1.5 * (1u64 << 52) as f64;
        let mut fit = true;
        for (level, &value) in levels.iter_mut().zip(row) {
            let nearest = (f64::from(value) / self.0 + 0.5).floor();
            fit &= nearest.abs() < f64::from(1 << 30);
            *level = (nearest + MAGIC).to_bits() as i32;
        }
        fit
    }

    /// The value of a level. Format-stable: one IEEE multiplication in f64, rounded to f32.
    #[inline]
    pub fn dequantize(self, level: i32) -> f32 {
        (f64::from(level) * self.0) as f32
    }
}

/// The bits of a value as an integer in the order of the values: -0 just below 0, NaN at the ends.
#[inline]
pub fn ordered(value: f32) -> i32 {
    let bits = value.to_bits() as i32;
    bits ^ (bits >> 31 & i32::MAX)
}

/// The inverse of [`ordered`].
#[inline]
pub fn from_ordered(number: i32) -> f32 {
    f32::from_bits((number ^ (number >> 31 & i32::MAX)) as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fractions_of_few_are_found() {
        let same = |value: f32, decoded: f32| value.to_bits() == decoded.to_bits();
        let near = |value: f32, decoded: f32| (value - decoded).abs() <= 1e-6;
        let of_15: Vec<f32> = (0..500).map(|i| (i * 7 % 16) as f32 / 15.0).collect();
        for keeps in [&same as &dyn Fn(f32, f32) -> bool, &near] {
            let found = |values: &[f32], most| Uniform::of_fractions(values, most, keeps);
            assert_eq!(found(&of_15, 5000), Some(Uniform::of(15)));
            assert_eq!(found(&of_15, 15), None);
            // Rows of 0 and 1 are fractions of 1, and one value may change that.
            let certain = [0.0, 1.0].repeat(300);
            assert_eq!(found(&certain, 5000), Some(Uniform::of(1)));
            let but_one = [&certain[..], &[0.6]].concat();
            assert_eq!(found(&but_one, 5000), Some(Uniform::of(5)));
            // The first values may have levels that the last ones do not.
            let but_last = [&of_15[..], &[0.123_456, 0.234_567]].concat();
            assert_eq!(found(&but_last, 4000), None);
        }
        let rounded: Vec<f32> = (0..500)
            .map(|i| (i * 7919 % 100_000) as f32 / 1e5)
            .collect();
        let found = Uniform::of_fractions(&rounded, u32::MAX, same);
        assert_eq!(found, Some(Uniform::of(100_000)));
        assert_eq!(Uniform::of_fractions(&rounded, 100_000, same), None);
        assert_eq!(Uniform::of_fractions(&[-0.0], 5000, same), None);
        assert_eq!(Uniform::of_fractions(&[0.1, 1.5], 5000, same), None);
        assert_eq!(Uniform::of_fractions(&[f32::NAN], 5000, same), None);
        assert_eq!(
            Uniform::of_fractions(&[f32::INFINITY, -1e30], 5000, same),
            None
        );
    }

    #[test]
    fn zero_and_one_are_exact() {
        for max_error in [0.5, 0.002, 1.0 / 510.0, 1e-4, 1e-6] {
            let quantizer = Uniform::new(max_error).unwrap();
            assert_eq!(quantizer.quantize(0.0), 0);
            assert_eq!(quantizer.quantize(-0.0), 0);
            assert_eq!(quantizer.quantize(1.0), quantizer.n_levels());
            assert_eq!(quantizer.dequantize(0), 0.0);
            assert_eq!(quantizer.dequantize(quantizer.n_levels()), 1.0);
        }
    }

    #[test]
    fn levels_are_decoded_by_one_division() {
        let n_levels =
            (1..400).chain([4095, 10_000, 65_535, 1_000_000, MAX_LEVELS - 1, MAX_LEVELS]);
        let floats = (1..=24).map(|n| Uniform::floats(1 << n, 10).unwrap());
        for uniform in n_levels.map(Uniform::of).chain(floats) {
            let n_levels = uniform.n_levels();
            let step = 1 + n_levels as usize / 50_000;
            for level in (0..=n_levels).step_by(step).chain([n_levels]) {
                let quotient = f64::from(level) / f64::from(n_levels);
                assert_eq!(
                    uniform.dequantize(level),
                    quotient as f32,
                    "{level} {n_levels}"
                );
            }
        }
    }

    #[test]
    fn bounds_out_of_range_are_refused() {
        for max_error in [0.0, -1.0, 0.51, 1e-7, f64::NAN, f64::INFINITY] {
            assert!(matches!(
                Uniform::new(max_error),
                Err(Error::MaxErrorOutOfRange(_))
            ));
        }
        for n_levels in [1, 2, 250, 255, 4999, MAX_LEVELS] {
            let quantizer = Uniform::from_levels(n_levels).unwrap();
            assert_eq!(quantizer.quantize(quantizer.least_live().next_down()), 0);
            let level_1 = 0.5000001 / n_levels as f32;
            assert!(quantizer.least_live() < level_1);
            assert_eq!(quantizer.quantize(level_1), 1);
        }
        assert!(Uniform::from_levels(0).is_err());
        assert!(Uniform::from_levels(MAX_LEVELS + 1).is_err());
        assert!(Uniform::new(MIN_MAX_ERROR).unwrap().n_levels() <= MAX_LEVELS);
        for step in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Step::from_bits(step.to_bits()).is_err());
        }
    }

    #[test]
    fn a_step_too_fine_for_float32_is_none() {
        assert!(Step::new(0.01, 100.0).is_some());
        let coarsest = Step::new(f64::MAX, 100.0).unwrap();
        assert!(Step::from_bits(coarsest.to_bits()).is_ok());
        assert!(Step::new(1e-6, 100.0).is_none());
        assert!(Step::new(0.01, f32::MAX).is_none());
        let step = Step::new(1e-6, 1.0).unwrap();
        assert_eq!(step.quantize(1e6), None);
        assert_eq!(step.quantize(f32::NAN), None);
        assert_eq!(step.quantize(f32::NEG_INFINITY), None);
        let values = [-1000.0, -1.5e-6, 0.0, 5e-7, 1000.0];
        let mut levels = [0; 5];
        assert!(step.quantize_row(&values, &mut levels));
        assert_eq!(levels.map(Some), values.map(|value| step.quantize(value)));
        for value in [1e6, f32::NAN, f32::NEG_INFINITY] {
            assert!(!step.quantize_row(&[0.0, value], &mut [0; 2]));
        }
    }

    #[test]
    fn roots_make_rows_that_sum_to_one_without_zeros() {
        let mut row = [0.0; 3];
        Root::dequantize_row(&[3, 0, 4], &mut row).unwrap();
        let sum = 64.0 * 25.0 + 1.0;
        assert_eq!(row, [576.0 / sum, 1.0 / sum, 1024.0 / sum]);
        let mut levels = [0; 2];
        Roots::HALVING
            .root(10)
            .unwrap()
            .quantize(&[1.0, 0.0], &mut levels);
        assert_eq!(levels, [32, 0]);
        Roots::HALVING
            .root(11)
            .unwrap()
            .quantize(&[1.0, 0.5], &mut levels);
        assert_eq!(levels, [45, 23]);
        assert_eq!(Roots::HALVING.root(10).unwrap().likely_top(24), 31);
        assert_eq!(Roots::HALVING.root(3).unwrap().likely_top(9), 0);
        // The finest fineness; around squares, where a root that is not rounded down shows.
        let finest = Roots::HALVING.root(39).unwrap();
        let one = finest.square_of_one();
        for root in (1..one.isqrt()).step_by(97) {
            for left in [root * root - 1, root * root, root * root + 1] {
                assert_eq!(u64::from(finest.likely_top(one - left)), left.isqrt());
            }
        }
        // On both sides of the largest sum up to which f32 has all integers.
        for top in (0..700).chain([512, 40_000]) {
            let levels = [top, top / 3, top % 17];
            Root::dequantize_row(&levels, &mut row).unwrap();
            let weights = levels.map(|level| Root::weight(level) as f64);
            let sum: f64 = weights.iter().sum();
            assert_eq!(row, weights.map(|weight| (weight / sum) as f32), "{top}");
        }
        assert!(Root::dequantize_row(&[u32::MAX, 0, 0], &mut row).is_err());
        assert!(Root::dequantize_row(&[1 << 24; 70_000], &mut [0.0; 70_000]).is_err());
    }

    #[test]
    fn finer_steps_of_roots_are_between_the_coarser_ones() {
        for log_n_steps in 0..=Roots::MAX_LOG_STEPS {
            let roots = Roots::of_steps(log_n_steps);
            let mut before = 0;
            for fineness in 0..roots.count() {
                let square = roots.root(fineness as i32).unwrap().square_of_one();
                assert!(square >= before);
                before = square;
                let power = (f64::from(fineness) / f64::from(1 << log_n_steps)).exp2();
                assert!(power * (1.0 - 1e-7) - 1.0 < square as f64 && square as f64 <= power);
                if fineness.is_multiple_of(1 << log_n_steps) {
                    assert_eq!(square, 1 << (fineness >> log_n_steps));
                }
            }
            for none in [roots.count() as i32, -1, i32::MIN] {
                assert!(roots.root(none).is_err());
            }
        }
    }

    #[test]
    fn ordered_numbers_follow_the_values() {
        let values = [
            f32::NEG_INFINITY,
            -1.0,
            -f32::from_bits(1),
            -0.0,
            0.0,
            f32::from_bits(1),
            0.5,
            f32::INFINITY,
        ];
        assert!(values.windows(2).all(|v| ordered(v[0]) < ordered(v[1])));
        for bits in [0, 1, 0x7FC0_0001, 0x8000_0000, 0xFFFF_FFFF, 0xFF80_0001] {
            assert_eq!(from_ordered(ordered(f32::from_bits(bits))).to_bits(), bits);
        }
    }

    proptest! {
        #[test]
        fn the_error_of_probabilities_stays_within_the_bound(
            bits in 0u32..=1.0f32.to_bits(),
            max_error in prop_oneof![1e-6..1e-5f64, 1e-4..0.5f64]
        ) {
            let quantizer = Uniform::new(max_error).unwrap();
            let p = f32::from_bits(bits);
            let decoded = quantizer.dequantize(quantizer.quantize(p));
            for value in [decoded, decoded.next_up()] {
                prop_assert!((f64::from(value) - f64::from(p)).abs() <= max_error);
            }
        }

        #[test]
        fn the_error_of_values_stays_within_the_bound(
            value in -100.0f32..100.0,
            max_error in prop_oneof![1e-4..1e-3f64, 1e-3..10.0f64]
        ) {
            let step = Step::new(max_error, 100.0).unwrap();
            let decoded = step.dequantize(step.quantize(value).unwrap());
            for decoded in [decoded, decoded.next_up()] {
                prop_assert!((f64::from(decoded) - f64::from(value)).abs() <= max_error);
            }
        }
    }
}
