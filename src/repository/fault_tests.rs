//! Faults on a real disk: processes killed at any moment, disks that fill, roots that cannot be one, links.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;

use crate::error::Kind;

use super::testing::{Site, make, manifest, path, request, write_files};
use super::{Repository, Store};

const CHILD_ROOT: &str = "MILVAULT_TEST_CHILD_ROOT";

fn open(root: &Path) -> Repository {
    Repository::open(root.to_str().unwrap(), &BTreeMap::new()).unwrap()
}

fn every_file(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(every_file(&path));
        }
        found.push(path.display().to_string());
    }
    found
}

/// Not a test by itself: the process that is killed. Makes and deletes backups until then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_works_until_it_is_killed() {
    let Ok(root) = std::env::var(CHILD_ROOT) else { return };
    let repository = open(Path::new(&root));
    loop {
        let backup = make(&repository, "newer").await;
        let reading = repository.mark_reading(&backup).await.unwrap();
        backup.check_files(true, &|_| {}).await.unwrap();
        if let Some(reading) = reading {
            reading.release().await.unwrap();
        }
        repository.delete(backup.id().as_str(), None, None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_leaves_whole_backups_and_no_trace_after_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let repository = open(&root);
    make(&repository, "older").await;
    let (mut with, mut without) = (0, 0);
    for round in 0..25_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "repository::fault_tests::child_that_works_until_it_is_killed"])
            .env(CHILD_ROOT, &root)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_secs(20) && !root.join("films/.lock.json").exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros((round * 7919) % 60_000));
        child.kill().unwrap();
        child.wait().unwrap();

        let listing = repository.list(None, None).await.unwrap();
        assert!(listing.damaged.is_empty());
        for listed in &listing.backups {
            let id = listed.manifest.backup_id.as_str();
            let report = repository.find(id, None, None).await.unwrap().check_files(false, &|_| {}).await.unwrap();
            assert!(report.is_whole(), "round {round}: {:?}", report.failed);
        }
        if listing.backups.len() == 2 {
            with += 1;
        } else {
            without += 1;
        }
        repository.begin(request(None)).await.unwrap().abandon().await;
        if listing.backups.len() == 2 {
            repository.delete("newer", None, None).await.unwrap();
        }
        let left: Vec<_> = every_file(&root);
        assert_eq!(left.len(), 11, "round {round}: {left:#?}");
    }
    println!("killed with a backup there {with} times, without {without} times");
}

#[tokio::test]
async fn a_root_that_cannot_be_one_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = Repository::open(file.to_str().unwrap(), &BTreeMap::new()).err().unwrap();
    assert_eq!(error.kind(), Kind::Storage);
    assert_eq!(error.details()["error_code"], "ENOTDIR");
    let below = open(&file.join("below"));
    let error = below.begin(request(None)).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Storage, "{error:?}");
    for root in ["", "ftp://host/x", "s3://", "http://host"] {
        let error = Repository::open(root, &BTreeMap::new()).err().unwrap();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{root}");
    }
    for root in [
        "s3://user:secret@bucket/x",
        "s3://secret@bucket/x",
        "s3://KEY:secret/K7+bPx@bucket/x",
        "s3://KEY:secret/K7+bPx",
        "gs://bucket/secret@x",
        "az://container/x?sig=secret",
        "az://container/x#secret",
        "S3://KEY:secret/x@bucket",
        "file://KEY:secret/x@bucket",
        "s3://[secret",
    ] {
        let error = Repository::open(root, &BTreeMap::new()).err().unwrap();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{root}");
        let told = format!("{error} {error:?} {:?}", error.details());
        assert!(!told.contains("secret") && !told.contains("KEY"), "{told}");
    }
    let options = BTreeMap::from([("no_such_option".to_owned(), "1".to_owned())]);
    assert_eq!(Repository::open("s3://bucket/x", &options).err().unwrap().kind(), Kind::InvalidArgument);
    let missing = open(&folder.path().join("missing"));
    assert!(missing.list(None, None).await.unwrap().backups.is_empty());
    assert!(missing.store().available_bytes().unwrap() > 0);
    missing.sweep("default", "films").await.unwrap();
    assert!(!folder.path().join("missing").exists());
}

#[tokio::test]
async fn a_root_may_have_any_name_and_be_a_file_url() {
    for name in ["with space", "per%cent", "hash#1", "Ünï", "quote'\""] {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join(name);
        let repository = open(&root);
        let backup = make(&repository, "one").await;
        assert!(backup.check_files(false, &|_| {}).await.unwrap().is_whole());
        assert!(root.join("films").join(backup.id().as_str()).join("data/_default-00000.parquet").is_file());
        let url = url::Url::from_directory_path(&root).unwrap();
        let same = Repository::open(url.as_str(), &BTreeMap::new()).unwrap();
        assert_eq!(same.list(None, None).await.unwrap().backups.len(), 1);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn links_inside_a_repository_are_not_followed() {
    let site = Site::local();
    let backup = make(&site.repository, "one").await;
    let root = site.folder.as_ref().unwrap().path().join("not/there yet");
    let file = root.join("films").join(backup.id().as_str()).join("data/_default-00000.parquet");
    let outside = site.folder.as_ref().unwrap().path().join("outside");
    std::fs::rename(&file, &outside).unwrap();
    std::os::unix::fs::symlink(&outside, &file).unwrap();
    let report = backup.check_files(false, &|_| {}).await.unwrap();
    assert_eq!(report.failed.len(), 1);
    assert_eq!(report.failed[0].reason, super::Reason::Unreadable);
    assert!(backup.open_file(&path("data/_default-00000.parquet")).await.is_err());
    site.repository.delete("one", None, None).await.unwrap();
    assert!(outside.exists());

    // A collection's folder that leads elsewhere is neither read nor written.
    std::os::unix::fs::symlink(site.folder.as_ref().unwrap().path(), root.join("films")).unwrap();
    assert_eq!(site.repository.begin(request(None)).await.err().unwrap().kind(), Kind::Storage);
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_without_permission_is_an_error_that_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o555)).unwrap();
    if std::fs::write(root.join("probe"), "x").is_ok() {
        return; // root may write everywhere
    }
    let error = open(&root).begin(request(None)).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Storage);
    assert_eq!(error.details()["permissions_issue"], true);
    assert_eq!(error.details()["error_code"], "EACCES");
}

/// `MILVAULT_TEST_SMALL_DISK` names a folder on a disk of a few megabytes.
#[tokio::test]
async fn a_disk_that_fills_is_an_error_with_numbers_and_leaves_nothing() {
    let Ok(disk) = std::env::var("MILVAULT_TEST_SMALL_DISK") else { return };
    let root = Path::new(&disk).join("root");
    let repository = open(&root);
    make(&repository, "small").await;
    let before = every_file(&root).len();
    let attempt = repository.begin(request(None)).await.unwrap();
    write_files(&attempt).await.unwrap();
    let mut upload = attempt.upload(&path("data/big.parquet")).await.unwrap();
    let mut outcome = Ok(());
    for _ in 0..200 {
        outcome = upload.write(Bytes::from(vec![7; 1 << 20])).await;
        if outcome.is_err() {
            break;
        }
    }
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), Kind::InsufficientStorage, "{error:?}");
    assert!(error.details()["required_bytes"].is_u64() && error.details()["available_bytes"].is_u64());
    upload.abort().await;
    attempt.abandon().await;
    assert_eq!(every_file(&root).len(), before);
    std::fs::remove_dir_all(root).unwrap();
}

#[tokio::test]
async fn an_object_store_that_is_not_there_is_an_error_that_says_so() {
    let options = |endpoint: &str| {
        let pairs = [
            ("aws_endpoint", endpoint),
            ("aws_allow_http", "true"),
            ("aws_access_key_id", "test"),
            ("aws_secret_access_key", "SECRET"),
        ];
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect::<BTreeMap<_, _>>()
    };
    let begun = std::time::Instant::now();
    let nobody = Repository::open("s3://test/x", &options("http://127.0.0.1:9")).unwrap();
    let error = nobody.list(None, None).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Storage);
    assert!(error.is_temporary() && error.message().contains("endpoint"), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    assert!(!format!("{error:?}").contains("SECRET"));
    let Ok(endpoint) = std::env::var("MILVAULT_TEST_S3") else { return };
    let missing = Repository::open("s3://no-such-bucket/x", &options(&endpoint)).unwrap();
    for error in [
        missing.list(None, None).await.err().unwrap(),
        missing.begin(request(None)).await.err().unwrap(),
        missing.find("b20200101T000000Z_abcdef", Some("films"), Some("default")).await.err().unwrap(),
    ] {
        assert_eq!(error.kind(), Kind::Storage, "{error:?}");
        assert_eq!(error.details()["error_code"], "NoSuchBucket", "{error:?}");
        assert!(!error.is_temporary());
    }
}

/// A store that takes every write, whatever its condition, or whatever one of the two.
#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused() {
    use object_store::memory::InMemory;
    use std::sync::Arc;
    for (heeds_absence, said) in [(false, "If-None-Match"), (true, "If-Match")] {
        let objects = careless::Careless { inner: InMemory::new(), heeds_absence };
        let store = Store::from_objects(Arc::new(objects), "", "careless");
        let repository = Repository::on(store.clone());
        let error = repository.begin(request(None)).await.err().unwrap();
        assert_eq!(error.kind(), Kind::Storage);
        assert_eq!(error.details()["error_code"], "no_conditional_put");
        assert!(error.message().contains(said), "{error}");
        assert!(store.list("").await.unwrap().is_empty());
        assert_eq!(store.check().await.unwrap_err().details()["error_code"], "no_conditional_put");
    }
    let site = Site::memory();
    let attempt = site.repository.begin(request(None)).await.unwrap();
    let made = manifest(&attempt);
    attempt.commit(made).await.unwrap();
}

mod careless {
    use async_trait::async_trait;
    use futures::stream::BoxStream;
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
        PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    };

    #[derive(Debug)]
    pub(super) struct Careless {
        pub(super) inner: InMemory,
        /// Whether it heeds "only where there is none".
        pub(super) heeds_absence: bool,
    }

    impl std::fmt::Display for Careless {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Careless")
        }
    }

    #[async_trait]
    impl ObjectStore for Careless {
        async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
            let heeded = self.heeds_absence && options.mode == PutMode::Create;
            let mode = if heeded { PutMode::Create } else { PutMode::Overwrite };
            self.inner.put_opts(at, payload, mode.into()).await
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
