//! Does a backup agree with itself? Its schema with the manifest's, its chunk table with what the manifest promises of
//! the rows. Reads two small files.

use std::collections::{BTreeMap, BTreeSet};

use super::pieces::{Piece, Pieces};
use super::read::ALL_PARTITIONS;
use super::verify::Checks;
use crate::digest::SetDigest;
use crate::error::{Error, Kind, Result};
use crate::repository::manifest::{BackupType, StorageType};
use crate::repository::{Backup, ChunkTable, Owner, RelativePath};
use crate::schema::Collection;

/// A file that does not say what it has to, and a sentence that tells what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Contradiction {
    pub(super) file: String,
    pub(super) error: String,
}

/// What a backup is made of, as far as it could be read, and where it contradicts itself.
#[derive(Default)]
pub(super) struct Agreement {
    pub(super) collection: Option<Collection>,
    pub(super) table: Option<ChunkTable>,
    pub(super) contradictions: Vec<Contradiction>,
}

/// Milvus's metadata and the list of files have to name the same files.
async fn segments_agree(backup: &Backup, collection: &Collection) -> Result<()> {
    let pieces = Pieces::of(backup, collection, None).await?.all;
    let told: BTreeSet<&str> = pieces.iter().flat_map(Piece::files).map(RelativePath::as_str).collect();
    if backup.owner() == Owner::MilvusBackup {
        return Ok(()); // the metadata is all that names its files
    }
    let sums = backup.checksums().await?;
    let known: BTreeSet<&str> = sums.files.keys().map(RelativePath::as_str).collect();
    let mut there = known.iter().filter(|file| file.starts_with("binlogs/insert_log/"));
    let wrong = |what: String| {
        Error::new(Kind::BackupCorrupted, what).with("failed_files", vec![crate::binlog::metadata::FULL_FILE])
    };
    if let Some(file) = told.iter().find(|file| !known.contains(*file)) {
        return Err(wrong(format!("the metadata names {file}, which is not a file of the backup")));
    }
    match there.find(|file| !told.contains(*file)) {
        Some(file) => Err(wrong(format!("{file} is a file of the backup, and the metadata does not name it"))),
        None => Ok(()),
    }
}

/// Reads schema and chunk table and holds them against the manifest, as far as `checks` asks for it.
pub(super) async fn with_itself(backup: &Backup, checks: Checks) -> Result<Agreement> {
    let mut found = Agreement::default();
    let manifest = backup.manifest();
    match backup.schema().await {
        Err(error) => found.note("schema.json", error)?,
        Ok(schema) => {
            if checks.schema && schema != manifest.schema_snapshot {
                found.contradict("schema.json", "schema.json is not the schema that the manifest has".to_owned());
            }
            match serde_json::from_value::<Collection>(schema) {
                Ok(collection) => found.collection = Some(collection),
                Err(error) => found.contradict("schema.json", format!("schema.json is no schema: {error}")),
            }
        }
    }
    if checks.schema
        && let Some(collection) = &found.collection
        && let Err(error) = collection.schema.arrow()
    {
        found.contradict("schema.json", format!("schema.json is no schema: {}", error.message()));
    }
    if checks.schema
        && let Err(error) = backup.indexes().await
    {
        found.note("indexes", error)?;
    }
    if manifest.storage_type == StorageType::MilvusNative {
        if let Some(collection) = &found.collection
            && let Err(error) = segments_agree(backup, collection).await
        {
            found.note(crate::binlog::metadata::FULL_FILE, error)?;
        }
    } else if checks.data || checks.rows {
        match backup.chunks().await {
            Err(error) => found.note("chunks.json", error)?,
            Ok(table) => {
                if let Some(why) = sums_differ(backup, &table, checks)? {
                    found.contradict("chunks.json", why);
                }
                found.table = Some(table);
            }
        }
    }
    found.contradictions.sort();
    found.contradictions.dedup_by(|a, b| a.file == b.file);
    Ok(found)
}

impl Agreement {
    fn contradict(&mut self, file: &str, error: String) {
        self.contradictions.push(Contradiction { file: file.to_owned(), error });
    }

    /// What cannot be read is a finding, unless it may be read the next time.
    fn note(&mut self, file: &str, error: Error) -> Result<()> {
        if error.is_temporary() || error.kind() == Kind::Internal {
            return Err(error);
        }
        let named = error.details().get("failed_files").and_then(|files| files.get(0)?.as_str()).map(str::to_owned);
        self.contradict(named.as_deref().unwrap_or(file), error.message().to_owned());
        Ok(())
    }
}

/// Whether the chunks add up to the rows and digests that the manifest promises of each partition.
fn sums_differ(backup: &Backup, table: &ChunkTable, checks: Checks) -> Result<Option<String>> {
    let manifest = backup.manifest();
    // What an increment adds and takes away does not add up to the rows that it shows.
    if manifest.backup_type == BackupType::Incremental {
        return Ok(None);
    }
    let mut sums: BTreeMap<&str, SetDigest> = BTreeMap::new();
    for chunk in &table.chunks {
        sums.entry(&chunk.partition).or_default().merge(&SetDigest::from_hex(chunk.rows, &chunk.digest)?);
    }
    for (partition, promised) in &manifest.digest.partitions {
        let Some(digest) = &promised.digest else { continue };
        let promised = SetDigest::from_hex(promised.rows, digest)?;
        let found = sums.remove(partition.as_str()).unwrap_or_default();
        let of = if partition == ALL_PARTITIONS { String::new() } else { format!(" of partition {partition}") };
        if checks.rows && found.rows != promised.rows {
            return Ok(Some(format!(
                "chunks.json has {} rows{of} where the manifest promises {}",
                found.rows, promised.rows
            )));
        }
        if checks.data && found != promised {
            return Ok(Some(format!("chunks.json has other rows{of} than the manifest promises, by their digests")));
        }
    }
    if let Some(partition) = sums.keys().next() {
        return Ok(Some(format!("chunks.json has rows of partition {partition}, which the manifest does not have")));
    }
    let rows = table.chunks.iter().try_fold(0_u64, |sum, chunk| sum.checked_add(chunk.rows));
    if checks.rows && rows != Some(manifest.row_count) {
        return Ok(Some(format!(
            "chunks.json does not have the {} rows that the manifest promises",
            manifest.row_count
        )));
    }
    Ok(None)
}
