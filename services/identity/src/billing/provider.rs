//! The billing provider: none, or Stripe.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chassis::{Error, OrgId, Result};
use identity_rules::{
    billing::{
        ProviderSubscription, Refused, SubscriptionRecord, Terms,
        stripe::{Invoice, Price, Session, Subscription},
    },
    organization::Plan,
    types::StoredText,
};

use super::{
    settings::StripeSettings,
    stripe::{Form, StripeClient},
};

/// Time for which a price is cached.
const PRICE_LIFETIME: Duration = Duration::from_secs(600);

/// The provider.
#[derive(Clone)]
pub(crate) enum Provider {
    /// None: plan changes are free, and nothing is charged.
    None,
    Stripe(Arc<Stripe>),
}

impl Provider {
    /// Creates the provider of the settings.
    pub(crate) fn new(settings: Option<StripeSettings>, terms: Terms) -> anyhow::Result<Self> {
        let Some(settings) = settings else { return Ok(Self::None) };
        let client = StripeClient::new(&settings)?;
        Ok(Self::Stripe(Arc::new(Stripe { client, settings, terms, prices: Mutex::default() })))
    }

    /// Returns Stripe; refuses if there is no provider.
    pub(crate) fn require(&self) -> Result<&Stripe, Refused> {
        match self {
            Self::None => Err(Refused::NoProvider),
            Self::Stripe(stripe) => Ok(stripe),
        }
    }
}

/// The account of this deployment at Stripe.
pub(crate) struct Stripe {
    client: StripeClient,
    settings: StripeSettings,
    terms: Terms,
    /// Cached prices by id.
    prices: Mutex<HashMap<String, (Price, Instant)>>,
}

/// A change of a subscription.
pub(crate) enum Change {
    /// Another plan with a number of seats. `is_charged` charges or credits the difference to the period.
    Plan { plan: Plan, seats: i64, is_charged: bool },
    /// Another number of seats; more seats are charged from now on. With `must_succeed` a declined card
    /// changes nothing.
    Seats { seats: i64, is_more: bool, must_succeed: bool },
    /// End with the period, or not.
    CancelAtPeriodEnd(bool),
}

impl Change {
    /// Name for idempotency keys.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Plan { plan, .. } => format!("plan-{}", plan.as_text()),
            Self::Seats { seats, .. } => format!("seats-{seats}"),
            Self::CancelAtPeriodEnd(cancel) => format!("cancel-{cancel}"),
        }
    }
}

/// A checkout of a first plan.
pub(crate) struct Checkout {
    pub(crate) org_id: OrgId,
    pub(crate) customer_id: String,
    pub(crate) plan: Plan,
    pub(crate) seats: i64,
    /// 0 for no trial.
    pub(crate) trial_days: u32,
}

impl Stripe {
    /// True if the key is of the live mode.
    pub(crate) fn livemode(&self) -> bool {
        self.settings.livemode
    }

    /// Returns the settings.
    pub(crate) fn settings(&self) -> &StripeSettings {
        &self.settings
    }

    /// Creates the account of an organization; returns its id.
    pub(crate) async fn create_customer(&self, org_id: OrgId, name: &str) -> Result<String> {
        let form = vec![("name", name.to_owned()), ("metadata[org_id]", org_id.to_string())];
        let key = format!("tenantry-customer-{org_id}");
        Ok(self.client.create_customer(form, &key).await?.id)
    }

    /// Creates a checkout; returns the URL of its page.
    pub(crate) async fn create_checkout(&self, checkout: &Checkout, key: &str) -> Result<String> {
        let org_id = checkout.org_id.to_string();
        let seats = if self.terms.is_per_seat(checkout.plan) { checkout.seats } else { 1 };
        let mut form = vec![
            ("mode", "subscription".to_owned()),
            ("customer", checkout.customer_id.clone()),
            ("client_reference_id", org_id.clone()),
            ("line_items[0][price]", self.price_id(checkout.plan)?.to_owned()),
            ("line_items[0][quantity]", seats.to_string()),
            ("success_url", self.settings.return_url.clone()),
            ("cancel_url", self.settings.return_url.clone()),
            ("subscription_data[metadata][org_id]", org_id),
        ];
        if checkout.trial_days > 0 {
            form.push(("subscription_data[trial_period_days]", checkout.trial_days.to_string()));
        }
        url(self.client.create_checkout(form, key).await?)
    }

    /// Creates a session of the portal; returns the URL of its page.
    pub(crate) async fn create_portal(&self, customer_id: &str, key: &str) -> Result<String> {
        let return_url = self.settings.return_url.clone();
        let form = vec![("customer", customer_id.to_owned()), ("return_url", return_url)];
        url(self.client.create_portal(form, key).await?)
    }

    /// Reads the subscription of an organization; `None` if there is none that has begun and not ended.
    pub(crate) async fn read(
        &self,
        record: &SubscriptionRecord,
    ) -> Result<Option<ProviderSubscription>> {
        let mut subscriptions = self.client.subscriptions(&record.customer_id).await?;
        subscriptions.sort_by_key(|it| std::cmp::Reverse(it.created));
        let mut current = subscriptions.iter().filter_map(|it| self.current(it));
        let newest = current.next();
        if let Some(second) = current.next() {
            let (org_id, id) = (record.org_id, &second.id);
            tracing::error!(%org_id, id, "an organization pays for two subscriptions; cancel one at Stripe");
        }
        Ok(newest)
    }

    /// Changes the subscription of a record.
    pub(crate) async fn change(
        &self,
        record: &SubscriptionRecord,
        change: &Change,
        key: &str,
    ) -> Result<Option<ProviderSubscription>> {
        let (Some(id), Some(item_id)) = (&record.provider_id, &record.item_id) else {
            return Err(Refused::NoSubscription.into());
        };
        let mut form: Form<'_> = match change {
            Change::CancelAtPeriodEnd(cancel) => {
                vec![("cancel_at_period_end", cancel.to_string())]
            }
            Change::Plan { plan, is_charged, .. } => vec![
                ("items[0][id]", item_id.clone()),
                ("items[0][price]", self.price_id(*plan)?.to_owned()),
                (
                    "proration_behavior",
                    if *is_charged { "always_invoice" } else { "none" }.to_owned(),
                ),
            ],
            Change::Seats { is_more, .. } => vec![
                ("items[0][id]", item_id.clone()),
                ("proration_behavior", if *is_more { "always_invoice" } else { "none" }.to_owned()),
            ],
        };
        match change {
            Change::Plan { plan, seats, is_charged } => {
                let seats = if self.terms.is_per_seat(*plan) { *seats } else { 1 };
                form.push(("items[0][quantity]", seats.to_string()));
                form.push(("cancel_at_period_end", "false".to_owned()));
                if *is_charged {
                    form.push(("payment_behavior", "error_if_incomplete".to_owned()));
                }
            }
            Change::Seats { seats, must_succeed, .. } => {
                form.push(("items[0][quantity]", seats.to_string()));
                if *must_succeed {
                    form.push(("payment_behavior", "error_if_incomplete".to_owned()));
                }
            }
            Change::CancelAtPeriodEnd(_) => {}
        }
        let changed = self.client.update_subscription(id, form, key).await?;
        Ok(self.current(&changed))
    }

    /// Ends a subscription at once. One that has ended already counts as ended.
    pub(crate) async fn end(&self, id: &str) -> Result<()> {
        match self.client.end_subscription(id).await {
            Ok(_) | Err(Error::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Returns the price of a plan; refuses a plan that is not sold.
    pub(crate) async fn price(&self, plan: Plan) -> Result<Price> {
        let id = self.price_id(plan)?;
        let cached = self.prices.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        if let Some((price, read_at)) = cached
            && read_at.elapsed() < PRICE_LIFETIME
        {
            return Ok(price);
        }
        let price = self.client.price(id).await?;
        let mut prices = self.prices.lock().unwrap_or_else(PoisonError::into_inner);
        prices.insert(id.to_owned(), (price.clone(), Instant::now()));
        Ok(price)
    }

    /// True if a plan is sold.
    pub(crate) fn sells(&self, plan: Plan) -> bool {
        self.settings.prices.contains_key(plan.as_text())
    }

    /// Computes the invoice of another plan from now on.
    pub(crate) async fn preview(
        &self,
        record: &SubscriptionRecord,
        plan: Plan,
        seats: i64,
    ) -> Result<Invoice> {
        let id = record.provider_id.clone().unwrap_or_default();
        let item_id = record.item_id.clone().unwrap_or_default();
        let seats = if self.terms.is_per_seat(plan) { seats } else { 1 };
        let form = vec![
            ("customer", record.customer_id.clone()),
            ("subscription", id),
            ("subscription_details[items][0][id]", item_id),
            ("subscription_details[items][0][price]", self.price_id(plan)?.to_owned()),
            ("subscription_details[items][0][quantity]", seats.to_string()),
            ("subscription_details[proration_behavior]", "always_invoice".to_owned()),
        ];
        self.client.preview_invoice(form).await
    }

    /// Returns a page of the invoices of an organization, newest first.
    pub(crate) async fn invoices(
        &self,
        customer_id: &str,
        limit: i64,
        after: Option<String>,
    ) -> Result<Vec<Invoice>> {
        self.client.invoices(customer_id, limit, after).await
    }

    /// Returns an invoice of an organization. One of another organization is not found.
    pub(crate) async fn invoice(&self, customer_id: &str, id: &str) -> Result<Invoice> {
        let not_found = || Error::NotFound("invoice");
        let invoice = match self.client.invoice(id).await {
            Err(Error::NotFound(_)) => return Err(not_found()),
            other => other?,
        };
        if invoice.customer.as_deref() == Some(customer_id) {
            Ok(invoice)
        } else {
            Err(not_found())
        }
    }

    fn current(&self, subscription: &Subscription) -> Option<ProviderSubscription> {
        let prices = &self.settings.prices;
        subscription.current(|id| {
            let found = prices.iter().find(|(_, price)| price.as_str() == id);
            found.and_then(|(plan, _)| Plan::parse_text(plan))
        })
    }

    fn price_id(&self, plan: Plan) -> Result<&str, Refused> {
        let id = self.settings.prices.get(plan.as_text());
        id.map(String::as_str).ok_or(Refused::NotSold)
    }
}

/// URL of a session.
fn url(session: Session) -> Result<String> {
    session.url.ok_or(Error::Unavailable("billing provider"))
}
