//! Copies between repositories: whole or not there, resumed, and never of damaged files.

use std::future::{pending, ready};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::FutureExt;

use crate::error::{Error, Kind};

use super::look::{Found, look};
use super::store::Version;
use super::sweep::finish_deletion;
use super::testing::{BEAT, Site, make, names, path};
use super::{Backup, CopyReport, Repository, State};

async fn copied(to: &Repository, backup: &Backup) -> crate::error::Result<CopyReport> {
    to.copy_from(backup, pending(), &|_| ready(()).boxed()).await
}

#[tokio::test]
async fn a_copy_is_the_same_backup_in_another_place() {
    for (from, to) in [(Site::local(), Site::memory()), (Site::memory(), Site::local()), (Site::local(), Site::local())]
    {
        let backup = make(&from.repository, "one").await;
        let told = AtomicU64::new(0);
        let tell = |bytes| {
            told.fetch_add(bytes, Ordering::Relaxed);
            ready(()).boxed()
        };
        let report = to.repository.copy_from(&backup, pending(), &tell).await.unwrap();
        assert_eq!((report.files, report.files_copied, report.already_there), (7, 7, false));
        assert_eq!(told.load(Ordering::Relaxed), backup.manifest().compressed_size_bytes);
        assert_eq!(names(&to.repository).await, ["one"]);
        let copy = to.repository.find("one", Some("films"), None).await.unwrap();
        assert_eq!(copy.manifest(), backup.manifest());
        assert!(copy.check_files(false, &|_| ()).await.unwrap().is_whole());
        assert!(!to.everything().await.iter().any(|name| name.contains(".lock")));

        let again = copied(&to.repository, &backup).await.unwrap();
        assert_eq!((again.files_copied, again.already_there), (0, true));
    }
}

#[tokio::test]
async fn a_copy_goes_on_where_an_earlier_one_stopped() {
    let (from, to) = (Site::local(), Site::local());
    let backup = make(&from.repository, "one").await;
    copied(&to.repository, &backup).await.unwrap();
    let store = &to.repository.store;
    let base = format!("films/{}", backup.id());
    // As a copier leaves it that died before the commit: one file missing, one cut off, one with other bytes.
    for file in ["metadata.json", "checksums.json", "schema.json"] {
        store.delete(&path(&format!("{base}/{file}"))).await.unwrap();
    }
    let chunk = |number: u8| path(&format!("{base}/data/_default-0000{number}.parquet"));
    let size = store.size(&chunk(1)).await.unwrap().unwrap();
    store.put(&path(&format!("{base}/data/stray.parquet")), Bytes::from_static(b"PAR1")).await.unwrap();
    store.put(&chunk(1), Bytes::from(vec![b'x'; usize::try_from(size).unwrap()])).await.unwrap();
    assert!(names(&to.repository).await.is_empty());
    let report = copied(&to.repository, &backup).await.unwrap();
    // Schema and the changed chunk again, and the two that are always written; the other chunk, chunks.json and the
    // index were kept.
    assert_eq!((report.files, report.files_copied), (7, 4));
    let copy = to.repository.find("one", Some("films"), None).await.unwrap();
    assert!(copy.check_files(false, &|_| ()).await.unwrap().is_whole());
}

#[tokio::test]
async fn a_copy_that_is_stopped_is_no_backup_and_blocks_nobody() {
    let (from, to) = (Site::local(), Site::local());
    let backup = make(&from.repository, "one").await;
    let stop = async { Error::new(Kind::Canceled, "stopped") };
    let error = to.repository.copy_from(&backup, stop, &|_| ready(()).boxed()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Canceled);
    assert!(names(&to.repository).await.is_empty());
    assert!(copied(&to.repository, &backup).await.is_ok());
}

#[tokio::test]
async fn a_damaged_file_is_named_and_does_not_appear_in_the_copy() {
    for to in [Site::local(), Site::memory()] {
        let from = Site::local();
        let backup = make(&from.repository, "one").await;
        let name = format!("films/{}/data/_default-00001.parquet", backup.id());
        let mut bytes = from.repository.store.get(&path(&name), 1 << 20).await.unwrap().unwrap().to_vec();
        bytes[500] ^= 1;
        from.repository.store.put(&path(&name), bytes.into()).await.unwrap();
        let error = copied(&to.repository, &backup).await.unwrap_err();
        assert_eq!(error.kind(), Kind::BackupCorrupted);
        assert_eq!(error.details()["failed_files"], serde_json::json!(["data/_default-00001.parquet"]));
        assert!(names(&to.repository).await.is_empty());
        assert_eq!(to.repository.store.size(&path(&name)).await.unwrap(), None);
    }
}

#[tokio::test]
async fn names_and_places_that_are_taken_are_refused() {
    let (from, to) = (Site::local(), Site::local());
    let backup = make(&from.repository, "one").await;
    let other = make(&to.repository, "one").await;
    let error = copied(&to.repository, &backup).await.unwrap_err();
    assert_eq!(
        (error.kind(), &error.details()["existing_backup_id"]),
        (Kind::AlreadyExists, &other.id().as_str().into())
    );
    assert_eq!(copied(&from.repository, &backup).await.unwrap_err().kind(), Kind::InvalidArgument);
    assert_eq!(names(&to.repository).await, ["one"]);
}

#[tokio::test]
async fn within_one_object_store_the_store_copies() {
    let root = format!("memory://{}", crate::checksum::hex(&rand::random::<[u8; 8]>()));
    let open =
        |prefix: &str| Repository::open(&format!("{root}/{prefix}"), &std::collections::BTreeMap::new()).unwrap();
    let (from, to) = (open("here"), open("there"));
    let backup = make(&from, "one").await;
    let report = copied(&to, &backup).await.unwrap();
    assert!(report.server_side);
    let copy = to.find("one", Some("films"), None).await.unwrap();
    assert!(copy.check_files(false, &|_| ()).await.unwrap().is_whole());
    assert!(!copied(&Site::local().repository, &backup).await.unwrap().server_side);
}

/// Marks the copy of a backup as one that is being deleted; as a deletion does it that is then taken its time over.
async fn mark(to: &Repository, backup: &Backup) -> Version {
    let Found::Manifest(mut manifest, version) = look(&to.store, "films", backup.id()).await.unwrap() else { panic!() };
    manifest.state = State::Deleting;
    let at = path(&format!("films/{}/metadata.json", backup.id()));
    to.store.replace_if(&at, &version, manifest.to_bytes().unwrap().into()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_copy_gives_way_to_a_deletion_that_goes_on() {
    for to in Site::each() {
        let from = Site::local();
        let backup = make(&from.repository, "one").await;
        copied(&to.repository, &backup).await.unwrap();
        let version = mark(&to.repository, &backup).await;
        let deleted = async {
            let store = &to.repository.store;
            for file in store.list(&format!("films/{}", backup.id())).await.unwrap() {
                if !file.path.ends_with("metadata.json") {
                    tokio::time::sleep(BEAT * 3).await;
                    store.delete(&path(&file.path)).await.unwrap();
                }
            }
            finish_deletion(store, "films", backup.id(), &version).await.unwrap();
        };
        let copied_meanwhile = async {
            tokio::time::sleep(BEAT).await;
            copied(&to.repository, &backup).await
        };
        let ((), refused) = tokio::join!(deleted, copied_meanwhile);
        let error = refused.unwrap_err();
        assert_eq!((error.kind(), error.is_temporary()), (Kind::InProgress, true), "{error:?}");
        assert!(error.message().contains("is being deleted"), "{error}");
        assert_eq!(to.repository.store.list("").await.unwrap(), []);
        copied(&to.repository, &backup).await.unwrap();
        let copy = to.repository.find("one", Some("films"), None).await.unwrap();
        assert!(copy.check_files(false, &|_| ()).await.unwrap().is_whole());
    }
}

#[tokio::test]
async fn a_copy_takes_the_place_of_what_a_dead_deletion_left_and_keeps_its_manifest() {
    for to in Site::each() {
        let from = Site::local();
        let backup = make(&from.repository, "one").await;
        copied(&to.repository, &backup).await.unwrap();
        let marked = mark(&to.repository, &backup).await;
        let schema = path(&format!("films/{}/schema.json", backup.id()));
        to.repository.store.delete(&schema).await.unwrap();
        let begun = std::time::Instant::now();
        let report = copied(&to.repository, &backup).await.unwrap();
        assert_eq!((report.files_copied, report.already_there), (7, false));
        assert!(begun.elapsed() >= BEAT * 5);
        let copy = to.repository.find("one", Some("films"), None).await.unwrap();
        assert!(copy.check_files(false, &|_| ()).await.unwrap().is_whole());
        // The deletion lived after all, and comes to its last step: this manifest is not the one that it marked.
        finish_deletion(&to.repository.store, "films", backup.id(), &marked).await.unwrap();
        assert_eq!(names(&to.repository).await, ["one"]);
    }
}
