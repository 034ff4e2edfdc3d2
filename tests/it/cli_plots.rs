//! `pc train --plots` and `pc compress --plots`.

use crate::common::{Folder, npy, write_toy_mnist};

/// A picture, which must be one that follows the page's colours.
fn picture(folder: &Folder, name: &str) -> String {
    let svg = String::from_utf8(folder.read(name)).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert!(svg.contains("prefers-color-scheme:dark"));
    svg
}

/// Whether a text stands in a picture.
fn says(svg: &str, text: &str) -> bool {
    svg.lines().any(|line| line.trim() == text)
}

#[test]
fn training_is_drawn_epoch_by_epoch() {
    let folder = Folder::new();
    write_toy_mnist(&folder, 60);
    let train = "train --data mnist --epochs 3 --batch-size 10 --classes 10";
    let said = folder.run(&format!("{train} --plots plain"), 0);
    assert!(
        said.stdout.ends_with(
            "(weights of epoch 3)\nwrote plain/learning.svg\nwrote plain/reliability.svg\nwrote plain/confusion.svg\n"
        ),
        "{}",
        said.stdout
    );
    let svg = picture(&folder, "plain/learning.svg");
    // Loss of two parts, accuracy of one, three epochs each.
    assert_eq!(svg.matches("<circle").count(), 9);
    for text in ["Loss", "Accuracy", "training", "test", "epoch"] {
        assert!(says(&svg, text), "{text}: {svg}");
    }
    assert!(!says(&svg, "validation"));
    for name in ["confusion.svg", "reliability.svg"] {
        picture(&folder, &format!("plain/{name}"));
    }
    // They are those of pc eval.
    let said = folder.run("eval --data mnist --plots evaluated", 0);
    let written = "wrote evaluated/reliability.svg\nwrote evaluated/confusion.svg\n";
    assert!(said.stdout.ends_with(written), "{}", said.stdout);
    let said = folder.run("eval --data mnist --plots evaluated --force --json", 0);
    assert!(said.stdout.ends_with("}\n"), "{}", said.stdout);
    assert_eq!(said.stderr, written);
    for name in ["confusion.svg", "reliability.svg"] {
        let (a, b) = (format!("plain/{name}"), format!("evaluated/{name}"));
        assert!(folder.read(&a) == folder.read(&b), "{name}");
    }

    folder.run(
        &format!("{train} --validation 0.2 --plots held-out -o other"),
        0,
    );
    let svg = picture(&folder, "held-out/learning.svg");
    assert_eq!(svg.matches("<circle").count(), 15);
    assert!(says(&svg, "validation"));

    // What is there is told of before training, and kept.
    let before = folder.read("plain/learning.svg");
    let again = format!("{train} --plots plain -o third");
    folder.fails(&again, "plain/learning.svg exists already", "");
    assert!(folder.read("plain/learning.svg") == before);
    folder.run(
        &format!("{again} --force --epochs 4").replace("--epochs 3 ", ""),
        0,
    );
    let svg = picture(&folder, "plain/learning.svg");
    assert_eq!(svg.matches("<circle").count(), 12);
}

/// 300 rows of three classes, some peaked, some not.
fn write_rows(folder: &Folder) {
    let values = (0..300).flat_map(|i| {
        let top = 0.34 + (i * 37 % 60) as f32 / 100.0;
        let mut row = [(1.0 - top) * 0.6, (1.0 - top) * 0.4, top];
        row.rotate_left(i % 3);
        row
    });
    let bytes: Vec<u8> = values.flat_map(|value| value.to_le_bytes()).collect();
    folder.write("probs.npy", &npy("<f4", false, &[300, 3], &bytes));
}

#[test]
fn rate_and_distortion_are_drawn_beside_peers() {
    let folder = Folder::new();
    write_rows(&folder);
    folder.run("compress probs.npy -o plain.huff", 0);
    let said = folder.run("compress probs.npy -o out.huff --plots pictures", 0);
    assert!(
        said.stdout
            .starts_with("wrote out.huff\nwrote pictures/rate.svg\n")
    );
    assert!(folder.read("out.huff") == folder.read("plain.huff"));
    let svg = picture(&folder, "pictures/rate.svg");
    // 9 bounds on errors, 11 on divergence, and the file's own.
    assert_eq!(svg.matches("<circle").count(), 21);
    for text in ["max error", "max KL, bits", "this file", "bytes a row"] {
        assert!(says(&svg, text), "{text}: {svg}");
    }

    folder.write(
        "peers.csv",
        b"name,bound,value,bytes_a_row\nxz -9e,max_error,0.002,3.5\nxz -9e,max_error,0.02,2\nzstd,max_kl,0.001,4\n",
    );
    let compress = "compress probs.npy -o out.huff --force --plots pictures";
    folder.run(&format!("{compress} --peers peers.csv --max-kl 0.01"), 0);
    let svg = picture(&folder, "pictures/rate.svg");
    assert_eq!(svg.matches("<circle").count(), 24);
    assert!(says(&svg, "xz -9e") && says(&svg, "zstd"));

    // Numbers beyond 0 to 1 have errors only.
    folder.run(&format!("{compress} --kind logits"), 0);
    let svg = picture(&folder, "pictures/rate.svg");
    assert_eq!(svg.matches("<circle").count(), 11);
    assert!(!says(&svg, "max KL, bits"));
}

#[test]
fn what_cannot_be_drawn_is_told_before_anything_is_written() {
    let folder = Folder::new();
    write_rows(&folder);
    folder.fails(
        "compress probs.npy -o out.huff --plots probs.npy",
        "probs.npy: a file; expected a folder",
        "",
    );
    let compress = "compress probs.npy -o out.huff --plots .";
    folder.run("compress probs.npy -o first.huff --plots .", 0);
    folder.fails(compress, "./rate.svg exists already", "");
    folder.fails(
        &format!("{compress} --peers nowhere.csv"),
        "nowhere.csv: no such file or folder",
        "",
    );
    folder.write("peers.csv", b"name,value\nxz,3\n");
    folder.fails(
        &format!("{compress} --peers peers.csv"),
        "peers.csv: expected the columns name, bound (max_error or max_kl), value and bytes_a_row",
        "",
    );
    folder.write(
        "peers.csv",
        b"name,bound,value,bytes_a_row\nxz,max_error,0,3\n",
    );
    folder.fails(
        &format!("{compress} --peers peers.csv"),
        "peers.csv: xz has the bound 0 and 3 bytes a row; expected a bound above 0",
        "",
    );
    folder.run("compress probs.npy -o out.huff --peers peers.csv", 2);
}

#[test]
fn rows_that_have_no_curve_are_compressed_all_the_same() {
    let folder = Folder::new();
    let values = [0.5f32, 0.5, f32::NAN, 0.5].map(f32::to_le_bytes).concat();
    folder.write("x.npy", &npy("<f4", false, &[2, 2], &values));
    let said = folder.run("compress x.npy -o x.huff --exact --plots pictures", 0);
    assert!(said.stdout.contains("wrote x.huff"), "{}", said.stdout);
    assert!(
        said.stderr.contains("no picture of errors: "),
        "{}",
        said.stderr
    );
    folder.run("verify x.huff x.npy", 0);
}
