//! Backups that milvus-backup made, read where they lie: found in a repository, or named by path or URL. What its metadata
//! tells becomes a manifest in memory ([`describe`]), and from there on they are read as native ones are. They have no
//! checksums: they are proven by decoding all of them.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};

mod describe;

use super::Session;
use super::pieces::history;
use crate::binlog::metadata::{BACKUP_FILE, BackupInfo, CollectionInfo};
use crate::error::{Error, Kind, Result};
use crate::repository::{Backup, BackupId, Owner, RelativePath, Repository, Store, manifest};
use crate::schema::Collection;
pub(super) use describe::{fill_in, noted_moment, segments};

/// What is said to whoever would delete one.
pub(super) const NOT_DELETED: &str = "it was not deleted. Delete it with milvus-backup, or its folder by hand";
/// The longest metadata file that is read.
const METADATA_CEILING: u64 = 1 << 30;
/// Backups whose metadata is read at once.
const AT_ONCE: usize = 4;

/// Whether a backup is named by a path or a URL: no id and no name has a slash in it.
pub(super) fn is_path(reference: &str) -> bool {
    reference.contains('/')
}

/// A folder with `meta` and `binlogs` in it.
pub(super) struct Place {
    pub(super) store: Store,
    /// Below the store's root; empty for the root itself.
    base: String,
    /// The folder's own name.
    name: String,
}

/// A backup's metadata.
pub(super) struct Read {
    pub(super) info: BackupInfo,
    /// The files that it was read from.
    files: Vec<&'static str>,
}

impl Place {
    /// The folder at a path or a URL.
    pub(super) fn at(path: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        let store = Store::open(path, options)?.read_only();
        let label = store.display("");
        let name = label.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
        Ok(Self { store, base: String::new(), name })
    }

    fn within(repository: &Repository, folder: &str) -> Self {
        let store = repository.store().clone().read_only();
        Self { store, base: folder.to_owned(), name: folder.to_owned() }
    }

    /// Where it is, for people.
    pub(super) fn display(&self) -> String {
        self.store.display(&self.base)
    }

    /// Reads its metadata.
    ///
    /// # Errors
    /// [`Kind::BackupNotFound`] where it is no such backup; [`Kind::BackupCorrupted`] where its metadata is damaged;
    /// [`Kind::SchemaIncompatible`] for a form that this version does not read.
    pub(super) async fn read(&self) -> Result<Read> {
        let files = Mutex::new(Vec::new());
        let found = |file| files.lock().unwrap_or_else(PoisonError::into_inner).push(file);
        let read = async |file: &'static str| {
            let path = if self.base.is_empty() { file.to_owned() } else { format!("{}/{file}", self.base) };
            let bytes = self.store.get(&RelativePath::new(path)?, METADATA_CEILING).await?;
            if bytes.is_some() {
                found(file);
            }
            Ok(bytes)
        };
        let read = BackupInfo::read(read).await.map_err(|error| {
            let nothing = error.kind() == Kind::BackupCorrupted && files.lock().is_ok_and(|files| files.is_empty());
            let error = if nothing {
                Error::new(
                    Kind::BackupNotFound,
                    format!(
                        "{} is no backup by milvus-backup: there is no {BACKUP_FILE} in it. Name the folder that has meta and binlogs in it",
                        self.display()
                    ),
                )
            } else {
                error
            };
            error.with("storage_path", self.display())
        });
        Ok(Read { info: read?, files: files.into_inner().unwrap_or_else(PoisonError::into_inner) })
    }

    /// The backup of one of its collections.
    fn backup(&self, read: &Read, info: &CollectionInfo) -> Result<Backup> {
        let (manifest, foreign) = describe::describe(read, info, &self.name)?;
        Ok(Backup::of_foreign(self.store.clone(), &self.base, manifest, foreign))
    }

    /// The backup of the collection that is meant.
    async fn find(&self, collection: Option<&str>, database: Option<&str>) -> Result<Backup> {
        let read = self.read().await?;
        let info = chosen(&read.info, collection, database, &self.display())?;
        self.backup(&read, info).map_err(|error| error.with("storage_path", self.display()))
    }
}

/// The collection that is meant: the only one, or the only one of its name, that of this database before others.
fn chosen<'a>(
    info: &'a BackupInfo,
    collection: Option<&str>,
    database: Option<&str>,
    place: &str,
) -> Result<&'a CollectionInfo> {
    let all = &info.collection_backups;
    let mut found: Vec<_> =
        all.iter().filter(|info| collection.is_none_or(|name| name == info.collection_name)).collect();
    let own: Vec<_> = found.iter().copied().filter(|info| database == Some(describe::database(info))).collect();
    if found.len() > 1 && own.len() == 1 {
        found = own;
    }
    let named = |all: &[&CollectionInfo]| {
        all.iter()
            .map(|info| format!("{}.{}", describe::database(info), info.collection_name))
            .collect::<Vec<_>>()
            .join(", ")
    };
    match found[..] {
        [only] => Ok(only),
        [] => {
            let known = named(&all.iter().collect::<Vec<_>>());
            let what = collection.map_or_else(|| "collection".to_owned(), |name| format!("collection '{name}'"));
            Err(Error::new(Kind::BackupNotFound, format!("{place} has no {what}; it has: {known}"))
                .with("storage_path", place))
        }
        _ if collection.is_some() => Err(Error::new(
            Kind::InvalidArgument,
            format!(
                "{place} has several collections of that name: {}; connect to the database that is meant",
                named(&found)
            ),
        )),
        _ => Err(Error::new(
            Kind::InvalidArgument,
            format!("{place} has several collections: {}; name one as collection_name", named(&found)),
        )),
    }
}

/// The backup at a path or a URL.
///
/// # Errors
/// [`Kind::BackupNotFound`] where there is none, [`Kind::InvalidArgument`] where it is one of ours, or has several collections.
pub(super) async fn at(session: &Session, path: &str, collection: Option<&str>) -> Result<Backup> {
    let place = Place::at(path, &session.storage_options)?;
    if place.store.size(&RelativePath::new(manifest::FILE)?).await?.is_some() {
        return Err(Error::new(
            Kind::InvalidArgument,
            format!(
                "{} is one of Milvault's own backups: give the folder above its collection's as the repository, and name the backup by its id",
                place.display()
            ),
        ));
    }
    place.find(collection, session.database()).await
}

/// The backup in a repository that has this name, which is that of its folder, or this id; `None` where there is none.
pub(super) async fn within(
    repository: &Repository,
    reference: &str,
    collection: Option<&str>,
    database: Option<&str>,
) -> Result<Option<Backup>> {
    if let Ok(id) = reference.parse::<BackupId>() {
        for folder in repository.foreign_folders().await? {
            let place = Place::within(repository, &folder);
            let Ok(read) = place.read().await else { continue };
            for info in &read.info.collection_backups {
                if collection.is_none_or(|name| name == info.collection_name)
                    && describe::id(&read.info, info, &folder) == id
                {
                    return place.backup(&read, info).map(Some);
                }
            }
        }
        return Ok(None);
    }
    if !repository.is_foreign(reference).await? {
        return Ok(None);
    }
    Place::within(repository, reference).find(collection, database).await.map(Some)
}

/// The backup at its own moment where one is asked for: the noted one, or that of the latest row or delete in its files.
pub(super) async fn settled(backup: Backup, as_of: bool) -> Result<Backup> {
    if !as_of || backup.owner() == Owner::Milvault || backup.manifest().snapshot.timestamp.is_some() {
        return Ok(backup);
    }
    let collection: Collection = serde_json::from_value(backup.schema().await?)
        .map_err(|error| crate::error::internal(format!("a schema that was just made is none: {error}")))?;
    let latest = history::latest(&backup, &collection).await?;
    Ok(backup.at_moment(latest))
}

/// What a listing shows of backups that milvus-backup keeps in a repository.
pub(super) struct Listed {
    /// As JSON, and when each was made; newest first.
    pub(super) backups: Vec<(DateTime<Utc>, String)>,
    /// Those whose metadata cannot be read.
    pub(super) damaged: Vec<Value>,
}

/// Lists the collections in the backups that are these folders of the repository's root.
pub(super) async fn list(
    repository: &Repository,
    folders: Vec<String>,
    collection: Option<&str>,
    database: Option<&str>,
    shown: impl Fn(&Backup) -> Result<String>,
) -> Result<Listed> {
    let reads = folders.into_iter().map(|folder| async move {
        let place = Place::within(repository, &folder);
        match place.read().await {
            Err(error) if error.is_temporary() => Err(error),
            read => Ok((place, read)),
        }
    });
    let mut reads = futures::stream::iter(reads.collect::<Vec<_>>()).buffered(AT_ONCE);
    let mut listed = Listed { backups: Vec::new(), damaged: Vec::new() };
    while let Some((place, read)) = reads.try_next().await? {
        let damaged = |collection: &str, database: &str, error: &Error| {
            json!({"backup_id": place.name, "database": database, "collection_name": collection,
                "storage_path": place.display(), "reason": error.message()})
        };
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                listed.damaged.push(damaged("", "", &error));
                continue;
            }
        };
        for info in &read.info.collection_backups {
            let of = describe::database(info);
            if collection.is_some_and(|name| name != info.collection_name) || database.is_some_and(|name| name != of) {
                continue;
            }
            match place.backup(&read, info) {
                Ok(backup) => listed.backups.push((backup.manifest().created_at, shown(&backup)?)),
                Err(error) => listed.damaged.push(damaged(&info.collection_name, of, &error)),
            }
        }
    }
    listed.backups.sort_by_key(|(made, _)| Reverse(*made));
    Ok(listed)
}
