//! Where a restore notes what it does to the server: in the repository, or in a place that the user names because the
//! repository may only be read.

use super::Session;
use crate::error::{Error, Kind, Result};
use crate::milvus::Client;
use crate::repository::{Journal, JournalEntry, Repository};

/// What a restore is told that goes without a journal.
pub(super) const UNKEPT: &str = "the repository takes no writes, so this was not noted anywhere: had the process been killed, the collection \
     mv_… that it fills would have stayed on the server. A journal_root keeps such notes elsewhere";

impl Session {
    /// Begins a restore's journal. Without a place for it, a restore that replaces nothing goes on with one that is not
    /// kept: all that a kill can leave is a staging collection.
    ///
    /// # Errors
    /// [`Kind::InProgress`] where another restore into the same target is under way or was interrupted;
    /// [`Kind::ReadOnly`] or [`Kind::Storage`] where the repository takes no writes and the target exists.
    pub(super) async fn begin_journal(&self, entry: JournalEntry, changes_target: bool) -> Result<Journal> {
        let repository = self.repository()?;
        if let Some(journals) = &self.journals {
            refuse_where_noted(repository, &entry).await?;
            return journals.begin_journal(entry).await;
        }
        match repository.begin_journal(entry.clone()).await {
            Err(error) if refuses_writes(&error) => {
                refuse_where_noted(repository, &entry).await?;
                if changes_target { Err(needs_a_place(&error, &entry)) } else { Ok(Journal::unkept(entry)) }
            }
            outcome => outcome,
        }
    }

    /// The journal of a dead restore into this target, from the first place that has one, held from now on.
    pub(super) async fn stale_journal(&self, client: &Client, target: &str) -> Result<Option<Journal>> {
        for place in [&self.repository, &self.journals].into_iter().flatten() {
            match place.stale_journal(client.label(), client.database(), target).await {
                Ok(None) => {}
                Err(error) if refuses_writes(&error) => {}
                outcome => return outcome,
            }
        }
        Ok(None)
    }

    /// The journals of dead restores on this server, from every place that can be written, held from now on.
    pub(super) async fn stale_journals(&self, client: &Client) -> Result<Vec<Journal>> {
        let mut stale = Vec::new();
        for place in [&self.repository, &self.journals].into_iter().flatten() {
            match place.stale_journals(client.label()).await {
                // Each restore looks whether one of them is about its own target.
                Err(error) if refuses_writes(&error) => {
                    tracing::warn!(%error, "an interrupted restore is noted where nothing can be written: it is left alone");
                }
                outcome => stale.extend(outcome?),
            }
        }
        Ok(stale)
    }
}

/// Whether the repository may only be read, by our own setting or by the store's.
fn refuses_writes(error: &Error) -> bool {
    let by_the_store = error.details().get("permissions_issue").is_some_and(|value| value == true);
    error.kind() == Kind::ReadOnly || (error.kind() == Kind::Storage && by_the_store)
}

/// What is noted in a repository that takes no writes cannot be cleared up; a restore into the same target waits.
async fn refuse_where_noted(repository: &Repository, entry: &JournalEntry) -> Result<()> {
    let noted = repository.noted_restores(&entry.server).await?;
    let same = |other: &JournalEntry| other.database == entry.database && other.target == entry.target;
    if !noted.iter().any(same) {
        return Ok(());
    }
    Err(Error::new(
        Kind::InProgress,
        format!(
            "a restore into '{}' is noted in {}, under way or interrupted, and cannot be cleared up from here: wait for \
             it, or restore once with the right to write there",
            entry.target,
            repository.store().display("")
        ),
    )
    .with("target_collection_name", entry.target.as_str())
    .with("progress_percentage", serde_json::Value::Null)
    .temporary())
}

fn needs_a_place(error: &Error, entry: &JournalEntry) -> Error {
    let target = &entry.target;
    Error::new(
        error.kind(),
        format!(
            "'{target}' exists, and a restore that changes it notes what it does, so that the next run can finish or \
             reverse it; the repository takes no writes ({}). Nothing was touched: name a place for the notes as \
             journal_root, or restore into a new collection",
            error.message()
        ),
    )
    .with("storage_path", error.details().get("storage_path").cloned().unwrap_or_default())
    .with("error_code", error.details().get("error_code").cloned().unwrap_or_default())
    .with("permissions_issue", true)
    .with("target_collection_name", target.as_str())
}
