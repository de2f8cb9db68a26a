//! When the rows, or deletes, of a file were written: by its descriptor or its statistics, and where those do not tell, by
//! reading all of them.

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;

use super::LogFile;
use super::deletes::Deletes;
use super::event::{EventKind, damaged};
use super::payload::LogReader;
use super::segment::TIMESTAMP_FIELD;
use crate::error::Result;

/// Timestamps that are read at once.
const BATCH_ROWS: usize = 65_536;

/// The latest hybrid timestamp of the rows (or deletes) in a file; 0 where it has none, as their timestamps are in another.
///
/// # Errors
/// [`crate::error::Kind::BackupCorrupted`] with `failed_files`; [`crate::error::Kind::Storage`].
pub fn latest(log: &LogFile, kind: EventKind) -> Result<u64> {
    let reader = LogReader::open(&log.source, kind, &log.path)?;
    let said = reader.latest();
    if said < u64::MAX {
        return Ok(said);
    }
    if kind == EventKind::Delete {
        return Ok(Deletes::read(std::slice::from_ref(log), None)?.latest());
    }
    if !reader.has(TIMESTAMP_FIELD) {
        return Ok(0);
    }
    let mut batches = reader.batches_of(TIMESTAMP_FIELD, BATCH_ROWS);
    let mut latest = 0;
    while let Some(batch) = batches.next()? {
        let times = batch.columns().first().and_then(|times| times.as_primitive_opt::<Int64Type>());
        let times =
            times.filter(|times| times.null_count() == 0).ok_or_else(|| damaged(&log.path, "holds no timestamps"))?;
        latest = times.values().iter().map(|time| time.cast_unsigned()).fold(latest, u64::max);
    }
    Ok(latest)
}
