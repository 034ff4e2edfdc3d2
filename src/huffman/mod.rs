//! The codec: prediction matrices become `.huff` frames, and come back.
//!
//! # Reading the code
//!
//! Writing goes from [`FrameWriter::write`] to `writer::encode`, which codes a block until each of its rows, decoded
//! again, keeps the [`Promise`]; to `choice::encode`, which tries the models that `candidates` offers; to `block::encode`
//! with one of them; to the `encode` of that model, which makes symbols of the rows, each in a context; to
//! `coded::write_rows`, which chooses a codebook for each context and writes the bits. Reading goes from
//! [`FrameReader`], or [`FileIndex`] for some of the rows, to [`Block::decode`] and the `decode` of the model that the
//! block's first byte names. Of the models, `ranked` (peaked probabilities) and `plain` are read first; `expected` and
//! `predicted` add the regression; the others are variations of these.
#![doc = include_str!("FORMAT.md")]

// The file: frames of blocks (FORMAT.md, section 3), written by `writer`, read by `reader` and `index`.
pub mod frame;
mod header;
pub mod index;
mod reader;
mod writer;

// A block (section 5): `choice` tries the `candidates` that keep the promise, `block` codes the rows in one way.
mod block;
mod candidates;
mod choice;
mod coded;
pub mod meter;
mod models;
mod row_order;
mod symbols;

// The models, which make symbols of rows.
mod beside;
mod block_sorted;
mod expected;
mod expected_beside;
mod plain;
mod predicted;
mod predicted_beside;
mod ranked;
mod repeats;
mod tabled;

// What models learn of the rows so far.
mod contexts;
mod logarithm;
mod order;
mod ranks;
mod regression;

// Values as numbers (section 4), and what is promised of them.
mod fineness;
mod minifloat;
mod promise;
mod quantizer;
mod rounding;
mod sphere;
mod tokens;

// Symbols as bits (section 2).
mod ans;
mod bitstream;
mod codebook;

mod error;

pub use coded::BitCounts;
pub use error::{Corrupt, Error};
pub use frame::Summary;
pub use header::{FrameHeader, MAGIC, ReferenceName};
pub use index::FileIndex;
pub use models::FirstByte;
pub use order::{MAX_KEEP_TOP, first_classes};
pub use promise::{Bound, Figures, Kind, Promise};
pub use quantizer::{MAX_MAX_ERROR, MAX_MAX_KL, MIN_MAX_ERROR, MIN_MAX_KL, divergence};
pub use reader::{Block, FrameReader, ReferenceRows, first_moved_class};
pub use writer::FrameWriter;

/// Values from which on time counts as well as bytes: models of a block are chosen on some of its rows then, and
/// predicted rows stand in several bitstreams.
const LARGE: usize = 1 << 18;

/// Numbers among which no model finds an order: the finalizer of MurmurHash3.
#[cfg(test)]
fn noise(i: usize) -> u32 {
    let mut bits = i as u32;
    bits = (bits ^ bits >> 16).wrapping_mul(0x85eb_ca6b);
    bits = (bits ^ bits >> 13).wrapping_mul(0xc2b2_ae35);
    bits ^ bits >> 16
}
