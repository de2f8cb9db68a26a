//! Which keys were deleted when, as delta logs tell it.
//!
//! A row lives at a time *t* if it was written by then, and no delete of its key came after the row and by *t*. "After"
//! is strict, since an upsert writes its delete and its new row with one timestamp. So of each key the latest delete is
//! all that counts. Milvus writes deletes of keys that a segment does not hold; they change nothing.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use serde::Deserialize;

use super::LogFile;
use super::event::{EventKind, damaged};
use super::payload::LogReader;
use crate::error::Result;

/// Rows of a delta log that are decoded at once.
const BATCH_ROWS: usize = 8192;

/// The latest delete of each key, as hybrid timestamps.
#[derive(Debug, Default, PartialEq)]
pub struct Deletes {
    numbers: HashMap<i64, u64>,
    texts: HashMap<Box<str>, u64>,
    /// Those that hold for other segments too; held once, however many segments there are.
    shared: Vec<Arc<Deletes>>,
}

/// One deleted key as Milvus 2.3 to 2.4 write it; earlier versions wrote `key,timestamp`.
#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    pk: Pk<'a>,
    ts: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Pk<'a> {
    Number(i64),
    #[serde(borrow)]
    Text(std::borrow::Cow<'a, str>),
}

impl Deletes {
    /// Reads delta logs, and keeps what was deleted up to `at` (all where there is none).
    ///
    /// # Errors
    /// [`crate::error::Kind::BackupCorrupted`] with `failed_files`; [`crate::error::Kind::Storage`].
    pub fn read(files: &[LogFile], at: Option<u64>) -> Result<Self> {
        let mut deletes = Self::default();
        files.iter().try_for_each(|file| deletes.add(file, at))?;
        Ok(deletes)
    }

    /// Adds those of one more delta log, as [`Deletes::read`].
    ///
    /// # Errors
    /// As [`Deletes::read`].
    pub fn add(&mut self, file: &LogFile, at: Option<u64>) -> Result<()> {
        let mut batches = LogReader::open(&file.source, EventKind::Delete, &file.path)?.batches(BATCH_ROWS);
        while let Some(batch) = batches.next()? {
            let taken = match batch.columns() {
                [rows] => self.take_texts(rows, at),
                // Read: since 2.5 keys and timestamps are columns.
                [keys, times] => self.take_columns(keys, times, at),
                _ => None,
            };
            taken.ok_or_else(|| damaged(&file.path, "holds deletes of a form that is not known"))?;
        }
        Ok(())
    }

    fn take_texts(&mut self, rows: &ArrayRef, at: Option<u64>) -> Option<()> {
        for row in rows.as_string_opt::<i32>()? {
            let text = row?;
            if text.starts_with('{') {
                let row: Row<'_> = serde_json::from_str(text).ok()?;
                match row.pk {
                    Pk::Number(key) => self.take_number(key, row.ts, at),
                    Pk::Text(key) => self.take_text(&key, row.ts, at),
                }
            } else {
                let (key, time) = text.rsplit_once(',')?;
                self.take_number(key.parse().ok()?, time.parse().ok()?, at);
            }
        }
        Some(())
    }

    fn take_columns(&mut self, keys: &ArrayRef, times: &ArrayRef, at: Option<u64>) -> Option<()> {
        let times = times.as_primitive_opt::<Int64Type>()?;
        if let Some(numbers) = keys.as_primitive_opt::<Int64Type>() {
            for (key, time) in numbers.iter().zip(times) {
                self.take_number(key?, time?.cast_unsigned(), at);
            }
        } else {
            for (key, time) in keys.as_string_opt::<i32>()?.iter().zip(times) {
                self.take_text(key?, time?.cast_unsigned(), at);
            }
        }
        Some(())
    }

    fn take_number(&mut self, key: i64, time: u64, at: Option<u64>) {
        if at.is_none_or(|at| time <= at) {
            let latest = self.numbers.entry(key).or_default();
            *latest = (*latest).max(time);
        }
    }

    fn take_text(&mut self, key: &str, time: u64, at: Option<u64>) {
        if at.is_some_and(|at| time > at) {
            return;
        }
        match self.texts.get_mut(key) {
            Some(latest) => *latest = (*latest).max(time),
            None => {
                self.texts.insert(key.into(), time);
            }
        }
    }

    /// These, and those of other sets, which are not copied.
    #[must_use]
    pub fn with(mut self, others: impl IntoIterator<Item = Arc<Self>>) -> Self {
        self.shared.extend(others.into_iter().filter(|other| !other.is_empty()));
        self
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty() && self.texts.is_empty() && self.shared.is_empty()
    }

    /// How many keys there are, without those of other sets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.numbers.len() + self.texts.len()
    }

    /// When the last of them came; 0 where there are none.
    #[must_use]
    pub fn latest(&self) -> u64 {
        let own = self.numbers.values().chain(self.texts.values()).copied();
        own.chain(self.shared.iter().map(|other| other.latest())).max().unwrap_or(0)
    }

    /// Of each row, whether it was deleted after it was written.
    pub(super) fn mask(&self, keys: &ArrayRef, times: &[u64]) -> Option<Vec<bool>> {
        let mut mask = vec![false; keys.len()];
        self.mark(keys, times, &mut mask)?;
        Some(mask)
    }

    /// Marks the rows that were deleted after they were written.
    fn mark(&self, keys: &ArrayRef, times: &[u64], mask: &mut [bool]) -> Option<()> {
        let rows = times.iter().zip(mask.iter_mut());
        if let Some(numbers) = keys.as_primitive_opt::<Int64Type>() {
            if !self.numbers.is_empty() {
                let is_deleted = |key, time| self.numbers.get(key).is_some_and(|deleted| deleted > time);
                numbers.values().iter().zip(rows).for_each(|(key, (time, mark))| *mark |= is_deleted(key, time));
            }
        } else {
            let texts = keys.as_string_opt::<i32>()?;
            if !self.texts.is_empty() {
                let is_deleted = |row, time| self.texts.get(texts.value(row)).is_some_and(|deleted| deleted > time);
                rows.enumerate().for_each(|(row, (time, mark))| *mark |= is_deleted(row, time));
            }
        }
        self.shared.iter().try_for_each(|other| other.mark(keys, times, mask))
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{Int64Array, StringArray};

    use super::*;

    fn texts(rows: &[&str]) -> ArrayRef {
        Arc::new(StringArray::from(rows.to_vec()))
    }

    #[test]
    fn the_latest_delete_up_to_a_time_counts_and_only_for_rows_written_before_it() {
        let mut deletes = Deletes::default();
        let rows = texts(&[r#"{"pk":1,"ts":10,"pkType":5}"#, r#"{"pk":1,"ts":30,"pkType":5}"#, "2,20"]);
        deletes.take_texts(&rows, Some(25)).unwrap();
        let keys: ArrayRef = Arc::new(Int64Array::from(vec![1, 1, 1, 2, 3]));
        let mask = deletes.mask(&keys, &[9, 10, 11, 19, 1]).unwrap();
        assert_eq!(mask, [true, false, false, true, false]);
    }

    #[test]
    fn keys_of_text_are_found_with_quotes_and_commas_in_them() {
        let mut deletes = Deletes::default();
        deletes.take_texts(&texts(&[r#"{"pk":"a,\"b\" é","ts":5,"pkType":21}"#]), None).unwrap();
        deletes.take_columns(&texts(&["x"]), &(Arc::new(Int64Array::from(vec![7])) as ArrayRef), None).unwrap();
        assert_eq!(deletes.mask(&texts(&["a,\"b\" é", "x", "y"]), &[4, 7, 1]).unwrap(), [true, false, false]);
        assert_eq!(deletes.len(), 2);
    }

    #[test]
    fn of_several_sets_each_counts() {
        let set = |rows: &[&str]| {
            let mut deletes = Deletes::default();
            deletes.take_texts(&texts(rows), None).unwrap();
            deletes
        };
        let shared = Arc::new(set(&["1,30", "2,10"]).with([Arc::new(set(&["3,40"]))]));
        let deletes = set(&["1,20", "4,20"]).with([Arc::default(), shared]);
        let keys: ArrayRef = Arc::new(Int64Array::from(vec![1, 1, 2, 3, 3, 4, 5]));
        let mask = deletes.mask(&keys, &[29, 30, 9, 39, 40, 19, 0]).unwrap();
        assert_eq!(mask, [true, false, true, true, false, true, false]);
        assert_eq!((deletes.latest(), deletes.is_empty()), (40, false));
        assert!(Deletes::default().with([Arc::default()]).is_empty());
    }

    #[test]
    fn what_is_no_delete_is_refused() {
        for row in ["{", "{\"pk\":1}", "1", "x,y", "{\"pk\":1.5,\"ts\":1}"] {
            assert!(Deletes::default().take_texts(&texts(&[row]), None).is_none(), "{row}");
        }
    }
}
