//! A retention policy carried out on a repository, while others write, read and delete.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use chrono::Utc;

use crate::error::Kind;

use super::holder::tests::{ended_process, record};
use super::look::{Found, Place, look};
use super::retention::Policy;
use super::testing::{Site, make, names, on, path, request, write_files};
use super::{Backup, Repository, State};

fn newest(count: u64) -> Policy {
    Policy { count, days: 0, minimum: 0, daily: 0, weekly: 0, monthly: 0, tags: Vec::new() }
}

/// Ids in the order of time: made within the same second, they would be in any.
async fn make_in_order(repository: &Repository, names: &[&str]) -> Vec<Backup> {
    let mut made = Vec::new();
    for (age, name) in (0..).zip(names) {
        let backup = make(repository, name).await;
        let mut manifest = backup.manifest().clone();
        manifest.created_at = Utc::now() - chrono::TimeDelta::days(100 - age);
        let at = path(&format!("films/{}/metadata.json", backup.id()));
        repository.store.put(&at, manifest.to_bytes().unwrap().into()).await.unwrap();
        made.push(repository.find(name, None, None).await.unwrap());
    }
    made
}

#[tokio::test]
async fn what_the_plan_deletes_is_gone_without_a_trace_and_the_rest_is_whole() {
    for site in Site::each() {
        let made = make_in_order(&site.repository, &["one", "two", "three", "four"]).await;
        let review = site.repository.review(None, None, &newest(2), Utc::now()).await.unwrap();
        assert_eq!(review.delete.iter().map(|doomed| doomed.backup_name.as_str()).collect::<Vec<_>>(), ["one", "two"]);
        for doomed in &review.delete {
            assert!(site.repository.remove(doomed).await.unwrap());
            assert!(!site.repository.remove(doomed).await.unwrap(), "it has gone already");
        }
        assert_eq!(names(&site.repository).await, ["four", "three"]);
        for backup in &made[..2] {
            assert!(!site.everything().await.iter().any(|path| path.contains(backup.id().as_str())));
        }
        for backup in &made[2..] {
            assert!(backup.check_files(false, &|_| {}).await.unwrap().is_whole());
        }
    }
}

#[tokio::test]
async fn a_backup_that_is_read_is_left_alone_and_so_is_what_it_builds_on() {
    for site in Site::each() {
        let made = make_in_order(&site.repository, &["base", "child", "other", "new"]).await;
        let mut manifest = made[1].manifest().clone();
        manifest.parent = Some(made[0].id().clone());
        let at = path(&format!("films/{}/metadata.json", made[1].id()));
        site.repository.store.put(&at, manifest.to_bytes().unwrap().into()).await.unwrap();
        let child = site.repository.find("child", None, None).await.unwrap();

        let reading = site.repository.mark_reading(&child).await.unwrap().unwrap();
        let review = site.repository.review(None, None, &newest(1), Utc::now()).await.unwrap();
        assert_eq!(review.delete.iter().map(|doomed| &doomed.id).collect::<Vec<_>>(), [made[2].id()]);
        assert!(review.left_alone[child.id()].contains("being read"), "{:?}", review.left_alone);
        assert!(review.left_alone[made[0].id()].contains("builds on it"), "{:?}", review.left_alone);
        reading.release().await.unwrap();

        let review = site.repository.review(None, None, &newest(1), Utc::now()).await.unwrap();
        let order: Vec<_> = review.delete.iter().map(|doomed| doomed.backup_name.as_str()).collect();
        assert_eq!(order, ["child", "base", "other"]);
        // A reader who comes after the plan is respected by the deletion.
        let reading = site.repository.mark_reading(&child).await.unwrap().unwrap();
        assert_eq!(site.repository.remove(&review.delete[0]).await.unwrap_err().kind(), Kind::InProgress);
        reading.release().await.unwrap();
        assert!(site.repository.remove(&review.delete[0]).await.unwrap());
    }
}

#[tokio::test]
async fn a_dead_readers_marker_holds_nothing_up() {
    for site in Site::each() {
        let made = make_in_order(&site.repository, &["old", "new"]).await;
        let mut dead = record("dead");
        dead.pid = ended_process();
        let marker = path(&format!("films/.readers/{}.x.json", made[0].id()));
        site.repository.store.put(&marker, Bytes::from(serde_json::to_vec(&dead).unwrap())).await.unwrap();
        let review = site.repository.review(None, None, &newest(1), Utc::now()).await.unwrap();
        assert_eq!(review.delete.len(), 1);
        assert!(site.repository.remove(&review.delete[0]).await.unwrap());
        assert!(!site.everything().await.iter().any(|path| path.contains(".readers")));
    }
}

#[tokio::test]
async fn a_backup_in_the_making_is_left_alone_and_completes() {
    for site in Site::each() {
        make_in_order(&site.repository, &["old", "new"]).await;
        let attempt = site.repository.begin(request(Some("coming"))).await.unwrap();
        write_files(&attempt).await.unwrap();
        let review = site.repository.review(None, None, &newest(1), Utc::now()).await.unwrap();
        assert!(review.left_alone[attempt.id()].contains("being made"), "{:?}", review.left_alone);
        for doomed in &review.delete {
            assert!(site.repository.remove(doomed).await.unwrap());
        }
        let manifest = super::testing::manifest(&attempt);
        attempt.commit(manifest).await.unwrap();
        assert_eq!(names(&site.repository).await, ["coming", "new"]);
    }
}

#[tokio::test]
async fn a_reader_who_comes_while_the_backup_is_marked_is_seen_and_the_backup_stays() {
    for site in Site::each() {
        for _ in 0..20 {
            let backup = make(&site.repository, "wanted").await;
            let place = Place::at("films", backup.id());
            let (deleted, reading, swept) = tokio::join!(
                site.repository.delete_place(&place),
                site.repository.mark_reading(&backup),
                site.repository.sweep("default", "films"),
            );
            swept.unwrap();
            match (deleted, reading) {
                (Ok(()), Err(error)) => assert_eq!(error.kind(), Kind::BackupNotFound),
                (Err(error), Ok(Some(reading))) => {
                    assert_eq!(error.kind(), Kind::InProgress);
                    assert!(backup.check_files(false, &|_| {}).await.unwrap().is_whole());
                    reading.release().await.unwrap();
                    site.repository.delete_place(&place).await.unwrap();
                }
                // Each saw the other, and both gave way.
                (Err(error), Err(_)) => {
                    assert_eq!(error.kind(), Kind::InProgress);
                    assert!(backup.check_files(false, &|_| {}).await.unwrap().is_whole());
                    site.repository.delete_place(&place).await.unwrap();
                }
                (Ok(()), Ok(Some(_))) => panic!("a backup was deleted while it was read"),
                (_, Ok(None)) => panic!("this repository can be written to"),
            }
            assert!(site.everything().await.is_empty(), "{:?}", site.everything().await);
        }
    }
}

#[tokio::test]
async fn a_sweep_finishes_a_deletion_but_none_that_was_taken_back() {
    for site in Site::each() {
        for taken_back in [true, false] {
            let (store, backup) = (&site.repository.store, make(&site.repository, "wanted").await);
            let (place, file) =
                (Place::at("films", backup.id()), path(&format!("films/{}/metadata.json", backup.id())));
            let Found::Manifest(manifest, version) = look(store, "films", backup.id()).await.unwrap() else { panic!() };
            let mut marked = manifest.clone();
            marked.state = State::Deleting;
            let marked_version = store.replace_if(&file, &version, marked.to_bytes().unwrap().into()).await.unwrap();
            let seen = marked_version.unwrap();
            if taken_back {
                let back = store.replace_if(&file, &seen, manifest.to_bytes().unwrap().into()).await.unwrap();
                assert!(back.is_some());
            }
            site.repository.finish_begun(&place, &marked, &seen).await.unwrap();
            if taken_back {
                assert!(backup.check_files(false, &|_| {}).await.unwrap().is_whole());
                site.repository.delete_place(&place).await.unwrap();
            }
            assert_eq!(store.list("films").await.unwrap(), []);
        }
    }
}

#[tokio::test]
async fn a_deletion_that_was_taken_back_since_the_review_is_not_finished_and_another_is() {
    for site in Site::each() {
        for taken_back in [true, false] {
            let made = make_in_order(&site.repository, &["old", "new"]).await;
            let (store, id) = (&site.repository.store, made[1].id());
            let file = path(&format!("films/{id}/metadata.json"));
            let Found::Manifest(manifest, version) = look(store, "films", id).await.unwrap() else { panic!() };
            let mut marked = manifest.clone();
            marked.state = State::Deleting;
            let seen = store.replace_if(&file, &version, marked.to_bytes().unwrap().into()).await.unwrap().unwrap();
            let review = site.repository.review(None, None, &newest(1), Utc::now()).await.unwrap();
            assert_eq!(review.half_deleted.iter().map(|half| &half.id).collect::<Vec<_>>(), [id]);
            if taken_back {
                let back = store.replace_if(&file, &seen, manifest.to_bytes().unwrap().into()).await.unwrap();
                assert!(back.is_some());
            }
            site.repository.finish(&review.half_deleted[0]).await.unwrap();
            assert_eq!(names(&site.repository).await, if taken_back { vec!["new", "old"] } else { vec!["old"] });
            if taken_back {
                assert!(made[1].check_files(false, &|_| {}).await.unwrap().is_whole());
            }
            for backup in site.repository.list(None, None).await.unwrap().backups {
                site.repository.delete(backup.manifest.backup_id.as_str(), None, None).await.unwrap();
            }
            assert!(site.everything().await.is_empty(), "{:?}", site.everything().await);
        }
    }
}

#[tokio::test]
async fn two_that_prune_at_once_delete_the_same_backups() {
    for site in Site::each() {
        make_in_order(&site.repository, &["one", "two", "three", "four", "five"]).await;
        let deleted = Arc::new(AtomicUsize::new(0));
        let prune = || async {
            let review = site.repository.review(None, None, &newest(2), Utc::now()).await.unwrap();
            for doomed in &review.delete {
                deleted.fetch_add(usize::from(site.repository.remove(doomed).await.unwrap()), Ordering::Relaxed);
            }
        };
        tokio::join!(prune(), prune(), prune());
        assert!(deleted.load(Ordering::Relaxed) >= 3);
        assert_eq!(names(&site.repository).await, ["five", "four"]);
    }
}

#[tokio::test]
async fn a_verification_noted_behind_a_deletion_leaves_nothing_behind() {
    for site in Site::each() {
        let backup = make(&site.repository, "one").await;
        site.repository.delete("one", None, None).await.unwrap();
        let noted = backup.write_verification(&serde_json::json!({"success": true})).await;
        assert_eq!(noted.unwrap_err().kind(), Kind::BackupNotFound);
        assert!(site.everything().await.is_empty(), "{:?}", site.everything().await);
    }
}

#[tokio::test]
async fn of_two_verifications_at_once_neither_is_lost() {
    for site in Site::each() {
        let backup = make(&site.repository, "one").await;
        let note = |kind: &'static str| {
            let backup = backup.clone();
            async move {
                let outcome = serde_json::json!({"success": true, "verification_type": kind, "verified_at": kind});
                backup.write_verification(&outcome).await.unwrap();
            }
        };
        tokio::join!(note("CHECKSUM"), note("QUICK"), note("DEEP"));
        let found = backup.verification().await.unwrap();
        assert_eq!(super::verdict::by_type(&found).len(), 3, "{found}");
    }
}

/// Requests that listing one collection takes, with so many others beside it.
async fn requests(others: usize) -> usize {
    let objects = Arc::new(counting::Counting::default());
    let repository = on(Arc::clone(&objects) as Arc<dyn object_store::ObjectStore>);
    make_in_order(&repository, &["one", "two", "three"]).await;
    for other in 0..others {
        let at = path(&format!("other{other}/b20200101T000000Z_000000/metadata.json"));
        repository.store.put(&at, Bytes::from_static(b"{}")).await.unwrap();
    }
    let before = objects.count();
    assert_eq!(repository.list(Some("default"), Some("films")).await.unwrap().backups.len(), 3);
    assert_eq!(
        repository.review(Some("default"), Some("films"), &newest(1), Utc::now()).await.unwrap().delete.len(),
        2
    );
    assert!(repository.find("two", Some("films"), Some("default")).await.unwrap().manifest().state == State::Completed);
    objects.count() - before
}

#[tokio::test]
async fn the_requests_to_list_a_collection_do_not_grow_with_other_collections() {
    let alone = requests(0).await;
    assert!(alone < 40, "{alone}");
    assert_eq!(requests(500).await, alone);
}

/// A store that counts what it is asked.
mod counting {
    use std::ops::Range;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use bytes::Bytes;
    use futures::stream::BoxStream;
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
        PutOptions, PutPayload, PutResult, Result,
    };

    #[derive(Debug, Default)]
    pub(super) struct Counting {
        inner: InMemory,
        asked: AtomicUsize,
    }

    impl Counting {
        pub(super) fn count(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }

        fn one(&self) -> &InMemory {
            self.asked.fetch_add(1, Ordering::Relaxed);
            &self.inner
        }
    }

    impl std::fmt::Display for Counting {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Counting")
        }
    }

    #[async_trait]
    impl ObjectStore for Counting {
        async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
            self.one().put_opts(at, payload, options).await
        }

        async fn put_multipart_opts(
            &self,
            at: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.one().put_multipart_opts(at, options).await
        }

        async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
            self.one().get_opts(at, options).await
        }

        async fn get_ranges(&self, at: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
            self.one().get_ranges(at, ranges).await
        }

        fn delete_stream(&self, at: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.one().delete_stream(at)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.one().list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.one().list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.one().copy_opts(from, to, options).await
        }
    }
}
