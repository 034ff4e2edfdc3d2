//! Small `.huff` and `.npy` files for the tests of commands that look at them.

use pc::huffman::{Bound, FrameHeader, FrameWriter, Kind, Promise};
use pc::io::npy;
use pc::matrix::PredictionMatrix;

/// `n` rows of three probabilities, others for another `seed`.
pub fn matrix(n: usize, seed: usize) -> PredictionMatrix {
    let rows: Vec<[f32; 3]> = (0..n)
        .map(|i| {
            // Not those of another row, nor in an order that a model finds.
            let mixed = ((i + seed * 31) as u32).wrapping_mul(2_654_435_761);
            let random = (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca6b) >> 8;
            let p = 0.5 + random as f32 / (1 << 25) as f32;
            [1.0 - p, 0.75 * p, 0.25 * p]
        })
        .collect();
    PredictionMatrix::new(3, rows.concat())
}

/// A promise about probabilities.
pub fn promise(bound: Bound) -> Promise {
    Promise::new(Kind::Probabilities, bound)
}

/// A frame of these rows.
pub fn frame(matrix: &PredictionMatrix, promise: Promise) -> Vec<u8> {
    let header = FrameHeader::new(matrix.n_classes(), promise).unwrap();
    frame_with(matrix, header)
}

/// A frame of these rows with this header.
pub fn frame_with(matrix: &PredictionMatrix, header: FrameHeader) -> Vec<u8> {
    let mut writer = FrameWriter::new(Vec::new(), header).unwrap();
    writer.write(matrix).unwrap();
    writer.finish().unwrap().0
}

/// A frame of `n` rows within 0.002.
pub fn huff(n: usize, seed: usize) -> Vec<u8> {
    frame(&matrix(n, seed), promise(Bound::MaxError(0.002)))
}

/// The matrix as a `.npy` file.
pub fn npy(matrix: &PredictionMatrix) -> Vec<u8> {
    let mut bytes = Vec::new();
    npy::write_matrix_header(&mut bytes, matrix.n_rows() as u64, matrix.n_classes()).unwrap();
    npy::write_f32(&mut bytes, matrix.values()).unwrap();
    bytes
}
