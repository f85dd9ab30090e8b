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
    /// URL of the program; empty while it does not run.
    pub url: String,
    /// Number of restarts of the program since a task started it.
    pub restart_count: i32,
    /// Exit code of the program when it last ended by itself.
    pub last_exit_code: Option<i32>,
    pub traffic: TrafficTotals,
    /// The certificate of its host names that expires first.
    pub certificate: Option<ServedCertificate>,
}

/// Certificate that the proxy of a server presents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedCertificate {
    pub hostname: String,
    pub start: OffsetDateTime,
    pub end: OffsetDateTime,
}

/// Traffic of an environment since a time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TrafficTotals {
    pub request_count: i64,
    pub error_count: i64,
    /// Sum of the durations of requests, in seconds.
    pub duration_s: f64,
    pub received_bytes: i64,
    pub sent_bytes: i64,
    /// Time at which the runner began to count.
    pub start: Option<OffsetDateTime>,
}

impl Report {
    /// True if the program may have a new URL, because its server has restarted it.
    pub fn has_moved(&self) -> bool {
        let is_running = self.observed == Some(Observed::Running);
        is_running && self.restart_count > 0 && !self.url.is_empty()
    }
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
    pub restart_count: i32,
    pub last_exit_code: Option<i32>,
    pub certificate_hostname: Option<String>,
    pub certificate_start_time: Option<OffsetDateTime>,
    pub certificate_end_time: Option<OffsetDateTime>,
    pub reported_at: OffsetDateTime,
}

/// An environment on a server, and its stored state.
pub struct PlacedEnvironment {
    pub id: EnvironmentId,
    pub org_id: OrgId,
    pub project_id: ProjectId,
    pub name: String,
    pub state: State,
    pub observed: Option<Observed>,
    pub url: String,
    pub memory_mb: i32,
    pub disk_gb: i32,
    /// True if the last task is a deployment that failed.
    pub deployment_failed: bool,
}

impl PlacedEnvironment {
    pub fn project_ref(&self) -> ProjectRef {
        ProjectRef { org_id: self.org_id, project_id: self.project_id }
    }

    /// True if a report differs from the stored state, so that [`Environment::correct_state`] may apply. All
    /// other changes of state are made by tasks.
    ///
    /// [`Environment::correct_state`]: super::Environment::correct_state
    pub fn differs(&self, report: &Report) -> bool {
        let has_moved = report.has_moved() && report.url != self.url;
        match self.state {
            State::Running => report.observed == Some(Observed::Failed) || has_moved,
            State::Error => report.observed != self.observed || has_moved,
            _ => false,
        }
    }
}
