//! Git connections of projects. A connection is for the repositories of one server only.

use super::{Draft, Project, Refused};
use crate::{connection::git::GitConnection, repository::Endpoint, types::GitConnectionId};

/// Scheme, host and port of a repository, as connections have it; `None` for a path.
pub(super) fn server_url(repository_url: &str) -> Option<String> {
    Endpoint::of(repository_url).map(|it| it.to_string())
}

/// Returns the id of a connection, if there is one; refuses one for another server than that of the
/// repository.
pub(super) fn id_for(
    connection: Option<&GitConnection>,
    repository_url: &str,
) -> Result<Option<GitConnectionId>, Refused> {
    match connection {
        Some(it) if server_url(repository_url).as_deref() != Some(it.server_url.as_str()) => {
            Err(Refused::ConnectionForOtherServer(it.server_url.clone()))
        }
        connection => Ok(connection.map(|it| it.id)),
    }
}

impl Draft {
    /// Refuses a connection for another server than that of the repository, or in addition to a token.
    pub fn require_connection(&self, connection: &GitConnection) -> Result<(), Refused> {
        if self.repository_token.is_some() {
            return Err(Refused::TokenWithConnection);
        }
        id_for(Some(connection), &self.repository_url).map(|_| ())
    }

    /// Server whose default connection the project gets; `None` if the draft has a credential, or the
    /// repository is a path.
    pub fn default_connection_server(&self) -> Option<String> {
        let has_credential = self.repository_token.is_some() || self.git_connection_id.is_some();
        if has_credential { None } else { server_url(&self.repository_url) }
    }
}

/// Requested change of the connection of a project.
#[derive(Clone, Copy)]
pub enum ConnectionChange<'a> {
    Keep,
    Set(&'a GitConnection),
    Remove,
}

impl Project {
    /// Applies a change of the connection. Returns true if the stored token must be removed, because a
    /// connection replaces it.
    pub(super) fn apply_connection_change(
        &mut self,
        change: &ConnectionChange<'_>,
    ) -> Result<bool, Refused> {
        match change {
            ConnectionChange::Keep => {}
            ConnectionChange::Set(connection) => {
                self.git_connection_id = id_for(Some(*connection), &self.repository_url)?;
            }
            ConnectionChange::Remove => self.git_connection_id = None,
        }
        Ok(self.git_connection_id.is_some())
    }
}
