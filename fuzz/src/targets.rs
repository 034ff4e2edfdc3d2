//! What is fuzzed, as functions of any bytes: the fuzz targets and the tests that replay the corpus share
//! them.

#![allow(dead_code)]

use std::io::Cursor;

use pc::huffman::{Bound, FileIndex, FrameHeader, FrameReader, FrameWriter, Kind, Promise};
use pc::matrix::PredictionMatrix;

/// What a decoder may allocate by sizes in a file.
const MEMORY: u64 = 1 << 22;

/// The first bytes choose the promise, the rest are the values: what is accepted comes back as promised,
/// from a stream and by the index.
pub fn round_trip(data: &[u8]) {
    let Some((promise, n_classes, data)) = read_promise(data) else {
        return;
    };
    let Ok(header) = FrameHeader::new(n_classes, promise) else {
        return;
    };
    let (words, _) = data.as_chunks::<4>();
    let mut values: Vec<f32> = words.iter().map(|&word| f32::from_le_bytes(word)).collect();
    values.truncate(values.len() / n_classes * n_classes);
    if let Bound::MaxKl(_) = promise.bound {
        make_distributions(&mut values, n_classes);
    }
    let matrix = PredictionMatrix::new(n_classes, values);

    let mut writer = FrameWriter::new(Vec::new(), header).expect("a valid header");
    if writer.write(&matrix).is_err() {
        // Not what is promised of: no probabilities, or no numbers.
        return;
    }
    let (bytes, written, _) = writer.finish().expect("writing to memory");
    assert_eq!(written.n_rows, matrix.n_rows() as u64);

    let mut reader = FrameReader::new(&bytes[..]).expect("a frame");
    let mut decoded = Vec::new();
    while let Some(block) = reader.next_block().expect("a whole frame") {
        decoded.extend_from_slice(block.values());
    }
    let decoded = PredictionMatrix::new(n_classes, decoded);
    assert_eq!(decoded.n_rows(), matrix.n_rows());
    for (original, decoded) in matrix.rows().zip(decoded.rows()) {
        let is_same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
        assert!(
            promise.measure(original, decoded).is_some()
                || original.iter().zip(decoded).all(is_same)
        );
    }

    let mut file = Cursor::new(&bytes);
    let index = FileIndex::read_from(&mut file).expect("a whole file");
    let rows = written.n_rows / 3..written.n_rows;
    let some = index.read_rows(&mut file, rows.clone()).expect("rows");
    let all = &decoded.values()[rows.start as usize * n_classes..];
    assert!(
        some.values()
            .iter()
            .zip(all)
            .all(|(a, b)| a.to_bits() == b.to_bits())
    );
}

/// Any bytes as a file.
pub fn decode(data: &[u8]) {
    if let Ok(mut reader) = FrameReader::with_memory_limit(data, MEMORY) {
        while let Ok(Some(block)) = reader.next_block() {
            assert_eq!(block.n_classes(), reader.header().classes);
        }
    }
    let mut file = Cursor::new(data);
    if let Ok(index) = FileIndex::with_memory_limit(&mut file, MEMORY) {
        for block in 0..index.n_blocks() {
            let _ = index
                .read_block(&mut file, block)
                .map(|block| block.decode());
        }
    }
}

/// Any bytes as the payload of a block behind a valid header, with the right checksum.
pub fn decode_repaired(data: &[u8]) {
    let Some((promise, n_classes, data)) = read_promise(data) else {
        return;
    };
    let Some((&n_rows, payload)) = data.split_first() else {
        return;
    };
    let Ok(header) = FrameHeader::new(n_classes, promise) else {
        return;
    };
    let mut bytes = start_of_frame(header);
    let mut block = vec![b'B', n_rows & 0x7F];
    let mut n_left = payload.len();
    while n_left >= 0x80 {
        block.push(n_left as u8 | 0x80);
        n_left >>= 7;
    }
    block.push(n_left as u8);
    block.extend_from_slice(payload);
    let checksum = crc32fast::hash(&block);
    block.extend(checksum.to_le_bytes());
    bytes.extend(block);
    let mut reader = FrameReader::with_memory_limit(&bytes[..], 1 << 26).expect("a header");
    if let Ok(Some(block)) = reader.next_block() {
        assert_eq!(block.n_rows(), usize::from(n_rows & 0x7F));
    }
}

/// The bytes of a header.
fn start_of_frame(header: FrameHeader) -> Vec<u8> {
    let writer = FrameWriter::new(Vec::new(), header).expect("a valid header");
    let (mut bytes, _, _) = writer.finish().expect("writing to memory");
    let (_, end) = bytes.split_at(bytes.len() - 8);
    let n_index_bytes = u32::from_le_bytes(end[..4].try_into().expect("4 bytes"));
    bytes.truncate(bytes.len() - n_index_bytes as usize);
    bytes
}

/// A promise and a number of classes.
fn read_promise(data: &[u8]) -> Option<(Promise, usize, &[u8])> {
    let (&[kind, bound, fineness, keep_top, low, high], data) = data.split_first_chunk()?;
    let kind = [Kind::Probabilities, Kind::Logits, Kind::Values][usize::from(kind % 3)];
    let size = 0.5f64.powi(i32::from(fineness % 32) + 1);
    let bound = match bound % 3 {
        0 => Bound::MaxError(size),
        1 => Bound::MaxKl(size),
        _ => Bound::Exact,
    };
    let promise = Promise {
        kind,
        bound,
        keep_top: usize::from(keep_top % 8) + 1,
    };
    // Mostly few classes, so that there are rows.
    let n_classes = match high {
        0..=199 => usize::from(low % 32) + 1,
        200..=249 => usize::from(low) * 3 + 1,
        _ => usize::from(low) * 300 + 1,
    };
    Some((promise, n_classes, data))
}

/// Makes the rows distributions.
fn make_distributions(values: &mut [f32], n_classes: usize) {
    for row in values.chunks_exact_mut(n_classes) {
        for value in row.iter_mut() {
            *value = if value.is_finite() {
                value.abs().min(1.0)
            } else {
                0.0
            };
        }
        row[0] += 1e-6;
        let sum: f64 = row.iter().map(|&p| f64::from(p)).sum();
        row.iter_mut()
            .for_each(|p| *p = (f64::from(*p) / sum) as f32);
    }
}
