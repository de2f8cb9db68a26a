//! A repository that is opened to be read only: nothing in it changes, whatever is called.

use bytes::Bytes;

use crate::error::{Kind, Result};

use super::journal::{Journal, JournalEntry, Phase};
use super::testing::{Site, make, names, path, request};

fn entry(repository: &super::Repository, id: &super::BackupId) -> JournalEntry {
    JournalEntry {
        server: repository.store().display(""),
        database: "default".to_owned(),
        target: "films".to_owned(),
        staging: "mv_01234567".to_owned(),
        aside: None,
        phase: Phase::Staging,
        backup_id: id.clone(),
        aliases: Vec::new(),
        brings: Vec::new(),
        fingerprint: None,
        done: std::collections::BTreeMap::new(),
    }
}

fn refused<T>(outcome: Result<T>) {
    let error = outcome.err().unwrap();
    assert_eq!(error.kind(), Kind::ReadOnly, "{error:?}");
    assert!(error.message().contains("read_only") && error.details()["permissions_issue"] == true, "{error:?}");
}

#[tokio::test]
async fn every_way_to_change_it_is_refused_and_every_way_to_read_it_works() {
    for site in Site::each() {
        let backup = make(&site.repository, "mine").await;
        let before = site.everything().await;
        let closed = site.repository.clone().read_only();
        let store = closed.store();
        let manifest = path(&format!("films/{}/metadata.json", backup.id()));
        let (_, version) = store.get_versioned(&manifest, 1 << 20).await.unwrap().unwrap();
        refused(store.put(&manifest, Bytes::new()).await);
        refused(store.put_if_absent(&path("films/new"), Bytes::new()).await);
        refused(store.replace_if(&manifest, &version, Bytes::new()).await);
        refused(store.delete(&manifest).await);
        refused(store.delete_if(&manifest, &version).await);
        refused(store.upload(&path("films/new")).await);
        refused(store.remove_empty_folders("films").await);
        refused(store.remove_empty_parents(&manifest).await);
        refused(store.delete_unfinished("films").await);
        refused(closed.begin(request(None)).await);
        refused(closed.delete("mine", None, None).await);
        refused(closed.begin_journal(entry(&closed, backup.id())).await);
        let found = closed.find("mine", None, None).await.unwrap();
        refused(found.write_verification(&serde_json::json!({})).await);
        assert!(closed.mark_reading(&found).await.unwrap().is_none());
        assert!(found.check_files(true, &|_| {}).await.unwrap().is_whole());
        assert_eq!(names(&closed).await, ["mine"]);
        assert_eq!(site.everything().await, before);
    }
}

#[tokio::test]
async fn a_journal_that_is_kept_nowhere_says_what_it_is_told_and_what_is_noted_can_be_read() {
    let site = Site::memory();
    let backup = make(&site.repository, "mine").await;
    let noted = entry(&site.repository, backup.id());
    let mut journal = Journal::unkept(noted.clone());
    journal.advance(|entry| entry.phase = Phase::Swapping).await.unwrap();
    assert!(journal.entry().phase == Phase::Swapping && !journal.is_kept());
    journal.finish().await.unwrap();
    assert!(site.repository.noted_restores(&noted.server).await.unwrap().is_empty());
    let kept = site.repository.begin_journal(noted.clone()).await.unwrap();
    let closed = site.repository.clone().read_only();
    assert_eq!(closed.noted_restores(&noted.server).await.unwrap(), std::slice::from_ref(&noted));
    assert!(closed.noted_restores("another server").await.unwrap().is_empty());
    kept.finish().await.unwrap();
}
