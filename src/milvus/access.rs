//! Users, roles and what roles may do. Passwords cannot be had: the server keeps them hashed, and tells nobody.

use serde::{Deserialize, Serialize};

use super::client::{Client, ServerKind, rpc};
use super::{proto, status};
use crate::error::Result;

/// Who may do what on a server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Names of the users.
    pub users: Vec<String>,
    /// The roles, and who has them.
    pub roles: Vec<Role>,
    /// What each role may do.
    pub grants: Vec<Grant>,
}

/// A role.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// The users that have it.
    pub users: Vec<String>,
}

/// That a role may do something.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Grant {
    /// The role.
    pub role: String,
    /// What sort of thing it is about: `Global`, `Collection`, `User`.
    pub object: String,
    /// Which of them; `*` for all.
    pub object_name: String,
    /// What may be done, such as `Insert`.
    pub privilege: String,
    /// The database.
    pub database: String,
    /// Who granted it.
    pub grantor: String,
}

impl Client {
    /// Who may do what, in order; `None` where the server knows no such thing (Milvus Lite) or does not tell us.
    pub async fn access(&self) -> Result<Option<Access>> {
        if self.kind() == ServerKind::Lite {
            return Ok(None);
        }
        let users = match self.ask("listing users", rpc!(list_cred_users, proto::Empty {})).await {
            Err(error) if status::unimplemented(&error) || forbidden(&error) => return Ok(None),
            outcome => outcome?.usernames,
        };
        let request = proto::SelectRoleRequest { role: None, include_user_info: true };
        let roles = self.ask("listing roles", rpc!(select_role, request)).await?;
        let mut access = Access { users, ..Access::default() };
        for found in roles.results {
            let name = found.role.map(|role| role.name).unwrap_or_default();
            let mut users: Vec<String> = found.users.into_iter().map(|user| user.name).collect();
            users.sort_unstable();
            access.grants.extend(self.grants(&name).await?);
            access.roles.push(Role { name, users });
        }
        access.users.sort_unstable();
        access.roles.sort_unstable();
        access.grants.sort_unstable();
        Ok(Some(access))
    }

    async fn grants(&self, role: &str) -> Result<Vec<Grant>> {
        let entity =
            proto::GrantEntity { role: Some(proto::RoleEntity { name: role.to_owned() }), ..Default::default() };
        let request = proto::SelectGrantRequest { entity: Some(entity) };
        let doing = format!("listing what role '{role}' may do");
        let answer = self.ask(&doing, rpc!(select_grant, request)).await?;
        Ok(answer.entities.into_iter().map(grant).collect())
    }
}

fn grant(wire: proto::GrantEntity) -> Grant {
    let grantor = wire.grantor.unwrap_or_default();
    Grant {
        role: wire.role.map(|role| role.name).unwrap_or_default(),
        object: wire.object.map(|object| object.name).unwrap_or_default(),
        object_name: wire.object_name,
        privilege: grantor.privilege.map(|privilege| privilege.name).unwrap_or_default(),
        database: wire.db_name,
        grantor: grantor.user.map(|user| user.name).unwrap_or_default(),
    }
}

/// Whether the server refused us this question alone.
fn forbidden(error: &crate::error::Error) -> bool {
    error.details().get("grpc_code").is_some_and(|code| code == "PermissionDenied")
}
