//! Verifying a backup where it lies. CHECKSUM: every file against `checksums.json`, that against the manifest, and the
//! manifest against itself. QUICK: [`super::quick`].

use std::time::Duration;

use futures::FutureExt;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::agree::{self, Contradiction};
use super::control::{Control, Phase, deadline};
use super::quick::{self, Sample};
use super::{Session, deep, quick_native};
use crate::error::{Error, Kind, Result, internal};
use crate::repository::{Backup, FailedFile, FileReport, Hashed, Owner, Reason};

/// Which backup to verify, and how.
#[derive(Debug, Clone, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // the seam's names
pub struct VerifyRequest {
    backup: String,
    #[serde(default)]
    collection_name: Option<String>,
    #[serde(default = "checksum")]
    verification_type: String,
    #[serde(default = "ten_percent")]
    sample_size: f64,
    #[serde(default)]
    seed: Option<u64>,
    #[serde(default = "yes")]
    pub(super) fail_fast: bool,
    #[serde(default = "yes")]
    verify_checksums: bool,
    #[serde(default = "yes")]
    pub(super) verify_schema: bool,
    #[serde(default = "yes")]
    pub(super) verify_data_integrity: bool,
    #[serde(default = "yes")]
    pub(super) deep_verify_row_count: bool,
    #[serde(default)]
    bandwidth_limit_mib: Option<f64>,
    #[serde(default)]
    timeout_seconds: Option<f64>,
}

fn checksum() -> String {
    "CHECKSUM".to_owned()
}
fn yes() -> bool {
    true
}
fn ten_percent() -> f64 {
    10.0
}

/// What a verification looks at.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools)] // they are what a user may switch
pub(super) struct Checks {
    /// Files' checksums.
    pub(super) checksums: bool,
    /// The schema against the manifest's.
    pub(super) schema: bool,
    /// Digests of rows: of the chunk table against the manifest's, of files against the chunk table's.
    pub(super) data: bool,
    /// Numbers of rows, in the same places.
    pub(super) rows: bool,
}

impl Checks {
    /// All there is.
    pub(super) const ALL: Self = Self { checksums: true, schema: true, data: true, rows: true };
}

/// What a verification found.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    /// Whether the backup is what its manifest promises.
    pub success: bool,
    /// CHECKSUM, QUICK or DEEP.
    pub verification_type: String,
    /// Whether all checksums were right; `None` where they were not all looked at.
    pub checksum_valid: Option<bool>,
    /// Only of a DEEP verification.
    pub deep_verification_passed: Option<bool>,
    /// Files that are as they should be.
    pub files_verified: u64,
    /// Names of those that are not.
    pub files_failed: Vec<String>,
    /// One sentence a damaged file.
    pub errors: Vec<String>,
    /// What is no damage and worth knowing.
    pub warnings: Vec<String>,
    /// How long it took, in milliseconds.
    pub verification_time_ms: f64,
    /// When it ended (RFC 3339, UTC).
    pub verified_at: String,
    /// Numbers: `bytes`, the bytes hashed; for QUICK those of its sample.
    pub details: Map<String, Value>,
    /// What is wrong, file by file.
    #[serde(skip)]
    failures: Vec<FailedFile>,
}

/// Verifies a backup and notes the outcome beside it. Damage is an outcome, not an error.
///
/// # Errors
/// [`Kind::BackupNotFound`], [`Kind::InvalidArgument`] for a type that there is not, [`Kind::Storage`] where the
/// repository cannot be read.
pub async fn verify(session: &Session, request: VerifyRequest, control: &Control) -> Result<Value> {
    let limit = deadline(request.timeout_seconds);
    if !matches!(request.verification_type.as_str(), "CHECKSUM" | "QUICK" | "DEEP") {
        return Err(Error::new(
            Kind::InvalidArgument,
            format!(
                "verification type {} is not in this version; use CHECKSUM, which reads every file, QUICK, which reads a sample, or DEEP, a trial restore",
                request.verification_type
            ),
        ));
    }
    let found = control.guard(limit, session.find(&request.backup, request.collection_name.as_deref())).await;
    let backup = match found {
        Ok(backup) => backup,
        // A manifest that cannot be read is what a verification is there to find.
        Err(error) if error.kind() == Kind::BackupCorrupted => {
            return to_value(&damaged_manifest(&request.verification_type, &error));
        }
        Err(error) => return Err(error),
    };
    control.begin();
    control.limit_bandwidth(request.bandwidth_limit_mib)?;
    control.expect(0, backup.manifest().compressed_size_bytes);
    control.enter(Phase::Verifying);
    if request.verification_type == "DEEP" {
        return to_value(&Box::pin(deep::verify(session, &backup, &request, control, limit)).await?);
    }
    // Nobody deletes it meanwhile, which would look like damage.
    let reading = control.guard(limit, session.repository()?.mark_reading(&backup)).await?;
    let outcome = control.guard(limit, Box::pin(look(&backup, &request, control))).await;
    if let Some(reading) = reading
        && let Err(error) = reading.release().await
    {
        tracing::warn!(%error, backup_id = %backup.id(), "the mark that this backup is being read could not be removed");
    }
    to_value(&outcome?)
}

async fn look(backup: &Backup, request: &VerifyRequest, control: &Control) -> Result<Verification> {
    let checks = Checks {
        checksums: request.verify_checksums,
        schema: request.verify_schema,
        data: request.verify_data_integrity,
        rows: request.deep_verify_row_count,
    };
    if request.verification_type == "QUICK" {
        if !(request.sample_size > 0.0 && request.sample_size <= 100.0) {
            return Err(Error::new(Kind::InvalidArgument, "sample_size has to be above 0 and at most 100 percent"));
        }
        // Within what every JSON reader keeps exactly.
        let seed = request.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
        let sample = Sample { percent: request.sample_size, seed };
        let outcome = quick::verify(backup, sample, checks, request.fail_fast, control).await?;
        return remember(backup, outcome, checks.data, "verify_data_integrity was off: no rows were looked at").await;
    }
    let outcome = check_files(backup, checks, request.fail_fast, control).await?;
    let otherwise = "verify_checksums was off: only the files' lengths were looked at";
    remember(backup, outcome, checks.checksums, otherwise).await
}

fn to_value(outcome: &Verification) -> Result<Value> {
    serde_json::to_value(outcome).map_err(|error| internal(error.to_string()))
}

/// Reads every file of a backup against its checksums, and notes the outcome in `verification.json` where the
/// repository can be written.
pub(super) async fn checksums(backup: &Backup, fail_fast: bool, control: &Control) -> Result<Verification> {
    let outcome = examine(backup, fail_fast, control).await?;
    remember(backup, outcome, true, "").await
}

/// Decodes every row of a backup, reads every file against its checksum, and notes the outcome.
pub(super) async fn decoded(backup: &Backup, control: &Control) -> Result<Verification> {
    let mut outcome = quick::verify(backup, Sample::ALL, Checks::ALL, false, control).await?;
    if outcome.success {
        let files = check_files(backup, Checks::ALL, false, control).await?;
        let details = std::mem::replace(&mut outcome, files).details;
        outcome.details.extend(details);
    }
    remember(backup, outcome, true, "").await
}

/// Reads every file of a backup against its checksums, and notes nothing.
pub(super) async fn examine(backup: &Backup, fail_fast: bool, control: &Control) -> Result<Verification> {
    check_files(backup, Checks::ALL, fail_fast, control).await
}

async fn check_files(backup: &Backup, checks: Checks, fail_fast: bool, control: &Control) -> Result<Verification> {
    let begun = std::time::Instant::now();
    let hashed = if checks.checksums { Hashed::All } else { Hashed::Nothing };
    let on_bytes = |bytes| {
        control.advance(0, bytes);
        control.pass(bytes).boxed()
    };
    let report = backup.check_some_files(hashed, fail_fast, &on_bytes).await?;
    let mut outcome = Verification::of_files("CHECKSUM", &report);
    let foreign = backup.owner() == Owner::MilvusBackup;
    if !checks.checksums || foreign {
        outcome.checksum_valid = None;
    }
    if outcome.success || !fail_fast {
        let found = agree::with_itself(backup, checks).await?;
        outcome.contradicted(found.contradictions);
        if foreign && let Some(collection) = found.collection.filter(|_| outcome.success || !fail_fast) {
            // What no checksum proves is proven by decoding it.
            let (details, wrong) = quick_native::look(backup, &collection, Sample::ALL, fail_fast, control).await?;
            outcome.details.extend(details);
            outcome.contradicted(wrong);
        }
    }
    outcome.finish(begun.elapsed());
    Ok(outcome)
}

/// Notes the outcome beside the backup, where it can be written. One that left out what its type stands for is no proof,
/// and is noted only where it found damage.
async fn remember(backup: &Backup, mut outcome: Verification, is_proof: bool, otherwise: &str) -> Result<Verification> {
    if backup.owner() == Owner::MilvusBackup {
        outcome.warnings.push(NOT_OURS.to_owned());
        return Ok(outcome);
    }
    if !outcome.success {
        // What is missing because the backup is being deleted is no damage.
        backup.refuse_unless_there().await?;
    } else if !is_proof {
        outcome.warnings.push(format!("{otherwise}. The backup does not count as verified by this"));
        return Ok(outcome);
    }
    note(backup, &mut outcome).await?;
    Ok(outcome)
}

const NOT_OURS: &str = "it is milvus-backup's own: it has no checksums, so its files were looked for, and rows decoded, and the outcome is noted nowhere";
const NOT_NOTED: &str = "the outcome could not be noted beside the backup, and is known to nobody else";

/// Notes an outcome in `verification.json`, where the repository can be written; else that is a warning.
pub(super) async fn note(backup: &Backup, outcome: &mut Verification) -> Result<()> {
    if backup.owner() == Owner::MilvusBackup {
        return Ok(());
    }
    if let Err(error) = backup.write_verification(&to_value(outcome)?).await {
        tracing::warn!(%error, "the outcome of the verification could not be noted beside the backup");
        if !outcome.warnings.iter().any(|warning| warning.starts_with(NOT_NOTED)) {
            outcome.warnings.push(format!("{NOT_NOTED}: {}", error.message()));
        }
    }
    Ok(())
}

impl Verification {
    /// What was found of the files alone; when and how long are still to come.
    pub(super) fn of_files(verification_type: &str, report: &FileReport) -> Self {
        Self {
            success: report.failed.is_empty(),
            verification_type: verification_type.to_owned(),
            checksum_valid: Some(report.failed.is_empty()),
            deep_verification_passed: None,
            files_verified: report.files_verified,
            files_failed: report.failed.iter().map(|failed| failed.file.clone()).collect(),
            errors: report.failed.iter().map(ToString::to_string).collect(),
            warnings: report.unnamed.first().map(|file| unnamed(report.unnamed.len(), file)).into_iter().collect(),
            verification_time_ms: 0.0,
            verified_at: chrono::Utc::now().to_rfc3339(),
            details: [("bytes".to_owned(), json!(report.bytes))].into_iter().collect(),
            failures: report.failed.clone(),
        }
    }

    /// Whether this file is known to be damaged.
    pub(super) fn names(&self, file: &str) -> bool {
        self.files_failed.iter().any(|failed| failed == file)
    }

    /// Adds what was found in the files' content, but for files that are known to be damaged.
    pub(super) fn contradicted(&mut self, contradictions: Vec<Contradiction>) {
        for Contradiction { file, error } in contradictions {
            if !self.names(&file) {
                self.success = false;
                self.files_verified = self.files_verified.saturating_sub(1);
                self.files_failed.push(file);
                self.errors.push(error);
            }
        }
    }

    /// It is over.
    pub(super) fn finish(&mut self, took: Duration) {
        self.verification_time_ms = took.as_secs_f64() * 1e3;
        self.verified_at = chrono::Utc::now().to_rfc3339();
    }
}

fn unnamed(count: usize, first: &str) -> String {
    format!("files that the metadata does not name are left out: {count}, such as {first}")
}

fn damaged_manifest(verification_type: &str, error: &Error) -> Verification {
    let named = error.details().get("failed_files").cloned().and_then(|files| serde_json::from_value(files).ok());
    Verification {
        success: false,
        checksum_valid: Some(false),
        files_failed: named.unwrap_or_else(|| vec!["metadata.json".to_owned()]),
        errors: vec![error.message().to_owned()],
        ..Verification::of_files(verification_type, &FileReport::default())
    }
}

/// What is told of a checksum where exactly one file is damaged.
fn only(outcome: &Verification, what: impl Fn(&FailedFile) -> Option<String>) -> Option<String> {
    match &outcome.failures[..] {
        [failed] if failed.reason == Reason::Checksum => what(failed),
        _ => None,
    }
}

/// The outcome as an error, where it is none to go on with.
pub(super) fn require_sound(backup: &Backup, outcome: &Verification) -> Result<()> {
    if outcome.success {
        return Ok(());
    }
    let shown = outcome.errors.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
    Err(Error::new(
        Kind::BackupCorrupted,
        format!(
            "backup {} is damaged: {shown}. Restore another backup, or copy the damaged files back from where they are whole",
            backup.id()
        ),
    )
    .with("backup_id", backup.id().to_string())
    .with("collection_name", backup.manifest().collection_name.as_str())
    .with("checksum_algorithm", backup.manifest().checksum_algorithm.name())
    .with("failed_files", outcome.files_failed.clone())
    .with("expected_checksum", only(outcome, |failed| failed.expected.clone()))
    .with("actual_checksum", only(outcome, |failed| failed.actual.clone())))
}
