//! Numbers coded in contexts (FORMAT.md, section 6): a context is what a model knows of a number before it is decoded.
//! Neighbouring contexts form groups that share codebooks, and the commonest number of a group, mostly 0, is coded in
//! runs along the group's own sequence, so that it costs less than the bit that a Huffman code needs at least. A run is
//! mostly followed by one of few numbers, its followers, which the symbol of the run may include for the same reason.
//!
//! Contexts stand in bands of [`N_POSITIONS`]. Neighbouring bands are joined, position by position, before positions
//! are: in small blocks mostly all of them.

use std::cmp::Reverse;
use std::hint::select_unpredictable;
use std::sync::LazyLock;

use super::Corrupt;
use super::LARGE;
use super::bitstream::{BitReader, BitWriter, Coder};
use super::codebook::{
    Alphabet, Code, Codebook, DecodeTable, entropy_bits, huffman_bits, read_gamma, write_gamma,
};
use super::coded::{N_FIELDS, Tables, write_if_many};
use super::logarithm::log2;
use super::meter::Watch;
use super::symbols::Symbol;
use super::tokens::{LEVELS, RUNS, Token, Tokens};

/// The number of contexts of a band. Format-stable.
pub const N_POSITIONS: usize = 96;
/// The largest number of bands.
const MAX_BANDS: usize = 6;
/// The largest number of followers of a group.
const MAX_FOLLOWERS: usize = 3;

/// A number in its context.
#[derive(Debug, Clone, Copy)]
struct Entry {
    context: u16,
    /// The token of the number, which is the number itself if that is [`small`](N_SMALL).
    token: u8,
    place: Place,
}

/// The place of a number in the sequence of its group, if that has runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Neither in a run nor after one.
    Open,
    /// The first number of a run.
    Start,
    /// The number after a run.
    AfterRun,
    /// In a run, but not its first number.
    InRun,
}

impl Place {
    /// Places by whether the number comes after one of a run, and whether it is one.
    const ALL: [[Self; 2]; 2] = [[Self::Open, Self::Start], [Self::AfterRun, Self::InRun]];
}

/// Numbers below this are their own token.
const N_SMALL: u32 = 16;
/// The number of tokens.
const N_TOKENS: usize = LEVELS.count();
/// The token of no number.
const NO_TOKEN: u8 = N_TOKENS as u8;

impl Entry {
    /// Appends a number that is not small to `large`.
    #[inline(always)]
    fn new(context: usize, number: u32, tokens: Tokens, large: &mut Vec<u32>) -> Self {
        let token = match number < N_SMALL {
            true => number,
            false => {
                large.push(number);
                split(number, tokens).value
            }
        };
        Self {
            context: context as u16,
            token: token as u8,
            place: Place::Open,
        }
    }

    /// The token of the number, with its extra bits; a number that is not small is the next of `large`.
    #[inline(always)]
    fn number_token(self, tokens: Tokens, large: &mut std::slice::Iter<u32>) -> Token {
        match u32::from(self.token) < N_SMALL {
            true => LEVELS.split(self.token.into()),
            false => {
                let number = large.next().expect("a number for each large token");
                split(*number, tokens)
            }
        }
    }
}

/// The token of a number in a scheme.
#[inline(always)]
fn split(number: u32, tokens: Tokens) -> Token {
    // The usual scheme is faster for being known when compiled.
    match tokens == LEVELS {
        true => LEVELS.split(number),
        false => tokens.split(number),
    }
}

/// The rows of one bitstream in the order of coding: numbers in contexts, and symbols of the model's own alphabets.
pub struct Sequence {
    tokens: Tokens,
    entries: Vec<Entry>,
    /// The numbers that are not small.
    large: Vec<u32>,
    /// Symbols, each with the number of entries before it.
    symbols: Vec<(usize, Symbol)>,
}

impl Sequence {
    /// `n` empty sequences of numbers, split by a scheme of as many tokens as [`LEVELS`], with room for `n_numbers` in
    /// all of them.
    pub fn several(n: usize, n_numbers: usize, tokens: Tokens) -> Vec<Self> {
        let empty = || Self {
            tokens,
            entries: Vec::with_capacity(n_numbers.div_ceil(n)),
            large: Vec::with_capacity(n_numbers.div_ceil(n)),
            symbols: Vec::new(),
        };
        std::iter::repeat_with(empty).take(n).collect()
    }

    /// Appends a number in a context below [`N_POSITIONS`] times the number of bands.
    #[inline(always)]
    pub fn push_number(&mut self, context: usize, number: u32) {
        self.entries
            .push(Entry::new(context, number, self.tokens, &mut self.large));
    }

    /// Appends numbers, each in its context, as [`push_number`](Self::push_number) does.
    #[inline(always)]
    pub fn extend(&mut self, numbers: impl Iterator<Item = (usize, u32)>) {
        self.entries
            .extend(numbers.map(|(context, number)| {
                Entry::new(context, number, self.tokens, &mut self.large)
            }));
    }

    /// Appends a symbol.
    pub fn push(&mut self, symbol: Symbol) {
        self.symbols.push((self.entries.len(), symbol));
    }

    /// Everything in order: entries, and the symbol after them, if there is one.
    fn parts(&self) -> impl Iterator<Item = (&[Entry], Option<Symbol>)> {
        let symbols = self
            .symbols
            .iter()
            .map(|&(end, symbol)| (end, Some(symbol)));
        let mut position = 0;
        symbols
            .chain([(self.entries.len(), None)])
            .map(move |(end, symbol)| {
                let entries = &self.entries[position..end];
                position = end;
                (entries, symbol)
            })
    }
}

/// Neighbouring bands that are joined, and the number of positions in each of their groups.
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
#[derive(Debug, Default)]
struct Group {
    /// The number that runs are made of.
    run_number: u32,
    /// Numbers that the symbol of a run includes if they end the run, at most [`MAX_FOLLOWERS`].
    followers: Vec<u32>,
    /// All runs in order, for each sequence; empty if the group has no runs.
    runs: Vec<Vec<Run>>,
    /// The frequencies of the symbols of the open alphabet, and of those after a run.
    frequencies: [Vec<u64>; 2],
}

/// A run of a group's number.
#[derive(Debug, Clone, Copy)]
struct Run {
    length: u32,
    /// The token of the number after it, if there is one.
    next: Option<u8>,
}

impl Group {
    /// The follower that ends a run, from 1 on; 0 if none does.
    fn follower(&self, run: Run) -> usize {
        let next = run.next.map(u32::from);
        let position = self
            .followers
            .iter()
            .position(|&number| Some(number) == next);
        position.map_or(0, |position| position + 1)
    }
}

/// All groups, in the order of their contexts.
#[derive(Debug)]
pub struct Groups {
    tokens: Tokens,
    bands: Vec<Band>,
    group_of_context: Vec<u16>,
    groups: Vec<Group>,
    first_alphabet: usize,
}

impl Groups {
    /// Chooses the groups of `n_bands` of contexts for numbers and a coder; the symbols of group `g` are of the
    /// alphabets `first_alphabet + 2 g`, where a run may begin, and the next one, after a run.
    pub fn of(
        sequences: &mut [Sequence],
        n_bands: usize,
        first_alphabet: usize,
        coder: Coder,
    ) -> Self {
        let frequencies = frequencies(n_bands, sequences);
        let bands = join_contexts(&frequencies, coder);
        let (group_of_context, n_groups) = bands_to_groups(&bands);
        let mut plain = vec![vec![0; LEVELS.count()]; n_groups];
        for (of_context, &group) in frequencies.iter().zip(&group_of_context) {
            add(&mut plain[usize::from(group)], of_context);
        }
        let groups = find_runs(sequences, &group_of_context, plain, coder);
        Self {
            tokens: sequences[0].tokens,
            bands,
            group_of_context,
            groups,
            first_alphabet,
        }
    }

    /// The alphabets of the groups.
    pub fn alphabets(&self) -> Vec<Alphabet> {
        alphabets(
            self.tokens,
            self.groups.iter().map(|group| group.followers.len()),
        )
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

    /// The frequencies of the symbols of all alphabets: those before the groups', and those of the groups.
    pub fn frequencies(&self, sequences: &[Sequence], alphabets: &[Alphabet]) -> Vec<Vec<u64>> {
        let (others, _) = alphabets.split_at(self.first_alphabet);
        let mut frequencies: Vec<Vec<u64>> = others.iter().map(|a| vec![0; a.size]).collect();
        for (_, symbol) in sequences.iter().flat_map(|sequence| &sequence.symbols) {
            frequencies[symbol.alphabet()][symbol.value() as usize] += 1;
        }
        let of_groups = self.groups.iter().flat_map(|group| &group.frequencies);
        frequencies.extend(of_groups.cloned());
        frequencies
    }

    /// The number of extra bits of all symbols, given their frequencies.
    pub fn n_extra_bits(
        &self,
        sequences: &[Sequence],
        alphabets: &[Alphabet],
        frequencies: &[Vec<u64>],
    ) -> u64 {
        let own_symbols = sequences.iter().flat_map(|sequence| &sequence.symbols);
        let of_own = own_symbols.map(|(_, symbol)| u64::from(symbol.n_extra_bits()));
        let of_groups = alphabets.iter().zip(frequencies).skip(self.first_alphabet);
        let of_groups = of_groups.flat_map(|(alphabet, frequencies)| {
            let of_symbols = frequencies.iter().enumerate();
            of_symbols.map(|(symbol, n)| n * u64::from(alphabet.meanings.of(symbol).n_extra_bits))
        });
        of_own.chain(of_groups).sum()
    }

    /// All symbols, in order, of a sequence, which is number `index` of those that the groups were chosen for. A run is
    /// one symbol, at the position of its first number. The number after a run is another one and, if it is no
    /// follower, is coded in an alphabet of its own.
    pub fn symbols(&self, sequence: &Sequence, index: usize) -> Vec<Symbol> {
        let mut symbols = Vec::with_capacity(sequence.entries.len() + sequence.symbols.len());
        let mut runs: Vec<_> = self.groups.iter().map(|g| g.runs[index].iter()).collect();
        let mut large = sequence.large.iter();
        for (entries, own) in sequence.parts() {
            for &entry in entries {
                let index = usize::from(self.group_of_context[usize::from(entry.context)]);
                let (group, alphabet) = (&self.groups[index], self.first_alphabet + 2 * index);
                if entry.place == Place::Start
                    && let Some(&run) = runs[index].next()
                {
                    let mut token = RUNS.split(run.length);
                    token.value += (group.follower(run) * RUNS.count()) as u32;
                    symbols.push(Symbol::with_extra(alphabet, token));
                    continue;
                }
                let place = if group.has_runs() {
                    entry.place
                } else {
                    Place::Open
                };
                let is_told = group.followers.contains(&entry.token.into());
                let (alphabet, first) = match place {
                    Place::InRun => continue,
                    Place::AfterRun if is_told => continue,
                    Place::AfterRun => (alphabet + 1, 0),
                    _ => (alphabet, n_run_symbols(group.followers.len())),
                };
                let mut token = entry.number_token(self.tokens, &mut large);
                token.value += first as u32;
                symbols.push(Symbol::with_extra(alphabet, token));
            }
            symbols.extend(own);
        }
        symbols
    }

    /// Writes the [symbols](Self::symbols) of a sequence with the codes of all alphabets.
    pub fn write_symbols(
        &self,
        sequence: &Sequence,
        index: usize,
        codes: &[Vec<Code>],
        writer: &mut BitWriter,
    ) {
        let of_groups = codes[self.first_alphabet..].chunks_exact(2);
        let by_place: Vec<_> = self
            .groups
            .iter()
            .zip(of_groups)
            .map(|(group, codes)| group.codes_by_place(&codes[0], &codes[1]))
            .collect();
        let n_extra_bits: [u8; N_TOKENS] =
            std::array::from_fn(|token| self.tokens.meaning(token as u32).1 as u8);
        let have_runs: Vec<bool> = self.groups.iter().map(Group::has_runs).collect();
        let mut runs: Vec<_> = self.groups.iter().map(|g| g.runs[index].iter()).collect();
        let mut n_large = 0;
        let mut fields = Vec::with_capacity(2 * N_FIELDS);
        for (entries, own) in sequence.parts() {
            for entries in entries.chunks(N_FIELDS) {
                for &entry in entries {
                    let group = usize::from(self.group_of_context[usize::from(entry.context)]);
                    if entry.place == Place::InRun && have_runs[group] {
                        continue;
                    }
                    if entry.place == Place::Start
                        && let Some(&run) = runs[group].next()
                    {
                        let token = RUNS.split(run.length);
                        let of_follower = self.groups[group].follower(run) * RUNS.count();
                        let codes = &codes[self.first_alphabet + 2 * group];
                        let code = codes[of_follower + token.value as usize];
                        fields.push(code.with_extra(token.extra, token.n_extra_bits));
                        continue;
                    }
                    let token = usize::from(entry.token);
                    let code = by_place[group][entry.place as usize][token];
                    // Without branches, which could not be predicted: the extra bits are the lowest ones of the number.
                    let n_extra_bits = u32::from(n_extra_bits[token]);
                    let number = sequence.large.get(n_large).copied().unwrap_or(0);
                    n_large += usize::from(u32::from(entry.token) >= N_SMALL);
                    fields
                        .push(code.with_extra(number & ((1u32 << n_extra_bits) - 1), n_extra_bits));
                }
                write_if_many(&mut fields, writer);
            }
            if let Some(symbol) = own {
                let code = codes[symbol.alphabet()][symbol.value() as usize];
                fields.push(code.with_extra(symbol.extra(), symbol.n_extra_bits()));
            }
            write_if_many(&mut fields, writer);
        }
        writer.write_all(&fields);
        debug_assert_eq!(n_large, sequence.large.len());
    }
}

impl Group {
    /// Drops the runs: all numbers, which have these frequencies, stand for themselves.
    fn set_plain(&mut self, frequencies: Vec<u64>) {
        let after_run = vec![0; frequencies.len()];
        let of_runs = vec![0; n_run_symbols(0)];
        self.frequencies = [[of_runs, frequencies].concat(), after_run];
        self.followers.clear();
        self.runs.iter_mut().for_each(Vec::clear);
    }

    fn has_runs(&self) -> bool {
        self.runs.iter().any(|runs| !runs.is_empty())
    }

    /// The codes of tokens by place, given those of the symbols of the group's alphabets; no bits for a follower after
    /// its run. The codes for places in runs are never used.
    fn codes_by_place(&self, open: &[Code], after_run: &[Code]) -> [[Code; N_TOKENS]; 4] {
        let open = &open[n_run_symbols(self.followers.len())..];
        let mut codes: [[Code; N_TOKENS]; 4] = [[Code::default(); N_TOKENS]; 4];
        for of_place in &mut codes {
            of_place.copy_from_slice(open);
        }
        if self.has_runs() {
            codes[Place::AfterRun as usize].copy_from_slice(after_run);
        }
        codes
    }
}

/// The alphabets of groups, by their numbers of followers.
fn alphabets(tokens: Tokens, n_followers: impl Iterator<Item = usize>) -> Vec<Alphabet> {
    n_followers
        .flat_map(|n| {
            [
                Alphabet::of_runs_and_numbers(n, tokens),
                Alphabet::of_numbers(tokens),
            ]
        })
        .collect()
}

/// The number of symbols for runs in a group of `n_followers`; those of numbers come after them.
fn n_run_symbols(n_followers: usize) -> usize {
    (n_followers + 1) * RUNS.count()
}

/// Sums over the symbols of neighbouring contexts together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sums {
    /// Number of symbols that occur.
    pub n_used: usize,
    /// Sum of the frequencies.
    pub total: u64,
    /// The largest frequency.
    pub largest: u64,
    /// Entropy of all symbols in bits.
    pub entropy: f64,
}

/// `n` times its logarithm to base 2.
fn n_log_n(n: u64) -> f64 {
    static OF_SMALL: LazyLock<Vec<f64>> = LazyLock::new(|| {
        (0..4096)
            .map(|n| log2(n.max(1).into()) * f64::from(n))
            .collect()
    });
    match OF_SMALL.get(n as usize) {
        Some(&value) => value,
        None => n as f64 * log2(n as f64),
    }
}

/// Joins neighbouring contexts of these frequencies into groups so that the sum of their costs in bits is smallest.
/// Returns the number of contexts in each group, and the sum.
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
    // For each number of contexts from the start: the least cost, and the start of the last group.
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

/// About the bits of a symbol in a codebook of each coder.
const BITS_A_SYMBOL_OF_HUFFMAN: f64 = 5.0;
const BITS_A_SYMBOL_OF_ANS: f64 = 7.0;

/// About the bits of a group's numbers, coded with rANS.
fn cost_of_ans(sums: Sums) -> f64 {
    const BITS_A_CODEBOOK: f64 = 10.0;
    sums.entropy + BITS_A_SYMBOL_OF_ANS * sums.n_used as f64 + BITS_A_CODEBOOK
}

/// About the bits of a group's numbers, coded with Huffman: its symbols in the codebook, and the codes, or runs, which
/// come near the entropy but have more symbols.
fn cost_of_huffman(sums: Sums) -> f64 {
    const BITS_A_CODEBOOK: f64 = 8.0;
    const BITS_OF_RUN_TOKENS: f64 = 40.0;
    const SHARE_OF_RUNS: f64 = 0.015;
    let rest = sums.total - sums.largest;
    // A number commoner than all others together takes a code of a bit, more than its share.
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
        + BITS_A_SYMBOL_OF_HUFFMAN * sums.n_used as f64
        + BITS_A_CODEBOOK
}

/// The frequencies of tokens in each context.
fn frequencies(n_bands: usize, sequences: &[Sequence]) -> Vec<Vec<u64>> {
    let mut frequencies = vec![0; n_bands * N_POSITIONS * LEVELS.count()];
    for entry in sequences.iter().flat_map(|sequence| &sequence.entries) {
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
fn join_contexts(frequencies: &[Vec<u64>], coder: Coder) -> Vec<Band> {
    let cost = match coder {
        Coder::Huffman => cost_of_huffman,
        Coder::Ans => cost_of_ans,
    };
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
    /// The frequencies of numbers not after a run, by token.
    open: Vec<u64>,
    /// The frequencies of numbers after a run, by token.
    after_run: Vec<u64>,
}

/// The commonest of the numbers that are their own token, of two the lower one.
fn commonest_number(frequencies: &[u64]) -> u32 {
    let of_number = |number: &usize| (frequencies[*number], N_SMALL as usize - number);
    (0..N_SMALL as usize).max_by_key(of_number).unwrap_or(0) as u32
}

/// Finds the runs of each group's commonest number, in large blocks only if it is common, and drops them where plain
/// symbols cost less; `plain` has the frequencies of each group's tokens.
fn find_runs(
    sequences: &mut [Sequence],
    group_of_context: &[u16],
    plain: Vec<Vec<u64>>,
    coder: Coder,
) -> Vec<Group> {
    /// In large blocks, runs of a number rarer than one in so many save next to nothing, and take time.
    const RAREST: u64 = 3;
    let is_small = plain.iter().flatten().sum::<u64>() < LARGE as u64;
    let mut groups = Vec::new();
    let mut findings = Vec::new();
    for plain in &plain {
        let run_number = commonest_number(plain);
        groups.push(Group {
            run_number,
            ..Group::default()
        });
        let (total, n) = (plain.iter().sum::<u64>(), plain[run_number as usize]);
        let is_worth_it = n > 0 && (is_small || n * RAREST >= total);
        findings.push(match is_worth_it {
            true => Finding::of(run_number, n.min(total - n)),
            false => Finding::of_none(),
        });
    }
    for sequence in sequences {
        if findings.iter().any(|finding| finding.run_token != NO_TOKEN) {
            for entry in &mut sequence.entries {
                let group = group_of_context[usize::from(entry.context)];
                entry.place = findings[usize::from(group)].place(entry.token);
            }
        }
        for (group, finding) in groups.iter_mut().zip(&mut findings) {
            group.runs.push(finding.take_runs());
        }
    }
    for ((group, finding), plain) in groups.iter_mut().zip(findings).zip(plain) {
        if finding.run_token == NO_TOKEN {
            group.set_plain(plain);
            continue;
        }
        let mut after_run = vec![0; plain.len()];
        for next in group.runs.iter().flatten().filter_map(|run| run.next) {
            after_run[usize::from(next)] += 1;
        }
        // Numbers neither in a run nor after one.
        let mut open = plain.clone();
        open[group.run_number as usize] = 0;
        open.iter_mut().zip(&after_run).for_each(|(n, m)| *n -= m);
        let counts = Counts {
            plain,
            open,
            after_run,
        };
        choose_followers(group, counts, coder, is_small);
    }
    groups
}

/// A group while its runs are found.
struct Finding {
    /// The token that runs are made of; no token if they are not worth looking for.
    run_token: u8,
    run_length: u32,
    /// The runs of the current sequence, with room for one more.
    runs: Vec<Run>,
    n_runs: usize,
}

impl Finding {
    /// A search for runs of a number, of which at most `n_runs` end within a sequence.
    fn of(run_number: u32, n_runs: u64) -> Self {
        let no_run = Run {
            length: 0,
            next: None,
        };
        Self {
            run_token: run_number as u8,
            run_length: 0,
            runs: vec![no_run; n_runs as usize + 1],
            n_runs: 0,
        }
    }

    /// A search that finds no runs.
    fn of_none() -> Self {
        Self {
            run_token: NO_TOKEN,
            ..Self::of(0, 0)
        }
    }

    /// The place of the next token. Without branches, which could not be predicted.
    #[inline(always)]
    fn place(&mut self, token: u8) -> Place {
        let (is_after, is_of_run) = (self.run_length > 0, token == self.run_token);
        let ends = is_after && !is_of_run;
        self.runs[self.n_runs] = Run {
            length: self.run_length,
            next: Some(token),
        };
        self.n_runs += usize::from(ends);
        self.run_length = if is_of_run { self.run_length + 1 } else { 0 };
        Place::ALL[usize::from(is_after)][usize::from(is_of_run)]
    }

    /// Takes the runs of a sequence that ends here.
    fn take_runs(&mut self) -> Vec<Run> {
        let mut runs = self.runs[..self.n_runs].to_vec();
        self.n_runs = 0;
        if self.run_length > 0 {
            runs.push(Run {
                length: std::mem::take(&mut self.run_length),
                next: None,
            });
        }
        runs
    }
}

/// Chooses the followers of a group that save most, or drops its runs.
///
/// In a block that `is_small`, every byte of a codebook counts.
fn choose_followers(group: &mut Group, counts: Counts, coder: Coder, is_small: bool) {
    /// About the bits that a follower takes where the groups are written.
    const BITS_A_FOLLOWER: u64 = 4;
    let n_bits = |frequencies: &[u64]| {
        let n_used = frequencies.iter().filter(|&&n| n > 0).count();
        match coder {
            // Not the entropy: runs are there for the bit that a code costs at least.
            Coder::Huffman if is_small => {
                Codebook::from_frequencies(frequencies, 1).n_bits(frequencies)
            }
            Coder::Huffman => {
                huffman_bits(frequencies) + (BITS_A_SYMBOL_OF_HUFFMAN * n_used as f64) as u64
            }
            Coder::Ans => (entropy_bits(frequencies) + BITS_A_SYMBOL_OF_ANS * n_used as f64) as u64,
        }
    };
    let mut least = n_bits(&counts.plain);
    let mut commonest: Vec<u32> = (0..N_SMALL).collect();
    commonest.sort_by_key(|&number| Reverse(counts.after_run[number as usize]));
    commonest.truncate(MAX_FOLLOWERS);
    group.followers.clone_from(&commonest);

    // The frequencies of the tokens of runs, by what ends them.
    let mut of_runs = vec![0; n_run_symbols(MAX_FOLLOWERS)];
    let mut n_extra_bits = 0;
    for &run in group.runs.iter().flatten() {
        let token = RUNS.split(run.length);
        of_runs[group.follower(run) * RUNS.count() + token.value as usize] += 1;
        n_extra_bits += u64::from(token.n_extra_bits);
    }
    let mut after_run = counts.after_run.clone();
    for &number in &commonest {
        after_run[number as usize] = 0;
    }
    let mut best = None;
    for n_followers in (0..=MAX_FOLLOWERS).rev() {
        let open = [&of_runs[..], &counts.open].concat();
        let n_bits = n_bits(&open)
            + n_bits(&after_run)
            + n_extra_bits
            + BITS_A_FOLLOWER * n_followers as u64;
        if n_bits < least {
            least = n_bits;
            best = Some((n_followers, [open, after_run.clone()]));
        }
        // The last follower becomes one of the other numbers.
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
    match best {
        Some((n_followers, frequencies)) => {
            group.followers.truncate(n_followers);
            group.frequencies = frequencies;
        }
        None => group.set_plain(counts.plain),
    }
}

/// The state of a decoder in the sequence of a group.
#[derive(Debug, Clone, Copy)]
struct Decoding {
    /// Numbers until any symbol may follow again: those left of a run, and the other number after it. 0 outside runs.
    n_left: u32,
    run_number: u32,
    /// The number after the run, or [`NOT_TOLD`].
    next: u32,
}

/// In place of a number after a run, which is smaller: the symbol of the run does not include it.
const NOT_TOLD: u32 = u32::MAX;

/// The numbers after a run by its symbol: [`NOT_TOLD`] for 0, then the followers.
type Followers = [u32; 1 + MAX_FOLLOWERS];

/// Decodes numbers in contexts.
#[derive(Debug)]
pub struct ContextDecoder {
    first_alphabet: usize,
    group_of_context: [u16; MAX_BANDS * N_POSITIONS],
    /// The followers of each group, and their number.
    followers: Vec<(Followers, usize)>,
    /// The groups at the start of a bitstream.
    groups: Vec<Decoding>,
    tokens: Tokens,
}

/// A bitstream of rows, and the state of the groups in it.
#[derive(Debug)]
pub struct Stream<'a> {
    /// The bitstream.
    pub reader: BitReader<'a>,
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
        tokens: Tokens,
    ) -> Result<Self, Corrupt> {
        const CORRUPT: Corrupt = Corrupt("the groups of contexts do not fit");
        let mut bands = Vec::new();
        let (mut groups, mut followers_of_groups) = (Vec::new(), Vec::new());
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
                let mut followers = [NOT_TOLD; 1 + MAX_FOLLOWERS];
                for follower in followers.get_mut(1..=n_followers).ok_or(CORRUPT)? {
                    *follower = read_gamma(reader)? - 1;
                }
                followers_of_groups.push((followers, n_followers));
                groups.push(Decoding {
                    n_left: 0,
                    run_number,
                    next: NOT_TOLD,
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
            tokens,
            first_alphabet,
            group_of_context,
            followers: followers_of_groups,
            groups,
        })
    }

    /// The alphabets.
    pub fn alphabets(&self) -> Vec<Alphabet> {
        alphabets(self.tokens, self.followers.iter().map(|&(_, n)| n))
    }

    /// A bitstream at its start, where all groups are open.
    pub fn stream<'a>(&self, reader: BitReader<'a>) -> Stream<'a> {
        let groups = self.groups.clone();
        Stream { reader, groups }
    }

    /// The group of a context below [`N_POSITIONS`] times the number of bands.
    #[inline(always)]
    pub fn group<'a, W: Watch>(
        &'a self,
        context: usize,
        tables: &'a Tables<W>,
    ) -> GroupDecoder<'a, W> {
        let index = usize::from(self.group_of_context[context]);
        GroupDecoder {
            index,
            tables,
            alphabet: self.first_alphabet + 2 * index,
            followers: &self.followers,
        }
    }

    /// Decodes the next number in a context.
    ///
    /// # Errors
    /// As [`GroupDecoder::number`].
    #[inline(always)]
    pub fn number(
        &self,
        context: usize,
        tables: &Tables<impl Watch>,
        stream: &mut Stream,
    ) -> Result<u32, Corrupt> {
        self.group(context, tables).number(stream)
    }
}

/// The error of a run that cannot be.
const CORRUPT_RUN: Corrupt = Corrupt("a run is empty, or is followed by its own number");

/// Decodes numbers of a group.
#[derive(Debug, Clone, Copy)]
pub struct GroupDecoder<'a, W> {
    index: usize,
    tables: &'a Tables<W>,
    alphabet: usize,
    followers: &'a [(Followers, usize)],
}

impl<W: Watch> GroupDecoder<'_, W> {
    /// Decodes the next number in a bitstream.
    ///
    /// # Errors
    /// [`Corrupt`] if the bitstream ends, or for a run that cannot be.
    #[inline(always)]
    pub fn number(self, stream: &mut Stream) -> Result<u32, Corrupt> {
        let group = &mut stream.groups[self.index];
        match group.n_left {
            0 => {
                let (number, run) = self
                    .tables
                    .number_or_run(self.alphabet, &mut stream.reader)?;
                let Some(follower) = run else {
                    return Ok(number);
                };
                if number == 0 {
                    return Err(CORRUPT_RUN);
                }
                group.n_left = number;
                group.next = self.followers[self.index].0[follower];
                Ok(group.run_number)
            }
            1 => {
                group.n_left = 0;
                let number = match group.next {
                    NOT_TOLD => {
                        let alphabet = self.alphabet + 1;
                        self.tables.number_or_run(alphabet, &mut stream.reader)?.0
                    }
                    number => number,
                };
                match number == group.run_number {
                    true => Err(CORRUPT_RUN),
                    false => Ok(number),
                }
            }
            _ => {
                group.n_left -= 1;
                Ok(group.run_number)
            }
        }
    }

    /// Decodes the next number in each of several bitstreams; sooner than one by one with [`number`](Self::number) if
    /// there are no runs, or short ones.
    ///
    /// # Errors
    /// As [`number`](Self::number).
    #[inline(always)]
    pub fn numbers<const N: usize>(self, streams: &mut [Stream; N]) -> Result<[u32; N], Corrupt> {
        let alphabets = [self.alphabet, self.alphabet + 1];
        let [open, after_run] = alphabets.map(|alphabet| self.tables.huffman(alphabet));
        let mut numbers = [0; N];
        match (open, after_run) {
            (Some(open), Some(after_run)) if open.has_runs() => {
                for row in 0..N {
                    numbers[row] =
                        self.number_without_branches(open, after_run, &mut streams[row])?;
                }
            }
            (Some(open), _) => {
                // There is no state to look at.
                for row in 0..N {
                    let reader = &mut streams[row].reader;
                    let table = (self.alphabet, open);
                    (numbers[row], _) = self.tables.decode_if(true, table, reader)?;
                }
            }
            _ => {
                for row in 0..N {
                    numbers[row] = self.number(&mut streams[row])?;
                }
            }
        }
        Ok(numbers)
    }

    /// Decodes the next number as [`number`](Self::number) does, given the tables of both alphabets; without branches on
    /// runs, since short ones cannot be foreseen.
    #[inline(always)]
    fn number_without_branches(
        self,
        open: &DecodeTable,
        after_run: &DecodeTable,
        stream: &mut Stream,
    ) -> Result<u32, Corrupt> {
        let group = &mut stream.groups[self.index];
        let is_after = group.n_left == 1;
        // Whether the symbol of the run has told the number.
        let is_told = (group.n_left > 1) | (is_after & (group.next != NOT_TOLD));
        let (open, after_run) = ((self.alphabet, open), (self.alphabet + 1, after_run));
        let table = select_unpredictable(is_after & !is_told, after_run, open);
        let (read, kind) = self.tables.decode_if(!is_told, table, &mut stream.reader)?;
        let is_run = !is_told & (kind > 0);
        let told = select_unpredictable(is_after, group.next, group.run_number);
        let told = select_unpredictable(is_run, group.run_number, told);
        let number = select_unpredictable(is_told | is_run, told, read);
        if (is_run & (read == 0)) | (is_after & (number == group.run_number)) {
            return Err(CORRUPT_RUN);
        }
        group.n_left = select_unpredictable(is_run, read, group.n_left.saturating_sub(1));
        // After a number, it does not matter.
        let next = self.followers[self.index].0[kind.saturating_sub(1) & MAX_FOLLOWERS];
        group.next = select_unpredictable(is_told, group.next, next);
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::super::noise;
    use super::*;

    /// The groups after a round trip of numbers in contexts, which stand in two bitstreams, one after the other.
    fn round_trip(n_bands: usize, numbers: &[(usize, u32)]) -> Groups {
        let mut sequences = Sequence::several(2, numbers.len(), LEVELS);
        for sequence in &mut sequences {
            for &(context, number) in numbers {
                sequence.push_number(context, number);
            }
        }
        let groups = Groups::of(&mut sequences, n_bands, 0, Coder::Huffman);
        let alphabets = groups.alphabets();
        let codebooks: Vec<Codebook> = groups
            .frequencies(&sequences, &alphabets)
            .iter()
            .map(|frequencies| Codebook::from_frequencies(frequencies, 1))
            .collect();
        let codes: Vec<Vec<Code>> = codebooks
            .iter()
            .map(|codebook| codebook.codes().collect())
            .collect();
        let mut writer = BitWriter::new();
        groups.write_to(&mut writer);
        codebooks
            .iter()
            .for_each(|codebook| codebook.write_to(&mut writer));
        for (index, sequence) in sequences.iter().enumerate() {
            groups.write_symbols(sequence, index, &codes, &mut writer);
        }
        let bytes = writer.finish();
        let mut reader = BitReader::new(&bytes);
        let decoder = ContextDecoder::read_from(&mut reader, n_bands, 0, LEVELS).unwrap();
        assert_eq!(decoder.alphabets().len(), alphabets.len());
        let (tables, [mut reader]) = Tables::read_from(&mut reader, &alphabets, ()).unwrap();
        for _ in 0..2 {
            let mut stream = decoder.stream(reader);
            for &(context, number) in numbers {
                let decoded = decoder.number(context, &tables, &mut stream).unwrap();
                assert_eq!(decoded, number);
            }
            reader = stream.reader;
        }
        reader.finish().unwrap();
        groups
    }

    #[test]
    fn numbers_of_several_bitstreams_are_those_of_each() {
        let (mut n_numbers, mut errors) = (0, std::collections::BTreeSet::new());
        for seed in 0..400 {
            let n_followers = seed % (MAX_FOLLOWERS + 1);
            let mut writer = BitWriter::new();
            let group = [1, 1, N_POSITIONS as u32, 1, n_followers as u32 + 1];
            // The last follower is the number of the runs, which no encoder writes; nor does it runs of no length.
            let followers = [3, 2, 1];
            let followers = &followers[MAX_FOLLOWERS - n_followers..];
            for number in group.iter().chain(followers) {
                write_gamma(&mut writer, *number);
            }
            let alphabets = alphabets(LEVELS, std::iter::once(n_followers));
            for alphabet in &alphabets {
                let n_used = alphabet.size - seed / 4 % alphabet.size;
                let frequency = |symbol| match symbol < n_used {
                    true => u64::from(noise(seed * 1000 + symbol) % 7),
                    false => 0,
                };
                let frequencies: Vec<u64> = (0..alphabet.size).map(frequency).collect();
                Codebook::from_frequencies(&frequencies, 1).write_to(&mut writer);
            }
            for word in 0..1 + seed % 100 {
                writer.write(noise(seed * 100 + word), 32);
            }
            let bytes = writer.finish();
            let mut reader = BitReader::new(&bytes);
            let decoder = ContextDecoder::read_from(&mut reader, 1, 0, LEVELS).unwrap();
            let (tables, [first]) = Tables::read_from(&mut reader, &alphabets, ()).unwrap();
            // Other bits, since it starts later.
            let mut second = first.clone();
            second.read(3).unwrap();
            let streams = || [&first, &second].map(|reader| decoder.stream(reader.clone()));
            let (mut each, mut several) = (streams(), streams());
            let group = decoder.group(0, &tables);
            // Runs may be long.
            for _ in 0..5000 {
                let of_each: Result<Vec<u32>, Corrupt> =
                    each.iter_mut().map(|stream| group.number(stream)).collect();
                let of_several = group.numbers(&mut several).map(|numbers| numbers.to_vec());
                assert_eq!(of_each, of_several);
                n_numbers += 1;
                if let Err(error) = of_several {
                    errors.insert(error.0);
                    break;
                }
            }
        }
        assert!(n_numbers > 10_000, "{n_numbers}");
        assert!(
            errors.contains(CORRUPT_RUN.0) && errors.len() > 1,
            "{errors:?}"
        );
    }

    /// Numbers that are mostly 0; the others are 1 to 4.
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
