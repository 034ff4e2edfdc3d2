//! Matrices in the columns of a table: Parquet and Arrow IPC.

use std::cell::Cell;
use std::fs::File;
use std::io::BufReader;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type, Float64Type};
use arrow_array::{Array, RecordBatch};
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_schema::{ArrowError, DataType, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::Error;
use super::input::Input;
use super::npy_source::scatter;
use super::source::{MatrixSource, Values, select, telling};

/// Values read at once, in batches whose size is ours to choose.
const BATCH_VALUES: usize = 1 << 21;

/// Reads the rows of a table.
pub struct TableSource {
    format: &'static str,
    batches: Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>,
    /// Rows that are read, but not handed over.
    pending: Option<RecordBatch>,
    layout: Layout,
    n_classes: usize,
    is_f64: bool,
    class_names: Option<Vec<String>>,
    n_rows: Option<u64>,
    n_read: u64,
}

/// Where the classes of a row are.
enum Layout {
    /// Each in its own column, with these positions and names.
    Columns(Vec<(usize, String)>),
    /// All in a list, in the column of this position.
    List(usize),
}

/// Opens a Parquet file.
///
/// # Errors
/// [`Error::Table`], [`Error::Columns`], [`Error::Null`], [`Error::RaggedList`], [`Error::Io`].
pub fn open_parquet(input: Input, columns: &[String]) -> Result<TableSource, Error> {
    const FORMAT: &str = "Parquet";
    let file = input.into_file()?;
    guard(FORMAT, || {
        let failed = |error: parquet::errors::ParquetError| unreadable(FORMAT, error);
        let mut builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(failed)?;
        if !columns.is_empty() {
            let names = names(builder.schema());
            let roots = select(&names, columns)?;
            let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
            builder = builder.with_projection(mask);
        }
        let metadata = builder.metadata();
        let n_rows = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0);
        // Of a list, the mean length is known beforehand.
        let n_values = |group: &parquet::file::metadata::RowGroupMetaData| -> usize {
            let n_values: i64 = group
                .columns()
                .iter()
                .map(|column| column.num_values())
                .sum();
            (n_values / group.num_rows().max(1)) as usize
        };
        let n_row_values = metadata.row_groups().iter().map(n_values).max();
        let batch_size = (BATCH_VALUES / n_row_values.unwrap_or(1).max(1)).clamp(1, 1 << 16);
        let reader = builder
            .with_batch_size(batch_size)
            .build()
            .map_err(failed)?;
        let schema = arrow_array::RecordBatchReader::schema(&reader);
        TableSource::new(FORMAT, &schema, Box::new(reader), columns, Some(n_rows))
    })
}

/// Opens an Arrow IPC file or stream.
///
/// # Errors
/// As [`open_parquet`].
pub fn open_arrow(input: Input, columns: &[String]) -> Result<TableSource, Error> {
    const FORMAT: &str = "Arrow IPC";
    let is_file = input.start().starts_with(b"ARROW1");
    let failed = |error| unreadable(FORMAT, error);
    guard(FORMAT, || {
        if is_file {
            let reader = BufReader::new(input.into_file()?);
            let reader: FileReader<BufReader<File>> =
                FileReader::try_new(reader, None).map_err(failed)?;
            let schema = reader.schema();
            TableSource::new(FORMAT, &schema, Box::new(reader), columns, None)
        } else {
            let reader = StreamReader::try_new(input.into_reader(), None).map_err(failed)?;
            let schema = reader.schema();
            TableSource::new(FORMAT, &schema, Box::new(reader), columns, None)
        }
    })
}

impl TableSource {
    fn new(
        format: &'static str,
        schema: &Schema,
        batches: Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>,
        columns: &[String],
        n_rows: Option<u64>,
    ) -> Result<Self, Error> {
        let names = names(schema);
        let selected = match columns.is_empty() {
            true => (0..names.len()).collect(),
            false => select(&names, columns)?,
        };
        let type_of = |column: usize| schema.field(column).data_type();
        let mut source = Self {
            format,
            batches,
            pending: None,
            layout: Layout::Columns(Vec::new()),
            n_classes: selected.len(),
            is_f64: false,
            class_names: None,
            n_rows,
            n_read: 0,
        };
        if let [column] = selected[..]
            && let Some(item) = item_type(type_of(column))
        {
            source.layout = Layout::List(column);
            source.is_f64 = *item == DataType::Float64;
            source.find_list_length(type_of(column))?;
            return Ok(source);
        }
        if selected.is_empty() {
            return Err(Error::Columns("a table without columns".to_owned()));
        }
        if let Some(&other) = selected
            .iter()
            .find(|&&column| !type_of(column).is_floating())
        {
            return Err(Error::Columns(format!(
                "column {:.60?} is {:.60}; expected columns of floats, one a class, or one column of lists of floats; name those to take with --columns, as in --columns 'p_*'",
                names[other],
                type_of(other).to_string(),
            )));
        }
        source.is_f64 = selected
            .iter()
            .any(|&column| *type_of(column) == DataType::Float64);
        let columns = selected.iter().map(|&column| names[column].clone());
        source.class_names = telling(columns.clone().collect());
        source.layout = Layout::Columns(selected.iter().copied().zip(columns).collect());
        Ok(source)
    }

    /// Takes the number of classes from the first list, where the type does not tell it.
    fn find_list_length(&mut self, list: &DataType) -> Result<(), Error> {
        if let DataType::FixedSizeList(_, length) = list {
            self.n_classes = usize::try_from(*length).unwrap_or(0);
        } else {
            let Some(batch) = self.next_batch()? else {
                return Err(Error::Columns(
                    "no rows, so nothing tells the number of classes; a column of lists of fixed size would"
                        .to_owned(),
                ));
            };
            let first = batch.slice(0, 1);
            self.pending = Some(batch);
            let Layout::List(column) = self.layout else {
                return Ok(());
            };
            self.n_classes = match self.list_bounds(first.column(column).as_ref())?.first() {
                Some(&(start, end)) => end - start,
                None => 0,
            };
        }
        match self.n_classes {
            0 => Err(Error::Columns(
                "lists without values; expected one for each class".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// The next batch with rows in it.
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, Error> {
        while let Some(batch) = guard(self.format, || {
            let batch = self.batches.next().transpose();
            batch.map_err(|error| unreadable(self.format, error))
        })? {
            if batch.num_rows() > 0 {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    fn null(&self, row: usize, column: impl ToString) -> Error {
        Error::Null {
            row: self.n_read + row as u64,
            column: column.to_string(),
        }
    }

    /// Where the list of each row begins and ends among the items.
    fn list_bounds(&self, lists: &dyn Array) -> Result<Vec<(usize, usize)>, Error> {
        if let Some(row) = first_null(lists) {
            let Layout::List(column) = self.layout else {
                return Ok(Vec::new());
            };
            return Err(self.null(row, column));
        }
        Ok(match lists.data_type() {
            DataType::FixedSizeList(..) => {
                let lists = lists.as_fixed_size_list();
                let length = lists.value_length() as usize;
                let bounds = |row| {
                    let start = row * length;
                    (start, start + length)
                };
                (0..lists.len()).map(bounds).collect()
            }
            DataType::LargeList(_) => {
                let offsets = lists.as_list::<i64>().value_offsets();
                let pairs = offsets.windows(2);
                pairs
                    .map(|pair| (pair[0] as usize, pair[1] as usize))
                    .collect()
            }
            _ => {
                let offsets = lists.as_list::<i32>().value_offsets();
                let pairs = offsets.windows(2);
                pairs
                    .map(|pair| (pair[0] as usize, pair[1] as usize))
                    .collect()
            }
        })
    }

    /// The values of a batch in a type that holds them.
    fn values<T: Copy + Default>(
        &self,
        batch: &RecordBatch,
        floats: impl Fn(&dyn Array) -> Vec<T>,
    ) -> Result<Vec<T>, Error> {
        let n_classes = self.n_classes;
        match &self.layout {
            Layout::Columns(columns) => {
                let mut values = vec![T::default(); batch.num_rows() * n_classes];
                for (class, (column, name)) in columns.iter().enumerate() {
                    let array = batch.column(*column).as_ref();
                    if let Some(row) = first_null(array) {
                        return Err(self.null(row, name));
                    }
                    scatter(&mut values, n_classes, class, &floats(array));
                }
                Ok(values)
            }
            Layout::List(column) => {
                let lists = batch.column(*column).as_ref();
                let bounds = self.list_bounds(lists)?;
                for (row, (start, end)) in bounds.iter().enumerate() {
                    if end - start != n_classes {
                        return Err(Error::RaggedList {
                            row: self.n_read + row as u64,
                            found: end - start,
                            expected: n_classes,
                        });
                    }
                }
                let (Some(&(start, _)), Some(&(_, end))) = (bounds.first(), bounds.last()) else {
                    return Ok(Vec::new());
                };
                // Lists of one array follow each other.
                let items = items(lists).slice(start, end - start);
                if let Some(item) = first_null(items.as_ref()) {
                    return Err(self.null(item / n_classes, item % n_classes));
                }
                Ok(floats(items.as_ref()))
            }
        }
    }
}

impl MatrixSource for TableSource {
    fn n_classes(&self) -> usize {
        self.n_classes
    }

    fn n_rows(&self) -> Option<u64> {
        self.n_rows
    }

    fn class_names(&self) -> Option<&[String]> {
        self.class_names.as_deref()
    }

    fn next_rows(&mut self, max_rows: usize) -> Result<Option<Values>, Error> {
        let batch = match self.pending.take() {
            Some(batch) => batch,
            None => match self.next_batch()? {
                Some(batch) => batch,
                None => return Ok(None),
            },
        };
        let n_rows = batch.num_rows().min(max_rows);
        if n_rows < batch.num_rows() {
            self.pending = Some(batch.slice(n_rows, batch.num_rows() - n_rows));
        }
        let batch = batch.slice(0, n_rows);
        let values = match self.is_f64 {
            true => Values::F64(self.values(&batch, floats64)?),
            false => Values::F32(self.values(&batch, floats32)?),
        };
        self.n_read += n_rows as u64;
        Ok(Some(values))
    }
}

fn names(schema: &Schema) -> Vec<String> {
    let fields = schema.fields().iter();
    fields.map(|field| field.name().clone()).collect()
}

/// The type of the items of a list of floats.
fn item_type(list: &DataType) -> Option<&DataType> {
    match list {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            Some(item.data_type()).filter(|item| item.is_floating())
        }
        _ => None,
    }
}

fn items(lists: &dyn Array) -> &dyn Array {
    match lists.data_type() {
        DataType::FixedSizeList(..) => lists.as_fixed_size_list().values().as_ref(),
        DataType::LargeList(_) => lists.as_list::<i64>().values().as_ref(),
        _ => lists.as_list::<i32>().values().as_ref(),
    }
}

fn first_null(array: &dyn Array) -> Option<usize> {
    match array.null_count() {
        0 => None,
        _ => (0..array.len()).find(|&position| array.is_null(position)),
    }
}

fn floats32(array: &dyn Array) -> Vec<f32> {
    match array.data_type() {
        DataType::Float16 => {
            let halves = array.as_primitive::<Float16Type>().values();
            halves.iter().map(|half| half.to_f32()).collect()
        }
        _ => array.as_primitive::<Float32Type>().values().to_vec(),
    }
}

fn floats64(array: &dyn Array) -> Vec<f64> {
    match array.data_type() {
        DataType::Float64 => array.as_primitive::<Float64Type>().values().to_vec(),
        _ => floats32(array).into_iter().map(f64::from).collect(),
    }
}

fn unreadable(format: &'static str, error: impl std::fmt::Display) -> Error {
    // Of several lines, the first says what is wrong.
    let text = error.to_string();
    Error::Table {
        format,
        reason: text.lines().next().unwrap_or_default().to_owned(),
    }
}

thread_local! {
    /// Whether a panic is caught, and need not be told.
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs code of a library that may panic on damaged files, which then is an error like any other.
fn guard<T>(format: &'static str, read: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_GUARDED.get() {
                tell(info);
            }
        }));
    });
    let was_guarded = IS_GUARDED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(read));
    IS_GUARDED.set(was_guarded);
    result.unwrap_or_else(|_| Err(unreadable(format, "the file is damaged")))
}
