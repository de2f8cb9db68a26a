//! Inserting rows: several requests in flight, and every batch in exactly once.
//!
//! An answer that is lost (deadline, broken connection) leaves open whether the rows are in. Such a batch is set aside;
//! when the stream is quiet, its keys are deleted and it is inserted again. Whether that went right is not assumed: the
//! caller proves the whole by digest. Where the server makes the keys, nothing tells the rows of such a batch from
//! others: that ends the stream, and the caller begins anew.

use std::sync::Arc;

use arrow_array::RecordBatch;
use tokio::task::JoinSet;

use super::client::{Client, rpc};
use super::duplicates::keys;
use super::key::Key;
use super::{encode, key, proto, status};
use crate::error::{Error, Kind, Result, internal};
use crate::schema::CollectionSchema;

/// How many batches of unknown outcome are kept before they are settled.
const MAX_UNSETTLED: usize = 8;
/// Keys in one delete.
const KEYS_A_DELETE: usize = 1_000;
/// Bytes of keys in one delete, unless a single key is longer.
const BYTES_A_DELETE: usize = 1 << 20;

/// Where rows go.
#[derive(Debug, Clone)]
pub struct InsertRequest {
    /// The collection.
    pub collection: String,
    /// Its schema.
    pub schema: Arc<CollectionSchema>,
}

struct Batch {
    partition: Option<String>,
    rows: RecordBatch,
}

enum Outcome {
    Inserted(u64),
    Unknown(Batch, Error),
    Failed(Error),
}

/// Inserts batches in the order in which they finish. Dropped before [`Inserter::finish`], it stops sending.
pub struct Inserter {
    client: Client,
    request: InsertRequest,
    running: JoinSet<Outcome>,
    max_in_flight: usize,
    unsettled: Vec<(Batch, Error)>,
    inserted: Inserted,
}

/// What came of inserting.
#[derive(Debug, Clone, Copy, Default)]
pub struct Inserted {
    /// Rows that are in for sure.
    pub rows: u64,
    /// Whether some were in doubt and inserted again: the server may still be at work on the request that was given up.
    pub in_doubt: bool,
}

impl Inserter {
    /// An inserter with up to `max_in_flight` requests on their way at once (at least 1; 2 keep a 2.3.5 busy).
    #[must_use]
    pub fn new(client: Client, request: InsertRequest, max_in_flight: usize) -> Self {
        Self {
            client,
            request,
            running: JoinSet::new(),
            max_in_flight: max_in_flight.max(1),
            unsettled: Vec::new(),
            inserted: Inserted::default(),
        }
    }

    /// Sends a batch, waiting for room where as many as may be are on their way.
    ///
    /// # Errors
    /// What the server said of this or an earlier batch.
    pub async fn push(&mut self, partition: Option<String>, rows: RecordBatch) -> Result<()> {
        while self.running.len() >= self.max_in_flight {
            self.reap().await?;
        }
        if self.unsettled.len() >= MAX_UNSETTLED {
            self.settle().await?;
        }
        let (client, request) = (self.client.clone(), self.request.clone());
        self.running.spawn(async move { insert(&client, &request, Batch { partition, rows }).await });
        Ok(())
    }

    /// Waits until every row is in, and tells how many, and how that came about.
    pub async fn finish(mut self) -> Result<Inserted> {
        self.settle().await?;
        Ok(self.inserted)
    }

    async fn reap(&mut self) -> Result<()> {
        let Some(ended) = self.running.join_next().await else { return Ok(()) };
        match ended.map_err(|error| internal(format!("the task that inserts ended: {error}")))? {
            Outcome::Inserted(rows) => self.inserted.rows += rows,
            Outcome::Unknown(batch, error) => {
                self.inserted.in_doubt = true;
                self.unsettled.push((batch, error));
            }
            Outcome::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// Waits until every row that was pushed is in for sure.
    pub async fn settle(&mut self) -> Result<()> {
        while !self.running.is_empty() {
            self.reap().await?;
        }
        let makes_keys = self.request.schema.primary_key()?.auto_id;
        let mut attempt = 0;
        while let Some((batch, error)) = self.unsettled.pop() {
            if makes_keys {
                return Err(error.context("whether some rows are in cannot be told, since the server makes their keys"));
            }
            if attempt >= self.client.retry().max_retries {
                return Err(error.context("some rows could not be inserted for sure"));
            }
            tracing::warn!(error = %error, rows = batch.rows.num_rows(), "an insert's outcome is unknown: its keys are deleted and inserted again");
            tokio::time::sleep(self.client.retry().pause(attempt)).await;
            delete(&self.client, &self.request, &batch).await?;
            match insert(&self.client, &self.request, batch).await {
                Outcome::Inserted(rows) => {
                    self.inserted.rows += rows;
                    attempt = 0;
                }
                Outcome::Unknown(batch, error) => {
                    self.unsettled.push((batch, error));
                    attempt += 1;
                }
                Outcome::Failed(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Inserts one batch. One that the server refused as too much at once is repeated, as nothing was taken; one too large
/// for a message is halved. Any other failure that may pass leaves open what was taken: an insert goes to several
/// shards, and some of them may have it.
async fn insert(client: &Client, request: &InsertRequest, batch: Batch) -> Outcome {
    let doing = format!("inserting into '{}'", request.collection);
    let mut todo = vec![batch.rows.clone()];
    let mut inserted = 0;
    let mut attempt = 0;
    while let Some(rows) = todo.pop() {
        let count = rows.num_rows();
        if count == 0 {
            continue;
        }
        let fields_data = match encode::fields(&request.schema, &rows, client.kind()) {
            Ok(fields) => fields,
            Err(error) => return Outcome::Failed(error),
        };
        let message = proto::InsertRequest {
            db_name: client.db(),
            collection_name: request.collection.clone(),
            partition_name: batch.partition.clone().unwrap_or_default(),
            fields_data,
            num_rows: u32::try_from(count).unwrap_or(u32::MAX),
        };
        let answer = client.call_once(&doing, rpc!(insert, message)).await;
        let answer = answer.and_then(|answer| status::check(answer.status.as_ref(), &doing).map(|()| answer));
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if status::too_large(&error) && count > 1 => {
                todo.push(rows.slice(count / 2, count - count / 2));
                todo.push(rows.slice(0, count / 2));
                continue;
            }
            Err(error) if status::throttled(&error) => {
                let Some(pause) = client.retry().after(attempt, &error) else { return Outcome::Failed(error) };
                tokio::time::sleep(pause).await;
                attempt += 1;
                todo.push(rows);
                continue;
            }
            Err(error) if error.is_temporary() => return Outcome::Unknown(batch, error),
            Err(error) => return Outcome::Failed(error),
        };
        if !answer.err_index.is_empty() || answer.insert_cnt != i64::from(message_rows(count)) {
            return Outcome::Failed(Error::new(
                Kind::Server,
                format!(
                    "{doing}: the server took {} of {count} rows and refused {}",
                    answer.insert_cnt,
                    answer.err_index.len()
                ),
            ));
        }
        inserted += u64::try_from(count).unwrap_or(0);
    }
    Outcome::Inserted(inserted)
}

fn message_rows(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The keys in groups that each fit one delete. The lowest number is alone: a filter with anything but a list needs a
/// loaded collection.
fn groups(keys: &[Key]) -> Vec<&[Key]> {
    let mut groups = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, key) in keys.iter().enumerate() {
        let length = key.to_string().len();
        let full = at - start >= KEYS_A_DELETE || bytes + length > BYTES_A_DELETE;
        if at > start && (full || key.is_lowest() || keys[start].is_lowest()) {
            groups.push(&keys[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += length;
    }
    if start < keys.len() {
        groups.push(&keys[start..]);
    }
    groups
}

async fn delete(client: &Client, request: &InsertRequest, batch: &Batch) -> Result<()> {
    let name = &request.schema.primary_key()?.name;
    let column = batch.rows.column_by_name(name).ok_or_else(|| internal("the rows to insert have no keys"))?;
    client.delete_keys(request, batch.partition.as_deref(), &keys(column)?).await
}

impl Client {
    /// Deletes rows by their keys, in one partition or in all. Keys that are not there do no harm.
    pub async fn delete_keys(&self, from: &InsertRequest, partition: Option<&str>, keys: &[Key]) -> Result<()> {
        let name = &from.schema.primary_key()?.name;
        for some in groups(keys) {
            let message = proto::DeleteRequest {
                db_name: self.db(),
                collection_name: from.collection.clone(),
                partition_name: partition.unwrap_or_default().to_owned(),
                expr: key::one_of(name, some),
            };
            self.ask(&format!("deleting rows of '{}'", from.collection), rpc!(delete, message)).await?;
        }
        Ok(())
    }

    /// Puts rows in the place of those with the same keys in the same partition, or adds them: each key has its old row
    /// or its new one at every moment. Repeated where the answer is lost, which does no harm.
    pub async fn upsert(&self, into: &InsertRequest, partition: Option<&str>, rows: &RecordBatch) -> Result<()> {
        let message = proto::InsertRequest {
            db_name: self.db(),
            collection_name: into.collection.clone(),
            partition_name: partition.unwrap_or_default().to_owned(),
            fields_data: encode::fields(&into.schema, rows, self.kind())?,
            num_rows: message_rows(rows.num_rows()),
        };
        self.ask(&format!("replacing rows of '{}'", into.collection), rpc!(upsert, message)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deletes_hold_so_many_keys_and_so_many_bytes() {
        let numbers: Vec<Key> = (0..2_500).map(Key::Int).collect();
        assert_eq!(groups(&numbers).iter().map(|group| group.len()).collect::<Vec<_>>(), [1_000, 1_000, 500]);
        let long: Vec<Key> = (0..40).map(|_| Key::Text("x".repeat(60_000))).collect();
        assert_eq!(groups(&long).iter().map(|group| group.len()).collect::<Vec<_>>(), [17, 17, 6]);
        let longer = [Key::Text("x".repeat(2 << 20)), Key::Text(String::new())];
        assert_eq!(groups(&longer).len(), 2);
        let lowest = [Key::Int(1), Key::Int(i64::MIN), Key::Int(2), Key::Int(3)];
        assert_eq!(groups(&lowest).iter().map(|group| group.len()).collect::<Vec<_>>(), [1, 1, 2]);
        assert!(groups(&[]).is_empty());
    }
}
