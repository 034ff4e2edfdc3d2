//! Numbers as symbols of small alphabets (FORMAT.md, section 6): a token, which is coded, and the number's lowest bits,
//! which are stored as they are.

/// A scheme of tokens: numbers below `2^n_direct_bits` are their own token; each power of two above has
/// `2^n_mantissa_bits` tokens, by its leading bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tokens {
    n_direct_bits: u32,
    n_mantissa_bits: u32,
    n_bits: u32,
    /// The largest number of extra bits: tokens that would have more have this many.
    max_extra_bits: u32,
}

/// The tokens of levels, ranks, residuals and other numbers of up to 32 bits.
pub const LEVELS: Tokens = Tokens {
    n_direct_bits: 4,
    n_mantissa_bits: 2,
    n_bits: 32,
    max_extra_bits: u32::BITS,
};

/// The tokens of levels below 2^22 of which few large ones occur, again and again; as many as [`LEVELS`] has.
pub const FINE_LEVELS: Tokens = Tokens {
    n_direct_bits: 6,
    n_mantissa_bits: 2,
    n_bits: 22,
    max_extra_bits: u32::BITS,
};

/// The tokens of runs, below 2^23: coarser, since there are fewer of them.
pub const RUNS: Tokens = Tokens {
    n_direct_bits: 2,
    n_mantissa_bits: 1,
    n_bits: 23,
    max_extra_bits: u32::BITS,
};

/// The tokens of ranges, two for each power of two: contexts, whose extra bits do not matter.
pub const RANGES: Tokens = Tokens {
    n_direct_bits: 1,
    n_mantissa_bits: 1,
    n_bits: 21,
    max_extra_bits: u32::BITS,
};

/// A number as a token and extra bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// The token.
    pub value: u32,
    /// Bits that follow its code as they are.
    pub extra: u32,
    /// The number of these bits.
    pub n_extra_bits: u32,
}

impl Tokens {
    /// Number of tokens.
    pub const fn count(self) -> usize {
        ((1 << self.n_direct_bits) + ((self.n_bits - self.n_direct_bits) << self.n_mantissa_bits))
            as usize
    }

    /// The same scheme with at most `max_extra_bits` extra bits a token; it has as many tokens.
    pub const fn limited_to(self, max_extra_bits: u32) -> Self {
        Self {
            max_extra_bits,
            ..self
        }
    }

    /// Splits a number.
    pub fn split(self, number: u32) -> Token {
        debug_assert!(u64::from(number) >> self.n_bits == 0);
        if number >> self.n_direct_bits == 0 {
            return Token {
                value: number,
                extra: 0,
                n_extra_bits: 0,
            };
        }
        let n_extra_bits = (number.ilog2() - self.n_mantissa_bits).min(self.max_extra_bits);
        // The mantissa with its leading 1, or more.
        let mantissa = number >> n_extra_bits;
        let n_exponents = n_extra_bits + self.n_mantissa_bits - self.n_direct_bits;
        Token {
            value: (1 << self.n_direct_bits) - (1 << self.n_mantissa_bits)
                + (n_exponents << self.n_mantissa_bits)
                + mantissa,
            extra: number & ((1 << n_extra_bits) - 1),
            n_extra_bits,
        }
    }

    /// The least number that a token stands for, and the number of its extra bits.
    pub fn meaning(self, value: u32) -> (u32, u32) {
        let Some(above) = value.checked_sub(1 << self.n_direct_bits) else {
            return (value, 0);
        };
        let least = self.n_direct_bits - self.n_mantissa_bits;
        let n_extra_bits = ((above >> self.n_mantissa_bits) + least).min(self.max_extra_bits);
        let mantissa =
            (1 << self.n_mantissa_bits) + above - ((n_extra_bits - least) << self.n_mantissa_bits);
        (mantissa << n_extra_bits, n_extra_bits)
    }
}

/// 0, -1, 1, -2, 2 … become 0, 1, 2, 3, 4 …
pub fn zigzag(number: i32) -> u32 {
    (number << 1 ^ number >> 31) as u32
}

/// The inverse of [`zigzag`].
pub fn from_zigzag(number: u32) -> i32 {
    (number >> 1) as i32 ^ -((number & 1) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_cover_all_numbers_in_order() {
        for tokens in [LEVELS, FINE_LEVELS, RUNS, RANGES] {
            let largest = ((1u64 << tokens.n_bits) - 1) as u32;
            let mut last = 0;
            for number in (0..70_000).chain([1 << 20, (1 << 20) + 1, largest]) {
                let token = tokens.split(number);
                assert!((token.value as usize) < tokens.count());
                assert!(token.value == last || token.value == last + 1 || number >= 70_000);
                let (base, n_extra_bits) = tokens.meaning(token.value);
                assert_eq!(n_extra_bits, token.n_extra_bits);
                assert_eq!(base + token.extra, number);
                last = token.value;
            }
            assert_eq!(tokens.split(largest).value as usize, tokens.count() - 1);
        }
        assert_eq!(
            (LEVELS.count(), RUNS.count(), RANGES.count()),
            (128, 46, 42)
        );
    }

    #[test]
    fn limited_tokens_are_as_wide_from_some_number_on() {
        for max_extra_bits in [2, 8, 13] {
            let tokens = LEVELS.limited_to(max_extra_bits);
            assert_eq!(tokens.count(), LEVELS.count());
            let mut last = 0;
            for number in 0..400 << max_extra_bits {
                let token = tokens.split(number);
                let usual = LEVELS.split(number);
                if usual.n_extra_bits <= max_extra_bits {
                    assert_eq!(token, usual);
                }
                assert_eq!(token.n_extra_bits, usual.n_extra_bits.min(max_extra_bits));
                assert!(token.value == last || token.value == last + 1);
                let (base, n_extra_bits) = tokens.meaning(token.value);
                assert_eq!(
                    (base + token.extra, n_extra_bits),
                    (number, token.n_extra_bits)
                );
                last = token.value;
            }
        }
    }

    #[test]
    fn zigzag_is_its_own_inverse() {
        assert_eq!([0, -1, 1, -2, 2].map(zigzag), [0, 1, 2, 3, 4]);
        for number in [i32::MIN, -1_000_000, -7, 0, 7, 1_000_000, i32::MAX] {
            assert_eq!(from_zigzag(zigzag(number)), number);
        }
    }
}
