//! How fine the levels of square roots must be in each row, so that its divergence stays within a bound (FORMAT.md,
//! section 4).

use super::contexts::N_POSITIONS;
use super::expected::{Levels, Others, Scale};
use super::logarithm::log2;
use super::quantizer::{Root, Roots};
use crate::matrix::{Rows, argmax};

/// The levels that the divergence of a row asks for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Need {
    /// The coarsest fineness that keeps the bound.
    least: u32,
    /// The fineness chosen, which may be finer where stating the coarsest costs more than it saves.
    chosen: u32,
    /// About the bits that one finer step costs.
    slope: f32,
    /// Whether all levels but the top one are 0 at `least`.
    is_certain: bool,
    /// The bound less the negative entropy of the row.
    most: f64,
    /// The reciprocal of the row's sum.
    scale: f64,
}

/// Levels whose weights have their logarithms in a table.
const N_LOG_WEIGHTS: usize = 256;

/// Finds quantizers of square roots that keep the divergence of each row within a bound.
pub(super) struct FinenessFinder {
    roots: Roots,
    /// The bound in bits; NaN if levels are not of roots, and none need be found.
    max_kl: f64,
    /// The fineness of the previous row: where the search begins.
    fineness: u32,
    row: LiveClasses,
    /// The logarithms of the weights of the levels that nearly all classes have: looking them up is faster.
    log_weights: [f64; N_LOG_WEIGHTS],
}

/// The classes of a row whose levels may be above 0, up to some fineness. Most rows have few of them; of the other
/// classes, only the number counts: their weight is 1, whose logarithm is 0.
#[derive(Default)]
struct LiveClasses {
    n_classes: usize,
    /// The square root of the top class's probability, and this probability as a share of the row's sum.
    top: (f64, f64),
    /// The number of live classes but the top one; the vectors are longer.
    n: usize,
    classes: Vec<u32>,
    probabilities: Vec<f32>,
    roots: Vec<f64>,
    shares: Vec<f64>,
    /// The levels of these classes, as last filled in.
    levels: Vec<u32>,
}

/// Levels tried for the row taken.
#[derive(Clone, Copy)]
struct Tried {
    others: Others,
    top_level: u32,
    /// The divergence less the bound.
    excess: f64,
}

impl LiveClasses {
    /// Takes the classes of a row whose levels may be above 0 with this quantizer, or a coarser one. Shares are
    /// probabilities times `scale`.
    #[inline(always)]
    fn take(&mut self, row: &[f32], top: usize, scale: f64, finest: Root) {
        if self.n_classes != row.len() {
            self.resize(row.len());
        }
        // A little below the square of half a step, up to which roots are rounded to 0.
        let least = (0.249_999 / finest.square_of_one() as f64) as f32;
        let (classes, probabilities) = (&mut self.classes[..], &mut self.probabilities[..]);
        let mut n = 0;
        for others in [0..top, top + 1..row.len()] {
            for (class, &p) in others.clone().zip(&row[others]) {
                // Without a branch: the next class takes its place if it does not count.
                (classes[n], probabilities[n]) = (class as u32, p);
                n += usize::from(p > least);
            }
        }
        let root_and_share = |p: f32| (f64::from(p).sqrt(), f64::from(p) * scale);
        let of_classes = self.roots.iter_mut().zip(&mut self.shares);
        for (&p, (root, share)) in probabilities[..n].iter().zip(of_classes) {
            (*root, *share) = root_and_share(p);
        }
        (self.n, self.top) = (n, root_and_share(row[top]));
    }

    fn resize(&mut self, n_classes: usize) {
        self.n_classes = n_classes;
        self.classes.resize(n_classes, 0);
        self.probabilities.resize(n_classes, 0.0);
        self.roots.resize(n_classes, 0.0);
        self.shares.resize(n_classes, 0.0);
        self.levels.resize(n_classes, 0);
    }
}

impl FinenessFinder {
    pub(super) fn new(levels: Levels) -> Self {
        let (roots, max_kl) = match levels {
            Levels::Root { roots, max_kl } => (roots, max_kl),
            _ => (Roots::HALVING, f64::NAN),
        };
        Self {
            roots,
            max_kl,
            fineness: 0,
            row: LiveClasses::default(),
            log_weights: std::array::from_fn(|level| log2(Root::weight(level as u32) as f64)),
        }
    }

    /// The needs of a block's rows if their levels are of square roots, else none; each row states the difference of
    /// its fineness from that of the previous row in the same of [`N_POSITIONS`] groups. Exact rows need nothing.
    #[inline(always)]
    pub(super) fn needs(
        &mut self,
        matrix: Rows<'_>,
        is_exact: &[bool],
        mut group_of: impl FnMut(usize) -> usize,
    ) -> Vec<Need> {
        if self.max_kl.is_nan() {
            return Vec::new();
        }
        let mut needs = vec![Need::default(); matrix.n_rows()];
        for ((row, is_exact), need) in matrix.rows().zip(is_exact).zip(&mut needs) {
            if !is_exact {
                *need = self.need(row, argmax(row));
            }
        }
        let mut groups: Vec<Vec<&mut Need>> = Vec::new();
        groups.resize_with(N_POSITIONS, Vec::new);
        for (row, (need, is_exact)) in needs.iter_mut().zip(is_exact).enumerate() {
            if !is_exact {
                groups[group_of(row)].push(need);
            }
        }
        for group in &mut groups {
            choose(group, self.roots);
        }
        needs
    }

    /// Finds what a row needs.
    #[inline(always)]
    fn need(&mut self, row: &[f32], top: usize) -> Need {
        /// What rounding the decoded values to f32 may add.
        const F32_MARGIN: f64 = 2e-7;
        let (roots, max_kl) = (self.roots, self.max_kl);
        let n_steps_to_halve = 1 << roots.log_n_steps();
        let scale = 1.0 / sum(row, f64::from);
        // A share of 0 counts nothing, whatever its logarithm.
        let negentropy = sum(row, |p| {
            let share = f64::from(p) * scale;
            share * log2(share)
        });
        let most = max_kl - F32_MARGIN - negentropy;
        // The finest fineness known to miss the bound, and the coarsest known to keep it; neighbours in the end.
        let (mut missing, mut keeping) = (-1, roots.count() as i32);
        let mut is_certain = false;
        let mut fineness = self.fineness as i32;
        let mut finest = -1;
        while missing + 1 < keeping {
            if fineness > finest {
                finest = (fineness + n_steps_to_halve).min(roots.count() as i32 - 1);
                self.row.take(row, top, scale, self.root(finest as u32));
            }
            let Tried { others, excess, .. } = self.levels(fineness as u32, most);
            if excess <= 0.0 {
                (keeping, is_certain) = (fineness, others.n == 0);
            } else {
                missing = fineness;
            }
            // So many steps about halve the divergence.
            let n_halvings = log2((1.0 + excess / max_kl).max(f64::MIN_POSITIVE));
            let n_steps = (n_halvings * f64::from(n_steps_to_halve)).ceil() as i32;
            fineness = (fineness + n_steps).clamp(missing + 1, (keeping - 1).max(missing + 1));
        }
        // Even the finest may miss the bound; the row is then stored exactly.
        let fineness = keeping.min(roots.count() as i32 - 1) as u32;
        self.fineness = fineness;
        // A level takes about log2(1 + 2 level) bits, and grows by the root of 2 with so many steps.
        let twice = 2.0 * self.root(fineness).level_of_one() as f32;
        let size = |p: f32| {
            let level = twice * p.sqrt();
            f64::from(level / (1.0 + level))
        };
        let n_levels = sum(row, size) - size(row[top]);
        let slope = n_levels / f64::from(2 * n_steps_to_halve);
        Need {
            least: fineness,
            chosen: fineness,
            slope: slope as f32,
            is_certain,
            most,
            scale,
        }
    }

    /// Fills in levels of the chosen fineness, or of a finer one if that misses the bound.
    #[inline(always)]
    pub(super) fn quantize(
        &mut self,
        row: &[f32],
        top: usize,
        need: Need,
        levels: &mut [u32],
    ) -> (Root, Others) {
        let mut fineness = need.chosen;
        loop {
            let root = self.root(fineness);
            self.row.take(row, top, need.scale, root);
            let tried = self.levels(fineness, need.most);
            if tried.excess > 0.0 && fineness + 1 < self.roots.count() {
                fineness += 1;
                continue;
            }
            levels.fill(0);
            levels[top] = tried.top_level;
            let LiveClasses {
                classes,
                levels: live,
                n,
                ..
            } = &self.row;
            for (&class, &level) in classes[..*n].iter().zip(live) {
                levels[class as usize] = level;
            }
            return (root, tried.others);
        }
    }

    fn root(&self, fineness: u32) -> Root {
        Root {
            of: self.roots,
            fineness,
        }
    }

    #[inline(always)]
    fn log_weight(&self, level: u32) -> f64 {
        match self.log_weights.get(level as usize) {
            Some(&log) => log,
            None => log2(Root::weight(level) as f64),
        }
    }

    /// Fills in the levels of the live classes of the row taken.
    #[inline(always)]
    fn levels(&mut self, fineness: u32, most: f64) -> Tried {
        let root = self.root(fineness);
        let (top_root, top_share) = self.row.top;
        let levels = &mut self.row.levels[..self.row.n];
        root.quantize(&self.row.roots, levels);
        let mut nearest = [0];
        root.quantize(&[top_root], &mut nearest);
        let mut others = Others::default();
        levels.iter().for_each(|&level| others.add(level));
        let n_zeros = (self.row.n_classes - 1 - others.n) as u64;
        let sum = n_zeros * Root::weight(0) + others.sum_of_squares * Root::weight(1);
        // The logarithms of the weights, each times the share of its class.
        let levels = &self.row.levels[..self.row.n];
        let cross = match (others.largest as usize) < N_LOG_WEIGHTS {
            // The remainder is the level itself, but spares a bounds check.
            true => dot(levels, &self.row.shares, |level| {
                self.log_weights[level as usize % N_LOG_WEIGHTS]
            }),
            false => dot(levels, &self.row.shares, |level| self.log_weight(level)),
        };
        let mut tried = Tried {
            others,
            top_level: 0,
            excess: 0.0,
        };
        // The likely top level costs least. A top level of 0 counts nothing, whatever the share.
        for top_level in [others.likely_top(Scale::Root(root)), nearest[0]] {
            let cross = cross + top_share * self.log_weight(top_level);
            let excess = log2((sum + Root::weight(top_level)) as f64) - cross - most;
            tried = Tried {
                top_level,
                excess,
                ..tried
            };
            if excess <= 0.0 {
                break;
            }
        }
        tried
    }
}

/// The steps of finenesses with which rows, as far as the first of them show, take about the fewest bits; finer steps
/// take more time, so that they must save something in a large block.
pub(super) fn choose_roots(
    matrix: Rows<'_>,
    is_exact: &[bool],
    max_kl: f64,
    is_large: bool,
) -> Roots {
    const N_ROWS: usize = 512;
    /// In bits for each level, which takes about four.
    const LEAST_SAVING: f32 = 0.03;
    let finest = Roots::of_steps(Roots::MAX_LOG_STEPS);
    let mut finder = FinenessFinder::new(Levels::Root {
        roots: finest,
        max_kl,
    });
    let rows = matrix.rows().zip(is_exact).take(N_ROWS);
    let needs: Vec<Need> = rows
        .filter(|(_, is_exact)| !**is_exact)
        .map(|(row, _)| finder.need(row, argmax(row)))
        .collect();
    let n_bits = |roots: Roots| {
        // The steps of the finest finenesses in one of these.
        let step = 1 << (Roots::MAX_LOG_STEPS - roots.log_n_steps());
        let mut n_bits = 0.0;
        let mut needs = needs.clone();
        for need in &mut needs {
            let least = need.least.div_ceil(step).min(roots.count() - 1);
            n_bits += need.slope * (least * step).saturating_sub(need.least) as f32;
            (need.least, need.slope) = (least, need.slope * step as f32);
        }
        n_bits + choose(&mut needs.iter_mut().collect::<Vec<_>>(), roots)
    };
    // A halving takes half a bit for each level.
    let n_levels =
        needs.iter().map(|need| need.slope).sum::<f32>() * (2 << Roots::MAX_LOG_STEPS) as f32;
    let least_saving = if is_large {
        LEAST_SAVING * n_levels
    } else {
        0.0
    };
    let mut best = (Roots::HALVING, n_bits(Roots::HALVING) - least_saving);
    for roots in (1..=Roots::MAX_LOG_STEPS).map(Roots::of_steps) {
        let n_bits = n_bits(roots);
        if n_bits < best.1 {
            best = (roots, n_bits);
        }
    }
    best.0
}

/// The sum over levels of a function of the level, times the share.
#[inline(always)]
fn dot(levels: &[u32], shares: &[f64], of_level: impl Fn(u32) -> f64) -> f64 {
    // Lanes, which need not wait for each other.
    let mut lanes = [0.0; 8];
    for (levels, shares) in levels.chunks(8).zip(shares.chunks(8)) {
        for (lane, (&level, &share)) in lanes.iter_mut().zip(levels.iter().zip(shares)) {
            *lane += share * of_level(level);
        }
    }
    lanes.iter().sum()
}

/// The sum over values of a function.
#[inline(always)]
fn sum<T: Copy>(values: &[T], term: impl Fn(T) -> f64) -> f64 {
    // Lanes, which the compiler turns into vector instructions.
    let mut lanes = [0.0; 8];
    let (chunks, rest) = values.as_chunks();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip::<&[T; 8]>(chunk) {
            *lane += term(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += term(value);
    }
    lanes.iter().sum()
}

/// Chooses the fineness of each row, where each states its difference from the previous one: weighs the bits of finer
/// levels against those of differences (the algorithm of Viterbi, "Error Bounds for Convolutional Codes", 1967).
/// Returns the bits of both together.
fn choose(needs: &mut [&mut Need], roots: Roots) -> f32 {
    /// The number of finenesses tried, from the least one on.
    const N: usize = 8;
    let same = roots.count() as usize - 1;
    let index = |from: u32, to: u32| same + to as usize - from as usize;
    let guess = |difference: usize| 2.0 * log2(1.0 + difference.abs_diff(same) as f64) as f32;
    let mut costs: Vec<f32> = (0..=2 * same).map(guess).collect();
    let mut n_bits = 0.0;
    for _ in 0..3 {
        // Differences out of range cost too much, so that no fineness tried needs a check.
        let beyond = [f32::INFINITY; N];
        let costs_of_all = [&beyond, &costs[..], &beyond].concat();
        // The least bits up to each row, by steps above its least fineness, and from which steps these come.
        let mut last = needs.first().map_or(0, |need| need.least);
        let mut bits = if_there([0.0; N], last, roots);
        let mut from: Vec<[u8; N]> = Vec::with_capacity(needs.len());
        for need in needs.iter() {
            let mut next = [f32::INFINITY; N];
            let mut come = [0; N];
            for (before, bits) in bits.iter().enumerate() {
                let costs =
                    &costs_of_all[N + same + need.least as usize - last as usize - before..][..N];
                // Without branches, so that the compiler can turn it into vector instructions.
                for step in 0..N {
                    let total = bits + costs[step];
                    let is_less = total < next[step];
                    next[step] = if is_less { total } else { next[step] };
                    come[step] = if is_less { before as u8 } else { come[step] };
                }
            }
            for (step, next) in next.iter_mut().enumerate() {
                *next += need.slope * step as f32;
            }
            bits = if_there(next, need.least, roots);
            from.push(come);
            last = need.least;
        }
        let best = bits.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1));
        let mut step = best.map_or(0, |(step, _)| step);
        n_bits = bits[step];
        for (need, come) in needs.iter_mut().zip(&from).rev() {
            need.chosen = need.least + step as u32;
            step = come[step].into();
        }
        let mut counts = vec![0.5f32; costs.len()];
        for pair in needs.windows(2) {
            counts[index(pair[0].chosen, pair[1].chosen)] += 1.0;
        }
        let total: f32 = counts.iter().sum();
        costs = counts
            .iter()
            .map(|count| log2((total / count).into()) as f32)
            .collect();
    }
    n_bits
}

/// The bits of finenesses from `first` on; infinite for those that do not exist.
fn if_there<const N: usize>(bits: [f32; N], first: u32, roots: Roots) -> [f32; N] {
    std::array::from_fn(|step| match first + (step as u32) < roots.count() {
        true => bits[step],
        false => f32::INFINITY,
    })
}

/// Whether so few of the rows of few classes are certain that a symbol for it would make the symbols of other rows
/// longer: a code takes a bit at least.
pub(super) fn are_rarely_certain(needs: &[Need], n_classes: usize) -> bool {
    let n_certain = needs.iter().filter(|need| need.is_certain).count();
    n_classes <= 3 && n_certain > 0 && n_certain * 8 < needs.len()
}

#[cfg(test)]
mod tests {
    use super::super::quantizer::divergence;
    use super::*;

    #[test]
    fn rows_get_the_coarsest_levels_that_keep_their_divergence() {
        let row = [0.9, 0.09, 0.009, 0.001];
        let mut levels = [0; 4];
        let mut decoded = [0.0; 4];
        for log_n_steps in [0, 1, 3] {
            let roots = Roots::of_steps(log_n_steps);
            let mut finder = FinenessFinder::new(Levels::of_roots(roots));
            let mut last = 0;
            for max_kl in [0.1, 0.01, 1e-3, 1e-4, 1e-6, 0.5] {
                finder.max_kl = max_kl;
                let need = finder.need(&row, 0);
                let (root, others) = finder.quantize(&row, 0, need, &mut levels);
                assert_eq!(others, Others::of(&levels, 0));
                assert_eq!(root.fineness(), need.least);
                Root::dequantize_row(&levels, &mut decoded).unwrap();
                assert!(divergence(&row, &decoded) <= max_kl);
                assert!(root.fineness() >= last || max_kl > 0.1);
                last = root.fineness();
                // One step coarser does not keep it.
                if let Some(coarser) = root.fineness().checked_sub(1) {
                    let tried = finder.levels(coarser, need.most);
                    assert!(tried.excess > 0.0, "{max_kl}");
                }
            }
        }
    }

    #[test]
    fn steps_are_finer_where_more_classes_live() {
        let of = |n_classes: usize, is_large| {
            let mut state = 1u32;
            let mut values: Vec<f32> = (0..200 * n_classes)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    0.05 + (state >> 8) as f32 / (1 << 24) as f32
                })
                .collect();
            for row in values.chunks_exact_mut(n_classes) {
                let sum: f32 = row.iter().sum();
                row.iter_mut().for_each(|p| *p /= sum);
            }
            let none_exact = vec![false; 200];
            let matrix = Rows::new(n_classes, &values);
            choose_roots(matrix, &none_exact, 1e-3, is_large).log_n_steps()
        };
        let many = of(100, false);
        assert!(many >= 2 && of(100, true) == many && of(2, true) == 0);
        assert!(of(2, false) <= of(10, false) && of(10, false) < many);
    }

    #[test]
    fn the_fineness_changes_where_that_pays() {
        let need = |least, slope| Need {
            least,
            chosen: least,
            slope,
            ..Need::default()
        };
        let chosen = |slope: f32| {
            // One step coarser in every third row.
            let mut needs: Vec<Need> = (0..300)
                .map(|row| need(5 - u32::from(row % 3 == 0), slope))
                .collect();
            choose(&mut needs.iter_mut().collect::<Vec<_>>(), Roots::HALVING);
            let least = needs.iter().filter(|need| need.chosen == need.least);
            assert!(needs.iter().all(|need| need.chosen >= need.least));
            least.count()
        };
        // Saving a bit now and then is not worth stating it.
        assert_eq!(chosen(0.5), 200);
        assert_eq!(chosen(10.0), 300);
        choose(&mut [], Roots::HALVING);
    }

    #[test]
    fn no_fineness_beyond_the_finest_is_chosen() {
        for log_n_steps in 0..=Roots::MAX_LOG_STEPS {
            let roots = Roots::of_steps(log_n_steps);
            let finest = roots.count() - 1;
            // From one end to the other; finer steps are free, and staying costs least.
            let leasts = [0, finest, 0, finest - 3, finest, finest, 1, 0];
            let mut needs = leasts.map(|least| Need {
                least,
                ..Need::default()
            });
            let n_bits = choose(&mut needs.iter_mut().collect::<Vec<_>>(), roots);
            assert!(n_bits.is_finite());
            for need in &needs {
                assert!((need.least..=finest).contains(&need.chosen), "{need:?}");
            }
        }
    }

    #[test]
    fn of_few_classes_rare_certainty_is_not_told() {
        let needs = |n_certain| {
            let need = |row| Need {
                is_certain: row < n_certain,
                ..Need::default()
            };
            (0..80).map(need).collect::<Vec<Need>>()
        };
        assert!(are_rarely_certain(&needs(9), 2));
        assert!(!are_rarely_certain(&needs(10), 2));
        assert!(!are_rarely_certain(&needs(9), 4));
        assert!(!are_rarely_certain(&[], 2));
    }
}
