//! Before the first backup: does everything answer, and is Milvus's storage the one that this server writes to?
//!
//! What is wrong is told and not raised: they are looked at one by one, and each outcome is of use.

use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Session;
use super::control::{Control, Phase, deadline};
use super::native::insert_folder;
use crate::error::{Error, Kind, Result};
use crate::milvus::{Client, Management, Segment, SegmentState};
use crate::repository::Store;
use crate::schema::Collection;

/// Folders that are looked into for where the files might be instead.
const LOOKED_INTO: usize = 50;
/// The number that stands for all collections at the management port.
const ALL_COLLECTIONS: i64 = 0;

/// What to look at.
#[derive(Debug, Clone, Deserialize)]
pub struct CheckRequest {
    /// The collection that has to be there, and whose files are looked for; unset: any that has some.
    #[serde(default)]
    collection_name: Option<String>,
    #[serde(default)]
    timeout_seconds: Option<f64>,
}

/// One finding.
#[derive(Debug, Serialize)]
struct Finding {
    /// `server`, `collection`, `repository`, `milvus_storage` or `milvus_management`.
    name: &'static str,
    /// Null where it could not be told.
    success: Option<bool>,
    /// What was found; what is wrong, and the way out.
    message: String,
}

impl Finding {
    fn of(name: &'static str, outcome: Result<String>) -> Self {
        match outcome {
            Ok(message) => Self { name, success: Some(true), message },
            Err(error) => Self { name, success: Some(false), message: error.message().to_owned() },
        }
    }
}

/// Looks at the server, the collection, the repository and Milvus's storage, as far as each is configured.
///
/// # Errors
/// [`Kind::Canceled`] alone: everything else is a finding.
pub async fn check(session: &Session, request: CheckRequest, control: &Control) -> Result<Value> {
    let collection = request.collection_name.as_deref();
    let clock = Clock { control, limit: deadline(request.timeout_seconds) };
    control.enter(Phase::Verifying);
    let mut findings = Vec::new();
    let mut client = None;
    // Side by side: a server that does not answer takes all of the time.
    let (connected, stored) = tokio::join!(clock.wait(session.client()), repository(session, &clock));
    if session.server.is_some() {
        let outcome = connected?;
        client = outcome.as_ref().ok().cloned();
        findings.push(Finding::of("server", outcome.map(|client| server(&client))));
    }
    if let Some((client, name)) = client.as_ref().zip(collection) {
        let described = clock.wait(client.describe(name)).await?;
        findings.push(Finding::of("collection", described.map(|found| told_of(&found))));
    }
    findings.extend(stored?);
    if session.milvus_storage.is_some() {
        findings.push(match &client {
            Some(client) => clock.find("milvus_storage", milvus_storage(session, client, collection)).await?,
            None => unknown("whether it is this server's cannot be told without the server".to_owned()),
        });
    }
    if let Some(address) = &session.milvus_management {
        findings.push(clock.find("milvus_management", management(address, client.as_ref(), collection)).await?);
    }
    control.enter(Phase::Done);
    Ok(json!({"success": findings.iter().all(|found| found.success != Some(false)), "checks": findings}))
}

/// What is left of the time that the check may take.
struct Clock<'a> {
    control: &'a Control,
    limit: Option<Instant>,
}

impl Clock<'_> {
    /// What became of `work`; that it was not done in time is an outcome too.
    fn wait<'w, T: Send + 'w>(
        &'w self,
        work: impl Future<Output = Result<T>> + Send + 'w,
    ) -> BoxFuture<'w, Result<Result<T>>> {
        let outcome = async move {
            match self.control.guard(self.limit, work).await {
                Err(error) if error.kind() == Kind::Canceled => Err(error),
                Err(error) if error.kind() == Kind::Timeout => {
                    Ok(Err(error.saying("no answer came in the time allowed")))
                }
                outcome => Ok(outcome),
            }
        };
        outcome.boxed()
    }

    async fn find(&self, name: &'static str, work: impl Future<Output = Finding> + Send) -> Result<Finding> {
        let found = self.wait(async { Ok(work.await) }).await?;
        Ok(found.unwrap_or_else(|error| Finding::of(name, Err(error))))
    }
}

async fn repository(session: &Session, clock: &Clock<'_>) -> Result<Option<Finding>> {
    let Ok(repository) = session.repository() else { return Ok(None) };
    let store = repository.store();
    let checked = clock.wait(store.check()).await?;
    Ok(Some(Finding::of("repository", checked.map(|()| told(store)))))
}

fn told_of(collection: &Collection) -> String {
    let (fields, partitions) = (collection.schema.fields.len(), collection.partitions.len());
    format!("'{}' has {fields} fields and {partitions} partitions", collection.name)
}

fn server(client: &Client) -> String {
    let kind = client.kind().name();
    format!("{} answers: Milvus {} ({kind}), database '{}'", client.label(), client.version(), client.database())
}

fn told(store: &Store) -> String {
    let access = if store.require_writable("").is_ok() { "can be read and written" } else { "can be read" };
    let room = store.available_bytes().map(|bytes| format!(", {} MiB are free", bytes >> 20)).unwrap_or_default();
    format!("{} {access}{room}", store.display(""))
}

fn unknown(message: String) -> Finding {
    Finding { name: "milvus_storage", success: None, message }
}

/// Asks for a pause of a second, which does no harm.
async fn management(address: &str, client: Option<&Client>, collection: Option<&str>) -> Finding {
    let name = "milvus_management";
    let outcome = async {
        let management = Management::at(address)?;
        let collection = match client.zip(collection) {
            Some((client, collection)) => client.number(collection).await?,
            None => ALL_COLLECTIONS,
        };
        let Some(ticket) = management.pause(collection, 1).await? else {
            let message = format!("{address} answers, and this version of Milvus cannot be asked to keep files");
            return Ok(Finding { name, success: None, message });
        };
        management.resume(&ticket).await?;
        Ok(Finding::of(name, Ok(format!("{address} can be asked to keep files while they are copied"))))
    };
    outcome.await.unwrap_or_else(|error| Finding::of(name, Err(error)))
}

async fn milvus_storage(session: &Session, client: &Client, collection: Option<&str>) -> Finding {
    let outcome = async {
        let storage = session.milvus_storage()?;
        let Some((name, segment)) = some_segment(client, collection).await? else {
            storage.list_folders("").await?;
            return Ok(unknown(format!(
                "{} answers; whether this server writes there cannot be told before a collection has rows and was flushed",
                storage.display("")
            )));
        };
        let folder = insert_folder(&segment);
        let found = storage.list(&folder).await?;
        if !found.is_empty() {
            let message = format!("{} holds segment {} of '{name}'", storage.display(""), segment.id);
            return Ok(Finding::of("milvus_storage", Ok(message)));
        }
        Err(misplaced(session, &storage, &name, &segment).await)
    };
    outcome.await.unwrap_or_else(|error| Finding::of("milvus_storage", Err(error)))
}

/// A segment whose files have to be there, if there is one.
async fn some_segment(client: &Client, collection: Option<&str>) -> Result<Option<(String, Segment)>> {
    let names = match collection {
        Some(name) => vec![name.to_owned()],
        None => client.collections().await?,
    };
    for name in names {
        let segments = client.segments(&name).await?;
        let written = segments.into_iter().find(|one| one.state == SegmentState::Flushed && one.rows > 0);
        if let Some(segment) = written {
            return Ok(Some((name, segment)));
        }
    }
    Ok(None)
}

/// Says which part of the setting is wrong, and what it should be where that can be found.
async fn misplaced(session: &Session, storage: &Store, name: &str, segment: &Segment) -> Error {
    let at = storage.display("");
    let folders = storage.list_folders("").await.unwrap_or_default();
    let collection = segment.collection.to_string();
    let wrong = |why: String| {
        Error::new(Kind::Storage, format!("milvus_storage is {at}, but {why}"))
            .with("storage_path", at.as_str())
            .with("segment_id", segment.id)
    };
    if has(storage, "insert_log", &collection).await {
        return wrong(format!(
            "it has files of '{name}' and none of segment {}, which this server has: it is an older copy, or files are lost",
            segment.id
        ));
    }
    if let Some(place) = elsewhere(session, storage, &folders, &collection).await {
        return wrong(format!(
            "the files of '{name}' are in {place}: the root path is wrong, set milvus_storage to that"
        ));
    }
    if !folders.iter().any(|folder| folder == "insert_log") {
        return wrong(format!(
            "there is no insert_log in it, where this server has files of '{name}': the bucket or the folder is wrong, or \
             the root path in it (minio.bucketName and minio.rootPath, or localStorage.path, in the server's milvus.yaml)"
        ));
    }
    wrong(format!(
        "its insert_log has no folder {collection}, which is '{name}': it is the storage of another Milvus, so bucket or \
         folder are wrong"
    ))
}

/// Where the collection's files are instead: a folder above, beside or below.
async fn elsewhere(session: &Session, storage: &Store, folders: &[String], collection: &str) -> Option<String> {
    for folder in folders.iter().take(LOOKED_INTO) {
        if has(storage, &format!("{folder}/insert_log"), collection).await {
            return Some(storage.display(folder));
        }
    }
    let config = session.milvus_storage.as_ref()?;
    let (above, _) = config.root.trim_end_matches('/').rsplit_once('/').filter(|(above, _)| !above.ends_with('/'))?;
    let above = Store::open(above, &config.options).ok()?.read_only();
    if has(&above, "insert_log", collection).await {
        return Some(above.display(""));
    }
    for folder in above.list_folders("").await.ok()?.iter().take(LOOKED_INTO) {
        if has(&above, &format!("{folder}/insert_log"), collection).await {
            return Some(above.display(folder));
        }
    }
    None
}

async fn has(storage: &Store, folder: &str, name: &str) -> bool {
    storage.list_folders(folder).await.is_ok_and(|names| names.iter().any(|known| known == name))
}
