//! Making a staging collection in such a way that it is known, after a stop too, whether it is there.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::error::{Result, internal};
use crate::milvus::Client;
use crate::schema::Collection;

/// A collection that is being made by a task of its own, or none. A request that is dropped on its way may still be
/// carried out, and that after the clean-up has looked: so it is never dropped, and the clean-up waits for its answer.
#[derive(Default)]
pub(super) struct Making {
    task: Mutex<Option<JoinHandle<Result<()>>>>,
}

impl Making {
    /// Makes `name` like `like`, and waits until it is there.
    pub(super) async fn make(&self, client: &Client, name: &str, like: &Collection) -> Result<()> {
        let (client, name, like) = (client.clone(), name.to_owned(), like.clone());
        let task = tokio::spawn(async move { client.create_collection(&name, &like).await });
        *self.task.lock().await = Some(task);
        self.made().await
    }

    /// Waits up to `limit` until nothing is on its way any more; whether that is so.
    pub(super) async fn settled(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.made()).await.is_ok()
    }

    async fn made(&self) -> Result<()> {
        let mut task = self.task.lock().await;
        let Some(running) = task.as_mut() else { return Ok(()) };
        let outcome =
            running.await.map_err(|error| internal(format!("the task that makes a collection ended: {error}")));
        *task = None;
        outcome?
    }
}
