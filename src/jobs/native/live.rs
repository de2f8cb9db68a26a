//! How many rows live at a moment: those up to its timestamp that were not deleted up to it.
//!
//! A segment without deletes and without later rows needs no reading: its files have said so when they were copied. Of
//! others the keys and timestamps are read, from the backup's own files.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::bring::Done;
use super::counted_as;
use super::files::{LogFile, SegmentFiles};
use crate::binlog::segment::TIMESTAMP_FIELD;
use crate::binlog::{self, Deletes};
use crate::error::{Error, Kind, Result, internal};
use crate::jobs::read::blocking;
use crate::parquet::Source;
use crate::repository::Attempt;
use crate::schema::Collection;

/// The rows that live at a moment, by partition; `partitions` are names and Milvus's numbers.
///
/// # Errors
/// [`Kind::BackupCorrupted`] where a file is not what Milvus writes.
pub(super) async fn rows(
    collection: &Collection,
    partitions: &[(String, i64)],
    (segments, at): (&[SegmentFiles], u64),
    attempt: &Attempt,
    done: &Done,
) -> Result<BTreeMap<String, u64>> {
    let mut alive = BTreeMap::new();
    // Deletes without rows of their own hold for every segment of their partition, or of all partitions.
    let beyond: Vec<_> = segments.iter().filter(|files| files.segment.is_level_zero).collect();
    for (name, id) in partitions {
        let mut rows = 0;
        for files in segments.iter().filter(|files| files.segment.partition == *id) {
            let holds = |other: &&&SegmentFiles| [-1, *id].contains(&other.segment.partition);
            let deletes: Vec<&LogFile> =
                files.deletes.iter().chain(beyond.iter().filter(holds).flat_map(|other| &other.deletes)).collect();
            rows += of_segment(collection, at, (attempt, done), files, &deletes).await?;
        }
        *alive.entry(counted_as(collection, name)).or_default() += rows;
    }
    Ok(alive)
}

async fn of_segment(
    collection: &Collection,
    at: u64,
    (attempt, done): (&Attempt, &Done),
    files: &SegmentFiles,
    deletes: &[&LogFile],
) -> Result<u64> {
    if files.segment.is_level_zero {
        return Ok(0);
    }
    let late = files.inserts.iter().filter_map(|file| done.told(file)).any(|told| told.end > at);
    if deletes.is_empty() && !late {
        return Ok(files.segment.rows);
    }
    let mut logs = Vec::new();
    for file in deletes {
        logs.push(open(attempt, file).await?);
    }
    let key = collection.schema.primary_key()?.id;
    let mut fields: BTreeMap<i64, Vec<binlog::LogFile>> = BTreeMap::new();
    let has = |file: &&LogFile| [key, TIMESTAMP_FIELD].into_iter().any(|field| done.has(file, field));
    for file in files.inserts.iter().filter(has) {
        fields.entry(file.field).or_default().push(open(attempt, file).await?);
    }
    let promised = Some(files.segment.rows);
    let segment = binlog::SegmentFiles { segment: files.segment.id, promised, fields };
    let schema = collection.schema.clone();
    blocking(move || {
        let deletes = Arc::new(Deletes::read(&logs, Some(at))?);
        binlog::Segment::open(segment, &schema)?.living(&schema, deletes, Some(at))
    })
    .await
}

/// A file of the backup that is being made.
async fn open(attempt: &Attempt, file: &LogFile) -> Result<binlog::LogFile> {
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
