//! Sizes against the best of the general compressors: `cargo bench --profile dev --bench sizes`.
//!
//! The peers get the quantized levels alone, as u8 or u16, by row and by column; the best of all these
//! is compared with the whole `.huff` file, headers counted. Matrices are read from the folder
//! `predictions` in `PC_TEST_DATA`, or in `../shared/data`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use pc::huffman::frame::rows_per_block;
use pc::huffman::{FrameHeader, FrameReader, FrameWriter};
use pc::io::npy::NpyHeader;
use pc::matrix::{PredictionMatrix, argmax};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const BOUNDS: [f64; 2] = [1.0 / 510.0, 1e-4];

fn main() {
    let root = match std::env::var_os("PC_TEST_DATA") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
    };
    println!(
        "| matrix | rows | bound | best peer | its bytes | .huff bytes | bytes a row | ratio | codes over entropy |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for name in ["mnist", "fashion-mnist", "digit-pairs", "omniglot100"] {
        let path = root.join(format!("predictions/{name}-probs.npy"));
        let Ok(bytes) = std::fs::read(&path) else {
            eprintln!("SKIPPED: no {}; set PC_TEST_DATA", path.display());
            continue;
        };
        let matrix = read_npy(&bytes);
        for temperature in [1.0, 2.0, 3.0] {
            report(name, temperature, &flatten(&matrix, temperature));
        }
        if name == "digit-pairs" {
            for n_rows in [500, 100, 1] {
                let values = matrix.values()[..n_rows * matrix.n_classes()].to_vec();
                report(
                    name,
                    1.0,
                    &PredictionMatrix::new(matrix.n_classes(), values),
                );
            }
        }
    }
    let mut rng = StdRng::seed_from_u64(1);
    let values = (0..1000 * 100)
        .map(|_| rng.random_range(0.0..1.0))
        .collect();
    report("uniform noise", 1.0, &PredictionMatrix::new(100, values));
}

fn read_npy(mut bytes: &[u8]) -> PredictionMatrix {
    let header = NpyHeader::read_from(&mut bytes).expect("a .npy file");
    let values = bytes
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("4 bytes")))
        .collect();
    PredictionMatrix::new(header.shape[1] as usize, values)
}

/// The probabilities at a temperature.
fn flatten(matrix: &PredictionMatrix, temperature: f32) -> PredictionMatrix {
    let mut values = matrix.values().to_vec();
    if temperature != 1.0 {
        for row in values.chunks_exact_mut(matrix.n_classes()) {
            row.iter_mut().for_each(|p| *p = p.powf(1.0 / temperature));
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|p| *p /= sum);
        }
    }
    PredictionMatrix::new(matrix.n_classes(), values)
}

fn report(name: &str, temperature: f32, matrix: &PredictionMatrix) {
    for bound in BOUNDS {
        let (huff, redundancy) = compress(matrix, bound);
        let (peer, n_peer_bytes) = best_peer(matrix, bound);
        let n_rows = matrix.n_rows();
        println!(
            "| {name}, temperature {temperature} | {n_rows} | {bound:.5} | {peer} | {n_peer_bytes} | {} | {:.3} | {:.3} | {redundancy:.3} |",
            huff.len(),
            huff.len() as f64 / n_rows as f64,
            huff.len() as f64 / n_peer_bytes as f64,
        );
    }
}

/// The `.huff` file, checked, and the bits of its codes over the entropy of its symbols.
fn compress(matrix: &PredictionMatrix, bound: f64) -> (Vec<u8>, f64) {
    let n_classes = matrix.n_classes();
    let header = FrameHeader::probabilities(n_classes, bound).expect("a valid bound");
    let mut writer = FrameWriter::new(Vec::new(), header).expect("writing to memory");
    for rows in matrix
        .values()
        .chunks(rows_per_block(n_classes) * n_classes)
    {
        writer
            .write_block(&PredictionMatrix::new(n_classes, rows.to_vec()))
            .expect("probabilities");
    }
    let (bytes, _, bits) = writer.finish().expect("writing to memory");
    let mut reader = FrameReader::new(&bytes[..]).expect("a frame");
    let mut decoded = Vec::new();
    while let Some(block) = reader.next_block().expect("a whole frame") {
        decoded.extend_from_slice(block.values());
    }
    assert_eq!(decoded.len(), matrix.values().len());
    for (a, b) in matrix.rows().zip(decoded.chunks_exact(n_classes)) {
        assert_eq!(argmax(a), argmax(b));
        let is_within = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).abs() <= bound;
        assert!(a.iter().zip(b).all(is_within));
    }
    (bytes, bits.codes as f64 / bits.entropy)
}

/// The smallest output of any general compressor on the levels.
fn best_peer(matrix: &PredictionMatrix, bound: f64) -> (String, usize) {
    let (n_rows, n_classes) = (matrix.n_rows(), matrix.n_classes());
    // As users do it, who have no margin for f32 rounding: 255 levels fit in a byte.
    let levels: Vec<u32> = matrix
        .values()
        .iter()
        .map(|&p| (f64::from(p) / (2.0 * bound)).round() as u32)
        .collect();
    let fits_u8 = levels.iter().all(|&level| level < 256);
    let by_column: Vec<u32> = (0..n_classes * n_rows)
        .map(|i| levels[i % n_rows * n_classes + i / n_rows])
        .collect();
    let mut sizes = Vec::new();
    for (order, levels) in [("by row", &levels), ("by column", &by_column)] {
        let bytes: Vec<u8> = match fits_u8 {
            true => levels.iter().map(|&level| level as u8).collect(),
            false => levels
                .iter()
                .flat_map(|&level| (level as u16).to_le_bytes())
                .collect(),
        };
        for (name, compressed) in [
            ("zstd -22", zstd::bulk::compress(&bytes, 22).expect("zstd")),
            ("xz -9e", xz(&bytes)),
            ("bzip2 -9", bzip2(&bytes)),
            ("brotli -11", brotli(&bytes)),
        ] {
            sizes.push((format!("{name} {order}"), compressed.len()));
        }
    }
    sizes
        .into_iter()
        .min_by_key(|&(_, n)| n)
        .expect("eight sizes")
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    const EXTREME: u32 = 1 << 31;
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 9 | EXTREME);
    encoder.write_all(bytes).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut compressed = Vec::new();
    bzip2::read::BzEncoder::new(bytes, bzip2::Compression::best())
        .read_to_end(&mut compressed)
        .expect("reading from memory");
    compressed
}

fn brotli(bytes: &[u8]) -> Vec<u8> {
    let mut compressed = Vec::new();
    brotli::CompressorReader::new(bytes, 1 << 16, 11, 24)
        .read_to_end(&mut compressed)
        .expect("reading from memory");
    compressed
}
