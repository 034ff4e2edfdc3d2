#![doc = include_str!("FORMAT.md")]

pub mod bitstream;
pub mod block;
pub mod codebook;
mod error;
pub mod expected;
pub mod frame;
pub mod quantizer;
pub mod ranked;
pub mod regression;
pub mod tokens;

pub use error::Error;
pub use frame::{FrameHeader, FrameReader, FrameWriter, Summary};
