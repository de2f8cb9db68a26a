//! Taking in what milvus-backup made: its files come into the repository, checksummed and proven, as backups of ours, one
//! for each collection. Every file that its metadata names has to be there, whole and of one piece with the others: what
//! it would restore with rows missing, or with deleted rows come back, is refused by name.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::bring::{self, Brought, Done};
use super::files::{LogFile, SegmentFiles};
use super::{Session, backup, live};
use crate::binlog::event::EventKind;
use crate::binlog::layout::NamedFile;
use crate::binlog::metadata::{BackupInfo, CollectionInfo, SegmentInfo};
use crate::binlog::{self, description};
use crate::checksum::ChecksumAlgorithm;
use crate::error::{Error, Kind, Result, internal};
use crate::jobs::control::{Control, Phase, deadline};
use crate::jobs::read::blocking;
use crate::jobs::{foreign, verify, written};
use crate::milvus::{Segment, SegmentState};
use crate::repository::manifest::Manifest;
use crate::repository::names::RelativePath;
use crate::repository::tables::SCHEMA_FILE;
use crate::repository::{Attempt, BeginRequest, Link, Store};
use crate::schema::{Collection, Index};

/// What to take in.
#[derive(Deserialize)]
pub struct AdoptRequest {
    /// The folder, or the object store's URL, with `meta` and `binlogs` in it.
    source: String,
    #[serde(default)]
    options: BTreeMap<String, String>,
    /// Only this collection.
    #[serde(default)]
    collection_name: Option<String>,
    #[serde(default)]
    checksum_algorithm: ChecksumAlgorithm,
    #[serde(default)]
    link: Link,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    bandwidth_limit_mib: Option<f64>,
    #[serde(default)]
    timeout_seconds: Option<f64>,
}

/// One collection of it.
struct Taken<'a> {
    storage: &'a Store,
    whole: &'a BackupInfo,
    info: &'a CollectionInfo,
    collection: Collection,
    indexes: Vec<Index>,
}

/// Takes a backup in, and answers with the metadata of what came of it.
///
/// # Errors
/// [`Kind::BackupNotFound`] where `source` is no such backup, [`Kind::BackupCorrupted`] with `failed_files` where it is
/// damaged, [`Kind::AlreadyExists`] where it was taken in before. Collections before the one that failed stay.
pub async fn adopt(session: &Session, request: AdoptRequest, control: &Control) -> Result<Value> {
    let limit = deadline(request.timeout_seconds);
    control.limit_bandwidth(request.bandwidth_limit_mib)?;
    control.enter(Phase::Counting);
    let repository = session.repository()?;
    repository.store().require_writable("taking a backup in")?;
    let place = foreign::Place::at(&request.source, &request.options)?;
    let (whole, storage) = (control.guard(limit, place.read()).await?.info, place.store);
    let chosen =
        |info: &&CollectionInfo| request.collection_name.as_deref().is_none_or(|name| name == info.collection_name);
    let chosen: Vec<&CollectionInfo> = whole.collection_backups.iter().filter(chosen).collect();
    if chosen.is_empty() {
        let known: Vec<&str> = whole.collection_backups.iter().map(|info| &*info.collection_name).collect();
        return Err(Error::new(
            Kind::BackupNotFound,
            format!(
                "{} has no collection '{}'; it has: {}",
                storage.display(""),
                request.collection_name.unwrap_or_default(),
                known.join(", ")
            ),
        ));
    }
    control.begin();
    let mut adopted = Vec::new();
    for info in chosen {
        let taken = Taken {
            storage: &storage,
            whole: &whole,
            info,
            collection: description::collection(info)?,
            indexes: description::indexes(info),
        };
        let about = |error: Error| backup::as_backup_error(error, &info.collection_name, super::STORAGE_TYPE);
        let (manifest, warnings, storage_path) = taken.take(session, &request, control, limit).await.map_err(about)?;
        let found = repository
            .find(manifest.backup_id.as_str(), Some(&manifest.collection_name), Some(&manifest.database))
            .await?;
        control.enter(Phase::Verifying);
        let outcome = control.guard(limit, verify::decoded(&found, control)).await.map_err(about)?;
        if let Err(error) = verify::require_sound(&found, &outcome) {
            control.enter(Phase::Cleaning);
            drop(found);
            backup::undo(repository, &manifest).await;
            return Err(about(error.context("it was not taken in")));
        }
        let outcome = serde_json::to_value(&outcome).map_err(|error| internal(error.to_string()))?;
        adopted.push(json!({
            "metadata": crate::jobs::metadata(&manifest, Some(&outcome), &storage_path),
            "warnings": warnings,
        }));
    }
    control.enter(Phase::Done);
    Ok(Value::Array(adopted))
}

impl Taken<'_> {
    async fn take(
        &self,
        session: &Session,
        request: &AdoptRequest,
        control: &Control,
        limit: Option<std::time::Instant>,
    ) -> Result<(Manifest, Vec<String>, String)> {
        let repository = session.repository()?;
        let segments = control.guard(limit, self.segments()).await?;
        let needed = segments.iter().map(SegmentFiles::bytes).sum();
        backup::check_room_unless(request.link, repository, &self.collection.name, needed)?;
        let begin = BeginRequest {
            database: self.collection.database.clone(),
            collection: self.collection.name.clone(),
            backup_name: (!self.whole.name.is_empty()).then(|| self.whole.name.clone()),
            algorithm: request.checksum_algorithm,
            fingerprint: String::new(),
            resume: false,
        };
        // Not guarded: a lock that is being taken is taken, and then given back.
        let attempt = repository.begin_or(begin, control.stopped(limit)).await?.linking(request.link);
        let storage_path = attempt.storage_path();
        let work = self.write(&segments, request, &attempt, control);
        match backup::guarded(&self.collection.name, &attempt, control, limit, work).await {
            Ok((manifest, warnings)) => Ok((attempt.commit(manifest).await?, warnings, storage_path)),
            Err(error) => {
                control.enter(Phase::Cleaning);
                attempt.abandon().await;
                Err(error.with("storage_path", self.storage.display("")))
            }
        }
    }

    /// The segments, each with files that are all there and as long as the metadata says.
    async fn segments(&self) -> Result<Vec<SegmentFiles>> {
        let mut segments = Vec::new();
        for info in foreign::segments(self.info) {
            segments.push(self.segment(info).await?);
        }
        Ok(segments)
    }

    async fn segment(&self, info: &SegmentInfo) -> Result<SegmentFiles> {
        info.require_known()?;
        let (mut inserts, mut deletes) = (Vec::new(), Vec::new());
        for named in info.inserts()? {
            inserts.push(self.file(named).await?);
        }
        for named in info.deletes()? {
            deletes.push(self.file(named).await?);
        }
        let segment = Segment {
            id: info.segment_id,
            collection: info.collection_id,
            partition: info.partition_id,
            rows: info.rows(),
            state: SegmentState::Flushed,
            is_level_zero: info.is_l0,
            storage_version: info.storage_version,
            logs: None,
        };
        if segment.rows > 0 && !segment.is_level_zero && inserts.is_empty() {
            return Err(self.damaged(
                crate::binlog::metadata::SEGMENT_FILE,
                &format!(
                    "the metadata says that segment {} has {} rows, and names no file of them",
                    segment.id, segment.rows
                ),
            ));
        }
        Ok(SegmentFiles { segment, inserts, deletes })
    }

    async fn file(&self, named: NamedFile) -> Result<LogFile> {
        let path = RelativePath::new(named.path)?;
        let Some(bytes) = self.storage.size(&path).await? else {
            return Err(
                self.damaged(path.as_str(), &format!("{path} is missing: its rows, or deletes of them, are lost"))
            );
        };
        match named.bytes {
            Some(told) if told != bytes => {
                Err(self.damaged(path.as_str(), &format!("{path} is {bytes} bytes long, and the metadata says {told}")))
            }
            _ => Ok(LogFile { from: path.clone(), to: path, field: named.field, log: named.number, bytes }),
        }
    }

    fn damaged(&self, file: &str, what: &str) -> Error {
        Error::new(
            Kind::BackupCorrupted,
            format!("the backup '{}' is damaged and was not taken in: {what}", self.whole.name),
        )
        .with("failed_files", vec![file])
        .with("storage_path", self.storage.display(""))
    }

    async fn write(
        &self,
        segments: &[SegmentFiles],
        request: &AdoptRequest,
        attempt: &Attempt,
        control: &Control,
    ) -> Result<(Manifest, Vec<String>)> {
        let (collection, done) = (&self.collection, Done::default());
        let rows = segments.iter().map(|files| files.segment.rows).sum();
        control.expect(rows, segments.iter().map(SegmentFiles::bytes).sum());
        control.enter(Phase::Writing);
        if let Brought::Again(why) = bring::bring(attempt, self.storage, collection, segments, &done, control).await? {
            let files = why.details().get("failed_files").cloned().unwrap_or_else(|| json!([]));
            return Err(self.damaged("", why.message()).with("failed_files", files));
        }
        control.enter(Phase::Counting);
        let (at, mut warnings) = self.moment(segments, &done, attempt).await?;
        let partitions: Vec<(String, i64)> = self
            .info
            .partition_backups
            .iter()
            .map(|partition| (partition.partition_name.clone(), partition.partition_id))
            .collect();
        let alive = live::rows(collection, &partitions, (segments, at), attempt).await?;
        warnings.extend(alive.values().filter_map(|alive| alive.warning.clone()));
        warnings.push(format!(
            "taken in from {}, which milvus-backup made: it was proven as it was found, not as it was made",
            self.storage.display("")
        ));
        let info = BackupInfo { collection_backups: vec![self.info.clone()], ..self.whole.clone() };
        for (path, bytes) in info.to_files()? {
            attempt.put(&RelativePath::new(path)?, bytes.into()).await?;
        }
        let mut manifest =
            Manifest::new(attempt.id().clone(), attempt.backup_name(), &collection.database, &collection.name);
        foreign::fill_in(&mut manifest, self.whole, self.info, collection)?;
        attempt.put(&RelativePath::new(SCHEMA_FILE)?, written::pretty(&manifest.schema_snapshot)?).await?;
        written::put_indexes(attempt, &self.indexes).await?;
        manifest.row_count = alive.values().map(|alive| alive.rows).sum();
        manifest.size_bytes = segments.iter().map(SegmentFiles::bytes).sum();
        manifest.tags.clone_from(&request.tags);
        manifest.snapshot.timestamp = Some(at);
        manifest.digest.partitions = alive.into_iter().map(|(name, alive)| (name, alive.digest())).collect();
        manifest.warnings.clone_from(&warnings);
        Ok((manifest, warnings))
    }

    /// The moment to take rows at: the one that is noted, or else that of the latest row or delete.
    async fn moment(&self, segments: &[SegmentFiles], done: &Done, attempt: &Attempt) -> Result<(u64, Vec<String>)> {
        if let Some(noted) = foreign::noted_moment(self.whole, self.info) {
            return Ok((noted, Vec::new()));
        }
        let mut latest = 0;
        let inserts = segments.iter().flat_map(|files| &files.inserts).map(|file| (file, EventKind::Insert));
        let deletes = segments.iter().flat_map(|files| &files.deletes).map(|file| (file, EventKind::Delete));
        for (file, kind) in inserts.chain(deletes) {
            let mut end = done.told(file).map_or(0, |told| told.end);
            if end == u64::MAX {
                let opened = live::open_file(attempt, file).await?;
                end = blocking(move || binlog::latest(&opened, kind)).await?;
            }
            latest = latest.max(end);
        }
        let warning = "its metadata names no moment: it shows all rows that its files hold, and if somebody wrote while it was made, they are not of one moment";
        Ok((latest, vec![warning.to_owned()]))
    }
}
