//! Objects of the Stripe API in the shape of its documentation.

use std::collections::HashMap;

use serde_json::{Value, json};

/// Seconds of a day.
const DAY: i64 = 86_400;

/// A subscription.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Id.
    pub id: String,
    /// Id of the customer.
    pub customer: String,
    /// Status, for example `past_due`.
    pub status: String,
    /// Id of the price of its item.
    pub price: String,
    /// Quantity of its item.
    pub quantity: i64,
    /// Start of the period, in seconds since 1970.
    pub period_start: i64,
    /// End of the period, in seconds since 1970.
    pub period_end: i64,
    /// End of the trial, in seconds since 1970.
    pub trial_end: Option<i64>,
    /// True if it ends with the period.
    pub cancel_at_period_end: bool,
}

impl Subscription {
    /// The subscription that a checkout with these fields begins.
    pub(super) fn begin(
        id: String,
        form: &HashMap<String, String>,
        trial_days: i64,
        now: i64,
    ) -> Self {
        let days = if trial_days > 0 { trial_days } else { 30 };
        Self {
            id,
            customer: form["customer"].clone(),
            status: if trial_days > 0 { "trialing" } else { "active" }.to_owned(),
            price: form["line_items[0][price]"].clone(),
            quantity: form["line_items[0][quantity]"].parse().expect("a quantity"),
            period_start: now,
            period_end: now + days * DAY,
            trial_end: (trial_days > 0).then_some(now + days * DAY),
            cancel_at_period_end: false,
        }
    }

    /// Begins the next period of 30 days, as after a paid invoice.
    pub fn renew(&mut self, now: i64) {
        "active".clone_into(&mut self.status);
        self.period_start = now;
        self.period_end = now + 30 * DAY;
    }

    /// The object of the API.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "object": "subscription",
            "cancel_at_period_end": self.cancel_at_period_end,
            "created": self.period_start,
            "currency": "usd",
            "current_period_end": self.period_end,
            "current_period_start": self.period_start,
            "customer": self.customer,
            "default_payment_method": super::PAYMENT_METHOD,
            "items": list(&[json!({
                "id": "si_NcLYdDxLHxlFo7",
                "object": "subscription_item",
                "price": price(&self.price).1,
                "quantity": self.quantity,
            })]),
            "livemode": false,
            "status": self.status,
            "trial_end": self.trial_end,
        })
    }
}

/// A price.
pub(super) fn price(id: &str) -> (u16, Value) {
    let amount = match id {
        "price_starter" => 1_900,
        "price_pro" => 3_900,
        _ => return not_found("price", id),
    };
    let price = json!({
        "id": id,
        "object": "price",
        "active": true,
        "billing_scheme": "per_unit",
        "currency": "usd",
        "livemode": false,
        "recurring": { "interval": "month", "interval_count": 1, "usage_type": "licensed" },
        "type": "recurring",
        "unit_amount": amount,
    });
    (200, price)
}

/// An invoice.
pub(super) fn invoice(id: &str, customer: &str, status: &str, total: i64, now: i64) -> Value {
    let remaining = if status == "paid" { 0 } else { total };
    json!({
        "id": id,
        "object": "invoice",
        "amount_due": total,
        "amount_remaining": remaining,
        "created": now,
        "currency": "usd",
        "customer": customer,
        "hosted_invoice_url": format!("https://invoice.stripe.com/i/acct_1/{id}"),
        "invoice_pdf": format!("https://pay.stripe.com/invoice/acct_1/{id}/pdf"),
        "livemode": false,
        "number": format!("ACME-{id}"),
        "status": status,
        "total": total,
    })
}

/// A session with a page.
pub(super) fn session(object: &str, id: &str) -> Value {
    let url = format!("https://checkout.stripe.com/c/pay/{id}");
    json!({ "id": id, "object": object, "livemode": false, "url": url })
}

/// An event.
pub(super) fn event(id: &str, kind: &str, object: &Value) -> Value {
    json!({
        "id": id,
        "object": "event",
        "api_version": "2024-06-20",
        "created": 1_680_064_028,
        "data": { "object": object },
        "livemode": false,
        "pending_webhooks": 1,
        "request": { "id": null, "idempotency_key": null },
        "type": kind,
    })
}

/// A list.
pub(super) fn list(data: &[Value]) -> Value {
    json!({ "object": "list", "data": data, "has_more": false })
}

/// The body of an error.
pub(super) fn error(kind: &str, message: &str) -> Value {
    json!({ "error": { "type": kind, "message": message } })
}

/// The response to an unknown id.
pub(super) fn not_found(noun: &str, id: &str) -> (u16, Value) {
    (404, error("invalid_request_error", &format!("No such {noun}: '{id}'")))
}

/// Parses a form (`application/x-www-form-urlencoded`).
pub(super) fn parse_form(text: &str) -> HashMap<String, String> {
    let url = reqwest::Url::parse(&format!("http://localhost/?{text}")).expect("a valid form");
    url.query_pairs().into_owned().collect()
}
