//! Deliveries of webhooks: 100 events to 100 receivers, all well; then with one that is dead and one that is
//! slow. Only what the healthy ones wait counts.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use api::{invitation as inv, project as prj};
use sqlx::{Connection, PgConnection};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::{median, mutation, noop, say, suite::Suite};

const RECEIVERS: usize = 100;
const EVENTS: usize = 100;
/// Between two events.
const PACE: Duration = Duration::from_millis(80);

/// Measures both.
pub(crate) async fn run() -> Result<()> {
    let (mut well, mut ill, mut grown) = (vec![], vec![], 0);
    for _ in 0..3 {
        well.push(measure(false).await?.0);
        let (p99, growth) = measure(true).await?;
        ill.push(p99);
        grown = growth;
    }
    let (well, ill) = (median(well), median(ill));
    let ratio = ill / well;
    say(&format!(
        "| 10,000 deliveries, healthy receivers' p99, with a dead and a slow one | {ill:.0} ms | \
         {well:.0} ms | {ratio:.2} | ≤ 1.2 |\n"
    ));
    say(&format!("| memory that they take beyond the start | {grown} MiB | | | flat |\n"));
    Ok(())
}

/// The 99th percentile of what healthy receivers wait, in ms, and the growth of memory.
async fn measure(ill: bool) -> Result<(f64, i64)> {
    let receiver = receiver().await?;
    let exception = receiver.to_string();
    let installs = noop::without_log();
    let suite = Suite::start_with(&installs, |it| it.webhook_exceptions = vec![exception]).await?;
    let token = suite.sign_in("ann@example.com").await?;
    let place = mutation::place(&suite, &token).await?;
    let ann = suite.client.with_token(&token);
    for number in 0..RECEIVERS {
        let path = match number {
            0 if ill => "dead",
            1 if ill => "slow",
            _ => "well",
        };
        let create = inv::CreateWebhookRequest {
            org_id: place.org_id.clone(),
            url: format!("http://{receiver}/{path}"),
            event_types: vec!["environment.created".to_owned()],
            description: path.to_owned(),
            ..Default::default()
        };
        let method = "tenantry.invitation.v1.WebhookService/CreateWebhook";
        let _: inv::CreateWebhookResponse = ann.call(method, create).await?;
    }
    let before = resident()?;
    // Half of what two cores deliver: what is measured is who waits for whom, not how long the queue is.
    let mut pace = tokio::time::interval(PACE);
    for number in 0..EVENTS {
        pace.tick().await;
        let create = prj::CreateEnvironmentRequest {
            org_id: place.org_id.clone(),
            project_id: place.project_id.clone(),
            name: format!("env-{number}"),
            ..Default::default()
        };
        let method = "tenantry.project.v1.EnvironmentService/CreateEnvironment";
        let _: prj::CreateEnvironmentResponse = ann.call(method, create).await?;
    }
    let p99 = delivered(&suite, if ill { RECEIVERS - 2 } else { RECEIVERS }).await?;
    let grown = resident()? - before;
    suite.stop().await?;
    Ok((p99, grown))
}

/// Waits until every healthy receiver has everything; answers the 99th percentile of their waits.
async fn delivered(suite: &Suite, healthy: usize) -> Result<f64> {
    let mut connection = PgConnection::connect_with(&suite.options).await?;
    let expected = i64::try_from(healthy * EVENTS)?;
    let count = "select count(*) from invitation.webhook_delivery join invitation.webhook
                     on webhook.id = webhook_id
                 where webhook_delivery.state = 2 and webhook.description = 'well'";
    let p99 = "select percentile_cont(0.99) within group (
                   order by extract(epoch from delivered_at - webhook_delivery.created_at)::float8 * 1000)
               from invitation.webhook_delivery join invitation.webhook on webhook.id = webhook_id
               where webhook_delivery.state = 2 and webhook.description = 'well'";
    for _ in 0..600 {
        if sqlx::query_scalar::<_, i64>(count).fetch_one(&mut connection).await? == expected {
            return Ok(sqlx::query_scalar(p99).fetch_one(&mut connection).await?);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    anyhow::bail!("not everything was delivered within two minutes")
}

/// Resident memory of this process, in MiB.
fn resident() -> Result<i64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).context("a size")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<i64>()? / 1024)
}

/// Answers `/well` at once, `/slow` after two seconds, `/dead` never.
async fn receiver() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    #[expect(
        clippy::disallowed_methods,
        reason = "a benchmark has no host whose tasks are drained"
    )]
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    Ok(address)
}

async fn answer(stream: TcpStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut line, mut head) = (String::new(), String::new());
        while line != "\r\n" {
            line.clear();
            ensure!(stream.read_line(&mut line).await? > 0, "the end");
            head += &line;
        }
        let length = head.lines().find_map(|it| it.strip_prefix("content-length: "));
        let mut body = vec![0; length.context("a length")?.parse()?];
        stream.read_exact(&mut body).await?;
        if head.starts_with("POST /dead") {
            std::future::pending::<()>().await;
        }
        if head.starts_with("POST /slow") {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
    }
}
