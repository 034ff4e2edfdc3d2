//! Bits in and out: the lowest bit of a byte comes first (FORMAT.md, section 2).
//!
//! Codes and numbers are at most 32 bits wide. The writer pads the last byte with zero bits; the
//! reader refuses to read past the end and, on [`BitReader::finish`], refuses padding that is not zero.

use super::Corrupt;

/// How symbols are coded in a bitstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Coder {
    /// As codes of whole bits.
    #[default]
    Huffman,
    /// In a state that is refilled: rANS.
    Ans,
}

/// The number of bits that refill the state of rANS.
pub const REFILL_BITS: u32 = 16;
/// The least state of rANS between symbols, and its value after the last one.
pub const START: u32 = 1 << REFILL_BITS;

/// At most 56 bits: the lowest ones of a value; all higher ones must be zero.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// The value.
    pub value: u64,
    /// The number of bits.
    pub n_bits: u32,
}

/// Appends bit fields to a byte buffer, lowest bit first.
#[derive(Debug, Default)]
pub struct BitWriter {
    bytes: Vec<u8>,
    /// Bits not yet in `bytes`, the oldest lowest.
    pending: u64,
    /// Number of bits in `pending`, below 32 between calls.
    n_pending: u32,
}

impl BitWriter {
    /// Starts an empty bitstream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the lowest `n_bits` (at most 32) of `value`; higher bits of `value` must be zero.
    #[inline]
    pub fn write(&mut self, value: u32, n_bits: u32) {
        debug_assert!(n_bits <= 32 && (n_bits == 32 || value >> n_bits == 0));
        self.pending |= u64::from(value) << self.n_pending;
        self.n_pending += n_bits;
        if self.n_pending >= 32 {
            self.bytes
                .extend_from_slice(&(self.pending as u32).to_le_bytes());
            self.pending >>= 32;
            self.n_pending -= 32;
        }
    }

    /// Appends fields, in less time than one by one.
    pub fn write_all(&mut self, fields: &[Field]) {
        // Whole bytes go first.
        let n_whole = self.n_pending / 8;
        let whole = self.pending.to_le_bytes();
        self.bytes.extend_from_slice(&whole[..n_whole as usize]);
        let (mut pending, mut n_pending) = (self.pending >> (8 * n_whole), self.n_pending % 8);

        let n_before = self.bytes.len();
        let n_bits: u32 = fields.iter().map(|field| field.n_bits).sum();
        // Whole words are written; the last bytes do not count.
        self.bytes.resize(n_before + n_bits as usize / 8 + 9, 0);
        let mut n_bytes = n_before;
        for field in fields {
            debug_assert!(field.n_bits <= 56 && field.value >> field.n_bits == 0);
            pending |= field.value << n_pending;
            n_pending += field.n_bits;
            self.bytes[n_bytes..n_bytes + 8].copy_from_slice(&pending.to_le_bytes());
            let n_whole = n_pending / 8;
            n_bytes += n_whole as usize;
            pending >>= 8 * n_whole;
            n_pending %= 8;
        }
        self.bytes.truncate(n_bytes);
        (self.pending, self.n_pending) = (pending, n_pending);
    }

    /// Appends all bits of another bitstream.
    pub fn append(&mut self, other: Self) {
        for byte in other.bytes {
            self.write(byte.into(), 8);
        }
        self.write(other.pending as u32, other.n_pending);
    }

    /// Number of bits written so far.
    pub fn n_bits(&self) -> u64 {
        self.bytes.len() as u64 * 8 + u64::from(self.n_pending)
    }

    /// Pads the last byte with zero bits and returns the bytes.
    pub fn finish(mut self) -> Vec<u8> {
        let n_bytes = self.n_pending.div_ceil(8) as usize;
        self.bytes
            .extend_from_slice(&self.pending.to_le_bytes()[..n_bytes]);
        self.bytes
    }
}

/// Reads bit fields from a byte slice, lowest bit first, and holds the state of rANS, if symbols are coded so.
#[derive(Debug, Clone, Default)]
pub struct BitReader<'a> {
    /// The index of this bitstream among those of the block's rows.
    pub index: usize,
    bytes: &'a [u8],
    /// Index of the first byte that is not in `pending` yet.
    next: usize,
    pending: u64,
    n_pending: u32,
    coder: Coder,
    /// 0 until the first state has been read.
    state: u32,
}

impl<'a> BitReader<'a> {
    /// Starts at the first bit of `bytes`, with Huffman codes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }

    /// Sets how the symbols to come are coded.
    pub fn expect(&mut self, coder: Coder) {
        self.coder = coder;
    }

    /// How the symbols to come are coded.
    pub fn coder(&self) -> Coder {
        self.coder
    }

    /// Reads the first state.
    ///
    /// # Errors
    /// [`Corrupt`] if fewer bits are left, or the state is too small.
    pub fn start_state(&mut self) -> Result<(), Corrupt> {
        self.state = self.read(u32::BITS)?;
        match self.state < START {
            true => Err(Corrupt("the first state of rANS is too small")),
            false => Ok(()),
        }
    }

    /// The state of rANS.
    #[inline(always)]
    pub fn state(&self) -> u32 {
        self.state
    }

    /// Takes the state after a symbol and refills it; returns bits of which the lowest are the symbol's extra bits (at
    /// most 32), which it also takes.
    ///
    /// # Errors
    /// [`Corrupt`] if fewer bits are left.
    #[inline(always)]
    pub fn refill_state(&mut self, state: u32, n_extra_bits: u32) -> Result<u64, Corrupt> {
        let bits = self.peek();
        let n_refill = if state < START { REFILL_BITS } else { 0 };
        self.state = state << n_refill | (bits as u32 & ((1 << n_refill) - 1));
        self.consume(n_refill + n_extra_bits)?;
        Ok(bits >> n_refill)
    }

    /// Tops `pending` up to at least 56 bits, or to all that is left.
    #[inline(always)]
    fn refill(&mut self) {
        let Some(word) = self.bytes.get(self.next..self.next + 8) else {
            return self.refill_with_last();
        };
        let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        self.pending |= word << self.n_pending;
        let n_taken = (63 - self.n_pending) / 8;
        self.next += n_taken as usize;
        self.n_pending += n_taken * 8;
    }

    /// Refills as [`refill`](Self::refill) does where fewer than eight bytes are left: a call, to keep the usual way
    /// short.
    #[cold]
    #[inline(never)]
    fn refill_with_last(&mut self) {
        while self.n_pending <= 56 && self.next < self.bytes.len() {
            self.pending |= u64::from(self.bytes[self.next]) << self.n_pending;
            self.next += 1;
            self.n_pending += 8;
        }
    }

    /// The next 48 bits or more without taking them; bits past the end read as zero.
    #[inline]
    pub fn peek(&mut self) -> u64 {
        if self.n_pending < 48 {
            self.refill();
        }
        self.pending
    }

    /// As [`peek`](Self::peek), but without a branch on the bits at hand: sooner where several bitstreams are read side
    /// by side, and later where each symbol waits for the one before.
    #[inline(always)]
    pub fn peek_refilled(&mut self) -> u64 {
        self.refill();
        self.pending
    }

    /// The number of bits that have not been taken.
    pub fn n_bits_left(&self) -> u64 {
        (self.bytes.len() - self.next) as u64 * 8 + u64::from(self.n_pending)
    }

    /// Takes `n_bits` (at most 48) that [`peek`](Self::peek) has shown.
    ///
    /// # Errors
    /// [`Corrupt`] if fewer bits are left.
    #[inline]
    pub fn consume(&mut self, n_bits: u32) -> Result<(), Corrupt> {
        if n_bits > self.n_pending {
            return Err(Corrupt("the bitstream ends early"));
        }
        self.pending >>= n_bits;
        self.n_pending -= n_bits;
        Ok(())
    }

    /// Reads a number of `n_bits` (at most 32).
    ///
    /// # Errors
    /// [`Corrupt`] if fewer bits are left.
    #[inline]
    pub fn read(&mut self, n_bits: u32) -> Result<u32, Corrupt> {
        let value = self.peek() & ((1 << n_bits) - 1);
        self.consume(n_bits)?;
        Ok(value as u32)
    }

    /// Takes the padding of the current byte, and returns the bytes after it.
    ///
    /// # Errors
    /// [`Corrupt`] if the padding is not zero.
    pub fn rest(mut self) -> Result<&'a [u8], Corrupt> {
        let n_padding_bits = (self.n_bits_left() % 8) as u32;
        match self.read(n_padding_bits)? {
            0 => Ok(&self.bytes[self.bytes.len() - (self.n_bits_left() / 8) as usize..]),
            _ => Err(Corrupt("padding bits are not zero")),
        }
    }

    /// Checks that only zero padding of the last byte is left, and that the state is the last one.
    ///
    /// # Errors
    /// [`Corrupt`] otherwise.
    pub fn finish(mut self) -> Result<(), Corrupt> {
        self.refill();
        if self.next < self.bytes.len() || self.n_pending >= 8 {
            return Err(Corrupt("bytes are left over after the last row"));
        }
        if self.pending != 0 {
            return Err(Corrupt("padding bits are not zero"));
        }
        if self.coder == Coder::Ans && self.state != START {
            return Err(Corrupt("symbols are left over after the last row"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bitstream_appended_to_another_follows_bit_by_bit() {
        for n_first in 0..70 {
            for n_other in [0, 1, 7, 8, 31, 32, 33, 64, 65, 99] {
                let bit = |i: u32| (i * i % 7) & 1;
                let mut all = BitWriter::new();
                (0..n_first + n_other).for_each(|i| all.write(bit(i), 1));
                let (mut first, mut other) = (BitWriter::new(), BitWriter::new());
                (0..n_first).for_each(|i| first.write(bit(i), 1));
                (n_first..n_first + n_other).for_each(|i| other.write(bit(i), 1));
                first.append(other);
                assert_eq!(first.n_bits(), u64::from(n_first + n_other));
                assert_eq!(first.finish(), all.finish());
            }
        }
    }

    #[test]
    fn the_first_bit_written_is_the_lowest_bit_of_the_first_byte() {
        let mut writer = BitWriter::new();
        writer.write(1, 1);
        writer.write(0b10, 2);
        writer.write(0b11111, 5);
        writer.write(0b1, 1);
        assert_eq!(writer.n_bits(), 9);
        assert_eq!(writer.finish(), [0b1111_1101, 0b0000_0001]);
    }

    #[test]
    fn fields_are_the_same_one_by_one_and_together() {
        let fields: Vec<Field> = (0..300u32)
            .map(|i| {
                let n_bits = i * 7 % 57;
                let value = u64::from(i).wrapping_mul(0x9e37_79b9_7f4a_7c15) & ((1 << n_bits) - 1);
                Field { value, n_bits }
            })
            .collect();
        // Whatever is pending before, and after.
        for n_before in 0..70 {
            let (mut one_by_one, mut together) = (BitWriter::new(), BitWriter::new());
            for writer in [&mut one_by_one, &mut together] {
                (0..n_before).for_each(|i| writer.write(u32::from(i % 3 == 1), 1));
            }
            for field in &fields {
                let n_low = field.n_bits.min(32);
                let low = field.value & ((1 << n_low) - 1);
                one_by_one.write(low as u32, n_low);
                one_by_one.write((field.value >> n_low) as u32, field.n_bits - n_low);
            }
            for fields in [&fields[..0], &fields[..97], &fields[97..]] {
                together.write_all(fields);
            }
            assert_eq!(together.n_bits(), one_by_one.n_bits());
            one_by_one.write(0b101, 3);
            together.write(0b101, 3);
            assert_eq!(together.finish(), one_by_one.finish());
        }
    }

    #[test]
    fn widths_0_to_32_cross_bytes_and_words() {
        let fields: Vec<(u32, u32)> = (0..500u32)
            .map(|i| {
                let n_bits = i * 7 % 33;
                let mask = ((1u64 << n_bits) - 1) as u32;
                (i.wrapping_mul(0x9E37_79B9) & mask, n_bits)
            })
            .collect();
        let mut writer = BitWriter::new();
        for &(value, n_bits) in &fields {
            writer.write(value, n_bits);
        }
        let total: u64 = fields.iter().map(|f| u64::from(f.1)).sum();
        assert_eq!(writer.n_bits(), total);
        let bytes = writer.finish();
        assert_eq!(bytes.len() as u64, total.div_ceil(8));
        let mut reader = BitReader::new(&bytes);
        for &(value, n_bits) in &fields {
            assert_eq!(reader.read(n_bits).unwrap(), value);
        }
        reader.finish().unwrap();
    }

    #[test]
    fn reading_past_the_end_is_an_error() {
        let mut reader = BitReader::new(&[0xFF, 0x01]);
        assert_eq!(reader.read(15).unwrap(), 0x1FF);
        assert!(reader.read(2).is_err());
        assert!(BitReader::new(&[]).read(1).is_err());
        assert_eq!(BitReader::new(&[]).read(0).unwrap(), 0);
    }

    #[test]
    fn padding_must_be_zero_and_no_byte_may_be_left() {
        let mut dirty = BitReader::new(&[0b1000_0001]);
        dirty.read(1).unwrap();
        assert!(matches!(dirty.finish(), Err(Corrupt(what)) if what.contains("padding")));
        let mut long = BitReader::new(&[1, 0]);
        long.read(1).unwrap();
        assert!(matches!(long.finish(), Err(Corrupt(what)) if what.contains("left over")));
        let mut clean = BitReader::new(&[1]);
        clean.read(1).unwrap();
        clean.finish().unwrap();
    }
}
