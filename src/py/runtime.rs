//! The threads that Rust works on: one tokio runtime a process, made when first needed.

use std::sync::OnceLock;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::runtime::{Builder, Runtime};

struct Owned {
    runtime: Runtime,
    process: u32,
}

static RUNTIME: OnceLock<std::io::Result<Owned>> = OnceLock::new();

/// The runtime.
///
/// # Errors
/// `RuntimeError` in a child that was forked after the runtime had begun: threads do not survive a fork.
pub(super) fn runtime() -> PyResult<&'static Runtime> {
    let made = RUNTIME.get_or_init(|| {
        let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("milvault").enable_all().build()?;
        Ok(Owned { runtime, process: std::process::id() })
    });
    let owned = made
        .as_ref()
        .map_err(|error| PyRuntimeError::new_err(format!("Milvault's threads could not be started: {error}")))?;
    if owned.process != std::process::id() {
        return Err(PyRuntimeError::new_err(
            "Milvault was used before this process was forked, and its threads did not come along. Use it only after the fork, or start processes with multiprocessing's 'spawn' method",
        ));
    }
    Ok(&owned.runtime)
}
