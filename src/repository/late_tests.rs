//! A store that takes its time: requests that its client has given up arrive all the same.

use std::sync::Arc;
use std::time::Duration;

use super::holder::tests::{ended_process, record};
use super::lease::{Lease, MISSED_BEATS, Terms};
use super::look::{Found, look};
use super::sweep::UNSETTLED;
use super::testing::{make, manifest, names, on, path, request, write_files};
use super::{BackupId, Repository, State};
use late::Late;

/// What is in the manifest of a whole backup, and in no tombstone.
const WHOLE: &str = "\"COMPLETED\"";

fn late() -> (Arc<Late>, Repository) {
    let objects = Arc::new(Late::default());
    let repository = on(Arc::clone(&objects) as Arc<dyn object_store::ObjectStore>);
    (objects, repository)
}

/// Only a tombstone is in the backup's folder.
async fn assert_buried(repository: &Repository, id: &BackupId) {
    let Found::Manifest(stone, _) = look(&repository.store, "films", id).await.unwrap() else { panic!("no tombstone") };
    assert_eq!((stone.state, stone.error_message.as_deref()), (State::Failed, Some(UNSETTLED)));
    let left = repository.store.list(&format!("films/{id}")).await.unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test]
async fn a_commit_that_arrives_after_it_was_given_up_makes_no_backup_without_files() {
    let (objects, repository) = late();
    let attempt = repository.begin(request(Some("one"))).await.unwrap();
    write_files(&attempt).await.unwrap();
    let (id, made) = (attempt.id().clone(), manifest(&attempt));
    objects.delay(Some(WHOLE));
    let error = attempt.commit(made).await.unwrap_err();
    assert!(error.is_temporary(), "{error:?}");
    objects.arrive().await;
    assert!(names(&repository).await.is_empty());
    assert_buried(&repository, &id).await;
    // A sweep makes no room for it either, and the name is free.
    repository.sweep("default", "films").await.unwrap();
    objects.arrive().await;
    objects.delay(None);
    let backup = make(&repository, "one").await;
    assert_eq!(names(&repository).await, ["one"]);
    assert!(backup.check_files(false, &|_| {}).await.unwrap().is_whole());
    assert_buried(&repository, &id).await;
}

#[tokio::test]
async fn its_tombstone_stays_also_where_the_run_is_known_to_have_ended() {
    let (objects, repository) = late();
    let attempt = repository.begin(request(Some("one"))).await.unwrap();
    write_files(&attempt).await.unwrap();
    let (id, made) = (attempt.id().clone(), manifest(&attempt));
    objects.delay(Some(WHOLE));
    attempt.commit(made).await.unwrap_err();
    // As if it had left files and its lock, and died.
    let mut dead = record("dead");
    (dead.pid, dead.backup_id) = (ended_process(), Some(id.clone()));
    for (file, bytes) in
        [(format!("{id}/schema.json"), b"{}".to_vec()), (".lock.json".to_owned(), serde_json::to_vec(&dead).unwrap())]
    {
        repository.store.put(&path(&format!("films/{file}")), bytes.into()).await.unwrap();
    }
    repository.begin(request(None)).await.unwrap().abandon().await;
    objects.arrive().await;
    assert!(names(&repository).await.is_empty());
    assert_buried(&repository, &id).await;
}

#[tokio::test]
async fn a_heartbeat_that_hangs_is_joined_by_another_before_its_holder_is_taken_for_dead() {
    let (objects, repository) = late();
    let (beat, lock) = (Duration::from_millis(200), path("films/.lock.json"));
    let terms = Terms { purpose: "backup", backup_id: None, entry: None, interval: beat };
    let lease = Lease::create(&repository.store, &lock, terms).await.unwrap().unwrap();
    for _ in 0..2 {
        objects.hang_once(".lock.json").await;
        let before = repository.store.get(&lock, 1 << 20).await.unwrap();
        tokio::time::sleep(beat * (MISSED_BEATS - 2)).await;
        assert_ne!(repository.store.get(&lock, 1 << 20).await.unwrap(), before);
    }
    assert!(!lease.lost().is_cancelled());
    lease.release().await.unwrap();
}

mod late {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use futures::stream::BoxStream;
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{
        CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
        PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    };
    use tokio::sync::Notify;

    #[derive(Debug, Default)]
    pub(super) struct Late {
        inner: InMemory,
        delayed: Mutex<Option<&'static str>>,
        queue: Mutex<Vec<(Path, PutPayload, PutOptions)>>,
        hanging: Mutex<Option<&'static str>>,
        hangs: Notify,
    }

    impl Late {
        /// From now on, puts of what has `content` in it end in an error for whoever asks, and wait in a queue.
        pub(super) fn delay(&self, content: Option<&'static str>) {
            *self.delayed.lock().unwrap() = content;
        }

        /// The next put of a file of this name never comes to an end; returns when it has begun.
        pub(super) async fn hang_once(&self, name: &'static str) {
            *self.hanging.lock().unwrap() = Some(name);
            self.hangs.notified().await;
        }

        /// What is in the queue arrives (again, where it has already).
        pub(super) async fn arrive(&self) {
            let queue = self.queue.lock().unwrap().clone();
            assert!(!queue.is_empty());
            for (at, payload, options) in queue {
                let _ = self.inner.put_opts(&at, payload, options).await;
            }
        }
    }

    impl std::fmt::Display for Late {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Late")
        }
    }

    #[async_trait]
    impl ObjectStore for Late {
        async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
            if self.hanging.lock().unwrap().take_if(|name| at.as_ref().ends_with(*name)).is_some() {
                self.hangs.notify_one();
                return std::future::pending().await;
            }
            let text: Vec<u8> = payload.iter().flatten().copied().collect();
            let delayed = *self.delayed.lock().unwrap();
            if delayed.is_some_and(|content| String::from_utf8_lossy(&text).contains(content)) {
                self.queue.lock().unwrap().push((at.clone(), payload, options));
                let source = Box::new(std::io::Error::from(std::io::ErrorKind::TimedOut));
                return Err(Error::Generic { store: "late", source });
            }
            self.inner.put_opts(at, payload, options).await
        }

        async fn put_multipart_opts(
            &self,
            at: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.inner.put_multipart_opts(at, options).await
        }

        async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
            self.inner.get_opts(at, options).await
        }

        fn delete_stream(&self, at: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.inner.delete_stream(at)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.inner.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.inner.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.inner.copy_opts(from, to, options).await
        }
    }
}
