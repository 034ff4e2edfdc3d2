//! A second decoder, written from FORMAT.md alone: bit by bit, without tables, sharing no code with the
//! first. Both must give the same bits.

#![expect(
    clippy::needless_range_loop,
    reason = "sums over indices, as the specification has them"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::ops::Range;

use bitvec::prelude::*;
use pc::huffman::{
    Bound, FileIndex, FrameHeader, FrameReader, FrameWriter, Kind, Promise, ReferenceName,
    ReferenceRows,
};
use pc::matrix::{PredictionMatrix, argmax};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What occurred in files: the tests see to it that everything does.
#[derive(Debug, Default)]
struct Seen {
    models: BTreeSet<u64>,
    /// First bytes of payloads.
    first_bytes: BTreeSet<u8>,
    /// What the first bytes of blocks with exact rows were.
    first_bytes_with_exact_rows: BTreeSet<u8>,
    /// First bytes of blocks in which an order is told, and how many classes were before the one told.
    first_bytes_with_orders: BTreeSet<(u8, usize)>,
    /// Numbers of rows of blocks of several bitstreams.
    n_rows_of_several: BTreeSet<usize>,
    /// How fine lengths for rANS are.
    us: BTreeSet<u32>,
    /// Bits of the shares of symbols.
    share_bits: BTreeSet<u32>,
    /// Models with exact rows.
    exact_models: BTreeSet<u64>,
    n_exact_rows: u64,
    /// Models in which an order is told, and how many classes were before the one told.
    orders: BTreeSet<(u64, usize)>,
    n_set_apart: u64,
    /// Models with certain rows.
    certain_models: BTreeSet<u64>,
    /// Models of roots, how many steps halve the divergence, and finenesses modulo their number.
    finenesses: BTreeSet<(u64, i32, i32)>,
    /// Numbers of values of tables.
    table_sizes: BTreeSet<usize>,
    /// How many bands were alike.
    bands_alike: BTreeSet<u32>,
    n_followers: u64,
    n_runs_without_follower: u64,
    /// Misses that stand with first ranks.
    n_joint_misses: u64,
    n_tied_ranks: u64,
    /// How many others a ranked row had.
    most_others: usize,
    /// Sizes of panels that were fitted.
    panel_sizes: BTreeSet<usize>,
    longest_code: u32,
    /// Ranks of top classes in the rows of a reference.
    top_ranks: BTreeSet<usize>,
    /// Models of floats and minifloats, with their bits of mantissa.
    mantissas: BTreeSet<(u64, u32)>,
    /// Tokens of limited schemes that are so because of that.
    n_limited_tokens: u64,
    /// Top levels of floats whose numbers were other than the number of what is left.
    n_unlikely_floats: u64,
    /// What is left for the top class, but is no level of floats.
    n_rounded_floats: u64,
    /// Models of distinct rows.
    models_of_distinct: BTreeSet<u64>,
    /// Numbers of repeated rows, at most 2, and their contexts.
    repeated_numbers: BTreeSet<u32>,
    repeated_contexts: BTreeSet<usize>,
    /// Models after the row before, and whether the top class is that of the row before.
    tops_as_before: BTreeSet<(u64, bool)>,
    /// Models after the row before, and their cautions.
    cautions: BTreeSet<(u64, u64)>,
    /// Models after the row before that have exact rows before others.
    models_after_exact_rows: BTreeSet<u64>,
    /// Models given earlier rows, whether there is a gradient, and whether the lag is 1.
    earlier: BTreeSet<(u64, bool, bool)>,
    /// Block-sorted models, and their scans.
    scans: BTreeSet<(u64, u64)>,
    /// Those that are coded with rANS, or not.
    sorted_with_rans: BTreeSet<(u64, bool)>,
    /// Ranks of sorted numbers, at most 3, and their contexts.
    sorted_ranks: BTreeSet<u32>,
    sorted_contexts: BTreeSet<usize>,
    /// Contexts of ranks in models 45 and 46, and those of first classes.
    contexts_by_numbers: BTreeSet<usize>,
    /// Of ranks above 2, how many of *b* and *c* had smaller distances.
    n_skipped: BTreeSet<usize>,
}

/// Section 2: the lowest bit of a byte first.
struct Bitstream<'a> {
    bits: &'a BitSlice<u8, Lsb0>,
    position: usize,
    /// Section 14: the state.
    x: u64,
}

impl<'a> Bitstream<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let bits = BitSlice::from_slice(bytes);
        Self {
            bits,
            position: 0,
            x: 1 << 16,
        }
    }
}

/// A payload.
struct Bits<'a> {
    bytes: &'a [u8],
    is_several: bool,
    is_rans: bool,
    /// Section 14: how fine lengths are.
    u: u32,
    /// At first one, the payload; section 15: then perhaps several of rows.
    streams: Vec<Bitstream<'a>>,
    /// Which of them is read.
    at: usize,
    seen: &'a mut Seen,
}

enum Codebook {
    /// Section 5: the used symbols by the lengths and values of their codes.
    Huffman(BTreeMap<(u32, u32), usize>),
    /// Section 14: *b*, and the used symbols with their shares.
    Rans(u32, Vec<(usize, Range<u64>)>),
}

/// Section 5.
fn huffman_codebook(symbols: &[(usize, u32)]) -> Codebook {
    let mut symbols: Vec<(u32, usize)> = symbols.iter().map(|&(s, length)| (length, s)).collect();
    symbols.sort();
    // RFC 1951, section 3.2.2: consecutive values, zeros appended where the length grows.
    let mut codes = BTreeMap::new();
    let (mut code, mut code_length) = (0, 0);
    for (length, symbol) in symbols {
        code <<= length - code_length;
        codes.insert((length, code), symbol);
        (code, code_length) = (code + 1, length);
    }
    Codebook::Huffman(codes)
}

/// Section 14: *R*.
const R: [u64; 8] = [65536, 60097, 55109, 50535, 46341, 42495, 38968, 35734];

/// Section 14.
fn rans_codebook(symbols: &[(usize, u32)], u: u32) -> Codebook {
    let weight = |length: u32| {
        let (whole, part) = ((length - 1) / (1 << u), (length - 1) % (1 << u));
        (R[(part * (1 << (3 - u))) as usize] / (1 << whole)).max(1)
    };
    let n = symbols.len() as u64;
    if n == 0 {
        return Codebook::Rans(0, vec![]);
    }
    let ceil_log2 = (0..).find(|&bits| n <= 1 << bits).unwrap();
    let b = (ceil_log2 + 2).max(12);
    let all: u64 = symbols.iter().map(|symbol| weight(symbol.1)).sum();
    let mut shares = Vec::new();
    let (mut sum, mut begin) = (0, 0);
    for (i, &(symbol, length)) in symbols.iter().enumerate() {
        sum += weight(length);
        let end = ((1 << b) - n) * sum / all + (i as u64 + 1);
        shares.push((symbol, begin..end));
        begin = end;
    }
    assert_eq!(begin, 1 << b);
    Codebook::Rans(b, shares)
}

impl Bits<'_> {
    fn bit(&mut self) -> u32 {
        let stream = &mut self.streams[self.at];
        stream.position += 1;
        u32::from(stream.bits[stream.position - 1])
    }

    fn number(&mut self, n_bits: u32) -> u64 {
        (0..n_bits).map(|i| u64::from(self.bit()) << i).sum()
    }

    /// Section 2.
    fn gamma(&mut self) -> u32 {
        let mut k = 0;
        while self.bit() == 0 {
            k += 1;
        }
        assert!(k <= 24);
        (1 << k) + self.number(k) as u32
    }

    /// Section 14.
    fn before_codebooks(&mut self) {
        if self.is_rans {
            self.u = self.number(2) as u32;
            self.seen.us.insert(self.u);
        }
    }

    /// Section 5, for rANS section 14.
    fn codebook(&mut self, size: usize, stride: usize) -> Codebook {
        let unit = if self.is_rans { 1 << self.u } else { 1 };
        let longest = if self.is_rans { 16 * unit } else { 15 };
        let n_runs = self.gamma() - 1;
        let mut lengths: Vec<Option<u32>> = Vec::new();
        let mut last_length = 4 * unit;
        // How many codes of 15 bits are left.
        let mut space = 1u32 << 15;
        for run in 0..n_runs {
            let n_unused = self.gamma() - u32::from(run == 0);
            lengths.resize(lengths.len() + n_unused as usize, None);
            let n_symbols = self.gamma();
            for i in 0..n_symbols {
                let is_last = run + 1 == n_runs && i + 1 == n_symbols;
                let length = if is_last && !self.is_rans {
                    assert!(space.is_power_of_two(), "no length completes the code");
                    15 - space.ilog2()
                } else {
                    let similar = lengths.len().checked_sub(stride).and_then(|s| lengths[s]);
                    let expected = similar.unwrap_or(last_length) as i32;
                    let length = expected + from_zigzag(self.gamma() - 1);
                    assert!(
                        (1..=longest as i32).contains(&length),
                        "a length of {length}"
                    );
                    if !self.is_rans {
                        let n_codes = 1 << (15 - length);
                        assert!(n_codes < space, "too many codes");
                        space -= n_codes;
                    }
                    length as u32
                };
                lengths.push(Some(length));
                last_length = length;
            }
        }
        assert!(lengths.len() <= size, "a symbol above {size}");
        let symbols: Vec<(usize, u32)> = lengths
            .iter()
            .enumerate()
            .filter_map(|(symbol, length)| length.map(|length| (symbol, length)))
            .collect();
        match self.is_rans {
            false => huffman_codebook(&symbols),
            true => rans_codebook(&symbols, self.u),
        }
    }

    fn codebooks(&mut self, n: usize, size: usize) -> Vec<Codebook> {
        (0..n).map(|_| self.codebook(size, 1)).collect()
    }

    /// Section 2: after the last bit of a bitstream; where the next byte begins.
    fn padding(&mut self) -> usize {
        while !self.streams[self.at].position.is_multiple_of(8) {
            assert_eq!(self.bit(), 0, "padding");
        }
        self.streams[self.at].position / 8
    }

    /// Sections 14 and 15: what is between codebooks and rows.
    fn before_rows(&mut self) {
        if self.is_several {
            let lengths: Vec<usize> = (0..7).map(|_| self.gamma() as usize - 1).collect();
            let bytes = self.bytes;
            let mut begin = self.padding();
            self.streams.clear();
            for length in lengths {
                let end = begin + length;
                assert!(end <= bytes.len(), "a length of {length}");
                self.streams.push(Bitstream::new(&bytes[begin..end]));
                begin = end;
            }
            self.streams.push(Bitstream::new(&bytes[begin..]));
        }
        if self.is_rans {
            for at in 0..self.streams.len() {
                self.at = at;
                let x = self.number(32);
                assert!(x >= 1 << 16, "a state of {x}");
                self.streams[at].x = x;
            }
        }
        self.at = 0;
    }

    /// Section 15: before a row, counted from 0.
    fn start_row(&mut self, row: usize) {
        self.at = row % self.streams.len();
    }

    fn after_rows(&mut self) {
        for at in 0..self.streams.len() {
            self.at = at;
            assert_eq!(self.streams[at].x, 1 << 16, "the last state");
            assert_eq!(
                8 * self.padding(),
                self.streams[at].bits.len(),
                "bytes are left"
            );
        }
    }

    fn symbol(&mut self, codebook: &Codebook) -> usize {
        match codebook {
            Codebook::Huffman(codes) => {
                let (mut length, mut code) = (0, 0);
                while !codes.contains_key(&(length, code)) {
                    assert!(length < 15, "no such code");
                    code = code << 1 | self.bit();
                    length += 1;
                }
                self.seen.longest_code = self.seen.longest_code.max(length);
                codes[&(length, code)]
            }
            Codebook::Rans(b, shares) => {
                assert!(!shares.is_empty(), "an alphabet of no symbols");
                if shares.len() == 1 {
                    return shares[0].0;
                }
                self.seen.share_bits.insert(*b);
                let x = self.streams[self.at].x;
                let r = x % (1 << b);
                let (symbol, share) = shares.iter().find(|share| share.1.contains(&r)).unwrap();
                let mut x = (share.end - share.start) * (x / (1 << b)) + r - share.start;
                if x < 1 << 16 {
                    x = (x << 16) + self.number(16);
                }
                self.streams[self.at].x = x;
                *symbol
            }
        }
    }

    /// Section 6: the number of a token, whose extra bits follow.
    fn rest_of_token(&mut self, token: usize, scheme: Scheme) -> u32 {
        let (d, m) = (scheme.d, scheme.m);
        let token = token as u32;
        if token < 1 << d {
            return token;
        }
        let above = token - (1 << d);
        if let Some(x) = scheme.limit
            && above >= (x + m - d) << m
        {
            self.seen.n_limited_tokens += 1;
            let high = above - ((x + m - d) << m) + (1 << m);
            return (high << x) + self.number(x) as u32;
        }
        let k = d + (above >> m);
        let mantissa = above % (1 << m);
        (1 << k) + (mantissa << (k - m)) + self.number(k - m) as u32
    }

    /// Section 6: a number in an alphabet of level tokens.
    fn level(&mut self, codebook: &Codebook) -> u32 {
        let token = self.symbol(codebook);
        self.rest_of_token(token, LEVELS)
    }

    /// Section 6.
    fn exact_row(&mut self, model: u64, codebook: &Codebook, n: usize) -> Vec<f32> {
        self.seen.n_exact_rows += 1;
        self.seen.exact_models.insert(model);
        self.seen.first_bytes_with_exact_rows.insert(self.bytes[0]);
        (0..n)
            .map(|_| {
                assert_eq!(self.symbol(codebook), 0);
                f32::from_bits(self.number(32) as u32)
            })
            .collect()
    }
}

/// Section 6: how many bits of a number its token tells.
#[derive(Clone, Copy)]
struct Scheme {
    d: u32,
    m: u32,
    n_tokens: usize,
    /// To how many extra bits it is limited, if at all.
    limit: Option<u32>,
}

const LEVELS: Scheme = Scheme {
    d: 4,
    m: 2,
    n_tokens: 128,
    limit: None,
};
const FINE_LEVELS: Scheme = Scheme {
    d: 6,
    m: 2,
    n_tokens: 128,
    limit: None,
};
const RUNS: Scheme = Scheme {
    d: 2,
    m: 1,
    n_tokens: 46,
    limit: None,
};
const RANGES: Scheme = Scheme {
    d: 1,
    m: 1,
    n_tokens: 42,
    limit: None,
};

fn token(number: u32, scheme: Scheme) -> usize {
    let (d, m) = (scheme.d, scheme.m);
    let token = match number < 1 << d {
        true => number,
        false => {
            let k = number.ilog2();
            (1 << d) + (k - d) * (1 << m) + (number >> (k - m)) % (1 << m)
        }
    };
    token as usize
}

fn to_zigzag(number: i32) -> u32 {
    match number >= 0 {
        true => 2 * number as u32,
        false => 2 * (-1 - number) as u32 + 1,
    }
}

fn from_zigzag(number: u32) -> i32 {
    match number % 2 {
        0 => (number / 2) as i32,
        _ => -((number / 2) as i32) - 1,
    }
}

/// Section 6: what a group of contexts is about to say.
#[derive(Clone, Copy)]
enum State {
    Open,
    /// So many times more the run number, and then the follower.
    Run(u32, Option<u32>),
}

struct Group {
    run_number: u32,
    followers: Vec<u32>,
    /// Section 15: one for each bitstream.
    states: [State; 8],
}

/// Section 6: numbers in contexts.
struct Contexts {
    group_of: Vec<usize>,
    groups: Vec<Group>,
    /// For each group: open, and after a run.
    codebooks: Vec<(Codebook, Codebook)>,
    /// That of level tokens: limited or not.
    levels: Scheme,
}

impl Contexts {
    /// What stands before the codebooks.
    fn read(bits: &mut Bits, n_bands: usize) -> Self {
        let (mut group_of, mut groups) = (Vec::new(), Vec::new());
        while group_of.len() < 96 * n_bands {
            let n_alike = bits.gamma();
            bits.seen.bands_alike.insert(n_alike);
            let mut band = Vec::new();
            for _ in 0..bits.gamma() {
                let n_positions = bits.gamma() as usize;
                band.resize(band.len() + n_positions, groups.len());
                let run_number = bits.gamma() - 1;
                let n_followers = bits.gamma() - 1;
                assert!(n_followers <= 3);
                groups.push(Group {
                    run_number,
                    followers: (0..n_followers).map(|_| bits.gamma() - 1).collect(),
                    states: [State::Open; 8],
                });
            }
            assert_eq!(band.len(), 96);
            for _ in 0..n_alike {
                group_of.extend_from_slice(&band);
            }
        }
        assert_eq!(group_of.len(), 96 * n_bands);
        Self {
            group_of,
            groups,
            codebooks: vec![],
            levels: LEVELS,
        }
    }

    fn read_codebooks(&mut self, bits: &mut Bits) {
        for group in &self.groups {
            let n_runs = RUNS.n_tokens * (group.followers.len() + 1);
            let open = bits.codebook(n_runs + LEVELS.n_tokens, 1);
            let after = bits.codebook(LEVELS.n_tokens, 1);
            self.codebooks.push((open, after));
        }
    }

    fn number(&mut self, bits: &mut Bits, context: usize) -> u32 {
        let g = self.group_of[context];
        let group = &mut self.groups[g];
        let (open, after) = &self.codebooks[g];
        let state = &mut group.states[bits.at];
        match *state {
            State::Open => {
                let n_runs = RUNS.n_tokens * (group.followers.len() + 1);
                let symbol = bits.symbol(open);
                if symbol >= n_runs {
                    return bits.rest_of_token(symbol - n_runs, self.levels);
                }
                let length = bits.rest_of_token(symbol % RUNS.n_tokens, RUNS);
                assert!(length >= 1);
                let follower = match symbol / RUNS.n_tokens {
                    0 => None,
                    number => Some(group.followers[number - 1]),
                };
                *state = State::Run(length - 1, follower);
                group.run_number
            }
            State::Run(0, follower) => {
                *state = State::Open;
                let number = match follower {
                    Some(follower) => {
                        bits.seen.n_followers += 1;
                        follower
                    }
                    None => {
                        bits.seen.n_runs_without_follower += 1;
                        let token = bits.symbol(after);
                        bits.rest_of_token(token, self.levels)
                    }
                };
                assert_ne!(number, group.run_number);
                number
            }
            State::Run(left, follower) => {
                *state = State::Run(left - 1, follower);
                group.run_number
            }
        }
    }
}

/// Section 7: lists of classes and counts, by rank.
struct Ranks(Vec<Vec<(usize, u32)>>);

impl Ranks {
    fn new(n: usize) -> Self {
        let n_lists = n.min(((1 << 20) / n).max(1));
        Self(vec![(0..n).map(|class| (class, 0)).collect(); n_lists])
    }

    fn list(&self, top: usize) -> &[(usize, u32)] {
        &self.0[top % self.0.len()]
    }

    fn learn(&mut self, top: usize, others: &[usize]) {
        let n_lists = self.0.len();
        let list = &mut self.0[top % n_lists];
        for &class in others {
            let rank = list.iter().position(|entry| entry.0 == class).unwrap();
            let count = list[rank].1;
            let first = list.iter().position(|entry| entry.1 == count).unwrap();
            list.swap(rank, first);
            list[first].1 += 1;
        }
    }
}

/// Section 9.
struct Order {
    model: u64,
    keep_top: usize,
    first: Option<Codebook>,
    later: Vec<Codebook>,
    ranks: Ranks,
}

impl Order {
    /// Reads the codebooks.
    fn read(bits: &mut Bits, model: u64, n: usize, keep_top: usize, is_top_known: bool) -> Self {
        let size = LEVELS.n_tokens;
        Self {
            model,
            keep_top,
            first: (!is_top_known).then(|| bits.codebook(size, 1)),
            later: bits.codebooks((keep_top - 1).min(4), size),
            ranks: Ranks::new(n),
        }
    }

    fn finish(&mut self, bits: &mut Bits, top: Option<usize>, row: &mut [f32]) {
        self.finish_in(bits, None, top, row);
    }

    /// The first class is told in contexts if there are some: section 17.
    fn finish_in(
        &mut self,
        bits: &mut Bits,
        mut contexts: Option<&mut Contexts>,
        top: Option<usize>,
        row: &mut [f32],
    ) {
        let mut left: Vec<usize> = (0..row.len()).collect();
        let mut told: Vec<usize> = Vec::new();
        for i in 0..self.keep_top.min(row.len()) {
            let largest = left.iter().map(|&c| row[c]).reduce(f32::max).unwrap();
            let mut tied: Vec<usize> = left
                .iter()
                .copied()
                .filter(|&c| row[c] == largest)
                .collect();
            let class = match (i, top) {
                (0, Some(top)) => top,
                _ if tied.len() == 1 => tied[0],
                _ => {
                    bits.seen.orders.insert((self.model, i.min(5)));
                    let first_byte = bits.bytes[0];
                    bits.seen.first_bytes_with_orders.insert((first_byte, i));
                    if i > 0 {
                        let list = self.ranks.list(told[0]);
                        let rank = |class| list.iter().position(|entry| entry.0 == class);
                        tied.sort_by_key(|&class| rank(class));
                    }
                    let position = match (i, &mut contexts) {
                        (0, Some(contexts)) => {
                            let context = 288 + tied.len().min(97) - 2;
                            bits.seen.contexts_by_numbers.insert(context);
                            contexts.number(bits, context)
                        }
                        (0, None) => bits.level(self.first.as_ref().unwrap()),
                        _ => bits.level(&self.later[(i - 1).min(3)]),
                    };
                    tied[position as usize]
                }
            };
            told.push(class);
            left.retain(|&c| c != class);
        }
        self.ranks.learn(told[0], &told[1..]);
        let largest = left.iter().map(|&c| row[c]).reduce(f32::max);
        let mut next = left.into_iter().find(|&c| Some(row[c]) == largest);
        for &class in told.iter().rev() {
            if let Some(next) = next
                && (row[class] < row[next] || row[class] == row[next] && next < class)
            {
                row[class] = row[next].next_up();
                bits.seen.n_set_apart += 1;
            }
            next = Some(class);
        }
    }
}

/// Section 4, uniform.
fn uniform(levels: &[u32], n_levels: u32) -> Vec<f32> {
    let decode = |&level: &u32| (f64::from(level) / f64::from(n_levels)) as f32;
    levels.iter().map(decode).collect()
}

/// Section 4, floats: the number of level `v`, or of the nearest level.
fn number_of_float(v: u64, m: u32) -> u64 {
    let s = v.checked_ilog2().unwrap_or(0).saturating_sub(m);
    (v + (1 << s) / 2) / (1 << s) + (u64::from(s) << m)
}

/// Section 4, floats: the level that has the number `number`.
fn level_of_float(number: u64, m: u32) -> u64 {
    // Levels of more than m + 1 bits have m + 1 significant ones, the highest of which is set.
    let s = (number >> m).saturating_sub(1);
    let v = (number - (s << m)) << s;
    assert_eq!(number_of_float(v, m), number);
    v
}

/// Section 4, shares.
fn shares(levels: &[u32]) -> Vec<f32> {
    of_weights(levels, |level| level << 26)
}

/// Section 4, root.
fn root(levels: &[u32]) -> Vec<f32> {
    of_weights(levels, |level| 64 * level * level)
}

/// Section 4: the shares of levels, that of 0 having weight 1.
fn of_weights(levels: &[u32], weight: fn(u64) -> u64) -> Vec<f32> {
    let weight = |&level: &u32| match level {
        0 => 1,
        _ => weight(level.into()),
    };
    let weights: Vec<u64> = levels.iter().map(weight).collect();
    let sum: u64 = weights.iter().sum();
    let decode = |&weight: &u64| (weight as f64 / sum as f64) as f32;
    weights.iter().map(decode).collect()
}

/// Section 4, ordered bits, which are their own inverse.
fn ordered_bits(pattern: i32) -> i32 {
    match pattern >= 0 {
        true => pattern,
        false => pattern ^ 0x7FFF_FFFF,
    }
}

/// Section 4: quantizers by which values have numbers of 32 bits.
enum Numbers {
    Steps(f64),
    OrderedBits,
    /// The unit, and the bits of mantissa.
    Minifloats(f64, u32),
}

impl Numbers {
    /// Section 5: the parameters of models 3 to 5, 10 to 12, 17, 18, 20 and 21, but for checksums, of those of
    /// section 16, and of models 28, 29 and 31, but for scans.
    fn read(bits: &mut Bits, model: u64) -> Self {
        let basis = basis(model);
        let has_unit = !matches!(basis, 4 | 5 | 11 | 12 | 29);
        let unit = has_unit.then(|| f64::from_bits(bits.number(64)));
        assert!(unit.is_none_or(|unit| unit > 0.0 && unit.is_finite()));
        match (basis, unit) {
            (3 | 10 | 28, Some(step)) => Self::Steps(step),
            (_, Some(unit)) => {
                let m = bits.number(5) as u32;
                assert!(m <= 23);
                bits.seen.mantissas.insert((model, m));
                assert!((unit, m) != (2f64.powi(-149), 23));
                Self::Minifloats(unit, m)
            }
            (_, None) => Self::OrderedBits,
        }
    }

    fn of(&self, value: f32) -> i32 {
        match *self {
            Self::Steps(_) => unreachable!("no section asks for it"),
            Self::OrderedBits => ordered_bits(value.to_bits() as i32),
            Self::Minifloats(unit, m) => {
                let x = match f64::from(value.abs()) / unit {
                    x if x.is_nan() => f64::INFINITY,
                    x => x,
                };
                let n = if x < (1 << m) as f64 {
                    x.round_ties_even() as i64
                } else {
                    let pattern = x.to_bits() as i64;
                    (pattern + (1 << (51 - m))) / (1 << (52 - m)) - ((1022 + i64::from(m)) << m)
                };
                let n = if value.is_sign_negative() { -1 - n } else { n };
                n as i32
            }
        }
    }

    fn value(&self, number: i32) -> f32 {
        match *self {
            Self::Steps(step) => (f64::from(number) * step) as f32,
            Self::OrderedBits => f32::from_bits(ordered_bits(number) as u32),
            Self::Minifloats(..) if number < 0 => -self.value(-1 - number),
            Self::Minifloats(unit, m) => {
                let y = if number < 1 << m {
                    f64::from(number)
                } else {
                    let high = i64::from(number) + ((1022 + i64::from(m)) << m);
                    f64::from_bits((high.min(2047 << m) as u64) << (52 - m))
                };
                (y * unit) as f32
            }
        }
    }
}

/// Section 7: by how many bits top classes are shifted.
fn shift(n: usize) -> u32 {
    let n_bits = usize::BITS - (n - 1).leading_zeros();
    n_bits.saturating_sub(10)
}

/// Section 16: whether a model is one of those after the row before, or beside earlier rows.
fn is_after_row(model: u64) -> bool {
    model >= 32
}

/// Section 16: the model that a model is but for what stands there.
fn basis(model: u64) -> u64 {
    match model {
        59..=63 => model - 59 + 8,
        _ => model % 32,
    }
}

/// Sections 7, 8 and 16: by which symbols top classes are told.
struct Tops {
    model: u64,
    n: usize,
    r: u32,
    n_symbols: usize,
    /// That of the last row that was not exact.
    last: usize,
}

impl Tops {
    fn new(model: u64, n: usize) -> Self {
        let r = shift(n);
        Self {
            model,
            n,
            r,
            n_symbols: ((n - 1) >> r) + 1 + usize::from(is_after_row(model)),
            last: 0,
        }
    }

    /// The top class of a symbol, of which bits may follow.
    fn read(&mut self, bits: &mut Bits, symbol: usize) -> usize {
        let mut high = Some(symbol);
        if is_after_row(self.model) {
            high = symbol.checked_sub(1);
            let is_as_before = high.is_none();
            bits.seen.tops_as_before.insert((self.model, is_as_before));
        }
        if let Some(high) = high {
            self.last = (high << self.r) + bits.number(self.r) as usize;
        }
        assert!(self.last < self.n);
        self.last
    }
}

/// Section 7, and section 16 for model 32.
fn ranked_rows(bits: &mut Bits, model: u64, n_rows: usize, n: usize, keep_top: usize) -> Vec<f32> {
    let n_levels = bits.gamma();
    assert!(n_levels <= 1 << 20);
    let k = bits.number(3) as usize + 1;
    let j = bits.number(2) as usize;
    let groupings: Vec<Vec<usize>> = [8, 35, 15, 6, 3, 84]
        .into_iter()
        .map(|n_contexts| {
            let mut group_of = Vec::new();
            let n_groups = bits.gamma() as usize;
            for group in 0..n_groups - 1 {
                group_of.resize(group_of.len() + bits.gamma() as usize, group);
            }
            assert!(group_of.len() < n_contexts);
            group_of.resize(n_contexts, n_groups - 1);
            group_of
        })
        .collect();
    let mut tops = Tops::new(model, n);
    let n_heads = k * tops.n_symbols;
    bits.before_codebooks();
    let head_codebook = bits.codebook(n_heads + 1, k);
    let exact_codebook = bits.codebook(1, 1);
    let kind_codebook = bits.codebook(LEVELS.n_tokens, 1);
    let rare_miss_codebook = bits.codebook(LEVELS.n_tokens, 1);
    let mut in_contexts = Vec::new();
    for (i, group_of) in groupings.iter().enumerate() {
        let n_groups = group_of.last().unwrap() + 1;
        let codebooks: Vec<Codebook> = (0..n_groups)
            .map(|_| match i {
                2 => bits.codebook(4 * LEVELS.n_tokens, 4),
                _ => bits.codebook(LEVELS.n_tokens, 1),
            })
            .collect();
        in_contexts.push((group_of, codebooks));
    }
    let codebook_of = |alphabet: usize, context: usize| {
        let (group_of, codebooks) = &in_contexts[alphabet];
        &codebooks[group_of[context]]
    };
    let [distances, misses, first_ranks, ranks, tied_ranks, levels_in] = [0, 1, 2, 3, 4, 5];
    let mut order = Order::read(bits, model, n, keep_top, true);
    bits.before_rows();
    let mut lists = Ranks::new(n);
    let mut values = Vec::new();
    for _ in 0..n_rows {
        // Step 1.
        let head = bits.symbol(&head_codebook);
        if head == n_heads {
            values.extend(bits.exact_row(model, &exact_codebook, n));
            continue;
        }
        let top = tops.read(bits, head / k);
        let mut kind = head % k;
        if kind == k - 1 {
            kind += bits.level(&kind_codebook) as usize;
        }
        // Step 2.
        let n_others = match kind {
            0 | 1 | 4 => 0,
            2 => 1,
            3 => 2,
            _ => kind - 2,
        };
        assert!(n_others < n);
        bits.seen.most_others = bits.seen.most_others.max(n_others);
        // Step 3.
        let distance = match kind {
            0 | 1 => kind as u32,
            _ => {
                bits.level(codebook_of(distances, n_others.min(7))) + if kind == 4 { 2 } else { 0 }
            }
        };
        let mut levels = vec![0; n];
        levels[top] = n_levels - distance;
        let mut others: Vec<usize> = Vec::new();
        let mut used_ranks: Vec<usize> = Vec::new();
        if n_others > 0 {
            // Step 4.
            let x = 5 * (n_others.min(7) - 1) + (distance as usize).min(4);
            let mut first_rank = None;
            let miss = if n_others > j {
                bits.level(codebook_of(misses, x))
            } else {
                bits.seen.n_joint_misses += 1;
                let symbol = bits.symbol(codebook_of(first_ranks, x));
                first_rank = Some(bits.rest_of_token(symbol / 4, LEVELS) as usize);
                match symbol % 4 {
                    3 => 3 + bits.level(&rare_miss_codebook),
                    miss => miss as u32,
                }
            };
            let mut sum = i64::from(distance) - i64::from(from_zigzag(miss));
            assert!(sum >= n_others as i64 && sum <= n_others as i64 * i64::from(levels[top]));
            // Step 5.
            let mut before = levels[top];
            for i in 0..n_others {
                let m = n_others - i;
                let b = (sum - (m as i64 - 1)).min(i64::from(before)) as u32;
                let a = (sum as u64).div_ceil(m as u64) as u32;
                let mut level = b;
                if a < b {
                    let context = 42 * (m.min(3) - 2) + token(b - a, RANGES);
                    let below = bits.level(codebook_of(levels_in, context));
                    assert!(below <= b - a);
                    level -= below;
                }
                let is_left = |rank: &usize| !used_ranks[..used_ranks.len().min(64)].contains(rank);
                let rank = match first_rank {
                    Some(rank) if i == 0 => rank,
                    _ if i > 0 && level == before => {
                        bits.seen.n_tied_ranks += 1;
                        let number = bits.level(codebook_of(tied_ranks, m.min(3) - 1)) as usize;
                        let from = used_ranks[i - 1] + 1;
                        (from..n).filter(is_left).nth(number).unwrap()
                    }
                    _ => {
                        let context = if i == 0 { 0 } else { 3 } + m.min(3) - 1;
                        let number = bits.level(codebook_of(ranks, context)) as usize;
                        (0..n).filter(is_left).nth(number).unwrap()
                    }
                };
                let class = lists.list(top)[rank].0;
                assert!(class != top && !others.contains(&class));
                levels[class] = level;
                others.push(class);
                used_ranks.push(rank);
                sum -= i64::from(level);
                before = level;
            }
            assert_eq!(sum, 0);
        }
        lists.learn(top, &others);
        // Step 6.
        let mut row = uniform(&levels, n_levels);
        order.finish(bits, Some(top), &mut row);
        values.extend(row);
    }
    values
}

/// Section 10: classes whose expectations depend on each other.
struct Panel {
    classes: Range<usize>,
    /// Both by positions within the panel; of *P* and *A*, the second class is not above the first.
    p: Vec<Vec<f64>>,
    a: Vec<Vec<f32>>,
}

/// Section 10.
struct Regression {
    n: usize,
    has_means_by_top: bool,
    absolute: f64,
    relative: f64,
    /// Section 16: by what part of its own each *W*(*i*, *i*) grows besides.
    own_part: Option<f64>,
    /// Section 16: running means.
    is_running: bool,
    /// Since the last fit; the latter if there is one panel.
    m: Vec<f64>,
    i: Vec<Vec<f64>>,
    n_rows: usize,
    n_rows_of_block: usize,
    next_fit: usize,
    n_of_top: Vec<usize>,
    s: Vec<Vec<f64>>,
    b: Vec<Vec<f32>>,
    v: Vec<f64>,
    panel_size: usize,
    panels: Vec<Panel>,
}

const TINY: f64 = f64::MIN_POSITIVE;

impl Regression {
    fn new(
        n: usize,
        n_rows_of_block: usize,
        has_means_by_top: bool,
        (absolute, relative): (f64, f64),
    ) -> Self {
        let panel_size = match n {
            0..=256 => n,
            257..=4096 => 128,
            _ => 1,
        };
        let n_tops = if has_means_by_top && n <= 256 { n } else { 1 };
        let ridge = (absolute, relative);
        Self::with_panels(n, panel_size, n_rows_of_block, n_tops, ridge)
    }

    /// Section 13: that of the columns of `n` classes.
    fn beside(n: usize, n_rows: usize, has_means_by_top: bool, ridge: (f64, f64)) -> Self {
        let panel_size = match 2 * n {
            0..=256 => 2 * n,
            257..=4096 => 128,
            _ => 2,
        };
        let n_tops = if has_means_by_top && 2 * n <= 256 {
            n
        } else {
            1
        };
        Self::with_panels(2 * n, panel_size, n_rows, n_tops, ridge)
    }

    fn with_panels(
        n: usize,
        panel_size: usize,
        n_rows_of_block: usize,
        n_tops: usize,
        (absolute, relative): (f64, f64),
    ) -> Self {
        let has_means_by_top = n_tops > 1;
        Self {
            n,
            has_means_by_top,
            absolute,
            relative,
            own_part: None,
            is_running: false,
            m: Vec::new(),
            i: Vec::new(),
            n_rows: 0,
            n_rows_of_block,
            next_fit: 8,
            n_of_top: vec![0; n_tops],
            s: vec![vec![0.0; n]; n_tops],
            b: vec![vec![0.0; n]; n_tops],
            v: vec![0.0; n],
            panel_size,
            panels: (0..n)
                .step_by(panel_size)
                .map(|start| {
                    let classes = start..n.min(start + panel_size);
                    Panel {
                        p: vec![vec![0.0; classes.len()]; classes.len()],
                        a: vec![vec![0.0; classes.len()]; classes.len()],
                        classes,
                    }
                })
                .collect(),
        }
    }

    fn t(&self, top: usize) -> usize {
        if self.has_means_by_top { top } else { 0 }
    }

    fn expectations(&self, top: usize) -> Vec<f32> {
        self.b[self.t(top)].clone()
    }

    /// Once the feature of a class is known.
    fn expect_later(&self, expectations: &mut [f32], class: usize, feature: f32) {
        let panel = &self.panels[class / self.panel_size];
        let start = panel.classes.start;
        for later in class + 1..panel.classes.end {
            expectations[later] += panel.a[later - start][class - start] * feature;
        }
    }

    /// Section 15: before a row, counted from 0, learns those before it that are taken together, if they are
    /// complete.
    fn start_row(&mut self, bits: &mut Bits, row: usize, together: &mut Vec<(usize, Vec<f32>)>) {
        bits.start_row(row);
        if bits.at == 0 {
            self.learn(bits, together);
            together.clear();
        }
    }

    /// Section 15: rows that are taken together, each with its top class.
    fn learn(&mut self, bits: &mut Bits, rows: &[(usize, Vec<f32>)]) {
        for (top, features) in rows {
            self.learn_row(*top, features);
        }
        if self.n_rows >= self.next_fit && self.n_rows < self.n_rows_of_block.min(6000) {
            self.fit();
            bits.seen.panel_sizes.insert(self.panel_size);
            let part = if self.n_rows < 512 { 8 } else { 2 };
            self.next_fit = self.n_rows + (self.n_rows / part).max(self.n_rows_of_block / 128);
        }
    }

    fn learn_row(&mut self, top: usize, features: &[f32]) {
        let t = self.t(top);
        for c in 0..self.n {
            self.s[t][c] += f64::from(features[c]);
        }
        for panel in &mut self.panels {
            let features = &features[panel.classes.clone()];
            for c in 0..features.len() {
                for b in 0..=c {
                    panel.p[c][b] += f64::from(features[c]) * f64::from(features[b]);
                }
            }
        }
        self.n_of_top[t] += 1;
        self.n_rows += 1;
        if self.is_running && self.has_means_by_top && !self.m.is_empty() {
            self.b[t] = self.mean_of_top(t);
        }
    }

    /// Section 16: *B* of a top class from its sums up to now.
    fn mean_of_top(&self, t: usize) -> Vec<f32> {
        let n_t = self.n_of_top[t] as f64;
        let w = 1.0 / (n_t + 1.0);
        let d: Vec<f64> = (0..self.n)
            .map(|c| self.s[t][c] + -n_t * self.m[c])
            .collect();
        (0..self.n)
            .map(|c| (0..=c).fold(0.0, |sum, b| sum + (self.m[b] + d[b] * w) * self.i[c][b]) as f32)
            .collect()
    }

    fn fit(&mut self) {
        let n_rows = self.n_rows as f64;
        let n_tops = self.n_of_top.len();
        // Step 1.
        let m: Vec<f64> = (0..self.n)
            .map(|c| (0..n_tops).fold(0.0, |sum, t| sum + self.s[t][c]) / n_rows)
            .collect();
        self.m.clone_from(&m);
        let n_of: Vec<f64> = self.n_of_top.iter().map(|&n| n as f64).collect();
        let w: Vec<f64> = n_of.iter().map(|n| 1.0 / (n + 1.0)).collect();
        let mut d = vec![vec![0.0; self.n]; n_tops];
        if self.has_means_by_top {
            for t in 0..n_tops {
                for c in 0..self.n {
                    d[t][c] = self.s[t][c] + -n_of[t] * m[c];
                }
            }
        }
        for panel in &mut self.panels {
            let n = panel.classes.len();
            let start = panel.classes.start;
            let m = &m[panel.classes.clone()];
            let d: Vec<&[f64]> = d.iter().map(|d| &d[panel.classes.clone()]).collect();
            // Step 2.
            let mut matrix = panel.p.clone();
            for i in 0..n {
                for j in 0..=i {
                    matrix[i][j] += -n_rows * m[i] * m[j];
                }
                for t in (0..n_tops).filter(|&t| self.has_means_by_top && n_of[t] > 0.0) {
                    for j in 0..=i {
                        matrix[i][j] += d[t][i] * -w[t] * d[t][j];
                    }
                }
            }
            // Step 3.
            let sum = (0..n).fold(0.0, |sum, i| sum + matrix[i][i]);
            let ridge = self.absolute + self.relative * (sum / n as f64);
            for i in 0..n {
                let own = matrix[i][i];
                matrix[i][i] += match self.own_part {
                    Some(part) => ridge + own * part,
                    None => ridge,
                };
            }
            let least = ridge.max(TINY);
            // Step 4.
            for k in 0..n {
                let pivot = matrix[k][k].max(least);
                let q: Vec<f64> = (0..n).map(|i| matrix[i][k]).collect();
                for i in k + 1..n {
                    let f = q[i] / pivot;
                    for j in k + 1..=i {
                        matrix[i][j] += -f * q[j];
                    }
                    matrix[i][k] = f;
                }
            }
            // Step 5.
            let mut inverse = vec![vec![0.0; n]; n];
            for i in 0..n {
                inverse[i][i] = 1.0;
                for k in 0..i {
                    for j in 0..=k {
                        inverse[i][j] += -matrix[i][k] * inverse[k][j];
                    }
                }
            }
            self.i.clone_from(&inverse);
            // Step 6.
            for c in 0..n {
                self.v[start + c] = matrix[c][c].max(least) / n_rows;
                for b in 0..c {
                    panel.a[c][b] = -inverse[c][b] as f32;
                }
                for t in 0..n_tops {
                    let sum =
                        (0..=c).fold(0.0, |sum, b| sum + (m[b] + d[t][b] * w[t]) * inverse[c][b]);
                    self.b[t][start + c] = sum as f32;
                }
            }
        }
    }
}

/// Section 8.
fn feature(level: u32) -> f32 {
    logarithm_of((4 * level + 1) as f32)
}

/// Of *z*.
fn logarithm_of(z: f32) -> f32 {
    // Which has the last context.
    if z.is_infinite() {
        return z;
    }
    let z = f64::from(z);
    let q = z.log2().floor();
    (q + (z - q.exp2()) / q.exp2()) as f32
}

/// Section 8, and section 16 for models 33, 34, 48, 51 and 54 to 58.
fn expected_rows(
    bits: &mut Bits,
    model: u64,
    n_rows: usize,
    n: usize,
    keep_top: usize,
) -> Vec<f32> {
    let basis = basis(model);
    let is_root = matches!(basis, 2 | 25 | 26);
    let n_levels = (!is_root).then(|| bits.gamma());
    let n_steps = match basis {
        25 | 26 => 1 << bits.number(2),
        _ => 1,
    };
    let most_levels = match basis {
        16 => (1 << 12) - 1,
        19 => 1 << 24,
        // The scale.
        22 | 23 => 1 << 14,
        _ => 1 << 20,
    };
    assert!(n_levels.is_none_or(|n_levels| (1..=most_levels).contains(&n_levels)));
    let is_sphere = matches!(basis, 22 | 23);
    // Of floats.
    let mantissa = (basis == 19).then(|| bits.number(5) as u32);
    let mut contexts = Contexts::read(bits, 4);
    if let Some(m) = mantissa {
        assert!(m <= 23);
        bits.seen.mantissas.insert((model, m));
        contexts.levels.limit = Some(m.saturating_sub(2).max(2));
    }
    if matches!(basis, 23 | 24) {
        contexts.levels = FINE_LEVELS;
    }
    let mut tops = Tops::new(model, n);
    let n_heads = tops.n_symbols;
    bits.before_codebooks();
    let head_codebook = bits.codebook(2 * n_heads + 1, 1);
    let exact_codebook = bits.codebook(1, 1);
    let mut order = Order::read(bits, model, n, keep_top, true);
    contexts.read_codebooks(bits);
    bits.before_rows();
    let absolute_ridge = if basis == 26 { 0.1 } else { 64.0 };
    let mut regression = Regression::new(n, n_rows, true, (absolute_ridge, 0.0));
    regression.is_running = is_after_row(model);
    let mut fineness = 0;
    let mut values = Vec::new();
    let mut together = Vec::new();
    for row in 0..n_rows {
        regression.start_row(bits, row, &mut together);
        // Step 1.
        let head = bits.symbol(&head_codebook);
        if head == 2 * n_heads {
            values.extend(bits.exact_row(model, &exact_codebook, n));
            continue;
        }
        let top = tops.read(bits, head % n_heads);
        let is_certain = head >= n_heads;
        // Step 2.
        if n_levels.is_none() {
            fineness += from_zigzag(contexts.number(bits, 95));
            assert!((0..40 * n_steps).contains(&fineness));
            bits.seen
                .finenesses
                .insert((model, n_steps, fineness % n_steps));
        }
        let square_of_one = square_of_one(fineness, n_steps);
        let level_of_one = (square_of_one as f64).sqrt() as f32;
        // Step 3.
        let mut levels = vec![0; n];
        let mut features = vec![0.0; n];
        if is_certain {
            bits.seen.certain_models.insert(model);
        } else {
            let mut expectations = regression.expectations(top);
            for class in 0..n {
                if class != top {
                    let v = regression.v[class];
                    let band = [0.1, 0.3, 1.0].iter().filter(|&&bound| bound <= v).count();
                    let e = match basis {
                        26 => {
                            logarithm_of(4.0 * (expectations[class] * level_of_one).max(0.0) + 1.0)
                        }
                        _ => expectations[class],
                    };
                    let position = ((4.0 * e + 2.5) as i64).clamp(0, 89) as usize;
                    let number = contexts.number(bits, 96 * band + position);
                    levels[class] = match mantissa {
                        Some(m) => level_of_float(number.into(), m) as u32,
                        None => number,
                    };
                    features[class] = match basis {
                        26 => levels[class] as f32 / level_of_one,
                        _ => feature(levels[class]),
                    };
                }
                regression.expect_later(&mut expectations, class, features[class]);
            }
        }
        // Step 4.
        if !is_certain {
            together.push((top, features));
        }
        if is_sphere {
            let mut row = sphere(&levels, top, n_levels.unwrap());
            order.finish(bits, Some(top), &mut row);
            values.extend(row);
            continue;
        }
        // Step 5.
        let (likely, largest) = likely_top(&levels, n_levels, square_of_one);
        let mut level = likely;
        if !is_certain {
            let n_others = levels.iter().filter(|&&level| level > 0).count();
            let context = 90 + ((n_others + 1).ilog2() as usize).min(4);
            let difference = i64::from(from_zigzag(contexts.number(bits, context)));
            let most = n_levels.unwrap_or(1 << 21);
            level = match mantissa {
                Some(m) => {
                    let number = number_of_float(likely as u64, m);
                    let n_numbers = 1 + number_of_float(most.into(), m);
                    let told = (number as i64 - difference).rem_euclid(n_numbers as i64) as u64;
                    bits.seen.n_rounded_floats +=
                        u64::from(level_of_float(number, m) != likely as u64);
                    bits.seen.n_unlikely_floats += u64::from(told != number);
                    level_of_float(told, m) as i64
                }
                None => likely - difference,
            };
            assert!((largest..=i64::from(most)).contains(&level));
        }
        levels[top] = level as u32;
        // Step 6.
        let mut row = match n_levels {
            Some(_) if basis == 16 => shares(&levels),
            Some(n_levels) => uniform(&levels, n_levels),
            None => root(&levels),
        };
        order.finish(bits, Some(top), &mut row);
        values.extend(row);
    }
    values
}

/// Section 4, sphere.
fn sphere(levels: &[u32], top: usize, scale: u32) -> Vec<f32> {
    let square = |number: u32| u128::from(number) * u128::from(number);
    let others = |class: &usize| *class != top;
    assert!(levels.iter().all(|&level| level <= scale));
    let s: u128 = (0..levels.len())
        .filter(others)
        .map(|c| square(levels[c]))
        .sum();
    assert!(s <= square(scale));
    let mut weights: Vec<u128> = levels
        .iter()
        .map(|&level| match level {
            0 => square(scale),
            _ => 32 * square(scale) * square(level),
        })
        .collect();
    let left = square(scale) - s;
    let largest = (0..levels.len()).filter(others).map(|c| weights[c]).max();
    weights[top] = (8 * left * left).max(largest.unwrap_or(0));
    let sum: u128 = weights.iter().sum();
    let share = |&weight: &u128| (weight as f64 / sum as f64) as f32;
    weights.iter().map(share).collect()
}

/// Section 4, root: *R*.
fn square_of_one(fineness: i32, n_steps: i32) -> i128 {
    let w = (24.0 + f64::from(fineness % n_steps) / f64::from(n_steps)).exp2();
    ((w.floor() as i128) << (fineness / n_steps)) >> 24
}

/// Section 8, step 5: *l*, and the largest of the other levels.
fn likely_top(levels: &[u32], n_levels: Option<u32>, square_of_one: i128) -> (i64, i64) {
    let largest = i64::from(levels.iter().copied().max().unwrap());
    let left = match n_levels {
        Some(n_levels) => {
            let sum: i64 = levels.iter().map(|&level| i64::from(level)).sum();
            (i64::from(n_levels) - sum).max(0)
        }
        None => {
            let square = |&level: &u32| i128::from(level) * i128::from(level);
            let sum: i128 = levels.iter().map(square).sum();
            (square_of_one - sum).max(0).isqrt() as i64
        }
    };
    (left.max(largest), largest)
}

/// Section 11: the exponent of a positive number.
fn floor_log2(number: f64) -> i64 {
    match (number.to_bits() >> 52) & 0x7FF {
        0 => -1023,
        biased => biased as i64 - 1023,
    }
}

/// Section 11.
fn fin(x: f32) -> f32 {
    if x.is_finite() { x } else { 0.0 }
}

/// Section 11: the context of a number expected as the value `g`, before it is made at least 0 and at most 93;
/// `v` is the exponent of the variance.
fn context_of_value(g: f32, v: i64, quantizer: &Numbers, model: u64) -> i64 {
    let mut z = floor_log2(f64::from(g).abs()).max(v.div_euclid(2));
    if let (18 | 21, Numbers::Minifloats(unit, m)) = (model, quantizer) {
        z = z.max(floor_log2(*unit) + i64::from(*m));
    }
    v - 2 * z + 54
}

/// Section 11.
fn predicted_rows(
    bits: &mut Bits,
    model: u64,
    n_rows: usize,
    n: usize,
    keep_top: usize,
) -> Vec<f32> {
    let quantizer = Numbers::read(bits, model);
    let mut contexts = Contexts::read(bits, 1);
    bits.before_codebooks();
    let head_codebook = bits.codebook(2, 1);
    let exact_codebook = bits.codebook(1, 1);
    let mut order = Order::read(bits, model, n, keep_top, false);
    contexts.read_codebooks(bits);
    bits.before_rows();
    let ridge = match model {
        3 => (1.0, 0.0),
        _ => (0.0, 1.0 / 1_048_576.0),
    };
    let mut regression = Regression::new(n, n_rows, false, ridge);
    let mut first_row: Option<Vec<i32>> = None;
    let mut values = Vec::new();
    let mut together = Vec::new();
    for row in 0..n_rows {
        regression.start_row(bits, row, &mut together);
        if bits.symbol(&head_codebook) == 1 {
            values.extend(bits.exact_row(model, &exact_codebook, n));
            continue;
        }
        let mut numbers: Vec<i32> = Vec::new();
        let mut features = vec![0.0; n];
        let mut expectations = regression.expectations(0);
        for class in 0..n {
            let e = expectations[class];
            let v = regression.v[class];
            let has_fit = regression.next_fit > 8;
            let (prediction, context) = match (model, &first_row) {
                (_, None) => (numbers.last().copied().unwrap_or(0), 94),
                (5 | 18, Some(first_row)) => {
                    let f = fin(quantizer.value(first_row[class]));
                    let g = fin(f + e);
                    let context = context_of_value(g, floor_log2(v), &quantizer, model);
                    (quantizer.of(g), context.clamp(0, 93))
                }
                (_, Some(first_row)) => {
                    let rounded = match e.abs() < 4_194_304.0 {
                        true => e.round_ties_even() as i32,
                        false => e as i32,
                    };
                    let prediction = first_row[class].wrapping_add(rounded);
                    (prediction, (floor_log2(v) + 8).clamp(0, 93))
                }
            };
            let context = match first_row.is_some() && !has_fit {
                true => 95,
                false => context,
            };
            let difference = from_zigzag(contexts.number(bits, context as usize));
            let number = prediction.wrapping_add(difference);
            numbers.push(number);
            if let Some(first_row) = &first_row {
                features[class] = match model {
                    5 | 18 => {
                        fin(fin(quantizer.value(number)) - fin(quantizer.value(first_row[class])))
                    }
                    _ => number.wrapping_sub(first_row[class]) as f32,
                };
            }
            regression.expect_later(&mut expectations, class, features[class]);
        }
        together.push((0, features));
        let mut row: Vec<f32> = numbers.iter().map(|&n| quantizer.value(n)).collect();
        if let Numbers::Steps(_) = quantizer {
            order.finish(bits, None, &mut row);
        }
        values.extend(row);
        first_row.get_or_insert(numbers);
    }
    values
}

/// Section 12, model 6.
fn multiples(bits: &mut Bits, n_rows: usize, n: usize, keep_top: usize) -> Vec<f32> {
    let step = f64::from_bits(bits.number(64));
    assert!(step > 0.0 && step.is_finite());
    let least = bits.number(32) as i32;
    let range = bits.number(32);
    let n_range_bits = (0..32).filter(|bit| range >> bit > 0).count();
    let r = n_range_bits.saturating_sub(12);
    bits.before_codebooks();
    let head_codebook = bits.codebook(2, 1);
    let exact_codebook = bits.codebook(1, 1);
    let mut order = Order::read(bits, 6, n, keep_top, false);
    let numbers_codebook = bits.codebook((range >> r) as usize + 1, 1);
    bits.before_rows();
    let mut values = Vec::new();
    for _ in 0..n_rows {
        if bits.symbol(&head_codebook) == 1 {
            values.extend(bits.exact_row(6, &exact_codebook, n));
            continue;
        }
        let mut row: Vec<f32> = (0..n)
            .map(|_| {
                let above = (bits.symbol(&numbers_codebook) as u64) << r | bits.number(r as u32);
                assert!(above <= range);
                (f64::from(least.wrapping_add(above as i32)) * step) as f32
            })
            .collect();
        order.finish(bits, None, &mut row);
        values.extend(row);
    }
    values
}

/// Section 12.
fn plain_rows(bits: &mut Bits, n_rows: usize, n: usize) -> Vec<f32> {
    bits.before_codebooks();
    let codebook = bits.codebook(512, 1);
    bits.before_rows();
    (0..n_rows * n)
        .map(|_| {
            let high = bits.symbol(&codebook) as u32;
            f32::from_bits(high << 23 | bits.number(23) as u32)
        })
        .collect()
}

/// Section 12, models 13 to 15.
fn tabled_rows(bits: &mut Bits, model: u64, n_rows: usize, n: usize) -> Vec<f32> {
    let n_values = bits.gamma() - 1;
    assert!(n_values <= 1 << 16);
    let mut table: Vec<i32> = Vec::new();
    let mut k = 0;
    let is_part = |a: u32, b: u32| token(a, LEVELS) == token(b, LEVELS);
    for place in 1..=n_values {
        if place > 1 && is_part(place - 1, place) {
            let high = u64::from(bits.gamma() - 1) << k;
            let d = high + bits.number(k);
            let number = i64::from(*table.last().unwrap()) + 1 + d as i64;
            table.push(number.try_into().unwrap());
        } else {
            table.push(bits.number(32) as u32 as i32);
            if place < n_values && is_part(place, place + 1) {
                k = bits.number(5) as u32;
            }
        }
    }
    bits.seen.table_sizes.insert(table.len());
    let mut contexts = Contexts::read(bits, 1);
    bits.before_codebooks();
    let others_codebook = bits.codebook(512, 1);
    contexts.read_codebooks(bits);
    bits.before_rows();
    let (mut values, mut places) = (Vec::new(), Vec::<u32>::new());
    for entry in 0..n_rows * n {
        let c = entry % n;
        let context = match model {
            13 if n <= 96 => c,
            13 => 96 * c / n,
            14 if c > 0 => places[entry - 1].min(94) as usize,
            15 if entry >= n => places[entry - n].min(94) as usize,
            _ => 95,
        };
        let place = contexts.number(bits, context);
        places.push(place);
        values.push(match place {
            0 => {
                let high = bits.symbol(&others_codebook) as u32;
                f32::from_bits(high << 23 | bits.number(23) as u32)
            }
            _ => f32::from_bits(ordered_bits(table[place as usize - 1]) as u32),
        });
    }
    values
}

/// Section 13: the columns of each class, of the reference and of the row, and what each column is of: the
/// class, and whether it is of the row.
#[expect(clippy::type_complexity)]
fn columns(n: usize) -> (Vec<(usize, usize)>, Vec<(usize, bool)>) {
    let n_together = match 2 * n {
        0..=256 => n,
        257..=4096 => 64,
        _ => 1,
    };
    let mut of_columns: Vec<(usize, bool)> = Vec::new();
    for first in (0..n).step_by(n_together) {
        let classes = first..n.min(first + n_together);
        of_columns.extend(classes.clone().map(|class| (class, false)));
        of_columns.extend(classes.map(|class| (class, true)));
    }
    let place = |of| of_columns.iter().position(|&column| column == of).unwrap();
    let of_classes = (0..n)
        .map(|class| (place((class, false)), place((class, true))))
        .collect();
    (of_classes, of_columns)
}

/// Section 13.
fn f(x: f64) -> f32 {
    let z = 4.0 * x + 1.0;
    let q = floor_log2(z);
    ((q - 1) as f64 + z / 2f64.powi(q as i32)) as f32
}

/// Section 16, models 59 to 63: which earlier rows a row is coded given.
struct Earlier {
    lag: usize,
    has_gradient: bool,
    /// Of models 59 and 60.
    j: Option<f32>,
    /// The rows of the block up to now, before section 9; exact ones, too.
    rows: Vec<Vec<f32>>,
}

impl Earlier {
    /// The last parameters, of the models that have them.
    fn read(bits: &mut Bits, model: u64, j: Option<f32>) -> Option<Self> {
        if !matches!(model, 59..=63) {
            return None;
        }
        let lag = bits.gamma() as usize;
        let has_gradient = bits.bit() == 1;
        assert!(lag > 1 || has_gradient, "the row before");
        bits.seen.earlier.insert((model, has_gradient, lag == 1));
        Some(Self {
            lag,
            has_gradient,
            j,
            rows: Vec::new(),
        })
    }

    /// What the next row is coded given.
    fn y(&self, n: usize) -> Vec<f32> {
        let (k, lag) = (self.rows.len(), self.lag);
        if k == 0 {
            return vec![0.0; n];
        }
        let b = &self.rows[k - 1];
        if !self.has_gradient && k >= lag {
            return self.rows[k - lag].clone();
        }
        if !self.has_gradient || k <= lag {
            return b.clone();
        }
        let (t, h) = (&self.rows[k - lag], &self.rows[k - lag - 1]);
        let Some(j) = self.j else {
            let y = |c: usize| match (b[c] + t[c]) - h[c] {
                y if y.is_nan() => b[c],
                y => y,
            };
            return (0..n).map(y).collect();
        };
        let x: Vec<f32> = (0..n)
            .map(|c| {
                let x = ((b[c] + j) * (t[c] + j)) / (h[c] + j) - j;
                if x >= 0.0 { x } else { 0.0 }
            })
            .collect();
        let sum = x.iter().fold(0.0, |sum, x| sum + x);
        x.iter().map(|x| x / sum).collect()
    }
}

/// Section 13, models 8 and 9, and section 16, models 40, 41, 59 and 60, which have no reference.
fn expected_rows_beside(
    bits: &mut Bits,
    model: u64,
    reference: Option<&[f32]>,
    n_rows: usize,
    n: usize,
    keep_top: usize,
) -> Vec<f32> {
    let basis = basis(model);
    let n_levels = (basis == 8).then(|| bits.gamma());
    assert!(n_levels.is_none_or(|n_levels| n_levels <= 1 << 20));
    let n_steps = match model {
        41 | 60 => 1 << bits.number(2),
        _ => 1,
    };
    // Section 16.
    let j = match n_levels {
        Some(n_levels) => 0.5 / n_levels as f32,
        None => 2f32.powi(-14),
    };
    let mut earlier = Earlier::read(bits, model, Some(j));
    let mut contexts = Contexts::read(bits, if basis == 8 { 5 } else { 6 });
    bits.before_codebooks();
    let exact_codebook = bits.codebook(1, 1);
    let mut order = Order::read(bits, model, n, keep_top, true);
    contexts.read_codebooks(bits);
    bits.before_rows();
    let mut regression = Regression::beside(n, n_rows, true, (64.0, 0.0));
    regression.own_part = is_after_row(model).then_some(1.0 / 16.0);
    let (of_classes, of_columns) = columns(n);
    let mut last_fineness = [0; 96];
    // Section 16.
    let mut row_before = vec![0.0; n];
    let mut is_after_exact = false;
    let mut values = Vec::new();
    for row in 0..n_rows {
        let y = match (reference, &earlier) {
            (Some(reference), _) => reference[n * row..n * (row + 1)].to_vec(),
            (None, Some(earlier)) => earlier.y(n),
            (None, None) => row_before.clone(),
        };
        let clamp = |&y: &f32| if y > 0.0 { y.min(1.0) } else { 0.0 };
        let y: Vec<f32> = y.iter().map(clamp).collect();
        let largest = y.iter().copied().reduce(f32::max).unwrap();
        let u = (4.0 * f((1.0 - f64::from(largest)) * 65536.0)) as usize;
        // Step 1.
        let head = contexts.number(bits, 384 + u) as usize;
        if head == 2 * n {
            let row = bits.exact_row(model, &exact_codebook, n);
            if let Some(earlier) = &mut earlier {
                earlier.rows.push(row.clone());
            }
            values.extend(row);
            is_after_exact = true;
            continue;
        }
        if is_after_row(model) && is_after_exact {
            bits.seen.models_after_exact_rows.insert(model);
        }
        is_after_exact = false;
        let mut falling: Vec<usize> = (0..n).collect();
        // Stable.
        falling.sort_by(|&a, &b| y[b].partial_cmp(&y[a]).unwrap());
        let top = falling[head / 2];
        bits.seen.top_ranks.insert(head / 2);
        let is_certain = head % 2 == 1;
        // Step 2.
        if n_levels.is_none() {
            last_fineness[u] += from_zigzag(contexts.number(bits, 480 + u));
            assert!((0..40 * n_steps).contains(&last_fineness[u]));
            bits.seen
                .finenesses
                .insert((model, n_steps, last_fineness[u] % n_steps));
        }
        let fineness = last_fineness[u];
        let square_of_one = square_of_one(fineness, n_steps);
        // Step 3.
        let r: Vec<f32> = y
            .iter()
            .map(|&y| match n_levels {
                Some(n_levels) => f(f64::from(y) * f64::from(n_levels)),
                None => f((f64::from(y) * square_of_one as f64).sqrt()),
            })
            .collect();
        let mut levels = vec![0; n];
        if is_certain {
            bits.seen.certain_models.insert(model);
        } else {
            let mut features = vec![0.0; 2 * n];
            let mut expectations = regression.expectations(top);
            for (column, &(class, is_of_row)) in of_columns.iter().enumerate() {
                if !is_of_row {
                    features[column] = r[class];
                } else if class != top {
                    let v = regression.v[of_classes[class].1];
                    let band = [0.1, 0.3, 1.0].iter().filter(|&&bound| bound <= v).count();
                    let e = expectations[column] + r[class];
                    let position = ((4.0 * e + 2.5) as i64).clamp(0, 89) as usize;
                    levels[class] = contexts.number(bits, 96 * band + position);
                    features[column] = feature(levels[class]) - r[class];
                }
                regression.expect_later(&mut expectations, column, features[column]);
            }
            // Step 4.
            regression.learn(bits, &[(top, features)]);
        }
        // Step 5.
        let (likely, largest) = likely_top(&levels, n_levels, square_of_one);
        let mut level = likely;
        if !is_certain {
            let n_others = levels.iter().filter(|&&level| level > 0).count();
            let context = 90 + ((n_others + 1).ilog2() as usize).min(4);
            level -= i64::from(from_zigzag(contexts.number(bits, context)));
            let most = n_levels.unwrap_or(1 << 21);
            assert!((largest..=i64::from(most)).contains(&level));
        }
        levels[top] = level as u32;
        // Step 6.
        let mut row = match n_levels {
            Some(n_levels) => uniform(&levels, n_levels),
            None => root(&levels),
        };
        if let Some(earlier) = &mut earlier {
            earlier.rows.push(row.clone());
        }
        row_before.clone_from(&row);
        order.finish(bits, Some(top), &mut row);
        values.extend(row);
    }
    values
}

/// Section 13, models 10 to 12, 20 and 21, and section 16, models 42 to 44, 52, 53 and 61 to 63, which have
/// no reference.
fn predicted_rows_beside(
    bits: &mut Bits,
    model: u64,
    reference: Option<&[f32]>,
    n_rows: usize,
    n: usize,
    keep_top: usize,
) -> Vec<f32> {
    let basis = basis(model);
    let quantizer = Numbers::read(bits, model);
    // Section 16.
    let caution = is_after_row(model).then(|| bits.number(2));
    let mut earlier = Earlier::read(bits, model, None);
    let mut contexts = Contexts::read(bits, 1);
    bits.before_codebooks();
    let head_codebook = bits.codebook(2, 1);
    let exact_codebook = bits.codebook(1, 1);
    let mut order = Order::read(bits, model, n, keep_top, false);
    contexts.read_codebooks(bits);
    bits.before_rows();
    if let Some(caution) = caution {
        bits.seen.cautions.insert((model, caution));
    }
    let ridge = match basis {
        10 => (1.0, 0.0),
        _ => (0.0, 1.0 / 1_048_576.0),
    };
    let mut regression = Regression::beside(n, n_rows, false, ridge);
    regression.own_part = caution.map(|caution| match caution {
        0 => 1.0 / 1024.0,
        1 => 1.0 / 16.0,
        _ => 4.0,
    });
    let (of_classes, of_columns) = columns(n);
    // The numbers of the first row, and what the reference has beside it; section 16: its values.
    let mut first: Option<(Vec<i32>, Vec<f32>)> = None;
    // Section 16.
    let mut row_before = vec![0.0; n];
    let mut numbers_before = Vec::new();
    let mut is_after_exact = false;
    let mut values = Vec::new();
    for row in 0..n_rows {
        if bits.symbol(&head_codebook) == 1 {
            let row = bits.exact_row(model, &exact_codebook, n);
            if let Some(earlier) = &mut earlier {
                earlier.rows.push(row.clone());
            }
            values.extend(row);
            is_after_exact = true;
            continue;
        }
        if is_after_row(model) && is_after_exact {
            bits.seen.models_after_exact_rows.insert(model);
        }
        is_after_exact = false;
        let y = match (reference, &earlier) {
            (Some(reference), _) => reference[n * row..n * (row + 1)].to_vec(),
            (None, Some(earlier)) => earlier.y(n),
            (None, None) => row_before.clone(),
        };
        let mut numbers = vec![0i32; n];
        let mut features = vec![0.0; 2 * n];
        if let Some((first_row, g)) = &first {
            let known = |y: f32, g: f32| match (basis, &quantizer) {
                (_, Numbers::Steps(step)) => {
                    fin((f64::from(fin(y)) / step - f64::from(fin(g)) / step) as f32)
                }
                (11 | 20, _) => quantizer.of(y).wrapping_sub(quantizer.of(g)) as f32,
                _ => fin(fin(y) - fin(g)),
            };
            let mut expectations = regression.expectations(0);
            let has_fit = regression.next_fit > 8;
            for (column, &(class, is_of_row)) in of_columns.iter().enumerate() {
                let r = known(y[class], g[class]);
                features[column] = r;
                if is_of_row {
                    let e = match (caution, &earlier) {
                        (Some(3), Some(_)) => r,
                        _ => expectations[column] + r,
                    };
                    let v = floor_log2(regression.v[of_classes[class].1]);
                    let (mut prediction, context) = if matches!(basis, 12 | 21) {
                        let g = fin(fin(quantizer.value(first_row[class])) + e);
                        (quantizer.of(g), context_of_value(g, v, &quantizer, basis))
                    } else {
                        let rounded = match e.abs() < 4_194_304.0 {
                            true => e.round_ties_even() as i32,
                            false => e as i32,
                        };
                        (first_row[class].wrapping_add(rounded), v + 8)
                    };
                    if caution == Some(3) && earlier.is_none() {
                        prediction = numbers_before[class];
                    }
                    let context = if has_fit { context.clamp(0, 93) } else { 95 };
                    let difference = from_zigzag(contexts.number(bits, context as usize));
                    numbers[class] = prediction.wrapping_add(difference);
                    let [number, first] = [numbers[class], first_row[class]];
                    features[column] = match basis {
                        12 | 21 => {
                            let [value, first] = [number, first].map(|n| fin(quantizer.value(n)));
                            fin(fin(value - first) - r)
                        }
                        _ => number.wrapping_sub(first) as f32 - r,
                    };
                }
                regression.expect_later(&mut expectations, column, features[column]);
            }
        } else {
            let mut before = 0i32;
            for class in 0..n {
                before = before.wrapping_add(from_zigzag(contexts.number(bits, 94)));
                numbers[class] = before;
            }
        }
        regression.learn(bits, &[(0, features)]);
        let mut row: Vec<f32> = numbers.iter().map(|&n| quantizer.value(n)).collect();
        numbers_before.clone_from(&numbers);
        first.get_or_insert_with(|| {
            let of_row = if is_after_row(model) { &row } else { &y };
            (numbers, of_row.clone())
        });
        if let Some(earlier) = &mut earlier {
            earlier.rows.push(row.clone());
        }
        row_before.clone_from(&row);
        if let Numbers::Steps(_) = quantizer {
            order.finish(bits, None, &mut row);
        }
        values.extend(row);
    }
    values
}

/// Section 12, model 27.
fn repeated_rows(
    bits: &mut Bits,
    version: u8,
    n_rows: usize,
    n: usize,
    keep_top: usize,
) -> Vec<f32> {
    assert!(!bits.is_several && !bits.is_rans);
    let n_distinct = bits.gamma() as usize;
    assert!((1..=n_rows).contains(&n_distinct));
    let length = bits.gamma() as usize - 1;
    let begin = bits.padding();
    let bytes = bits.bytes;
    let of_distinct = &bytes[begin..begin + length];
    let model = u64::from(of_distinct[0] % 64);
    assert!(!matches!(model, 8..=12 | 20 | 21 | 27), "model {model}");
    bits.seen.models_of_distinct.insert(model);
    let n_exact_rows = bits.seen.n_exact_rows;
    let distinct = payload(
        of_distinct,
        version,
        bits.seen,
        n_distinct,
        n,
        None,
        keep_top,
    );
    assert_eq!(distinct.len(), n_distinct * n);
    assert_eq!(bits.seen.n_exact_rows, n_exact_rows);
    // What is left.
    bits.streams = vec![Bitstream::new(&bytes[begin + length..])];
    let mut contexts = Contexts::read(bits, 1);
    contexts.read_codebooks(bits);
    // Of each distinct row, how often it has come and what last came directly after it.
    let mut counts = vec![0u32; n_distinct];
    let mut after: Vec<Option<usize>> = vec![None; n_distinct];
    let mut order: Vec<usize> = (0..n_distinct).collect();
    let mut before: Option<usize> = None;
    // How many rows directly before were their guesses.
    let mut n_guessed = 0usize;
    let mut values = Vec::new();
    for _ in 0..n_rows {
        let guess = before.and_then(|before| after[before]);
        let new = counts.iter().position(|&count| count == 0);
        let context = match guess {
            None => 0,
            Some(_) => (1 + n_guessed).min(7),
        };
        let number = contexts.number(bits, context);
        bits.seen.repeated_contexts.insert(context);
        bits.seen.repeated_numbers.insert(number.min(2));
        let row = match number {
            0 => guess.expect("a guess"),
            1 => new.expect("a distinct row that has not come"),
            _ => {
                let row = order[number as usize - 2];
                assert!(Some(row) != guess && Some(row) != new, "not the number");
                row
            }
        };
        n_guessed = if number == 0 { n_guessed + 1 } else { 0 };
        let place = order.iter().position(|&other| other == row).unwrap();
        let first = order
            .iter()
            .position(|&other| counts[other] == counts[row])
            .unwrap();
        order.swap(place, first);
        counts[row] += 1;
        if let Some(before) = before {
            after[before] = Some(row);
        }
        before = Some(row);
        values.extend_from_slice(&distinct[n * row..n * (row + 1)]);
    }
    assert!(counts.iter().all(|&count| count > 0), "a row never comes");
    values
}

/// Section 17: the number of binary digits.
fn n_digits(x: u32) -> u32 {
    u32::BITS - x.leading_zeros()
}

/// Section 17: *L*, as ranks in contexts.
fn sorted_numbers(bits: &mut Bits, contexts: &mut Contexts, model: u64, n: usize) -> Vec<i32> {
    let [mut a, mut b, mut c] = [0i32, 1, 2];
    let (mut r, mut o) = (0, 0);
    let mut numbers = Vec::new();
    for _ in 0..n {
        let context = if model < 32 {
            let z = if o <= 3 { o } else { 1 + n_digits(o) };
            12 * n_digits(r).min(7) + z.min(11)
        } else {
            let size = |x: i32| n_digits(x.unsigned_abs()).min(2);
            let z = match o {
                0..=2 => 3 * o + size(b),
                _ => (7 + n_digits(o)).min(15),
            };
            96 * size(a) + 16 * n_digits(r).min(5) + z
        } as usize;
        let rank = contexts.number(bits, context);
        match model {
            45 | 46 => bits.seen.contexts_by_numbers.insert(context),
            _ => bits.seen.sorted_contexts.insert(context),
        };
        bits.seen.sorted_ranks.insert(rank.min(3));
        match rank {
            0 => (),
            1 => [a, b] = [b, a],
            2 => [a, b, c] = [c, a, b],
            _ => {
                let mut others = [b, c].map(|other| u64::from(to_zigzag(other.wrapping_sub(a))));
                others.sort();
                // From the rank that it has if none of both is smaller.
                let mut distance = u64::from(rank) - 2;
                let mut n_skipped = 0;
                for other in others {
                    if other <= distance {
                        distance += 1;
                        n_skipped += 1;
                    }
                }
                bits.seen.n_skipped.insert(n_skipped);
                let v = a.wrapping_add(from_zigzag(distance.try_into().unwrap()));
                [a, b, c] = [v, a, b];
            }
        }
        (r, o) = if rank == 0 { (r + 1, o) } else { (0, rank) };
        numbers.push(a);
    }
    numbers
}

/// Section 17: *s* from *L* and *i*.
fn unsorted(sorted: &[i32], i: usize) -> Vec<i32> {
    // *L* and *p* are counted from 1.
    let mut p: Vec<usize> = (1..=sorted.len()).collect();
    // Stable.
    p.sort_by_key(|&p| sorted[p - 1]);
    let mut q = i;
    let mut numbers = Vec::new();
    for _ in 0..sorted.len() {
        assert!(q > 0, "no such order");
        let at = p[q - 1];
        numbers.push(sorted[at - 1]);
        q = if at > i { at } else { at - 1 };
    }
    assert_eq!(q, 0);
    // What the numbers are the order of.
    let mut suffixes: Vec<usize> = (0..=numbers.len()).collect();
    suffixes.sort_by_key(|&k| &numbers[k..]);
    assert_eq!(suffixes.iter().position(|&k| k == 0), Some(i));
    let before = |&k: &usize| k.checked_sub(1).map(|before| numbers[before]);
    let in_order: Vec<i32> = suffixes.iter().filter_map(before).collect();
    assert_eq!(in_order, sorted);
    numbers
}

/// Section 17.
fn block_sorted_rows(
    bits: &mut Bits,
    model: u64,
    n_rows: usize,
    n: usize,
    keep_top: usize,
) -> Vec<f32> {
    let quantizer = match model {
        30 | 46 => None,
        // Those of steps are the same.
        45 => Some(Numbers::read(bits, 28)),
        _ => Some(Numbers::read(bits, model)),
    };
    let scan = bits.number(1);
    bits.seen.scans.insert((model, scan));
    bits.seen.sorted_with_rans.insert((model, bits.is_rans));
    let i = bits.gamma() as usize - 1;
    let mut contexts = Contexts::read(bits, if model < 32 { 1 } else { 4 });
    bits.before_codebooks();
    let head_codebook = bits.codebook(2, 1);
    let exact_codebook = bits.codebook(1, 1);
    let mut order = Order::read(bits, model, n, keep_top, false);
    contexts.read_codebooks(bits);
    bits.before_rows();
    // The exact ones.
    let mut rows: Vec<Option<Vec<f32>>> = Vec::new();
    for _ in 0..n_rows {
        let is_exact = bits.symbol(&head_codebook) == 1;
        rows.push(is_exact.then(|| bits.exact_row(model, &exact_codebook, n)));
    }
    let n_sorted_rows = rows.iter().filter(|row| row.is_none()).count();
    let n_numbers = n * n_sorted_rows;
    assert!(i <= n_numbers && (i == 0) == (n_numbers == 0));
    let sorted = sorted_numbers(bits, &mut contexts, model, n_numbers);
    let numbers = unsorted(&sorted, i);
    let mut n_done = 0;
    let mut values = Vec::new();
    for row in rows {
        if let Some(row) = row {
            values.extend(row);
            continue;
        }
        let numbers = (0..n).map(|class| match scan {
            0 => numbers[n_done * n + class],
            _ => numbers[class * n_sorted_rows + n_done],
        });
        let mut row: Vec<f32> = match &quantizer {
            Some(quantizer) => numbers.map(|number| quantizer.value(number)).collect(),
            None => {
                let levels: Vec<u32> = numbers.map(|number| number as u32).collect();
                assert!(levels.iter().all(|&level| level <= 1 << 21));
                root(&levels)
            }
        };
        n_done += 1;
        match model {
            28 | 30 => order.finish(bits, None, &mut row),
            45 | 46 => order.finish_in(bits, Some(&mut contexts), None, &mut row),
            _ => (),
        }
        values.extend(row);
    }
    values
}

/// Section 5.
fn payload(
    payload: &[u8],
    version: u8,
    seen: &mut Seen,
    n_rows: usize,
    n: usize,
    reference: Option<&[f32]>,
    keep_top: usize,
) -> Vec<f32> {
    let mut bits = Bits {
        bytes: payload,
        is_several: false,
        is_rans: false,
        u: 0,
        streams: vec![Bitstream::new(payload)],
        at: 0,
        seen,
    };
    let model = bits.number(6);
    bits.is_several = bits.bit() == 1;
    bits.is_rans = bits.bit() == 1;
    assert!(version >= 3 || !bits.is_several && !bits.is_rans);
    let may_be_several = matches!(
        model,
        1..=5 | 16..=19 | 22..=26 | 33 | 34 | 48 | 51 | 54..=58
    );
    assert!(!bits.is_several || may_be_several);
    assert!(version >= 4 || !bits.is_several || model >= 3);
    assert!(version >= 5 || model < 13);
    assert!(version >= 6 || model < 17);
    assert!(version >= 7 || model < 25);
    assert!(version >= 8 || model < 27);
    assert!(version >= 9 || model < 32);
    assert!(version >= 11 || !matches!(model, 28..=31));
    assert!(version >= 12 || model < 59);
    assert!(version >= 13 || !matches!(model, 45 | 46));
    bits.seen.models.insert(model);
    bits.seen.first_bytes.insert(payload[0]);
    if bits.is_several {
        bits.seen.n_rows_of_several.insert(n_rows);
    }
    let values = match model {
        0 | 32 => ranked_rows(&mut bits, model, n_rows, n, keep_top),
        1 | 2 | 16 | 19 | 22..=26 | 33 | 34 | 48 | 51 | 54..=58 => {
            expected_rows(&mut bits, model, n_rows, n, keep_top)
        }
        3..=5 | 17 | 18 => predicted_rows(&mut bits, model, n_rows, n, keep_top),
        6 => multiples(&mut bits, n_rows, n, keep_top),
        7 => plain_rows(&mut bits, n_rows, n),
        13..=15 => tabled_rows(&mut bits, model, n_rows, n),
        27 => repeated_rows(&mut bits, version, n_rows, n, keep_top),
        28..=31 | 45 | 46 => block_sorted_rows(&mut bits, model, n_rows, n, keep_top),
        8..=12 | 20 | 21 => {
            let reference = &reference.unwrap()[..n_rows * n];
            let bytes: Vec<u8> = reference.iter().flat_map(|y| y.to_le_bytes()).collect();
            assert_eq!(bits.number(32), u64::from(crc32fast::hash(&bytes)));
            let reference = Some(reference);
            match model {
                8 | 9 => expected_rows_beside(&mut bits, model, reference, n_rows, n, keep_top),
                _ => predicted_rows_beside(&mut bits, model, reference, n_rows, n, keep_top),
            }
        }
        40 | 41 | 59 | 60 => expected_rows_beside(&mut bits, model, None, n_rows, n, keep_top),
        42..=44 | 52 | 53 | 61..=63 => {
            predicted_rows_beside(&mut bits, model, None, n_rows, n, keep_top)
        }
        _ => panic!("no model {model}"),
    };
    bits.after_rows();
    values
}

/// Bytes outside bitstreams: section 2.
struct Bytes<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        self.position += n;
        &self.bytes[self.position - n..self.position]
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn varint(&mut self) -> u64 {
        let mut number = 0;
        for i in 0..9 {
            let byte = self.byte();
            number += u64::from(byte % 128) << (7 * i);
            if byte < 128 {
                assert!(i == 0 || byte > 0, "not the shortest form");
                return number;
            }
        }
        panic!("a varint of more than nine bytes");
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn f64(&mut self) -> f64 {
        f64::from_le_bytes(self.take(8).try_into().unwrap())
    }

    /// The checksum of all bytes from `start` on.
    fn checksum(&mut self, start: usize) {
        let expected = crc32fast::hash(&self.bytes[start..self.position]);
        assert_eq!(self.u32(), expected);
    }
}

/// Section 3: what a frame tells.
#[derive(Debug, PartialEq)]
struct Decoded {
    values: Vec<f32>,
    n_exact_rows: u64,
    figures: Vec<f64>,
}

/// Section 3: the bytes of a header that are none of UTF-8.
const ABBREVIATIONS: [(u8, &str); 13] = [
    (0xC0, r#"",""#),
    (0xC1, r#""max_error":"#),
    (0xF5, r#"{"kind":"probabilities","#),
    (0xF6, r#"{"kind":"logits","#),
    (0xF7, r#"{"kind":"values","#),
    (0xF8, r#""max_kl":"#),
    (0xF9, r#""exact":true"#),
    (0xFA, r#","keep_top":"#),
    (0xFB, r#","classes":"#),
    (0xFC, r#","class_names":[""#),
    (0xFD, r#","model_sha256":""#),
    (0xFE, r#","reference":{"sha256":""#),
    (0xFF, r#","producer":"pc"#),
];

/// Section 3: the first of the frames that `bytes` has left.
fn frame(bytes: &mut Bytes, seen: &mut Seen, reference: Option<&PredictionMatrix>) -> Decoded {
    // The header.
    let start = bytes.position;
    assert_eq!(bytes.take(4), b"\x89HUF");
    let version = bytes.byte();
    assert!((1..=13).contains(&version));
    let n_json = bytes.varint() as usize;
    let mut text = Vec::new();
    for &byte in bytes.take(n_json) {
        match ABBREVIATIONS.iter().find(|(of, _)| *of == byte) {
            Some((_, words)) if version >= 10 => text.extend_from_slice(words.as_bytes()),
            _ => text.push(byte),
        }
    }
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    bytes.checksum(start);
    let n_header = bytes.position - start;
    let kind = json["kind"].as_str().unwrap();
    assert!(["probabilities", "logits", "values"].contains(&kind));
    let bound = |name: &str| json.get(name).map(|number| number.as_f64().unwrap());
    // Of each figure, what it is at most.
    let at_most = match (bound("max_error"), bound("max_kl"), json.get("exact")) {
        (Some(max_error), None, None) => vec![max_error],
        (None, Some(max_kl), None) => vec![1.0, max_kl, f64::INFINITY],
        (None, None, Some(serde_json::Value::Bool(true))) => vec![],
        _ => panic!("expected one bound: {json}"),
    };
    let keep_top = match json.get("keep_top") {
        Some(keep_top) => keep_top.as_u64().unwrap() as usize,
        None => 1,
    };
    let n_classes = json["classes"].as_u64().unwrap() as usize;
    match version {
        1 => assert!(json.get("reference").is_none()),
        2 => assert!(json.get("reference").is_some()),
        _ => (),
    }
    let reference = json.get("reference").map(|name| {
        let is_digit = |digit: char| digit.is_ascii_digit() || ('a'..='f').contains(&digit);
        let sha256 = name["sha256"].as_str().unwrap();
        assert!(sha256.len() == 64 && sha256.chars().all(is_digit));
        let reference = reference.unwrap();
        assert_eq!(name["rows"].as_u64().unwrap(), reference.n_rows() as u64);
        assert_eq!(reference.n_classes(), n_classes);
        reference.values()
    });
    if let Some(names) = json.get("class_names") {
        assert_eq!(names.as_array().unwrap().len(), n_classes);
    }
    // The blocks.
    let mut values = Vec::new();
    let mut blocks: Vec<(usize, usize)> = Vec::new();
    let mut n_exact_rows = 0;
    let index_start = loop {
        let block_start = bytes.position;
        match bytes.byte() {
            b'B' => (),
            tag => {
                assert_eq!(tag, b'I');
                break block_start;
            }
        }
        let n_rows = bytes.varint() as usize;
        assert!(n_rows >= 1 && n_rows * n_classes <= 1 << 22);
        let n_payload = bytes.varint() as usize;
        let in_payload = bytes.take(n_payload);
        let n_exact_before = seen.n_exact_rows;
        let beside = reference.map(|reference| &reference[values.len()..]);
        values.extend(payload(
            in_payload, version, seen, n_rows, n_classes, beside, keep_top,
        ));
        n_exact_rows += seen.n_exact_rows - n_exact_before;
        bytes.checksum(block_start);
        blocks.push((n_rows, bytes.position - block_start));
    };
    // The index.
    assert_eq!(bytes.varint() as usize, n_header);
    assert_eq!(bytes.varint() as usize, blocks.len());
    for (n_rows, n_bytes) in blocks {
        assert_eq!(bytes.varint() as usize, n_rows);
        assert_eq!(bytes.varint() as usize, n_bytes);
    }
    assert_eq!(bytes.varint(), n_exact_rows);
    let figures: Vec<f64> = at_most.iter().map(|_| bytes.f64()).collect();
    for (figure, at_most) in figures.iter().zip(at_most) {
        assert!((0.0..=at_most).contains(figure), "{figures:?}");
    }
    bytes.checksum(index_start);
    let n_index = bytes.u32() as usize;
    assert_eq!(bytes.take(4), b"HUF\n");
    assert_eq!(bytes.position - index_start, n_index);
    Decoded {
        values,
        n_exact_rows,
        figures,
    }
}

/// Section 3: the frames of a file.
fn decode(bytes: &[u8], seen: &mut Seen) -> Vec<Decoded> {
    decode_beside(bytes, seen, None)
}

/// Section 3: the frames of a file, all with the same reference.
fn decode_beside(
    bytes: &[u8],
    seen: &mut Seen,
    reference: Option<&PredictionMatrix>,
) -> Vec<Decoded> {
    let mut bytes = Bytes { bytes, position: 0 };
    let mut frames = Vec::new();
    while bytes.position < bytes.bytes.len() {
        frames.push(frame(&mut bytes, seen, reference));
    }
    frames
}

/// Logits that depend on each other: low rank, as those of networks are.
fn logits(n_rows: usize, n_classes: usize, scale: f32, seed: u64) -> PredictionMatrix {
    let mut rng = StdRng::seed_from_u64(seed);
    let n_factors = 4;
    let mixing: Vec<f32> = (0..n_classes * n_factors)
        .map(|_| rng.random_range(-1.0..1.0))
        .collect();
    let mut values = Vec::new();
    for _ in 0..n_rows {
        let factors: Vec<f32> = (0..n_factors)
            .map(|_| rng.random_range(-scale..scale))
            .collect();
        values.extend(mixing.chunks(n_factors).map(|mixing| {
            let logit: f32 = mixing.iter().zip(&factors).map(|(a, b)| a * b).sum();
            logit + rng.random_range(-0.3..0.3)
        }));
    }
    PredictionMatrix::new(n_classes, values)
}

/// The softmax of [`logits`].
fn softmax_rows(n_rows: usize, n_classes: usize, scale: f32, seed: u64) -> PredictionMatrix {
    let mut values = Vec::new();
    for row in logits(n_rows, n_classes, scale, seed).rows() {
        let largest = row.iter().copied().reduce(f32::max).unwrap();
        let exps: Vec<f32> = row.iter().map(|logit| (logit - largest).exp()).collect();
        let sum: f32 = exps.iter().sum();
        values.extend(exps.iter().map(|value| value / sum));
    }
    PredictionMatrix::new(n_classes, values)
}

/// Independent values, made from a random generator each.
fn noise(
    n_rows: usize,
    n_classes: usize,
    seed: u64,
    value: impl Fn(&mut StdRng) -> f32,
) -> PredictionMatrix {
    let mut rng = StdRng::seed_from_u64(seed);
    let values = (0..n_rows * n_classes).map(|_| value(&mut rng)).collect();
    PredictionMatrix::new(n_classes, values)
}

fn map(matrix: PredictionMatrix, mut value: impl FnMut(f32) -> f32) -> PredictionMatrix {
    let n_classes = matrix.n_classes();
    let values = matrix.into_values().into_iter().map(&mut value).collect();
    PredictionMatrix::new(n_classes, values)
}

/// Shares of so many votes, each for a class as likely as the row says.
fn votes(probabilities: &PredictionMatrix, n_votes: u8, seed: u64) -> PredictionMatrix {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut values = Vec::new();
    for row in probabilities.rows() {
        let mut counts = vec![0u8; row.len()];
        for _ in 0..n_votes {
            let mut rest: f32 = rng.random_range(0.0..0.999);
            let class = row.iter().position(|p| {
                rest -= p;
                rest < 0.0
            });
            counts[class.unwrap_or(0)] += 1;
        }
        values.extend(counts.iter().map(|&n| f32::from(n) / f32::from(n_votes)));
    }
    PredictionMatrix::new(probabilities.n_classes(), values)
}

/// The rows of one matrix, and then those of the other.
fn both(a: &PredictionMatrix, b: &PredictionMatrix) -> PredictionMatrix {
    PredictionMatrix::new(a.n_classes(), [a.values(), b.values()].concat())
}

fn compress(matrix: &PredictionMatrix, promise: Promise) -> Vec<u8> {
    let mut header = FrameHeader::new(matrix.n_classes(), promise).unwrap();
    if matrix.n_classes() == 3 {
        header.class_names = Some(["a", "b", "c"].map(str::to_owned).to_vec());
    }
    let mut writer = FrameWriter::new(Vec::new(), header).unwrap();
    writer.write(matrix).unwrap();
    writer.finish().unwrap().0
}

fn patterns(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Writes matrices under promises, as frames of one file, and compares both decoders. Whoever reads
/// exact files has the originals, too.
#[track_caller]
fn check(seen: &mut Seen, frames: &[(&PredictionMatrix, Promise)]) {
    let bytes: Vec<u8> = frames
        .iter()
        .flat_map(|(matrix, promise)| compress(matrix, *promise))
        .collect();
    let what = format!("{:?}, {:?}", frames[0].1, frames[0].0.n_classes());
    let mut reader = FrameReader::new(&bytes[..]).unwrap();
    let mut values = Vec::new();
    while let Some(block) = reader.next_block().unwrap() {
        values.extend_from_slice(block.values());
    }
    let decoded = decode(&bytes, seen);
    assert_eq!(decoded.len(), frames.len());
    let expected: Vec<f32> = decoded
        .iter()
        .flat_map(|frame| frame.values.clone())
        .collect();
    let differs = values
        .iter()
        .zip(&expected)
        .position(|(a, b)| a.to_bits() != b.to_bits());
    assert_eq!(differs, None, "first value that differs: {what}");
    assert_eq!(values.len(), expected.len(), "{what}");
    for ((matrix, promise), frame) in frames.iter().zip(&decoded) {
        assert_eq!(frame.values.len(), matrix.values().len());
        if promise.bound == Bound::Exact {
            assert_eq!(patterns(&frame.values), patterns(matrix.values()));
        }
    }
    let index = FileIndex::read_from(&mut Cursor::new(&bytes)).unwrap();
    for summary in [reader.summary(), index.summary()] {
        let n_exact_rows: u64 = decoded.iter().map(|frame| frame.n_exact_rows).sum();
        assert_eq!(summary.figures.n_exact_rows, n_exact_rows);
        let n_rows: usize = frames.iter().map(|frame| frame.0.n_rows()).sum();
        assert_eq!(summary.n_rows, n_rows as u64);
        if let [Decoded { figures, .. }] = &decoded[..] {
            let expected = match figures[..] {
                [] => [0.0, 0.0, 0.0],
                [error] => [error, 0.0, 0.0],
                _ => [figures[0], figures[1], figures[2]],
            };
            let figures = summary.figures;
            let found = [figures.largest_error, figures.largest_kl, figures.total_kl];
            assert_eq!(found, expected);
        }
    }
}

fn promise(kind: Kind, bound: Bound, keep_top: usize) -> Promise {
    Promise {
        keep_top,
        ..Promise::new(kind, bound)
    }
}

const BOUNDS: [Bound; 8] = [
    Bound::MaxError(0.5),
    Bound::MaxError(0.002),
    Bound::MaxError(1e-4),
    Bound::MaxError(1e-6),
    Bound::MaxKl(1e-1),
    Bound::MaxKl(1e-3),
    Bound::MaxKl(1e-5),
    Bound::Exact,
];

#[test]
fn a_decoder_written_from_the_specification_gives_the_same_probabilities() {
    let mut seen = Seen::default();
    let sharp = softmax_rows(700, 10, 20.0, 1);
    let live = softmax_rows(700, 10, 3.0, 2);
    let mut tied = map(softmax_rows(300, 12, 3.0, 3), |value| {
        (value * 8.0).round() / 8.0
    });
    tied.normalize();
    // Three classes that a level does not tell apart.
    let mut rng = StdRng::seed_from_u64(12);
    let mut rivals = vec![0.0; 300 * 12];
    for row in rivals.chunks_mut(12) {
        let classes: Vec<usize> = (0..3).map(|i| 4 * i + rng.random_range(0..4)).collect();
        let turn = rng.random_range(0..3);
        for (i, value) in [0.33335, 0.33325, 0.3334].into_iter().enumerate() {
            row[classes[(i + turn) % 3]] = value;
        }
    }
    let rivals = PredictionMatrix::new(12, rivals);
    for matrix in [
        &sharp,
        &live,
        &both(&sharp, &live),
        &tied,
        &rivals,
        &softmax_rows(40, 1, 1.0, 5),
        &softmax_rows(150, 3, 6.0, 6),
        &softmax_rows(120, 100, 5.0, 7),
        &softmax_rows(40, 300, 5.0, 8),
        &softmax_rows(40, 1500, 20.0, 9),
        &softmax_rows(20, 5000, 3.0, 10),
        &softmax_rows(0, 7, 1.0, 11),
    ] {
        let sums_to_1 = |row: &[f32]| (row.iter().sum::<f32>() - 1.0).abs() < 1e-5;
        for (i, bound) in BOUNDS.into_iter().enumerate() {
            if matches!(bound, Bound::MaxKl(_)) && !matrix.rows().all(sums_to_1) {
                continue;
            }
            for keep_top in [1, 2, 5] {
                // Not all of the slow ones.
                if matrix.n_classes() > 100 && (i + keep_top) % 3 > 0 {
                    continue;
                }
                let promise = promise(Kind::Probabilities, bound, keep_top);
                check(&mut seen, &[(matrix, promise)]);
            }
        }
    }
    // Rows of two live classes, some of which do not sum to 1.
    let mut off = vec![0.0; 400 * 1500];
    for (i, row) in off.chunks_mut(1500).enumerate() {
        let (class, other) = (70 * rng.random_range(0..20), rng.random_range(0.01..0.4));
        row[class] = 1.0 - other;
        row[class + 1] = if i % 20 == 0 { other + 0.008 } else { other };
    }
    let off = PredictionMatrix::new(1500, off);
    check(
        &mut seen,
        &[(
            &off,
            promise(Kind::Probabilities, Bound::MaxError(0.002), 1),
        )],
    );
    // Classes that no level tells apart, and so many that the last one told is off by too much.
    let crowd = both(
        &softmax_rows(30, 100, 20.0, 14),
        &noise(3, 100, 15, |rng| 0.9 + rng.random_range(0.0..1e-6)),
    );
    for bound in [Bound::MaxError(1e-4), Bound::MaxError(1e-6)] {
        check(
            &mut seen,
            &[(&crowd, promise(Kind::Probabilities, bound, 100))],
        );
    }
    assert!(seen.models.is_superset(&BTreeSet::from([0, 1, 2, 4, 5, 7])));
    assert!(!seen.exact_models.is_empty());
    assert!(seen.orders.contains(&(0, 5)));
    for model in [0, 1, 2] {
        assert!((1..=4).all(|i| seen.orders.contains(&(model, i))));
    }
    assert_eq!(seen.certain_models, BTreeSet::from([1, 2, 16, 22, 24, 25]));
    assert!(seen.bands_alike.len() > 1);
    assert!(seen.n_followers > 0 && seen.n_runs_without_follower > 0);
    assert!(seen.n_joint_misses > 0 && seen.n_tied_ranks > 0 && seen.n_set_apart > 0);
    assert!(seen.most_others > 64);
    assert_eq!(seen.panel_sizes, BTreeSet::from([1, 3, 10, 12, 100, 128]));
    assert!(seen.longest_code > 9);
}

#[test]
fn a_decoder_written_from_the_specification_reads_fractions() {
    // Shares of 15 neighbours, or of 100 trees.
    let mut seen = Seen::default();
    for (n_rows, scale, n_votes) in [(900, 8.0, 15), (900, 1.0, 100), (6003, 1.0, 200)] {
        let probabilities = softmax_rows(n_rows, 30, scale, 4);
        let shares = votes(&probabilities, n_votes, 5);
        for (bound, keep_top) in [
            (Bound::Exact, 1),
            (Bound::MaxError(1e-4), 3),
            (Bound::MaxKl(1e-4), 2),
        ] {
            let promise = promise(Kind::Probabilities, bound, keep_top);
            check(&mut seen, &[(&shares, promise)]);
        }
    }
    assert_eq!(seen.n_exact_rows, 0);
    assert_eq!(
        seen.first_bytes,
        BTreeSet::from([0x00, 0x1B, 0x41, 0x50, 0x81, 0x90])
    );
}

#[test]
fn a_decoder_written_from_the_specification_reads_tables() {
    let mut seen = Seen::default();
    let mut rng = StdRng::seed_from_u64(6);
    let numbers: Vec<f32> = (0..700).map(|_| rng.random_range(-9.0..9.0)).collect();
    for (n_rows, n_classes) in [(400, 20), (60, 150), (1500, 1)] {
        for way in 0..3 {
            let mut values: Vec<f32> = Vec::new();
            for i in 0..n_rows * n_classes {
                let class = i % n_classes;
                let any = rng
                    .random_range(0..numbers.len())
                    .min(rng.random_range(0..700));
                values.push(match (rng.random_range(0..20), way) {
                    (0, _) => numbers[any],
                    (1, _) => rng.random_range(-1.0..1.0),
                    (_, 0) => numbers[(class * 4 + any % 4) % numbers.len()],
                    (_, 1) if class > 0 => -values[i - 1],
                    (_, 2) if i >= n_classes => values[i - n_classes],
                    _ => [0.0, -0.0, f32::NAN, f32::NEG_INFINITY][any % 4],
                });
            }
            let matrix = PredictionMatrix::new(n_classes, values);
            check(
                &mut seen,
                &[(&matrix, promise(Kind::Values, Bound::Exact, 1))],
            );
        }
    }
    // Whole numbers.
    let counts = noise(500, 7, 7, |rng| rng.random_range(0.0f32..3.0).exp().floor());
    check(
        &mut seen,
        &[(&counts, promise(Kind::Values, Bound::Exact, 1))],
    );
    assert!(
        seen.models.is_superset(&BTreeSet::from([13, 14, 15])),
        "{:?}",
        seen.models
    );
    assert!(seen.first_bytes.iter().any(|first| first & 0x80 == 0));
    assert!(seen.first_bytes.iter().any(|first| first & 0x80 != 0));
    assert!(seen.table_sizes.first() < Some(&17) && seen.table_sizes.last() > Some(&500));
}

/// The rows at these places, in their order.
fn rows_at(matrix: &PredictionMatrix, places: &[usize]) -> PredictionMatrix {
    let n = matrix.n_classes();
    let mut values = Vec::new();
    for place in places {
        values.extend_from_slice(&matrix.values()[n * place..n * (place + 1)]);
    }
    PredictionMatrix::new(n, values)
}

#[test]
fn a_decoder_written_from_the_specification_reads_repeated_rows() {
    let mut seen = Seen::default();
    let mut rng = StdRng::seed_from_u64(16);
    let runs: Vec<usize> = (0..60)
        .flat_map(|row| vec![row; rng.random_range(1..30usize)])
        .collect();
    let skewed: Vec<usize> = (0..1500)
        .map(|_| {
            let any = rng.random_range(0..40usize);
            any.min(rng.random_range(0..40))
                .min(rng.random_range(0..40))
        })
        .collect();
    let tiled: Vec<usize> = (0..1200).map(|i| i % 300).collect();
    // New rows among some that have come already.
    let mixed: Vec<usize> = (0..1600)
        .map(|i| match i % 4 {
            0 => i / 4,
            _ => rng.random_range(0..=i / 4),
        })
        .collect();
    let three: Vec<usize> = (0..900).map(|i| i % 3).collect();
    let of = |bound, keep_top| promise(Kind::Probabilities, bound, keep_top);
    let [coarse, fine] = [1.0 / 510.0, 1e-4].map(Bound::MaxError);
    for (places, n_classes, scale) in [
        (&vec![0; 500], 100, 3.0),
        (&runs, 10, 20.0),
        (&skewed, 20, 3.0),
        (&tiled, 10, 3.0),
        (&mixed, 10, 8.0),
        (&three, 1, 3.0),
    ] {
        let n_distinct = places.iter().max().unwrap() + 1;
        let probabilities = rows_at(&softmax_rows(n_distinct, n_classes, scale, 1), places);
        for bound in [coarse, fine, Bound::MaxKl(1e-3), Bound::Exact] {
            check(&mut seen, &[(&probabilities, of(bound, 1))]);
            if n_classes == 20 {
                check(&mut seen, &[(&probabilities, of(bound, 3))]);
            }
        }
        let logits = rows_at(&logits(n_distinct, n_classes, scale, 2), places);
        for bound in [Bound::MaxError(0.05), Bound::Exact] {
            check(&mut seen, &[(&logits, promise(Kind::Logits, bound, 1))]);
        }
    }
    // Rows of one class that differ.
    let single = noise(3, 1, 3, |rng| rng.random_range(0.0..1.0));
    for bound in [coarse, fine, Bound::Exact] {
        check(&mut seen, &[(&rows_at(&single, &three), of(bound, 1))]);
    }
    // So many rows that a sample is looked at.
    let drawn: Vec<usize> = (0..6000).map(|_| rng.random_range(0..700)).collect();
    let large = rows_at(&softmax_rows(700, 50, 3.0, 4), &drawn);
    for bound in [coarse, Bound::MaxKl(1e-3), Bound::Exact] {
        check(&mut seen, &[(&large, of(bound, 1))]);
    }
    let large = rows_at(&logits(700, 50, 3.0, 5), &drawn);
    for bound in [Bound::MaxError(0.05), Bound::Exact] {
        check(&mut seen, &[(&large, promise(Kind::Logits, bound, 1))]);
    }
    // Exact rows among the distinct ones.
    let far = with_far_rows(logits(300, 10, 3.0, 6), |row| row % 50 == 7);
    let far = rows_at(&far, &tiled);
    check(
        &mut seen,
        &[(&far, promise(Kind::Values, Bound::MaxError(0.05), 1))],
    );
    assert!(seen.n_exact_rows > 0);
    assert!(seen.models.contains(&27));
    assert!(
        seen.models_of_distinct.len() >= 4,
        "{:?}",
        seen.models_of_distinct
    );
    assert_eq!(seen.repeated_numbers, BTreeSet::from([0, 1, 2]));
    for context in [0, 7] {
        assert!(seen.repeated_contexts.contains(&context), "{context}");
    }
}

#[test]
fn a_decoder_written_from_the_specification_gives_the_same_values() {
    let mut seen = Seen::default();
    let gaussian = |rng: &mut StdRng| (0..6).map(|_| rng.random_range(-1.0..1.0)).sum::<f32>();
    let mut n = 0;
    let any = noise(300, 10, 21, |rng| f32::from_bits(rng.random()));
    let with_nan = map(logits(300, 10, 3.0, 22), |value| {
        n += 1;
        match n % 97 {
            0 => f32::NAN,
            1 => f32::INFINITY,
            2 => -0.0,
            3 => f32::from_bits(n),
            _ => value,
        }
    });
    let tied = map(logits(300, 12, 3.0, 23), f32::round);
    let far = {
        let mut n = 0;
        map(logits(300, 10, 3.0, 24), |value| {
            n += 1;
            if n % 500 == 0 { value * 1e9 } else { value }
        })
    };
    // Of ten rows, nine are all alike: long runs, which codes of single numbers do not beat.
    let bursts = {
        let mut n = 0;
        map(logits(1500, 10, 3.0, 32), |value| {
            n += 1;
            match (n - 1) / 10 % 10 {
                0 => value,
                // But for what makes them no repeated ones.
                _ => (n % 10) as f32 + n as f32 * 1e-7,
            }
        })
    };
    for (i, matrix) in [
        &logits(700, 10, 3.0, 25),
        &noise(700, 10, 26, gaussian),
        &bursts,
        &tied,
        &far,
        &logits(40, 1, 3.0, 27),
        &logits(150, 3, 3.0, 28),
        &logits(120, 100, 3.0, 29),
        &logits(40, 300, 3.0, 30),
        &logits(20, 5000, 3.0, 31),
        &any,
        &with_nan,
    ]
    .into_iter()
    .enumerate()
    {
        let kind = if i % 2 == 0 {
            Kind::Logits
        } else {
            Kind::Values
        };
        let mut bounds = vec![Bound::Exact];
        if i < 10 {
            bounds.extend([Bound::MaxError(0.01), Bound::MaxError(0.5)]);
        }
        for bound in bounds {
            for keep_top in [1, 2, 5] {
                check(&mut seen, &[(matrix, promise(kind, bound, keep_top))]);
            }
        }
    }
    assert!(seen.models.is_superset(&BTreeSet::from([3, 5, 6, 7])));
    assert!(seen.exact_models.contains(&3));
    for model in [3, 6] {
        assert!((0..5).all(|i| seen.orders.contains(&(model, i))));
    }
    assert!(seen.n_followers > 0 && seen.n_runs_without_follower > 0 && seen.n_set_apart > 0);
    assert_eq!(
        seen.panel_sizes,
        BTreeSet::from([1, 3, 10, 12, 20, 100, 128])
    );
    assert!(seen.longest_code > 9);
}

#[test]
fn a_decoder_written_from_the_specification_reads_several_blocks_and_frames() {
    let mut seen = Seen::default();
    let rows = softmax_rows(17_000, 4, 6.0, 41);
    let few_rows = softmax_rows(9, 4, 6.0, 42);
    for bound in [Bound::MaxError(0.002), Bound::MaxKl(1e-3), Bound::Exact] {
        let of = |bound| Promise::new(Kind::Probabilities, bound);
        check(
            &mut seen,
            &[
                (&rows, of(bound)),
                (&few_rows, of(Bound::Exact)),
                (&few_rows, of(bound)),
            ],
        );
    }
}

/// Writes a matrix beside a reference and compares both decoders.
#[track_caller]
fn check_beside(
    seen: &mut Seen,
    matrix: &PredictionMatrix,
    reference: &PredictionMatrix,
    promise: Promise,
) {
    let mut header = FrameHeader::new(matrix.n_classes(), promise).unwrap();
    header.reference = Some(ReferenceName {
        sha256: "0123456789abcdef".repeat(4),
        rows: reference.n_rows() as u64,
    });
    let mut writer = FrameWriter::new(Vec::new(), header).unwrap();
    let rows = |rows: Range<u64>| {
        let n = reference.n_classes();
        let values = &reference.values()[rows.start as usize * n..rows.end as usize * n];
        PredictionMatrix::new(n, values.to_vec())
    };
    let beside = rows(0..matrix.n_rows() as u64);
    writer.write_with_reference(matrix, &beside).unwrap();
    let bytes = writer.finish().unwrap().0;
    let mut reader = FrameReader::new(&bytes[..]).unwrap();
    let mut values = Vec::new();
    let find = |needed: &ReferenceRows| Ok(rows(needed.rows.clone()));
    while let Some(block) = reader.next_block_with(find).unwrap() {
        values.extend_from_slice(block.values());
    }
    let decoded = decode_beside(&bytes, seen, Some(reference));
    let differs = values
        .iter()
        .zip(&decoded[0].values)
        .position(|(a, b)| a.to_bits() != b.to_bits());
    assert_eq!(differs, None, "first value that differs: {promise:?}");
    assert_eq!(values.len(), decoded[0].values.len());
    if promise.bound == Bound::Exact {
        assert_eq!(patterns(&values), patterns(matrix.values()));
    }
    for (original, row) in matrix.rows().zip(values.chunks(matrix.n_classes())) {
        assert!(promise.measure(original, row).is_some());
    }
}

/// Values like those of a matrix, each a little off.
fn like(matrix: &PredictionMatrix, share: f32, seed: u64) -> PredictionMatrix {
    let mut rng = StdRng::seed_from_u64(seed);
    map(matrix.clone(), |value| {
        value * (1.0 + rng.random_range(-share..share))
    })
}

#[test]
fn a_decoder_written_from_the_specification_reads_rows_beside_a_reference() {
    let mut seen = Seen::default();
    let mut alike = Vec::new();
    for (n_rows, n_classes, scale) in [
        (700, 10, 20.0),
        (700, 10, 3.0),
        (40, 1, 3.0),
        (150, 3, 6.0),
        (60, 150, 5.0),
        (120, 100, 5.0),
        (12, 2500, 3.0),
    ] {
        alike.push(softmax_rows(n_rows, n_classes, scale, n_classes as u64));
    }
    for (i, matrix) in alike.iter().enumerate() {
        let mut reference = like(matrix, 0.3, 1);
        reference.normalize();
        // A reference may have more rows.
        let reference = both(&reference, &like(matrix, 0.5, 2));
        for (j, bound) in BOUNDS.into_iter().enumerate() {
            for keep_top in [1, 5] {
                if matrix.n_classes() >= 100 && (i + j + keep_top) % 3 > 0 {
                    continue;
                }
                let promise = promise(Kind::Probabilities, bound, keep_top);
                check_beside(&mut seen, matrix, &reference, promise);
            }
        }
    }
    // Rows stored exactly, beside what is no probability.
    let crowd = both(
        &softmax_rows(30, 100, 20.0, 14),
        &noise(3, 100, 15, |rng| 0.9 + rng.random_range(0.0..1e-6)),
    );
    let mut n = 0;
    let strange = map(crowd.clone(), |value| {
        n += 1;
        match n % 97 {
            0 => f32::NAN,
            1 => f32::NEG_INFINITY,
            2 => 7.5,
            _ => value,
        }
    });
    for bound in [Bound::MaxError(1e-4), Bound::MaxError(1e-6)] {
        let promise = promise(Kind::Probabilities, bound, 100);
        check_beside(&mut seen, &crowd, &strange, promise);
    }
    for (i, (n_rows, n_classes)) in [(700, 10), (40, 1), (60, 150), (12, 2500)]
        .into_iter()
        .enumerate()
    {
        let values = logits(n_rows, n_classes, 3.0, i as u64);
        let mut n = 0;
        let far = map(values.clone(), |value| {
            n += 1;
            if n % 500 == 0 { value * 1e9 } else { value }
        });
        // Rows that are far off are few only where rows are many.
        let n_matrices = if n_rows > 100 { 2 } else { 1 };
        for matrix in [&values, &far].into_iter().take(n_matrices) {
            let reference = like(matrix, 0.05, 3);
            for bound in [Bound::Exact, Bound::MaxError(0.01), Bound::MaxError(0.5)] {
                for keep_top in [1, 5] {
                    let promise = promise(Kind::Logits, bound, keep_top);
                    check_beside(&mut seen, matrix, &reference, promise);
                }
            }
        }
        let mut n = 0;
        let with_nan = |matrix: PredictionMatrix| {
            map(matrix, |value| {
                n += 1;
                match n % 97 {
                    0 => f32::NAN,
                    1 => f32::INFINITY,
                    2 => -0.0,
                    _ => value,
                }
            })
        };
        let [values, reference] = [values.clone(), like(&values, 0.01, 4)].map(with_nan);
        let promise = promise(Kind::Values, Bound::Exact, 1);
        check_beside(&mut seen, &values, &reference, promise);
    }
    assert!(seen.models.is_superset(&BTreeSet::from([8, 9, 10, 11, 12])));
    assert!(seen.exact_models.contains(&8) && seen.exact_models.contains(&10));
    assert!(seen.certain_models.is_superset(&BTreeSet::from([8, 9])));
    assert!(seen.top_ranks.contains(&0) && seen.top_ranks.len() > 2);
    assert!(
        [2, 6, 20, 128, 200]
            .iter()
            .all(|size| seen.panel_sizes.contains(size))
    );
    assert!((1..5).all(|i| seen.orders.contains(&(8, i)) && seen.orders.contains(&(9, i))));
    assert!((0..5).all(|i| seen.orders.contains(&(10, i))));
}

/// Values of some rows replaced by one that no step of a small error reaches: these rows are exact.
fn with_far_rows(matrix: PredictionMatrix, is_far: impl Fn(usize) -> bool) -> PredictionMatrix {
    let n_classes = matrix.n_classes();
    let mut i = 0;
    map(matrix, |value| {
        let (row, class) = (i / n_classes, i % n_classes);
        i += 1;
        if class == 2 && is_far(row) {
            1e30
        } else {
            value
        }
    })
}

/// Columns of constants of very different sizes, the patterns of which are off by 0, 1 or 2.
fn near_constants(n_rows: usize, n_classes: usize, seed: u64) -> PredictionMatrix {
    let mut rng = StdRng::seed_from_u64(seed);
    let constants: Vec<f32> = (0..n_classes)
        .map(|class| rng.random_range(-2.0..2.0) * 3f32.powi(class as i32 - 5))
        .collect();
    let value =
        |i: usize| f32::from_bits(constants[i % n_classes].to_bits() + rng.random_range(0..3));
    let values = (0..n_rows * n_classes).map(value).collect();
    PredictionMatrix::new(n_classes, values)
}

/// Columns of which only the last bits differ, each about another power of two, so that these are no minifloats.
fn few_patterns(n_rows: usize, n_classes: usize, seed: u64) -> PredictionMatrix {
    let mut class = 0;
    map(logits(n_rows, n_classes, 3.0, seed), |value| {
        class = (class + 1) % n_classes;
        let power = f32::powi(2.0, class as i32 - 5);
        f32::from_bits(power.to_bits() + (2.0 * value + 100.0) as u32)
    })
}

#[test]
fn a_decoder_written_from_the_specification_reads_several_bitstreams() {
    let mut seen = Seen::default();
    let of = |bound, keep_top| promise(Kind::Values, bound, keep_top);
    let [fine, middle, coarse] = [0.01, 0.1, 0.5].map(Bound::MaxError);
    // Rows of all numbers modulo 8.
    let even = logits(5304, 50, 3.0, 1);
    check(&mut seen, &[(&even, promise(Kind::Logits, fine, 1))]);
    // The first rows that are not exact are not the first of eight, or not of the first eight; fits are
    // after numbers of rows that are no multiples of 8.
    let far = with_far_rows(logits(5301, 50, 3.0, 2), |row| {
        [0, 3].contains(&row) || row % 700 == 5
    });
    let later = with_far_rows(logits(5302, 50, 3.0, 3), |row| row < 11 || row == 13);
    for keep_top in [1, 3] {
        check(&mut seen, &[(&far, of(fine, keep_top))]);
        check(&mut seen, &[(&far, of(coarse, keep_top))]);
        check(&mut seen, &[(&later, of(fine, keep_top))]);
        check(&mut seen, &[(&later, of(middle, keep_top))]);
    }
    // Bits.
    let probabilities = softmax_rows(5303, 50, 3.0, 4);
    let exact = promise(Kind::Probabilities, Bound::Exact, 1);
    check(&mut seen, &[(&probabilities, exact)]);
    for matrix in [
        logits(5307, 50, 3.0, 5),
        few_patterns(5300, 50, 6),
        near_constants(5305, 50, 7),
    ] {
        check(&mut seen, &[(&matrix, of(Bound::Exact, 1))]);
    }
    // A fit is due before 6000 rows are learned, but the rows taken together go beyond.
    let beyond = with_far_rows(logits(16_000, 20, 3.0, 10), |row| row % 39 == 0);
    check(&mut seen, &[(&beyond, of(fine, 1))]);
    // Several panels, and several blocks.
    check(&mut seen, &[(&logits(890, 300, 3.0, 8), of(coarse, 3))]);
    check(&mut seen, &[(&logits(30_000, 20, 3.0, 9), of(coarse, 1))]);
    for first_byte in [0x43, 0x44, 0x45, 0xC3, 0xC4, 0xC5] {
        assert!(seen.first_bytes.contains(&first_byte), "{first_byte:x}");
    }
    for first_byte in [0x43, 0xC3] {
        assert!(seen.first_bytes_with_exact_rows.contains(&first_byte));
        assert!((0..3).all(|i| seen.first_bytes_with_orders.contains(&(first_byte, i))));
    }
    let n_rows = &seen.n_rows_of_several;
    assert!((0..8).all(|rest| n_rows.iter().any(|n_rows| n_rows % 8 == rest)));
    assert!(n_rows.contains(&(1 << 14)));
    assert_eq!(seen.panel_sizes, BTreeSet::from([20, 50, 128]));
    assert!(seen.n_followers > 0 && seen.n_runs_without_follower > 0);
    assert!(seen.us.contains(&3));
}

/// The nearest float16, ties to even.
fn float16(value: f32) -> f32 {
    half::f16::from_f32(value).to_f32()
}

/// The nearest bfloat16, ties to even.
fn bfloat16(value: f32) -> f32 {
    half::bf16::from_f32(value).to_f32()
}

/// Probabilities in float16: some rows peaked, some live; and some that are no distributions.
fn half_probabilities(n_rows: usize, n_classes: usize, scale: f32, seed: u64) -> PredictionMatrix {
    let mut values = softmax_rows(n_rows, n_classes, scale, seed).into_values();
    for (number, row) in values.chunks_exact_mut(n_classes).enumerate() {
        match number % 50 {
            7 | 8 => {
                row.fill(0.0);
                row[number % n_classes] = 1.0;
            }
            9 => row.fill(0.5),
            10 => row.fill(1.0),
            11 => row.fill(0.0),
            // 2^-24, the least number.
            12 => row.fill(0.5f32.powi(24)),
            13 => row[number % n_classes] = 0.25,
            _ => (),
        }
    }
    map(PredictionMatrix::new(n_classes, values), float16)
}

#[test]
fn a_decoder_written_from_the_specification_reads_minifloats() {
    let mut seen = Seen::default();
    let decimals = |of: f32| move |value: f32| (value * of).round() / of;
    let scaled = |value: f32| value.round() * 0.0712;
    // Of many rows, for several bitstreams.
    for (n_rows, n_classes) in [(900, 10), (61, 130), (40, 1), (5301, 50), (30, 1100)] {
        let of = |scale, seed| logits(n_rows, n_classes, scale, seed);
        let mut n = 0;
        let infinite = map(of(3.0, 72), |value| {
            n += 1;
            float16(match n % 97 {
                0 => f32::INFINITY,
                1 => f32::NEG_INFINITY,
                2 => -0.0,
                // Subnormal.
                3 => value * 1e-6,
                _ => value,
            })
        });
        let matrices = [
            infinite,
            map(of(3.0, 73), bfloat16),
            map(of(3.0, 74), decimals(100.0)),
            map(of(3.0, 75), decimals(1000.0)),
            map(of(90.0, 76), scaled),
            map(of(3.0, 77), float16),
            map(of(30.0, 78), float16),
            map(of(1e6, 79), |value| bfloat16(value.powi(5))),
            map(of(0.3, 80), scaled),
        ];
        // Large ones are slow.
        let n_matrices = if n_rows > 5000 { 5 } else { 9 };
        for (i, matrix) in matrices[..n_matrices].iter().enumerate() {
            let kind = [Kind::Logits, Kind::Values][i % 2];
            let promise = promise(kind, Bound::Exact, 1 + i % 3);
            check(&mut seen, &[(matrix, promise)]);
        }
        let wide = map(of(8.0, 81), |value| bfloat16(value.clamp(-16.0, 16.0)));
        let promise_of = |kind, bound| promise(kind, bound, 3);
        let off = promise_of(Kind::Logits, Bound::MaxError(0.01));
        check(&mut seen, &[(&wide, off)]);
        let exact = promise_of(Kind::Probabilities, Bound::Exact);
        for (scale, seed) in [(0.5, 82), (3.0, 83), (20.0, 84)] {
            let strange = half_probabilities(n_rows, n_classes, scale, seed);
            check(&mut seen, &[(&strange, exact)]);
            if n_rows < 5000 {
                let rows = softmax_rows(n_rows, n_classes, scale, seed + 10);
                check(&mut seen, &[(&map(rows.clone(), float16), exact)]);
                check(&mut seen, &[(&map(rows, bfloat16), exact)]);
            }
        }
    }
    // Few numbers, for which Huffman codes are too long.
    let few = map(logits(5300, 50, 6.0, 95), scaled);
    check(&mut seen, &[(&few, promise(Kind::Values, Bound::Exact, 1))]);
    for (scale, of) in [(6.0, 16.0), (1.0, 30.0)] {
        let few = map(softmax_rows(9000, 50, scale, 95), decimals(of));
        let promise = promise(Kind::Probabilities, Bound::Exact, 1);
        check(&mut seen, &[(&few, promise)]);
    }
    // Few rows, and few classes in which the first one is certain more often than not.
    for (n_rows, n_classes, scale) in [(120, 5, 0.5), (300, 8, 1.0), (200, 4, 9.0), (900, 3, 9.0)] {
        let rows = map(softmax_rows(n_rows, n_classes, scale, 96), float16);
        let promise = promise(Kind::Probabilities, Bound::Exact, 1);
        check(&mut seen, &[(&rows, promise)]);
    }
    // Beside a reference.
    for (n_rows, n_classes) in [(900, 10), (61, 130), (40, 1), (150, 3), (30, 1100)] {
        for (seed, scale, share) in [(91, 3.0, 0.05), (92, 3.0, 0.001), (93, 60.0, 0.05)] {
            let values = logits(n_rows, n_classes, scale, seed);
            let reference = like(&values, share, seed);
            for round in [
                &float16 as &dyn Fn(f32) -> f32,
                &bfloat16,
                &decimals(100.0),
                &scaled,
            ] {
                let [matrix, beside] = [&values, &reference].map(|m| map(m.clone(), round));
                let promise = promise(Kind::Values, Bound::Exact, 1);
                check_beside(&mut seen, &matrix, &beside, promise);
                // A reference that is not rounded, some of whose numbers are none.
                let mut n = 0;
                let strange = map(reference.clone(), |value| {
                    n += 1;
                    match n % 97 {
                        0 => f32::NAN,
                        1 => f32::NEG_INFINITY,
                        2 => -0.0,
                        3 => f32::MAX,
                        _ => value,
                    }
                });
                check_beside(&mut seen, &matrix, &strange, promise);
            }
            let probabilities = half_probabilities(n_rows, n_classes, scale.min(20.0), seed);
            let beside = map(like(&probabilities, share, seed), float16);
            let promise = promise(Kind::Probabilities, Bound::Exact, 1);
            check_beside(&mut seen, &probabilities, &beside, promise);
        }
    }
    for first_byte in [
        0x11, 0x12, 0x13, 0x14, 0x15, 0x51, 0x52, 0x53, 0x91, 0x92, 0x93, 0x94, 0x95, 0xD2,
    ] {
        assert!(seen.first_bytes.contains(&first_byte), "{first_byte:x}");
    }
    assert!((17..=21).all(|model| seen.models.contains(&model)));
    // Those of float16 and bfloat16, and of whole numbers.
    for mantissa in [
        (17, 0),
        (17, 10),
        (18, 7),
        (18, 10),
        (19, 10),
        (20, 7),
        (20, 10),
        (21, 7),
        (21, 10),
    ] {
        assert!(seen.mantissas.contains(&mantissa), "{mantissa:?}");
    }
    assert!(seen.n_limited_tokens > 0);
    assert!(seen.n_unlikely_floats > 0 && seen.n_rounded_floats > 0);
    assert!(seen.certain_models.contains(&19));
    assert!(
        seen.panel_sizes
            .is_superset(&BTreeSet::from([10, 20, 50, 128, 130]))
    );
}

#[test]
fn a_decoder_written_from_the_specification_reads_spheres_and_fine_levels() {
    let mut seen = Seen::default();
    let two_classes = |n_rows: usize, seed: u64, mut of: Box<dyn FnMut(f32) -> f32>| {
        let mut rng = StdRng::seed_from_u64(seed);
        let first = (0..n_rows).map(|_| of(rng.random_range(0.0..1.0f32)));
        PredictionMatrix::new(2, first.flat_map(|p| [p, 1.0 - p]).collect())
    };
    let few = |p: f32| ((p * p * 60.0).floor() / 59.3).min(1.0);
    // The same, but mostly no repeated rows.
    let about_few = move |p: f32| match p {
        0.0..0.05 => 0.0,
        _ => (few(p) + p * 1e-6).min(1.0),
    };
    let ends = |p: f32| match (p * 100.0) as u32 {
        0..40 => 0.0,
        40..50 => 1.0,
        50..55 => 0.5,
        55..80 => p.powi(30),
        _ => 1.0 - p.powi(9),
    };
    let with_certain = |matrix: PredictionMatrix| {
        let n = matrix.n_classes();
        let mut values = matrix.into_values();
        for (number, row) in values.chunks_exact_mut(n).enumerate() {
            match number % 9 {
                3 => {
                    row.fill(0.0);
                    row[number % n] = 1.0;
                }
                // About the same, but no repeated rows.
                5 => {
                    for (class, value) in row.iter_mut().enumerate() {
                        let random = (number * 31 + class * 17) % 101;
                        *value = 1.0 / n as f32 + random as f32 * 1e-8;
                    }
                }
                _ => (),
            }
        }
        PredictionMatrix::new(n, values)
    };
    let matrices = [
        two_classes(3000, 1, Box::new(|p| p)),
        two_classes(50, 2, Box::new(|p| p)),
        two_classes(5000, 3, Box::new(about_few)),
        two_classes(3000, 4, Box::new(ends)),
        two_classes(1, 5, Box::new(|p| p)),
        with_certain(softmax_rows(2000, 3, 2.0, 6)),
        with_certain(softmax_rows(700, 5, 1.0, 7)),
        with_certain(softmax_rows(300, 6, 4.0, 8)),
        with_certain(softmax_rows(300, 12, 2.0, 9)),
        two_classes(2500, 10, Box::new(about_few)),
    ];
    for (i, matrix) in matrices.iter().enumerate() {
        for max_kl in [1e-2, 1e-3, 1e-4, 1e-6] {
            let promise = promise(Kind::Probabilities, Bound::MaxKl(max_kl), 1 + i % 3);
            check(&mut seen, &[(matrix, promise)]);
        }
        for max_error in [0.1, 1.0 / 510.0, 1e-4] {
            let promise = promise(Kind::Probabilities, Bound::MaxError(max_error), 1 + i % 3);
            check(&mut seen, &[(matrix, promise)]);
        }
    }
    // Several bitstreams.
    let of = |bound| promise(Kind::Probabilities, bound, 1);
    let many = [
        two_classes(150_003, 10, Box::new(about_few)),
        two_classes(150_000, 11, Box::new(|p| p)),
    ];
    check(&mut seen, &[(&many[0], of(Bound::MaxKl(1e-4)))]);
    check(&mut seen, &[(&many[0], of(Bound::MaxError(1.0 / 510.0)))]);
    check(&mut seen, &[(&many[1], of(Bound::MaxKl(1e-3)))]);
    let three = softmax_rows(120_000, 3, 2.0, 12);
    check(&mut seen, &[(&three, of(Bound::MaxKl(1e-3)))]);
    for first_byte in [0x16, 0x17, 0x18, 0x96, 0x97, 0x98] {
        assert!(seen.first_bytes.contains(&first_byte), "{first_byte:x}");
    }
    for model in [22, 23, 24] {
        assert!(seen.certain_models.contains(&model), "{model}");
        assert!(seen.orders.contains(&(model, 1)), "{model}");
    }
}

#[test]
fn a_decoder_written_from_the_specification_reads_steps_of_finenesses() {
    let mut seen = Seen::default();
    // Averages of many trees, and some certain rows.
    let forest = |n_rows: usize, n_classes: usize, n_trees: usize, seed: u64| {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut values = softmax_rows(n_rows, n_classes, 2.0, seed).into_values();
        for (number, row) in values.chunks_exact_mut(n_classes).enumerate() {
            let mut votes = vec![0.0f32; n_classes];
            for _ in 0..n_trees {
                let mut left = rng.random_range(0.0..1.0f32);
                let class = row.iter().position(|p| {
                    left -= p;
                    left < 0.0
                });
                // A leaf has other classes as well.
                let share = rng.random_range(0.3..1.0f32);
                votes[class.unwrap_or(0)] += share;
                votes[rng.random_range(0..n_classes)] += 1.0 - share;
            }
            match number % 11 {
                7 => {
                    row.fill(0.0);
                    row[number % n_classes] = 1.0;
                }
                _ => {
                    let sum: f32 = votes.iter().sum();
                    row.iter_mut()
                        .zip(votes)
                        .for_each(|(p, vote)| *p = vote / sum);
                }
            }
        }
        PredictionMatrix::new(n_classes, values)
    };
    for (i, (n_rows, n_classes, n_trees)) in [
        (300, 20, 40),
        (200, 100, 300),
        (90, 300, 300),
        (61, 16, 9),
        (12, 1100, 3000),
        (700, 10, 60),
        (3, 100, 300),
    ]
    .into_iter()
    .enumerate()
    {
        let matrix = forest(n_rows, n_classes, n_trees, 70 + i as u64);
        for max_kl in [1e-2, 1e-3, 1e-4, 1e-6] {
            let promise = promise(Kind::Probabilities, Bound::MaxKl(max_kl), 1 + i % 3);
            check(&mut seen, &[(&matrix, promise)]);
        }
    }
    for (n_rows, n_classes, scale, max_kl) in [
        (400, 100, 2.0, 1e-3),
        (400, 100, 3.0, 1e-5),
        (300, 300, 2.0, 1e-3),
        (900, 40, 6.0, 1e-4),
        (2000, 10, 4.0, 1e-2),
    ] {
        let matrix = softmax_rows(n_rows, n_classes, scale, 80);
        let promise = promise(Kind::Probabilities, Bound::MaxKl(max_kl), 1);
        check(&mut seen, &[(&matrix, promise)]);
    }
    // A block large enough that finer steps must save something.
    let few_trees = forest(5000, 16, 20, 90);
    let coarse = promise(Kind::Probabilities, Bound::MaxKl(1e-3), 1);
    check(&mut seen, &[(&few_trees, coarse)]);
    // Several bitstreams.
    let many = forest(6000, 60, 100, 90);
    let of = |max_kl| promise(Kind::Probabilities, Bound::MaxKl(max_kl), 2);
    check(&mut seen, &[(&many, of(1e-3)), (&many, of(1e-5))]);
    let many = softmax_rows(6000, 60, 2.0, 91);
    check(&mut seen, &[(&many, of(1e-3)), (&many, of(1e-5))]);
    for first_byte in [0x02, 0x19, 0x1A, 0x59, 0x5A, 0x99, 0x9A] {
        assert!(seen.first_bytes.contains(&first_byte), "{first_byte:x}");
    }
    for steps in [(25, 2), (25, 4), (25, 8), (26, 1), (26, 2), (26, 8)] {
        let (model, n_steps) = steps;
        let all = (0..n_steps).map(|step| (model, n_steps, step));
        assert!(
            all.into_iter().all(|step| seen.finenesses.contains(&step)),
            "{steps:?}"
        );
    }
    for model in [25, 26] {
        assert!(seen.certain_models.contains(&model), "{model}");
        assert!((1..3).all(|i| seen.orders.contains(&(model, i))), "{model}");
    }
}

#[test]
fn a_decoder_written_from_the_specification_reads_several_bitstreams_of_levels() {
    let mut seen = Seen::default();
    // Some rows are certain, among them all of the first eight.
    let live = |n_rows, seed| {
        let mut values = softmax_rows(n_rows, 50, 3.0, seed).into_values();
        for (number, row) in values.chunks_exact_mut(50).enumerate() {
            if number < 9 || number % 10 == 0 || (2000..2020).contains(&number) {
                row.fill(0.0);
                row[number % 50] = 1.0;
            }
        }
        PredictionMatrix::new(50, values)
    };
    for (n_rows, bound, keep_top) in [
        (7001, Bound::MaxError(1e-5), 1),
        (7002, Bound::MaxError(1e-4), 3),
        (7003, Bound::MaxKl(1e-4), 1),
        (7004, Bound::MaxKl(1e-5), 3),
    ] {
        let promise = promise(Kind::Probabilities, bound, keep_top);
        check(&mut seen, &[(&live(n_rows, n_rows as u64), promise)]);
    }
    // Classes so many of which no level tells apart that the last one told is off by too much: these rows are exact.
    let mut crowd = live(7005, 11).into_values();
    let near = noise(7005, 50, 12, |rng| 0.9 + rng.random_range(0.0..1e-6));
    for (number, row) in crowd.chunks_exact_mut(50).enumerate() {
        if [0, 8, 9, 50, 7004].contains(&number) {
            row.copy_from_slice(&near.values()[number * 50..][..50]);
        }
    }
    let crowd = PredictionMatrix::new(50, crowd);
    let finest = promise(Kind::Probabilities, Bound::MaxError(1e-6), 50);
    check(&mut seen, &[(&crowd, finest)]);
    // Several panels, blocks of few rows of many classes, and several blocks, the last of which is small.
    for (n_rows, n_classes) in [(5001, 300), (1001, 600), (20_000, 20)] {
        let spread = softmax_rows(n_rows, n_classes, 2.0, 16);
        let fine = promise(Kind::Probabilities, Bound::MaxError(1e-5), 1);
        check(&mut seen, &[(&spread, fine)]);
    }
    // Dirichlet's distribution with parameter 1, for which Huffman codes are too long.
    let mut even = noise(7007, 50, 17, |rng| -f32::ln(rng.random_range(1e-6..1.0)));
    even.normalize();
    for bound in [Bound::MaxError(0.004), Bound::MaxKl(0.1)] {
        let promise = promise(Kind::Probabilities, bound, 2);
        check(&mut seen, &[(&even, promise)]);
    }
    // So few classes that it does not pay to state finer steps.
    let promise = promise(Kind::Probabilities, Bound::MaxKl(1e-5), 3);
    check(&mut seen, &[(&softmax_rows(16_384, 9, 1.0, 18), promise)]);
    let mut even = noise(16_384, 7, 19, |rng| -f32::ln(rng.random_range(1e-6..1.0)));
    even.normalize();
    for max_kl in [1e-3, 1e-5] {
        let bound = Bound::MaxKl(max_kl);
        check(&mut seen, &[(&even, Promise { bound, ..promise })]);
    }
    let n_rows = BTreeSet::from([7001, 7002, 7003, 7004, 7005, 7007, 5001, 1001, 1 << 14]);
    assert!(
        seen.n_rows_of_several.is_superset(&n_rows),
        "{:?}",
        seen.n_rows_of_several
    );
    for first_byte in [0x41, 0x42, 0x59, 0xC1, 0xC2, 0xD9] {
        assert!(
            seen.first_bytes.contains(&first_byte),
            "{first_byte:x} {:x?}",
            seen.first_bytes
        );
    }
    assert!(seen.first_bytes_with_exact_rows.contains(&0x41));
    assert!((1..5).all(|i| seen.first_bytes_with_orders.contains(&(0x41, i))));
    assert!((1..3).all(|i| seen.first_bytes_with_orders.contains(&(0x59, i))));
    assert_eq!(seen.certain_models, BTreeSet::from([1, 25]));
    assert_eq!(seen.panel_sizes, BTreeSet::from([7, 9, 20, 50, 128]));
}

/// The rows of a matrix in the order of their top classes, as in a data set that is sorted.
fn by_top(matrix: PredictionMatrix) -> PredictionMatrix {
    let mut rows: Vec<&[f32]> = matrix.rows().collect();
    rows.sort_by_key(|row| argmax(row));
    PredictionMatrix::new(matrix.n_classes(), rows.concat())
}

/// Logits that change a little from row to row.
fn walk(n_rows: usize, n_classes: usize, seed: u64) -> PredictionMatrix {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut row = logits(1, n_classes, 6.0, seed).into_values();
    let mut values = Vec::new();
    for _ in 0..n_rows {
        row.iter_mut()
            .for_each(|value| *value += rng.random_range(-0.1..0.1));
        values.extend_from_slice(&row);
    }
    PredictionMatrix::new(n_classes, values)
}

#[test]
fn a_decoder_written_from_the_specification_reads_rows_after_the_row_before() {
    let mut seen = Seen::default();
    let mut rng = StdRng::seed_from_u64(17);
    let of = |bound, keep_top| promise(Kind::Probabilities, bound, keep_top);
    let [coarse, fine] = [1.0 / 510.0, 1e-4].map(Bound::MaxError);
    let [wide, narrow] = [1e-2, 1e-4].map(Bound::MaxKl);
    // Rows that have nothing in common but the top class.
    let spread = |n_rows, n_classes, power| {
        let value = |rng: &mut StdRng| (-f32::ln(rng.random_range(1e-6..1.0))).powf(power);
        let mut rows = noise(n_rows, n_classes, 1, value);
        rows.normalize();
        by_top(rows)
    };
    for (n_rows, n_classes, power) in [
        (700, 10, 9.0),
        (900, 40, 2.0),
        (5001, 50, 4.0),
        (900, 3, 1.0),
        (900, 2, 1.0),
    ] {
        let rows = spread(n_rows, n_classes, power);
        for (i, bound) in [coarse, fine, wide, narrow].into_iter().enumerate() {
            check(&mut seen, &[(&rows, of(bound, 1 + i % 3))]);
        }
        check(&mut seen, &[(&map(rows, float16), of(Bound::Exact, 1))]);
    }
    // Rows of a class that are alike.
    for (n_rows, n_classes) in [(700, 30), (5601, 40)] {
        let mut rng = StdRng::seed_from_u64(18);
        let mut draw = || (-f32::ln(rng.random_range(1e-6..1.0))).powi(2);
        let alike: Vec<f32> = (0..n_classes * n_classes).map(|_| draw()).collect();
        let mut rows = Vec::new();
        for i in 0..n_rows {
            let top = i * n_classes / n_rows;
            rows.extend(
                alike[top * n_classes..][..n_classes]
                    .iter()
                    .map(|share| share * draw()),
            );
            rows[i * n_classes + top] = 60.0;
        }
        let mut rows = PredictionMatrix::new(n_classes, rows);
        rows.normalize();
        for bound in [coarse, fine, wide, narrow] {
            check(&mut seen, &[(&rows, of(bound, 1))]);
        }
    }
    // Many classes of which few are on top.
    let mut many = vec![0.0; 300 * 1500];
    for (i, row) in many.chunks_mut(1500).enumerate() {
        let (top, other) = (70 * (i / 20) + 3, rng.random_range(0..1500));
        let rest = rng.random_range(0.01..0.4);
        row[top] = 1.0 - rest;
        row[other] += rest;
    }
    let many = PredictionMatrix::new(1500, many);
    for bound in [coarse, narrow] {
        check(&mut seen, &[(&many, of(bound, 1))]);
    }
    // Roots that are as coarse as can be, and shares of 60 trees.
    check(
        &mut seen,
        &[(&spread(900, 9, 6.0), of(Bound::MaxKl(0.1), 2))],
    );
    let votes = by_top(votes(&spread(900, 20, 2.0), 60, 20));
    // About such, which levels as they are suit better than logarithms.
    let mut nearly = map(spread(900, 20, 2.0), |value| (value * 60.0).round());
    nearly.normalize();
    for bound in [narrow, Bound::MaxKl(1e-3)] {
        check(&mut seen, &[(&votes, of(bound, 1))]);
        check(&mut seen, &[(&nearly, of(bound, 1))]);
    }
    // Rows that are exact, in between.
    let near = noise(900, 40, 4, |rng| 0.9 + rng.random_range(0.0..1e-6));
    let crowd = spread(900, 40, 2.0).into_values();
    let crowd = crowd.chunks(40).zip(near.rows()).enumerate();
    let crowd = crowd.flat_map(|(i, (row, near))| if i % 90 == 0 { near } else { row });
    let crowd = PredictionMatrix::new(40, crowd.copied().collect());
    check(&mut seen, &[(&crowd, of(Bound::MaxError(1e-6), 40))]);

    for (n_rows, n_classes) in [
        (600, 12),
        (300, 100),
        (100, 300),
        (20, 3000),
        (500, 1),
        (6, 4),
    ] {
        let logits = walk(n_rows, n_classes, 6);
        let mut rows = map(logits.clone(), f32::exp);
        rows.normalize();
        for (i, bound) in [coarse, fine, wide, narrow, Bound::Exact]
            .into_iter()
            .enumerate()
        {
            check(&mut seen, &[(&rows, of(bound, 1 + i % 3))]);
        }
        for rows in [logits.clone(), map(logits.clone(), float16)] {
            for bound in [Bound::MaxError(0.01), Bound::MaxError(0.05), Bound::Exact] {
                check(&mut seen, &[(&rows, promise(Kind::Logits, bound, 2))]);
            }
        }
        let halves = map(rows, float16);
        check(&mut seen, &[(&halves, of(Bound::Exact, 1))]);
        // The first row and some others are exact.
        let far = with_far_rows(logits, |row| row % 50 == 0);
        let values = |bound| promise(Kind::Values, bound, 2);
        check(&mut seen, &[(&far, values(Bound::MaxError(0.05)))]);
    }
    // Values that mostly stay what they are, and such as follow each other from class to class.
    let mut rng = StdRng::seed_from_u64(19);
    let mut row = vec![0.0f32; 20];
    let mut stairs = Vec::new();
    for _ in 0..500 {
        for value in &mut row {
            if rng.random_bool(0.1) {
                *value = rng.random_range(-5.0..5.0);
            }
        }
        stairs.extend_from_slice(&row);
    }
    let stairs = PredictionMatrix::new(20, stairs);
    let mut follow = walk(500, 20, 20).into_values();
    for row in follow.chunks_mut(20) {
        for class in 1..20 {
            row[class] = row[class - 1] * 0.9 + 0.1 * row[class];
        }
    }
    let follow = PredictionMatrix::new(20, follow);
    for rows in [&stairs, &follow, &map(stairs.clone(), float16)] {
        for bound in [Bound::MaxError(0.01), Bound::MaxError(0.05), Bound::Exact] {
            check(&mut seen, &[(rows, promise(Kind::Values, bound, 2))]);
        }
    }
    // Rows that no class is told apart in, between others.
    let near = noise(600, 40, 7, |rng| 0.9 + rng.random_range(0.0..1e-6));
    let mut rows = map(walk(600, 40, 8), f32::exp);
    rows.normalize();
    let rows = rows.rows().zip(near.rows()).enumerate();
    let rows = rows.flat_map(|(i, (row, near))| if i % 70 == 0 { near } else { row });
    let rows = PredictionMatrix::new(40, rows.copied().collect());
    check(&mut seen, &[(&rows, of(Bound::MaxError(1e-6), 40))]);
    // Images whose pixels are the rows, what comes again after so many rows, and what goes on as it did.
    let mut rng = StdRng::seed_from_u64(23);
    let lines = walk(30, 6, 24);
    let columns = walk(20, 6, 25);
    let mut scores = |of: &dyn Fn(usize, usize) -> f32, n_rows: usize| {
        let mut score = |i: usize| of(i / 6, i % 6) + rng.random_range(0.0..0.02);
        PredictionMatrix::new(6, (0..6 * n_rows).map(&mut score).collect())
    };
    let image = |row: usize, class: usize| {
        columns.values()[row % 20 * 6 + class] + lines.values()[row / 20 * 6 + class]
    };
    let again = |row: usize, class: usize| columns.values()[row % 20 * 6 + class];
    let even = |row: usize, class: usize| (row as f32 / (9.0 + class as f32)).sin() * 4.0;
    for scores in [scores(&image, 600), scores(&again, 600), scores(&even, 600)] {
        let mut rows = map(scores.clone(), f32::exp);
        rows.normalize();
        for bound in [coarse, narrow, Bound::MaxKl(1e-4), Bound::MaxKl(1e-6)] {
            for keep_top in [1, 3] {
                check(&mut seen, &[(&rows, of(bound, keep_top))]);
            }
        }
        check(&mut seen, &[(&rows, of(Bound::Exact, 1))]);
        for bound in [Bound::MaxError(0.01), Bound::MaxError(0.05), Bound::Exact] {
            check(&mut seen, &[(&scores, promise(Kind::Logits, bound, 2))]);
        }
        // Some are exact.
        let far = with_far_rows(scores, |row| row % 150 == 0);
        let values = promise(Kind::Values, Bound::MaxError(0.01), 1);
        check(&mut seen, &[(&far, values)]);
    }
    let of_earlier: BTreeSet<u64> = seen.earlier.iter().map(|of| of.0).collect();
    assert!(
        of_earlier.is_superset(&BTreeSet::from([59, 60, 61, 62, 63])),
        "{:?}",
        seen.earlier
    );
    for (has_gradient, goes_on) in [(true, true), (true, false), (false, false)] {
        let is_such = |of: &&(u64, bool, bool)| (of.1, of.2) == (has_gradient, goes_on);
        assert!(
            seen.earlier.iter().any(|of| is_such(&of)),
            "{:?}",
            seen.earlier
        );
    }
    assert!(seen.cautions.contains(&(61, 3)), "{:?}", seen.cautions);
    assert!(seen.models_after_exact_rows.contains(&61));
    let of_tops = BTreeSet::from([32, 33, 34, 48, 51, 54, 57, 58]);
    let of_rows = BTreeSet::from([40, 41, 42, 43, 44, 52, 53]);
    assert!(seen.models.is_superset(&of_tops), "{:?}", seen.models);
    assert!(seen.models.is_superset(&of_rows), "{:?}", seen.models);
    for model in of_tops {
        let told = [false, true].map(|is_as_before| (model, is_as_before));
        assert!(told.iter().all(|told| seen.tops_as_before.contains(told)));
    }
    for caution in 0..4 {
        let of_caution = seen.cautions.iter().filter(|of| of.1 == caution);
        assert!(of_caution.count() > 0, "{:?}", seen.cautions);
    }
    for model in [40, 42] {
        assert!(seen.models_after_exact_rows.contains(&model), "{model}");
    }
    let has_steps = |&(model, n_steps, _): &(u64, i32, i32)| model == 41 && n_steps > 1;
    assert!(seen.finenesses.iter().any(has_steps));
    // With several bitstreams, and rANS.
    for first_byte in [0x61, 0x73, 0x79, 0xB9, 0xA8, 0xA9, 0xAA] {
        assert!(
            seen.first_bytes.contains(&first_byte),
            "{first_byte:x} {:?}",
            seen.first_bytes
        );
    }
}

/// Bell curves over classes in their order, about any place, as wide as `width` says of the place.
fn bells(
    n_rows: usize,
    n_classes: usize,
    seed: u64,
    width: impl Fn(f32) -> f32,
) -> PredictionMatrix {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut values = Vec::new();
    for _ in 0..n_rows {
        let z = rng.random_range(0.0..n_classes as f32);
        let distances = (0..n_classes).map(|class| (class as f32 - z) / width(z));
        values.extend(distances.map(|distance| (-0.5 * distance * distance).exp()));
    }
    let mut matrix = PredictionMatrix::new(n_classes, values);
    matrix.normalize();
    matrix
}

/// Each column so many times, one beside the other.
fn columns_again(matrix: &PredictionMatrix, n_times: usize) -> PredictionMatrix {
    let again = |value: &f32| vec![*value; n_times];
    let values = matrix.values().iter().flat_map(again).collect();
    PredictionMatrix::new(matrix.n_classes() * n_times, values)
}

/// Rows of so many words, each of which has so many values.
fn sentences(words: &PredictionMatrix, n_rows: usize, n_of_row: usize) -> PredictionMatrix {
    let mut rng = StdRng::seed_from_u64(3);
    let mut values = Vec::new();
    let n = words.n_classes();
    for _ in 0..n_rows * n_of_row {
        let word = rng.random_range(0..words.n_rows());
        values.extend_from_slice(&words.values()[n * word..n * (word + 1)]);
    }
    PredictionMatrix::new(n * n_of_row, values)
}

/// Its rows are the columns of a matrix.
fn transposed(matrix: &PredictionMatrix) -> PredictionMatrix {
    let column = |class| matrix.rows().map(move |row: &[f32]| row[class]);
    let values = (0..matrix.n_classes()).flat_map(column).collect();
    PredictionMatrix::new(matrix.n_rows(), values)
}

/// A curve that rows follow.
fn waves(n_rows: usize, n_classes: usize) -> PredictionMatrix {
    let values = (0..n_rows * n_classes).map(|i| {
        let (row, class) = (i / n_classes, i % n_classes);
        5.0 * (row as f32 / 37.0 + 0.7 * class as f32).sin()
    });
    PredictionMatrix::new(n_classes, values.collect())
}

#[test]
fn a_decoder_written_from_the_specification_reads_block_sorted_rows() {
    let mut seen = Seen::default();
    let of = |bound, keep_top| promise(Kind::Probabilities, bound, keep_top);
    let of_values = |bound, keep_top| promise(Kind::Values, bound, keep_top);
    let [coarse, fine] = [1.0 / 510.0, 1e-4].map(Bound::MaxError);
    let [wide, narrow] = [1e-3, 1e-5].map(Bound::MaxKl);
    // Classes that are bins of one quantity.
    let even = bells(1000, 50, 1, |_| 3.0);
    let uneven = bells(400, 50, 2, |z| 1.0 + z / 10.0);
    for (i, bound) in [coarse, fine, wide, narrow].into_iter().enumerate() {
        check(&mut seen, &[(&even, of(bound, 1 + i % 3))]);
        check(&mut seen, &[(&uneven, of(bound, 3 - i % 3))]);
    }
    // Some rows have one class, and some so many that no level tells apart that they are exact.
    let mut crowd = bells(400, 50, 3, |_| 3.0).into_values();
    let near = noise(400, 50, 4, |rng| 0.9 + rng.random_range(0.0..1e-6));
    for (number, row) in crowd.chunks_exact_mut(50).enumerate() {
        match number {
            0 | 1 | 57 | 399 => row.copy_from_slice(&near.values()[number * 50..][..50]),
            _ if number % 50 == 7 => {
                row.fill(0.0);
                row[number % 50] = 1.0;
            }
            _ => (),
        }
    }
    let mut crowd = PredictionMatrix::new(50, crowd);
    check(&mut seen, &[(&crowd, of(fine, 50))]);
    crowd.normalize();
    check(&mut seen, &[(&crowd, of(wide, 50))]);
    // Hills that are flat at the top, from one class to most of them wide, and rise a little there.
    let hills = (0..600 * 150).map(|i| {
        let (row, class) = (i / 150, (i % 150) as f32);
        let (centre, width) = ((row * 37 % 150) as f32, (1 + row % 60) as f32);
        let height = (-0.5 * ((class - centre) / width).powi(2)).exp();
        height.min(0.6) + class * 1e-5
    });
    let hills = PredictionMatrix::new(150, hills.collect());
    for keep_top in [1, 2] {
        let near = of_values(Bound::MaxError(0.05), keep_top);
        check(&mut seen, &[(&hills, near)]);
    }
    // Columns that come again.
    for n_rows in [400, 1000] {
        let mut again = columns_again(&softmax_rows(n_rows, 10, 3.0, 5), 5);
        again.normalize();
        check(&mut seen, &[(&again, of(Bound::Exact, 1))]);
        check(&mut seen, &[(&again, of(wide, 3))]);
    }
    // Rows along a curve.
    for n_rows in [400, 1000] {
        let curve = waves(n_rows, 20);
        let far = with_far_rows(curve.clone(), |row| row % 70 == 0 || row == 1);
        for max_error in [0.01, 0.1, 1.6] {
            let bound = Bound::MaxError(max_error);
            check(&mut seen, &[(&curve, of_values(bound, 1))]);
            check(&mut seen, &[(&far, of_values(bound, 3))]);
        }
    }
    // Parts of rows that come again, and parts of columns; of any bits, too.
    let few = logits(20, 8, 3.0, 6);
    let many = logits(200, 8, 3.0, 7);
    let any = noise(30, 8, 8, |rng| f32::from_bits(rng.random()));
    for (i, words) in [&few, &many, &any].into_iter().enumerate() {
        let by_row = sentences(words, 400, 5);
        let by_column = transposed(&sentences(words, 40, 50));
        for (matrix, keep_top) in [(by_row, 1), (by_column, 3)] {
            let exact = of_values(Bound::Exact, keep_top);
            check(&mut seen, &[(&matrix, exact)]);
            check(&mut seen, &[(&map(matrix.clone(), float16), exact)]);
            check(&mut seen, &[(&map(matrix.clone(), bfloat16), exact)]);
            if i < 2 {
                let near = of_values(Bound::MaxError(0.001), keep_top);
                check(&mut seen, &[(&matrix, near)]);
            }
        }
    }
    // Several blocks and frames.
    let [large, small] = [17_000, 300].map(|n_rows| bells(n_rows, 12, 9, |_| 1.5));
    for bound in [coarse, wide] {
        check(&mut seen, &[(&large, of(bound, 2)), (&small, of(bound, 2))]);
    }
    // Distinct rows.
    let mut rng = StdRng::seed_from_u64(10);
    let places: Vec<usize> = (0..2000).map(|_| rng.random_range(0..400)).collect();
    let words = rows_at(&sentences(&many, 400, 5), &places);
    let uneven = rows_at(&uneven, &places);
    for (matrix, promise) in [
        (&uneven, of(coarse, 2)),
        (&uneven, of(wide, 2)),
        (&words, of_values(Bound::Exact, 1)),
        (&map(words.clone(), float16), of_values(Bound::Exact, 1)),
    ] {
        check(&mut seen, &[(matrix, promise)]);
    }
    // Words that end with zeros, than which nothing is less: a run of these comes first.
    let mut zeros_last = map(sentences(&many, 400, 5), f32::abs).into_values();
    let n_others = zeros_last.len() - 200;
    zeros_last[n_others..].fill(0.0);
    let zeros_last = PredictionMatrix::new(many.n_classes() * 5, zeros_last);
    check(&mut seen, &[(&zeros_last, of_values(Bound::Exact, 1))]);
    // Levels of bell curves as integers, which come back exactly.
    for levels in [255.0, 5000.0] {
        for bells in [&even, &bells(400, 50, 2, |z| 1.0 + z / 10.0)] {
            let integers = map(bells.clone(), |p| (p * levels).round());
            check(&mut seen, &[(&integers, of_values(Bound::Exact, 1))]);
        }
    }
    // Models 28 and 30 are no longer written.
    for name in ["sorted-steps-top-3", "sorted-roots", "sorted-by-class"] {
        let path = format!("{}/tests/golden/{name}.huff", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(path).unwrap();
        let mut reader = FrameReader::new(&bytes[..]).unwrap();
        let block = reader.next_block().unwrap().unwrap();
        let [frame] = &decode(&bytes, &mut seen)[..] else {
            panic!("one frame");
        };
        assert_eq!(patterns(&frame.values), patterns(block.values()), "{name}");
    }
    for (model, scan) in [(28, 0), (28, 1), (30, 0)] {
        assert!(seen.scans.contains(&(model, scan)));
    }
    assert!((0..3).all(|i| seen.orders.contains(&(28, i))) && seen.orders.contains(&(30, 0)));
    for model in [29, 31, 45, 46] {
        assert!((0..2).all(|scan| seen.scans.contains(&(model, scan))));
        assert!(seen.models_of_distinct.contains(&model), "{model}");
        assert!(seen.sorted_with_rans.contains(&(model, false)), "{model}");
    }
    for model in [45, 46] {
        assert!(seen.sorted_with_rans.contains(&(model, true)), "{model}");
        assert!((0..6).all(|i| seen.orders.contains(&(model, i))), "{model}");
    }
    assert!(seen.exact_models.contains(&45));
    assert!([10, 7].iter().all(|&m| seen.mantissas.contains(&(31, m))));
    assert_eq!(seen.sorted_ranks, (0..=3).collect());
    assert_eq!(seen.sorted_contexts, (0..96).collect());
    let by_numbers = |context| seen.contexts_by_numbers.contains(&context);
    for context in 0..288 {
        let (size, z) = (context / 96, context % 16);
        // As long as *o* is 0, *a* and *b* are 0 and 1; both are never 0.
        let is_possible = match z {
            0..=2 => (size, z) == (0, 1),
            3 | 6 => size > 0,
            _ => true,
        };
        assert_eq!(by_numbers(context), is_possible, "{context}");
    }
    assert!((288..298).all(by_numbers) && by_numbers(288 + 95));
    assert_eq!(seen.n_skipped, (0..=2).collect());
    assert!(seen.n_set_apart > 0);
}

#[test]
fn a_decoder_written_from_the_specification_reads_rans() {
    let mut seen = Seen::default();
    let error = Bound::MaxError;
    // Probabilities of two classes, nearly all of which are certain.
    let mut rng = StdRng::seed_from_u64(51);
    let mut two = Vec::new();
    for _ in 0..3000 {
        let largest = if rng.random_bool(0.03) { 1.0 } else { 0.0005 };
        let p = rng.random_range(0.0..largest);
        let p = if rng.random_bool(0.3) { 1.0 - p } else { p };
        two.extend([p, 1.0 - p]);
    }
    let two = PredictionMatrix::new(2, two);
    let three = softmax_rows(3000, 3, 6.0, 52);
    let sharp = softmax_rows(3000, 3, 20.0, 65);
    let ten = softmax_rows(3000, 10, 3.0, 53);
    for (matrix, bound, keep_top) in [
        (&two, error(0.5), 1),
        (&two, error(0.002), 1),
        (&two, error(1e-4), 1),
        (&two, error(1e-6), 1),
        (&two, Bound::MaxKl(0.1), 1),
        (&two, Bound::MaxKl(0.001), 1),
        (&three, error(0.5), 2),
        (&sharp, error(0.002), 2),
        (&ten, Bound::MaxKl(0.1), 3),
    ] {
        let promise = promise(Kind::Probabilities, bound, keep_top);
        check(&mut seen, &[(matrix, promise)]);
    }
    let uniform = noise(700, 10, 54, |rng| rng.random_range(0.0..1.0));
    let far = with_far_rows(logits(700, 10, 3.0, 66), |row| [0, 1, 400].contains(&row));
    // More symbols than shares of 12 bits have room for.
    let rare = noise(2000, 10, 55, |rng| {
        if rng.random_bool(0.85) {
            0.0
        } else {
            rng.random_range(0.0..1.0)
        }
    });
    // Nearly always the same exponent, or any other.
    let bits = noise(700, 10, 56, |rng| {
        let exponent = match rng.random_bool(0.1) {
            true => rng.random_range(-100..100),
            false => 0,
        };
        rng.random_range(1.0f32..2.0) * f32::powi(2.0, exponent)
    });
    for (matrix, bound, keep_top) in [
        (&uniform, error(0.3), 1),
        (&far, error(0.3), 2),
        (&uniform, error(0.02), 1),
        (&uniform, error(0.05), 2),
        (&rare, error(0.0003), 1),
        (&few_patterns(2000, 10, 57), Bound::Exact, 1),
        (&near_constants(2000, 10, 58), Bound::Exact, 1),
        (&bits, Bound::Exact, 1),
    ] {
        let promise = promise(Kind::Values, bound, keep_top);
        check(&mut seen, &[(matrix, promise)]);
    }
    // Beside a reference.
    let original = softmax_rows(2000, 10, 20.0, 59);
    let mut reference = like(&original, 0.05, 60);
    reference.normalize();
    for bound in [error(0.002), error(1e-4), Bound::MaxKl(0.1)] {
        let promise = promise(Kind::Probabilities, bound, 2);
        check_beside(&mut seen, &original, &reference, promise);
    }
    let values = logits(3000, 3, 3.0, 61);
    for bound in [error(0.03), error(0.5)] {
        let promise = promise(Kind::Values, bound, 2);
        check_beside(&mut seen, &values, &like(&values, 0.05, 62), promise);
    }
    let mut rng = StdRng::seed_from_u64(63);
    for (matrix, share) in [(uniform, 0.6), (logits(2000, 10, 3.0, 64), 0.1)] {
        let near = map(matrix.clone(), |value| {
            f32::from_bits(value.to_bits() + u32::from(rng.random_bool(share)))
        });
        let promise = promise(Kind::Values, Bound::Exact, 1);
        check_beside(&mut seen, &near, &matrix, promise);
    }
    for model in 0..=12 {
        assert!(seen.first_bytes.contains(&(0x80 + model)), "{model}");
    }
    assert!(seen.first_bytes_with_exact_rows.contains(&0x83));
    assert!(seen.first_bytes_with_orders.len() > 4);
    assert!(seen.n_joint_misses > 0);
    assert!(seen.us.len() > 2);
    assert!(seen.share_bits.contains(&12) && seen.share_bits.len() > 1);
}

#[test]
fn the_example_of_the_specification_decodes_to_its_rows() {
    // Before version 10, the JSON is not abbreviated.
    for (version, checksum) in [
        ("09", "4d a2 92 65"),
        ("08", "26 9a f4 3c"),
        ("07", "ed fc 15 cf"),
        ("06", "86 c4 73 96"),
        ("05", "3b 8c d9 7d"),
        ("04", "50 b4 bf 24"),
        ("03", "00 1b fc 71"),
        ("01", "d6 6b 30 c3"),
    ] {
        let bytes: Vec<u8> = format!(
            "89 48 55 46 {version} 44 7b 22 6b 69 6e 64 22 3a 22 70
            72 6f 62 61 62 69 6c 69 74 69 65 73 22 2c 22 6d
            61 78 5f 65 72 72 6f 72 22 3a 30 2e 31 2c 22 63
            6c 61 73 73 65 73 22 3a 34 2c 22 70 72 6f 64 75
            63 65 72 22 3a 22 70 63 22 7d {checksum} 42 03
            0d 01 94 04 82 bb 48 6d f0 a5 e5 aa 6c 00 63 a6
            ff 88 49 4e 01 03 14 00 00 00 00 80 55 55 b5 3f
            08 33 ab 5d 1a 00 00 00 48 55 46 0a"
        )
        .split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
        let frames = decode(&bytes, &mut Seen::default());
        let third = 1.0 / 3.0;
        let rows = [[1.0, 0.0, 0.0, 0.0], [third; 4], [0.0, 0.5, 0.5, 0.0]];
        assert_eq!(frames[0].values, rows.as_flattened());
    }
}
