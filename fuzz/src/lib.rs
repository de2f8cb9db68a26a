//! What the fuzz targets share. A target gives the readers of Milvus's own files arbitrary bytes and holds them to this:
//!
//! - No panic leaves a reader. The Parquet crate panics on some damaged input; the reader catches that, so a panic of
//!   that crate counts only where it comes out. A panic in Milvault's own code counts always, caught or not.
//! - Memory is bounded by the size of the files ([`watch`]), and so is time (libFuzzer's `-timeout`).
//! - An error says that the backup is damaged, and names the files, or that this version does not read it.
//!
//! | file | its one idea |
//! |---|---|
//! | [`watch`] | panics, memory and errors: what counts as a failure |
//! | [`pieces`] | the form of an input: a header and pieces, and how those are mutated |
//! | [`files`] | pieces → files, with the parts put right that no mutation keeps right |
//! | [`shapes`] | the schemas: a key and a field of each type |
//! | [`parquet`] | small Parquet files: made ones for inputs that bring none, and for seeds |
//! | [`seeds`] | what fuzzing begins with, from the fixture of the tests and made by hand |

pub mod files;
pub mod parquet;
pub mod pieces;
pub mod seeds;
pub mod shapes;
pub mod watch;

/// Milvus's number of the segment that inputs are files of.
pub const SEGMENT: i64 = 7;
/// Milvus's number of the timestamps' field.
pub const TIMES: i64 = 1;
/// Milvus's number of the primary key's field.
pub const KEY: i64 = 100;
/// Milvus's number of the field that is not the key.
pub const VALUE: i64 = 101;
/// The dimension of all vectors, as in the fixture.
pub const DIMENSION: usize = 16;
