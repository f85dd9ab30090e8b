//! Clients that go away at the worst moment. sqlx can lose an acknowledged write when a handler is dropped
//! inside `begin` (sqlx issue 4385), and tonic drops it whenever a client wants.

use std::time::Duration;

use api::identity as id;
use chassis::host::Guards;
use prost::Message;
use testkit::{Options, Person, Suite, eventually};
use tonic::transport::Channel;

use crate::raw;

/// How often a client goes away.
const ROUNDS: usize = 200;

/// What was found afterwards.
#[derive(Debug, Default, PartialEq, Eq)]
struct Damage {
    /// Acknowledged, but not there.
    lost: usize,
    /// There without its event, or the other way round.
    unexplained: i64,
    /// Transactions that were begun on a connection which an earlier caller had left inside another.
    nested: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_loses_nothing() {
    assert_eq!(harass(Guards::default()).await, Damage::default());
}

/// The same with both safety devices switched off: if this finds nothing, the test above proves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_guards_it_would() {
    let guards = Guards { detached: false, clean_connections: false, ..Guards::default() };
    for _ in 0..3 {
        if harass(guards).await != Damage::default() {
            return;
        }
    }
    panic!("the test no longer catches what it is there for");
}

async fn harass(guards: Guards) -> Damage {
    let options = Options { guards, distant_database: true, ..Options::default() };
    let suite = Suite::start_with(options).await;
    let ann = suite.person("ann@example.com").await;
    let (mut acknowledged, mut damage) = (vec![], Damage::default());
    for round in 0..ROUNDS / 8 {
        let calls = (0..8).map(|worker| {
            let (ann, address) = (ann.clone(), suite.address);
            async move { go_away(&ann, raw::connect(address).await, round * 8 + worker).await }
        });
        let answers = calls.collect::<tokio::task::JoinSet<_>>().join_all().await;
        acknowledged.extend(answers.into_iter().flatten());
    }
    settled(&suite).await;
    let there: Vec<String> = sqlx::query_scalar("select slug from identity.organization")
        .fetch_all(&suite.pool)
        .await
        .unwrap();
    damage.lost = acknowledged.iter().filter(|it| !there.contains(it)).count();
    damage.unexplained = suite
        .count(
            "with told as (select org_id from identity.outbox
                           where type = 'tenantry.identity.v1.OrganizationCreated')
             select count(*) from identity.organization full join told on told.org_id = organization.id
             where organization.id is null or told.org_id is null",
        )
        .await;
    damage.nested = suite.nested_transactions();
    assert!(acknowledged.len() < ROUNDS, "nobody went away");
    if damage == Damage::default() {
        suite.finish().await;
    }
    damage
}

/// Waits until every call that went on without its client has ended.
async fn settled(suite: &Suite) {
    let busy = "select count(*) from pg_stat_activity
                where datname = current_database() and application_name = 'identity' and state = 'active'";
    eventually("the end of every call", async || (suite.count(busy).await == 0).then_some(()))
        .await;
}

/// Creates an organization with a deadline of 1 to 60 ms, or resets the stream. Answers the slug if the
/// server acknowledged it.
async fn go_away(ann: &Person, channel: Channel, number: usize) -> Option<String> {
    // Spread over the range without a pattern, and the same in every run.
    let wait = Duration::from_micros(1_000 + (number as u64 * 7_919) % 59_000);
    let slug = format!("org-{number}");
    if number.is_multiple_of(3) {
        // Dropping the call resets its stream.
        return tokio::time::timeout(wait, create(ann, &channel, slug, None)).await.ok().flatten();
    }
    create(ann, &channel, slug, Some(wait)).await
}

/// Answers the slug if the server acknowledged it.
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
