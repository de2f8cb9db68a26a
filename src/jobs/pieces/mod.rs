//! The parts that a backup's rows are read in: chunk files of a Parquet backup, segments of a native one. Whoever reads
//! rows takes them from here, whatever the backup is made of.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_select::filter::filter_record_batch;
use serde_json::Value;

mod bytes;
pub(super) mod history;
mod segments;

use crate::binlog::{Living, Newest, Segment, SegmentFiles};
use crate::digest::SetDigest;
use crate::error::{Error, Kind, Result, internal};
use crate::filter::Filter;
use crate::parquet::{ChunkReader, Source};
use crate::repository::manifest::StorageType;
use crate::repository::tables::ChunkEntry;
use crate::repository::{Backup, RelativePath};
use crate::schema::{Collection, CollectionSchema};
use segments::{SegmentPlan, Together};

/// All that there is to read of a backup.
pub(super) struct Pieces {
    /// Parts, by partition; in a Parquet backup by ascending keys within it.
    pub all: Vec<Piece>,
    /// What the backup says of each partition's rows.
    pub promised: BTreeMap<String, Promise>,
    /// Whether a partition's pieces, one after another, give its rows in the order of their keys.
    pub in_key_order: bool,
}

/// What a backup says of a partition's rows without their being read.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Promise {
    /// How many there are.
    pub rows: Option<u64>,
    /// Their digest.
    pub set: Option<SetDigest>,
}

/// One part.
#[derive(Clone)]
pub(super) struct Piece {
    /// The partition, or [`super::read::ALL_PARTITIONS`].
    pub partition: String,
    /// Its rows; of a segment, those included that were deleted.
    pub rows: u64,
    /// Their size in Arrow; of a segment, a guess.
    pub bytes: u64,
    /// The size of its files.
    pub file_bytes: u64,
    source: Kinds,
}

#[derive(Clone)]
enum Kinds {
    Chunk(ChunkEntry),
    /// Of the segments that hold a partition's rows together, the one of this index.
    Segment(Arc<Together>, usize),
}

/// What is wanted of a piece.
#[derive(Clone)]
pub(super) struct Wanted {
    pub schema: CollectionSchema,
    /// Columns to decode, those included that the filter is about; all where `None`.
    pub columns: Option<Vec<String>>,
    pub filter: Option<Arc<Filter>>,
}

/// A piece whose files are at hand.
pub(super) enum Opened {
    Chunk(ChunkEntry, Source),
    Segment(SegmentFiles, Living),
}

/// Rows of a piece, batch by batch, none of them empty.
pub(super) type Batches = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

impl Pieces {
    /// What there is to read of a backup, as it was at `at` (a hybrid timestamp), or at its snapshot.
    ///
    /// # Errors
    /// [`Kind::BackupCorrupted`] where its tables are damaged or contradict its manifest; [`Kind::InvalidArgument`] for an
    /// `at` that the backup knows nothing of.
    pub(super) async fn of(backup: &Backup, collection: &Collection, at: Option<u64>) -> Result<Self> {
        match backup.manifest().storage_type {
            StorageType::MilvusNative => segments::pieces(backup, collection, at).await,
            StorageType::LocalFile if at.is_some() => Err(Error::new(
                Kind::InvalidArgument,
                format!(
                    "as_of needs a native backup, whose files tell when each row came and went; backup {} holds the rows of one moment",
                    backup.id()
                ),
            )),
            StorageType::LocalFile => chunks(backup).await,
        }
    }
}

async fn chunks(backup: &Backup) -> Result<Pieces> {
    let mut promised = BTreeMap::new();
    for (name, digest) in &backup.manifest().digest.partitions {
        let text = digest.digest.as_deref().unwrap_or_default();
        let set = SetDigest::from_hex(digest.rows, text)?;
        promised.insert(name.clone(), Promise { rows: Some(digest.rows), set: Some(set) });
    }
    let mut table = backup.chunks().await?.chunks;
    let mut sums: BTreeMap<&str, SetDigest> = BTreeMap::new();
    for chunk in &table {
        sums.entry(&chunk.partition).or_default().merge(&SetDigest::from_hex(chunk.rows, &chunk.digest)?);
    }
    for (name, promise) in &promised {
        if sums.remove(name.as_str()).unwrap_or_default() != promise.set.unwrap_or_default() {
            return Err(contradiction(backup, name));
        }
    }
    if let Some(name) = sums.keys().next() {
        return Err(contradiction(backup, name));
    }
    table.sort_by(|one, other| {
        let by_key = match (one.lowest.as_i64(), other.lowest.as_i64()) {
            (Some(one), Some(other)) => one.cmp(&other),
            _ => one.lowest.as_str().cmp(&other.lowest.as_str()), // as UTF-8 bytes
        };
        one.partition.cmp(&other.partition).then(by_key)
    });
    Ok(Pieces { all: table.into_iter().map(Piece::chunk).collect(), promised, in_key_order: true })
}

fn contradiction(backup: &Backup, partition: &str) -> Error {
    Error::new(
        Kind::BackupCorrupted,
        format!(
            "the chunk table of backup {} does not add up to what its manifest promises of partition {partition}",
            backup.id()
        ),
    )
    .with("failed_files", vec!["chunks.json"])
}

impl Piece {
    fn chunk(chunk: ChunkEntry) -> Self {
        Self {
            partition: chunk.partition.clone(),
            rows: chunk.rows,
            bytes: chunk.bytes,
            file_bytes: chunk.file_bytes,
            source: Kinds::Chunk(chunk),
        }
    }

    /// The share of the files that so many of its rows take.
    pub(super) fn weight(&self, rows: u64) -> u64 {
        self.file_bytes.saturating_mul(rows) / self.rows.max(1)
    }

    /// What it is called: its file, or its segment's number.
    pub(super) fn name(&self) -> String {
        match &self.source {
            Kinds::Chunk(chunk) => chunk.file.to_string(),
            Kinds::Segment(together, index) => together.plans[*index].segment.to_string(),
        }
    }

    /// Its files.
    pub(super) fn files(&self) -> Vec<&RelativePath> {
        match &self.source {
            Kinds::Chunk(chunk) => vec![&chunk.file],
            Kinds::Segment(together, index) => together.plans[*index].paths().collect(),
        }
    }

    /// The folders of its rows and of its deletes, if it has any, for the server to import; `None` where there are none that
    /// hold it and nothing else.
    pub(super) fn import_folders(&self) -> Option<(String, Option<String>)> {
        self.plan()?.import_folders()
    }

    /// Which files are its own, of a segment.
    fn plan(&self) -> Option<&SegmentPlan> {
        match &self.source {
            Kinds::Chunk(_) => None,
            Kinds::Segment(together, index) => Some(&together.plans[*index]),
        }
    }

    /// The keys that have several rows in its partition, as far as they were looked for; `None` where they were not.
    pub(super) fn known_newest(&self) -> Option<&Newest> {
        match &self.source {
            Kinds::Chunk(_) => None,
            Kinds::Segment(together, _) => together.known_newest(),
        }
    }

    /// The keys that have several rows in its partition. They are looked for where that was not done yet.
    ///
    /// # Errors
    /// As [`Piece::open`], of any of the partition's files.
    pub(super) async fn newest(&self, backup: &Backup, schema: &CollectionSchema, proven: bool) -> Result<Arc<Newest>> {
        match &self.source {
            Kinds::Chunk(_) => Ok(Arc::default()),
            Kinds::Segment(together, _) => together.newest(backup, schema, proven).await,
        }
    }

    /// The lowest and highest key of its rows, where they are known.
    pub(super) fn bounds(&self) -> (&Value, &Value) {
        match &self.source {
            Kinds::Chunk(chunk) => (&chunk.lowest, &chunk.highest),
            Kinds::Segment(..) => (&Value::Null, &Value::Null),
        }
    }

    /// Whether one of `files` is its own.
    pub(super) fn has_one_of(&self, files: &[String]) -> bool {
        self.files().iter().any(|path| files.iter().any(|file| file == path.as_str()))
    }

    /// Gets its files to where they can be read; `proven` where their checksums are to be looked at first.
    pub(super) async fn open(&self, backup: &Backup, wanted: &Wanted, proven: bool) -> Result<Opened> {
        match &self.source {
            Kinds::Chunk(chunk) => Ok(Opened::Chunk(chunk.clone(), bytes::open(backup, &chunk.file, proven).await?)),
            Kinds::Segment(together, index) => {
                let newest = together.newest(backup, &wanted.schema, proven).await?;
                let (files, living) = together.plans[*index].open(backup, wanted, proven).await?;
                Ok(Opened::Segment(files, Living { newest, ..living }))
            }
        }
    }
}

impl Opened {
    /// Its rows that are wanted, in batches of up to `batch_rows`.
    ///
    /// # Errors
    /// [`Kind::BackupCorrupted`] where a file is not what it should be.
    pub(super) fn rows(self, wanted: &Wanted, batch_rows: usize) -> Result<Batches> {
        let filter = wanted.filter.clone();
        let batches: Batches = match self {
            Self::Chunk(chunk, source) => chunk_rows(&chunk, source, wanted, batch_rows)?,
            Self::Segment(files, living) => {
                let segment = Segment::open(files, &wanted.schema)?;
                for orphan in segment.orphans() {
                    tracing::warn!(file = orphan, "left of an upload that was tried again; it is not read");
                }
                let all: Vec<&str> = match &wanted.columns {
                    Some(columns) => columns.iter().map(String::as_str).collect(),
                    None => wanted.schema.stored_fields().map(|field| &*field.name).collect(),
                };
                Box::new(segment.batches(&wanted.schema, &all, living, batch_rows)?)
            }
        };
        let Some(filter) = filter else { return Ok(batches) };
        let pick = move |batch: Result<RecordBatch>| -> Option<Result<RecordBatch>> {
            let picked = batch.and_then(|batch| {
                filter_record_batch(&batch, &filter.mask(&batch)?)
                    .map_err(|error| internal(format!("rows could not be picked: {error}")))
            });
            picked.map(|batch| (batch.num_rows() > 0).then_some(batch)).transpose()
        };
        Ok(Box::new(batches.filter_map(pick)))
    }
}

fn chunk_rows(chunk: &ChunkEntry, source: Source, wanted: &Wanted, batch_rows: usize) -> Result<Batches> {
    let reader = ChunkReader::open(source, &wanted.schema, chunk.file.as_str())?;
    let promised = reader.promised();
    if promised.rows != chunk.rows || promised.to_string() != chunk.digest {
        return Err(Error::new(
            Kind::BackupCorrupted,
            format!("{} is not the file that the chunk table describes; verify the backup", chunk.file),
        )
        .with("failed_files", vec![chunk.file.to_string()]));
    }
    let row_groups = match &wanted.filter {
        Some(filter) => reader.row_groups_that_may_match(filter),
        None => (0..reader.row_groups().len()).collect(),
    };
    let all: Vec<&str> = match &wanted.columns {
        Some(columns) => columns.iter().map(String::as_str).collect(),
        None => wanted.schema.stored_fields().map(|field| &*field.name).collect(),
    };
    Ok(Box::new(reader.select(&all, row_groups, batch_rows)?))
}
