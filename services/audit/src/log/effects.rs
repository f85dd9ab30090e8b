//! Effects of events on the log itself: erasures of people, plans and purges of organizations.

use api::{event::Envelope, identity};
use chassis::{Result, Tx};
use prost::{Message, Name};
use uuid::Uuid;

use super::store;
use crate::{decode::IncomingEvent, subject_key};

/// Applies the effects that an event has on the log itself: the erasure of a deleted account or an ended
/// claim, a new plan, which determines the retention, and the sinks of a purged organization.
pub(super) async fn apply_effects(tx: &mut Tx, event: &IncomingEvent) -> Result<()> {
    let Some(payload) = &event.envelope.event else { return Ok(()) };
    let name = payload.type_url.rsplit('/').next().unwrap_or_default();
    if event.source != "identity" {
        return Ok(());
    }
    let is_claim = name == identity::UserClaimEnded::full_name();
    if is_claim || name == identity::UserDeleted::full_name() {
        let value = &*payload.value;
        let user = if is_claim {
            identity::UserClaimEnded::decode(value).ok().and_then(|it| it.before)
        } else {
            identity::UserDeleted::decode(value).ok().and_then(|it| it.before)
        };
        let user_id = user.and_then(|it| Uuid::try_parse(&it.id).ok());
        if let Some(user_id) = user_id {
            subject_key::erase::erase_person(tx, user_id, event.id).await?;
        }
    } else if name == identity::OrganizationPurged::full_name() {
        let purged = identity::OrganizationPurged::decode(&*payload.value).ok();
        let org_id = purged.and_then(|it| Uuid::try_parse(&it.before?.id).ok());
        if let Some(org_id) = org_id {
            store::delete_export_sinks(tx, org_id).await?;
        }
    } else if let Some(plan) = new_plan(name, &event.envelope) {
        store::set_plan(tx, event.org_id, &plan).await?;
    }
    Ok(())
}

/// Returns the plan of an organization as stored (`free`, `pro`), if the event sets it.
fn new_plan(event_name: &str, envelope: &Envelope) -> Option<String> {
    let payload = &*envelope.event.as_ref()?.value;
    let organization = if event_name == identity::OrganizationCreated::full_name() {
        identity::OrganizationCreated::decode(payload).ok()?.after
    } else if event_name == identity::SubscriptionPlanChanged::full_name() {
        identity::SubscriptionPlanChanged::decode(payload).ok()?.after
    } else {
        None
    };
    let plan = organization?.plan();
    Some(plan.as_str_name().trim_start_matches("PLAN_").to_lowercase())
}
