//! What a dead run had finished: adopted once it is proven whole, and never while its writer could still harm it.

use std::sync::Arc;

use bytes::Bytes;
use chrono::TimeDelta;
use futures::FutureExt;
use object_store::memory::InMemory;
use serde_json::Value;

use super::holder::tests::{ended_process, record};
use super::testing::{BEAT, Site, finish_and_note, make, manifest, names, on, path, request};
use super::{Adopted, Attempt, BeginRequest, Repository};

fn resuming() -> BeginRequest {
    BeginRequest { resume: true, ..request(None) }
}

async fn adopt(attempt: &Attempt) -> Option<Adopted> {
    attempt.adopt(&|_| std::future::ready(()).boxed()).await.unwrap()
}

/// The lock of a process that has ended, or of one elsewhere that is silent, takes the place of `attempt`'s.
async fn take_for_dead(repository: &Repository, attempt: &Attempt, proven: bool) {
    let mut dead = record("dead");
    if proven {
        dead.pid = ended_process();
    } else {
        dead.host = Some("elsewhere".to_owned());
        dead.interval_seconds = BEAT.as_secs_f64();
    }
    dead.backup_id = Some(attempt.id().clone());
    let lock = Bytes::from(serde_json::to_vec(&dead).unwrap());
    repository.store().put(&path("films/.lock.json"), lock).await.unwrap();
}

/// Commits what was adopted, and finds it whole.
async fn commit(repository: &Repository, attempt: Attempt) {
    let (id, made) = (attempt.id().clone(), manifest(&attempt));
    attempt.commit(made).await.unwrap();
    let backup = repository.find(id.as_str(), None, None).await.unwrap();
    let report = backup.check_files(false, &|_| {}).await.unwrap();
    assert!(report.is_whole(), "{:?}", report.failed);
}

#[tokio::test]
async fn finished_files_are_adopted_and_no_trace_stays() {
    for site in Site::each() {
        let first = site.repository.begin(resuming()).await.unwrap();
        finish_and_note(&first, 2).await;
        let from = first.id().clone();
        assert!(first.leave().await);
        assert!(names(&site.repository).await.is_empty());

        let second = site.repository.begin(resuming()).await.unwrap();
        let adopted = adopt(&second).await.unwrap();
        assert_eq!((adopted.from, adopted.chunks.len()), (from.clone(), 2));
        assert!(adopt(&second).await.is_none());
        commit(&site.repository, second).await;
        let left = site.everything().await;
        assert!(!left.iter().any(|path| path.contains(".unfinished") || path.contains(from.as_str())), "{left:?}");
    }
}

#[tokio::test]
async fn a_writer_that_lives_after_all_can_neither_commit_nor_change_what_was_adopted() {
    for site in Site::each() {
        let slow = site.repository.begin(resuming()).await.unwrap();
        finish_and_note(&slow, 2).await;
        take_for_dead(&site.repository, &slow, false).await;
        let heir = site.repository.begin(resuming()).await.unwrap();
        let adopted = adopt(&heir).await.unwrap();
        assert_eq!(adopted.chunks.len(), 2);
        // It writes on, under the names of the files that were adopted too, and tries to commit.
        let store = site.repository.store();
        for note in &adopted.chunks {
            let old = path(&format!("films/{}/{}", slow.id(), note.chunk.file));
            store.put(&old, Bytes::from_static(b"something else")).await.unwrap();
        }
        let made = manifest(&slow);
        assert!(slow.commit(made).await.is_err());
        commit(&site.repository, heir).await;
        assert_eq!(names(&site.repository).await.len(), 1);
    }
}

#[tokio::test]
async fn what_is_not_as_it_was_noted_is_not_adopted() {
    for site in Site::each() {
        let first = site.repository.begin(resuming()).await.unwrap();
        let notes = finish_and_note(&first, 4).await;
        let at = |index: usize| path(&format!("films/{}/{}", first.id(), notes[index].chunk.file));
        let store = site.repository.store();
        let mut bytes = store.get(&at(0), 1 << 20).await.unwrap().unwrap().to_vec();
        bytes[500] ^= 1;
        store.put(&at(0), bytes.into()).await.unwrap();
        store.put(&at(1), Bytes::from_static(b"cut")).await.unwrap();
        store.delete(&at(2)).await.unwrap();
        assert!(first.leave().await);
        let second = site.repository.begin(resuming()).await.unwrap();
        let adopted = adopt(&second).await.unwrap();
        assert_eq!(adopted.chunks, notes[3..]);
        commit(&site.repository, second).await;
    }
}

#[tokio::test]
async fn a_note_that_was_changed_counts_for_nothing() {
    let site = Site::memory();
    let first = site.repository.begin(resuming()).await.unwrap();
    finish_and_note(&first, 2).await;
    let store = site.repository.store();
    let note = path(&format!("films/.unfinished/{}/00000.json", first.id()));
    let text = String::from_utf8(store.get(&note, 1 << 20).await.unwrap().unwrap().to_vec()).unwrap();
    store.put(&note, text.replace("\"rows\":5", "\"rows\":6").into()).await.unwrap();
    assert!(first.leave().await);
    let second = site.repository.begin(resuming()).await.unwrap();
    assert_eq!(adopt(&second).await.unwrap().chunks.len(), 1);
    second.abandon().await;
}

#[tokio::test]
async fn only_a_run_of_the_same_kind_adopts_and_every_other_clears_away() {
    let other = BeginRequest { fingerprint: "books".to_owned(), ..resuming() };
    for request in [other, BeginRequest { resume: false, ..resuming() }] {
        let site = Site::local();
        let first = site.repository.begin(resuming()).await.unwrap();
        finish_and_note(&first, 2).await;
        assert!(first.leave().await);
        let second = site.repository.begin(request).await.unwrap();
        assert!(adopt(&second).await.is_none());
        second.abandon().await;
        assert_eq!(site.everything().await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn another_operations_sweep_leaves_what_can_be_gone_on_with() {
    for site in Site::each() {
        let first = site.repository.begin(resuming()).await.unwrap();
        finish_and_note(&first, 2).await;
        take_for_dead(&site.repository, &first, true).await;
        std::mem::forget(first);
        site.repository.sweep("default", "films").await.unwrap();
        let second = site.repository.begin(resuming()).await.unwrap();
        assert_eq!(adopt(&second).await.unwrap().chunks.len(), 2);
        second.abandon().await;
        // The proof of its death outlived the sweep: not even a tombstone stays.
        assert_eq!(site.everything().await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_run_that_is_long_dead_is_swept() {
    let site = Site::local();
    let first = site.repository.begin(resuming()).await.unwrap();
    finish_and_note(&first, 1).await;
    let (old, id) = (first.id().clone(), super::BackupId::new(super::names::now() - TimeDelta::days(8)));
    assert!(first.leave().await);
    let folder = site.folder.as_ref().unwrap().path().join("not/there yet/films");
    std::fs::rename(folder.join(old.as_str()), folder.join(id.as_str())).unwrap();
    std::fs::rename(folder.join(".unfinished").join(old.as_str()), folder.join(".unfinished").join(id.as_str()))
        .unwrap();
    site.repository.sweep("default", "films").await.unwrap();
    assert_eq!(site.everything().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_attempt_without_notes_leaves_nothing() {
    let site = Site::local();
    let attempt = site.repository.begin(resuming()).await.unwrap();
    attempt.put(&path("schema.json"), Bytes::from_static(b"{}")).await.unwrap();
    assert!(!attempt.leave().await);
    assert_eq!(site.everything().await, Vec::<String>::new());
}

#[tokio::test]
async fn notes_of_a_backup_that_exists_are_swept() {
    let store = InMemory::new();
    let repository = on(Arc::new(store.clone()));
    let backup = make(&repository, "whole").await;
    let note = path(&format!("films/.unfinished/{}/00000.json", backup.id()));
    repository.store().put(&note, serde_json::to_vec(&Value::Null).unwrap().into()).await.unwrap();
    repository.sweep("default", "films").await.unwrap();
    assert_eq!(repository.store().list("films/.unfinished").await.unwrap().len(), 0);
    assert_eq!(names(&repository).await, ["whole"]);
    tokio::time::sleep(BEAT).await;
}
