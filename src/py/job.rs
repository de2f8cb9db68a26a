//! `Job`: work that runs on Rust's threads, watched and stopped from Python.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyString;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::error::{Error, Result, internal};
use crate::jobs::Control;

/// A running or ended operation.
#[pyclass(frozen, module = "milvault._core")]
pub(super) struct Job {
    shared: Arc<Shared>,
}

struct Shared {
    control: Control,
    result: Mutex<Option<String>>,
    ended: Condvar,
}

impl Shared {
    fn result(&self) -> MutexGuard<'_, Option<String>> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the outcome and wakes whoever waits. Never touches Python: a thread of ours that holds the interpreter's
    /// lock while the interpreter goes down brings the process down with it.
    fn finish(&self, outcome: Result<String>) {
        let text = match outcome {
            Ok(answer) => format!(r#"{{"ok":{answer}}}"#),
            Err(error) => json!({"error": error, "started": self.control.has_begun()}).to_string(),
        };
        *self.result() = Some(text);
        self.ended.notify_all();
    }
}

impl Job {
    /// Starts `work`, whose answer is JSON, on a thread of its own, which drives it; what it spawns runs on the runtime's threads. A panic in it
    /// is told as an error, not lost.
    pub(super) fn spawn(
        runtime: &Runtime,
        work: impl AsyncFnOnce(&Control) -> Result<String> + Send + 'static,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { control: Control::default(), result: Mutex::default(), ended: Condvar::new() });
        let running = Arc::clone(&shared);
        let handle = runtime.handle().clone();
        std::thread::Builder::new().name("milvault-job".to_owned()).spawn(move || {
            let outcome = handle.block_on(AssertUnwindSafe(work(&running.control)).catch_unwind());
            running.finish(outcome.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))));
        })?;
        Ok(Self { shared })
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    let text =
        panic.downcast_ref::<&str>().copied().map(str::to_owned).or_else(|| panic.downcast_ref::<String>().cloned());
    internal(format!("Milvault failed unexpectedly ({}); please report this", text.unwrap_or_default()))
}

#[pymethods]
impl Job {
    /// Waits up to `seconds` for the job to end, other Python threads running meanwhile; says whether it has.
    fn wait(&self, py: Python<'_>, seconds: f64) -> bool {
        let limit = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        py.detach(|| {
            let waited = self.shared.ended.wait_timeout_while(self.shared.result(), limit, |result| result.is_none());
            waited.unwrap_or_else(PoisonError::into_inner).0.is_some()
        })
    }

    /// Asks the job to stop. It cleans up and ends with an error of kind `canceled`, or as it would have if it was
    /// nearly done.
    fn cancel(&self) {
        self.shared.control.cancel();
    }

    /// How far it is, as JSON.
    fn progress(&self) -> PyResult<String> {
        serde_json::to_string(&self.shared.control.snapshot())
            .map_err(|error| PyRuntimeError::new_err(error.to_string()))
    }

    /// The outcome, as JSON.
    fn result<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        let result = self.shared.result();
        let text = result.as_deref().ok_or_else(|| PyRuntimeError::new_err("the job is still running"))?;
        Ok(PyString::new(py, text))
    }
}
