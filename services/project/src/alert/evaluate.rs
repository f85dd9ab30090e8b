//! Conditions of alerts: of environments and their server with each heartbeat, of silent servers by a job.

use std::collections::BTreeMap;

use chassis::{OrgId, Result, Tx};
use project_rules::{
    alert::{Alert, Condition, Finding, Kind, Target, Transition, condition::Judged},
    environment::report::{PlacedEnvironment, Report},
    server::Server,
};
use uuid::Uuid;

use crate::store;

/// Alerts of some targets, locked until the transaction ends.
struct LockedAlerts(BTreeMap<(Uuid, Kind), Alert>);

impl LockedAlerts {
    async fn of(tx: &mut Tx, target_ids: &[Uuid]) -> Result<Self> {
        let alerts = store::alert::lock(tx, target_ids).await?;
        Ok(Self(alerts.into_iter().map(|it| ((it.target_id, it.kind), it)).collect()))
    }

    async fn apply(&mut self, tx: &mut Tx, target: &Target, finding: Finding) -> Result<()> {
        let kind = finding.kind;
        match Alert::apply(self.0.remove(&(target.id, kind)), target, finding, tx.now) {
            Transition::Unchanged => Ok(()),
            Transition::Changed(alert) => store::alert::upsert(tx, &alert).await,
            Transition::Forgotten => store::alert::delete(tx, target.id, kind).await,
        }
    }
}

/// Applies a heartbeat of a server with its reports, which are stored.
pub(crate) async fn apply_heartbeat(
    tx: &mut Tx,
    server: &Server,
    environments: &[PlacedEnvironment],
    reports: &[&Report],
) -> Result<()> {
    let restarted = reports.iter().filter(|it| it.restart_count > 0);
    let restarted: Vec<_> = restarted.map(|it| it.environment_id.0).collect();
    let restart_times = if restarted.is_empty() {
        BTreeMap::new()
    } else {
        store::report::restart_times(tx, &restarted).await?
    };
    let environment_ids = environments.iter().map(|it| it.id.0);
    let ids: Vec<_> = environment_ids.chain([server.id.0]).collect();
    let mut alerts = LockedAlerts::of(tx, &ids).await?;
    if let Some(org_id) = server.org_id {
        let finding = unreachable(Condition::Clear);
        alerts.apply(tx, &server_target(server, org_id), finding).await?;
    }
    let by_id: BTreeMap<_, _> = environments.iter().map(|it| (it.id, it)).collect();
    for report in reports {
        let Some(environment) = by_id.get(&report.environment_id) else { continue };
        let restarted_at = restart_times.get(&environment.id).copied();
        let judged = Judged { environment, report, restarted_at };
        let target = judged.target();
        for finding in judged.findings(tx.now) {
            alerts.apply(tx, &target, finding).await?;
        }
    }
    Ok(())
}

/// Opens alerts of connected servers that are silent.
pub(crate) async fn open_unreachable(tx: &mut Tx) -> Result<()> {
    let servers = store::server::lock_silent(tx).await?;
    let ids: Vec<_> = servers.iter().map(|it| it.id.0).collect();
    let mut alerts = LockedAlerts::of(tx, &ids).await?;
    for server in servers {
        let Some(org_id) = server.org_id else { continue };
        let finding = unreachable(Condition::Met);
        alerts.apply(tx, &server_target(&server, org_id), finding).await?;
    }
    Ok(())
}

fn unreachable(condition: Condition) -> Finding {
    Finding { kind: Kind::ServerUnreachable, condition, value: String::new() }
}

fn server_target(server: &Server, org_id: OrgId) -> Target {
    Target { id: server.id.0, name: server.name.clone(), org_id, project_id: None }
}
