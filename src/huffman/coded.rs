//! Coded rows to bits and back: the parameters that a model chose, the codebooks of its alphabets, and the symbols of
//! the rows in one bitstream or several (FORMAT.md, section 5).

use super::bitstream::{BitReader, BitWriter, Coder, Field};
use super::codebook::{self, Alphabet, Code, Codebook, entropy_bits, read_gamma, write_gamma};
use super::contexts::{Groups, Sequence};
use super::meter::Watch;
use super::symbols::Symbol;
use super::{Corrupt, ans};

/// The bits of a block, or of a frame, by their use.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BitCounts {
    /// Codebooks, and all else that comes before the rows.
    pub codebooks: u64,
    /// Huffman codes, or refills of the state of rANS.
    pub codes: u64,
    /// Extra bits, and the values of exact rows.
    pub raw: u64,
    /// The empirical entropy of the coded symbols, by alphabet and block: the least that `codes` could be, but for up
    /// to 16 bits that a first state of rANS holds.
    pub entropy: f64,
}

impl std::ops::AddAssign for BitCounts {
    fn add_assign(&mut self, other: Self) {
        self.codebooks += other.codebooks;
        self.codes += other.codes;
        self.raw += other.raw;
        self.entropy += other.entropy;
    }
}

/// The payload of a block.
#[derive(Debug)]
pub struct Payload {
    /// The whole payload.
    pub bytes: Vec<u8>,
    /// The bits of the payload by their use.
    pub counts: BitCounts,
}

/// The output of a model for the rows of a block.
pub struct Coded {
    /// Parameters chosen for these rows, which are written before the codebooks.
    pub choices: BitWriter,
    /// The alphabets.
    pub alphabets: Vec<Alphabet>,
    /// The rows.
    pub rows: CodedRows,
}

/// The symbols of the rows.
pub enum CodedRows {
    /// In one bitstream.
    Symbols(Vec<Symbol>),
    /// Numbers in contexts, with the groups of contexts: a sequence for each bitstream.
    InContexts(Groups, Vec<Sequence>),
}

impl CodedRows {
    /// The frequencies of the symbols of all alphabets.
    fn frequencies(&self, alphabets: &[Alphabet]) -> Vec<Vec<u64>> {
        match self {
            Self::Symbols(symbols) => {
                // All frequencies in one list, and the start of each alphabet.
                let mut first_of = Vec::with_capacity(alphabets.len());
                let mut n_all = 0;
                for alphabet in alphabets {
                    first_of.push(n_all);
                    n_all += alphabet.size;
                }
                let mut of_all = vec![0; n_all];
                for symbol in symbols {
                    of_all[first_of[symbol.alphabet()] + symbol.value() as usize] += 1;
                }
                let of_alphabets = first_of.iter().zip(alphabets);
                of_alphabets
                    .map(|(&first, alphabet)| of_all[first..first + alphabet.size].to_vec())
                    .collect()
            }
            Self::InContexts(groups, sequences) => groups.frequencies(sequences, alphabets),
        }
    }

    /// The number of extra bits of all symbols, given their frequencies.
    fn n_extra_bits(&self, alphabets: &[Alphabet], frequencies: &[Vec<u64>]) -> u64 {
        match self {
            Self::Symbols(symbols) => symbols.iter().map(|s| u64::from(s.n_extra_bits())).sum(),
            Self::InContexts(groups, sequences) => {
                groups.n_extra_bits(sequences, alphabets, frequencies)
            }
        }
    }
}

/// Writes rows after the beginning of a payload, which `writer` has: the choices for them, the codebooks and the
/// symbols.
pub fn write_rows(coder: Coder, n_streams: usize, coded: Coded, mut writer: BitWriter) -> Payload {
    let Coded {
        choices,
        alphabets,
        rows,
    } = coded;
    writer.append(choices);
    if let CodedRows::InContexts(groups, _) = &rows {
        groups.write_to(&mut writer);
    }
    let frequencies = rows.frequencies(&alphabets);
    let codebooks = Codebooks::from_frequencies(coder, &alphabets, &frequencies);
    codebooks.write_to(&mut writer);
    let (bytes, n_bits_before, n_row_bits) = if n_streams == 1 {
        let n_bits_before = writer.n_bits();
        codebooks.write_symbols(&rows, 0, &mut writer);
        let n_row_bits = writer.n_bits() - n_bits_before;
        (writer.finish(), n_bits_before, n_row_bits)
    } else {
        let mut n_row_bits = 0;
        let mut streams = Vec::with_capacity(n_streams);
        for stream in 0..n_streams {
            let mut writer = BitWriter::new();
            codebooks.write_symbols(&rows, stream, &mut writer);
            n_row_bits += writer.n_bits();
            streams.push(writer.finish());
        }
        // The last bitstream takes what is left.
        for stream in &streams[..n_streams - 1] {
            write_gamma(&mut writer, stream.len() as u32 + 1);
        }
        let mut bytes = writer.finish();
        let n_bits_before = 8 * bytes.len() as u64;
        bytes.reserve_exact(streams.iter().map(Vec::len).sum());
        for stream in &streams {
            bytes.extend_from_slice(stream);
        }
        (bytes, n_bits_before, n_row_bits)
    };
    let n_state_bits = match coder {
        Coder::Huffman => 0,
        Coder::Ans => n_streams as u64 * u64::from(u32::BITS),
    };
    let n_extra_bits = rows.n_extra_bits(&alphabets, &frequencies);
    let counts = BitCounts {
        codebooks: n_bits_before + n_state_bits,
        codes: n_row_bits - n_state_bits - n_extra_bits,
        raw: n_extra_bits,
        entropy: frequencies.iter().map(|f| entropy_bits(f)).sum(),
    };
    Payload { bytes, counts }
}

/// About how many fields are made before they are written: making a symbol's bits need not wait for their place.
pub(super) const N_FIELDS: usize = 256;

/// Writes fields if there are at least [`N_FIELDS`].
pub(super) fn write_if_many(fields: &mut Vec<Field>, writer: &mut BitWriter) {
    if fields.len() >= N_FIELDS {
        writer.write_all(fields);
        fields.clear();
    }
}

/// The codebooks of a block's alphabets.
enum Codebooks {
    Huffman {
        codebooks: Vec<Codebook>,
        codes: Vec<Vec<Code>>,
    },
    Ans(ans::Codebooks),
}

impl Codebooks {
    /// The codebooks of alphabets whose symbols have these frequencies.
    fn from_frequencies(coder: Coder, alphabets: &[Alphabet], frequencies: &[Vec<u64>]) -> Self {
        match coder {
            Coder::Huffman => {
                let codebooks: Vec<Codebook> = frequencies
                    .iter()
                    .zip(alphabets)
                    .map(|(of, alphabet)| Codebook::from_frequencies(of, alphabet.stride))
                    .collect();
                Self::Huffman {
                    codes: codebooks
                        .iter()
                        .map(|codebook| codebook.codes().collect())
                        .collect(),
                    codebooks,
                }
            }
            Coder::Ans => Self::Ans(ans::Codebooks::from_frequencies(alphabets, frequencies)),
        }
    }

    fn write_to(&self, writer: &mut BitWriter) {
        match self {
            Self::Huffman { codebooks, .. } => {
                for codebook in codebooks {
                    codebook.write_to(writer);
                }
            }
            Self::Ans(codebooks) => codebooks.write_to(writer),
        }
    }

    /// Writes the symbols of a bitstream, each with its extra bits.
    fn write_symbols(&self, rows: &CodedRows, stream: usize, writer: &mut BitWriter) {
        match (self, rows) {
            (Self::Huffman { codes, .. }, CodedRows::Symbols(symbols)) => {
                let mut fields = Vec::with_capacity(N_FIELDS);
                for symbols in symbols.chunks(N_FIELDS) {
                    fields.clear();
                    fields.extend(symbols.iter().map(|symbol| {
                        let code = codes[symbol.alphabet()][symbol.value() as usize];
                        code.with_extra(symbol.extra(), symbol.n_extra_bits())
                    }));
                    writer.write_all(&fields);
                }
            }
            (Self::Huffman { codes, .. }, CodedRows::InContexts(groups, sequences)) => {
                groups.write_symbols(&sequences[stream], stream, codes, writer);
            }
            (Self::Ans(codebooks), CodedRows::Symbols(symbols)) => {
                codebooks.write_symbols(symbols, writer)
            }
            (Self::Ans(codebooks), CodedRows::InContexts(groups, sequences)) => {
                codebooks.write_symbols(&groups.symbols(&sequences[stream], stream), writer);
            }
        }
    }
}

/// Splits what follows the codebooks into the bitstreams of rows: a single one is all of it, the lengths of several
/// come first.
fn split<const N: usize>(mut reader: BitReader) -> Result<[BitReader; N], Corrupt> {
    let mut readers = std::array::from_fn(|_| BitReader::default());
    if N == 1 {
        readers[0] = reader;
        return Ok(readers);
    }
    let mut lengths = [None; N];
    for length in &mut lengths[..N - 1] {
        *length = Some(read_gamma(&mut reader)? as usize - 1);
    }
    let mut bytes = reader.rest()?;
    for (reader, length) in readers.iter_mut().zip(lengths) {
        let (own, rest) = bytes
            .split_at_checked(length.unwrap_or(bytes.len()))
            .ok_or(Corrupt(
                "the bitstreams of rows are longer than their block",
            ))?;
        *reader = BitReader::new(own);
        bytes = rest;
    }
    Ok(readers)
}

/// The decode tables of a block's alphabets, and the watch of their symbols.
#[derive(Debug)]
pub struct Tables<W = ()> {
    /// Empty if the coder is rANS.
    huffman: Vec<codebook::DecodeTable>,
    /// Empty if the coder is Huffman.
    ans: Vec<ans::DecodeTable>,
    watch: W,
}

impl<W: Watch> Tables<W> {
    /// Reads the codebooks of these alphabets; also returns the `N` bitstreams of the rows, which are all that follows.
    ///
    /// # Errors
    /// [`Corrupt`] as [`codebook::DecodeTable::read_from`] and [`ans::DecodeTable::read_all`], and for bitstreams
    /// longer than the payload.
    pub fn read_from<'a, const N: usize>(
        reader: &mut BitReader<'a>,
        alphabets: &[Alphabet],
        watch: W,
    ) -> Result<(Self, [BitReader<'a>; N]), Corrupt> {
        let coder = reader.coder();
        let (mut huffman, mut ans) = (Vec::new(), Vec::new());
        match coder {
            Coder::Huffman => {
                for &alphabet in alphabets {
                    huffman.push(codebook::DecodeTable::read_from(reader, alphabet)?);
                }
            }
            Coder::Ans => ans = ans::DecodeTable::read_all(reader, alphabets)?,
        }
        let mut readers = split(std::mem::take(reader))?;
        for (index, reader) in readers.iter_mut().enumerate() {
            reader.index = index;
            reader.expect(coder);
            if coder == Coder::Ans {
                reader.start_state()?;
            }
        }
        watch.start(alphabets, &readers);
        let tables = Self {
            huffman,
            ans,
            watch,
        };
        Ok((tables, readers))
    }

    /// Checks that nothing is left of a bitstream.
    ///
    /// # Errors
    /// [`Corrupt`] as [`BitReader::finish`].
    pub fn finish(&self, reader: BitReader) -> Result<(), Corrupt> {
        self.watch.end(&reader);
        reader.finish()
    }

    /// Decodes the number that a symbol of an alphabet and its extra bits stand for.
    ///
    /// # Errors
    /// [`Corrupt`] as [`codebook::DecodeTable::decode`].
    #[inline(always)]
    pub fn number(&self, alphabet: usize, reader: &mut BitReader) -> Result<u32, Corrupt> {
        let (number, _) = match self.huffman.get(alphabet) {
            Some(table) => {
                self.watch
                    .symbol(alphabet, reader, |reader| table.upcoming(reader));
                table.decode(reader)?
            }
            None => self.number_or_run_of_ans(alphabet, reader)?,
        };
        Ok(number)
    }

    /// Decodes the number, or the length of a run, of an alphabet that may have runs; returns what ends a run as
    /// [`codebook::DecodeTable::decode`] does.
    ///
    /// # Errors
    /// [`Corrupt`] as [`codebook::DecodeTable::decode`].
    #[inline(always)]
    pub fn number_or_run(
        &self,
        alphabet: usize,
        reader: &mut BitReader,
    ) -> Result<(u32, Option<usize>), Corrupt> {
        match self.huffman.get(alphabet) {
            Some(table) => {
                let (number, kind) = self.decode_if(true, (alphabet, table), reader)?;
                Ok((number, kind.checked_sub(1)))
            }
            None => self.number_or_run_of_ans(alphabet, reader),
        }
    }

    /// The decode table of an alphabet; `None` if the coder is rANS.
    #[inline(always)]
    pub fn huffman(&self, alphabet: usize) -> Option<&codebook::DecodeTable> {
        self.huffman.get(alphabet)
    }

    /// Decodes with the table of the alphabet, as [`codebook::DecodeTable::decode_if`] does.
    ///
    /// # Errors
    /// [`Corrupt`] as that.
    #[inline(always)]
    pub fn decode_if(
        &self,
        is_coded: bool,
        (alphabet, table): (usize, &codebook::DecodeTable),
        reader: &mut BitReader,
    ) -> Result<(u32, usize), Corrupt> {
        if is_coded {
            self.watch
                .symbol(alphabet, reader, |reader| table.upcoming(reader));
        }
        table.decode_if(is_coded, reader)
    }

    /// The part of [`number_or_run`](Self::number_or_run) for rANS; a call, so that it takes no registers from the
    /// usual coder.
    #[inline(never)]
    fn number_or_run_of_ans(
        &self,
        alphabet: usize,
        reader: &mut BitReader,
    ) -> Result<(u32, Option<usize>), Corrupt> {
        let table = &self.ans[alphabet];
        self.watch
            .symbol(alphabet, reader, |reader| table.upcoming(reader));
        table.decode(reader)
    }

    /// Reads a row that [`Symbol::of_bits`] made symbols of.
    ///
    /// # Errors
    /// [`Corrupt`] if the bitstream ends.
    pub fn bits(
        &self,
        alphabet: usize,
        reader: &mut BitReader,
        row: &mut [f32],
    ) -> Result<(), Corrupt> {
        for value in row {
            self.number(alphabet, reader)?;
            *value = f32::from_bits(reader.read(32)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::models::N_STREAMS;
    use super::*;

    #[test]
    fn bitstreams_that_are_not_there_are_refused() {
        let lengths = |of_first: u32, padding: u32| {
            let mut writer = BitWriter::new();
            write_gamma(&mut writer, of_first + 1);
            (2..N_STREAMS).for_each(|_| write_gamma(&mut writer, 1));
            let n_bits = (8 - writer.n_bits() % 8) % 8;
            writer.write(padding, n_bits as u32);
            [writer.finish(), vec![1, 2, 3]].concat()
        };
        let bytes = lengths(2, 0);
        let readers: [BitReader; N_STREAMS] = split(BitReader::new(&bytes)).unwrap();
        let n_bits = readers.map(|reader| reader.n_bits_left());
        assert_eq!(n_bits, [16, 0, 0, 0, 0, 0, 0, 8]);
        assert!(split::<N_STREAMS>(BitReader::new(&lengths(3, 0))).is_ok());
        let refused = |bytes: &[u8]| split::<N_STREAMS>(BitReader::new(bytes)).unwrap_err();
        assert!(
            refused(&lengths(4, 0))
                .0
                .contains("longer than their block")
        );
        assert!(refused(&lengths(2, 1)).0.contains("padding"));
    }
}
