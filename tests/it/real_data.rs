//! The main job on real data: MNIST, Fashion-MNIST and the digit pairs.
//!
//! The data sets are not committed. They are read from the folder in `PC_TEST_DATA`, else from
//! `../shared/data`; where they are absent, the tests say that they skipped.

use std::io::Write;
use std::path::{Path, PathBuf};

use pc::matrix::argmax;
use pc::model::dataset::Dataset;

use crate::common::{Folder, npy, read_npy};

/// The folder of a data set, or `None`, said aloud, if it is not there.
fn data(name: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("PC_TEST_DATA") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
    };
    let folder = root.join(name);
    if folder.is_dir() {
        return Some(folder.canonicalize().unwrap());
    }
    // Not eprintln, which the test harness hides as long as the test passes.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: no {}; set PC_TEST_DATA",
        folder.display()
    );
    None
}

/// The test accuracy that the last epoch's line of `pc train` gives, in per cent.
fn last_accuracy(stdout: &str) -> f64 {
    let text = stdout.rsplit("accuracy ").next().unwrap();
    text.split('%').next().unwrap().parse().unwrap()
}

fn train(folder: &Folder, data: &Path, options: &str) -> f64 {
    let output = folder
        .pc("train --force --data")
        .arg(data)
        .args(options.split_whitespace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let stdout = String::from_utf8(output.stdout).unwrap();
    println!("{} {options}: {}%", data.display(), last_accuracy(&stdout));
    last_accuracy(&stdout)
}

#[test]
fn mnist_reaches_97_5_percent_and_its_predictions_fit_in_2_5_bytes_a_row() {
    let Some(mnist) = data("mnist") else { return };
    let folder = Folder::new();
    assert!(train(&folder, &mnist, "--backend flex -o flex.safetensors") >= 97.5);
    let accuracy = train(&folder, &mnist, "");
    assert!(accuracy >= 97.5);

    let test = Dataset::open(&mnist).unwrap().test.unwrap();
    folder.write(
        "input.npy",
        &npy("|u1", false, &[test.len(), 28, 28], &test.pixels),
    );
    folder.run("predict input.npy -o probs.npy", 0);
    let said = folder.run("predict-compress input.npy -o out.huff", 0);
    println!("{}", said.stdout);
    folder.run("decode out.huff", 0);
    let n_bytes_a_row = folder.read("out.huff").len() as f64 / test.len() as f64;
    assert!(n_bytes_a_row <= 2.5, "{n_bytes_a_row}");

    let original = read_npy(&folder.read("probs.npy")).2;
    let decoded = read_npy(&folder.read("out.npy")).2;
    assert_eq!(original.len(), 10_000 * 100);
    for (a, b) in original.iter().zip(&decoded) {
        assert!((f64::from(*a) - f64::from(*b)).abs() <= 0.002);
    }
    let mut n_right = 0;
    for ((a, b), &label) in original
        .chunks(100)
        .zip(decoded.chunks(100))
        .zip(&test.labels)
    {
        assert_eq!(argmax(a), argmax(b));
        n_right += usize::from(argmax(b) == label as usize);
    }
    assert_eq!(n_right as f64 / 100.0, accuracy, "accuracy has changed");
}

#[test]
fn fashion_mnist_reaches_87_percent() {
    let Some(fashion) = data("fashion-mnist") else {
        return;
    };
    for backend in ["ndarray", "flex"] {
        assert!(train(&Folder::new(), &fashion, &format!("--backend {backend}")) >= 87.0);
    }
}

#[test]
fn digit_pairs_reach_70_percent() {
    let pairs = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/digit-pairs");
    for backend in ["ndarray", "flex"] {
        assert!(train(&Folder::new(), &pairs, &format!("--backend {backend}")) >= 70.0);
    }
}
