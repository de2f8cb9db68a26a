//! The files of a moment, brought into a backup: several at once, hashed and counted on their way.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;

use futures::{FutureExt, StreamExt};
use tokio::sync::Semaphore;

use super::files::{LogFile, SegmentFiles};
use super::log_rows::LogRows;
use crate::error::{Error, Kind, Result, internal};
use crate::jobs::Control;
use crate::repository::{Attempt, RelativePath, Store};
use crate::schema::{Collection, Field};

/// Files that are on their way at once: waiting for disks and object stores, mostly.
const AT_ONCE: usize = 16;
/// MiB that they may take in memory together, each no more than it is long or than an upload keeps.
const MEMORY: u32 = 96;
const UPLOAD_KEEPS: u64 = 32;
/// The row id and the timestamp, which every segment has beside its fields.
const SYSTEM_FIELDS: [i64; 2] = [0, 1];

/// What became of it.
pub enum Brought {
    /// Every file is there, and every segment has the rows that the server says.
    Whole,
    /// A file was gone, or was being written: the moment has to be taken again. In words, what it was.
    Again(Error),
}

/// What an earlier round has brought.
#[derive(Default)]
pub struct Done {
    files: Mutex<BTreeMap<RelativePath, (u64, u64)>>,
}

/// Brings the files of `segments` into the backup; those that an earlier round has brought stay, others of it go.
///
/// # Errors
/// [`Kind::Storage`] and its like where one of the two stores fails.
pub async fn bring(
    attempt: &Attempt,
    storage: &Store,
    collection: &Collection,
    segments: &[SegmentFiles],
    done: &Done,
    control: &Control,
) -> Result<Brought> {
    discard_others(attempt, segments, done).await?;
    let memory = Semaphore::new(MEMORY as usize);
    let files = segments.iter().flat_map(|segment| segment.all().map(move |file| (segment, file)));
    let pieces: Vec<_> =
        files.map(|(segment, file)| one(attempt, storage, (segment, file), &memory, done, control)).collect();
    let mut moving = futures::stream::iter(pieces).buffer_unordered(AT_ONCE);
    while let Some(outcome) = moving.next().await {
        if let Some(again) = outcome? {
            return Ok(Brought::Again(again));
        }
    }
    drop(moving);
    for segment in segments {
        if let Err(error) = check_rows(collection, segment, done) {
            return Ok(Brought::Again(error));
        }
        control.advance(segment.segment.rows, 0);
    }
    Ok(Brought::Whole)
}

/// Brings one file; in words, why the moment has to be taken again.
async fn one(
    attempt: &Attempt,
    storage: &Store,
    (segment, file): (&SegmentFiles, &LogFile),
    memory: &Semaphore,
    done: &Done,
    control: &Control,
) -> Result<Option<Error>> {
    if done.rows(file).is_some() {
        control.advance(0, file.bytes);
        return Ok(None);
    }
    let mebibytes = u32::try_from((file.bytes >> 20).min(UPLOAD_KEEPS) + 1).unwrap_or(MEMORY);
    let _share = memory.acquire_many(mebibytes).await.map_err(|_| internal("a semaphore was closed"))?;
    let tell = |bytes| {
        control.advance(0, bytes);
        control.pass(bytes).boxed()
    };
    let taken = attempt.take_in(storage, &file.from, &file.to, LogRows::default(), &tell).await?;
    let Some((sum, rows)) = taken else {
        return Ok(Some(trouble(segment, &format!("{} was gone when it was copied", file.from))));
    };
    let rows = if sum.bytes == file.bytes { rows.rows() } else { Err("changed its length while it was copied") };
    match rows {
        Ok(rows) => {
            done.lock().insert(file.to.clone(), (sum.bytes, rows));
            Ok(None)
        }
        Err(wrong) => {
            attempt.discard(&file.to).await?;
            Ok(Some(trouble(segment, &format!("{} {wrong}", file.from))))
        }
    }
}

/// Deletes what an earlier round has brought and this one does not want.
async fn discard_others(attempt: &Attempt, segments: &[SegmentFiles], done: &Done) -> Result<()> {
    let wanted: BTreeMap<&RelativePath, u64> =
        segments.iter().flat_map(SegmentFiles::all).map(|file| (&file.to, file.bytes)).collect();
    let others: Vec<RelativePath> = done
        .lock()
        .iter()
        .filter(|(path, (bytes, _))| wanted.get(path) != Some(bytes))
        .map(|(path, _)| path.clone())
        .collect();
    for path in others {
        attempt.discard(&path).await?;
        done.lock().remove(&path);
    }
    Ok(())
}

/// Whether each field of a segment has as many rows as the server says of the segment, and no field is missing.
fn check_rows(collection: &Collection, segment: &SegmentFiles, done: &Done) -> Result<()> {
    if segment.segment.is_level_zero {
        return Ok(());
    }
    let mut fields: BTreeMap<i64, u64> = BTreeMap::new();
    for file in &segment.inserts {
        *fields.entry(file.field).or_default() += done.rows(file).unwrap_or_default();
    }
    let named = |field: i64| {
        let name = collection.schema.fields.iter().find(|known| known.id == field).map(|known| known.name.as_str());
        name.map_or_else(|| format!("field {field}"), |name| format!("field '{name}'"))
    };
    if let Some((field, rows)) = fields.iter().find(|(_, rows)| **rows != segment.segment.rows) {
        let said = segment.segment.rows;
        let what = format!("its files have {rows} rows of {}, and the server says it has {said}", named(*field));
        return Err(trouble(segment, &what));
    }
    let must = |field: &&Field| !field.nullable && !field.function_output;
    let needed = collection.schema.fields.iter().filter(must).map(|field| field.id).chain(SYSTEM_FIELDS);
    match needed.into_iter().find(|field| segment.segment.rows > 0 && !fields.contains_key(field)) {
        Some(field) => Err(trouble(segment, &format!("it has no file of {}", named(field)))),
        None => Ok(()),
    }
}

fn trouble(segment: &SegmentFiles, what: &str) -> Error {
    let id = segment.segment.id;
    Error::new(Kind::Backup, format!("segment {id} cannot be copied as it is: {what}"))
        .with("segment_id", id)
        .with("partition_id", segment.segment.partition)
}

impl Done {
    /// The rows of a file, if it has been brought.
    fn rows(&self, file: &LogFile) -> Option<u64> {
        self.lock().get(&file.to).map(|(_, rows)| *rows)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<RelativePath, (u64, u64)>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
