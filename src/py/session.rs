//! `Session`: one server and one repository, and the way to start jobs on them.

use std::sync::{Arc, PoisonError, RwLock};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::job::Job;
use super::reader::{Reader, Slot};
use super::runtime::runtime;
use crate::error::{Error, Kind};
use crate::jobs;

/// One Milvus server (or none) and one repository (or none). Connects when a job first needs it.
#[pyclass(frozen, module = "milvault._core")]
pub(super) struct Session {
    inner: RwLock<Option<Arc<Opened>>>,
}

/// A session, or why there is none: told by every job, since a wrong root is an error with attributes.
type Opened = Result<jobs::Session, Error>;

#[pymethods]
impl Session {
    /// A session with what `config`, JSON, describes.
    #[new]
    fn new(config: &str) -> PyResult<Self> {
        let config: jobs::SessionConfig = serde_json::from_str(config)
            .map_err(|error| PyValueError::new_err(format!("the session's configuration is not right: {error}")))?;
        Ok(Self { inner: RwLock::new(Some(Arc::new(jobs::Session::new(config)))) })
    }

    /// Starts an operation; returns at once.
    fn start(&self, operation: String, request: String) -> PyResult<Job> {
        let runtime = runtime()?;
        let opened = self.opened();
        let job = Job::spawn(runtime, async move |control| match opened.as_deref() {
            Some(Ok(session)) => jobs::run(session, &operation, &request, control).await,
            Some(Err(error)) => Err(error.clone()),
            None => Err(closed()),
        })?;
        Ok(job)
    }

    /// Starts opening a backup for reading; the reader is of use once the job has succeeded. Returns at once.
    fn open(&self, request: &str) -> PyResult<(Job, Reader)> {
        let runtime = runtime()?;
        let request: jobs::open::OpenRequest = serde_json::from_str(request)
            .map_err(|error| PyValueError::new_err(format!("the request to open a backup is not right: {error}")))?;
        let opened = self.opened();
        let slot = Slot::default();
        let filled = Arc::clone(&slot);
        let job = Job::spawn(runtime, async move |control| match opened.as_deref() {
            Some(Ok(session)) => {
                let backup = jobs::open::open(session, &request, control).await?;
                let description = backup.description().to_string();
                *filled.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(backup));
                Ok(description)
            }
            Some(Err(error)) => Err(error.clone()),
            None => Err(closed()),
        })?;
        Ok((job, Reader::new(slot)))
    }

    /// Lets go of the connection once running jobs have ended. Jobs cannot be started any more.
    fn close(&self) {
        *self.inner.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Session {
    fn opened(&self) -> Option<Arc<Opened>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn closed() -> Error {
    Error::new(Kind::InvalidArgument, "this manager is closed; make a new one")
}
