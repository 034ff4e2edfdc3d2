//! What models make of rows: symbols of alphabets, with extra bits; and classes as symbols.

use super::Corrupt;
use super::bitstream::BitReader;
use super::tokens::{LEVELS, Token};

/// A symbol of one of a model's alphabets and the extra bits that go with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol {
    alphabet: u16,
    n_extra_bits: u8,
    value: u32,
    extra: u32,
}

impl Symbol {
    /// A symbol without extra bits.
    pub fn new(alphabet: usize, value: u32) -> Self {
        Self::with_extra(
            alphabet,
            Token {
                value,
                extra: 0,
                n_extra_bits: 0,
            },
        )
    }

    /// The symbol of a token, with its extra bits.
    #[inline]
    pub fn with_extra(alphabet: usize, token: Token) -> Self {
        Self {
            alphabet: alphabet as u16,
            n_extra_bits: token.n_extra_bits as u8,
            value: token.value,
            extra: token.extra,
        }
    }

    /// The symbols of an exact row: each value is the only symbol of an alphabet, which costs nothing, and extra bits.
    pub fn of_bits(alphabet: usize, row: &[f32]) -> impl Iterator<Item = Self> {
        row.iter().map(move |value| {
            let bits = Token {
                value: 0,
                extra: value.to_bits(),
                n_extra_bits: 32,
            };
            Self::with_extra(alphabet, bits)
        })
    }

    /// The same symbol as one of another alphabet.
    pub fn of_alphabet(self, alphabet: usize) -> Self {
        Self {
            alphabet: alphabet as u16,
            ..self
        }
    }

    /// The alphabet of the symbol.
    pub fn alphabet(&self) -> usize {
        self.alphabet.into()
    }

    /// The symbol within the alphabet.
    pub fn value(&self) -> u32 {
        self.value
    }

    /// The extra bits.
    pub fn extra(&self) -> u32 {
        self.extra
    }

    /// The number of extra bits.
    pub fn n_extra_bits(&self) -> u32 {
        self.n_extra_bits.into()
    }
}

/// Classes as symbols: of many classes, the low bits are extra bits, so that the alphabet stays small.
#[derive(Debug, Clone, Copy)]
pub struct ClassSymbols {
    n_classes: usize,
    n_extra_bits: u32,
}

impl ClassSymbols {
    /// The symbols of `n_classes`.
    pub fn new(n_classes: usize) -> Self {
        const MAX_BITS: u32 = 10;
        let n_bits = usize::BITS - (n_classes - 1).leading_zeros();
        Self {
            n_classes,
            n_extra_bits: n_bits.saturating_sub(MAX_BITS),
        }
    }

    /// Number of symbols.
    pub fn count(self) -> usize {
        ((self.n_classes - 1) >> self.n_extra_bits) + 1
    }

    /// The symbol of a class and its extra bits.
    pub fn token(self, class: usize) -> Token {
        Token {
            value: (class >> self.n_extra_bits) as u32,
            extra: class as u32 & ((1 << self.n_extra_bits) - 1),
            n_extra_bits: self.n_extra_bits,
        }
    }

    /// The class of a symbol, whose extra bits follow.
    ///
    /// # Errors
    /// [`Corrupt`] if the bitstream ends or there is no such class.
    #[inline]
    pub fn read(self, symbol: u32, reader: &mut BitReader) -> Result<usize, Corrupt> {
        let class =
            (symbol as usize) << self.n_extra_bits | reader.read(self.n_extra_bits)? as usize;
        match class < self.n_classes {
            true => Ok(class),
            false => Err(Corrupt("a top class does not exist")),
        }
    }
}

/// The top classes of rows as symbols, one row after another. If they are coded given the previous row, the first
/// symbol is the top class of that row, at first class 0, and the others come after it.
#[derive(Debug, Clone)]
pub struct TopClasses {
    classes: ClassSymbols,
    /// The top class of the previous row, if that has a symbol.
    before: Option<usize>,
}

impl TopClasses {
    /// The symbols at the first of some rows of `n_classes`.
    pub fn new(n_classes: usize, are_after: bool) -> Self {
        Self {
            classes: ClassSymbols::new(n_classes),
            before: are_after.then_some(0),
        }
    }

    /// Number of classes.
    pub fn n_classes(&self) -> usize {
        self.classes.n_classes
    }

    /// Whether top classes are coded given the previous row.
    pub fn are_after(&self) -> bool {
        self.before.is_some()
    }

    /// Number of symbols.
    pub fn count(&self) -> usize {
        usize::from(self.before.is_some()) + self.classes.count()
    }

    /// The symbol of the next top class and its extra bits.
    pub fn token(&mut self, class: usize) -> Token {
        let mut token = self.classes.token(class);
        if let Some(before) = &mut self.before {
            if class == *before {
                return LEVELS.split(0);
            }
            *before = class;
            token.value += 1;
        }
        token
    }

    /// The top class of the next row, given its symbol; its extra bits follow.
    ///
    /// # Errors
    /// [`Corrupt`] as [`ClassSymbols::read`].
    #[inline]
    pub fn read(&mut self, symbol: u32, reader: &mut BitReader) -> Result<usize, Corrupt> {
        let Some(before) = &mut self.before else {
            return self.classes.read(symbol, reader);
        };
        if let Some(symbol) = symbol.checked_sub(1) {
            *before = self.classes.read(symbol, reader)?;
        }
        Ok(*before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_classes_are_told_after_the_row_before() {
        let tops = [0, 0, 3, 3, 3, 1, 3, 0];
        for (are_after, count, symbols) in [
            (false, 5, [0, 0, 3, 3, 3, 1, 3, 0]),
            // The first row has class 0 before it.
            (true, 6, [0, 0, 4, 0, 0, 2, 4, 1]),
        ] {
            let mut told = TopClasses::new(5, are_after);
            assert_eq!((told.n_classes(), told.count()), (5, count));
            let mut read = told.clone();
            assert_eq!(tops.map(|top| told.token(top).value), symbols);
            let mut reader = BitReader::default();
            assert_eq!(
                symbols.map(|symbol| read.read(symbol, &mut reader).unwrap()),
                tops
            );
            assert!(read.read(count as u32, &mut reader).is_err());
        }
        // With many classes, low bits follow, but not for the class of the previous row.
        let mut told = TopClasses::new(3000, true);
        assert_eq!(told.count(), 751);
        let tokens = [2999, 2999, 5].map(|top| told.token(top));
        let parts = tokens.map(|token| (token.value, token.extra, token.n_extra_bits));
        assert_eq!(parts, [(750, 3, 2), (0, 0, 0), (2, 1, 2)]);
    }
}
