//! The Stripe API as a foreign party: an HTTP server with the endpoints that the suite calls. Its objects
//! have the shape of the documentation of version 2024-06-20, and a repeated idempotency key gets the first
//! response.

mod objects;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chassis::{BillingProvider, Config, key::hmac_sha256};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};

pub use self::objects::Subscription;
use crate::{Receiver, Request, Response, Suite};

/// Signing secret of the webhook endpoint.
const WEBHOOK_SECRET: &str = "whsec_0123456789abcdef";

/// Secret key of the API.
const API_KEY: &str = "sk_test_0123456789abcdef";

/// Id of the card of every subscription.
const PAYMENT_METHOD: &str = "pm_1MtHbELkdIwHu7ixl4OzzPMv";

/// Settings of a suite that uses the API at a URL.
pub(crate) fn configure(config: Config, folder: &Path, url: &str) -> Config {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, format!("{text}\n")).expect("the file can be written");
        Some(path)
    };
    let list = |texts: &[&str]| texts.iter().map(|it| (*it).to_owned()).collect();
    Config {
        billing_provider: BillingProvider::Stripe,
        stripe_key_file: write("stripe.key", API_KEY),
        stripe_webhook_secret_file: write("stripe.webhook", WEBHOOK_SECRET),
        stripe_prices: list(&["starter=price_starter", "pro=price_pro"]),
        stripe_seat_plans: list(&["pro"]),
        stripe_url: url.to_owned(),
        ..config
    }
}

/// A Stripe account on a free loopback port; stops with the test.
pub struct Stripe {
    receiver: Receiver,
    state: Arc<Mutex<State>>,
}

/// Objects of the account.
#[derive(Default)]
struct State {
    is_down: bool,
    /// True if every card is declined.
    declines: bool,
    /// True if the responses to changes are lost after the change.
    loses_responses: bool,
    /// Number of changes of subscriptions so far, without repetitions.
    updates: usize,
    /// Number of objects so far.
    count: usize,
    customers: Vec<String>,
    subscriptions: Vec<Subscription>,
    invoices: Vec<Value>,
    /// Form of the last checkout.
    checkout: HashMap<String, String>,
    /// Responses by idempotency key.
    responses: HashMap<String, (u16, Value)>,
}

impl Stripe {
    /// Texts that the suite must not store: its secrets, and the id of the card.
    pub const SECRETS: [&str; 3] = [API_KEY, WEBHOOK_SECRET, PAYMENT_METHOD];

    /// Starts the server.
    pub async fn start() -> Self {
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        let receiver = Receiver::with_script(move |request| {
            shared.lock().unwrap_or_else(PoisonError::into_inner).respond(request)
        });
        Self { receiver: receiver.await, state }
    }

    /// Base URL.
    pub fn url(&self) -> String {
        self.receiver.url("")
    }

    /// Requests received so far, as method and path without the query.
    pub fn requests(&self) -> Vec<String> {
        let requests = self.receiver.requests().into_iter();
        let text = |it: Request| {
            format!("{} {}", it.method, it.path.split('?').next().unwrap_or_default())
        };
        requests.map(text).collect()
    }

    /// Responds with 503 from now on, or no longer.
    pub fn set_down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    /// Declines every card from now on, or no longer.
    pub fn set_declining(&self, declines: bool) {
        self.state().declines = declines;
    }

    /// Loses the responses to changes from now on, or no longer. The changes are made.
    pub fn set_losing_responses(&self, loses: bool) {
        self.state().loses_responses = loses;
    }

    /// Number of changes of subscriptions so far, without repetitions.
    pub fn updates(&self) -> usize {
        self.state().updates
    }

    /// Completes the last checkout: its subscription begins, with a trial if the checkout has one. Returns
    /// the id of the customer.
    pub fn complete_checkout(&self, now: i64) -> String {
        let mut state = self.state();
        let form = state.checkout.clone();
        let id = state.next_id("sub");
        let trial_days: i64 = form
            .get("subscription_data[trial_period_days]")
            .map_or(0, |it| it.parse().expect("a number of days"));
        let subscription = Subscription::begin(id, &form, trial_days, now);
        let customer = subscription.customer.clone();
        state.subscriptions.push(subscription);
        customer
    }

    /// Changes the newest subscription, as a person in the dashboard or the passing of time.
    pub fn change(&self, change: impl FnOnce(&mut Subscription)) {
        change(self.state().subscriptions.last_mut().expect("a subscription"));
    }

    /// The newest subscription.
    pub fn subscription(&self) -> Subscription {
        self.state().subscriptions.last().expect("a subscription").clone()
    }

    /// Adds an invoice of a customer; returns its id.
    pub fn add_invoice(&self, customer: &str, status: &str, total: i64, now: i64) -> String {
        let mut state = self.state();
        let id = state.next_id("in");
        state.invoices.push(objects::invoice(&id, customer, status, total, now));
        id
    }

    /// Body of an event about an object of the customer.
    pub fn event(&self, kind: &str, object_id: &str, customer: &str) -> String {
        let id = self.state().next_id("evt");
        let object = json!({
            "id": object_id,
            "object": "invoice",
            "customer": customer,
            "default_payment_method": PAYMENT_METHOD,
        });
        objects::event(&id, kind, &object).to_string()
    }

    /// Sends an event with a signature of the present; returns the HTTP status.
    pub async fn deliver(&self, suite: &Suite, body: &str) -> u16 {
        let now = suite.clock.now().unix_timestamp();
        self.deliver_signed(suite, body, &Self::sign(WEBHOOK_SECRET, body, now)).await
    }

    /// Sends an event with a header `Stripe-Signature`; returns the HTTP status.
    pub async fn deliver_signed(&self, suite: &Suite, body: &str, signature: &str) -> u16 {
        let url = format!("http://{}/hooks/billing/stripe", suite.address);
        let request = reqwest::Client::new().post(url).timeout(Duration::from_secs(20));
        let request = request.header("content-type", "application/json");
        let request = request.header("stripe-signature", signature).body(body.to_owned());
        request.send().await.expect("the endpoint responds").status().as_u16()
    }

    /// The header `Stripe-Signature` of a body, with another secret than that of the endpoint if it is
    /// forged.
    pub fn signature(body: &str, signed_at: i64, is_forged: bool) -> String {
        let secret = if is_forged { "whsec_forged" } else { WEBHOOK_SECRET };
        Self::sign(secret, body, signed_at)
    }

    fn sign(secret: &str, body: &str, signed_at: i64) -> String {
        let mac = hmac_sha256(secret.as_bytes(), format!("{signed_at}.{body}").as_bytes());
        format!("t={signed_at},v1={}", HEXLOWER.encode(&mac))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next_id(&mut self, prefix: &str) -> String {
        self.count += 1;
        format!("{prefix}_{:04}", self.count)
    }

    fn respond(&mut self, request: &Request) -> Response {
        if self.is_down {
            return response(503, &json!({ "error": { "type": "api_error" } }));
        }
        let authorization = request.headers.get("authorization").map(String::as_str);
        if authorization != Some(format!("Bearer {API_KEY}").as_str()) {
            return response(401, &objects::error("invalid_request_error", "invalid API key"));
        }
        let key = request.headers.get("idempotency-key").cloned();
        if let Some((status, body)) = key.as_ref().and_then(|it| self.responses.get(it)) {
            return response(*status, body);
        }
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let text = if query.is_empty() { request.body.as_str() } else { query };
        let form = objects::parse_form(text);
        let (status, body) = self.handle(&request.method, path, &form);
        if let Some(key) = key {
            self.responses.insert(key, (status, body.clone()));
            if self.loses_responses {
                return response(502, &json!({}));
            }
        }
        response(status, &body)
    }

    fn handle(&mut self, method: &str, path: &str, form: &HashMap<String, String>) -> (u16, Value) {
        let segments: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
        let customer = form.get("customer").map(String::as_str).unwrap_or_default();
        match (method, segments.as_slice()) {
            ("POST", ["customers"]) => {
                let id = self.next_id("cus");
                self.customers.push(id.clone());
                (200, json!({ "id": id, "object": "customer", "livemode": false }))
            }
            ("POST", ["checkout", "sessions"]) => {
                self.checkout.clone_from(form);
                (200, objects::session("checkout.session", &self.next_id("cs_test")))
            }
            ("POST", ["billing_portal", "sessions"]) => {
                (200, objects::session("billing_portal.session", &self.next_id("bps")))
            }
            ("GET", ["prices", id]) => objects::price(id),
            ("GET", ["subscriptions"]) => {
                let of_customer = self
                    .subscriptions
                    .iter()
                    .rev()
                    .filter(|it| it.customer == customer && it.status != "canceled");
                let page: Vec<Value> = of_customer.map(Subscription::to_json).collect();
                (200, objects::list(&page))
            }
            ("POST", ["subscriptions", id]) => self.update_subscription(id, form),
            ("DELETE", ["subscriptions", id]) => match self.find(id) {
                Some(subscription) => {
                    "canceled".clone_into(&mut subscription.status);
                    (200, subscription.to_json())
                }
                None => objects::not_found("subscription", id),
            },
            ("POST", ["invoices", "create_preview"]) => {
                (200, objects::invoice("upcoming", customer, "draft", 2_345, 0))
            }
            ("GET", ["invoices"]) => (200, self.invoices_of(customer, form)),
            ("GET", ["invoices", id]) => {
                let found = self.invoices.iter().find(|it| it["id"] == *id).cloned();
                found.map_or_else(|| objects::not_found("invoice", id), |it| (200, it))
            }
            _ => objects::not_found("path", path),
        }
    }

    /// A page of the invoices of a customer, newest first.
    fn invoices_of(&self, customer: &str, form: &HashMap<String, String>) -> Value {
        let limit: usize = form.get("limit").map_or(10, |it| it.parse().expect("a limit"));
        assert!((1..=100).contains(&limit), "Stripe allows a limit from 1 to 100");
        let newest_first = self.invoices.iter().rev().filter(|it| it["customer"] == customer);
        let all: Vec<Value> = newest_first.cloned().collect();
        let after = form.get("starting_after");
        let start = after.map_or(0, |id| {
            all.iter().position(|it| it["id"] == id.as_str()).map_or(all.len(), |it| it + 1)
        });
        let page: Vec<Value> = all.into_iter().skip(start).take(limit).collect();
        objects::list(&page)
    }

    fn find(&mut self, id: &str) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|it| it.id == id)
    }

    fn update_subscription(&mut self, id: &str, form: &HashMap<String, String>) -> (u16, Value) {
        let must_succeed =
            form.get("payment_behavior").is_some_and(|it| it == "error_if_incomplete");
        if self.declines && must_succeed {
            return (402, objects::error("card_error", "Your card was declined."));
        }
        let Some(subscription) = self.find(id) else {
            return objects::not_found("subscription", id);
        };
        if let Some(price) = form.get("items[0][price]") {
            subscription.price.clone_from(price);
        }
        if let Some(quantity) = form.get("items[0][quantity]") {
            subscription.quantity = quantity.parse().expect("a quantity");
        }
        if let Some(cancel) = form.get("cancel_at_period_end") {
            subscription.cancel_at_period_end = cancel == "true";
        }
        let changed = subscription.to_json();
        self.updates += 1;
        (200, changed)
    }
}

fn response(status: u16, body: &Value) -> Response {
    Response { body: body.to_string(), ..Response::status(status) }
}
