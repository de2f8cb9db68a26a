//! Looking for keys that several rows of a partition share, in the files of its segments.

use std::sync::Arc;

use futures::TryStreamExt;
use futures::future::BoxFuture;

use super::read::{EXAMPLES, blocking};
use crate::binlog::newest::Search;
use crate::binlog::{Deletes, Newest, Segment, SegmentFiles};
use crate::error::{Result, internal};
use crate::schema::CollectionSchema;

/// Segments that are looked at side by side.
const AT_ONCE: usize = 4;

/// Of each key that several rows share, the row that counts; and how many rows live at `at`, older ones among them.
///
/// `open` gets at the files of a segment's keys and timestamps and at the deletes that hold for it, by the segment's index
/// and more than once.
///
/// # Errors
/// [`crate::error::Kind::BackupCorrupted`] where a file is not what Milvus writes.
pub(super) async fn among<'f>(
    segments: usize,
    schema: &CollectionSchema,
    at: Option<u64>,
    open: impl Fn(usize) -> BoxFuture<'f, Result<(SegmentFiles, Arc<Deletes>)>>,
) -> Result<(Newest, u64)> {
    let mut search = Search::default();
    while search.goes_on() {
        let shared = Arc::new(search);
        let look = async |segment: usize| {
            let (files, deletes) = open(segment).await?;
            let (schema, search) = (schema.clone(), Arc::clone(&shared));
            blocking(move || search.take(Segment::open(files, &schema)?, &schema, deletes, at)).await
        };
        futures::stream::iter((0..segments).map(Ok)).try_for_each_concurrent(AT_ONCE, look).await?;
        search = Arc::into_inner(shared).ok_or_else(|| internal("a segment is still looked at"))?;
        let turn = move || {
            search.turn();
            Ok(search)
        };
        search = blocking(turn).await?;
    }
    Ok(search.found())
}

/// What there is to say of a partition's rows that do not count, if there are any.
pub(super) fn told(partition: &str, newest: &Newest) -> Option<String> {
    let older = newest.older_rows();
    if older == 0 {
        return None;
    }
    let examples = newest.examples(EXAMPLES + 1);
    let more = if examples.len() > EXAMPLES { ", …" } else { "" };
    let examples = examples.iter().take(EXAMPLES).map(|(key, rows)| format!("{key} ({rows} times)"));
    let examples = examples.collect::<Vec<_>>().join(", ");
    Some(format!(
        "partition {partition}: {older} rows have a newer one with the same primary key, which is taken in their place: {examples}{more}"
    ))
}
