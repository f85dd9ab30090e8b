//! Messages of runners: heartbeats, leases, and results of tasks.

pub mod wire;

use chassis::key;
use data_encoding::HEXLOWER;

use crate::{
    addon::DesiredAddon,
    connection::git::GitConnection,
    environment::{Environment, report::Report},
    project::Project,
    server::Machine,
    task::{Observed, Outcome, Task, lease::LeaseRef},
    types::{EnvironmentId, ServerId, TaskId},
    variable::Variable,
};

/// A runner whose credential was checked.
#[derive(Clone, Copy, Debug)]
pub struct AuthenticatedRunner {
    pub server_id: ServerId,
    /// True for the runner of a shared server.
    pub shared: bool,
}

/// A heartbeat.
pub struct Heartbeat {
    pub machine: Machine,
    /// Valid reports, at most one for each environment.
    pub reports: Vec<Report>,
    pub rejected_reports: Vec<RejectedReport>,
    /// Leases of the tasks that the runner works on.
    pub leases: Vec<LeaseRef>,
    /// Version of the custom domains that the runner serves.
    pub domains_version: String,
}

/// An invalid report about an environment.
#[derive(Debug, PartialEq, Eq)]
pub struct RejectedReport {
    /// Id of the environment as reported, sanitized.
    pub environment_id: String,
    pub reason: String,
}

/// A verified custom domain of an environment.
#[derive(Clone, Debug)]
pub struct ServedDomain {
    pub environment_id: EnvironmentId,
    pub hostname: String,
}

/// Verified custom domains of the environments of a server.
#[derive(Debug, Default)]
pub struct ServedDomains {
    /// SHA-256 of the list, in hexadecimal.
    pub version: String,
    /// Sorted by environment; `None`: the runner has this version.
    pub domains: Option<Vec<ServedDomain>>,
}

impl ServedDomains {
    /// Returns the list for a runner that has `known_version`.
    pub fn new(domains: Vec<ServedDomain>, known_version: &str) -> Self {
        let lines: String =
            domains.iter().map(|it| format!("{} {}\n", it.environment_id, it.hostname)).collect();
        let version = HEXLOWER.encode(&key::hash(lines.as_bytes()));
        let domains = (version != known_version).then_some(domains);
        Self { version, domains }
    }
}

/// Result of a heartbeat, for the runner.
#[derive(Default)]
pub struct HeartbeatResult {
    /// Tasks that the runner must cancel.
    pub cancelled_task_ids: Vec<TaskId>,
    /// Tasks whose lease has ended.
    pub lost_task_ids: Vec<TaskId>,
    /// Reported environments that do not exist on this server, and whose files the runner must delete.
    pub unknown_environment_ids: Vec<EnvironmentId>,
    pub rejected_reports: Vec<RejectedReport>,
    pub served_domains: ServedDomains,
}

/// A leased task, with everything that its runner needs.
pub struct LeasedTask {
    pub task: Task,
    pub environment: Environment,
    pub project: Project,
    /// Connection with which the repository is fetched.
    pub connection: Option<GitConnection>,
    /// Source of a clone.
    pub source: Option<Environment>,
    pub variables: Vec<Variable>,
    pub addons: Vec<DesiredAddon>,
    /// Address of a connected server; empty for a shared one.
    pub server_address: String,
}

/// Result of a task, as its runner reports it.
pub struct TaskReport {
    pub outcome: Outcome,
    /// State of the program after a task that failed or was cancelled; `None` if it is unknown.
    pub observed: Option<Observed>,
    /// First line of the message of the deployed commit.
    pub commit_subject: String,
    pub commit_author: String,
}
