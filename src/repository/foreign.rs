//! Backups that milvus-backup made and keeps, read where they lie. Nobody has summed up their files: what is known of
//! them is their names, and mostly their lengths. Nothing is ever written to their folders.
//!
//! What their metadata says is for others to read; here is where they are found, and which of their files are there.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Kind, Result};

use super::backup::Backup;
use super::catalog::Repository;
use super::integrity::{FailedFile, FileReport, Reason};
use super::look::AT_ONCE;
use super::manifest;
use super::names::{BackupId, RelativePath, check_name, collection_folder, split_folder};
use super::store::{FileKind, FileMeta, Store};

/// The folder of milvus-backup's metadata, and the files of which one has to be in it.
const META: &str = "meta";
const ONE_OF: [&str; 2] = ["full_meta.json", "backup_meta.json"];
/// What a backup's data lies in.
const BINLOGS: &str = "binlogs/";

/// Whose a backup's folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Owner {
    /// Ours, with a manifest and checksums.
    Milvault,
    /// milvus-backup's: read where it lies, never changed.
    MilvusBackup,
}

/// What its metadata tells of a backup that milvus-backup keeps.
pub struct Foreign {
    /// As `schema.json` would have it.
    pub schema: Value,
    /// As `indexes/` would have them.
    pub indexes: Vec<Value>,
    /// Every file that the metadata names, and its length where that is told.
    pub files: BTreeMap<RelativePath, Option<u64>>,
    /// The folders that its files are in and no other collection's.
    pub folders: Vec<String>,
}

impl Backup {
    /// A backup that milvus-backup keeps in the folder `base`, below the store's root.
    #[must_use]
    pub fn of_foreign(store: Store, base: &str, manifest: manifest::Manifest, foreign: Foreign) -> Self {
        Self::at(store.read_only(), String::new(), base.to_owned(), manifest, Some(Arc::new(foreign)))
    }

    /// The same backup, at a moment that its manifest did not name.
    #[must_use]
    pub fn at_moment(&self, timestamp: u64) -> Self {
        let mut manifest = self.manifest().clone();
        manifest.snapshot.timestamp = Some(timestamp);
        self.with_manifest(manifest)
    }

    /// Whose its folder is.
    #[must_use]
    pub fn owner(&self) -> Owner {
        if self.foreign().is_some() { Owner::MilvusBackup } else { Owner::Milvault }
    }

    /// Refuses to do `what` with a folder that is milvus-backup's.
    ///
    /// # Errors
    /// [`Kind::Foreign`], with a way out.
    pub fn require_ours(&self, what: &str) -> Result<()> {
        if self.owner() == Owner::Milvault {
            return Ok(());
        }
        Err(Error::new(
            Kind::Foreign,
            format!(
                "backup {} in {} is milvus-backup's own, which Milvault reads and never changes: {what}",
                self.manifest().backup_name,
                self.storage_path()
            ),
        )
        .with("backup_id", self.id().as_str())
        .with("backup_name", self.manifest().backup_name.as_str())
        .with("collection_name", self.manifest().collection_name.as_str())
        .with("storage_path", self.storage_path()))
    }

    /// Whether every file that the metadata names is there, as long as it says.
    pub(super) async fn check_named_files(&self, foreign: &Foreign, fail_fast: bool) -> Result<FileReport> {
        let base = self.path(META)?;
        let base = base.as_str().strip_suffix(META).unwrap_or_default();
        let mut present = BTreeMap::new();
        for folder in foreign.folders.iter().map(String::as_str).chain([META]) {
            for found in self.store().list(&format!("{base}{folder}")).await? {
                if let Some(path) = found.path.strip_prefix(base) {
                    present.insert(path.to_owned(), found);
                }
            }
        }
        let mut report = FileReport::default();
        for (path, told) in &foreign.files {
            let mut found = present.remove(path.as_str());
            if found.is_none() && !self.store().is_local() {
                // A list may be behind.
                let size = self.store().size(&self.path(path.as_str())?).await?;
                found = size.map(|size| FileMeta { path: path.to_string(), size, kind: FileKind::File });
            }
            match (found, told) {
                (None, _) => report.failed.push(FailedFile::new(path.as_str(), Reason::Missing, None, None)),
                (Some(found), _) if found.kind == FileKind::Link => {
                    let actual = Some("it is a link".to_owned());
                    report.failed.push(FailedFile::new(path.as_str(), Reason::Unreadable, None, actual));
                }
                (Some(found), Some(told)) if found.size != *told => {
                    let (expected, actual) = (Some(told.to_string()), Some(found.size.to_string()));
                    report.failed.push(FailedFile::new(path.as_str(), Reason::Size, expected, actual));
                }
                (Some(_), _) => report.files_verified += 1,
            }
            if fail_fast && !report.is_whole() {
                break;
            }
        }
        report.unnamed = present.into_keys().filter(|path| path.starts_with(BINLOGS)).collect();
        report.failed.sort();
        Ok(report)
    }
}

impl Repository {
    /// Whether the folder `name` of the root is a backup that milvus-backup made.
    pub async fn is_foreign(&self, name: &str) -> Result<bool> {
        if RelativePath::new(name).is_err() || name.contains('/') || name.starts_with(['.', '_']) {
            return Ok(false);
        }
        is_foreign_in(&self.store, name).await
    }

    /// The folders of the root that are backups which milvus-backup made.
    pub async fn foreign_folders(&self) -> Result<Vec<String>> {
        Ok(self.look_around(None, None).await?.1)
    }

    /// Every folder that may be that of one of our backups, and those that are backups of milvus-backup, whatever
    /// collections are in them. In an object store, where each other folder would take a request, those are left out
    /// where one collection is asked for.
    pub(super) async fn look_around(
        &self,
        database: Option<&str>,
        collection: Option<&str>,
    ) -> Result<(Vec<(String, BackupId)>, Vec<String>)> {
        for (what, name) in [("database", database), ("collection", collection)] {
            name.map_or(Ok(()), |name| check_name(what, name))?;
        }
        let wanted = |folder: &str| {
            split_folder(folder).is_some_and(|(of_database, of_collection)| {
                database.is_none_or(|name| name == of_database) && collection.is_none_or(|name| name == of_collection)
            })
        };
        let everywhere = collection.is_none() || self.store.is_local();
        let mut folders = self.store.list_folders("").await?;
        if let (Some(database), Some(collection)) = (database, collection) {
            // A list may be behind.
            let own = collection_folder(database, collection)?;
            if !folders.contains(&own) {
                folders.push(own);
            }
        }
        let looks = folders.into_iter().map(|folder| {
            let wanted = wanted(&folder);
            async move {
                let names = if wanted { self.store.list_folders(&folder).await? } else { Vec::new() };
                let may_be = if wanted { names.iter().any(|name| name == META) } else { everywhere };
                let foreign = may_be && self.is_foreign(&folder).await?;
                let ids = names.iter().filter_map(|name| name.parse::<BackupId>().ok());
                let ids: Vec<_> = ids.map(|id| (folder.clone(), id)).collect();
                Ok::<_, Error>((ids, foreign.then_some(folder)))
            }
        });
        let found: Vec<_> = futures::stream::iter(looks.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await?;
        let (candidates, foreign): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        Ok((candidates.into_iter().flatten().collect(), foreign.into_iter().flatten().collect()))
    }
}

/// Whether there is milvus-backup's metadata in a folder, and no manifest of ours beside it; the folder is the store's
/// root where its name is empty.
pub async fn is_foreign_in(store: &Store, folder: &str) -> Result<bool> {
    let base = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let meta = format!("{base}{META}");
    let found = store.list(&meta).await?;
    let named = |file: &FileMeta| {
        let name = file.path.strip_prefix(&meta).and_then(|rest| rest.strip_prefix('/'));
        name.is_some_and(|name| ONE_OF.contains(&name))
    };
    Ok(found.iter().any(named) && store.size(&RelativePath::new(format!("{base}{}", manifest::FILE))?).await?.is_none())
}

impl BackupId {
    /// The id of a backup that another tool made: by when that was, and by what tells it from others. It is the same
    /// each time.
    #[must_use]
    pub fn of_foreign(made: chrono::DateTime<chrono::Utc>, identity: &str) -> Self {
        let sum = crate::checksum::ChecksumAlgorithm::Sha256.of(identity.as_bytes());
        Self::from_parts(made, &sum[..6])
    }
}
