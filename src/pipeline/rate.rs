//! `pc compress --plots`: what other bounds would cost, as a picture: bytes a row against the largest error and
//! against the divergence, beside what others take.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::open_input;
use super::picture::Picture;
use super::progress::Progress;
use super::size::Rows;
use crate::huffman::{Bound, Kind, Summary};
use crate::plots::{self, Chart, Series};

/// Bounds on errors of probabilities.
const MAX_ERRORS: [f64; 9] = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1];
/// Bounds on divergence, in bits.
const MAX_KLS: [f64; 11] = [
    1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0,
];

/// What the user knows of another compressor: a line of `--peers`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Peer {
    /// What it is called; lines of one name are joined.
    name: String,
    /// What its bound is on.
    bound: Axis,
    /// The bound.
    value: f64,
    /// What it takes.
    bytes_a_row: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Axis {
    MaxError,
    MaxKl,
}

/// Reads a CSV file of peers.
///
/// # Errors
/// If it cannot be read, or a line is not what is expected.
pub(super) fn read_peers(path: &Path) -> Result<Vec<Peer>> {
    const EXPECTED: &str =
        "expected the columns name, bound (max_error or max_kl), value and bytes_a_row";
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(open_input(path)?);
    let peers: Result<Vec<Peer>, _> = reader.deserialize().collect();
    let peers = peers.with_context(|| format!("{}: {EXPECTED}", path.display()))?;
    let is_drawable =
        |peer: &Peer| peer.value > 0.0 && peer.value.is_finite() && peer.bytes_a_row.is_finite();
    match peers.iter().find(|peer| !is_drawable(peer)) {
        Some(peer) => anyhow::bail!(
            "{}: {} has the bound {} and {} bytes a row; expected a bound above 0 and a number",
            path.display(),
            peer.name,
            peer.value,
            peer.bytes_a_row
        ),
        None => Ok(peers),
    }
}

/// Draws what rows cost under other bounds than that of their header, under which they cost what `summary` says;
/// returns the path of the picture, which is none if no bound can be kept.
///
/// # Errors
/// As compressing and writing.
pub(super) fn draw(
    picture: Picture,
    rows: &Rows<'_>,
    summary: &Summary,
    peers: &[Peer],
    progress: &Progress,
) -> Result<Option<PathBuf>> {
    let promise = &rows.header.promise;
    let is_of_probabilities = promise.kind == Kind::Probabilities;
    let max_errors = match is_of_probabilities {
        true => MAX_ERRORS.to_vec(),
        false => max_errors(rows.largest_value()?),
    };
    let bar = progress.bar((max_errors.len() + MAX_KLS.len()) as u64, "runs");
    let bytes_a_row = |summary: &Summary| summary.n_bytes as f64 / summary.n_rows.max(1) as f64;
    let curve = |bounds: &[f64], bound_of: fn(f64) -> Bound| -> Result<Series> {
        let points = bounds.iter().map(|&value| {
            bar.inc(1);
            let summary = rows.compress(bound_of(value))?;
            Ok((value, bytes_a_row(&summary)))
        });
        Ok(Series {
            name: "pc".to_owned(),
            points: points.collect::<Result<_>>()?,
        })
    };
    let chart = |axis: Axis, curve: Series, own: Option<f64>| {
        let (title, x) = match axis {
            Axis::MaxError => ("Bytes a row and largest error", "max error"),
            Axis::MaxKl => ("Bytes a row and divergence", "max KL, bits"),
        };
        let own = own.map(|bound| Series {
            name: "this file".to_owned(),
            points: vec![(bound, bytes_a_row(summary))],
        });
        Chart {
            title: title.to_owned(),
            x: x.to_owned(),
            y: "bytes a row".to_owned(),
            is_logarithmic: true,
            series: std::iter::once(curve)
                .chain(own)
                .chain(series(peers, axis))
                .collect(),
        }
    };
    let mut charts = Vec::new();
    let own = match promise.bound {
        Bound::MaxError(bound) => Some(bound),
        _ => None,
    };
    match curve(&max_errors, Bound::MaxError) {
        Ok(curve) => charts.push(chart(Axis::MaxError, curve, own)),
        // Rows that are no numbers, or too fine for float32, have none.
        Err(error) => progress.warn(format_args!("no picture of errors: {error:#}")),
    }
    if is_of_probabilities {
        let own = match promise.bound {
            Bound::MaxKl(bound) => Some(bound),
            _ => None,
        };
        match curve(&MAX_KLS, Bound::MaxKl) {
            Ok(curve) => charts.push(chart(Axis::MaxKl, curve, own)),
            // Rows that are no distributions have none.
            Err(error) => progress.warn(format_args!("no picture of divergence: {error:#}")),
        }
    }
    bar.finish_and_clear();
    match charts.is_empty() {
        true => Ok(None),
        false => picture.write(&plots::charts(&charts)).map(Some),
    }
}

/// Bounds on errors of values up to a magnitude.
fn max_errors(largest: f64) -> Vec<f64> {
    let exponent = largest.max(1e-30).log10().floor() as i32;
    (exponent - 5..exponent)
        .flat_map(|exponent| [1, 3].map(|digit| format!("{digit}e{exponent}")))
        .map(|text| text.parse().expect("a digit and an exponent are a number"))
        .collect()
}

/// The peers whose bounds are on an axis, by name, in the order in which they come.
fn series(peers: &[Peer], axis: Axis) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    for peer in peers.iter().filter(|peer| peer.bound == axis) {
        let point = (peer.value, peer.bytes_a_row);
        match all.iter_mut().find(|series| series.name == peer.name) {
            Some(series) => series.points.push(point),
            None => all.push(Series {
                name: peer.name.clone(),
                points: vec![point],
            }),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_follow_the_magnitude_of_values() {
        let bounds = max_errors(37.0);
        assert_eq!((bounds[0], bounds[9], bounds.len()), (1e-4, 3.0, 10));
        assert_eq!(max_errors(0.0).len(), 10);
    }

    #[test]
    fn peers_of_one_name_are_one_line() {
        let peer = |name: &str, bound, value| Peer {
            name: name.to_owned(),
            bound,
            value,
            bytes_a_row: 2.0,
        };
        let peers = [
            peer("xz", Axis::MaxError, 0.1),
            peer("zstd", Axis::MaxError, 0.1),
            peer("xz", Axis::MaxError, 0.2),
            peer("xz", Axis::MaxKl, 0.3),
        ];
        let found = series(&peers, Axis::MaxError);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].points, [(0.1, 2.0), (0.2, 2.0)]);
        assert_eq!(series(&peers, Axis::MaxKl).len(), 1);
    }
}
