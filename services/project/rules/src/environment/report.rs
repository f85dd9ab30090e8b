//! Reports of runners about the environments on their server.

use chassis::{OrgId, ProjectId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::State;
use crate::{
    task::Observed,
    types::{EnvironmentId, ProjectRef},
};

/// Report about an environment in a heartbeat.
pub struct Report {
    pub environment_id: EnvironmentId,
    /// `None`: the runner has not observed the program.
    pub observed: Option<Observed>,
    pub http_ok: bool,
    pub cpu_cores: f64,
    pub memory_bytes: i64,
    pub disk_bytes: i64,
    pub process_count: i32,
    /// Id of the task that deployed the running release.
    pub release: Option<Uuid>,
    /// Cause of a failure.
    pub detail: String,
}

/// Last stored report about an environment, with the properties of its server.
pub struct StoredReport {
    pub observed: Observed,
    pub http_ok: bool,
    pub cpu_cores: f64,
    pub memory_bytes: i64,
    pub disk_bytes: i64,
    pub process_count: i32,
    pub limits: String,
    pub isolation: String,
    pub reported_at: OffsetDateTime,
}

/// An environment on a server, and its stored state.
pub struct PlacedEnvironment {
    pub id: EnvironmentId,
    pub org_id: OrgId,
    pub project_id: ProjectId,
    pub state: State,
}

impl PlacedEnvironment {
    pub fn project_ref(&self) -> ProjectRef {
        ProjectRef { org_id: self.org_id, project_id: self.project_id }
    }

    /// True if the program of a RUNNING environment has failed.
    pub fn has_failed(&self, observed: Observed) -> bool {
        self.state == State::Running && observed == Observed::Failed
    }
}
