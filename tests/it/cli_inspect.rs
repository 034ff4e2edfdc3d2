//! `pc inspect`.

use pc::huffman::{Bound, FrameHeader, Kind, Promise};
use pc::matrix::PredictionMatrix;
use serde_json::Value;

use crate::common::Folder;
use crate::frames::{frame, frame_with, huff, matrix, npy, promise};

/// What `pc inspect --json` says of a file.
#[track_caller]
fn json(folder: &Folder, arguments: &str, code: i32) -> Value {
    let said = folder.run(&format!("inspect --json {arguments}"), code);
    serde_json::from_str(&said.stdout).unwrap()
}

/// Bits of all parts together.
fn sum_of_bits(report: &Value) -> u64 {
    let parts = report["bits"].as_object().unwrap().values();
    parts.map(|bits| bits.as_u64().unwrap()).sum()
}

#[test]
fn the_parts_have_the_length_of_the_file_as_their_sum() {
    let folder = Folder::new();
    let mut rows = matrix(20_000, 0).into_values();
    rows[600..660].fill(1.0);
    let rows = PredictionMatrix::new(3, rows);
    let wide = |n: usize| PredictionMatrix::new(60, rows.values()[..60 * n].to_vec());
    for (number, (rows, promise)) in [
        (&rows, promise(Bound::MaxError(0.002))),
        (&rows, promise(Bound::Exact)),
        (&matrix(5000, 1), promise(Bound::MaxKl(0.001))),
        (&wide(900), promise(Bound::MaxError(0.02))),
        (&wide(0), promise(Bound::MaxError(0.02))),
        (&wide(1), Promise::new(Kind::Logits, Bound::MaxError(0.01))),
        (
            &matrix(5000, 1),
            Promise {
                keep_top: 3,
                ..promise(Bound::MaxError(0.1))
            },
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = frame(rows, promise);
        let both = [&bytes[..], &bytes].concat();
        folder.write("one.huff", &bytes);
        folder.write("two.huff", &both);
        for (file, n_frames, n_bytes) in [("one.huff", 1, bytes.len()), ("two.huff", 2, both.len())]
        {
            for entropy in ["", " --entropy"] {
                let report = json(&folder, &format!("{file}{entropy}"), 0);
                assert_eq!(report["bytes"], n_bytes);
                assert_eq!(
                    sum_of_bits(&report),
                    8 * n_bytes as u64,
                    "{number} {report}"
                );
                assert_eq!(report["frames"], n_frames);
                assert_eq!(report["rows"], n_frames * rows.n_rows());
                assert_eq!(report["error"], Value::Null);
                assert_eq!(report["entropy_bits"].is_null(), entropy.is_empty());
                let text = folder.run(&format!("inspect {file}{entropy}"), 0).stdout;
                let (_, parts) = text.split_once("bytes by part\n").unwrap();
                let bytes = parts
                    .lines()
                    .filter(|line| line.starts_with("    "))
                    .map(|line| {
                        let number = line.split_whitespace().rev().nth(1).unwrap();
                        number.replace(',', "").parse::<usize>().unwrap()
                    });
                assert_eq!(bytes.sum::<usize>(), n_bytes, "{text}");
            }
        }
        if !promise.bound.eq(&Bound::Exact) && rows.n_rows() > 0 {
            let report = json(&folder, "one.huff --entropy", 0);
            let (codes, entropy) = (&report["code_bits"], &report["entropy_bits"]);
            // The first state of rANS may hold up to 16 bits of a block's symbols; nothing does of Huffman.
            let n_of_ans = report["models"].as_object().unwrap().iter();
            let n_of_ans = n_of_ans.filter(|(model, _)| model.ends_with(", rANS"));
            let n_of_ans: f64 = n_of_ans.map(|(_, n)| n.as_f64().unwrap()).sum();
            let held = 16.0 * n_of_ans;
            assert!(codes.as_f64().unwrap() + held >= entropy.as_f64().unwrap() - 1e-6);
        }
    }
}

#[test]
fn what_the_header_and_the_index_say_is_told() {
    let folder = Folder::new();
    let promise = Promise {
        keep_top: 2,
        ..promise(Bound::MaxError(0.01))
    };
    let header = FrameHeader {
        class_names: Some(vec!["cat".into(), "dog".into(), "e\u{1b}[31mmu".into()]),
        model_sha256: Some("abc123".into()),
        ..FrameHeader::new(3, promise).unwrap()
    };
    folder.write("x.huff", &frame_with(&matrix(40_000, 0), header));
    let said = folder.run("inspect x.huff", 0);
    for line in [
        "  kind           probabilities",
        "  rows           40,000",
        "  classes        3",
        "  class names    cat, dog, e\\u{1b}[31mmu",
        "  promise        each within 1e-2 of the original; order of the first 2 classes kept",
        "  exact rows     0",
        "  frames         1",
        "  blocks         3, of up to 16,384 rows",
        "  predicted by   abc123",
        concat!("  written by     pc ", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(
            said.stdout.lines().any(|l| l == line),
            "{line}\n{}",
            said.stdout
        );
    }
    let report = json(&folder, "x.huff", 0);
    assert_eq!(
        report["promises"],
        serde_json::json!([{"kind": "probabilities", "max_error": 0.01, "keep_top": 2}])
    );
    assert_eq!(report["class_names"][2], "e\u{1b}[31mmu");
    assert_eq!(report["models_sha256"], serde_json::json!(["abc123"]));
    let largest = report["largest_error"].as_f64().unwrap();
    assert!(largest > 0.0 && largest <= 0.01);
    let models = report["models"].as_object().unwrap().values();
    assert_eq!(models.map(|n| n.as_u64().unwrap()).sum::<u64>(), 3);

    // Frames that promise other things.
    let both = [
        huff(5, 0),
        frame(&matrix(5, 1), crate::frames::promise(Bound::Exact)),
    ]
    .concat();
    folder.write("y.huff", &both);
    let said = folder.run("inspect y.huff", 0);
    let promises = said.stdout.lines().filter(|l| l.starts_with("  promise "));
    assert_eq!(promises.count(), 2);
}

#[test]
fn blocks_are_not_read_unless_asked_for() {
    let folder = Folder::new();
    let mut bytes = huff(40_000, 0);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    folder.write("x.huff", &bytes);
    folder.run("inspect x.huff", 0);
    let report = json(&folder, "x.huff --entropy", 1);
    let error = report["error"].as_str().unwrap();
    assert!(
        error.starts_with("block 1 (rows 16384..32768) is damaged"),
        "{error}"
    );
    assert_eq!(sum_of_bits(&report), 8 * bytes.len() as u64);
}

#[test]
fn of_a_file_that_is_not_whole_what_can_be_said_is_said() {
    let folder = Folder::new();
    let bytes = huff(40_000, 0);
    folder.write("x.huff", &bytes[..bytes.len() - 20]);
    let said = folder.run("inspect x.huff", 1);
    assert!(
        said.stdout.contains("  rows           40,000\n"),
        "{}",
        said.stdout
    );
    assert!(
        said.stderr.starts_with("error: x.huff: truncated: "),
        "{}",
        said.stderr
    );
    assert_eq!(json(&folder, "x.huff", 1)["blocks"], 3);
    folder.write("x.huff", &bytes[..bytes.len() / 2]);
    assert_eq!(json(&folder, "x.huff", 1)["rows"], 16_384);

    folder.write("x.huff", &[&huff(25, 0)[..], &bytes[..5000]].concat());
    let report = json(&folder, "x.huff", 1);
    assert_eq!(
        (&report["rows"], &report["frames"]),
        (&25.into(), &1.into())
    );
    assert_eq!(report["bits"]["no_whole_frame"], 8 * 5000);
    let said = folder.run("inspect --entropy x.huff", 1);
    assert!(
        said.stderr
            .starts_with("error: x.huff: after 25 rows, at byte "),
        "{}",
        said.stderr
    );
    for length in 0..100 {
        folder.write("x.huff", &bytes[..length]);
        let said = folder.run("inspect x.huff", 1);
        assert_eq!(said.stderr.lines().count(), 1, "{}", said.stderr);
    }
}

#[test]
fn files_that_cannot_be_inspected_are_named() {
    let folder = Folder::new();
    folder.write("good.huff", &huff(5, 0));
    folder.write("x.npy", &npy(&matrix(5, 0)));
    folder.fails("inspect x.npy", "x.npy: not a .huff file", "46]");
    folder.fails("inspect nowhere", "nowhere: no such file or folder", "");
    folder.fails("inspect .", ".: a folder", "expected a file");
    let said = folder.run("inspect x.npy good.huff nowhere", 1);
    assert!(said.stdout.starts_with("good.huff: .huff version 13"));
    assert!(said.stderr.starts_with("warning: x.npy: not a .huff file"));
    assert!(
        said.stderr
            .ends_with("error: 2 of 3 files cannot be read or are not whole\n"),
        "{}",
        said.stderr
    );
    let said = folder.run("inspect --json good.huff good.huff", 0);
    assert_eq!(said.stdout.lines().count(), 2);
    assert_eq!(folder.run("inspect -q good.huff", 0).stdout, "");
    folder.run("inspect", 2);
}

#[cfg(unix)]
#[test]
fn pipes_are_refused_and_a_closed_one_is_no_error() {
    use std::process::Stdio;

    let folder = Folder::new();
    folder.write("x.huff", &huff(5, 0));
    let mut child = folder
        .pc("inspect /dev/stdin")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("not a regular file"), "{stderr}");

    let mut child = folder
        .pc("inspect x.huff x.huff")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stderr, b"");
}
