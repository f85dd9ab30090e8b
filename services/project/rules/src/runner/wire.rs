//! Conversion between messages of the contract and the tasks of runners. Text that a runner reports comes
//! from programs, commits and git: it is sanitized, and its length is limited.

use api::project as pb;
use chassis::{Error, Result};
use uuid::Uuid;

use super::{Heartbeat, HeartbeatResult, LeasedTask, TaskReport};
use crate::{
    environment::{Environment, report::Report},
    foreign_text::{sanitize_block, sanitize_line},
    project::Project,
    server::Machine,
    task::{
        Kind, Outcome, Task, TaskResult,
        lease::{LEASE_DURATION, LeaseRef, Progress},
        wire::observed,
    },
    types::{TaskId, optional_id_text},
    variable::Vault,
};

/// Maximum length of an error, in bytes. An event contains it up to three times.
const ERROR_BYTES_MAX: usize = 2_000;
/// Maximum length of a text about a server, in bytes.
const MACHINE_TEXT_BYTES_MAX: usize = 255;

const STEP_BYTES_MAX: usize = 200;
const SUBJECT_BYTES_MAX: usize = 200;
const AUTHOR_BYTES_MAX: usize = 200;
const URL_BYTES_MAX: usize = 500;

/// Sanitizes a text about a server.
pub fn machine_text(text: &str) -> String {
    sanitize_line(text, MACHINE_TEXT_BYTES_MAX)
}

pub fn lease_ref(task_id: &str, lease_id: &str) -> Result<LeaseRef> {
    let lease_id =
        Uuid::try_parse(lease_id).map_err(|_| Error::invalid("lease_id", "must be a UUID"))?;
    Ok(LeaseRef { task_id: task_id.parse()?, lease_id })
}

pub fn progress(it: &pb::ReportProgressRequest) -> Progress {
    Progress {
        percent: it.progress_percent,
        current_step: sanitize_line(&it.current_step, STEP_BYTES_MAX),
        steps_completed: it.steps_completed,
        total_steps: it.total_steps,
    }
}

pub fn report(it: &pb::FinishTaskRequest) -> TaskReport {
    let outcome = if it.cancelled {
        Outcome::Cancelled
    } else if !it.error_message.is_empty() {
        Outcome::Failed { error: sanitize_block(&it.error_message, ERROR_BYTES_MAX) }
    } else {
        Outcome::Completed(TaskResult {
            commit: it.commit.clone(),
            url: http_url(&it.url),
            observed: observed(it.observed()),
        })
    };
    let is_completed = matches!(outcome, Outcome::Completed(_));
    TaskReport {
        outcome,
        observed: observed(it.observed()).filter(|_| !is_completed),
        commit_subject: sanitize_line(&it.commit_subject, SUBJECT_BYTES_MAX),
        commit_author: sanitize_line(&it.commit_author, AUTHOR_BYTES_MAX),
    }
}

/// Returns a URL that people can safely open, or empty text if it is not an http or https URL.
fn http_url(url: &str) -> String {
    let is_http = ["http://", "https://"].iter().any(|it| url.starts_with(it));
    let is_clean = sanitize_line(url, URL_BYTES_MAX) == url && !url.contains(char::is_whitespace);
    if is_http && is_clean { url.to_owned() } else { String::new() }
}

/// Converts a leased task, with its secrets opened.
pub fn lease(leased: LeasedTask, vault: &Vault) -> Result<pb::Lease> {
    let LeasedTask { task, environment, project, source, variables, addons } = leased;
    // A task that only stops something must not depend on secrets, nor on their size.
    let mut program_variables = vec![];
    if task.kind.starts_program() {
        for variable in variables {
            program_variables.push(vault.open(environment.org_id, variable)?);
        }
        program_variables.extend(builtin_variables(&project, &environment, &task));
    }
    let mut provisions = vec![];
    if task.kind.starts_program() || task.kind == Kind::Provision {
        for addon in addons {
            provisions.push(addon.to_wire(environment.org_id, vault)?);
        }
    }
    let release = match task.kind {
        Kind::Deploy | Kind::Promote | Kind::Clone => Some(task.id),
        Kind::Rollback => task.deployment_id,
        _ => environment.deployment_id,
    };
    let source_release = source.as_ref().and_then(|it| it.deployment_id);
    Ok(pb::Lease {
        task_id: task.id.into(),
        lease_id: task.lease_id.map(|it| it.to_string()).unwrap_or_default(),
        environment_id: task.environment_id.into(),
        repository_url: project.repository_url,
        branch: task.branch,
        kind: pb::TaskKind::from(task.kind).into(),
        ttl: Some(prost_types::Duration { seconds: LEASE_DURATION.whole_seconds(), nanos: 0 }),
        commit: task.commit,
        release: optional_id_text(release),
        source_environment_id: optional_id_text(source.map(|it| it.id)),
        source_release: optional_id_text(source_release),
        resources: Some(environment.resources().into()),
        provisions,
        variables: program_variables,
    })
}

/// Variables that the suite sets for a program, in addition to those of the environment.
fn builtin_variables(
    project: &Project,
    environment: &Environment,
    task: &Task,
) -> Vec<pb::Variable> {
    let variables = [
        ("ENVIRONMENT", environment.kind.as_str().to_owned()),
        ("ENVIRONMENT_NAME", environment.name.clone()),
        ("ODOO_VERSION", project.odoo_version.clone()),
        ("MODULES", task.modules.join(",")),
    ];
    variables
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| pb::Variable { name: name.to_owned(), value })
        .collect()
}

impl TryFrom<&pb::EnvironmentReport> for Report {
    type Error = Error;

    fn try_from(it: &pb::EnvironmentReport) -> Result<Self> {
        Ok(Self {
            environment_id: it.environment_id.parse()?,
            observed: observed(it.observed()),
            http_ok: it.http_ok,
            cpu_cores: it.cpu_cores,
            memory_bytes: it.memory_bytes,
            disk_bytes: it.disk_bytes,
            process_count: it.process_count,
            release: Uuid::try_parse(&it.release).ok(),
            detail: sanitize_block(&it.detail, ERROR_BYTES_MAX),
            url: http_url(&it.url),
            restart_count: it.restart_count,
            last_exit_code: it.last_exit_code,
        })
    }
}

impl TryFrom<&pb::HeartbeatRequest> for Heartbeat {
    type Error = Error;

    fn try_from(it: &pb::HeartbeatRequest) -> Result<Self> {
        let machine = Machine {
            isolation: machine_text(&it.isolation),
            limits: machine_text(&it.limits),
            runner_version: machine_text(&it.version),
            database_address: machine_text(&it.database_address),
            capacity: it.capacity.as_ref().map(Into::into),
        };
        let reports = it.environments.iter().map(Report::try_from).collect::<Result<_>>()?;
        let leases = it.tasks.iter().map(|it| lease_ref(&it.task_id, &it.lease_id));
        Ok(Self { machine, reports, leases: leases.collect::<Result<_>>()? })
    }
}

impl From<HeartbeatResult> for pb::HeartbeatResponse {
    fn from(it: HeartbeatResult) -> Self {
        let task_ids = |ids: Vec<TaskId>| ids.into_iter().map(Into::into).collect();
        let unknown = it.unknown_environment_ids;
        Self {
            cancelled_task_ids: task_ids(it.cancelled_task_ids),
            lost_task_ids: task_ids(it.lost_task_ids),
            unknown_environment_ids: unknown.into_iter().map(Into::into).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_urls_are_kept() {
        for good in ["http://127.0.0.1:8069", "https://shop.example.com/x"] {
            assert_eq!(http_url(good), good);
        }
        let long = format!("https://example.com/{}", "a".repeat(500));
        for bad in ["javascript:alert(1)", "https://a b", "https://a\u{202e}b", "ftp://a", &long] {
            assert_eq!(http_url(bad), "", "{bad}");
        }
    }
}
