//! Collections that are being made: carried through whoever waits for them, and known until they are there.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::error::{Result, internal};

/// What is being made, by name. A request that is dropped on its way may still be carried out by the server, and that
/// after a clean-up has looked: so it is never dropped, and a clean-up can wait for it.
#[derive(Debug, Clone, Default)]
pub(super) struct Making {
    names: Arc<Mutex<HashMap<String, watch::Receiver<()>>>>,
}

impl Making {
    /// Runs `work`, which makes `name`, to its end, whether or not somebody waits for it.
    pub(super) async fn carry_through(
        &self,
        name: &str,
        work: impl Future<Output = Result<()>> + Send + 'static,
    ) -> Result<()> {
        let (ended, ends) = watch::channel(());
        self.names().insert(name.to_owned(), ends);
        let (making, name) = (self.clone(), name.to_owned());
        let task = tokio::spawn(async move {
            let outcome = work.await;
            making.names().remove(&name);
            drop(ended);
            outcome
        });
        task.await.map_err(|error| internal(format!("the task that makes a collection ended: {error}")))?
    }

    /// Waits until `name` is not being made any more.
    pub(super) async fn settled(&self, name: &str) {
        let ends = self.names().get(name).cloned();
        if let Some(mut ends) = ends {
            while ends.changed().await.is_ok() {}
        }
    }

    fn names(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<()>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_is_being_made_is_carried_through_and_waited_for() {
        let (making, made) = (Making::default(), Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&made);
        let work = async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            flag.store(true, Ordering::SeqCst);
            Ok(())
        };
        let given_up = tokio::time::timeout(Duration::from_millis(5), making.carry_through("a", work)).await;
        assert!(given_up.is_err());
        making.settled("b").await;
        assert!(!made.load(Ordering::SeqCst));
        making.settled("a").await;
        assert!(made.load(Ordering::SeqCst));
        assert!(making.names().is_empty());
    }
}
