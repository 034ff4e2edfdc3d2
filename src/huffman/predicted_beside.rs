//! Rows of any values given those of a reference, or given rows before them: each value is predicted from the known row
//! and from the values before it in its own (FORMAT.md, sections 13 and 16).
//!
//! As [`predicted`](super::predicted), but the [`Regression`] has the values of the known row, as differences from its
//! own first row, in front of those of the row, which are differences from these: before it has learned anything, it
//! expects the known row.

use super::Corrupt;
use super::beside::{Beside, KnownRows};
use super::bitstream::{BitReader, BitWriter, Coder};
use super::coded::{Coded, CodedRows, Tables};
use super::contexts::{ContextDecoder, Groups, Sequence, Stream};
use super::meter::Watch;
use super::minifloat::Float;
use super::order::Order;
use super::predicted::{
    FIRST_ROW, NOT_FITTED, Numbers, ORDER, RAW, alphabets, context, exponent, features_of_bits,
    finite, groups_alphabet, predict_bits, round,
};
use super::regression::{Columns, Regression, Ridge, Visitor};
use super::symbols::Symbol;
use super::tokens::{LEVELS, from_zigzag, zigzag};
use crate::matrix::Rows;

const HEAD: usize = 0;

impl Numbers {
    /// A value of the known row as the regression sees it: its distance from the first one of its class.
    #[inline(always)]
    fn known_feature(self, value: f32, first: f32) -> f32 {
        finite(match self {
            Self::Steps(step) => {
                let [value, first] = [value, first].map(|v| f64::from(finite(v)) / step.size());
                (value - first) as f32
            }
            Self::OrderedBits(float) => {
                float.number(value).wrapping_sub(float.number(first)) as f32
            }
            Self::Bits(_) => finite(value) - finite(first),
        })
    }

    /// A number as the regression sees it, given the first one of its class and the feature of the known row.
    #[inline(always)]
    fn feature(self, number: i32, first: i32, known: f32) -> f32 {
        match self {
            Self::Bits(float) => finite(features_of_bits(float, [number], first)[0] - known),
            _ => number.wrapping_sub(first) as f32 - known,
        }
    }
}

/// The state that encoder and decoder share while they walk a row.
struct Walk {
    numbers: Numbers,
    regression: Regression,
    columns: Vec<(usize, usize)>,
    /// The numbers of the first row, once there is one, and the values beside it: those of the reference or, without
    /// one, its own.
    first: Vec<i32>,
    first_known: Vec<f32>,
    /// The numbers of the previous row, if these are the prediction.
    before: Option<Vec<i32>>,
    /// Whether the classes of a row count for predictions of each other.
    are_classes_trusted: bool,
    /// The exponents of the variances of all classes, since the last fit.
    exponents: Vec<i32>,
    /// Features and expectations of the columns of the row at hand.
    features: Vec<f32>,
    expectations: Vec<f32>,
}

impl Walk {
    fn new(numbers: Numbers, n_classes: usize, n_rows: usize, beside: Beside<'_>) -> Self {
        let columns = Columns::new(n_classes);
        let own = match beside {
            Beside::Reference(_) => 0.0,
            Beside::EarlierRows(before) => before.caution.own_ridge(),
        };
        let ridge = Ridge {
            own,
            ..numbers.ridge()
        };
        Self {
            numbers,
            regression: Regression::beside(columns, n_rows, false, ridge),
            columns: columns.of_classes().collect(),
            first: Vec::new(),
            first_known: Vec::new(),
            before: match beside {
                Beside::EarlierRows(before) if before.is_row_before() => Some(Vec::new()),
                _ => None,
            },
            are_classes_trusted: match beside {
                Beside::Reference(_) => true,
                Beside::EarlierRows(before) => before.is_last() || !before.caution.is_most(),
            },
            exponents: vec![0; n_classes],
            features: vec![0.0; columns.count()],
            expectations: vec![0.0; columns.count()],
        }
    }

    /// Takes the first row: its features are 0, and so are those of the row beside it.
    fn start(&mut self, row: &[i32], known: &[f32]) {
        self.first.extend_from_slice(row);
        self.first_known.extend_from_slice(known);
        self.regression.learn_zeros();
    }

    /// Sets the features of the known row.
    #[inline(always)]
    fn take_known(&mut self, known: &[f32]) {
        let known = known.iter().zip(&self.first_known);
        for (&(column, _), (&value, &first)) in self.columns.iter().zip(known) {
            self.features[column] = self.numbers.known_feature(value, first);
        }
    }

    /// Appends the numbers of a row that is not the first: by how much each exceeds its prediction, in its context.
    #[inline(always)]
    fn push_row(&mut self, row: &[i32], known: &[f32], sequence: &mut Sequence) {
        self.take_known(known);
        let numbers = row.iter().zip(&self.first);
        for (&(known, column), (&number, &first)) in self.columns.iter().zip(numbers) {
            let known = self.features[known];
            self.features[column] = self.numbers.feature(number, first, known);
        }
        self.regression
            .expect::<false>(0, &self.features, &mut self.expectations);
        let is_fitted = self.regression.is_fitted();
        for (class, &number) in row.iter().enumerate() {
            let (known, column) = self.columns[class];
            let (mut predicted, context) = predict(
                self.numbers,
                self.first[class],
                match self.are_classes_trusted {
                    true => self.expectations[column] + self.features[known],
                    false => self.features[known],
                },
                is_fitted,
                self.exponents[class],
            );
            if let Some(before) = &self.before {
                predicted = before[class];
            }
            sequence.push_number(context, zigzag(number.wrapping_sub(predicted)));
        }
        self.learn();
    }

    /// Keeps the numbers of a row as those of the previous one.
    fn take_before(&mut self, row: &[i32]) {
        if let Some(before) = &mut self.before {
            before.clear();
            before.extend_from_slice(row);
        }
    }

    /// Learns the row at hand.
    fn learn(&mut self) {
        if self.regression.learn([Some(0)]) {
            for (of_variance, &(_, column)) in self.exponents.iter_mut().zip(&self.columns) {
                *of_variance = exponent(self.regression.variance(column));
            }
        }
    }
}

/// The prediction of a number and its context.
#[inline(always)]
fn predict(
    numbers: Numbers,
    first: i32,
    expectation: f32,
    is_fitted: bool,
    of_variance: i32,
) -> (i32, usize) {
    match numbers {
        Numbers::Bits(float) => {
            let ([predicted], [context]) =
                predict_bits(float, first, [expectation], is_fitted, of_variance);
            (predicted, context.into())
        }
        _ => {
            let context = match is_fitted {
                true => context(of_variance),
                false => NOT_FITTED,
            };
            (first.wrapping_add(round(expectation)), context)
        }
    }
}

/// Codes the rows of `matrix` beside others; bit for bit those marked in `is_exact`, and rows without numbers, which
/// get marked.
#[inline(always)]
pub fn encode(
    matrix: Rows<'_>,
    beside: Beside<'_>,
    is_exact: &mut [bool],
    numbers: Numbers,
    keep_top: usize,
    coder: Coder,
) -> Coded {
    let n_classes = matrix.n_classes();
    let mut walk = Walk::new(numbers, n_classes, matrix.n_rows(), beside);
    let mut order = Order::new(keep_top, n_classes, false, ORDER);
    let mut row_numbers = vec![0; n_classes];
    let mut decoded = vec![0.0; n_classes];
    let mut known_rows = KnownRows::new(beside, None, matrix.n_rows(), n_classes);
    let mut sequences = Sequence::several(1, matrix.values().len(), LEVELS);
    let sequence = &mut sequences[0];
    for (row_number, (row, is_exact)) in matrix.rows().zip(is_exact).enumerate() {
        for (number, &value) in row_numbers.iter_mut().zip(row) {
            *number = match numbers {
                Numbers::Steps(step) => step.quantize(value).unwrap_or_else(|| {
                    *is_exact = true;
                    0
                }),
                Numbers::OrderedBits(float) | Numbers::Bits(float) => float.number(value),
            };
        }
        sequence.push(Symbol::new(HEAD, u32::from(*is_exact)));
        if *is_exact {
            Symbol::of_bits(RAW, row).for_each(|symbol| sequence.push(symbol));
            known_rows.take(row, true);
            continue;
        }
        if !walk.first.is_empty() {
            walk.push_row(&row_numbers, known_rows.row(row_number), sequence);
        }
        if let Beside::EarlierRows(_) = beside {
            numbers.dequantize_row(row_numbers.iter().copied(), &mut decoded);
            known_rows.take(&decoded, false);
        }
        walk.take_before(&row_numbers);
        if walk.first.is_empty() {
            let mut before = 0;
            for &number in &row_numbers {
                sequence.push_number(FIRST_ROW, zigzag(number.wrapping_sub(before)));
                before = number;
            }
            walk.start(
                &row_numbers,
                beside.reference_row(row_number).unwrap_or(&decoded),
            );
        }
        if !numbers.is_exact() {
            order.encode(row, &row_numbers, None, |symbol| sequence.push(symbol));
        }
    }
    let groups = Groups::of(&mut sequences, 1, groups_alphabet(keep_top), coder);
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
    beside: Beside<'_>,
    numbers: Numbers,
    keep_top: usize,
    values: &mut [f32],
    watch: impl Watch,
) -> Result<(), Corrupt> {
    let contexts = ContextDecoder::read_from(reader, 1, groups_alphabet(keep_top), LEVELS)?;
    let alphabets = alphabets(keep_top, contexts.alphabets());
    let (tables, [reader]) = Tables::read_from(reader, &alphabets, watch)?;
    let mut stream = contexts.stream(reader);
    let mut walk = Walk::new(numbers, n_classes, values.len() / n_classes, beside);
    let class_of = Columns::new(n_classes).classes();
    let mut order = Order::new(keep_top, n_classes, false, ORDER);
    let mut row_numbers = vec![0; n_classes];
    let n_rows = values.len() / n_classes;
    let mut known_rows = KnownRows::new(beside, None, n_rows, n_classes);
    for (row_number, row) in values.chunks_exact_mut(n_classes).enumerate() {
        if tables.number(HEAD, &mut stream.reader)? == 1 {
            tables.bits(RAW, &mut stream.reader, row)?;
            known_rows.take(row, true);
            continue;
        }
        let is_first = walk.first.is_empty();
        if is_first {
            let mut last = 0i32;
            for number in &mut row_numbers {
                let difference = contexts.number(FIRST_ROW, &tables, &mut stream)?;
                last = last.wrapping_add(from_zigzag(difference));
                *number = last;
            }
        } else {
            walk.take_known(known_rows.row(row_number));
            let mut visitor = NumberReader {
                stream: &mut stream,
                tables: &tables,
                contexts: &contexts,
                class_of: &class_of,
                columns: &walk.columns,
                numbers,
                is_fitted: walk.regression.is_fitted(),
                first: &walk.first,
                before: walk.before.as_deref(),
                are_classes_trusted: walk.are_classes_trusted,
                exponents: &walk.exponents,
                features: &walk.features,
                row: &mut row_numbers,
            };
            walk.regression.walk([0], &mut visitor)?;
            walk.learn();
        }
        walk.take_before(&row_numbers);
        numbers.dequantize_row(row_numbers.iter().copied(), row);
        known_rows.take(row, false);
        if is_first {
            walk.start(
                &row_numbers,
                beside.reference_row(row_number).unwrap_or(row),
            );
        }
        if !numbers.is_exact() {
            order.decode(row, None, &tables, &mut stream.reader)?;
        }
    }
    tables.finish(stream.reader)
}

/// Reads the numbers of a row; those of the known row come in between, as features only.
struct NumberReader<'a, 'b, W> {
    stream: &'a mut Stream<'b>,
    tables: &'a Tables<W>,
    contexts: &'a ContextDecoder,
    /// The class of each column; `None` for columns of the known row.
    class_of: &'a [Option<usize>],
    columns: &'a [(usize, usize)],
    numbers: Numbers,
    is_fitted: bool,
    first: &'a [i32],
    before: Option<&'a [i32]>,
    are_classes_trusted: bool,
    exponents: &'a [i32],
    features: &'a [f32],
    row: &'a mut [i32],
}

impl<W: Watch> Visitor<1> for NumberReader<'_, '_, W> {
    const IS_SPARSE: bool = false;

    #[inline(always)]
    fn features(&mut self, column: usize, [expectation]: [f32; 1]) -> Result<[f32; 1], Corrupt> {
        let Some(class) = self.class_of[column] else {
            return Ok([self.features[column]]);
        };
        let first = self.first[class];
        let known = self.features[self.columns[class].0];
        let (mut predicted, context) = predict(
            self.numbers,
            first,
            match self.are_classes_trusted {
                true => expectation + known,
                false => known,
            },
            self.is_fitted,
            self.exponents[class],
        );
        if let Some(before) = self.before {
            predicted = before[class];
        }
        let difference = self.contexts.number(context, self.tables, self.stream)?;
        let number = predicted.wrapping_add(from_zigzag(difference));
        self.row[class] = number;
        Ok([self.numbers.feature(number, first, known)])
    }
}
