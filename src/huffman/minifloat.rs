//! Values of fewer bits than float32, as integers in the order of the values (FORMAT.md, section 4).

use super::Corrupt;
use super::quantizer::{Step, TWO_TO_52, from_ordered, ordered};

/// Values as integers in the order of the values.
pub trait Float: Copy {
    /// The number of a value, or of the one nearest to it.
    fn number(self, value: f32) -> i32;

    /// The value of a number.
    fn value(self, number: i32) -> f32;

    /// The exponent of 2 from which on numbers lie farther apart than below.
    fn least_exponent(self) -> i32;
}

/// Float32; faster than [`Minifloat::F32`], as the compiler knows it.
#[derive(Debug, Clone, Copy)]
pub struct Float32;

impl Float for Float32 {
    #[inline(always)]
    fn number(self, value: f32) -> i32 {
        ordered(value)
    }

    #[inline(always)]
    fn value(self, number: i32) -> f32 {
        from_ordered(number)
    }

    #[inline(always)]
    fn least_exponent(self) -> i32 {
        i32::MIN
    }
}

/// Floating-point numbers with so many bits of mantissa that are multiples of a unit.
///
/// Float16 has 10 bits and a unit of 2^-24, bfloat16 has 7 bits and 2^-133. The unit need not be a power of 2: values
/// rounded to two decimal places have one of 0.01. Multiples below 2^(`n_mantissa_bits` + 1) are all there; above, each
/// power of 2 has 2^`n_mantissa_bits` of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Minifloat {
    unit: Step,
    n_mantissa_bits: u32,
}

impl Minifloat {
    /// The numbers of float32: those of [`ordered`], which keep apart all NaNs as well.
    pub const F32: Self = Self {
        unit: Step::FINEST,
        n_mantissa_bits: f32::MANTISSA_DIGITS - 1,
    };

    /// The minifloats that a block states.
    ///
    /// # Errors
    /// [`Corrupt`] for more bits than float32 has.
    pub fn new(unit: Step, n_mantissa_bits: u32) -> Result<Self, Corrupt> {
        match n_mantissa_bits <= Self::F32.n_mantissa_bits {
            true => Ok(Self {
                unit,
                n_mantissa_bits,
            }),
            false => Err(Corrupt("a mantissa has too many bits")),
        }
    }

    /// The minifloats that have all values, bit for bit, with the smallest numbers; `None` if no numbers are much
    /// smaller than those of float32.
    ///
    /// Tries units to which values may have been rounded: decimal places, the smallest value (for integers times a
    /// scale), and the lowest bit of any.
    pub fn of(values: &[f32]) -> Option<Self> {
        /// Parts of one, by decimal places.
        const PARTS: [f64; 7] = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6];
        /// Values that decide whether the lowest bit of all is worth looking for.
        const N_TELLING: usize = 64;
        // As bits, whose extremes the compiler finds with vector instructions; 0 does not count as the smallest.
        let magnitudes = values.iter().map(|value| value.abs().to_bits());
        let largest = f32::from_bits(magnitudes.clone().max().unwrap_or(0));
        let least = magnitudes.map(|bits| bits.wrapping_sub(1)).min();
        let least = f32::from_bits(least.unwrap_or(0).wrapping_add(1));
        let of_unit = |unit: f64, values: &[f32]| {
            let unit = Step::from_bits(unit.to_bits()).ok()?;
            let numbers = Self::of_unit(unit, values, largest)?;
            Some((numbers.number(largest), numbers))
        };
        let first = &values[..values.len().min(N_TELLING)];
        let is_worth_it = of_unit(lowest_bit(first), first).is_some();
        let decimals = PARTS.map(|n_parts| 1.0 / n_parts).into_iter();
        let units = decimals
            .chain([f64::from(least)])
            .chain(is_worth_it.then(|| lowest_bit(values)));
        let found = units
            .filter_map(|unit| of_unit(unit, values))
            .filter(|(_, numbers)| !numbers.is_f32());
        found.min_by_key(|&(largest, _)| largest).map(|(_, of)| of)
    }

    /// The minifloats of a unit that have all values, with as few bits as that takes; `None` if their numbers are not
    /// much smaller than those of float32.
    fn of_unit(unit: Step, values: &[f32], largest: f32) -> Option<Self> {
        /// Float32 has as many numbers while the value grows fourfold.
        const FEW: i32 = 1 << 24;
        let mut numbers = Self::new(unit, 0).ok()?;
        let mut rest = values;
        loop {
            rest = &rest[numbers.n_first_kept(rest)..];
            let Some(value) = rest.first() else {
                return Some(numbers);
            };
            // This value takes more bits.
            let multiple = (f64::from(value.abs()) / unit.size()).round();
            // The bits from the leading one of its mantissa, which binary64 leaves out, to the last that is set.
            let n_bits = 53 - (multiple.to_bits() | 1 << 52).trailing_zeros();
            if n_bits <= numbers.n_mantissa_bits + 1 {
                return None;
            }
            numbers = Self::new(unit, n_bits - 1).ok()?;
            // The number of an infinite value may not fit.
            if !(0..FEW).contains(&numbers.number(largest)) || !numbers.keeps(*value) {
                return None;
            }
        }
    }

    /// Whether a value comes back, bit for bit.
    #[inline(always)]
    fn keeps(self, value: f32) -> bool {
        self.value(self.number(value)).to_bits() == value.to_bits()
    }

    /// Whether all values come back, bit for bit.
    pub fn keep(self, values: &[f32]) -> bool {
        self.n_first_kept(values) == values.len()
    }

    /// The number of values that come back before the first that does not.
    fn n_first_kept(self, values: &[f32]) -> usize {
        pulp::Arch::new().dispatch(FirstKept(self, values))
    }

    /// The unit.
    pub fn unit(self) -> Step {
        self.unit
    }

    /// The number of bits of a mantissa.
    pub fn n_mantissa_bits(self) -> u32 {
        self.n_mantissa_bits
    }

    /// Whether these are the numbers of float32.
    #[inline(always)]
    pub fn is_f32(self) -> bool {
        self == Self::F32
    }

    /// What the highest bits of a multiple in binary64, down to the last of the mantissa, exceed its number by.
    #[inline(always)]
    fn bias(self) -> u64 {
        (u64::from(self.n_mantissa_bits) + 1022) << self.n_mantissa_bits
    }

    /// The number of an infinite multiple, or the largest number.
    #[inline(always)]
    fn infinite(self) -> i32 {
        let infinite = (0x7FF << self.n_mantissa_bits) - self.bias();
        infinite.min(i32::MAX as u64) as i32
    }

    /// Fills in the numbers of values.
    #[inline(always)]
    pub(super) fn fill_numbers(self, values: &[f32], numbers: &mut [i32]) {
        #[inline(always)]
        fn fill(float: impl Float, values: &[f32], numbers: &mut [i32]) {
            for (number, &value) in numbers.iter_mut().zip(values) {
                *number = float.number(value);
            }
        }
        match self.is_f32() {
            true => fill(Float32, values, numbers),
            false => fill(self, values, numbers),
        }
    }

    /// Fills in the values of numbers.
    #[inline(always)]
    pub(super) fn fill_values(self, numbers: impl Iterator<Item = i32>, values: &mut [f32]) {
        #[inline(always)]
        fn fill(float: impl Float, numbers: impl Iterator<Item = i32>, values: &mut [f32]) {
            for (value, number) in values.iter_mut().zip(numbers) {
                *value = float.value(number);
            }
        }
        match self.is_f32() {
            true => fill(Float32, numbers, values),
            false => fill(self, numbers, values),
        }
    }
}

/// Counts the values that come back before the first that does not, with the vector instructions of this machine.
struct FirstKept<'a>(Minifloat, &'a [f32]);

impl pulp::WithSimd for FirstKept<'_> {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> usize {
        /// So many values at a time without a branch.
        const CHUNK: usize = 64;
        let Self(numbers, values) = self;
        let keep = |chunk: &&[f32]| {
            let kept = chunk.iter().map(|&value| numbers.keeps(value));
            kept.fold(true, |all, is_kept| all & is_kept)
        };
        let n_kept = CHUNK * values.chunks(CHUNK).take_while(keep).count();
        let rest = values.get(n_kept..).unwrap_or_default();
        n_kept.min(values.len())
            + rest
                .iter()
                .take_while(|&&value| numbers.keeps(value))
                .count()
    }
}

/// Format-stable.
impl Float for Minifloat {
    #[inline(always)]
    fn number(self, value: f32) -> i32 {
        if self.is_f32() {
            return Float32.number(value);
        }
        // NaN counts as infinite.
        let multiple = (f64::from(value.abs()) / self.unit.size()).min(f64::INFINITY);
        let number = if multiple < (1 << self.n_mantissa_bits) as f64 {
            (multiple + TWO_TO_52).to_bits() as i32
        } else {
            let n_dropped = 52 - self.n_mantissa_bits;
            let nearest = (multiple.to_bits() + (1 << (n_dropped - 1))) >> n_dropped;
            nearest.wrapping_sub(self.bias()) as i32
        };
        // A negative value has all bits inverted.
        number ^ (value.to_bits() as i32 >> 31)
    }

    #[inline(always)]
    fn value(self, number: i32) -> f32 {
        if self.is_f32() {
            return Float32.value(number);
        }
        let sign = number >> 31;
        let number = number ^ sign;
        let multiple = if number >> self.n_mantissa_bits == 0 {
            f64::from(number)
        } else {
            let bits = number.min(self.infinite()) as u64 + self.bias();
            f64::from_bits(bits << (52 - self.n_mantissa_bits))
        };
        let value = (multiple * self.unit.size()) as f32;
        f32::from_bits(value.to_bits() | (sign as u32) << 31)
    }

    #[inline(always)]
    fn least_exponent(self) -> i32 {
        match self.is_f32() {
            true => Float32.least_exponent(),
            false => (self.unit.to_bits() >> 52) as i32 - 1023 + self.n_mantissa_bits as i32,
        }
    }
}

/// The largest power of 2 of which all finite values are multiples.
fn lowest_bit(values: &[f32]) -> f64 {
    let mut least = f32::MAX_EXP;
    for value in values
        .iter()
        .filter(|value| value.is_finite() && **value != 0.0)
    {
        // Subnormal numbers have the exponent of the smallest normal ones, but no leading 1.
        let field = (value.abs().to_bits() >> 23) as i32;
        let mantissa = value.to_bits() & 0x7F_FFFF | u32::from(field > 0) << 23;
        least = least.min(field.max(1) - 150 + mantissa.trailing_zeros() as i32);
    }
    f64::from_bits(((1023 + least) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    const F16: (f64, u32) = (1.0 / (1 << 24) as f64, 10);

    fn minifloat((unit, n_mantissa_bits): (f64, u32)) -> Minifloat {
        Minifloat::new(Step::from_bits(unit.to_bits()).unwrap(), n_mantissa_bits).unwrap()
    }

    #[test]
    fn numbers_are_the_bits_of_float16_in_order() {
        let numbers = minifloat(F16);
        for bits in 0..=0x7C00u16 {
            let value = half::f16::from_bits(bits).to_f32();
            // Above the finite numbers, exponents go on.
            if value.is_finite() {
                assert_eq!(numbers.number(value), i32::from(bits));
                assert_eq!(numbers.number(-value), -1 - i32::from(bits));
                assert_eq!(
                    numbers.value(-1 - i32::from(bits)).to_bits(),
                    (-value).to_bits()
                );
            }
            assert_eq!(numbers.value(numbers.number(value)), value);
        }
    }

    #[test]
    fn the_nearest_number_is_that_of_float16() {
        let numbers = minifloat(F16);
        let mut n = 0;
        for bits in (0..60_000f32.to_bits()).step_by(977) {
            let value = f32::from_bits(bits);
            let nearest = half::f16::from_f32(value);
            // Of two that are equally near, either may be taken.
            if (nearest.to_f32() - value).abs()
                < (half::f16::from_bits(nearest.to_bits() ^ 1).to_f32() - value).abs()
            {
                assert_eq!(
                    numbers.number(value),
                    i32::from(nearest.to_bits()),
                    "{value}"
                );
                n += 1;
            }
        }
        assert!(n > 1_000_000);
    }

    #[test]
    fn all_numbers_have_a_value_and_stay_in_order() {
        for of in [
            F16,
            (2f64.powi(-133), 7),
            (0.01, 12),
            (0.3, 0),
            (1e-45, 23),
            (f64::MAX, 3),
            (f64::MIN_POSITIVE, 20),
        ] {
            let numbers = minifloat(of);
            let mut before = f32::NEG_INFINITY;
            let all = (i32::MIN..=i32::MAX)
                .step_by(65_521)
                .chain([-1, 0, 1, i32::MAX]);
            let mut all: Vec<i32> = all.collect();
            all.sort();
            for number in all {
                let value = numbers.value(number);
                assert!(value >= before, "{of:?} {number} {value} {before}");
                assert_eq!(value.is_sign_negative(), number < 0);
                before = value;
            }
        }
    }

    #[test]
    fn what_values_were_rounded_to_is_found() {
        let values: Vec<f32> = (0..2000).map(|i| (i as f32 * 0.7).sin() * 9.0).collect();
        let of =
            |values: &[f32]| Minifloat::of(values).map(|of| (of.unit.size(), of.n_mantissa_bits));
        assert_eq!(of(&values), None);
        let halves = |infinite: f32| {
            let halves = values.iter().map(|&v| half::f16::from_f32(v).to_f32());
            let tiny = [2f32.powi(-24), infinite];
            halves.chain(tiny).collect::<Vec<f32>>()
        };
        assert_eq!(of(&halves(0.0)), Some(F16));
        assert_eq!(of(&halves(f32::NEG_INFINITY)), Some(F16));
        assert_eq!(of(&halves(f32::NAN)), None);
        assert_eq!(of(&[&[f32::NEG_INFINITY], &values[..]].concat()), None);
        // Of all sizes, in any order.
        let wide = [0.97, 1e-30, 3e-39, 1.0].map(|scale| values.iter().map(move |v| v * scale));
        let brains = wide.into_iter().flatten();
        let mut brains: Vec<f32> = brains.map(|v| half::bf16::from_f32(v).to_f32()).collect();
        for _ in 0..3 {
            assert_eq!(of(&brains).unwrap().1, 7);
            brains.rotate_left(values.len());
        }
        // Float32 itself is no minifloat.
        assert_eq!(of(&[0x80_0001, 0x80_0003].map(f32::from_bits)), None);
        for (n_places, unit) in
            [(1, 0.1), (100, 0.01), (1000, 0.001)].map(|(n, unit)| (n as f32, unit))
        {
            let rounded: Vec<f32> = values
                .iter()
                .map(|&v| (v * n_places).round() / n_places)
                .collect();
            assert!(n_places < 100.0 || rounded.contains(&-0.0));
            if n_places > 1.0 {
                assert_eq!(of(&rounded).unwrap().0, unit);
            }
        }
        // Integers of eight bits times a scale.
        let scaled: Vec<f32> = values
            .iter()
            .map(|&v| (v * 14.0).round() * 0.071_234)
            .collect();
        assert_eq!(of(&scaled).unwrap().0, f64::from(0.071_234f32));
        assert_eq!(of(&[f32::MAX, 1e-45]), None);
        assert_eq!(of(&[0.0; 5]).unwrap().1, 0);
    }
}
