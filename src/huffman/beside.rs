//! Rows given those of a reference, or given rows before them, which encoder and decoder both know (FORMAT.md, sections
//! 13 and 16).
//!
//! A model that was trained again, or with another seed, predicts mostly what its predecessor did on the same inputs.
//! The models of `*_beside` code each row given that of the reference, and a block says by a checksum which rows these
//! were. In time series, rows are mostly like those before them.

use super::order::first_classes;
use crate::matrix::{Rows, argmax, largest};

/// What rows are coded given.
#[derive(Debug, Clone, Copy)]
pub enum Beside<'a> {
    /// The rows of a reference.
    Reference(Rows<'a>),
    /// Rows before each in the block.
    EarlierRows(EarlierRows),
}

impl<'a> Beside<'a> {
    /// A row of the reference, if there is one.
    pub fn reference_row(self, index: usize) -> Option<&'a [f32]> {
        match self {
            Self::Reference(rows) => Some(rows.row(index)),
            Self::EarlierRows(_) => None,
        }
    }
}

/// The rows before it that a row is predicted from, and how far they are trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EarlierRows {
    /// How many rows ago the one is that counts.
    pub lag: u32,
    /// Whether the last row is taken to change as the one *lag* rows ago did from the row before that: for a lag of 1,
    /// as it did itself; for the width of an image, as its neighbour above.
    pub is_gradient: bool,
    /// How much the classes of a row must say of each other to count.
    pub caution: Caution,
}

impl EarlierRows {
    /// The last row that is not exact.
    pub fn last(caution: Caution) -> Self {
        Self {
            lag: 1,
            is_gradient: false,
            caution,
        }
    }

    /// Whether only the last row counts.
    pub fn is_last(self) -> bool {
        self == Self::last(self.caution)
    }

    /// Whether the numbers of the previous row are the prediction.
    pub fn is_row_before(self) -> bool {
        self.is_last() && self.caution.is_most()
    }

    /// Fills in `row` as expected from `rows`, all those before it: zeros, if there are none. With a `floor`, rows are
    /// probabilities: they change as their logarithms do, but for those far below the floor. Format-stable.
    #[inline(always)]
    pub fn fill(self, rows: &[f32], floor: Option<f32>, row: &mut [f32]) {
        let n_classes = row.len();
        let n_rows = rows.len() / n_classes;
        let ago = |n: usize| &rows[(n_rows - n) * n_classes..][..n_classes];
        let lag = self.lag as usize;
        if n_rows == 0 {
            row.fill(0.0);
        } else if self.is_gradient && n_rows > lag {
            let [last, to, from] = [ago(1), ago(lag), ago(lag + 1)];
            let changes = last.iter().zip(to.iter().zip(from));
            for (value, (&last, (&to, &from))) in row.iter_mut().zip(changes) {
                *value = match floor {
                    None => match last + to - from {
                        // The bits of a NaN differ between machines.
                        no_number if no_number.is_nan() => last,
                        number => number,
                    },
                    // NaN becomes 0.
                    Some(floor) => {
                        ((last + floor) * (to + floor) / (from + floor) - floor).max(0.0)
                    }
                };
            }
            if floor.is_some() {
                let sum: f32 = row.iter().sum();
                row.iter_mut().for_each(|value| *value /= sum);
            }
        } else if !self.is_gradient && n_rows >= lag {
            row.copy_from_slice(ago(lag));
        } else {
            row.copy_from_slice(ago(1));
        }
    }
}

/// The known rows: one for each row of a block, given which it is coded. Encoder and decoder both know them.
pub struct KnownRows<'a> {
    beside: Beside<'a>,
    /// The floor of [`EarlierRows::fill`], for probabilities.
    floor: Option<f32>,
    /// The rows before, as they were decoded, if more than the last one counts.
    before: Vec<f32>,
    /// What is expected of the next row.
    row: Vec<f32>,
}

impl<'a> KnownRows<'a> {
    /// The rows known when a block of `n_rows` begins.
    pub fn new(beside: Beside<'a>, floor: Option<f32>, n_rows: usize, n_classes: usize) -> Self {
        let n_kept = match beside {
            Beside::EarlierRows(before) if !before.is_last() => n_rows * n_classes,
            _ => 0,
        };
        Self {
            beside,
            floor,
            before: Vec::with_capacity(n_kept),
            row: vec![0.0; n_classes],
        }
    }

    /// The row beside the next one, which is number `index`; zeros, if there is none.
    #[inline(always)]
    pub fn row(&mut self, index: usize) -> &[f32] {
        match self.beside {
            Beside::Reference(rows) => return rows.row(index),
            Beside::EarlierRows(before) if before.is_last() => {}
            Beside::EarlierRows(before) => before.fill(&self.before, self.floor, &mut self.row),
        }
        &self.row
    }

    /// Takes the next row, as it is decoded.
    #[inline(always)]
    pub fn take(&mut self, row: &[f32], is_exact: bool) {
        match self.beside {
            Beside::Reference(_) => {}
            Beside::EarlierRows(before) if before.is_last() => {
                if !is_exact {
                    self.row.copy_from_slice(row);
                }
            }
            Beside::EarlierRows(_) => self.before.extend_from_slice(row),
        }
    }
}

/// How much the classes of a row must say of each other not to be taken for chance: it adds to the ridge of each column
/// a multiple of what the column has of its own. The most of it predicts just what the rows before say, which suits
/// rows many of whose values stay the same, or go on as they did. Expected rows state no caution: they carry a filler,
/// and their ridge is fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caution(u32);

impl Caution {
    /// The least caution, which is also the filler that expected rows carry.
    pub const LEAST: Self = Self(0);
    /// All cautions. Format-stable.
    pub const ALL: [Self; 4] = [Self(0), Self(1), Self(2), Self(3)];
    /// The cautions tried for large blocks.
    pub const OF_LARGE: [Self; 3] = [Self(0), Self(2), Self(3)];

    /// The caution of a number of 2 bits.
    pub fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// The number of the caution.
    pub fn number(self) -> u32 {
        self.0
    }

    /// The share of an entry of the diagonal that is added to it.
    pub fn own_ridge(self) -> f64 {
        [1.0 / 1024.0, 1.0 / 16.0, 4.0, 4.0][self.0 as usize]
    }

    /// Whether the classes of a row do not count for each other.
    pub fn is_most(self) -> bool {
        self == Self(3)
    }
}

/// The checksum of rows of a reference, which a block states.
pub fn checksum(reference: Rows<'_>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let mut bytes = [0; 4096];
    for values in reference.values().chunks(bytes.len() / 4) {
        for (bytes, value) in bytes.chunks_exact_mut(4).zip(values) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        hasher.update(&bytes[..4 * values.len()]);
    }
    hasher.finalize()
}

/// A row of a reference as probabilities: all from 0 to 1, whatever the reference holds.
#[derive(Debug, Default)]
pub struct Known {
    values: Vec<f32>,
}

impl Known {
    /// All zeros, where there is no row.
    pub fn nothing(n_classes: usize) -> Self {
        Self {
            values: vec![0.0; n_classes],
        }
    }

    /// Takes a row.
    #[inline(always)]
    pub fn take(&mut self, row: &[f32]) {
        self.values.clear();
        // NaN compares as false.
        let clamped = row.iter().map(|&value| match value > 0.0 {
            true if value < 1.0 => value,
            true => 1.0,
            false => 0.0,
        });
        self.values.extend(clamped);
    }

    /// The probabilities.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The rank of a class in falling order, of equals the first class first.
    #[inline(always)]
    pub fn rank(&self, class: usize) -> usize {
        let value = self.values[class];
        let (before, after) = self.values.split_at(class);
        let n_before = before.iter().filter(|&&other| other >= value).count();
        n_before + after.iter().filter(|&&other| other > value).count()
    }

    /// The class of a rank; `None` if there are not so many.
    pub fn class(&self, rank: usize) -> Option<usize> {
        match rank {
            0 => Some(argmax(&self.values)),
            _ if rank < self.values.len() => first_classes(&self.values, rank + 1).pop(),
            _ => None,
        }
    }

    /// How far the largest probability is from 1: from 0 to 72, logarithmically. Format-stable.
    #[inline(always)]
    pub fn doubt(&self) -> usize {
        let largest = largest(&self.values);
        (feature(1.0 - f64::from(largest), f64::from(1 << 16)) * 4.0) as usize
    }
}

/// log2(1 + 4 level), linear between powers of two, for a level that need not be whole: `value` times `scale`.
/// Format-stable.
#[inline(always)]
pub fn feature(value: f64, scale: f64) -> f32 {
    let number = 4.0 * (value * scale) + 1.0;
    let bits = number.to_bits();
    let exponent = (bits >> 52) as i32 - 1023;
    // The leading one of the mantissa counts for the exponent.
    let mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    (f64::from(exponent - 1) + mantissa) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_those_of_whole_levels_and_lines_between() {
        for level in [0u32, 1, 4, 5, 16, 1000, 1 << 20] {
            let expected = super::super::expected::feature(level);
            assert_eq!(feature(f64::from(level), 1.0), expected);
            assert_eq!(feature(f64::from(level) / 64.0, 64.0), expected);
        }
        assert_eq!(feature(0.125, 1.0), 0.5);
    }

    #[test]
    fn known_classes_have_ranks() {
        let mut known = Known::default();
        known.take(&[0.25, 0.5, f32::NAN, 0.25, -1.0, 7.0]);
        assert_eq!(known.values(), [0.25, 0.5, 0.0, 0.25, 0.0, 1.0]);
        let ranks: Vec<usize> = (0..6).map(|class| known.rank(class)).collect();
        assert_eq!(ranks, [2, 1, 4, 3, 5, 0]);
        for (class, rank) in ranks.into_iter().enumerate() {
            assert_eq!(known.class(rank), Some(class));
        }
        assert_eq!(known.class(6), None);
        assert_eq!(known.doubt(), 0);
        known.take(&[0.0, 0.0]);
        assert_eq!(known.doubt(), 72);
    }

    #[test]
    fn rows_before_tell_what_is_between_them() {
        let fill = |lag, is_gradient, floor, rows: &[f32]| {
            let caution = Caution::LEAST;
            let before = EarlierRows {
                lag,
                is_gradient,
                caution,
            };
            let mut row = [7.0; 2];
            before.fill(rows, floor, &mut row);
            row
        };
        let rows = [1.0, 8.0, 2.0, 9.0, 4.0, 3.0, 5.0, 5.0];
        for lag in [1, 2, 4, 5, u32::MAX] {
            for is_gradient in [false, true] {
                assert_eq!(fill(lag, is_gradient, None, &[]), [0.0, 0.0]);
                // The first rows know only the last one.
                assert_eq!(fill(lag, is_gradient, None, &rows[..2]), rows[..2]);
            }
        }
        assert_eq!(fill(2, false, None, &rows), [4.0, 3.0]);
        assert_eq!(fill(4, false, None, &rows), [1.0, 8.0]);
        assert_eq!(fill(5, false, None, &rows), [5.0, 5.0]);
        assert_eq!(fill(1, true, None, &rows), [6.0, 7.0]);
        assert_eq!(
            fill(3, true, None, &rows),
            [5.0 + 2.0 - 1.0, 5.0 + 9.0 - 8.0]
        );
        assert_eq!(fill(4, true, None, &rows), [5.0, 5.0]);
        let infinite = [f32::INFINITY, 1.0];
        assert_eq!(fill(1, true, None, &infinite.repeat(2)), infinite);
        // Probabilities are scaled to sum 1.
        assert_eq!(fill(1, true, Some(0.5), &[0.5, 0.0, 1.5, 0.0]), [1.0, 0.0]);
        assert_eq!(fill(1, true, Some(0.5), &[0.5, 0.5, 1.5, 1.5]), [0.5, 0.5]);
        let of_none = fill(1, true, Some(0.5), &[1.0, f32::NAN, 1.0, f32::INFINITY]);
        assert_eq!(of_none, [1.0, 0.0]);
        assert!(fill(1, true, Some(0.5), &[1.0; 4]) == [0.5; 2]);
    }

    #[test]
    fn a_checksum_is_that_of_the_values_in_order() {
        let values: Vec<f32> = (0..3000).map(|i| i as f32).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(checksum(Rows::new(3, &values)), crc32fast::hash(&bytes));
    }
}
