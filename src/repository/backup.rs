//! One committed backup: its manifest, and its other files, each checked before it is used.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::checksum::ChecksumAlgorithm;
use crate::error::{Error, Kind, Result, internal};

use super::foreign::Foreign;
use super::look::{Found, VERIFICATION_CEILING, look, verification};
use super::manifest::{Manifest, State};
use super::names::{BackupId, RelativePath};
use super::store::{FileKind, Store, blocking};
use super::tables::{self, CHECKSUMS_FILE, CHUNKS_FILE, Checksums, ChunkTable, SCHEMA_FILE, VERIFICATION_FILE};
use super::verdict;

/// The longest `schema.json` or index file that is read.
const SMALL: u64 = 16 << 20;

/// A committed backup. Cheap to clone.
#[derive(Clone)]
pub struct Backup {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    folder: String,
    manifest: Manifest,
    storage_path: String,
    checksums: OnceCell<Arc<Checksums>>,
    /// The backup's own folder, below the store's root.
    base: String,
    /// What its metadata tells of one that is milvus-backup's; none of ours.
    foreign: Option<Arc<Foreign>>,
}

/// What a file has to be, as far as that is known.
struct Expected {
    bytes: Option<u64>,
    checksum: Option<String>,
}

/// A file of a backup, to be read at random.
#[derive(Clone)]
pub struct BackupFile {
    store: Store,
    path: RelativePath,
    local: Option<PathBuf>,
    size: u64,
}

impl Backup {
    pub(super) fn new(store: Store, folder: String, manifest: Manifest) -> Self {
        let base = format!("{folder}/{}", manifest.backup_id);
        Self::at(store, folder, base, manifest, None)
    }

    pub(super) fn at(
        store: Store,
        folder: String,
        base: String,
        manifest: Manifest,
        foreign: Option<Arc<Foreign>>,
    ) -> Self {
        let storage_path = store.display(&base);
        let checksums = OnceCell::new();
        Self { inner: Arc::new(Inner { store, folder, manifest, storage_path, checksums, base, foreign }) }
    }

    /// The same backup, as another manifest describes it.
    pub(super) fn with_manifest(&self, manifest: Manifest) -> Self {
        let Inner { store, folder, base, foreign, .. } = &*self.inner;
        Self::at(store.clone(), folder.clone(), base.clone(), manifest, foreign.clone())
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.inner.manifest
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &BackupId {
        &self.inner.manifest.backup_id
    }

    /// Where it is, for people.
    #[must_use]
    pub fn storage_path(&self) -> &str {
        &self.inner.storage_path
    }

    pub(super) fn folder(&self) -> &str {
        &self.inner.folder
    }

    pub(super) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(super) fn path(&self, file: &str) -> Result<RelativePath> {
        match &*self.inner.base {
            "" => RelativePath::new(file),
            base => RelativePath::new(format!("{base}/{file}")),
        }
    }

    pub(super) fn foreign(&self) -> Option<&Foreign> {
        self.inner.foreign.as_deref()
    }

    /// When and how it was last verified: the content of `verification.json`, if there is any.
    pub async fn verification(&self) -> Option<Value> {
        if self.foreign().is_some() {
            return None;
        }
        verification(self.store(), self.folder(), self.id()).await.ok().flatten()
    }

    /// The list of files, checked against the manifest.
    pub async fn checksums(&self) -> Result<Arc<Checksums>> {
        if self.foreign().is_some() {
            return Err(internal(format!("nobody has summed up the files of {}", self.storage_path())));
        }
        let read = || async {
            let bytes = self.get(CHECKSUMS_FILE, tables::CEILING).await?;
            let manifest = self.manifest();
            let actual = checksum(manifest.checksum_algorithm, bytes.clone()).await?;
            if actual != manifest.checksum {
                return Err(self.changed(CHECKSUMS_FILE, &manifest.checksum, &actual));
            }
            let sums = Checksums::parse(&bytes).map_err(|error| self.attributed(error))?;
            if sums.algorithm != manifest.checksum_algorithm {
                return Err(self.damaged(CHECKSUMS_FILE, "names another algorithm than the manifest"));
            }
            Ok(Arc::new(sums))
        };
        self.inner.checksums.get_or_try_init(|| self.twice(read)).await.map(Arc::clone)
    }

    /// Reads, and once more where an object store gave what seems damaged: its answer may have been.
    pub(super) async fn twice<T, F: Future<Output = Result<T>>>(&self, read: impl Fn() -> F) -> Result<T> {
        match read().await {
            Err(error) if error.kind() == Kind::BackupCorrupted && !self.store().is_local() => read().await,
            outcome => outcome,
        }
    }

    /// The collection's schema, verified.
    pub async fn schema(&self) -> Result<Value> {
        if let Some(foreign) = self.foreign() {
            return Ok(foreign.schema.clone());
        }
        let bytes = self.read(&RelativePath::new(SCHEMA_FILE)?, SMALL).await?;
        self.json(SCHEMA_FILE, &bytes)
    }

    /// The chunk table, verified.
    pub async fn chunks(&self) -> Result<ChunkTable> {
        let bytes = self.read(&RelativePath::new(CHUNKS_FILE)?, tables::CEILING).await?;
        let table = ChunkTable::parse(&bytes).map_err(|error| self.attributed(error))?;
        let sums = self.checksums().await?;
        for chunk in &table.chunks {
            if sums.files.get(&chunk.file).is_none_or(|sum| sum.bytes != chunk.file_bytes) {
                return Err(self.damaged(CHUNKS_FILE, &format!("disagrees with {CHECKSUMS_FILE} about {}", chunk.file)));
            }
        }
        Ok(table)
    }

    /// The index definitions (`indexes/*.json`), verified, in the order of their paths.
    pub async fn indexes(&self) -> Result<Vec<Value>> {
        if let Some(foreign) = self.foreign() {
            return Ok(foreign.indexes.clone());
        }
        let sums = self.checksums().await?;
        let mut indexes = Vec::new();
        for path in sums.files.keys().filter(|path| path.as_str().starts_with("indexes/")) {
            let bytes = self.read(path, SMALL).await?;
            indexes.push(self.json(path.as_str(), &bytes)?);
        }
        Ok(indexes)
    }

    /// Any small file of the backup, verified against `checksums.json`. `path` is below the backup's folder.
    pub async fn read(&self, path: &RelativePath, ceiling: u64) -> Result<Bytes> {
        let expected = self.expected(path).await?;
        if let Some(bytes) = expected.bytes.filter(|bytes| *bytes > ceiling) {
            return Err(self.damaged(path.as_str(), &format!("is {bytes} bytes long, over the limit of {ceiling}")));
        }
        self.twice(|| self.read_once(path, ceiling, &expected)).await
    }

    async fn read_once(&self, path: &RelativePath, ceiling: u64, expected: &Expected) -> Result<Bytes> {
        let bytes = self.get(path.as_str(), ceiling).await?;
        if let Some(told) = expected.bytes.filter(|told| *told != bytes.len() as u64) {
            return Err(self.cut(path.as_str(), told, bytes.len() as u64));
        }
        if let Some(sum) = &expected.checksum {
            let actual = checksum(self.manifest().checksum_algorithm, bytes.clone()).await?;
            if actual != *sum {
                return Err(self.changed(path.as_str(), sum, &actual));
            }
        }
        Ok(bytes)
    }

    /// A data file. Its length is checked here; its bytes are what [`Backup::check_files`] is for.
    pub async fn open_file(&self, path: &RelativePath) -> Result<BackupFile> {
        let expected = self.expected(path).await?;
        let full = self.path(path.as_str())?;
        let size = self.store().size(&full).await?.ok_or_else(|| self.missing(path.as_str()))?;
        if let Some(told) = expected.bytes.filter(|told| *told != size) {
            return Err(self.cut(path.as_str(), told, size));
        }
        let local = self.store().local_path(&full)?;
        Ok(BackupFile { store: self.store().clone(), path: full, local, size })
    }

    /// The checksum that a file was written with; `None` where nobody noted one.
    pub async fn checksum_of(&self, path: &RelativePath) -> Result<Option<String>> {
        Ok(self.expected(path).await?.checksum)
    }

    /// Whether it has such a file.
    pub async fn has(&self, path: &RelativePath) -> Result<bool> {
        match self.foreign() {
            Some(foreign) => Ok(foreign.files.contains_key(path)),
            None => Ok(self.checksums().await?.files.contains_key(path)),
        }
    }

    /// A file that lies in one of its folders, or below it, and that it does not know.
    ///
    /// # Errors
    /// The store's.
    pub async fn stray_in(&self, folder: &str) -> Result<Option<String>> {
        let at = self.path(folder)?;
        let base = at.as_str().strip_suffix(folder).unwrap_or_default();
        for found in self.store().list(at.as_str()).await? {
            let Some(path) = found.path.strip_prefix(base) else { continue };
            if found.kind != FileKind::File || !self.has(&RelativePath::new(path)?).await? {
                return Ok(Some(path.to_owned()));
            }
        }
        Ok(None)
    }

    /// The length in bytes that a file was written with, as far as that is known; `None` where there is no such file.
    pub async fn size_of(&self, path: &RelativePath) -> Result<Option<u64>> {
        match self.foreign() {
            Some(foreign) => Ok(foreign.files.get(path).copied().flatten()),
            None => Ok(self.checksums().await?.files.get(path).map(|sum| sum.bytes)),
        }
    }

    /// Notes the outcome of a verification in `verification.json`, the one file that changes after the commit, beside the
    /// last outcome of each other type (see [`super::verdict`]). Of two at the same time neither is lost.
    pub async fn write_verification(&self, outcome: &Value) -> Result<()> {
        self.require_ours("nothing is noted beside it")?;
        let path = self.path(VERIFICATION_FILE)?;
        for _ in 0..10 {
            self.refuse_unless_there().await?;
            let before = match self.store().get_versioned(&path, VERIFICATION_CEILING).await {
                Err(error) if !error.is_temporary() => {
                    // Whatever is there in place of the file makes no sense, and may not be in the way.
                    self.store().put(&path, note(None, outcome)?).await?;
                    return self.refuse_unless_there().await;
                }
                other => other?,
            };
            let written = match before {
                None => self.store().put_if_absent(&path, note(None, outcome)?).await?,
                Some((bytes, version)) => {
                    let before = serde_json::from_slice(&bytes).ok();
                    self.store().replace_if(&path, &version, note(before.as_ref(), outcome)?).await?
                }
            };
            if written.is_some() {
                // Written behind a deletion that was under way, it would be all that is left of the backup.
                if let Err(error) = self.refuse_unless_there().await {
                    self.store().delete(&path).await?;
                    self.store().remove_empty_parents(&path).await?;
                    return Err(error);
                }
                return Ok(());
            }
        }
        Err(Error::new(Kind::InProgress, format!("others verify backup {} all the time; try again", self.id()))
            .with("progress_percentage", Value::Null)
            .temporary())
    }

    /// [`Kind::BackupNotFound`] where the backup is deleted, or is about to be.
    pub async fn refuse_unless_there(&self) -> Result<()> {
        if self.foreign().is_some() {
            return Ok(());
        }
        match look(self.store(), self.folder(), self.id()).await? {
            Found::Nothing => {}
            Found::Manifest(manifest, _) if manifest.state != State::Completed => {}
            Found::Manifest(..) | Found::Damaged(_) => return Ok(()),
        }
        Err(Error::new(Kind::BackupNotFound, format!("backup {} was deleted meanwhile", self.id()))
            .with("backup_id", self.id().as_str())
            .with("storage_path", self.storage_path()))
    }

    async fn expected(&self, path: &RelativePath) -> Result<Expected> {
        if let Some(foreign) = self.foreign() {
            let told = foreign.files.get(path);
            let bytes = *told.ok_or_else(|| self.damaged(path.as_str(), "is not named by its metadata"))?;
            return Ok(Expected { bytes, checksum: None });
        }
        let sums = self.checksums().await?;
        let sum = sums.files.get(path).cloned();
        let sum = sum.ok_or_else(|| self.damaged(path.as_str(), &format!("is not listed in {CHECKSUMS_FILE}")))?;
        Ok(Expected { bytes: Some(sum.bytes), checksum: Some(sum.checksum) })
    }

    pub(super) async fn get(&self, file: &str, ceiling: u64) -> Result<Bytes> {
        let bytes = self.store().get(&self.path(file)?, ceiling).await.map_err(|error| self.attributed(error))?;
        bytes.ok_or_else(|| self.missing(file))
    }

    fn json(&self, file: &str, bytes: &[u8]) -> Result<Value> {
        serde_json::from_slice(bytes).map_err(|error| self.damaged(file, &format!("is not JSON ({error})")))
    }

    pub(super) fn missing(&self, file: &str) -> Error {
        self.damaged(file, "is missing")
    }

    fn cut(&self, file: &str, expected: u64, actual: u64) -> Error {
        self.damaged(file, &format!("is {actual} bytes long and should be {expected}"))
    }

    pub(super) fn changed(&self, file: &str, expected: &str, actual: &str) -> Error {
        self.damaged(file, "does not match its checksum")
            .with("expected_checksum", expected)
            .with("actual_checksum", actual)
            .with("checksum_algorithm", self.manifest().checksum_algorithm.name())
    }

    pub(super) fn damaged(&self, file: &str, what: &str) -> Error {
        let message = format!("backup {} is damaged: {file} {what}", self.id());
        self.attributed(Error::new(Kind::BackupCorrupted, message).with("failed_files", vec![file]))
    }

    fn attributed(&self, error: Error) -> Error {
        error
            .with("backup_id", self.id().as_str())
            .with("collection_name", self.manifest().collection_name.as_str())
            .with("storage_path", self.storage_path())
    }
}

impl BackupFile {
    /// A file that is known to be there.
    pub(super) async fn open(store: &Store, path: RelativePath) -> Result<Self> {
        let size = store.size(&path).await?.ok_or_else(|| internal(format!("{path} was written and is not there")))?;
        let local = store.local_path(&path)?;
        Ok(Self { store: store.clone(), path, local, size })
    }

    /// Its length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where it is on the local disk; `None` where it is not on one.
    #[must_use]
    pub fn local_path(&self) -> Option<&Path> {
        self.local.as_deref()
    }

    /// Some of its bytes.
    pub async fn read_range(&self, range: Range<u64>) -> Result<Bytes> {
        if range.start > range.end || range.end > self.size {
            return Err(internal(format!("{range:?} is not within the {} bytes of {}", self.size, self.path)));
        }
        self.store.get_range(&self.path, range).await
    }
}

/// `verification.json` after `outcome`.
fn note(before: Option<&Value>, outcome: &Value) -> Result<Bytes> {
    let mut bytes = serde_json::to_vec_pretty(&verdict::noted(before, outcome))
        .map_err(|error| internal(format!("a verification cannot be written as JSON: {error}")))?;
    bytes.push(b'\n');
    Ok(Bytes::from(bytes))
}

/// A checksum, computed off the async threads where that takes long.
pub(super) async fn checksum(algorithm: ChecksumAlgorithm, bytes: Bytes) -> Result<String> {
    if bytes.len() < 64 << 10 { Ok(algorithm.of(&bytes)) } else { blocking(move || algorithm.of(&bytes)).await }
}
