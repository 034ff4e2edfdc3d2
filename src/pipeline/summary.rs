//! What a command has written, in lines for a person.

use super::progress::thousands;
use super::scores::Scores;
use crate::huffman::{BitCounts, Bound, Promise, Summary};

/// What a compressed file holds and what it cost, for a person.
pub(super) fn summary_lines(
    summary: &Summary,
    bits: &BitCounts,
    n_classes: usize,
    promise: &Promise,
) -> Vec<String> {
    let n_raw_bytes = summary.n_rows * n_classes as u64 * 4;
    // Figures by row mean nothing without rows.
    let n_rows = summary.n_rows.max(1) as f64;
    let per_row = |n_bits: f64| n_bits / 8.0 / n_rows;
    let exact = match summary.figures.n_exact_rows {
        0 => String::new(),
        n => format!(" ({} of them stored exactly)", thousands(n)),
    };
    let mut lines = vec![
        format!("  rows           {}{exact}", thousands(summary.n_rows)),
        format!("  classes        {}", thousands(n_classes as u64)),
        format!(
            "  in             {} bytes as float32",
            thousands(n_raw_bytes)
        ),
        format!("  out            {} bytes", thousands(summary.n_bytes)),
        format!(
            "  bytes a row    {:.3}, of {}",
            summary.n_bytes as f64 / n_rows,
            thousands(n_classes as u64 * 4)
        ),
        format!(
            "  ratio          {:.1}",
            n_raw_bytes as f64 / summary.n_bytes as f64
        ),
        format!(
            "  symbols        {:.3} bytes a row, their entropy {:.3}; with {:.3} raw and {:.3} for codebooks",
            per_row(bits.codes as f64),
            per_row(bits.entropy),
            per_row(bits.raw as f64),
            per_row(bits.codebooks as f64),
        ),
    ];
    let figures = &summary.figures;
    match promise.bound {
        Bound::MaxError(max_error) => lines.push(format!(
            "  largest error  {:.4e}, bound {max_error:e}",
            figures.largest_error
        )),
        Bound::MaxKl(max_kl) => lines.push(format!(
            "  divergence     at most {:.4e} bits, mean {:.4e}, bound {max_kl:e}; largest error {:.4e}",
            figures.largest_kl,
            figures.total_kl / n_rows,
            figures.largest_error,
        )),
        Bound::Exact => lines.push("  exact          every bit comes back".to_owned()),
    }
    // The writer has decoded every row and compared; one that differed was stored exactly.
    let kept = match promise.keep_top {
        1 => "argmax kept    in".to_owned(),
        n => format!("{:<14} in", format!("top {n} kept")),
    };
    lines.push(format!("  {kept} all {} rows", thousands(summary.n_rows)));
    lines
}

/// What predictions score, before and after coding.
pub(super) fn score_lines(original: &Scores, decoded: &Scores) -> Vec<String> {
    let line = |name: &str, unit: &str, before: f64, after: f64| {
        format!(
            "  {name:<14} {before:.6}{unit}, decoded {after:.6} ({:+.1e})",
            after - before
        )
    };
    vec![
        format!(
            "  accuracy       {:.2}%, decoded {:.2}%",
            100.0 * original.accuracy.share(),
            100.0 * decoded.accuracy.share()
        ),
        line(
            "log loss",
            " nats",
            original.log_loss.mean(),
            decoded.log_loss.mean(),
        ),
        line(
            "calibration",
            " error",
            original.calibration.error(),
            decoded.calibration.error(),
        ),
    ]
}
