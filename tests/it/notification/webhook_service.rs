//! Webhooks: management, signatures, disabling, tests and formats.

use chassis::clock::Duration;
use serde_json::{Value, json};
use testkit::{Options, Person, Receiver, Request, Response, Suite, eventually};

use crate::support::world::{World, merge, text};

pub(crate) const CREATE: &str = "notification.v1.WebhookService/CreateWebhook";
pub(super) const GET: &str = "notification.v1.WebhookService/GetWebhook";
const LIST: &str = "notification.v1.WebhookService/ListWebhooks";
const UPDATE: &str = "notification.v1.WebhookService/UpdateWebhook";
const ROTATE: &str = "notification.v1.WebhookService/RotateWebhookSecret";
const TEST: &str = "notification.v1.WebhookService/TestWebhook";
const DELETE: &str = "notification.v1.WebhookService/DeleteWebhook";
const DELIVERIES: &str = "notification.v1.WebhookService/ListDeliveries";

/// Starts a suite that may send to receivers on this machine.
pub(crate) async fn suite(receivers: &[&Receiver]) -> Suite {
    let webhook_exceptions = receivers.iter().map(|it| it.exception()).collect();
    Suite::start_with(Options { webhook_exceptions, ..Options::default() }).await
}

impl World {
    /// Creates a webhook of the organization; returns the response with its secret.
    pub(crate) async fn create_webhook(&self, url: &str, more: Value) -> Value {
        self.owner.call_ok(CREATE, self.org_request(merge(json!({ "url": url }), more))).await
    }

    /// Triggers the event `api_key.created`.
    pub(crate) async fn trigger_event(&self) {
        let name = format!("key {}", chassis::id::new());
        let create = self.org_request(json!({ "name": name, "full": false }));
        self.owner.call_ok("identity.v1.ApiKeyService/CreateApiKey", create).await;
    }

    /// Deliveries of a webhook, newest first.
    pub(super) async fn deliveries(&self, hook: &Value) -> Vec<Value> {
        let list = self.org_request(json!({ "webhookId": hook["webhook"]["id"], "pageSize": 100 }));
        let answer = self.owner.call_ok(DELIVERIES, list).await;
        answer["deliveries"].as_array().cloned().unwrap_or_default()
    }

    /// Waits for a delivery that fulfils a condition.
    pub(crate) async fn delivery(
        &self,
        hook: &Value,
        what: &str,
        condition: impl Fn(&Value) -> bool,
    ) -> Value {
        eventually(what, async || self.deliveries(hook).await.into_iter().find(&condition)).await
    }
}

/// Reference to a webhook in requests.
pub(crate) fn by_id(hook: &Value) -> Value {
    json!({ "webhookId": hook["webhook"]["id"] })
}

/// True if a request is signed with a secret (Standard Webhooks).
fn is_signed(request: &Request, secret: &str) -> bool {
    let key =
        data_encoding::BASE64.decode(secret.strip_prefix("whsec_").unwrap().as_bytes()).unwrap();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key);
    let id = &request.headers["webhook-id"];
    let time = &request.headers["webhook-timestamp"];
    let tag = aws_lc_rs::hmac::sign(&key, format!("{id}.{time}.{}", request.body).as_bytes());
    let expected = format!("v1,{}", data_encoding::BASE64.encode(tag.as_ref()));
    request.headers["webhook-signature"].split(' ').any(|it| it == expected)
}

/// NO-2, NO-8, NO-9: Owner and Admins manage the webhooks of the organization, Admins of a project those of
/// the project, which receive its events only; changes by API keys are rate-limited.
#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_managed_by_organization_and_project() {
    let receiver = Receiver::start().await;
    let suite = suite(&[&receiver]).await;
    let world = World::new(&suite).await;
    let hook = world.create_webhook(&receiver.url("/org"), json!({})).await;
    let create = world.org_request(json!({ "url": receiver.url("/x") }));
    for (method, request) in [
        (CREATE, create.clone()),
        (GET, world.org_request(by_id(&hook))),
        (LIST, world.org_request(json!({}))),
    ] {
        for person in [&world.developer, &world.viewer] {
            assert_eq!(
                person.call_err(method, request.clone()).await,
                "MISSING_PERMISSION",
                "{method}"
            );
        }
        world.admin.call_ok(method, request).await;
    }
    // An Admin of the project, who is a Developer of the organization.
    world.grant(json!({ "userId": world.developer.user_id }), "ADMIN").await;
    let types = json!(["api_key.created", "environment.created"]);
    let of_project =
        world.project_request(json!({ "url": receiver.url("/project"), "eventTypes": types }));
    let project_hook = world.developer.call_ok(CREATE, of_project.clone()).await;
    assert_eq!(
        world.developer.call_err(GET, world.project_request(by_id(&hook))).await,
        "NOT_FOUND"
    );
    assert_eq!(world.viewer.call_err(CREATE, of_project.clone()).await, "NOT_FOUND");
    let listed = world.developer.call_ok(LIST, world.project_request(json!({}))).await;
    assert_eq!(listed["webhooks"].as_array().unwrap().len(), 1);
    world.admin.call_ok(GET, world.project_request(by_id(&project_hook))).await;
    let foreign = merge(of_project, json!({ "projectId": chassis::id::new().to_string() }));
    assert_eq!(world.owner.call_err(CREATE, foreign).await, "NOT_FOUND");

    // Events of the organization are not sent to the webhook of the project.
    world.trigger_event().await;
    eventually("the request", async || (!receiver.requests_at("/org").is_empty()).then_some(()))
        .await;
    let environment = world.project_request(json!({ "name": "main" }));
    world.owner.call_ok("project.v1.EnvironmentService/CreateEnvironment", environment).await;
    eventually("the request", async || {
        (!receiver.requests_at("/project").is_empty()).then_some(())
    })
    .await;
    let types: Vec<_> = receiver.requests_at("/project").iter().map(event_type).collect();
    assert_eq!(types, ["environment.created"]);

    let key = world.org_request(json!({ "name": "ci", "full": true }));
    let key = world.owner.call_ok("identity.v1.ApiKeyService/CreateApiKey", key).await;
    let program = world.owner.with_token(&text(&key["token"]));
    for _ in 0..10 {
        let update = world.org_request(merge(
            by_id(&hook),
            json!({ "description": "x", "updateMask": "description" }),
        ));
        program.call_ok(UPDATE, update).await;
    }
    let update =
        world.org_request(merge(by_id(&hook), json!({ "enabled": true, "updateMask": "enabled" })));
    assert_eq!(program.call_err(UPDATE, update).await, "RATE_LIMITED");
    suite.finish().await;
}

/// Type of the event in a request.
fn event_type(request: &Request) -> String {
    let body: Value = serde_json::from_str(&request.body).unwrap();
    text(&body["type"])
}

/// NO-3, NO-4, NO-16: requests are signed with the current secret, and with the previous one for 24 hours
/// after a rotation; secrets are shown once and are in no event.
#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_signed_with_every_valid_secret() {
    let receiver = Receiver::start().await;
    let suite = suite(&[&receiver]).await;
    let world = World::new(&suite).await;
    let hook = world
        .create_webhook(&receiver.url("/a"), json!({ "eventTypes": ["api_key.created"] }))
        .await;
    let first = text(&hook["secret"]);
    let shown = world.owner.call_ok(GET, world.org_request(by_id(&hook))).await;
    assert!(!shown.to_string().contains("whsec_"), "{shown}");
    world.trigger_event().await;
    let received = async |count: usize| {
        eventually("requests", async || {
            (receiver.requests().len() >= count).then(|| receiver.requests())
        })
        .await
    };
    let request = received(1).await.remove(0);
    assert!(is_signed(&request, &first));
    let body: Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!(body["type"], "api_key.created");
    assert_eq!(text(&body["data"]["event_id"]), request.headers["webhook-id"]);
    assert!(!request.body.contains("tny_"), "{}", request.body);

    let rotated = world.owner.call_ok(ROTATE, world.org_request(by_id(&hook))).await;
    let second = text(&rotated["secret"]);
    assert_ne!(first, second);
    world.trigger_event().await;
    let request = received(2).await.remove(1);
    assert!(is_signed(&request, &first) && is_signed(&request, &second));
    crate::support::sealed_values::require_sealed_values(
        &suite,
        &["invitation.webhook.secret", "invitation.webhook.old_secret"],
    )
    .await;
    suite.clock.advance(Duration::hours(25));
    let owner = world.owner.sign_in_again().await;
    let create = world.org_request(json!({ "name": "later", "full": false }));
    owner.call_ok("identity.v1.ApiKeyService/CreateApiKey", create).await;
    let request = received(3).await.remove(2);
    assert!(!is_signed(&request, &first) && is_signed(&request, &second));
    let events =
        "select count(*) from invitation.outbox where position('whsec_'::bytea in envelope) > 0";
    assert_eq!(suite.count(events).await, 0);
    suite.finish().await;
}

/// Status 410 or five days of failures disable a webhook; its managers are notified and can enable it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_webhook_is_disabled_and_its_managers_are_notified() {
    let gone = Receiver::with_script(|_| Response::status(410)).await;
    let broken = Receiver::with_script(|_| Response::status(500)).await;
    let suite = suite(&[&gone, &broken]).await;
    let world = World::new(&suite).await;
    let types = json!({ "eventTypes": ["api_key.created"] });
    let first = world.create_webhook(&gone.url("/a"), types.clone()).await;
    let second = world.create_webhook(&broken.url("/b"), types).await;
    world.trigger_event().await;
    let wait_for_disabled = async |owner: &Person, hook: &Value, expected: &str| {
        eventually(expected, async || {
            let shown = owner.call_ok(GET, world.org_request(by_id(hook))).await;
            let reason = text(&shown["webhook"]["disabledReason"]);
            (shown["webhook"]["enabled"] == json!(null) && reason.contains(expected)).then_some(())
        })
        .await;
    };
    wait_for_disabled(&world.owner, &first, "410").await;
    world.delivery(&second, "a failure", |it| it["attemptCount"] == 1).await;
    // One attempt a day.
    let mut owner = world.owner.clone();
    for _ in 0..5 {
        // The result of the previous attempt is stored.
        let leased = "select count(*) from invitation.webhook where leased_until is not null";
        eventually("the end of the lease", async || (suite.count(leased).await == 0).then_some(()))
            .await;
        let before = broken.requests().len();
        suite.clock.advance(Duration::days(1));
        owner = owner.sign_in_again().await;
        let create =
            world.org_request(json!({ "name": chassis::id::new().to_string(), "full": false }));
        owner.call_ok("identity.v1.ApiKeyService/CreateApiKey", create).await;
        eventually("one more attempt", async || (broken.requests().len() > before).then_some(()))
            .await;
    }
    wait_for_disabled(&owner, &second, "five days").await;
    let has_both_notices = async || {
        let list = json!({ "category": "NOTIFICATION_CATEGORY_INTEGRATION" });
        let answer =
            owner.call_ok("notification.v1.NotificationService/ListNotifications", list).await;
        let all = answer["notifications"].as_array().cloned().unwrap_or_default();
        let notices = all.iter().filter(|it| it["eventType"] == "webhook.auto_disabled").count();
        (notices == 2).then_some(())
    };
    eventually("two notices", has_both_notices).await;
    // A manager enables it again.
    let enable = merge(by_id(&second), json!({ "enabled": true, "updateMask": "enabled" }));
    let enabled = owner.call_ok(UPDATE, world.org_request(enable)).await;
    assert_eq!(enabled["webhook"]["disabledReason"], json!(null));
    suite.finish().await;
}

/// NO-6, NO-7: a test request returns the cleaned start of the response and is not listed as a delivery; the
/// deliveries of a webhook are deleted with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_tested_and_deleted_with_its_deliveries() {
    let receiver = Receiver::with_script(|_| Response {
        body: format!("<script>\u{1b}[31m{}", "x".repeat(100_000)),
        ..Response::status(200)
    })
    .await;
    let truncating =
        Receiver::with_script(|_| Response { missing: 10, ..Response::status(200) }).await;
    let suite = suite(&[&receiver, &truncating]).await;
    let world = World::new(&suite).await;
    // A response that is cut off after its status counts as received.
    let truncated = world
        .create_webhook(&truncating.url("/b"), json!({ "eventTypes": ["api_key.created"] }))
        .await;
    let answered = world.owner.call_ok(TEST, world.org_request(by_id(&truncated))).await;
    assert_eq!(answered["success"], json!(true), "{answered}");
    world.owner.call_ok(DELETE, world.org_request(by_id(&truncated))).await;
    let hook = world
        .create_webhook(&receiver.url("/a"), json!({ "eventTypes": ["api_key.created"] }))
        .await;
    let tested = world.owner.call_ok(TEST, world.org_request(by_id(&hook))).await;
    assert_eq!((&tested["success"], &tested["responseStatus"]), (&json!(true), &json!(200)));
    let body = text(&tested["responseBody"]);
    assert!(body.chars().count() <= 1_000 && !body.contains('\u{1b}'), "{body}");
    assert_eq!(event_type(&receiver.requests()[0]), "ping");
    assert!(world.deliveries(&hook).await.is_empty());
    world.trigger_event().await;
    world.delivery(&hook, "delivery", |it| it["state"] == "DELIVERY_STATE_DELIVERED").await;
    world.owner.call_ok(DELETE, world.org_request(by_id(&hook))).await;
    assert_eq!(world.owner.call_err(GET, world.org_request(by_id(&hook))).await, "NOT_FOUND");
    assert_eq!(suite.count("select count(*) from invitation.webhook_delivery").await, 0);
    suite.finish().await;
}

/// Messages in the formats of chat systems, with user input escaped.
#[tokio::test(flavor = "multi_thread")]
async fn webhooks_use_the_formats_of_chat_systems() {
    let receiver = Receiver::start().await;
    let suite = suite(&[&receiver]).await;
    let world = World::new(&suite).await;
    for format in ["SLACK", "TEAMS", "DISCORD"] {
        let more = json!({ "format": format!("WEBHOOK_FORMAT_{format}"), "eventTypes": ["api_key.created"] });
        world.create_webhook(&receiver.url(&format!("/{format}")), more).await;
    }
    let create = world.org_request(json!({ "name": "<!channel> @everyone *x*", "full": false }));
    world.owner.call_ok("identity.v1.ApiKeyService/CreateApiKey", create).await;
    eventually("three requests", async || (receiver.requests().len() == 3).then_some(())).await;
    let body = |at: &str| receiver.requests_at(at)[0].body.clone();
    assert!(body("/SLACK").contains("&lt;!channel&gt;") && body("/SLACK").contains("\"blocks\""));
    assert!(body("/TEAMS").contains("AdaptiveCard"));
    assert!(body("/DISCORD").contains("\"allowed_mentions\":{\"parse\":[]}"));
    assert!(body("/DISCORD").contains("\\\\*x\\\\*"), "{}", body("/DISCORD"));
    suite.finish().await;
}
