//! Which files hold a moment's rows: what lies in the folders of its segments, and where that goes in the backup.
//!
//! Where the server tells which files a segment is made of, others in its folder are none of it: left of an upload that
//! was tried again, or not written to its end.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};

use crate::binlog::layout::{NEWEST_STORAGE, PACKED};
use crate::error::{Error, Kind, Result};
use crate::milvus::{Segment, SegmentLogs};
use crate::repository::store::{FileKind, FileMeta};
use crate::repository::{RelativePath, Store};

/// Folders that are listed at once.
const AT_ONCE: usize = 16;
/// The partition of segments whose deletes hold for all of them.
pub(super) const ALL: i64 = -1;

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
    /// The field's number, or that of the group of fields in storage version 2; 0 for deletes.
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
    /// This one has rows by the server's word, and no files; or not all that the server names.
    Without(Segment),
}

impl SegmentFiles {
    /// All its files.
    pub fn all(&self) -> impl Iterator<Item = &LogFile> {
        self.inserts.iter().chain(&self.deletes)
    }

    /// The files that tell these fields of its rows: theirs, or all of them where a file has several fields, and where
    /// fields have different numbers of files, as only all together show which are left of an upload that was tried again.
    pub fn inserts_of(&self, fields: &[i64]) -> impl Iterator<Item = &LogFile> {
        let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
        for file in &self.inserts {
            *counts.entry(file.field).or_default() += 1;
        }
        let mut counts = counts.into_values();
        let first = counts.next();
        let all = self.segment.storage_version >= PACKED || counts.any(|count| Some(count) != first);
        self.inserts.iter().filter(move |file| all || fields.contains(&file.field))
    }

    /// Whether all are there that the server names.
    fn are(&self, named: &SegmentLogs) -> bool {
        let inserts: usize = named.inserts.values().map(Vec::len).sum();
        self.inserts.len() == inserts && self.deletes.len() == named.deletes.len()
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
    // Deletes are not counted as rows (read): a segment of them alone has files whatever its rows are.
    let without = |files: &&SegmentFiles| match &files.segment {
        segment if segment.logs.as_ref().is_some_and(|named| !files.are(named)) => true,
        segment if segment.is_level_zero => files.deletes.is_empty(),
        segment => files.inserts.is_empty() && segment.rows > 0,
    };
    Ok(match found.iter().find(without) {
        Some(files) => Listed::Without(files.segment.clone()),
        None => Listed::Whole(found),
    })
}

async fn list_segment(storage: &Store, segment: Segment) -> Result<SegmentFiles> {
    if segment.storage_version > NEWEST_STORAGE {
        return Err(Error::new(
            Kind::SchemaIncompatible,
            format!(
                "segment {} is of Milvus's storage version {}, which this version does not know: use storage_type LOCAL_FILE",
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
    if let Some(named) = &segment.logs {
        inserts.retain(|file| named.inserts.get(&file.field).is_some_and(|logs| logs.contains(&file.log)));
        deletes.retain(|file| named.deletes.contains(&file.log));
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;

    async fn storage(name: &str, files: &[&str]) -> Store {
        let store = Store::open(&format!("memory://{name}"), &BTreeMap::new()).unwrap();
        for file in files {
            store.put(&RelativePath::new(*file).unwrap(), Bytes::from_static(b"12345")).await.unwrap();
        }
        store
    }

    fn segment(id: i64, partition: i64, more: &Value) -> Segment {
        let mut value = json!({"id": id, "collection": 1, "partition": partition, "rows": 9, "state": "Flushed",
            "is_level_zero": false, "storage_version": 0});
        for (key, change) in more.as_object().into_iter().flatten() {
            value[key] = change.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    async fn listed(storage: &Store, segments: &[Segment]) -> Result<Vec<SegmentFiles>> {
        match list(storage, segments).await? {
            Listed::Whole(files) => Ok(files),
            Listed::Without(segment) => panic!("segment {} has no files", segment.id),
        }
    }

    #[tokio::test]
    async fn files_go_where_milvus_backup_puts_them_in_the_order_of_their_numbers() {
        let files = ["insert_log/1/2/7/100/12", "insert_log/1/2/7/100/9", "insert_log/1/2/7/1/8", "delta_log/1/2/7/20"];
        let store =
            storage("native-files", &[&files[..], &["insert_log/1/2/8/100/3", "stats_log/1/2/7/100/1"]].concat()).await;
        let found = listed(&store, &[segment(7, 2, &json!({}))]).await.unwrap();
        let to: Vec<_> = found[0].all().map(|file| file.to.as_str()).collect();
        assert_eq!(
            to,
            [
                "binlogs/insert_log/1/2/7/7/1/8",
                "binlogs/insert_log/1/2/7/7/100/9",
                "binlogs/insert_log/1/2/7/7/100/12",
                "binlogs/delta_log/1/2/7/7/20"
            ]
        );
        assert_eq!(found[0].bytes(), 20);
    }

    #[tokio::test]
    async fn deletes_for_all_partitions_have_no_folder_of_a_group() {
        let store = storage("native-zero", &["delta_log/1/-1/5/3", "delta_log/1/2/6/4"]).await;
        let zero = json!({"is_level_zero": true});
        let found = listed(&store, &[segment(5, -1, &zero), segment(6, 2, &zero)]).await.unwrap();
        let to: Vec<_> = found.iter().flat_map(SegmentFiles::all).map(|file| file.to.as_str()).collect();
        assert_eq!(to, ["binlogs/delta_log/1/-1/5/3", "binlogs/delta_log/1/2/6/6/4"]);
        let gone = segment(7, -1, &json!({"is_level_zero": true, "rows": 0}));
        assert!(matches!(list(&store, &[gone]).await.unwrap(), Listed::Without(segment) if segment.id == 7));
    }

    #[tokio::test]
    async fn a_segment_with_rows_and_no_files_is_told() {
        let store = storage("native-without", &["insert_log/1/2/7/100/1"]).await;
        let segments = [segment(7, 2, &json!({})), segment(8, 2, &json!({})), segment(9, 2, &json!({"rows": 0}))];
        assert!(matches!(list(&store, &segments).await.unwrap(), Listed::Without(segment) if segment.id == 8));
        assert!(matches!(list(&store, &segments[2..]).await.unwrap(), Listed::Whole(_)));
    }

    #[tokio::test]
    async fn of_the_files_in_a_folder_those_count_that_the_server_names() {
        let files = ["insert_log/1/2/7/100/1", "insert_log/1/2/7/100/2", "insert_log/1/2/7/1/3", "delta_log/1/2/7/4"];
        let store = storage("native-named", &files).await;
        let named =
            |inserts: Value, deletes: Value| segment(7, 2, &json!({"logs": {"inserts": inserts, "deletes": deletes}}));
        let found = listed(&store, &[named(json!({"100": [2], "1": [3]}), json!([]))]).await.unwrap();
        let from: Vec<_> = found[0].all().map(|file| file.from.as_str()).collect();
        assert_eq!(from, ["insert_log/1/2/7/1/3", "insert_log/1/2/7/100/2"]);
        for gone in [named(json!({"100": [2, 5]}), json!([])), named(json!({"100": [2]}), json!([4, 5]))] {
            assert!(matches!(list(&store, &[gone]).await.unwrap(), Listed::Without(segment) if segment.id == 7));
        }
    }

    #[tokio::test]
    async fn what_is_no_binlog_or_of_another_layout_is_refused_by_name() {
        let store = storage("native-foreign", &["insert_log/1/2/7/100/1", "insert_log/1/2/7/100/1.tmp"]).await;
        let error = listed(&store, &[segment(7, 2, &json!({}))]).await.unwrap_err();
        assert!(error.kind() == Kind::Storage && error.message().contains("100/1.tmp"), "{error}");
        let error = listed(&store, &[segment(7, 2, &json!({"storage_version": 3}))]).await.unwrap_err();
        assert!(error.kind() == Kind::SchemaIncompatible && error.message().contains("segment 7"), "{error}");
    }
}
