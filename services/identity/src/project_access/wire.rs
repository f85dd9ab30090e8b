//! Between the contract and the rules.

use api::identity as pb;
use chassis::{Error, timestamp};

use super::ProjectGrant;
use crate::{policy::ProjectRole, snapshot::Principal};

impl From<&ProjectGrant> for pb::ProjectGrant {
    fn from(it: &ProjectGrant) -> Self {
        Self {
            org_id: it.org_id.into(),
            project_id: it.project_id.into(),
            principal: Some(it.into()),
            role: pb::ProjectRole::from(it.role).into(),
            granted_by: it.granted_by.into(),
            create_time: Some(timestamp(it.created_at)),
        }
    }
}

impl From<&ProjectGrant> for pb::Principal {
    fn from(it: &ProjectGrant) -> Self {
        let user = it.user_id.map(|it| pb::principal::Principal::UserId(it.into()));
        let team = it.team_id.map(|it| pb::principal::Principal::TeamId(it.into()));
        Self { principal: user.or(team) }
    }
}

impl TryFrom<&Option<pb::Principal>> for Principal {
    type Error = Error;

    fn try_from(it: &Option<pb::Principal>) -> Result<Self, Error> {
        match it.as_ref().and_then(|it| it.principal.as_ref()) {
            Some(pb::principal::Principal::UserId(id)) => Ok(Self::User(id.parse()?)),
            Some(pb::principal::Principal::TeamId(id)) => Ok(Self::Team(id.parse()?)),
            None => Err(Error::invalid("principal", "must name a member or a team")),
        }
    }
}

impl From<ProjectRole> for pb::ProjectRole {
    fn from(it: ProjectRole) -> Self {
        match it {
            ProjectRole::Viewer => Self::Viewer,
            ProjectRole::Developer => Self::Developer,
            ProjectRole::Admin => Self::Admin,
        }
    }
}

impl TryFrom<pb::ProjectRole> for ProjectRole {
    type Error = Error;

    fn try_from(it: pb::ProjectRole) -> Result<Self, Error> {
        match it {
            pb::ProjectRole::Viewer => Ok(Self::Viewer),
            pb::ProjectRole::Developer => Ok(Self::Developer),
            pb::ProjectRole::Admin => Ok(Self::Admin),
            pb::ProjectRole::Unspecified => Err(Error::invalid("role", "is required")),
        }
    }
}
