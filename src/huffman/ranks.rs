//! Classes ranked by how often they occurred beside each top class (FORMAT.md, section 7).

/// Ranks of classes beside each top class, learned from the rows of the block so far.
#[derive(Debug)]
pub struct Ranks {
    n_classes: usize,
    n_lists: usize,
    /// For each list, the classes in falling order of count.
    class_at: Vec<u32>,
    /// The inverse of `class_at`.
    rank_of: Vec<u32>,
    /// For each list and rank, how often that class occurred.
    counts: Vec<u32>,
}

impl Ranks {
    /// Entries of all lists together; with more classes than its root, top classes share lists.
    const MAX_ENTRIES: usize = 1 << 20;

    /// The ranks at the start of a block.
    pub fn new(n_classes: usize) -> Self {
        Self::of_lists(n_classes, Self::n_lists(n_classes))
    }

    fn n_lists(n_classes: usize) -> usize {
        (Self::MAX_ENTRIES / n_classes).clamp(1, n_classes)
    }

    /// The bytes that ranks take.
    pub fn n_bytes(n_classes: usize) -> u64 {
        12 * (Self::n_lists(n_classes) * n_classes) as u64
    }

    /// Ranks at the start of a block with `n_lists` lists, which top classes share.
    pub fn of_lists(n_classes: usize, n_lists: usize) -> Self {
        let identity: Vec<u32> = (0..n_lists).flat_map(|_| 0..n_classes as u32).collect();
        Self {
            n_classes,
            n_lists,
            counts: vec![0; identity.len()],
            rank_of: identity.clone(),
            class_at: identity,
        }
    }

    fn list_start(&self, top: usize) -> usize {
        top % self.n_lists * self.n_classes
    }

    /// Rank of `class` beside `top`.
    pub fn rank(&self, top: usize, class: usize) -> usize {
        self.rank_of[self.list_start(top) + class] as usize
    }

    /// The class of a rank beside `top`; `None` if there are not so many.
    pub fn class(&self, top: usize, rank: usize) -> Option<usize> {
        (rank < self.n_classes).then(|| self.class_at[self.list_start(top) + rank] as usize)
    }

    /// Counts `class` as seen beside `top`: it changes places with the first class of its old count.
    pub fn learn(&mut self, top: usize, class: usize) {
        let list = self.list_start(top)..self.list_start(top) + self.n_classes;
        let class_at = &mut self.class_at[list.clone()];
        let rank_of = &mut self.rank_of[list.clone()];
        let counts = &mut self.counts[list];
        let rank = rank_of[class] as usize;
        let count = counts[rank];
        let first = counts[..rank].partition_point(|&other| other > count);
        let displaced = class_at[first] as usize;
        class_at.swap(first, rank);
        rank_of.swap(class, displaced);
        counts[first] = count + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_follow_the_counts() {
        let mut ranks = Ranks::new(4);
        ranks.learn(1, 3);
        assert_eq!([0, 1, 2, 3].map(|c| ranks.rank(1, c)), [3, 1, 2, 0]);
        ranks.learn(1, 2);
        assert_eq!(ranks.rank(1, 2), 1);
        ranks.learn(1, 2);
        assert_eq!(ranks.rank(1, 2), 0);
        for rank in 0..4 {
            assert_eq!(ranks.rank(1, ranks.class(1, rank).unwrap()), rank);
        }
        assert_eq!(ranks.rank(0, 3), 3);
        assert_eq!(ranks.class(1, 4), None);
    }

    #[test]
    fn many_classes_share_lists_within_the_memory_limit() {
        let ranks = Ranks::new(100_000);
        assert!(ranks.counts.len() <= Ranks::MAX_ENTRIES);
        assert_eq!(ranks.rank(99_999, 17), 17);
        assert_eq!(Ranks::new(1_000_000).n_lists, 1);
    }
}
