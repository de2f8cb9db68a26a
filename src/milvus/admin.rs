//! Everything about collections but their rows: describe, create, rename, drop, partitions, aliases, indexes, loading.
//!
//! Calls that change something are repeated after a lost answer only where a second attempt cannot do harm, and then
//! "already so" counts as done.

use std::time::Duration;

use futures::FutureExt;
use prost::Message;
use tokio::time::Instant;

use super::client::{Client, ServerKind, rpc};
use super::{describe, proto, status};
use crate::error::{Error, Kind, Result};
use crate::schema::{Collection, Index};

/// `GetLoadState`: there is no such collection.
const LOAD_STATE_MISSING: i32 = 0;
/// `GetLoadState`: nothing of it is loaded, nor about to be.
const LOAD_STATE_NOT_LOADED: i32 = 1;
/// `GetLoadState`: all its rows can be queried.
const LOAD_STATE_LOADED: i32 = 3;
/// `IndexDescription.state` of an index that could not be built.
const INDEX_STATE_FAILED: i32 = 4;

impl Client {
    /// Names of the databases.
    pub async fn databases(&self) -> Result<Vec<String>> {
        let answer = self.ask("listing databases", rpc!(list_databases, proto::Empty {})).await?;
        Ok(answer.db_names)
    }

    /// Names of the collections in this database, in order.
    pub async fn collections(&self) -> Result<Vec<String>> {
        let request = proto::DatabaseRequest { db_name: self.db() };
        let answer = self.ask("listing collections", rpc!(show_collections, request)).await?;
        let mut names = answer.collection_names;
        names.sort_unstable();
        Ok(names)
    }

    /// Whether there is a collection, or an alias, of that name.
    pub async fn exists(&self, name: &str) -> Result<bool> {
        match self.describe_only(name).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == Kind::CollectionNotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The collection as it is now: schema, partitions, aliases. Given an alias, describes what it points at, under that
    /// collection's own name.
    ///
    /// # Errors
    /// [`Kind::CollectionNotFound`] names the collections that there are; [`Kind::SchemaIncompatible`] for a field of a
    /// type that this version does not know.
    pub async fn describe(&self, name: &str) -> Result<Collection> {
        let (name, answer) = self.look_up(name).await?;
        let name = name.as_str();
        let mut collection = describe::collection(self.database(), answer, name)?;
        let request = self.collection_request(name);
        let answer = self.ask("listing partitions", rpc!(show_partitions, request)).await?;
        collection.partitions = answer.partition_names;
        if collection.aliases.is_empty() {
            let request = self.collection_request(name);
            let aliases = self.ask("listing aliases", rpc!(list_aliases, request)).await;
            collection.aliases = match aliases {
                Ok(answer) => answer.aliases,
                Err(error) if status::unimplemented(&error) => Vec::new(),
                Err(error) => return Err(error),
            };
        }
        collection.aliases.sort_unstable();
        Ok(collection)
    }

    /// The own name of the collection that goes by `name`, which may be an alias.
    ///
    /// # Errors
    /// As [`Client::describe`].
    pub async fn own_name(&self, name: &str) -> Result<String> {
        Ok(self.look_up(name).await?.0)
    }

    /// A collection's own name, and its description. Both servers tell it in the schema, and of a renamed collection its
    /// new one; beside the schema, 2.3.5 repeats what it was asked for.
    async fn look_up(&self, name: &str) -> Result<(String, proto::DescribeCollectionResponse)> {
        let answer = match self.describe_only(name).await {
            Err(error) if error.kind() == Kind::CollectionNotFound => return Err(self.no_such_collection(name).await),
            outcome => outcome?,
        };
        let own = answer.schema.as_ref().map(|schema| schema.name.clone()).filter(|own| !own.is_empty() && own != name);
        let Some(own) = own else { return Ok((name.to_owned(), answer)) };
        let known = self.collections().await?;
        match [name, &own].into_iter().find(|some| known.iter().any(|known| known == some)) {
            Some(found) => Ok((found.to_owned(), answer)),
            None => Err(self.no_such_collection(name).await),
        }
    }

    /// The server's own number of a collection, which one that is made anew under the same name does not get; `None`
    /// where the server gives none (Milvus Lite).
    pub async fn collection_number(&self, name: &str) -> Result<Option<i64>> {
        Ok(Some(self.describe_only(name).await?.collection_id).filter(|number| *number != 0))
    }

    pub(super) async fn describe_only(&self, name: &str) -> Result<proto::DescribeCollectionResponse> {
        let request = self.collection_request(name);
        self.ask(&format!("describing collection '{name}'"), rpc!(describe_collection, request)).await
    }

    async fn no_such_collection(&self, name: &str) -> Error {
        let known = self.collections().await.unwrap_or_default();
        let shown = if known.is_empty() {
            "it has none".to_owned()
        } else {
            format!("it has: {}", known.iter().take(20).cloned().collect::<Vec<_>>().join(", "))
        };
        Error::new(
            Kind::CollectionNotFound,
            format!("there is no collection '{name}' in database '{}' of {}; {shown}", self.database(), self.label()),
        )
        .with("collection_name", name)
        .with("available_collections", known)
    }

    /// The collection's index definitions, by field.
    pub async fn indexes(&self, name: &str) -> Result<Vec<Index>> {
        let mut found: Vec<Index> = self.index_descriptions(name).await?.into_iter().map(describe::index).collect();
        found.sort_by(|a, b| (&a.field, &a.name).cmp(&(&b.field, &b.name)));
        Ok(found)
    }

    pub(super) async fn index_descriptions(&self, name: &str) -> Result<Vec<proto::IndexDescription>> {
        /// `Status.code` and the older `Status.error_code` of "there is no index".
        const NO_INDEX: [(&str, i64); 2] = [("milvus_code", 700), ("milvus_error_code", 25)];
        let request =
            proto::IndexRequest { db_name: self.db(), collection_name: name.to_owned(), ..Default::default() };
        let answer = self.ask(&format!("describing the indexes of '{name}'"), rpc!(describe_index, request)).await;
        match answer {
            Ok(answer) => Ok(answer.index_descriptions),
            Err(error)
                if NO_INDEX.iter().any(|(key, code)| {
                    error.details().get(*key).and_then(serde_json::Value::as_i64) == Some(*code)
                }) =>
            {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// Creates a collection `name` with the fields, shards, consistency level and properties of `like`, and its
    /// partitions (none where there is a partition key: then their number is asked for).
    ///
    /// # Errors
    /// [`Kind::SchemaIncompatible`] where the server refuses the schema.
    ///
    /// Dropped on the way, the request is still carried through: see [`Client::drop_collection`].
    pub async fn create_collection(&self, name: &str, like: &Collection) -> Result<()> {
        let (client, own_name, like) = (self.clone(), name.to_owned(), like.clone());
        self.making().carry_through(name, async move { client.make_collection(&own_name, &like).await }).await
    }

    async fn make_collection(&self, name: &str, like: &Collection) -> Result<()> {
        let by_key = like.has_partition_key();
        let request = proto::CreateCollectionRequest {
            db_name: self.db(),
            collection_name: name.to_owned(),
            schema: describe::schema_to_wire(name, &like.schema).encode_to_vec().into(),
            shards_num: like.shards,
            consistency_level: like.consistency_level,
            properties: describe::pairs_to_wire(&like.properties),
            num_partitions: if by_key { spread(like) } else { 0 },
        };
        let doing = format!("creating collection '{name}'");
        let made = self.ask_for_once(&doing, rpc!(create_collection, request), || self.exists(name).boxed()).await;
        made.map_err(incompatible)?;
        if !by_key {
            for partition in like.partitions.iter().filter(|partition| *partition != "_default") {
                self.create_partition(name, partition).await.map_err(incompatible)?;
            }
        }
        Ok(())
    }

    /// Creates a partition.
    pub async fn create_partition(&self, collection: &str, partition: &str) -> Result<()> {
        let request = proto::PartitionRequest {
            db_name: self.db(),
            collection_name: collection.to_owned(),
            partition_name: partition.to_owned(),
        };
        let there = || {
            async {
                let partitions = self.collection_request(collection);
                let answer = self.ask("listing partitions", rpc!(show_partitions, partitions)).await?;
                Ok(answer.partition_names.iter().any(|name| name == partition))
            }
            .boxed()
        };
        self.ask_for_once(&format!("creating partition '{partition}'"), rpc!(create_partition, request), there).await
    }

    /// Drops a collection; one that is not there is fine. One that this client is just making is waited for: dropped
    /// before that, it would come into being after all, and stay.
    pub async fn drop_collection(&self, name: &str) -> Result<()> {
        self.making().settled(name).await;
        let request = self.collection_request(name);
        match self.ask(&format!("dropping collection '{name}'"), rpc!(drop_collection, request)).await {
            Err(error) if error.kind() == Kind::CollectionNotFound => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Renames a collection; works while it is loaded, and its aliases follow (both servers). Where the answer is
    /// lost, what the server shows decides whether it happened.
    pub async fn rename_collection(&self, from: &str, to: &str) -> Result<()> {
        let request = proto::RenameCollectionRequest {
            db_name: self.db(),
            old_name: from.to_owned(),
            new_name: to.to_owned(),
            ..Default::default()
        };
        let doing = format!("renaming collection '{from}' to '{to}'");
        let renamed = || async { Ok(!self.exists(from).await? && self.exists(to).await?) }.boxed();
        self.ask_for_once(&doing, rpc!(rename_collection, request), renamed).await
    }

    /// Points an alias at a collection, whether it exists already or not.
    pub async fn set_alias(&self, alias: &str, collection: &str) -> Result<()> {
        let request = self.alias_request(alias, collection);
        let doing = format!("pointing alias '{alias}' at '{collection}'");
        match self.ask(&doing, rpc!(alter_alias, request)).await {
            Err(error) if !error.is_temporary() => self.create_alias(alias, collection).await,
            outcome => outcome.map(drop),
        }
    }

    /// Creates an alias.
    ///
    /// # Errors
    /// [`Kind::Server`] also where there is an alias or a collection of that name.
    pub async fn create_alias(&self, alias: &str, collection: &str) -> Result<()> {
        let request = self.alias_request(alias, collection);
        let there = || async { Ok(self.describe(collection).await?.aliases.iter().any(|name| name == alias)) }.boxed();
        let doing = format!("creating alias '{alias}' of '{collection}'");
        self.ask_for_once(&doing, rpc!(create_alias, request), there).await
    }

    fn alias_request(&self, alias: &str, collection: &str) -> proto::AliasRequest {
        proto::AliasRequest { db_name: self.db(), collection_name: collection.to_owned(), alias: alias.to_owned() }
    }

    /// Asks for an index; the server builds it in the background.
    pub async fn create_index(&self, collection: &str, index: &Index) -> Result<()> {
        let request = proto::CreateIndexRequest {
            db_name: self.db(),
            collection_name: collection.to_owned(),
            field_name: index.field.clone(),
            extra_params: describe::index_params_to_wire(&index.params, self.kind()),
            index_name: index.name.clone(),
        };
        let there =
            || async { Ok(self.indexes(collection).await?.iter().any(|made| made.field == index.field)) }.boxed();
        let doing = format!("creating index '{}' on field '{}'", index.name, index.field);
        self.ask_for_once(&doing, rpc!(create_index, request), there).await
    }

    /// Drops an index; the collection must not be loaded.
    pub async fn drop_index(&self, collection: &str, index: &Index) -> Result<()> {
        let request = proto::IndexRequest {
            db_name: self.db(),
            collection_name: collection.to_owned(),
            field_name: index.field.clone(),
            index_name: index.name.clone(),
        };
        self.ask(&format!("dropping index '{}' on field '{}'", index.name, index.field), rpc!(drop_index, request))
            .await?;
        Ok(())
    }

    /// Whether all rows can be queried.
    pub async fn is_loaded(&self, collection: &str) -> Result<bool> {
        Ok(self.load_state(collection).await? == LOAD_STATE_LOADED)
    }

    async fn load_state(&self, collection: &str) -> Result<i32> {
        let request = proto::LoadStateRequest {
            db_name: self.db(),
            collection_name: collection.to_owned(),
            partition_names: Vec::new(),
        };
        let doing = format!("asking whether '{collection}' is loaded");
        let answer = self.ask(&doing, rpc!(get_load_state, request)).await?;
        if answer.state == LOAD_STATE_MISSING {
            return Err(Error::new(Kind::CollectionNotFound, format!("there is no collection '{collection}'"))
                .with("collection_name", collection));
        }
        Ok(answer.state)
    }

    /// Loads a collection into memory and waits until all rows can be queried. Milvus (but not Lite) needs an index
    /// on each vector field for this.
    ///
    /// A server that says it is neither loaded nor being loaded is asked again: Milvus Lite opens a renamed collection
    /// twice where two clients ask for it in the same moment, loads one of the two, and goes on with the other.
    ///
    /// # Errors
    /// [`Kind::Server`], with what the server said of an index that could not be built, or when `limit` is over.
    pub async fn load(&self, collection: &str, limit: Duration) -> Result<()> {
        let request = proto::LoadCollectionRequest {
            db_name: self.db(),
            collection_name: collection.to_owned(),
            replica_number: 1,
        };
        let doing = format!("loading collection '{collection}'");
        self.ask(&doing, rpc!(load_collection, request)).await?;
        let end = Instant::now() + limit;
        let mut pause = Duration::from_millis(20);
        loop {
            match self.load_state(collection).await? {
                LOAD_STATE_LOADED => return Ok(()),
                LOAD_STATE_NOT_LOADED => drop(self.ask(&doing, rpc!(load_collection, request)).await?),
                _ => {}
            }
            if Instant::now() > end {
                return Err(Error::new(
                    Kind::Server,
                    format!(
                        "collection '{collection}' was not loaded within {} s; look at the server's memory and its query nodes",
                        limit.as_secs()
                    ),
                ));
            }
            if let Some(failed) =
                self.index_descriptions(collection).await?.into_iter().find(|index| index.state == INDEX_STATE_FAILED)
            {
                return Err(Error::new(
                    Kind::Server,
                    format!(
                        "index '{}' of '{collection}' could not be built: {}",
                        failed.index_name, failed.index_state_fail_reason
                    ),
                ));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// Takes a collection out of memory.
    pub async fn release(&self, collection: &str) -> Result<()> {
        let request = self.collection_request(collection);
        self.ask(&format!("releasing collection '{collection}'"), rpc!(release_collection, request)).await?;
        Ok(())
    }

    /// Makes everything inserted so far durable on the server, and waits until it says so. Answers with the hybrid
    /// timestamp up to which that holds, where the server tells one (Milvus Lite tells none).
    pub async fn flush(&self, collection: &str, limit: Duration) -> Result<Option<u64>> {
        let request = proto::FlushRequest { db_name: self.db(), collection_names: vec![collection.to_owned()] };
        let doing = format!("flushing collection '{collection}'");
        let answer = self.ask(&doing, rpc!(flush, request)).await?;
        if self.kind() == ServerKind::Lite {
            return Ok(None); // answers when done, and knows no GetFlushState
        }
        let state = proto::GetFlushStateRequest {
            segment_ids: answer.coll_seg_ids.get(collection).map(|ids| ids.data.clone()).unwrap_or_default(),
            flush_ts: answer.coll_flush_ts.get(collection).copied().unwrap_or_default(),
            db_name: self.db(),
            collection_name: collection.to_owned(),
        };
        let end = Instant::now() + limit;
        let mut pause = Duration::from_millis(20);
        while !self.ask(&doing, rpc!(get_flush_state, state)).await?.flushed {
            if Instant::now() > end {
                return Err(
                    Error::new(Kind::Server, format!("{doing}: not flushed within {} s", limit.as_secs())).temporary()
                );
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
        Ok(Some(state.flush_ts).filter(|timestamp| *timestamp != 0))
    }

    pub(super) fn db(&self) -> String {
        self.database().to_owned()
    }

    pub(super) fn collection_request(&self, name: &str) -> proto::CollectionRequest {
        proto::CollectionRequest { db_name: self.db(), collection_name: name.to_owned() }
    }
}

/// A refusal of the schema by the server itself: before any row, and so told like those that we find ourselves.
fn incompatible(error: Error) -> Error {
    if error.is_temporary() || error.kind() != Kind::Server || !error.details().contains_key("milvus_code") {
        return error;
    }
    let reason = error.message().to_owned();
    error.into_kind(Kind::SchemaIncompatible).with("incompatibilities", vec![reason])
}

/// Into how many partitions a partition key spreads the rows. Milvus Lite has `_default` beside them.
fn spread(like: &Collection) -> i64 {
    let count = like.partitions.iter().filter(|name| *name != "_default").count();
    i64::try_from(count).unwrap_or(0)
}
