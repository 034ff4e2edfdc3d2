//! `pc append`: more rows at the end of a `.huff` file, as a frame of their own.
//!
//! Whatever happens, the rows before stay readable. The new frame is compressed to a nameless temporary
//! file first; then its bytes go to the end of the file, and only when they are on the disk, the last
//! eight, which make them a frame. A file that ends in a whole index is therefore whole. An append that
//! was cut short leaves bytes after the last whole frame: readers say so, and the next append cuts them
//! off (FORMAT.md, section 3).

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::progress::{Progress, thousands};
use super::rows::{RowReader, check_order};
use super::{input_name, set_threads};
use crate::cli::AppendArgs;
use crate::huffman::frame::N_END_BYTES;
use crate::huffman::index::{Tail, last_header};
use crate::huffman::{Bound, Error, FrameHeader, FrameWriter, Summary};

/// Runs `pc append`.
///
/// # Errors
/// A file that is no `.huff` file or a damaged one, rows that do not fit it, another append at work, or
/// bytes that cannot be written; the file then holds what it held.
pub fn run(args: &AppendArgs, progress: &Progress) -> Result<()> {
    set_threads(args.threads)?;
    let name = || args.file.display().to_string();
    let unwritable = || format!("cannot write {}", args.file.display());
    let mut file = open_to_append(&args.file)?;
    lock(&file, &args.file, progress)?;
    let (header, tail) = last_header(&mut file, args.memory.memory_limit).with_context(name)?;
    check_tail(tail.as_ref()).with_context(name)?;

    let (mut frame, summary) = compress(args, header, progress)?;
    if summary.n_rows == 0 {
        return progress.result(format_args!(
            "{}: no rows to append; the file is as it was",
            args.file.display()
        ));
    }
    if let Some(tail) = &tail {
        file.set_len(tail.start)
            .and_then(|()| file.sync_all())
            .with_context(unwritable)?;
        progress.warn(format_args!(
            "{}: dropped {} bytes after the last whole frame, from an append that was cut short",
            args.file.display(),
            thousands(tail.n_bytes)
        ));
    }
    let end = file.seek(SeekFrom::End(0)).with_context(unwritable)?;
    if let Err(error) = copy(&mut frame, &mut file, summary.n_bytes) {
        // Back to what it was; if even that fails, readers find the end of the last whole frame.
        let _ = file.set_len(end);
        return Err(error).with_context(unwritable);
    }
    progress.result(format_args!(
        "appended {} rows to {}: {} bytes, {:.3} a row",
        thousands(summary.n_rows),
        args.file.display(),
        thousands(summary.n_bytes),
        summary.n_bytes as f64 / summary.n_rows as f64
    ))
}

/// Opens a file that is there; pipes and folders have no end to append to.
fn open_to_append(path: &Path) -> Result<File> {
    // Looked at before it is opened, since opening a pipe waits for its other end.
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => bail!("{}: a folder; expected a file", path.display()),
        Ok(metadata) if !metadata.is_file() => {
            bail!("{}: not a regular file; name a .huff file", path.display())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "{}: no such file; make it with pc compress first",
            path.display()
        ),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).open(path);
    file.with_context(|| format!("cannot open {} to append to it", path.display()))
}

/// Keeps other appends away until the file is closed.
fn lock(file: &File, path: &Path, progress: &Progress) -> Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => bail!(
            "{}: another pc append is at work on it; try again when it is done",
            path.display()
        ),
        // Some network file systems have no locks.
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
            progress.warn(format_args!(
                "{}: this file system has no locks; see that nothing else appends to it",
                path.display()
            ));
            Ok(())
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// Checks that nothing but what an append left that was cut short would be dropped.
fn check_tail(tail: Option<&Tail>) -> Result<()> {
    match tail {
        Some(tail) if tail.holds_end => bail!(
            "damaged at byte {} or after it, and {} bytes follow, with the end of a frame among them; nothing was appended; copy or write the file again: {}",
            tail.start,
            tail.n_bytes,
            tail.error
        ),
        _ => Ok(()),
    }
}

/// Compresses the new rows, under the promise of the last frame, into a temporary file without a name, at
/// the end of which it stands.
fn compress(args: &AppendArgs, last: FrameHeader, progress: &Progress) -> Result<(File, Summary)> {
    let name = || input_name(&args.rows);
    let mut options = args.source.options();
    options.takes_non_finite = last.promise.bound == Bound::Exact;
    let mut rows = RowReader::open(&args.rows, &options)?;
    ensure!(
        rows.n_classes() == last.classes,
        "{}: {} classes; {} has {}",
        name(),
        rows.n_classes(),
        args.file.display(),
        last.classes
    );
    let file = args.file.display().to_string();
    let of_file = last.class_names.as_deref();
    check_order((&name(), rows.class_names()), (&file, of_file))?;
    if let (Some(found), Some(expected)) = (rows.class_names(), of_file)
        && found != expected
    {
        progress.warn(format_args!(
            "{}: its columns have other names than the classes of {file}, which keep theirs",
            name()
        ));
    }
    let promise = last.promise;
    let header = FrameHeader {
        class_names: last.class_names,
        ..FrameHeader::new(last.classes, promise)?
    };
    let folder = match args.file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let temporary = tempfile::tempfile_in(folder)
        .map_err(|error| error.kind())
        .map_err(io::Error::from)
        .with_context(|| format!("cannot write in {}", folder.display()))?;
    let failed = |error| match error {
        Error::Io(error) => anyhow::Error::new(error).context("cannot write a temporary file"),
        error => anyhow::Error::new(error).context(name()),
    };
    let mut frame = FrameWriter::new(temporary, header).map_err(failed)?;
    while let Some(values) = rows.next()? {
        rows.write(&mut frame, values, None, &promise)
            .map_err(failed)?;
    }
    let (frame, summary, _) = frame.finish().map_err(failed)?;
    Ok((frame, summary))
}

/// Copies a frame of `n_bytes` to where `file` stands, so that its end is not on the disk before the rest.
fn copy(frame: &mut File, file: &mut File, n_bytes: u64) -> io::Result<()> {
    frame.seek(SeekFrom::Start(0))?;
    let n_first = n_bytes - N_END_BYTES as u64;
    let n_copied = io::copy(&mut frame.take(n_first), file)?;
    let mut end = [0; N_END_BYTES];
    frame.read_exact(&mut end)?;
    if n_copied != n_first {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    file.sync_all()?;
    file.write_all(&end)?;
    file.sync_all()
}
