//! Conversion between messages of the contract and the tasks of runners. Text that a runner reports comes
//! from programs, commits and git: it is sanitized, and its length is limited.

use api::project as pb;
use chassis::{
    Error, Result, datetime,
    foreign_text::{clean_block, clean_line},
    git_credential::GitCredential,
    hostname,
};
use uuid::Uuid;

use super::{Heartbeat, HeartbeatResult, LeasedTask, RejectedReport, ServedDomain, TaskReport};
use crate::{
    environment::{
        self, Environment,
        report::{Report, ServedCertificate, TrafficTotals},
    },
    project::{Project, repository_token::RepositoryAccess},
    server::Machine,
    task::{
        Cause, Kind, Outcome, Task, TaskResult,
        lease::{COMMIT_WAIT, LEASE_DURATION, LeaseRef, Progress},
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
/// Maximum length of a commit hash (SHA-256), in bytes.
const COMMIT_BYTES_MAX: usize = 64;
/// Limits of a usage, far above real ones: sums of them are in the range of their types.
const CPU_CORES_MAX: f64 = 1_000_000.0;
const BYTES_MAX: i64 = 1 << 50;

/// Largest sum of the durations of requests, in seconds.
const DURATION_S_MAX: f64 = 1e12;
/// Maximum length of an invalid id in a response, in bytes.
const ID_BYTES_MAX: usize = 64;

/// Sanitizes a text about a server.
pub fn machine_text(text: &str) -> String {
    clean_line(text, MACHINE_TEXT_BYTES_MAX)
}

pub fn lease_ref(task_id: &str, lease_id: &str) -> Result<LeaseRef> {
    let lease_id =
        Uuid::try_parse(lease_id).map_err(|_| Error::invalid("lease_id", "must be a UUID"))?;
    Ok(LeaseRef { task_id: task_id.parse()?, lease_id })
}

pub fn stream_id(id: &str) -> Result<Uuid> {
    Uuid::try_parse(id).map_err(|_| Error::invalid("stream_id", "must be a UUID"))
}

pub fn progress(it: &pb::ReportProgressRequest) -> Progress {
    Progress {
        percent: it.progress_percent,
        current_step: clean_line(&it.current_step, STEP_BYTES_MAX),
        steps_completed: it.steps_completed,
        total_steps: it.total_steps,
    }
}

pub fn report(it: &pb::FinishTaskRequest) -> TaskReport {
    let outcome = if it.cancelled {
        Outcome::Cancelled
    } else if !it.error_message.is_empty() {
        Outcome::Failed { error: clean_block(&it.error_message, ERROR_BYTES_MAX) }
    } else {
        Outcome::Completed(TaskResult {
            commit: commit_hash(&it.commit),
            url: http_url(&it.url),
            observed: observed(it.observed()),
        })
    };
    let is_completed = matches!(outcome, Outcome::Completed(_));
    TaskReport {
        outcome,
        observed: observed(it.observed()).filter(|_| !is_completed),
        commit_subject: clean_line(&it.commit_subject, SUBJECT_BYTES_MAX),
        commit_author: clean_line(&it.commit_author, AUTHOR_BYTES_MAX),
    }
}

/// Returns a commit hash, or empty text if it is not one.
fn commit_hash(commit: &str) -> String {
    let is_hash = commit.len() <= COMMIT_BYTES_MAX
        && commit.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
    if is_hash { commit.to_owned() } else { String::new() }
}

/// Returns a URL that people can safely open, or empty text if it is not an http or https URL.
fn http_url(url: &str) -> String {
    let is_http = ["http://", "https://"].iter().any(|it| url.starts_with(it));
    let is_clean = clean_line(url, URL_BYTES_MAX) == url && !url.contains(char::is_whitespace);
    if is_http && is_clean { url.to_owned() } else { String::new() }
}

/// Converts a leased task, with its secrets opened.
pub fn lease(leased: LeasedTask, vault: &Vault) -> Result<pb::Lease> {
    let LeasedTask {
        task,
        environment,
        project,
        connection,
        source,
        variables,
        addons,
        server_address,
    } = leased;
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
    let fetches_code = matches!(task.kind, Kind::Deploy | Kind::Promote | Kind::Rollback);
    let connection = connection.filter(|_| fetches_code);
    let access = RepositoryAccess::open(&project, connection.as_ref(), vault)?;
    let (password, ssh_credential) = match access.credential.filter(|_| fetches_code) {
        Some(GitCredential::Password(password)) => (Some(password), None),
        Some(GitCredential::Ssh(key)) => (None, Some(key)),
        None => (None, None),
    };
    let release = match task.kind {
        Kind::Deploy | Kind::Promote | Kind::Clone => Some(task.id),
        Kind::Rollback => task.deployment_id,
        _ => environment.deployment_id,
    };
    let waits = task.cause == Cause::Push && !task.commit.is_empty();
    let commit_wait =
        waits.then_some(prost_types::Duration { seconds: COMMIT_WAIT.whole_seconds(), nanos: 0 });
    let copies_production =
        source.as_ref().is_some_and(|it| it.kind == environment::Kind::Production);
    let neutralize = task.kind == Kind::Clone
        && copies_production
        && environment.kind != environment::Kind::Production;
    let source_release = source.as_ref().and_then(|it| it.deployment_id);
    Ok(pb::Lease {
        task_id: task.id.into(),
        lease_id: task.lease_id.map(|it| it.to_string()).unwrap_or_default(),
        environment_id: task.environment_id.into(),
        repository_url: access.url,
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
        commit_wait,
        repository_credential: password,
        ssh_credential,
        server_address,
        hostname: environment.hostname,
        neutralize,
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
        .map(|(name, value)| pb::Variable { name: name.to_owned(), value, secret: false })
        .collect()
}

impl TryFrom<&pb::EnvironmentReport> for Report {
    type Error = Error;

    fn try_from(it: &pb::EnvironmentReport) -> Result<Self> {
        let traffic = it.traffic.unwrap_or_default();
        let usages = [
            // Also false for a number that is not a number.
            ("cpu_cores", (0.0..=CPU_CORES_MAX).contains(&it.cpu_cores)),
            ("memory_bytes", (0..=BYTES_MAX).contains(&it.memory_bytes)),
            ("disk_bytes", (0..=BYTES_MAX).contains(&it.disk_bytes)),
            ("process_count", it.process_count >= 0),
            ("traffic", is_valid_traffic(&traffic)),
        ];
        if let Some((field, _)) = usages.iter().find(|(_, is_valid)| !is_valid) {
            let description =
                "must be a number of at least 0, and at most 1,000,000 cores or 2^50 bytes";
            return Err(Error::invalid(*field, description));
        }
        let certificate = it.certificate.as_ref().map(served_certificate).transpose()?;
        let release = Some(&it.release).filter(|it| !it.is_empty());
        let release = release.map(|it| Uuid::try_parse(it)).transpose();
        let release = release.map_err(|_| Error::invalid("release", "must be a UUID"))?;
        Ok(Self {
            environment_id: it.environment_id.parse()?,
            observed: observed(it.observed()),
            http_ok: it.http_ok,
            cpu_cores: it.cpu_cores,
            memory_bytes: it.memory_bytes,
            disk_bytes: it.disk_bytes,
            process_count: it.process_count,
            release,
            detail: clean_block(&it.detail, ERROR_BYTES_MAX),
            url: http_url(&it.url),
            restart_count: it.restart_count,
            last_exit_code: it.last_exit_code,
            traffic: TrafficTotals {
                request_count: traffic.request_count,
                error_count: traffic.error_count,
                duration_s: traffic.duration_s,
                received_bytes: traffic.received_bytes,
                sent_bytes: traffic.sent_bytes,
                start: traffic.start_time.and_then(datetime),
            },
            certificate,
        })
    }
}

fn served_certificate(it: &pb::ServedCertificate) -> Result<ServedCertificate> {
    let times = it.start_time.and_then(datetime).zip(it.end_time.and_then(datetime));
    let Some((start, end)) = times.filter(|_| hostname::is_valid(&it.hostname)) else {
        return Err(Error::invalid("certificate", "must have a host name and two valid times"));
    };
    Ok(ServedCertificate { hostname: it.hostname.clone(), start, end })
}

fn is_valid_traffic(it: &pb::TrafficTotals) -> bool {
    let counts = [it.request_count, it.error_count, it.received_bytes, it.sent_bytes];
    // Also false for a number that is not a number.
    let is_duration = (0.0..=DURATION_S_MAX).contains(&it.duration_s);
    is_duration && counts.iter().all(|it| (0..=BYTES_MAX).contains(it))
}

/// Converts reports. Those that are invalid, or about an environment of an earlier report, are rejected.
fn reports(environments: &[pb::EnvironmentReport]) -> (Vec<Report>, Vec<RejectedReport>) {
    let mut accepted: Vec<Report> = vec![];
    let mut rejected = vec![];
    let mut ids = std::collections::BTreeSet::new();
    for reported in environments {
        let report = Report::try_from(reported).and_then(|it| {
            let is_new = ids.insert(it.environment_id);
            let repeated = || Error::invalid("environment_id", "must not be in two reports");
            is_new.then_some(it).ok_or_else(repeated)
        });
        match report {
            Ok(report) => accepted.push(report),
            Err(error) => rejected.push(RejectedReport {
                environment_id: clean_line(&reported.environment_id, ID_BYTES_MAX),
                reason: error.to_string(),
            }),
        }
    }
    (accepted, rejected)
}

impl TryFrom<&pb::HeartbeatRequest> for Heartbeat {
    type Error = Error;

    fn try_from(it: &pb::HeartbeatRequest) -> Result<Self> {
        let machine = Machine {
            isolation: machine_text(&it.isolation),
            limits: machine_text(&it.limits),
            runner_version: machine_text(&it.version),
            database_address: machine_text(&it.database_address),
            apps_domain: Some(&it.apps_domain)
                .filter(|it| hostname::is_valid(it))
                .cloned()
                .unwrap_or_default(),
            capacity: it.capacity.as_ref().map(Into::into),
        };
        let (reports, rejected_reports) = reports(&it.environments);
        let leases = it.tasks.iter().map(|it| lease_ref(&it.task_id, &it.lease_id));
        Ok(Self {
            machine,
            reports,
            rejected_reports,
            leases: leases.collect::<Result<_>>()?,
            domains_version: it.domains_version.clone(),
        })
    }
}

impl From<HeartbeatResult> for pb::HeartbeatResponse {
    fn from(it: HeartbeatResult) -> Self {
        let task_ids = |ids: Vec<TaskId>| ids.into_iter().map(Into::into).collect();
        let unknown = it.unknown_environment_ids;
        let rejected = it
            .rejected_reports
            .into_iter()
            .map(|it| pb::RejectedReport { environment_id: it.environment_id, reason: it.reason });
        Self {
            cancelled_task_ids: task_ids(it.cancelled_task_ids),
            lost_task_ids: task_ids(it.lost_task_ids),
            unknown_environment_ids: unknown.into_iter().map(Into::into).collect(),
            rejected_reports: rejected.collect(),
            domains_version: it.served_domains.version,
            environment_domains: environment_domains(it.served_domains.domains.unwrap_or_default()),
        }
    }
}

/// Groups domains, which are sorted by environment.
fn environment_domains(domains: Vec<ServedDomain>) -> Vec<pb::EnvironmentDomains> {
    let mut environments: Vec<pb::EnvironmentDomains> = vec![];
    for domain in domains {
        let environment_id = String::from(domain.environment_id);
        match environments.last_mut().filter(|it| it.environment_id == environment_id) {
            Some(environment) => environment.hostnames.push(domain.hostname),
            None => environments
                .push(pb::EnvironmentDomains { environment_id, hostnames: vec![domain.hostname] }),
        }
    }
    environments
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
