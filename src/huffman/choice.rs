//! Chooses how the rows of a block are coded. A small block tries all [`candidates`] on all of its rows. Large blocks,
//! and the small one after them, use a choice made on a sample.

use rayon::prelude::*;

use super::LARGE;
use super::bitstream::Coder;
use super::block::{self, is_of_bits};
use super::block_sorted::{self, BlockSorted};
use super::candidates::{Search, candidates, candidates_beside};
use super::coded::Payload;
use super::minifloat::Minifloat;
use super::models::{Given, Method, Model, RowModel};
use super::promise::{Bound, Kind, Promise};
use super::repeats::Repeats;
use super::row_order;
use super::tabled::Table;
use crate::matrix::{PredictionMatrix, Rows};

/// The choice made for large blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    of_all: Pick,
    /// The choice for the distinct rows, if repeated rows are to be coded once.
    of_distinct: Option<Pick>,
}

/// The model and coder that suit some rows best, and the bytes that a value took with them.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pick {
    model: Model,
    coder: Coder,
    bytes_a_value: f64,
}

impl Choice {
    /// Whether all rows are coded as ranked ones, of which those with values that are not fit for the promise get marked:
    /// only where rows are marked need values be [checked](Promise::check), and only then.
    pub fn marks_unfit_rows(&self, promise: &Promise) -> bool {
        self.of_distinct.is_none()
            && is_ranked(self.of_all.model)
            && promise.kind == Kind::Probabilities
            && matches!(promise.bound, Bound::MaxError(_))
    }
}

impl Pick {
    /// Estimated bytes of `rows`, coded this way.
    fn n_bytes(self, rows: Rows<'_>) -> f64 {
        self.bytes_a_value * rows.values().len() as f64
    }
}

/// Chooses model and coder for large blocks, of which `rows` is one, by trying all models on a sample; beside the rows
/// of a `reference` if there is one.
pub fn choose(rows: Rows<'_>, reference: Option<Rows<'_>>, promise: &Promise) -> Choice {
    let of_all = choose_model(rows, reference, promise);
    // Finding repeats takes about as long as coding peaked rows: it pays if at least half of the rows are repeats.
    let are_many = |repeats: &Repeats| repeats.n_distinct() * 2 <= rows.n_rows();
    let of_distinct = Repeats::of(rows).filter(are_many).and_then(|repeats| {
        let values = repeats.distinct(rows);
        let distinct = Rows::new(rows.n_classes(), &values);
        let of_distinct = choose_model(distinct, None, promise);
        let n_bytes =
            of_distinct.n_bytes(distinct) + block::encode_repeats(&repeats).bytes.len() as f64;
        (n_bytes < of_all.n_bytes(rows)).then_some(of_distinct)
    });
    Choice {
        of_all,
        of_distinct,
    }
}

/// Chooses model and coder for rows that are coded one by one, whether they repeat or not.
fn choose_model(rows: Rows<'_>, reference: Option<Rows<'_>>, promise: &Promise) -> Pick {
    let samples = |n_rows: usize, n_together: usize| {
        let sample = |rows| sample(rows, n_rows, n_together);
        (sample(rows), reference.map(sample))
    };
    let (of_rows, of_reference) = samples(SAMPLE_ROWS, STRETCH);
    let (sample, known) = (of_rows.view(), of_reference.as_ref().map(|of| of.view()));
    let mut is_exact = vec![false; sample.n_rows()];
    let models = candidates(sample, known, &mut is_exact, promise, Search::Large);
    let (_, best) = encode_best(&models, sample, known, &mut is_exact, promise, true);

    // Of few classes, many rows are few values still.
    let time_counts = rows.values().len() >= LARGE;
    let earlier = row_order::earlier(rows, time_counts);
    if earlier.is_empty() {
        return best;
    }
    // Models beside earlier rows can be judged only on consecutive rows: code the best model so far and these on one
    // stretch, and keep the smaller.
    let (of_rows, of_reference) = samples(FOLLOWING_ROWS, FOLLOWING_ROWS);
    let (sample, known) = (of_rows.view(), of_reference.as_ref().map(|of| of.view()));
    let mut is_exact = vec![false; sample.n_rows()];
    let like_best = Search::Like(best.model);
    let mut models = candidates(sample, known, &mut is_exact, promise, like_best);
    models.retain(|model| model.id() == best.model.id());
    models.truncate(1);
    let of_earlier = candidates_beside(sample, &earlier, &mut is_exact, promise);
    // These values may have no such model, or none beside earlier rows.
    if models.is_empty() || of_earlier.is_empty() {
        return best;
    }
    models.extend(of_earlier);
    let (_, better) = encode_best(&models, sample, known, &mut is_exact, promise, true);
    match better.model.id() == best.model.id() {
        true => best,
        false => better,
    }
}

/// Rows of the sample that the model of a large block is chosen on, and consecutive rows in each of its stretches.
const SAMPLE_ROWS: usize = 2048;
const STRETCH: usize = 256;
/// Consecutive rows on which models beside earlier rows are compared.
const FOLLOWING_ROWS: usize = 8192;

/// A sample of `n_rows` rows: stretches of `n_together` consecutive ones from all over, as their order may matter.
fn sample(rows: Rows<'_>, n_rows: usize, n_together: usize) -> PredictionMatrix {
    let n_classes = rows.n_classes();
    let n_spare = rows.n_rows().saturating_sub(n_rows);
    let n_stretches = n_rows / n_together;
    let mut values = Vec::with_capacity(n_rows.min(rows.n_rows()) * n_classes);
    for stretch in 0..n_stretches {
        let first = match n_stretches {
            1 => n_spare / 2,
            _ => stretch * n_together + n_spare * stretch / (n_stretches - 1),
        };
        let [first, end] =
            [first, first + n_together].map(|row| row.min(rows.n_rows()) * n_classes);
        values.extend_from_slice(&rows.values()[first..end]);
    }
    PredictionMatrix::new(n_classes, values)
}

/// Whether a block is too large for trying all models on all of its rows.
pub fn is_large(rows: Rows<'_>) -> bool {
    rows.values().len() >= LARGE || rows.n_rows() > 2 * SAMPLE_ROWS
}

/// Encodes the rows of `matrix`: those marked in `is_exact` bit for bit, the others as the promise asks, beside those
/// of a reference if there is one. Uses `choice`, or else what takes the fewest bytes. Rows that cannot be coded
/// otherwise get marked.
///
/// The values must have been [checked](Promise::check) unless the choice [marks](Choice::marks_unfit_rows) those that are
/// not fit, and whether the promise is kept must be [measured](Promise::measure).
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
    // For a large block, an estimate of what all rows take is enough.
    let n_bytes = repeated.bytes.len();
    if of_all.is_some_and(|pick| n_bytes as f64 <= pick.n_bytes(matrix)) {
        return repeated;
    }
    let mut marked = is_exact.to_vec();
    let payload = encode_all(matrix, reference, &mut marked, promise, of_all);
    if n_bytes < payload.bytes.len() {
        return repeated;
    }
    is_exact.copy_from_slice(&marked);
    payload
}

/// Encodes each distinct row once; `None` where too few rows come again, or some would be stored exactly.
fn encode_repeated(matrix: Rows<'_>, promise: &Promise, pick: Option<Pick>) -> Option<Payload> {
    let repeats = Repeats::of(matrix)?;
    let values = repeats.distinct(matrix);
    let distinct = Rows::new(matrix.n_classes(), &values);
    let mut is_exact = vec![false; distinct.n_rows()];
    let pick = pick.filter(|_| is_large(distinct));
    let of_distinct = encode_all(distinct, None, &mut is_exact, promise, pick);
    if is_exact.contains(&true) {
        return None;
    }
    let of_rows = block::encode_repeats(&repeats);
    Some(block::join_repeated(
        repeats.n_distinct(),
        of_distinct,
        of_rows,
    ))
}

/// Encodes all rows one by one, whether they repeat or not; else as [`encode`].
fn encode_all(
    matrix: Rows<'_>,
    reference: Option<Rows<'_>>,
    is_exact: &mut [bool],
    promise: &Promise,
    pick: Option<Pick>,
) -> Payload {
    let is_large = is_large(matrix);
    // The values of this block may not have the chosen model.
    let method = |pick: Pick, is_exact: &mut [bool]| {
        let search = Search::Like(pick.model);
        let models = candidates(matrix, reference, is_exact, promise, search);
        let mut models = models.into_iter();
        let model = models.find(|model| model.id() == pick.model.id())?;
        let bytes_a_value = Some(pick.bytes_a_value);
        Some(Method::of(model, pick.coder, matrix, bytes_a_value))
    };
    let chosen = pick.and_then(|pick| {
        let method_chosen = method(pick, is_exact);
        method_chosen.or_else(|| method(choose_model(matrix, reference, promise), is_exact))
    });
    let payload = match chosen {
        Some(method) => block::encode(method, matrix, reference, is_exact, promise.keep_top),
        None => {
            let search = match is_large {
                true => Search::Large,
                false => Search::Small,
            };
            let models = candidates(matrix, reference, is_exact, promise, search);
            encode_best(&models, matrix, reference, is_exact, promise, is_large).0
        }
    };
    let of_bits = encode_bits_if_likely(&payload, matrix, reference, is_exact, promise, pick);
    match of_bits {
        Some((of_bits, marked)) if of_bits.bytes.len() < payload.bytes.len() => {
            // Where all rows are coded bit for bit, those that had to be stay marked.
            if !is_of_bits(&of_bits.bytes) {
                for (is_exact, marked) in is_exact.iter_mut().zip(marked) {
                    *is_exact |= marked;
                }
            }
            of_bits
        }
        _ => payload,
    }
}

/// Encodes all rows exactly where that may take fewer bytes than the payload that keeps a looser promise; also returns
/// the marks of its rows.
fn encode_bits_if_likely(
    payload: &Payload,
    matrix: Rows<'_>,
    reference: Option<Rows<'_>>,
    is_exact: &[bool],
    promise: &Promise,
    pick: Option<Pick>,
) -> Option<(Payload, Vec<bool>)> {
    let is_large = is_large(matrix);
    let is_of_bits = is_of_bits(&payload.bytes);
    let n_bytes = payload.bytes.len();
    // Coding the bits of all rows costs less where many rows are stored exactly, or any row of a payload of bits; where
    // there are few values, it may.
    let n_exact = is_exact.iter().filter(|&&is_exact| is_exact).count();
    let are_many = n_exact * 8 > matrix.n_rows() || n_exact > 0 && is_of_bits;
    // For a large block, only where predictions fail: most bits are extra bits.
    let may_be_few = !is_large || 2 * payload.counts.raw > 8 * n_bytes as u64;
    let may_be_less = match promise.bound {
        Bound::MaxError(_) => are_many || may_be_few && has_few_values(matrix),
        Bound::MaxKl(_) => may_be_few && has_few_values(matrix) && are_distributions(matrix),
        Bound::Exact => false,
    };
    if !may_be_less {
        return None;
    }
    let exact = Promise {
        bound: Bound::Exact,
        ..*promise
    };
    let pick = match is_large && !are_many {
        true => {
            let of_bits = choose_model(matrix, reference, &exact);
            if of_bits.n_bytes(matrix) >= n_bytes as f64 {
                return None;
            }
            Some(of_bits)
        }
        false => pick.filter(|_| is_of_bits),
    };
    let mut marked = vec![false; matrix.n_rows()];
    let of_bits = encode_all(matrix, reference, &mut marked, &exact, pick);
    Some((of_bits, marked))
}

/// Whether values have few bits, or repeat often.
fn has_few_values(matrix: Rows<'_>) -> bool {
    Table::is_likely(matrix.values()) || Minifloat::of(matrix.values()).is_some()
}

/// Whether rows sum to 1 within float32 and have no zeros, like those decoded from roots.
fn are_distributions(matrix: Rows<'_>) -> bool {
    let is_off = |row: &[f32]| {
        let sum: f64 = row.iter().map(|&value| f64::from(value)).sum();
        (sum - 1.0).abs() > f64::from(f32::EPSILON)
    };
    !matrix.rows().any(|row| row.contains(&0.0) || is_off(row))
}

/// Encodes with all models in parallel and takes the smallest payload, but for [`most_share`]; rANS must be worth its
/// time, more so if the block, or the one that the rows are a sample of, `is_large`.
fn encode_best(
    models: &[Model],
    matrix: Rows<'_>,
    reference: Option<Rows<'_>>,
    is_exact: &mut [bool],
    promise: &Promise,
    is_large: bool,
) -> (Payload, Pick) {
    let encode = |model: Model, coder: Coder| {
        let mut marked = is_exact.to_vec();
        let method = Method::of(model, coder, matrix, None);
        let payload = block::encode(method, matrix, reference, &mut marked, promise.keep_top);
        Tried {
            pick: Pick {
                model,
                coder,
                bytes_a_value: payload.bytes.len() as f64 / matrix.values().len() as f64,
            },
            payload,
            marked,
        }
    };
    let with_huffman = |model: Model| encode(model, Coder::Huffman);
    let least = |tried: &[Tried]| {
        let n_bytes = tried.iter().map(Tried::n_bytes);
        n_bytes.fold(f64::MAX, f64::min)
    };
    let (sorted, others): (Vec<Model>, Vec<Model>) =
        models.iter().partition(|model| is_block_sorted(**model));
    let mut tried: Vec<Tried> = others.into_par_iter().map(with_huffman).collect();
    let may_pay = sorted_that_may_pay(sorted, matrix, is_exact, 8.0 * least(&tried));
    let sorted = may_pay.into_par_iter().map(with_huffman);
    tried.extend(sorted.collect::<Vec<_>>());
    let least = least(&tried);
    // Where ranked rows are compared first, slower models must take this much less.
    let most_beside_ranked = match tried.first() {
        Some(first) if is_large && is_ranked(first.pick.model) && reference.is_none() => {
            MOST_BESIDE_RANKED * first.n_bytes()
        }
        _ => f64::MAX,
    };
    // Try rANS only where it may be worth its time and be chosen.
    let most_of_ans = match is_large {
        true => MOST_OF_ANS_IN_LARGE,
        false => MOST_OF_ANS,
    };
    let tried: Vec<Tried> = tried
        .into_par_iter()
        .map(|with_huffman| {
            let most = most_of_ans * with_huffman.n_bytes();
            let model = with_huffman.pick.model;
            let most_to_be_chosen = match is_slow(model) {
                true => most_beside_ranked.min(least / MOST_BESIDE_RANKED),
                false => least / MOST_BESIDE_RANKED,
            };
            if with_huffman.n_bytes_of_ans() >= most.min(most_to_be_chosen) {
                return with_huffman;
            }
            let with_ans = encode(model, Coder::Ans);
            match with_ans.n_bytes() < most {
                true => with_ans,
                false => with_huffman,
            }
        })
        .collect();
    let better = |best: Tried, other: Tried| {
        let most = most_share(best.pick, other.pick.model, is_large);
        match other.n_bytes() < most * best.n_bytes() {
            true => other,
            false => best,
        }
    };
    let best = tried.into_iter().reduce(better).expect("a model");
    is_exact.copy_from_slice(&best.marked);
    (best.payload, best.pick)
}

fn is_ranked(model: Model) -> bool {
    matches!(model.rows, RowModel::Ranked(_))
}

/// Whether decoding takes much longer than that of ranked rows.
fn is_slow(model: Model) -> bool {
    matches!(model.rows, RowModel::Expected(_) | RowModel::Predicted(_))
}

fn is_block_sorted(model: Model) -> bool {
    matches!(model.rows, RowModel::BlockSorted(_))
}

/// The block-sorted models that are likely to take less than `n_bits`: sorting takes long.
fn sorted_that_may_pay(
    sorted: Vec<Model>,
    matrix: Rows<'_>,
    is_exact: &[bool],
    n_bits: f64,
) -> Vec<Model> {
    /// Rows that take less than this are not worth sorting.
    const LEAST_BITS_A_VALUE: f64 = 0.005;
    const MOST_SHARE: f64 = 0.9;
    if n_bits < LEAST_BITS_A_VALUE * matrix.values().len() as f64 {
        return Vec::new();
    }
    // All sort the same values; only the scan differs.
    let mut numbers = None;
    let may_pay = |model: &Model| match model.rows {
        RowModel::BlockSorted(BlockSorted { values, scan, .. }) => {
            let numbers =
                numbers.get_or_insert_with(|| values.quantize(matrix, &mut is_exact.to_vec()));
            let scanned = scan.of_rows(numbers, matrix.n_classes());
            block_sorted::may_take_less(&scanned, MOST_SHARE * n_bits)
        }
        _ => false,
    };
    sorted.into_iter().filter(may_pay).collect()
}

/// The largest share of the best payload's bytes that another model may take to replace it: a slower one must be worth
/// its time, more so if the block, or the one that the rows are a sample of, `is_large`.
fn most_share(best: Pick, other: Model, is_large: bool) -> f64 {
    let is_fast = is_ranked(best.model) && (is_large || best.coder == Coder::Huffman);
    let is_predicted = |model: Model| matches!(model.rows, RowModel::Predicted(_));
    match (best.model.given, other.given) {
        _ if is_block_sorted(other) => match is_block_sorted(best.model) {
            true => 1.0,
            false if is_large => MOST_OF_SORTED_IN_LARGE,
            false if is_fast => MOST_BESIDE_RANKED,
            false => MOST_OF_SLOWER,
        },
        (_, Given::Nothing | Given::PreviousTop | Given::EarlierRows(_))
            if is_fast && is_slow(other) =>
        {
            MOST_BESIDE_RANKED
        }
        (Given::EarlierRows(_), Given::EarlierRows(_))
            if is_predicted(best.model) && is_predicted(other) =>
        {
            1.0
        }
        (_, Given::EarlierRows(_)) if is_large => MOST_OF_BEFORE_IN_LARGE,
        (_, Given::Reference | Given::EarlierRows(_)) => MOST_OF_SLOWER,
        _ => 1.0,
    }
}

// A slower model or coder must be worth its time: it is chosen if it takes less than such a share of the bytes of the
// faster one. In a large block it must save more.

/// The share for expected and predicted rows beside ranked ones, which decode several times faster.
const MOST_BESIDE_RANKED: f64 = 0.95;
/// The share for rANS beside Huffman codes.
const MOST_OF_ANS: f64 = 0.995;
const MOST_OF_ANS_IN_LARGE: f64 = 0.99;
/// The share for rows given other rows, whose regression has twice as many columns, and for sorted numbers.
const MOST_OF_SLOWER: f64 = 0.99;
const MOST_OF_BEFORE_IN_LARGE: f64 = 0.97;
/// The share for sorted numbers in large blocks: they are encoded at about 10 MB/s.
const MOST_OF_SORTED_IN_LARGE: f64 = 0.9;

/// A model and a coder, and what they made of some rows.
struct Tried {
    pick: Pick,
    payload: Payload,
    /// The rows stored exactly.
    marked: Vec<bool>,
}

impl Tried {
    fn n_bytes(&self) -> f64 {
        self.payload.bytes.len() as f64
    }

    /// Estimated bytes with rANS, at the least.
    fn n_bytes_of_ans(&self) -> f64 {
        let counts = self.payload.counts;
        self.n_bytes() - (counts.codes as f64 - counts.entropy) / 8.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::bitstream::BitReader;
    use super::super::block_sorted::Scan;
    use super::super::models::{FirstByte, id};
    use super::super::noise;
    use super::super::promise::Kind;
    use super::*;

    fn promise(bound: Bound) -> Promise {
        Promise::new(Kind::Probabilities, bound)
    }

    #[test]
    fn rows_after_the_row_before_take_fewer_bytes_in_small_blocks_and_large_ones() {
        // Top classes in any order, or sorted; the rest of the mass does not depend on the previous row.
        let row = |i: usize, top: usize| {
            let other = (i * 7919 + i / 7) % 99;
            let rest = ((i as u32).wrapping_mul(2_654_435_761) >> 24) as f32 / 1024.0;
            (0..100).map(move |class| match class {
                _ if class == top => 1.0 - rest,
                _ if class == (top + 1 + other) % 100 => rest,
                _ => 0.0,
            })
        };
        let promise = promise(Bound::MaxError(0.002));
        for n_rows in [1000, 5000] {
            let n_bytes = |top: &dyn Fn(usize) -> usize| {
                let values = (0..n_rows).flat_map(|i| row(i, top(i))).collect();
                let matrix = PredictionMatrix::new(100, values);
                let choice = is_large(matrix.view()).then(|| choose(matrix.view(), None, &promise));
                let mut is_exact = vec![false; n_rows];
                let payload = encode(matrix.view(), None, &mut is_exact, &promise, choice).bytes;
                (payload.len(), id::is_after(FirstByte::of(&payload).id()))
            };
            let (mixed, is_mixed_after) = n_bytes(&|i| noise(i) as usize % 100);
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
                let promise = promise(Bound::MaxKl(max_kl));
                let choice = is_large(matrix.view()).then(|| choose(matrix.view(), None, &promise));
                let mut is_exact = vec![false; n_rows];
                let payload = encode(matrix.view(), None, &mut is_exact, &promise, choice).bytes;
                // A top class in any order takes a byte.
                let below = 600 + n_rows * 5 / 4;
                assert!(
                    payload.len() < below,
                    "{} bytes: {n_rows} {max_kl}",
                    payload.len()
                );
                let decoded = block::decode(&payload, n_rows, 257, 1).unwrap();
                for (original, decoded) in matrix.rows().zip(decoded.rows()) {
                    assert!(promise.measure(original, decoded).is_some());
                }
            }
        }
    }

    #[test]
    fn numbers_are_sorted_by_the_scan_that_takes_less() {
        let bell = |row: usize, class: usize| {
            let mean = f64::from(noise(row) >> 8) / f64::from(1 << 24) * 40.0;
            (-0.5 * ((class as f64 - mean) / 3.0).powi(2)).exp()
        };
        let wave = |row: usize, class: usize| 5.0 * (row as f64 / 37.0 + class as f64 * 0.7).sin();
        for (value, scan) in [
            (&bell as &dyn Fn(usize, usize) -> f64, Scan::ByRow),
            (&wave, Scan::ByClass),
        ] {
            // Small blocks and large ones.
            for n_rows in [1000, 9000] {
                let values = (0..n_rows * 40).map(|i| value(i / 40, i % 40) as f32);
                let matrix = PredictionMatrix::new(40, values.collect());
                let promise = Promise::new(Kind::Values, Bound::MaxError(0.01));
                let choice = is_large(matrix.view()).then(|| choose(matrix.view(), None, &promise));
                assert_eq!(choice.is_some(), n_rows == 9000);
                let mut is_exact = vec![false; n_rows];
                let payload = encode(matrix.view(), None, &mut is_exact, &promise, choice).bytes;
                let method = Method::read_from(&mut BitReader::new(&payload), None).unwrap();
                let RowModel::BlockSorted(sorted) = method.model.rows else {
                    panic!("{method:?}");
                };
                assert_eq!(sorted.scan, scan, "{n_rows}");
            }
        }
    }

    /// Scores of the pixels of an image: each is the sum of a score of its column, one of its line, and some noise.
    fn image(width: usize, n_rows: usize) -> PredictionMatrix {
        const N_CLASSES: usize = 4;
        let random = |i: usize| noise(i) as f32 / (1u64 << 30) as f32;
        let score = |row: usize, class: usize| {
            let [across, down] = [row % width, width + row / width].map(|i| i * N_CLASSES + class);
            random(across) + random(down) + random(n_rows + row * N_CLASSES + class) / 1024.0
        };
        let scores = (0..n_rows * N_CLASSES).map(|i| score(i / N_CLASSES, i % N_CLASSES));
        PredictionMatrix::new(N_CLASSES, scores.collect())
    }

    #[test]
    fn pixels_are_told_beside_their_neighbours() {
        let lag_chosen = |matrix: &PredictionMatrix, promise: &Promise| {
            let choice = is_large(matrix.view()).then(|| choose(matrix.view(), None, promise));
            let mut is_exact = vec![false; matrix.n_rows()];
            let payload = encode(matrix.view(), None, &mut is_exact, promise, choice).bytes;
            let method = Method::read_from(&mut BitReader::new(&payload), None).unwrap();
            let decoded = block::decode(&payload, matrix.n_rows(), matrix.n_classes(), 1).unwrap();
            let rows = matrix.rows().zip(decoded.rows());
            for (row, decoded) in rows {
                assert!(promise.measure(row, decoded).is_some());
            }
            match method.model.given {
                Given::EarlierRows(before) if before.is_gradient => before.lag,
                given => panic!("{given:?}"),
            }
        };
        let of_logits = Promise::new(Kind::Logits, Bound::MaxError(0.01));
        let of_probabilities = Promise::new(Kind::Probabilities, Bound::MaxError(1e-4));
        let of_kl = Promise::new(Kind::Probabilities, Bound::MaxKl(1e-4));
        // Small blocks, and large ones, chosen by samples.
        for (width, n_rows) in [(40, 2000), (150, 16_000)] {
            let scores = image(width, n_rows);
            let mut probabilities = Vec::new();
            for row in scores.rows() {
                let exp = row.iter().map(|score| score.exp());
                let sum: f32 = exp.clone().sum();
                probabilities.extend(exp.map(|value| value / sum));
            }
            let probabilities = PredictionMatrix::new(scores.n_classes(), probabilities);
            // All lines are equally near to each other.
            let all = [of_logits, of_probabilities, of_kl];
            for (promise, matrix) in all
                .into_iter()
                .zip([&scores, &probabilities, &probabilities])
            {
                let lag = lag_chosen(matrix, &promise);
                assert!(lag.is_multiple_of(width as u32), "{lag} {promise:?}");
            }
        }
    }

    #[test]
    fn rows_nearly_as_those_a_while_ago_are_coded_given_these_unless_time_counts() {
        const LAG: usize = 1500;
        for (n_classes, is_given) in [(3, true), (40, false)] {
            let value = |i: usize| {
                let of_period = noise(i % (LAG * n_classes)) as f32 / (1u64 << 29) as f32;
                of_period + noise(i) as f32 / (1u64 << 36) as f32
            };
            let values = (0..8000 * n_classes).map(value).collect();
            let matrix = PredictionMatrix::new(n_classes, values);
            let promise = Promise::new(Kind::Logits, Bound::MaxError(0.05));
            let choice = choose(matrix.view(), None, &promise);
            let lag = match choice.of_all.model.given {
                Given::EarlierRows(earlier) => Some(earlier.lag as usize),
                _ => None,
            };
            assert_eq!(lag, is_given.then_some(LAG));
        }
    }

    #[test]
    fn rows_that_go_on_as_float16_have_no_model_beside_earlier_ones() {
        // Models beside earlier rows are looked for, but exact minifloats have none.
        let value = |i: usize| half::f16::from_f32((i as f32 / 300.0).sin() * 3.0).to_f32();
        let matrix = PredictionMatrix::new(2, (0..2 * 9000).map(value).collect());
        assert!(!row_order::earlier(matrix.view(), true).is_empty());
        let promise = Promise::new(Kind::Logits, Bound::Exact);
        let choice = choose(matrix.view(), None, &promise);
        let mut is_exact = vec![false; 9000];
        let payload = encode(matrix.view(), None, &mut is_exact, &promise, Some(choice)).bytes;
        let decoded = block::decode(&payload, 9000, 2, 1).unwrap();
        assert_eq!(decoded, matrix);
    }

    #[test]
    fn samples_are_stretches_from_all_over_a_block() {
        let rows = |n: usize| PredictionMatrix::new(2, (0..2 * n).map(|i| i as f32).collect());
        for n_rows in [0, 1, 300, 2047, 2048] {
            let of_all = sample(rows(n_rows).view(), SAMPLE_ROWS, STRETCH);
            assert_eq!(of_all, rows(n_rows));
            let together = sample(rows(n_rows).view(), FOLLOWING_ROWS, FOLLOWING_ROWS);
            assert_eq!(together, rows(n_rows));
        }
        let together = sample(rows(10_000).view(), FOLLOWING_ROWS, FOLLOWING_ROWS);
        let middle = 10_000 - FOLLOWING_ROWS..10_000 + FOLLOWING_ROWS;
        let values: Vec<f32> = middle.map(|i| i as f32).collect();
        assert_eq!(together.values(), values);
        let sample = sample(rows(10_000).view(), SAMPLE_ROWS, STRETCH);
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
            let payload = encode(matrix.view(), None, &mut is_exact, &promise, choice).bytes;
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
            let payload = encode(matrix.view(), None, &mut is_exact, &promise, Some(choice)).bytes;
            assert_eq!(FirstByte::of(&payload).is_repeated(), is_repeated);
        }
    }
}
