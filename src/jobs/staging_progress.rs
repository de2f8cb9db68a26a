//! Which chunks of a backup are in a staging collection for sure, noted in its journal so that the next run can go on.

use std::collections::BTreeMap;

use super::load::Rows;
use super::pieces::Piece;
use crate::error::Result;
use crate::milvus::Inserted;
use crate::repository::Journal;

/// How far a staging collection is. Chunks go in partition by partition, by ascending keys.
pub(super) struct Progress<'a> {
    journal: Option<&'a Journal>,
    done: BTreeMap<String, u64>,
    /// Bytes of rows that are inserted and not noted.
    unnoted: u64,
    /// With so many of them, it is time to note.
    due: u64,
    /// Rows that an earlier run had inserted.
    pub resumed: u64,
    /// Whether a request may still arrive that was given up, here or by an earlier run.
    pub in_doubt: bool,
}

impl<'a> Progress<'a> {
    /// With `done` of each partition's chunks in the collection already, and `in_doubt` where requests were given up
    /// before. Nothing is noted without a journal that can be gone on with.
    pub(super) fn new(rows: &Rows, journal: Option<&'a Journal>, done: BTreeMap<String, u64>, in_doubt: bool) -> Self {
        let all: Vec<String> = rows.partitions();
        let largest = all.iter().flat_map(|name| rows.pieces(name)).map(|chunk| chunk.bytes).max().unwrap_or(0);
        let journal = journal.filter(|journal| journal.entry().fingerprint.is_some());
        let in_doubt = in_doubt || !done.is_empty();
        let mut progress = Self { journal, done, unnoted: 0, due: (largest / 10).max(1), resumed: 0, in_doubt };
        for name in &all {
            progress.resumed +=
                rows.pieces(name).iter().take(progress.chunks_of(name)).map(|chunk| chunk.rows).sum::<u64>();
        }
        progress
    }

    /// How many of a partition's chunks are in.
    pub(super) fn chunks_of(&self, partition: &str) -> usize {
        self.done.get(partition).and_then(|chunks| usize::try_from(*chunks).ok()).unwrap_or(0)
    }

    /// Takes note of what came of inserting some rows; how many there were.
    pub(super) fn inserted(&mut self, inserted: Inserted) -> u64 {
        self.in_doubt |= inserted.in_doubt;
        inserted.rows
    }

    /// Chunks that are not noted, of which an earlier run may have inserted some rows: those that come next, up to the one
    /// after which it would have noted them.
    pub(super) fn maybe_begun<'r>(&self, rows: &'r Rows) -> Vec<&'r Piece> {
        let (mut some, mut bytes) = (Vec::new(), 0);
        if self.resumed == 0 {
            return some;
        }
        for name in rows.partitions() {
            for chunk in rows.pieces(&name).into_iter().skip(self.chunks_of(&name)) {
                some.push(chunk);
                bytes += chunk.bytes;
                if bytes >= self.due {
                    return some;
                }
            }
        }
        some
    }

    /// A chunk's rows have all been sent; whether it is time to wait for them and to note them.
    pub(super) fn finished(&mut self, chunk: &Piece) -> bool {
        *self.done.entry(chunk.partition.clone()).or_default() += 1;
        self.unnoted += chunk.bytes;
        self.journal.is_some() && self.unnoted >= self.due
    }

    /// Notes what is in, durably on return.
    pub(super) async fn note(&mut self) -> Result<()> {
        self.unnoted = 0;
        match self.journal {
            Some(journal) => journal.note(&self.done).await,
            None => Ok(()),
        }
    }
}
