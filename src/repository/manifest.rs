//! `metadata.json`: what a backup says of itself, and proof that the file is as it was written.
//!
//! Pretty JSON whose last member is `"self": "sha256:<64 hex digits>"`. The hash covers every byte before the digits
//! and every byte after them, so no single byte can change unnoticed, and since the manifest holds the checksum of
//! `checksums.json`, which holds that of every other file, this one hash stands for the whole backup.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checksum::{ChecksumAlgorithm, Hasher, is_hex};
use crate::error::{Error, Kind, Result, internal};

use super::names::{BackupId, check_backup_name, check_name};
use super::tables::unique_map;

/// The file's name in a backup's folder.
pub const FILE: &str = "metadata.json";
/// The newest layout that this version reads, and the one it writes.
pub const VERSION: u32 = 1;
/// A larger manifest is refused before it is read.
pub const CEILING: u64 = 16 << 20;

const BEFORE_SELF: &str = ",\n  \"self\": \"sha256:";
const AFTER_SELF: &str = "\"\n}\n";
const HEX: usize = 64;

/// Whether a backup exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// It does: every file is there.
    Completed,
    /// It never will: a sweeper found the run dead and deletes its files.
    Failed,
    /// No longer: somebody is deleting it, or was interrupted while doing so.
    Deleting,
}

/// What part of a collection a backup holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)]
pub enum BackupType {
    #[default]
    FullCollection,
    Partition,
    Incremental,
}

/// Which form the rows have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StorageType {
    /// Parquet files.
    #[default]
    LocalFile,
    /// Milvus's own binlogs.
    MilvusNative,
}

/// How sure it is that a backup shows one point in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotKind {
    /// Unproven: rows may stem from any moment between start and end.
    #[default]
    Fuzzy,
    /// Two reads gave the same digest.
    Stable,
    /// Binlogs at a timestamp, or a single read.
    Snapshot,
}

/// The point in time, or the window, that a backup shows. Counts are rows, as `count(*)` gave them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Snapshot {
    pub kind: SnapshotKind,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    pub count_before: Option<u64>,
    pub count_after: Option<u64>,
    /// The hybrid timestamp (milliseconds since 1970, shifted left by 18 bits) that the rows are of, where Milvus's own
    /// files gave them. Those of a native backup hold later ones too, which are not to be taken; Parquet files hold the
    /// rows and no others. None for rows that the server was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    /// The hybrid timestamp since when, as far as Milvus's storage showed, no compaction has taken rows away: earlier
    /// moments from then on are shown exactly. None where nothing is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_since: Option<u64>,
}

/// What a backup has from runs that ended before they were done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// The last of those runs.
    pub backup_id: BackupId,
    /// When the first of them began to read whose rows are in the backup.
    pub started_at: DateTime<Utc>,
    /// How many data files.
    pub chunks: u64,
    /// Their rows.
    pub rows: u64,
}

/// The set digest of the rows, per partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// `xxh3-128`.
    pub algorithm: String,
    /// Partition → rows and digest.
    #[serde(deserialize_with = "unique_map")]
    pub partitions: BTreeMap<String, PartitionDigest>,
}

impl Default for Digest {
    fn default() -> Self {
        Self { algorithm: "xxh3-128".to_owned(), partitions: BTreeMap::new() }
    }
}

/// One partition's rows and their set digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionDigest {
    /// How many rows.
    pub rows: u64,
    /// 32 lower-case hex digits; none where the rows were not read, but Milvus's own files copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// How many rows Milvus's own files have besides that live, each older than another row of its key, and are not among
    /// `rows`; none where there are no such files, or they were not looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_rows: Option<u64>,
}

/// A backup's manifest. The writer fills in what it knows; [`super::Attempt::commit`] sets what the repository knows
/// (`backup_id`, names, state, times, `compressed_size_bytes`, the checksum).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The layout's version; [`VERSION`].
    pub metadata_version: u32,
    /// Whether the backup exists.
    pub state: State,
    /// The folder's name.
    pub backup_id: BackupId,
    /// The name for people, unique within the collection.
    pub backup_name: String,
    /// The database of the collection.
    pub database: String,
    /// The collection's name.
    pub collection_name: String,
    /// The partitions it holds, all of them for a full backup.
    #[serde(default)]
    pub partition_names: Vec<String>,
    /// When the run began, UTC.
    pub created_at: DateTime<Utc>,
    /// When it was committed, UTC.
    #[serde(default)]
    pub completed_at: Option<DateTime<Utc>>,
    /// Parquet or binlogs.
    #[serde(default)]
    pub storage_type: StorageType,
    /// Full, partitions or an increment.
    #[serde(default)]
    pub backup_type: BackupType,
    /// Rows in all chunks.
    #[serde(default)]
    pub row_count: u64,
    /// How many chunks.
    #[serde(default)]
    pub segment_count: u64,
    /// Arrow bytes of all rows.
    #[serde(default)]
    pub size_bytes: u64,
    /// Bytes of all files but this one, `checksums.json` included and `verification.json` not.
    #[serde(default)]
    pub compressed_size_bytes: u64,
    /// Whether the data files are compressed.
    #[serde(default)]
    pub compression_enabled: bool,
    /// The level asked for.
    #[serde(default)]
    pub compression_level: i32,
    /// Whether index definitions are in `indexes/`.
    #[serde(default)]
    pub include_indexes: bool,
    /// Which checksum the files carry.
    #[serde(default)]
    pub checksum_algorithm: ChecksumAlgorithm,
    /// The checksum of `checksums.json`, lower-case hex; empty in a tombstone.
    #[serde(default)]
    pub checksum: String,
    /// The server's version at the time.
    #[serde(default)]
    pub milvus_version: String,
    /// Milvault's version.
    #[serde(default)]
    pub tool_version: String,
    /// The user's tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// The backup that an increment builds on.
    #[serde(default)]
    pub parent: Option<BackupId>,
    /// The collection's schema, so that `list` and `show` need no other file.
    #[serde(default)]
    pub schema_snapshot: Value,
    /// The point in time.
    #[serde(default)]
    pub snapshot: Snapshot,
    /// What was read by runs that ended before they were done; `None` where one run read it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<Resumed>,
    /// The rows' fingerprint.
    #[serde(default)]
    pub digest: Digest,
    /// Why the run failed.
    #[serde(default)]
    pub error_message: Option<String>,
    /// What the user was warned of.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Manifest {
    /// A manifest with the names set and all else empty, COMPLETED, as of now.
    #[must_use]
    pub fn new(backup_id: BackupId, backup_name: &str, database: &str, collection_name: &str) -> Self {
        Self {
            metadata_version: VERSION,
            state: State::Completed,
            backup_id,
            backup_name: backup_name.to_owned(),
            database: database.to_owned(),
            collection_name: collection_name.to_owned(),
            partition_names: Vec::new(),
            created_at: super::names::now(),
            completed_at: None,
            storage_type: StorageType::default(),
            backup_type: BackupType::default(),
            row_count: 0,
            segment_count: 0,
            size_bytes: 0,
            compressed_size_bytes: 0,
            compression_enabled: false,
            compression_level: 0,
            include_indexes: false,
            checksum_algorithm: ChecksumAlgorithm::default(),
            checksum: String::new(),
            milvus_version: String::new(),
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            tags: Vec::new(),
            parent: None,
            schema_snapshot: Value::Null,
            snapshot: Snapshot::default(),
            resumed: None,
            digest: Digest::default(),
            error_message: None,
            warnings: Vec::new(),
        }
    }

    /// The file's bytes, `self` included.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let json = serde_json::to_string_pretty(self)
            .map_err(|error| internal(format!("a manifest cannot be written as JSON: {error}")))?;
        let body = json.strip_suffix("\n}").ok_or_else(|| internal("a manifest is not a JSON object"))?;
        let before = format!("{body}{BEFORE_SELF}");
        let bytes = format!("{before}{}{AFTER_SELF}", self_hash(before.as_bytes(), AFTER_SELF.as_bytes())).into_bytes();
        if bytes.len() as u64 > CEILING {
            return Err(Error::new(
                Kind::Backup,
                format!(
                    "the manifest would be {} bytes long, over the limit of {CEILING}: use fewer or shorter tags",
                    bytes.len()
                ),
            ));
        }
        Ok(bytes)
    }

    /// Reads a manifest and checks everything that it can be checked for by itself: `self`, the version, the names.
    /// [`Kind::BackupCorrupted`] (with `failed_files`) where it is damaged or made by a newer version.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() as u64 > CEILING {
            return Err(damaged(&format!("is {} bytes long, over the limit of {CEILING}", bytes.len())));
        }
        let sealed = check_self(bytes);
        // Read once where all is well, as it nearly always is; what is wrong is worked out from a tree of all values.
        if matches!(sealed, Seal::Whole)
            && let Ok(manifest) = serde_json::from_slice::<Self>(bytes)
            && manifest.metadata_version == VERSION
        {
            manifest.check()?;
            return Ok(manifest);
        }
        Self::parse_with_care(bytes, sealed)
    }

    fn parse_with_care(bytes: &[u8], sealed: Seal) -> Result<Self> {
        let value: Value =
            serde_json::from_slice(bytes).map_err(|error| damaged(&format!("is truncated or not JSON ({error})")))?;
        let version = value.get("metadata_version").and_then(Value::as_u64);
        if let Some(version) = version.filter(|version| *version > u64::from(VERSION))
            && !matches!(sealed, Seal::Broken { .. })
        {
            return Err(Error::new(
                Kind::BackupCorrupted,
                format!(
                    "metadata.json has layout version {version}, but this Milvault reads versions up to {VERSION}: \
                     the backup was made by a newer Milvault; upgrade to read it"
                ),
            )
            .with("failed_files", vec![FILE])
            .with("metadata_version", version));
        }
        match sealed {
            Seal::Whole => {}
            Seal::Missing => return Err(damaged("does not end in its own checksum (`self`)")),
            Seal::Broken { expected, actual } => {
                return Err(damaged("does not match its own checksum (`self`)")
                    .with("expected_checksum", expected)
                    .with("actual_checksum", actual)
                    .with("checksum_algorithm", "SHA256"));
            }
        }
        if version != Some(u64::from(VERSION)) {
            return Err(damaged("has no valid metadata_version"));
        }
        let manifest: Self =
            serde_json::from_value(value).map_err(|error| damaged(&format!("lacks what a manifest has ({error})")))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// [`Manifest::parse`], and the manifest has to be that of the folder it was found in.
    pub fn parse_in(bytes: &[u8], folder: &str, backup_id: &BackupId) -> Result<Self> {
        let manifest = Self::parse(bytes)?;
        if manifest.backup_id != *backup_id {
            return Err(damaged(&format!(
                "in the folder of backup {backup_id} is that of another backup, {}",
                manifest.backup_id
            )));
        }
        if super::names::collection_folder(&manifest.database, &manifest.collection_name)? != folder {
            return Err(damaged(&format!(
                "in the folder {folder} is that of another collection, {}.{}",
                manifest.database, manifest.collection_name
            )));
        }
        Ok(manifest)
    }

    fn check(&self) -> Result<()> {
        let wrong = |error: Error| damaged(&format!("has a name that cannot be one: {}", error.message()));
        super::names::collection_folder(&self.database, &self.collection_name).map_err(wrong)?;
        check_backup_name(&self.backup_name).map_err(wrong)?;
        for partition in self.partition_names.iter().chain(self.digest.partitions.keys()) {
            check_name("partition", partition).map_err(wrong)?;
        }
        if !(1..=9999).contains(&self.created_at.year()) {
            return Err(damaged("has a time of creation that is none"));
        }
        if !(self.schema_snapshot.is_null() || self.schema_snapshot.is_object()) {
            return Err(damaged("has a schema that is none"));
        }
        let digests = self.digest.partitions.values().filter_map(|partition| partition.digest.as_ref());
        if digests.into_iter().any(|digest| !is_hex(digest, 32)) {
            return Err(damaged("has a digest that is not 32 hex digits"));
        }
        let native = self.storage_type == StorageType::MilvusNative;
        if !native && self.digest.partitions.values().any(|partition| partition.digest.is_none()) {
            return Err(damaged("has a partition without a digest"));
        }
        if native && self.snapshot.timestamp.is_none() && self.state == State::Completed {
            return Err(damaged("has no timestamp that its rows are to be taken at"));
        }
        if self.state == State::Completed && !is_hex(&self.checksum, self.checksum_algorithm.hex_length()) {
            return Err(damaged(&format!("has a checksum that is not one of {}", self.checksum_algorithm)));
        }
        Ok(())
    }
}

enum Seal {
    Whole,
    Missing,
    Broken { expected: String, actual: String },
}

fn check_self(bytes: &[u8]) -> Seal {
    let Some(rest) = bytes.strip_suffix(AFTER_SELF.as_bytes()) else { return Seal::Missing };
    let Some((before, digits)) = rest.len().checked_sub(HEX).map(|at| rest.split_at(at)) else { return Seal::Missing };
    if !before.ends_with(BEFORE_SELF.as_bytes()) {
        return Seal::Missing;
    }
    let actual = self_hash(before, AFTER_SELF.as_bytes());
    if digits == actual.as_bytes() {
        Seal::Whole
    } else {
        Seal::Broken { expected: String::from_utf8_lossy(digits).into_owned(), actual }
    }
}

fn self_hash(before: &[u8], after: &[u8]) -> String {
    let mut hasher = Hasher::new(ChecksumAlgorithm::Sha256);
    hasher.update(before);
    hasher.update(after);
    hasher.finish()
}

fn damaged(what: &str) -> Error {
    Error::new(
        Kind::BackupCorrupted,
        format!("metadata.json {what}; restore this file from a copy, or delete the backup"),
    )
    .with("failed_files", vec![FILE])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn sample() -> Manifest {
        let id = "b20261121T063000Z_3f9a1c".parse().unwrap();
        let mut manifest = Manifest::new(id, "before the move", "default", "films");
        manifest.created_at = "2026-11-21T06:30:00.123456Z".parse().unwrap();
        manifest.checksum = ChecksumAlgorithm::Sha256.of(b"list");
        manifest.partition_names = vec!["_default".to_owned(), "new".to_owned()];
        manifest.schema_snapshot = json!({"fields": [{"name": "id"}]});
        let digest =
            PartitionDigest { rows: 3, digest: Some("0123456789abcdef0123456789abcdef".to_owned()), older_rows: None };
        manifest.digest.partitions.insert("_default".to_owned(), digest);
        manifest
    }

    /// `text` as the body of a manifest, sealed as [`Manifest::to_bytes`] would.
    fn sealed(value: &Value) -> Vec<u8> {
        let json = serde_json::to_string_pretty(value).unwrap();
        let before = format!("{}{BEFORE_SELF}", json.strip_suffix("\n}").unwrap());
        format!("{before}{}{AFTER_SELF}", self_hash(before.as_bytes(), AFTER_SELF.as_bytes())).into_bytes()
    }

    #[test]
    fn comes_back_as_it_was_written_and_ends_in_its_own_checksum() {
        let bytes = sample().to_bytes().unwrap();
        assert_eq!(Manifest::parse(&bytes).unwrap(), sample());
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        assert!(value["self"].as_str().unwrap().starts_with("sha256:"));
        assert!(std::str::from_utf8(&bytes).unwrap().trim_end().lines().rev().nth(1).unwrap().contains("\"self\""));
        for (field, text) in [
            ("state", "COMPLETED"),
            ("backup_type", "FULL_COLLECTION"),
            ("storage_type", "LOCAL_FILE"),
            ("checksum_algorithm", "SHA256"),
        ] {
            assert_eq!(value[field], text);
        }
        assert_eq!(value["snapshot"]["kind"], "fuzzy");
        assert_eq!(value["digest"]["algorithm"], "xxh3-128");
    }

    #[test]
    fn every_flipped_byte_and_every_bit_of_it_is_found() {
        let bytes = sample().to_bytes().unwrap();
        for at in 0..bytes.len() {
            for flip in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                let error = Manifest::parse(&damaged).expect_err("a flipped byte");
                assert_eq!(error.kind(), Kind::BackupCorrupted, "byte {at}");
                assert_eq!(error.details()["failed_files"], json!(["metadata.json"]));
            }
        }
    }

    #[test]
    fn every_truncation_and_every_added_byte_is_found() {
        let bytes = sample().to_bytes().unwrap();
        for length in 0..bytes.len() {
            assert_eq!(Manifest::parse(&bytes[..length]).unwrap_err().kind(), Kind::BackupCorrupted);
        }
        assert!(Manifest::parse(&[&bytes[..], b" "].concat()).is_err());
        assert!(Manifest::parse(&[b" ", &bytes[..]].concat()).is_err());
    }

    #[test]
    fn a_newer_version_is_refused_by_name_whatever_else_it_has() {
        for value in [json!({"metadata_version": 2, "everything": "else"}), json!({"metadata_version": 99})] {
            for bytes in [sealed(&value), serde_json::to_vec(&value).unwrap()] {
                let error = Manifest::parse(&bytes).unwrap_err();
                assert!(error.message().contains("newer Milvault"), "{error}");
            }
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let valid: Value = serde_json::to_value(sample()).unwrap();
        assert!(Manifest::parse(&sealed(&valid)).is_ok());
        for (field, bad) in [
            ("collection_name", json!("../films")),
            ("database", json!("a.b")),
            ("backup_id", json!("../../etc")),
            ("backup_name", json!("")),
            ("partition_names", json!(["a/b"])),
            ("checksum", json!("ABC")),
            ("metadata_version", json!(0)),
            ("created_at", json!("+12026-11-21T06:30:00Z")),
            ("created_at", json!("-0001-11-21T06:30:00Z")),
            ("schema_snapshot", json!([1])),
            ("digest", json!({"algorithm": "xxh3-128", "partitions": {"p": {"rows": 1, "digest": "x"}}})),
            ("digest", json!({"algorithm": "xxh3-128", "partitions": {"p": {"rows": 1}}})),
            ("storage_type", json!("MILVUS_NATIVE")),
        ] {
            let mut value = valid.clone();
            value[field] = bad;
            assert_eq!(Manifest::parse(&sealed(&value)).unwrap_err().kind(), Kind::BackupCorrupted, "{field}");
        }
    }

    #[test]
    fn a_native_backup_has_a_timestamp_and_may_have_no_digests() {
        let mut native = sample();
        native.storage_type = StorageType::MilvusNative;
        native.snapshot.timestamp = Some(470_611_626_031_841_292);
        native
            .digest
            .partitions
            .insert("_default".to_owned(), PartitionDigest { rows: 3, digest: None, older_rows: Some(2) });
        assert_eq!(Manifest::parse(&native.to_bytes().unwrap()).unwrap(), native);
    }

    #[test]
    fn a_manifest_in_another_backups_folder_is_refused() {
        let bytes = sample().to_bytes().unwrap();
        assert!(Manifest::parse_in(&bytes, "films", &sample().backup_id).is_ok());
        assert!(Manifest::parse_in(&bytes, "shop.films", &sample().backup_id).is_err());
        let other = "b20261121T063001Z_3f9a1c".parse().unwrap();
        assert!(Manifest::parse_in(&bytes, "films", &other).is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(Manifest::parse(&bytes).is_err());
        }

        #[test]
        fn random_json_is_refused_without_a_panic(version in any::<u64>(), text in ".{0,40}", flag in any::<bool>()) {
            let value = json!({"metadata_version": version, "state": text, "tags": flag, "digest": {"partitions": [text]}});
            prop_assert!(Manifest::parse(&sealed(&value)).is_err());
        }

        #[test]
        fn names_and_tags_of_any_text_come_back(tags in proptest::collection::vec(".{0,20}", 0..4), name in "[^/\\p{Cc}]{1,40}") {
            let mut manifest = sample();
            manifest.tags = tags;
            manifest.backup_name = name;
            prop_assert_eq!(Manifest::parse(&manifest.to_bytes().unwrap()).unwrap(), manifest);
        }
    }
}
