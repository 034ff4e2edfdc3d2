//! `pc` trains a classifier and stores its predictions in about a byte a row.
//!
//! The library serves the binary, the tests and the benches; its interface is not stable.
//!
//! - [`model`] trains and predicts (burn),
//! - [`huffman`] compresses a [`matrix::PredictionMatrix`] into a `.huff` frame and back,
//! - [`io`] reads and writes array formats,
//! - [`metrics`] and [`evaluation`] tell how good predictions are, [`plots`] draws them,
//! - [`pipeline`] wires them together, one file a subcommand, for the command line in [`cli`].
//!
//! Without the default feature `cli`, the library is [`huffman`], [`matrix`] and [`metrics`] alone.
//!
//! To follow the data, start with [`pipeline::predict_compress`].

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod evaluation;
pub mod huffman;
#[cfg(feature = "cli")]
pub mod io;
pub mod matrix;
pub mod metrics;
#[cfg(feature = "cli")]
pub mod model;
#[cfg(feature = "cli")]
pub mod pipeline;
#[cfg(feature = "cli")]
pub mod plots;
