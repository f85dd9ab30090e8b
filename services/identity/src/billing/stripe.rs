//! HTTP client of the Stripe API: the endpoints that are used, form-encoded, with time-outs and idempotency
//! keys.

use std::time::Duration;

use chassis::{Error, Result, assert_no_transaction};
use identity_rules::billing::{
    Refused,
    stripe::{Customer, ErrorResponse, Invoice, List, Price, Session, Subscription},
};
use reqwest::{RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;

use super::settings::StripeSettings;

/// Time-out of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest response, in bytes.
const RESPONSE_BYTES_MAX: usize = 2 << 20;

/// Version of the API whose objects are parsed.
const API_VERSION: &str = "2024-06-20";

/// Fields of a form.
pub(super) type Form<'a> = Vec<(&'a str, String)>;

/// A client of the API.
pub(crate) struct StripeClient {
    http: reqwest::Client,
    url: String,
    key: SecretString,
}

impl StripeClient {
    /// Creates a client.
    pub(crate) fn new(settings: &StripeSettings) -> anyhow::Result<Self> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = reqwest::Client::builder()
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { http, url: settings.url.clone(), key: settings.key.clone() })
    }

    /// Creates a customer.
    pub(crate) async fn create_customer(&self, form: Form<'_>, key: &str) -> Result<Customer> {
        self.post("/v1/customers", form, key).await
    }

    /// Creates a Checkout Session.
    pub(crate) async fn create_checkout(&self, form: Form<'_>, key: &str) -> Result<Session> {
        self.post("/v1/checkout/sessions", form, key).await
    }

    /// Creates a Portal Session.
    pub(crate) async fn create_portal(&self, form: Form<'_>, key: &str) -> Result<Session> {
        self.post("/v1/billing_portal/sessions", form, key).await
    }

    /// Returns the subscriptions of a customer, newest first.
    pub(crate) async fn subscriptions(&self, customer: &str) -> Result<Vec<Subscription>> {
        let query = vec![("customer", customer.to_owned()), ("limit", "20".to_owned())];
        let list: List<Subscription> = self.get("/v1/subscriptions", query).await?;
        Ok(list.data)
    }

    /// Changes a subscription.
    pub(crate) async fn update_subscription(
        &self,
        id: &str,
        form: Form<'_>,
        key: &str,
    ) -> Result<Subscription> {
        self.post(&format!("/v1/subscriptions/{id}"), form, key).await
    }

    /// Ends a subscription at once.
    pub(crate) async fn end_subscription(&self, id: &str) -> Result<Subscription> {
        self.send(self.http.delete(format!("{}/v1/subscriptions/{id}", self.url))).await
    }

    /// Returns a price.
    pub(crate) async fn price(&self, id: &str) -> Result<Price> {
        self.get(&format!("/v1/prices/{id}"), vec![]).await
    }

    /// Returns the invoices of a customer, newest first, after the invoice `after`.
    pub(crate) async fn invoices(
        &self,
        customer: &str,
        limit: i64,
        after: Option<String>,
    ) -> Result<Vec<Invoice>> {
        let mut query = vec![("customer", customer.to_owned()), ("limit", limit.to_string())];
        query.extend(after.map(|it| ("starting_after", it)));
        let list: List<Invoice> = self.get("/v1/invoices", query).await?;
        Ok(list.data)
    }

    /// Returns an invoice.
    pub(crate) async fn invoice(&self, id: &str) -> Result<Invoice> {
        self.get(&format!("/v1/invoices/{id}"), vec![]).await
    }

    /// Computes the invoice of a change.
    pub(crate) async fn preview_invoice(&self, form: Form<'_>) -> Result<Invoice> {
        self.send(self.http.post(format!("{}/v1/invoices/create_preview", self.url)).form(&form))
            .await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, form: Form<'_>, key: &str) -> Result<T> {
        let request = self.http.post(format!("{}{path}", self.url)).form(&form);
        self.send(request.header("idempotency-key", key)).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: Form<'_>) -> Result<T> {
        self.send(self.http.get(format!("{}{path}", self.url)).query(&query)).await
    }

    async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        assert_no_transaction();
        let request = request.bearer_auth(self.key.expose_secret());
        let request = request.header("stripe-version", API_VERSION);
        let mut response = request.send().await.map_err(|it| unavailable(&it.without_url()))?;
        let status = response.status();
        let mut body = vec![];
        while let Some(chunk) =
            response.chunk().await.map_err(|it| unavailable(&it.without_url()))?
        {
            body.extend_from_slice(&chunk);
            if body.len() > RESPONSE_BYTES_MAX {
                return Err(unavailable(&"the response is too large"));
            }
        }
        if !status.is_success() {
            return Err(refusal(status, &body));
        }
        serde_json::from_slice(&body).map_err(|it| unavailable(&it))
    }
}

/// Converts the response to a refused request.
fn refusal(status: StatusCode, body: &[u8]) -> Error {
    let error = serde_json::from_slice(body).map(|it: ErrorResponse| it.error).unwrap_or_default();
    match status {
        StatusCode::PAYMENT_REQUIRED => Refused::PaymentFailed.into(),
        StatusCode::NOT_FOUND => Error::NotFound("billing object"),
        _ => {
            let message = chassis::foreign_text::clean_line(&error.message, 500);
            let (kind, code) = (&error.kind, &error.code);
            tracing::error!(%status, ?kind, ?code, message, "the billing provider refused a request");
            Error::Unavailable("billing provider")
        }
    }
}

/// Logs a failed request and returns the error that the client of the RPC gets.
fn unavailable(error: &dyn std::fmt::Display) -> Error {
    tracing::warn!(error = format!("{error:#}"), "a request to the billing provider failed");
    Error::Unavailable("billing provider")
}
