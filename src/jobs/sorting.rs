//! Rows in the order of their keys, whatever order they come in: an external merge sort, in bounded memory.
//!
//! Rows are gathered up to a budget, sorted, and put into a temporary file as one run, in small blocks; then all runs are
//! merged. Where all rows fit into the budget there is no file. Merging holds one block of each run, so that memory
//! grows by 4 MiB for each GiB of rows. The file has no name: whatever ends the process, it leaves nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::Cursor as Bytes;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::vec::IntoIter;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_select::interleave::interleave_record_batch;

use crate::error::{Error, Kind, Result, internal};
use crate::milvus::Key;
use crate::parquet::arrow_bytes;

/// What a block takes, more or less.
const BLOCK_BYTES: u64 = 256 << 10;
/// What a batch of sorted rows takes, more or less.
const BATCH_BYTES: u64 = 4 << 20;
const BATCH_ROWS: usize = 65_536;

/// Gathers rows and sorts them, run by run.
pub(super) struct Sorter {
    key: String,
    budget: u64,
    held: Vec<RecordBatch>,
    bytes: u64,
    runs: Vec<Run>,
    spill: Option<Spill>,
}

/// Where runs go that memory does not hold.
struct Spill {
    file: Arc<File>,
    end: u64,
}

/// Sorted rows, in blocks.
pub(super) struct Run(Vec<Block>);

enum Block {
    Held(RecordBatch),
    Spilled { file: Arc<File>, at: u64, bytes: usize },
}

impl Sorter {
    /// Sorts by the column `key`, of 64-bit integers or of strings, and holds up to about `budget` bytes of rows.
    pub(super) fn new(key: &str, budget: u64) -> Self {
        Self { key: key.to_owned(), budget, held: Vec::new(), bytes: 0, runs: Vec::new(), spill: None }
    }

    /// Takes rows.
    ///
    /// # Errors
    /// [`Kind::InsufficientStorage`] where the folder for temporary files is full.
    pub(super) fn push(&mut self, batch: RecordBatch) -> Result<()> {
        self.bytes += arrow_bytes(&batch);
        self.held.push(batch);
        if self.bytes >= self.budget {
            let blocks = self.sorted()?;
            let mut run = Vec::new();
            for block in blocks {
                run.push(self.spill(&block?)?);
            }
            self.runs.push(Run(run));
            self.held.clear();
            self.bytes = 0;
        }
        Ok(())
    }

    /// All runs, to be [`Merged`].
    pub(super) fn finish(mut self) -> Result<Vec<Run>> {
        if !self.held.is_empty() {
            let blocks = self.sorted()?.map(|block| Ok(Block::Held(block?))).collect::<Result<_>>()?;
            self.runs.push(Run(blocks));
        }
        Ok(self.runs)
    }

    /// What is held, in order, block by block.
    fn sorted(&self) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
        let keys = self.held.iter().map(|batch| Keys::of(batch, &self.key)).collect::<Result<Vec<_>>>()?;
        let mut order: Vec<(usize, usize)> = Vec::with_capacity(keys.iter().map(Keys::len).sum());
        for (at, keys) in keys.iter().enumerate() {
            order.extend((0..keys.len()).map(|row| (at, row)));
        }
        match keys.first() {
            Some(Keys::Int(_)) => order.sort_unstable_by_key(|&(at, row)| (keys[at].int(row), at, row)),
            _ => order.sort_unstable_by(|&(at, row), &(other, place)| {
                (keys[at].text(row), at, row).cmp(&(keys[other].text(place), other, place))
            }),
        }
        let rows = rows_of(BLOCK_BYTES, self.bytes, order.len());
        let held = self.held.clone();
        let starts = (0..order.len()).step_by(rows);
        Ok(starts.map(move |start| gather(&held, &order[start..order.len().min(start + rows)])))
    }

    fn spill(&mut self, block: &RecordBatch) -> Result<Block> {
        let mut bytes = Vec::new();
        let written = StreamWriter::try_new(&mut bytes, &block.schema()).and_then(|mut writer| {
            writer.write(block)?;
            writer.finish()
        });
        written.map_err(|error| internal(format!("rows could not be put aside: {error}")))?;
        let spill = if let Some(spill) = &mut self.spill {
            spill
        } else {
            let file = tempfile::tempfile().map_err(|error| no_room(&error))?;
            self.spill.insert(Spill { file: Arc::new(file), end: 0 })
        };
        spill.file.write_all_at(&bytes, spill.end).map_err(|error| no_room(&error))?;
        let block = Block::Spilled { file: Arc::clone(&spill.file), at: spill.end, bytes: bytes.len() };
        spill.end += bytes.len() as u64;
        Ok(block)
    }
}

fn no_room(error: &std::io::Error) -> Error {
    let folder = std::env::temp_dir();
    let folder = folder.display();
    Error::new(
        Kind::InsufficientStorage,
        format!(
            "rows are sorted in a temporary file in {folder}, which takes as much as they do: {error}. Set TMPDIR to a folder with more room, or read them from the server with source=\"query\""
        ),
    )
    .with("storage_path", folder.to_string())
}

/// How many rows take about `bytes`, where `all` rows take `total`.
fn rows_of(bytes: u64, total: u64, all: usize) -> usize {
    let row = (total / (all as u64).max(1)).max(1);
    usize::try_from(bytes / row).unwrap_or(BATCH_ROWS).clamp(1, BATCH_ROWS)
}

fn gather(batches: &[RecordBatch], rows: &[(usize, usize)]) -> Result<RecordBatch> {
    let batches: Vec<&RecordBatch> = batches.iter().collect();
    interleave_record_batch(&batches, rows).map_err(|error| internal(format!("rows could not be sorted: {error}")))
}

impl Block {
    fn read(self) -> Result<RecordBatch> {
        let (file, at, length) = match self {
            Self::Held(batch) => return Ok(batch),
            Self::Spilled { file, at, bytes } => (file, at, bytes),
        };
        let lost = |error: String| internal(format!("rows that were put aside could not be read back: {error}"));
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, at).map_err(|error| lost(error.to_string()))?;
        let mut batches = StreamReader::try_new(Bytes::new(bytes), None).map_err(|error| lost(error.to_string()))?;
        let batch = batches.next().ok_or_else(|| lost("nothing is there".to_owned()))?;
        batch.map_err(|error| lost(error.to_string()))
    }
}

/// The keys of a batch.
enum Keys {
    Int(Int64Array),
    Text(StringArray),
}

impl Keys {
    fn of(batch: &RecordBatch, name: &str) -> Result<Self> {
        let column: &ArrayRef = batch.column_by_name(name).ok_or_else(|| internal("rows without their keys"))?;
        if let Some(numbers) = column.as_primitive_opt::<Int64Type>() {
            return Ok(Self::Int(numbers.clone()));
        }
        let texts = column.as_string_opt::<i32>().ok_or_else(|| internal("keys of a type that there is none of"))?;
        Ok(Self::Text(texts.clone()))
    }

    fn len(&self) -> usize {
        match self {
            Self::Int(keys) => keys.len(),
            Self::Text(keys) => keys.len(),
        }
    }

    fn int(&self, row: usize) -> i64 {
        match self {
            Self::Int(keys) => keys.value(row),
            Self::Text(_) => 0,
        }
    }

    fn text(&self, row: usize) -> &str {
        match self {
            Self::Int(_) => "",
            Self::Text(keys) => keys.value(row),
        }
    }

    fn key(&self, row: usize) -> Key {
        match self {
            Self::Int(keys) => Key::Int(keys.value(row)),
            Self::Text(keys) => Key::Text(keys.value(row).to_owned()),
        }
    }
}

/// All rows of some runs, in order.
pub(super) struct Merged {
    name: String,
    cursors: Vec<Cursor>,
    /// The next key of each run that has one.
    heads: BinaryHeap<Reverse<(Key, usize)>>,
    last: Option<Key>,
    repeated: Vec<(Key, u64)>,
}

/// How far a run is.
struct Cursor {
    rest: IntoIter<Block>,
    batch: RecordBatch,
    keys: Keys,
    row: usize,
    row_bytes: u64,
}

impl Cursor {
    fn of(mut rest: IntoIter<Block>, key: &str) -> Result<Option<Self>> {
        let Some(first) = rest.next() else { return Ok(None) };
        let batch = first.read()?;
        let keys = Keys::of(&batch, key)?;
        let row_bytes = arrow_bytes(&batch) / keys.len().max(1) as u64;
        Ok(Some(Self { rest, batch, keys, row: 0, row_bytes }))
    }
}

impl Merged {
    /// Merges runs that were sorted by the column `key`.
    pub(super) fn of(runs: Vec<Run>, key: &str) -> Result<Self> {
        let mut merged = Self {
            name: key.to_owned(),
            cursors: Vec::new(),
            heads: BinaryHeap::new(),
            last: None,
            repeated: Vec::new(),
        };
        for Run(blocks) in runs {
            if let Some(cursor) = Cursor::of(blocks.into_iter(), key)? {
                merged.heads.push(Reverse((cursor.keys.key(0), merged.cursors.len())));
                merged.cursors.push(cursor);
            }
        }
        Ok(merged)
    }

    /// Keys that have occurred more than once so far, and how often.
    pub(super) fn repeated(&self) -> &[(Key, u64)] {
        &self.repeated
    }

    fn note(&mut self, key: Key) {
        if self.last.as_ref() == Some(&key) {
            match self.repeated.last_mut() {
                Some((last, times)) if *last == key => *times += 1,
                _ => self.repeated.push((key, 2)),
            }
        } else {
            self.last = Some(key);
        }
    }

    /// The next rows; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<RecordBatch>> {
        // Blocks that rows are taken from, and of each run which of them is its newest.
        let mut blocks: Vec<RecordBatch> = Vec::new();
        let mut newest: Vec<Option<usize>> = vec![None; self.cursors.len()];
        let mut rows: Vec<(usize, usize)> = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES && rows.len() < BATCH_ROWS {
            let Some(Reverse((key, at))) = self.heads.pop() else { break };
            self.note(key);
            let cursor = &mut self.cursors[at];
            let block = *newest[at].get_or_insert_with(|| {
                blocks.push(cursor.batch.clone());
                blocks.len() - 1
            });
            rows.push((block, cursor.row));
            bytes += cursor.row_bytes;
            cursor.row += 1;
            if cursor.row == cursor.keys.len() {
                newest[at] = None;
                let rest = std::mem::take(&mut cursor.rest);
                let Some(next) = Cursor::of(rest, &self.name)? else { continue };
                *cursor = next;
            }
            self.heads.push(Reverse((cursor.keys.key(cursor.row), at)));
        }
        if rows.is_empty() { Ok(None) } else { gather(&blocks, &rows).map(Some) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_schema::{DataType, Field, Schema};
    use proptest::prelude::*;

    fn batch(keys: ArrayRef, first: i64) -> RecordBatch {
        let places: Int64Array = (first..).take(keys.len()).collect();
        let fields = [("key", keys.data_type().clone()), ("place", DataType::Int64)];
        let fields: Vec<_> = fields.into_iter().map(|(name, kind)| Field::new(name, kind, false)).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![keys, Arc::new(places)]).unwrap()
    }

    type Rows = Vec<(Key, i64)>;
    type Repeated = Vec<(Key, u64)>;

    /// Keys and places as they come out, and the keys that repeat.
    fn sorted(batches: Vec<RecordBatch>, budgets: &[u64]) -> (Rows, Repeated) {
        let mut sorters: Vec<Sorter> = budgets.iter().map(|budget| Sorter::new("key", *budget)).collect();
        for (number, batch) in batches.into_iter().enumerate() {
            sorters[number % budgets.len()].push(batch).unwrap();
        }
        let runs = sorters.into_iter().flat_map(|sorter| sorter.finish().unwrap()).collect();
        let mut merged = Merged::of(runs, "key").unwrap();
        let mut rows = Vec::new();
        while let Some(batch) = merged.next().unwrap() {
            assert!(batch.num_rows() > 0);
            let keys = Keys::of(&batch, "key").unwrap();
            let places = batch.column(1).as_primitive::<Int64Type>();
            rows.extend((0..batch.num_rows()).map(|row| (keys.key(row), places.value(row))));
        }
        (rows, merged.repeated().to_vec())
    }

    proptest! {
        /// Whether runs stay in memory or go into files, of two sorters or one.
        #[test]
        fn all_rows_come_in_order_each_with_its_own_values(
            keys in proptest::collection::vec(proptest::collection::vec(-50_i64..50, 0..40), 0..12),
            as_text: bool,
            budgets in proptest::collection::vec(prop_oneof![Just(1_u64), Just(300), Just(u64::MAX)], 1..3),
        ) {
            let mut batches = Vec::new();
            let mut expected = Vec::new();
            for keys in keys {
                let first = i64::try_from(expected.len()).unwrap();
                let key = |number: &i64| if as_text { Key::Text(number.to_string()) } else { Key::Int(*number) };
                expected.extend(keys.iter().zip(first..).map(|(number, place)| (key(number), place)));
                let array: ArrayRef = if as_text {
                    Arc::new(keys.iter().map(|number| Some(number.to_string())).collect::<StringArray>())
                } else {
                    Arc::new(Int64Array::from(keys))
                };
                batches.push(batch(array, first));
            }
            let (mut rows, repeated) = sorted(batches, &budgets);
            prop_assert!(rows.is_sorted_by_key(|(key, _)| key.clone()));
            let mut times = std::collections::BTreeMap::<Key, u64>::new();
            for (key, _) in &rows {
                *times.entry(key.clone()).or_default() += 1;
            }
            prop_assert_eq!(repeated, times.into_iter().filter(|(_, times)| *times > 1).collect::<Vec<_>>());
            rows.sort();
            expected.sort();
            prop_assert_eq!(rows, expected);
        }
    }

    #[test]
    fn nothing_is_sorted_into_nothing() {
        assert_eq!(sorted(Vec::new(), &[1]), (Vec::new(), Vec::new()));
    }
}
