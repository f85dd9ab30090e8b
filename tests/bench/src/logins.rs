//! Sign-ins: latency of access checks while 500 sign-ins are waiting, and a test that the duration of failed
//! sign-ins does not reveal which addresses have an account.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use api::identity::{
    self as pb, access_service_client::AccessServiceClient,
    session_service_client::SessionServiceClient,
};
use tokio::task::JoinSet;
use tonic::{Request, metadata::MetadataValue};

use crate::{load, noop, print, suite::Suite};

/// Number of clients that try to sign in concurrently.
const LOGINS: usize = 500;

/// Runs both measurements.
pub(crate) async fn run() -> Result<()> {
    let suite = Suite::start(&noop::without_audit()).await?;
    let token = suite.sign_in("ann@example.com").await?;
    let client = suite.client.with_token(&token);
    let create = pb::CreateOrganizationRequest { name: "Acme".to_owned(), ..Default::default() };
    let method = "tenantry.identity.v1.OrganizationService/CreateOrganization";
    let created: pb::CreateOrganizationResponse = client.call(method, create).await?;
    let org_id = created.organization.context("the response has no organization")?.id;
    // Warm-up.
    check_p99(&suite, &token, &org_id).await?;
    let idle = check_p99(&suite, &token, &org_id).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut logins = start_logins(&suite, &stop).await?;
    let busy = check_p99(&suite, &token, &org_id).await?;
    stop.store(true, Ordering::Relaxed);
    while logins.join_next().await.is_some() {}
    let idle = idle.as_secs_f64() * 1e3;
    let busy = busy.as_secs_f64() * 1e3;
    print(&format!(
        "| `Check` p99 while {LOGINS} sign-ins are waiting (idle) | {busy:.2} ms | {idle:.2} ms \
         | {:.2} | < 2 |\n",
        busy / idle
    ));
    compare_failed_logins(&suite).await?;
    suite.stop().await
}

/// Number of failed sign-ins with each of the two addresses.
const ATTEMPTS: u32 = 1_000;

/// A failed sign-in.
struct Attempt {
    duration: Duration,
    /// True if an account has the address.
    known: bool,
}

/// I-04: compares the durations of failed sign-ins with a known and an unknown address by their medians and a
/// Mann-Whitney U test. The attempts alternate, so that other load on the machine affects both.
async fn compare_failed_logins(suite: &Suite) -> Result<()> {
    let channel = load::channels(suite.address).await?.remove(0);
    let mut client = SessionServiceClient::new(channel);
    let mut attempts = vec![];
    for number in 0..2 * ATTEMPTS {
        let known = number % 2 == 0;
        let email = if known { "ann@example.com" } else { "eve@example.com" }.to_owned();
        let password = "not the password".to_owned();
        let start = Instant::now();
        client
            .login(pb::LoginRequest { email, password })
            .await
            .err()
            .context("the sign-in succeeded")?;
        attempts.push(Attempt { duration: start.elapsed(), known });
    }
    attempts.sort_by_key(|it| it.duration);
    let median_ms = |of_known: bool| {
        let attempts = attempts.iter().filter(|it| it.known == of_known);
        let mut durations_ms = attempts.map(|it| it.duration.as_secs_f64() * 1e3);
        durations_ms.nth(ATTEMPTS as usize / 2).unwrap_or_default()
    };
    // The rank of an attempt is its position in the order of durations.
    let ranks_of_known = attempts.iter().zip(1_u32..).filter(|(attempt, _)| attempt.known);
    let rank_sum: f64 = ranks_of_known.map(|(_, rank)| f64::from(rank)).sum();
    let n = f64::from(ATTEMPTS);
    let u = rank_sum - n * (n + 1.0) / 2.0;
    // Standard score of U. Beyond ±2.58 the durations differ with a significance of 1 %.
    let z = (u - n * n / 2.0) / (n * n * (2.0 * n + 1.0) / 12.0).sqrt();
    let known = median_ms(true);
    let unknown = median_ms(false);
    print(&format!(
        "| Failed sign-in with a known address (unknown address), median; Mann-Whitney z | {known:.2} ms \
         | {unknown:.2} ms | {:.3}; z {z:.2} | 0.95 to 1.05, and z within 2.58 |\n",
        known / unknown
    ));
    Ok(())
}

/// Starts clients that sign in repeatedly until `stop` is set.
async fn start_logins(suite: &Suite, stop: &Arc<AtomicBool>) -> Result<JoinSet<()>> {
    let channels = load::channels(suite.address).await?;
    let mut logins = JoinSet::new();
    for number in 0..LOGINS {
        let mut client = SessionServiceClient::new(channels[number % channels.len()].clone());
        let stop = stop.clone();
        logins.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let email = "ann@example.com".to_owned();
                let password = "a long enough password".to_owned();
                if client.login(pb::LoginRequest { email, password }).await.is_err() {
                    // The error's `RetryInfo` asks for this delay.
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
            }
        });
    }
    Ok(logins)
}

/// Returns the 99th percentile of the latency of checks: one caller, 200 checks per second.
async fn check_p99(suite: &Suite, token: &str, org_id: &str) -> Result<Duration> {
    let channel = load::channels(suite.address).await?.remove(0);
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse()?;
    let mut times = vec![];
    let mut interval = tokio::time::interval(Duration::from_millis(5));
    for _ in 0..1_600 {
        interval.tick().await;
        let mut request = Request::new(pb::CheckRequest {
            org_id: org_id.to_owned(),
            permission: "org.view".to_owned(),
            ..Default::default()
        });
        request.metadata_mut().insert("authorization", bearer.clone());
        let start = Instant::now();
        AccessServiceClient::new(channel.clone()).check(request).await?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[times.len() * 99 / 100])
}
