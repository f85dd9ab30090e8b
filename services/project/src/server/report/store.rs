//! Every SQL statement about what servers say.

use std::collections::BTreeSet;

use api::project as pb;
use chassis::{Db, OrgId, ProjectId, Result, Tx};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::Report;
use crate::{
    environment::{Environment, EnvironmentId, State},
    foreign_text::block,
    server::ServerId,
    task::{Observed, report::ERROR_BYTES_MAX, wire::observed},
};

/// Where an environment is, and what is believed of it.
pub(crate) struct Placed {
    pub(crate) id: EnvironmentId,
    pub(crate) org_id: OrgId,
    pub(crate) project_id: ProjectId,
    pub(crate) state: State,
}

/// Which of these environments are on a server.
pub(crate) async fn on_server(tx: &mut Tx, id: ServerId, ids: &[Uuid]) -> Result<Vec<Placed>> {
    // Its own runner (no org_id).
    let placed = query_as!(
        Placed,
        "select id, org_id, project_id, state from environment
         where server_id = $1 and id = any ($2) order by id",
        id.0,
        ids
    );
    Ok(placed.fetch_all(tx.conn()).await?)
}

/// Keeps what a server says of its environments.
pub(crate) async fn keep_reports(
    tx: &mut Tx,
    server_id: ServerId,
    reports: &[pb::EnvironmentReport],
    ours: &BTreeSet<String>,
) -> Result<()> {
    let all: Vec<_> = reports.iter().filter(|it| ours.contains(&it.environment_id)).collect();
    let all = || all.iter().filter_map(|it| Some((it, observed(it.observed())?)));
    let ids: Vec<_> = all().filter_map(|it| Uuid::try_parse(&it.0.environment_id).ok()).collect();
    let observed: Vec<_> = all().map(|it| word(it.1).to_owned()).collect();
    let http_ok: Vec<_> = all().map(|it| it.0.http_ok).collect();
    let cpu: Vec<_> = all().map(|it| it.0.cpu_cores).collect();
    let memory: Vec<_> = all().map(|it| it.0.memory_bytes).collect();
    let disk: Vec<_> = all().map(|it| it.0.disk_bytes).collect();
    let processes: Vec<_> = all().map(|it| it.0.process_count).collect();
    let releases: Vec<_> = all().map(|it| Uuid::try_parse(&it.0.release).ok()).collect();
    let details: Vec<_> = all().map(|it| block(&it.0.detail, ERROR_BYTES_MAX)).collect();
    let now = tx.now;
    query!(
        "insert into environment_report (environment_id, server_id, observed, http_ok, cpu_cores,
            memory_bytes,
             disk_bytes, process_count, release, detail, reported_at)
         select id, $1, observed, http_ok, cpu, memory, disk, processes, release, detail, $2
         from unnest($3::uuid[], $4::text[], $5::bool[], $6::float8[], $7::bigint[], $8::bigint[], $9::int[],
                     $10::uuid[], $11::text[])
              as it (id, observed, http_ok, cpu, memory, disk, processes, release, detail)
         on conflict (environment_id) do update set server_id = excluded.server_id,
         observed = excluded.observed,
             http_ok = excluded.http_ok, cpu_cores = excluded.cpu_cores, memory_bytes = excluded.memory_bytes,
             disk_bytes = excluded.disk_bytes, process_count = excluded.process_count,
             release = excluded.release, detail = excluded.detail, reported_at = excluded.reported_at",
        server_id.0,
        now,
        &ids,
        &observed,
        &http_ok,
        &cpu,
        &memory,
        &disk,
        &processes,
        &releases as &[Option<Uuid>],
        &details,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

fn word(it: Observed) -> &'static str {
    match it {
        Observed::Running => "running",
        Observed::Stopped => "stopped",
        Observed::Failed => "failed",
        Observed::Paused => "paused",
    }
}

/// What its server last said of an environment, if it said something.
pub(crate) async fn report(db: &Db, it: &Environment) -> Result<Option<Report>> {
    // Of an environment that the caller may see (no org_id).
    let report = query_as!(
        Report,
        "select observed, http_ok, cpu_cores, memory_bytes, disk_bytes, process_count, limits, isolation,
                reported_at
         from environment_report join server on server.id = server_id where environment_id = $1",
        it.id.0
    );
    Ok(report.fetch_optional(db.pool()).await?)
}

/// What the files of an environment take, as far as that is known, in bytes.
pub(crate) async fn disk_used(tx: &mut Tx, it: &Environment) -> Result<i64> {
    // Of an environment that the caller may change (no org_id).
    let used = query_scalar!(
        "select disk_bytes from environment_report where environment_id = $1",
        it.id.0
    );
    Ok(used.fetch_optional(tx.conn()).await?.unwrap_or(0))
}
