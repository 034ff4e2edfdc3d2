#![doc = include_str!("FORMAT.md")]

pub mod ans;
pub mod beside;
pub mod bitstream;
pub mod block;
mod candidates;
pub mod choice;
pub mod codebook;
pub mod coded;
pub mod contexts;
mod error;
pub mod expected;
pub mod expected_beside;
mod fineness;
pub mod frame;
pub mod index;
mod logarithm;
pub mod meter;
pub mod minifloat;
pub mod models;
pub mod order;
pub mod plain;
pub mod predicted;
pub mod predicted_beside;
pub mod promise;
pub mod quantizer;
pub mod ranked;
pub mod ranks;
mod reader;
pub mod regression;
mod repeats;
pub mod rounding;
mod row_order;
pub mod sphere;
pub mod symbols;
mod tabled;
pub mod tokens;
mod writer;

pub use error::{Corrupt, Error};
pub use frame::{FrameHeader, ReferenceName, Summary};
pub use index::FileIndex;
pub use promise::{Bound, Figures, Kind, Promise};
pub use reader::{Block, FrameReader, ReferenceRows, first_moved_class};
pub use writer::FrameWriter;

/// Of a block of so many values, time counts as well as bytes.
const LARGE: usize = 1 << 18;
