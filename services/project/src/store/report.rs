//! SQL statements about reports of runners.

use chassis::{Db, Result, Tx};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use project_rules::{
    environment::report::{PlacedEnvironment, Report, StoredReport},
    types::{EnvironmentId, ServerId},
};

/// Returns those of the environments that are on a server, by id.
pub(crate) async fn placed_on(
    tx: &mut Tx,
    server_id: ServerId,
    ids: &[Uuid],
) -> Result<Vec<PlacedEnvironment>> {
    // The server of an authenticated runner (no org_id).
    let placed = query_as!(
        PlacedEnvironment,
        "select id, org_id, project_id, state, observed, url from environment
         where server_id = $1 and id = any ($2) order by id",
        server_id.0,
        ids
    );
    Ok(placed.fetch_all(tx.conn()).await?)
}

/// Stores reports about environments of a server. Reports without an observed state are skipped.
pub(crate) async fn upsert(tx: &mut Tx, server_id: ServerId, reports: &[&Report]) -> Result<()> {
    let reports: Vec<_> =
        reports.iter().filter_map(|it| Some((*it, it.observed?.column_text()))).collect();
    let ids: Vec<_> = reports.iter().map(|(it, _)| it.environment_id.0).collect();
    let observed: Vec<_> = reports.iter().map(|(_, observed)| (*observed).to_owned()).collect();
    let http_ok: Vec<_> = reports.iter().map(|(it, _)| it.http_ok).collect();
    let cpu: Vec<_> = reports.iter().map(|(it, _)| it.cpu_cores).collect();
    let memory: Vec<_> = reports.iter().map(|(it, _)| it.memory_bytes).collect();
    let disk: Vec<_> = reports.iter().map(|(it, _)| it.disk_bytes).collect();
    let processes: Vec<_> = reports.iter().map(|(it, _)| it.process_count).collect();
    let releases: Vec<_> = reports.iter().map(|(it, _)| it.release).collect();
    let details: Vec<_> = reports.iter().map(|(it, _)| it.detail.clone()).collect();
    let restarts: Vec<_> = reports.iter().map(|(it, _)| it.restart_count).collect();
    let exit_codes: Vec<_> = reports.iter().map(|(it, _)| it.last_exit_code).collect();
    let now = tx.now;
    query!(
        "insert into environment_report (environment_id, server_id, observed, http_ok, cpu_cores,
             memory_bytes, disk_bytes, process_count, release, detail, restart_count, last_exit_code,
             reported_at)
         select id, $1, observed, http_ok, cpu, memory, disk, processes, release, detail, restarts, exit_code,
                $2
         from unnest($3::uuid[], $4::text[], $5::bool[], $6::float8[], $7::bigint[], $8::bigint[], $9::int[],
                     $10::uuid[], $11::text[], $12::int[], $13::int[])
              as it (id, observed, http_ok, cpu, memory, disk, processes, release, detail, restarts,
                     exit_code)
         on conflict (environment_id) do update set server_id = excluded.server_id,
             observed = excluded.observed, http_ok = excluded.http_ok, cpu_cores = excluded.cpu_cores,
             memory_bytes = excluded.memory_bytes, disk_bytes = excluded.disk_bytes,
             process_count = excluded.process_count, release = excluded.release,
             detail = excluded.detail, restart_count = excluded.restart_count,
             last_exit_code = excluded.last_exit_code, reported_at = excluded.reported_at",
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
        &restarts,
        &exit_codes as &[Option<i32>],
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Returns the last report about an environment.
pub(crate) async fn get(db: &Db, id: EnvironmentId) -> Result<Option<StoredReport>> {
    // The caller has read the environment with the grant (no org_id).
    let report = query_as!(
        StoredReport,
        "select observed, http_ok, cpu_cores, memory_bytes, disk_bytes, process_count, limits, isolation,
                restart_count, last_exit_code, reported_at
         from environment_report join server on server.id = server_id where environment_id = $1",
        id.0
    );
    Ok(report.fetch_optional(db.pool()).await?)
}

/// Returns the last reported size of the files of an environment; 0 if there is no report.
pub(crate) async fn disk_used_bytes(tx: &mut Tx, id: EnvironmentId) -> Result<i64> {
    // The caller has locked the environment (no org_id).
    let used =
        query_scalar!("select disk_bytes from environment_report where environment_id = $1", id.0);
    Ok(used.fetch_optional(tx.conn()).await?.unwrap_or(0))
}
