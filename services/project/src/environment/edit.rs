//! Changes of an environment by hand. They count from its next deployment or restart on (PE-22).

use api::project as pb;
use chassis::{Changed, Error, Result};
use time::OffsetDateTime;

use super::{Environment, Refused, State, machine::Operation};
use crate::server::{Room, ServerId};

/// What changes; `None` stays.
#[derive(Default)]
pub(crate) struct Patch {
    pub(crate) name: Option<String>,
    pub(crate) branch: Option<String>,
    pub(crate) auto_deploy: Option<bool>,
    pub(crate) room: Option<Room>,
    pub(crate) server_id: Option<ServerId>,
}

impl Patch {
    /// Whether other code is deployed from now on, or by something else.
    pub(crate) fn changes_deployment(&self) -> bool {
        self.branch.is_some() || self.auto_deploy.is_some()
    }
}

impl Environment {
    /// Takes the changes, in any state but DESTROYING. `disk_used` is what its files take, as far as that is
    /// known, in bytes: it cannot shrink below that (PE-23). `None`: nothing changes.
    pub(crate) fn edit(
        mut self,
        patch: Patch,
        etag: &str,
        disk_used: i64,
        now: OffsetDateTime,
    ) -> Result<Option<Changed<Self>>> {
        if !etag.is_empty() && etag != self.etag() {
            return Err(Refused::Stale.into());
        }
        self.state.admit(self.pause_reason, Operation::Update)?;
        let old = pb::Environment::from(&self);
        if let Some(room) = patch.room {
            if i64::from(room.disk_gb) << 30 < disk_used {
                let used = disk_used.div_euclid(1 << 30) + 1;
                let description = format!("its files take {used} GB already");
                return Err(Error::invalid("resources.disk_gb", description));
            }
            (self.cpu_millis, self.memory_mb, self.disk_gb) =
                (room.cpu_millis, room.memory_mb, room.disk_gb);
        }
        if let Some(server_id) = patch.server_id.filter(|it| Some(*it) != self.server_id) {
            if self.state != State::Pending {
                let description =
                    "it was deployed, and its data stays where it is; clone it instead";
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
        let about = self.about();
        Ok(Some(Changed::new(self, &event, about)))
    }
}
