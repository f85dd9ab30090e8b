//! Hosting: streaming of task logs, and duration of a deployment.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use api::project::{
    self as pb, environment_service_client::EnvironmentServiceClient,
    task_service_client::TaskServiceClient,
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tonic::{Request, metadata::MetadataValue};

use crate::{
    load,
    mutation::create_sample_project,
    noop, print,
    runner_load::{self, connect_server},
    suite::Suite,
};

/// Runs all measurements.
pub(crate) async fn run() -> Result<()> {
    runner_load::run().await?;
    measure_log_streaming().await?;
    measure_deployments().await
}

/// Returns a request with a bearer token.
pub(crate) fn authenticated<M>(message: M, token: &str) -> Result<Request<M>> {
    let mut request = Request::new(message);
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse()?;
    request.metadata_mut().insert("authorization", bearer);
    Ok(request)
}

/// Executes SQL in the suite's database.
async fn execute(suite: &Suite, statement: String) -> Result<()> {
    let mut connection = PgConnection::connect_with(&suite.options).await?;
    connection.execute(AssertSqlSafe(statement)).await?;
    Ok(())
}

/// Size of the streamed log in MB.
const LOG_MB: u32 = 100;

/// Measures streaming of a long task log from its first to its last line.
async fn measure_log_streaming() -> Result<()> {
    let suite = Suite::start(&noop::without_audit()).await?;
    let ann = suite.sign_in("ann@example.com").await?;
    let sample = create_sample_project(&suite, &ann).await?;
    let channel = load::channels(suite.address).await?.remove(0);
    let (_, leases) = connect_server(&channel, &ann, &sample, 0).await?;
    let task_id = leases[0].task_id.clone();
    // Each row has 1,000 lines of 100 characters.
    execute(
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
        let watch = pb::WatchTaskLogRequest {
            org_id: sample.org_id.clone(),
            project_id: sample.project_id.clone(),
            task_id: task_id.clone(),
            from_line: 0,
        };
        let start = Instant::now();
        let mut tasks = TaskServiceClient::new(channel.clone());
        let mut stream = tasks.watch_task_log(authenticated(watch, &ann)?).await?.into_inner();
        let mut lines = 0;
        while let Some(response) = stream.message().await? {
            lines += response.lines.len();
        }
        ensure!(lines == LOG_MB as usize * 10_000, "the stream ended after {lines} lines");
        rates.push(f64::from(LOG_MB) / start.elapsed().as_secs_f64());
    }
    print(&format!(
        "| Streaming of a task log of {LOG_MB} MB over gRPC | {:.0} MB/s | | | ≥ 50 MB/s |\n",
        crate::median(rates)
    ));
    suite.stop().await
}

/// HTTP server in Perl: the deployed program.
const SERVER: &str = r#"use IO::Socket::INET;
my $server = IO::Socket::INET->new(LocalAddr => $ENV{HOST}, LocalPort => $ENV{PORT}, Listen => 16,
    ReuseAddr => 1) or die;
while (my $client = $server->accept) {
    while (defined(my $line = <$client>)) { last if $line =~ /^\r?\n$/ }
    print $client "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";
    close $client;
}
"#;

/// Measures the time from `DeployEnvironment` to RUNNING. Reference: the start of the program alone.
async fn measure_deployments() -> Result<()> {
    let suite = Suite::start(tenantry::INSTALLS).await?;
    let ann = suite.sign_in("ann@example.com").await?;
    let sample = create_sample_project(&suite, &ann).await?;
    let repository = tempfile::tempdir()?;
    write_repository(repository.path())?;
    let url = repository.path().to_string_lossy().into_owned();
    execute(&suite, format!("update project.project set repository_url = '{url}'")).await?;
    let channel = load::channels(suite.address).await?.remove(0);
    let mut environments = EnvironmentServiceClient::new(channel.clone());
    let mut tasks = TaskServiceClient::new(channel.clone());
    let org_id = sample.org_id.clone();
    let project_id = sample.project_id.clone();
    let create = pb::CreateEnvironmentRequest {
        org_id: org_id.clone(),
        project_id: project_id.clone(),
        ..Default::default()
    };
    let created = environments.create_environment(authenticated(create, &ann)?).await?.into_inner();
    let environment_id = created.environment.context("the response has no environment")?.id;
    let mut times = vec![];
    for _ in 0..6 {
        let deploy = pb::DeployEnvironmentRequest {
            org_id: org_id.clone(),
            project_id: project_id.clone(),
            environment_id: environment_id.clone(),
            ..Default::default()
        };
        let task =
            environments.deploy_environment(authenticated(deploy, &ann)?).await?.into_inner().task;
        let start = Instant::now();
        let watch = pb::WatchTaskLogRequest {
            org_id: org_id.clone(),
            project_id: project_id.clone(),
            task_id: task.context("the response has no task")?.id,
            from_line: 0,
        };
        let mut stream = tasks.watch_task_log(authenticated(watch, &ann)?).await?.into_inner();
        let mut task = None;
        while let Some(response) = stream.message().await? {
            task = response.task.or(task);
        }
        let task = task.context("the stream has no task")?;
        ensure!(task.state() == pb::TaskState::Completed, "{}", task.error_message);
        times.push(start.elapsed().as_secs_f64());
    }
    // The first deployment starts with cold caches, so it is left out.
    let measured = crate::median(times.split_off(1));
    let reference = start_time(repository.path())?;
    print(&format!(
        "| `DeployEnvironment` until RUNNING, warm (start of the program alone) | {:.0} ms | {:.0} ms \
         | {:.2} s more | ≤ 1.5 s |\n",
        measured * 1e3,
        reference * 1e3,
        measured - reference
    ));
    let destroy = pb::DestroyEnvironmentRequest {
        org_id,
        project_id,
        environment_id,
        confirm_name: "shop-development-1".to_owned(),
        ..Default::default()
    };
    environments.destroy_environment(authenticated(destroy, &ann)?).await?;
    // Time for the runner to remove the environment, whose program would keep running after the benchmark.
    tokio::time::sleep(Duration::from_secs(2)).await;
    suite.stop().await
}

/// Creates a git repository with the program.
fn write_repository(directory: &Path) -> Result<()> {
    std::fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    std::fs::write(directory.join("server.pl"), SERVER)?;
    std::fs::write(directory.join("Procfile"), "web: perl server.pl\n")?;
    let author = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"];
    let commit = [&author[..], &["commit", "-q", "-m", "Serve"]].concat();
    for arguments in [vec!["init", "-q", "-b", "main"], vec!["add", "."], commit] {
        let done = Command::new("git").args(arguments).current_dir(directory).status()?;
        ensure!(done.success(), "a git command failed");
    }
    Ok(())
}

/// Starts the program without a sandbox; returns the seconds until it accepts connections.
fn start_time(directory: &Path) -> Result<f64> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let start = Instant::now();
    let mut program = Command::new("perl");
    program.arg("server.pl").current_dir(directory).env("HOST", "127.0.0.1");
    let mut child = program.env("PORT", port.to_string()).spawn()?;
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let seconds = start.elapsed().as_secs_f64();
    child.kill()?;
    child.wait()?;
    Ok(seconds)
}
