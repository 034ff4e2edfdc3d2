//! What to expect of a class, given the classes before it in the row and, where it is known, the top class (FORMAT.md,
//! section 10).
//!
//! Nothing of this is sent: encoder and decoder fit the same regression to the rows of the block that
//! both know already, again and again as their number grows. The features of a row are taken as normal
//! with a mean for each top class, shrunk towards the mean of all, and one covariance, with a ridge. Its
//! decomposition `L D L^T` (Golub and Van Loan, Matrix Computations, section 4.1) gives the regression of
//! every class on those before it at once, and what it leaves unexplained.
//!
//! So that the cost stays linear in the number of classes, those of large matrices are taken in panels,
//! each with a regression of its own.
//!
//! Only IEEE additions, multiplications and divisions in a fixed order are used, so that every machine
//! gets the same bits. Format-stable: any change of an operation or of their order changes files.

use super::Corrupt;

/// Rows that are enough to learn from: more make hardly any difference, but take time.
const MAX_ROWS: usize = 6000;
/// The largest number of classes that are one panel, with means by top class.
const MAX_WHOLE: usize = 256;
/// Classes of a panel of larger matrices.
const PANEL: usize = 128;
/// The largest number of classes with panels; beyond it, each class has its mean only.
const MAX_PANELLED: usize = 4096;
/// Rows of the overall mean that each top class's mean is mixed with.
const SHRINKAGE: f64 = 1.0;
/// Expectations that are updated together.
const N_LANES: usize = 8;
/// Rows before the first fit.
const FIRST_FIT: usize = 8;
/// Up to this number of rows the next fit comes after an eighth as many more, then after half as many; but
/// never after less than a 128th of the block, so that fitting takes its share of the time only.
const DENSE_FITS: usize = 512;

/// The number of classes of a panel.
fn width(n_classes: usize) -> usize {
    match n_classes {
        0..=MAX_WHOLE => n_classes,
        _ if n_classes <= MAX_PANELLED => PANEL,
        _ => 1,
    }
}

/// Summands for the diagonal of the scatter matrix, so that it can be decomposed and few rows do
/// not explain too much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ridge {
    /// In squares of features.
    pub absolute: f64,
    /// In multiples of the mean of the diagonal.
    pub relative: f64,
    /// In multiples of each entry itself.
    pub own: f64,
}

/// What a [`Regression`] calls for each class as it walks rows. A trait and no closure, so that its methods can be
/// inlined into the loop: otherwise they may not use the vector instructions that the loop is compiled for.
pub trait Visitor<const N: usize> {
    /// Whether most features are 0, so that it pays to look for those.
    const IS_SPARSE: bool;

    /// Gets a class and what is expected of its feature in `N` rows, and returns the features. That of a top class
    /// which has means of its own must be 0.
    ///
    /// # Errors
    /// [`Corrupt`] ends the walk.
    fn features(&mut self, class: usize, expectations: [f32; N]) -> Result<[f32; N], Corrupt>;
}

/// The columns of a row and of the known row beside it: in each panel, first its classes in the known row, then the
/// same in the row. Format-stable.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    n_classes: usize,
    /// Classes of a panel.
    n_beside: usize,
}

impl Columns {
    /// The columns of rows of `n_classes`.
    pub fn new(n_classes: usize) -> Self {
        let n_beside = if 2 * n_classes <= MAX_WHOLE {
            n_classes
        } else if 2 * n_classes <= MAX_PANELLED {
            PANEL / 2
        } else {
            1
        };
        Self {
            n_classes,
            n_beside,
        }
    }

    /// Number of columns.
    pub fn count(self) -> usize {
        2 * self.n_classes
    }

    /// About how many bytes the regression of these columns takes at most beside the rows that it learns.
    pub fn n_bytes(self) -> u64 {
        let n_tops = if self.count() <= MAX_WHOLE {
            self.n_classes
        } else {
            1
        };
        Regression::n_bytes_of_panels(self.count(), 2 * self.n_beside, n_tops, 1)
    }

    /// The column of each class in the known row, and in the row.
    pub fn of_classes(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.n_classes).map(move |class| {
            let first = class / self.n_beside * self.n_beside;
            let n_here = self.n_beside.min(self.n_classes - first);
            let column = first + class;
            (column, column + n_here)
        })
    }

    /// The class of each column of the row; `None` for columns of the known row.
    pub fn classes(self) -> Vec<Option<usize>> {
        let mut classes = vec![None; self.count()];
        for (class, (_, column)) in self.of_classes().enumerate() {
            classes[column] = Some(class);
        }
        classes
    }
}

/// The regression, and the sums that it is fitted to.
#[derive(Debug, Clone)]
pub struct Regression {
    n_classes: usize,
    /// Classes of a panel.
    width: usize,
    /// Top classes that have means of their own; 1 if none has.
    n_tops: usize,
    ridge: Ridge,
    /// Rows learned up to the last fit.
    n_rows: usize,
    next_fit: usize,
    /// Rows of the block: rows after the last fit need not be learned.
    n_rows_of_block: usize,
    /// Features of rows that came after the last fit, and their top classes.
    recent: Vec<f32>,
    recent_tops: Vec<usize>,
    /// Whether the means of a top class are updated after each of its rows, and not only at fits.
    has_running_means: bool,
    /// Rows of each top class.
    n_of_top: Vec<u32>,
    /// Sums of the features, by top class and class.
    sums: Vec<f64>,
    /// Sums of the products of two features of a row: by class, then by class of its panel up to itself.
    products: Vec<f64>,
    /// Means of the features, by class; how far the sums of each top class are from them; and weights of these
    /// differences.
    mean: Vec<f64>,
    deviations: Vec<f64>,
    weights: Vec<f64>,
    /// Transposed inverse of the `L` of each panel.
    inverse: Vec<f64>,
    /// The expectation of each class if the features of all before it are 0, by top class, and for which top classes it
    /// has been filled in since the last fit.
    base: Vec<f32>,
    is_based: Vec<bool>,
    /// How much a feature of 1 of one class raises the expectation of a later one: by class, then by class of its
    /// panel, in rows of `stride`; 0 but for later classes.
    slopes: Vec<[f32; N_LANES]>,
    /// The slopes by lanes of first classes, then by second class of their panel, in rows of `stride`; empty while
    /// single rows are walked.
    slopes_of_lanes: Vec<[f32; N_LANES]>,
    /// The width of a panel in whole lanes.
    stride: usize,
    /// The expectations of the panel at hand, in whole lanes: of one row, or by class of all rows.
    expectations: Vec<f32>,
    /// The features of all rows at hand, by class.
    features: Vec<f32>,
    /// The variance of each class about its expectation; 0 before the first fit.
    variances: Vec<f64>,
}

impl Regression {
    /// The regression at the start of a block of `n_rows`: it expects features of 0.
    ///
    /// Without `by_top`, all rows have the same means, and top classes are not looked at.
    pub fn new(n_classes: usize, n_rows: usize, by_top: bool, ridge: Ridge) -> Self {
        let n_tops = match by_top && n_classes <= MAX_WHOLE {
            true => n_classes,
            false => 1,
        };
        Self::of_panels(n_classes, width(n_classes), n_tops, n_rows, ridge)
    }

    /// Adds running means, for rows that come sorted by top class: the means of a class are updated after each of its
    /// rows, even when there are no more fits.
    pub fn with_running_means(self) -> Self {
        Self {
            has_running_means: self.n_tops > 1,
            ..self
        }
    }

    /// About how many bytes a regression takes at most beside the rows that it learns, with `n_sides` rows walked side
    /// by side.
    pub fn n_bytes(n_classes: usize, n_sides: usize) -> u64 {
        let n_tops = if n_classes <= MAX_WHOLE { n_classes } else { 1 };
        Self::n_bytes_of_panels(n_classes, width(n_classes), n_tops, n_sides)
    }

    fn n_bytes_of_panels(n_classes: usize, width: usize, n_tops: usize, n_sides: usize) -> u64 {
        // For each class: products and inverse; slopes, twice if rows are side by side; by top class, sums, deviations
        // and bases; mean and variance; features and expectations.
        let n_slopes = width.next_multiple_of(N_LANES) * n_sides.min(2);
        let of_class = 16 * width + 4 * n_slopes + 20 * n_tops + 16 + 8 * n_sides;
        (n_classes * of_class) as u64
    }

    /// The regression of rows beside known rows: its columns are [`Columns`], and so are the classes of all other
    /// methods. There are as many top classes as classes.
    pub fn beside(columns: Columns, n_rows: usize, by_top: bool, ridge: Ridge) -> Self {
        let is_whole = columns.count() <= MAX_WHOLE;
        let n_tops = match is_whole && by_top {
            true => columns.n_classes,
            false => 1,
        };
        let width = 2 * columns.n_beside;
        Self::of_panels(columns.count(), width, n_tops, n_rows, ridge)
    }

    fn of_panels(
        n_classes: usize,
        width: usize,
        n_tops: usize,
        n_rows: usize,
        ridge: Ridge,
    ) -> Self {
        let stride = width.next_multiple_of(N_LANES);
        Self {
            n_classes,
            width,
            n_tops,
            ridge,
            n_rows: 0,
            next_fit: FIRST_FIT,
            n_rows_of_block: n_rows,
            recent: Vec::new(),
            recent_tops: Vec::new(),
            has_running_means: false,
            n_of_top: vec![0; n_tops],
            sums: vec![0.0; n_tops * n_classes],
            products: vec![0.0; n_classes * width],
            mean: vec![0.0; n_classes],
            deviations: vec![0.0; n_tops * n_classes],
            weights: vec![0.0; n_tops],
            inverse: vec![0.0; n_classes * width],
            base: vec![0.0; n_tops * n_classes],
            is_based: vec![true; n_tops],
            slopes: vec![[0.0; N_LANES]; n_classes * stride / N_LANES],
            slopes_of_lanes: Vec::new(),
            stride,
            expectations: vec![0.0; stride],
            features: vec![0.0; n_classes],
            variances: vec![0.0; n_classes],
        }
    }

    fn list(&self, top: usize) -> usize {
        if self.n_tops == 1 { 0 } else { top }
    }

    /// Whether there has been a fit.
    pub fn is_fitted(&self) -> bool {
        self.n_rows > 0
    }

    /// Walks `N` rows, of which only the top classes are known, side by side.
    #[inline(always)]
    pub fn walk<const N: usize>(
        &mut self,
        tops: [usize; N],
        visitor: &mut impl Visitor<N>,
    ) -> Result<(), Corrupt> {
        let tops = tops.map(|top| self.list(top));
        for top in tops {
            if !self.is_based[top] {
                pulp::Arch::new().dispatch(FillBase(self, top));
            }
        }
        self.features.resize(N * self.n_classes, 0.0);
        self.expectations.resize(N * self.stride, 0.0);
        match N {
            1 => self.walk_one(tops[0], visitor),
            _ => self.walk_many(tops, visitor),
        }
    }

    /// Walks one row: the expectations of several classes make a vector.
    #[inline(always)]
    fn walk_one<const N: usize, V: Visitor<N>>(
        &mut self,
        top: usize,
        visitor: &mut V,
    ) -> Result<(), Corrupt> {
        let n_lanes = self.stride / N_LANES;
        let base = &self.base[top * self.n_classes..][..self.n_classes];
        for first in (0..self.n_classes).step_by(self.width) {
            let end = (first + self.width).min(self.n_classes);
            self.expectations[..end - first].copy_from_slice(&base[first..end]);
            let (expectations, _) = self.expectations.as_chunks_mut::<N_LANES>();
            for lanes in 0..n_lanes {
                let start = first + lanes * N_LANES;
                if start >= end {
                    break;
                }
                let n_here = N_LANES.min(end - start);
                let slopes = &self.slopes[start * n_lanes..(start + n_here) * n_lanes];
                // Within the lanes, every class counts for the next one.
                let mut expected = expectations[lanes];
                let mut features = [0.0; N_LANES];
                for (lane, slopes) in slopes.chunks_exact(n_lanes).enumerate() {
                    let feature = visitor.features(start + lane, [expected[lane]; N])?[0];
                    features[lane] = feature;
                    // A feature of 0 changes nothing, and a branch need not wait for it.
                    if !V::IS_SPARSE || feature != 0.0 {
                        expected = add_lanes(expected, slopes[lanes], feature);
                    }
                }
                // A copy of unknown length would be a call, which takes longer.
                for (known, feature) in self.features[start..start + n_here]
                    .iter_mut()
                    .zip(features)
                {
                    *known = feature;
                }
                // All features of these lanes are added to later lanes at once.
                if V::IS_SPARSE {
                    for (slopes, feature) in slopes.chunks_exact(n_lanes).zip(features) {
                        if feature != 0.0 {
                            for later in lanes + 1..n_lanes {
                                expectations[later] =
                                    add_lanes(expectations[later], slopes[later], feature);
                            }
                        }
                    }
                    continue;
                }
                for later in lanes + 1..n_lanes {
                    let mut expected = expectations[later];
                    for (slopes, feature) in slopes.chunks_exact(n_lanes).zip(features) {
                        expected = add_lanes(expected, slopes[later], feature);
                    }
                    expectations[later] = expected;
                }
            }
        }
        Ok(())
    }

    /// Walks rows side by side: the expectations of a class in all of them make a vector.
    #[inline(always)]
    fn walk_many<const N: usize, V: Visitor<N>>(
        &mut self,
        tops: [usize; N],
        visitor: &mut V,
    ) -> Result<(), Corrupt> {
        let n = self.n_classes;
        // Panels begin with whole lanes.
        debug_assert!(self.width >= n || self.width == 1 || self.width.is_multiple_of(N_LANES));
        self.slopes_of_lanes
            .resize(n.div_ceil(N_LANES) * self.stride, [0.0; N_LANES]);
        let (features, _) = self.features.as_chunks_mut::<N>();
        for first in (0..n).step_by(self.width) {
            let end = (first + self.width).min(n);
            let (expectations, _) = self.expectations[..N * (end - first)].as_chunks_mut::<N>();
            for row in 0..N {
                let base = &self.base[tops[row] * n..][first..end];
                for class in 0..base.len() {
                    expectations[class][row] = base[class];
                }
            }
            for start in (first..end).step_by(N_LANES) {
                let next = (start + N_LANES).min(end);
                let (here, later) = expectations[start - first..].split_at_mut(next - start);
                let slopes = &self.slopes_of_lanes[start / N_LANES * self.stride..][..end - first];
                let (slopes_here, slopes) = slopes[start - first..].split_at(here.len());
                // Every class counts for the next ones.
                let mut features_here = [[0.0; N]; N_LANES];
                for lane in 0..here.len() {
                    let features = visitor.features(start + lane, here[lane])?;
                    features_here[lane] = features;
                    if V::IS_SPARSE && are_zeros(&features) {
                        continue;
                    }
                    for next in lane + 1..here.len() {
                        here[next] = add_lanes(here[next], features, slopes_here[next][lane]);
                    }
                }
                features[start..next].copy_from_slice(&features_here[..next - start]);
                // All features of these lanes are added to later lanes at once.
                let is_known = V::IS_SPARSE && are_zeros(features_here.as_flattened());
                if !later.is_empty() && !is_known {
                    pulp::Arch::new().dispatch(AddFeatures {
                        features: &features_here,
                        slopes,
                        expectations: later,
                    });
                }
            }
        }
        Ok(())
    }

    /// The expectations of a row whose features are known, as [`walk`](Self::walk) shows them one by one.
    #[inline(always)]
    pub fn expect<const IS_SPARSE: bool>(
        &mut self,
        top: usize,
        features: &[f32],
        expectations: &mut [f32],
    ) {
        let features = features.as_chunks::<1>().0;
        let expectations = expectations.as_chunks_mut::<1>().0;
        let mut known = Known::<IS_SPARSE, 1>(features, expectations);
        self.walk([top], &mut known).expect("nothing is read");
    }

    /// The variance of a class's feature about its expectation.
    #[inline]
    pub fn variance(&self, class: usize) -> f64 {
        self.variances[class]
    }

    /// Learns the rows walked last that have a top class here; returns whether there has been a fit.
    pub fn learn<const N: usize>(&mut self, tops: [Option<usize>; N]) -> bool {
        if self.has_running_means {
            for (row, top) in tops.into_iter().enumerate() {
                if let Some(top) = top {
                    self.add_to_means::<N>(row, top);
                }
            }
        }
        if self.knows_enough() {
            return false;
        }
        for (row, top) in tops.into_iter().enumerate() {
            if let Some(top) = top {
                let (features, _) = self.features.as_chunks::<N>();
                let n_before = self.recent.len();
                self.recent.resize(n_before + features.len(), 0.0);
                for (known, of_rows) in self.recent[n_before..].iter_mut().zip(features) {
                    *known = of_rows[row];
                }
                self.recent_tops.push(self.list(top));
            }
        }
        let n_learned = self.n_rows + self.recent_tops.len();
        if n_learned >= self.last_fit() {
            // The rows taken together have gone beyond the last fit.
            self.next_fit = self.last_fit();
            return false;
        }
        let is_fit = n_learned >= self.next_fit;
        if is_fit {
            pulp::Arch::new().dispatch(Fit(self));
            let share = match self.n_rows < DENSE_FITS {
                true => self.n_rows / 8,
                false => self.n_rows / 2,
            };
            self.next_fit = self.n_rows + share.max(self.n_rows_of_block / 128);
        }
        is_fit
    }

    /// Adds a row walked last to the means of its top class.
    fn add_to_means<const N: usize>(&mut self, row: usize, top: usize) {
        let n = self.n_classes;
        self.n_of_top[top] += 1;
        let n_of_top = f64::from(self.n_of_top[top]);
        let of_top = top * n..(top + 1) * n;
        let is_fitted = self.is_fitted();
        let sums = &mut self.sums[of_top.clone()];
        for (sum, features) in sums.iter_mut().zip(self.features.as_chunks::<N>().0) {
            *sum += f64::from(features[row]);
        }
        if is_fitted {
            let deviations = &mut self.deviations[of_top];
            deviations.copy_from_slice(sums);
            add_scaled(deviations, -n_of_top, &self.mean);
            self.weights[top] = 1.0 / (n_of_top + SHRINKAGE);
            self.is_based[top] = false;
        }
    }

    /// The number of rows to learn until expectations change; `usize::MAX` if they do not.
    pub fn n_rows_to_change(&self) -> usize {
        match self.knows_enough() {
            _ if self.has_running_means => 1,
            true => usize::MAX,
            false => self.next_fit - (self.n_rows + self.recent_tops.len()),
        }
    }

    /// Learns a row whose features are all 0; never fits.
    pub fn learn_zeros(&mut self) {
        if !self.knows_enough() {
            self.recent.resize(self.recent.len() + self.n_classes, 0.0);
            self.recent_tops.push(0);
        }
    }

    /// Whether there is no fit to come.
    fn knows_enough(&self) -> bool {
        self.next_fit >= self.last_fit()
    }

    /// The number of rows from which on there are no more fits.
    fn last_fit(&self) -> usize {
        self.n_rows_of_block.min(MAX_ROWS)
    }

    /// Adds the recent rows to all sums, row by row.
    #[inline(always)]
    fn add_recent(&mut self) {
        let n = self.n_classes;
        for (&top, features) in self.recent_tops.iter().zip(self.recent.chunks_exact(n)) {
            if self.has_running_means {
                break;
            }
            self.n_of_top[top] += 1;
            let sums = &mut self.sums[top * n..(top + 1) * n];
            for (sum, &feature) in sums.iter_mut().zip(features) {
                *sum += f64::from(feature);
            }
        }
        self.n_rows += self.recent_tops.len();

        let width = self.width;
        let weights = [1.0; CACHED_ROWS];
        let mut panel = vec![0.0; CACHED_ROWS * width];
        for first in (0..n).step_by(width) {
            let end = (first + width).min(n);
            let products = &mut self.products[first * width..end * width];
            for features in self.recent.chunks(CACHED_ROWS * n) {
                let n_rows = features.len() / n;
                let panel = &mut panel[..n_rows * (end - first)];
                let rows = panel.chunks_exact_mut(end - first);
                for (row, features) in rows.zip(features.chunks_exact(n)) {
                    for (value, &feature) in row.iter_mut().zip(&features[first..end]) {
                        *value = f64::from(feature);
                    }
                }
                add_products(panel, &weights[..n_rows], end - first, products, width);
            }
        }
        self.recent.clear();
        self.recent_tops.clear();
    }

    #[inline(always)]
    fn fit<S: pulp::Simd>(&mut self, simd: S) {
        let n = self.n_classes;
        let n_rows = self.n_rows as f64;

        self.mean.fill(0.0);
        for sums in self.sums.chunks_exact(n) {
            add_scaled(&mut self.mean, 1.0, sums);
        }
        self.mean.iter_mut().for_each(|value| *value /= n_rows);
        if self.n_tops > 1 {
            self.deviations.clone_from(&self.sums);
            for (deviations, &n_of_top) in self.deviations.chunks_exact_mut(n).zip(&self.n_of_top) {
                add_scaled(deviations, -f64::from(n_of_top), &self.mean);
            }
        }
        for (weight, &n_of_top) in self.weights.iter_mut().zip(&self.n_of_top) {
            *weight = 1.0 / (f64::from(n_of_top) + SHRINKAGE);
        }
        for first in (0..n).step_by(self.width) {
            self.fit_panel(simd, first, (first + self.width).min(n));
        }
        self.is_based.fill(false);
    }

    /// Fills in the expectations of rows of a top class if all features are 0.
    #[inline(always)]
    fn fill_base<S: pulp::Simd>(&mut self, simd: S, top: usize) {
        let (n, width) = (self.n_classes, self.width);
        for first in (0..n).step_by(width) {
            let end = (first + width).min(n);
            let size = end - first;
            expect(
                simd,
                &self.mean[first..end],
                &self.deviations[top * n + first..top * n + end],
                self.weights[top],
                &self.inverse[first * width..][..size * size],
                &mut self.base[top * n + first..top * n + end],
            );
        }
        self.is_based[top] = true;
    }

    /// Fits the panel of the classes `first..end`.
    #[inline(always)]
    fn fit_panel<S: pulp::Simd>(&mut self, simd: S, first: usize, end: usize) {
        let (n, width, size) = (self.n_classes, self.width, end - first);
        let n_rows = self.n_rows as f64;
        let mean = &self.mean[first..end];

        // The scatter within top classes: its lower triangle.
        let mut scatter = Vec::with_capacity(size * size);
        for products in self.products[first * width..end * width].chunks_exact(width) {
            scatter.extend_from_slice(&products[..size]);
        }
        for (i, row) in scatter.chunks_exact_mut(size).enumerate() {
            add_scaled(&mut row[..=i], -n_rows * mean[i], mean);
        }
        let (mut between, mut weights) = (Vec::new(), Vec::new());
        if self.n_tops > 1 {
            for (top, deviations) in self.deviations.chunks_exact(n).enumerate() {
                if self.n_of_top[top] > 0 {
                    between.extend_from_slice(&deviations[first..end]);
                    weights.push(-self.weights[top]);
                }
            }
        }
        add_products(&between, &weights, size, &mut scatter, size);
        let trace = (0..size).fold(0.0, |sum, i| sum + scatter[i * size + i]);
        let ridge = self.ridge.absolute + self.ridge.relative * (trace / size as f64);
        for i in 0..size {
            let own = match self.ridge.own {
                0.0 => 0.0,
                own => own * scatter[i * size + i],
            };
            scatter[i * size + i] += ridge + own;
        }
        let least = ridge.max(f64::MIN_POSITIVE);
        decompose(simd, &mut scatter, size, least);
        let inverse = transposed_inverse(simd, &scatter, size);

        for i in 0..size {
            self.variances[first + i] = scatter[i * size + i].max(least) / n_rows;
            let slopes =
                &mut self.slopes.as_flattened_mut()[(first + i) * self.stride..][i + 1..size];
            for (slope, value) in slopes.iter_mut().zip(&inverse[i * size + i + 1..]) {
                *slope = -value as f32;
            }
            if !self.slopes_of_lanes.is_empty() {
                let of_lanes = &mut self.slopes_of_lanes[(first + i) / N_LANES * self.stride..];
                for (of_lanes, slope) in of_lanes[i + 1..].iter_mut().zip(slopes) {
                    of_lanes[(first + i) % N_LANES] = *slope;
                }
            }
        }
        self.inverse[first * width..][..size * size].copy_from_slice(&inverse);
    }
}

/// Shows known features, and takes their expectations.
struct Known<'a, const IS_SPARSE: bool, const N: usize>(&'a [[f32; N]], &'a mut [[f32; N]]);

impl<const IS_SPARSE: bool, const N: usize> Visitor<N> for Known<'_, IS_SPARSE, N> {
    const IS_SPARSE: bool = IS_SPARSE;

    #[inline(always)]
    fn features(&mut self, class: usize, expectations: [f32; N]) -> Result<[f32; N], Corrupt> {
        self.1[class] = expectations;
        Ok(self.0[class])
    }
}

/// A fit to all rows so far, with the vector instructions of this machine, which compute as the others do: nothing is
/// fused or reordered.
struct Fit<'a>(&'a mut Regression);

impl pulp::WithSimd for Fit<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        self.0.add_recent();
        self.0.fit(simd);
    }
}

/// Whether all features, none of which is -0, are 0; without branches, so that the compiler can turn it into vector
/// instructions.
#[inline(always)]
fn are_zeros(features: &[f32]) -> bool {
    let bits = features.iter().map(|feature| feature.to_bits());
    bits.fold(0, |all, bits| all | bits) == 0
}

#[inline(always)]
fn add_lanes<const N: usize>(target: [f32; N], values: [f32; N], factor: f32) -> [f32; N] {
    let mut sums = target;
    for lane in 0..N {
        sums[lane] += values[lane] * factor;
    }
    sums
}

/// Raises the expectations of later classes by the features of [`N_LANES`] classes, one after another, in `N` rows.
struct AddFeatures<'a, const N: usize> {
    features: &'a [[f32; N]; N_LANES],
    /// The amounts by which the features raise a later class.
    slopes: &'a [[f32; N_LANES]],
    expectations: &'a mut [[f32; N]],
}

impl<const N: usize> pulp::WithSimd for AddFeatures<'_, N> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        if !N.is_multiple_of(S::F32_LANES) {
            // Vectors hold more than all rows.
            for (expectations, slopes) in self.expectations.iter_mut().zip(self.slopes) {
                for (&features, &slope) in self.features.iter().zip(slopes) {
                    *expectations = add_lanes(*expectations, features, slope);
                }
            }
            return;
        }
        let n_parts = N / S::F32_LANES;
        let (expectations, _) = S::as_mut_simd_f32s(self.expectations.as_flattened_mut());
        for part in 0..n_parts {
            let mut features = [simd.splat_f32s(0.0); N_LANES];
            for (features, of_rows) in features.iter_mut().zip(self.features) {
                *features = S::as_simd_f32s(of_rows).0[part];
            }
            let expectations = expectations.iter_mut().skip(part).step_by(n_parts);
            for (expected, slopes) in expectations.zip(self.slopes) {
                // In a register until all have been added.
                let mut sum = *expected;
                for lane in 0..N_LANES {
                    let raised = simd.mul_f32s(features[lane], simd.splat_f32s(slopes[lane]));
                    sum = simd.add_f32s(sum, raised);
                }
                *expected = sum;
            }
        }
    }
}

/// Fills in the base of a top class, with the vector instructions of this machine.
struct FillBase<'a>(&'a mut Regression, usize);

impl pulp::WithSimd for FillBase<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        self.0.fill_base(simd, self.1);
    }
}

/// Rows whose products are summed at once, in registers.
const ROWS: usize = 4;

/// Rows that stay in the fastest cache while the products of two classes are summed.
const CACHED_ROWS: usize = 8 * ROWS;

/// The features of a class in [`ROWS`] rows of `size`, times the weights of the rows.
#[inline(always)]
fn factors(rows: &[f64], weights: &[f64], size: usize, class: usize) -> [f64; ROWS] {
    let mut factors = [0.0; ROWS];
    for row in 0..ROWS {
        factors[row] = rows[row * size + class] * weights[row];
    }
    factors
}

/// Adds to each of the sums, one row after another, the first features of [`ROWS`] rows of `size`, times factors.
#[inline(always)]
fn add_rows<const N: usize>(
    rows: &[f64],
    size: usize,
    factors: [[f64; ROWS]; N],
    mut sums: [&mut [f64]; N],
) {
    let n = sums[0].len();
    let (a, b, c, d) = (
        &rows[..n],
        &rows[size..][..n],
        &rows[2 * size..][..n],
        &rows[3 * size..][..n],
    );
    for sums in &mut sums {
        assert_eq!(sums.len(), n);
    }
    for j in 0..n {
        for i in 0..N {
            let [of_a, of_b, of_c, of_d] = factors[i];
            sums[i][j] = sums[i][j] + of_a * a[j] + of_b * b[j] + of_c * c[j] + of_d * d[j];
        }
    }
}

/// Adds the products of features, times the weight of the row, over all rows of `features` (of `size` each) to the
/// lower triangle of `products` (rows of `stride`). Every sum takes the rows in order.
#[inline(always)]
fn add_products(
    features: &[f64],
    weights: &[f64],
    size: usize,
    products: &mut [f64],
    stride: usize,
) {
    /// One sparse product takes as long as so many in vectors.
    const DENSE: usize = 10;
    let mut live = Vec::new();
    let chunks = features.chunks(CACHED_ROWS * size);
    for (features, weights) in chunks.zip(weights.chunks(CACHED_ROWS)) {
        let rows = features.chunks_exact(size);
        let n_live = rows.map(|row| row.iter().map(|&f| usize::from(f != 0.0)).sum::<usize>());
        let n_products: usize = n_live.map(|n| n * n).sum();
        match n_products * DENSE < weights.len() * size * size {
            true => add_sparse_products(features, weights, size, products, stride, &mut live),
            false => add_dense_products(features, weights, size, products, stride),
        }
    }
}

/// Adds products as [`add_products`] does, of rows with few features other than 0, which it looks for: products that
/// are 0 change nothing. `live` is scratch space.
#[inline(always)]
fn add_sparse_products(
    features: &[f64],
    weights: &[f64],
    size: usize,
    products: &mut [f64],
    stride: usize,
    live: &mut Vec<(usize, f64)>,
) {
    live.resize(size, (0, 0.0));
    for (row, weight) in features.chunks_exact(size).zip(weights) {
        let mut n_live = 0;
        for (class, &feature) in row.iter().enumerate() {
            // Without a branch, which could not be foreseen.
            live[n_live] = (class, feature);
            n_live += usize::from(feature != 0.0);
        }
        let live = &live[..n_live];
        for (i, &(class, feature)) in live.iter().enumerate() {
            let factor = feature * weight;
            let sums = &mut products[class * stride..][..size];
            for &(before, feature) in &live[..=i] {
                sums[before] += factor * feature;
            }
        }
    }
}

/// Adds products as [`add_products`] does, of rows in which most features are not 0.
#[inline(always)]
fn add_dense_products(
    features: &[f64],
    weights: &[f64],
    size: usize,
    products: &mut [f64],
    stride: usize,
) {
    let n_grouped = weights.len() / ROWS * ROWS;
    let (grouped, rest) = features.split_at(n_grouped * size);
    for (pair, products) in products.chunks_mut(2 * stride).enumerate() {
        let i = 2 * pair;
        if i >= size {
            break;
        }
        let (sums, next) = products.split_at_mut(stride.min(products.len()));
        let sums = &mut sums[..=i];
        for (group, weights) in grouped.chunks_exact(ROWS * size).zip(weights.chunks(ROWS)) {
            let of_first = factors(group, weights, size, i);
            if i + 1 == size {
                if of_first != [0.0; ROWS] {
                    add_rows(group, size, [of_first], [sums]);
                }
                continue;
            }
            let of_next = factors(group, weights, size, i + 1);
            match (of_first != [0.0; ROWS], of_next != [0.0; ROWS]) {
                (true, true) => {
                    // Both at once, since they have the same factors.
                    let (both, last) = next[..i + 2].split_at_mut(i + 1);
                    add_rows(group, size, [of_first, of_next], [sums, both]);
                    add_rows(&group[i + 1..], size, [of_next], [last]);
                }
                (true, false) => add_rows(group, size, [of_first], [sums]),
                (false, true) => add_rows(group, size, [of_next], [&mut next[..i + 2]]),
                (false, false) => {}
            }
        }
    }
    for (row, weight) in rest.chunks_exact(size).zip(&weights[n_grouped..]) {
        for i in 0..size {
            if row[i] != 0.0 {
                let sums = &mut products[i * stride..i * stride + i + 1];
                add_scaled(sums, row[i] * weight, row);
            }
        }
    }
}

/// The expectation of each class if the features of all before it are 0: `inverse` times the mean of the top class.
#[inline(always)]
fn expect<S: pulp::Simd>(
    simd: S,
    mean: &[f64],
    deviations: &[f64],
    weight: f64,
    inverse: &[f64],
    expected: &mut [f32],
) {
    let n = mean.len();
    let mut sums = vec![0.0; n];
    let class_mean = |class: usize| mean[class] + deviations[class] * weight;
    for first in (0..n).step_by(TOGETHER) {
        let of_class = |class: usize| &inverse[class * n..][..n];
        let end = (first + TOGETHER).min(n);
        for class in first..end {
            add_scaled(
                &mut sums[class..end],
                class_mean(class),
                &of_class(class)[class..],
            );
        }
        if end < n {
            let means = std::array::from_fn(|k| class_mean(first + k));
            let rows = std::array::from_fn(|k| &of_class(first + k)[end..]);
            add_all_scaled(simd, &mut sums[end..], means, rows);
        }
    }
    for (expected, sum) in expected.iter_mut().zip(&sums) {
        *expected = *sum as f32;
    }
}

/// `target += factor * values`, as far as both go.
#[inline(always)]
fn add_scaled(target: &mut [f64], factor: f64, values: &[f64]) {
    for (target, value) in target.iter_mut().zip(values) {
        *target += factor * value;
    }
}

/// Rows that are added one after another, but in registers.
const TOGETHER: usize = 4;

/// Does [`add_scaled`] with each of the factors in order, as far as the target goes.
#[inline(always)]
fn add_all_scaled<S: pulp::Simd>(
    simd: S,
    target: &mut [f64],
    factors: [f64; TOGETHER],
    values: [&[f64]; TOGETHER],
) {
    let values = values.map(|values| S::as_simd_f64s(&values[..target.len()]));
    let (targets, rest) = S::as_mut_simd_f64s(target);
    let of_lanes = factors.map(|factor| simd.splat_f64s(factor));
    for (i, target) in targets.iter_mut().enumerate() {
        let mut sum = *target;
        for k in 0..TOGETHER {
            sum = simd.add_f64s(sum, simd.mul_f64s(of_lanes[k], values[k].0[i]));
        }
        *target = sum;
    }
    for (i, target) in rest.iter_mut().enumerate() {
        for k in 0..TOGETHER {
            *target += factors[k] * values[k].1[i];
        }
    }
}

/// Replaces the lower triangle of a positive definite matrix by the unit lower triangular `L` of its
/// decomposition `L D L^T` (and the diagonal by `D`). A pivot below `least`, which only rounding can
/// make, counts as `least`.
#[inline(always)]
fn decompose<S: pulp::Simd>(simd: S, matrix: &mut [f64], n: usize, least: f64) {
    // Columns as they are when divided by the pivot, and the quotients.
    let mut columns = [const { Vec::new() }; TOGETHER];
    columns.fill(vec![0.0; n]);
    let mut factors = columns.clone();
    for first in (0..n).step_by(TOGETHER) {
        let end = (first + TOGETHER).min(n);
        for i in first..n {
            for k in first..end {
                columns[k - first][i] = matrix[i * n + k];
            }
        }
        for k in first..end {
            let (earlier, rest) = columns.split_at_mut(k - first);
            let column = &mut rest[0][k..];
            for (earlier, factors) in earlier.iter().zip(&factors) {
                add_scaled(column, -earlier[k], &factors[k..]);
            }
            let pivot = column[0].max(least);
            for (factor, value) in factors[k - first][k..].iter_mut().zip(&*column) {
                *factor = value / pivot;
            }
            matrix[k * n + k] = column[0];
        }
        for i in first + 1..n {
            for k in first..end.min(i) {
                matrix[i * n + k] = factors[k - first][i];
            }
        }
        let columns = columns.each_ref().map(|column| &column[end..]);
        for i in end..n {
            let factors = factors.each_ref().map(|factors| -factors[i]);
            // Entries after the diagonal are not used: whole lanes take less time.
            let last = (i + 1 - end).next_multiple_of(TOGETHER).min(n - end);
            add_all_scaled(simd, &mut matrix[i * n + end..][..last], factors, columns);
        }
    }
}

/// The transposed inverse of a unit lower triangular matrix, of which only the part below the diagonal
/// is read.
#[inline(always)]
fn transposed_inverse<S: pulp::Simd>(simd: S, lower: &[f64], n: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; n * n];
    for i in 0..n {
        let (before, row) = inverse.split_at_mut(i * n);
        row[i] = 1.0;
        let (groups, rest) = before.split_at(i / TOGETHER * TOGETHER * n);
        for (group, rows) in groups.chunks_exact(TOGETHER * n).enumerate() {
            let first = group * TOGETHER;
            let factors = std::array::from_fn(|k| -lower[i * n + first + k]);
            let rows: [&[f64]; TOGETHER] = std::array::from_fn(|k| &rows[k * n..][..n]);
            add_all_scaled(simd, &mut row[..first], factors, rows);
            // The part of their own classes, whose number the compiler knows.
            let sums: &mut [f64; TOGETHER] =
                row[first..].first_chunk_mut().expect("classes before i");
            for k in 0..TOGETHER {
                let own = &rows[k][first..][..TOGETHER];
                for j in 0..=k {
                    sums[j] += factors[k] * own[j];
                }
            }
        }
        for (earlier, k) in rest.chunks_exact(n).zip(i / TOGETHER * TOGETHER..) {
            add_scaled(&mut row[..=k], -lower[i * n + k], earlier);
        }
    }
    let mut transposed = vec![0.0; n * n];
    // Few rows at a time, which fit in the fastest cache.
    for first in (0..n).step_by(8) {
        for i in first..n {
            for j in first..(first + 8).min(i + 1) {
                transposed[j * n + i] = inverse[i * n + j];
            }
        }
    }
    transposed
}

#[cfg(test)]
mod tests {
    use pulp::Scalar;

    use super::super::noise;
    use super::*;

    const RIDGE: Ridge = Ridge {
        absolute: 4.0,
        relative: 0.0,
        own: 0.0,
    };

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
        decompose(Scalar::new(), &mut parts, n, 1e-9);
        let l = |i: usize, k: usize| match i.cmp(&k) {
            std::cmp::Ordering::Less => 0.0,
            std::cmp::Ordering::Equal => 1.0,
            std::cmp::Ordering::Greater => parts[i * n + k],
        };
        let transposed = transposed_inverse(Scalar::new(), &parts, n);
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
    fn a_decomposition_takes_one_column_after_the_other() {
        for n in 1..20 {
            pulp::Arch::Scalar.dispatch(Decomposition(n));
            pulp::Arch::new().dispatch(Decomposition(n));
        }
    }

    /// Checks a decomposition of a matrix of so many rows, done a few columns at a time, against section 10 of
    /// FORMAT.md.
    struct Decomposition(usize);

    impl pulp::WithSimd for Decomposition {
        type Output = ();

        fn with_simd<S: pulp::Simd>(self, simd: S) {
            let Self(n) = self;
            let mut state = n as u32;
            let mut matrix = vec![0.0; n * n];
            for i in 0..n {
                for j in 0..=i {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let noise = f64::from(state >> 8) / f64::from(1 << 24);
                    matrix[i * n + j] = if i == j {
                        n as f64 + noise
                    } else {
                        noise - 0.5
                    };
                }
            }
            // A pivot that is too small, and a column of zeros.
            matrix[n / 2 * n + n / 2] = -1.0;
            (n / 3 + 1..n).for_each(|i| matrix[i * n + n / 3] = 0.0);

            // W, step 4.
            let mut w = matrix.clone();
            for k in 0..n {
                let p = w[k * n + k].max(0.25);
                let q: Vec<f64> = (0..n).map(|i| w[i * n + k]).collect();
                for i in k + 1..n {
                    let f = q[i] / p;
                    for j in k + 1..=i {
                        w[i * n + j] += -f * q[j];
                    }
                    w[i * n + k] = f;
                }
            }
            decompose(simd, &mut matrix, n, 0.25);
            let lower = |matrix: &[f64]| -> Vec<u64> {
                let rows = matrix.chunks_exact(n).enumerate();
                rows.flat_map(|(i, row)| bits(&row[..=i])).collect()
            };
            assert_eq!(lower(&matrix), lower(&w));

            // I, step 5.
            let mut inverse = vec![0.0; n * n];
            for i in 0..n {
                inverse[i * n + i] = 1.0;
                for k in 0..i {
                    for j in 0..=k {
                        inverse[i * n + j] += -w[i * n + k] * inverse[k * n + j];
                    }
                }
            }
            let transposed = transposed_inverse(simd, &matrix, n);
            let back: Vec<f64> = (0..n * n).map(|p| transposed[p % n * n + p / n]).collect();
            assert_eq!(bits(&back), bits(&inverse));

            // B, step 6.
            let means: Vec<f64> = (0..n).map(|class| class as f64 - 2.5).collect();
            let deviations: Vec<f64> = (0..n).map(|class| (class % 3) as f64 - 1.0).collect();
            let mut sums = vec![0.0; n];
            for b in 0..n {
                let mean = means[b] + deviations[b] * 0.125;
                (b..n).for_each(|c| sums[c] += mean * inverse[c * n + b]);
            }
            let sums: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
            let mut expectations = vec![0.0; n];
            expect(
                simd,
                &means,
                &deviations,
                0.125,
                &transposed,
                &mut expectations,
            );
            assert_eq!(expectations, sums);
        }
    }

    fn bits(values: &[f64]) -> Vec<u64> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn products_are_summed_row_by_row() {
        for (n_rows, size) in [(11, 5), (75, 5), (64, 6), (75, 6)] {
            assert_products_are_summed_row_by_row(n_rows, size, |row, class| {
                // Some groups of rows have neither of two classes.
                let is_alone = matches!(class, 1 | 2) && row % 12 >= 4 * class;
                (row * size + class).is_multiple_of(7) || is_alone
            });
        }
        // Chunks of rows with few features, and chunks with more.
        assert_products_are_summed_row_by_row(150, 40, |row, class| {
            noise(row * 40 + class) % 16 > row as u32 / 32
        });
    }

    #[test]
    fn few_features_and_many_are_summed_alike() {
        let (n_rows, size, stride) = (45, 13, 16);
        let feature = |i: usize| match noise(i) % 3 {
            0 => (noise(i) >> 8) as f64 / 1e4 - 800.0,
            1 => 0.0,
            _ => -0.0,
        };
        let features: Vec<f64> = (0..n_rows * size).map(feature).collect();
        let weights: Vec<f64> = (0..n_rows).map(|row| 0.7 * row as f64 - 9.0).collect();
        let mut sparse = vec![0.0; size * stride];
        let mut dense = sparse.clone();
        let live = &mut Vec::new();
        add_sparse_products(&features, &weights, size, &mut sparse, stride, live);
        add_dense_products(&features, &weights, size, &mut dense, stride);
        assert_eq!(bits(&sparse), bits(&dense));
        assert!(sparse[0] != 0.0 && sparse[12 * stride] != 0.0 && sparse[12] == 0.0);
    }

    fn assert_products_are_summed_row_by_row(
        n_rows: usize,
        size: usize,
        is_zero: impl Fn(usize, usize) -> bool,
    ) {
        let stride = size + 2;
        let features: Vec<f64> = (0..n_rows * size)
            .map(|i| match is_zero(i / size, i % size) {
                true => 0.0,
                false => 1.0 / (i + 1) as f64,
            })
            .collect();
        let mut products = vec![0.25; size * stride];
        let weights: Vec<f64> = (0..n_rows).map(|row| 0.5 + row as f64).collect();
        add_products(&features, &weights, size, &mut products, stride);
        for i in 0..size {
            for j in 0..stride {
                let mut expected = 0.25;
                if j <= i {
                    for (row, weight) in features.chunks_exact(size).zip(&weights) {
                        expected += row[i] * weight * row[j];
                    }
                }
                assert_eq!(products[i * stride + j], expected);
            }
        }
    }

    /// The expectations of a row of top class 0 with these features, which are the same beside other rows.
    fn expectations(regression: &mut Regression, features: &[f32]) -> Vec<f32> {
        const N: usize = 4;
        let beside = |feature: &f32| [0.0, (*feature != 0.0).into(), *feature, 2.0 * feature];
        let many: Vec<[f32; N]> = features.iter().map(beside).collect();
        let mut of_many = vec![[0.0; N]; features.len()];
        let mut of_sparse = of_many.clone();
        let mut sparse = Known::<true, N>(&many, &mut of_sparse);
        regression.walk([0; N], &mut sparse).unwrap();
        let mut dense = Known::<false, N>(&many, &mut of_many);
        regression.walk([0; N], &mut dense).unwrap();
        assert_eq!(of_many, of_sparse);
        let mut expectations = vec![0.0; features.len()];
        let mut of_sparse = expectations.clone();
        regression.expect::<true>(0, features, &mut of_sparse);
        regression.expect::<false>(0, features, &mut expectations);
        assert_eq!(expectations, of_sparse);
        let of_third: Vec<f32> = of_many.iter().map(|of_rows| of_rows[2]).collect();
        assert_eq!(expectations, of_third);
        expectations
    }

    #[test]
    fn running_means_know_a_top_class_before_the_next_fit() {
        const N: usize = 4;
        let n_rows = 200;
        let mut regressions = [false, true].map(|are_running| {
            let regression = Regression::new(N, n_rows, true, RIDGE);
            match are_running {
                true => regression.with_running_means(),
                false => regression,
            }
        });
        let learn = |regression: &mut Regression, top: usize, feature: f32| {
            let mut features = [1.0, 1.0, 1.0, feature];
            features[top] = 0.0;
            let mut expectations = [0.0; N];
            regression.expect::<false>(top, &features, &mut expectations);
            (expectations[3], regression.learn([Some(top)]))
        };
        for regression in &mut regressions {
            for _ in 0..90 {
                learn(regression, 0, 1.0);
            }
        }
        let [fitted, running] = &mut regressions;
        let mut n_between = 0;
        for row in 0..110u32 {
            let (of_fitted, is_fit) = learn(fitted, 1, 5.0);
            assert_eq!(learn(running, 1, 5.0).1, is_fit);
            let (of_running, _) = learn(&mut running.clone(), 1, 5.0);
            // Together with the mean of all, which counts as one row.
            let n = f64::from(row + 1);
            assert!(f64::from(of_running) > (1.0 + 5.0 * n) / (n + 1.0) - 0.2);
            n_between += u32::from(of_running > of_fitted + 0.5);
        }
        assert!(n_between > 4, "{n_between}");
        // There are no more fits, but the means go on.
        assert!(running.knows_enough());
        for _ in 0..20 {
            learn(running, 2, 7.0);
        }
        let (of_running, is_fit) = learn(running, 2, 7.0);
        assert!(!is_fit && of_running > 6.0, "{of_running}");
    }

    #[test]
    fn a_class_that_follows_another_is_expected_to() {
        for n_classes in [4, 300, 5000] {
            let mut regression = Regression::new(n_classes, 3000, true, RIDGE);
            let mut features = vec![0.0; n_classes];
            assert!(
                expectations(&mut regression, &features)
                    .iter()
                    .all(|&e| e == 0.0)
            );
            assert!(!regression.is_fitted());
            for i in 0..2000u32 {
                // Class 2 always follows class 1; class 3 is always 1.
                let x = (i * 7919 % 63) as f32 / 10.0;
                features[1..4].copy_from_slice(&[x, x, 1.0]);
                expectations(&mut regression, &features);
                regression.learn([Some(0)]);
            }
            assert!((expectations(&mut regression, &features)[3] - 1.0).abs() < 0.05);
            if n_classes > MAX_PANELLED {
                assert!((expectations(&mut regression, &features)[2] - 3.1).abs() < 0.2);
                continue;
            }
            assert!(regression.variance(1) > 100.0 * regression.variance(2));
            for x in [0.5, 2.0, 5.5] {
                features[1] = x;
                let expected = expectations(&mut regression, &features)[2];
                assert!((expected - x).abs() < 0.1, "{expected} for {x}");
            }
        }
    }
}
