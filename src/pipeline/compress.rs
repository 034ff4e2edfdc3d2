//! `pc compress`: a matrix of predictions in, a `.huff` file out.

use std::fs::File;
use std::io::{BufReader, Read};

use anyhow::{Context, Result, ensure};

use super::predict_compress::summary_lines;
use super::progress::{Progress, thousands};
use super::size::smallest_bound;
use super::{open_input, set_threads};
use crate::cli::CompressArgs;
use crate::huffman::frame::rows_per_block;
use crate::huffman::{self, Bound, FrameHeader, FrameWriter, Kind};
use crate::io::npy::{Dtype, NpyHeader};
use crate::io::output::OutputFile;
use crate::matrix::PredictionMatrix;

/// Runs `pc compress`.
///
/// # Errors
/// A matrix that cannot be read or is not what is promised of it, or an output that cannot be written.
pub fn run(args: &CompressArgs, progress: &Progress) -> Result<()> {
    set_threads(args.threads)?;
    let name = || args.input.display().to_string();
    let mut rows = MatrixReader::open(open_input(&args.input)?).with_context(name)?;
    let output = OutputFile::create(&args.output, args.force, &[&args.input])?;

    let mut matrix = rows.next().with_context(name)?;
    let kind = args.kind.unwrap_or_else(|| guess_kind(matrix.as_ref()));
    let mut promise = args.promise.promise(kind);
    if let Some(n_bytes) = args.size {
        let fit = smallest_bound(&args.input, &promise, n_bytes, progress)?;
        progress.result(format_args!(
            "the smallest bound that fits {} bytes is {:e}, found in {} runs",
            thousands(n_bytes),
            fit.max_error,
            fit.n_runs
        ))?;
        promise.bound = Bound::MaxError(fit.max_error);
    }
    let header = FrameHeader::new(rows.n_classes, promise)?;
    let failed = |error| match error {
        huffman::Error::Io(_) => {
            anyhow::Error::new(error).context(format!("cannot write {}", args.output.display()))
        }
        _ => anyhow::Error::new(error).context(name()),
    };
    let mut frame = FrameWriter::new(output, header).map_err(failed)?;
    let bar = progress.bar(rows.n_rows_left, "rows");
    while let Some(some) = matrix {
        frame.write(&some).map_err(failed)?;
        bar.inc(some.n_rows() as u64);
        matrix = rows.next().with_context(name)?;
    }
    bar.finish_and_clear();
    let (output, summary, bits) = frame.finish().map_err(failed)?;
    output.finish()?;

    progress.result(format_args!("wrote {}", args.output.display()))?;
    for line in summary_lines(&summary, &bits, rows.n_classes, &promise) {
        progress.result(line)?;
    }
    Ok(())
}

/// Probabilities, if these rows look like it.
fn guess_kind(matrix: Option<&PredictionMatrix>) -> Kind {
    let is_distribution = |row: &[f32]| {
        let sum: f64 = row.iter().map(|&p| f64::from(p)).sum();
        row.iter().all(|p| (0.0..=1.0).contains(p)) && (sum - 1.0).abs() < 1e-3
    };
    // As many rows as one block has, however many threads there are.
    let first_rows = |matrix: &PredictionMatrix| {
        let n_rows = rows_per_block(matrix.n_classes());
        matrix.rows().take(n_rows).all(is_distribution)
    };
    match matrix.is_none_or(first_rows) {
        true => Kind::Probabilities,
        false => Kind::Values,
    }
}

/// Reads the rows of a `.npy` file, some at a time.
pub(super) struct MatrixReader {
    reader: BufReader<File>,
    n_classes: usize,
    n_rows_left: u64,
}

impl MatrixReader {
    pub(super) fn open(file: File) -> Result<Self> {
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let header = NpyHeader::read_from(&mut reader)?;
        ensure!(
            header.dtype == Dtype::F32 && !header.is_big_endian && !header.is_fortran_order,
            "expected little-endian float32 in C order; numpy.ascontiguousarray(x, dtype='<f4') makes it"
        );
        let &[n_rows, n_classes] = &header.shape[..] else {
            anyhow::bail!(
                "an array of {} dimensions; expected 2: rows and classes",
                header.shape.len()
            );
        };
        let n_classes = usize::try_from(n_classes)?;
        // Checked here, before anything is allocated by it.
        FrameHeader::new(n_classes, huffman::Promise::new(Kind::Values, Bound::Exact))?;
        Ok(Self {
            reader,
            n_classes,
            n_rows_left: n_rows,
        })
    }

    /// Number of classes (columns).
    pub(super) fn n_classes(&self) -> usize {
        self.n_classes
    }

    /// Rows that have not come yet.
    pub(super) fn n_rows_left(&self) -> u64 {
        self.n_rows_left
    }

    /// The next rows, enough for all threads; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<PredictionMatrix>> {
        let n_rows = rows_per_block(self.n_classes) * 2 * rayon::current_num_threads();
        let n_rows = self.n_rows_left.min(n_rows as u64);
        if n_rows == 0 {
            return Ok(None);
        }
        let n_bytes = n_rows * self.n_classes as u64 * 4;
        let mut bytes = Vec::new();
        (&mut self.reader).take(n_bytes).read_to_end(&mut bytes)?;
        ensure!(
            bytes.len() as u64 == n_bytes,
            "truncated: {} rows are missing; copy or write it again",
            self.n_rows_left - bytes.len() as u64 / (4 * self.n_classes as u64)
        );
        self.n_rows_left -= n_rows;
        let (words, _) = bytes.as_chunks::<4>();
        let values = words.iter().map(|&word| f32::from_le_bytes(word)).collect();
        Ok(Some(PredictionMatrix::new(self.n_classes, values)))
    }
}
