//! The true class of each row: text with one number a line, a `.npy` vector of integers, or IDX labels.

use std::io::{BufRead, Read};

use super::input::Input;
use super::npy::{self, NpyHeader};
use super::{Error, idx};

/// Reads labels, some at a time.
pub struct LabelReader {
    reader: Box<dyn BufRead + Send>,
    form: Form,
}

enum Form {
    /// Numbers as a header describes them, so many to come.
    Binary { header: NpyHeader, n_left: u64 },
    /// A number a line, so many lines read.
    Text { n_lines: u64 },
}

/// The longest line read: a number takes 20.
const MAX_LINE_BYTES: u64 = 1 << 10;

impl LabelReader {
    /// Looks at the first bytes.
    ///
    /// # Errors
    /// [`Error::Dtype`], [`Error::Shape`] and those of the formats.
    pub fn open(input: Input) -> Result<Self, Error> {
        let start = input.start().to_vec();
        let mut reader = input.into_reader();
        let header = if start.starts_with(&npy::MAGIC) {
            let header = NpyHeader::read_from(&mut reader)?;
            if !header.dtype.is_integer() {
                return Err(Error::Dtype {
                    found: format!("{:?}", header.dtype).to_lowercase(),
                    expected: "integers, the numbers of classes",
                });
            }
            header
        } else if start.starts_with(&[0, 0, 8]) {
            NpyHeader {
                dtype: npy::Dtype::U8,
                is_big_endian: false,
                is_fortran_order: false,
                shape: idx::read_dimensions(&mut reader, idx::LABELS_MAGIC)?,
                n_bytes: 0,
            }
        } else {
            let form = Form::Text { n_lines: 0 };
            return Ok(Self { reader, form });
        };
        match header.shape[..] {
            [n_left] | [n_left, 1] => Ok(Self {
                reader,
                form: Form::Binary { header, n_left },
            }),
            _ => Err(Error::Shape {
                found: header.shape,
                expected: "(rows), one number a row".to_owned(),
            }),
        }
    }

    /// How many labels are to come, if it is known beforehand.
    pub fn n_left(&self) -> Option<u64> {
        match &self.form {
            Form::Binary { n_left, .. } => Some(*n_left),
            Form::Text { .. } => None,
        }
    }

    /// The next label, or `None` at the end.
    ///
    /// # Errors
    /// [`Error::Cell`], [`Error::Truncated`], [`Error::TooLong`], [`Error::Io`].
    pub fn next_label(&mut self) -> Result<Option<i64>, Error> {
        match &mut self.form {
            Form::Binary { header, n_left } => {
                let expected = header.n_data_bytes();
                if *n_left == 0 {
                    return match self.reader.fill_buf()?.is_empty() {
                        true => Ok(None),
                        false => Err(Error::TooLong { expected }),
                    };
                }
                let mut bytes = [0; 8];
                let bytes = &mut bytes[..header.dtype.n_bytes()];
                let found = super::read_up_to(&mut self.reader, bytes)?;
                if found < bytes.len() {
                    // From what is there: what is missing may be more than can be counted.
                    let n_read = header.shape[0] - *n_left;
                    return Err(Error::Truncated {
                        expected,
                        found: n_read * bytes.len() as u64 + found as u64,
                    });
                }
                *n_left -= 1;
                let label = npy::decode_i64(header.dtype, header.is_big_endian, bytes);
                Ok(Some(label))
            }
            Form::Text { n_lines } => loop {
                let mut line = Vec::new();
                let mut limited = (&mut self.reader).take(MAX_LINE_BYTES);
                if limited.read_until(b'\n', &mut line)? == 0 {
                    return Ok(None);
                }
                *n_lines += 1;
                let text = String::from_utf8_lossy(&line);
                let text = text.trim();
                if text.is_empty() {
                    continue;
                }
                return match text.parse() {
                    Ok(label) => Ok(Some(label)),
                    Err(_) => Err(Error::Text {
                        line: *n_lines,
                        what: format!("{text:.40?}; expected the number of a class"),
                    }),
                };
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    fn labels(bytes: &[u8]) -> Result<Vec<i64>, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        let mut reader =
            LabelReader::open(Input::new(file).unwrap()).map_err(|error| error.to_string())?;
        let mut all = Vec::new();
        while let Some(label) = reader.next_label().map_err(|error| error.to_string())? {
            all.push(label);
        }
        Ok(all)
    }

    #[test]
    fn text_npy_and_idx_are_read() {
        assert_eq!(labels(b"3\n1\r\n\n 2"), Ok(vec![3, 1, 2]));
        assert_eq!(labels(&[0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), Ok(vec![7, 9]));
        let mut npy = Vec::new();
        npy::write_header(&mut npy, "<i8", &[2]).unwrap();
        npy.extend([5i64.to_le_bytes(), (-1i64).to_le_bytes()].concat());
        assert_eq!(labels(&npy), Ok(vec![5, -1]));
        assert_eq!(labels(b""), Ok(vec![]));
    }

    #[test]
    fn the_number_of_labels_is_told_where_it_is_known() {
        let n_left = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            file.rewind().unwrap();
            let mut reader = LabelReader::open(Input::new(file).unwrap()).unwrap();
            reader.next_label().unwrap();
            reader.n_left()
        };
        assert_eq!(n_left(&[0, 0, 8, 1, 0, 0, 0, 3, 7, 9, 8]), Some(2));
        assert_eq!(n_left(b"1\n2\n"), None);
    }

    #[test]
    fn what_is_no_label_is_named() {
        assert_eq!(
            labels(b"1\ncat\n").unwrap_err(),
            "line 2: \"cat\"; expected the number of a class"
        );
        let mut npy = Vec::new();
        npy::write_header(&mut npy, "<f4", &[2]).unwrap();
        assert!(labels(&npy).unwrap_err().contains("expected integers"));
        let mut npy = Vec::new();
        npy::write_header(&mut npy, "<i4", &[2]).unwrap();
        npy.extend([1, 0, 0, 0, 2]);
        assert_eq!(
            labels(&npy).unwrap_err(),
            "truncated: the header promises 8 bytes of data, the file has 5; copy or write it again"
        );
        let mut npy = Vec::new();
        npy::write_header(&mut npy, "<i8", &[1 << 62]).unwrap();
        npy.extend([1; 11]);
        assert_eq!(
            labels(&npy).unwrap_err(),
            "truncated: the header promises 18446744073709551615 bytes of data, the file has 11; copy or write it again"
        );
    }
}
