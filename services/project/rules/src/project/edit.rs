//! Updates of a project by a person. They take effect with the next deployment (PE-6, PE-7).

use api::project as pb;
use chassis::Changed;
use time::OffsetDateTime;

use super::{Project, Refused, State};
use crate::{environment::production::DeployRole, types::ServerId};

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
}

impl Project {
    /// Applies a patch. `None`: every field already has its new value.
    pub fn update(
        mut self,
        patch: Patch,
        etag: &str,
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
        if pb::Project::from(&self) == old {
            return Ok(None);
        }
        self.updated_at = now;
        let event = pb::ProjectUpdated { before: Some(old), after: Some((&self).into()) };
        let target = self.event_target();
        Ok(Some(Changed::new(self, &event, target)))
    }

    /// Replaces the repository from the next deployment on (PE-7).
    pub fn change_repository(
        mut self,
        url: String,
        confirm_name: &str,
        etag: &str,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        self.require_current(etag)?;
        if confirm_name != self.name {
            return Err(Refused::WrongName);
        }
        let before = Some((&self).into());
        self.repository_url = url;
        self.updated_at = now;
        let event = pb::ProjectRepositoryChanged { before, after: Some((&self).into()) };
        let target = self.event_target();
        Ok(Changed::new(self, &event, target))
    }

    fn require_current(&self, etag: &str) -> Result<(), Refused> {
        match self.state {
            State::Deleting => Err(Refused::Deleting),
            State::Active if !etag.is_empty() && etag != self.etag() => Err(Refused::Stale),
            State::Active => Ok(()),
        }
    }
}
