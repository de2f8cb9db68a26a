//! The rows of a backup on their way out of it: which pieces, in which batches, and what they must amount to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::RecordBatch;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::newest;
use super::pieces::history::{self, History};
use super::pieces::{Batches, Piece, Pieces, Promise, Wanted};
use super::read::ALL_PARTITIONS;
use crate::error::{Error, Kind, Result, internal};
use crate::filter::Filter;
use crate::repository::Backup;
use crate::schema::Collection;

/// About how large an insert is: 10k rows of 128 floats, which was fastest on 2.3.5, and far below its 64 MiB.
const BATCH_BYTES: u64 = 5 << 20;
/// The most rows of one insert.
const MAX_BATCH_ROWS: u64 = 32_768;

/// What is to be restored of a backup.
#[derive(Clone)]
pub struct Rows {
    pieces: Vec<Piece>,
    promised: BTreeMap<String, Promise>,
    in_key_order: bool,
    wanted: Wanted,
    proven: bool,
}

impl Rows {
    /// All of a backup's rows, or those of some partitions, as they were at `at` or at its snapshot.
    ///
    /// # Errors
    /// [`Kind::PartitionNotFound`] for a partition that the backup does not have, [`Kind::BackupCorrupted`] where its
    /// tables and its manifest disagree.
    pub async fn choose(
        backup: &Backup,
        collection: &Collection,
        partitions: &[String],
        at: Option<u64>,
    ) -> Result<Self> {
        let Pieces { all: mut pieces, mut promised, in_key_order } = Pieces::of(backup, collection, at).await?;
        if let Some(missing) = partitions.iter().find(|name| !promised.contains_key(*name)) {
            let available: Vec<String> = promised.keys().filter(|name| *name != ALL_PARTITIONS).cloned().collect();
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
            promised.retain(|name, _| partitions.contains(name));
            pieces.retain(|piece| promised.contains_key(&piece.partition));
        }
        let wanted = Wanted { schema: collection.schema.clone(), columns: None, filter: None };
        Ok(Self { pieces, promised, in_key_order, wanted, proven: false })
    }

    /// Only rows that match a filter, of those chosen.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] where it is no filter on the backup's fields.
    pub fn filtered(mut self, text: &str) -> Result<Self> {
        let filter = Filter::parse(text, &self.wanted.schema).map_err(|error| error.context("where"))?;
        self.wanted.filter = Some(Arc::new(filter));
        Ok(self)
    }

    /// The same rows, with these columns and those that the filter is about.
    #[must_use]
    pub(super) fn columns(&self, names: &[&str]) -> Self {
        let filtered = self.wanted.filter.iter().flat_map(|filter| filter.fields().iter().map(String::as_str));
        let names: BTreeSet<&str> = names.iter().copied().chain(filtered).collect();
        let columns = Some(names.into_iter().map(str::to_owned).collect());
        Self { wanted: Wanted { columns, ..self.wanted.clone() }, ..self.clone() }
    }

    /// Proves each file's checksum as it is read, where that was not done before.
    #[must_use]
    pub fn proven(mut self, proven: bool) -> Self {
        self.proven = proven;
        self
    }

    /// Whether the backup's promise does not tell what the rows amount to: where there is a filter, and where it is of
    /// Milvus's own files. Then they are digested on the way.
    #[must_use]
    pub fn amount_to_what_is_read(&self) -> bool {
        self.promised.keys().any(|name| self.promised(name).set.is_none())
    }

    /// Whether the rows of `at` are shown as they were then.
    pub(super) async fn history(&self, backup: &Backup, at: Option<u64>) -> Result<History> {
        history::of(backup, &self.pieces, at).await
    }

    /// Whether checksums are proven as files are read, and not before.
    #[must_use]
    pub(super) fn are_proven_as_read(&self) -> bool {
        self.proven
    }

    /// How many rows are left out, as there are newer ones of their keys.
    ///
    /// # Errors
    /// As reading them.
    pub(super) async fn older(&self, backup: &Backup) -> Result<u64> {
        let mut older = 0;
        for piece in self.firsts() {
            older += piece.newest(backup, &self.wanted.schema, self.proven).await?.older_rows();
        }
        Ok(older)
    }

    /// What there is to say of those rows, once the others were read.
    pub(super) fn told_of_older(&self) -> Vec<String> {
        self.firsts().filter_map(|piece| newest::told(&piece.partition, piece.known_newest()?)).collect()
    }

    /// A piece of each partition that has any.
    fn firsts(&self) -> impl Iterator<Item = &Piece> {
        self.promised.keys().filter_map(|name| self.pieces.iter().find(|piece| piece.partition == *name))
    }

    /// Whether some are chosen by a filter.
    #[must_use]
    pub(super) fn has_filter(&self) -> bool {
        self.wanted.filter.is_some()
    }

    /// Whether files hold rows or deletes that came after the moment that the backup shows.
    pub(super) async fn hold_later_ones(&self, backup: &Backup) -> Result<bool> {
        history::hold_later_ones(backup, &self.pieces).await
    }

    /// Whether a partition's rows come in the order of their keys.
    #[must_use]
    pub fn in_key_order(&self) -> bool {
        self.in_key_order
    }

    /// How many rows of a partition there are; where the backup does not tell, they are read and counted.
    pub async fn count(&self, backup: &Backup, partition: &str) -> Result<u64> {
        if let Some(rows) = self.promised(partition).rows {
            return Ok(rows);
        }
        let mut count = 0;
        for piece in self.pieces(partition) {
            let mut rows = self.open(backup, piece, None).await?;
            while let Some(batch) = rows.next().await? {
                count += batch.num_rows() as u64;
            }
        }
        Ok(count)
    }

    /// How many rows there are at most.
    #[must_use]
    pub fn most(&self) -> u64 {
        let told = |name: &String| {
            let pieces = || self.pieces(name).iter().fold(0, |sum: u64, piece| sum.saturating_add(piece.rows));
            self.promised.get(name).and_then(|promise| promise.rows).unwrap_or_else(pieces)
        };
        self.promised.keys().map(told).fold(0, u64::saturating_add)
    }

    /// The rows' size in Arrow.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().fold(0, |sum, piece| sum.saturating_add(piece.bytes))
    }

    /// Names of the partitions to restore.
    #[must_use]
    pub fn partitions(&self) -> Vec<String> {
        self.promised.keys().cloned().collect()
    }

    /// What the backup promises of a partition's rows that are wanted; nothing where there is a filter.
    #[must_use]
    pub(super) fn promised(&self, partition: &str) -> Promise {
        if self.wanted.filter.is_some() {
            return Promise::default();
        }
        self.promised.get(partition).copied().unwrap_or_default()
    }

    /// Does without a partition from here on.
    pub fn leave_out(&mut self, partition: &str) {
        self.promised.remove(partition);
        self.pieces.retain(|piece| piece.partition != partition);
    }

    /// A partition's pieces, in their order.
    #[must_use]
    pub(super) fn pieces(&self, partition: &str) -> Vec<&Piece> {
        self.pieces.iter().filter(|piece| piece.partition == partition).collect()
    }

    /// The partitions with a piece of which one of `files` is a file.
    #[must_use]
    pub fn partitions_with(&self, files: &[String]) -> Vec<String> {
        let damaged = self.pieces.iter().filter(|piece| piece.has_one_of(files));
        let names: BTreeSet<String> = damaged.map(|piece| piece.partition.clone()).collect();
        names.into_iter().collect()
    }

    /// Reads a piece.
    pub(super) async fn open(&self, backup: &Backup, piece: &Piece, batch_rows: Option<usize>) -> Result<PieceRows> {
        let opened = piece.open(backup, &self.wanted, self.proven).await?;
        let (sender, batches) = mpsc::channel::<Result<RecordBatch>>(2);
        let (wanted, rows) = (self.wanted.clone(), batch_rows.unwrap_or_else(|| batch_size(piece)));
        // Rows that are picked one by one are gathered again.
        let whole = wanted.filter.is_none() && self.in_key_order;
        let reading = tokio::task::spawn_blocking(move || {
            // Where nobody wants more, the restore was canceled or failed.
            let mut send = |batch| sender.blocking_send(Ok(batch)).is_ok();
            let outcome = opened.rows(&wanted, rows).and_then(|batches| {
                if whole { all_rows(batches, &mut send) } else { gathered_rows(batches, rows, &mut send) }
            });
            if let Err(error) = outcome {
                let _ = sender.blocking_send(Err(error));
            }
        });
        Ok(PieceRows { batches, reading: Some(reading) })
    }
}

/// The rows of a piece in batches. The next ones are read and decoded while the caller works on one.
pub struct PieceRows {
    batches: mpsc::Receiver<Result<RecordBatch>>,
    reading: Option<JoinHandle<()>>,
}

impl PieceRows {
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

fn all_rows(batches: Batches, send: &mut impl FnMut(RecordBatch) -> bool) -> Result<()> {
    for batch in batches {
        if !send(batch?) {
            return Ok(());
        }
    }
    Ok(())
}

/// Rows gathered into batches of `at_once` or a little more.
fn gathered_rows(batches: Batches, at_once: usize, send: &mut impl FnMut(RecordBatch) -> bool) -> Result<()> {
    let trouble = |error: arrow_schema::ArrowError| internal(format!("rows could not be gathered: {error}"));
    let (mut gathered, mut count) = (Vec::new(), 0);
    for batch in batches {
        let batch = batch?;
        if gathered.is_empty() && batch.num_rows() >= at_once {
            if !send(batch) {
                return Ok(());
            }
            continue;
        }
        let schema = batch.schema();
        count += batch.num_rows();
        gathered.push(batch);
        if count >= at_once {
            let whole = arrow_select::concat::concat_batches(&schema, &gathered).map_err(trouble)?;
            (gathered, count) = (Vec::new(), 0);
            if !send(whole) {
                return Ok(());
            }
        }
    }
    if let Some(schema) = gathered.first().map(RecordBatch::schema) {
        send(arrow_select::concat::concat_batches(&schema, &gathered).map_err(trouble)?);
    }
    Ok(())
}

/// Rows of one insert, of about five MiB, such that the row groups that the writer makes are cut into equal parts.
pub(super) fn batch_size(piece: &Piece) -> usize {
    let row_bytes = (piece.bytes / piece.rows.max(1)).max(1);
    let group = (crate::parquet::ROW_GROUP_BYTES / row_bytes).max(1);
    let largest = (BATCH_BYTES / row_bytes).clamp(1, MAX_BATCH_ROWS);
    let parts = group.div_ceil(largest);
    usize::try_from(group.div_ceil(parts)).unwrap_or(1)
}
