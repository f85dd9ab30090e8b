//! SQL statements about reports of runners.

use std::collections::BTreeMap;

use chassis::{Db, Result, Tx};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
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
        r#"select id, org_id, project_id, name, state, observed, url, memory_mb, disk_gb,
                  (state = 'error' and last_task_state = 'failed' and (
                      select kind in ('deploy', 'rollback', 'promote') from task
                      where environment_id = environment.id order by id desc limit 1))
                      is true as "deployment_failed!"
           from environment where server_id = $1 and id = any ($2) order by id"#,
        server_id.0,
        ids
    );
    Ok(placed.fetch_all(tx.conn()).await?)
}

/// Stores reports about environments of a server, and adds them to the samples of the current minute. The
/// caller has ended earlier minutes ([`super::metric::end_minutes`]). Reports without an observed state are
/// skipped.
#[expect(clippy::too_many_lines, reason = "one statement with many columns")]
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
    let requests: Vec<_> = reports.iter().map(|(it, _)| it.traffic.request_count).collect();
    let errors: Vec<_> = reports.iter().map(|(it, _)| it.traffic.error_count).collect();
    let durations: Vec<_> = reports.iter().map(|(it, _)| it.traffic.duration_s).collect();
    let received: Vec<_> = reports.iter().map(|(it, _)| it.traffic.received_bytes).collect();
    let sent: Vec<_> = reports.iter().map(|(it, _)| it.traffic.sent_bytes).collect();
    let traffic_starts: Vec<_> = reports.iter().map(|(it, _)| it.traffic.start).collect();
    let certificates: Vec<_> = reports.iter().map(|(it, _)| it.certificate.as_ref()).collect();
    let hostnames: Vec<_> =
        certificates.iter().map(|it| it.map(|it| it.hostname.clone())).collect();
    let starts: Vec<_> = certificates.iter().map(|it| it.map(|it| it.start)).collect();
    let ends: Vec<_> = certificates.iter().map(|it| it.map(|it| it.end)).collect();
    let now = tx.now;
    query!(
        "insert into environment_report (environment_id, server_id, observed, http_ok, cpu_cores,
             memory_bytes, disk_bytes, process_count, release, detail, restart_count, last_exit_code,
             reported_at, minute, sample_count, cpu_cores_sum, cpu_cores_max, memory_bytes_sum,
             memory_bytes_max, traffic_start_time, request_total, error_total, duration_s_total,
             received_bytes_total, sent_bytes_total, request_count, error_count, duration_s_sum,
             received_bytes, sent_bytes,
             certificate_hostname, certificate_start_time, certificate_end_time)
         select id, $1, observed, http_ok, cpu, memory, disk, processes, release, detail, restarts, exit_code,
                $2, date_trunc('minute', $2::timestamptz, 'UTC'), 1, cpu, cpu, memory, memory,
                traffic_start, requests, errors, duration, received, sent, requests, errors, duration,
                received, sent,
                hostname, start_time, end_time
         from unnest($3::uuid[], $4::text[], $5::bool[], $6::float8[], $7::bigint[], $8::bigint[], $9::int[],
                     $10::uuid[], $11::text[], $12::int[], $13::int[], $14::bigint[], $15::bigint[],
                     $16::float8[], $17::bigint[], $18::bigint[], $19::text[], $20::timestamptz[],
                     $21::timestamptz[], $22::timestamptz[])
              as it (id, observed, http_ok, cpu, memory, disk, processes, release, detail, restarts,
                     exit_code, requests, errors, duration, received, sent, hostname,
                     start_time, end_time, traffic_start)
         on conflict (environment_id) do update set server_id = excluded.server_id,
             observed = excluded.observed, http_ok = excluded.http_ok, cpu_cores = excluded.cpu_cores,
             memory_bytes = excluded.memory_bytes, disk_bytes = excluded.disk_bytes,
             process_count = excluded.process_count, release = excluded.release,
             detail = excluded.detail, restart_count = excluded.restart_count,
             last_exit_code = excluded.last_exit_code, reported_at = excluded.reported_at,
             restarted_at = case when excluded.restart_count > environment_report.restart_count
                 then excluded.reported_at else environment_report.restarted_at end,
             sample_count = environment_report.sample_count + 1,
             cpu_cores_sum = environment_report.cpu_cores_sum + excluded.cpu_cores,
             cpu_cores_max = greatest(environment_report.cpu_cores_max, excluded.cpu_cores),
             memory_bytes_sum = environment_report.memory_bytes_sum + excluded.memory_bytes,
             memory_bytes_max = greatest(environment_report.memory_bytes_max, excluded.memory_bytes),
             certificate_hostname = excluded.certificate_hostname,
             certificate_start_time = excluded.certificate_start_time,
             certificate_end_time = excluded.certificate_end_time,
             traffic_start_time = excluded.traffic_start_time,
             request_total = excluded.request_total, error_total = excluded.error_total,
             duration_s_total = excluded.duration_s_total,
             received_bytes_total = excluded.received_bytes_total,
             sent_bytes_total = excluded.sent_bytes_total,
             request_count = environment_report.request_count
                 + increase(environment_report.traffic_start_time = excluded.traffic_start_time,
                            environment_report.request_total, excluded.request_total),
             error_count = environment_report.error_count
                 + increase(environment_report.traffic_start_time = excluded.traffic_start_time,
                            environment_report.error_total, excluded.error_total),
             duration_s_sum = environment_report.duration_s_sum
                 + increase(environment_report.traffic_start_time = excluded.traffic_start_time,
                            environment_report.duration_s_total, excluded.duration_s_total),
             received_bytes = environment_report.received_bytes
                 + increase(environment_report.traffic_start_time = excluded.traffic_start_time,
                            environment_report.received_bytes_total, excluded.received_bytes_total),
             sent_bytes = environment_report.sent_bytes
                 + increase(environment_report.traffic_start_time = excluded.traffic_start_time,
                            environment_report.sent_bytes_total, excluded.sent_bytes_total)",
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
        &requests,
        &errors,
        &durations,
        &received,
        &sent,
        &hostnames as &[Option<String>],
        &starts as &[Option<OffsetDateTime>],
        &ends as &[Option<OffsetDateTime>],
        &traffic_starts as &[Option<OffsetDateTime>],
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Returns the times at which the programs of environments were last restarted, as far as they are known.
pub(crate) async fn restart_times(
    tx: &mut Tx,
    ids: &[Uuid],
) -> Result<BTreeMap<EnvironmentId, OffsetDateTime>> {
    // Environments of an authenticated runner (no org_id).
    let rows = query!(
        r#"select environment_id, restarted_at as "restarted_at!" from environment_report
           where environment_id = any ($1) and restarted_at is not null"#,
        ids
    );
    let rows = rows.fetch_all(tx.conn()).await?;
    Ok(rows.into_iter().map(|it| (EnvironmentId(it.environment_id), it.restarted_at)).collect())
}

/// Returns the last report about an environment.
pub(crate) async fn get(db: &Db, id: EnvironmentId) -> Result<Option<StoredReport>> {
    // The caller has read the environment with the grant (no org_id).
    let report = query_as!(
        StoredReport,
        "select observed, http_ok, cpu_cores, memory_bytes, disk_bytes, process_count, limits, isolation,
                restart_count, last_exit_code, certificate_hostname, certificate_start_time,
                certificate_end_time, reported_at
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
