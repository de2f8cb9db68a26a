//! The `meta/*.json` of a native backup: what milvus-backup writes of collections, partitions and segments, and what we
//! write so that it reads ours.
//!
//! It is protobuf structs as Go's JSON encoder writes them: enums and 64-bit integers are numbers, and zero values are
//! left out, so `fieldID` is missing for field 0. Checked on files of v0.5.16; what later versions add is read from the
//! public description of its metadata (`backup_timestamp`, `l0_segments`, `aliases`, `storage_version`, `format`).

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result, internal};

/// The folder that the files lie in, below the backup's own.
pub const FOLDER: &str = "meta";
/// Everything in one file; it wins where it is there.
pub const FULL_FILE: &str = "meta/full_meta.json";
/// The backup alone, without what is in it.
pub const BACKUP_FILE: &str = "meta/backup_meta.json";
/// Collections without their segments.
pub const COLLECTION_FILE: &str = "meta/collection_meta.json";
/// Partitions without their segments.
pub const PARTITION_FILE: &str = "meta/partition_meta.json";
/// All segments.
pub const SEGMENT_FILE: &str = "meta/segment_meta.json";

/// One backup of one or more collections.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct BackupInfo {
    #[serde(skip_serializing_if = "empty")]
    pub id: String,
    pub state_code: i32,
    #[serde(skip_serializing_if = "empty")]
    pub name: String,
    /// The hybrid timestamp of the snapshot, where one moment holds for all collections.
    #[serde(skip_serializing_if = "empty")]
    pub backup_timestamp: u64,
    #[serde(skip_serializing_if = "empty")]
    pub collection_backups: Vec<CollectionInfo>,
    #[serde(skip_serializing_if = "empty")]
    pub size: i64,
    #[serde(skip_serializing_if = "empty")]
    pub milvus_version: String,
    #[serde(skip_serializing_if = "empty")]
    pub rbac_meta: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "empty")]
    pub database_backups: Vec<DatabaseInfo>,
    /// Empty for binlogs; newer versions know another.
    #[serde(skip_serializing_if = "empty")]
    pub format: String,
}

/// A database that collections of the backup are in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct DatabaseInfo {
    #[serde(skip_serializing_if = "empty")]
    pub db_name: String,
    #[serde(skip_serializing_if = "empty")]
    pub db_id: i64,
    #[serde(skip_serializing_if = "empty")]
    pub properties: Vec<Pair>,
}

/// One collection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct CollectionInfo {
    /// The backup's id.
    #[serde(skip_serializing_if = "empty")]
    pub id: String,
    #[serde(skip_serializing_if = "empty")]
    pub collection_id: i64,
    #[serde(skip_serializing_if = "empty")]
    pub db_name: String,
    #[serde(skip_serializing_if = "empty")]
    pub collection_name: String,
    pub schema: SchemaInfo,
    #[serde(skip_serializing_if = "empty")]
    pub shards_num: i32,
    #[serde(skip_serializing_if = "empty")]
    pub consistency_level: i32,
    #[serde(skip_serializing_if = "empty")]
    pub partition_backups: Vec<PartitionInfo>,
    /// The hybrid timestamp that the rows are to be taken at.
    #[serde(skip_serializing_if = "empty")]
    pub backup_timestamp: u64,
    /// Bytes of its binlogs.
    #[serde(skip_serializing_if = "empty")]
    pub size: i64,
    #[serde(skip_serializing_if = "empty")]
    pub has_index: bool,
    #[serde(skip_serializing_if = "empty")]
    pub index_infos: Vec<IndexInfo>,
    #[serde(skip_serializing_if = "empty")]
    pub load_state: String,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "empty")]
    pub backup_physical_timestamp: u64,
    #[serde(skip_serializing_if = "empty")]
    pub channel_checkpoints: BTreeMap<String, String>,
    /// Segments with deletes alone that hold for all partitions.
    #[serde(skip_serializing_if = "empty")]
    pub l0_segments: Vec<SegmentInfo>,
    #[serde(skip_serializing_if = "empty")]
    pub properties: Vec<Pair>,
    #[serde(skip_serializing_if = "empty")]
    pub db_id: i64,
    #[serde(skip_serializing_if = "empty")]
    pub created_timestamp: u64,
    #[serde(skip_serializing_if = "empty")]
    pub virtual_channel_names: Vec<String>,
    #[serde(skip_serializing_if = "empty")]
    pub physical_channel_names: Vec<String>,
    #[serde(skip_serializing_if = "empty")]
    pub aliases: Vec<String>,
}

/// The fields of a collection. 2.3.5 leaves `$meta` out, whose rows are in the binlogs all the same.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct SchemaInfo {
    #[serde(skip_serializing_if = "empty")]
    pub name: String,
    #[serde(skip_serializing_if = "empty")]
    pub description: String,
    #[serde(rename = "autoID", skip_serializing_if = "empty")]
    pub auto_id: bool,
    #[serde(skip_serializing_if = "empty")]
    pub fields: Vec<FieldInfo>,
    #[serde(skip_serializing_if = "empty")]
    pub enable_dynamic_field: bool,
    #[serde(skip_serializing_if = "empty")]
    pub properties: Vec<Pair>,
    #[serde(skip_serializing_if = "empty")]
    pub functions: Vec<FunctionInfo>,
    #[serde(skip_serializing_if = "empty")]
    pub struct_array_fields: Vec<serde_json::Value>,
}

/// One field.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, clippy::struct_excessive_bools)]
pub struct FieldInfo {
    #[serde(rename = "fieldID", skip_serializing_if = "empty")]
    pub field_id: i64,
    #[serde(skip_serializing_if = "empty")]
    pub name: String,
    #[serde(skip_serializing_if = "empty")]
    pub is_primary_key: bool,
    #[serde(skip_serializing_if = "empty")]
    pub description: String,
    #[serde(skip_serializing_if = "empty")]
    pub data_type: i32,
    #[serde(skip_serializing_if = "empty")]
    pub type_params: Vec<Pair>,
    #[serde(rename = "autoID", skip_serializing_if = "empty")]
    pub auto_id: bool,
    #[serde(skip_serializing_if = "empty")]
    pub element_type: i32,
    #[serde(skip_serializing_if = "empty")]
    pub is_dynamic: bool,
    #[serde(skip_serializing_if = "empty")]
    pub is_partition_key: bool,
    #[serde(skip_serializing_if = "empty")]
    pub nullable: bool,
    #[serde(skip_serializing_if = "empty")]
    pub is_function_output: bool,
    /// A protobuf `schema.ValueField`, in base64.
    #[serde(skip_serializing_if = "empty")]
    pub default_value_base64: String,
}

/// A function that fills fields.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct FunctionInfo {
    #[serde(skip_serializing_if = "empty")]
    pub name: String,
    #[serde(skip_serializing_if = "empty")]
    pub id: i64,
    #[serde(skip_serializing_if = "empty")]
    pub description: String,
    #[serde(rename = "type", skip_serializing_if = "empty")]
    pub function_type: i32,
    #[serde(skip_serializing_if = "empty")]
    pub input_field_names: Vec<String>,
    #[serde(skip_serializing_if = "empty")]
    pub input_field_ids: Vec<i64>,
    #[serde(skip_serializing_if = "empty")]
    pub output_field_names: Vec<String>,
    #[serde(skip_serializing_if = "empty")]
    pub output_field_ids: Vec<i64>,
    #[serde(skip_serializing_if = "empty")]
    pub params: Vec<Pair>,
}

/// A key and its value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Pair {
    #[serde(skip_serializing_if = "empty")]
    pub key: String,
    #[serde(skip_serializing_if = "empty")]
    pub value: String,
}

/// The definition of an index.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct IndexInfo {
    #[serde(skip_serializing_if = "empty")]
    pub field_name: String,
    #[serde(skip_serializing_if = "empty")]
    pub index_name: String,
    #[serde(skip_serializing_if = "empty")]
    pub index_type: String,
    #[serde(skip_serializing_if = "empty")]
    pub params: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "empty")]
    pub index_id: i64,
}

/// One partition.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct PartitionInfo {
    #[serde(skip_serializing_if = "empty")]
    pub partition_id: i64,
    #[serde(skip_serializing_if = "empty")]
    pub partition_name: String,
    #[serde(skip_serializing_if = "empty")]
    pub collection_id: i64,
    #[serde(skip_serializing_if = "empty")]
    pub segment_backups: Vec<SegmentInfo>,
    #[serde(skip_serializing_if = "empty")]
    pub size: i64,
    #[serde(skip_serializing_if = "empty")]
    pub load_state: String,
}

/// One segment and its files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct SegmentInfo {
    #[serde(skip_serializing_if = "empty")]
    pub segment_id: i64,
    #[serde(skip_serializing_if = "empty")]
    pub collection_id: i64,
    /// −1 where its deletes hold for all partitions.
    #[serde(skip_serializing_if = "empty")]
    pub partition_id: i64,
    /// Rows in its insert logs, before deletes.
    #[serde(skip_serializing_if = "empty")]
    pub num_of_rows: i64,
    #[serde(skip_serializing_if = "empty")]
    pub binlogs: Vec<FieldLogs>,
    #[serde(skip_serializing_if = "empty")]
    pub statslogs: Vec<FieldLogs>,
    #[serde(skip_serializing_if = "empty")]
    pub deltalogs: Vec<FieldLogs>,
    /// Bytes of its files.
    #[serde(skip_serializing_if = "empty")]
    pub size: i64,
    /// The folder between partition and segment; 0 where there is none.
    #[serde(skip_serializing_if = "empty")]
    pub group_id: i64,
    /// Whether it holds deletes alone.
    #[serde(skip_serializing_if = "empty")]
    pub is_l0: bool,
    #[serde(skip_serializing_if = "empty")]
    pub v_channel: String,
    #[serde(skip_serializing_if = "empty")]
    pub storage_version: i64,
}

/// The files of one field; of deletes, those of none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FieldLogs {
    /// Milvus's number of the field; 0 is the row id, 1 the timestamp.
    #[serde(rename = "fieldID", skip_serializing_if = "empty")]
    pub field_id: i64,
    /// In the order in which their rows follow each other.
    #[serde(skip_serializing_if = "empty")]
    pub binlogs: Vec<Log>,
}

/// One file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// Where it lay in Milvus's own storage, not where it lies now.
    #[serde(skip_serializing_if = "empty")]
    pub log_path: String,
    /// Its bytes.
    #[serde(skip_serializing_if = "empty")]
    pub log_size: i64,
    /// Its number, which is its name.
    #[serde(skip_serializing_if = "empty")]
    pub log_id: i64,
}

/// What the files of one level hold: a list.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Level<T> {
    infos: Vec<T>,
}

impl SegmentInfo {
    /// Where its files of a kind (`insert_log`, `delta_log`) lie in the backup's folder; those of rows in a folder a field
    /// below. What the metadata says of their places is where they were copied from.
    #[must_use]
    pub fn folder(&self, kind: &str) -> String {
        let (collection, partition) = (self.collection_id, self.partition_id);
        match self.group_id {
            0 => format!("binlogs/{kind}/{collection}/{partition}/{}", self.segment_id),
            group => format!("binlogs/{kind}/{collection}/{partition}/{group}/{}", self.segment_id),
        }
    }
}

impl Log {
    /// Its number, which early versions tell as the last part of its old path alone.
    #[must_use]
    pub fn number(&self) -> Option<i64> {
        match self.log_id {
            0 => self.log_path.rsplit('/').next()?.parse().ok(),
            id => Some(id),
        }
    }
}

impl BackupInfo {
    /// Reads the metadata; `read` gives a file's bytes, or nothing where it is not there.
    ///
    /// # Errors
    /// [`Kind::BackupCorrupted`] with the file's name where one is missing or is not what it should be;
    /// [`Kind::SchemaIncompatible`] for a format that is not binlogs; `read`'s own.
    pub async fn read(read: impl AsyncFn(&'static str) -> Result<Option<bytes::Bytes>>) -> Result<Self> {
        let info = if let Some(full) = read(FULL_FILE).await? {
            parse(FULL_FILE, &full)?
        } else {
            let must = async |file: &'static str| read(file).await?.ok_or_else(|| missing(file));
            let mut info: Self = parse(BACKUP_FILE, &must(BACKUP_FILE).await?)?;
            let collections: Level<CollectionInfo> = parse(COLLECTION_FILE, &must(COLLECTION_FILE).await?)?;
            let partitions: Level<PartitionInfo> = parse(PARTITION_FILE, &must(PARTITION_FILE).await?)?;
            let segments: Level<SegmentInfo> = parse(SEGMENT_FILE, &must(SEGMENT_FILE).await?)?;
            info.collection_backups = assemble(collections.infos, partitions.infos, segments.infos)?;
            info
        };
        if !info.format.is_empty() {
            return Err(Error::new(
                Kind::SchemaIncompatible,
                format!(
                    "the backup '{}' is of milvus-backup's format '{}', not of binlogs, which is what this version reads",
                    info.name, info.format
                ),
            ));
        }
        Ok(info)
    }

    /// The five files, as milvus-backup writes them.
    ///
    /// # Errors
    /// [`Kind::Internal`] where JSON cannot be written.
    pub fn to_files(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let backup = Self { collection_backups: Vec::new(), database_backups: Vec::new(), ..self.clone() };
        let (mut collections, mut partitions, mut segments) = (Vec::new(), Vec::new(), Vec::new());
        for collection in &self.collection_backups {
            let mut collection = collection.clone();
            for partition in &mut collection.partition_backups {
                segments.append(&mut partition.segment_backups);
                partitions.push(partition.clone());
            }
            collections.push(collection);
        }
        Ok(vec![
            (BACKUP_FILE, bytes_of(&backup)?),
            (COLLECTION_FILE, bytes_of(&Level { infos: collections })?),
            (PARTITION_FILE, bytes_of(&Level { infos: partitions })?),
            (SEGMENT_FILE, bytes_of(&Level { infos: segments })?),
            (FULL_FILE, bytes_of(self)?),
        ])
    }
}

fn assemble(
    mut collections: Vec<CollectionInfo>,
    partitions: Vec<PartitionInfo>,
    segments: Vec<SegmentInfo>,
) -> Result<Vec<CollectionInfo>> {
    for partition in partitions {
        let owner = collections
            .iter_mut()
            .find(|collection| collection.collection_id == partition.collection_id)
            .ok_or_else(|| {
                damaged(PARTITION_FILE, &format!("names collection {}, which is not there", partition.collection_id))
            })?;
        // The file of collections lists their partitions too.
        if let Some(known) =
            owner.partition_backups.iter_mut().find(|known| known.partition_id == partition.partition_id)
        {
            *known = partition;
        } else {
            owner.partition_backups.push(partition);
        }
    }
    for segment in segments {
        let owner = collections.iter_mut().find(|collection| collection.collection_id == segment.collection_id);
        let orphan = || {
            damaged(
                SEGMENT_FILE,
                &format!(
                    "names partition {} of segment {}, which is not there",
                    segment.partition_id, segment.segment_id
                ),
            )
        };
        let owner = owner.ok_or_else(orphan)?;
        if segment.partition_id == -1 {
            if !owner.l0_segments.iter().any(|known| known.segment_id == segment.segment_id) {
                owner.l0_segments.push(segment);
            }
            continue;
        }
        let partition =
            owner.partition_backups.iter_mut().find(|partition| partition.partition_id == segment.partition_id);
        partition.ok_or_else(orphan)?.segment_backups.push(segment);
    }
    Ok(collections)
}

fn parse<T: DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| damaged(file, &format!("is not the metadata it should be: {error}")))
}

fn bytes_of(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| internal(error.to_string()))
}

fn missing(file: &str) -> Error {
    damaged(file, "is missing")
}

fn damaged(file: &str, what: &str) -> Error {
    Error::new(
        Kind::BackupCorrupted,
        format!("{file} {what}. Copy it back from where it is whole, or use another backup"),
    )
    .with("failed_files", vec![file])
}

/// Whether Go's JSON encoder would leave the value out.
fn empty<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/milvus-backup/fx_int/");

    async fn read_but(without: &'static str) -> Result<BackupInfo> {
        BackupInfo::read(async |file| {
            Ok(std::fs::read(format!("{FIXTURE}{file}")).ok().filter(|_| file != without).map(Into::into))
        })
        .await
    }

    #[tokio::test]
    async fn the_files_of_milvus_backup_come_out_as_they_went_in() {
        let info = read_but("").await.unwrap();
        assert_eq!((info.name.as_str(), info.collection_backups.len()), ("fx_int", 1));
        for (file, ours) in info.to_files().unwrap() {
            let theirs: serde_json::Value =
                serde_json::from_slice(&std::fs::read(format!("{FIXTURE}{file}")).unwrap()).unwrap();
            let ours: serde_json::Value = serde_json::from_slice(&ours).unwrap();
            assert_eq!(ours, theirs, "{file}");
        }
    }

    #[tokio::test]
    async fn the_four_level_files_say_as_much_as_the_full_one() {
        let (full, mut levels) = (read_but("").await.unwrap(), read_but(FULL_FILE).await.unwrap());
        levels.database_backups.clone_from(&full.database_backups);
        assert_eq!(levels, full);
    }

    #[tokio::test]
    async fn what_is_missing_or_contradictory_is_named() {
        let only_backup = BackupInfo::read(async |file| {
            Ok((file == BACKUP_FILE).then(|| bytes::Bytes::from_static(b"{\"name\":\"x\"}")))
        });
        let error = only_backup.await.unwrap_err();
        assert!(error.message().contains(COLLECTION_FILE), "{error}");
        let other = BackupInfo::read(async |_| Ok(Some(bytes::Bytes::from_static(b"{\"format\":\"snapshot\"}"))));
        assert_eq!(other.await.unwrap_err().kind(), Kind::SchemaIncompatible);
    }
}
