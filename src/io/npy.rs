//! `.npy`, the format of `numpy.save`, versions 1.0 to 3.0 (NumPy enhancement proposal 1 and
//! `numpy.lib.format`): a magic number, the version, a Python dictionary, the data.

use std::io::{self, Read, Write};

use py_literal::Value;

use super::{Error, read_header};

/// The first bytes of every `.npy` file.
pub const MAGIC: [u8; 6] = *b"\x93NUMPY";
/// The largest header read, in bytes: a plain array's has about a hundred.
const MAX_HEADER_BYTES: u64 = 1 << 12;
/// The largest number of dimensions, as NumPy has it.
const MAX_DIMENSIONS: usize = 64;
/// Deepest nesting of a header worth parsing; a plain array needs two.
const MAX_BRACKETS: usize = 64;

/// The number types that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs)]
pub enum Dtype {
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F16,
    F32,
    F64,
}

impl Dtype {
    /// Bytes of one number.
    pub fn n_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// Whether it is a type of integers.
    pub fn is_integer(self) -> bool {
        !matches!(self, Self::F16 | Self::F32 | Self::F64)
    }
}

/// What stands before the data of a `.npy` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NpyHeader {
    /// The type of the numbers.
    pub dtype: Dtype,
    /// Whether their highest byte comes first.
    pub is_big_endian: bool,
    /// Whether the first index runs fastest (Fortran order), not the last (C order).
    pub is_fortran_order: bool,
    /// The size of each dimension; none for a single number.
    pub shape: Vec<u64>,
    /// Bytes up to the data.
    pub n_bytes: u64,
}

impl NpyHeader {
    /// Reads everything up to the data.
    ///
    /// # Errors
    /// [`Error::UnknownFormat`], [`Error::NpyVersion`], [`Error::NpyHeader`], [`Error::ObjectArray`],
    /// [`Error::Dtype`], [`Error::Io`].
    pub fn read_from(reader: &mut impl Read) -> Result<Self, Error> {
        let mut start = [0; 8];
        read_header(reader, &mut start)?;
        if start[..6] != MAGIC {
            return Err(Error::UnknownFormat {
                found: start.to_vec(),
            });
        }
        let n_size_bytes = match (start[6], start[7]) {
            (1, 0) => 2,
            (2 | 3, 0) => 4,
            (major, minor) => return Err(Error::NpyVersion { major, minor }),
        };
        let mut size = [0; 4];
        read_header(reader, &mut size[..n_size_bytes])?;
        let n_text_bytes = u64::from(u32::from_le_bytes(size));
        if n_text_bytes > MAX_HEADER_BYTES {
            return Err(Error::NpyHeader(format!(
                "{n_text_bytes} bytes long; expected at most {MAX_HEADER_BYTES}"
            )));
        }
        let mut text = vec![0; n_text_bytes as usize];
        read_header(reader, &mut text)?;
        // Versions 1 and 2 are Latin-1, version 3 is UTF-8; only names of record fields differ.
        let text = String::from_utf8_lossy(&text);
        Self::parse(text.trim(), 8 + n_size_bytes as u64 + n_text_bytes)
    }

    fn parse(text: &str, n_bytes: u64) -> Result<Self, Error> {
        let malformed = |what: &str| Error::NpyHeader(format!("{what} in {text:.200?}"));
        if text.bytes().filter(|b| b"([{".contains(b)).count() > MAX_BRACKETS {
            return Err(malformed("too many brackets"));
        }
        let value: Value = text
            .parse()
            .map_err(|_| malformed("no Python dictionary"))?;
        let entries = value
            .as_dict()
            .ok_or_else(|| malformed("no Python dictionary"))?;
        let get = |name: &str| {
            entries
                .iter()
                .find(|(key, _)| key.as_string().is_some_and(|key| key == name))
                .map(|(_, value)| value)
                .ok_or_else(|| malformed(&format!("no {name:?}")))
        };
        let is_fortran_order = get("fortran_order")?
            .as_boolean()
            .ok_or_else(|| malformed("no truth value for 'fortran_order'"))?;
        let shape = get("shape")?
            .as_tuple()
            .ok_or_else(|| malformed("no tuple for 'shape'"))?
            .iter()
            .map(|size| size.as_integer().and_then(|size| u64::try_from(size).ok()))
            .collect::<Option<Vec<u64>>>()
            .ok_or_else(|| malformed("a size that is no count in 'shape'"))?;
        if shape.len() > MAX_DIMENSIONS {
            return Err(malformed("too many dimensions"));
        }
        let (dtype, is_big_endian) = parse_dtype(get("descr")?)?;
        Ok(Self {
            dtype,
            is_big_endian,
            is_fortran_order,
            shape,
            n_bytes,
        })
    }

    /// Bytes of the data; `u64::MAX` for shapes that no file can hold.
    pub fn n_data_bytes(&self) -> u64 {
        self.shape
            .iter()
            .try_fold(self.dtype.n_bytes() as u64, |product, &size| {
                product.checked_mul(size)
            })
            .unwrap_or(u64::MAX)
    }
}

fn parse_dtype(descr: &Value) -> Result<(Dtype, bool), Error> {
    const EXPECTED: &str = "a plain number type (integer, f2, f4 or f8)";
    let Some(descr) = descr.as_string() else {
        return Err(Error::Dtype {
            found: format!("{descr}"),
            expected: EXPECTED,
        });
    };
    let name = descr.trim_start_matches(['<', '>', '|', '=']);
    let dtype = match name {
        "u1" => Dtype::U8,
        "u2" => Dtype::U16,
        "u4" => Dtype::U32,
        "u8" => Dtype::U64,
        "i1" => Dtype::I8,
        "i2" => Dtype::I16,
        "i4" => Dtype::I32,
        "i8" => Dtype::I64,
        "f2" => Dtype::F16,
        "f4" => Dtype::F32,
        "f8" => Dtype::F64,
        _ if name.starts_with('O') => return Err(Error::ObjectArray),
        _ => {
            return Err(Error::Dtype {
                found: descr.clone(),
                expected: EXPECTED,
            });
        }
    };
    Ok((dtype, descr.starts_with('>')))
}

/// The bytes of a number, as they stand in the file, as a Rust number.
macro_rules! number {
    ($number:ty, $bytes:expr, $is_big_endian:expr) => {{
        let bytes = $bytes.try_into().expect("the bytes of one number");
        match $is_big_endian {
            true => <$number>::from_be_bytes(bytes),
            false => <$number>::from_le_bytes(bytes),
        }
    }};
}

/// Turns the bytes of a number, as they stand in the file, into an f32.
///
/// # Panics
/// If `bytes` is not one number of `dtype`.
pub fn decode_f32(dtype: Dtype, is_big_endian: bool, bytes: &[u8]) -> f32 {
    match dtype {
        Dtype::F16 => number!(half::f16, bytes, is_big_endian).to_f32(),
        Dtype::F32 => number!(f32, bytes, is_big_endian),
        Dtype::F64 => number!(f64, bytes, is_big_endian) as f32,
        _ => decode_i64(dtype, is_big_endian, bytes) as f32,
    }
}

/// Turns the bytes of an integer, as they stand in the file, into an i64; u64 beyond it saturate.
///
/// # Panics
/// If `bytes` is not one number of `dtype`, or `dtype` is no integer.
pub fn decode_i64(dtype: Dtype, is_big_endian: bool, bytes: &[u8]) -> i64 {
    match dtype {
        Dtype::U8 => number!(u8, bytes, is_big_endian).into(),
        Dtype::U16 => number!(u16, bytes, is_big_endian).into(),
        Dtype::U32 => number!(u32, bytes, is_big_endian).into(),
        Dtype::U64 => number!(u64, bytes, is_big_endian)
            .try_into()
            .unwrap_or(i64::MAX),
        Dtype::I8 => number!(i8, bytes, is_big_endian).into(),
        Dtype::I16 => number!(i16, bytes, is_big_endian).into(),
        Dtype::I32 => number!(i32, bytes, is_big_endian).into(),
        Dtype::I64 => number!(i64, bytes, is_big_endian),
        Dtype::F16 | Dtype::F32 | Dtype::F64 => panic!("{dtype:?} is no integer"),
    }
}

/// Writes the version 1.0 header of a float32 matrix in C order.
///
/// # Errors
/// As the writer's.
pub fn write_matrix_header(writer: impl Write, n_rows: u64, n_columns: usize) -> io::Result<()> {
    write_header(writer, "<f4", &[n_rows, n_columns as u64])
}

/// Writes the version 1.0 header of an array in C order of one or two dimensions: always 128 bytes.
///
/// # Errors
/// As the writer's.
pub fn write_header(mut writer: impl Write, descr: &str, shape: &[u64]) -> io::Result<()> {
    const N_TEXT_BYTES: usize = 128 - 10;
    let shape = match shape {
        [n] => format!("({n},)"),
        _ => {
            let sizes: Vec<String> = shape.iter().map(u64::to_string).collect();
            format!("({})", sizes.join(", "))
        }
    };
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    writer.write_all(&MAGIC)?;
    writer.write_all(&[1, 0])?;
    writer.write_all(&(N_TEXT_BYTES as u16).to_le_bytes())?;
    writeln!(writer, "{text:<width$}", width = N_TEXT_BYTES - 1)
}

/// Writes numbers as they stand in a `<f4` file.
///
/// # Errors
/// As the writer's.
pub fn write_f32(mut writer: impl Write, values: &[f32]) -> io::Result<()> {
    if cfg!(target_endian = "little") {
        return writer.write_all(pulp::bytemuck::cast_slice(values));
    }
    let mut bytes = Vec::with_capacity(4 * 4096);
    for chunk in values.chunks(4096) {
        bytes.clear();
        bytes.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
        writer.write_all(&bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(major: u8, text: &str) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([major, 0]);
        match major {
            1 => bytes.extend((text.len() as u16).to_le_bytes()),
            _ => bytes.extend((text.len() as u32).to_le_bytes()),
        }
        bytes.extend(text.as_bytes());
        bytes
    }

    #[test]
    fn versions_1_to_3_and_any_order_of_keys_are_read() {
        let texts = [
            "{'descr': '>f8', 'fortran_order': True, 'shape': (3, 4), }\n",
            "{'shape': (3, 4), 'fortran_order': True, 'descr': '>f8'}",
        ];
        for major in 1..=3 {
            for text in texts {
                let header = NpyHeader::read_from(&mut &npy(major, text)[..]).unwrap();
                assert_eq!(header.dtype, Dtype::F64);
                assert!(header.is_big_endian && header.is_fortran_order);
                assert_eq!(header.shape, [3, 4]);
                assert_eq!(header.n_data_bytes(), 96);
                assert_eq!(header.n_bytes, npy(major, text).len() as u64);
            }
        }
    }

    #[test]
    fn what_is_no_array_of_numbers_is_refused() {
        let refused = |bytes: &[u8], message: &str| {
            let error = NpyHeader::read_from(&mut &bytes[..])
                .unwrap_err()
                .to_string();
            assert!(error.contains(message), "{error}");
        };
        refused(b"PK\x03\x04....", "unknown format");
        refused(&npy(4, "{}"), ".npy version 4.0");
        let object = "{'descr': '|O', 'fortran_order': False, 'shape': (3,)}";
        refused(&npy(1, object), "pickle");
        let record = "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,)}";
        refused(&npy(1, record), "expected a plain number type");
        refused(
            &npy(1, "{'descr': '<c8', 'fortran_order': False, 'shape': (3,)}"),
            "dtype <c8",
        );
        refused(
            &npy(
                1,
                "{'descr': '<f4', 'fortran_order': False, 'shape': (-3,)}",
            ),
            "no count",
        );
        refused(
            &npy(1, "{'descr': '<f4', 'shape': (3,)}"),
            "no \"fortran_order\"",
        );
        refused(&npy(1, &"(".repeat(4_000)), "too many brackets");
        let shape = format!("({})", "1,".repeat(65));
        let many = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}");
        refused(&npy(1, &many), "too many dimensions");
        refused(&npy(1, "{}")[..11], "ends inside its header");
        refused(&npy(1, "nonsense"), "no Python dictionary");
        let mut long = npy(2, "{}");
        long[8..12].fill(0xFF);
        refused(&long, "4294967295 bytes long");
    }

    #[test]
    fn shapes_beyond_any_file_do_not_overflow() {
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 100)}";
        let header = NpyHeader::read_from(&mut &npy(1, text)[..]).unwrap();
        assert_eq!(header.n_data_bytes(), u64::MAX);
    }

    #[test]
    fn numbers_of_every_type_and_byte_order_are_decoded() {
        assert_eq!(decode_f32(Dtype::U8, false, &[200]), 200.0);
        assert_eq!(decode_f32(Dtype::I16, true, &[0xFF, 0xFE]), -2.0);
        assert_eq!(decode_f32(Dtype::F16, false, &[0x00, 0x3C]), 1.0);
        assert_eq!(decode_f32(Dtype::F16, true, &[0x3C, 0x00]), 1.0);
        assert_eq!(decode_f32(Dtype::F32, true, &0.1f32.to_be_bytes()), 0.1);
        assert_eq!(decode_f32(Dtype::F64, false, &0.1f64.to_le_bytes()), 0.1);
        assert_eq!(decode_f32(Dtype::I64, false, &(-5i64).to_le_bytes()), -5.0);
    }

    #[test]
    fn the_header_written_is_128_bytes_and_read_back() {
        for (n_rows, n_columns) in [(0, 1), (10_000, 100), (u64::MAX, 1_000_000)] {
            let mut bytes = Vec::new();
            write_matrix_header(&mut bytes, n_rows, n_columns).unwrap();
            assert_eq!(bytes.len(), 128);
            assert_eq!(bytes[127], b'\n');
            let header = NpyHeader::read_from(&mut &bytes[..]).unwrap();
            assert_eq!(header.shape, [n_rows, n_columns as u64]);
            assert_eq!(header.dtype, Dtype::F32);
            assert!(!header.is_big_endian && !header.is_fortran_order);
        }
    }
}
