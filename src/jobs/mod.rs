//! The operations that people ask for, each in a file of its own that holds its flow: plan → work → commit. Requests
//! and results are JSON, as they cross the seam to Python.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;

mod agree;
pub mod backup;
mod backup_request;
pub mod bandwidth;
pub mod check;
mod chunks;
mod compatible;
mod contrast;
pub mod control;
pub mod copy;
mod deep;
pub mod export;
pub mod files;
mod foreign;
mod importing;
mod into;
mod journals;
mod likeness;
mod load;
mod native;
mod newest;
pub mod open;
mod pieces;
pub mod prune;
mod quick;
mod quick_native;
pub mod read;
pub mod recover;
pub mod restore;
mod restore_plan;
mod shared_keys;
mod sorting;
mod staging;
mod staging_progress;
mod staging_proof;
mod swap;
pub mod verify;
mod worker;
mod written;

pub use control::Control;

use crate::error::{Error, Kind, Result, internal};
use crate::milvus::{Client, Retry, ServerConfig};
use crate::repository::manifest::Manifest;
use crate::repository::retention::Health;
use crate::repository::{Backup, Listed, Owner, Repository, Store, verdict};

/// How long a collection may take to load.
const LOAD_LIMIT: Duration = Duration::from_secs(1800);
/// How long a flush may take.
const FLUSH_LIMIT: Duration = Duration::from_secs(600);
/// How long cleaning up on the server may take before it is left to the next run: with the rest, within the ten
/// seconds in which a canceled task ends.
const CLEANUP_LIMIT: Duration = Duration::from_secs(8);

/// What a session works with: one server or none, one repository or none.
#[derive(Deserialize)]
pub struct SessionConfig {
    #[serde(default)]
    server: Option<ServerConfig>,
    #[serde(default)]
    repository: Option<RepositoryConfig>,
    /// Where Milvus itself keeps its files.
    #[serde(default)]
    milvus_storage: Option<StorageConfig>,
    /// The server's management port, as a URL.
    #[serde(default)]
    milvus_management: Option<String>,
    #[serde(default = "max_retries")]
    max_retries: u32,
    #[serde(default = "retry_delay")]
    retry_delay_seconds: f64,
}

#[derive(Deserialize)]
struct RepositoryConfig {
    root: String,
    #[serde(default)]
    options: BTreeMap<String, String>,
    #[serde(default)]
    read_only: bool,
    /// Where restores keep their journals, if not in the repository.
    #[serde(default)]
    journal_root: Option<String>,
}

#[derive(Deserialize)]
struct StorageConfig {
    root: String,
    #[serde(default)]
    options: BTreeMap<String, String>,
}

fn max_retries() -> u32 {
    3
}
fn retry_delay() -> f64 {
    5.0
}

/// A server and a repository to work with. Connects when first needed.
pub struct Session {
    server: Option<ServerConfig>,
    repository: Option<Repository>,
    journals: Option<Repository>,
    /// Options of the repository's store, and of whatever is named by a URL.
    storage_options: BTreeMap<String, String>,
    milvus_storage: Option<StorageConfig>,
    milvus_management: Option<String>,
    retry: Retry,
    client: OnceCell<Client>,
}

impl Session {
    /// A session; nothing is connected or opened yet.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] or [`Kind::Storage`] for a repository root that cannot be one.
    pub fn new(config: SessionConfig) -> Result<Self> {
        let delay = Duration::try_from_secs_f64(config.retry_delay_seconds)
            .map_err(|_| Error::new(Kind::InvalidArgument, "retry_delay_seconds has to be 0 or more"))?;
        let (mut repository, mut journals, mut storage_options) = (None, None, BTreeMap::new());
        if let Some(config) = config.repository {
            let opened = Repository::open(&config.root, &config.options)?;
            repository = Some(if config.read_only { opened.read_only() } else { opened });
            journals = config.journal_root.map(|root| Repository::open(&root, &config.options)).transpose()?;
            storage_options = config.options;
        }
        Ok(Self {
            server: config.server,
            repository,
            journals,
            storage_options,
            milvus_storage: config.milvus_storage,
            milvus_management: config.milvus_management,
            retry: Retry { max_retries: config.max_retries, delay },
            client: OnceCell::new(),
        })
    }

    async fn client(&self) -> Result<Client> {
        let Some(config) = &self.server else {
            return Err(Error::new(
                Kind::InvalidArgument,
                "this needs a Milvus server, and none was given: pass a uri, or set MILVAULT_URI",
            ));
        };
        self.client.get_or_try_init(|| Client::connect(config.clone(), self.retry)).await.cloned()
    }

    /// A client that works in this database, or in the connection's own.
    async fn client_in(&self, database: Option<&str>) -> Result<Client> {
        let client = self.client().await?;
        match database {
            Some(database) => client.in_database(database).await,
            None => Ok(client),
        }
    }

    fn repository(&self) -> Result<&Repository> {
        self.repository.as_ref().ok_or_else(|| {
            Error::new(Kind::InvalidArgument, "this needs a repository, and none was given: pass its root")
        })
    }

    /// Where Milvus itself keeps its files, to be read only.
    fn milvus_storage(&self) -> Result<Store> {
        let config = self.milvus_storage.as_ref().ok_or_else(|| {
            Error::new(
                Kind::InvalidArgument,
                "that needs the files that Milvus itself keeps, and nothing says where those are: set \
                 milvus_storage to the folder, or the bucket and root path, that the server writes to, or to its milvus.yaml",
            )
        })?;
        let opened = Store::open(&config.root, &config.options).map_err(|error| error.context("milvus_storage"))?;
        Ok(opened.read_only())
    }

    /// The database whose backups are meant: the connection's, or any where there is none.
    fn database(&self) -> Option<&str> {
        self.server.as_ref().map(|server| server.db_name.as_str())
    }

    /// Removes what dead runs left of a collection's backups. Not what was asked for: a repository that cannot be
    /// written to is no reason to fail, and a run that lives is left alone.
    async fn sweep(&self, database: &str, collection: &str) {
        if let Some(repository) = &self.repository
            && repository.store().require_writable("clearing up").is_ok()
            && let Err(error) = repository.sweep(database, collection).await
        {
            tracing::warn!(%error, collection, "what dead runs left could not be removed");
        }
    }

    /// A backup of the connection's database, or else of any: a restore may come from another one. One that milvus-backup
    /// made is found in the repository by its folder's name or its id, and elsewhere by its path.
    async fn find(&self, reference: &str, collection: Option<&str>) -> Result<Backup> {
        if foreign::is_path(reference) {
            return foreign::at(self, reference, collection).await;
        }
        let repository = self.repository()?;
        let mut found = repository.find(reference, collection, self.database()).await;
        if is_missing(&found) {
            found = repository.find(reference, collection, None).await;
        }
        if is_missing(&found)
            && let Some(foreign) = foreign::within(repository, reference, collection, self.database()).await?
        {
            return Ok(foreign);
        }
        found
    }

    /// As [`Session::find`], to be read at an earlier moment where one is given.
    async fn find_at(&self, reference: &str, collection: Option<&str>, at: Option<u64>) -> Result<Backup> {
        foreign::settled(self.find(reference, collection).await?, at.is_some()).await
    }
}

fn is_missing<T>(found: &Result<T>) -> bool {
    found.as_ref().is_err_and(|error| error.kind() == Kind::BackupNotFound)
}

/// A manifest as Python's `BackupMetadata` reads it: for it, a completed one that `is_verified` is VERIFIED. The
/// manifest itself never changes.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    manifest: &'a Manifest,
    is_verified: bool,
    last_verified_at: Option<DateTime<Utc>>,
    verifications: Map<String, Value>,
    storage_path: &'a str,
    owner: Owner,
}

impl<'a> Shown<'a> {
    fn new(manifest: &'a Manifest, verification: Option<&Value>, storage_path: &'a str) -> Self {
        let is_verified = verdict::health(verification) == Health::Verified;
        Self {
            manifest,
            is_verified,
            last_verified_at: verification.filter(|_| is_verified).and_then(verdict::verified_at),
            verifications: verification.map(verdict::by_type).unwrap_or_default(),
            storage_path,
            owner: Owner::Milvault,
        }
    }

    fn of(backup: &'a Backup, verification: Option<&Value>) -> Self {
        Self { owner: backup.owner(), ..Self::new(backup.manifest(), verification, backup.storage_path()) }
    }
}

fn metadata(manifest: &Manifest, verification: Option<&Value>, storage_path: &str) -> Value {
    json!(Shown::new(manifest, verification, storage_path))
}

/// Runs an operation by its name; its answer in JSON. The names and shapes are those of `python/milvault/_core.pyi`.
///
/// # Errors
/// Each operation's own; [`Kind::InvalidArgument`] for a name or a request that is none.
pub async fn run(session: &Session, operation: &str, request: &str, control: &Control) -> Result<String> {
    match operation {
        "list" => control.guard(None, list(session, parse(operation, request)?)).await,
        _ => Ok(Box::pin(run_small(session, operation, request, control)).await?.to_string()),
    }
}

/// An operation whose answer is small enough to be built as a tree.
async fn run_small(session: &Session, operation: &str, request: &str, control: &Control) -> Result<Value> {
    match operation {
        "backup" => backup::backup(session, parse(operation, request)?, control).await,
        "check" => check::check(session, parse(operation, request)?, control).await,
        "note_set" => native::sets::note(session, parse(operation, request)?, control).await,
        "moments" => native::moments(session, &parse(operation, request)?, control).await,
        "restore" => restore::restore(session, parse(operation, request)?, control).await,
        "verify" => verify::verify(session, parse(operation, request)?, control).await,
        "adopt" => native::adopt::adopt(session, parse(operation, request)?, control).await,
        "copy" => copy::copy(session, parse(operation, request)?, control).await,
        "get" => control.guard(None, get(session, parse(operation, request)?)).await,
        "prune" => prune::prune(session, parse(operation, request)?, control).await,
        "delete" => delete(session, parse(operation, request)?).await,
        "export" => export::export(session, &parse(operation, request)?, control).await,
        "checksum_file" => files::checksum(&parse(operation, request)?, control),
        "compress_file" => files::compress_file(&parse(operation, request)?, control),
        "decompress_file" => files::decompress_file(&parse(operation, request)?, control),
        "server_info" => {
            let client = control.guard(None, session.client()).await?;
            Ok(json!({"version": client.version(), "kind": client.kind().name(), "uri": client.label()}))
        }
        "list_databases" => {
            let mut names = control.guard(None, async { session.client().await?.databases().await }).await?;
            names.sort_unstable();
            Ok(json!(names))
        }
        "list_collections" => {
            let within: Within = parse(operation, request)?;
            let names = async { session.client_in(within.database.as_deref()).await?.collections().await };
            Ok(json!(control.guard(None, names).await?))
        }
        "has_collection" => {
            let named: Named = parse(operation, request)?;
            control
                .guard(None, async { Ok(json!(session.client().await?.exists(&named.collection_name).await?)) })
                .await
        }
        "describe_collection" => control.guard(None, describe(session, parse(operation, request)?)).await,
        "drop_collection" => {
            let named: Named = parse(operation, request)?;
            session.client().await?.drop_collection(&named.collection_name).await?;
            Ok(Value::Null)
        }
        _ => Err(Error::new(Kind::InvalidArgument, format!("there is no operation '{operation}'"))),
    }
}

fn parse<T: DeserializeOwned>(operation: &str, request: &str) -> Result<T> {
    serde_json::from_str(request).map_err(|error| {
        Error::new(Kind::InvalidArgument, format!("the request for '{operation}' is not right: {error}"))
    })
}

#[derive(Deserialize)]
struct Named {
    collection_name: String,
}

#[derive(Deserialize)]
struct Within {
    #[serde(default)]
    database: Option<String>,
}

#[derive(Deserialize)]
struct Which {
    backup: String,
    #[serde(default)]
    collection_name: Option<String>,
}

#[derive(Deserialize)]
struct Filter {
    #[serde(default)]
    collection_name: Option<String>,
    #[serde(default)]
    database: Option<String>,
}

async fn list(session: &Session, filter: Filter) -> Result<String> {
    let database = filter.database.as_deref().or(session.database());
    // As text at once, by whoever read the manifest: ten thousand trees of values take a while to build, and memory.
    let text = |shown: &Shown| {
        let text = serde_json::to_string(shown);
        text.map_err(|error| internal(format!("a manifest cannot be written as JSON: {error}")))
    };
    let shown = move |found: Listed| {
        let shown = Shown::new(&found.manifest, found.verification.as_ref(), &found.storage_path);
        text(&shown).map(|text| (found.manifest.created_at, text))
    };
    let (repository, collection) = (session.repository()?, filter.collection_name.as_deref());
    let listing = repository.list_as(database, collection, shown).await?;
    let mut backups = listing.backups.into_iter().collect::<Result<Vec<_>>>()?;
    let of_foreign = |backup: &Backup| text(&Shown::of(backup, None));
    let foreign = foreign::list(repository, listing.foreign, collection, database, of_foreign).await?;
    if !foreign.backups.is_empty() {
        backups.extend(foreign.backups);
        backups.sort_by_key(|(made, _)| std::cmp::Reverse(*made));
    }
    let backups = backups.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",");
    let damaged = listing.damaged.iter().map(|damaged| {
        json!({
            "backup_id": damaged.backup_id,
            "database": damaged.database,
            "collection_name": damaged.collection_name,
            "storage_path": damaged.storage_path,
            "reason": damaged.error.message(),
        })
    });
    let damaged: Value = damaged.chain(foreign.damaged).collect();
    worker::give_back_memory();
    Ok(format!(r#"{{"backups":[{backups}],"damaged":{damaged}}}"#))
}

async fn get(session: &Session, which: Which) -> Result<Value> {
    let backup = session.find(&which.backup, which.collection_name.as_deref()).await?;
    let verification = backup.verification().await;
    Ok(json!(Shown::of(&backup, verification.as_ref())))
}

async fn delete(session: &Session, which: Which) -> Result<Value> {
    if foreign::is_path(&which.backup) {
        let found = foreign::at(session, &which.backup, which.collection_name.as_deref()).await?;
        found.require_ours(foreign::NOT_DELETED)?;
    }
    session.repository()?.store().require_writable(&format!("deleting backup {}", which.backup))?;
    if let Some(collection) = &which.collection_name {
        session.sweep(session.database().unwrap_or("default"), collection).await;
    }
    let (repository, collection) = (session.repository()?, which.collection_name.as_deref());
    let deleted = repository.delete(&which.backup, collection, session.database()).await;
    if is_missing(&deleted)
        && let Some(found) = foreign::within(repository, &which.backup, collection, session.database()).await?
    {
        found.require_ours(foreign::NOT_DELETED)?;
    }
    deleted?;
    Ok(Value::Bool(true))
}

async fn describe(session: &Session, named: Named) -> Result<Value> {
    let client = session.client().await?;
    let collection = client.describe(&named.collection_name).await?;
    let indexes = client.indexes(&collection.name).await?;
    // A collection that is not loaded cannot be counted by a query.
    let rows = if client.is_loaded(&collection.name).await? {
        let reader = read::Reader::new(&client, &collection, 1).await?;
        Some(reader.counts(&reader.partitions(&[])).await?.values().sum::<u64>())
    } else {
        None
    };
    let mut value = serde_json::to_value(&collection).unwrap_or_default();
    value["indexes"] = json!(indexes);
    value["row_count"] = json!(rows);
    Ok(value)
}
