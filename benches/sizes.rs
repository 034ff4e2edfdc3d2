//! Sizes against the best of the general compressors: `cargo bench --profile dev --bench sizes`.
//!
//! The peers get the quantized levels alone, as u8 or u16, by row and by column (of values other than
//! probabilities also with all low bytes before all high bytes), without a header that would tell what they
//! are; the best of all these is compared with the whole `.huff` file. Bounds on divergence are compared
//! with the levels of the arcsinh compander of Adler, Tang and Polyanskiy (arXiv 2205.03752), as coarse as
//! the bound allows in every row; exact files with the bytes of the float32 by significance.
//!
//! Matrices are read from the folder `predictions` in `PC_TEST_DATA`, or in `../shared/data`; more of them,
//! `.npy` of float32, can be named as arguments after `--`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use pc::huffman::{Bound, FrameHeader, FrameReader, FrameWriter, Kind, Promise};
use pc::io::npy::NpyHeader;
use pc::matrix::{PredictionMatrix, argmax};
use pc::metrics::softmax;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const MAX_ERRORS: [f64; 2] = [1.0 / 510.0, 1e-4];
const MAX_ERRORS_OF_LOGITS: [f64; 2] = [0.01, 0.05];
const MAX_KLS: [f64; 2] = [1e-3, 1e-4];

fn main() {
    let root = match std::env::var_os("PC_TEST_DATA") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
    };
    println!(
        "| matrix | rows | bound | best peer | its bytes | .huff bytes | bytes a row | ratio | codes over entropy |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let named = std::env::args()
        .skip(1)
        .filter(|argument| argument.ends_with(".npy"));
    let named: Vec<PathBuf> = named.map(PathBuf::from).collect();
    if !named.is_empty() {
        for path in named {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            if let Some(matrix) = read_npy(&path) {
                match name.contains("logits") {
                    true => report_logits(&name, &matrix),
                    false => report_probabilities(&name, &matrix),
                }
            }
        }
        return;
    }
    let predictions = root.join("predictions");
    for name in ["mnist", "fashion-mnist", "digit-pairs", "omniglot100"] {
        let Some(matrix) = read_npy(&predictions.join(format!("{name}-probs.npy"))) else {
            continue;
        };
        report_probabilities(name, &matrix);
        for temperature in [2.0, 3.0] {
            let name = format!("{name}, temperature {temperature}");
            report_max_errors(&name, &flatten(&matrix, temperature));
        }
        if name == "digit-pairs" {
            for n_rows in [500, 100, 1] {
                report_max_errors(name, &first_rows(&matrix, n_rows));
            }
            report_probabilities("digit-pairs, votes of 100", &votes(&matrix, 100));
            report_probabilities("digit-pairs, 200 rows again", &again(&matrix, 200, 2000));
        }
        let promise = Promise::new(Kind::Probabilities, Bound::Exact);
        report(&format!("{name}, float16"), &map(&matrix, float16), promise);
        report_probabilities(&format!("{name}, sorted by top class"), &by_top(&matrix));
    }
    for name in ["fashion-mnist", "digit-pairs"] {
        let matrix = read_npy(&predictions.join(format!("{name}-probs.npy")));
        let of_first = matrix.map(|matrix| matrix.rows().map(|row| row[0]).collect());
        if let Some(of_first) = of_first {
            report_probabilities(&format!("{name}, class 0 or not"), &two_classes(of_first));
        }
    }
    for name in ["fashion-mnist", "digit-pairs"] {
        if let Some(matrix) = read_npy(&predictions.join(format!("{name}-logits.npy"))) {
            report_logits(&format!("{name} logits"), &matrix);
            let promise = Promise::new(Kind::Logits, Bound::Exact);
            let hundredths = |value: f32| (value * 100.0).round() / 100.0;
            let rounded = [
                ("float16", map(&matrix, float16)),
                (
                    "bfloat16",
                    map(&matrix, |v| half::bf16::from_f32(v).to_f32()),
                ),
                ("2 decimals", map(&matrix, hundredths)),
            ];
            for (how, matrix) in rounded {
                report(&format!("{name} logits, {how}"), &matrix, promise);
            }
        }
    }
    if let Some(matrix) = read_npy(&predictions.join("digit-pairs-logits.npy")) {
        let frames = frames(&matrix);
        report_probabilities("digit-pairs, frames", &softmax_rows(&frames));
        report_logits("digit-pairs logits, frames", &frames);
    }
    report_probabilities("bell curves over 100 classes", &bell_curves(2000, 100));
    let pixels = pixels(100, 8);
    report_probabilities("pixels of an image", &softmax_rows(&pixels));
    report_logits("logits of pixels", &pixels);
    let noise = |n: usize| {
        let mut rng = StdRng::seed_from_u64(1);
        (0..n).map(|_| rng.random_range(0.0..1.0)).collect()
    };
    let matrix = two_classes(noise(10_000));
    report_probabilities("two classes, uniform", &matrix);
    let matrix = PredictionMatrix::new(100, noise(100_000));
    report_max_errors("uniform noise", &matrix);
    for max_error in MAX_ERRORS_OF_LOGITS {
        let promise = Promise::new(Kind::Values, Bound::MaxError(max_error));
        report("uniform noise", &matrix, promise);
    }
    report(
        "uniform noise",
        &matrix,
        Promise::new(Kind::Values, Bound::Exact),
    );
}

fn report_max_errors(name: &str, matrix: &PredictionMatrix) {
    for max_error in MAX_ERRORS {
        let bound = Bound::MaxError(max_error);
        report(name, matrix, Promise::new(Kind::Probabilities, bound));
    }
}

fn report_probabilities(name: &str, matrix: &PredictionMatrix) {
    report_max_errors(name, matrix);
    for max_kl in MAX_KLS {
        let bound = Bound::MaxKl(max_kl);
        report(name, matrix, Promise::new(Kind::Probabilities, bound));
    }
    report(
        name,
        matrix,
        Promise::new(Kind::Probabilities, Bound::Exact),
    );
}

fn report_logits(name: &str, matrix: &PredictionMatrix) {
    for max_error in MAX_ERRORS_OF_LOGITS {
        let bound = Bound::MaxError(max_error);
        report(name, matrix, Promise::new(Kind::Logits, bound));
    }
    report(name, matrix, Promise::new(Kind::Logits, Bound::Exact));
}

/// Rows as of so many trees that vote, each for a class as likely as the row says.
fn votes(matrix: &PredictionMatrix, n_votes: usize) -> PredictionMatrix {
    let mut rng = StdRng::seed_from_u64(2);
    let mut values = Vec::new();
    for row in matrix.rows() {
        let mut counts = vec![0; row.len()];
        for _ in 0..n_votes {
            let mut rest: f32 = rng.random_range(0.0..1.0);
            let class = row.iter().position(|p| {
                rest -= p;
                rest < 0.0
            });
            counts[class.unwrap_or(0)] += 1;
        }
        let shares = counts
            .iter()
            .map(|&n| (f64::from(n) / n_votes as f64) as f32);
        values.extend(shares);
    }
    PredictionMatrix::new(matrix.n_classes(), values)
}

/// So many rows in any order, each one of the first.
fn again(matrix: &PredictionMatrix, n_distinct: usize, n_rows: usize) -> PredictionMatrix {
    let mut rng = StdRng::seed_from_u64(3);
    let mut values = Vec::new();
    for _ in 0..n_rows {
        let row = rng.random_range(0..n_distinct) * matrix.n_classes();
        values.extend_from_slice(&matrix.values()[row..][..matrix.n_classes()]);
    }
    PredictionMatrix::new(matrix.n_classes(), values)
}

/// The rows in the order of their top classes, as in a data set that is sorted by class.
fn by_top(matrix: &PredictionMatrix) -> PredictionMatrix {
    let mut rows: Vec<&[f32]> = matrix.rows().collect();
    rows.sort_by_key(|row| argmax(row));
    PredictionMatrix::new(matrix.n_classes(), rows.concat())
}

/// Logits as of the frames of a film: four for each row, on the way to the next one, and some noise.
fn frames(logits: &PredictionMatrix) -> PredictionMatrix {
    let mut rng = StdRng::seed_from_u64(4);
    let mut values = Vec::new();
    for (row, next) in logits.rows().zip(logits.rows().skip(1)) {
        for step in 0..4 {
            let share = step as f32 / 4.0;
            let blend = row.iter().zip(next);
            let blend = blend.map(|(a, b)| a + share * (b - a) + rng.random_range(-0.2..0.2));
            values.extend(blend);
        }
    }
    PredictionMatrix::new(logits.n_classes(), values)
}

/// Logits as of the pixels of a square image: each class a surface between the points of a coarser grid, and some noise.
fn pixels(width: usize, n_classes: usize) -> PredictionMatrix {
    const CELL: usize = 5;
    let mut rng = StdRng::seed_from_u64(6);
    let n_points = width / CELL + 1;
    let points = n_points * n_points * n_classes;
    let grid: Vec<f32> = (0..points).map(|_| rng.random_range(-4.0..4.0)).collect();
    let mut values = Vec::new();
    for pixel in 0..width * width {
        let (x, y) = (pixel % width, pixel / width);
        let [across, down] = [x, y].map(|at| (at % CELL) as f32 / CELL as f32);
        for class in 0..n_classes {
            let point = |x: usize, y: usize| grid[(y * n_points + x) * n_classes + class];
            let (left, top) = (x / CELL, y / CELL);
            let line = |y: usize| point(left, y) * (1.0 - across) + point(left + 1, y) * across;
            let score = line(top) * (1.0 - down) + line(top + 1) * down;
            values.push(score + rng.random_range(-0.02..0.02));
        }
    }
    PredictionMatrix::new(n_classes, values)
}

/// Rows whose classes are bins of one quantity, such as ages: each a bell curve of its own mean and width.
fn bell_curves(n_rows: usize, n_classes: usize) -> PredictionMatrix {
    let mut rng = StdRng::seed_from_u64(5);
    let mut values = Vec::new();
    for _ in 0..n_rows {
        let mean = rng.random_range(0.0..n_classes as f64);
        let width = rng.random_range(3.0..9.0);
        let density = |class: usize| (-0.5 * ((class as f64 - mean) / width).powi(2)).exp();
        let sum: f64 = (0..n_classes).map(density).sum();
        values.extend((0..n_classes).map(|class| (density(class) / sum) as f32));
    }
    PredictionMatrix::new(n_classes, values)
}

fn softmax_rows(logits: &PredictionMatrix) -> PredictionMatrix {
    let mut probabilities = Vec::new();
    let mut values = Vec::new();
    for row in logits.rows() {
        softmax(row, &mut probabilities);
        values.extend(probabilities.iter().map(|&value| value as f32));
    }
    PredictionMatrix::new(logits.n_classes(), values)
}

/// What a function makes of all values.
fn map(matrix: &PredictionMatrix, function: impl Fn(f32) -> f32) -> PredictionMatrix {
    let values = matrix.values().iter().map(|&value| function(value));
    PredictionMatrix::new(matrix.n_classes(), values.collect())
}

fn float16(value: f32) -> f32 {
    half::f16::from_f32(value).to_f32()
}

/// Rows of two classes, of which the first has these probabilities.
fn two_classes(of_first: Vec<f32>) -> PredictionMatrix {
    let rows = of_first.iter().flat_map(|&p| [p, 1.0 - p]);
    PredictionMatrix::new(2, rows.collect())
}

fn first_rows(matrix: &PredictionMatrix, n_rows: usize) -> PredictionMatrix {
    let values = matrix.values()[..n_rows * matrix.n_classes()].to_vec();
    PredictionMatrix::new(matrix.n_classes(), values)
}

/// The matrix in a `.npy` file; `None`, with a word about it, if there is no file.
fn read_npy(path: &Path) -> Option<PredictionMatrix> {
    let Ok(bytes) = std::fs::read(path) else {
        eprintln!("SKIPPED: no {}; set PC_TEST_DATA", path.display());
        return None;
    };
    let mut bytes = &bytes[..];
    let header = NpyHeader::read_from(&mut bytes).expect("a .npy file");
    assert!(!header.is_fortran_order, "{}: not by row", path.display());
    let (words, _) = bytes.as_chunks::<4>();
    let values = words.iter().map(|&word| f32::from_le_bytes(word)).collect();
    Some(PredictionMatrix::new(header.shape[1] as usize, values))
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

fn report(name: &str, matrix: &PredictionMatrix, promise: Promise) {
    let (huff, redundancy) = compress(matrix, promise);
    let (peer, n_peer_bytes) = best_peer(matrix, &promise);
    let n_rows = matrix.n_rows();
    let bound = match promise.bound {
        Bound::MaxError(max_error) => format!("error {max_error:.5}"),
        Bound::MaxKl(max_kl) => format!("KL {max_kl:.4} bit"),
        Bound::Exact => "exact".to_owned(),
    };
    println!(
        "| {name} | {n_rows} | {bound} | {peer} | {n_peer_bytes} | {} | {:.3} | {:.3} | {redundancy:.3} |",
        huff.len(),
        huff.len() as f64 / n_rows as f64,
        huff.len() as f64 / n_peer_bytes as f64,
    );
}

/// The `.huff` file, checked, and the bits of its codes over the entropy of its symbols.
fn compress(matrix: &PredictionMatrix, promise: Promise) -> (Vec<u8>, f64) {
    let header = FrameHeader::new(matrix.n_classes(), promise).expect("a valid promise");
    let mut writer = FrameWriter::new(Vec::new(), header).expect("writing to memory");
    writer.write(matrix).expect("what was promised of");
    let (bytes, _, bits) = writer.finish().expect("writing to memory");
    let mut reader = FrameReader::new(&bytes[..]).expect("a frame");
    let mut decoded = Vec::new();
    while let Some(block) = reader.next_block().expect("a whole frame") {
        decoded.extend_from_slice(block.values());
    }
    assert_eq!(decoded.len(), matrix.values().len());
    for (a, b) in matrix.rows().zip(decoded.chunks_exact(matrix.n_classes())) {
        assert!(promise.measure(a, b).is_some());
    }
    (bytes, bits.codes as f64 / bits.entropy)
}

/// The smallest output of any general compressor on the levels.
fn best_peer(matrix: &PredictionMatrix, promise: &Promise) -> (String, usize) {
    match promise.bound {
        Bound::MaxError(max_error) => {
            // As users do it, who have no margin for f32 rounding: 255 levels fit in a byte.
            let level = |&value: &f32| (f64::from(value) / (2.0 * max_error)).round() as i64;
            let levels: Vec<i64> = matrix.values().iter().map(level).collect();
            let least = match promise.kind {
                Kind::Probabilities => 0,
                _ => levels.iter().copied().min().unwrap_or(0),
            };
            let levels: Vec<u32> = levels.iter().map(|level| (level - least) as u32).collect();
            let is_split = promise.kind != Kind::Probabilities;
            best_on_levels(&levels, matrix.n_classes(), is_split, &COMPRESSORS)
        }
        Bound::MaxKl(max_kl) => {
            let levels = arcsinh_levels(matrix, max_kl);
            best_on_levels(&levels, matrix.n_classes(), false, &COMPRESSORS[1..2])
        }
        Bound::Exact => {
            let bits: Vec<u32> = matrix.values().iter().map(|v| v.to_bits()).collect();
            let sizes = [
                ("by row", bits.clone()),
                ("by column", by_column(&bits, matrix.n_classes())),
            ]
            .map(|(order, bits)| {
                let bytes: Vec<u8> = (0..4)
                    .flat_map(|byte| bits.iter().map(move |bits| bits.to_le_bytes()[byte]))
                    .collect();
                let compressed = zstd::bulk::compress(&bytes, 19).expect("zstd");
                (format!("bytes split, zstd -19 {order}"), compressed.len())
            });
            sizes
                .into_iter()
                .min_by_key(|&(_, n)| n)
                .expect("two sizes")
        }
    }
}

type Compressor = (&'static str, fn(&[u8]) -> Vec<u8>);

const COMPRESSORS: [Compressor; 4] = [
    ("zstd -22", |bytes| {
        zstd::bulk::compress(bytes, 22).expect("zstd")
    }),
    ("xz -9e", xz),
    ("bzip2 -9", bzip2),
    ("brotli -11", brotli),
];

fn by_column(levels: &[u32], n_classes: usize) -> Vec<u32> {
    let n_rows = levels.len() / n_classes;
    (0..levels.len())
        .map(|i| levels[i % n_rows * n_classes + i / n_rows])
        .collect()
}

fn best_on_levels(
    levels: &[u32],
    n_classes: usize,
    is_split: bool,
    compressors: &[Compressor],
) -> (String, usize) {
    let mut sizes = Vec::new();
    for (order, levels) in [
        ("by row", levels.to_vec()),
        ("by column", by_column(levels, n_classes)),
    ] {
        let low = || levels.iter().map(|&level| level as u8);
        let high = || levels.iter().map(|&level| (level >> 8) as u8);
        let mut inputs = Vec::new();
        if levels.iter().all(|&level| level < 256) {
            inputs.push((order.to_owned(), low().collect::<Vec<u8>>()));
        } else {
            let words = levels
                .iter()
                .flat_map(|&level| (level as u16).to_le_bytes());
            inputs.push((order.to_owned(), words.collect()));
            if is_split {
                inputs.push((
                    format!("{order}, bytes split"),
                    low().chain(high()).collect(),
                ));
            }
        }
        for (order, bytes) in inputs {
            for (name, compress) in compressors {
                sizes.push((format!("{name} {order}"), compress(&bytes).len()));
            }
        }
    }
    sizes
        .into_iter()
        .min_by_key(|&(_, n)| n)
        .expect("some sizes")
}

/// The coarsest arcsinh levels that keep the divergence of every row within the bound, with level 0
/// decoded to a quarter of a step and rows scaled to sum to 1.
fn arcsinh_levels(matrix: &PredictionMatrix, max_kl: f64) -> Vec<u32> {
    let n_classes = matrix.n_classes() as f64;
    let scale = 0.5 * n_classes * n_classes.ln();
    let full = scale.sqrt().asinh();
    let level = |p: f32, n_levels: u32| {
        ((scale * f64::from(p)).sqrt().asinh() / full * f64::from(n_levels)).round() as u32
    };
    let keeps = |n_levels: u32| {
        matrix.rows().all(|row| {
            let weight = |&p: &f32| {
                let level = f64::from(level(p, n_levels)).max(0.25);
                (level / f64::from(n_levels) * full).sinh().powi(2)
            };
            let weights: Vec<f64> = row.iter().map(weight).collect();
            let sum: f64 = weights.iter().sum();
            let mass: f64 = row.iter().map(|&p| f64::from(p)).sum();
            let terms = row.iter().zip(&weights).filter(|(p, _)| **p > 0.0);
            let divergence: f64 = terms
                .map(|(&p, weight)| {
                    let p = f64::from(p) / mass;
                    p * (p / (weight / sum)).log2()
                })
                .sum();
            divergence <= max_kl
        })
    };
    let (mut low, mut high) = (1, 1 << 16);
    while low < high {
        let middle = (low + high) / 2;
        match keeps(middle) {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    matrix.values().iter().map(|&p| level(p, high)).collect()
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
