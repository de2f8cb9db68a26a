//! The Parquet files within binlogs: opened with care, since a backup may be damaged.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_array::RecordBatch;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};

use super::event::{Binlog, EventKind, damaged, unreadable};
use crate::error::Result;
use crate::parquet::{Source, pages};

/// The payloads of one binlog file, opened: their footers are read.
pub(super) struct LogReader {
    name: String,
    log: Binlog,
    payloads: Vec<(Source, ArrowReaderMetadata)>,
    rows: u64,
}

impl LogReader {
    /// Opens a file and reads its payloads' footers.
    ///
    /// # Errors
    /// [`crate::error::Kind::BackupCorrupted`] with `failed_files`; [`crate::error::Kind::Storage`].
    pub(super) fn open(source: &Source, kind: EventKind, name: &str) -> Result<Self> {
        let log = Binlog::open(source, kind, name)?;
        let (mut payloads, mut rows) = (Vec::with_capacity(log.payloads.len()), 0u64);
        for payload in &log.payloads {
            let metadata = guard(payload, name, || {
                let footer = ParquetMetaDataReader::new()
                    .with_column_index_policy(PageIndexPolicy::Skip)
                    .with_offset_index_policy(PageIndexPolicy::Skip)
                    .parse_and_finish(payload)
                    .map_err(|error| error.to_string())?;
                ArrowReaderMetadata::try_new(footer.into(), ArrowReaderOptions::new().with_skip_arrow_metadata(true))
                    .map_err(|error| error.to_string())
            })?;
            for group in metadata.metadata().row_groups() {
                rows = u64::try_from(group.num_rows())
                    .ok()
                    .and_then(|count| rows.checked_add(count))
                    .ok_or_else(|| damaged(name, "has a number of rows that is none"))?;
            }
            payloads.push((payload.clone(), metadata));
        }
        Ok(Self { name: name.to_owned(), log, payloads, rows })
    }

    /// The rows of all payloads, by their footers.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// The file's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What the file says of itself.
    pub(super) fn descriptor(&self) -> super::event::Descriptor {
        self.log.descriptor
    }

    /// All rows in order, in batches of up to `batch_rows`.
    pub(super) fn batches(self, batch_rows: usize) -> LogBatches {
        LogBatches {
            name: self.name,
            payloads: self.payloads.into_iter(),
            current: None,
            batch_rows,
            rows_left: self.rows,
        }
    }
}

/// Rows of one file, batch by batch.
pub(super) struct LogBatches {
    name: String,
    payloads: std::vec::IntoIter<(Source, ArrowReaderMetadata)>,
    current: Option<(Source, ParquetRecordBatchReader)>,
    batch_rows: usize,
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
                        let reader = guard(&source, &self.name, || open(&source, metadata, self.batch_rows))?;
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

fn open(source: &Source, metadata: ArrowReaderMetadata, batch_rows: usize) -> Result<ParquetRecordBatchReader, String> {
    for group in metadata.metadata().row_groups() {
        for column in group.columns() {
            let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
            let start = u64::try_from(start).map_err(|_| "has a column before its begin")?;
            let length = u64::try_from(column.compressed_size()).map_err(|_| "has a column of no length")?;
            let end = start.checked_add(length).ok_or("has a column without an end")?;
            pages::check_chain(source, start, end)?;
        }
    }
    ParquetRecordBatchReaderBuilder::new_with_metadata(source.clone(), metadata)
        .with_batch_size(batch_rows)
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
