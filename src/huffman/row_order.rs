//! Whether the order of rows is informative, so that an encoder may code them given those before them (FORMAT.md,
//! section 16).

use std::ops::RangeInclusive;

use super::beside::{Caution, EarlierRows};
use super::codebook::entropy_bits;
use super::symbols::TopClasses;
use crate::matrix::{Rows, argmax};

/// Whether it is likely to pay to code top classes given that of the previous row: they come in runs, as in data sets
/// that are sorted by class.
pub fn has_runs_of_tops(matrix: Rows<'_>) -> bool {
    /// Bits that each row must save, and bits that the codebook takes more.
    const LEAST_SAVING: f64 = 0.1;
    const CODEBOOK: f64 = 32.0;
    /// About where rows become certain, which is coded jointly with the top class.
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

/// Whether rows are nearer to the previous row than to some other so much more often that it may pay to code them given
/// it.
pub fn are_near(matrix: Rows<'_>) -> bool {
    /// Rows to look at.
    const N_ROWS: usize = 512;
    /// A surplus that is no chance.
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

/// The lags and gradients that predict rows better than the last row does: the best of each kind, or none. Where time
/// counts as well as bytes, only gradients, and only if rows are near each other.
pub fn earlier(matrix: Rows<'_>, time_counts: bool) -> Vec<EarlierRows> {
    /// The largest lag.
    const MAX_LAG: usize = 4096;
    /// Rows and classes that are looked at for all lags; rows, of all classes, for the best lags, and the number of
    /// these.
    const N_ROWS: usize = 64;
    const N_CLASSES: usize = 4;
    const N_ROWS_OF_BEST: usize = 1024;
    const N_BEST: usize = 8;
    /// Errors up to so many times the least are as good.
    const MOST_OF_BEST: f64 = 1.1;
    /// A surplus of rows that is no chance.
    const N_MORE: usize = 16;
    if time_counts && !are_near(matrix) {
        return Vec::new();
    }
    let n_classes = matrix.n_classes();
    let max_lag = (matrix.n_rows() / 2).min(MAX_LAG);
    let rows = |n: usize| {
        let rows = max_lag + 1..matrix.n_rows();
        // Odd, so that not all of them are in the same columns of an image.
        let step = rows.len().div_ceil(n) | 1;
        rows.step_by(step)
    };
    let value = |row: usize, class: usize| matrix.values()[row * n_classes + class];
    let last = EarlierRows::last(Caution::LEAST);
    // The error of what is predicted of these classes in a row; where that is no number, of the last row.
    let off = |before: EarlierRows, classes: &[usize], row: usize| -> f64 {
        let lag = before.lag as usize;
        let offs = classes.iter().map(|&class| {
            let (now, last) = (value(row, class), value(row - 1, class));
            let predicted = match before.is_gradient {
                true => last + value(row - lag, class) - value(row - lag - 1, class),
                false => value(row - lag, class),
            };
            let mut offs = [now - predicted, now - last].into_iter();
            f64::from(offs.find(|off| off.is_finite()).unwrap_or(0.0).abs())
        });
        offs.sum()
    };
    let error = |before: EarlierRows, classes: &[usize], n_rows: usize| -> f64 {
        rows(n_rows).map(|row| off(before, classes, row)).sum()
    };
    // The classes that change most; the others mostly change with them.
    let all: Vec<usize> = (0..n_classes).collect();
    let changes = all.iter().map(|&class| error(last, &[class], N_ROWS));
    let changes: Vec<f64> = changes.collect();
    if changes.iter().all(|&change| change == 0.0) {
        return Vec::new();
    }
    let mut classes = all.clone();
    classes.sort_by(|&a, &b| changes[b].total_cmp(&changes[a]));
    classes.truncate(N_CLASSES);
    let best = |is_gradient: bool, lags: RangeInclusive<usize>| {
        let befores = lags.map(|lag| EarlierRows {
            lag: lag as u32,
            is_gradient,
            ..last
        });
        let tried = befores.map(|before| (before, error(before, &classes, N_ROWS)));
        let mut tried: Vec<(EarlierRows, f64)> = tried.collect();
        tried.sort_by(|a, b| a.1.total_cmp(&b.1));
        tried.truncate(N_BEST);
        for (before, error_of) in &mut tried {
            *error_of = error(*before, &all, N_ROWS_OF_BEST);
        }
        let least = tried.iter().map(|of| of.1).fold(f64::MAX, f64::min);
        // What repeats does so after twice as many rows, too: take the smallest of the lags that are about as good.
        let good = tried.into_iter().filter(|of| of.1 <= MOST_OF_BEST * least);
        let best = good.map(|of| of.0).min_by_key(|before| before.lag)?;
        let (mut n_nearer, mut n_farther) = (0, 0);
        for row in rows(N_ROWS_OF_BEST) {
            let [of_best, of_last] = [best, last].map(|before| off(before, &all, row));
            n_nearer += usize::from(of_best < of_last);
            n_farther += usize::from(of_best > of_last);
        }
        (2 * n_nearer > 3 * n_farther + N_MORE).then_some(best)
    };
    let kinds = [(false, 2..=max_lag), (true, 1..=1), (true, 2..=max_lag)];
    let of_kinds = kinds
        .into_iter()
        .filter(|&(is_gradient, _)| is_gradient || !time_counts)
        .filter_map(|(is_gradient, lags)| best(is_gradient, lags));
    of_kinds.collect()
}

#[cfg(test)]
mod tests {
    use super::super::noise;
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
        // Equal top classes cost nothing anyway, and few rows do not pay for more symbols.
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
        // Many classes, in any order; their low bits are extra bits.
        let mut many = vec![0.0; 200 * 3000];
        for (row, values) in many.chunks_exact_mut(3000).enumerate() {
            values[row * 7919 % 3000] = 0.9;
        }
        assert!(!has_runs_of_tops(Rows::new(3000, &many)));
    }

    #[test]
    fn earlier_rows_count_where_they_tell_more_than_the_last_one() {
        let earlier = |values: &[f32]| {
            let befores = earlier(Rows::new(2, values), false);
            let lags = befores.iter().map(|of| (of.lag, of.is_gradient));
            lags.collect::<Vec<_>>()
        };
        let of_noise = |i| noise(i) as f32 / (1u64 << 32) as f32;
        let noise: Vec<f32> = (0..2000).map(of_noise).collect();
        assert_eq!(earlier(&noise), []);
        // A walk, of which the last row says all there is to know.
        let mut at = [0.0, 0.0];
        let walk: Vec<f32> = noise
            .chunks_exact(2)
            .flat_map(|step| {
                at = [at[0] + step[0] - 0.5, at[1] + step[1] - 0.5];
                at
            })
            .collect();
        assert_eq!(earlier(&walk), []);
        // Rows that move evenly.
        let smooth: Vec<f32> = (0..2000).map(|i| (i as f32 / 700.0).sin() * 9.0).collect();
        assert!(earlier(&smooth).contains(&(1, true)));
        let of_large = super::earlier(Rows::new(2, &smooth), true);
        assert!(of_large.iter().all(|before| before.is_gradient) && !of_large.is_empty());
        // Rows that repeat after 37, but for some noise.
        let again: Vec<f32> = (0..2000).map(|i| noise[i % 74] + noise[i] / 16.0).collect();
        assert_eq!(earlier(&again)[0], (37, false));
        assert_eq!(super::earlier(Rows::new(2, &again), true), []);
        // An image of 50 columns, each line of which is another one plus a constant.
        let image: Vec<f32> = (0..2000)
            .map(|i| noise[i % 100] + noise[i / 100] + noise[i] / 64.0)
            .collect();
        let has_image = |values: &[f32]| {
            let of_lines = |&(lag, is_gradient): &(u32, bool)| is_gradient && lag % 50 == 0;
            earlier(values).iter().any(of_lines)
        };
        assert!(has_image(&image));
        let mut with_no_number = image;
        with_no_number[1234] = f32::NAN;
        with_no_number[432] = f32::INFINITY;
        assert!(has_image(&with_no_number));
        // Rows that seldom differ, and masked scores, in any order.
        let mut seldom = vec![0.0; 32_000];
        let mut masked = vec![0.0; 32_000];
        for (i, (seldom, masked)) in seldom.iter_mut().zip(&mut masked).enumerate() {
            *seldom = f32::from(of_noise(2 * i) < 0.01);
            *masked = if of_noise(2 * i) < 0.3 {
                f32::NEG_INFINITY
            } else {
                of_noise(2 * i + 1)
            };
        }
        assert_eq!(earlier(&seldom), []);
        assert_eq!(earlier(&masked), []);
        for values in [&[0.5; 300][..], &[1.0, 2.0], &[1.0, 2.0, 4.0, 3.0], &[]] {
            assert_eq!(earlier(values), []);
        }
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
