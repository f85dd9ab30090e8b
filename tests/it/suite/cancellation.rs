//! Cancelled calls. tonic drops the handler of a call that its client cancels, and sqlx can lose an
//! acknowledged write when a handler is dropped inside `begin` (sqlx issue 4385).

use std::time::Duration;

use api::identity as id;
use chassis::FaultInjection;
use prost::Message;
use testkit::{Options, Person, Suite, eventually};
use tonic::transport::Channel;

use crate::support::raw;

/// Number of cancelled calls.
const ROUNDS: usize = 200;

/// Inconsistencies that cancelled calls have caused.
#[derive(Debug, Default, PartialEq, Eq)]
struct Damage {
    /// Acknowledged organizations that do not exist.
    lost: usize,
    /// Organizations without their event, and events without their organization.
    unmatched: i64,
    /// Transactions begun on a connection that was still in another one.
    nested: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_calls_lose_no_write() {
    assert_eq!(cancel_calls(FaultInjection::default()).await, Damage::default());
}

/// Counter-check of the test above: with both protections switched off, it finds damage.
#[tokio::test(flavor = "multi_thread")]
async fn cancelled_calls_lose_writes_without_protections() {
    let faults = FaultInjection {
        drop_handlers: true,
        reuse_open_transactions: true,
        ..FaultInjection::default()
    };
    for _ in 0..3 {
        if cancel_calls(faults).await != Damage::default() {
            return;
        }
    }
    panic!("{ROUNDS} cancelled calls caused no damage in any of three attempts");
}

/// Cancels calls that create organizations; returns the damage.
async fn cancel_calls(faults: FaultInjection) -> Damage {
    let options = Options { faults, slow_database: true, ..Options::default() };
    let suite = Suite::start_with(options).await;
    let ann = suite.person("ann@example.com").await;
    let mut acknowledged = vec![];
    let mut damage = Damage::default();
    for round in 0..ROUNDS / 8 {
        let calls =
            (0..8).map(|worker| {
                let ann = ann.clone();
                let address = suite.address;
                async move {
                    call_and_cancel(&ann, raw::connect(address).await, round * 8 + worker).await
                }
            });
        let answers = calls.collect::<tokio::task::JoinSet<_>>().join_all().await;
        acknowledged.extend(answers.into_iter().flatten());
    }
    wait_for_handlers(&suite).await;
    let existing: Vec<String> = sqlx::query_scalar("select slug from identity.organization")
        .fetch_all(&suite.pool)
        .await
        .unwrap();
    damage.lost = acknowledged.iter().filter(|it| !existing.contains(it)).count();
    damage.unmatched = suite
        .count(
            "with created as (select org_id from identity.outbox
                           where type = 'tenantry.identity.v1.OrganizationCreated')
             select count(*) from identity.organization full join created on created.org_id = organization.id
             where organization.id is null or created.org_id is null",
        )
        .await;
    damage.nested = suite.nested_transactions();
    assert!(acknowledged.len() < ROUNDS, "all calls completed before they were cancelled");
    if damage == Damage::default() {
        suite.finish().await;
    }
    damage
}

/// Waits until all handlers of cancelled calls have ended.
async fn wait_for_handlers(suite: &Suite) {
    let busy = "select count(*) from pg_stat_activity
                where datname = current_database() and application_name = 'identity' and state = 'active'";
    eventually("the end of every call", async || (suite.count(busy).await == 0).then_some(()))
        .await;
}

/// Creates an organization and cancels the call after 1 to 60 ms, by a deadline or a reset of the stream.
/// Returns the slug if the server acknowledged it.
async fn call_and_cancel(ann: &Person, channel: Channel, number: usize) -> Option<String> {
    // Different for each call and the same in each run (7,919 is a prime).
    let wait = Duration::from_micros(1_000 + (number as u64 * 7_919) % 59_000);
    let slug = format!("org-{number}");
    if number.is_multiple_of(3) {
        // When the time-out drops the call, tonic resets its HTTP/2 stream.
        return tokio::time::timeout(wait, create(ann, &channel, slug, None)).await.ok().flatten();
    }
    create(ann, &channel, slug, Some(wait)).await
}

/// Creates an organization; returns the slug if the server acknowledged it.
async fn create(
    ann: &Person,
    channel: &Channel,
    slug: String,
    deadline: Option<Duration>,
) -> Option<String> {
    let request = id::CreateOrganizationRequest {
        name: "Acme".to_owned(),
        slug: slug.clone(),
        ..Default::default()
    };
    let method = "tenantry.identity.v1.OrganizationService/CreateOrganization";
    let body = request.encode_to_vec();
    let answer = raw::call_within(channel, method, Some(&ann.token), body, deadline).await;
    answer.is_ok().then_some(slug)
}
