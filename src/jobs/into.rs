//! Restoring into a collection that exists: the backup's rows are put in by their primary keys, batch by batch.
//!
//! There is no staging here, and Milvus has no transaction: each batch looks which of its keys are there, puts its rows
//! in, and reads them back. What was put in before a failure stays, and every key has its old row or the backup's. What is
//! left is done by the same restore with `on_conflict=SKIP`, or with `OVERWRITE` where that was asked for: `SKIP` would
//! keep old rows. Under `FAIL`, all keys are looked for before a row is written.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrow_array::{BooleanArray, RecordBatch};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::control::{Control, Phase};
use super::load::batch_size;
use super::read::{blocking, insert_partition};
use super::restore::RestoreRequest;
use super::restore_plan::{Existing, Plan, Target, refused};
use super::shared_keys;
use super::staging::{Proof, Staging};
use crate::digest::{RowDigester, SetDigest};
use crate::error::{Error, Kind, Result, internal};
use crate::milvus::{Client, InsertRequest, Inserter, Key, KeyRange, ScanRequest, Scanner, ServerKind, keys};

/// The most rows that are handled at once: their keys go into one filter.
const KEYS_AT_ONCE: usize = 4_096;
/// Keys that are named where they are in the way.
const EXAMPLES: usize = 10;

/// What is done about a row whose key is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Conflict {
    /// Nothing is written at all.
    #[default]
    Fail,
    /// The row that is there stays.
    Skip,
    /// The backup's row takes its place.
    Overwrite,
}

impl Conflict {
    /// How a restore that ended in the middle is completed.
    fn rest(self) -> &'static str {
        match self {
            Self::Fail | Self::Skip => "the same restore with on_conflict=SKIP adds the rest",
            Self::Overwrite => "the same restore with on_conflict=OVERWRITE puts in the rest",
        }
    }
}

/// What came of it.
pub(super) struct Joined {
    /// Rows that were put in.
    pub rows: u64,
    pub passed: Option<bool>,
    pub details: Map<String, Value>,
    pub warnings: Vec<String>,
}

/// What has been put in so far. It outlives the work, which ends in the middle where it is canceled or runs out of time.
#[derive(Debug, Default)]
pub(super) struct SoFar {
    begun: AtomicBool,
    rows: AtomicU64,
}

impl SoFar {
    /// The error that ended the work, with what stays of it.
    pub(super) fn told(&self, error: Error, plan: &Plan, request: &RestoreRequest) -> Error {
        if !self.begun.load(Ordering::Relaxed) {
            return error;
        }
        let left = format!(
            "of {} rows, {} and maybe some more are in '{}' and stay there; {}",
            plan.staging.rows.most(),
            self.rows.load(Ordering::Relaxed),
            plan.target.existing().map_or("", |existing| &existing.collection.name),
            request.on_conflict.rest()
        );
        match error.kind() {
            Kind::Timeout => {
                error.saying(format!("the time allowed for this is over: {left}. Allow more with timeout="))
            }
            Kind::Canceled => error.saying(format!("canceled: {left}")),
            _ => error.context(left),
        }
    }
}

/// How many rows of a batch went which way.
#[derive(Debug, Clone, Copy, Default)]
struct Placed {
    inserted: u64,
    replaced: u64,
    skipped: u64,
}

impl Placed {
    fn add(&mut self, other: Self) {
        self.inserted += other.inserted;
        self.replaced += other.replaced;
        self.skipped += other.skipped;
    }
}

/// Where rows go, and on which terms.
struct Place {
    client: Client,
    into: InsertRequest,
    partitions: Vec<String>,
    by_key: bool,
    policy: Conflict,
    proof: Proof,
    digester: RowDigester,
}

/// Puts the plan's rows into the collection that stands at the target.
///
/// # Errors
/// [`Kind::RestoreValidation`] before anything is written, where keys are there and that is to fail; later what went
/// wrong. `so_far` knows how many rows are in by then.
pub(super) async fn insert(plan: &Plan, request: &RestoreRequest, so_far: &SoFar, control: &Control) -> Result<Joined> {
    let Target::Joined(existing) = &plan.target else { return Err(internal("no collection to put rows into")) };
    let target = &existing.collection.name;
    if !existing.loaded {
        control.enter(Phase::Loading);
        plan.client().load(target, super::LOAD_LIMIT).await.map_err(|error| {
            error
                .context(format!("'{target}' is not loaded, and its keys can only be looked at in a loaded collection"))
        })?;
    }
    if request.on_conflict == Conflict::Fail {
        refuse_conflicts(plan, existing, control).await?;
    }
    let rows = &plan.staging.rows;
    control.expect(rows.most(), rows.bytes());
    control.enter(Phase::Inserting);
    let place = Arc::new(place(plan, existing, request)?);
    so_far.begun.store(true, Ordering::Relaxed);
    let all = put_all(plan, request, &place, so_far, control).await?;
    control.enter(Phase::Flushing);
    plan.client().flush(target, super::FLUSH_LIMIT).await?;
    let details = json!({
        "method": request.verify_after.name(),
        "rows": all.inserted + all.replaced,
        "inserted": all.inserted,
        "replaced": all.replaced,
        "skipped": all.skipped,
    });
    let mut warnings = Vec::new();
    if all.skipped > 0 {
        warnings.push(format!(
            "{} rows of the backup were left out, since '{target}' has rows with their keys",
            all.skipped
        ));
    }
    Ok(Joined {
        rows: all.inserted + all.replaced,
        passed: (request.verify_after != Proof::None).then_some(true),
        details: details.as_object().cloned().unwrap_or_default(),
        warnings,
    })
}

/// Leaves the collection as loaded as it was found, if the server answers soon.
pub(super) async fn leave_as_found(plan: &Plan, request: &RestoreRequest) {
    let Target::Joined(existing) = &plan.target else { return };
    if existing.loaded || request.load_after_restore {
        return;
    }
    let name = &existing.collection.name;
    let released = tokio::time::timeout(super::CLEANUP_LIMIT / 2, plan.client().release(name)).await;
    if !matches!(released, Ok(Ok(()))) {
        tracing::warn!(collection = name, "loaded for the restore, it could not be released");
    }
}

fn place(plan: &Plan, existing: &Existing, request: &RestoreRequest) -> Result<Place> {
    let collection = &existing.collection;
    let schema = Arc::new(collection.schema.clone());
    Ok(Place {
        client: plan.client().clone(),
        into: InsertRequest { collection: collection.name.clone(), schema },
        partitions: collection.partitions.clone(),
        by_key: collection.has_partition_key(),
        policy: request.on_conflict,
        proof: request.verify_after,
        digester: RowDigester::new(&collection.schema)?,
    })
}

async fn put_all(
    plan: &Plan,
    request: &RestoreRequest,
    place: &Arc<Place>,
    so_far: &SoFar,
    control: &Control,
) -> Result<Placed> {
    let staging = &plan.staging;
    let mut all = Placed::default();
    let mut running: JoinSet<Result<(Placed, u64, u64)>> = JoinSet::new();
    for partition in staging.rows.partitions() {
        let named = insert_partition(&partition);
        if let Some(name) = named.as_ref().filter(|name| !place.partitions.contains(name)) {
            place.client.create_partition(&place.into.collection, name).await?;
        }
        for piece in staging.rows.pieces(&partition) {
            let at_once = request.batch_rows.unwrap_or_else(|| batch_size(piece)).min(KEYS_AT_ONCE);
            let mut rows = staging.rows.open(&staging.backup, piece, Some(at_once)).await?;
            while let Some(batch) = rows.next().await? {
                while running.len() >= request.max_requests_in_flight.max(1) {
                    all.add(reap(&mut running, so_far, control).await?);
                }
                control.pass(piece.weight(batch.num_rows() as u64)).await;
                let (place, named) = (Arc::clone(place), named.clone());
                running.spawn(async move {
                    let (count, bytes) = (batch.num_rows() as u64, crate::parquet::arrow_bytes(&batch));
                    Ok((place.put(named, batch).await?, count, bytes))
                });
            }
        }
    }
    while !running.is_empty() {
        all.add(reap(&mut running, so_far, control).await?);
    }
    Ok(all)
}

async fn reap(running: &mut JoinSet<Result<(Placed, u64, u64)>>, so_far: &SoFar, control: &Control) -> Result<Placed> {
    let Some(ended) = running.join_next().await else { return Ok(Placed::default()) };
    let (placed, rows, bytes) = ended.map_err(|error| internal(format!("the task that inserts ended: {error}")))??;
    so_far.rows.fetch_add(placed.inserted + placed.replaced, Ordering::Relaxed);
    control.advance(rows, bytes);
    Ok(placed)
}

impl Place {
    /// Puts one batch in, and reads it back.
    async fn put(&self, partition: Option<String>, batch: RecordBatch) -> Result<Placed> {
        let all = self.keys_of(&batch)?;
        let there = match self.policy {
            Conflict::Fail => HashSet::new(), // looked for before, all of them
            _ => self.present(None, &all).await?,
        };
        let rows = batch.num_rows() as u64;
        let (placed, batch) = if there.is_empty() {
            self.insert(partition.clone(), batch.clone()).await?;
            (Placed { inserted: rows, ..Placed::default() }, batch)
        } else if self.policy == Conflict::Skip {
            let wanted: BooleanArray = all.iter().map(|key| Some(!there.contains(key))).collect();
            let rest = arrow_select::filter::filter_record_batch(&batch, &wanted)
                .map_err(|error| internal(format!("rows could not be picked: {error}")))?;
            self.insert(partition.clone(), rest.clone()).await?;
            let inserted = rest.num_rows() as u64;
            (Placed { inserted, skipped: rows - inserted, ..Placed::default() }, rest)
        } else {
            self.client.upsert(&self.into, partition.as_deref(), &batch).await?;
            self.delete_elsewhere(partition.as_deref(), &there).await?;
            let replaced = there.len() as u64;
            (Placed { inserted: rows - replaced, replaced, skipped: 0 }, batch)
        };
        // A replaced row is nowhere else; beside an inserted one, other partitions may have theirs.
        let within = partition.filter(|_| self.policy != Conflict::Overwrite);
        self.prove(within.as_deref(), batch).await?;
        Ok(placed)
    }

    fn keys_of(&self, batch: &RecordBatch) -> Result<Vec<Key>> {
        let name = &self.into.schema.primary_key()?.name;
        keys(batch.column_by_name(name).ok_or_else(|| internal("the rows to insert have no keys"))?)
    }

    async fn insert(&self, partition: Option<String>, rows: RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let mut inserter = Inserter::new(self.client.clone(), self.into.clone(), 1);
        inserter.push(partition, rows).await?;
        inserter.finish().await.map(drop)
    }

    /// Deletes rows of other partitions whose keys now are in `partition`: replacing rows does not look there.
    async fn delete_elsewhere(&self, partition: Option<&str>, keys: &HashSet<Key>) -> Result<()> {
        if self.by_key || self.partitions.len() < 2 {
            return Ok(());
        }
        let keys: Vec<Key> = keys.iter().cloned().collect();
        let here = partition.unwrap_or("_default");
        for other in self.partitions.iter().filter(|name| *name != here) {
            let moved: Vec<Key> = self.present(Some(other), &keys).await?.into_iter().collect();
            self.client.delete_keys(&self.into, Some(other), &moved).await?;
        }
        Ok(())
    }

    /// Which of `keys` there are, as of now.
    async fn present(&self, partition: Option<&str>, keys: &[Key]) -> Result<HashSet<Key>> {
        let timestamp = self.client.read_timestamp().await?;
        present(&self.client, &self.scan(partition, keys, timestamp).keys_only()?).await
    }

    fn scan(&self, partition: Option<&str>, keys: &[Key], timestamp: u64) -> ScanRequest {
        ScanRequest {
            collection: self.into.collection.clone(),
            schema: Arc::clone(&self.into.schema),
            partition: partition.map(str::to_owned),
            range: KeyRange { after: None, upto: keys.iter().max().cloned() },
            among: Some(Arc::new(keys.to_vec())),
            timestamp,
        }
    }

    /// Reads the rows back by their keys, in one partition or in all.
    async fn prove(&self, partition: Option<&str>, batch: RecordBatch) -> Result<()> {
        if self.proof == Proof::None || batch.num_rows() == 0 {
            return Ok(());
        }
        let all = self.keys_of(&batch)?;
        if self.proof == Proof::Count {
            let found = self.present(partition, &all).await?.len();
            return if found == all.len() { Ok(()) } else { Err(self.not_as_put(all.len(), found)) };
        }
        let timestamp = self.client.read_timestamp().await?;
        let mut scanner = Scanner::new(self.client.clone(), self.scan(partition, &all, timestamp))?;
        let mut found = SetDigest::default();
        while let Some(page) = scanner.next().await? {
            found.merge(&self.digest(page).await?);
        }
        if found == self.digest(batch).await? {
            return Ok(());
        }
        Err(self.not_as_put(all.len(), usize::try_from(found.rows).unwrap_or(usize::MAX)))
    }

    async fn digest(&self, rows: RecordBatch) -> Result<SetDigest> {
        let digester = self.digester.clone();
        blocking(move || digester.set(&rows)).await
    }

    fn not_as_put(&self, put: usize, found: usize) -> Error {
        Error::new(
            Kind::Restore,
            format!(
                "{put} rows were put into '{}', and {found} rows with their keys were read back that are not the same: somebody else writes to it, or the server lost rows",
                self.into.collection
            ),
        )
    }
}

async fn present(client: &Client, request: &ScanRequest) -> Result<HashSet<Key>> {
    let mut there = HashSet::new();
    let mut scanner = Scanner::new(client.clone(), request.clone())?;
    while let Some(page) = scanner.next().await? {
        there.extend(keys(page.column(0))?);
    }
    Ok(there)
}

/// Refuses to put rows in where partitions of the backup share keys and only one row a key would stay: where rows are
/// replaced, each would delete the other's, and so does Milvus Lite by itself.
pub(super) async fn refuse_shared_keys(staging: &Staging, policy: Conflict, target: &str) -> Result<()> {
    let keeper = match (staging.client.kind(), policy) {
        (ServerKind::Lite, _) => "Milvus Lite",
        (_, Conflict::Overwrite) => "OVERWRITE",
        _ => return Ok(()),
    };
    if staging.rows.partitions().len() < 2 {
        return Ok(());
    }
    let key = &staging.collection.schema.primary_key()?.name;
    let shared = shared_keys::examples(&staging.rows, &staging.backup, key).await?;
    if shared.is_empty() {
        return Ok(());
    }
    let named = shared.iter().map(|(key, [one, other])| format!("{key} ({one} and {other})"));
    Err(refused(
        target,
        format!(
            "partitions of the backup share primary keys, such as {}, and {keeper} keeps one row a key: the others would be lost. Nothing was written to '{target}'. Choose partitions that share none with partition_names, or restore into a new collection of a Milvus server, which holds them all",
            named.collect::<Vec<_>>().join(", ")
        ),
    ))
}

/// How many of the backup's keys are in the collection already, with examples.
pub(super) async fn conflicts(plan: &Plan, existing: &Existing, control: &Control) -> Result<Value> {
    let (rows, examples) = look_for_keys(plan, existing, usize::MAX, control).await?;
    Ok(json!({"rows": rows, "examples": examples.iter().map(Key::to_json).collect::<Vec<_>>()}))
}

async fn refuse_conflicts(plan: &Plan, existing: &Existing, control: &Control) -> Result<()> {
    let (rows, examples) = look_for_keys(plan, existing, 1, control).await?;
    if rows == 0 {
        return Ok(());
    }
    let named = examples.iter().map(Key::to_string).collect::<Vec<_>>().join(", ");
    let target = &existing.collection.name;
    Err(refused(
        target,
        format!("'{target}' has rows with keys of the backup already, such as {named}: nothing was written. Keep its rows with on_conflict=SKIP, or replace them with on_conflict=OVERWRITE"),
    )
    .with("conflicting_keys", examples.iter().map(Key::to_json).collect::<Vec<_>>()))
}

/// Looks for the backup's keys in the collection until `enough` are found.
async fn look_for_keys(
    plan: &Plan,
    existing: &Existing,
    enough: usize,
    control: &Control,
) -> Result<(usize, Vec<Key>)> {
    control.enter(Phase::Counting);
    let (staging, collection) = (&plan.staging, &existing.collection);
    let request = ScanRequest {
        collection: collection.name.clone(),
        schema: Arc::new(collection.schema.clone()),
        partition: None,
        range: KeyRange::default(),
        among: None,
        timestamp: plan.client().read_timestamp().await?,
    };
    let request = request.keys_only()?;
    let key = &collection.schema.primary_key()?.name;
    let (mut found, mut examples) = (0, Vec::new());
    for partition in staging.rows.partitions() {
        for piece in staging.rows.pieces(&partition) {
            let mut rows = staging.rows.open(&staging.backup, piece, Some(KEYS_AT_ONCE)).await?;
            while let Some(batch) = rows.next().await? {
                let all = keys(batch.column_by_name(key).ok_or_else(|| internal("the rows have no keys"))?)?;
                let range = KeyRange { after: None, upto: all.iter().max().cloned() };
                let some = ScanRequest { range, among: Some(Arc::new(all)), ..request.clone() };
                let mut there: Vec<Key> = present(plan.client(), &some).await?.into_iter().collect();
                there.sort_unstable();
                found += there.len();
                examples.extend(there.into_iter().take(EXAMPLES - examples.len()));
                if found >= enough {
                    return Ok((found, examples));
                }
            }
        }
    }
    Ok((found, examples))
}
