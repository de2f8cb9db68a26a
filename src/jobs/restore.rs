//! Restoring a backup: check, stage, insert, prove, swap. Until the swap, the target is as it was.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};

use super::control::{Control, Phase, deadline};
use super::into::{self, Conflict};
use super::restore_plan::{Plan, Target, prepare, tell};
use super::staging::{Keys, Proof, Staged, Via, journalled, not_lost};
use super::{Session, journals, recover, swap};
use crate::checksum::ChecksumAlgorithm;
use crate::error::{Error, Kind, Result, internal};
use crate::repository::{self, Backup, Journal, JournalEntry, Owner};

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
    pub(super) target_database: Option<String>,
    #[serde(default)]
    pub(super) partition_names: Vec<String>,
    #[serde(default, rename = "where")]
    pub(super) filter: Option<String>,
    /// The moment to restore, as a hybrid timestamp; unset: the backup's own.
    #[serde(default)]
    pub(super) at: Option<u64>,
    #[serde(default = "yes")]
    pub(super) verify_before_restore: bool,
    #[serde(default)]
    pub(super) drop_existing: bool,
    #[serde(default)]
    pub(super) into_existing: bool,
    #[serde(default)]
    pub(super) on_conflict: Conflict,
    #[serde(default)]
    pub(super) load_after_restore: bool,
    #[serde(default = "yes")]
    pub(super) restore_indexes: bool,
    #[serde(default)]
    pub(super) skip_failed_partitions: bool,
    #[serde(default)]
    pub(super) auto_id: Keys,
    #[serde(default)]
    pub(super) via: Via,
    #[serde(default)]
    pub(super) verify_after: Proof,
    #[serde(default)]
    pub(super) dry_run: bool,
    #[serde(default)]
    pub(super) batch_rows: Option<usize>,
    #[serde(default = "in_flight")]
    pub(super) max_requests_in_flight: usize,
    #[serde(default)]
    bandwidth_limit_mib: Option<f64>,
    #[serde(default)]
    timeout_seconds: Option<f64>,
}

fn yes() -> bool {
    true
}
fn in_flight() -> usize {
    2
}

/// Restores a backup and answers with what was restored, how it was proven, and the time that each phase took.
///
/// # Errors
/// Before anything is written: not found, damaged, incompatible, target exists, another restore at work. Later
/// [`Kind::Restore`] and its like: then the target is untouched and the staging collection gone; where the server is
/// gone too, the next run drops it. Rows that go into an existing collection have no staging, see [`into`].
pub async fn restore(session: &Session, request: RestoreRequest, control: &Control) -> Result<Value> {
    let limit = deadline(request.timeout_seconds);
    control.limit_bandwidth(request.bandwidth_limit_mib)?;
    let backup =
        control.guard(limit, session.find_at(&request.backup, request.collection_name.as_deref(), request.at)).await?;
    let target = request.target_collection_name.clone().unwrap_or_else(|| backup.manifest().collection_name.clone());
    let about = |error: Error| as_restore_error(error, &backup, &target);
    if request.dry_run {
        return dry_run(session, &request, &backup, &target, (control, limit)).await.map_err(about);
    }
    let work = Box::pin(restore_marked(session, &request, &backup, &target, control, limit));
    while_reading(session, &backup, work).await.map_err(about)
}

/// Does `work` under a mark that the backup is being read, so that it is not deleted meanwhile.
pub(super) async fn while_reading<T>(
    session: &Session,
    backup: &Backup,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    if backup.owner() == Owner::Milvault {
        session.sweep(&backup.manifest().database, &backup.manifest().collection_name).await;
    }
    let reading = session.repository()?.mark_reading(backup).await?;
    let outcome = work.await;
    if let Some(lease) = reading
        && let Err(error) = lease.release().await
    {
        tracing::warn!(%error, "the mark that this backup is being read could not be removed; it goes stale by itself");
    }
    outcome
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

/// Checks all that a restore checks before it writes, and tells what it would do. Writes nothing anywhere.
async fn dry_run(
    session: &Session,
    request: &RestoreRequest,
    backup: &Backup,
    target: &str,
    (control, limit): (&Control, Option<Instant>),
) -> Result<Value> {
    let work = async {
        let mut plan = prepare(session, request, backup, target, control).await?;
        let conflicts = match &plan.target {
            Target::Joined(existing) if existing.loaded => Some(into::conflicts(&plan, existing, control).await?),
            Target::Joined(_) => {
                plan.warnings.push(format!(
                    "'{target}' is not loaded, and a dry run does not load it: keys that it has already were not looked for"
                ));
                None
            }
            _ => None,
        };
        let mut rows = BTreeMap::new();
        for partition in plan.staging.rows.partitions() {
            let count = plan.staging.rows.count(backup, &partition).await?;
            rows.insert(partition, count);
        }
        Ok((plan, conflicts, rows))
    };
    let (plan, conflicts, rows) = control.guard(limit, Box::pin(work)).await?;
    control.enter(Phase::Done);
    let mut told = answer(&plan, backup, target, control);
    told["rows_restored"] = 0.into();
    told["partitions_restored"] = json!([]);
    told["dry_run"] = true.into();
    told["plan"] = tell(&plan, request, target, &rows, conflicts.as_ref());
    Ok(told)
}

/// What every restore answers; how the rows were proven is the caller's to add.
fn answer(plan: &Plan, backup: &Backup, target: &str, control: &Control) -> Value {
    let staging = &plan.staging;
    let failed: Vec<&String> = staging.failed.keys().collect();
    let mut warnings = plan.warnings.clone();
    warnings.extend(staging.rows.told_of_older());
    warnings.extend(staging.failed.iter().map(|(name, why)| format!("partition {name} was left out: {why}")));
    let partitions = if staging.collection.has_partition_key() {
        staging.collection.partitions.clone()
    } else {
        staging.rows.partitions()
    };
    json!({
        "backup_id": backup.id().to_string(),
        "source_collection_name": backup.manifest().collection_name,
        "target_collection_name": target,
        "target_database": staging.client.database(),
        "rows_restored": staging.rows.most(),
        "partitions_restored": partitions,
        "failed_partitions": failed,
        "verification_passed": null,
        "verification_details": {},
        "warnings": warnings,
        "timings": control.timings(),
    })
}

async fn restore_marked(
    session: &Session,
    request: &RestoreRequest,
    backup: &Backup,
    target: &str,
    control: &Control,
    limit: Option<Instant>,
) -> Result<Value> {
    let mut plan = control.guard(limit, Box::pin(prepare(session, request, backup, target, control))).await?;
    let client = plan.client().clone();
    let fingerprint = fingerprint(&plan, target)?;
    // Not guarded: a journal that is taken over is held.
    let predecessor = recover::predecessor(session, &client, target, fingerprint.as_ref()).await?;
    let entry = JournalEntry {
        server: client.label().to_owned(),
        database: client.database().to_owned(),
        target: target.to_owned(),
        staging: recover::temporary_name(),
        aside: None,
        phase: repository::Phase::Staging,
        backup_id: backup.id().clone(),
        aliases: Vec::new(),
        brings: Vec::new(),
        fingerprint,
        done: BTreeMap::new(),
    };
    if matches!(plan.target, Target::Joined(_)) {
        // The journal's staging collection is never made: it keeps other restores out of the target.
        let so_far = into::SoFar::default();
        let work = Box::pin(into::insert(&plan, request, &so_far, control));
        let outcome = journalled(session, &client, (entry, true), (control, limit), work).await;
        into::leave_as_found(&plan, request).await;
        let (journal, joined) = outcome.map_err(|error| so_far.told(error, &plan, request))?;
        journal.finish().await?;
        plan.warnings.extend(joined.warnings);
        control.enter(Phase::Done);
        let mut told = answer(&plan, backup, target, control);
        told["rows_restored"] = joined.rows.into();
        told["verification_passed"] = joined.passed.into();
        told["verification_details"] = Value::Object(joined.details);
        return Ok(told);
    }
    let journal = match predecessor {
        Some(journal) => journal,
        None => session.begin_journal(entry, matches!(plan.target, Target::Replaced(_))).await?,
    };
    control.begin();
    let staging = &mut plan.staging;
    let place = &plan.target;
    let work = Box::pin(async {
        let staged = staging.make(&journal.entry().staging, Some(&journal), control).await?;
        place.takes(staging)?;
        Ok(staged)
    });
    let outcome = control.guard(limit, not_lost(&journal, work)).await;
    let staged = match outcome {
        Ok(staged) => staged,
        Err(error) => {
            control.enter(Phase::Cleaning);
            swap::end_failed(&client, journal).await;
            return Err(error);
        }
    };
    if !journal.is_kept() {
        plan.warnings.push(journals::UNKEPT.to_owned());
    }
    if request.filter.is_some() && staged.rows() == 0 {
        let none = "no row of the backup matches the filter, so that the collection is empty; a name in it that is no field is a key of the dynamic field";
        plan.warnings.push(none.to_owned());
    }
    take_place(&mut plan, journal, &staged, target, control).await?;
    control.enter(Phase::Done);
    let mut told = answer(&plan, backup, target, control);
    told["verification_passed"] = if request.verify_after == Proof::None { Value::Null } else { true.into() };
    told["rows_restored"] = staged.rows().into();
    told["verification_details"] = Value::Object(staged.details(plan.staging.options));
    if plan.staging.import.is_some() {
        told["verification_details"]["via"] = "IMPORT".into();
    }
    Ok(told)
}

/// What has to be the same for another run to go on with a staging collection; `None` where it cannot be gone on with:
/// where rows are picked or left out, what is in it says nothing of what belongs in it, and where the server makes the
/// keys nothing tells which rows are in it.
fn fingerprint(plan: &Plan, target: &str) -> Result<Option<String>> {
    let staging = &plan.staging;
    let options = staging.options;
    let whole =
        !staging.rows.amount_to_what_is_read() && !options.skip_failed_partitions && options.keys == Keys::Preserve;
    if !whole || matches!(plan.target, Target::Joined(_)) {
        return Ok(None);
    }
    let all = json!({
        "tool": env!("CARGO_PKG_VERSION"),
        "backup": staging.backup.id(),
        "checksum": staging.backup.manifest().checksum,
        "target": [staging.client.label(), staging.client.database(), target],
        "partitions": staging.rows.partitions(),
        "collection": staging.collection,
        "indexes": staging.indexes,
    });
    let text = serde_json::to_vec(&all).map_err(|error| internal(error.to_string()))?;
    Ok(Some(ChecksumAlgorithm::Sha256.of(&text)))
}

/// Puts staging in the target's place. Nothing of this is canceled: it takes a moment, and half of it is worse than all.
async fn take_place(
    plan: &mut Plan,
    mut journal: Journal,
    staged: &Staged,
    target: &str,
    control: &Control,
) -> Result<()> {
    control.enter(Phase::Swapping);
    let client = plan.staging.client.clone();
    plan.warnings.extend(staged.warnings.iter().cloned());
    let replaces = matches!(plan.target, Target::Replaced(_));
    let change = swap::Change { replaces, brings: &plan.staging.collection.aliases };
    match swap::swap(&client, &mut journal, change, &mut plan.warnings).await {
        Ok(()) => journal.finish().await?,
        Err(error) => match swap::end_failed(&client, journal).await {
            Some(warnings) => {
                plan.warnings.push(format!("the swap needed a second attempt: {}", error.message()));
                plan.warnings.extend(warnings);
            }
            None => return Err(error),
        },
    }
    if plan.staging.options.keep_loaded {
        swap::keep_loaded(&client, target, &mut plan.warnings).await;
    }
    Ok(())
}
