//! Canonical, length-limited Huffman codes (FORMAT.md, section 5).
//!
//! Frequencies become code lengths that are optimal within [`MAX_CODE_LENGTH`] (package-merge:
//! Larmore and Hirschberg, "A fast algorithm for optimal length-limited Huffman codes", JACM 37(3),
//! 1990). Lengths alone fix the codes, in the order (length, symbol) of RFC 1951, section 3.2.2; since
//! the bitstream starts with the lowest bit, a code is stored with its bits reversed.
//!
//! A codebook of one symbol spends no bits on it; a codebook of no symbols decodes nothing.

use bitvec::prelude::*;

use super::Error;
use super::bitstream::{BitReader, BitWriter};
use super::tokens::{from_zigzag, zigzag};

/// The longest code, in bits. Format-stable: changing this changes files.
pub const MAX_CODE_LENGTH: u8 = 15;

/// What the first length of a codebook is written as a difference from. Format-stable.
const FIRST_LENGTH: i32 = 4;

/// Code lengths, by symbol, that minimise `sum(frequency * length)` with no length above `limit`.
///
/// Symbols of frequency 0 get length 0 (no code). A single used symbol gets length 0 as well: it
/// costs nothing. Ties are broken by symbol, so equal input gives equal output.
///
/// # Panics
/// If the used symbols do not fit: more than `2^limit`.
pub fn code_lengths(frequencies: &[u64], limit: u8) -> Vec<u8> {
    let mut leaves: Vec<(u64, usize)> = frequencies
        .iter()
        .enumerate()
        .filter(|&(_, &frequency)| frequency > 0)
        .map(|(symbol, &frequency)| (frequency, symbol))
        .collect();
    let mut lengths = vec![0; frequencies.len()];
    if leaves.len() < 2 {
        return lengths;
    }
    assert!(
        leaves.len() <= 1 << limit,
        "{} symbols have no code of at most {limit} bits",
        leaves.len()
    );
    leaves.sort_unstable();

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
        for &(frequency, _) in &leaves {
            while let Some(package) = packages.next_if(|&package| package < frequency) {
                row.push(package);
                kinds.push(true);
            }
            row.push(frequency);
            kinds.push(false);
        }
        for package in packages {
            row.push(package);
            kinds.push(true);
        }
        weights = row;
        is_package.push(kinds);
    }

    // The first 2n - 2 items of the last row are taken; every package among them stands for two
    // items of the row before. Each time a leaf is taken, its code grows by a bit.
    let mut n_taken = 2 * leaves.len() - 2;
    for kinds in is_package.iter().rev() {
        let n_packages = kinds[..n_taken].count_ones();
        for &(_, symbol) in &leaves[..n_taken - n_packages] {
            lengths[symbol] += 1;
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

/// Symbol to code: the encoder's side.
#[derive(Debug, Clone)]
pub struct Codebook {
    lengths: Vec<u8>,
    codes: Vec<u16>,
    /// The symbols that occur, ascending.
    used: Vec<usize>,
}

impl Codebook {
    /// The optimal codebook for an alphabet in which `symbol` occurs `frequencies[symbol]` times.
    pub fn from_frequencies(frequencies: &[u64]) -> Self {
        let lengths = code_lengths(frequencies, MAX_CODE_LENGTH);
        Self {
            codes: canonical_codes(&lengths),
            used: (0..frequencies.len())
                .filter(|&symbol| frequencies[symbol] > 0)
                .collect(),
            lengths,
        }
    }

    /// Writes the code of `symbol`, which must have occurred in the frequencies.
    #[inline]
    pub fn encode(&self, symbol: usize, writer: &mut BitWriter) {
        debug_assert!(self.used.binary_search(&symbol).is_ok());
        writer.write(
            u32::from(self.codes[symbol]),
            u32::from(self.lengths[symbol]),
        );
    }

    /// Bits that symbols of these frequencies cost, with the codebook itself.
    pub fn n_bits(&self, frequencies: &[u64]) -> u64 {
        let mut writer = BitWriter::new();
        self.write_to(&mut writer);
        let code_bits = frequencies.iter().zip(&self.lengths);
        writer.n_bits()
            + code_bits
                .map(|(n, &length)| n * u64::from(length))
                .sum::<u64>()
    }

    /// Writes the lengths: the number of used symbols, then for each the gap to the one before and,
    /// if there are two or more, by how much its length differs from the one before.
    pub fn write_to(&self, writer: &mut BitWriter) {
        write_gamma(writer, self.used.len() as u32 + 1);
        let mut expected = 0;
        let mut last_length = FIRST_LENGTH;
        for &symbol in &self.used {
            write_gamma(writer, (symbol - expected) as u32 + 1);
            if self.used.len() > 1 {
                let length = i32::from(self.lengths[symbol]);
                write_gamma(writer, zigzag(length - last_length) + 1);
                last_length = length;
            }
            expected = symbol + 1;
        }
    }
}

/// Bits to symbol, by one look-up in a table of all bit patterns: the decoder's side.
#[derive(Debug)]
pub struct DecodeTable {
    /// Indexed by the next `index_bits` bits: symbol in the high 24 bits, code length in the low 8.
    entries: Vec<u32>,
    index_bits: u32,
}

impl DecodeTable {
    /// Builds the table from code lengths by symbol. A lone used symbol is given as its index.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the code is not complete: the Kraft sum must be exactly 1.
    fn from_lengths(lengths: &[u8]) -> Result<Self, Error> {
        let index_bits = u32::from(lengths.iter().copied().max().unwrap_or(0));
        let kraft_sum: u64 = lengths
            .iter()
            .filter(|&&length| length > 0)
            .map(|&length| 1u64 << (index_bits - u32::from(length)))
            .sum();
        if kraft_sum != 1 << index_bits {
            return Err(Error::Corrupt("a codebook is not a complete code"));
        }
        let mut entries = vec![0; 1 << index_bits];
        let codes = canonical_codes(lengths);
        for (symbol, (&code, &length)) in codes.iter().zip(lengths).enumerate() {
            if length > 0 {
                let entry = (symbol as u32) << 8 | u32::from(length);
                for slot in entries[usize::from(code)..].iter_mut().step_by(1 << length) {
                    *slot = entry;
                }
            }
        }
        Ok(Self {
            entries,
            index_bits,
        })
    }

    /// Reads what [`Codebook::write_to`] wrote, for an alphabet of `alphabet_size` symbols.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a symbol lies outside the alphabet or the code is not complete.
    pub fn read_from(reader: &mut BitReader, alphabet_size: usize) -> Result<Self, Error> {
        let n_used = read_gamma(reader)? as usize - 1;
        if n_used > alphabet_size {
            return Err(Error::Corrupt("a codebook is larger than its alphabet"));
        }
        let mut lengths = vec![0u8; alphabet_size];
        let mut next = 0;
        let mut last_length = FIRST_LENGTH;
        for _ in 0..n_used {
            let symbol = next + read_gamma(reader)? as usize - 1;
            if symbol >= alphabet_size {
                return Err(Error::Corrupt("a codebook holds an unknown symbol"));
            }
            if n_used == 1 {
                return Ok(Self {
                    entries: vec![(symbol as u32) << 8],
                    index_bits: 0,
                });
            }
            last_length += from_zigzag(read_gamma(reader)? - 1);
            lengths[symbol] = u8::try_from(last_length)
                .ok()
                .filter(|length| (1..=MAX_CODE_LENGTH).contains(length))
                .ok_or(Error::Corrupt(
                    "a codebook holds a code of an impossible length",
                ))?;
            next = symbol + 1;
        }
        if n_used == 0 {
            return Ok(Self {
                entries: Vec::new(),
                index_bits: 0,
            });
        }
        Self::from_lengths(&lengths)
    }

    /// Decodes one symbol.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the bitstream ends, or the codebook is empty.
    #[inline]
    pub fn decode(&self, reader: &mut BitReader) -> Result<u32, Error> {
        let index = reader.peek() & ((1u32 << self.index_bits) - 1);
        let Some(&entry) = self.entries.get(index as usize) else {
            return Err(Error::Corrupt("a symbol is coded with an empty codebook"));
        };
        reader.consume(entry & 0xFF)?;
        Ok(entry >> 8)
    }
}

/// Empirical entropy of all symbols together, in bits, from how often each occurs.
pub fn entropy_bits(frequencies: &[u64]) -> f64 {
    let total: u64 = frequencies.iter().sum();
    frequencies
        .iter()
        .filter(|&&n| n > 0)
        .map(|&n| n as f64 * (total as f64 / n as f64).log2())
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
pub(super) fn read_gamma(reader: &mut BitReader) -> Result<u32, Error> {
    let n_bits = reader.peek().trailing_zeros();
    if n_bits > 24 {
        return Err(Error::Corrupt("a number in a codebook is too large"));
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

    /// The RFC's codes are written highest bit first.
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
                assert_eq!(total_bits(&frequencies, &unlimited), bits);
                if *unlimited.iter().max().unwrap() <= MAX_CODE_LENGTH {
                    assert_eq!(total_bits(&frequencies, &lengths), bits);
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
            let codebook = Codebook::from_frequencies(&frequencies);
            let mut writer = BitWriter::new();
            codebook.write_to(&mut writer);
            let n_header_bits = writer.n_bits();
            if frequencies.len() == 3 {
                codebook.encode(1, &mut writer);
            }
            assert_eq!(writer.n_bits(), n_header_bits);
            let bytes = writer.finish();
            let mut reader = BitReader::new(&bytes);
            let table = DecodeTable::read_from(&mut reader, frequencies.len()).unwrap();
            match frequencies.len() {
                3 => assert_eq!(table.decode(&mut reader).unwrap(), 1),
                _ => assert!(table.decode(&mut reader).is_err()),
            }
        }
    }

    #[test]
    fn incomplete_and_oversubscribed_codes_are_refused() {
        assert!(DecodeTable::from_lengths(&[1, 2]).is_err());
        assert!(DecodeTable::from_lengths(&[1, 1, 1]).is_err());
        assert!(DecodeTable::from_lengths(&[0, 0]).is_err());
        assert!(DecodeTable::from_lengths(&[1, 2, 2]).is_ok());
    }

    proptest! {
        #[test]
        fn symbols_survive_and_cost_less_than_entropy_plus_one_bit(
            frequencies in prop::collection::vec(prop_oneof![Just(0u64), 1u64..50, 1u64..100_000], 1..400)
        ) {
            let codebook = Codebook::from_frequencies(&frequencies);
            let mut writer = BitWriter::new();
            codebook.write_to(&mut writer);
            let used: Vec<usize> = (0..frequencies.len()).filter(|&s| frequencies[s] > 0).collect();
            for &symbol in &used {
                codebook.encode(symbol, &mut writer);
            }
            let bytes = writer.finish();
            let mut reader = BitReader::new(&bytes);
            let table = DecodeTable::read_from(&mut reader, frequencies.len()).unwrap();
            for &symbol in &used {
                prop_assert_eq!(table.decode(&mut reader).unwrap(), symbol as u32);
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
            if let Ok(table) = DecodeTable::read_from(&mut reader, 50) {
                while table.decode(&mut reader).is_ok_and(|_| table.index_bits > 0) {}
            }
        }
    }
}
