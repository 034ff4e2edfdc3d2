//! Numbers coded in contexts (FORMAT.md, section 6): what a model knows of a number before it is decoded
//! is its context. Neighbouring contexts form groups that share codebooks, and the commonest number of a
//! group, mostly 0, is coded in runs along the group's own sequence, so that it costs less than the bit
//! that a code needs at least. What comes after a run is mostly one of few numbers, its followers, which may
//! be told by the symbol of the run for the same reason.
//!
//! Contexts stand in rows, bands, of [`N_POSITIONS`]. Neighbouring bands are joined, position by position,
//! before positions are: in small blocks mostly all of them.

use std::cmp::Reverse;
use std::sync::LazyLock;

use super::Corrupt;
use super::bitstream::{BitReader, BitWriter};
use super::block::{Symbol, Tables};
use super::codebook::{Alphabet, Codebook, read_gamma, write_gamma};
use super::meter::Watch;
use super::tokens::{LEVELS, RUNS, Token};

/// The number of contexts of a band. Format-stable.
pub const N_POSITIONS: usize = 96;
/// The largest number of bands.
const MAX_BANDS: usize = 6;
/// The largest number of followers of a group.
const MAX_FOLLOWERS: usize = 3;

/// A number in its context.
#[derive(Debug, Clone, Copy)]
struct Entry {
    number: u32,
    context: u16,
    /// The token of the number, and its extra bits.
    token: u8,
    n_extra_bits: u8,
}

impl Entry {
    /// The number as a symbol of an alphabet whose level tokens begin with `first`.
    #[inline(always)]
    fn symbol(self, alphabet: usize, first: usize) -> Symbol {
        let n_extra_bits = u32::from(self.n_extra_bits);
        let token = Token {
            value: first as u32 + u32::from(self.token),
            extra: self.number & (((1u64 << n_extra_bits) - 1) as u32),
            n_extra_bits,
        };
        Symbol::with_extra(alphabet, token)
    }
}

/// What a model has to say of its rows, in the order of coding: numbers in contexts, and symbols of
/// alphabets of its own.
pub struct Sequence {
    n_bands: usize,
    entries: Vec<Entry>,
    /// Each with the number of entries before it.
    symbols: Vec<(usize, Symbol)>,
}

impl Sequence {
    /// An empty sequence, with room for some numbers in `n_bands` of contexts.
    pub fn new(n_bands: usize, n_numbers: usize) -> Self {
        Self {
            n_bands,
            entries: Vec::with_capacity(n_numbers),
            symbols: Vec::new(),
        }
    }

    /// Appends a number in a context below [`N_POSITIONS`] times the number of bands.
    #[inline(always)]
    pub fn push_number(&mut self, context: usize, number: u32) {
        let token = LEVELS.split(number);
        self.entries.push(Entry {
            number,
            context: context as u16,
            token: token.value as u8,
            n_extra_bits: token.n_extra_bits as u8,
        });
    }

    /// Appends a symbol.
    pub fn push(&mut self, symbol: Symbol) {
        self.symbols.push((self.entries.len(), symbol));
    }

    /// Chooses the groups and turns everything into symbols; those of group `g` are of the alphabets
    /// `first_alphabet + 2 g`, where a run may begin, and the next, after a run.
    pub fn into_symbols(self, first_alphabet: usize) -> (Groups, Vec<Symbol>) {
        let frequencies = frequencies(self.n_bands, &self.entries);
        let bands = join_contexts(&frequencies);
        let (group_of_context, n_groups) = bands_to_groups(&bands);
        let mut plain = vec![vec![0; LEVELS.count()]; n_groups];
        for (of_context, &group) in frequencies.iter().zip(&group_of_context) {
            add(&mut plain[usize::from(group)], of_context);
        }
        let groups = find_runs(&self.entries, &group_of_context, plain);
        let symbols = code(self, &group_of_context, &groups, first_alphabet);
        (Groups { bands, groups }, symbols)
    }
}

/// Neighbouring bands that are joined, and the numbers of positions in each of their groups.
#[derive(Debug)]
struct Band {
    n_joined: usize,
    widths: Vec<usize>,
}

/// The group of each context, and the number of groups.
fn bands_to_groups(bands: &[Band]) -> (Vec<u16>, usize) {
    let mut group_of_context = Vec::new();
    let mut n_groups = 0;
    for band in bands {
        let first = group_of_context.len();
        for &width in &band.widths {
            group_of_context.extend(std::iter::repeat_n(n_groups as u16, width));
            n_groups += 1;
        }
        for _ in 1..band.n_joined {
            group_of_context.extend_from_within(first..first + N_POSITIONS);
        }
    }
    (group_of_context, n_groups)
}

/// How the numbers of a group are coded.
#[derive(Debug)]
struct Group {
    /// The number that runs are made of.
    run_number: u32,
    /// Numbers that the symbol of a run tells if they end it.
    followers: Vec<u32>,
    /// All runs in order; none if the number stands for itself.
    runs: Vec<Run>,
}

/// So many of the run number, then another one; none if the block ends.
#[derive(Debug, Clone, Copy)]
struct Run {
    length: u32,
    next: Option<u32>,
}

impl Group {
    /// Which of the followers ends a run, from 1 on; 0 if none.
    fn follower(&self, run: Run) -> usize {
        let position = self
            .followers
            .iter()
            .position(|&number| Some(number) == run.next);
        position.map_or(0, |position| position + 1)
    }
}

/// All groups, in the order of their contexts.
#[derive(Debug)]
pub struct Groups {
    bands: Vec<Band>,
    groups: Vec<Group>,
}

impl Groups {
    /// The alphabets.
    pub fn alphabets(&self) -> Vec<Alphabet> {
        alphabets(self.groups.iter().map(|group| group.followers.len()))
    }

    /// Writes the groups.
    pub fn write_to(&self, writer: &mut BitWriter) {
        let mut groups = self.groups.iter();
        for band in &self.bands {
            write_gamma(writer, band.n_joined as u32);
            write_gamma(writer, band.widths.len() as u32);
            for (&width, group) in band.widths.iter().zip(&mut groups) {
                write_gamma(writer, width as u32);
                write_gamma(writer, group.run_number + 1);
                write_gamma(writer, group.followers.len() as u32 + 1);
                for &number in &group.followers {
                    write_gamma(writer, number + 1);
                }
            }
        }
    }
}

/// The alphabets of groups, by their numbers of followers.
fn alphabets(n_followers: impl Iterator<Item = usize>) -> Vec<Alphabet> {
    n_followers
        .flat_map(|n| [Alphabet::of_runs_and_levels(n), Alphabet::of_levels()])
        .collect()
}

/// Symbols that stand for runs, in a group of so many followers; those of numbers come after them.
fn n_run_symbols(n_followers: usize) -> usize {
    (n_followers + 1) * RUNS.count()
}

/// Frequencies of the symbols of neighbouring contexts together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sums {
    /// Number of symbols that occur.
    pub n_used: usize,
    /// Sum of the frequencies.
    pub total: u64,
    /// The largest of them.
    pub largest: u64,
    /// Entropy of all in bits.
    pub entropy: f64,
}

/// `n` times its logarithm to base 2.
fn n_log_n(n: u64) -> f64 {
    static OF_SMALL: LazyLock<Vec<f64>> = LazyLock::new(|| {
        (0..4096)
            .map(|n| f64::from(n.max(1)).log2() * f64::from(n))
            .collect()
    });
    match OF_SMALL.get(n as usize) {
        Some(&value) => value,
        None => n as f64 * (n as f64).log2(),
    }
}

/// Joins neighbouring contexts, of which the frequencies are given, into groups so that the sum of their
/// costs in bits is smallest. Returns the number of contexts in each, and the sum.
pub fn group_contexts(frequencies: &[Vec<u64>], cost: impl Fn(Sums) -> f64) -> (Vec<usize>, f64) {
    // Contexts that do not occur go with the one before.
    let used: Vec<(usize, Vec<(usize, u64)>)> = frequencies
        .iter()
        .enumerate()
        .filter(|(_, context)| context.iter().any(|&n| n > 0))
        .map(|(index, context)| {
            let symbols = context.iter().copied().enumerate();
            (index, symbols.filter(|&(_, n)| n > 0).collect())
        })
        .collect();
    // For each number of contexts from the start: the least cost, and where the last group starts.
    let mut best = vec![(f64::INFINITY, 0); used.len() + 1];
    best[0].0 = 0.0;
    let mut frequencies_of_group = vec![0u64; frequencies[0].len()];
    for first in 0..used.len() {
        frequencies_of_group.fill(0);
        let (mut sums, mut sum_of_logs) = (Sums::default(), 0.0);
        for (last, (_, symbols)) in used.iter().enumerate().skip(first) {
            for &(symbol, n) in symbols {
                let sum = &mut frequencies_of_group[symbol];
                sums.n_used += usize::from(*sum == 0);
                sum_of_logs -= n_log_n(*sum);
                *sum += n;
                sum_of_logs += n_log_n(*sum);
                sums.total += n;
                sums.largest = sums.largest.max(*sum);
            }
            sums.entropy = n_log_n(sums.total) - sum_of_logs;
            let cost = best[first].0 + cost(sums);
            if cost < best[last + 1].0 {
                best[last + 1] = (cost, first);
            }
        }
    }
    let mut starts = Vec::new();
    let mut n = used.len();
    while n > 0 {
        n = best[n].1;
        starts.push(if n == 0 { 0 } else { used[n].0 });
    }
    let mut widths = Vec::new();
    let mut end = frequencies.len();
    for start in starts {
        widths.push(end - start);
        end = start;
    }
    if widths.is_empty() {
        widths.push(end);
    }
    widths.reverse();
    (widths, best[used.len()].0)
}

/// About what the numbers of a group cost in bits: its symbols in the codebook, and what codes take, or
/// runs, which come near the entropy but have more symbols.
fn cost(sums: Sums) -> f64 {
    const BITS_A_SYMBOL: f64 = 5.0;
    const BITS_A_CODEBOOK: f64 = 8.0;
    const BITS_OF_RUN_TOKENS: f64 = 40.0;
    const SHARE_OF_RUNS: f64 = 0.015;
    let rest = sums.total - sums.largest;
    // Of a number that is commoner than all others, a code takes a bit more than its share.
    let loss_of_codes = match sums.largest > rest {
        true => {
            let entropy_of_largest = n_log_n(sums.total) - n_log_n(sums.largest) - n_log_n(rest);
            sums.total as f64 - entropy_of_largest
        }
        false => 0.0,
    };
    let loss_of_runs = BITS_OF_RUN_TOKENS + SHARE_OF_RUNS * sums.entropy;
    sums.entropy
        + loss_of_codes.min(loss_of_runs)
        + BITS_A_SYMBOL * sums.n_used as f64
        + BITS_A_CODEBOOK
}

/// How often each token occurs in each context.
fn frequencies(n_bands: usize, entries: &[Entry]) -> Vec<Vec<u64>> {
    let mut frequencies = vec![0; n_bands * N_POSITIONS * LEVELS.count()];
    for entry in entries {
        let of_context = usize::from(entry.context) * LEVELS.count();
        frequencies[of_context + usize::from(entry.token)] += 1;
    }
    let of_contexts = frequencies.chunks_exact(LEVELS.count());
    of_contexts.map(<[u64]>::to_vec).collect()
}

fn add(frequencies: &mut [u64], others: &[u64]) {
    frequencies
        .iter_mut()
        .zip(others)
        .for_each(|(n, m)| *n += m);
}

/// Joins bands, and positions of each, so that the sum of the costs of all groups is smallest.
fn join_contexts(frequencies: &[Vec<u64>]) -> Vec<Band> {
    let n_bands = frequencies.len() / N_POSITIONS;
    // For each number of bands from the start: the least cost, and the last of the joined bands.
    let mut best: Vec<(f64, Option<Band>)> = vec![(0.0, None)];
    best.resize_with(n_bands + 1, || (f64::INFINITY, None));
    for first in 0..n_bands {
        let mut joined = frequencies[first * N_POSITIONS..][..N_POSITIONS].to_vec();
        for end in first + 1..=n_bands {
            if end > first + 1 {
                for (joined, added) in joined
                    .iter_mut()
                    .zip(&frequencies[(end - 1) * N_POSITIONS..])
                {
                    add(joined, added);
                }
            }
            let (widths, cost) = group_contexts(&joined, cost);
            let cost = best[first].0 + cost;
            if cost < best[end].0 {
                let n_joined = end - first;
                best[end] = (cost, Some(Band { n_joined, widths }));
            }
        }
    }
    let mut bands = Vec::new();
    let mut end = n_bands;
    while end > 0 {
        let band = best[end]
            .1
            .take()
            .expect("every number of bands has a cost");
        end -= band.n_joined;
        bands.push(band);
    }
    bands.reverse();
    bands
}

/// The frequencies of a group's symbols.
struct Counts {
    plain: Vec<u64>,
    /// Those of numbers not after a run, by token.
    open: Vec<u64>,
    /// Of the numbers after a run, by token.
    after_run: Vec<u64>,
}

/// The commonest of the numbers that are their own token; of two the lower one.
fn commonest_number(frequencies: &[u64]) -> u32 {
    let of_number = |number: &usize| (frequencies[*number], 16 - number);
    (0..16).max_by_key(of_number).unwrap_or(0) as u32
}

/// Finds the runs of each group's commonest number, and drops them where plain symbols cost less; `plain`
/// has the frequencies of each group's tokens.
fn find_runs(entries: &[Entry], group_of_context: &[u16], plain: Vec<Vec<u64>>) -> Vec<Group> {
    /// A group while its runs are found.
    struct Finding {
        run_number: u32,
        run_length: u32,
        runs: Vec<Run>,
        after_run: Vec<u64>,
    }
    let mut groups: Vec<Finding> = plain
        .iter()
        .map(|plain| Finding {
            run_number: commonest_number(plain),
            run_length: 0,
            runs: Vec::new(),
            after_run: vec![0; plain.len()],
        })
        .collect();
    for entry in entries {
        let group = &mut groups[usize::from(group_of_context[usize::from(entry.context)])];
        if entry.number == group.run_number {
            group.run_length += 1;
        } else if group.run_length > 0 {
            group.after_run[usize::from(entry.token)] += 1;
            group.runs.push(Run {
                length: std::mem::take(&mut group.run_length),
                next: Some(entry.number),
            });
        }
    }
    let with_plain = groups.into_iter().zip(plain);
    with_plain
        .map(|(finding, plain)| {
            let Finding {
                run_number,
                run_length,
                mut runs,
                after_run,
            } = finding;
            if run_length > 0 {
                runs.push(Run {
                    length: run_length,
                    next: None,
                });
            }
            // What neither is in a run nor comes after one.
            let mut open = plain.clone();
            open[run_number as usize] = 0;
            open.iter_mut().zip(&after_run).for_each(|(n, m)| *n -= m);
            let mut group = Group {
                run_number,
                followers: Vec::new(),
                runs,
            };
            let counts = Counts {
                plain,
                open,
                after_run,
            };
            choose_followers(&mut group, &counts);
            group
        })
        .collect()
}

/// Chooses the followers of a group that save most, or drops its runs.
fn choose_followers(group: &mut Group, counts: &Counts) {
    /// About what a follower takes among the groups.
    const BITS_A_FOLLOWER: u64 = 4;
    // Codes, not entropy: the bit that a code costs at least is what runs are for.
    let n_bits =
        |frequencies: &[u64]| Codebook::from_frequencies(frequencies, 1).n_bits(frequencies);
    let mut least = n_bits(&counts.plain);
    if group.runs.is_empty() {
        return;
    }
    let mut commonest: Vec<u32> = (0..16).collect();
    commonest.sort_by_key(|&number| Reverse(counts.after_run[number as usize]));
    commonest.truncate(MAX_FOLLOWERS);
    group.followers.clone_from(&commonest);

    // Those of the tokens of runs, by what ends them.
    let mut of_runs = vec![0; n_run_symbols(MAX_FOLLOWERS)];
    let mut n_extra_bits = 0;
    for &run in &group.runs {
        let token = RUNS.split(run.length);
        of_runs[group.follower(run) * RUNS.count() + token.value as usize] += 1;
        n_extra_bits += u64::from(token.n_extra_bits);
    }
    let mut after_run = counts.after_run.clone();
    for &number in &commonest {
        after_run[number as usize] = 0;
    }
    let mut n_best = None;
    for n_followers in (0..=MAX_FOLLOWERS).rev() {
        let first = [&of_runs[..], &counts.open].concat();
        let n_bits = n_bits(&first)
            + n_bits(&after_run)
            + n_extra_bits
            + BITS_A_FOLLOWER * n_followers as u64;
        if n_bits < least {
            least = n_bits;
            n_best = Some(n_followers);
        }
        // The last follower becomes one of the others.
        if let Some(last) = n_followers.checked_sub(1) {
            let number = commonest[last] as usize;
            after_run[number] = counts.after_run[number];
            let of_last = of_runs.split_off(n_followers * RUNS.count());
            of_runs
                .iter_mut()
                .zip(of_last)
                .for_each(|(n, of_last)| *n += of_last);
        }
    }
    match n_best {
        Some(n_followers) => group.followers.truncate(n_followers),
        None => {
            group.followers.clear();
            group.runs.clear();
        }
    }
}

/// All symbols in order. A run is one symbol, at the position of its first number. The number after a run
/// is known to be another one and, if the symbol of the run has not told it, has an alphabet of its own.
fn code(
    sequence: Sequence,
    group_of_context: &[u16],
    groups: &[Group],
    first_alphabet: usize,
) -> Vec<Symbol> {
    let mut symbols = Vec::with_capacity(sequence.entries.len() + sequence.symbols.len());
    let mut codings: Vec<Coding> = (first_alphabet..)
        .step_by(2)
        .zip(groups)
        .map(|(alphabet, group)| Coding {
            group,
            alphabet,
            n_run_symbols: n_run_symbols(group.followers.len()),
            runs: group.runs.iter(),
            state: State::Open,
        })
        .collect();
    let mut position = 0;
    for (end, symbol) in sequence.symbols {
        for &entry in &sequence.entries[position..end] {
            let group = group_of_context[usize::from(entry.context)];
            symbols.extend(codings[usize::from(group)].code(entry));
        }
        symbols.push(symbol);
        position = end;
    }
    for &entry in &sequence.entries[position..] {
        let group = group_of_context[usize::from(entry.context)];
        symbols.extend(codings[usize::from(group)].code(entry));
    }
    symbols
}

/// A group while its numbers are coded.
struct Coding<'a> {
    group: &'a Group,
    alphabet: usize,
    n_run_symbols: usize,
    /// Those that have not begun yet.
    runs: std::slice::Iter<'a, Run>,
    state: State,
}

impl Coding<'_> {
    /// The symbol of the group's next number, if it has one.
    #[inline(always)]
    fn code(&mut self, entry: Entry) -> Option<Symbol> {
        match self.state {
            State::Open => {
                if entry.number == self.group.run_number
                    && let Some(&run) = self.runs.next()
                {
                    let follower = self.group.follower(run);
                    let mut token = RUNS.split(run.length);
                    token.value += (follower * RUNS.count()) as u32;
                    self.state = State::Run {
                        n_left: run.length - 1,
                        next: run.next.filter(|_| follower > 0),
                    };
                    return Some(Symbol::with_extra(self.alphabet, token));
                }
                Some(entry.symbol(self.alphabet, self.n_run_symbols))
            }
            State::Run { n_left: 0, next } => {
                self.state = State::Open;
                match next {
                    Some(_) => None,
                    None => Some(entry.symbol(self.alphabet + 1, 0)),
                }
            }
            State::Run { ref mut n_left, .. } => {
                *n_left -= 1;
                None
            }
        }
    }
}

/// Where a group stands in its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Any symbol may follow.
    Open,
    /// The run goes on `n_left` times, then another number follows: `next`, if the run's symbol told it.
    Run { n_left: u32, next: Option<u32> },
}

/// What a decoder keeps of a group.
#[derive(Debug, Clone)]
struct Decoding {
    run_number: u32,
    /// None, then the followers.
    followers: [Option<u32>; 1 + MAX_FOLLOWERS],
    n_followers: usize,
    state: State,
}

/// Decodes numbers in contexts.
#[derive(Debug)]
pub struct ContextDecoder {
    first_alphabet: usize,
    group_of_context: [u16; MAX_BANDS * N_POSITIONS],
    groups: Vec<Decoding>,
}

impl ContextDecoder {
    /// Reads what [`Groups::write_to`] wrote.
    ///
    /// # Errors
    /// [`Corrupt`] if the groups are not those of all contexts.
    pub fn read_from(
        reader: &mut BitReader,
        n_bands: usize,
        first_alphabet: usize,
    ) -> Result<Self, Corrupt> {
        const CORRUPT: Corrupt = Corrupt("the groups of contexts do not fit");
        let mut bands = Vec::new();
        let mut groups = Vec::new();
        let mut n_banded = 0;
        while n_banded < n_bands {
            let n_joined = read_gamma(reader)? as usize;
            n_banded += n_joined;
            let n_groups = read_gamma(reader)? as usize;
            let mut widths = Vec::new();
            let mut n_grouped = 0;
            while widths.len() < n_groups {
                let width = read_gamma(reader)? as usize;
                n_grouped += width;
                if n_grouped > N_POSITIONS {
                    return Err(CORRUPT);
                }
                widths.push(width);
                let run_number = read_gamma(reader)? - 1;
                let n_followers = read_gamma(reader)? as usize - 1;
                let mut followers = [None; 1 + MAX_FOLLOWERS];
                for follower in followers.get_mut(1..=n_followers).ok_or(CORRUPT)? {
                    *follower = Some(read_gamma(reader)? - 1);
                }
                groups.push(Decoding {
                    run_number,
                    n_followers,
                    followers,
                    state: State::Open,
                });
            }
            if n_grouped != N_POSITIONS || n_banded > n_bands {
                return Err(CORRUPT);
            }
            bands.push(Band { n_joined, widths });
        }
        let mut group_of_context = [0; MAX_BANDS * N_POSITIONS];
        let (of_bands, _) = bands_to_groups(&bands);
        group_of_context[..of_bands.len()].copy_from_slice(&of_bands);
        Ok(Self {
            first_alphabet,
            group_of_context,
            groups,
        })
    }

    /// The alphabets.
    pub fn alphabets(&self) -> Vec<Alphabet> {
        alphabets(self.groups.iter().map(|group| group.n_followers))
    }

    /// Decodes the next number in a context below [`N_POSITIONS`] times the number of bands.
    ///
    /// # Errors
    /// [`Corrupt`] if the bitstream ends, or for a run that cannot be.
    #[inline(always)]
    pub fn number(
        &mut self,
        context: usize,
        tables: &Tables<impl Watch>,
        reader: &mut BitReader,
    ) -> Result<u32, Corrupt> {
        const CORRUPT: Corrupt = Corrupt("a run cannot be");
        let index = usize::from(self.group_of_context[context]);
        let alphabet = self.first_alphabet + 2 * index;
        let group = &mut self.groups[index];
        match group.state {
            State::Run { n_left: 0, next } => {
                group.state = State::Open;
                let number = match next {
                    Some(number) => number,
                    None => tables.number(alphabet + 1, reader)?,
                };
                match number == group.run_number {
                    true => Err(CORRUPT),
                    false => Ok(number),
                }
            }
            State::Run { ref mut n_left, .. } => {
                *n_left -= 1;
                Ok(group.run_number)
            }
            State::Open => {
                let (number, run) = tables.number_or_run(alphabet, reader)?;
                if let Some(follower) = run {
                    group.state = State::Run {
                        n_left: number.checked_sub(1).ok_or(CORRUPT)?,
                        next: group.followers[follower],
                    };
                    return Ok(group.run_number);
                }
                Ok(number)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The groups, after a round trip of numbers in contexts.
    fn round_trip(n_bands: usize, numbers: &[(usize, u32)]) -> Groups {
        let mut sequence = Sequence::new(n_bands, numbers.len());
        for &(context, number) in numbers {
            sequence.push_number(context, number);
        }
        let (groups, symbols) = sequence.into_symbols(0);
        let alphabets = groups.alphabets();
        let mut frequencies: Vec<Vec<u64>> = alphabets.iter().map(|a| vec![0; a.size]).collect();
        for symbol in &symbols {
            frequencies[symbol.alphabet()][symbol.value() as usize] += 1;
        }
        let codebooks: Vec<Codebook> = frequencies
            .iter()
            .map(|frequencies| Codebook::from_frequencies(frequencies, 1))
            .collect();
        let mut writer = BitWriter::new();
        groups.write_to(&mut writer);
        codebooks
            .iter()
            .for_each(|codebook| codebook.write_to(&mut writer));
        for symbol in &symbols {
            codebooks[symbol.alphabet()].encode(symbol.value() as usize, &mut writer);
            writer.write(symbol.extra(), symbol.n_extra_bits());
        }
        let bytes = writer.finish();
        let mut reader = BitReader::new(&bytes);
        let mut decoder = ContextDecoder::read_from(&mut reader, n_bands, 0).unwrap();
        assert_eq!(decoder.alphabets().len(), alphabets.len());
        let tables = Tables::read_from(&mut reader, &alphabets, ()).unwrap();
        for &(context, number) in numbers {
            assert_eq!(
                decoder.number(context, &tables, &mut reader).unwrap(),
                number
            );
        }
        reader.finish().unwrap();
        groups
    }

    /// Numbers that are not there are 0; the others are spread over their whole range.
    fn scattered(n: u32, one_in: u32) -> impl Iterator<Item = u32> {
        (0..n).map(move |i| {
            let random = i.wrapping_mul(2_654_435_761) >> 7;
            match random % one_in {
                0 => 1 + (random >> 8) % 4,
                _ => 0,
            }
        })
    }

    #[test]
    fn numbers_in_contexts_survive() {
        round_trip(1, &[]);
        round_trip(4, &[(383, u32::MAX)]);
        for n_bands in 1..=MAX_BANDS {
            let contexts = (0..n_bands * N_POSITIONS).cycle().step_by(7);
            let numbers: Vec<_> = contexts.zip(scattered(5000, 9)).collect();
            round_trip(n_bands, &numbers);
        }
    }

    #[test]
    fn the_usual_end_of_a_run_is_told_by_the_run() {
        // 1 ends nearly all runs, 2 few.
        let mut random = 1u32;
        let numbers: Vec<_> = (0..4000)
            .map(|_| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                match (random >> 16) % 1000 {
                    0..5 => (5, 2),
                    5..200 => (5, 1),
                    _ => (5, 0),
                }
            })
            .collect();
        let groups = round_trip(1, &numbers);
        assert_eq!(groups.groups.len(), 1);
        assert_eq!(groups.groups[0].run_number, 0);
        assert_eq!(groups.groups[0].followers, [1]);
    }

    #[test]
    fn bands_that_differ_stay_apart() {
        let bands = |rare: u32| {
            let first = scattered(4000, 9).map(|number| (40, number));
            let second = scattered(4000, rare).map(|number| (40 + N_POSITIONS, number));
            round_trip(2, &first.chain(second).collect::<Vec<_>>())
                .bands
                .len()
        };
        assert_eq!((bands(9), bands(2)), (1, 2));
    }
}
