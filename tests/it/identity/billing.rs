//! Billing without a provider: plan changes are free, and nothing is charged.

use serde_json::json;
use testkit::Suite;

use crate::support::world::{World, text};

const BILLING: &str = "identity.v1.BillingService";

/// PL-1, PL-3, PL-5, PL-46: the options say that nothing is charged; a preview has what fits and what exceeds
/// a plan; methods about payments refuse.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_provider_plans_are_free_and_nothing_is_charged() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let call = async |method: &str, more| {
        world.owner.call_ok(&format!("{BILLING}/{method}"), world.org_request(more)).await
    };
    let options = call("GetBillingOptions", json!({})).await;
    assert_eq!(options["provider"], "BILLING_PROVIDER_NONE");
    assert_eq!(options["charges"], json!(null), "false is the default");
    let plans = options["plans"].as_array().unwrap();
    let names: Vec<_> = plans.iter().map(|it| text(&it["plan"])).collect();
    assert_eq!(names, ["PLAN_FREE", "PLAN_STARTER", "PLAN_PRO", "PLAN_AGENCY"]);
    assert!(plans.iter().all(|it| it["price"].is_null()), "{options}");
    let preview = call("PreviewPlanChange", json!({ "plan": "PLAN_FREE" })).await;
    let row = |key: &str| {
        let rows = preview["preview"]["resources"].as_array().unwrap();
        rows.iter().find(|it| it["key"] == key).unwrap_or_else(|| panic!("{key}")).clone()
    };
    assert_eq!(
        row("members"),
        json!({ "key": "members", "used": "4", "limit": "2", "excess": "2" })
    );
    assert_eq!(row("projects"), json!({ "key": "projects", "used": "1", "limit": "2" }));
    assert_eq!(row("environments"), json!({ "key": "environments", "limit": "3" }));
    assert_eq!(row("servers"), json!({ "key": "servers", "limit": "1" }));
    assert_eq!(preview["preview"]["amountDue"], json!(null));
    let changed = call("ChangePlan", json!({ "plan": "PLAN_STARTER" })).await;
    assert_eq!(changed["organization"]["plan"], "PLAN_STARTER");
    let subscription = call("GetSubscription", json!({})).await["subscription"].clone();
    assert_eq!(subscription["state"], "SUBSCRIPTION_ACTIVE");
    assert_eq!(subscription["plan"], "PLAN_STARTER");
    assert_eq!(subscription["seatsUsed"], "4");
    assert_eq!(call("ListInvoices", json!({})).await["invoices"], json!(null));
    for (method, more) in [
        ("CancelSubscription", json!({})),
        ("ResumeSubscription", json!({})),
        ("UpdateSeats", json!({ "seatPolicy": "SEAT_POLICY_BUY" })),
        ("GetInvoice", json!({ "invoiceId": "in_1" })),
        ("CreateCheckoutSession", json!({ "plan": "PLAN_PRO" })),
        ("CreatePortalSession", json!({})),
    ] {
        let method = format!("{BILLING}/{method}");
        let refused = world.owner.call_err(&method, world.org_request(more)).await;
        assert_eq!(refused, "NO_BILLING_PROVIDER", "{method}");
    }
    suite.finish().await;
}

/// PL-5: only the Owner, with a session, has access to billing. Other members see the plan and its limits.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_sees_the_subscription() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let create = world.org_request(json!({ "name": "ci", "full": true }));
    let created = world.owner.call_ok("identity.v1.ApiKeyService/CreateApiKey", create).await;
    let key = world.owner.with_token(&text(&created["token"]));
    let methods = [
        ("GetSubscription", json!({})),
        ("GetBillingOptions", json!({})),
        ("PreviewPlanChange", json!({ "plan": "PLAN_FREE" })),
        ("ListInvoices", json!({})),
        ("GetInvoice", json!({ "invoiceId": "in_1" })),
        ("ChangePlan", json!({ "plan": "PLAN_FREE" })),
        ("CancelSubscription", json!({})),
        ("ResumeSubscription", json!({})),
        ("UpdateSeats", json!({ "seatPolicy": "SEAT_POLICY_BUY" })),
        ("CreateCheckoutSession", json!({ "plan": "PLAN_PRO" })),
        ("CreatePortalSession", json!({})),
    ];
    for (method, more) in methods {
        let method = format!("{BILLING}/{method}");
        let request = world.org_request(more);
        for person in [&world.admin, &world.developer, &world.viewer] {
            let refused = person.call_err(&method, request.clone()).await;
            assert_eq!(refused, "MISSING_PERMISSION", "{method}");
        }
        assert_eq!(key.call_err(&method, request).await, "SESSION_REQUIRED", "{method}");
    }
    let usage = world.org_request(json!({}));
    let usage = world.viewer.call_ok("identity.v1.OrganizationService/GetUsage", usage).await;
    assert_eq!(usage["plan"], "PLAN_PRO");
    assert_eq!(usage["subscription"], json!(null));
    // Webhooks and mail rules of Admins do not receive its state either.
    let events = json!(["subscription.changed"]);
    for (method, more) in [
        (
            "WebhookService/CreateWebhook",
            json!({ "url": "https://9.9.9.9/", "eventTypes": events }),
        ),
        (
            "MailRuleService/CreateMailRule",
            json!({ "recipients": ["a@b.c"], "eventTypes": events }),
        ),
    ] {
        let method = format!("notification.v1.{method}");
        let refused = world.admin.call(&method, world.org_request(more)).await.unwrap_err();
        assert!(refused.to_string().contains("event_types"), "{method}: {refused}");
    }
    suite.finish().await;
}

/// PL-4: without a provider the operator has blocked the organization, so its plan cannot be changed either.
#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_organization_cannot_change_its_plan_without_a_provider() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    suite.set_subscription(&world.org, api::identity::Subscription::Blocked).await;
    let change = world.org_request(json!({ "plan": "PLAN_AGENCY" }));
    let refused = world.owner.call_err(&format!("{BILLING}/ChangePlan"), change).await;
    assert_eq!(refused, "SUBSCRIPTION_BLOCKED");
    let get = world.org_request(json!({}));
    let got = world.owner.call_ok(&format!("{BILLING}/GetSubscription"), get).await;
    assert_eq!(got["subscription"]["state"], "SUBSCRIPTION_BLOCKED");
    suite.finish().await;
}
