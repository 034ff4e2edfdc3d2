//! Text with a row a line: comma-separated values, or separated by tabs, semicolons or spaces. A header line
//! is found out, and names the classes.

use std::io::{self, BufRead, Cursor, Read};

use csv::{ByteRecord, ReaderBuilder, Trim};

use super::source::{MatrixSource, SourceOptions, Values, select, telling};
use super::{Error, read_up_to};

/// The longest record read, in bytes: a million classes with room to spare.
const MAX_RECORD_BYTES: u64 = 1 << 26;
/// Bytes in which the separator, and columns that are no classes, are looked for.
const N_SAMPLE_BYTES: usize = 1 << 20;

/// Reads the rows of a text.
pub struct CsvSource {
    reader: csv::Reader<Counted>,
    /// The record at hand: read, but not handed over, if `is_pending`.
    record: ByteRecord,
    is_pending: bool,
    /// Cells of every record.
    n_columns: usize,
    /// The columns that are classes, if not all are.
    selected: Option<Vec<usize>>,
    class_names: Option<Vec<String>>,
    takes_non_finite: bool,
}

impl CsvSource {
    /// Reads the first lines.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Text`], [`Error::Columns`], [`Error::Io`].
    pub fn open(
        mut reader: Box<dyn BufRead + Send>,
        options: &SourceOptions,
    ) -> Result<Self, Error> {
        let mut sample = vec![0; N_SAMPLE_BYTES];
        let n_sample = read_up_to(&mut reader, &mut sample)?;
        sample.truncate(n_sample);
        check_decimal_commas(&sample)?;
        if [&b"[["[..], b"[{", b"{\""]
            .iter()
            .any(|start| sample.trim_ascii_start().starts_with(start))
        {
            return Err(Error::Text {
                line: 1,
                what: "JSON, it seems; expected numbers with commas between them, and a row on each line".to_owned(),
            });
        }
        let delimiter = delimiter(&sample);
        let reader = Counted {
            reader: Box::new(Cursor::new(sample.clone()).chain(reader)),
            last: (0, 0),
            n_lines: 0,
            n_bytes: 0,
            ends: Vec::new(),
        };
        let mut reader = builder(delimiter).from_reader(reader);
        let mut record = ByteRecord::new();
        if !read(&mut reader, &mut record)? {
            return Err(Error::Empty);
        }
        let is_header = options.has_header.unwrap_or_else(|| {
            let mut records = builder(delimiter)
                .from_reader(&sample[..])
                .into_byte_records();
            let second = records.nth(1).and_then(Result::ok);
            is_header(&record, second.as_ref())
        });
        let mut source = Self {
            n_columns: record.len(),
            reader,
            record,
            is_pending: !is_header,
            selected: None,
            class_names: None,
            takes_non_finite: options.takes_non_finite,
        };
        if is_header {
            source.take_header(options)?;
            if options.columns.is_empty() {
                source.check_columns(&whole_lines(sample), delimiter)?;
            }
        } else if !options.columns.is_empty() {
            return Err(Error::Columns(
                "no header line to find the columns of --columns in; expected their names in the first line"
                    .to_owned(),
            ));
        }
        Ok(source)
    }

    /// The number of the line that the record at hand ends with, counted from 1.
    fn line(&self) -> u64 {
        let end = self.reader.position().byte();
        self.reader.get_ref().line_before(end)
    }

    /// Makes class names of the record at hand.
    fn take_header(&mut self, options: &SourceOptions) -> Result<(), Error> {
        let line = self.line();
        let names: Vec<String> = self
            .record
            .iter()
            .map(|name| match str::from_utf8(name) {
                Ok(name) => Ok(name.to_owned()),
                Err(_) => Err(Error::Text {
                    line,
                    what: "a column name that is no UTF-8; save the file as UTF-8".to_owned(),
                }),
            })
            .collect::<Result<_, _>>()?;
        self.class_names = match options.columns.is_empty() {
            true if names.first().is_some_and(String::is_empty) => {
                return Err(Error::Columns(
                    "line 1: the first column has no name, as if it were pandas' row numbers; write the file with index=False, or name the classes with --columns"
                        .to_owned(),
                ));
            }
            true => telling(names),
            false => {
                let selected = select(&names, &options.columns)?;
                let names = selected.iter().map(|&column| names[column].clone());
                let names = names.collect();
                self.selected = Some(selected);
                telling(names)
            }
        };
        Ok(())
    }

    /// Refuses a column of integers beside others that are not, as row numbers and labels are.
    fn check_columns(&self, sample: &[u8], delimiter: u8) -> Result<(), Error> {
        // Whether all cells are integers, and one beyond 0 and 1.
        let mut columns = vec![(true, false); self.n_columns];
        let mut n_rows = 0;
        let mut reader = builder(delimiter).from_reader(sample);
        let mut record = ByteRecord::new();
        // What is wrong with a row is told when it is read.
        let is_row = |record: &ByteRecord| record.len() == self.n_columns;
        while let Ok(true) = reader.read_byte_record(&mut record)
            && is_row(&record)
        {
            // The header is the first record.
            if n_rows > 0 {
                for (cell, (are_integers, is_beyond)) in record.iter().zip(&mut columns) {
                    *are_integers &= is_integer(cell);
                    *is_beyond |= !matches!(cell, b"0" | b"1");
                }
            }
            n_rows += 1;
        }
        let Some(found) = columns.iter().position(|&column| column == (true, true)) else {
            return Ok(());
        };
        if n_rows < 2 || columns.iter().all(|(are_integers, _)| *are_integers) {
            return Ok(());
        }
        // The record at hand is the header.
        let name = String::from_utf8_lossy(&self.record[found]);
        Err(Error::Columns(format!(
            "column {name:.60?} holds integers, others do not, as if it were row numbers or labels; expected a column a class; name those to take with --columns, as in --columns 'p_*'"
        )))
    }

    /// Appends the numbers of the record at hand.
    fn parse_into(&self, values: &mut Vec<f64>) -> Result<(), Error> {
        let record = &self.record;
        if record.len() != self.n_columns {
            return Err(Error::Ragged {
                line: self.line(),
                found: record.len(),
                expected: self.n_columns,
            });
        }
        let parse = |column: usize| {
            let number = parse(&record[column]);
            let number = number.filter(|number| self.takes_non_finite || number.is_finite());
            number.ok_or_else(|| {
                let (line, column, cell) = (self.line(), column + 1, &record[column]);
                let text = String::from_utf8_lossy(cell).into_owned();
                match cell {
                    b"" => Error::Cell {
                        line,
                        column,
                        found: "an empty cell".to_owned(),
                    },
                    cell if has_decimal_comma(cell) => Error::DecimalComma {
                        line,
                        column,
                        found: text,
                    },
                    _ => Error::Cell {
                        line,
                        column,
                        found: format!("{text:.40?}"),
                    },
                }
            })
        };
        match &self.selected {
            None => {
                for column in 0..record.len() {
                    values.push(parse(column)?);
                }
            }
            Some(selected) => {
                for &column in selected {
                    values.push(parse(column)?);
                }
            }
        }
        Ok(())
    }
}

impl MatrixSource for CsvSource {
    fn n_classes(&self) -> usize {
        self.selected
            .as_ref()
            .map_or(self.n_columns, |selected| selected.len())
    }

    fn n_rows(&self) -> Option<u64> {
        None
    }

    fn class_names(&self) -> Option<&[String]> {
        self.class_names.as_deref()
    }

    fn is_decimal(&self) -> bool {
        true
    }

    fn next_rows(&mut self, max_rows: usize) -> Result<Option<Values>, Error> {
        let mut values = Vec::new();
        for _ in 0..max_rows {
            if !std::mem::take(&mut self.is_pending) && !read(&mut self.reader, &mut self.record)? {
                break;
            }
            self.parse_into(&mut values)?;
        }
        Ok((!values.is_empty()).then_some(Values::F64(values)))
    }
}

/// How all texts are read.
fn builder(delimiter: u8) -> ReaderBuilder {
    let mut builder = ReaderBuilder::new();
    builder
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter)
        .trim(Trim::All)
        .buffer_capacity(1 << 16);
    builder
}

/// The first bytes of a text without a line that goes on after them.
fn whole_lines(mut sample: Vec<u8>) -> Vec<u8> {
    if sample.len() == N_SAMPLE_BYTES {
        let end = sample.iter().rposition(|&byte| byte == b'\n');
        sample.truncate(end.map_or(0, |end| end + 1));
    }
    sample
}

/// Whether a cell is written as integers are.
fn is_integer(cell: &[u8]) -> bool {
    let digits = cell.strip_prefix(b"-").unwrap_or(cell);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

/// A number, be it infinite or `nan`, or nothing. A number too large to be one is nothing, too.
fn parse(cell: &[u8]) -> Option<f64> {
    let number: f64 = str::from_utf8(cell).ok()?.parse().ok()?;
    let is_word = !cell.iter().any(u8::is_ascii_digit);
    (number.is_finite() || is_word).then_some(number)
}

/// Whether the first record names columns: a cell of it is no number, not even a word for one; or it counts
/// the columns from 0, as pandas names those without a name, be it behind the empty name of its row numbers. Of two
/// columns, that may be a row as well, if the next one is of integers too.
fn is_header(record: &ByteRecord, next: Option<&ByteRecord>) -> bool {
    let is_number =
        |cell: &[u8]| str::from_utf8(cell).is_ok_and(|cell| cell.parse::<f64>().is_ok());
    let first = usize::from(record.get(0).is_some_and(<[u8]>::is_empty));
    let is_counted = record
        .iter()
        .skip(first)
        .enumerate()
        .all(|(column, cell)| cell == column.to_string().as_bytes());
    let is_missing = |cell: &[u8]| cell.is_empty() || cell.eq_ignore_ascii_case(b"na");
    let is_integers = |record: &ByteRecord| record.iter().all(is_integer);
    // A row with a gap is an error, but no header.
    (is_counted
        && record.len() > 1
        && (record.len() > 2 || next.is_some_and(|next| !is_integers(next))))
        || record
            .iter()
            .any(|cell| !is_number(cell) && !is_missing(cell))
}

/// Refuses a text whose first line is of numbers with decimal commas, which else would separate its cells.
fn check_decimal_commas(sample: &[u8]) -> Result<(), Error> {
    let mut lines = (1..).zip(sample.split(|&byte| byte == b'\n'));
    let Some((line, text)) = lines.find(|(_, text)| !text.trim_ascii().is_empty()) else {
        return Ok(());
    };
    let text = text.trim_ascii();
    let Some(separator) = b";\t ".iter().find(|separator| text.contains(separator)) else {
        return Ok(());
    };
    let cells = text.split(|byte| byte == separator).map(<[u8]>::trim_ascii);
    let cells: Vec<&[u8]> = cells
        .map(|cell| {
            let inner = cell.strip_prefix(b"\"");
            inner
                .and_then(|inner| inner.strip_suffix(b"\""))
                .unwrap_or(cell)
        })
        .collect();
    let is_number = |cell: &&[u8]| is_integer(cell) || has_decimal_comma(cell);
    match cells.iter().position(|cell| has_decimal_comma(cell)) {
        Some(found) if cells.iter().all(is_number) => Err(Error::DecimalComma {
            line,
            column: found + 1,
            found: String::from_utf8_lossy(cells[found]).into_owned(),
        }),
        _ => Ok(()),
    }
}

/// Whether a cell is a number but for a comma in the place of its point.
fn has_decimal_comma(cell: &[u8]) -> bool {
    let Some(comma) = cell.iter().position(|&byte| byte == b',') else {
        return false;
    };
    let is_digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
    let mut pointed = cell.to_vec();
    pointed[comma] = b'.';
    is_digit(cell[..comma].last()) && is_digit(cell.get(comma + 1)) && parse(&pointed).is_some()
}

/// What separates the cells of the first line: the first of these that stands in it.
fn delimiter(sample: &[u8]) -> u8 {
    let is_end = |byte: &u8| b"\r\n".contains(byte);
    let is_blank = |line: &&[u8]| line.iter().all(u8::is_ascii_whitespace);
    let line = sample.split(is_end).find(|line| !is_blank(line));
    let line = line.unwrap_or_default().trim_ascii();
    let separators = *b",\t; ";
    separators
        .into_iter()
        .find(|separator| line.contains(separator))
        .unwrap_or(b',')
}

/// Reads a record; `false` at the end.
fn read(reader: &mut csv::Reader<Counted>, record: &mut ByteRecord) -> Result<bool, Error> {
    let is_record = reader
        .read_byte_record(record)
        .map_err(|error| match error.into_kind() {
            csv::ErrorKind::Io(error) => Error::Io(error),
            other => Error::Io(io::Error::other(format!("{other:?}"))),
        })?;
    let end = reader.position().byte();
    let line = reader.get_ref().line_before(end);
    let (_, last_line) = std::mem::replace(&mut reader.get_mut().last, (end, line));
    match record.as_slice().contains(&b'\n') {
        false => Ok(is_record),
        true => Err(Error::Text {
            line: last_line + 1,
            what: "a line break within quotes; expected a row on each line, and every quote closed"
                .to_owned(),
        }),
    }
}

/// Text whose records are short enough to be held in memory, as they are not where a quote is never closed, and
/// whose lines are counted: the CSV reader does not count those that it skips, nor all of those that end with
/// CR LF.
struct Counted {
    reader: Box<dyn Read + Send>,
    /// Where the last record ended: the byte after it, and its line.
    last: (u64, u64),
    /// Lines that ended before the bytes read last.
    n_lines: u64,
    /// All bytes read.
    n_bytes: u64,
    /// Where lines end among the bytes read last.
    ends: Vec<u64>,
}

impl Counted {
    /// The number of the line that ends before byte `end`, which is among those read last, counted from 1.
    fn line_before(&self, end: u64) -> u64 {
        let ended = self.ends.partition_point(|&line_end| line_end + 1 < end);
        1 + self.n_lines + ended as u64
    }
}

impl Read for Counted {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n_read = self.reader.read(bytes)?;
        if n_read == 0 {
            return Ok(0);
        }
        self.n_lines += self.ends.len() as u64;
        self.ends.clear();
        let ends = (0..n_read).filter(|&position| bytes[position] == b'\n');
        self.ends
            .extend(ends.map(|position| self.n_bytes + position as u64));
        self.n_bytes += n_read as u64;
        let (record_start, line) = self.last;
        match self.n_bytes - record_start > MAX_RECORD_BYTES {
            false => Ok(n_read),
            true => Err(io::Error::other(format!(
                "after line {line}: more than {MAX_RECORD_BYTES} bytes without an end; expected a row of numbers on each line, and every quote closed"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &str) -> Result<CsvSource, Error> {
        CsvSource::open(
            Box::new(Cursor::new(text.as_bytes().to_vec())),
            &SourceOptions::default(),
        )
    }

    fn rows(text: &str) -> Result<(usize, Vec<f64>), Error> {
        let mut source = open(text)?;
        let mut all = Vec::new();
        while let Some(Values::F64(values)) = source.next_rows(2)? {
            all.extend(values);
        }
        Ok((source.n_classes(), all))
    }

    #[test]
    fn separators_and_line_ends_of_all_kinds_are_read() {
        for text in [
            "0.5,0.25\n1,1e-3\n",
            "0.5,0.25\r\n1,1e-3",
            "\u{feff}0.5,0.25\n\n1,1e-3\n",
            "0.5\t0.25\n1\t1e-3\n",
            "0.5; 0.25\n1 ;1e-3\n",
            "0.5 0.25\n1.00 0.001\n",
            "\"0.5\",\"0.25\"\n\"1\",\"1e-3\"\n",
            "a,b\n0.5,0.25\n1,1e-3\n",
        ] {
            let (n_classes, values) = rows(text).unwrap();
            assert_eq!(
                (n_classes, values),
                (2, vec![0.5, 0.25, 1.0, 0.001]),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_header_is_told_from_a_row() {
        let names = |text: &str| open(text).unwrap().class_names.clone();
        let some = |names: &[&str]| Some(names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>());
        assert_eq!(names("cat,dog\n"), some(&["cat", "dog"]));
        assert_eq!(names("\"a, b\",\"c\"\"d\"\n"), some(&["a, b", "c\"d"]));
        assert_eq!(names("2,cat\n"), some(&["2", "cat"]));
        assert_eq!(names("0.1,0.9\n"), None);
        // Columns that pandas has numbered.
        assert_eq!(rows("0,1,2\n0.5,0.25,0.25\n").unwrap().1.len(), 3);
        assert_eq!(rows("0,1\n0.5,0.5\n").unwrap().1.len(), 2);
        // One-hot rows.
        assert_eq!(rows("0,1\n1,0\n").unwrap().1.len(), 4);
    }

    #[test]
    fn gaps_words_and_ragged_rows_are_named_by_line_and_column() {
        let error = |text: &str| rows(text).unwrap_err().to_string();
        assert_eq!(
            error("a,b\n0.5,0.5\n0.5,\n"),
            "line 3, column 2: an empty cell; expected a number"
        );
        assert_eq!(
            error("0.5,nan\n"),
            "line 1, column 2: \"nan\"; expected a number"
        );
        assert_eq!(
            error("1,1\n1,Infinity\n"),
            "line 2, column 2: \"Infinity\"; expected a number"
        );
        assert_eq!(
            error(",0.5\n"),
            "line 1, column 1: an empty cell; expected a number"
        );
        assert_eq!(
            error("1,1\n\n1,1,1\n"),
            "line 3: 3 columns; expected 2, as in the lines before"
        );
        assert_eq!(
            error("1,1\n1\n"),
            "line 2: 1 column; expected 2, as in the lines before"
        );
        assert!(error(",a,b\n0,0.5,0.5\n").contains("index=False"));
        assert!(error(",0,1\n0,0.5,0.5\n").contains("index=False"));
        assert_eq!(
            error("\r\n1,1\r\n\r\n1,x\r\n"),
            "line 4, column 2: \"x\"; expected a number"
        );
        // Beyond the first bytes read at once.
        let long = "0.5,0.5\n".repeat(50_000);
        assert_eq!(
            error(&format!("{long}1,x")),
            "line 50001, column 2: \"x\"; expected a number"
        );
        assert_eq!(error("\n\n"), Error::Empty.to_string());
        for (text, line) in [
            ("\"a,b\n0.2,0.8\n0.3,0.7\n", 1),
            ("a,b\n\"0.2,0.8\n0.3,0.7\n", 2),
        ] {
            let start = format!("line {line}: a line break within quotes");
            assert!(error(text).starts_with(&start), "{}", error(text));
        }
        assert!(error("[[0.1,0.9],[0.2,0.8]]").starts_with("line 1: JSON"));
    }

    #[test]
    fn decimal_commas_are_guessed() {
        let error = |text: &str| rows(text).unwrap_err().to_string();
        for (text, start) in [
            ("0,5;0,5\n", "line 1, column 1: \"0,5\""),
            ("\n1;-0,25\r\n", "line 2, column 2: \"-0,25\""),
            ("0,5\t5,0e-1\n", "line 1, column 1: \"0,5\""),
            ("\"0,5\";\"0,5\"\n", "line 1, column 1: \"0,5\""),
            ("0,5 0,5\n", "line 1, column 1: \"0,5\""),
            ("a;b\n0,5;0,5\n", "line 2, column 1: \"0,5\""),
        ] {
            let end = " has a decimal comma, it seems; write the file with decimal points";
            assert_eq!(error(text), format!("{start}{end}"), "{text:?}");
        }
        for text in ["0, 1\n", "0 ,1\n", "0.5,0.5\n", "\"a;b\",c\n1,2\n"] {
            assert_eq!(rows(text).unwrap().0, 2, "{text:?}");
        }
    }

    #[test]
    fn words_for_numbers_are_read_where_they_are_wanted() {
        let options = SourceOptions {
            takes_non_finite: true,
            ..SourceOptions::default()
        };
        let next = |text: &'static str| {
            let mut source = CsvSource::open(Box::new(Cursor::new(text)), &options).unwrap();
            source.next_rows(9).map_err(|error| error.to_string())
        };
        let Ok(Some(Values::F64(values))) = next("nan,inf\n-inf,NaN\n0.5,Infinity\n") else {
            panic!("no numbers");
        };
        let bits: Vec<u64> = values.iter().map(|value| value.to_bits()).collect();
        let (nan, infinity) = (f64::NAN, f64::INFINITY);
        let expected = [nan, infinity, -infinity, nan, 0.5, infinity].map(f64::to_bits);
        assert_eq!(bits, expected);
        for text in ["1,1\n1e999,1\n", "1,1\n,1\n", "1,1\nna,1\n"] {
            assert!(
                next(text).unwrap_err().starts_with("line 2, column 1: "),
                "{text}"
            );
        }
    }

    #[test]
    fn columns_of_integers_beside_others_are_no_classes() {
        let error = |text: &str| open(text).err().map(|error| error.to_string());
        let found = "column \"id\" holds integers, others do not";
        assert!(
            error("id,a,b\n0,0.5,0.5\n1,1,0\n2,0.25,0.75\n")
                .unwrap()
                .starts_with(found)
        );
        assert!(
            error("a;b;label\n0.5;0.5;7\n")
                .unwrap()
                .contains("--columns 'p_*'")
        );
        // However long the text is.
        let many = "17,0.5,0.5\n".repeat(200_000);
        assert!(
            error(&format!("id,a,b\n{many}"))
                .unwrap()
                .starts_with(found)
        );
        for text in [
            // One-hot rows, scores, what may be a probability, and floats that happen to be whole.
            "id,a,b\n5,0,1\n",
            "a,b\n7,-3\n2,5\n",
            "a,b,c\n1,0.0,0.0\n0,0.5,0.5\n",
            "a,b\n3.0,0.5\n4,0.5\n",
            "a,b\n",
            // No name to give.
            "7,0.5\n",
        ] {
            assert_eq!(error(text), None, "{text:?}");
        }
        let options = SourceOptions {
            columns: vec!["*".to_owned()],
            ..SourceOptions::default()
        };
        let text = Cursor::new("id,a\n7,0.5\n");
        assert_eq!(
            CsvSource::open(Box::new(text), &options)
                .unwrap()
                .n_classes(),
            2
        );
    }

    #[test]
    fn endless_lines_and_quotes_are_refused() {
        // A quote that stays open, and lines without end.
        let quoted = Cursor::new(b"0.5,0.5\n0.5,\"".to_vec());
        let lines = Cursor::new(b"0.5,0.5\n".repeat(1 << 23));
        let texts: [(Box<dyn BufRead + Send>, u64); 2] = [
            (Box::new(io::BufReader::new(io::repeat(b'7'))), 0),
            (Box::new(quoted.chain(lines)), 1),
        ];
        for (text, line) in texts {
            let error = CsvSource::open(text, &SourceOptions::default())
                .and_then(|mut source| source.next_rows(10))
                .unwrap_err()
                .to_string();
            let start = format!("after line {line}: more than {MAX_RECORD_BYTES} bytes");
            assert!(error.starts_with(&start), "{error}");
        }
    }
}
