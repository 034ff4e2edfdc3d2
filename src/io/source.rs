//! Matrices to compress, in whatever format they come: rows are handed over in pieces, so that memory does
//! not grow with their number.

use super::input::Input;
use super::npy_source::NpySource;
use super::{Error, csv, npy, npz};

/// Values of some rows, one row after another, as precise as they came: float16 and float32 as `F32`,
/// float64 and decimal numbers as `F64`.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs)]
pub enum Values {
    F32(Vec<f32>),
    F64(Vec<f64>),
}

/// None.
impl Default for Values {
    fn default() -> Self {
        Self::F32(Vec::new())
    }
}

impl Values {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the values from position `start` on away, and returns them.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn split_off(&mut self, start: usize) -> Self {
        match self {
            Self::F32(values) => Self::F32(values.split_off(start)),
            Self::F64(values) => Self::F64(values.split_off(start)),
        }
    }

    /// Appends values of the same precision, as one source has them.
    ///
    /// # Panics
    /// If they are of another.
    pub fn append(&mut self, more: Self) {
        match (self, more) {
            (Self::F32(values), Self::F32(more)) => values.extend(more),
            (Self::F64(values), Self::F64(more)) => values.extend(more),
            _ => panic!("values of two precisions"),
        }
    }
}

/// A matrix on its way in.
pub trait MatrixSource: Send {
    /// Number of columns, 1 or more.
    fn n_classes(&self) -> usize;

    /// Number of rows, if it is known before they come.
    fn n_rows(&self) -> Option<u64>;

    /// A name for each class, if the format has them.
    fn class_names(&self) -> Option<&[String]> {
        None
    }

    /// Whether the numbers are decimal, so that one is stored exactly by the float32 that prints like it.
    fn is_decimal(&self) -> bool {
        false
    }

    /// The next rows, at least one and at most `max_rows`; `None` at the end.
    ///
    /// # Errors
    /// Those of the format.
    fn next_rows(&mut self, max_rows: usize) -> Result<Option<Values>, Error>;
}

/// What a format leaves open.
#[derive(Debug, Clone, Default)]
pub struct SourceOptions {
    /// The array of a `.npz` archive to read.
    pub array: Option<String>,
    /// The columns that are classes: names, or `prefix*`; all of them if empty.
    pub columns: Vec<String>,
    /// Whether the first line of a CSV file is a header; found out if not given.
    pub has_header: Option<bool>,
    /// Whether infinity and what is no number are taken from text, where they are mostly mistakes.
    pub takes_non_finite: bool,
}

impl SourceOptions {
    /// Checks that what is given means something for the format found.
    fn check(&self, found: &'static str, meant: &[&str]) -> Result<(), Error> {
        let given = [
            (self.array.is_some(), "--array", ".npz"),
            (
                !self.columns.is_empty(),
                "--columns",
                "CSV, Parquet and Arrow IPC",
            ),
            (self.has_header.is_some(), "--csv-header", "CSV"),
        ];
        let is_lost =
            |&&(is_given, option, _): &&(bool, &str, _)| is_given && !meant.contains(&option);
        match given.iter().find(is_lost) {
            Some(&(_, option, formats)) => Err(Error::Option {
                option,
                formats,
                found,
            }),
            None => Ok(()),
        }
    }
}

/// Opens a matrix in any format that is read, told by its first bytes.
///
/// # Errors
/// [`Error::Empty`], [`Error::UnknownMatrixFormat`], [`Error::NotRead`], [`Error::Option`], and those of
/// the formats.
pub fn open(input: Input, options: &SourceOptions) -> Result<Box<dyn MatrixSource>, Error> {
    let start = input.start().to_vec();
    if start.is_empty() {
        Err(Error::Empty)
    } else if start.starts_with(&npy::MAGIC) {
        options.check(".npy", &[])?;
        Ok(Box::new(NpySource::open(input)?))
    } else if start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06") {
        options.check(".npz", &["--array"])?;
        Ok(Box::new(npz::open(
            input.into_file()?,
            options.array.as_deref(),
        )?))
    } else if start.starts_with(b"PAR1") {
        options.check("Parquet", &["--columns"])?;
        open_parquet(input, &options.columns)
    } else if start.starts_with(b"ARROW1") || start.starts_with(&[0xFF; 4]) {
        options.check("Arrow IPC", &["--columns"])?;
        open_arrow(input, &options.columns)
    } else if let Some((_, way_out)) = NOT_READ.iter().find(|(magic, _)| start.starts_with(magic)) {
        Err(Error::NotRead(way_out))
    } else if is_text(&start) {
        options.check("CSV", &["--columns", "--csv-header"])?;
        Ok(Box::new(csv::CsvSource::open(
            input.into_reader(),
            options,
        )?))
    } else {
        Err(Error::UnknownMatrixFormat { found: start })
    }
}

/// Formats that people have predictions in and that are not read, by their first bytes.
const NOT_READ: [(&[u8], &str); 6] = [
    (
        b"\x89HUF",
        "a .huff file, compressed already; pc decode unpacks it",
    ),
    (
        b"\x89HDF",
        "an HDF5 file is not read; save the matrix with numpy.save",
    ),
    (
        b"PARE",
        "an encrypted Parquet file is not read; write it without encryption",
    ),
    (
        b"FEA1",
        "Feather version 1 is not read; write it with version 2, which is Arrow IPC",
    ),
    (
        b"\x80\x04",
        "a Python pickle can run code and is not read; save the matrix with numpy.save",
    ),
    (
        b"\x28\xB5\x2F\xFD",
        "zstd is not unpacked here; pipe it in: zstd -dc FILE | pc compress - -o OUT.huff",
    ),
];

/// Whether the first bytes of a file look like text.
fn is_text(start: &[u8]) -> bool {
    let is_control = |byte: &u8| *byte < b' ' && !b"\t\r\n".contains(byte) || *byte == 0x7F;
    // What is cut off at the end may be a character.
    let is_unicode = match str::from_utf8(start) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    };
    is_unicode && !start.iter().any(is_control)
}

#[cfg(feature = "arrow")]
fn open_parquet(input: Input, columns: &[String]) -> Result<Box<dyn MatrixSource>, Error> {
    Ok(Box::new(super::table::open_parquet(input, columns)?))
}

#[cfg(feature = "arrow")]
fn open_arrow(input: Input, columns: &[String]) -> Result<Box<dyn MatrixSource>, Error> {
    Ok(Box::new(super::table::open_arrow(input, columns)?))
}

#[cfg(not(feature = "arrow"))]
const WITHOUT_ARROW: Error = Error::NotRead(
    "Parquet and Arrow IPC are not read by this pc; build it with the feature arrow",
);

#[cfg(not(feature = "arrow"))]
fn open_parquet(_: Input, _: &[String]) -> Result<Box<dyn MatrixSource>, Error> {
    Err(WITHOUT_ARROW)
}

#[cfg(not(feature = "arrow"))]
fn open_arrow(_: Input, _: &[String]) -> Result<Box<dyn MatrixSource>, Error> {
    Err(WITHOUT_ARROW)
}

/// The positions of the columns asked for, each by its name or as `prefix*`, and each once.
///
/// # Errors
/// [`Error::Columns`] for a pattern that no column fits.
pub(super) fn select(names: &[String], wanted: &[String]) -> Result<Vec<usize>, Error> {
    let mut selected = Vec::new();
    let mut is_selected = vec![false; names.len()];
    for pattern in wanted {
        let matches = |name: &String| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        };
        let found: Vec<usize> = (0..names.len())
            .filter(|&column| matches(&names[column]))
            .collect();
        if found.is_empty() {
            return Err(Error::Columns(format!(
                "no column {pattern:?}; there are {}",
                super::listed(names)
            )));
        }
        let new = found
            .into_iter()
            .filter(|&column| !std::mem::replace(&mut is_selected[column], true));
        selected.extend(new);
    }
    Ok(selected)
}

/// Names that say more than the number of the class does.
pub(super) fn telling(names: Vec<String>) -> Option<Vec<String>> {
    let is_number = |prefix: &str| {
        let mut names = names.iter().enumerate();
        names.all(|(class, name)| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest == class.to_string())
        })
    };
    (!is_number("") && !is_number(super::sink::UNNAMED)).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_told_from_other_bytes() {
        for text in ["0.5,0.5\n", "a\tb\r\n", "\u{feff}caf", "été,x"] {
            assert!(is_text(text.as_bytes()), "{text:?}");
        }
        assert!(is_text(&"cla\u{20ac}\u{20ac}".as_bytes()[..8]));
        for bytes in [&b"\xff\xfe1\0"[..], b"ab\0", b"\x1b[31m", b"\xc3("] {
            assert!(!is_text(bytes), "{bytes:?}");
        }
    }

    #[test]
    fn columns_are_found_by_name_and_by_prefix() {
        let names = ["id", "p_0", "p_1", "label"].map(String::from);
        let select = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
            select(&names, &wanted).map_err(|error| error.to_string())
        };
        assert_eq!(select(&["p_*"]), Ok(vec![1, 2]));
        assert_eq!(select(&["p_1", "p_0"]), Ok(vec![2, 1]));
        assert_eq!(select(&["p_1", "p_*"]), Ok(vec![2, 1]));
        assert!(select(&["q*"]).unwrap_err().contains("no column \"q*\""));
    }

    #[test]
    fn numbers_are_no_telling_names() {
        let telling = |names: [&str; 2]| telling(names.map(String::from).to_vec());
        assert_eq!(telling(["0", "1"]), None);
        assert_eq!(telling(["class_0", "class_1"]), None);
        assert!(telling(["cat", "dog"]).is_some());
        assert!(telling(["1", "2"]).is_some());
    }
}
