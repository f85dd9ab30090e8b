//! Clients that go away at the worst moment. sqlx can lose an acknowledged write when a handler is dropped
//! inside `begin` (sqlx issue 4385), and tonic drops it whenever a client wants.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use api::identity as id;
use chassis::host::Guards;
use prost::Message;
use testkit::{Options, Person, Suite};
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
    /// Connections left inside a transaction.
    stuck: i64,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_loses_nothing() {
    assert_eq!(harass(Guards::default()).await, Damage::default());
}

/// The same with both safety devices switched off: if this finds nothing, the test above proves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_guards_it_would() {
    let guards = Guards { detached: false, clean_connections: false };
    for _ in 0..5 {
        if harass(guards).await != Damage::default() {
            return;
        }
    }
    panic!("the test no longer catches what it is there for");
}

async fn harass(guards: Guards) -> Damage {
    let suite = Arc::new(Suite::start_with(Options { guards, distant_database: true, ..Options::default() }).await);
    let ann = suite.person("ann@example.com").await;
    let mut acknowledged = vec![];
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let (ann, address) = (ann.clone(), suite.address);
        tasks.spawn(async move { go_away(&ann, raw::connect(address).await, worker).await });
    }
    for slugs in tasks.join_all().await {
        acknowledged.extend(slugs);
    }
    let stuck = stuck(&suite).await;
    // A connection that is stuck would take the writes of its next users with it.
    for i in 0..40 {
        if let Some(slug) = create(&ann, &raw::connect(suite.address).await, format!("after-{i}"), None).await {
            acknowledged.push(slug);
        }
    }
    // What is rolled back later is rolled back now.
    let suite = Arc::into_inner(suite).expect("every worker has ended");
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where datname = current_database() and application_name = 'identity' and state like 'idle in%'";
    suite.count(end).await;
    let there: Vec<String> = sqlx::query_scalar("select slug from identity.organization")
        .fetch_all(&suite.pool)
        .await
        .unwrap();
    let lost = acknowledged.iter().filter(|it| !there.contains(it)).count();
    let unexplained = suite
        .count(
            "select count(*) from identity.organization full join identity.outbox
                 on outbox.org_id = organization.id and outbox.type = 'tenantry.identity.v1.OrganizationCreated'
             where (organization.id is null and outbox.type = 'tenantry.identity.v1.OrganizationCreated')
                or (outbox.id is null)",
        )
        .await;
    let damage = Damage { lost, unexplained, stuck };
    if damage == Damage::default() {
        suite.finish().await;
    }
    damage
}

/// Connections that are left in a transaction when every call that went on without its client has ended.
async fn stuck(suite: &Suite) -> i64 {
    let busy = "select count(*) from pg_stat_activity
                where datname = current_database() and application_name = 'identity'
                  and (state = 'active' or state like 'idle in%')";
    // Well below the ten seconds after which PostgreSQL itself gives such a connection up.
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        match suite.count(busy).await {
            0 => return 0,
            stuck if Instant::now() > deadline => return stuck,
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Creates organizations with deadlines of 1 to 60 ms, and resets every third stream.
async fn go_away(ann: &Person, channel: Channel, worker: usize) -> Vec<String> {
    let mut acknowledged = vec![];
    for round in 0..ROUNDS / 8 {
        let number = worker * 1_000 + round;
        // Spread over the range without a pattern, and the same in every run.
        let wait = Duration::from_micros(1_000 + (number as u64 * 7_919) % 59_000);
        let slug = format!("org-{worker}-{round}");
        let acked = if round % 3 == 0 {
            // Dropping the call resets its stream.
            tokio::time::timeout(wait, create(ann, &channel, slug, None)).await.ok().flatten()
        } else {
            create(ann, &channel, slug, Some(wait)).await
        };
        acknowledged.extend(acked);
    }
    acknowledged
}

/// Answers the slug if the server acknowledged it.
async fn create(ann: &Person, channel: &Channel, slug: String, deadline: Option<Duration>) -> Option<String> {
    let request =
        id::CreateOrganizationRequest { name: "Acme".to_owned(), slug: slug.clone(), ..Default::default() };
    let method = "tenantry.identity.v1.OrganizationService/CreateOrganization";
    let body = request.encode_to_vec();
    let answer = raw::call_within(channel, method, Some(&ann.token), body, deadline).await;
    answer.is_ok().then_some(slug)
}
