//! Rows in which many classes live: each class is coded in the context of what is expected of it
//! (FORMAT.md, section 8).
//!
//! The head tells the top class, and whether the row is certain: the top class alone, with all of the
//! mass. Otherwise every other class follows in order. A [`Regression`] on the rows and classes already
//! known gives what to expect of its level; the expectation, rounded, is the context, and neighbouring
//! contexts form groups with codebooks of their own. The commonest level of a group, mostly 0, is coded in
//! runs along the group's own sequence, so that it costs less than the bit that a code needs at least.
//! The level of the top class comes last: it is nearly what is left of the mass.

use super::Error;
use super::bitstream::{BitReader, BitWriter};
use super::block::{Symbol, Tables};
use super::codebook::{Codebook, entropy_bits, read_gamma, write_gamma};
use super::quantizer::Quantizer;
use super::regression::Regression;
use super::tokens::{LEVELS, RUNS, Token, from_zigzag, zigzag};
use crate::matrix::{PredictionMatrix, argmax};

/// The largest number of classes: the regression's cost grows with its square.
pub const MAX_CLASSES: usize = 256;

/// Expectations from below 0 to above 20 in steps of a quarter. Format-stable.
const N_CONTEXTS: usize = 83;

const HEAD: usize = 0;
const RAW: usize = 1;
const REST: usize = 2;
const N_RESTS: usize = 5;
/// The first of two alphabets a group: where a run may begin, and after a run.
const GROUPS: usize = REST + N_RESTS;

/// The context of an expectation.
#[inline]
fn context(expectation: f32) -> usize {
    // A cast of a float saturates.
    ((expectation * 4.0 + 2.5) as u8)
        .min(N_CONTEXTS as u8 - 1)
        .into()
}

/// The alphabet of the top level, by the number of other levels above 0.
fn rest_alphabet(n_others: usize) -> usize {
    REST + ((n_others + 1).ilog2() as usize).min(N_RESTS - 1)
}

/// What the top level most likely is: the mass left, but not below the largest other level.
fn likely_top(n_levels: u32, others: &[(usize, u32)]) -> i32 {
    let sum: i64 = others.iter().map(|&(_, level)| i64::from(level)).sum();
    let largest = others.iter().map(|&(_, level)| level).max().unwrap_or(0);
    let n_levels = i64::from(n_levels);
    (n_levels - sum).clamp(i64::from(largest), n_levels) as i32
}

/// A level of a class, in the order of coding.
struct Entry {
    position: u32,
    context: u8,
    level: u32,
}

/// Neighbouring contexts that share codebooks.
#[derive(Debug)]
struct Group {
    /// Number of contexts.
    width: usize,
    /// The level that runs are made of.
    run_level: u32,
    /// Lengths of all runs in order; none if the level stands for itself.
    run_lengths: Vec<u32>,
}

/// How a block is coded: the groups of contexts and all symbols in order.
pub struct Coding {
    groups: Vec<Group>,
    /// The symbols.
    pub symbols: Vec<Symbol>,
}

impl Coding {
    /// The coding of the rows of `matrix`; those marked in `is_exact` are stored bit for bit.
    pub fn new(matrix: &PredictionMatrix, is_exact: &[bool], quantizer: Quantizer) -> Self {
        let (entries, symbols) = walk(matrix, is_exact, quantizer);
        let candidates = group_contexts(&entries);
        let group_of_context: Vec<usize> = candidates
            .iter()
            .enumerate()
            .flat_map(|(group, candidate)| std::iter::repeat_n(group, candidate.width))
            .collect();
        let groups = find_runs(&entries, &group_of_context, &candidates);
        Self {
            symbols: code(&entries, symbols, &group_of_context, &groups),
            groups,
        }
    }

    /// Writes the groups.
    pub fn write_groups(&self, writer: &mut BitWriter) {
        write_gamma(writer, self.groups.len() as u32);
        for group in &self.groups {
            write_gamma(writer, group.width as u32);
            write_gamma(writer, group.run_level + 1);
        }
    }

    /// The sizes of the alphabets.
    pub fn alphabet_sizes(&self, n_classes: usize) -> Vec<usize> {
        alphabet_sizes(n_classes, self.groups.len())
    }
}

fn alphabet_sizes(n_classes: usize, n_groups: usize) -> Vec<usize> {
    let mut sizes = vec![2 * n_classes + 1, 1];
    sizes.resize(GROUPS, LEVELS.count());
    for _ in 0..n_groups {
        sizes.extend([RUNS.count() + LEVELS.count(), LEVELS.count()]);
    }
    sizes
}

/// All rows: the entries, whose coding depends on their group, and the symbols that do not, each with
/// its position in the order of coding.
fn walk(
    matrix: &PredictionMatrix,
    is_exact: &[bool],
    quantizer: Quantizer,
) -> (Vec<Entry>, Vec<(u32, Symbol)>) {
    let n_classes = matrix.n_classes();
    let n_levels = quantizer.n_levels();
    let mut regression = Regression::new(n_classes);
    let mut expectations = vec![0.0; n_classes];
    let mut others: Vec<(usize, u32)> = Vec::new();
    let (mut entries, mut symbols) = (Vec::new(), Vec::new());
    let mut position = 0;
    let mut next = || {
        position += 1;
        position
    };
    for (row, &is_exact) in matrix.rows().zip(is_exact) {
        if is_exact {
            symbols.push((next(), Symbol::new(HEAD, 2 * n_classes as u32)));
            for value in row {
                let bits = Token {
                    value: 0,
                    extra: value.to_bits(),
                    n_extra_bits: 32,
                };
                symbols.push((next(), Symbol::with_extra(RAW, bits)));
            }
            continue;
        }
        let top = argmax(row);
        let top_level = quantizer.quantize(row[top]);
        others.clear();
        others.extend(row.iter().enumerate().filter_map(|(class, &value)| {
            let level = quantizer.quantize(value);
            (level > 0 && class != top).then_some((class, level))
        }));
        let is_certain = others.is_empty() && top_level == n_levels;
        let head = 2 * top as u32 + u32::from(is_certain);
        symbols.push((next(), Symbol::new(HEAD, head)));
        if is_certain {
            continue;
        }

        regression.start_row(top, &mut expectations);
        let mut rest = others.iter().peekable();
        for class in (0..n_classes).filter(|&class| class != top) {
            let level = rest
                .next_if(|&&(other, _)| other == class)
                .map_or(0, |&(_, level)| level);
            entries.push(Entry {
                position: next(),
                context: context(expectations[class]) as u8,
                level,
            });
            if level > 0 {
                regression.update(class, level, &mut expectations);
            }
        }
        let distance = likely_top(n_levels, &others) - top_level as i32;
        symbols.push((
            next(),
            Symbol::with_extra(rest_alphabet(others.len()), LEVELS.split(zigzag(distance))),
        ));
        regression.learn(top, &others);
    }
    (entries, symbols)
}

/// A group in the making.
struct Candidate {
    width: usize,
    /// By level token.
    frequencies: Vec<u64>,
    cost: f64,
}

impl Candidate {
    fn new(width: usize, frequencies: Vec<u64>) -> Self {
        /// About what a symbol takes in a codebook.
        const BITS_A_SYMBOL: f64 = 7.0;
        let n_used = frequencies.iter().filter(|&&n| n > 0).count();
        Self {
            width,
            cost: entropy_bits(&frequencies) + BITS_A_SYMBOL * n_used as f64,
            frequencies,
        }
    }

    fn join(&self, other: &Self) -> Self {
        let pairs = self.frequencies.iter().zip(&other.frequencies);
        Self::new(
            self.width + other.width,
            pairs.map(|(a, b)| a + b).collect(),
        )
    }

    /// The commonest of the levels that are their own token; of two the lower one.
    fn commonest_level(&self) -> u32 {
        let of_level = |level: &usize| (self.frequencies[*level], 16 - level);
        (0..16).max_by_key(of_level).unwrap_or(0) as u32
    }
}

/// Joins neighbouring contexts into groups as long as that saves bits: contexts of a group share
/// codebooks.
fn group_contexts(entries: &[Entry]) -> Vec<Candidate> {
    let mut of_context = vec![vec![0; LEVELS.count()]; N_CONTEXTS];
    for entry in entries {
        of_context[usize::from(entry.context)][LEVELS.split(entry.level).value as usize] += 1;
    }
    let mut groups: Vec<Candidate> = of_context
        .into_iter()
        .map(|frequencies| Candidate::new(1, frequencies))
        .collect();
    loop {
        let best = groups
            .windows(2)
            .map(|pair| pair[0].join(&pair[1]).cost - pair[0].cost - pair[1].cost)
            .enumerate()
            .min_by(|a, b| a.1.total_cmp(&b.1));
        match best {
            Some((first, change)) if change <= 0.0 => {
                let second = groups.remove(first + 1);
                groups[first] = groups[first].join(&second);
            }
            _ => return groups,
        }
    }
}

/// Finds the runs of each group's commonest level, and drops them where plain symbols cost less.
fn find_runs(
    entries: &[Entry],
    group_of_context: &[usize],
    candidates: &[Candidate],
) -> Vec<Group> {
    /// Frequencies with runs: of the first alphabet, and of the one after a run.
    struct Counts {
        first: Vec<u64>,
        after_run: Vec<u64>,
        n_extra_bits: u64,
        run_length: u32,
    }
    let mut groups: Vec<Group> = candidates
        .iter()
        .map(|candidate| Group {
            width: candidate.width,
            run_level: candidate.commonest_level(),
            run_lengths: Vec::new(),
        })
        .collect();
    let mut counts: Vec<Counts> = candidates
        .iter()
        .map(|_| Counts {
            first: vec![0; RUNS.count() + LEVELS.count()],
            after_run: vec![0; LEVELS.count()],
            n_extra_bits: 0,
            run_length: 0,
        })
        .collect();
    let end_run = |group: &mut Group, counts: &mut Counts| {
        let token = RUNS.split(counts.run_length);
        counts.first[token.value as usize] += 1;
        counts.n_extra_bits += u64::from(token.n_extra_bits);
        group.run_lengths.push(counts.run_length);
        counts.run_length = 0;
    };
    for entry in entries {
        let index = group_of_context[usize::from(entry.context)];
        let (group, counts) = (&mut groups[index], &mut counts[index]);
        let token = LEVELS.split(entry.level).value as usize;
        if entry.level == group.run_level {
            counts.run_length += 1;
        } else if counts.run_length > 0 {
            end_run(group, counts);
            counts.after_run[token] += 1;
        } else {
            counts.first[RUNS.count() + token] += 1;
        }
    }
    for ((group, counts), candidate) in groups.iter_mut().zip(&mut counts).zip(candidates) {
        if counts.run_length > 0 {
            end_run(group, counts);
        }
        // Codes, not entropy: the bit that a code costs at least is what runs are for.
        let n_bits =
            |frequencies: &[u64]| Codebook::from_frequencies(frequencies).n_bits(frequencies);
        let plain = n_bits(&candidate.frequencies);
        if plain <= n_bits(&counts.first) + n_bits(&counts.after_run) + counts.n_extra_bits {
            group.run_lengths.clear();
        }
    }
    groups
}

/// All symbols in order: those of the entries, and `others`, each with its position. A run is one symbol,
/// at the position of its first entry. The level after a run is known to be another one and has an
/// alphabet of its own.
fn code(
    entries: &[Entry],
    others: Vec<(u32, Symbol)>,
    group_of_context: &[usize],
    groups: &[Group],
) -> Vec<Symbol> {
    let mut symbols = Vec::with_capacity(entries.len() / 4 + others.len());
    let mut others = others.into_iter().peekable();
    let mut runs: Vec<_> = groups
        .iter()
        .map(|group| group.run_lengths.iter())
        .collect();
    let mut states = vec![State::Open; groups.len()];
    for entry in entries {
        while let Some((_, symbol)) = others.next_if(|other| other.0 < entry.position) {
            symbols.push(symbol);
        }
        let index = group_of_context[usize::from(entry.context)];
        let alphabet = GROUPS + 2 * index;
        states[index] = match states[index] {
            State::Run(0) => {
                let token = LEVELS.split(entry.level);
                symbols.push(Symbol::with_extra(alphabet + 1, token));
                State::Open
            }
            State::Run(n_left) => State::Run(n_left - 1),
            State::Open => match runs[index].as_slice().first() {
                Some(&length) if entry.level == groups[index].run_level => {
                    runs[index].next();
                    symbols.push(Symbol::with_extra(alphabet, RUNS.split(length)));
                    State::Run(length - 1)
                }
                _ => {
                    let mut token = LEVELS.split(entry.level);
                    token.value += RUNS.count() as u32;
                    symbols.push(Symbol::with_extra(alphabet, token));
                    State::Open
                }
            },
        };
    }
    symbols.extend(others.map(|(_, symbol)| symbol));
    symbols
}

/// Where a group stands in its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Any symbol may follow.
    Open,
    /// The run goes on so many times, then another level follows.
    Run(u32),
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
    if n_classes > MAX_CLASSES {
        return Err(Error::Corrupt("a block of many classes has expectations"));
    }
    let (group_of_context, run_levels) = read_groups(reader)?;
    let n_groups = run_levels.len();
    let mut decoder = Decoder {
        tables: Tables::read_from(reader, &alphabet_sizes(n_classes, n_groups))?,
        group_of_context,
        run_levels,
        states: vec![State::Open; n_groups],
        regression: Regression::new(n_classes),
        expectations: vec![0.0; n_classes],
        n_levels: quantizer.n_levels(),
    };
    let mut others = Vec::new();
    for row in values.chunks_exact_mut(n_classes) {
        let head = decoder.tables.symbol(HEAD, reader)? as usize;
        let top = head / 2;
        if top == n_classes {
            for value in row {
                decoder.tables.symbol(RAW, reader)?;
                *value = f32::from_bits(reader.read(32)?);
            }
        } else {
            others.clear();
            let top_level = match head % 2 {
                1 => decoder.n_levels,
                _ => decoder.row(reader, top, &mut others)?,
            };
            others.push((top, top_level));
            quantizer.dequantize_row(&others, top, row);
        }
    }
    Ok(())
}

/// Reads the groups: the group of each context, and the run level of each group.
fn read_groups(reader: &mut BitReader) -> Result<(Vec<usize>, Vec<u32>), Error> {
    let n_groups = read_gamma(reader)? as usize;
    let mut group_of_context = Vec::new();
    let mut run_levels = Vec::new();
    for group in 0..n_groups.min(N_CONTEXTS) {
        let width = read_gamma(reader)? as usize;
        let n_left = N_CONTEXTS - group_of_context.len();
        group_of_context.extend(std::iter::repeat_n(group, width.min(n_left + 1)));
        run_levels.push(read_gamma(reader)? - 1);
        if group_of_context.len() > N_CONTEXTS {
            break;
        }
    }
    match group_of_context.len() == N_CONTEXTS && run_levels.len() == n_groups {
        true => Ok((group_of_context, run_levels)),
        false => Err(Error::Corrupt("the groups of contexts do not fit")),
    }
}

struct Decoder {
    tables: Tables,
    group_of_context: Vec<usize>,
    /// Of each group.
    run_levels: Vec<u32>,
    /// Of each group.
    states: Vec<State>,
    regression: Regression,
    expectations: Vec<f32>,
    n_levels: u32,
}

impl Decoder {
    /// Decodes the levels above 0 of the classes other than `top` into `others`, and returns that of
    /// `top`.
    fn row(
        &mut self,
        reader: &mut BitReader,
        top: usize,
        others: &mut Vec<(usize, u32)>,
    ) -> Result<u32, Error> {
        self.regression.start_row(top, &mut self.expectations);
        for class in 0..self.expectations.len() {
            if class == top {
                continue;
            }
            let group = self.group_of_context[context(self.expectations[class])];
            let level = self.level(reader, group)?;
            if level > 0 {
                others.push((class, level));
                self.regression.update(class, level, &mut self.expectations);
            }
        }
        let rest = self
            .tables
            .number(rest_alphabet(others.len()), LEVELS, reader)?;
        let level = likely_top(self.n_levels, others) - from_zigzag(rest);
        let largest = others.iter().map(|&(_, level)| level).max().unwrap_or(0);
        if !(largest as i32..=self.n_levels as i32).contains(&level) {
            return Err(Error::Corrupt("the level of a top class is out of range"));
        }
        self.regression.learn(top, others);
        Ok(level as u32)
    }

    /// Decodes the next level of a group.
    #[inline]
    fn level(&mut self, reader: &mut BitReader, group: usize) -> Result<u32, Error> {
        const CORRUPT: Error = Error::Corrupt("a level is out of range");
        let alphabet = GROUPS + 2 * group;
        let run_level = self.run_levels[group];
        let level = match self.states[group] {
            State::Run(0) => {
                let level = self.tables.number(alphabet + 1, LEVELS, reader)?;
                if level == run_level {
                    return Err(CORRUPT);
                }
                self.states[group] = State::Open;
                level
            }
            State::Run(n_left) => {
                self.states[group] = State::Run(n_left - 1);
                return Ok(run_level);
            }
            State::Open => {
                let symbol = self.tables.symbol(alphabet, reader)?;
                match symbol.checked_sub(RUNS.count() as u32) {
                    Some(token) => {
                        let extra = reader.read(LEVELS.n_extra_bits(token))?;
                        LEVELS.join(token, extra)
                    }
                    None => {
                        let extra = reader.read(RUNS.n_extra_bits(symbol))?;
                        let n_left = RUNS.join(symbol, extra).checked_sub(1).ok_or(CORRUPT)?;
                        self.states[group] = State::Run(n_left);
                        run_level
                    }
                }
            }
        };
        match level <= self.n_levels {
            true => Ok(level),
            false => Err(CORRUPT),
        }
    }
}
