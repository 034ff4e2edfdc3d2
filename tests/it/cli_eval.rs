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
fn class_names_may_be_of_any_length() {
    let folder = folder();
    for n_characters in [39, 41, 65_535, 70_000] {
        let name = "n".repeat(n_characters);
        folder.write("names.txt", format!("{name}\nb\nc\n").as_bytes());
        folder.run(
            "compress probs.npy -o names.huff --force --class-names names.txt",
            0,
        );
        let said = folder.run("eval names.huff --labels-file labels.txt", 0);
        let lines: Vec<&str> = said.stdout.lines().collect();
        let [.., of_b, of_c] = lines[..] else {
            panic!("a line for each class");
        };
        // Room is made for 40 characters at most: two columns and the three with what stands between them.
        assert_eq!(of_b.len(), n_characters.min(40) + 2 + 9 + 2 + 7 + 2 + 6);
        assert_eq!(of_c.len(), of_b.len());
        assert!(said.stdout.contains(&name));
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
fn of_many_classes_those_that_occur_are_drawn() {
    let folder = Folder::new();
    let draw = |n_classes: usize, classes: &[usize]| {
        let mut values = vec![0f32; n_classes * classes.len()];
        for (row, class) in values.chunks_mut(n_classes).zip(classes) {
            row[*class] = 1.0;
        }
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        folder.write(
            "p.npy",
            &npy("<f4", false, &[classes.len(), n_classes], &bytes),
        );
        let labels: Vec<String> = classes.iter().map(ToString::to_string).collect();
        folder.write("l.txt", labels.join("\n").as_bytes());
        folder.run("eval p.npy --labels-file l.txt --plots p --force", 0)
    };
    // So many that a square of them all would not fit in memory.
    let said = draw(400_000, &[7, 399_999, 7]);
    assert!(!said.stderr.contains("no picture"), "{}", said.stderr);
    let svg = String::from_utf8(folder.read("p/confusion.svg")).unwrap();
    for text in ["7", "399999", "2"] {
        assert!(svg.lines().any(|line| line.trim() == text), "{text}");
    }
    let said = draw(1_001, &(0..1_001).collect::<Vec<_>>());
    let warning = "no picture of confusions: 1,001 classes occur; at most 1,000 can be told apart";
    assert!(said.stderr.contains(warning), "{}", said.stderr);

    write_toy_mnist(&folder, 20);
    folder.run("train --data mnist --epochs 1 --classes 2000 --plots t", 0);
    assert!(folder.join("t/confusion.svg").exists());
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
        (
            "wrong.txt",
            "wrong.txt: row 2 has label 3; expected the number of a class, 0 to 2",
        ),
    ] {
        folder.fails(&format!("eval probs.npy --labels-file {labels}"), end, "");
    }
    folder.fails("eval probs.npy", "predictions alone", "--labels-file");
    folder.fails("eval --data nowhere", "no model", "--model");
}

#[test]
fn what_rows_are_is_found_out_alike_by_compress_and_eval() {
    let folder = Folder::new();
    folder.write("labels.txt", b"0\n1\n");
    // Rounded to a few decimals, probabilities do not quite sum to 1.
    folder.write("rounded.csv", b"0.667,0.332\n0.251,0.745\n");
    folder.run("compress rounded.csv -o rounded.huff --exact", 0);
    let loss = |options: &str| report(&folder, options)["log_loss"].as_f64().unwrap();
    let expected = -(0.667f64.ln() + 0.745f64.ln()) / 2.0;
    for name in ["rounded.csv", "rounded.huff"] {
        let found = loss(&format!("{name} --labels-file labels.txt"));
        assert!((found - expected).abs() < 1e-6, "{name}: {found}");
    }
    // From 0 to 1, but who knows what.
    folder.write("scores.csv", b"0.9,0.1\n0.9,0.2\n");
    let said = folder.run("compress scores.csv -o scores.huff --exact", 0);
    let why = "  kind           values, as row 1 sums to 1.1; give --kind if";
    assert!(said.stdout.contains(why), "{}", said.stdout);
    for name in ["scores.csv", "scores.huff"] {
        folder.fails(
            &format!("eval {name} --labels-file labels.txt"),
            &format!("{name}: row 1 sums to 1.1; say what the numbers are: --kind"),
            "",
        );
        loss(&format!(
            "{name} --labels-file labels.txt --kind probabilities"
        ));
    }
    // Beyond, logits, be it said or not.
    folder.write("logits.csv", b"0.6,0.4\n3,-2\n");
    folder.run("compress logits.csv -o logits.huff --exact", 0);
    for name in ["logits.csv", "logits.huff"] {
        let said = folder.run(&format!("eval {name} --labels-file labels.txt"), 0);
        let warning = "row 1, class 0 is 3: taken for logits";
        assert!(said.stderr.contains(warning), "{}", said.stderr);
        assert_eq!(
            loss(&format!("{name} --labels-file labels.txt")),
            loss(&format!("{name} --labels-file labels.txt --kind logits"))
        );
    }
}

#[test]
fn what_is_no_probability_is_refused_and_lost_rows_are_left_out() {
    let folder = Folder::new();
    let npy_of = |values: [f32; 6]| {
        npy(
            "<f4",
            false,
            &[3, 2],
            &values.map(f32::to_le_bytes).concat(),
        )
    };
    folder.write("labels.txt", b"0\n1\n0\n");
    folder.write(
        "lost.npy",
        &npy_of([0.75, 0.25, f32::NAN, f32::NAN, 0.0, 1.0]),
    );
    let kind = "--labels-file labels.txt --kind";
    let said = folder.run(&format!("eval lost.npy {kind} probabilities"), 0);
    assert!(
        said.stderr.contains("1 rows hold no numbers (NaN)"),
        "{}",
        said.stderr
    );
    assert!(
        said.stdout.starts_with("rows           2\n"),
        "{}",
        said.stdout
    );
    let least = "nats; 1 row gives its true class less than 1.2e-7, taken for that\n";
    assert!(said.stdout.contains(least), "{}", said.stdout);
    let found = report(&folder, &format!("lost.npy {kind} probabilities"));
    assert_eq!(found["rows_at_least_probability"], 1);
    for (values, message) in [
        (
            [0.5, 0.5, 0.5, f32::NAN, 0.5, 0.5],
            "row 1, class 1: NaN is no probability",
        ),
        (
            [0.5, 0.5, 2.0, -1.0, 0.5, 0.5],
            "row 1, class 0: 2 is no probability",
        ),
        (
            [0.5, 0.5, 0.5, 0.5, -0.5, 0.5],
            "row 2, class 0: -0.5 is no probability",
        ),
    ] {
        folder.write("x.npy", &npy_of(values));
        folder.fails(
            &format!("eval x.npy {kind} probabilities"),
            "x.npy: ",
            message,
        );
    }
    folder.write("x.npy", &npy_of([0.0, 1.0, 0.0, f32::INFINITY, 0.0, 1.0]));
    folder.fails(
        &format!("eval x.npy {kind} logits"),
        "x.npy: row 1, class 1: inf is no logit",
        "",
    );
    // What a network masks.
    folder.write(
        "x.npy",
        &npy_of([0.0, 1.0, 0.0, f32::NEG_INFINITY, 0.0, 1.0]),
    );
    folder.run(&format!("eval x.npy {kind} logits"), 0);
}

#[test]
fn shapes_that_no_memory_holds_are_refused() {
    let folder = Folder::new();
    folder.write("labels.txt", b"0\n");
    for n_classes in [1 << 62, 1_000_000_000_000, (1 << 20) + 1] {
        folder.write("x.npy", &npy("<f4", false, &[0, n_classes], b""));
        folder.fails("eval x.npy --labels-file labels.txt", "x.npy: ", "");
    }
}
