//! Grants: which member or team has which role on which project.

pub(crate) mod rpc;
pub(crate) mod store;
mod wire;

use api::identity as pb;
use chassis::{About, Account, Changed, OrgId, ProjectId, Result, Tx, UserId};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    member::{self, Admission},
    policy::ProjectRole,
    snapshot::Principal,
    team::TeamId,
};

/// A role of a member or a team on a project.
#[derive(Clone, Debug)]
pub(crate) struct ProjectGrant {
    pub(crate) id: Uuid,
    pub(crate) org_id: OrgId,
    pub(crate) project_id: ProjectId,
    /// One of the two.
    pub(crate) user_id: Option<UserId>,
    /// One of the two.
    pub(crate) team_id: Option<TeamId>,
    pub(crate) role: ProjectRole,
    pub(crate) granted_by: UserId,
    pub(crate) created_at: OffsetDateTime,
}

impl ProjectGrant {
    /// A role that nobody had yet.
    pub(crate) fn new(
        (org_id, project_id): (OrgId, ProjectId),
        principal: Principal,
        role: ProjectRole,
        granted_by: UserId,
        now: OffsetDateTime,
    ) -> Self {
        let (user_id, team_id) = match principal {
            Principal::User(id) => (Some(id), None),
            Principal::Team(id) => (None, Some(id)),
        };
        let id = chassis::id::new();
        Self { id, org_id, project_id, user_id, team_id, role, granted_by, created_at: now }
    }

    /// The creator of a project works in it (ID-39).
    pub(crate) fn register(self) -> Changed<Self> {
        let event = pb::ProjectRegistered { after: Some((&self).into()) };
        let about = About::object("project", self.project_id, "").of(self.org_id);
        let about = about.in_project(self.project_id);
        Changed::new(self, &event, about)
    }

    /// A member or team gets a role, or another one instead (ID-27, ID-43). `None`: they have it already,
    /// and nothing happens.
    pub(crate) fn set(self, before: Option<&Self>) -> Option<Changed<Self>> {
        let (about, self_grant) = (self.about(), self.user_id == Some(self.granted_by));
        let after = Some((&self).into());
        match before {
            Some(before) if before.role == self.role => None,
            Some(before) => {
                let before = Some(before.into());
                let event = pb::ProjectAccessChanged { before, after, self_grant };
                Some(Changed::new(self, &event, about))
            }
            None => {
                Some(Changed::new(self, &pb::ProjectAccessGranted { after, self_grant }, about))
            }
        }
    }

    /// A member or team loses a role.
    pub(crate) fn revoke(self) -> Changed<Self> {
        let event = pb::ProjectAccessRevoked { before: Some((&self).into()) };
        let about = self.about();
        Changed::new(self, &event, about)
    }

    fn about(&self) -> About {
        let id = self.user_id.map(String::from).or_else(|| self.team_id.map(String::from));
        About::object("project_access", id.unwrap_or_default(), "")
            .of(self.org_id)
            .in_project(self.project_id)
    }
}

/// A project goes, or never came to be; its grants go with it.
pub(crate) fn unregister(
    (org_id, project_id): (OrgId, ProjectId),
    grants: &[ProjectGrant],
) -> Changed<()> {
    let event = pb::ProjectUnregistered {
        org_id: org_id.into(),
        project_id: project_id.into(),
        removed_grant_count: member::count(grants),
    };
    let about = About::object("project", project_id, "").of(org_id).in_project(project_id);
    Changed::new((), &event, about).followed_by(removed(grants))
}

/// How many grants an event lists at most.
const GRANTS_MAX: usize = 100;

/// The events that list grants which went with something else.
pub(crate) fn removed(
    grants: &[ProjectGrant],
) -> impl Iterator<Item = pb::ProjectGrantsRemoved> + '_ {
    let part = |part: &[ProjectGrant]| pb::ProjectGrantsRemoved {
        grants: part.iter().map(Into::into).collect(),
    };
    grants.chunks(GRANTS_MAX).map(part)
}

/// The grants that an invitation promises, for those of its projects that still exist (IN-15).
pub(crate) async fn promised(
    tx: &mut Tx,
    org_id: OrgId,
    guest: &Account,
    admission: &Admission,
) -> Result<Vec<ProjectGrant>> {
    let existing = store::existing(tx, org_id).await?;
    let mut grants: Vec<ProjectGrant> = vec![];
    for (project_id, role) in &admission.project_access {
        let listed = grants.iter().any(|it| it.project_id == *project_id);
        if existing.contains(project_id) && !listed {
            let (place, guest) = ((org_id, *project_id), Principal::User(guest.user_id));
            grants.push(ProjectGrant::new(place, guest, *role, admission.inviter_id, tx.now));
        }
    }
    Ok(grants)
}
