//! `Reader`: a backup that is open for reading, and its rows in Arrow's C interface.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use serde_json::json;

use super::arrow;
use super::runtime::runtime;
use crate::error::{Error, Result};
use crate::jobs::open::{OpenBackup, RowStream};

/// How soon a signal, such as Ctrl-C, is seen while Python waits for rows.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(100);

pyo3::create_exception!(milvault._core, CoreError, pyo3::exceptions::PyException, "An error of the core, as JSON.");

fn raised(error: &Error) -> PyErr {
    CoreError::new_err(json!(error).to_string())
}

/// Filled by the job that opens a backup.
pub(super) type Slot = Arc<Mutex<Option<Arc<OpenBackup>>>>;

/// A backup that is open for reading, once the job that opens it has succeeded.
#[pyclass(frozen, module = "milvault._core")]
pub(super) struct Reader {
    slot: Slot,
}

impl Reader {
    pub(super) fn new(slot: Slot) -> Self {
        Self { slot }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<OpenBackup>>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self) -> PyResult<Arc<OpenBackup>> {
        self.slot().clone().ok_or_else(|| PyRuntimeError::new_err("this reader is closed; open the backup again"))
    }

    /// Starts a stream on Rust's threads, and waits for the proof of its first files with Python's lock released.
    fn started(&self, py: Python<'_>) -> PyResult<RowStream> {
        let opened = self.opened()?;
        let runtime = runtime()?;
        let (sender, mut outcome) = std::sync::mpsc::channel::<Result<RowStream>>();
        runtime.spawn(async move {
            let _ = sender.send(opened.stream().await);
        });
        loop {
            let waited = &mut outcome;
            match py.detach(move || waited.recv_timeout(SIGNAL_INTERVAL)) {
                Ok(stream) => return stream.map_err(|error| raised(&error)),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => py.check_signals()?,
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(PyRuntimeError::new_err("the thread that opens files ended early"));
                }
            }
        }
    }
}

#[pymethods]
impl Reader {
    /// A capsule with an `ArrowArrayStream` of all rows from the start.
    fn stream<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        let rows = self.started(py)?;
        arrow::stream(py, rows)
    }

    /// The rows from the start as an iterator of batches.
    fn batches(&self, py: Python<'_>) -> PyResult<Batches> {
        Ok(Batches { rows: Mutex::new(self.started(py)?) })
    }

    /// A capsule with an `ArrowSchema`.
    fn schema<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        arrow::schema(py, &self.opened()?.schema())
    }

    /// The first error that a stream met, as JSON.
    fn failure(&self) -> Option<String> {
        self.slot().as_ref().and_then(|opened| opened.failure()).map(|error| json!(error).to_string())
    }

    /// Ends reading; streams that are still read go on. Harmless when repeated.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let Some(opened) = self.slot().take() else { return Ok(()) };
        let runtime = runtime()?;
        py.detach(|| {
            if let Some(opened) = Arc::into_inner(opened) {
                runtime.block_on(opened.close());
            }
        });
        Ok(())
    }
}

/// Rows of a backup, batch by batch.
#[pyclass(frozen, module = "milvault._core")]
pub(super) struct Batches {
    rows: Mutex<RowStream>,
}

#[pymethods]
impl Batches {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Batch>> {
        loop {
            let next =
                py.detach(|| self.rows.lock().unwrap_or_else(PoisonError::into_inner).next_within(SIGNAL_INTERVAL));
            match next {
                Some(Some(Ok(rows))) => return Ok(Some(Batch { rows })),
                Some(Some(Err(error))) => return Err(raised(&error)),
                Some(None) => return Ok(None),
                None => py.check_signals()?,
            }
        }
    }
}

/// Some rows, for anything that takes Arrow's C interface.
#[pyclass(frozen, module = "milvault._core")]
pub(super) struct Batch {
    rows: RecordBatch,
}

#[pymethods]
impl Batch {
    /// Capsules with an `ArrowSchema` and an `ArrowArray`; `requested_schema` is not heeded, as the protocol allows.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyCapsule>, Bound<'py, PyCapsule>)> {
        drop(requested_schema);
        let schema: SchemaRef = self.rows.schema();
        Ok((arrow::schema(py, &schema)?, arrow::batch(py, &self.rows)?))
    }

    /// Its rows.
    #[getter]
    fn num_rows(&self) -> usize {
        self.rows.num_rows()
    }

    fn __len__(&self) -> usize {
        self.rows.num_rows()
    }
}
