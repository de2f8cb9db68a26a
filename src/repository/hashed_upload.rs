//! A file that is written and hashed at the same time, and noted for the commit when it is there.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::error::{Result, internal};

use super::names::RelativePath;
use super::store::Upload;
use super::tables::{Checksums, FileSum};

/// How much is handed to storage and to the hasher at once.
const BLOCK: usize = 1 << 20;

/// A file that is written and, on another thread, hashed at the same time.
pub struct HashedUpload {
    pub(super) upload: Upload,
    pub(super) blocks: mpsc::Sender<Bytes>,
    pub(super) hasher: JoinHandle<String>,
    pub(super) registrar: Registrar,
}

/// Notes a file's checksum once it is durable; while it lives, the write counts as under way.
pub(super) struct Registrar {
    pub(super) path: RelativePath,
    pub(super) sums: Arc<Mutex<Checksums>>,
    pub(super) write: Arc<()>,
}

impl Registrar {
    pub(super) fn register(self, sum: FileSum) {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner).files.insert(self.path, sum);
        drop(self.write);
    }
}

impl HashedUpload {
    /// Bytes taken so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.upload.written()
    }

    /// Takes the next bytes; waits while storage or hashing lags behind.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        // In blocks: the few that wait to be hashed would keep whole row groups in memory otherwise.
        while !bytes.is_empty() {
            let block = bytes.split_to(bytes.len().min(BLOCK));
            if self.blocks.send(block.clone()).await.is_err() {
                return Err(internal("a thread that computes checksums ended"));
            }
            self.upload.write(block).await?;
        }
        Ok(())
    }

    /// Waits until the file is there, whole and durable, and notes its checksum for the commit.
    pub async fn finish(self) -> Result<FileSum> {
        let Self { upload, blocks, hasher, registrar } = self;
        drop(blocks);
        // A task of its own: given up by its caller, it still counts as under way until it is done.
        let done = tokio::spawn(async move {
            let bytes = upload.written();
            upload.finish().await?;
            let checksum = hasher.await.map_err(|error| internal(format!("a thread for checksums ended: {error}")))?;
            let sum = FileSum { bytes, checksum };
            registrar.register(sum.clone());
            Ok(sum)
        });
        done.await.map_err(|error| internal(format!("the task that finishes a file ended: {error}")))?
    }

    /// Gives up; nothing of the file stays.
    pub async fn abort(self) {
        let Self { upload, blocks, hasher, registrar } = self;
        drop(blocks);
        upload.abort().await;
        drop((hasher, registrar));
    }
}
