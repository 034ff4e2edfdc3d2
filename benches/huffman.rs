//! Speed of the codec, in bytes of float32 a second: `cargo bench --no-default-features --bench huffman`
//! (without the default features, burn is not compiled); `-- logits` for matrices so named.
//!
//! Every round trip is checked before it is timed. The peer, zstd -3 on the raw floats, is timed in turn with
//! ours, so that both meet the same machine; the best of all turns counts. Matrices are read from the folder
//! `predictions` in `PC_TEST_DATA`, or in `../shared/data`, and tiled.

use std::path::{Path, PathBuf};
use std::time::Instant;

use pc::huffman::{Bound, FrameHeader, FrameReader, FrameWriter, Kind, Promise};
use pc::matrix::PredictionMatrix;
use rayon::prelude::*;

/// As in `pc`: that of the system gives large blocks back every time, which some machines take long for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const N_TURNS: usize = 5;

fn main() {
    let root = match std::env::var_os("PC_TEST_DATA") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
    };
    // Cargo passes --bench.
    let filter = std::env::args().skip(1).find(|word| word != "--bench");
    println!("| matrix | bound | rows | threads | compress MB/s | decompress MB/s | zstd -3 | |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let probabilities = |bound| Promise::new(Kind::Probabilities, bound);
    let logits = |max_error| Promise::new(Kind::Logits, Bound::MaxError(max_error));
    for (name, n_rows, promise, threads) in [
        (
            "mnist-probs",
            1_000_000,
            probabilities(Bound::MaxError(1.0 / 510.0)),
            vec![1, 2],
        ),
        (
            "fashion-mnist-probs",
            200_000,
            probabilities(Bound::MaxError(1.0 / 510.0)),
            vec![1],
        ),
        (
            "digit-pairs-probs",
            100_000,
            probabilities(Bound::MaxError(1.0 / 510.0)),
            vec![1, 2],
        ),
        (
            "digit-pairs-probs",
            100_000,
            probabilities(Bound::MaxError(1e-4)),
            vec![1],
        ),
        (
            "digit-pairs-probs",
            100_000,
            probabilities(Bound::MaxKl(1e-3)),
            vec![1],
        ),
        ("fashion-mnist-logits", 100_000, logits(0.05), vec![1, 2]),
        ("fashion-mnist-logits", 100_000, logits(0.01), vec![1]),
        ("digit-pairs-logits", 100_000, logits(0.05), vec![1]),
        (
            "mnist-probs",
            100_000,
            probabilities(Bound::MaxKl(1e-3)),
            vec![1],
        ),
        (
            "fashion-mnist-logits",
            50_000,
            Promise::new(Kind::Logits, Bound::Exact),
            vec![1],
        ),
    ] {
        if filter.as_ref().is_some_and(|filter| !name.contains(filter)) {
            continue;
        }
        let path = root.join(format!("predictions/{name}.npy"));
        let Some(matrix) = read_npy(&path, n_rows) else {
            eprintln!("SKIPPED: no {}; set PC_TEST_DATA", path.display());
            continue;
        };
        let raw: Vec<u8> = matrix
            .values()
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        for n_threads in threads {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(n_threads)
                .build()
                .expect("threads");
            pool.install(|| report(name, &matrix, &raw, promise, n_threads));
        }
    }
}

fn report(name: &str, matrix: &PredictionMatrix, raw: &[u8], promise: Promise, n_threads: usize) {
    let bytes = compress(matrix, promise);
    let n_classes = matrix.n_classes();
    let mut originals = matrix.rows();
    decompress(&bytes, |block| {
        for (decoded, original) in block.rows().zip(&mut originals) {
            assert!(promise.measure(original, decoded).is_some());
        }
    });
    assert!(originals.next().is_none());
    let zstd = zstd::bulk::compress(raw, 3).expect("zstd");

    let mut best = [f64::INFINITY; 4];
    for _ in 0..N_TURNS {
        let turns: [&dyn Fn() -> usize; 4] = [
            &|| compress(matrix, promise).len(),
            &|| decompress(&bytes, |_| ()),
            &|| zstd::bulk::compress(raw, 3).expect("zstd").len(),
            &|| {
                zstd::bulk::decompress(&zstd, raw.len())
                    .expect("zstd")
                    .len()
            },
        ];
        for (best, turn) in best.iter_mut().zip(turns) {
            let start = Instant::now();
            assert!(turn() > 0);
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }
    let [ours, ours_back, zstd, zstd_back] = best.map(|seconds| raw.len() as f64 / seconds / 1e6);
    let bound = match promise.bound {
        Bound::MaxError(max_error) => format!("error {max_error:.5}"),
        Bound::MaxKl(max_kl) => format!("KL {max_kl} bit"),
        Bound::Exact => "exact".to_owned(),
    };
    println!(
        "| {name} | {bound} | {} | {n_threads} | {ours:.0} | {ours_back:.0} | {zstd:.0} / {zstd_back:.0} | {:.1}x / {:.1}x |",
        raw.len() / 4 / n_classes,
        ours / zstd,
        ours_back / zstd_back,
    );
}

fn compress(matrix: &PredictionMatrix, promise: Promise) -> Vec<u8> {
    let header = FrameHeader::new(matrix.n_classes(), promise).expect("a valid promise");
    let mut writer = FrameWriter::new(Vec::new(), header).expect("writing to memory");
    writer.write(matrix).expect("what was promised of");
    writer.finish().expect("writing to memory").0
}

/// Decodes all blocks on all threads, some at a time, as `pc decode` does it, and hands them over in order.
/// Returns the number of values.
fn decompress(bytes: &[u8], mut take: impl FnMut(&PredictionMatrix)) -> usize {
    let mut reader = FrameReader::new(bytes).expect("a frame");
    let mut n_values = 0;
    loop {
        let batch: Vec<_> = (0..2 * rayon::current_num_threads())
            .map_while(|_| reader.next_raw_block().expect("a whole frame"))
            .collect();
        if batch.is_empty() {
            return n_values;
        }
        let decoded: Vec<_> = batch
            .par_iter()
            .map(|block| block.decode().expect("a block"))
            .collect();
        for matrix in &decoded {
            n_values += matrix.values().len();
            take(matrix);
        }
    }
}

/// The rows of a `.npy` file of float32, again and again up to `n_rows`, each time a millionth smaller, so that there are
/// no rows that come again bit for bit.
fn read_npy(path: &Path, n_rows: usize) -> Option<PredictionMatrix> {
    const N_CLASSES: usize = 100;
    let bytes = std::fs::read(path).ok()?;
    let n_header_bytes = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let (words, _) = bytes[10 + n_header_bytes..].as_chunks::<4>();
    let values = words.iter().map(|&word| f32::from_le_bytes(word));
    let n_values = words.len();
    let tiled = values.cycle().take(n_rows * N_CLASSES).enumerate();
    let tiled = tiled.map(|(index, value)| value * (1.0 - (index / n_values) as f32 * 1e-6));
    let tiled = tiled.collect();
    Some(PredictionMatrix::new(N_CLASSES, tiled))
}
