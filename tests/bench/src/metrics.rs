//! Metrics of environments: their reports, their storage and their reading.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use api::project::{
    self as pb, environment_service_client::EnvironmentServiceClient,
    runner_service_client::RunnerServiceClient,
};
use sqlx::{Connection, Executor, PgConnection};
use tonic::transport::Channel;

use crate::{
    hosting::authenticated,
    load, median,
    mutation::create_sample_project,
    noop, print,
    runner_load::{Leases, connect_server, cpu_seconds, heartbeat},
    suite::Suite,
};

/// Number of runners, with ten environments each.
const RUNNERS: usize = 100;
/// Number of heartbeats of each runner: more than a minute, at whose end its samples are stored.
const HEARTBEATS: u32 = 14;
/// Interval of heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// Number of curves that are read.
const CURVES: usize = 100;

/// Rows of a day before now for all environments, minute by minute.
const INSERT_DAY: &str = "
    set search_path = project;
    insert into metric_minute
    select id, lowest_id(minute), 12, random(), random(), 12e8 * random(), 1e8::bigint, 1e9::bigint,
        (100 * random())::int, (3 * random())::int, random(), 1e6 * random(), 1e6 * random()
    from environment,
        generate_series(now() - interval '1439 minutes', now() - interval '3 minutes',
            interval '1 minute') as minute
    order by date_trunc('hour', minute), case when minute < now() - interval '1 hour' then id end,
        minute, id
    on conflict do nothing;
    analyze metric_minute";

/// Runs all measurements.
pub(crate) async fn run() -> Result<()> {
    let suite = Suite::start(&noop::without_audit()).await?;
    let ann = suite.sign_in("ann@example.com").await?;
    let sample = create_sample_project(&suite, &ann).await?;
    let channels = load::channels(suite.address).await?;
    let mut runners = vec![];
    for number in 0..RUNNERS {
        let channel = &channels[number % channels.len()];
        runners.push(connect_server(channel, &ann, &sample, number).await?);
    }
    let cpu_before = cpu_seconds()?;
    let start = Instant::now();
    for round in 0..HEARTBEATS {
        for (number, (token, leases)) in runners.iter().enumerate() {
            report(channels[number % channels.len()].clone(), token, leases, round).await?;
        }
        tokio::time::sleep_until((start + HEARTBEAT_INTERVAL * (round + 1)).into()).await;
    }
    let share = (cpu_seconds()? - cpu_before) / start.elapsed().as_secs_f64();
    let environments: usize = runners.iter().map(|it| it.1.len()).sum();
    print(&format!(
        "| CPU of reports about {environments} running environments, every 5 s, with clients \
         | {:.1} % of a core | | | < 5 % |\n",
        share * 100.0
    ));

    let mut connection = PgConnection::connect_with(&suite.options).await?;
    connection.execute(INSERT_DAY).await?;
    let size = "select sum(pg_total_relation_size(relid))::bigint
                from pg_partition_tree('project.metric_minute')";
    let bytes: i64 = sqlx::query_scalar(size).fetch_one(&mut connection).await?;
    let hundreds = i64::try_from(environments)? / 100;
    print(&format!(
        "| Storage of the metrics of a day for each 100 environments | {} MB | | | < 40 MB |\n",
        bytes / hundreds / 1_000_000
    ));

    let mut times = vec![];
    let mut service = EnvironmentServiceClient::new(channels[0].clone());
    for (_, leases) in runners.iter().cycle().take(CURVES) {
        let get = pb::GetMetricsRequest {
            org_id: sample.org_id.clone(),
            project_id: sample.project_id.clone(),
            environment_id: leases.first().context("no lease")?.environment_id.clone(),
            ..Default::default()
        };
        let start = Instant::now();
        let curve = service.get_metrics(authenticated(get, &ann)?).await?.into_inner();
        times.push(start.elapsed().as_secs_f64());
        ensure!(curve.points.len() > 1_400, "the curve has {} points", curve.points.len());
    }
    print(&format!(
        "| `GetMetrics` of a day, minute by minute | {:.1} ms | | | ≤ 5 ms |\n",
        median(times) * 1e3
    ));
    suite.stop().await
}

/// Sends a heartbeat of a runner, with a report of each environment.
async fn report(channel: Channel, token: &str, leases: &Leases, round: u32) -> Result<()> {
    let traffic = pb::TrafficTotals {
        request_count: i64::from(round) * 100,
        duration_s: f64::from(round),
        received_bytes: i64::from(round) * 10_000,
        sent_bytes: i64::from(round) * 100_000,
        ..Default::default()
    };
    let environment_report = |lease: &pb::Lease| pb::EnvironmentReport {
        environment_id: lease.environment_id.clone(),
        observed: pb::Observed::Running.into(),
        http_ok: true,
        cpu_cores: 0.1,
        memory_bytes: 1 << 26,
        disk_bytes: 1 << 28,
        traffic: Some(traffic),
        ..Default::default()
    };
    let heartbeat = heartbeat(leases, environment_report);
    let mut runner = RunnerServiceClient::new(channel);
    runner.heartbeat(authenticated(heartbeat, token)?).await?;
    Ok(())
}
