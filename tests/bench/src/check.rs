//! Rate of access checks: fresh, cached, with a consistency token, and in batches. Reference: a bare server.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use api::identity::{self as pb, access_service_client::AccessServiceClient};
use tonic::{Request, metadata::MetadataValue};

use crate::{bare_server, load, median, noop, print_rates, suite::Suite};

/// Number of concurrent callers.
const CALLERS: usize = 64;

/// Number of checks in a batch.
const BATCH_SIZE: usize = 128;

/// Runs all measurements.
pub(crate) async fn run() -> Result<()> {
    let suite = Suite::start(&noop::without_audit()).await?;
    let token = suite.sign_in("ann@example.com").await?;
    let client = suite.client.with_token(&token);
    let create = pb::CreateOrganizationRequest { name: "Acme".to_owned(), ..Default::default() };
    let method = "tenantry.identity.v1.OrganizationService/CreateOrganization";
    let created: pb::CreateOrganizationResponse = client.call(method, create).await?;
    let org_id = created.organization.context("the response has no organization")?.id;
    let request = |consistency: Option<pb::Consistency>| pb::CheckRequest {
        org_id: org_id.clone(),
        permission: "org.view".to_owned(),
        consistency,
        ..Default::default()
    };
    let at_least = created.consistency_token;
    let satisfied_token = pb::Consistency { at_least, ..Default::default() };
    let one_second_old = pb::Consistency { max_age_ms: 1_000, ..Default::default() };
    let (reading_address, reading_server) = bare_server::start(Some(suite.options.clone())).await?;
    let (constant_address, constant_server) = bare_server::start(None).await?;
    let mut fresh = vec![];
    let mut cached = vec![];
    let mut with_token = vec![];
    let mut row_reads = vec![];
    let mut constant_replies = vec![];
    let mut batches = vec![];
    for _ in 0..3 {
        row_reads.push(measure_checks(reading_address, &token, request(None)).await?);
        fresh.push(measure_checks(suite.address, &token, request(None)).await?);
        constant_replies.push(measure_checks(constant_address, &token, request(None)).await?);
        let cached_request = request(Some(one_second_old.clone()));
        cached.push(measure_checks(suite.address, &token, cached_request).await?);
        let token_request = request(Some(satisfied_token.clone()));
        with_token.push(measure_checks(suite.address, &token, token_request).await?);
        batches.push(measure_batches(suite.address, &token, &org_id).await?);
    }
    let fresh = median(fresh);
    let constant_reply = median(constant_replies);
    print_rates(
        "`Check`, fresh, 64 callers (bare server that reads a row)",
        fresh,
        median(row_reads),
        "≥ 0.85",
    );
    print_rates(
        "`Check`, at most one second old (bare server)",
        median(cached),
        constant_reply,
        "≥ 0.6",
    );
    print_rates(
        "`Check`, with a satisfied consistency token (bare server)",
        median(with_token),
        constant_reply,
        "≥ 0.6",
    );
    print_rates(
        "`BatchCheck` of 128 checks, checks per second (single fresh checks)",
        median(batches),
        fresh,
        "≥ 15",
    );
    reading_server.abort();
    constant_server.abort();
    suite.stop().await
}

/// Returns the rate of single checks.
async fn measure_checks(address: SocketAddr, token: &str, check: pb::CheckRequest) -> Result<f64> {
    let channels = load::channels(address).await?;
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse()?;
    load::rate(CALLERS, move |caller, _| {
        let mut client = AccessServiceClient::new(channels[caller % channels.len()].clone());
        let mut request = Request::new(check.clone());
        request.metadata_mut().insert("authorization", bearer.clone());
        async move {
            client.check(request).await?;
            Ok(())
        }
    })
    .await
}

/// Returns the rate of checks in batches, in checks per second.
async fn measure_batches(address: SocketAddr, token: &str, org_id: &str) -> Result<f64> {
    let channels = load::channels(address).await?;
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse()?;
    let item = pb::CheckItem {
        org_id: org_id.to_owned(),
        permission: "org.view".to_owned(),
        ..Default::default()
    };
    let batch = pb::BatchCheckRequest { items: vec![item; BATCH_SIZE], consistency: None };
    let batches = load::rate(CALLERS, move |caller, _| {
        let mut client = AccessServiceClient::new(channels[caller % channels.len()].clone());
        let mut request = Request::new(batch.clone());
        request.metadata_mut().insert("authorization", bearer.clone());
        async move {
            client.batch_check(request).await?;
            Ok(())
        }
    });
    #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
    Ok(batches.await? * BATCH_SIZE as f64)
}
