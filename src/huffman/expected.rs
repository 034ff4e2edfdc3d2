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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Group {
    /// Number of contexts.
    width: usize,
    /// The level that runs are made of.
    run_level: u32,
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
        let (entries, mut symbols) = walk(matrix, is_exact, quantizer);
        let widths = group_contexts(&entries);
        let (groups, coded) = code_entries(&entries, &widths);
        symbols.extend(coded);
        symbols.sort_unstable_by_key(|&(position, _)| position);
        Self {
            groups,
            symbols: symbols.into_iter().map(|(_, symbol)| symbol).collect(),
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

/// Joins neighbouring contexts into groups as long as that saves bits: contexts of a group share
/// codebooks. Returns the number of contexts of each group.
fn group_contexts(entries: &[Entry]) -> Vec<usize> {
    struct Candidate {
        width: usize,
        frequencies: Vec<u64>,
        cost: f64,
    }
    let group = |width, frequencies: Vec<u64>| Candidate {
        width,
        cost: cost(&frequencies),
        frequencies,
    };
    let mut of_context = vec![vec![0; LEVELS.count()]; N_CONTEXTS];
    for entry in entries {
        of_context[usize::from(entry.context)][LEVELS.split(entry.level).value as usize] += 1;
    }
    let mut groups: Vec<Candidate> = of_context.into_iter().map(|f| group(1, f)).collect();
    loop {
        let join = |a: &Candidate, b: &Candidate| {
            let sums = a.frequencies.iter().zip(&b.frequencies).map(|(a, b)| a + b);
            group(a.width + b.width, sums.collect())
        };
        let best = groups
            .windows(2)
            .map(|pair| join(&pair[0], &pair[1]).cost - pair[0].cost - pair[1].cost)
            .enumerate()
            .min_by(|a, b| a.1.total_cmp(&b.1));
        match best {
            Some((first, change)) if change <= 0.0 => {
                let second = groups.remove(first + 1);
                groups[first] = join(&groups[first], &second);
            }
            _ => return groups.iter().map(|group| group.width).collect(),
        }
    }
}

/// About what symbols of these frequencies cost in bits, codebook included.
fn cost(frequencies: &[u64]) -> f64 {
    const BITS_A_SYMBOL: f64 = 7.0;
    let n_used = frequencies.iter().filter(|&&n| n > 0).count();
    entropy_bits(frequencies) + BITS_A_SYMBOL * n_used as f64
}

/// The groups and the symbols of the entries. In each group, its commonest level is joined to runs, or
/// stands for itself where that costs less.
fn code_entries(entries: &[Entry], widths: &[usize]) -> (Vec<Group>, Vec<(u32, Symbol)>) {
    let group_of_context: Vec<usize> = widths
        .iter()
        .enumerate()
        .flat_map(|(group, &width)| std::iter::repeat_n(group, width))
        .collect();
    let mut of_group: Vec<Vec<&Entry>> = vec![Vec::new(); widths.len()];
    for entry in entries {
        of_group[group_of_context[usize::from(entry.context)]].push(entry);
    }
    let sizes = alphabet_sizes(0, widths.len());
    let mut groups = Vec::new();
    let mut symbols = Vec::new();
    for ((index, entries), &width) in of_group.iter().enumerate().zip(widths) {
        let alphabet = GROUPS + 2 * index;
        let run_level = commonest_level(entries);
        let in_runs = with_runs(entries, alphabet, run_level);
        let plain: Vec<(u32, Symbol)> = entries
            .iter()
            .map(|entry| (entry.position, level_symbol(alphabet, entry.level)))
            .collect();
        let cost = |symbols: &[(u32, Symbol)]| {
            let mut frequencies = [vec![0; sizes[alphabet]], vec![0; sizes[alphabet + 1]]];
            let mut n_extra_bits = 0;
            for (_, symbol) in symbols {
                frequencies[symbol.alphabet() - alphabet][symbol.value() as usize] += 1;
                n_extra_bits += u64::from(symbol.n_extra_bits());
            }
            // Codes, not entropy: the bit that a code costs at least is what runs are for.
            let n_bits = |frequencies: &Vec<u64>| {
                Codebook::from_frequencies(frequencies).n_bits(frequencies)
            };
            frequencies.iter().map(n_bits).sum::<u64>() + n_extra_bits
        };
        groups.push(Group { width, run_level });
        match cost(&plain) <= cost(&in_runs) {
            true => symbols.extend(plain),
            false => symbols.extend(in_runs),
        }
    }
    (groups, symbols)
}

/// The commonest of the levels that are their own token; 0 if there are none.
fn commonest_level(entries: &[&Entry]) -> u32 {
    let mut counts = [0; 16];
    for entry in entries {
        if let Some(count) = counts.get_mut(entry.level as usize) {
            *count += 1;
        }
    }
    let commonest = (0..counts.len()).max_by_key(|&level| (counts[level], 16 - level));
    commonest.unwrap_or(0) as u32
}

/// A level in the first alphabet of a group.
fn level_symbol(alphabet: usize, level: u32) -> Symbol {
    let mut token = LEVELS.split(level);
    token.value += RUNS.count() as u32;
    Symbol::with_extra(alphabet, token)
}

/// The entries of a group with each run as one symbol, at the position of its first entry. The level after
/// a run is known to be another one and has an alphabet of its own.
fn with_runs(entries: &[&Entry], alphabet: usize, run_level: u32) -> Vec<(u32, Symbol)> {
    let mut symbols = Vec::new();
    let mut rest = entries;
    while let Some(first) = rest.first() {
        let in_run = |entry: &&&Entry| entry.level == run_level;
        let length = rest.iter().take_while(in_run).count();
        if length > 0 {
            let run = RUNS.split(length as u32);
            symbols.push((first.position, Symbol::with_extra(alphabet, run)));
        }
        if let Some(entry) = rest.get(length) {
            let symbol = match length {
                0 => level_symbol(alphabet, entry.level),
                _ => Symbol::with_extra(alphabet + 1, LEVELS.split(entry.level)),
            };
            symbols.push((entry.position, symbol));
        }
        rest = rest.get(length + 1..).unwrap_or_default();
    }
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
