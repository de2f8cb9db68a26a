//! Making a backup: lock, sweep, upload, commit or abandon.
//!
//! Durable order: data, schema, chunks, indexes; then `checksums.json`; then `metadata.json`, put only if none is
//! there, which is the moment the backup comes into being; then the lock goes. Every step is durable before the next
//! begins. So a crash at any point leaves no backup or a whole one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::checksum::ChecksumAlgorithm;
use crate::error::{Error, Kind, Result, internal};

use super::backup::checksum;
use super::catalog::Repository;
use super::hashed_upload::{HashedUpload, Registrar};
use super::incoming::Folders;
use super::integrity::hash_blocks;
use super::lease::{Lease, Terms};
use super::linking::Link;
use super::look::{Found, look, path_in};
use super::manifest::{self, Manifest, State};
use super::names::{self, BackupId, RelativePath, check_backup_name, collection_folder, default_backup_name};
use super::store::Store;
use super::sweep::{UNSETTLED, clear_away, delete_files, lock_path, put_tombstone};
use super::tables::{CHECKSUMS_FILE, Checksums, FileSum, VERIFICATION_FILE};
use super::unfinished::{Predecessor, delete_notes};

/// How long an abandoned run's files may take to delete; what is left then is swept by the next run.
const CLEANUP: Duration = Duration::from_secs(8);
/// How long an abandoned run waits for writes that are under way.
const SETTLE: Duration = Duration::from_secs(3);

/// What to begin.
#[derive(Debug, Clone)]
pub struct BeginRequest {
    /// The collection's database.
    pub database: String,
    /// The collection.
    pub collection: String,
    /// The name for people; made from collection and time where `None`.
    pub backup_name: Option<String>,
    /// Which checksum the files get.
    pub algorithm: ChecksumAlgorithm,
    /// Stands for all that has to be the same for a finished file to be of use to another run.
    pub fingerprint: String,
    /// Whether to go on with what a dead run with the same fingerprint had finished; see [`Attempt::adopt`].
    pub resume: bool,
}

/// A backup in the making. Dropped without [`Attempt::commit`] or [`Attempt::abandon`], it is abandoned in the
/// background as long as the runtime runs, else by the next run.
pub struct Attempt {
    pub(super) inner: Option<Inner>,
}

pub(super) struct Inner {
    pub(super) store: Store,
    pub(super) folder: String,
    database: String,
    collection: String,
    pub(super) id: BackupId,
    backup_name: String,
    created_at: DateTime<Utc>,
    sums: Arc<Mutex<Checksums>>,
    pub(super) lease: Lease,
    /// As many references as there are writes under way, and one.
    pub(super) writes: Arc<()>,
    pub(super) fingerprint: String,
    /// How many files of notes there are.
    pub(super) notes: AtomicUsize,
    /// The dead run that this one is to go on with.
    pub(super) predecessor: Mutex<Option<Predecessor>>,
    /// Folders that files were brought into.
    pub(super) folders: Arc<Folders>,
    commit: Commit,
    /// Whether files that come in may be linked.
    pub(super) link: Link,
}

/// What is known of the put that makes the backup exist.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Commit {
    NotSent,
    /// It has come to no end, or to one that does not tell: it may still arrive.
    Unsettled,
    /// There was another manifest, or a local disk did not take it.
    Refused,
}

impl Repository {
    /// Takes the collection's lock, sweeps what dead runs left, and begins a backup. Where somebody else is only sweeping,
    /// they are waited for. [`Kind::InProgress`] where another run holds the lock, [`Kind::AlreadyExists`] where the name
    /// is taken.
    pub async fn begin(&self, request: BeginRequest) -> Result<Attempt> {
        self.begin_or(request, std::future::pending()).await
    }

    /// As [`Repository::begin`], but waits for nobody any more when `stop` ends.
    pub async fn begin_or(&self, request: BeginRequest, stop: impl Future<Output = Error> + Send) -> Result<Attempt> {
        let folder = collection_folder(&request.database, &request.collection)?;
        if let Some(name) = &request.backup_name {
            check_backup_name(name)?;
        }
        let created_at = names::now();
        let id = BackupId::new(created_at);
        let terms = Terms { purpose: "backup", backup_id: Some(id.clone()), entry: None, interval: self.heartbeat };
        let acquired = Lease::acquire_behind_sweep(&self.store, &lock_path(&folder)?, terms, stop).await;
        let acquired = acquired.map_err(|error| error.with("collection_name", request.collection.as_str()))?;
        let attempt = Attempt {
            inner: Some(Inner {
                store: self.store.clone(),
                folder: folder.clone(),
                database: request.database.clone(),
                collection: request.collection.clone(),
                id,
                backup_name: String::new(),
                created_at,
                sums: Arc::new(Mutex::new(Checksums::new(request.algorithm))),
                lease: acquired.lease,
                writes: Arc::new(()),
                fingerprint: request.fingerprint.clone(),
                notes: AtomicUsize::new(0),
                predecessor: Mutex::new(None),
                folders: Arc::default(),
                commit: Commit::NotSent,
                link: Link::Never,
            }),
        };
        match self.prepare(attempt, &folder, &request, &acquired.dead).await {
            Ok(attempt) => Ok(attempt),
            Err((attempt, error)) => {
                attempt.abandon().await;
                Err(error)
            }
        }
    }

    async fn prepare(
        &self,
        mut attempt: Attempt,
        folder: &str,
        request: &BeginRequest,
        dead: &[BackupId],
    ) -> Result<Attempt, (Attempt, Error)> {
        let swept = async {
            let inner = attempt.inner()?;
            let kind = (request.fingerprint.as_str(), request.algorithm);
            let predecessor =
                if request.resume { self.predecessor(folder, kind, dead, &inner.id).await? } else { None };
            let spared: Vec<_> = predecessor.iter().map(|predecessor| predecessor.id.clone()).collect();
            let complete = self.sweep_folder_but(folder, dead, &spared).await?;
            *inner.predecessor.lock().unwrap_or_else(PoisonError::into_inner) = predecessor;
            if !dead.is_empty() {
                attempt.inner()?.lease.update(|record| record.dead.clear()).await?;
            }
            let name = match &request.backup_name {
                Some(name) => name.clone(),
                None => default_backup_name(&request.collection, attempt.inner()?.created_at),
            };
            let taken = complete.into_iter().find(|(_, taken)| *taken == name).map(|(id, _)| id);
            match taken {
                None => Ok(name),
                Some(other) if request.backup_name.is_none() => Ok(format!("{name}_{}", &other.as_str()[18..])),
                Some(other) => Err(Error::new(
                    Kind::AlreadyExists,
                    format!(
                        "collection {:?} has a backup called {name:?} already ({other}): choose another backup_name, \
                         or delete that one",
                        request.collection
                    ),
                )
                .with("backup_name", name)
                .with("existing_backup_id", other.as_str())
                .with("collection_name", request.collection.as_str())
                .with("storage_path", self.store.display(&format!("{folder}/{other}")))),
            }
        };
        match swept.await {
            Ok(name) => {
                if let Some(inner) = attempt.inner.as_mut() {
                    inner.backup_name = name;
                }
                Ok(attempt)
            }
            Err(error) => Err((attempt, error)),
        }
    }
}

impl Attempt {
    pub(super) fn inner(&self) -> Result<&Inner> {
        self.inner.as_ref().ok_or_else(|| internal("this attempt is over"))
    }

    /// The backup's id.
    #[must_use]
    pub fn id(&self) -> &BackupId {
        &self.living().id
    }

    /// The same attempt, in which files that come from the same file system may be linked.
    #[must_use]
    pub fn linking(mut self, link: Link) -> Self {
        if let Some(inner) = &mut self.inner {
            inner.link = link;
        }
        self
    }

    /// The backup's name for people.
    #[must_use]
    pub fn backup_name(&self) -> &str {
        &self.living().backup_name
    }

    /// When it began.
    #[must_use]
    pub fn created_at(&self) -> DateTime<Utc> {
        self.living().created_at
    }

    /// Where the backup will be, for people.
    #[must_use]
    pub fn storage_path(&self) -> String {
        let inner = self.living();
        inner.store.display(&format!("{}/{}", inner.folder, inner.id))
    }

    /// Progress in percent, shown to whoever finds the collection locked.
    pub fn set_progress(&self, percentage: f64) {
        self.living().lease.set_progress(percentage);
    }

    /// Cancelled when the lock is lost: stop, and abandon.
    #[must_use]
    pub fn lost(&self) -> CancellationToken {
        self.living().lease.lost()
    }

    #[allow(clippy::expect_used)] // only `commit` and `abandon` take it out, and they consume the attempt
    fn living(&self) -> &Inner {
        self.inner.as_ref().expect("an attempt is over only when it is consumed")
    }

    /// Begins a big file; `path` is below the backup's folder. Several at once are fine.
    pub async fn upload(&self, path: &RelativePath) -> Result<HashedUpload> {
        let inner = self.inner()?;
        let registrar = inner.registrar(path)?;
        let upload = inner.store.upload(&path_in(&inner.folder, &inner.id, path.as_str())?).await?;
        let (blocks, hasher) = hash_blocks(inner.algorithm());
        Ok(HashedUpload { upload, blocks, hasher, registrar })
    }

    /// Writes a small file, durable on return; `path` is below the backup's folder.
    pub async fn put(&self, path: &RelativePath, bytes: Bytes) -> Result<()> {
        let inner = self.inner()?;
        let registrar = inner.registrar(path)?;
        let sum = FileSum { bytes: bytes.len() as u64, checksum: checksum(inner.algorithm(), bytes.clone()).await? };
        let (store, full) = (inner.store.clone(), path_in(&inner.folder, &inner.id, path.as_str())?);
        // A task of its own: given up by its caller, it still counts as under way until it is done.
        tokio::spawn(async move {
            store.put(&full, bytes).await?;
            registrar.register(sum);
            Ok(())
        })
        .await
        .map_err(|error| internal(format!("the task that writes a file ended: {error}")))?
    }

    /// Deletes a finished file again, as if it had never been; for rows that have to be read anew.
    pub async fn discard(&self, path: &RelativePath) -> Result<()> {
        let inner = self.inner()?;
        inner.sums.lock().unwrap_or_else(PoisonError::into_inner).files.remove(path);
        inner.store.delete(&path_in(&inner.folder, &inner.id, path.as_str())?).await
    }

    /// Makes the backup exist. Sets what the repository knows (id, names, state, times, checksum, sizes of files, the
    /// tool's version) and keeps the rest of `manifest`. Where it fails, everything is cleaned up as by
    /// [`Attempt::abandon`] before the error is returned.
    pub async fn commit(mut self, manifest: Manifest) -> Result<Manifest> {
        match self.write_manifest(manifest).await {
            Ok(manifest) => {
                if let Some(inner) = self.inner.take() {
                    if inner.notes.load(Ordering::Relaxed) > 0
                        && let Err(error) = delete_notes(&inner.store, &inner.folder, &inner.id).await
                    {
                        tracing::warn!(%error, "the backup is complete, but its notes could not be removed");
                    }
                    if let Err(error) = inner.lease.release().await {
                        tracing::warn!(%error, "the backup is complete, but its lock could not be removed");
                    }
                }
                Ok(manifest)
            }
            Err(error) => {
                let error = match self.inner() {
                    Ok(inner) => error.with("backup_id", inner.id.as_str()).with("storage_path", self.storage_path()),
                    Err(_) => error,
                };
                self.abandon().await;
                Err(error)
            }
        }
    }

    async fn write_manifest(&mut self, mut manifest: Manifest) -> Result<Manifest> {
        let inner = self.inner.as_mut().ok_or_else(|| internal("this attempt is over"))?;
        if inner.lease.lost().is_cancelled() {
            return Err(inner.lost_error());
        }
        let sums = inner.sums.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let list = Bytes::from(sums.to_bytes()?);
        manifest.metadata_version = manifest::VERSION;
        manifest.state = State::Completed;
        manifest.backup_id = inner.id.clone();
        manifest.backup_name.clone_from(&inner.backup_name);
        manifest.database.clone_from(&inner.database);
        manifest.collection_name.clone_from(&inner.collection);
        manifest.created_at = inner.created_at;
        manifest.completed_at = Some(names::now());
        manifest.checksum_algorithm = sums.algorithm;
        manifest.checksum = checksum(sums.algorithm, list.clone()).await?;
        manifest.compressed_size_bytes = sums.files.values().map(|sum| sum.bytes).sum::<u64>() + list.len() as u64;
        env!("CARGO_PKG_VERSION").clone_into(&mut manifest.tool_version);
        let bytes = Bytes::from(manifest.to_bytes()?);
        // What is written must be readable: names that would be refused on reading are refused here.
        Manifest::parse_in(&bytes, &inner.folder, &inner.id)?;
        inner.folders.sync(&inner.store).await?;
        inner.store.put(&path_in(&inner.folder, &inner.id, CHECKSUMS_FILE)?, list).await?;
        let path = path_in(&inner.folder, &inner.id, manifest::FILE)?;
        inner.commit = Commit::Unsettled;
        let put = inner.store.put_if_absent(&path, bytes.clone()).await;
        if matches!(put, Ok(None)) || inner.store.is_local() {
            inner.commit = Commit::Refused;
        }
        match put {
            Ok(Some(_)) => Ok(manifest),
            Ok(None) => Err(inner.lost_error()),
            // Whether it got through is not known: look.
            Err(error) => match inner.store.get(&path, manifest::CEILING).await {
                Ok(Some(present)) if present == bytes => Ok(manifest),
                _ => Err(error),
            },
        }
    }

    /// Gives up: deletes every file of this attempt and releases the lock, within about ten seconds. What cannot be
    /// deleted in time (the store does not answer) is swept by the next run.
    pub async fn abandon(mut self) {
        if let Some(inner) = self.inner.take() {
            inner.abandon().await;
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn(inner.abandon())),
                Err(_) => inner.lease.leave(),
            }
        }
    }
}

impl Inner {
    pub(super) fn algorithm(&self) -> ChecksumAlgorithm {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner).algorithm
    }

    pub(super) fn registrar(&self, path: &RelativePath) -> Result<Registrar> {
        if matches!(path.as_str(), manifest::FILE | CHECKSUMS_FILE | VERIFICATION_FILE) {
            return Err(internal(format!("{path} is written by the repository itself")));
        }
        if self.sums.lock().unwrap_or_else(PoisonError::into_inner).files.contains_key(path) {
            return Err(internal(format!("{path} is written twice")));
        }
        Ok(Registrar { path: path.clone(), sums: Arc::clone(&self.sums), write: Arc::clone(&self.writes) })
    }

    fn lost_error(&self) -> Error {
        Error::new(
            Kind::Backup,
            format!(
                "another run took this one for dead, because nothing was heard of it for a while, and cleared backup {} \
                 away: start it again",
                self.id
            ),
        )
        .with("collection_name", self.collection.as_str())
        .temporary()
    }

    /// Waits for writes that are under way; `false` where they take too long.
    pub(super) async fn settle(&self) -> bool {
        let begun = Instant::now();
        while Arc::strong_count(&self.writes) > 1 && begun.elapsed() < SETTLE {
            sleep(Duration::from_millis(10)).await;
        }
        Arc::strong_count(&self.writes) == 1
    }

    pub(super) async fn abandon(self) {
        self.settle().await;
        let cleaned = timeout(CLEANUP, self.clean()).await;
        match cleaned {
            Ok(Ok(())) => {
                if let Err(error) = self.lease.release().await {
                    tracing::warn!(%error, "the collection's lock could not be removed");
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, backup_id = %self.id, "files of an unfinished backup are left for the next run");
                self.lease.leave();
            }
            Err(_) => {
                tracing::warn!(backup_id = %self.id, "files of an unfinished backup are left for the next run");
                self.lease.leave();
            }
        }
    }

    async fn clean(&self) -> Result<()> {
        let why = if self.commit == Commit::Unsettled { UNSETTLED } else { "the commit failed" };
        if self.commit != Commit::NotSent && put_tombstone(&self.store, &self.folder, &self.id, why).await?.is_none() {
            // The commit may have come through after all. Then it stands.
            if let Found::Manifest(manifest, _) = look(&self.store, &self.folder, &self.id).await?
                && manifest.state == State::Completed
            {
                return Ok(());
            }
        }
        delete_files(&self.store, &self.folder, &self.id).await?;
        if self.notes.load(Ordering::Relaxed) > 0 {
            delete_notes(&self.store, &self.folder, &self.id).await?;
        }
        if self.commit == Commit::Unsettled {
            return Ok(()); // The tombstone stays: a put that was given up may lie in a queue, and arrive later.
        }
        clear_away(&self.store, &self.folder, &self.id).await
    }
}
