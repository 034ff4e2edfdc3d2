//! `pc train`.

use std::fs;
use std::io::Write;

use pc::model::checkpoint::Checkpoint;
use pc::model::dataset::Dataset;
use pc::model::inference::Predictor;

use crate::common::{Folder, PC, idx, npy, pixels, write_toy_mnist};

/// Enough training for a toy set, and few outputs.
const QUICK: &str = "--epochs 3 --batch-size 10 --classes 10 --hidden 16";

#[test]
fn the_owners_three_lines_run_as_typed() {
    let folder = Folder::new();
    write_toy_mnist(&folder, 200);
    folder.write("input.npy", &npy("|u1", false, &[20, 28, 28], &pixels(20)));

    let said = folder.run("train --data mnist/", 0);
    // A small set gets as many epochs as make 2,500 batches: two batches each here.
    assert_eq!(
        said.stdout.matches("\nepoch ").count(),
        1250,
        "{}",
        said.stdout
    );
    assert!(said.stdout.contains("accuracy 100.00%"), "{}", said.stdout);
    assert!(
        said.stdout
            .ends_with("wrote model.safetensors (weights of epoch 1250)\n")
    );

    let said = folder.run("predict-compress input.npy -o out.huff", 0);
    assert!(
        said.stdout.contains("rows           20\n"),
        "{}",
        said.stdout
    );

    folder.run("decode out.huff", 0);
    assert_eq!(
        folder.names(),
        [
            "input.npy",
            "mnist",
            "model.safetensors",
            "out.huff",
            "out.npy"
        ]
    );
}

#[test]
fn a_run_prints_an_epoch_line_and_says_what_it_wrote() {
    let folder = Folder::new();
    write_toy_mnist(&folder, 50);
    let said = folder.run(&format!("train --data mnist {QUICK}"), 0);
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(
        lines[0],
        "50 training images, 0 held out, 50 test images; 784-16-10 on burn-ndarray"
    );
    assert!(
        lines[1].starts_with("epoch 1/3  training loss 2."),
        "{}",
        lines[1]
    );
    for part in ["  test loss ", " accuracy ", " s  ", " samples/s"] {
        assert!(lines[1].contains(part), "{}", lines[1]);
    }
    assert_eq!(lines.len(), 5);
    assert_eq!(said.stderr, "", "progress bars are for terminals");

    let quiet = folder.run(&format!("train --data mnist {QUICK} --force --quiet"), 0);
    assert_eq!(quiet.stdout, "");
}

#[test]
fn the_same_seed_gives_the_same_file_on_either_backend() {
    let folder = Folder::new();
    write_toy_mnist(&folder, 50);
    for backend in ["ndarray", "flex"] {
        let train = |seed: u64, name: &str| {
            let arguments = format!(
                "train --data mnist {QUICK} --backend {backend} --seed {seed} -o {name} --force"
            );
            folder.run(&arguments, 0);
            folder.read(name)
        };
        let first = train(1, "a");
        assert_eq!(first, train(1, "b"));
        assert_ne!(first, train(2, "c"));
    }
}

#[test]
fn every_option_changes_what_it_says() {
    let folder = Folder::new();
    write_toy_mnist(&folder, 50);
    let train = |options: &str| {
        let epochs = if options.contains("--epochs") {
            ""
        } else {
            "--epochs 1"
        };
        folder.run(&format!("train --data mnist --force {epochs} {options}"), 0);
        Checkpoint::from_bytes(&folder.read("model.safetensors")).unwrap()
    };
    let plain = train("");
    assert_eq!(plain.weights.sizes(), [784, 128, 100]);
    let info = plain.info.clone().unwrap();
    assert_eq!(info.options.seed, 42);
    assert_eq!(info.layers, [784, 128, 100]);
    assert_eq!(train("--hidden 20,15").weights.sizes(), [784, 20, 15, 100]);
    assert_eq!(train("--epochs 2").info.unwrap().options.epochs, 2);
    assert_eq!(train("--classes 10").weights.sizes(), [784, 128, 10]);
    for option in [
        "--batch-size 7",
        "--learning-rate 0.01",
        "--seed 1",
        "--validation 0.2",
    ] {
        assert_ne!(train(option).weights, plain.weights, "{option}");
    }
    // Threads change no result, whatever their number.
    for n_threads in [1, 3] {
        let threads = train(&format!("--threads {n_threads}"));
        assert_eq!(threads.weights, plain.weights);
    }
}

#[test]
fn without_data_the_bundled_digit_pairs_are_trained() {
    let folder = Folder::new();
    let said = folder.run("train --epochs 1 --hidden 8", 0);
    assert!(
        said.stdout
            .starts_with("8,000 training images, 0 held out, 1,000 test images; 784-8-100"),
        "{}",
        said.stdout
    );
}

#[test]
fn gzipped_files_class_names_and_a_missing_test_part_are_found_out() {
    let folder = Folder::new();
    write_toy_mnist(&folder, 30);
    for name in ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"] {
        let path = format!("mnist/{name}");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&folder.read(&path)).unwrap();
        folder.write(&format!("{path}.gz"), &encoder.finish().unwrap());
        fs::remove_file(folder.join(&path)).unwrap();
    }
    for name in ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"] {
        fs::remove_file(folder.join("mnist").join(name)).unwrap();
    }
    folder.write("mnist/classes.txt", b"zero\none\n");
    let said = folder.run(&format!("train --data mnist {QUICK}"), 0);
    assert!(
        said.stdout
            .starts_with("30 training images, 0 held out, 0 test images")
    );
    assert!(!said.stdout.contains("test loss"), "{}", said.stdout);
    let checkpoint = Checkpoint::from_bytes(&folder.read("model.safetensors")).unwrap();
    let names = checkpoint.info.unwrap().class_names.unwrap();
    assert_eq!(names[..3], ["zero", "one", "2"]);
    assert_eq!(names.len(), 10);
}

#[test]
fn a_keras_npz_trains_the_same_network_as_the_idx_folder() {
    let folder = Folder::new();
    write_toy_mnist(&folder, 50);
    let train = |data: &str| {
        folder.run(&format!("train --data {data} {QUICK} --force"), 0);
        folder.read("model.safetensors")
    };
    let from_folder = train("mnist");
    let write_npz = |method, label_dtype: &str, n_label_bytes: usize| {
        let mut archive = zip::ZipWriter::new(fs::File::create(folder.join("mnist.npz")).unwrap());
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        for (x, y, part) in [
            ("x_train", "y_train", "train"),
            ("x_test", "y_test", "t10k"),
        ] {
            let images = folder.read(&format!("mnist/{part}-images-idx3-ubyte"))[16..].to_vec();
            let labels: Vec<u8> = folder.read(&format!("mnist/{part}-labels-idx1-ubyte"))[8..]
                .iter()
                .flat_map(|&label| {
                    let mut bytes = vec![0; n_label_bytes];
                    bytes[0] = label;
                    bytes
                })
                .collect();
            archive.start_file(format!("{x}.npy"), options).unwrap();
            archive
                .write_all(&npy("|u1", false, &[50, 28, 28], &images))
                .unwrap();
            archive.start_file(format!("{y}.npy"), options).unwrap();
            archive
                .write_all(&npy(label_dtype, false, &[50], &labels))
                .unwrap();
        }
        archive.finish().unwrap();
    };
    write_npz(zip::CompressionMethod::Stored, "|u1", 1);
    assert!(train("mnist.npz") == from_folder);
    write_npz(zip::CompressionMethod::Deflated, "<i8", 8);
    assert!(train("mnist.npz") == from_folder);
}

#[test]
fn a_log_or_pictures_in_the_place_of_other_files_are_refused_before_training() {
    let folder = Folder::new();
    write_toy_mnist(&folder, 30);
    folder.write("labels.npy", b"");
    let train = format!("train --data mnist {QUICK} --force");
    for (arguments, message) in [
        ("-o m --log m", "m: --log would write it as well as -o"),
        ("-o m --log ./m", "./m: --log would write it as well as -o"),
        (
            "-o m --save-state --log mnist/../m.state",
            "mnist/../m.state: --log would write it as well as --save-state",
        ),
        ("-o m --plots m", "m: --plots would write it as well as -o"),
        (
            "-o m --log mnist/learning.svg --plots mnist",
            "mnist/learning.svg: --plots would write it as well as --log",
        ),
        (
            "--teacher labels.npy --log labels.npy",
            "labels.npy: --log would write it, and it is read",
        ),
        (
            "--log mnist/train-images-idx3-ubyte",
            "mnist/train-images-idx3-ubyte: --log would write it, and it is read",
        ),
    ] {
        folder.fails(&format!("{train} {arguments}"), message, "");
    }
    folder.fails(
        "train --data mnist --resume m -o n --log m.state --force",
        "m.state: --log would write it, and it is read",
        "give another name with --log",
    );
}

#[test]
fn data_that_cannot_be_used_are_named_with_the_figure() {
    let folder = Folder::new();
    write_toy_mnist(&folder, 30);
    let train = format!("train --data mnist {QUICK}");
    folder.fails(
        "train --data nowhere",
        "nowhere: no such file or folder",
        "",
    );
    folder.fails(
        "train --data mnist --classes 7",
        "training label 7 (sample 7) is beyond the 7 classes 0..=6; give --classes 8 or more",
        "",
    );
    let images = "mnist/train-images-idx3-ubyte";
    let good = folder.read(images);
    folder.write(images, &good[..good.len() - 1]);
    folder.fails(
        &train,
        &format!(
            "{images}: truncated: the header promises 23520 bytes of data, the file has 23519; copy or write it again"
        ),
        "",
    );
    folder.write(images, &[&good[..], &[0]].concat());
    folder.fails(
        &train,
        &format!("{images}: more data than the 23520 bytes"),
        "promises",
    );
    folder.write(images, &idx(0x0D03, &[30, 28, 28], &good[16..]));
    folder.fails(
        &train,
        &format!("{images}: IDX magic number 0x00000d03; expected 0x00000803"),
        "(images of unsigned bytes)",
    );
    folder.write(images, &idx(0x803, &[29, 28, 28], &good[16..][..29 * 784]));
    folder.fails(
        &train,
        &format!("{images}: 29 images, but"),
        "has 30 labels",
    );
    folder.write(images, &idx(0x803, &[0, 28, 28], &[]));
    folder.write("mnist/train-labels-idx1-ubyte", &idx(0x801, &[0], &[]));
    folder.fails(&train, &format!("{images}: no images"), "");
    fs::remove_file(folder.join(images)).unwrap();
    folder.fails(
        &train,
        "mnist: no train-images-idx3-ubyte, gzipped or not;",
        ".npz file",
    );

    folder.write("x.npz", b"not a zip file");
    folder.fails(
        "train --data x.npz",
        "x.npz: no readable .npz archive: ",
        "",
    );
    let mut archive = zip::ZipWriter::new(fs::File::create(folder.join("y.npz")).unwrap());
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    archive.start_file("x_train.npy", stored).unwrap();
    archive
        .write_all(&npy("<f4", false, &[1, 784], &[0; 4 * 784]))
        .unwrap();
    archive.start_file("y_train.npy", stored).unwrap();
    archive.write_all(&npy("|u1", false, &[1], &[0])).unwrap();
    archive.start_file("labels.npy", stored).unwrap();
    archive.finish().unwrap();
    folder.fails(
        "train --data y.npz",
        "y.npz: x_train: dtype f32; expected u8 (pixels from 0 to 255)",
        "",
    );
}

#[test]
fn arrays_of_an_npz_that_cannot_be_used_are_named() {
    let folder = Folder::new();
    let fails = |arrays: &[(&str, Vec<u8>)], start: &str, end: &str| {
        let file = fs::File::create(folder.join("x.npz")).unwrap();
        let mut archive = zip::ZipWriter::new(file);
        let stored = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored);
        for (name, array) in arrays {
            archive.start_file(format!("{name}.npy"), stored).unwrap();
            archive.write_all(array).unwrap();
        }
        archive.finish().unwrap();
        folder.fails("train --data x.npz", start, end);
    };
    let images = || ("x_train", npy("|u1", false, &[2, 28, 28], &pixels(2)));
    fails(
        &[images(), ("labels", npy("|u1", false, &[2], &[0, 1]))],
        "x.npz: y_train: no array \"y_train\" in this .npz; it holds ",
        "labels",
    );
    fails(
        &[images(), ("y_train", npy("|i1", false, &[2], &[0, 0xFF]))],
        "x.npz: y_train: label -1 (sample 1); expected whole numbers from 0 on",
        "",
    );
    fails(
        &[images(), ("y_train", npy("<u4", false, &[2], &[0xFF; 8]))],
        "training label 4294967295 (sample 0) is beyond the 100 classes 0..=99; give --classes 4294967296",
        "or more",
    );
    fails(
        &[images(), ("y_train", npy("<f4", false, &[2], &[0; 8]))],
        "x.npz: y_train: dtype f32; expected integer labels",
        "",
    );
    fails(
        &[images(), ("y_train", npy("|u1", false, &[2, 2], &[0; 4]))],
        "x.npz: y_train: shape [2, 2]; expected one label an image: (N,) or (N, 1)",
        "",
    );
    fails(
        &[images(), ("y_train", npy("|u1", false, &[3], &[0; 3]))],
        "x.npz: x_train: 2 images, but x.npz: y_train has 3 labels",
        "",
    );
    let fortran = ("x_train", npy("|u1", true, &[2, 28, 28], &pixels(2)));
    fails(
        &[fortran, ("y_train", npy("|u1", false, &[2], &[0, 1]))],
        "x.npz: x_train: shape [2, 28, 28]; expected images in C order",
        "",
    );
}

#[test]
fn labels_names_and_shares_that_do_not_fit_are_refused_before_training() {
    let folder = Folder::new();
    write_toy_mnist(&folder, 30);
    let train = format!("train --data mnist {QUICK}");
    let labels = "mnist/train-labels-idx1-ubyte";
    let good = folder.read(labels);
    folder.write(labels, &good[..good.len() - 2]);
    folder.fails(
        &train,
        &format!("{labels}: truncated: the header promises 30 bytes of data, the file has 28; copy or write it again"),
        "",
    );
    folder.write(labels, &good[..5]);
    folder.fails(
        &train,
        &format!("{labels}: truncated: the file ends inside its header"),
        "",
    );
    folder.write(labels, &idx(0x803, &[30, 1, 1], &good[8..]));
    folder.fails(
        &train,
        &format!("{labels}: IDX magic number 0x00000803; expected 0x00000801"),
        "(labels of unsigned bytes)",
    );
    folder.write(labels, &good);
    let test_labels = "mnist/t10k-labels-idx1-ubyte";
    let mut wrong = folder.read(test_labels);
    wrong[8 + 4] = 200;
    folder.write(test_labels, &wrong);
    folder.fails(
        &train,
        "test label 200 (sample 4) is beyond the 10 classes 0..=9; give --classes 201 or more",
        "",
    );
    folder.write(test_labels, &good);
    folder.write("mnist/classes.txt", "x\n".repeat(11).as_bytes());
    folder.fails(
        &train,
        "classes.txt names 11 classes; expected at most the 10 of the network; give --classes 11",
        "or more",
    );
    folder.write("mnist/classes.txt", b"1\tone\n");
    folder.fails(
        &train,
        "mnist/classes.txt: line 1: label \"1\"; expected 0, labels in order from 0",
        "",
    );
    fs::remove_file(folder.join("mnist/classes.txt")).unwrap();
    write_toy_mnist(&folder, 1);
    folder.fails(
        &format!("{train} --validation 0.9"),
        "--validation 0.9 leaves nothing of 1 training images",
        "",
    );
}

#[test]
fn an_output_that_exists_is_kept_unless_forced() {
    let folder = Folder::new();
    write_toy_mnist(&folder, 30);
    folder.write("model.safetensors", b"precious");
    let train = format!("train --data mnist {QUICK}");
    folder.fails(
        &train,
        "model.safetensors exists already; give another name with -o, or --force to replace it",
        "",
    );
    assert_eq!(folder.read("model.safetensors"), b"precious");
    folder.run(&format!("{train} --force"), 0);
    assert!(folder.read("model.safetensors").len() > 1000);
    folder.fails(
        &format!("{train} -o nowhere/model.safetensors"),
        "cannot write nowhere/model.safetensors: there is no folder nowhere; make it first",
        "",
    );
    folder.fails(
        &format!("{train} -o models/"),
        "models/ is a folder",
        "with -o",
    );
    for input in ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"] {
        folder.fails(
            &format!("{train} --force -o mnist/{input}"),
            &format!("mnist/{input} is the input as well as the output"),
            "with -o",
        );
    }
    folder.fails(&format!("{train} -o mnist"), "mnist is a folder", "with -o");
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_what_there_is() {
    use std::io::{BufRead, BufReader, Read};

    let folder = Folder::new();
    write_toy_mnist(&folder, 200);
    let mut child = folder.start("train --data mnist --epochs 1000000 --classes 10");
    assert!(!folder.join("model.safetensors").exists());
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("epoch ") {
        line.clear();
        assert!(stdout.read_line(&mut line).unwrap() > 0);
    }
    send("INT", child.id());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest}");
    assert!(rest.ends_with("training stopped early)\n"), "{rest}");
    assert_eq!(folder.names(), ["mnist", "model.safetensors"]);
    let checkpoint = Checkpoint::from_bytes(&folder.read("model.safetensors")).unwrap();
    let metrics = checkpoint.info.unwrap().metrics.unwrap();
    let dataset = Dataset::open(&folder.join("mnist")).unwrap();
    let evaluation = Predictor::new(checkpoint.weights).evaluate(&dataset.test.unwrap());
    assert_eq!(metrics.test, Some(evaluation));
}

#[cfg(unix)]
#[test]
fn a_closed_pipe_does_not_cost_the_model() {
    let folder = Folder::new();
    write_toy_mnist(&folder, 50);
    let mut child = folder.start(&format!("train --data mnist {QUICK}"));
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(folder.names(), ["mnist", "model.safetensors"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_hangup_is_ignored_under_nohup() {
    let folder = Folder::new();
    write_toy_mnist(&folder, 200);
    let script = format!(
        "trap '' HUP; '{}' train --data mnist --classes 10 --epochs 300 & \
         sleep 1; kill -HUP $!; wait $!",
        PC
    );
    let output = std::process::Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert!(stdout.ends_with("(weights of epoch 300)\n"), "{stdout}");
}

/// Sends a signal by name.
#[cfg(unix)]
pub fn send(signal: &str, process: u32) {
    let status = std::process::Command::new("kill")
        .args([format!("-{signal}"), process.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}
