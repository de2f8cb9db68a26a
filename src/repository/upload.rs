//! Writing a big file in portions: buffered into parts, a few of them on their way at once.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::task::JoinSet;

use crate::error::{Result, internal};

use super::again::again;
use super::names::RelativePath;
use super::storage_error::is_absent;
use super::store::Store;

/// What object stores want of every part but the last: at least 5 MiB, and all the same. Ten thousand parts, the most
/// there may be, make 80 GB.
const REMOTE_PART: usize = 8 << 20;
/// A disk takes any, and small ones keep less in memory.
const LOCAL_PART: usize = 1 << 20;
const IN_FLIGHT: usize = 3;

/// A file that is being written. It appears, whole and durable, when [`Upload::finish`] returns; dropped before that,
/// it leaves nothing behind as long as the runtime still runs.
pub struct Upload {
    store: Store,
    path: RelativePath,
    key: Path,
    objects: std::sync::Arc<dyn ObjectStore>,
    parts: Option<Box<dyn MultipartUpload>>,
    tasks: JoinSet<object_store::Result<()>>,
    buffer: Vec<Bytes>,
    buffered: usize,
    written: u64,
}

impl Upload {
    pub(super) fn new(store: Store, path: RelativePath, key: Path, objects: std::sync::Arc<dyn ObjectStore>) -> Self {
        let tasks = JoinSet::new();
        Self { store, path, key, objects, parts: None, tasks, buffer: Vec::new(), buffered: 0, written: 0 }
    }

    /// Bytes taken so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Takes the next bytes; waits while too many parts are on their way.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        self.written += bytes.len() as u64;
        let part = if self.store.is_local() { LOCAL_PART } else { REMOTE_PART };
        while self.buffered + bytes.len() >= part {
            let rest = bytes.split_off(part - self.buffered);
            self.buffer.push(std::mem::replace(&mut bytes, rest));
            self.buffered = 0;
            let part: PutPayload = std::mem::take(&mut self.buffer).into_iter().collect();
            self.send(part).await?;
        }
        if !bytes.is_empty() {
            self.buffered += bytes.len();
            self.buffer.push(bytes);
        }
        Ok(())
    }

    /// Waits until the file is there, whole and durable.
    pub async fn finish(mut self) -> Result<()> {
        let last: PutPayload = std::mem::take(&mut self.buffer).into_iter().collect();
        if self.parts.is_none() && !self.store.is_local() {
            let outcome = again(|| self.objects.put(&self.key, last.clone())).await;
            return outcome.map(drop).map_err(|error| self.failed(&error));
        }
        if last.content_length() > 0 || self.parts.is_none() {
            self.send(last).await?;
        }
        self.wait(0).await?;
        let Some(mut parts) = self.parts.take() else { return Err(internal("an upload has no parts")) };
        match parts.complete().await {
            Ok(_) => Ok(()),
            // Asked twice because the first answer was lost, the store knows no such upload any more.
            Err(error) if is_absent(&error) && self.is_there().await? => Ok(()),
            Err(error) => {
                let error = self.failed(&error);
                self.parts = Some(parts);
                Err(error)
            }
        }
    }

    /// Gives up; nothing of the file stays.
    pub async fn abort(mut self) {
        self.tasks.shutdown().await;
        if let Some(mut parts) = self.parts.take() {
            // What cannot be taken back now is swept by the next run, or by the bucket's rule for unfinished uploads.
            let _ = parts.abort().await;
        }
    }

    async fn is_there(&mut self) -> Result<bool> {
        Ok(!self.store.is_local() && self.store.size(&self.path).await? == Some(self.written))
    }

    async fn send(&mut self, part: PutPayload) -> Result<()> {
        if self.parts.is_none() {
            let parts = self.objects.put_multipart(&self.key).await.map_err(|error| self.failed(&error))?;
            self.parts = Some(parts);
        }
        self.wait(IN_FLIGHT - 1).await?;
        if let Some(parts) = self.parts.as_mut() {
            self.tasks.spawn(parts.put_part(part));
        }
        Ok(())
    }

    async fn wait(&mut self, at_most: usize) -> Result<()> {
        while self.tasks.len() > at_most {
            match self.tasks.join_next().await {
                Some(Ok(Ok(()))) | None => {}
                Some(Ok(Err(error))) => return Err(self.failed(&error)),
                Some(Err(error)) => return Err(internal(format!("the task that writes {} ended: {error}", self.path))),
            }
        }
        Ok(())
    }

    fn failed(&self, error: &object_store::Error) -> crate::error::Error {
        self.store.object_error("writing", self.path.as_str(), error, Some(self.written))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let (Some(mut parts), Ok(runtime)) = (self.parts.take(), tokio::runtime::Handle::try_current()) {
            let mut tasks = std::mem::take(&mut self.tasks);
            runtime.spawn(async move {
                tasks.shutdown().await;
                let _ = parts.abort().await;
            });
        }
    }
}
