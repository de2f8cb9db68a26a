//! A Parquet backup whose rows come from Milvus's own files: of one moment, with nothing loaded and nothing asked of the
//! nodes that answer queries.
//!
//! Segments are decoded side by side, and their rows sorted by key, as those of a scan come: the backup is as any other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;

use super::beyond::Beyond;
use super::files::SegmentFiles;
use super::{Contents, Plan, counted_as, stored};
use crate::binlog::layout::NEWEST_STORAGE;
use crate::binlog::segment::TIMESTAMP_FIELD;
use crate::binlog::{self, Deletes, Living, Newest};
use crate::digest::SetDigest;
use crate::error::{Kind, Result, internal};
use crate::jobs::Session;
use crate::jobs::backup_request::{BackupRequest, RowSource};
use crate::jobs::chunks::Chunks;
use crate::jobs::control::{Control, Phase};
use crate::jobs::newest;
use crate::jobs::read::{self, DuplicatePolicy, Sink, blocking};
use crate::jobs::sorting::{Merged, Run, Sorter};
use crate::jobs::written::Written;
use crate::milvus::KeyRange;
use crate::parquet::arrow_bytes;
use crate::repository::Attempt;
use crate::repository::manifest::{Manifest, SnapshotKind};
use crate::schema::DataType;

/// Segments that are decoded at once.
const AT_ONCE: usize = 2;
/// Bytes of rows that each of them gathers before they are sorted.
const GATHERED: u64 = 32 << 20;
/// Sorted batches that wait to be encoded.
const WAITING: usize = 2;

/// Whether a Parquet backup of a collection is to take its rows from files.
///
/// # Errors
/// [`Kind::InvalidArgument`] where it has to, and cannot.
pub(in crate::jobs) async fn is_wanted(
    session: &Session,
    (database, name): (Option<&str>, &str),
    source: RowSource,
) -> Result<bool> {
    match source {
        RowSource::Query => Ok(false),
        RowSource::Binlogs => session.milvus_storage().map(|_| true),
        RowSource::Auto if session.milvus_storage.is_none() => Ok(false),
        RowSource::Auto => {
            let client = session.client_in(database).await?;
            // What the server does not have, or cannot tell, is told where its rows are asked for.
            let Ok(collection) = client.describe(name).await else { return Ok(false) };
            let Ok(segments) = client.segments(&collection.name).await else { return Ok(false) };
            let is_known = segments.iter().all(|segment| segment.storage_version <= NEWEST_STORAGE)
                && collection.schema.stored_fields().all(|field| field.data_type != DataType::Geometry);
            if !is_known {
                tracing::info!(collection = collection.name, "its files are of a form that is not read: it is queried");
            }
            Ok(is_known)
        }
    }
}

/// Writes the rows of a moment to chunk files, and describes them; what the manifest is to say. A moment whose files go
/// while they are read is taken anew.
pub(super) async fn write(
    plan: &Plan,
    mut contents: Contents,
    request: &BackupRequest,
    attempt: &Attempt,
    control: &Control,
) -> Result<(Manifest, Vec<String>)> {
    let mut names: Vec<String> = plan.partitions.iter().map(|name| counted_as(&plan.collection, name)).collect();
    names.dedup();
    let chunks = request.chunks(&plan.collection, &names, attempt, control);
    let mut planned = 1;
    let collapses = request.duplicates == DuplicatePolicy::Collapse;
    let (sets, older) = loop {
        control.start_over();
        let error = match rows(plan, &contents, (&names, collapses), &chunks, control).await {
            Ok(sets) => break sets,
            Err(error) => error,
        };
        if !matches!(error.kind(), Kind::BackupCorrupted | Kind::Storage) || error.is_temporary() {
            return Err(error);
        }
        if plan.pinned || planned == super::PLANS {
            // What the cause advises is for backups, whose files are not written by a server.
            let told = format!(
                "'{}' was not backed up: Milvus's own files do not hold it whole, {planned} times over. Read its rows from the server with source=\"query\". The cause",
                plan.collection.name
            );
            return Err(error.into_kind(Kind::Backup).context(told));
        }
        tracing::info!(reason = %error, "the files of a moment could not be read whole: a new one is taken");
        for name in &names {
            chunks.discard(name).await?;
        }
        control.enter(Phase::Flushing);
        contents = plan.contents(None).await?;
        planned += 1;
    };
    control.enter(Phase::Writing);
    let mut warnings: Vec<String> =
        crate::jobs::compatible::in_describing(plan.client.version(), &plan.collection).into_iter().collect();
    warnings.extend(older);
    if sets.values().all(|set| set.rows == 0) {
        warnings.push(format!("collection '{}' has no rows: the backup holds its schema alone", plan.collection.name));
    }
    let written = Written {
        collection: &plan.collection,
        indexes: &plan.indexes,
        partitions: &names,
        server: plan.client.version(),
        sets,
        chunks: chunks.table(),
    };
    let mut manifest = written.describe(request, attempt).await?;
    manifest.snapshot.kind = SnapshotKind::Snapshot;
    manifest.snapshot.started_at = Some(contents.moment.started_at);
    manifest.snapshot.ended_at = Some(contents.moment.ended_at);
    manifest.snapshot.timestamp = Some(contents.moment.timestamp);
    manifest.warnings.clone_from(&warnings);
    Ok((manifest, warnings))
}

/// Writes the rows of each partition, and says what became of rows that share a key where they may.
async fn rows(
    plan: &Plan,
    contents: &Contents,
    (names, collapses): (&[String], bool),
    chunks: &Chunks<'_>,
    control: &Control,
) -> Result<(BTreeMap<String, SetDigest>, Vec<String>)> {
    let collection = &plan.collection;
    let all: u64 = contents.segments.iter().map(|files| files.segment.rows).sum();
    control.expect(all, all.saturating_mul(collection.schema.estimated_row_bytes() as u64));
    let at = contents.moment.timestamp;
    let open_deletes = |file| stored::open(&plan.storage, file).boxed();
    let beyond = Beyond::read(&contents.segments, at, open_deletes).await?;
    let (mut sets, mut older) = (BTreeMap::new(), Vec::new());
    for name in names {
        control.enter(Phase::Reading);
        let partitions = plan.identity.partitions.iter().filter(|one| counted_as(collection, &one.name) == *name);
        let partitions: Vec<i64> = partitions.map(|partition| partition.id).collect();
        let is_its =
            |files: &&SegmentFiles| !files.segment.is_level_zero && partitions.contains(&files.segment.partition);
        let segments: Vec<_> = contents.segments.iter().filter(is_its).collect();
        let newest = if collapses {
            let keys = async |index: usize| {
                let (files, deltas) = open(plan, segments[index], true).await?;
                let deletes = blocking(move || Deletes::read(&deltas, Some(at))).await?;
                Ok((files, Arc::new(deletes.with(beyond.of(segments[index].segment.partition)))))
            };
            newest::among(segments.len(), &collection.schema, Some(at), |index| keys(index).boxed()).await?.0
        } else {
            Newest::default()
        };
        older.extend(newest::told(name, &newest));
        let runs = sorted(plan, (at, Arc::new(newest)), &beyond, segments, control).await?;
        sets.insert(name.clone(), merged(plan, name, runs, chunks, control).await?);
    }
    Ok((sets, older))
}

/// The files of a segment, or those of them that tell its keys and when they were written; and those of its own deletes.
async fn open(
    plan: &Plan,
    files: &SegmentFiles,
    keys_alone: bool,
) -> Result<(binlog::SegmentFiles, Vec<binlog::LogFile>)> {
    let inserts = if keys_alone {
        files.inserts_of(&[plan.collection.schema.primary_key()?.id, TIMESTAMP_FIELD]).cloned().collect()
    } else {
        files.inserts.clone()
    };
    let deletes = files.deletes.clone();
    stored::open_segment(&plan.storage, &SegmentFiles { segment: files.segment.clone(), inserts, deletes }).await
}

/// The living rows of segments, in sorted runs.
async fn sorted(
    plan: &Plan,
    (at, newest): (u64, Arc<Newest>),
    beyond: &Beyond,
    segments: Vec<&SegmentFiles>,
    control: &Control,
) -> Result<Vec<Run>> {
    let schema = &plan.collection.schema;
    let key = &schema.primary_key()?.name;
    let stop = Stop::default();
    let queue = Mutex::new(VecDeque::from(segments));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let lane = async || {
        let mut sorter = Sorter::new(key, GATHERED);
        while let Some(files) = next() {
            let (segment, deltas) = open(plan, files, false).await?;
            let beyond: Vec<_> = beyond.of(files.segment.partition).collect();
            let (schema, newest, stopped) = (schema.clone(), Arc::clone(&newest), Arc::clone(&stop.0));
            sorter = blocking(move || {
                let deletes = Arc::new(Deletes::read(&deltas, Some(at))?.with(beyond));
                let living = Living { deletes, newest, at: Some(at) };
                let all: Vec<&str> = schema.stored_fields().map(|field| &*field.name).collect();
                let segment = binlog::Segment::open(segment, &schema)?;
                for batch in segment.batches(&schema, &all, living, stored::batch_rows(&schema))? {
                    if stopped.load(Ordering::Relaxed) {
                        return Err(internal("nobody waits for these rows any more"));
                    }
                    sorter.push(batch?)?;
                }
                Ok(sorter)
            })
            .await?;
            // The other half comes with writing.
            control.advance(files.segment.rows / 2, 0);
        }
        blocking(move || sorter.finish()).await
    };
    let lanes = futures::future::try_join_all((0..AT_ONCE).map(|_| lane())).await?;
    Ok(lanes.into_iter().flatten().collect())
}

/// Tells the threads that work for a future when it goes away.
#[derive(Default)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes a partition's runs to chunk files, in the order of their keys.
async fn merged(
    plan: &Plan,
    partition: &str,
    runs: Vec<Run>,
    chunks: &Chunks<'_>,
    control: &Control,
) -> Result<SetDigest> {
    let key = plan.collection.schema.primary_key()?.name.clone();
    let (sender, mut batches) = tokio::sync::mpsc::channel(WAITING);
    let merging = blocking(move || {
        let mut merged = Merged::of(runs, &key)?;
        while merged.repeated().len() <= read::EXAMPLES {
            let Some(batch) = merged.next()? else { break };
            if sender.blocking_send(batch).is_err() {
                break; // nobody waits for them
            }
        }
        Ok(merged.repeated().to_vec())
    });
    let writing = async move {
        let mut sink = chunks.sink(partition, &KeyRange::default())?;
        while let Some(batch) = batches.recv().await {
            let (rows, bytes) = (batch.num_rows() as u64, arrow_bytes(&batch));
            sink.take(batch).await?;
            control.advance(rows - rows / 2, bytes);
        }
        sink.end().await
    };
    let (repeated, set) = futures::try_join!(merging, writing)?;
    if repeated.is_empty() {
        return Ok(set);
    }
    let is_partial = repeated.len() > read::EXAMPLES;
    Err(read::repeated_keys(&plan.collection, partition, (&repeated, is_partial), "was written last"))
}
