//! `pc` trains a classifier and stores its predictions in about a byte a row.
//!
//! The library serves the binary, the tests and the benches; its interface is not stable.
//!
//! - [`model`] trains and predicts (burn),
//! - [`huffman`] compresses a [`matrix::PredictionMatrix`] into a `.huff` frame and back,
//! - [`io`] reads and writes array formats,
//! - [`pipeline`] wires them together, one file a subcommand, for the command line in [`cli`].
//!
//! Without the default feature `cli`, the library is [`huffman`] and [`matrix`] alone.
//!
//! To follow the data, start with [`pipeline::predict_compress`].

#[cfg(feature = "cli")]
pub mod cli;
pub mod huffman;
#[cfg(feature = "cli")]
pub mod io;
pub mod matrix;
#[cfg(feature = "cli")]
pub mod model;
#[cfg(feature = "cli")]
pub mod pipeline;
