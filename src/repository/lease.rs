//! "Someone is at work here": a small JSON file that its holder rewrites at every heartbeat.
//!
//! Used for the collection lock (`<folder>/.lock.json`), for readers' markers (`<folder>/.readers/…`) and for restore
//! journals (`.restores/…`). A lease saves work, it does not make anything safe: that is the commit's part.
//!
//! A lease is taken with put-if-absent. Where one is there already:
//! - its holder lives on this host: refused at once;
//! - its holder was on this host and has ended: taken over at once, with a conditional put;
//! - anything else (another host, an unreadable file): it is watched for five heartbeats by this process's own
//!   monotonic clock. Changed: refused. Unchanged: taken over with a conditional put, its death not proven.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rand::Rng;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::checksum::hex;
use crate::error::{Error, Kind, Result, internal};

pub use super::holder::{HolderState, Record};
use super::holder::{Identity, Registration};
use super::names::{BackupId, RelativePath};
use super::store::{Store, Version};

/// How often a holder is heard of, unless a repository says otherwise.
pub const HEARTBEAT: Duration = Duration::from_secs(2);
/// How many heartbeats must fail to come before a holder is taken for dead.
pub const MISSED_BEATS: u32 = 5;
const CEILING: u64 = 1 << 20;
/// The purpose of a lease under which nothing is made or read, only cleared up.
pub(super) const SWEEP: &str = "sweep";
/// How long such a one is waited for.
const SWEEP_LIMIT: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 30 });

/// What a new lease is for.
#[derive(Debug, Clone)]
pub struct Terms {
    /// `backup`, `copy`, `read`, `restore` or `sweep`.
    pub purpose: &'static str,
    /// The backup that is made or read.
    pub backup_id: Option<BackupId>,
    /// What a successor needs to know.
    pub entry: Option<Value>,
    /// Time between two heartbeats.
    pub interval: Duration,
}

/// A lease that this process holds and keeps alive in the background.
pub struct Lease {
    shared: Arc<Shared>,
    heart: Option<JoinHandle<()>>,
}

struct Shared {
    store: Store,
    path: RelativePath,
    interval: Duration,
    held: Mutex<Held>,
    progress: AtomicU64,
    lost: CancellationToken,
    stop: CancellationToken,
    registration: std::sync::Mutex<Option<Registration>>,
}

struct Held {
    record: Record,
    version: Version,
    confirmed: Instant,
}

/// How things stand with a lease file, once it has been watched where that was needed.
pub enum Standing {
    /// There is none.
    Absent,
    /// Held, by someone who lives.
    Alive(Record),
    /// Its holder is gone.
    Dead(Gone),
}

/// A lease whose holder is gone.
pub struct Gone {
    /// What it said, if it could be read.
    pub record: Option<Record>,
    /// Whether the holder is known to have ended, rather than only silent.
    pub proven: bool,
    version: Version,
}

/// What [`Lease::acquire`] gives.
pub struct Acquired {
    /// The lease.
    pub lease: Lease,
    /// Runs that are proven dead: the last holder's, and those it had itself found dead.
    pub dead: Vec<BackupId>,
}

impl Lease {
    /// Takes the lease at `path`; [`Kind::InProgress`] with the holder's progress where someone lives who has it.
    pub async fn acquire(store: &Store, path: &RelativePath, terms: Terms) -> Result<Acquired> {
        let taken = Self::try_acquire(store, path, &terms).await?;
        taken.map_err(|record| in_progress(store, path, &record))
    }

    /// As [`Lease::acquire`], but a holder who only clears up is waited for, half a minute at most, and not beyond the end
    /// of `stop`.
    pub async fn acquire_behind_sweep(
        store: &Store,
        path: &RelativePath,
        terms: Terms,
        stop: impl Future<Output = Error> + Send,
    ) -> Result<Acquired> {
        let mut stop = std::pin::pin!(stop);
        let begun = Instant::now();
        loop {
            match Self::try_acquire(store, path, &terms).await? {
                Ok(acquired) => return Ok(acquired),
                Err(record) if record.purpose == SWEEP && begun.elapsed() < SWEEP_LIMIT => tokio::select! {
                    error = &mut stop => return Err(error),
                    () = sleep(terms.interval / 8) => {}
                },
                Err(record) => return Err(in_progress(store, path, &record)),
            }
        }
    }

    /// The lease, or what it says where someone lives who has it.
    async fn try_acquire(store: &Store, path: &RelativePath, terms: &Terms) -> Result<Result<Acquired, Box<Record>>> {
        for _ in 0..10 {
            if let Some(lease) = Self::create(store, path, terms.clone()).await? {
                return Ok(Ok(Acquired { lease, dead: Vec::new() }));
            }
            match standing(store, path, terms.interval).await? {
                Standing::Absent => {}
                Standing::Alive(record) => return Ok(Err(Box::new(record))),
                Standing::Dead(gone) => {
                    if let Some(lease) = Self::take_over(store, path, terms.clone(), gone).await? {
                        let dead = lease.shared.held.lock().await.record.dead.clone();
                        return Ok(Ok(Acquired { lease, dead }));
                    }
                }
            }
        }
        Err(Error::new(
            Kind::InProgress,
            format!(
                "{} changes hands all the time: others are at work there; try again later",
                store.display(path.as_str())
            ),
        )
        .with("progress_percentage", Value::Null)
        .temporary())
    }

    /// Takes the lease where nobody has it; `None` where there is a file already.
    pub async fn create(store: &Store, path: &RelativePath, terms: Terms) -> Result<Option<Self>> {
        let interval = terms.interval;
        let record = new_record(terms, Vec::new());
        let registration = Registration::new(&record.token);
        match store.put_if_absent(path, encode(&record)?).await? {
            None => Ok(None),
            Some(version) => {
                let lease = Self::start(store, path, interval, Held::new(record, version), registration);
                match Box::pin(store.probe(path)).await {
                    Ok(()) => Ok(Some(lease)),
                    Err(error) => {
                        let _ = lease.release().await;
                        Err(error)
                    }
                }
            }
        }
    }

    /// Takes over a lease whose holder is gone; `None` where someone else was faster. Without an entry of its own, the
    /// new lease keeps the old one's.
    pub async fn take_over(store: &Store, path: &RelativePath, mut terms: Terms, gone: Gone) -> Result<Option<Self>> {
        let interval = terms.interval;
        let mut dead = Vec::new();
        if let Some(old) = gone.record {
            dead = old.dead;
            if gone.proven {
                dead.extend(old.backup_id);
            }
            terms.entry = terms.entry.or(old.entry);
        }
        let record = new_record(terms, dead);
        let registration = Registration::new(&record.token);
        let version = store.replace_if(path, &gone.version, encode(&record)?).await?;
        Ok(version.map(|version| Self::start(store, path, interval, Held::new(record, version), registration)))
    }

    fn start(store: &Store, path: &RelativePath, interval: Duration, held: Held, registration: Registration) -> Self {
        let shared = Arc::new(Shared {
            store: store.clone(),
            path: path.clone(),
            interval,
            held: Mutex::new(held),
            progress: AtomicU64::new(0),
            lost: CancellationToken::new(),
            stop: CancellationToken::new(),
            registration: std::sync::Mutex::new(Some(registration)),
        });
        let heart = tokio::spawn(beat_on(Arc::clone(&shared)));
        Self { shared, heart: Some(heart) }
    }

    /// Cancelled when the lease is no longer ours: someone took it over. While the store does not answer nobody knows;
    /// the commit, or [`Lease::update`], finds out.
    #[must_use]
    pub fn lost(&self) -> CancellationToken {
        self.shared.lost.clone()
    }

    /// Progress in percent, shown to whoever is refused.
    pub fn set_progress(&self, percentage: f64) {
        self.shared.progress.store(percentage.to_bits(), Ordering::Relaxed);
    }

    /// Changes what the lease file says, durably on return.
    pub async fn update(&self, change: impl FnOnce(&mut Record) + Send) -> Result<()> {
        let mut held = self.shared.held.lock().await;
        change(&mut held.record);
        if self.shared.beat(&mut held).await? { Ok(()) } else { Err(self.shared.lost_error()) }
    }

    /// Gives the lease up: the file goes, unless it is another's by now.
    pub async fn release(mut self) -> Result<()> {
        if let Some(heart) = self.heart.take() {
            self.shared.stop.cancel();
            let _ = heart.await;
        }
        self.shared.release().await
    }

    /// Stops the heartbeats but leaves the file, so that the next run finds what has to be cleared up.
    pub(super) fn leave(mut self) {
        self.heart.take();
        self.shared.stop.cancel();
        self.shared.unregister();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        if let Some(heart) = self.heart.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let shared = Arc::clone(&self.shared);
            runtime.spawn(async move {
                let _ = heart.await;
                let _ = shared.release().await;
            });
        } else {
            self.shared.unregister();
        }
    }
}

impl Held {
    fn new(record: Record, version: Version) -> Self {
        Self { record, version, confirmed: Instant::now() }
    }
}

impl Shared {
    /// One heartbeat; `false` where the lease is no longer ours.
    async fn beat(&self, held: &mut Held) -> Result<bool> {
        if self.lost.is_cancelled() {
            return Ok(false);
        }
        held.record.beat += 1;
        held.record.progress_percentage = f64::from_bits(self.progress.load(Ordering::Relaxed));
        held.record.written_at = Utc::now();
        for _ in 0..3 {
            if let Some(version) = self.replace(&held.version, encode(&held.record)?).await? {
                held.version = version;
                held.confirmed = Instant::now();
                return Ok(true);
            }
            // Ours still, in a version whose arrival we were never told of?
            let Some((bytes, version)) = self.store.get_versioned(&self.path, CEILING).await? else { break };
            if decode(&bytes).is_none_or(|record| record.token != held.record.token) {
                break;
            }
            held.version = version;
        }
        self.lost.cancel();
        Ok(false)
    }

    /// Replaces the file. A request that hangs is joined by another each interval, so that one of them arrives before the
    /// holder is taken for dead; one that is only slow is not given up. All of them write the same, so that whichever
    /// comes second finds that it is done.
    async fn replace(&self, version: &Version, bytes: Bytes) -> Result<Option<Version>> {
        let mut under_way = FuturesUnordered::new();
        for _ in 0..MISSED_BEATS {
            under_way.push(self.store.replace_if(&self.path, version, bytes.clone()));
            if let Ok(Some(outcome)) = timeout(self.interval, under_way.next()).await {
                return outcome;
            }
        }
        under_way.next().await.unwrap_or_else(|| Err(internal("no heartbeat is under way")))
    }

    async fn release(&self) -> Result<()> {
        let mut held = self.held.lock().await;
        // Renewed shortly before it goes, it cannot be taken over between the look at it and its deletion.
        let fresh = held.confirmed.elapsed() < self.interval * 2;
        let released = async {
            if (!fresh || self.lost.is_cancelled()) && !self.beat(&mut held).await? {
                return Ok(());
            }
            // The last heartbeat may have been cut off, and have arrived all the same: the token decides.
            for _ in 0..3 {
                let Some((bytes, version)) = self.store.get_versioned(&self.path, CEILING).await? else { break };
                if decode(&bytes).is_none_or(|record| record.token != held.record.token) {
                    break;
                }
                if self.store.delete_if(&self.path, &version).await? {
                    return self.store.remove_empty_parents(&self.path).await;
                }
            }
            Ok(())
        };
        let released = released.await;
        self.lost.cancel();
        self.unregister();
        released
    }

    fn unregister(&self) {
        self.registration.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    }

    fn lost_error(&self) -> Error {
        Error::new(
            Kind::InProgress,
            format!(
                "{} was taken over by another run, which did not hear of this one for {MISSED_BEATS} heartbeats",
                self.store.display(self.path.as_str())
            ),
        )
        .with("progress_percentage", Value::Null)
    }
}

async fn beat_on(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval_at(Instant::now() + shared.interval, shared.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let mut held = shared.held.lock().await;
        let beat = timeout(shared.interval * MISSED_BEATS, shared.beat(&mut held));
        tokio::select! {
            () = shared.stop.cancelled() => return,
            // A store that does not answer takes nothing away: only finding another's lease there does.
            outcome = beat => if let Ok(Ok(false)) = outcome { return },
        }
    }
}

/// How things stand with the lease file at `path`. Watches it where its holder's state cannot be told at once, which
/// takes up to five of its heartbeats.
pub async fn standing(store: &Store, path: &RelativePath, interval: Duration) -> Result<Standing> {
    let Some((bytes, version)) = store.get_versioned(path, CEILING).await? else { return Ok(Standing::Absent) };
    let record = decode(&bytes);
    match record.as_ref().map_or(HolderState::Unknown, Record::holder_state) {
        HolderState::Alive => Ok(record.map_or(Standing::Absent, Standing::Alive)),
        HolderState::Dead => Ok(Standing::Dead(Gone { record, proven: true, version })),
        HolderState::Unknown => {
            let theirs = record.as_ref().map_or(0.0, |record| record.interval_seconds);
            let beat =
                Duration::try_from_secs_f64(theirs).unwrap_or(interval).clamp(interval, interval.max(HEARTBEAT * 15));
            let begun = Instant::now();
            while begun.elapsed() < beat * MISSED_BEATS {
                sleep(beat / 2).await;
                match store.get_versioned(path, CEILING).await? {
                    None => return Ok(Standing::Absent),
                    Some((now, _)) if now != bytes => {
                        let lively = decode(&now).or(record);
                        return Ok(lively.map_or(Standing::Absent, Standing::Alive));
                    }
                    Some(_) => {}
                }
            }
            Ok(Standing::Dead(Gone { record, proven: false, version }))
        }
    }
}

/// The error for someone who has to wait.
pub(super) fn in_progress(store: &Store, path: &RelativePath, record: &Record) -> Error {
    let what = match record.purpose.as_str() {
        "read" => "this backup is being read",
        "restore" => "a restore into this collection is running",
        "copy" => "a backup of this collection is being copied here",
        SWEEP => "what earlier runs left of this collection's backups is being cleared up",
        _ => "another backup of this collection is running",
    };
    let error = Error::new(
        Kind::InProgress,
        format!(
            "{what} ({}, {:.0} % done; {}): wait for it, or stop it",
            record.holder(),
            record.progress_percentage,
            store.display(path.as_str())
        ),
    )
    .with("progress_percentage", record.progress_percentage)
    .with("storage_path", store.display(path.as_str()))
    .temporary();
    match &record.backup_id {
        Some(id) => error.with("backup_id", id.as_str()),
        None => error,
    }
}

fn new_record(terms: Terms, dead: Vec<BackupId>) -> Record {
    let me = Identity::of_this_process();
    let token: [u8; 16] = rand::rng().random();
    Record {
        token: hex(&token),
        host: me.host,
        pid: me.pid,
        process_started: me.process_started,
        purpose: terms.purpose.to_owned(),
        backup_id: terms.backup_id,
        progress_percentage: 0.0,
        beat: 0,
        interval_seconds: terms.interval.as_secs_f64(),
        written_at: Utc::now(),
        dead,
        entry: terms.entry,
    }
}

fn encode(record: &Record) -> Result<Bytes> {
    serde_json::to_vec(record)
        .map(Bytes::from)
        .map_err(|error| internal(format!("a lease cannot be written as JSON: {error}")))
}

/// What a lease file says; `None` for one that is not as it has to be.
pub(super) fn decode(bytes: &[u8]) -> Option<Record> {
    serde_json::from_slice(bytes).ok()
}
