//! What belongs together after a set of native backups was made: the members, and who may do what on the server.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Result, internal};
use crate::jobs::{Control, Session};
use crate::repository::sets::{Member, SetNote};

/// What to note.
#[derive(Deserialize)]
pub struct SetRequest {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    timestamp: Option<u64>,
    members: Vec<Member>,
}

/// Notes a set in the repository; answers with where, and with the server's users, roles and grants.
///
/// # Errors
/// The server's and the repository's. The members are there all the same.
pub async fn note(session: &Session, request: SetRequest, control: &Control) -> Result<Value> {
    let work = async {
        let client = session.client().await?;
        let access = client.access().await?;
        let access = serde_json::to_value(access).map_err(|error| internal(error.to_string()))?;
        let note = SetNote {
            name: request.name,
            timestamp: request.timestamp,
            milvus_version: client.version().to_owned(),
            members: request.members,
            access,
        };
        let storage_path = session.repository()?.note_set(&note).await?;
        Ok(json!({"storage_path": storage_path, "access": note.access}))
    };
    control.guard(None, work).await
}
