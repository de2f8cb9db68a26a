//! Making a backup: describe, lock, read, write, prove, commit.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use serde_json::{Value, json};

use super::backup_request::BackupRequest;
use super::control::{Control, Phase, deadline};
use super::read::{self, DuplicatePolicy, Reader, Reading};
use super::written::Written;
use super::{Session, native, recover, verify};
use crate::checksum::ChecksumAlgorithm;
use crate::error::{Error, Kind, Result, internal};
use crate::milvus::Client;
use crate::repository::manifest::{self, Manifest, Resumed, SnapshotKind};
use crate::repository::names::now;
use crate::repository::tables::ChunkTable;
use crate::repository::{Adopted, Attempt, BeginRequest, Link, Repository};
use crate::schema::{Collection, Index};

/// What is known before anything is written.
struct Plan {
    client: Client,
    collection: Collection,
    indexes: Vec<Index>,
    partitions: Vec<String>,
    /// Stands for all that makes a data file what it is, but for the rows.
    fingerprint: String,
}

/// Makes a backup and answers with its metadata, warnings, the verification and the time that each phase took.
///
/// # Errors
/// As in `API.md`: what was wrong with the call before work began (collection, partition, name, lock, space), and
/// [`Kind::Backup`] and its like for what went wrong later. Nothing half-written stays, and the collection is left as
/// loaded as it was.
pub async fn backup(session: &Session, request: BackupRequest, control: &Control) -> Result<Value> {
    if request.storage_type == manifest::StorageType::MilvusNative {
        return Box::pin(native::backup(session, &request, control)).await;
    }
    let limit = deadline(request.timeout_seconds);
    let about = |error: Error| as_backup_error(error, &request.collection_name, "LOCAL_FILE");
    request.check().map_err(about)?;
    let of = (request.database.as_deref(), &*request.collection_name);
    if control.guard(limit, native::parquet::is_wanted(session, of, request.source)).await.map_err(about)? {
        return Box::pin(native::backup(session, &request, control)).await;
    }
    control.limit_bandwidth(request.bandwidth_limit_mib)?;
    control.enter(Phase::Counting);
    let repository = session.repository()?;
    let plan = control.guard(limit, prepare(session, &request)).await.map_err(about)?;
    let outcome = async {
        let begin = BeginRequest {
            database: plan.collection.database.clone(),
            collection: plan.collection.name.clone(),
            backup_name: request.backup_name.clone(),
            algorithm: request.checksum_algorithm,
            fingerprint: plan.fingerprint.clone(),
            resume: request.resume,
        };
        // Not guarded: a lock that is being taken is taken, and then given back.
        let attempt = repository.begin_or(begin, control.stopped(limit)).await?;
        // Under the lock: of two backups at once, the one that gives way would release the collection under the other.
        let loaded_by_us = AtomicBool::new(false);
        let work = async {
            load(&plan, &loaded_by_us).await?;
            check_space(session, &plan).await?;
            control.begin();
            write(&plan, &request, &attempt, control).await
        };
        let outcome = Box::pin(guarded(&plan.collection.name, &attempt, control, limit, work)).await;
        if loaded_by_us.into_inner() {
            release(&plan).await;
        }
        match outcome {
            Ok((manifest, warnings)) => {
                let storage_path = attempt.storage_path();
                Ok((attempt.commit(manifest).await?, warnings, storage_path))
            }
            Err(error) => {
                control.enter(Phase::Cleaning);
                let storage_path = attempt.storage_path();
                let error = error.with("storage_path", storage_path);
                // Whoever stops a backup finds none of it, and what will fail again is of no use.
                if !may_go_on(&error) {
                    attempt.abandon().await;
                } else if attempt.leave().await {
                    return Err(
                        error.context("the chunks that were finished are kept, and the same call goes on from them")
                    );
                }
                Err(error)
            }
        }
    }
    .await;
    let (manifest, warnings, storage_path) = outcome.map_err(about)?;
    let verification = verify_new(repository, &manifest, &request, control, limit).await.map_err(about)?;
    answer(&manifest, &warnings, verification.as_ref(), &storage_path, control)
}

/// Reads the files of a new backup back, where that is wanted.
pub(super) async fn verify_new(
    repository: &Repository,
    manifest: &Manifest,
    request: &BackupRequest,
    control: &Control,
    limit: Option<std::time::Instant>,
) -> Result<Option<verify::Verification>> {
    if !request.verify_after {
        return Ok(None);
    }
    control.enter(Phase::Verifying);
    let backup =
        repository.find(manifest.backup_id.as_str(), Some(&manifest.collection_name), Some(&manifest.database)).await?;
    match control.guard(limit, verify::checksums(&backup, true, control)).await {
        // Whoever stops a backup, or gives it too little time, finds none of it: also where only this was left.
        Err(error) if matches!(error.kind(), Kind::Canceled | Kind::Timeout) => {
            control.enter(Phase::Cleaning);
            drop(backup);
            undo(repository, manifest).await;
            Err(error)
        }
        outcome => outcome.map(Some),
    }
}

/// What a backup's making amounts to, for Python.
pub(super) fn answer(
    manifest: &Manifest,
    warnings: &[String],
    verification: Option<&verify::Verification>,
    storage_path: &str,
    control: &Control,
) -> Result<Value> {
    control.enter(Phase::Done);
    let outcome = serde_json::to_value(verification).map_err(|error| internal(error.to_string()))?;
    let metadata = super::metadata(manifest, Some(&outcome), storage_path);
    Ok(json!({"metadata": metadata, "warnings": warnings, "verification": verification, "timings": control.timings()}))
}

/// Deletes a backup that was made whole but is not wanted any more, if the storage answers soon.
pub(super) async fn undo(repository: &Repository, manifest: &Manifest) {
    let (id, collection) = (manifest.backup_id.as_str(), Some(manifest.collection_name.as_str()));
    let deletion = repository.delete(id, collection, Some(&manifest.database));
    if !matches!(tokio::time::timeout(super::CLEANUP_LIMIT, deletion).await, Ok(Ok(()))) {
        tracing::warn!(backup_id = id, "the backup is whole but was stopped; it could not be deleted and stays");
    }
}

/// Leaves the collection as it was found, if the server answers soon.
async fn release(plan: &Plan) {
    let released = tokio::time::timeout(super::CLEANUP_LIMIT / 2, plan.client.release(&plan.collection.name)).await;
    if !matches!(released, Ok(Ok(()))) {
        tracing::warn!(collection = plan.collection.name, "loaded for the backup, it could not be released");
    }
}

pub(super) fn as_backup_error(error: Error, collection: &str, storage_type: &str) -> Error {
    let error = if matches!(error.kind(), Kind::Server) { error.into_kind(Kind::Backup) } else { error };
    error.with("collection_name", collection).with("storage_type", storage_type)
}

async fn prepare(session: &Session, request: &BackupRequest) -> Result<Plan> {
    session.repository()?.store().require_writable("a backup")?;
    let client = session.client_in(request.database.as_deref()).await?;
    recover::interrupted_restores(session, &client, None).await?;
    let collection = client.describe(&request.collection_name).await?;
    let wanted = request.wanted_partitions(&collection)?;
    let indexes = client.indexes(&collection.name).await?;
    let partitions = Reader::new(&client, &collection, 1).await?.partitions(&wanted);
    let number = client.collection_number(&collection.name).await?;
    let fingerprint = fingerprint(request, &client, &collection, &partitions, number)?;
    Ok(Plan { client, collection, indexes, partitions, fingerprint })
}

/// Loads the collection where it is not loaded; `by_us` tells it from before that begins.
async fn load(plan: &Plan, by_us: &AtomicBool) -> Result<()> {
    let Plan { client, collection, .. } = plan;
    if client.is_loaded(&collection.name).await? {
        return Ok(());
    }
    by_us.store(true, Ordering::Relaxed);
    client.load(&collection.name, super::LOAD_LIMIT).await.map_err(|error| {
        error.context(format!(
            "collection '{}' is not loaded, and rows can only be read from a loaded one",
            collection.name
        ))
    })
}

/// What has to be the same for a finished chunk of one run to be one of another.
fn fingerprint(
    request: &BackupRequest,
    client: &Client,
    collection: &Collection,
    partitions: &[String],
    number: Option<i64>,
) -> Result<String> {
    let all = json!({
        "tool": env!("CARGO_PKG_VERSION"),
        "server": client.label(),
        "database": collection.database,
        "collection": collection.name,
        "number": number,
        "schema": collection.schema,
        "partitions": partitions,
        "compression": request.compression_enabled.then_some(request.compression_level),
        "chunk_size_mb": request.chunk_size_mb,
        "collapse": request.duplicates == DuplicatePolicy::Collapse,
    });
    let text = serde_json::to_vec(&all).map_err(|error| internal(error.to_string()))?;
    Ok(ChecksumAlgorithm::Sha256.of(&text))
}

/// Whether an error is of the sort that passes: then finished chunks are kept for the next try.
fn may_go_on(error: &Error) -> bool {
    error.is_temporary() && matches!(error.kind(), Kind::Server | Kind::Storage | Kind::Backup)
}

/// Refuses early where what the rows take would not fit. Compression is not counted on.
async fn check_space(session: &Session, plan: &Plan) -> Result<()> {
    if session.repository()?.store().available_bytes().is_none() {
        return Ok(());
    }
    let reader = Reader::new(&plan.client, &plan.collection, 1).await?;
    let rows: u64 = reader.counts(&plan.partitions).await?.values().sum();
    // Vectors hardly shrink, text does: half of the estimate is what any backup takes at least.
    let needed = rows.saturating_mul(plan.collection.schema.estimated_row_bytes() as u64) / 2;
    check_room(session.repository()?, &plan.collection.name, needed)
}

/// Refuses early what takes more than there is room for, unless it may be linked and take none.
pub(super) fn check_room_unless(link: Link, repository: &Repository, collection: &str, needed: u64) -> Result<()> {
    if link == Link::Never { check_room(repository, collection, needed) } else { Ok(()) }
}

/// Refuses early what takes more than there is room for.
pub(super) fn check_room(repository: &Repository, collection: &str, needed: u64) -> Result<()> {
    let Some(available) = repository.store().available_bytes() else { return Ok(()) };
    if needed <= available {
        return Ok(());
    }
    let path = repository.store().display("");
    Err(Error::new(
        Kind::InsufficientStorage,
        format!(
            "a backup of '{collection}' takes about {:.2} GB at least, and {path} has {:.2} GB free. Free some space, or put the repository elsewhere",
            gigabytes(needed),
            gigabytes(available)
        ),
    )
    .with("required_bytes", needed)
    .with("available_bytes", available)
    .with("storage_path", path))
}

#[allow(clippy::cast_precision_loss)] // for people
fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// The work between lock and commit, until it ends, is canceled, runs out of time, or the lock is lost.
pub(super) async fn guarded<T>(
    collection: &str,
    attempt: &Attempt,
    control: &Control,
    limit: Option<std::time::Instant>,
    write: impl Future<Output = Result<T>>,
) -> Result<T> {
    let lost = attempt.lost();
    let tell_progress = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            attempt.set_progress(control.percentage());
        }
    };
    let work = async {
        tokio::select! {
            biased;
            () = lost.cancelled() => Err(Error::new(
                Kind::InProgress,
                format!("another process took over the lock of '{collection}' while this backup ran, as it does when it sees no sign of life for ten seconds. Run it again"),
            )),
            outcome = Box::pin(write) => outcome,
            () = tell_progress => Err(internal("telling progress ended")),
        }
    };
    control.guard(limit, Box::pin(work)).await
}

async fn write(
    plan: &Plan,
    request: &BackupRequest,
    attempt: &Attempt,
    control: &Control,
) -> Result<(Manifest, Vec<String>)> {
    let started_at = now();
    let reader = Reader::new(&plan.client, &plan.collection, request.max_concurrent_chunks).await?;
    let counts = reader.counts(&plan.partitions).await?;
    let rows: u64 = counts.values().sum();
    let adopted = attempt.adopt(&|bytes| control.pass(bytes).boxed()).await?;
    control.expect(rows, rows.saturating_mul(plan.collection.schema.estimated_row_bytes() as u64));
    control.enter(Phase::Reading);
    let chunks = request.chunks(&plan.collection, &plan.partitions, attempt, control);
    let notes = adopted.as_ref().map(|adopted| &adopted.chunks[..]).unwrap_or_default();
    for note in notes {
        control.advance(note.chunk.rows, note.chunk.bytes);
    }
    let reading = reader
        .after(chunks.adopt(notes)?)
        .read(
            &counts,
            request.duplicates,
            &|partition, range| chunks.sink(partition, range),
            &async |partition: &str| chunks.discard(partition).await,
            control,
        )
        .await?;
    let ended_at = now();
    let mut warnings = reading.warnings.clone();
    warnings.extend(super::compatible::in_describing(plan.client.version(), &plan.collection));
    let resumed = adopted.as_ref().and_then(|adopted| resumed(adopted, &chunks.table()));
    let kind = snapshot_kind(plan, request, (&reading, resumed.as_ref()), control, &mut warnings).await?;
    if rows == 0 && reading.rows() == 0 {
        warnings.push(format!("collection '{}' has no rows: the backup holds its schema alone", plan.collection.name));
    }

    control.enter(Phase::Writing);
    let sets = reading.partitions.iter().map(|(name, read)| (name.clone(), read.set)).collect();
    let written = Written {
        collection: &plan.collection,
        indexes: &plan.indexes,
        partitions: &plan.partitions,
        server: plan.client.version(),
        sets,
        chunks: chunks.table(),
    };
    let mut manifest = written.describe(request, attempt).await?;
    manifest.snapshot.kind = kind;
    manifest.snapshot.started_at = Some(resumed.as_ref().map_or(started_at, |resumed| resumed.started_at));
    manifest.resumed = resumed;
    manifest.snapshot.ended_at = Some(ended_at);
    manifest.snapshot.count_before = Some(reading.partitions.values().map(|read| read.before).sum());
    manifest.snapshot.count_after = Some(reading.partitions.values().map(|read| read.after).sum());
    manifest.warnings.clone_from(&warnings);
    Ok((manifest, warnings))
}

async fn snapshot_kind(
    plan: &Plan,
    request: &BackupRequest,
    (reading, resumed): (&Reading, Option<&Resumed>),
    control: &Control,
    warnings: &mut Vec<String>,
) -> Result<SnapshotKind> {
    if request.prove_stable {
        let again =
            read::digest(&plan.client, &plan.collection, &plan.partitions, request.max_concurrent_chunks, control)
                .await?;
        let same = reading
            .partitions
            .iter()
            .all(|(name, read)| again.partitions.get(name).is_some_and(|second| second.set == read.set));
        if same && !reading.writers_were_active() {
            return Ok(SnapshotKind::Stable);
        }
        warnings.push(format!("a second read of '{}' gave other rows than the first: somebody is writing, and the backup is not of one moment", plan.collection.name));
        return Ok(SnapshotKind::Fuzzy);
    }
    if let Some(resumed) = resumed {
        warnings.push(format!(
            "{} of {} rows were read since {} by a run that ended before it was done ({}), the others now: the backup shows '{}' at two times. prove_stable=True proves that nothing changed between them, resume=False reads all rows anew",
            resumed.rows,
            reading.rows(),
            resumed.started_at.format("%Y-%m-%d %H:%M:%S UTC"),
            resumed.backup_id,
            plan.collection.name
        ));
        return Ok(SnapshotKind::Fuzzy);
    }
    Ok(if reading.is_single_read() { SnapshotKind::Snapshot } else { SnapshotKind::Fuzzy })
}

/// What of the backup is adopted: not what was thrown away again since it did not fit the server's counts.
fn resumed(adopted: &Adopted, table: &ChunkTable) -> Option<Resumed> {
    let files: BTreeSet<_> = table.chunks.iter().map(|chunk| &chunk.file).collect();
    let kept: Vec<_> = adopted.chunks.iter().filter(|note| files.contains(&note.chunk.file)).collect();
    Some(Resumed {
        backup_id: adopted.from.clone(),
        started_at: kept.iter().map(|note| note.read_since).min()?,
        chunks: kept.len() as u64,
        rows: kept.iter().map(|note| note.chunk.rows).sum(),
    })
}
