//! Where the files of a segment lie in a backup's folder: what the metadata tells of their places is where they were
//! copied from.

use super::metadata::{FieldLogs, SEGMENT_FILE, SegmentInfo};
use crate::error::{Error, Kind, Result};

/// The version of Milvus's storage since which several fields are in one file; before, each has files of its own.
pub const PACKED: i64 = 2;
/// The newest version of Milvus's storage that is read.
pub const NEWEST_STORAGE: i64 = PACKED;

/// A file that the metadata names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// Its path below the backup's folder.
    pub path: String,
    /// Milvus's number of the field, or of the group of fields in storage version 2; 0 for deletes.
    pub field: i64,
    /// Its own number, and its name.
    pub number: i64,
    /// Its length, where the metadata tells one.
    pub bytes: Option<u64>,
}

impl SegmentInfo {
    /// The files of its rows, by field and number.
    ///
    /// # Errors
    /// [`Kind::BackupCorrupted`] where one has no number.
    pub fn inserts(&self) -> Result<Vec<NamedFile>> {
        let folder = self.folder("insert_log");
        let mut files = Vec::new();
        for field in &self.binlogs {
            files.extend(named(&format!("{folder}/{}", field.field_id), field.field_id, field)?);
        }
        Ok(in_order(files))
    }

    /// The files of its deletes, by number.
    ///
    /// # Errors
    /// [`Kind::BackupCorrupted`] where one has no number.
    pub fn deletes(&self) -> Result<Vec<NamedFile>> {
        let folder = self.folder("delta_log");
        let mut files = Vec::new();
        for field in &self.deltalogs {
            files.extend(named(&folder, 0, field)?);
        }
        Ok(in_order(files))
    }

    /// Its number of rows, deleted ones among them.
    #[must_use]
    pub fn rows(&self) -> u64 {
        u64::try_from(self.num_of_rows).unwrap_or_default()
    }

    /// Refuses what this version does not read.
    ///
    /// # Errors
    /// [`Kind::SchemaIncompatible`] for a form of storage that came after version 2.
    pub fn require_known(&self) -> Result<()> {
        if self.storage_version <= NEWEST_STORAGE {
            return Ok(());
        }
        Err(Error::new(
            Kind::SchemaIncompatible,
            format!(
                "segment {} is of Milvus's storage version {}, and this version reads those up to {NEWEST_STORAGE}",
                self.segment_id, self.storage_version
            ),
        ))
    }
}

fn named(folder: &str, field: i64, logs: &FieldLogs) -> Result<Vec<NamedFile>> {
    let one = |log: &super::metadata::Log| {
        let number = log.number()?;
        let bytes = u64::try_from(log.log_size).ok().filter(|bytes| *bytes > 0);
        Some(NamedFile { path: format!("{folder}/{number}"), field, number, bytes })
    };
    let files: Option<Vec<NamedFile>> = logs.binlogs.iter().map(one).collect();
    files.ok_or_else(|| {
        Error::new(Kind::BackupCorrupted, format!("the metadata lists a file in {folder} that has no number"))
            .with("failed_files", vec![SEGMENT_FILE])
    })
}

/// By field and number, each once.
fn in_order(mut files: Vec<NamedFile>) -> Vec<NamedFile> {
    files.sort_by_key(|file| (file.field, file.number));
    files.dedup_by_key(|file| (file.field, file.number));
    files
}

#[cfg(test)]
mod tests {
    use super::super::metadata::Log;
    use super::*;

    #[test]
    fn files_come_by_field_and_number_each_once_with_or_without_a_folder_of_groups() {
        let log = |id: i64, size: i64| Log { log_id: id, log_size: size, log_path: String::new() };
        let old = Log { log_path: "files/insert_log/1/2/3/100/5".to_owned(), ..Log::default() };
        let mut segment = SegmentInfo {
            segment_id: 3,
            collection_id: 1,
            partition_id: 2,
            binlogs: vec![
                FieldLogs { field_id: 100, binlogs: vec![log(7, 10), log(6, 0), log(7, 10), old] },
                FieldLogs { field_id: 1, binlogs: vec![log(9, 10)] },
            ],
            deltalogs: vec![FieldLogs { field_id: 0, binlogs: vec![log(8, 4)] }],
            ..SegmentInfo::default()
        };
        let paths = |files: Vec<NamedFile>| files.into_iter().map(|file| (file.path, file.bytes)).collect::<Vec<_>>();
        assert_eq!(
            paths(segment.inserts().unwrap()),
            [
                ("binlogs/insert_log/1/2/3/1/9".to_owned(), Some(10)),
                ("binlogs/insert_log/1/2/3/100/5".to_owned(), None),
                ("binlogs/insert_log/1/2/3/100/6".to_owned(), None),
                ("binlogs/insert_log/1/2/3/100/7".to_owned(), Some(10)),
            ]
        );
        segment.group_id = 4;
        assert_eq!(paths(segment.deletes().unwrap()), [("binlogs/delta_log/1/2/4/3/8".to_owned(), Some(4))]);
        segment.deltalogs[0].binlogs.push(Log { log_path: "elsewhere/".to_owned(), ..Log::default() });
        assert!(segment.deletes().unwrap_err().message().contains("no number"));
    }
}
