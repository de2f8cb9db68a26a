//! Native backups: Milvus's own binlogs, copied as they are.
//!
//! | file | its one idea |
//! |---|---|
//! | [`snapshot`] | one moment of some collections, and the segments whose files hold it |
//! | [`files`] | which files those are |
//! | [`keeping`] | Milvus is asked not to remove them meanwhile |
//! | [`bring`] | they come into the backup, hashed and counted |
//! | [`log_rows`] | how many rows a file holds |
//! | [`live`] | how many of them live |
//! | [`meta`] | milvus-backup's metadata |
//! | [`stored`] | the rows in Milvus's own storage, read where they are |
//! | [`parquet`] | a Parquet backup of them, in place of the files |
//! | [`sets`] | which were made together, and who may do what |
//!
//! The flow is here: describe, take the moment, list, lock, copy, count, commit.

pub(super) mod adopt;
mod beyond;
mod bring;
mod files;
mod history;
mod keeping;
mod live;
mod log_rows;
mod meta;
pub(super) mod parquet;
pub(super) mod sets;
pub(super) mod snapshot;
pub(super) mod stored;

use bring::{Brought, Done};
pub(super) use files::insert_folder;
use files::{Listed, SegmentFiles};
use keeping::{Ending, Kept};
use serde_json::{Value, json};
use snapshot::Moment;

use super::backup;
use super::backup_request::{BackupRequest, RowSource};
use super::control::{Control, Phase, deadline};
use super::read::ALL_PARTITIONS;
use super::{Session, recover, written};
use crate::error::{Error, Kind, Result, internal};
use crate::milvus::{Client, Identity, PartitionIdentity, Segment};
use crate::repository::manifest::{Manifest, SnapshotKind, StorageType};
use crate::repository::names::RelativePath;
use crate::repository::tables::SCHEMA_FILE;
use crate::repository::{Attempt, BeginRequest, Link, Repository, Store};
use crate::schema::{Collection, Index};

/// How often a moment is planned anew, where its files go before they are copied.
const PLANS: u32 = 4;
/// The name of native backups' storage type in errors.
const STORAGE_TYPE: &str = "MILVUS_NATIVE";

/// What is known before anything is copied.
struct Plan {
    client: Client,
    storage: Store,
    collection: Collection,
    indexes: Vec<Index>,
    identity: Identity,
    /// The partitions that are backed up: all that there were at the moment, unless they were chosen.
    partitions: Vec<String>,
    chosen: bool,
    /// The moment is that of a set, and no other one will do.
    pinned: bool,
    /// Milvus keeps the files as long as there is a plan.
    _kept: Kept,
}

/// A moment, and its files.
struct Contents {
    moment: Moment,
    segments: Vec<SegmentFiles>,
}

/// Makes a native backup, or a Parquet one from the same files; answers as [`backup::backup`].
///
/// # Errors
/// Those of [`backup::backup`]; [`Kind::InvalidArgument`] where Milvus's storage is not named, or the server has none.
pub(super) async fn backup(session: &Session, request: &BackupRequest, control: &Control) -> Result<Value> {
    let limit = deadline(request.timeout_seconds);
    control.limit_bandwidth(request.bandwidth_limit_mib)?;
    let is_parquet = request.storage_type == StorageType::LocalFile;
    let storage_type = if is_parquet { "LOCAL_FILE" } else { STORAGE_TYPE };
    let about = |error: Error| backup::as_backup_error(error, &request.collection_name, storage_type);
    control.enter(Phase::Flushing);
    let repository = session.repository()?;
    let (plan, contents) = control.guard(limit, prepare(session, request)).await.map_err(about)?;
    let begin = BeginRequest {
        database: plan.collection.database.clone(),
        collection: plan.collection.name.clone(),
        backup_name: request.backup_name.clone(),
        algorithm: request.checksum_algorithm,
        // Nothing of it is of use to another: the moment is gone.
        fingerprint: String::new(),
        resume: false,
    };
    // Not guarded: a lock that is being taken is taken, and then given back.
    let attempt = repository.begin_or(begin, control.stopped(limit)).await.map_err(about)?.linking(request.link);
    control.begin();
    let storage_path = attempt.storage_path();
    let work = async {
        if is_parquet {
            Box::pin(parquet::write(&plan, contents, request, &attempt, control)).await
        } else {
            Box::pin(write(&plan, contents, request, &attempt, control)).await
        }
    };
    let (manifest, warnings) = match backup::guarded(&plan.collection.name, &attempt, control, limit, work).await {
        Ok((manifest, warnings)) => (attempt.commit(manifest).await.map_err(about)?, warnings),
        Err(error) => {
            control.enter(Phase::Cleaning);
            attempt.abandon().await;
            return Err(about(error.with("storage_path", storage_path)));
        }
    };
    let verification = backup::verify_new(repository, &manifest, request, control, limit).await.map_err(about)?;
    backup::answer(&manifest, &warnings, verification.as_ref(), &storage_path, control)
}

async fn prepare(session: &Session, request: &BackupRequest) -> Result<(Plan, Contents)> {
    let repository = session.repository()?;
    repository.store().require_writable("a backup")?;
    let storage = session.milvus_storage()?;
    let client = session.client_in(request.database.as_deref()).await?;
    // A server without them, or without the collection, is told first.
    client.segments(&client.own_name(&request.collection_name).await?).await?;
    recover::interrupted_restores(session, &client, None).await?;
    let mut collection = client.describe(&request.collection_name).await?;
    request.wanted_partitions(&collection)?; // told before anything is flushed
    let pinned = request.moment.is_some();
    // Another member of a set may not be copied yet.
    let ending = if pinned { Ending::Left } else { Ending::Resumed };
    let kept = keeping::keep(session, client.number(&collection.name).await?, ending).await;
    let moment = if let Some(moment) = &request.moment {
        moment.clone()
    } else {
        let moment = taken(&client, &collection.name).await?;
        // Anew: a partition that was made since may have rows at the moment.
        collection = client.describe(&collection.name).await?;
        moment
    };
    let wanted = request.wanted_partitions(&collection)?;
    let indexes = client.indexes(&collection.name).await?;
    let identity = client.identity(&collection.name).await?;
    let chosen = !wanted.is_empty();
    let is_gone = |number: i64| identity.partitions.iter().all(|now| now.id != number);
    let mut needed = moment.partitions.iter().filter(|(_, name)| !chosen || wanted.contains(name));
    if let Some((_, gone)) = needed.find(|(number, _)| is_gone(*number)) {
        // It may have had rows at the moment, which nothing would say are missing.
        return Err(changed(&collection.name, gone, "dropped"));
    }
    let partitions = if chosen { wanted } else { collection.partitions.clone() };
    let plan = Plan { client, storage, collection, indexes, identity, partitions, chosen, pinned, _kept: kept };
    let contents = plan.contents(Some(moment)).await?;
    let link = if request.storage_type == StorageType::MilvusNative { request.link } else { Link::Never };
    check_space(repository, &plan, &contents, link)?;
    Ok((plan, contents))
}

impl Plan {
    /// A moment, and the files that hold it: the given one, or another where it has to be and may.
    async fn contents(&self, mut given: Option<Moment>) -> Result<Contents> {
        let name = &self.collection.name;
        for _ in 0..PLANS {
            let moment = if let Some(moment) = given.take() { moment } else { self.moment().await? };
            let segment = match files::list(&self.storage, &self.of_partitions(&moment)).await? {
                Listed::Whole(segments) => return Ok(Contents { moment, segments }),
                Listed::Without(segment) => segment,
            };
            // Either compaction has replaced it and its files are gone, or this is not where the server writes.
            if self.client.segments(name).await?.iter().any(|live| live.id == segment.id) {
                return Err(self.not_here(&segment));
            }
            if self.pinned {
                return Err(replaced(&segment));
            }
            tracing::info!(segment.id, "the files of a segment went before they were copied: a new moment is taken");
        }
        Err(Error::new(
            Kind::Backup,
            format!("the files of segments of '{name}' went {PLANS} times before they were copied; try again later"),
        )
        .temporary())
    }

    /// Another moment of the same partitions.
    async fn moment(&self) -> Result<Moment> {
        let name = &self.collection.name;
        let moment = taken(&self.client, name).await?;
        let now = self.client.partitions(name).await?;
        let (known, is) = (&self.identity.partitions, |one: &PartitionIdentity, number| one.id == number);
        if let Some((_, new)) = now.iter().find(|(number, _)| !self.chosen && !known.iter().any(|one| is(one, *number)))
        {
            return Err(changed(name, new, "made"));
        }
        let is_gone = |one: &&PartitionIdentity| !now.iter().any(|(number, _)| is(one, *number));
        match known.iter().filter(|one| self.partitions.contains(&one.name)).find(is_gone) {
            Some(gone) => Err(changed(name, &gone.name, "dropped")),
            None => Ok(moment),
        }
    }

    /// Those of a moment's segments that hold what is backed up.
    fn of_partitions(&self, moment: &Moment) -> Vec<Segment> {
        let named = |number: i64| {
            let named = self.identity.partitions.iter().find(|partition| partition.id == number);
            named.is_some_and(|partition| self.partitions.contains(&partition.name))
        };
        moment.segments.iter().filter(|one| one.partition < 0 || named(one.partition)).cloned().collect()
    }

    fn not_here(&self, segment: &Segment) -> Error {
        let folder = self.storage.display(&files::insert_folder(segment));
        Error::new(
            Kind::Storage,
            format!(
                "segment {} of '{}' has {} rows by the server's word, and {folder} does not hold the files of them: no \
                 backup was made. Is milvus_storage the storage that this server writes to? `milvault check` looks for what is wrong",
                segment.id, self.collection.name, segment.rows
            ),
        )
        .with("storage_path", folder)
        .with("segment_id", segment.id)
        .with("error_code", "segment_missing")
        .with("permissions_issue", false)
    }
}

fn changed(collection: &str, partition: &str, how: &str) -> Error {
    let what = format!("partition '{partition}' of '{collection}' was {how} after the moment was looked for");
    Error::new(Kind::Backup, format!("{what}; make the backup, or the set, again")).temporary()
}

async fn taken(client: &Client, name: &str) -> Result<Moment> {
    let taken = snapshot::take(&[(client.clone(), name.to_owned())]).await?;
    taken.into_iter().next().ok_or_else(|| internal("a moment of no collection"))
}

fn replaced(segment: &Segment) -> Error {
    Error::new(
        Kind::Backup,
        format!(
            "compaction replaced segment {}, and its files went, after the common moment of the set was taken: make the \
             set again",
            segment.id
        ),
    )
    .with("segment_id", segment.id)
    .temporary()
}

/// Refuses early where the files would not fit.
fn check_space(repository: &Repository, plan: &Plan, contents: &Contents, link: Link) -> Result<()> {
    let needed = contents.segments.iter().map(SegmentFiles::bytes).sum();
    backup::check_room_unless(link, repository, &plan.collection.name, needed)
}

/// Copies, counts and describes; what the manifest is to say.
async fn write(
    plan: &Plan,
    mut contents: Contents,
    request: &BackupRequest,
    attempt: &Attempt,
    control: &Control,
) -> Result<(Manifest, Vec<String>)> {
    let done = Done::default();
    let mut planned = 1;
    let history_since = loop {
        let since = history::since(&plan.storage, plan.identity.collection, &contents.moment).await?;
        control.start_over();
        let rows = contents.segments.iter().map(|files| files.segment.rows).sum();
        control.expect(rows, contents.segments.iter().map(SegmentFiles::bytes).sum());
        control.enter(Phase::Writing);
        let segments = &contents.segments;
        let brought = bring::bring(attempt, &plan.storage, &plan.collection, segments, &done, control).await?;
        let Brought::Again(why) = brought else { break since };
        if plan.pinned || planned == PLANS {
            return Err(why.context(format!("'{}' was not backed up", plan.collection.name)));
        }
        tracing::info!(reason = %why, "the files of a moment could not be copied whole: a new one is taken");
        control.enter(Phase::Flushing);
        contents = plan.contents(None).await?;
        planned += 1;
    };
    let (mut manifest, warnings) = describe(plan, &contents, request, attempt, control).await?;
    manifest.snapshot.history_since = history_since;
    Ok((manifest, warnings))
}

async fn describe(
    plan: &Plan,
    contents: &Contents,
    request: &BackupRequest,
    attempt: &Attempt,
    control: &Control,
) -> Result<(Manifest, Vec<String>)> {
    let (collection, moment, segments) = (&plan.collection, &contents.moment, &contents.segments);
    let mut warnings = Vec::new();
    control.enter(Phase::Counting);
    let wanted = plan.identity.partitions.iter().filter(|partition| plan.partitions.contains(&partition.name));
    let partitions: Vec<_> = wanted.map(|partition| (partition.name.clone(), partition.id)).collect();
    let alive = live::rows(collection, &partitions, (segments, moment.timestamp), attempt).await?;
    let rows: u64 = alive.values().map(|alive| alive.rows).sum();
    warnings.extend(alive.values().filter_map(|alive| alive.warning.clone()));
    if rows == 0 {
        warnings.push(format!("collection '{}' has no rows: the backup holds its schema alone", collection.name));
    }
    let info = meta::of(&meta::Described {
        id: attempt.id(),
        server_version: plan.client.version(),
        collection,
        indexes: &plan.indexes,
        identity: &plan.identity,
        partitions: &plan.partitions,
        moment,
        segments,
        storage: &plan.storage,
    });
    for (path, bytes) in info.to_files()? {
        attempt.put(&RelativePath::new(path)?, bytes.into()).await?;
    }
    let schema = serde_json::to_value(collection).map_err(|error| internal(error.to_string()))?;
    attempt.put(&RelativePath::new(SCHEMA_FILE)?, written::pretty(&schema)?).await?;
    if request.include_indexes {
        written::put_indexes(attempt, &plan.indexes).await?;
    }
    let mut manifest =
        Manifest::new(attempt.id().clone(), attempt.backup_name(), &collection.database, &collection.name);
    manifest.storage_type = StorageType::MilvusNative;
    manifest.partition_names.clone_from(&plan.partitions);
    manifest.backup_type = request.backup_type;
    manifest.row_count = rows;
    manifest.segment_count = segments.len() as u64;
    manifest.size_bytes = segments.iter().map(SegmentFiles::bytes).sum();
    // By Milvus itself, when it wrote them.
    manifest.compression_enabled = true;
    manifest.include_indexes = request.include_indexes;
    plan.client.version().clone_into(&mut manifest.milvus_version);
    manifest.tags.clone_from(&request.tags);
    manifest.schema_snapshot = schema;
    manifest.snapshot.kind = SnapshotKind::Snapshot;
    manifest.snapshot.started_at = Some(moment.started_at);
    manifest.snapshot.ended_at = Some(moment.ended_at);
    manifest.snapshot.timestamp = Some(moment.timestamp);
    manifest.digest.partitions = alive.into_iter().map(|(name, alive)| (name, alive.digest())).collect();
    manifest.warnings.clone_from(&warnings);
    Ok((manifest, warnings))
}

/// Takes one moment of several collections, for [`BackupRequest::moment`] of each; null for those that are not there, and
/// for those whose Parquet backup is of the server's answers.
pub(super) async fn moments(session: &Session, request: &MomentsRequest, control: &Control) -> Result<Value> {
    let limit = deadline(request.timeout_seconds);
    control.enter(Phase::Flushing);
    let take = async {
        let mut there = Vec::new();
        for wanted in &request.collections {
            let client = session.client_in(wanted.database.as_deref()).await?;
            let of = (wanted.database.as_deref(), &*wanted.collection_name);
            let takes_part = client.exists(of.1).await?
                && match request.storage_type {
                    StorageType::MilvusNative => true,
                    StorageType::LocalFile => parquet::is_wanted(session, of, request.source).await?,
                };
            there.push(if takes_part { Some((client.own_name(of.1).await?, client)) } else { None });
        }
        let collections: Vec<_> = there.iter().flatten().cloned().map(|(name, client)| (client, name)).collect();
        for (client, name) in &collections {
            keeping::keep(session, client.number(name).await?, Ending::Left).await;
        }
        let mut taken = snapshot::take(&collections).await?.into_iter();
        Ok(there.iter().map(|one| one.as_ref().and_then(|_| taken.next())).collect::<Vec<_>>())
    };
    Ok(json!(control.guard(limit, take).await?))
}

/// Which collections are to be backed up at one moment.
#[derive(serde::Deserialize)]
pub(super) struct MomentsRequest {
    collections: Vec<Member>,
    storage_type: StorageType,
    source: RowSource,
    #[serde(default)]
    timeout_seconds: Option<f64>,
}

#[derive(serde::Deserialize)]
struct Member {
    collection_name: String,
    #[serde(default)]
    database: Option<String>,
}

/// By what name the rows of a partition count: all together where a partition key spreads them.
fn counted_as(collection: &Collection, partition: &str) -> String {
    if collection.has_partition_key() { ALL_PARTITIONS.to_owned() } else { partition.to_owned() }
}
