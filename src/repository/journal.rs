//! Restore journals: what a restore is doing to a server, so that the next run can finish or reverse it.
//!
//! A journal is a lease (`.restores/<database>.<target>.<server>.json`; no collection's folder can begin with a dot)
//! whose entry says which collections are involved and how far the restore is. A living restore beats; a dead one's
//! journal is taken over by whoever recovers, so that two of them do not both act.

use std::collections::BTreeMap;

use chrono::{TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::checksum::ChecksumAlgorithm;
use crate::error::{Error, Kind, Result, internal};

use super::catalog::Repository;
use super::lease::{Lease, Standing, Terms, decode, in_progress, standing};
use super::names::{BackupId, RelativePath, check_name, shortened};

const FOLDER: &str = ".restores";
const CEILING: u64 = 1 << 20;
/// For so long is a staging collection left for the restore that may go on with it.
const SPARED_HOURS: i64 = 24;

/// How far a restore is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Rows go into the staging collection; the target is untouched. To recover: drop the staging collection.
    Staging,
    /// The staging collection is proven and takes the target's place. To recover: finish, or reverse.
    Swapping,
}

/// What a restore is doing, enough for another process to finish or reverse it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// Which server, by its label; never with credentials.
    pub server: String,
    /// The target's database.
    pub database: String,
    /// The collection to be restored.
    pub target: String,
    /// The staging collection.
    pub staging: String,
    /// The name under which the old collection is kept during the swap.
    #[serde(default)]
    pub aside: Option<String>,
    /// How far it is.
    pub phase: Phase,
    /// The backup that is restored.
    pub backup_id: BackupId,
    /// Aliases of the old collection as the swap begins. While it stands, it is asked for those that it has by then.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Aliases of the backup, which a collection gets that takes nobody's place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub brings: Vec<String>,
    /// Stands for all that has to be the same for another run to go on with the staging collection; `None` where none can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// How many of a partition's chunks are in the staging collection for sure, by ascending keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub done: BTreeMap<String, u64>,
}

impl JournalEntry {
    /// Whether the same restore may go on with the staging collection.
    #[must_use]
    pub fn may_go_on(&self) -> bool {
        self.phase == Phase::Staging && self.fingerprint.is_some() && self.done.values().any(|chunks| *chunks > 0)
    }
}

/// A journal that this process holds. Dropped without [`Journal::finish`], it stays, its heartbeat stopped, for the
/// next run to recover.
pub struct Journal {
    lease: Option<Lease>,
    entry: JournalEntry,
    kept: bool,
    /// Whether whoever held it before has ended for sure.
    proven: bool,
}

impl Repository {
    /// Begins a journal, durably. [`Kind::InProgress`] where another restore into the same target of the same server
    /// is running, or has died and is not recovered yet (see [`Repository::stale_journals`]).
    pub async fn begin_journal(&self, entry: JournalEntry) -> Result<Journal> {
        let path = path(&entry)?;
        for _ in 0..10 {
            let terms = self.journal_terms(Some(&entry))?;
            if let Some(lease) = Lease::create(&self.store, &path, terms).await? {
                return Ok(Journal { lease: Some(lease), entry, kept: true, proven: false });
            }
            match standing(&self.store, &path, self.heartbeat).await? {
                Standing::Absent => {}
                Standing::Alive(record) => {
                    return Err(in_progress(&self.store, &path, &record).with("target_collection_name", entry.target));
                }
                Standing::Dead(_) => break,
            }
        }
        Err(Error::new(
            Kind::InProgress,
            format!(
                "an interrupted restore into {:?} has not been cleared up ({}): restore into it again, which does so first",
                entry.target,
                self.store.display(path.as_str())
            ),
        )
        .with("target_collection_name", entry.target)
        .temporary())
    }

    /// The journals of dead restores on the server with this label, held by the caller from now on: recover each, then
    /// [`Journal::finish`] it. Waits five heartbeats where a holder's state cannot be told at once. Those that the same
    /// restore may go on with are left for it, for a day.
    pub async fn stale_journals(&self, server: &str) -> Result<Vec<Journal>> {
        let suffix = suffix(server);
        let mut candidates = Vec::new();
        for file in self.store.list(FOLDER).await? {
            if file.path.ends_with(&suffix)
                && let Ok(path) = RelativePath::new(file.path)
            {
                candidates.push(self.recover(path, server, true));
            }
        }
        let recovered = futures::future::join_all(candidates).await;
        recovered.into_iter().filter_map(Result::transpose).collect()
    }

    /// The journal of a dead restore into the same target, whatever it was doing, held by the caller from now on.
    pub async fn stale_journal(&self, server: &str, database: &str, target: &str) -> Result<Option<Journal>> {
        self.recover(path_of(server, database, target)?, server, false).await
    }

    async fn recover(&self, path: RelativePath, server: &str, spare: bool) -> Result<Option<Journal>> {
        let Some(bytes) = self.store.get(&path, CEILING).await? else { return Ok(None) };
        let record = decode(&bytes);
        let young =
            record.as_ref().is_some_and(|record| Utc::now() - record.written_at < TimeDelta::hours(SPARED_HOURS));
        let entry = record.and_then(|record| record.entry);
        let entry = entry.and_then(|entry| serde_json::from_value::<JournalEntry>(entry).ok());
        let Some(entry) = entry.filter(|entry| entry.server == server) else {
            tracing::warn!(journal = %self.store.display(path.as_str()), "a restore's journal cannot be read; left alone");
            return Ok(None);
        };
        if spare && young && entry.may_go_on() {
            return Ok(None);
        }
        let Standing::Dead(gone) = standing(&self.store, &path, self.heartbeat).await? else { return Ok(None) };
        let proven = gone.proven;
        let lease = Lease::take_over(&self.store, &path, self.journal_terms(None)?, gone).await?;
        Ok(lease.map(|lease| Journal { lease: Some(lease), entry, kept: true, proven }))
    }

    /// What the journals of this server say, of the living and of the dead alike; changes nothing.
    pub async fn noted_restores(&self, server: &str) -> Result<Vec<JournalEntry>> {
        let suffix = suffix(server);
        let mut noted = Vec::new();
        for file in self.store.list(FOLDER).await? {
            let Ok(path) = RelativePath::new(file.path) else { continue };
            if path.as_str().ends_with(&suffix)
                && let Some(bytes) = self.store.get(&path, CEILING).await?
            {
                let entry = decode(&bytes).and_then(|record| record.entry);
                noted.extend(entry.and_then(|entry| serde_json::from_value::<JournalEntry>(entry).ok()));
            }
        }
        noted.retain(|entry| entry.server == server);
        Ok(noted)
    }

    fn journal_terms(&self, entry: Option<&JournalEntry>) -> Result<Terms> {
        let backup_id = entry.map(|entry| entry.backup_id.clone());
        Ok(Terms { purpose: "restore", backup_id, entry: entry.map(to_value).transpose()?, interval: self.heartbeat })
    }
}

impl Journal {
    /// One that is written nowhere: what a process that is killed leaves on the server, nobody clears up.
    #[must_use]
    pub fn unkept(entry: JournalEntry) -> Self {
        Self { lease: None, entry, kept: false, proven: false }
    }

    /// Whether it is written anywhere.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept
    }

    /// The entry as last written.
    #[must_use]
    pub fn entry(&self) -> &JournalEntry {
        &self.entry
    }

    /// Changes the entry, durably on return. Its server, database and target stay what they are.
    pub async fn advance(&mut self, change: impl FnOnce(&mut JournalEntry) + Send) -> Result<()> {
        let mut entry = self.entry.clone();
        change(&mut entry);
        if path(&entry)? != path(&self.entry)? {
            return Err(internal("a journal's server, database and target cannot change"));
        }
        let value = to_value(&entry)?;
        match &self.lease {
            Some(lease) => lease.update(move |record| record.entry = Some(value)).await?,
            None if self.kept => return Err(internal("this journal is finished")),
            None => {}
        }
        self.entry = entry;
        Ok(())
    }

    /// Whether whoever held it before has ended for sure, so that nothing is inserted any more but by its new holder.
    #[must_use]
    pub fn proven_dead(&self) -> bool {
        self.proven
    }

    /// Notes how much is in the staging collection for sure, durably on return.
    pub async fn note(&self, done: &BTreeMap<String, u64>) -> Result<()> {
        let value = to_value(&JournalEntry { done: done.clone(), ..self.entry.clone() })?;
        match &self.lease {
            Some(lease) => lease.update(move |record| record.entry = Some(value)).await,
            None if self.kept => Err(internal("this journal is finished")),
            None => Ok(()),
        }
    }

    /// Progress in percent, shown to whoever is refused.
    pub fn set_progress(&self, percentage: f64) {
        if let Some(lease) = &self.lease {
            lease.set_progress(percentage);
        }
    }

    /// Cancelled when another run took the journal over.
    #[must_use]
    pub fn lost(&self) -> CancellationToken {
        self.lease.as_ref().map(Lease::lost).unwrap_or_default()
    }

    /// The restore is over, one way or the other: the journal goes.
    pub async fn finish(mut self) -> Result<()> {
        match self.lease.take() {
            Some(lease) => lease.release().await,
            None => Ok(()),
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.leave();
        }
    }
}

fn path(entry: &JournalEntry) -> Result<RelativePath> {
    path_of(&entry.server, &entry.database, &entry.target)
}

fn path_of(server: &str, database: &str, target: &str) -> Result<RelativePath> {
    check_name("database", database)?;
    check_name("collection", target)?;
    let name = shortened(&format!("{database}.{target}"), 200);
    RelativePath::new(format!("{FOLDER}/{name}{}", suffix(server)))
}

/// Keeps restores into collections of the same name on different servers apart.
fn suffix(server: &str) -> String {
    format!(".{}.json", &ChecksumAlgorithm::Sha256.of(server.as_bytes())[..8])
}

fn to_value(entry: &JournalEntry) -> Result<serde_json::Value> {
    serde_json::to_value(entry).map_err(|error| internal(format!("a journal cannot be written as JSON: {error}")))
}
