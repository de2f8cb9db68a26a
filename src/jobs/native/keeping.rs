//! Milvus removes the files of segments that compaction has replaced, once an hour by its defaults. While they are
//! copied it is asked not to, where its management port is known.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::error::Result;
use crate::jobs::Session;
use crate::milvus::{Management, Ticket};

/// How long a pause lasts that nobody renews or ends.
const PAUSE_SECONDS: u64 = 1800;
/// How often it is renewed.
const RENEWAL: Duration = Duration::from_secs(PAUSE_SECONDS / 3);

/// A collection's files are kept as long as this is.
pub struct Kept {
    /// Dropped with it, which the task that renews the pause hears.
    _end: Option<oneshot::Sender<()>>,
}

/// What becomes of a pause in the end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is ended, in the background, whatever became of the backup.
    Resumed,
    /// It ends by itself: others may rely on it, and older servers know one pause for all.
    Left,
}

/// Has a collection's files kept, if the server can. What keeps it from that is told in the log: a backup whose files
/// go is planned anew, and fails clearly in the end.
pub async fn keep(session: &Session, collection: i64, ending: Ending) -> Kept {
    let Some(address) = &session.milvus_management else { return Kept { _end: None } };
    match pause(address, collection).await {
        Ok(Some((management, ticket))) => {
            let (sender, end) = oneshot::channel();
            tokio::spawn(renew(management, collection, ticket, (end, ending)));
            Kept { _end: Some(sender) }
        }
        Ok(None) => {
            tracing::info!(address, "this version of Milvus cannot be asked to keep files");
            Kept { _end: None }
        }
        Err(error) => {
            tracing::warn!(%error, "Milvus could not be asked to keep its files while they are copied");
            Kept { _end: None }
        }
    }
}

async fn pause(address: &str, collection: i64) -> Result<Option<(Management, Ticket)>> {
    let management = Management::at(address)?;
    let ticket = management.pause(collection, PAUSE_SECONDS).await?;
    Ok(ticket.map(|ticket| (management, ticket)))
}

async fn renew(
    management: Management,
    collection: i64,
    first: Ticket,
    (mut end, ending): (oneshot::Receiver<()>, Ending),
) {
    let mut tickets = vec![first];
    while tokio::time::timeout(RENEWAL, &mut end).await.is_err() {
        match management.pause(collection, PAUSE_SECONDS).await {
            Ok(ticket) => tickets.extend(ticket.filter(|ticket| !tickets.contains(ticket))),
            Err(error) => tracing::warn!(%error, "Milvus could not be asked to go on keeping its files"),
        }
    }
    if ending == Ending::Left {
        return;
    }
    for ticket in tickets {
        if let Err(error) = management.resume(&ticket).await {
            tracing::warn!(%error, "Milvus was not told that its files need not be kept any more: it finds out by itself");
        }
    }
}
