//! Crash consistency: every prefix of what a run writes, with what was under way when it ended dropped or done.
//!
//! A store that records every change notes when each began and when it was durable. A crash can come between any two
//! of those notes. For each of these moments the store is built anew, once with the unfinished changes dropped and
//! once with them done, and has to show: only whole backups, the older one among them, and after the next run no trace
//! of the dead one.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

use super::BeginRequest;
use super::holder::Record;
use super::holder::tests::ended_process;
use super::testing::{finish_and_note, make, manifest, names, on, path, request, write_files};

#[derive(Debug, Clone)]
enum Change {
    Put(Path, Bytes),
    Delete(Path),
}

#[derive(Debug, Clone)]
enum Note {
    Began(usize, Change),
    /// Durable; `false` where the store refused it.
    Ended(usize, bool),
}

#[derive(Debug, Default)]
struct Tape {
    notes: Vec<Note>,
    changes: usize,
}

/// A store that writes down every change to it.
#[derive(Debug, Clone)]
struct RecordingStore {
    inner: Arc<InMemory>,
    tape: Arc<Mutex<Tape>>,
}

impl RecordingStore {
    fn on(inner: InMemory) -> Self {
        Self { inner: Arc::new(inner), tape: Arc::default() }
    }

    fn notes(&self) -> Vec<Note> {
        self.tape.lock().unwrap().notes.clone()
    }

    fn began(&self, change: Change) -> usize {
        let mut tape = self.tape.lock().unwrap();
        tape.changes += 1;
        let number = tape.changes;
        tape.notes.push(Note::Began(number, change));
        number
    }

    fn ended(&self, number: usize, done: bool) {
        self.tape.lock().unwrap().notes.push(Note::Ended(number, done));
    }
}

impl fmt::Display for RecordingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordingStore")
    }
}

#[async_trait]
impl ObjectStore for RecordingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let number = self.began(Change::Put(location.clone(), payload.clone().into()));
        tokio::task::yield_now().await;
        let result = self.inner.put_opts(location, payload, options).await;
        self.ended(number, result.is_ok());
        result
    }

    async fn put_multipart_opts(&self, location: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(RecordingUpload { store: self.clone(), location: location.clone(), parts: Vec::new() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        // Several at once, as object stores do: a crash finds some done and some not.
        locations
            .map(move |location| {
                let store = store.clone();
                async move {
                    let location = location?;
                    let number = store.began(Change::Delete(location.clone()));
                    tokio::task::yield_now().await;
                    let result = store.inner.delete(&location).await;
                    store.ended(number, result.is_ok());
                    result.map(|()| location)
                }
            })
            .buffer_unordered(4)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, _: CopyOptions) -> Result<()> {
        let bytes = self.inner.get(from).await?.bytes().await?;
        self.put_opts(to, bytes.into(), PutOptions::default()).await.map(drop)
    }
}

#[derive(Debug)]
struct RecordingUpload {
    store: RecordingStore,
    location: Path,
    parts: Vec<Bytes>,
}

#[async_trait]
impl MultipartUpload for RecordingUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.parts.push(data.into());
        Box::pin(async { Ok(()) })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let payload: PutPayload = self.parts.drain(..).collect();
        self.store.put_opts(&self.location, payload, PutOptions::default()).await
    }

    async fn abort(&mut self) -> Result<()> {
        Ok(())
    }
}

async fn copy(of: &InMemory) -> InMemory {
    let copy = InMemory::new();
    let objects: Vec<_> = of.list(None).try_collect().await.unwrap();
    for object in objects {
        let bytes = of.get(&object.location).await.unwrap().bytes().await.unwrap();
        copy.put(&object.location, bytes.into()).await.unwrap();
    }
    copy
}

async fn apply(store: &InMemory, change: &Change) {
    match change {
        Change::Put(location, bytes) => drop(store.put(location, bytes.clone().into()).await.unwrap()),
        Change::Delete(location) => store.delete(location).await.unwrap(),
    }
}

/// The store as a crash after `notes` would leave it. Of what was under way (whose refusal nobody has seen) nothing
/// is done, or all of it.
async fn rebuilt(before: &InMemory, notes: &[Note], all: &[Note], unfinished_done: bool) -> InMemory {
    let store = copy(before).await;
    let refused: BTreeSet<_> =
        all.iter().filter_map(|note| if let Note::Ended(n, false) = note { Some(*n) } else { None }).collect();
    let mut open = Vec::new();
    for note in notes {
        match note {
            Note::Began(number, change) => open.push((*number, change.clone())),
            Note::Ended(number, done) => {
                let index = open.iter().position(|(open, _)| open == number).unwrap();
                let (_, change) = open.remove(index);
                if *done {
                    apply(&store, &change).await;
                }
            }
        }
    }
    if unfinished_done {
        for (number, change) in open {
            if !refused.contains(&number) {
                apply(&store, &change).await;
            }
        }
    }
    store
}

/// The process that wrote these leases has ended.
async fn bury_holders(store: &InMemory) {
    let objects: Vec<_> = store.list(None).try_collect().await.unwrap();
    for object in objects {
        let bytes = store.get(&object.location).await.unwrap().bytes().await.unwrap();
        if let Ok(mut record) = serde_json::from_slice::<Record>(&bytes) {
            record.pid = ended_process();
            store.put(&object.location, serde_json::to_vec(&record).unwrap().into()).await.unwrap();
        }
    }
}

async fn folders_of_backups(store: &InMemory) -> BTreeSet<String> {
    let objects: Vec<_> = store.list(None).try_collect().await.unwrap();
    objects.iter().filter_map(|object| object.location.as_ref().split('/').nth(2).map(str::to_owned)).collect()
}

/// Replays every crash of the recorded run and returns how many there were.
async fn every_crash(before: &InMemory, recorded: &RecordingStore, always: &[&str], sometimes: &str) -> usize {
    let notes = recorded.notes();
    let (mut seen_with, mut seen_without) = (false, false);
    for end in 0..=notes.len() {
        for unfinished_done in [false, true] {
            let at = format!("crash after {end} of {} notes, unfinished done: {unfinished_done}", notes.len());
            let store = rebuilt(before, &notes[..end], &notes, unfinished_done).await;
            bury_holders(&store).await;
            let objects: Arc<dyn ObjectStore> = Arc::new(store.clone());
            let repository = on(objects);

            let listed = names(&repository).await;
            for name in always {
                assert!(listed.iter().any(|found| found == name), "{at}: {name} is gone");
            }
            for name in &listed {
                let backup = repository.find(name, None, None).await.unwrap();
                let report = backup.check_files(false, &|_| {}).await.unwrap();
                assert!(report.is_whole(), "{at}: {name} is listed but not whole: {:?}", report.failed);
            }
            let there = listed.iter().any(|found| found == sometimes);
            seen_with |= there;
            seen_without |= !there;

            repository.begin(request(None)).await.unwrap().abandon().await;
            assert_eq!(names(&repository).await, listed, "{at}: the next run changed what there is");
            let mut expected: BTreeSet<_> = BTreeSet::new();
            for listed in repository.list(None, None).await.unwrap().backups {
                expected.insert(listed.manifest.backup_id.to_string());
            }
            assert_eq!(folders_of_backups(&store).await, expected, "{at}: the next run left a trace");
        }
    }
    assert!(seen_with && seen_without, "no crash fell on both sides of the moment that counts");
    2 * (notes.len() + 1)
}

/// Of how many files that a dead run had finished the next run gets hold, at the least, wherever it crashes.
async fn adopted_after_every_crash(before: &InMemory, recorded: &RecordingStore, newer: &str) -> usize {
    let notes = recorded.notes();
    let mut least = usize::MAX;
    for end in 0..=notes.len() {
        for unfinished_done in [false, true] {
            let store = rebuilt(before, &notes[..end], &notes, unfinished_done).await;
            bury_holders(&store).await;
            let repository = on(Arc::new(store));
            if names(&repository).await.iter().any(|name| name == newer) {
                continue;
            }
            let next = repository.begin(BeginRequest { resume: true, ..request(None) }).await.unwrap();
            let adopted = next.adopt(&|_| std::future::ready(()).boxed()).await.unwrap();
            least = least.min(adopted.map_or(0, |adopted| adopted.chunks.len()));
            next.abandon().await;
        }
    }
    least
}

async fn before() -> InMemory {
    let store = InMemory::new();
    make(&on(Arc::new(store.clone())), "older").await;
    store
}

#[tokio::test]
async fn a_crash_while_a_backup_is_made_leaves_none_or_a_whole_one() {
    let before = before().await;
    let recording = RecordingStore::on(copy(&before).await);
    make(&on(Arc::new(recording.clone())), "newer").await;
    let crashes = every_crash(&before, &recording, &["older"], "newer").await;
    assert!(crashes >= 40, "only {crashes}");
}

#[tokio::test]
async fn a_crash_while_files_are_written_side_by_side_leaves_none_or_a_whole_one() {
    let before = before().await;
    let recording = RecordingStore::on(copy(&before).await);
    let repository = on(Arc::new(recording.clone()));
    let attempt = repository.begin(request(Some("newer"))).await.unwrap();
    let writes = (0..6).map(|index| {
        let attempt = &attempt;
        async move {
            let mut upload = attempt.upload(&path(&format!("data/p-{index:05}.parquet"))).await.unwrap();
            upload.write(Bytes::from(vec![index; 9 << 20])).await.unwrap();
            upload.finish().await.unwrap();
        }
    });
    futures::future::join_all(writes).await;
    let manifest = manifest(&attempt);
    attempt.commit(manifest).await.unwrap();
    let crashes = every_crash(&before, &recording, &["older"], "newer").await;
    assert!(crashes >= 40, "only {crashes}");
}

#[tokio::test]
async fn a_crash_while_a_backup_is_deleted_leaves_a_whole_one_or_none() {
    let before = before().await;
    make(&on(Arc::new(before.clone())), "newer").await;
    let recording = RecordingStore::on(copy(&before).await);
    on(Arc::new(recording.clone())).delete("newer", None, None).await.unwrap();
    let crashes = every_crash(&before, &recording, &["older"], "newer").await;
    assert!(crashes >= 20, "only {crashes}");
}

#[tokio::test]
async fn a_crash_while_a_dead_run_is_swept_and_a_backup_is_made_leaves_no_trace_of_either() {
    let before = before().await;
    // A run that wrote all its files and died before the manifest.
    let dying = on(Arc::new(before.clone()));
    let attempt = dying.begin(request(Some("dead"))).await.unwrap();
    write_files(&attempt).await.unwrap();
    let died = copy(&before).await;
    attempt.abandon().await;
    bury_holders(&died).await;
    let recording = RecordingStore::on(copy(&died).await);
    make(&on(Arc::new(recording.clone())), "newer").await;
    let crashes = every_crash(&died, &recording, &["older"], "newer").await;
    assert!(crashes >= 60, "only {crashes}");
}

#[tokio::test]
async fn a_crash_while_a_dead_run_is_gone_on_with_loses_none_of_its_files_and_leaves_no_trace() {
    let before = before().await;
    let dying = on(Arc::new(before.clone()));
    let attempt = dying.begin(BeginRequest { resume: true, ..request(Some("dead")) }).await.unwrap();
    finish_and_note(&attempt, 3).await;
    let died = copy(&before).await;
    attempt.abandon().await;
    bury_holders(&died).await;
    let recording = RecordingStore::on(copy(&died).await);
    let repository = on(Arc::new(recording.clone()));
    let heir = repository.begin(BeginRequest { resume: true, ..request(Some("newer")) }).await.unwrap();
    let adopted = heir.adopt(&|_| std::future::ready(()).boxed()).await.unwrap();
    assert_eq!(adopted.map(|adopted| adopted.chunks.len()), Some(3));
    heir.put(&path("chunks.json"), Bytes::from_static(b"{}")).await.unwrap();
    let manifest = manifest(&heir);
    heir.commit(manifest).await.unwrap();
    let crashes = every_crash(&died, &recording, &["older"], "newer").await;
    assert!(crashes >= 60, "only {crashes}");
    assert_eq!(adopted_after_every_crash(&died, &recording, "newer").await, 3);
}

#[tokio::test]
async fn a_crash_while_an_attempt_is_abandoned_leaves_no_trace_of_it() {
    let before = before().await;
    let recording = RecordingStore::on(copy(&before).await);
    let repository = on(Arc::new(recording.clone()));
    let attempt = repository.begin(request(Some("given up"))).await.unwrap();
    write_files(&attempt).await.unwrap();
    attempt.abandon().await;
    make(&repository, "newer").await;
    let crashes = every_crash(&before, &recording, &["older"], "newer").await;
    assert!(crashes >= 60, "only {crashes}");
}
