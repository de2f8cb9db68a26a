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
use super::look::{AT_ONCE, Depth, Found, Place, look, look_at};
use super::manifest::{Manifest, State};
use super::names::{BackupId, RelativePath, check_name, collection_folder, split_folder};
use super::store::Store;

/// A place where backups live. Cheap to clone; opening it touches nothing.
#[derive(Clone)]
pub struct Repository {
    pub(super) store: Store,
    pub(super) heartbeat: Duration,
}

/// What [`Repository::list`] found.
#[derive(Debug)]
pub struct Listing<T = Listed> {
    /// Newest first.
    pub backups: Vec<T>,
    /// Backups whose manifest cannot be read, newest first.
    pub damaged: Vec<Damaged>,
    /// Folders of the root that are backups of milvus-backup, of whatever collections.
    pub foreign: Vec<String>,
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
        self.list_as(database, collection, |listed| listed).await
    }

    /// As [`Repository::list`], each backup as `shown` makes it, where it was read: of ten thousand manifests only what
    /// is wanted of them is kept.
    pub async fn list_as<T: Send + 'static>(
        &self,
        database: Option<&str>,
        collection: Option<&str>,
        shown: impl Fn(Listed) -> T + Clone + Send + 'static,
    ) -> Result<Listing<T>> {
        let store = self.store.clone();
        let sorted_out = move |place: Place| {
            let storage_path = store.display(&place.path());
            match place.found {
                Found::Manifest(manifest, _) if manifest.state == State::Completed => {
                    let newest_first = Reverse((manifest.created_at, manifest.backup_id.clone()));
                    let listed = Listed { manifest: *manifest, verification: place.verification, storage_path };
                    Some(Ok((newest_first, shown(listed))))
                }
                Found::Manifest(..) | Found::Nothing => None,
                Found::Damaged(error) => split_folder(&place.folder).map(|(database, collection_name)| {
                    let (database, collection_name) = (database.to_owned(), collection_name.to_owned());
                    Err(Damaged { backup_id: place.id, database, collection_name, storage_path, error })
                }),
            }
        };
        let (candidates, foreign) = self.look_around(database, collection).await?;
        let (mut backups, mut damaged) = (Vec::with_capacity(candidates.len()), Vec::new());
        for found in look_at(&self.store, candidates, Depth::Verification, sorted_out).await?.into_iter().flatten() {
            match found {
                Ok(listed) => backups.push(listed),
                Err(lost) => damaged.push(lost),
            }
        }
        backups.sort_by(|(left, _), (right, _)| left.cmp(right));
        damaged.sort_by_key(|damaged| Reverse(damaged.backup_id.clone()));
        Ok(Listing { backups: backups.into_iter().map(|(_, listed)| listed).collect(), damaged, foreign })
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
    /// nothing can be written (a read-only repository must still be readable), and for one that is milvus-backup's.
    pub async fn mark_reading(&self, backup: &Backup) -> Result<Option<Lease>> {
        if backup.foreign().is_some() {
            return Ok(None);
        }
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
            let places =
                self.look_at(folders.into_iter().map(|folder| (folder, id.clone())).collect(), Depth::Manifest).await?;
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
        self.look_at(self.candidates(database, collection).await?, Depth::Manifest).await
    }

    /// Looks at backups' folders; the answers are in the order of the candidates.
    pub(super) async fn look_at(&self, candidates: Vec<(String, BackupId)>, depth: Depth) -> Result<Vec<Place>> {
        look_at(&self.store, candidates, depth, |place| place).await
    }

    /// Every folder that may be a backup's.
    pub(super) async fn candidates(
        &self,
        database: Option<&str>,
        collection: Option<&str>,
    ) -> Result<Vec<(String, BackupId)>> {
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
        Ok(found.into_iter().flatten().collect())
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
