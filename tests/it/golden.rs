//! Files that were written once and must decode to the same bits for ever.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use pc::huffman::frame::DEFAULT_MEMORY_LIMIT;
use pc::huffman::{FileIndex, FrameReader, ReferenceRows};
use pc::pipeline::reference::References;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The CRC-32 of values as little-endian float32.
fn checksum(values: &[f32]) -> u32 {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    crc32fast::hash(&bytes)
}

#[test]
fn golden_files_decode_to_the_same_bits() {
    let index = fs::read_to_string(folder().join("index.txt")).unwrap();
    let mut n_files = 0;
    for line in index.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let [name, n_rows, n_classes, expected] = std::array::from_fn(|_| words.next().unwrap());
        let paths: Vec<PathBuf> = words.map(|name| folder().join(name)).collect();
        let references = References::open(&paths, DEFAULT_MEMORY_LIMIT).unwrap();
        let find = |needed: &ReferenceRows| references.find(needed);
        let bytes = fs::read(folder().join(name)).unwrap();
        let mut reader = FrameReader::new(&bytes[..]).unwrap();
        assert_eq!(reader.header().classes.to_string(), n_classes, "{name}");
        let mut values = Vec::new();
        while let Some(block) = reader.next_block_with(find).unwrap() {
            values.extend_from_slice(block.values());
        }
        assert_eq!(reader.summary().n_rows.to_string(), n_rows, "{name}");
        assert_eq!(format!("{:08x}", checksum(&values)), expected, "{name}");

        let mut file = Cursor::new(&bytes);
        let index = FileIndex::read_from(&mut file).unwrap();
        let all = index
            .read_rows_with(&mut file, 0..index.summary().n_rows, find)
            .unwrap();
        assert_eq!(checksum(all.values()), checksum(&values), "{name}");
        n_files += 1;
    }
    let files = fs::read_dir(folder()).unwrap();
    let n_huff = files
        .filter(|file| {
            file.as_ref()
                .unwrap()
                .path()
                .extension()
                .is_some_and(|e| e == "huff")
        })
        .count();
    assert!(n_files >= 99);
    assert_eq!(n_files, n_huff, "every file is listed");
}
