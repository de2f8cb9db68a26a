//! Deletes that hold for several segments, of a partition or of all: read once, however many segments they hold for.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::files::{ALL, LogFile, SegmentFiles};
use crate::binlog::{self, Deletes};
use crate::error::Result;
use crate::jobs::read::blocking;

/// By partition; what holds for all of them is under [`ALL`].
pub(super) struct Beyond(BTreeMap<i64, Arc<Deletes>>);

impl Beyond {
    /// Reads the deletes up to `at` of those of `segments` that have nothing else.
    ///
    /// # Errors
    /// As [`Deletes::add`], and as `open`, which gets at a file.
    pub(super) async fn read<'a>(
        segments: &'a [SegmentFiles],
        at: u64,
        open: impl Fn(&'a LogFile) -> BoxFuture<'a, Result<binlog::LogFile>>,
    ) -> Result<Self> {
        let mut all: BTreeMap<i64, Deletes> = BTreeMap::new();
        for files in segments.iter().filter(|files| files.segment.is_level_zero) {
            for file in &files.deletes {
                let log = open(file).await?;
                let mut deletes = all.remove(&files.segment.partition).unwrap_or_default();
                deletes = blocking(move || deletes.add(&log, Some(at)).map(|()| deletes)).await?;
                all.insert(files.segment.partition, deletes);
            }
        }
        Ok(Self(all.into_iter().map(|(partition, deletes)| (partition, Arc::new(deletes))).collect()))
    }

    /// Those that hold for a partition's segments.
    pub(super) fn of(&self, partition: i64) -> impl Iterator<Item = Arc<Deletes>> {
        [ALL, partition].into_iter().filter_map(|partition| self.0.get(&partition).cloned())
    }
}
