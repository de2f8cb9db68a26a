//! Looking at backups' folders: the manifest, and what the last verification found. One, or many at once.
//!
//! On an object store a look is a request or two, and several are under way at once. On a local disk handing each file
//! to a thread would take longer than reading it: there the threads take folders by the batch, and parse what they read.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;

use crate::error::{Error, Result};

use super::local::Local;
use super::manifest::{self, Manifest, State};
use super::names::{BackupId, RelativePath, split_folder};
use super::store::{Store, Version, blocking};
use super::tables::VERIFICATION_FILE;

/// How many looks are under way at once.
pub(super) const AT_ONCE: usize = 16;
/// How many folders one thread takes at a time: few enough that a canceled look ends soon.
const BATCH: usize = 64;
pub(super) const VERIFICATION_CEILING: u64 = 4 << 20;

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
    /// Looked for with [`Depth::Verification`] alone.
    pub(super) verification: Option<Value>,
}

/// What is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// The manifest.
    Manifest,
    /// `verification.json` too, where the backup is complete.
    Verification,
}

impl Place {
    /// A backup's folder that was not looked at.
    pub(super) fn at(folder: &str, id: &BackupId) -> Self {
        Self { folder: folder.to_owned(), id: id.clone(), found: Found::Nothing, verification: None }
    }

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
    manifest_in(store, folder, id, store.get_versioned(&path, manifest::CEILING).await)
}

/// What `verification.json` says; `None` where there is none, or none that can be read.
pub(super) async fn verification(store: &Store, folder: &str, id: &BackupId) -> Result<Option<Value>> {
    let path = path_in(folder, id, VERIFICATION_FILE)?;
    verification_in(store.get(&path, VERIFICATION_CEILING).await)
}

/// Looks at many folders; what `shown` makes of each, in the order of the candidates.
pub(super) async fn look_at<T: Send + 'static>(
    store: &Store,
    candidates: Vec<(String, BackupId)>,
    depth: Depth,
    shown: impl Fn(Place) -> T + Clone + Send + 'static,
) -> Result<Vec<T>> {
    let Some(local) = store.local() else {
        let looks = candidates.into_iter().map(|(folder, id)| {
            let (store, shown) = (store.clone(), shown.clone());
            async move {
                let found = look(&store, &folder, &id).await?;
                let verification = if wanted(depth, &found) { verification(&store, &folder, &id).await? } else { None };
                Ok::<_, Error>(shown(Place { folder, id, found, verification }))
            }
        });
        return futures::stream::iter(looks.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await;
    };
    let count = candidates.len();
    let mut candidates = candidates.into_iter();
    let batches = std::iter::from_fn(|| {
        let batch: Vec<_> = candidates.by_ref().take(BATCH).collect();
        (!batch.is_empty()).then_some(batch)
    });
    let looks = batches.map(|batch| {
        let (store, local, shown) = (store.clone(), std::sync::Arc::clone(local), shown.clone());
        blocking(move || {
            let looks = batch.into_iter().map(|(folder, id)| Ok(shown(look_now(&store, &local, folder, id, depth)?)));
            looks.collect::<Result<Vec<_>>>()
        })
    });
    let mut looks = futures::stream::iter(looks.collect::<Vec<_>>()).buffered(AT_ONCE);
    let mut found = Vec::with_capacity(count);
    while let Some(batch) = looks.next().await {
        found.extend(batch??);
    }
    Ok(found)
}

/// [`look`] and [`verification`] on a local disk, on the calling thread, which they block.
fn look_now(store: &Store, local: &Local, folder: String, id: BackupId, depth: Depth) -> Result<Place> {
    let read = store.get_blocking(local, &path_in(&folder, &id, manifest::FILE)?, manifest::CEILING);
    let found = manifest_in(store, &folder, &id, read.map(|read| read.map(Version::of_local)))?;
    let verification = if wanted(depth, &found) {
        verification_in(store.get_blocking(local, &path_in(&folder, &id, VERIFICATION_FILE)?, VERIFICATION_CEILING))?
    } else {
        None
    };
    Ok(Place { folder, id, found, verification })
}

fn wanted(depth: Depth, found: &Found) -> bool {
    depth == Depth::Verification && matches!(found, Found::Manifest(manifest, _) if manifest.state == State::Completed)
}

fn manifest_in(store: &Store, folder: &str, id: &BackupId, read: Result<Option<(Bytes, Version)>>) -> Result<Found> {
    let parsed = match read {
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

fn verification_in(read: Result<Option<Bytes>>) -> Result<Option<Value>> {
    match read {
        Ok(bytes) => Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).filter(Value::is_object)),
        Err(error) if error.is_temporary() => Err(error),
        Err(_) => Ok(None),
    }
}
