//! What is in a repository: list and find backups.
//!
//! Listing reads `metadata.json` and `verification.json` of each backup and nothing else. A manifest that is damaged
//! does not break it: it is reported beside the others.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use serde_json::Value;

use crate::error::{Error, Kind, Result};

use super::backup::Backup;
use super::lease::{HEARTBEAT, Lease, Terms};
use super::manifest::{self, Manifest, State};
use super::names::{BackupId, RelativePath, check_name, collection_folder, split_folder};
use super::store::{Store, Version};
use super::tables::VERIFICATION_FILE;

pub(super) const AT_ONCE: usize = 16;
pub(super) const VERIFICATION_CEILING: u64 = 4 << 20;

/// A place where backups live. Cheap to clone; opening it touches nothing.
#[derive(Clone)]
pub struct Repository {
    pub(super) store: Store,
    pub(super) heartbeat: Duration,
}

/// What [`Repository::list`] found.
#[derive(Debug, Default)]
pub struct Listing {
    /// Newest first.
    pub backups: Vec<Listed>,
    /// Backups whose manifest cannot be read, newest first.
    pub damaged: Vec<Damaged>,
}

/// A listed backup.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its manifest.
    pub manifest: Manifest,
    /// What `verification.json` says, if there is one that can be read.
    pub verification: Option<Value>,
    /// Where it is, for people.
    pub storage_path: String,
}

/// A backup whose manifest is damaged, or made by a newer version.
#[derive(Debug, Clone)]
pub struct Damaged {
    /// The folder's name.
    pub backup_id: BackupId,
    /// By the folder's name.
    pub database: String,
    /// By the folder's name.
    pub collection_name: String,
    /// Where it is, for people.
    pub storage_path: String,
    /// What is wrong.
    pub error: Error,
}

/// What is in a backup's folder in the place of the manifest.
pub(super) enum Found {
    Nothing,
    Manifest(Box<Manifest>, Version),
    Damaged(Error),
}

/// One backup's folder: the collection's folder, the id, the manifest.
pub(super) struct Place {
    pub(super) folder: String,
    pub(super) id: BackupId,
    pub(super) found: Found,
}

impl Repository {
    /// Opens the repository at `root` (see [`Store::open`]).
    pub fn open(root: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        Ok(Self::on(Store::open(root, options)?))
    }

    /// A repository on a store that is open already.
    #[must_use]
    pub fn on(store: Store) -> Self {
        Self { store, heartbeat: HEARTBEAT }
    }

    /// The same repository, its leases with another heartbeat than [`HEARTBEAT`].
    #[must_use]
    pub fn with_heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = interval;
        self
    }

    /// The same repository, refusing whatever would change it.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.store = self.store.read_only();
        self
    }

    /// The store it is on.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The backups of a collection, or of a database, or all: `None` leaves it open.
    pub async fn list(&self, database: Option<&str>, collection: Option<&str>) -> Result<Listing> {
        let mut listing = Listing::default();
        for place in self.places(database, collection).await? {
            let storage_path = self.store.display(&place.path());
            match place.found {
                Found::Manifest(manifest, _) if manifest.state == State::Completed => {
                    listing.backups.push(Listed { manifest: *manifest, verification: None, storage_path });
                }
                Found::Manifest(..) | Found::Nothing => {}
                Found::Damaged(error) => {
                    if let Some((database, collection_name)) = split_folder(&place.folder) {
                        let (database, collection_name) = (database.to_owned(), collection_name.to_owned());
                        let backup_id = place.id;
                        listing.damaged.push(Damaged { backup_id, database, collection_name, storage_path, error });
                    }
                }
            }
        }
        let verifications = listing.backups.iter().map(|listed| {
            let folder = collection_folder(&listed.manifest.database, &listed.manifest.collection_name);
            let (store, id) = (self.store.clone(), listed.manifest.backup_id.clone());
            async move { verification(&store, &folder?, &id).await }
        });
        let verifications: Vec<_> =
            futures::stream::iter(verifications.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await?;
        for (listed, verification) in listing.backups.iter_mut().zip(verifications) {
            listed.verification = verification;
        }
        listing.backups.sort_by_key(|listed| Reverse((listed.manifest.created_at, listed.manifest.backup_id.clone())));
        listing.damaged.sort_by_key(|damaged| Reverse(damaged.backup_id.clone()));
        Ok(listing)
    }

    /// The backup with this id or `backup_name`. [`Kind::BackupNotFound`] names what there is;
    /// [`Kind::BackupCorrupted`] where the manifest is damaged; [`Kind::InvalidArgument`] where several have the name.
    pub async fn find(&self, reference: &str, collection: Option<&str>, database: Option<&str>) -> Result<Backup> {
        let place = self.find_place(reference, collection, database, |state| state == State::Completed).await?;
        match place.found {
            Found::Manifest(manifest, _) => Ok(Backup::new(self.store.clone(), place.folder, *manifest)),
            Found::Damaged(error) => Err(error.context(format!("backup {} cannot be used", place.id))),
            Found::Nothing => Err(self.not_found(reference, collection, &[])),
        }
    }

    /// Marks `backup` as being read, so that nobody deletes it meanwhile; release the lease when done. `None` where
    /// nothing can be written (a read-only repository must still be readable).
    pub async fn mark_reading(&self, backup: &Backup) -> Result<Option<Lease>> {
        let random: [u8; 4] = rand::random();
        let name = format!("{}/.readers/{}.{}.json", backup.folder(), backup.id(), crate::checksum::hex(&random));
        let terms =
            Terms { purpose: "read", backup_id: Some(backup.id().clone()), entry: None, interval: self.heartbeat };
        let lease = match Lease::acquire(&self.store, &RelativePath::new(name)?, terms).await {
            Ok(acquired) => acquired.lease,
            Err(error) if matches!(error.kind(), Kind::Storage | Kind::InsufficientStorage | Kind::ReadOnly) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        // A deletion that began before the marker was there shows in the manifest.
        match look(&self.store, backup.folder(), backup.id()).await? {
            Found::Manifest(manifest, _) if manifest.state == State::Completed => Ok(Some(lease)),
            Found::Damaged(error) => {
                lease.release().await?;
                Err(error)
            }
            _ => {
                lease.release().await?;
                Err(self.not_found(backup.id().as_str(), None, &[]).context("the backup is being deleted"))
            }
        }
    }

    /// As [`Repository::find`], for states that `wanted` takes; a damaged one is found by its id.
    pub(super) async fn find_place(
        &self,
        reference: &str,
        collection: Option<&str>,
        database: Option<&str>,
        wanted: impl Fn(State) -> bool + Send,
    ) -> Result<Place> {
        let is_wanted = |place: &Place| match &place.found {
            Found::Manifest(manifest, _) => wanted(manifest.state),
            Found::Damaged(_) => true,
            Found::Nothing => false,
        };
        if let Ok(id) = reference.parse::<BackupId>() {
            let folders = self.folders(database, collection).await?;
            let places = self.look_at(folders.into_iter().map(|folder| (folder, id.clone())).collect()).await?;
            if let Some(place) = places.into_iter().find(|place| is_wanted(place)) {
                return Ok(place);
            }
        }
        let mut places = self.places(database, collection).await?;
        places.retain(&is_wanted);
        let named =
            |place: &Place| matches!(&place.found, Found::Manifest(manifest, _) if manifest.backup_name == reference);
        let matching: Vec<_> = (0..places.len()).filter(|&index| named(&places[index])).collect();
        match matching[..] {
            [only] => Ok(places.swap_remove(only)),
            [] => Err(self.not_found(reference, collection, &places)),
            _ => {
                let ids: Vec<_> =
                    matching.iter().map(|&i| format!("{} ({})", places[i].id, places[i].folder)).collect();
                let message = format!(
                    "several backups are called {reference:?}: {}; name the collection, or use the id",
                    ids.join(", ")
                );
                Err(Error::new(Kind::InvalidArgument, message).with("backup_name", reference))
            }
        }
    }

    /// Every backup's folder, with its manifest.
    pub(super) async fn places(&self, database: Option<&str>, collection: Option<&str>) -> Result<Vec<Place>> {
        let folders = self.folders(database, collection).await?;
        let listings = folders.into_iter().map(|folder| {
            let store = self.store.clone();
            async move {
                let names = store.list_folders(&folder).await?;
                let ids = names.iter().filter_map(|name| name.parse::<BackupId>().ok());
                Ok::<_, Error>(ids.map(|id| (folder.clone(), id)).collect::<Vec<_>>())
            }
        });
        let found: Vec<Vec<_>> =
            futures::stream::iter(listings.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await?;
        self.look_at(found.into_iter().flatten().collect()).await
    }

    async fn look_at(&self, candidates: Vec<(String, BackupId)>) -> Result<Vec<Place>> {
        let looks = candidates.into_iter().map(|(folder, id)| {
            let store = self.store.clone();
            async move {
                let found = look(&store, &folder, &id).await?;
                Ok::<_, Error>(Place { folder, id, found })
            }
        });
        futures::stream::iter(looks.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await
    }

    async fn folders(&self, database: Option<&str>, collection: Option<&str>) -> Result<Vec<String>> {
        if let (Some(database), Some(collection)) = (database, collection) {
            return Ok(vec![collection_folder(database, collection)?]);
        }
        for (what, name) in [("database", database), ("collection", collection)] {
            name.map_or(Ok(()), |name| check_name(what, name))?;
        }
        let mut folders = self.store.list_folders("").await?;
        folders.retain(|folder| {
            split_folder(folder).is_some_and(|(of_database, of_collection)| {
                database.is_none_or(|name| name == of_database) && collection.is_none_or(|name| name == of_collection)
            })
        });
        Ok(folders)
    }

    fn not_found(&self, reference: &str, collection: Option<&str>, places: &[Place]) -> Error {
        let mut known: Vec<_> = places
            .iter()
            .filter_map(|place| match &place.found {
                Found::Manifest(manifest, _) => Some(format!("{} ({:?})", manifest.backup_id, manifest.backup_name)),
                _ => None,
            })
            .collect();
        known.sort();
        known.reverse();
        let more = if known.len() > 10 { format!(" and {} more", known.len() - 10) } else { String::new() };
        known.truncate(10);
        let there = if known.is_empty() {
            "there are none".to_owned()
        } else {
            format!("there are {}{more}", known.join(", "))
        };
        let of = collection.map(|name| format!(" of collection {name:?}")).unwrap_or_default();
        let error = Error::new(
            Kind::BackupNotFound,
            format!("there is no backup {reference:?}{of} in {}; {there}", self.store.display("")),
        )
        .with("backup_id", reference)
        .with("backup_name", reference)
        .with("storage_path", self.store.display(""));
        match collection {
            Some(name) => error.with("collection_name", name),
            None => error,
        }
    }
}

impl Place {
    /// The backup's folder, below the root.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.folder, self.id)
    }
}

/// A file of a backup's folder.
pub(super) fn path_in(folder: &str, id: &BackupId, file: &str) -> Result<RelativePath> {
    RelativePath::new(format!("{folder}/{id}/{file}"))
}

/// Looks at the manifest of one backup's folder. An error only where trying again may help. On an object store, one that
/// seems damaged is looked at twice: the answer may have been.
pub(super) async fn look(store: &Store, folder: &str, id: &BackupId) -> Result<Found> {
    match look_once(store, folder, id).await? {
        Found::Damaged(_) if !store.is_local() => look_once(store, folder, id).await,
        found => Ok(found),
    }
}

async fn look_once(store: &Store, folder: &str, id: &BackupId) -> Result<Found> {
    let path = path_in(folder, id, manifest::FILE)?;
    let parsed = match store.get_versioned(&path, manifest::CEILING).await {
        Ok(None) => return Ok(Found::Nothing),
        Ok(Some((bytes, version))) => Manifest::parse_in(&bytes, folder, id).map(|manifest| (manifest, version)),
        Err(error) if error.is_temporary() => return Err(error),
        Err(error) => Err(error),
    };
    Ok(match parsed {
        Ok((manifest, version)) => Found::Manifest(Box::new(manifest), version),
        Err(error) => {
            let error =
                error.with("backup_id", id.as_str()).with("storage_path", store.display(&format!("{folder}/{id}")));
            Found::Damaged(match split_folder(folder) {
                Some((_, collection)) => error.with("collection_name", collection),
                None => error,
            })
        }
    })
}

/// What `verification.json` says; `None` where there is none, or none that can be read.
pub(super) async fn verification(store: &Store, folder: &str, id: &BackupId) -> Result<Option<Value>> {
    let path = path_in(folder, id, VERIFICATION_FILE)?;
    match store.get(&path, VERIFICATION_CEILING).await {
        Ok(bytes) => Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).filter(Value::is_object)),
        Err(error) if error.is_temporary() => Err(error),
        Err(_) => Ok(None),
    }
}
