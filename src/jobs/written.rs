//! What is said of data files that are finished, wherever their rows came from: schema, indexes, chunk table, manifest.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::backup_request::BackupRequest;
use crate::digest::SetDigest;
use crate::error::{Result, internal};
use crate::repository::Attempt;
use crate::repository::manifest::{Manifest, PartitionDigest};
use crate::repository::names::{RelativePath, index_file};
use crate::repository::tables::{CHUNKS_FILE, ChunkTable, SCHEMA_FILE};
use crate::schema::{Collection, Index};

/// Data files that are finished, wherever their rows came from.
pub(super) struct Written<'a> {
    pub collection: &'a Collection,
    pub indexes: &'a [Index],
    pub partitions: &'a [String],
    /// The version of the server.
    pub server: &'a str,
    /// What each partition's rows amount to.
    pub sets: BTreeMap<String, SetDigest>,
    pub chunks: ChunkTable,
}

impl Written<'_> {
    /// Writes the files that describe them; the manifest, which does not say yet what moment they are of.
    pub(super) async fn describe(self, request: &BackupRequest, attempt: &Attempt) -> Result<Manifest> {
        let Self { collection, indexes, partitions, server, sets, chunks } = self;
        let schema = serde_json::to_value(collection).map_err(|error| internal(error.to_string()))?;
        attempt.put(&RelativePath::new(SCHEMA_FILE)?, pretty(&schema)?).await?;
        if request.include_indexes {
            put_indexes(attempt, indexes).await?;
        }
        attempt.put(&RelativePath::new(CHUNKS_FILE)?, chunks.to_bytes()?.into()).await?;
        let mut manifest =
            Manifest::new(attempt.id().clone(), attempt.backup_name(), &collection.database, &collection.name);
        let names = if collection.has_partition_key() { &collection.partitions } else { partitions };
        manifest.partition_names = names.to_vec();
        manifest.backup_type = request.backup_type;
        manifest.row_count = sets.values().map(|set| set.rows).sum();
        manifest.segment_count = chunks.chunks.len() as u64;
        manifest.size_bytes = chunks.chunks.iter().map(|chunk| chunk.bytes).sum();
        manifest.compression_enabled = request.compression_enabled;
        manifest.compression_level = request.compression_level.into();
        manifest.include_indexes = request.include_indexes;
        server.clone_into(&mut manifest.milvus_version);
        manifest.tags.clone_from(&request.tags);
        manifest.schema_snapshot = schema;
        let digest =
            |set: SetDigest| PartitionDigest { rows: set.rows, digest: Some(set.to_string()), older_rows: None };
        manifest.digest.partitions = sets.into_iter().map(|(name, set)| (name, digest(set))).collect();
        Ok(manifest)
    }
}

/// Writes the definitions of indexes, a file for each field.
pub(super) async fn put_indexes(attempt: &Attempt, indexes: &[Index]) -> Result<()> {
    for (field, indexes) in by_field(indexes) {
        attempt.put(&index_file(&field)?, pretty(&json!(indexes))?).await?;
    }
    Ok(())
}

fn by_field(indexes: &[Index]) -> BTreeMap<String, Vec<&Index>> {
    let mut fields: BTreeMap<String, Vec<&Index>> = BTreeMap::new();
    for index in indexes {
        fields.entry(index.field.clone()).or_default().push(index);
    }
    fields
}

pub(super) fn pretty(value: &Value) -> Result<bytes::Bytes> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| internal(error.to_string()))?;
    text.push(b'\n');
    Ok(text.into())
}
