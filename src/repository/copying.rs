//! Copying a committed backup into another repository, byte for byte: the same id, name and manifest.
//!
//! Every file is hashed on its way and compared with `checksums.json` before it appears in the copy; files that an
//! earlier try has brought over are hashed where they are, and kept. The order is a backup's own: data, then
//! `checksums.json`, then `metadata.json`, put only if none is there. Two copiers of one backup write the same bytes, so
//! they cannot harm each other. What a copy that failed has brought over stays for the next try; a sweep clears it away.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use object_store::ObjectStoreExt;
use serde::Serialize;

use crate::checksum::ChecksumAlgorithm;
use crate::error::{Error, Kind, Result, internal};

use super::backup::Backup;
use super::catalog::Repository;
use super::integrity::{OnBytes, hash_blocks, hash_file};
use super::lease::{Lease, Terms};
use super::look::{Found, Place, look, path_in};
use super::manifest::{self, Manifest, State};
use super::names::{BackupId, RelativePath};
use super::store::{Backend, Reading, Store, blocking};
use super::sweep::{finish_deletion, lock_path};
use super::tables::{self, CHECKSUMS_FILE, Checksums, FileSum};

/// Files that are on their way at once.
const AT_ONCE: usize = 4;
const BLOCK: usize = 1 << 20;

/// What became of a copy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CopyReport {
    /// Where the copy is, for people.
    pub storage_path: String,
    /// Whether the whole backup was there already.
    pub already_there: bool,
    /// Files of the backup, manifest included.
    pub files: u64,
    /// Those that were brought over by this run; the others had been by an earlier one.
    pub files_copied: u64,
    /// Bytes of the files brought over by this run.
    pub bytes_copied: u64,
    /// Whether the store copied them itself.
    pub server_side: bool,
}

impl Repository {
    /// Copies `source` into this repository. `tell` hears of every portion of bytes that is done,
    /// and what it returns is waited for. Where `stop` ends
    /// first, the copy fails with its error, and what was brought over stays for the next try.
    ///
    /// # Errors
    /// [`Kind::BackupCorrupted`] with `failed_files` where a file of the source is not what its checksum says: it does
    /// not appear in the copy; [`Kind::AlreadyExists`] where another backup has this one's name or id;
    /// [`Kind::InProgress`] where somebody else is at work on the collection here.
    pub async fn copy_from(
        &self,
        source: &Backup,
        stop: impl Future<Output = Error> + Send,
        tell: OnBytes<'_>,
    ) -> Result<CopyReport> {
        if self.is_same_place(source.store()) {
            return Err(Error::new(
                Kind::InvalidArgument,
                format!("{} is where backup {} is already: name another root", self.store.display(""), source.id()),
            ));
        }
        let terms =
            Terms { purpose: "copy", backup_id: Some(source.id().clone()), entry: None, interval: self.heartbeat };
        let (lock, mut stop) = (lock_path(source.folder())?, std::pin::pin!(stop));
        let acquired = Lease::acquire_behind_sweep(&self.store, &lock, terms, stop.as_mut()).await?;
        let lost = acquired.lease.lost();
        let work = async {
            // What this backup's own earlier copiers left is what we go on with; the rest of the dead is swept.
            let mut spared = self.adoptable(source.folder(), &acquired.dead).await?;
            spared.push(source.id().clone());
            self.sweep_folder_but(source.folder(), &acquired.dead, &spared).await?;
            self.probe_with_lock(source.folder()).await?;
            self.copy_locked(source, tell).await
        };
        let outcome = tokio::select! {
            biased;
            error = &mut stop => Err(error),
            () = lost.cancelled() => Err(Error::new(Kind::InProgress, "another process took over the lock of this collection while the backup was copied. Copy it again; what was brought over stays").temporary()),
            outcome = work => outcome,
        };
        if let Err(error) = acquired.lease.release().await {
            tracing::warn!(%error, "the lock of the copy's collection could not be removed; it goes stale by itself");
        }
        outcome
    }

    fn is_same_place(&self, other: &Store) -> bool {
        self.store.display("") == other.display("") && self.store.origin() == other.origin()
    }

    async fn probe_with_lock(&self, folder: &str) -> Result<()> {
        self.store.probe(&lock_path(folder)?).await
    }

    async fn copy_locked(&self, source: &Backup, tell: OnBytes<'_>) -> Result<CopyReport> {
        let sums = source.checksums().await?;
        let mut report = CopyReport {
            storage_path: self.store.display(&format!("{}/{}", source.folder(), source.id())),
            files: sums.files.len() as u64 + 2,
            server_side: self.store.origin().is_some() && self.store.origin() == source.store().origin(),
            ..CopyReport::default()
        };
        if self.is_there(source).await? {
            report.already_there = true;
            tell(source.manifest().compressed_size_bytes).await;
            return Ok(report);
        }
        self.clear_half_deleted(source).await?;
        let manifest = source.twice(|| source.raw_manifest()).await?;
        self.clear_strays(source, &sums).await?;
        let copies = sums.files.iter().map(|(path, sum)| self.copy_file(source, path, sum, report.server_side, tell));
        let mut copies = futures::stream::iter(copies.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        while let Some(copied) = copies.next().await {
            if let Some(bytes) = copied? {
                report.files_copied += 1;
                report.bytes_copied += bytes;
            }
        }
        let list = source.twice(|| source.raw_checksums()).await?;
        report.files_copied += 2;
        report.bytes_copied += (list.len() + manifest.len()) as u64;
        tell(list.len() as u64).await;
        self.store.put(&path_in(source.folder(), source.id(), CHECKSUMS_FILE)?, list).await?;
        let path = path_in(source.folder(), source.id(), manifest::FILE)?;
        if self.store.put_if_absent(&path, manifest).await?.is_none() && !self.is_there(source).await? {
            return Err(self.other_backup(
                source,
                source.id(),
                "something else was put in its place while it was copied",
            ));
        }
        Ok(report)
    }

    /// Whether the whole backup is in this repository.
    async fn is_there(&self, source: &Backup) -> Result<bool> {
        for Place { id, found, .. } in
            self.places(Some(&source.manifest().database), Some(&source.manifest().collection_name)).await?
        {
            let Found::Manifest(present, _) = &found else { continue };
            let completed = present.state == State::Completed;
            if id != *source.id() && completed && present.backup_name == source.manifest().backup_name {
                return Err(self.other_backup(source, &id, &format!("backup {id} has its name")));
            }
        }
        match look(&self.store, source.folder(), source.id()).await? {
            Found::Nothing => Ok(false),
            Found::Manifest(present, _) if *present == *source.manifest() => Ok(true),
            Found::Manifest(present, _) if present.state != State::Completed => Ok(false),
            Found::Manifest(..) => Err(self.other_backup(source, source.id(), "another backup has its id")),
            Found::Damaged(error) => Err(error.context(format!(
                "{} holds a damaged backup of this id: delete it there first",
                self.store.display("")
            ))),
        }
    }

    /// Clears away what is left of this backup where it was deleted here, or was swept while an earlier copier was at it.
    /// [`Kind::InProgress`] where somebody may still be deleting it.
    async fn clear_half_deleted(&self, source: &Backup) -> Result<()> {
        match look(&self.store, source.folder(), source.id()).await? {
            Found::Manifest(present, version) if present.state == State::Deleting => {
                self.finish_abandoned(&Place::at(source.folder(), source.id()), &present, &version).await
            }
            Found::Manifest(present, version) if present.state == State::Failed => {
                finish_deletion(&self.store, source.folder(), source.id(), &version).await
            }
            _ => Ok(()),
        }
    }

    /// Deletes what an earlier copier left that is no file of the backup: pieces of files that it was writing.
    async fn clear_strays(&self, source: &Backup, sums: &Checksums) -> Result<()> {
        let base = format!("{}/{}/", source.folder(), source.id());
        let mut strays: Vec<_> =
            self.store.list(base.trim_end_matches('/')).await?.into_iter().map(|file| file.path).collect();
        strays.retain(|path| {
            let file = path.strip_prefix(&base).and_then(|file| RelativePath::new(file).ok());
            file.is_none_or(|file| !sums.files.contains_key(&file))
        });
        if strays.is_empty() { Ok(()) } else { self.store.delete_all(strays).await }
    }

    fn other_backup(&self, source: &Backup, existing: &BackupId, why: &str) -> Error {
        let manifest = source.manifest();
        Error::new(
            Kind::AlreadyExists,
            format!("backup {} cannot be copied to {}: {why}", source.id(), self.store.display("")),
        )
        .with("backup_name", manifest.backup_name.as_str())
        .with("existing_backup_id", existing.as_str())
        .with("collection_name", manifest.collection_name.as_str())
        .with("storage_path", self.store.display(""))
    }

    /// Brings one file over; `None` where it was there already, whole.
    async fn copy_file(
        &self,
        source: &Backup,
        file: &RelativePath,
        sum: &FileSum,
        server_side: bool,
        tell: OnBytes<'_>,
    ) -> Result<Option<u64>> {
        let algorithm = source.manifest().checksum_algorithm;
        let (from, to) = (source.path(file.as_str())?, path_in(source.folder(), source.id(), file.as_str())?);
        if self.store.size(&to).await? == Some(sum.bytes) {
            let (_, found) = hash_file(&self.store, &to, algorithm, &|_| std::future::ready(()).boxed()).await?;
            if found == sum.checksum {
                tell(sum.bytes).await;
                return Ok(None);
            }
            // Nothing that is there must be taken for what is written next.
            self.store.delete(&to).await?;
        }
        if server_side {
            self.store.copy_within(source.store(), &from, &to).await?;
            let (_, mut found) = hash_file(&self.store, &to, algorithm, tell).await?;
            if found != sum.checksum {
                (_, found) = hash_file(&self.store, &to, algorithm, tell).await?;
            }
            if found != sum.checksum {
                self.store.delete(&to).await?;
                return Err(source.changed(file.as_str(), &sum.checksum, &found));
            }
        } else {
            source.twice(|| self.stream(source, &from, &to, (file, sum), tell)).await?;
        }
        Ok(Some(sum.bytes))
    }

    async fn stream(
        &self,
        source: &Backup,
        from: &RelativePath,
        to: &RelativePath,
        (file, sum): (&RelativePath, &FileSum),
        tell: OnBytes<'_>,
    ) -> Result<()> {
        if source.store().size(from).await?.is_none() {
            return Err(source.missing(file.as_str()));
        }
        let mut blocks = blocks_of(source.store(), from).await?;
        let mut upload = self.store.upload(to).await?;
        let (hasher, hash): (_, tokio::task::JoinHandle<String>) = hash_blocks(source.manifest().checksum_algorithm);
        let moved = async {
            while let Some(block) = blocks.next().await {
                let block = block?;
                tell(block.len() as u64).await;
                if hasher.send(block.clone()).await.is_err() {
                    return Err(internal("a thread that computes checksums ended"));
                }
                upload.write(block).await?;
            }
            drop(hasher);
            hash.await.map_err(|error| internal(format!("a thread that computes checksums ended: {error}")))
        };
        let outcome = match moved.await {
            Ok(found) if found == sum.checksum => Ok(()),
            Ok(found) => Err(source.changed(file.as_str(), &sum.checksum, &found)),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => upload.finish().await,
            Err(error) => {
                upload.abort().await;
                Err(error)
            }
        }
    }
}

/// A file's bytes in blocks, from local disk and object stores alike.
pub(super) async fn blocks_of(
    store: &Store,
    path: &RelativePath,
) -> Result<futures::stream::BoxStream<'static, Result<Bytes>>> {
    let file = match store.read(path).await? {
        Reading::Blocks(blocks) => return Ok(blocks),
        Reading::File(file) => Arc::new(file),
    };
    let (store, path) = (store.clone(), path.clone());
    let read = move |(file, at): (Arc<std::fs::File>, u64)| {
        let (store, path) = (store.clone(), path.clone());
        async move {
            let reader = Arc::clone(&file);
            let read = blocking(move || read_block(&reader)).await;
            match read {
                Ok(Ok(block)) if block.is_empty() => None,
                Ok(Ok(block)) => {
                    let next = at + block.len() as u64;
                    Some((Ok(block), (file, next)))
                }
                Ok(Err(error)) => Some((Err(store.io_error("reading", path.as_str(), &error, None)), (file, at))),
                Err(error) => Some((Err(error), (file, at))),
            }
        }
    };
    Ok(futures::stream::unfold((file, 0), read).boxed())
}

fn read_block(file: &std::fs::File) -> std::io::Result<Bytes> {
    use std::io::Read;
    let mut block = Vec::with_capacity(BLOCK);
    file.take(BLOCK as u64).read_to_end(&mut block)?;
    Ok(block.into())
}

impl Backup {
    /// `metadata.json` as it lies there, checked to be the manifest that this backup was found by.
    async fn raw_manifest(&self) -> Result<Bytes> {
        let bytes = self.get(manifest::FILE, manifest::CEILING).await?;
        if Manifest::parse_in(&bytes, self.folder(), self.id())? == *self.manifest() {
            return Ok(bytes);
        }
        Err(self.damaged(manifest::FILE, "changed while it was read"))
    }

    /// `checksums.json` as it lies there, checked against the manifest.
    async fn raw_checksums(&self) -> Result<Bytes> {
        let bytes = self.get(CHECKSUMS_FILE, tables::CEILING).await?;
        let algorithm: ChecksumAlgorithm = self.manifest().checksum_algorithm;
        let found = super::backup::checksum(algorithm, bytes.clone()).await?;
        if found == self.manifest().checksum {
            return Ok(bytes);
        }
        Err(self.changed(CHECKSUMS_FILE, &self.manifest().checksum, &found))
    }
}

impl Store {
    /// Which service and account the objects are in, as far as it can be told; none for local disks and memory.
    pub(super) fn origin(&self) -> Option<&str> {
        match &self.inner.backend {
            Backend::Local(_) => None,
            Backend::Remote(remote) => remote.origin.as_deref(),
        }
    }

    /// Has the object store copy one of its own objects; `from` is in `source`, which has the same [`Store::origin`].
    pub(super) async fn copy_within(&self, source: &Store, from: &RelativePath, to: &RelativePath) -> Result<()> {
        self.require_writable(&format!("copying to {to}"))?;
        let (Backend::Remote(old), Backend::Remote(new)) = (&source.inner.backend, &self.inner.backend) else {
            return Err(internal("only an object store copies by itself"));
        };
        let copied = new.store.copy(&old.key(from.as_str())?, &new.key(to.as_str())?).await;
        copied.map_err(|error| self.object_error("copying to", to.as_str(), &error, None))
    }
}
