//! Writes a chunk file in one pass: digests, lowest and highest key, and the Parquet bytes, row group by row group.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::SchemaRef;
use bytes::Bytes;
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use serde_json::Value;

use super::blocks::Blocks;
use super::{ChunkSummary, FORMAT, FORMAT_KEY, ROW_GROUPS_KEY, arrow_bytes};
use crate::digest::{RowDigester, SetDigest};
use crate::error::{Error, Kind, Result, chain, internal};
use crate::schema::{CollectionSchema, DataType, Field};

/// Dense vectors barely compress: more effort costs time and saves nothing (measured: level 6 is 4.5 times slower).
const VECTOR_LEVEL: u8 = 1;

/// Rows are digested and encoded in slices of about this size, which stay in the processor's cache between the steps:
/// 12 to 20 % less processor time than whole batches of 8,000 rows take, and less memory for the Parquet crate's levels.
const SLICE_BYTES: u64 = 256 << 10;

/// How a chunk is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteOptions {
    /// The zstd level, 1 to 9, of all columns but dense vectors, which get level 1; none: nothing is compressed.
    pub compression: Option<u8>,
    /// About how many bytes of Arrow a row group holds; also what bounds the writer's memory.
    pub row_group_bytes: u64,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { compression: Some(6), row_group_bytes: super::ROW_GROUP_BYTES }
    }
}

/// Writes one chunk file. Bytes leave it as row groups are finished; it holds about one row group.
pub struct ChunkWriter {
    schema: SchemaRef,
    key_column: usize,
    digester: RowDigester,
    options: WriteOptions,
    parquet: ArrowWriter<Blocks>,
    /// Row groups finished, and the one being filled.
    finished: Vec<SetDigest>,
    current: SetDigest,
    current_bytes: u64,
    arrow_bytes: u64,
    handed_over: u64,
    keys: Option<Keys>,
}

/// The lowest and the highest key so far.
enum Keys {
    Numbers(i64, i64),
    Strings(String, String),
}

impl ChunkWriter {
    /// A writer for rows of `schema`.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] for a compression level that is not 1 to 9; [`Kind::SchemaIncompatible`] where a field
    /// cannot be a column.
    pub fn new(schema: &CollectionSchema, options: &WriteOptions) -> Result<Self> {
        let arrow = schema.arrow()?;
        let key = schema.primary_key()?;
        let parquet =
            ArrowWriter::try_new(Blocks::default(), Arc::clone(&arrow), Some(properties(schema, &arrow, options)?))
                .map_err(|error| failed(&error))?;
        Ok(Self {
            key_column: arrow.index_of(&key.name).map_err(|_| internal("the primary key has no column"))?,
            schema: arrow,
            digester: RowDigester::new(schema)?,
            options: *options,
            parquet,
            finished: Vec::new(),
            current: SetDigest::default(),
            current_bytes: 0,
            arrow_bytes: 0,
            handed_over: 0,
            keys: None,
        })
    }

    /// Takes in rows and returns the next bytes of the file in blocks, often none. Columns are found by name.
    ///
    /// # Errors
    /// [`Kind::Internal`] where the rows are not of the schema. The writer is of no use after an error.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<Vec<Bytes>> {
        let mut rest = self.conform(batch)?;
        self.note_keys(rest.column(self.key_column))?;
        while rest.num_rows() > 0 {
            let (part, after) = self.split(&rest);
            self.take_in(&part)?;
            if self.current_bytes >= self.options.row_group_bytes || after.num_rows() > 0 {
                self.end_row_group()?;
            }
            rest = after;
        }
        let blocks = self.parquet.inner_mut().take_full();
        self.handed_over += length(&blocks);
        Ok(blocks)
    }

    /// Ends the file: its last bytes, and what it holds.
    ///
    /// # Errors
    /// [`Kind::Internal`] where the Parquet writer fails.
    pub fn finish(mut self) -> Result<(Vec<Bytes>, ChunkSummary)> {
        self.end_row_group()?;
        let row_groups = serde_json::to_string(&self.finished).map_err(|error| internal(error.to_string()))?;
        for (key, value) in [(FORMAT_KEY, FORMAT.to_owned()), (ROW_GROUPS_KEY, row_groups)] {
            self.parquet.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        // `into_inner` writes the footer itself: after `close` or `finish` it would write a second one.
        let last = self.parquet.into_inner().map_err(|error| failed(&error))?.finish();
        let mut digest = SetDigest::default();
        self.finished.iter().for_each(|row_group| digest.merge(row_group));
        let (lowest, highest) = match self.keys {
            None => (None, None),
            Some(Keys::Numbers(lowest, highest)) => (Some(lowest.into()), Some(highest.into())),
            Some(Keys::Strings(lowest, highest)) => (Some(Value::String(lowest)), Some(Value::String(highest))),
        };
        let summary = ChunkSummary {
            rows: digest.rows,
            arrow_bytes: self.arrow_bytes,
            file_bytes: self.handed_over + length(&last),
            row_groups: self.finished.len(),
            lowest,
            highest,
            digest,
        };
        Ok((last, summary))
    }

    /// Rows taken in so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.finished.iter().map(|row_group| row_group.rows).sum::<u64>() + self.current.rows
    }

    /// Bytes of Arrow taken in so far, see [`arrow_bytes`].
    #[must_use]
    pub fn arrow_bytes(&self) -> u64 {
        self.arrow_bytes
    }

    /// Digests and encodes rows that all belong to the current row group, slice by slice.
    fn take_in(&mut self, rows: &RecordBatch) -> Result<()> {
        let bytes = arrow_bytes(rows);
        self.current_bytes += bytes;
        self.arrow_bytes += bytes;
        let slice_rows = rows_within(SLICE_BYTES, bytes, rows.num_rows()).max(1);
        for start in (0..rows.num_rows()).step_by(slice_rows) {
            let slice = rows.slice(start, slice_rows.min(rows.num_rows() - start));
            self.current.merge(&self.digester.set(&slice)?);
            self.parquet.write(&slice).map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// The batch under the writer's own schema.
    fn conform(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.schema.fields().iter().map(|field| {
            batch
                .column_by_name(field.name())
                .cloned()
                .ok_or_else(|| internal(format!("the rows have no column for the field '{}'", field.name())))
        });
        RecordBatch::try_new(Arc::clone(&self.schema), columns.collect::<Result<_>>()?)
            .map_err(|error| internal(format!("the rows are not of their schema: {error}")))
    }

    /// What still fits in the row group, going by the rows' mean size, and the rest. An empty row group takes a row at
    /// least, so that even a row larger than a row group is written.
    fn split(&self, rows: &RecordBatch) -> (RecordBatch, RecordBatch) {
        let count = rows.num_rows();
        let room = self.options.row_group_bytes.saturating_sub(self.current_bytes);
        let fits = rows_within(room, arrow_bytes(rows), count).max(usize::from(self.current.rows == 0));
        (rows.slice(0, fits), rows.slice(fits, count - fits))
    }

    fn end_row_group(&mut self) -> Result<()> {
        if self.current.rows > 0 {
            self.parquet.flush().map_err(|error| failed(&error))?;
            self.finished.push(std::mem::take(&mut self.current));
            self.current_bytes = 0;
        }
        Ok(())
    }

    fn note_keys(&mut self, column: &ArrayRef) -> Result<()> {
        if let Some(numbers) = column.as_primitive_opt::<Int64Type>() {
            for &key in numbers.values() {
                self.keys = Some(match self.keys {
                    Some(Keys::Numbers(lowest, highest)) => Keys::Numbers(lowest.min(key), highest.max(key)),
                    _ => Keys::Numbers(key, key),
                });
            }
        } else if let Some(strings) = column.as_string_opt::<i32>() {
            for key in strings.iter().flatten() {
                match &mut self.keys {
                    Some(Keys::Strings(lowest, highest)) => {
                        if key < lowest.as_str() {
                            key.clone_into(lowest);
                        } else if key > highest.as_str() {
                            key.clone_into(highest);
                        }
                    }
                    _ => self.keys = Some(Keys::Strings(key.to_owned(), key.to_owned())),
                }
            }
        } else {
            return Err(internal(format!("a primary key cannot be {}", column.data_type())));
        }
        Ok(())
    }
}

fn length(blocks: &[Bytes]) -> u64 {
    blocks.iter().map(|block| block.len() as u64).sum()
}

/// How many of `rows` rows with `bytes` bytes fit into `room` bytes, going by their mean size.
fn rows_within(room: u64, bytes: u64, rows: usize) -> usize {
    let mean = (bytes / (rows as u64).max(1)).max(1);
    usize::try_from(room / mean).unwrap_or(rows).min(rows)
}

/// How each column is written; see the design's "A backup on disk".
fn properties(schema: &CollectionSchema, arrow: &SchemaRef, options: &WriteOptions) -> Result<WriterProperties> {
    let zstd = |level: u8| -> Result<Compression> {
        let level = ZstdLevel::try_new(i32::from(level)).map_err(|error| failed(&error))?;
        Ok(Compression::ZSTD(level))
    };
    let (compression, dense_compression) = match options.compression {
        None => (Compression::UNCOMPRESSED, Compression::UNCOMPRESSED),
        Some(level @ 1..=9) => (zstd(level)?, zstd(VECTOR_LEVEL)?),
        Some(level) => {
            return Err(Error::new(Kind::InvalidArgument, format!("compression level {level} is not between 1 and 9")));
        }
    };
    // Row groups are ended by us, where we know the digest.
    let mut builder = WriterProperties::builder()
        .set_max_row_group_row_count(None)
        .set_max_row_group_bytes(None)
        .set_compression(compression);
    let fields: HashMap<&str, &Field> = schema.stored_fields().map(|field| (field.name.as_str(), field)).collect();
    // A column's path in Parquet depends on the type and names may hold dots: ask the converter, don't guess.
    let leaves = ArrowSchemaConverter::new().convert(arrow).map_err(|error| failed(&error))?;
    for leaf in 0..leaves.num_columns() {
        let path = leaves.column(leaf).path().clone();
        let field = leaves
            .root_schema()
            .get_fields()
            .get(leaves.get_column_root_idx(leaf))
            .and_then(|root| fields.get(root.name()))
            .ok_or_else(|| internal(format!("the Parquet column {path} belongs to no field")))?;
        let (statistics, dictionary) = match field.data_type {
            _ if field.primary_key => (EnabledStatistics::Page, false),
            vector if vector.is_vector() => (EnabledStatistics::None, false),
            // The least and the greatest JSON text or array element find no rows; JSON texts seldom repeat.
            DataType::Json => (EnabledStatistics::Chunk, false),
            DataType::Array => (EnabledStatistics::Chunk, true),
            _ => (EnabledStatistics::Page, true),
        };
        builder = builder
            .set_column_statistics_enabled(path.clone(), statistics)
            .set_column_dictionary_enabled(path.clone(), dictionary);
        if field.data_type.is_vector() && field.data_type != DataType::SparseFloatVector {
            builder = builder.set_column_compression(path.clone(), dense_compression);
        }
        if field.data_type == DataType::FloatVector {
            builder = builder.set_column_encoding(path, Encoding::BYTE_STREAM_SPLIT);
        }
    }
    Ok(builder.build())
}

fn failed(error: &ParquetError) -> Error {
    internal(format!("rows could not be written as Parquet: {}", chain(error)))
}
