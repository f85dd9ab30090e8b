//! `tenantry logs`: prints the output of an environment's programs.

use std::io::Write;

use anyhow::{Context, Result};
use api::project::{
    LogLine, LogQuery, ReadLogsRequest, environment_log_service_client::EnvironmentLogServiceClient,
};
use prost_types::Timestamp;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::environment_arguments::EnvironmentArguments;

/// Arguments of `logs`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: EnvironmentArguments,
    /// Wait for new lines.
    #[arg(long, short)]
    follow: bool,
    /// Number of lines before those that follow; 0 for all.
    #[arg(long, default_value_t = 100)]
    tail: i32,
    /// Text that the lines contain.
    #[arg(long, default_value = "")]
    contains: String,
    /// Time of the first line (RFC 3339).
    #[arg(long, value_parser = parse_time)]
    since: Option<Timestamp>,
    /// Time after that of the last line (RFC 3339).
    #[arg(long, value_parser = parse_time)]
    until: Option<Timestamp>,
    /// Id of the deployment; by default all.
    #[arg(long, default_value = "")]
    deployment: String,
    /// Id of the environment.
    environment: String,
}

/// Prints the selected lines: time and text.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let client = arguments.target.connect().await?;
    let request = client.request(ReadLogsRequest {
        org_id: arguments.target.org,
        project_id: arguments.target.project,
        environment_id: arguments.environment,
        query: Some(LogQuery {
            deployment_id: arguments.deployment,
            start_time: arguments.since,
            end_time: arguments.until,
            tail_lines: arguments.tail,
            contains: arguments.contains,
            follow: arguments.follow,
        }),
    })?;
    let mut service = EnvironmentLogServiceClient::new(client.channel());
    let mut messages = service.read_logs(request).await?.into_inner();
    let mut output = std::io::stdout().lock();
    while let Some(message) = messages.message().await? {
        for line in &message.lines {
            writeln!(output, "{}", format_line(line))?;
        }
        output.flush()?;
    }
    Ok(())
}

fn parse_time(text: &str) -> Result<Timestamp> {
    let time = OffsetDateTime::parse(text, &Rfc3339).context("not a time of RFC 3339")?;
    Ok(Timestamp { seconds: time.unix_timestamp(), nanos: i32::try_from(time.nanosecond())? })
}

fn format_line(line: &LogLine) -> String {
    let time = line.time.map(|it| it.to_string()).unwrap_or_default();
    format!("{time} {}", line.text)
}
