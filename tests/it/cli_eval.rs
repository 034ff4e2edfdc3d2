//! `pc eval`.

use serde_json::Value;

use crate::common::{Folder, npy, write_toy_mnist};

/// Four rows of three classes.
const ROWS: [f32; 12] = [
    0.5, 0.25, 0.25, 0.5, 0.25, 0.25, 0.0, 1.0, 0.0, 0.25, 0.25, 0.5,
];
const LABELS: &str = "0\n2\n1\n0\n";

fn folder() -> Folder {
    let folder = Folder::new();
    let bytes: Vec<u8> = ROWS.iter().flat_map(|value| value.to_le_bytes()).collect();
    folder.write("probs.npy", &npy("<f4", false, &[4, 3], &bytes));
    folder.write("labels.txt", LABELS.as_bytes());
    folder
}

fn report(folder: &Folder, arguments: &str) -> Value {
    let said = folder.run(&format!("eval --json {arguments}"), 0);
    serde_json::from_str(&said.stdout).unwrap()
}

#[test]
fn figures_of_predictions_are_those_worked_out_by_hand() {
    let folder = folder();
    let report = report(&folder, "probs.npy --labels-file labels.txt");
    assert_eq!(report["rows"], 4);
    assert_eq!(report["accuracy"], 0.5);
    assert_eq!(report["top_5_accuracy"], 1.0);
    assert!((report["bits_per_label"].as_f64().unwrap() - 1.25).abs() < 1e-9);
    assert!((report["bits_without_model"].as_f64().unwrap() - 3f64.log2()).abs() < 1e-9);
    assert!((report["brier_score"].as_f64().unwrap() - 0.53125).abs() < 1e-9);
    assert_eq!(report["per_class"][0]["recall"], 0.5);
    assert_eq!(report["most_confused"][0]["truth"], "0");

    let text = folder
        .run("eval probs.npy --labels-file labels.txt", 0)
        .stdout;
    for line in [
        "accuracy       50.00%",
        "bits a label   1.2500, of 1.5850 without a model",
        "most confused  0 taken for 2: 1",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn a_compressed_file_is_evaluated_without_the_model_or_the_matrix() {
    let folder = folder();
    folder.run("compress probs.npy -o exact.huff --exact", 0);
    folder.run("compress probs.npy -o probs.huff", 0);
    let original = report(&folder, "probs.npy --labels-file labels.txt");
    assert_eq!(
        report(&folder, "exact.huff --labels-file labels.txt"),
        original
    );
    let decoded = report(&folder, "probs.huff --labels-file labels.txt");
    assert_eq!(decoded["accuracy"], original["accuracy"]);
    let loss = |report: &Value| report["log_loss"].as_f64().unwrap();
    assert!((loss(&decoded) - loss(&original)).abs() < 0.02);
}

#[test]
fn logits_become_probabilities() {
    let folder = folder();
    let logits: Vec<u8> = ROWS
        .iter()
        .flat_map(|value| (value.max(1e-30).ln() + 7.0).to_le_bytes())
        .collect();
    folder.write("logits.npy", &npy("<f4", false, &[4, 3], &logits));
    let expected = report(&folder, "probs.npy --labels-file labels.txt");
    for kind in ["", "--kind logits"] {
        let found = report(
            &folder,
            &format!("logits.npy --labels-file labels.txt {kind}"),
        );
        let difference =
            found["log_loss"].as_f64().unwrap() - expected["log_loss"].as_f64().unwrap();
        assert!(difference.abs() < 1e-5);
    }
}

#[test]
fn a_model_is_evaluated_on_both_parts_and_drawn() {
    let folder = Folder::new();
    write_toy_mnist(&folder, 60);
    let said = folder.run("train --data mnist --epochs 3 --batch-size 10", 0);
    let accuracy = said.stdout.rsplit("accuracy ").next().unwrap();
    let accuracy = accuracy.split_whitespace().next().unwrap().to_owned();
    let said = folder.run("eval --data mnist --plots pictures", 0);
    assert!(said.stdout.contains(&format!("accuracy       {accuracy}")));
    folder.run("eval --data mnist --part train", 0);
    for name in ["confusion.svg", "reliability.svg"] {
        let svg = String::from_utf8(folder.read(&format!("pictures/{name}"))).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("prefers-color-scheme:dark"));
    }
    // Pictures are not replaced without being told.
    folder.run("eval --data mnist --plots pictures", 1);
    folder.run("eval --data mnist --plots pictures --force", 0);
}

#[test]
fn what_does_not_fit_is_told() {
    let folder = folder();
    folder.write("few.txt", b"0\n1\n");
    folder.write("many.txt", b"0\n1\n0\n1\n2\n");
    folder.write("wrong.txt", b"0\n1\n3\n1\n");
    for (labels, end) in [
        ("few.txt", "few.txt: 2 labels, and there are more rows"),
        ("many.txt", "many.txt: more labels than the 4 rows"),
        ("wrong.txt", "wrong.txt: label 3 of row 2; expected 0 to 2"),
    ] {
        folder.fails(&format!("eval probs.npy --labels-file {labels}"), "", end);
    }
    folder.fails("eval probs.npy", "predictions alone", "--labels-file");
    folder.fails("eval --data nowhere", "no model", "--model");
}
