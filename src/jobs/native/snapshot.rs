//! One moment of one or more collections, and the segments whose files hold it.
//!
//! A flush names a timestamp. Rows up to it that were still on their way come with a second flush, so that after both
//! every row up to the first one's timestamp is in files (measured on 2.3.5: with one flush, some were missing).
//! Compaction leaves out what was deleted before it ran, also after that timestamp: where it replaced a segment
//! meanwhile, the moment may be lost, and another one is taken.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::milvus::{Client, Segment, SegmentState};
use crate::repository::names::now;

/// How often a moment is taken at least, and for how long, where compaction keeps replacing segments: each flush gives it
/// something to do, and the longer a server takes for two of them, the likelier it is done in between.
const TRIES: u32 = 5;
const TRYING: Duration = Duration::from_secs(120);
/// How long sealed segments are waited for after a flush.
const SEALED_LIMIT: Duration = Duration::from_secs(60);

/// What one collection was at the moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Moment {
    /// The hybrid timestamp that the rows are to be taken at.
    pub timestamp: u64,
    /// When flushing began.
    pub started_at: DateTime<Utc>,
    /// When the segments were listed.
    pub ended_at: DateTime<Utc>,
    /// The partitions that there were shortly before, by number and name: their rows belong to it.
    pub partitions: Vec<(i64, String)>,
    /// The segments whose files hold the rows, by number.
    pub segments: Vec<Segment>,
}

/// Takes one moment of all `collections`, each with the client of its database; the answer has their order.
///
/// # Errors
/// [`Kind::InvalidArgument`] where a server has no binlogs; [`Kind::Server`] where it tells no timestamp, or compaction
/// does not come to rest.
pub async fn take(collections: &[(Client, String)]) -> Result<Vec<Moment>> {
    let begun = Instant::now();
    let mut tries = 0;
    while tries < TRIES || begun.elapsed() < TRYING {
        tries += 1;
        let started_at = now();
        let (mut known, mut partitions) = (Vec::new(), Vec::new());
        for (client, name) in collections {
            partitions.push(client.partitions(name).await?);
            known.push(numbers(&client.segments(name).await?));
        }
        let mut timestamp = u64::MAX;
        // What a flush wrote is looked at directly after it: once it is known, compaction cannot replace it unseen while
        // other collections are flushed.
        for ((client, name), known) in collections.iter().zip(&mut known) {
            let flushed = client.flush(name, super::super::FLUSH_LIMIT).await?;
            timestamp = timestamp.min(flushed.ok_or_else(|| no_timestamp(client))?);
            known.extend(numbers(&client.segments(name).await?));
        }
        for ((client, name), known) in collections.iter().zip(&mut known) {
            known.extend(numbers(&client.segments(name).await?));
            client.flush(name, super::super::FLUSH_LIMIT).await?;
            known.extend(numbers(&client.segments(name).await?));
        }
        let mut moments = Vec::new();
        for (((client, name), known), partitions) in collections.iter().zip(&mut known).zip(partitions) {
            let segments = settled(client, name, known).await?;
            moments.push(Moment { timestamp, started_at, ended_at: now(), partitions, segments });
        }
        let replaced = known.iter().zip(&moments).any(|(known, moment)| !known.is_subset(&numbers(&moment.segments)));
        if !replaced {
            return Ok(moments);
        }
        tracing::info!(tries, "compaction replaced segments while a snapshot was taken: it is taken again");
    }
    let names: Vec<&str> = collections.iter().map(|(_, name)| name.as_str()).collect();
    Err(Error::new(
        Kind::Server,
        format!(
            "compaction replaced segments of {} each of the {tries} times that a snapshot was taken, so none of them is \
             sure to be of one moment. Try again when it has come to rest",
            names.join(", ")
        ),
    )
    .temporary())
}

fn numbers(segments: &[Segment]) -> BTreeSet<i64> {
    segments.iter().filter(|segment| segment.state != SegmentState::Importing).map(|segment| segment.id).collect()
}

/// The segments, once all are written; those of an import that is under way show no rows yet, and are left out. All that
/// are seen meanwhile become `known`.
async fn settled(client: &Client, name: &str, known: &mut BTreeSet<i64>) -> Result<Vec<Segment>> {
    let begun = Instant::now();
    loop {
        let mut segments = client.segments(name).await?;
        known.extend(numbers(&segments));
        segments.retain(|segment| segment.state != SegmentState::Importing);
        let written = segments.iter().all(|segment| segment.state == SegmentState::Flushed);
        // One that is still sealed then is taken as it is: its rows are counted when it is copied.
        if written || begun.elapsed() > SEALED_LIMIT {
            client.note_files(&mut segments).await;
            return Ok(segments);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn no_timestamp(client: &Client) -> Error {
    Error::new(
        Kind::InvalidArgument,
        format!(
            "the Milvus server at {} ({}) tells no timestamp of a flush, without which its files show no one moment: \
             use storage_type LOCAL_FILE",
            client.label(),
            client.version()
        ),
    )
}
