//! What fuzzing begins with: files that Milvus and milvus-backup wrote, from the fixture of the tests, and made ones of
//! the types and forms that those have not.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, StringArray};
use milvault::binlog::metadata::{self, BackupInfo, FieldLogs, SegmentInfo};
use milvault::schema::DataType;

use crate::files::{DELETES, FOOTER, INSERTS, PAGES, PAYLOAD, WHOLE, binlog};
use crate::parquet::{WAYS, numbers, properties, texts, times, values, writable, write};
use crate::pieces::{BARE, FURTHER, Input, Piece};
use crate::shapes::TYPES;
use crate::{KEY, TIMES, VALUE};

/// Where the fixture lies: a backup that milvus-backup made.
const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/milvus-backup/fx_int/");
/// Where an event's Parquet file begins in the fixture's binlogs, behind magic, descriptor and headers, is told by the
/// first of these.
const PARQUET: &[u8] = b"PAR1";
/// Segments of the fixture with so few rows are taken.
const FEW_ROWS: i64 = 20;

/// Slots of the target `segment`.
pub mod slot {
    /// The timestamps.
    pub const TIMES: u8 = 0;
    /// The primary keys.
    pub const KEY: u8 = 1;
    /// The other field's values.
    pub const VALUE: u8 = 2;
    /// Several columns in one file, as storage version 2 has them.
    pub const GROUP: u8 = 3;
    /// Deletes.
    pub const DELETES: u8 = 4;
}

/// Writes the seeds of a target into `seeds/`, beside those of the others.
///
/// # Panics
/// Where the fixture is not there, or nothing can be written.
pub fn write_all(target: &str, inputs: &[Input]) {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "seeds", target].iter().collect();
    std::fs::create_dir_all(&folder).expect("a folder for the seeds");
    for (number, input) in inputs.iter().enumerate() {
        std::fs::write(folder.join(format!("{number:04}")), input.write()).expect("room for the seeds");
    }
}

/// Segments: a file of each type, in each way of writing it, and several columns in one file.
#[must_use]
pub fn segments() -> Vec<Input> {
    let mut inputs = real_segments();
    for (number, (data_type, element)) in (0u8..).zip(TYPES) {
        for (nullable, way) in [false, true].into_iter().flat_map(|nullable| (0..WAYS).map(move |way| (nullable, way)))
        {
            let column = values(data_type, element, nullable);
            if !writable(way, &column) {
                continue;
            }
            let rows = u8::try_from(column.len()).expect("few rows");
            let header = [number, u8::from(nullable) | u8::try_from(way).expect("few ways") << 2, rows, 0];
            let file = write(&[(VALUE, Arc::clone(&column))], properties(way));
            let mut pieces = taken_apart(slot::VALUE, &file);
            if way == 1 {
                pieces.push(Piece { head: slot::DELETES | PAYLOAD, bytes: delta_of_texts(false) });
            }
            inputs.push(Input { header, pieces });
            let group = |columns: &[(i64, ArrayRef)]| write(columns, properties(way));
            let (times, keys) = (times(column.len()), numbers(column.len()));
            let together = group(&[(TIMES, times.clone()), (KEY, keys.clone()), (VALUE, column.clone())]);
            let bare = |slot: u8, bytes: Vec<u8>| Piece { head: slot | PAYLOAD | BARE, bytes };
            inputs.push(Input { header, pieces: vec![bare(slot::GROUP, together)] });
            let pieces = vec![bare(slot::GROUP, group(&[(TIMES, times), (KEY, keys)])), bare(slot::VALUE, file)];
            inputs.push(Input { header, pieces });
        }
    }
    // A file with two events, and keys that are text.
    let file = write(&[(VALUE, values(DataType::Int64, None, false))], properties(0));
    let again = Piece { head: slot::VALUE | PAYLOAD | FURTHER, bytes: file.clone() };
    let pieces = vec![Piece { head: slot::VALUE | PAYLOAD, bytes: file }, again];
    inputs.push(Input { header: [4, 0, 10, 0], pieces: pieces.clone() });
    inputs.push(Input { header: [4, 0b0110, 10, 0], pieces });
    inputs
}

/// The fixture's smaller segments, a field at a time.
fn real_segments() -> Vec<Input> {
    let mut inputs = Vec::new();
    let info = fixture();
    let collection = &info.collection_backups[0];
    for segment in collection.partition_backups.iter().flat_map(|partition| &partition.segment_backups) {
        if segment.num_of_rows > FEW_ROWS {
            continue;
        }
        let rows = u8::try_from(segment.num_of_rows).expect("few rows");
        for file in segment.inserts().expect("files with numbers") {
            let bytes = read(&file.path);
            let payload = payload(&bytes);
            let wanted = match file.field {
                0 => continue,
                TIMES | KEY => (DataType::Int64, None),
                id => collection.schema.fields.iter().find(|field| field.field_id == id).map_or(
                    (DataType::Json, None),
                    |field| {
                        let known = |number| DataType::from_number(number);
                        (known(field.data_type).expect("a known type"), known(field.element_type))
                    },
                ),
            };
            let number = TYPES.iter().position(|known| *known == wanted).expect("a type of the list");
            let header = [u8::try_from(number).expect("few types"), 0, rows, 0];
            inputs.push(Input { header, pieces: taken_apart(slot::VALUE, payload) });
            let whole = Piece { head: slot::VALUE | WHOLE, bytes: binlog(VALUE, INSERTS, payload) };
            inputs.push(Input { header, pieces: vec![whole] });
        }
    }
    inputs
}

/// Logs of deletes: the fixture's, and made ones of each form.
#[must_use]
pub fn deletes() -> Vec<Input> {
    let mut inputs = Vec::new();
    let one = |pieces| Input { header: [0; 4], pieces };
    let info = fixture();
    for partition in &info.collection_backups[0].partition_backups {
        for file in partition.segment_backups.iter().flat_map(|segment| segment.deletes().expect("files with numbers"))
        {
            let bytes = read(&file.path);
            inputs.push(one(taken_apart(0, payload(&bytes))));
            inputs.push(one(vec![Piece { head: WHOLE, bytes }]));
        }
    }
    for way in 0..WAYS - 1 {
        let times = times(4);
        for keys in [numbers(4), texts(4)] {
            inputs.push(one(taken_apart(0, &write(&[(0, keys), (1, times.clone())], properties(way)))));
        }
    }
    for text in [false, true] {
        inputs.push(one(taken_apart(0, &delta_of_texts(text))));
    }
    inputs.push(one(vec![Piece { head: WHOLE, bytes: binlog(-1, DELETES, &delta_of_texts(false)) }]));
    inputs
}

/// A log of deletes that are lines of text, in each of the forms that Milvus has written.
fn delta_of_texts(text_keys: bool) -> Vec<u8> {
    let lines = if text_keys {
        vec![r#"{"pk":"k1","ts":99,"pkType":21}"#, r#"{"pk":"k\"2","ts":10,"pkType":21}"#]
    } else {
        vec![r#"{"pk":1,"ts":99,"pkType":5}"#, r#"{"pk":-3,"ts":10,"pkType":5}"#, "2,11"]
    };
    write(&[(0, Arc::new(StringArray::from(lines)))], properties(0))
}

/// Metadata: the fixture's, whole and little of it, in one file and in four.
#[must_use]
pub fn metadata() -> Vec<Input> {
    let mut inputs = Vec::new();
    for info in [fixture(), small(fixture()), BackupInfo::default()] {
        let files = info.to_files().expect("metadata that JSON has");
        let slot = |name: &str| NAMES.iter().zip(0u8..).find(|(known, _)| **known == name).map_or(0, |(_, slot)| slot);
        let pieces: Vec<Piece> = files.into_iter().map(|(name, bytes)| Piece { head: slot(name), bytes }).collect();
        let (full, levels) = pieces.into_iter().partition(|piece| piece.head == 0);
        inputs.extend([full, levels].map(|pieces| Input { header: [0; 4], pieces }));
    }
    inputs
}

/// The files of metadata, by slot.
pub const NAMES: [&str; 5] = [
    metadata::FULL_FILE,
    metadata::BACKUP_FILE,
    metadata::COLLECTION_FILE,
    metadata::PARTITION_FILE,
    metadata::SEGMENT_FILE,
];

/// Little of each list, and a value for what the fixture leaves out.
fn small(mut info: BackupInfo) -> BackupInfo {
    let collection = &mut info.collection_backups[0];
    collection.schema.fields.retain(|field| [100, 111, 112].contains(&field.field_id));
    collection.schema.fields[1].default_value_base64 = "CAE=".to_owned();
    collection.partition_backups.truncate(1);
    let short = |logs: &mut Vec<FieldLogs>| {
        logs.truncate(2);
        logs.iter_mut().for_each(|field| field.binlogs.truncate(1));
    };
    for segment in &mut collection.partition_backups[0].segment_backups {
        short(&mut segment.binlogs);
        short(&mut segment.statslogs);
    }
    collection.partition_backups[0].segment_backups.truncate(1);
    collection.l0_segments.push(SegmentInfo { segment_id: 5, partition_id: -1, is_l0: true, ..Default::default() });
    collection.aliases.push("other".to_owned());
    info
}

fn fixture() -> BackupInfo {
    serde_json::from_slice(&read(metadata::FULL_FILE)).expect("the fixture's metadata")
}

fn read(path: &str) -> Vec<u8> {
    std::fs::read(Path::new(FIXTURE).join(path)).expect("the fixture")
}

/// The Parquet file of a binlog with one event.
fn payload(bytes: &[u8]) -> &[u8] {
    let at = bytes.windows(PARQUET.len()).position(|window| window == PARQUET).expect("a payload");
    &bytes[at..]
}

/// A Parquet file as two pieces: its pages and its footer.
fn taken_apart(slot: u8, file: &[u8]) -> Vec<Piece> {
    let (rest, end) = file.split_at(file.len() - 8);
    let length = u32::from_le_bytes([end[0], end[1], end[2], end[3]]);
    let (pages, footer) = rest.split_at(rest.len() - usize::try_from(length).expect("a short footer"));
    vec![Piece { head: slot | PAGES, bytes: pages.to_vec() }, Piece { head: slot | FOOTER, bytes: footer.to_vec() }]
}
