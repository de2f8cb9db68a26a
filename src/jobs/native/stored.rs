//! The rows of a collection as its server keeps them in files: read from Milvus's own storage, with nothing loaded.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use tokio::runtime::Handle;

use super::counted_as;
use super::files::{self, Listed, LogFile, SegmentFiles};
use crate::binlog::{self, Deletes, Living};
use crate::digest::{RowDigester, SetDigest};
use crate::error::{Error, Kind, Result};
use crate::jobs::read::blocking;
use crate::milvus::{Client, SegmentState};
use crate::parquet::Source;
use crate::repository::Store;
use crate::schema::{Collection, CollectionSchema};

/// Segments that are decoded at once.
const AT_ONCE: usize = 2;
/// What the rows that are decoded at once take, more or less, and how many they are at most.
const BATCH_BYTES: usize = 4 << 20;
const BATCH_ROWS: usize = 8192;

/// The digests of the rows in a collection's files, by partition. Rows that are not in files yet are not among them, and
/// deletes that hold for several segments are not applied.
///
/// # Errors
/// [`Kind::Restore`] where a segment's files are not there; [`Kind::BackupCorrupted`] where one is not what Milvus writes.
pub(in crate::jobs) async fn digests(
    client: &Client,
    storage: &Store,
    collection: &Collection,
    digester: RowDigester,
) -> Result<BTreeMap<String, SetDigest>> {
    let identity = client.identity(&collection.name).await?;
    let mut segments = client.segments(&collection.name).await?;
    segments.retain(|segment| segment.state != SegmentState::Dropped && segment.rows > 0);
    let found = match files::list(storage, &segments).await? {
        Listed::Whole(found) => found,
        Listed::Without(segment) => {
            return Err(Error::new(
                Kind::Restore,
                format!(
                    "the server tells of segment {} with {} rows, and there are no files of it in {}",
                    segment.id,
                    segment.rows,
                    storage.display(&files::insert_folder(&segment))
                ),
            ));
        }
    };
    let digester = Arc::new(digester);
    let mut sets: BTreeMap<String, SetDigest> = BTreeMap::new();
    for partition in &identity.partitions {
        sets.entry(counted_as(collection, &partition.name)).or_default();
    }
    let mut decoded = futures::stream::iter(found)
        .map(|files| {
            let digester = Arc::clone(&digester);
            async move { Ok::<_, Error>((files.segment.partition, set(storage, collection, files, digester).await?)) }
        })
        .buffer_unordered(AT_ONCE);
    while let Some((partition, set)) = decoded.try_next().await? {
        let named = identity.partitions.iter().find(|known| known.id == partition);
        let name = named.map(|known| counted_as(collection, &known.name)).unwrap_or_default();
        sets.entry(name).or_default().merge(&set);
    }
    Ok(sets)
}

async fn set(
    storage: &Store,
    collection: &Collection,
    files: SegmentFiles,
    digester: Arc<RowDigester>,
) -> Result<SetDigest> {
    let (segment, deltas) = open_segment(storage, &files).await?;
    let schema = collection.schema.clone();
    blocking(move || {
        let living = Living { deletes: Arc::new(Deletes::read(&deltas, None)?), ..Living::default() };
        let all: Vec<&str> = schema.stored_fields().map(|field| &*field.name).collect();
        let mut set = SetDigest::default();
        let segment = binlog::Segment::open(segment, &schema)?;
        for batch in segment.batches(&schema, &all, living, batch_rows(&schema))? {
            set.merge(&digester.set(&batch?)?);
        }
        Ok(set)
    })
    .await
}

/// How many rows are decoded at once.
pub(super) fn batch_rows(schema: &CollectionSchema) -> usize {
    (BATCH_BYTES / schema.estimated_row_bytes().max(1)).clamp(1, BATCH_ROWS)
}

/// The files of a segment's rows and of its deletes.
pub(super) async fn open_segment(
    storage: &Store,
    files: &SegmentFiles,
) -> Result<(binlog::SegmentFiles, Vec<binlog::LogFile>)> {
    let mut fields: BTreeMap<i64, Vec<binlog::LogFile>> = BTreeMap::new();
    for file in &files.inserts {
        fields.entry(file.field).or_default().push(open(storage, file).await?);
    }
    let mut deltas = Vec::new();
    for file in &files.deletes {
        deltas.push(open(storage, file).await?);
    }
    let segment = binlog::SegmentFiles { segment: files.segment.id, promised: Some(files.segment.rows), fields };
    Ok((segment, deltas))
}

/// A file of Milvus's storage.
pub(super) async fn open(storage: &Store, file: &LogFile) -> Result<binlog::LogFile> {
    let path = file.from.to_string();
    let source = if let Some(local) = storage.local_path(&file.from)? {
        let opened = blocking(move || Ok(File::open(local))).await?;
        opened.map_err(|error| Error::new(Kind::Storage, format!("{} cannot be read: {error}", file.from)))?.into()
    } else {
        let (runtime, storage, from) = (Handle::current(), storage.clone(), file.from.clone());
        Source::elsewhere(file.bytes, move |range| {
            let read = runtime.block_on(storage.get_range(&from, range));
            read.map_err(|error| std::io::Error::other(error.message().to_owned()))
        })
    };
    Ok(binlog::LogFile { path, source })
}
