//! Conversions of members between the contract and the rules.

use api::identity as pb;
use chassis::{Error, datetime, timestamp};

use super::{Admission, Member, PromisedAccess};
use crate::policy::ProjectRole;

impl From<&Member> for pb::Member {
    fn from(member: &Member) -> Self {
        Self {
            org_id: member.org_id.into(),
            user_id: member.user_id.into(),
            email: member.email.clone(),
            display_name: member.display_name.clone(),
            role: pb::OrgRole::from(member.role).into(),
            create_time: Some(timestamp(member.created_at)),
            invitation_id: member.invitation_id.map(|it| it.to_string()).unwrap_or_default(),
        }
    }
}

impl TryFrom<&pb::ProjectAccess> for PromisedAccess {
    type Error = Error;

    fn try_from(access: &pb::ProjectAccess) -> Result<Self, Error> {
        let role = ProjectRole::try_from(access.role())?;
        Ok(Self { project_id: access.project_id.parse()?, role })
    }
}

impl TryFrom<&pb::AdmitMemberRequest> for Admission {
    type Error = Error;

    fn try_from(request: &pb::AdmitMemberRequest) -> Result<Self, Error> {
        let project_access = request.project_access.iter().map(PromisedAccess::try_from);
        Ok(Self {
            role: request.role().try_into()?,
            invitation_id: chassis::id::parse("invitation_id", &request.invitation_id)?,
            inviter_id: request.inviter_id.parse()?,
            project_access: project_access.collect::<Result<_, _>>()?,
            team_ids: request.team_ids.iter().map(|it| it.parse()).collect::<Result<_, _>>()?,
            personal_since: request.personal_since.and_then(datetime),
        })
    }
}
