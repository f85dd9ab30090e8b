//! Reservations: projects whose creation has begun. A reservation survives a crash in the middle of a
//! creation, so that the registration of the project with identity is either completed or taken back.
//!
//! | state | meaning | next |
//! |---|---|---|
//! | pending | the slug is reserved; identity may have registered the project | confirmed or released |
//! | confirmed | the project is stored; repetitions of the call find its id | deleted by the retention job |

pub(crate) mod store;

use api::project as pb;
use chassis::{Changed, OrgId, ProjectId, Result, Tx, UserId};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::ProjectRef;

/// Age at which a pending reservation is released: its call has ended long before, or its process has
/// crashed.
pub(crate) const PENDING_MAX: Duration = Duration::seconds(30);

/// Age at which a confirmed reservation is deleted by the hourly retention job. Shorter than the 24 hours
/// for which the first answer of a `request_id` is stored, so that a confirmed reservation always has a
/// stored answer.
const CONFIRMED_RETENTION: Duration = Duration::hours(22);

/// The creation of a project.
#[derive(Clone, Debug)]
pub(crate) struct Reservation {
    pub(crate) org_id: OrgId,
    pub(crate) project_id: ProjectId,
    pub(crate) creator_id: UserId,
    /// Idempotency key of the call.
    pub(crate) request_id: Option<Uuid>,
    pub(crate) slug: String,
    pub(crate) confirmed: bool,
    /// True if identity's event `ProjectRegistered` has arrived.
    pub(crate) registered: bool,
    pub(crate) created_at: OffsetDateTime,
}

impl Reservation {
    pub(crate) fn project_ref(&self) -> ProjectRef {
        ProjectRef { org_id: self.org_id, project_id: self.project_id }
    }
}

/// Makes identity drop the registration of a project that does not exist here.
pub(crate) fn abandoned(project: ProjectRef) -> Changed<()> {
    let event = pb::ProjectAbandoned {
        org_id: project.org_id.into(),
        project_id: project.project_id.into(),
    };
    Changed::new((), &event, project.event_target(""))
}

/// Releases a pending reservation: frees the slug, and takes back the registration with identity if its
/// event has arrived. An event that arrives later is answered by the reaction to it. Does nothing if the
/// reservation is confirmed or does not exist.
pub(crate) async fn release(tx: &mut Tx, project: ProjectRef) -> Result<()> {
    if store::delete_pending(tx, project).await?.is_some_and(|it| it.registered) {
        tx.emit(abandoned(project));
    }
    Ok(())
}

/// Releases the reservations of calls that were interrupted by a crash. Returns how many.
pub(crate) async fn release_expired(tx: &mut Tx) -> Result<usize> {
    let before = tx.now - PENDING_MAX;
    let expired = store::lock_expired(tx, before).await?;
    for reservation in &expired {
        tracing::warn!(
            project = %reservation.project_id,
            "the creation of a project was interrupted; its reservation is released"
        );
        release(tx, reservation.project_ref()).await?;
    }
    Ok(expired.len())
}

/// Deletes old confirmed reservations. Returns how many.
pub(crate) async fn delete_confirmed(tx: &mut Tx) -> Result<u64> {
    let before = tx.now - CONFIRMED_RETENTION;
    store::delete_confirmed(tx, before).await
}
