//! Every field of a file at 0 and at its maximum, with checksums that are right: an error of the right
//! kind, or nothing at all.

use std::io::Cursor;

use pc::huffman::{Bound, Error, FileIndex, FrameHeader, FrameReader, FrameWriter, Kind, Promise};
use pc::matrix::PredictionMatrix;

const N_CLASSES: usize = 3;

/// The fields of a frame of one block.
#[derive(Clone)]
struct Fields {
    version: u8,
    /// Stated, if not the right one.
    n_json: Option<u64>,
    json: String,
    /// What stands for the JSON, if not itself.
    abbreviated: Option<Vec<u8>>,
    block_tag: u8,
    n_rows: u64,
    n_payload: Option<u64>,
    payload: Vec<u8>,
    index_tag: u8,
    n_header: Option<u64>,
    n_blocks: u64,
    rows_in_index: u64,
    bytes_in_index: Option<u64>,
    n_exact: u64,
    largest_error: f64,
    n_index: Option<u32>,
    end_magic: [u8; 4],
}

impl Fields {
    /// Those of a small frame.
    fn new() -> Self {
        let promise = Promise::new(Kind::Probabilities, Bound::MaxError(0.1));
        let header = FrameHeader::new(N_CLASSES, promise).unwrap();
        let json = serde_json::to_string(&header).unwrap();
        let mut writer = FrameWriter::new(Vec::new(), header).unwrap();
        let rows = vec![0.9, 0.1, 0.0, 0.2, 0.3, 0.5];
        writer
            .write(&PredictionMatrix::new(N_CLASSES, rows))
            .unwrap();
        let (bytes, summary, _) = writer.finish().unwrap();
        // Magic, version, one byte of length, the abbreviated JSON, checksum; then tag, rows and length, a byte each.
        let n_abbreviated = usize::from(bytes[5]);
        let block = 4 + 1 + 1 + n_abbreviated + 4;
        let n_payload = usize::from(bytes[block + 2]);
        let mut fields = Self {
            version: 13,
            n_json: None,
            json,
            abbreviated: Some(bytes[6..6 + n_abbreviated].to_vec()),
            block_tag: b'B',
            n_rows: 2,
            n_payload: None,
            payload: bytes[block + 3..block + 3 + n_payload].to_vec(),
            index_tag: b'I',
            n_header: None,
            n_blocks: 1,
            rows_in_index: 2,
            bytes_in_index: None,
            n_exact: 0,
            largest_error: summary.figures.largest_error,
            n_index: None,
            end_magic: *b"HUF\n",
        };
        assert_eq!(
            fields.to_bytes(),
            bytes,
            "the fields are those of the format"
        );
        fields.abbreviated = None;
        fields
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut header = vec![0x89, b'H', b'U', b'F', self.version];
        let text = self.abbreviated.as_deref().unwrap_or(self.json.as_bytes());
        varint(&mut header, self.n_json.unwrap_or(text.len() as u64));
        header.extend(text);
        checksum(&mut header);

        let mut block = vec![self.block_tag];
        varint(&mut block, self.n_rows);
        varint(
            &mut block,
            self.n_payload.unwrap_or(self.payload.len() as u64),
        );
        block.extend(&self.payload);
        checksum(&mut block);

        let mut index = vec![self.index_tag];
        varint(&mut index, self.n_header.unwrap_or(header.len() as u64));
        varint(&mut index, self.n_blocks);
        varint(&mut index, self.rows_in_index);
        varint(
            &mut index,
            self.bytes_in_index.unwrap_or(block.len() as u64),
        );
        varint(&mut index, self.n_exact);
        index.extend(self.largest_error.to_le_bytes());
        checksum(&mut index);
        index.extend(self.n_index.unwrap_or(index.len() as u32 + 8).to_le_bytes());
        index.extend(self.end_magic);
        [header, block, index].concat()
    }
}

fn varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn checksum(bytes: &mut Vec<u8>) {
    let checksum = crc32fast::hash(bytes);
    bytes.extend(checksum.to_le_bytes());
}

/// What reading the stream gives.
fn read(bytes: &[u8]) -> Result<usize, Error> {
    let mut reader = FrameReader::new(bytes)?;
    let mut n_rows = 0;
    while let Some(block) = reader.next_block()? {
        n_rows += block.n_rows();
    }
    Ok(n_rows)
}

/// What reading by the index gives.
fn read_by_index(bytes: &[u8]) -> Result<usize, Error> {
    let mut file = Cursor::new(bytes);
    let index = FileIndex::read_from(&mut file)?;
    let n_rows = index.summary().n_rows;
    Ok(index.read_rows(&mut file, 0..n_rows)?.n_rows())
}

/// The largest number that a varint can be.
const MAX: u64 = u64::MAX >> 1;

#[track_caller]
fn assert_refused(change: impl Fn(&mut Fields), is_expected: fn(&Error) -> bool) {
    let mut fields = Fields::new();
    change(&mut fields);
    let bytes = fields.to_bytes();
    match read(&bytes) {
        Ok(_) => panic!("it was accepted"),
        Err(error) => assert!(is_expected(&error), "{error:?}"),
    }
    assert!(
        read_by_index(&bytes).is_err(),
        "it was accepted by the index"
    );
}

#[test]
fn the_frame_itself_is_read() {
    let bytes = Fields::new().to_bytes();
    assert_eq!(read(&bytes).unwrap(), 2);
    assert_eq!(read_by_index(&bytes).unwrap(), 2);
}

#[test]
fn what_a_version_brought_is_refused_in_those_before() {
    let is_of_version = |e: &Error| matches!(e, Error::Corrupt(what) if what.contains("version"));
    let is_other = |e: &Error| !matches!(e, Error::Corrupt(what) if what.contains("version"));
    for bit in [0x40, 0x80] {
        let with_bit = |version: u8| {
            move |fields: &mut Fields| {
                fields.version = version;
                fields.payload[0] |= bit;
            }
        };
        assert_refused(with_bit(1), is_of_version);
        let with_reference = move |fields: &mut Fields| {
            with_bit(2)(fields);
            let of_reference = format!(
                r#","reference":{{"sha256":"{}","rows":9}}}}"#,
                "0".repeat(64)
            );
            fields.json.truncate(fields.json.len() - 1);
            fields.json += &of_reference;
        };
        assert_refused(with_reference, is_of_version);
        // The bits are no news to version 3, but the payload is not what they say.
        assert_refused(with_bit(3), is_other);
    }
    // Several bitstreams of expected rows are news to version 3; tables and shares to version 4; minifloats and
    // spheres to version 5; steps of finenesses to version 6; repeated rows to version 7; rows after the row before to
    // version 8; block-sorted ones to version 10; rows beside earlier ones to version 11; block-sorted ones by numbers to
    // version 12.
    let of_tables_and_shares = [13, 14, 15, 0x8D, 0x8E, 0x8F, 16, 0x50, 0x90, 0xD0];
    let of_version_6 = [
        17, 18, 19, 0x51, 0x92, 0xD3, 20, 21, 0x94, 0x95, 22, 0xD6, 23, 0x57, 24, 0x98,
    ];
    let of_version_9 = [
        32, 33, 0x62, 40, 0xA9, 42, 43, 44, 48, 51, 0xB4, 53, 54, 55, 0xF8, 57, 58,
    ];
    for (version_before, first_bytes) in [
        (3, &[0x41, 0x42, 0xC1, 0xC2][..]),
        (4, &of_tables_and_shares),
        (5, &of_version_6),
        (6, &[25, 26, 0x59, 0x9A, 0xDA]),
        (7, &[27, 0x5B, 0x9B]),
        (8, &of_version_9),
        (10, &[28, 29, 30, 31, 0x9C, 0x9E]),
        (11, &[59, 60, 61, 62, 63, 0xBB, 0xBF]),
        (12, &[45, 46, 0xAD, 0xAE]),
    ] {
        for &first_byte in first_bytes {
            let of = |version: u8| {
                move |fields: &mut Fields| {
                    fields.version = version;
                    fields.payload[0] = first_byte;
                }
            };
            assert_refused(of(version_before), is_of_version);
            // The block is whole: the index says what is wrong with it, too, and does not call it damaged.
            let mut fields = Fields::new();
            of(version_before)(&mut fields);
            let error = read_by_index(&fields.to_bytes()).unwrap_err();
            assert!(is_of_version(&error), "{error}");
            assert_refused(of(version_before + 1), is_other);
        }
    }
    // Abbreviations are news to version 9: here, one for `"exact":true`.
    let abbreviated = |version: u8| {
        let mut fields = Fields::new();
        fields.version = version;
        let json = fields.json.replace("\"max_error\":0.1", "#");
        let bytes = json.bytes().map(|b| if b == b'#' { 0xF9 } else { b });
        fields.abbreviated = Some(bytes.collect());
        FrameReader::new(&fields.to_bytes()[..]).map(|reader| reader.header().promise.bound)
    };
    assert!(matches!(abbreviated(9), Err(Error::Header(_))));
    assert_eq!(abbreviated(10).unwrap(), Bound::Exact);
    let mut fields = Fields::new();
    fields.version = 1;
    assert_eq!(read(&fields.to_bytes()).unwrap(), 2);
}

#[test]
fn fields_of_the_header_at_their_ends() {
    assert_refused(|f| f.version = 0, |e| matches!(e, Error::Corrupt(_)));
    assert_refused(
        |f| f.version = 255,
        |e| matches!(e, Error::TooNew { found: 255 }),
    );
    assert_refused(
        |f| f.n_json = Some(0),
        |e| matches!(e, Error::Checksum { .. }),
    );
    assert_refused(
        |f| f.n_json = Some(MAX),
        |e| matches!(e, Error::LimitExceeded { .. }),
    );
    assert_refused(
        |f| f.n_json = Some(1 << 26),
        |e| matches!(e, Error::MemoryLimit { .. }),
    );
    assert_refused(
        |f| f.n_json = Some(1 << 23),
        |e| matches!(e, Error::Truncated { .. }),
    );
    assert_refused(
        |f| f.json = String::new(),
        |e| matches!(e, Error::Header(_)),
    );
    assert_refused(
        |f| f.json = "null".to_owned(),
        |e| matches!(e, Error::Header(_)),
    );
}

#[test]
fn members_of_the_header_at_their_ends() {
    let with = |from: &'static str, to: &'static str| {
        move |f: &mut Fields| {
            assert!(f.json.contains(from), "{}", f.json);
            f.json = f.json.replace(from, to);
        }
    };
    let classes = |e: &Error| matches!(e, Error::ClassesOutOfRange(_));
    assert_refused(with("\"classes\":3", "\"classes\":0"), classes);
    assert_refused(
        with("\"classes\":3", "\"classes\":18446744073709551615"),
        classes,
    );
    let max_error = |e: &Error| matches!(e, Error::MaxErrorOutOfRange(_));
    assert_refused(with("\"max_error\":0.1", "\"max_error\":0"), max_error);
    assert_refused(
        with("\"max_error\":0.1", "\"max_error\":1.7976931348623157e308"),
        max_error,
    );
    let max_kl = |e: &Error| matches!(e, Error::MaxKlOutOfRange(_));
    assert_refused(with("\"max_error\":0.1", "\"max_kl\":0"), max_kl);
    assert_refused(
        with("\"max_error\":0.1", "\"max_kl\":1.7976931348623157e308"),
        max_kl,
    );
    let keep_top = |e: &Error| matches!(e, Error::KeepTopOutOfRange(_));
    assert_refused(with("\"classes\"", "\"keep_top\":0,\"classes\""), keep_top);
    assert_refused(
        with(
            "\"classes\"",
            "\"keep_top\":18446744073709551615,\"classes\"",
        ),
        keep_top,
    );
    let header = |e: &Error| matches!(e, Error::Header(_));
    assert_refused(with("probabilities", "colours"), header);
    assert_refused(with("\"max_error\":0.1,", ""), header);
    assert_refused(
        with("\"max_error\":0.1", "\"max_error\":0.1,\"max_kl\":0.1"),
        header,
    );
    assert_refused(with("\"max_error\":0.1", "\"max_error\":1e999"), header);
    assert_refused(with("\"max_error\":0.1", "\"exact\":false"), header);
    assert_refused(
        with("\"classes\"", "\"class_names\":[],\"classes\""),
        header,
    );
    assert_refused(with("\"classes\":3", "\"classes\":-1"), header);
    let logits = |e: &Error| matches!(e, Error::KlOfNoProbabilities);
    assert_refused(
        with(
            "\"probabilities\",\"max_error\":0.1",
            "\"logits\",\"max_kl\":0.1",
        ),
        logits,
    );
}

#[test]
fn members_that_nobody_knows_are_ignored() {
    let mut fields = Fields::new();
    fields.json = fields
        .json
        .replace("\"classes\"", "\"colour\":[1,{}],\"classes\"");
    assert_eq!(read(&fields.to_bytes()).unwrap(), 2);
}

#[test]
fn fields_of_a_block_at_their_ends() {
    let corrupt = |e: &Error| matches!(e, Error::Corrupt(_));
    let limit = |e: &Error| matches!(e, Error::LimitExceeded { .. });
    assert_refused(|f| f.block_tag = 0, corrupt);
    assert_refused(|f| f.block_tag = 255, corrupt);
    assert_refused(|f| f.n_rows = 0, corrupt);
    assert_refused(|f| f.n_rows = MAX, limit);
    assert_refused(|f| f.n_rows = (1 << 22) / 3 + 1, limit);
    assert_refused(|f| f.n_rows = (1 << 22) / 3, corrupt);
    assert_refused(
        |f| f.n_payload = Some(0),
        |e| matches!(e, Error::Checksum { .. }),
    );
    assert_refused(|f| f.n_payload = Some(MAX), limit);
    assert_refused(
        |f| f.n_payload = Some(1 << 26),
        |e| matches!(e, Error::Truncated { .. }),
    );
    assert_refused(|f| f.payload.clear(), corrupt);
    assert_refused(|f| f.payload.fill(0), corrupt);
    assert_refused(|f| f.payload.fill(255), corrupt);
    for model in 0..=255 {
        let mut fields = Fields::new();
        if model != fields.payload[0] {
            fields.payload[0] = model;
            assert!(read(&fields.to_bytes()).is_err(), "model {model}");
        }
    }
}

#[test]
fn fields_of_the_index_at_their_ends() {
    let corrupt = |e: &Error| matches!(e, Error::Corrupt(_));
    assert_refused(|f| f.index_tag = 0, corrupt);
    assert_refused(|f| f.index_tag = 255, corrupt);
    assert_refused(|f| f.n_header = Some(0), corrupt);
    assert_refused(|f| f.n_header = Some(MAX), corrupt);
    assert_refused(|f| f.n_blocks = 0, |e| matches!(e, Error::Checksum { .. }));
    assert_refused(
        |f| f.n_blocks = MAX,
        |e| matches!(e, Error::MemoryLimit { .. }),
    );
    assert_refused(|f| f.rows_in_index = 0, corrupt);
    assert_refused(|f| f.rows_in_index = MAX, corrupt);
    assert_refused(|f| f.rows_in_index = u64::from(u32::MAX), corrupt);
    assert_refused(|f| f.rows_in_index = (1 << 22) / 3 + 1, corrupt);
    assert_refused(|f| f.bytes_in_index = Some(0), corrupt);
    assert_refused(|f| f.bytes_in_index = Some(MAX), corrupt);
    assert_refused(|f| f.n_exact = 3, corrupt);
    assert_refused(|f| f.n_exact = MAX, corrupt);
    for largest_error in [-0.1, 0.11, f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
        assert_refused(|f| f.largest_error = largest_error, corrupt);
    }
    assert_refused(|f| f.n_index = Some(0), corrupt);
    assert_refused(|f| f.n_index = Some(u32::MAX), corrupt);
    assert_refused(|f| f.end_magic = [0; 4], corrupt);
    assert_refused(|f| f.end_magic = [255; 4], corrupt);
}

#[test]
fn numbers_must_be_in_their_shortest_form() {
    let mut bytes = Fields::new().to_bytes();
    let n_json = bytes[5];
    bytes.splice(5..6, [n_json | 0x80, 0]);
    assert!(matches!(read(&bytes), Err(Error::Corrupt(_))));
    bytes.splice(5..7, [0xFF; 10]);
    assert!(matches!(read(&bytes), Err(Error::Corrupt(_))));
}
