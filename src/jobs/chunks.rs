//! The chunk files of a backup in the making: rows of a piece go through one encoder into files of a bounded size.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_array::RecordBatch;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::Value;

use super::control::Control;
use super::read::{Kept, Sink};
use super::worker::Worker;
use crate::digest::SetDigest;
use crate::error::{Result, internal};
use crate::milvus::{Key, KeyRange};
use crate::parquet::{ChunkSummary, ChunkWriter, WriteOptions, arrow_bytes};
use crate::repository::names::{RelativePath, data_file, now};
use crate::repository::tables::{ChunkEntry, ChunkTable};
use crate::repository::{Attempt, ChunkNote, HashedUpload};
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
    /// Finished files that are not noted yet.
    unnoted: Mutex<Vec<ChunkNote>>,
    read_since: DateTime<Utc>,
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
            unnoted: Mutex::new(Vec::new()),
            read_since: now(),
        }
    }

    /// Goes on after the files that an unfinished run left, and tells what of each partition they hold.
    pub(super) fn adopt(&self, notes: &[ChunkNote]) -> Result<BTreeMap<String, Kept>> {
        let mut kept = BTreeMap::new();
        for (partition, next) in &self.next {
            let mut sets = SetDigest::default();
            let mut covered = Vec::new();
            for note in notes.iter().filter(|note| note.chunk.partition == *partition) {
                sets.merge(&SetDigest::from_hex(note.chunk.rows, &note.chunk.digest)?);
                covered.push(KeyRange { after: key(&note.after), upto: key(&note.upto) });
                next.fetch_max(number(&note.chunk.file) + 1, Ordering::Relaxed);
                self.done().push(note.chunk.clone());
            }
            if !covered.is_empty() {
                kept.insert(partition.clone(), Kept { set: sets, rest: uncovered(covered)? });
            }
        }
        Ok(kept)
    }

    /// What takes the rows of one piece of `partition`, those with keys in `range`.
    pub(super) fn sink(&self, partition: &str, range: &KeyRange) -> Result<ChunkSink<'_>> {
        let worker = Worker::start("milvault-encode")?;
        Ok(ChunkSink {
            chunks: self,
            partition: partition.to_owned(),
            rest: range.clone(),
            open: None,
            set: SetDigest::default(),
            worker,
        })
    }

    /// Notes a finished file, so that it outlives this run. Small ones are noted together: what is not noted yet is never
    /// more than a tenth of a chunk.
    async fn note(&self, note: ChunkNote) -> Result<()> {
        let due = {
            let mut unnoted = self.unnoted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            unnoted.push(note);
            let bytes: u64 = unnoted.iter().map(|note| note.chunk.bytes).sum();
            if bytes >= self.chunk_bytes / 10 { std::mem::take(&mut *unnoted) } else { Vec::new() }
        };
        if due.is_empty() { Ok(()) } else { self.attempt.note(due).await }
    }

    fn done(&self) -> std::sync::MutexGuard<'_, Vec<ChunkEntry>> {
        self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Throws away what a partition's sinks made, as it is read again.
    pub(super) async fn discard(&self, partition: &str) -> Result<()> {
        self.unnoted
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .retain(|note| note.chunk.partition != partition);
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
    /// The keys that no finished file covers yet.
    rest: KeyRange,
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
                self.close(false).await?;
            }
        }
        Ok(())
    }

    async fn end(mut self) -> Result<SetDigest> {
        self.close(true).await?;
        Ok(self.set)
    }
}

impl ChunkSink<'_> {
    /// Finishes the open file, if there is one; `last` where no row of the piece comes after it.
    async fn close(&mut self, last: bool) -> Result<()> {
        let Some(Open { writer, mut upload, file }) = self.open.take() else { return Ok(()) };
        let (blocks, summary): (_, ChunkSummary) = self.worker.run(move || writer.finish()).await?;
        for block in blocks {
            self.chunks.write(&mut upload, block).await?;
        }
        let sum = upload.finish().await?;
        self.set.merge(&summary.digest);
        let chunk = ChunkEntry {
            file,
            partition: self.partition.clone(),
            rows: summary.rows,
            bytes: summary.arrow_bytes,
            file_bytes: summary.file_bytes,
            lowest: summary.lowest.unwrap_or(Value::Null),
            highest: summary.highest.unwrap_or(Value::Null),
            digest: summary.digest.to_string(),
        };
        self.chunks.done().push(chunk.clone());
        let bound = |key: &Option<Key>| key.as_ref().map_or(Value::Null, Key::to_json);
        let (after, highest) = (bound(&self.rest.after), chunk.highest.clone());
        let upto = if last { bound(&self.rest.upto) } else { highest.clone() };
        self.rest.after = key(&highest);
        let read_since = self.chunks.read_since;
        self.chunks.note(ChunkNote { chunk, checksum: sum.checksum, after, upto, read_since }).await
    }
}

fn key(value: &Value) -> Option<Key> {
    match value {
        Value::String(text) => Some(Key::Text(text.clone())),
        other => other.as_i64().map(Key::Int),
    }
}

/// The number in a data file's name; none of those that we give have more than a `usize`.
fn number(file: &RelativePath) -> usize {
    let stem = file.file_name().strip_suffix(".parquet").and_then(|name| name.rsplit_once('-'));
    stem.and_then(|(_, digits)| digits.parse().ok()).unwrap_or(0)
}

/// What ranges leave of all keys.
fn uncovered(mut covered: Vec<KeyRange>) -> Result<Vec<KeyRange>> {
    covered.sort_by(|one, other| one.after.cmp(&other.after));
    let (mut rest, mut reached) = (Vec::new(), None);
    let mut begun = false;
    for range in covered {
        if (begun && range.after.is_none()) || range.after < reached {
            return Err(internal("two files of an unfinished backup hold the same keys"));
        }
        if range.after > reached {
            rest.push(KeyRange { after: reached, upto: range.after });
        }
        (reached, begun) = (range.upto.clone(), true);
        if reached.is_none() {
            return Ok(rest); // up to the end
        }
    }
    rest.push(KeyRange { after: reached, upto: None });
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(after: Option<i64>, upto: Option<i64>) -> KeyRange {
        KeyRange { after: after.map(Key::Int), upto: upto.map(Key::Int) }
    }

    #[test]
    fn what_is_not_covered_is_left_to_be_read() {
        let all = range(None, None);
        assert_eq!(uncovered(vec![]).unwrap(), std::slice::from_ref(&all));
        assert_eq!(uncovered(vec![all]).unwrap(), []);
        assert_eq!(uncovered(vec![range(None, Some(5))]).unwrap(), [range(Some(5), None)]);
        // Two pieces, each interrupted, their files in any order, one of them lost.
        let files = vec![range(Some(50), Some(70)), range(Some(10), Some(20)), range(Some(70), None)];
        assert_eq!(uncovered(files).unwrap(), [range(None, Some(10)), range(Some(20), Some(50))]);
    }

    #[test]
    fn files_that_overlap_are_refused() {
        assert!(uncovered(vec![range(None, Some(5)), range(Some(3), Some(9))]).is_err());
        assert!(uncovered(vec![range(None, Some(5)), range(None, Some(9))]).is_err());
    }

    #[test]
    fn a_data_files_number_is_the_last_in_its_name() {
        let file = crate::repository::names::data_file("a-00009", 12).unwrap();
        assert_eq!(number(&file), 12);
    }
}
