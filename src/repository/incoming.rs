//! Files that come into a backup from another store as they are, hashed on their way.
//!
//! On a local disk such a file is written under its own name at once: nobody reads a backup before its manifest is
//! there, and what a dead run leaves is swept whatever it is called. It is synced before it counts as written; the
//! folders that it needs are synced once, before the commit. Where it may be linked, it is hashed all the same.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;

use crate::checksum::Hasher;
use crate::error::{Error, Result, internal};

use super::attempt::Attempt;
use super::backup::BackupFile;
use super::copying::blocks_of;
use super::hashed_upload::Registrar;
use super::integrity::{OnBytes, hash_blocks};
use super::linking::{Link, clear, create_anew};
use super::local::Local;
use super::look::path_in;
use super::names::RelativePath;
use super::store::{Store, blocking};
use super::tables::FileSum;

/// How much is read, hashed and written at once.
const BLOCK: usize = 1 << 20;

/// What looks at the bytes of a file as they pass, in their order.
pub trait Look: Send + 'static {
    /// The next bytes.
    fn look(&mut self, bytes: &[u8]);
}

impl Look for () {
    fn look(&mut self, _: &[u8]) {}
}

/// The folders that an attempt has made on a local disk.
#[derive(Default)]
pub(super) struct Folders(Mutex<BTreeSet<String>>);

impl Attempt {
    /// Brings a file of `source` in, durable on return; `to` is below the backup's folder. Several at once are fine.
    /// `tell` hears of every portion of bytes that is moved, and what it returns is waited for. `None` where the
    /// file is not in `source`, or goes while it is read; nothing of it stays then, and neither after an error.
    pub async fn take_in<L: Look>(
        &self,
        source: &Store,
        from: &RelativePath,
        to: &RelativePath,
        look: L,
        tell: OnBytes<'_>,
    ) -> Result<Option<(FileSum, L)>> {
        let inner = self.inner()?;
        let target = path_in(&inner.folder, &inner.id, to.as_str())?;
        let outcome = match (source.local(), inner.store.local()) {
            (Some(old), Some(new)) => {
                let parts = (Hasher::new(inner.algorithm()), look, inner.registrar(to)?);
                let (old, new, folders) = (Arc::clone(old), Arc::clone(new), Arc::clone(&inner.folders));
                let (paths, link) = ((from.clone(), target.clone()), inner.link);
                let told = |failed: Failed| failed.told((source, from), (&inner.store, &target));
                let begin = move || Moving::begin(&old, &new, (&paths.0, &paths.1), (&folders, link), parts);
                let Some(mut moving) = blocking(begin).await?.map_err(told)? else { return Ok(None) };
                loop {
                    let before = moving.bytes;
                    let step = blocking(move || moving.step()).await?;
                    match step {
                        Ok(Step::More(next)) => {
                            tell(next.bytes - before).await;
                            moving = next;
                        }
                        Ok(Step::Done(sum, look)) => {
                            tell(sum.bytes - before).await;
                            break Ok(Some((sum, look)));
                        }
                        Err(failed) => break Err(told(failed)),
                    }
                }
            }
            _ if source.origin().is_some() && source.origin() == inner.store.origin() => {
                self.copy_within(source, from, to, look, tell).await
            }
            _ => self.stream(source, from, to, look, tell).await,
        };
        match outcome {
            Err(error) => match source.size(from).await {
                Ok(None) => inner.store.delete(&target).await.map(|()| None),
                _ => Err(error),
            },
            done => done,
        }
    }

    /// A finished file of this attempt, to be read back.
    pub async fn open_file(&self, path: &RelativePath) -> Result<BackupFile> {
        let inner = self.inner()?;
        BackupFile::open(&inner.store, path_in(&inner.folder, &inner.id, path.as_str())?).await
    }

    /// Has the object store that both are in copy the file, and reads the copy: what is hashed is what is there.
    async fn copy_within<L: Look>(
        &self,
        source: &Store,
        from: &RelativePath,
        to: &RelativePath,
        mut look: L,
        tell: OnBytes<'_>,
    ) -> Result<Option<(FileSum, L)>> {
        let inner = self.inner()?;
        let target = path_in(&inner.folder, &inner.id, to.as_str())?;
        let registrar = inner.registrar(to)?;
        let (store, source, paths) = (inner.store.clone(), source.clone(), (from.clone(), target.clone()));
        // A task of its own: given up by its caller, it still counts as under way until it is done.
        let copied = tokio::spawn(async move {
            store.copy_within(&source, &paths.0, &paths.1).await?;
            Ok(registrar)
        });
        let registrar =
            copied.await.map_err(|error| internal(format!("the task that copies a file ended: {error}")))??;
        let mut blocks = blocks_of(&inner.store, &target).await?;
        let (hasher, hash) = hash_blocks(inner.algorithm());
        let mut bytes = 0;
        while let Some(block) = blocks.next().await {
            let block = block?;
            bytes += block.len() as u64;
            tell(block.len() as u64).await;
            look.look(&block);
            hasher.send(block).await.map_err(|_| internal("a thread that computes checksums ended"))?;
        }
        drop(hasher);
        let checksum = hash.await.map_err(|error| internal(format!("a thread for checksums ended: {error}")))?;
        let sum = FileSum { bytes, checksum };
        registrar.register(sum.clone());
        Ok(Some((sum, look)))
    }

    async fn stream<L: Look>(
        &self,
        source: &Store,
        from: &RelativePath,
        to: &RelativePath,
        mut look: L,
        tell: OnBytes<'_>,
    ) -> Result<Option<(FileSum, L)>> {
        if source.size(from).await?.is_none() {
            return Ok(None);
        }
        let mut blocks = blocks_of(source, from).await?;
        let mut upload = self.upload(to).await?;
        let moved = async {
            while let Some(block) = blocks.next().await {
                let block = block?;
                tell(block.len() as u64).await;
                look.look(&block);
                upload.write(block).await?;
            }
            Ok(())
        };
        match moved.await {
            Ok(()) => Ok(Some((upload.finish().await?, look))),
            Err(error) => {
                upload.abort().await;
                Err(error)
            }
        }
    }
}

/// A file on its way between two local disks. Dropped before it is done, it leaves nothing.
struct Moving<L> {
    /// What is read: the file that is copied, or the new one where it is linked.
    source: File,
    target: Target,
    hasher: Hasher,
    look: L,
    bytes: u64,
    registrar: Registrar,
    /// The buffer of the next step.
    block: Vec<u8>,
}

/// What a step came to.
enum Step<L> {
    More(Box<Moving<L>>),
    Done(FileSum, L),
}

/// Which of the two files an error is about.
enum Failed {
    Reading(io::Error),
    Writing(io::Error),
}

impl Failed {
    fn told(self, (source, from): (&Store, &RelativePath), (store, to): (&Store, &RelativePath)) -> Error {
        match self {
            Self::Reading(error) => source.io_error("reading", from.as_str(), &error, None),
            Self::Writing(error) => store.io_error("writing", to.as_str(), &error, None),
        }
    }
}

/// The file that is written; it goes when it is dropped, unless it is kept.
struct Target {
    /// To be written; none where it was linked.
    file: Option<File>,
    path: PathBuf,
    kept: bool,
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path); // else the next sweep's
        }
    }
}

impl<L: Look> Moving<L> {
    /// Opens both files; `None` where there is nothing to read.
    fn begin(
        old: &Local,
        new: &Local,
        (from, to): (&RelativePath, &RelativePath),
        (folders, link): (&Folders, Link),
        (hasher, look, registrar): (Hasher, L, Registrar),
    ) -> Result<Option<Box<Self>>, Failed> {
        let mut source = match old.open(from) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Failed::Reading)?,
        };
        let path = folders.make_for(new, to).map_err(Failed::Writing)?;
        clear(&path).map_err(Failed::Writing)?;
        let origin = old.locate(from.as_str()).map_err(Failed::Reading)?;
        let file = if let Some(linked) = link.make(&source, &origin, &path).map_err(Failed::Writing)? {
            source = linked;
            None
        } else {
            Some(create_anew(&path).map_err(Failed::Writing)?)
        };
        let target = Target { file, path, kept: false };
        Ok(Some(Box::new(Self { source, target, hasher, look, bytes: 0, registrar, block: Vec::new() })))
    }

    /// Moves one block; the last one, which is short, syncs the file and notes it for the commit.
    fn step(mut self: Box<Self>) -> Result<Step<L>, Failed> {
        let mut block = std::mem::take(&mut self.block);
        block.clear();
        Read::by_ref(&mut self.source).take(BLOCK as u64).read_to_end(&mut block).map_err(Failed::Reading)?;
        self.hasher.update(&block);
        self.look.look(&block);
        if let Some(file) = &mut self.target.file {
            file.write_all(&block).map_err(Failed::Writing)?;
        }
        self.bytes += block.len() as u64;
        if block.len() == BLOCK {
            self.block = block;
            return Ok(Step::More(self));
        }
        self.target.file.as_ref().unwrap_or(&self.source).sync_all().map_err(Failed::Writing)?;
        let Self { mut target, hasher, look, bytes, registrar, .. } = *self;
        target.kept = true;
        let sum = FileSum { bytes, checksum: hasher.finish() };
        registrar.register(sum.clone());
        Ok(Step::Done(sum, look))
    }
}

impl Folders {
    /// Makes the folder of `path`, and says where the file is to be.
    fn make_for(&self, local: &Local, path: &RelativePath) -> io::Result<PathBuf> {
        let (folder, name) = path.as_str().rsplit_once('/').unwrap_or(("", path.as_str()));
        let full = local.locate(folder)?;
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !made.contains(folder) {
            local.make_folder(folder)?;
            // With those that it lies in, which may be new too.
            let ends = folder.match_indices('/').map(|(end, _)| end);
            made.extend(ends.map(|end| folder[..end].to_owned()));
            made.insert(folder.to_owned());
        }
        Ok(full.join(name))
    }

    /// Makes durable that the folders, and what is directly in them, are there.
    pub(super) async fn sync(self: &Arc<Self>, store: &Store) -> Result<()> {
        let Some(local) = store.local().cloned() else { return Ok(()) };
        let folders = Arc::clone(self);
        let done = blocking(move || {
            let made = folders.0.lock().unwrap_or_else(PoisonError::into_inner);
            made.iter().try_for_each(|folder| local.sync_folder(folder))
        });
        done.await?.map_err(|error| store.io_error("writing", "", &error, None))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use futures::FutureExt;

    use super::super::testing::{Site, manifest, names, path, request};
    use super::*;
    use crate::checksum::ChecksumAlgorithm;
    use crate::repository::Repository;

    #[derive(Default)]
    struct Seen(Vec<u8>);

    impl Look for Seen {
        fn look(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }
    }

    /// Storage on disk and in memory, with files of these lengths.
    async fn storages(files: &[(&str, usize)]) -> Vec<(Store, Option<tempfile::TempDir>)> {
        let folder = tempfile::tempdir().unwrap();
        let disk = Store::open(folder.path().to_str().unwrap(), &BTreeMap::new()).unwrap();
        let memory = Store::from_objects(Arc::new(object_store::memory::InMemory::new()), "milvus", "memory");
        for (file, length) in files {
            for store in [&disk, &memory] {
                store.put(&path(file), content(*length)).await.unwrap();
            }
        }
        vec![(disk.read_only(), Some(folder)), (memory.read_only(), None)]
    }

    fn content(length: usize) -> Bytes {
        (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    async fn take(attempt: &Attempt, source: &Store, from: &str, to: &str) -> Result<Option<(FileSum, Seen)>> {
        let quiet = |_| std::future::ready(()).boxed();
        attempt.take_in(source, &path(from), &path(to), Seen::default(), &quiet).await
    }

    #[tokio::test]
    async fn files_come_in_as_they_are_between_disks_and_object_stores() {
        // None, less than a block, exactly one, and more than a part of an upload.
        let lengths = [("a/empty", 0), ("a/small", 100), ("a/block", BLOCK), ("a/large", 9 * BLOCK + 17)];
        for (source, _folder) in storages(&lengths).await {
            for site in [Site::local(), Site::memory()] {
                let attempt = site.repository.begin(request(Some("one"))).await.unwrap();
                for (from, length) in lengths {
                    let to = format!("binlogs/{from}");
                    let (sum, seen) = take(&attempt, &source, from, &to).await.unwrap().unwrap();
                    let expected = content(length);
                    assert_eq!((sum.bytes, sum.checksum), (length as u64, ChecksumAlgorithm::Sha256.of(&expected)));
                    assert!(seen.0 == expected, "{from}");
                    let written = attempt.open_file(&path(&to)).await.unwrap();
                    assert_eq!(written.size(), length as u64);
                    let whole = 0..length as u64;
                    assert!(length == 0 || written.read_range(whole).await.unwrap() == expected, "{from}");
                }
                let manifest = manifest(&attempt);
                attempt.commit(manifest).await.unwrap();
                let backup = site.repository.find("one", Some("films"), None).await.unwrap();
                assert_eq!(backup.checksums().await.unwrap().files.len(), lengths.len());
                let quiet = |_| std::future::ready(()).boxed();
                let report = backup.check_some_files(crate::repository::Hashed::All, false, &quiet).await.unwrap();
                assert!(report.failed.is_empty(), "{:?}", report.failed);
            }
        }
    }

    #[tokio::test]
    async fn within_one_object_store_the_copy_itself_is_hashed() {
        let source = Store::open("memory://incoming/milvus", &BTreeMap::new()).unwrap();
        let repository = Repository::open("memory://incoming/backups", &BTreeMap::new()).unwrap();
        assert!(source.origin().is_some() && source.origin() == repository.store().origin());
        source.put(&path("a/one"), content(3 * BLOCK + 5)).await.unwrap();
        let attempt = repository.begin(request(None)).await.unwrap();
        let (sum, seen) = take(&attempt, &source, "a/one", "binlogs/one").await.unwrap().unwrap();
        assert_eq!(sum.checksum, ChecksumAlgorithm::Sha256.of(&content(3 * BLOCK + 5)));
        assert!(seen.0 == content(3 * BLOCK + 5));
        assert!(take(&attempt, &source, "a/gone", "binlogs/gone").await.unwrap().is_none());
        attempt.abandon().await;
        assert!(repository.store().list("").await.unwrap().is_empty());
        assert_eq!(source.list("").await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_told_and_leaves_nothing() {
        for (source, _folder) in storages(&[("a/there", 10)]).await {
            for site in [Site::local(), Site::memory()] {
                let attempt = site.repository.begin(request(None)).await.unwrap();
                assert!(take(&attempt, &source, "a/gone", "binlogs/gone").await.unwrap().is_none());
                assert!(take(&attempt, &source, "a/there", "binlogs/there").await.unwrap().is_some());
                let files = site.repository.store().list("films").await.unwrap();
                assert_eq!(files.iter().filter(|file| file.path.contains("binlogs")).count(), 1, "{files:?}");
                attempt.abandon().await;
                assert!(names(&site.repository).await.is_empty());
                assert!(site.repository.store().list("").await.unwrap().is_empty());
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_is_given_up_leaves_nothing() {
        for (source, _folder) in storages(&[("a/large", 8 * BLOCK)]).await {
            for site in [Site::local(), Site::memory()] {
                let attempt = site.repository.begin(request(None)).await.unwrap();
                let (from, to) = (path("a/large"), path("binlogs/large"));
                // The first portion is told, and that never ends.
                let never = |_| std::future::pending().boxed();
                let taking = attempt.take_in(&source, &from, &to, (), &never);
                assert!(tokio::time::timeout(std::time::Duration::from_millis(200), taking).await.is_err());
                attempt.abandon().await;
                assert!(site.repository.store().list("").await.unwrap().is_empty());
            }
        }
    }

    #[tokio::test]
    async fn no_file_is_written_over_another_of_the_same_attempt() {
        let storages = storages(&[("a/one", 10)]).await;
        let site = Site::local();
        let attempt = site.repository.begin(request(None)).await.unwrap();
        take(&attempt, &storages[0].0, "a/one", "binlogs/one").await.unwrap();
        assert!(take(&attempt, &storages[0].0, "a/one", "binlogs/one").await.is_err());
        attempt.discard(&path("binlogs/one")).await.unwrap();
        assert!(take(&attempt, &storages[0].0, "a/one", "binlogs/one").await.unwrap().is_some());
        attempt.abandon().await;
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn linked_files_are_hashed_and_never_written_and_what_cannot_be_linked_is_copied() {
        use std::os::unix::fs::MetadataExt;
        for link in [Link::Never, Link::Reflink, Link::Hardlink] {
            // One folder for both, so that they are on one file system.
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
            let storage = Store::open(&at("milvus"), &BTreeMap::new()).unwrap();
            let repository = Repository::open(&at("backups"), &BTreeMap::new()).unwrap();
            storage.put(&path("a/1"), content(3 << 20)).await.unwrap();
            let attempt = repository.begin(request(Some("one"))).await.unwrap().linking(link);
            let (id, original) = (attempt.id().clone(), folder.path().join("milvus/a/1"));
            let copy = folder.path().join(format!("backups/films/{id}/binlogs/1"));
            // A name that an earlier try left: what it names must not be written into.
            std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
            std::fs::hard_link(&original, &copy).unwrap();
            let (sum, seen) = take(&attempt, &storage, "a/1", "binlogs/1").await.unwrap().unwrap();
            assert_eq!((sum.bytes, seen.0 == content(3 << 20)), (3 << 20, true));
            assert_eq!(sum.checksum, ChecksumAlgorithm::Sha256.of(&content(3 << 20)));
            let inode = |path: &std::path::Path| std::fs::metadata(path).unwrap().ino();
            assert_eq!(inode(&copy) == inode(&original), link == Link::Hardlink);
            assert!(take(&attempt, &storage, "a/2", "binlogs/2").await.unwrap().is_none());
            let manifest = manifest(&attempt);
            attempt.commit(manifest).await.unwrap();
            let backup = repository.find(id.as_str(), None, None).await.unwrap();
            assert!(backup.check_files(false, &|_| ()).await.unwrap().is_whole());
            repository.delete(id.as_str(), None, None).await.unwrap();
            let read = storage.get(&path("a/1"), 4 << 20).await.unwrap();
            assert!(read.is_some_and(|bytes| bytes == content(3 << 20)));
        }
    }
}
