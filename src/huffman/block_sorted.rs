//! Numbers that the numbers after them determine, as where the classes of a row are bins of one quantity, or rows
//! follow a curve: the block sorting of Burrows and Wheeler (A Block-sorting Lossless Data Compression Algorithm, DEC
//! SRC report 124, 1994), with differences of numbers in place of the ranks of bytes (FORMAT.md, section 17).
//!
//! All numbers of the block, row after row or class after class, are put in the order of what follows each of them.
//! Numbers with the same future come to stand together, and are mostly equal or near: each is coded as one of those
//! seen last, or by its difference from the last one, in the context of the ranks and of the numbers before it.

use std::borrow::Cow;

use super::Corrupt;
use super::bitstream::{BitReader, BitWriter, Coder};
use super::codebook::{read_gamma, write_gamma};
use super::coded::{Coded, CodedRows, Tables};
use super::contexts::{ContextDecoder, Groups, N_POSITIONS, Sequence};
use super::expected::{Levels, MAX_LEVEL_OF_ROOTS};
use super::fineness::FinenessFinder;
use super::meter::Watch;
use super::minifloat::Minifloat;
use super::order::Order;
use super::predicted::{HEAD, Numbers, ORDER, RAW, alphabets, groups_alphabet};
use super::quantizer::{Root, Roots, Step};
use super::symbols::Symbol;
use super::tokens::{LEVELS, from_zigzag, zigzag};
use crate::matrix::{Rows, argmax};

/// About the bytes that a decoder takes for each number.
pub const N_WORKING_BYTES: u64 = 20;

/// Rows whose numbers are sorted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockSorted {
    /// The values that are sorted, as numbers.
    pub values: Values,
    /// The order of a block's numbers before they are sorted.
    pub scan: Scan,
    /// What numbers are coded given.
    pub contexts: Contexts,
}

/// What the rank of each sorted number is coded given, and the top class of a row where several classes share its
/// level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contexts {
    /// Ranks: given those before them. Top classes: given nothing.
    OfRanks,
    /// Ranks: given the last numbers as well. Top classes: given how many classes share the level. Not of numbers that
    /// stand for all bits.
    OfNumbers,
}

impl Contexts {
    /// The context of a top class whose level two classes share: its band is the last one. Format-stable.
    fn first_of_ties(self) -> Option<usize> {
        match self {
            Self::OfRanks => None,
            Self::OfNumbers => Some(3 * N_POSITIONS),
        }
    }

    /// Bands of contexts.
    fn n_bands(self) -> usize {
        self.first_of_ties()
            .map_or(1, |first| first / N_POSITIONS + 1)
    }

    /// The context of the next number.
    #[inline(always)]
    fn of_rank(self, seen: &Seen) -> usize {
        match self {
            Self::OfRanks => seen.context(),
            Self::OfNumbers => seen.context_of_numbers(),
        }
    }
}

/// The numbers that values become.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Values {
    /// Multiples of a step.
    Steps(Step),
    /// All bits, as integers in the order of the values.
    Bits(Minifloat),
    /// Levels of square roots, in each row as fine as its divergence asks for; decoders need neither field.
    Roots {
        /// The finenesses that rows may have.
        roots: Roots,
        /// The bound in bits.
        max_kl: f64,
    },
}

impl Values {
    /// Levels of square roots, as a decoder needs to know them.
    pub const ROOTS: Self = Self::Roots {
        roots: Roots::HALVING,
        max_kl: f64::NAN,
    };

    /// The numbers of values, which are those of predicted rows as well; `None` for levels of square roots.
    pub fn numbers(self) -> Option<Numbers> {
        match self {
            Self::Steps(step) => Some(Numbers::Steps(step)),
            Self::Bits(of) => Some(Numbers::OrderedBits(of)),
            Self::Roots { .. } => None,
        }
    }

    /// What an encoder codes them given.
    pub fn contexts(self) -> Contexts {
        match self {
            Self::Steps(_) | Self::Roots { .. } => Contexts::OfNumbers,
            Self::Bits(_) => Contexts::OfRanks,
        }
    }

    /// Whether values come back bit for bit.
    fn is_exact(self) -> bool {
        matches!(self, Self::Bits(_))
    }

    /// The numbers of all rows that are not marked; rows without numbers get marked.
    pub fn quantize(self, matrix: Rows<'_>, is_exact: &mut [bool]) -> Vec<i32> {
        pulp::Arch::new().dispatch(Quantizing {
            values: self,
            matrix,
            is_exact,
        })
    }
}

/// Quantizes with the vector instructions of this machine.
struct Quantizing<'a> {
    values: Values,
    matrix: Rows<'a>,
    is_exact: &'a mut [bool],
}

impl pulp::WithSimd for Quantizing<'_> {
    type Output = Vec<i32>;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> Vec<i32> {
        let (matrix, is_exact) = (self.matrix, self.is_exact);
        let n_classes = matrix.n_classes();
        let mut numbers = Vec::with_capacity(matrix.values().len());
        if let Some(of_values) = self.values.numbers() {
            let mut of_row = vec![0; n_classes];
            for (row, is_exact) in matrix.rows().zip(is_exact.iter_mut()) {
                *is_exact |= !of_values.quantize_row(row, &mut of_row);
                if !*is_exact {
                    numbers.extend_from_slice(&of_row);
                }
            }
        } else if let Values::Roots { roots, max_kl } = self.values {
            let mut finder = FinenessFinder::new(Levels::Root { roots, max_kl });
            let needs = finder.needs(matrix, is_exact, |_| 0);
            let mut of_row = vec![0; n_classes];
            let rows = matrix.rows().zip(needs).zip(is_exact);
            for ((row, need), _) in rows.filter(|(_, exact)| !**exact) {
                finder.quantize(row, argmax(row), need, &mut of_row);
                numbers.extend(of_row.iter().map(|&level| level as i32));
            }
        }
        numbers
    }
}

/// The order of a block's numbers before they are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// Row after row.
    ByRow,
    /// Class after class.
    ByClass,
}

impl Scan {
    /// All scans, each at its number.
    pub const ALL: [Self; 2] = [Self::ByRow, Self::ByClass];

    /// The numbers of rows, put in this order.
    pub fn of_rows(self, numbers: &[i32], n_classes: usize) -> Cow<'_, [i32]> {
        match self {
            Self::ByRow => numbers.into(),
            Self::ByClass => transposed(numbers, n_classes).into(),
        }
    }

    /// Numbers in this order, put back row after row.
    fn to_rows(self, numbers: Vec<i32>, n_classes: usize) -> Vec<i32> {
        match self {
            Self::ByRow => numbers,
            Self::ByClass => transposed(&numbers, numbers.len() / n_classes),
        }
    }
}

/// The columns, one after another, of a matrix with rows of `n_columns` numbers.
fn transposed(numbers: &[i32], n_columns: usize) -> Vec<i32> {
    let mut columns = Vec::with_capacity(numbers.len());
    if !numbers.is_empty() {
        for column in 0..n_columns {
            columns.extend(numbers[column..].iter().step_by(n_columns));
        }
    }
    columns
}

/// The place of each suffix in ascending order, from 1 on; a suffix that another begins with comes before it. Sorts by
/// ever longer prefixes those suffixes that are not told apart yet (Larsson and Sadakane, Faster suffix sorting,
/// Theoretical Computer Science 387, 2007).
fn places_of_suffixes(numbers: &[i32]) -> Vec<u32> {
    let mut places = vec![0; numbers.len()];
    let mut keyed: Vec<(i32, u32)> = numbers.iter().copied().zip(0..).collect();
    keyed.sort_unstable();
    // The suffixes in order, and the ranges of suffixes that have the same place so far.
    let mut suffixes: Vec<u32> = keyed.iter().map(|&(_, suffix)| suffix).collect();
    let mut alike = Vec::new();
    split(&keyed, 0, &mut places, &mut alike);
    drop(keyed);
    let mut n_known = 1;
    while !alike.is_empty() {
        let mut still_alike = Vec::new();
        for (first, end) in alike {
            // The rest after so many numbers has been placed by as many numbers; the empty rest comes first.
            let place_of_rest = |suffix: u32| {
                let rest = places.get(suffix as usize + n_known);
                rest.copied().unwrap_or(0)
            };
            let suffixes = &mut suffixes[first..end];
            let keys = suffixes.iter().map(|&suffix| place_of_rest(suffix));
            let mut keyed: Vec<(u32, u32)> = keys.zip(suffixes.iter().copied()).collect();
            keyed.sort_unstable();
            for (place, &(_, suffix)) in suffixes.iter_mut().zip(&keyed) {
                *place = suffix;
            }
            split(&keyed, first, &mut places, &mut still_alike);
        }
        alike = still_alike;
        n_known *= 2;
    }
    places
}

/// Places suffixes that are sorted by their keys, after the first `first` ones, and notes the ranges of equal keys.
fn split<K: PartialEq>(
    keyed: &[(K, u32)],
    first: usize,
    places: &mut [u32],
    alike: &mut Vec<(usize, usize)>,
) {
    let mut start = first;
    for same in keyed.chunk_by(|(a, _), (b, _)| a == b) {
        for &(_, suffix) in same {
            places[suffix as usize] = start as u32 + 1;
        }
        let end = start + same.len();
        if same.len() > 1 {
            alike.push((start, end));
        }
        start = end;
    }
}

/// The number before each suffix, in the order of suffixes, the empty one being the first. Nothing comes before the
/// whole sequence: its place is returned instead.
fn sort(numbers: &[i32]) -> (Vec<i32>, usize) {
    let places = places_of_suffixes(numbers);
    let mut sorted = vec![0; numbers.len() + 1];
    let Some(&place_of_all) = places.first() else {
        return (Vec::new(), 0);
    };
    sorted[0] = numbers[numbers.len() - 1];
    for (&place, &number) in places[1..].iter().zip(numbers) {
        sorted[place as usize] = number;
    }
    sorted.remove(place_of_all as usize);
    (sorted, place_of_all as usize)
}

/// The numbers that [`sort`] has sorted.
///
/// # Errors
/// [`Corrupt`] if [`sort`] never returns these.
fn unsort(sorted: &[i32], place_of_all: usize) -> Result<Vec<i32>, Corrupt> {
    const CORRUPT: Corrupt = Corrupt("the block sort cannot be undone");
    if place_of_all > sorted.len() || (place_of_all == 0) != sorted.is_empty() {
        return Err(CORRUPT);
    }
    // Suffixes ordered by first number and, among equal ones, by the place of their rest.
    let rests = stable_order(sorted);
    let mut numbers = Vec::with_capacity(sorted.len());
    let mut place = place_of_all;
    for _ in 0..sorted.len() {
        let rest = rests[place.checked_sub(1).ok_or(CORRUPT)?] as usize;
        place = rest + usize::from(rest >= place_of_all);
        numbers.push(sorted[rest]);
    }
    Ok(numbers)
}

/// The places of numbers in ascending order, equal ones in their own order: a radix sort by 11 bits at a time, of only
/// as many bits as the numbers differ in.
fn stable_order(numbers: &[i32]) -> Vec<u32> {
    const N_DIGIT_BITS: usize = 11;
    let least = numbers.iter().copied().min().unwrap_or(0);
    let above = |place: u32| numbers[place as usize].wrapping_sub(least) as u32;
    let mut places: Vec<u32> = (0..numbers.len() as u32).collect();
    let most = places.iter().map(|&place| above(place)).max().unwrap_or(0);
    let mut reordered = vec![0; places.len()];
    for shift in (0..u32::BITS).step_by(N_DIGIT_BITS) {
        if most >> shift == 0 {
            break;
        }
        let digit = |place: u32| (above(place) >> shift) as usize % (1 << N_DIGIT_BITS);
        let mut ends = [0; 1 << N_DIGIT_BITS];
        for &place in &places {
            ends[digit(place)] += 1usize;
        }
        let mut n_before = 0;
        for end in &mut ends {
            n_before += std::mem::replace(end, n_before);
        }
        for &place in &places {
            let next = &mut ends[digit(place)];
            reordered[*next] = place;
            *next += 1;
        }
        std::mem::swap(&mut places, &mut reordered);
    }
    places
}

/// The number of binary digits.
#[inline(always)]
fn n_bits(number: u32) -> u32 {
    u32::BITS - number.leading_zeros()
}

/// The sorted numbers so far, as encoder and decoder both know them.
struct Seen {
    /// The last three different numbers, the latest first.
    last: [i32; 3],
    /// How often the latest has been repeated.
    n_repeats: u32,
    /// The last rank that was no repeat.
    other: u32,
}

impl Seen {
    fn new() -> Self {
        Self {
            last: [0, 1, 2],
            n_repeats: 0,
            other: 0,
        }
    }

    /// The context of the next number: the length of the run of repeats, and the rank before that run. Format-stable.
    #[inline(always)]
    fn context(&self) -> usize {
        const N_SIZES: u32 = 12;
        let size = match self.other {
            0..=3 => self.other,
            _ => 1 + n_bits(self.other),
        };
        let run = n_bits(self.n_repeats).min(7);
        (N_SIZES * run + size.min(N_SIZES - 1)) as usize
    }

    /// The context of the next number given the last ones as well: in the band of the size of the last number, the
    /// length of the run of repeats, the rank before that run and, where this is small, the size of the second last
    /// number. Format-stable.
    #[inline(always)]
    fn context_of_numbers(&self) -> usize {
        const N_SIZES: u32 = 16;
        let [last, second, _] = self.last.map(|number| n_bits(number.unsigned_abs()).min(2));
        let size = match self.other {
            0..=2 => 3 * self.other + second,
            _ => (7 + n_bits(self.other)).min(N_SIZES - 1),
        };
        let run = n_bits(self.n_repeats).min(5);
        last as usize * N_POSITIONS + (N_SIZES * run + size) as usize
    }

    /// The distances of the second and the third of the last numbers from the first, the smaller one first.
    #[inline(always)]
    fn distances(&self) -> [u32; 2] {
        let [last, second, third] = self.last;
        let [second, third] = [second, third].map(|number| zigzag(number.wrapping_sub(last)));
        [second.min(third), second.max(third)]
    }

    /// The rank of a number: 0 to 2 for the last numbers; from 3 on, all others by their distance from the latest.
    #[inline(always)]
    fn rank(&self, number: i32) -> u32 {
        match self.last.iter().position(|&last| last == number) {
            Some(position) => position as u32,
            None => {
                let distance = zigzag(number.wrapping_sub(self.last[0]));
                let n_nearer = self
                    .distances()
                    .map(|of_other| u32::from(of_other < distance));
                distance - n_nearer[0] - n_nearer[1] + 2
            }
        }
    }

    /// The number of a rank.
    #[inline(always)]
    fn number(&self, rank: u32) -> i32 {
        match self.last.get(rank as usize) {
            Some(&number) => number,
            None => {
                let mut distance = rank - 2;
                for of_other in self.distances() {
                    distance += u32::from(of_other <= distance);
                }
                self.last[0].wrapping_add(from_zigzag(distance))
            }
        }
    }

    /// Takes the next number, which has this rank.
    #[inline(always)]
    fn take(&mut self, number: i32, rank: u32) {
        if rank == 0 {
            self.n_repeats += 1;
            return;
        }
        self.n_repeats = 0;
        self.other = rank;
        let n_moved = (rank as usize).min(self.last.len() - 1);
        self.last.copy_within(..n_moved, 1);
        self.last[0] = number;
    }
}

impl BlockSorted {
    /// Codes the rows of `matrix`; bit for bit those marked in `is_exact`, and rows without numbers, which get marked.
    #[inline(never)]
    pub fn encode(
        self,
        matrix: Rows<'_>,
        is_exact: &mut [bool],
        keep_top: usize,
        coder: Coder,
    ) -> Coded {
        let n_classes = matrix.n_classes();
        // The numbers of all rows, and perhaps that of a top class in each.
        let n_numbers = matrix.values().len() + matrix.n_rows();
        let mut sequences = Sequence::several(1, n_numbers, LEVELS);
        let sequence = &mut sequences[0];
        let numbers = self.values.quantize(matrix, is_exact);
        for (row, &is_exact) in matrix.rows().zip(is_exact.iter()) {
            sequence.push(Symbol::new(HEAD, u32::from(is_exact)));
            if is_exact {
                Symbol::of_bits(RAW, row).for_each(|symbol| sequence.push(symbol));
            }
        }
        let (sorted, place_of_all) = sort(&self.scan.of_rows(&numbers, n_classes));
        let mut seen = Seen::new();
        for number in sorted {
            let rank = seen.rank(number);
            sequence.push_number(self.contexts.of_rank(&seen), rank);
            seen.take(number, rank);
        }
        if !self.values.is_exact() {
            let mut order = Order::new(keep_top, n_classes, false, ORDER);
            let live = matrix.rows().zip(is_exact).filter(|(_, exact)| !**exact);
            let first_of_ties = self.contexts.first_of_ties();
            for ((row, _), numbers) in live.zip(numbers.chunks_exact(n_classes)) {
                order.encode_in_contexts(row, numbers, first_of_ties, sequence);
            }
        }
        let mut choices = BitWriter::new();
        write_gamma(&mut choices, place_of_all as u32 + 1);
        let n_bands = self.contexts.n_bands();
        let groups = Groups::of(&mut sequences, n_bands, groups_alphabet(keep_top), coder);
        Coded {
            alphabets: alphabets(keep_top, groups.alphabets()),
            choices,
            rows: CodedRows::InContexts(groups, sequences),
        }
    }

    /// Decodes the rows of a block.
    ///
    /// # Errors
    /// [`Corrupt`] if the payload is not what an encoder writes.
    #[inline(never)]
    pub fn decode(
        self,
        reader: &mut BitReader,
        n_classes: usize,
        keep_top: usize,
        values: &mut [f32],
        watch: impl Watch,
    ) -> Result<(), Corrupt> {
        let place_of_all = read_gamma(reader)? as usize - 1;
        let n_bands = self.contexts.n_bands();
        let contexts =
            ContextDecoder::read_from(reader, n_bands, groups_alphabet(keep_top), LEVELS)?;
        let alphabets = alphabets(keep_top, contexts.alphabets());
        let (tables, [reader]) = Tables::read_from(reader, &alphabets, watch)?;
        let mut stream = contexts.stream(reader);
        let mut is_exact = vec![false; values.len() / n_classes];
        for (row, is_exact) in values.chunks_exact_mut(n_classes).zip(&mut is_exact) {
            *is_exact = tables.number(HEAD, &mut stream.reader)? == 1;
            if *is_exact {
                tables.bits(RAW, &mut stream.reader, row)?;
            }
        }
        let n_live = is_exact.iter().filter(|&&is_exact| !is_exact).count();
        let mut seen = Seen::new();
        let mut sorted = vec![0; n_live * n_classes];
        for number in &mut sorted {
            let rank = contexts.number(self.contexts.of_rank(&seen), &tables, &mut stream)?;
            *number = seen.number(rank);
            seen.take(*number, rank);
        }
        let numbers = self.scan.to_rows(unsort(&sorted, place_of_all)?, n_classes);
        let mut levels = vec![0; n_classes];
        let mut order = Order::new(keep_top, n_classes, false, ORDER);
        let first_of_ties = self.contexts.first_of_ties();
        let live = values.chunks_exact_mut(n_classes).zip(is_exact);
        let live = live.filter(|(_, is_exact)| !is_exact);
        for ((row, _), numbers) in live.zip(numbers.chunks_exact(n_classes)) {
            match self.values.numbers() {
                Some(of_values) => of_values.dequantize_row(numbers.iter().copied(), row),
                None => {
                    for (level, &number) in levels.iter_mut().zip(numbers) {
                        // Negative numbers become levels that are too large.
                        *level = number as u32;
                        if *level > MAX_LEVEL_OF_ROOTS {
                            return Err(Corrupt("a level is out of range"));
                        }
                    }
                    Root::dequantize_row(&levels, row)?;
                }
            }
            if !self.values.is_exact() {
                order.decode_in_contexts(row, first_of_ties, &contexts, &tables, &mut stream)?;
            }
        }
        tables.finish(stream.reader)
    }
}

/// Whether numbers, in the order in which they are to be sorted, may take less than `n_bits`, by a quick look: how far
/// each is from the number that last stood before the same two, or four, and how many other than 0 equal it.
pub fn may_take_less(numbers: &[i32], n_bits: f64) -> bool {
    /// Noise stays below this, whatever its distribution.
    const LEAST_SHARE_FORESEEN: f64 = 0.2;
    const N_HASH_BITS: u32 = 16;
    let hash = |following: &[i32]| {
        let add = |hash: u64, number: &i32| {
            (hash ^ u64::from(*number as u32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        };
        (following.iter().fold(0, add) >> (u64::BITS - N_HASH_BITS)) as usize
    };
    let mut before = [2, 4].map(|n| (n, vec![0; 1 << N_HASH_BITS]));
    let (mut n_least, mut n_live, mut n_foreseen) = (0, 0, 0);
    for numbers in numbers.windows(5).rev() {
        let mut distance = u32::MAX;
        for (n, before) in &mut before {
            let known = &mut before[hash(&numbers[1..=*n])];
            distance = distance.min(zigzag(numbers[0].wrapping_sub(*known)));
            *known = numbers[0];
        }
        n_least += u64::from(u32::BITS - distance.leading_zeros());
        n_live += usize::from(numbers[0] != 0);
        n_foreseen += usize::from(numbers[0] != 0 && distance == 0);
    }
    (n_least as f64) < n_bits && n_foreseen as f64 > LEAST_SHARE_FORESEEN * n_live as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::block;
    use super::super::models::{Method, RowModel, id};
    use super::super::noise;
    use super::*;

    #[test]
    fn numbers_are_sorted_by_what_follows_them() {
        // An example like that of Burrows and Wheeler, "banana": the suffixes are "", a, ana, anana, banana, na, nana.
        let numbers = b"banana".map(i32::from);
        let (sorted, place_of_all) = sort(&numbers);
        assert_eq!(sorted, b"annbaa".map(i32::from)[..]);
        assert_eq!(place_of_all, 4);
        assert_eq!(unsort(&sorted, 4).unwrap(), numbers);
        for none in [0, 7, usize::MAX] {
            assert!(unsort(&sorted, none).is_err(), "{none}");
        }
        assert_eq!(sort(&[]), (vec![], 0));
        assert!(unsort(&[], 0).unwrap().is_empty());
        assert!(unsort(&[], 1).is_err());
    }

    proptest! {
        #[test]
        fn suffixes_are_placed_as_by_comparing_them(
            numbers in prop_oneof![
                prop::collection::vec(0..3, 0..60),
                prop::collection::vec(prop::num::i32::ANY, 0..60),
                (0..200usize).prop_map(|n| vec![7; n]),
            ]
        ) {
            let mut suffixes: Vec<usize> = (0..numbers.len()).collect();
            suffixes.sort_by_key(|&suffix| &numbers[suffix..]);
            let places = places_of_suffixes(&numbers);
            for (place, suffix) in (1..).zip(suffixes) {
                prop_assert_eq!(places[suffix], place);
            }
            let (sorted, place_of_all) = sort(&numbers);
            prop_assert_eq!(unsort(&sorted, place_of_all).unwrap(), numbers);
        }

        #[test]
        fn every_order_is_unsorted_or_refused(
            sorted in prop::collection::vec(0..4, 0..20),
            place_of_all in 0..22usize
        ) {
            if let Ok(numbers) = unsort(&sorted, place_of_all) {
                prop_assert_eq!(sort(&numbers), (sorted, place_of_all));
            }
        }

        #[test]
        fn ranks_are_those_of_all_numbers(
            numbers in prop::collection::vec(
                prop_oneof![-4..4, prop::num::i32::ANY, Just(i32::MIN), Just(i32::MAX)],
                0..50
            )
        ) {
            let mut seen = Seen::new();
            for number in numbers {
                let rank = seen.rank(number);
                prop_assert_eq!(seen.number(rank), number);
                prop_assert!(seen.context() < N_POSITIONS);
                let of_numbers = seen.context_of_numbers();
                prop_assert!(Some(of_numbers) < Contexts::OfNumbers.first_of_ties());
                // The neighbouring ranks are those of other numbers.
                for other in [rank.wrapping_sub(1), rank.wrapping_add(1)] {
                    prop_assert_eq!(seen.rank(seen.number(other)), other);
                }
                seen.take(number, rank);
                let [a, b, c] = seen.last;
                prop_assert!(a != b && b != c && a != c);
            }
        }
    }

    /// Rows of multiples of a step, sorted row after row.
    fn payload_of_steps(step: Step, contexts: Contexts, matrix: Rows<'_>) -> Vec<u8> {
        let sorted = BlockSorted {
            values: Values::Steps(step),
            scan: Scan::ByRow,
            contexts,
        };
        let method = Method {
            model: RowModel::BlockSorted(sorted).alone(),
            coder: Coder::Huffman,
            n_streams: 1,
        };
        let mut is_exact = vec![false; matrix.n_rows()];
        block::encode(method, matrix, None, &mut is_exact, 1).bytes
    }

    #[test]
    fn contexts_of_numbers_save_bytes_where_rows_are_flat_at_the_top() {
        const N_CLASSES: usize = 100;
        const N_ROWS: usize = 800;
        let random = |i: usize| f64::from(noise(i)) / (1u64 << 32) as f64;
        let bell = |row: usize, class: usize| {
            let centre = N_CLASSES as f64 * random(row);
            let width = 3.0 + 6.0 * random(N_ROWS + row);
            0.4 / width * (-0.5 * ((class as f64 - centre) / width).powi(2)).exp()
        };
        let values = (0..N_ROWS * N_CLASSES).map(|i| bell(i / N_CLASSES, i % N_CLASSES) as f32);
        let values: Vec<f32> = values.collect();
        let matrix = Rows::new(N_CLASSES, &values);
        let step = Step::new(1.0 / 510.0, 1.0).unwrap();
        let [of_ranks, of_numbers] = [Contexts::OfRanks, Contexts::OfNumbers]
            .map(|contexts| payload_of_steps(step, contexts, matrix).len() as f64);
        assert!(of_numbers < 0.95 * of_ranks, "{of_numbers} {of_ranks}");
    }

    #[test]
    fn levels_of_roots_are_limited() {
        let step = Step::from_bits(1.0f64.to_bits()).unwrap();
        let levels = [(1 << 21, true), ((1 << 21) + 1, false), (-1, false)];
        let of_contexts = [
            (Contexts::OfRanks, id::SORTED_ROOTS),
            (Contexts::OfNumbers, id::SORTED_ROOTS_BY_NUMBERS),
        ];
        for ((level, is_one), (contexts, of_roots)) in levels
            .into_iter()
            .flat_map(|level| of_contexts.map(|contexts| (level, contexts)))
        {
            let values = [level as f32];
            let payload = payload_of_steps(step, contexts, Rows::new(1, &values));
            let decoded = block::decode(&payload, 1, 1, 1).unwrap();
            assert_eq!(decoded.values(), values);
            // The same numbers as levels, without the number of the model and the step.
            let of_roots = [&[of_roots as u8], &payload[1 + 8..]].concat();
            assert_eq!(block::decode(&of_roots, 1, 1, 1).is_ok(), is_one, "{level}");
        }
    }

    #[test]
    fn equal_numbers_keep_their_order() {
        let numbers = [5, i32::MAX, -1, 5, i32::MIN, 1 << 20, -1, 5];
        assert_eq!(stable_order(&numbers), [4, 2, 6, 0, 3, 7, 5, 1]);
        assert_eq!(stable_order(&[3, 3, 3]), [0, 1, 2]);
        assert!(stable_order(&[]).is_empty());
    }

    #[test]
    fn columns_are_put_back() {
        let numbers: Vec<i32> = (0..12).collect();
        let by_class = Scan::ByClass.of_rows(&numbers, 4).into_owned();
        assert_eq!(by_class[..5], [0, 4, 8, 1, 5]);
        assert_eq!(Scan::ByClass.to_rows(by_class, 4), numbers);
        assert!(Scan::ByClass.of_rows(&[], 4).is_empty());
    }
}
