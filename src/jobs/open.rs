//! A backup's rows without a server: which files, columns and rows are asked for, and their stream as Arrow batches.
//!
//! No row leaves before the checksum of its file is proven. Files are proven ahead of the reader: some before the stream
//! is handed over, then one or two while rows of the last are decoded. Memory holds a few batches and one row group.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::Session;
use super::control::{Control, deadline};
use super::pieces::{self, Opened, Piece, Pieces, Promise, Wanted};
use super::read::ALL_PARTITIONS;
use crate::error::{Error, Kind, Result, internal};
use crate::filter::{Bound, Bounds, Filter, Nulls};
use crate::repository::{Backup, Lease};
use crate::schema::{Collection, CollectionSchema};

/// About how large a batch is in Arrow, before rows are filtered.
const BATCH_BYTES: u64 = 4 << 20;
const MOST_BATCH_ROWS: u64 = 65_536;
/// How many batches wait for the reader.
const BATCHES_AHEAD: usize = 2;
/// Files are proven before the stream is handed over until they come to this many bytes, or to so many files.
const PROVEN_FIRST_BYTES: u64 = 256 << 20;
const PROVEN_FIRST_FILES: usize = 64;

/// Which rows of which backup.
#[derive(Debug, Clone, Deserialize)]
pub struct OpenRequest {
    backup: String,
    #[serde(default)]
    collection_name: Option<String>,
    #[serde(default)]
    columns: Option<Vec<String>>,
    #[serde(default, rename = "where")]
    filter: Option<String>,
    #[serde(default)]
    partition_names: Vec<String>,
    /// The moment to show, as a hybrid timestamp; unset: the backup's own.
    #[serde(default)]
    at: Option<u64>,
    #[serde(default)]
    timeout_seconds: Option<f64>,
}

/// A backup that is open for reading; marked as such, so that nobody deletes it meanwhile.
pub struct OpenBackup {
    rows: Arc<Rows>,
    marker: Arc<Marker>,
    description: Value,
}

/// What is read, and how.
struct Rows {
    backup: Backup,
    pieces: Vec<Piece>,
    /// How many rows there are, where that is known without reading them.
    count: Option<u64>,
    wanted: Wanted,
    columns: Vec<String>,
    arrow: SchemaRef,
    /// The first error that a stream met.
    failure: Mutex<Option<Error>>,
}

/// The mark in the repository; it goes with the last that reads.
struct Marker {
    lease: Mutex<Option<Lease>>,
    runtime: Handle,
}

impl Drop for Marker {
    fn drop(&mut self) {
        // Dropped within the runtime, a lease is released in the background.
        let _within = self.runtime.enter();
        drop(self.lease.get_mut().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Opens a backup. No data file is read yet.
///
/// # Errors
/// [`Kind::BackupNotFound`], [`Kind::BackupCorrupted`] where manifest, schema or chunk table are damaged,
/// [`Kind::PartitionNotFound`], [`Kind::InvalidArgument`] for a column or a filter that the schema does not have.
pub async fn open(session: &Session, request: &OpenRequest, control: &Control) -> Result<OpenBackup> {
    control.guard(deadline(request.timeout_seconds), open_marked(session, request)).await
}

async fn open_marked(session: &Session, request: &OpenRequest) -> Result<OpenBackup> {
    let backup = session.find_at(&request.backup, request.collection_name.as_deref(), request.at).await?;
    let lease = session.repository()?.mark_reading(&backup).await?;
    let marker = Arc::new(Marker { lease: Mutex::new(lease), runtime: Handle::current() });
    let about = |error: Error| {
        error
            .with("backup_id", backup.id().as_str())
            .with("collection_name", backup.manifest().collection_name.as_str())
    };
    let rows = match Rows::choose(&backup, request).await {
        Ok(rows) => rows,
        Err(error) => {
            take_away(marker).await;
            return Err(about(error));
        }
    };
    let history = match pieces::history::of(&backup, &rows.pieces, request.at).await {
        Ok(history) => history,
        Err(error) => {
            take_away(marker).await;
            return Err(about(error));
        }
    };
    let verification = backup.verification().await;
    let mut description = json!({
        "metadata": super::Shown::of(&backup, verification.as_ref()),
        "columns": rows.columns,
        "row_count": rows.count,
    });
    for (name, value) in history.told() {
        description[name] = value;
    }
    Ok(OpenBackup { rows: Arc::new(rows), marker, description })
}

/// Takes the mark away, unless somebody else still reads under it.
async fn take_away(marker: Arc<Marker>) {
    let Some(marker) = Arc::into_inner(marker) else { return };
    let lease = marker.lease.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(lease) = lease
        && let Err(error) = lease.release().await
    {
        tracing::warn!(%error, "the mark that this backup is being read could not be removed; it goes stale by itself");
    }
}

impl Rows {
    async fn choose(backup: &Backup, request: &OpenRequest) -> Result<Self> {
        let collection: Collection = serde_json::from_value(backup.schema().await?).map_err(|error| {
            Error::new(Kind::BackupCorrupted, format!("schema.json of backup {} is none: {error}", backup.id()))
                .with("failed_files", vec!["schema.json"])
        })?;
        let schema = &collection.schema;
        let filter = request.filter.as_deref().map(|text| Filter::parse(text, schema)).transpose()?;
        let columns = columns(schema, request.columns.as_deref())?;
        let all = schema.arrow()?;
        let indices = columns.iter().map(|name| all.index_of(name)).collect::<std::result::Result<Vec<_>, _>>();
        let arrow = indices.and_then(|indices| all.project(&indices)).map_err(|error| internal(error.to_string()))?;
        let mut decoded = columns.clone();
        for name in filter.iter().flat_map(Filter::fields) {
            if !decoded.contains(name) {
                decoded.push(name.clone());
            }
        }
        let Pieces { all: mut pieces, mut promised, .. } = Pieces::of(backup, &collection, request.at).await?;
        if !request.partition_names.is_empty() {
            check_partitions(backup, &promised, &request.partition_names)?;
            promised.retain(|name, _| request.partition_names.contains(name));
            pieces.retain(|piece| request.partition_names.contains(&piece.partition));
        }
        let mut count = promised.values().map(|promise| promise.rows).sum::<Option<u64>>();
        if let Some(filter) = &filter {
            let key = &schema.primary_key()?.name;
            pieces.retain(|piece| filter.may_match(&key_bounds(key, piece)));
            count = None;
        }
        let wanted = Wanted { schema: schema.clone(), columns: Some(decoded), filter: filter.map(Arc::new) };
        Ok(Self {
            backup: backup.clone(),
            pieces,
            count,
            wanted,
            columns,
            arrow: Arc::new(arrow),
            failure: Mutex::default(),
        })
    }

    async fn open(&self, piece: &Piece) -> Result<Opened> {
        piece.open(&self.backup, &self.wanted, true).await
    }

    fn failed(&self, error: &Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
    }

    /// Decodes one piece, and hands its rows over batch by batch; false where nobody wants more.
    fn decode(&self, piece: &Piece, opened: Opened, sender: &SyncSender<Message>) -> Result<bool> {
        let rows = (BATCH_BYTES / (piece.bytes / piece.rows.max(1)).max(1)).clamp(1, MOST_BATCH_ROWS);
        for batch in opened.rows(&self.wanted, usize::try_from(rows).unwrap_or(1))? {
            let batch = batch?;
            let picked =
                self.columns.iter().map(|name| batch.column_by_name(name).cloned()).collect::<Option<Vec<_>>>();
            let picked = picked.ok_or_else(|| internal("a column was not decoded"))?;
            let batch = RecordBatch::try_new(Arc::clone(&self.arrow), picked)
                .map_err(|error| internal(format!("the rows are not of their schema: {error}")))?;
            if sender.send(Message::Batch(batch)).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The columns asked for, all of them where none are named.
fn columns(schema: &CollectionSchema, asked: Option<&[String]>) -> Result<Vec<String>> {
    let known: Vec<String> = schema.stored_fields().map(|field| field.name.clone()).collect();
    let Some(asked) = asked else { return Ok(known) };
    let refused =
        |what: String| Err(Error::new(Kind::InvalidArgument, format!("{what}; there are {}", known.join(", "))));
    if asked.is_empty() {
        return refused("columns is empty: name at least one, or leave it out for all".to_owned());
    }
    for (index, name) in asked.iter().enumerate() {
        if !known.contains(name) {
            return refused(format!("the backup has no column '{name}'"));
        }
        if asked[..index].contains(name) {
            return refused(format!("column '{name}' is named twice"));
        }
    }
    Ok(asked.to_vec())
}

fn check_partitions(backup: &Backup, known: &BTreeMap<String, Promise>, names: &[String]) -> Result<()> {
    let Some(missing) = names.iter().find(|name| !known.contains_key(*name) || *name == ALL_PARTITIONS) else {
        return Ok(());
    };
    let available: Vec<&str> = known.keys().map(String::as_str).filter(|name| *name != ALL_PARTITIONS).collect();
    let why = if available.is_empty() {
        "its rows are spread by a partition key and can only be read together: use a filter on that field".to_owned()
    } else {
        format!("it has: {}", available.join(", "))
    };
    Err(Error::new(Kind::PartitionNotFound, format!("backup {} has no partition '{missing}'; {why}", backup.id()))
        .with("partition_name", missing.as_str())
        .with("available_partitions", available))
}

/// What is known of the primary keys in a piece.
fn key_bounds(key: &str, piece: &Piece) -> HashMap<String, Bounds> {
    let bound = |value: &Value| match value {
        Value::Number(number) => number.as_i64().map(Bound::Int),
        Value::String(text) => Some(Bound::Text(text.clone().into_bytes())),
        _ => None,
    };
    let (lowest, highest) = piece.bounds();
    let bounds = Bounds { lowest: bound(lowest), highest: bound(highest), nulls: Nulls::None };
    HashMap::from([(key.to_owned(), bounds)])
}

impl OpenBackup {
    /// What Python reads of it: `metadata`, `columns`, and `row_count`, which is null where a filter decides.
    #[must_use]
    pub fn description(&self) -> &Value {
        &self.description
    }

    /// The columns of its streams.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.rows.arrow)
    }

    /// How many rows the files that may match have, and their size in Arrow.
    pub(super) fn most(&self) -> (u64, u64) {
        self.rows.pieces.iter().fold((0, 0), |(rows, bytes): (u64, u64), piece| {
            (rows.saturating_add(piece.rows), bytes.saturating_add(piece.bytes))
        })
    }

    /// The first error that a stream met.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        self.rows.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its rows from the start, in the order of partitions and keys. The first files are proven before this returns.
    ///
    /// # Errors
    /// [`Kind::BackupCorrupted`] with `failed_files` where one of those is damaged; [`Kind::Storage`].
    pub async fn stream(&self) -> Result<RowStream> {
        let mut proven = VecDeque::new();
        let mut bytes = 0;
        for piece in &self.rows.pieces {
            let opened = self.rows.open(piece).await.inspect_err(|error| self.rows.failed(error))?;
            proven.push_back(opened);
            bytes = u64::saturating_add(bytes, piece.file_bytes);
            if bytes >= PROVEN_FIRST_BYTES || proven.len() >= PROVEN_FIRST_FILES {
                break;
            }
        }
        let (sources, mut next) = mpsc::channel(1);
        let rows = Arc::clone(&self.rows);
        tokio::spawn(async move {
            for piece in &rows.pieces {
                let source = match proven.pop_front() {
                    Some(opened) => Ok(opened),
                    None => rows.open(piece).await,
                };
                let failed = source.is_err();
                if sources.send(source).await.is_err() || failed {
                    return;
                }
            }
        });
        let (sender, receiver) = sync_channel(BATCHES_AHEAD);
        let rows = Arc::clone(&self.rows);
        let decoding = std::thread::Builder::new().name("milvault-read".to_owned()).spawn(move || {
            for piece in &rows.pieces {
                let source = next.blocking_recv().unwrap_or_else(|| Err(internal("files were not proven to the end")));
                match source.and_then(|source| rows.decode(piece, source, &sender)) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => {
                        let error = error
                            .with("backup_id", rows.backup.id().as_str())
                            .with("collection_name", rows.backup.manifest().collection_name.as_str());
                        rows.failed(&error);
                        let _ = sender.send(Message::Failed(error));
                        return;
                    }
                }
            }
            let _ = sender.send(Message::End);
        });
        decoding.map_err(|error| internal(format!("a thread could not be started: {error}")))?;
        Ok(RowStream { schema: self.schema(), messages: receiver, ended: false, _marker: Arc::clone(&self.marker) })
    }

    /// Ends reading: the mark goes, unless a stream is still being read, with which it goes then.
    pub async fn close(self) {
        take_away(self.marker).await;
    }
}

enum Message {
    Batch(RecordBatch),
    Failed(Error),
    End,
}

/// Rows of an open backup, batch by batch, none of them empty. After an error there are no more.
pub struct RowStream {
    schema: SchemaRef,
    messages: Receiver<Message>,
    ended: bool,
    _marker: Arc<Marker>,
}

impl RowStream {
    /// Its columns.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The next batch, or nothing at the end; `None` where it has not come within `limit`.
    pub fn next_within(&mut self, limit: Duration) -> Option<Option<Result<RecordBatch>>> {
        if self.ended {
            return Some(None);
        }
        match self.messages.recv_timeout(limit) {
            Ok(Message::Batch(batch)) => Some(Some(Ok(batch))),
            Err(RecvTimeoutError::Timeout) => None,
            Ok(Message::End) => {
                self.ended = true;
                Some(None)
            }
            Ok(Message::Failed(error)) => {
                self.ended = true;
                Some(Some(Err(error)))
            }
            // A thread that dies says no more; that is not the end of the rows.
            Err(RecvTimeoutError::Disconnected) => {
                self.ended = true;
                Some(Some(Err(internal("the thread that reads a backup ended early; please report this"))))
            }
        }
    }
}

impl Iterator for RowStream {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(next) = self.next_within(Duration::from_secs(3600)) {
                return next;
            }
        }
    }
}
