//! Numbers that those after them tell, as where the classes of a row are bins of one quantity, or rows follow
//! a curve: the block sorting of Burrows and Wheeler (A Block-sorting Lossless Data Compression Algorithm, DEC SRC
//! report 124, 1994), with the differences of numbers in place of the ranks of bytes (FORMAT.md, section 17).
//!
//! All numbers of the block, row after row or class after class, are put in the order of what follows each of
//! them. Those with the same future come to stand together, and are mostly the same again, or near: each is
//! coded as one of those seen last, or by its difference from the last one, in the context of how the ones before were.

use super::Corrupt;
use super::bitstream::{BitReader, BitWriter, Coder};
use super::codebook::{read_gamma, write_gamma};
use super::coded::{Coded, CodedRows, Tables};
use super::contexts::{ContextDecoder, Groups, Sequence};
use super::expected::Levels;
use super::fineness::FinenessFinder;
use super::meter::Watch;
use super::order::Order;
use super::predicted::{HEAD, Numbers, ORDER, RAW, alphabets, groups_alphabet};
use super::quantizer::{Root, Roots};
use super::symbols::Symbol;
use super::tokens::{LEVELS, from_zigzag, zigzag};
use crate::matrix::{Rows, argmax};

/// About what a decoder takes for each number.
pub const N_WORKING_BYTES: u64 = 20;

/// Rows whose numbers are sorted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockSorted {
    /// What is sorted.
    pub values: Values,
    /// In which order the numbers of a block stand before they are sorted.
    pub scan: Scan,
}

/// How values become numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Values {
    /// As those of predicted rows.
    Numbers(Numbers),
    /// As levels of square roots, in each row as fine as its divergence asks for; decoders do not look at these.
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

    /// Whether values come back bit for bit.
    fn is_exact(self) -> bool {
        matches!(self, Self::Numbers(numbers) if numbers.is_exact())
    }
}

/// In which order the numbers of a block stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// Row after row.
    ByRow,
    /// Class after class.
    ByClass,
}

impl Scan {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::ByRow, Self::ByClass];

    /// Numbers of rows in this order.
    fn of_rows(self, numbers: Vec<i32>, n_classes: usize) -> Vec<i32> {
        match self {
            Self::ByRow => numbers,
            Self::ByClass => transposed(&numbers, n_classes),
        }
    }

    /// Numbers in this order, row after row.
    fn to_rows(self, numbers: Vec<i32>, n_classes: usize) -> Vec<i32> {
        match self {
            Self::ByRow => numbers,
            Self::ByClass => transposed(&numbers, numbers.len() / n_classes),
        }
    }
}

/// The columns of a matrix with rows of so many numbers, one after another.
fn transposed(numbers: &[i32], n_columns: usize) -> Vec<i32> {
    let column = |index: usize| numbers[index..].iter().step_by(n_columns).copied();
    match numbers {
        [] => Vec::new(),
        _ => (0..n_columns).flat_map(column).collect(),
    }
}

/// The rank of each suffix among all of them, from 1 on, where the shorter of two comes first if the other begins with
/// it: by sorting ever longer prefixes, of those that are not told apart yet (Larsson and Sadakane, Faster suffix
/// sorting, Theoretical Computer Science 387, 2007).
fn ranks_of_suffixes(numbers: &[i32]) -> Vec<u32> {
    let mut suffixes: Vec<u32> = (0..numbers.len() as u32).collect();
    suffixes.sort_unstable_by_key(|&suffix| numbers[suffix as usize]);
    let mut ranks = vec![0; numbers.len()];
    // Where those begin and end that have the same rank.
    let mut alike = Vec::new();
    split(&suffixes, 0, &mut alike, &mut ranks, |suffix| {
        i64::from(numbers[suffix])
    });
    let mut n_known = 1;
    while !alike.is_empty() {
        let mut still_alike = Vec::new();
        for (first, end) in alike {
            // The rest of a suffix has been ranked by as many numbers; nothing comes before all of them.
            let rank_of_rest =
                |suffix: u32| ranks.get(suffix as usize + n_known).copied().unwrap_or(0);
            let mut keyed: Vec<(u32, u32)> = suffixes[first..end]
                .iter()
                .map(|&suffix| (rank_of_rest(suffix), suffix))
                .collect();
            keyed.sort_unstable();
            for (place, &(_, suffix)) in suffixes[first..end].iter_mut().zip(&keyed) {
                *place = suffix;
            }
            let mut keys = keyed.iter().map(|&(key, _)| i64::from(key));
            split(
                &suffixes[first..end],
                first,
                &mut still_alike,
                &mut ranks,
                |_| keys.next().expect("a key for each suffix"),
            );
        }
        alike = still_alike;
        n_known *= 2;
    }
    ranks
}

/// Ranks suffixes that are sorted by their keys and stand from place `first` on, and notes which of them have the same.
fn split(
    suffixes: &[u32],
    first: usize,
    alike: &mut Vec<(usize, usize)>,
    ranks: &mut [u32],
    mut key_of: impl FnMut(usize) -> i64,
) {
    let mut start = 0;
    let mut key_of_start = None;
    let mut end_run = |start: usize, end: usize| {
        if end > start + 1 {
            alike.push((first + start, first + end));
        }
    };
    for (place, &suffix) in suffixes.iter().enumerate() {
        let key = Some(key_of(suffix as usize));
        if key != key_of_start {
            end_run(start, place);
            (start, key_of_start) = (place, key);
        }
        ranks[suffix as usize] = (first + start) as u32 + 1;
    }
    end_run(start, suffixes.len());
}

/// What comes before each suffix, in the order of these, the empty one being the first; nothing comes before all
/// numbers, whose place is returned.
fn sort(numbers: &[i32]) -> (Vec<i32>, usize) {
    let ranks = ranks_of_suffixes(numbers);
    let mut sorted = vec![0; numbers.len() + 1];
    let Some(&place_of_all) = ranks.first() else {
        return (Vec::new(), 0);
    };
    sorted[0] = numbers[numbers.len() - 1];
    for (&rank, &number) in ranks[1..].iter().zip(numbers) {
        sorted[rank as usize] = number;
    }
    sorted.remove(place_of_all as usize);
    (sorted, place_of_all as usize)
}

/// The numbers that [`sort`] has sorted.
///
/// # Errors
/// [`Corrupt`] if it does not sort any into such an order.
fn unsort(sorted: &[i32], place_of_all: usize) -> Result<Vec<i32>, Corrupt> {
    const CORRUPT: Corrupt = Corrupt("sorted numbers are those of no block");
    if place_of_all > sorted.len() || (place_of_all == 0) != sorted.is_empty() {
        return Err(CORRUPT);
    }
    // The suffixes that are not empty, by their first number, are in the order of their rests.
    let mut rests: Vec<u32> = (0..sorted.len() as u32).collect();
    rests.sort_by_key(|&rest| sorted[rest as usize]);
    let mut place = place_of_all;
    let number = |_| {
        let rest = rests[place.checked_sub(1).ok_or(CORRUPT)?] as usize;
        place = rest + usize::from(rest >= place_of_all);
        Ok(sorted[rest])
    };
    (0..sorted.len()).map(number).collect()
}

/// What encoder and decoder know alike of the sorted numbers so far.
struct Seen {
    /// Those seen last, which are different ones, the last of them first.
    last: [i32; 3],
    /// How often the last one has been repeated.
    n_repeats: u32,
    /// The code of the last one that was no repeat.
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

    /// The context of the next number: how long the run of repeats is, and how far from the others the last other one
    /// was. Format-stable.
    #[inline(always)]
    fn context(&self) -> usize {
        const N_SIZES: u32 = 12;
        let n_bits = |number: u32| u32::BITS - number.leading_zeros();
        let size = match self.other {
            0..=3 => self.other,
            _ => 1 + n_bits(self.other),
        };
        let run = n_bits(self.n_repeats).min(7);
        (N_SIZES * run + size.min(N_SIZES - 1)) as usize
    }

    /// How far the second and the third of the last numbers are from the first, the nearer one first.
    #[inline(always)]
    fn distances(&self) -> [u32; 2] {
        let [last, second, third] = self.last;
        let [second, third] = [second, third].map(|number| zigzag(number.wrapping_sub(last)));
        [second.min(third), second.max(third)]
    }

    /// The code of a number: 0 for the last one, 1 and 2 for those before it; from 3 on, all others as they are farther
    /// from it.
    #[inline(always)]
    fn code(&self, number: i32) -> u32 {
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

    /// The number of a code.
    #[inline(always)]
    fn number(&self, code: u32) -> i32 {
        match self.last.get(code as usize) {
            Some(&number) => number,
            None => {
                let mut distance = code - 2;
                for of_other in self.distances() {
                    distance += u32::from(of_other <= distance);
                }
                self.last[0].wrapping_add(from_zigzag(distance))
            }
        }
    }

    /// Takes the next number, which has this code.
    #[inline(always)]
    fn take(&mut self, number: i32, code: u32) {
        if code == 0 {
            self.n_repeats += 1;
            return;
        }
        self.n_repeats = 0;
        self.other = code;
        let n_moved = (code as usize).min(self.last.len() - 1);
        self.last.copy_within(..n_moved, 1);
        self.last[0] = number;
    }
}

impl BlockSorted {
    /// Codes the rows of `matrix`; those marked in `is_exact` bit for bit, as are rows that have no numbers (which get
    /// marked).
    #[inline(never)]
    pub fn encode(
        self,
        matrix: Rows<'_>,
        is_exact: &mut [bool],
        keep_top: usize,
        coder: Coder,
    ) -> Coded {
        let n_classes = matrix.n_classes();
        let mut sequences = Sequence::several(1, matrix.values().len(), LEVELS);
        let sequence = &mut sequences[0];
        let numbers = self.numbers(matrix, is_exact);
        for (row, &is_exact) in matrix.rows().zip(is_exact.iter()) {
            sequence.push(Symbol::new(HEAD, u32::from(is_exact)));
            if is_exact {
                Symbol::of_bits(RAW, row).for_each(|symbol| sequence.push(symbol));
            }
        }
        let (sorted, place_of_all) = sort(&self.scan.of_rows(numbers.clone(), n_classes));
        let mut seen = Seen::new();
        for number in sorted {
            let code = seen.code(number);
            sequence.push_number(seen.context(), code);
            seen.take(number, code);
        }
        if !self.values.is_exact() {
            let mut order = Order::new(keep_top, n_classes, false, ORDER);
            let live = matrix.rows().zip(is_exact).filter(|(_, exact)| !**exact);
            for ((row, _), numbers) in live.zip(numbers.chunks_exact(n_classes)) {
                order.encode(row, numbers, None, |symbol| sequence.push(symbol));
            }
        }
        let mut choices = BitWriter::new();
        write_gamma(&mut choices, place_of_all as u32 + 1);
        let groups = Groups::of(&mut sequences, 1, groups_alphabet(keep_top), coder);
        Coded {
            alphabets: alphabets(keep_top, groups.alphabets()),
            choices,
            rows: CodedRows::InContexts(groups, sequences),
        }
    }

    /// The numbers of all rows that are not marked; those that have none get marked.
    fn numbers(self, matrix: Rows<'_>, is_exact: &mut [bool]) -> Vec<i32> {
        let n_classes = matrix.n_classes();
        let mut numbers = Vec::with_capacity(matrix.values().len());
        match self.values {
            Values::Numbers(of_values) => {
                let mut of_row = vec![0; n_classes];
                for (row, is_exact) in matrix.rows().zip(is_exact) {
                    *is_exact |= !of_values.quantize_row(row, &mut of_row);
                    if !*is_exact {
                        numbers.extend_from_slice(&of_row);
                    }
                }
            }
            Values::Roots { roots, max_kl } => {
                let mut finder = FinenessFinder::new(Levels::Root { roots, max_kl });
                let needs = finder.needs(matrix, is_exact, |_| 0);
                let mut of_row = vec![0; n_classes];
                let rows = matrix.rows().zip(needs).zip(is_exact);
                for ((row, need), _) in rows.filter(|(_, exact)| !**exact) {
                    finder.quantize(row, argmax(row), need, &mut of_row);
                    numbers.extend(of_row.iter().map(|&level| level as i32));
                }
            }
        }
        numbers
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
        let contexts = ContextDecoder::read_from(reader, 1, groups_alphabet(keep_top), LEVELS)?;
        let alphabets = alphabets(keep_top, contexts.alphabets());
        let (tables, [reader]) = Tables::read_from(reader, &alphabets, watch)?;
        let mut stream = contexts.stream(reader);
        let mut live = Vec::new();
        for row in values.chunks_exact_mut(n_classes) {
            match tables.number(HEAD, &mut stream.reader)? {
                1 => tables.bits(RAW, &mut stream.reader, row)?,
                _ => live.push(row),
            }
        }
        let mut seen = Seen::new();
        let mut sorted = vec![0; live.len() * n_classes];
        for number in &mut sorted {
            let code = contexts.number(seen.context(), &tables, &mut stream)?;
            *number = seen.number(code);
            seen.take(*number, code);
        }
        let numbers = self.scan.to_rows(unsort(&sorted, place_of_all)?, n_classes);
        let mut levels = vec![0; n_classes];
        let mut order = Order::new(keep_top, n_classes, false, ORDER);
        for (row, numbers) in live.into_iter().zip(numbers.chunks_exact(n_classes)) {
            match self.values {
                Values::Numbers(of_values) => {
                    of_values.dequantize_row(numbers.iter().copied(), row);
                }
                Values::Roots { .. } => {
                    // Those below 0 become too large ones.
                    let of_row = levels.iter_mut().zip(numbers);
                    of_row.for_each(|(level, &number)| *level = number as u32);
                    Root::dequantize_row(&levels, row)?;
                }
            }
            if !self.values.is_exact() {
                order.decode(row, None, &tables, &mut stream.reader)?;
            }
        }
        tables.finish(stream.reader)
    }

    /// Whether rows may take less than so many bits, by a quick look: how far each number is from what it was when the
    /// same two, or four, last followed, and how many of those that are not 0 are just that.
    pub fn may_take_less(self, matrix: Rows<'_>, n_bits: f64) -> bool {
        /// Of noise there are fewer, whatever its distribution.
        const LEAST_SHARE_FORESEEN: f64 = 0.2;
        const N_HASH_BITS: u32 = 16;
        let numbers = self.numbers(matrix, &mut vec![false; matrix.n_rows()]);
        let numbers = self.scan.of_rows(numbers, matrix.n_classes());
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
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_sorted_by_what_follows_them() {
        // The example of Burrows and Wheeler's kind, "banana": the suffixes are "", a, ana, anana, banana, na, nana.
        let numbers = b"banana".map(i32::from);
        let (sorted, place_of_all) = sort(&numbers);
        assert_eq!(sorted, b"annbaa".map(i32::from)[..]);
        assert_eq!(place_of_all, 4);
        assert_eq!(unsort(&sorted, 4).unwrap(), numbers);
        for wrong in [0, 1, 2, 3, 5, 6, 7, usize::MAX] {
            let others = unsort(&sorted, wrong);
            assert!(others.is_err() || others.unwrap() != numbers, "{wrong}");
        }
        assert_eq!(sort(&[]), (vec![], 0));
        assert!(unsort(&[], 0).unwrap().is_empty());
        assert!(unsort(&[], 1).is_err());
    }

    proptest! {
        #[test]
        fn suffixes_are_ranked_as_by_comparing_them(
            numbers in prop_oneof![
                prop::collection::vec(0..3, 0..60),
                prop::collection::vec(prop::num::i32::ANY, 0..60),
                (0..200usize).prop_map(|n| vec![7; n]),
            ]
        ) {
            let mut suffixes: Vec<usize> = (0..numbers.len()).collect();
            suffixes.sort_by_key(|&suffix| &numbers[suffix..]);
            let ranks = ranks_of_suffixes(&numbers);
            for (rank, suffix) in (1..).zip(suffixes) {
                prop_assert_eq!(ranks[suffix], rank);
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
        fn codes_are_those_of_all_numbers(
            numbers in prop::collection::vec(
                prop_oneof![-4..4, prop::num::i32::ANY, Just(i32::MIN), Just(i32::MAX)],
                0..50
            )
        ) {
            let mut seen = Seen::new();
            for number in numbers {
                let code = seen.code(number);
                prop_assert_eq!(seen.number(code), number);
                prop_assert!(seen.context() < super::super::contexts::N_POSITIONS);
                // Those next to it are other numbers.
                for other in [code.wrapping_sub(1), code.wrapping_add(1)] {
                    prop_assert_eq!(seen.code(seen.number(other)), other);
                }
                seen.take(number, code);
                let [a, b, c] = seen.last;
                prop_assert!(a != b && b != c && a != c);
            }
        }
    }

    #[test]
    fn columns_are_put_back() {
        let numbers: Vec<i32> = (0..12).collect();
        let by_class = Scan::ByClass.of_rows(numbers.clone(), 4);
        assert_eq!(by_class[..5], [0, 4, 8, 1, 5]);
        assert_eq!(Scan::ByClass.to_rows(by_class, 4), numbers);
        assert!(Scan::ByClass.of_rows(Vec::new(), 4).is_empty());
    }
}
