//! Commands of runners: lease a task, report its progress, finish it.

use chassis::{Result, Tx};
use project_rules::{
    connection::dns::record::Record,
    environment::{Environment, hostname},
    project::Project,
    runner::{AuthenticatedRunner, LeasedTask, TaskReport},
    task::{
        Task,
        lease::{LeaseOutcome, LeaseRef, Progress},
    },
    types::ServerId,
};

use crate::{
    addon::commands::desired_addons,
    dns::publisher::desire_record,
    environment::locking,
    store::{self, dns_record::DesiredRecord, server::Addresses},
    task::commands::finish_task,
};

/// Leases the oldest task that the runner may work on. `None`: there is none, or another runner has leased
/// it.
pub(super) async fn lease_task(
    tx: &mut Tx,
    runner: AuthenticatedRunner,
) -> Result<Option<LeasedTask>> {
    let Some(candidate) = store::task::next_leasable(tx, runner).await? else { return Ok(None) };
    let mut environment = locking::lock_for_task(tx, &candidate).await?;
    let task = store::task::active(tx, &environment).await?;
    let Some(mut task) = task.filter(|it| it.is_leasable(tx.now)) else { return Ok(None) };
    tx.set_cause(task.request_event_id);
    let is_assigned = environment.server_id.is_some();
    if !is_assigned {
        // The environment stays on the first shared server that leases a task of it.
        environment.server_id = Some(runner.server_id);
        task.server_id = Some(runner.server_id);
    }
    let task = match task.lease(tx.now) {
        LeaseOutcome::DeploymentStarted(changed) => store::task::save(tx, changed).await?,
        LeaseOutcome::Leased(task) => {
            store::task::update(tx, &task).await?;
            task
        }
        LeaseOutcome::Finished(task, outcome) => {
            finish_task(tx, environment, task, outcome).await?;
            return Ok(None);
        }
    };
    let variables = store::variable::load(tx, &environment).await?;
    let project = store::project::load(tx, task.project_ref()).await?;
    let connection = match project.git_connection_id {
        Some(id) => Some(store::git_connection::load(tx, project.org_id, id).await?),
        None => None,
    };
    let source = match task.clone_source() {
        Some(id) => Some(store::environment::load(tx, task.project_ref(), id).await?),
        None => None,
    };
    if !is_assigned {
        store::environment::assign_server(tx, &environment, runner.server_id).await?;
    }
    let addresses = store::server::addresses(tx, runner.server_id).await?;
    if task.kind.starts_program() {
        assign_hostname(tx, &mut environment, &project, &addresses.apps_domain).await?;
        publish_hostname(tx, &environment, &addresses).await?;
    }
    let addons = desired_addons(tx, &environment).await?;
    let server_address = if runner.shared { String::new() } else { addresses.address };
    Ok(Some(LeasedTask {
        task,
        environment,
        project,
        connection,
        source,
        variables,
        addons,
        server_address,
    }))
}

/// Assigns a host name below the apps domain of its server to an environment, unless it has one. No other
/// function assigns host names.
async fn assign_hostname(
    tx: &mut Tx,
    environment: &mut Environment,
    project: &Project,
    apps_domain: &str,
) -> Result<()> {
    if apps_domain.is_empty() || hostname::is_below(&environment.hostname, apps_domain) {
        return Ok(());
    }
    for candidate in hostname::candidates(environment, &project.slug, apps_domain) {
        if store::environment::lock_unused_hostname(tx, &candidate).await? {
            environment.hostname = candidate;
            return store::environment::set_hostname(tx, environment).await;
        }
    }
    // All candidates belong to other environments: this one has the address of its server.
    Ok(())
}

/// Has the host name of an environment published, if its server names a DNS connection. Also restores a
/// record that was deleted on the DNS server since the last start.
async fn publish_hostname(
    tx: &mut Tx,
    environment: &Environment,
    addresses: &Addresses,
) -> Result<()> {
    let Some(dns_connection_id) = addresses.dns_connection_id else { return Ok(()) };
    if environment.hostname.is_empty() {
        return Ok(());
    }
    let desired = DesiredRecord {
        org_id: environment.org_id,
        environment_id: environment.id,
        dns_connection_id,
        record: Record::of_host(&environment.hostname, &addresses.address),
        expires_at: None,
    };
    desire_record(tx, &desired).await.map(|_| ())
}

/// Stores the progress and log lines that a runner reports.
pub(super) async fn report_progress(
    tx: &mut Tx,
    server_id: ServerId,
    lease: LeaseRef,
    progress: Progress,
    log_lines: &[String],
) -> Result<Task> {
    let org_id = store::task::find(tx, lease.task_id, server_id).await?.org_id;
    let task = store::task::lock(tx, org_id, lease.task_id).await?;
    let mut task = task.report(lease.lease_id, progress, tx.now)?;
    store::task::append_log(tx, &mut task, log_lines).await?;
    store::task::update(tx, &task).await?;
    Ok(task)
}

/// Finishes a task for the runner that has leased it.
pub(super) async fn finish_leased_task(
    tx: &mut Tx,
    server_id: ServerId,
    lease: LeaseRef,
    report: TaskReport,
) -> Result<()> {
    let found = store::task::find(tx, lease.task_id, server_id).await?;
    let environment = locking::lock_for_task(tx, &found).await?;
    let task = store::task::lock(tx, found.org_id, lease.task_id).await?;
    tx.set_cause(task.request_event_id);
    let mut task = task.finish_leased(lease.lease_id, &report.outcome, tx.now)?;
    task.commit_subject = report.commit_subject;
    task.commit_author = report.commit_author;
    finish_task(tx, environment.observe(report.observed), task, report.outcome).await
}
