//! Verifying a backup where it lies. CHECKSUM: every file against `checksums.json`, that against the manifest, and the
//! manifest against itself.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::control::{Control, Phase, deadline};
use super::{Session, deep};
use crate::error::{Error, Kind, Result, internal};
use crate::repository::{Backup, FailedFile, FileReport, Reason};

/// Which backup to verify, and how.
#[derive(Debug, Clone, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // the seam's names
pub struct VerifyRequest {
    backup: String,
    #[serde(default)]
    collection_name: Option<String>,
    #[serde(default = "checksum")]
    verification_type: String,
    #[serde(default = "yes")]
    pub(super) fail_fast: bool,
    #[serde(default = "yes")]
    pub(super) verify_schema: bool,
    #[serde(default = "yes")]
    pub(super) verify_data_integrity: bool,
    #[serde(default = "yes")]
    pub(super) deep_verify_row_count: bool,
    #[serde(default)]
    timeout_seconds: Option<f64>,
}

fn checksum() -> String {
    "CHECKSUM".to_owned()
}
fn yes() -> bool {
    true
}

/// What a verification found.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    /// Whether the backup is what its manifest promises.
    pub success: bool,
    /// CHECKSUM or DEEP.
    pub verification_type: String,
    /// Whether all checksums were right.
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
    /// Numbers: `bytes`, the bytes read.
    pub details: Map<String, Value>,
    /// What is wrong, file by file.
    #[serde(skip)]
    failures: Vec<FailedFile>,
}

/// Verifies a backup and notes the outcome beside it. Damage is an outcome, not an error.
///
/// # Errors
/// [`Kind::BackupNotFound`], [`Kind::InvalidArgument`] for a type that is neither CHECKSUM nor DEEP, [`Kind::Storage`] where the
/// repository cannot be read.
pub async fn verify(session: &Session, request: VerifyRequest, control: &Control) -> Result<Value> {
    if !["CHECKSUM", "DEEP"].contains(&request.verification_type.as_str()) {
        return Err(Error::new(
            Kind::InvalidArgument,
            format!(
                "verification type {} is not in this version; use CHECKSUM, which reads every file, or DEEP, a trial restore",
                request.verification_type
            ),
        ));
    }
    let limit = deadline(request.timeout_seconds);
    let found = control.guard(limit, session.find(&request.backup, request.collection_name.as_deref())).await;
    let backup = match found {
        Ok(backup) => backup,
        // A manifest that cannot be read is what a verification is there to find.
        Err(error) if error.kind() == Kind::BackupCorrupted => return to_value(&damaged_manifest(&error)),
        Err(error) => return Err(error),
    };
    control.begin();
    control.enter(Phase::Verifying);
    if request.verification_type == "DEEP" {
        return to_value(&Box::pin(deep::verify(session, &backup, &request, control, limit)).await?);
    }
    let outcome = control.guard(limit, checksums(&backup, request.fail_fast, control)).await?;
    to_value(&outcome)
}

fn to_value(outcome: &Verification) -> Result<Value> {
    serde_json::to_value(outcome).map_err(|error| internal(error.to_string()))
}

/// Reads every file of a backup against its checksums, and notes the outcome in `verification.json` where the
/// repository can be written.
pub(super) async fn checksums(backup: &Backup, fail_fast: bool, control: &Control) -> Result<Verification> {
    let outcome = examine(backup, fail_fast, control).await?;
    note(backup, &outcome).await?;
    Ok(outcome)
}

/// Reads every file of a backup against its checksums, and notes nothing.
pub(super) async fn examine(backup: &Backup, fail_fast: bool, control: &Control) -> Result<Verification> {
    let begun = std::time::Instant::now();
    let report = backup.check_files(fail_fast, &|bytes| control.advance(0, bytes)).await?;
    Ok(outcome(&report, begun.elapsed()))
}

/// Notes an outcome in `verification.json`, where the repository can be written.
pub(super) async fn note(backup: &Backup, outcome: &Verification) -> Result<()> {
    if let Err(error) = backup.write_verification(&to_value(outcome)?).await {
        tracing::warn!(%error, "the outcome of the verification could not be noted beside the backup");
    }
    Ok(())
}

fn outcome(report: &FileReport, took: std::time::Duration) -> Verification {
    let errors = report.failed.iter().map(ToString::to_string).collect();
    Verification {
        success: report.failed.is_empty(),
        verification_type: checksum(),
        checksum_valid: Some(report.failed.is_empty()),
        deep_verification_passed: None,
        files_verified: report.files_verified,
        files_failed: report.failed.iter().map(|failed| failed.file.clone()).collect(),
        errors,
        warnings: Vec::new(),
        verification_time_ms: took.as_secs_f64() * 1e3,
        verified_at: chrono::Utc::now().to_rfc3339(),
        details: [("bytes".to_owned(), json!(report.bytes))].into_iter().collect(),
        failures: report.failed.clone(),
    }
}

fn damaged_manifest(error: &Error) -> Verification {
    let report = FileReport::default();
    Verification {
        success: false,
        checksum_valid: Some(false),
        files_failed: vec!["metadata.json".to_owned()],
        errors: vec![error.message().to_owned()],
        ..outcome(&report, std::time::Duration::ZERO)
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
