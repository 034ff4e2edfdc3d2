//! The prediction matrix: the one type that model and codec share.

/// Predictions of a model: one row a sample, one column a class, row after row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PredictionMatrix {
    n_classes: usize,
    /// `n_rows * n_classes` values.
    values: Vec<f32>,
}

impl PredictionMatrix {
    /// Wraps `values`, the rows one after another.
    ///
    /// # Panics
    /// If `n_classes` is 0 or does not divide the number of values.
    pub fn new(n_classes: usize, values: Vec<f32>) -> Self {
        assert!(
            n_classes > 0 && values.len().is_multiple_of(n_classes),
            "{} values are no rows of {n_classes} classes",
            values.len()
        );
        Self { n_classes, values }
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.values.len() / self.n_classes
    }

    /// Number of classes (columns).
    pub fn n_classes(&self) -> usize {
        self.n_classes
    }

    /// All values, row after row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The rows in order.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(self.n_classes)
    }
}

/// Index of the largest value under NumPy's rule for ties: the first one. Of an empty row: 0.
pub fn argmax(row: &[f32]) -> usize {
    let mut top = 0;
    for (class, &value) in row.iter().enumerate() {
        if value > row[top] {
            top = class;
        }
    }
    top
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argmax_takes_the_first_of_equals() {
        assert_eq!(argmax(&[0.1, 0.4, 0.4, 0.1]), 1);
        assert_eq!(argmax(&[0.0, 0.0]), 0);
        assert_eq!(argmax(&[]), 0);
    }

    #[test]
    fn rows_are_the_values_in_order() {
        let matrix = PredictionMatrix::new(2, vec![1.0, 2.0, 3.0, 4.0]);
        assert_eq!(matrix.n_rows(), 2);
        assert_eq!(matrix.rows().nth(1).unwrap(), [3.0, 4.0]);
    }
}
