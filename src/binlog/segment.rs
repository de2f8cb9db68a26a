//! The rows of one segment: its fields' files side by side, without what was deleted or written too late.
//!
//! A field's files follow each other in the order of their numbers, and each field has as many rows. A server that tried
//! an upload again may have left files of the first try in some fields' folders; those are told apart by what each file
//! says of its rows (the earliest and latest timestamp, and how many), and left out where that leaves no doubt. A field
//! that was added to the collection later has no rows in a segment's earlier files, and nulls in their place.
//!
//! In storage version 2 there is a group of fields in place of a field; its files say nothing of their rows' times, so
//! that all groups have to have files of the same numbers of rows, and nothing is left out.

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
use super::newest::Newest;
use super::payload::{LogBatches, LogReader};
use crate::error::{Error, Kind, Result, internal};
use crate::schema::{CollectionSchema, Field};

/// Milvus's own field of hybrid timestamps, when a row was written.
pub const TIMESTAMP_FIELD: i64 = 1;

/// Keys that are read at once.
const KEYS: usize = 65_536;

/// The files of one segment, or those of them that are needed: the timestamps always, the keys where rows are picked.
pub struct SegmentFiles {
    /// Milvus's number of it.
    pub segment: i64,
    /// How many rows the metadata promises, before deletes.
    pub promised: Option<u64>,
    /// By field (in storage version 2, by group of fields), in the order of the files' numbers.
    pub fields: BTreeMap<i64, Vec<LogFile>>,
}

/// Which of a segment's rows live.
#[derive(Debug, Clone, Default)]
pub struct Living {
    /// Those that no delete came after.
    pub deletes: Arc<Deletes>,
    /// Of a key that several rows share, the one that counts.
    pub newest: Arc<Newest>,
    /// Those written up to this hybrid timestamp; whenever they were where there is none.
    pub at: Option<u64>,
}

/// A segment, opened: its files' footers are read and agree with each other.
pub struct Segment {
    id: i64,
    /// By field, or by group of fields.
    groups: BTreeMap<i64, Vec<LogReader>>,
    is_packed: bool,
    rows: u64,
    latest: u64,
    orphans: Vec<String>,
}

/// How a file's rows are known: earliest and latest timestamp, where the file tells them, and how many.
type Span = (Option<(u64, u64)>, u64);

impl Segment {
    /// Opens the files that are needed of a segment of a collection: those of the fields that are asked for later (by
    /// number; in storage version 2 all groups), and the timestamps.
    ///
    /// One that is promised no rows may have no files.
    ///
    /// # Errors
    /// [`Kind::BackupCorrupted`] with `failed_files` where a file is damaged or missing, or fields have different rows.
    pub fn open(files: SegmentFiles, schema: &CollectionSchema) -> Result<Self> {
        let mut groups = BTreeMap::new();
        let mut is_packed = false;
        for (group, logs) in files.fields {
            let mut readers = Vec::with_capacity(logs.len());
            for log in logs {
                let reader = LogReader::open(&log.source, EventKind::Insert, &log.path)?;
                match reader.descriptor() {
                    Some(said) if said.field != group || said.segment != files.segment => {
                        let what = format!("says it is of field {} of segment {}", said.field, said.segment);
                        return Err(damaged(&log.path, &what));
                    }
                    Some(_) => {}
                    None => is_packed = true,
                }
                readers.push(reader);
            }
            groups.insert(group, readers);
        }
        let mut segment = Self { id: files.segment, groups, is_packed, rows: 0, latest: 0, orphans: Vec::new() };
        if files.promised == Some(0) && segment.groups.values().all(Vec::is_empty) {
            return Ok(segment);
        }
        let timestamps = segment.group_of(TIMESTAMP_FIELD)?.ok_or_else(|| segment.without("timestamps (field 1)"))?;
        segment.align(timestamps, files.promised, schema)?;
        let times = &segment.groups[&timestamps];
        (segment.rows, segment.latest) =
            (times.iter().map(LogReader::rows).sum(), times.iter().map(LogReader::latest).max().unwrap_or(0));
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

    /// The group that a field is in, if any of its files has a column of it.
    fn group_of(&self, field: i64) -> Result<Option<i64>> {
        if !self.is_packed {
            return Ok(self.groups.contains_key(&field).then_some(field));
        }
        let mut groups = self.groups.iter().filter(|(_, logs)| logs.iter().any(|log| log.has(field)));
        let first = groups.next().map(|(group, _)| *group);
        match groups.next().and_then(|(_, logs)| logs.iter().find(|log| log.has(field))) {
            Some(again) => {
                Err(damaged(again.name(), &format!("has field {field}, which another group of files has too")))
            }
            None => Ok(first),
        }
    }

    /// Makes sure that all fields have the rows of the timestamps, in the same order.
    fn align(&mut self, timestamps: i64, promised: Option<u64>, schema: &CollectionSchema) -> Result<()> {
        let spans = |logs: &[LogReader]| logs.iter().map(span).collect::<Vec<_>>();
        let all: BTreeMap<i64, Vec<Span>> = self.groups.iter().map(|(group, logs)| (*group, spans(logs))).collect();
        let total = |spans: &[Span]| spans.iter().map(|span| span.1).sum::<u64>();
        let agrees = |spans: &[Span]| promised.is_none_or(|promised| promised == total(spans));
        let rows = all.get(&timestamps).cloned().unwrap_or_default();
        // Read: a field that was added later has no files from before, and nulls in those rows.
        let is_later = |group: i64, spans: &[Span]| {
            let nullable = schema.fields.iter().any(|field| field.id == group && field.nullable);
            !self.is_packed && nullable && rows.ends_with(spans)
        };
        if all.iter().all(|(group, spans)| *spans == rows || is_later(*group, spans)) && agrees(&rows) {
            return Ok(());
        }
        if self.is_packed {
            return Err(self.misaligned(promised));
        }
        // What only some fields have is left of an upload that was tried again.
        let common: BTreeSet<Span> =
            rows.iter().copied().filter(|span| all.values().all(|spans| spans.contains(span))).collect();
        let kept: Vec<Vec<Span>> =
            all.values().map(|spans| spans.iter().copied().filter(|span| common.contains(span)).collect()).collect();
        let whole = kept.first().filter(|whole| promised.is_some() && common.len() == whole.len() && agrees(whole));
        if whole.is_some_and(|whole| kept.iter().all(|spans| spans == whole)) {
            for logs in self.groups.values_mut() {
                let (whole, orphans) = std::mem::take(logs).into_iter().partition(|log| common.contains(&span(log)));
                *logs = whole;
                self.orphans.extend(orphans.iter().map(|log: &LogReader| log.name().to_owned()));
            }
            return Ok(());
        }
        Err(self.misaligned(promised))
    }

    /// A field's rows, part by part.
    fn column(&self, field: i64, batch_rows: usize) -> Result<Files> {
        let logs = self.group_of(field)?.map(|group| &self.groups[&group][..]).unwrap_or_default();
        let part = |log: &LogReader| if log.has(field) { Part::Rows(log.clone()) } else { Part::Gap(log.rows()) };
        let mut parts: Vec<Part> = logs.iter().map(part).collect();
        let earlier = self.rows.saturating_sub(logs.iter().map(LogReader::rows).sum());
        if earlier > 0 {
            parts.insert(0, Part::Gap(earlier));
        }
        Ok(Files::new(field, parts, batch_rows))
    }

    fn misaligned(&self, promised: Option<u64>) -> Error {
        let mut by_rows: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
        for (field, logs) in &self.groups {
            by_rows.entry(logs.iter().map(LogReader::rows).sum()).or_default().push(*field);
        }
        let what = if self.is_packed { "group" } else { "field" };
        let counts = by_rows
            .iter()
            .map(|(rows, fields)| {
                let fields = fields.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                format!("{rows} rows in {what} {fields}")
            })
            .collect::<Vec<_>>()
            .join("; ");
        let told = promised.map(|rows| format!(", and its metadata tells of {rows}")).unwrap_or_default();
        // The fewest fields that disagree are the likely culprits; where none do, all of the segment is.
        let odd = by_rows.values().min_by_key(|fields| fields.len()).filter(|_| by_rows.len() > 1);
        let logs = self.groups.iter().filter(|(field, _)| odd.is_none_or(|odd| odd.contains(field)));
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

    /// The keys of all its rows, in the order they were written, and whether no delete came after them up to `at`.
    ///
    /// # Errors
    /// As [`Segment::batches`], and as its batches.
    pub(super) fn keys(self, schema: &CollectionSchema, deletes: Arc<Deletes>, at: Option<u64>) -> Result<SegmentKeys> {
        let picking = self.picking(schema, Living { deletes, newest: Arc::default(), at }, KEYS)?;
        Ok(SegmentKeys { keys: self.stored_keys(schema, KEYS)?, picking, rows_left: self.rows })
    }

    fn stored_keys(&self, schema: &CollectionSchema, batch_rows: usize) -> Result<Files> {
        let key = schema.primary_key()?.id;
        let keys = self.column(key, batch_rows)?;
        if keys.has_gaps() {
            return Err(self.without(&format!("primary keys ({key})")));
        }
        Ok(keys)
    }

    fn picking(&self, schema: &CollectionSchema, living: Living, batch_rows: usize) -> Result<Picking> {
        let times = self.column(TIMESTAMP_FIELD, batch_rows)?;
        Ok(Picking { times, key: schema.primary_key()?.clone(), living, segment: self.id, row: 0 })
    }

    /// Its rows that live, in the order they were written.
    ///
    /// Columns are those of `schema` named by `columns`, in the schema's order.
    ///
    /// # Errors
    /// [`Kind::BackupCorrupted`] where a field that rows need has no files.
    pub fn batches(
        self,
        schema: &CollectionSchema,
        columns: &[&str],
        living: Living,
        batch_rows: usize,
    ) -> Result<SegmentBatches> {
        let batch_rows = batch_rows.max(1);
        let whole = schema.arrow()?;
        let wanted: Vec<&Field> = schema.stored_fields().filter(|field| columns.contains(&&*field.name)).collect();
        let indices: Vec<usize> = wanted.iter().filter_map(|field| whole.index_of(&field.name).ok()).collect();
        let arrow = whole.project(&indices).map_err(|error| internal(error.to_string()))?;
        let late = living.at.is_some_and(|at| self.latest > at);
        let picks = late || !living.deletes.is_empty() || !living.newest.is_empty();
        let picking = picks.then(|| self.picking(schema, living, batch_rows)).transpose()?;
        let key = schema.primary_key()?.id;
        let has_keys = wanted.iter().any(|field| field.id == key);
        let keys = (picks && !has_keys).then(|| self.stored_keys(schema, batch_rows)).transpose()?;
        let mut sources = Vec::with_capacity(wanted.len());
        for field in wanted {
            let files = self.column(field.id, batch_rows)?;
            // Read: a field that was added later has no files in older segments, and its rows are null.
            if files.has_gaps() && (!field.nullable || field.default_value.is_some()) {
                return Err(self.without(&format!("field '{}' ({})", field.name, field.id)));
            }
            sources.push((field.clone(), files));
        }
        Ok(SegmentBatches { arrow: Arc::new(arrow), sources, keys, picking, batch_rows, rows_left: self.rows })
    }
}

fn span(log: &LogReader) -> Span {
    (log.descriptor().map(|said| said.times), log.rows())
}

/// Some of a field's rows.
enum Part {
    /// Those of a file.
    Rows(LogReader),
    /// As many that the field has none of: it was added later.
    Gap(u64),
}

/// A field's rows, read one file after another.
struct Files {
    field: i64,
    left: std::vec::IntoIter<Part>,
    name: String,
    current: Option<LogBatches>,
    buffer: Buffer,
    batch_rows: usize,
}

/// Rows that are at hand.
enum Buffer {
    Stored(ArrayRef),
    Nulls(u64),
}

impl Files {
    fn new(field: i64, parts: Vec<Part>, batch_rows: usize) -> Self {
        Self {
            field,
            left: parts.into_iter(),
            name: String::new(),
            current: None,
            buffer: Buffer::Nulls(0),
            batch_rows,
        }
    }

    /// Whether the field lacks rows of the segment; before anything is read.
    fn has_gaps(&self) -> bool {
        self.left.as_slice().iter().any(|part| matches!(part, Part::Gap(_)))
    }

    /// How many rows are at hand; some are fetched where there are none.
    fn ready(&mut self) -> Result<usize> {
        loop {
            let ready = match &self.buffer {
                Buffer::Stored(array) => array.len(),
                Buffer::Nulls(rows) => usize::try_from(*rows).unwrap_or(usize::MAX),
            };
            if ready > 0 {
                return Ok(ready);
            }
            if let Some(current) = &mut self.current {
                match current.next()? {
                    Some(batch) if batch.num_columns() == 1 => {
                        self.buffer = Buffer::Stored(Arc::clone(batch.column(0)));
                    }
                    Some(_) => return Err(damaged(&self.name, "holds more than one column")),
                    None => self.current = None,
                }
                continue;
            }
            match self.left.next() {
                Some(Part::Rows(next)) => {
                    next.name().clone_into(&mut self.name);
                    self.current = Some(next.batches_of(self.field, self.batch_rows));
                }
                Some(Part::Gap(rows)) => self.buffer = Buffer::Nulls(rows),
                None => return Ok(0),
            }
        }
    }

    /// The next rows, of which as many are at hand; none where the field has none of them.
    fn take(&mut self, rows: usize) -> Option<ArrayRef> {
        match &mut self.buffer {
            Buffer::Stored(array) => {
                let taken = array.slice(0, rows);
                *array = array.slice(rows, array.len() - rows);
                Some(taken)
            }
            Buffer::Nulls(left) => {
                *left = left.saturating_sub(rows as u64);
                None
            }
        }
    }
}

/// What is needed to tell which rows live.
struct Picking {
    times: Files,
    key: Field,
    living: Living,
    segment: i64,
    /// The row that comes next.
    row: u64,
}

impl Picking {
    /// When the next rows were written, those of `keys`, and which of them live.
    fn look(&mut self, keys: &ArrayRef) -> Result<(Vec<u64>, Vec<bool>)> {
        let times = self.times.take(keys.len()).ok_or_else(|| internal("timestamps ended early"))?;
        let times = times
            .as_primitive_opt::<Int64Type>()
            .filter(|times| times.null_count() == 0)
            .ok_or_else(|| damaged(&self.times.name, "holds no timestamps"))?;
        let times: Vec<u64> = times.values().iter().map(|time| time.cast_unsigned()).collect();
        let Living { deletes, newest, at } = &self.living;
        let another_type = || internal("keys of another type");
        let deleted = deletes.mask(keys, &times).ok_or_else(another_type)?;
        let mut lives: Vec<bool> =
            deleted.iter().zip(&times).map(|(deleted, time)| !deleted && at.is_none_or(|at| *time <= at)).collect();
        if !newest.is_empty() {
            let older = newest.mask(keys, self.segment, self.row).ok_or_else(another_type)?;
            lives.iter_mut().zip(older).for_each(|(lives, older)| *lives &= !older);
        }
        self.row += keys.len() as u64;
        Ok((times, lives))
    }
}

/// Takes the next keys, as they are in the schema.
fn take_keys(files: &mut Files, key: &Field, rows: usize) -> Result<ArrayRef> {
    let stored = files.take(rows).ok_or_else(|| internal("keys ended early"))?;
    column(key, &stored).map_err(|what| damaged(&files.name, &what))
}

/// Keys of a segment's rows.
pub(super) struct KeyBatch {
    pub(super) keys: ArrayRef,
    /// When each row was written, as hybrid timestamps.
    pub(super) times: Vec<u64>,
    /// Whether each lives, by deletes and the time.
    pub(super) lives: Vec<bool>,
    /// Which row of the segment the first one is.
    pub(super) first: u64,
}

/// The keys of a segment, batch by batch. After an error there are no more.
pub(super) struct SegmentKeys {
    keys: Files,
    picking: Picking,
    rows_left: u64,
}

impl SegmentKeys {
    fn advance(&mut self) -> Result<KeyBatch> {
        let rows = self.keys.ready()?.min(self.picking.times.ready()?);
        if rows == 0 {
            return Err(ended_early());
        }
        let first = self.picking.row;
        let keys = take_keys(&mut self.keys, &self.picking.key, rows)?;
        let (times, lives) = self.picking.look(&keys)?;
        self.rows_left = self.rows_left.saturating_sub(rows as u64);
        Ok(KeyBatch { keys, times, lives, first })
    }
}

impl Iterator for SegmentKeys {
    type Item = Result<KeyBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.rows_left > 0).then(|| self.advance().inspect_err(|_| self.rows_left = 0))
    }
}

/// Rows of a segment, batch by batch, none of them empty. After an error there are no more.
pub struct SegmentBatches {
    arrow: SchemaRef,
    sources: Vec<(Field, Files)>,
    /// The keys, where rows are picked by them and they are not among the columns.
    keys: Option<Files>,
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
            let times = self.picking.as_mut().map(|picking| &mut picking.times);
            for files in self.sources.iter_mut().map(|(_, files)| files).chain(times).chain(&mut self.keys) {
                rows = rows.min(files.ready()?);
            }
            if rows == 0 {
                return Err(ended_early());
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
            if field.primary_key {
                keys = Some(Arc::clone(&array));
            }
            columns.push(array);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.arrow), columns, &options)
            .map_err(|error| internal(format!("the rows of a segment are not of their schema: {error}")))?;
        let Some(picking) = &mut self.picking else { return Ok(batch) };
        let keys = match (&mut self.keys, keys) {
            (_, Some(keys)) => keys,
            (Some(files), None) => take_keys(files, &picking.key, rows)?,
            (None, None) => return Err(internal("no keys to tell deleted rows by")),
        };
        let (_, lives) = picking.look(&keys)?;
        if lives.iter().all(|lives| *lives) {
            return Ok(batch);
        }
        filter_record_batch(&batch, &BooleanArray::from(lives)).map_err(|error| internal(error.to_string()))
    }
}

fn ended_early() -> Error {
    internal("a segment's fields came to an end before its rows")
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
