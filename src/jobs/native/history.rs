//! Since when, as far as Milvus's storage shows, compaction has taken no rows away.
//!
//! Compaction writes rows anew, in segments with other numbers, and the old segments' folders stay until Milvus removes
//! them: three hours later by its own defaults (`dataCoord.gc.dropTolerance`). So where a collection's folders are those
//! of its living segments and no others, none was compacted of late. Growing segments have folders that the server does
//! not tell of; they count as a sign of compaction, which errs on the side of caution.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::repository::Store;

use super::snapshot::Moment;

/// How far back the absence of old folders says something: a third of what Milvus waits by default.
const WINDOW_MILLISECONDS: u64 = 3600 * 1000;

/// The hybrid timestamp since when no compaction shows; none where one may have been.
pub(super) async fn since(storage: &Store, collection: i64, moment: &Moment) -> Result<Option<u64>> {
    let living: BTreeSet<String> = moment.segments.iter().map(|segment| segment.id.to_string()).collect();
    for kind in ["insert_log", "delta_log"] {
        let collection = format!("{kind}/{collection}");
        for partition in storage.list_folders(&collection).await? {
            let segments = storage.list_folders(&format!("{collection}/{partition}")).await?;
            if segments.iter().any(|segment| !living.contains(segment)) {
                return Ok(None);
            }
        }
    }
    Ok(Some(((moment.timestamp >> 18).saturating_sub(WINDOW_MILLISECONDS)) << 18))
}
