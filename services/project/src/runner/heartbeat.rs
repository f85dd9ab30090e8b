//! Heartbeats of runners: the status of the server, reports about its environments, and renewal of leases.

use std::collections::BTreeSet;

use chassis::{Result, Tx};
use project_rules::{
    environment::report::{PlacedEnvironment, Report},
    runner::{AuthenticatedRunner, Heartbeat, HeartbeatResult, ServedDomains},
    server::{Machine, Server},
};

use crate::{alert, store};

/// Records a heartbeat.
pub(crate) async fn record(
    tx: &mut Tx,
    runner: AuthenticatedRunner,
    heartbeat: Heartbeat,
) -> Result<HeartbeatResult> {
    let ids: Vec<_> = heartbeat.reports.iter().map(|it| it.environment_id.0).collect();
    let placed = if ids.is_empty() {
        vec![]
    } else {
        store::report::placed_on(tx, runner.server_id, &ids).await?
    };
    correct_states(tx, &placed, &heartbeat.reports).await?;
    let renewed = store::task::renew_leases(tx, runner.server_id, &heartbeat.leases).await?;
    let server = store_status(tx, runner, &heartbeat.machine).await?;
    let placed_ids: BTreeSet<_> = placed.iter().map(|it| it.id).collect();
    let (known, unknown): (Vec<_>, Vec<_>) =
        heartbeat.reports.iter().partition(|it| placed_ids.contains(&it.environment_id));
    if !known.is_empty() {
        store::metric::end_minutes(tx, runner.server_id, &ids).await?;
        store::report::upsert(tx, runner.server_id, &known).await?;
    }
    alert::evaluate::apply_heartbeat(tx, &server, &placed, &known).await?;
    let domains = store::domain::served(tx, runner.server_id).await?;
    let renewed_ids: BTreeSet<_> = renewed.iter().map(|it| it.task_id).collect();
    let cancelled = renewed.iter().filter(|it| it.cancel_requested);
    let lost = heartbeat.leases.iter().filter(|it| !renewed_ids.contains(&it.task_id));
    Ok(HeartbeatResult {
        cancelled_task_ids: cancelled.map(|it| it.task_id).collect(),
        lost_task_ids: lost.map(|it| it.task_id).collect(),
        unknown_environment_ids: unknown.iter().map(|it| it.environment_id).collect(),
        rejected_reports: heartbeat.rejected_reports,
        served_domains: ServedDomains::new(domains, &heartbeat.domains_version),
    })
}

/// Stores the status of the server.
async fn store_status(
    tx: &mut Tx,
    runner: AuthenticatedRunner,
    machine: &Machine,
) -> Result<Server> {
    let before = store::server::lock_of_runner(tx, runner.server_id).await?;
    let after = before.apply_heartbeat(machine, tx.now);
    store::server::update_status(tx, &after).await?;
    if let Some(changed) = after.clone().health_changed(&before) {
        tx.emit(changed);
    }
    Ok(after)
}

/// Corrects the state of environments that differ from their reports. Rows are locked in the order of their
/// ids, in which `placed` is sorted.
async fn correct_states(
    tx: &mut Tx,
    placed: &[PlacedEnvironment],
    reports: &[Report],
) -> Result<()> {
    for environment in placed {
        let report = reports.iter().find(|it| it.environment_id == environment.id);
        if let Some(report) = report.filter(|it| environment.differs(it)) {
            correct_state(tx, environment, report).await?;
        }
    }
    Ok(())
}

async fn correct_state(tx: &mut Tx, placed: &PlacedEnvironment, report: &Report) -> Result<()> {
    let environment = store::environment::lock(tx, placed.project_ref(), placed.id).await?;
    if store::task::active(tx, &environment).await?.is_some() {
        return Ok(());
    }
    if let Some(corrected) = environment.correct_state(report, tx.now) {
        store::environment::update(tx, corrected).await?;
    }
    Ok(())
}
