//! Rows of probabilities given those of a reference, or given rows before them: each class is coded in the context of
//! what the known row and the classes before let expect of it (FORMAT.md, sections 13 and 16).
//!
//! As [`expected`](super::expected), but for three things. The top class is coded by its rank in the known row, jointly
//! with whether the row is certain, in the context of how certain the known row is. The fineness of a row is coded as
//! its difference from that of the last row beside one as certain. And the [`Regression`] has the classes of the known
//! row in front of those of the row, which are differences from these: before it has learned anything, it expects the
//! known row.

use super::Corrupt;
use super::beside::{self, Beside, Known, KnownRows};
use super::bitstream::{BitReader, BitWriter, Coder};
use super::codebook::Alphabet;
use super::coded::{Coded, CodedRows, Tables};
use super::contexts::{ContextDecoder, Groups, N_POSITIONS, Sequence, Stream};
use super::expected::{
    Levels, N_BANDS, Others, Quantized, RIDGE, Scale, feature, first_context, position,
    rest_context,
};
use super::fineness::FinenessFinder;
use super::meter::{Part, Watch};
use super::order::Order;
use super::regression::{Columns, Regression, Ridge, Visitor};
use super::symbols::Symbol;
use super::tokens::{LEVELS, from_zigzag, zigzag};
use crate::matrix::Rows;

const RAW: usize = 0;
const ORDER: usize = 1;

/// The contexts of heads and of finenesses, by the doubt of the known row, after those of levels.
const HEAD: usize = N_BANDS * N_POSITIONS;
const FINENESS: usize = HEAD + N_POSITIONS;

/// The ridge of rows given those before them, which are mostly as expected. Format-stable.
const RIDGE_OF_BEFORE: Ridge = Ridge {
    own: 1.0 / 16.0,
    ..RIDGE
};

/// No model beside a reference has other levels.
const NOT_BESIDE: &str = "levels are uniform or of roots";

fn n_bands(levels: Levels) -> usize {
    match levels {
        Levels::Uniform(_) => N_BANDS + 1,
        Levels::Root { .. } => N_BANDS + 2,
        Levels::Sphere(_) => unreachable!("{NOT_BESIDE}"),
    }
}

/// The floor of probabilities, below which they are not told apart: half a step, or about that. Format-stable.
fn floor(levels: Levels) -> f32 {
    match levels {
        Levels::Uniform(uniform) => 0.5 / uniform.n_levels() as f32,
        Levels::Root { .. } => 1.0 / (1 << 14) as f32,
        Levels::Sphere(_) => unreachable!("{NOT_BESIDE}"),
    }
}

/// The alphabets, given those of the groups.
fn alphabets(keep_top: usize, of_groups: Vec<Alphabet>) -> Vec<Alphabet> {
    let mut alphabets = vec![Alphabet::of_symbols(1).telling(Part::ExactRows)];
    let of_order = Alphabet::of_levels().telling(Part::Order);
    alphabets.resize(groups_alphabet(keep_top), of_order);
    alphabets.extend(of_groups);
    alphabets
}

fn groups_alphabet(keep_top: usize) -> usize {
    ORDER + Order::n_alphabets(keep_top, true)
}

/// The head of an exact row; other heads are twice the rank of the top class, plus 1 if the row is certain.
fn exact_head(n_classes: usize) -> u32 {
    2 * n_classes as u32
}

/// The state that encoder and decoder share.
struct Walk {
    known: Known,
    regression: Regression,
    columns: Vec<(usize, usize)>,
    /// The first context of each class.
    first_contexts: Vec<u16>,
    /// Features and expectations of the columns of the row at hand.
    features: Vec<f32>,
    expectations: Vec<f32>,
    /// The last fineness by doubt of the known row.
    last_fineness: [i32; N_POSITIONS],
}

impl Walk {
    fn new(n_classes: usize, n_rows: usize, beside: Beside) -> Self {
        let columns = Columns::new(n_classes);
        let ridge = match beside {
            Beside::Reference(_) => RIDGE,
            Beside::EarlierRows(_) => RIDGE_OF_BEFORE,
        };
        Self {
            known: Known::nothing(n_classes),
            regression: Regression::beside(columns, n_rows, true, ridge),
            columns: columns.of_classes().collect(),
            first_contexts: vec![0; n_classes],
            features: vec![0.0; columns.count()],
            expectations: vec![0.0; columns.count()],
            last_fineness: [0; N_POSITIONS],
        }
    }

    /// Sets the features of the known row.
    #[inline(always)]
    fn take_known(&mut self, scale: Scale) {
        let known = self.columns.iter().zip(self.known.values());
        match scale {
            Scale::Uniform(uniform) => {
                let n_levels = f64::from(uniform.n_levels());
                for (&(column, _), &value) in known {
                    self.features[column] = beside::feature(value.into(), n_levels);
                }
            }
            Scale::Root(root) => {
                let scale = root.square_of_one() as f64;
                for (&(column, _), &value) in known {
                    let root = (f64::from(value) * scale).sqrt();
                    self.features[column] = beside::feature(root, 1.0);
                }
            }
            Scale::Sphere(_) => unreachable!("{NOT_BESIDE}"),
        }
    }

    /// Appends the levels of all classes but the top one in their contexts.
    #[inline(always)]
    fn push_row(&mut self, top: usize, scale: Scale, levels: &[u32], sequence: &mut Sequence) {
        self.take_known(scale);
        for (&(known, column), &level) in self.columns.iter().zip(levels) {
            self.features[column] = feature(level) - self.features[known];
        }
        self.features[self.columns[top].1] = 0.0;
        self.regression
            .expect::<true>(top, &self.features, &mut self.expectations);
        for (class, (&first, &level)) in self.first_contexts.iter().zip(levels).enumerate() {
            if class != top {
                let (known, column) = self.columns[class];
                let expectation = self.expectations[column] + self.features[known];
                sequence.push_number(usize::from(first) + position(expectation), level);
            }
        }
        self.learn(top);
    }

    /// Learns the row at hand.
    fn learn(&mut self, top: usize) {
        if self.regression.learn([Some(top)]) {
            for (first, &(_, column)) in self.first_contexts.iter_mut().zip(&self.columns) {
                *first = first_context(self.regression.variance(column));
            }
        }
    }
}

/// Codes the rows of `matrix` beside others; those marked in `is_exact` bit for bit.
#[inline(always)]
pub fn encode(
    matrix: Rows<'_>,
    beside: Beside,
    is_exact: &[bool],
    levels: Levels,
    keep_top: usize,
    coder: Coder,
) -> Coded {
    let n_classes = matrix.n_classes();
    let mut walk = Walk::new(n_classes, matrix.n_rows(), beside);
    let mut order = Order::new(keep_top, n_classes, true, ORDER);
    let mut row_levels = vec![0; n_classes];
    let mut finder = FinenessFinder::new(levels);
    let mut decoded = vec![0.0; n_classes];
    let needs = finder.needs(matrix, is_exact, |row| {
        match beside {
            Beside::Reference(reference) => walk.known.take(reference.row(row)),
            // How the rows before will be decoded is not known yet: take the originals.
            Beside::EarlierRows(before) => {
                let rows = &matrix.values()[..row * n_classes];
                before.fill(rows, Some(floor(levels)), &mut decoded);
                walk.known.take(&decoded);
            }
        }
        walk.known.doubt()
    });
    let mut known_rows = KnownRows::new(beside, Some(floor(levels)), matrix.n_rows(), n_classes);
    let mut sequences = Sequence::several(1, matrix.values().len(), LEVELS);
    let sequence = &mut sequences[0];
    for (row_number, (row, &is_exact)) in matrix.rows().zip(is_exact).enumerate() {
        walk.known.take(known_rows.row(row_number));
        let doubt = walk.known.doubt();
        if is_exact {
            sequence.push_number(HEAD + doubt, exact_head(n_classes));
            Symbol::of_bits(RAW, row).for_each(|symbol| sequence.push(symbol));
            known_rows.take(row, true);
            continue;
        }
        let quantized = Quantized::of(
            row,
            levels,
            &mut finder,
            &needs,
            row_number,
            &mut row_levels,
        );
        let Quantized { top, scale, others } = quantized;
        let is_certain = quantized.is_certain(&row_levels);
        let head = 2 * walk.known.rank(top) as u32 + u32::from(is_certain);
        sequence.push_number(HEAD + doubt, head);
        if let Scale::Root(root) = scale {
            let last = std::mem::replace(&mut walk.last_fineness[doubt], root.fineness() as i32);
            sequence.push_number(FINENESS + doubt, zigzag(root.fineness() as i32 - last));
        }
        if !is_certain {
            walk.push_row(top, scale, &row_levels, sequence);
            let distance = quantized.distance(&row_levels);
            sequence.push_number(rest_context(others.n), zigzag(distance));
        }
        if let Beside::EarlierRows(_) = beside {
            scale
                .dequantize_row(&row_levels, top, &mut decoded)
                .expect("the levels of a row of probabilities");
            known_rows.take(&decoded, false);
        }
        order.encode(row, &row_levels, Some(top), |symbol| sequence.push(symbol));
    }
    let first_alphabet = groups_alphabet(keep_top);
    let groups = Groups::of(&mut sequences, n_bands(levels), first_alphabet, coder);
    Coded {
        alphabets: alphabets(keep_top, groups.alphabets()),
        choices: BitWriter::new(),
        rows: CodedRows::InContexts(groups, sequences),
    }
}

/// Decodes the rows of a block beside others.
///
/// # Errors
/// [`Corrupt`] if the payload is not what an encoder writes.
#[inline(always)]
pub fn decode(
    reader: &mut BitReader,
    n_classes: usize,
    beside: Beside,
    levels: Levels,
    keep_top: usize,
    values: &mut [f32],
    watch: impl Watch,
) -> Result<(), Corrupt> {
    let contexts =
        ContextDecoder::read_from(reader, n_bands(levels), groups_alphabet(keep_top), LEVELS)?;
    let alphabets = alphabets(keep_top, contexts.alphabets());
    let (tables, [reader]) = Tables::read_from(reader, &alphabets, watch)?;
    let mut decoder = Decoder {
        tables,
        stream: contexts.stream(reader),
        contexts,
        walk: Walk::new(n_classes, values.len() / n_classes, beside),
        class_of: Columns::new(n_classes).classes(),
        row_levels: vec![0; n_classes],
    };
    let mut order = Order::new(keep_top, n_classes, true, ORDER);
    let n_rows = values.len() / n_classes;
    let mut known_rows = KnownRows::new(beside, Some(floor(levels)), n_rows, n_classes);
    for (row_number, row) in values.chunks_exact_mut(n_classes).enumerate() {
        decoder.walk.known.take(known_rows.row(row_number));
        let doubt = decoder.walk.known.doubt();
        let head = decoder.number(HEAD + doubt)?;
        if head == exact_head(n_classes) {
            decoder.tables.bits(RAW, &mut decoder.stream.reader, row)?;
            known_rows.take(row, true);
            continue;
        }
        let top = decoder
            .walk
            .known
            .class(head as usize / 2)
            .ok_or(Corrupt("a top class does not exist"))?;
        let scale = match levels {
            Levels::Uniform(uniform) => Scale::Uniform(uniform),
            Levels::Root { roots, .. } => {
                let number = decoder.number(FINENESS + doubt)?;
                let last = &mut decoder.walk.last_fineness[doubt];
                *last = from_zigzag(number).wrapping_add(*last);
                Scale::Root(roots.root(*last)?)
            }
            Levels::Sphere(_) => unreachable!("{NOT_BESIDE}"),
        };
        if head % 2 == 1 {
            decoder.row_levels.fill(0);
            decoder.row_levels[top] = Others::default().likely_top(scale);
        } else {
            decoder.levels(top, scale)?;
        }
        scale.dequantize_row(&decoder.row_levels, top, row)?;
        known_rows.take(row, false);
        let reader = &mut decoder.stream.reader;
        order.decode(row, Some(top), &decoder.tables, reader)?;
    }
    decoder.tables.finish(decoder.stream.reader)
}

struct Decoder<'a, W> {
    tables: Tables<W>,
    stream: Stream<'a>,
    contexts: ContextDecoder,
    walk: Walk,
    /// The class of each column; `None` for columns of the known row.
    class_of: Vec<Option<usize>>,
    row_levels: Vec<u32>,
}

impl<W: Watch> Decoder<'_, W> {
    #[inline(always)]
    fn number(&mut self, context: usize) -> Result<u32, Corrupt> {
        self.contexts
            .number(context, &self.tables, &mut self.stream)
    }

    /// Decodes the levels of a row.
    #[inline(always)]
    fn levels(&mut self, top: usize, scale: Scale) -> Result<(), Corrupt> {
        self.walk.take_known(scale);
        let max_number = scale.max_number();
        let mut visitor = LevelReader {
            stream: &mut self.stream,
            tables: &self.tables,
            contexts: &self.contexts,
            first_contexts: &self.walk.first_contexts,
            class_of: &self.class_of,
            columns: &self.walk.columns,
            features: &self.walk.features,
            top,
            max_number,
            row_levels: &mut self.row_levels,
            others: Others::default(),
        };
        self.walk.regression.walk([top], &mut visitor)?;
        let others = visitor.others;
        self.walk.learn(top);
        let rest = self.number(rest_context(others.n))?;
        self.row_levels[top] = others.top(scale, from_zigzag(rest))?;
        Ok(())
    }
}

/// Reads the levels of all classes but the top one; the features of the known row are there.
struct LevelReader<'a, 'b, W> {
    stream: &'a mut Stream<'b>,
    tables: &'a Tables<W>,
    contexts: &'a ContextDecoder,
    first_contexts: &'a [u16],
    class_of: &'a [Option<usize>],
    columns: &'a [(usize, usize)],
    features: &'a [f32],
    top: usize,
    max_number: u32,
    row_levels: &'a mut [u32],
    others: Others,
}

impl<W: Watch> Visitor<1> for LevelReader<'_, '_, W> {
    const IS_SPARSE: bool = true;

    #[inline(always)]
    fn features(&mut self, column: usize, [expectation]: [f32; 1]) -> Result<[f32; 1], Corrupt> {
        let Some(class) = self.class_of[column] else {
            return Ok([self.features[column]]);
        };
        if class == self.top {
            return Ok([0.0]);
        }
        let known = self.features[self.columns[class].0];
        let context = usize::from(self.first_contexts[class]) + position(expectation + known);
        let level = self.contexts.number(context, self.tables, self.stream)?;
        if level > self.max_number {
            return Err(Corrupt("a level is out of range"));
        }
        self.row_levels[class] = level;
        if level > 0 {
            self.others.add(level);
        }
        Ok([feature(level) - known])
    }
}
