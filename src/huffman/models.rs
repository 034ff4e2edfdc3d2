//! The models of rows, their numbers, and what a payload begins with: how its rows are coded (FORMAT.md, section 5).

use super::beside::{self, Caution, EarlierRows};
use super::bitstream::{BitReader, BitWriter, Coder};
use super::block_sorted::{self, BlockSorted, Contexts, Scan, Values};
use super::codebook::{read_gamma, write_gamma};
use super::expected::Levels;
use super::minifloat::Minifloat;
use super::plain::Multiples;
use super::predicted::Numbers;
use super::quantizer::{Roots, Step, Uniform};
use super::ranks::Ranks;
use super::regression::{Columns, Regression};
use super::sphere::Sphere;
use super::tabled::By;
use super::{Corrupt, Error, LARGE};
use crate::matrix::Rows;

/// How the rows of a block are coded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Method {
    /// How symbols are made of rows.
    pub model: Model,
    /// How symbols are written.
    pub coder: Coder,
    /// 1 or [`N_STREAMS`].
    pub n_streams: usize,
}

impl Method {
    /// The method with the number of bitstreams that suits the rows, whose values take about `bytes_a_value` each; if that
    /// is not known, expected rows get one.
    pub fn of(model: Model, coder: Coder, matrix: Rows<'_>, bytes_a_value: Option<f64>) -> Self {
        /// Of expected rows, runs of zeros end with each bitstream: up to 250 bytes were seen to be lost in a block.
        const MANY_BYTES: f64 = (1 << 16) as f64;
        let n_values = matrix.values().len();
        let is_worth_it = match (model.rows, model.given) {
            (RowModel::Expected(_), Given::Nothing | Given::PreviousTop) => {
                bytes_a_value.is_some_and(|bytes| bytes * n_values as f64 >= MANY_BYTES)
            }
            (RowModel::Predicted(_), Given::Nothing) => n_values >= LARGE,
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

    /// Writes the method, and the checksum of the rows of the reference if its model codes rows given these.
    pub fn write_to(self, reference: Option<Rows<'_>>, writer: &mut BitWriter) {
        let first = FirstByte::of_method(self);
        writer.write(first.0.into(), 8);
        if let Some(reference) = reference.filter(|_| first.needs_reference()) {
            writer.write(beside::checksum(reference), 32);
        }
        self.model.write_to(writer);
    }

    /// Reads a method; one beside a reference only if there is one.
    ///
    /// # Errors
    /// [`Error::WrongReference`] if rows were coded given another one; [`Corrupt`] if there is no such method.
    pub fn read_from(reader: &mut BitReader, reference: Option<Rows<'_>>) -> Result<Self, Error> {
        let first = FirstByte(reader.read(8)? as u8);
        if first.n_streams() > 1 && !first.may_have_streams() {
            return Err(Error::Corrupt(
                "a block has several bitstreams, which its model does not allow",
            ));
        }
        if first.needs_reference() {
            let Some(reference) = reference else {
                return Err(Error::Corrupt(
                    "a block is compressed against a reference where there can be none",
                ));
            };
            if reader.read(32)? != beside::checksum(reference) {
                return Err(Error::WrongReference);
            }
        }
        Ok(Self {
            model: Model::read_from(first.id(), reader)?,
            coder: first.coder(),
            n_streams: first.n_streams(),
        })
    }
}

/// The number of bitstreams if there are several: rows of different ones are decoded side by side. Format-stable.
pub const N_STREAMS: usize = 8;

/// How symbols are made of the rows of a block, with the parameters that stand before the codebooks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Model {
    /// How each row is coded.
    pub rows: RowModel,
    /// The rows that it is conditioned on.
    pub given: Given,
}

/// How a row is coded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RowModel {
    /// A [ranked](super::ranked) row.
    Ranked(Uniform),
    /// An [expected](super::expected) row.
    Expected(Levels),
    /// A [predicted](super::predicted) row.
    Predicted(Numbers),
    /// A [plain](super::plain) row, of multiples of a step.
    Multiples(Multiples),
    /// A [plain](super::plain) row, bit for bit.
    Bits,
    /// Values of a [table](super::tabled).
    Tabled(By),
    /// Numbers that are [sorted](super::block_sorted) with those of all other rows.
    BlockSorted(BlockSorted),
}

/// The rows that a row is conditioned on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Given {
    /// Nothing.
    Nothing,
    /// The top class on that of the previous row.
    PreviousTop,
    /// The row on the same row of a reference.
    Reference,
    /// The row on those before it.
    EarlierRows(EarlierRows),
}

impl RowModel {
    /// The model of these rows, conditioned on nothing.
    pub fn alone(self) -> Model {
        Model {
            rows: self,
            given: Given::Nothing,
        }
    }

    /// The model of these rows conditioned on `given`, with the levels that it has; `None` if there is no such model.
    pub fn given(self, given: Given) -> Option<Model> {
        let (rows, given) = match (self, given) {
            (_, Given::Nothing)
            | (Self::Ranked(_) | Self::Expected(_), Given::PreviousTop)
            | (Self::Predicted(_), Given::Reference) => (self, given),
            // Minifloats go beside the previous row only: beside earlier rows, their numbers would not fit 6 bits.
            (Self::Predicted(numbers), Given::EarlierRows(before))
                if before.is_last() || !numbers.are_minifloats() =>
            {
                (self, given)
            }
            (Self::Expected(levels), Given::Reference) => (Self::Expected(levels.beside()?), given),
            (Self::Expected(levels), Given::EarlierRows(before)) => {
                let levels = match levels {
                    Levels::Root { roots, .. } if !roots.are_linear() => levels,
                    _ => levels.beside()?,
                };
                let caution = Caution::LEAST;
                let before = EarlierRows { caution, ..before };
                (Self::Expected(levels), Given::EarlierRows(before))
            }
            _ => return None,
        };
        Some(Model { rows, given })
    }

    /// The number of the model of these rows, conditioned on nothing.
    pub fn id(self) -> u32 {
        match self {
            Self::Ranked(_) => id::RANKED,
            Self::Expected(Levels::Uniform(uniform)) if uniform.is_shares() => id::SHARES,
            Self::Expected(Levels::Uniform(uniform)) if uniform.is_floats() => id::EXPECTED_FLOATS,
            Self::Expected(Levels::Uniform(uniform)) if uniform.has_fine_tokens() => id::FINE,
            Self::Expected(Levels::Uniform(_)) => id::EXPECTED,
            Self::Expected(Levels::Root { roots, .. }) => match roots {
                Roots::HALVING => id::EXPECTED_HALVING,
                _ if roots.are_linear() => id::LINEAR_ROOTS,
                _ => id::ROOTS,
            },
            Self::Expected(Levels::Sphere(sphere)) => match sphere.has_fine_tokens() {
                true => id::FINE_SPHERE,
                false => id::SPHERE,
            },
            Self::Predicted(numbers) => match numbers {
                Numbers::Steps(_) => id::PREDICTED_STEPS,
                Numbers::OrderedBits(of) if of.is_f32() => id::PREDICTED_ORDERED,
                Numbers::OrderedBits(_) => id::ORDERED_MINIFLOATS,
                Numbers::Bits(of) if of.is_f32() => id::PREDICTED_BITS,
                Numbers::Bits(_) => id::MINIFLOATS,
            },
            Self::Multiples(_) => id::MULTIPLES,
            Self::Bits => id::BITS,
            Self::Tabled(By::Class) => id::BY_CLASS,
            Self::Tabled(By::PreviousValue) => id::BY_PREVIOUS_VALUE,
            Self::Tabled(By::PreviousRow) => id::BY_PREVIOUS_ROW,
            Self::BlockSorted(BlockSorted {
                values, contexts, ..
            }) => match (values, contexts) {
                (Values::Steps(_), Contexts::OfRanks) => id::SORTED_STEPS,
                (Values::Steps(_), Contexts::OfNumbers) => id::SORTED_STEPS_BY_NUMBERS,
                (Values::Roots { .. }, Contexts::OfRanks) => id::SORTED_ROOTS,
                (Values::Roots { .. }, Contexts::OfNumbers) => id::SORTED_ROOTS_BY_NUMBERS,
                (Values::Bits(_), Contexts::OfNumbers) => unreachable!("no such model"),
                (Values::Bits(of), _) if of.is_f32() => id::SORTED_BITS,
                (Values::Bits(_), _) => id::SORTED_MINIFLOATS,
            },
        }
    }

    /// The number of the model of these rows beside a reference.
    fn id_beside(self) -> u32 {
        match self.id() {
            id::EXPECTED => id::EXPECTED_BESIDE,
            // Roots state their steps if coded given rows before them.
            id::EXPECTED_HALVING | id::ROOTS => id::ROOTS_BESIDE,
            id::PREDICTED_STEPS => id::STEPS_BESIDE,
            id::PREDICTED_ORDERED => id::ORDERED_BESIDE,
            id::PREDICTED_BITS => id::BITS_BESIDE,
            id::ORDERED_MINIFLOATS => id::ORDERED_MINIFLOATS_BESIDE,
            id::MINIFLOATS => id::MINIFLOATS_BESIDE,
            _ => unreachable!("no such rows are given a reference"),
        }
    }

    fn write_to(self, writer: &mut BitWriter) {
        match self {
            Self::Ranked(uniform) | Self::Expected(Levels::Uniform(uniform)) => {
                write_gamma(writer, uniform.n_levels());
                if uniform.is_floats() {
                    writer.write(uniform.n_mantissa_bits(), 5);
                }
            }
            Self::Expected(Levels::Sphere(sphere)) => write_gamma(writer, sphere.scale()),
            Self::Expected(Levels::Root { roots, .. }) => {
                if roots != Roots::HALVING {
                    writer.write(roots.log_n_steps(), 2);
                }
            }
            Self::Predicted(Numbers::Steps(step)) => write_step(writer, step),
            Self::Predicted(Numbers::OrderedBits(of) | Numbers::Bits(of)) => {
                if !of.is_f32() {
                    write_step(writer, of.unit());
                    writer.write(of.n_mantissa_bits(), 5);
                }
            }
            Self::Multiples(multiples) => {
                write_step(writer, multiples.step);
                writer.write(multiples.least as u32, 32);
                writer.write(multiples.range, 32);
            }
            Self::Bits | Self::Tabled(_) => {}
            Self::BlockSorted(sorted) => {
                if let Some(numbers) = sorted.values.numbers() {
                    Self::Predicted(numbers).write_to(writer);
                }
                writer.write(u32::from(sorted.scan == Scan::ByClass), 1);
            }
        }
    }

    /// Reads the parameters of the rows of a model that is conditioned on nothing.
    fn read_from(id: u32, reader: &mut BitReader) -> Result<Self, Error> {
        let uniform = |reader: &mut BitReader| Uniform::from_levels(read_gamma(reader)?);
        let of_roots = |roots| Self::Expected(Levels::of_roots(roots));
        Ok(match id {
            id::RANKED => Self::Ranked(uniform(reader)?),
            id::EXPECTED => Self::Expected(Levels::Uniform(uniform(reader)?)),
            id::EXPECTED_HALVING => of_roots(Roots::HALVING),
            id::PREDICTED_STEPS => Self::Predicted(Numbers::Steps(read_step(reader)?)),
            id::PREDICTED_ORDERED => Self::Predicted(Numbers::OrderedBits(Minifloat::F32)),
            id::PREDICTED_BITS => Self::Predicted(Numbers::Bits(Minifloat::F32)),
            id::MULTIPLES => Self::Multiples(Multiples {
                step: read_step(reader)?,
                least: reader.read(32)? as i32,
                range: reader.read(32)?,
            }),
            id::BITS => Self::Bits,
            id::BY_CLASS => Self::Tabled(By::Class),
            id::BY_PREVIOUS_VALUE => Self::Tabled(By::PreviousValue),
            id::BY_PREVIOUS_ROW => Self::Tabled(By::PreviousRow),
            id::SHARES => Self::Expected(Levels::Uniform(uniform(reader)?.into_shares()?)),
            id::ORDERED_MINIFLOATS => {
                Self::Predicted(Numbers::OrderedBits(read_minifloat(reader)?))
            }
            id::MINIFLOATS => Self::Predicted(Numbers::Bits(read_minifloat(reader)?)),
            id::EXPECTED_FLOATS => {
                let (n_levels, n_mantissa_bits) = (read_gamma(reader)?, reader.read(5)?);
                let floats = Uniform::floats(n_levels, n_mantissa_bits)?;
                Self::Expected(Levels::Uniform(floats))
            }
            id::SPHERE => Self::Expected(Levels::Sphere(Sphere::new(read_gamma(reader)?)?)),
            id::FINE_SPHERE => {
                let sphere = Sphere::new(read_gamma(reader)?)?.with_fine_tokens();
                Self::Expected(Levels::Sphere(sphere))
            }
            id::FINE => Self::Expected(Levels::Uniform(uniform(reader)?.with_fine_tokens())),
            id::ROOTS => of_roots(Roots::of_steps(reader.read(2)?)),
            id::LINEAR_ROOTS => of_roots(Roots::of_steps(reader.read(2)?).linear()),
            id if id::is_sorted(id) => {
                let (of_values, contexts) = match id {
                    id::SORTED_STEPS_BY_NUMBERS => (id::SORTED_STEPS, Contexts::OfNumbers),
                    id::SORTED_ROOTS_BY_NUMBERS => (id::SORTED_ROOTS, Contexts::OfNumbers),
                    _ => (id, Contexts::OfRanks),
                };
                let values = match of_values {
                    id::SORTED_STEPS => Values::Steps(read_step(reader)?),
                    id::SORTED_BITS => Values::Bits(Minifloat::F32),
                    id::SORTED_ROOTS => Values::ROOTS,
                    _ => Values::Bits(read_minifloat(reader)?),
                };
                Self::BlockSorted(BlockSorted {
                    values,
                    scan: Scan::ALL[reader.read(1)? as usize],
                    contexts,
                })
            }
            _ => return Err(Error::Corrupt(UNKNOWN_MODEL)),
        })
    }
}

impl Model {
    /// Whether rows, or only their top classes, are coded given rows before them.
    pub fn is_after(self) -> bool {
        matches!(self.given, Given::PreviousTop | Given::EarlierRows(_))
    }

    /// The number of the model.
    pub fn id(self) -> u32 {
        match self.given {
            Given::Nothing => self.rows.id(),
            Given::PreviousTop => id::AFTER + self.rows.id(),
            Given::Reference => self.rows.id_beside(),
            Given::EarlierRows(before) if before.is_last() => id::AFTER + self.rows.id_beside(),
            Given::EarlierRows(_) => self.rows.id_beside() - id::EXPECTED_BESIDE + id::EARLIER,
        }
    }

    /// Writes the parameters of the model.
    fn write_to(self, writer: &mut BitWriter) {
        match (self.rows, self.given) {
            (RowModel::Expected(Levels::Root { roots, .. }), Given::EarlierRows(_)) => {
                writer.write(roots.log_n_steps(), 2);
            }
            (rows, _) => rows.write_to(writer),
        }
        if let Given::EarlierRows(before) = self.given {
            if let RowModel::Predicted(_) = self.rows {
                writer.write(before.caution.number(), 2);
            }
            if !before.is_last() {
                write_gamma(writer, before.lag);
                writer.write(before.is_gradient.into(), 1);
            }
        }
    }

    /// Reads the parameters of the model of this number.
    fn read_from(id: u32, reader: &mut BitReader) -> Result<Self, Error> {
        let (base, is_after) = (id::base(id), id::is_after(id));
        let of_rows = match base {
            id::EXPECTED_BESIDE => id::EXPECTED,
            id::ROOTS_BESIDE if is_after => id::ROOTS,
            id::ROOTS_BESIDE => id::EXPECTED_HALVING,
            id::STEPS_BESIDE => id::PREDICTED_STEPS,
            id::ORDERED_BESIDE => id::PREDICTED_ORDERED,
            id::BITS_BESIDE => id::PREDICTED_BITS,
            id::ORDERED_MINIFLOATS_BESIDE => id::ORDERED_MINIFLOATS,
            id::MINIFLOATS_BESIDE => id::MINIFLOATS,
            alone => alone,
        };
        let rows = RowModel::read_from(of_rows, reader)?;
        let given = match (is_after, is_beside(base)) {
            (false, false) => Given::Nothing,
            (true, false) => Given::PreviousTop,
            (false, true) => Given::Reference,
            (true, true) => {
                let mut before = EarlierRows::last(match rows {
                    RowModel::Predicted(_) => Caution::from_number(reader.read(2)?),
                    _ => Caution::LEAST,
                });
                if id >= id::EARLIER {
                    (before.lag, before.is_gradient) = (read_gamma(reader)?, reader.read(1)? == 1);
                    if before.is_last() {
                        return Err(Error::Corrupt("the row before is that of another model"));
                    }
                }
                Given::EarlierRows(before)
            }
        };
        Ok(rows.given(given).ok_or(Corrupt(UNKNOWN_MODEL))?)
    }
}

/// The numbers of the models. Format-stable.
pub(super) mod id {
    pub const RANKED: u32 = 0;
    pub const EXPECTED: u32 = 1;
    pub const EXPECTED_HALVING: u32 = 2;
    pub const PREDICTED_STEPS: u32 = 3;
    pub const PREDICTED_ORDERED: u32 = 4;
    pub const PREDICTED_BITS: u32 = 5;
    pub const MULTIPLES: u32 = 6;
    pub const BITS: u32 = 7;
    pub const EXPECTED_BESIDE: u32 = 8;
    pub const ROOTS_BESIDE: u32 = 9;
    pub const STEPS_BESIDE: u32 = 10;
    pub const ORDERED_BESIDE: u32 = 11;
    pub const BITS_BESIDE: u32 = 12;
    pub const BY_CLASS: u32 = 13;
    pub const BY_PREVIOUS_VALUE: u32 = 14;
    pub const BY_PREVIOUS_ROW: u32 = 15;
    pub const SHARES: u32 = 16;
    pub const ORDERED_MINIFLOATS: u32 = 17;
    pub const MINIFLOATS: u32 = 18;
    pub const EXPECTED_FLOATS: u32 = 19;
    pub const ORDERED_MINIFLOATS_BESIDE: u32 = 20;
    pub const MINIFLOATS_BESIDE: u32 = 21;
    pub const SPHERE: u32 = 22;
    pub const FINE_SPHERE: u32 = 23;
    pub const FINE: u32 = 24;
    pub const ROOTS: u32 = 25;
    pub const LINEAR_ROOTS: u32 = 26;
    /// The number of a payload of repeated rows.
    pub const REPEATED: u32 = 27;
    pub const SORTED_STEPS: u32 = 28;
    pub const SORTED_BITS: u32 = 29;
    pub const SORTED_ROOTS: u32 = 30;
    pub const SORTED_MINIFLOATS: u32 = 31;
    /// Added to the number of a model below [`EARLIER`]: its rows are coded given the previous row.
    pub const AFTER: u32 = 32;
    /// The model of [`SORTED_STEPS`] but for what numbers are coded given, at a number that [`AFTER`] leaves free.
    pub const SORTED_STEPS_BY_NUMBERS: u32 = 45;
    /// The same of [`SORTED_ROOTS`].
    pub const SORTED_ROOTS_BY_NUMBERS: u32 = 46;
    /// The number of [`EXPECTED_BESIDE`] given earlier rows; those of the next four follow.
    pub const EARLIER: u32 = 59;

    /// The number of the model that this one is but for being conditioned on rows before; `id` itself if it is not.
    pub const fn base(id: u32) -> u32 {
        match id {
            EARLIER.. => id - EARLIER + EXPECTED_BESIDE,
            SORTED_STEPS_BY_NUMBERS | SORTED_ROOTS_BY_NUMBERS => id,
            _ => id % AFTER,
        }
    }

    /// Whether rows are block-sorted.
    pub const fn is_sorted(id: u32) -> bool {
        matches!(
            id,
            SORTED_STEPS..=SORTED_MINIFLOATS | SORTED_STEPS_BY_NUMBERS | SORTED_ROOTS_BY_NUMBERS
        )
    }

    /// Whether the model of this number is conditioned on rows before.
    pub const fn is_after(id: u32) -> bool {
        base(id) != id
    }
}

const UNKNOWN_MODEL: &str = "a block has an unknown model";

/// The first byte of a payload: the number of its model, whether there are several bitstreams, and whether symbols are
/// coded with rANS. Format-stable.
#[derive(Debug, Clone, Copy)]
pub struct FirstByte(u8);

impl FirstByte {
    const STREAMS: u8 = 0x40;
    const ANS: u8 = 0x80;

    /// The first byte of a payload, 0 if that is empty.
    pub fn of(payload: &[u8]) -> Self {
        Self(payload.first().copied().unwrap_or_default())
    }

    fn of_method(method: Method) -> Self {
        let streams = if method.n_streams > 1 {
            Self::STREAMS
        } else {
            0
        };
        let coder = match method.coder {
            Coder::Huffman => 0,
            Coder::Ans => Self::ANS,
        };
        Self(method.model.id() as u8 | streams | coder)
    }

    /// The number of the model.
    pub fn id(self) -> u32 {
        (self.0 & !(Self::STREAMS | Self::ANS)).into()
    }

    fn n_streams(self) -> usize {
        match self.0 & Self::STREAMS {
            0 => 1,
            _ => N_STREAMS,
        }
    }

    fn coder(self) -> Coder {
        match self.0 & Self::ANS {
            0 => Coder::Huffman,
            _ => Coder::Ans,
        }
    }

    /// The first version of the format that has this model, with these bitstreams and this coder.
    pub fn first_version(self) -> u8 {
        let of_model = match self.id() {
            id::EARLIER.. => 12,
            id if id::is_after(id) => 9,
            id => info(id).first_version,
        };
        let of_coding = match self.id() {
            id::EXPECTED | id::EXPECTED_HALVING if self.n_streams() > 1 => 4,
            _ if self.0 & (Self::STREAMS | Self::ANS) != 0 => 3,
            _ => 1,
        };
        of_model.max(of_coding)
    }

    /// Whether the rows are repeated ones: the payload of the distinct rows is within.
    pub fn is_repeated(self) -> bool {
        self.id() == id::REPEATED
    }

    /// Whether the model codes rows given those of a reference.
    pub fn needs_reference(self) -> bool {
        !id::is_after(self.id()) && is_beside(self.id())
    }

    /// Whether the model codes all rows bit for bit.
    pub fn is_of_bits(self) -> bool {
        info(self.id()).has(OF_BITS)
    }

    /// Whether the model may have several bitstreams: those of expected and of predicted rows, which learn a
    /// [`Regression`].
    fn may_have_streams(self) -> bool {
        info(self.id()).has(STREAMS)
    }

    /// About how many bytes a decoder takes for what it learns of so many rows and classes.
    pub fn n_working_bytes(self, n_rows: usize, n_classes: usize, keep_top: usize) -> u64 {
        let of_order = match keep_top {
            0..=1 => 0,
            _ => Ranks::n_bytes(n_classes),
        };
        let of_rows = 4 * (n_rows * n_classes) as u64;
        of_order
            + match id::base(self.id()) {
                id::RANKED => Ranks::n_bytes(n_classes),
                _ if self.may_have_streams() => {
                    of_rows + Regression::n_bytes(n_classes, self.n_streams())
                }
                id if is_beside(id) => {
                    let of_before = match self.id() {
                        id::EARLIER.. => of_rows,
                        _ => 0,
                    };
                    of_before + 2 * of_rows + Columns::new(n_classes).n_bytes()
                }
                id if id::is_sorted(id) => {
                    block_sorted::N_WORKING_BYTES * (n_rows * n_classes) as u64
                }
                _ => 0,
            }
    }

    /// The name of the model, and of the coder if it is not Huffman; `None` if there is no such model.
    pub fn name(self) -> Option<String> {
        let (id, info) = (self.id(), info(self.id()));
        let mut name = info.name.to_owned();
        match id {
            id::EARLIER.. => name = name.replace("a reference", "earlier rows"),
            _ if !id::is_after(id) => (),
            _ if info.has(BESIDE) => name = name.replace("a reference", "the row before"),
            _ if info.has(AFTER) => name += ", after the row before",
            _ => return None,
        }
        let coder = match self.coder() {
            Coder::Huffman => "",
            Coder::Ans => ", rANS",
        };
        Some(name + coder)
    }
}

/// Whether the model of this number is one beside a reference, or beside earlier rows.
fn is_beside(id: u32) -> bool {
    info(id).has(BESIDE)
}

/// What is known of a model.
struct ModelInfo {
    name: &'static str,
    /// The first version of the format that has it.
    first_version: u8,
    /// Bits of [`BESIDE`] and the following.
    properties: u8,
}

/// Its rows are coded given those of a reference. The model of the same rows from [`id::AFTER`] on has earlier rows in
/// their place.
const BESIDE: u8 = 1;
/// There is a model of the same rows that codes the top class after that of the row before.
const AFTER: u8 = 2;
/// It may have several bitstreams.
const STREAMS: u8 = 4;
/// It codes all rows bit for bit.
const OF_BITS: u8 = 8;

/// The models below [`id::AFTER`], by number.
const MODELS: [ModelInfo; id::AFTER as usize] = [
    ModelInfo::new("ranked", 1, AFTER),
    ModelInfo::new("expected", 1, AFTER | STREAMS),
    ModelInfo::new("expected, root", 1, AFTER | STREAMS),
    ModelInfo::new("predicted, steps", 1, STREAMS),
    ModelInfo::new("predicted, ordered bits", 1, STREAMS | OF_BITS),
    ModelInfo::new("predicted, bits as values", 1, STREAMS | OF_BITS),
    ModelInfo::new("plain, steps", 1, 0),
    ModelInfo::new("plain, bits", 1, OF_BITS),
    ModelInfo::new("expected beside a reference", 1, BESIDE),
    ModelInfo::new("expected beside a reference, root", 1, BESIDE),
    ModelInfo::new("predicted beside a reference, steps", 1, BESIDE),
    ModelInfo::new(
        "predicted beside a reference, ordered bits",
        1,
        BESIDE | OF_BITS,
    ),
    ModelInfo::new(
        "predicted beside a reference, bits as values",
        1,
        BESIDE | OF_BITS,
    ),
    ModelInfo::new("of a table, by class", 5, OF_BITS),
    ModelInfo::new("of a table, by the value before", 5, OF_BITS),
    ModelInfo::new("of a table, by the row before", 5, OF_BITS),
    ModelInfo::new("expected, shares", 5, AFTER | STREAMS),
    ModelInfo::new("predicted, minifloats", 6, STREAMS | OF_BITS),
    ModelInfo::new("predicted, minifloats as values", 6, STREAMS | OF_BITS),
    ModelInfo::new("expected, floats", 6, AFTER | STREAMS),
    ModelInfo::new(
        "predicted beside a reference, minifloats",
        6,
        BESIDE | OF_BITS,
    ),
    ModelInfo::new(
        "predicted beside a reference, minifloats as values",
        6,
        BESIDE | OF_BITS,
    ),
    ModelInfo::new("expected, sphere", 6, AFTER | STREAMS),
    ModelInfo::new("expected, sphere, fine levels", 6, AFTER | STREAMS),
    ModelInfo::new("expected, fine levels", 6, AFTER | STREAMS),
    ModelInfo::new("expected, root, stated steps", 7, AFTER | STREAMS),
    ModelInfo::new("expected, root, stated steps, linear", 7, AFTER | STREAMS),
    ModelInfo::new("repeated rows", 8, 0),
    ModelInfo::new("block-sorted, steps", 11, 0),
    ModelInfo::new("block-sorted, bits", 11, OF_BITS),
    ModelInfo::new("block-sorted, root", 11, 0),
    ModelInfo::new("block-sorted, minifloats", 11, OF_BITS),
];

/// The models [`id::SORTED_STEPS_BY_NUMBERS`] and [`id::SORTED_ROOTS_BY_NUMBERS`].
const BY_NUMBERS: [ModelInfo; 2] = [
    ModelInfo::new("block-sorted, steps, by numbers", 13, 0),
    ModelInfo::new("block-sorted, root, by numbers", 13, 0),
];

impl ModelInfo {
    const fn new(name: &'static str, first_version: u8, properties: u8) -> Self {
        Self {
            name,
            first_version,
            properties,
        }
    }

    fn has(&self, property: u8) -> bool {
        self.properties & property != 0
    }
}

/// What is known of a model, or of the one that its rows are those of.
fn info(id: u32) -> &'static ModelInfo {
    match id {
        id::SORTED_STEPS_BY_NUMBERS => &BY_NUMBERS[0],
        id::SORTED_ROOTS_BY_NUMBERS => &BY_NUMBERS[1],
        _ => &MODELS[id::base(id) as usize],
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::PredictionMatrix;

    #[test]
    fn minifloats_of_float32_are_refused() {
        let reference = PredictionMatrix::new(1, vec![0.5]);
        for model in [
            id::ORDERED_MINIFLOATS,
            id::MINIFLOATS,
            id::ORDERED_MINIFLOATS_BESIDE,
            id::MINIFLOATS_BESIDE,
            id::SORTED_MINIFLOATS,
        ] {
            let mut writer = BitWriter::new();
            writer.write(model, 8);
            if FirstByte::of(&[model as u8]).needs_reference() {
                writer.write(beside::checksum(reference.view()), 32);
            }
            write_step(&mut writer, Minifloat::F32.unit());
            writer.write(Minifloat::F32.n_mantissa_bits(), 5);
            let payload = writer.finish();
            let mut reader = BitReader::new(&payload);
            let error = Method::read_from(&mut reader, Some(reference.view())).unwrap_err();
            assert!(
                matches!(error, Error::Corrupt(what) if what.contains("another model")),
                "{model}: {error}"
            );
        }
    }
}
