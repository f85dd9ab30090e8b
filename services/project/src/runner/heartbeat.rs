//! Heartbeats of runners: the status of the server, reports about its environments, and renewal of leases.

use std::collections::BTreeSet;

use chassis::{Changed, Result, Tx};

use super::{
    AuthenticatedRunner, Health, Resources, Server,
    report::{self, PlacedEnvironment, Report},
    store,
};
use crate::{
    environment::{self, EnvironmentId},
    task::{self, TaskId, commands::LeaseRef},
};

/// A heartbeat.
pub(crate) struct Heartbeat {
    pub(crate) machine: Machine,
    pub(crate) reports: Vec<Report>,
    /// Leases of the tasks that the runner works on.
    pub(crate) leases: Vec<LeaseRef>,
}

/// Description of a server by its runner.
pub(crate) struct Machine {
    pub(crate) isolation: String,
    pub(crate) limits: String,
    pub(crate) runner_version: String,
    pub(crate) database_address: String,
    pub(crate) capacity: Option<Resources>,
}

/// Result of a heartbeat, for the runner.
#[derive(Default)]
pub(crate) struct HeartbeatResult {
    /// Tasks that the runner must cancel.
    pub(crate) cancelled_task_ids: Vec<TaskId>,
    /// Tasks whose lease has ended.
    pub(crate) lost_task_ids: Vec<TaskId>,
    /// Reported environments that do not exist on this server, and whose files the runner must delete.
    pub(crate) unknown_environment_ids: Vec<EnvironmentId>,
}

/// Records a heartbeat.
pub(crate) async fn record(
    tx: &mut Tx,
    runner: AuthenticatedRunner,
    heartbeat: &Heartbeat,
) -> Result<HeartbeatResult> {
    let ids: Vec<_> = heartbeat.reports.iter().map(|it| it.environment_id.0).collect();
    let placed = if ids.is_empty() {
        vec![]
    } else {
        report::store::placed_on(tx, runner.server_id, &ids).await?
    };
    correct_states(tx, &placed, &heartbeat.reports).await?;
    let renewed = task::store::renew_leases(tx, runner.server_id, &heartbeat.leases).await?;
    store_status(tx, runner, &heartbeat.machine).await?;
    let placed_ids: BTreeSet<_> = placed.iter().map(|it| it.id).collect();
    let (known, unknown): (Vec<_>, Vec<_>) =
        heartbeat.reports.iter().partition(|it| placed_ids.contains(&it.environment_id));
    if !known.is_empty() {
        report::store::upsert(tx, runner.server_id, &known).await?;
    }
    let renewed_ids: BTreeSet<_> = renewed.iter().map(|it| it.task_id).collect();
    let cancelled = renewed.iter().filter(|it| it.cancel_requested);
    let lost = heartbeat.leases.iter().filter(|it| !renewed_ids.contains(&it.task_id));
    Ok(HeartbeatResult {
        cancelled_task_ids: cancelled.map(|it| it.task_id).collect(),
        lost_task_ids: lost.map(|it| it.task_id).collect(),
        unknown_environment_ids: unknown.iter().map(|it| it.environment_id).collect(),
    })
}

/// Stores the status of the server: it is healthy. The runner's capacity applies only to a connected server
/// for which no person has set one.
async fn store_status(tx: &mut Tx, runner: AuthenticatedRunner, machine: &Machine) -> Result<()> {
    let before = store::lock_of_runner(tx, runner.server_id).await?;
    let mut after = before.clone();
    after.last_seen_at = Some(tx.now);
    after.health = Health::Healthy;
    after.isolation.clone_from(&machine.isolation);
    after.limits.clone_from(&machine.limits);
    after.runner_version.clone_from(&machine.runner_version);
    after.database_address.clone_from(&machine.database_address);
    if before.org_id.is_some() && before.capacity().is_none() && machine.capacity.is_some() {
        after.set_capacity(machine.capacity);
    }
    store::update_status(tx, &after).await?;
    // The health of a shared server is for its operator, who sees it in the metrics and logs.
    if before.health != after.health && after.org_id.is_some() {
        tx.emit(health_changed(&before, after));
    }
    Ok(())
}

fn health_changed(before: &Server, after: Server) -> Changed<Server> {
    let before = Some(before.into());
    let event = api::project::ServerHealthChanged { before, after: Some((&after).into()) };
    let target = after.event_target();
    Changed::new(after, &event, target)
}

/// Corrects the state of environments whose program ended by itself. Rows are locked in the order of their
/// ids, in which `placed` is sorted.
async fn correct_states(
    tx: &mut Tx,
    placed: &[PlacedEnvironment],
    reports: &[Report],
) -> Result<()> {
    for environment in placed {
        let report = reports.iter().find(|it| it.environment_id == environment.id);
        if let Some(report) = report
            && let Some(observed) = report.observed.filter(|it| environment.contradicts(*it))
        {
            correct_state(tx, environment, observed, &report.detail).await?;
        }
    }
    Ok(())
}

async fn correct_state(
    tx: &mut Tx,
    placed: &PlacedEnvironment,
    observed: task::Observed,
    detail: &str,
) -> Result<()> {
    let environment = environment::store::lock(tx, placed.project_ref(), placed.id).await?;
    if task::store::active(tx, &environment).await?.is_some() {
        return Ok(());
    }
    let detail = if detail.is_empty() { "the process of the program ended" } else { detail };
    if let Some(corrected) = environment.correct_state(observed, detail, tx.now) {
        environment::store::update(tx, corrected).await?;
    }
    Ok(())
}

/// Updates the health of servers whose heartbeats are missing (5.3).
pub(crate) async fn update_health(tx: &mut Tx) -> Result<()> {
    for server in store::lock_overdue(tx).await? {
        let health = Health::at(server.last_seen_at, tx.now);
        if health == server.health {
            continue;
        }
        let after = Server { health, ..server.clone() };
        store::update_status(tx, &after).await?;
        tracing::warn!(server = %after.id, ?health, "the runner of a server sends no heartbeats");
        if after.org_id.is_some() {
            tx.emit(health_changed(&server, after));
        }
    }
    Ok(())
}
