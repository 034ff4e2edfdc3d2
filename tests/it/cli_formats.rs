//! Every format in and out, pipes, and what float64 asks for. tests/python/check_formats.py does the same with
//! files that NumPy, pandas and pyarrow have written.

use std::io::Write;
use std::process::{Command, Stdio};

use pc::io::npy;
use pc::io::sink::{self, Batch, Content};
use pc::matrix::{PredictionMatrix, argmax};
use proptest::prelude::*;

use crate::common::{Folder, PC, idx, npy, read_npy};

const FORMATS: [&str; 6] = ["npy", "npz", "csv", "jsonl", "parquet", "arrow"];
/// The formats that are read back.
const READ: [&str; 5] = ["npy", "npz", "csv", "parquet", "arrow"];

/// `n` rows of `n_classes` probabilities.
fn matrix(n: usize, n_classes: usize) -> PredictionMatrix {
    let mut values = Vec::new();
    for row in 0..n {
        let weights: Vec<f32> = (0..n_classes)
            .map(|class| {
                ((row * 31 + class * 17) % 23) as f32
                    + if class == row % n_classes { 50.0 } else { 0.0 }
            })
            .collect();
        let sum: f32 = weights.iter().sum();
        values.extend(weights.iter().map(|weight| weight / sum));
    }
    PredictionMatrix::new(n_classes, values)
}

/// A file of a matrix in a format.
fn file(format: &str, matrix: &PredictionMatrix, class_names: Option<Vec<String>>) -> Vec<u8> {
    let content = Content::Matrix {
        kind: "probabilities".to_owned(),
        n_classes: matrix.n_classes(),
        class_names,
    };
    let format = format.parse().unwrap();
    let mut sink = sink::create(Vec::new(), format, content, matrix.n_rows() as u64).unwrap();
    sink.write(Batch::Matrix(matrix.view())).unwrap();
    sink.finish().unwrap()
}

fn npy_f64(rows: &[f64], n_classes: usize) -> Vec<u8> {
    let data: Vec<u8> = rows.iter().flat_map(|value| value.to_le_bytes()).collect();
    npy("<f8", false, &[rows.len() / n_classes, n_classes], &data)
}

/// What `pc` writes to stdout when it is given something on stdin, and what it says.
fn pipe(folder: &Folder, arguments: &str, input: &[u8]) -> (Option<i32>, Vec<u8>, String) {
    let mut child = folder
        .pc(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // It may have seen enough.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), output.stdout, stderr)
}

fn assert_close(decoded: &[f32], original: &PredictionMatrix, max_error: f32) {
    assert_eq!(decoded.len(), original.values().len());
    for (decoded, original) in decoded.chunks(original.n_classes()).zip(original.rows()) {
        assert_eq!(argmax(decoded), argmax(original));
        for (a, b) in decoded.iter().zip(original) {
            assert!((a - b).abs() <= max_error);
        }
    }
}

#[test]
fn every_format_is_compressed_from_files_and_pipes() {
    let folder = Folder::new();
    let matrix = matrix(500, 5);
    for format in READ {
        let name = format!("in.{format}");
        // Extensions are not looked at.
        for name in [name.as_str(), "in.whatever"] {
            folder.write(name, &file(format, &matrix, None));
            folder.run(&format!("compress {name} -o x.huff --force"), 0);
            folder.run("decode x.huff -o x.npy --force", 0);
            assert_close(&read_npy(&folder.read("x.npy")).2, &matrix, 0.002);
        }
        let (code, huff, said) = pipe(&folder, "compress - -o -", &file(format, &matrix, None));
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(huff, folder.read("x.huff"), "{format}");
        assert!(
            said.starts_with("wrote standard output\n  rows           500\n"),
            "{said}"
        );
    }
}

#[test]
fn every_format_is_written_to_files_and_pipes() {
    let folder = Folder::new();
    let matrix = matrix(3000, 3);
    let names = ["cat", "dog, big", "7"].map(str::to_owned).to_vec();
    folder.write("in.npy", &file("npy", &matrix, None));
    folder.write("names.txt", "cat\ndog, big\n7\n".as_bytes());
    folder.run("compress in.npy -o x.huff --class-names names.txt", 0);
    folder.run("decode x.huff", 0);
    let (_, _, all) = read_npy(&folder.read("x.npy"));
    assert_close(&all, &matrix, 0.002);
    let decoded = PredictionMatrix::new(3, all);
    let huff = folder.read("x.huff");
    for format in FORMATS {
        let expected = file(format, &decoded, Some(names.clone()));
        folder.run(&format!("decode x.huff -o out.{format}"), 0);
        folder.run(
            &format!("decode x.huff -o out.bin --format {format} --force"),
            0,
        );
        assert!(
            folder.read(&format!("out.{format}")) == expected,
            "{format}"
        );
        assert!(folder.read("out.bin") == expected, "{format}");
        for arguments in ["decode x.huff -o -", "decode - -o -", "decode -"] {
            let (code, found, said) =
                pipe(&folder, &format!("{arguments} --format {format}"), &huff);
            assert_eq!(code, Some(0), "{said}");
            assert!(found == expected, "{arguments} {format}");
            assert!(
                said.starts_with("wrote standard output: 3,000 rows"),
                "{said}"
            );
        }
        let some = PredictionMatrix::new(3, decoded.values()[30..60].to_vec());
        let expected = file(format, &some, Some(names.clone()));
        for arguments in ["x.huff -o -", "-"] {
            let arguments = format!("decode {arguments} --rows 10..20 --format {format}");
            let (_, found, _) = pipe(&folder, &arguments, &huff);
            assert!(found == expected, "{arguments}");
        }
        let mut scaled = decoded.clone();
        scaled.normalize();
        let arguments = format!("decode x.huff -o - --normalize --format {format}");
        let (_, found, _) = pipe(&folder, &arguments, &[]);
        assert!(
            found == file(format, &scaled, Some(names.clone())),
            "{arguments}"
        );
    }
    folder.run("decode x.huff --format csv", 0);
    assert!(folder.read("x.csv").starts_with(b"cat,\"dog, big\",7\n"));
    folder.fails(
        "decode x.huff -o x.json",
        "x.json: no format has this extension; expected .npy, ",
        "--format",
    );
}

#[test]
fn labels_and_first_classes_are_written_without_the_rest() {
    let folder = Folder::new();
    let matrix = matrix(40, 4);
    folder.write("in.npy", &file("npy", &matrix, None));
    folder.run("compress in.npy -o x.huff --exact", 0);
    let labels: Vec<usize> = matrix.rows().map(argmax).collect();
    let lines: String = labels.iter().map(|label| format!("{label}\n")).collect();
    folder.run("decode x.huff -o l.csv --labels", 0);
    folder.run("decode x.huff -o l.jsonl --labels", 0);
    folder.run("decode x.huff -o l.npy --labels", 0);
    assert_eq!(folder.read("l.csv"), lines.as_bytes());
    assert_eq!(folder.read("l.jsonl"), lines.as_bytes());
    let bytes = folder.read("l.npy");
    assert!(
        String::from_utf8_lossy(&bytes[..128])
            .contains("'<i8', 'fortran_order': False, 'shape': (40,)")
    );
    let words = bytes[128..]
        .chunks(8)
        .map(|word| i64::from_le_bytes(word.try_into().unwrap()));
    assert!(words.eq(labels.iter().map(|&label| label as i64)));

    folder.run("decode x.huff -o t.csv --top 2 --rows ..1", 0);
    let row = matrix.rows().next().unwrap();
    let mut order: Vec<usize> = (0..4).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
    let text = String::from_utf8(folder.read("t.csv")).unwrap();
    let expected = format!(
        "class_1,p_1,class_2,p_2\n{},{},{},{}\n",
        order[0], row[order[0]], order[1], row[order[1]]
    );
    assert_eq!(text, expected);
    folder.run("decode x.huff -o t.npz --top 4", 0);
    folder.fails(
        "decode x.huff -o t.npy --top 2",
        "one .npy array cannot hold",
        "--format npz holds two",
    );
    folder.fails(
        "decode x.huff -o u.csv --top 5",
        "x.huff: --top 5 of 4 classes",
        "",
    );
    folder.run("decode x.huff -o u.csv --top 2 --labels", 2);
}

#[test]
fn damaged_rows_have_no_label() {
    let folder = Folder::new();
    folder.write("in.npy", &file("npy", &matrix(40_000, 3), None));
    folder.run("compress in.npy -o x.huff --exact", 0);
    let mut bytes = folder.read("x.huff");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    folder.write("x.huff", &bytes);
    for (format, lost) in [("csv", "nan,nan,nan"), ("jsonl", "[null,null,null]")] {
        let (code, out, said) = pipe(
            &folder,
            &format!("decode x.huff -o - --skip-damaged --format {format}"),
            &[],
        );
        assert_eq!(code, Some(0));
        assert!(
            said.starts_with("warning: x.huff: block 1 (rows 16384..32768)"),
            "{said}"
        );
        let lines: Vec<&str> = str::from_utf8(&out).unwrap().lines().collect();
        assert_eq!(lines.len(), 40_000);
        assert!(lines[16_384..32_768].iter().all(|line| *line == lost));
        assert_ne!(lines[32_768], lost);
    }
    for format in FORMATS {
        folder.run(
            &format!("decode x.huff -o l.{format} --labels --skip-damaged"),
            0,
        );
    }
    let labels = String::from_utf8(folder.read("l.csv")).unwrap();
    assert_eq!(labels.lines().filter(|line| *line == "-1").count(), 16_384);
    // Without an index, rows are counted before they are written.
    folder.write("cut.huff", &bytes[..bytes.len() - 20]);
    let (code, out, _) = pipe(&folder, "decode cut.huff -o - --skip-damaged", &[]);
    assert_eq!(code, Some(0));
    assert_eq!(read_npy(&out).0, 16_384);
    let (code, _, said) = pipe(
        &folder,
        "decode - --skip-damaged --format npz",
        &bytes[..bytes.len() - 20],
    );
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn npy_of_every_type_and_order_is_the_same_matrix() {
    let folder = Folder::new();
    let original = matrix(700, 6);
    let by_column: Vec<f32> = (0..6)
        .flat_map(|class| original.rows().map(move |row| row[class]))
        .collect();
    let bytes = |descr: &str, values: &[f32]| -> Vec<u8> {
        let bytes = |&value: &f32| match descr {
            "<f4" => value.to_le_bytes().to_vec(),
            ">f4" => value.to_be_bytes().to_vec(),
            "<f8" => f64::from(value).to_le_bytes().to_vec(),
            ">f8" => f64::from(value).to_be_bytes().to_vec(),
            "<f2" => half::f16::from_f32(value).to_le_bytes().to_vec(),
            _ => half::f16::from_f32(value).to_be_bytes().to_vec(),
        };
        values.iter().flat_map(bytes).collect()
    };
    for descr in ["<f4", ">f4", "<f8", ">f8", "<f2", ">f2"] {
        let plain = npy(descr, false, &[700, 6], &bytes(descr, original.values()));
        let fortran = npy(descr, true, &[700, 6], &bytes(descr, &by_column));
        folder.write("c.npy", &plain);
        folder.write("f.npy", &fortran);
        folder.write("f.npz", &zip(&[("x", &fortran)]));
        folder.write("f.npy.gz", &gzip(&fortran));
        folder.run("compress c.npy -o c.huff --exact --force", 0);
        folder.run("decode c.huff -o d.npy --force", 0);
        let (_, _, decoded) = read_npy(&folder.read("d.npy"));
        match descr.ends_with("f2") {
            true => assert_close(&decoded, &original, 5e-4),
            false => assert_eq!(decoded, original.values()),
        }
        for name in ["f.npy", "f.npz", "f.npy.gz"] {
            folder.run(&format!("compress {name} -o f.huff --exact --force"), 0);
            assert!(
                folder.read("f.huff") == folder.read("c.huff"),
                "{descr} {name}"
            );
        }
        let (code, huff, said) = pipe(&folder, "compress - -o - --exact", &fortran);
        assert_eq!(code, Some(0), "{said}");
        assert!(huff == folder.read("c.huff"));
    }
}

fn zip(arrays: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in arrays {
        let options = zip::write::SimpleFileOptions::default();
        archive.start_file(format!("{name}.npy"), options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn arrays_that_are_no_matrix_of_floats_are_refused() {
    let folder = Folder::new();
    let fails = |bytes: &[u8], start: &str, end: &str| {
        folder.write("x.npy", bytes);
        folder.fails("compress x.npy -o x.huff", &format!("x.npy: {start}"), end);
    };
    fails(
        &npy("<i8", false, &[1, 2], &[0; 16]),
        "dtype i64; expected f16, f32 or f64",
        "makes them floats",
    );
    fails(
        &npy("<f4", false, &[4], &[0; 16]),
        "shape [4]; expected (rows, classes); ",
        "one row",
    );
    fails(
        &npy("<f4", false, &[1, 2, 2], &[0; 16]),
        "shape [1, 2, 2]; expected (rows, classes); x.reshape(-1, x.shape[-1]) makes rows of what has its classes last",
        "",
    );
    fails(
        &npy("<f4", false, &[4, 0], &[]),
        "shape [4, 0]; expected (rows, classes), with one class or more",
        "",
    );
    fails(
        &npy("<f4", false, &[1, 2_000_000], &[0; 16]),
        "truncated: ",
        "",
    );
    fails(
        &npy("|O", false, &[1, 2], &[0; 16]),
        "an array of Python objects is a pickle",
        "",
    );
    fails(
        &npy("<f4", false, &[1, 3], &[0; 13]),
        "more data than the 12 bytes",
        "",
    );
    fails(
        &npy("<f4", true, &[1, 3], &[0; 11]),
        "truncated: the header promises 12 bytes of data, the file has 11",
        "",
    );
    let huge = npy("<f4", false, &[usize::MAX / 8, 1 << 20], &[0; 16]);
    fails(&huge, "truncated: ", "");
    // What a pipe promises is believed only as it comes.
    for bytes in [&huge, &npy("<f8", true, &[1 << 50, 3], &[0; 16])] {
        let (code, _, said) = pipe(&folder, "compress - -o -", bytes);
        assert_eq!(code, Some(1));
        assert!(
            said.starts_with("error: standard input: truncated: "),
            "{said}"
        );
    }
}

#[test]
fn an_array_of_an_archive_is_named_or_the_only_one() {
    let folder = Folder::new();
    let one = file("npy", &matrix(20, 3), None);
    let two = file("npy", &matrix(30, 4), None);
    folder.write("two.npz", &zip(&[("p", &one), ("q", &two)]));
    folder.write("one.npz", &zip(&[("p", &one)]));
    folder.write("none.npz", &zip(&[]));
    folder.fails(
        "compress two.npz -o x.huff",
        "two.npz: this .npz holds several arrays; name one with --array: p, q",
        "",
    );
    folder.fails(
        "compress two.npz -o x.huff --array r",
        "two.npz: no array \"r\" in this .npz; it holds p, q",
        "",
    );
    folder.fails(
        "compress none.npz -o x.huff",
        "none.npz: no array in this archive",
        "",
    );
    folder.run("compress two.npz -o x.huff --array q", 0);
    folder.run("decode x.huff", 0);
    assert_eq!(read_npy(&folder.read("x.npy")).0, 30);
    folder.run("compress one.npz -o y.huff", 0);
    folder.write("in.csv", b"0.5,0.5\n");
    folder.fails(
        "compress in.csv -o z.huff --array q",
        "in.csv: --array is for .npz; this is CSV",
        "leave it out",
    );
    folder.write("p.npy", &one);
    folder.fails(
        "compress p.npy -o z.huff --columns a",
        "p.npy: --columns is for CSV, Parquet",
        "leave it out",
    );
}

#[test]
fn what_is_wrong_with_text_is_named_by_line_and_column() {
    let folder = Folder::new();
    for (text, message) in [
        (
            "a,b\n0.5,0.5\n0.5,\n",
            "line 3, column 2: an empty cell; expected a number",
        ),
        (
            "a,b\n0.5,0.5\nnan,0\n",
            "line 3, column 1: \"nan\"; expected a number",
        ),
        (
            "0.5,0.5\n0.5\n",
            "line 2: 1 column; expected 2, as in the lines before",
        ),
        (
            "0.5,0.5\n0.5,x\n",
            "line 2, column 2: \"x\"; expected a number",
        ),
        (",0,1\n0,0.5,0.5\n", "line 1: the first column has no name"),
        ("\n", "the file is empty"),
        ("", "the file is empty"),
    ] {
        folder.write("x.csv", text.as_bytes());
        folder.fails("compress x.csv -o x.huff", &format!("x.csv: {message}"), "");
    }
    folder.write("x.bin", b"\x00\x01\x02");
    folder.fails(
        "compress x.bin -o x.huff",
        "x.bin: unknown format: it starts with the bytes [00, 01, 02]",
        "",
    );
    folder.write("x.pkl", b"\x80\x04\x95\x00");
    folder.fails(
        "compress x.pkl -o x.huff",
        "x.pkl: a Python pickle can run code",
        "",
    );
}

#[test]
fn class_names_come_from_the_header_or_a_file() {
    let folder = Folder::new();
    folder.write("x.csv", b"cat,dog,id\n0.25,0.75,5\n0.5,0.5,6\n");
    folder.run("compress x.csv -o x.huff --columns dog,cat", 0);
    folder.run("decode x.huff -o y.csv", 0);
    let text = String::from_utf8(folder.read("y.csv")).unwrap();
    assert!(text.starts_with("dog,cat\n"), "{text}");
    folder.write("names.txt", b"a\nb\n");
    folder.run(
        "compress x.csv -o z.huff --columns dog,cat --class-names names.txt",
        0,
    );
    folder.run("decode z.huff -o z.csv", 0);
    assert!(folder.read("z.csv").starts_with(b"a,b\n"));
    folder.fails(
        "compress x.csv -o w.huff --columns dog --class-names names.txt",
        "names.txt: 2 class names; expected 1",
        "",
    );
    folder.fails(
        "compress x.csv -o w.huff",
        "x.csv: column \"id\" holds integers, others do not",
        "as in --columns 'p_*'",
    );
    folder.fails(
        "compress x.csv -o w.huff --columns cow",
        "x.csv: no column \"cow\"; there are cat, dog, id",
        "",
    );
    // A header of numbers, if one is told so.
    folder.write("n.csv", b"3,4\n0.5,0.5\n");
    folder.run("compress n.csv -o n.huff --csv-header yes", 0);
    folder.run("decode n.huff -o n.out.csv", 0);
    assert!(folder.read("n.out.csv").starts_with(b"3,4\n"));
}

#[cfg(feature = "arrow")]
mod tables {
    use std::sync::Arc;

    use arrow_array::types::Float32Type;
    use arrow_array::{
        ArrayRef, FixedSizeListArray, Float32Array, Float64Array, Int64Array, ListArray,
        RecordBatch,
    };
    use arrow_ipc::writer::{FileWriter, StreamWriter};
    use parquet::arrow::ArrowWriter;

    use super::*;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter(columns).unwrap()
    }

    /// The batch in Parquet, an Arrow file and an Arrow stream.
    fn files(batch: &RecordBatch) -> [Vec<u8>; 3] {
        let mut parquet = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        parquet.write(batch).unwrap();
        let mut file = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        file.write(batch).unwrap();
        let mut stream = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        stream.write(batch).unwrap();
        [
            parquet.into_inner().unwrap(),
            file.into_inner().unwrap(),
            stream.into_inner().unwrap(),
        ]
    }

    fn fails(batch: &RecordBatch, arguments: &str, start: &str, end: &str) {
        let folder = Folder::new();
        for bytes in files(batch) {
            folder.write("x", &bytes);
            folder.fails(
                &format!("compress x -o x.huff {arguments}"),
                &format!("x: {start}"),
                end,
            );
        }
    }

    #[test]
    fn columns_that_are_no_classes_are_named() {
        let p = Arc::new(Float64Array::from(vec![0.5, 0.25])) as ArrayRef;
        let q = Arc::new(Float32Array::from(vec![0.5, 0.75])) as ArrayRef;
        let id = Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef;
        let gap = Arc::new(Float32Array::from(vec![Some(0.5), None])) as ArrayRef;
        let mixed = batch(vec![("id", id), ("p_a", p), ("p_b", q.clone())]);
        fails(
            &mixed,
            "",
            "column \"id\" is Int64; expected columns of floats",
            "--columns 'p_*'",
        );
        fails(
            &mixed,
            "--columns z",
            "no column \"z\"; there are id, p_a, p_b",
            "",
        );
        let folder = Folder::new();
        for bytes in files(&mixed) {
            folder.write("x", &bytes);
            folder.run("compress x -o x.huff --columns p_* --force", 0);
            folder.run("decode x.huff -o x.csv --force", 0);
            assert!(folder.read("x.csv").starts_with(b"p_a,p_b\n0.5"));
        }
        fails(
            &batch(vec![("a", q), ("b", gap)]),
            "",
            "row 1, column b: no value (null)",
            "drop it first",
        );
    }

    #[test]
    fn lists_are_rows() {
        let rows = |rows: &[&[f32]]| {
            let lists = rows.iter().map(|row| Some(row.iter().map(|&v| Some(v))));
            Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(lists)) as ArrayRef
        };
        let folder = Folder::new();
        let good = batch(vec![("p", rows(&[&[0.5, 0.5], &[0.25, 0.75]]))]);
        let fixed = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(
            [[0.5f32, 0.5], [0.25, 0.75]]
                .iter()
                .map(|row| Some(row.iter().map(|&v| Some(v)))),
            2,
        );
        let fixed = batch(vec![("p", Arc::new(fixed) as ArrayRef)]);
        for bytes in files(&good).into_iter().chain(files(&fixed)) {
            folder.write("x", &bytes);
            folder.run("compress x -o x.huff --force --exact", 0);
            folder.run("decode x.huff -o x.npy --force", 0);
            assert_eq!(read_npy(&folder.read("x.npy")).2, [0.5, 0.5, 0.25, 0.75]);
        }
        let ragged = batch(vec![("p", rows(&[&[0.5, 0.5], &[1.0]]))]);
        fails(&ragged, "", "row 1: a list of 1 values; expected 2", "");
        fails(
            &batch(vec![("p", rows(&[]))]),
            "",
            "no rows, so nothing tells the number of classes",
            "",
        );
    }

    #[test]
    fn damaged_tables_are_errors() {
        let folder = Folder::new();
        let columns = (0..3).map(|class| {
            let values = matrix(200, 3)
                .rows()
                .map(|row| row[class])
                .collect::<Vec<_>>();
            (
                ["a", "b", "c"][class],
                Arc::new(Float32Array::from(values)) as ArrayRef,
            )
        });
        for bytes in files(&batch(columns.collect())) {
            for position in (8..bytes.len()).step_by(bytes.len() / 40) {
                let mut damaged = bytes.clone();
                damaged[position] ^= 0x5A;
                // Not all damage can be seen; whatever comes is an exit code and a line at most.
                let (code, _, said) =
                    pipe(&folder, "compress - -o - --kind values --quiet", &damaged);
                assert!(matches!(code, Some(0 | 1)), "{position}: {code:?} {said}");
                assert!(
                    said.lines().count() <= 1 && !said.contains("panicked"),
                    "{said}"
                );
            }
        }
    }
}

#[test]
fn truncated_files_of_every_format_are_errors() {
    let folder = Folder::new();
    let matrix = matrix(300, 4);
    for format in READ {
        let bytes = file(format, &matrix, None);
        // The magic of every format is seven bytes or fewer; less than that may be a column's name.
        for part in [
            7,
            8,
            20,
            100,
            bytes.len() / 2,
            bytes.len() - 9,
            bytes.len() - 1,
        ] {
            let (code, _, said) = pipe(&folder, "compress - -o -", &bytes[..part]);
            if format == "csv" && code == Some(0) {
                // A text that ends with a shorter number is a text.
                continue;
            }
            assert_eq!(code, Some(1), "{format} {part}");
            assert!(
                said.starts_with("error: standard input: ") && said.lines().count() == 1,
                "{said}"
            );
        }
    }
    let gzipped = gzip(&file("npy", &matrix, None));
    let (code, _, said) = pipe(&folder, "compress - -o -", &gzipped[..gzipped.len() / 2]);
    assert_eq!(code, Some(1), "{said}");
}

#[test]
fn no_rows_and_many_classes_pass_through_every_format() {
    let folder = Folder::new();
    let none = PredictionMatrix::new(3, Vec::new());
    for format in ["npy", "npz", "parquet", "arrow"] {
        folder.write("none", &file(format, &none, None));
        folder.run("compress none -o none.huff --force", 0);
        for out in FORMATS {
            folder.run(&format!("decode none.huff -o none.{out} --force"), 0);
        }
        assert_eq!(folder.read("none.csv"), b"");
        assert_eq!(read_npy(&folder.read("none.npy")).0, 0);
    }
    let wide = matrix(3, 100_000);
    for format in ["npy", "npz", "csv"] {
        folder.write("wide", &file(format, &wide, None));
        folder.run("compress wide -o wide.huff --force --max-error 1e-5", 0);
        folder.run("decode wide.huff -o wide.npy --force", 0);
        assert_close(&read_npy(&folder.read("wide.npy")).2, &wide, 1e-5);
    }
    folder.run("decode wide.huff -o wide.jsonl --top 2", 0);
    folder.run("decode wide.huff -o wide.arrow", 0);
    folder.run("compress wide.arrow -o wide2.huff --max-error 1e-5", 0);
    folder.fails(
        "decode wide.huff -o wide.parquet",
        "cannot write wide.parquet: 100000 columns are too many for Parquet",
        "fewer classes with --top",
    );
}

#[test]
fn float64_rows_keep_their_promises_in_float64() {
    let folder = Folder::new();
    let below = 0.5 - 1e-12;
    let rows = [
        // The same in float32, and the later one the larger; then the first one.
        [below, 0.5, 0.0, 0.0],
        [0.5, below, 0.0, 0.0],
        [1.0 - 1e-13, 1e-13, 0.0, 0.0],
        [1e-310, 1.0, 1e-60, 0.0],
        [0.1, 0.2, 0.3, 0.4],
        [0.25, 0.25 + 1e-16, 0.25, 0.25 - 1e-16],
    ];
    let values = rows.repeat(50).concat();
    folder.write("x.npy", &npy_f64(&values, 4));
    let top = |row: &[f64]| {
        (0..4)
            .rev()
            .max_by(|&a, &b| row[a].total_cmp(&row[b]))
            .unwrap()
    };
    for (arguments, max_error) in [
        ("--max-error 1e-6", 1e-6),
        ("", 0.002),
        ("--keep-top 4 --max-error 1e-6", 1e-6),
        ("--max-kl 1e-4", 1.0),
    ] {
        folder.run(&format!("compress x.npy -o x.huff --force {arguments}"), 0);
        folder.run("decode x.huff -o y.npy --force", 0);
        let (_, _, decoded) = read_npy(&folder.read("y.npy"));
        for (decoded, original) in decoded.chunks(4).zip(values.chunks(4)) {
            assert_eq!(argmax(decoded), top(original), "{arguments} {original:?}");
            for (&a, &b) in decoded.iter().zip(original) {
                assert!((f64::from(a) - b).abs() <= max_error, "{arguments}");
            }
        }
    }
    folder.fails(
        "compress x.npy -o z.huff --exact",
        &format!("x.npy: row 0, class 0: {below} is no float32"),
        "give --max-error instead of --exact",
    );
    folder.write("big.npy", &npy_f64(&[0.0, 16_777_217.0], 2));
    folder.fails(
        "compress big.npy -o z.huff --max-error 0.5",
        "big.npy: row 0, class 1: float32, which .huff files hold, is farther from 16777217 than --max-error",
        "give a larger one",
    );
    folder.run("compress big.npy -o z.huff --max-error 1.5", 0);
}

#[test]
fn text_that_was_decoded_exactly_is_compressed_exactly() {
    let folder = Folder::new();
    let original = matrix(300, 7);
    folder.write("x.csv", &file("csv", &original, None));
    folder.run("compress x.csv -o x.huff --exact", 0);
    folder.run("decode x.huff", 0);
    assert_eq!(read_npy(&folder.read("x.npy")).2, original.values());
    folder.write("fine.csv", b"0.123456789012,0.876543210988\n");
    folder.fails(
        "compress fine.csv -o y.huff --exact",
        "fine.csv: row 0, class 0: 0.123456789012 is no float32",
        "",
    );
}

#[test]
fn outputs_with_the_extension_of_another_format_are_refused() {
    let folder = Folder::with_model();
    let message = "out.CSV: the extension is that of CSV, but pc predict writes .npy";
    folder.fails("predict x.npy -o out.CSV", message, "");
    let message = "out.npy: the extension is that of .npy, but pc predict-compress writes .huff";
    folder.fails("predict-compress x.npy -o out.npy", message, "");
    folder.write("x.csv", b"0.5,0.5\n");
    folder.fails(
        "compress x.csv -o out.npy",
        "out.npy: the extension is that of .npy, but pc compress writes .huff",
        "; name a .huff file with -o",
    );
    for name in ["out", "out.v2", "out.HUFF"] {
        folder.run(&format!("compress x.csv -o {name}"), 0);
    }
}

#[test]
fn the_order_of_more_classes_than_there_are_is_not_promised() {
    let folder = Folder::with_model();
    folder.write("x.csv", b"0.5,0.5\n");
    folder.fails(
        "compress x.csv -o x.huff --keep-top 3",
        "x.csv: --keep-top 3 of 2 classes; expected as many or fewer",
        "",
    );
    folder.run("compress x.csv -o x.huff --keep-top 2", 0);
    folder.write("input.npy", &npy("|u1", false, &[0, 784], &[]));
    folder.fails(
        "predict-compress input.npy -o y.huff --keep-top 11",
        "model.safetensors: --keep-top 11 of 10 classes; expected as many or fewer",
        "",
    );
}

#[test]
fn infinities_and_what_is_no_number_come_back_from_text() {
    let folder = Folder::new();
    let text = "a,b\nnan,inf\n-inf,0.5\n";
    folder.write("x.csv", text.as_bytes());
    folder.run("compress x.csv -o x.huff --exact", 0);
    folder.run("verify x.huff x.csv", 0);
    folder.run("decode x.huff -o y.csv", 0);
    assert_eq!(folder.read("y.csv"), text.as_bytes());
    folder.run("append x.huff y.csv", 0);
    folder.run("decode x.huff -o z.csv --rows 2..4", 0);
    assert_eq!(folder.read("z.csv"), text.as_bytes());
    folder.fails(
        "compress y.csv -o y.huff",
        "y.csv: line 2, column 1: \"nan\"; expected a number",
        "",
    );
    folder.write("fine.csv", b"0.5,0.5\n");
    folder.run("compress fine.csv -o fine.huff", 0);
    folder.fails("append fine.huff y.csv", "y.csv: line 2, column 1: ", "");
}

#[test]
fn scores_are_told_if_labels_are_given() {
    let folder = Folder::new();
    let original = matrix(1000, 4);
    folder.write("x.npy", &file("npy", &original, None));
    let labels: Vec<u8> = (0..1000).map(|row| (row % 5 % 4) as u8).collect();
    let lines: String = labels.iter().map(|label| format!("{label}\n")).collect();
    folder.write("y.txt", lines.as_bytes());
    folder.write("y.idx", &idx(0x801, &[1000], &labels));
    folder.write("y.npy", &npy("|u1", false, &[1000], &labels));
    let mut said = Vec::new();
    for name in ["y.txt", "y.idx", "y.npy"] {
        said.push(
            folder
                .run(
                    &format!("compress x.npy -o x.huff --force --labels-file {name}"),
                    0,
                )
                .stdout,
        );
    }
    assert!(said.iter().all(|text| *text == said[0]));
    let loss: f64 = original
        .rows()
        .zip(&labels)
        .map(|(row, &label)| -f64::from(row[label as usize]).max(1.1920929e-7).ln())
        .sum::<f64>()
        / 1000.0;
    assert!(
        said[0].contains(&format!("log loss       {loss:.6} nats, decoded ")),
        "{}",
        said[0]
    );
    let (code, huff, text) = pipe(
        &folder,
        "compress - -o - --labels-file y.npy",
        &folder.read("x.npy"),
    );
    assert_eq!(code, Some(0));
    assert!(text.contains("calibration") && huff == folder.read("x.huff"));

    let fails = |labels: &str, message: &str| {
        folder.write("bad.txt", labels.as_bytes());
        folder.fails(
            "compress x.npy -o bad.huff --labels-file bad.txt",
            &format!("bad.txt: {message}"),
            "",
        );
    };
    fails(
        "0\n1\n",
        "2 labels for 1000 rows; expected one for every row",
    );
    fails(&format!("{lines}1\n"), "more labels than the 1000 rows");
    fails(
        &lines.replacen('3', "4", 1),
        "row 3 has label 4; expected the number of a class, 0 to 3",
    );
    fails(
        &lines.replacen('3', "cat", 1),
        "line 4: \"cat\"; expected the number of a class",
    );
    folder.fails(
        "compress x.npy -o bad.huff --kind values --labels-file y.txt",
        "--labels-file is for probabilities and logits",
        "",
    );
}

#[test]
fn predictions_go_through_pipes() {
    let folder = Folder::with_model();
    let images = npy("|u1", false, &[30, 784], &crate::common::pixels(30));
    folder.write("in.npy", &images);
    folder.run("predict in.npy -o p.npy", 0);
    folder.run("predict-compress in.npy -o p.huff", 0);
    for input in ["in.npy", "-"] {
        let (code, out, said) = pipe(&folder, &format!("predict {input} -o -"), &images);
        assert_eq!(code, Some(0), "{said}");
        assert!(out == folder.read("p.npy"));
        let (code, out, said) = pipe(&folder, &format!("predict-compress {input} -o -"), &images);
        assert_eq!(code, Some(0), "{said}");
        assert!(out == folder.read("p.huff"));
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let folder = Folder::new();
    folder.write("x.npy", &file("npy", &matrix(50_000, 5), None));
    folder.run("compress x.npy -o x.huff", 0);
    for arguments in FORMATS.map(|format| format!("decode x.huff -o - --format {format}")) {
        let mut child = Command::new(PC)
            .args(arguments.split(' '))
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{arguments}");
    }
}

#[cfg(unix)]
#[test]
fn what_is_read_is_not_written_over() {
    let folder = Folder::new();
    let bytes = file("npy", &matrix(50, 5), None);
    folder.write("x", &bytes);
    let input = std::fs::File::open(folder.join("x")).unwrap();
    let output = folder
        .pc("compress - -o x --force")
        .stdin(input)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let append = std::fs::OpenOptions::new()
        .append(true)
        .open(folder.join("x"))
        .unwrap();
    let output = folder
        .pc("compress x -o -")
        .stdout(append)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is the input as well as the output"));
    folder.fails(
        "compress x -o x --force",
        "x is the input as well as the output",
        "",
    );
    assert!(folder.read("x") == bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn any_bits_survive_npy_npz_parquet_and_arrow(
        bits in prop::collection::vec(any::<u32>(), 1..60),
        n_classes in 1usize..4,
    ) {
        let n_values = bits.len() / n_classes * n_classes;
        let values: Vec<f32> = bits[..n_values].iter().map(|&bits| f32::from_bits(bits)).collect();
        let matrix = PredictionMatrix::new(n_classes, values);
        let mut expected = Vec::new();
        npy::write_matrix_header(&mut expected, matrix.n_rows() as u64, n_classes).unwrap();
        npy::write_f32(&mut expected, matrix.values()).unwrap();
        let folder = Folder::new();
        for format in ["npy", "npz", "parquet", "arrow"] {
            let bytes = file(format, &matrix, None);
            let (code, huff, said) = pipe(&folder, "compress - -o - --exact", &bytes);
            prop_assert_eq!(code, Some(0), "{}", said);
            let (_, out, _) = pipe(&folder, "decode -", &huff);
            prop_assert!(out == expected, "{format}");
        }
    }
}
