//! Rows that repeat bit for bit, as those of a decision tree or of the same inputs do: each distinct row is coded once,
//! in the order in which they first come, and then for every row which of them it is (FORMAT.md, section 12).

use std::collections::HashMap;

use super::Corrupt;
use super::bitstream::{BitReader, BitWriter, Coder};
use super::codebook::Alphabet;
use super::coded::{Coded, CodedRows, Tables};
use super::contexts::{ContextDecoder, Groups, Sequence};
use super::meter::{Part, Watch};
use super::ranks::Ranks;
use super::tokens::LEVELS;
use crate::matrix::Rows;

const N_BANDS: usize = 1;
const FIRST_ALPHABET: usize = 0;
/// The numbers that rows are coded as; from the last on, by rank. Format-stable.
const AS_GUESSED: u32 = 0;
const NEW: u32 = 1;
const FIRST_RANK: u32 = 2;

/// About the bytes that a decoder takes for each distinct row beside its values.
pub const N_WORKING_BYTES: u64 = 28;

/// Which distinct row each row of a block is.
#[derive(Debug, PartialEq)]
pub struct Repeats {
    /// The distinct row of each row.
    of_rows: Vec<u32>,
    /// The first row that is each distinct row.
    firsts: Vec<usize>,
}

impl Repeats {
    /// The repeats of some rows; `None` if less than an eighth of these are repeats.
    pub fn of(matrix: Rows<'_>) -> Option<Self> {
        /// The most rows of one hash to compare, so that no values make it slow.
        const MAX_ALIKE: usize = 4;
        let row =
            |index: usize| &matrix.values()[index * matrix.n_classes()..][..matrix.n_classes()];
        let are_same =
            |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        let mut of_hashes: HashMap<u64, Vec<u32>> = HashMap::with_capacity(matrix.n_rows());
        let (mut of_rows, mut firsts) = (Vec::with_capacity(matrix.n_rows()), Vec::new());
        for index in 0..matrix.n_rows() {
            let alike = of_hashes.entry(hash(row(index))).or_default();
            let same = alike
                .iter()
                .find(|&&distinct| are_same(row(firsts[distinct as usize]), row(index)));
            of_rows.push(same.copied().unwrap_or(firsts.len() as u32));
            if same.is_none() {
                if alike.len() < MAX_ALIKE {
                    alike.push(firsts.len() as u32);
                }
                firsts.push(index);
            }
        }
        let are_many = !firsts.is_empty() && firsts.len() * 8 <= of_rows.len() * 7;
        are_many.then_some(Self { of_rows, firsts })
    }

    /// The number of distinct rows.
    pub fn n_distinct(&self) -> usize {
        self.firsts.len()
    }

    /// The values of the distinct rows.
    pub fn distinct(&self, matrix: Rows<'_>) -> Vec<f32> {
        let n_classes = matrix.n_classes();
        let rows = self
            .firsts
            .iter()
            .map(|&first| &matrix.values()[first * n_classes..][..n_classes]);
        rows.flatten().copied().collect()
    }

    /// Codes which of the distinct rows each row is.
    pub fn encode(&self) -> Coded {
        let mut sequences = Sequence::several(1, self.of_rows.len(), LEVELS);
        let mut known = Known::new(self.n_distinct());
        for &distinct in &self.of_rows {
            sequences[0].push_number(known.context(), known.number(distinct as usize));
            known.learn(distinct as usize);
        }
        let groups = Groups::of(&mut sequences, N_BANDS, FIRST_ALPHABET, Coder::Huffman);
        Coded {
            alphabets: alphabets(groups.alphabets()),
            choices: BitWriter::new(),
            rows: CodedRows::InContexts(groups, sequences),
        }
    }
}

fn alphabets(of_groups: Vec<Alphabet>) -> Vec<Alphabet> {
    let of_groups = of_groups.into_iter();
    of_groups
        .map(|alphabet| alphabet.telling(Part::TopClass))
        .collect()
}

/// A fast hash. It need not be a good one, as rows are compared.
fn hash(row: &[f32]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let add = |hash: u64, value: u64| (hash.rotate_left(29) ^ value).wrapping_mul(FACTOR);
    // Lanes, which need not wait for each other.
    let mut lanes = [0; 4];
    let (chunks, rest) = row.as_chunks::<4>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = add(*lane, value.to_bits().into());
        }
    }
    let of_rest = rest
        .iter()
        .fold(0, |hash, value| add(hash, value.to_bits().into()));
    lanes.into_iter().fold(of_rest, add)
}

/// Fills in each row from its distinct row.
///
/// # Errors
/// [`Corrupt`] if the bits are not what [`Repeats::encode`] makes.
pub fn decode(
    mut reader: BitReader,
    distinct: Rows<'_>,
    values: &mut [f32],
    watch: impl Watch,
) -> Result<(), Corrupt> {
    let (n_classes, n_distinct) = (distinct.n_classes(), distinct.n_rows());
    let contexts = ContextDecoder::read_from(&mut reader, N_BANDS, FIRST_ALPHABET, LEVELS)?;
    let (tables, [reader]) =
        Tables::read_from(&mut reader, &alphabets(contexts.alphabets()), watch)?;
    let mut stream = contexts.stream(reader);
    let mut known = Known::new(n_distinct);
    for row in values.chunks_exact_mut(n_classes) {
        let number = contexts.number(known.context(), &tables, &mut stream)?;
        let index = known.distinct(number).ok_or(Corrupt(
            "a repeated row names a distinct row that does not exist",
        ))?;
        known.learn(index);
        row.copy_from_slice(&distinct.values()[index * n_classes..][..n_classes]);
    }
    if known.n_seen < n_distinct {
        return Err(Corrupt("a distinct row is never used"));
    }
    tables.finish(stream.reader)
}

/// The state that encoder and decoder share.
struct Known {
    /// The number of distinct rows, and how many have come.
    n_distinct: usize,
    n_seen: usize,
    /// The distinct row that last came directly after each of them.
    next: Vec<Option<usize>>,
    last: Option<usize>,
    /// The number of rows directly before that were as guessed.
    n_guessed: usize,
    /// Ranks of distinct rows by how often they have come.
    ranks: Ranks,
}

impl Known {
    fn new(n_distinct: usize) -> Self {
        Self {
            n_distinct,
            n_seen: 0,
            next: vec![None; n_distinct],
            last: None,
            n_guessed: 0,
            ranks: Ranks::of_lists(n_distinct, 1),
        }
    }

    /// The distinct row that came after the last row when that came before.
    fn guess(&self) -> Option<usize> {
        self.next[self.last?]
    }

    /// The context of the number of the next row. Format-stable.
    fn context(&self) -> usize {
        const MOST: usize = 6;
        match self.guess() {
            None => 0,
            Some(_) => 1 + self.n_guessed.min(MOST),
        }
    }

    /// The number of a distinct row as the next row; one that has not come yet must be the next new one.
    fn number(&self, distinct: usize) -> u32 {
        if self.guess() == Some(distinct) {
            AS_GUESSED
        } else if distinct == self.n_seen {
            NEW
        } else {
            FIRST_RANK + self.ranks.rank(0, distinct) as u32
        }
    }

    /// The distinct row of a number, the inverse of [`number`](Self::number); `None` if there is no such row.
    fn distinct(&self, number: u32) -> Option<usize> {
        match number {
            AS_GUESSED => self.guess(),
            NEW => Some(self.n_seen).filter(|&distinct| distinct < self.n_distinct),
            _ => {
                let rank = (number - FIRST_RANK) as usize;
                let distinct = self.ranks.class(0, rank)?;
                (distinct < self.n_seen && self.guess() != Some(distinct)).then_some(distinct)
            }
        }
    }

    fn learn(&mut self, distinct: usize) {
        self.n_guessed = match self.guess() == Some(distinct) {
            true => self.n_guessed + 1,
            false => 0,
        };
        if let Some(last) = self.last.replace(distinct) {
            self.next[last] = Some(distinct);
        }
        self.n_seen = self.n_seen.max(distinct + 1);
        self.ranks.learn(0, distinct);
    }
}

#[cfg(test)]
mod tests {
    use super::super::coded::Payload;
    use super::super::noise;
    use super::super::promise::{Bound, Kind, Promise};
    use super::super::{block, choice};
    use super::*;

    const N_CLASSES: usize = 3;

    /// Rows of numbers; rows of equal numbers are equal.
    fn rows(numbers: impl IntoIterator<Item = usize>) -> Vec<f32> {
        numbers
            .into_iter()
            .flat_map(|number| [number as f32, -0.0, 0.25])
            .collect()
    }

    fn of(values: &[f32]) -> Option<Repeats> {
        Repeats::of(Rows::new(N_CLASSES, values))
    }

    /// The contexts and numbers by which rows are coded.
    fn told(values: &[f32]) -> Vec<(usize, u32)> {
        let repeats = of(values).unwrap();
        let mut known = Known::new(repeats.n_distinct());
        let mut told = Vec::new();
        for &distinct in &repeats.of_rows {
            let (context, number) = (known.context(), known.number(distinct as usize));
            assert_eq!(known.distinct(number), Some(distinct as usize));
            told.push((context, number));
            known.learn(distinct as usize);
        }
        told
    }

    #[test]
    fn rows_that_come_again_are_found() {
        let repeats = of(&rows([7, 7, 5, 7, 9, 5])).unwrap();
        assert_eq!(repeats.of_rows, [0, 0, 1, 0, 2, 1]);
        assert_eq!(
            repeats.distinct(Rows::new(N_CLASSES, &rows([7, 7, 5, 7, 9, 5]))),
            rows([7, 5, 9])
        );
        // At least one row in eight must be a repeat.
        assert!(of(&rows(0..100)).is_none());
        assert!(of(&rows((0..8).chain([3]))).is_none());
        assert!(of(&rows((0..7).chain([3]))).is_some());
        // Bits count, not values.
        let mut values = rows([7, 7, 7, 7]);
        values[1] = 0.0;
        values[3] = f32::NAN;
        values[6] = f32::NAN;
        assert_eq!(of(&values).unwrap().of_rows, [0, 1, 1, 2]);
        assert!(of(&[]).is_none());
    }

    #[test]
    fn a_row_is_told_as_the_guess_as_new_or_by_rank() {
        let told = told(&rows([4, 4, 4, 6, 4, 6, 4, 4, 8]));
        let expected = [
            (0, NEW),
            (0, FIRST_RANK),
            (1, AS_GUESSED),
            (2, NEW),
            (0, FIRST_RANK),
            (1, AS_GUESSED),
            (2, AS_GUESSED),
            (3, FIRST_RANK),
            (1, NEW),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn blocks_of_rows_that_come_again_are_small_and_refuse_what_cannot_be() {
        const N_CLASSES: usize = 20;
        let random = |i: usize| noise(i) >> 20;
        let numbers = (0..3000).map(|i| random(i) as usize % 7);
        let values: Vec<f32> = numbers
            .flat_map(|number| (0..20).map(move |class| random(20 * number + class) as f32))
            .collect();
        let matrix = Rows::new(N_CLASSES, &values);
        let promise = Promise::new(Kind::Values, Bound::MaxError(0.01));
        let Payload {
            bytes: payload,
            counts,
        } = choice::encode(matrix, None, &mut [false; 3000], &promise, None);
        assert_eq!(payload[0], 27, "{}", payload.len());
        assert!(payload.len() < 1500, "{}", payload.len());
        let n_bits = counts.codebooks + counts.codes + counts.raw;
        assert!(8 * payload.len() as u64 - n_bits < 16, "{counts:?}");
        let measured = block::measure(&payload, 3000, N_CLASSES, None, 1).unwrap();
        let rows_of = measured.of_rows();
        let n_measured = measured.codebooks + rows_of.codes + rows_of.raw + measured.padding;
        assert_eq!(n_measured, 8 * payload.len() as u64);

        let decode = |payload: &[u8], n_rows| block::decode(payload, n_rows, N_CLASSES, 1);
        let decoded = decode(&payload, 3000).unwrap();
        let errors = decoded
            .values()
            .iter()
            .zip(&values)
            .map(|(a, b)| (a - b).abs());
        assert!(errors.fold(0.0, f32::max) <= 0.01);
        // Fewer rows than distinct ones, and more than are there.
        for n_rows in [0, 2, 3001] {
            assert!(decode(&payload, n_rows).is_err(), "{n_rows}");
        }
        for n in 0..payload.len() {
            assert!(decode(&payload[..n], 3000).is_err(), "{n} bytes");
        }
        // The bits of bitstreams and rANS, which mean nothing here.
        for first in [0x5B, 0x9B] {
            let mut other = payload.clone();
            other[0] = first;
            assert!(decode(&other, 3000).is_err(), "{first:#x}");
        }
    }
}
