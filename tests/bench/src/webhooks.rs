//! Webhook deliveries: latency of 100 events to 100 receivers, first with healthy receivers only, then with
//! one that never responds and one that is slow. Only healthy receivers are measured.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use api::{notification as ntf, project as prj};
use sqlx::{Connection, PgConnection};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::{median, memory::resident_mib, mutation, noop, print, suite::Suite};

/// Number of receivers.
const RECEIVERS: usize = 100;

/// Number of events.
const EVENTS: usize = 100;

/// Interval of events. It causes half of the load that two cores can deliver, so that no queue builds up: the
/// measurement shows whether deliveries wait for each other.
const EVENT_INTERVAL: Duration = Duration::from_millis(80);

/// Runs both measurements.
pub(crate) async fn run() -> Result<()> {
    let mut all_healthy = vec![];
    let mut some_failing = vec![];
    let mut memory_growth_mib = 0;
    for _ in 0..3 {
        all_healthy.push(measure(Receivers::AllHealthy).await?.p99_ms);
        let measurement = measure(Receivers::SomeFailing).await?;
        some_failing.push(measurement.p99_ms);
        memory_growth_mib = measurement.memory_growth_mib;
    }
    let all_healthy = median(all_healthy);
    let some_failing = median(some_failing);
    let ratio = some_failing / all_healthy;
    print(&format!(
        "| 10,000 webhook deliveries, p99 of healthy receivers, beside a dead and a slow one (all healthy) \
         | {some_failing:.0} ms | {all_healthy:.0} ms | {ratio:.2} | ≤ 1.2 |\n"
    ));
    print(&format!(
        "| growth of resident memory during the deliveries | {memory_growth_mib} MiB | | | constant |\n"
    ));
    Ok(())
}

/// Kinds of receivers in a measurement.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Receivers {
    /// All respond immediately.
    AllHealthy,
    /// One never responds, and one takes two seconds.
    SomeFailing,
}

/// Result of a measurement.
struct Measurement {
    /// 99th percentile of the time from event to delivery, of healthy receivers.
    p99_ms: f64,
    /// Growth of this process's resident memory.
    memory_growth_mib: i64,
}

async fn measure(receivers: Receivers) -> Result<Measurement> {
    let address = start_receiver().await?;
    // Webhooks to loopback addresses are forbidden by default.
    let exception = address.to_string();
    let installs = noop::without_audit();
    let suite = Suite::start_with(&installs, |it| it.webhook_exceptions = vec![exception]).await?;
    let token = suite.sign_in("ann@example.com").await?;
    let sample = mutation::create_sample_project(&suite, &token).await?;
    let ann = suite.client.with_token(&token);
    for number in 0..RECEIVERS {
        let path = match number {
            0 if receivers == Receivers::SomeFailing => "dead",
            1 if receivers == Receivers::SomeFailing => "slow",
            _ => "healthy",
        };
        let create = ntf::CreateWebhookRequest {
            org_id: sample.org_id.clone(),
            url: format!("http://{address}/{path}"),
            event_types: vec!["environment.created".to_owned()],
            description: path.to_owned(),
            ..Default::default()
        };
        let method = "tenantry.notification.v1.WebhookService/CreateWebhook";
        let _: ntf::CreateWebhookResponse = ann.call(method, create).await?;
    }
    let memory_before = resident_mib()?;
    let mut interval = tokio::time::interval(EVENT_INTERVAL);
    for number in 0..EVENTS {
        interval.tick().await;
        let create = prj::CreateEnvironmentRequest {
            org_id: sample.org_id.clone(),
            project_id: sample.project_id.clone(),
            name: format!("env-{number}"),
            ..Default::default()
        };
        let method = "tenantry.project.v1.EnvironmentService/CreateEnvironment";
        let _: prj::CreateEnvironmentResponse = ann.call(method, create).await?;
    }
    let healthy_receivers = match receivers {
        Receivers::AllHealthy => RECEIVERS,
        Receivers::SomeFailing => RECEIVERS - 2,
    };
    let p99_ms = wait_for_deliveries(&suite, healthy_receivers).await?;
    let memory_growth_mib = resident_mib()? - memory_before;
    suite.stop().await?;
    Ok(Measurement { p99_ms, memory_growth_mib })
}

/// Waits until all events are delivered to the healthy receivers. Returns the 99th percentile of the time
/// from event to delivery, in milliseconds.
async fn wait_for_deliveries(suite: &Suite, healthy_receivers: usize) -> Result<f64> {
    let mut connection = PgConnection::connect_with(&suite.options).await?;
    let expected = i64::try_from(healthy_receivers * EVENTS)?;
    // State 2 is DELIVERY_STATE_DELIVERED.
    let count = "select count(*) from invitation.webhook_delivery join invitation.webhook
                     on webhook.id = webhook_id
                 where webhook_delivery.state = 2 and webhook.description = 'healthy'";
    let p99 = "select percentile_cont(0.99) within group (
                   order by extract(epoch from delivered_at - webhook_delivery.created_at)::float8 * 1000)
               from invitation.webhook_delivery join invitation.webhook on webhook.id = webhook_id
               where webhook_delivery.state = 2 and webhook.description = 'healthy'";
    for _ in 0..600 {
        if sqlx::query_scalar::<_, i64>(count).fetch_one(&mut connection).await? == expected {
            return Ok(sqlx::query_scalar(p99).fetch_one(&mut connection).await?);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    anyhow::bail!("some events were not delivered within two minutes")
}

/// Starts an HTTP server that responds to `/healthy` immediately, to `/slow` after two seconds, and to
/// `/dead` never.
async fn start_receiver() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    #[expect(clippy::disallowed_methods, reason = "a benchmark has no host that drains its tasks")]
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_connection(stream));
        }
    });
    Ok(address)
}

async fn serve_connection(stream: TcpStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        let mut head = String::new();
        while line != "\r\n" {
            line.clear();
            ensure!(stream.read_line(&mut line).await? > 0, "the connection was closed");
            head += &line;
        }
        let length = head.lines().find_map(|it| it.strip_prefix("content-length: "));
        let mut body = vec![0; length.context("the request has no content-length")?.parse()?];
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
