//! `pc compress`: a matrix of predictions in, a `.huff` file out.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::picture::Picture;
use super::progress::{Progress, thousands};
use super::reference::References;
use super::row_labels::RowLabels;
use super::rows::{Doubt, RowReader, doubt};
use super::scores::{Comparison, Tee};
use super::size::{Rows, smallest_bound};
use super::summary::{score_lines, summary_lines};
use super::{
    check_extension, check_keep_top, input_name, open_input, open_to_seek, output_name, rate,
    set_threads, unreadable,
};
use crate::cli::CompressArgs;
use crate::huffman::{self, Bound, FrameHeader, FrameWriter, Kind};
use crate::io::output::Output;
use crate::io::source::Values;

/// Runs `pc compress`.
///
/// # Errors
/// A matrix that cannot be read or is not what is promised of it, or an output that cannot be written.
pub fn run(args: &CompressArgs, progress: &Progress) -> Result<()> {
    set_threads(args.threads)?;
    check_extension(&args.output, "pc compress", ".huff")?;
    let name = || input_name(&args.input);
    let input = open_input(&args.input)?;
    let mut inputs = vec![args.input.as_path()];
    inputs.extend(
        [&args.class_names, &args.labels_file, &args.peers]
            .into_iter()
            .flatten()
            .map(|p| p.as_path()),
    );
    inputs.extend(args.reference.iter().map(|path| path.as_path()));
    let output = Output::create(&args.output, args.force, &inputs, false)?;
    let progress = progress.beside(&output);
    let labels = args
        .labels_file
        .as_deref()
        .map(RowLabels::open)
        .transpose()?;

    let peers = args.peers.as_deref().map(rate::read_peers).transpose()?;
    let mut options = args.source.options();
    options.takes_non_finite = args.promise.exact;
    let picture = match &args.plots {
        Some(folder) => {
            open_to_seek(&args.input).context("--plots reads its input many times")?;
            Some(Picture::create(folder, "rate.svg", args.force)?)
        }
        None => None,
    };
    let mut rows = RowReader::new(input, name(), &options)?;
    let n_classes = rows.n_classes();
    check_keep_top(args.promise.keep_top, n_classes).with_context(name)?;
    let references = Arc::new(References::open(&args.reference, args.memory.memory_limit)?);
    references.check(&name(), &rows)?;
    let mut values = rows.next()?;

    let (mut header, doubt) = header(args, &rows, values.as_ref())?;
    header.reference = references.name();
    if let Some(n_bytes) = args.size {
        let rows = Rows {
            path: &args.input,
            options: &options,
            references: &references,
            header: &header,
            option: "--size",
        };
        let fit = smallest_bound(&rows, n_bytes, &progress)?;
        progress.result(format_args!(
            "the smallest bound that fits {} bytes is {:e}, found in {} runs",
            thousands(n_bytes),
            fit.max_error,
            fit.n_runs
        ))?;
        header.promise.bound = Bound::MaxError(fit.max_error);
    }
    let promise = header.promise;
    let failed = |error| match error {
        huffman::Error::Io(_) => {
            anyhow::Error::new(error).context(format!("cannot write {}", output_name(&args.output)))
        }
        _ => anyhow::Error::new(error).context(name()),
    };
    let (mut comparison, copy) = match labels {
        Some(labels) => {
            let (comparison, copy) = Comparison::start(
                labels,
                rows.n_rows(),
                n_classes,
                promise.kind,
                Arc::clone(&references),
            )?;
            (Some(comparison), Some(copy))
        }
        None => (None, None),
    };
    let mut frame = FrameWriter::new(Tee::new(output, copy), header.clone()).map_err(failed)?;
    let bar = progress.bar(rows.n_rows().unwrap_or(0), "rows");
    while let Some(some) = values {
        if let Some(comparison) = &mut comparison {
            comparison.add(&some)?;
        }
        let n_rows = (some.len() / n_classes) as u64;
        bar.inc(n_rows);
        let first_row = frame.next_row();
        let beside = references.beside(&name(), first_row..first_row + n_rows)?;
        rows.write(&mut frame, some, beside.as_ref(), &promise)
            .map_err(failed)?;
        values = rows.next()?;
    }
    bar.finish_and_clear();
    let (tee, summary, bits) = frame.finish().map_err(failed)?;
    let output = tee.into_output();
    let scores = comparison.map(Comparison::finish).transpose()?;
    output.finish()?;
    let mut written = vec![output_name(&args.output)];
    if let Some(picture) = picture {
        let peers = peers.as_deref().unwrap_or_default();
        let rows = Rows {
            path: &args.input,
            options: &options,
            references: &references,
            header: &header,
            option: "--plots",
        };
        let path = rate::draw(picture, &rows, &summary, peers, &progress)?;
        written.extend(path.map(|path| path.display().to_string()));
    }

    for name in written {
        progress.result(format_args!("wrote {name}"))?;
    }
    if let Some(doubt) = doubt {
        progress.result(format_args!(
            "  kind           values, as {doubt}; give --kind if they are probabilities or logits"
        ))?;
    }
    for line in summary_lines(&summary, &bits, n_classes, &promise) {
        progress.result(line)?;
    }
    if let Some((original, decoded)) = scores {
        for line in score_lines(&original, &decoded) {
            progress.result(line)?;
        }
    }
    Ok(())
}

/// The header of a file of these rows, of which the first are at hand, and why they are taken for values that are no
/// probabilities, if they are.
fn header(
    args: &CompressArgs,
    rows: &RowReader,
    first: Option<&Values>,
) -> Result<(FrameHeader, Option<Doubt>)> {
    let n_classes = rows.n_classes();
    let doubt = match args.kind {
        None => first.and_then(|values| doubt(values, n_classes)),
        Some(_) => None,
    };
    let kind = args.kind.unwrap_or(match doubt {
        None => Kind::Probabilities,
        Some(_) => Kind::Values,
    });
    let mut header = FrameHeader::new(n_classes, args.promise.promise(kind))
        .with_context(|| input_name(&args.input))?;
    header.class_names = match &args.class_names {
        Some(path) => Some(read_class_names(path, n_classes)?),
        None => rows.class_names().map(<[String]>::to_vec),
    };
    Ok((header, doubt))
}

/// Reads a name a line.
fn read_class_names(path: &Path, n_classes: usize) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).map_err(|error| unreadable(path, "read", error))?;
    let names: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    ensure!(
        names.len() == n_classes,
        "{}: {} class names; expected {n_classes}, one a line",
        path.display(),
        names.len()
    );
    Ok(names)
}
