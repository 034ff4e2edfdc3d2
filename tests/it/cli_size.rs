//! `pc compress --size`.

use std::process::Command;

use pc::huffman::{Bound, FrameReader};
use pc::matrix::PredictionMatrix;

use crate::common::{Folder, PC};
use crate::frames::{matrix, npy};

#[test]
fn the_file_fits_and_a_smaller_bound_would_not() {
    let folder = Folder::new();
    folder.write("x.npy", &npy(&matrix(3000, 0)));
    let logits = matrix(3000, 0)
        .values()
        .iter()
        .map(|p| (p + 1e-3).ln())
        .collect();
    folder.write("y.npy", &npy(&PredictionMatrix::new(3, logits)));
    folder.write(
        "names.txt",
        format!("a\nb\n{}\n", "c".repeat(500)).as_bytes(),
    );
    for (name, limit, options) in [
        ("x", 1000, ""),
        ("x", 2500, ""),
        ("y", 3000, " --kind logits"),
        ("x", 2500, " --class-names names.txt"),
    ] {
        let said = folder.run(
            &format!("compress {name}.npy -o z.huff --size {limit}B --force{options}"),
            0,
        );
        assert!(
            said.stdout.starts_with("the smallest bound that fits "),
            "{}",
            said.stdout
        );
        let bytes = folder.read("z.huff");
        assert!(bytes.len() <= limit, "{} of {limit}", bytes.len());
        let header = FrameReader::new(&bytes[..]).unwrap().header().clone();
        let Bound::MaxError(found) = header.promise.bound else {
            panic!("{:?}", header.promise);
        };
        folder.run(&format!("verify z.huff {name}.npy"), 0);
        // The next of three digits.
        let next = found * (1.0 - 1.0 / 99.0);
        folder.run(
            &format!("compress {name}.npy -o z.huff --force --max-error {next}{options}"),
            0,
        );
        assert!(
            folder.read("z.huff").len() > limit,
            "{found:e} and {next:e}"
        );
    }
}

#[test]
fn sizes_that_cannot_be_met_are_refused_with_the_smallest_that_can() {
    let folder = Folder::new();
    folder.write("x.npy", &npy(&matrix(300, 0)));
    folder.fails(
        "compress x.npy -o z.huff --size 100",
        "x.npy: 100 bytes are too few: even within 5e-1 of the original, it takes ",
        "; give a larger --size",
    );
    folder.run("compress x.npy -o z.huff --size 10 --exact", 2);
    folder.run("compress x.npy -o z.huff --size 2XB", 2);
    folder.fails(
        "compress nowhere -o z.huff --size 2MB",
        "nowhere: no such file or folder",
        "",
    );
}

#[cfg(unix)]
#[test]
fn a_pipe_cannot_be_read_many_times() {
    use std::io::Write;
    use std::process::Stdio;

    let folder = Folder::new();
    let mut child = folder
        .pc("compress /dev/stdin -o z.huff --size 2MB")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(&npy(&matrix(300, 0)));
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr.contains("reads its input many times: /dev/stdin: not a regular file; "),
        "{stderr}"
    );
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn standard_input_that_is_a_file_is_not_read_again() {
    let folder = Folder::new();
    folder.write("x.npy", &npy(&matrix(30, 0)));
    for options in ["--size 20kB", "--plots pictures"] {
        let command = format!("{PC} compress - -o z.huff {options} < x.npy");
        let said = Command::new("sh")
            .args(["-c", &command])
            .current_dir(folder.path())
            .output()
            .unwrap();
        let message = String::from_utf8(said.stderr).unwrap();
        assert_eq!(said.status.code(), Some(1), "{message}");
        assert!(
            message.contains("it can be read only once; name a file"),
            "{message}"
        );
        assert!(!folder.path().join("z.huff").exists());
    }
}

#[test]
fn float64_rows_may_be_too_fine_for_a_small_bound() {
    let folder = Folder::new();
    let values: Vec<u8> = (0..3000)
        .flat_map(|i| (65.0 * (f64::from(i) * 0.37).sin()).to_le_bytes())
        .collect();
    folder.write(
        "x.npy",
        &crate::common::npy("<f8", false, &[1000, 3], &values),
    );
    folder.run("compress x.npy -o z.huff --kind logits --size 1MB", 0);
    folder.run("verify z.huff x.npy", 0);
}
