//! Values that repeat often, as averages of few votes do: each is a place in a table, coded in the context of its class
//! or of another value (FORMAT.md, section 12). Values that occur once are stored bit for bit.

use super::Corrupt;
use super::bitstream::{BitReader, BitWriter, Coder};
use super::codebook::{Alphabet, read_gamma, write_gamma};
use super::coded::{Coded, CodedRows, Tables};
use super::contexts::{ContextDecoder, Groups, N_POSITIONS, Sequence};
use super::meter::{Part, Watch};
use super::plain;
use super::quantizer::{from_ordered, ordered};
use super::tokens::LEVELS;
use crate::matrix::Rows;

const RAW: usize = 0;
const N_ALPHABETS: usize = 1;
const N_BANDS: usize = 1;
/// The place of values that are not in the table. Format-stable.
const NOT_THERE: u32 = 0;
/// The largest number of values in a table. Format-stable.
const MAX_VALUES: usize = 1 << 16;

/// What gives the context of a value. Format-stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Its class.
    Class,
    /// The place of the value before it in the row.
    PreviousValue,
    /// The place of the value of the same class in the previous row.
    PreviousRow,
}

impl By {
    /// All kinds, each at its number.
    pub const ALL: [Self; 3] = [Self::Class, Self::PreviousValue, Self::PreviousRow];

    /// The context, given the places of the row so far and those of the previous row, if there is one.
    #[inline(always)]
    fn context(self, class: usize, n_classes: usize, places: &[u32], above: &[u32]) -> usize {
        const NONE: usize = N_POSITIONS - 1;
        let of_place =
            |place: Option<&u32>| place.map_or(NONE, |&place| (place as usize).min(NONE - 1));
        match self {
            Self::Class if n_classes <= N_POSITIONS => class,
            Self::Class => class * N_POSITIONS / n_classes,
            Self::PreviousValue => of_place(places.last()),
            Self::PreviousRow => of_place(above.get(class)),
        }
    }
}

/// Values in the order of their places: the commonest have the first ones, but those whose places share a token ascend.
#[derive(Debug, PartialEq)]
pub struct Table {
    /// The values as [`ordered`] integers; the first has place 1.
    numbers: Vec<i32>,
}

/// Whether the place of the value at `index` has the same token as the place before.
fn is_same_part(index: usize) -> bool {
    let token = |index: usize| LEVELS.split(index as u32 + 1).value;
    index > 0 && token(index) == token(index - 1)
}

impl Table {
    /// Whether so many of the first values repeat that a table is likely to be worth its time.
    pub fn is_likely(values: &[f32]) -> bool {
        const N_SAMPLED: usize = 1 << 12;
        let mut numbers = sorted(&values[..values.len().min(N_SAMPLED)]);
        let n = numbers.len();
        numbers.dedup();
        numbers.len() * 8 < n * 7
    }

    /// The table of all values that occur more than once.
    fn of(values: &[f32]) -> Self {
        let numbers = sorted(values);
        let same = numbers
            .chunk_by(|a, b| a == b)
            .filter(|same| same.len() > 1);
        let mut by_count: Vec<(usize, i32)> = same.map(|same| (same.len(), same[0])).collect();
        by_count.sort_by_key(|&(count, number)| (std::cmp::Reverse(count), number));
        by_count.truncate(MAX_VALUES);
        let mut numbers: Vec<i32> = by_count.into_iter().map(|(_, number)| number).collect();
        let mut start = 0;
        for end in 1..=numbers.len() {
            if end == numbers.len() || !is_same_part(end) {
                numbers[start..end].sort_unstable();
                start = end;
            }
        }
        Self { numbers }
    }

    /// The numbers and places of all values, ascending.
    fn places(&self) -> Vec<(i32, u32)> {
        let mut places: Vec<(i32, u32)> = self.numbers.iter().copied().zip(1..).collect();
        places.sort_unstable();
        places
    }

    /// Writes the table.
    pub fn write_to(&self, writer: &mut BitWriter) {
        write_gamma(writer, self.numbers.len() as u32 + 1);
        let mut start = 0;
        for end in 1..=self.numbers.len() {
            if end < self.numbers.len() && is_same_part(end) {
                continue;
            }
            let part = &self.numbers[start..end];
            start = end;
            writer.write(part[0] as u32, u32::BITS);
            if part.len() == 1 {
                continue;
            }
            // By how much more than 1 each is above the previous one.
            let gaps = part
                .windows(2)
                .map(|pair| pair[1].wrapping_sub(pair[0]) as u32 - 1);
            let n_bits = |n_low: u32| -> u64 {
                let of_gap = |gap: u32| 2 * (u64::from(gap >> n_low) + 1).ilog2() + 1 + n_low;
                gaps.clone().map(|gap| u64::from(of_gap(gap))).sum()
            };
            // What is above the low bits must fit gamma.
            let largest = gaps.clone().max().unwrap_or(0);
            let least_low = (u32::BITS - largest.leading_zeros()).saturating_sub(24);
            let n_low = (least_low..u32::BITS)
                .min_by_key(|&n_low| n_bits(n_low))
                .unwrap_or(0);
            writer.write(n_low, 5);
            for gap in gaps {
                write_gamma(writer, (gap >> n_low) + 1);
                writer.write(gap & ((1 << n_low) - 1), n_low);
            }
        }
    }

    /// Reads what [`write_to`](Self::write_to) wrote.
    ///
    /// # Errors
    /// [`Corrupt`] if the bits are no table.
    fn read_from(reader: &mut BitReader) -> Result<Self, Corrupt> {
        const CORRUPT: Corrupt = Corrupt("the values of a table do not ascend");
        let n_values = read_gamma(reader)? as usize - 1;
        if n_values > MAX_VALUES {
            return Err(Corrupt("a table has too many values"));
        }
        let mut numbers: Vec<i32> = Vec::new();
        let mut n_low = 0;
        for index in 0..n_values {
            if !is_same_part(index) {
                numbers.push(reader.read(u32::BITS)? as i32);
                if index + 1 < n_values && is_same_part(index + 1) {
                    n_low = reader.read(5)?;
                }
                continue;
            }
            let high = u64::from(read_gamma(reader)? - 1);
            let gap = (high << n_low) + u64::from(reader.read(n_low)?);
            let number = i64::from(numbers[index - 1]) + 1 + i64::try_from(gap).or(Err(CORRUPT))?;
            numbers.push(number.try_into().or(Err(CORRUPT))?);
        }
        Ok(Self { numbers })
    }
}

/// The [`ordered`] integers of values, ascending.
fn sorted(values: &[f32]) -> Vec<i32> {
    let mut numbers: Vec<i32> = values.iter().map(|&value| ordered(value)).collect();
    numbers.sort_unstable();
    numbers
}

fn alphabets(of_groups: Vec<Alphabet>) -> Vec<Alphabet> {
    let mut alphabets = vec![plain::alphabet_of_bits().telling(Part::ExactRows)];
    alphabets.extend(of_groups);
    alphabets
}

/// Codes all values of `matrix` bit for bit.
pub fn encode(matrix: Rows<'_>, by: By, coder: Coder) -> Coded {
    let n_classes = matrix.n_classes();
    let table = Table::of(matrix.values());
    let places_of_numbers = table.places();
    let mut sequences = Sequence::several(1, matrix.values().len(), LEVELS);
    let sequence = &mut sequences[0];
    let (mut places, mut above) = (Vec::with_capacity(n_classes), Vec::new());
    let place_of = |number: i32| {
        let found = places_of_numbers.binary_search_by_key(&number, |&(number, _)| number);
        found.map_or(NOT_THERE, |index| places_of_numbers[index].1)
    };
    let mut last = None;
    for row in matrix.rows() {
        for (class, &value) in row.iter().enumerate() {
            let number = ordered(value);
            let place = match last {
                // Many values equal the previous one.
                Some((number_before, place)) if number_before == number => place,
                _ => place_of(number),
            };
            last = Some((number, place));
            let context = by.context(class, n_classes, &places, &above);
            sequence.push_number(context, place);
            if place == NOT_THERE {
                sequence.push(plain::symbol_of_bits(RAW, value));
            }
            places.push(place);
        }
        std::mem::swap(&mut places, &mut above);
        places.clear();
    }
    let groups = Groups::of(&mut sequences, N_BANDS, N_ALPHABETS, coder);
    let mut choices = BitWriter::new();
    table.write_to(&mut choices);
    Coded {
        choices,
        alphabets: alphabets(groups.alphabets()),
        rows: CodedRows::InContexts(groups, sequences),
    }
}

/// Decodes the values that [`encode`] coded.
///
/// # Errors
/// [`Corrupt`] if the payload is not what an encoder writes.
pub fn decode(
    reader: &mut BitReader,
    n_classes: usize,
    by: By,
    values: &mut [f32],
    watch: impl Watch,
) -> Result<(), Corrupt> {
    let table = Table::read_from(reader)?;
    let values_of_places: Vec<f32> = table.numbers.into_iter().map(from_ordered).collect();
    let contexts = ContextDecoder::read_from(reader, N_BANDS, N_ALPHABETS, LEVELS)?;
    let (tables, [reader]) = Tables::read_from(reader, &alphabets(contexts.alphabets()), watch)?;
    let mut stream = contexts.stream(reader);
    let (mut places, mut above) = (Vec::with_capacity(n_classes), Vec::new());
    for row in values.chunks_exact_mut(n_classes) {
        for (class, value) in row.iter_mut().enumerate() {
            let context = by.context(class, n_classes, &places, &above);
            let place = contexts.number(context, &tables, &mut stream)?;
            *value = match place.checked_sub(1) {
                None => plain::read_bits(RAW, &tables, &mut stream.reader)?,
                Some(index) => *values_of_places
                    .get(index as usize)
                    .ok_or(Corrupt("a place is not in its table"))?,
            };
            places.push(place);
        }
        std::mem::swap(&mut places, &mut above);
        places.clear();
    }
    tables.finish(stream.reader)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_come_back() {
        let far = [i32::MIN, -1, 0, 1, i32::MAX].repeat(3);
        let many: Vec<i32> = (0..3000).map(|i| i * 7919 % 1500 * 100_003).collect();
        for numbers in [vec![], vec![5, 5], far, many] {
            let values: Vec<f32> = numbers.iter().map(|&number| from_ordered(number)).collect();
            let table = Table::of(&values);
            let mut writer = BitWriter::new();
            table.write_to(&mut writer);
            let bytes = writer.finish();
            let mut reader = BitReader::new(&bytes);
            assert_eq!(Table::read_from(&mut reader).unwrap(), table);
            reader.finish().unwrap();
            for n_bytes in 0..bytes.len().saturating_sub(1) {
                assert!(Table::read_from(&mut BitReader::new(&bytes[..n_bytes])).is_err());
            }
            let mut distinct = numbers.clone();
            distinct.sort_unstable();
            distinct.dedup();
            let places = table.places();
            assert!(places.iter().map(|&(number, _)| number).eq(distinct));
        }
    }

    #[test]
    fn the_commonest_values_have_the_first_places() {
        let values = [7.0, -0.0, 7.0, 0.5, 7.0, -0.0, 0.5, 0.5, 0.5, 3.0];
        let table = Table::of(&values);
        assert_eq!(table.numbers, [0.5, 7.0, -0.0].map(ordered));
        // Places 16 to 19 have one token.
        assert!((0..16).all(|index| !is_same_part(index)));
        assert!((16..19).all(is_same_part));
        assert!(!is_same_part(19));
    }

    #[test]
    fn values_that_come_again_are_likely_to() {
        let of = |n: u32| -> Vec<f32> { (0..8000).map(|i| (i % n) as f32).collect() };
        assert!(Table::is_likely(&of(3000)));
        assert!(!Table::is_likely(&of(4000)));
        assert!(!Table::is_likely(&[1.0]));
        assert!(!Table::is_likely(&[]));
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let read = |fields: &[(u32, u32)], gammas: &[u32]| {
            let mut writer = BitWriter::new();
            write_gamma(&mut writer, gammas[0]);
            for &(value, n_bits) in fields {
                writer.write(value, n_bits);
            }
            for &gamma in &gammas[1..] {
                write_gamma(&mut writer, gamma);
                writer.write(u32::MAX >> 1, 31);
            }
            writer.write(0, 32);
            Table::read_from(&mut BitReader::new(&writer.finish()))
        };
        let message = |result: Result<Table, Corrupt>| result.unwrap_err().0;
        assert!(message(read(&[], &[(1 << 16) + 2])).contains("too many"));
        // Sixteen values alone, one that starts a part, 31 low bits, and then too large a step.
        let starts = [(0, 32)].repeat(16);
        let fields = [&starts[..], &[(31, 5)]].concat();
        assert!(message(read(&fields, &[18, 1 << 20])).contains("ascend"));
    }
}
