//! Which files hold a moment's rows: what lies in the folders of its segments, and where that goes in the backup.

use futures::{StreamExt, TryStreamExt};

use crate::error::{Error, Kind, Result};
use crate::milvus::Segment;
use crate::repository::store::{FileKind, FileMeta};
use crate::repository::{RelativePath, Store};

/// Folders that are listed at once.
const AT_ONCE: usize = 16;
/// The partition of segments whose deletes hold for all of them.
const ALL: i64 = -1;

/// The files of one segment.
#[derive(Debug, Clone)]
pub struct SegmentFiles {
    /// The segment.
    pub segment: Segment,
    /// Files of rows, by field and number.
    pub inserts: Vec<LogFile>,
    /// Files of deletes, by number.
    pub deletes: Vec<LogFile>,
}

/// One file.
#[derive(Debug, Clone)]
pub struct LogFile {
    /// Where it lies in Milvus's storage.
    pub from: RelativePath,
    /// Where it goes, below the backup's folder.
    pub to: RelativePath,
    /// The field's number; 0 for deletes.
    pub field: i64,
    /// Its own number, and its name.
    pub log: i64,
    /// Its length when it was listed.
    pub bytes: u64,
}

/// What listing came to.
pub enum Listed {
    /// All segments have files.
    Whole(Vec<SegmentFiles>),
    /// This one has rows by the server's word, and no files.
    Without(Segment),
}

impl SegmentFiles {
    /// All its files.
    pub fn all(&self) -> impl Iterator<Item = &LogFile> {
        self.inserts.iter().chain(&self.deletes)
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.all().map(|file| file.bytes).sum()
    }
}

/// Lists the files of `segments`, in their order.
///
/// # Errors
/// [`Kind::SchemaIncompatible`] for a layout that this version does not know, [`Kind::Storage`] for a file that is none
/// of Milvus's and where the storage cannot be read.
pub async fn list(storage: &Store, segments: &[Segment]) -> Result<Listed> {
    let found: Vec<SegmentFiles> = futures::stream::iter(segments.to_vec())
        .map(|segment| list_segment(storage, segment))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let without = |files: &&SegmentFiles| {
        let needed = if files.segment.is_level_zero { &files.deletes } else { &files.inserts };
        needed.is_empty() && files.segment.rows > 0
    };
    Ok(match found.iter().find(without) {
        Some(files) => Listed::Without(files.segment.clone()),
        None => Listed::Whole(found),
    })
}

async fn list_segment(storage: &Store, segment: Segment) -> Result<SegmentFiles> {
    if segment.storage_version > 1 {
        return Err(Error::new(
            Kind::SchemaIncompatible,
            format!(
                "segment {} is stored in Milvus's layout {}, which this version does not know: use storage_type LOCAL_FILE",
                segment.id, segment.storage_version
            ),
        ));
    }
    let (mut inserts, mut deletes) = (Vec::new(), Vec::new());
    if !segment.is_level_zero {
        let folder = insert_folder(&segment);
        for file in storage.list(&folder).await? {
            let numbers: Vec<i64> = numbers_below(storage, &folder, &file)?;
            let &[field, log] = &numbers[..] else { return Err(foreign(storage, &file)) };
            let to = format!("binlogs/{}/{field}/{log}", group_folder("insert_log", &segment));
            inserts.push(log_file(&file, to, field, log)?);
        }
    }
    let folder = delete_folder(&segment);
    for file in storage.list(&folder).await? {
        let numbers: Vec<i64> = numbers_below(storage, &folder, &file)?;
        let &[log] = &numbers[..] else { return Err(foreign(storage, &file)) };
        deletes.push(log_file(&file, format!("binlogs/{}/{log}", group_folder("delta_log", &segment)), 0, log)?);
    }
    inserts.sort_by_key(|file| (file.field, file.log));
    deletes.sort_by_key(|file| file.log);
    Ok(SegmentFiles { segment, inserts, deletes })
}

/// Where Milvus keeps a segment's rows.
pub fn insert_folder(segment: &Segment) -> String {
    format!("insert_log/{}/{}/{}", segment.collection, segment.partition, segment.id)
}

fn delete_folder(segment: &Segment) -> String {
    format!("delta_log/{}/{}/{}", segment.collection, segment.partition, segment.id)
}

/// Where milvus-backup keeps them: with a folder for a group of segments, of which each is its own, between partition
/// and segment, but not for what holds for all partitions.
fn group_folder(kind: &str, segment: &Segment) -> String {
    let Segment { id, collection, partition, .. } = segment;
    if *partition == ALL {
        format!("{kind}/{collection}/{partition}/{id}")
    } else {
        format!("{kind}/{collection}/{partition}/{id}/{id}")
    }
}

/// The numbers that the rest of a path consists of.
fn numbers_below(storage: &Store, folder: &str, file: &FileMeta) -> Result<Vec<i64>> {
    let rest = file.path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
    let numbers = rest.map(|rest| rest.split('/').map(|part| part.parse::<i64>().ok().filter(|n| *n >= 0)).collect());
    match numbers {
        Some(Some(numbers)) if file.kind == FileKind::File => Ok(numbers),
        _ => Err(foreign(storage, file)),
    }
}

fn log_file(file: &FileMeta, to: String, field: i64, log: i64) -> Result<LogFile> {
    Ok(LogFile { from: RelativePath::new(&*file.path)?, to: RelativePath::new(to)?, field, log, bytes: file.size })
}

fn foreign(storage: &Store, file: &FileMeta) -> Error {
    Error::new(
        Kind::Storage,
        format!(
            "{} lies among Milvus's files and is none of its binlogs: move it away, then try again",
            storage.display(&file.path)
        ),
    )
    .with("storage_path", storage.display(&file.path))
}
