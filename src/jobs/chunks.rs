//! The chunk files of a backup in the making: rows of a piece go through one encoder into files of a bounded size.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_array::RecordBatch;
use bytes::Bytes;
use serde_json::Value;

use super::control::Control;
use super::read::Sink;
use super::worker::Worker;
use crate::digest::SetDigest;
use crate::error::{Result, internal};
use crate::parquet::{ChunkSummary, ChunkWriter, WriteOptions, arrow_bytes};
use crate::repository::names::{RelativePath, data_file};
use crate::repository::tables::{ChunkEntry, ChunkTable};
use crate::repository::{Attempt, HashedUpload};
use crate::schema::Collection;

/// The chunk files of one attempt.
pub(super) struct Chunks<'a> {
    attempt: &'a Attempt,
    control: &'a Control,
    collection: &'a Collection,
    options: WriteOptions,
    chunk_bytes: u64,
    next: BTreeMap<String, AtomicUsize>,
    done: Mutex<Vec<ChunkEntry>>,
}

impl<'a> Chunks<'a> {
    /// No file yet; those to come hold up to about `chunk_bytes` of Arrow data each.
    pub(super) fn new(
        collection: &'a Collection,
        partitions: &[String],
        attempt: &'a Attempt,
        control: &'a Control,
        options: WriteOptions,
        chunk_bytes: u64,
    ) -> Self {
        Self {
            attempt,
            control,
            collection,
            options,
            chunk_bytes,
            next: partitions.iter().map(|name| (name.clone(), AtomicUsize::new(0))).collect(),
            done: Mutex::new(Vec::new()),
        }
    }

    /// What takes the rows of one piece of `partition`.
    pub(super) fn sink(&self, partition: &str) -> Result<ChunkSink<'_>> {
        let worker = Worker::start("milvault-encode")?;
        Ok(ChunkSink { chunks: self, partition: partition.to_owned(), open: None, set: SetDigest::default(), worker })
    }

    fn done(&self) -> std::sync::MutexGuard<'_, Vec<ChunkEntry>> {
        self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Throws away what a partition's sinks made, as it is read again.
    pub(super) async fn discard(&self, partition: &str) -> Result<()> {
        let (gone, kept) =
            std::mem::take(&mut *self.done()).into_iter().partition::<Vec<_>, _>(|entry| entry.partition == partition);
        *self.done() = kept;
        for entry in gone {
            self.attempt.discard(&entry.file).await?;
        }
        Ok(())
    }

    /// The chunk table, by partition and lowest key.
    pub(super) fn table(&self) -> ChunkTable {
        let mut chunks = self.done().clone();
        chunks.sort_by(|a, b| (&a.partition, &a.file).cmp(&(&b.partition, &b.file)));
        ChunkTable { chunks }
    }

    /// Writes a block as soon as the job's bandwidth limit allows.
    async fn write(&self, upload: &mut HashedUpload, block: Bytes) -> Result<()> {
        self.control.pass(block.len() as u64).await;
        upload.write(block).await
    }

    async fn open(&self, partition: &str) -> Result<Open> {
        let counter = self.next.get(partition).ok_or_else(|| internal("a chunk of no partition"))?;
        let file = data_file(partition, counter.fetch_add(1, Ordering::Relaxed))?;
        let upload = self.attempt.upload(&file).await?;
        Ok(Open { writer: ChunkWriter::new(&self.collection.schema, &self.options)?, upload, file })
    }
}

struct Open {
    writer: ChunkWriter,
    upload: HashedUpload,
    file: RelativePath,
}

/// Writes one piece's rows to chunk files.
pub(super) struct ChunkSink<'a> {
    chunks: &'a Chunks<'a>,
    partition: String,
    open: Option<Open>,
    set: SetDigest,
    worker: Worker,
}

impl Sink for ChunkSink<'_> {
    async fn take(&mut self, batch: RecordBatch) -> Result<()> {
        // A page may be larger than what is left of a chunk, or than a whole one.
        let mut rest = batch;
        while rest.num_rows() > 0 {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => self.chunks.open(&self.partition).await?,
            };
            let room = self.chunks.chunk_bytes.saturating_sub(open.writer.arrow_bytes());
            let row_bytes = (arrow_bytes(&rest) / rest.num_rows() as u64).max(1);
            let count = usize::try_from(room.div_ceil(row_bytes)).unwrap_or(usize::MAX).clamp(1, rest.num_rows());
            let part = rest.slice(0, count);
            rest = rest.slice(count, rest.num_rows() - count);
            let mut writer = open.writer;
            let (writer, blocks) = self
                .worker
                .run(move || {
                    let blocks = writer.write(&part)?;
                    if !blocks.is_empty() {
                        super::worker::give_back_memory();
                    }
                    Ok((writer, blocks))
                })
                .await?;
            open.writer = writer;
            for block in blocks {
                self.chunks.write(&mut open.upload, block).await?;
            }
            let full = open.writer.arrow_bytes() >= self.chunks.chunk_bytes;
            self.open = Some(open);
            if full {
                self.close().await?;
            }
        }
        Ok(())
    }

    async fn end(mut self) -> Result<SetDigest> {
        self.close().await?;
        Ok(self.set)
    }
}

impl ChunkSink<'_> {
    async fn close(&mut self) -> Result<()> {
        let Some(Open { writer, mut upload, file }) = self.open.take() else { return Ok(()) };
        let (blocks, summary): (_, ChunkSummary) = self.worker.run(move || writer.finish()).await?;
        for block in blocks {
            self.chunks.write(&mut upload, block).await?;
        }
        upload.finish().await?;
        self.set.merge(&summary.digest);
        self.chunks.done().push(ChunkEntry {
            file,
            partition: self.partition.clone(),
            rows: summary.rows,
            bytes: summary.arrow_bytes,
            file_bytes: summary.file_bytes,
            lowest: summary.lowest.unwrap_or(Value::Null),
            highest: summary.highest.unwrap_or(Value::Null),
            digest: summary.digest.to_string(),
        });
        Ok(())
    }
}
