//! `Session`: one server and one repository, and the way to start jobs on them.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::job::Job;
use super::runtime::runtime;
use crate::error::{Error, Kind};
use crate::jobs;

/// One Milvus server (or none) and one repository (or none). Connects when a job first needs it.
#[pyclass(frozen, module = "milvault._core")]
pub(super) struct Session {
    inner: std::sync::RwLock<Option<Arc<Opened>>>,
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
        Ok(Self { inner: std::sync::RwLock::new(Some(Arc::new(jobs::Session::new(config)))) })
    }

    /// Starts an operation; returns at once.
    fn start(&self, operation: String, request: String) -> PyResult<Job> {
        let runtime = runtime()?;
        let opened = self.inner.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let job = Job::spawn(runtime, async move |control| match opened.as_deref() {
            Some(Ok(session)) => jobs::run(session, &operation, &request, control).await,
            Some(Err(error)) => Err(error.clone()),
            None => Err(Error::new(Kind::InvalidArgument, "this manager is closed; make a new one")),
        })?;
        Ok(job)
    }

    /// Lets go of the connection once running jobs have ended. Jobs cannot be started any more.
    fn close(&self) {
        *self.inner.write().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }
}
