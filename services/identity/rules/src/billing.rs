//! Subscriptions: the payments of an organization at the billing provider, and the state, plan and seats that
//! follow from them.

mod events;
pub mod stripe;
pub mod webhook;
mod wire;

pub use events::{Cause, events};

use api::error::Reason;
use chassis::{OrgId, Refusal};
use time::{Duration, OffsetDateTime};

use crate::{
    organization::{Organization, Plan, Subscription},
    types::StoredText,
};

/// Time before the end of a period at which a scheduled plan is set at the provider, so that the next invoice
/// has its price.
const SCHEDULED_PLAN_LEAD: Duration = Duration::hours(1);

/// The provider of payments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderKind {
    /// None: plan changes are free.
    None,
    Stripe,
}

/// Policy for a join when all paid seats are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeatPolicy {
    Refuse,
    Buy,
}

impl StoredText for SeatPolicy {
    const TEXTS: &'static [(Self, &'static str)] = &[(Self::Refuse, "refuse"), (Self::Buy, "buy")];
}

/// State of a subscription at the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderStatus {
    Trialing,
    Active,
    /// The payment of an invoice failed, or there is no means of payment.
    Overdue,
}

impl StoredText for ProviderStatus {
    const TEXTS: &'static [(Self, &'static str)] =
        &[(Self::Trialing, "trialing"), (Self::Active, "active"), (Self::Overdue, "overdue")];
}

/// A subscription that has begun and not ended, as the provider reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderSubscription {
    pub id: String,
    /// Id of its item, which has the price and the quantity.
    pub item_id: String,
    pub status: ProviderStatus,
    /// `None` if no plan has its price.
    pub plan: Option<Plan>,
    pub quantity: i64,
    pub period_start: OffsetDateTime,
    pub period_end: OffsetDateTime,
    pub trial_end: Option<OffsetDateTime>,
    pub cancel_at_period_end: bool,
}

/// The stored subscription of an organization with an account at the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionRecord {
    pub org_id: OrgId,
    /// Id of the organization's account at the provider.
    pub customer_id: String,
    /// Id of the subscription; `None` before the first one and after its end.
    pub provider_id: Option<String>,
    pub item_id: Option<String>,
    pub status: Option<ProviderStatus>,
    pub seat_policy: SeatPolicy,
    /// Number of paid seats; `None` if the plan does not charge by members.
    pub seats_paid: Option<i64>,
    pub period_start: Option<OffsetDateTime>,
    pub period_end: Option<OffsetDateTime>,
    pub trial_end: Option<OffsetDateTime>,
    /// True after the first trial: there is no second one.
    pub trial_used: bool,
    pub cancel_at_period_end: bool,
    /// Cheaper plan from the end of the period on.
    pub scheduled_plan: Option<Plan>,
    pub past_due_since: Option<OffsetDateTime>,
    /// Incremented with every change of the row.
    pub revision: i64,
    /// Number of failed calls to the provider in a row.
    pub failures: i32,
}

/// Terms of billing: settings of the operator.
#[derive(Clone, Debug)]
pub struct Terms {
    pub provider: ProviderKind,
    /// Time from the first failed payment to the block.
    pub grace: Duration,
    /// Plans whose price is for each member.
    pub seat_plans: Vec<Plan>,
}

impl Terms {
    /// True if the price of a plan is for each member.
    pub fn is_per_seat(&self, plan: Plan) -> bool {
        self.seat_plans.contains(&plan)
    }
}

/// A synchronized subscription, with the state and plan that follow for its organization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    pub record: SubscriptionRecord,
    pub state: Subscription,
    pub plan: Plan,
}

/// The next call to the provider for a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ends the subscription of a deleted organization.
    End,
    /// Sets the plan that was scheduled for the end of the period.
    SetPlan(Plan),
    /// Sets the number of paid seats.
    SetSeats(i64),
    /// Reads the subscription.
    Read,
}

/// Reasons for which a change of a subscription is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(
        "no billing provider is configured, so nothing is charged; use ChangePlan to change the plan"
    )]
    NoProvider,
    #[error("the organization pays for no subscription; use CreateCheckoutSession")]
    NoSubscription,
    #[error("the organization pays for a subscription already; use ChangePlan")]
    Exists,
    #[error(
        "the plan is paid, and the organization pays for no subscription; use CreateCheckoutSession"
    )]
    CheckoutRequired,
    #[error("this plan is not sold; choose a plan of GetBillingOptions")]
    NotSold,
    #[error(
        "the payment failed, and nothing was changed; use CreatePortalSession to change the card, then retry"
    )]
    PaymentFailed,
    #[error(
        "the organization has {0} members; remove members first, or pay for at least {0} seats"
    )]
    SeatsBelowMembers(i64),
    #[error("the billing provider is the source of the state of subscriptions; change it there")]
    Managed,
}

impl Refusal for Refused {
    fn reason(&self) -> Reason {
        match self {
            Self::NoProvider => Reason::NoBillingProvider,
            Self::NoSubscription => Reason::NoSubscription,
            Self::Exists => Reason::SubscriptionExists,
            Self::CheckoutRequired => Reason::CheckoutRequired,
            Self::NotSold => Reason::PlanNotSold,
            Self::PaymentFailed => Reason::PaymentFailed,
            Self::SeatsBelowMembers(_) => Reason::SeatsBelowMembers,
            Self::Managed => Reason::BillingManaged,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::SeatsBelowMembers(members) => vec![("members", members.to_string())],
            _ => vec![],
        }
    }
}

impl SubscriptionRecord {
    /// Creates the record of an organization with a new account at the provider.
    pub fn new(org_id: OrgId, customer_id: String) -> Self {
        Self {
            org_id,
            customer_id,
            provider_id: None,
            item_id: None,
            status: None,
            seat_policy: SeatPolicy::Refuse,
            seats_paid: None,
            period_start: None,
            period_end: None,
            trial_end: None,
            trial_used: false,
            cancel_at_period_end: false,
            scheduled_plan: None,
            past_due_since: None,
            revision: 1,
            failures: 0,
        }
    }

    /// Returns the record if the provider has a subscription that has not ended.
    pub fn require_live(self) -> Result<Self, Refused> {
        if self.provider_id.is_some() { Ok(self) } else { Err(Refused::NoSubscription) }
    }

    /// Takes over the state of the provider; `current` is `None` if it has no subscription. The end of a
    /// subscription sets the plan Free. A record that never had one leaves state and plan as they are. A
    /// failed payment blocks the organization after the grace period (PL-47).
    pub fn sync(
        &self,
        organization: &Organization,
        current: Option<&ProviderSubscription>,
        terms: &Terms,
        now: OffsetDateTime,
    ) -> Synced {
        let revision = self.revision + 1;
        let Some(current) = current else {
            let had_one = self.provider_id.is_some();
            let (state, plan) = if had_one {
                (Subscription::Canceled, Plan::Free)
            } else {
                (organization.subscription, organization.plan)
            };
            let new = Self::new(self.org_id, self.customer_id.clone());
            let (seat_policy, trial_used) = (self.seat_policy, self.trial_used);
            return Synced {
                record: Self { seat_policy, trial_used, revision, ..new },
                state,
                plan,
            };
        };
        let plan = current.plan.unwrap_or(organization.plan);
        let is_overdue = current.status == ProviderStatus::Overdue;
        let past_due_since = is_overdue.then(|| self.past_due_since.unwrap_or(now));
        let state = match (current.status, past_due_since) {
            (ProviderStatus::Overdue, Some(since)) if since + terms.grace <= now => {
                Subscription::Blocked
            }
            (ProviderStatus::Overdue, _) => Subscription::PastDue,
            (ProviderStatus::Trialing, _) => Subscription::Trialing,
            (ProviderStatus::Active, _) => Subscription::Active,
        };
        let record = Self {
            org_id: self.org_id,
            customer_id: self.customer_id.clone(),
            provider_id: Some(current.id.clone()),
            item_id: Some(current.item_id.clone()),
            status: Some(current.status),
            seat_policy: self.seat_policy,
            seats_paid: terms.is_per_seat(plan).then_some(current.quantity),
            period_start: Some(current.period_start),
            period_end: Some(current.period_end),
            trial_end: current.trial_end.filter(|_| current.status == ProviderStatus::Trialing),
            trial_used: self.trial_used || current.trial_end.is_some(),
            cancel_at_period_end: current.cancel_at_period_end,
            scheduled_plan: self.scheduled_plan.filter(|it| *it != plan),
            past_due_since,
            revision,
            failures: 0,
        };
        Synced { record, state, plan }
    }

    /// Returns the largest number of members that the paid seats allow; `None` if they limit nothing (PL-49).
    pub fn seat_limit(&self) -> Option<i64> {
        self.seats_paid.filter(|_| self.seat_policy == SeatPolicy::Refuse)
    }

    /// Returns the number of seats of a policy: the number of members, or the requested number, which may not
    /// be smaller (PL-49).
    pub fn seats_for(
        &self,
        policy: SeatPolicy,
        requested: i64,
        members: i64,
    ) -> Result<i64, Refused> {
        let seats = match policy {
            SeatPolicy::Buy => members,
            SeatPolicy::Refuse if requested == 0 => self.seats_paid.unwrap_or(members).max(members),
            SeatPolicy::Refuse => requested,
        };
        if seats < members { Err(Refused::SeatsBelowMembers(members)) } else { Ok(seats) }
    }

    /// Returns the next call to the provider.
    pub fn next_action(&self, organization: &Organization, now: OffsetDateTime) -> Action {
        if self.provider_id.is_none() {
            return Action::Read;
        }
        if organization.deleted_at.is_some() {
            return Action::End;
        }
        let is_ending = self.period_end.is_some_and(|it| it - SCHEDULED_PLAN_LEAD <= now);
        match (self.scheduled_plan, self.seats_paid) {
            (Some(plan), _) if is_ending => Action::SetPlan(plan),
            (_, Some(seats))
                if self.seat_policy == SeatPolicy::Buy && seats != organization.members =>
            {
                Action::SetSeats(organization.members)
            }
            _ => Action::Read,
        }
    }
}

#[cfg(test)]
mod tests;
