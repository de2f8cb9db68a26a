//! The server's own numbers of a collection, and the segments that it has written: what its files are found by.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::client::{Client, ServerKind, rpc};
use super::segment_files::SegmentLogs;
use super::{proto, status};
use crate::error::{Error, Kind, Result};

/// Partitions that are asked about at once.
const AT_ONCE: usize = 8;
/// Segments of this level hold deletes alone, for segments of other levels (Milvus 2.4 and later).
const LEVEL_ZERO: i32 = 1;

/// What the server says of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SegmentState {
    /// Takes rows; none of them may be in files yet.
    Growing,
    /// Takes none any more, and is about to be written.
    Sealed,
    /// Is being written.
    Flushing,
    /// All its rows are in files.
    Flushed,
    /// Is being filled by an import.
    Importing,
    /// Others stand in its place; its files are about to go.
    Dropped,
    /// A state that this version does not know.
    Other,
}

/// A segment that the server keeps in files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Its number, and the name of its folder.
    pub id: i64,
    /// The collection's number.
    pub collection: i64,
    /// The partition's number; −1 where its deletes hold for all of them.
    pub partition: i64,
    /// Rows in its insert logs, deleted ones included.
    pub rows: u64,
    /// How far it is.
    pub state: SegmentState,
    /// Whether it holds deletes alone.
    pub is_level_zero: bool,
    /// How its files are laid out: 0 and 1 a file a field, 2 several fields in one file.
    pub storage_version: i64,
    /// Which files it is made of, where the server tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logs: Option<SegmentLogs>,
}

/// How much of a collection or partition is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LoadState {
    NotLoaded,
    Loading,
    Loaded,
}

/// The server's numbers of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionIdentity {
    /// Its number, and the name of its folder.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Whether its rows can be queried.
    pub loaded: LoadState,
}

/// The server's numbers of a collection, and what else it tells that is of no use on another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The collection's number, and the name of its folder.
    pub collection: i64,
    /// The database's number; 0 where the server gives none.
    pub database: i64,
    /// When it was made, as a hybrid timestamp.
    pub created: u64,
    /// Channels of the collection.
    pub virtual_channels: Vec<String>,
    /// The channels below them.
    pub physical_channels: Vec<String>,
    /// Its partitions.
    pub partitions: Vec<PartitionIdentity>,
    /// Its indexes' numbers, by the index's name.
    pub indexes: Vec<(String, i64)>,
    /// Whether its rows can be queried.
    pub loaded: LoadState,
}

/// How often segments are listed at most, where one of them goes while the server looks them up.
const LISTINGS: u32 = 10;

impl Client {
    /// The segments of a collection that the server keeps in files, by number; growing and dropped ones are left out.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] on Milvus Lite, which has none.
    pub async fn segments(&self, collection: &str) -> Result<Vec<Segment>> {
        let request = proto::PersistentSegmentsRequest { db_name: self.db(), collection_name: collection.to_owned() };
        let doing = format!("listing the segments of '{collection}'");
        if self.kind() == ServerKind::Lite {
            return Err(no_segments(self));
        }
        let mut listed = 1;
        let answer = loop {
            match self.ask(&doing, rpc!(get_persistent_segment_info, request)).await {
                Err(error) if status::unimplemented(&error) => return Err(no_segments(self)),
                // The server looks up one segment after the other: compaction took one away meanwhile.
                Err(error) if status::segment_not_found(&error) && listed < LISTINGS => {
                    listed += 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                outcome => break outcome?,
            }
        };
        let mut segments: Vec<Segment> = answer.infos.into_iter().map(segment).collect();
        segments.retain(|segment| !matches!(segment.state, SegmentState::Growing | SegmentState::Dropped));
        segments.sort_by_key(|segment| segment.id);
        segments.dedup_by_key(|segment| segment.id);
        Ok(segments)
    }

    /// The server's own number of a collection.
    pub async fn number(&self, collection: &str) -> Result<i64> {
        Ok(self.describe_only(collection).await?.collection_id)
    }

    /// The server's own numbers of a collection.
    pub async fn identity(&self, collection: &str) -> Result<Identity> {
        let described = self.describe_only(collection).await?;
        let identities = futures::stream::iter(self.partitions(collection).await?)
            .map(|(id, name)| async move {
                let loaded = self.loaded(collection, Some(&name)).await?;
                Ok(PartitionIdentity { id, name, loaded })
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let indexes = self.index_descriptions(collection).await?;
        Ok(Identity {
            collection: described.collection_id,
            database: described.db_id,
            created: described.created_timestamp,
            virtual_channels: described.virtual_channel_names,
            physical_channels: described.physical_channel_names,
            partitions: identities,
            indexes: indexes.into_iter().map(|index| (index.index_name, index.index_id)).collect(),
            loaded: self.loaded(collection, None).await?,
        })
    }

    /// The server's own numbers of a collection's partitions, and their names.
    ///
    /// # Errors
    /// [`Kind::Server`] where it does not tell them.
    pub async fn partitions(&self, collection: &str) -> Result<Vec<(i64, String)>> {
        let request = self.collection_request(collection);
        let answer = self.ask("listing partitions", rpc!(show_partitions, request)).await?;
        if answer.partition_ids.len() != answer.partition_names.len() {
            return Err(Error::new(
                Kind::Server,
                format!("the server does not tell the numbers of the partitions of '{collection}'"),
            ));
        }
        Ok(answer.partition_ids.into_iter().zip(answer.partition_names).collect())
    }

    async fn loaded(&self, collection: &str, partition: Option<&str>) -> Result<LoadState> {
        let request = proto::LoadStateRequest {
            db_name: self.db(),
            collection_name: collection.to_owned(),
            partition_names: partition.map(str::to_owned).into_iter().collect(),
        };
        let doing = format!("asking whether '{collection}' is loaded");
        Ok(match self.ask(&doing, rpc!(get_load_state, request)).await?.state {
            3 => LoadState::Loaded,
            2 => LoadState::Loading,
            _ => LoadState::NotLoaded,
        })
    }
}

fn no_segments(client: &Client) -> Error {
    Error::new(
        Kind::InvalidArgument,
        format!(
            "{} keeps no binlogs that could be backed up (Milvus Lite has none): use storage_type LOCAL_FILE, which \
             reads the rows themselves",
            client.label()
        ),
    )
}

fn segment(wire: proto::PersistentSegment) -> Segment {
    Segment {
        id: wire.segment_id,
        collection: wire.collection_id,
        partition: wire.partition_id,
        rows: u64::try_from(wire.num_rows).unwrap_or(0),
        state: match wire.state {
            2 => SegmentState::Growing,
            3 => SegmentState::Sealed,
            4 => SegmentState::Flushed,
            5 => SegmentState::Flushing,
            1 | 6 => SegmentState::Dropped,
            7 => SegmentState::Importing,
            _ => SegmentState::Other,
        },
        is_level_zero: wire.level == LEVEL_ZERO,
        storage_version: wire.storage_version,
        logs: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_says_what_it_is() {
        let wire = proto::PersistentSegment {
            segment_id: 7,
            collection_id: 1,
            partition_id: -1,
            num_rows: 3,
            state: 4,
            level: 1,
            storage_version: 2,
        };
        let read = segment(wire);
        assert_eq!((read.id, read.partition, read.rows, read.state), (7, -1, 3, SegmentState::Flushed));
        assert!(read.is_level_zero && read.storage_version == 2);
        for (number, state) in [(2, SegmentState::Growing), (3, SegmentState::Sealed), (6, SegmentState::Dropped)] {
            assert_eq!(segment(proto::PersistentSegment { state: number, ..wire }).state, state);
        }
    }
}
