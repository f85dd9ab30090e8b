//! Updates of a project by a person. They take effect with the next deployment (PE-6, PE-7).

use api::project as pb;
use chassis::{Changed, fold};
use time::OffsetDateTime;

pub use super::connection::ConnectionChange;
use super::{
    Project, Refused, State, connection,
    repository_token::{RepositoryToken, TokenChange},
};
use crate::{
    environment::production::DeployRole,
    repository::{split_credential, token_scope},
    types::{GitConnectionId, ServerId},
    variable::Vault,
};

/// New values of fields; `None` leaves a field unchanged.
#[derive(Default)]
pub struct Patch {
    pub name: Option<String>,
    pub description: Option<String>,
    pub default_branch: Option<String>,
    pub odoo_version: Option<String>,
    /// `Some(None)` clears the field.
    pub server_id: Option<Option<ServerId>>,
    pub production_deploy_min_role: Option<DeployRole>,
    pub repository_token: Option<TokenChange>,
    /// `Some(None)` clears the field.
    pub git_connection_id: Option<Option<GitConnectionId>>,
}

/// A new repository of a project.
pub struct NewRepository {
    pub url: String,
    pub token: Option<RepositoryToken>,
    pub git_connection_id: Option<GitConnectionId>,
}

impl Project {
    /// Applies a patch, with the connection that it names. `None`: every field already has its new value.
    pub fn update(
        mut self,
        patch: Patch,
        connection: ConnectionChange<'_>,
        etag: &str,
        vault: &Vault,
        now: OffsetDateTime,
    ) -> Result<Option<Changed<Self>>, Refused> {
        self.require_current(etag)?;
        let old = pb::Project::from(&self);
        self.name = patch.name.unwrap_or(self.name);
        self.description = patch.description.unwrap_or(self.description);
        self.default_branch = patch.default_branch.unwrap_or(self.default_branch);
        self.odoo_version = patch.odoo_version.unwrap_or(self.odoo_version);
        self.server_id = patch.server_id.unwrap_or(self.server_id);
        self.production_deploy_min_role =
            patch.production_deploy_min_role.unwrap_or(self.production_deploy_min_role);
        let token_change = self.change_with_connection(&connection, patch.repository_token)?;
        let has_token = self.repository_token.is_some();
        let token_events = self.apply_token_change(token_change, vault)?;
        let mut edited = pb::Project::from(&self);
        edited.has_repository_token = has_token;
        let is_edited = edited != old;
        self.updated_at = now;
        let after = Some((&self).into());
        let target = self.event_target();
        let changed = if is_edited {
            let event = pb::ProjectUpdated { before: Some(old), after };
            let changed = Changed::new(self, &event, target);
            changed.followed_by(token_events.set).followed_by(token_events.removed)
        } else if let Some(event) = token_events.set {
            Changed::new(self, &event, target)
        } else if let Some(event) = token_events.removed {
            Changed::new(self, &event, target)
        } else {
            return Ok(None);
        };
        Ok(Some(changed))
    }

    /// Applies a change of the connection. Returns the change of the token: a connection replaces it.
    fn change_with_connection(
        &mut self,
        connection: &ConnectionChange<'_>,
        token: Option<TokenChange>,
    ) -> Result<Option<TokenChange>, Refused> {
        let has_connection = self.apply_connection_change(connection)?;
        match token {
            Some(TokenChange::Set(_)) if has_connection => Err(Refused::TokenWithConnection),
            None if has_connection => Ok(Some(TokenChange::Remove)),
            token => Ok(token),
        }
    }

    /// Replaces the repository from the next deployment on (PE-7). Without a new token or connection, the
    /// stored one is kept for the same scheme, host and port, and removed otherwise.
    pub fn change_repository(
        mut self,
        repository: NewRepository,
        connection: ConnectionChange<'_>,
        confirm_name: &str,
        etag: &str,
        vault: &Vault,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        self.require_current(etag)?;
        if !fold::is_exact_name(confirm_name, &self.name) {
            return Err(Refused::WrongName);
        }
        let before = Some((&self).into());
        let is_same_host = token_scope(&repository.url) == token_scope(&self.repository_url);
        let is_same_server =
            connection::server_url(&repository.url) == connection::server_url(&self.repository_url);
        self.repository_url = repository.url;
        self.updated_at = now;
        let token_change = match repository.token {
            Some(token) => Some(TokenChange::Set(token)),
            None => (!is_same_host).then_some(TokenChange::Remove),
        };
        let keeps_connection = is_same_server && !matches!(token_change, Some(TokenChange::Set(_)));
        let connection = match connection {
            ConnectionChange::Keep if !keeps_connection => ConnectionChange::Remove,
            connection => connection,
        };
        let token_change = self.change_with_connection(&connection, token_change)?;
        self.repository_changed(before, token_change, vault)
    }

    /// Moves the credential in the URL of an older version into the sealed token. `None`: there is none.
    pub fn move_credential(
        mut self,
        vault: &Vault,
        now: OffsetDateTime,
    ) -> Result<Option<Changed<Self>>, Refused> {
        let Some(split) = split_credential(&self.repository_url) else { return Ok(None) };
        let before = Some((&self).into());
        self.repository_url = split.url;
        self.updated_at = now;
        let token = split.credential.as_deref().and_then(RepositoryToken::new);
        self.repository_changed(before, token.map(TokenChange::Set), vault).map(Some)
    }

    fn repository_changed(
        mut self,
        before: Option<pb::Project>,
        token_change: Option<TokenChange>,
        vault: &Vault,
    ) -> Result<Changed<Self>, Refused> {
        let token_events = self.apply_token_change(token_change, vault)?;
        let event = pb::ProjectRepositoryChanged { before, after: Some((&self).into()) };
        let target = self.event_target();
        let changed = Changed::new(self, &event, target);
        Ok(changed.followed_by(token_events.set).followed_by(token_events.removed))
    }

    fn require_current(&self, etag: &str) -> Result<(), Refused> {
        match self.state {
            State::Deleting => Err(Refused::Deleting),
            State::Active if !etag.is_empty() && etag != self.etag() => Err(Refused::Stale),
            State::Active => Ok(()),
        }
    }
}
