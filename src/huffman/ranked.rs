//! Rows in which few classes live: which, in falling order, and with how much of the mass that is left
//! (FORMAT.md, section 7).
//!
//! A row of probabilities is its top class, the top level, and the other classes whose level is not
//! zero. The head symbol joins the top class with the number of others (and with whether the top level
//! is all there is), because one of these cases dominates and a code costs at least one bit. The others
//! follow in falling order of level: each class as its rank among the classes seen so far beside this
//! top class, each level as its distance from a ceiling: the mass that is left, or the level before it
//! if that is smaller. After a level of 1 nothing is spent on levels: all that follow are 1.
//!
//! [`RowModel`] holds what encoder and decoder both learn on the way; both walk a row in the same order.

use super::Error;
use super::bitstream::BitReader;
use super::block::{Symbol, Tables};
use super::quantizer::Quantizer;
use super::tokens::{LEVELS, Token, from_zigzag, zigzag};
use crate::matrix::{PredictionMatrix, argmax};

/// The number of ceilings' bit lengths that have an alphabet of their own.
const N_CEILINGS: u8 = 10;
/// The number of ranks' positions that have an alphabet of their own.
const N_RANKS: u8 = 3;

/// The alphabets, each with a codebook of its own in every block. Format-stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alphabet {
    /// Top class and [`Shape`] jointly, or the mark of a row that is stored exactly.
    Head,
    /// The one symbol before each number of a row that is stored exactly; it costs nothing.
    Raw,
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
    pub const COUNT: usize = 3 + Shape::COUNT + N_RANKS as usize + N_CEILINGS as usize + 2;

    /// Position of the alphabet's codebook in a block.
    pub fn index(self) -> usize {
        const RANK: usize = 3 + Shape::COUNT;
        const LEVEL: usize = RANK + N_RANKS as usize;
        match self {
            Self::Head => 0,
            Self::Raw => 1,
            Self::Count => 2,
            Self::TopDistance(shape) => 3 + shape as usize,
            Self::Rank(position) => RANK + usize::from(position),
            Self::Level(ceiling) => LEVEL + usize::from(ceiling),
            Self::LastLevel(only) => LEVEL + usize::from(N_CEILINGS) + usize::from(only),
        }
    }

    /// The sizes of all alphabets in order, for rows of `n_classes`.
    pub fn sizes(n_classes: usize) -> Vec<usize> {
        let mut sizes = vec![LEVELS.count(); Self::COUNT];
        sizes[Self::Head.index()] = Head::escape(n_classes) as usize + 1;
        sizes[Self::Raw.index()] = 1;
        sizes
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
    fn n_raw_bits(n_classes: usize) -> u32 {
        const MAX_BITS: u32 = 10;
        let n_bits = usize::BITS - (n_classes - 1).leading_zeros();
        n_bits.saturating_sub(MAX_BITS)
    }

    fn escape(n_classes: usize) -> u32 {
        (((n_classes - 1) >> Self::n_raw_bits(n_classes)) + 1) as u32 * Shape::COUNT as u32
    }

    /// The symbol of this head, for rows of `n_classes`.
    fn token(self, n_classes: usize) -> Token {
        let n_raw_bits = Self::n_raw_bits(n_classes);
        match self {
            Self::Exact => Token {
                value: Self::escape(n_classes),
                extra: 0,
                n_extra_bits: 0,
            },
            Self::Levels { top, shape } => Token {
                value: (top >> n_raw_bits) as u32 * Shape::COUNT as u32 + shape as u32,
                extra: top as u32 & ((1 << n_raw_bits) - 1),
                n_extra_bits: n_raw_bits,
            },
        }
    }

    /// The number of raw bits after head symbol `value`.
    fn n_extra_bits(value: u32, n_classes: usize) -> u32 {
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

/// The symbols of all rows, in the order in which they are written.
pub fn symbols(matrix: &PredictionMatrix, is_exact: &[bool], quantizer: Quantizer) -> Vec<Symbol> {
    let n_classes = matrix.n_classes();
    let mut symbols = Vec::with_capacity(4 * matrix.n_rows());
    let mut model = RowModel::new(n_classes);
    // (level, rank, class) of the classes other than the top one, largest level first.
    let mut others: Vec<(u32, usize, usize)> = Vec::new();
    for (row, &is_exact) in matrix.rows().zip(is_exact) {
        if is_exact {
            symbols.push(Symbol::with_extra(
                Alphabet::Head.index(),
                Head::Exact.token(n_classes),
            ));
            symbols.extend(row.iter().map(|value| {
                let bits = Token {
                    value: 0,
                    extra: value.to_bits(),
                    n_extra_bits: 32,
                };
                Symbol::with_extra(Alphabet::Raw.index(), bits)
            }));
            continue;
        }
        let top = argmax(row);
        let top_level = quantizer.quantize(row[top]);
        others.clear();
        for (class, &value) in row.iter().enumerate() {
            let level = quantizer.quantize(value);
            if level > 0 && class != top {
                others.push((level, model.rank(top, class), class));
            }
        }
        others.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));

        let distance = quantizer.n_levels() - top_level;
        let shape = match (others.len(), distance) {
            (0, 0) => Shape::Certain,
            (0, _) => Shape::Alone,
            (1, _) => Shape::One,
            (2, _) => Shape::Two,
            _ => Shape::Many,
        };
        symbols.push(Symbol::with_extra(
            Alphabet::Head.index(),
            Head::Levels { top, shape }.token(n_classes),
        ));
        if shape == Shape::Many {
            symbols.push(number(Alphabet::Count, others.len() as u32 - 3));
        }
        if let Some(least) = least_distance(shape) {
            symbols.push(number(Alphabet::TopDistance(shape), distance - least));
        }

        let mut mass_left = i64::from(distance);
        let mut previous = top_level;
        for (position, &(level, rank, _)) in others.iter().enumerate() {
            symbols.push(number(Alphabet::rank(position), rank as u32));
            if previous > 1 {
                let ceiling = ceiling(mass_left, previous);
                symbols.push(number(
                    Alphabet::level(position, others.len(), ceiling),
                    zigzag(ceiling as i32 - level as i32),
                ));
            }
            mass_left -= i64::from(level);
            previous = level;
        }
        for &(_, _, class) in &others {
            model.learn(top, class);
        }
    }
    symbols
}

/// The least distance of the top level from 1 that has to be told; `None` if it is known to be 0.
fn least_distance(shape: Shape) -> Option<u32> {
    match shape {
        Shape::Certain => None,
        Shape::Alone => Some(1),
        Shape::One | Shape::Two | Shape::Many => Some(0),
    }
}

/// What a level most likely does not exceed: the mass left, but no more than the level before it (which
/// it cannot exceed) and no less than 1. Format-stable.
fn ceiling(mass_left: i64, previous: u32) -> u32 {
    mass_left.clamp(1, i64::from(previous)) as u32
}

/// A number as a symbol of `alphabet`.
fn number(alphabet: Alphabet, number: u32) -> Symbol {
    Symbol::with_extra(alphabet.index(), LEVELS.split(number))
}

/// Decodes the rows of a block.
///
/// # Errors
/// [`Error::Corrupt`] if the payload is not what an encoder writes.
pub fn decode(
    reader: &mut BitReader,
    n_classes: usize,
    quantizer: Quantizer,
    values: &mut [f32],
) -> Result<(), Error> {
    let mut decoder = RowDecoder {
        tables: Tables::read_from(reader, &Alphabet::sizes(n_classes))?,
        quantizer,
        model: RowModel::new(n_classes),
        n_classes,
        levels: Vec::new(),
        is_present: vec![false; n_classes],
    };
    for row in values.chunks_exact_mut(n_classes) {
        decoder.decode_row(reader, row)?;
    }
    Ok(())
}

struct RowDecoder {
    tables: Tables,
    quantizer: Quantizer,
    model: RowModel,
    n_classes: usize,
    /// (class, level) of the row at hand, the top class first.
    levels: Vec<(usize, u32)>,
    /// Which classes are in `levels`.
    is_present: Vec<bool>,
}

impl RowDecoder {
    fn decode_row(&mut self, reader: &mut BitReader, row: &mut [f32]) -> Result<(), Error> {
        let head = self.tables.symbol(Alphabet::Head.index(), reader)?;
        let extra = reader.read(Head::n_extra_bits(head, self.n_classes))?;
        match Head::from_symbol(head, extra, self.n_classes) {
            None => Err(Error::Corrupt("a top class does not exist")),
            Some(Head::Exact) => {
                for value in row {
                    self.tables.symbol(Alphabet::Raw.index(), reader)?;
                    *value = f32::from_bits(reader.read(32)?);
                }
                Ok(())
            }
            Some(Head::Levels { top, shape }) => {
                let result = self.decode_levels(reader, top, shape);
                for &(class, _) in &self.levels {
                    self.is_present[class] = false;
                }
                result?;
                for &(class, _) in &self.levels[1..] {
                    self.model.learn(top, class);
                }
                self.quantizer.dequantize_row(&self.levels, top, row);
                Ok(())
            }
        }
    }

    /// Fills `levels`.
    fn decode_levels(
        &mut self,
        reader: &mut BitReader,
        top: usize,
        shape: Shape,
    ) -> Result<(), Error> {
        let n_others = match shape {
            Shape::Certain | Shape::Alone => 0,
            Shape::One => 1,
            Shape::Two => 2,
            Shape::Many => 3 + self.number(reader, Alphabet::Count)? as usize,
        };
        if n_others >= self.n_classes {
            return Err(Error::Corrupt("a row has more levels than classes"));
        }
        let distance = match least_distance(shape) {
            None => 0,
            Some(least) => least + self.number(reader, Alphabet::TopDistance(shape))?,
        };
        let top_level = self
            .quantizer
            .n_levels()
            .checked_sub(distance)
            .ok_or(Error::Corrupt("a top level is below 0"))?;

        self.levels.clear();
        self.levels.push((top, top_level));
        self.is_present[top] = true;
        let mut mass_left = i64::from(distance);
        let mut previous = top_level;
        for position in 0..n_others {
            let rank = self.number(reader, Alphabet::rank(position))? as usize;
            let class = self
                .model
                .class(top, rank)
                .ok_or(Error::Corrupt("a rank exceeds the classes"))?;
            if self.is_present[class] {
                return Err(Error::Corrupt("a class occurs twice in a row"));
            }
            let level = match previous {
                0 => 0,
                1 => 1,
                _ => {
                    let ceiling = ceiling(mass_left, previous);
                    let alphabet = Alphabet::level(position, n_others, ceiling);
                    let distance = from_zigzag(self.number(reader, alphabet)?);
                    u32::try_from(ceiling as i32 - distance).unwrap_or(0)
                }
            };
            if level == 0 || level > previous {
                return Err(Error::Corrupt("a level is 0 or exceeds the one before it"));
            }
            self.levels.push((class, level));
            self.is_present[class] = true;
            mass_left -= i64::from(level);
            previous = level;
        }
        Ok(())
    }

    fn number(&self, reader: &mut BitReader, alphabet: Alphabet) -> Result<u32, Error> {
        self.tables.number(alphabet.index(), LEVELS, reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_survive_for_few_and_many_classes() {
        for n_classes in [1, 2, 100, 1024, 1025, 65_536, 1_000_000] {
            assert!(Alphabet::sizes(n_classes)[0] <= 1024 * Shape::COUNT + 1);
            let tops = [0, n_classes / 2, n_classes - 1];
            let heads = tops
                .iter()
                .flat_map(|&top| Shape::ALL.map(|shape| Head::Levels { top, shape }))
                .chain([Head::Exact]);
            for head in heads {
                let symbol = head.token(n_classes);
                assert!((symbol.value as usize) < Alphabet::sizes(n_classes)[0]);
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
        let mut all = vec![Alphabet::Head, Alphabet::Raw, Alphabet::Count];
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
