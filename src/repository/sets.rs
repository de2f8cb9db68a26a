//! Notes of backups that were made together: `_sets/<id>.json`, written last. A member is whole or not by its own
//! manifest; the note says what belonged together.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Result, internal};

use super::catalog::Repository;
use super::names::{BackupId, RelativePath, now};

/// The folder of the notes. No collection that Milvus allows two of has backups in it: ids are folders, and these files.
const FOLDER: &str = "_sets";

/// What was made together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetNote {
    /// The members' common name, if they have one.
    pub name: Option<String>,
    /// The hybrid timestamp that all of them show.
    pub timestamp: Option<u64>,
    /// What the server called itself.
    pub milvus_version: String,
    /// The backups.
    pub members: Vec<Member>,
    /// Users, roles and grants of the server; null where it tells none.
    pub access: Value,
}

/// One of the backups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The collection's database.
    pub database: String,
    /// The collection.
    pub collection_name: String,
    /// The backup.
    pub backup_id: BackupId,
}

impl Repository {
    /// Writes a note, and says where it is.
    pub async fn note_set(&self, note: &SetNote) -> Result<String> {
        let created_at = now();
        let id = BackupId::new(created_at);
        let path = RelativePath::new(format!("{FOLDER}/{id}.json"))?;
        let wrong = |error: serde_json::Error| internal(format!("a set cannot be written as JSON: {error}"));
        let mut value = serde_json::to_value(note).map_err(wrong)?;
        value["set_version"] = 1.into();
        value["set_id"] = id.as_str().into();
        value["created_at"] = serde_json::to_value(created_at).map_err(wrong)?;
        value["tool_version"] = env!("CARGO_PKG_VERSION").into();
        let mut bytes = serde_json::to_vec_pretty(&value).map_err(wrong)?;
        bytes.push(b'\n');
        self.store().put(&path, bytes.into()).await?;
        Ok(self.store().display(path.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::Site;
    use super::*;

    #[tokio::test]
    async fn a_note_is_no_backup_and_is_in_nobodys_way() {
        for site in Site::each() {
            let member =
                json!({"database": "default", "collection_name": "films", "backup_id": "b20261121T063000Z_3f9a1c"});
            let note = SetNote {
                name: Some("nightly".to_owned()),
                timestamp: Some(470_623_821_038_878_736),
                milvus_version: "2.3.5".to_owned(),
                members: vec![serde_json::from_value(member).unwrap()],
                access: json!({"users": ["root"]}),
            };
            let written = site.repository.note_set(&note).await.unwrap();
            assert!(written.contains("/_sets/b20"), "{written}");
            let [file] = &site.repository.store().list(FOLDER).await.unwrap()[..] else { panic!("one file") };
            let bytes = site.repository.store().get(&RelativePath::new(&*file.path).unwrap(), 4096).await.unwrap();
            assert_eq!(serde_json::from_slice::<SetNote>(&bytes.unwrap()).unwrap(), note);
            let listing = site.repository.list(None, None).await.unwrap();
            assert!(listing.backups.is_empty() && listing.damaged.is_empty());
        }
    }
}
