//! A thread of one's own for work that keeps a core busy.
//!
//! The runtime's pool would do, but hands work to whichever thread is free, and each keeps freed memory of its own: an
//! encoder that wandered over the pool grew with the rows that it encoded (measured: 240 MiB at a million rows of 128
//! floats against 140 at 100,000).

use std::sync::mpsc::{Sender, channel};

use crate::error::{Result, internal};

type Task = Box<dyn FnOnce() + Send>;

/// A thread that does one thing after another. It ends when the worker is dropped and what was begun is done.
pub(super) struct Worker(Sender<Task>);

impl Worker {
    /// Starts the thread.
    pub(super) fn start(name: &str) -> Result<Self> {
        let (sender, tasks) = channel::<Task>();
        let thread =
            std::thread::Builder::new().name(name.to_owned()).spawn(move || tasks.iter().for_each(|task| task()));
        thread.map_err(|error| internal(format!("a thread could not be started: {error}")))?;
        Ok(Self(sender))
    }

    /// Has the thread do `work`, and waits for the outcome without blocking.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let (sender, outcome) = tokio::sync::oneshot::channel();
        let ended = |_| internal("a worker ended early");
        // Nobody may wait for the outcome any more: then it is dropped.
        self.0.send(Box::new(move || drop(sender.send(work())))).map_err(|_| internal("a worker ended early"))?;
        outcome.await.map_err(ended)?
    }
}

/// Hands memory that is free but kept by the allocator back to the system.
#[allow(unsafe_code)]
pub(super) fn give_back_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: may be called at any time from any thread, and touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_in_order_on_one_thread() {
        let worker = Worker::start("test").unwrap();
        let first = worker.run(|| Ok(std::thread::current().id())).await.unwrap();
        assert_eq!(worker.run(|| Ok(std::thread::current().id())).await.unwrap(), first);
        assert_ne!(first, std::thread::current().id());
    }

    #[tokio::test]
    async fn a_panic_is_told_as_an_error() {
        let worker = Worker::start("test").unwrap();
        assert!(worker.run(|| -> Result<()> { panic!("on purpose") }).await.is_err());
        assert!(worker.run(|| Ok(())).await.is_err());
    }
}
