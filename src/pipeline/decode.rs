//! `pc decode`: a `.huff` file in, the matrix out.

use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;

use super::progress::{Progress, thousands};
use super::{open_input, set_threads};
use crate::cli::DecodeArgs;
use crate::huffman::index::within;
use crate::huffman::{Block, Bound, Error, FileIndex, FrameHeader, FrameReader, Kind, Promise};
use crate::io::npy;
use crate::io::output::OutputFile;
use crate::matrix::PredictionMatrix;

/// Runs `pc decode`.
///
/// # Errors
/// A file that is no `.huff` file or a damaged one, or an output that cannot be written.
pub fn run(args: &DecodeArgs, progress: &Progress) -> Result<()> {
    set_threads(args.threads)?;
    let input = open_input(&args.input)?;
    let path = output_path(args);
    let mut output = OutputFile::create(&path, args.force, &[&args.input])?;

    let unreadable = || args.input.display().to_string();
    let unwritable = || format!("cannot write {}", path.display());
    let mut blocks = Blocks::open(input, args).with_context(unreadable)?;
    let header = blocks.header().clone();
    ensure!(
        !args.normalize || header.promise.kind == Kind::Probabilities,
        "{}: it holds {}, which have no sum to keep; leave --normalize out",
        args.input.display(),
        header.promise.kind,
    );
    // The number of rows may stand at the end only; the header is written again once it is known.
    npy::write_matrix_header(&mut output, 0, header.classes).with_context(unwritable)?;
    let bar = progress.bar(blocks.n_rows_to_come().unwrap_or(0), "rows");
    let mut n_rows = 0;
    let mut is_same_promise = true;
    loop {
        let batch = blocks.next_batch().with_context(unreadable)?;
        if batch.is_empty() {
            break;
        }
        is_same_promise &= batch
            .iter()
            .all(|piece| piece.promise.bound == header.promise.bound);
        let decoded: Vec<_> = batch
            .into_par_iter()
            .map(|piece| piece.decode(header.classes, args.normalize))
            .collect();
        for (rows, values) in decoded {
            let values = match values {
                Err(error) if args.skip_damaged => {
                    let file = args.input.display();
                    progress.warn(match rows.is_empty() {
                        false => format!(
                            "{file}: {error}; rows {}..{} become NaN",
                            rows.start, rows.end
                        ),
                        true => format!("{file}: {error}; no rows from {} on", rows.start),
                    });
                    vec![f32::NAN; (rows.end - rows.start) as usize * header.classes]
                }
                values => values.with_context(unreadable)?,
            };
            npy::write_f32(&mut output, &values).with_context(unwritable)?;
            n_rows += rows.end - rows.start;
        }
        bar.set_position(n_rows);
    }
    bar.finish_and_clear();
    let file = output.file()?;
    file.seek(SeekFrom::Start(0))
        .and_then(|_| npy::write_matrix_header(file, n_rows, header.classes))
        .with_context(unwritable)?;
    output.finish()?;

    progress.result(format_args!(
        "wrote {}: {} rows of {} {}, {}",
        path.display(),
        thousands(n_rows),
        header.classes,
        header.promise.kind,
        match header.promise.bound {
            _ if args.normalize => "scaled to sum to 1".to_owned(),
            _ if !is_same_promise => "each as its frame promises".to_owned(),
            Bound::MaxError(max_error) => format!("each within {max_error:e} of the original"),
            Bound::MaxKl(max_kl) => format!("each row within {max_kl:e} bits of the original"),
            Bound::Exact => "bit for bit the original".to_owned(),
        }
    ))?;
    Ok(())
}

fn output_path(args: &DecodeArgs) -> PathBuf {
    match &args.output {
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
    /// The rows, and their values.
    fn decode(self, n_classes: usize, normalize: bool) -> (Range<u64>, Result<Vec<f32>, Error>) {
        let values = self.block.and_then(|block| block.decode()).map(|matrix| {
            let values = within(&matrix, self.first_row, &self.rows).to_vec();
            let mut matrix = PredictionMatrix::new(n_classes, values);
            if normalize {
                matrix.normalize();
            }
            matrix.into_values()
        });
        (self.rows, values)
    }
}

/// The blocks that hold the rows asked for: found by the index where the file allows that, and else by
/// reading all that comes before.
enum Blocks {
    Indexed {
        file: File,
        index: FileIndex,
        rows: Range<u64>,
        next: usize,
        /// What is wrong after the last whole frame, to be told at the end.
        tail: Option<Error>,
    },
    Streamed {
        frames: FrameReader<BufReader<File>>,
        /// The first row of the next block.
        next_row: u64,
        rows: Range<u64>,
        /// Whether damage is to be told, but not to stop.
        skips_damage: bool,
        /// Whether rows have been lost by that.
        is_lost: bool,
        is_at_end: bool,
    },
}

impl Blocks {
    fn open(mut file: File, args: &DecodeArgs) -> Result<Self, Error> {
        let can_seek = file.metadata().is_ok_and(|metadata| metadata.is_file());
        if can_seek && (args.rows.is_some() || args.skip_damaged) {
            match FileIndex::of_whole_frames(&mut file, args.memory_limit) {
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
                    return Ok(Self::Indexed {
                        next: index.blocks_of(&range).start,
                        rows: range,
                        file,
                        index,
                        tail,
                    });
                }
                // Without an index, the file may still be read from its start.
                Err(_) if args.skip_damaged => {
                    file.seek(SeekFrom::Start(0))?;
                }
                Err(error) => return Err(error),
            }
        }
        let reader = BufReader::with_capacity(1 << 16, file);
        Ok(Self::Streamed {
            frames: FrameReader::with_memory_limit(reader, args.memory_limit)?,
            next_row: 0,
            rows: args
                .rows
                .map_or(0..u64::MAX, |rows| rows.start..rows.end.unwrap_or(u64::MAX)),
            skips_damage: args.skip_damaged,
            is_lost: false,
            is_at_end: false,
        })
    }

    fn header(&self) -> &FrameHeader {
        match self {
            Self::Indexed { index, .. } => &index.headers()[0],
            Self::Streamed { frames, .. } => frames.header(),
        }
    }

    /// How many rows will come, if that is known.
    fn n_rows_to_come(&self) -> Option<u64> {
        match self {
            Self::Indexed { rows, .. } => Some(rows.end - rows.start),
            Self::Streamed { .. } => None,
        }
    }

    /// Some blocks, enough for all threads; none at the end.
    fn next_batch(&mut self) -> Result<Vec<Piece>, Error> {
        let mut pieces = Vec::new();
        while pieces.len() < 2 * rayon::current_num_threads() {
            match self.next()? {
                Some(piece) => pieces.push(piece),
                None => break,
            }
        }
        Ok(pieces)
    }

    fn next(&mut self) -> Result<Option<Piece>, Error> {
        match self {
            Self::Indexed {
                file,
                index,
                rows,
                next,
                tail,
            } => {
                if !index.blocks_of(rows).contains(next) {
                    return Ok(tail.take().map(|error| Piece {
                        block: Err(error),
                        first_row: rows.end,
                        rows: rows.end..rows.end,
                        promise: index.headers()[0].promise,
                    }));
                }
                let of_block = index.rows_of(*next);
                let promise = index.header_of(*next).promise;
                let block = index.read_block(file, *next);
                *next += 1;
                Ok(Some(Piece {
                    block,
                    first_row: of_block.start,
                    rows: of_block.start.max(rows.start)..of_block.end.min(rows.end),
                    promise,
                }))
            }
            Self::Streamed {
                frames,
                next_row,
                rows,
                skips_damage,
                is_lost,
                is_at_end,
            } => {
                while !*is_at_end {
                    let block = match frames.next_raw_block() {
                        Ok(Some(block)) => block,
                        Ok(None) => {
                            *is_at_end = true;
                            break;
                        }
                        Err(error) if *skips_damage => {
                            // Nothing tells where the next block begins.
                            *is_at_end = true;
                            *is_lost = true;
                            return Ok(Some(Piece {
                                block: Err(error),
                                first_row: *next_row,
                                rows: *next_row..*next_row,
                                promise: frames.header().promise,
                            }));
                        }
                        Err(error) => return Err(error),
                    };
                    let of_block = *next_row..*next_row + block.n_rows() as u64;
                    *next_row = of_block.end;
                    if of_block.end > rows.start && of_block.start < rows.end {
                        return Ok(Some(Piece {
                            block: Ok(block),
                            first_row: of_block.start,
                            rows: of_block.start.max(rows.start)..of_block.end.min(rows.end),
                            promise: frames.header().promise,
                        }));
                    }
                }
                // Rows that the file does not have must not be missing without a word.
                let wanted = match rows.end {
                    u64::MAX => rows.start,
                    end => end,
                };
                match wanted > *next_row && !*is_lost {
                    true => Err(Error::RowsOutOfRange {
                        start: rows.start,
                        end: wanted,
                        n_rows: *next_row,
                    }),
                    false => Ok(None),
                }
            }
        }
    }
}
