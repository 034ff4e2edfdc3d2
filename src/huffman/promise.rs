//! The promises that a file makes of its rows, and how each is checked.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Error;
use super::header::not_null;
use super::order::{MAX_KEEP_TOP, first_classes};
use super::quantizer::{MAX_MAX_ERROR, MAX_MAX_KL, MIN_MAX_ERROR, MIN_MAX_KL, divergence};
use crate::matrix::{Rows, argmax};

/// The meaning of a matrix's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// Class probabilities, each from 0 to 1.
    Probabilities,
    /// Numbers that softmax makes probabilities of.
    Logits,
    /// Any other numbers.
    Values,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Probabilities => "probabilities",
            Self::Logits => "logits",
            Self::Values => "values",
        })
    }
}

/// How far decoded values may be from the originals.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// The largest absolute error of any entry.
    MaxError(f64),
    /// The largest divergence of any row, in bits (Kullback and Leibler, original from decoded); decoded
    /// rows sum to 1 within float32 and have no zeros, but for rows stored exactly. Of probabilities only.
    MaxKl(f64),
    /// Every bit comes back.
    Exact,
}

/// The promises that a file makes of every row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Members", into = "Members")]
pub struct Promise {
    /// The meaning of the numbers.
    pub kind: Kind,
    /// How far they may be off.
    pub bound: Bound,
    /// The number of first classes of a row whose order is kept: 1 for the argmax alone.
    pub keep_top: usize,
}

/// The members of the JSON header that state a promise.
#[derive(Serialize, Deserialize)]
struct Members {
    kind: Kind,
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    max_error: Option<f64>,
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    max_kl: Option<f64>,
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    exact: Option<bool>,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    keep_top: usize,
}

impl TryFrom<Members> for Promise {
    type Error = &'static str;

    fn try_from(members: Members) -> Result<Self, Self::Error> {
        let bound = match (members.max_error, members.max_kl, members.exact) {
            (Some(max_error), None, None) => Bound::MaxError(max_error),
            (None, Some(max_kl), None) => Bound::MaxKl(max_kl),
            (None, None, Some(true)) => Bound::Exact,
            _ => {
                return Err("expected one of max_error, max_kl and \"exact\": true, and no other");
            }
        };
        Ok(Self {
            kind: members.kind,
            bound,
            keep_top: members.keep_top,
        })
    }
}

impl From<Promise> for Members {
    fn from(promise: Promise) -> Self {
        let mut members = Self {
            kind: promise.kind,
            max_error: None,
            max_kl: None,
            exact: None,
            keep_top: promise.keep_top,
        };
        match promise.bound {
            Bound::MaxError(max_error) => members.max_error = Some(max_error),
            Bound::MaxKl(max_kl) => members.max_kl = Some(max_kl),
            Bound::Exact => members.exact = Some(true),
        }
        members
    }
}

fn one() -> usize {
    1
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

/// Figures measured of rows while they were written.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    /// Rows stored bit for bit because quantizing would have broken a promise.
    pub n_exact_rows: u64,
    /// The largest absolute error of any entry.
    pub largest_error: f64,
    /// The largest divergence of any row in bits; measured under [`Bound::MaxKl`] only.
    pub largest_kl: f64,
    /// The sum of the divergences of all rows.
    pub total_kl: f64,
}

impl Figures {
    /// Adds the figures of other rows.
    #[inline(always)]
    pub fn add(&mut self, other: &Self) {
        self.n_exact_rows += other.n_exact_rows;
        self.largest_error = self.largest_error.max(other.largest_error);
        self.largest_kl = self.largest_kl.max(other.largest_kl);
        self.total_kl += other.total_kl;
    }
}

impl Promise {
    /// A promise that keeps the argmax.
    pub fn new(kind: Kind, bound: Bound) -> Self {
        Self {
            kind,
            bound,
            keep_top: 1,
        }
    }

    /// Checks that the promise can be kept.
    ///
    /// # Errors
    /// [`Error::MaxErrorOutOfRange`], [`Error::MaxKlOutOfRange`], [`Error::KeepTopOutOfRange`], and
    /// [`Error::KlOfNoProbabilities`].
    pub fn validate(&self) -> Result<(), Error> {
        let is_of_probabilities = self.kind == Kind::Probabilities;
        match self.bound {
            Bound::MaxError(max_error) => {
                let is_in_range = match is_of_probabilities {
                    true => (MIN_MAX_ERROR..=MAX_MAX_ERROR).contains(&max_error),
                    false => max_error > 0.0 && max_error.is_finite(),
                };
                if !is_in_range {
                    return Err(Error::MaxErrorOutOfRange(max_error));
                }
            }
            Bound::MaxKl(max_kl) => {
                if !(MIN_MAX_KL..=MAX_MAX_KL).contains(&max_kl) {
                    return Err(Error::MaxKlOutOfRange(max_kl));
                }
                if !is_of_probabilities {
                    return Err(Error::KlOfNoProbabilities);
                }
            }
            Bound::Exact => {}
        }
        match (1..=MAX_KEEP_TOP).contains(&self.keep_top) {
            true => Ok(()),
            false => Err(Error::KeepTopOutOfRange(self.keep_top)),
        }
    }

    /// Checks that the values are of the kind that the promise is about; the first row is number `first_row` of all.
    ///
    /// # Errors
    /// [`Error::NotAProbability`], [`Error::NotFinite`] or [`Error::NotADistribution`] for the first
    /// row that is not.
    pub fn check(&self, matrix: Rows<'_>, first_row: u64) -> Result<(), Error> {
        let values = matrix.values();
        let unfit = match (self.bound, self.kind) {
            (Bound::Exact, _) => None,
            (_, Kind::Probabilities) => first_unfit(values, |v| (0.0..=1.0).contains(v)),
            _ => first_unfit(values, |value| value.is_finite()),
        };
        let n_classes = matrix.n_classes();
        if let Some(position) = unfit {
            let row = first_row + (position / n_classes) as u64;
            let class = position % n_classes;
            let value = values[position];
            return Err(match self.kind {
                Kind::Probabilities => Error::NotAProbability { row, class, value },
                _ => Error::NotFinite { row, class, value },
            });
        }
        if let Bound::MaxKl(_) = self.bound {
            let sum = |row: &[f32]| row.iter().map(|&p| f64::from(p)).sum::<f64>();
            let sums = values.par_chunks_exact(n_classes).map(sum);
            let unfit = sums
                .enumerate()
                .find_first(|&(_, sum)| (sum - 1.0).abs() > 1e-3);
            if let Some((position, sum)) = unfit {
                let row = first_row + position as u64;
                return Err(Error::NotADistribution { row, sum });
            }
        }
        Ok(())
    }

    /// The figures measured of a decoded row; `None` if it breaks the promise.
    #[inline(always)]
    pub fn measure(&self, original: &[f32], decoded: &[f32]) -> Option<Figures> {
        let mut figures = Figures::default();
        self.add_measured(original, decoded, &mut figures)
            .then_some(figures)
    }

    /// Whether a decoded row keeps the promise; if so, adds what is measured of it to `figures`, those of earlier rows.
    #[inline(always)]
    pub(super) fn add_measured(
        &self,
        original: &[f32],
        decoded: &[f32],
        figures: &mut Figures,
    ) -> bool {
        let mut of_row = Figures::default();
        match self.bound {
            Bound::Exact => {
                let is_same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
                return original.iter().zip(decoded).all(is_same);
            }
            Bound::MaxError(max_error) => {
                of_row.largest_error = largest_error(original, decoded, figures.largest_error);
                if of_row.largest_error > max_error {
                    return false;
                }
            }
            Bound::MaxKl(max_kl) => {
                of_row.largest_error = largest_error(original, decoded, figures.largest_error);
                let kl = divergence(original, decoded);
                let is_positive = decoded.iter().fold(true, |all, &q| all & (q > 0.0));
                if kl.is_nan() || kl > max_kl || !is_positive {
                    return false;
                }
                // Rounding can make the divergence a little less than 0.
                of_row.total_kl = kl.max(0.0);
                of_row.largest_kl = of_row.total_kl;
            }
        }
        let keeps_order = match self.keep_top {
            1 => argmax(original) == argmax(decoded),
            n => first_classes(original, n) == first_classes(decoded, n),
        };
        if keeps_order {
            figures.add(&of_row);
        }
        keeps_order
    }
}

/// Whether all values are from 0 to 1.
#[inline(always)]
pub(super) fn are_probabilities(row: &[f32]) -> bool {
    // The bits of these are integers in the same order; those of all others, but of -0, are larger.
    let largest = row.iter().fold(0, |largest, p| p.to_bits().max(largest));
    largest <= 1.0f32.to_bits() || row.iter().all(|p| (0.0..=1.0).contains(p))
}

/// The position of the first value that is not fit.
fn first_unfit(values: &[f32], is_fit: impl Fn(&f32) -> bool + Sync) -> Option<usize> {
    /// Values that a thread takes at a time.
    const PART: usize = 1 << 16;
    // By chunks without a branch, which the compiler turns into vector instructions.
    const CHUNK: usize = 64;
    let is_chunk_fit = |chunk: &[f32]| chunk.iter().fold(true, |fit, value| fit & is_fit(value));
    let are_fit = |part: &[f32]| part.chunks(CHUNK).all(is_chunk_fit);
    let part = values
        .par_chunks(PART)
        .position_first(|part| !are_fit(part))?;
    (part * PART..values.len()).find(|&position| !is_fit(&values[position]))
}

/// The largest absolute error of a row, in f64, where the difference of two values is exact enough to be compared; NaN
/// counts as infinite. If it is at most `known`, the result may be smaller.
#[inline(always)]
fn largest_error(original: &[f32], decoded: &[f32], known: f64) -> f64 {
    // In f32, of which vectors hold twice as many: rounding keeps the order of the differences, and so do their bits,
    // with those of NaN above all.
    const N_LANES: usize = 16;
    let difference = |a: f32, b: f32| (a - b).abs();
    let mut lanes = [0; N_LANES];
    let mut add = |originals: &[f32], decodeds: &[f32]| {
        for (lane, (&a, &b)) in lanes.iter_mut().zip(originals.iter().zip(decodeds)) {
            *lane = difference(a, b).to_bits().max(*lane);
        }
    };
    match (original.last_chunk(), decoded.last_chunk()) {
        (Some(last_original), Some(last_decoded)) => {
            let (originals, _) = original.as_chunks::<N_LANES>();
            let (decodeds, _) = decoded.as_chunks::<N_LANES>();
            let chunks = originals.iter().zip(decodeds);
            // The last chunk may have some values again, which changes nothing.
            for (originals, decodeds) in chunks.chain([(last_original, last_decoded)]) {
                add(originals, decodeds);
            }
        }
        _ => add(original, decoded),
    }
    let rounded = f32::from_bits(lanes.into_iter().fold(0, u32::max));
    if rounded.is_nan() {
        return f64::INFINITY;
    }
    if f64::from(rounded.next_up()) <= known {
        return 0.0;
    }
    // One of those that are largest when rounded is the largest.
    let pairs = original.iter().zip(decoded);
    pairs
        .filter(|&(&a, &b)| difference(a, b) == rounded)
        .fold(0.0, |largest, (&a, &b)| {
            largest.max((f64::from(a) - f64::from(b)).abs())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_is_not_a_number_counts_as_infinite() {
        assert_eq!(
            largest_error(&[f32::NAN, 0.1], &[0.0, 0.1], 0.3),
            f64::INFINITY
        );
        assert_eq!(largest_error(&[0.5, 0.25], &[0.25, 0.25], 0.0), 0.25);
        assert_eq!(largest_error(&[0.5, 0.25], &[0.25, 0.25], 0.2), 0.25);
        assert!(largest_error(&[0.5, 0.25], &[0.25, 0.25], 0.3) <= 0.3);
    }

    #[test]
    fn probabilities_are_told_by_their_bits() {
        for fit in [0.0, -0.0, f32::from_bits(1), 0.5, 1.0] {
            assert!(are_probabilities(&[0.25, fit, 0.75]), "{fit}");
        }
        for unfit in [1.0f32.next_up(), 2.0, -f32::from_bits(1), -1.0]
            .into_iter()
            .chain([f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN])
        {
            assert!(!are_probabilities(&[0.25, unfit, 0.75]), "{unfit}");
        }
        assert!(are_probabilities(&[]));
    }

    #[test]
    fn promises_that_nobody_can_keep_are_refused() {
        for (kind, bound) in [
            (Kind::Probabilities, Bound::MaxError(0.0)),
            (Kind::Probabilities, Bound::MaxError(0.6)),
            (Kind::Logits, Bound::MaxError(0.0)),
            (Kind::Values, Bound::MaxError(f64::INFINITY)),
            (Kind::Probabilities, Bound::MaxKl(f64::NAN)),
            (Kind::Probabilities, Bound::MaxKl(1e-9)),
            (Kind::Logits, Bound::MaxKl(0.1)),
        ] {
            assert!(Promise::new(kind, bound).validate().is_err(), "{bound:?}");
        }
        for keep_top in [0, 256] {
            let promise = Promise {
                keep_top,
                ..Promise::new(Kind::Logits, Bound::Exact)
            };
            assert!(promise.validate().is_err());
        }
        assert!(
            Promise::new(Kind::Values, Bound::MaxError(1e9))
                .validate()
                .is_ok()
        );
    }

    #[test]
    fn each_promise_is_measured() {
        let original = [0.5, 0.25, 0.25, 0.0];
        let with = |bound, keep_top| Promise {
            keep_top,
            ..Promise::new(Kind::Probabilities, bound)
        };
        let decoded = [0.5, 0.26, 0.24, 0.0];
        assert!(
            with(Bound::MaxError(0.011), 4)
                .measure(&original, &decoded)
                .is_some()
        );
        assert!(
            with(Bound::MaxError(0.009), 1)
                .measure(&original, &decoded)
                .is_none()
        );
        let swapped = [0.5, 0.24, 0.26, 0.0];
        assert!(
            with(Bound::MaxError(0.011), 1)
                .measure(&original, &swapped)
                .is_some()
        );
        assert!(
            with(Bound::MaxError(0.011), 2)
                .measure(&original, &swapped)
                .is_none()
        );
        assert!(
            with(Bound::MaxKl(0.1), 1)
                .measure(&original, &decoded)
                .is_none()
        );
        let without_zeros = [0.5, 0.25, 0.125, 0.125];
        for last in [-0.125, f32::NAN] {
            let decoded = [0.5, 0.25, 0.125, last];
            let measured = with(Bound::MaxKl(0.25), 1).measure(&original, &decoded);
            assert!(measured.is_none(), "{last}");
        }
        // Rows without mass have no divergence.
        for original in [[0.0; 4], [f32::NAN; 4]] {
            let promise = with(Bound::MaxKl(0.25), 1);
            assert!(promise.measure(&original, &[0.25; 4]).is_none());
            let original = original.map(f64::from);
            assert!(promise.measure_f64(&original, &[0.25; 4]).is_none());
        }
        let figures = with(Bound::MaxKl(0.25), 1)
            .measure(&original, &without_zeros)
            .unwrap();
        assert_eq!(figures.largest_kl, 0.25);
        assert!(with(Bound::Exact, 1).measure(&[-0.0], &[0.0]).is_none());
        assert!(
            with(Bound::Exact, 1)
                .measure(&[f32::NAN], &[f32::NAN])
                .is_some()
        );
    }
}
