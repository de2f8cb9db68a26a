//! The Parquet files within binlogs, or in their place: opened with care, since a backup may be damaged.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_array::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::file::reader::Length;

use super::event::{Binlog, Descriptor, EventKind, damaged, unreadable};
use super::packed::{self, Packed};
use crate::error::Result;
use crate::parquet::{Source, pages};

/// Rows that a file may have however short it is: where they are all alike, a few bytes stand for many.
const MOST_ROWS: u64 = 4 << 20;
/// Rows that it may have besides for each of its bytes.
const MOST_ROWS_PER_BYTE: u64 = 4 << 10;
/// No vector that Milvus has is wider: 262,144 dimensions of four bytes.
const WIDEST_VALUE: usize = 1 << 20;
/// Vectors of a batch are not longer together, if they are several.
const MOST_BATCH_BYTES: usize = 64 << 20;

/// One file, opened: the footers of its payloads are read.
#[derive(Clone)]
pub(super) struct LogReader {
    name: String,
    payloads: Vec<(Source, ArrowReaderMetadata)>,
    rows: u64,
    form: Form,
}

/// What a file says of itself.
#[derive(Clone)]
enum Form {
    /// A binlog: the values of one field, or deletes.
    Events(Descriptor),
    /// A Parquet file: the columns of several fields.
    Packed(Packed),
}

impl LogReader {
    /// Opens a file and reads its payloads' footers.
    ///
    /// # Errors
    /// [`crate::error::Kind::BackupCorrupted`] with `failed_files`; [`crate::error::Kind::Storage`].
    pub(super) fn open(source: &Source, kind: EventKind, name: &str) -> Result<Self> {
        if packed::begins(source, name)? {
            let metadata = metadata(source, name)?;
            let packed = Packed::of(metadata.metadata()).map_err(|what| damaged(name, what))?;
            let (rows, payloads) = (packed.rows, vec![(source.clone(), metadata)]);
            require_room(source, rows, name)?;
            return Ok(Self { name: name.to_owned(), payloads, rows, form: Form::Packed(packed) });
        }
        let log = Binlog::open(source, kind, name)?;
        let (mut payloads, mut rows) = (Vec::with_capacity(log.payloads.len()), 0u64);
        for payload in log.payloads {
            let metadata = metadata(&payload, name)?;
            for group in metadata.metadata().row_groups() {
                rows = u64::try_from(group.num_rows())
                    .ok()
                    .and_then(|count| rows.checked_add(count))
                    .ok_or_else(|| damaged(name, "has a number of rows that is none"))?;
            }
            payloads.push((payload, metadata));
        }
        require_room(source, rows, name)?;
        Ok(Self { name: name.to_owned(), payloads, rows, form: Form::Events(log.descriptor) })
    }

    /// The rows of all payloads, by their footers.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// The file's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What the file says of itself, if it is a binlog.
    pub(super) fn descriptor(&self) -> Option<Descriptor> {
        match &self.form {
            Form::Events(descriptor) => Some(*descriptor),
            Form::Packed(_) => None,
        }
    }

    /// Whether it has a column of this field.
    pub(super) fn has(&self, field: i64) -> bool {
        match &self.form {
            Form::Events(descriptor) => descriptor.field == field,
            Form::Packed(packed) => packed.columns.contains_key(&field),
        }
    }

    /// The hybrid timestamp of its latest row, at the latest; `u64::MAX` where nothing tells it but the rows.
    pub(super) fn latest(&self) -> u64 {
        match &self.form {
            Form::Events(descriptor) => descriptor.times.1,
            Form::Packed(packed) => packed.times.map_or(0, |(_, end)| end),
        }
    }

    /// All rows in order, in batches of up to `batch_rows`, with all columns.
    pub(super) fn batches(self, batch_rows: usize) -> LogBatches {
        self.read(batch_rows, None)
    }

    /// As [`LogReader::batches`], with the column of a field alone.
    pub(super) fn batches_of(self, field: i64, batch_rows: usize) -> LogBatches {
        let column = match &self.form {
            // It has one, and where it has more that is found when it is read.
            Form::Events(_) => None,
            Form::Packed(packed) => packed.columns.get(&field).copied(),
        };
        self.read(batch_rows, column)
    }

    fn read(self, batch_rows: usize, column: Option<usize>) -> LogBatches {
        LogBatches {
            name: self.name,
            payloads: self.payloads.into_iter(),
            current: None,
            batch_rows,
            column,
            rows_left: self.rows,
        }
    }
}

/// Refuses more rows than a file of its length can hold.
fn require_room(source: &Source, rows: u64, name: &str) -> Result<()> {
    if rows > MOST_ROWS + source.len().saturating_mul(MOST_ROWS_PER_BYTE) {
        return Err(damaged(name, &format!("claims {rows} rows, which it is too short for")));
    }
    Ok(())
}

fn metadata(payload: &Source, name: &str) -> Result<ArrowReaderMetadata> {
    let footer = packed::footer(payload, name)?;
    guard(payload, name, || {
        ArrowReaderMetadata::try_new(footer.into(), ArrowReaderOptions::new().with_skip_arrow_metadata(true))
            .map_err(|error| error.to_string())
    })
}

/// Rows of one file, batch by batch.
pub(super) struct LogBatches {
    name: String,
    payloads: std::vec::IntoIter<(Source, ArrowReaderMetadata)>,
    current: Option<(Source, ParquetRecordBatchReader)>,
    batch_rows: usize,
    /// The place of the only column that is read, where not all are.
    column: Option<usize>,
    rows_left: u64,
}

impl LogBatches {
    /// The next rows; `None` at the end, which comes after as many as the footers say.
    pub(super) fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            let (source, reader) = match &mut self.current {
                Some(current) => (&current.0, &mut current.1),
                None => match self.payloads.next() {
                    Some((source, metadata)) => {
                        let reader =
                            guard(&source, &self.name, || open(&source, metadata, self.batch_rows, self.column))?;
                        let current = self.current.insert((source, reader));
                        (&current.0, &mut current.1)
                    }
                    None if self.rows_left > 0 => {
                        return Err(damaged(&self.name, "has fewer rows than its footer says"));
                    }
                    None => return Ok(None),
                },
            };
            let next = guard(source, &self.name, || reader.next().transpose().map_err(|error| error.to_string()))?;
            if let Some(batch) = next {
                self.rows_left = self
                    .rows_left
                    .checked_sub(batch.num_rows() as u64)
                    .ok_or_else(|| damaged(&self.name, "has more rows than its footer says"))?;
                return Ok(Some(batch));
            }
            self.current = None;
        }
    }
}

fn open(
    source: &Source,
    metadata: ArrowReaderMetadata,
    batch_rows: usize,
    column: Option<usize>,
) -> Result<ParquetRecordBatchReader, String> {
    let columns = match column {
        Some(place) => ProjectionMask::roots(metadata.parquet_schema(), [place]),
        None => ProjectionMask::all(),
    };
    let mut width = 1;
    for group in metadata.metadata().row_groups() {
        for (_, column) in group.columns().iter().enumerate().filter(|(leaf, _)| columns.leaf_included(*leaf)) {
            pages::check_chain(source, column, group.num_rows())?;
            width = width.max(usize::try_from(column.column_descr().type_length()).unwrap_or(0));
        }
    }
    if width > WIDEST_VALUE {
        return Err(format!("has values of {width} bytes, wider than any vector"));
    }
    // The reader makes room for a whole batch at once.
    ParquetRecordBatchReaderBuilder::new_with_metadata(source.clone(), metadata)
        .with_projection(columns)
        .with_batch_size(batch_rows.min(MOST_BATCH_BYTES / width))
        .build()
        .map_err(|error| error.to_string())
}

/// Runs `decode`, and turns whatever goes wrong in it into an error that names the file. The Parquet crate panics on some
/// damaged input; those panics end here (the panic hook still reports them).
pub(super) fn guard<T>(source: &Source, name: &str, decode: impl FnOnce() -> Result<T, String>) -> Result<T> {
    let failure = match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(failure)) => failure,
        Err(_) => "its bytes make no sense".to_owned(),
    };
    Err(match source.failure() {
        Some(storage) => unreadable(name, &storage),
        None => damaged(name, &format!("cannot be decoded ({failure})")),
    })
}
