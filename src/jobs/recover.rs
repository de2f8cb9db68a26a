//! Ending what a dead restore left behind: its staging collection, or a swap that stopped in the middle.
//!
//! The journal tells what was under way, the server what became of it. Before the swap nothing is kept. In the swap,
//! the rows had been proven: it is finished where the old collection is aside already, and undone where it still stands
//! in its place, since somebody may have written to it meanwhile.

use crate::error::{Error, Kind, Result};
use crate::milvus::Client;
use crate::repository::{Journal, JournalEntry, Phase};

use super::Session;

/// What to do about an interrupted restore; a pure function of the journal and of what exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// The old collection stands, or there was none: only the staging collection goes.
    Undo,
    /// The target's place is empty and the staging collection is whole: it takes the place.
    Finish,
    /// The new collection stands: what is left is to drop the old one.
    Tidy,
    /// The old collection, put aside, is all there is, since somebody dropped or renamed the new one: it goes back.
    PutBack,
    /// All three exist: somebody else put a collection in the target's place. Nothing is touched but what is ours.
    Conflict,
}

/// Decides from the phase and from which of the collections exist.
#[must_use]
pub fn decide(phase: Phase, target: bool, staging: bool, aside: bool) -> Recovery {
    match (phase, target, staging, aside) {
        (Phase::Staging, ..) | (Phase::Swapping, true, true, false) | (Phase::Swapping, false, false, false) => {
            Recovery::Undo
        }
        (Phase::Swapping, false, true, _) => Recovery::Finish,
        (Phase::Swapping, true, true, true) => Recovery::Conflict,
        (Phase::Swapping, false, false, true) => Recovery::PutBack,
        (Phase::Swapping, true, false, _) => Recovery::Tidy,
    }
}

/// Looks for restores and trial restores of this server that died, in whatever database, and ends each. Run before a job
/// that works on the server. What cannot be ended is left to a later run, and is an error only where it concerns
/// `target`, a database and a collection.
pub(super) async fn interrupted_restores(
    session: &Session,
    client: &Client,
    target: Option<(&str, &str)>,
) -> Result<()> {
    for journal in session.stale_journals(client).await? {
        tracing::warn!(
            target_collection = journal.entry().target,
            backup_id = %journal.entry().backup_id,
            "a restore was interrupted: cleaning up after it"
        );
        let ended =
            async { end_anothers(&client.in_database(&journal.entry().database).await?, journal.entry()).await };
        match ended.await {
            Ok(()) => journal.finish().await?,
            // The database is gone, and what the restore left there with it.
            Err(error) if error.details().contains_key("available_databases") => journal.finish().await?,
            Err(error) if target == Some((&journal.entry().database, &journal.entry().target)) => {
                return Err(error.context("cleaning up after an interrupted restore"));
            }
            Err(error) => tracing::warn!(%error, "an interrupted restore could not be cleaned up after"),
        }
    }
    Ok(())
}

/// The dead restore into the same target that this one, with this fingerprint, can go on with: its writer has ended for
/// sure, and its staging collection holds some chunks. One of another kind is ended.
pub(super) async fn predecessor(
    session: &Session,
    client: &Client,
    target: &str,
    fingerprint: Option<&String>,
) -> Result<Option<Journal>> {
    let Some(journal) = session.stale_journal(client, target).await? else { return Ok(None) };
    let entry = journal.entry();
    let same = entry.fingerprint.is_some() && entry.fingerprint.as_ref() == fingerprint;
    if same && entry.may_go_on() && journal.proven_dead() && is_temporary(&entry.staging) {
        return Ok(Some(journal));
    }
    end_anothers(client, entry).await.map_err(|error| error.context("cleaning up after an interrupted restore"))?;
    journal.finish().await?;
    Ok(None)
}

/// A name for a collection that a restore makes or puts aside: `mv_` and eight hex digits.
pub(super) fn temporary_name() -> String {
    format!("mv_{:08x}", rand::random::<u32>())
}

/// Whether a restore may have given this name. A journal is input: it must not make us drop somebody's collection.
fn is_temporary(name: &str) -> bool {
    name.strip_prefix("mv_").is_some_and(|digits| crate::checksum::is_hex(digits, 8))
}

/// Ends what a dead run's `entry` describes, one way or the other.
async fn end_anothers(client: &Client, entry: &JournalEntry) -> Result<()> {
    let mut warnings = Vec::new();
    end(client, entry, &mut warnings).await?;
    for warning in warnings {
        tracing::warn!(target_collection = entry.target, backup_id = %entry.backup_id, "{warning}");
    }
    Ok(())
}

/// Ends what `entry` describes, one way or the other, and tells which.
pub(super) async fn end(client: &Client, entry: &JournalEntry, warnings: &mut Vec<String>) -> Result<Recovery> {
    if let Some(odd) =
        [Some(&entry.staging), entry.aside.as_ref()].into_iter().flatten().find(|name| !is_temporary(name))
    {
        return Err(Error::new(
            Kind::RestoreValidation,
            format!("a restore's journal names '{odd}' as its own collection, which no restore made: nothing was touched. Remove the journal from the repository's .restores folder"),
        )
        .with("target_collection_name", entry.target.as_str()));
    }
    let names = client.collections().await?;
    let has = |name: &str| names.iter().any(|known| known == name);
    let aside = entry.aside.as_deref();
    let recovery = decide(entry.phase, has(&entry.target), has(&entry.staging), aside.is_some_and(has));
    let old = aside.filter(|aside| has(aside));
    match recovery {
        Recovery::Undo => client.drop_collection(&entry.staging).await?,
        Recovery::Finish => {
            client.rename_collection(&entry.staging, &entry.target).await?;
            tidy(client, entry, old).await?;
            let gone = if old.is_none() { &entry.aliases[..] } else { &[] };
            create_aliases(client, entry, entry.brings.iter().chain(gone), warnings).await?;
        }
        Recovery::Tidy => {
            tidy(client, entry, old).await?;
            create_aliases(client, entry, entry.brings.iter(), warnings).await?;
        }
        Recovery::PutBack => client.rename_collection(aside.unwrap_or_default(), &entry.target).await?,
        Recovery::Conflict => return Err(Error::new(
            Kind::RestoreValidation,
            format!(
                "a restore of '{target}' was interrupted after the old collection had been put aside as '{aside}', and since then somebody created another '{target}'. \
                 Nothing was changed: drop or rename '{target}', and the next run puts the restored rows in its place",
                target = entry.target,
                aside = aside.unwrap_or_default()
            ),
        )
        .with("target_collection_name", entry.target.as_str())),
    }
    Ok(recovery)
}

/// Moves the aliases of the old collection, those that it has by now, to the target, and drops it.
async fn tidy(client: &Client, entry: &JournalEntry, old: Option<&str>) -> Result<()> {
    let Some(old) = old else { return Ok(()) };
    for alias in client.describe(old).await?.aliases {
        client.set_alias(&alias, &entry.target).await?;
    }
    client.drop_collection(old).await
}

/// Gives the target aliases that no collection brought; one that somebody else has by now stays there.
async fn create_aliases(
    client: &Client,
    entry: &JournalEntry,
    aliases: impl Iterator<Item = &String>,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let mut aliases = aliases.peekable();
    if aliases.peek().is_none() {
        return Ok(());
    }
    let there = client.describe(&entry.target).await?.aliases;
    for alias in aliases.filter(|alias| !there.contains(alias)) {
        if let Err(error) = client.create_alias(alias, &entry.target).await {
            warnings.push(format!("alias '{alias}' was not restored: {}", error.message()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_restore_gives_are_its_own() {
        assert!(is_temporary(&temporary_name()));
        for name in ["articles", "mv_", "mv_0123456", "mv_0123456789", "mv_0123456G", "xmv_01234567"] {
            assert!(!is_temporary(name), "{name}");
        }
    }

    #[test]
    fn before_the_swap_only_staging_goes() {
        for (target, aside) in [(true, false), (false, false), (true, true)] {
            assert_eq!(decide(Phase::Staging, target, true, aside), Recovery::Undo);
        }
    }

    #[test]
    fn an_old_collection_still_in_place_stays() {
        assert_eq!(decide(Phase::Swapping, true, true, false), Recovery::Undo);
    }

    #[test]
    fn an_empty_place_is_taken_by_the_proven_rows() {
        assert_eq!(decide(Phase::Swapping, false, true, true), Recovery::Finish);
        assert_eq!(decide(Phase::Swapping, false, true, false), Recovery::Finish);
    }

    #[test]
    fn a_stranger_in_the_place_is_not_touched() {
        assert_eq!(decide(Phase::Swapping, true, true, true), Recovery::Conflict);
    }

    #[test]
    fn where_nothing_is_left_there_is_nothing_to_do_but_forget() {
        assert_eq!(decide(Phase::Swapping, false, false, false), Recovery::Undo);
    }

    #[test]
    fn the_last_copy_is_never_dropped() {
        assert_eq!(decide(Phase::Swapping, false, false, true), Recovery::PutBack);
    }

    #[test]
    fn after_the_second_rename_only_the_old_one_goes() {
        assert_eq!(decide(Phase::Swapping, true, false, true), Recovery::Tidy);
        assert_eq!(decide(Phase::Swapping, true, false, false), Recovery::Tidy);
    }
}
