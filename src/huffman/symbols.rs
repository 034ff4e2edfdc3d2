//! The symbols of a row (FORMAT.md, section 6): what is known of it narrows what can follow.
//!
//! A row of probabilities is its top class, the top level, and the other classes whose level is not
//! zero. The head symbol joins the top class with the number of others (and with whether the top level
//! is all there is), because one of these cases dominates and a code costs at least one bit. The others
//! follow in falling order of level: each class as its rank among the classes seen so far beside this
//! top class, each level as its distance from a ceiling: the mass that is left, or the level before it
//! if that is smaller. After a level of 1 nothing is spent on levels: all that follow are 1.
//!
//! [`RowModel`] holds what encoder and decoder both learn on the way; both walk a row in the same order.

/// A symbol of one of the alphabets of [`Alphabet`] and the raw bits that go with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol {
    /// Which codebook codes it.
    pub alphabet: Alphabet,
    /// The symbol within that alphabet.
    pub value: u32,
    /// Bits that follow the code as they are.
    pub extra: u32,
    /// How many of them.
    pub n_extra_bits: u8,
}

/// The number of ceilings' bit lengths that have an alphabet of their own.
const N_CEILINGS: u8 = 10;
/// The number of ranks' positions that have an alphabet of their own.
const N_RANKS: u8 = 3;

/// The alphabets, each with a codebook of its own in every block. Format-stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alphabet {
    /// Top class and [`Shape`] jointly, or the mark of a row that is stored exactly.
    Head,
    /// Number of non-zero levels beside the top, less 3.
    Count,
    /// Distance of the top level from 1, by [`Shape`].
    TopDistance(Shape),
    /// Rank of another class; by its position in the row.
    Rank(u8),
    /// Signed distance of a level from its ceiling; by the bit length of the ceiling.
    Level(u8),
    /// The same for the last level of a row; by whether it is the only one.
    LastLevel(bool),
}

impl Alphabet {
    /// Number of alphabets.
    pub const COUNT: usize = 2 + Shape::COUNT + N_RANKS as usize + N_CEILINGS as usize + 2;

    /// Position of the alphabet's codebook in a block.
    pub fn index(self) -> usize {
        const RANK: usize = 2 + Shape::COUNT;
        const LEVEL: usize = RANK + N_RANKS as usize;
        match self {
            Self::Head => 0,
            Self::Count => 1,
            Self::TopDistance(shape) => 2 + shape as usize,
            Self::Rank(position) => RANK + usize::from(position),
            Self::Level(ceiling) => LEVEL + usize::from(ceiling),
            Self::LastLevel(only) => LEVEL + usize::from(N_CEILINGS) + usize::from(only),
        }
    }

    /// Number of symbols of the alphabet at position `index`, for rows of `n_classes`.
    pub fn size(index: usize, n_classes: usize) -> usize {
        match index {
            0 => Head::escape(n_classes) as usize + 1,
            _ => N_TOKENS,
        }
    }

    /// The alphabet of the rank of the other class at `position`, counted from 0.
    pub fn rank(position: usize) -> Self {
        Self::Rank(position.min(usize::from(N_RANKS) - 1) as u8)
    }

    /// The alphabet of the level of the other class at `position` of `n_others`, whose ceiling is
    /// `ceiling >= 1`.
    pub fn level(position: usize, n_others: usize, ceiling: u32) -> Self {
        match position + 1 == n_others {
            true => Self::LastLevel(n_others == 1),
            false => Self::Level((ceiling.ilog2() as u8).min(N_CEILINGS - 1)),
        }
    }
}

/// How many levels of a row are not zero, as far as the head symbol tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Shape {
    /// The top class alone, at level `n_levels`.
    Certain,
    /// The top class alone, below `n_levels`.
    Alone,
    /// The top class and one other.
    One,
    /// The top class and two others.
    Two,
    /// The top class and three or more others; their number follows.
    Many,
}

impl Shape {
    const COUNT: usize = 5;
    const ALL: [Self; Self::COUNT] = [Self::Certain, Self::Alone, Self::One, Self::Two, Self::Many];
}

/// The head of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// The row follows as raw float32 bits.
    Exact,
    /// The row follows as levels.
    Levels {
        /// The class that is the original's argmax.
        top: usize,
        /// How many others there are.
        shape: Shape,
    },
}

impl Head {
    /// Low bits of the top class that stand outside the head symbol, so that its alphabet stays small.
    fn n_raw_bits(n_classes: usize) -> u8 {
        const MAX_BITS: u32 = 10;
        let n_bits = usize::BITS - (n_classes - 1).leading_zeros();
        n_bits.saturating_sub(MAX_BITS) as u8
    }

    fn escape(n_classes: usize) -> u32 {
        (((n_classes - 1) >> Self::n_raw_bits(n_classes)) + 1) as u32 * Shape::COUNT as u32
    }

    /// The symbol of this head, for rows of `n_classes`.
    pub fn symbol(self, n_classes: usize) -> Symbol {
        let n_raw_bits = Self::n_raw_bits(n_classes);
        let (value, extra, n_extra_bits) = match self {
            Self::Exact => (Self::escape(n_classes), 0, 0),
            Self::Levels { top, shape } => (
                (top >> n_raw_bits) as u32 * Shape::COUNT as u32 + shape as u32,
                top as u32 & ((1 << n_raw_bits) - 1),
                n_raw_bits,
            ),
        };
        Symbol {
            alphabet: Alphabet::Head,
            value,
            extra,
            n_extra_bits,
        }
    }

    /// The number of raw bits after head symbol `value`.
    pub fn n_extra_bits(value: u32, n_classes: usize) -> u8 {
        match value == Self::escape(n_classes) {
            true => 0,
            false => Self::n_raw_bits(n_classes),
        }
    }

    /// The head of a symbol; `None` if its class does not exist.
    pub fn from_symbol(value: u32, extra: u32, n_classes: usize) -> Option<Self> {
        if value == Self::escape(n_classes) {
            return Some(Self::Exact);
        }
        let shape = Shape::ALL[value as usize % Shape::COUNT];
        let top = (value as usize / Shape::COUNT) << Self::n_raw_bits(n_classes) | extra as usize;
        (top < n_classes).then_some(Self::Levels { top, shape })
    }
}

/// Numbers below this are their own token.
const N_DIRECT: u32 = 16;
/// Tokens of numbers up to 2^21: 16 direct ones, then 4 for each power of two.
const N_TOKENS: usize = N_DIRECT as usize + 4 * 17;

/// Splits a number below 2^21 into a token (logarithmic, two mantissa bits) and extra bits.
pub fn token(alphabet: Alphabet, number: u32) -> Symbol {
    debug_assert!(number < 1 << 21);
    let (value, n_extra_bits) = match number < N_DIRECT {
        true => (number, 0),
        false => {
            let n_extra_bits = number.ilog2() - 2;
            let mantissa = number >> n_extra_bits & 3;
            (N_DIRECT + (n_extra_bits - 2) * 4 + mantissa, n_extra_bits)
        }
    };
    Symbol {
        alphabet,
        value,
        extra: number & ((1 << n_extra_bits) - 1),
        n_extra_bits: n_extra_bits as u8,
    }
}

/// The number of extra bits after token `value`.
pub fn token_extra_bits(value: u32) -> u8 {
    match value < N_DIRECT {
        true => 0,
        false => ((value - N_DIRECT) / 4 + 2) as u8,
    }
}

/// The number of a token and its extra bits: the inverse of [`token`].
pub fn from_token(value: u32, extra: u32) -> u32 {
    match value < N_DIRECT {
        true => value,
        false => (4 + (value - N_DIRECT) % 4) << token_extra_bits(value) | extra,
    }
}

/// 0, -1, 1, -2, 2 … become 0, 1, 2, 3, 4 …
pub fn zigzag(number: i32) -> u32 {
    (number << 1 ^ number >> 31) as u32
}

/// The inverse of [`zigzag`].
pub fn from_zigzag(number: u32) -> i32 {
    (number >> 1) as i32 ^ -((number & 1) as i32)
}

/// Ranks of classes beside each top class, learned from the rows of the block so far.
#[derive(Debug)]
pub struct RowModel {
    n_classes: usize,
    n_lists: usize,
    /// For each list, the classes in falling order of count.
    class_at: Vec<u32>,
    /// The inverse of `class_at`.
    rank_of: Vec<u32>,
    /// For each list and rank, how often that class occurred.
    counts: Vec<u32>,
}

impl RowModel {
    /// Entries of all lists together; with more classes than its root, top classes share lists.
    const MAX_ENTRIES: usize = 1 << 20;

    /// The model at the start of a block.
    pub fn new(n_classes: usize) -> Self {
        let n_lists = (Self::MAX_ENTRIES / n_classes).clamp(1, n_classes);
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
    fn tokens_cover_all_numbers_below_2_to_21() {
        for number in (0..70_000).chain([1 << 20, (1 << 20) + 1, (1 << 21) - 1]) {
            let symbol = token(Alphabet::Count, number);
            assert!((symbol.value as usize) < N_TOKENS);
            assert_eq!(token_extra_bits(symbol.value), symbol.n_extra_bits);
            assert_eq!(from_token(symbol.value, symbol.extra), number);
        }
    }

    #[test]
    fn zigzag_is_its_own_inverse() {
        assert_eq!([0, -1, 1, -2, 2].map(zigzag), [0, 1, 2, 3, 4]);
        for number in [-1_000_000, -7, 0, 7, 1_000_000] {
            assert_eq!(from_zigzag(zigzag(number)), number);
        }
    }

    #[test]
    fn heads_survive_for_few_and_many_classes() {
        for n_classes in [1, 2, 100, 1024, 1025, 65_536, 1_000_000] {
            assert!(Alphabet::size(0, n_classes) <= 1024 * Shape::COUNT + 1);
            let tops = [0, n_classes / 2, n_classes - 1];
            let heads = tops
                .iter()
                .flat_map(|&top| Shape::ALL.map(|shape| Head::Levels { top, shape }))
                .chain([Head::Exact]);
            for head in heads {
                let symbol = head.symbol(n_classes);
                assert!((symbol.value as usize) < Alphabet::size(0, n_classes));
                let n_extra_bits = Head::n_extra_bits(symbol.value, n_classes);
                assert_eq!(n_extra_bits, symbol.n_extra_bits);
                assert_eq!(
                    Head::from_symbol(symbol.value, symbol.extra, n_classes),
                    Some(head)
                );
            }
        }
        assert_eq!(Head::from_symbol(1023 * 5, 1, 1025), None);
    }

    #[test]
    fn alphabets_have_positions_of_their_own() {
        let mut all = vec![Alphabet::Head, Alphabet::Count];
        all.extend(Shape::ALL.map(Alphabet::TopDistance));
        all.extend((0..5).map(Alphabet::rank));
        all.extend((0..21).map(|bits| Alphabet::level(0, 3, 1 << bits)));
        all.extend([1, 2].map(|n_others| Alphabet::level(n_others - 1, n_others, 5)));
        let mut positions: Vec<usize> = all.iter().map(|a| a.index()).collect();
        positions.sort_unstable();
        positions.dedup();
        assert_eq!(positions, (0..Alphabet::COUNT).collect::<Vec<_>>());
    }

    #[test]
    fn ranks_follow_the_counts() {
        let mut model = RowModel::new(4);
        model.learn(1, 3);
        assert_eq!([0, 1, 2, 3].map(|c| model.rank(1, c)), [3, 1, 2, 0]);
        model.learn(1, 2);
        assert_eq!(model.rank(1, 2), 1);
        model.learn(1, 2);
        assert_eq!(model.rank(1, 2), 0);
        for rank in 0..4 {
            assert_eq!(model.rank(1, model.class(1, rank).unwrap()), rank);
        }
        assert_eq!(model.rank(0, 3), 3);
        assert_eq!(model.class(1, 4), None);
    }

    #[test]
    fn many_classes_share_lists_within_the_memory_limit() {
        let model = RowModel::new(100_000);
        assert!(model.counts.len() <= RowModel::MAX_ENTRIES);
        assert_eq!(model.rank(99_999, 17), 17);
        assert_eq!(RowModel::new(1_000_000).n_lists, 1);
    }
}
