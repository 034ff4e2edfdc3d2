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

    /// All values, row after row, without the matrix.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }

    /// The rows in order.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(self.n_classes)
    }

    /// The matrix, borrowed.
    pub fn view(&self) -> Rows<'_> {
        Rows {
            n_classes: self.n_classes,
            values: &self.values,
        }
    }

    /// Scales each row so that it sums to 1 (within float32); a row of zeros becomes uniform. The argmax of
    /// a row stays what it is.
    pub fn normalize(&mut self) {
        for row in self.values.chunks_exact_mut(self.n_classes) {
            let top = argmax(row);
            let sum: f64 = row.iter().map(|&value| f64::from(value)).sum();
            // Less than float32 can scale to 1 counts as nothing.
            match sum < f64::from(f32::MIN_POSITIVE) {
                true => row.fill(1.0 / row.len() as f32),
                false => row
                    .iter_mut()
                    .for_each(|value| *value = (f64::from(*value) / sum) as f32),
            }
            let new_top = argmax(row);
            if new_top != top {
                row[top] = row[new_top].next_up();
            }
        }
    }
}

/// Rows of a matrix, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    n_classes: usize,
    values: &'a [f32],
}

impl<'a> Rows<'a> {
    /// The rows that `values` holds one after another.
    ///
    /// # Panics
    /// If `n_classes` is 0 or does not divide the number of values.
    pub fn new(n_classes: usize, values: &'a [f32]) -> Self {
        assert!(
            n_classes > 0 && values.len().is_multiple_of(n_classes),
            "{} values are no rows of {n_classes} classes",
            values.len()
        );
        Self { n_classes, values }
    }

    /// Number of rows.
    pub fn n_rows(self) -> usize {
        self.values.len() / self.n_classes
    }

    /// Number of classes (columns).
    pub fn n_classes(self) -> usize {
        self.n_classes
    }

    /// All values, row after row.
    pub fn values(self) -> &'a [f32] {
        self.values
    }

    /// The rows in order.
    pub fn rows(self) -> std::slice::ChunksExact<'a, f32> {
        self.values.chunks_exact(self.n_classes)
    }

    /// A row.
    ///
    /// # Panics
    /// If there are not so many.
    #[inline]
    pub fn row(self, index: usize) -> &'a [f32] {
        &self.values[index * self.n_classes..][..self.n_classes]
    }
}

/// Index of the largest value under NumPy's rule for ties: the first one. NaN is no largest value; of a row
/// without any other, and of an empty row: 0.
#[inline(always)]
pub fn argmax(row: &[f32]) -> usize {
    let largest = largest(row);
    let is_largest = |value: f32| value == largest;
    let (chunks, rest) = row.as_chunks();
    for (index, chunk) in chunks.iter().enumerate() {
        let matching = matching(chunk, is_largest);
        if matching != 0 {
            return index * N_LANES + matching.trailing_zeros() as usize;
        }
    }
    let within = rest.iter().position(|&value| is_largest(value));
    within.map_or(0, |position| row.len() - rest.len() + position)
}

/// Calls `take` with the index of each value that matches, in order; it is quick where few do.
#[inline(always)]
pub fn for_each_match(row: &[f32], is_match: impl Fn(f32) -> bool, mut take: impl FnMut(usize)) {
    let (chunks, rest) = row.as_chunks();
    for (index, chunk) in chunks.iter().enumerate() {
        let mut matching = matching(chunk, &is_match);
        while matching != 0 {
            take(index * N_LANES + matching.trailing_zeros() as usize);
            // Without the lowest one.
            matching &= matching - 1;
        }
    }
    for (value, index) in rest.iter().zip(row.len() - rest.len()..) {
        if is_match(*value) {
            take(index);
        }
    }
}

/// Values that the compiler can turn into vectors.
const N_LANES: usize = 16;

/// Which of these values match: a bit for each, from the lowest one on.
#[inline(always)]
fn matching(values: &[f32; N_LANES], is_match: impl Fn(f32) -> bool) -> u32 {
    let mut bits = 0;
    for (lane, &value) in values.iter().enumerate() {
        bits |= u32::from(is_match(value)) << lane;
    }
    bits
}

/// The largest value of a row, negative infinity if there is none.
#[inline(always)]
pub fn largest(row: &[f32]) -> f32 {
    extreme(row, f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

/// The smallest and the largest value of a row; infinity and negative infinity if there is none.
#[inline(always)]
pub fn range(row: &[f32]) -> (f32, f32) {
    let smallest = extreme(row, f32::INFINITY, |a, b| if b < a { b } else { a });
    (smallest, largest(row))
}

/// The value of a row, or `start`, that comes out when any two are compared.
#[inline(always)]
fn extreme(row: &[f32], start: f32, winner: impl Fn(f32, f32) -> f32) -> f32 {
    let Some(last) = row.last_chunk::<N_LANES>() else {
        return row.iter().fold(start, |a, &b| winner(a, b));
    };
    let (chunks, _) = row.as_chunks::<N_LANES>();
    let mut lanes = [start; N_LANES];
    // The last chunk has some values again, which changes nothing, and takes less time than the rest one by one.
    for chunk in chunks.iter().chain([last]) {
        for lane in 0..N_LANES {
            lanes[lane] = winner(lanes[lane], chunk[lane]);
        }
    }
    // By halves: one lane after another would wait for each comparison.
    let mut n_lanes = N_LANES;
    while n_lanes > 1 {
        n_lanes /= 2;
        for lane in 0..n_lanes {
            lanes[lane] = winner(lanes[lane], lanes[lane + n_lanes]);
        }
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argmax_takes_the_first_of_equals() {
        assert_eq!(argmax(&[0.1, 0.4, 0.4, 0.1]), 1);
        assert_eq!(argmax(&[0.0, 0.0]), 0);
        assert_eq!(argmax(&[]), 0);
        assert_eq!(argmax(&[f32::NAN, -1.0, 2.0, f32::NAN]), 2);
        assert_eq!(argmax(&[f32::NAN; 20]), 0);
        for n in 1..70 {
            let row: Vec<f32> = (0..n).map(|i| (i * 37 % 41) as f32).collect();
            let top = (0..n)
                .rev()
                .max_by(|&a, &b| row[a].total_cmp(&row[b]))
                .unwrap();
            assert_eq!(argmax(&row), top);
        }
    }

    #[test]
    fn matches_are_found_in_rows_of_every_length() {
        for n in 0..70 {
            for at in 0..n {
                let row: Vec<f32> = (0..n).map(|i| if i < at { 0.25 } else { 0.5 }).collect();
                assert_eq!(argmax(&row), at);
                let mut found = Vec::new();
                for_each_match(&row, |value| value == 0.5, |index| found.push(index));
                assert_eq!(found, (at..n).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn normalized_rows_sum_to_one_and_keep_their_argmax() {
        let up = 0.3f32.next_up();
        let mut matrix = PredictionMatrix::new(
            3,
            vec![
                0.2,
                0.2,
                0.1,
                0.3,
                up,
                0.3,
                0.0,
                0.0,
                0.0,
                0.0,
                f32::from_bits(1),
                0.0,
            ],
        );
        let tops: Vec<usize> = matrix.rows().map(argmax).collect();
        matrix.normalize();
        for (row, top) in matrix.rows().zip(tops) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            assert_eq!(argmax(row), top);
        }
        assert_eq!(matrix.rows().next().unwrap(), [0.4, 0.4, 0.2]);
    }

    #[test]
    fn rows_are_the_values_in_order() {
        let matrix = PredictionMatrix::new(2, vec![1.0, 2.0, 3.0, 4.0]);
        assert_eq!(matrix.n_rows(), 2);
        assert_eq!(matrix.rows().nth(1).unwrap(), [3.0, 4.0]);
    }
}
