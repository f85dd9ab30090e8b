//! Updates of a project by a person. They take effect with the next deployment (PE-6, PE-7).

use api::project as pb;
use chassis::{Changed, fold};
use time::OffsetDateTime;

use super::{
    Project, Refused, State,
    repository_token::{RepositoryToken, TokenChange},
};
use crate::{
    environment::production::DeployRole,
    repository::{split_credential, token_scope},
    types::ServerId,
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
}

/// A new repository of a project.
pub struct NewRepository {
    pub url: String,
    pub token: Option<RepositoryToken>,
}

impl Project {
    /// Applies a patch. `None`: every field already has its new value.
    pub fn update(
        mut self,
        patch: Patch,
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
        let is_edited = pb::Project::from(&self) != old;
        let token_events = self.apply_token_change(patch.repository_token, vault)?;
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

    /// Replaces the repository from the next deployment on (PE-7). Without a new token, the stored one is
    /// kept for the same scheme, host and port, and removed otherwise.
    pub fn change_repository(
        mut self,
        repository: NewRepository,
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
        self.repository_url = repository.url;
        self.updated_at = now;
        let token_change = match repository.token {
            Some(token) => Some(TokenChange::Set(token)),
            None => (!is_same_host).then_some(TokenChange::Remove),
        };
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
