//! Bulk import: the server fills a collection from files that lie in its own storage.

use super::client::{Client, rpc};
use super::proto;
use crate::error::{Error, Kind, Result};

/// What to import.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    /// The collection, which must exist.
    pub collection: String,
    /// The partition; the server wants one named where binlogs are imported.
    pub partition: String,
    /// Files, or for binlogs the two folders of insert and delete logs: absolute on local storage, keys without a slash
    /// before them in an object store.
    pub files: Vec<String>,
    /// Options such as `backup` = `true`, and `end_ts` in physical milliseconds.
    pub options: Vec<(String, String)>,
}

/// How far an import is. "Completed" does not mean that it imported anything: count the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportState {
    /// It waits or works.
    Running,
    /// It ended, with so many rows by the server's own count.
    Completed(u64),
    /// It failed, for a reason in the server's words.
    Failed(String),
}

impl Client {
    /// Starts an import; answers with the numbers of its tasks. Not repeated where its answer is lost: asked twice, the
    /// server imports twice.
    pub async fn import(&self, request: &ImportRequest) -> Result<Vec<i64>> {
        let wire = proto::ImportRequest {
            collection_name: request.collection.clone(),
            partition_name: request.partition.clone(),
            files: request.files.clone(),
            options: request
                .options
                .iter()
                .map(|(key, value)| proto::KeyValuePair { key: key.clone(), value: value.clone() })
                .collect(),
            db_name: self.db(),
        };
        let doing = format!("importing into '{}'", request.collection);
        let answer = self.ask_single(&doing, rpc!(import, wire)).await?;
        if answer.tasks.is_empty() {
            return Err(Error::new(Kind::Server, format!("{doing}: the server took the request and began no task")));
        }
        Ok(answer.tasks)
    }

    /// How far a task of an import is.
    pub async fn import_state(&self, task: i64) -> Result<ImportState> {
        let request = proto::ImportStateRequest { task };
        let answer = self.ask(&format!("asking about import {task}"), rpc!(get_import_state, request)).await?;
        Ok(read_state(answer))
    }
}

fn read_state(answer: proto::ImportStateResponse) -> ImportState {
    match answer.state {
        1 | 7 => {
            let reason = answer.infos.into_iter().find(|pair| pair.key == "failed_reason").map(|pair| pair.value);
            ImportState::Failed(reason.unwrap_or_else(|| "the server gives no reason".to_owned()))
        }
        6 => ImportState::Completed(u64::try_from(answer.row_count).unwrap_or(0)),
        _ => ImportState::Running,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_with_their_rows_and_reasons() {
        let answer = |state| proto::ImportStateResponse {
            state,
            row_count: 7,
            infos: vec![proto::KeyValuePair { key: "failed_reason".to_owned(), value: "no file".to_owned() }],
            ..Default::default()
        };
        assert_eq!(read_state(answer(6)), ImportState::Completed(7));
        for running in [0, 2, 5, 8] {
            assert_eq!(read_state(answer(running)), ImportState::Running);
        }
        assert_eq!(read_state(answer(1)), ImportState::Failed("no file".to_owned()));
    }
}
