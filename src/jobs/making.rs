//! Making a staging collection in such a way that it is known, after a stop too, whether it is there.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::error::{Result, internal};
use crate::milvus::Client;
use crate::schema::Collection;

/// A collection that is being made by a task of its own. A request that is dropped on its way may still be carried out,
/// and that after the clean-up has looked: so it is never dropped, and the clean-up waits for its answer.
pub(super) struct Making {
    task: Mutex<Option<JoinHandle<Result<()>>>>,
}

impl Making {
    /// Begins to make `name` like `like`.
    pub(super) fn start(client: &Client, name: &str, like: &Collection) -> Self {
        let (client, name, like) = (client.clone(), name.to_owned(), like.clone());
        let task = tokio::spawn(async move { client.create_collection(&name, &like).await });
        Self { task: Mutex::new(Some(task)) }
    }

    /// Waits until it is there.
    pub(super) async fn made(&self) -> Result<()> {
        let mut task = self.task.lock().await;
        let Some(running) = task.as_mut() else { return Ok(()) };
        let outcome =
            running.await.map_err(|error| internal(format!("the task that makes a collection ended: {error}")));
        *task = None;
        outcome?
    }

    /// Waits up to `limit` until nothing is on its way any more; whether that is so.
    pub(super) async fn settled(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.made()).await.is_ok()
    }
}
