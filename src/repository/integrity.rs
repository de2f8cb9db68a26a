//! Is every file of a backup as it was written, none missing and none added?
//!
//! The manifest is checked by its own `self`, `checksums.json` by the manifest, every other file by `checksums.json`.
//! Several files are hashed at once, each on a blocking thread, in blocks: memory stays the same whatever their size.

use std::collections::BTreeMap;
use std::io::Read;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::checksum::{ChecksumAlgorithm, Hasher};
use crate::error::{Error, Kind, Result, internal};

use super::backup::{Backup, checksum};
use super::manifest::{self, Manifest, State};
use super::names::RelativePath;
use super::store::{FileKind, FileMeta, Reading, Store, blocking};
use super::tables::{self, CHECKSUMS_FILE, FileSum, VERIFICATION_FILE};

const AT_ONCE: usize = 4;
const BLOCK: usize = 1 << 20;

/// What is told of every portion of bytes that was read, and may make the reader wait.
pub type OnBytes<'a> = &'a (dyn Fn(u64) -> BoxFuture<'a, ()> + Send + Sync);

/// What [`Backup::check_files`] found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct FileReport {
    /// How many files are whole, `metadata.json` and `checksums.json` included.
    pub files_verified: u64,
    /// The files that are not, in order of their paths.
    pub failed: Vec<FailedFile>,
    /// Bytes hashed.
    pub bytes: u64,
    /// Files of rows or deletes that the metadata of a backup of milvus-backup does not name. Ours have none: there they
    /// are a failure.
    pub unnamed: Vec<String>,
}

/// A file that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FailedFile {
    /// Its path below the backup's folder.
    pub file: String,
    /// Why it failed.
    pub reason: Reason,
    /// The checksum or length it should have.
    pub expected: Option<String>,
    /// The one it has; for [`Reason::Unreadable`] what went wrong.
    pub actual: Option<String>,
}

impl std::fmt::Display for FailedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let expected = self.expected.as_deref().unwrap_or("unknown");
        let actual = self.actual.as_deref().unwrap_or("unknown");
        match self.reason {
            Reason::Missing => write!(f, "{} is missing", self.file),
            Reason::Size => write!(f, "{} has {actual} bytes instead of {expected}", self.file),
            Reason::Checksum => write!(f, "{} is damaged: its checksum is {actual} instead of {expected}", self.file),
            Reason::Extra => write!(f, "{} does not belong to the backup", self.file),
            Reason::Unreadable => write!(f, "{} cannot be read: {actual}", self.file),
        }
    }
}

/// Why a file failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Reason {
    Missing,
    Size,
    Checksum,
    Extra,
    Unreadable,
}

impl FailedFile {
    pub(super) fn new(file: &str, reason: Reason, expected: Option<String>, actual: Option<String>) -> Self {
        Self { file: file.to_owned(), reason, expected, actual }
    }
}

impl FileReport {
    /// Whether every file is whole.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.failed.is_empty()
    }
}

/// Which of the files that `checksums.json` lists are read. All of them have to be there, as long as they were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hashed {
    /// Every one.
    All,
    /// All but the data files, which are nearly all of the bytes.
    AllButData,
    /// None: their lengths are all that is looked at.
    Nothing,
}

impl Hashed {
    fn includes(self, path: &str) -> bool {
        match self {
            Self::All => true,
            Self::AllButData => !path.starts_with("data/") && !path.starts_with("binlogs/"),
            Self::Nothing => false,
        }
    }
}

impl Backup {
    /// Checks every file; with `fail_fast` only up to the first that fails. `on_bytes` is told of every portion hashed.
    /// Damage is in the report; an error means that the store could not be asked.
    pub async fn check_files(&self, fail_fast: bool, on_bytes: &(dyn Fn(u64) + Send + Sync)) -> Result<FileReport> {
        let told = |bytes| {
            on_bytes(bytes);
            std::future::ready(()).boxed()
        };
        self.check_some_files(Hashed::All, fail_fast, &told).await
    }

    /// As [`Backup::check_files`], going on after each portion only when what `on_bytes` returned has ended; of the
    /// listed files, those that `hashed` leaves out are looked at for their length alone.
    pub async fn check_some_files(&self, hashed: Hashed, fail_fast: bool, on_bytes: OnBytes<'_>) -> Result<FileReport> {
        if let Some(foreign) = self.foreign() {
            return self.check_named_files(foreign, fail_fast).await;
        }
        let mut report = FileReport::default();
        let read_twice = !self.store().is_local();
        self.check_manifest(&mut report, on_bytes).await?;
        if read_twice && !report.is_whole() {
            report = FileReport::default();
            self.check_manifest(&mut report, on_bytes).await?;
        }
        if fail_fast && !report.is_whole() {
            return Ok(report);
        }
        let failed = report.failed.len();
        let mut files = self.check_list(&mut report, on_bytes).await?;
        if read_twice && files.is_none() {
            report.failed.truncate(failed);
            files = self.check_list(&mut report, on_bytes).await?;
        }
        if let Some(files) = files
            && (!fail_fast || report.is_whole())
        {
            self.check_listed(files, hashed, &mut report, fail_fast, on_bytes).await?;
        }
        report.failed.sort();
        Ok(report)
    }

    async fn check_manifest(&self, report: &mut FileReport, on_bytes: OnBytes<'_>) -> Result<()> {
        let file = manifest::FILE;
        let bytes = match self.store().get(&self.path(file)?, manifest::CEILING).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return report.fail(FailedFile::new(file, Reason::Missing, None, None)),
            Err(error) => return report.fail(unreadable(file, error)?),
        };
        on_bytes(bytes.len() as u64).await;
        report.bytes += bytes.len() as u64;
        match Manifest::parse_in(&bytes, self.folder(), self.id()) {
            Ok(manifest) if manifest == *self.manifest() => report.files_verified += 1,
            Ok(manifest) if manifest.state != State::Completed => {
                return Err(Error::new(Kind::BackupNotFound, format!("backup {} is being deleted", self.id()))
                    .with("backup_id", self.id().as_str()));
            }
            Ok(_) => report.failed.push(FailedFile::new(file, Reason::Checksum, None, None)),
            Err(error) => {
                let detail = |name| error.details().get(name).and_then(|value| value.as_str()).map(str::to_owned);
                let actual = detail("actual_checksum").or_else(|| Some(error.message().to_owned()));
                report.failed.push(FailedFile::new(file, Reason::Checksum, detail("expected_checksum"), actual));
            }
        }
        Ok(())
    }

    async fn check_list(
        &self,
        report: &mut FileReport,
        on_bytes: OnBytes<'_>,
    ) -> Result<Option<BTreeMap<RelativePath, FileSum>>> {
        let file = CHECKSUMS_FILE;
        let bytes = match self.store().get(&self.path(file)?, tables::CEILING).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return report.fail(FailedFile::new(file, Reason::Missing, None, None)).map(|()| None),
            Err(error) => return report.fail(unreadable(file, error)?).map(|()| None),
        };
        on_bytes(bytes.len() as u64).await;
        report.bytes += bytes.len() as u64;
        let expected = &self.manifest().checksum;
        let actual = checksum(self.manifest().checksum_algorithm, bytes).await?;
        if actual != *expected {
            report.failed.push(FailedFile::new(file, Reason::Checksum, Some(expected.clone()), Some(actual)));
            return Ok(None);
        }
        report.files_verified += 1;
        Ok(Some(self.checksums().await?.files.clone()))
    }

    async fn check_listed(
        &self,
        files: BTreeMap<RelativePath, FileSum>,
        hashed: Hashed,
        report: &mut FileReport,
        fail_fast: bool,
        on_bytes: OnBytes<'_>,
    ) -> Result<()> {
        let base = format!("{}/{}", self.folder(), self.id());
        let mut present = BTreeMap::new();
        for found in self.store().list(&base).await? {
            if let Some(path) = found.path.strip_prefix(&base).and_then(|rest| rest.strip_prefix('/')) {
                present.insert(path.to_owned(), found);
            }
        }
        let mut whole = Vec::new();
        for (path, sum) in files {
            let mut found = present.remove(path.as_str());
            if found.as_ref().is_none_or(|found| found.size != sum.bytes) && !self.store().is_local() {
                found = self.asked_for(path.as_str()).await?;
            }
            match found {
                None => report.failed.push(FailedFile::new(path.as_str(), Reason::Missing, None, None)),
                Some(found) if found.kind == FileKind::Link => {
                    let actual = Some("it is a link".to_owned());
                    report.failed.push(FailedFile::new(path.as_str(), Reason::Unreadable, None, actual));
                }
                Some(found) if found.size != sum.bytes => {
                    let (expected, actual) = (Some(sum.bytes.to_string()), Some(found.size.to_string()));
                    report.failed.push(FailedFile::new(path.as_str(), Reason::Size, expected, actual));
                }
                Some(_) if hashed.includes(path.as_str()) => whole.push((path, sum)),
                Some(_) => report.files_verified += 1,
            }
        }
        for path in present.into_keys().filter(|path| !belongs(path)) {
            if self.store().is_local() || self.asked_for(&path).await?.is_some() {
                report.failed.push(FailedFile::new(&path, Reason::Extra, None, None));
            }
        }
        if fail_fast && !report.is_whole() {
            return Ok(());
        }
        let checks = whole.into_iter().map(|(path, sum)| self.check_file(path, sum, on_bytes));
        let mut checks = futures::stream::iter(checks.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        while let Some(outcome) = checks.next().await {
            match outcome? {
                Ok(bytes) => {
                    report.files_verified += 1;
                    report.bytes += bytes;
                }
                Err(failed) => {
                    report.failed.push(failed);
                    if fail_fast {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// What an object store says of one file. A list may be behind: it lacks what was just written, or has what is gone.
    async fn asked_for(&self, path: &str) -> Result<Option<FileMeta>> {
        let size = self.store().size(&self.path(path)?).await?;
        Ok(size.map(|size| FileMeta { path: path.to_owned(), size, kind: FileKind::File }))
    }

    /// Reads a file against its checksum. On an object store, one that seems damaged is read twice: its answer may have
    /// been.
    async fn check_file(
        &self,
        path: RelativePath,
        sum: FileSum,
        on_bytes: OnBytes<'_>,
    ) -> Result<Result<u64, FailedFile>> {
        match self.check_file_once(path.clone(), sum.clone(), on_bytes).await? {
            Err(_) if !self.store().is_local() => self.check_file_once(path, sum, on_bytes).await,
            outcome => Ok(outcome),
        }
    }

    async fn check_file_once(
        &self,
        path: RelativePath,
        sum: FileSum,
        on_bytes: OnBytes<'_>,
    ) -> Result<Result<u64, FailedFile>> {
        let algorithm = self.manifest().checksum_algorithm;
        match hash_file(self.store(), &self.path(path.as_str())?, algorithm, on_bytes).await {
            Ok((bytes, _)) if bytes != sum.bytes => {
                let (expected, actual) = (Some(sum.bytes.to_string()), Some(bytes.to_string()));
                Ok(Err(FailedFile::new(path.as_str(), Reason::Size, expected, actual)))
            }
            Ok((_, actual)) if actual != sum.checksum => {
                Ok(Err(FailedFile::new(path.as_str(), Reason::Checksum, Some(sum.checksum), Some(actual))))
            }
            Ok((bytes, _)) => Ok(Ok(bytes)),
            Err(error) => Ok(Err(unreadable(path.as_str(), error)?)),
        }
    }
}

impl FileReport {
    #[allow(clippy::unnecessary_wraps)] // so that callers can return it
    fn fail(&mut self, failed: FailedFile) -> Result<()> {
        self.failed.push(failed);
        Ok(())
    }
}

/// Files that belong to a backup without being in `checksums.json`, and what a crash may leave of them on local disk.
fn belongs(path: &str) -> bool {
    let file = path.strip_suffix("#0").unwrap_or(path);
    matches!(file, manifest::FILE | VERIFICATION_FILE) || path == CHECKSUMS_FILE
}

fn unreadable(file: &str, error: Error) -> Result<FailedFile> {
    if error.is_temporary() || error.kind() == Kind::Internal {
        return Err(error);
    }
    Ok(FailedFile::new(file, Reason::Unreadable, None, Some(error.message().to_owned())))
}

/// Length and checksum of a file.
pub(super) async fn hash_file(
    store: &Store,
    path: &RelativePath,
    algorithm: ChecksumAlgorithm,
    on_bytes: OnBytes<'_>,
) -> Result<(u64, String)> {
    match store.read(path).await? {
        Reading::File(mut file) => {
            let (sender, mut receiver) = mpsc::channel(8);
            let work = blocking(move || {
                let mut hasher = Hasher::new(algorithm);
                let mut block = vec![0; BLOCK];
                let mut total = 0_u64;
                loop {
                    let read = match file.read(&mut block) {
                        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                        other => other?,
                    };
                    // Nobody listens any more: the check was given up.
                    if read == 0 || sender.blocking_send(read as u64).is_err() {
                        return Ok::<_, std::io::Error>((total, hasher.finish()));
                    }
                    hasher.update(&block[..read]);
                    total += read as u64;
                }
            });
            let tell = async {
                while let Some(bytes) = receiver.recv().await {
                    on_bytes(bytes).await;
                }
            };
            let (outcome, ()) = tokio::join!(work, tell);
            outcome?.map_err(|error| store.io_error("reading", path.as_str(), &error, None))
        }
        Reading::Blocks(mut blocks) => {
            let (sender, work) = hash_blocks(algorithm);
            let mut total = 0;
            while let Some(block) = blocks.next().await {
                let block = block?;
                on_bytes(block.len() as u64).await;
                total += block.len() as u64;
                if sender.send(block).await.is_err() {
                    return Err(internal("a thread that computes checksums ended"));
                }
            }
            drop(sender);
            let sum =
                work.await.map_err(|error| internal(format!("a thread that computes checksums ended: {error}")))?;
            Ok((total, sum))
        }
    }
}

/// A thread that hashes the blocks it is sent, a few of them waiting at most; it ends when the sender is dropped.
pub(super) fn hash_blocks(algorithm: ChecksumAlgorithm) -> (mpsc::Sender<Bytes>, tokio::task::JoinHandle<String>) {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(4);
    let work = tokio::task::spawn_blocking(move || {
        let mut hasher = Hasher::new(algorithm);
        while let Some(block) = receiver.blocking_recv() {
            hasher.update(&block);
        }
        hasher.finish()
    });
    (sender, work)
}
