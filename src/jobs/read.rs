//! Reading a collection's rows side by side, under one timestamp, and proving that none is missing. Backups write what
//! comes; proofs digest it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use futures::stream::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::control::Control;
use crate::digest::{RowDigester, SetDigest};
use crate::error::{Error, Kind, Result, internal};
use crate::milvus::{Client, Key, KeyRange, ScanRequest, Scanner, ServerKind, duplicates, split};
use crate::schema::Collection;

/// From this many rows on, a partition is read as two key ranges side by side: measured, a sixth faster than one; more
/// ranges add nothing on 2.3.5, and none on Lite.
const ROWS_WORTH_SPLITTING: u64 = 50_000;
/// Duplicate keys that are named in an error.
pub(super) const EXAMPLES: usize = 10;
/// How often a read that came up short without a reason is repeated.
const REREADS: u32 = 2;

/// What stands for a collection's rows where a partition key spreads them: partitions cannot be read one by one then.
pub const ALL_PARTITIONS: &str = "_all";

/// The name by which a chunk's partition is inserted: none where a partition key decides.
pub(super) fn insert_partition(partition: &str) -> Option<String> {
    (partition != ALL_PARTITIONS).then(|| partition.to_owned())
}

/// What to do where a key occurs more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DuplicatePolicy {
    /// Fail, naming keys.
    #[default]
    Fail,
    /// Keep the one row of each key that Milvus shows, and warn.
    Collapse,
}

/// One piece of reading: a range of one partition's keys.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The partition, or [`ALL_PARTITIONS`].
    pub partition: String,
    request: ScanRequest,
}

/// What became of a partition's rows: how many there were, by their digest, and by the server's count before and after.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct PartitionRead {
    /// The rows that were read.
    pub set: SetDigest,
    /// `count(*)` when reading began.
    pub before: u64,
    /// `count(*)` when it had ended.
    pub after: u64,
    /// Pages that held rows.
    pub pages: u64,
}

/// What a read collection amounts to.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// By partition, or [`ALL_PARTITIONS`] alone.
    pub partitions: BTreeMap<String, PartitionRead>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

impl Reading {
    /// All rows read.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.partitions.values().map(|read| read.set.rows).sum()
    }

    /// How many rows the server counted, when reading had ended, that did not come: copies of a key's row, where no key
    /// is missing.
    #[must_use]
    pub fn not_shown(&self) -> u64 {
        self.partitions.values().map(|read| read.after.saturating_sub(read.set.rows)).sum()
    }

    /// Whether counts changed while rows were read: somebody was writing.
    #[must_use]
    pub fn writers_were_active(&self) -> bool {
        self.partitions.values().any(|read| read.before != read.after)
    }

    /// Whether each partition came in one answer, and there was but one: a single read was never torn (measured).
    #[must_use]
    pub fn is_single_read(&self) -> bool {
        self.partitions.values().filter(|read| read.set.rows > 0).count() <= 1
            && self.partitions.values().all(|read| read.pages <= 1)
            && !self.writers_were_active()
    }
}

/// Reads partitions of one collection.
pub struct Reader<'a> {
    client: &'a Client,
    collection: &'a Collection,
    timestamp: u64,
    side_by_side: usize,
    kept: BTreeMap<String, Kept>,
}

/// What was read of a partition before, and is not to be read again.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Those rows.
    pub set: SetDigest,
    /// The keys of the others.
    pub rest: Vec<KeyRange>,
}

/// What takes the rows of one piece, in key order. One is made for each piece.
pub trait Sink: Send {
    /// Takes some rows.
    fn take(&mut self, batch: RecordBatch) -> impl Future<Output = Result<()>> + Send;
    /// Ends the piece, and tells its digest.
    fn end(self) -> impl Future<Output = Result<SetDigest>> + Send;
}

impl<'a> Reader<'a> {
    /// A reader that sees at least what was written before now, with up to `side_by_side` pieces at once.
    pub async fn new(client: &'a Client, collection: &'a Collection, side_by_side: usize) -> Result<Self> {
        let timestamp = client.read_timestamp().await?;
        Ok(Self { client, collection, timestamp, side_by_side: side_by_side.max(1), kept: BTreeMap::new() })
    }

    /// The same reader, for which some rows of some partitions have been read before.
    #[must_use]
    pub fn after(self, kept: BTreeMap<String, Kept>) -> Self {
        Self { kept, ..self }
    }

    /// The partitions that there are to read, of those in `wanted` (all where it is empty).
    #[must_use]
    pub fn partitions(&self, wanted: &[String]) -> Vec<String> {
        if self.collection.has_partition_key() {
            return vec![ALL_PARTITIONS.to_owned()];
        }
        let chosen = self.collection.partitions.iter().filter(|name| wanted.is_empty() || wanted.contains(name));
        chosen.cloned().collect()
    }

    /// `count(*)` of a partition.
    pub async fn count(&self, partition: &str, timestamp: u64) -> Result<u64> {
        self.client.count(&self.request(partition, timestamp), &KeyRange::default()).await
    }

    /// `count(*)` of each of `partitions`, at the reader's own timestamp.
    pub async fn counts(&self, partitions: &[String]) -> Result<BTreeMap<String, u64>> {
        self.counts_at(partitions, self.timestamp).await
    }

    async fn counts_at(&self, partitions: &[String], timestamp: u64) -> Result<BTreeMap<String, u64>> {
        futures::stream::iter(partitions.to_vec())
            .map(|partition| async move { Ok((partition.clone(), self.count(&partition, timestamp).await?)) })
            .buffer_unordered(4)
            .try_collect()
            .await
    }

    /// What to scan for all rows of a partition, at the reader's own timestamp.
    #[must_use]
    pub fn scan(&self, partition: &str) -> ScanRequest {
        self.request(partition, self.timestamp)
    }

    fn request(&self, partition: &str, timestamp: u64) -> ScanRequest {
        // Lite counts a named partition forty times slower than a whole collection.
        let alone = self.client.kind() == ServerKind::Lite && self.collection.partitions == [partition];
        ScanRequest {
            collection: self.collection.name.clone(),
            schema: Arc::new(self.collection.schema.clone()),
            partition: (partition != ALL_PARTITIONS && !alone).then(|| partition.to_owned()),
            range: KeyRange::default(),
            among: None,
            timestamp,
        }
    }

    async fn pieces(&self, partition: &str, rows: u64, kept: Option<&Kept>) -> Result<Vec<Piece>> {
        let request = self.request(partition, self.timestamp);
        let worth = rows >= ROWS_WORTH_SPLITTING && self.side_by_side > 1 && self.client.kind() == ServerKind::Server;
        let ranges = match kept {
            Some(kept) => kept.rest.clone(),
            None if worth => split(self.client, &request, rows).await?,
            None => vec![KeyRange::default()],
        };
        let piece =
            |range| Piece { partition: partition.to_owned(), request: ScanRequest { range, ..request.clone() } };
        Ok(ranges.into_iter().map(piece).collect())
    }

    /// Reads `counts`' partitions into sinks made by `sink`, and proves that no row is missing: keys increase, and the
    /// rows are as many as the server counted before and after. A partition that comes up short without a reason is
    /// read again from the start, with new sinks, after `discard` has thrown away what its old ones made and what had
    /// been read before.
    ///
    /// # Errors
    /// [`Kind::Backup`] where rows are missing, or keys occur more than once and `policy` is to fail.
    pub async fn read<S: Sink>(
        &self,
        counts: &BTreeMap<String, u64>,
        policy: DuplicatePolicy,
        sink: &(impl Fn(&str, &KeyRange) -> Result<S> + Sync),
        discard: &(impl AsyncFn(&str) -> Result<()> + Sync),
        control: &Control,
    ) -> Result<Reading> {
        let mut todo = counts.clone();
        let mut reading = Reading::default();
        for attempt in 0..=REREADS {
            let mut pieces = Vec::new();
            let mut read: BTreeMap<String, PartitionRead> = BTreeMap::new();
            for (partition, &before) in &todo {
                let kept = self.kept.get(partition).filter(|_| attempt == 0);
                pieces.extend(self.pieces(partition, before, kept).await?);
                let set = kept.map(|kept| kept.set).unwrap_or_default();
                read.insert(partition.clone(), PartitionRead { set, before, ..Default::default() });
            }
            let done = futures::stream::iter(pieces)
                .map(|piece| self.run(piece, sink, control))
                .buffer_unordered(self.side_by_side);
            let done: Vec<(String, SetDigest, u64)> = done.try_collect().await?;
            for (partition, set, pages) in done {
                let whole = read.get_mut(&partition).ok_or_else(|| internal("a piece of no partition"))?;
                whole.set.merge(&set);
                whole.pages += pages;
            }
            let names: Vec<String> = todo.keys().cloned().collect();
            let after = self.counts_at(&names, self.client.read_timestamp().await?).await?;
            todo.clear();
            for (partition, mut outcome) in read {
                outcome.after = after.get(&partition).copied().unwrap_or_default();
                if self.explained(&partition, outcome, policy, &mut reading.warnings).await? {
                    reading.partitions.insert(partition, outcome);
                } else if attempt < REREADS {
                    tracing::warn!(
                        partition,
                        rows = outcome.set.rows,
                        counted = outcome.after,
                        "rows are missing: the partition is read again"
                    );
                    discard(&partition).await?;
                    todo.insert(partition, outcome.after);
                } else {
                    return Err(self.short(&partition, outcome));
                }
            }
            if todo.is_empty() {
                break;
            }
        }
        Ok(reading)
    }

    async fn run<S: Sink>(
        &self,
        piece: Piece,
        sink: &(impl Fn(&str, &KeyRange) -> Result<S> + Sync),
        control: &Control,
    ) -> Result<(String, SetDigest, u64)> {
        let mut sink = sink(&piece.partition, &piece.request.range)?;
        let mut scanner = Scanner::new(self.client.clone(), piece.request)?;
        let mut pages = 0;
        while let Some(batch) = scanner.next().await? {
            pages += 1;
            let (rows, bytes) = (batch.num_rows() as u64, crate::parquet::arrow_bytes(&batch));
            sink.take(batch).await?;
            control.advance(rows, bytes);
        }
        Ok((piece.partition, sink.end().await?, pages))
    }

    /// Whether what was read agrees with the counts, or the difference has a reason that may stand. Writers are a
    /// reason for counts that differ, not for fewer rows than both of them.
    async fn explained(
        &self,
        partition: &str,
        read: PartitionRead,
        policy: DuplicatePolicy,
        warnings: &mut Vec<String>,
    ) -> Result<bool> {
        let counted = read.before.min(read.after);
        let steady = read.before == read.after;
        if read.set.rows == counted || (!steady && read.set.rows > counted) {
            if !steady {
                warnings.push(self.torn(partition, read));
            }
            return Ok(true);
        }
        if read.set.rows > counted {
            return Ok(false);
        }
        let request = self.request(partition, self.timestamp);
        let limit = if policy == DuplicatePolicy::Fail { EXAMPLES } else { usize::MAX };
        let found = duplicates(self.client, &request, limit).await?;
        if found.keys.is_empty() {
            return Ok(false);
        }
        let examples = examples(&found.keys);
        if policy == DuplicatePolicy::Fail {
            return Err(repeated_keys(self.collection, partition, (&found.keys, found.partial), "Milvus shows"));
        }
        let extra: u64 = found.keys.iter().map(|(_, times)| times - 1).sum();
        let all = read.set.rows + extra;
        if found.hidden > 0 || all < counted || (steady && all > counted) {
            return Ok(false);
        }
        if !steady {
            warnings.push(self.torn(partition, read));
        }
        warnings.push(format!(
            "partition {partition}: {extra} rows share their primary key with another row and are not in the backup, which holds the row that Milvus shows of each key: {examples}"
        ));
        Ok(true)
    }

    fn torn(&self, partition: &str, read: PartitionRead) -> String {
        format!(
            "rows were written to '{}' while it was read (partition {partition}: {} rows before, {} after, {} read): the backup is not of one moment",
            self.collection.name, read.before, read.after, read.set.rows
        )
    }

    fn short(&self, partition: &str, read: PartitionRead) -> Error {
        let counted = if read.before == read.after {
            read.after.to_string()
        } else {
            format!("{} to {}", read.before.min(read.after), read.before.max(read.after))
        };
        Error::new(
            Kind::Backup,
            format!(
                "partition {partition} of '{}' has {counted} rows by the server's count, but {} came when all were asked for, {} times over. \
                 No backup was made, since it would be incomplete. Try again after the server has compacted or been restarted",
                self.collection.name,
                read.set.rows,
                REREADS + 1
            ),
        )
        .with("collection_name", self.collection.name.as_str())
    }
}

/// Some keys for a message, and how often they occur.
fn examples(keys: &[(Key, u64)]) -> String {
    keys.iter().take(EXAMPLES).map(|(key, times)| format!("{key} ({times} times)")).collect::<Vec<_>>().join(", ")
}

/// Keys occur more than once, and nobody has said which of their rows is meant. `is_partial` where there may be more;
/// `kept` says which row of each would be.
pub(super) fn repeated_keys(
    collection: &Collection,
    partition: &str,
    (keys, is_partial): (&[(Key, u64)], bool),
    kept: &str,
) -> Error {
    let (examples, more) = (examples(keys), if is_partial { " and maybe more" } else { "" });
    Error::new(
        Kind::Backup,
        format!(
            "partition {partition} of '{}' holds rows with the same primary key, of which Milvus shows but one each: {examples}{more}. \
             Delete them, or back up with duplicates=\"collapse\" to keep the row that {kept}",
            collection.name
        ),
    )
    .with("collection_name", collection.name.as_str())
    .with("duplicate_keys", keys.iter().take(EXAMPLES).map(|(key, _)| key.to_json()).collect::<Vec<_>>())
}

/// A sink that only digests.
pub struct DigestSink {
    digester: Arc<RowDigester>,
    set: SetDigest,
}

impl DigestSink {
    /// One that digests rows with `digester`.
    #[must_use]
    pub fn new(digester: Arc<RowDigester>) -> Self {
        Self { digester, set: SetDigest::default() }
    }
}

impl Sink for DigestSink {
    async fn take(&mut self, batch: RecordBatch) -> Result<()> {
        let digester = Arc::clone(&self.digester);
        let set = blocking(move || digester.set(&batch)).await?;
        self.set.merge(&set);
        Ok(())
    }

    async fn end(self) -> Result<SetDigest> {
        Ok(self.set)
    }
}

/// Runs work that keeps a core busy where it does not hold up others.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| internal(format!("a worker ended early: {error}")))?
}

/// Reads all rows of `partitions` and tells their digests, with the same proof that none is missing.
pub async fn digest(
    client: &Client,
    collection: &Collection,
    partitions: &[String],
    side_by_side: usize,
    control: &Control,
) -> Result<Reading> {
    digest_by(client, collection, partitions, side_by_side, RowDigester::new(&collection.schema)?, control).await
}

/// As [`digest`], with the rows' digests taken by `digester`.
pub async fn digest_by(
    client: &Client,
    collection: &Collection,
    partitions: &[String],
    side_by_side: usize,
    digester: RowDigester,
    control: &Control,
) -> Result<Reading> {
    let reader = Reader::new(client, collection, side_by_side).await?;
    let names = reader.partitions(partitions);
    let counts = reader.counts(&names).await?;
    let digester = Arc::new(digester);
    let sink = |_: &str, _: &KeyRange| Ok(DigestSink::new(Arc::clone(&digester)));
    reader.read(&counts, DuplicatePolicy::Collapse, &sink, &async |_: &str| Ok(()), control).await
}
