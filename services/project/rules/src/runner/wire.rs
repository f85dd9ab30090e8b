//! Conversion between messages of the contract and the tasks of runners. Text that a runner reports comes
//! from programs, commits and git: it is sanitized, and its length is limited.

use api::project as pb;
use chassis::{Error, Result};
use uuid::Uuid;

use crate::{
    environment,
    foreign_text::{sanitize_block, sanitize_line},
    task::{
        Kind, Outcome, TaskResult,
        commands::{LeaseRef, LeasedTask, Report},
        lease::{LEASE_DURATION, Progress},
        wire::observed,
    },
    variable::Vault,
};

/// Maximum length of an error, in bytes. An event contains it up to three times.
pub(crate) const ERROR_BYTES_MAX: usize = 2_000;
const STEP_BYTES_MAX: usize = 200;
const SUBJECT_BYTES_MAX: usize = 200;
const AUTHOR_BYTES_MAX: usize = 200;
const URL_BYTES_MAX: usize = 500;

pub(crate) fn lease_ref(task_id: &str, lease_id: &str) -> Result<LeaseRef> {
    let lease_id =
        Uuid::try_parse(lease_id).map_err(|_| Error::invalid("lease_id", "must be a UUID"))?;
    Ok(LeaseRef { task_id: task_id.parse()?, lease_id })
}

pub(super) fn progress(it: &pb::ReportProgressRequest) -> Progress {
    Progress {
        percent: it.progress_percent,
        current_step: sanitize_line(&it.current_step, STEP_BYTES_MAX),
        steps_completed: it.steps_completed,
        total_steps: it.total_steps,
    }
}

pub(super) fn report(it: &pb::FinishTaskRequest) -> Report {
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
    Report {
        outcome,
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
pub(super) fn lease(leased: LeasedTask, vault: &Vault) -> Result<pb::Lease> {
    let LeasedTask { task, environment, project, source, variables, addons } = leased;
    let mut program_variables = vec![];
    for variable in variables {
        program_variables.push(vault.open(environment.org_id, variable)?);
    }
    program_variables.extend(environment::wire::builtin_variables(&project, &environment, &task));
    let mut provisions = vec![];
    for addon in addons {
        provisions.push(addon.to_wire(environment.org_id, vault)?);
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
        release: release.map(String::from).unwrap_or_default(),
        source_environment_id: source.map(|it| it.id.into()).unwrap_or_default(),
        source_release: source_release.map(String::from).unwrap_or_default(),
        resources: Some(environment.resources().into()),
        provisions,
        variables: program_variables,
    })
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
