//! `pc decode`: a `.huff` file in, the matrix out, or the classes that it puts first.

use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;

use super::progress::{Progress, thousands};
use super::reference::{References, is_of_reference};
use super::{input_name, next_batch, open_input, output_name, set_threads};
use crate::cli::DecodeArgs;
use crate::huffman::index::within;
use crate::huffman::{
    Block, Bound, Error, FileIndex, FrameHeader, FrameReader, Kind, Promise, first_moved_class,
};
use crate::io::format::Format;
use crate::io::input::{can_seek, is_standard, spool};
use crate::io::output::Output;
use crate::io::sink::{self, Batch, Content};
use crate::matrix::PredictionMatrix;

/// Runs `pc decode`.
///
/// # Errors
/// A file that is no `.huff` file or a damaged one, or an output that cannot be written.
pub fn run(args: &DecodeArgs, progress: &Progress) -> Result<()> {
    set_threads(args.threads)?;
    let mut input = open_input(&args.input)?;
    let (path, format) = output_of(args)?;
    let inputs: Vec<&Path> = [&args.input]
        .into_iter()
        .chain(&args.reference)
        .map(|path| path.as_path())
        .collect();
    let output = Output::create(&path, args.force, &inputs, format.is_text())?;
    let progress = progress.beside(&output);
    let references = References::open(&args.reference, args.memory.memory_limit)?;

    let unreadable = || input_name(&args.input);
    let unwritable = || format!("cannot write {}", output_name(&path));
    let mut n_rows = 0;
    if format.needs_n_rows() {
        if !can_seek(&mut input).with_context(unreadable)? {
            input = spool(&mut input).with_context(unreadable)?;
        }
        n_rows = count_rows(&mut input, args).with_context(unreadable)?;
    }
    let mut blocks = Blocks::open(input, args).with_context(unreadable)?;
    let header = blocks.header().clone();
    ensure!(
        !args.normalize || header.promise.kind == Kind::Probabilities,
        "{}: it holds {}, which have no sum to keep; leave --normalize out",
        unreadable(),
        header.promise.kind,
    );
    let content = content(args, &header)?;
    let mut sink =
        sink::create(output, format, content.clone(), n_rows).with_context(unwritable)?;
    let bar = progress.bar(blocks.n_rows_to_come().unwrap_or(0), "rows");
    let (mut n_rows, mut n_lost, mut is_cut) = (0, 0, false);
    let (mut is_same_promise, mut is_same_order) = (true, true);
    let mut write = |decoded: Vec<(Range<u64>, Result<Decoded, Error>)>| -> Result<()> {
        for (rows, decoded) in decoded {
            let decoded = match decoded {
                Err(error) if args.skip_damaged && !is_of_reference(&error) => {
                    let (file, damage) = (unreadable(), damage(&error));
                    progress.warn(match rows.is_empty() {
                        false => format!(
                            "{file}: {damage}; rows {}..{} become {}",
                            rows.start,
                            rows.end,
                            lost_text(&content)
                        ),
                        true => format!("{file}: {damage}; no rows from {} on", rows.start),
                    });
                    n_lost += rows.end - rows.start;
                    is_cut |= rows.is_empty();
                    let n_rows = (rows.end - rows.start) as usize;
                    let lost = vec![f32::NAN; n_rows * header.classes];
                    Decoded::new(PredictionMatrix::new(header.classes, lost), &content)
                }
                decoded => decoded.with_context(unreadable)?,
            };
            sink.write(decoded.batch()).with_context(unwritable)?;
            n_rows += rows.end - rows.start;
        }
        bar.set_position(n_rows);
        Ok(())
    };
    let decode = |piece: Piece| {
        let rows = piece.rows.clone();
        let decoded = piece.decode(header.classes, args.normalize, &content, &references);
        (rows, decoded)
    };
    // Blocks are decoded while those before them are written.
    let mut decoded = Vec::new();
    loop {
        let batch = match next_batch(|| blocks.next()) {
            Ok(batch) => batch,
            Err(error) => {
                write(decoded)?;
                return Err(error).with_context(unreadable);
            }
        };
        let is_end = batch.is_empty();
        is_same_order &= blocks.have_order_of(&header);
        is_same_promise &= batch
            .iter()
            .all(|piece| piece.promise.bound == header.promise.bound);
        let (written, next) = rayon::join(
            || write(decoded),
            || batch.into_par_iter().map(decode).collect(),
        );
        written?;
        if is_end {
            break;
        }
        decoded = next;
    }
    bar.finish_and_clear();
    sink.finish().with_context(unwritable)?.finish()?;
    if !is_same_order {
        progress.warn(format_args!(
            "{}: some frames have the classes in another order than the first, whose names stand for all; decode the files that were put together one by one",
            unreadable()
        ));
    }

    let bound = match is_same_promise {
        true => Some(header.promise.bound),
        false => None,
    };
    let written = written_text(&content, n_rows, header.classes, bound, args.normalize);
    let mut damaged = match n_lost {
        0 => String::new(),
        n => format!(
            "; {} of them are damaged, and {}",
            thousands(n),
            lost_text(&content)
        ),
    };
    if is_cut {
        damaged += "; what came after them is lost";
    }
    let path = output_name(&path);
    progress.result(format_args!("wrote {path}: {written}{damaged}"))
}

/// What has been written of so many rows, within the bound of all frames, if they have the same.
fn written_text(
    content: &Content,
    n_rows: u64,
    n_classes: usize,
    bound: Option<Bound>,
    are_normalized: bool,
) -> String {
    let n_rows = thousands(n_rows);
    match content {
        Content::Matrix { kind, .. } => {
            let nearness = match bound {
                _ if are_normalized => "scaled to sum to 1".to_owned(),
                None => "each as its frame promises".to_owned(),
                Some(Bound::MaxError(max_error)) => {
                    format!("each within {max_error:e} of the original")
                }
                Some(Bound::MaxKl(max_kl)) => {
                    format!("each row within {max_kl:e} bits of the original")
                }
                Some(Bound::Exact) => "bit for bit the original".to_owned(),
            };
            format!("{n_rows} rows of {n_classes} {kind}, {nearness}")
        }
        Content::Labels => format!("the label of {n_rows} rows, of {n_classes} classes"),
        Content::Top(k) => format!("the first {k} of {n_classes} classes of {n_rows} rows"),
    }
}

/// What is wrong with a part that is skipped: the way out is being taken.
fn damage(error: &Error) -> String {
    match error {
        Error::TrailingBytes { n_bytes, .. } => {
            format!(
                "no whole .huff frame at byte {n_bytes}, as when an append is cut short or the file is damaged"
            )
        }
        error => error.to_string(),
    }
}

/// What is written for rows that are lost.
fn lost_text(content: &Content) -> &'static str {
    match content {
        Content::Labels => "-1",
        _ => "NaN",
    }
}

/// Where to write, and in which format.
fn output_of(args: &DecodeArgs) -> Result<(PathBuf, Format)> {
    let path = match &args.output {
        Some(path) => path.clone(),
        None if is_standard(&args.input) => args.input.clone(),
        None => {
            let extension = args.format.unwrap_or(Format::Npy).name();
            // Only .huff goes: preds.v1 and preds.v2 are two files.
            match args.input.extension() {
                Some(found) if found == "huff" => args.input.with_extension(extension),
                _ => {
                    let mut name = args.input.clone().into_os_string();
                    name.push(".");
                    name.push(extension);
                    name.into()
                }
            }
        }
    };
    let format = match args.format {
        Some(format) => format,
        None => Format::of_path(&path).with_context(|| {
            format!(
                "{}: no format has this extension; expected {}, or name one with --format",
                path.display(),
                Format::NAMES.map(|name| format!(".{name}")).join(", ")
            )
        })?,
    };
    ensure!(
        args.top.is_none() || format != Format::Npy,
        "one .npy array cannot hold classes and values; --format npz holds two"
    );
    Ok((path, format))
}

/// What is asked for of each row.
fn content(args: &DecodeArgs, header: &FrameHeader) -> Result<Content> {
    if args.labels {
        return Ok(Content::Labels);
    }
    let Some(k) = args.top else {
        return Ok(Content::Matrix {
            kind: header.promise.kind.to_string(),
            n_classes: header.classes,
            class_names: header.class_names.clone(),
        });
    };
    ensure!(
        k <= header.classes,
        "{}: --top {k} of {} classes; expected as many or fewer",
        input_name(&args.input),
        header.classes
    );
    Ok(Content::Top(k))
}

/// The number of rows asked for that can be read, which the index tells; without it, blocks are counted up to
/// the first damage. Leaves the file at its start.
fn count_rows(file: &mut File, args: &DecodeArgs) -> Result<u64, Error> {
    let n_rows = match FileIndex::of_whole_frames(file, args.memory.memory_limit) {
        // As `Blocks::open` chooses.
        Ok((index, tail)) if tail.as_ref().is_none_or(|tail| !tail.holds_end) => {
            index.summary().n_rows
        }
        _ => {
            file.seek(SeekFrom::Start(0))?;
            let reader = BufReader::with_capacity(1 << 16, &mut *file);
            let mut frames = FrameReader::with_memory_limit(reader, args.memory.memory_limit)?;
            let mut n_rows = 0;
            // What is wrong is told when the rows are decoded.
            while let Ok(Some(block)) = frames.next_raw_block() {
                n_rows += block.n_rows() as u64;
            }
            n_rows
        }
    };
    file.seek(SeekFrom::Start(0))?;
    let Some(rows) = args.rows else {
        return Ok(n_rows);
    };
    let end = rows.end.unwrap_or(n_rows).min(n_rows);
    Ok(end.saturating_sub(rows.start))
}

/// Some decoded rows, as they are written.
enum Decoded {
    Matrix(PredictionMatrix),
    Labels(Vec<i64>),
    Top {
        k: usize,
        classes: Vec<i32>,
        values: Vec<f32>,
    },
}

impl Decoded {
    fn new(matrix: PredictionMatrix, content: &Content) -> Self {
        match *content {
            Content::Matrix { .. } => Self::Matrix(matrix),
            Content::Labels => Self::Labels(matrix.rows().map(sink::label).collect()),
            Content::Top(k) => {
                let (mut classes, mut values) = (Vec::new(), Vec::new());
                for row in matrix.rows() {
                    sink::push_top(row, k, &mut classes, &mut values);
                }
                Self::Top { k, classes, values }
            }
        }
    }

    fn batch(&self) -> Batch<'_> {
        match self {
            Self::Matrix(matrix) => Batch::Matrix(matrix.view()),
            Self::Labels(labels) => Batch::Labels(labels),
            Self::Top { k, classes, values } => Batch::Top {
                k: *k,
                classes,
                values,
            },
        }
    }
}

/// A block that is wanted, or why it cannot be read, and those of its rows that are asked for.
struct Piece {
    block: Result<Block, Error>,
    first_row: u64,
    rows: Range<u64>,
    promise: Promise,
}

impl Piece {
    /// The rows that are asked for.
    fn decode(
        self,
        n_classes: usize,
        normalize: bool,
        content: &Content,
        references: &References,
    ) -> Result<Decoded, Error> {
        let mut matrix = self.block?.decode_with(|needed| references.find(needed))?;
        let wanted = within(&matrix, self.first_row, &self.rows);
        if wanted.len() < matrix.values().len() {
            matrix = PredictionMatrix::new(n_classes, wanted.to_vec());
        }
        if normalize {
            matrix.normalize();
        }
        Ok(Decoded::new(matrix, content))
    }
}

/// The blocks that hold the rows asked for.
enum Blocks {
    Indexed(IndexedBlocks),
    Streamed(StreamedBlocks),
}

/// Found by the index, where the file allows that.
struct IndexedBlocks {
    file: File,
    index: FileIndex,
    rows: Range<u64>,
    /// The number of the next block.
    next: usize,
    /// What is wrong after the last whole frame, to be told at the end.
    tail: Option<Error>,
}

/// Found by reading all that comes before.
struct StreamedBlocks {
    frames: FrameReader<BufReader<File>>,
    /// The first row of the next block.
    next_row: u64,
    rows: Range<u64>,
    /// Whether damage is to be told, but not to stop.
    skips_damage: bool,
    /// Whether rows have been lost by that.
    is_lost: bool,
    is_at_end: bool,
}

impl Blocks {
    fn open(mut file: File, args: &DecodeArgs) -> Result<Self, Error> {
        let can_seek = file.metadata().is_ok_and(|metadata| metadata.is_file());
        if can_seek && (args.rows.is_some() || args.skip_damaged) {
            match FileIndex::of_whole_frames(&mut file, args.memory.memory_limit) {
                // Where frames follow that cannot be found by the index, reading on may find more rows.
                Ok((_, Some(tail))) if args.skip_damaged && tail.holds_end => {
                    file.seek(SeekFrom::Start(0))?;
                }
                Ok((index, tail)) => {
                    // Rows that are there do not depend on what follows them.
                    let end = args.rows.and_then(|rows| rows.end);
                    let is_there = end.is_some_and(|end| end <= index.summary().n_rows);
                    let tail = match tail.map(|tail| tail.error).filter(|_| !is_there) {
                        Some(error) if !args.skip_damaged => return Err(error),
                        tail => tail,
                    };
                    let range = args.rows.map_or(0..index.summary().n_rows, |rows| {
                        rows.start..rows.end.unwrap_or(index.summary().n_rows)
                    });
                    index.check_rows(&range)?;
                    return Ok(Self::Indexed(IndexedBlocks {
                        next: index.blocks_of(&range).start,
                        rows: range,
                        file,
                        index,
                        tail,
                    }));
                }
                // Without an index, the file may still be read from its start.
                Err(_) if args.skip_damaged => {
                    file.seek(SeekFrom::Start(0))?;
                }
                Err(error) => return Err(error),
            }
        }
        let reader = BufReader::with_capacity(1 << 16, file);
        Ok(Self::Streamed(StreamedBlocks {
            frames: FrameReader::with_memory_limit(reader, args.memory.memory_limit)?,
            next_row: 0,
            rows: args
                .rows
                .map_or(0..u64::MAX, |rows| rows.start..rows.end.unwrap_or(u64::MAX)),
            skips_damage: args.skip_damaged,
            is_lost: false,
            is_at_end: false,
        }))
    }

    fn header(&self) -> &FrameHeader {
        match self {
            Self::Indexed(blocks) => &blocks.index.headers()[0],
            Self::Streamed(blocks) => blocks.frames.header(),
        }
    }

    /// Whether no frame so far, or in the index, has the same class names in another order.
    fn have_order_of(&self, first: &FrameHeader) -> bool {
        let is_moved = |header: &FrameHeader| match (&header.class_names, &first.class_names) {
            (Some(found), Some(expected)) => first_moved_class(found, expected).is_some(),
            _ => false,
        };
        match self {
            Self::Indexed(blocks) => !blocks.index.headers().iter().any(is_moved),
            Self::Streamed(blocks) => !is_moved(blocks.frames.header()),
        }
    }

    /// How many rows will come, if that is known.
    fn n_rows_to_come(&self) -> Option<u64> {
        match self {
            Self::Indexed(blocks) => Some(blocks.rows.end - blocks.rows.start),
            Self::Streamed(_) => None,
        }
    }

    fn next(&mut self) -> Result<Option<Piece>, Error> {
        match self {
            Self::Indexed(blocks) => Ok(blocks.next()),
            Self::Streamed(blocks) => blocks.next(),
        }
    }
}

impl IndexedBlocks {
    fn next(&mut self) -> Option<Piece> {
        let rows = &self.rows;
        if !self.index.blocks_of(rows).contains(&self.next) {
            return self.tail.take().map(|error| Piece {
                block: Err(error),
                first_row: rows.end,
                rows: rows.end..rows.end,
                promise: self.index.headers()[0].promise,
            });
        }
        let of_block = self.index.rows_of(self.next);
        let piece = Piece {
            block: self.index.read_block(&mut self.file, self.next),
            first_row: of_block.start,
            rows: of_block.start.max(rows.start)..of_block.end.min(rows.end),
            promise: self.index.header_of(self.next).promise,
        };
        self.next += 1;
        Some(piece)
    }
}

impl StreamedBlocks {
    fn next(&mut self) -> Result<Option<Piece>, Error> {
        let rows = &self.rows;
        while !self.is_at_end {
            let block = match self.frames.next_raw_block() {
                Ok(Some(block)) => block,
                Ok(None) => {
                    self.is_at_end = true;
                    break;
                }
                Err(error) if self.skips_damage => {
                    // Nothing tells where the next block begins.
                    self.is_at_end = true;
                    self.is_lost = true;
                    return Ok(Some(Piece {
                        block: Err(error),
                        first_row: self.next_row,
                        rows: self.next_row..self.next_row,
                        promise: self.frames.header().promise,
                    }));
                }
                Err(error) => return Err(error),
            };
            let of_block = self.next_row..self.next_row + block.n_rows() as u64;
            self.next_row = of_block.end;
            if of_block.end > rows.start && of_block.start < rows.end {
                return Ok(Some(Piece {
                    block: Ok(block),
                    first_row: of_block.start,
                    rows: of_block.start.max(rows.start)..of_block.end.min(rows.end),
                    promise: self.frames.header().promise,
                }));
            }
        }
        // Rows that the file does not have must not be missing without a word.
        let wanted = match rows.end {
            u64::MAX => rows.start,
            end => end,
        };
        match wanted > self.next_row && !self.is_lost {
            true => Err(Error::RowsOutOfRange {
                start: rows.start,
                end: wanted,
                n_rows: self.next_row,
            }),
            false => Ok(None),
        }
    }
}
