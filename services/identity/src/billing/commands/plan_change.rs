//! Plan changes, and their previews.

use api::identity as pb;
use chassis::{Grant, OrgId, Result, Tx, call::Context};
use identity_rules::{
    billing::{Cause, Refused, SubscriptionRecord, stripe::Price},
    organization::{Limits, Organization, Plan},
};
use time::OffsetDateTime;

use super::{Billing, ProviderChange, Subscribed};
use crate::{
    access,
    billing::{
        provider::{Change, Provider, Stripe},
        store,
    },
    organization::{self, commands::Usage},
};

/// A plan change after its call to the provider.
pub(crate) enum PlanChange {
    /// Effective immediately, and free.
    Free,
    /// Already the plan, with nothing scheduled.
    None,
    /// Made by the provider. `scheduled` is the plan from the end of the period on.
    Made { change: Box<ProviderChange>, scheduled: Option<Plan> },
}

/// Effect of a plan change.
pub(crate) struct Preview {
    pub(crate) plan: Plan,
    pub(crate) limits: Limits,
    pub(crate) usage: Vec<Usage>,
    /// `None` if immediately.
    pub(crate) effective_at: Option<OffsetDateTime>,
    /// `None` if nothing is charged now.
    pub(crate) amount_due: Option<pb::Money>,
    /// `None` if the plan is free.
    pub(crate) price: Option<Price>,
    pub(crate) seats: Option<i64>,
    pub(crate) checkout_required: bool,
}

impl Billing {
    /// Returns the effect of a plan change.
    pub(crate) async fn preview(
        &self,
        context: &Context,
        org_id: OrgId,
        plan: Plan,
    ) -> Result<Preview> {
        let Subscribed { organization, record } = self.get(org_id).await?;
        let mut preview = Preview {
            plan,
            limits: organization::store::limits_of_plan(&self.db, plan).await?,
            usage: self.usage(context, &organization).await?,
            effective_at: None,
            amount_due: None,
            price: None,
            seats: self.terms.is_per_seat(plan).then_some(organization.members),
            checkout_required: false,
        };
        let Provider::Stripe(stripe) = &self.provider else { return Ok(preview) };
        let live = record.filter(|it| it.provider_id.is_some());
        if plan == Plan::Free {
            preview.effective_at = live.and_then(|it| it.period_end);
            return Ok(preview);
        }
        preview.price = Some(stripe.price(plan).await?);
        match live {
            None => preview.checkout_required = true,
            Some(record) if self.is_cheaper(stripe, &organization, &record, plan).await? => {
                preview.effective_at = record.period_end;
            }
            Some(record) => {
                let invoice = stripe.preview(&record, plan, organization.members).await?;
                preview.amount_due = Some(invoice.due());
            }
        }
        Ok(preview)
    }

    /// Makes the call to the provider that a plan change needs.
    pub(crate) async fn prepare_plan_change(
        &self,
        org_id: OrgId,
        plan: Plan,
        etag: &str,
        request_id: &str,
    ) -> Result<PlanChange> {
        let Subscribed { organization, record } = self.get(org_id).await?;
        organization.require_etag(etag)?;
        let Provider::Stripe(stripe) = &self.provider else { return Ok(PlanChange::Free) };
        let Some(before) = record.filter(|it| it.provider_id.is_some()) else {
            // Free is the only plan without a payment.
            return if plan == Plan::Free {
                Ok(PlanChange::Free)
            } else if stripe.sells(plan) {
                Err(Refused::CheckoutRequired.into())
            } else {
                Err(Refused::NotSold.into())
            };
        };
        if plan == Plan::Free {
            let change = Change::CancelAtPeriodEnd(true);
            let before = self.lease(org_id).await?;
            let change = Box::new(self.change_at_provider(before, &change, request_id).await?);
            return Ok(PlanChange::Made { change, scheduled: None });
        }
        let is_same = plan == organization.plan;
        if is_same && !before.cancel_at_period_end && before.scheduled_plan.is_none() {
            return Ok(PlanChange::None);
        }
        let is_cheaper = self.is_cheaper(stripe, &organization, &before, plan).await?;
        let before = self.lease(org_id).await?;
        let change = if !is_same && !is_cheaper {
            let seats = organization.members;
            let change = Change::Plan { plan, seats, is_charged: true };
            self.change_at_provider(before, &change, request_id).await?
        } else if before.cancel_at_period_end {
            self.change_at_provider(before, &Change::CancelAtPeriodEnd(false), request_id).await?
        } else {
            self.unchanged(before).await?
        };
        let scheduled = Some(plan).filter(|_| is_cheaper && !is_same);
        Ok(PlanChange::Made { change: Box::new(change), scheduled })
    }

    /// Stores a plan change.
    pub(crate) async fn store_plan_change(
        &self,
        tx: &mut Tx,
        authorization: &Grant,
        plan: Plan,
        etag: &str,
        change: PlanChange,
    ) -> Result<Subscribed> {
        let organization = access::lock(tx, authorization).await?;
        match change {
            PlanChange::None => {
                let record = store::find(&self.db, organization.id).await?;
                Ok(Subscribed { organization, record })
            }
            PlanChange::Free => {
                // Nothing is paid, so a blocked organization is blocked by the operator (PL-4).
                organization.require_writable()?;
                let record = store::find(&self.db, organization.id).await?;
                let organization =
                    organization::commands::change_plan(tx, organization, plan, etag).await?;
                Ok(Subscribed { organization, record })
            }
            PlanChange::Made { change, scheduled } => {
                let mut synced = self.sync(&organization, &change, tx.now);
                synced.record.scheduled_plan = scheduled;
                self.store_synced(tx, organization, &change.before, synced, Cause::Change).await
            }
        }
    }

    /// True if a plan costs less than the current one, for the same members.
    async fn is_cheaper(
        &self,
        stripe: &Stripe,
        organization: &Organization,
        record: &SubscriptionRecord,
        plan: Plan,
    ) -> Result<bool> {
        // A plan that is not sold any more has no price to compare with.
        if !stripe.sells(organization.plan) {
            return Ok(false);
        }
        let seats = |plan: Plan, paid: i64| if self.terms.is_per_seat(plan) { paid } else { 1 };
        let paid = record.seats_paid.unwrap_or(organization.members);
        let current = stripe.price(organization.plan).await?;
        let current = current.yearly(seats(organization.plan, paid));
        let new = stripe.price(plan).await?.yearly(seats(plan, organization.members));
        Ok(new < current)
    }
}
