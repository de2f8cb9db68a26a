//! Restoring a backup: check, stage, insert, prove, swap. Until the swap, the target is as it was.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::control::{Control, Phase, deadline};
use super::load::Rows;
use super::read;
use super::{Session, recover, swap, verify};
use crate::digest::SetDigest;
use crate::error::{Error, Kind, Result};
use crate::milvus::{Client, InsertRequest, Inserter, ServerKind};
use crate::repository::{self, Backup, Journal, JournalEntry};
use crate::schema::{Collection, Index};

/// What to restore, to where, and how.
#[derive(Debug, Clone, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // the seam's names
pub struct RestoreRequest {
    backup: String,
    #[serde(default)]
    collection_name: Option<String>,
    #[serde(default)]
    target_collection_name: Option<String>,
    #[serde(default)]
    partition_names: Vec<String>,
    #[serde(default = "yes")]
    verify_before_restore: bool,
    #[serde(default)]
    drop_existing: bool,
    #[serde(default)]
    load_after_restore: bool,
    #[serde(default = "yes")]
    restore_indexes: bool,
    #[serde(default)]
    verify_after: Proof,
    #[serde(default)]
    batch_rows: Option<usize>,
    #[serde(default = "in_flight")]
    max_requests_in_flight: usize,
    #[serde(default)]
    timeout_seconds: Option<f64>,
}

fn yes() -> bool {
    true
}
fn in_flight() -> usize {
    2
}

/// What is demanded of the staging collection before it takes the target's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Proof {
    /// All rows are read back, and their digest is the backup's.
    #[default]
    Digest,
    /// The server counts as many rows.
    Count,
    /// Nothing.
    None,
}

struct Plan {
    client: Client,
    backup: Backup,
    rows: Rows,
    /// The collection to make, under whatever name.
    collection: Collection,
    indexes: Vec<Index>,
    /// What stands in the target's place now.
    existing: Option<Existing>,
    warnings: Vec<String>,
}

struct Existing {
    aliases: Vec<String>,
    loaded: bool,
}

/// Restores a backup and answers with what was restored, how it was proven, and the time that each phase took.
///
/// # Errors
/// Before anything is written: not found, damaged, incompatible, target exists, another restore at work. Later
/// [`Kind::Restore`] and its like: then the target is untouched and the staging collection gone; where the server is
/// gone too, the next run drops it.
pub async fn restore(session: &Session, request: RestoreRequest, control: &Control) -> Result<Value> {
    let limit = deadline(request.timeout_seconds);
    let backup = control.guard(limit, session.find(&request.backup, request.collection_name.as_deref())).await?;
    let target = request.target_collection_name.clone().unwrap_or_else(|| backup.manifest().collection_name.clone());
    let about = |error: Error| as_restore_error(error, &backup, &target);
    session.sweep(&backup.manifest().database, &backup.manifest().collection_name).await;
    let reading = session.repository()?.mark_reading(&backup).await.map_err(about)?;
    let outcome = Box::pin(restore_marked(session, &request, &backup, &target, control, limit)).await;
    if let Some(lease) = reading
        && let Err(error) = lease.release().await
    {
        tracing::warn!(%error, "the mark that this backup is being read could not be removed; it goes stale by itself");
    }
    outcome.map_err(about)
}

fn as_restore_error(error: Error, backup: &Backup, target: &str) -> Error {
    let error = if matches!(error.kind(), Kind::Server | Kind::Backup | Kind::CollectionNotFound) {
        error.into_kind(Kind::Restore)
    } else {
        error
    };
    error
        .with("target_collection_name", target)
        .with("collection_name", backup.manifest().collection_name.as_str())
        .with("backup_id", backup.id().to_string())
}

async fn restore_marked(
    session: &Session,
    request: &RestoreRequest,
    backup: &Backup,
    target: &str,
    control: &Control,
    limit: Option<std::time::Instant>,
) -> Result<Value> {
    let plan = control.guard(limit, prepare(session, request, backup, target, control)).await?;
    let entry = JournalEntry {
        server: plan.client.label().to_owned(),
        database: plan.client.database().to_owned(),
        target: target.to_owned(),
        staging: recover::temporary_name(),
        aside: None,
        phase: repository::Phase::Staging,
        backup_id: backup.id().clone(),
        aliases: Vec::new(),
    };
    // Not guarded: a journal that is being written is written, and then taken back.
    let mut journal = session.repository()?.begin_journal(entry).await?;
    control.begin();
    let staged = control
        .guard(limit, not_lost(&journal, Box::pin(stage(&plan, request, &journal.entry().staging, control))))
        .await;
    let details = match staged {
        Ok(details) => details,
        Err(error) => {
            control.enter(Phase::Cleaning);
            swap::end_failed(&plan.client, journal).await;
            return Err(error);
        }
    };
    control.enter(Phase::Swapping);
    // From here on nothing is canceled: the swap takes a moment, and half of it is worse than all of it.
    let mut warnings = [plan.warnings.clone(), details.warnings].concat();
    let client = &plan.client;
    let change =
        swap::Change { replaces: plan.existing.as_ref().map(|old| &old.aliases[..]), brings: &plan.collection.aliases };
    match swap::swap(client, &mut journal, change, &mut warnings).await {
        Ok(()) => journal.finish().await?,
        Err(error) if swap::end_failed(&plan.client, journal).await => {
            warnings.push(format!("the swap needed a second attempt: {}", error.message()));
        }
        Err(error) => return Err(error),
    }
    if details.keep_loaded {
        swap::keep_loaded(&plan.client, target, &mut warnings).await;
    }
    control.enter(Phase::Done);
    let partitions: Vec<&String> = details.partitions.iter().collect();
    Ok(json!({
        "backup_id": backup.id().to_string(),
        "source_collection_name": backup.manifest().collection_name,
        "target_collection_name": target,
        "rows_restored": details.rows,
        "partitions_restored": partitions,
        "failed_partitions": Vec::<String>::new(),
        "verification_passed": details.passed,
        "verification_details": details.proof,
        "warnings": warnings,
        "timings": control.timings(),
    }))
}

/// Ends `work` where the journal, and with it the right to touch the target, was taken over by another process.
async fn not_lost<T>(journal: &Journal, work: impl Future<Output = Result<T>>) -> Result<T> {
    let lost = journal.lost();
    tokio::select! {
        biased;
        () = lost.cancelled() => Err(Error::new(Kind::InProgress, "another process took over this restore, as it does when it sees no sign of life for ten seconds. Run it again")),
        outcome = work => outcome,
    }
}

async fn prepare(
    session: &Session,
    request: &RestoreRequest,
    backup: &Backup,
    target: &str,
    control: &Control,
) -> Result<Plan> {
    if request.verify_before_restore {
        control.enter(Phase::Verifying);
        let outcome = verify::checksums(backup, false, control).await?;
        verify::require_sound(backup, &outcome)?;
    }
    control.enter(Phase::Counting);
    let mut collection: Collection = serde_json::from_value(backup.schema().await?)
        .map_err(|error| corrupted(backup, "schema.json", &error.to_string()))?;
    let rows = Rows::choose(backup, &collection, &request.partition_names).await?;
    let indexes = if request.restore_indexes { read_indexes(backup).await? } else { Vec::new() };
    let client = session.client().await?;
    recover::interrupted_restores(session, &client, Some(target)).await?;
    let mut warnings = Vec::new();
    super::compatible::check(&client, &collection, &indexes)?;
    super::compatible::adapt(&client, &mut collection, &mut warnings);
    if !request.partition_names.is_empty() {
        collection.partitions.retain(|name| request.partition_names.contains(name));
    }
    let existing = look_at_target(&client, target, request.drop_existing).await?;
    Ok(Plan { client, backup: backup.clone(), rows, collection, indexes, existing, warnings })
}

fn corrupted(backup: &Backup, file: &str, why: &str) -> Error {
    Error::new(Kind::BackupCorrupted, format!("{file} of backup {} cannot be read: {why}", backup.id()))
        .with("failed_files", vec![file])
}

async fn read_indexes(backup: &Backup) -> Result<Vec<Index>> {
    let mut indexes = Vec::new();
    for file in backup.indexes().await? {
        let some: Vec<Index> =
            serde_json::from_value(file).map_err(|error| corrupted(backup, "indexes/", &error.to_string()))?;
        indexes.extend(some);
    }
    Ok(indexes)
}

async fn look_at_target(client: &Client, target: &str, drop_existing: bool) -> Result<Option<Existing>> {
    let refuse = |why: String| {
        Error::new(Kind::RestoreValidation, why.clone())
            .with("target_collection_name", target)
            .with("validation_errors", vec![why])
    };
    if !client.collections().await?.iter().any(|name| name == target) {
        if client.exists(target).await? {
            return Err(refuse(format!(
                "'{target}' is an alias of another collection; restore under the collection's own name, or another with target_collection_name"
            )));
        }
        return Ok(None);
    }
    if !drop_existing {
        return Err(refuse(format!(
            "collection '{target}' exists already and was not touched; restore under another name with target_collection_name, or replace it with drop_existing=True (it stays until the restored rows are proven)"
        )));
    }
    let old = client.describe(target).await?;
    Ok(Some(Existing { aliases: old.aliases, loaded: client.is_loaded(target).await? }))
}

struct Staged {
    rows: u64,
    partitions: Vec<String>,
    passed: Option<bool>,
    keep_loaded: bool,
    proof: Map<String, Value>,
    warnings: Vec<String>,
}

/// Fills the staging collection and proves it.
async fn stage(plan: &Plan, request: &RestoreRequest, staging: &str, control: &Control) -> Result<Staged> {
    let client = &plan.client;
    control.expect(plan.rows.expected().rows, plan.rows.bytes());
    control.enter(Phase::Inserting);
    client.create_collection(staging, &plan.collection).await?;
    let made = client.describe(staging).await?;
    let request_to = InsertRequest { collection: staging.to_owned(), schema: Arc::new(plan.collection.schema.clone()) };
    let mut inserter = Inserter::new(client.clone(), request_to, request.max_requests_in_flight);
    plan.rows.insert(&plan.backup, request.batch_rows, &mut inserter, control).await?;
    let rows = inserter.finish().await?;
    control.enter(Phase::Flushing);
    client.flush(staging, super::FLUSH_LIMIT).await?;
    control.enter(Phase::Indexing);
    for index in &plan.indexes {
        client.create_index(staging, index).await?;
    }
    let expected = plan.rows.expected();
    if rows != expected.rows {
        return Err(Error::new(
            Kind::Restore,
            format!("{rows} rows were inserted, and the backup promises {}", expected.rows),
        ));
    }
    let keep_loaded = request.load_after_restore || plan.existing.as_ref().is_some_and(|old| old.loaded);
    let mut staged = Staged {
        rows,
        partitions: if plan.collection.has_partition_key() {
            plan.collection.partitions.clone()
        } else {
            plan.rows.partitions()
        },
        passed: None,
        keep_loaded,
        proof: Map::new(),
        warnings: Vec::new(),
    };
    staged.proof.insert(
        "method".into(),
        json!(match request.verify_after {
            Proof::Digest => "DIGEST",
            Proof::Count => "COUNT",
            Proof::None => "NONE",
        }),
    );
    staged.proof.insert("rows".into(), json!(rows));
    if request.verify_after == Proof::None && !keep_loaded {
        return Ok(staged);
    }
    control.enter(Phase::Loading);
    let borrowed = load(client, &made, plan, control).await?;
    if request.verify_after != Proof::None {
        control.enter(Phase::Proving);
        prove(plan, request, &made, &mut staged, control).await?;
    }
    if keep_loaded {
        let fields = borrowed.iter().map(|index| format!("'{}'", index.field)).collect::<Vec<_>>().join(", ");
        if !borrowed.is_empty() {
            staged.warnings.push(format!(
                "the backup brings no index for {fields}, and Milvus loads nothing without one: a FLAT index was made"
            ));
        }
    } else if client.kind() == ServerKind::Server {
        client.release(staging).await?;
        for index in &borrowed {
            client.drop_index(staging, index).await?;
        }
    }
    Ok(staged)
}

/// Loads staging for the proof. Milvus loads nothing without an index on its vectors: where the backup has none, plain
/// ones are made, which cost nothing to build; they are the result.
async fn load(client: &Client, made: &Collection, plan: &Plan, control: &Control) -> Result<Vec<Index>> {
    let mut borrowed = Vec::new();
    if client.kind() == ServerKind::Server {
        for field in made.schema.fields.iter().filter(|field| field.data_type.is_vector()) {
            if !plan.indexes.iter().any(|index| index.field == field.name) {
                let index = super::compatible::plain_index(field);
                client.create_index(&made.name, &index).await?;
                borrowed.push(index);
            }
        }
    }
    control.check()?;
    client.load(&made.name, super::LOAD_LIMIT).await?;
    Ok(borrowed)
}

/// Holds what staging holds against the backup.
async fn prove(
    plan: &Plan,
    request: &RestoreRequest,
    made: &Collection,
    staged: &mut Staged,
    control: &Control,
) -> Result<()> {
    let expected = plan.rows.expected();
    let found = if request.verify_after == Proof::Digest {
        let reading = read::digest(&plan.client, made, &[], 2, &Control::default()).await?;
        let mut all = SetDigest::default();
        for (partition, read) in &reading.partitions {
            plan.rows.check(partition, read.set)?;
            all.merge(&read.set);
        }
        staged.proof.insert("digest".into(), json!(all.to_string()));
        staged.proof.insert("expected_digest".into(), json!(expected.to_string()));
        if all != expected {
            return Err(Error::new(
                Kind::Restore,
                format!(
                    "the restored rows are not the backup's: {} rows with digest {all} instead of {} rows with digest {expected}. The target was not touched; please report this",
                    all.rows, expected.rows
                ),
            ));
        }
        all.rows + reading.not_shown()
    } else {
        let reader = read::Reader::new(&plan.client, made, 2).await?;
        let counts = reader.counts(&reader.partitions(&[])).await?;
        counts.values().sum()
    };
    control.check()?;
    if found != expected.rows {
        return Err(Error::new(
            Kind::Restore,
            format!(
                "the server holds {found} rows after the restore, and the backup promises {}. The target was not touched",
                expected.rows
            ),
        ));
    }
    staged.passed = Some(true);
    Ok(())
}
