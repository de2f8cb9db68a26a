//! Who waits for whom, and what is said to those who do not.

use std::future::{pending, ready};
use std::time::{Duration, Instant};

use futures::FutureExt;

use crate::error::{Error, Kind};

use super::lease::{Lease, Terms};
use super::testing::{BEAT, Site, make, names, path, request};

async fn held(site: &Site, purpose: &'static str) -> Lease {
    let terms = Terms { purpose, backup_id: None, entry: None, interval: BEAT };
    Lease::create(&site.repository.store, &path("films/.lock.json"), terms).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_backup_and_a_copy_wait_for_a_sweep_that_is_under_way() {
    let from = Site::local();
    let backup = make(&from.repository, "copied").await;
    for site in Site::each() {
        for copies in [false, true] {
            let sweep = held(&site, "sweep").await;
            let begun = Instant::now();
            let swept = async {
                tokio::time::sleep(BEAT * 6).await;
                sweep.release().await.unwrap();
            };
            let waits = async {
                if copies {
                    site.repository.copy_from(&backup, pending(), &|_| ready(()).boxed()).await.map(drop).unwrap();
                } else {
                    make(&site.repository, "made").await;
                }
            };
            tokio::join!(swept, waits);
            assert!(begun.elapsed() >= BEAT * 6);
        }
        assert_eq!(names(&site.repository).await, ["made", "copied"]);
    }
}

#[tokio::test]
async fn a_sweep_without_an_end_is_not_waited_for_for_ever_and_is_called_what_it_is() {
    let site = Site::memory();
    let _sweep = held(&site, "sweep").await;
    let error = site.repository.begin(request(None)).await.err().unwrap();
    assert_eq!((error.kind(), error.is_temporary()), (Kind::InProgress, true));
    assert!(error.message().contains("is being cleared up"), "{error}");
    // Who is told to stop waits no longer.
    let begun = Instant::now();
    let stop = tokio::time::sleep(BEAT).map(|()| Error::new(Kind::Canceled, "stopped"));
    assert_eq!(site.repository.begin_or(request(None), stop).await.err().unwrap().kind(), Kind::Canceled);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn whoever_makes_something_is_not_waited_for_and_is_called_what_it_is() {
    for (purpose, said) in
        [("backup", "another backup of this collection is running"), ("copy", "is being copied here")]
    {
        let site = Site::memory();
        let lease = held(&site, purpose).await;
        let begun = Instant::now();
        let error = site.repository.begin(request(None)).await.err().unwrap();
        assert_eq!(error.kind(), Kind::InProgress);
        assert!(error.message().contains(said), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(1));
        lease.release().await.unwrap();
    }
}
