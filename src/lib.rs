//! `pc` trains a classifier and stores its predictions in about a byte a row.

pub mod huffman;
pub mod io;
pub mod matrix;
pub mod model;
