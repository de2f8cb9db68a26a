//! How many rows live at a moment: those up to its timestamp that were not deleted up to it.

use std::collections::BTreeMap;

use super::{Contents, Plan, counted_as};
use crate::error::Result;
use crate::repository::Attempt;

/// The rows that live, by partition.
#[allow(clippy::unused_async)] // until rows are read
pub(super) async fn rows(plan: &Plan, contents: &Contents, _attempt: &Attempt) -> Result<BTreeMap<String, u64>> {
    let mut alive: BTreeMap<String, u64> =
        plan.partitions.iter().map(|name| (counted_as(&plan.collection, name), 0)).collect();
    for partition in plan.identity.partitions.iter().filter(|partition| plan.partitions.contains(&partition.name)) {
        let own = contents.segments.iter().filter(|files| files.segment.partition == partition.id);
        // THE PLACE: rows alive at `contents.moment.timestamp`, from src/binlog; until then, all that the files hold.
        let rows: u64 = own.map(|files| files.segment.rows).sum();
        *alive.entry(counted_as(&plan.collection, &partition.name)).or_default() += rows;
    }
    Ok(alive)
}
