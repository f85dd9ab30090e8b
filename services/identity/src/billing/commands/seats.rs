//! Changes of paid seats.

use chassis::{Grant, OrgId, Result, Tx};
use identity_rules::billing::{Cause, SeatPolicy};

use super::{Billing, ProviderChange, Subscribed};
use crate::{access, billing::provider::Change, organization};

impl Billing {
    /// Sets the number of paid seats of a policy at the provider, if the plan charges by members.
    pub(crate) async fn change_seats(
        &self,
        org_id: OrgId,
        policy: SeatPolicy,
        requested: i64,
        request_id: &str,
    ) -> Result<ProviderChange> {
        let before = self.lease(org_id).await?;
        let members = organization::store::get(&self.db, org_id).await?.members;
        let seats = before.seats_for(policy, requested, members)?;
        match before.seats_paid {
            Some(paid) if paid != seats => {
                let change = Change::Seats { seats, is_more: seats > paid, must_succeed: true };
                self.change_at_provider(before, &change, request_id).await
            }
            _ => self.unchanged(before).await,
        }
    }

    /// Stores the policy with the paid seats. A join since then is bought by the worker, or was refused.
    pub(crate) async fn store_seats(
        &self,
        tx: &mut Tx,
        authorization: &Grant,
        policy: SeatPolicy,
        change: ProviderChange,
    ) -> Result<Subscribed> {
        let organization = access::lock(tx, authorization).await?;
        let mut synced = self.sync(&organization, &change, tx.now);
        synced.record.seat_policy = policy;
        self.store_synced(tx, organization, &change.before, synced, Cause::Change).await
    }
}
