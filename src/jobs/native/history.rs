//! Since when, as far as Milvus's storage shows, compaction has taken no rows away.
//!
//! Compaction writes rows anew, in segments with other numbers, and the old segments' folders stay until Milvus removes
//! them: three hours later by its own defaults (`dataCoord.gc.dropTolerance`). So where a collection's folders are those
//! of its living segments and no others, none was compacted of late. Growing segments have folders that the server does
//! not tell of; they count as a sign of compaction, which errs on the side of caution.

use std::collections::BTreeSet;

use chrono::TimeDelta;

use crate::error::Result;
use crate::repository::Store;
use crate::repository::names::now;

use super::snapshot::Moment;

/// How far back from the moment the absence of old folders says something: a third of what Milvus waits by default.
const WINDOW_MILLISECONDS: u64 = 3600 * 1000;
/// How long after the moment it still does: with the window, five sixths of what Milvus waits.
const FRESH: TimeDelta = TimeDelta::minutes(90);

/// The hybrid timestamp since when no compaction shows; none where one may have been, or where the moment was taken too long
/// ago for its folders to tell: asked before files are copied, which may take hours.
pub(super) async fn since(storage: &Store, collection: i64, moment: &Moment) -> Result<Option<u64>> {
    if now() - moment.started_at > FRESH {
        return Ok(None);
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::repository::RelativePath;

    #[tokio::test]
    async fn folders_tell_of_the_hour_before_a_moment_that_is_not_long_past() {
        let storage = Store::open("memory://native-history", &BTreeMap::new()).unwrap();
        storage.put(&RelativePath::new("insert_log/1/2/7/100/1").unwrap(), "12345".into()).await.unwrap();
        let timestamp = (1_800_000_000_000 << 18) + 5;
        let segment = serde_json::json!({"id": 7, "collection": 1, "partition": 2, "rows": 5, "state": "Flushed",
            "is_level_zero": false, "storage_version": 0});
        let taken = |ago: TimeDelta, segments: Vec<serde_json::Value>| {
            let segments = serde_json::from_value(segments.into()).unwrap();
            Moment { timestamp, started_at: now() - ago, ended_at: now(), partitions: Vec::new(), segments }
        };
        let since = async |moment| since(&storage, 1, &moment).await.unwrap();
        let hour_before = (1_800_000_000_000 - 3_600_000) << 18;
        assert_eq!(since(taken(TimeDelta::minutes(80), vec![segment.clone()])).await, Some(hour_before));
        assert_eq!(since(taken(TimeDelta::minutes(80), vec![])).await, None);
        assert_eq!(since(taken(TimeDelta::minutes(100), vec![segment])).await, None);
    }
}
