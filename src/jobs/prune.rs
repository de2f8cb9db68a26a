//! Applying a retention policy: plan → delete. A dry run is the plan alone.

use std::collections::{BTreeMap, BTreeSet};

use chrono::Utc;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Session;
use super::control::{Control, Phase};
use crate::error::{Error, Kind, Result};
use crate::repository::{BackupId, Doomed, Policy, Repository, Review};

/// Whose backups are judged, and by what.
#[derive(Debug, Clone, Deserialize)]
pub struct PruneRequest {
    #[serde(default)]
    collection_name: Option<String>,
    #[serde(default)]
    database: Option<String>,
    #[serde(default)]
    dry_run: bool,
    policy: Policy,
}

/// Deletes what the policy does not keep; with `dry_run` it only says what that would be.
///
/// # Errors
/// [`Kind::Storage`] where the repository cannot be read, or where not one backup could be deleted.
pub async fn prune(session: &Session, request: PruneRequest, control: &Control) -> Result<Value> {
    let repository = session.repository()?;
    if !request.dry_run {
        repository.store().require_writable("applying a retention policy")?;
    }
    let database = request.database.as_deref().or(session.database());
    let collection = request.collection_name.as_deref();
    let review = repository.review(database, collection, &request.policy, Utc::now());
    let review = control.guard(None, review).await?;
    let outcome = if request.dry_run { Outcome::default() } else { carry_out(repository, &review, control).await? };

    let mut left_alone: BTreeMap<_, _> = review.left_alone.clone();
    left_alone.extend(outcome.left_alone);
    let planned = review.delete.iter().map(planned);
    Ok(json!({
        "dry_run": request.dry_run,
        "backups_to_delete": review.delete.len(),
        "storage_to_free_gb": gigabytes(review.delete.iter().map(|doomed| doomed.bytes)),
        "deleted_backup_ids": outcome.deleted,
        "kept": review.kept.iter().map(|(id, why)| (id.to_string(), why.join("; "))).collect::<BTreeMap<_, _>>(),
        "left_alone": left_alone,
        "failed": outcome.failed.iter().map(|(id, error)| (id.to_string(), error.message())).collect::<BTreeMap<_, _>>(),
        "planned": planned.collect::<Vec<_>>(),
    }))
}

#[derive(Default)]
struct Outcome {
    deleted: Vec<BackupId>,
    left_alone: BTreeMap<BackupId, String>,
    failed: BTreeMap<BackupId, Error>,
}

/// Deletes one backup after the other. One that cannot be deleted does not hold the others up.
async fn carry_out(repository: &Repository, review: &Review, control: &Control) -> Result<Outcome> {
    control.begin();
    control.enter(Phase::Cleaning);
    for half in &review.half_deleted {
        if let Err(error) = repository.finish(half).await {
            tracing::warn!(%error, backup_id = %half.id, "a deletion that was begun before could not be finished");
        }
    }
    let mut outcome = Outcome::default();
    let mut standing = BTreeSet::new();
    for doomed in &review.delete {
        // Between two deletions, never within one.
        control.check()?;
        if standing.contains(&doomed.id) {
            outcome.left_alone.insert(doomed.id.clone(), "what builds on it could not be deleted".to_owned());
        } else {
            match repository.remove(doomed).await {
                Ok(true) => {
                    outcome.deleted.push(doomed.id.clone());
                    continue;
                }
                Ok(false) => {
                    outcome.left_alone.insert(doomed.id.clone(), "somebody else deleted it meanwhile".to_owned());
                    continue;
                }
                Err(error) if error.kind() == Kind::InProgress => {
                    outcome.left_alone.insert(doomed.id.clone(), error.message().to_owned());
                }
                Err(error) => _ = outcome.failed.insert(doomed.id.clone(), error),
            }
        }
        standing.extend(doomed.parent.clone());
    }
    match outcome.failed.pop_first() {
        Some((_, error)) if outcome.deleted.is_empty() => Err(error),
        Some((id, error)) => {
            outcome.failed.insert(id, error);
            Ok(outcome)
        }
        None => Ok(outcome),
    }
}

fn planned(doomed: &Doomed) -> Value {
    json!({
        "backup_id": doomed.id,
        "backup_name": doomed.backup_name,
        "database": doomed.database,
        "collection_name": doomed.collection_name,
        "created_at": doomed.created_at,
        "size_bytes": doomed.bytes,
    })
}

/// In units of 1024³ bytes. Added up as floating point: what a manifest claims may be any number.
#[allow(clippy::cast_precision_loss)]
fn gigabytes(bytes: impl Iterator<Item = u64>) -> f64 {
    // Folded from 0: the sum of no floating-point numbers is -0.
    bytes.fold(0.0, |all, bytes| all + bytes as f64) / f64::from(1_u32 << 30)
}
