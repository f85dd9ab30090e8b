//! Reports of runners about the environments on their server.

pub(crate) mod store;

use chassis::{OrgId, ProjectId};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    environment::{self, EnvironmentId},
    project::ProjectRef,
    task::Observed,
};

/// Report about an environment in a heartbeat.
pub(crate) struct Report {
    pub(crate) environment_id: EnvironmentId,
    /// `None`: the runner has not observed the program.
    pub(crate) observed: Option<Observed>,
    pub(crate) http_ok: bool,
    pub(crate) cpu_cores: f64,
    pub(crate) memory_bytes: i64,
    pub(crate) disk_bytes: i64,
    pub(crate) process_count: i32,
    /// Id of the task that deployed the running release.
    pub(crate) release: Option<Uuid>,
    /// Cause of a failure.
    pub(crate) detail: String,
}

/// Last stored report about an environment, with the properties of its server.
pub(crate) struct StoredReport {
    pub(crate) observed: Observed,
    pub(crate) http_ok: bool,
    pub(crate) cpu_cores: f64,
    pub(crate) memory_bytes: i64,
    pub(crate) disk_bytes: i64,
    pub(crate) process_count: i32,
    pub(crate) limits: String,
    pub(crate) isolation: String,
    pub(crate) reported_at: OffsetDateTime,
}

/// An environment on a server, and its stored state.
pub(crate) struct PlacedEnvironment {
    pub(crate) id: EnvironmentId,
    pub(crate) org_id: OrgId,
    pub(crate) project_id: ProjectId,
    pub(crate) state: environment::State,
}

impl PlacedEnvironment {
    pub(crate) fn project_ref(&self) -> ProjectRef {
        ProjectRef { org_id: self.org_id, project_id: self.project_id }
    }

    /// True if the program of a RUNNING environment has failed.
    pub(crate) fn contradicts(&self, observed: Observed) -> bool {
        self.state == environment::State::Running && observed == Observed::Failed
    }
}
