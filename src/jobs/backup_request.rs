//! What a backup is asked for, as Python says it.

use serde::Deserialize;

use super::chunks::Chunks;
use super::control::Control;
use super::native;
use super::read::DuplicatePolicy;
use crate::checksum::ChecksumAlgorithm;
use crate::error::{Error, Kind, Result};
use crate::parquet::WriteOptions;
use crate::repository::{Attempt, Link, manifest};
use crate::schema::Collection;

/// What to back up, and how.
#[derive(Debug, Clone, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // the seam's names
pub struct BackupRequest {
    pub(super) collection_name: String,
    /// Unset: the connection's.
    #[serde(default)]
    pub(super) database: Option<String>,
    #[serde(default)]
    pub(super) backup_name: Option<String>,
    #[serde(default)]
    pub(super) backup_type: manifest::BackupType,
    #[serde(default)]
    pub(super) partition_names: Vec<String>,
    #[serde(default = "yes")]
    pub(super) compression_enabled: bool,
    #[serde(default = "level")]
    pub(super) compression_level: u8,
    #[serde(default = "chunk_size")]
    pub(super) chunk_size_mb: u64,
    #[serde(default = "yes")]
    pub(super) include_indexes: bool,
    #[serde(default)]
    pub(super) tags: Vec<String>,
    #[serde(default)]
    pub(super) duplicates: DuplicatePolicy,
    #[serde(default)]
    pub(super) source: RowSource,
    #[serde(default)]
    pub(super) prove_stable: bool,
    #[serde(default = "yes")]
    pub(super) resume: bool,
    #[serde(default)]
    pub(super) checksum_algorithm: ChecksumAlgorithm,
    #[serde(default = "concurrency")]
    pub(super) max_concurrent_chunks: usize,
    #[serde(default = "yes")]
    pub(super) verify_after: bool,
    #[serde(default)]
    pub(super) bandwidth_limit_mib: Option<f64>,
    #[serde(default)]
    pub(super) storage_type: manifest::StorageType,
    /// Whether a native one may share files with Milvus's storage.
    #[serde(default)]
    pub(super) link: Link,
    /// The moment that it has to show, for a native one of a set.
    #[serde(default)]
    pub(super) moment: Option<native::snapshot::Moment>,
    #[serde(default)]
    pub(super) timeout_seconds: Option<f64>,
}

impl BackupRequest {
    /// The data files to be written.
    pub(super) fn chunks<'a>(
        &self,
        collection: &'a Collection,
        partitions: &[String],
        attempt: &'a Attempt,
        control: &'a Control,
    ) -> Chunks<'a> {
        let compression = self.compression_enabled.then_some(self.compression_level);
        let options = WriteOptions { compression, ..WriteOptions::default() };
        Chunks::new(collection, partitions, attempt, control, options, self.chunk_size_mb << 20)
    }

    /// The partitions that are wanted, by name; none where all are.
    ///
    /// # Errors
    /// [`Kind::PartitionNotFound`] for one that is not there, [`Kind::InvalidArgument`] where none can be read by itself.
    pub(super) fn wanted_partitions(&self, collection: &Collection) -> Result<Vec<String>> {
        let by_name = self.backup_type == manifest::BackupType::Partition;
        if by_name && self.partition_names.is_empty() {
            return Err(Error::new(Kind::InvalidArgument, "a backup of type PARTITION needs partition_names"));
        }
        if !self.partition_names.is_empty() && collection.has_partition_key() {
            return Err(Error::new(
                Kind::InvalidArgument,
                format!(
                    "the rows of '{}' are spread over partitions by a partition key, and Milvus reads no single one of them: back up the whole collection",
                    collection.name
                ),
            ));
        }
        if let Some(missing) = self.partition_names.iter().find(|name| !collection.partitions.contains(name)) {
            return Err(Error::new(
                Kind::PartitionNotFound,
                format!(
                    "collection '{}' has no partition '{missing}'; it has: {}",
                    collection.name,
                    collection.partitions.join(", ")
                ),
            )
            .with("partition_name", missing.as_str())
            .with("available_partitions", collection.partitions.clone()));
        }
        Ok(self.partition_names.clone())
    }

    /// Refuses what no data file can be written with.
    pub(super) fn check(&self) -> Result<()> {
        if self.chunk_size_mb > 0 && (1..=9).contains(&self.compression_level) {
            return Ok(());
        }
        Err(Error::new(Kind::InvalidArgument, "chunk_size_mb has to be above 0 and compression_level 1 to 9"))
    }
}

fn yes() -> bool {
    true
}
fn level() -> u8 {
    6
}
fn chunk_size() -> u64 {
    256
}
fn concurrency() -> usize {
    4
}

/// Where the rows of a Parquet backup come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowSource {
    /// Milvus's own files where they are at hand and can be read, else the server's answers.
    #[default]
    Auto,
    /// The server's answers.
    Query,
    /// Milvus's own files.
    Binlogs,
}
