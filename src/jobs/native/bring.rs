//! The files of a moment, brought into a backup: several at once, hashed and counted on their way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use futures::{FutureExt, StreamExt};
use tokio::sync::Semaphore;

use super::files::{LogFile, SegmentFiles};
use super::log_rows::{LogRows, Span};
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
    files: Mutex<BTreeMap<RelativePath, (u64, Span)>>,
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
    // Files that are on their way are waited for in any case: dropped, they could still arrive.
    let stopped = AtomicBool::new(false);
    let mut again = None;
    let files = segments.iter().flat_map(|segment| segment.all().map(move |file| (segment, file)));
    let pieces: Vec<_> = files
        .map(|(segment, file)| one(attempt, storage, (segment, file), (&memory, &stopped), done, control))
        .collect();
    let mut moving = futures::stream::iter(pieces).buffer_unordered(AT_ONCE);
    while let Some(outcome) = moving.next().await {
        if let Some(why) = outcome? {
            stopped.store(true, Ordering::Relaxed);
            again.get_or_insert(why);
        }
    }
    drop(moving);
    if let Some(why) = again {
        return Ok(Brought::Again(why));
    }
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
    (memory, stopped): (&Semaphore, &AtomicBool),
    done: &Done,
    control: &Control,
) -> Result<Option<Error>> {
    if done.span(file).is_some() {
        control.advance(0, file.bytes);
        return Ok(None);
    }
    let mebibytes = u32::try_from((file.bytes >> 20).min(UPLOAD_KEEPS) + 1).unwrap_or(MEMORY);
    let _share = memory.acquire_many(mebibytes).await.map_err(|_| internal("a semaphore was closed"))?;
    if stopped.load(Ordering::Relaxed) {
        return Ok(None);
    }
    let tell = |bytes| {
        control.advance(0, bytes);
        control.pass(bytes).boxed()
    };
    let taken = attempt.take_in(storage, &file.from, &file.to, LogRows::default(), &tell).await?;
    let Some((sum, rows)) = taken else {
        return Ok(Some(trouble(segment, &format!("{} was gone when it was copied", file.from))));
    };
    let span = if sum.bytes == file.bytes { rows.span() } else { Err("changed its length while it was copied") };
    match span {
        Ok(span) => {
            done.lock().insert(file.to.clone(), (sum.bytes, span));
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

/// Whether each field of a segment has as many rows as the server says of the segment, and no field is missing. Files
/// that only some fields have, left of an upload that the server tried again, are no rows: readers leave them out.
fn check_rows(collection: &Collection, segment: &SegmentFiles, done: &Done) -> Result<()> {
    if segment.segment.is_level_zero || segment.segment.rows == 0 {
        return Ok(());
    }
    let mut fields: BTreeMap<i64, Vec<Span>> = BTreeMap::new();
    for file in &segment.inserts {
        fields.entry(file.field).or_default().extend(done.span(file));
    }
    let named = |field: i64| {
        let name = collection.schema.fields.iter().find(|known| known.id == field).map(|known| known.name.as_str());
        name.map_or_else(|| format!("field {field}"), |name| format!("field '{name}'"))
    };
    let must = |field: &&Field| !field.nullable && !field.function_output;
    let mut needed = collection.schema.fields.iter().filter(must).map(|field| field.id).chain(SYSTEM_FIELDS);
    if let Some(field) = needed.find(|field| !fields.contains_key(field)) {
        return Err(trouble(segment, &format!("it has no file of {}", named(field))));
    }
    let said = segment.segment.rows;
    let rows = |spans: &[Span]| spans.iter().map(|span| span.rows).sum::<u64>();
    let Some((_, odd)) = fields.iter().find(|(_, spans)| rows(spans) != said) else { return Ok(()) };
    let everywhere = |span: &&Span| fields.values().all(|spans| spans.contains(span));
    let common: BTreeSet<Span> = odd.iter().filter(everywhere).copied().collect();
    if common.iter().map(|span| span.rows).sum::<u64>() == said {
        tracing::warn!(segment = segment.segment.id, "files of an upload that was tried again are copied along");
        return Ok(());
    }
    let short = fields.iter().min_by_key(|(_, spans)| rows(spans)).filter(|(_, spans)| rows(spans) < said);
    let wrong = short.or_else(|| fields.iter().find(|(_, spans)| rows(spans) != said));
    let what = wrong.map(|(field, spans)| format!("its files have {} rows of {}", rows(spans), named(*field)));
    Err(trouble(segment, &format!("{}, and the server says it has {said}", what.unwrap_or_default())))
}

fn trouble(segment: &SegmentFiles, what: &str) -> Error {
    let id = segment.segment.id;
    Error::new(Kind::Backup, format!("segment {id} cannot be copied as it is: {what}"))
        .with("segment_id", id)
        .with("partition_id", segment.segment.partition)
}

impl Done {
    /// What a file holds, if it has been brought.
    pub fn span(&self, file: &LogFile) -> Option<Span> {
        self.lock().get(&file.to).map(|(_, span)| *span)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<RelativePath, (u64, Span)>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
