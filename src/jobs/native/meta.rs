//! milvus-backup's metadata of a backup that we make, so that it reads ours as its own.

use std::collections::BTreeMap;

use rand::Rng;

use super::files::{LogFile, SegmentFiles};
use super::snapshot::Moment;
use crate::binlog::description;
use crate::binlog::metadata::{BackupInfo, CollectionInfo, DatabaseInfo, FieldLogs, Log, PartitionInfo, SegmentInfo};
use crate::checksum::hex;
use crate::milvus::{Identity, LoadState, PartitionIdentity};
use crate::repository::{BackupId, Store};
use crate::schema::{Collection, Index};

/// Its number for "done"; v0.5.16 writes 0 there.
const STATE: i32 = 0;
/// Hybrid timestamps are milliseconds, shifted by so many bits.
const LOGICAL_BITS: u32 = 18;

/// What the metadata is made of.
pub struct Described<'a> {
    pub id: &'a BackupId,
    pub server_version: &'a str,
    pub collection: &'a Collection,
    pub indexes: &'a [Index],
    pub identity: &'a Identity,
    /// Those of its partitions that are backed up.
    pub partitions: &'a [String],
    pub moment: &'a Moment,
    pub segments: &'a [SegmentFiles],
    pub storage: &'a Store,
}

/// The whole of it.
pub fn of(described: &Described<'_>) -> BackupInfo {
    let id = uuid();
    let collection = collection(described, &id);
    BackupInfo {
        id,
        state_code: STATE,
        name: described.id.as_str().to_owned(),
        size: collection.size,
        milvus_version: described.server_version.to_owned(),
        database_backups: vec![DatabaseInfo {
            db_name: described.collection.database.clone(),
            db_id: described.identity.database,
            ..DatabaseInfo::default()
        }],
        collection_backups: vec![collection],
        ..BackupInfo::default()
    }
}

fn collection(described: &Described<'_>, id: &str) -> CollectionInfo {
    let identity = described.identity;
    let wanted = |partition: &&PartitionIdentity| described.partitions.contains(&partition.name);
    let partitions: Vec<_> = identity.partitions.iter().filter(wanted).map(|one| partition(described, one)).collect();
    let for_all = described.segments.iter().filter(|files| files.segment.partition < 0);
    let for_all: Vec<_> = for_all.map(|files| segment(files, described.storage)).collect();
    let mut info = CollectionInfo {
        id: id.to_owned(),
        collection_id: identity.collection,
        db_id: identity.database,
        size: partitions.iter().map(|part| part.size).chain(for_all.iter().map(|part| part.size)).sum(),
        load_state: load_state(identity.loaded),
        backup_timestamp: described.moment.timestamp,
        backup_physical_timestamp: (described.moment.timestamp >> LOGICAL_BITS) / 1000,
        created_timestamp: identity.created,
        virtual_channel_names: identity.virtual_channels.clone(),
        physical_channel_names: identity.physical_channels.clone(),
        partition_backups: partitions,
        l0_segments: for_all,
        ..description::describe(described.collection, described.indexes)
    };
    for index in &mut info.index_infos {
        let number = identity.indexes.iter().find(|(name, _)| *name == index.index_name);
        index.index_id = number.map_or(0, |(_, number)| *number);
    }
    info
}

fn partition(described: &Described<'_>, partition: &PartitionIdentity) -> PartitionInfo {
    let own = described.segments.iter().filter(|files| files.segment.partition == partition.id);
    let segments: Vec<_> = own.map(|files| segment(files, described.storage)).collect();
    PartitionInfo {
        partition_id: partition.id,
        partition_name: partition.name.clone(),
        collection_id: described.identity.collection,
        size: segments.iter().map(|segment| segment.size).sum(),
        segment_backups: segments,
        load_state: load_state(partition.loaded),
    }
}

fn segment(files: &SegmentFiles, storage: &Store) -> SegmentInfo {
    let mut fields: BTreeMap<i64, Vec<Log>> = BTreeMap::new();
    for file in &files.inserts {
        fields.entry(file.field).or_default().push(log(file, storage));
    }
    let segment = &files.segment;
    let deletes: Vec<Log> = files.deletes.iter().map(|file| log(file, storage)).collect();
    SegmentInfo {
        segment_id: segment.id,
        collection_id: segment.collection,
        partition_id: segment.partition,
        num_of_rows: signed(segment.rows),
        binlogs: fields.into_iter().map(|(field_id, binlogs)| FieldLogs { field_id, binlogs }).collect(),
        deltalogs: if deletes.is_empty() { Vec::new() } else { vec![FieldLogs { field_id: 0, binlogs: deletes }] },
        size: signed(files.bytes()),
        group_id: if segment.partition < 0 { 0 } else { segment.id },
        is_l0: segment.is_level_zero,
        storage_version: segment.storage_version,
        ..SegmentInfo::default()
    }
}

fn log(file: &LogFile, storage: &Store) -> Log {
    Log { log_path: storage.display(file.from.as_str()), log_size: signed(file.bytes), log_id: file.log }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// milvus-backup's words.
fn load_state(state: LoadState) -> String {
    match state {
        LoadState::NotLoaded => "NotLoad",
        LoadState::Loading => "Loading",
        LoadState::Loaded => "Loaded",
    }
    .to_owned()
}

/// A random UUID (version 4), which is how milvus-backup numbers its backups.
fn uuid() -> String {
    let mut bytes: [u8; 16] = rand::rng().random();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let digits = hex(&bytes);
    format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
}
