//! `pc decode`, `pc demo` and what all commands share.

use pc::huffman::{FrameHeader, FrameWriter};
use pc::matrix::PredictionMatrix;

use crate::common::{Folder, read_npy};

/// A frame of `n` rows of three classes, from blocks of ten rows.
fn huff(n: usize) -> Vec<u8> {
    let header = FrameHeader::probabilities(3, 0.002).unwrap();
    let mut writer = FrameWriter::new(Vec::new(), header).unwrap();
    let rows: Vec<[f32; 3]> = (0..n)
        .map(|i| {
            let p = 0.5 + (i % 50) as f32 / 100.0;
            [1.0 - p, 0.75 * p, 0.25 * p]
        })
        .collect();
    for rows in rows.chunks(10) {
        writer
            .write_block(&PredictionMatrix::new(3, rows.concat()))
            .unwrap();
    }
    writer.finish().unwrap().0
}

#[test]
fn the_output_is_named_after_the_input() {
    let folder = Folder::new();
    folder.write("out.huff", &huff(25));
    folder.write("preds.v1", &huff(25));
    folder.run("decode out.huff", 0);
    folder.run("decode preds.v1", 0);
    let said = folder.run("decode out.huff -o other.npy", 0);
    assert!(
        said.stdout
            .starts_with("wrote other.npy: 25 rows of 3 probabilities, each within "),
        "{}",
        said.stdout
    );
    assert_eq!(
        folder.names(),
        [
            "other.npy",
            "out.huff",
            "out.npy",
            "preds.v1",
            "preds.v1.npy"
        ]
    );
    let (n_rows, n_columns, values) = read_npy(&folder.read("out.npy"));
    assert_eq!((n_rows, n_columns), (25, 3));
    assert!((values[0] - 0.5).abs() <= 0.002);
    assert_eq!(folder.read("out.npy"), folder.read("other.npy"));
}

#[test]
fn concatenated_files_decode_as_the_rows_of_one_then_the_other() {
    let folder = Folder::new();
    let both = [huff(25), huff(7)].concat();
    folder.write("ab.huff", &both);
    folder.run("decode ab.huff", 0);
    let (n_rows, _, values) = read_npy(&folder.read("ab.npy"));
    assert_eq!(n_rows, 32);
    assert_eq!(values[..21], values[75..]);
}

#[test]
fn damaged_truncated_and_foreign_files_are_named() {
    let folder = Folder::new();
    let good = huff(25);
    let fails = |bytes: &[u8], start: &str, end: &str| {
        folder.write("x.huff", bytes);
        folder.fails("decode x.huff", &format!("x.huff: {start}"), end);
    };
    fails(
        b"\x93NUMPY\x01\x00",
        "not a .huff file: it starts with the bytes [93, 4e, 55, 4d], expected [89, 48, 55, 46]",
        "",
    );
    fails(b"", "the file is empty; expected a .huff file", "");
    fails(
        &good[..good.len() - 1],
        "truncated: the file ends inside the index; copy or write it again",
        "",
    );
    fails(
        &good[..good.len() / 2],
        "truncated: the file ends inside",
        "",
    );
    let mut damaged = good.clone();
    let position = good.len() - 60;
    damaged[position] ^= 1;
    fails(
        &damaged,
        "block 2 (rows 20..25) is damaged: its checksum is ",
        "write the file again",
    );
    let mut newer = good.clone();
    newer[4] = 7;
    fails(
        &newer,
        "format version 7 is newer than this pc supports (1); upgrade pc",
        "",
    );
    fails(
        &[&good[..], b"tail"].concat(),
        &format!("after 25 rows, at byte {}, something follows", good.len()),
        "to keep the rows",
    );
    folder.fails(
        "decode nowhere.huff",
        "cannot open nowhere.huff: No such file",
        "",
    );
}

#[test]
fn an_existing_output_and_the_input_are_kept() {
    let folder = Folder::new();
    folder.write("out.huff", &huff(25));
    folder.write("out.npy", b"precious");
    folder.write("same.npy", &huff(5));
    folder.fails(
        "decode out.huff",
        "out.npy exists already",
        "--force to replace it",
    );
    folder.fails(
        "decode same.npy -o ./same.npy --force",
        "./same.npy is the input as well as the output",
        "-o",
    );
    folder.write("out.huff", &huff(25)[..50]);
    folder.fails("decode out.huff --force", "out.huff: truncated", "");
    assert_eq!(folder.read("out.npy"), b"precious");
}

#[test]
fn the_demo_goes_the_whole_road() {
    let folder = Folder::new();
    let said = folder.run("demo --epochs 1 --hidden 8", 0);
    for text in [
        "epoch 1/1",
        "rows           1,000",
        "argmax kept    in all 1,000 rows",
        "float32 .npy         400,128        400.13        0.000000",
        "float16, gzip",
        ".huff",
    ] {
        assert!(said.stdout.contains(text), "{text}\n{}", said.stdout);
    }
    // The accuracy, in the last column, is the same before and after.
    let accuracy = |name: &str| {
        let line = said
            .stdout
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap();
        line.split_whitespace().last().unwrap().to_owned()
    };
    assert_eq!(accuracy("float32 .npy "), accuracy(".huff "));
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn usage_errors_exit_with_2_and_help_with_0() {
    let folder = Folder::new();
    for arguments in [
        "",
        "decode",
        "nonsense",
        "decode a --nonsense",
        "train --epochs 0",
    ] {
        let said = folder.run(arguments, 2);
        assert_eq!(said.stdout, "");
        assert!(!said.stderr.is_empty());
    }
    for command in ["train", "predict", "predict-compress", "decode", "demo"] {
        let said = folder.run(&format!("{command} --help"), 0);
        assert!(
            said.stdout.contains(&format!("Usage: pc {command}")),
            "{}",
            said.stdout
        );
    }
    let help = folder.run("train --help", 0).stdout;
    assert!(help.contains("bit for bit, on one machine"), "{help}");
    assert_eq!(
        folder.run("--version", 0).stdout,
        concat!("pc ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[cfg(unix)]
#[test]
fn a_closed_pipe_is_not_an_error() {
    use std::process::{Command, Stdio};

    let folder = Folder::new();
    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("pc"))
        .args(["demo", "--epochs", "2", "--hidden", "8"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
