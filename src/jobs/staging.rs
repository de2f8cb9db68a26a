//! A collection under a temporary name, made of a backup's rows and proven. A restore puts it in its target's place; a
//! deep verification looks at it and drops it.
//!
//! It is journalled before it is made, so that the next run drops it where this one is killed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::control::{Control, Phase};
use super::load::Rows;
use super::read::{blocking, insert_partition};
use super::staging_progress::Progress;
use super::staging_proof::Comparison;
use super::{Session, importing, swap};
use crate::digest::{RowDigester, SetDigest};
use crate::error::{Error, Kind, Result, internal};
use crate::milvus::{Client, InsertRequest, Inserter, keys};
use crate::repository::{Backup, Journal, JournalEntry, Store};
use crate::schema::{Collection, Index};

/// What is demanded of restored rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Proof {
    /// All rows are read back, and their digest is the backup's.
    #[default]
    Digest,
    /// The server counts as many rows.
    Count,
    /// Nothing.
    None,
}

impl Proof {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Digest => "DIGEST",
            Self::Count => "COUNT",
            Self::None => "NONE",
        }
    }
}

/// What becomes of primary keys that a server had made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Keys {
    /// They stay what they are.
    #[default]
    Preserve,
    /// The server makes new ones. Rows are then known by everything but their keys.
    Regenerate,
}

/// How a staging collection is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    pub proof: Proof,
    pub keys: Keys,
    /// Whether it is to be loaded at the end.
    pub keep_loaded: bool,
    /// Whether a partition that cannot be read, inserted or proven is left out.
    pub skip_failed_partitions: bool,
    /// Whether rows that are not the backup's are told in the outcome, instead of ending the work.
    pub tell_differences: bool,
    pub batch_rows: Option<usize>,
    pub max_requests_in_flight: usize,
}

/// By what way rows come into a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Via {
    /// By Import where the server can read the backup's files and need not keep keys that it would make itself; else, and
    /// where that fails, by inserting.
    #[default]
    Auto,
    /// Decoded here, and inserted.
    Insert,
    /// By the server's own Import of a native backup's files.
    Import,
}

/// A staging collection to be made.
pub(super) struct Staging {
    pub client: Client,
    pub backup: Backup,
    pub rows: Rows,
    /// What to make, under whatever name.
    pub collection: Collection,
    pub indexes: Vec<Index>,
    pub options: Options,
    /// Where the server finds the files that it is to import; none where rows are inserted.
    pub import: Option<importing::Place>,
    /// Whether they are inserted where the import fails.
    pub or_insert: bool,
    /// Where the server keeps its files, if those may be read for the proof.
    pub storage: Option<Store>,
    /// Partitions that are left out, and why.
    pub failed: BTreeMap<String, String>,
}

/// A staging collection that was made.
pub(super) struct Staged {
    /// It, as the server describes it.
    pub made: Collection,
    /// Each partition's rows, or those of all together where a partition key spreads them.
    pub partitions: BTreeMap<String, Comparison>,
    pub warnings: Vec<String>,
    /// Rows that an earlier run had inserted.
    pub resumed: u64,
}

impl Staged {
    /// All rows that it holds.
    pub(super) fn rows(&self) -> u64 {
        self.partitions.values().map(|partition| partition.expected.rows).sum()
    }

    /// How it was proven, for people.
    pub(super) fn details(&self, options: Options) -> Map<String, Value> {
        let (mut expected, mut found) = (SetDigest::default(), None::<SetDigest>);
        for partition in self.partitions.values() {
            expected.merge(&partition.expected);
            if let Some(set) = &partition.found {
                found.get_or_insert_default().merge(set);
            }
        }
        let mut details = Map::new();
        details.insert("method".into(), options.proof.name().into());
        details.insert("rows".into(), expected.rows.into());
        if let Some(found) = found {
            details.insert("digest".into(), found.to_string().into());
            details.insert("expected_digest".into(), expected.to_string().into());
        }
        if self.resumed > 0 {
            details.insert("resumed_rows".into(), self.resumed.into());
        }
        if options.keys == Keys::Regenerate {
            details.insert("primary_keys".into(), "made anew, and left out of the digest".into());
        }
        details
    }
}

/// Why an attempt to make a staging collection failed, and with which partition, where it is known.
pub(super) struct Failure {
    pub partition: Option<String>,
    pub error: Error,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { partition: None, error }
    }
}

/// Does `work` under a journal, which tells whether a collection is changed that was there before. Where it fails, is canceled or runs out of time, what the journal names is cleaned up.
pub(super) async fn journalled<T>(
    session: &Session,
    client: &Client,
    (entry, changes_target): (JournalEntry, bool),
    (control, limit): (&Control, Option<Instant>),
    work: impl Future<Output = Result<T>>,
) -> Result<(Journal, T)> {
    // Not guarded: a journal that is being written is written, and then taken back.
    let journal = session.begin_journal(entry, changes_target).await?;
    control.begin();
    match control.guard(limit, not_lost(&journal, work)).await {
        Ok(done) => Ok((journal, done)),
        Err(error) => {
            control.enter(Phase::Cleaning);
            swap::end_failed(client, journal).await;
            Err(error)
        }
    }
}

/// Ends `work` where the journal, and with it the right to touch the target, was taken over by another process.
pub(super) async fn not_lost<T>(journal: &Journal, work: impl Future<Output = Result<T>>) -> Result<T> {
    let lost = journal.lost();
    tokio::select! {
        biased;
        () = lost.cancelled() => Err(Error::new(Kind::InProgress, "another process took over this restore, as it does when it sees no sign of life for ten seconds. Run it again")),
        outcome = work => outcome,
    }
}

impl Staging {
    /// Makes the collection `name`, fills and proves it. Begins anew where partitions may be left out and one fails, or
    /// where the server makes the keys and an insert's outcome is unknown. Goes on where `journal` says that chunks are in
    /// it already, and begins anew where that comes to nothing.
    ///
    /// # Errors
    /// What the server or the backup's files did wrong; [`Kind::Restore`] where the rows are not the backup's.
    pub(super) async fn make(&mut self, name: &str, journal: Option<&Journal>, control: &Control) -> Result<Staged> {
        let (mut repeated, mut in_doubt) = (0, false);
        let mut done = journal.map(|journal| journal.entry().done.clone()).unwrap_or_default();
        loop {
            let failure = match self.attempt(name, (journal, &done, in_doubt), control).await {
                Ok(staged) => return Ok(staged),
                Err(failure) => failure,
            };
            let gone_on = !std::mem::take(&mut done).is_empty();
            // A request of rows may still arrive, at whatever has the name by then.
            in_doubt |= self.import.is_none();
            match failure.partition {
                _ if self.or_insert && self.import.is_some() && failure.error.kind() != Kind::Canceled => {
                    tracing::warn!(error = %failure.error, "the import failed: the rows are inserted");
                    self.import = None;
                }
                Some(partition) if self.may_leave_out(&failure.error) => self.leave_out(&partition, failure.error)?,
                _ if self.may_repeat(&failure.error, repeated) => {
                    tracing::warn!(error = %failure.error, "an insert's outcome is unknown, and keys are made anew: the rows are inserted from the start");
                    tokio::time::sleep(self.client.retry().pause(repeated)).await;
                    repeated += 1;
                }
                _ if gone_on
                    && matches!(failure.error.kind(), Kind::Server | Kind::Restore)
                    && !failure.error.is_temporary() =>
                {
                    tracing::warn!(error = %failure.error, "what an earlier run had inserted cannot be gone on with: the rows are inserted from the start");
                }
                _ => return Err(failure.error),
            }
            if let Some(journal) = journal {
                journal.note(&done).await?;
            }
            self.client.drop_collection(name).await?;
            control.start_over();
        }
    }

    /// Leaves a partition out, where others remain.
    ///
    /// # Errors
    /// `why`, where none remains.
    pub(super) fn leave_out(&mut self, partition: &str, why: Error) -> Result<()> {
        tracing::warn!(partition, error = %why, "a partition is left out of the restore");
        self.rows.leave_out(partition);
        self.collection.partitions.retain(|name| name != partition || name == "_default");
        if self.rows.partitions().is_empty() {
            return Err(why.context("no partition is left to restore"));
        }
        self.failed.insert(partition.to_owned(), why.message().to_owned());
        Ok(())
    }

    /// Whether an error is one partition's own: of its files, or of what the server says of its rows.
    fn may_leave_out(&self, error: &Error) -> bool {
        self.options.skip_failed_partitions
            && match error.kind() {
                Kind::BackupCorrupted | Kind::Storage => true,
                Kind::Server | Kind::Restore => !error.is_temporary(),
                _ => false,
            }
    }

    fn may_repeat(&self, error: &Error, repeated: u32) -> bool {
        self.options.keys == Keys::Regenerate && error.is_temporary() && repeated < self.client.retry().max_retries
    }

    async fn attempt(
        &self,
        name: &str,
        (journal, done, in_doubt): (Option<&Journal>, &BTreeMap<String, u64>, bool),
        control: &Control,
    ) -> Result<Staged, Failure> {
        let client = &self.client;
        control.expect(self.rows.most(), self.rows.bytes());
        control.enter(Phase::Inserting);
        let resumed = !done.is_empty() && client.exists(name).await?;
        if !resumed {
            client.create_collection(name, &self.collection).await?;
        }
        let made = client.describe(name).await?;
        let begun = if resumed { done.clone() } else { BTreeMap::new() };
        let mut progress = Progress::new(&self.rows, journal, begun, in_doubt);
        let partitions = match &self.import {
            Some(place) => {
                let what = (&self.backup, &self.rows, &self.collection);
                importing::fill(client, name, place, what, control).await?
            }
            None => self.fill(name, &mut progress, control).await?,
        };
        let mut staged = Staged { made, partitions, warnings: Vec::new(), resumed: progress.resumed };
        control.enter(Phase::Flushing);
        client.flush(name, super::FLUSH_LIMIT).await?;
        progress.note().await?;
        control.enter(Phase::Indexing);
        let there = if resumed { client.indexes(name).await? } else { Vec::new() };
        for index in self.indexes.iter().filter(|index| !there.iter().any(|made| made.field == index.field)) {
            client.create_index(name, index).await?;
        }
        let mut proof = self.options.proof;
        if proof == Proof::Digest && !progress.in_doubt && self.prove_by_files(&mut staged, control).await? {
            proof = Proof::None;
        }
        if proof == Proof::None && !self.options.keep_loaded {
            return Ok(staged);
        }
        control.enter(Phase::Loading);
        let borrowed = self.load(&staged.made, control).await?;
        if proof != Proof::None {
            control.enter(Phase::Proving);
            self.prove(&mut staged).await?;
            control.check()?;
        }
        self.leave_as_wanted(name, &borrowed, &mut staged.warnings).await?;
        Ok(staged)
    }

    /// Inserts the rows, and tells what each partition is to amount to.
    async fn fill(
        &self,
        name: &str,
        progress: &mut Progress<'_>,
        control: &Control,
    ) -> Result<BTreeMap<String, Comparison>, Failure> {
        let mut expected = BTreeMap::new();
        let mut rows_in = progress.resumed;
        self.clear_half_inserted(name, progress).await?;
        let mut inserter = self.inserter(name);
        for partition in self.rows.partitions() {
            let filled = self.fill_partition(&partition, &mut inserter, progress, control).await;
            let fault = |error| Failure { partition: Some(partition.clone()), error };
            expected.insert(partition.clone(), Comparison { expected: filled.map_err(fault)?, ..Default::default() });
            if self.options.skip_failed_partitions {
                // What the server says of the last rows is said of this partition.
                let inserter = std::mem::replace(&mut inserter, self.inserter(name));
                rows_in += progress.inserted(inserter.finish().await.map_err(fault)?);
            }
        }
        rows_in += progress.inserted(inserter.finish().await?);
        let wanted: u64 = expected.values().map(|partition: &Comparison| partition.expected.rows).sum();
        if rows_in != wanted {
            let why = format!("{rows_in} rows were inserted where {wanted} had been read");
            return Err(Error::new(Kind::Restore, why).into());
        }
        Ok(expected)
    }

    fn inserter(&self, name: &str) -> Inserter {
        let schema = Arc::new(self.collection.schema.clone());
        let request = InsertRequest { collection: name.to_owned(), schema };
        Inserter::new(self.client.clone(), request, self.options.max_requests_in_flight)
    }

    /// Deletes what an earlier run may have inserted of chunks that it had not noted yet.
    async fn clear_half_inserted(&self, name: &str, progress: &Progress<'_>) -> Result<()> {
        let schema = Arc::new(self.collection.schema.clone());
        let key = schema.primary_key()?.name.clone();
        let request = InsertRequest { collection: name.to_owned(), schema };
        for piece in progress.maybe_begun(&self.rows) {
            let mut rows = self.rows.open(&self.backup, piece, self.options.batch_rows).await?;
            while let Some(batch) = rows.next().await? {
                let column = batch.column_by_name(&key).ok_or_else(|| internal("the rows to insert have no keys"))?;
                let partition = insert_partition(&piece.partition);
                self.client.delete_keys(&request, partition.as_deref(), &keys(column)?).await?;
            }
        }
        Ok(())
    }

    async fn fill_partition(
        &self,
        partition: &str,
        inserter: &mut Inserter,
        progress: &mut Progress<'_>,
        control: &Control,
    ) -> Result<SetDigest> {
        let promised = self.rows.promised(partition);
        let (mut pushed, mut set, mut without_keys) = (0, SetDigest::default(), SetDigest::default());
        let regenerate = self.options.keys == Keys::Regenerate;
        // What the manifest promises is of all rows, keys included.
        let schema = &self.collection.schema;
        let whole = if regenerate || promised.set.is_none() { Some(RowDigester::new(schema)?) } else { None };
        let keyless = if regenerate { Some(RowDigester::without_primary_key(schema)?) } else { None };
        let skipped = progress.chunks_of(partition);
        for (index, piece) in self.rows.pieces(partition).into_iter().enumerate() {
            if index < skipped {
                control.advance(piece.rows, piece.bytes);
                pushed += piece.rows;
                continue;
            }
            let mut rows = self.rows.open(&self.backup, piece, self.options.batch_rows).await?;
            while let Some(batch) = rows.next().await? {
                let (count, bytes) = (batch.num_rows() as u64, crate::parquet::arrow_bytes(&batch));
                for (digester, sum) in [(&whole, &mut set), (&keyless, &mut without_keys)] {
                    if let Some(digester) = digester.clone() {
                        let batch = batch.clone();
                        sum.merge(&blocking(move || digester.set(&batch)).await?);
                    }
                }
                control.pass(piece.weight(count)).await;
                inserter.push(insert_partition(partition), batch).await?;
                control.advance(count, bytes);
                pushed += count;
            }
            if progress.finished(piece) {
                inserter.settle().await?;
                progress.note().await?;
            }
        }
        let other = |promised: SetDigest| whole.is_some() && set != promised;
        if promised.rows.is_some_and(|promised| pushed != promised) || promised.set.is_some_and(other) {
            return Err(Error::new(
                Kind::BackupCorrupted,
                format!(
                    "the files of partition {partition} of backup {} hold {pushed} rows that are not the {} that its manifest promises. Verify the backup, and restore from another one",
                    self.backup.id(),
                    json!(promised.rows)
                ),
            ));
        }
        Ok(match promised.set {
            _ if regenerate => without_keys,
            Some(promised) => promised,
            None => set,
        })
    }
}
