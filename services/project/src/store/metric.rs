//! SQL statements about metrics of environments.

use chassis::{Db, Result, Tx, id};
use project_rules::{
    environment::metric::{Metric, MetricRange, Resolution},
    types::{EnvironmentId, ServerId},
};
use sqlx::{query, query_as};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// Time after the end of an hour in which reports still change its last minute.
const LATE_REPORTS: Duration = Duration::minutes(2);

/// Stores the samples of those environments of a server whose last report is not of the current minute, as
/// metrics of their minute and of its hour. A metric that exists gets the samples too: the clocks of replicas
/// differ, and a clock may be set back.
pub(crate) async fn end_minutes(tx: &mut Tx, server_id: ServerId, ids: &[Uuid]) -> Result<()> {
    // Environments of an authenticated runner (no org_id).
    query!(
        "with ended as (
             update environment_report set minute = date_trunc('minute', $3::timestamptz, 'UTC'),
                 sample_count = 0, cpu_cores_sum = 0, cpu_cores_max = 0, memory_bytes_sum = 0,
                 memory_bytes_max = 0, request_count = 0, error_count = 0, duration_s_sum = 0,
                 received_bytes = 0, sent_bytes = 0
             from environment_report as old
             where environment_report.environment_id = old.environment_id
               and old.server_id = $1 and old.environment_id = any ($2)
               and old.minute is distinct from date_trunc('minute', $3::timestamptz, 'UTC')
             returning old.*),
         minute as (
             insert into metric_minute
             select environment_id, lowest_id(minute), sample_count, cpu_cores_sum, cpu_cores_max,
                    memory_bytes_sum, memory_bytes_max, disk_bytes, request_count, error_count,
                    duration_s_sum, received_bytes, sent_bytes
             from ended where sample_count > 0
             on conflict (environment_id, id) do update set
                 sample_count = metric_minute.sample_count + excluded.sample_count,
                 cpu_cores_sum = metric_minute.cpu_cores_sum + excluded.cpu_cores_sum,
                 cpu_cores_max = greatest(metric_minute.cpu_cores_max, excluded.cpu_cores_max),
                 memory_bytes_sum = metric_minute.memory_bytes_sum + excluded.memory_bytes_sum,
                 memory_bytes_max = greatest(metric_minute.memory_bytes_max, excluded.memory_bytes_max),
                 disk_bytes = excluded.disk_bytes,
                 request_count = metric_minute.request_count + excluded.request_count,
                 error_count = metric_minute.error_count + excluded.error_count,
                 duration_s_sum = metric_minute.duration_s_sum + excluded.duration_s_sum,
                 received_bytes = metric_minute.received_bytes + excluded.received_bytes,
                 sent_bytes = metric_minute.sent_bytes + excluded.sent_bytes)
         insert into metric_hour
         select environment_id, lowest_id(date_trunc('hour', minute, 'UTC')), sample_count, cpu_cores_sum,
                cpu_cores_max, memory_bytes_sum, memory_bytes_max, disk_bytes, request_count, error_count,
                duration_s_sum, received_bytes, sent_bytes
         from ended where sample_count > 0
         on conflict (environment_id, id) do update set
             sample_count = metric_hour.sample_count + excluded.sample_count,
             cpu_cores_sum = metric_hour.cpu_cores_sum + excluded.cpu_cores_sum,
             cpu_cores_max = greatest(metric_hour.cpu_cores_max, excluded.cpu_cores_max),
             memory_bytes_sum = metric_hour.memory_bytes_sum + excluded.memory_bytes_sum,
             memory_bytes_max = greatest(metric_hour.memory_bytes_max, excluded.memory_bytes_max),
             disk_bytes = excluded.disk_bytes,
             request_count = metric_hour.request_count + excluded.request_count,
             error_count = metric_hour.error_count + excluded.error_count,
             duration_s_sum = metric_hour.duration_s_sum + excluded.duration_s_sum,
             received_bytes = metric_hour.received_bytes + excluded.received_bytes,
             sent_bytes = metric_hour.sent_bytes + excluded.sent_bytes",
        server_id.0,
        ids,
        tx.now,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Returns the metrics of an environment in a time range, oldest first.
pub(crate) async fn list(db: &Db, id: EnvironmentId, range: &MetricRange) -> Result<Vec<Metric>> {
    let (start, end) = (id::lower_bound(range.start), id::lower_bound(range.end));
    // The caller has read the environment with the grant (no org_id).
    let metrics = match range.resolution {
        Resolution::Minute => {
            query_as!(
                Metric,
                "select environment_id, id, sample_count, cpu_cores_sum, cpu_cores_max, memory_bytes_sum,
                        memory_bytes_max, disk_bytes, request_count, error_count, duration_s_sum,
                        received_bytes, sent_bytes
                 from metric_minute where environment_id = $1 and id >= $2 and id < $3 order by id",
                id.0,
                start,
                end
            )
            .fetch_all(db.pool())
            .await
        }
        Resolution::Hour => {
            query_as!(
                Metric,
                "select environment_id, id, sample_count, cpu_cores_sum, cpu_cores_max, memory_bytes_sum,
                        memory_bytes_max, disk_bytes, request_count, error_count, duration_s_sum,
                        received_bytes, sent_bytes
                 from metric_hour where environment_id = $1 and id >= $2 and id < $3 order by id",
                id.0,
                start,
                end
            )
            .fetch_all(db.pool())
            .await
        }
    };
    Ok(metrics?)
}

/// Returns the metrics of the hours from a time on of environments, by environment, oldest first.
pub(crate) async fn list_hours(
    db: &Db,
    ids: &[Uuid],
    start: OffsetDateTime,
) -> Result<Vec<Metric>> {
    // The caller has read the environments with the grant (no org_id).
    let metrics = query_as!(
        Metric,
        "select environment_id, id, sample_count, cpu_cores_sum, cpu_cores_max, memory_bytes_sum,
                memory_bytes_max, disk_bytes, request_count, error_count, duration_s_sum, received_bytes,
                sent_bytes
         from metric_hour where environment_id = any ($1) and id >= $2 order by environment_id, id",
        ids,
        id::lower_bound(start)
    );
    Ok(metrics.fetch_all(db.pool()).await?)
}

/// Stores the metrics of the minutes of the last hour by environment. They were written minute by minute, so
/// those of an environment are all over the table, and a day of it would be read from as many pages as it has
/// minutes.
pub(crate) async fn sort_last_hour(tx: &mut Tx) -> Result<u64> {
    let end = (tx.now - LATE_REPORTS).truncate_to_hour();
    // Metrics of all organizations (no org_id).
    query!(
        "with moved as (
             delete from metric_minute where id >= $1 and id < $2
             returning environment_id, id, sample_count, cpu_cores_sum, cpu_cores_max, memory_bytes_sum,
                 memory_bytes_max, disk_bytes, request_count, error_count, duration_s_sum, received_bytes,
                 sent_bytes)
         insert into metric_minute
         select environment_id, id, sample_count, cpu_cores_sum, cpu_cores_max, memory_bytes_sum,
             memory_bytes_max, disk_bytes, request_count, error_count, duration_s_sum, received_bytes,
             sent_bytes
         from moved order by environment_id, id",
        id::lower_bound(end - Duration::HOUR),
        id::lower_bound(end)
    )
    .execute(tx.conn())
    .await?;
    // Nothing is left to do until the next hour.
    Ok(0)
}

/// Deletes the metrics of an environment.
pub(crate) async fn delete(tx: &mut Tx, id: EnvironmentId) -> Result<()> {
    // The caller has locked the environment (no org_id).
    query!(
        "with minute as (delete from metric_minute where environment_id = $1)
         delete from metric_hour where environment_id = $1",
        id.0
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
