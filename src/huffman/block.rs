//! One block: rows to payload and back (FORMAT.md, section 5).
//!
//! A payload begins with a bitstream: which model codes the rows and how, what that model needs, the codebooks
//! of its alphabets. Then come the symbols of the rows, in the same bitstream or in several. Nothing outside the
//! payload but the numbers of rows and classes, and of classes whose order is kept, is needed to decode it.

use super::beside::Beside;
use super::bitstream::{BitReader, BitWriter, Coder};
use super::codebook::{read_gamma, write_gamma};
use super::coded::{Coded, Payload, write_rows};
use super::meter::{Meter, PayloadBits, Watch};
use super::models::{FirstByte, Given, Method, N_STREAMS, RowModel, id};
use super::repeats::{self, Repeats};
use super::symbols::TopClasses;
use super::tabled;
use super::{
    Corrupt, Error, expected, expected_beside, plain, predicted, predicted_beside, ranked,
};
use crate::matrix::{PredictionMatrix, Rows};

/// The first version of the format that can code a payload in this way.
pub fn first_version(payload: &[u8]) -> u8 {
    let first = FirstByte::of(payload).first_version();
    // The number of rows does not matter here.
    match Repeated::read_from(payload, usize::MAX) {
        Ok(Some(repeated)) => first.max(FirstByte::of(repeated.distinct).first_version()),
        _ => first,
    }
}

/// About how many bytes the decoder of a payload takes beside the payload and the values, to learn from the rows.
pub fn n_working_bytes(payload: &[u8], n_rows: usize, n_classes: usize, keep_top: usize) -> u64 {
    if let Ok(Some(repeated)) = Repeated::read_from(payload, n_rows) {
        let n_distinct = repeated.n_distinct;
        let of_distinct = n_working_bytes(repeated.distinct, n_distinct, n_classes, keep_top);
        let of_each = 4 * n_classes as u64 + repeats::N_WORKING_BYTES;
        return of_distinct + n_distinct as u64 * of_each;
    }
    FirstByte::of(payload).n_working_bytes(n_rows, n_classes, keep_top)
}

/// Whether the model of a payload codes all rows bit for bit.
pub fn is_of_bits(payload: &[u8]) -> bool {
    // The number of rows does not matter here.
    if let Ok(Some(repeated)) = Repeated::read_from(payload, usize::MAX) {
        return is_of_bits(repeated.distinct);
    }
    FirstByte::of(payload).is_of_bits()
}

/// Encodes which distinct row each row is, as it stands in a payload of repeated rows.
pub fn encode_repeats(repeats: &Repeats) -> Payload {
    write_rows(Coder::Huffman, 1, repeats.encode(), BitWriter::new())
}

/// Joins the payload of the distinct rows and [which of these](encode_repeats) each row is.
pub fn join_repeated(n_distinct: usize, distinct: Payload, rows: Payload) -> Payload {
    let parts = Repeated {
        n_distinct,
        distinct: &distinct.bytes,
        rows: &rows.bytes,
    };
    let bytes = parts.to_bytes();
    let mut counts = distinct.counts;
    counts += rows.counts;
    counts.codebooks += 8 * (bytes.len() - distinct.bytes.len() - rows.bytes.len()) as u64;
    Payload { bytes, counts }
}

/// The parts of a payload of [repeated](repeats) rows.
struct Repeated<'a> {
    n_distinct: usize,
    /// The payload of the distinct rows.
    distinct: &'a [u8],
    /// The distinct row that each row is.
    rows: &'a [u8],
}

impl<'a> Repeated<'a> {
    fn to_bytes(&self) -> Vec<u8> {
        let mut writer = BitWriter::new();
        writer.write(id::REPEATED, 8);
        write_gamma(&mut writer, self.n_distinct as u32);
        write_gamma(&mut writer, self.distinct.len() as u32 + 1);
        [&writer.finish(), self.distinct, self.rows].concat()
    }

    /// The parts of a payload of `n_rows` rows; `None` if these are not repeated ones.
    fn read_from(payload: &'a [u8], n_rows: usize) -> Result<Option<Self>, Corrupt> {
        if !FirstByte::of(payload).is_repeated() {
            return Ok(None);
        }
        let mut reader = BitReader::new(payload);
        if reader.read(8)? != id::REPEATED {
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
        match FirstByte::of(distinct).is_repeated() {
            false => Ok(Some(Self {
                n_distinct,
                distinct,
                rows,
            })),
            true => Err(Corrupt("repeated rows are nested")),
        }
    }

    /// Decodes all rows, given the distinct ones; the watch sees which of these each row is.
    fn decode_rows(
        &self,
        n_rows: usize,
        distinct: &PredictionMatrix,
        watch: impl Watch,
    ) -> Result<PredictionMatrix, Error> {
        let mut values = vec![0.0; n_rows * distinct.n_classes()];
        let reader = BitReader::new(self.rows);
        repeats::decode(reader, distinct.view(), &mut values, watch)?;
        Ok(PredictionMatrix::new(distinct.n_classes(), values))
    }
}

/// Encodes the rows of `matrix` in one way: those marked in `is_exact` bit for bit, the others beside those of a
/// reference if the model needs it. Rows that cannot be coded otherwise get marked.
pub fn encode(
    method: Method,
    matrix: Rows<'_>,
    reference: Option<Rows<'_>>,
    is_exact: &mut [bool],
    keep_top: usize,
) -> Payload {
    let coded = pulp::Arch::new().dispatch(Coding {
        method,
        matrix,
        reference,
        is_exact,
        keep_top,
    });
    let mut writer = BitWriter::new();
    method.write_to(reference, &mut writer);
    write_rows(method.coder, method.n_streams, coded, writer)
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

/// Decodes a payload as [`decode`] does, given the rows of the reference beside those that were coded.
///
/// # Errors
/// As [`decode`], and [`Error::WrongReference`] if the rows were coded given other ones.
///
/// # Panics
/// If `reference` has not `n_rows` rows of `n_classes`.
pub fn decode_beside(
    payload: &[u8],
    n_rows: usize,
    n_classes: usize,
    reference: Option<Rows<'_>>,
    keep_top: usize,
) -> Result<PredictionMatrix, Error> {
    decode_watched(payload, n_rows, n_classes, reference, keep_top, ())
}

/// Decodes a payload as [`decode_beside`] does, and hands its rows over in order; ranked ones some at a time, so that
/// whoever looks at them finds them in the cache.
///
/// # Errors
/// As [`decode_beside`]. Some rows may have been handed over.
pub fn decode_in_parts(
    payload: &[u8],
    n_rows: usize,
    n_classes: usize,
    reference: Option<Rows<'_>>,
    keep_top: usize,
    mut take: impl FnMut(Rows<'_>),
) -> Result<(), Error> {
    /// About how many values are handed over at a time.
    const PART: usize = 1 << 12;
    let mut reader = BitReader::new(payload);
    if !FirstByte::of(payload).is_repeated()
        && let method = Method::read_from(&mut reader, reference)?
        && let RowModel::Ranked(uniform) = method.model.rows
    {
        reader.expect(method.coder);
        let tops = TopClasses::new(n_classes, method.model.given == Given::PreviousTop);
        let (mut decoder, mut reader) =
            ranked::RowDecoder::read_from(&mut reader, tops, uniform, keep_top, ())?;
        let n_rows_of_part = (PART / n_classes).max(1);
        let mut part = vec![0.0; n_rows_of_part.min(n_rows) * n_classes];
        for first in (0..n_rows).step_by(n_rows_of_part) {
            let part = &mut part[..n_rows_of_part.min(n_rows - first) * n_classes];
            part.fill(0.0);
            decoder.rows(&mut reader, part)?;
            take(Rows::new(n_classes, part));
        }
        return Ok(decoder.finish(reader)?);
    }
    take(decode_beside(payload, n_rows, n_classes, reference, keep_top)?.view());
    Ok(())
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
    let meter = Meter::new(distinct.len());
    let decoded = decode_watched(distinct, n_distinct, n_classes, None, keep_top, &meter)?;
    let mut bits = meter.finish();
    let meter = Meter::new(rows.len());
    repeated.decode_rows(n_rows, &decoded, &meter)?;
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
        let distinct = decode(repeated.distinct, repeated.n_distinct, n_classes, keep_top)?;
        return repeated.decode_rows(n_rows, &distinct, watch);
    }
    let mut reader = BitReader::new(payload);
    let method = Method::read_from(&mut reader, reference)?;
    reader.expect(method.coder);
    let mut values = vec![0.0; n_rows * n_classes];
    pulp::Arch::new().dispatch(Decoding {
        method,
        reference,
        reader: &mut reader,
        n_classes,
        keep_top,
        rows: &mut values,
        watch,
    })?;
    Ok(PredictionMatrix::new(n_classes, values))
}

/// Encoding with the vector instructions of this machine, which compute as the others do: nothing is fused or
/// reordered.
struct Coding<'a> {
    method: Method,
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
        let Method {
            model,
            coder,
            n_streams,
        } = self.method;
        let tops = TopClasses::new(matrix.n_classes(), model.given == Given::PreviousTop);
        match (model.rows, beside(model.given, self.reference)) {
            (RowModel::Ranked(uniform), _) => {
                ranked::encode(matrix, is_exact, uniform, tops, keep_top)
            }
            (RowModel::Expected(levels), Some(beside)) => {
                expected_beside::encode(matrix, beside, is_exact, levels, keep_top, coder)
            }
            (RowModel::Expected(levels), None) => {
                // Where expectations change after each row, rows cannot be walked side by side.
                let are_alone = tops.are_after() || matrix.n_rows() < 8 * N_STREAMS;
                match are_alone && n_streams == 1 {
                    true => {
                        expected::encode::<1>(matrix, is_exact, levels, tops, keep_top, coder, 1)
                    }
                    false => expected::encode::<N_STREAMS>(
                        matrix, is_exact, levels, tops, keep_top, coder, n_streams,
                    ),
                }
            }
            (RowModel::Predicted(numbers), Some(beside)) => {
                predicted_beside::encode(matrix, beside, is_exact, numbers, keep_top, coder)
            }
            (RowModel::Predicted(numbers), None) => match n_streams {
                1 => predicted::encode::<1>(matrix, is_exact, numbers, keep_top, coder),
                _ => predicted::encode::<N_STREAMS>(matrix, is_exact, numbers, keep_top, coder),
            },
            (RowModel::Multiples(multiples), _) => multiples.encode(matrix, is_exact, keep_top),
            (RowModel::Bits, _) => plain::encode_bits(matrix),
            (RowModel::Tabled(by), _) => tabled::encode(matrix, by, coder),
            (RowModel::BlockSorted(sorted), _) => sorted.encode(matrix, is_exact, keep_top, coder),
        }
    }
}

/// The rows given which others are coded.
fn beside(given: Given, reference: Option<Rows<'_>>) -> Option<Beside<'_>> {
    match given {
        Given::Nothing | Given::PreviousTop => None,
        // Such a model is chosen, or read, only where there is one.
        Given::Reference => Some(Beside::Reference(reference.expect("a reference"))),
        Given::EarlierRows(before) => Some(Beside::EarlierRows(before)),
    }
}

struct Decoding<'a, 'b, W> {
    method: Method,
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
        let model = self.method.model;
        let tops = TopClasses::new(n_classes, model.given == Given::PreviousTop);
        let rows = self.rows;
        match (model.rows, beside(model.given, self.reference)) {
            (RowModel::Ranked(uniform), _) => {
                ranked::decode(reader, tops, uniform, keep_top, rows, watch)
            }
            (RowModel::Expected(levels), Some(beside)) => {
                expected_beside::decode(reader, n_classes, beside, levels, keep_top, rows, watch)
            }
            (RowModel::Expected(levels), None) => match self.method.n_streams {
                1 => expected::decode::<1>(reader, tops, levels, keep_top, rows, watch),
                _ => expected::decode::<N_STREAMS>(reader, tops, levels, keep_top, rows, watch),
            },
            (RowModel::Predicted(numbers), Some(beside)) => {
                predicted_beside::decode(reader, n_classes, beside, numbers, keep_top, rows, watch)
            }
            (RowModel::Predicted(numbers), None) => match self.method.n_streams {
                1 => predicted::decode::<1>(reader, n_classes, numbers, keep_top, rows, watch),
                _ => predicted::decode::<N_STREAMS>(
                    reader, n_classes, numbers, keep_top, rows, watch,
                ),
            },
            (RowModel::Multiples(multiples), _) => {
                multiples.decode(reader, n_classes, keep_top, rows, watch)
            }
            (RowModel::Bits, _) => plain::decode_bits(reader, rows, watch),
            (RowModel::Tabled(by), _) => tabled::decode(reader, n_classes, by, rows, watch),
            (RowModel::BlockSorted(sorted), _) => {
                sorted.decode(reader, n_classes, keep_top, rows, watch)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::beside::{self, Caution, EarlierRows};
    use super::super::block_sorted::{BlockSorted, Contexts, Scan, Values};
    use super::super::candidates::models_of_bits;
    use super::super::choice;
    use super::super::expected::Levels;
    use super::super::minifloat::Minifloat;
    use super::super::models::Model;
    use super::super::noise;
    use super::super::plain::Multiples;
    use super::super::predicted::Numbers;
    use super::super::promise::{Bound, Kind, Promise};
    use super::super::quantizer::{Roots, Step, Uniform};
    use super::super::sphere::Sphere;
    use super::super::tabled::By;
    use super::*;

    /// The multiples of a step from 0 to 1, for probabilities.
    fn multiples(step: Step) -> Multiples {
        Multiples {
            step,
            least: 0,
            range: step.quantize(1.0).unwrap() as u32,
        }
    }

    const EXACT_MODELS: [RowModel; 6] = [
        RowModel::Bits,
        RowModel::Predicted(Numbers::OrderedBits(Minifloat::F32)),
        RowModel::Predicted(Numbers::Bits(Minifloat::F32)),
        RowModel::Tabled(By::Class),
        RowModel::Tabled(By::PreviousValue),
        RowModel::Tabled(By::PreviousRow),
    ];
    const EVERY_ROW: [bool; 1000] = [false; 1000];

    fn uniform_models(max_error: f64) -> [RowModel; 2] {
        let uniform = Uniform::new(max_error).unwrap();
        [
            RowModel::Ranked(uniform),
            RowModel::Expected(Levels::Uniform(uniform)),
        ]
    }

    /// A model of every kind, but for those beside a reference.
    fn every_model() -> Vec<Model> {
        every_row_model()
            .into_iter()
            .flat_map(alone_and_after)
            .collect()
    }

    /// The models of these rows, but for those beside a reference.
    fn alone_and_after(rows: RowModel) -> impl Iterator<Item = Model> {
        let [least, .., more, most] = Caution::ALL;
        let earlier = [(1, true, least), (2, false, more), (3, true, most)];
        let earlier = earlier.map(|(lag, is_gradient, caution)| EarlierRows {
            lag,
            is_gradient,
            caution,
        });
        let before = Caution::ALL
            .map(EarlierRows::last)
            .into_iter()
            .chain(earlier);
        let all = [Given::Nothing, Given::PreviousTop]
            .into_iter()
            .chain(before.map(Given::EarlierRows));
        all.filter_map(move |given| rows.given(given))
    }

    fn every_row_model() -> Vec<RowModel> {
        let [ranked, expected] = uniform_models(0.002);
        let step = Step::new(0.002, 1.0).unwrap();
        let [as_such, as_values] = models_of_bits(float16());
        let roots = |roots| {
            let max_kl = 1e-3;
            RowModel::Expected(Levels::Root { roots, max_kl })
        };
        let others = [
            ranked,
            expected,
            roots(Roots::HALVING),
            roots(Roots::of_steps(2)),
            roots(Roots::of_steps(3).linear()),
            RowModel::Predicted(Numbers::Steps(step)),
            RowModel::Multiples(multiples(step)),
            RowModel::Expected(Levels::Uniform(
                Uniform::from_levels(255).unwrap().into_shares().unwrap(),
            )),
            as_such,
            as_values,
            RowModel::Expected(Levels::Uniform(Uniform::floats(1 << 24, 10).unwrap())),
            RowModel::Expected(Levels::Sphere(Sphere::new(54).unwrap())),
            RowModel::Expected(Levels::Sphere(Sphere::new(170).unwrap().with_fine_tokens())),
            RowModel::Expected(Levels::Uniform(
                Uniform::new(0.002).unwrap().with_fine_tokens(),
            )),
        ];
        let of_sorted = [
            Values::Steps(step),
            Values::Bits(Minifloat::F32),
            Values::Bits(float16()),
            Values::Roots {
                roots: Roots::HALVING,
                max_kl: 1e-3,
            },
        ];
        let sorted = of_sorted.into_iter().flat_map(block_sorted);
        let models = EXACT_MODELS.into_iter().chain(others);
        models.chain(sorted).collect()
    }

    /// The block-sorted models of such values.
    fn block_sorted(values: Values) -> impl Iterator<Item = RowModel> {
        let contexts = match values.contexts() {
            Contexts::OfRanks => &[Contexts::OfRanks][..],
            Contexts::OfNumbers => &[Contexts::OfRanks, Contexts::OfNumbers],
        };
        let scans = contexts
            .iter()
            .flat_map(|&contexts| Scan::ALL.map(|scan| (contexts, scan)));
        scans.map(move |(contexts, scan)| {
            RowModel::BlockSorted(BlockSorted {
                values,
                scan,
                contexts,
            })
        })
    }

    fn float16() -> Minifloat {
        let unit = (1.0 / (1 << 24) as f64).to_bits();
        Minifloat::new(Step::from_bits(unit).unwrap(), 10).unwrap()
    }

    /// Every model in each way.
    fn every_method() -> impl Iterator<Item = Method> {
        every_model().into_iter().flat_map(methods)
    }

    /// All ways to code with a model.
    fn methods(model: Model) -> impl Iterator<Item = Method> {
        let n_streams: &[usize] = match (model.rows, model.given) {
            (RowModel::Expected(_), Given::Nothing | Given::PreviousTop)
            | (RowModel::Predicted(_), Given::Nothing) => &[1, N_STREAMS],
            _ => &[1],
        };
        let coders = [Coder::Huffman, Coder::Ans].into_iter();
        coders.flat_map(move |coder| {
            n_streams.iter().map(move |&n_streams| Method {
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

    /// References for rows: the same rows, others, and arbitrary bits.
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

    fn assert_kept(rows: RowModel, matrix: &PredictionMatrix, promise: &Promise) {
        for method in alone_and_after(rows).flat_map(methods) {
            assert_kept_beside(method, matrix, None, promise);
        }
        for method in rows.given(Given::Reference).into_iter().flat_map(methods) {
            for reference in references(matrix) {
                assert_kept_beside(method, matrix, Some(reference.view()), promise);
            }
        }
    }

    fn assert_kept_beside(
        method: Method,
        matrix: &PredictionMatrix,
        reference: Option<Rows<'_>>,
        promise: &Promise,
    ) {
        let (n_rows, n_classes, keep_top) = (matrix.n_rows(), matrix.n_classes(), promise.keep_top);
        let mut is_exact = vec![false; n_rows];
        let Payload {
            bytes: payload,
            counts,
        } = encode(method, matrix.view(), reference, &mut is_exact, keep_top);
        assert_eq!(
            FirstByte::of(&payload).needs_reference(),
            reference.is_some()
        );
        let version = match method.model.rows {
            _ if method.model.id() >= 59 => 12,
            _ if method.model.is_after() => 9,
            RowModel::Predicted(Numbers::OrderedBits(of) | Numbers::Bits(of)) if !of.is_f32() => 6,
            RowModel::Expected(Levels::Root { roots, .. }) if roots != Roots::HALVING => 7,
            RowModel::Expected(Levels::Uniform(uniform))
                if uniform.is_floats() || uniform.has_fine_tokens() =>
            {
                6
            }
            RowModel::Expected(Levels::Sphere(_)) => 6,
            RowModel::Tabled(_) => 5,
            RowModel::BlockSorted(sorted) => match sorted.contexts {
                Contexts::OfRanks => 11,
                Contexts::OfNumbers => 13,
            },
            RowModel::Expected(Levels::Uniform(uniform)) if uniform.is_shares() => 5,
            RowModel::Expected(_) if method.n_streams > 1 => 4,
            _ if method.coder == Coder::Ans || method.n_streams > 1 => 3,
            _ => 1,
        };
        assert_eq!(FirstByte::of(&payload).first_version(), version);
        let n_streams = method.n_streams as u64;
        let spent = counts.codebooks + counts.codes + counts.raw;
        // Each bitstream but the last ends with padding.
        assert!(payload.len() as u64 >= spent.div_ceil(8));
        assert!(payload.len() as u64 <= (spent + 7 * (n_streams - 1)).div_ceil(8));
        // The first state of rANS holds up to 16 bits of symbols, and where states are rounded to shares, some
        // sequences take a little less than their entropy.
        let least = match method.coder {
            Coder::Huffman => counts.entropy - 1e-6 * (1.0 + counts.entropy),
            Coder::Ans => 0.94 * counts.entropy - 16.0 * method.n_streams as f64,
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
                "{promise:?} {method:?}: {original:?} {decoded:?}"
            );
        }
    }

    /// Checks that all models keep their promises of probabilities.
    fn assert_all_kept(matrix: &PredictionMatrix, max_error: f64, keep_top: usize) {
        for model in uniform_models(max_error) {
            assert_kept(
                model,
                matrix,
                &promise(Bound::MaxError(max_error), keep_top),
            );
        }
        if let Some(step) = Step::new(max_error, 1.0) {
            let steps = Numbers::Steps(step);
            let others = [
                RowModel::Predicted(steps),
                RowModel::Multiples(multiples(step)),
            ];
            for model in others.into_iter().chain(block_sorted(Values::Steps(step))) {
                let promise = promise(Bound::MaxError(max_error), keep_top);
                assert_kept(model, matrix, &promise);
            }
        }
        let bits = Values::Bits(Minifloat::F32);
        for model in EXACT_MODELS.into_iter().chain(block_sorted(bits)) {
            assert_kept(model, matrix, &promise(Bound::Exact, 1));
        }
    }

    #[test]
    fn rows_in_which_many_classes_are_alike_survive() {
        let values: Vec<f32> = (0..20 * 200)
            .map(|i| match i / 200 * 10 > i % 200 {
                true => 0.25 + 1e-4 * (i % 7) as f32,
                false => 0.0,
            })
            .collect();
        for keep_top in [1, 3] {
            assert_all_kept(&PredictionMatrix::new(200, values.clone()), 0.01, keep_top);
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
    fn the_row_before_is_not_told_as_an_earlier_one() {
        let payload = |lag: u32, is_gradient: bool| {
            let mut writer = BitWriter::new();
            writer.write(id::EARLIER, 8);
            write_gamma(&mut writer, 255);
            write_gamma(&mut writer, lag);
            writer.write(is_gradient.into(), 1);
            writer.finish()
        };
        let read = |lag, is_gradient| {
            let payload = payload(lag, is_gradient);
            Method::read_from(&mut BitReader::new(&payload), None)
        };
        for (lag, is_gradient) in [(1, true), (2, false), (1000, true), ((1 << 24) + 5, false)] {
            let Given::EarlierRows(before) = read(lag, is_gradient).unwrap().model.given else {
                panic!("{lag}");
            };
            assert_eq!((before.lag, before.is_gradient), (lag, is_gradient));
        }
        let error = read(1, false).unwrap_err().to_string();
        assert!(error.contains("that of another model"), "{error}");
    }

    #[test]
    fn rows_handed_over_in_parts_are_those_decoded_at_once() {
        let uniform = Uniform::new(0.01).unwrap();
        let models = [Given::Nothing, Given::PreviousTop]
            .map(|given| RowModel::Ranked(uniform).given(given).unwrap());
        for (n_classes, n_rows) in [(3, 5000), (100, 130), (5000, 3), (7, 0)] {
            let value = |i: usize| match noise(i) % n_classes as u32 {
                0 => 0.5,
                1 => 0.1,
                _ => 0.0,
            };
            let values = (0..n_rows * n_classes).map(value).collect();
            let matrix = PredictionMatrix::new(n_classes, values);
            let all = models.into_iter().flat_map(methods);
            for (method, keep_top) in all.flat_map(|method| [(method, 1), (method, 3)]) {
                let mut is_exact: Vec<bool> = (0..n_rows).map(|row| row % 9 == 4).collect();
                let mut payload =
                    encode(method, matrix.view(), None, &mut is_exact, keep_top).bytes;
                assert_same_in_parts(&payload, n_rows, n_classes, keep_top);
                // Damage, from the parameters to the last rows.
                for bit in (8..8 * payload.len()).step_by(payload.len() / 20 + 7) {
                    payload[bit / 8] ^= 1 << (bit % 8);
                    assert_same_in_parts(&payload, n_rows, n_classes, keep_top);
                    payload[bit / 8] ^= 1 << (bit % 8);
                }
            }
        }
    }

    fn assert_same_in_parts(payload: &[u8], n_rows: usize, n_classes: usize, keep_top: usize) {
        let mut parts: Vec<u32> = Vec::new();
        let take = |rows: Rows<'_>| parts.extend(rows.values().iter().map(|v| v.to_bits()));
        let in_parts = decode_in_parts(payload, n_rows, n_classes, None, keep_top, take);
        match decode(payload, n_rows, n_classes, keep_top) {
            Ok(whole) => {
                in_parts.unwrap();
                assert!(whole.values().iter().map(|v| v.to_bits()).eq(parts));
            }
            Err(error) => assert_eq!(in_parts.unwrap_err().to_string(), error.to_string()),
        }
    }

    #[test]
    fn several_bitstreams_of_a_model_that_has_one_are_refused() {
        for model in [
            0, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 20, 21, 28, 29, 30, 31, 40, 41, 42, 43, 44, 52,
            53, 59, 60, 61, 62, 63u8,
        ] {
            let reference = PredictionMatrix::new(1, vec![0.5]);
            let checksum = beside::checksum(reference.view()).to_le_bytes();
            let payload = [&[model | 0x40][..], &checksum, &[0xFF; 30]].concat();
            let error = decode_beside(&payload, 1, 1, Some(reference.view()), 1).unwrap_err();
            assert!(
                matches!(error, Error::Corrupt(what) if what.contains("several bitstreams")),
                "{model}: {error}"
            );
        }
    }

    #[test]
    fn one_float16_that_is_no_part_of_1_survives() {
        let value = 3.0 / (1 << 24) as f32;
        let matrix = PredictionMatrix::new(1, vec![value]);
        let numbers = Minifloat::of(matrix.values()).unwrap();
        assert!(Uniform::of_minifloats(numbers, matrix.values()).is_none());
        for model in models_of_bits(numbers) {
            assert_kept(model, &matrix, &promise(Bound::Exact, 1));
        }
    }

    #[test]
    fn many_large_levels_of_floats_survive() {
        // The sum of their squares exceeds 64 bits.
        let mut ones = vec![1.0; 2 << 17];
        ones[5] = half::f16::from_f32(0.3).to_f32();
        let matrix = PredictionMatrix::new(1 << 17, ones);
        let model = RowModel::Expected(Levels::Uniform(Uniform::floats(1 << 24, 10).unwrap()));
        assert_kept(model, &matrix, &promise(Bound::Exact, 1));
    }

    #[test]
    fn rows_marked_exact_keep_every_bit() {
        let matrix = PredictionMatrix::new(2, vec![f32::NAN, -7.5, 0.25, 0.75]);
        let steps = RowModel::Predicted(Numbers::Steps(Step::new(0.1, 1.0).unwrap()));
        let models = uniform_models(0.1).into_iter().chain([steps]);
        for method in models.map(RowModel::alone).flat_map(methods) {
            let mut is_exact = [true, false];
            let Payload {
                bytes: payload,
                counts,
            } = encode(method, matrix.view(), None, &mut is_exact, 1);
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
        for method in every_method() {
            let mut is_exact = EVERY_ROW;
            let payload = encode(method, matrix.view(), None, &mut is_exact, 1).bytes;
            match method.model.rows {
                RowModel::Bits | RowModel::Multiples(_) | RowModel::Tabled(_) => {}
                _ => {
                    // Every further bitstream costs a length and a state.
                    let below = 100 + 5 * (method.n_streams - 1);
                    assert!(payload.len() < below, "{} bytes: {method:?}", payload.len());
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
        for (method, keep_top) in every_method().flat_map(|method| [(method, 1), (method, 4)]) {
            let mut is_exact = [false; 30];
            let payload = encode(method, matrix.view(), None, &mut is_exact, keep_top).bytes;
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

    /// Rows, and those of a reference, which are much alike.
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
        for method in every_row_model()
            .into_iter()
            .filter_map(|rows| rows.given(Given::Reference))
            .flat_map(methods)
        {
            let mut is_exact = [false; 30];
            let payload = encode(method, matrix.view(), reference, &mut is_exact, 4).bytes;
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
            let mut encode = |reference| {
                choice::encode(matrix.view(), reference, &mut is_exact, &promise, None).bytes
            };
            let (alone, payload) = (encode(None), encode(known));
            assert!(FirstByte::of(&payload).needs_reference() && payload.len() < alone.len());
            let error = decode(&payload, 30, 10, 1).unwrap_err();
            assert!(matches!(error, Error::Corrupt(_)), "{error}");
            let mut others = reference.values().to_vec();
            others[299] = others[299].next_up();
            let others = Rows::new(10, &others);
            let error = decode_beside(&payload, 30, 10, Some(others), 1).unwrap_err();
            assert!(matches!(error, Error::WrongReference), "{error}");
            // A reference that says nothing is not used.
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
                assert_kept(RowModel::Expected(Levels::Root { roots, max_kl }), &matrix, &promise);
            }
            if let Some(sphere) = Sphere::of(matrix.view(), &vec![false; matrix.n_rows()], max_kl) {
                assert_kept(RowModel::Expected(Levels::Sphere(sphere)), &matrix, &promise);
            }
            let of_roots = Values::Roots { roots: Roots::HALVING, max_kl };
            for model in block_sorted(of_roots) {
                assert_kept(model, &matrix, &promise);
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
            let bits = Values::Bits(Minifloat::F32);
            for model in EXACT_MODELS.into_iter().chain(block_sorted(bits)) {
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
            // The smallest of few values may be a unit that is no part of 1.
            let unit = numbers.unit().size();
            let is_part = (1.0 / unit).round() * unit == 1.0;
            prop_assert!(levels.is_some() || !are_probabilities || !is_part);
            let levels = levels.map(|levels| RowModel::Expected(Levels::Uniform(levels)));
            for model in models_of_bits(numbers).into_iter().chain(levels) {
                assert_kept(model, &matrix, &promise(Bound::Exact, 1));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            model in (0u8..64, 0u8..4).prop_map(|(id, coding)| id | coding << 6),
            keep_top in 1usize..5,
            mut bytes in prop::collection::vec(any::<u8>(), 1..200),
        ) {
            bytes[0] = model;
            let _ = decode(&bytes, 50, 12, keep_top);
            let reference = PredictionMatrix::new(12, vec![0.25; 600]);
            let checksum = beside::checksum(reference.view());
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
            for method in every_method() {
                let mut payload = encode(method, matrix.view(), None, &mut [false; 60], 2).bytes;
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
    fn repeated_rows_are_of_the_version_of_the_distinct_ones_if_that_is_newer() {
        let version = |distinct: u32| {
            let parts = Repeated {
                n_distinct: 1,
                distinct: &[distinct as u8],
                rows: &[],
            };
            first_version(&parts.to_bytes())
        };
        let first_bytes = [
            0,
            id::ROOTS,
            id::AFTER,
            id::EARLIER,
            id::SORTED_STEPS_BY_NUMBERS,
        ];
        assert_eq!(first_bytes.map(version), [8, 8, 9, 12, 13]);
    }

    #[test]
    fn repeated_rows_are_not_within_such_nor_beside_a_reference() {
        let row: Vec<f32> = (1..=20).map(|i| (i * i % 23) as f32 / 400.0).collect();
        let matrix = PredictionMatrix::new(20, row.repeat(400));
        let promise = Promise::new(Kind::Probabilities, Bound::MaxError(0.001));
        let mut is_exact = vec![false; 400];
        let payload = choice::encode(matrix.view(), None, &mut is_exact, &promise, None).bytes;
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
        assert!(matches!(within, Error::Corrupt("repeated rows are nested")));
        let beside = decode(&[8, 0, 0, 0, 0, 0]).unwrap_err();
        assert!(matches!(beside, Error::Corrupt(what) if what.contains("reference")));
    }
}
