//! The logarithm to base 2, by IEEE operations alone: the same on every machine, so that encoders choose alike
//! everywhere. It uses only operations that vectors have as well.

/// The logarithm to base 2 of a positive number, neither subnormal nor infinite, to within a few units in the last
/// place; for other numbers, some finite number.
#[inline(always)]
pub fn log2(value: f64) -> f64 {
    const ONE: u64 = 1.0f64.to_bits();
    const ROOT_OF_HALF: u64 = std::f64::consts::FRAC_1_SQRT_2.to_bits();
    const N_MANTISSA_BITS: u32 = f64::MANTISSA_DIGITS - 1;
    /// Integers are added to this by setting its lowest bits.
    const LARGE: f64 = (1u64 << N_MANTISSA_BITS) as f64;
    // The value is a power of two times a number from the root of a half up to the root of two.
    let shifted = value.to_bits().wrapping_add(ONE - ROOT_OF_HALF);
    let exponent = f64::from_bits(shifted >> N_MANTISSA_BITS | LARGE.to_bits());
    let exponent = exponent - (LARGE + 1023.0);
    let mantissa = (shifted & ((1 << N_MANTISSA_BITS) - 1)) + ROOT_OF_HALF;
    let mantissa = f64::from_bits(mantissa);
    // The natural logarithm is 2 artanh(t) = 2 (t + t^3/3 + t^5/5 + ...): Abramowitz and Stegun, Handbook of
    // Mathematical Functions, 4.1.27.
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    // The odd and the even terms are summed apart, so that these sums need not wait for each other.
    let square = t * t;
    let fourth = square * square;
    let [mut even, mut odd] = [0.0; 2];
    for terms in COEFFICIENTS.as_chunks::<2>().0.iter().rev() {
        even = even * fourth + terms[0];
        odd = odd * fourth + terms[1];
    }
    let series = odd * square + even;
    exponent + t * series
}

/// 2 / ln 2, divided by the odd numbers, as far as terms count in f64.
const COEFFICIENTS: [f64; 10] = {
    let mut coefficients = [0.0; 10];
    let mut index = 0;
    while index < coefficients.len() {
        coefficients[index] = 2.0 * std::f64::consts::LOG2_E / (2 * index + 1) as f64;
        index += 1;
    }
    coefficients
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_those_of_the_standard_library() {
        assert_eq!(
            [0.125, 0.5, 1.0, 2.0, 1024.0].map(log2),
            [-3.0, -1.0, 0.0, 1.0, 10.0]
        );
        let mut n = 0;
        let (least, largest) = (f64::MIN_POSITIVE.to_bits(), f64::MAX.to_bits());
        let around_one = 0.5f64.to_bits()..2.0f64.to_bits();
        let all = (least..=largest).step_by(92_233_720_368_547);
        for bits in all.chain(around_one.step_by(45_035_996_273)) {
            let value = f64::from_bits(bits);
            let expected = value.log2();
            let error = (log2(value) - expected).abs();
            assert!(
                error <= 4.0 * f64::EPSILON * expected.abs().max(f64::MIN_POSITIVE),
                "log2({value}): {} and not {expected}",
                log2(value)
            );
            n += 1;
        }
        assert!(n > 100_000);
        for value in [0.0, -1.0, f64::INFINITY, f64::NAN, f64::from_bits(1)] {
            assert!(log2(value).is_finite());
        }
    }
}
