//! Logs of programs: reading, searching, and following by many readers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use api::project::{
    self as pb, environment_log_service_client::EnvironmentLogServiceClient,
    environment_service_client::EnvironmentServiceClient,
};
use futures::future::try_join_all;
use tonic::transport::Channel;

use crate::{
    bare_log_server,
    hosting::{SERVER, Target, authenticated, write_repository},
    load, median,
    mutation::create_sample_project,
    print,
    runner_load::cpu_seconds,
    suite::Suite,
};

/// Lines of 100 bytes that the program prints when it starts: almost all that a server keeps of one version.
const LINES: usize = 200_000;
/// Megabytes of these lines.
const MB: f64 = 20.0;
/// Readers who follow the log.
const FOLLOWERS: usize = 500;
/// Duration of following.
const FOLLOWED: Duration = Duration::from_secs(20);

/// Runs all measurements.
pub(crate) async fn run() -> Result<()> {
    let suite = Suite::start_with(tenantry::INSTALLS, |config| {
        config.open_calls_per_address_max = 2 * FOLLOWERS;
        config.open_calls_per_account_max = 2 * FOLLOWERS;
        config.open_calls_per_org_max = 2 * FOLLOWERS;
    })
    .await?;
    let ann = suite.sign_in("ann@example.com").await?;
    let sample = create_sample_project(&suite, &ann).await?;
    let repository = tempfile::tempdir()?;
    // After its start it prints a line every second.
    let print_lines = format!("print 'x' x 99, \"\\n\" for 1..{LINES};\n");
    let tick = "if (!fork) { while (1) { sleep 1; print \"tick\\n\" } }\n";
    write_repository(repository.path(), &format!("$| = 1;\n{print_lines}{tick}{SERVER}"))?;
    let target = Target::create(&suite, &sample, &ann, repository.path()).await?;
    // Its value is searched for in each line.
    let variable = pb::VariableEntry {
        name: "TOKEN".to_owned(),
        value: "a-secret-of-the-program".to_owned(),
        secret: true,
        ..Default::default()
    };
    let set = pb::SetVariablesRequest {
        org_id: target.org_id.clone(),
        project_id: target.project_id.clone(),
        environment_id: target.environment_id.clone(),
        set: vec![variable],
        ..Default::default()
    };
    let channel = load::channels(suite.address).await?.remove(0);
    EnvironmentServiceClient::new(channel).set_variables(authenticated(set, &ann)?).await?;
    target.deploy().await?;
    let reader = Reader { target: &target, channels: load::channels(suite.address).await? };
    measure_reading(&reader).await?;
    measure_following(&reader).await?;
    target.destroy().await?;
    suite.stop().await
}

/// A caller who reads the log of an environment.
struct Reader<'a> {
    target: &'a Target,
    /// Connections; each has at most 256 streams.
    channels: Vec<Channel>,
}

impl Reader<'_> {
    /// Begins to read on the connection of a number.
    async fn read(
        &self,
        number: usize,
        query: pb::LogQuery,
    ) -> Result<tonic::Streaming<pb::ReadLogsResponse>> {
        let channel = &self.channels[number % self.channels.len()];
        let request = pb::ReadLogsRequest {
            org_id: self.target.org_id.clone(),
            project_id: self.target.project_id.clone(),
            environment_id: self.target.environment_id.clone(),
            query: Some(query),
        };
        let mut logs = EnvironmentLogServiceClient::new(channel.clone());
        Ok(logs.read_logs(authenticated(request, &self.target.token)?).await?.into_inner())
    }

    /// Reads the whole answer of a query.
    async fn time(&self, query: pb::LogQuery) -> Result<Timed> {
        let start = Instant::now();
        time(start, self.read(0, query).await?).await
    }
}

/// An answer that was read.
struct Timed {
    responses: Vec<pb::ReadLogsResponse>,
    lines: usize,
    seconds: f64,
}

async fn time(start: Instant, mut stream: tonic::Streaming<pb::ReadLogsResponse>) -> Result<Timed> {
    let mut responses = vec![];
    while let Some(response) = stream.message().await? {
        responses.push(response);
    }
    let seconds = start.elapsed().as_secs_f64();
    let lines = responses.iter().map(|it| it.lines.len()).sum();
    Ok(Timed { responses, lines, seconds })
}

/// References: a server that streams the same messages from memory, and a search in the same text in memory.
async fn measure_reading(reader: &Reader<'_>) -> Result<()> {
    let answer = reader.time(pb::LogQuery::default()).await?;
    ensure!(answer.lines >= LINES, "the log has {} lines", answer.lines);
    let lines = answer.responses.iter().flat_map(|it| &it.lines);
    let text = lines.flat_map(|it| [&*it.text, "\n"]).collect::<String>();
    let (address, serving) = bare_log_server::start(answer.responses).await?;
    let bare = load::channels(address).await?.remove(0);
    let mut bare = EnvironmentLogServiceClient::new(bare);
    let (mut reads, mut bare_reads, mut searches, mut bare_searches) =
        (vec![], vec![], vec![], vec![]);
    for _ in 0..5 {
        reads.push(MB / reader.time(pb::LogQuery::default()).await?.seconds);
        let start = Instant::now();
        let stream = bare.read_logs(pb::ReadLogsRequest::default()).await?.into_inner();
        bare_reads.push(MB / time(start, stream).await?.seconds);
        let contains = "nothing".to_owned();
        let searched = reader.time(pb::LogQuery { contains, ..Default::default() }).await?;
        ensure!(searched.lines == 0, "{} lines were found", searched.lines);
        searches.push(MB / searched.seconds);
        let start = Instant::now();
        ensure!(memchr::memmem::find(text.as_bytes(), b"nothing").is_none(), "the text was found");
        bare_searches.push(MB / start.elapsed().as_secs_f64());
    }
    serving.abort();
    let (read, bare_read) = (median(reads), median(bare_reads));
    let (search, bare_search) = (median(searches), median(bare_searches));
    print(&format!(
        "| `ReadLogs` of {MB:.0} MB over gRPC (bare tonic, from memory) | {read:.0} MB/s \
         | {bare_read:.0} MB/s | {:.2} | ≥ 100 MB/s |\n\
         | `ReadLogs` for a text that no line of {MB:.0} MB has (memmem, in memory) | {search:.0} MB/s \
         | {bare_search:.0} MB/s | {:.2} | ≥ 333 MB/s |\n",
        read / bare_read,
        search / bare_search
    ));
    Ok(())
}

/// Measures the processor time of following, including the clients, the program, and the servers.
async fn measure_following(reader: &Reader<'_>) -> Result<()> {
    let query = pb::LogQuery { follow: true, tail_lines: 1, ..Default::default() };
    let mut streams = try_join_all((0..FOLLOWERS).map(|it| reader.read(it, query.clone()))).await?;
    for stream in &mut streams {
        stream.message().await?.context("a stream ended")?;
    }
    let (start, cpu_before) = (Instant::now(), cpu_seconds()?);
    let follow = streams.iter_mut().map(async |stream| {
        let mut lines = 0;
        while let Ok(response) =
            tokio::time::timeout_at((start + FOLLOWED).into(), stream.message()).await
        {
            lines += response?.context("a stream ended")?.lines.len();
        }
        Ok::<_, anyhow::Error>(lines)
    });
    let lines: Vec<_> = try_join_all(follow).await?;
    let share = (cpu_seconds()? - cpu_before) / start.elapsed().as_secs_f64();
    let fewest = lines.into_iter().min().unwrap_or_default();
    ensure!(fewest >= 15, "a reader got {fewest} lines in {FOLLOWED:?}");
    print(&format!(
        "| CPU of {FOLLOWERS} readers who follow a log of a line per second, with clients \
         | {:.1} % of a core | | | < 20 % |\n",
        share * 100.0
    ));
    Ok(())
}
