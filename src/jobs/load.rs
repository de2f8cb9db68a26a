//! The rows of a backup on their way out of it: which chunks, in which batches, and what they must amount to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use arrow_array::RecordBatch;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::read::{ALL_PARTITIONS, blocking};
use crate::digest::SetDigest;
use crate::error::{Error, Kind, Result, internal};
use crate::filter::Filter;
use crate::parquet::{ChunkReader, Source};
use crate::repository::Backup;
use crate::repository::tables::ChunkEntry;
use crate::schema::{Collection, CollectionSchema};

/// About how large an insert is: 10k rows of 128 floats, which was fastest on 2.3.5, and far below its 64 MiB.
const BATCH_BYTES: u64 = 5 << 20;
/// The most rows of one insert.
const MAX_BATCH_ROWS: u64 = 32_768;
/// How much of a remote chunk is fetched at once.
const FETCH_BYTES: u64 = 8 << 20;

/// What is to be restored of a backup.
pub struct Rows {
    chunks: Vec<ChunkEntry>,
    expected: BTreeMap<String, SetDigest>,
    schema: CollectionSchema,
    filter: Option<Arc<Filter>>,
}

impl Rows {
    /// All of a backup's rows, or those of some partitions.
    ///
    /// # Errors
    /// [`Kind::PartitionNotFound`] for a partition that the backup does not have, [`Kind::BackupCorrupted`] where chunk
    /// table and manifest disagree.
    pub async fn choose(backup: &Backup, collection: &Collection, partitions: &[String]) -> Result<Self> {
        let mut expected = BTreeMap::new();
        for (name, digest) in &backup.manifest().digest.partitions {
            if let Some(text) = &digest.digest {
                expected.insert(name.clone(), SetDigest::from_hex(digest.rows, text)?);
            }
        }
        if let Some(missing) = partitions.iter().find(|name| !expected.contains_key(*name)) {
            let available: Vec<String> = expected.keys().filter(|name| *name != ALL_PARTITIONS).cloned().collect();
            let why = if available.is_empty() {
                "its rows are spread by a partition key and can only be restored together".to_owned()
            } else {
                format!("it has: {}", available.join(", "))
            };
            return Err(Error::new(
                Kind::PartitionNotFound,
                format!("backup {} has no partition '{missing}' to restore by itself; {why}", backup.id()),
            )
            .with("partition_name", missing.as_str())
            .with("available_partitions", available));
        }
        if !partitions.is_empty() {
            expected.retain(|name, _| partitions.contains(name));
        }
        let table = backup.chunks().await?;
        let chunks: Vec<ChunkEntry> =
            table.chunks.into_iter().filter(|chunk| expected.contains_key(&chunk.partition)).collect();
        let rows = Self { chunks, expected, schema: collection.schema.clone(), filter: None };
        rows.agree(backup)?;
        Ok(rows)
    }

    /// Only rows that match a filter, of those chosen.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] where it is no filter on the backup's fields.
    pub fn filtered(mut self, text: &str) -> Result<Self> {
        self.filter = Some(Arc::new(Filter::parse(text, &self.schema).map_err(|error| error.context("where"))?));
        Ok(self)
    }

    /// Whether there is a filter: what the backup promises then says nothing of the rows that match.
    #[must_use]
    pub fn has_filter(&self) -> bool {
        self.filter.is_some()
    }

    /// How many rows of a partition there are; where there is a filter, they are read and counted.
    pub async fn count(&self, backup: &Backup, partition: &str) -> Result<u64> {
        if !self.has_filter() {
            return Ok(self.promised(partition).rows);
        }
        let mut count = 0;
        for chunk in self.chunks(partition) {
            let mut rows = self.open(backup, chunk, None).await?;
            while let Some(batch) = rows.next().await? {
                count += batch.num_rows() as u64;
            }
        }
        Ok(count)
    }

    /// Whether the chunk table's digests add up to the manifest's.
    fn agree(&self, backup: &Backup) -> Result<()> {
        let mut sums: BTreeMap<&str, SetDigest> = BTreeMap::new();
        for chunk in &self.chunks {
            sums.entry(&chunk.partition).or_default().merge(&SetDigest::from_hex(chunk.rows, &chunk.digest)?);
        }
        for (name, expected) in &self.expected {
            if sums.get(name.as_str()).copied().unwrap_or_default() != *expected {
                return Err(Error::new(
                    Kind::BackupCorrupted,
                    format!("the chunk table of backup {} does not add up to what its manifest promises of partition {name}", backup.id()),
                )
                .with("failed_files", vec!["chunks.json"]));
            }
        }
        Ok(())
    }

    /// What the restored rows must amount to.
    #[must_use]
    pub fn expected(&self) -> SetDigest {
        let mut all = SetDigest::default();
        self.expected.values().for_each(|set| all.merge(set));
        all
    }

    /// The rows' size in Arrow.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.bytes).sum()
    }

    /// Names of the partitions to restore.
    #[must_use]
    pub fn partitions(&self) -> Vec<String> {
        self.expected.keys().cloned().collect()
    }

    /// What the backup promises of a partition; nothing of one that it does not know.
    #[must_use]
    pub fn promised(&self, partition: &str) -> SetDigest {
        self.expected.get(partition).copied().unwrap_or_default()
    }

    /// Does without a partition from here on.
    pub fn leave_out(&mut self, partition: &str) {
        self.expected.remove(partition);
        self.chunks.retain(|chunk| chunk.partition != partition);
    }

    /// A partition's chunks, by ascending keys. Each holds a range of keys of its own.
    #[must_use]
    pub fn chunks(&self, partition: &str) -> Vec<&ChunkEntry> {
        let mut chunks: Vec<&ChunkEntry> = self.chunks.iter().filter(|chunk| chunk.partition == partition).collect();
        chunks.sort_by(|one, other| match (one.lowest.as_i64(), other.lowest.as_i64()) {
            (Some(one), Some(other)) => one.cmp(&other),
            _ => one.lowest.as_str().cmp(&other.lowest.as_str()), // as UTF-8 bytes
        });
        chunks
    }

    /// The partitions with a chunk whose file is one of `files`.
    #[must_use]
    pub fn partitions_with(&self, files: &[String]) -> Vec<String> {
        let damaged = self.chunks.iter().filter(|chunk| files.iter().any(|file| file == chunk.file.as_str()));
        let names: std::collections::BTreeSet<String> = damaged.map(|chunk| chunk.partition.clone()).collect();
        names.into_iter().collect()
    }

    /// Reads a chunk.
    pub async fn open(&self, backup: &Backup, chunk: &ChunkEntry, batch_rows: Option<usize>) -> Result<ChunkRows> {
        let source = open(backup, chunk).await?;
        let (sender, batches) = mpsc::channel::<Result<RecordBatch>>(2);
        let (schema, filter) = (self.schema.clone(), self.filter.clone());
        let (file, rows) = (chunk.file.to_string(), batch_rows.unwrap_or_else(|| batch_size(chunk)));
        let reading = tokio::task::spawn_blocking(move || {
            // Where nobody wants more, the restore was canceled or failed.
            let mut send = |batch| sender.blocking_send(Ok(batch)).is_ok();
            let outcome = ChunkReader::open(source, &schema, &file).and_then(|reader| match filter {
                None => all_rows(&reader, rows, &mut send),
                Some(filter) => matching_rows(&reader, &filter, rows, &mut send),
            });
            if let Err(error) = outcome {
                let _ = sender.blocking_send(Err(error));
            }
        });
        Ok(ChunkRows { batches, reading: Some(reading) })
    }
}

/// The rows of a chunk in batches. The next ones are read and decoded while the caller works on one.
pub struct ChunkRows {
    batches: mpsc::Receiver<Result<RecordBatch>>,
    reading: Option<JoinHandle<()>>,
}

impl ChunkRows {
    /// The next batch, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(batch) = self.batches.recv().await {
            return batch.map(Some);
        }
        if let Some(reading) = self.reading.take() {
            reading.await.map_err(|error| internal(format!("the reader of a chunk ended early: {error}")))?;
        }
        Ok(None)
    }
}

fn all_rows(reader: &ChunkReader, at_once: usize, send: &mut impl FnMut(RecordBatch) -> bool) -> Result<()> {
    for batch in reader.batches(at_once) {
        if !send(batch?) {
            return Ok(());
        }
    }
    Ok(())
}

/// The rows that a filter matches, gathered into batches of `at_once` or a little more. Row groups that cannot hold any,
/// going by their statistics, are not read.
fn matching_rows(
    reader: &ChunkReader,
    filter: &Filter,
    at_once: usize,
    send: &mut impl FnMut(RecordBatch) -> bool,
) -> Result<()> {
    let trouble = |error: arrow_schema::ArrowError| internal(format!("rows could not be picked: {error}"));
    let (mut gathered, mut count) = (Vec::new(), 0);
    for index in reader.row_groups_that_may_match(filter) {
        for batch in reader.row_group(index, at_once)? {
            let batch = batch?;
            let some = arrow_select::filter::filter_record_batch(&batch, &filter.mask(&batch)?).map_err(trouble)?;
            count += some.num_rows();
            gathered.push(some);
            if count >= at_once {
                let whole = arrow_select::concat::concat_batches(&batch.schema(), &gathered).map_err(trouble)?;
                (gathered, count) = (Vec::new(), 0);
                if !send(whole) {
                    return Ok(());
                }
            }
        }
    }
    if let Some(schema) = gathered.first().map(RecordBatch::schema).filter(|_| count > 0) {
        send(arrow_select::concat::concat_batches(&schema, &gathered).map_err(trouble)?);
    }
    Ok(())
}

/// Rows of one insert, of about five MiB, such that the row groups that the writer makes are cut into equal parts.
pub(super) fn batch_size(chunk: &ChunkEntry) -> usize {
    let row_bytes = (chunk.bytes / chunk.rows.max(1)).max(1);
    let group = (crate::parquet::ROW_GROUP_BYTES / row_bytes).max(1);
    let largest = (BATCH_BYTES / row_bytes).clamp(1, MAX_BATCH_ROWS);
    let parts = group.div_ceil(largest);
    usize::try_from(group.div_ceil(parts)).unwrap_or(1)
}

/// The chunk's file: the one on disk, or a copy of the object in a temporary file that vanishes with it, so that memory
/// does not grow with the chunk.
async fn open(backup: &Backup, chunk: &ChunkEntry) -> Result<Source> {
    let file = backup.open_file(&chunk.file).await?;
    if let Some(path) = file.local_path() {
        let path = path.to_owned();
        let name = chunk.file.to_string();
        let opened = blocking(move || {
            File::open(&path).map_err(|error| {
                Error::new(Kind::BackupCorrupted, format!("chunk {name} cannot be opened: {error}"))
                    .with("failed_files", vec![name.as_str()])
            })
        })
        .await?;
        return Ok(opened.into());
    }
    let trouble = |error: std::io::Error| {
        Error::new(
            Kind::Storage,
            format!(
                "a temporary copy of chunk {} cannot be written: {error}. Set TMPDIR to a folder with space",
                chunk.file
            ),
        )
    };
    let mut copy = tempfile::tempfile().map_err(trouble)?;
    let mut at = 0;
    while at < file.size() {
        let end = (at + FETCH_BYTES).min(file.size());
        let bytes = file.read_range(at..end).await?;
        copy = blocking(move || {
            copy.write_all(&bytes).map_err(|error| Error::new(Kind::Storage, error.to_string()))?;
            Ok(copy)
        })
        .await?;
        at = end;
    }
    Ok(copy.into())
}
