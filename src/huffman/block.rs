//! One block: rows to payload and back (FORMAT.md, section 5).
//!
//! A payload begins with a bitstream: which model codes the rows and how, what that model needs, the codebooks
//! of its alphabets. Then come the symbols of the rows, in the same bitstream or in several. Nothing outside the
//! payload but the numbers of rows and classes, and of classes whose order is kept, is needed to decode it.

use rayon::prelude::*;

use super::bitstream::{BitReader, BitWriter, Coder};
use super::codebook::{self, Alphabet, Code, Codebook, entropy_bits, read_gamma, write_gamma};
use super::contexts::{Groups, Sequence};
use super::expected::{self, Levels};
use super::fineness;
use super::meter::{Meter, PayloadBits, Watch};
use super::minifloat::Minifloat;
use super::plain::{self, Multiples};
use super::predicted::{self, Numbers};
use super::predicted_beside::{Beside, Caution};
use super::promise::{Bound, Kind, Promise};
use super::quantizer::{F32_MARGIN, Roots, Step, Uniform};
use super::regression::{Columns, Regression};
use super::repeats::{self, Repeats};
use super::row_order;
use super::sphere::Sphere;
use super::tabled::{self, By, Table};
use super::tokens::{LEVELS, Token};
use super::{Corrupt, Error, ans, beside, expected_beside, predicted_beside, ranked};
use crate::matrix::{PredictionMatrix, Rows, range};

/// What the bits of a block, or of a frame, went to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BitCounts {
    /// Codebooks, and what else comes before the rows.
    pub codebooks: u64,
    /// Huffman codes, or refills of the state of rANS.
    pub codes: u64,
    /// Extra bits, and the rows stored exactly.
    pub raw: u64,
    /// Empirical entropy of the coded symbols, by alphabet and block: the least that `codes` could be, but
    /// for up to 16 bits that a first state of rANS holds.
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

/// A symbol of one of a model's alphabets and the raw bits that go with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol {
    alphabet: u16,
    n_extra_bits: u8,
    value: u32,
    extra: u32,
}

impl Symbol {
    /// A symbol without raw bits.
    pub fn new(alphabet: usize, value: u32) -> Self {
        Self::with_extra(
            alphabet,
            Token {
                value,
                extra: 0,
                n_extra_bits: 0,
            },
        )
    }

    /// A token as a symbol, with its extra bits.
    #[inline]
    pub fn with_extra(alphabet: usize, token: Token) -> Self {
        Self {
            alphabet: alphabet as u16,
            n_extra_bits: token.n_extra_bits as u8,
            value: token.value,
            extra: token.extra,
        }
    }

    /// A row bit for bit: each value is the only symbol of an alphabet, which costs nothing, and raw bits.
    pub fn of_bits(alphabet: usize, row: &[f32]) -> impl Iterator<Item = Self> {
        row.iter().map(move |value| {
            let bits = Token {
                value: 0,
                extra: value.to_bits(),
                n_extra_bits: 32,
            };
            Self::with_extra(alphabet, bits)
        })
    }

    /// The same symbol as one of another alphabet.
    pub fn of_alphabet(self, alphabet: usize) -> Self {
        Self {
            alphabet: alphabet as u16,
            ..self
        }
    }

    /// Which alphabet it is of.
    pub fn alphabet(&self) -> usize {
        self.alphabet.into()
    }

    /// The symbol within the alphabet.
    pub fn value(&self) -> u32 {
        self.value
    }

    /// The raw bits.
    pub fn extra(&self) -> u32 {
        self.extra
    }

    /// The number of raw bits.
    pub fn n_extra_bits(&self) -> u32 {
        self.n_extra_bits.into()
    }
}

/// Classes as symbols: the low bits of many classes stand outside, so that the alphabet stays small.
#[derive(Debug, Clone, Copy)]
pub struct ClassSymbols {
    n_classes: usize,
    n_raw_bits: u32,
}

impl ClassSymbols {
    /// The symbols of `n_classes`.
    pub fn new(n_classes: usize) -> Self {
        const MAX_BITS: u32 = 10;
        let n_bits = usize::BITS - (n_classes - 1).leading_zeros();
        Self {
            n_classes,
            n_raw_bits: n_bits.saturating_sub(MAX_BITS),
        }
    }

    /// Number of symbols.
    pub fn count(self) -> usize {
        ((self.n_classes - 1) >> self.n_raw_bits) + 1
    }

    /// The symbol of a class and its raw bits.
    pub fn token(self, class: usize) -> Token {
        Token {
            value: (class >> self.n_raw_bits) as u32,
            extra: class as u32 & ((1 << self.n_raw_bits) - 1),
            n_extra_bits: self.n_raw_bits,
        }
    }

    /// The class of a symbol, whose raw bits follow.
    ///
    /// # Errors
    /// [`Corrupt`] if the bitstream ends or there is no such class.
    #[inline]
    pub fn read(self, symbol: u32, reader: &mut BitReader) -> Result<usize, Corrupt> {
        let class = (symbol as usize) << self.n_raw_bits | reader.read(self.n_raw_bits)? as usize;
        match class < self.n_classes {
            true => Ok(class),
            false => Err(Corrupt("a top class does not exist")),
        }
    }
}

/// The top classes of rows as symbols, one row after another. If they are told after the row before, the first symbol
/// is the top class of that row, at first class 0, and the others come after it.
#[derive(Debug, Clone)]
pub struct TopClasses {
    classes: ClassSymbols,
    /// That of the row before, where it has a symbol.
    before: Option<usize>,
}

impl TopClasses {
    /// Those of rows of `n_classes`.
    pub fn new(n_classes: usize, are_after: bool) -> Self {
        Self {
            classes: ClassSymbols::new(n_classes),
            before: are_after.then_some(0),
        }
    }

    /// Number of classes.
    pub fn n_classes(&self) -> usize {
        self.classes.n_classes
    }

    /// Whether they are told after the row before.
    pub fn are_after(&self) -> bool {
        self.before.is_some()
    }

    /// Number of symbols.
    pub fn count(&self) -> usize {
        usize::from(self.before.is_some()) + self.classes.count()
    }

    /// The symbol of the next top class and its raw bits.
    pub fn token(&mut self, class: usize) -> Token {
        let mut token = self.classes.token(class);
        if let Some(before) = &mut self.before {
            if class == *before {
                return LEVELS.split(0);
            }
            *before = class;
            token.value += 1;
        }
        token
    }

    /// The next top class, of a symbol, whose raw bits follow.
    ///
    /// # Errors
    /// [`Corrupt`] as [`ClassSymbols::read`].
    #[inline]
    pub fn read(&mut self, symbol: u32, reader: &mut BitReader) -> Result<usize, Corrupt> {
        let Some(before) = &mut self.before else {
            return self.classes.read(symbol, reader);
        };
        if let Some(symbol) = symbol.checked_sub(1) {
            *before = self.classes.read(symbol, reader)?;
        }
        Ok(*before)
    }
}

/// How the rows of a block are coded, with what stands before the codebooks.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Model {
    Ranked(Uniform),
    Expected(Levels),
    Predicted(Numbers),
    Multiples(Multiples),
    Bits,
    Tabled(By),
    /// Beside the rows of a reference.
    ExpectedBeside(Levels),
    PredictedBeside(Numbers),
    /// With the top class of each row told after that of the row before.
    RankedAfter(Uniform),
    ExpectedAfter(Levels),
    /// Each row beside the one before.
    ExpectedBesideBefore(Levels),
    PredictedBesideBefore(Numbers, Caution),
}

impl Model {
    /// The same of rows that are beside no others, nor after them.
    fn alone(self) -> Self {
        match self {
            Self::RankedAfter(uniform) => Self::Ranked(uniform),
            Self::ExpectedAfter(levels)
            | Self::ExpectedBeside(levels)
            | Self::ExpectedBesideBefore(levels) => Self::Expected(levels),
            Self::PredictedBeside(numbers) | Self::PredictedBesideBefore(numbers, _) => {
                Self::Predicted(numbers)
            }
            _ => self,
        }
    }

    /// The same of rows whose top classes are told after that of the row before, if there is such a model.
    fn after(self) -> Option<Self> {
        match self {
            Self::Ranked(uniform) => Some(Self::RankedAfter(uniform)),
            Self::Expected(levels) => Some(Self::ExpectedAfter(levels)),
            _ => None,
        }
    }

    /// The same of rows that are each beside the one before, if there is such a model, with a caution if it has any.
    fn beside_before(self, caution: Caution) -> Option<Self> {
        match self {
            Self::Expected(levels @ Levels::Root { roots, .. }) if !roots.are_linear() => {
                Some(Self::ExpectedBesideBefore(levels))
            }
            Self::Expected(levels) => levels.beside().map(Self::ExpectedBesideBefore),
            Self::Predicted(numbers) => Some(Self::PredictedBesideBefore(numbers, caution)),
            _ => None,
        }
    }

    /// The model that this is the same of, if it is one [after](Self::after), or [beside](Self::beside_before), the row
    /// before.
    fn not_after(self) -> Option<Self> {
        match self {
            Self::RankedAfter(uniform) => Some(Self::Ranked(uniform)),
            Self::ExpectedAfter(levels) => Some(Self::Expected(levels)),
            Self::ExpectedBesideBefore(levels) => Some(Self::ExpectedBeside(levels)),
            Self::PredictedBesideBefore(numbers, _) => Some(Self::PredictedBeside(numbers)),
            _ => None,
        }
    }

    /// The same of rows beside those of a reference, if there is one.
    fn beside(self) -> Option<Self> {
        match self {
            Self::Expected(levels) => levels.beside().map(Self::ExpectedBeside),
            Self::Predicted(numbers) => Some(Self::PredictedBeside(numbers)),
            _ => None,
        }
    }

    /// Its number. Format-stable.
    fn id(self) -> u32 {
        if let Some(model) = self.not_after() {
            return AFTER + model.id();
        }
        match self {
            Self::Ranked(_) => 0,
            Self::Expected(Levels::Uniform(uniform)) if uniform.is_shares() => SHARES,
            Self::Expected(Levels::Uniform(uniform)) if uniform.is_floats() => EXPECTED_FLOATS,
            Self::Expected(Levels::Uniform(uniform)) if uniform.has_fine_tokens() => EXPECTED_FINE,
            Self::Expected(Levels::Uniform(_)) => 1,
            Self::Expected(Levels::Root { roots, .. }) => match roots {
                Roots::HALVING => 2,
                _ => EXPECTED_ROOTS + u32::from(roots.are_linear()),
            },
            Self::Expected(Levels::Sphere(sphere)) => {
                EXPECTED_SPHERE + u32::from(sphere.has_fine_tokens())
            }
            Self::Predicted(numbers) if numbers.is_minifloats() => {
                PREDICTED_MINIFLOATS + numbers.place()
            }
            Self::Predicted(numbers) => 3 + numbers.place(),
            Self::Multiples(_) => 6,
            Self::Bits => 7,
            Self::ExpectedBeside(Levels::Uniform(_)) => FIRST_BESIDE,
            Self::ExpectedBeside(_) => FIRST_BESIDE + 1,
            Self::PredictedBeside(numbers) if numbers.is_minifloats() => {
                MINIFLOATS_BESIDE + numbers.place()
            }
            Self::PredictedBeside(numbers) => FIRST_BESIDE + 2 + numbers.place(),
            Self::Tabled(by) => FIRST_TABLED + by as u32,
            _ => unreachable!("other models are after those before"),
        }
    }

    /// Writes the model and how its symbols are written, and the checksum of the rows of a reference that it tells
    /// rows against.
    fn write_to(
        self,
        coder: Coder,
        n_streams: usize,
        writer: &mut BitWriter,
        reference: Option<Rows<'_>>,
    ) {
        let id = self.id();
        writer.write(id, 6);
        writer.write((n_streams > 1).into(), 1);
        writer.write((coder == Coder::Ans).into(), 1);
        if let Some(reference) = reference.filter(|_| is_beside(id)) {
            writer.write(beside::checksum(reference), 32);
        }
        match self {
            Self::ExpectedBesideBefore(Levels::Root { roots, .. }) => {
                writer.write(roots.log_n_steps(), 2);
            }
            _ => self.not_after().unwrap_or(self).write_parameters_to(writer),
        }
        if let Self::PredictedBesideBefore(_, caution) = self {
            writer.write(caution.number(), 2);
        }
    }

    /// Writes the parameters of a model that is not after the row before.
    fn write_parameters_to(self, writer: &mut BitWriter) {
        match self {
            Self::Ranked(uniform)
            | Self::Expected(Levels::Uniform(uniform))
            | Self::ExpectedBeside(Levels::Uniform(uniform)) => {
                write_gamma(writer, uniform.n_levels());
                if uniform.is_floats() {
                    writer.write(uniform.n_mantissa_bits(), 5);
                }
            }
            Self::Expected(Levels::Sphere(sphere)) => write_gamma(writer, sphere.scale()),
            Self::Expected(Levels::Root { roots, .. }) if roots != Roots::HALVING => {
                writer.write(roots.log_n_steps(), 2);
            }
            Self::Predicted(numbers) | Self::PredictedBeside(numbers) => match numbers {
                Numbers::Steps(step) => write_step(writer, step),
                Numbers::OrderedBits(of) | Numbers::Bits(of) => {
                    if numbers.is_minifloats() {
                        write_step(writer, of.unit());
                        writer.write(of.n_mantissa_bits(), 5);
                    }
                }
            },
            Self::Multiples(multiples) => {
                write_step(writer, multiples.step);
                writer.write(multiples.least as u32, 32);
                writer.write(multiples.range, 32);
            }
            _ => {}
        }
    }

    /// Reads a model, one beside a reference only if there is one, and the number of bitstreams, and tells the reader
    /// the coder.
    fn read_from(
        reader: &mut BitReader,
        reference: Option<Rows<'_>>,
    ) -> Result<(Self, usize), Error> {
        let id = reader.read(6)?;
        let n_streams = match reader.read(1)? {
            0 => 1,
            _ => N_STREAMS,
        };
        if reader.read(1)? == 1 {
            reader.expect(Coder::Ans);
        }
        if n_streams > 1 && !may_have_streams(id) {
            return Err(Error::Corrupt(
                "a block has several bitstreams, which its model has not",
            ));
        }
        if let Some(reference) = reference.filter(|_| is_beside(id))
            && reader.read(32)? != beside::checksum(reference)
        {
            return Err(Error::WrongReference);
        }
        if id >= AFTER {
            let model = match id - AFTER {
                9 => {
                    let roots = Roots::of_steps(reader.read(2)?);
                    Self::ExpectedBesideBefore(Levels::of_roots(roots))
                }
                id => match Self::read_parameters_from(id, reader)? {
                    Self::ExpectedBeside(levels) => Self::ExpectedBesideBefore(levels),
                    Self::PredictedBeside(numbers) => {
                        let caution = Caution::from_number(reader.read(2)?);
                        Self::PredictedBesideBefore(numbers, caution)
                    }
                    alone => alone.after().ok_or(Corrupt(UNKNOWN_MODEL))?,
                },
            };
            return Ok((model, n_streams));
        }
        if is_beside(id) && reference.is_none() {
            return Err(Error::Corrupt(
                "a block is told against a reference that its frame does not name",
            ));
        }
        Ok((Self::read_parameters_from(id, reader)?, n_streams))
    }

    /// Reads the parameters of the model of this number, which is not after the row before.
    fn read_parameters_from(id: u32, reader: &mut BitReader) -> Result<Self, Error> {
        let uniform = |reader: &mut BitReader| Uniform::from_levels(read_gamma(reader)?);
        let model = match id {
            0 => Self::Ranked(uniform(reader)?),
            1 => Self::Expected(Levels::Uniform(uniform(reader)?)),
            2 => Self::Expected(Levels::of_roots(Roots::HALVING)),
            3 => Self::Predicted(Numbers::Steps(read_step(reader)?)),
            4 => Self::Predicted(Numbers::OrderedBits(Minifloat::F32)),
            5 => Self::Predicted(Numbers::Bits(Minifloat::F32)),
            6 => Self::Multiples(Multiples {
                step: read_step(reader)?,
                least: reader.read(32)? as i32,
                range: reader.read(32)?,
            }),
            7 => Self::Bits,
            PREDICTED_MINIFLOATS => Self::Predicted(Numbers::OrderedBits(read_minifloat(reader)?)),
            18 => Self::Predicted(Numbers::Bits(read_minifloat(reader)?)),
            EXPECTED_SPHERE => Self::Expected(Levels::Sphere(Sphere::new(read_gamma(reader)?)?)),
            23 => {
                let sphere = Sphere::new(read_gamma(reader)?)?.with_fine_tokens();
                Self::Expected(Levels::Sphere(sphere))
            }
            EXPECTED_FINE => Self::Expected(Levels::Uniform(uniform(reader)?.with_fine_tokens())),
            EXPECTED_ROOTS => Self::Expected(Levels::of_roots(Roots::of_steps(reader.read(2)?))),
            LAST_EXPECTED => {
                let roots = Roots::of_steps(reader.read(2)?).linear();
                Self::Expected(Levels::of_roots(roots))
            }
            EXPECTED_FLOATS => {
                let (n_levels, n_mantissa_bits) = (read_gamma(reader)?, reader.read(5)?);
                let floats = Uniform::floats(n_levels, n_mantissa_bits)?;
                Self::Expected(Levels::Uniform(floats))
            }
            SHARES => Self::Expected(Levels::Uniform(uniform(reader)?.into_shares()?)),
            FIRST_TABLED..=15 => Self::Tabled(By::ALL[(id - FIRST_TABLED) as usize]),
            id if !is_beside(id) => return Err(Error::Corrupt(UNKNOWN_MODEL)),
            FIRST_BESIDE => Self::ExpectedBeside(Levels::Uniform(uniform(reader)?)),
            9 => Self::ExpectedBeside(Levels::of_roots(Roots::HALVING)),
            10 => Self::PredictedBeside(Numbers::Steps(read_step(reader)?)),
            11 => Self::PredictedBeside(Numbers::OrderedBits(Minifloat::F32)),
            12 => Self::PredictedBeside(Numbers::Bits(Minifloat::F32)),
            MINIFLOATS_BESIDE => {
                Self::PredictedBeside(Numbers::OrderedBits(read_minifloat(reader)?))
            }
            _ => Self::PredictedBeside(Numbers::Bits(read_minifloat(reader)?)),
        };
        Ok(model)
    }
}

const UNKNOWN_MODEL: &str = "a block has an unknown model";

/// Rows that are decoded side by side stand in so many bitstreams. Format-stable.
pub(super) const N_STREAMS: usize = 8;

/// Of a block of so many values, time counts as well as bytes.
pub const LARGE: usize = 1 << 18;

/// How the rows of a block are coded.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Way {
    model: Model,
    coder: Coder,
    /// 1 or [`N_STREAMS`].
    n_streams: usize,
}

impl Way {
    /// With the number of bitstreams that suits rows of which a value is likely to take so many bytes.
    fn of(model: Model, coder: Coder, matrix: Rows<'_>, bytes_a_value: f64) -> Self {
        /// Of expected rows, runs of zeros end with each bitstream: up to 250 bytes were seen to be lost in a block.
        const MANY_BYTES: f64 = (1 << 16) as f64;
        let n_values = matrix.values().len();
        let is_worth_it = match model {
            Model::Expected(_) | Model::ExpectedAfter(_) => {
                bytes_a_value * n_values as f64 >= MANY_BYTES
            }
            Model::Predicted(_) => n_values >= LARGE,
            _ => false,
        };
        let n_streams = match is_worth_it && matrix.n_rows() >= 8 * N_STREAMS {
            true => N_STREAMS,
            false => 1,
        };
        Self {
            model,
            coder,
            n_streams,
        }
    }
}

/// What the first byte of a payload says beside the model: whether there are several bitstreams, and whether symbols
/// are coded with rANS. Format-stable.
const STREAMS: u8 = 0x40;
const ANS: u8 = 0x80;

/// The first version of the format that has the way in which a payload is coded.
pub fn first_version(payload: &[u8]) -> u8 {
    match payload.first() {
        Some(&first) if u32::from(model_id(first)) >= AFTER => 9,
        Some(&first) if u32::from(model_id(first)) >= REPEATED => 8,
        Some(&first) if u32::from(model_id(first)) >= EXPECTED_ROOTS => 7,
        Some(&first) if u32::from(model_id(first)) >= PREDICTED_MINIFLOATS => 6,
        Some(&first) if u32::from(model_id(first)) >= FIRST_TABLED => 5,
        Some(&first) if first & STREAMS != 0 && matches!(model_id(first), 1 | 2) => 4,
        Some(&first) if first & (STREAMS | ANS) != 0 => 3,
        _ => 1,
    }
}

/// About how many bytes the decoder of a payload takes beside those of the payload and of the values: what it learns
/// of many classes.
pub fn n_working_bytes(payload: &[u8], n_rows: usize, n_classes: usize) -> u64 {
    if let Ok(Some(repeated)) = Repeated::read_from(payload, n_rows) {
        let n_distinct = repeated.n_distinct as u64;
        let of_distinct = n_working_bytes(repeated.distinct, repeated.n_distinct, n_classes);
        return of_distinct + n_distinct * (4 * n_classes as u64 + repeats::N_WORKING_BYTES);
    }
    let first = payload.first().copied().unwrap_or_default();
    let n_streams = if first & STREAMS == 0 { 1 } else { N_STREAMS };
    match model_id(first).into() {
        id if may_have_streams(id) => Regression::n_bytes(n_classes, n_streams),
        id if is_beside(id % AFTER) => Columns::new(n_classes).n_bytes(),
        _ => 0,
    }
}

/// The number of the model that the first byte of a payload names.
fn model_id(first: u8) -> u8 {
    first & !(STREAMS | ANS)
}

/// The model, and the coder if it is not Huffman, that the first byte of a payload names (FORMAT.md, section 5); none
/// if that is nothing.
pub fn model_name(first: u8) -> Option<String> {
    const NAMES: [&str; 28] = [
        "ranked",
        "expected",
        "expected, root",
        "predicted, steps",
        "predicted, ordered bits",
        "predicted, bits as values",
        "plain, steps",
        "plain, bits",
        "expected beside a reference",
        "expected beside a reference, root",
        "predicted beside a reference, steps",
        "predicted beside a reference, ordered bits",
        "predicted beside a reference, bits as values",
        "of a table, by class",
        "of a table, by the value before",
        "of a table, by the row before",
        "expected, shares",
        "predicted, minifloats",
        "predicted, minifloats as values",
        "expected, floats",
        "predicted beside a reference, minifloats",
        "predicted beside a reference, minifloats as values",
        "expected, sphere",
        "expected, sphere, fine levels",
        "expected, fine levels",
        "expected, root, stated steps",
        "expected, root, stated steps, linear",
        "repeated rows",
    ];
    let id = u32::from(model_id(first));
    let base = id % AFTER;
    let mut name = NAMES.get(base as usize)?.to_string();
    if id >= AFTER {
        match base {
            _ if is_beside(base) => name = name.replace("a reference", "the row before"),
            0..=2 | SHARES | EXPECTED_FLOATS..=LAST_EXPECTED => name += ", after the row before",
            _ => return None,
        }
    }
    let coder = if first & ANS != 0 { ", rANS" } else { "" };
    Some(name + coder)
}

/// Whether the model of a payload codes all rows bit for bit.
pub fn is_of_bits(payload: &[u8]) -> bool {
    // The number of rows does not matter here.
    if let Ok(Some(repeated)) = Repeated::read_from(payload, usize::MAX) {
        return is_of_bits(repeated.distinct);
    }
    payload
        .first()
        .map(|&first| u32::from(model_id(first)) % AFTER)
        .is_some_and(|id| matches!(id, 4 | 5 | 7 | 11..=15 | 17..=18 | 20..=21))
}

/// The models beside a reference, but for those of minifloats. Format-stable.
const FIRST_BESIDE: u32 = 8;

/// Whether the model of this number is one beside a reference.
fn is_beside(id: u32) -> bool {
    matches!(id, FIRST_BESIDE..=12 | MINIFLOATS_BESIDE..=21)
}

/// Whether the model of this number may have several bitstreams: those of expected and of predicted rows, which learn a
/// [`Regression`].
fn may_have_streams(id: u32) -> bool {
    matches!(id % AFTER, 1..=5 | SHARES..=EXPECTED_FLOATS | EXPECTED_SPHERE..=LAST_EXPECTED)
}

/// The models of values of a table, by what their contexts are. Format-stable.
const FIRST_TABLED: u32 = 13;

/// The model of expected shares. Format-stable.
const SHARES: u32 = 16;

/// The models of minifloats, two of each, and that of expected floats. Format-stable.
const PREDICTED_MINIFLOATS: u32 = 17;
const EXPECTED_FLOATS: u32 = 19;
const MINIFLOATS_BESIDE: u32 = 20;

/// The models of levels on a sphere, the second of fine ones. Format-stable.
const EXPECTED_SPHERE: u32 = 22;

/// The model of uniform levels of which few occur. Format-stable.
const EXPECTED_FINE: u32 = 24;

/// The models of roots that state the steps of finenesses, the second of linear ones. Format-stable.
const EXPECTED_ROOTS: u32 = 25;
const LAST_EXPECTED: u32 = 26;

/// The model of rows that come again. Format-stable.
const REPEATED: u32 = 27;

/// Added to the number of a model: its rows are told after the row before each. Format-stable.
const AFTER: u32 = 32;

/// Whether a payload needs the rows of a reference.
pub fn needs_reference(payload: &[u8]) -> bool {
    payload
        .first()
        .is_some_and(|&first| is_beside(model_id(first).into()))
}

fn write_step(writer: &mut BitWriter, step: Step) {
    writer.write(step.to_bits() as u32, 32);
    writer.write((step.to_bits() >> 32) as u32, 32);
}

fn read_step(reader: &mut BitReader) -> Result<Step, Corrupt> {
    let [low, high] = [reader.read(32)?, reader.read(32)?].map(u64::from);
    Step::from_bits(high << 32 | low)
}

fn read_minifloat(reader: &mut BitReader) -> Result<Minifloat, Corrupt> {
    let minifloat = Minifloat::new(read_step(reader)?, reader.read(5)?)?;
    match minifloat.is_f32() {
        false => Ok(minifloat),
        true => Err(Corrupt("minifloats are those of another model")),
    }
}

/// What a model makes of the rows of a block.
pub struct Coded {
    /// The alphabets.
    pub alphabets: Vec<Alphabet>,
    /// The rows.
    pub rows: CodedRows,
}

/// What was chosen for a model, which is written before the codebooks, and the symbols of the rows.
pub enum CodedRows {
    /// Nothing was chosen.
    Plain(Vec<Symbol>),
    /// Ranked rows.
    Ranked(ranked::Parameters, Vec<Symbol>),
    /// Numbers in contexts, whose groups were chosen: a sequence for each bitstream.
    InContexts(Groups, Vec<Sequence>),
    /// The same, the numbers being places in a table.
    Tabled(Table, Groups, Vec<Sequence>),
}

impl CodedRows {
    fn write_choices_to(&self, writer: &mut BitWriter) {
        match self {
            Self::Plain(_) => {}
            Self::Ranked(parameters, _) => parameters.write_to(writer),
            Self::InContexts(groups, _) => groups.write_to(writer),
            Self::Tabled(table, groups, _) => {
                table.write_to(writer);
                groups.write_to(writer);
            }
        }
    }

    /// How often the symbols of all alphabets occur.
    fn frequencies(&self, alphabets: &[Alphabet]) -> Vec<Vec<u64>> {
        match self {
            Self::Plain(symbols) | Self::Ranked(_, symbols) => {
                // All in one list: where each begins.
                let mut first_of = Vec::with_capacity(alphabets.len());
                let mut n_all = 0;
                for alphabet in alphabets {
                    first_of.push(n_all);
                    n_all += alphabet.size;
                }
                let mut of_all = vec![0; n_all];
                for symbol in symbols {
                    of_all[first_of[symbol.alphabet()] + symbol.value as usize] += 1;
                }
                let of_alphabets = first_of.iter().zip(alphabets);
                of_alphabets
                    .map(|(&first, alphabet)| of_all[first..first + alphabet.size].to_vec())
                    .collect()
            }
            Self::InContexts(groups, sequences) | Self::Tabled(_, groups, sequences) => {
                groups.frequencies(sequences, alphabets)
            }
        }
    }

    /// The raw bits of all symbols, which occur so often.
    fn n_raw_bits(&self, alphabets: &[Alphabet], frequencies: &[Vec<u64>]) -> u64 {
        match self {
            Self::Plain(symbols) | Self::Ranked(_, symbols) => {
                symbols.iter().map(|s| u64::from(s.n_extra_bits)).sum()
            }
            Self::InContexts(groups, sequences) | Self::Tabled(_, groups, sequences) => {
                groups.n_raw_bits(sequences, alphabets, frequencies)
            }
        }
    }
}

/// A payload, and what its bits went to.
pub type Payload = (Vec<u8>, BitCounts);

/// What was chosen for large blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    of_all: Suiting,
    /// That of the distinct rows, if rows that come again are to be coded once.
    of_distinct: Option<Suiting>,
}

/// Which of the models that keep a promise suits some rows best, and which coder, and what a value took with these.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Suiting {
    model: Model,
    coder: Coder,
    bytes_a_value: f64,
}

impl Suiting {
    /// What such rows are likely to take.
    fn n_bytes(self, rows: Rows<'_>) -> f64 {
        self.bytes_a_value * rows.values().len() as f64
    }
}

/// Chooses the model for large blocks of rows, of which these are one, by trying all on some of the rows, beside
/// those of a reference if there is one, and the coder.
pub fn choose(rows: Rows<'_>, reference: Option<Rows<'_>>, promise: &Promise) -> Choice {
    let of_all = choose_model(rows, reference, promise);
    // Finding them takes about as long as coding peaked rows: at least half of them must come again.
    let are_many = |repeats: &Repeats| repeats.n_distinct() * 2 <= rows.n_rows();
    let of_distinct = Repeats::of(rows).filter(are_many).and_then(|repeats| {
        let values = repeats.distinct(rows);
        let distinct = Rows::new(rows.n_classes(), &values);
        let of_distinct = choose_model(distinct, None, promise);
        let n_bytes = of_distinct.n_bytes(distinct) + write_repeats(&repeats).0.len() as f64;
        (n_bytes < of_all.n_bytes(rows)).then_some(of_distinct)
    });
    Choice {
        of_all,
        of_distinct,
    }
}

/// The same of rows as they are, whether they come again or not.
fn choose_model(rows: Rows<'_>, reference: Option<Rows<'_>>, promise: &Promise) -> Suiting {
    let (sample, reference) = (sample(rows), reference.map(sample));
    let (sample, reference) = (
        sample.view(),
        reference.as_ref().map(PredictionMatrix::view),
    );
    let mut is_exact = vec![false; sample.n_rows()];
    let models = models(sample, reference, &mut is_exact, promise, Search::Large);
    encode_best(&models, sample, reference, &mut is_exact, promise, true).1
}

/// Rows that stand for a large block when its model is chosen, and how many of them follow each other.
const SAMPLE_ROWS: usize = 2048;
const STRETCH: usize = 256;

/// Some of many rows: stretches from all over them, as their order may say something.
fn sample(rows: Rows<'_>) -> PredictionMatrix {
    let n_classes = rows.n_classes();
    let n_spare = rows.n_rows().saturating_sub(SAMPLE_ROWS);
    let n_stretches = SAMPLE_ROWS / STRETCH;
    let mut values = Vec::with_capacity(SAMPLE_ROWS.min(rows.n_rows()) * n_classes);
    for stretch in 0..n_stretches {
        let first = stretch * STRETCH + n_spare * stretch / (n_stretches - 1);
        let [first, end] = [first, first + STRETCH].map(|row| row.min(rows.n_rows()) * n_classes);
        values.extend_from_slice(&rows.values()[first..end]);
    }
    PredictionMatrix::new(n_classes, values)
}

/// Whether a block is too large for trying all models on all of its rows.
pub fn is_large(rows: Rows<'_>) -> bool {
    rows.values().len() >= LARGE || rows.n_rows() > 2 * SAMPLE_ROWS
}

/// What models are looked for.
#[derive(Debug, Clone, Copy)]
enum Search {
    /// All that suit a small block.
    Small,
    /// All that suit a large one, of which these rows are a sample: time counts as well as bytes.
    Large,
    /// One that was chosen already, with the parameters that suit these rows.
    Like(Model),
}

impl Search {
    /// Whether one of the models of these numbers is looked for.
    fn wants(self, ids: &[u32]) -> bool {
        match self {
            Self::Small | Self::Large => true,
            Self::Like(model) => ids.contains(&model.alone().id()),
        }
    }
}

/// The models that keep a promise, in the order of their speed. Rows that no quantizer suits get marked.
fn models(
    matrix: Rows<'_>,
    reference: Option<Rows<'_>>,
    is_exact: &mut [bool],
    promise: &Promise,
    search: Search,
) -> Vec<Model> {
    let mut models = models_alone(matrix, is_exact, promise, search);
    let mut beside: Vec<Model> = models.iter().filter_map(|model| model.beside()).collect();
    let cautions = match search {
        Search::Small => &Caution::ALL[..],
        Search::Large => &Caution::OF_LARGE,
        Search::Like(Model::PredictedBesideBefore(_, caution)) => &[caution],
        Search::Like(_) => &Caution::ALL[..1],
    };
    let mut beside_before: Vec<Model> = models
        .iter()
        .flat_map(|model| cautions.iter().filter_map(|&of| model.beside_before(of)))
        .collect();
    // Those of expected rows have none.
    beside_before.dedup();
    let is_after = |is_worth_it: fn(Rows<'_>) -> bool| match search {
        Search::Like(model) => model.not_after().is_some(),
        Search::Small | Search::Large => is_worth_it(matrix),
    };
    let have_tops = models.iter().any(|model| model.after().is_some());
    if have_tops && is_after(row_order::has_runs_of_tops) {
        models = models
            .into_iter()
            .map(|model| model.after().unwrap_or(model))
            .collect();
    }
    if reference.is_none() {
        beside.clear();
    }
    models.extend(beside);
    if !beside_before.is_empty() && is_after(row_order::are_near) {
        models.extend(beside_before);
    }
    models
}

fn models_alone(
    matrix: Rows<'_>,
    is_exact: &mut [bool],
    promise: &Promise,
    search: Search,
) -> Vec<Model> {
    let mut models = Vec::new();
    match promise.bound {
        Bound::MaxError(max_error) if promise.kind == Kind::Probabilities => {
            let uniform = Uniform::new(max_error).expect("a promise that can be kept");
            // What sums of float32 may be off by, so that no other values are taken for fractions.
            let most = (max_error - F32_MARGIN).min(1e-6);
            let keeps = |value: f32, decoded: f32| f64::from((value - decoded).abs()) <= most;
            let coarser = Uniform::of_fractions(matrix.values(), uniform.n_levels(), keeps);
            let uniform = coarser.unwrap_or(uniform);
            models.extend(models_of_levels(uniform, matrix.n_classes()));
            // Where most are not 0, levels may follow each other as those of logits do.
            let least_live = uniform.least_live();
            let are_live = matrix.values().iter().filter(|&&value| value >= least_live);
            if matches!(search, Search::Like(_)) || 2 * are_live.count() >= matrix.values().len() {
                models.push(Model::Predicted(Numbers::Steps(uniform.step())));
            }
        }
        Bound::MaxError(max_error) => {
            let step = step(matrix, is_exact, max_error);
            models.push(Model::Multiples(Multiples::of(matrix, is_exact, step)));
            models.push(Model::Predicted(Numbers::Steps(step)));
            if search.wants(&[PREDICTED_MINIFLOATS, 18]) {
                let of_minifloats = models_of_minifloats(matrix.values(), search).into_iter();
                models.extend(of_minifloats.filter(|model| matches!(model, Model::Predicted(_))));
            }
        }
        Bound::MaxKl(max_kl) => {
            if search.wants(&[SHARES]) {
                let keeps = |value: f32, decoded: f32| (value - decoded).abs() <= 1e-6;
                let shares = Uniform::of_fractions(matrix.values(), Uniform::FEW, keeps)
                    .and_then(|uniform| uniform.into_shares().ok())
                    .filter(|&shares| are_kept(matrix, shares, promise));
                models.extend(shares.map(|shares| Model::Expected(Levels::Uniform(shares))));
            }
            let roots = match search {
                Search::Like(model) => match model.alone() {
                    Model::Expected(Levels::Root { roots, .. }) => vec![roots],
                    _ => vec![Roots::HALVING],
                },
                Search::Small | Search::Large => {
                    let is_large = matches!(search, Search::Large);
                    let roots = fineness::suiting(matrix, is_exact, max_kl, is_large);
                    match matrix.n_classes() >= MANY_CLASSES {
                        true => vec![roots, roots.linear()],
                        false => vec![roots],
                    }
                }
            };
            let of_roots = roots
                .into_iter()
                .map(|roots| Levels::Root { roots, max_kl });
            models.extend(of_roots.map(Model::Expected));
            // Of more classes, roots are as good.
            if matrix.n_classes() <= FEW_CLASSES && search.wants(&[EXPECTED_SPHERE, 23]) {
                let sphere = Sphere::of(matrix, is_exact, max_kl);
                let spheres = sphere.map(|sphere| [sphere, sphere.with_fine_tokens()]);
                let of_spheres = spheres.into_iter().flatten().map(Levels::Sphere);
                models.extend(of_spheres.map(Model::Expected));
            }
        }
        Bound::Exact => {
            models.push(Model::Bits);
            let mut of_bits = Vec::new();
            if search.wants(&[PREDICTED_MINIFLOATS, 18, EXPECTED_FLOATS]) {
                of_bits = models_of_minifloats(matrix.values(), search);
            }
            if of_bits.is_empty() {
                of_bits.extend(models_of_bits(Minifloat::F32));
            }
            models.extend(of_bits);
            if search.wants(&[FIRST_TABLED, 14, 15]) && Table::is_likely(matrix.values()) {
                models.extend(By::ALL.map(Model::Tabled));
            }
            let keeps = |value: f32, decoded: f32| value.to_bits() == decoded.to_bits();
            if search.wants(&[0, 1, EXPECTED_FINE])
                && let Some(uniform) = Uniform::of_fractions(matrix.values(), u32::MAX, keeps)
            {
                models.extend(models_of_levels(uniform, matrix.n_classes()));
            }
        }
    }
    models
}

/// Whether all rows come back from such levels as promised: of many classes, zeros take a little from the others.
fn are_kept(matrix: Rows<'_>, shares: Uniform, promise: &Promise) -> bool {
    let mut levels = vec![0; matrix.n_classes()];
    let mut decoded = vec![0.0; matrix.n_classes()];
    matrix.rows().all(|row| {
        for (level, &value) in levels.iter_mut().zip(row) {
            *level = shares.quantize(value);
        }
        shares.dequantize_row(&levels, &mut decoded);
        promise.measure(row, &decoded).is_some()
    })
}

/// The models of values of few bits, the last one only if they are probabilities; none if they have more bits.
fn models_of_minifloats(values: &[f32], search: Search) -> Vec<Model> {
    // What was chosen for other values is likely to keep these as well.
    if let Search::Like(model) = search {
        let keeps = match model.alone() {
            Model::Predicted(Numbers::OrderedBits(of) | Numbers::Bits(of)) => of.keep(values),
            Model::Expected(Levels::Uniform(floats)) => floats.keep(values),
            _ => false,
        };
        if keeps {
            return vec![model.alone()];
        }
    }
    let Some(minifloats) = Minifloat::of(values) else {
        return Vec::new();
    };
    let mut models = models_of_bits(minifloats).to_vec();
    let floats = Uniform::of_minifloats(minifloats, values);
    models.extend(floats.map(|floats| Model::Expected(Levels::Uniform(floats))));
    models
}

/// The models of all bits of such values.
fn models_of_bits(of: Minifloat) -> [Model; 2] {
    [Numbers::OrderedBits(of), Numbers::Bits(of)].map(Model::Predicted)
}

/// Of so few classes, other models may suit than of more.
const FEW_CLASSES: usize = 6;

/// Of so many classes, levels may be better expected as they are than by their logarithms.
const MANY_CLASSES: usize = 16;

/// The models of rows of such levels.
fn models_of_levels(uniform: Uniform, n_classes: usize) -> Vec<Model> {
    let mut models = vec![
        Model::Ranked(uniform),
        Model::Expected(Levels::Uniform(uniform)),
    ];
    if n_classes <= FEW_CLASSES {
        let fine = uniform.with_fine_tokens();
        models.push(Model::Expected(Levels::Uniform(fine)));
    }
    models
}

/// Encodes the rows of `matrix`, those marked in `is_exact` bit for bit, the others as the promise asks
/// for, beside those of a reference if there is one, with what was chosen, or else as takes the fewest bytes.
/// Rows that cannot be coded otherwise get marked.
///
/// The values must have been [checked](Promise::check), and whether the promise is kept must be
/// [measured](Promise::measure).
pub fn encode(
    matrix: Rows<'_>,
    reference: Option<Rows<'_>>,
    is_exact: &mut [bool],
    promise: &Promise,
    choice: Option<Choice>,
) -> Payload {
    let of_all = choice.map(|choice| choice.of_all);
    let repeated = match choice {
        _ if is_exact.contains(&true) => None,
        Some(Choice {
            of_distinct: None, ..
        }) => None,
        Some(choice) => encode_repeated(matrix, promise, choice.of_distinct),
        None => encode_repeated(matrix, promise, None),
    };
    let Some(repeated) = repeated else {
        return encode_all(matrix, reference, is_exact, promise, of_all);
    };
    // Of a large block, it is enough to know about what all rows would take.
    let n_bytes = repeated.0.len();
    if of_all.is_some_and(|suiting| n_bytes as f64 <= suiting.n_bytes(matrix)) {
        return repeated;
    }
    let mut marked = is_exact.to_vec();
    let payload = encode_all(matrix, reference, &mut marked, promise, of_all);
    if n_bytes < payload.0.len() {
        return repeated;
    }
    is_exact.copy_from_slice(&marked);
    payload
}

/// Encodes each distinct row once; `None` where too few rows come again, or some would be stored exactly.
fn encode_repeated(
    matrix: Rows<'_>,
    promise: &Promise,
    suiting: Option<Suiting>,
) -> Option<Payload> {
    let repeats = Repeats::of(matrix)?;
    let values = repeats.distinct(matrix);
    let distinct = Rows::new(matrix.n_classes(), &values);
    let mut is_exact = vec![false; distinct.n_rows()];
    let suiting = suiting.filter(|_| is_large(distinct));
    let (of_distinct, mut counts) = encode_all(distinct, None, &mut is_exact, promise, suiting);
    if is_exact.contains(&true) {
        return None;
    }
    let (of_rows, counts_of_rows) = write_repeats(&repeats);
    let payload = Repeated {
        n_distinct: repeats.n_distinct(),
        distinct: &of_distinct,
        rows: &of_rows,
    }
    .to_bytes();
    counts += counts_of_rows;
    counts.codebooks += 8 * (payload.len() - of_distinct.len() - of_rows.len()) as u64;
    Some((payload, counts))
}

/// Which distinct row each row is, as it stands in a payload.
fn write_repeats(repeats: &Repeats) -> Payload {
    write_rows(Coder::Huffman, 1, repeats.encode(), BitWriter::new())
}

/// The parts of a payload of [`REPEATED`] rows.
struct Repeated<'a> {
    n_distinct: usize,
    /// The payload of the distinct rows.
    distinct: &'a [u8],
    /// Which of these each row is.
    rows: &'a [u8],
}

impl<'a> Repeated<'a> {
    fn to_bytes(&self) -> Vec<u8> {
        let mut writer = BitWriter::new();
        writer.write(REPEATED, 8);
        write_gamma(&mut writer, self.n_distinct as u32);
        write_gamma(&mut writer, self.distinct.len() as u32 + 1);
        [&writer.finish(), self.distinct, self.rows].concat()
    }

    /// The parts of the payload of a block of so many rows, if it is such.
    fn read_from(payload: &'a [u8], n_rows: usize) -> Result<Option<Self>, Corrupt> {
        let is_repeated = |payload: &[u8]| {
            let first = payload.first().copied().unwrap_or_default();
            u32::from(model_id(first)) == REPEATED
        };
        if !is_repeated(payload) {
            return Ok(None);
        }
        let mut reader = BitReader::new(payload);
        if reader.read(8)? != REPEATED {
            return Err(Corrupt("repeated rows have several bitstreams, or rANS"));
        }
        let n_distinct = read_gamma(&mut reader)? as usize;
        let n_bytes = read_gamma(&mut reader)? as usize - 1;
        if n_distinct > n_rows {
            return Err(Corrupt("a block has more distinct rows than rows"));
        }
        let (distinct, rows) = reader
            .rest()?
            .split_at_checked(n_bytes)
            .ok_or(Corrupt("the distinct rows are longer than their block"))?;
        match is_repeated(distinct) {
            false => Ok(Some(Self {
                n_distinct,
                distinct,
                rows,
            })),
            true => Err(Corrupt("distinct rows come again")),
        }
    }

    /// Decodes all rows, and shows which distinct row each is to a watch.
    fn decode(
        &self,
        n_rows: usize,
        n_classes: usize,
        keep_top: usize,
        watch: impl Watch,
    ) -> Result<PredictionMatrix, Error> {
        let distinct = decode(self.distinct, self.n_distinct, n_classes, keep_top)?;
        let mut values = vec![0.0; n_rows * n_classes];
        let reader = BitReader::new(self.rows);
        repeats::decode(reader, distinct.view(), &mut values, watch)?;
        Ok(PredictionMatrix::new(n_classes, values))
    }
}

/// As [`encode`], with all rows as they come.
fn encode_all(
    matrix: Rows<'_>,
    reference: Option<Rows<'_>>,
    is_exact: &mut [bool],
    promise: &Promise,
    suiting: Option<Suiting>,
) -> Payload {
    let is_large = is_large(matrix);
    // What was chosen may be a model that the values of this block do not have.
    let way = |suiting: Suiting, is_exact: &mut [bool]| {
        let search = Search::Like(suiting.model);
        let models = models(matrix, reference, is_exact, promise, search);
        let mut models = models.into_iter();
        let model = models.find(|model| model.id() == suiting.model.id())?;
        Some(Way::of(model, suiting.coder, matrix, suiting.bytes_a_value))
    };
    let chosen = suiting.and_then(|suiting| {
        let way_chosen = way(suiting, is_exact);
        way_chosen.or_else(|| way(choose_model(matrix, reference, promise), is_exact))
    });
    let payload = match chosen {
        Some(way) => encode_with(way, matrix, reference, is_exact, promise.keep_top),
        None => {
            let search = match is_large {
                true => Search::Large,
                false => Search::Small,
            };
            let models = models(matrix, reference, is_exact, promise, search);
            encode_best(&models, matrix, reference, is_exact, promise, is_large).0
        }
    };
    // Where many rows are stored exactly, or any beside such as are predicted bit for bit, predicting the bits of all
    // costs less; where there are few values, it may.
    let n_exact = is_exact.iter().filter(|&&is_exact| is_exact).count();
    let are_many = n_exact * 8 > matrix.n_rows() || n_exact > 0 && is_of_bits(&payload.0);
    // Of a large block, only where numbers are not foreseen: most bits are extra ones.
    let may_be_few = !is_large || 2 * payload.1.raw > 8 * payload.0.len() as u64;
    let may_be_less = match promise.bound {
        Bound::MaxError(_) => are_many || may_be_few && has_few_values(matrix),
        Bound::MaxKl(_) => may_be_few && has_few_values(matrix) && are_distributions(matrix),
        Bound::Exact => false,
    };
    if !may_be_less {
        return payload;
    }
    let exact = Promise {
        bound: Bound::Exact,
        ..*promise
    };
    let mut none = vec![false; matrix.n_rows()];
    let mut suiting = suiting.filter(|_| is_of_bits(&payload.0));
    if is_large && !are_many {
        let of_bits = choose_model(matrix, reference, &exact);
        if of_bits.n_bytes(matrix) >= payload.0.len() as f64 {
            return payload;
        }
        suiting = Some(of_bits);
    }
    let of_bits = encode_all(matrix, reference, &mut none, &exact, suiting);
    if of_bits.0.len() >= payload.0.len() {
        return payload;
    }
    if !is_of_bits(&of_bits.0) {
        // Their levels are those of all rows, which the payload does not tell apart.
        is_exact.fill(false);
    }
    of_bits
}

/// Whether values are of few bits, or come again and again.
fn has_few_values(matrix: Rows<'_>) -> bool {
    Table::is_likely(matrix.values()) || Minifloat::of(matrix.values()).is_some()
}

/// Whether rows sum to 1 within float32, and have no zeros, as those decoded from roots.
fn are_distributions(matrix: Rows<'_>) -> bool {
    let is_off = |row: &[f32]| {
        let sum: f64 = row.iter().map(|&value| f64::from(value)).sum();
        (sum - 1.0).abs() > f64::from(f32::EPSILON)
    };
    !matrix.rows().any(|row| row.contains(&0.0) || is_off(row))
}

/// Encodes with all models, on as many threads, and takes the smallest payload; of probabilities, a slower
/// model must be worth its time, and rANS must always be, more so if the block, or what it is a sample of, `is_large`.
fn encode_best(
    models: &[Model],
    matrix: Rows<'_>,
    reference: Option<Rows<'_>>,
    is_exact: &mut [bool],
    promise: &Promise,
    is_large: bool,
) -> (Payload, Suiting) {
    let encode = |model: Model, coder: Coder| {
        let mut marked = is_exact.to_vec();
        // How many bytes it takes is not known yet.
        let way = Way::of(model, coder, matrix, 0.0);
        let payload = encode_with(way, matrix, reference, &mut marked, promise.keep_top);
        Tried {
            suiting: Suiting {
                model,
                coder,
                bytes_a_value: payload.0.len() as f64 / matrix.values().len() as f64,
            },
            payload,
            marked,
        }
    };
    let with_huffman: Vec<Tried> = models
        .par_iter()
        .map(|&model| encode(model, Coder::Huffman))
        .collect();
    let least = with_huffman
        .iter()
        .map(Tried::n_bytes)
        .fold(f64::MAX, f64::min);
    // With rANS those that may be worth their time, and be chosen.
    let least_share = if is_large { 0.99 } else { 0.995 };
    let tried: Vec<Tried> = with_huffman
        .into_par_iter()
        .map(|with_huffman| {
            let most = least_share * with_huffman.n_bytes();
            if with_huffman.n_bytes_of_ans() >= most.min(least / LEAST_SHARE_OF_SLOW) {
                return with_huffman;
            }
            let with_ans = encode(with_huffman.suiting.model, Coder::Ans);
            match with_ans.n_bytes() < most {
                true => with_ans,
                false => with_huffman,
            }
        })
        .collect();
    let better = |best: Tried, other: Tried| {
        let is_fast = matches!(best.suiting.model, Model::Ranked(_) | Model::RankedAfter(_))
            && (is_large || best.suiting.coder == Coder::Huffman);
        let most = match other.suiting.model {
            Model::Expected(_)
            | Model::ExpectedAfter(_)
            | Model::Predicted(_)
            | Model::ExpectedBesideBefore(_)
            | Model::PredictedBesideBefore(..)
                if is_fast =>
            {
                LEAST_SHARE_OF_SLOW
            }
            Model::PredictedBesideBefore(..)
                if matches!(best.suiting.model, Model::PredictedBesideBefore(..)) =>
            {
                1.0
            }
            Model::ExpectedBesideBefore(_) | Model::PredictedBesideBefore(..) if is_large => 0.97,
            Model::ExpectedBeside(_)
            | Model::PredictedBeside(_)
            | Model::ExpectedBesideBefore(_)
            | Model::PredictedBesideBefore(..) => 0.99,
            _ => 1.0,
        };
        match other.n_bytes() < most * best.n_bytes() {
            true => other,
            false => best,
        }
    };
    let best = tried.into_iter().reduce(better).expect("a model");
    is_exact.copy_from_slice(&best.marked);
    (best.payload, best.suiting)
}

/// Beside ranked rows, what is slower must take less than this.
const LEAST_SHARE_OF_SLOW: f64 = 0.95;

/// What a model and a coder made of some rows.
struct Tried {
    suiting: Suiting,
    payload: Payload,
    /// The rows stored exactly.
    marked: Vec<bool>,
}

impl Tried {
    fn n_bytes(&self) -> f64 {
        self.payload.0.len() as f64
    }

    /// About the least that it may be with rANS.
    fn n_bytes_of_ans(&self) -> f64 {
        let counts = self.payload.1;
        self.n_bytes() - (counts.codes as f64 - counts.entropy) / 8.0
    }
}

/// The step for the rows not marked; rows too large for any get marked.
fn step(matrix: Rows<'_>, is_exact: &mut [bool], max_error: f64) -> Step {
    let mut largest = 0.0f32;
    for (row, is_exact) in matrix.rows().zip(is_exact) {
        let (smallest_of_row, largest_of_row) = range(row);
        let largest_of_row = largest_of_row.abs().max(smallest_of_row.abs());
        match Step::new(max_error, largest_of_row) {
            Some(_) if !*is_exact => largest = largest.max(largest_of_row),
            Some(_) => {}
            None => *is_exact = true,
        }
    }
    // Bounds below the smallest float leave no row.
    Step::new(max_error, largest).unwrap_or(Step::FINEST)
}

fn encode_with(
    way: Way,
    matrix: Rows<'_>,
    reference: Option<Rows<'_>>,
    is_exact: &mut [bool],
    keep_top: usize,
) -> Payload {
    let Way {
        model,
        coder,
        n_streams,
    } = way;
    let coded = pulp::Arch::new().dispatch(Coding {
        way,
        matrix,
        reference,
        is_exact,
        keep_top,
    });
    let mut writer = BitWriter::new();
    model.write_to(coder, n_streams, &mut writer, reference);
    write_rows(coder, n_streams, coded, writer)
}

/// Writes rows to what has been written of a payload, with what was chosen for them and the codebooks.
fn write_rows(coder: Coder, n_streams: usize, coded: Coded, mut writer: BitWriter) -> Payload {
    let Coded { alphabets, rows } = coded;
    let frequencies = rows.frequencies(&alphabets);
    rows.write_choices_to(&mut writer);
    let codebooks = Codebooks::from_frequencies(coder, &alphabets, &frequencies);
    codebooks.write_to(&mut writer);
    let (payload, n_bits_before, n_row_bits) = if n_streams == 1 {
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
        // The last one takes what is left.
        for stream in &streams[..n_streams - 1] {
            write_gamma(&mut writer, stream.len() as u32 + 1);
        }
        let mut payload = writer.finish();
        let n_bits_before = 8 * payload.len() as u64;
        payload.reserve_exact(streams.iter().map(Vec::len).sum());
        for stream in &streams {
            payload.extend_from_slice(stream);
        }
        (payload, n_bits_before, n_row_bits)
    };
    let n_state_bits = match coder {
        Coder::Huffman => 0,
        Coder::Ans => n_streams as u64 * u64::from(u32::BITS),
    };
    let n_raw_bits = rows.n_raw_bits(&alphabets, &frequencies);
    let counts = BitCounts {
        codebooks: n_bits_before + n_state_bits,
        codes: n_row_bits - n_state_bits - n_raw_bits,
        raw: n_raw_bits,
        entropy: frequencies.iter().map(|f| entropy_bits(f)).sum(),
    };
    (payload, counts)
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
    /// Those of alphabets whose symbols occur so often.
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

    /// Writes the symbols of a bitstream, each with its raw bits.
    fn write_symbols(&self, rows: &CodedRows, stream: usize, writer: &mut BitWriter) {
        match (self, rows) {
            (
                Self::Huffman { codes, .. },
                CodedRows::Plain(symbols) | CodedRows::Ranked(_, symbols),
            ) => {
                for symbol in symbols {
                    codes[symbol.alphabet()][symbol.value as usize].write_to(
                        writer,
                        symbol.extra,
                        symbol.n_extra_bits(),
                    );
                }
            }
            (
                Self::Huffman { codes, .. },
                CodedRows::InContexts(groups, sequences) | CodedRows::Tabled(_, groups, sequences),
            ) => {
                groups.write_symbols(&sequences[stream], stream, codes, writer);
            }
            (Self::Ans(codebooks), CodedRows::Plain(symbols) | CodedRows::Ranked(_, symbols)) => {
                codebooks.write_symbols(symbols, writer)
            }
            (
                Self::Ans(codebooks),
                CodedRows::InContexts(groups, sequences) | CodedRows::Tabled(_, groups, sequences),
            ) => {
                codebooks.write_symbols(&groups.symbols(&sequences[stream], stream), writer);
            }
        }
    }
}

/// Decodes a payload of `n_rows` rows of `n_classes`, the order of whose first `keep_top` is kept.
///
/// # Errors
/// [`Corrupt`] if the payload is not what [`encode`] writes for these numbers.
pub fn decode(
    payload: &[u8],
    n_rows: usize,
    n_classes: usize,
    keep_top: usize,
) -> Result<PredictionMatrix, Error> {
    decode_beside(payload, n_rows, n_classes, None, keep_top)
}

/// As [`decode`], with the rows of a reference beside those that were coded.
///
/// # Errors
/// As [`decode`], and [`Error::WrongReference`] if they are not those that the rows were told against.
///
/// # Panics
/// If there are others than so many rows of `n_classes`.
pub fn decode_beside(
    payload: &[u8],
    n_rows: usize,
    n_classes: usize,
    reference: Option<Rows<'_>>,
    keep_top: usize,
) -> Result<PredictionMatrix, Error> {
    decode_watched(payload, n_rows, n_classes, reference, keep_top, ())
}

/// Decodes a payload as [`decode_beside`] does, and counts where its bits went.
///
/// # Errors
/// As [`decode_beside`].
pub fn measure(
    payload: &[u8],
    n_rows: usize,
    n_classes: usize,
    reference: Option<Rows<'_>>,
    keep_top: usize,
) -> Result<PayloadBits, Error> {
    let Some(repeated) = Repeated::read_from(payload, n_rows)? else {
        let meter = Meter::new(payload.len());
        decode_watched(payload, n_rows, n_classes, reference, keep_top, &meter)?;
        return Ok(meter.finish());
    };
    let Repeated {
        n_distinct,
        distinct,
        rows,
    } = repeated;
    let mut bits = measure(distinct, n_distinct, n_classes, None, keep_top)?;
    let meter = Meter::new(rows.len());
    repeated.decode(n_rows, n_classes, keep_top, &meter)?;
    bits += meter.finish();
    bits.codebooks += 8 * (payload.len() - distinct.len() - rows.len()) as u64;
    Ok(bits)
}

fn decode_watched(
    payload: &[u8],
    n_rows: usize,
    n_classes: usize,
    reference: Option<Rows<'_>>,
    keep_top: usize,
    watch: impl Watch,
) -> Result<PredictionMatrix, Error> {
    if let Some(reference) = reference {
        assert_eq!(
            (reference.n_rows(), reference.n_classes()),
            (n_rows, n_classes)
        );
    }
    if let Some(repeated) = Repeated::read_from(payload, n_rows)? {
        return repeated.decode(n_rows, n_classes, keep_top, watch);
    }
    let mut reader = BitReader::new(payload);
    let (model, n_streams) = Model::read_from(&mut reader, reference)?;
    let mut values = vec![0.0; n_rows * n_classes];
    pulp::Arch::new().dispatch(Decoding {
        model,
        n_streams,
        reference,
        reader: &mut reader,
        n_classes,
        keep_top,
        rows: &mut values,
        watch,
    })?;
    Ok(PredictionMatrix::new(n_classes, values))
}

/// Coding and decoding with the vector instructions of this machine. These compute as the others do: nothing
/// is fused or reordered.
struct Coding<'a> {
    way: Way,
    matrix: Rows<'a>,
    reference: Option<Rows<'a>>,
    is_exact: &'a mut [bool],
    keep_top: usize,
}

impl pulp::WithSimd for Coding<'_> {
    type Output = Coded;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> Coded {
        let (matrix, is_exact, keep_top) = (self.matrix, self.is_exact, self.keep_top);
        let Way {
            model,
            coder,
            n_streams,
        } = self.way;
        let is_after = model.not_after().is_some();
        match model {
            Model::Ranked(uniform) | Model::RankedAfter(uniform) => {
                let tops = TopClasses::new(matrix.n_classes(), is_after);
                ranked::encode(matrix, is_exact, uniform, tops, keep_top)
            }
            Model::Expected(levels) | Model::ExpectedAfter(levels) => {
                let tops = TopClasses::new(matrix.n_classes(), is_after);
                // Where others are expected after each row, rows cannot be walked side by side.
                let are_alone = is_after || matrix.n_rows() < 8 * N_STREAMS;
                match are_alone && n_streams == 1 {
                    true => {
                        expected::encode::<1>(matrix, is_exact, levels, tops, keep_top, coder, 1)
                    }
                    false => expected::encode::<N_STREAMS>(
                        matrix, is_exact, levels, tops, keep_top, coder, n_streams,
                    ),
                }
            }
            Model::Predicted(numbers) => match n_streams {
                1 => predicted::encode::<1>(matrix, is_exact, numbers, keep_top, coder),
                _ => predicted::encode::<N_STREAMS>(matrix, is_exact, numbers, keep_top, coder),
            },
            Model::Multiples(multiples) => multiples.encode(matrix, is_exact, keep_top),
            Model::Bits => plain::encode_bits(matrix),
            Model::Tabled(by) => tabled::encode(matrix, by, coder),
            Model::ExpectedBeside(levels) => {
                let reference = Some(self.reference.expect(NO_REFERENCE));
                expected_beside::encode(matrix, reference, is_exact, levels, keep_top, coder)
            }
            Model::ExpectedBesideBefore(levels) => {
                expected_beside::encode(matrix, None, is_exact, levels, keep_top, coder)
            }
            Model::PredictedBeside(numbers) => {
                let beside = Beside::Reference(self.reference.expect(NO_REFERENCE));
                predicted_beside::encode(matrix, beside, is_exact, numbers, keep_top, coder)
            }
            Model::PredictedBesideBefore(numbers, caution) => {
                let beside = Beside::RowBefore(caution);
                predicted_beside::encode(matrix, beside, is_exact, numbers, keep_top, coder)
            }
        }
    }
}

/// A model beside a reference is chosen, or read, only where there is one.
const NO_REFERENCE: &str = "a reference";

struct Decoding<'a, 'b, W> {
    model: Model,
    n_streams: usize,
    reference: Option<Rows<'a>>,
    reader: &'a mut BitReader<'b>,
    n_classes: usize,
    keep_top: usize,
    rows: &'a mut [f32],
    watch: W,
}

impl<W: Watch> pulp::WithSimd for Decoding<'_, '_, W> {
    type Output = Result<(), Corrupt>;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> Self::Output {
        let (reader, n_classes, keep_top) = (self.reader, self.n_classes, self.keep_top);
        let watch = self.watch;
        let is_after = self.model.not_after().is_some();
        match self.model {
            Model::Ranked(uniform) | Model::RankedAfter(uniform) => {
                let tops = TopClasses::new(n_classes, is_after);
                ranked::decode(reader, tops, uniform, keep_top, self.rows, watch)
            }
            Model::Expected(levels) | Model::ExpectedAfter(levels) => {
                let tops = TopClasses::new(n_classes, is_after);
                let rows = self.rows;
                match self.n_streams {
                    1 => expected::decode::<1>(reader, tops, levels, keep_top, rows, watch),
                    _ => expected::decode::<N_STREAMS>(reader, tops, levels, keep_top, rows, watch),
                }
            }
            Model::Predicted(numbers) => {
                let rows = self.rows;
                match self.n_streams {
                    1 => predicted::decode::<1>(reader, n_classes, numbers, keep_top, rows, watch),
                    _ => predicted::decode::<N_STREAMS>(
                        reader, n_classes, numbers, keep_top, rows, watch,
                    ),
                }
            }
            Model::Multiples(multiples) => {
                multiples.decode(reader, n_classes, keep_top, self.rows, watch)
            }
            Model::Bits => plain::decode_bits(reader, self.rows, watch),
            Model::Tabled(by) => tabled::decode(reader, self.n_classes, by, self.rows, watch),
            Model::ExpectedBeside(levels) => {
                let (rows, reference) = (self.rows, Some(self.reference.expect(NO_REFERENCE)));
                expected_beside::decode(reader, n_classes, reference, levels, keep_top, rows, watch)
            }
            Model::ExpectedBesideBefore(levels) => {
                expected_beside::decode(reader, n_classes, None, levels, keep_top, self.rows, watch)
            }
            Model::PredictedBeside(numbers) => {
                let beside = Beside::Reference(self.reference.expect(NO_REFERENCE));
                predicted_beside::decode(
                    reader, n_classes, beside, numbers, keep_top, self.rows, watch,
                )
            }
            Model::PredictedBesideBefore(numbers, caution) => {
                let beside = Beside::RowBefore(caution);
                predicted_beside::decode(
                    reader, n_classes, beside, numbers, keep_top, self.rows, watch,
                )
            }
        }
    }
}

/// The bitstreams of rows that follow codebooks: one is all that is left, the lengths of several come first.
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

/// The decode tables of a block's alphabets, and what watches their symbols.
#[derive(Debug)]
pub struct Tables<W = ()> {
    /// None if the coder is rANS.
    huffman: Vec<codebook::DecodeTable>,
    /// None if it is Huffman.
    ans: Vec<ans::DecodeTable>,
    watch: W,
}

impl<W: Watch> Tables<W> {
    /// Reads the codebooks of these alphabets; also returns the `N` bitstreams of the rows, which are all that is left.
    ///
    /// # Errors
    /// [`Corrupt`] as [`codebook::DecodeTable::read_from`] and [`ans::DecodeTable::read_all`], and for bitstreams that
    /// are not there.
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

    /// Decodes what a symbol of an alphabet and its extra bits stand for.
    ///
    /// # Errors
    /// [`Corrupt`] as [`codebook::DecodeTable::decode`].
    #[inline(always)]
    pub fn number(&self, alphabet: usize, reader: &mut BitReader) -> Result<u32, Corrupt> {
        Ok(self.number_or_run(alphabet, reader)?.0)
    }

    /// The same of an alphabet that has runs; also returns what ends the run if it is one, as
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
                self.watch
                    .symbol(alphabet, reader, |reader| table.upcoming(reader));
                table.decode(reader)
            }
            None => self.number_or_run_of_ans(alphabet, reader),
        }
    }

    /// The same of rANS; not where it would take registers from the usual coder.
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

    /// Reads what [`Symbol::of_bits`] made of a row.
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
    use proptest::prelude::*;

    use super::*;

    /// Those of probabilities.
    fn multiples(step: Step) -> Multiples {
        Multiples {
            step,
            least: 0,
            range: step.quantize(1.0).unwrap() as u32,
        }
    }

    const EXACT_MODELS: [Model; 6] = [
        Model::Bits,
        Model::Predicted(Numbers::OrderedBits(Minifloat::F32)),
        Model::Predicted(Numbers::Bits(Minifloat::F32)),
        Model::Tabled(By::Class),
        Model::Tabled(By::Before),
        Model::Tabled(By::Above),
    ];
    const EVERY_ROW: [bool; 1000] = [false; 1000];

    fn uniform_models(max_error: f64) -> [Model; 2] {
        let uniform = Uniform::new(max_error).unwrap();
        [
            Model::Ranked(uniform),
            Model::Expected(Levels::Uniform(uniform)),
        ]
    }

    /// A model of every kind.
    fn every_model() -> Vec<Model> {
        let alone = every_model_alone();
        let after = alone.iter().flat_map(|&model| after(model));
        alone.iter().copied().chain(after).collect()
    }

    /// The same of rows after the row before.
    fn after(model: Model) -> impl Iterator<Item = Model> {
        let beside = Caution::ALL
            .into_iter()
            .filter_map(move |of| model.beside_before(of));
        model.after().into_iter().chain(beside)
    }

    fn every_model_alone() -> [Model; 20] {
        let [ranked, expected] = uniform_models(0.002);
        let step = Step::new(0.002, 1.0).unwrap();
        let [as_such, as_values] = models_of_bits(float16());
        let roots = |roots| {
            let max_kl = 1e-3;
            Model::Expected(Levels::Root { roots, max_kl })
        };
        [
            ranked,
            expected,
            roots(Roots::HALVING),
            roots(Roots::of_steps(2)),
            roots(Roots::of_steps(3).linear()),
            Model::Predicted(Numbers::Steps(step)),
            Model::Multiples(multiples(step)),
            Model::Bits,
            Model::Predicted(Numbers::OrderedBits(Minifloat::F32)),
            Model::Predicted(Numbers::Bits(Minifloat::F32)),
            Model::Tabled(By::Class),
            Model::Tabled(By::Before),
            Model::Tabled(By::Above),
            Model::Expected(Levels::Uniform(
                Uniform::from_levels(255).unwrap().into_shares().unwrap(),
            )),
            as_such,
            as_values,
            Model::Expected(Levels::Uniform(Uniform::floats(1 << 24, 10).unwrap())),
            Model::Expected(Levels::Sphere(Sphere::new(54).unwrap())),
            Model::Expected(Levels::Sphere(Sphere::new(170).unwrap().with_fine_tokens())),
            Model::Expected(Levels::Uniform(
                Uniform::new(0.002).unwrap().with_fine_tokens(),
            )),
        ]
    }

    fn float16() -> Minifloat {
        let unit = (1.0 / (1 << 24) as f64).to_bits();
        Minifloat::new(Step::from_bits(unit).unwrap(), 10).unwrap()
    }

    /// Each of them in each way.
    fn every_way() -> impl Iterator<Item = Way> {
        every_model().into_iter().flat_map(ways)
    }

    /// All ways with a model.
    fn ways(model: Model) -> impl Iterator<Item = Way> {
        let n_streams: &[usize] = match model {
            Model::Expected(_) | Model::ExpectedAfter(_) | Model::Predicted(_) => &[1, N_STREAMS],
            _ => &[1],
        };
        let coders = [Coder::Huffman, Coder::Ans].into_iter();
        coders.flat_map(move |coder| {
            n_streams.iter().map(move |&n_streams| Way {
                model,
                coder,
                n_streams,
            })
        })
    }

    fn promise(bound: Bound, keep_top: usize) -> Promise {
        Promise {
            keep_top,
            ..Promise::new(Kind::Probabilities, bound)
        }
    }

    /// References for rows: the same, others, and such as nobody would take.
    fn references(matrix: &PredictionMatrix) -> [PredictionMatrix; 3] {
        let values = matrix.values();
        let bits = (0..values.len() as u32).map(|i| f32::from_bits(i.wrapping_mul(0x9E37_79B1)));
        [
            values.to_vec(),
            values.iter().rev().copied().collect(),
            bits.collect(),
        ]
        .map(|values| PredictionMatrix::new(matrix.n_classes(), values))
    }

    fn assert_kept(model: Model, matrix: &PredictionMatrix, promise: &Promise) {
        for way in std::iter::once(model).chain(after(model)).flat_map(ways) {
            assert_kept_beside(way, matrix, None, promise);
        }
        for way in model.beside().into_iter().flat_map(ways) {
            for reference in references(matrix) {
                assert_kept_beside(way, matrix, Some(reference.view()), promise);
            }
        }
    }

    fn assert_kept_beside(
        way: Way,
        matrix: &PredictionMatrix,
        reference: Option<Rows<'_>>,
        promise: &Promise,
    ) {
        let (n_rows, n_classes, keep_top) = (matrix.n_rows(), matrix.n_classes(), promise.keep_top);
        let mut is_exact = vec![false; n_rows];
        let (payload, counts) = encode_with(way, matrix.view(), reference, &mut is_exact, keep_top);
        assert_eq!(needs_reference(&payload), reference.is_some());
        let version = match way.model {
            model if model.not_after().is_some() => 9,
            Model::Predicted(of) | Model::PredictedBeside(of) if of.is_minifloats() => 6,
            Model::Expected(Levels::Uniform(uniform))
                if uniform.is_floats() || uniform.has_fine_tokens() =>
            {
                6
            }
            Model::Expected(Levels::Sphere(_)) => 6,
            Model::Expected(Levels::Root { roots, .. }) if roots != Roots::HALVING => 7,
            Model::Tabled(_) => 5,
            Model::Expected(Levels::Uniform(uniform)) if uniform.is_shares() => 5,
            Model::Expected(_) if way.n_streams > 1 => 4,
            _ if way.coder == Coder::Ans || way.n_streams > 1 => 3,
            _ => 1,
        };
        assert_eq!(first_version(&payload), version);
        let n_streams = way.n_streams as u64;
        let spent = counts.codebooks + counts.codes + counts.raw;
        // Each bitstream but the last ends with padding.
        assert!(payload.len() as u64 >= spent.div_ceil(8));
        assert!(payload.len() as u64 <= (spent + 7 * (n_streams - 1)).div_ceil(8));
        // The first state of rANS holds up to 16 bits of symbols, and where states are rounded to shares, some
        // sequences take a little less than their entropy.
        let least = match way.coder {
            Coder::Huffman => counts.entropy - 1e-6 * (1.0 + counts.entropy),
            Coder::Ans => 0.94 * counts.entropy - 16.0 * way.n_streams as f64,
        };
        assert!(counts.codes as f64 >= least, "{counts:?}");
        let found = measure(&payload, n_rows, n_classes, reference, keep_top).unwrap();
        let rows = found.of_rows();
        let found_counts = [found.codebooks, rows.codes, rows.raw];
        assert_eq!(found_counts, [counts.codebooks, counts.codes, counts.raw]);
        assert_eq!(spent + found.padding, 8 * payload.len() as u64);
        assert!((found.entropy - counts.entropy).abs() <= 1e-9 * (1.0 + counts.entropy));
        let decoded = decode_beside(&payload, n_rows, n_classes, reference, keep_top).unwrap();
        for (original, decoded) in matrix.rows().zip(decoded.rows()) {
            assert!(
                promise.measure(original, decoded).is_some(),
                "{promise:?} {way:?}: {original:?} {decoded:?}"
            );
        }
    }

    /// Whether all models keep their promises of probabilities.
    fn assert_all_kept(matrix: &PredictionMatrix, max_error: f64, keep_top: usize) {
        for model in uniform_models(max_error) {
            assert_kept(
                model,
                matrix,
                &promise(Bound::MaxError(max_error), keep_top),
            );
        }
        if let Some(step) = Step::new(max_error, 1.0) {
            for model in [
                Model::Predicted(Numbers::Steps(step)),
                Model::Multiples(multiples(step)),
            ] {
                let promise = promise(Bound::MaxError(max_error), keep_top);
                assert_kept(model, matrix, &promise);
            }
        }
        for model in EXACT_MODELS {
            assert_kept(model, matrix, &promise(Bound::Exact, 1));
        }
    }

    #[test]
    fn top_classes_are_told_after_the_row_before() {
        let tops = [0, 0, 3, 3, 3, 1, 3, 0];
        for (are_after, count, symbols) in [
            (false, 5, [0, 0, 3, 3, 3, 1, 3, 0]),
            // The first row comes after class 0.
            (true, 6, [0, 0, 4, 0, 0, 2, 4, 1]),
        ] {
            let mut told = TopClasses::new(5, are_after);
            assert_eq!((told.n_classes(), told.count()), (5, count));
            let mut read = told.clone();
            assert_eq!(tops.map(|top| told.token(top).value), symbols);
            let mut reader = BitReader::default();
            assert_eq!(
                symbols.map(|symbol| read.read(symbol, &mut reader).unwrap()),
                tops
            );
            assert!(read.read(count as u32, &mut reader).is_err());
        }
        // Of many classes, low bits follow, but not for that of the row before.
        let mut told = TopClasses::new(3000, true);
        assert_eq!(told.count(), 751);
        let tokens = [2999, 2999, 5].map(|top| told.token(top));
        let parts = tokens.map(|token| (token.value, token.extra, token.n_extra_bits));
        assert_eq!(parts, [(750, 3, 2), (0, 0, 0), (2, 1, 2)]);
    }

    #[test]
    fn rows_after_the_row_before_take_fewer_bytes_in_small_blocks_and_large_ones() {
        // Of classes in turn, or sorted by class; what is left of the mass has nothing to do with the row before.
        let row = |i: usize, top: usize| {
            let other = (i * 7919 + i / 7) % 99;
            let rest = ((i as u32).wrapping_mul(2_654_435_761) >> 24) as f32 / 1024.0;
            (0..100).map(move |class| match class {
                _ if class == top => 1.0 - rest,
                _ if class == (top + 1 + other) % 100 => rest,
                _ => 0.0,
            })
        };
        let promise = promise(Bound::MaxError(0.002), 1);
        for n_rows in [1000, 5000] {
            let n_bytes = |top: &dyn Fn(usize) -> usize| {
                let values = (0..n_rows).flat_map(|i| row(i, top(i))).collect();
                let matrix = PredictionMatrix::new(100, values);
                let choice = is_large(matrix.view()).then(|| choose(matrix.view(), None, &promise));
                let mut is_exact = vec![false; n_rows];
                let (payload, _) = encode(matrix.view(), None, &mut is_exact, &promise, choice);
                (payload.len(), u32::from(model_id(payload[0])) >= AFTER)
            };
            let (mixed, is_mixed_after) = n_bytes(&|i| i * 7919 / 13 % 100);
            let (sorted, is_sorted_after) = n_bytes(&|i| i * 100 / n_rows);
            assert!(!is_mixed_after && is_sorted_after);
            // A top class in any order takes 6.6 bits.
            assert!(mixed - sorted > n_rows * 5 / 8, "{mixed} {sorted}");
        }
    }

    #[test]
    fn labels_that_are_smoothed_are_small_under_every_divergence() {
        // 0.37 and the same for all other classes, whose level may be one that takes extra bits.
        for n_rows in [300, 4200] {
            let mut values = vec![0.630_000_1 / 256.0; n_rows * 257];
            for (row, values) in values.chunks_exact_mut(257).enumerate() {
                values[row * row * 31 % 257] = 0.37;
            }
            let matrix = PredictionMatrix::new(257, values);
            for max_kl in [1e-2, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5] {
                let promise = promise(Bound::MaxKl(max_kl), 1);
                let choice = is_large(matrix.view()).then(|| choose(matrix.view(), None, &promise));
                let mut is_exact = vec![false; n_rows];
                let (payload, _) = encode(matrix.view(), None, &mut is_exact, &promise, choice);
                // The class in any order takes a byte.
                let below = 600 + n_rows * 5 / 4;
                assert!(
                    payload.len() < below,
                    "{} bytes: {n_rows} {max_kl}",
                    payload.len()
                );
                let decoded = decode(&payload, n_rows, 257, 1).unwrap();
                for (original, decoded) in matrix.rows().zip(decoded.rows()) {
                    assert!(promise.measure(original, decoded).is_some());
                }
            }
        }
    }

    #[test]
    fn samples_are_stretches_from_all_over_a_block() {
        let rows = |n: usize| PredictionMatrix::new(2, (0..2 * n).map(|i| i as f32).collect());
        for n_rows in [0, 1, 300, 2047, 2048] {
            assert_eq!(sample(rows(n_rows).view()), rows(n_rows));
        }
        let sample = sample(rows(10_000).view());
        assert_eq!(sample.n_rows(), SAMPLE_ROWS);
        let firsts: Vec<f32> = sample
            .rows()
            .step_by(STRETCH)
            .map(|row| row[0] / 2.0)
            .collect();
        assert_eq!(
            firsts,
            [0.0, 1392.0, 2784.0, 4176.0, 5568.0, 6960.0, 8352.0, 9744.0]
        );
        for stretch in sample.values().chunks(2 * STRETCH) {
            assert!(stretch.windows(2).all(|pair| pair[1] == pair[0] + 1.0));
        }
    }

    #[test]
    fn rows_of_every_shape_survive() {
        let rows = [
            [1.0, 0.0, 0.0, 0.0, 0.0],
            [0.97, 0.0, 0.0, 0.0, 0.0],
            [0.2, 0.8, 0.0, 0.0, 0.0],
            [0.3, 0.1, 0.6, 0.0, 0.0],
            [0.2, 0.2, 0.2, 0.2, 0.2],
            [0.01, 0.01, 0.01, 0.01, 0.96],
            [0.0, 0.0, 0.0, 0.0, 0.0],
            [1.0, 1.0, 1.0, 1.0, 1.0],
        ];
        for max_error in [0.5, 0.1, 0.002, 1e-6] {
            for keep_top in [1, 2, 3, 5, 9] {
                assert_all_kept(
                    &PredictionMatrix::new(5, rows.concat()),
                    max_error,
                    keep_top,
                );
                assert_all_kept(
                    &PredictionMatrix::new(1, rows.concat()),
                    max_error,
                    keep_top,
                );
                assert_all_kept(
                    &PredictionMatrix::new(40, rows.concat()),
                    max_error,
                    keep_top,
                );
            }
        }
        assert_all_kept(&PredictionMatrix::new(3, vec![]), 0.002, 1);
    }

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
        // Models of single rows have one.
        for model in [0, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 20, 21u8] {
            let reference = PredictionMatrix::new(1, vec![0.5]);
            let checksum = beside::checksum(reference.view()).to_le_bytes();
            let payload = [&[model | STREAMS][..], &checksum, &[0xFF; 30]].concat();
            let error = decode_beside(&payload, 1, 1, Some(reference.view()), 1).unwrap_err();
            assert!(
                matches!(error, Error::Corrupt(what) if what.contains("several bitstreams")),
                "{model}: {error}"
            );
        }
    }

    #[test]
    fn many_large_levels_of_floats_survive() {
        // Their squares have no sum of 64 bits.
        let mut ones = vec![1.0; 2 << 17];
        ones[5] = half::f16::from_f32(0.3).to_f32();
        let matrix = PredictionMatrix::new(1 << 17, ones);
        let model = Model::Expected(Levels::Uniform(Uniform::floats(1 << 24, 10).unwrap()));
        assert_kept(model, &matrix, &promise(Bound::Exact, 1));
    }

    #[test]
    fn minifloats_of_float32_are_refused() {
        let reference = PredictionMatrix::new(1, vec![0.5]);
        for model in [PREDICTED_MINIFLOATS, 18, MINIFLOATS_BESIDE, 21] {
            let mut writer = BitWriter::new();
            writer.write(model, 8);
            if is_beside(model) {
                writer.write(beside::checksum(reference.view()), 32);
            }
            write_step(&mut writer, Minifloat::F32.unit());
            writer.write(Minifloat::F32.n_mantissa_bits(), 5);
            let payload = writer.finish();
            let error = decode_beside(&payload, 1, 1, Some(reference.view()), 1).unwrap_err();
            assert!(
                matches!(error, Error::Corrupt(what) if what.contains("another model")),
                "{model}: {error}"
            );
        }
    }

    #[test]
    fn rows_without_a_step_cost_no_more_than_exact_ones() {
        // Multiples of 1 / 64; some rows have a value for which a step as fine as the bound is no finer than float32.
        let mut state = 1u32;
        let values: Vec<f32> = (0..400 * 20)
            .map(|i| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let of_row = if i / 20 % 10 == 3 && i % 20 == 0 {
                    40.0
                } else {
                    0.0
                };
                of_row + (state >> 24) as f32 / 64.0
            })
            .collect();
        let matrix = PredictionMatrix::new(20, values);
        let n_bytes = |bound, is_chosen: bool| {
            let promise = Promise::new(Kind::Logits, bound);
            let choice = is_chosen.then(|| choose(matrix.view(), None, &promise));
            let mut is_exact = vec![false; 400];
            let (payload, _) = encode(matrix.view(), None, &mut is_exact, &promise, choice);
            (
                payload.len(),
                is_exact.iter().filter(|&&is_exact| is_exact).count(),
            )
        };
        for is_chosen in [false, true] {
            let (exact, _) = n_bytes(Bound::Exact, is_chosen);
            let (within, n_exact) = n_bytes(Bound::MaxError(1e-5), is_chosen);
            assert!(
                within <= exact && n_exact == 40,
                "{within} {exact} {n_exact}"
            );
        }
    }

    #[test]
    fn rows_marked_exact_keep_every_bit() {
        let matrix = PredictionMatrix::new(2, vec![f32::NAN, -7.5, 0.25, 0.75]);
        let steps = Model::Predicted(Numbers::Steps(Step::new(0.1, 1.0).unwrap()));
        let models = uniform_models(0.1).into_iter().chain([steps]);
        for way in models.flat_map(ways) {
            let mut is_exact = [true, false];
            let (payload, counts) = encode_with(way, matrix.view(), None, &mut is_exact, 1);
            assert_eq!(counts.raw, 64);
            let decoded = decode(&payload, 2, 2, 1).unwrap();
            let bits: Vec<u32> = decoded.values()[..2].iter().map(|v| v.to_bits()).collect();
            assert_eq!(bits, [f32::NAN.to_bits(), (-7.5f32).to_bits()]);
            assert!((decoded.values()[2] - 0.25).abs() < 0.1);
        }
    }

    #[test]
    fn certain_rows_cost_nothing_beyond_the_codebook() {
        let matrix = PredictionMatrix::new(100, [vec![1.0], vec![0.0; 99]].concat().repeat(1000));
        for way in every_way() {
            let mut is_exact = EVERY_ROW;
            let (payload, _) = encode_with(way, matrix.view(), None, &mut is_exact, 1);
            match way.model {
                Model::Bits | Model::Multiples(_) | Model::Tabled(_) => {}
                _ => {
                    // Every further bitstream takes a length and a state.
                    let below = 100 + 5 * (way.n_streams - 1);
                    assert!(payload.len() < below, "{} bytes: {way:?}", payload.len());
                }
            }
        }
    }

    #[test]
    fn every_flipped_bit_and_every_prefix_decodes_or_is_refused_without_a_panic() {
        let values: Vec<f32> = (0..300)
            .map(|i| ((i * 7919) % 97) as f32 / 97.0 * if i % 5 == 0 { 0.9 } else { 0.02 })
            .collect();
        let matrix = PredictionMatrix::new(10, values);
        for (way, keep_top) in every_way().flat_map(|way| [(way, 1), (way, 4)]) {
            let mut is_exact = [false; 30];
            let (payload, _) = encode_with(way, matrix.view(), None, &mut is_exact, keep_top);
            for bit in 0..payload.len() * 8 {
                let mut damaged = payload.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                if let Ok(decoded) = decode(&damaged, 30, 10, keep_top) {
                    assert_eq!(decoded.n_rows(), 30);
                }
            }
            for end in 0..payload.len() {
                assert!(decode(&payload[..end], 30, 10, keep_top).is_err());
            }
        }
    }

    /// Rows and those of a reference that are much alike.
    fn alike() -> (PredictionMatrix, PredictionMatrix) {
        let value = |i: usize| {
            let mixed = (i as u32).wrapping_mul(2_654_435_761);
            let noise = ((mixed ^ mixed >> 15).wrapping_mul(2_246_822_519) >> 8) % 9973;
            noise as f32
                / if i.is_multiple_of(5) {
                    11_104.0
                } else {
                    498_650.0
                }
        };
        let values: Vec<f32> = (0..300).map(value).collect();
        let known = values.iter().enumerate();
        let known = known.map(|(i, v)| v * (1.0 + (i * 31 % 7) as f32 / 100.0));
        let known = PredictionMatrix::new(10, known.collect());
        (PredictionMatrix::new(10, values), known)
    }

    #[test]
    fn every_flipped_bit_beside_a_reference_decodes_or_is_refused_without_a_panic() {
        let (matrix, reference) = alike();
        let reference = Some(reference.view());
        for way in every_model()
            .into_iter()
            .filter_map(Model::beside)
            .flat_map(ways)
        {
            let mut is_exact = [false; 30];
            let (payload, _) = encode_with(way, matrix.view(), reference, &mut is_exact, 4);
            for bit in 0..payload.len() * 8 {
                let mut damaged = payload.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                match decode_beside(&damaged, 30, 10, reference, 4) {
                    Ok(decoded) => assert_eq!(decoded.n_rows(), 30),
                    Err(error) => {
                        let is_of_checksum = matches!(error, Error::WrongReference);
                        assert!(is_of_checksum || !(8..40).contains(&bit), "{error}");
                    }
                }
            }
            for end in 0..payload.len() {
                assert!(decode_beside(&payload[..end], 30, 10, reference, 4).is_err());
            }
        }
    }

    #[test]
    fn rows_beside_a_reference_need_that_one() {
        let (matrix, reference) = alike();
        for bound in [Bound::MaxError(0.002), Bound::MaxError(1e-4), Bound::Exact] {
            let promise = Promise::new(Kind::Values, bound);
            let mut is_exact = [false; 30];
            let known = Some(reference.view());
            let mut encode =
                |reference| encode(matrix.view(), reference, &mut is_exact, &promise, None).0;
            let (alone, payload) = (encode(None), encode(known));
            assert!(needs_reference(&payload) && payload.len() < alone.len());
            let error = decode(&payload, 30, 10, 1).unwrap_err();
            assert!(matches!(error, Error::Corrupt(_)), "{error}");
            let mut others = reference.values().to_vec();
            others[299] = others[299].next_up();
            let others = Rows::new(10, &others);
            let error = decode_beside(&payload, 30, 10, Some(others), 1).unwrap_err();
            assert!(matches!(error, Error::WrongReference), "{error}");
            // One that tells nothing is not used.
            let [.., useless] = references(&matrix);
            let useless = Some(useless.view());
            assert_eq!(encode(useless), alone);
        }
    }

    proptest! {
        #[test]
        fn any_probabilities_survive(
            n_classes in 1usize..30,
            values in prop::collection::vec(prop_oneof![4 => Just(0.0f32), 1 => 0.0f32..=1.0, 1 => 0.0f32..0.01], 0..300),
            max_error in prop_oneof![1e-6..1e-4f64, 1e-3..0.5f64],
            keep_top in 1usize..6,
        ) {
            let n_rows = values.len() / n_classes;
            let matrix = PredictionMatrix::new(n_classes, values[..n_rows * n_classes].to_vec());
            assert_all_kept(&matrix, max_error, keep_top);
        }

        #[test]
        fn any_distributions_survive(
            n_classes in 2usize..30,
            values in prop::collection::vec(prop_oneof![1 => Just(0.0f32), 4 => 1e-20f32..=1.0, 1 => 0.9f32..1.0], 1..300),
            max_kl in prop_oneof![1e-6..1e-4f64, 1e-3..1.0f64],
            keep_top in 1usize..6,
        ) {
            let n_rows = values.len() / n_classes;
            let mut matrix = values[..n_rows * n_classes].to_vec();
            for row in matrix.chunks_exact_mut(n_classes) {
                row[0] += 1e-3;
                let sum: f32 = row.iter().sum();
                row.iter_mut().for_each(|p| *p /= sum);
            }
            let matrix = PredictionMatrix::new(n_classes, matrix);
            let promise = promise(Bound::MaxKl(max_kl), keep_top);
            for roots in [Roots::HALVING, Roots::of_steps(1), Roots::of_steps(3).linear()] {
                assert_kept(Model::Expected(Levels::Root { roots, max_kl }), &matrix, &promise);
            }
            if let Some(sphere) = Sphere::of(matrix.view(), &vec![false; matrix.n_rows()], max_kl) {
                assert_kept(Model::Expected(Levels::Sphere(sphere)), &matrix, &promise);
            }
        }

        #[test]
        fn any_bits_survive(
            n_classes in 1usize..20,
            bits in prop::collection::vec(any::<u32>(), 0..400),
        ) {
            let values: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            let n_rows = values.len() / n_classes;
            let matrix = PredictionMatrix::new(n_classes, values[..n_rows * n_classes].to_vec());
            for model in EXACT_MODELS {
                assert_kept(model, &matrix, &promise(Bound::Exact, 1));
            }
        }

        #[test]
        fn any_float16_survives(
            n_classes in 1usize..20,
            bits in prop::collection::vec(any::<u16>(), 0..400),
            are_probabilities: bool,
        ) {
            let values: Vec<f32> = bits
                .into_iter()
                .map(|bits| if are_probabilities { bits % 0x3C01 } else { bits })
                .map(|bits| half::f16::from_bits(bits).to_f32())
                .map(|value| if value.is_nan() { 0.0 } else { value })
                .collect();
            let n_rows = values.len() / n_classes;
            let matrix = PredictionMatrix::new(n_classes, values[..n_rows * n_classes].to_vec());
            let numbers = Minifloat::of(matrix.values()).expect("few bits");
            let levels = Uniform::of_minifloats(numbers, matrix.values());
            prop_assert!(levels.is_some() || !are_probabilities);
            let levels = levels.map(|levels| Model::Expected(Levels::Uniform(levels)));
            for model in models_of_bits(numbers).into_iter().chain(levels) {
                assert_kept(model, &matrix, &promise(Bound::Exact, 1));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            model in (0u8..64, 0u8..4).prop_map(|(id, way)| id | way << 6),
            keep_top in 1usize..5,
            mut bytes in prop::collection::vec(any::<u8>(), 1..200),
        ) {
            bytes[0] = model;
            let _ = decode(&bytes, 50, 12, keep_top);
            let reference = PredictionMatrix::new(12, vec![0.25; 600]);
            let checksum = super::super::beside::checksum(reference.view());
            if bytes.len() > 5 {
                bytes[1..5].copy_from_slice(&checksum.to_le_bytes());
            }
            let _ = decode_beside(&bytes, 50, 12, Some(reference.view()), keep_top);
        }

        #[test]
        fn damaged_payloads_never_panic(
            n_classes in 1usize..20,
            flips in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
            seed in 0usize..1000,
        ) {
            let values: Vec<f32> = (0..60 * n_classes)
                .map(|i| ((i * 7919 + seed * 31) % 97) as f32 / 97.0 / n_classes as f32)
                .collect();
            let matrix = PredictionMatrix::new(n_classes, values);
            for way in every_way() {
                let (mut payload, _) = encode_with(way, matrix.view(), None, &mut [false; 60], 2);
                for flip in &flips {
                    let bit = flip.index(payload.len() * 8);
                    payload[bit / 8] ^= 1 << (bit % 8);
                }
                if let Ok(decoded) = decode(&payload, 60, n_classes, 2) {
                    prop_assert_eq!(decoded.n_rows(), 60);
                }
            }
        }
    }

    #[test]
    fn repeated_rows_are_not_within_such_nor_beside_a_reference() {
        let row: Vec<f32> = (1..=20).map(|i| (i * i % 23) as f32 / 400.0).collect();
        let matrix = PredictionMatrix::new(20, row.repeat(400));
        let promise = Promise::new(Kind::Probabilities, Bound::MaxError(0.001));
        let mut is_exact = vec![false; 400];
        let (payload, _) = encode(matrix.view(), None, &mut is_exact, &promise, None);
        let Repeated { distinct, rows, .. } = Repeated::read_from(&payload, 400).unwrap().unwrap();
        let decode = |distinct: &[u8]| {
            let repeated = Repeated {
                n_distinct: 1,
                distinct,
                rows,
            };
            decode(&repeated.to_bytes(), 400, 20, 1)
        };
        assert!(decode(distinct).is_ok());
        let of_one = Repeated {
            n_distinct: 1,
            distinct,
            rows: &[],
        };
        let within = decode(&of_one.to_bytes()).unwrap_err();
        assert!(matches!(within, Error::Corrupt("distinct rows come again")));
        let beside = decode(&[8, 0, 0, 0, 0, 0]).unwrap_err();
        assert!(matches!(beside, Error::Corrupt(what) if what.contains("reference")));
    }

    #[test]
    fn large_blocks_are_repeated_if_half_of_their_rows_come_again() {
        let promise = Promise::new(Kind::Values, Bound::MaxError(0.01));
        for (n_distinct, is_repeated) in [(2000, true), (2001, false)] {
            let value = |i: usize| {
                let (row, class) = (i / 20 % n_distinct, i % 20);
                ((row * 20 + class) as u32).wrapping_mul(2_654_435_761) as f32 * 1e-8
            };
            let matrix = PredictionMatrix::new(20, (0..4000 * 20).map(value).collect());
            let choice = choose(matrix.view(), None, &promise);
            assert_eq!(choice.of_distinct.is_some(), is_repeated);
            let mut is_exact = vec![false; 4000];
            let (payload, _) = encode(matrix.view(), None, &mut is_exact, &promise, Some(choice));
            assert_eq!(u32::from(model_id(payload[0])) == REPEATED, is_repeated);
        }
    }
}
