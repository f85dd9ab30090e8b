//! Events of changed subscriptions.

use api::identity as pb;
use chassis::Changed;

use super::{SubscriptionRecord, Synced, Terms};
use crate::organization::Organization;

/// Cause of a synchronization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A call of the Owner, a webhook of the provider, or an own call to the provider.
    Change,
    /// The daily comparison with the provider, without a webhook: a difference is an event of its own.
    Reconciliation,
}

/// Returns the events of a synchronization about the subscription itself. Events about the plan and the state
/// are those of the organization.
pub fn events(
    organization: &Organization,
    before: &SubscriptionRecord,
    synced: &Synced,
    terms: &Terms,
    cause: Cause,
) -> Vec<Changed<()>> {
    let after = &synced.record;
    let changed =
        Organization { plan: synced.plan, subscription: synced.state, ..organization.clone() };
    let (old, new) = (
        Some(terms.details(organization, Some(before))),
        Some(terms.details(&changed, Some(after))),
    );
    let target = || organization.event_target();
    let mut events = vec![];
    let differences = differences(organization, before, synced);
    if cause == Cause::Reconciliation && !differences.is_empty() {
        let event = pb::SubscriptionReconciled {
            before: old.clone(),
            after: new.clone(),
            differences: differences.iter().map(|it| (*it).to_owned()).collect(),
        };
        events.push(Changed::new((), &event, target()));
    }
    let is_live = after.provider_id.is_some();
    let is_scheduled =
        |it: &SubscriptionRecord| it.cancel_at_period_end || it.scheduled_plan.is_some();
    if after.cancel_at_period_end && !before.cancel_at_period_end {
        let event =
            pb::SubscriptionCancellationScheduled { before: old.clone(), after: new.clone() };
        events.push(Changed::new((), &event, target()));
    }
    if after.scheduled_plan.is_some() && after.scheduled_plan != before.scheduled_plan {
        let event = pb::SubscriptionDowngradeScheduled { before: old.clone(), after: new.clone() };
        events.push(Changed::new((), &event, target()));
    }
    let took_effect = before.scheduled_plan == Some(synced.plan);
    if is_live && is_scheduled(before) && !is_scheduled(after) && !took_effect {
        let event = pb::SubscriptionResumed { before: old.clone(), after: new.clone() };
        events.push(Changed::new((), &event, target()));
    }
    let seats = |it: &SubscriptionRecord| (it.seat_policy, it.seats_paid);
    if is_live && seats(before) != seats(after) {
        let event = pb::SubscriptionSeatsChanged { before: old, after: new };
        events.push(Changed::new((), &event, target()));
    }
    events
}

/// Names of the fields in which the provider differs from the record.
fn differences(
    organization: &Organization,
    before: &SubscriptionRecord,
    synced: &Synced,
) -> Vec<&'static str> {
    let after = &synced.record;
    let fields = [
        ("provider_id", before.provider_id != after.provider_id),
        ("status", before.status != after.status),
        ("plan", organization.plan != synced.plan),
        ("seats_paid", before.seats_paid != after.seats_paid),
        ("period_end_time", before.period_end != after.period_end),
        ("cancel_at_period_end", before.cancel_at_period_end != after.cancel_at_period_end),
    ];
    fields.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}
