//! Webhooks: who manages them, where they may go, what is sent, and what happens when nobody answers.

use std::time::Duration as Real;

use chassis::clock::Duration;
use serde_json::{Value, json};
use testkit::{Answer, Options, Person, Post, Receiver, Suite, eventually};

use crate::world::{World, merge, text};

pub(crate) const CREATE: &str = "invitation.v1.WebhookService/CreateWebhook";
const GET: &str = "invitation.v1.WebhookService/GetWebhook";
const LIST: &str = "invitation.v1.WebhookService/ListWebhooks";
const UPDATE: &str = "invitation.v1.WebhookService/UpdateWebhook";
const ROTATE: &str = "invitation.v1.WebhookService/RotateWebhookSecret";
const TEST: &str = "invitation.v1.WebhookService/TestWebhook";
const DELETE: &str = "invitation.v1.WebhookService/DeleteWebhook";
const DELIVERIES: &str = "invitation.v1.WebhookService/ListDeliveries";
const REPLAY: &str = "invitation.v1.WebhookService/ReplayDeliveries";

/// A suite that may send to some receivers on this machine.
async fn suite(receivers: &[&Receiver]) -> Suite {
    let webhook_exceptions = receivers.iter().map(|it| it.exception()).collect();
    Suite::start_with(Options { webhook_exceptions, ..Options::default() }).await
}

impl World {
    pub(crate) async fn hook(&self, url: &str, more: Value) -> Value {
        self.owner.tell(CREATE, self.here(merge(json!({ "url": url }), more))).await
    }

    /// Something happens of which webhooks are told: `api_key.created`.
    pub(crate) async fn happen(&self) {
        let name = format!("key {}", chassis::id::new());
        let create = self.here(json!({ "name": name, "full": false }));
        self.owner.tell("identity.v1.ApiKeyService/CreateApiKey", create).await;
    }

    async fn deliveries(&self, hook: &Value) -> Vec<Value> {
        let list = self.here(json!({ "webhookId": hook["webhook"]["id"], "pageSize": 100 }));
        let answer = self.owner.tell(DELIVERIES, list).await;
        answer["deliveries"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until the newest delivery is as it should be.
    pub(crate) async fn delivery(
        &self,
        hook: &Value,
        what: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Value {
        eventually(what, async || self.deliveries(hook).await.into_iter().find(|it| fits(it))).await
    }
}

fn one(hook: &Value) -> Value {
    json!({ "webhookId": hook["webhook"]["id"] })
}

/// Whether a post is signed with a secret, as a receiver would check it.
fn signed(post: &Post, secret: &str) -> bool {
    let key =
        data_encoding::BASE64.decode(secret.strip_prefix("whsec_").unwrap().as_bytes()).unwrap();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key);
    let (id, time) = (&post.headers["webhook-id"], &post.headers["webhook-timestamp"]);
    let tag = aws_lc_rs::hmac::sign(&key, format!("{id}.{time}.{}", post.body).as_bytes());
    let expected = format!("v1,{}", data_encoding::BASE64.encode(tag.as_ref()));
    post.headers["webhook-signature"].split(' ').any(|it| it == expected)
}

/// NO-2, NO-8, NO-9: Owner and Admins manage webhooks of the organization, a project's Admins those of the
/// project, which get only what happens there; programs do not change them often.
#[tokio::test(flavor = "multi_thread")]
async fn managers_manage_webhooks_and_projects_their_own() {
    let receiver = Receiver::start().await;
    let suite = suite(&[&receiver]).await;
    let world = World::new(&suite).await;
    let hook = world.hook(&receiver.url("/org"), json!({})).await;
    let create = world.here(json!({ "url": receiver.url("/x") }));
    for (method, question) in
        [(CREATE, create.clone()), (GET, world.here(one(&hook))), (LIST, world.here(json!({})))]
    {
        for person in [&world.developer, &world.viewer] {
            assert_eq!(
                person.refused(method, question.clone()).await,
                "MISSING_PERMISSION",
                "{method}"
            );
        }
        world.admin.tell(method, question).await;
    }
    // An Admin of the project, who is a Viewer of the organization.
    world.grant(json!({ "userId": world.viewer.user_id }), "ADMIN").await;
    let types = json!(["api_key.created", "environment.created"]);
    let there = world.there(json!({ "url": receiver.url("/project"), "eventTypes": types }));
    let theirs = world.viewer.tell(CREATE, there.clone()).await;
    assert_eq!(world.viewer.refused(GET, world.there(one(&hook))).await, "NOT_FOUND");
    assert_eq!(world.developer.refused(CREATE, there.clone()).await, "NOT_FOUND");
    let listed = world.viewer.tell(LIST, world.there(json!({}))).await;
    assert_eq!(listed["webhooks"].as_array().unwrap().len(), 1);
    world.admin.tell(GET, world.there(one(&theirs))).await;
    let foreign = merge(there, json!({ "projectId": chassis::id::new().to_string() }));
    assert_eq!(world.owner.refused(CREATE, foreign).await, "NOT_FOUND");

    // What happens in the organization is none of the project's webhook's business.
    world.happen().await;
    eventually("the post", async || (!receiver.posts_at("/org").is_empty()).then_some(())).await;
    let environment = world.there(json!({ "name": "main" }));
    world.owner.tell("project.v1.EnvironmentService/CreateEnvironment", environment).await;
    eventually("the post", async || (!receiver.posts_at("/project").is_empty()).then_some(()))
        .await;
    let types: Vec<_> = receiver.posts_at("/project").iter().map(kind).collect();
    assert_eq!(types, ["environment.created"]);

    let key = world.here(json!({ "name": "ci", "full": true }));
    let key = world.owner.tell("identity.v1.ApiKeyService/CreateApiKey", key).await;
    let program = world.owner.with_token(&text(&key["token"]));
    for _ in 0..10 {
        let update = world
            .here(merge(one(&hook), json!({ "description": "x", "updateMask": "description" })));
        program.tell(UPDATE, update).await;
    }
    let update = world.here(merge(one(&hook), json!({ "enabled": true, "updateMask": "enabled" })));
    assert_eq!(program.refused(UPDATE, update).await, "RATE_LIMITED");
    suite.finish().await;
}

fn kind(post: &Post) -> String {
    let body: Value = serde_json::from_str(&post.body).unwrap();
    text(&body["type"])
}

/// NO-3, NO-4, NO-16: signed with the secret that was shown once, during a rotation with both; and without
/// anything secret.
#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_signed_with_every_secret_that_lives() {
    let receiver = Receiver::start().await;
    let suite = suite(&[&receiver]).await;
    let world = World::new(&suite).await;
    let hook = world.hook(&receiver.url("/a"), json!({ "eventTypes": ["api_key.created"] })).await;
    let first = text(&hook["secret"]);
    let shown = world.owner.tell(GET, world.here(one(&hook))).await;
    assert!(!shown.to_string().contains("whsec_"), "{shown}");
    world.happen().await;
    let posts = async |count: usize| {
        eventually("posts", async || (receiver.posts().len() >= count).then(|| receiver.posts()))
            .await
    };
    let post = posts(1).await.remove(0);
    assert!(signed(&post, &first));
    let body: Value = serde_json::from_str(&post.body).unwrap();
    assert_eq!(body["type"], "api_key.created");
    assert_eq!(text(&body["data"]["event_id"]), post.headers["webhook-id"]);
    assert!(!post.body.contains("tny_"), "{}", post.body);

    let rotated = world.owner.tell(ROTATE, world.here(one(&hook))).await;
    let second = text(&rotated["secret"]);
    assert_ne!(first, second);
    world.happen().await;
    let post = posts(2).await.remove(1);
    assert!(signed(&post, &first) && signed(&post, &second));
    suite.clock.advance(Duration::hours(25));
    let owner = world.owner.again().await;
    let again = world.here(json!({ "name": "later", "full": false }));
    owner.tell("identity.v1.ApiKeyService/CreateApiKey", again).await;
    let post = posts(3).await.remove(2);
    assert!(!signed(&post, &first) && signed(&post, &second));
    let events =
        "select count(*) from invitation.outbox where position('whsec_'::bytea in envelope) > 0";
    assert_eq!(suite.count(events).await, 0);
    suite.finish().await;
}

/// NO-5: what fails is tried again, with the same id; a receiver that is well again gets it all. NO-12: the
/// business goes on.
#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_tried_again_with_the_same_id() {
    use std::sync::atomic::{AtomicU16, Ordering};
    static STATUS: AtomicU16 = AtomicU16::new(503);
    let receiver = Receiver::answering(|_| Answer::status(STATUS.load(Ordering::Relaxed))).await;
    let suite = suite(&[&receiver]).await;
    let world = World::new(&suite).await;
    let types = json!({ "eventTypes": ["api_key.created"] });
    let hook = world.hook(&receiver.url("/a"), types).await;
    world.happen().await;
    let failed = world.delivery(&hook, "a failure", |it| it["attemptCount"] == 1).await;
    assert_eq!(
        (failed["state"].as_str(), failed["responseStatus"].as_i64()),
        (Some("DELIVERY_STATE_PENDING"), Some(503))
    );
    assert!(text(&failed["failure"]).contains("503"), "{failed}");
    suite.clock.advance(Duration::seconds(6));
    world.delivery(&hook, "a second failure", |it| it["attemptCount"] == 2).await;
    STATUS.store(204, Ordering::Relaxed);
    suite.clock.advance(Duration::minutes(6));
    let owner = world.owner.again().await;
    let world = World { owner, ..world };
    world.delivery(&hook, "success", |it| it["state"] == "DELIVERY_STATE_DELIVERED").await;
    let ids: std::collections::HashSet<_> =
        receiver.posts().iter().map(|it| it.headers["webhook-id"].clone()).collect();
    assert_eq!((ids.len(), receiver.posts().len()), (1, 3));
    let well = world.owner.tell(GET, world.here(one(&hook))).await;
    assert_eq!(well["webhook"]["failureCount"], json!(null));
    suite.finish().await;
}

/// N-14: 410 ends it at once, five days of failures in the end; the managers are told, and can enable it.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_gone_is_given_up_and_its_managers_are_told() {
    let gone = Receiver::answering(|_| Answer::status(410)).await;
    let broken = Receiver::answering(|_| Answer::status(500)).await;
    let suite = suite(&[&gone, &broken]).await;
    let world = World::new(&suite).await;
    let types = json!({ "eventTypes": ["api_key.created"] });
    let first = world.hook(&gone.url("/a"), types.clone()).await;
    let second = world.hook(&broken.url("/b"), types).await;
    world.happen().await;
    let disabled = async |owner: &Person, hook: &Value, why: &str| {
        eventually(why, async || {
            let it = owner.tell(GET, world.here(one(hook))).await;
            let reason = text(&it["webhook"]["disabledReason"]);
            (it["webhook"]["enabled"] == json!(null) && reason.contains(why)).then_some(())
        })
        .await;
    };
    disabled(&world.owner, &first, "410").await;
    world.delivery(&second, "a failure", |it| it["attemptCount"] == 1).await;
    // Days go by; each makes what is due come due.
    let mut owner = world.owner.clone();
    for _ in 0..5 {
        // What was tried today is written down today.
        let held = "select count(*) from invitation.webhook where leased_until is not null";
        eventually("rest", async || (suite.count(held).await == 0).then_some(())).await;
        let before = broken.posts().len();
        suite.clock.advance(Duration::days(1));
        owner = owner.again().await;
        let create = world.here(json!({ "name": chassis::id::new().to_string(), "full": false }));
        owner.tell("identity.v1.ApiKeyService/CreateApiKey", create).await;
        eventually("one more try", async || (broken.posts().len() > before).then_some(())).await;
    }
    disabled(&owner, &second, "five days").await;
    let told = async || {
        let list = json!({ "category": "NOTIFICATION_CATEGORY_INTEGRATION" });
        let answer = owner.tell("invitation.v1.NotificationService/ListNotifications", list).await;
        let all = answer["notifications"].as_array().cloned().unwrap_or_default();
        let mine = all.iter().filter(|it| it["eventType"] == "webhook.disabled").count();
        (mine == 2).then_some(())
    };
    eventually("two notices", told).await;
    // Mended and enabled again.
    let enable = merge(one(&second), json!({ "enabled": true, "updateMask": "enabled" }));
    let enabled = owner.tell(UPDATE, world.here(enable)).await;
    assert_eq!(enabled["webhook"]["disabledReason"], json!(null));
    suite.finish().await;
}

/// NO-6, NO-7, N-16: a test tells what came back, harmless, and is no delivery; with a webhook goes its
/// history.
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_tested_and_deleted_with_its_history() {
    let receiver = Receiver::answering(|_| Answer {
        body: format!("<script>\u{1b}[31m{}", "x".repeat(100_000)),
        ..Answer::status(200)
    })
    .await;
    let sloppy = Receiver::answering(|_| Answer { missing: 10, ..Answer::status(200) }).await;
    let suite = suite(&[&receiver, &sloppy]).await;
    let world = World::new(&suite).await;
    // One that breaks off after its status has answered.
    let broken_off =
        world.hook(&sloppy.url("/b"), json!({ "eventTypes": ["api_key.created"] })).await;
    let answered = world.owner.tell(TEST, world.here(one(&broken_off))).await;
    assert_eq!(answered["success"], json!(true), "{answered}");
    world.owner.tell(DELETE, world.here(one(&broken_off))).await;
    let hook = world.hook(&receiver.url("/a"), json!({ "eventTypes": ["api_key.created"] })).await;
    let tested = world.owner.tell(TEST, world.here(one(&hook))).await;
    assert_eq!((&tested["success"], &tested["responseStatus"]), (&json!(true), &json!(200)));
    let said = text(&tested["responseBody"]);
    assert!(said.chars().count() <= 1_000 && !said.contains('\u{1b}'), "{said}");
    assert_eq!(kind(&receiver.posts()[0]), "ping");
    assert!(world.deliveries(&hook).await.is_empty());
    world.happen().await;
    world.delivery(&hook, "delivery", |it| it["state"] == "DELIVERY_STATE_DELIVERED").await;
    world.owner.tell(DELETE, world.here(one(&hook))).await;
    assert_eq!(world.owner.refused(GET, world.here(one(&hook))).await, "NOT_FOUND");
    assert_eq!(suite.count("select count(*) from invitation.webhook_delivery").await, 0);
    suite.finish().await;
}

/// What a receiver lost is sent again, from a delivery on, with the ids that it knows.
#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_replayed_from_a_cursor() {
    let receiver = Receiver::start().await;
    let suite = suite(&[&receiver]).await;
    let world = World::new(&suite).await;
    let hook = world.hook(&receiver.url("/a"), json!({ "eventTypes": ["api_key.created"] })).await;
    for _ in 0..3 {
        world.happen().await;
    }
    eventually("three posts", async || (receiver.posts().len() == 3).then_some(())).await;
    let all_delivered = async || {
        let all = world.deliveries(&hook).await;
        let done = |it: &Value| it["state"] == "DELIVERY_STATE_DELIVERED";
        (all.len() == 3 && all.iter().all(done)).then_some(all)
    };
    let all = eventually("three deliveries", all_delivered).await;
    let oldest = text(&all[2]["id"]);
    let replay = merge(one(&hook), json!({ "afterDeliveryId": oldest }));
    let replayed = world.owner.tell(REPLAY, world.here(replay)).await;
    assert_eq!(replayed["count"], 2);
    eventually("five posts", async || (receiver.posts().len() == 5).then_some(())).await;
    let ids: Vec<_> = receiver.posts().iter().map(|it| it.headers["webhook-id"].clone()).collect();
    let mut again = ids[3..].to_vec();
    again.sort();
    let mut expected = vec![text(&all[0]["eventId"]), text(&all[1]["eventId"])];
    expected.sort();
    assert_eq!(again, expected);
    let failed = merge(one(&hook), json!({ "failedOnly": true }));
    eventually("rest", all_delivered).await;
    let none = world.owner.tell(REPLAY, world.here(failed)).await;
    assert_eq!(none["count"], json!(null));
    suite.finish().await;
}

/// The formats of chats, with what people wrote as text.
#[tokio::test(flavor = "multi_thread")]
async fn chats_get_what_they_read() {
    let receiver = Receiver::start().await;
    let suite = suite(&[&receiver]).await;
    let world = World::new(&suite).await;
    for format in ["SLACK", "TEAMS", "DISCORD"] {
        let more = json!({ "format": format!("WEBHOOK_FORMAT_{format}"), "eventTypes": ["api_key.created"] });
        world.hook(&receiver.url(&format!("/{format}")), more).await;
    }
    let create = world.here(json!({ "name": "<!channel> @everyone *x*", "full": false }));
    world.owner.tell("identity.v1.ApiKeyService/CreateApiKey", create).await;
    eventually("three posts", async || (receiver.posts().len() == 3).then_some(())).await;
    let body = |at: &str| receiver.posts_at(at)[0].body.clone();
    assert!(body("/SLACK").contains("&lt;!channel&gt;") && body("/SLACK").contains("\"blocks\""));
    assert!(body("/TEAMS").contains("AdaptiveCard"));
    assert!(body("/DISCORD").contains("\"allowed_mentions\":{\"parse\":[]}"));
    assert!(body("/DISCORD").contains("\\\\*x\\\\*"), "{}", body("/DISCORD"));
    suite.finish().await;
}

/// N-14: one that is slow delays no other, and gets two at a time at most.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_receiver_delays_no_other() {
    let late = Answer { delay: Real::from_secs(8), ..Answer::status(200) };
    let slow = Receiver::answering(move |_| late.clone()).await;
    let quick = Receiver::start().await;
    let suite = suite(&[&slow, &quick]).await;
    let world = World::new(&suite).await;
    let types = json!({ "eventTypes": ["api_key.created"] });
    let hook = world.hook(&slow.url("/slow"), types.clone()).await;
    world.hook(&quick.url("/quick"), types).await;
    let id: uuid::Uuid = text(&hook["webhook"]["id"]).parse().unwrap();
    let lease = async |until: &'static str| {
        sqlx::query(until).bind(id).execute(&suite.pool).await.unwrap();
    };
    // So that ten wait at once.
    lease("update invitation.webhook set leased_until = now() + interval '1 hour' where id = $1")
        .await;
    for _ in 0..10 {
        world.happen().await;
    }
    eventually("ten that wait", async || (world.deliveries(&hook).await.len() == 10).then_some(()))
        .await;
    lease("update invitation.webhook set leased_until = null where id = $1").await;
    eventually("two lanes", async || (slow.posts().len() == 2).then_some(())).await;
    world.happen().await;
    eventually("the quick one", async || (quick.posts().len() == 11).then_some(())).await;
    assert_eq!(slow.posts().len(), 2, "neither of the two was answered yet");
    suite.finish().await;
}

/// G-12: what a killed process held is delivered once its lease is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_nobody_gives_back_ends() {
    let receiver = Receiver::start().await;
    let suite = suite(&[&receiver]).await;
    let world = World::new(&suite).await;
    let hook = world.hook(&receiver.url("/a"), json!({ "eventTypes": ["api_key.created"] })).await;
    let id: uuid::Uuid = text(&hook["webhook"]["id"]).parse().unwrap();
    let held =
        "update invitation.webhook set leased_until = now() + interval '1 minute' where id = $1";
    sqlx::query(held).bind(id).execute(&suite.pool).await.unwrap();
    world.happen().await;
    world.delivery(&hook, "a queued one", |it| it["state"] == "DELIVERY_STATE_PENDING").await;
    assert!(receiver.posts().is_empty(), "somebody else holds it");
    suite.clock.advance(Duration::seconds(61));
    eventually("the post", async || (receiver.posts().len() == 1).then_some(())).await;
    suite.finish().await;
}
