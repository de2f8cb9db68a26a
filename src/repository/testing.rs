//! What the tests of this module share: repositories in memory and on disk, and small backups.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::memory::InMemory;
use tempfile::TempDir;

use crate::checksum::ChecksumAlgorithm;
use crate::error::Result;

use super::{
    Attempt, Backup, BeginRequest, ChunkEntry, ChunkNote, ChunkTable, Manifest, RelativePath, Repository, Store,
};

pub(super) const BEAT: Duration = Duration::from_millis(40);

/// A repository for a test; the folder lives as long as this does.
pub(super) struct Site {
    pub(super) repository: Repository,
    pub(super) folder: Option<TempDir>,
}

impl Site {
    /// One on local disk, one in memory, and one on S3 where `MILVAULT_TEST_S3` names an endpoint with a bucket `test`:
    /// what holds for one has to hold for the others.
    pub(super) fn each() -> Vec<Self> {
        let mut sites = vec![Self::local(), Self::memory()];
        sites.extend(std::env::var("MILVAULT_TEST_S3").ok().map(|endpoint| Self::s3(&endpoint)));
        sites
    }

    fn s3(endpoint: &str) -> Self {
        let random: [u8; 8] = rand::random();
        let options = [
            ("aws_endpoint", endpoint),
            ("aws_allow_http", "true"),
            ("aws_access_key_id", "test"),
            ("aws_secret_access_key", "test"),
            ("aws_region", "us-east-1"),
        ];
        let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
        let root = format!("s3://test/{}", crate::checksum::hex(&random));
        // Slower than memory: a heartbeat must have the time to arrive.
        let repository = Repository::open(&root, &options).unwrap().with_heartbeat(BEAT);
        Self { repository, folder: None }
    }

    pub(super) fn local() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("not/there yet");
        let repository = Repository::open(root.to_str().unwrap(), &BTreeMap::new()).unwrap().with_heartbeat(BEAT);
        Self { repository, folder: Some(folder) }
    }

    pub(super) fn memory() -> Self {
        Self { repository: on(Arc::new(InMemory::new())), folder: None }
    }

    /// Every path in the repository, folders of the local disk included.
    pub(super) async fn everything(&self) -> Vec<String> {
        let mut paths: Vec<_> = self.repository.store.list("").await.unwrap().into_iter().map(|f| f.path).collect();
        paths.extend(self.repository.store.list_folders("").await.unwrap());
        paths.sort();
        paths.dedup();
        paths
    }
}

pub(super) fn on(objects: Arc<dyn object_store::ObjectStore>) -> Repository {
    Repository::on(Store::from_objects(objects, "prefix", "memory")).with_heartbeat(BEAT)
}

pub(super) fn path(text: &str) -> RelativePath {
    RelativePath::new(text).unwrap()
}

pub(super) fn request(name: Option<&str>) -> BeginRequest {
    BeginRequest {
        database: "default".to_owned(),
        collection: "films".to_owned(),
        backup_name: name.map(str::to_owned),
        algorithm: ChecksumAlgorithm::Sha256,
        fingerprint: "films, compressed".to_owned(),
        resume: false,
    }
}

/// Writes all files of a small backup but does not commit it.
pub(super) async fn write_files(attempt: &Attempt) -> Result<()> {
    let mut chunks = ChunkTable::default();
    for index in 0..2 {
        let file = super::names::data_file("_default", index)?;
        let mut upload = attempt.upload(&file).await?;
        upload.write(Bytes::from(vec![b'r'; 1000])).await?;
        upload.write(Bytes::from(format!("chunk {index} of {}", attempt.id()))).await?;
        let sum = upload.finish().await?;
        chunks.chunks.push(ChunkEntry {
            file,
            partition: "_default".to_owned(),
            rows: 5,
            bytes: 1000,
            file_bytes: sum.bytes,
            lowest: 1.into(),
            highest: 5.into(),
            digest: "0".repeat(32),
        });
    }
    attempt.put(&path("schema.json"), Bytes::from_static(b"{\"fields\": []}")).await?;
    attempt.put(&path("chunks.json"), chunks.to_bytes()?.into()).await?;
    attempt.put(&super::names::index_file("vector")?, Bytes::from_static(b"{\"field\": \"vector\"}")).await
}

/// So many finished and noted data files, one after the other by their keys.
pub(super) async fn finish_and_note(attempt: &Attempt, count: usize) -> Vec<ChunkNote> {
    let mut notes = Vec::new();
    for index in 0..count {
        let file = super::names::data_file("_default", index).unwrap();
        let mut upload = attempt.upload(&file).await.unwrap();
        upload.write(Bytes::from(vec![u8::try_from(index).unwrap(); 1000])).await.unwrap();
        let sum = upload.finish().await.unwrap();
        let bound = |key: usize| serde_json::Value::from(10 * key);
        let chunk = ChunkEntry {
            file,
            partition: "_default".to_owned(),
            rows: 5,
            bytes: 1000,
            file_bytes: sum.bytes,
            lowest: bound(index),
            highest: bound(index + 1),
            digest: "0".repeat(32),
        };
        let (after, upto) = (bound(index), bound(index + 1));
        let note = ChunkNote { chunk, checksum: sum.checksum, after, upto, read_since: attempt.created_at() };
        attempt.note(vec![note.clone()]).await.unwrap();
        notes.push(note);
    }
    notes
}

pub(super) fn manifest(attempt: &Attempt) -> Manifest {
    Manifest::new(attempt.id().clone(), attempt.backup_name(), "default", "films")
}

/// A committed backup.
pub(super) async fn make(repository: &Repository, name: &str) -> Backup {
    let attempt = repository.begin(request(Some(name))).await.unwrap();
    write_files(&attempt).await.unwrap();
    let manifest = manifest(&attempt);
    attempt.commit(manifest).await.unwrap();
    repository.find(name, Some("films"), None).await.unwrap()
}

pub(super) async fn names(repository: &Repository) -> Vec<String> {
    let listing = repository.list(None, None).await.unwrap();
    assert!(listing.damaged.is_empty(), "{:?}", listing.damaged);
    listing.backups.into_iter().map(|listed| listed.manifest.backup_name).collect()
}
