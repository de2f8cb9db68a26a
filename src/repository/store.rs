//! Bytes at paths, durable on return: the one thing a repository asks of its storage, whether local disk or object
//! store. The crash-safety rules of the rest are built on [`Store::put_if_absent`] and [`Store::replace_if`].

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{Error as ObjectError, ObjectStore, ObjectStoreExt, UpdateVersion};
use tokio::sync::OnceCell;
use url::Url;

use crate::error::{Error, Kind, Result, internal};

use super::again::{again, blocks};
use super::local::Local;
use super::names::RelativePath;
use super::remote::Remote;
use super::storage_error;
pub use super::upload::Upload;

/// How a store's URL may look.
const URLS: &str = "s3://bucket/prefix, gs://, az:// or file:///folder";

/// A place where files are kept. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(super) inner: Arc<Inner>,
    read_only: bool,
}

pub(super) struct Inner {
    label: String,
    pub(super) backend: Backend,
    pub(super) probed: OnceCell<()>,
}

pub(super) enum Backend {
    Local(Arc<Local>),
    Remote(Remote),
}

/// One version of a file's content, to be replaced only while it is still there.
#[derive(Debug, Clone)]
pub struct Version {
    pub(super) content: Bytes,
    pub(super) update: UpdateVersion,
}

impl Version {
    /// A small file on the local disk, and its version: what is in it.
    pub(super) fn of_local(content: Bytes) -> (Bytes, Self) {
        let update = UpdateVersion { e_tag: None, version: None };
        (content.clone(), Self { content, update })
    }
}

/// What [`Store::list`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMeta {
    /// Below the root. Not always a [`RelativePath`]: unfinished files have a `#` in their names.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// What it is.
    pub kind: FileKind,
}

/// What sort of thing a listed path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A file, or an object.
    File,
    /// A symbolic link or another thing that a backup does not have; never followed.
    Link,
}

impl Store {
    /// Opens `root`: a folder, or `file://`, `s3://bucket/prefix`, `gs://`, `az://`. `options` are `object_store`'s
    /// configuration keys (`aws_endpoint`, `aws_allow_http`, …) and go before the environment's. Touches nothing; a
    /// local root that is missing is made by the first write.
    pub fn open(root: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        if let Some((scheme, rest)) = root.split_once("://") {
            if !scheme.eq_ignore_ascii_case("file") {
                check_open_to_all(rest)?;
            }
            // Not repeated where it is not understood: nobody knows which part of it is a secret then.
            let url = Url::parse(root)
                .map_err(|error| invalid(format!("the URL cannot be understood: {error}: write {URLS}")))?;
            if url.scheme() != "file" {
                let remote = Remote::open(&url, options)?;
                return Ok(Self::new(root.trim_end_matches('/').to_owned(), Backend::Remote(remote)));
            }
            let folder = url
                .to_file_path()
                .map_err(|()| invalid("a file:// URL that names no local folder: write file:///folder"))?;
            return Self::open_local(&folder);
        }
        if root.is_empty() || root.contains('\0') {
            return Err(invalid("the repository's root is empty or has a NUL: give a folder or a URL"));
        }
        Self::open_local(Path::new(root))
    }

    fn open_local(folder: &Path) -> Result<Self> {
        let folder = std::path::absolute(folder)
            .map_err(|error| invalid(format!("{} is not a folder's path: {error}", folder.display())))?;
        let label = folder.display().to_string();
        if folder.metadata().is_ok_and(|meta| !meta.is_dir()) {
            return Err(Error::new(
                Kind::Storage,
                format!("the repository's root {label} is a file: name a folder, or move the file away"),
            )
            .with("storage_path", label)
            .with("error_code", "ENOTDIR")
            .with("permissions_issue", false));
        }
        Ok(Self::new(label, Backend::Local(Arc::new(Local::new(folder)))))
    }

    /// A store on objects that the caller has opened.
    #[must_use]
    pub fn from_objects(objects: Arc<dyn ObjectStore>, prefix: &str, label: &str) -> Self {
        Self::new(label.to_owned(), Backend::Remote(Remote::new(objects, prefix)))
    }

    fn new(label: String, backend: Backend) -> Self {
        Self { inner: Arc::new(Inner { label, backend, probed: OnceCell::new() }), read_only: false }
    }

    /// The same store, refusing whatever would change it.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// [`Kind::ReadOnly`] where it may only be read. `what` is what would change it.
    pub fn require_writable(&self, what: &str) -> Result<()> {
        if !self.read_only {
            return Ok(());
        }
        Err(Error::new(
            Kind::ReadOnly,
            format!(
                "the repository {} is opened with read_only, and {what} would change it: nothing was touched. Leave \
                 read_only out, or name another repository",
                self.display("")
            ),
        )
        .with("storage_path", self.display(""))
        .with("error_code", "read_only")
        .with("permissions_issue", true))
    }

    /// `path` as shown to people: with the root before it.
    #[must_use]
    pub fn display(&self, path: &str) -> String {
        if path.is_empty() { self.inner.label.clone() } else { format!("{}/{path}", self.inner.label) }
    }

    /// Whether it is on the local disk.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.local().is_some()
    }

    /// The local disk, if it is on one.
    pub(super) fn local(&self) -> Option<&Arc<Local>> {
        match &self.inner.backend {
            Backend::Local(local) => Some(local),
            Backend::Remote(_) => None,
        }
    }

    /// Bytes that can still be written, where that is known: on local disks.
    #[must_use]
    pub fn available_bytes(&self) -> Option<u64> {
        match &self.inner.backend {
            Backend::Local(local) => local.available_bytes(),
            Backend::Remote(_) => None,
        }
    }

    /// The whole file, or `None` where there is none. One longer than `ceiling` bytes is [`Kind::BackupCorrupted`]:
    /// nothing that is read whole may be that long.
    pub async fn get(&self, path: &RelativePath, ceiling: u64) -> Result<Option<Bytes>> {
        Ok(self.get_versioned(path, ceiling).await?.map(|(bytes, _)| bytes))
    }

    /// As [`Store::get`], with the version to give to [`Store::replace_if`].
    pub async fn get_versioned(&self, path: &RelativePath, ceiling: u64) -> Result<Option<(Bytes, Version)>> {
        let (bytes, update) = match &self.inner.backend {
            Backend::Local(local) => {
                let (store, local, at) = (self.clone(), Arc::clone(local), path.clone());
                let read = blocking(move || store.get_blocking(&local, &at, ceiling)).await?;
                return read.map(|read| read.map(Version::of_local));
            }
            Backend::Remote(remote) => {
                let key = remote.key(path.as_str())?;
                // Size and content belong to one answer: where the content breaks off, both are asked for again.
                let got = again(|| async {
                    let result = remote.store.get(&key).await?;
                    let meta = result.meta.clone();
                    let bytes = if meta.size > ceiling { None } else { Some(result.bytes().await?) };
                    Ok((meta, bytes))
                });
                match got.await {
                    Ok((meta, Some(bytes))) => (bytes, UpdateVersion { e_tag: meta.e_tag, version: meta.version }),
                    Ok((meta, None)) => return Err(self.too_long(path, meta.size, ceiling)),
                    Err(error) if storage_error::is_absent(&error) => return Ok(None),
                    Err(error) => return Err(self.object_error("reading", path.as_str(), &error, None)),
                }
            }
        };
        Ok(Some((bytes.clone(), Version { content: bytes, update })))
    }

    /// As [`Store::get`], of the store that is on `local`, on the calling thread, which it blocks.
    pub(super) fn get_blocking(&self, local: &Local, path: &RelativePath, ceiling: u64) -> Result<Option<Bytes>> {
        match local.read(path, ceiling) {
            Ok(Ok(bytes)) => Ok(Some(Bytes::from(bytes))),
            Ok(Err(length)) => Err(self.too_long(path, length, ceiling)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.io_error("reading", path.as_str(), &error, None)),
        }
    }

    /// A part of a file; an error where the file is shorter.
    pub async fn get_range(&self, path: &RelativePath, range: Range<u64>) -> Result<Bytes> {
        match &self.inner.backend {
            Backend::Local(local) => {
                let (local, at) = (Arc::clone(local), path.clone());
                let bytes = blocking(move || local.read_range(&at, range)).await?;
                bytes.map(Bytes::from).map_err(|error| self.io_error("reading", path.as_str(), &error, None))
            }
            Backend::Remote(remote) => {
                let length = range.end - range.start;
                let key = remote.key(path.as_str())?;
                // As many bytes as the answer itself promises, and fewer than were asked for: the file may be whole.
                let whole = || async {
                    let bytes = remote.store.get_range(&key, range.clone()).await?;
                    let short = bytes.len() as u64 != length;
                    if short { Err(storage_error::cut(bytes.len() as u64, length)) } else { Ok(bytes) }
                };
                let bytes = again(whole).await;
                bytes.map_err(|error| self.object_error("reading", path.as_str(), &error, None))
            }
        }
    }

    /// A file's length; `None` where there is none.
    pub async fn size(&self, path: &RelativePath) -> Result<Option<u64>> {
        match &self.inner.backend {
            Backend::Local(local) => {
                let (local, at) = (Arc::clone(local), path.clone());
                match blocking(move || local.size(&at)).await? {
                    Ok(size) => Ok(Some(size)),
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(self.io_error("looking at", path.as_str(), &error, None)),
                }
            }
            Backend::Remote(remote) => {
                let key = remote.key(path.as_str())?;
                match again(|| remote.store.head(&key)).await {
                    Ok(meta) => Ok(Some(meta.size)),
                    Err(error) if storage_error::is_absent(&error) => Ok(None),
                    Err(error) => Err(self.object_error("looking at", path.as_str(), &error, None)),
                }
            }
        }
    }

    /// Where the file is on the local disk, if it is on one; no part of it below the root is a link.
    pub fn local_path(&self, path: &RelativePath) -> Result<Option<PathBuf>> {
        match &self.inner.backend {
            Backend::Local(local) => local
                .locate(path.as_str())
                .map(Some)
                .map_err(|error| self.io_error("opening", path.as_str(), &error, None)),
            Backend::Remote(_) => Ok(None),
        }
    }

    /// The file, to be read from its beginning to its end.
    pub(super) async fn read(&self, path: &RelativePath) -> Result<Reading> {
        match &self.inner.backend {
            Backend::Local(local) => {
                let (local, at) = (Arc::clone(local), path.clone());
                let file = blocking(move || local.open(&at)).await?;
                file.map(Reading::File).map_err(|error| self.io_error("reading", path.as_str(), &error, None))
            }
            Backend::Remote(remote) => blocks(self, remote, path).await.map(Reading::Blocks),
        }
    }

    /// Every file below `prefix` (a folder's path; empty for the root), sorted. A missing folder has none.
    pub async fn list(&self, prefix: &str) -> Result<Vec<FileMeta>> {
        match &self.inner.backend {
            Backend::Local(local) => {
                let (local, at) = (Arc::clone(local), prefix.to_owned());
                let found = blocking(move || local.list(&at)).await?;
                found.map_err(|error| self.io_error("listing", prefix, &error, None))
            }
            Backend::Remote(remote) => {
                let key = remote.key(prefix)?;
                let objects = again(|| remote.store.list(Some(&key)).try_collect::<Vec<_>>()).await;
                let objects = objects.map_err(|error| self.object_error("listing", prefix, &error, None))?;
                let file = |path, size| FileMeta { path, size, kind: FileKind::File };
                let mut found: Vec<_> = objects
                    .into_iter()
                    .filter_map(|object| remote.path(&object.location).map(|path| file(path, object.size)))
                    .collect();
                found.sort_by(|a, b| a.path.cmp(&b.path));
                Ok(found)
            }
        }
    }

    /// The names of the folders directly in `prefix`, sorted.
    pub async fn list_folders(&self, prefix: &str) -> Result<Vec<String>> {
        match &self.inner.backend {
            Backend::Local(local) => {
                let (local, at) = (Arc::clone(local), prefix.to_owned());
                let found = blocking(move || local.list_folders(&at)).await?;
                found.map_err(|error| self.io_error("listing", prefix, &error, None))
            }
            Backend::Remote(remote) => {
                let key = remote.key(prefix)?;
                let found = again(|| remote.store.list_with_delimiter(Some(&key))).await;
                let found = found.map_err(|error| self.object_error("listing", prefix, &error, None))?;
                let mut names: Vec<_> =
                    found.common_prefixes.iter().filter_map(|key| key.filename().map(str::to_owned)).collect();
                names.sort();
                Ok(names)
            }
        }
    }

    pub(super) fn io_error(&self, doing: &str, path: &str, error: &std::io::Error, wanted: Option<u64>) -> Error {
        storage_error::from_io(doing, self.display(path), error, wanted, self.available_bytes())
    }

    pub(super) fn object_error(&self, doing: &str, path: &str, error: &ObjectError, wanted: Option<u64>) -> Error {
        storage_error::from_object(doing, self.display(path), error, wanted, self.available_bytes())
    }

    fn too_long(&self, path: &RelativePath, length: u64, ceiling: u64) -> Error {
        Error::new(
            Kind::BackupCorrupted,
            format!("{} is {length} bytes long, over the limit of {ceiling}", self.display(path.as_str())),
        )
        .with("failed_files", vec![path.file_name()])
        .with("storage_path", self.display(path.as_str()))
    }
}

/// A file being read from its beginning.
pub(super) enum Reading {
    /// On the local disk: to be read on a blocking thread.
    File(std::fs::File),
    /// From an object store, block by block.
    Blocks(futures::stream::BoxStream<'static, Result<Bytes>>),
}

/// Runs what blocks off the async threads; it runs to its end even where nobody waits for it any more.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| internal(format!("a thread for files ended: {error}")))
}

/// Refuses what follows a URL's `://` where it holds what would then show in every path. A secret may have slashes in it:
/// an `@` is a sign of one wherever it is. What is refused is not repeated.
fn check_open_to_all(rest: &str) -> Result<()> {
    if rest.contains('@') {
        return Err(invalid(
            "a URL must not hold an '@', which a user's name or a password may stand before: pass those as storage \
             options or in the environment",
        ));
    }
    if rest.contains(['?', '#']) {
        return Err(invalid("a URL must end with the prefix: pass what follows '?' or '#' as storage options"));
    }
    Ok(())
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, message)
}
