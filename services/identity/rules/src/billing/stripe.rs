//! Objects of the Stripe API (version 2024-06-20), with the fields that are used. No field has card data.

use api::identity as pb;
use chassis::{foreign_text, timestamp};
use serde::Deserialize;
use time::OffsetDateTime;

use super::{ProviderStatus, ProviderSubscription};
use crate::organization::Plan;

/// Largest URL that is passed on, in bytes.
const URL_BYTES_MAX: usize = 2048;

/// Largest invoice number, in bytes.
const NUMBER_BYTES_MAX: usize = 100;

/// A page of a list.
#[derive(Debug, Deserialize)]
pub struct List<T> {
    pub data: Vec<T>,
}

/// A Customer: the account of an organization.
#[derive(Debug, Deserialize)]
pub struct Customer {
    pub id: String,
}

/// A Checkout Session or a Portal Session.
#[derive(Debug, Deserialize)]
pub struct Session {
    pub url: Option<String>,
}

/// A Price.
#[derive(Clone, Debug, Deserialize)]
pub struct Price {
    pub id: String,
    #[serde(default)]
    pub currency: String,
    pub unit_amount: Option<i64>,
    pub recurring: Option<Recurring>,
}

/// The interval of a price.
#[derive(Clone, Debug, Deserialize)]
pub struct Recurring {
    pub interval: String,
    #[serde(default = "one")]
    pub interval_count: i64,
}

fn one() -> i64 {
    1
}

impl Price {
    /// Amount of a year for a quantity, by which prices of different intervals are compared.
    pub fn yearly(&self, quantity: i64) -> i64 {
        let recurring = self.recurring.as_ref();
        let in_year = match recurring.map(|it| it.interval.as_str()) {
            Some("day") => 365,
            Some("week") => 52,
            Some("month") => 12,
            _ => 1,
        };
        let count = recurring.map_or(1, |it| it.interval_count.max(1));
        self.unit_amount.unwrap_or(0).saturating_mul(quantity).saturating_mul(in_year) / count
    }

    /// Interval: `month` or `year`.
    pub fn interval(&self) -> String {
        let interval = self.recurring.as_ref().map(|it| it.interval.as_str());
        foreign_text::clean_line(interval.unwrap_or_default(), 10)
    }

    /// Amount for a quantity.
    pub fn money(&self, quantity: i64) -> pb::Money {
        money(&self.currency, self.unit_amount.unwrap_or(0).saturating_mul(quantity))
    }
}

/// A Subscription.
#[derive(Debug, Deserialize)]
pub struct Subscription {
    pub id: String,
    pub status: String,
    #[serde(default)]
    pub created: i64,
    #[serde(default)]
    pub cancel_at_period_end: bool,
    pub trial_end: Option<i64>,
    /// Absent since version 2025-03-31, where the items have the period.
    pub current_period_start: Option<i64>,
    pub current_period_end: Option<i64>,
    pub items: List<Item>,
}

/// An item of a subscription.
#[derive(Debug, Deserialize)]
pub struct Item {
    pub id: String,
    pub price: ItemPrice,
    #[serde(default = "one")]
    pub quantity: i64,
    pub current_period_start: Option<i64>,
    pub current_period_end: Option<i64>,
}

/// The price of an item.
#[derive(Debug, Deserialize)]
pub struct ItemPrice {
    pub id: String,
}

impl Subscription {
    /// Converts a subscription that has begun and not ended; `None` for another one. `plan` returns the plan
    /// with a price.
    pub fn current(&self, plan: impl Fn(&str) -> Option<Plan>) -> Option<ProviderSubscription> {
        let status = match self.status.as_str() {
            "trialing" => ProviderStatus::Trialing,
            "active" => ProviderStatus::Active,
            "past_due" | "unpaid" | "paused" => ProviderStatus::Overdue,
            // canceled, incomplete, incomplete_expired
            _ => return None,
        };
        let item = self.items.data.first()?;
        let start = self.current_period_start.or(item.current_period_start)?;
        let end = self.current_period_end.or(item.current_period_end)?;
        Some(ProviderSubscription {
            id: self.id.clone(),
            item_id: item.id.clone(),
            status,
            plan: plan(&item.price.id),
            quantity: item.quantity,
            period_start: time(start)?,
            period_end: time(end)?,
            trial_end: self.trial_end.and_then(time),
            cancel_at_period_end: self.cancel_at_period_end,
        })
    }
}

/// An Invoice.
#[derive(Debug, Deserialize)]
pub struct Invoice {
    /// Absent in previews.
    #[serde(default)]
    pub id: String,
    pub number: Option<String>,
    pub status: Option<String>,
    /// Id of the customer.
    pub customer: Option<String>,
    #[serde(default)]
    pub currency: String,
    #[serde(default)]
    pub total: i64,
    #[serde(default)]
    pub amount_due: i64,
    #[serde(default)]
    pub amount_remaining: i64,
    #[serde(default)]
    pub created: i64,
    pub hosted_invoice_url: Option<String>,
    pub invoice_pdf: Option<String>,
}

impl Invoice {
    /// Amount that is charged, for previews.
    pub fn due(&self) -> pb::Money {
        money(&self.currency, self.amount_due)
    }

    /// Converts the invoice for an event: without links, with which anybody could read it.
    pub fn without_links(&self) -> pb::Invoice {
        pb::Invoice { url: String::new(), pdf_url: String::new(), ..self.into() }
    }
}

impl From<&Invoice> for pb::Invoice {
    fn from(invoice: &Invoice) -> Self {
        let state = match invoice.status.as_deref() {
            Some("draft") => pb::InvoiceState::Draft,
            Some("open") => pb::InvoiceState::Open,
            Some("paid") => pb::InvoiceState::Paid,
            Some("void") => pb::InvoiceState::Void,
            Some("uncollectible") => pb::InvoiceState::Uncollectible,
            _ => pb::InvoiceState::Unspecified,
        };
        let number = invoice.number.as_deref().unwrap_or_default();
        Self {
            id: foreign_text::clean_line(&invoice.id, 255),
            number: foreign_text::clean_line(number, NUMBER_BYTES_MAX),
            state: state.into(),
            total: Some(money(&invoice.currency, invoice.total)),
            amount_remaining: Some(money(&invoice.currency, invoice.amount_remaining)),
            create_time: time(invoice.created).map(timestamp),
            url: link(invoice.hosted_invoice_url.as_deref()),
            pdf_url: link(invoice.invoice_pdf.as_deref()),
        }
    }
}

/// The error of a refused request.
#[derive(Debug, Deserialize)]
pub struct ErrorResponse {
    pub error: ErrorObject,
}

/// Type, code and message of an error. The message is logged only.
#[derive(Debug, Default, Deserialize)]
pub struct ErrorObject {
    #[serde(default, rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub code: String,
    #[serde(default)]
    pub message: String,
}

fn money(currency: &str, amount: i64) -> pb::Money {
    let is_code = currency.len() == 3 && currency.bytes().all(|it| it.is_ascii_alphabetic());
    let currency = if is_code { currency.to_ascii_uppercase() } else { String::new() };
    pb::Money { currency, amount }
}

/// A link of the provider; empty if it is missing, too long, or no https URL.
fn link(url: Option<&str>) -> String {
    let is_link = |it: &&str| {
        it.starts_with("https://")
            && it.len() <= URL_BYTES_MAX
            && it.bytes().all(|byte| byte.is_ascii_graphic())
    };
    url.filter(is_link).unwrap_or_default().to_owned()
}

fn time(seconds: i64) -> Option<OffsetDateTime> {
    // Year 9999, the last one of the contract's timestamps.
    let seconds = (0..253_402_300_800).contains(&seconds).then_some(seconds)?;
    OffsetDateTime::from_unix_timestamp(seconds).ok()
}
