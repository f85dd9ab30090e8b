//! How long a check takes while five hundred sign-ins queue, and whether the time of a refusal tells who has
//! an account.

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

use crate::{load, noop, say, suite::Suite};

const LOGINS: usize = 500;

/// Measures both.
pub(crate) async fn run() -> Result<()> {
    let suite = Suite::start(&noop::without_log()).await?;
    let token = suite.sign_in("ann@example.com").await?;
    let client = suite.client.with_token(&token);
    let create = pb::CreateOrganizationRequest { name: "Acme".to_owned(), ..Default::default() };
    let method = "tenantry.identity.v1.OrganizationService/CreateOrganization";
    let created: pb::CreateOrganizationResponse = client.call(method, create).await?;
    let org_id = created.organization.context("an organization")?.id;
    p99(&suite, &token, &org_id).await?;
    let idle = p99(&suite, &token, &org_id).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut logins = queue(&suite, &stop).await?;
    let busy = p99(&suite, &token, &org_id).await?;
    stop.store(true, Ordering::Relaxed);
    while logins.join_next().await.is_some() {}
    let (idle, busy) = (idle.as_secs_f64() * 1e3, busy.as_secs_f64() * 1e3);
    say(&format!(
        "| `Check` p99 while {LOGINS} sign-ins queue (idle) | {busy:.2} ms | {idle:.2} ms | {:.2} | < 2 |\n",
        busy / idle
    ));
    refusals(&suite).await?;
    suite.stop().await
}

/// How often each address is tried.
const TRIES: u32 = 1_000;

/// I-04: how long a refusal takes for a known and for an unknown address, in turns, so that a neighbour
/// on the machine disturbs both; and what Mann and Whitney say about their ranks.
async fn refusals(suite: &Suite) -> Result<()> {
    let mut client = SessionServiceClient::new(load::channels(suite.address).await?.remove(0));
    let mut times = vec![];
    for number in 0..2 * TRIES {
        let known = number % 2 == 0;
        let email = if known { "ann@example.com" } else { "eve@example.com" }.to_owned();
        let password = "not the password".to_owned();
        let start = Instant::now();
        client.login(pb::LoginRequest { email, password }).await.err().context("a refusal")?;
        times.push((start.elapsed(), known));
    }
    times.sort();
    let median = |known| {
        let mut of = times.iter().filter(|it| it.1 == known).map(|it| it.0.as_secs_f64() * 1e3);
        of.nth(TRIES as usize / 2).unwrap_or_default()
    };
    let ranks = times.iter().zip(1_u32..).filter(|it| it.0.1).map(|it| f64::from(it.1));
    let n = f64::from(TRIES);
    let u = ranks.sum::<f64>() - n * (n + 1.0) / 2.0;
    let z = (u - n * n / 2.0) / (n * n * (2.0 * n + 1.0) / 12.0).sqrt();
    let (known, unknown) = (median(true), median(false));
    say(&format!(
        "| A refused sign-in, known address (unknown), median; Mann-Whitney z | {known:.2} ms \
         | {unknown:.2} ms | {:.3}; z {z:.2} | 0.95 to 1.05, and z within 2.58 |\n",
        known / unknown
    ));
    Ok(())
}

/// People who try to sign in, again and again.
async fn queue(suite: &Suite, stop: &Arc<AtomicBool>) -> Result<JoinSet<()>> {
    let channels = load::channels(suite.address).await?;
    let mut logins = JoinSet::new();
    for number in 0..LOGINS {
        let mut client = SessionServiceClient::new(channels[number % channels.len()].clone());
        let stop = stop.clone();
        logins.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let email = "ann@example.com".to_owned();
                let password = "a long enough password".to_owned();
                let refused = client.login(pb::LoginRequest { email, password }).await.is_err();
                if refused {
                    // As the answer asks for.
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
            }
        });
    }
    Ok(logins)
}

/// The slowest of a hundred, at two hundred a second, one after the other.
async fn p99(suite: &Suite, token: &str, org_id: &str) -> Result<Duration> {
    let channel = load::channels(suite.address).await?.remove(0);
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse()?;
    let mut times = vec![];
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    for _ in 0..1_600 {
        tick.tick().await;
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
