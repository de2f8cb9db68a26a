//! The segments of a native backup: which files are whose, by its metadata.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{FutureExt, TryFutureExt};
use tokio::sync::OnceCell;

use super::super::newest;
use super::super::read::{ALL_PARTITIONS, blocking};
use super::{Kinds, Piece, Pieces, Promise, Wanted, bytes};
use crate::binlog::layout::PACKED;
use crate::binlog::metadata::{self, BackupInfo, CollectionInfo, SegmentInfo};
use crate::binlog::segment::TIMESTAMP_FIELD;
use crate::binlog::{Deletes, Living, LogFile, Newest, SegmentFiles};
use crate::error::{Error, Kind, Result};
use crate::repository::{Backup, RelativePath};
use crate::schema::{Collection, CollectionSchema};

/// The longest metadata file that is read; a million segments' files take less.
const METADATA_CEILING: u64 = 1 << 30;
/// Files up to this size are held in memory while a segment is read, larger ones are held open.
const SMALL_FILE: u64 = 64 << 10;

/// Segments whose rows are one partition's: a key may have rows in several of them.
pub(super) struct Together {
    pub(super) plans: Vec<SegmentPlan>,
    newest: OnceCell<Arc<Newest>>,
}

/// One segment: its files, and what else decides which of its rows live.
pub(super) struct SegmentPlan {
    pub(super) segment: i64,
    promised: Option<u64>,
    file_bytes: u64,
    /// By field, or by group of fields.
    fields: BTreeMap<i64, Vec<RelativePath>>,
    /// Whether a file has several fields (storage version 2).
    is_packed: bool,
    deltas: Vec<RelativePath>,
    /// Whether a folder that no other segment is in stands between the partition's and its own.
    has_group: bool,
    /// Deletes that other segments keep for this one, each set the same for several.
    beyond: Vec<Arc<Deletes>>,
    at: Option<u64>,
}

/// What a native backup says of the collection it is of.
async fn describe(backup: &Backup) -> Result<CollectionInfo> {
    let read = async |file: &'static str| {
        let path = RelativePath::new(file)?;
        if !backup.has(&path).await? {
            return Ok(None);
        }
        backup.read(&path, METADATA_CEILING).await.map(Some)
    };
    let info = BackupInfo::read(read).await?;
    let manifest = backup.manifest();
    let same = |collection: &&CollectionInfo| {
        collection.collection_name == manifest.collection_name
            && crate::binlog::description::database(collection) == manifest.database
    };
    info.collection_backups.iter().find(same).cloned().ok_or_else(|| {
        corrupted(
            metadata::FULL_FILE,
            format!("the metadata of backup {} does not know collection '{}'", backup.id(), manifest.collection_name),
        )
    })
}

pub(super) async fn pieces(backup: &Backup, collection: &Collection, at: Option<u64>) -> Result<Pieces> {
    Ok(pieces_and_beyond(backup, collection, at).await?.0)
}

/// As [`pieces`], and the files of deletes that are of no piece, as they hold for several.
pub(super) async fn pieces_and_beyond(
    backup: &Backup,
    collection: &Collection,
    at: Option<u64>,
) -> Result<(Pieces, Vec<RelativePath>)> {
    let manifest = backup.manifest();
    let snapshot = manifest.snapshot.timestamp;
    if let (Some(at), Some(snapshot)) = (at, snapshot)
        && at > snapshot
    {
        return Err(Error::new(
            Kind::InvalidArgument,
            format!(
                "as_of is later than the moment that backup {} shows: it knows nothing of what came after",
                backup.id()
            ),
        ));
    }
    let info = describe(backup).await?;
    let early = at.is_some() && at != snapshot;
    let at = at.or(snapshot);
    let mut promised = BTreeMap::new();
    for (name, digest) in &manifest.digest.partitions {
        // Who did not look for older rows may have counted them.
        let rows = digest.older_rows.and((!early).then_some(digest.rows));
        promised.insert(name.clone(), Promise { rows, set: None });
    }
    let everywhere = Arc::new(deletes_of(backup, &info.l0_segments, at).await?);
    let mut deltas_beyond = deltas_of(&info.l0_segments)?;
    let row_bytes = collection.schema.estimated_row_bytes() as u64;
    let mut together: BTreeMap<String, Vec<SegmentPlan>> = BTreeMap::new();
    for partition in &info.partition_backups {
        let name = if collection.has_partition_key() { ALL_PARTITIONS } else { &partition.partition_name }.to_owned();
        promised.entry(name.clone()).or_default();
        let (l0, mut segments): (Vec<_>, Vec<_>) =
            partition.segment_backups.iter().cloned().partition(|segment| segment.is_l0);
        let beyond = [Arc::new(deletes_of(backup, &l0, at).await?), Arc::clone(&everywhere)];
        deltas_beyond.extend(deltas_of(&l0)?);
        segments.sort_unstable_by_key(|segment| segment.segment_id);
        for segment in segments {
            segment.require_known()?;
            together.entry(name.clone()).or_default().push(plan(&segment, beyond.to_vec(), at)?);
        }
    }
    let mut pieces = Vec::new();
    for (name, plans) in together {
        let none_is_older =
            !early && manifest.digest.partitions.get(&name).is_some_and(|digest| digest.older_rows == Some(0));
        let newest = OnceCell::new_with(none_is_older.then(Arc::default));
        let together = Arc::new(Together { plans, newest });
        pieces.extend(together.plans.iter().enumerate().map(|(index, plan)| {
            let rows = plan.promised.unwrap_or_default();
            Piece {
                partition: name.clone(),
                rows,
                bytes: rows.saturating_mul(row_bytes),
                file_bytes: plan.file_bytes,
                source: Kinds::Segment(Arc::clone(&together), index),
            }
        }));
    }
    Ok((Pieces { all: pieces, promised, in_key_order: false }, deltas_beyond))
}

/// Which files are a segment's.
fn plan(info: &SegmentInfo, beyond: Vec<Arc<Deletes>>, at: Option<u64>) -> Result<SegmentPlan> {
    // A field that is named without files is not one that is not named.
    let mut fields: BTreeMap<i64, Vec<RelativePath>> =
        info.binlogs.iter().map(|field| (field.field_id, Vec::new())).collect();
    for file in info.inserts()? {
        fields.entry(file.field).or_default().push(RelativePath::new(file.path)?);
    }
    Ok(SegmentPlan {
        segment: info.segment_id,
        promised: u64::try_from(info.num_of_rows).ok(),
        file_bytes: u64::try_from(info.size).unwrap_or_default(),
        fields,
        is_packed: info.storage_version >= PACKED,
        deltas: deltas(info)?,
        // A folder of several segments would be imported once for each.
        has_group: info.group_id == info.segment_id,
        beyond,
        at,
    })
}

fn deltas(info: &SegmentInfo) -> Result<Vec<RelativePath>> {
    info.deletes()?.into_iter().map(|file| RelativePath::new(file.path)).collect()
}

fn deltas_of(segments: &[SegmentInfo]) -> Result<Vec<RelativePath>> {
    Ok(segments.iter().map(deltas).collect::<Result<Vec<_>>>()?.concat())
}

async fn deletes_of(backup: &Backup, segments: &[SegmentInfo], at: Option<u64>) -> Result<Deletes> {
    let mut all = Deletes::default();
    for segment in segments {
        let files = files(backup, &deltas(segment)?, true).await?;
        all = blocking(move || files.iter().try_for_each(|file| all.add(file, at)).map(|()| all)).await?;
    }
    Ok(all)
}

async fn files(backup: &Backup, paths: &[RelativePath], proven: bool) -> Result<Vec<LogFile>> {
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let source = if backup.size_of(path).await?.is_some_and(|bytes| bytes <= SMALL_FILE) {
            backup.read(path, SMALL_FILE).await?.into()
        } else {
            bytes::open(backup, path, proven).await?
        };
        files.push(LogFile { path: path.to_string(), source });
    }
    Ok(files)
}

fn corrupted(file: &str, what: String) -> Error {
    Error::new(Kind::BackupCorrupted, what).with("failed_files", vec![file])
}

impl Together {
    /// See [`Piece::known_newest`].
    pub(super) fn known_newest(&self) -> Option<&Newest> {
        self.newest.get().map(|newest| &**newest)
    }

    /// See [`Piece::newest`].
    pub(super) async fn newest(&self, backup: &Backup, schema: &CollectionSchema, proven: bool) -> Result<Arc<Newest>> {
        let look = async || {
            let wanted = Wanted { schema: schema.clone(), columns: Some(Vec::new()), filter: None };
            let open = |index: usize| {
                let opened = self.plans[index].open(backup, &wanted, proven);
                opened.map_ok(|(files, living)| (files, living.deletes)).boxed()
            };
            let at = self.plans.first().and_then(|plan| plan.at);
            newest::among(self.plans.len(), schema, at, open).await.map(|(newest, _)| Arc::new(newest))
        };
        self.newest.get_or_try_init(look).await.cloned()
    }
}

impl SegmentPlan {
    pub(super) fn paths(&self) -> impl Iterator<Item = &RelativePath> {
        self.fields.values().flatten().chain(&self.deltas)
    }

    /// The files of timestamps, of which each stands for a file in every field; where files have several fields, those
    /// that may have them.
    pub(super) fn timestamps(&self) -> impl Iterator<Item = &RelativePath> {
        let may_have = |group: i64| self.is_packed || group == TIMESTAMP_FIELD;
        self.fields.iter().filter(move |(group, _)| may_have(**group)).flat_map(|(_, files)| files)
    }

    /// See [`Piece::import_folders`]: the folder that the segment's own is in, of which it has to be the only one.
    pub(super) fn import_folders(&self) -> Option<(String, Option<String>)> {
        // Servers that keep several fields in one file are not asked to import them: none could be tried.
        if self.is_packed || !self.has_group || self.beyond.iter().any(|deletes| !deletes.is_empty()) {
            return None;
        }
        // insert_log/<collection>/<partition>/<group>/<segment>/<field>/<log>, and without a field for deletes.
        let above =
            |path: &RelativePath, levels: usize| path.as_str().rsplitn(levels + 1, '/').nth(levels).map(str::to_owned);
        let inserts = above(self.fields.values().flatten().next()?, 3)?;
        Some((inserts, self.deltas.first().and_then(|path| above(path, 2))))
    }

    /// The files of deletes.
    pub(super) fn deltas(&self) -> &[RelativePath] {
        &self.deltas
    }

    /// Gets at its files, and at what decides which of its rows live but for newer ones of their keys.
    pub(super) async fn open(&self, backup: &Backup, wanted: &Wanted, proven: bool) -> Result<(SegmentFiles, Living)> {
        let schema = &wanted.schema;
        let key = schema.primary_key()?.id;
        let chosen = |name: &String| wanted.columns.as_ref().is_none_or(|columns| columns.contains(name));
        let mut needed: BTreeSet<i64> =
            schema.stored_fields().filter(|field| chosen(&field.name)).map(|field| field.id).collect();
        needed.extend([key, TIMESTAMP_FIELD]);
        let deltas = files(backup, &self.deltas, proven).await?;
        let at = self.at;
        let deletes = blocking(move || Deletes::read(&deltas, at)).await?.with(self.beyond.iter().cloned());
        // Where fields have different numbers of files, only all together show which are left of an upload that was tried
        // again.
        let mut counts = self.fields.values().map(Vec::len);
        let first = counts.next();
        let all = self.is_packed || counts.any(|count| Some(count) != first);
        let mut fields = BTreeMap::new();
        for (field, paths) in self.fields.iter().filter(|(field, _)| all || needed.contains(field)) {
            fields.insert(*field, files(backup, paths, proven).await?);
        }
        let files = SegmentFiles { segment: self.segment, promised: self.promised, fields };
        Ok((files, Living { deletes: Arc::new(deletes), at, newest: Arc::default() }))
    }
}
