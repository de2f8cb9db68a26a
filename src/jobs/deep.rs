//! Verifying a backup by a trial restore: checksums, then its rows in a temporary collection, read back and compared
//! with the backup; and what differs from the original, where that is still there.
//!
//! The temporary collection is journalled like a restore's staging and dropped at the end, however that comes about.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::contrast::{self, Differences};
use super::control::{Control, Phase};
use super::restore::while_reading;
use super::restore_plan::contents;
use super::staging::{Keys, Options, Proof, Staged, Staging, journalled};
use super::staging_proof::{Comparison, difference};
use super::verify::{self, Verification, VerifyRequest};
use super::{Session, compatible, likeness, recover, swap};
use crate::error::{Error, Result};
use crate::milvus::Client;
use crate::repository::{self, Backup, JournalEntry};

/// Verifies a backup by a trial restore, and notes the outcome beside it.
///
/// # Errors
/// [`crate::error::Kind::SchemaIncompatible`] where the server cannot hold the collection, or `Server` where it fails:
/// neither says anything of the backup.
pub(super) async fn verify(
    session: &Session,
    backup: &Backup,
    request: &VerifyRequest,
    control: &Control,
    limit: Option<Instant>,
) -> Result<Verification> {
    let begun = Instant::now();
    let client = control.guard(limit, session.client()).await?;
    let mut outcome = control.guard(limit, verify::checksums(backup, request.fail_fast, control)).await?;
    if outcome.success {
        let tried =
            while_reading(session, backup, Box::pin(tried(session, &client, backup, request, (control, limit))));
        let findings = tried.await.map_err(|error| about(error, backup))?;
        outcome.success = findings.errors.is_empty();
        outcome.deep_verification_passed = Some(outcome.success);
        outcome.errors.extend(findings.errors);
        outcome.warnings.extend(findings.warnings);
        outcome.details.extend(findings.details);
    }
    "DEEP".clone_into(&mut outcome.verification_type);
    outcome.verification_time_ms = begun.elapsed().as_secs_f64() * 1e3;
    outcome.verified_at = chrono::Utc::now().to_rfc3339();
    verify::note(backup, &mut outcome).await?;
    control.enter(Phase::Done);
    Ok(outcome)
}

fn about(error: Error, backup: &Backup) -> Error {
    error.with("collection_name", backup.manifest().collection_name.as_str()).with("backup_id", backup.id().to_string())
}

/// What a trial restore showed.
#[derive(Default)]
struct Findings {
    errors: Vec<String>,
    warnings: Vec<String>,
    details: Map<String, Value>,
}

async fn tried(
    session: &Session,
    client: &Client,
    backup: &Backup,
    request: &VerifyRequest,
    (control, limit): (&Control, Option<Instant>),
) -> Result<Findings> {
    let mut staging = control.guard(limit, prepare(session, client, backup, request)).await?;
    let name = recover::temporary_name();
    let entry = JournalEntry {
        server: client.label().to_owned(),
        database: client.database().to_owned(),
        target: name.clone(), // nothing takes its place, and several backups may be tried at once
        staging: name.clone(),
        aside: None,
        phase: repository::Phase::Staging,
        backup_id: backup.id().clone(),
        aliases: Vec::new(),
        brings: Vec::new(),
        fingerprint: None, // tried from the start each time
        done: BTreeMap::new(),
    };
    let original = Original::of(backup);
    let work = Box::pin(async {
        let staged = staging.make(&name, None, control).await?;
        let mut findings = compare(&staging, &staged, request);
        // Two copies of the rows need not be in the server's memory.
        client.drop_collection(&name).await?;
        control.enter(Phase::Reading);
        control.start_over();
        let told = original.beside(&staging, &mut findings.warnings, control).await?;
        findings.details.insert("original".to_owned(), told);
        Ok(findings)
    });
    let outcome = journalled(session, client, (entry, false), (control, limit), work).await;
    original.leave_as_found().await;
    let (journal, findings) = outcome?;
    swap::end_failed(client, journal).await; // the collection is gone: what is left is the journal
    Ok(findings)
}

async fn prepare(session: &Session, client: &Client, backup: &Backup, request: &VerifyRequest) -> Result<Staging> {
    recover::interrupted_restores(session, client, None).await?;
    let (mut collection, rows) = contents(backup, &[], None).await?;
    let made_by = backup.manifest().milvus_version.as_str();
    compatible::check(client, &collection, &recover::temporary_name(), made_by)?;
    // What a restore would have to change is told by a restore.
    compatible::keep_keys(client, &mut collection, &mut Vec::new());
    compatible::adapt(client, &mut collection, &mut Vec::new(), made_by, &mut Vec::new());
    let options = Options {
        proof: if request.verify_data_integrity { Proof::Digest } else { Proof::Count },
        keys: Keys::Preserve,
        keep_loaded: true, // until it is dropped
        skip_failed_partitions: false,
        tell_differences: true,
        batch_rows: None,
        max_requests_in_flight: 2,
    };
    Ok(Staging {
        client: client.clone(),
        backup: backup.clone(),
        rows,
        collection,
        indexes: Vec::new(),
        options,
        import: None,
        or_insert: false,
        storage: None, // what is verified is that the rows can be had from a server
        failed: BTreeMap::new(),
    })
}

/// Holds the temporary collection against the backup.
fn compare(staging: &Staging, staged: &Staged, request: &VerifyRequest) -> Findings {
    let mut findings = Findings::default();
    let mut partitions = Map::new();
    for (name, partition) in &staged.partitions {
        let counted = partition.counted.filter(|_| request.deep_verify_row_count);
        let partition = Comparison { counted, ..*partition };
        if !partition.agrees() {
            findings.errors.push(difference(name, &partition));
        }
        partitions.insert(
            name.clone(),
            json!({
                "rows": partition.expected.rows,
                "rows_found": partition.found.map(|found| found.rows).or(partition.counted),
                "digest": partition.expected.to_string(),
                "digest_found": partition.found.map(|found| found.to_string()),
            }),
        );
    }
    if request.verify_schema {
        let reasons = likeness::differences(&staging.collection, &staged.made);
        findings
            .errors
            .extend(reasons.into_iter().map(|why| format!("the restored schema is not the backup's: {why}")));
    }
    findings.details.insert("rows".to_owned(), staged.rows().into());
    findings.details.insert("partitions".to_owned(), Value::Object(partitions));
    findings
}

/// The collection that a backup was made of.
struct Original {
    database: String,
    name: String,
    /// Set while it is loaded for the comparison alone.
    lent: RefCell<Option<Client>>,
}

impl Original {
    fn of(backup: &Backup) -> Self {
        let manifest = backup.manifest();
        Self { database: manifest.database.clone(), name: manifest.collection_name.clone(), lent: RefCell::default() }
    }

    /// Compares the backup with the original as it is now. What differs says nothing of the backup.
    async fn beside(&self, staging: &Staging, warnings: &mut Vec<String>, control: &Control) -> Result<Value> {
        let name = &self.name;
        let mut not_compared = |exists: bool, why: String| {
            if exists {
                warnings.push(format!("the backup was not compared with the original '{name}': {why}"));
            }
            json!({"exists": exists, "compared": false, "reason": why})
        };
        let client = match staging.client.in_database(&self.database).await {
            Ok(client) => client,
            Err(error) => return Ok(not_compared(false, error.message().to_owned())),
        };
        if !client.collections().await?.contains(name) {
            return Ok(not_compared(false, "the server has no collection of that name".to_owned()));
        }
        if !staging.rows.in_key_order() {
            let why = "the rows of a native backup do not come in the order of their keys, which a comparison needs";
            return Ok(not_compared(true, why.to_owned()));
        }
        let original = client.describe(name).await?;
        let reasons = likeness::differences(&staging.collection, &original);
        if !reasons.is_empty() {
            return Ok(not_compared(true, format!("its fields are others now: {}", reasons.join("; "))));
        }
        if !client.is_loaded(name).await? {
            self.lent.replace(Some(client.clone()));
            if let Err(error) = client.load(name, super::LOAD_LIMIT).await {
                return Ok(not_compared(true, format!("it is not loaded and could not be: {}", error.message())));
            }
        }
        let by_partition =
            contrast::with_collection(&client, &original, &staging.backup, &staging.rows, control).await?;
        let mut all = Differences::default();
        for some in by_partition.values() {
            all.merge(some.clone());
        }
        if all.rows() > 0 {
            warnings.push(format!(
                "the original '{name}' has changed since the backup: {} rows are only in the backup, {} only in the original, {} differ",
                all.only_in_backup.rows, all.only_in_original.rows, all.different.rows
            ));
        }
        Ok(json!({"exists": true, "compared": true, "differences": all, "partitions": by_partition}))
    }

    /// Leaves it as loaded as it was found, if the server answers soon.
    async fn leave_as_found(&self) {
        let Some(client) = self.lent.take() else { return };
        let released = tokio::time::timeout(super::CLEANUP_LIMIT / 2, client.release(&self.name)).await;
        if !matches!(released, Ok(Ok(()))) {
            tracing::warn!(collection = self.name, "loaded for a comparison, it could not be released");
        }
    }
}
