//! A segment of arbitrary files: opened, and all its rows read.
//!
//! The header chooses the type of the field that is not the key, the marks of the schema and what is read; how many rows
//! made timestamps and keys have, for inputs that bring none; and the size of batches with how the files are reached.

#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::Array;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use milvault::binlog::newest::Search;
use milvault::binlog::{Deletes, Living, LogFile, Newest, Segment, SegmentFiles};
use milvault::error::Result;
use milvault::schema::CollectionSchema;
use milvault_fuzz::files::{DELETES, INSERTS, assemble, binlog, log};
use milvault_fuzz::parquet::MADE;
use milvault_fuzz::pieces::{Input, mutate};
use milvault_fuzz::seeds::slot;
use milvault_fuzz::shapes::{Marks, schema};
use milvault_fuzz::{KEY, SEGMENT, TIMES, VALUE, seeds, watch};

/// Batches' sizes; 8192 is about what backups read.
const BATCH_ROWS: [usize; 4] = [2, 64, 1000, 8192];
/// Rows that are read of a segment. A few bytes may stand for very many rows, which come as slowly as they are asked for.
const MOST_ROWS: u64 = 200_000;

fuzz_target!(
    init: {
        watch::start();
        std::sync::LazyLock::force(&MADE);
        seeds::write_all("segment", &seeds::segments());
    },
    |data: &[u8]| {
        watch::run(data.len(), || read(data));
    }
);

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| { mutate(data, size, max_size, seed) });

/// An input, as files and how they are read.
struct Reading {
    schema: CollectionSchema,
    columns: Vec<&'static str>,
    fields: BTreeMap<i64, Vec<LogFile>>,
    deletes: Vec<LogFile>,
    at: Option<u64>,
    promised: Option<u64>,
    batch_rows: usize,
}

fn read(data: &[u8]) {
    let reading = Reading::of(&Input::read(data));
    match Deletes::read(&reading.deletes, reading.at) {
        Ok(deletes) => reading.all(&Arc::new(deletes)),
        Err(error) => watch::check(&error),
    }
}

impl Reading {
    fn of(input: &Input) -> Self {
        let [number, marks, rows, how] = input.header;
        let mark = |bits: u8, bit: u8| bits >> bit & 1 == 1;
        let text_key = mark(marks, 1);
        let elsewhere = mark(how, 2);
        let mut fields: BTreeMap<i64, Vec<LogFile>> = BTreeMap::new();
        let mut deletes = Vec::new();
        let files = assemble(&input.pieces, |slot| match field(slot) {
            Some(field) => (field, INSERTS),
            None => (-1, DELETES),
        });
        let group = files.iter().any(|(slot, _)| *slot == slot::GROUP);
        for (index, (slot, bytes)) in files.into_iter().enumerate() {
            let into = field(slot).map_or(&mut deletes, |field| fields.entry(field).or_default());
            into.push(log(format!("file {index}"), bytes, elsewhere));
        }
        // What an input does not bring is made, so that inputs of one file are segments.
        if !group {
            let keys = if text_key { &MADE.texts } else { &MADE.numbers };
            for (field, made) in [(TIMES, &MADE.times), (KEY, keys)] {
                let bytes = binlog(field, INSERTS, &made[usize::from(rows)]);
                fields.entry(field).or_insert_with(|| vec![log(format!("made {field}"), bytes, false)]);
            }
        }
        Self {
            schema: schema(
                number,
                Marks { text_key, nullable: mark(marks, 0), default: mark(marks, 5), dynamic: mark(marks, 6) },
            ),
            columns: if mark(marks, 2) { vec!["pk", "value"] } else { vec!["value"] },
            fields,
            deletes,
            at: mark(marks, 3).then_some(12),
            promised: mark(marks, 4).then_some(u64::from(rows)),
            batch_rows: BATCH_ROWS[usize::from(how & 3)],
        }
    }

    fn open(&self) -> Result<Segment> {
        Segment::open(
            SegmentFiles { segment: SEGMENT, promised: self.promised, fields: self.fields.clone() },
            &self.schema,
        )
    }

    fn all(&self, deletes: &Arc<Deletes>) {
        let living = Living { deletes: Arc::clone(deletes), newest: Arc::default(), at: self.at };
        let read = match self.open().and_then(|segment| self.rows(segment, living.clone())) {
            Ok(read) => read,
            Err(error) => return watch::check(&error),
        };
        // The same rows, counted by their keys and times alone.
        let (newest, rows) = match self.newest(deletes) {
            Ok(found) => found,
            Err(error) => return watch::check(&error),
        };
        assert!(read.is_none_or(|read| read == rows), "{read:?} rows were read, {rows} live");
        let older = newest.older_rows();
        let newest = Living { newest: Arc::new(newest), ..living };
        match self.open().and_then(|segment| self.rows(segment, newest)) {
            Ok(of_keys) => {
                assert!(of_keys.is_none_or(|of_keys| of_keys == rows - older), "{of_keys:?} of {rows} - {older}")
            }
            Err(error) => watch::check(&error),
        }
    }

    fn newest(&self, deletes: &Arc<Deletes>) -> Result<(Newest, u64)> {
        let mut search = Search::default();
        while search.goes_on() {
            search.take(self.open()?, &self.schema, Arc::clone(deletes), self.at)?;
            search.turn();
        }
        Ok(search.found())
    }

    /// How many rows there are; `None` where there are more than are read.
    fn rows(&self, segment: Segment, living: Living) -> Result<Option<u64>> {
        let promised = segment.rows();
        let all = self.at.is_none() && living.deletes.is_empty() && living.newest.is_empty();
        let mut batches = segment.batches(&self.schema, &self.columns, living, self.batch_rows)?;
        let mut read = 0;
        while let Some(batch) = batches.next() {
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => {
                    assert!(batches.next().is_none(), "there are rows after an error");
                    return Err(error);
                }
            };
            assert!((1..=self.batch_rows).contains(&batch.num_rows()), "a batch of {} rows", batch.num_rows());
            for column in batch.columns() {
                column.to_data().validate_full().expect("columns that Arrow's rules allow");
            }
            read += batch.num_rows() as u64;
            if read > MOST_ROWS {
                return Ok(None);
            }
        }
        assert!(read <= promised, "{read} rows came of {promised}");
        assert!(read == promised || !all, "{read} rows came of {promised}");
        Ok(Some(read))
    }
}

/// The field that a slot's files are of; `None` for deletes.
fn field(slot: u8) -> Option<i64> {
    match slot {
        slot::TIMES => Some(TIMES),
        slot::KEY => Some(KEY),
        slot::GROUP => Some(0),
        slot::DELETES => None,
        _ => Some(VALUE),
    }
}
