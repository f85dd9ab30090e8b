//! Changes of a project by hand. Nothing is deployed by them (PE-6, PE-7).

use api::project as pb;
use chassis::Changed;
use time::OffsetDateTime;

use super::{DeployRole, Project, Refused, State};
use crate::server::ServerId;

/// What changes; `None` stays.
#[derive(Default)]
pub(crate) struct Patch {
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) default_branch: Option<String>,
    pub(crate) odoo_version: Option<String>,
    #[expect(clippy::option_option, reason = "to none is a change")]
    pub(crate) server_id: Option<Option<ServerId>>,
    pub(crate) production_deploy_min_role: Option<DeployRole>,
}

impl Project {
    /// Takes the changes. `None`: nothing changes.
    pub(crate) fn edit(
        mut self,
        patch: Patch,
        etag: &str,
        now: OffsetDateTime,
    ) -> Result<Option<Changed<Self>>, Refused> {
        self.current(etag)?;
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
        let about = self.about();
        Ok(Some(Changed::new(self, &event, about)))
    }

    /// Its code comes from elsewhere from the next deployment on (PE-7).
    pub(crate) fn change_repository(
        mut self,
        url: String,
        confirm_name: &str,
        etag: &str,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        self.current(etag)?;
        if confirm_name != self.name {
            return Err(Refused::WrongName);
        }
        let before = Some((&self).into());
        (self.repository_url, self.updated_at) = (url, now);
        let event = pb::ProjectRepositoryChanged { before, after: Some((&self).into()) };
        let about = self.about();
        Ok(Changed::new(self, &event, about))
    }

    fn current(&self, etag: &str) -> Result<(), Refused> {
        match self.state {
            State::Deleting => Err(Refused::Deleting),
            State::Active if !etag.is_empty() && etag != self.etag() => Err(Refused::Stale),
            State::Active => Ok(()),
        }
    }
}
