//! The moment of a restore when the proven rows take the target's place, and what is done where that fails.

use super::recover::{self, Recovery};
use crate::error::{Kind, Result};
use crate::milvus::{Client, ServerKind};
use crate::repository::{Journal, Phase};

/// What the swap changes beside the rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change<'a> {
    /// Whether a collection stands in the target's place.
    pub replaces: bool,
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
    let aside = change.replaces.then(recover::temporary_name);
    let aliases = if change.replaces {
        // Not those from before the rows went in: aliases are moved to tell readers where to look.
        match client.describe(&journal.entry().target).await {
            Err(error) if error.kind() == Kind::CollectionNotFound => Vec::new(),
            described => described?.aliases,
        }
    } else {
        Vec::new()
    };
    journal
        .advance(|entry| {
            entry.phase = Phase::Swapping;
            entry.aside.clone_from(&aside);
            entry.aliases = aliases;
            entry.brings = if change.replaces { Vec::new() } else { change.brings.to_vec() };
        })
        .await?;
    let entry = journal.entry().clone();
    if let Some(aside) = &aside {
        client.rename_collection(&entry.target, aside).await?;
    }
    client.rename_collection(&entry.staging, &entry.target).await?;
    recover::end(client, &entry, warnings).await.map(drop)
}

/// After a failure: ends the restore one way or the other now, or leaves the journal (dropped, it stays) to the next run.
/// Where the restored rows stand in the target's place after all, tells what there is to say of it.
pub(super) async fn end_failed(client: &Client, journal: Journal) -> Option<Vec<String>> {
    if journal.lost().is_cancelled() {
        return None; // whoever took it over ends it
    }
    let mut warnings = Vec::new();
    let work = recover::end(client, journal.entry(), &mut warnings);
    let ended = tokio::time::timeout(super::CLEANUP_LIMIT, work).await;
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
    swapped.then_some(warnings)
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
