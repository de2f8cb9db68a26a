//! The moment of a restore when the proven rows take the target's place, and what is done where that fails.

use super::recover::{self, Recovery};
use crate::error::Result;
use crate::milvus::{Client, ServerKind};
use crate::repository::{Journal, Phase};

/// What the swap changes beside the rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change<'a> {
    /// The aliases of the collection that stands in the target's place; `None` where there is none.
    pub replaces: Option<&'a [String]>,
    /// The aliases that the backup remembers, which a target that is new gets.
    pub brings: &'a [String],
}

/// Puts staging in the target's place: old aside, staging in, aliases moved, old dropped; journalled before it begins.
pub(super) async fn swap(
    client: &Client,
    journal: &mut Journal,
    change: Change<'_>,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let aside = change.replaces.map(|_| recover::temporary_name());
    journal
        .advance(|entry| {
            entry.phase = Phase::Swapping;
            entry.aside.clone_from(&aside);
            entry.aliases = change.replaces.unwrap_or_default().to_vec();
        })
        .await?;
    let entry = journal.entry().clone();
    if let Some(aside) = &aside {
        client.rename_collection(&entry.target, aside).await?;
    }
    client.rename_collection(&entry.staging, &entry.target).await?;
    recover::end(client, &entry).await?;
    if change.replaces.is_none() {
        for alias in change.brings {
            if let Err(error) = client.create_alias(alias, &entry.target).await {
                warnings.push(format!("alias '{alias}' was not restored: {}", error.message()));
            }
        }
    }
    Ok(())
}

/// After a failure: ends the restore one way or the other now, or leaves the journal (dropped, it stays) to the next run.
/// Tells whether the restored rows stand in the target's place after all.
pub(super) async fn end_failed(client: &Client, journal: Journal) -> bool {
    if journal.lost().is_cancelled() {
        return false; // whoever took it over ends it
    }
    let ended = tokio::time::timeout(super::CLEANUP_LIMIT, recover::end(client, journal.entry())).await;
    let (swapped, finished) = match ended {
        Ok(Ok(recovery)) => (
            matches!(recovery, Recovery::Finish | Recovery::Tidy),
            journal.finish().await.map_err(|error| error.to_string()),
        ),
        Ok(Err(error)) => (false, Err(error.to_string())),
        Err(_) => (false, Err("the server did not answer in time".to_owned())),
    };
    if let Err(why) = finished {
        tracing::warn!(
            why,
            "what this restore left could not be cleared up now; the next run on this repository and server does"
        );
    }
    swapped
}

/// Lite forgets on renaming that an indexed collection was loaded; a server keeps it. Lite is not asked first: what it
/// says right after a renaming may be over a moment later.
pub(super) async fn keep_loaded(client: &Client, target: &str, warnings: &mut Vec<String>) {
    let loaded = async {
        let keeps = client.kind() == ServerKind::Server && client.is_loaded(target).await?;
        if keeps { Ok(()) } else { client.load(target, super::LOAD_LIMIT).await }
    };
    if let Err(error) = loaded.await {
        warnings.push(format!("'{target}' is restored but could not be loaded: {}", error.message()));
    }
}
