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
use tonic::{Request, metadata::MetadataValue, transport::Channel};

use crate::{
    load,
    mutation::{SampleProject, create_sample_project},
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
pub(crate) const SERVER: &str = r#"use IO::Socket::INET;
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
    write_repository(repository.path(), SERVER)?;
    let target = Target::create(&suite, &sample, &ann, repository.path()).await?;
    let mut times = vec![];
    for _ in 0..6 {
        times.push(target.deploy().await?);
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
    target.destroy().await?;
    suite.stop().await
}

/// An environment that the runner of the suite deploys from a repository on this machine.
pub(crate) struct Target {
    channel: Channel,
    pub(crate) org_id: String,
    pub(crate) project_id: String,
    pub(crate) environment_id: String,
    /// Session of the Owner.
    pub(crate) token: String,
}

impl Target {
    /// Creates an environment of the project of the suite.
    pub(crate) async fn create(
        suite: &Suite,
        sample: &SampleProject,
        token: &str,
        repository: &Path,
    ) -> Result<Self> {
        let url = repository.to_string_lossy();
        execute(suite, format!("update project.project set repository_url = '{url}'")).await?;
        let channel = load::channels(suite.address).await?.remove(0);
        let create = pb::CreateEnvironmentRequest {
            org_id: sample.org_id.clone(),
            project_id: sample.project_id.clone(),
            ..Default::default()
        };
        let mut environments = EnvironmentServiceClient::new(channel.clone());
        let created = environments.create_environment(authenticated(create, token)?).await?;
        let environment =
            created.into_inner().environment.context("the response has no environment")?;
        Ok(Self {
            channel,
            org_id: sample.org_id.clone(),
            project_id: sample.project_id.clone(),
            environment_id: environment.id,
            token: token.to_owned(),
        })
    }

    /// Deploys; returns the seconds from the response until RUNNING.
    pub(crate) async fn deploy(&self) -> Result<f64> {
        let deploy = pb::DeployEnvironmentRequest {
            org_id: self.org_id.clone(),
            project_id: self.project_id.clone(),
            environment_id: self.environment_id.clone(),
            ..Default::default()
        };
        let mut environments = EnvironmentServiceClient::new(self.channel.clone());
        let deployed = environments.deploy_environment(authenticated(deploy, &self.token)?).await?;
        let start = Instant::now();
        let watch = pb::WatchTaskLogRequest {
            org_id: self.org_id.clone(),
            project_id: self.project_id.clone(),
            task_id: deployed.into_inner().task.context("the response has no task")?.id,
            from_line: 0,
        };
        let mut tasks = TaskServiceClient::new(self.channel.clone());
        let watched = tasks.watch_task_log(authenticated(watch, &self.token)?).await?;
        let mut stream = watched.into_inner();
        let mut task = None;
        while let Some(response) = stream.message().await? {
            task = response.task.or(task);
        }
        let task = task.context("the stream has no task")?;
        ensure!(task.state() == pb::TaskState::Completed, "{}", task.error_message);
        Ok(start.elapsed().as_secs_f64())
    }

    /// Destroys the environment, whose program would keep running after the benchmark.
    pub(crate) async fn destroy(self) -> Result<()> {
        let destroy = pb::DestroyEnvironmentRequest {
            org_id: self.org_id,
            project_id: self.project_id,
            environment_id: self.environment_id,
            confirm_name: "shop-development-1".to_owned(),
            ..Default::default()
        };
        let mut environments = EnvironmentServiceClient::new(self.channel);
        environments.destroy_environment(authenticated(destroy, &self.token)?).await?;
        // Time for the runner to remove it.
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(())
    }
}

/// Creates a git repository with a program in Perl.
pub(crate) fn write_repository(directory: &Path, server: &str) -> Result<()> {
    std::fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    std::fs::write(directory.join("server.pl"), server)?;
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
