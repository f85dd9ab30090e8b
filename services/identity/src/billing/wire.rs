//! Conversions of billing to the contract.

use api::identity as pb;
use chassis::timestamp;
use identity_rules::billing::{ProviderKind, stripe::Price};

use super::commands::{Billing, PlanOption, Subscribed, excess, plan_change::Preview};

impl Billing {
    /// Returns the message about the subscription of an organization.
    pub(super) fn details(&self, subscribed: &Subscribed) -> pb::SubscriptionDetails {
        self.terms.details(&subscribed.organization, subscribed.record.as_ref())
    }
}

/// Returns the provider and the plans.
pub(super) fn options(
    billing: &Billing,
    options: Vec<PlanOption>,
) -> pb::GetBillingOptionsResponse {
    let charges = billing.terms.provider != ProviderKind::None;
    let plans = options.into_iter().map(|option| {
        let limits = option.limits.0.into_iter().map(|(key, value)| pb::Limit { key, value });
        pb::PlanOption {
            plan: pb::Plan::from(option.plan).into(),
            limits: limits.collect(),
            price: option.price.as_ref().map(|it| it.money(1)),
            interval: option.price.map(|it| it.interval()).unwrap_or_default(),
            per_seat: charges && billing.terms.is_per_seat(option.plan),
            current: option.is_current,
        }
    });
    let trial_days = if charges { billing.trial_days } else { 0 };
    pb::GetBillingOptionsResponse {
        provider: pb::BillingProvider::from(billing.terms.provider).into(),
        charges,
        plans: plans.collect(),
        trial_days: i32::try_from(trial_days).unwrap_or(i32::MAX),
    }
}

impl From<Preview> for pb::PlanChangePreview {
    fn from(preview: Preview) -> Self {
        let excess = excess(&preview.usage, &preview.limits);
        let resources = preview.usage.iter().map(|it| pb::ResourceFit {
            key: it.key.to_owned(),
            used: it.used,
            limit: preview.limits.max(it.key),
            excess: excess.get(it.key).copied().unwrap_or(0),
        });
        let price = preview.price.as_ref();
        Self {
            plan: pb::Plan::from(preview.plan).into(),
            resources: resources.collect(),
            effective_time: preview.effective_at.map(timestamp),
            amount_due: preview.amount_due,
            recurring: price.map(|it| it.money(preview.seats.unwrap_or(1))),
            interval: price.map(Price::interval).unwrap_or_default(),
            seats: preview.seats.filter(|_| price.is_some()),
            checkout_required: preview.checkout_required,
        }
    }
}

/// Returns the organization and its subscription after a plan change.
pub(super) fn plan_changed(billing: &Billing, changed: &Subscribed) -> pb::ChangePlanResponse {
    pb::ChangePlanResponse {
        organization: Some((&changed.organization).into()),
        consistency_token: changed.organization.token().encode(),
        subscription: Some(billing.details(changed)),
    }
}

/// Returns the event of a started checkout.
pub(super) fn checkout_started(
    details: pb::SubscriptionDetails,
    plan: identity_rules::organization::Plan,
) -> pb::CheckoutStarted {
    pb::CheckoutStarted { subscription: Some(details), plan: pb::Plan::from(plan).into() }
}

/// Returns the event of an opened portal.
pub(super) fn portal_opened(details: pb::SubscriptionDetails) -> pb::BillingPortalOpened {
    pb::BillingPortalOpened { subscription: Some(details) }
}
