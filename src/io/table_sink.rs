//! Decoded predictions as the columns of a table: Parquet and Arrow IPC.

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::Arc;

use arrow_array::{ArrayRef, Float32Array, Int32Array, Int64Array, RecordBatch};
use arrow_ipc::writer::FileWriter;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::sink::{Batch, Content, Sink, UNNAMED};

/// Values in a row group of a Parquet file, which its writer holds in memory.
const ROW_GROUP_VALUES: usize = 1 << 24;
/// The largest number of columns in a Parquet file, whose writer takes a hundred kilobytes for each.
const MAX_PARQUET_COLUMNS: usize = 10_000;
/// Values in a batch of an Arrow IPC file.
const BATCH_VALUES: usize = 1 << 20;

/// Begins a Parquet file.
///
/// # Errors
/// As the writer's; for more columns than the writer can hold.
pub fn parquet<W: Write + Send + 'static>(
    writer: W,
    content: Content,
) -> io::Result<Box<dyn Sink<W>>> {
    let schema = schema(content);
    let n_columns = schema.fields().len();
    if n_columns > MAX_PARQUET_COLUMNS {
        return Err(io::Error::other(format!(
            "{n_columns} columns are too many for Parquet, expected at most {MAX_PARQUET_COLUMNS}; write arrow or npy, or fewer classes with --top"
        )));
    }
    let n_rows = (ROW_GROUP_VALUES / n_columns.max(1)).clamp(1, 1 << 20);
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(n_rows))
        .build();
    let writer =
        ArrowWriter::try_new(writer, schema.clone(), Some(properties)).map_err(io::Error::other)?;
    Ok(Box::new(ParquetSink { writer, schema }))
}

/// Begins an Arrow IPC file.
///
/// # Errors
/// As the writer's.
pub fn arrow<W: Write + Send + 'static>(
    writer: W,
    content: Content,
) -> io::Result<Box<dyn Sink<W>>> {
    let schema = schema(content);
    let writer = FileWriter::try_new(writer, &schema).map_err(io::Error::other)?;
    Ok(Box::new(ArrowSink { writer, schema }))
}

struct ParquetSink<W: Write + Send> {
    writer: ArrowWriter<W>,
    schema: SchemaRef,
}

impl<W: Write + Send> Sink<W> for ParquetSink<W> {
    fn write(&mut self, batch: Batch<'_>) -> io::Result<()> {
        let batch = record_batch(&self.schema, batch)?;
        self.writer.write(&batch).map_err(io::Error::other)
    }

    fn finish(self: Box<Self>) -> io::Result<W> {
        self.writer.into_inner().map_err(io::Error::other)
    }
}

struct ArrowSink<W: Write> {
    writer: FileWriter<W>,
    schema: SchemaRef,
}

impl<W: Write + Send> Sink<W> for ArrowSink<W> {
    fn write(&mut self, batch: Batch<'_>) -> io::Result<()> {
        let batch = record_batch(&self.schema, batch)?;
        let n_rows = (BATCH_VALUES / batch.num_columns().max(1)).max(1);
        for start in (0..batch.num_rows()).step_by(n_rows) {
            let slice = batch.slice(start, n_rows.min(batch.num_rows() - start));
            self.writer.write(&slice).map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<W> {
        self.writer.into_inner().map_err(io::Error::other)
    }
}

fn schema(content: Content) -> SchemaRef {
    let field = |name: String, data_type| Field::new(name, data_type, false);
    let fields: Vec<Field> = match content {
        Content::Matrix {
            n_classes,
            class_names,
            ..
        } => column_names(n_classes, class_names)
            .into_iter()
            .map(|name| field(name, DataType::Float32))
            .collect(),
        Content::Labels => vec![field("label".to_owned(), DataType::Int64)],
        Content::Top(k) => (1..=k)
            .flat_map(|place| {
                [
                    field(format!("class_{place}"), DataType::Int32),
                    field(format!("p_{place}"), DataType::Float32),
                ]
            })
            .collect(),
    };
    Arc::new(Schema::new(fields))
}

/// The names of the classes as a table can have them: none empty, each once.
fn column_names(n_classes: usize, class_names: Option<Vec<String>>) -> Vec<String> {
    let Some(names) = class_names else {
        return (0..n_classes)
            .map(|class| format!("{UNNAMED}{class}"))
            .collect();
    };
    let mut seen = HashSet::new();
    let names = names.into_iter().enumerate();
    names
        .map(|(class, mut name)| {
            if name.is_empty() {
                name = format!("{UNNAMED}{class}");
            }
            while !seen.insert(name.clone()) {
                name = format!("{name}_{class}");
            }
            name
        })
        .collect()
}

fn record_batch(schema: &SchemaRef, batch: Batch<'_>) -> io::Result<RecordBatch> {
    let columns: Vec<ArrayRef> = match batch {
        Batch::Matrix(rows) => {
            let (n_rows, n_classes) = (rows.n_rows(), rows.n_classes());
            let values = rows.values();
            (0..n_classes)
                .map(|class| {
                    let column = (0..n_rows).map(|row| values[row * n_classes + class]);
                    Arc::new(Float32Array::from_iter_values(column)) as ArrayRef
                })
                .collect()
        }
        Batch::Labels(labels) => vec![Arc::new(Int64Array::from(labels.to_vec())) as ArrayRef],
        Batch::Top { k, classes, values } => (0..k)
            .flat_map(|place| {
                let classes = classes.iter().skip(place).step_by(k).copied();
                let values = values.iter().skip(place).step_by(k).copied();
                [
                    Arc::new(Int32Array::from_iter_values(classes)) as ArrayRef,
                    Arc::new(Float32Array::from_iter_values(values)) as ArrayRef,
                ]
            })
            .collect(),
    };
    RecordBatch::try_new(schema.clone(), columns).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_has_a_name_of_its_own() {
        let names = ["a", "", "a", "a_2"].map(str::to_owned).to_vec();
        assert_eq!(
            column_names(4, Some(names)),
            ["a", "class_1", "a_2", "a_2_3"]
        );
        assert_eq!(column_names(2, None), ["class_0", "class_1"]);
    }
}
