//! `pc compress --size`: the smallest bound on errors under which a file is no larger than asked for, found by
//! compressing again and again.

use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::progress::{Progress, thousands};
use super::reference::References;
use super::rows::RowReader;
use super::{input_name, open_to_seek};
use crate::huffman::{
    self, Bound, FrameHeader, FrameWriter, Kind, MAX_MAX_ERROR, MIN_MAX_ERROR, Summary,
};
use crate::io::source::{SourceOptions, Values};

/// A bound that fits, and what it gives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    /// The bound.
    pub max_error: f64,
    /// Bytes of the file.
    pub n_bytes: u64,
    /// How many times it was compressed to find that out.
    pub n_runs: usize,
}

/// Bounds of three digits, in rising order: the best is as easy to say as it is near enough.
#[derive(Debug, Clone, Copy)]
struct Grid {
    /// The first is 10 to this power.
    exponent: i32,
    count: u32,
}

impl Grid {
    /// Bounds in a power of ten.
    const A_DECADE: u32 = 900;

    /// Those from the power of ten at or below `least` to `largest`.
    fn new(least: f64, largest: f64) -> Self {
        let exponent = (least.log10() + 1e-9).floor() as i32;
        let mut grid = Self {
            exponent,
            count: u32::MAX,
        };
        let n_decades = (largest.log10().ceil() as i32 - exponent).max(0) as u32;
        let mut end = (n_decades + 1) * Self::A_DECADE;
        while end > 1 && grid.at(end - 1) > largest {
            end -= 1;
        }
        grid.count = end;
        grid
    }

    /// A bound, as one reads and writes it.
    fn at(self, index: u32) -> f64 {
        let digits = 100 + index % Self::A_DECADE;
        let exponent = self.exponent - 2 + (index / Self::A_DECADE) as i32;
        let number = format!("{digits}e{exponent}").parse();
        number.expect("digits and an exponent are a number")
    }

    /// The smallest bound for which `n_bytes`, which should fall as bounds rise, is at most `limit`, by
    /// bisection: what is returned fits in any case. `Err` is what the largest bound gives if not even that
    /// fits.
    fn smallest(
        self,
        limit: u64,
        mut n_bytes: impl FnMut(f64) -> Result<u64>,
    ) -> Result<Result<Fit, Fit>> {
        let mut n_runs = 0;
        let mut run = |index: u32| {
            n_runs += 1;
            let max_error = self.at(index);
            n_bytes(max_error).map(|n_bytes| Fit {
                max_error,
                n_bytes,
                n_runs,
            })
        };
        let mut fits = self.count - 1;
        let mut best = run(fits)?;
        if best.n_bytes > limit {
            return Ok(Err(best));
        }
        // All below this are too small, or so it seems.
        let mut first = 0;
        while first < fits {
            let middle = first + (fits - first) / 2;
            let found = run(middle)?;
            match found.n_bytes <= limit {
                true => {
                    best = found;
                    fits = middle;
                }
                false => first = middle + 1,
            }
        }
        Ok(Ok(Fit { n_runs, ..best }))
    }
}

/// Finds the smallest bound under which rows, with all else that their header says, take at most `limit` bytes.
///
/// # Errors
/// If even the largest bound takes more, if the file cannot be read several times, or as compressing fails.
pub(super) fn smallest_bound(rows: &Rows<'_>, limit: u64, progress: &Progress) -> Result<Fit> {
    let grid = match rows.header.promise.kind {
        Kind::Probabilities => Grid::new(MIN_MAX_ERROR, MAX_MAX_ERROR),
        // The largest leaves nothing of any value.
        _ => {
            let largest = rows.largest_value()?.max(1e-30);
            Grid::new(largest / 1e7, 2.0 * largest)
        }
    };
    let bar = progress.bar(u64::from(grid.count.ilog2()) + 2, "runs");
    let found = grid.smallest(limit, |max_error| {
        bar.inc(1);
        match rows.compress(Bound::MaxError(max_error)) {
            Ok(summary) => Ok(summary.n_bytes),
            // Float64 rows may be too fine for so small a bound.
            Err(error) if is_too_coarse(&error) => Ok(u64::MAX),
            Err(error) => Err(error),
        }
    })?;
    bar.finish_and_clear();
    match found {
        Ok(fit) => Ok(fit),
        Err(least) => bail!(
            "{}: {} bytes are too few: even within {:e} of the original, it takes {}; give a larger --size",
            rows.path.display(),
            thousands(limit),
            least.max_error,
            thousands(least.n_bytes)
        ),
    }
}

/// Whether float32 cannot hold rows within a bound.
fn is_too_coarse(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<huffman::Error>();
    matches!(error, Some(huffman::Error::Float32TooCoarse { .. }))
}

/// Rows that are read again and again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    pub path: &'a Path,
    pub options: &'a SourceOptions,
    /// The reference that they are compressed against.
    pub references: &'a References,
    /// What stands before them, but for the bound.
    pub header: &'a FrameHeader,
    /// What asks for it, for messages.
    pub option: &'static str,
}

impl Rows<'_> {
    /// What the rows would be compressed to.
    pub fn compress(&self, bound: Bound) -> Result<Summary> {
        let name = || self.path.display().to_string();
        let mut rows = self.open()?;
        let mut header = self.header.clone();
        header.promise.bound = bound;
        let promise = header.promise;
        let mut frame = FrameWriter::new(io::sink(), header).with_context(name)?;
        while let Some(values) = rows.next()? {
            let end = frame.next_row() + (values.len() / rows.n_classes()) as u64;
            let beside = self.references.beside(&name(), frame.next_row()..end)?;
            rows.write(&mut frame, values, beside.as_ref(), &promise)
                .with_context(name)?;
        }
        let (_, summary, _) = frame.finish().with_context(name)?;
        Ok(summary)
    }

    /// The largest magnitude of any value.
    pub fn largest_value(&self) -> Result<f64> {
        fn largest<T: Copy + Into<f64>>(values: &[T]) -> f64 {
            let magnitudes = values.iter().map(|&value| value.into().abs());
            magnitudes
                .filter(|value| value.is_finite())
                .fold(0.0, f64::max)
        }
        let mut rows = self.open()?;
        let mut most = 0.0f64;
        while let Some(values) = rows.next()? {
            most = most.max(match &values {
                Values::F32(values) => largest(values),
                Values::F64(values) => largest(values),
            });
        }
        Ok(most)
    }

    /// Opens them, once more.
    pub fn open(&self) -> Result<RowReader> {
        let file = open_to_seek(self.path)
            .with_context(|| format!("{} reads its input many times", self.option))?;
        RowReader::new(file, input_name(self.path), self.options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_hold_bounds_of_three_digits() {
        let grid = Grid::new(MIN_MAX_ERROR, MAX_MAX_ERROR);
        assert_eq!((grid.at(0), grid.at(grid.count - 1)), (1e-6, 0.5));
        assert_eq!(
            (grid.at(1), grid.at(900), grid.at(901)),
            (1.01e-6, 1e-5, 1.01e-5)
        );
        let grid = Grid::new(37.0 / 1e7, 74.0);
        assert_eq!((grid.at(0), grid.at(grid.count - 1)), (1e-6, 74.0));
        assert_eq!(Grid::new(1e-37, 2e-30).at(0), 1e-37);
    }

    #[test]
    fn the_smallest_bound_that_fits_is_found_in_a_few_runs() {
        let grid = Grid::new(MIN_MAX_ERROR, MAX_MAX_ERROR);
        let n_bytes = |bound: f64| Ok((1000.0 - 100.0 * bound.log2()) as u64);
        for limit in [1100, 1500, 2000, 2990, 10_000] {
            let fit = grid.smallest(limit, n_bytes).unwrap().unwrap();
            assert!(fit.n_bytes <= limit && fit.n_runs <= 14, "{fit:?}");
            let next = fit.max_error * (1.0 - 1.0 / 99.0);
            assert!(next < 1e-6 || n_bytes(next).unwrap() > limit, "{fit:?}");
        }
        let least = grid.smallest(1099, n_bytes).unwrap().unwrap_err();
        assert_eq!((least.max_error, least.n_bytes), (0.5, 1100));
    }

    #[test]
    fn sizes_that_do_not_fall_still_give_a_bound_that_fits() {
        let grid = Grid::new(MIN_MAX_ERROR, MAX_MAX_ERROR);
        let wavy = |bound: f64| Ok((1000.0 + 500.0 * (bound.ln() * 3.0).sin()) as u64);
        for limit in [900, 1000, 1400] {
            if let Ok(fit) = grid.smallest(limit, wavy).unwrap() {
                assert!(fit.n_bytes <= limit);
            }
        }
    }
}
