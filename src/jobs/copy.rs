//! Copying a backup into another repository, and checking the copy there.

use futures::FutureExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::control::{Control, Phase, deadline};
use super::{RepositoryConfig, Session, verify};
use crate::error::{Error, Result, internal};
use crate::repository::Repository;

/// Which backup to copy, and to where.
#[derive(Deserialize)]
pub struct CopyRequest {
    backup: String,
    #[serde(default)]
    collection_name: Option<String>,
    to: RepositoryConfig,
    #[serde(default = "yes")]
    verify_after: bool,
    #[serde(default)]
    bandwidth_limit_mib: Option<f64>,
    #[serde(default)]
    timeout_seconds: Option<f64>,
}

fn yes() -> bool {
    true
}

/// Copies a backup and answers with what was brought over and, where asked for, how the copy was verified.
///
/// # Errors
/// As [`Repository::copy_from`]; a deadline or a cancellation keeps what was brought over for the next try.
pub async fn copy(session: &Session, request: CopyRequest, control: &Control) -> Result<Value> {
    let limit = deadline(request.timeout_seconds);
    let backup = control.guard(limit, session.find(&request.backup, request.collection_name.as_deref())).await?;
    backup.require_ours("it has no checksums to copy by. Take it in with adopt_backup")?;
    let target = Repository::open(&request.to.root, &request.to.options)?;
    let reading = session.repository()?.mark_reading(&backup).await?;
    control.begin();
    control.limit_bandwidth(request.bandwidth_limit_mib)?;
    control.expect(backup.manifest().row_count, backup.manifest().compressed_size_bytes);
    control.enter(Phase::Writing);
    let stop = async {
        let error = control.stopped(limit).await;
        Error::new(error.kind(), "the copy was stopped; the same call goes on from what it has brought over")
    };
    let on_bytes = |bytes| {
        control.advance(0, bytes);
        control.pass(bytes).boxed()
    };
    let outcome = target.copy_from(&backup, stop, &on_bytes).await;
    if let Some(lease) = reading
        && let Err(error) = lease.release().await
    {
        tracing::warn!(%error, "the mark that this backup is being read could not be removed; it goes stale by itself");
    }
    let about = |error: Error| {
        error
            .with("backup_id", backup.id().as_str())
            .with("collection_name", backup.manifest().collection_name.as_str())
    };
    let report = outcome.map_err(about)?;
    let verification = if request.verify_after {
        control.enter(Phase::Verifying);
        let manifest = backup.manifest();
        let copied =
            target.find(backup.id().as_str(), Some(&manifest.collection_name), Some(&manifest.database)).await?;
        let outcome = control.guard(limit, verify::checksums(&copied, true, control)).await?;
        verify::require_sound(&copied, &outcome)?;
        Some(outcome)
    } else {
        None
    };
    control.enter(Phase::Done);
    let mut answer = serde_json::to_value(&report).map_err(|error| internal(error.to_string()))?;
    answer["backup_id"] = json!(backup.id().as_str());
    answer["backup_name"] = json!(backup.manifest().backup_name);
    answer["collection_name"] = json!(backup.manifest().collection_name);
    answer["verification"] = json!(verification);
    Ok(answer)
}
