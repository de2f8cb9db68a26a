//! Making a backup: describe, lock, read, write, prove, commit.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::FutureExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::chunks::Chunks;
use super::control::{Control, Phase, deadline};
use super::read::{self, DuplicatePolicy, Reader, Reading};
use super::{Session, native, recover, verify};
use crate::checksum::ChecksumAlgorithm;
use crate::digest::SetDigest;
use crate::error::{Error, Kind, Result, internal};
use crate::milvus::Client;
use crate::parquet::WriteOptions;
use crate::repository::manifest::{self, Manifest, PartitionDigest, Resumed, SnapshotKind};
use crate::repository::names::{RelativePath, index_file, now};
use crate::repository::tables::{CHUNKS_FILE, ChunkTable, SCHEMA_FILE};
use crate::repository::{Adopted, Attempt, BeginRequest, Repository};
use crate::schema::{Collection, Index};

/// What to back up, and how.
#[derive(Debug, Clone, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // the seam's names
pub struct BackupRequest {
    pub(super) collection_name: String,
    /// Unset: the connection's.
    #[serde(default)]
    pub(super) database: Option<String>,
    #[serde(default)]
    pub(super) backup_name: Option<String>,
    #[serde(default)]
    pub(super) backup_type: manifest::BackupType,
    #[serde(default)]
    pub(super) partition_names: Vec<String>,
    #[serde(default = "yes")]
    pub(super) compression_enabled: bool,
    #[serde(default = "level")]
    pub(super) compression_level: u8,
    #[serde(default = "chunk_size")]
    pub(super) chunk_size_mb: u64,
    #[serde(default = "yes")]
    pub(super) include_indexes: bool,
    #[serde(default)]
    pub(super) tags: Vec<String>,
    #[serde(default)]
    pub(super) duplicates: DuplicatePolicy,
    #[serde(default)]
    pub(super) source: RowSource,
    #[serde(default)]
    pub(super) prove_stable: bool,
    #[serde(default = "yes")]
    pub(super) resume: bool,
    #[serde(default)]
    pub(super) checksum_algorithm: ChecksumAlgorithm,
    #[serde(default = "concurrency")]
    pub(super) max_concurrent_chunks: usize,
    #[serde(default = "yes")]
    pub(super) verify_after: bool,
    #[serde(default)]
    pub(super) bandwidth_limit_mib: Option<f64>,
    #[serde(default)]
    pub(super) storage_type: manifest::StorageType,
    /// The moment that it has to show, for a native one of a set.
    #[serde(default)]
    pub(super) moment: Option<native::snapshot::Moment>,
    #[serde(default)]
    pub(super) timeout_seconds: Option<f64>,
}

impl BackupRequest {
    /// The data files to be written.
    pub(super) fn chunks<'a>(
        &self,
        collection: &'a Collection,
        partitions: &[String],
        attempt: &'a Attempt,
        control: &'a Control,
    ) -> Chunks<'a> {
        let compression = self.compression_enabled.then_some(self.compression_level);
        let options = WriteOptions { compression, ..WriteOptions::default() };
        Chunks::new(collection, partitions, attempt, control, options, self.chunk_size_mb << 20)
    }

    /// Refuses what no data file can be written with.
    pub(super) fn check(&self) -> Result<()> {
        if self.chunk_size_mb > 0 && (1..=9).contains(&self.compression_level) {
            return Ok(());
        }
        Err(Error::new(Kind::InvalidArgument, "chunk_size_mb has to be above 0 and compression_level 1 to 9"))
    }
}

fn yes() -> bool {
    true
}
fn level() -> u8 {
    6
}
fn chunk_size() -> u64 {
    256
}
fn concurrency() -> usize {
    4
}

/// Where the rows of a Parquet backup come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowSource {
    /// Milvus's own files where they are at hand and can be read, else the server's answers.
    #[default]
    Auto,
    /// The server's answers.
    Query,
    /// Milvus's own files.
    Binlogs,
}

/// What is known before anything is written.
struct Plan {
    client: Client,
    collection: Collection,
    indexes: Vec<Index>,
    partitions: Vec<String>,
    loaded_by_us: bool,
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
    let (of, how) = ((request.database.as_deref(), &*request.collection_name), (request.source, request.duplicates));
    if control.guard(limit, native::parquet::is_wanted(session, of, how)).await.map_err(about)? {
        return Box::pin(native::backup(session, &request, control)).await;
    }
    control.limit_bandwidth(request.bandwidth_limit_mib)?;
    control.enter(Phase::Counting);
    let repository = session.repository()?;
    let plan = control.guard(limit, prepare(session, &request)).await.map_err(about)?;
    let outcome = async {
        control.guard(limit, check_space(session, &plan)).await?;
        let begin = BeginRequest {
            database: plan.collection.database.clone(),
            collection: plan.collection.name.clone(),
            backup_name: request.backup_name.clone(),
            algorithm: request.checksum_algorithm,
            fingerprint: plan.fingerprint.clone(),
            resume: request.resume,
        };
        // Not guarded: a lock that is being taken is taken, and then given back.
        let attempt = repository.begin(begin).await?;
        control.begin();
        let work = write(&plan, &request, &attempt, control);
        match Box::pin(guarded(&plan.collection.name, &attempt, control, limit, work)).await {
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
    if plan.loaded_by_us {
        release(&plan).await;
    }
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
    let wanted = wanted_partitions(&collection, request)?;
    let indexes = client.indexes(&collection.name).await?;
    let loaded_by_us = !client.is_loaded(&collection.name).await?;
    if loaded_by_us {
        client.load(&collection.name, super::LOAD_LIMIT).await.map_err(|error| {
            error.context(format!(
                "collection '{}' is not loaded, and rows can only be read from a loaded one",
                collection.name
            ))
        })?;
    }
    let partitions = Reader::new(&client, &collection, 1).await?.partitions(&wanted);
    let number = client.collection_number(&collection.name).await?;
    let fingerprint = fingerprint(request, &client, &collection, &partitions, number)?;
    Ok(Plan { client, collection, indexes, partitions, loaded_by_us, fingerprint })
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

pub(super) fn wanted_partitions(collection: &Collection, request: &BackupRequest) -> Result<Vec<String>> {
    let by_name = request.backup_type == manifest::BackupType::Partition;
    if by_name && request.partition_names.is_empty() {
        return Err(Error::new(Kind::InvalidArgument, "a backup of type PARTITION needs partition_names"));
    }
    if !request.partition_names.is_empty() && collection.has_partition_key() {
        return Err(Error::new(
            Kind::InvalidArgument,
            format!(
                "the rows of '{}' are spread over partitions by a partition key, and Milvus reads no single one of them: back up the whole collection",
                collection.name
            ),
        ));
    }
    if let Some(missing) = request.partition_names.iter().find(|name| !collection.partitions.contains(name)) {
        return Err(Error::new(
            Kind::PartitionNotFound,
            format!(
                "collection '{}' has no partition '{missing}'; it has: {}",
                collection.name,
                collection.partitions.join(", ")
            ),
        )
        .with("partition_name", missing.as_str())
        .with("available_partitions", collection.partitions.clone()));
    }
    Ok(request.partition_names.clone())
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

/// Data files that are finished, wherever their rows came from.
pub(super) struct Written<'a> {
    pub collection: &'a Collection,
    pub indexes: &'a [Index],
    pub partitions: &'a [String],
    /// The version of the server.
    pub server: &'a str,
    /// What each partition's rows amount to.
    pub sets: BTreeMap<String, SetDigest>,
    pub chunks: ChunkTable,
}

impl Written<'_> {
    /// Writes the files that describe them; the manifest, which does not say yet what moment they are of.
    pub(super) async fn describe(self, request: &BackupRequest, attempt: &Attempt) -> Result<Manifest> {
        let Self { collection, indexes, partitions, server, sets, chunks } = self;
        let schema = serde_json::to_value(collection).map_err(|error| internal(error.to_string()))?;
        attempt.put(&RelativePath::new(SCHEMA_FILE)?, pretty(&schema)?).await?;
        if request.include_indexes {
            put_indexes(attempt, indexes).await?;
        }
        attempt.put(&RelativePath::new(CHUNKS_FILE)?, chunks.to_bytes()?.into()).await?;
        let mut manifest =
            Manifest::new(attempt.id().clone(), attempt.backup_name(), &collection.database, &collection.name);
        let names = if collection.has_partition_key() { &collection.partitions } else { partitions };
        manifest.partition_names = names.to_vec();
        manifest.backup_type = request.backup_type;
        manifest.row_count = sets.values().map(|set| set.rows).sum();
        manifest.segment_count = chunks.chunks.len() as u64;
        manifest.size_bytes = chunks.chunks.iter().map(|chunk| chunk.bytes).sum();
        manifest.compression_enabled = request.compression_enabled;
        manifest.compression_level = request.compression_level.into();
        manifest.include_indexes = request.include_indexes;
        server.clone_into(&mut manifest.milvus_version);
        manifest.tags.clone_from(&request.tags);
        manifest.schema_snapshot = schema;
        let digest = |set: SetDigest| PartitionDigest { rows: set.rows, digest: Some(set.to_string()) };
        manifest.digest.partitions = sets.into_iter().map(|(name, set)| (name, digest(set))).collect();
        Ok(manifest)
    }
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

/// Writes the definitions of indexes, a file for each field.
pub(super) async fn put_indexes(attempt: &Attempt, indexes: &[Index]) -> Result<()> {
    for (field, indexes) in by_field(indexes) {
        attempt.put(&index_file(&field)?, pretty(&json!(indexes))?).await?;
    }
    Ok(())
}

fn by_field(indexes: &[Index]) -> BTreeMap<String, Vec<&Index>> {
    let mut fields: BTreeMap<String, Vec<&Index>> = BTreeMap::new();
    for index in indexes {
        fields.entry(index.field.clone()).or_default().push(index);
    }
    fields
}

pub(super) fn pretty(value: &Value) -> Result<bytes::Bytes> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| internal(error.to_string()))?;
    text.push(b'\n');
    Ok(text.into())
}
