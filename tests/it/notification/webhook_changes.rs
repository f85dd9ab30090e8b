//! Changes of a webhook while its deliveries are sent, test requests, and pauses that receivers request.

use std::time::Duration as RealDuration;

use chassis::clock::Duration;
use serde_json::{Value, json};
use testkit::{Receiver, Response, Suite, eventually};

use super::{
    webhook_delivery::create_deliveries,
    webhook_service::{by_id, suite},
};
use crate::support::world::{World, merge, text};

const UPDATE: &str = "notification.v1.WebhookService/UpdateWebhook";
const TEST: &str = "notification.v1.WebhookService/TestWebhook";

/// A webhook of a slow receiver with ten deliveries, of which two are being sent.
async fn begin_deliveries(suite: &Suite, world: &World, slow: &Receiver) -> Value {
    let types = json!({ "eventTypes": ["api_key.created"] });
    let hook = world.create_webhook(&slow.url("/old"), types).await;
    create_deliveries(suite, world, &hook).await;
    eventually("two requests", async || (slow.requests().len() == 2).then_some(())).await;
    hook
}

fn slow_receiver_response() -> Response {
    Response { delay: RealDuration::from_secs(2), ..Response::status(200) }
}

/// NO-21: deliveries go to the present URL from the answer of the change on.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_url_and_secret_are_used_by_the_next_delivery() {
    let slow = Receiver::with_script(|_| slow_receiver_response()).await;
    let new = Receiver::start().await;
    let suite = suite(&[&slow, &new]).await;
    let world = World::new(&suite).await;
    let hook = begin_deliveries(&suite, &world, &slow).await;
    let change = merge(by_id(&hook), json!({ "url": new.url("/new"), "updateMask": "url" }));
    world.owner.call_ok(UPDATE, world.org_request(change)).await;
    world
        .owner
        .call_ok(
            "notification.v1.WebhookService/RotateWebhookSecret",
            world.org_request(by_id(&hook)),
        )
        .await;
    eventually("eight requests", async || (new.requests().len() == 8).then_some(())).await;
    assert_eq!(slow.requests().len(), 2, "only those that were sent before");
    // Two secrets sign.
    for request in new.requests() {
        assert_eq!(request.headers["webhook-signature"].split(' ').count(), 2);
    }
    suite.finish().await;
}

/// NO-21: a disabled or deleted webhook gets nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_a_disabled_or_deleted_webhook() {
    for delete in [false, true] {
        let slow = Receiver::with_script(|_| slow_receiver_response()).await;
        let suite = suite(&[&slow]).await;
        let world = World::new(&suite).await;
        let hook = begin_deliveries(&suite, &world, &slow).await;
        if delete {
            let request = world.org_request(by_id(&hook));
            world.owner.call_ok("notification.v1.WebhookService/DeleteWebhook", request).await;
        } else {
            let off = merge(by_id(&hook), json!({ "enabled": false, "updateMask": "enabled" }));
            world.owner.call_ok(UPDATE, world.org_request(off)).await;
        }
        let leased = "select count(*) from invitation.webhook where leased_until is not null";
        eventually("the end of the lease", async || (suite.count(leased).await == 0).then_some(()))
            .await;
        // The requests that were sent before have been answered.
        suite.finish().await;
        assert_eq!(slow.requests().len(), 2, "delete: {delete}");
    }
}

/// NO-6: a test has the format of the webhook, so that chat systems accept it.
#[tokio::test(flavor = "multi_thread")]
async fn a_test_has_the_format_of_the_webhook() {
    let receiver = Receiver::with_script(|request| {
        let body: Value = serde_json::from_str(&request.body).unwrap();
        let is_accepted = match request.path.as_str() {
            "/SLACK" => body["text"].is_string(),
            "/TEAMS" => body["attachments"].is_array(),
            "/DISCORD" => body["embeds"].is_array(),
            _ => body["type"] == "ping" && body["timestamp"].is_string(),
        };
        Response::status(if is_accepted { 200 } else { 400 })
    })
    .await;
    let suite = suite(&[&receiver]).await;
    let world = World::new(&suite).await;
    for format in ["RAW", "SLACK", "TEAMS", "DISCORD"] {
        let more = json!({ "format": format!("WEBHOOK_FORMAT_{format}") });
        let hook = world.create_webhook(&receiver.url(&format!("/{format}")), more).await;
        let tested = world.owner.call_ok(TEST, world.org_request(by_id(&hook))).await;
        assert_eq!(tested["success"], json!(true), "{format}: {tested}");
    }
    suite.finish().await;
}

/// NO-5: a receiver requests a pause by `Retry-After`, at most a day.
#[tokio::test(flavor = "multi_thread")]
async fn a_requested_pause_is_kept_within_a_bound() {
    let busy = |header: &'static str| {
        Receiver::with_script(move |_| Response {
            header: header.to_owned(),
            ..Response::status(503)
        })
    };
    let hour = busy("retry-after: 3600").await;
    let forever = busy("retry-after: Fri, 01 Jan 2100 00:00:00 GMT").await;
    let suite = suite(&[&hour, &forever]).await;
    let world = World::new(&suite).await;
    let types = json!({ "eventTypes": ["api_key.created"] });
    let first = world.create_webhook(&hour.url("/a"), types.clone()).await;
    let second = world.create_webhook(&forever.url("/b"), types).await;
    let start = suite.clock.now();
    world.trigger_event().await;
    for (hook, pause) in [(first, Duration::hours(1)), (second, Duration::hours(24))] {
        let failed = world.delivery(&hook, "a failure", |it| it["attemptCount"] == 1).await;
        let next = text(&failed["nextAttemptTime"]);
        let format = &time::format_description::well_known::Rfc3339;
        let next = time::OffsetDateTime::parse(&next, format).unwrap();
        let wait = next - start;
        assert!(wait >= pause && wait < pause + Duration::minutes(2), "{wait}");
    }
    // Further events wait, too.
    world.trigger_event().await;
    suite.clock.advance(Duration::minutes(30));
    assert_eq!((hour.requests().len(), forever.requests().len()), (1, 1));
    suite.clock.advance(Duration::minutes(31));
    eventually("the next attempts", async || (hour.requests().len() >= 2).then_some(())).await;
    assert_eq!(forever.requests().len(), 1);
    suite.finish().await;
}
