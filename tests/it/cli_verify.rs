//! `pc verify`.

use pc::huffman::{Bound, Promise};
use pc::matrix::PredictionMatrix;

use crate::common::{self, Folder};
use crate::frames::{frame, huff, matrix, npy, promise};

#[test]
fn whole_files_are_verified_with_and_without_their_original() {
    let folder = Folder::new();
    for (number, bound) in [Bound::MaxError(0.002), Bound::MaxKl(0.001), Bound::Exact]
        .into_iter()
        .enumerate()
    {
        for keep_top in [1, 3] {
            let promise = Promise {
                keep_top,
                ..promise(bound)
            };
            let mut rows = matrix(40_000, 0).into_values();
            // A row with zeros, which a bound on divergence stores exactly.
            rows[3..6].copy_from_slice(&[0.0, 1.0, 0.0]);
            let rows = PredictionMatrix::new(3, rows);
            // Blocks of a file need not be those that the original is read in.
            let bytes = [
                frame(&rows, promise),
                huff(0, 0),
                frame(&matrix(7, 2), promise),
            ]
            .concat();
            folder.write("x.huff", &bytes);
            let more = matrix(7, 2);
            let all = [rows.values(), more.values()].concat();
            folder.write("x.npy", &npy(&PredictionMatrix::new(3, all)));
            let said = folder.run("verify x.huff", 0);
            assert_eq!(
                said.stdout, "x.huff: 40,007 rows in 4 blocks, all checksums and figures right\n",
                "{number}"
            );
            let said = folder.run("verify x.huff x.npy --threads 2", 0);
            assert_eq!(
                said.stdout,
                "x.huff: 40,007 rows in 4 blocks, all as promised of x.npy\n"
            );
        }
    }
    folder.write("none.huff", &huff(0, 0));
    folder.write("none.npy", &npy(&matrix(0, 0)));
    folder.run("verify none.huff none.npy", 0);
}

#[test]
fn bit_rot_is_found_in_every_byte_and_every_damaged_block_is_named() {
    let folder = Folder::new();
    let good = huff(25, 0);
    for position in 0..good.len() {
        let mut damaged = good.clone();
        damaged[position] ^= 0x10;
        folder.write("x.huff", &damaged);
        folder.run("verify x.huff", 1);
    }
    let good = huff(60_000, 0);
    let mut damaged = good.clone();
    for share in [1, 5] {
        let position = good.len() * share / 8;
        damaged[position] ^= 1;
    }
    folder.write("x.huff", &damaged);
    folder.write("x.npy", &npy(&matrix(60_000, 0)));
    for original in ["", " x.npy"] {
        let said = folder.run(&format!("verify x.huff{original}"), 1);
        let lines: Vec<&str> = said.stderr.lines().collect();
        assert_eq!(lines.len(), 3, "{}", said.stderr);
        assert!(lines[0].starts_with("warning: x.huff: block 0 (rows 0..16384) is damaged"));
        assert!(lines[1].starts_with("warning: x.huff: block 2 (rows 32768..49152) is damaged"));
        assert!(lines[2].starts_with("error: x.huff: 2 of 4 blocks are damaged; "));
    }
}

#[test]
fn the_first_row_that_breaks_a_promise_is_named() {
    let folder = Folder::new();
    let fails = |rows: PredictionMatrix, promise, change: (usize, f32), start: &str, end: &str| {
        folder.write("x.huff", &frame(&rows, promise));
        let mut values = rows.into_values();
        values[change.0] = change.1;
        folder.write("x.npy", &npy(&PredictionMatrix::new(3, values)));
        folder.fails("verify x.huff x.npy", &format!("x.huff: {start}"), end);
    };
    let max_error = promise(Bound::MaxError(0.002));
    let rows = || matrix(40_000, 0);
    fails(
        rows(),
        max_error,
        (3 * 20_000 + 2, 0.99),
        "row 20000, class 2: 0.99 decodes to 0.2",
        " off; at most 2e-3 is promised",
    );
    fails(
        rows(),
        max_error,
        (3 * 39_999, f32::NAN),
        "row 39999, class 0: NaN decodes to 0.",
        " off; at most 2e-3 is promised",
    );
    fails(
        rows(),
        promise(Bound::Exact),
        (4, f32::from_bits(rows().values()[4].to_bits() + 1)),
        "row 1, class 1: 0.",
        "; every bit is promised",
    );
    fails(
        rows(),
        promise(Bound::MaxKl(0.001)),
        (3 * 100 + 1, 0.9),
        "row 100: ",
        " bits of divergence; at most 1e-3 is promised",
    );
    fails(
        PredictionMatrix::new(3, vec![0.40, 0.38, 0.22, 0.5, 0.3, 0.2]),
        promise(Bound::MaxError(0.1)),
        (1, 0.41),
        "row 0: class 1 stands at position 1 by size, class 0 does when decoded; ",
        "the first 1 are promised",
    );
    fails(
        PredictionMatrix::new(3, vec![0.5, 0.3, 0.2, 0.5, 0.26, 0.24]),
        Promise {
            keep_top: 2,
            ..promise(Bound::MaxError(0.1))
        },
        (5, 0.265),
        "row 1: class 2 stands at position 2 by size, class 1 does when decoded; ",
        "the first 2 are promised",
    );
}

#[test]
fn rows_and_classes_must_be_as_many() {
    let folder = Folder::new();
    folder.write("x.huff", &huff(25, 0));
    folder.write("rows.npy", &npy(&matrix(24, 0)));
    let wide = PredictionMatrix::new(5, matrix(25, 0).into_values());
    folder.write("classes.npy", &npy(&wide));
    folder.fails(
        "verify x.huff rows.npy",
        "rows.npy: 24 rows; x.huff has 25",
        "",
    );
    folder.fails(
        "verify x.huff classes.npy",
        "classes.npy: 5 classes; x.huff has 3",
        "",
    );
    folder.write("cut.npy", &npy(&matrix(25, 0))[..200]);
    folder.fails(
        "verify x.huff cut.npy",
        "cut.npy: truncated: ",
        "write it again",
    );
}

/// A file with another figure in its index: `from_end` bytes before its checksum.
fn with_figure(mut bytes: Vec<u8>, from_end: usize, figure: &[u8]) -> Vec<u8> {
    let end = bytes.len() - 12;
    let n_index = u32::from_le_bytes(bytes[end + 4..end + 8].try_into().unwrap()) as usize;
    bytes[end - from_end..end - from_end + figure.len()].copy_from_slice(figure);
    let checksum = crc32fast::hash(&bytes[end + 12 - n_index..end]);
    bytes[end..end + 4].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn figures_of_the_index_must_be_those_of_the_rows() {
    let folder = Folder::new();
    folder.write("x.npy", &npy(&matrix(25, 0)));
    let bytes = with_figure(huff(25, 0), 8, &0.001_999f64.to_le_bytes());
    folder.write("x.huff", &bytes);
    folder.run("verify x.huff", 0);
    folder.fails(
        "verify x.huff x.npy",
        "x.huff: the index states a largest error of 1.999e-3, found ",
        "the index is wrong",
    );
    folder.write("x.huff", &with_figure(huff(25, 0), 9, &[1]));
    folder.fails(
        "verify x.huff",
        "x.huff: the index states 1 rows stored exactly, found 0",
        "again",
    );
}

#[test]
fn what_follows_the_last_whole_frame_is_told() {
    let folder = Folder::new();
    let good = huff(25, 0);
    folder.write("x.huff", &[&good[..], &huff(9, 1)[..50]].concat());
    folder.fails(
        "verify x.huff",
        &format!("x.huff: after 25 rows, at byte {}, ", good.len()),
        "to keep the rows",
    );
    folder.write("x.huff", &good[..good.len() - 1]);
    folder.fails("verify x.huff", "x.huff: truncated: ", "again");
    folder.write("x.huff", b"hello, this is text");
    folder.fails("verify x.huff", "x.huff: not a .huff file", "");
    folder.fails("verify nowhere", "nowhere: no such file or folder", "");
    folder.fails("verify .", ".: a folder; ", "a file");
    folder.write("x.huff", &good);
    folder.fails(
        "verify x.huff nowhere",
        "nowhere: no such file or folder",
        "",
    );
    folder.fails("verify x.huff x.huff", "x.huff: ", "");
    folder.fails("verify x.huff --memory-limit 100", "x.huff: ", "");
}

#[cfg(unix)]
#[test]
fn a_pipe_is_verified_as_it_comes() {
    use std::io::Write;
    use std::process::Stdio;

    let folder = Folder::new();
    folder.write("x.npy", &npy(&matrix(40_000, 0)));
    let run = |bytes: &[u8], arguments: &str| {
        let mut child = folder
            .pc(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may have seen enough before the end.
        let _ = child.stdin.take().unwrap().write_all(bytes);
        let output = child.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let good = huff(40_000, 0);
    let (code, text) = run(&good, "verify /dev/stdin x.npy");
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.starts_with("/dev/stdin: 40,000 rows in 3 blocks"),
        "{text}"
    );
    let (code, text) = run(&[&good[..], &good].concat(), "verify /dev/stdin x.npy");
    assert_eq!(code, Some(1));
    assert!(
        text.contains("x.npy: 40000 rows; the file has more"),
        "{text}"
    );
    let (code, text) = run(&huff(20_000, 0), "verify /dev/stdin x.npy");
    assert_eq!(code, Some(1));
    assert!(
        text.contains("x.npy: 40000 rows; the file has 20000"),
        "{text}"
    );
    let (code, text) = run(&good[..good.len() - 3], "verify /dev/stdin");
    assert_eq!(code, Some(1));
    assert!(text.contains("truncated: "), "{text}");
}

#[test]
fn every_bit_of_float64_counts_for_exact_files() {
    let folder = Folder::new();
    let exact = [0.5f64, 0.25, f64::from(0.1f32), 0.75];
    let other = [0.5f64, 0.25, 0.1, 0.75];
    let write = |name: &str, values: [f64; 4]| {
        folder.write(
            name,
            &common::npy(
                "<f8",
                false,
                &[2, 2],
                &values.map(f64::to_le_bytes).concat(),
            ),
        );
    };
    write("exact.npy", exact);
    write("other.npy", other);
    folder.write("x.csv", b"0.5,0.25\n0.1,0.75\n");
    folder.run("compress exact.npy -o x.huff --exact --kind values", 0);
    folder.run("verify x.huff exact.npy", 0);
    // A text says the float32 that prints like it.
    folder.run("verify x.huff x.csv", 0);
    folder.fails(
        "verify x.huff other.npy",
        "x.huff: row 1, class 0: 0.1 decodes to 0.1; every bit is promised",
        "",
    );
}

#[test]
fn values_finer_than_float32_are_verified_without_the_original() {
    let folder = Folder::new();
    // Of 1, no multiples are near enough: all bits count. They are fractions, or any numbers.
    for (name, of) in [("few", 4.0f32), ("many", 1e7 / 3.0)] {
        let values = (0..900u32).map(|i| ((i * 7919 % 5) as f32 / of).to_le_bytes());
        let values: Vec<u8> = values.flatten().collect();
        folder.write(
            &format!("{name}.npy"),
            &common::npy("<f4", false, &[300, 3], &values),
        );
        folder.run(
            &format!("compress {name}.npy -o {name}.huff --kind values --max-error 1e-7"),
            0,
        );
        folder.run(&format!("verify {name}.huff"), 0);
        folder.run(&format!("verify {name}.huff {name}.npy"), 0);
    }
}
