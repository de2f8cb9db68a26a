//! What milvus-backup's metadata tells of a backup, as a manifest tells it of ours.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::Read;
use crate::binlog::description;
pub(super) use crate::binlog::description::database;
use crate::binlog::metadata::{BackupInfo, CollectionInfo, SegmentInfo};
use crate::error::{Error, Kind, Result, internal};
use crate::repository::names::{check_name, collection_folder};
use crate::repository::{BackupId, Foreign, Manifest, RelativePath, SnapshotKind, StorageType};
use crate::schema::{Collection, Index};

/// The segments of a collection, those included that hold deletes for all of its partitions.
pub(in crate::jobs) fn segments(info: &CollectionInfo) -> impl Iterator<Item = &SegmentInfo> {
    info.partition_backups.iter().flat_map(|partition| &partition.segment_backups).chain(&info.l0_segments)
}

/// The moment that the metadata names, if it is ours.
///
/// What milvus-backup itself notes in its place is none (read in its sources): since v0.4.15 the positions from which the
/// channels would be replicated, which are before the rows that its own flush wrote; before that, seconds or
/// milliseconds. Taken for a moment it would hide rows, and bring back deleted ones.
pub(in crate::jobs) fn noted_moment(whole: &BackupInfo, info: &CollectionInfo) -> Option<u64> {
    (BackupId::is_valid(&whole.name) && info.backup_timestamp > 0).then_some(info.backup_timestamp)
}

/// When the backup was made, as far as it tells.
fn made(whole: &BackupInfo, info: &CollectionInfo) -> Option<DateTime<Utc>> {
    let seconds = i64::try_from(info.backup_physical_timestamp).ok().filter(|seconds| *seconds > 0);
    let noted = || {
        let noted = [info.backup_timestamp, whole.backup_timestamp].into_iter().find(|time| *time > 0)?;
        i64::try_from(noted >> 18).ok().and_then(DateTime::from_timestamp_millis)
    };
    seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0)).or_else(noted)
}

/// The id of a collection's backup; the same each time that it is looked at under this folder's name.
pub(super) fn id(whole: &BackupInfo, info: &CollectionInfo, folder: &str) -> BackupId {
    let identity = [folder, &whole.id, &whole.name, database(info), &info.collection_name].join("/");
    let made = made(whole, info).filter(|made| (0..253_370_764_800).contains(&made.timestamp()));
    BackupId::of_foreign(made.unwrap_or_default(), &identity)
}

/// Fills in what the metadata tells of a collection's backup, wherever that lies.
///
/// # Errors
/// [`Kind::Internal`] where a schema cannot be written as JSON.
pub(in crate::jobs) fn fill_in(
    manifest: &mut Manifest,
    whole: &BackupInfo,
    info: &CollectionInfo,
    collection: &Collection,
) -> Result<()> {
    manifest.storage_type = StorageType::MilvusNative;
    manifest.partition_names.clone_from(&collection.partitions);
    manifest.segment_count = segments(info).count() as u64;
    manifest.compression_enabled = true;
    manifest.include_indexes = true;
    manifest.milvus_version.clone_from(&whole.milvus_version);
    manifest.schema_snapshot = serde_json::to_value(collection).map_err(|error| internal(error.to_string()))?;
    // One that milvus-backup made may hold rows that came after the others.
    let noted = noted_moment(whole, info);
    manifest.snapshot.kind = if noted.is_some() { SnapshotKind::Snapshot } else { SnapshotKind::Fuzzy };
    manifest.snapshot.ended_at = made(whole, info);
    manifest.snapshot.timestamp = noted;
    Ok(())
}

/// A manifest, and what else is to be known to read the backup of a collection in the folder of this name.
///
/// # Errors
/// [`Kind::BackupCorrupted`] where the metadata names what cannot be; [`Kind::SchemaIncompatible`] for a type, or a form of
/// files, that this version does not know.
pub(super) fn describe(read: &Read, info: &CollectionInfo, folder: &str) -> Result<(Manifest, Foreign)> {
    let whole = &read.info;
    let collection = description::collection(info)?;
    require_names(&collection)?;
    let mut manifest = Manifest::new(id(whole, info, folder), folder, &collection.database, &collection.name);
    fill_in(&mut manifest, whole, info, &collection)?;
    manifest.created_at = manifest.backup_id.time();
    manifest.completed_at = manifest.snapshot.ended_at;
    manifest.tool_version = String::new();
    let mut files = BTreeMap::new();
    for file in &read.files {
        files.insert(RelativePath::new(*file)?, None);
    }
    for segment in segments(info) {
        segment.require_known()?;
        if !segment.is_l0 {
            manifest.row_count = manifest.row_count.saturating_add(segment.rows());
        }
        for file in segment.inserts()?.into_iter().chain(segment.deletes()?) {
            manifest.size_bytes = manifest.size_bytes.saturating_add(file.bytes.unwrap_or_default());
            files.insert(RelativePath::new(file.path)?, file.bytes);
        }
    }
    manifest.compressed_size_bytes = manifest.size_bytes;
    let indexes: Vec<Index> = description::indexes(info);
    let foreign = Foreign {
        schema: manifest.schema_snapshot.clone(),
        indexes: vec![json!(indexes)].into_iter().filter(|all: &Value| all != &json!([])).collect(),
        files,
        folders: ["insert_log", "delta_log"].map(|kind| format!("binlogs/{kind}/{}", info.collection_id)).into(),
    };
    Ok((manifest, foreign))
}

/// The metadata is input: its names must be such as can be names.
fn require_names(collection: &Collection) -> Result<()> {
    let wrong = |error: Error| {
        Error::new(Kind::BackupCorrupted, format!("the metadata has a name that cannot be one: {}", error.message()))
            .with("failed_files", vec![crate::binlog::metadata::COLLECTION_FILE])
    };
    collection_folder(&collection.database, &collection.name).map_err(wrong)?;
    collection.partitions.iter().try_for_each(|name| check_name("partition", name)).map_err(wrong)
}
