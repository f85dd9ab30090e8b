//! An organization that pays at Stripe.

use serde_json::{Value, json};
use tenantry::client::CallError;
use testkit::{Options, Person, Stripe, Suite, eventually};

use super::world::{merge, text};

/// A suite with Stripe, and an organization on the plan Free with its Owner.
pub(crate) struct Customer {
    pub(crate) suite: Suite,
    pub(crate) stripe: Stripe,
    pub(crate) owner: Person,
    pub(crate) org: String,
}

impl Customer {
    pub(crate) async fn new() -> Self {
        let stripe = Stripe::start().await;
        let options = Options { stripe_url: Some(stripe.url()), ..Options::default() };
        let suite = Suite::start_with(options).await;
        let owner = suite.person("owner@example.com").await;
        let create = json!({ "name": "Acme", "slug": "acme" });
        let method = "identity.v1.OrganizationService/CreateOrganization";
        let created = owner.call_ok(method, create).await;
        let org = text(&created["organization"]["id"]);
        Self { suite, stripe, owner, org }
    }

    /// The same organization with a subscription of a plan (`PRO`) that has begun.
    pub(crate) async fn subscribed(plan: &str) -> Self {
        let customer = Self::new().await;
        customer.subscribe(plan).await;
        customer
    }

    /// Begins a subscription of a plan by a checkout.
    pub(crate) async fn subscribe(&self, plan: &str) {
        self.call("CreateCheckoutSession", json!({ "plan": format!("PLAN_{plan}") })).await;
        let id = self.stripe.complete_checkout(self.now());
        assert_eq!(self.deliver("customer.subscription.created", "sub_1", &id).await, 200);
        self.wait_for("SUBSCRIPTION_TRIALING").await;
    }

    /// Seconds since 1970.
    pub(crate) fn now(&self) -> i64 {
        self.suite.clock.now().unix_timestamp()
    }

    /// Calls a method of billing that must succeed.
    pub(crate) async fn call(&self, method: &str, more: Value) -> Value {
        self.try_call(method, more).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Calls a method of billing.
    pub(crate) async fn try_call(&self, method: &str, more: Value) -> Result<Value, CallError> {
        let request = merge(json!({ "orgId": self.org }), more);
        self.owner.call(&format!("identity.v1.BillingService/{method}"), request).await
    }

    /// Calls a method of billing that must fail; returns the reason.
    pub(crate) async fn refusal(&self, method: &str, more: Value) -> String {
        self.try_call(method, more).await.expect_err("the call fails").reason
    }

    /// The subscription.
    pub(crate) async fn subscription(&self) -> Value {
        self.call("GetSubscription", json!({})).await["subscription"].clone()
    }

    /// Waits until the subscription has a state.
    pub(crate) async fn wait_for(&self, state: &str) -> Value {
        self.wait_until(state, |it| it["state"] == state).await
    }

    /// Waits until the subscription meets a condition.
    pub(crate) async fn wait_until(&self, event: &str, met: impl Fn(&Value) -> bool) -> Value {
        eventually(event, async || Some(self.subscription().await).filter(&met)).await
    }

    /// Id of the organization's account at Stripe.
    pub(crate) async fn customer_id(&self) -> String {
        let id = sqlx::query_scalar("select customer_id from identity.subscription");
        id.fetch_one(&self.suite.pool).await.unwrap()
    }

    /// Delivers an event about an object of an account at Stripe; returns the HTTP status.
    pub(crate) async fn deliver(&self, kind: &str, object_id: &str, account: &str) -> u16 {
        let body = self.stripe.event(kind, object_id, account);
        self.stripe.deliver(&self.suite, &body).await
    }

    /// Changes the subscription at Stripe, and delivers the event about it.
    pub(crate) async fn change(&self, change: impl FnOnce(&mut testkit::StripeSubscription)) {
        self.stripe.change(change);
        let account = self.customer_id().await;
        assert_eq!(self.deliver("customer.subscription.updated", "sub_1", &account).await, 200);
    }

    /// Waits until every webhook is processed.
    pub(crate) async fn wait_for_webhooks(&self) {
        let pending = "select count(*) from identity.billing_event where processed_at is null";
        eventually("the processing of webhooks", async || {
            (self.suite.count(pending).await == 0).then_some(())
        })
        .await;
    }
}
