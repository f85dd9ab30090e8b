//! What a decision costs: fresh, from memory, in batches; beside a bare server.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use api::identity::{self as pb, access_service_client::AccessServiceClient};
use tonic::{Request, metadata::MetadataValue};

use crate::{bare, load, median, noop, row, suite::Suite};

/// Calls in flight.
const CALLERS: usize = 64;

/// Questions in a batch.
const BATCH: usize = 128;

/// Measures all.
pub(crate) async fn run() -> Result<()> {
    let suite = Suite::start(&noop::without_log()).await?;
    let token = suite.sign_in("ann@example.com").await?;
    let client = suite.client.with_token(&token);
    let create = pb::CreateOrganizationRequest { name: "Acme".to_owned(), ..Default::default() };
    let method = "tenantry.identity.v1.OrganizationService/CreateOrganization";
    let created: pb::CreateOrganizationResponse = client.call(method, create).await?;
    let org_id = created.organization.context("an organization")?.id;
    let question = |consistency: Option<pb::Consistency>| pb::CheckRequest {
        org_id: org_id.clone(),
        permission: "org.view".to_owned(),
        consistency,
        ..Default::default()
    };
    let at_least = created.consistency_token;
    let known = pb::Consistency { at_least, ..Default::default() };
    let old = pb::Consistency { max_age_ms: 1_000, ..Default::default() };
    let (reading, served) = bare::start(Some(suite.options.clone())).await?;
    let (echoing, echoed) = bare::start(None).await?;
    let (mut fresh, mut cached, mut with_token) = (vec![], vec![], vec![]);
    let (mut read, mut echo, mut batches) = (vec![], vec![], vec![]);
    for _ in 0..3 {
        read.push(single(reading, &token, question(None)).await?);
        fresh.push(single(suite.address, &token, question(None)).await?);
        echo.push(single(echoing, &token, question(None)).await?);
        cached.push(single(suite.address, &token, question(Some(old.clone()))).await?);
        with_token.push(single(suite.address, &token, question(Some(known.clone()))).await?);
        batches.push(batch(suite.address, &token, &org_id).await?);
    }
    let (fresh, echo) = (median(fresh), median(echo));
    row(
        "`Check`, fresh, 64 in flight (bare RPC with the same read)",
        fresh,
        median(read),
        "≥ 0.85",
    );
    row("`Check`, a second old at most (bare echo)", median(cached), echo, "≥ 0.6");
    row("`Check`, with a satisfied token (bare echo)", median(with_token), echo, "≥ 0.6");
    row("`BatchCheck` of 128, checks (single fresh checks)", median(batches), fresh, "≥ 15");
    served.abort();
    echoed.abort();
    suite.stop().await
}

async fn single(address: SocketAddr, token: &str, question: pb::CheckRequest) -> Result<f64> {
    let channels = load::channels(address).await?;
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse()?;
    load::rate(CALLERS, move |caller, _| {
        let mut client = AccessServiceClient::new(channels[caller % channels.len()].clone());
        let mut request = Request::new(question.clone());
        request.metadata_mut().insert("authorization", bearer.clone());
        async move {
            client.check(request).await?;
            Ok(())
        }
    })
    .await
}

async fn batch(address: SocketAddr, token: &str, org_id: &str) -> Result<f64> {
    let channels = load::channels(address).await?;
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse()?;
    let item = pb::CheckItem {
        org_id: org_id.to_owned(),
        permission: "org.view".to_owned(),
        ..Default::default()
    };
    let question = pb::BatchCheckRequest { items: vec![item; BATCH], consistency: None };
    let batches = load::rate(CALLERS, move |caller, _| {
        let mut client = AccessServiceClient::new(channels[caller % channels.len()].clone());
        let mut request = Request::new(question.clone());
        request.metadata_mut().insert("authorization", bearer.clone());
        async move {
            client.batch_check(request).await?;
            Ok(())
        }
    });
    #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
    Ok(batches.await? * BATCH as f64)
}
