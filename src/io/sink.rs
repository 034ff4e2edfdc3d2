//! Decoded predictions on their way out, in any format: whole rows, their labels, or their first classes.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

use rayon::prelude::*;
use zip::write::{SimpleFileOptions, StreamWriter};
use zip::{CompressionMethod, ZipWriter};

use super::format::Format;
use super::npy;
use crate::matrix::Rows;

/// What classes without names are called, before their number.
pub const UNNAMED: &str = "class_";
/// The label of a row without any number in it, as damage leaves it.
pub const NO_LABEL: i64 = -1;
/// Rows formatted as text by one thread at a time.
const ROWS_PER_TEXT: usize = 256;

/// What is written of each row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// All values.
    Matrix {
        /// What the values are, the name of their array in an archive.
        kind: String,
        /// Number of classes.
        n_classes: usize,
        /// A name for each of them.
        class_names: Option<Vec<String>>,
    },
    /// The number of the most probable class.
    Labels,
    /// The numbers of the first classes, each with its value.
    Top(usize),
}

/// Some rows of what [`Content`] says.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs)]
pub enum Batch<'a> {
    Matrix(Rows<'a>),
    Labels(&'a [i64]),
    /// `k` classes and values a row.
    Top {
        k: usize,
        classes: &'a [i32],
        values: &'a [f32],
    },
}

impl Batch<'_> {
    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        match self {
            Self::Matrix(rows) => rows.n_rows(),
            Self::Labels(labels) => labels.len(),
            Self::Top { k, classes, .. } => classes.len() / k,
        }
    }
}

/// Writes decoded predictions in a format.
pub trait Sink<W>: Send {
    /// Writes some rows.
    ///
    /// # Errors
    /// As the writer's.
    fn write(&mut self, batch: Batch<'_>) -> io::Result<()>;

    /// Writes what closes the file, and returns the writer.
    ///
    /// # Errors
    /// As the writer's; if other than the rows promised have come.
    fn finish(self: Box<Self>) -> io::Result<W>;
}

/// Begins a file. Formats that state the number of rows first need `n_rows`; others do not look at it.
///
/// # Errors
/// As the writer's; for a format that cannot hold the content or is not built in.
pub fn create<W: Write + Send + 'static>(
    writer: W,
    format: Format,
    content: Content,
    n_rows: u64,
) -> io::Result<Box<dyn Sink<W>>> {
    Ok(match format {
        Format::Npy => Box::new(NpySink::new(writer, &content, n_rows)?),
        Format::Npz => Box::new(NpzSink::new(writer, &content, n_rows)?),
        Format::Csv => Box::new(TextSink::csv(writer, &content)?),
        Format::Jsonl => Box::new(TextSink {
            writer,
            format_row: json_row,
        }),
        #[cfg(feature = "arrow")]
        Format::Parquet => super::table_sink::parquet(writer, content)?,
        #[cfg(feature = "arrow")]
        Format::Arrow => super::table_sink::arrow(writer, content)?,
        #[cfg(not(feature = "arrow"))]
        Format::Parquet | Format::Arrow => {
            return Err(io::Error::other(
                "Parquet and Arrow IPC are not written by this pc; build it with the feature arrow",
            ));
        }
    })
}

/// Counts rows against the number that a header has promised.
struct Promised {
    n_rows: u64,
    n_written: u64,
}

impl Promised {
    fn check(&self) -> io::Result<()> {
        match self.n_written == self.n_rows {
            true => Ok(()),
            false => Err(io::Error::other(format!(
                "{} rows came, {} were promised: the input has changed meanwhile; try again",
                self.n_written, self.n_rows
            ))),
        }
    }
}

struct NpySink<W> {
    writer: W,
    promised: Promised,
}

impl<W: Write> NpySink<W> {
    fn new(mut writer: W, content: &Content, n_rows: u64) -> io::Result<Self> {
        match content {
            Content::Matrix { n_classes, .. } => {
                npy::write_matrix_header(&mut writer, n_rows, *n_classes)?;
            }
            Content::Labels => npy::write_header(&mut writer, "<i8", &[n_rows])?,
            Content::Top(_) => {
                return Err(io::Error::other(
                    "one .npy array cannot hold classes and values; write .npz, which holds two",
                ));
            }
        }
        Ok(Self {
            writer,
            promised: Promised {
                n_rows,
                n_written: 0,
            },
        })
    }
}

impl<W: Write + Send> Sink<W> for NpySink<W> {
    fn write(&mut self, batch: Batch<'_>) -> io::Result<()> {
        self.promised.n_written += batch.n_rows() as u64;
        match batch {
            Batch::Matrix(rows) => npy::write_f32(&mut self.writer, rows.values()),
            Batch::Labels(labels) => write_labels(&mut self.writer, labels),
            Batch::Top { .. } => Ok(()),
        }
    }

    fn finish(self: Box<Self>) -> io::Result<W> {
        self.promised.check()?;
        Ok(self.writer)
    }
}

fn write_labels(mut writer: impl Write, labels: &[i64]) -> io::Result<()> {
    let bytes: Vec<u8> = labels
        .iter()
        .flat_map(|label| label.to_le_bytes())
        .collect();
    writer.write_all(&bytes)
}

struct NpzSink<W: Write> {
    archive: ZipWriter<StreamWriter<W>>,
    promised: Promised,
    /// The array that has to wait until the one before it is complete, and its columns.
    second: Option<(File, usize)>,
}

impl<W: Write> NpzSink<W> {
    fn new(writer: W, content: &Content, n_rows: u64) -> io::Result<Self> {
        let mut archive = ZipWriter::new_stream(writer);
        let mut second = None;
        match content {
            Content::Matrix {
                kind, n_classes, ..
            } => {
                start_array(&mut archive, kind)?;
                npy::write_matrix_header(&mut archive, n_rows, *n_classes)?;
            }
            Content::Labels => {
                start_array(&mut archive, "labels")?;
                npy::write_header(&mut archive, "<i8", &[n_rows])?;
            }
            Content::Top(k) => {
                start_array(&mut archive, "classes")?;
                npy::write_header(&mut archive, "<i4", &[n_rows, *k as u64])?;
                second = Some((tempfile::tempfile()?, *k));
            }
        }
        Ok(Self {
            archive,
            promised: Promised {
                n_rows,
                n_written: 0,
            },
            second,
        })
    }
}

fn start_array<W: Write>(archive: &mut ZipWriter<StreamWriter<W>>, name: &str) -> io::Result<()> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .large_file(true);
    Ok(archive.start_file(format!("{name}.npy"), options)?)
}

impl<W: Write + Send> Sink<W> for NpzSink<W> {
    fn write(&mut self, batch: Batch<'_>) -> io::Result<()> {
        self.promised.n_written += batch.n_rows() as u64;
        match batch {
            Batch::Matrix(rows) => npy::write_f32(&mut self.archive, rows.values()),
            Batch::Labels(labels) => write_labels(&mut self.archive, labels),
            Batch::Top {
                classes, values, ..
            } => {
                if let Some((file, _)) = &mut self.second {
                    npy::write_f32(file, values)?;
                }
                let bytes: Vec<u8> = classes.iter().flat_map(|c| c.to_le_bytes()).collect();
                self.archive.write_all(&bytes)
            }
        }
    }

    fn finish(mut self: Box<Self>) -> io::Result<W> {
        self.promised.check()?;
        if let Some((mut file, k)) = self.second {
            start_array(&mut self.archive, "values")?;
            npy::write_matrix_header(&mut self.archive, self.promised.n_rows, k)?;
            file.seek(SeekFrom::Start(0))?;
            io::copy(&mut file, &mut self.archive)?;
        }
        Ok(self.archive.finish()?.into_inner())
    }
}

/// Text with a row a line.
struct TextSink<W> {
    writer: W,
    format_row: fn(&mut Vec<u8>, Batch<'_>, usize),
}

impl<W: Write> TextSink<W> {
    fn csv(mut writer: W, content: &Content) -> io::Result<Self> {
        let mut header = Vec::new();
        match content {
            Content::Matrix {
                class_names: Some(names),
                ..
            } => header = names.clone(),
            Content::Matrix { .. } | Content::Labels => {}
            Content::Top(k) => {
                header.extend(
                    (1..=*k).flat_map(|place| [format!("class_{place}"), format!("p_{place}")]),
                );
            }
        }
        if !header.is_empty() {
            let mut record = csv::Writer::from_writer(Vec::new());
            record.write_record(&header)?;
            let bytes = record.into_inner().map_err(|error| error.into_error())?;
            writer.write_all(&bytes)?;
        }
        Ok(Self {
            writer,
            format_row: csv_row,
        })
    }
}

impl<W: Write + Send> Sink<W> for TextSink<W> {
    fn write(&mut self, batch: Batch<'_>) -> io::Result<()> {
        let format_row = self.format_row;
        let starts: Vec<usize> = (0..batch.n_rows()).step_by(ROWS_PER_TEXT).collect();
        // Some texts at a time, so that not all of them wait in memory.
        for starts in starts.chunks(4 * rayon::current_num_threads()) {
            let texts: Vec<Vec<u8>> = starts
                .par_iter()
                .map(|&start| {
                    let mut text = Vec::new();
                    for row in start..batch.n_rows().min(start + ROWS_PER_TEXT) {
                        format_row(&mut text, batch, row);
                    }
                    text
                })
                .collect();
            for text in texts {
                self.writer.write_all(&text)?;
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<W> {
        Ok(self.writer)
    }
}

/// The row of a matrix.
fn row<'a>(rows: Rows<'a>, row: usize) -> &'a [f32] {
    &rows.values()[row * rows.n_classes()..][..rows.n_classes()]
}

fn csv_row(text: &mut Vec<u8>, batch: Batch<'_>, number: usize) {
    match batch {
        Batch::Matrix(rows) => {
            for (class, &value) in row(rows, number).iter().enumerate() {
                if class > 0 {
                    text.push(b',');
                }
                push_float(text, value, "nan");
            }
        }
        Batch::Labels(labels) => text.extend(labels[number].to_string().bytes()),
        Batch::Top { k, classes, values } => {
            for place in number * k..(number + 1) * k {
                if place > number * k {
                    text.push(b',');
                }
                text.extend(classes[place].to_string().bytes());
                text.push(b',');
                push_float(text, values[place], "nan");
            }
        }
    }
    text.push(b'\n');
}

fn json_row(text: &mut Vec<u8>, batch: Batch<'_>, number: usize) {
    match batch {
        Batch::Matrix(rows) => {
            for (class, &value) in row(rows, number).iter().enumerate() {
                text.push(if class == 0 { b'[' } else { b',' });
                push_json_float(text, value);
            }
            text.push(b']');
        }
        Batch::Labels(labels) => text.extend(labels[number].to_string().bytes()),
        Batch::Top { k, classes, values } => {
            for place in number * k..(number + 1) * k {
                text.push(if place == number * k { b'[' } else { b',' });
                text.extend(format!("[{},", classes[place]).bytes());
                push_json_float(text, values[place]);
                text.push(b']');
            }
            text.push(b']');
        }
    }
    text.push(b'\n');
}

/// JSON has no infinities, nor what is no number.
fn push_json_float(text: &mut Vec<u8>, value: f32) {
    match value.is_finite() {
        true => push_float(text, value, ""),
        false => text.extend(b"null"),
    }
}

/// The shortest decimal that reads as the same float32.
fn push_float(text: &mut Vec<u8>, value: f32, nan: &str) {
    if value.to_bits() == 0 {
        // Most of what there is.
        text.push(b'0');
    } else if value.is_finite() {
        // Writing to memory does not fail.
        let _ = serde_json::to_writer(text, &value);
    } else if value.is_nan() {
        text.extend(nan.bytes());
    } else {
        text.extend(value.to_string().bytes());
    }
}

/// The label of a row: its argmax, or [`NO_LABEL`] for a row without any number.
pub fn label(row: &[f32]) -> i64 {
    match row.iter().all(|value| value.is_nan()) {
        true => NO_LABEL,
        false => crate::matrix::argmax(row) as i64,
    }
}

/// Appends the first `k` classes of a row, of equal values the first class first, and their values. What is
/// no number comes last, as class [`NO_LABEL`].
pub fn push_top(row: &[f32], k: usize, classes: &mut Vec<i32>, values: &mut Vec<f32>) {
    let falling = |&a: &usize, &b: &usize| {
        // Adding 0 makes -0 equal to 0.
        let key = |class: usize| row[class] + 0.0;
        let is_nan = |class: usize| row[class].is_nan();
        let order = is_nan(a).cmp(&is_nan(b));
        order
            .then(
                key(b)
                    .partial_cmp(&key(a))
                    .unwrap_or(std::cmp::Ordering::Equal),
            )
            .then(a.cmp(&b))
    };
    let mut order: Vec<usize> = (0..row.len()).collect();
    if k < order.len() {
        order.select_nth_unstable_by(k, falling);
        order.truncate(k);
    }
    order.sort_unstable_by(falling);
    for class in order {
        values.push(row[class]);
        classes.push(match row[class].is_nan() {
            true => NO_LABEL as i32,
            false => class as i32,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(format: Format, content: Content, batch: Batch<'_>) -> String {
        let mut sink = create(Vec::new(), format, content, batch.n_rows() as u64).unwrap();
        sink.write(batch).unwrap();
        String::from_utf8(sink.finish().unwrap()).unwrap()
    }

    #[test]
    fn text_is_the_shortest_that_reads_as_the_same() {
        let values = [0.1, 0.0, 1e-10, -0.0, f32::NAN, f32::INFINITY];
        let matrix = |class_names| Content::Matrix {
            kind: "values".to_owned(),
            n_classes: 3,
            class_names,
        };
        let names = ["a", "b,c", "d\"e"].map(str::to_owned).to_vec();
        let batch = Batch::Matrix(Rows::new(3, &values));
        assert_eq!(
            write(Format::Csv, matrix(Some(names)), batch),
            "a,\"b,c\",\"d\"\"e\"\n0.1,0,1e-10\n-0.0,nan,inf\n"
        );
        assert_eq!(
            write(Format::Jsonl, matrix(None), batch),
            "[0.1,0,1e-10]\n[-0.0,null,null]\n"
        );
    }

    #[test]
    fn first_classes_and_labels_are_numbers() {
        let (mut classes, mut values) = (Vec::new(), Vec::new());
        for row in [[0.25, 0.5, 0.25], [f32::NAN, 0.0, 1.0], [f32::NAN; 3]] {
            push_top(&row, 2, &mut classes, &mut values);
        }
        assert_eq!(classes, [1, 0, 2, 1, -1, -1]);
        let batch = Batch::Top {
            k: 2,
            classes: &classes,
            values: &values,
        };
        assert_eq!(
            write(Format::Csv, Content::Top(2), batch),
            "class_1,p_1,class_2,p_2\n1,0.5,0,0.25\n2,1.0,1,0\n-1,nan,-1,nan\n"
        );
        assert_eq!(
            write(Format::Jsonl, Content::Top(2), batch),
            "[[1,0.5],[0,0.25]]\n[[2,1.0],[1,0]]\n[[-1,null],[-1,null]]\n"
        );
        let labels = [label(&[0.0, 1.0]), label(&[f32::NAN; 2])];
        assert_eq!(labels, [1, -1]);
        assert_eq!(
            write(Format::Csv, Content::Labels, Batch::Labels(&labels)),
            "1\n-1\n"
        );
    }

    #[test]
    fn rows_that_are_missing_are_an_error() {
        let sink = create(Vec::new(), Format::Npy, Content::Labels, 3).unwrap();
        assert!(sink.finish().is_err());
    }
}
