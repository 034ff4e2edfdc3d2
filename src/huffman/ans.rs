//! rANS, the coder for symbols that Huffman codes take too many bits for (FORMAT.md, section 14): range
//! asymmetric numeral systems (Duda, "Asymmetric numeral systems", arXiv 1311.2540; with refills of
//! whole words as in Giesen, "Interleaved entropy coders", arXiv 1402.3392).
//!
//! Every used symbol has a share of a power of two, and costs the logarithm of the share's inverse in bits: any
//! fraction. Fractions of bits are carried in the state, one number for all alphabets. A decoder takes a symbol out of
//! the state and refills it from the bitstream, between the extra bits; so the encoder goes through the symbols from
//! the last to the first to find what the decoder must find there.
//!
//! Shares are written as code lengths are, but in fractions of a bit.

use super::Corrupt;
use super::bitstream::{BitReader, BitWriter, REFILL_BITS, START};
use super::codebook::{
    Alphabet, EMPTY, Meaning, expected_length, read_length, read_used, write_length, write_used,
};
use super::logarithm::log2;
use super::symbols::Symbol;

/// Shares are parts of 2 to the power of this, or of more where many symbols are used. Format-stable, as is all that
/// follows.
const SHARE_BITS: u32 = 12;
/// How many bits finer shares are than the number of used symbols.
const SPARE_BITS: u32 = 2;
/// Lengths are in units of 2^-`unit_bits` bits, `unit_bits` being at most this.
const MAX_UNIT_BITS: u32 = 3;
/// The longest length in bits.
const MAX_LENGTH: u8 = 16;
/// The expected length of the first symbol of a codebook, in bits.
const FIRST_LENGTH: u8 = 4;

/// 2^16 divided by powers of the eighth root of 2, rounded.
const ROOTS: [u32; 1 << MAX_UNIT_BITS] = [65536, 60097, 55109, 50535, 46341, 42495, 38968, 35734];

/// The weight of a symbol by its length, 1 or more, in units of 2^-`unit_bits` bits.
fn weight(length: u8, unit_bits: u32) -> u64 {
    let units = u32::from(length) - 1;
    let fraction = units & ((1 << unit_bits) - 1);
    let root = ROOTS[(fraction << (MAX_UNIT_BITS - unit_bits)) as usize];
    u64::from(root >> (units >> unit_bits)).max(1)
}

/// The logarithm of the power of two that the shares of `n_used` symbols are parts of.
fn share_bits(n_used: usize) -> u32 {
    let n_bits = usize::BITS - n_used.saturating_sub(1).leading_zeros();
    (n_bits + SPARE_BITS).max(SHARE_BITS)
}

/// The share of a symbol in 2^`n_bits`: `size` numbers from `start` on.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    start: u16,
    size: u16,
    n_bits: u8,
}

impl Share {
    /// The share of the only symbol of an alphabet, which costs nothing.
    const WHOLE: Self = Self {
        start: 0,
        size: 1,
        n_bits: 0,
    };

    /// The shares of used symbols, by their lengths in units of 2^-`unit_bits` bits: one number each, and the rest by
    /// weight.
    fn of_lengths(lengths: impl Iterator<Item = u8>, unit_bits: u32) -> Vec<Self> {
        let weights: Vec<u64> = lengths.map(|length| weight(length, unit_bits)).collect();
        if weights.len() < 2 {
            return vec![Self::WHOLE; weights.len()];
        }
        let n_bits = share_bits(weights.len());
        let to_share = (1 << n_bits) - weights.len() as u64;
        let total: u64 = weights.iter().sum();
        let (mut before, mut start) = (0, 0);
        let shares = weights.iter().zip(1..).map(|(&weight, n_before)| {
            before += weight;
            let end = to_share * before / total + n_before;
            let share = Self {
                start: start as u16,
                size: (end - start) as u16,
                n_bits: n_bits as u8,
            };
            start = end;
            share
        });
        shares.collect()
    }

    /// The cost of a symbol of this share in bits.
    fn cost(self) -> f64 {
        f64::from(self.n_bits) - log2(self.size.into())
    }
}

/// Puts symbols of a share into the state.
#[derive(Debug, Clone, Copy, Default)]
struct Coding {
    share: Share,
    /// 2^64 divided by the size, rounded up, by which a multiplication replaces the division (Lemire, Kaser and Kurz,
    /// "Faster remainder by direct computation", arXiv 1902.01961); 0 for a size of 1.
    inverse: u64,
}

impl Coding {
    fn new(share: Share) -> Self {
        let inverse = (u64::MAX / u64::from(share.size)).wrapping_add(1);
        Self { share, inverse }
    }

    /// The state before a decoder takes the symbol, given the state after it; and the bits that refill the latter, if
    /// any.
    #[inline(always)]
    fn state_before(self, state: u32) -> (u32, Option<u16>) {
        let Share {
            start,
            size,
            n_bits,
        } = self.share;
        let size = u32::from(size);
        // From here on, the symbol would make the state too large.
        let is_large = u64::from(state) >> (u32::BITS - u32::from(n_bits)) >= size.into();
        let (state, refill) = match is_large {
            true => (state >> REFILL_BITS, Some(state as u16)),
            false => (state, None),
        };
        let quotient = match self.inverse {
            0 => state,
            inverse => ((u128::from(inverse) * u128::from(state)) >> 64) as u32,
        };
        let rest = state - quotient * size;
        ((quotient << n_bits) + rest + u32::from(start), refill)
    }
}

/// Symbol to share, for one alphabet.
#[derive(Debug)]
struct Codebook {
    /// Lengths by symbol, in units; 0 if not used.
    lengths: Vec<u8>,
    /// The symbols that occur, ascending, and their shares.
    used: Vec<usize>,
    shares: Vec<Share>,
    stride: usize,
}

impl Codebook {
    /// The codebook for an alphabet in which `symbol` occurs `frequencies[symbol]` times, and resembles the symbol
    /// `stride` before.
    fn from_frequencies(frequencies: &[u64], stride: usize, unit_bits: u32) -> Self {
        let used: Vec<usize> = (0..frequencies.len())
            .filter(|&symbol| frequencies[symbol] > 0)
            .collect();
        let mut lengths = vec![0; frequencies.len()];
        let total: u64 = frequencies.iter().sum();
        let all = f64::from(1 << share_bits(used.len()));
        for &symbol in &used {
            // Each has one number already.
            let share = frequencies[symbol] as f64 / total as f64 * all - 1.0;
            let share = (share / (all - used.len() as f64)).max(f64::MIN_POSITIVE);
            let units = 1.0 - (log2(share) * f64::from(1 << unit_bits)).round();
            lengths[symbol] = units.clamp(1.0, f64::from(MAX_LENGTH << unit_bits)) as u8;
        }
        if let [only] = used[..] {
            lengths[only] = FIRST_LENGTH << unit_bits;
        }
        Self {
            shares: Share::of_lengths(used.iter().map(|&symbol| lengths[symbol]), unit_bits),
            lengths,
            used,
            stride,
        }
    }

    /// Writes the lengths, each as its difference from the expected one.
    fn write_to(&self, writer: &mut BitWriter, unit_bits: u32) {
        let first = i32::from(FIRST_LENGTH << unit_bits);
        write_used(&self.used, writer, |symbol, writer| {
            let expected = expected_length(&self.lengths, symbol, self.stride, first);
            write_length(self.lengths[symbol], expected, writer);
        });
    }
}

/// The codebooks of a block's alphabets: the encoder's side.
#[derive(Debug)]
pub struct Codebooks {
    unit_bits: u32,
    codebooks: Vec<Codebook>,
}

impl Codebooks {
    /// The codebooks for alphabets of these frequencies, in the units that take the fewest bits.
    pub fn from_frequencies(alphabets: &[Alphabet], frequencies: &[Vec<u64>]) -> Self {
        let in_units = |unit_bits| {
            let alphabets = alphabets.iter().zip(frequencies);
            let codebooks = alphabets.map(|(alphabet, frequencies)| {
                Codebook::from_frequencies(frequencies, alphabet.stride, unit_bits)
            });
            let codebooks = Self {
                codebooks: codebooks.collect(),
                unit_bits,
            };
            (codebooks.cost(frequencies), codebooks)
        };
        let tried = (0..=MAX_UNIT_BITS).map(in_units);
        let best = tried.min_by(|a, b| a.0.total_cmp(&b.0));
        best.expect("several units").1
    }

    /// The bits of symbols of these frequencies, and of the codebooks themselves.
    fn cost(&self, frequencies: &[Vec<u64>]) -> f64 {
        let mut writer = BitWriter::new();
        self.write_to(&mut writer);
        let mut bits = writer.n_bits() as f64;
        for (codebook, frequencies) in self.codebooks.iter().zip(frequencies) {
            for (&symbol, share) in codebook.used.iter().zip(&codebook.shares) {
                bits += frequencies[symbol] as f64 * share.cost();
            }
        }
        bits
    }

    /// Writes the units and the codebooks.
    pub fn write_to(&self, writer: &mut BitWriter) {
        writer.write(self.unit_bits, 2);
        for codebook in &self.codebooks {
            codebook.write_to(writer, self.unit_bits);
        }
    }

    /// Writes the first state of the decoder, then the refills and extra bits of symbols, all of which must occur in
    /// the frequencies.
    pub fn write_symbols(&self, symbols: &[Symbol], writer: &mut BitWriter) {
        // All alphabets in one list: where each begins.
        let mut first_of = Vec::with_capacity(self.codebooks.len());
        let mut codings = Vec::new();
        for codebook in &self.codebooks {
            let first = codings.len();
            first_of.push(first);
            codings.resize(first + codebook.lengths.len(), Coding::default());
            for (&symbol, &share) in codebook.used.iter().zip(&codebook.shares) {
                codings[first + symbol] = Coding::new(share);
            }
        }
        let mut state = START;
        let mut refills = Vec::with_capacity(symbols.len());
        for symbol in symbols.iter().rev() {
            let coding = codings[first_of[symbol.alphabet()] + symbol.value() as usize];
            let (before, refill) = coding.state_before(state);
            state = before;
            refills.push(refill);
        }
        writer.write(state, u32::BITS);
        for (symbol, refill) in symbols.iter().zip(refills.into_iter().rev()) {
            if let Some(refill) = refill {
                writer.write(refill.into(), REFILL_BITS);
            }
            writer.write(symbol.extra(), symbol.n_extra_bits());
        }
    }
}

/// State to symbol, for one alphabet: the decoder's side.
#[derive(Debug)]
pub struct DecodeTable {
    /// The index of the used symbol that has each number of the power of two.
    slots: Vec<u16>,
    /// The used symbols, with their shares.
    entries: Vec<(Share, Meaning)>,
    n_bits: u32,
}

impl DecodeTable {
    /// Reads what an encoder wrote for this alphabet in units of 2^-`unit_bits` bits.
    ///
    /// # Errors
    /// [`Corrupt`] if a symbol lies outside the alphabet or has an impossible length.
    fn read_from(
        reader: &mut BitReader,
        alphabet: Alphabet,
        unit_bits: u32,
    ) -> Result<Self, Corrupt> {
        let first = i32::from(FIRST_LENGTH << unit_bits);
        let mut lengths = vec![0; alphabet.size];
        let mut used = Vec::new();
        read_used(reader, alphabet.size, |symbol, _, reader| {
            let expected = expected_length(&lengths, symbol, alphabet.stride, first);
            lengths[symbol] = read_length(expected, MAX_LENGTH << unit_bits, reader)?;
            used.push(symbol);
            Ok(())
        })?;
        let shares = Share::of_lengths(used.iter().map(|&symbol| lengths[symbol]), unit_bits);
        let slots = (0..).zip(&shares);
        Ok(Self {
            slots: slots
                .flat_map(|(index, share)| std::iter::repeat_n(index, share.size.into()))
                .collect(),
            n_bits: shares.first().map_or(0, |share| share.n_bits.into()),
            entries: shares
                .into_iter()
                .zip(used)
                .map(|(share, symbol)| (share, alphabet.meanings.of(symbol)))
                .collect(),
        })
    }

    /// The decode tables of these alphabets.
    ///
    /// # Errors
    /// [`Corrupt`] as for one of them, and if the bitstream ends.
    pub fn read_all(reader: &mut BitReader, alphabets: &[Alphabet]) -> Result<Vec<Self>, Corrupt> {
        let unit_bits = reader.read(2)?;
        alphabets
            .iter()
            .map(|&alphabet| Self::read_from(reader, alphabet, unit_bits))
            .collect()
    }

    /// The index of the used symbol that is in the state, and the state without it.
    #[inline(always)]
    fn take(&self, state: u32) -> Option<(usize, u32)> {
        let number = state & ((1 << self.n_bits) - 1);
        let index = usize::from(*self.slots.get(number as usize)?);
        let (share, _) = self.entries[index];
        // This fits, and is above 0: the state is at least 2^16, and numbers have at most 16 bits.
        let rest = u32::from(share.size) * (state >> self.n_bits);
        Some((index, rest + (number - u32::from(share.start))))
    }

    /// The index of the used symbol that is next, and the number of bits that refill the state after it.
    pub fn upcoming(&self, reader: &BitReader) -> (u32, u32) {
        match self.take(reader.state()) {
            Some((index, state)) if state < START => (index as u32, REFILL_BITS),
            Some((index, _)) => (index as u32, 0),
            None => (0, 0),
        }
    }

    /// Decodes the number that one symbol and its extra bits stand for, as the
    /// [`DecodeTable`](super::codebook::DecodeTable) of Huffman codes does.
    ///
    /// # Errors
    /// [`Corrupt`] if the bitstream ends, or the codebook is empty.
    #[inline(always)]
    pub fn decode(&self, reader: &mut BitReader) -> Result<(u32, Option<usize>), Corrupt> {
        let (index, state) = self.take(reader.state()).ok_or(EMPTY)?;
        let (_, meaning) = self.entries[index];
        let bits = reader.refill_state(state, meaning.n_extra_bits.into())?;
        Ok(meaning.with_extra(bits))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::bitstream::Coder;
    use super::super::codebook::entropy_bits;
    use super::super::tokens::Token;
    use super::*;

    /// Encodes symbols with extra bits; also returns the number of bits of codebooks and first state.
    fn encode(alphabets: &[Alphabet], symbols: &[Symbol]) -> (Vec<u8>, u64) {
        let mut frequencies: Vec<Vec<u64>> = alphabets.iter().map(|a| vec![0; a.size]).collect();
        for symbol in symbols {
            frequencies[symbol.alphabet()][symbol.value() as usize] += 1;
        }
        let codebooks = Codebooks::from_frequencies(alphabets, &frequencies);
        let mut writer = BitWriter::new();
        codebooks.write_to(&mut writer);
        let n_bits = writer.n_bits() + 32;
        codebooks.write_symbols(symbols, &mut writer);
        (writer.finish(), n_bits)
    }

    fn symbol(alphabet: usize, value: usize, extra: u32, n_extra_bits: u32) -> Symbol {
        let token = Token {
            value: value as u32,
            extra,
            n_extra_bits,
        };
        Symbol::with_extra(alphabet, token)
    }

    /// Checks that these symbols are what [`encode`] made bytes of, for alphabets whose symbols stand for themselves.
    fn assert_decoded(bytes: &[u8], alphabets: &[Alphabet], symbols: &[Symbol]) {
        let mut reader = BitReader::new(bytes);
        let tables = DecodeTable::read_all(&mut reader, alphabets).unwrap();
        reader.expect(Coder::Ans);
        reader.start_state().unwrap();
        for symbol in symbols {
            let decoded = tables[symbol.alphabet()].decode(&mut reader).unwrap();
            assert_eq!(decoded, (symbol.value(), None));
            assert_eq!(reader.read(symbol.n_extra_bits()).unwrap(), symbol.extra());
        }
        reader.finish().unwrap();
    }

    #[test]
    fn roots_are_of_two() {
        for (eighths, root) in (0..).zip(ROOTS) {
            let exact = 65536.0 * 0.5f64.powf(f64::from(eighths) / 8.0);
            assert_eq!(root, exact.round() as u32);
        }
    }

    #[test]
    fn weights_halve_with_each_bit_and_are_never_0() {
        for unit_bits in 0..=MAX_UNIT_BITS {
            let one = 1 << unit_bits;
            assert_eq!(weight(1, unit_bits), 65536);
            assert_eq!(weight(1 + one, unit_bits), 32768);
            assert_eq!(weight(1 + 3 * one, unit_bits), 8192);
            let longest = weight(MAX_LENGTH << unit_bits, unit_bits);
            assert!((1..4).contains(&longest));
        }
        assert_eq!(weight(MAX_LENGTH, 0), 2);
    }

    #[test]
    fn shares_fill_the_power_of_two_and_are_never_0() {
        for n_used in [2, 3, 100, 1024, 1025, 8193, 16384] {
            for step in [0, 1, 7] {
                let lengths = (0..n_used).map(|symbol| (1 + symbol * step % 128) as u8);
                let shares = Share::of_lengths(lengths, MAX_UNIT_BITS);
                assert_eq!(shares.len(), n_used);
                let mut end = 0;
                for share in shares {
                    assert_eq!(u32::from(share.start), end);
                    assert!(share.size > 0);
                    assert_eq!(u32::from(share.n_bits), share_bits(n_used));
                    end += u32::from(share.size);
                }
                assert_eq!(end, 1 << share_bits(n_used));
            }
        }
        assert_eq!([2, 1024, 1025, 16384].map(share_bits), [12, 12, 13, 16]);
    }

    #[test]
    fn a_state_is_what_it_was_once_a_symbol_is_in_and_out_again() {
        let share = |start, size, n_bits| Share {
            start,
            size,
            n_bits,
        };
        let shares = [
            Share::WHOLE,
            share(0, 1, 12),
            share(4095, 1, 12),
            share(7, 4000, 12),
            share(65535, 1, 16),
            share(1, 65535, 16),
        ];
        for share in shares {
            for state in [
                START,
                START + 1,
                1 << 20,
                0x1234_5678,
                u32::MAX - 1,
                u32::MAX,
            ] {
                let (before, refill) = Coding::new(share).state_before(state);
                assert!(before >= START);
                let number = before & ((1 << share.n_bits) - 1);
                assert!((share.start..=share.start + (share.size - 1)).contains(&(number as u16)));
                let rest = u32::from(share.size) * (before >> share.n_bits) + number
                    - u32::from(share.start);
                let after = match refill {
                    Some(word) => {
                        assert!(rest < START);
                        rest << REFILL_BITS | u32::from(word)
                    }
                    None => rest,
                };
                assert_eq!(after, state);
            }
        }
    }

    #[test]
    fn a_common_symbol_costs_a_fraction_of_a_bit() {
        let alphabets = [Alphabet::of_symbols(2)];
        let symbols: Vec<Symbol> = (0..100_000)
            .map(|i| symbol(0, usize::from(i % 50 == 0), 0, 0))
            .collect();
        let (bytes, _) = encode(&alphabets, &symbols);
        let entropy = entropy_bits(&[98_000, 2000]) / 8.0;
        assert!(
            (bytes.len() as f64) < 1.002 * entropy + 8.0,
            "{} bytes",
            bytes.len()
        );
        assert_decoded(&bytes, &alphabets, &symbols);
    }

    #[test]
    fn no_symbol_and_one_symbol_have_their_own_rule() {
        let alphabets = [Alphabet::of_symbols(0), Alphabet::of_symbols(9)];
        let symbols = [symbol(1, 7, 0, 0); 1000];
        let (bytes, n_bits) = encode(&alphabets, &symbols);
        assert_eq!(bytes.len() as u64, n_bits.div_ceil(8));
        assert_decoded(&bytes, &alphabets, &symbols);
        let mut reader = BitReader::new(&bytes);
        let tables = DecodeTable::read_all(&mut reader, &alphabets).unwrap();
        reader.start_state().unwrap();
        assert_eq!(tables[0].decode(&mut reader).unwrap_err(), EMPTY);
    }

    #[test]
    fn states_that_cannot_be_are_refused() {
        let alphabets = [Alphabet::of_symbols(4)];
        let symbols: Vec<Symbol> = (0..1000).map(|i| symbol(0, i % 4, 0, 0)).collect();
        let (bytes, _) = encode(&alphabets, &symbols);
        let mut reader = BitReader::new(&bytes);
        let tables = DecodeTable::read_all(&mut reader, &alphabets).unwrap();
        reader.expect(Coder::Ans);
        reader.start_state().unwrap();
        for _ in 1..symbols.len() {
            tables[0].decode(&mut reader).unwrap();
        }
        // A symbol is left in the state.
        assert!(
            matches!(reader.finish(), Err(Corrupt(what)) if what.contains("symbols are left over"))
        );
        let error = BitReader::new(&(START - 1).to_le_bytes()).start_state();
        assert!(error.unwrap_err().0.contains("first state"));
    }

    proptest! {
        #[test]
        fn symbols_survive_near_their_entropy(
            frequencies in prop::collection::vec(
                prop::collection::vec(prop_oneof![Just(0u64), 1u64..50, 1u64..3000], 1..200),
                1..4,
            ),
            n_extra_bits in 0u32..=32,
            seed: u64,
        ) {
            let alphabets: Vec<Alphabet> =
                frequencies.iter().map(|f| Alphabet::of_symbols(f.len())).collect();
            let mut symbols = Vec::new();
            for (alphabet, frequencies) in frequencies.iter().enumerate() {
                for (value, &n) in frequencies.iter().enumerate() {
                    let extra = ((1u64 << n_extra_bits) - 1) as u32 & 0x5A5A_A5A5;
                    symbols.extend((0..n).map(|_| symbol(alphabet, value, extra, n_extra_bits)));
                }
            }
            let mut random = seed | 1;
            for i in (1..symbols.len()).rev() {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                symbols.swap(i, (random >> 33) as usize % (i + 1));
            }
            let (bytes, n_bits) = encode(&alphabets, &symbols);
            assert_decoded(&bytes, &alphabets, &symbols);
            let entropy: f64 = frequencies.iter().map(|f| entropy_bits(f)).sum();
            let raw = symbols.len() as u64 * u64::from(n_extra_bits);
            let spent = (8 * bytes.len() as u64 - n_bits - raw) as f64;
            // The first state holds up to 16 bits of symbols, and where states are rounded to shares, some
            // sequences take a little less than their entropy.
            prop_assert!(spent + 16.0 >= 0.94 * entropy);
            prop_assert!(spent <= 1.03 * entropy + 32.0, "{spent} bits, {entropy} of entropy");
        }

        #[test]
        fn arbitrary_bytes_never_panic_a_codebook(bytes in prop::collection::vec(any::<u8>(), 0..90)) {
            let alphabets = [Alphabet::of_symbols(50), Alphabet::of_levels()];
            let mut reader = BitReader::new(&bytes);
            if let Ok(tables) = DecodeTable::read_all(&mut reader, &alphabets)
                && reader.start_state().is_ok()
            {
                for table in tables.iter().cycle().take(1000) {
                    if table.decode(&mut reader).is_err() {
                        break;
                    }
                }
            }
        }
    }
}
