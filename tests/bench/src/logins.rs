//! How long a check takes while five hundred sign-ins queue.

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
    suite.stop().await
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
