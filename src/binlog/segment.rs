//! The rows of one segment: its fields' files side by side, without what was deleted or written too late.
//!
//! A field's files follow each other in the order of their numbers, and each field has as many rows. A server that tried
//! an upload again may have left files of the first try in some fields' folders; those are told apart by what each file
//! says of its rows (the earliest and latest timestamp, and how many), and left out where that leaves no doubt.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow_schema::SchemaRef;
use arrow_select::filter::filter_record_batch;

use super::LogFile;
use super::column::column;
use super::deletes::Deletes;
use super::event::{EventKind, damaged};
use super::payload::{LogBatches, LogReader};
use crate::error::{Error, Kind, Result, internal};
use crate::schema::{CollectionSchema, Field};

/// Milvus's own field of hybrid timestamps, when a row was written.
pub const TIMESTAMP_FIELD: i64 = 1;

/// Rows that are counted at once.
const COUNTED_ROWS: usize = 65_536;

/// The files of one segment, or those of them that are needed: the timestamps always, the keys where rows are picked.
pub struct SegmentFiles {
    /// Milvus's number of it.
    pub segment: i64,
    /// How many rows the metadata promises, before deletes.
    pub promised: Option<u64>,
    /// By field, in the order of the files' numbers.
    pub fields: BTreeMap<i64, Vec<LogFile>>,
}

/// A segment, opened: its files' footers are read and agree with each other.
pub struct Segment {
    id: i64,
    fields: BTreeMap<i64, Vec<LogReader>>,
    rows: u64,
    latest: u64,
    orphans: Vec<String>,
}

/// How a file's rows are known: earliest and latest timestamp, and how many.
type Span = (u64, u64, u64);

impl Segment {
    /// Opens the files that are needed of a segment: those of `fields` (by number), and the timestamps.
    ///
    /// # Errors
    /// [`Kind::BackupCorrupted`] with `failed_files` where a file is damaged or missing, or fields have different rows.
    pub fn open(files: SegmentFiles) -> Result<Self> {
        let mut fields = BTreeMap::new();
        for (field, logs) in files.fields {
            let mut readers = Vec::with_capacity(logs.len());
            for log in logs {
                let reader = LogReader::open(&log.source, EventKind::Insert, &log.path)?;
                let said = reader.descriptor();
                if said.field != field || said.segment != files.segment {
                    return Err(damaged(
                        &log.path,
                        &format!("says it is of field {} of segment {}", said.field, said.segment),
                    ));
                }
                readers.push(reader);
            }
            fields.insert(field, readers);
        }
        let mut segment = Self { id: files.segment, fields, rows: 0, latest: 0, orphans: Vec::new() };
        segment.align(files.promised)?;
        let times = segment.fields.get(&TIMESTAMP_FIELD).ok_or_else(|| segment.without("timestamps (field 1)"))?;
        segment.rows = times.iter().map(LogReader::rows).sum();
        segment.latest = times.iter().map(|log| log.descriptor().end).max().unwrap_or(0);
        Ok(segment)
    }

    /// Milvus's number of it.
    #[must_use]
    pub fn id(&self) -> i64 {
        self.id
    }

    /// Its rows, those included that were deleted.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Files of uploads that were tried again, which are left out.
    #[must_use]
    pub fn orphans(&self) -> &[String] {
        &self.orphans
    }

    fn without(&self, what: &str) -> Error {
        Error::new(
            Kind::BackupCorrupted,
            format!("segment {} has no files of its {what}. Verify the backup, and restore from another one", self.id),
        )
        .with("failed_files", vec![format!("segment {}", self.id)])
    }

    /// Makes sure that all fields have the same rows in the same order.
    fn align(&mut self, promised: Option<u64>) -> Result<()> {
        let spans = |logs: &[LogReader]| logs.iter().map(span).collect::<Vec<_>>();
        let all: Vec<Vec<Span>> = self.fields.values().map(|logs| spans(logs)).collect();
        let total = |spans: &[Span]| spans.iter().map(|span| span.2).sum::<u64>();
        let agrees = |spans: &[Span]| promised.is_none_or(|promised| promised == total(spans));
        let first = all.first().cloned().unwrap_or_default();
        if all.iter().all(|spans| *spans == first) && agrees(&first) {
            return Ok(());
        }
        // What only some fields have is left of an upload that was tried again.
        let common: BTreeSet<Span> =
            first.iter().copied().filter(|span| all.iter().all(|spans| spans.contains(span))).collect();
        let kept: Vec<Vec<Span>> =
            all.iter().map(|spans| spans.iter().copied().filter(|span| common.contains(span)).collect()).collect();
        let whole = kept.first().filter(|whole| promised.is_some() && common.len() == whole.len() && agrees(whole));
        if whole.is_some_and(|whole| kept.iter().all(|spans| spans == whole)) {
            for logs in self.fields.values_mut() {
                let (whole, orphans) = std::mem::take(logs).into_iter().partition(|log| common.contains(&span(log)));
                *logs = whole;
                self.orphans.extend(orphans.iter().map(|log: &LogReader| log.name().to_owned()));
            }
            return Ok(());
        }
        Err(self.misaligned(promised))
    }

    fn misaligned(&self, promised: Option<u64>) -> Error {
        let mut by_rows: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
        for (field, logs) in &self.fields {
            by_rows.entry(logs.iter().map(LogReader::rows).sum()).or_default().push(*field);
        }
        let counts = by_rows
            .iter()
            .map(|(rows, fields)| {
                let fields = fields.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                format!("{rows} rows in field {fields}")
            })
            .collect::<Vec<_>>()
            .join("; ");
        let told = promised.map(|rows| format!(", and its metadata tells of {rows}")).unwrap_or_default();
        // The fewest fields that disagree are the likely culprits; where none do, all of the segment is.
        let odd = by_rows.values().min_by_key(|fields| fields.len()).filter(|_| by_rows.len() > 1);
        let logs = self.fields.iter().filter(|(field, _)| odd.is_none_or(|odd| odd.contains(field)));
        let files: Vec<String> = logs.flat_map(|(_, logs)| logs.iter().map(|log| log.name().to_owned())).collect();
        Error::new(
            Kind::BackupCorrupted,
            format!(
                "the files of segment {} do not belong together: {counts}{told}. A file is missing, cut short or left over, and nothing shows which rows are right. Restore from another backup",
                self.id
            ),
        )
        .with("failed_files", files)
    }

    /// How many of its rows live at `at`. Keys and timestamps are read where that is in question, and nothing else is.
    ///
    /// # Errors
    /// As [`Segment::batches`], and as its batches.
    pub fn living(self, schema: &CollectionSchema, deletes: Arc<Deletes>, at: Option<u64>) -> Result<u64> {
        if deletes.is_empty() && at.is_none_or(|at| self.latest <= at) {
            return Ok(self.rows);
        }
        let mut living = 0;
        for batch in self.batches(schema, &[], deletes, at, COUNTED_ROWS)? {
            living += batch?.num_rows() as u64;
        }
        Ok(living)
    }

    /// Its rows that live at `at` (any time where there is none), in the order they were written.
    ///
    /// Columns are those of `schema` named by `columns`, in the schema's order.
    ///
    /// # Errors
    /// [`Kind::BackupCorrupted`] where a field that rows need has no files.
    pub fn batches(
        mut self,
        schema: &CollectionSchema,
        columns: &[&str],
        deletes: Arc<Deletes>,
        at: Option<u64>,
        batch_rows: usize,
    ) -> Result<SegmentBatches> {
        let batch_rows = batch_rows.max(1);
        let whole = schema.arrow()?;
        let wanted: Vec<&Field> = schema.stored_fields().filter(|field| columns.contains(&&*field.name)).collect();
        let indices: Vec<usize> = wanted.iter().filter_map(|field| whole.index_of(&field.name).ok()).collect();
        let arrow = whole.project(&indices).map_err(|error| internal(error.to_string()))?;
        let late = at.is_some_and(|at| self.latest > at);
        let mut open = |number: i64| Files::new(self.fields.remove(&number).unwrap_or_default(), batch_rows);
        let key = schema.primary_key()?;
        let picking = if late || !deletes.is_empty() {
            let keys = if wanted.iter().any(|field| field.id == key.id) { None } else { Some(open(key.id)) };
            Some(Picking { times: open(TIMESTAMP_FIELD), keys, key: key.clone(), deletes, at })
        } else {
            None
        };
        let keys = picking.as_ref().and_then(|picking| picking.keys.as_ref());
        if self.rows > 0 && keys.is_some_and(Files::is_empty) {
            return Err(self.without(&format!("primary keys ({})", key.id)));
        }
        let mut sources = Vec::with_capacity(wanted.len());
        for field in wanted {
            let files = open(field.id);
            // Read: a field that was added later has no files in older segments, and its rows are null.
            if files.is_empty() && self.rows > 0 && (!field.nullable || field.default_value.is_some()) {
                return Err(self.without(&format!("field '{}' ({})", field.name, field.id)));
            }
            sources.push((field.clone(), files));
        }
        Ok(SegmentBatches { arrow: Arc::new(arrow), sources, picking, batch_rows, rows_left: self.rows })
    }
}

fn span(log: &LogReader) -> Span {
    (log.descriptor().start, log.descriptor().end, log.rows())
}

/// A field's files, read one after another.
struct Files {
    left: std::vec::IntoIter<LogReader>,
    name: String,
    current: Option<LogBatches>,
    buffer: Option<ArrayRef>,
    batch_rows: usize,
}

impl Files {
    fn new(files: Vec<LogReader>, batch_rows: usize) -> Self {
        Self { left: files.into_iter(), name: String::new(), current: None, buffer: None, batch_rows }
    }

    fn is_empty(&self) -> bool {
        self.left.len() == 0 && self.current.is_none()
    }

    /// How many rows are at hand; some are fetched where there are none.
    fn ready(&mut self) -> Result<usize> {
        loop {
            if let Some(buffer) = self.buffer.as_ref().filter(|buffer| !buffer.is_empty()) {
                return Ok(buffer.len());
            }
            if let Some(current) = &mut self.current {
                match current.next()? {
                    Some(batch) if batch.num_columns() == 1 => self.buffer = Some(Arc::clone(batch.column(0))),
                    Some(_) => return Err(damaged(&self.name, "holds more than one column")),
                    None => self.current = None,
                }
            } else if let Some(next) = self.left.next() {
                next.name().clone_into(&mut self.name);
                self.current = Some(next.batches(self.batch_rows));
            } else {
                return Ok(0);
            }
        }
    }

    fn take(&mut self, rows: usize) -> Option<ArrayRef> {
        let buffer = self.buffer.take()?;
        if buffer.len() > rows {
            self.buffer = Some(buffer.slice(rows, buffer.len() - rows));
        }
        Some(buffer.slice(0, rows))
    }
}

/// What is needed to tell which rows live.
struct Picking {
    times: Files,
    /// The keys, where they are not among the columns anyway.
    keys: Option<Files>,
    key: Field,
    deletes: Arc<Deletes>,
    at: Option<u64>,
}

/// Rows of a segment, batch by batch, none of them empty. After an error there are no more.
pub struct SegmentBatches {
    arrow: SchemaRef,
    sources: Vec<(Field, Files)>,
    picking: Option<Picking>,
    batch_rows: usize,
    rows_left: u64,
}

impl SegmentBatches {
    /// Its columns.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.arrow)
    }

    fn advance(&mut self) -> Result<Option<RecordBatch>> {
        while self.rows_left > 0 {
            let mut rows = usize::try_from(self.rows_left).unwrap_or(usize::MAX).min(self.batch_rows);
            for (_, files) in &mut self.sources {
                if !files.is_empty() || files.buffer.is_some() {
                    rows = rows.min(files.ready()?);
                }
            }
            if let Some(picking) = &mut self.picking {
                rows = rows.min(picking.times.ready()?);
                if let Some(keys) = &mut picking.keys {
                    rows = rows.min(keys.ready()?);
                }
            }
            if rows == 0 {
                return Err(internal("a segment's fields came to an end before its rows"));
            }
            let batch = self.read(rows)?;
            self.rows_left -= rows as u64;
            if batch.num_rows() > 0 {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    fn read(&mut self, rows: usize) -> Result<RecordBatch> {
        let mut columns = Vec::with_capacity(self.sources.len());
        let mut keys = None;
        for ((field, files), arrow) in self.sources.iter_mut().zip(self.arrow.fields()) {
            let array = match files.take(rows) {
                Some(stored) => column(field, &stored).map_err(|what| damaged(&files.name, &what))?,
                None => new_null_array(arrow.data_type(), rows),
            };
            if self.picking.as_ref().is_some_and(|picking| picking.key.id == field.id) {
                keys = Some(Arc::clone(&array));
            }
            columns.push(array);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.arrow), columns, &options)
            .map_err(|error| internal(format!("the rows of a segment are not of their schema: {error}")))?;
        match &mut self.picking {
            None => Ok(batch),
            Some(picking) => picking.pick(batch, keys, rows),
        }
    }
}

impl Picking {
    fn pick(&mut self, batch: RecordBatch, keys: Option<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        let times = self.times.take(rows).ok_or_else(|| internal("timestamps ended early"))?;
        let times = times
            .as_primitive_opt::<Int64Type>()
            .filter(|times| times.null_count() == 0)
            .ok_or_else(|| damaged(&self.times.name, "holds no timestamps"))?;
        let times: Vec<u64> = times.values().iter().map(|time| time.cast_unsigned()).collect();
        let keys = match (&mut self.keys, keys) {
            (_, Some(keys)) => keys,
            (Some(files), None) => {
                let stored = files.take(rows).ok_or_else(|| internal("keys ended early"))?;
                column(&self.key, &stored).map_err(|what| damaged(&files.name, &what))?
            }
            (None, None) => return Err(internal("no keys to tell deleted rows by")),
        };
        let deleted = self.deletes.mask(&keys, &times).ok_or_else(|| internal("keys of another type"))?;
        let late = |time: u64| self.at.is_some_and(|at| time > at);
        let lives: Vec<bool> = deleted.iter().zip(&times).map(|(deleted, time)| !deleted && !late(*time)).collect();
        if lives.iter().all(|lives| *lives) {
            return Ok(batch);
        }
        if batch.num_columns() == 0 {
            // Of no columns, the filter would keep all rows.
            let living = lives.iter().filter(|lives| **lives).count();
            let options = RecordBatchOptions::new().with_row_count(Some(living));
            return RecordBatch::try_new_with_options(batch.schema(), Vec::new(), &options)
                .map_err(|error| internal(error.to_string()));
        }
        filter_record_batch(&batch, &BooleanArray::from(lives)).map_err(|error| internal(error.to_string()))
    }
}

impl Iterator for SegmentBatches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.rows_left = 0;
        }
        next.transpose()
    }
}
