//! Which row of a key is the newest, where several rows share it.
//!
//! Milvus's Insert does not ask whether a key is there, and 2.3.5 loses the delete half of an upsert that races its
//! compaction. Then several rows of a key live, and which one a query shows is chance: 2.3.5 showed another after each
//! load of two segments, and of one segment the oldest. Here the one with the latest timestamp counts, and of those with
//! the same one, written by one request, the first.
//!
//! Keys are looked for without holding them. A first pass holds a hash of each; where they are more than fit, a pass each
//! for every half, quarter, eighth of them. A last pass, where hashes came twice, tells rows apart by their keys.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::deletes::Deletes;
use super::segment::{KeyBatch, Segment};
use crate::error::{Result, internal};
use crate::schema::CollectionSchema;

/// Hashes that are held at once, of 8 bytes each.
const MOST_HASHES: usize = 8 << 20;

/// Of each key that several rows share, the row that counts. Takes some 60 bytes a key, and its text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Newest {
    numbers: HashMap<i64, Row>,
    texts: HashMap<Box<str>, Row>,
}

/// The newest row of a key so far, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Row {
    time: u64,
    segment: i64,
    /// Which row of its segment it is.
    index: u64,
    rows: u64,
}

impl Row {
    fn or_newer(&mut self, other: Self) {
        // Rows come in any order.
        let place = |row: &Self| (Reverse(row.time), row.segment, row.index);
        let rows = self.rows + 1;
        if place(&other) < place(self) {
            *self = other;
        }
        self.rows = rows;
    }
}

impl Newest {
    /// Whether no key has several rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty() && self.texts.is_empty()
    }

    /// How many rows do not count, as there are newer ones of their keys.
    #[must_use]
    pub fn older_rows(&self) -> u64 {
        self.numbers.values().chain(self.texts.values()).map(|row| row.rows - 1).sum()
    }

    /// The lowest keys that have several rows, as JSON, and how many each has.
    #[must_use]
    pub fn examples(&self, most: usize) -> Vec<(Value, u64)> {
        fn lowest<'a, K: Ord + ?Sized>(keys: impl Iterator<Item = (&'a K, u64)>, most: usize) -> Vec<(&'a K, u64)> {
            let mut lowest = BTreeSet::new();
            for key in keys {
                lowest.insert(key);
                if lowest.len() > most {
                    lowest.pop_last();
                }
            }
            lowest.into_iter().collect()
        }
        let numbers = lowest(self.numbers.iter().map(|(key, row)| (key, row.rows)), most);
        let texts = lowest(self.texts.iter().map(|(key, row)| (&**key, row.rows)), most);
        let numbers = numbers.into_iter().map(|(key, rows)| (Value::from(*key), rows));
        numbers.chain(texts.into_iter().map(|(key, rows)| (Value::from(key), rows))).collect()
    }

    /// Of each row of a segment from the row `first` on, whether a newer one of its key counts in its place.
    pub(super) fn mask(&self, keys: &ArrayRef, segment: i64, first: u64) -> Option<Vec<bool>> {
        let older = |(newest, at): (Option<&Row>, u64)| {
            newest.is_some_and(|newest| (newest.segment, newest.index) != (segment, at))
        };
        if let Some(numbers) = keys.as_primitive_opt::<Int64Type>() {
            return Some(numbers.values().iter().map(|key| self.numbers.get(key)).zip(first..).map(older).collect());
        }
        let texts = keys.as_string_opt::<i32>()?;
        let newest = (0..texts.len()).map(|row| self.texts.get(texts.value(row)));
        Some(newest.zip(first..).map(older).collect())
    }

    fn see(&mut self, batch: &KeyBatch, segment: i64, is_shared: impl Fn(u64) -> bool) -> Option<()> {
        let at = |index: usize| Row { time: batch.times[index], segment, index: batch.first + index as u64, rows: 1 };
        let chosen = hashes(&batch.keys)?.enumerate().filter(|(index, hash)| batch.lives[*index] && is_shared(*hash));
        let chosen = chosen.map(|(index, _)| index);
        if let Some(numbers) = batch.keys.as_primitive_opt::<Int64Type>() {
            for index in chosen {
                let seen = self.numbers.entry(numbers.value(index));
                seen.and_modify(|newest| newest.or_newer(at(index))).or_insert_with(|| at(index));
            }
        } else {
            let texts = batch.keys.as_string_opt::<i32>()?;
            for index in chosen {
                match self.texts.get_mut(texts.value(index)) {
                    Some(newest) => newest.or_newer(at(index)),
                    None => {
                        self.texts.insert(texts.value(index).into(), at(index));
                    }
                }
            }
        }
        Some(())
    }

    /// Does without keys that merely have the hash of another.
    fn settle(&mut self) {
        self.numbers.retain(|_, row| row.rows > 1);
        self.texts.retain(|_, row| row.rows > 1);
    }
}

fn hashes(keys: &ArrayRef) -> Option<Box<dyn Iterator<Item = u64> + '_>> {
    if let Some(numbers) = keys.as_primitive_opt::<Int64Type>() {
        return Some(Box::new(numbers.values().iter().map(|key| xxh3_64(&key.to_le_bytes()))));
    }
    let texts = keys.as_string_opt::<i32>()?;
    Some(Box::new((0..texts.len()).map(|row| xxh3_64(texts.value(row).as_bytes()))))
}

/// Looks for keys that several rows share: takes the same segments again and again, side by side and in any order.
///
/// ```
/// use milvault::binlog::newest::Search;
///
/// let mut search = Search::default();
/// while search.goes_on() {
///     // for each segment: search.take(segment, …)
///     search.turn();
/// }
/// let (newest, rows) = search.found();
/// assert!(newest.is_empty() && rows == 0);
/// ```
#[derive(Default)]
pub struct Search(Mutex<State>);

struct State {
    most: usize,
    /// Hashes are told apart by their remainder to this power of two; each pass has those of one remainder.
    parts: u64,
    pass: Pass,
    hashes: Vec<u64>,
    /// Those that came more than once.
    shared: HashSet<u64>,
    /// Rows that live, whether or not a newer one counts in their place.
    rows: u64,
    newest: Newest,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Pass {
    Hashes(u64),
    Rows,
    Done,
}

impl Default for State {
    fn default() -> Self {
        Self {
            most: MOST_HASHES,
            parts: 1,
            pass: Pass::Hashes(0),
            hashes: Vec::new(),
            shared: HashSet::new(),
            rows: 0,
            newest: Newest::default(),
        }
    }
}

impl Search {
    fn state(&mut self) -> &mut State {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the segments are to be taken, once more.
    #[must_use]
    pub fn goes_on(&mut self) -> bool {
        self.state().pass != Pass::Done
    }

    /// Takes one of the segments, of which keys and timestamps are needed. `deletes` and `at` are those that decide which
    /// of its rows live.
    ///
    /// # Errors
    /// As [`Segment::batches`], and as its batches.
    pub fn take(
        &self,
        segment: Segment,
        schema: &CollectionSchema,
        deletes: Arc<Deletes>,
        at: Option<u64>,
    ) -> Result<()> {
        let id = segment.id();
        for batch in segment.keys(schema, deletes, at)? {
            let batch = batch?;
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.see(&batch, id).ok_or_else(|| internal("keys of another type"))?;
        }
        Ok(())
    }

    /// All segments were taken.
    pub fn turn(&mut self) {
        self.state().turn();
    }

    /// The keys that several rows share, and how many rows live, older ones among them.
    #[must_use]
    pub fn found(self) -> (Newest, u64) {
        let state = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        (state.newest, state.rows)
    }
}

impl State {
    fn see(&mut self, batch: &KeyBatch, segment: i64) -> Option<()> {
        match self.pass {
            Pass::Hashes(part) => {
                if part == 0 {
                    self.rows += batch.lives.iter().filter(|lives| **lives).count() as u64;
                }
                let parts = self.parts;
                let living = hashes(&batch.keys)?.zip(&batch.lives).filter(|(_, lives)| **lives);
                self.hashes.extend(living.map(|(hash, _)| hash).filter(|hash| hash % parts == part));
                if self.hashes.len() >= self.most {
                    self.make_room(part);
                }
            }
            Pass::Rows => self.newest.see(batch, segment, |hash| self.shared.contains(&hash))?,
            Pass::Done => {}
        }
        Some(())
    }

    /// Keeps one of each hash; where that is not enough, those of fewer remainders.
    fn make_room(&mut self, part: u64) {
        self.sort();
        if self.hashes.len() < self.most / 2 {
            return;
        }
        if part == 0 {
            self.parts *= 2;
            let parts = self.parts;
            self.hashes.retain(|hash| hash % parts == part);
        } else {
            // Hashes spread evenly: it is hardly more than the first pass had.
            self.most = self.most.max(2 * self.hashes.len());
        }
    }

    fn sort(&mut self) {
        self.hashes.sort_unstable();
        self.shared.extend(self.hashes.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]));
        self.hashes.dedup();
    }

    fn turn(&mut self) {
        self.pass = match self.pass {
            Pass::Hashes(part) => {
                self.sort();
                self.hashes.clear();
                match part + 1 {
                    next if next < self.parts => Pass::Hashes(next),
                    _ if self.shared.is_empty() => Pass::Done,
                    _ => Pass::Rows,
                }
            }
            Pass::Rows | Pass::Done => {
                self.newest.settle();
                Pass::Done
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{Int64Array, StringArray};

    use super::*;

    /// Batches of keys with their times, all of which live, one a segment.
    type Given = Vec<(i64, KeyBatch)>;

    fn batch(keys: ArrayRef, times: &[u64]) -> KeyBatch {
        KeyBatch { keys, times: times.to_vec(), lives: vec![true; times.len()], first: 0 }
    }

    fn numbers(keys: &[i64], times: &[u64]) -> KeyBatch {
        batch(Arc::new(Int64Array::from(keys.to_vec())), times)
    }

    /// What is found of them, in this order and in the opposite one, with so many hashes at once; and in how many parts.
    fn search(most: usize, given: &Given) -> (Newest, u64, u64) {
        let search = |given: &mut dyn Iterator<Item = &(i64, KeyBatch)>| {
            let given: Vec<_> = given.collect();
            let mut state = State { most, ..State::default() };
            while state.pass != Pass::Done {
                for (segment, batch) in &given {
                    state.see(batch, *segment).unwrap();
                }
                state.turn();
            }
            (state.newest, state.rows, state.parts)
        };
        let (found, backwards) = (search(&mut given.iter()), search(&mut given.iter().rev()));
        assert_eq!((&found.0, found.1), (&backwards.0, backwards.1));
        found
    }

    fn older(newest: &Newest, given: &Given) -> Vec<Vec<bool>> {
        given.iter().map(|(segment, batch)| newest.mask(&batch.keys, *segment, batch.first).unwrap()).collect()
    }

    #[test]
    fn of_each_key_the_row_with_the_latest_time_counts_and_the_first_of_one_request() {
        let given = vec![(1, numbers(&[1, 2, 3, 3], &[10, 10, 10, 10])), (2, numbers(&[1, 2, 4, 1], &[9, 11, 5, 12]))];
        let (newest, rows, _) = search(MOST_HASHES, &given);
        assert_eq!((rows, newest.older_rows()), (8, 4));
        assert_eq!(older(&newest, &given), [[true, true, false, true], [true, false, false, false]]);
        let examples = newest.examples(2);
        assert_eq!(examples, [(Value::from(1), 3), (Value::from(2), 2)]);
    }

    #[test]
    fn rows_that_do_not_live_hide_no_others() {
        let mut given = vec![(1, numbers(&[1, 2], &[10, 10])), (2, numbers(&[1, 2], &[20, 20]))];
        given[1].1.lives = vec![false, true];
        let (newest, rows, _) = search(MOST_HASHES, &given);
        assert_eq!((rows, newest.older_rows()), (3, 1));
        assert_eq!(older(&newest, &given), [[false, true], [false, false]]);
    }

    #[test]
    fn texts_are_told_apart_as_numbers_are() {
        let texts = |keys: &[&str]| Arc::new(StringArray::from(keys.to_vec())) as ArrayRef;
        let given = vec![(1, batch(texts(&["a", "", "b"]), &[1, 2, 3])), (2, batch(texts(&["b", "c"]), &[1, 2]))];
        let (newest, rows, _) = search(MOST_HASHES, &given);
        assert_eq!((rows, newest.older_rows()), (5, 1));
        assert_eq!(older(&newest, &given), [vec![false, false, false], vec![true, false]]);
        assert_eq!(newest.examples(3), [(Value::from("b"), 2)]);
    }

    #[test]
    fn where_hashes_are_more_than_fit_the_same_is_found_in_parts() {
        // Every third key of the second segment is one of the first's; one key is there a thousand times.
        let first: Vec<i64> = (0..5000).collect();
        let second: Vec<i64> = (0..5000).map(|key| if key % 3 == 0 { key } else { key + 10_000 }).collect();
        let same = vec![77; 1000];
        let times = |from: u64, rows: usize| (from..).take(rows).collect::<Vec<u64>>();
        let given = vec![
            (1, numbers(&first, &times(0, 5000))),
            (2, numbers(&second, &times(10_000, 5000))),
            (3, numbers(&same, &times(20_000, 1000))),
        ];
        let (whole, rows, parts) = search(MOST_HASHES, &given);
        assert_eq!((rows, parts, whole.older_rows()), (11_000, 1, 1667 + 1000));
        for most in [64, 1000, 4096] {
            let (in_parts, rows, parts) = search(most, &given);
            assert!(parts > 1 && rows == 11_000, "{most}: {parts} parts, {rows} rows");
            assert_eq!(in_parts, whole, "{most}");
        }
    }

    #[test]
    fn without_keys_that_are_shared_one_pass_is_enough() {
        let mut search = Search::default();
        search.state().see(&numbers(&[1, 2, 3], &[1, 1, 1]), 1).unwrap();
        search.turn();
        assert!(!search.goes_on() && search.found().0.is_empty());
    }
}
