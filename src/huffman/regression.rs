//! What to expect of a class, given the top class and the classes of the row before it (FORMAT.md,
//! section 8).
//!
//! Nothing of this is sent: encoder and decoder fit the same regression to the rows of the block that
//! both know already, again and again as their number grows. A level enters as its [`feature`], a
//! logarithm. The features of a row are taken as normal with a mean for each top class, shrunk towards
//! the mean of all, and one covariance, with a ridge. Its decomposition `L D L^T` (Golub and Van Loan,
//! Matrix Computations, section 4.1) gives the regression of every class on those before it at once.
//!
//! Only IEEE additions, multiplications and divisions in a fixed order are used, so that every machine
//! gets the same bits. Format-stable: any change of an operation or of their order changes files.

/// Added to the diagonal of the scatter matrix.
const RIDGE: f64 = 4.0;
/// Rows of the overall mean that each top class's mean is mixed with.
const SHRINKAGE: f64 = 1.0;
/// Rows before the first fit.
const FIRST_FIT: usize = 8;
/// Up to this number of rows the next fit comes after half as many more, then after as many more.
const DENSE_FITS: usize = 512;

/// A level as the regression sees it: log2(1 + level), linear between powers of two; 0 for 0.
#[inline]
pub fn feature(level: u32) -> f32 {
    let number = level + 1;
    let exponent = number.ilog2();
    let power = 1u32 << exponent;
    exponent as f32 + (number - power) as f32 / power as f32
}

/// The regression, and the sums that it is fitted to.
#[derive(Debug)]
pub struct Regression {
    n_classes: usize,
    n_rows: usize,
    next_fit: usize,
    /// Rows of each top class.
    n_of_top: Vec<u32>,
    /// Sums of the features, by top class and class.
    sums: Vec<f64>,
    /// Sums of the products of two features of a row; the second class not after the first.
    products: Vec<f64>,
    /// Expectation of each class if all before it have level 0, by top class.
    base: Vec<f32>,
    /// By how much a feature of 1 of the first class raises the expectation of the second, later one.
    slopes: Vec<f32>,
}

impl Regression {
    /// The regression at the start of a block: it expects level 0 everywhere.
    pub fn new(n_classes: usize) -> Self {
        let n_pairs = n_classes * n_classes;
        Self {
            n_classes,
            n_rows: 0,
            next_fit: FIRST_FIT,
            n_of_top: vec![0; n_classes],
            sums: vec![0.0; n_pairs],
            products: vec![0.0; n_pairs],
            base: vec![0.0; n_pairs],
            slopes: vec![0.0; n_pairs],
        }
    }

    /// Sets `expectations` to those of a row of which only the top class is known.
    pub fn start_row(&self, top: usize, expectations: &mut [f32]) {
        let start = top * self.n_classes;
        expectations.copy_from_slice(&self.base[start..start + self.n_classes]);
    }

    /// Takes the level of `class`, if it is not 0, into the expectations of all later classes.
    #[inline]
    pub fn update(&self, class: usize, level: u32, expectations: &mut [f32]) {
        let x = feature(level);
        let row = &self.slopes[class * self.n_classes..(class + 1) * self.n_classes];
        for (expectation, slope) in expectations[class + 1..].iter_mut().zip(&row[class + 1..]) {
            *expectation += slope * x;
        }
    }

    /// Learns a row from its top class and the other classes with levels above 0, in rising order of
    /// class.
    pub fn learn(&mut self, top: usize, others: &[(usize, u32)]) {
        let n = self.n_classes;
        for (i, &(class, level)) in others.iter().enumerate() {
            let x = f64::from(feature(level));
            self.sums[top * n + class] += x;
            for &(before, level) in &others[..=i] {
                self.products[class * n + before] += x * f64::from(feature(level));
            }
        }
        self.n_of_top[top] += 1;
        self.n_rows += 1;
        if self.n_rows == self.next_fit {
            self.fit();
            self.next_fit += match self.n_rows < DENSE_FITS {
                true => self.n_rows / 2,
                false => self.n_rows,
            };
        }
    }

    fn fit(&mut self) {
        let n = self.n_classes;
        let n_rows = self.n_rows as f64;

        // The mean of all rows, and how far the sums of each top class are from it.
        let mut mean = vec![0.0; n];
        for sums in self.sums.chunks_exact(n) {
            add_scaled(&mut mean, 1.0, sums);
        }
        mean.iter_mut().for_each(|value| *value /= n_rows);
        let mut deviations = self.sums.clone();
        for (deviations, &n_of_top) in deviations.chunks_exact_mut(n).zip(&self.n_of_top) {
            add_scaled(deviations, -f64::from(n_of_top), &mean);
        }
        let weights: Vec<f64> = self
            .n_of_top
            .iter()
            .map(|&n_of_top| 1.0 / (f64::from(n_of_top) + SHRINKAGE))
            .collect();

        // The scatter within top classes: its lower triangle.
        let mut scatter = self.products.clone();
        for (i, row) in scatter.chunks_exact_mut(n).enumerate() {
            let row = &mut row[..=i];
            add_scaled(row, -n_rows * mean[i], &mean);
            for (deviations, weight) in deviations.chunks_exact(n).zip(&weights) {
                if deviations[i] != 0.0 {
                    add_scaled(row, -deviations[i] * weight, deviations);
                }
            }
            row[i] += RIDGE;
        }
        decompose(&mut scatter, n);
        let inverse = transposed_inverse(&scatter, n);

        for (slope, value) in self.slopes.iter_mut().zip(&inverse) {
            *slope = -value as f32;
        }
        // Top classes that have not been seen all have the same expectations.
        let mut of_unseen: Option<Vec<f32>> = None;
        for (top, stored) in self.base.chunks_exact_mut(n).enumerate() {
            if self.n_of_top[top] > 0 {
                let deviations = &deviations[top * n..(top + 1) * n];
                expect(&mean, deviations, weights[top], &inverse, stored);
            } else {
                let expected = of_unseen.get_or_insert_with(|| {
                    expect(&mean, &vec![0.0; n], 1.0, &inverse, stored);
                    stored.to_vec()
                });
                stored.copy_from_slice(expected);
            }
        }
    }
}

/// What to expect of each class if all before it have level 0: `inverse` times the mean of the top class.
fn expect(mean: &[f64], deviations: &[f64], weight: f64, inverse: &[f64], expected: &mut [f32]) {
    let n = mean.len();
    let mut sums = vec![0.0; n];
    for (class, row) in inverse.chunks_exact(n).enumerate() {
        let class_mean = mean[class] + deviations[class] * weight;
        add_scaled(&mut sums[class..], class_mean, &row[class..]);
    }
    for (expected, sum) in expected.iter_mut().zip(&sums) {
        *expected = *sum as f32;
    }
}

/// `target += factor * values`, as far as both go.
fn add_scaled(target: &mut [f64], factor: f64, values: &[f64]) {
    for (target, value) in target.iter_mut().zip(values) {
        *target += factor * value;
    }
}

/// Replaces the lower triangle of a positive definite matrix by the unit lower triangular `L` of its
/// decomposition `L D L^T` (and the diagonal by `D`).
fn decompose(matrix: &mut [f64], n: usize) {
    let mut column = vec![0.0; n];
    for k in 0..n {
        // Never below the ridge but for rounding.
        let pivot = matrix[k * n + k].max(RIDGE);
        for i in k + 1..n {
            column[i] = matrix[i * n + k];
        }
        for i in k + 1..n {
            let factor = column[i] / pivot;
            add_scaled(
                &mut matrix[i * n + k + 1..=i * n + i],
                -factor,
                &column[k + 1..],
            );
            matrix[i * n + k] = factor;
        }
    }
}

/// The transposed inverse of a unit lower triangular matrix, of which only the part below the diagonal
/// is read.
fn transposed_inverse(lower: &[f64], n: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; n * n];
    for i in 0..n {
        let (before, row) = inverse.split_at_mut(i * n);
        row[i] = 1.0;
        for (k, earlier) in before.chunks_exact(n).enumerate() {
            add_scaled(&mut row[..=k], -lower[i * n + k], earlier);
        }
    }
    let mut transposed = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            transposed[j * n + i] = inverse[i * n + j];
        }
    }
    transposed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_logarithms_at_powers_of_two_and_lines_between() {
        assert_eq!([0, 1, 3, 7].map(feature), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!([2, 4, 5].map(feature), [1.5, 2.25, 2.5]);
        assert_eq!(feature((1 << 20) - 1), 20.0);
    }

    #[test]
    fn a_decomposition_multiplies_back() {
        let n = 5;
        let matrix: Vec<f64> = (0..n * n)
            .map(|p| {
                let (i, j) = (p / n, p % n);
                if i == j {
                    20.0 + i as f64
                } else {
                    ((i + 1) * (j + 1) % 7) as f64
                }
            })
            .collect();
        let mut parts = matrix.clone();
        decompose(&mut parts, n);
        let l = |i: usize, k: usize| match i.cmp(&k) {
            std::cmp::Ordering::Less => 0.0,
            std::cmp::Ordering::Equal => 1.0,
            std::cmp::Ordering::Greater => parts[i * n + k],
        };
        let transposed = transposed_inverse(&parts, n);
        for i in 0..n {
            for j in 0..=i {
                let product: f64 = (0..n).map(|k| l(i, k) * parts[k * n + k] * l(j, k)).sum();
                assert!((product - matrix[i * n + j]).abs() < 1e-12);
                let identity: f64 = (0..n).map(|k| l(i, k) * transposed[j * n + k]).sum();
                assert!((identity - f64::from(u8::from(i == j))).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn a_class_that_follows_another_is_expected_to() {
        let mut regression = Regression::new(4);
        let mut expectations = [0.0; 4];
        regression.start_row(0, &mut expectations);
        assert_eq!(expectations, [0.0; 4]);
        for i in 0..2000u32 {
            let level = i * 7919 % 63;
            // Class 2 always has the level of class 1; class 3 is always 1 beside top class 0.
            match level {
                0 => regression.learn(0, &[(3, 1)]),
                _ => regression.learn(0, &[(1, level), (2, level), (3, 1)]),
            }
        }
        regression.start_row(0, &mut expectations);
        assert!((expectations[3] - 1.0).abs() < 0.05);
        for level in [1, 10, 40] {
            regression.start_row(0, &mut expectations);
            regression.update(1, level, &mut expectations);
            assert!(
                (expectations[2] - feature(level)).abs() < 0.2,
                "{expectations:?}"
            );
        }
    }
}
