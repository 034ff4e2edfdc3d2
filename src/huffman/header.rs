//! The header of a frame: JSON, in which bytes stand for the words that every header has (FORMAT.md, section 3).

use std::io::Read;

use serde::{Deserialize, Deserializer, Serialize};

use super::Error;
use super::frame::{Part, append_checksum, check_limit, check_memory, write_varint};
use super::promise::Promise;

/// The first bytes of every frame. The first of them is no ASCII, so no text file begins like this.
pub const MAGIC: [u8; 4] = [0x89, b'H', b'U', b'F'];
/// The format version written, and the newest one read.
pub const VERSION: u8 = 13;
/// The first versions: of frames that name a reference, and of those that name none.
/// [`first_version`](super::block::first_version) says which later one brought which way of coding a block.
const VERSION_BESIDE: u8 = 2;
const VERSION_ALONE: u8 = 1;
/// The first version whose headers are abbreviated.
const VERSION_ABBREVIATED: u8 = 10;
/// The largest number of classes.
pub const MAX_CLASSES: usize = 1 << 20;
/// The largest JSON header in bytes.
pub(super) const MAX_HEADER_BYTES: u64 = 1 << 26;
/// What a reader takes for each byte of a header, at most: a list of empty names takes so many times its bytes.
const BYTES_A_HEADER_BYTE: u64 = 24;
/// The name, for errors, of what [`MAX_HEADER_BYTES`] limits.
const SIZE: &str = "the header's size";

/// Bytes that UTF-8 never has, each with the text that it stands for in a header. Format-stable.
const ABBREVIATIONS: [(u8, &str); 13] = [
    (0xC0, "\",\""),
    (0xC1, "\"max_error\":"),
    (0xF5, "{\"kind\":\"probabilities\","),
    (0xF6, "{\"kind\":\"logits\","),
    (0xF7, "{\"kind\":\"values\","),
    (0xF8, "\"max_kl\":"),
    (0xF9, "\"exact\":true"),
    (0xFA, ",\"keep_top\":"),
    (0xFB, ",\"classes\":"),
    (0xFC, ",\"class_names\":[\""),
    (0xFD, ",\"model_sha256\":\""),
    (0xFE, ",\"reference\":{\"sha256\":\""),
    (0xFF, ",\"producer\":\"pc"),
];

/// The bytes of a header of a version, whose text is JSON.
pub(super) fn header_bytes(version: u8, text: &[u8]) -> Vec<u8> {
    let mut bytes = [&MAGIC[..], &[version]].concat();
    write_varint(&mut bytes, text.len() as u64);
    bytes.extend_from_slice(text);
    append_checksum(&mut bytes);
    bytes
}

/// Replaces texts by their abbreviations.
fn abbreviate(mut json: &[u8]) -> Vec<u8> {
    let find = |json: &[u8]| {
        let mut all = ABBREVIATIONS.iter();
        all.find(|(_, text)| json.starts_with(text.as_bytes()))
    };
    let mut bytes = Vec::new();
    while let Some((&first, rest)) = json.split_first() {
        // `","` is no abbreviation where a longer one, such as `,"classes":`, begins with its comma.
        let found = find(json).filter(|(_, text)| text.len() > 3 || find(rest).is_none());
        let (byte, n_bytes) = found.map_or((first, 1), |(byte, text)| (*byte, text.len()));
        bytes.push(byte);
        json = &json[n_bytes..];
    }
    bytes
}

/// The text that a byte of a header stands for; `None` if it is a byte of UTF-8.
fn text_of(byte: u8) -> Option<&'static str> {
    let found = ABBREVIATIONS.iter().find(|(of, _)| *of == byte);
    found.map(|(_, text)| *text)
}

/// The length in bytes of a text without abbreviations.
fn n_expanded_bytes(bytes: &[u8]) -> u64 {
    let n_bytes = bytes
        .iter()
        .map(|&byte| text_of(byte).map_or(1, str::len) as u64);
    n_bytes.sum()
}

/// Replaces abbreviations by their texts.
fn expand(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(n_expanded_bytes(bytes) as usize);
    for &byte in bytes {
        match text_of(byte) {
            Some(of_byte) => text.extend_from_slice(of_byte.as_bytes()),
            None => text.push(byte),
        }
    }
    text
}

/// The JSON header of a frame. Readers ignore members that they do not know.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FrameHeader {
    /// The promises that the file makes of its rows.
    #[serde(flatten)]
    pub promise: Promise,
    /// Number of classes (columns).
    pub classes: usize,
    /// A name for each class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_names: Option<Vec<String>>,
    /// SHA-256 of the checkpoint that made the predictions, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_sha256: Option<String>,
    /// The reference: row `k` of the frame is coded given row `k` of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<ReferenceName>,
    /// The program that wrote the frame.
    pub producer: String,
    /// The format version of the frame that this is the header of; frames are written in the newest one.
    #[serde(skip)]
    pub version: u8,
}

/// The members of a header beside those of its promise. The two are read separately: flattened members would all be
/// kept until the end, unknown ones as well.
#[derive(Deserialize)]
struct Members {
    classes: usize,
    #[serde(default, deserialize_with = "not_null")]
    class_names: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    model_sha256: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    reference: Option<ReferenceName>,
    producer: String,
}

/// Reads a member that is there, and must not be null.
pub(super) fn not_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The predictions given which rows are coded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceName {
    /// SHA-256 of the reference's file, in hexadecimal.
    pub sha256: String,
    /// Number of its rows; the frame has no more.
    pub rows: u64,
}

impl FrameHeader {
    /// The header for rows of `classes` classes.
    ///
    /// # Errors
    /// As [`Promise::validate`], and [`Error::ClassesOutOfRange`].
    pub fn new(classes: usize, promise: Promise) -> Result<Self, Error> {
        let header = Self {
            promise,
            classes,
            class_names: None,
            model_sha256: None,
            reference: None,
            producer: concat!("pc ", env!("CARGO_PKG_VERSION")).to_owned(),
            version: VERSION,
        };
        header.validate()?;
        Ok(header)
    }

    /// Checks what serde cannot.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`Error::Header`] for class names of another number, or a reference whose hash is not
    /// one.
    pub fn validate(&self) -> Result<(), Error> {
        self.promise.validate()?;
        if !(1..=MAX_CLASSES).contains(&self.classes) {
            return Err(Error::ClassesOutOfRange(self.classes));
        }
        if let Some(ReferenceName { sha256, .. }) = &self.reference {
            let is_hex = |digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
            if sha256.len() != 64 || !sha256.bytes().all(is_hex) {
                return Err(Error::Header("the SHA-256 of the reference is none".into()));
            }
        }
        match &self.class_names {
            Some(names) if names.len() != self.classes => Err(Error::Header(format!(
                "{} class names for {} classes",
                names.len(),
                self.classes
            ))),
            _ => Ok(()),
        }
    }

    /// Bytes of the header in a frame.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`] if the JSON is too long.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let json = serde_json::to_vec(self).map_err(|error| Error::Header(error.to_string()))?;
        check_limit(SIZE, json.len() as u64, MAX_HEADER_BYTES)?;
        Ok(header_bytes(VERSION, &abbreviate(&json)))
    }

    /// About how many bytes the header takes in memory.
    pub(super) fn n_held_bytes(&self) -> u64 {
        let names = self.class_names.iter().flatten();
        let of_names = names.map(|name| (size_of::<String>() + name.len()) as u64);
        let reference = self.reference.as_ref().map(|reference| &reference.sha256);
        let texts = [self.model_sha256.as_ref(), reference, Some(&self.producer)];
        let n_text_bytes: usize = texts.into_iter().flatten().map(String::len).sum();
        of_names.sum::<u64>() + (size_of::<Self>() + n_text_bytes) as u64
    }

    fn from_json(json: &str, version: u8) -> serde_json::Result<Self> {
        let promise = serde_json::from_str(json)?;
        let members: Members = serde_json::from_str(json)?;
        Ok(Self {
            promise,
            classes: members.classes,
            class_names: members.class_names,
            model_sha256: members.model_sha256,
            reference: members.reference,
            producer: members.producer,
            version,
        })
    }

    /// Reads a header; also returns how many bytes it takes in the frame.
    ///
    /// # Errors
    /// [`Error::Empty`] if there is nothing, [`Error::NotHuff`], [`Error::TooNew`],
    /// [`Error::Truncated`], [`Error::Checksum`], [`Error::Header`], [`Error::LimitExceeded`],
    /// [`Error::MemoryLimit`], [`Error::Io`].
    pub(super) fn read_from(reader: &mut impl Read, memory: u64) -> Result<(Self, u64), Error> {
        const PART: &str = "the header";
        let mut magic = Vec::new();
        reader.take(4).read_to_end(&mut magic)?;
        if magic != MAGIC {
            return Err(match magic.is_empty() {
                true => Error::Empty,
                false if MAGIC.starts_with(&magic) => Error::Truncated {
                    part: "the magic number",
                },
                false => Error::NotHuff { found: magic },
            });
        }
        let mut part = Part::new(reader, PART);
        part.hasher.update(&magic);
        let [version] = part.array()?;
        match version {
            VERSION_ALONE..=VERSION => {}
            0 => return Err(Error::Corrupt("format version 0 does not exist")),
            found => return Err(Error::TooNew { found }),
        }
        let check_size = |n_json_bytes: u64| {
            check_limit(SIZE, n_json_bytes, MAX_HEADER_BYTES)?;
            check_memory(PART, BYTES_A_HEADER_BYTE * n_json_bytes, memory)
        };
        let n_json_bytes = part.varint()?;
        check_size(n_json_bytes)?;
        let mut json = part.bytes(n_json_bytes)?;
        let n_bytes = part.check(|| PART.to_owned())?;
        if version >= VERSION_ABBREVIATED {
            check_size(n_expanded_bytes(&json))?;
            json = expand(&json);
        }
        // Members that are skipped must be UTF-8 as well.
        let json = str::from_utf8(&json).map_err(|error| Error::Header(error.to_string()))?;
        let header =
            Self::from_json(json, version).map_err(|error| Error::Header(error.to_string()))?;
        header.validate()?;
        match (version, &header.reference) {
            (VERSION_ALONE, Some(_)) | (VERSION_BESIDE, None) => Err(Error::Header(
                "frames of version 2 name a reference, those of version 1 do not".to_owned(),
            )),
            _ => Ok((header, 4 + n_bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::promise::{Bound, Kind};
    use super::*;

    #[test]
    fn abbreviations_are_of_bytes_that_utf_8_never_has() {
        for (index, (byte, text)) in ABBREVIATIONS.iter().enumerate() {
            assert!(matches!(byte, 0xC0 | 0xC1 | 0xF5..=0xFF));
            assert!(ABBREVIATIONS[..index].iter().all(|(other, _)| other < byte));
            // The first that fits is taken.
            assert!(
                ABBREVIATIONS
                    .iter()
                    .filter(|(_, of)| text.starts_with(of))
                    .count()
                    == 1
            );
        }
    }

    #[test]
    fn every_member_is_abbreviated_and_comes_back() {
        let names = ["a", "\",\"", "\u{e9}\u{10fffd}", ""]
            .map(str::to_owned)
            .to_vec();
        for (kind, bound, n_bytes) in [
            (Kind::Probabilities, Bound::MaxError(0.5), 10 + 3),
            (Kind::Probabilities, Bound::MaxKl(0.5), 10 + 3),
            (Kind::Logits, Bound::MaxError(0.5), 10 + 3),
            (Kind::Values, Bound::Exact, 10),
        ] {
            let promise = Promise::new(kind, bound);
            let mut header = FrameHeader::new(4, promise).unwrap();
            header.producer = "pc".to_owned();
            let read = |header: &FrameHeader| {
                let bytes = header.to_bytes().unwrap();
                let (read, n_bytes) = FrameHeader::read_from(&mut &bytes[..], 1 << 20).unwrap();
                assert_eq!((&read, n_bytes), (header, bytes.len() as u64));
                n_bytes - 6
            };
            // Beside the bound: kind, its name, classes and their number, producer, two characters, checksum.
            assert_eq!(read(&header), n_bytes + 1);
            header.promise.keep_top = 2;
            assert_eq!(read(&header), n_bytes + 3);
            header.model_sha256 = Some("0".repeat(64));
            assert_eq!(read(&header), n_bytes + 69);
            header.class_names = Some(names.clone());
            let of_names = 1 + 1 + 1 + 5 + 1 + 6 + 1 + 2;
            assert_eq!(read(&header), n_bytes + 69 + of_names);
            header.reference = Some(ReferenceName {
                sha256: "f".repeat(64),
                rows: 7,
            });
            read(&header);
        }
    }

    #[test]
    fn members_are_of_utf_8_and_not_null() {
        let read = |member: &[u8]| {
            let text = [
                &b"{\"kind\":\"values\",\"exact\":true,\"classes\":3,\"producer\":\"pc\""[..],
                member,
                b"}",
            ];
            [9, VERSION].map(|version| {
                let bytes = header_bytes(version, &text.concat());
                FrameHeader::read_from(&mut &bytes[..], 1 << 20).map(|(header, _)| header)
            })
        };
        for member in [&b""[..], b",\"x\":null", b",\"x\":[\"\xC3\xA9\"]"] {
            assert!(read(member).iter().all(Result::is_ok), "{member:?}");
        }
        for member in [
            // Half a character, within what no reader knows.
            &b",\"x\":\"\xE2\x82\""[..],
            b",\"x\":\"\xED\xA0\x80\"",
            b",\"max_error\":null",
            b",\"max_kl\":null",
            b",\"keep_top\":null",
            b",\"class_names\":null",
            b",\"model_sha256\":null",
            b",\"reference\":null",
        ] {
            let is_refused = |read: &Result<_, _>| matches!(read, Err(Error::Header(_)));
            assert!(read(member).iter().all(is_refused), "{member:?}");
        }
        // Where it would be abbreviated text, it is refused before.
        let [before, now] = read(b",\"x\":\"\xFF\"");
        assert!(before.is_err() && now.is_err());
    }

    #[test]
    fn all_texts_of_a_header_count_as_memory() {
        let mut header = FrameHeader::new(2, Promise::new(Kind::Values, Bound::Exact)).unwrap();
        let least = header.n_held_bytes();
        header.producer = "p".repeat(1000);
        header.model_sha256 = Some("m".repeat(2000));
        header.class_names = Some(vec!["n".repeat(4000), String::new()]);
        header.reference = Some(ReferenceName {
            sha256: "0".repeat(64),
            rows: 1,
        });
        assert!((7064..7200).contains(&(header.n_held_bytes() - least)));
    }

    #[test]
    fn the_text_is_what_is_limited() {
        let header = |n_bytes: usize| {
            let bytes = header_bytes(VERSION, &[0xF5].repeat(n_bytes));
            FrameHeader::read_from(&mut &bytes[..], 1 << 20).unwrap_err()
        };
        let text = ABBREVIATIONS[2].1.len() as u64;
        let most = (1 << 20) / BYTES_A_HEADER_BYTE / text;
        assert!(matches!(header(most as usize - 1), Error::Header(_)));
        assert!(matches!(
            header(most as usize + 1),
            Error::MemoryLimit { .. }
        ));
    }

    #[test]
    fn headers_of_older_versions_are_not_abbreviated() {
        let promise = Promise::new(Kind::Logits, Bound::Exact);
        let header = FrameHeader::new(4, promise).unwrap();
        let json = serde_json::to_vec(&header).unwrap();
        let read = |version: u8, text: &[u8]| {
            let bytes = header_bytes(version, text);
            FrameHeader::read_from(&mut &bytes[..], 1 << 20)
        };
        let before = VERSION_ABBREVIATED - 1;
        for version in [1, before, VERSION] {
            assert_eq!(read(version, &json).unwrap().0.version, version);
        }
        let error = read(before, &abbreviate(&json)).unwrap_err();
        assert!(matches!(error, Error::Header(_)), "{error}");
    }
}
