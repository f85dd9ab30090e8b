//! Conversions of subscriptions between the contract and the rules.

use api::identity as pb;
use chassis::{Error, timestamp};

use super::{ProviderKind, SeatPolicy, SubscriptionRecord, Terms};
use crate::organization::Organization;

impl From<ProviderKind> for pb::BillingProvider {
    fn from(provider: ProviderKind) -> Self {
        match provider {
            ProviderKind::None => Self::None,
            ProviderKind::Stripe => Self::Stripe,
        }
    }
}

impl From<SeatPolicy> for pb::SeatPolicy {
    fn from(policy: SeatPolicy) -> Self {
        match policy {
            SeatPolicy::Refuse => Self::Refuse,
            SeatPolicy::Buy => Self::Buy,
        }
    }
}

impl TryFrom<pb::SeatPolicy> for SeatPolicy {
    type Error = Error;

    fn try_from(policy: pb::SeatPolicy) -> Result<Self, Error> {
        match policy {
            pb::SeatPolicy::Refuse => Ok(Self::Refuse),
            pb::SeatPolicy::Buy => Ok(Self::Buy),
            pb::SeatPolicy::Unspecified => Err(Error::invalid("seat_policy", "is required")),
        }
    }
}

impl Terms {
    /// Returns the message about the subscription of an organization; `record` is `None` if the organization
    /// has no account at the provider.
    pub fn details(
        &self,
        organization: &Organization,
        record: Option<&SubscriptionRecord>,
    ) -> pb::SubscriptionDetails {
        let mut details = pb::SubscriptionDetails {
            org_id: organization.id.into(),
            state: pb::Subscription::from(organization.subscription).into(),
            plan: pb::Plan::from(organization.plan).into(),
            provider: pb::BillingProvider::from(self.provider).into(),
            seats_used: organization.members,
            seat_policy: pb::SeatPolicy::Refuse.into(),
            ..Default::default()
        };
        if let Some(record) = record {
            let scheduled_plan = record.scheduled_plan.map(pb::Plan::from).unwrap_or_default();
            details.paid = record.provider_id.is_some();
            details.period_start_time = record.period_start.map(timestamp);
            details.period_end_time = record.period_end.map(timestamp);
            details.trial_end_time = record.trial_end.map(timestamp);
            details.cancel_at_period_end = record.cancel_at_period_end;
            details.scheduled_plan = scheduled_plan.into();
            details.seats_paid = record.seats_paid;
            details.seat_policy = pb::SeatPolicy::from(record.seat_policy).into();
            details.past_due_time = record.past_due_since.map(timestamp);
            details.block_time = record.past_due_since.map(|it| timestamp(it + self.grace));
        }
        details
    }
}
