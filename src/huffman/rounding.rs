//! Rows of float64, which the codec takes as float32: they are rounded so that promises about the float64 values can be
//! kept, and measured against these.

use super::Error;
use super::order::first_classes;
use super::promise::{Bound, Figures, Kind, Promise};
use super::quantizer::divergence;
use crate::matrix::PredictionMatrix;

/// Rounds rows to float32. First classes of a row, whose order is promised, are set apart by units in the last place
/// where rounding makes them equal. The first row is number `first_row` of all.
///
/// # Errors
/// [`Error::NotFloat32`] for a value that would not come back exactly as promised,
/// [`Error::Float32TooCoarse`] for one that float32 cannot hold within the bound.
///
/// # Panics
/// If `n_classes` is 0 or does not divide the number of values.
pub fn round(
    values: &[f64],
    n_classes: usize,
    promise: &Promise,
    first_row: u64,
) -> Result<PredictionMatrix, Error> {
    let place = |position: usize| {
        let row = first_row + (position / n_classes) as u64;
        (row, position % n_classes, values[position])
    };
    let mut rounded: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    match promise.bound {
        Bound::Exact => {
            let is_same = |(a, b): (&f64, &f32)| a.to_bits() == f64::from(*b).to_bits();
            let mut pairs = values.iter().zip(&rounded);
            if let Some(position) = pairs.position(|pair| !is_same(pair)) {
                let (row, class, value) = place(position);
                return Err(Error::NotFloat32 { row, class, value });
            }
            return Ok(PredictionMatrix::new(n_classes, rounded));
        }
        Bound::MaxKl(_) => {
            // A value above 0 must not become 0: the divergence would be infinite.
            for (value, rounded) in values.iter().zip(&mut rounded) {
                if *value > 0.0 && *rounded == 0.0 {
                    *rounded = f32::from_bits(1);
                }
            }
        }
        Bound::MaxError(_) => {}
    }
    let most = match promise.kind {
        Kind::Probabilities => 1.0,
        _ => f32::MAX,
    };
    let rows = values.chunks_exact(n_classes);
    for (original, rounded) in rows.zip(rounded.chunks_exact_mut(n_classes)) {
        keep_order(original, rounded, promise.keep_top, most);
    }
    if let Bound::MaxError(max_error) = promise.bound {
        // Infinite values and NaN are for others to report.
        let is_lost = |(a, b): (&f64, &f32)| a.is_finite() && (a - f64::from(*b)).abs() > max_error;
        if let Some(position) = values.iter().zip(&rounded).position(is_lost) {
            let (row, class, value) = place(position);
            return Err(Error::Float32TooCoarse { row, class, value });
        }
    }
    Ok(PredictionMatrix::new(n_classes, rounded))
}

impl Promise {
    /// The figures measured of a decoded row against the float64 values that the original was rounded from; `None` if
    /// it breaks the promise. The writer has checked that no rounding breaks [`Bound::Exact`].
    pub fn measure_f64(&self, original: &[f64], decoded: &[f32]) -> Option<Figures> {
        let mut figures = Figures {
            largest_error: largest_error(original, decoded),
            ..Figures::default()
        };
        match self.bound {
            Bound::Exact => {}
            Bound::MaxError(max_error) => {
                if figures.largest_error > max_error {
                    return None;
                }
            }
            Bound::MaxKl(max_kl) => {
                let kl = divergence(original, decoded);
                if kl.is_nan() || kl > max_kl || !decoded.iter().all(|&q| q > 0.0) {
                    return None;
                }
                // Rounding can make the divergence a little less than 0.
                figures.total_kl = kl.max(0.0);
                figures.largest_kl = figures.total_kl;
            }
        }
        is_order_kept(original, decoded, self.keep_top).then_some(figures)
    }
}

/// Sets the first classes of a rounded row apart, none above `most`, where they have lost their order.
fn keep_order(original: &[f64], rounded: &mut [f32], keep_top: usize, most: f32) {
    if is_order_kept(original, rounded, keep_top) || original.iter().any(|value| value.is_nan()) {
        return;
    }
    let first = first_classes(original, keep_top);
    let mut is_first = vec![false; rounded.len()];
    first.iter().for_each(|&class| is_first[class] = true);
    let others = || (0..is_first.len()).filter(|&class| !is_first[class]);

    // Each first class is raised above what comes after it, the last of them first.
    let mut after: Option<usize> = None;
    for class in others() {
        if after.is_none_or(|other| rounded[class] > rounded[other]) {
            after = Some(class);
        }
    }
    for &class in first.iter().rev() {
        if let Some(after) = after {
            // Of equal values, the first class comes first.
            let least = match class < after {
                true => rounded[after],
                false => rounded[after].next_up(),
            };
            rounded[class] = rounded[class].max(least);
        }
        after = Some(class);
    }
    // Where a class would exceed `most`, all are lowered below those before them.
    if first.first().is_some_and(|&top| rounded[top] > most) {
        let mut before: Option<usize> = None;
        let mut lower = |class: usize, before: Option<usize>| {
            let limit = match before {
                None => most,
                Some(before) if before < class => rounded[before],
                Some(before) => rounded[before].next_down(),
            };
            rounded[class] = rounded[class].min(limit);
        };
        for &class in &first {
            lower(class, before);
            before = Some(class);
        }
        others().for_each(|class| lower(class, before));
    }
}

fn is_order_kept(original: &[f64], other: &[f32], keep_top: usize) -> bool {
    match keep_top {
        1 => argmax(original) == crate::matrix::argmax(other),
        n => first_classes(original, n) == first_classes(other, n),
    }
}

/// The index of the largest value, the first of equals; as [`argmax`](crate::matrix::argmax) of float32.
fn argmax(row: &[f64]) -> usize {
    let larger = |a: f64, b: f64| if b > a { b } else { a };
    let mut lanes = [f64::NEG_INFINITY; 8];
    for chunk in row.chunks(lanes.len()) {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, value);
        }
    }
    let largest = lanes.into_iter().fold(f64::NEG_INFINITY, larger);
    row.iter().position(|&value| value == largest).unwrap_or(0)
}

/// The largest absolute error of a row; NaN counts as infinite.
fn largest_error(original: &[f64], decoded: &[f32]) -> f64 {
    let errors = original.iter().zip(decoded);
    let errors = errors.map(|(a, b)| (a - f64::from(*b)).abs());
    errors.fold(0.0, |largest, error| match error.is_nan() {
        true => f64::INFINITY,
        false => largest.max(error),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::huffman::{FrameHeader, FrameReader, FrameWriter};

    fn promise(bound: Bound, keep_top: usize) -> Promise {
        Promise {
            keep_top,
            ..Promise::new(Kind::Probabilities, bound)
        }
    }

    /// Compresses and decodes rows.
    fn decoded(values: &[f64], n_classes: usize, promise: Promise) -> Result<Vec<f32>, Error> {
        let header = FrameHeader::new(n_classes, promise).unwrap();
        let mut writer = FrameWriter::new(Vec::new(), header).unwrap();
        // In two pieces, divided within a block.
        let middle = values.len() / n_classes / 2 * n_classes;
        writer.write_f64(&values[..middle])?;
        writer.write_f64(&values[middle..])?;
        let bytes = writer.finish()?.0;
        let mut reader = FrameReader::new(&bytes[..])?;
        let mut all = Vec::new();
        while let Some(block) = reader.next_block()? {
            all.extend_from_slice(block.values());
        }
        Ok(all)
    }

    #[test]
    fn what_float32_makes_equal_is_set_apart() {
        let half = 0.5 - 1e-12;
        for row in [
            [half, 0.5, 0.0],
            [0.5, half, 0.0],
            [1.0 - 1e-12, 1.0, 1.0],
            [1.0 - 1e-12, 1.0 - 2e-12, 1.0],
            [1e-60, 2e-60, 0.0],
            [0.0, 1e-310, 1.0],
            [0.2, 0.2 + 1e-17, 0.2],
        ] {
            for keep_top in 1..=3 {
                for bound in [Bound::MaxError(0.01), Bound::MaxError(1e-6)] {
                    let promise = promise(bound, keep_top);
                    let rounded = round(&row, 3, &promise, 0).unwrap();
                    assert!(is_order_kept(&row, rounded.values(), keep_top), "{row:?}");
                    assert!(rounded.values().iter().all(|v| (0.0..=1.0).contains(v)));
                    let decoded = decoded(&row.repeat(5), 3, promise).unwrap();
                    for decoded in decoded.chunks(3) {
                        assert!(promise.measure_f64(&row, decoded).is_some(), "{row:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_float32_cannot_hold_is_named() {
        let exact = promise(Bound::Exact, 1);
        let error = round(&[0.5, 0.5, 0.1, 0.9], 2, &exact, 7).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("row 8, class 0: 0.1 is no float32"),
            "{error}"
        );
        let fine = [0.5, 1e-45f32.into(), -0.0, f64::INFINITY, f64::NAN];
        assert!(round(&fine, 5, &exact, 0).is_ok());
        let values = Promise::new(Kind::Values, Bound::MaxError(1e-6));
        let error = round(&[1.0, 1e6 + 0.01], 2, &values, 3).unwrap_err();
        assert!(matches!(
            error,
            Error::Float32TooCoarse {
                row: 3,
                class: 1,
                ..
            }
        ));
        let error = round(&[1e300, 0.0], 2, &values, 0).unwrap_err();
        assert!(matches!(
            error,
            Error::Float32TooCoarse {
                row: 0,
                class: 0,
                ..
            }
        ));
    }

    proptest! {
        #[test]
        fn promises_are_kept_of_the_float64_values(
            weights in prop::collection::vec(0u32..40, 24),
            crumbs in prop::collection::vec(-4i32..5, 24),
            scale in 0u32..3,
            keep_top in 1usize..5,
            bound in 0usize..3,
        ) {
            // Many values that differ in float64 are equal in float32.
            let crumb = [1e-17, 3e-9, 1e-300][scale as usize];
            let mut values: Vec<f64> = weights.iter().zip(&crumbs)
                .map(|(&weight, &c)| (f64::from(weight / 8) + f64::from(c) * crumb).max(0.0))
                .collect();
            for row in values.chunks_mut(4) {
                let sum: f64 = row.iter().sum();
                match sum > 0.0 {
                    true => row.iter_mut().for_each(|value| *value /= sum),
                    false => row.fill(0.25),
                }
            }
            let bound = [Bound::MaxError(1e-6), Bound::MaxError(0.002), Bound::MaxKl(1e-4)][bound];
            let promise = promise(bound, keep_top);
            let decoded = decoded(&values, 4, promise).unwrap();
            for (original, decoded) in values.chunks(4).zip(decoded.chunks(4)) {
                let is_kept = match bound {
                    // Exact rows keep their zeros.
                    Bound::MaxKl(max_kl) => divergence(original, decoded) <= max_kl
                        && is_order_kept(original, decoded, keep_top),
                    _ => promise.measure_f64(original, decoded).is_some(),
                };
                prop_assert!(is_kept, "{original:?} {decoded:?}");
            }
        }
    }
}
