//! A real backup by milvus-backup against what the server itself said of its rows.
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::sync::Arc;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int64Type};
use serde_json::Value;

use super::event::EventKind;
use super::metadata::{self, BackupInfo, SegmentInfo};
use super::newest::Search;
use super::*;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/milvus-backup/fx_int");

/// When the last of its rows were written.
const LAST: u64 = 470_611_627_054_465_025;

pub(super) fn info() -> BackupInfo {
    serde_json::from_slice(&fs::read(format!("{FIXTURE}/{}", metadata::FULL_FILE)).unwrap()).unwrap()
}

fn logs(folder: &str, logs: &[metadata::Log]) -> Vec<LogFile> {
    let file = |log: &metadata::Log| {
        let path = format!("{folder}/{}", log.log_id);
        LogFile { source: File::open(format!("{FIXTURE}/{path}")).unwrap().into(), path }
    };
    logs.iter().map(file).collect()
}

pub(super) fn files(info: &SegmentInfo) -> (SegmentFiles, Vec<LogFile>) {
    let below = format!("{}/{}/{}/{}", info.collection_id, info.partition_id, info.group_id, info.segment_id);
    let fields = info
        .binlogs
        .iter()
        .map(|field| (field.field_id, logs(&format!("binlogs/insert_log/{below}/{}", field.field_id), &field.binlogs)));
    let files = SegmentFiles {
        segment: info.segment_id,
        promised: u64::try_from(info.num_of_rows).ok(),
        fields: fields.collect(),
    };
    let deltas = info.deltalogs.iter().flat_map(|field| logs(&format!("binlogs/delta_log/{below}"), &field.binlogs));
    (files, deltas.collect())
}

fn expected() -> BTreeMap<i64, Value> {
    let packed = fs::read(format!("{FIXTURE}.expected.jsonl.gz")).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(&*packed).read_to_string(&mut text).unwrap();
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|row| (row["pk"].as_i64().unwrap(), row))
        .collect()
}

/// Numbers that were widened from 32 bits, as 32 bits again.
#[allow(clippy::cast_possible_truncation)]
fn floats(list: &Value) -> Vec<f32> {
    list.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

/// Compares the rows that live in all segments, each with the files that `arranged` makes of the real ones.
pub(super) fn assert_rows_that_lived(arranged: impl Fn((SegmentFiles, Vec<LogFile>)) -> (SegmentFiles, Vec<LogFile>)) {
    let info = info();
    let collection = description::collection(&info.collection_backups[0]).unwrap();
    let names: Vec<&str> = collection.schema.fields.iter().map(|field| &*field.name).collect();
    let mut expected = expected();
    assert_eq!(expected.len(), 1882);
    for partition in &info.collection_backups[0].partition_backups {
        for segment in &partition.segment_backups {
            let (files, deltas) = arranged(files(segment));
            let living = Living { deletes: Arc::new(Deletes::read(&deltas, None).unwrap()), ..Living::default() };
            let segment = Segment::open(files, &collection.schema).unwrap();
            for batch in segment.batches(&collection.schema, &names, living, 100).unwrap() {
                let batch = batch.unwrap();
                let keys = batch["pk"].as_primitive::<Int64Type>();
                for row in 0..batch.num_rows() {
                    let wanted = expected.remove(&keys.value(row)).expect("a row that lived, once");
                    assert_eq!(wanted["_partition"], partition.partition_name);
                    assert_eq!(wanted["name"], batch["name"].as_string::<i32>().value(row));
                    let vector = batch["vec"].as_fixed_size_list().value(row);
                    assert_eq!(*vector.as_primitive::<Float32Type>().values(), floats(&wanted["vec"]));
                    let json: Value = serde_json::from_str(batch["j"].as_string::<i32>().value(row)).unwrap();
                    assert_eq!(wanted["j"], json);
                    let dynamic: Value = serde_json::from_str(batch["$meta"].as_string::<i32>().value(row)).unwrap();
                    assert_eq!(wanted["gen"], dynamic["gen"]);
                    let list = batch["arr_s"].as_list::<i32>().value(row);
                    let list: Vec<&str> = list.as_string::<i32>().iter().flatten().collect();
                    assert_eq!(wanted["arr_s"], serde_json::json!(list));
                }
            }
        }
    }
    assert!(expected.is_empty(), "{} rows did not come", expected.len());
}

#[test]
fn a_real_backup_gives_exactly_the_rows_that_lived() {
    assert_rows_that_lived(|files| files);
}

/// A file as the compaction of later versions writes it: no event says where the next one is, and nothing when its rows
/// were written.
fn untimed(log: &LogFile) -> LogFile {
    let mut bytes = fs::read(log.path.replace("binlogs", &format!("{FIXTURE}/binlogs"))).unwrap();
    bytes[53..69].fill(0);
    let mut at = 4;
    while at < bytes.len() {
        let length = i32::from_le_bytes(bytes[at + 9..at + 13].try_into().unwrap());
        if at > 4 {
            bytes[at + 13..at + 17].copy_from_slice(&(-1i32).to_le_bytes());
        }
        at += usize::try_from(length).unwrap();
    }
    LogFile { path: log.path.clone(), source: bytes::Bytes::from(bytes).into() }
}

#[test]
fn files_that_do_not_say_when_their_rows_were_written_give_the_same_rows() {
    assert_rows_that_lived(|(files, deltas)| {
        let fields = files.fields.iter().map(|(field, logs)| (*field, logs.iter().map(untimed).collect()));
        (SegmentFiles { fields: fields.collect(), ..files }, deltas.iter().map(untimed).collect())
    });
}

#[test]
fn of_files_that_do_not_say_it_the_rows_and_deletes_tell_the_latest_time_and_what_came_later() {
    let info = info();
    let collection = &info.collection_backups[0];
    let schema = description::collection(collection).unwrap().schema;
    for segment in collection.partition_backups.iter().flat_map(|partition| &partition.segment_backups) {
        let (files, deltas) = files(segment);
        let inserts = files.fields[&1].iter().map(|log| (log, EventKind::Insert));
        for (log, kind) in inserts.chain(deltas.iter().map(|log| (log, EventKind::Delete))) {
            let said = latest(log, kind).unwrap();
            assert_eq!((latest(&untimed(log), kind).unwrap(), said >> 40), (said, LAST >> 40));
        }
        assert_eq!(latest(&untimed(&files.fields[&100][0]), EventKind::Insert).unwrap(), 0);
        // At a time before its last row it has fewer.
        let at = latest(&files.fields[&1][0], EventKind::Insert).unwrap() - 1;
        let rows = |files: SegmentFiles| {
            let living = Living { at: Some(at), ..Living::default() };
            let batches = Segment::open(files, &schema).unwrap().batches(&schema, &["pk"], living, 100).unwrap();
            batches.map(|batch| batch.unwrap().num_rows() as u64).sum::<u64>()
        };
        let fields = files.fields.iter().map(|(field, logs)| (*field, logs.iter().map(untimed).collect())).collect();
        let without = rows(SegmentFiles { fields, ..files });
        assert_eq!(without, rows(super::tests::files(segment).0));
        assert!(without < segment.num_of_rows.cast_unsigned());
    }
}

#[test]
fn a_segment_that_is_promised_no_rows_may_have_no_files() {
    let schema = description::collection(&info().collection_backups[0]).unwrap().schema;
    for fields in [BTreeMap::new(), BTreeMap::from([(1, Vec::new()), (100, Vec::new())])] {
        let open = |promised| Segment::open(SegmentFiles { segment: 7, promised, fields: fields.clone() }, &schema);
        let batches = open(Some(0)).unwrap().batches(&schema, &["pk"], Living::default(), 100).unwrap();
        assert_eq!(batches.count(), 0);
        let search = Search::default();
        search.take(open(Some(0)).unwrap(), &schema, Arc::default(), Some(7)).unwrap();
        assert_eq!(search.found().1, 0);
        assert!(open(Some(1)).is_err());
    }
}

#[test]
fn rows_that_live_are_counted_by_keys_and_times_alone() {
    let info = info();
    let collection = description::collection(&info.collection_backups[0]).unwrap();
    let mut living = BTreeMap::new();
    for partition in &info.collection_backups[0].partition_backups {
        for segment in &partition.segment_backups {
            let (mut files, deltas) = files(segment);
            files.fields.retain(|field, _| [1, 100].contains(field));
            let deletes = Arc::new(Deletes::read(&deltas, None).unwrap());
            let search = Search::default();
            let segment = Segment::open(files, &collection.schema).unwrap();
            search.take(segment, &collection.schema, deletes, None).unwrap();
            *living.entry(partition.partition_name.as_str()).or_default() += search.found().1;
        }
    }
    let mut wanted = BTreeMap::new();
    for row in expected().values() {
        *wanted.entry(row["_partition"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(living, wanted.iter().map(|(name, rows)| (name.as_str(), *rows)).collect::<BTreeMap<_, u64>>());
}

#[test]
fn of_rows_that_share_a_key_the_newest_comes_and_no_other() {
    let info = info();
    let schema = description::collection(&info.collection_backups[0]).unwrap().schema;
    let segment = &info.collection_backups[0].partition_backups[0].segment_backups[0];
    // Two segments of the same rows, deletes and all: of each key one row has to come, and from the first of them.
    let again = || {
        let (mut again, _) = files(segment);
        again.segment += 1;
        for log in again.fields.values_mut().flatten() {
            let mut bytes = fs::read(log.path.replace("binlogs", &format!("{FIXTURE}/binlogs"))).unwrap();
            bytes[37..45].copy_from_slice(&again.segment.to_le_bytes());
            log.source = bytes::Bytes::from(bytes).into();
        }
        again
    };
    let deletes = Arc::new(Deletes::read(&files(segment).1, None).unwrap());
    let both = || [files(segment).0, again()];
    let mut search = Search::default();
    while search.goes_on() {
        for files in both() {
            search.take(Segment::open(files, &schema).unwrap(), &schema, Arc::clone(&deletes), None).unwrap();
        }
        search.turn();
    }
    let (newest, rows) = search.found();
    let living = Living { deletes, newest: Arc::new(newest), at: None };
    let count = |columns: &[&str], files: SegmentFiles| {
        let batches = Segment::open(files, &schema).unwrap().batches(&schema, columns, living.clone(), 100).unwrap();
        batches.map(|batch| batch.unwrap().num_rows() as u64).sum::<u64>()
    };
    for columns in [&["pk", "name"][..], &["name"], &[]] {
        assert_eq!(both().map(|files| count(columns, files)), [rows / 2, 0], "{columns:?}");
    }
    assert_eq!(living.newest.older_rows(), rows / 2);
    assert!(rows > 100 && rows < 2 * segment.num_of_rows.cast_unsigned(), "some of its rows were deleted");
}

#[test]
fn a_field_with_a_file_more_or_less_is_named_unless_it_is_plain_which_one_is_left_over() {
    let info = info();
    let segment = &info.collection_backups[0].partition_backups[0].segment_backups[0];
    let other = &info.collection_backups[0].partition_backups[0].segment_backups[1];
    let schema = description::collection(&info.collection_backups[0]).unwrap().schema;
    // A file is missing: nothing shows which rows are right.
    let (mut lacking, _) = files(segment);
    lacking.fields.insert(107, Vec::new());
    let error = Segment::open(lacking, &schema).err().unwrap();
    assert!(error.message().contains("0 rows in field 107"), "{error}");
    // Another segment's file is told by what it says of itself.
    let (mut foreign, _) = files(segment);
    foreign.fields.insert(107, files(other).0.fields.remove(&107).unwrap());
    assert!(Segment::open(foreign, &schema).is_err());
    // A file that only one field has, beside those that make up the rows, is left of an upload that was tried again.
    let (mut more, _) = files(segment);
    let part = fs::read(more.fields[&107][0].path.replace("binlogs", &format!("{FIXTURE}/binlogs"))).unwrap();
    let mut orphan = part.clone();
    orphan[53] ^= 1; // another first timestamp
    more.fields
        .get_mut(&107)
        .unwrap()
        .push(LogFile { path: "orphan".into(), source: bytes::Bytes::from(orphan).into() });
    let opened = Segment::open(more, &schema).unwrap();
    assert_eq!((opened.orphans(), opened.rows()), (&["orphan".to_owned()][..], segment.num_of_rows.cast_unsigned()));
    // Where no field has files at all, or the keys that deletes are matched by have none, rows are lost.
    let nothing = SegmentFiles { segment: segment.segment_id, promised: Some(3), fields: BTreeMap::new() };
    assert_eq!(Segment::open(nothing, &schema).err().unwrap().kind(), crate::error::Kind::BackupCorrupted);
    let (mut keyless, deltas) = files(segment);
    keyless.fields.remove(&100);
    let deletes = Arc::new(Deletes::read(&deltas, None).unwrap());
    let living = Search::default().take(Segment::open(keyless, &schema).unwrap(), &schema, deletes, None);
    assert_eq!(living.unwrap_err().kind(), crate::error::Kind::BackupCorrupted);
    // With the same rows twice, nothing shows which are right.
    let (mut twice, _) = files(segment);
    twice.fields.get_mut(&107).unwrap().push(LogFile { path: "again".into(), source: bytes::Bytes::from(part).into() });
    assert!(Segment::open(twice, &schema).is_err());
}

#[test]
fn a_field_that_may_have_nulls_can_lack_the_first_files_and_no_others() {
    let info = info();
    let segment = &info.collection_backups[0].partition_backups[0].segment_backups[0];
    let mut described = serde_json::to_value(description::collection(&info.collection_backups[0]).unwrap()).unwrap();
    let fields = described["fields"].as_array_mut().unwrap();
    let field = fields.iter_mut().find(|field| field["id"] == 107).unwrap();
    field["nullable"] = true.into();
    let name = field["name"].as_str().unwrap().to_owned();
    let schema: crate::schema::Collection = serde_json::from_value(described).unwrap();
    let (mut twice, _) = files(segment);
    // Every field's file twice, the second time with another first timestamp: a segment of two files.
    for logs in twice.fields.values_mut() {
        let mut again = fs::read(logs[0].path.replace("binlogs", &format!("{FIXTURE}/binlogs"))).unwrap();
        again[53] ^= 1;
        logs.push(LogFile { path: "again".into(), source: bytes::Bytes::from(again).into() });
    }
    let rows = segment.num_of_rows.cast_unsigned();
    let with = |keep: usize| {
        let mut fields = twice.fields.clone();
        let kept = fields.remove(&107).unwrap().swap_remove(keep);
        fields.insert(107, vec![kept]);
        SegmentFiles { segment: twice.segment, promised: Some(2 * rows), fields }
    };
    let read = Segment::open(with(1), &schema.schema).unwrap();
    let batches = read.batches(&schema.schema, &[&name], Living::default(), 64).unwrap();
    let nulls: Vec<bool> = batches
        .flat_map(|batch| {
            let column = Arc::clone(batch.unwrap().column(0));
            (0..column.len()).map(|row| column.is_null(row)).collect::<Vec<_>>()
        })
        .collect();
    let first = usize::try_from(rows).unwrap();
    assert!(nulls.len() == 2 * first && nulls[..first].iter().all(|null| *null) && !nulls[first..].contains(&true));
    assert!(Segment::open(with(0), &schema.schema).is_err());
}

/// A file of deletes whose rows, so many, are null, in a column of bytes of this width (numbers where it is none).
fn nulls(width: Option<i32>, rows: usize) -> LogFile {
    use parquet::basic::{Repetition, Type as Physical};
    use parquet::data_type::{FixedLenByteArrayType, Int64Type as Numbers};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::types::Type;
    let physical = if width.is_some() { Physical::FIXED_LEN_BYTE_ARRAY } else { Physical::INT64 };
    let column = Type::primitive_type_builder("val", physical)
        .with_length(width.unwrap_or(-1))
        .with_repetition(Repetition::OPTIONAL)
        .build()
        .unwrap();
    let schema = Type::group_type_builder("schema").with_fields(vec![Arc::new(column)]).build().unwrap();
    let properties = WriterProperties::builder()
        .set_data_page_row_count_limit(rows)
        .set_write_batch_size(rows)
        .set_compression(parquet::basic::Compression::ZSTD(parquet::basic::ZstdLevel::default()));
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties.build())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let levels = vec![0; rows];
    match width {
        Some(_) => column.typed::<FixedLenByteArrayType>().write_batch(&[], Some(&levels), None).unwrap(),
        None => column.typed::<Numbers>().write_batch(&[], Some(&levels), None).unwrap(),
    };
    column.close().unwrap();
    group.close().unwrap();
    let payload = writer.into_inner().unwrap();
    let mut bytes = 0x00ff_fabc_u32.to_le_bytes().to_vec();
    for (kind, data) in [(0, &[0; 64][..]), (2, &[&[0; 16], &payload[..]].concat())] {
        let length = i32::try_from(17 + data.len()).unwrap();
        let next = i32::try_from(bytes.len()).unwrap() + length;
        bytes.extend([0; 8]);
        bytes.push(kind);
        bytes.extend([length.to_le_bytes(), next.to_le_bytes()].concat());
        bytes.extend(data);
    }
    LogFile { path: "delta".to_owned(), source: bytes::Bytes::from(bytes).into() }
}

/// What a few bytes claim to hold is not made room for.
#[test]
fn claims_that_a_file_is_too_short_for_are_refused() {
    let read = |file| Deletes::read(&[file], None).unwrap_err();
    let wide = read(nulls(Some(i32::MAX), 10_000));
    assert!(wide.message().contains("wider than any vector"), "{wide}");
    let many = read(nulls(None, 6_000_000));
    assert!(many.message().contains("claims 6000000 rows"), "{many}");
    // As wide and as many as may be: read to the end, and then no deletes.
    for file in [nulls(Some(1 << 20), 200), nulls(None, 4_000_000)] {
        let other = read(file);
        assert!(other.message().contains("of a form that is not known"), "{other}");
    }
}

proptest::proptest! {
    /// Whatever happens to a file's bytes, the answer is rows or an error that names it.
    #[test]
    fn damaged_files_never_panic(at in 0usize..2400, byte: u8, cut in 0usize..2400) {
        let info = info();
        let segment = &info.collection_backups[0].partition_backups[0].segment_backups[0];
        let collection = description::collection(&info.collection_backups[0]).unwrap();
        for field in [100, 101, 102, 109, 111] {
            let (mut files, _) = files(segment);
            let path = files.fields[&field][0].path.clone();
            let mut bytes = fs::read(path.replace("binlogs", &format!("{FIXTURE}/binlogs"))).unwrap();
            let length = bytes.len();
            bytes[at % length] ^= byte;
            bytes.truncate(length - if byte.is_multiple_of(4) { cut % length } else { 0 });
            files.fields.insert(field, vec![LogFile { path, source: bytes::Bytes::from(bytes).into() }]);
            let name = collection.schema.fields.iter().find(|known| known.id == field).unwrap().name.clone();
            let read = Segment::open(files, &collection.schema)
                .and_then(|segment| segment.batches(&collection.schema, &[&name], Living::default(), 64)?.collect::<crate::error::Result<Vec<_>>>());
            if let Err(error) = read {
                proptest::prop_assert!(error.details().contains_key("failed_files"), "{error}");
            }
        }
    }
}
