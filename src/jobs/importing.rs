//! Filling a staging collection by the server's own Import: it reads a native backup's binlogs itself, a partition's
//! segments with one task, and keeps keys that a server had made.
//!
//! Milvus 2.3.5 calls an import complete that found no folder; of a damaged file it takes what the damage made of it, or
//! ends, the whole server. So checksums are proven before, each segment's rows are decoded and digested here, what the
//! server says that it imported is held against that, and the proof of the staging collection comes after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};

use super::Session;
use super::control::Control;
use super::load::Rows;
use super::pieces::Piece;
use super::read::{ALL_PARTITIONS, blocking};
use super::staging_proof::Comparison;
use crate::digest::{RowDigester, SetDigest};
use crate::error::{Error, Kind, Result};
use crate::milvus::{Client, ImportRequest, ImportState};
use crate::repository::{Backup, Store};
use crate::schema::Collection;

/// Tasks that wait at the server or are worked on. Milvus 2.3.5 works on one at a time.
const AT_ONCE: usize = 8;
/// The most bytes of files that one task has: 2.3.5 ends a task that takes a quarter of an hour, and here it takes 40 MB
/// a second. A partition with more is imported segment by segment, which costs it half as much again.
const TASK_BYTES: u64 = 4 << 30;
/// Segments that are decoded at once.
const DECODED_AT_ONCE: usize = 2;
/// How long a task may take: far longer than the largest one does.
const LIMIT: Duration = Duration::from_secs(1800);
/// Between questions how far an import is.
const POLL: Duration = Duration::from_millis(200);

/// A backup's folder, as the server finds it.
#[derive(Clone)]
pub(super) struct Place {
    folder: String,
    /// The physical milliseconds up to which rows are wanted, where the files hold later ones.
    until: Option<u64>,
}

impl Place {
    /// Where the server finds a backup's files, if it can.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] that says why the backup cannot be imported.
    pub(super) async fn of(session: &Session, backup: &Backup, collection: &Collection, rows: &Rows) -> Result<Self> {
        let refused = |why: &str| {
            Error::new(
                Kind::InvalidArgument,
                format!("backup {} cannot be restored with via=IMPORT: {why}. Use via=INSERT", backup.id()),
            )
        };
        if rows.in_key_order() {
            return Err(refused("it is not a native one, and holds no files that Milvus imports"));
        }
        if collection.has_partition_key() {
            return Err(refused(
                "its rows are spread by a partition key, and Milvus wants a partition named to import into",
            ));
        }
        if rows.has_filter() {
            return Err(refused("an import takes all rows, and where chooses some"));
        }
        if rows.partitions().iter().flat_map(|name| rows.pieces(name)).any(|piece| piece.import_folders().is_none()) {
            return Err(refused("its segments have no folders of their own, or deletes that hold for several of them"));
        }
        let storage = session.milvus_storage()?;
        let folder = as_the_server_sees(&storage, backup).ok_or_else(|| {
            refused("the server reads files of its own storage alone, and the repository is on neither the same disk nor in the same bucket")
        })?;
        for folder in folders(rows) {
            if let Some(stray) = backup.stray_in(&folder).await? {
                return Err(refused(&format!("{stray} is no file of it, and the server would import that too")));
            }
        }
        let older = rows.older(backup).await?;
        if older > 0 {
            return Err(refused(&format!(
                "{older} of its rows have a newer one with the same primary key, and an import brings them all, of which Milvus may show any"
            )));
        }
        let until = match backup.manifest().snapshot.timestamp {
            Some(timestamp) if rows.hold_later_ones(backup).await? => Some(timestamp >> 18),
            _ => None,
        };
        Ok(Self { folder, until })
    }
}

/// The folders that the server may be told to import, those of whole partitions.
fn folders(rows: &Rows) -> BTreeSet<String> {
    let partitions = rows.partitions();
    let pieces = partitions.iter().flat_map(|partition| rows.pieces(partition));
    let of_segments = pieces.filter_map(Piece::import_folders);
    of_segments.flat_map(|(inserts, deletes)| [Some(inserts), deletes]).flatten().map(|folder| above(&folder)).collect()
}

fn above(folder: &str) -> String {
    folder.rsplit_once('/').map_or_else(String::new, |(above, _)| above.to_owned())
}

/// The path that a server with this storage has to be told to find a backup's folder.
fn as_the_server_sees(storage: &Store, backup: &Backup) -> Option<String> {
    let path = backup.storage_path();
    if storage.is_local() {
        // Absolute, whatever the root was given as, and by the name that holds for whoever looks.
        return std::fs::canonicalize(path).ok()?.to_str().map(str::to_owned);
    }
    // Within one bucket it is the key.
    let bucket = |url: &str| {
        let (scheme, rest) = url.split_once("://")?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        Some((format!("{scheme}://{bucket}"), key.to_owned()))
    };
    let (own, _) = bucket(&storage.display(""))?;
    let (theirs, key) = bucket(path)?;
    (own == theirs).then_some(key)
}

/// Has the server import all rows, and tells what each partition is to amount to.
pub(super) async fn fill(
    client: &Client,
    name: &str,
    place: &Place,
    (backup, rows, collection): (&Backup, &Rows, &Collection),
    control: &Control,
) -> Result<BTreeMap<String, Comparison>> {
    let pieces: Vec<Piece> = rows.partitions().iter().flat_map(|partition| rows.pieces(partition)).cloned().collect();
    let digester = Arc::new(RowDigester::new(&collection.schema)?);
    let segments = pieces.iter().filter(|piece| piece.rows > 0).map(|piece| {
        let (inserts, deletes) = piece.import_folders().unwrap_or_default();
        (Task { partition: piece.partition.clone(), inserts, deletes }, piece.file_bytes)
    });
    let tasks = together(segments.collect(), TASK_BYTES);
    let imports = futures::stream::iter(tasks.into_iter().map(|task| one(client, name, place, task)))
        .buffer_unordered(AT_ONCE)
        .try_fold(0, |sum, rows| async move { Ok(sum + rows) });
    let digests = async {
        let mut sets: BTreeMap<String, SetDigest> =
            rows.partitions().into_iter().map(|partition| (partition, SetDigest::default())).collect();
        let mut decoded = futures::stream::iter(
            pieces.iter().map(|piece| digest(backup, rows, piece, Arc::clone(&digester), control)),
        )
        .buffer_unordered(DECODED_AT_ONCE);
        while let Some((partition, set)) = decoded.try_next().await? {
            sets.entry(partition).or_default().merge(&set);
        }
        Ok(sets)
    };
    let (imported, sets): (u64, BTreeMap<String, SetDigest>) = if rows.are_proven_as_read() {
        // What was not verified before is proven to the last file before the server gets any: a damaged one would end it.
        let sets = digests.await?;
        (imports.await?, sets)
    } else {
        futures::try_join!(imports, digests)?
    };
    let wanted: u64 = sets.values().map(|set| set.rows).sum();
    if imported < wanted {
        return Err(Error::new(
            Kind::Restore,
            format!(
                "the server calls the import of {} complete, and imported {imported} of {wanted} rows: it may not see that folder. Use via=INSERT",
                place.folder
            ),
        ));
    }
    Ok(sets
        .into_iter()
        .map(|(partition, expected)| (partition, Comparison { expected, ..Default::default() }))
        .collect())
}

/// What the server is asked to import at once: the folder of a partition's segments, or one segment's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Task {
    partition: String,
    inserts: String,
    deletes: Option<String>,
}

/// The tasks of single segments, with what their files take, made into one for each partition where that takes up to
/// `limit` bytes.
fn together(segments: Vec<(Task, u64)>, limit: u64) -> Vec<Task> {
    let mut partitions: BTreeMap<String, Vec<(Task, u64)>> = BTreeMap::new();
    for (task, bytes) in segments {
        partitions.entry(task.partition.clone()).or_default().push((task, bytes));
    }
    let mut tasks = Vec::new();
    for segments in partitions.into_values() {
        let bytes: u64 = segments.iter().map(|(_, bytes)| bytes).sum();
        let own = segments.into_iter().map(|(task, _)| task);
        if bytes > limit {
            tasks.extend(own);
            continue;
        }
        // The server tells segments apart by the last names of their files' paths, whatever is above them.
        let all = own.reduce(|all, task| Task { deletes: all.deletes.or(task.deletes), ..all });
        tasks.extend(all.map(|all| Task {
            inserts: above(&all.inserts),
            deletes: all.deletes.as_deref().map(above),
            ..all
        }));
    }
    tasks
}

/// Has a task done; how many rows the server says that it took.
async fn one(client: &Client, name: &str, place: &Place, task: Task) -> Result<u64> {
    let in_place =
        |folder: Option<String>| folder.map(|folder| format!("{}/{folder}", place.folder)).unwrap_or_default();
    let what = task.inserts.clone();
    let mut options = vec![("backup".to_owned(), "true".to_owned())];
    options.extend(place.until.map(|until| ("end_ts".to_owned(), until.to_string())));
    let partition = if task.partition == ALL_PARTITIONS { "_default".to_owned() } else { task.partition };
    let request = ImportRequest {
        collection: name.to_owned(),
        partition,
        files: vec![in_place(Some(task.inserts)), in_place(task.deletes)],
        options,
    };
    let begun = Instant::now();
    let tasks = client.import(&request).await?;
    let mut rows = 0;
    for task in tasks {
        rows += loop {
            match client.import_state(task).await? {
                ImportState::Running if begun.elapsed() < LIMIT => tokio::time::sleep(POLL).await,
                ImportState::Running => {
                    let why = format!("the server did not import {what} within half an hour. Use via=INSERT");
                    return Err(Error::new(Kind::Restore, why));
                }
                ImportState::Completed(rows) => break rows,
                ImportState::Failed(why) => {
                    let why = format!("the server could not import {what}: {why}. Use via=INSERT");
                    return Err(Error::new(Kind::Restore, why));
                }
            }
        };
    }
    Ok(rows)
}

async fn digest(
    backup: &Backup,
    rows: &Rows,
    piece: &Piece,
    digester: Arc<RowDigester>,
    control: &Control,
) -> Result<(String, SetDigest)> {
    let mut set = SetDigest::default();
    let mut batches = rows.open(backup, piece, None).await?;
    while let Some(batch) = batches.next().await? {
        let (count, bytes, digester) =
            (batch.num_rows() as u64, crate::parquet::arrow_bytes(&batch), Arc::clone(&digester));
        set.merge(&blocking(move || digester.set(&batch)).await?);
        control.advance(count, bytes);
    }
    Ok((piece.partition.clone(), set))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(partition: &str, inserts: &str, deletes: Option<&str>) -> Task {
        Task { partition: partition.to_owned(), inserts: inserts.to_owned(), deletes: deletes.map(str::to_owned) }
    }

    #[test]
    fn a_partition_is_one_task_unless_it_is_too_large_for_one() {
        let segments = || {
            vec![
                (task("a", "inserts/1/10", None), 40),
                (task("b", "inserts/2/20", None), 30),
                (task("b", "inserts/2/21", Some("deletes/2/21")), 30),
            ]
        };
        let whole = task("a", "inserts/1", None);
        assert_eq!(together(segments(), 60), [whole.clone(), task("b", "inserts/2", Some("deletes/2"))]);
        let own = [task("b", "inserts/2/20", None), task("b", "inserts/2/21", Some("deletes/2/21"))];
        assert_eq!(together(segments(), 59), [&[whole][..], &own[..]].concat());
        assert_eq!(together(Vec::new(), 60), []);
    }
}
