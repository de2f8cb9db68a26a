//! How many rows live at a moment: those up to its timestamp that were not deleted up to it, of each key the newest. Keys
//! and timestamps are read, from the backup's own files.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::runtime::Handle;

use super::beyond::Beyond;
use super::counted_as;
use super::files::{LogFile, SegmentFiles};
use crate::binlog::segment::TIMESTAMP_FIELD;
use crate::binlog::{self, Deletes};
use crate::error::{Error, Kind, Result, internal};
use crate::jobs::newest;
use crate::jobs::read::blocking;
use crate::parquet::Source;
use crate::repository::Attempt;
use crate::repository::manifest::PartitionDigest;
use crate::schema::Collection;

/// Partitions that are looked at side by side.
const AT_ONCE: usize = 4;

/// What lives in a partition.
pub(super) struct Alive {
    /// Rows, one a key.
    pub(super) rows: u64,
    /// Those beside them that have a newer one of the same key.
    older_rows: u64,
    /// What there is to say of those.
    pub(super) warning: Option<String>,
}

impl Alive {
    /// What the manifest says of it.
    pub(super) fn digest(&self) -> PartitionDigest {
        PartitionDigest { rows: self.rows, digest: None, older_rows: Some(self.older_rows) }
    }
}

/// The rows that live at a moment, by partition; `partitions` are names and Milvus's numbers.
///
/// # Errors
/// [`Kind::BackupCorrupted`] where a file is not what Milvus writes.
pub(super) async fn rows(
    collection: &Collection,
    partitions: &[(String, i64)],
    (segments, at): (&[SegmentFiles], u64),
    attempt: &Attempt,
) -> Result<BTreeMap<String, Alive>> {
    let mut numbers: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for (name, number) in partitions {
        numbers.entry(counted_as(collection, name)).or_default().push(*number);
    }
    let beyond = Beyond::read(segments, at, |file| open_file(attempt, file).boxed()).await?;
    let of_partition = async |(name, numbers): (String, Vec<i64>)| {
        let is_its = |files: &&SegmentFiles| !files.segment.is_level_zero && numbers.contains(&files.segment.partition);
        let all: Vec<&SegmentFiles> = segments.iter().filter(is_its).collect();
        let open = |index: usize| open(collection, at, attempt, all[index], &beyond).boxed();
        let (newest, rows) = newest::among(all.len(), &collection.schema, Some(at), open).await?;
        let older_rows = newest.older_rows();
        Ok((name.clone(), Alive { rows: rows - older_rows, older_rows, warning: newest::told(&name, &newest) }))
    };
    futures::stream::iter(numbers).map(of_partition).buffer_unordered(AT_ONCE).try_collect().await
}

/// The keys and timestamps of a segment, and the deletes that hold for it.
async fn open(
    collection: &Collection,
    at: u64,
    attempt: &Attempt,
    files: &SegmentFiles,
    beyond: &Beyond,
) -> Result<(binlog::SegmentFiles, Arc<Deletes>)> {
    let mut logs = Vec::new();
    for file in &files.deletes {
        logs.push(open_file(attempt, file).await?);
    }
    let key = collection.schema.primary_key()?.id;
    let mut fields: BTreeMap<i64, Vec<binlog::LogFile>> = BTreeMap::new();
    for file in files.inserts_of(&[key, TIMESTAMP_FIELD]) {
        fields.entry(file.field).or_default().push(open_file(attempt, file).await?);
    }
    let promised = Some(files.segment.rows);
    let deletes = blocking(move || Deletes::read(&logs, Some(at))).await?.with(beyond.of(files.segment.partition));
    Ok((binlog::SegmentFiles { segment: files.segment.id, promised, fields }, Arc::new(deletes)))
}

/// A file of the backup that is being made.
pub(super) async fn open_file(attempt: &Attempt, file: &LogFile) -> Result<binlog::LogFile> {
    let written = attempt.open_file(&file.to).await?;
    let source = if let Some(path) = written.local_path().map(ToOwned::to_owned) {
        let opened = blocking(move || File::open(path).map_err(|error| internal(error.to_string()))).await;
        opened.map_err(|error| Error::new(Kind::Storage, format!("{} cannot be read back: {error}", file.to)))?.into()
    } else {
        let runtime = Handle::current();
        Source::elsewhere(written.size(), move |range| {
            runtime.block_on(written.read_range(range)).map_err(|error| std::io::Error::other(error.to_string()))
        })
    };
    Ok(binlog::LogFile { path: file.to.to_string(), source })
}
