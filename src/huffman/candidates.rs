//! The models that keep a promise of some rows, with parameters that suit these. [`choice`](super::choice) tries them
//! and takes the smallest.

use super::beside::{Caution, EarlierRows};
use super::block_sorted::{BlockSorted, Scan, Values};
use super::codebook::entropy_bits;
use super::expected::Levels;
use super::fineness;
use super::minifloat::Minifloat;
use super::models::{Given, Model, RowModel, id};
use super::plain::Multiples;
use super::predicted::Numbers;
use super::promise::{Bound, Kind, Promise};
use super::quantizer::{F32_MARGIN, Roots, Step, Uniform};
use super::row_order;
use super::sphere::Sphere;
use super::tabled::{By, Table};
use crate::matrix::{Rows, range};

/// What models are looked for.
#[derive(Debug, Clone, Copy)]
pub enum Search {
    /// All that suit a small block.
    Small,
    /// All that suit a large one, of which these rows are a sample: time counts as well as bytes.
    Large,
    /// One that was chosen already, with the parameters that suit these rows.
    Like(Model),
}

impl Search {
    /// Whether a model of one of these numbers is looked for.
    fn wants(self, ids: &[u32]) -> bool {
        match self {
            Self::Small | Self::Large => true,
            Self::Like(model) => ids.contains(&model.rows.id()),
        }
    }
}

/// The models that keep a promise of the rows of `matrix`, in the order of their speed. Rows that no quantizer suits
/// get marked.
pub fn candidates(
    matrix: Rows<'_>,
    reference: Option<Rows<'_>>,
    is_exact: &mut [bool],
    promise: &Promise,
    search: Search,
) -> Vec<Model> {
    let rows = row_models(matrix, is_exact, promise, search);
    let given = |given: Given| rows.iter().filter_map(move |rows| rows.given(given));
    let is_after = |is_worth_it: fn(Rows<'_>) -> bool| match search {
        Search::Like(model) => model.is_after(),
        Search::Small | Search::Large => is_worth_it(matrix),
    };
    let have_tops = given(Given::PreviousTop).next().is_some();
    let are_after_tops = have_tops && is_after(row_order::has_runs_of_tops);
    let after_tops = |rows: &RowModel| rows.given(Given::PreviousTop).filter(|_| are_after_tops);
    let alone = rows
        .iter()
        .map(|rows| after_tops(rows).unwrap_or(rows.alone()));
    let mut models: Vec<Model> = alone.collect();
    if reference.is_some() {
        models.extend(given(Given::Reference));
    }
    let last = EarlierRows::last(Caution::LEAST);
    if given(Given::EarlierRows(last)).next().is_some() {
        let befores = match search {
            Search::Like(Model {
                given: Given::EarlierRows(before),
                ..
            }) => vec![before],
            Search::Like(_) => Vec::new(),
            Search::Small | Search::Large => {
                let last = row_order::are_near(matrix).then_some(last);
                let mut befores = Vec::from_iter(last);
                if let Search::Small = search {
                    befores.extend(row_order::earlier(matrix, false));
                }
                befores
            }
        };
        models.extend(beside(&rows, &befores, search));
    }
    models
}

/// The models of a large block, of which these rows are a part, that code rows beside [earlier](row_order::earlier)
/// ones.
pub fn candidates_beside(
    matrix: Rows<'_>,
    earlier: &[EarlierRows],
    is_exact: &mut [bool],
    promise: &Promise,
) -> Vec<Model> {
    let rows = row_models(matrix, is_exact, promise, Search::Large);
    beside(&rows, earlier, Search::Large)
}

/// The models of `rows` beside earlier rows, with all cautions that are looked for.
fn beside(rows: &[RowModel], befores: &[EarlierRows], search: Search) -> Vec<Model> {
    let with_cautions = |&before: &EarlierRows| {
        let cautions = match search {
            Search::Small => &Caution::ALL[..],
            Search::Large => &Caution::OF_LARGE,
            Search::Like(_) => &[before.caution],
        };
        let with = |&caution: &Caution| Given::EarlierRows(EarlierRows { caution, ..before });
        cautions.iter().map(with).collect::<Vec<_>>()
    };
    let befores: Vec<Given> = befores.iter().flat_map(with_cautions).collect();
    let of_rows = |rows: &RowModel| {
        let of_befores = befores.iter().filter_map(|&before| rows.given(before));
        let mut models: Vec<Model> = of_befores.collect();
        // Expected rows ignore the caution: drop equal models.
        models.dedup();
        models
    };
    rows.iter().flat_map(of_rows).collect()
}

/// The models of rows that keep the promise, none of them beside other rows yet.
fn row_models(
    matrix: Rows<'_>,
    is_exact: &mut [bool],
    promise: &Promise,
    search: Search,
) -> Vec<RowModel> {
    match promise.bound {
        Bound::MaxError(max_error) if promise.kind == Kind::Probabilities => {
            models_of_probabilities(matrix, max_error, search)
        }
        Bound::MaxError(max_error) => models_of_values(matrix, is_exact, max_error, search),
        Bound::MaxKl(max_kl) => models_within_divergence(matrix, is_exact, max_kl, promise, search),
        Bound::Exact => exact_models(matrix, search),
    }
}

/// How far values may be from the fractions that they are taken for: as far as sums of float32 are off, and no more,
/// lest other values be taken for fractions.
const FRACTION_TOLERANCE: f64 = 1e-6;

/// The models of probabilities within an error.
fn models_of_probabilities(matrix: Rows<'_>, max_error: f64, search: Search) -> Vec<RowModel> {
    let uniform = Uniform::new(max_error).expect("a promise that can be kept");
    let most = (max_error - F32_MARGIN).min(FRACTION_TOLERANCE);
    let keeps = |value: f32, decoded: f32| f64::from((value - decoded).abs()) <= most;
    let coarser = Uniform::of_fractions(matrix.values(), uniform.n_levels(), keeps);
    let uniform = coarser.unwrap_or(uniform);
    let mut models = models_of_levels(uniform, matrix, search);
    // Where most levels are not 0, classes may predict each other as those of logits do.
    let least_live = uniform.least_live();
    let are_live = matrix.values().iter().filter(|&&value| value >= least_live);
    if matches!(search, Search::Like(_)) || 2 * are_live.count() >= matrix.values().len() {
        models.push(RowModel::Predicted(Numbers::Steps(uniform.step())));
    }
    models.extend(block_sorted(Values::Steps(uniform.step()), search));
    models
}

/// The models of any values within an error.
fn models_of_values(
    matrix: Rows<'_>,
    is_exact: &mut [bool],
    max_error: f64,
    search: Search,
) -> Vec<RowModel> {
    let step = step(matrix, is_exact, max_error);
    let mut models = vec![
        RowModel::Multiples(Multiples::of(matrix, is_exact, step)),
        RowModel::Predicted(Numbers::Steps(step)),
    ];
    if search.wants(&[id::ORDERED_MINIFLOATS, id::MINIFLOATS]) {
        let of_minifloats = models_of_minifloats(matrix.values(), search).into_iter();
        models.extend(of_minifloats.filter(|model| matches!(model, RowModel::Predicted(_))));
    }
    models.extend(block_sorted(Values::Steps(step), search));
    models
}

/// The models of probabilities within a divergence, which is what the promise is about.
fn models_within_divergence(
    matrix: Rows<'_>,
    is_exact: &[bool],
    max_kl: f64,
    promise: &Promise,
    search: Search,
) -> Vec<RowModel> {
    let mut models = Vec::new();
    if search.wants(&[id::SHARES]) {
        let keeps =
            |value: f32, decoded: f32| f64::from((value - decoded).abs()) <= FRACTION_TOLERANCE;
        let shares = Uniform::of_fractions(matrix.values(), Uniform::FEW, keeps)
            .and_then(|uniform| uniform.into_shares().ok())
            .filter(|&shares| are_kept(matrix, shares, promise));
        models.extend(shares.map(|shares| RowModel::Expected(Levels::Uniform(shares))));
    }
    let roots = match search {
        Search::Like(model) => match model.rows {
            RowModel::Expected(Levels::Root { roots, .. }) => vec![roots],
            _ => vec![Roots::HALVING],
        },
        Search::Small | Search::Large => {
            let is_large = matches!(search, Search::Large);
            let roots = fineness::choose_roots(matrix, is_exact, max_kl, is_large);
            match matrix.n_classes() >= MANY_CLASSES {
                true => vec![roots, roots.linear()],
                false => vec![roots],
            }
        }
    };
    let of_roots = roots
        .into_iter()
        .map(|roots| Levels::Root { roots, max_kl });
    models.extend(of_roots.map(RowModel::Expected));
    // With more classes, roots are as good.
    if matrix.n_classes() <= FEW_CLASSES && search.wants(&[id::SPHERE, id::FINE_SPHERE]) {
        let sphere = Sphere::of(matrix, is_exact, max_kl);
        let spheres = sphere.map(|sphere| [sphere, sphere.with_fine_tokens()]);
        let of_spheres = spheres.into_iter().flatten().map(Levels::Sphere);
        models.extend(of_spheres.map(RowModel::Expected));
    }
    // With few finenesses, equal values have equal levels in more rows.
    let roots = Values::Roots {
        roots: Roots::HALVING,
        max_kl,
    };
    models.extend(block_sorted(roots, search));
    models
}

/// The models that keep every bit.
fn exact_models(matrix: Rows<'_>, search: Search) -> Vec<RowModel> {
    let mut of_bits = Vec::new();
    if search.wants(&[
        id::ORDERED_MINIFLOATS,
        id::MINIFLOATS,
        id::EXPECTED_FLOATS,
        id::SORTED_MINIFLOATS,
    ]) {
        of_bits = models_of_minifloats(matrix.values(), search);
    }
    if of_bits.is_empty() {
        of_bits.extend(models_of_bits(Minifloat::F32));
    }
    let ordered = of_bits.iter().filter_map(|rows| match rows {
        RowModel::Predicted(Numbers::OrderedBits(of)) => Some(Values::Bits(*of)),
        _ => None,
    });
    let sorted = ordered.flat_map(|bits| block_sorted(bits, search));
    let sorted: Vec<RowModel> = sorted.collect();
    let mut models = vec![RowModel::Bits];
    models.extend(of_bits);
    if search.wants(&[id::BY_CLASS, id::BY_PREVIOUS_VALUE, id::BY_PREVIOUS_ROW])
        && Table::is_likely(matrix.values())
    {
        models.extend(By::ALL.map(RowModel::Tabled));
    }
    let keeps = |value: f32, decoded: f32| value.to_bits() == decoded.to_bits();
    if search.wants(&[id::RANKED, id::EXPECTED, id::FINE])
        && let Some(uniform) = Uniform::of_fractions(matrix.values(), u32::MAX, keeps)
    {
        models.extend(models_of_levels(uniform, matrix, search));
    }
    models.extend(sorted);
    models
}

/// The block-sorted models of such values: of both scans, or of the one chosen.
fn block_sorted(values: Values, search: Search) -> Vec<RowModel> {
    let contexts = values.contexts();
    let all = Scan::ALL.map(|scan| BlockSorted {
        values,
        scan,
        contexts,
    });
    let wanted = all.into_iter().filter(|sorted| match search {
        Search::Small | Search::Large => true,
        Search::Like(model) => match model.rows {
            RowModel::BlockSorted(chosen) => chosen.scan == sorted.scan,
            _ => false,
        },
    });
    wanted.map(RowModel::BlockSorted).collect()
}

/// Whether all rows decode from shares as promised: with many classes, zeros take a little from the others.
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

/// The models of rows of levels.
fn models_of_levels(uniform: Uniform, matrix: Rows<'_>, search: Search) -> Vec<RowModel> {
    let mut models = vec![
        RowModel::Ranked(uniform),
        RowModel::Expected(Levels::Uniform(uniform)),
    ];
    let are_fine = match search {
        Search::Like(model) => model.rows.id() == id::FINE,
        _ => matrix.n_classes() <= FEW_CLASSES || are_few_levels(matrix.values(), uniform),
    };
    if are_fine {
        let fine = uniform.with_fine_tokens();
        models.push(RowModel::Expected(Levels::Uniform(fine)));
    }
    models
}

/// Whether fine tokens may pay for themselves: few of the larger levels occur, as where trees vote by shares.
fn are_few_levels(values: &[f32], uniform: Uniform) -> bool {
    /// Values to look at.
    const N_VALUES: usize = 1 << 16;
    /// As a share of all bits, counted without contexts.
    const LEAST_SAVING: f64 = 0.02;
    let values = &values[..values.len().min(N_VALUES)];
    let n_bits = |uniform: Uniform| {
        let tokens = uniform.tokens();
        let mut counts = vec![0; tokens.count()];
        let mut n_extra_bits = 0;
        for &value in values {
            let token = tokens.split(uniform.quantize(value));
            counts[token.value as usize] += 1;
            n_extra_bits += u64::from(token.n_extra_bits);
        }
        entropy_bits(&counts) + n_extra_bits as f64
    };
    let fine = uniform.with_fine_tokens();
    n_bits(fine) < (1.0 - LEAST_SAVING) * n_bits(uniform)
}

/// The models of minifloats, the last one only for probabilities; none if the values have more bits.
fn models_of_minifloats(values: &[f32], search: Search) -> Vec<RowModel> {
    // The minifloats chosen for other values are likely to hold these as well.
    if let Search::Like(model) = search {
        let keeps = match model.rows {
            RowModel::Predicted(Numbers::OrderedBits(of) | Numbers::Bits(of)) => of.keep(values),
            RowModel::Expected(Levels::Uniform(floats)) => floats.keep(values),
            RowModel::BlockSorted(BlockSorted {
                values: Values::Bits(of),
                ..
            }) => of.keep(values),
            _ => false,
        };
        if keeps {
            return vec![model.rows];
        }
    }
    let Some(minifloats) = Minifloat::of(values) else {
        return Vec::new();
    };
    let mut models = models_of_bits(minifloats).to_vec();
    let floats = Uniform::of_minifloats(minifloats, values);
    models.extend(floats.map(|floats| RowModel::Expected(Levels::Uniform(floats))));
    models
}

/// The models of values with all their bits.
pub fn models_of_bits(of: Minifloat) -> [RowModel; 2] {
    [Numbers::OrderedBits(of), Numbers::Bits(of)].map(RowModel::Predicted)
}

/// Up to so many classes, other models may suit than for more.
const FEW_CLASSES: usize = 6;

/// From so many classes on, levels may be better expected as they are than by their logarithms.
const MANY_CLASSES: usize = 16;

/// The step for the rows not marked; rows with values too large for any step get marked.
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
    // A bound below the smallest float leaves no row.
    Step::new(max_error, largest).unwrap_or(Step::FINEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_of_the_larger_levels_occur_where_trees_vote_by_shares() {
        let mut state = 1u32;
        let mut random = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        // Some of 200 trees give a half to one of 30 classes.
        let mut shares = vec![0.0; 300 * 30];
        for row in shares.chunks_exact_mut(30) {
            (0..90).for_each(|_| row[random(30) as usize] += 0.0025);
        }
        let others: Vec<f32> = (0..300 * 30)
            .map(|_| random(1 << 16) as f32 / 1e6)
            .collect();
        let uniform = Uniform::new(1e-4).unwrap();
        assert!(are_few_levels(&shares, uniform));
        assert!(!are_few_levels(&others, uniform));
        for (values, has_fine) in [(shares, true), (others, false)] {
            let matrix = Rows::new(30, &values);
            let models = models_of_levels(uniform, matrix, Search::Small);
            assert_eq!(models.iter().any(|model| model.id() == id::FINE), has_fine);
        }
    }
}
