//! A second decoder, written from FORMAT.md alone: bit by bit, without tables, sharing no code with the
//! first. Both must give the same bits.

#![expect(
    clippy::needless_range_loop,
    reason = "sums over indices, as the specification has them"
)]

use bitvec::prelude::*;
use pc::huffman::{FrameHeader, FrameReader, FrameWriter};
use pc::matrix::PredictionMatrix;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Section 2: the lowest bit of a byte first.
struct Bits<'a> {
    bits: &'a BitSlice<u8, Lsb0>,
    position: usize,
}

impl Bits<'_> {
    fn bit(&mut self) -> u32 {
        self.position += 1;
        u32::from(self.bits[self.position - 1])
    }

    fn number(&mut self, n_bits: u32) -> u32 {
        (0..n_bits).map(|i| self.bit() << i).sum()
    }

    /// Section 5.
    fn gamma(&mut self) -> u32 {
        let mut k = 0;
        while self.bit() == 0 {
            k += 1;
        }
        (1 << k) + self.number(k)
    }

    /// Section 5: the used symbols with their lengths and codes.
    fn codebook(&mut self) -> Vec<(u32, u32, u32)> {
        let n_used = self.gamma() - 1;
        let mut symbols = Vec::new();
        let mut before = -1i64;
        let mut length = if n_used > 1 { 4 } else { 0 };
        for _ in 0..n_used {
            before += i64::from(self.gamma());
            if n_used > 1 {
                length += from_zigzag(self.gamma() - 1);
            }
            symbols.push((length as u32, before as u32));
        }
        symbols.sort();
        // RFC 1951, section 3.2.2: consecutive values, a zero appended where the length grows.
        let mut code = 0;
        let mut last_length = 0;
        symbols
            .into_iter()
            .enumerate()
            .map(|(i, (length, symbol))| {
                code = if i > 0 { code + 1 } else { 0 } << (length - last_length);
                last_length = length;
                (symbol, length, code)
            })
            .collect()
    }

    fn symbol(&mut self, codebook: &[(u32, u32, u32)]) -> u32 {
        let (mut length, mut code) = (0, 0);
        loop {
            if let Some(found) = codebook.iter().find(|c| (c.1, c.2) == (length, code)) {
                return found.0;
            }
            code = code << 1 | self.bit();
            length += 1;
        }
    }

    /// Section 6: a token and its extra bits, for `d` direct and `m` mantissa bits.
    fn rest_of_token(&mut self, token: u32, d: u32, m: u32) -> u32 {
        if token < 1 << d {
            return token;
        }
        let above = token - (1 << d);
        let k = d + (above >> m);
        let mantissa = above % (1 << m);
        (1 << k) + (mantissa << (k - m)) + self.number(k - m)
    }

    fn level_token(&mut self, codebook: &[(u32, u32, u32)]) -> u32 {
        let token = self.symbol(codebook);
        self.rest_of_token(token, 4, 2)
    }
}

fn from_zigzag(number: u32) -> i64 {
    match number % 2 {
        0 => i64::from(number / 2),
        _ => -i64::from(number / 2) - 1,
    }
}

/// Section 4.
fn dequantize(levels: &[u32], top: usize, n_levels: u32) -> Vec<f32> {
    let mut row: Vec<f32> = levels
        .iter()
        .map(|&level| (f64::from(level) / f64::from(n_levels)) as f32)
        .collect();
    if levels[..top].iter().any(|&level| level == levels[top]) {
        row[top] = f32::from_bits(row[top].to_bits() + 1);
    }
    row
}

/// Section 7.
fn ranked_rows(bits: &mut Bits, n_rows: usize, n: usize, n_levels: u32) -> Vec<f32> {
    let codebooks: Vec<_> = (0..23).map(|_| bits.codebook()).collect();
    let n_bits = usize::BITS - (n - 1).leading_zeros();
    let r = n_bits.saturating_sub(10);
    let escape = 5 * (((n as u32 - 1) >> r) + 1);
    let n_lists = n.min(((1 << 20) / n).max(1));
    // Class and count, by rank.
    let mut lists: Vec<Vec<(usize, u32)>> = vec![(0..n).map(|class| (class, 0)).collect(); n_lists];
    let mut values = Vec::new();
    for _ in 0..n_rows {
        let head = bits.symbol(&codebooks[0]);
        if head == escape {
            values.extend((0..n).map(|_| {
                bits.symbol(&codebooks[1]);
                f32::from_bits(bits.number(32))
            }));
            continue;
        }
        let top = ((head / 5) << r) as usize + bits.number(r) as usize;
        let shape = head % 5;
        let n_others = match shape {
            0 | 1 => 0,
            2 | 3 => shape as usize - 1,
            _ => 3 + bits.level_token(&codebooks[2]) as usize,
        };
        let distance = match shape {
            0 => 0,
            1 => 1 + bits.level_token(&codebooks[4]),
            _ => bits.level_token(&codebooks[3 + shape as usize]),
        };
        let mut levels = vec![0; n];
        levels[top] = n_levels - distance;
        let list = &mut lists[top % n_lists];
        let (mut before, mut left) = (levels[top], i64::from(distance));
        let mut others = Vec::new();
        for position in 0..n_others {
            let rank = bits.level_token(&codebooks[8 + position.min(2)]) as usize;
            let class = list[rank].0;
            if before > 1 {
                let ceiling = left.max(1).min(i64::from(before));
                let alphabet = match (position + 1 == n_others, n_others) {
                    (true, 1) => 22,
                    (true, _) => 21,
                    _ => 11 + (ceiling.ilog2() as usize).min(9),
                };
                let distance = from_zigzag(bits.level_token(&codebooks[alphabet]));
                before = (ceiling - distance) as u32;
            }
            levels[class] = before;
            left -= i64::from(before);
            others.push(class);
        }
        for class in others {
            let rank = list.iter().position(|entry| entry.0 == class).unwrap();
            let count = list[rank].1;
            let first = list.iter().position(|entry| entry.1 == count).unwrap();
            list.swap(rank, first);
            list[first].1 += 1;
        }
        values.extend(dequantize(&levels, top, n_levels));
    }
    values
}

/// Section 8: what the regression knows.
struct Regression {
    n: usize,
    n_rows: usize,
    next_fit: usize,
    n_of_top: Vec<usize>,
    s: Vec<Vec<f64>>,
    p: Vec<Vec<f64>>,
    a: Vec<Vec<f32>>,
    b: Vec<Vec<f32>>,
}

fn feature(level: u32) -> f32 {
    let k = (level + 1).ilog2();
    k as f32 + (level + 1 - (1 << k)) as f32 / (1u32 << k) as f32
}

impl Regression {
    fn new(n: usize) -> Self {
        Self {
            n,
            n_rows: 0,
            next_fit: 8,
            n_of_top: vec![0; n],
            s: vec![vec![0.0; n]; n],
            p: vec![vec![0.0; n]; n],
            a: vec![vec![0.0; n]; n],
            b: vec![vec![0.0; n]; n],
        }
    }

    fn learn(&mut self, top: usize, levels: &[u32]) {
        for c in (0..self.n).filter(|&c| c != top && levels[c] > 0) {
            let x = f64::from(feature(levels[c]));
            self.s[top][c] += x;
            for b in (0..=c).filter(|&b| b != top && levels[b] > 0) {
                self.p[c][b] += x * f64::from(feature(levels[b]));
            }
        }
        self.n_of_top[top] += 1;
        self.n_rows += 1;
        if self.n_rows == self.next_fit {
            self.fit();
            self.next_fit = match self.n_rows < 512 {
                true => self.n_rows + self.n_rows / 2,
                false => 2 * self.n_rows,
            };
        }
    }

    fn fit(&mut self) {
        let n = self.n;
        let n_rows = self.n_rows as f64;
        // Step 1.
        let m: Vec<f64> = (0..n)
            .map(|c| (0..n).fold(0.0, |sum, t| sum + self.s[t][c]) / n_rows)
            .collect();
        let n_of = |t: usize| self.n_of_top[t] as f64;
        let d = |t: usize, c: usize| self.s[t][c] + -n_of(t) * m[c];
        let w = |t: usize| 1.0 / (n_of(t) + 1.0);
        // Step 2.
        let mut matrix = self.p.clone();
        for i in 0..n {
            for j in 0..=i {
                matrix[i][j] += -n_rows * m[i] * m[j];
                for t in (0..n).filter(|&t| d(t, i) != 0.0) {
                    matrix[i][j] += -d(t, i) * w(t) * d(t, j);
                }
            }
            matrix[i][i] += 4.0;
        }
        // Step 3.
        for k in 0..n {
            let pivot = matrix[k][k].max(4.0);
            let q: Vec<f64> = (0..n).map(|i| matrix[i][k]).collect();
            for i in k + 1..n {
                let f = q[i] / pivot;
                for j in k + 1..=i {
                    matrix[i][j] += -f * q[j];
                }
                matrix[i][k] = f;
            }
        }
        // Step 4.
        let mut inverse = vec![vec![0.0; n]; n];
        for i in 0..n {
            inverse[i][i] = 1.0;
            for k in 0..i {
                for j in 0..=k {
                    inverse[i][j] += -matrix[i][k] * inverse[k][j];
                }
            }
        }
        // Step 5.
        for c in 0..n {
            for b in 0..c {
                self.a[b][c] = -inverse[c][b] as f32;
            }
            for t in 0..n {
                let sum = (0..=c).fold(0.0, |sum, b| sum + (m[b] + d(t, b) * w(t)) * inverse[c][b]);
                self.b[t][c] = sum as f32;
            }
        }
    }
}

/// Section 8.
fn expected_rows(bits: &mut Bits, n_rows: usize, n: usize, n_levels: u32) -> Vec<f32> {
    let n_groups = bits.gamma() as usize;
    let mut group_of_context = Vec::new();
    let mut run_levels = Vec::new();
    for group in 0..n_groups {
        group_of_context.resize(group_of_context.len() + bits.gamma() as usize, group);
        run_levels.push(bits.gamma() - 1);
    }
    assert_eq!(group_of_context.len(), 83);
    let codebooks: Vec<_> = (0..7 + 2 * n_groups).map(|_| bits.codebook()).collect();
    let mut entries_left: Vec<Option<u32>> = vec![None; n_groups];
    let mut regression = Regression::new(n);
    let mut values = Vec::new();
    for _ in 0..n_rows {
        let head = bits.symbol(&codebooks[0]) as usize;
        if head == 2 * n {
            values.extend((0..n).map(|_| {
                bits.symbol(&codebooks[1]);
                f32::from_bits(bits.number(32))
            }));
            continue;
        }
        let top = head / 2;
        let mut levels = vec![0; n];
        if head % 2 == 1 {
            levels[top] = n_levels;
            values.extend(dequantize(&levels, top, n_levels));
            continue;
        }
        let mut expectations = regression.b[top].clone();
        for class in (0..n).filter(|&class| class != top) {
            let context = (expectations[class] * 4.0 + 2.5).floor().clamp(0.0, 82.0) as usize;
            let group = group_of_context[context];
            let first = &codebooks[7 + 2 * group];
            levels[class] = match entries_left[group] {
                Some(0) => {
                    entries_left[group] = None;
                    bits.level_token(&codebooks[8 + 2 * group])
                }
                Some(left) => {
                    entries_left[group] = Some(left - 1);
                    run_levels[group]
                }
                None => match bits.symbol(first) {
                    run @ 0..46 => {
                        entries_left[group] = Some(bits.rest_of_token(run, 2, 1) - 1);
                        run_levels[group]
                    }
                    level => bits.rest_of_token(level - 46, 4, 2),
                },
            };
            if levels[class] > 0 {
                for later in class + 1..n {
                    expectations[later] += regression.a[class][later] * feature(levels[class]);
                }
            }
        }
        let others = levels.iter().filter(|&&level| level > 0);
        let n_others = others.clone().count() as u32;
        let sum: i64 = others.clone().map(|&level| i64::from(level)).sum();
        let largest = i64::from(others.max().copied().unwrap_or(0));
        let likely = (i64::from(n_levels) - sum).max(largest);
        let alphabet = 2 + ((n_others + 1).ilog2() as usize).min(4);
        let level = likely - from_zigzag(bits.level_token(&codebooks[alphabet]));
        regression.learn(top, &levels);
        levels[top] = level as u32;
        values.extend(dequantize(&levels, top, n_levels));
    }
    values
}

/// Section 3: the rows of a file of frames, and which models its blocks use.
fn decode(mut bytes: &[u8]) -> (Vec<f32>, Vec<u32>) {
    fn take<'a>(bytes: &mut &'a [u8], n: usize) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(n);
        *bytes = rest;
        taken
    }
    fn u32_of(bytes: &mut &[u8]) -> usize {
        u32::from_le_bytes(take(bytes, 4).try_into().unwrap()) as usize
    }
    let (mut values, mut models) = (Vec::new(), Vec::new());
    while !bytes.is_empty() {
        assert_eq!(take(&mut bytes, 5), b"\x89HUF\x01");
        let n_json = u32_of(&mut bytes);
        let json: serde_json::Value = serde_json::from_slice(take(&mut bytes, n_json)).unwrap();
        let n_classes = json["classes"].as_u64().unwrap() as usize;
        let n_levels = json["levels"].as_u64().unwrap() as u32;
        take(&mut bytes, 4);
        while take(&mut bytes, 1) == b"B" {
            let n_rows = u32_of(&mut bytes);
            let n_payload = u32_of(&mut bytes);
            let mut bits = Bits {
                bits: BitSlice::from_slice(take(&mut bytes, n_payload)),
                position: 0,
            };
            let model = bits.number(8);
            values.extend(match model {
                0 => ranked_rows(&mut bits, n_rows, n_classes, n_levels),
                _ => expected_rows(&mut bits, n_rows, n_classes, n_levels),
            });
            assert!(bits.bits.len() - bits.position < 8, "bytes are left");
            models.push(model);
            take(&mut bytes, 4);
        }
        let n_blocks = u32_of(&mut bytes);
        take(&mut bytes, 8 * n_blocks + 16 + 4 + 4);
        assert_eq!(take(&mut bytes, 4), b"HUF\n");
    }
    (values, models)
}

/// The softmax of logits that depend on each other: low rank, as those of networks are.
fn softmax_rows(n_rows: usize, n_classes: usize, scale: f32, seed: u64) -> PredictionMatrix {
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
        let row: Vec<f32> = mixing
            .chunks(n_factors)
            .map(|mixing| {
                let logit: f32 = mixing.iter().zip(&factors).map(|(a, b)| a * b).sum();
                (logit + rng.random_range(-0.3..0.3)).exp()
            })
            .collect();
        let sum: f32 = row.iter().sum();
        values.extend(row.iter().map(|value| value / sum));
    }
    PredictionMatrix::new(n_classes, values)
}

/// With fewer levels than the bound needs, some rows are stored exactly.
fn compress(matrix: &PredictionMatrix, max_error: f64, has_too_few_levels: bool) -> Vec<u8> {
    let n_classes = matrix.n_classes();
    let mut header = FrameHeader::probabilities(n_classes, max_error).unwrap();
    if has_too_few_levels {
        header.levels -= header.levels / 50;
    }
    let mut writer = FrameWriter::new(Vec::new(), header).unwrap();
    for rows in matrix.values().chunks(700 * n_classes) {
        writer
            .write_block(&PredictionMatrix::new(n_classes, rows.to_vec()))
            .unwrap();
    }
    writer.finish().unwrap().0
}

#[test]
fn a_decoder_written_from_the_specification_gives_the_same_bits() {
    let mut models_seen = Vec::new();
    let mut n_exact_rows = 0;
    for (n_rows, n_classes, scale) in [
        (1000, 10, 20.0),
        (1500, 20, 3.0),
        (900, 60, 6.0),
        (5, 30, 3.0),
        (40, 1, 1.0),
        (200, 2, 3.0),
        (60, 1500, 8.0),
        (0, 7, 1.0),
    ] {
        let matrix = softmax_rows(n_rows, n_classes, scale, n_rows as u64);
        for (max_error, has_too_few_levels) in
            [(0.002, false), (0.002, true), (1e-4, false), (1e-6, false)]
        {
            let bytes = compress(&matrix, max_error, has_too_few_levels);
            // Twice, since frames concatenate.
            let bytes = [&bytes[..], &bytes].concat();
            let (expected, models) = decode(&bytes);
            models_seen.extend(models);
            let mut reader = FrameReader::new(&bytes[..]).unwrap();
            let mut values = Vec::new();
            while let Some(block) = reader.next_block().unwrap() {
                values.extend_from_slice(block.values());
            }
            assert_eq!(values.len(), 2 * n_rows * n_classes);
            n_exact_rows += reader.summary().n_exact_rows;
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(
                bits(&values),
                bits(&expected),
                "{n_rows} rows of {n_classes}"
            );
        }
    }
    assert!(models_seen.contains(&0) && models_seen.contains(&1));
    assert!(n_exact_rows > 0);
}
