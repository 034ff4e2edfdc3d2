//! `pc append`: whatever happens, the rows before stay readable.

use std::fs::{self, File};
use std::io::Cursor;

use pc::huffman::{Bound, FileIndex, FrameHeader, Promise};
use pc::matrix::PredictionMatrix;

use crate::common::{Folder, read_npy};
use crate::frames::{frame, frame_with, huff, matrix, npy, promise};

/// The values that `pc decode` with these arguments gives, which must exit with 0.
#[track_caller]
fn decode(folder: &Folder, arguments: &str) -> Vec<f32> {
    folder.run(&format!("decode {arguments} -q -o decoded.npy --force"), 0);
    let (_, _, values) = read_npy(&folder.read("decoded.npy"));
    fs::remove_file(folder.join("decoded.npy")).unwrap();
    values
}

#[test]
fn rows_are_appended_under_the_promise_of_those_before() {
    let folder = Folder::new();
    for (bound, keep_top) in [
        (Bound::MaxError(0.01), 2),
        (Bound::MaxKl(0.001), 1),
        (Bound::Exact, 1),
    ] {
        let promise = Promise {
            keep_top,
            ..promise(bound)
        };
        folder.write("log.huff", &frame(&matrix(25, 0), promise));
        folder.write("more.npy", &npy(&matrix(7, 1)));
        let said = folder.run("append log.huff more.npy", 0);
        assert!(
            said.stdout.starts_with("appended 7 rows to log.huff: "),
            "{}",
            said.stdout
        );
        folder.run("append log.huff more.npy -q", 0);
        let parts = [&matrix(25, 0), &matrix(7, 1), &matrix(7, 1)].map(|m| frame(m, promise));
        assert_eq!(folder.read("log.huff"), parts.concat());
    }
    // Names of the classes stay; nobody knows which model the new rows are from.
    let header = FrameHeader {
        class_names: Some(vec!["a".into(), "b".into(), "c".into()]),
        model_sha256: Some("abc123".into()),
        ..FrameHeader::new(3, promise(Bound::Exact)).unwrap()
    };
    folder.write("log.huff", &frame_with(&matrix(3, 0), header));
    folder.run("append log.huff more.npy", 0);
    let said = folder.run("inspect log.huff", 0).stdout;
    assert!(said.contains("class names    a, b, c\n"), "{said}");
    let index = FileIndex::read_from(&mut Cursor::new(folder.read("log.huff"))).unwrap();
    let [before, appended] = index.headers() else {
        panic!("two headers");
    };
    assert!(before.model_sha256.is_some() && appended.model_sha256.is_none());
    assert_eq!(appended.class_names, before.class_names);
    folder.run("verify log.huff", 0);
    assert_eq!(folder.names(), ["log.huff", "more.npy"]);
}

#[test]
fn rows_that_do_not_fit_leave_the_file_as_it_was() {
    let folder = Folder::new();
    let good = huff(25, 0);
    folder.write("log.huff", &good);
    let wide = PredictionMatrix::new(5, matrix(5, 0).into_values());
    folder.write("wide.npy", &npy(&wide));
    folder.write(
        "bad.npy",
        &npy(&PredictionMatrix::new(3, vec![0.5, 0.5, 2.0])),
    );
    folder.write("cut.npy", &npy(&matrix(7, 1))[..150]);
    folder.write("none.npy", &npy(&matrix(0, 1)));
    folder.fails(
        "append log.huff wide.npy",
        "wide.npy: 5 classes; log.huff has 3",
        "",
    );
    folder.fails(
        "append log.huff bad.npy",
        "bad.npy: row 0, class 2: 2 is not a probability",
        "",
    );
    folder.fails("append log.huff cut.npy", "cut.npy: truncated: ", "again");
    folder.fails("append log.huff log.huff", "log.huff: ", "");
    folder.fails(
        "append log.huff nowhere",
        "nowhere: no such file or folder",
        "",
    );
    folder.fails("append . none.npy", ".: a folder", "");
    folder.fails("append none.npy none.npy", "none.npy: not a .huff file", "");
    folder.fails(
        "append nowhere none.npy",
        "nowhere: no such file; make it with pc compress first",
        "",
    );
    let said = folder.run("append log.huff none.npy", 0);
    assert!(
        said.stdout.starts_with("log.huff: no rows to append"),
        "{}",
        said.stdout
    );
    assert_eq!(folder.read("log.huff"), good);
}

#[cfg(unix)]
#[test]
fn pipes_are_refused_without_waiting_and_read_only_files_stay() {
    let folder = Folder::new();
    folder.write("more.npy", &npy(&matrix(7, 1)));
    let made = std::process::Command::new("mkfifo")
        .arg(folder.join("pipe"))
        .status();
    if made.is_ok_and(|status| status.success()) {
        folder.fails("append pipe more.npy", "pipe: not a regular file", "");
    }
}

#[test]
fn two_appends_at_once_do_not_mix() {
    let folder = Folder::new();
    folder.write("log.huff", &huff(25, 0));
    folder.write("more.npy", &npy(&matrix(7, 1)));
    let file = File::open(folder.join("log.huff")).unwrap();
    file.lock().unwrap();
    folder.fails(
        "append log.huff more.npy",
        "log.huff: another pc append is at work on it",
        "when it is done",
    );
    // Readers do not mind.
    folder.run("verify log.huff", 0);
    file.unlock().unwrap();
    folder.run("append log.huff more.npy", 0);

    let mut children: Vec<_> = (0..8)
        .map(|_| folder.pc("append -q log.huff more.npy").spawn().unwrap())
        .collect();
    let codes = children
        .iter_mut()
        .map(|child| child.wait().unwrap().code());
    let n_done = codes.filter(|&code| code == Some(0)).count();
    assert!(n_done >= 1);
    assert_eq!(decode(&folder, "log.huff").len(), 3 * (25 + 7 + 7 * n_done));
}

#[test]
fn an_append_cut_short_at_any_byte_costs_nothing_but_itself() {
    let folder = Folder::new();
    let before = [huff(25, 0), huff(9, 1)].concat();
    let next = huff(7, 2);
    folder.write("log.huff", &before);
    folder.write("more.npy", &npy(&matrix(7, 2)));
    let rows_before = decode(&folder, "log.huff");
    assert_eq!(rows_before.len(), 3 * 34);
    let whole = [&before[..], &next].concat();
    for n_bytes in 1..next.len() {
        folder.write("log.huff", &whole[..before.len() + n_bytes]);
        // It is noticed, and named with the way out.
        let start = format!("log.huff: after 34 rows, at byte {}, ", before.len());
        for command in ["decode", "verify", "decode --rows 30.."] {
            folder.fails(&format!("{command} log.huff"), &start, "to keep the rows");
        }
        let said = folder.run("inspect log.huff", 1);
        assert!(
            said.stdout.contains("  rows           34\n"),
            "{}",
            said.stdout
        );
        // The rows before are there.
        assert!(decode(&folder, "log.huff --skip-damaged") == rows_before);
        assert!(decode(&folder, "log.huff --rows 10..34") == rows_before[30..]);
        // The next append mends it.
        let said = folder.run("append log.huff more.npy", 0);
        assert_eq!(
            said.stderr,
            format!(
                "warning: log.huff: dropped {n_bytes} bytes after the last whole frame, from an append that was cut short\n"
            )
        );
        assert!(folder.read("log.huff") == whole, "{n_bytes}");
    }
    // Blocks that the system never wrote.
    folder.write("log.huff", &[&before[..], &[0; 5000]].concat());
    assert!(decode(&folder, "log.huff --skip-damaged") == rows_before);
    folder.run("append log.huff more.npy", 0);
    assert_eq!(folder.read("log.huff"), whole);
}

#[test]
fn damage_before_whole_frames_is_not_cut_off() {
    let folder = Folder::new();
    folder.write("more.npy", &npy(&matrix(7, 2)));
    let frames = [huff(25, 0), huff(9, 1), huff(8, 2), huff(7, 3)];
    for n_cut in [0, 30] {
        // In the header of the second frame.
        let mut bytes = frames.concat();
        bytes[frames[0].len() + 20] ^= 1;
        bytes.truncate(bytes.len() - n_cut);
        folder.write("log.huff", &bytes);
        match n_cut {
            // From the end on, all is well: there is a whole frame to go on from.
            0 => {
                folder.run("append log.huff more.npy", 0);
                assert!(folder.read("log.huff").starts_with(&bytes));
            }
            _ => {
                folder.fails(
                    "append log.huff more.npy",
                    &format!("log.huff: damaged at byte {} or after it", frames[0].len()),
                    "",
                );
                assert_eq!(folder.read("log.huff"), bytes);
            }
        }
    }
    folder.write("log.huff", &frames[0][..frames[0].len() - 1]);
    folder.fails("append log.huff more.npy", "log.huff: truncated: ", "again");
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_full_leaves_the_file_as_it_was() {
    let folder = Folder::new();
    // Files may have three times 512 bytes: the new frame alone fits, but not behind the others.
    let mut before = huff(25, 0);
    for seed in 1.. {
        before.extend(huff(25, seed));
        if before.len() > 1200 {
            break;
        }
    }
    assert!(before.len() < 1500 && before.len() + huff(400, 1).len() > 1536);
    folder.write("log.huff", &before);
    folder.write("more.npy", &npy(&matrix(400, 1)));
    let command = format!(
        "trap '' XFSZ; ulimit -f 3; exec {} append log.huff more.npy",
        crate::common::PC
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &command])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.starts_with("error: cannot write log.huff: File too large"),
        "{stderr}"
    );
    assert_eq!(folder.read("log.huff"), before);
    assert_eq!(folder.names(), ["log.huff", "more.npy"]);
}

#[cfg(unix)]
#[test]
fn a_kill_at_any_time_costs_nothing_but_the_append() {
    use std::time::{Duration, Instant};

    const N_KILLS: usize = 200;
    const N_ROWS: usize = 40;
    let folder = Folder::new();
    folder.write("log.huff", &huff(N_ROWS, 0));
    let mut rows = decode(&folder, "log.huff");
    let of_seed = |seed| {
        folder.write("one.huff", &huff(N_ROWS, seed));
        decode(&folder, "one.huff")
    };
    // How long an append takes here.
    folder.write("more.npy", &npy(&matrix(N_ROWS, 1)));
    let started = Instant::now();
    folder.run("append -q log.huff more.npy", 0);
    let longest = started.elapsed().as_micros() as u64;
    rows.extend(of_seed(1));
    let (mut n_done, mut n_torn) = (0, 0);
    for kill in 0..N_KILLS {
        let seed = 2 + kill;
        folder.write("more.npy", &npy(&matrix(N_ROWS, seed)));
        let mut child = folder
            .pc("append log.huff more.npy")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let micros = (kill as u64 * 2_654_435_761) % longest;
        std::thread::sleep(Duration::from_micros(micros));
        child.kill().unwrap();
        child.wait().unwrap();
        n_torn += usize::from(
            !folder
                .pc("verify -q log.huff")
                .output()
                .unwrap()
                .status
                .success(),
        );
        let found = decode(&folder, "log.huff --skip-damaged");
        assert!(found.starts_with(&rows), "after {kill} kills");
        if found.len() > rows.len() {
            rows.extend(of_seed(seed));
            n_done += 1;
        }
        assert!(found == rows, "after {kill} kills");
    }
    println!("{N_KILLS} appends killed: {n_done} had done their work, {n_torn} left bytes");
    // All that is left over is what the next append drops.
    folder.run("append -q log.huff more.npy", 0);
    folder.run("verify -q log.huff", 0);
    assert_eq!(folder.names(), ["log.huff", "more.npy", "one.huff"]);
}

#[test]
fn classes_keep_their_order() {
    let folder = Folder::new();
    folder.write("a.csv", b"cat,dog\n0.9,0.1\n0.2,0.8\n");
    folder.write("b.csv", b"dog,cat\n0.9,0.1\n0.2,0.8\n");
    folder.write("c.csv", b"p_cat,p_dog\n0.9,0.1\n0.2,0.8\n");
    folder.run("compress a.csv -o log.huff --exact", 0);
    let before = folder.read("log.huff");
    let message = "b.csv: class 0 is \"dog\", in log.huff it is \"cat\"; put the columns";
    folder.fails("append log.huff b.csv", message, "");
    folder.fails("verify log.huff b.csv", message, "");
    folder.fails("compress b.csv -o b.huff --reference log.huff", message, "");
    folder.fails(
        "compress b.csv -o b.huff --reference a.csv",
        &message.replace("log.huff", "a.csv"),
        "",
    );
    assert_eq!(folder.read("log.huff"), before);
    // Other names may be the same classes.
    let said = folder.run("append log.huff c.csv", 0);
    assert!(said.stderr.contains("other names"), "{}", said.stderr);
    folder.run("append log.huff b.csv --columns cat,dog", 0);
    folder.run("decode log.huff -o log.csv", 0);
    let rows = String::from_utf8(folder.read("log.csv")).unwrap();
    assert_eq!(
        rows,
        "cat,dog\n0.9,0.1\n0.2,0.8\n0.9,0.1\n0.2,0.8\n0.1,0.9\n0.8,0.2\n"
    );
}
