//! The rows of a matrix in any format, enough at a time for all threads.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{input_name, open_input};
use crate::huffman::frame::rows_per_block;
use crate::huffman::{self, Bound, FrameHeader, FrameWriter, Kind, Promise, first_moved_class};
use crate::io::input::Input;
use crate::io::source::{self, MatrixSource, SourceOptions, Values};
use crate::matrix::PredictionMatrix;

/// What rows of probabilities sum to, as wide as half precision or a few decimals make it.
pub(super) const SUMS: RangeInclusive<f64> = 0.98..=1.02;

/// Why rows are not taken for probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Doubt {
    /// A value that no probability has.
    Value {
        row: usize,
        class: usize,
        value: f64,
    },
    /// A sum that is not about 1.
    Sum { row: usize, sum: f64 },
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value { row, class, value } => write!(f, "row {row}, class {class} is {value}"),
            Self::Sum { row, sum } => write!(f, "row {row} sums to {}", *sum as f32),
        }
    }
}

/// What speaks against probabilities in the first rows of a matrix, as many as a block has; nothing if all
/// values are from 0 to 1 and every row sums to about 1.
pub(super) fn doubt(rows: &Values, n_classes: usize) -> Option<Doubt> {
    fn of<T: Copy + Into<f64>>(values: &[T], n_classes: usize) -> Option<Doubt> {
        // As many as one block has, however many threads there are.
        let rows = values
            .chunks_exact(n_classes)
            .take(rows_per_block(n_classes));
        rows.enumerate().find_map(|(row, values)| {
            // What float32 makes 1 may be a little more in float64.
            let is_probability = |value: f64| (0.0..=1.0).contains(&(value as f32));
            let mut sum = 0.0;
            for (class, &value) in values.iter().enumerate() {
                let value = value.into();
                if !is_probability(value) {
                    return Some(Doubt::Value { row, class, value });
                }
                sum += value;
            }
            (!SUMS.contains(&sum)).then_some(Doubt::Sum { row, sum })
        })
    }
    match rows {
        Values::F32(values) => of(values, n_classes),
        Values::F64(values) => of(values, n_classes),
    }
}

/// Checks that two matrices have their classes in the same order, if both name the same classes.
///
/// # Errors
/// If the order is another.
pub(super) fn check_order(
    (name, found): (&str, Option<&[String]>),
    (other, expected): (&str, Option<&[String]>),
) -> Result<()> {
    let (Some(found), Some(expected)) = (found, expected) else {
        return Ok(());
    };
    if let Some(class) = first_moved_class(found, expected) {
        bail!(
            "{name}: class {class} is {:?}, in {other} it is {:?}; put the columns in the same order, as with --columns",
            found[class],
            expected[class]
        );
    }
    Ok(())
}

/// Reads rows.
pub(super) struct RowReader {
    source: Box<dyn MatrixSource>,
    name: String,
    n_classes: usize,
    /// Rows read at a time, at most.
    max_rows: usize,
}

impl RowReader {
    /// Opens a file, or standard input if it is `-`.
    pub fn open(path: &Path, options: &SourceOptions) -> Result<Self> {
        Self::new(open_input(path)?, input_name(path), options)
    }

    /// The rows of a file that messages call `name`.
    pub fn new(file: File, name: String, options: &SourceOptions) -> Result<Self> {
        let input = Input::new(file).with_context(|| name.clone())?;
        Self::of_input(input, name, options)
    }

    /// The rows of an input that messages call `name`.
    pub fn of_input(input: Input, name: String, options: &SourceOptions) -> Result<Self> {
        let source = source::open(input, options).with_context(|| name.clone())?;
        let n_classes = source.n_classes();
        // Checked here, before anything is allocated by it.
        FrameHeader::new(n_classes, Promise::new(Kind::Values, Bound::Exact))
            .with_context(|| name.clone())?;
        Ok(Self {
            source,
            name,
            n_classes,
            max_rows: rows_per_block(n_classes) * 2 * rayon::current_num_threads(),
        })
    }

    /// Number of classes (columns).
    pub fn n_classes(&self) -> usize {
        self.n_classes
    }

    /// Number of rows, if it is known before they come.
    pub fn n_rows(&self) -> Option<u64> {
        self.source.n_rows()
    }

    /// A name for each class, if the format has them.
    pub fn class_names(&self) -> Option<&[String]> {
        self.source.class_names()
    }

    /// The next rows, enough for all threads, from pieces of whatever size; `None` at the end.
    pub fn next(&mut self) -> Result<Option<Values>> {
        let max_values = self.max_rows * self.n_classes;
        let mut values: Option<Values> = None;
        loop {
            let n_values = values.as_ref().map_or(0, Values::len);
            if n_values >= max_values {
                return Ok(values);
            }
            let n_missing = self.max_rows - n_values / self.n_classes;
            let more = self.source.next_rows(n_missing);
            match (more.with_context(|| self.name.clone())?, &mut values) {
                (None, _) => return Ok(values),
                (Some(more), Some(values)) => values.append(more),
                (more, None) => values = more,
            }
        }
    }

    /// Rows as a promise takes them: what a text says, exactly, is the float32 that prints like it.
    pub fn as_promised(&self, values: Values, promise: &Promise) -> Values {
        match values {
            Values::F64(values) if self.source.is_decimal() && promise.bound == Bound::Exact => {
                Values::F64(values.into_iter().map(decimal_float32).collect())
            }
            values => values,
        }
    }

    /// Hands rows to a frame as precise as they came, with those of its reference beside them, if it has one.
    ///
    /// # Errors
    /// As [`FrameWriter::write`] and [`FrameWriter::write_f64`].
    pub fn write<W: Write>(
        &self,
        frame: &mut FrameWriter<W>,
        values: Values,
        beside: Option<&PredictionMatrix>,
        promise: &Promise,
    ) -> Result<(), huffman::Error> {
        let values = match self.as_promised(values, promise) {
            Values::F32(values) => {
                let matrix = PredictionMatrix::new(self.n_classes, values);
                return match beside {
                    Some(beside) => frame.write_with_reference(&matrix, beside),
                    None => frame.write(&matrix),
                };
            }
            Values::F64(values) => values,
        };
        match beside {
            Some(beside) => frame.write_f64_with_reference(&values, beside),
            None => frame.write_f64(&values),
        }
    }
}

/// The float32 whose shortest decimal is a number, if there is one: 0.1 in a text is exactly the float32
/// that prints as 0.1. Else the number as it is.
fn decimal_float32(value: f64) -> f64 {
    let rounded = value as f32;
    match rounded.to_string().parse::<f64>() {
        Ok(printed) if value == printed => f64::from(rounded),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_that_a_float32_prints_are_that_float32() {
        for value in [
            0.1f32,
            1e-10,
            0.3333333,
            16_777_216.0,
            -0.0,
            f32::MIN_POSITIVE,
        ] {
            let printed: f64 = value.to_string().parse().unwrap();
            assert_eq!(
                decimal_float32(printed).to_bits(),
                f64::from(value).to_bits()
            );
            assert_eq!(decimal_float32(f64::from(value)), f64::from(value));
        }
        assert_eq!(decimal_float32(0.123_456_789_012), 0.123_456_789_012);
    }
}
