//! Uniform quantization of probabilities with a bound on the absolute error (FORMAT.md, section 4).
//!
//! A probability `p` becomes the level `round(p * n_levels)`; the level decodes to
//! `level / n_levels`. So 0 and 1 are exact, and the error is at most half a step, `1 / (2 n_levels)`,
//! plus the rounding to f32. [`Quantizer::new`] picks `n_levels` so that half a step leaves
//! [`F32_MARGIN`] of `max_error` for that rounding and for one unit in the last place that keeps the
//! argmax (see [`Quantizer::dequantize_row`]).

use super::Error;

/// The smallest `max_error`; below it, float32 itself is hardly finer.
pub const MIN_MAX_ERROR: f64 = 1e-6;
/// The largest `max_error`; beyond it, nothing is left.
pub const MAX_MAX_ERROR: f64 = 0.5;
/// The largest number of levels a file may state. Format-stable.
pub const MAX_LEVELS: u32 = 1 << 20;

/// What f32 rounding (half a unit in the last place below 1, 2^-25) and the argmax nudge (one unit,
/// 2^-24) may take of the bound.
pub const F32_MARGIN: f64 = 1.5 / (1 << 24) as f64;

/// Maps probabilities to levels `0..=n_levels` and back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantizer {
    n_levels: u32,
}

impl Quantizer {
    /// The coarsest quantizer whose decoded values stay within `max_error` of the originals.
    ///
    /// # Errors
    /// [`Error::MaxErrorOutOfRange`] outside [`MIN_MAX_ERROR`]`..=`[`MAX_MAX_ERROR`], or for NaN.
    pub fn new(max_error: f64) -> Result<Self, Error> {
        if !(MIN_MAX_ERROR..=MAX_MAX_ERROR).contains(&max_error) {
            return Err(Error::MaxErrorOutOfRange(max_error));
        }
        Ok(Self {
            n_levels: (0.5 / (max_error - F32_MARGIN)).ceil() as u32,
        })
    }

    /// The quantizer that a file states.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`] if `n_levels` is 0 or above [`MAX_LEVELS`].
    pub fn from_levels(n_levels: u32) -> Result<Self, Error> {
        if n_levels == 0 || n_levels > MAX_LEVELS {
            return Err(Error::LimitExceeded {
                what: "the number of levels",
                found: u64::from(n_levels),
                limit: u64::from(MAX_LEVELS),
            });
        }
        Ok(Self { n_levels })
    }

    /// The level of probability 1.
    pub fn n_levels(&self) -> u32 {
        self.n_levels
    }

    /// The level of a probability in 0..=1: the nearest, of two the higher one.
    #[inline]
    pub fn quantize(&self, probability: f32) -> u32 {
        // Not f64::round, which is a call of libm on machines without an instruction for it.
        (f64::from(probability) * f64::from(self.n_levels) + 0.5) as u32
    }

    /// The probability that a level stands for. Format-stable: one IEEE division in f64, rounded to f32.
    #[inline]
    pub fn dequantize(&self, level: u32) -> f32 {
        (f64::from(level) / f64::from(self.n_levels)) as f32
    }

    /// Decodes a row from its non-zero levels, `top` among them or zero as the rest.
    ///
    /// Where quantizing has made a class before `top` as large as `top`, `top` becomes the next larger
    /// float, so that the argmax stays what it was. Format-stable.
    pub fn dequantize_row(&self, levels: &[(usize, u32)], top: usize, row: &mut [f32]) {
        row.fill(0.0);
        let mut top_level = 0;
        for &(class, level) in levels {
            row[class] = self.dequantize(level);
            if class == top {
                top_level = level;
            }
        }
        let tied_before = match top_level {
            0 => top > 0,
            _ => levels
                .iter()
                .any(|&(class, level)| class < top && level == top_level),
        };
        if tied_before {
            row[top] = row[top].next_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::matrix::argmax;

    #[test]
    fn zero_and_one_are_exact() {
        for max_error in [0.5, 0.002, 1.0 / 510.0, 1e-4, 1e-6] {
            let quantizer = Quantizer::new(max_error).unwrap();
            assert_eq!(quantizer.quantize(0.0), 0);
            assert_eq!(quantizer.quantize(-0.0), 0);
            assert_eq!(quantizer.quantize(1.0), quantizer.n_levels());
            assert_eq!(quantizer.dequantize(0), 0.0);
            assert_eq!(quantizer.dequantize(quantizer.n_levels()), 1.0);
        }
    }

    #[test]
    fn bounds_out_of_range_are_refused() {
        for max_error in [0.0, -1.0, 0.51, 1e-7, f64::NAN, f64::INFINITY] {
            assert!(matches!(
                Quantizer::new(max_error),
                Err(Error::MaxErrorOutOfRange(_))
            ));
        }
        assert!(Quantizer::from_levels(0).is_err());
        assert!(Quantizer::from_levels(MAX_LEVELS + 1).is_err());
        assert!(Quantizer::new(MIN_MAX_ERROR).unwrap().n_levels() <= MAX_LEVELS);
    }

    #[test]
    fn a_tie_made_by_quantizing_keeps_the_argmax() {
        let quantizer = Quantizer::from_levels(10).unwrap();
        let mut row = [0.0; 3];
        quantizer.dequantize_row(&[(0, 5), (2, 5)], 2, &mut row);
        assert_eq!(row, [0.5, 0.0, 0.5f32.next_up()]);
        quantizer.dequantize_row(&[(0, 5), (2, 5)], 0, &mut row);
        assert_eq!(row, [0.5, 0.0, 0.5]);
        quantizer.dequantize_row(&[], 1, &mut row);
        assert_eq!(argmax(&row), 1);
    }

    proptest! {
        #[test]
        fn the_error_stays_within_the_bound(
            bits in 0u32..=1.0f32.to_bits(),
            max_error in prop_oneof![1e-6..1e-5f64, 1e-4..0.5f64]
        ) {
            let quantizer = Quantizer::new(max_error).unwrap();
            let p = f32::from_bits(bits);
            let decoded = quantizer.dequantize(quantizer.quantize(p));
            for value in [decoded, decoded.next_up()] {
                prop_assert!((f64::from(value) - f64::from(p)).abs() <= max_error);
            }
        }
    }
}
