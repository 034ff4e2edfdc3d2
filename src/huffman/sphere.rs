//! Few probabilities within a divergence, as levels on a sphere (FORMAT.md, section 4).

use super::Corrupt;
use super::logarithm::log2;
use super::quantizer::TWO_TO_52;
use super::tokens::{FINE_LEVELS, LEVELS, Tokens};
use crate::matrix::Rows;

/// Probabilities of all classes but the top one to levels on a sphere and back: the roots of the probabilities are a
/// point on the unit sphere, projected stereographically from the point opposite to the top class.
///
/// The divergence is about the square of the distance on the sphere, and the projection keeps distances alike in all
/// directions, whatever is left for the top class. For few classes, the levels of [`Root`](super::quantizer::Root) are
/// less even.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sphere {
    scale: u32,
    has_fine_tokens: bool,
}

impl Sphere {
    /// The largest scale. Format-stable: the weights of a row have a sum below 2^63.
    const MAX_SCALE: u32 = 1 << 14;

    /// The quantizer of a scale that a block states.
    ///
    /// # Errors
    /// [`Corrupt`] if the scale is 0 or too large.
    pub fn new(scale: u32) -> Result<Self, Corrupt> {
        match (1..=Self::MAX_SCALE).contains(&scale) {
            true => Ok(Self {
                scale,
                has_fine_tokens: false,
            }),
            false => Err(Corrupt("the scale of a sphere is out of range")),
        }
    }

    /// About the coarsest sphere from whose levels all rows that are not exact decode within a divergence in bits;
    /// `None` if there is none.
    pub fn of(rows: Rows<'_>, is_exact: &[bool], max_kl: f64) -> Option<Self> {
        pulp::Arch::new().dispatch(CoarsestSphere {
            rows,
            is_exact,
            max_kl,
        })
    }

    /// The same sphere, with tokens for single levels even where these are not small: for few different levels.
    pub fn with_fine_tokens(self) -> Self {
        Self {
            has_fine_tokens: true,
            ..self
        }
    }

    /// Whether the sphere has fine tokens.
    pub fn has_fine_tokens(self) -> bool {
        self.has_fine_tokens
    }

    /// The tokens of levels. Format-stable.
    pub fn tokens(self) -> Tokens {
        match self.has_fine_tokens {
            true => FINE_LEVELS,
            false => LEVELS,
        }
    }

    /// The scale, for a block to state.
    pub fn scale(self) -> u32 {
        self.scale
    }

    /// Fills in the levels of all classes; the top one gets 0.
    #[inline(always)]
    pub fn quantize(self, row: &[f32], top: usize, levels: &mut [u32]) {
        let sum: f64 = row.iter().map(|&p| f64::from(p)).sum();
        let factor = f64::from(self.scale) / (sum.sqrt() + f64::from(row[top]).sqrt());
        for (level, &p) in levels.iter_mut().zip(row) {
            *level = (f64::from(p).sqrt() * factor + TWO_TO_52).to_bits() as u32;
        }
        levels[top] = 0;
    }

    /// Decodes a row from the levels of all classes but the top one, which has 0. Format-stable: one IEEE division in
    /// f64 each, rounded to f32.
    ///
    /// # Errors
    /// [`Corrupt`] if the levels leave nothing for the top class, or one exceeds the scale.
    #[inline(always)]
    pub fn dequantize_row(
        self,
        levels: &[u32],
        top: usize,
        row: &mut [f32],
    ) -> Result<(), Corrupt> {
        let square = |number: u32| u64::from(number) * u64::from(number);
        let of_scale = square(self.scale);
        let weight = |level: u32| of_scale * (32 * square(level)).max(1);
        let (mut squares, mut largest, mut n_zeros) = (0, 0, 0);
        for (class, &level) in levels.iter().enumerate() {
            if level > self.scale {
                return Err(Corrupt("a level is out of range"));
            }
            if class != top {
                squares += square(level);
                largest = largest.max(level);
                n_zeros += u64::from(level == 0);
            }
        }
        let left = of_scale.checked_sub(squares);
        let left = left.ok_or(Corrupt("the levels of a row are too large"))?;
        // Below 2^62, as the squares sum to at most that of the scale.
        let sum = of_scale * (32 * squares + n_zeros);
        let of_top = (8 * left * left).max(weight(largest));
        let sum = (sum + of_top) as f64;
        for (value, &level) in row.iter_mut().zip(levels) {
            *value = (weight(level) as f64 / sum) as f32;
        }
        row[top] = (of_top as f64 / sum) as f32;
        Ok(())
    }

    /// The divergences of rows side by side (a column for each class) from what they decode as; infinite where levels
    /// leave nothing for the top class. They are those of [`quantize`](Self::quantize) and
    /// [`dequantize_row`](Self::dequantize_row), but for the rounding of the largest weights.
    #[inline(always)]
    fn divergences<const N: usize>(
        self,
        columns: &[[f64; N]],
        levels: &mut [[f64; N]],
    ) -> [f64; N] {
        let scale = f64::from(self.scale);
        let of_scale = scale * scale;
        let weight = |level: f64| of_scale * (32.0 * level * level).max(1.0);
        let (mut masses, mut of_tops) = ([0.0; N], [0.0f64; N]);
        for column in columns {
            for row in 0..N {
                masses[row] += column[row];
                of_tops[row] = of_tops[row].max(column[row]);
            }
        }
        let (mut squares, mut largest, mut n_zeros) = ([0.0; N], [0.0f64; N], [0.0; N]);
        // 1 until the top class of the row has come.
        let mut n_tops_left = [1.0; N];
        for (column, levels) in columns.iter().zip(&mut *levels) {
            for row in 0..N {
                let factor = scale / (masses[row].sqrt() + of_tops[row].sqrt());
                let is_top = column[row] == of_tops[row] && n_tops_left[row] > 0.0;
                let level = (column[row].sqrt() * factor + TWO_TO_52) - TWO_TO_52;
                let level = if is_top { 0.0 } else { level };
                levels[row] = if is_top { NONE } else { level };
                n_tops_left[row] = if is_top { 0.0 } else { n_tops_left[row] };
                squares[row] += level * level;
                largest[row] = largest[row].max(level);
                n_zeros[row] += if is_top || level > 0.0 { 0.0 } else { 1.0 };
            }
        }
        let (mut sums, mut weights_of_tops) = ([0.0; N], [0.0; N]);
        for row in 0..N {
            let left = of_scale - squares[row];
            weights_of_tops[row] = (8.0 * left * left).max(weight(largest[row]));
            let others = of_scale * (32.0 * squares[row] + n_zeros[row]);
            sums[row] = if left < 0.0 {
                f64::NAN
            } else {
                others + weights_of_tops[row]
            };
        }
        let mut divergences = [0.0; N];
        for (column, levels) in columns.iter().zip(&*levels) {
            for row in 0..N {
                let weight = match levels[row] == NONE {
                    true => weights_of_tops[row],
                    false => weight(levels[row]),
                };
                let decoded = f64::from((weight / sums[row]) as f32);
                let ratio = if column[row] > 0.0 {
                    column[row] / decoded
                } else {
                    1.0
                };
                divergences[row] += column[row] * log2(ratio);
            }
        }
        for row in 0..N {
            let divergence = divergences[row] / masses[row] - log2(masses[row]);
            divergences[row] = if sums[row] > 0.0 {
                divergence
            } else {
                f64::INFINITY
            };
        }
        divergences
    }
}

/// The level that marks a top class among the others.
const NONE: f64 = -1.0;

/// The search for the coarsest sphere, with the vector instructions of this machine.
struct CoarsestSphere<'a> {
    rows: Rows<'a>,
    is_exact: &'a [bool],
    max_kl: f64,
}

impl pulp::WithSimd for CoarsestSphere<'_> {
    type Output = Option<Sphere>;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> Option<Sphere> {
        const MAX_ROUNDS: usize = 8;
        /// Rows side by side.
        const N: usize = 8;
        let n_classes = self.rows.n_classes();
        let mut columns = vec![[1.0; N]; n_classes];
        let mut levels = vec![[0.0; N]; n_classes];
        let mut sphere = Sphere::new(1).ok()?;
        for _ in 0..MAX_ROUNDS {
            let scale_before = sphere.scale;
            let batches = self.rows.values().chunks(N * n_classes);
            for (rows, is_exact) in batches.zip(self.is_exact.chunks(N)) {
                for (row, values) in rows.chunks_exact(n_classes).enumerate() {
                    for (column, &value) in columns.iter_mut().zip(values) {
                        column[row] = value.into();
                    }
                }
                // The last batch may have columns without rows, which do not count.
                let is_kept = |sphere: Sphere, levels: &mut [[f64; N]]| {
                    let divergences = sphere.divergences(&columns, levels);
                    let rows = divergences.iter().zip(is_exact);
                    rows.fold(true, |all, (&kl, &is_exact)| {
                        all & (is_exact | (kl <= self.max_kl))
                    })
                };
                while !is_kept(sphere, &mut levels) {
                    sphere = Sphere::new(sphere.scale + 1 + sphere.scale / 64).ok()?;
                }
            }
            // A finer sphere may not keep what a coarser one has kept.
            if sphere.scale == scale_before {
                return Some(sphere);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::quantizer::divergence;
    use super::*;
    use crate::matrix::argmax;

    #[test]
    fn a_sphere_is_as_coarse_as_the_divergence_allows() {
        let rows: Vec<f32> = (0..=2000)
            .flat_map(|i| [i as f32 / 2e3, 1.0 - i as f32 / 2e3])
            .collect();
        let rows = Rows::new(2, &rows);
        let all = vec![false; rows.n_rows()];
        let mut decoded = [0.0; 2];
        for (max_kl, scale) in [(1e-2, 17.0), (1e-3, 53.7), (1e-4, 169.9), (1e-6, 1699.0)] {
            let sphere = Sphere::of(rows, &all, max_kl).unwrap();
            // Between two levels, the divergence is about 2 / ln 2 times the square of half a step, which is the
            // reciprocal of the scale.
            let ratio = f64::from(sphere.scale()) / scale;
            assert!((0.93..1.07).contains(&ratio), "{} {scale}", sphere.scale());
            for row in rows.rows() {
                let (mut levels, top) = ([0; 2], argmax(row));
                sphere.quantize(row, top, &mut levels);
                sphere.dequantize_row(&levels, top, &mut decoded).unwrap();
                assert!(divergence(row, &decoded) <= max_kl);
                assert!(decoded[top] >= decoded[1 - top] && decoded[1 - top] > 0.0);
            }
        }
        // No row has a divergence below 0; exact rows do not count.
        assert_eq!(Sphere::of(rows, &all, -1.0), None);
        let none = vec![true; rows.n_rows()];
        assert!(Sphere::of(rows, &none, -1.0).is_some());
        assert!(Sphere::new(0).is_err() && Sphere::new((1 << 14) + 1).is_err());
        let sphere = Sphere::new(1 << 14).unwrap();
        // The sum of these weights exceeds 64 bits.
        let all = [1 << 14; 40];
        assert!(sphere.dequantize_row(&all, 0, &mut [0.0; 40]).is_err());
        let mut decoded = [0.0; 3];
        assert!(
            sphere
                .dequantize_row(&[0, 1 << 14, 1], 0, &mut decoded)
                .is_err()
        );
        assert!(
            sphere
                .dequantize_row(&[0, (1 << 14) + 1, 0], 0, &mut decoded)
                .is_err()
        );
        sphere
            .dequantize_row(&[0, 1 << 14, 0], 0, &mut decoded)
            .unwrap();
        assert_eq!(decoded[..2], [0.5; 2]);
    }

    #[test]
    fn rows_side_by_side_have_their_divergences() {
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 24)
        };
        const N: usize = 4;
        for (n_classes, scale) in [(1, 5), (2, 3), (2, 700), (3, 54), (6, 170), (6, 1 << 14)] {
            let sphere = Sphere::new(scale).unwrap();
            for _ in 0..200 {
                let mut rows = [const { Vec::new() }; N];
                for row in &mut rows {
                    let power = 1.0 + 9.0 * random();
                    *row = (0..n_classes)
                        .map(|_| random().powf(power) as f32)
                        .collect();
                    if random() < 0.2 {
                        row.fill(0.0);
                        row[n_classes / 2] = 1.0;
                    }
                    let sum: f32 = row.iter().sum();
                    row.iter_mut().for_each(|p| *p /= sum);
                }
                let column = |class: usize| std::array::from_fn(|row| f64::from(rows[row][class]));
                let columns: Vec<[f64; N]> = (0..n_classes).map(column).collect();
                let divergences = sphere.divergences(&columns, &mut vec![[0.0; N]; n_classes]);
                for (row, found) in rows.iter().zip(divergences) {
                    let top = argmax(row);
                    let (mut levels, mut decoded) = (vec![0; n_classes], vec![0.0; n_classes]);
                    sphere.quantize(row, top, &mut levels);
                    sphere.dequantize_row(&levels, top, &mut decoded).unwrap();
                    let expected = divergence(row, &decoded);
                    assert!(
                        (found - expected).abs() < 1e-7,
                        "{row:?} {found} {expected}"
                    );
                }
            }
        }
    }
}
