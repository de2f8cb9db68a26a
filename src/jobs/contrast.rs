//! What differs between a backup's rows and a collection's: both are read in key order, side by side, so that memory
//! holds a page of each and not more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::RecordBatch;
use serde::Serialize;
use serde_json::Value;

use super::control::Control;
use super::load::{PieceRows, Rows};
use super::pieces::Piece;
use super::read::{Reader, blocking};
use crate::digest::RowDigester;
use crate::error::{Error, Kind, Result, internal};
use crate::milvus::{Client, Key, Scanner, keys};
use crate::repository::Backup;
use crate::repository::manifest::BackupType;
use crate::schema::Collection;

/// Keys that are named of each sort.
const EXAMPLES: usize = 10;

/// Rows that differ, by primary key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Differences {
    /// Rows of the backup whose key the collection does not have.
    pub only_in_backup: Sort,
    /// Rows of the collection whose key the backup does not have.
    pub only_in_original: Sort,
    /// Rows with one key and other values.
    pub different: Sort,
}

/// How many rows, and the keys of the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Sort {
    pub rows: u64,
    pub examples: Vec<Value>,
}

impl Sort {
    fn note(&mut self, key: &Key) {
        self.rows += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(key.to_json());
        }
    }

    fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        let room = EXAMPLES - self.examples.len();
        self.examples.extend(other.examples.into_iter().take(room));
    }
}

impl Differences {
    pub(super) fn rows(&self) -> u64 {
        self.only_in_backup.rows + self.only_in_original.rows + self.different.rows
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.only_in_backup.merge(other.only_in_backup);
        self.only_in_original.merge(other.only_in_original);
        self.different.merge(other.different);
    }
}

/// Compares the backup's rows with those that the collection has now, partition by partition.
pub(super) async fn with_collection(
    client: &Client,
    collection: &Collection,
    backup: &Backup,
    rows: &Rows,
    control: &Control,
) -> Result<BTreeMap<String, Differences>> {
    let reader = Reader::new(client, collection, 1).await?;
    let there = reader.partitions(&[]);
    let digester = Arc::new(RowDigester::new(&collection.schema)?);
    let key = collection.schema.primary_key()?.name.clone();
    let mut found = BTreeMap::new();
    let mut names: BTreeSet<String> = rows.partitions().into_iter().collect();
    if backup.manifest().backup_type == BackupType::FullCollection {
        names.extend(there.iter().cloned()); // else, other partitions are none of the backup's concern
    }
    for partition in names {
        let ours = OfBackup { backup, rows, pieces: rows.pieces(&partition).into_iter(), open: None };
        let scanner = there
            .contains(&partition)
            .then(|| Scanner::new(client.clone(), reader.scan(&partition)).map(Box::new))
            .transpose()?;
        let mut ours = Cursor::new(Source::Backup(ours), &digester, &key);
        let mut theirs = Cursor::new(Source::Collection(scanner), &digester, &key);
        found.insert(partition, merge(&mut ours, &mut theirs, control).await?);
    }
    Ok(found)
}

async fn merge(ours: &mut Cursor<'_>, theirs: &mut Cursor<'_>, control: &Control) -> Result<Differences> {
    let mut found = Differences::default();
    loop {
        ours.fill(Some(control)).await?;
        theirs.fill(None).await?;
        match (ours.current(), theirs.current()) {
            (None, None) => return Ok(found),
            (Some((key, _)), None) => {
                found.only_in_backup.note(key);
                ours.at += 1;
            }
            (None, Some((key, _))) => {
                found.only_in_original.note(key);
                theirs.at += 1;
            }
            (Some((one, _)), Some((other, _))) if one < other => {
                found.only_in_backup.note(one);
                ours.at += 1;
            }
            (Some((one, _)), Some((other, _))) if other < one => {
                found.only_in_original.note(other);
                theirs.at += 1;
            }
            (Some((key, one)), Some((_, other))) => {
                if one != other {
                    found.different.note(key);
                }
                ours.at += 1;
                theirs.at += 1;
            }
        }
    }
}

/// Where rows come from, in key order.
enum Source<'a> {
    Backup(OfBackup<'a>),
    Collection(Option<Box<Scanner>>),
}

struct OfBackup<'a> {
    backup: &'a Backup,
    rows: &'a Rows,
    pieces: std::vec::IntoIter<&'a Piece>,
    open: Option<PieceRows>,
}

impl Source<'_> {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        match self {
            Self::Collection(Some(scanner)) => scanner.next().await,
            Self::Collection(None) => Ok(None),
            Self::Backup(backup) => backup.next().await,
        }
    }
}

impl OfBackup<'_> {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(open) = &mut self.open
                && let Some(batch) = open.next().await?
            {
                return Ok(Some(batch));
            }
            let Some(chunk) = self.pieces.next() else { return Ok(None) };
            self.open = Some(self.rows.open(self.backup, chunk, None).await?);
        }
    }
}

/// A place in rows that come in key order: the key and the digest of one row after another.
struct Cursor<'a> {
    source: Source<'a>,
    digester: &'a Arc<RowDigester>,
    key: &'a str,
    keys: Vec<Key>,
    digests: Vec<u128>,
    at: usize,
    last: Option<Key>,
    ended: bool,
}

impl<'a> Cursor<'a> {
    fn new(source: Source<'a>, digester: &'a Arc<RowDigester>, key: &'a str) -> Self {
        Self { source, digester, key, keys: Vec::new(), digests: Vec::new(), at: 0, last: None, ended: false }
    }

    fn current(&self) -> Option<(&Key, u128)> {
        self.keys.get(self.at).zip(self.digests.get(self.at).copied())
    }

    /// Makes sure that there is a current row, if there are rows left.
    async fn fill(&mut self, control: Option<&Control>) -> Result<()> {
        while self.at >= self.keys.len() && !self.ended {
            let Some(batch) = self.source.next().await? else {
                self.ended = true;
                return Ok(());
            };
            if let Some(control) = control {
                control.advance(batch.num_rows() as u64, crate::parquet::arrow_bytes(&batch));
            }
            self.last = self.keys.pop().or(self.last.take());
            self.keys = keys(batch.column_by_name(self.key).ok_or_else(|| internal("the rows have no keys"))?)?;
            self.at = 0;
            let ordered = self.last.as_ref().is_none_or(|last| self.keys.first().is_none_or(|first| last < first))
                && self.keys.is_sorted();
            if !ordered {
                return Err(Error::new(Kind::BackupCorrupted, "the backup's rows are not in the order of their keys"));
            }
            let digester = Arc::clone(self.digester);
            self.digests = blocking(move || {
                let mut digests = Vec::new();
                digester.digest_batch(&batch, &mut digests)?;
                Ok(digests)
            })
            .await?;
        }
        Ok(())
    }
}
