//! Registration of projects with identity, which has the grants on them and counts them towards the plan.
//!
//! A project is registered first and stored afterwards. A registration without a project is stored with its
//! state; a registration with a project has no row.

use api::project as pb;
use chassis::Changed;
use time::Duration;

use crate::types::ProjectRef;

/// State of a registration without a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationState {
    /// The project may still be created.
    Pending,
    /// The creation failed. The project cannot be created any more, and identity removes the registration.
    Abandoned,
    /// The project was deleted, and identity removes the registration.
    Deleted,
}

chassis::text_column!(RegistrationState {
    Pending = "pending", Abandoned = "abandoned", Deleted = "deleted",
});

/// Time after which a pending registration is abandoned: the process that would have stored the project has
/// crashed, or its call gets an error and creates nothing.
pub const PENDING_MAX: Duration = Duration::seconds(10);

/// Time after which an abandoned or deleted registration is forgotten: longer than any delay of the event
/// `ProjectRegistered`, which would otherwise make it pending again.
pub const ENDED_RETENTION: Duration = Duration::days(30);

/// The event by which identity removes the registration of a project that is not created.
pub fn abandoned(project: ProjectRef) -> Changed<()> {
    let event = pb::ProjectAbandoned {
        org_id: project.org_id.into(),
        project_id: project.project_id.into(),
    };
    Changed::new((), &event, project.event_target(""))
}
