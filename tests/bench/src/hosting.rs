//! What hosting costs: lists of many projects, runners that say how everything is, logs that are followed,
//! and how long a deployment takes.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use api::project::{
    self as pb, environment_service_client::EnvironmentServiceClient,
    project_service_client::ProjectServiceClient, runner_service_client::RunnerServiceClient,
    server_service_client::ServerServiceClient, task_service_client::TaskServiceClient,
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tonic::{Request, metadata::MetadataValue, transport::Channel};

use crate::{
    load,
    mutation::{Place, pgbench, place},
    noop, say,
    suite::Suite,
};

/// Measures all four.
pub(crate) async fn run() -> Result<()> {
    lists().await?;
    runners().await?;
    logs().await?;
    deployments().await
}

fn with<M>(message: M, token: &str) -> Result<Request<M>> {
    let mut request = Request::new(message);
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse()?;
    request.metadata_mut().insert("authorization", bearer);
    Ok(request)
}

async fn sql(suite: &Suite, statement: String) -> Result<()> {
    let mut connection = PgConnection::connect_with(&suite.options).await?;
    connection.execute(AssertSqlSafe(statement)).await?;
    Ok(())
}

/// A page of fifty of a member of 1,000 projects in an organization of 10,000.
async fn lists() -> Result<()> {
    let suite = Suite::start(&noop::without_log()).await?;
    let ann = suite.sign_in("ann@example.com").await?;
    let bob = suite.sign_in("bob@example.com").await?;
    let place = place(&suite, &ann).await?;
    let org = &place.org_id;
    let made = "('00000005-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid";
    let user = "(select id from identity.account where email = 'bob@example.com')";
    sql(
        &suite,
        format!(
            "begin; set session_replication_role = replica;
             insert into identity.member (id, org_id, user_id, role, created_at)
             values (gen_random_uuid(), '{org}', {user}, 'developer', now());
             insert into identity.project (org_id, id) select '{org}', {made} from generate_series(1,
             10000) as n;
             insert into identity.project_grant (id, org_id, project_id, user_id, role, granted_by,
             created_at)
             select gen_random_uuid(), '{org}', {made}, {user}, 'developer', {user}, now()
             from generate_series(1, 10000, 10) as n;
             insert into project.project (id, org_id, name, slug, repository_url, default_branch, creator_id,
                 created_at, updated_at)
             select {made}, '{org}', 'Project ' || n, 'project-' || n, 'https://git.example.com/a.git',
             'main',
                 {user}, now(), now() from generate_series(1, 10000) as n;
             update identity.organization set access_version = access_version + 1 where id = '{org}';
             commit"
        ),
    )
    .await?;
    suite.analyze().await?;
    let script =
        "select id, org_id, name, slug, description, repository_url, default_branch, odoo_version,
        server_id,
        production_deploy_min_role, state, version, creator_id, created_at, updated_at
        from project.project where org_id = :org and id > '00000005-0000-7000-8000-000000001000'
        order by id limit 51;";
    let (mut ours, mut bare) = (vec![], vec![]);
    for _ in 0..3 {
        bare.push(pgbench(&suite.options, script, &place)?);
        ours.push(list(&suite, &bob, &place).await?);
    }
    let (ours, bare) = (crate::median(ours), crate::median(bare));
    say(&format!(
        "| `ListProjects`: 50 of 1,000 visible of 10,000, beside the bare query | {ours:.0}/s \
         | {bare:.0}/s | {:.2} times as long | ≤ 3 |\n",
        bare / ours
    ));
    suite.stop().await
}

async fn list(suite: &Suite, token: &str, place: &Place) -> Result<f64> {
    let channels = load::channels(suite.address).await?;
    let (org_id, token) = (place.org_id.clone(), token.to_owned());
    load::rate(8, move |caller, _| {
        let mut client = ProjectServiceClient::new(channels[caller % channels.len()].clone());
        let ask =
            pb::ListProjectsRequest { org_id: org_id.clone(), page_size: 50, ..Default::default() };
        let request = with(ask, &token);
        async move {
            let page = client.list_projects(request?).await?.into_inner();
            ensure!(page.projects.len() == 50, "a page of {}", page.projects.len());
            Ok(())
        }
    })
    .await
}

/// How many runners, and running tasks of each.
const RUNNERS: usize = 50;
const TASKS: usize = 10;

/// Fifty runners that say every five seconds how their ten environments are and how far their ten tasks.
async fn runners() -> Result<()> {
    let suite = Suite::start(&noop::without_log()).await?;
    let ann = suite.sign_in("ann@example.com").await?;
    let place = place(&suite, &ann).await?;
    let channels = load::channels(suite.address).await?;
    let mut held = vec![];
    for number in 0..RUNNERS {
        held.push(connect(&channels[number % channels.len()], &ann, &place, number).await?);
    }
    let cpu = cpu_seconds()?;
    let (start, rounds) = (Instant::now(), 4);
    for round in 0..rounds {
        let mut tasks = tokio::task::JoinSet::new();
        for (number, (token, leases)) in held.iter().cloned().enumerate() {
            let channel = channels[number % channels.len()].clone();
            tasks.spawn(async move { speak(channel, &token, &leases, round).await });
        }
        while let Some(spoken) = tasks.join_next().await {
            spoken??;
        }
        tokio::time::sleep((start + Duration::from_secs(5) * (round + 1)) - Instant::now()).await;
    }
    let share = (cpu_seconds()? - cpu) / start.elapsed().as_secs_f64();
    say(&format!(
        "| {RUNNERS} runners with {} running tasks: heartbeats and progress, the callers included \
         | {:.1} % of a core | | | < 20 % |\n",
        RUNNERS * TASKS,
        share * 100.0
    ));
    suite.stop().await
}

type Leases = Vec<pb::Lease>;

/// A server with running tasks.
async fn connect(
    channel: &Channel,
    ann: &str,
    place: &Place,
    number: usize,
) -> Result<(String, Leases)> {
    let (org_id, project_id) = (place.org_id.clone(), place.project_id.clone());
    let connect = pb::ConnectServerRequest {
        org_id: org_id.clone(),
        name: format!("server {number}"),
        address: format!("s{number}.example.com"),
        capacity: Some(pb::Capacity { cpu_cores: 64.0, memory_mb: 65_536, disk_gb: 1_000 }),
        ..Default::default()
    };
    let mut servers = ServerServiceClient::new(channel.clone());
    let made = servers.connect_server(with(connect, ann)?).await?.into_inner();
    let (server_id, token) = (made.server.context("a server")?.id, made.agent_token);
    let mut runner = RunnerServiceClient::new(channel.clone());
    let beat = pb::HeartbeatRequest { runner: "bench".to_owned(), ..Default::default() };
    runner.heartbeat(with(beat, &token)?).await?;
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
        environments.create_environment(with(create, ann)?).await?;
        let ask = pb::LeaseTaskRequest { runner: "bench".to_owned(), wait: None };
        let lease = runner.lease_task(with(ask, &token)?).await?.into_inner().lease;
        leases.push(lease.context("a lease")?);
    }
    Ok((token, leases))
}

/// One heartbeat, and progress of every task.
async fn speak(channel: Channel, token: &str, leases: &[pb::Lease], round: u32) -> Result<()> {
    let mut runner = RunnerServiceClient::new(channel);
    let report = |it: &pb::Lease| pb::EnvironmentReport {
        environment_id: it.environment_id.clone(),
        observed: pb::Observed::Stopped.into(),
        memory_bytes: 1 << 26,
        disk_bytes: 1 << 28,
        ..Default::default()
    };
    let task = |it: &pb::Lease| pb::HeldTask {
        task_id: it.task_id.clone(),
        lease_id: it.lease_id.clone(),
    };
    let beat = pb::HeartbeatRequest {
        runner: "bench".to_owned(),
        environments: leases.iter().map(report).collect(),
        tasks: leases.iter().map(task).collect(),
        ..Default::default()
    };
    let answer = runner.heartbeat(with(beat, token)?).await?.into_inner();
    ensure!(answer.lost_task_ids.is_empty(), "a lease was lost");
    for it in leases {
        let progress = pb::ReportProgressRequest {
            runner: "bench".to_owned(),
            task_id: it.task_id.clone(),
            lease_id: it.lease_id.clone(),
            progress_percent: i32::try_from(round)? * 10,
            current_step: "build".to_owned(),
            log_lines: vec!["a line of the build".to_owned(); 10],
            ..Default::default()
        };
        runner.report_progress(with(progress, token)?).await?;
    }
    Ok(())
}

/// Processor time of this process so far, in seconds.
fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, rest) = stat.rsplit_once(") ").context("a line")?;
    let fields: Vec<_> = rest.split(' ').collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}

/// Megabytes of the log that is followed.
const LOG_MB: u32 = 100;

/// A long log, from its first line to its end.
async fn logs() -> Result<()> {
    let suite = Suite::start(&noop::without_log()).await?;
    let ann = suite.sign_in("ann@example.com").await?;
    let place = place(&suite, &ann).await?;
    let channel = load::channels(suite.address).await?.remove(0);
    let (_, leases) = connect(&channel, &ann, &place, 0).await?;
    let task_id = leases[0].task_id.clone();
    // A thousand lines of a hundred characters at a time.
    sql(
        &suite,
        format!(
            "insert into project.task_log (task_id, first_line, lines)
             select '{task_id}', n * 1000, array_fill(repeat('x', 100), array[1000])
             from generate_series(0, {LOG_MB} * 10 - 1) as n;
             update project.task set state = 'completed', lease_id = null,
                 lease_ends_at = null where id = '{task_id}'"
        ),
    )
    .await?;
    let mut rates = vec![];
    for _ in 0..3 {
        let ask = pb::WatchTaskLogRequest {
            org_id: place.org_id.clone(),
            project_id: place.project_id.clone(),
            task_id: task_id.clone(),
            from_line: 0,
        };
        let start = Instant::now();
        let mut tasks = TaskServiceClient::new(channel.clone());
        let mut stream = tasks.watch_task_log(with(ask, &ann)?).await?.into_inner();
        let mut lines = 0;
        while let Some(it) = stream.message().await? {
            lines += it.lines.len();
        }
        ensure!(lines == LOG_MB as usize * 10_000, "{lines} lines");
        rates.push(f64::from(LOG_MB) / start.elapsed().as_secs_f64());
    }
    say(&format!(
        "| A task's log of {LOG_MB} MB followed over gRPC | {:.0} MB/s | | | ≥ 50 MB/s |\n",
        crate::median(rates)
    ));
    suite.stop().await
}

/// A program in one file.
const SERVER: &str = r#"use IO::Socket::INET;
my $s = IO::Socket::INET->new(LocalAddr => $ENV{HOST}, LocalPort => $ENV{PORT}, Listen => 16,
    ReuseAddr => 1) or die;
while (my $c = $s->accept) {
    while (defined(my $line = <$c>)) { last if $line =~ /^\r?\n$/ }
    print $c "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"; close $c;
}
"#;

/// From Deploy to RUNNING, beside the program's own start.
async fn deployments() -> Result<()> {
    let suite = Suite::start(tenantry::INSTALLS).await?;
    let ann = suite.sign_in("ann@example.com").await?;
    let place = place(&suite, &ann).await?;
    let repository = tempfile::tempdir()?;
    write_repository(repository.path())?;
    let url = repository.path().to_string_lossy().into_owned();
    sql(&suite, format!("update project.project set repository_url = '{url}'")).await?;
    let channel = load::channels(suite.address).await?.remove(0);
    let mut environments = EnvironmentServiceClient::new(channel.clone());
    let mut tasks = TaskServiceClient::new(channel.clone());
    let (org_id, project_id) = (place.org_id.clone(), place.project_id.clone());
    let create = pb::CreateEnvironmentRequest {
        org_id: org_id.clone(),
        project_id: project_id.clone(),
        ..Default::default()
    };
    let made = environments.create_environment(with(create, &ann)?).await?.into_inner();
    let environment_id = made.environment.context("an environment")?.id;
    let mut times = vec![];
    for _ in 0..6 {
        let deploy = pb::DeployEnvironmentRequest {
            org_id: org_id.clone(),
            project_id: project_id.clone(),
            environment_id: environment_id.clone(),
            ..Default::default()
        };
        let task = environments.deploy_environment(with(deploy, &ann)?).await?.into_inner().task;
        let start = Instant::now();
        let ask = pb::WatchTaskLogRequest {
            org_id: org_id.clone(),
            project_id: project_id.clone(),
            task_id: task.context("a task")?.id,
            from_line: 0,
        };
        let mut stream = tasks.watch_task_log(with(ask, &ann)?).await?.into_inner();
        let mut last = None;
        while let Some(it) = stream.message().await? {
            last = it.task.or(last);
        }
        let last = last.context("a task")?;
        ensure!(last.state() == pb::TaskState::Completed, "{}", last.error_message);
        times.push(start.elapsed().as_secs_f64());
    }
    // The first one is cold.
    let ours = crate::median(times.split_off(1));
    let own = own_start(repository.path())?;
    say(&format!(
        "| From Deploy accepted to RUNNING, warm (the program's own start) | {:.0} ms | {:.0} ms \
         | {:.2} s beyond it | ≤ 1.5 s |\n",
        ours * 1e3,
        own * 1e3,
        ours - own
    ));
    let destroy = pb::DestroyEnvironmentRequest {
        org_id,
        project_id,
        environment_id,
        confirm_name: "shop-development-1".to_owned(),
        ..Default::default()
    };
    environments.destroy_environment(with(destroy, &ann)?).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    suite.stop().await
}

fn write_repository(folder: &Path) -> Result<()> {
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    std::fs::write(folder.join("server.pl"), SERVER)?;
    std::fs::write(folder.join("Procfile"), "web: perl server.pl\n")?;
    let author = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"];
    let commit = [&author[..], &["commit", "-q", "-m", "Serve"]].concat();
    for arguments in [vec!["init", "-q", "-b", "main"], vec!["add", "."], commit] {
        let done = Command::new("git").args(arguments).current_dir(folder).status()?;
        ensure!(done.success(), "git does not work");
    }
    Ok(())
}

/// How long the program takes by itself until it answers.
fn own_start(folder: &Path) -> Result<f64> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let start = Instant::now();
    let mut program = Command::new("perl");
    program.arg("server.pl").current_dir(folder).env("HOST", "127.0.0.1");
    let mut child = program.env("PORT", port.to_string()).spawn()?;
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = start.elapsed().as_secs_f64();
    child.kill()?;
    child.wait()?;
    Ok(took)
}
