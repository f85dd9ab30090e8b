//! Release of reservations whose call ended without an answer, for example by a crash.

use std::collections::{BTreeMap, HashSet};

use api::identity::{ListAudienceRequest, access_service_client::AccessServiceClient};
use chassis::{Db, OrgId, Result, Tx, channel::ServiceChannel, error::remote};
use time::Duration;
use tokio_util::sync::CancellationToken;
use worker::{Progress, Schedule};

use super::{
    Reservation,
    store::{self, StaleReservation},
};

/// Time between two searches for stale reservations.
const INTERVAL: std::time::Duration = std::time::Duration::from_secs(30);

/// Age of a reservation after which its call has ended: more than the longest deadline of a call.
const RESERVATION_MAX: Duration = Duration::minutes(2);

/// Age after which the reservations of members are released, too: the delivery of `MemberJoined` takes less.
const MEMBER_RESERVATION_MAX: Duration = Duration::hours(24);

/// Time limit of a call of the identity service.
const IDENTITY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// Permission that every member has.
const MEMBER_PERMISSION: &str = "org.view";

/// Largest number of reservations in one step.
const BATCH: i64 = 100;

/// The worker that releases stale reservations.
pub(crate) struct ReservationCleanup {
    pub(crate) db: Db,
    pub(crate) identity: ServiceChannel,
}

impl ReservationCleanup {
    /// Runs until the process ends.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let step = || async { Ok(self.step().await?) };
        let schedule = Schedule::every(INTERVAL);
        worker::run("reservation cleanup".to_owned(), schedule, stop, step).await;
        Ok(())
    }

    async fn step(&self) -> Result<Progress> {
        let stale = store::stale(&self.db, self.db.now() - RESERVATION_MAX, BATCH).await?;
        let mut by_org: BTreeMap<OrgId, Vec<StaleReservation>> = BTreeMap::new();
        for reservation in stale {
            by_org.entry(reservation.org_id).or_default().push(reservation);
        }
        for (org_id, reservations) in by_org {
            self.release(org_id, &reservations).await?;
        }
        Ok(Progress::Idle)
    }

    /// Releases the reservations of accounts that are not members. Those of members wait for the reaction to
    /// `MemberJoined`, which counts their use.
    async fn release(&self, org_id: OrgId, reservations: &[StaleReservation]) -> Result<()> {
        let members = self.members(org_id).await?;
        let release = async |tx: &mut Tx| {
            let member_limit = tx.now - MEMBER_RESERVATION_MAX;
            for stale in reservations {
                let is_member = members.contains(&stale.user_id.to_string());
                if is_member && stale.reserved_at > member_limit {
                    continue;
                }
                let StaleReservation { invitation_id, user_id, attempt_id, .. } = *stale;
                store::release(tx, Reservation { invitation_id, user_id, attempt_id }).await?;
            }
            Ok(())
        };
        self.db.write_as_system("reservation cleanup", release).await
    }

    /// Ids of the accounts that are members of an organization.
    async fn members(&self, org_id: OrgId) -> Result<HashSet<String>> {
        let mut request = tonic::Request::new(ListAudienceRequest {
            org_id: org_id.into(),
            permission: MEMBER_PERMISSION.to_owned(),
            ..Default::default()
        });
        request.set_timeout(IDENTITY_TIMEOUT);
        let mut identity = AccessServiceClient::new(self.identity.clone());
        let response = identity.list_audience(request).await;
        let audience = response.map_err(remote("identity"))?.into_inner();
        Ok(audience.listeners.into_iter().map(|it| it.user_id).collect())
    }
}
