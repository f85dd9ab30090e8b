//! Updates of an environment by a person. They take effect with the next deployment or restart (PE-22).

use api::project as pb;
use chassis::{Changed, Error, Result};
use time::OffsetDateTime;

use super::{Environment, Refused, State, state_machine::Operation};
use crate::{resources::Resources, types::ServerId};

/// New values of fields; `None` leaves a field unchanged.
#[derive(Default)]
pub struct Patch {
    pub name: Option<String>,
    pub branch: Option<String>,
    pub auto_deploy: Option<bool>,
    pub resources: Option<Resources>,
    pub server_id: Option<ServerId>,
}

impl Patch {
    /// True if the patch changes which code is deployed, or whether pushes deploy it.
    pub fn changes_deployment(&self) -> bool {
        self.branch.is_some() || self.auto_deploy.is_some()
    }
}

impl Environment {
    /// Applies a patch, in any state but DESTROYING. `disk_used_bytes`: last reported size of its files,
    /// below which the disk quota cannot be set (PE-23). `None`: every field already has its new value.
    pub fn update(
        mut self,
        patch: Patch,
        etag: &str,
        disk_used_bytes: i64,
        now: OffsetDateTime,
    ) -> Result<Option<Changed<Self>>> {
        if !etag.is_empty() && etag != self.etag() {
            return Err(Refused::Stale.into());
        }
        self.condition().transition(Operation::Update)?;
        let old = pb::Environment::from(&self);
        if let Some(resources) = patch.resources {
            if i64::from(resources.disk_gb) << 30 < disk_used_bytes {
                let used_gb = disk_used_bytes.div_euclid(1 << 30) + 1;
                let description =
                    format!("must be at least {used_gb}: the files already take {used_gb} GB");
                return Err(Error::invalid("resources.disk_gb", description));
            }
            self.cpu_millis = resources.cpu_millis;
            self.memory_mb = resources.memory_mb;
            self.disk_gb = resources.disk_gb;
        }
        if let Some(server_id) = patch.server_id.filter(|it| Some(*it) != self.server_id) {
            if self.state != State::Pending {
                let description = "cannot be changed after the first deployment, because the data stays on \
                                   the server; clone the environment instead";
                return Err(Error::invalid("server_id", description));
            }
            self.server_id = Some(server_id);
        }
        self.name = patch.name.unwrap_or(self.name);
        self.branch = patch.branch.unwrap_or(self.branch);
        self.auto_deploy = patch.auto_deploy.unwrap_or(self.auto_deploy);
        if pb::Environment::from(&self) == old {
            return Ok(None);
        }
        self.updated_at = now;
        let event = pb::EnvironmentUpdated { before: Some(old), after: Some((&self).into()) };
        let target = self.event_target();
        Ok(Some(Changed::new(self, &event, target)))
    }
}
