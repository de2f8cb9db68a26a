//! A chunk file: rows as Parquet, each row group with its digest in the file's own footer.
//!
//! [`ChunkWriter`] makes one in a single pass, handing over bytes as they are finished; [`ChunkReader`] reads one back,
//! and treats it as input that may be damaged. Both are synchronous: they encode and decode, so they belong on blocking
//! threads. Neither knows where files live.

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType as ArrowType;
use serde_json::Value;

use crate::digest::SetDigest;

mod blocks;
pub(crate) mod footer;
pub(crate) mod pages;
mod reader;
mod source;
mod statistics;
mod thrift;
mod windows;
mod writer;

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;

pub use reader::{Batches, ChunkReader};
pub use source::Source;
pub use writer::{ChunkWriter, WriteOptions};

/// About how many Arrow bytes a row group holds.
pub const ROW_GROUP_BYTES: u64 = 16 << 20;
/// The footer key that says which version of this layout a file has.
pub const FORMAT_KEY: &str = "milvault.format";
/// The version that is written, and the only one that is read.
pub const FORMAT: &str = "1";
/// The footer key with the digests: a JSON list of `{"rows": n, "digest": "32 hex digits"}`, one for each row group.
pub const ROW_GROUPS_KEY: &str = "milvault.row_groups";

/// What a finished chunk holds: an entry of the chunk table.
#[derive(Debug, Clone, PartialEq)]
pub struct ChunkSummary {
    /// Its rows.
    pub rows: u64,
    /// Their size in Arrow, see [`arrow_bytes`].
    pub arrow_bytes: u64,
    /// The file's size.
    pub file_bytes: u64,
    /// Its row groups; none where there are no rows.
    pub row_groups: usize,
    /// The lowest primary key, a number or a string (ordered by UTF-8 bytes); none where there are no rows.
    pub lowest: Option<Value>,
    /// The highest primary key.
    pub highest: Option<Value>,
    /// The digest of all rows.
    pub digest: SetDigest,
}

/// The size of a batch's values and offsets in bytes, validity left out and a bool counted as a byte: so it is the sum of
/// its slices' sizes, and does not depend on how much of shared buffers a batch uses.
#[must_use]
pub fn arrow_bytes(batch: &RecordBatch) -> u64 {
    batch.columns().iter().map(|column| array_bytes(column.as_ref())).sum::<usize>() as u64
}

fn array_bytes(array: &dyn Array) -> usize {
    /// Offsets ascend, which Arrow checks when an array is built.
    #[allow(clippy::cast_sign_loss)]
    fn span(offsets: &[i32]) -> (usize, usize) {
        (offsets[0] as usize, offsets[offsets.len() - 1] as usize)
    }
    let rows = array.len();
    match array.data_type() {
        ArrowType::Boolean => rows,
        ArrowType::Utf8 => {
            let (start, stop) = span(array.as_string::<i32>().value_offsets());
            4 * rows + stop - start
        }
        ArrowType::List(_) => {
            let list = array.as_list::<i32>();
            let (start, stop) = span(list.value_offsets());
            4 * rows + array_bytes(list.values().slice(start, stop - start).as_ref())
        }
        ArrowType::FixedSizeList(..) => array_bytes(array.as_fixed_size_list().values().as_ref()),
        ArrowType::FixedSizeBinary(_) => rows * array.as_fixed_size_binary().value_size(),
        ArrowType::Struct(_) => array.as_struct().columns().iter().map(|column| array_bytes(column.as_ref())).sum(),
        other => other.primitive_width().map_or_else(|| array.get_array_memory_size(), |width| rows * width),
    }
}
