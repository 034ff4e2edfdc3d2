//! `pc decode`, `pc demo` and what all commands share.

use pc::huffman::{Bound, FrameHeader, FrameWriter, Kind, Promise};
use pc::matrix::{PredictionMatrix, argmax};

use crate::common::{Folder, PC, read_npy};

/// `n` rows of three classes.
fn matrix(n: usize) -> PredictionMatrix {
    let rows: Vec<[f32; 3]> = (0..n)
        .map(|i| {
            let p = 0.5 + (i % 50) as f32 / 100.0;
            [1.0 - p, 0.75 * p, 0.25 * p]
        })
        .collect();
    PredictionMatrix::new(3, rows.concat())
}

/// A frame of these rows, in blocks of 16,384.
fn huff(n: usize) -> Vec<u8> {
    let promise = Promise::new(Kind::Probabilities, Bound::MaxError(0.002));
    let header = FrameHeader::new(3, promise).unwrap();
    let mut writer = FrameWriter::new(Vec::new(), header).unwrap();
    writer.write(&matrix(n)).unwrap();
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
fn frames_of_other_bounds_may_follow_but_not_of_another_kind() {
    let folder = Folder::new();
    let frame = |kind, bound| {
        let header = FrameHeader::new(3, Promise::new(kind, bound)).unwrap();
        let mut writer = FrameWriter::new(Vec::new(), header).unwrap();
        writer.write(&matrix(25)).unwrap();
        writer.finish().unwrap().0
    };
    let first = frame(Kind::Probabilities, Bound::Exact);
    let second = frame(Kind::Probabilities, Bound::MaxError(0.1));
    folder.write("ab.huff", &[&first[..], &second].concat());
    let said = folder.run("decode ab.huff", 0);
    assert!(
        said.stdout
            .ends_with("50 rows of 3 probabilities, each as its frame promises\n"),
        "{}",
        said.stdout
    );
    let other = frame(Kind::Values, Bound::MaxError(0.1));
    folder.write("ac.huff", &[&first[..], &other].concat());
    for rows in ["", " --rows 0..5"] {
        folder.fails(
            &format!("decode ac.huff{rows}"),
            "ac.huff: corrupt header: a frame of values follows one of probabilities",
            "",
        );
    }
}

#[test]
fn frames_of_classes_in_another_order_are_told() {
    let folder = Folder::new();
    let named = |names: [&str; 3]| {
        let promise = Promise::new(Kind::Probabilities, Bound::MaxError(0.002));
        let mut header = FrameHeader::new(3, promise).unwrap();
        header.class_names = Some(names.map(str::to_owned).to_vec());
        let mut writer = FrameWriter::new(Vec::new(), header).unwrap();
        writer.write(&matrix(25)).unwrap();
        writer.finish().unwrap().0
    };
    let first = named(["cat", "dog", "owl"]);
    for (other, is_told) in [
        (named(["cat", "dog", "owl"]), false),
        (named(["cat", "owl", "dog"]), true),
        // Other names may be the same classes.
        (named(["cat", "hound", "owl"]), false),
    ] {
        folder.write("ab.huff", &[&first[..], &huff(3), &other].concat());
        for rows in ["", " --rows 0..30"] {
            let said = folder
                .run(&format!("decode ab.huff --force{rows}"), 0)
                .stderr;
            assert_eq!(
                said.contains("the classes in another order"),
                is_told,
                "{said}"
            );
        }
    }
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
    let position = good.len() - 45;
    damaged[position] ^= 1;
    fails(
        &damaged,
        "block 0 (rows 0..25) is damaged: its checksum is ",
        "write the file again",
    );
    let mut newer = good.clone();
    newer[4] = 14;
    fails(
        &newer,
        "format version 14 is newer than this pc supports (13); upgrade pc",
        "",
    );
    fails(
        &[&good[..], b"tail"].concat(),
        &format!("after 25 rows, at byte {}, something follows", good.len()),
        "to keep the rows",
    );
    folder.fails(
        "decode nowhere.huff",
        "nowhere.huff: no such file or folder",
        "",
    );
}

#[test]
fn some_rows_are_decoded_without_the_rest() {
    let folder = Folder::new();
    let good = huff(40_000);
    folder.write("x.huff", &good);
    folder.run("decode x.huff -o all.npy", 0);
    let (_, _, all) = read_npy(&folder.read("all.npy"));
    for (rows, start, end) in [
        ("100..200", 100, 200),
        ("16383..33000", 16_383, 33_000),
        ("39999..", 39_999, 40_000),
        ("..5", 0, 5),
        ("7..7", 7, 7),
    ] {
        for threads in [1, 2] {
            folder.run(
                &format!("decode x.huff -o some.npy --force --rows {rows} --threads {threads}"),
                0,
            );
            let (n_rows, _, some) = read_npy(&folder.read("some.npy"));
            assert_eq!(n_rows, end - start);
            assert_eq!(some, all[3 * start..3 * end], "{rows}");
        }
    }
    folder.fails(
        "decode x.huff -o none.npy --rows 39999..40001",
        "x.huff: rows 39999..40001 are out of range; the file has rows 0..40000",
        "",
    );
    // Damage elsewhere does not matter.
    let mut damaged = good;
    damaged[90] ^= 1;
    folder.write("x.huff", &damaged);
    folder.run("decode x.huff -o other.npy --rows 20000..", 0);
    folder.fails(
        "decode x.huff -o none.npy --rows 9..20000",
        "x.huff: block 0 (rows 0..16384)",
        "",
    );
}

#[test]
fn damaged_blocks_are_skipped_if_asked_for() {
    let folder = Folder::new();
    let good = huff(40_000);
    folder.write("good.huff", &good);
    folder.run("decode good.huff", 0);
    let (_, _, all) = read_npy(&folder.read("good.npy"));
    let mut damaged = good.clone();
    damaged[good.len() / 2] ^= 1;
    folder.write("x.huff", &damaged);
    let said = folder.run("decode x.huff --skip-damaged", 0);
    assert!(
        said.stderr
            .starts_with("warning: x.huff: block 1 (rows 16384..32768) is damaged: ")
            && said.stderr.ends_with("; rows 16384..32768 become NaN\n"),
        "{}",
        said.stderr
    );
    assert!(
        said.stdout
            .ends_with("of the original; 16,384 of them are damaged, and NaN\n"),
        "{}",
        said.stdout
    );
    let (n_rows, _, some) = read_npy(&folder.read("x.npy"));
    assert_eq!(n_rows, 40_000);
    assert_eq!(some[..3 * 16_384], all[..3 * 16_384]);
    assert!(some[3 * 16_384..3 * 32_768].iter().all(|v| v.is_nan()));
    assert_eq!(some[3 * 32_768..], all[3 * 32_768..]);

    // Without an index, all that is whole from the start on.
    folder.write("cut.huff", &good[..good.len() - 50]);
    let said = folder.run("decode cut.huff --skip-damaged", 0);
    assert!(
        said.stderr.starts_with("warning: cut.huff: truncated: ")
            && said.stderr.ends_with("; no rows from 32768 on\n"),
        "{}",
        said.stderr
    );
    assert!(
        said.stdout
            .ends_with("of the original; what came after them is lost\n"),
        "{}",
        said.stdout
    );
    let (n_rows, _, some) = read_npy(&folder.read("cut.npy"));
    assert_eq!(n_rows, 32_768);
    assert_eq!(some, all[..3 * 32_768]);

    // What is being done is not advised.
    folder.write("tail.huff", &[&good[..], b"more"].concat());
    let said = folder.run("decode tail.huff --skip-damaged", 0);
    assert_eq!(
        said.stderr,
        format!(
            "warning: tail.huff: no whole .huff frame at byte {}, as when an append is cut short or the file is damaged; no rows from 40000 on\n",
            good.len()
        )
    );
}

#[test]
fn rows_sum_to_one_if_asked_for() {
    let folder = Folder::new();
    folder.write("x.huff", &huff(500));
    let said = folder.run("decode x.huff --normalize", 0);
    assert!(
        said.stdout.ends_with(", scaled to sum to 1\n"),
        "{}",
        said.stdout
    );
    let (_, _, values) = read_npy(&folder.read("x.npy"));
    for (row, original) in values.chunks(3).zip(matrix(500).rows()) {
        let sum: f64 = row.iter().map(|&p| f64::from(p)).sum();
        assert!((sum - 1.0).abs() < 1e-6);
        assert_eq!(argmax(row), argmax(original));
    }
}

#[test]
fn a_memory_limit_is_kept() {
    let folder = Folder::new();
    folder.write("x.huff", &huff(40_000));
    folder.run("decode x.huff --memory-limit 1M", 0);
    folder.fails(
        "decode x.huff --force --memory-limit 100K",
        "x.huff: a block needs ",
        "raise it with --memory-limit",
    );
}

#[test]
fn matrices_of_any_origin_are_compressed() {
    let folder = Folder::new();
    folder.write("probs.npy", &npy(&matrix(1000)));
    let mut logits = matrix(1000).into_values();
    logits.iter_mut().for_each(|v| *v = v.ln() * 3.0);
    let logits = PredictionMatrix::new(3, logits);
    folder.write("logits.npy", &npy(&logits));
    for (arguments, promise) in [
        (
            "probs.npy",
            Promise::new(Kind::Probabilities, Bound::MaxError(0.002)),
        ),
        (
            "probs.npy --max-kl 1e-3 --keep-top 2",
            Promise {
                keep_top: 2,
                ..Promise::new(Kind::Probabilities, Bound::MaxKl(1e-3))
            },
        ),
        (
            "probs.npy --exact",
            Promise::new(Kind::Probabilities, Bound::Exact),
        ),
        (
            "logits.npy --max-error 0.05",
            Promise::new(Kind::Values, Bound::MaxError(0.05)),
        ),
        (
            "logits.npy --kind logits --exact",
            Promise::new(Kind::Logits, Bound::Exact),
        ),
    ] {
        folder.run(&format!("compress {arguments} -o x.huff --force"), 0);
        folder.run("decode x.huff -o y.npy --force", 0);
        let (_, _, decoded) = read_npy(&folder.read("y.npy"));
        let original = match arguments.starts_with("probs") {
            true => matrix(1000),
            false => logits.clone(),
        };
        for (original, decoded) in original.rows().zip(decoded.chunks(3)) {
            assert!(promise.measure(original, decoded).is_some(), "{arguments}");
        }
    }
    folder.fails(
        "compress logits.npy -o z.huff --kind probabilities",
        "logits.npy: row 0, class 0: ",
        "expected a number from 0 to 1",
    );
    folder.fails(
        "compress logits.npy -o z.huff --max-kl 0.1",
        "logits.npy: --max-kl is for probabilities; take the softmax of logits first",
        "",
    );
    folder.write("cut.npy", &npy(&logits)[..5000]);
    folder.fails(
        "compress cut.npy -o z.huff",
        "cut.npy: truncated: the header promises 12000 bytes of data, the file has ",
        "",
    );
    assert!(!folder.names().contains(&"z.huff".to_owned()));
}

/// A `.npy` file.
fn npy(matrix: &PredictionMatrix) -> Vec<u8> {
    let mut bytes = Vec::new();
    pc::io::npy::write_matrix_header(&mut bytes, matrix.n_rows() as u64, matrix.n_classes())
        .unwrap();
    pc::io::npy::write_f32(&mut bytes, matrix.values()).unwrap();
    bytes
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
    for command in [
        "train",
        "predict",
        "predict-compress",
        "compress",
        "decode",
        "demo",
    ] {
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
    let mut child = Command::new(PC)
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
