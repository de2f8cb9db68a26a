//! Arrow's C interface as Python objects hand it on: capsules that hold the C structs. pyo3 owns the pointers, and
//! Arrow's structs release what nobody took over when they are dropped; no `unsafe` of ours is needed.

use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema};
use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{Array, RecordBatch, RecordBatchReader, StructArray};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::error::{Error, Result as CoreResult};
use crate::jobs::open::RowStream;

/// A stream of rows, to be consumed from any thread; it waits for Rust's threads, which never enter Python.
pub(super) fn stream(py: Python<'_>, rows: RowStream) -> PyResult<Bound<'_, PyCapsule>> {
    let stream = FFI_ArrowArrayStream::new(Box::new(Rows { schema: rows.schema(), rows }));
    PyCapsule::new_with_value(py, stream, c"arrow_array_stream")
}

/// A schema.
pub(super) fn schema<'py>(py: Python<'py>, schema: &Schema) -> PyResult<Bound<'py, PyCapsule>> {
    let schema = FFI_ArrowSchema::try_from(schema).map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
    PyCapsule::new_with_value(py, schema, c"arrow_schema")
}

/// A batch, as a struct array.
pub(super) fn batch<'py>(py: Python<'py>, batch: &RecordBatch) -> PyResult<Bound<'py, PyCapsule>> {
    let array = FFI_ArrowArray::new(&StructArray::from(batch.clone()).to_data());
    PyCapsule::new_with_value(py, array, c"arrow_array")
}

struct Rows {
    schema: SchemaRef,
    rows: RowStream,
}

impl Iterator for Rows {
    type Item = std::result::Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.rows.next().map(|batch: CoreResult<_>| batch.map_err(|error| to_arrow(&error)))
    }
}

impl RecordBatchReader for Rows {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

/// The error as text, which is all that C's interface carries: it begins with the name of the Python class. I/O, since
/// consumers would blame their caller for any other kind. NUL would cut it short, and end the process.
fn to_arrow(error: &Error) -> ArrowError {
    let class = match error.kind() {
        crate::error::Kind::BackupCorrupted => "BackupCorruptedError",
        crate::error::Kind::Storage => "BackupStorageError",
        _ => "BackupRecoveryError",
    };
    let text = format!("{class}: {}", error.message()).replace('\0', "\u{fffd}");
    ArrowError::IoError(text.clone(), std::io::Error::other(text))
}
