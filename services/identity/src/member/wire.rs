//! Between the contract and the rules.

use api::identity as pb;
use chassis::{Error, timestamp};

use super::{Admission, Member};
use crate::policy::{OrgRole, ProjectRole};

impl From<&Member> for pb::Member {
    fn from(it: &Member) -> Self {
        Self {
            org_id: it.org_id.into(),
            user_id: it.user_id.into(),
            email: it.email.clone(),
            display_name: it.display_name.clone(),
            role: pb::OrgRole::from(it.role).into(),
            create_time: Some(timestamp(it.created_at)),
            invitation_id: it.invitation_id.map(|it| it.to_string()).unwrap_or_default(),
        }
    }
}

impl From<OrgRole> for pb::OrgRole {
    fn from(it: OrgRole) -> Self {
        match it {
            OrgRole::Viewer => Self::Viewer,
            OrgRole::Developer => Self::Developer,
            OrgRole::Admin => Self::Admin,
            OrgRole::Owner => Self::Owner,
        }
    }
}

impl TryFrom<pb::OrgRole> for OrgRole {
    type Error = Error;

    fn try_from(it: pb::OrgRole) -> Result<Self, Error> {
        match it {
            pb::OrgRole::Viewer => Ok(Self::Viewer),
            pb::OrgRole::Developer => Ok(Self::Developer),
            pb::OrgRole::Admin => Ok(Self::Admin),
            pb::OrgRole::Owner => Ok(Self::Owner),
            pb::OrgRole::Unspecified => Err(Error::invalid("role", "is required")),
        }
    }
}

impl TryFrom<&pb::AdmitMemberRequest> for Admission {
    type Error = Error;

    fn try_from(request: &pb::AdmitMemberRequest) -> Result<Self, Error> {
        let access = |it: &pb::ProjectAccess| {
            Ok::<_, Error>((it.project_id.parse()?, ProjectRole::try_from(it.role())?))
        };
        let invitation_id = request.invitation_id.parse();
        Ok(Self {
            role: request.role().try_into()?,
            invitation_id: invitation_id
                .map_err(|_| Error::invalid("invitation_id", "must be a UUID"))?,
            inviter_id: request.inviter_id.parse()?,
            project_access: request.project_access.iter().map(access).collect::<Result<_, _>>()?,
            team_ids: request.team_ids.iter().map(|it| it.parse()).collect::<Result<_, _>>()?,
        })
    }
}
