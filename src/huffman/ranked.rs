//! Rows in which few classes live: which classes these are, in falling order, and how much they have of the mass that
//! is left (FORMAT.md, section 7).
//!
//! A row of probabilities is its top class, the top level, and the other classes whose level is not 0. The head symbol
//! joins the top class with the `Kind` of the row, mostly the number of others, because one of these cases dominates
//! and a code costs at least one bit; how many kinds it has is the encoder's choice. The distance of the top level from
//! 1 follows, then the miss: the distance less the sum of the others. It is nearly always -1, 0 or 1, which is worth
//! less than a bit, so that in rows of few others its symbol may be joined with the rank of the first. With their sum
//! known, the others follow in falling order: each level as its distance from the largest possible, each class as its
//! rank among the classes seen so far beside this top class, without those of this row. The last level is what is left.
//!
//! Every alphabet has contexts; neighbouring contexts form groups that share a codebook.
//!
//! [`Ranks`] holds what encoder and decoder both learn on the way; both walk a row in the same order.

use super::Corrupt;
use super::bitstream::{BitReader, BitWriter};
use super::codebook::{self, Codebook, entropy_bits, read_gamma, write_gamma};
use super::coded::{Coded, CodedRows, Tables};
use super::contexts::{Sums, group_contexts};
use super::meter::{Part, Watch};
use super::order::Order;
use super::promise::are_probabilities;
use super::quantizer::Uniform;
use super::ranks::Ranks;
use super::symbols::{Symbol, TopClasses};
use super::tokens::{LEVELS, RANGES, Token, from_zigzag, zigzag};
use crate::matrix::{Rows, argmax, for_each_match};

/// The families of symbols, each with its own contexts. Format-stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
enum Family {
    /// Top class and [`Kind`] jointly, or the mark of an exact row.
    Head,
    /// The one symbol before each number of an exact row; it costs nothing.
    Raw,
    /// The kind, less the kinds that the head has.
    Kind,
    /// A miss of the sum that a joint symbol does not have.
    RareMiss,
    /// Distance of the top level from 1; by the number of others.
    Distance,
    /// The miss, by the number of others and the distance.
    Miss,
    /// The rank of the first other jointly with the miss; by the number of others and the distance.
    FirstRank,
    /// The rank of another class; by whether it is the first and by how many are left.
    Rank,
    /// The rank of a class whose level is that of the class before; by how many are left.
    TiedRank,
    /// How far a level is below the largest possible; by how many are left and by how many levels are possible.
    Level,
}

/// Counts of others, from 0 on, that have a context of their own for the distance.
const N_COUNTS: usize = 8;
/// Distances, from 0 on, that have a context of their own for the miss.
const N_DISTANCES: usize = 5;
/// The largest number of others in whose rows rank and miss may be joined.
const MAX_JOINT: usize = 3;
/// Misses in a joint symbol of rank and miss; the last is for all rarer ones.
const N_JOINT_MISSES: u32 = 4;
/// Counts of classes left, from 1 on, that have a context of their own for the rank.
const N_LEFT: usize = 3;

impl Family {
    const COUNT: usize = 10;
    const ALL: [Self; Self::COUNT] = [
        Self::Head,
        Self::Raw,
        Self::Kind,
        Self::RareMiss,
        Self::Distance,
        Self::Miss,
        Self::FirstRank,
        Self::Rank,
        Self::TiedRank,
        Self::Level,
    ];

    /// Number of contexts.
    const fn n_contexts(self) -> usize {
        match self {
            Self::Head | Self::Raw | Self::Kind | Self::RareMiss => 1,
            Self::Distance => N_COUNTS,
            Self::Miss => (N_COUNTS - 1) * N_DISTANCES,
            Self::FirstRank => MAX_JOINT * N_DISTANCES,
            Self::Rank => 2 * N_LEFT,
            Self::TiedRank => N_LEFT,
            Self::Level => (N_LEFT - 1) * RANGES.count(),
        }
    }

    /// The first context, counted over all families.
    #[inline]
    const fn first_context(self) -> usize {
        FIRST_CONTEXTS[self as usize]
    }

    /// The alphabet, given the number of symbols of top classes, and heads of `n_kinds`.
    fn alphabet(self, n_tops: usize, n_kinds: u32) -> codebook::Alphabet {
        let of_symbols = |size: u32, stride: u32| codebook::Alphabet {
            stride: stride as usize,
            ..codebook::Alphabet::of_symbols(size as usize)
        };
        match self {
            Self::Head => of_symbols(n_tops as u32 * n_kinds + 1, n_kinds),
            Self::Raw => of_symbols(1, 1),
            Self::FirstRank => of_symbols(LEVELS.count() as u32 * N_JOINT_MISSES, N_JOINT_MISSES),
            _ => codebook::Alphabet::of_levels(),
        }
        .telling(self.part())
    }

    /// The part of a row that the symbols are about.
    fn part(self) -> Part {
        match self {
            Self::Head | Self::Kind => Part::TopClass,
            Self::Raw => Part::ExactRows,
            Self::FirstRank | Self::Rank | Self::TiedRank => Part::OtherClasses,
            Self::RareMiss | Self::Distance | Self::Miss | Self::Level => Part::Levels,
        }
    }
}

/// The first context of each family.
const FIRST_CONTEXTS: [usize; Family::COUNT] = {
    let mut first = [0; Family::COUNT];
    let mut family = 1;
    while family < Family::COUNT {
        first[family] = first[family - 1] + Family::ALL[family - 1].n_contexts();
        family += 1;
    }
    first
};

/// Contexts of all families.
const N_CONTEXTS: usize = Family::Level.first_context() + Family::Level.n_contexts();

/// The context of the distance of the top level, for `n_others`.
#[inline]
fn distance_context(n_others: usize) -> usize {
    Family::Distance.first_context() + n_others.min(N_COUNTS - 1)
}

/// The first context of `n_others >= 1` and a distance, counted within the family.
#[inline]
fn miss_offset(n_others: usize, distance: u32) -> usize {
    (n_others.min(N_COUNTS - 1) - 1) * N_DISTANCES + (distance as usize).min(N_DISTANCES - 1)
}

/// The context of a miss.
#[inline]
fn miss_context(n_others: usize, distance: u32) -> usize {
    Family::Miss.first_context() + miss_offset(n_others, distance)
}

/// The context of the joint symbol of the first rank and the miss, for `n_others` up to [`MAX_JOINT`].
#[inline]
fn first_rank_context(n_others: usize, distance: u32) -> usize {
    Family::FirstRank.first_context() + miss_offset(n_others, distance)
}

/// The context of a rank; its class is one of `n_left >= 1` that are left.
#[inline]
fn rank_context(is_first: bool, is_tied: bool, n_left: usize) -> usize {
    let offset = n_left.min(N_LEFT) - 1;
    match (is_tied, is_first) {
        (true, _) => Family::TiedRank.first_context() + offset,
        (false, true) => Family::Rank.first_context() + offset,
        (false, false) => Family::Rank.first_context() + N_LEFT + offset,
    }
}

/// The context of a level that is one of `range + 1`, `range >= 1`, for one of `n_left >= 2` classes.
#[inline]
fn level_context(n_left: usize, range: u32) -> usize {
    Family::Level.first_context()
        + (n_left.min(N_LEFT) - 2) * RANGES.count()
        + RANGES.split(range).value as usize
}

/// The smallest and the largest level that the first of `n_left` classes can have, if their levels fall, are at least
/// 1, at most `previous`, and have the sum `mass_left`.
#[inline]
fn possible_levels(n_left: u32, mass_left: u32, previous: u32) -> (u32, u32) {
    (
        mass_left.div_ceil(n_left),
        previous.min(mass_left - (n_left - 1)),
    )
}

/// The kind of a row, in the head or, where that has too few kinds, in [`Family::Kind`]. Format-stable: 0, no others
/// and the top level 1; 1, no others and the next lower top level; 2 and 3, one and two others; 4, no others and a
/// still lower top level; then three others, four and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind(u32);

/// The largest number of kinds that a head has.
const MAX_KINDS: u32 = 8;

impl Kind {
    const CERTAIN: Self = Self(0);
    const NEARLY_CERTAIN: Self = Self(1);
    const ALONE: Self = Self(4);

    fn new(n_others: usize, distance: u32) -> Self {
        match (n_others, distance) {
            (0, 0) => Self::CERTAIN,
            (0, 1) => Self::NEARLY_CERTAIN,
            (0, _) => Self::ALONE,
            (1 | 2, _) => Self(n_others as u32 + 1),
            _ => Self(n_others as u32 + 2),
        }
    }

    fn n_others(self) -> usize {
        match self.0 {
            0 | 1 | 4 => 0,
            2 | 3 => self.0 as usize - 1,
            _ => self.0 as usize - 2,
        }
    }

    /// The least distance of the top level from 1, and whether it is the only one.
    fn distance(self) -> (u32, bool) {
        match self {
            Self::CERTAIN => (0, true),
            Self::NEARLY_CERTAIN => (1, true),
            Self::ALONE => (2, false),
            _ => (0, false),
        }
    }
}

/// The largest number of a row's ranks that later ones leave out. Format-stable.
const MAX_LEFT_OUT: usize = 64;

/// Finds the classes whose values are not below `least_live`; returns the top class and its value.
#[inline(always)]
fn find_live(row: &[f32], least_live: f32, live: &mut Vec<(usize, f32)>) -> (usize, f32) {
    for_each_match(
        row,
        |value| value >= least_live,
        |class| live.push((class, row[class])),
    );
    // If there are any, the top one is among them.
    let larger = |a: (usize, f32), b: (usize, f32)| if b.1 > a.1 { b } else { a };
    live.iter().copied().reduce(larger).unwrap_or_else(|| {
        let top = argmax(row);
        (top, row[top])
    })
}

/// A row to code: the top class, and the others as a part of a list.
struct Row {
    top: usize,
    distance: u32,
    first: usize,
    n_others: usize,
    /// The distance less the sum of the others.
    miss: i32,
}

/// The rows of a block as levels and ranks.
struct Block {
    /// `None` for exact rows.
    rows: Vec<Option<Row>>,
    /// Level and rank of the classes other than the top one, row after row, largest level first.
    others: Vec<(u32, u32)>,
}

impl Block {
    /// Quantizes the rows of `matrix` that are not marked. Rows with values that are no probabilities get marked, and
    /// those whose levels have a sum far from that of probabilities, so that their miss is no number of [`LEVELS`].
    #[inline(always)]
    fn new(matrix: Rows<'_>, is_exact: &mut [bool], quantizer: Uniform) -> Self {
        let mut ranks = Ranks::new(matrix.n_classes());
        let mut rows = Vec::with_capacity(matrix.n_rows());
        let mut others = Vec::new();
        let least_live = quantizer.least_live();
        let mut live = Vec::new();
        // (level, rank, class)
        let mut of_row: Vec<(u32, u32, usize)> = Vec::new();
        for (row, is_exact) in matrix.rows().zip(is_exact) {
            if *is_exact || !are_probabilities(row) {
                *is_exact = true;
                rows.push(None);
                continue;
            }
            live.clear();
            let (top, top_value) = find_live(row, least_live, &mut live);
            of_row.clear();
            for &(class, value) in &live {
                let level = quantizer.quantize(value);
                if level > 0 && class != top {
                    of_row.push((level, ranks.rank(top, class) as u32, class));
                }
            }
            let distance = quantizer.n_levels() - quantizer.quantize(top_value);
            let sum: u64 = of_row.iter().map(|other| u64::from(other.0)).sum();
            let Ok(sum) = i32::try_from(sum) else {
                *is_exact = true;
                rows.push(None);
                continue;
            };
            of_row.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
            rows.push(Some(Row {
                top,
                distance,
                first: others.len(),
                n_others: of_row.len(),
                miss: distance as i32 - sum,
            }));
            others.extend(of_row.iter().map(|&(level, rank, _)| (level, rank)));
            for &(_, _, class) in &of_row {
                ranks.learn(top, class);
            }
        }
        Self { rows, others }
    }

    fn quantized(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().flatten()
    }

    /// Chooses the number of kinds in heads.
    fn choose_n_kinds(&self, mut tops: TopClasses) -> u32 {
        /// About the bits of a symbol in the codebook.
        const BITS_A_SYMBOL: f64 = 5.5;
        let mut of_class = vec![[0u64; MAX_KINDS as usize]; tops.count()];
        let mut of_kind = vec![0u64; tops.n_classes() + MAX_KINDS as usize];
        for row in self.quantized() {
            let kind = Kind::new(row.n_others, row.distance).0;
            let of_class = &mut of_class[tops.token(row.top).value as usize];
            of_class[kind.min(MAX_KINDS - 1) as usize] += 1;
            of_kind[kind as usize] += 1;
        }
        let cost = |n_kinds: u32| {
            let last = n_kinds as usize - 1;
            let heads: Vec<u64> = of_class
                .iter()
                .flat_map(|kinds| {
                    let rest = kinds[last..].iter().sum();
                    kinds[..last].iter().copied().chain([rest])
                })
                .filter(|&n| n > 0)
                .collect();
            let mut frequencies = vec![0; LEVELS.count()];
            let mut n_extra_bits = 0;
            for (number, &n) in of_kind[last..].iter().enumerate() {
                let token = LEVELS.split(number as u32);
                frequencies[token.value as usize] += n;
                n_extra_bits += n * u64::from(token.n_extra_bits);
            }
            let kinds = Codebook::from_frequencies(&frequencies, 1).n_bits(&frequencies);
            entropy_bits(&heads)
                + BITS_A_SYMBOL * heads.len() as f64
                + (kinds + n_extra_bits) as f64
        };
        let costs = (1..=MAX_KINDS).map(|n| (n, cost(n)));
        costs
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .map_or(1, |(n_kinds, _)| n_kinds)
    }

    /// Chooses the largest number of others in whose rows rank and miss are joined: as long as joint symbols save more
    /// than their codebooks take.
    fn choose_n_joint(&self) -> usize {
        let n_misses = N_JOINT_MISSES as usize;
        let saves = |n_others: usize| {
            let mut both = vec![0; LEVELS.count() * n_misses];
            for row in self.quantized().filter(|row| row.n_others == n_others) {
                let rank = LEVELS.split(self.others[row.first].1).value as usize;
                let miss = zigzag(row.miss).min(N_JOINT_MISSES - 1) as usize;
                both[rank * n_misses + miss] += 1;
            }
            let ranks: Vec<u64> = both.chunks(n_misses).map(|row| row.iter().sum()).collect();
            let misses: Vec<u64> = (0..n_misses)
                .map(|miss| both.iter().skip(miss).step_by(n_misses).sum())
                .collect();
            let joint = Codebook::from_frequencies(&both, n_misses).n_bits(&both);
            // The ranks alone share a codebook that there is anyway.
            let misses = Codebook::from_frequencies(&misses, 1).n_bits(&misses);
            (joint as f64) < entropy_bits(&ranks) + misses as f64
        };
        (1..=MAX_JOINT).take_while(|&n| saves(n)).count()
    }
}

/// The encoder's choices for a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// The number of kinds in heads.
    n_kinds: u32,
    /// The largest number of others in whose rows the first rank and the miss are joined.
    n_joint: usize,
    /// The group of each context: an index of codebooks.
    group_of: Vec<u16>,
}

impl Parameters {
    /// Number of groups.
    fn n_groups(&self) -> usize {
        self.group_of
            .last()
            .map_or(0, |&last| usize::from(last) + 1)
    }

    /// The alphabets of all groups in order, and those of [`Order`].
    fn alphabets(&self, n_tops: usize, keep_top: usize) -> Vec<codebook::Alphabet> {
        let mut alphabets = Vec::new();
        for family in Family::ALL {
            let last = family.first_context() + family.n_contexts() - 1;
            let alphabet = family.alphabet(n_tops, self.n_kinds);
            alphabets.resize(usize::from(self.group_of[last]) + 1, alphabet);
        }
        let of_order = codebook::Alphabet::of_levels().telling(Part::Order);
        let n_of_order = Order::n_alphabets(keep_top, true);
        alphabets.extend(std::iter::repeat_n(of_order, n_of_order));
        alphabets
    }

    /// Writes the choices.
    pub fn write_to(&self, writer: &mut BitWriter) {
        writer.write(self.n_kinds - 1, 3);
        writer.write(self.n_joint as u32, 2);
        for family in Family::ALL.into_iter().filter(|f| f.n_contexts() > 1) {
            let groups = &self.group_of[family.first_context()..][..family.n_contexts()];
            let widths = groups.chunk_by(|a, b| a == b).map(<[u16]>::len);
            let n_groups = widths.clone().count();
            write_gamma(writer, n_groups as u32);
            for width in widths.take(n_groups - 1) {
                write_gamma(writer, width as u32);
            }
        }
    }

    fn read_from(reader: &mut BitReader) -> Result<Self, Corrupt> {
        let n_kinds = reader.read(3)? + 1;
        let n_joint = reader.read(2)? as usize;
        let mut group_of = Vec::with_capacity(N_CONTEXTS);
        let mut group = 0;
        for family in Family::ALL {
            let end = family.first_context() + family.n_contexts();
            let n_groups = match family.n_contexts() {
                1 => 1,
                _ => read_gamma(reader)?,
            };
            for _ in 1..n_groups {
                let width = read_gamma(reader)? as usize;
                if group_of.len() + width >= end {
                    return Err(Corrupt("the groups exceed their contexts"));
                }
                group_of.resize(group_of.len() + width, group);
                group += 1;
            }
            group_of.resize(end, group);
            group += 1;
        }
        Ok(Self {
            n_kinds,
            n_joint,
            group_of,
        })
    }
}

/// About the bits of a group's symbols, codebook included.
fn group_cost(sums: Sums) -> f64 {
    const BITS_A_SYMBOL: f64 = 5.0;
    const BITS_A_CODEBOOK: f64 = 8.0;
    sums.entropy + BITS_A_SYMBOL * sums.n_used as f64 + BITS_A_CODEBOOK
}

/// Codes the rows of `matrix`; those marked in `is_exact` bit for bit. Rows that are no probabilities may get marked.
#[inline(always)]
pub fn encode(
    matrix: Rows<'_>,
    is_exact: &mut [bool],
    quantizer: Uniform,
    tops: TopClasses,
    keep_top: usize,
) -> Coded {
    let n_tops = tops.count();
    let block = Block::new(matrix, is_exact, quantizer);
    let mut parameters = Parameters {
        n_kinds: block.choose_n_kinds(tops.clone()),
        n_joint: block.choose_n_joint(),
        group_of: Vec::with_capacity(N_CONTEXTS),
    };
    let mut symbols = symbols(matrix, &block, &parameters, quantizer, tops, keep_top);

    let mut frequencies: Vec<Vec<u64>> = Family::ALL
        .iter()
        .flat_map(|family| {
            let size = family.alphabet(n_tops, parameters.n_kinds).size;
            std::iter::repeat_n(vec![0; size], family.n_contexts())
        })
        .collect();
    for symbol in &symbols {
        if let Some(of_context) = frequencies.get_mut(symbol.alphabet()) {
            of_context[symbol.value() as usize] += 1;
        }
    }
    let mut group = 0;
    for family in Family::ALL {
        let of_family = &frequencies[family.first_context()..][..family.n_contexts()];
        for width in group_contexts(of_family, group_cost).0 {
            let contexts = std::iter::repeat_n(group, width);
            parameters.group_of.extend(contexts);
            group += 1;
        }
    }
    for symbol in &mut symbols {
        let context = symbol.alphabet();
        let alphabet = match parameters.group_of.get(context) {
            Some(&group) => group.into(),
            // A context of the order.
            None => parameters.n_groups() + context - N_CONTEXTS,
        };
        *symbol = symbol.of_alphabet(alphabet);
    }
    let mut choices = BitWriter::new();
    parameters.write_to(&mut choices);
    Coded {
        choices,
        alphabets: parameters.alphabets(n_tops, keep_top),
        rows: CodedRows::Symbols(symbols),
    }
}

/// The symbols of all rows, each with its context as its alphabet.
fn symbols(
    matrix: Rows<'_>,
    block: &Block,
    parameters: &Parameters,
    quantizer: Uniform,
    mut tops: TopClasses,
    keep_top: usize,
) -> Vec<Symbol> {
    let n_kinds = parameters.n_kinds;
    let head = Family::Head.first_context();
    let mut order = Order::new(keep_top, matrix.n_classes(), true, N_CONTEXTS);
    let mut levels = Vec::new();
    let mut symbols = Vec::with_capacity(3 * matrix.n_rows() + block.others.len());
    for (row, values) in block.rows.iter().zip(matrix.rows()) {
        let Some(row) = row else {
            symbols.push(Symbol::new(head, tops.count() as u32 * n_kinds));
            symbols.extend(Symbol::of_bits(Family::Raw.first_context(), values));
            continue;
        };
        row_symbols(
            row,
            block,
            parameters,
            tops.token(row.top),
            quantizer,
            &mut symbols,
        );
        if keep_top > 1 {
            levels.clear();
            levels.extend(values.iter().map(|&value| quantizer.quantize(value)));
            order.encode(values, &levels, Some(row.top), |symbol| {
                symbols.push(symbol)
            });
        }
    }
    symbols
}

/// The symbols of a row that is not exact; `head` is the token of its top class.
fn row_symbols(
    row: &Row,
    block: &Block,
    parameters: &Parameters,
    mut head: Token,
    quantizer: Uniform,
    symbols: &mut Vec<Symbol>,
) {
    let n_kinds = parameters.n_kinds;
    let n_others = row.n_others;
    let kind = Kind::new(n_others, row.distance);
    head.value = head.value * n_kinds + kind.0.min(n_kinds - 1);
    symbols.push(Symbol::with_extra(Family::Head.first_context(), head));
    if let Some(rest) = kind.0.checked_sub(n_kinds - 1) {
        symbols.push(number(Family::Kind.first_context(), rest));
    }
    let (least, is_only) = kind.distance();
    if !is_only {
        symbols.push(number(distance_context(n_others), row.distance - least));
    }
    let others = &block.others[row.first..][..n_others];
    let Some(&(_, first_rank)) = others.first() else {
        return;
    };

    let miss = zigzag(row.miss);
    let is_joint = n_others <= parameters.n_joint;
    if is_joint {
        let mut token = LEVELS.split(first_rank);
        token.value = token.value * N_JOINT_MISSES + miss.min(N_JOINT_MISSES - 1);
        let context = first_rank_context(n_others, row.distance);
        symbols.push(Symbol::with_extra(context, token));
        if let Some(rest) = miss.checked_sub(N_JOINT_MISSES - 1) {
            symbols.push(number(Family::RareMiss.first_context(), rest));
        }
    } else {
        symbols.push(number(miss_context(n_others, row.distance), miss));
    }

    let mut mass_left = (row.distance as i32 - row.miss) as u32;
    let mut previous = (quantizer.n_levels() - row.distance, 0);
    for (position, &(level, rank)) in others.iter().enumerate() {
        let n_left = n_others - position;
        let (lowest, highest) = possible_levels(n_left as u32, mass_left, previous.0);
        if lowest < highest {
            let context = level_context(n_left, highest - lowest);
            symbols.push(number(context, highest - level));
        }
        let is_first = position == 0;
        if !(is_first && is_joint) {
            let is_tied = !is_first && level == previous.0;
            let start = if is_tied { previous.1 + 1 } else { 0 };
            let n_left_out = others[..position.min(MAX_LEFT_OUT)]
                .iter()
                .filter(|other| (start..rank).contains(&other.1))
                .count();
            symbols.push(number(
                rank_context(is_first, is_tied, n_left),
                rank - start - n_left_out as u32,
            ));
        }
        mass_left -= level;
        previous = (level, rank);
    }
}

/// A number as a symbol of a context.
fn number(context: usize, number: u32) -> Symbol {
    Symbol::with_extra(context, LEVELS.split(number))
}

/// Decodes the rows of a block.
///
/// # Errors
/// [`Corrupt`] if the payload is not what an encoder writes.
pub fn decode(
    reader: &mut BitReader,
    tops: TopClasses,
    quantizer: Uniform,
    keep_top: usize,
    values: &mut [f32],
    watch: impl Watch,
) -> Result<(), Corrupt> {
    let (mut decoder, mut reader) =
        RowDecoder::read_from(reader, tops, quantizer, keep_top, watch)?;
    decoder.rows(&mut reader, values)?;
    decoder.finish(reader)
}

/// Decodes the rows of a block, some at a time.
pub struct RowDecoder<W> {
    parameters: Parameters,
    tables: Tables<W>,
    quantizer: Uniform,
    tops: TopClasses,
    ranks: Ranks,
    keep_top: usize,
    order: Order,
    n_classes: usize,
    /// Class and level of the row at hand, the top class first.
    levels: Vec<(usize, u32)>,
    /// The ranks of the row at hand that later ones leave out, ascending.
    left_out: Vec<u32>,
    /// Marks the classes that are in `levels`.
    is_present: Vec<bool>,
}

impl<W: Watch> RowDecoder<W> {
    /// Reads what stands before the rows; also returns the bitstream of the rows.
    ///
    /// # Errors
    /// [`Corrupt`] if it is not what an encoder writes.
    pub fn read_from<'a>(
        reader: &mut BitReader<'a>,
        tops: TopClasses,
        quantizer: Uniform,
        keep_top: usize,
        watch: W,
    ) -> Result<(Self, BitReader<'a>), Corrupt> {
        let n_classes = tops.n_classes();
        let parameters = Parameters::read_from(reader)?;
        let order = Order::new(keep_top, n_classes, true, parameters.n_groups());
        let alphabets = parameters.alphabets(tops.count(), keep_top);
        let (tables, [rows]) = Tables::read_from(reader, &alphabets, watch)?;
        let decoder = Self {
            parameters,
            tables,
            quantizer,
            tops,
            ranks: Ranks::new(n_classes),
            keep_top,
            order,
            n_classes,
            levels: Vec::new(),
            left_out: Vec::with_capacity(MAX_LEFT_OUT),
            is_present: vec![false; n_classes],
        };
        Ok((decoder, rows))
    }

    /// Decodes the next rows into `values`, which are 0.
    ///
    /// # Errors
    /// [`Corrupt`] if the bitstream is not what an encoder writes; the decoder is of no use then.
    pub fn rows(&mut self, reader: &mut BitReader, values: &mut [f32]) -> Result<(), Corrupt> {
        let n_kinds = self.parameters.n_kinds;
        for row in values.chunks_exact_mut(self.n_classes) {
            let head = self.number(reader, Family::Head.first_context())?;
            if head == self.tops.count() as u32 * n_kinds {
                // The family has one context, alone in its group.
                let group = self.parameters.group_of[Family::Raw.first_context()];
                self.tables.bits(group.into(), reader, row)?;
                continue;
            }
            let top = self.tops.read(head / n_kinds, reader)?;
            let mut kind = Kind(head % n_kinds);
            if kind.0 == n_kinds - 1 {
                let rest = self.number(reader, Family::Kind.first_context())?;
                kind.0 = kind.0.saturating_add(rest);
            }
            let is_tied = self.row(reader, top, kind, row)?;
            if self.keep_top > 1 {
                self.order.decode(row, Some(top), &self.tables, reader)?;
            } else if is_tied {
                // As the order would, without a look at every class.
                row[top] = row[top].next_up();
            }
        }
        Ok(())
    }

    /// Ends with the bitstream.
    ///
    /// # Errors
    /// [`Corrupt`] if something is left of it.
    pub fn finish(&self, reader: BitReader) -> Result<(), Corrupt> {
        self.tables.finish(reader)
    }

    /// Decodes the values of a row that are not 0; returns whether a class before the top one has become as large.
    fn row(
        &mut self,
        reader: &mut BitReader,
        top: usize,
        kind: Kind,
        row: &mut [f32],
    ) -> Result<bool, Corrupt> {
        let result = self.decode_levels(reader, top, kind);
        for &(class, _) in &self.levels {
            self.is_present[class] = false;
        }
        result?;
        let top_level = self.levels[0].1;
        let mut is_tied = top_level == 0 && top > 0;
        for &(class, level) in &self.levels[1..] {
            self.ranks.learn(top, class);
            row[class] = self.quantizer.dequantize(level);
            is_tied |= level == top_level && class < top;
        }
        row[top] = self.quantizer.dequantize(top_level);
        Ok(is_tied)
    }

    /// Fills `levels`.
    fn decode_levels(
        &mut self,
        reader: &mut BitReader,
        top: usize,
        kind: Kind,
    ) -> Result<(), Corrupt> {
        let n_others = kind.n_others();
        if n_others >= self.n_classes {
            return Err(Corrupt("a row has more levels than classes"));
        }
        let (least, is_only) = kind.distance();
        let distance = match is_only {
            true => least,
            false => least.saturating_add(self.number(reader, distance_context(n_others))?),
        };
        let top_level = self
            .quantizer
            .n_levels()
            .checked_sub(distance)
            .ok_or(Corrupt("a top level is below 0"))?;

        self.levels.clear();
        self.levels.push((top, top_level));
        if n_others == 0 {
            return Ok(());
        }
        self.is_present[top] = true;
        self.left_out.clear();

        let mut first_rank = None;
        let miss = match n_others <= self.parameters.n_joint {
            true => {
                let symbol = self.number(reader, first_rank_context(n_others, distance))?;
                let (base, n_extra_bits) = LEVELS.meaning(symbol / N_JOINT_MISSES);
                first_rank = Some(base + reader.read(n_extra_bits)?);
                match symbol % N_JOINT_MISSES {
                    miss if miss == N_JOINT_MISSES - 1 => {
                        miss.saturating_add(self.number(reader, Family::RareMiss.first_context())?)
                    }
                    miss => miss,
                }
            }
            false => self.number(reader, miss_context(n_others, distance))?,
        };
        let sum = i64::from(distance) - i64::from(from_zigzag(miss));
        let possible_sums = n_others as i64..=n_others as i64 * i64::from(top_level);
        if !possible_sums.contains(&sum) {
            return Err(Corrupt("levels have an impossible sum"));
        }

        let mut mass_left = sum as u32;
        // Level and rank.
        let mut previous = (top_level, 0);
        for n_left in (1..=n_others).rev() {
            let (lowest, highest) = possible_levels(n_left as u32, mass_left, previous.0);
            let level = match lowest < highest {
                true => {
                    let below = self.number(reader, level_context(n_left, highest - lowest))?;
                    if below > highest - lowest {
                        return Err(Corrupt("a level is impossible"));
                    }
                    highest - below
                }
                false => highest,
            };
            let is_first = n_left == n_others;
            let rank = match first_rank.take() {
                Some(rank) => self.leave_out(0, rank),
                None => {
                    let is_tied = !is_first && level == previous.0;
                    let rank = self.number(reader, rank_context(is_first, is_tied, n_left))?;
                    self.leave_out(if is_tied { previous.1 + 1 } else { 0 }, rank)
                }
            };
            let class = self
                .ranks
                .class(top, rank as usize)
                .ok_or(Corrupt("a rank exceeds the classes"))?;
            if self.is_present[class] {
                return Err(Corrupt("a class occurs twice in a row"));
            }
            self.levels.push((class, level));
            self.is_present[class] = true;
            mass_left -= level;
            previous = (level, rank);
        }
        Ok(())
    }

    /// The `number`-th rank from `start` on that is not left out; later ones leave it out.
    #[inline]
    fn leave_out(&mut self, start: u32, number: u32) -> u32 {
        let mut rank = start.saturating_add(number);
        let mut position = 0;
        while let Some(&other) = self.left_out.get(position)
            && other <= rank
        {
            rank = rank.saturating_add(u32::from(other >= start));
            position += 1;
        }
        if self.left_out.len() < MAX_LEFT_OUT {
            self.left_out.insert(position, rank);
        }
        rank
    }

    #[inline(always)]
    fn number(&self, reader: &mut BitReader, context: usize) -> Result<u32, Corrupt> {
        let group = self.parameters.group_of[context];
        self.tables.number(group.into(), reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_tell_the_number_of_others() {
        let mut kinds: Vec<u32> = [0, 1, 2, 9]
            .map(|distance| Kind::new(0, distance).0)
            .into_iter()
            .chain((1..30).map(|n_others| Kind::new(n_others, 0).0))
            .collect();
        for n_others in 0..30 {
            assert_eq!(Kind::new(n_others, 7).n_others(), n_others);
        }
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds, (0..32).collect::<Vec<_>>());
    }

    #[test]
    fn contexts_have_positions_of_their_own() {
        let mut all: Vec<usize> = Family::ALL[..4].iter().map(|f| f.first_context()).collect();
        all.extend((0..9).map(distance_context));
        for (n_others, distance) in (1..9).flat_map(|n| (0..6).map(move |d| (n, d))) {
            all.push(miss_context(n_others, distance));
            if n_others <= MAX_JOINT {
                all.push(first_rank_context(n_others, distance));
            }
        }
        for n_left in 1..5 {
            all.extend(
                [(true, false), (false, false), (false, true)]
                    .map(|(first, tied)| rank_context(first, tied, n_left)),
            );
            if n_left > 1 {
                let ranges = [1, 1 << 20]
                    .into_iter()
                    .chain((1..20).flat_map(|bits| [2 << bits, 3 << bits]));
                all.extend(
                    ranges
                        .chain([2, 3])
                        .map(|range| level_context(n_left, range)),
                );
            }
        }
        all.sort_unstable();
        all.dedup();
        assert!(all.iter().all(|&context| context < N_CONTEXTS));
        // 0 is no range, and the last two ranges are beyond the largest level.
        assert!(
            all.len() >= N_CONTEXTS - 2 * 3,
            "{} of {N_CONTEXTS}",
            all.len()
        );
    }

    #[test]
    fn possible_levels_leave_possible_levels() {
        for n_left in 2..6u32 {
            for previous in 1..12 {
                for sum in n_left..=n_left * previous {
                    let (lowest, highest) = possible_levels(n_left, sum, previous);
                    assert!((1..=highest).contains(&lowest) && highest <= previous);
                    for level in lowest..=highest {
                        let rest = sum - level;
                        assert!(rest >= n_left - 1 && rest <= (n_left - 1) * level);
                    }
                }
            }
        }
    }

    #[test]
    fn contexts_that_are_alike_share_a_group() {
        let (few, many) = (vec![900, 90, 10, 0], vec![0, 10, 90, 900]);
        let none = vec![0; 4];
        let widths = |frequencies: &[Vec<u64>]| group_contexts(frequencies, group_cost).0;
        assert_eq!(widths(&[few.clone(), few.clone(), many.clone()]), [2, 1]);
        assert_eq!(
            widths(&[none.clone(), few, none.clone(), many, none.clone()]),
            [3, 2]
        );
        assert_eq!(widths(&[none.clone(), none]), [2]);
    }
}
