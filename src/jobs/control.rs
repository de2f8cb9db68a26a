//! How a running job is watched and stopped: progress, cancellation, a deadline.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::bandwidth::Bandwidth;
use crate::error::{Error, Kind, Result, internal};

/// What a job is doing at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Phase {
    Waiting,
    Counting,
    Reading,
    Writing,
    Verifying,
    Inserting,
    Flushing,
    Indexing,
    Loading,
    Proving,
    Swapping,
    Cleaning,
    Done,
}

/// A job's numbers at one moment, as Python reads them.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Snapshot {
    phase: Phase,
    bytes_processed: u64,
    total_bytes: u64,
    rows_processed: u64,
    total_rows: u64,
    started_at: f64,
}

/// The handle by which a job is watched and stopped from outside, and by which it says how far it is.
#[derive(Debug)]
pub struct Control {
    cancel: CancellationToken,
    started_at: f64,
    rows: AtomicU64,
    bytes: AtomicU64,
    total_rows: AtomicU64,
    total_bytes: AtomicU64,
    phases: Mutex<Phases>,
    begun: std::sync::atomic::AtomicBool,
    bandwidth: OnceLock<Bandwidth>,
}

#[derive(Debug)]
struct Phases {
    current: Phase,
    since: Instant,
    spent: Vec<(Phase, Duration)>,
}

impl Default for Control {
    fn default() -> Self {
        let started_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Self {
            cancel: CancellationToken::new(),
            started_at,
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            total_rows: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            phases: Mutex::new(Phases { current: Phase::Waiting, since: Instant::now(), spent: Vec::new() }),
            begun: false.into(),
            bandwidth: OnceLock::new(),
        }
    }
}

impl Control {
    /// Asks the job to stop; it cleans up and ends with [`Kind::Canceled`].
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Whether the job was asked to stop.
    #[must_use]
    pub fn is_canceled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// How far the job is.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            phase: self.lock().current,
            bytes_processed: self.bytes.load(Ordering::Relaxed),
            total_bytes: self.total_bytes.load(Ordering::Relaxed),
            rows_processed: self.rows.load(Ordering::Relaxed),
            total_rows: self.total_rows.load(Ordering::Relaxed),
            started_at: self.started_at,
        }
    }

    /// Seconds spent in each phase so far, by the phase's name.
    #[must_use]
    pub fn timings(&self) -> serde_json::Map<String, serde_json::Value> {
        let phases = self.lock();
        let mut seconds = serde_json::Map::new();
        let current = (phases.current, phases.since.elapsed());
        for (phase, spent) in phases.spent.iter().copied().chain([current]) {
            let Ok(serde_json::Value::String(name)) = serde_json::to_value(phase) else { continue };
            let before = seconds.get(&name).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
            seconds.insert(name, (before + spent.as_secs_f64()).into());
        }
        seconds
    }

    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        let mut phases = self.lock();
        let (left, spent) = (phases.current, phases.since.elapsed());
        phases.spent.push((left, spent));
        phases.current = phase;
        phases.since = Instant::now();
    }

    /// Says how much there is to do.
    pub fn expect(&self, rows: u64, bytes: u64) {
        self.total_rows.store(rows, Ordering::Relaxed);
        self.total_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Says that so much more is done.
    pub fn advance(&self, rows: u64, bytes: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Limits how fast the job moves bytes to and from its repository, in MiB per second; `None` leaves it free.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] for a limit that is not above 0.
    pub fn limit_bandwidth(&self, mib_per_second: Option<f64>) -> Result<()> {
        if let Some(limit) = mib_per_second {
            let _ = self.bandwidth.set(Bandwidth::new(limit)?); // a job has one limit: the first
        }
        Ok(())
    }

    /// Waits until the bandwidth limit, if there is one, lets `bytes` through to or from the repository.
    pub async fn pass(&self, bytes: u64) {
        if let Some(limit) = self.bandwidth.get() {
            limit.pass(bytes).await;
        }
    }

    /// Says that what was done is to be done again.
    pub fn start_over(&self) {
        self.rows.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// How much is done, in percent; 0 while the whole is unknown.
    #[must_use]
    pub fn percentage(&self) -> f64 {
        #[allow(clippy::cast_precision_loss)] // a percentage for people
        let share = |done: &AtomicU64, all: &AtomicU64| match all.load(Ordering::Relaxed) {
            0 => 0.0,
            total => 100.0 * done.load(Ordering::Relaxed) as f64 / total as f64,
        };
        share(&self.rows, &self.total_rows).min(100.0)
    }

    /// Marks that arguments were right and work has begun: failures from here on are the outcome of a run, not of a
    /// wrong call.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Whether work had begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Runs `work` until it ends, the job is canceled, or `limit` is over: then `work` is dropped where it stands.
    pub async fn guard<T>(&self, limit: Option<Instant>, work: impl Future<Output = Result<T>>) -> Result<T> {
        let deadline = async {
            match limit {
                Some(end) => tokio::time::sleep_until(end.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(canceled()),
            () = deadline => Err(Error::new(Kind::Timeout, "the time allowed for this is over; what was begun has been undone. Allow more with timeout=")),
            outcome = work => outcome,
        }
    }

    /// Ends when the job is canceled or `limit` is over, and tells which.
    pub async fn stopped(&self, limit: Option<Instant>) -> Error {
        let ended = self.guard(limit, std::future::pending::<Result<()>>()).await.err();
        ended.unwrap_or_else(|| internal("waiting for nothing ended"))
    }

    /// Ends with [`Kind::Canceled`] where the job was asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.is_canceled() { Err(canceled()) } else { Ok(()) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Phases> {
        self.phases.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn canceled() -> Error {
    Error::new(Kind::Canceled, "canceled; what was begun has been undone")
}

/// The moment `seconds` from now; `None` for no limit.
#[must_use]
pub fn deadline(seconds: Option<f64>) -> Option<Instant> {
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .and_then(|limit| Instant::now().checked_add(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_canceled_job_ends_as_canceled() {
        let control = Control::default();
        control.cancel();
        let outcome = control.guard(None, std::future::pending::<Result<()>>()).await;
        assert_eq!(outcome.unwrap_err().kind(), Kind::Canceled);
    }

    #[tokio::test]
    async fn time_runs_out_as_timeout() {
        let control = Control::default();
        let outcome = control.guard(deadline(Some(0.01)), std::future::pending::<Result<()>>()).await;
        assert_eq!(outcome.unwrap_err().kind(), Kind::Timeout);
    }

    #[test]
    fn time_in_a_phase_entered_twice_adds_up() {
        let control = Control::default();
        control.enter(Phase::Reading);
        control.enter(Phase::Writing);
        control.enter(Phase::Reading);
        let timings = control.timings();
        assert_eq!(timings.keys().collect::<Vec<_>>(), ["reading", "waiting", "writing"]);
    }
}
