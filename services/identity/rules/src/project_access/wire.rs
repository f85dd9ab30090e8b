//! Conversions of project grants to their protobuf messages, and of principals from theirs.

use api::identity as pb;
use chassis::{Error, timestamp};

use super::ProjectGrant;
use crate::types::Principal;

impl From<&ProjectGrant> for pb::ProjectGrant {
    fn from(grant: &ProjectGrant) -> Self {
        Self {
            org_id: grant.org_id.into(),
            project_id: grant.project_id.into(),
            principal: Some(grant.into()),
            role: pb::ProjectRole::from(grant.role).into(),
            granted_by: grant.granted_by.into(),
            create_time: Some(timestamp(grant.created_at)),
        }
    }
}

impl From<&ProjectGrant> for pb::Principal {
    fn from(grant: &ProjectGrant) -> Self {
        let user = grant.user_id.map(|it| pb::principal::Principal::UserId(it.into()));
        let team = grant.team_id.map(|it| pb::principal::Principal::TeamId(it.into()));
        Self { principal: user.or(team) }
    }
}

impl TryFrom<&Option<pb::Principal>> for Principal {
    type Error = Error;

    fn try_from(principal: &Option<pb::Principal>) -> Result<Self, Error> {
        match principal.as_ref().and_then(|it| it.principal.as_ref()) {
            Some(pb::principal::Principal::UserId(id)) => Ok(Self::User(id.parse()?)),
            Some(pb::principal::Principal::TeamId(id)) => Ok(Self::Team(id.parse()?)),
            None => Err(Error::invalid("principal", "must name a member or a team")),
        }
    }
}
