//! Whether the order of rows says something, so that an encoder may tell them after those before them (FORMAT.md,
//! section 16).

use super::codebook::entropy_bits;
use super::symbols::TopClasses;
use crate::matrix::{Rows, argmax};

/// Whether it is likely to pay that top classes are told after those of the rows before: they come in runs, as in data
/// sets that are sorted by class.
pub fn has_runs_of_tops(matrix: Rows<'_>) -> bool {
    /// What a row must cost less, and what the codebook costs more, in bits.
    const LEAST_SAVING: f64 = 0.1;
    const CODEBOOK: f64 = 32.0;
    /// About where rows are certain, which is told jointly with the top class.
    const CERTAIN: f32 = 0.998;
    let n_bits = |are_after: bool| {
        let mut tops = TopClasses::new(matrix.n_classes(), are_after);
        let mut counts = vec![0; 2 * tops.count()];
        let mut n_extra_bits = 0;
        for row in matrix.rows() {
            let top = argmax(row);
            let token = tops.token(top);
            counts[2 * token.value as usize + usize::from(row[top] > CERTAIN)] += 1;
            n_extra_bits += u64::from(token.n_extra_bits);
        }
        entropy_bits(&counts) + n_extra_bits as f64
    };
    n_bits(false) - n_bits(true) > LEAST_SAVING * matrix.n_rows() as f64 + CODEBOOK
}

/// Whether rows are so much more often nearer to the row before than to some other that it may pay to tell them beside
/// it.
pub fn are_near(matrix: Rows<'_>) -> bool {
    /// Rows to look at.
    const N_ROWS: usize = 512;
    /// So many are no chance.
    const N_MORE: usize = 8;
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
    n_nearer > 2 * n_farther + N_MORE
}

#[cfg(test)]
mod tests {
    use super::*;

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
        // Runs of a class whose rows are always certain and of one whose rows never are.
        let is_first = |row: usize| (row / 20).is_multiple_of(2);
        let two = |shares: [f32; 2]| {
            let row = move |row| {
                if is_first(row) {
                    [shares[0], 0.0]
                } else {
                    [0.0, shares[1]]
                }
            };
            (0..400).flat_map(row).collect::<Vec<f32>>()
        };
        assert!(has_runs_of_tops(Rows::new(2, &two([0.9, 0.9]))));
        assert!(!has_runs_of_tops(Rows::new(2, &two([1.0, 0.9]))));
        // Many classes, whose low bits stand beside their symbols, in any order.
        let mut many = vec![0.0; 200 * 3000];
        for (row, values) in many.chunks_exact_mut(3000).enumerate() {
            values[row * 7919 % 3000] = 0.9;
        }
        assert!(!has_runs_of_tops(Rows::new(3000, &many)));
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
}
