//! The rows of a `.npy` file.

use std::fs::File;
use std::io::{BufRead, Read, Seek, SeekFrom};

use super::input::{Input, spool};
use super::npy::{self, Dtype, NpyHeader};
use super::source::{MatrixSource, Values};
use super::{Error, read_up_to};

/// Reads the rows of an array of floats.
pub struct NpySource {
    data: Data,
    header: NpyHeader,
    n_classes: usize,
    n_rows: u64,
    n_read: u64,
}

enum Data {
    /// Row after row.
    InOrder(Box<dyn BufRead + Send>),
    /// A file in Fortran order, column after column from byte `start` on.
    ByColumn { file: File, start: u64 },
}

impl NpySource {
    /// Reads the header. Fortran order needs a file to seek in, and gets a temporary one if need be.
    ///
    /// # Errors
    /// Those of [`NpyHeader::read_from`], [`Error::Dtype`], [`Error::Shape`], [`Error::Truncated`],
    /// [`Error::TooLong`].
    pub fn open(input: Input) -> Result<Self, Error> {
        let n_bytes = input.n_bytes();
        let plain = input.plain()?;
        Self::from_reader(input.into_reader(), plain.map(|file| (file, 0)), n_bytes)
    }

    /// As [`open`](Self::open); `plain` is the file that the array stands in and where, `n_bytes` the bytes
    /// of the array, header and all, both where they are known.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(super) fn from_reader(
        mut reader: Box<dyn BufRead + Send>,
        plain: Option<(File, u64)>,
        n_bytes: Option<u64>,
    ) -> Result<Self, Error> {
        let header = NpyHeader::read_from(&mut reader)?;
        if !matches!(header.dtype, Dtype::F16 | Dtype::F32 | Dtype::F64) {
            return Err(Error::Dtype {
                found: format!("{:?}", header.dtype).to_lowercase(),
                expected: "f16, f32 or f64, as probabilities and logits are; if the integers are meant, x.astype('float32') makes them floats",
            });
        }
        let (n_rows, n_classes) = match header.shape[..] {
            [n_rows, n_classes] if n_classes > 0 && usize::try_from(n_classes).is_ok() => {
                (n_rows, n_classes as usize)
            }
            _ => return Err(unfit_shape(&header)),
        };
        let expected = header.n_data_bytes();
        check_length(expected, n_bytes.map(|n| n.saturating_sub(header.n_bytes)))?;
        let data = match (header.is_fortran_order, plain) {
            (false, _) => Data::InOrder(reader),
            (true, Some((file, start))) => Data::ByColumn {
                file,
                start: start + header.n_bytes,
            },
            (true, None) => {
                let file = spool(&mut reader.take(expected.saturating_add(1)))?;
                check_length(expected, Some(file.metadata()?.len()))?;
                Data::ByColumn { file, start: 0 }
            }
        };
        Ok(Self {
            data,
            header,
            n_classes,
            n_rows,
            n_read: 0,
        })
    }

    /// Checks that nothing follows the last row.
    fn check_end(&mut self) -> Result<(), Error> {
        match &mut self.data {
            Data::InOrder(reader) => match reader.fill_buf()?.is_empty() {
                true => Ok(()),
                false => Err(Error::TooLong {
                    expected: self.header.n_data_bytes(),
                }),
            },
            // The length was looked at before.
            Data::ByColumn { .. } => Ok(()),
        }
    }
}

impl MatrixSource for NpySource {
    fn n_classes(&self) -> usize {
        self.n_classes
    }

    fn n_rows(&self) -> Option<u64> {
        Some(self.n_rows)
    }

    fn next_rows(&mut self, max_rows: usize) -> Result<Option<Values>, Error> {
        let n_rows = (self.n_rows - self.n_read).min(max_rows as u64) as usize;
        if n_rows == 0 {
            self.check_end()?;
            return Ok(None);
        }
        let n_number_bytes = self.header.dtype.n_bytes();
        let values = match &mut self.data {
            Data::InOrder(reader) => {
                // Read as it comes: the header may promise more than there is.
                let n_row_bytes = self.n_classes as u64 * n_number_bytes as u64;
                let n_bytes = n_rows as u64 * n_row_bytes;
                let mut bytes = Vec::new();
                reader.take(n_bytes).read_to_end(&mut bytes)?;
                if bytes.len() as u64 != n_bytes {
                    return Err(Error::Truncated {
                        expected: self.header.n_data_bytes(),
                        found: self.n_read * n_row_bytes + bytes.len() as u64,
                    });
                }
                decode(&self.header, &bytes)
            }
            Data::ByColumn { file, start } => {
                let mut bytes = vec![0; n_rows * n_number_bytes];
                let mut values = match self.header.dtype {
                    Dtype::F64 => Values::F64(vec![0.0; n_rows * self.n_classes]),
                    _ => Values::F32(vec![0.0; n_rows * self.n_classes]),
                };
                for class in 0..self.n_classes {
                    let first = class as u64 * self.n_rows + self.n_read;
                    file.seek(SeekFrom::Start(*start + first * n_number_bytes as u64))?;
                    let found = read_up_to(file, &mut bytes)?;
                    if found < bytes.len() {
                        return Err(Error::Truncated {
                            expected: self.header.n_data_bytes(),
                            found: first * n_number_bytes as u64 + found as u64,
                        });
                    }
                    match (&mut values, decode(&self.header, &bytes)) {
                        (Values::F32(all), Values::F32(some)) => {
                            scatter(all, self.n_classes, class, &some);
                        }
                        (Values::F64(all), Values::F64(some)) => {
                            scatter(all, self.n_classes, class, &some);
                        }
                        _ => unreachable!("both are of the header's type"),
                    }
                }
                values
            }
        };
        self.n_read += n_rows as u64;
        Ok(Some(values))
    }
}

/// Puts a column in its place in rows of `n_classes`.
pub(super) fn scatter<T: Copy>(rows: &mut [T], n_classes: usize, class: usize, column: &[T]) {
    for (row, &value) in rows.chunks_exact_mut(n_classes).zip(column) {
        row[class] = value;
    }
}

fn unfit_shape(header: &NpyHeader) -> Error {
    Error::Shape {
        found: header.shape.clone(),
        expected: match header.shape.len() {
            1 => "(rows, classes); x[:, None] makes an array of one dimension rows of one class, x[None, :] makes it one row".to_owned(),
            3.. => "(rows, classes); x.reshape(-1, x.shape[-1]) makes rows of what has its classes last, as pixels or tokens have".to_owned(),
            _ => "(rows, classes), with one class or more".to_owned(),
        },
    }
}

fn check_length(expected: u64, found: Option<u64>) -> Result<(), Error> {
    match found {
        Some(found) if found < expected => Err(Error::Truncated { expected, found }),
        Some(found) if found > expected => Err(Error::TooLong { expected }),
        _ => Ok(()),
    }
}

/// Turns the bytes of floats, as they stand in the file, into floats.
fn decode(header: &NpyHeader, bytes: &[u8]) -> Values {
    let is_big_endian = header.is_big_endian;
    match (header.dtype, is_big_endian) {
        (Dtype::F32, false) => {
            let (words, _) = bytes.as_chunks::<4>();
            Values::F32(words.iter().map(|&word| f32::from_le_bytes(word)).collect())
        }
        (Dtype::F64, _) => {
            let (words, _) = bytes.as_chunks::<8>();
            let decode = |&word: &[u8; 8]| match is_big_endian {
                true => f64::from_be_bytes(word),
                false => f64::from_le_bytes(word),
            };
            Values::F64(words.iter().map(decode).collect())
        }
        (dtype, _) => Values::F32(
            bytes
                .chunks_exact(dtype.n_bytes())
                .map(|number| npy::decode_f32(dtype, is_big_endian, number))
                .collect(),
        ),
    }
}
