//! The files of a moment, brought into a backup: several at once, hashed and counted on their way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use futures::{FutureExt, StreamExt};
use tokio::sync::Semaphore;

use super::files::{LogFile, SegmentFiles};
use super::log_rows::{LogRows, Span, Told};
use crate::binlog::segment::TIMESTAMP_FIELD;
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
const SYSTEM_FIELDS: [i64; 2] = [0, TIMESTAMP_FIELD];

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
    files: Mutex<BTreeMap<RelativePath, (u64, Told)>>,
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
        // What rounding left out of the files' shares.
        control.advance(segment.segment.rows - segment.all().map(|file| share(segment, file)).sum::<u64>(), 0);
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
    if done.told(file).is_some() {
        control.advance(share(segment, file), file.bytes);
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
    let told = if sum.bytes == file.bytes { rows.told() } else { Err("changed its length while it was copied") };
    match told {
        Ok(told) => {
            done.lock().insert(file.to.clone(), (sum.bytes, told));
            control.advance(share(segment, file), 0);
            Ok(None)
        }
        Err(wrong) => {
            attempt.discard(&file.to).await?;
            Ok(Some(trouble(segment, &format!("{} {wrong}", file.from))))
        }
    }
}

/// As how many rows a file counts while progress is told.
fn share(segment: &SegmentFiles, file: &LogFile) -> u64 {
    let rows = u128::from(segment.segment.rows) * u128::from(file.bytes) / u128::from(segment.bytes().max(1));
    u64::try_from(rows).unwrap_or(0)
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
/// that only some fields have, left of an upload that the server tried again, are no rows: readers leave them out. A
/// field that may have nulls can lack a segment's first rows: it was added later.
fn check_rows(collection: &Collection, segment: &SegmentFiles, done: &Done) -> Result<()> {
    if segment.segment.is_level_zero || segment.segment.rows == 0 {
        return Ok(());
    }
    let mut fields: BTreeMap<i64, Vec<Span>> = BTreeMap::new();
    for file in &segment.inserts {
        let Some(told) = done.told(file) else { continue };
        // Of several fields in one file, each has all of its rows.
        for field in told.fields.unwrap_or_else(|| vec![file.field]) {
            fields.entry(field).or_default().push(told.span);
        }
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
    let all = fields.get(&TIMESTAMP_FIELD).cloned().unwrap_or_default();
    let may_lack = |field: i64| collection.schema.fields.iter().any(|known| known.id == field && known.nullable);
    fields.retain(|field, spans| !(may_lack(*field) && all.ends_with(spans)));
    let Some((_, odd)) = fields.iter().find(|(_, spans)| rows(spans) != said) else { return Ok(()) };
    let everywhere = |span: &&Span| fields.values().all(|spans| spans.contains(span));
    let common: BTreeSet<Span> = odd.iter().filter(everywhere).copied().collect();
    let whole = |spans: &Vec<Span>| {
        let kept: Vec<Span> = spans.iter().filter(|span| common.contains(span)).copied().collect();
        kept.len() == common.len() && rows(&kept) == said
    };
    if fields.values().all(whole) {
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
    /// What a file says of itself, if it has been brought.
    pub fn told(&self, file: &LogFile) -> Option<Told> {
        self.lock().get(&file.to).map(|(_, told)| told.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<RelativePath, (u64, Told)>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::milvus::Segment;

    fn films() -> Collection {
        let fields = json!([
            {"id": 100, "name": "id", "data_type": "int64", "primary_key": true},
            {"id": 101, "name": "note", "data_type": "varchar", "nullable": true},
        ]);
        let shape = json!({"name": "films", "database": "default", "enable_dynamic_field": false, "fields": fields,
            "partitions": ["_default"], "shards": 1, "consistency_level": 0});
        serde_json::from_value(shape).unwrap()
    }

    /// A segment that the server says has `rows`, with files (field, number, rows, start).
    fn brought(rows: u64, files: &[(i64, i64, u64, u64)]) -> (SegmentFiles, Done) {
        let segment: Segment = serde_json::from_value(json!({"id": 7, "collection": 1, "partition": 2, "rows": rows,
            "state": "Flushed", "is_level_zero": false, "storage_version": 0}))
        .unwrap();
        let done = Done::default();
        let mut inserts = Vec::new();
        for &(field, log, rows, start) in files {
            let path = RelativePath::new(format!("{field}/{log}")).unwrap();
            let span = Span { rows, times: Some((start, start + 1)) };
            done.lock().insert(path.clone(), (10, Told { span, end: start + 1, fields: None }));
            inserts.push(LogFile { from: path.clone(), to: path, field, log, bytes: 10 });
        }
        (SegmentFiles { segment, inserts, deletes: Vec::new() }, done)
    }

    fn check(rows: u64, files: &[(i64, i64, u64, u64)]) -> Result<()> {
        let (segment, done) = brought(rows, files);
        check_rows(&films(), &segment, &done)
    }

    const WHOLE: [(i64, i64, u64, u64); 6] =
        [(0, 1, 3, 50), (0, 2, 4, 60), (1, 3, 3, 50), (1, 4, 4, 60), (100, 5, 3, 50), (100, 6, 4, 60)];

    #[test]
    fn a_segment_is_taken_where_every_field_has_the_rows_that_the_server_says() {
        check(7, &WHOLE).unwrap();
        // A field that may have nulls has all rows, or the last ones, but no others.
        for (files, whole) in [
            (&[(101, 9, 3, 50), (101, 10, 4, 60)][..], true),
            (&[(101, 10, 4, 60)], true),
            (&[], true),
            (&[(101, 9, 3, 50)], false),
            (&[(101, 9, 7, 50)], true),
        ] {
            let with_nulls = [&WHOLE[..], files].concat();
            assert_eq!(check(7, &with_nulls).is_ok(), whole, "{files:?}");
        }
        // Files of one import may say the same of different rows.
        check(6, &[(0, 1, 3, 50), (0, 2, 3, 50), (1, 3, 3, 50), (1, 4, 3, 50), (100, 5, 3, 50), (100, 6, 3, 50)])
            .unwrap();
    }

    #[test]
    fn of_several_fields_in_a_file_each_has_its_rows() {
        let (mut segment, done) = brought(7, &[(0, 1, 3, 0), (0, 2, 4, 0), (100, 3, 3, 0), (100, 4, 4, 0)]);
        let tell = |file: usize, fields: &[i64], rows: u64| {
            let told = Told { span: Span { rows, times: None }, end: 0, fields: Some(fields.to_vec()) };
            done.lock().insert(segment.inserts[file].to.clone(), (10, told));
        };
        for (file, rows) in [(0, 3), (1, 4)] {
            tell(file, &[0, 1], rows);
        }
        for (file, rows) in [(2, 3), (3, 4)] {
            tell(file, &[100], rows);
        }
        check_rows(&films(), &segment, &done).unwrap();
        let removed = segment.inserts.pop();
        let error = check_rows(&films(), &segment, &done).unwrap_err();
        assert!(error.message().contains("3 rows of field 'id'"), "{error}");
        segment.inserts.extend(removed);
        done.lock().clear();
        assert!(check_rows(&films(), &segment, &done).unwrap_err().message().contains("no file of field 'id'"));
    }

    #[test]
    fn a_file_too_few_is_named_with_its_segment_and_field() {
        let error = check(7, &WHOLE[..5]).unwrap_err();
        assert!(error.message().contains("segment 7 ") && error.message().contains("3 rows of field 'id'"), "{error}");
        let error = check(7, &WHOLE[..4]).unwrap_err();
        assert!(error.message().contains("no file of field 'id'"), "{error}");
        let error = check(8, &WHOLE).unwrap_err();
        assert!(error.message().contains("the server says it has 8"), "{error}");
    }

    #[test]
    fn files_of_an_upload_that_was_tried_again_are_left_to_readers() {
        let mut retried = WHOLE.to_vec();
        retried.extend([(0, 11, 4, 77), (1, 12, 4, 77)]);
        check(7, &retried).unwrap();
        let mut everywhere = retried.clone();
        everywhere.push((100, 13, 4, 77));
        assert!(check(7, &everywhere).is_err());
        // The same files in every field once more: nothing shows which are left over.
        let again = WHOLE.map(|(field, log, rows, start)| (field, log + 100, rows, start));
        let error = check(7, &[&WHOLE[..], &again].concat()).unwrap_err();
        assert!(error.message().contains("14 rows of"), "{error}");
    }
}
