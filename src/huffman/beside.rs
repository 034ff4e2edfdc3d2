//! Rows beside those of a reference, which encoder and decoder both know (FORMAT.md, section 13).
//!
//! A model that was trained again, or with another seed, predicts mostly what the one before did on the
//! same inputs. The models of `*_beside` code a row with that of the reference at hand, and a block says
//! by a checksum which rows these were.

use super::block::TopClasses;
use super::codebook::entropy_bits;
use super::order::first_classes;
use crate::matrix::{Rows, argmax, largest};

/// The checksum of the rows of a reference that a block was told against.
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
    /// The [doubt](Self::doubt) of a row of which [nothing](Self::nothing) is known. Format-stable.
    pub const MOST_DOUBT: usize = 72;

    /// Where there is no row: all zeros.
    pub fn nothing(n_classes: usize) -> Self {
        Self {
            values: vec![0.0; n_classes],
        }
    }

    /// Takes the row at hand.
    #[inline(always)]
    pub fn take(&mut self, row: &[f32]) {
        self.values.clear();
        // A comparison with no number is false.
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

    /// Where a class stands in falling order, of equals the first class first.
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

/// log2(1 + 4 level), linear between powers of two, of a level that need not be whole: `value` times
/// `scale`. Format-stable.
#[inline(always)]
pub fn feature(value: f64, scale: f64) -> f32 {
    let number = 4.0 * (value * scale) + 1.0;
    let bits = number.to_bits();
    let exponent = (bits >> 52) as i32 - 1023;
    // The leading one of the mantissa counts for the exponent.
    let mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    (f64::from(exponent - 1) + mantissa) as f32
}

/// Whether it is likely to pay that top classes are told after those of the rows before: they come in runs, as in data
/// sets that are sorted by class.
pub fn has_runs_of_tops(matrix: Rows<'_>) -> bool {
    /// What a row costs less.
    const LEAST_SAVING: f64 = 0.1;
    const CODEBOOK: f64 = 32.0;
    let n_classes = matrix.n_classes();
    let mut symbols = TopClasses::new(n_classes, true);
    let mut alone = vec![0; n_classes];
    let mut after = vec![0; symbols.count()];
    for row in matrix.rows() {
        let top = argmax(row);
        alone[top] += 1;
        after[symbols.token(top).value as usize] += 1;
    }
    let least = LEAST_SAVING * matrix.n_rows() as f64 + CODEBOOK;
    entropy_bits(&alone) - entropy_bits(&after) > least
}

/// Whether rows are so much more often nearer to the row before than to some other that it may pay to tell them beside
/// it.
pub fn are_near(matrix: Rows<'_>) -> bool {
    /// Rows to look at.
    const N_ROWS: usize = 512;
    let n_rows = matrix.n_rows();
    let distance = |a: usize, b: usize| -> f64 {
        let values = matrix.row(a).iter().zip(matrix.row(b));
        values.map(|(a, b)| f64::from((a - b).abs())).sum()
    };
    let (mut n_nearer, mut n_farther) = (0, 0);
    for row in (1..n_rows).step_by(n_rows.div_ceil(N_ROWS).max(1)) {
        let of_before = distance(row, row - 1);
        let of_other = distance(row, (row + n_rows / 2) % n_rows);
        n_nearer += usize::from(of_before < of_other);
        n_farther += usize::from(of_before > of_other);
    }
    n_nearer > 2 * n_farther
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
        assert_eq!(known.doubt(), Known::MOST_DOUBT);
    }

    /// Rows of four classes, of these top classes.
    fn of_tops(tops: impl Iterator<Item = usize>) -> Vec<f32> {
        let row = |top: usize| (0..4).map(move |class| if class == top { 0.7 } else { 0.1 });
        tops.flat_map(row).collect()
    }

    #[test]
    fn top_classes_have_runs_where_they_stay_for_long() {
        let has_runs = |values: &[f32]| has_runs_of_tops(Rows::new(4, values));
        assert!(has_runs(&of_tops((0..400).map(|row| row / 100))));
        assert!(has_runs(&of_tops((0..400).map(|row| row / 4 % 4))));
        assert!(!has_runs(&of_tops((0..400).map(|row| row * 7919 / 31 % 4))));
        assert!(!has_runs(&of_tops((0..400).map(|row| row % 4))));
        // The same in all rows costs nothing anyway, and few rows do not pay for more symbols.
        assert!(!has_runs(&of_tops((0..400).map(|_| 2))));
        assert!(!has_runs(&of_tops((0..8).map(|row| row / 2))));
        assert!(!has_runs(&[]));
    }

    #[test]
    fn rows_are_near_those_before_them_if_others_mostly_are_not() {
        let are_near = |values: &[f32]| are_near(Rows::new(2, values));
        let smooth: Vec<f32> = (0..2000).map(|i| (i as f32 / 700.0).sin()).collect();
        assert!(are_near(&smooth));
        let mixed = |i: u32| (i.wrapping_mul(2_654_435_761) ^ i << 16) as f32;
        let noise: Vec<f32> = (0..2000).map(mixed).collect();
        assert!(!are_near(&noise));
        // Values that are far from all others, or no numbers, do not hide it.
        let mut far = smooth;
        far.iter_mut().step_by(97).for_each(|value| *value = 1e30);
        far[500] = f32::NAN;
        assert!(are_near(&far));
        for values in [&[0.5; 300][..], &[1.0, 2.0], &[]] {
            assert!(!are_near(values));
        }
    }

    #[test]
    fn a_checksum_is_that_of_the_values_in_order() {
        let values: Vec<f32> = (0..3000).map(|i| i as f32).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(checksum(Rows::new(3, &values)), crc32fast::hash(&bytes));
    }
}
