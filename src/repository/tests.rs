//! What a repository promises, on local disk and in memory alike.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use serde_json::json;

use crate::error::Kind;

use super::holder::tests::{ended_process, record};
use super::lease::{Lease, Terms};
use super::testing::{BEAT, Site, make, manifest, names, path, request, write_files};
use super::{FailedFile, JournalEntry, Phase, Reason, State};

fn lock_of_a_dead_process(backup_id: &str) -> Bytes {
    let mut dead = record("dead");
    dead.pid = ended_process();
    dead.backup_id = Some(backup_id.parse().unwrap());
    Bytes::from(serde_json::to_vec(&dead).unwrap())
}

fn lock_of_another_host(backup_id: &str) -> Bytes {
    let mut strange = record("strange");
    strange.host = Some("elsewhere|boot|namespace".to_owned());
    strange.interval_seconds = BEAT.as_secs_f64();
    strange.backup_id = Some(backup_id.parse().unwrap());
    Bytes::from(serde_json::to_vec(&strange).unwrap())
}

const DEAD: &str = "b20200101T000000Z_abcdef";

async fn leave_half_a_backup(site: &Site, lock: Option<Bytes>) {
    let store = &site.repository.store;
    store.put(&path(&format!("films/{DEAD}/data/p-00000.parquet")), Bytes::from_static(b"rows")).await.unwrap();
    store.put(&path(&format!("films/{DEAD}/checksums.json")), Bytes::from_static(b"{}")).await.unwrap();
    if let Some(lock) = lock {
        store.put(&path("films/.lock.json"), lock).await.unwrap();
    }
}

#[tokio::test]
async fn a_committed_backup_is_listed_found_read_and_whole() {
    for site in Site::each() {
        let repository = &site.repository;
        assert!(names(repository).await.is_empty());
        let backup = make(repository, "first").await;
        let second = make(repository, "second").await;
        assert_eq!(names(repository).await, ["second", "first"]);
        assert_eq!(repository.find(second.id().as_str(), None, None).await.unwrap().manifest(), second.manifest());
        assert_eq!(repository.list(Some("default"), Some("films")).await.unwrap().backups.len(), 2);
        assert_eq!(repository.list(Some("other"), None).await.unwrap().backups.len(), 0);
        assert_eq!(backup.manifest().state, State::Completed);

        let told = AtomicU64::new(0);
        let report = backup.check_files(false, &|bytes| _ = told.fetch_add(bytes, Ordering::Relaxed)).await.unwrap();
        assert!(report.is_whole(), "{report:?}");
        assert_eq!(report.files_verified, 7);
        assert_eq!(report.bytes, told.load(Ordering::Relaxed));

        assert_eq!(backup.schema().await.unwrap(), json!({"fields": []}));
        assert_eq!(backup.indexes().await.unwrap(), [json!({"field": "vector"})]);
        let chunks = backup.chunks().await.unwrap().chunks;
        let file = backup.open_file(&chunks[1].file).await.unwrap();
        assert_eq!(file.size(), chunks[1].file_bytes);
        assert_eq!(&file.read_range(1000..1007).await.unwrap()[..], b"chunk 1");
        assert_eq!(file.local_path().is_some(), site.folder.is_some());
        assert!(file.read_range(0..file.size() + 1).await.is_err());
        let total: u64 = site.everything().await.len() as u64;
        assert!(total > 0 && !site.everything().await.iter().any(|name| name.contains(".lock") || name.contains('#')));
        assert_eq!(
            backup.manifest().compressed_size_bytes + backup.manifest().to_bytes().unwrap().len() as u64,
            report.bytes
        );
    }
}

#[tokio::test]
async fn big_files_are_uploaded_in_parts_with_the_checksum_of_the_whole() {
    for site in Site::each() {
        let attempt = site.repository.begin(request(None)).await.unwrap();
        let mut upload = attempt.upload(&path("data/big.parquet")).await.unwrap();
        let block: Vec<u8> = (0..3_000_001_u32).map(|i| i.to_le_bytes()[0]).collect();
        for _ in 0..10 {
            upload.write(Bytes::from(block.clone())).await.unwrap();
        }
        let sum = upload.finish().await.unwrap();
        assert_eq!(sum.bytes, 30_000_010);
        assert_eq!(sum.checksum, crate::checksum::ChecksumAlgorithm::Sha256.of(&block.repeat(10)));
        let manifest = manifest(&attempt);
        let id = attempt.commit(manifest).await.unwrap().backup_id;
        let backup = site.repository.find(id.as_str(), None, None).await.unwrap();
        assert!(backup.check_files(true, &|_| {}).await.unwrap().is_whole());
    }
}

#[tokio::test]
async fn an_abandoned_dropped_or_failed_attempt_leaves_nothing() {
    for site in Site::each() {
        let attempt = site.repository.begin(request(None)).await.unwrap();
        write_files(&attempt).await.unwrap();
        let mut open = attempt.upload(&path("data/open.parquet")).await.unwrap();
        open.write(Bytes::from(vec![0; 20 << 20])).await.unwrap();
        open.abort().await;
        attempt.abandon().await;
        assert!(site.everything().await.is_empty(), "{:?}", site.everything().await);

        let attempt = site.repository.begin(request(None)).await.unwrap();
        write_files(&attempt).await.unwrap();
        let mut dropped = attempt.upload(&path("data/open.parquet")).await.unwrap();
        dropped.write(Bytes::from(vec![0; 20 << 20])).await.unwrap();
        drop(dropped);
        drop(attempt);
        for _ in 0..100 {
            tokio::time::sleep(BEAT).await;
            if site.everything().await.is_empty() {
                break;
            }
        }
        assert!(site.everything().await.is_empty(), "{:?}", site.everything().await);

        let attempt = site.repository.begin(request(None)).await.unwrap();
        write_files(&attempt).await.unwrap();
        let mut bad = manifest(&attempt);
        bad.partition_names = vec!["../x".to_owned()];
        assert!(attempt.commit(bad).await.is_err());
        assert!(site.everything().await.is_empty(), "{:?}", site.everything().await);
    }
}

#[tokio::test]
async fn a_second_backup_of_a_collection_is_refused_with_the_progress_of_the_first() {
    for site in Site::each() {
        let attempt = site.repository.begin(request(None)).await.unwrap();
        attempt.set_progress(37.5);
        let mut error = site.repository.begin(request(None)).await.err().unwrap();
        for _ in 0..100 {
            if error.details()["progress_percentage"] == 37.5 {
                break;
            }
            tokio::time::sleep(BEAT).await; // until the next heartbeat has told of it
            error = site.repository.begin(request(None)).await.err().unwrap();
        }
        assert_eq!(error.kind(), Kind::InProgress);
        assert_eq!(error.details()["progress_percentage"], 37.5);
        assert_eq!(error.details()["collection_name"], "films");
        attempt.abandon().await;
        site.repository.begin(request(None)).await.unwrap().abandon().await;
    }
}

#[tokio::test]
async fn a_backup_name_is_unique_within_its_collection() {
    for site in Site::each() {
        let first = make(&site.repository, "one").await;
        let error = site.repository.begin(request(Some("one"))).await.err().unwrap();
        assert_eq!(error.kind(), Kind::AlreadyExists);
        assert_eq!(error.details()["existing_backup_id"], first.id().as_str());
        let mut other = request(Some("one"));
        other.collection = "books".to_owned();
        let attempt = site.repository.begin(other).await.unwrap();
        write_files(&attempt).await.unwrap();
        let manifest = manifest(&attempt);
        attempt.commit(manifest).await.unwrap();
        let error = site.repository.find("one", None, None).await.err().unwrap();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(site.repository.find("one", Some("books"), None).await.is_ok());
        let error = site.repository.find("two", None, None).await.err().unwrap();
        assert_eq!(error.kind(), Kind::BackupNotFound);
        assert!(error.message().contains(first.id().as_str()), "{error}");
    }
}

#[tokio::test]
async fn what_a_process_proven_dead_left_is_swept_without_a_trace() {
    for site in Site::each() {
        leave_half_a_backup(&site, Some(lock_of_a_dead_process(DEAD))).await;
        site.repository.begin(request(None)).await.unwrap().abandon().await;
        assert!(site.everything().await.is_empty(), "{:?}", site.everything().await);
        leave_half_a_backup(&site, Some(lock_of_a_dead_process(DEAD))).await;
        site.repository.sweep("default", "films").await.unwrap();
        assert!(site.everything().await.is_empty(), "{:?}", site.everything().await);
    }
}

#[tokio::test]
async fn where_death_is_not_proven_a_tombstone_stays_and_the_writer_cannot_commit() {
    for site in Site::each() {
        let store = &site.repository.store;
        // A writer whose lock vanishes is as good as one on another host.
        let zombie = site.repository.begin(request(None)).await.unwrap();
        write_files(&zombie).await.unwrap();
        store.put(&path("films/.lock.json"), lock_of_another_host(zombie.id().as_str())).await.unwrap();
        let tombstone = path(&format!("films/{}/metadata.json", zombie.id()));
        make(&site.repository, "good").await;
        assert_eq!(names(&site.repository).await, ["good"]);
        tokio::time::timeout(BEAT * 100, zombie.lost().cancelled()).await.unwrap();
        let bytes = store.get(&tombstone, 1 << 20).await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&bytes).contains("\"FAILED\""));
        let manifest = manifest(&zombie);
        assert!(zombie.commit(manifest).await.is_err());
        assert_eq!(names(&site.repository).await, ["good"]);
        assert_eq!(store.get(&tombstone, 1 << 20).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_writer_who_does_not_know_that_it_lost_cannot_commit_a_swept_backup() {
    for site in Site::each() {
        let writer = site.repository.begin(request(None)).await.unwrap();
        write_files(&writer).await.unwrap();
        let id = writer.id().clone();
        // A sweeper's first two steps, behind the back of a writer whose lock looks fine.
        assert!(super::sweep::put_tombstone(&site.repository.store, "films", &id, "test").await.unwrap().is_some());
        super::sweep::delete_files(&site.repository.store, "films", &id).await.unwrap();
        let manifest = manifest(&writer);
        let error = writer.commit(manifest).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Backup);
        assert!(site.everything().await.is_empty(), "{:?}", site.everything().await);
    }
}

#[tokio::test]
async fn a_tombstone_goes_after_a_day() {
    for site in Site::each() {
        leave_half_a_backup(&site, None).await;
        site.repository.sweep("default", "films").await.unwrap();
        let left = site.everything().await;
        assert!(left.contains(&format!("films/{DEAD}/metadata.json")) && left.len() <= 2, "{left:?}");
        let mut old = super::Manifest::new(DEAD.parse().unwrap(), "n", "default", "films");
        old.state = State::Failed;
        old.completed_at = Some(chrono::Utc::now() - chrono::TimeDelta::hours(25));
        let at = path(&format!("films/{DEAD}/metadata.json"));
        site.repository.store.put(&at, old.to_bytes().unwrap().into()).await.unwrap();
        site.repository.sweep("default", "films").await.unwrap();
        assert!(site.everything().await.is_empty(), "{:?}", site.everything().await);
    }
}

#[tokio::test]
async fn a_lock_of_another_host_that_beats_is_respected() {
    for site in Site::each() {
        let store = site.repository.store.clone();
        let at = path("films/.lock.json");
        store.put(&at, lock_of_another_host(DEAD)).await.unwrap();
        let beating = tokio::spawn(async move {
            loop {
                let mut strange = record("strange");
                strange.host = Some("elsewhere|boot|namespace".to_owned());
                strange.interval_seconds = 10.0 * BEAT.as_secs_f64(); // beats more often than it says
                strange.progress_percentage = 12.0;
                let bytes = Bytes::from(serde_json::to_vec(&strange).unwrap());
                store.put(&path("films/.lock.json"), bytes).await.unwrap();
                tokio::time::sleep(BEAT).await;
            }
        });
        let error = site.repository.begin(request(None)).await.err().unwrap();
        beating.abort();
        assert_eq!(error.kind(), Kind::InProgress);
        // Unreadable: watched like another host's, then taken over.
        site.repository.store.put(&at, Bytes::from_static(b"garbage")).await.unwrap();
        site.repository.begin(request(None)).await.unwrap().abandon().await;
        assert!(site.everything().await.is_empty());
    }
}

#[tokio::test]
async fn a_dead_lock_is_taken_over_by_one_of_many() {
    for site in Site::each() {
        leave_half_a_backup(&site, Some(lock_of_a_dead_process(DEAD))).await;
        let tries = (0..8).map(|_| {
            let repository = site.repository.clone();
            tokio::spawn(async move { repository.begin(request(None)).await })
        });
        let outcomes = futures::future::join_all(tries.collect::<Vec<_>>()).await;
        let won: Vec<_> = outcomes.into_iter().filter_map(|outcome| outcome.unwrap().ok()).collect();
        assert_eq!(won.len(), 1);
        for attempt in won {
            attempt.abandon().await;
        }
    }
}

#[tokio::test]
async fn deleting_takes_everything_and_can_be_repeated_after_an_interruption() {
    for site in Site::each() {
        let backup = make(&site.repository, "one").await;
        make(&site.repository, "two").await;
        site.repository.delete("one", Some("films"), None).await.unwrap();
        assert_eq!(names(&site.repository).await, ["two"]);
        assert!(!site.everything().await.iter().any(|p| p.contains(backup.id().as_str())));
        let error = site.repository.delete("one", Some("films"), None).await.unwrap_err();
        assert_eq!(error.kind(), Kind::BackupNotFound);

        // Interrupted after the mark: not listed, not found, and finished by whoever comes next.
        for by_sweep in [false, true] {
            let backup = make(&site.repository, "half").await;
            let mut marked = backup.manifest().clone();
            marked.state = State::Deleting;
            let at = path(&format!("films/{}/metadata.json", backup.id()));
            site.repository.store.put(&at, marked.to_bytes().unwrap().into()).await.unwrap();
            assert_eq!(names(&site.repository).await, ["two"]);
            assert!(site.repository.find("half", None, None).await.is_err());
            if by_sweep {
                site.repository.sweep("default", "films").await.unwrap();
            } else {
                site.repository.delete("half", None, None).await.unwrap();
            }
            assert!(!site.everything().await.iter().any(|p| p.contains(backup.id().as_str())));
        }
        site.repository.delete("two", None, Some("default")).await.unwrap();
        assert!(site.everything().await.is_empty(), "{:?}", site.everything().await);
    }
}

#[tokio::test]
async fn a_backup_that_is_read_is_not_deleted_until_the_reader_is_done_or_dead() {
    for site in Site::each() {
        let backup = make(&site.repository, "one").await;
        let reading = site.repository.mark_reading(&backup).await.unwrap().unwrap();
        let error = site.repository.delete("one", None, None).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InProgress);
        reading.release().await.unwrap();
        let marker = path(&format!("films/.readers/{}.x.json", backup.id()));
        site.repository.store.put(&marker, lock_of_a_dead_process(DEAD)).await.unwrap();
        site.repository.delete("one", None, None).await.unwrap();
        assert!(site.everything().await.is_empty(), "{:?}", site.everything().await);
    }
}

#[tokio::test]
async fn a_damaged_manifest_is_reported_beside_the_others_and_can_be_deleted() {
    for site in Site::each() {
        make(&site.repository, "good").await;
        let backup = make(&site.repository, "bad").await;
        let at = path(&format!("films/{}/metadata.json", backup.id()));
        let mut bytes = backup.manifest().to_bytes().unwrap();
        bytes[20] ^= 1;
        site.repository.store.put(&at, bytes.into()).await.unwrap();
        let listing = site.repository.list(None, None).await.unwrap();
        assert_eq!(listing.backups.len(), 1);
        assert_eq!(listing.damaged[0].backup_id, *backup.id());
        assert_eq!(listing.damaged[0].collection_name, "films");
        let error = site.repository.find(backup.id().as_str(), None, None).await.err().unwrap();
        assert_eq!(error.kind(), Kind::BackupCorrupted);
        assert_eq!(error.details()["failed_files"], json!(["metadata.json"]));
        let report = backup.check_files(false, &|_| {}).await.unwrap();
        assert_eq!(report.failed.len(), 1);
        assert_eq!((report.failed[0].file.as_str(), report.failed[0].reason), ("metadata.json", Reason::Checksum));
        // A sweep leaves it alone; a deletion by id takes it.
        site.repository.sweep("default", "films").await.unwrap();
        site.repository.delete(backup.id().as_str(), None, None).await.unwrap();
        assert_eq!(names(&site.repository).await, ["good"]);
    }
}

#[tokio::test]
async fn every_kind_of_damage_to_a_file_is_found_and_named() {
    for site in Site::each() {
        let store = &site.repository.store;
        let backup = make(&site.repository, "one").await;
        backup.write_verification(&json!({"success": true})).await.unwrap();
        assert_eq!(backup.verification().await.unwrap()["success"], true);
        let listed = site.repository.list(None, None).await.unwrap().backups.remove(0);
        assert_eq!(listed.verification.unwrap()["success"], true);
        assert!(backup.check_files(false, &|_| {}).await.unwrap().is_whole());

        let at = |file: &str| path(&format!("films/{}/{file}", backup.id()));
        let files: Vec<_> = backup.checksums().await.unwrap().files.keys().map(|f| f.as_str().to_owned()).collect();
        assert_eq!(files.len(), 5);
        for file in files.iter().map(String::as_str).chain(["checksums.json"]) {
            let original = store.get(&at(file), 1 << 20).await.unwrap().unwrap();
            for byte in 0..original.len() {
                if original.len() > 300 && byte % 97 != 0 {
                    continue;
                }
                let mut damaged = original.to_vec();
                damaged[byte] ^= 1;
                store.put(&at(file), damaged.into()).await.unwrap();
                let report = backup.check_files(true, &|_| {}).await.unwrap();
                assert_eq!(report.failed.len(), 1, "{file} byte {byte}");
                assert_eq!((report.failed[0].file.as_str(), report.failed[0].reason), (file, Reason::Checksum));
            }
            let again = site.repository.find("one", None, None).await.unwrap();
            if file == "schema.json" {
                assert_eq!(again.schema().await.unwrap_err().kind(), Kind::BackupCorrupted);
            }
            if file == "checksums.json" {
                assert_eq!(again.chunks().await.unwrap_err().kind(), Kind::BackupCorrupted);
            }
            store.put(&at(file), original).await.unwrap();
        }

        store.put(&at("data/_default-00000.parquet"), Bytes::from_static(b"short")).await.unwrap();
        store.delete(&at("data/_default-00001.parquet")).await.unwrap();
        store.put(&at("data/extra.parquet"), Bytes::from_static(b"?")).await.unwrap();
        let report = backup.check_files(false, &|_| {}).await.unwrap();
        let found: Vec<_> =
            report.failed.iter().map(|FailedFile { file, reason, .. }| (file.as_str(), *reason)).collect();
        assert_eq!(
            found,
            [
                ("data/_default-00000.parquet", Reason::Size),
                ("data/_default-00001.parquet", Reason::Missing),
                ("data/extra.parquet", Reason::Extra),
            ]
        );
        for index in 0..2 {
            let file = super::names::data_file("_default", index).unwrap();
            assert_eq!(backup.open_file(&file).await.err().unwrap().kind(), Kind::BackupCorrupted);
        }
        assert!(backup.open_file(&path("data/extra.parquet")).await.is_err());
    }
}

fn entry(server: &str) -> JournalEntry {
    JournalEntry {
        server: server.to_owned(),
        database: "default".to_owned(),
        target: "films".to_owned(),
        staging: "mv_0123abcd".to_owned(),
        aside: None,
        phase: Phase::Staging,
        backup_id: DEAD.parse().unwrap(),
        aliases: vec!["movies".to_owned()],
        brings: Vec::new(),
        fingerprint: None,
        done: std::collections::BTreeMap::new(),
    }
}

#[tokio::test]
async fn a_journal_is_held_by_one_restore_and_recovered_by_one() {
    for site in Site::each() {
        let repository = &site.repository;
        let mut journal = repository.begin_journal(entry("a")).await.unwrap();
        assert_eq!(repository.begin_journal(entry("a")).await.err().unwrap().kind(), Kind::InProgress);
        repository.begin_journal(entry("b")).await.unwrap().finish().await.unwrap();
        assert!(repository.stale_journals("a").await.unwrap().is_empty());
        journal
            .advance(|entry| {
                entry.phase = Phase::Swapping;
                entry.aside = Some("mv_old".to_owned());
            })
            .await
            .unwrap();
        drop(journal); // as if the process had ended
        let error = repository.begin_journal(entry("a")).await.err().unwrap();
        assert_eq!(error.kind(), Kind::InProgress);
        assert!(error.message().contains("interrupted"), "{error}");
        let recovered = Mutex::new(Vec::new());
        futures::future::join_all((0..4).map(|_| async {
            let mut stale = repository.stale_journals("a").await.unwrap();
            recovered.lock().unwrap().append(&mut stale);
        }))
        .await;
        let mut recovered = recovered.into_inner().unwrap();
        assert_eq!(recovered.len(), 1);
        let journal = recovered.pop().unwrap();
        assert_eq!((journal.entry().phase, journal.entry().aside.as_deref()), (Phase::Swapping, Some("mv_old")));
        assert!(repository.stale_journals("b").await.unwrap().is_empty());
        journal.finish().await.unwrap();
        assert!(site.everything().await.is_empty(), "{:?}", site.everything().await);
    }
}

#[tokio::test]
async fn a_lease_notices_that_it_was_taken_away() {
    for site in Site::each() {
        let store = &site.repository.store;
        let terms = Terms { purpose: "backup", backup_id: None, entry: None, interval: BEAT };
        let lease = Lease::create(store, &path("x/.lock.json"), terms).await.unwrap().unwrap();
        tokio::time::sleep(BEAT * 8).await;
        assert!(!lease.lost().is_cancelled());
        store.put(&path("x/.lock.json"), lock_of_another_host(DEAD)).await.unwrap();
        tokio::time::timeout(BEAT * 100, lease.lost().cancelled()).await.unwrap();
        lease.release().await.unwrap();
        assert!(site.everything().await.contains(&"x/.lock.json".to_owned()), "the other one's lease stays");
    }
}

#[test]
fn the_futures_can_be_sent_to_other_threads() {
    fn sendable<T: Send>(_: T) {}
    let site = Site::memory();
    let repository = &site.repository;
    sendable(repository.list(None, None));
    sendable(repository.find("", None, None));
    sendable(repository.begin(request(None)));
    sendable(repository.delete("", None, None));
    sendable(repository.sweep("", ""));
    sendable(repository.begin_journal(entry("")));
    sendable(repository.stale_journals(""));
    let _ = |attempt: super::Attempt, backup: super::Backup, mut journal: super::Journal| {
        sendable(backup.check_files(true, &|_| {}));
        sendable(repository.mark_reading(&backup));
        sendable(backup.chunks());
        sendable(journal.advance(|_| {}));
        sendable(attempt.abandon());
    };
}
