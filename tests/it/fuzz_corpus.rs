//! What the fuzzer has found worth keeping, run once more: see fuzz/.

use std::fs;
use std::path::Path;

#[path = "../../fuzz/src/targets.rs"]
mod targets;

fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let mut n_inputs = 0;
    for file in fs::read_dir(&folder).unwrap() {
        target(&fs::read(file.unwrap().path()).unwrap());
        n_inputs += 1;
    }
    assert!(n_inputs >= 20, "{n_inputs} inputs in {}", folder.display());
}

#[test]
fn round_trips() {
    replay("round_trip", targets::round_trip);
}

#[test]
fn any_bytes_as_a_file() {
    replay("decode", targets::decode);
}

#[test]
fn any_bytes_as_a_payload() {
    replay("decode_repaired", targets::decode_repaired);
}
