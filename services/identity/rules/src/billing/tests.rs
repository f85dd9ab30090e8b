//! Tests of the rules of billing.

use chassis::{OrgId, UserId};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{
    Action, ProviderKind, ProviderStatus, ProviderSubscription, Refused, SeatPolicy,
    SubscriptionRecord, Terms,
};
use crate::organization::{Limits, Organization, Plan, Subscription};

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

fn organization(members: i64) -> Organization {
    Organization {
        id: OrgId(Uuid::from_u128(1)),
        name: "Acme".to_owned(),
        slug: "acme".to_owned(),
        plan: Plan::Pro,
        owner_id: UserId(Uuid::from_u128(2)),
        subscription: Subscription::Active,
        access_version: 1,
        revision: 1,
        created_at: NOW,
        deleted_at: None,
        members,
        projects: 0,
        limits: Limits::default(),
        seat_limit: None,
        pending_cleanup: vec![],
    }
}

fn terms() -> Terms {
    let seat_plans = vec![Plan::Pro];
    Terms { provider: ProviderKind::Stripe, grace: Duration::days(14), seat_plans }
}

fn current(status: ProviderStatus) -> ProviderSubscription {
    ProviderSubscription {
        id: "sub_1".to_owned(),
        item_id: "si_1".to_owned(),
        status,
        plan: Some(Plan::Pro),
        quantity: 3,
        period_start: NOW,
        period_end: NOW + Duration::days(30),
        trial_end: None,
        cancel_at_period_end: false,
    }
}

fn record() -> SubscriptionRecord {
    SubscriptionRecord::new(OrgId(Uuid::from_u128(1)), "cus_1".to_owned())
}

/// PL-47: a failed payment blocks after the grace period, which begins with the first failure.
#[test]
fn a_failed_payment_blocks_after_the_grace_period() {
    let organization = organization(3);
    let overdue = current(ProviderStatus::Overdue);
    let first = record().sync(&organization, Some(&overdue), &terms(), NOW);
    assert_eq!(first.state, Subscription::PastDue);
    let day = |days| {
        first.record.sync(&organization, Some(&overdue), &terms(), NOW + Duration::days(days))
    };
    assert_eq!(day(13).state, Subscription::PastDue);
    assert_eq!(day(14).state, Subscription::Blocked);
    let paid = current(ProviderStatus::Active);
    let paid = day(14).record.sync(&organization, Some(&paid), &terms(), NOW + Duration::days(15));
    assert_eq!((paid.state, paid.record.past_due_since), (Subscription::Active, None));
}

#[test]
fn an_ended_subscription_sets_the_plan_free_and_keeps_one_trial() {
    let organization = organization(3);
    let mut trial = current(ProviderStatus::Trialing);
    trial.trial_end = Some(NOW + Duration::days(14));
    let begun = record().sync(&organization, Some(&trial), &terms(), NOW);
    assert_eq!((begun.state, begun.plan), (Subscription::Trialing, Plan::Pro));
    let ended = begun.record.sync(&organization, None, &terms(), NOW);
    assert_eq!((ended.state, ended.plan), (Subscription::Canceled, Plan::Free));
    assert!(ended.record.trial_used && ended.record.provider_id.is_none());
    // Without a subscription before, state and plan stay.
    let none = record().sync(&organization, None, &terms(), NOW);
    assert_eq!((none.state, none.plan), (organization.subscription, organization.plan));
}

/// PL-49.
#[test]
fn paid_seats_limit_members_unless_they_are_bought() {
    let active = current(ProviderStatus::Active);
    let mut record = record().sync(&organization(3), Some(&active), &terms(), NOW).record;
    assert_eq!(record.seat_limit(), Some(3));
    assert_eq!(record.next_action(&organization(4), NOW), Action::Read);
    assert_eq!(record.seats_for(SeatPolicy::Refuse, 0, 3), Ok(3));
    assert_eq!(record.seats_for(SeatPolicy::Refuse, 2, 3), Err(Refused::SeatsBelowMembers(3)));
    record.seat_policy = SeatPolicy::Buy;
    assert_eq!(record.seat_limit(), None);
    assert_eq!(record.seats_for(SeatPolicy::Buy, 1, 4), Ok(4));
    assert_eq!(record.next_action(&organization(4), NOW), Action::SetSeats(4));
    let deleted = Organization { deleted_at: Some(NOW), ..organization(4) };
    assert_eq!(record.next_action(&deleted, NOW), Action::End);
}

/// PL-48.
#[test]
fn a_cheaper_plan_is_set_in_the_last_hour_of_the_period() {
    let organization = organization(3);
    let active = current(ProviderStatus::Active);
    let mut record = record().sync(&organization, Some(&active), &terms(), NOW).record;
    record.scheduled_plan = Some(Plan::Starter);
    let end = active.period_end;
    let before = end - Duration::hours(1) - Duration::SECOND;
    assert_eq!(record.next_action(&organization, before), Action::Read);
    let action = record.next_action(&organization, end - Duration::hours(1));
    assert_eq!(action, Action::SetPlan(Plan::Starter));
}
