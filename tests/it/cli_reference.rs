//! `--reference`.

use std::path::PathBuf;

use pc::matrix::PredictionMatrix;
use pc::pipeline::reference::References;

use crate::common::{self, Folder, read_npy};
use crate::frames::npy;

/// `n` rows of six probabilities, each seed a little different.
fn matrix(n: usize, seed: usize) -> PredictionMatrix {
    let values = (0..6 * n).map(|i| {
        let own = (i * 7919 % 1009) as f32 / 1009.0;
        let turn = ((i + seed) * 31 % 17 * seed) as f32 / 400.0;
        own * own * own * (1.0 + turn)
    });
    let mut matrix = PredictionMatrix::new(6, values.collect());
    matrix.normalize();
    matrix
}

/// `old.npy` and `old.huff`, `new.npy`, and `new.huff` compressed against `old.huff`.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("old.npy", &npy(&matrix(500, 0)));
    folder.write("new.npy", &npy(&matrix(450, 1)));
    folder.run("compress old.npy -o old.huff", 0);
    folder.run("compress new.npy -o new.huff --reference old.huff", 0);
    folder
}

fn sha256(folder: &Folder, name: &str) -> String {
    let paths: Vec<PathBuf> = vec![folder.join(name)];
    let references = References::open(&paths, 1 << 20).unwrap();
    references.name().unwrap().sha256
}

#[test]
fn rows_told_against_a_reference_are_fewer_bytes_and_come_back() {
    let folder = folder();
    folder.run("compress new.npy -o alone.huff", 0);
    assert!(folder.read("new.huff").len() < folder.read("alone.huff").len());
    let original = matrix(450, 1);
    let said = folder.run("decode new.huff -o all.npy --reference old.huff", 0);
    assert_eq!(
        said.stdout,
        "wrote all.npy: 450 rows of 6 probabilities, each within 2e-3 of the original\n"
    );
    let (n_rows, n_classes, values) = read_npy(&folder.read("all.npy"));
    assert_eq!((n_rows, n_classes), (450, 6));
    for (a, b) in values.iter().zip(original.values()) {
        assert!((a - b).abs() <= 0.002);
    }
    folder.run(
        "decode new.huff -o some.npy --rows 440..445 --reference old.huff",
        0,
    );
    let (.., some) = read_npy(&folder.read("some.npy"));
    assert_eq!(some, values[440 * 6..445 * 6]);
    folder.run("verify new.huff --reference old.huff", 0);
    folder.run("verify new.huff new.npy --reference old.huff", 0);
}

#[test]
fn a_reference_may_have_one_itself() {
    let folder = folder();
    folder.write("newer.npy", &npy(&matrix(400, 2)));
    let both = "--reference new.huff --reference old.huff";
    folder.run(&format!("compress newer.npy -o newer.huff {both}"), 0);
    folder.run(&format!("verify newer.huff newer.npy {both}"), 0);
    let hash = sha256(&folder, "old.huff");
    folder.fails(
        "decode newer.huff -o x.npy --reference new.huff",
        &format!(
            "newer.huff: its reference new.huff: its rows are compressed against a reference (SHA-256 {hash})"
        ),
        "",
    );
}

#[test]
fn without_its_reference_or_with_another_a_file_is_refused() {
    let folder = folder();
    let told = format!(
        "new.huff: its rows are compressed against a reference (SHA-256 {})",
        sha256(&folder, "old.huff")
    );
    let missing = "; name that file with --reference";
    folder.fails("verify new.huff", &told, missing);
    folder.fails("verify new.huff new.npy", &told, missing);
    folder.fails("decode new.huff -o x.npy", &told, missing);
    folder.fails("decode new.huff -o x.npy --rows 3..4", &told, missing);
    // Not what damage is.
    folder.fails("decode new.huff -o x.npy --skip-damaged", &told, missing);
    folder.run("compress old.npy -o other.huff --max-error 0.001", 0);
    // The same rows in another file are another reference.
    folder.run("decode old.huff -o decoded.npy", 0);
    for other in ["other.huff", "decoded.npy"] {
        let hash = sha256(&folder, other);
        let found = format!("; --reference names {other} ({hash}) only; name that file with it");
        let with = format!("--reference {other}");
        folder.fails(&format!("decode new.huff -o x.npy {with}"), &told, &found);
        folder.fails(
            &format!("decode new.huff -o x.npy --skip-damaged {with}"),
            &told,
            &found,
        );
        folder.fails(&format!("verify new.huff {with}"), &told, &found);
        folder.fails(&format!("verify new.huff new.npy {with}"), &told, &found);
    }
    folder.fails(
        "decode new.huff -o x.npy --reference gone.huff",
        "gone.huff: no such file or folder",
        "",
    );
    folder.fails(
        "decode new.huff -o x.npy --reference -",
        "--reference -: a reference is read more than once; ",
        "name that",
    );
    folder.write("noise", &[0xFE; 100]);
    folder.fails(
        "decode new.huff -o x.npy --reference noise",
        "noise: unknown format: ",
        "",
    );
    let old = folder.read("old.huff");
    folder.write("cut.huff", &old[..old.len() - 1]);
    folder.fails(
        "decode new.huff -o x.npy --reference cut.huff",
        "cut.huff: ",
        "",
    );
}

#[test]
fn references_that_do_not_fit_are_refused() {
    let folder = folder();
    folder.write("more.npy", &npy(&matrix(501, 1)));
    folder.fails(
        "compress more.npy -o x.huff --reference old.huff",
        "more.npy: 501 rows; the reference old.huff has 500, ",
        "expected no fewer",
    );
    // Nobody knows how many rows a text has.
    let text: String = (0..501).map(|_| "0.5,0.1,0.1,0.1,0.1,0.1\n").collect();
    folder.write("more.csv", text.as_bytes());
    folder.fails(
        "compress more.csv -o x.huff --reference old.huff",
        "more.csv: more than 500 rows; the reference old.huff has no more, ",
        "expected no fewer",
    );
    let narrow = PredictionMatrix::new(2, vec![0.5; 20]);
    folder.write("narrow.npy", &npy(&narrow));
    folder.fails(
        "compress narrow.npy -o x.huff --reference old.huff",
        "narrow.npy: 2 classes; the reference old.huff has 6, ",
        "expected as many",
    );
    let old = folder.read("old.huff");
    folder.run(
        "compress new.npy -o old.huff --force --reference old.huff",
        1,
    );
    assert_eq!(folder.read("old.huff"), old);
}

/// A `.npy` of float64: the rows of a matrix, and a little more.
fn npy_f64(matrix: &PredictionMatrix) -> Vec<u8> {
    let values = matrix
        .values()
        .iter()
        .map(|&v| f64::from(v) * (1.0 - 1e-12));
    let data: Vec<u8> = values.flat_map(f64::to_le_bytes).collect();
    common::npy("<f8", false, &[matrix.n_rows(), matrix.n_classes()], &data)
}

#[test]
fn references_of_every_format_serve_rows_of_every_precision() {
    let folder = folder();
    folder.write("new64.npy", &npy_f64(&matrix(450, 1)));
    folder.write("old64.npy", &npy_f64(&matrix(500, 0)));
    for format in ["npz", "csv", "parquet", "arrow"] {
        folder.run(&format!("decode old.huff -o old.{format}"), 0);
    }
    folder.run("decode old.huff -o plain.csv --rows ..450", 0);
    folder.run("compress new64.npy -o alone.huff", 0);
    let alone = folder.read("alone.huff").len();
    for old in [
        "old.huff",
        "old.npy",
        "old64.npy",
        "old.npz",
        "old.csv",
        "plain.csv",
        "old.parquet",
        "old.arrow",
    ] {
        for new in ["new.npy", "new64.npy"] {
            let with = format!("--reference {old}");
            folder.run(&format!("compress {new} -o x.huff --force {with}"), 0);
            assert!(folder.read("x.huff").len() < alone, "{old} {new}");
            folder.run(&format!("verify x.huff {with}"), 0);
            folder.run(&format!("verify x.huff {new} {with}"), 0);
            folder.run(
                &format!("decode x.huff -o x.npy --force --rows 7..9 {with}"),
                0,
            );
            assert_eq!(read_npy(&folder.read("x.npy")).0, 2);
        }
    }
    for promise in ["--max-kl 1e-3", "--max-error 1e-5 --keep-top 3"] {
        let with = "--reference old.npy";
        folder.run(
            &format!("compress new64.npy -o x.huff --force {promise} {with}"),
            0,
        );
        folder.run(&format!("verify x.huff new64.npy {with}"), 0);
    }
    folder.fails(
        "compress new64.npy -o y.huff --exact --reference old.npy",
        "new64.npy: row 0, class ",
        " or give --max-error instead of --exact",
    );
    // Values that float32 holds come back bit for bit.
    folder.run("compress new.npy -o y.huff --exact --reference old.npy", 0);
    folder.run("verify y.huff new.npy --reference old.npy", 0);
}

#[test]
fn references_with_several_arrays_are_refused() {
    let folder = folder();
    folder.run("decode old.huff -o two.npz --top 2", 0);
    folder.fails(
        "compress new.npy -o x.huff --reference two.npz",
        "two.npz: this .npz holds several arrays; ",
        "save the one that is the reference alone",
    );
}

#[test]
fn sizes_scores_and_appends_go_with_a_reference() {
    let folder = folder();
    let with = "--reference old.huff";
    folder.run(&format!("compress new.npy -o x.huff --size 1kB {with}"), 0);
    assert!(folder.read("x.huff").len() <= 1000);
    folder.run(&format!("verify x.huff new.npy {with}"), 0);

    let labels: String = (0..450).map(|row| format!("{}\n", row % 6)).collect();
    folder.write("labels.txt", labels.as_bytes());
    let said = folder.run(
        &format!("compress new.npy -o y.huff --labels-file labels.txt {with}"),
        0,
    );
    assert!(said.stdout.contains("  accuracy "), "{}", said.stdout);
    let eval = "eval new.huff --labels-file labels.txt";
    let told = "new.huff: its rows are compressed against a reference (SHA-256 ";
    let missing = "; name that file with --reference";
    folder.fails(eval, told, missing);
    folder.run(&format!("{eval} {with}"), 0);
    folder.fails(
        &format!("eval new.npy --labels-file labels.txt {with}"),
        "new.npy: --reference is for .huff files; ",
        "leave it out",
    );

    // What is appended is told alone.
    folder.write("more.npy", &npy(&matrix(100, 2)));
    folder.run("append new.huff more.npy", 0);
    folder.run(&format!("verify new.huff {with}"), 0);
    folder.run(&format!("decode new.huff -o all.npy {with}"), 0);
    let (n_rows, _, values) = read_npy(&folder.read("all.npy"));
    assert_eq!(n_rows, 550);
    folder.run("decode new.huff -o last.npy --rows 450..", 0);
    assert_eq!(read_npy(&folder.read("last.npy")).2, values[450 * 6..]);
    folder.fails("decode new.huff -o x.npy", told, missing);
}

#[test]
fn what_rows_are_told_against_is_inspected() {
    let folder = folder();
    let hash = sha256(&folder, "old.huff");
    let said = folder.run("inspect new.huff", 0).stdout;
    assert!(said.starts_with("new.huff: .huff version 13, "), "{said}");
    let line = format!("  reference      {hash}, 500 rows\n");
    assert!(said.contains(&line), "{said}");
    assert!(
        said.contains(" beside a reference, steps, rANS: 1 block\n"),
        "{said}"
    );
    let json = |arguments: &str| -> serde_json::Value {
        let said = folder.run(&format!("inspect --json {arguments}"), 0);
        serde_json::from_str(&said.stdout).unwrap()
    };
    let references = serde_json::json!([{"sha256": hash, "rows": 500}]);
    assert_eq!(json("new.huff")["references"], references);
    let old = json("old.huff");
    assert_eq!(old["references"], serde_json::json!([]));
    assert_eq!(old["version"], 13);
    folder.fails(
        "inspect --entropy new.huff",
        "new.huff: its rows are compressed against a reference (SHA-256 ",
        "; name that file with --reference",
    );
    let report = json("--entropy new.huff --reference old.huff");
    assert!(report["entropy_bits"].as_f64().unwrap() > 0.0);
    assert!(report["error"].is_null());
    folder.run("inspect new.huff --reference old.huff", 2);
}
