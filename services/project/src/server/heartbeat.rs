//! What a runner says every few seconds of its machine and its environments.

use std::collections::BTreeSet;

use api::project as pb;
use chassis::{Changed, Result, Tx};

use super::{Agent, Health, Room, Server, report, store};
use crate::{
    environment::{self, EnvironmentId, wire::millis},
    foreign_text::{block, line},
    task::{self, report::ERROR_BYTES_MAX, wire::observed},
};

/// Longest text about a machine, in bytes.
pub(super) const TEXT_BYTES_MAX: usize = 255;

/// Notes that the server is there, and what it is like.
pub(crate) async fn note(tx: &mut Tx, agent: &Agent, it: &pb::HeartbeatRequest) -> Result<()> {
    let before = store::lock_any(tx, agent.server_id).await?;
    let mut after = before.clone();
    after.last_seen_at = Some(tx.now);
    after.health = Health::Healthy;
    after.isolation = line(&it.isolation, TEXT_BYTES_MAX);
    after.limits = line(&it.limits, TEXT_BYTES_MAX);
    after.runner_version = line(&it.version, TEXT_BYTES_MAX);
    after.database_address = line(&it.database_address, TEXT_BYTES_MAX);
    if let (Some(capacity), None, Some(_)) = (&it.capacity, before.capacity(), before.org_id) {
        // Nobody said what it may give away: what the machine has.
        after.give(Some(Room {
            cpu_millis: millis(capacity.cpu_cores),
            memory_mb: capacity.memory_mb,
            disk_gb: capacity.disk_gb,
        }));
    }
    store::seen(tx, &after).await?;
    // Of a shared server only its operator needs to know, and sees it in the log.
    if before.health != after.health && after.org_id.is_some() {
        tx.emit(changed(&before, after));
    }
    Ok(())
}

/// A server is otherwise than it was.
pub(super) fn changed(before: &Server, after: Server) -> Changed<Server> {
    let event =
        pb::ServerHealthChanged { before: Some(before.into()), after: Some((&after).into()) };
    let about = after.about();
    Changed::new(after, &event, about)
}

/// Environments of a report that are on its server.
pub(crate) type Known = Vec<report::store::Placed>;

/// Corrects what is believed of environments, in the order of their ids. Answers those of the report that
/// are on this server.
pub(crate) async fn correct(
    tx: &mut Tx,
    agent: &Agent,
    it: &pb::HeartbeatRequest,
) -> Result<Known> {
    let id = |it: &pb::EnvironmentReport| Ok(it.environment_id.parse::<EnvironmentId>()?.0);
    let ids: Vec<_> = it.environments.iter().map(id).collect::<Result<_>>()?;
    if ids.is_empty() {
        return Ok(vec![]);
    }
    let known = report::store::on_server(tx, agent.server_id, &ids).await?;
    for found in &known {
        let of_it = |it: &&pb::EnvironmentReport| it.environment_id == found.id.to_string();
        let Some(report) = it.environments.iter().find(of_it) else { continue };
        if let Some(what) = observed(report.observed()).filter(|it| found.doubts(*it)) {
            correct_one(tx, found, what, &report.detail).await?;
        }
    }
    Ok(known)
}

/// Keeps what a server says of its environments. Answers those of which nothing is known here any more.
pub(crate) async fn keep(
    tx: &mut Tx,
    agent: &Agent,
    it: &pb::HeartbeatRequest,
    known: &Known,
) -> Result<Vec<String>> {
    let ours: BTreeSet<_> = known.iter().map(|it| it.id.to_string()).collect();
    if !ours.is_empty() {
        report::store::keep_reports(tx, agent.server_id, &it.environments, &ours).await?;
    }
    let reported = it.environments.iter().map(|it| &it.environment_id);
    Ok(reported.filter(|it| !ours.contains(*it)).cloned().collect())
}

async fn correct_one(
    tx: &mut Tx,
    found: &report::store::Placed,
    what: task::Observed,
    detail: &str,
) -> Result<()> {
    let place = (found.org_id, found.project_id);
    let environment = environment::store::lock(tx, place, found.id).await?;
    if task::store::active(tx, &environment).await?.is_some() {
        return Ok(());
    }
    let detail = if detail.is_empty() { "its process ended" } else { detail };
    let detail = block(detail, ERROR_BYTES_MAX);
    if let Some(corrected) = environment.correct(what, &detail, tx.now) {
        environment::store::update(tx, corrected).await?;
    }
    Ok(())
}

/// Looks for servers that went silent, and says so (5.3).
pub(crate) async fn sweep(tx: &mut Tx) -> Result<()> {
    for server in store::seen_too_long_ago(tx).await? {
        let health = Health::at(server.last_seen_at, tx.now);
        if health == server.health {
            continue;
        }
        let after = Server { health, ..server.clone() };
        store::seen(tx, &after).await?;
        tracing::warn!(server = %after.id, ?health, "a server went silent");
        if after.org_id.is_some() {
            tx.emit(changed(&server, after));
        }
    }
    Ok(())
}
