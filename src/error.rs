//! The one error type of the crate.
//!
//! Rules: an error is made once, where the thing is known, and says what happened, to which thing, and what to do
//! next. Its [`Kind`] decides the Python class (see `python/milvault/errors.py`); `details` become that class's
//! attributes. It never holds a credential or the value of a non-key field.

use serde::Serialize;
use serde_json::{Map, Value};

/// What sort of failure it is. One Python exception class each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A Milvus server refused or could not be reached. Jobs turn it into `Backup` or `Restore`.
    Server,
    /// A backup could not be made.
    Backup,
    /// A restore could not be carried out.
    Restore,
    /// There is no such collection on the server.
    CollectionNotFound,
    /// There is no such backup.
    BackupNotFound,
    /// Files of a backup are damaged, missing, or not what its manifest promises.
    BackupCorrupted,
    /// The repository's storage refused: permissions, wrong place, I/O.
    Storage,
    /// The repository was opened to be read only.
    ReadOnly,
    /// It is another tool's backup, and is not changed.
    Foreign,
    /// A backup of that name exists.
    AlreadyExists,
    /// A restore's target or outcome is not as it has to be.
    RestoreValidation,
    /// Too little space.
    InsufficientStorage,
    /// Someone else holds the lock.
    InProgress,
    /// There is no such partition.
    PartitionNotFound,
    /// The target cannot hold the schema.
    SchemaIncompatible,
    /// The caller canceled.
    Canceled,
    /// The caller's time ran out.
    Timeout,
    /// An argument that cannot be right.
    InvalidArgument,
    /// Milvault broke a promise to itself; please report it.
    Internal,
}

/// An error with what a person and a program need to go on.
#[derive(Clone, Serialize)]
#[serde(transparent)]
pub struct Error(Box<Inner>);

#[derive(Clone, Serialize)]
struct Inner {
    kind: Kind,
    message: String,
    /// Whether the same call may succeed when repeated.
    temporary: bool,
    details: Map<String, Value>,
}

/// What everything in this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A permanent error of `kind`; the message says what happened and the way out.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), temporary: false, details: Map::new() }))
    }

    /// The error's kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The message for a person.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether repeating the call may help.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.0.temporary
    }

    /// Attributes for the Python exception.
    #[must_use]
    pub fn details(&self) -> &Map<String, Value> {
        &self.0.details
    }

    /// Marks the error as one that a retry may cure.
    #[must_use]
    pub fn temporary(mut self) -> Self {
        self.0.temporary = true;
        self
    }

    /// Adds an attribute; the first one set under a name stays, since it was set where most was known.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.details.entry(name).or_insert_with(|| value.into());
        self
    }

    /// The same error under another kind, its details kept.
    #[must_use]
    pub fn into_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The same error in other words.
    #[must_use]
    pub fn saying(mut self, message: impl Into<String>) -> Self {
        self.0.message = message.into();
        self
    }

    /// Puts words before the message: what was being done when it happened.
    #[must_use]
    pub fn context(mut self, doing: impl std::fmt::Display) -> Self {
        self.0.message = format!("{doing}: {}", self.0.message);
        self
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {} {:?}", self.0.kind, self.0.message, self.0.details)
    }
}

impl std::error::Error for Error {}

/// The text of an error and of everything that caused it, outermost first, repeats left out.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

/// An [`Error`] of kind [`Kind::Internal`]: a state that the code rules out.
pub fn internal(message: impl Into<String>) -> Error {
    Error::new(Kind::Internal, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_detail_set_under_a_name_stays() {
        let error = Error::new(Kind::Backup, "m").with("collection_name", "inner").with("collection_name", "outer");
        assert_eq!(error.details()["collection_name"], "inner");
    }

    #[test]
    fn context_comes_before_the_message() {
        assert_eq!(
            Error::new(Kind::Storage, "disk full").context("writing data/a").message(),
            "writing data/a: disk full"
        );
    }

    #[test]
    fn serialises_with_the_names_python_reads() {
        let json = serde_json::to_value(Error::new(Kind::BackupNotFound, "no").with("backup_name", "x")).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"kind": "backup_not_found", "message": "no", "temporary": false, "details": {"backup_name": "x"}})
        );
    }
}
