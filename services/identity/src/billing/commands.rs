//! Reads and changes of subscriptions. A change has two steps: the call to the provider, outside of
//! transactions, and the transaction that stores its result.

pub(crate) mod plan_change;
mod seats;
pub(crate) mod sync;

use std::collections::BTreeMap;

use chassis::{
    Changed, Db, Error, EventTarget, Grant, OrgId, Result, Tx, call::Context, page::Page,
};
use identity_rules::{
    billing::{
        Cause, ProviderSubscription, Refused, SubscriptionRecord, Terms,
        stripe::{Invoice, Price},
    },
    organization::{Limits, Organization, Plan},
    types::StoredText,
};
use prost::{Message, Name};
use time::Duration;

use super::{
    provider::{Change, Checkout, Provider},
    settings::Settings,
    store,
};
use crate::{
    access,
    organization::{self, commands::Usage, peers::Peers},
};

/// Time for which the background job waits for a call of the Owner: longer than a call takes.
const LEASE: Duration = Duration::seconds(40);

/// Billing with its provider.
#[derive(Clone)]
pub(crate) struct Billing {
    pub(crate) db: Db,
    pub(crate) provider: Provider,
    pub(crate) terms: Terms,
    pub(crate) trial_days: u32,
    pub(crate) peers: Peers,
}

/// An organization with its subscription.
pub(crate) struct Subscribed {
    pub(crate) organization: Organization,
    /// `None` if it has no account at the provider.
    pub(crate) record: Option<SubscriptionRecord>,
}

/// A subscription after a call to the provider that changed it.
pub(crate) struct ProviderChange {
    before: SubscriptionRecord,
    current: Option<ProviderSubscription>,
}

/// A plan that can be chosen.
pub(crate) struct PlanOption {
    pub(crate) plan: Plan,
    pub(crate) limits: Limits,
    /// `None` if it is free.
    pub(crate) price: Option<Price>,
    pub(crate) is_current: bool,
}

impl Billing {
    /// Creates billing with the settings of the operator.
    pub(crate) fn new(db: Db, settings: Settings, peers: Peers) -> anyhow::Result<Self> {
        let Settings { terms, trial_days, stripe } = settings;
        let provider = Provider::new(stripe, terms.clone())?;
        Ok(Self { db, provider, terms, trial_days, peers })
    }

    /// Returns an organization with its subscription.
    pub(crate) async fn get(&self, org_id: OrgId) -> Result<Subscribed> {
        let organization = organization::store::get(&self.db, org_id).await?;
        Ok(Subscribed { organization, record: store::find(&self.db, org_id).await? })
    }

    /// Returns the plans that the Owner can choose: Free and the sold ones, or all without a provider.
    pub(crate) async fn options(&self, org_id: OrgId) -> Result<Vec<PlanOption>> {
        let organization = organization::store::get(&self.db, org_id).await?;
        let mut options = vec![];
        for (plan, _) in Plan::TEXTS.iter().copied() {
            let price = match &self.provider {
                Provider::Stripe(stripe) if stripe.sells(plan) => Some(stripe.price(plan).await?),
                Provider::Stripe(_) if plan != Plan::Free => continue,
                _ => None,
            };
            let limits = organization::store::limits_of_plan(&self.db, plan).await?;
            let is_current = plan == organization.plan;
            options.push(PlanOption { plan, limits, price, is_current });
        }
        Ok(options)
    }

    /// Returns the use of each limited resource.
    pub(crate) async fn usage(
        &self,
        context: &Context,
        organization: &Organization,
    ) -> Result<Vec<Usage>> {
        organization::commands::usage(&self.db, &self.peers, context, organization).await
    }

    /// Returns the subscription of an organization that pays, and keeps the background job away from it
    /// during a call of the Owner. Refuses without a provider or a subscription.
    async fn lease(&self, org_id: OrgId) -> Result<SubscriptionRecord> {
        self.provider.require()?;
        let lease = async |tx: &mut Tx| {
            let until = tx.now + LEASE;
            store::lease(tx, org_id, until).await
        };
        let record = self.db.write_as_system("billing call", lease).await?;
        Ok(record.ok_or(Refused::NoSubscription)?.require_live()?)
    }

    /// Sets or withdraws the end of the subscription with its period, at the provider.
    pub(crate) async fn set_cancellation(
        &self,
        org_id: OrgId,
        cancel: bool,
        request_id: &str,
    ) -> Result<ProviderChange> {
        let before = self.lease(org_id).await?;
        if before.cancel_at_period_end == cancel {
            return self.unchanged(before).await;
        }
        let change = Change::CancelAtPeriodEnd(cancel);
        self.change_at_provider(before, &change, request_id).await
    }

    /// Reads the subscription, for a change that needs no call or was made before.
    async fn unchanged(&self, before: SubscriptionRecord) -> Result<ProviderChange> {
        let current = self.provider.require()?.read(&before).await?;
        Ok(ProviderChange { before, current })
    }

    async fn change_at_provider(
        &self,
        before: SubscriptionRecord,
        change: &Change,
        request_id: &str,
    ) -> Result<ProviderChange> {
        let key = idempotency_key(&change.label(), before.org_id, request_id);
        let current = self.provider.require()?.change(&before, change, &key).await?;
        Ok(ProviderChange { before, current })
    }

    /// Stores a change that the provider has made. Withdraws a scheduled plan, too.
    pub(crate) async fn store_cancellation(
        &self,
        tx: &mut Tx,
        authorization: &Grant,
        change: ProviderChange,
    ) -> Result<Subscribed> {
        let organization = access::lock(tx, authorization).await?;
        let mut synced = self.sync(&organization, &change, tx.now);
        synced.record.scheduled_plan = None;
        self.store_synced(tx, organization, &change.before, synced, Cause::Change).await
    }

    /// Creates a checkout of a first plan; returns the URL of its page.
    pub(crate) async fn start_checkout(
        &self,
        org_id: OrgId,
        plan: Plan,
        request_id: &str,
    ) -> Result<String> {
        let stripe = self.provider.require()?;
        if !stripe.sells(plan) {
            return Err(Refused::NotSold.into());
        }
        let organization = organization::store::get(&self.db, org_id).await?;
        let record = self.ensure_customer(&organization).await?;
        // Read from the provider: the webhook about a checkout may not have arrived yet.
        if stripe.read(&record).await?.is_some() {
            return Err(Refused::Exists.into());
        }
        let checkout = Checkout {
            org_id,
            customer_id: record.customer_id.clone(),
            plan,
            seats: organization.members,
            trial_days: if record.trial_used { 0 } else { self.trial_days },
        };
        let label = format!("checkout-{}", plan.as_text());
        let key = idempotency_key(&label, org_id, request_id);
        stripe.create_checkout(&checkout, &key).await
    }

    /// Returns the record of an organization; creates its account at the provider if there is none.
    async fn ensure_customer(&self, organization: &Organization) -> Result<SubscriptionRecord> {
        let org_id = organization.id;
        if let Some(record) = store::find(&self.db, org_id).await? {
            return Ok(record);
        }
        let stripe = self.provider.require()?;
        let customer_id = stripe.create_customer(org_id, &organization.name).await?;
        let record = SubscriptionRecord::new(org_id, customer_id);
        let insert = async |tx: &mut Tx| {
            organization::store::lock(tx, org_id).await?;
            store::insert(tx, &record).await
        };
        self.db.write_as_system("billing account", insert).await?;
        store::find(&self.db, org_id).await?.ok_or(Error::NotFound("subscription"))
    }

    /// Creates a session of the provider's portal; returns the URL of its page.
    pub(crate) async fn open_portal(&self, org_id: OrgId, request_id: &str) -> Result<String> {
        let stripe = self.provider.require()?;
        let record = store::find(&self.db, org_id).await?.ok_or(Refused::NoSubscription)?;
        let key = idempotency_key("portal", org_id, request_id);
        stripe.create_portal(&record.customer_id, &key).await
    }

    /// Returns a page of the invoices of an organization; empty without an account at the provider.
    pub(crate) async fn invoices(&self, org_id: OrgId, page: &Page) -> Result<Vec<Invoice>> {
        let record = store::find(&self.db, org_id).await?;
        match (&self.provider, record) {
            (Provider::Stripe(stripe), Some(record)) => {
                let after = page.after::<String>()?;
                stripe.invoices(&record.customer_id, page.limit(), after).await
            }
            _ => Ok(vec![]),
        }
    }

    /// Returns an invoice of an organization.
    pub(crate) async fn invoice(&self, org_id: OrgId, id: &str) -> Result<Invoice> {
        let stripe = self.provider.require()?;
        let record = store::find(&self.db, org_id).await?.ok_or(Error::NotFound("invoice"))?;
        stripe.invoice(&record.customer_id, id).await
    }

    /// Stores the event of a page of the provider that was opened.
    pub(crate) async fn record_page<E: Message + Name>(
        &self,
        tx: &mut Tx,
        authorization: &Grant,
        event: impl FnOnce(api::identity::SubscriptionDetails) -> E,
    ) -> Result<()> {
        let organization = access::lock(tx, authorization).await?;
        let record = store::find(&self.db, organization.id).await?;
        let details = self.terms.details(&organization, record.as_ref());
        let target = EventTarget::object("organization", organization.id, &organization.name);
        tx.emit(Changed::new((), &event(details), target.in_org(organization.id)));
        Ok(())
    }
}

/// Idempotency key of a request to the provider: a repetition with the same `request_id` of the caller is
/// made once. Without one, each call is a request of its own.
fn idempotency_key(label: &str, org_id: OrgId, request_id: &str) -> String {
    if request_id.is_empty() {
        return format!("tenantry-{label}-{org_id}-{}", chassis::id::new());
    }
    format!("tenantry-{label}-{org_id}-{request_id}")
}

/// Excess of each resource over the limits of a plan, by key; only of resources above their limit.
pub(crate) fn excess(usage: &[Usage], limits: &Limits) -> BTreeMap<&'static str, i64> {
    let above = usage.iter().filter_map(|it| {
        let excess = it.used - limits.max(it.key)?;
        (excess > 0).then_some((it.key, excess))
    });
    above.collect()
}
