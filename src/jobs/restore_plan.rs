//! What a restore is to do, found out before a row is written: what the backup holds, what stands in the target's
//! place, whether the server can hold it. A dry run tells it and ends there.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::control::{Control, Phase};
use super::into;
use super::load::Rows;
use super::restore::RestoreRequest;
use super::staging::{Keys, Options, Proof, Staging, Via};
use super::{Session, compatible, importing, likeness, recover, verify};
use crate::error::{Error, Kind, Result};
use crate::milvus::Client;
use crate::repository::manifest::BackupType;
use crate::repository::{Backup, Owner};
use crate::schema::{Collection, Index};

/// What is to be done.
pub(super) struct Plan {
    pub staging: Staging,
    pub target: Target,
    pub warnings: Vec<String>,
}

/// What stands in the target's place.
pub(super) enum Target {
    /// Nothing.
    Free,
    /// A collection that is to be replaced.
    Replaced(Existing),
    /// A collection that the rows go into.
    Joined(Existing),
}

/// A collection that is there.
pub(super) struct Existing {
    pub collection: Collection,
    pub loaded: bool,
}

impl Target {
    /// The collection that is there.
    pub(super) fn existing(&self) -> Option<&Existing> {
        match self {
            Self::Free => None,
            Self::Replaced(existing) | Self::Joined(existing) => Some(existing),
        }
    }

    /// Refuses to replace a collection by less than the whole: the rows that are left out would be lost.
    pub(super) fn takes(&self, staging: &Staging) -> Result<()> {
        let (Self::Replaced(existing), Some(failed)) = (self, staging.failed.keys().next()) else { return Ok(()) };
        let less = format!("partition {failed} cannot be restored");
        Err(less_than_the_whole(existing, &less, "Restore what is left under another name with target_collection_name"))
    }

    /// As [`Target::takes`], of what was chosen: rows by a filter, or some partitions of those that the collection has.
    fn takes_chosen(&self, request: &RestoreRequest, backup: &Backup) -> Result<()> {
        let Self::Replaced(existing) = self else { return Ok(()) };
        let (asked, held) = (&request.partition_names, &backup.manifest().partition_names);
        let chosen = !asked.is_empty() || backup.manifest().backup_type == BackupType::Partition;
        let restored = if asked.is_empty() { held } else { asked };
        let lacking = existing.collection.partitions.iter().find(|name| !restored.contains(name));
        let less = match (&request.filter, lacking) {
            (Some(_), _) => "only rows that match the filter are restored".to_owned(),
            (None, Some(lacking)) if chosen => format!("partition {lacking} is not among those that are restored"),
            _ => return Ok(()),
        };
        let way_out =
            "Restore them under another name with target_collection_name, or put them into it with into_existing=True";
        Err(less_than_the_whole(existing, &less, way_out))
    }
}

fn less_than_the_whole(existing: &Existing, less: &str, way_out: &str) -> Error {
    let name = &existing.collection.name;
    refused(
        name,
        format!(
            "{less}, and a collection is not replaced by less than the whole: '{name}' was not touched. {way_out}, or drop it first"
        ),
    )
}

impl Plan {
    pub(super) fn client(&self) -> &Client {
        &self.staging.client
    }
}

/// Finds out what is to be done, and refuses what cannot be.
pub(super) async fn prepare(
    session: &Session,
    request: &RestoreRequest,
    backup: &Backup,
    target: &str,
    control: &Control,
) -> Result<Plan> {
    if request.into_existing && (request.auto_id == Keys::Regenerate || request.skip_failed_partitions) {
        return Err(Error::new(
            Kind::InvalidArgument,
            "into_existing goes neither with auto_id=REGENERATE, as rows are put in by their keys, nor with skip_failed_partitions, as there is no staging to begin anew",
        ));
    }
    // Without checksums a file is proven by nothing but that all of them decode, before a row is taken from one.
    let verified = request.verify_before_restore || backup.owner() == Owner::MilvusBackup;
    let damaged = if verified { damaged_files(request, backup, control).await? } else { None };
    control.enter(Phase::Counting);
    let (mut collection, rows) = contents(backup, &request.partition_names, request.at).await?;
    let rows = match &request.filter {
        Some(text) => rows.filtered(text)?,
        None => rows,
    };
    // Rows that nothing promises a digest of are right where their files are.
    let unproven = !verified && !rows.in_key_order();
    let rows = rows.proven(unproven);
    let mut indexes = if request.restore_indexes { read_indexes(backup).await? } else { Vec::new() };
    let client = session.client().await?;
    let client = match &request.target_database {
        Some(database) => client.in_database(database).await.map_err(|error| {
            let why = error.message().to_owned();
            error.into_kind(Kind::RestoreValidation).with("validation_errors", vec![why])
        })?,
        None => client,
    };
    if !request.dry_run {
        recover::interrupted_restores(session, &client, Some((client.database(), target))).await?;
    }
    if request.via == Via::Import
        && (request.at.is_some() || request.into_existing || request.auto_id == Keys::Regenerate)
    {
        return Err(Error::new(
            Kind::InvalidArgument,
            "via=IMPORT takes a backup's rows as they are, at its own moment, into a new collection: it goes with neither as_of, nor into_existing, nor auto_id=REGENERATE",
        ));
    }
    let import = match request.via {
        Via::Import => Some(importing::Place::of(session, backup, &collection, &rows).await?),
        Via::Auto if may_import(request, &collection) => {
            importing::Place::of(session, backup, &collection, &rows).await.ok()
        }
        Via::Auto | Via::Insert => None,
    };
    let history = rows.history(backup, request.at).await?;
    let mut warnings = Vec::new();
    let made_by = backup.manifest().milvus_version.as_str();
    compatible::check(&client, &collection, target, made_by)?;
    if request.auto_id == Keys::Regenerate {
        must_make_keys(&collection, backup)?;
    } else if request.via != Via::Import {
        compatible::keep_keys(&client, &mut collection, &mut warnings);
    }
    compatible::adapt(&client, &mut collection, &mut indexes, made_by, &mut warnings);
    if !request.partition_names.is_empty() {
        collection.partitions.retain(|name| request.partition_names.contains(name));
    }
    let target = look_at_target(&client, target, request).await?;
    target.takes_chosen(request, backup)?;
    if let Target::Joined(existing) = &target {
        likeness::require_same(&collection, &existing.collection)?;
        // What is changed to make a collection is of no concern where none is made.
        warnings.clear();
    }
    warnings.extend(history.warning());
    let keep_loaded = request.load_after_restore || matches!(&target, Target::Replaced(existing) if existing.loaded);
    let options = Options {
        proof: request.verify_after,
        keys: request.auto_id,
        keep_loaded,
        skip_failed_partitions: request.skip_failed_partitions,
        tell_differences: false,
        batch_rows: request.batch_rows,
        max_requests_in_flight: request.max_requests_in_flight,
    };
    let mut staging = Staging {
        client,
        backup: backup.clone(),
        rows,
        collection,
        indexes,
        options,
        import,
        or_insert: request.via == Via::Auto,
        storage: session.milvus_storage().ok(),
        failed: BTreeMap::new(),
    };
    for (partition, why) in damaged.map(|damaged| damaged.of(&staging.rows)).transpose()?.unwrap_or_default() {
        staging.leave_out(&partition, why)?;
    }
    target.takes(&staging)?;
    if let Target::Joined(existing) = &target {
        into::refuse_shared_keys(&staging, request.on_conflict, &existing.collection.name).await?;
    }
    Ok(Plan { staging, target, warnings })
}

/// Whether an import, should it be possible, comes to the same as inserting.
fn may_import(request: &RestoreRequest, collection: &Collection) -> bool {
    let as_they_are = request.at.is_none() && !request.into_existing && !request.skip_failed_partitions;
    as_they_are && request.verify_after == Proof::Digest && !collection.schema.fields.iter().any(|field| field.auto_id)
}

/// A backup's collection, and the rows of some of its partitions, or of all.
pub(super) async fn contents(backup: &Backup, partitions: &[String], at: Option<u64>) -> Result<(Collection, Rows)> {
    let collection: Collection = serde_json::from_value(backup.schema().await?)
        .map_err(|error| corrupted(backup, "schema.json", &error.to_string()))?;
    let rows = Rows::choose(backup, &collection, partitions, at).await?;
    Ok((collection, rows))
}

/// Files that are not what they should be.
struct Damaged {
    files: Vec<String>,
    error: Error,
}

impl Damaged {
    /// The partitions to leave out, and why.
    ///
    /// # Errors
    /// That the backup is damaged, where it is not in its rows alone.
    fn of(self, rows: &Rows) -> Result<Vec<(String, Error)>> {
        if self.files.iter().any(|file| !file.starts_with("data/") && !file.starts_with("binlogs/")) {
            return Err(self.error);
        }
        Ok(rows.partitions_with(&self.files).into_iter().map(|name| (name, self.error.clone())).collect())
    }
}

/// Checks every file. Damage ends the restore, unless partitions may be left out.
async fn damaged_files(request: &RestoreRequest, backup: &Backup, control: &Control) -> Result<Option<Damaged>> {
    control.enter(Phase::Verifying);
    let outcome = if request.dry_run {
        verify::examine(backup, false, control).await?
    } else {
        verify::checksums(backup, false, control).await?
    };
    match verify::require_sound(backup, &outcome) {
        Ok(()) => Ok(None),
        Err(error) if request.skip_failed_partitions => Ok(Some(Damaged { files: outcome.files_failed, error })),
        Err(error) => Err(error),
    }
}

fn must_make_keys(collection: &Collection, backup: &Backup) -> Result<()> {
    let key = collection.schema.primary_key()?;
    if key.auto_id {
        return Ok(());
    }
    Err(refused(
        &collection.name,
        format!(
            "the primary keys '{}' of backup {} were given by its users, not made by the server: they are not made anew. Restore with auto_id=PRESERVE",
            key.name,
            backup.id()
        ),
    ))
}

pub(super) fn refused(target: &str, why: String) -> Error {
    Error::new(Kind::RestoreValidation, why.clone())
        .with("target_collection_name", target)
        .with("validation_errors", vec![why])
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

async fn look_at_target(client: &Client, target: &str, request: &RestoreRequest) -> Result<Target> {
    if !client.collections().await?.iter().any(|name| name == target) {
        if client.exists(target).await? {
            return Err(refused(
                target,
                format!(
                    "'{target}' is an alias of another collection; restore under the collection's own name, or another with target_collection_name"
                ),
            ));
        }
        if request.into_existing {
            return Err(refused(
                target,
                format!(
                    "there is no collection '{target}' in database '{}' for the rows to go into; leave into_existing out to make it",
                    client.database()
                ),
            ));
        }
        return Ok(Target::Free);
    }
    let existing =
        async { Ok(Existing { collection: client.describe(target).await?, loaded: client.is_loaded(target).await? }) };
    match (request.into_existing, request.drop_existing) {
        (true, true) => Err(Error::new(Kind::InvalidArgument, "into_existing and drop_existing exclude each other")),
        (true, false) => Ok(Target::Joined(existing.await?)),
        (false, true) => Ok(Target::Replaced(existing.await?)),
        (false, false) => Err(refused(
            target,
            format!(
                "collection '{target}' exists already and was not touched; restore under another name with target_collection_name, replace it with drop_existing=True (it stays until the restored rows are proven), or add the rows to it with into_existing=True"
            ),
        )),
    }
}

/// What a dry run answers: the plan, as a restore that did nothing.
pub(super) fn tell(
    plan: &Plan,
    request: &RestoreRequest,
    target: &str,
    rows: &BTreeMap<String, u64>,
    found: Option<&Value>,
) -> Value {
    let Plan { staging, target: place, .. } = plan;
    let (action, existing) = match place {
        Target::Free => ("CREATE", None),
        Target::Replaced(existing) => ("REPLACE", Some(existing)),
        Target::Joined(existing) => ("INSERT", Some(existing)),
    };
    json!({
        "action": action,
        "server": staging.client.label(),
        "target_database": staging.client.database(),
        "target_collection_name": target,
        "rows": rows.values().sum::<u64>(),
        "bytes": staging.rows.bytes(),
        "partitions": rows,
        "indexes": if existing.is_some() && action == "INSERT" { &[][..] } else { &staging.indexes[..] },
        "aliases": existing.map_or(&staging.collection.aliases, |existing| &existing.collection.aliases),
        "load": staging.options.keep_loaded || matches!(place, Target::Joined(existing) if existing.loaded),
        "proof": match staging.options.proof { Proof::None => None, proof => Some(proof.name()) },
        "on_conflict": (action == "INSERT").then_some(request.on_conflict),
        "conflicts": found,
    })
}
