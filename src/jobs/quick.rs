//! QUICK verification: every file's length, every data file's footer against the chunk table, and a sample of the row
//! groups, decoded and digested against their footers. Of a file on an object store, only ranges are fetched.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::agree::{self, Agreement, Contradiction};
use super::control::Control;
use super::quick_native;
use super::read::blocking;
use super::verify::{Checks, Verification};
use crate::digest::SetDigest;
use crate::error::{Error, Kind, Result};
use crate::parquet::{ChunkReader, Source};
use crate::repository::manifest::StorageType;
use crate::repository::tables::ChunkEntry;
use crate::repository::{Backup, Hashed};
use crate::schema::CollectionSchema;

/// How many files are open at once.
const AT_ONCE: usize = 4;

/// How much is looked at, and which part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Percent of the row groups, above 0, at most 100.
    pub(super) percent: f64,
    /// The same seed looks at the same row groups.
    pub(super) seed: u64,
}

impl Sample {
    /// All there is.
    pub(super) const ALL: Self = Self { percent: 100.0, seed: 0 };
}

/// Verifies a sample of a backup.
pub(super) async fn verify(
    backup: &Backup,
    sample: Sample,
    checks: Checks,
    fail_fast: bool,
    control: &Control,
) -> Result<Verification> {
    let begun = std::time::Instant::now();
    let hashed = if checks.checksums { Hashed::AllButData } else { Hashed::Nothing };
    let on_bytes = |bytes| {
        control.advance(0, bytes);
        control.pass(bytes).boxed()
    };
    let report = backup.check_some_files(hashed, fail_fast, &on_bytes).await?;
    let sound_files = report.is_whole();
    let mut outcome = Verification::of_files("QUICK", &report);
    // Data files are not hashed: that a checksum is wrong can be found, that all are right cannot.
    outcome.checksum_valid = outcome.checksum_valid.filter(|valid| !valid);
    let found =
        if sound_files || !fail_fast { agree::with_itself(backup, checks).await? } else { Agreement::default() };
    outcome.contradicted(found.contradictions);
    let native = backup.manifest().storage_type == StorageType::MilvusNative;
    if checks.data
        && native
        && (outcome.success || !fail_fast)
        && let Some(collection) = &found.collection
    {
        let (details, wrong) = quick_native::look(backup, collection, sample, fail_fast, control).await?;
        outcome.details.extend(details);
        outcome.contradicted(wrong);
    } else if checks.data
        && (outcome.success || !fail_fast)
        && let (Some(collection), Some(table)) = (found.collection, found.table)
    {
        let chunks = table.chunks.into_iter().filter(|chunk| !outcome.names(chunk.file.as_str())).collect();
        let look = Look { backup, schema: collection.schema, checks, fail_fast, control };
        let details = look.at(chunks, sample, &mut outcome).await?;
        outcome.details.extend(details);
    }
    outcome.finish(begun.elapsed());
    Ok(outcome)
}

struct Look<'a> {
    backup: &'a Backup,
    schema: CollectionSchema,
    checks: Checks,
    fail_fast: bool,
    control: &'a Control,
}

impl Look<'_> {
    /// Looks at every footer, then at the sampled row groups; the numbers for the outcome's details.
    async fn at(
        &self,
        chunks: Vec<ChunkEntry>,
        sample: Sample,
        outcome: &mut Verification,
    ) -> Result<BTreeMap<String, Value>> {
        let mut row_groups = Vec::new();
        let mut footers = futures::stream::iter(
            chunks.iter().enumerate().map(|(index, chunk)| async move { (index, self.footer(chunk).await) }),
        )
        .buffered(AT_ONCE);
        while let Some((index, found)) = footers.next().await {
            match finding(found, &chunks[index])? {
                Ok(groups) => row_groups.extend((0..groups.len()).map(|group| (index, group))),
                Err(contradiction) => {
                    outcome.contradicted(vec![contradiction]);
                    if self.fail_fast {
                        return Ok(BTreeMap::new());
                    }
                }
            }
        }
        drop(footers);
        let all = row_groups.len();
        let mut chosen: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, group) in choose(row_groups, &chunks, sample) {
            chosen.entry(index).or_default().push(group);
        }
        let checked: usize = chosen.values().map(Vec::len).sum();
        let mut rows = 0;
        let chunks = &chunks;
        let mut proofs = futures::stream::iter(
            chosen.into_iter().map(|(index, groups)| async move { (index, self.prove(&chunks[index], groups).await) }),
        )
        .buffer_unordered(AT_ONCE / 2);
        while let Some((index, found)) = proofs.next().await {
            match finding(found, &chunks[index])? {
                Ok(found) => rows += found,
                Err(contradiction) => {
                    outcome.contradicted(vec![contradiction]);
                    if self.fail_fast {
                        break;
                    }
                }
            }
        }
        Ok([
            ("row_groups", json!(all)),
            ("row_groups_checked", json!(checked)),
            ("rows_checked", json!(rows)),
            ("sample_size", json!(sample.percent)),
            ("seed", json!(sample.seed)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into())
    }

    /// The row groups that a file's footer promises, which have to be what the chunk table says.
    async fn footer(&self, chunk: &ChunkEntry) -> Result<Vec<SetDigest>> {
        let fetched = Arc::<Fetched>::default();
        let source = open(self.backup, chunk, &fetched).await?;
        let (schema, name) = (self.schema.clone(), chunk.file.to_string());
        let (groups, promised) = blocking(move || {
            let reader = ChunkReader::open(source, &schema, &name)?;
            Ok((reader.row_groups().to_vec(), reader.promised()))
        })
        .await
        .map_err(|error| fetched.blame(error))?;
        self.pass(&fetched).await;
        if self.checks.rows && promised.rows != chunk.rows {
            return Err(damaged(
                chunk,
                &format!("holds {} rows where the chunk table has {}", promised.rows, chunk.rows),
            ));
        }
        if promised != SetDigest::from_hex(chunk.rows, &chunk.digest)? {
            return Err(damaged(chunk, "has another digest in its footer than in the chunk table"));
        }
        Ok(groups)
    }

    /// Decodes and digests some row groups of a file; how many rows they have.
    async fn prove(&self, chunk: &ChunkEntry, groups: Vec<usize>) -> Result<u64> {
        let fetched = Arc::<Fetched>::default();
        let source = open(self.backup, chunk, &fetched).await?;
        let (schema, name) = (self.schema.clone(), chunk.file.to_string());
        let opened = blocking(move || ChunkReader::open(source, &schema, &name)).await;
        let mut reader = opened.map_err(|error| fetched.blame(error))?;
        let mut rows = 0;
        for group in groups {
            // A step at a time, so that a canceled verification ends soon.
            let proven;
            (reader, proven) = blocking(move || {
                let proven = reader.prove_row_group(group)?;
                Ok((reader, proven))
            })
            .await
            .map_err(|error| fetched.blame(error))?;
            rows += proven.rows;
            self.pass(&fetched).await;
            self.control.advance(proven.rows, 0);
        }
        Ok(rows)
    }
}

impl Look<'_> {
    /// Waits as the limit on the bandwidth says for what was fetched since.
    async fn pass(&self, fetched: &Fetched) {
        self.control.pass(fetched.bytes.swap(0, Ordering::Relaxed)).await;
    }
}

/// What became of fetching ranges of an object. The reader of its content knows only words of it.
#[derive(Default)]
struct Fetched {
    bytes: AtomicU64,
    failure: Mutex<Option<Error>>,
}

impl Fetched {
    fn failed(&self, error: Error) -> io::Error {
        let words = io::Error::other(error.message().to_owned());
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        words
    }

    /// The store's own error, where it was the store that failed.
    fn blame(&self, error: Error) -> Error {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or(error)
    }
}

/// A sample of the row groups, at least one where there are any: those whose hash with the seed is lowest.
fn choose(mut row_groups: Vec<(usize, usize)>, chunks: &[ChunkEntry], sample: Sample) -> Vec<(usize, usize)> {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // far from 2^53
    let wanted = (row_groups.len() as f64 * sample.percent / 100.0).ceil().max(1.0) as usize;
    row_groups.sort_by_cached_key(|(index, group)| {
        xxh3_64_with_seed(format!("{}/{group}", chunks[*index].file).as_bytes(), sample.seed)
    });
    row_groups.truncate(wanted);
    row_groups.sort_unstable();
    row_groups
}

/// Damage as a finding; whatever else went wrong as an error.
fn finding<T>(found: Result<T>, chunk: &ChunkEntry) -> Result<Result<T, Contradiction>> {
    match found {
        Ok(value) => Ok(Ok(value)),
        Err(error) if error.kind() == Kind::BackupCorrupted => {
            Ok(Err(Contradiction { file: chunk.file.to_string(), error: error.message().to_owned() }))
        }
        Err(error) => Err(error),
    }
}

fn damaged(chunk: &ChunkEntry, what: &str) -> Error {
    Error::new(Kind::BackupCorrupted, format!("{} {what}", chunk.file)).with("failed_files", vec![chunk.file.as_str()])
}

/// The chunk's file on the local disk, or ranges of the object, whose bytes are counted.
async fn open(backup: &Backup, chunk: &ChunkEntry, fetched: &Arc<Fetched>) -> Result<Source> {
    let file = backup.open_file(&chunk.file).await?;
    let Some(path) = file.local_path().map(ToOwned::to_owned) else {
        let runtime = Handle::current();
        let length = file.size();
        let fetched = Arc::clone(fetched);
        return Ok(Source::elsewhere(length, move |range| {
            fetched.bytes.fetch_add(range.end - range.start, Ordering::Relaxed);
            runtime.block_on(file.read_range(range)).map_err(|error| fetched.failed(error))
        }));
    };
    let opened = blocking(move || Ok(File::open(path))).await?;
    let opened = opened.map_err(|error| damaged(chunk, &format!("cannot be opened: {error}")))?;
    Ok(opened.into())
}

#[cfg(test)]
#[allow(clippy::cast_precision_loss)] // a few dozen row groups
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunks(count: usize) -> Vec<ChunkEntry> {
        let file = |index| format!("data/p-{index:05}.parquet").parse().unwrap();
        let one = |index| ChunkEntry {
            file: file(index),
            partition: "p".to_owned(),
            rows: 1,
            bytes: 1,
            file_bytes: 1,
            lowest: Value::Null,
            highest: Value::Null,
            digest: "0".repeat(32),
        };
        (0..count).map(one).collect()
    }

    proptest! {
        #[test]
        fn a_sample_is_as_large_as_asked_for_and_depends_on_the_seed_alone(
            files in 0_usize..12, groups in 0_usize..9, percent in 0.001_f64..100.0, seed in any::<u64>()
        ) {
            let chunks = chunks(files);
            let all: Vec<_> = (0..files).flat_map(|index| (0..groups).map(move |group| (index, group))).collect();
            let sample = Sample { percent, seed };
            let chosen = choose(all.clone(), &chunks, sample);
            prop_assert!(chosen.iter().all(|one| all.contains(one)));
            prop_assert!(chosen.windows(2).all(|two| two[0] < two[1]));
            prop_assert_eq!(chosen.is_empty(), all.is_empty());
            let exact = all.len() as f64 * percent / 100.0;
            prop_assert!(chosen.len() as f64 >= exact && (chosen.len() as f64) < exact + 1.0 || chosen.len() == 1 || all.is_empty());
            let mut backwards = all;
            backwards.reverse();
            prop_assert_eq!(choose(backwards, &chunks, sample), chosen);
        }
    }

    #[test]
    fn other_seeds_look_elsewhere_and_together_everywhere() {
        let chunks = chunks(4);
        let all: Vec<_> = (0..4).flat_map(|index| (0..5).map(move |group| (index, group))).collect();
        let seen: std::collections::BTreeSet<_> =
            (0..200).flat_map(|seed| choose(all.clone(), &chunks, Sample { percent: 5.0, seed })).collect();
        assert_eq!(seen.len(), 20);
    }
}
