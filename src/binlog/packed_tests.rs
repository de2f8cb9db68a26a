//! The rows of a real backup, laid out as Milvus's storage version 2 lays them out: read alike.
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{Field as ArrowField, Schema};
use arrow_select::concat::concat;
use parquet::arrow::ArrowWriter;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::event::EventKind;
use super::payload::LogReader;
use super::segment::TIMESTAMP_FIELD;
use super::tests::{assert_rows_that_lived, files, info};
use super::*;
use crate::error::Kind;
use crate::schema::CollectionSchema;

/// The vector of the fixture, which has a group of its own.
const VECTOR: i64 = 101;

/// A Parquet file with a column for each of these fields, in row groups of 100 rows.
fn packed(columns: &[(i64, ArrayRef)], statistics: EnabledStatistics) -> bytes::Bytes {
    let field = |(id, array): &(i64, ArrayRef)| {
        let marked = HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())]);
        ArrowField::new(format!("a name of {id}"), array.data_type().clone(), array.null_count() > 0)
            .with_metadata(marked)
    };
    let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    let arrays = columns.iter().map(|(_, array)| Arc::clone(array)).collect();
    let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).unwrap();
    let properties =
        WriterProperties::builder().set_max_row_group_row_count(Some(100)).set_statistics_enabled(statistics);
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties.build())).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap().into()
}

fn log(path: String, bytes: bytes::Bytes) -> LogFile {
    LogFile { path, source: bytes.into() }
}

/// All values of a field as they are stored.
fn stored(logs: &[LogFile], kind: EventKind) -> ArrayRef {
    let mut arrays = Vec::new();
    for log in logs {
        let mut batches = LogReader::open(&log.source, kind, &log.path).unwrap().batches(4096);
        while let Some(batch) = batches.next().unwrap() {
            arrays.push(Arc::clone(batch.column(0)));
        }
    }
    concat(&arrays.iter().map(AsRef::as_ref).collect::<Vec<_>>()).unwrap()
}

/// A segment's columns in two groups, with a file of each for its first third and one for the others.
fn regrouped(files: &SegmentFiles) -> Vec<BTreeMap<i64, Vec<(i64, ArrayRef)>>> {
    let columns: BTreeMap<i64, ArrayRef> =
        files.fields.iter().map(|(field, logs)| (*field, stored(logs, EventKind::Insert))).collect();
    let rows = columns[&TIMESTAMP_FIELD].len();
    let parts = [(0, rows / 3), (rows / 3, rows - rows / 3)];
    let part = |(start, length): (usize, usize)| {
        let mut groups: BTreeMap<i64, Vec<(i64, ArrayRef)>> = BTreeMap::new();
        for (field, values) in &columns {
            let group = if *field == VECTOR { VECTOR } else { 0 };
            groups.entry(group).or_default().push((*field, values.slice(start, length)));
        }
        groups
    };
    parts.map(part).into()
}

fn written(files: &SegmentFiles, parts: &[BTreeMap<i64, Vec<(i64, ArrayRef)>>]) -> SegmentFiles {
    let mut fields: BTreeMap<i64, Vec<LogFile>> = BTreeMap::new();
    for (part, groups) in parts.iter().enumerate() {
        for (group, columns) in groups {
            let file = packed(columns, EnabledStatistics::Chunk);
            fields.entry(*group).or_default().push(log(format!("insert_log/{group}/{part}"), file));
        }
    }
    SegmentFiles { segment: files.segment, promised: files.promised, fields }
}

/// Deletes as their two columns.
fn two_columns(deltas: &[LogFile]) -> Vec<LogFile> {
    let rows = |delta: &LogFile| {
        let texts = stored(std::slice::from_ref(delta), EventKind::Delete);
        let row = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let all: Vec<_> = texts.as_string::<i32>().iter().flatten().map(row).collect();
        let number = |name: &str| all.iter().map(|row| row[name].as_i64()).collect::<Int64Array>();
        let columns = [(0, Arc::new(number("pk")) as ArrayRef), (1, Arc::new(number("ts")) as ArrayRef)];
        log(delta.path.clone(), packed(&columns, EnabledStatistics::Chunk))
    };
    deltas.iter().map(rows).collect()
}

fn schema() -> CollectionSchema {
    description::collection(&info().collection_backups[0]).unwrap().schema
}

fn some() -> SegmentFiles {
    files(&info().collection_backups[0].partition_backups[0].segment_backups[0]).0
}

#[test]
fn several_fields_in_a_file_give_the_same_rows_and_deletes() {
    assert_rows_that_lived(|(files, deltas)| (written(&files, &regrouped(&files)), two_columns(&deltas)));
}

/// What the footer of a file says.
fn told(bytes: bytes::Bytes) -> Result<packed::Packed, &'static str> {
    packed::Packed::of(&packed::footer(&bytes.into(), "a").unwrap())
}

#[test]
fn a_footer_tells_fields_rows_and_times() {
    let files = some();
    let times = stored(&files.fields[&TIMESTAMP_FIELD], EventKind::Insert);
    let all = times.as_primitive::<arrow_array::types::Int64Type>().values();
    let (first, last) = (all.iter().min().unwrap().cast_unsigned(), all.iter().max().unwrap().cast_unsigned());
    let columns = [(0, Arc::clone(&times)), (1, Arc::clone(&times))];
    for (statistics, expected) in [(EnabledStatistics::Chunk, (first, last)), (EnabledStatistics::None, (0, u64::MAX))]
    {
        let told = told(packed(&columns, statistics)).unwrap();
        assert_eq!(told.columns, BTreeMap::from([(0, 0), (1, 1)]));
        assert_eq!((told.rows, told.times), (times.len() as u64, Some(expected)));
    }
    let vectors = packed(&[(VECTOR, times)], EnabledStatistics::Chunk);
    assert_eq!(told(vectors).unwrap().times, None);
}

#[test]
fn groups_with_other_rows_a_field_twice_and_columns_of_no_field_are_refused() {
    let (files, schema) = (some(), schema());
    let parts = regrouped(&files);
    let refused = |files: SegmentFiles| {
        let error = Segment::open(files, &schema).err().expect("a refusal");
        assert_eq!(error.kind(), Kind::BackupCorrupted);
        assert!(error.details().contains_key("failed_files"), "{error}");
        error.message().to_owned()
    };
    // A file too few, and one too many: nothing shows which is right.
    let mut lacking = written(&files, &parts);
    lacking.fields.get_mut(&VECTOR).unwrap().pop();
    assert!(refused(lacking).contains("rows in group 101"));
    let mut more = written(&files, &parts);
    let again = written(&files, &parts).fields.remove(&VECTOR).unwrap().pop().unwrap();
    more.fields.get_mut(&VECTOR).unwrap().push(again);
    refused(more);
    // The same rows in all, but not file by file.
    let mut swapped = written(&files, &parts);
    swapped.fields.get_mut(&VECTOR).unwrap().reverse();
    refused(swapped);
    let mut without_times = parts.clone();
    for part in &mut without_times {
        part.get_mut(&0).unwrap().retain(|(field, _)| *field != TIMESTAMP_FIELD);
    }
    assert!(refused(written(&files, &without_times)).contains("timestamps"));
    let mut twice = parts.clone();
    for part in &mut twice {
        let times = part[&0].iter().find(|(field, _)| *field == TIMESTAMP_FIELD).unwrap().clone();
        part.get_mut(&VECTOR).unwrap().push(times);
    }
    assert!(refused(written(&files, &twice)).contains("another group"));
    let keys = parts[0][&0][0].clone();
    let unknown = packed(&[(-1, Arc::clone(&keys.1))], EnabledStatistics::Chunk);
    assert!(told(unknown).unwrap_err().contains("nothing tells the field"));
    let same = packed(&[keys.clone(), keys], EnabledStatistics::Chunk);
    assert!(told(same).unwrap_err().contains("two columns of one field"));
}

/// The schema with one more field, which may have nulls.
fn with_note(nullable: bool) -> CollectionSchema {
    let mut described = serde_json::to_value(schema()).unwrap();
    let note = serde_json::json!({"id": 200, "name": "note", "data_type": "varchar", "nullable": nullable});
    described["fields"].as_array_mut().unwrap().push(note);
    serde_json::from_value(described).unwrap()
}

#[test]
fn a_field_that_was_added_later_is_null_in_the_rows_before() {
    let files = some();
    let mut parts = regrouped(&files);
    let late = parts[1][&0][0].1.len();
    let notes: ArrayRef = Arc::new(StringArray::from_iter_values((0..late).map(|row| format!("note {row}"))));
    parts[1].get_mut(&0).unwrap().push((200, notes));
    let schema = with_note(true);
    let segment = Segment::open(written(&files, &parts), &schema).unwrap();
    let rows = segment.rows();
    let batches: Vec<RecordBatch> =
        segment.batches(&schema, &["note"], Living::default(), 64).unwrap().collect::<Result<_, _>>().unwrap();
    let read: Vec<Option<String>> = batches
        .iter()
        .flat_map(|batch| {
            batch["note"].as_string::<i32>().iter().map(|note| note.map(str::to_owned)).collect::<Vec<_>>()
        })
        .collect();
    let nulls = usize::try_from(rows).unwrap() - late;
    assert!(read[..nulls].iter().all(Option::is_none) && read.len() == nulls + late);
    assert_eq!(read[nulls..].iter().flatten().count(), late);
    // Where it may not have nulls, rows are missing.
    let schema = with_note(false);
    let refused =
        Segment::open(written(&files, &parts), &schema).unwrap().batches(&schema, &["note"], Living::default(), 64);
    assert_eq!(refused.err().unwrap().kind(), Kind::BackupCorrupted);
}
