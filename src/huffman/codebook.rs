//! Canonical, length-limited Huffman codes (FORMAT.md, section 5).
//!
//! Frequencies become code lengths that are optimal within [`MAX_CODE_LENGTH`] (package-merge:
//! Larmore and Hirschberg, "A fast algorithm for optimal length-limited Huffman codes", JACM 37(3),
//! 1990). Lengths alone fix the codes, in the order (length, symbol) of RFC 1951, section 3.2.2; since
//! the bitstream starts with the lowest bit, a code is stored with its bits reversed.
//!
//! A codebook of one symbol spends no bits on it; a codebook of no symbols decodes nothing. Alphabets, and how lengths
//! are written, are here for codebooks of [rANS](super::ans) as well.

use std::hint::select_unpredictable;

use bitvec::prelude::*;

use super::Corrupt;
use super::bitstream::{BitReader, BitWriter, Field};
use super::logarithm::log2;
use super::meter::Part;
use super::tokens::{LEVELS, RUNS, Tokens, from_zigzag, zigzag};

/// The longest code, in bits. Format-stable: changing this changes files.
pub const MAX_CODE_LENGTH: u8 = 15;

/// The expected length of the first symbol of a codebook. Format-stable.
const FIRST_LENGTH: i32 = 4;

/// The error of a symbol of an alphabet in which nothing occurs.
pub(super) const EMPTY: Corrupt = Corrupt("a symbol is coded with an empty codebook");

/// Code lengths, by symbol, that minimise `sum(frequency * length)` with no length above `limit`.
///
/// Symbols of frequency 0 get length 0 (no code). A single used symbol gets length 0 as well: it
/// costs nothing. Ties are broken by symbol, so equal input gives equal output.
///
/// # Panics
/// If the used symbols do not fit: more than `2^limit`.
pub fn code_lengths(frequencies: &[u64], limit: u8) -> Vec<u8> {
    let mut used: Vec<(u64, usize)> = frequencies
        .iter()
        .enumerate()
        .filter(|&(_, &frequency)| frequency > 0)
        .map(|(symbol, &frequency)| (frequency, symbol))
        .collect();
    let mut lengths = vec![0; frequencies.len()];
    if used.len() < 2 {
        return lengths;
    }
    assert!(
        used.len() <= 1 << limit,
        "{} symbols have no code of at most {limit} bits",
        used.len()
    );
    used.sort_unstable();
    let leaves: Vec<u64> = used.iter().map(|&(frequency, _)| frequency).collect();
    let mut of_leaves = huffman_lengths(&leaves);
    // The rarest symbol has the longest code.
    if of_leaves[0] > limit {
        of_leaves = package_merge(&leaves, limit);
    }
    for ((_, symbol), length) in used.into_iter().zip(of_leaves) {
        lengths[symbol] = length;
    }
    lengths
}

/// The bits of symbols of these frequencies in an optimal code without a limit on lengths: the sum of all inner nodes
/// of its tree.
pub fn huffman_bits(frequencies: &[u64]) -> u64 {
    let mut leaves: Vec<u64> = frequencies.iter().copied().filter(|&n| n > 0).collect();
    leaves.sort_unstable();
    join_all(&leaves, |_, _| ()).iter().sum()
}

/// A node of the tree of a code, by its place among leaves or inner nodes.
enum Node {
    Leaf(usize),
    Inner(usize),
}

/// Joins leaves of ascending weights to the tree of an optimal code; returns the weights of the inner nodes, which are
/// made in ascending order (van Leeuwen, "On the construction of Huffman trees", 1976), the root last. `join` gets each
/// node and the inner node above it. Of equal weights, leaves come first, which keeps the longest code short.
fn join_all(leaves: &[u64], mut join: impl FnMut(Node, usize)) -> Vec<u64> {
    let mut inner: Vec<u64> = Vec::with_capacity(leaves.len());
    let (mut next_leaf, mut next_inner) = (0, 0);
    for above in 0..leaves.len().saturating_sub(1) {
        let mut take_least = || match (leaves.get(next_leaf), inner.get(next_inner)) {
            (Some(&leaf), node) if node.is_none_or(|&node| leaf <= node) => {
                join(Node::Leaf(next_leaf), above);
                next_leaf += 1;
                leaf
            }
            _ => {
                join(Node::Inner(next_inner), above);
                next_inner += 1;
                inner[next_inner - 1]
            }
        };
        let weight = take_least() + take_least();
        inner.push(weight);
    }
    inner
}

/// The lengths of an optimal code for two or more symbols of ascending frequencies, without a limit.
fn huffman_lengths(leaves: &[u64]) -> Vec<u8> {
    let n_inner = leaves.len() - 1;
    let (mut above_leaves, mut above_inner) = (vec![0; leaves.len()], vec![0; n_inner]);
    join_all(leaves, |node, above| match node {
        Node::Leaf(leaf) => above_leaves[leaf] = above,
        Node::Inner(inner) => above_inner[inner] = above,
    });
    // From the root down.
    let mut depths = vec![0u8; n_inner];
    for inner in (0..n_inner - 1).rev() {
        depths[inner] = depths[above_inner[inner]] + 1;
    }
    let of_leaf = |above: usize| depths[above] + 1;
    above_leaves.into_iter().map(of_leaf).collect()
}

/// The lengths of an optimal code for two or more symbols of ascending frequencies, none above `limit`: package-merge
/// (Larmore and Hirschberg, "A fast algorithm for optimal length-limited Huffman codes", 1990). Where no length of
/// [`huffman_lengths`] is above the limit, these are the same.
fn package_merge(leaves: &[u64], limit: u8) -> Vec<u8> {
    // Row `r` holds the leaves merged with the pairs ("packages") of row `r - 1`, by weight; only the
    // order of leaves and packages has to be kept, as one bit each.
    let mut is_package: Vec<BitVec> = Vec::with_capacity(usize::from(limit));
    let mut weights: Vec<u64> = Vec::new();
    for _ in 0..limit {
        let mut packages = weights
            .chunks_exact(2)
            .map(|pair| pair[0] + pair[1])
            .peekable();
        let mut row = Vec::with_capacity(leaves.len() + weights.len() / 2);
        let mut kinds = BitVec::with_capacity(row.capacity());
        for &leaf in leaves {
            while let Some(package) = packages.next_if(|&package| package < leaf) {
                row.push(package);
                kinds.push(true);
            }
            row.push(leaf);
            kinds.push(false);
        }
        for package in packages {
            row.push(package);
            kinds.push(true);
        }
        weights = row;
        is_package.push(kinds);
    }

    // The first 2n - 2 items of the last row are taken; every package among them stands for two items of the previous
    // row. Each time a leaf is taken, its code grows by a bit.
    let mut lengths = vec![0; leaves.len()];
    let mut n_taken = 2 * leaves.len() - 2;
    for kinds in is_package.iter().rev() {
        let n_packages = kinds[..n_taken].count_ones();
        for length in &mut lengths[..n_taken - n_packages] {
            *length += 1;
        }
        n_taken = 2 * n_packages;
    }
    lengths
}

/// The canonical codes of `lengths`, by symbol, bits reversed so that they can be written as they are.
fn canonical_codes(lengths: &[u8]) -> Vec<u16> {
    let mut n_of_length = [0u32; MAX_CODE_LENGTH as usize + 1];
    for &length in lengths {
        n_of_length[usize::from(length)] += 1;
    }
    n_of_length[0] = 0;
    let mut next_code = [0u32; MAX_CODE_LENGTH as usize + 2];
    for length in 1..=usize::from(MAX_CODE_LENGTH) {
        next_code[length + 1] = (next_code[length] + n_of_length[length]) << 1;
    }
    lengths
        .iter()
        .map(|&length| {
            if length == 0 {
                return 0;
            }
            let code = next_code[usize::from(length)];
            next_code[usize::from(length)] += 1;
            (code as u16).reverse_bits() >> (16 - length)
        })
        .collect()
}

/// An alphabet, as encoder and decoder both know it.
#[derive(Debug, Clone, Copy)]
pub struct Alphabet {
    /// Number of symbols.
    pub size: usize,
    /// How many symbols before is the one that a symbol resembles: 1 or more.
    pub stride: usize,
    /// What its symbols stand for.
    pub meanings: Meanings,
    /// The part of rows that the symbols are about.
    pub part: Part,
}

/// The meanings of the symbols of an alphabet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meanings {
    /// Symbols stand for themselves.
    Symbols,
    /// Tokens of a scheme.
    Numbers(Tokens),
    /// Tokens of [`RUNS`], once for runs that any number ends and once for each of so many followers that end them,
    /// then tokens of a scheme.
    RunsAndNumbers(usize, Tokens),
}

/// The meaning of one symbol.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Meaning {
    /// The number if all extra bits are 0.
    pub base: u32,
    /// The number of extra bits.
    pub n_extra_bits: u8,
    /// 0 for a number; for the length of a run, 1 plus the follower that ends it, counted from 1; 1 if that is not
    /// stated.
    pub kind: u8,
}

impl Meaning {
    fn is_run(self) -> bool {
        self.kind > 0
    }

    /// The number, whose extra bits are the lowest of `bits`; if it is the length of a run, also the follower that ends
    /// it, counted from 1; 0 if that is not stated.
    #[inline(always)]
    pub fn with_extra(self, bits: u64) -> (u32, Option<usize>) {
        let extra = bits & ((1 << self.n_extra_bits) - 1);
        (
            self.base + extra as u32,
            self.kind.checked_sub(1).map(usize::from),
        )
    }
}

impl Meanings {
    /// The meaning of a symbol.
    pub(super) fn of(self, symbol: usize) -> Meaning {
        let symbol = symbol as u32;
        let n_runs = RUNS.count() as u32;
        let ((base, n_extra_bits), kind) = match self {
            Self::Symbols => ((symbol, 0), 0),
            Self::Numbers(tokens) => (tokens.meaning(symbol), 0),
            Self::RunsAndNumbers(n_followers, tokens) => {
                match symbol.checked_sub(n_runs * (n_followers as u32 + 1)) {
                    Some(number) => (tokens.meaning(number), 0),
                    None => (RUNS.meaning(symbol % n_runs), (symbol / n_runs) as u8 + 1),
                }
            }
        };
        Meaning {
            base,
            n_extra_bits: n_extra_bits as u8,
            kind,
        }
    }
}

impl Alphabet {
    /// An alphabet of symbols that stand for themselves and resemble their neighbours.
    pub fn of_symbols(size: usize) -> Self {
        Self {
            size,
            stride: 1,
            meanings: Meanings::Symbols,
            part: Part::Levels,
        }
    }

    /// The alphabet of the tokens of [`LEVELS`].
    pub fn of_levels() -> Self {
        Self::of_numbers(LEVELS)
    }

    /// The alphabet of the tokens of a scheme.
    pub fn of_numbers(tokens: Tokens) -> Self {
        Self {
            size: tokens.count(),
            stride: 1,
            meanings: Meanings::Numbers(tokens),
            part: Part::Levels,
        }
    }

    /// The same alphabet for symbols about another part of rows.
    pub fn telling(self, part: Part) -> Self {
        Self { part, ..self }
    }

    /// The alphabet of the tokens of [`RUNS`] for `n_followers` and for none, then those of a scheme.
    pub fn of_runs_and_numbers(n_followers: usize, tokens: Tokens) -> Self {
        Self {
            size: RUNS.count() * (n_followers + 1) + tokens.count(),
            stride: 1,
            meanings: Meanings::RunsAndNumbers(n_followers, tokens),
            part: Part::Levels,
        }
    }
}

/// A code as it is written; no bits for a symbol that does not occur, or is alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Code {
    /// The bits, the first one lowest.
    pub bits: u16,
    /// The number of bits.
    pub n_bits: u8,
}

impl Code {
    /// The code and the extra bits of its symbol.
    #[inline(always)]
    pub fn with_extra(self, extra: u32, n_extra_bits: u32) -> Field {
        Field {
            value: u64::from(self.bits) | u64::from(extra) << self.n_bits,
            n_bits: u32::from(self.n_bits) + n_extra_bits,
        }
    }
}

/// Symbol to code: the encoder's side.
#[derive(Debug, Clone)]
pub struct Codebook {
    lengths: Vec<u8>,
    codes: Vec<u16>,
    /// The symbols that occur, ascending.
    used: Vec<usize>,
    stride: usize,
}

impl Codebook {
    /// The codebook for an alphabet in which `symbol` occurs `frequencies[symbol]` times and resembles the symbol
    /// `stride` before: the optimal one, or the one for smoothed frequencies if its lengths take so many bits less that
    /// this outweighs longer codes.
    pub fn from_frequencies(frequencies: &[u64], stride: usize) -> Self {
        let optimal = Self::with_lengths(
            frequencies,
            code_lengths(frequencies, MAX_CODE_LENGTH),
            stride,
        );
        let smooth = smooth(frequencies, stride);
        let smooth =
            Self::with_lengths(frequencies, code_lengths(&smooth, MAX_CODE_LENGTH), stride);
        match smooth.n_bits(frequencies) < optimal.n_bits(frequencies) {
            true => smooth,
            false => optimal,
        }
    }

    fn with_lengths(frequencies: &[u64], lengths: Vec<u8>, stride: usize) -> Self {
        Self {
            codes: canonical_codes(&lengths),
            used: (0..frequencies.len())
                .filter(|&symbol| frequencies[symbol] > 0)
                .collect(),
            lengths,
            stride,
        }
    }

    /// The codes of all symbols in order.
    pub fn codes(&self) -> impl Iterator<Item = Code> {
        let codes = self.codes.iter().zip(&self.lengths);
        codes.map(|(&bits, &n_bits)| Code { bits, n_bits })
    }

    /// Writes the code of `symbol`, which must have occurred in the frequencies.
    #[cfg(test)]
    fn encode(&self, symbol: usize, writer: &mut BitWriter) {
        debug_assert!(self.used.binary_search(&symbol).is_ok());
        writer.write(
            u32::from(self.codes[symbol]),
            u32::from(self.lengths[symbol]),
        );
    }

    /// The bits of symbols of these frequencies, and of the codebook itself.
    pub fn n_bits(&self, frequencies: &[u64]) -> u64 {
        let mut writer = BitWriter::new();
        self.write_to(&mut writer);
        let code_bits = frequencies.iter().zip(&self.lengths);
        writer.n_bits()
            + code_bits
                .map(|(n, &length)| n * u64::from(length))
                .sum::<u64>()
    }

    /// Writes the lengths, each as its difference from the expected one. The last one is not written: it completes the
    /// code.
    pub fn write_to(&self, writer: &mut BitWriter) {
        write_used(&self.used, writer, |symbol, writer| {
            if Some(&symbol) != self.used.last() {
                let expected = expected_length(&self.lengths, symbol, self.stride, FIRST_LENGTH);
                write_length(self.lengths[symbol], expected, writer);
            }
        });
    }
}

/// Writes which symbols are used, in ascending order: the number of their runs, then for each run how many unused
/// symbols come before it, how many symbols it has, and what `write` writes for each.
pub(super) fn write_used(
    used: &[usize],
    writer: &mut BitWriter,
    mut write: impl FnMut(usize, &mut BitWriter),
) {
    let runs = used.chunk_by(|a, b| a + 1 == *b);
    write_gamma(writer, runs.clone().count() as u32 + 1);
    let mut end = 0;
    for run in runs {
        let first = run[0];
        // Between two runs there is at least one symbol.
        write_gamma(writer, (first - end) as u32 + u32::from(end == 0));
        write_gamma(writer, run.len() as u32);
        end = first + run.len();
        for &symbol in run {
            write(symbol, writer);
        }
    }
}

/// Reads what [`write_used`] wrote of an alphabet of `size` symbols; `read` also gets whether a symbol is the last one.
/// Returns the number of symbols up to that one.
///
/// # Errors
/// [`Corrupt`] if a symbol lies outside the alphabet, or as `read`.
pub(super) fn read_used(
    reader: &mut BitReader,
    size: usize,
    mut read: impl FnMut(usize, bool, &mut BitReader) -> Result<(), Corrupt>,
) -> Result<usize, Corrupt> {
    let n_runs = read_gamma(reader)? - 1;
    let mut end = 0;
    for run in 1..=n_runs {
        let first = end + read_gamma(reader)? as usize - usize::from(end == 0);
        let n_symbols = read_gamma(reader)? as usize;
        end = first + n_symbols;
        if end > size {
            return Err(Corrupt("a codebook holds an unknown symbol"));
        }
        for symbol in first..end {
            read(symbol, run == n_runs && symbol + 1 == end, reader)?;
        }
    }
    Ok(end)
}

/// Writes a length as its difference from the expected one.
pub(super) fn write_length(length: u8, expected: i32, writer: &mut BitWriter) {
    write_gamma(writer, zigzag(i32::from(length) - expected) + 1);
}

/// Reads a length that [`write_length`] wrote.
///
/// # Errors
/// [`Corrupt`] if it is not from 1 to `longest`.
pub(super) fn read_length(
    expected: i32,
    longest: u8,
    reader: &mut BitReader,
) -> Result<u8, Corrupt> {
    let difference = from_zigzag(read_gamma(reader)? - 1);
    u8::try_from(expected + difference)
        .ok()
        .filter(|length| (1..=longest).contains(length))
        .ok_or(Corrupt("a codebook holds a code of an impossible length"))
}

/// Smoothed frequencies, in sixteenths: of each used symbol, the mean of its own, twice, and those of the used symbols
/// `stride` before and after it.
fn smooth(frequencies: &[u64], stride: usize) -> Vec<u64> {
    let of = |symbol: Option<usize>| {
        symbol
            .and_then(|s| frequencies.get(s))
            .copied()
            .unwrap_or(0)
    };
    let means = frequencies.iter().enumerate().map(|(symbol, &n)| {
        let (before, after) = (of(symbol.checked_sub(stride)), of(Some(symbol + stride)));
        let n_summed = 2 + u64::from(before > 0) + u64::from(after > 0);
        match n {
            0 => 0,
            _ => 16 * (before + 2 * n + after) / n_summed,
        }
    });
    means.collect()
}

/// The length from which that of `symbol` is written as a difference: that of the symbol `stride` before, or else of
/// the last used symbol before; `first` if there is none.
pub(super) fn expected_length(lengths: &[u8], symbol: usize, stride: usize, first: i32) -> i32 {
    let alike = symbol.checked_sub(stride).map_or(0, |alike| lengths[alike]);
    let expected = match alike {
        0 => lengths[..symbol].iter().rev().find(|&&length| length > 0),
        _ => Some(&alike),
    };
    expected.map_or(first, |&length| i32::from(length))
}

/// Bits to symbol, by one look-up, or two for long codes: the decoder's side.
#[derive(Debug)]
pub struct DecodeTable {
    /// One entry for every pattern of `index_bits` bits; then, for each of these that begins longer codes, one for
    /// every pattern of `long_bits` bits that may follow.
    entries: Vec<Entry>,
    index_bits: u32,
    long_bits: u32,
    has_runs: bool,
}

/// The meaning of a pattern of bits.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    /// As in [`Meaning`], or the index of the first entry of longer codes.
    base: u32,
    code_length: u8,
    n_extra_bits: u8,
    /// As in [`Meaning`], or [`LONGER`](Self::LONGER).
    kind: u8,
}

impl Entry {
    /// Marks patterns that begin longer codes.
    const LONGER: u8 = u8::MAX;

    fn new(symbol: usize, code_length: u8, meanings: Meanings) -> Self {
        let meaning = meanings.of(symbol);
        Self {
            base: meaning.base,
            code_length,
            n_extra_bits: meaning.n_extra_bits,
            kind: meaning.kind,
        }
    }
}

impl DecodeTable {
    /// The longest patterns that are looked up at once: the tables of all alphabets of a block should fit in the
    /// fastest cache.
    const MAX_INDEX_BITS: u32 = 9;

    /// Builds the table from code lengths by symbol.
    ///
    /// # Errors
    /// [`Corrupt`] if the code is not complete: the Kraft sum must be exactly 1.
    fn from_lengths(lengths: &[u8], meanings: Meanings) -> Result<Self, Corrupt> {
        let longest = u32::from(lengths.iter().copied().max().unwrap_or(0));
        let kraft_sum: u64 = lengths
            .iter()
            .filter(|&&length| length > 0)
            .map(|&length| 1u64 << (longest - u32::from(length)))
            .sum();
        if kraft_sum != 1 << longest {
            return Err(Corrupt("a codebook is not a complete code"));
        }
        let index_bits = longest.min(Self::MAX_INDEX_BITS);
        let long_bits = longest - index_bits;
        let mut entries = vec![Entry::default(); 1 << index_bits];
        let mut has_runs = false;
        let codes = canonical_codes(lengths);
        for (symbol, (&code, &length)) in codes.iter().zip(lengths).enumerate() {
            let entry = Entry::new(symbol, length, meanings);
            has_runs |= length > 0 && meanings.of(symbol).is_run();
            let code = usize::from(code);
            match u32::from(length).checked_sub(index_bits) {
                _ if length == 0 => {}
                None | Some(0) => {
                    for slot in entries[code..1 << index_bits]
                        .iter_mut()
                        .step_by(1 << length)
                    {
                        *slot = entry;
                    }
                }
                Some(rest) => {
                    let start = code & ((1 << index_bits) - 1);
                    if entries[start].kind != Entry::LONGER {
                        entries[start].kind = Entry::LONGER;
                        entries[start].base = entries.len() as u32;
                        entries.resize(entries.len() + (1 << long_bits), Entry::default());
                    }
                    let first = entries[start].base as usize;
                    for slot in entries[first + (code >> index_bits)..first + (1 << long_bits)]
                        .iter_mut()
                        .step_by(1 << rest)
                    {
                        *slot = entry;
                    }
                }
            }
        }
        Ok(Self {
            entries,
            index_bits,
            long_bits,
            has_runs,
        })
    }

    /// The table of an alphabet in which nothing but `symbol` occurs.
    fn of_one(symbol: usize, meanings: Meanings) -> Self {
        Self {
            entries: vec![Entry::new(symbol, 0, meanings)],
            index_bits: 0,
            long_bits: 0,
            has_runs: meanings.of(symbol).is_run(),
        }
    }

    /// The table of an alphabet in which nothing occurs.
    fn empty() -> Self {
        Self {
            entries: Vec::new(),
            index_bits: 0,
            long_bits: 0,
            has_runs: false,
        }
    }

    /// Reads what [`Codebook::write_to`] wrote, for this alphabet.
    ///
    /// # Errors
    /// [`Corrupt`] if a symbol lies outside the alphabet or the code is not complete.
    pub fn read_from(reader: &mut BitReader, alphabet: Alphabet) -> Result<Self, Corrupt> {
        /// The Kraft sum of a complete code, in units of the longest code.
        const WHOLE: u32 = 1 << MAX_CODE_LENGTH;
        let mut lengths = vec![0u8; alphabet.size];
        let mut sum = 0;
        let end = read_used(reader, alphabet.size, |symbol, is_last, reader| {
            if !is_last {
                let expected = expected_length(&lengths, symbol, alphabet.stride, FIRST_LENGTH);
                lengths[symbol] = read_length(expected, MAX_CODE_LENGTH, reader)?;
                sum += WHOLE >> lengths[symbol];
            }
            Ok(())
        })?;
        match end {
            0 => Ok(Self::empty()),
            _ if sum == 0 => Ok(Self::of_one(end - 1, alphabet.meanings)),
            _ => {
                let rest = WHOLE.checked_sub(sum).filter(|rest| rest.is_power_of_two());
                let length = rest.ok_or(Corrupt("a codebook is not a complete code"))?;
                lengths[end - 1] = MAX_CODE_LENGTH - length.ilog2() as u8;
                Self::from_lengths(&lengths, alphabet.meanings)
            }
        }
    }

    /// Whether a symbol that occurs stands for a run.
    #[inline(always)]
    pub fn has_runs(&self) -> bool {
        self.has_runs
    }

    /// The next code, with a one above its bits, and its length; no bits if there is none.
    pub fn upcoming(&self, reader: &mut BitReader) -> (u32, u32) {
        let bits = reader.peek();
        let entry = self.entry(bits).unwrap_or_default();
        // Bits past the end read as zero: a code may then be longer than what is left, which the decoder refuses.
        let n_bits = u32::from(entry.code_length).min(reader.n_bits_left() as u32);
        ((bits as u32 & ((1 << n_bits) - 1)) | 1 << n_bits, n_bits)
    }

    /// The entry of the code that `bits` begin with.
    #[inline(always)]
    fn entry(&self, bits: u64) -> Option<Entry> {
        let index = bits & ((1 << self.index_bits) - 1);
        let entry = *self.entries.get(index as usize)?;
        if entry.kind != Entry::LONGER {
            return Some(entry);
        }
        let index = bits >> self.index_bits & ((1 << self.long_bits) - 1);
        Some(self.entries[entry.base as usize + index as usize])
    }

    /// Decodes the number that one symbol and its extra bits stand for. If it is the length of a run, also returns the
    /// follower that ends it, counted from 1; 0 if that is not stated.
    ///
    /// # Errors
    /// [`Corrupt`] if the bitstream ends, or the codebook is empty.
    #[inline(always)]
    pub fn decode(&self, reader: &mut BitReader) -> Result<(u32, Option<usize>), Corrupt> {
        let bits = reader.peek();
        let (number, kind) = self.decode_bits(bits, true, reader)?;
        Ok((number, kind.checked_sub(1)))
    }

    /// Decodes as [`decode`](Self::decode) does if a symbol `is_coded`; else takes no bits, and returns anything. In
    /// place of the follower, 0 for a number; for the length of a run, 1 more than the follower. Without branches on
    /// what cannot be foreseen.
    ///
    /// # Errors
    /// As [`decode`](Self::decode); an empty codebook is refused in any case.
    #[inline(always)]
    pub fn decode_if(
        &self,
        is_coded: bool,
        reader: &mut BitReader,
    ) -> Result<(u32, usize), Corrupt> {
        let bits = reader.peek_refilled();
        self.decode_bits(bits, is_coded, reader)
    }

    /// Decodes as [`decode_if`](Self::decode_if) does, given the next bits.
    #[inline(always)]
    fn decode_bits(
        &self,
        bits: u64,
        is_coded: bool,
        reader: &mut BitReader,
    ) -> Result<(u32, usize), Corrupt> {
        // Written out: calling [`entry`](Self::entry) takes 2 to 4% more of the time to decode.
        let index = bits & ((1 << self.index_bits) - 1);
        let mut entry = *self.entries.get(index as usize).ok_or(EMPTY)?;
        if entry.kind == Entry::LONGER {
            let index = bits >> self.index_bits & ((1 << self.long_bits) - 1);
            entry = self.entries[entry.base as usize + index as usize];
        }
        let n_extra_bits = u32::from(entry.n_extra_bits);
        let extra = bits >> entry.code_length & ((1 << n_extra_bits) - 1);
        let n_bits = u32::from(entry.code_length) + n_extra_bits;
        reader.consume(select_unpredictable(is_coded, n_bits, 0))?;
        Ok((entry.base + extra as u32, entry.kind.into()))
    }
}

/// The empirical entropy of all symbols together, in bits, by their frequencies.
pub fn entropy_bits(frequencies: &[u64]) -> f64 {
    let total: u64 = frequencies.iter().sum();
    frequencies
        .iter()
        .filter(|&&n| n > 0)
        .map(|&n| n as f64 * log2(total as f64 / n as f64))
        .sum()
}

/// Elias gamma code of `value >= 1`: as many zeros as `value` has bits after its highest, a one, then
/// those bits.
pub(super) fn write_gamma(writer: &mut BitWriter, value: u32) {
    let n_bits = value.ilog2();
    writer.write(0, n_bits);
    writer.write(1, 1);
    writer.write(value & ((1 << n_bits) - 1), n_bits);
}

/// Reads an Elias gamma code of at most 24 bits after the leading one.
pub(super) fn read_gamma(reader: &mut BitReader) -> Result<u32, Corrupt> {
    let n_bits = reader.peek().trailing_zeros();
    if n_bits > 24 {
        return Err(Corrupt("a gamma code stands for a number of 2^25 or more"));
    }
    reader.consume(n_bits + 1)?;
    Ok(1 << n_bits | reader.read(n_bits)?)
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    use proptest::prelude::*;

    use super::*;

    /// Codes as the RFC writes them, highest bit first.
    fn in_rfc_order(lengths: &[u8]) -> Vec<String> {
        canonical_codes(lengths)
            .iter()
            .zip(lengths)
            .map(|(&code, &length)| {
                (0..length)
                    .map(|bit| if code >> bit & 1 == 1 { '1' } else { '0' })
                    .collect()
            })
            .collect()
    }

    #[test]
    fn codes_are_those_of_rfc_1951_section_3_2_2() {
        // A: 10, B: 0, C: 110, D: 111
        assert_eq!(in_rfc_order(&[2, 1, 3, 3]), ["10", "0", "110", "111"]);
        // ABCDEFGH with lengths (3, 3, 3, 3, 3, 2, 4, 4)
        assert_eq!(
            in_rfc_order(&[3, 3, 3, 3, 3, 2, 4, 4]),
            ["010", "011", "100", "101", "110", "00", "1110", "1111"]
        );
    }

    /// Total bits of a plain Huffman tree built with a heap; it shares nothing with package-merge.
    fn heap_huffman_bits(frequencies: &[u64]) -> u64 {
        let mut heap: BinaryHeap<Reverse<u64>> = frequencies
            .iter()
            .filter(|&&f| f > 0)
            .map(|&f| Reverse(f))
            .collect();
        let mut total = 0;
        while heap.len() > 1 {
            let sum = heap.pop().unwrap().0 + heap.pop().unwrap().0;
            total += sum;
            heap.push(Reverse(sum));
        }
        total
    }

    fn total_bits(frequencies: &[u64], lengths: &[u8]) -> u64 {
        frequencies
            .iter()
            .zip(lengths)
            .map(|(&f, &l)| f * u64::from(l))
            .sum()
    }

    /// The smallest total over all complete codes of at most `limit` bits, by trying them all.
    fn brute_force_bits(frequencies: &[u64], limit: u8) -> u64 {
        fn try_all(frequencies: &[u64], limit: u8, room: u64, shortest: u8) -> Option<u64> {
            let Some((&first, rest)) = frequencies.split_first() else {
                return (room == 0).then_some(0);
            };
            (shortest..=limit)
                .filter_map(|length| {
                    let room = room.checked_sub(1 << (limit - length))?;
                    Some(first * u64::from(length) + try_all(rest, limit, room, length)?)
                })
                .min()
        }
        let mut sorted = frequencies.to_vec();
        sorted.sort_unstable_by_key(|&f| Reverse(f));
        try_all(&sorted, limit, 1 << limit, 1).unwrap()
    }

    fn assert_complete_and_prefix_free(lengths: &[u8]) {
        let kraft: f64 = lengths
            .iter()
            .filter(|&&l| l > 0)
            .map(|&l| 0.5f64.powi(i32::from(l)))
            .sum();
        assert_eq!(kraft, 1.0);
        let mut codes = in_rfc_order(lengths);
        codes.retain(|code| !code.is_empty());
        codes.sort();
        for pair in codes.windows(2) {
            assert!(!pair[1].starts_with(&pair[0]), "{pair:?}");
        }
    }

    fn shapes(n: usize) -> [Vec<u64>; 4] {
        let flat = vec![7; n];
        let linear = (1..=n as u64).collect();
        let skewed = (0..n as u32)
            .map(|i| 1 + (1u64 << 40 >> i.min(40)))
            .collect();
        let mut fibonacci = vec![1u64, 1];
        while fibonacci.len() < n.max(2) {
            let sum = fibonacci[fibonacci.len() - 1].saturating_add(fibonacci[fibonacci.len() - 2]);
            fibonacci.push(sum.min(1 << 30));
        }
        fibonacci.truncate(n);
        [flat, linear, skewed, fibonacci]
    }

    #[test]
    fn every_alphabet_of_2_to_300_symbols_is_complete_prefix_free_and_optimal() {
        for n in 2..=300 {
            for frequencies in shapes(n) {
                let lengths = code_lengths(&frequencies, MAX_CODE_LENGTH);
                assert_complete_and_prefix_free(&lengths);
                assert_eq!(lengths, code_lengths(&frequencies, MAX_CODE_LENGTH));
                // A limit of 62 does not bind: with these frequencies no code is longer than 52 bits.
                let unlimited = code_lengths(&frequencies, 62);
                let bits = heap_huffman_bits(&frequencies);
                assert_eq!(huffman_bits(&frequencies), bits);
                assert_eq!(total_bits(&frequencies, &unlimited), bits);
                if *unlimited.iter().max().unwrap() <= MAX_CODE_LENGTH {
                    assert_eq!(total_bits(&frequencies, &lengths), bits);
                }
                let mut leaves = frequencies.clone();
                leaves.sort_unstable();
                let unlimited = huffman_lengths(&leaves);
                for limit in [unlimited[0], 62] {
                    assert_eq!(package_merge(&leaves, limit), unlimited);
                }
            }
        }
    }

    #[test]
    fn a_binding_limit_is_met_optimally() {
        for limit in 3..=5 {
            for frequencies in shapes(8).iter().chain(&shapes(6)) {
                let lengths = code_lengths(frequencies, limit);
                assert!(lengths.iter().all(|&l| l <= limit));
                assert_eq!(
                    total_bits(frequencies, &lengths),
                    brute_force_bits(frequencies, limit)
                );
            }
        }
    }

    #[test]
    fn ties_are_broken_by_symbol() {
        assert_eq!(code_lengths(&[1, 1, 1], 15), [2, 2, 1]);
        assert_eq!(code_lengths(&[5, 5, 5, 5, 5], 15), [3, 3, 2, 2, 2]);
    }

    #[test]
    fn no_symbol_and_one_symbol_have_their_own_rule() {
        for frequencies in [vec![], vec![0, 0], vec![0, 9, 0]] {
            let codebook = Codebook::from_frequencies(&frequencies, 1);
            let mut writer = BitWriter::new();
            codebook.write_to(&mut writer);
            let n_header_bits = writer.n_bits();
            if frequencies.len() == 3 {
                codebook.encode(1, &mut writer);
            }
            assert_eq!(writer.n_bits(), n_header_bits);
            let bytes = writer.finish();
            let mut reader = BitReader::new(&bytes);
            let table =
                DecodeTable::read_from(&mut reader, Alphabet::of_symbols(frequencies.len()))
                    .unwrap();
            match frequencies.len() {
                3 => assert_eq!(table.decode(&mut reader).unwrap(), (1, None)),
                _ => assert!(table.decode(&mut reader).is_err()),
            }
        }
    }

    #[test]
    fn incomplete_and_oversubscribed_codes_are_refused() {
        let table = |lengths: &[u8]| DecodeTable::from_lengths(lengths, Meanings::Symbols);
        assert!(table(&[1, 2]).is_err());
        assert!(table(&[1, 1, 1]).is_err());
        assert!(table(&[0, 0]).is_err());
        assert!(table(&[1, 2, 2]).is_ok());
    }

    proptest! {
        #[test]
        fn symbols_survive_and_cost_less_than_entropy_plus_one_bit(
            frequencies in prop::collection::vec(prop_oneof![Just(0u64), 1u64..50, 1u64..100_000], 1..400)
        ) {
            let codebook = Codebook::from_frequencies(&frequencies, 1);
            let mut writer = BitWriter::new();
            codebook.write_to(&mut writer);
            let used: Vec<usize> = (0..frequencies.len()).filter(|&s| frequencies[s] > 0).collect();
            for &symbol in &used {
                codebook.encode(symbol, &mut writer);
            }
            let bytes = writer.finish();
            let mut reader = BitReader::new(&bytes);
            let table = DecodeTable::read_from(&mut reader, Alphabet::of_symbols(frequencies.len())).unwrap();
            for &symbol in &used {
                prop_assert_eq!(table.decode(&mut reader).unwrap(), (symbol as u32, None));
            }
            reader.finish().unwrap();

            let bits = total_bits(&frequencies, &code_lengths(&frequencies, MAX_CODE_LENGTH));
            let n: u64 = frequencies.iter().sum();
            let entropy = entropy_bits(&frequencies);
            prop_assert!(bits as f64 >= entropy - 1e-6 * entropy);
            if used.len() > 1 {
                prop_assert!((bits as f64) < entropy + n as f64);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic_a_codebook(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut reader = BitReader::new(&bytes);
            if let Ok(table) = DecodeTable::read_from(&mut reader, Alphabet::of_symbols(50)) {
                while table.decode(&mut reader).is_ok_and(|_| table.index_bits > 0) {}
            }
        }
    }
}
