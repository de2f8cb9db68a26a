//! Whether a native backup shows the rows of an earlier moment exactly.
//!
//! Milvus's files tell of each row when it was written, and of each delete when it came, until compaction writes rows
//! anew without those that were deleted by then. A row that compaction took away was deleted before the new file was
//! written. So a moment is shown exactly if no file of rows was written after it; and if none of the files that were
//! written later is compaction's, which the backup's maker may know. Files of storage version 2 do not tell when they were
//! written: each may be compaction's.

use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::super::read::blocking;
use super::Piece;
use super::segments::{self, SegmentPlan};
use crate::binlog::event::{Descriptor, EventKind};
use crate::binlog::{self, LogFile, packed};
use crate::error::Result;
use crate::parquet::Source;
use crate::repository::{Backup, RelativePath};
use crate::schema::Collection;

/// Files that are looked at at once.
const AT_ONCE: usize = 16;
/// Longer than any descriptor.
const START: u64 = 4096;

/// What is known of a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::jobs) struct History {
    exact: bool,
    reason: String,
}

impl History {
    /// What Python reads of it: `history` and `history_reason`.
    pub(in crate::jobs) fn told(&self) -> [(&'static str, Value); 2] {
        let history = if self.exact { "EXACT" } else { "BEST_EFFORT" };
        [("history", json!(history)), ("history_reason", json!(self.reason))]
    }

    /// What a person should know of it, if it may not be exact.
    pub(in crate::jobs) fn warning(&self) -> Option<String> {
        (!self.exact).then(|| format!("the rows may not be exactly those of as_of: {}", self.reason))
    }

    fn exact(reason: &str) -> Self {
        Self { exact: true, reason: reason.to_owned() }
    }
}

/// Whether `pieces` show the rows of `at` as they were then.
pub(in crate::jobs) async fn of(backup: &Backup, pieces: &[Piece], at: Option<u64>) -> Result<History> {
    let snapshot = &backup.manifest().snapshot;
    let Some(at) = at.filter(|at| Some(*at) != snapshot.timestamp) else {
        return Ok(History::exact("it is the moment that the backup shows"));
    };
    if snapshot.history_since.is_some_and(|since| at >= since) {
        return Ok(History::exact(
            "when the backup was made, Milvus's storage showed no sign that rows had been compacted since that moment",
        ));
    }
    let plans = pieces.iter().filter_map(Piece::plan);
    let logs: Vec<_> = plans.flat_map(SegmentPlan::timestamps).cloned().map(|path| (path, EventKind::Insert)).collect();
    let mut said = futures::stream::iter(logs).map(|log| times(backup, log)).buffer_unordered(AT_ONCE);
    let mut later = 0;
    while let Some(times) = said.try_next().await? {
        later += usize::from(times.written > at);
    }
    if later == 0 {
        return Ok(History::exact("no file of rows was written after that moment"));
    }
    Ok(History {
        exact: false,
        reason: format!(
            "{later} files of rows were written after that moment, or do not say when: if compaction wrote one of them, rows that lived then and were deleted since are missing"
        ),
    })
}

/// Whether files hold rows or deletes that came after the backup's own moment.
pub(in crate::jobs) async fn hold_later_ones(backup: &Backup, pieces: &[Piece]) -> Result<bool> {
    let Some(at) = backup.manifest().snapshot.timestamp else { return Ok(false) };
    let logs: Vec<_> = pieces.iter().filter_map(Piece::plan).flat_map(logs_of).collect();
    let mut said = futures::stream::iter(logs).map(|log| times(backup, log)).buffer_unordered(AT_ONCE);
    while let Some(times) = said.try_next().await? {
        if times.latest > at {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A segment's files that tell when rows and deletes came.
fn logs_of(plan: &SegmentPlan) -> impl Iterator<Item = (RelativePath, EventKind)> {
    let rows = plan.timestamps().map(|path| (path, EventKind::Insert));
    rows.chain(plan.deltas().iter().map(|path| (path, EventKind::Delete))).map(|(path, kind)| (path.clone(), kind))
}

/// The time of the latest row or delete that the files hold.
pub(in crate::jobs) async fn latest(backup: &Backup, collection: &Collection) -> Result<u64> {
    let (pieces, beyond) = segments::pieces_and_beyond(backup, collection, None).await?;
    let logs = pieces.all.iter().filter_map(Piece::plan).flat_map(logs_of);
    let logs: Vec<_> = logs.chain(beyond.into_iter().map(|path| (path, EventKind::Delete))).collect();
    let said = futures::stream::iter(logs).map(|log| times(backup, log)).buffer_unordered(AT_ONCE);
    said.try_fold(0, |latest, times| async move { Ok(latest.max(times.latest)) }).await
}

/// The times of a file's rows or deletes, as hybrid timestamps.
struct Times {
    /// That of the latest, at the latest.
    latest: u64,
    /// When it was written, at the latest; 0 where another file says that of the same rows.
    written: u64,
}

async fn times(backup: &Backup, (path, kind): (RelativePath, EventKind)) -> Result<Times> {
    let file = backup.open_file(&path).await?;
    let start = file.read_range(0..file.size().min(START)).await?;
    let mut written = None;
    if !start.starts_with(&packed::MAGIC) {
        let said = Descriptor::of_start(&start.into(), file.size(), path.as_str())?;
        if said.times.1 < u64::MAX {
            return Ok(Times { latest: said.times.1, written: said.written });
        }
        written = Some(said.written);
    }
    let runtime = Handle::current();
    let source = Source::elsewhere(file.size(), move |range| {
        runtime.block_on(file.read_range(range)).map_err(|error| std::io::Error::other(error.to_string()))
    });
    let log = LogFile { path: path.to_string(), source };
    let latest = blocking(move || binlog::latest(&log, kind)).await?;
    Ok(Times { latest, written: written.unwrap_or(if latest > 0 { u64::MAX } else { 0 }) })
}
