//! Milvus's own files without a server: what it writes to its storage, and what milvus-backup copies from there.
//!
//! | file | its one idea |
//! |---|---|
//! | [`event`] | one file, taken apart: a descriptor and events, each with a Parquet file as its payload |
//! | [`packed`] | one file of storage version 2: several fields in a Parquet file, without events |
//! | `payload` | those Parquet files, opened with care |
//! | `column` | a field's values as they are stored → its Arrow column |
//! | [`deletes`] | which keys were deleted when |
//! | [`newest`] | which row counts of a key that several rows share |
//! | [`segment`] | a segment's rows that live at a time |
//! | `times` | when the rows of a file were written |
//! | [`metadata`] | `meta/*.json` of a backup ([`description`]: a collection in it ⇄ our model) |
//! | [`layout`] | where a segment's files lie in a backup's folder |
//!
//! Checked on files that Milvus 2.3.5 and milvus-backup v0.5.16 wrote; what is read from public descriptions alone is
//! marked. Whatever the bytes are, the answer is rows or an error that names the file. Nothing here knows where files live, nor
//! a server.

mod column;
pub mod deletes;
pub mod description;
pub mod event;
pub mod layout;
pub mod metadata;
pub mod newest;
pub mod packed;
#[cfg(test)]
mod packed_tests;
mod payload;
pub mod segment;
#[cfg(test)]
mod tests;
mod times;

pub use deletes::Deletes;
pub use newest::Newest;
pub use segment::{Living, Segment, SegmentBatches, SegmentFiles};
pub use times::latest;

use crate::parquet::Source;

/// One of Milvus's files, and its name for errors.
#[derive(Clone)]
pub struct LogFile {
    /// Its path within the backup.
    pub path: String,
    /// Its bytes.
    pub source: Source,
}
