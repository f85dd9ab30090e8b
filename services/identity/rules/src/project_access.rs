//! Grants: roles of members and teams on projects.

mod wire;

use api::identity as pb;
use chassis::{Changed, EventTarget, OrgId, ProjectId, TeamId, UserId};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    policy::ProjectRole,
    types::{Principal, ProjectRef, count_i32},
};

/// Grants per event at most.
const EVENT_GRANTS_MAX: usize = 100;

/// The role of a member or a team on a project.
#[derive(Clone, Debug)]
pub struct ProjectGrant {
    pub id: Uuid,
    pub org_id: OrgId,
    pub project_id: ProjectId,
    /// Set if the grant is to a member; `team_id` is `None` then.
    pub user_id: Option<UserId>,
    /// Set if the grant is to a team; `user_id` is `None` then.
    pub team_id: Option<TeamId>,
    pub role: ProjectRole,
    pub granted_by: UserId,
    pub created_at: OffsetDateTime,
}

impl ProjectGrant {
    /// Returns a new grant.
    pub fn new(
        project: ProjectRef,
        principal: Principal,
        role: ProjectRole,
        granted_by: UserId,
        now: OffsetDateTime,
    ) -> Self {
        let (user_id, team_id) = match principal {
            Principal::User(id) => (Some(id), None),
            Principal::Team(id) => (None, Some(id)),
        };
        Self {
            id: chassis::id::new(),
            org_id: project.org_id,
            project_id: project.project_id,
            user_id,
            team_id,
            role,
            granted_by,
            created_at: now,
        }
    }

    /// Registers a new project with its first grant: its creator is Admin (ID-39).
    pub fn register_project(self) -> Changed<Self> {
        let event = pb::ProjectRegistered { after: Some((&self).into()) };
        let target = EventTarget::object("project", self.project_id, "").in_org(self.org_id);
        let target = target.in_project(self.project_id);
        Changed::new(self, &event, target)
    }

    /// Adds the grant, or replaces the one that the principal had (ID-27, ID-43). `None` if the role stays
    /// the same, which is no change.
    pub fn set(self, before: Option<&Self>) -> Option<Changed<Self>> {
        let target = self.event_target();
        let self_grant = self.user_id == Some(self.granted_by);
        let after = Some((&self).into());
        match before {
            Some(before) if before.role == self.role => None,
            Some(before) => {
                let before = Some(before.into());
                let event = pb::ProjectAccessChanged { before, after, self_grant };
                Some(Changed::new(self, &event, target))
            }
            None => {
                let event = pb::ProjectAccessGranted { after, self_grant };
                Some(Changed::new(self, &event, target))
            }
        }
    }

    /// Removes the grant.
    pub fn revoke(self) -> Changed<Self> {
        let event = pb::ProjectAccessRevoked { before: Some((&self).into()) };
        let target = self.event_target();
        Changed::new(self, &event, target)
    }

    fn event_target(&self) -> EventTarget {
        let id = self.user_id.map(String::from).or_else(|| self.team_id.map(String::from));
        EventTarget::object("project_access", id.unwrap_or_default(), "")
            .in_org(self.org_id)
            .in_project(self.project_id)
    }
}

/// Removes a deleted or abandoned project, with its grants.
pub fn unregister_project(project: ProjectRef, grants: &[ProjectGrant]) -> Changed<()> {
    let ProjectRef { org_id, project_id } = project;
    let event = pb::ProjectUnregistered {
        org_id: org_id.into(),
        project_id: project_id.into(),
        removed_grant_count: count_i32(grants),
    };
    let target =
        EventTarget::object("project", project_id, "").in_org(org_id).in_project(project_id);
    Changed::new((), &event, target).followed_by(removal_events(grants))
}

/// Returns the events that list grants which were removed together with something else.
pub fn removal_events(
    grants: &[ProjectGrant],
) -> impl Iterator<Item = pb::ProjectGrantsRemoved> + '_ {
    grants
        .chunks(EVENT_GRANTS_MAX)
        .map(|batch| pb::ProjectGrantsRemoved { grants: batch.iter().map(Into::into).collect() })
}
