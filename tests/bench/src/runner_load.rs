//! Load of runners: heartbeats and progress reports of many tasks.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use api::project::{
    self as pb, environment_service_client::EnvironmentServiceClient,
    runner_service_client::RunnerServiceClient, server_service_client::ServerServiceClient,
};
use tonic::transport::Channel;

use crate::{
    hosting::authenticated,
    load,
    mutation::{SampleProject, create_sample_project},
    noop, print,
    suite::Suite,
};

/// Number of runners.
const RUNNERS: usize = 50;

/// Number of environments and running tasks per runner.
const TASKS: usize = 10;

/// Number of heartbeats per runner that are measured.
const HEARTBEATS: u32 = 4;

/// Interval of heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// Measures the CPU usage caused by runners that send heartbeats and progress reports of all tasks.
pub(crate) async fn run() -> Result<()> {
    let suite = Suite::start(&noop::without_audit()).await?;
    let ann = suite.sign_in("ann@example.com").await?;
    let sample = create_sample_project(&suite, &ann).await?;
    let channels = load::channels(suite.address).await?;
    let mut runners = vec![];
    for number in 0..RUNNERS {
        runners
            .push(connect_server(&channels[number % channels.len()], &ann, &sample, number).await?);
    }
    let cpu_before = cpu_seconds()?;
    let start = Instant::now();
    for round in 0..HEARTBEATS {
        let mut tasks = tokio::task::JoinSet::new();
        for (number, (token, leases)) in runners.iter().cloned().enumerate() {
            let channel = channels[number % channels.len()].clone();
            tasks.spawn(async move { report(channel, &token, &leases, round).await });
        }
        while let Some(reported) = tasks.join_next().await {
            reported??;
        }
        tokio::time::sleep((start + HEARTBEAT_INTERVAL * (round + 1)) - Instant::now()).await;
    }
    // Used part of one core.
    let share = (cpu_seconds()? - cpu_before) / start.elapsed().as_secs_f64();
    print(&format!(
        "| CPU of heartbeats and progress of {RUNNERS} runners with {} running tasks, including clients \
         | {:.1} % of a core | | | < 20 % |\n",
        RUNNERS * TASKS,
        share * 100.0
    ));
    suite.stop().await
}

/// Leases of one runner.
pub(crate) type Leases = Vec<pb::Lease>;

/// Connects a server and leases a task for each of its environments. Returns the agent token and the leases.
pub(crate) async fn connect_server(
    channel: &Channel,
    ann: &str,
    sample: &SampleProject,
    number: usize,
) -> Result<(String, Leases)> {
    let org_id = sample.org_id.clone();
    let project_id = sample.project_id.clone();
    let connect = pb::ConnectServerRequest {
        org_id: org_id.clone(),
        name: format!("server {number}"),
        address: format!("s{number}.example.com"),
        capacity: Some(pb::Capacity { cpu_cores: 64.0, memory_mb: 65_536, disk_gb: 1_000 }),
        ..Default::default()
    };
    let mut servers = ServerServiceClient::new(channel.clone());
    let connected = servers.connect_server(authenticated(connect, ann)?).await?.into_inner();
    let server_id = connected.server.context("the response has no server")?.id;
    let token = connected.agent_token;
    let mut runner = RunnerServiceClient::new(channel.clone());
    let heartbeat = pb::HeartbeatRequest { runner: "bench".to_owned(), ..Default::default() };
    runner.heartbeat(authenticated(heartbeat, &token)?).await?;
    let mut environments = EnvironmentServiceClient::new(channel.clone());
    let mut leases = vec![];
    for index in 0..TASKS {
        let create = pb::CreateEnvironmentRequest {
            org_id: org_id.clone(),
            project_id: project_id.clone(),
            name: format!("{number}-{index}"),
            server_id: server_id.clone(),
            deploy_now: true,
            ..Default::default()
        };
        environments.create_environment(authenticated(create, ann)?).await?;
        let lease = pb::LeaseTaskRequest { runner: "bench".to_owned(), wait: None };
        let lease = runner.lease_task(authenticated(lease, &token)?).await?.into_inner().lease;
        leases.push(lease.context("no task was leased")?);
    }
    Ok((token, leases))
}

/// Returns a heartbeat of a runner that holds these leases, with a report of each environment.
pub(crate) fn heartbeat(
    leases: &[pb::Lease],
    environment_report: impl Fn(&pb::Lease) -> pb::EnvironmentReport,
) -> pb::HeartbeatRequest {
    let held_task = |lease: &pb::Lease| pb::HeldTask {
        task_id: lease.task_id.clone(),
        lease_id: lease.lease_id.clone(),
    };
    pb::HeartbeatRequest {
        runner: "bench".to_owned(),
        environments: leases.iter().map(environment_report).collect(),
        tasks: leases.iter().map(held_task).collect(),
        ..Default::default()
    }
}

/// Sends one heartbeat, and a progress report of every task.
async fn report(channel: Channel, token: &str, leases: &[pb::Lease], round: u32) -> Result<()> {
    let mut runner = RunnerServiceClient::new(channel);
    let environment_report = |lease: &pb::Lease| pb::EnvironmentReport {
        environment_id: lease.environment_id.clone(),
        observed: pb::Observed::Stopped.into(),
        memory_bytes: 1 << 26,
        disk_bytes: 1 << 28,
        ..Default::default()
    };
    let heartbeat = heartbeat(leases, environment_report);
    let response = runner.heartbeat(authenticated(heartbeat, token)?).await?.into_inner();
    ensure!(response.lost_task_ids.is_empty(), "a lease was lost");
    for lease in leases {
        let progress = pb::ReportProgressRequest {
            runner: "bench".to_owned(),
            task_id: lease.task_id.clone(),
            lease_id: lease.lease_id.clone(),
            progress_percent: i32::try_from(round)? * 10,
            current_step: "build".to_owned(),
            log_lines: vec!["a line of the build".to_owned(); 10],
            ..Default::default()
        };
        runner.report_progress(authenticated(progress, token)?).await?;
    }
    Ok(())
}

/// Returns the CPU time that this process and its ended children have consumed, in seconds.
pub(crate) fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, rest) = stat.rsplit_once(") ").context("/proc/self/stat is malformed")?;
    let fields: Vec<_> = rest.split(' ').collect();
    // User and system time in clock ticks of 10 ms (fields 14 to 17 of proc(5)).
    let ticks = fields.get(11..15).context("/proc/self/stat is too short")?;
    let ticks = ticks.iter().map(|it| it.parse::<f64>()).sum::<Result<f64, _>>()?;
    Ok(ticks / 100.0)
}
