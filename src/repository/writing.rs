//! The half of a [`Store`] that changes files: puts, conditional ones among them, deletions, uploads.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use object_store::{Error as ObjectError, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion};

use crate::error::{Error, Kind, Result, internal};

use super::again::again;
use super::local::Mode;
use super::names::{BackupId, RelativePath, now};
use super::storage_error;
use super::store::{Backend, Store, Version, blocking};
use super::upload::Upload;

impl Store {
    /// Writes a small file, replacing what is there.
    pub async fn put(&self, path: &RelativePath, bytes: Bytes) -> Result<()> {
        self.write(path, bytes, Condition::None).await.map(drop)
    }

    /// Writes a small file where there is none; `None` where there is one. Where the store says so only because an
    /// earlier try of ours did get through, that counts as written.
    pub async fn put_if_absent(&self, path: &RelativePath, bytes: Bytes) -> Result<Option<Version>> {
        self.write(path, bytes, Condition::Absent).await
    }

    /// Writes a small file where `version` still is; `None` where it is not.
    pub async fn replace_if(&self, path: &RelativePath, version: &Version, bytes: Bytes) -> Result<Option<Version>> {
        self.write(path, bytes, Condition::Still(version.clone())).await
    }

    async fn write(&self, path: &RelativePath, bytes: Bytes, condition: Condition) -> Result<Option<Version>> {
        self.require_writable(&format!("writing {path}"))?;
        let length = bytes.len() as u64;
        match &self.inner.backend {
            Backend::Local(local) => {
                let (local, at, content) = (Arc::clone(local), path.clone(), bytes.clone());
                let written = blocking(move || {
                    let mode = match &condition {
                        Condition::None => Mode::Overwrite,
                        Condition::Absent => Mode::Create,
                        Condition::Still(version) => Mode::Replace(&version.content),
                    };
                    local.publish(&at, &content, &mode)
                })
                .await?
                .map_err(|error| self.io_error("writing", path.as_str(), &error, Some(length)))?;
                let update = UpdateVersion { e_tag: None, version: None };
                Ok(written.then_some(Version { content: bytes, update }))
            }
            Backend::Remote(remote) => {
                let mode = match condition {
                    Condition::None => PutMode::Overwrite,
                    Condition::Absent => PutMode::Create,
                    Condition::Still(version) => PutMode::Update(version.update),
                };
                let key = remote.key(path.as_str())?;
                let payload = PutPayload::from_bytes(bytes.clone());
                let put = || remote.store.put_opts(&key, payload.clone(), PutOptions::from(mode.clone()));
                match again(put).await {
                    Ok(result) => {
                        let update = UpdateVersion { e_tag: result.e_tag, version: result.version };
                        Ok(Some(Version { content: bytes, update }))
                    }
                    Err(ObjectError::AlreadyExists { .. } | ObjectError::Precondition { .. }) => {
                        let present = self.present(path, length).await?;
                        Ok(present.filter(|(content, _)| *content == bytes).map(|(_, version)| version))
                    }
                    Err(error) => Err(self.object_error("writing", path.as_str(), &error, Some(length))),
                }
            }
        }
    }

    /// What is at `path`; `None` too where it is longer than `length`, and so not what is looked for.
    async fn present(&self, path: &RelativePath, length: u64) -> Result<Option<(Bytes, Version)>> {
        match self.get_versioned(path, length).await {
            Err(error) if error.kind() == Kind::BackupCorrupted => Ok(None),
            outcome => outcome,
        }
    }

    /// Deletes a file; one that is absent is fine.
    pub async fn delete(&self, path: &RelativePath) -> Result<()> {
        self.delete_all(vec![path.as_str().to_owned()]).await
    }

    /// Deletes files, named as [`Store::list`] names them, durably on return; absent ones are fine.
    pub async fn delete_all(&self, paths: Vec<String>) -> Result<()> {
        let first = paths.first().cloned().unwrap_or_default();
        self.require_writable(&format!("deleting {first}"))?;
        match &self.inner.backend {
            Backend::Local(local) => {
                let local = Arc::clone(local);
                let done = blocking(move || local.delete(&paths)).await?;
                done.map_err(|error| self.io_error("deleting", &first, &error, None))
            }
            Backend::Remote(remote) => {
                let keys: Vec<_> = paths.iter().map(|path| remote.key(path)).collect::<Result<_>>()?;
                let delete = || async {
                    let keys = futures::stream::iter(keys.clone().into_iter().map(Ok)).boxed();
                    let mut outcomes = remote.store.delete_stream(keys);
                    while let Some(outcome) = outcomes.next().await {
                        match outcome {
                            Err(error) if !storage_error::is_absent(&error) => return Err(error),
                            _ => {}
                        }
                    }
                    Ok(())
                };
                again(delete).await.map_err(|error| self.object_error("deleting", &first, &error, None))
            }
        }
    }

    /// Deletes the file where `version` still is; `false` where it is not. On object stores, which cannot compare and
    /// delete in one, the comparison comes shortly before.
    pub async fn delete_if(&self, path: &RelativePath, version: &Version) -> Result<bool> {
        self.require_writable(&format!("deleting {path}"))?;
        match &self.inner.backend {
            Backend::Local(local) => {
                let (local, at, content) = (Arc::clone(local), path.clone(), version.content.clone());
                let done = blocking(move || local.delete_if(&at, &content)).await?;
                done.map_err(|error| self.io_error("deleting", path.as_str(), &error, None))
            }
            Backend::Remote(_) => {
                let present = self.present(path, version.content.len() as u64).await?;
                if present.is_none_or(|(content, _)| content != version.content) {
                    return Ok(false);
                }
                self.delete(path).await.map(|()| true)
            }
        }
    }

    /// On local disk: removes `folder` and what is in it, as far as it is empty folders. Object stores have none.
    pub async fn remove_empty_folders(&self, folder: &str) -> Result<()> {
        self.require_writable("removing an empty folder")?;
        let Backend::Local(local) = &self.inner.backend else { return Ok(()) };
        let (local, at) = (Arc::clone(local), folder.to_owned());
        let done = blocking(move || local.remove_empty_folders(&at)).await?;
        done.map_err(|error| self.io_error("removing the empty folder", folder, &error, None))
    }

    /// On local disk: removes the folders that `path` lies in, as far as they are empty; never the root.
    pub async fn remove_empty_parents(&self, path: &RelativePath) -> Result<()> {
        self.require_writable("removing an empty folder")?;
        let Backend::Local(local) = &self.inner.backend else { return Ok(()) };
        let (local, at) = (Arc::clone(local), path.clone());
        let done = blocking(move || local.remove_empty_parents(at.as_str())).await?;
        done.map_err(|error| self.io_error("removing the empty folders of", path.as_str(), &error, None))
    }

    /// On local disk: removes the unfinished small files that dead processes left directly in `folder`.
    pub async fn delete_unfinished(&self, folder: &str) -> Result<()> {
        self.require_writable("clearing up")?;
        let Backend::Local(local) = &self.inner.backend else { return Ok(()) };
        let (local, at) = (Arc::clone(local), folder.to_owned());
        let done = blocking(move || local.delete_unfinished(&at)).await?;
        done.map_err(|error| self.io_error("clearing up", folder, &error, None))
    }

    /// Gives a finished file a second name, durably on return, replacing what is there: by a link on a local disk that
    /// has them, else by a copy, which an object store makes itself.
    pub(super) async fn duplicate(&self, from: &RelativePath, to: &RelativePath) -> Result<()> {
        self.require_writable(&format!("copying to {to}"))?;
        match &self.inner.backend {
            Backend::Local(local) => {
                let (local, old, new) = (Arc::clone(local), from.clone(), to.clone());
                let done = blocking(move || local.duplicate(&old, &new)).await?;
                done.map_err(|error| self.io_error("copying to", to.as_str(), &error, None))
            }
            Backend::Remote(remote) => {
                let (old, new) = (remote.key(from.as_str())?, remote.key(to.as_str())?);
                let copied = again(|| remote.store.copy(&old, &new)).await;
                copied.map_err(|error| self.object_error("copying to", to.as_str(), &error, None))
            }
        }
    }

    /// Begins a big file, which appears when [`Upload::finish`] returns and replaces what is there.
    pub async fn upload(&self, path: &RelativePath) -> Result<Upload> {
        self.require_writable(&format!("writing {path}"))?;
        let (objects, key) = match &self.inner.backend {
            Backend::Local(local) => {
                let (local, at) = (Arc::clone(local), path.clone());
                let objects = blocking(move || local.locate(at.as_str()).and_then(|_| local.big_files())).await?;
                let objects = objects.map_err(|error| self.io_error("writing", path.as_str(), &error, None))?;
                (objects, object_store::path::Path::parse(path.as_str()).map_err(|e| internal(e.to_string()))?)
            }
            Backend::Remote(remote) => (Arc::clone(&remote.store), remote.key(path.as_str())?),
        };
        Ok(Upload::new(self.clone(), path.clone(), key, objects))
    }

    /// Whether it answers, and, unless it is only to be read, takes files on the terms that backups need; leaves none.
    pub async fn check(&self) -> Result<()> {
        self.list_folders("").await?;
        if self.require_writable("").is_err() {
            return Ok(());
        }
        let trial = RelativePath::new(format!(".check.{}.json", BackupId::new(now())))?;
        self.put_if_absent(&trial, Bytes::from_static(b"{}")).await?;
        self.probe(&trial).await?;
        self.delete(&trial).await
    }

    /// Refuses a store that ignores "only where there is none", on which all safety rests, or "only if it is still the
    /// one", by which locks are kept and backups deleted. `taken` is a file that was just written with
    /// [`Store::put_if_absent`]: a second one must fail, and so must one in the place of another version. Done once;
    /// leaves no file behind.
    pub(super) async fn probe(&self, taken: &RelativePath) -> Result<()> {
        let probe = async {
            let second = Bytes::from_static(b"{\"probe\": \"this store must not have taken a second file\"}");
            if self.put_if_absent(taken, second.clone()).await?.is_some() {
                return Err(self.careless(taken, "If-None-Match").await?);
            }
            if !self.is_local()
                && let Some((_, version)) = self.get_versioned(taken, PROBED_CEILING).await?
                && self.replace_if(taken, &version.another(), second).await?.is_some()
            {
                return Err(self.careless(taken, "If-Match").await?);
            }
            Ok(())
        };
        self.inner.probed.get_or_try_init(|| probe).await.map(|&()| ())
    }

    async fn careless(&self, taken: &RelativePath, condition: &str) -> Result<Error> {
        self.delete(taken).await?;
        Ok(Error::new(
            Kind::Storage,
            format!(
                "{} ignores conditional writes ({condition}), so two backups could destroy each other: use a store that \
                 supports them, or a newer version of this one",
                self.display("")
            ),
        )
        .with("storage_path", self.display(""))
        .with("error_code", "no_conditional_put")
        .with("permissions_issue", false))
    }
}

/// No lock, journal or trial is longer.
const PROBED_CEILING: u64 = 1 << 20;

impl Version {
    /// A version that a file never had, of the same form.
    fn another(&self) -> Self {
        let changed = |text: &String, [usual, other]: [char; 2]| {
            let last = text.rfind(|letter: char| letter.is_ascii_alphanumeric());
            let mut letters: Vec<_> = text.chars().collect();
            if let Some(letter) = last.and_then(|at| letters.get_mut(at)) {
                *letter = if *letter == usual { other } else { usual };
            }
            letters.into_iter().collect()
        };
        let UpdateVersion { e_tag, version } = &self.update;
        // An ETag is mostly a hash in hex, a version a number.
        let e_tag = e_tag.as_ref().map(|text| changed(text, ['f', 'e']));
        let version = version.as_ref().map(|text| changed(text, ['0', '1']));
        Self { content: self.content.clone(), update: UpdateVersion { e_tag, version } }
    }
}

enum Condition {
    None,
    Absent,
    Still(Version),
}
