//! Who holds a lease, and whether they are still alive.
//!
//! Death is proven only on the holder's own host: the same boot of the same machine, seen from the same process
//! namespace. There a process id and the process's start time name one process for good. Of any other host only
//! silence can be told, by watching (see [`super::lease`]).

use std::collections::BTreeSet;
use std::sync::Mutex;

use chrono::{DateTime, Utc};
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::names::BackupId;

/// What a lease file says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Tells this lease from every other one.
    pub token: String,
    /// Host name, boot and process namespace; `None` where the system does not tell.
    #[serde(default)]
    pub host: Option<String>,
    /// The process.
    pub pid: u32,
    /// When the process started, in the system's own ticks since its boot.
    #[serde(default)]
    pub process_started: Option<u64>,
    /// What it is doing: `backup`, `copy`, `read`, `restore`, `sweep`.
    #[serde(default)]
    pub purpose: String,
    /// The backup that is made or read.
    #[serde(default)]
    pub backup_id: Option<BackupId>,
    /// How far it is.
    #[serde(default)]
    pub progress_percentage: f64,
    /// Counts heartbeats, so that every one changes the file.
    pub beat: u64,
    /// Seconds between two heartbeats.
    #[serde(default)]
    pub interval_seconds: f64,
    /// When it was written, by the holder's clock.
    pub written_at: DateTime<Utc>,
    /// Runs that were proven dead when this lease was taken over, and whose files the holder sweeps. They are kept here
    /// so that the proof outlives a sweeper that dies as well.
    #[serde(default)]
    pub dead: Vec<BackupId>,
    /// What a successor needs to know (a restore's journal).
    #[serde(default)]
    pub entry: Option<Value>,
}

/// Whether the holder of a lease lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HolderState {
    /// A process of this host, running and heard of lately.
    Alive,
    /// A process of this host that has ended.
    Dead,
    /// Another host's, or one that has not been heard of for long: has to be watched.
    Unknown,
}

/// Heartbeats that a living process of this host may miss before it is watched like a stranger: a lease that was
/// leaked must not hold everybody up until its process ends.
const SILENT_BEATS: f64 = 30.0;

impl Record {
    /// Whether its holder lives, as far as this process can tell at once.
    #[must_use]
    pub fn holder_state(&self) -> HolderState {
        let me = Identity::of_this_process();
        if self.host.is_none() || self.host != me.host {
            return HolderState::Unknown;
        }
        if self.pid == me.pid && self.process_started == me.process_started {
            return if is_ours(&self.token) { HolderState::Alive } else { HolderState::Dead };
        }
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return HolderState::Unknown };
        if test_kill_process(pid) == Err(rustix::io::Errno::SRCH) {
            return HolderState::Dead;
        }
        match process_started(&self.pid.to_string()) {
            Process::Ended => HolderState::Dead,
            Process::Started(ticks) if Some(ticks) != self.process_started => HolderState::Dead,
            Process::Started(_) if self.silent_seconds() <= SILENT_BEATS * self.interval_seconds.clamp(0.1, 60.0) => {
                HolderState::Alive
            }
            Process::Started(_) | Process::Untold => HolderState::Unknown,
        }
    }

    /// For a message: who it is.
    #[must_use]
    pub fn holder(&self) -> String {
        let host = self.host.as_deref().and_then(|host| host.split('|').next()).unwrap_or("an unknown host");
        format!("process {} on {host}", self.pid)
    }

    fn silent_seconds(&self) -> f64 {
        let silent = (Utc::now() - self.written_at).num_milliseconds().max(0);
        #[allow(clippy::cast_precision_loss)] // milliseconds: exact for longer than there have been computers
        let seconds = silent as f64 / 1000.0;
        seconds
    }
}

/// What tells this process from every other one.
pub(super) struct Identity {
    pub(super) host: Option<String>,
    pub(super) pid: u32,
    pub(super) process_started: Option<u64>,
}

impl Identity {
    pub(super) fn of_this_process() -> Self {
        let process_started = match process_started("self") {
            Process::Started(ticks) => Some(ticks),
            _ => None,
        };
        Self { host: host(), pid: std::process::id(), process_started }
    }
}

/// `<name>|<boot id>|<process namespace>`.
fn host() -> Option<String> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{name}|{}|{}", boot.trim(), namespace.display()))
}

enum Process {
    Started(u64),
    Ended,
    Untold,
}

fn process_started(pid: &str) -> Process {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return Process::Untold };
    // The second field, the command in brackets, may itself have spaces and brackets; the third is the state and the
    // twenty-second the start time.
    let Some((_, rest)) = stat.rsplit_once(')') else { return Process::Untold };
    let fields: Vec<_> = rest.split_ascii_whitespace().collect();
    match (fields.first(), fields.get(19).and_then(|ticks| ticks.parse().ok())) {
        (Some(&("Z" | "X")), _) => Process::Ended,
        (Some(_), Some(ticks)) => Process::Started(ticks),
        _ => Process::Untold,
    }
}

static OURS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// While it lives, a lease with this token counts as held by this process.
pub(super) struct Registration(String);

impl Registration {
    pub(super) fn new(token: &str) -> Self {
        OURS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(token.to_owned());
        Self(token.to_owned())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        OURS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&self.0);
    }
}

fn is_ours(token: &str) -> bool {
    OURS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).contains(token)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A record as this process would write it.
    pub(in crate::repository) fn record(token: &str) -> Record {
        let me = Identity::of_this_process();
        Record {
            token: token.to_owned(),
            host: me.host,
            pid: me.pid,
            process_started: me.process_started,
            purpose: "backup".to_owned(),
            backup_id: None,
            progress_percentage: 0.0,
            beat: 0,
            interval_seconds: 2.0,
            written_at: Utc::now(),
            dead: Vec::new(),
            entry: None,
        }
    }

    /// The id of a process that has ended.
    pub(in crate::repository) fn ended_process() -> u32 {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }

    #[test]
    fn a_lease_of_this_process_is_alive_only_while_it_is_registered() {
        let record = record("holder-test");
        assert_eq!(record.holder_state(), HolderState::Dead);
        let registration = Registration::new("holder-test");
        assert_eq!(record.holder_state(), HolderState::Alive);
        drop(registration);
        assert_eq!(record.holder_state(), HolderState::Dead);
    }

    #[test]
    fn an_ended_process_is_dead_even_before_it_is_waited_for() {
        let mut other = record("t");
        other.pid = ended_process();
        assert_eq!(other.holder_state(), HolderState::Dead);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        other.pid = child.id();
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert_eq!(other.holder_state(), HolderState::Dead);
        child.wait().unwrap();
    }

    #[test]
    fn a_process_id_used_again_is_not_the_holder() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let mut other = record("t");
        other.pid = child.id();
        let Process::Started(ticks) = process_started(&child.id().to_string()) else { panic!("no start time") };
        other.process_started = Some(ticks);
        assert_eq!(other.holder_state(), HolderState::Alive);
        other.process_started = Some(ticks + 1);
        assert_eq!(other.holder_state(), HolderState::Dead);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn another_host_or_a_long_silence_has_to_be_watched() {
        let mut other = record("t");
        other.host = Some("elsewhere|boot|ns".to_owned());
        assert_eq!(other.holder_state(), HolderState::Unknown);
        let mut silent = record("t");
        silent.pid = std::os::unix::process::parent_id();
        let Process::Started(ticks) = process_started(&silent.pid.to_string()) else { return };
        silent.process_started = Some(ticks);
        assert_eq!(silent.holder_state(), HolderState::Alive);
        silent.written_at = Utc::now() - chrono::TimeDelta::minutes(5);
        assert_eq!(silent.holder_state(), HolderState::Unknown);
    }
}
