//! `pc train`: the means beyond the plain run, the record of a run, going on with one, teachers.

use pc::model::checkpoint::Checkpoint;
use serde_json::Value;

use crate::common::{Folder, idx, npy, read_npy, write_toy_mnist};

/// Enough training for a toy set, and few outputs.
const QUICK: &str = "--data mnist --batch-size 10 --classes 10 --hidden 16";

fn folder() -> Folder {
    let folder = Folder::new();
    write_toy_mnist(&folder, 100);
    folder
}

fn checkpoint(folder: &Folder, name: &str) -> Checkpoint {
    Checkpoint::from_bytes(&folder.read(name)).unwrap()
}

/// The lines of a log.
fn lines(folder: &Folder, name: &str) -> Vec<Value> {
    let text = String::from_utf8(folder.read(name)).unwrap();
    assert!(text.ends_with('\n'), "{text}");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn every_means_changes_the_weights_and_is_recorded() {
    let folder = folder();
    let train = |options: &str| {
        folder.run(&format!("train {QUICK} --epochs 2 --force {options}"), 0);
        checkpoint(&folder, "model.safetensors")
    };
    let plain = train("");
    let options = |checkpoint: &Checkpoint| {
        serde_json::to_value(&checkpoint.info.as_ref().unwrap().options).unwrap()
    };
    let names = |value: &Value| value.as_object().unwrap().len();
    let n_plain = names(&options(&plain));
    for (option, key, value) in [
        ("--schedule cosine", "schedule", "\"cosine\""),
        ("--weight-decay 0.1", "weight_decay", "0.1"),
        ("--label-smoothing 0.1", "label_smoothing", "0.1"),
        ("--dropout 0.2", "dropout", "0.2"),
        ("--augment shift=2,flip", "augment", "\"shift\":2.0"),
        ("--augment", "augment", "\"elastic\":"),
        ("--standardize", "standardize", "true"),
        ("--average 0.9", "average", "0.9"),
    ] {
        let trained = train(option);
        assert_ne!(trained.weights, plain.weights, "{option}");
        let options = options(&trained);
        assert_eq!(names(&options), n_plain + 1, "{option}: {options}");
        let found = options[key].to_string();
        assert!(found.contains(value), "{option}: {found}");
        // Whoever predicts need not know of it.
        assert!(trained.info.unwrap().temperature.is_none());
    }
    assert_eq!(
        train("--schedule constant --dropout 0").weights,
        plain.weights
    );
}

#[test]
fn standardized_models_take_pixels_as_they_are() {
    let folder = folder();
    let said = folder.run(&format!("train {QUICK} --epochs 5 --standardize"), 0);
    let images = folder.read("mnist/t10k-images-idx3-ubyte");
    folder.write("images.idx", &images);
    folder.run("predict images.idx -o probs.npy", 0);
    let (_, n_classes, probs) = read_npy(&folder.read("probs.npy"));
    let n_right = probs
        .chunks(n_classes)
        .enumerate()
        .filter(|(row, probs)| pc::matrix::argmax(probs) == row % 10)
        .count();
    assert!(
        said.stdout.contains(&format!("accuracy {n_right}.00%")),
        "{}",
        said.stdout
    );
    assert!(n_right > 90, "{n_right}");
}

#[test]
fn a_log_has_a_line_for_each_epoch() {
    let folder = folder();
    let train = format!("train {QUICK} --epochs 3 --validation 0.2 --schedule cosine");
    let said = folder.run(&format!("{train} --log log.jsonl"), 0);
    let log = lines(&folder, "log.jsonl");
    assert_eq!(log.len(), 3);
    for (i, line) in log.iter().enumerate() {
        let mut names: Vec<&String> = line.as_object().unwrap().keys().collect();
        names.sort();
        assert_eq!(
            names,
            [
                "epoch",
                "learning_rate",
                "samples",
                "seconds",
                "test_accuracy",
                "test_loss",
                "training_loss",
                "validation_accuracy",
                "validation_loss"
            ]
        );
        assert_eq!(
            (&line["epoch"], &line["samples"]),
            (&(i + 1).into(), &80.into())
        );
        let shown = format!(
            "validation loss {:.4}",
            line["validation_loss"].as_f64().unwrap()
        );
        assert!(said.stdout.contains(&shown), "{shown}");
    }
    let rates: Vec<f64> = log
        .iter()
        .map(|l| l["learning_rate"].as_f64().unwrap())
        .collect();
    assert!(rates.is_sorted_by(|a, b| a > b), "{rates:?}");

    folder.fails(
        &format!("{train} --log log.jsonl -o other"),
        "log.jsonl exists already; give another name with --log, or --force to replace it",
        "",
    );
    folder.run(&format!("{train} --log log.jsonl --force"), 0);
    assert_eq!(lines(&folder, "log.jsonl").len(), 3);
    folder.fails(
        &format!("{train} --log nowhere/a -o b"),
        "cannot write nowhere/a: ",
        "",
    );
}

#[test]
fn a_run_that_goes_on_gives_the_same_file_as_one_that_never_ended() {
    let folder = folder();
    let means = "--validation 0.2 --dropout 0.1 --augment --average 0.9 --standardize --calibrate";
    let train = format!("train {QUICK} {means}");
    folder.run(&format!("{train} --epochs 5 -o whole --log whole.jsonl"), 0);
    folder.run(
        &format!("{train} --epochs 2 -o part --save-state --log part.jsonl"),
        0,
    );
    let again = "train --resume part --data mnist --epochs 5 -o rest --log part.jsonl";
    let said = folder.run(again, 0);
    assert!(said.stdout.contains("\nepoch 3/5  "), "{}", said.stdout);
    assert!(!said.stdout.contains("epoch 2/5"), "{}", said.stdout);
    assert!(folder.read("whole") == folder.read("rest"));
    assert!(
        checkpoint(&folder, "rest")
            .info
            .unwrap()
            .temperature
            .is_some()
    );

    // The checkpoint is as small as ever, and nothing is beside one that was not to be gone on with.
    assert!(folder.read("part").len() < folder.read("whole").len() + 100);
    assert!(!folder.join("whole.state").exists());
    let without_time = |name: &str| -> Vec<Value> {
        let mut lines = lines(&folder, name);
        for line in &mut lines {
            line.as_object_mut().unwrap().remove("seconds");
        }
        lines
    };
    assert_eq!(without_time("whole.jsonl"), without_time("part.jsonl"));

    // Epochs that are run again are logged once, and a line that lacks its end is written anew.
    let resume = "train --resume part --data mnist --log part.jsonl --force";
    folder.run(&format!("{resume} --epochs 3 --save-state -o part"), 0);
    assert_eq!(without_time("part.jsonl"), without_time("whole.jsonl")[..3]);
    let log = folder.read("part.jsonl");
    folder.write("part.jsonl", &[&log[..], b"{\"epoch\":4,\"lear"].concat());
    folder.run(&format!("{resume} --epochs 5 -o rest"), 0);
    assert!(folder.read("whole") == folder.read("rest"));
    assert_eq!(without_time("whole.jsonl"), without_time("part.jsonl"));
    for other in [&b"{\"epoch\":1}\nnotes\n"[..], b"x,y"] {
        folder.write("notes", other);
        let line = other.iter().filter(|&&byte| byte == b'\n').count().max(1);
        folder.fails(
            "train --resume part --data mnist --log notes --epochs 5 -o other",
            &format!("notes: line {line} is not one of a log; give another name with --log"),
            "",
        );
        assert_eq!(folder.read("notes"), other);
    }
}

#[cfg(unix)]
#[test]
fn a_run_that_ctrl_c_ended_goes_on_within_its_epoch() {
    use std::io::{BufRead, BufReader, Read};

    let folder = Folder::new();
    write_toy_mnist(&folder, 2_000);
    let train = "train --data mnist --batch-size 10 --classes 10 --schedule cosine --epochs 12";
    folder.run(&format!("{train} -o whole"), 0);
    let mut child = folder.start(&format!("{train} -o part --save-state --log log.jsonl"));
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("epoch ") {
        line.clear();
        assert!(stdout.read_line(&mut line).unwrap() > 0);
    }
    crate::cli_train::send("INT", child.id());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest}");
    assert!(rest.ends_with("training stopped early)\n"), "{rest}");
    assert_eq!(
        folder.names(),
        ["log.jsonl", "mnist", "part", "part.state", "whole"]
    );
    folder.run(
        "train --resume part --data mnist -o rest --log log.jsonl",
        0,
    );
    assert!(folder.read("whole") == folder.read("rest"));
    // The epoch that was interrupted stands there once, whole.
    let log = lines(&folder, "log.jsonl");
    let epochs: Vec<_> = log
        .iter()
        .map(|line| (&line["epoch"], &line["samples"]))
        .collect();
    let whole: Vec<_> = (1..=12).map(|epoch| (epoch.into(), 2_000.into())).collect();
    assert!(
        epochs
            .into_iter()
            .eq(whole.iter().map(|(a, b): &(Value, Value)| (a, b))),
        "{log:?}"
    );
}

#[test]
fn what_cannot_go_on_is_refused() {
    let folder = folder();
    let train = format!("train {QUICK} --epochs 2");
    folder.fails(
        "train --resume model.safetensors",
        "model.safetensors.state: no such file or folder; pc train --save-state writes it beside the model",
        "",
    );
    folder.run(&format!("{train} --save-state"), 0);
    let resume = "train --resume model.safetensors -o other";
    folder.fails(
        &format!("{resume} --data mnist"),
        "model.safetensors: it has run 2 epochs already; give more with --epochs",
        "",
    );
    folder.fails(
        &format!("{resume} --epochs 3"),
        "model.safetensors: trained on other images or labels; name with --data and --teacher what",
        "it was trained on",
    );
    folder.fails(
        &format!("{resume} --epochs 3 --teacher a.huff --data mnist"),
        "model.safetensors: trained without a teacher; leave --teacher out",
        "",
    );
    folder.run(
        &format!("{train} --schedule cosine --save-state --force"),
        0,
    );
    folder.fails(
        &format!("{resume} --epochs 3 --data mnist"),
        "model.safetensors: its learning rate falls to 0 at epoch 2; train anew for more",
        "",
    );
    let state = folder.read("model.safetensors.state");
    folder.write("model.safetensors.state", &state[..state.len() - 1]);
    folder.fails(
        &format!("{resume} --data mnist"),
        "model.safetensors.state: not a usable safetensors file; write one with pc train --save-state",
        "",
    );
    folder.write("model.safetensors.state", &state);
    folder.run(
        &format!("{train} --hidden 8 --force").replace(" --hidden 16", ""),
        0,
    );
    folder.fails(
        &format!("{resume} --data mnist"),
        "model.safetensors.state: saved with another model (SHA-256 ",
        "; put that model there, or train anew with --save-state",
    );
    folder.write("model.safetensors.state", &folder.read("model.safetensors"));
    folder.fails(
        &format!("{resume} --data mnist"),
        "model.safetensors.state: not the state of a run; write one with pc train --save-state",
        "",
    );
    folder.fails(
        &format!("{train} --save-state -o other2 --patience 2"),
        "--patience needs images that are held out; hold out a share with --validation 0.1",
        "",
    );
    folder.fails(
        &format!("{train} -o other2 --calibrate"),
        "--calibrate needs images that are held out; hold out a share with --validation 0.1",
        "",
    );
    for part in ["train", "t10k"] {
        let images = idx(0x803, &[10, 1, 2], &[7; 20]);
        folder.write(&format!("mnist/{part}-images-idx3-ubyte"), &images);
        folder.write(
            &format!("mnist/{part}-labels-idx1-ubyte"),
            &idx(0x801, &[10], &[0; 10]),
        );
    }
    folder.fails(
        "train --data mnist --augment -o other2",
        "--augment needs square images; these have 2 pixels",
        "",
    );
}

#[test]
fn a_run_that_diverges_is_told_and_replaces_nothing() {
    let folder = folder();
    let train = format!("train {QUICK} --epochs 50 --save-state --plots p --log log.jsonl --force");
    folder.run(&format!("{train} --learning-rate 0.01"), 0);
    let names = [
        "model.safetensors",
        "model.safetensors.state",
        "p/learning.svg",
    ];
    let before = names.map(|name| folder.read(name));
    for options in ["", "--validation 0.2 --calibrate", "--average 0.9"] {
        folder.fails(
            &format!("{train} --learning-rate 10 --weight-decay 10 {options}"),
            "training diverged: ",
            "; train anew with a --learning-rate below 10",
        );
        assert!(names.map(|name| folder.read(name)) == before, "{options}");
        let log = String::from_utf8(folder.read("log.jsonl")).unwrap();
        assert!(!log.contains("null"), "{log}");
    }
    // It can still be gone on with.
    folder.run(
        "train --resume model.safetensors --data mnist --epochs 51 -o rest",
        0,
    );
}

#[test]
fn patience_ends_a_run() {
    let folder = folder();
    let train = format!("train {QUICK} --validation 0.2 --learning-rate 0.3 --epochs 500");
    let said = folder.run(&format!("{train} --patience 4 --save-state"), 0);
    assert!(
        said.stdout.ends_with(", training out of patience)\n"),
        "{}",
        said.stdout
    );
    let n_epochs = said.stdout.matches("\nepoch ").count();
    let best = checkpoint(&folder, "model.safetensors")
        .info
        .unwrap()
        .metrics
        .unwrap()
        .epoch;
    assert_eq!(best + 4, n_epochs);
    folder.fails(
        "train --resume model.safetensors --data mnist -o other",
        "model.safetensors: it ended by --patience already; train anew with more",
        "",
    );
}

#[test]
fn a_calibrated_model_has_its_temperature_applied_to_probabilities_alone() {
    let folder = folder();
    let train = format!("train {QUICK} --epochs 4 --validation 0.2");
    folder.run(&format!("{train} -o plain"), 0);
    let said = folder.run(&format!("{train} --calibrate -o calibrated"), 0);
    let (plain, calibrated) = (
        checkpoint(&folder, "plain"),
        checkpoint(&folder, "calibrated"),
    );
    assert_eq!(plain.weights, calibrated.weights);
    let temperature = calibrated.info.unwrap().temperature.unwrap();
    assert!(
        said.stdout
            .contains(&format!(", temperature {temperature:.3})")),
        "{}",
        said.stdout
    );
    folder.write("images.idx", &folder.read("mnist/t10k-images-idx3-ubyte"));
    let predict = |model: &str, options: &str| {
        folder.run(
            &format!("predict images.idx --model {model} -o p.npy --force {options}"),
            0,
        );
        read_npy(&folder.read("p.npy")).2
    };
    let logits = predict("calibrated", "--logits");
    assert_eq!(logits, predict("plain", "--logits"));
    let probabilities = predict("calibrated", "");
    assert_ne!(probabilities, predict("plain", ""));
    for (logits, probabilities) in logits.chunks(10).zip(probabilities.chunks(10)) {
        let exp: Vec<f64> = logits
            .iter()
            .map(|&x| (f64::from(x) / temperature).exp())
            .collect();
        let sum: f64 = exp.iter().sum();
        for (e, p) in exp.iter().zip(probabilities) {
            assert!((e / sum - f64::from(*p)).abs() < 1e-5);
        }
    }
    // So it is evaluated, on the same test part.
    let log_loss = |model: &str| {
        let said = folder.run(&format!("eval --data mnist --json --model {model}"), 0);
        let report: Value = serde_json::from_str(&said.stdout).unwrap();
        report["log_loss"].as_f64().unwrap()
    };
    let mean = probabilities
        .chunks(10)
        .enumerate()
        .map(|(row, probabilities)| -f64::from(probabilities[row % 10]).ln())
        .sum::<f64>()
        / 100.0;
    assert!((log_loss("calibrated") - mean).abs() < 1e-5);
    assert!((log_loss("plain") - mean).abs() > 1e-5);
    // Compressed predictions are the calibrated ones.
    folder.run(
        "predict-compress images.idx --model calibrated --exact -o p.huff",
        0,
    );
    folder.run("decode p.huff -o q.npy", 0);
    assert_eq!(read_npy(&folder.read("q.npy")).2, probabilities);
}

#[test]
fn a_student_learns_what_its_teacher_says() {
    let folder = folder();
    // The teacher is one class beside the labels throughout.
    let teacher_values = |n_rows: usize, n_classes: usize| {
        let mut values = vec![0.1 / (n_classes - 1) as f32; n_rows * n_classes];
        for row in 0..n_rows {
            values[row * n_classes + (row + 1) % 10] = 0.9;
        }
        values
    };
    let teacher = |n_rows: usize, n_classes: usize| {
        let bytes: Vec<u8> = teacher_values(n_rows, n_classes)
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        folder.write(
            "labels.npy",
            &npy("<f4", false, &[n_rows, n_classes], &bytes),
        );
        folder.run("compress labels.npy -o labels.huff --force", 0);
    };
    teacher(100, 10);
    let train = format!("train {QUICK} --epochs 20 --teacher labels.huff");
    let trained = |options: &str| {
        let train = match options.contains("--teacher") {
            true => train.replace("--teacher labels.huff", ""),
            false => train.clone(),
        };
        let said = folder.run(&format!("{train} --force {options}"), 0);
        let accuracy = said.stdout.rsplit("accuracy ").next().unwrap();
        let accuracy: f64 = accuracy.split('%').next().unwrap().parse().unwrap();
        (accuracy, checkpoint(&folder, "model.safetensors"))
    };
    let (accuracy, followed) = trained("");
    assert!(accuracy < 10.0, "{accuracy}");
    let options = followed.info.unwrap().options.distillation.unwrap();
    assert_eq!((options.temperature, options.mix), (2.0, 0.9));
    let (accuracy, ignored) = trained("--mix 0");
    assert!(accuracy > 90.0, "{accuracy}");
    let (_, hot) = trained("--temperature 5");
    assert_ne!(hot.weights, followed.weights);
    assert_ne!(hot.weights, ignored.weights);

    // In whatever format the same labels come.
    folder.run("compress labels.npy -o exact.huff --exact", 0);
    let (_, exact) = trained("--teacher exact.huff");
    for name in ["labels.npy", "labels.csv", "labels.parquet"] {
        if name != "labels.npy" {
            folder.run(&format!("decode exact.huff -o {name}"), 0);
        }
        let (_, other) = trained(&format!("--teacher {name}"));
        assert_eq!(other.weights, exact.weights, "{name}");
    }

    // Logits stand for probabilities.
    let values = teacher_values(100, 10);
    let of_logits = values.iter().flat_map(|value| value.ln().to_le_bytes());
    let bytes: Vec<u8> = of_logits.collect();
    folder.write("logits.npy", &npy("<f4", false, &[100, 10], &bytes));
    folder.run(
        "compress logits.npy -o logits.huff --exact --kind logits",
        0,
    );
    let (accuracy, of_logits) = trained("--teacher logits.huff");
    assert!(accuracy < 10.0, "{accuracy}");
    let layers = of_logits.weights.layers.iter().zip(&exact.weights.layers);
    for (a, b) in layers.flat_map(|(a, b)| a.weight.iter().zip(&b.weight)) {
        assert!((a - b).abs() < 1e-3, "{a} {b}");
    }

    // Compressed against a reference, which training does not ask for, they come by the way that the message says.
    for (kind, file) in [("probabilities", "labels.npy"), ("logits", "logits.npy")] {
        let compress = format!("compress {file} --force --kind {kind}");
        folder.run(&format!("{compress} -o ref.huff"), 0);
        folder.run(&format!("{compress} --reference ref.huff -o told.huff"), 0);
        let way = format!(
            "pc decode FILE --reference REF -o x.npy, then pc compress x.npy --exact --kind {kind} -o x.huff"
        );
        folder.fails(
            &train.replace("labels.huff", "told.huff --force"),
            "told.huff: its rows are compressed against a reference (SHA-256 ",
            &format!("; write them into a file of their own: {way}"),
        );
        let way = way.replace("FILE", "told.huff").replace("REF", "ref.huff");
        for command in way.split(", then ") {
            folder.run(&format!("{} --force", command.trim_start_matches("pc ")), 0);
        }
        trained("--teacher x.huff");
    }

    // It goes on with its teacher, and not without.
    folder.run(
        &format!("{} --force --save-state", train.replace("20", "18")),
        0,
    );
    let resume = "train --resume model.safetensors --data mnist --epochs 20 -o rest";
    folder.fails(
        resume,
        "model.safetensors: trained with a teacher; name its labels with --teacher",
        "",
    );
    folder.run(&format!("{resume} --teacher labels.huff"), 0);
    assert_eq!(checkpoint(&folder, "rest").weights, followed.weights);

    folder.fails(
        &format!("{train} -o other --teacher nowhere.huff").replace(" --teacher labels.huff", ""),
        "nowhere.huff: no such file or folder",
        "",
    );
    let fails = |start: &str, end: &str| folder.fails(&format!("{train} -o other"), start, end);
    teacher(99, 10);
    fails(
        "labels.huff: only 99 rows, but there are 100 training images;",
        "one row an image",
    );
    teacher(101, 10);
    fails(
        "labels.huff: at least 101 rows, but there are 100 training images;",
        "one row an image",
    );
    teacher(100, 12);
    fails(
        "labels.huff: 12 classes, the network has 10; give --classes 12",
        "",
    );
    folder.run(
        "compress labels.npy -o labels.huff --force --kind logits",
        0,
    );
    fails("labels.huff: 12 classes", "");
    folder.run(
        "compress labels.npy -o labels.huff --force --kind values",
        0,
    );
    folder.fails(
        &format!("{train} -o other --classes 12").replace("--classes 10 ", ""),
        "labels.huff: it holds values; expected probabilities or logits",
        "",
    );
    let nan = [f32::NAN; 1000].map(f32::to_le_bytes).concat();
    folder.write("labels.npy", &npy("<f4", false, &[100, 10], &nan));
    folder.run(
        "compress labels.npy -o labels.huff --force --exact --kind probabilities",
        0,
    );
    fails(
        "labels.huff: NaN in row 0, column 0; expected probabilities",
        "",
    );
    folder.write("labels.huff", b"garbage\0");
    fails("labels.huff: ", "");
    let logits = [2f32; 1000].map(f32::to_le_bytes).concat();
    folder.write("labels.huff", &npy("<f4", false, &[100, 10], &logits));
    fails(
        "labels.huff: 2 in row 0, column 0; expected probabilities",
        "",
    );
    let halves = [0.5f32; 1000].map(f32::to_le_bytes).concat();
    folder.write("labels.huff", &npy("<f4", false, &[100, 10], &halves));
    fails("labels.huff: row 0 sums to 5; expected probabilities", "");
    folder.write("labels.huff", &npy("<f4", false, &[10, 10], &halves[..400]));
    fails("labels.huff: row 0 sums to 5", "");
}
