//! Speed of the codec, in bytes of float32 a second: `cargo bench --bench huffman`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pc::huffman::frame::rows_per_block;
use pc::huffman::{FrameHeader, FrameReader, FrameWriter};
use pc::matrix::PredictionMatrix;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const N_CLASSES: usize = 100;
const MAX_ERROR: f64 = 0.002;

/// The softmax of random logits; the larger their `scale`, the more certain the rows.
fn softmax_rows(n_rows: usize, scale: f32) -> PredictionMatrix {
    let mut rng = StdRng::seed_from_u64(1);
    let values = (0..n_rows)
        .flat_map(|_| {
            let mut row: Vec<f32> = (0..N_CLASSES)
                // The sum of four uniform numbers is close enough to a normal one.
                .map(|_| scale * (0..4).map(|_| rng.random_range(-1.0..1.0f32)).sum::<f32>())
                .collect();
            let largest = row.iter().copied().fold(f32::MIN, f32::max);
            row.iter_mut()
                .for_each(|value| *value = (*value - largest).exp());
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|value| *value /= sum);
            row
        })
        .collect();
    PredictionMatrix::new(N_CLASSES, values)
}

fn compress(matrix: &PredictionMatrix) -> Vec<u8> {
    let header = FrameHeader::probabilities(N_CLASSES, MAX_ERROR).expect("a valid header");
    let mut writer = FrameWriter::new(Vec::new(), header).expect("writing to memory");
    writer.write_block(matrix).expect("probabilities");
    writer.finish().expect("writing to memory").0
}

fn decompress(bytes: &[u8]) -> PredictionMatrix {
    let mut reader = FrameReader::new(bytes).expect("a frame");
    reader
        .next_block()
        .expect("a whole frame")
        .expect("a block")
}

fn huffman(criterion: &mut Criterion) {
    for (name, scale) in [("certain", 30.0), ("peaked", 10.0), ("live", 3.0)] {
        let matrix = softmax_rows(rows_per_block(N_CLASSES), scale);
        let bytes = compress(&matrix);
        let decoded = decompress(&bytes);
        for (a, b) in matrix.values().iter().zip(decoded.values()) {
            assert!((f64::from(*a) - f64::from(*b)).abs() <= MAX_ERROR);
        }
        println!(
            "{name}: {:.3} bytes a row",
            bytes.len() as f64 / matrix.n_rows() as f64
        );
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(4 * matrix.values().len() as u64));
        group.bench_function("compress", |b| b.iter(|| compress(black_box(&matrix))));
        group.bench_function("decompress", |b| b.iter(|| decompress(black_box(&bytes))));
        group.finish();
    }
}

criterion_group!(benches, huffman);
criterion_main!(benches);
