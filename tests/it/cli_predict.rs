//! `pc predict` and `pc predict-compress`.

use std::fs;
use std::io::Write;

use crate::common::{Folder, PC, idx, npy, pixels, read_npy};

const N: usize = 5;

/// The images in Fortran order: the bytes of all first elements, then all second ones.
fn fortran(bytes: &[u8], shape: &[usize], n_number_bytes: usize) -> Vec<u8> {
    let n: usize = shape.iter().product();
    let mut data = Vec::with_capacity(bytes.len());
    for mut position in 0..n {
        let mut indices = Vec::new();
        for &size in shape {
            indices.push(position % size);
            position /= size;
        }
        let c_position = indices
            .iter()
            .zip(shape)
            .fold(0, |position, (index, size)| position * size + index);
        data.extend(&bytes[c_position * n_number_bytes..][..n_number_bytes]);
    }
    data
}

#[test]
fn every_type_shape_and_order_gives_the_same_predictions() {
    let folder = Folder::with_model();
    let pixels = pixels(N);
    folder.write("u8.npy", &npy("|u1", false, &[N, 784], &pixels));
    folder.run("predict u8.npy -o expected.npy", 0);
    let (n_rows, n_columns, expected) = read_npy(&folder.read("expected.npy"));
    assert_eq!((n_rows, n_columns), (N, 10));
    for row in expected.chunks(10) {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }

    let scaled: Vec<f32> = pixels.iter().map(|&p| f32::from(p) / 255.0).collect();
    let bytes =
        |f: &dyn Fn(f32) -> Vec<u8>| -> Vec<u8> { scaled.iter().flat_map(|&v| f(v)).collect() };
    let types: Vec<(&str, usize, Vec<u8>, f32)> = vec![
        ("|u1", 1, pixels.clone(), 0.0),
        ("<f4", 4, bytes(&|v| v.to_le_bytes().to_vec()), 1e-6),
        (">f4", 4, bytes(&|v| v.to_be_bytes().to_vec()), 1e-6),
        (
            "<f8",
            8,
            bytes(&|v| f64::from(v).to_le_bytes().to_vec()),
            1e-6,
        ),
        (
            ">f8",
            8,
            bytes(&|v| f64::from(v).to_be_bytes().to_vec()),
            1e-6,
        ),
        (
            "<f2",
            2,
            bytes(&|v| half::f16::from_f32(v).to_le_bytes().to_vec()),
            1e-2,
        ),
        (
            ">f2",
            2,
            bytes(&|v| half::f16::from_f32(v).to_be_bytes().to_vec()),
            1e-2,
        ),
    ];
    let shapes: [&[usize]; 4] = [&[N, 784], &[N, 28, 28], &[N, 28, 28, 1], &[N, 1, 28, 28]];
    for (descr, n_number_bytes, data, tolerance) in &types {
        for shape in shapes {
            for is_fortran_order in [false, true] {
                let data = match is_fortran_order {
                    true => fortran(data, shape, *n_number_bytes),
                    false => data.clone(),
                };
                folder.write("input.npy", &npy(descr, is_fortran_order, shape, &data));
                folder.run("predict input.npy -o out.npy --force", 0);
                let (_, _, values) = read_npy(&folder.read("out.npy"));
                for (a, b) in values.iter().zip(&expected) {
                    assert!(
                        (a - b).abs() <= *tolerance,
                        "{descr} {shape:?} Fortran order {is_fortran_order}: {a} {b}"
                    );
                }
            }
        }
    }
    for major in [2, 3] {
        let mut bytes = npy("|u1", false, &[N, 784], &pixels);
        bytes[6] = major;
        bytes.splice(10..10, [0, 0]);
        folder.write("input.npy", &bytes);
        folder.run("predict input.npy -o out.npy --force", 0);
        assert_eq!(read_npy(&folder.read("out.npy")).2, expected);
    }
    let images = idx(0x803, &[N as u32, 28, 28], &pixels);
    folder.write("images.idx", &images);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&images).unwrap();
    folder.write("images.idx.gz", &encoder.finish().unwrap());
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let u8_npy = folder.read("u8.npy");
    encoder.write_all(&u8_npy).unwrap();
    folder.write("images.npy.gz", &encoder.finish().unwrap());
    for name in ["images.idx", "images.idx.gz", "images.npy.gz"] {
        folder.run(&format!("predict {name} -o out.npy --force"), 0);
        assert_eq!(read_npy(&folder.read("out.npy")).2, expected);
    }
}

#[cfg(unix)]
#[test]
fn images_are_read_from_a_pipe_and_special_files_are_no_output() {
    let folder = Folder::with_model();
    folder.write("input.npy", &npy("|u1", false, &[N, 784], &pixels(N)));
    folder.run("predict input.npy -o expected.npy", 0);
    let output = folder
        .pc("predict /dev/stdin -o out.npy")
        .stdin(fs::File::open(folder.join("input.npy")).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(folder.read("out.npy") == folder.read("expected.npy"));
    for options in ["", "--force"] {
        folder.fails(
            &format!("predict input.npy -o /dev/null {options}"),
            "/dev/null is not a regular file; name a file with -o",
            "",
        );
    }
}

#[test]
fn logits_and_probabilities_belong_together() {
    let folder = Folder::with_model();
    folder.write("input.npy", &npy("|u1", false, &[N, 784], &pixels(N)));
    folder.run("predict input.npy -o probs.npy", 0);
    let said = folder.run("predict input.npy -o logits.npy --logits", 0);
    assert_eq!(said.stdout, "wrote logits.npy: 5 rows of 10 logits\n");
    let probabilities = read_npy(&folder.read("probs.npy")).2;
    let logits = read_npy(&folder.read("logits.npy")).2;
    folder.run(
        "predict-compress input.npy -o logits.huff --logits --exact",
        0,
    );
    let said = folder.run("decode logits.huff -o decoded.npy", 0);
    assert!(
        said.stdout.contains("5 rows of 10 logits"),
        "{}",
        said.stdout
    );
    assert!(folder.read("decoded.npy") == folder.read("logits.npy"));
    for (p, z) in probabilities.chunks(10).zip(logits.chunks(10)) {
        let sum: f64 = z.iter().map(|&z| f64::from(z).exp()).sum();
        for (&p, &z) in p.iter().zip(z) {
            assert!((f64::from(p) - f64::from(z).exp() / sum).abs() < 1e-6);
        }
    }
}

#[test]
fn predict_compress_keeps_the_bound_and_says_what_it_did() {
    let folder = Folder::with_model();
    let n = 3000;
    folder.write("input.npy", &npy("|u1", false, &[n, 784], &pixels(n)));
    folder.run("predict input.npy -o probs.npy", 0);
    let original = read_npy(&folder.read("probs.npy")).2;
    for bound in [0.1, 0.002, 1e-4, 1e-6] {
        let said = folder.run(
            &format!("predict-compress input.npy -o out.huff --force --max-error {bound}"),
            0,
        );
        folder.run("decode out.huff --force", 0);
        let decoded = read_npy(&folder.read("out.npy")).2;
        assert_eq!(decoded.len(), original.len());
        let mut largest = 0.0f64;
        for (a, b) in original.iter().zip(&decoded) {
            largest = largest.max((f64::from(*a) - f64::from(*b)).abs());
        }
        assert!(largest <= bound);
        for (a, b) in original.chunks(10).zip(decoded.chunks(10)) {
            assert_eq!(pc::matrix::argmax(a), pc::matrix::argmax(b));
        }
        let n_bytes = folder.read("out.huff").len();
        for line in [
            "wrote out.huff\n".to_owned(),
            "  rows           3,000\n".to_owned(),
            "  classes        10\n".to_owned(),
            "  in             120,000 bytes as float32\n".to_owned(),
            format!("  bytes a row    {:.3}, of 40\n", n_bytes as f64 / 3000.0),
            format!("  ratio          {:.1}\n", 120_000.0 / n_bytes as f64),
            format!("  largest error  {largest:.4e}, bound {bound:e}\n"),
            "  argmax kept    in all 3,000 rows\n".to_owned(),
        ] {
            assert!(said.stdout.contains(&line), "{line}{}", said.stdout);
        }
    }
}

#[test]
fn the_file_does_not_depend_on_the_number_of_threads() {
    let folder = Folder::with_model();
    folder.write("input.npy", &npy("|u1", false, &[3000, 784], &pixels(3000)));
    for n_threads in [1, 2, 8] {
        folder.run(
            &format!("predict-compress input.npy -o {n_threads}.huff --threads {n_threads}"),
            0,
        );
    }
    assert!(folder.read("1.huff") == folder.read("2.huff"));
    assert!(folder.read("1.huff") == folder.read("8.huff"));
}

#[test]
fn no_images_are_no_rows() {
    let folder = Folder::with_model();
    folder.write("input.npy", &npy("|u1", false, &[0, 784], &[]));
    let said = folder.run("predict-compress input.npy -o out.huff", 0);
    assert!(
        said.stdout.contains("rows           0\n"),
        "{}",
        said.stdout
    );
    folder.run("decode out.huff", 0);
    assert_eq!(read_npy(&folder.read("out.npy")), (0, 10, vec![]));
    folder.run("predict input.npy -o probs.npy", 0);
    assert_eq!(read_npy(&folder.read("probs.npy")), (0, 10, vec![]));
}

#[test]
fn images_that_cannot_be_used_are_named_with_the_way_out() {
    let folder = Folder::with_model();
    let fails = |bytes: &[u8], start: &str, end: &str| {
        folder.write("in", bytes);
        folder.fails("predict-compress in -o out.huff", start, end);
        folder.fails("predict in -o out.npy", start, end);
    };
    let pixels = pixels(N);
    fails(
        b"\x89PNG\r\n\x1a\n....",
        "in: unknown format: the file starts with the bytes [89, 50, 4e, 47, 0d, 0a, 1a, 0a]; expected",
        "gzipped or not",
    );
    fails(
        b"",
        "in: unknown format: the file starts with the bytes []",
        "",
    );
    fails(
        &npy("|O", false, &[N, 784], b"pickled"),
        "in: an array of Python objects is a pickle",
        "astype('float32'))",
    );
    fails(
        &npy("<i4", false, &[N, 784], &[0; 4 * 784 * N]),
        "in: dtype i32; expected u8 (scaled by 1/255), f16, f32 or f64",
        "",
    );
    fails(
        &npy("<c8", false, &[N, 784], &[]),
        "in: dtype <c8; expected a plain number type",
        "",
    );
    fails(
        &npy("|u1", false, &[N, 28, 29], &[]),
        "in: shape [5, 28, 29]; expected (N, 784), (N, 28, 28), (N, 28, 28, 1) or (N, 1, 28, 28)",
        "which is what the model takes",
    );
    fails(
        &npy("|u1", false, &[784], &pixels[..784]),
        "in: shape [784]; expected (N, 784)",
        "",
    );
    fails(
        &npy("|u1", false, &[N, 784], &pixels[..N * 784 - 1]),
        "in: truncated: the header promises 3920 bytes of data, the file has 3919; copy or write it again",
        "",
    );
    fails(
        &npy("|u1", true, &[1 << 40, 784], &pixels),
        "in: truncated: the header promises 862017116176384 bytes of data, the file has 3920; copy or write it again",
        "",
    );
    fails(
        &idx(0x803, &[N as u32, 28, 28], &pixels[1..]),
        "in: truncated: the header promises 3920 bytes of data, the file has 3919; copy or write it again",
        "",
    );
    for long in [
        idx(0x803, &[N as u32 - 1, 28, 28], &pixels),
        npy("|u1", false, &[N - 1, 784], &pixels),
        npy("|u1", true, &[N - 1, 784], &pixels),
    ] {
        fails(
            &long,
            "in: more data than the 3136 bytes that the header promises",
            "",
        );
    }
    fails(
        &npy("|u1", false, &[N, 784], &pixels)[..20],
        "in: truncated: the file ends inside its header",
        "",
    );
    fails(
        &idx(0x801, &[N as u32], &pixels),
        "in: IDX magic number 0x00000801; expected 0x00000803 (images of unsigned bytes)",
        "",
    );
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder
        .write_all(&npy("|u1", true, &[N, 784], &pixels))
        .unwrap();
    fails(
        &encoder.finish().unwrap(),
        "in: an array in Fortran order cannot be read image by image from gzip or a pipe;",
        "give it as a plain file",
    );
    let mut bytes = npy("|u1", false, &[N, 784], &pixels);
    bytes[6] = 9;
    fails(&bytes, "in: .npy version 9.0; expected 1.0, 2.0 or 3.0", "");
    folder.fails(
        "predict nowhere -o out.npy",
        "nowhere: no such file or folder",
        "",
    );
    fs::create_dir(folder.join("folder")).unwrap();
    folder.fails(
        "predict folder -o out.npy",
        "folder: a folder; expected a file",
        "",
    );
}

#[test]
fn pixels_that_make_no_probabilities_are_refused_by_row_and_class() {
    let folder = Folder::with_model();
    let mut values = vec![0.0f32; N * 784];
    values[3 * 784] = f32::NAN;
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    folder.write("in.npy", &npy("<f4", false, &[N, 784], &bytes));
    folder.fails(
        "predict-compress in.npy -o out.huff",
        "predictions on in.npy: row 3, class 0: NaN is not a probability; expected a number from 0 to 1",
        "",
    );
}

#[test]
fn models_that_cannot_be_used_are_named_with_the_way_out() {
    let folder = Folder::new();
    folder.write("input.npy", &npy("|u1", false, &[N, 784], &pixels(N)));
    folder.fails(
        "predict-compress input.npy -o out.huff",
        "no model: there is no model.safetensors in this folder; make one with pc train, or name one with --model",
        "",
    );
    folder.fails(
        "predict input.npy -o out.npy --model other",
        "other: no such file or folder",
        "",
    );
    folder.write("model.safetensors", b"garbage");
    folder.fails(
        "predict input.npy -o out.npy",
        "model.safetensors: not a usable safetensors file; write one with pc train: ",
        "",
    );
}

#[test]
fn existing_outputs_and_inputs_are_never_replaced_unasked() {
    let folder = Folder::with_model();
    let input = npy("|u1", false, &[N, 784], &pixels(N));
    folder.write("input", &input);
    folder.write("out", b"precious");
    for command in ["predict", "predict-compress"] {
        folder.fails(
            &format!("{command} input -o out"),
            "out exists already; give another name with -o, or --force to replace it",
            "",
        );
        folder.fails(
            &format!("{command} input -o ./input --force"),
            "./input is the input as well as the output; give another name with -o",
            "",
        );
        folder.fails(
            &format!("{command} missing.npy -o out --force"),
            "missing.npy: no such file or folder",
            "",
        );
    }
    assert_eq!(folder.read("out"), b"precious");
    assert_eq!(folder.read("input"), input);
    folder.run("predict-compress input -o out --force", 0);
    assert!(folder.read("out").starts_with(b"\x89HUF"));
}

/// A file of `n` black images that takes no room on the disk.
#[cfg(unix)]
fn write_sparse_images(folder: &Folder, n: usize) {
    let header = npy("|u1", false, &[n, 784], &[]);
    folder.write("input.npy", &header);
    let file = fs::OpenOptions::new()
        .write(true)
        .open(folder.join("input.npy"))
        .unwrap();
    file.set_len((header.len() + n * 784) as u64).unwrap();
}

#[cfg(unix)]
#[test]
fn a_run_killed_half_way_leaves_nothing_under_the_final_name() {
    let folder = Folder::with_model();
    write_sparse_images(&folder, 50_000_000);
    for (signal, code) in [("INT", Some(130)), ("TERM", Some(143)), ("KILL", None)] {
        let mut child = folder.start("predict-compress input.npy -o out.huff");
        crate::cli_train::send(signal, child.id());
        let status = child.wait().unwrap();
        assert_eq!(status.code(), code);
        assert!(!folder.join("out.huff").exists());
        if signal == "KILL" {
            // Nobody can clean up after that; what is left says what it is.
            let left: Vec<String> = folder.names();
            assert!(
                left[0].starts_with(".pc-") && left[0].ends_with(".tmp"),
                "{left:?}"
            );
        } else {
            assert_eq!(folder.names(), ["input.npy", "model.safetensors"]);
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_million_rows_need_less_than_300_megabytes() {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    let folder = Folder::new();
    folder.run("train --epochs 1 --quiet", 0);
    write_sparse_images(&folder, 1_000_000);
    let mut child = Command::new(PC)
        .current_dir(folder.path())
        .args(["predict-compress", "input.npy", "-o", "out.huff"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut peak_kib = 0;
    let status = loop {
        // The high-water mark of resident memory; gone once the process is.
        let text = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        if let Some(line) = text.lines().find(|line| line.starts_with("VmHWM:")) {
            peak_kib = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        }
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success());
    println!("peak memory for 1,000,000 rows of 100 classes: {peak_kib} KiB");
    assert!((1000..300_000).contains(&peak_kib), "{peak_kib} KiB");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_that_leaves_nothing() {
    let folder = Folder::with_model();
    folder.write("big.npy", &npy("|u1", false, &[200, 784], &pixels(200)));
    // A limit on the size of files stands in for a full disk: 1 block of 1,024 bytes.
    let script = format!(
        "trap '' XFSZ; ulimit -f 1; exec '{}' predict big.npy -o out.npy",
        PC
    );
    let output = std::process::Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.starts_with("error: cannot write out.npy: File too large"),
        "{stderr}"
    );
    assert_eq!(folder.names(), ["big.npy", "model.safetensors"]);
}

#[test]
fn networks_saved_by_pytorch_predict_as_in_pytorch() {
    // tests/python/make_torch_files.py wrote them; tests/python/check_predictions.py tries more.
    let files = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torch");
    let folder = Folder::new();
    folder.write("input.npy", &npy("|u1", false, &[20, 28, 28], &pixels(20)));
    for name in ["sequential", "flatten"] {
        let model = files.join(format!("{name}.safetensors"));
        for (output, options) in [("logits", "--logits"), ("probs", "")] {
            let predict = format!("predict input.npy -o out.npy --force {options} --model");
            let status = folder.pc(&predict).arg(&model).status().unwrap();
            assert!(status.success());
            let expected = std::fs::read(files.join(format!("{name}-{output}.npy"))).unwrap();
            let (expected, found) = (read_npy(&expected), read_npy(&folder.read("out.npy")));
            assert_eq!((found.0, found.1), (expected.0, expected.1));
            for (a, b) in found.2.iter().zip(&expected.2) {
                assert!((a - b).abs() < 1e-5, "{name} {output}: {a} {b}");
            }
        }
    }
}
