//! The Python face, `milvault._core`: JSON in and JSON out, and rows in Arrow's C interface. Nothing else in the crate knows Python.

mod arrow;
mod job;
mod logging;
mod reader;
mod runtime;
mod session;

use pyo3::prelude::*;

/// The extension module.
#[pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::job::Job;
    #[pymodule_export]
    use super::reader::{Batch, Batches, CoreError, Reader};
    #[pymodule_export]
    use super::session::Session;

    /// The version of the core, which is the package's.
    #[pyfunction]
    fn version() -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// Takes what the core has logged since the last call: `logging`'s number of the level, and the text.
    #[pyfunction]
    fn drain_log() -> Vec<(u8, String)> {
        super::logging::drain()
    }

    #[pymodule_init]
    #[allow(clippy::unnecessary_wraps)] // the signature that pyo3 asks for
    fn init(_module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::logging::install();
        Ok(())
    }
}
