//! Delivery of webhooks: retries, replay, concurrency and leases.

use std::time::Duration as RealDuration;

use chassis::clock::Duration;
use serde_json::{Value, json};
use testkit::{Receiver, Response, Suite, eventually};

use super::webhook_service::{GET, by_id, suite};
use crate::support::world::{World, merge, text};

/// Method for replays.
const REPLAY: &str = "notification.v1.WebhookService/ReplayDeliveries";

/// Creates ten deliveries of a webhook that are due at once.
pub(super) async fn create_deliveries(suite: &Suite, world: &World, hook: &Value) {
    let id: uuid::Uuid = text(&hook["webhook"]["id"]).parse().unwrap();
    let lease = async |statement: &'static str| {
        sqlx::query(statement).bind(id).execute(&suite.pool).await.unwrap();
    };
    // The lease of another process.
    lease("update invitation.webhook set leased_until = now() + interval '1 hour' where id = $1")
        .await;
    for _ in 0..10 {
        world.trigger_event().await;
    }
    eventually("ten pending deliveries", async || {
        (world.deliveries(hook).await.len() == 10).then_some(())
    })
    .await;
    lease("update invitation.webhook set leased_until = null where id = $1").await;
}

/// Waits until no webhook is leased. The health of a webhook is stored at the end of its lease, and a lease
/// that ends because the clock is advanced lets another one begin beside it.
async fn leases_have_ended(suite: &Suite) {
    let leased = "select count(*) from invitation.webhook where leased_until is not null";
    eventually("the end of leases", async || (suite.count(leased).await == 0).then_some(())).await;
}

/// Waits until the service has handled that the members of the organization have joined. It repeats an event
/// that arrives too early by the clock, and later events of the organization wait for it.
async fn members_are_known(suite: &Suite) {
    let unhandled = "select count(*)
                     from (select id from identity.outbox where type like '%.MemberJoined'
                           union all
                           select id from invitation.outbox where type like '%.InvitationAccepted') as joined
                     where id not in (select event_id from invitation.inbox)";
    eventually("known members", async || (suite.count(unhandled).await == 0).then_some(())).await;
}

/// NO-5, NO-12: a failed delivery is retried with the same id until the receiver accepts it; calls are not
/// affected.
#[tokio::test(flavor = "multi_thread")]
async fn failed_deliveries_are_retried_with_the_same_id() {
    use std::sync::atomic::{AtomicU16, Ordering};
    static STATUS: AtomicU16 = AtomicU16::new(503);
    let receiver =
        Receiver::with_script(|_| Response::status(STATUS.load(Ordering::Relaxed))).await;
    let suite = suite(&[&receiver]).await;
    let world = World::new(&suite).await;
    let types = json!({ "eventTypes": ["api_key.created"] });
    let hook = world.create_webhook(&receiver.url("/a"), types).await;
    world.trigger_event().await;
    let failed = world.delivery(&hook, "a failure", |it| it["attemptCount"] == 1).await;
    assert_eq!(
        (failed["state"].as_str(), failed["responseStatus"].as_i64()),
        (Some("DELIVERY_STATE_PENDING"), Some(503))
    );
    assert!(text(&failed["failure"]).contains("503"), "{failed}");
    leases_have_ended(&suite).await;
    suite.clock.advance(Duration::seconds(6));
    world.delivery(&hook, "a second failure", |it| it["attemptCount"] == 2).await;
    leases_have_ended(&suite).await;
    STATUS.store(204, Ordering::Relaxed);
    suite.clock.advance(Duration::minutes(6));
    let owner = world.owner.sign_in_again().await;
    let world = World { owner, ..world };
    world.delivery(&hook, "success", |it| it["state"] == "DELIVERY_STATE_DELIVERED").await;
    let ids: std::collections::HashSet<_> =
        receiver.requests().iter().map(|it| it.headers["webhook-id"].clone()).collect();
    assert_eq!((ids.len(), receiver.requests().len()), (1, 3));
    leases_have_ended(&suite).await;
    let recovered = world.owner.call_ok(GET, world.org_request(by_id(&hook))).await;
    assert_eq!(recovered["webhook"]["failureCount"], json!(null));
    suite.finish().await;
}

/// Deliveries after a given one are sent again with their original ids.
#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_replayed_from_a_cursor() {
    let receiver = Receiver::start().await;
    let suite = suite(&[&receiver]).await;
    let world = World::new(&suite).await;
    let hook = world
        .create_webhook(&receiver.url("/a"), json!({ "eventTypes": ["api_key.created"] }))
        .await;
    for _ in 0..3 {
        world.trigger_event().await;
    }
    eventually("three requests", async || (receiver.requests().len() == 3).then_some(())).await;
    let all_delivered = async || {
        let all = world.deliveries(&hook).await;
        let is_delivered = |it: &Value| it["state"] == "DELIVERY_STATE_DELIVERED";
        (all.len() == 3 && all.iter().all(is_delivered)).then_some(all)
    };
    let all = eventually("three deliveries", all_delivered).await;
    let oldest = text(&all[2]["id"]);
    let replay = merge(by_id(&hook), json!({ "afterDeliveryId": oldest }));
    let replayed = world.owner.call_ok(REPLAY, world.org_request(replay)).await;
    assert_eq!(replayed["count"], 2);
    eventually("five requests", async || (receiver.requests().len() == 5).then_some(())).await;
    let ids: Vec<_> =
        receiver.requests().iter().map(|it| it.headers["webhook-id"].clone()).collect();
    let mut replayed_ids = ids[3..].to_vec();
    replayed_ids.sort();
    let mut expected = vec![text(&all[0]["eventId"]), text(&all[1]["eventId"])];
    expected.sort();
    assert_eq!(replayed_ids, expected);
    let failed = merge(by_id(&hook), json!({ "failedOnly": true }));
    eventually("the replayed deliveries", all_delivered).await;
    let none = world.owner.call_ok(REPLAY, world.org_request(failed)).await;
    assert_eq!(none["count"], json!(null));
    suite.finish().await;
}

/// A slow receiver delays no other and gets at most two requests at a time.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_receiver_delays_no_other() {
    let slow_response = Response { delay: RealDuration::from_secs(8), ..Response::status(200) };
    let slow = Receiver::with_script(move |_| slow_response.clone()).await;
    let quick = Receiver::start().await;
    let suite = suite(&[&slow, &quick]).await;
    let world = World::new(&suite).await;
    let types = json!({ "eventTypes": ["api_key.created"] });
    let hook = world.create_webhook(&slow.url("/slow"), types.clone()).await;
    world.create_webhook(&quick.url("/quick"), types).await;
    create_deliveries(&suite, &world, &hook).await;
    eventually("two concurrent requests", async || (slow.requests().len() == 2).then_some(()))
        .await;
    world.trigger_event().await;
    eventually("the requests to the quick receiver", async || {
        (quick.requests().len() == 11).then_some(())
    })
    .await;
    assert_eq!(slow.requests().len(), 2, "both requests are unanswered");
    suite.finish().await;
}

/// G-12: deliveries that a killed process has leased are sent after the end of the lease.
#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_lease_expires() {
    let receiver = Receiver::start().await;
    let suite = suite(&[&receiver]).await;
    let world = World::new(&suite).await;
    let hook = world
        .create_webhook(&receiver.url("/a"), json!({ "eventTypes": ["api_key.created"] }))
        .await;
    let id: uuid::Uuid = text(&hook["webhook"]["id"]).parse().unwrap();
    let lease =
        "update invitation.webhook set leased_until = now() + interval '1 minute' where id = $1";
    sqlx::query(lease).bind(id).execute(&suite.pool).await.unwrap();
    world.trigger_event().await;
    world.delivery(&hook, "a pending delivery", |it| it["state"] == "DELIVERY_STATE_PENDING").await;
    assert!(receiver.requests().is_empty(), "another process has the lease");
    suite.clock.advance(Duration::seconds(61));
    eventually("the request", async || (receiver.requests().len() == 1).then_some(())).await;
    suite.finish().await;
}

/// A release that fails once is repeated: the webhook does not wait for the end of its lease, and the failure
/// of its receiver is stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_fails_is_repeated() {
    let receiver = Receiver::with_script(|_| Response::status(503)).await;
    let suite = suite(&[&receiver]).await;
    let world = World::new(&suite).await;
    let fail_once = "
        create sequence public.release;
        create function public.fail_once() returns trigger language plpgsql security definer as $$
        begin
            if nextval('public.release') = 1 then raise exception 'the first release'; end if;
            return new;
        end $$;
        create trigger fail_once before update on invitation.webhook for each row
            when (old.leased_until is not null and new.leased_until is null)
            execute function public.fail_once();";
    sqlx::raw_sql(fail_once).execute(&suite.pool).await.unwrap();
    let types = json!({ "eventTypes": ["api_key.created"] });
    let hook = world.create_webhook(&receiver.url("/a"), types).await;
    members_are_known(&suite).await;
    // The lease does not end by itself.
    suite.clock.stop();
    world.trigger_event().await;
    world.delivery(&hook, "a failure", |it| it["attemptCount"] == 1).await;
    leases_have_ended(&suite).await;
    assert_eq!(suite.count("select last_value from public.release").await, 2);
    let failing = world.owner.call_ok(GET, world.org_request(by_id(&hook))).await;
    assert_eq!(failing["webhook"]["failureCount"], json!(1), "{failing}");
    suite.finish().await;
}
