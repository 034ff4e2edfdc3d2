//! How fine the levels of square roots are in each row, so that its divergence stays within a bound
//! (FORMAT.md, section 4).

use super::contexts::N_POSITIONS;
use super::expected::{Levels, Others, Scale};
use super::logarithm::log2;
use super::quantizer::Root;
use crate::matrix::{Rows, argmax};

/// What the divergence of a row asks of its levels.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Need {
    /// The coarsest quantizer that keeps the bound.
    least: u32,
    /// The one chosen, which may be finer: what tells it can cost more than what it saves.
    chosen: u32,
    /// About how many bits a finer step costs.
    slope: f32,
    /// Whether no level but the top one is above 0 at the least.
    is_certain: bool,
    /// The bound, given the entropy of the row.
    most: f64,
    /// The reciprocal of the row's sum.
    scale: f64,
}

/// Finds quantizers of square roots that keep the divergence of each row within a bound.
pub(super) struct FinenessFinder {
    /// That of the row before: where the search begins.
    fineness: u32,
    roots: Vec<f64>,
    shares: Vec<f64>,
    levels: Vec<u32>,
    /// The logarithms of the weights of the levels that nearly all classes have: looking them up is faster.
    log_weights: Vec<f64>,
}

impl FinenessFinder {
    pub(super) fn new() -> Self {
        Self {
            fineness: 0,
            roots: Vec::new(),
            shares: Vec::new(),
            levels: Vec::new(),
            log_weights: (0..256)
                .map(|level| log2(Root::weight(level) as f64))
                .collect(),
        }
    }

    /// What the rows of a block need if their levels are of square roots; each states the difference of its
    /// fineness from that of the row before in the same of [`N_POSITIONS`] groups. Rows stored exactly need nothing.
    #[inline(always)]
    pub(super) fn needs(
        &mut self,
        matrix: Rows<'_>,
        is_exact: &[bool],
        levels: Levels,
        mut group_of: impl FnMut(usize) -> usize,
    ) -> Vec<Need> {
        let Levels::Root { max_kl } = levels else {
            return Vec::new();
        };
        let mut needs = vec![Need::default(); matrix.n_rows()];
        for ((row, is_exact), need) in matrix.rows().zip(is_exact).zip(&mut needs) {
            if !is_exact {
                *need = self.need(row, argmax(row), max_kl);
            }
        }
        let mut groups: Vec<Vec<&mut Need>> = Vec::new();
        groups.resize_with(N_POSITIONS, Vec::new);
        for (row, (need, is_exact)) in needs.iter_mut().zip(is_exact).enumerate() {
            if !is_exact {
                groups[group_of(row)].push(need);
            }
        }
        groups.iter_mut().for_each(|group| choose(group));
        needs
    }

    /// What a row needs.
    #[inline(always)]
    fn need(&mut self, row: &[f32], top: usize, max_kl: f64) -> Need {
        /// What rounding of the decoded values to f32 may add.
        const F32_MARGIN: f64 = 2e-7;
        let scale = 1.0 / sum(row, f64::from);
        self.take(row, scale);
        // Whatever the logarithm of 0 is, it counts nothing.
        let negentropy = sum(&self.shares, |share| share * log2(share));
        let most = max_kl - F32_MARGIN - negentropy;
        let mut levels = std::mem::take(&mut self.levels);
        levels.resize(row.len(), 0);
        let mut n_others = 0;
        let mut fineness = self.fineness;
        let (mut is_too_coarse, mut is_kept) = (false, false);
        // The finest may still miss the bound; the row is then stored exactly.
        loop {
            match self.levels(Root { fineness }, top, most, &mut levels) {
                Some(others) => {
                    n_others = others.n;
                    is_kept = true;
                    if is_too_coarse || fineness == 0 {
                        break;
                    }
                    fineness -= 1;
                }
                None if is_kept => {
                    fineness += 1;
                    break;
                }
                None if fineness + 1 == Root::COUNT => break,
                None => {
                    is_too_coarse = true;
                    fineness += 1;
                }
            }
        }
        self.levels = levels;
        self.fineness = fineness;
        // A level takes about log2(1 + 2 level) bits, and grows by the root of 2 with each step.
        let twice = 2.0 * ((1u64 << fineness) as f64).sqrt();
        let size = |root: f64| twice * root / (1.0 + twice * root);
        let slope = 0.5 * (sum(&self.roots, size) - size(self.roots[top]));
        Need {
            least: fineness,
            chosen: fineness,
            slope: slope as f32,
            is_certain: n_others == 0,
            most,
            scale,
        }
    }

    /// Fills in levels as fine as was chosen, or finer.
    #[inline(always)]
    pub(super) fn quantize(
        &mut self,
        row: &[f32],
        top: usize,
        need: Need,
        levels: &mut [u32],
    ) -> Root {
        self.take(row, need.scale);
        let mut finenesses = (need.chosen..Root::COUNT).map(|fineness| Root { fineness });
        let kept = finenesses.find(|&root| self.levels(root, top, need.most, levels).is_some());
        kept.unwrap_or(Root {
            fineness: Root::COUNT - 1,
        })
    }

    /// Takes a row, the shares of whose probabilities are these times `scale`.
    #[inline(always)]
    fn take(&mut self, row: &[f32], scale: f64) {
        self.roots.clear();
        self.roots.extend(row.iter().map(|&p| f64::from(p).sqrt()));
        self.shares.clear();
        self.shares
            .extend(row.iter().map(|&p| f64::from(p) * scale));
    }

    #[inline(always)]
    fn log_weight(&self, level: u32) -> f64 {
        match self.log_weights.get(level as usize) {
            Some(&log) => log,
            None => log2(Root::weight(level) as f64),
        }
    }

    /// Fills in the levels of the row taken; returns those of the other classes, or `None` if the bound is not kept.
    #[inline(always)]
    fn levels(&self, root: Root, top: usize, most: f64, levels: &mut [u32]) -> Option<Others> {
        root.quantize(&self.roots, levels);
        let nearest = std::mem::take(&mut levels[top]);
        let mut others = Others::default();
        let (mut sum, mut cross) = (0, 0.0);
        for (&level, &share) in levels.iter().zip(&self.shares) {
            // The logarithm of weight 1 is 0.
            if level > 0 {
                others.add(level);
                sum += Root::weight(level);
                cross += share * self.log_weight(level);
            }
        }
        sum += (levels.len() - 1 - others.n) as u64 * Root::weight(0);
        // The top level that is expected costs least.
        let likely = others.likely_top(Scale::Root(root));
        for level in [likely, nearest] {
            levels[top] = level;
            let cross = cross + self.shares[top] * self.log_weight(level);
            if log2((sum + Root::weight(level)) as f64) - cross <= most {
                return Some(others);
            }
        }
        None
    }
}

/// The sum of a function of values.
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

/// Chooses the fineness of each row, of rows that each state the difference from the one before: half a bit for
/// each level and step finer, against what the differences cost (the algorithm of Viterbi, "Error Bounds for
/// Convolutional Codes", 1967).
fn choose(needs: &mut [&mut Need]) {
    /// Finenesses above the least that are tried.
    const N: usize = 8;
    const N_DIFFERENCES: usize = 2 * Root::COUNT as usize - 1;
    const SAME: usize = Root::COUNT as usize - 1;
    let index = |from: u32, to: u32| SAME + to as usize - from as usize;
    let mut costs = [0.0f32; N_DIFFERENCES];
    for (difference, cost) in costs.iter_mut().enumerate() {
        *cost = 2.0 * log2(1.0 + difference.abs_diff(SAME) as f64) as f32;
    }
    for _ in 0..3 {
        // The least bits up to each row, by steps above its least fineness, and from which steps these come.
        let mut bits = [0.0; N];
        let mut from: Vec<[u8; N]> = Vec::with_capacity(needs.len());
        let mut last = needs.first().map_or(0, |need| need.least);
        for need in needs.iter() {
            let mut next = [f32::INFINITY; N];
            let mut come = [0; N];
            for (step, (next, come)) in next.iter_mut().zip(&mut come).enumerate() {
                let fineness = need.least + step as u32;
                if fineness >= Root::COUNT {
                    break;
                }
                for (before, bits) in bits.iter().enumerate() {
                    let fineness_before = last + before as u32;
                    if fineness_before < Root::COUNT {
                        let total = bits + costs[index(fineness_before, fineness)];
                        if total < *next {
                            (*next, *come) = (total, before as u8);
                        }
                    }
                }
                *next += need.slope * step as f32;
            }
            bits = next;
            from.push(come);
            last = need.least;
        }
        let best = bits.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1));
        let mut step = best.map_or(0, |(step, _)| step);
        for (need, come) in needs.iter_mut().zip(&from).rev() {
            need.chosen = need.least + step as u32;
            step = come[step].into();
        }
        let mut counts = [0.5f32; N_DIFFERENCES];
        for pair in needs.windows(2) {
            counts[index(pair[0].chosen, pair[1].chosen)] += 1.0;
        }
        let total: f32 = counts.iter().sum();
        costs = counts.map(|count| log2((total / count).into()) as f32);
    }
}

/// Whether so few of the rows of few classes are certain that a symbol for it would make those of the other
/// rows longer: a code takes a bit at least.
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
        let mut finder = FinenessFinder::new();
        let mut levels = [0; 4];
        let mut last = 0;
        for max_kl in [0.1, 0.01, 1e-3, 1e-4, 1e-6] {
            let need = finder.need(&row, 0, max_kl);
            let root = finder.quantize(&row, 0, need, &mut levels);
            assert_eq!(root.fineness(), need.least);
            let mut decoded = [0.0; 4];
            Root::dequantize_row(&levels, &mut decoded).unwrap();
            assert!(divergence(&row, &decoded) <= max_kl);
            assert!(root.fineness() >= last);
            last = root.fineness();
        }
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
            choose(&mut needs.iter_mut().collect::<Vec<_>>());
            let least = needs.iter().filter(|need| need.chosen == need.least);
            assert!(needs.iter().all(|need| need.chosen >= need.least));
            least.count()
        };
        // Saving a bit now and then is not worth telling it.
        assert_eq!(chosen(0.5), 200);
        assert_eq!(chosen(10.0), 300);
        choose(&mut []);
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
