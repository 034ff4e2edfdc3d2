//! `pc decode`: a `.huff` file in, the matrix out.

use std::io::{BufReader, Seek, SeekFrom};

use anyhow::{Context, Result};

use super::open_input;
use super::progress::{Progress, thousands};
use crate::cli::DecodeArgs;
use crate::huffman::FrameReader;
use crate::io::npy;
use crate::io::output::OutputFile;

/// Runs `pc decode`.
///
/// # Errors
/// A file that is no `.huff` file or a damaged one, or an output that cannot be written.
pub fn run(args: &DecodeArgs, progress: &Progress) -> Result<()> {
    let input = open_input(&args.input)?;
    let path = match &args.output {
        Some(path) => path.clone(),
        // Only .huff goes: preds.v1 and preds.v2 are two files.
        None => match args.input.extension() {
            Some(extension) if extension == "huff" => args.input.with_extension("npy"),
            _ => {
                let mut name = args.input.clone().into_os_string();
                name.push(".npy");
                name.into()
            }
        },
    };
    let mut output = OutputFile::create(&path, args.force, &[&args.input])?;

    let unreadable = || args.input.display().to_string();
    let unwritable = || format!("cannot write {}", path.display());
    let n_bytes = input.metadata().map_or(0, |metadata| metadata.len());
    let mut frames =
        FrameReader::new(BufReader::with_capacity(1 << 16, input)).with_context(unreadable)?;
    let n_classes = frames.header().classes;
    // The number of rows stands at the end of a frame; the header is written again once it is known.
    npy::write_matrix_header(&mut output, 0, n_classes).with_context(unwritable)?;
    let bar = progress.bar(n_bytes, "bytes");
    while let Some(matrix) = frames.next_block().with_context(unreadable)? {
        npy::write_f32(&mut output, matrix.values()).with_context(unwritable)?;
        bar.set_position(frames.n_bytes_read());
    }
    bar.finish_and_clear();
    let n_rows = frames.summary().n_rows;
    let file = output.file()?;
    file.seek(SeekFrom::Start(0))
        .and_then(|_| npy::write_matrix_header(file, n_rows, n_classes))
        .with_context(unwritable)?;
    output.finish()?;

    progress.result(format_args!(
        "wrote {}: {} rows of {n_classes} probabilities, each within {:.4e} of the original",
        path.display(),
        thousands(n_rows),
        frames.summary().largest_error,
    ))?;
    Ok(())
}
