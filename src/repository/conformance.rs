//! What a store must do to keep a repository: one suite for local disk, memory and every object store.
//!
//! `cargo test conformance` runs it on local disk and in memory, and on each store that `MILVAULT_TEST_STORES` names, a
//! JSON object: name → `{"root": url, "options": {…}}`. It prints a line
//! `store<TAB>rule<TAB>true` for each rule that is kept, and `false` for one that is not; what each store is to keep,
//! whoever names it knows.

use std::collections::BTreeMap;
use std::pin::Pin;

use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;

use crate::checksum::hex;

use super::testing::{BEAT, make, names, path, request};
use super::{Repository, Store};

type Outcome<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
type Rule = (&'static str, for<'a> fn(&'a Repository) -> Outcome<'a>);

/// Each rule runs in a root of its own.
const RULES: &[Rule] = &[
    ("files come back as they were written, and are replaced at once", |repository| {
        Box::pin(come_back(&repository.store))
    }),
    ("what is absent is told as absent, and may be deleted", |repository| Box::pin(absent(&repository.store))),
    ("a part of a file can be read; one beyond its end cannot", |repository| Box::pin(parts(&repository.store))),
    ("a file is created only where there is none, by one of many at once", |repository| {
        Box::pin(create_once(&repository.store))
    }),
    ("a file is replaced only while it is as it was read, by one of many at once", |repository| {
        Box::pin(replace_once(&repository.store))
    }),
    ("a list is complete, beyond a thousand files too, and keeps to its folder", |repository| {
        Box::pin(lists(&repository.store))
    }),
    ("a large file appears whole when it is finished, and not before", |repository| {
        Box::pin(large_files(&repository.store))
    }),
    ("an upload that is given up leaves nothing", |repository| Box::pin(given_up(&repository.store))),
    ("a backup is committed, listed, found whole, and deleted without a trace", |repository| {
        Box::pin(backups(repository))
    }),
    ("a second backup of the same collection waits its turn", |repository| Box::pin(one_at_a_time(repository))),
];

async fn come_back(store: &Store) {
    for (name, body) in
        [("a/plain.json", &b"{}"[..]), ("a/with space & \u{e4}\u{1f40d}.bin", b"\0\xff"), ("empty", b"")]
    {
        let name = path(name);
        store.put(&name, Bytes::from_static(b"before")).await.unwrap();
        store.put(&name, Bytes::copy_from_slice(body)).await.unwrap();
        assert_eq!(store.get(&name, 100).await.unwrap().unwrap(), body);
        assert_eq!(store.size(&name).await.unwrap(), Some(body.len() as u64));
    }
    assert!(store.get(&path("a/plain.json"), 1).await.is_err(), "longer than the ceiling");
}

async fn absent(store: &Store) {
    let missing = path("no/such file");
    assert_eq!(store.get(&missing, 10).await.unwrap(), None);
    assert_eq!(store.size(&missing).await.unwrap(), None);
    assert_eq!(store.list("no").await.unwrap(), []);
    store.delete(&missing).await.unwrap();
    store.put(&missing, Bytes::from_static(b"x")).await.unwrap();
    store.delete_all(vec!["no/other".to_owned(), missing.as_str().to_owned()]).await.unwrap();
    assert_eq!(store.get(&missing, 10).await.unwrap(), None);
}

async fn parts(store: &Store) {
    let name = path("numbers");
    store.put(&name, (0..=255u8).collect::<Vec<_>>().into()).await.unwrap();
    assert_eq!(store.get_range(&name, 250..256).await.unwrap(), &[250, 251, 252, 253, 254, 255][..]);
    assert_eq!(store.get_range(&name, 0..1).await.unwrap(), &[0][..]);
    assert!(store.get_range(&name, 250..257).await.is_err());
    assert!(store.get_range(&path("none"), 0..1).await.is_err());
}

async fn create_once(store: &Store) {
    let name = path("lock");
    let tries = (0..8u8).map(|who| store.put_if_absent(&name, Bytes::from(vec![who])));
    let outcomes = futures::future::join_all(tries).await;
    let winners: Vec<_> = (0..8u8).zip(outcomes).filter(|(_, outcome)| outcome.as_ref().unwrap().is_some()).collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(store.get(&name, 10).await.unwrap().unwrap(), &[winners[0].0][..]);
    assert!(store.put_if_absent(&name, Bytes::from_static(b"late")).await.unwrap().is_none());
    store.delete(&name).await.unwrap();
    assert!(store.put_if_absent(&name, Bytes::from_static(b"again")).await.unwrap().is_some());
}

async fn replace_once(store: &Store) {
    let name = path("lock");
    store.put(&name, Bytes::from_static(b"first")).await.unwrap();
    let (_, version) = store.get_versioned(&name, 100).await.unwrap().unwrap();
    let tries = (0..8u8).map(|who| store.replace_if(&name, &version, Bytes::from(vec![who])));
    let outcomes = futures::future::join_all(tries).await;
    let mut winners: Vec<_> = (0..8u8).zip(outcomes.into_iter().map(Result::unwrap)).collect();
    winners.retain(|(_, outcome)| outcome.is_some());
    assert_eq!(winners.len(), 1);
    let (winner, newer) = winners.remove(0);
    assert_eq!(store.get(&name, 10).await.unwrap().unwrap(), &[winner][..]);
    assert!(!store.delete_if(&name, &version).await.unwrap(), "an old version is gone");
    assert!(store.replace_if(&name, &newer.unwrap(), Bytes::from_static(b"next")).await.unwrap().is_some());
    let (_, last) = store.get_versioned(&name, 100).await.unwrap().unwrap();
    assert!(store.delete_if(&name, &last).await.unwrap());
    assert!(store.replace_if(&name, &last, Bytes::from_static(b"ghost")).await.unwrap().is_none());
}

/// More than a page of any store's lists.
const MANY: usize = 1030;

async fn lists(store: &Store) {
    let numbered: Vec<String> = (0..MANY).map(|number| format!("many/{number:04}")).collect();
    let writes = numbered.iter().map(|name| async { store.put(&path(name), Bytes::from_static(b"1")).await.unwrap() });
    futures::stream::iter(writes.collect::<Vec<_>>()).buffer_unordered(16).collect::<()>().await;
    for name in ["many.json", "manyfold/x", "deep/er/still/x"] {
        store.put(&path(name), Bytes::from_static(b"12")).await.unwrap();
    }
    let found = store.list("many").await.unwrap();
    assert_eq!(found.iter().map(|file| file.path.clone()).collect::<Vec<_>>(), numbered);
    assert!(found.iter().all(|file| file.size == 1));
    assert_eq!(store.list("").await.unwrap().len(), MANY + 3);
    assert_eq!(store.list_folders("").await.unwrap(), ["deep", "many", "manyfold"]);
    assert_eq!(store.list_folders("deep").await.unwrap(), ["er"]);
    let all = store.list("").await.unwrap().into_iter().map(|file| file.path).collect();
    store.delete_all(all).await.unwrap();
    assert_eq!(store.list("").await.unwrap(), []);
}

async fn large_files(store: &Store) {
    let name = path("data/large.parquet");
    let block = |number: usize| Bytes::from(vec![u8::try_from(number).unwrap(); 1 << 20]);
    let mut upload = store.upload(&name).await.unwrap();
    for number in 0..21 {
        upload.write(block(number)).await.unwrap();
    }
    assert_eq!(store.size(&name).await.unwrap(), None, "it is there before its end");
    upload.finish().await.unwrap();
    assert_eq!(store.size(&name).await.unwrap(), Some(21 << 20));
    for number in [0, 7, 8, 20usize] {
        let start = (number as u64) << 20;
        assert_eq!(store.get_range(&name, start..start + (1 << 20)).await.unwrap(), block(number));
    }
    let mut again = store.upload(&name).await.unwrap();
    again.write(Bytes::from_static(b"short")).await.unwrap();
    again.finish().await.unwrap();
    assert_eq!(store.get(&name, 100).await.unwrap().unwrap(), &b"short"[..]);
}

async fn given_up(store: &Store) {
    let name = path("data/half.parquet");
    let mut upload = store.upload(&name).await.unwrap();
    for _ in 0..9 {
        upload.write(Bytes::from(vec![1; 1 << 20])).await.unwrap();
    }
    upload.abort().await;
    assert_eq!(store.size(&name).await.unwrap(), None);
    assert_eq!(store.list("data").await.unwrap(), []);
}

async fn backups(repository: &Repository) {
    let backup = make(repository, "one").await;
    assert_eq!(names(repository).await, ["one"]);
    assert!(backup.check_files(false, &|_| ()).await.unwrap().is_whole());
    repository.delete("one", Some("films"), None).await.unwrap();
    assert_eq!(names(repository).await, [""; 0]);
    assert_eq!(repository.store.list("").await.unwrap(), []);
}

async fn one_at_a_time(repository: &Repository) {
    let first = repository.begin(request(Some("first"))).await.unwrap();
    let second = repository.begin(request(Some("second"))).await;
    assert_eq!(second.err().unwrap().kind(), crate::error::Kind::InProgress);
    first.abandon().await;
    repository.begin(request(Some("second"))).await.unwrap().abandon().await;
    assert_eq!(repository.store.list("").await.unwrap(), []);
}

#[derive(Deserialize)]
struct Site {
    root: String,
    #[serde(default)]
    options: BTreeMap<String, String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_store_keeps_every_rule() {
    let folder = tempfile::tempdir().unwrap();
    let local = Site { root: folder.path().to_str().unwrap().to_owned(), options: BTreeMap::new() };
    let memory = Site { root: "memory://conformance".to_owned(), options: BTreeMap::new() };
    let mut sites = BTreeMap::from([("local disk".to_owned(), local), ("memory".to_owned(), memory)]);
    if let Ok(more) = std::env::var("MILVAULT_TEST_STORES") {
        sites.extend(serde_json::from_str::<BTreeMap<String, Site>>(&more).unwrap());
    }
    for (name, site) in &sites {
        for (rule, holds) in RULES {
            let root = format!("{}/{}", site.root, hex(&rand::random::<[u8; 8]>()));
            let repository = Repository::open(&root, &site.options).unwrap().with_heartbeat(BEAT * 10);
            // A task of its own: a rule that is broken does not end the others.
            let kept = tokio::spawn(async move { holds(&repository).await }).await.is_ok();
            println!("{name}\t{rule}\t{kept}");
            assert!(kept || !["local disk", "memory"].contains(&name.as_str()), "{name}: {rule}");
        }
    }
}
