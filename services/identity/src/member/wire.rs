//! Conversions of members between the contract and the rules.

use api::identity as pb;
use chassis::{Error, timestamp};

use super::{
    Admission, Member, PromisedAccess,
    commands::{InvitationTerms, MemberChange, MemberRemoval, PreparedInvitation},
};
use crate::{policy::ProjectRole, types::count_i32};

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
        })
    }
}

impl TryFrom<&pb::PrepareInvitationRequest> for InvitationTerms {
    type Error = Error;

    fn try_from(request: &pb::PrepareInvitationRequest) -> Result<Self, Error> {
        let project_ids = request.project_access.iter().map(|it| it.project_id.parse());
        Ok(Self {
            org_id: request.org_id.parse()?,
            emails: request.emails.clone(),
            project_ids: project_ids.collect::<Result<_, _>>()?,
            team_ids: request.team_ids.iter().map(|it| it.parse()).collect::<Result<_, _>>()?,
        })
    }
}

impl From<MemberChange> for pb::ChangeMemberRoleResponse {
    fn from(change: MemberChange) -> Self {
        let member = Some((&change.member).into());
        Self { member, consistency_token: change.token.encode() }
    }
}

impl From<MemberChange> for pb::AdmitMemberResponse {
    fn from(change: MemberChange) -> Self {
        let member = Some((&change.member).into());
        Self { member, consistency_token: change.token.encode() }
    }
}

impl From<MemberRemoval> for pb::RemoveMemberResponse {
    fn from(removal: MemberRemoval) -> Self {
        Self {
            removed_grant_count: count_i32(&removal.associations.grants),
            removed_team_count: count_i32(&removal.associations.team_ids),
            revoked_key_count: count_i32(&removal.associations.key_ids),
            consistency_token: removal.token.encode(),
        }
    }
}

impl From<PreparedInvitation> for pb::PrepareInvitationResponse {
    fn from(prepared: PreparedInvitation) -> Self {
        Self { org_name: prepared.org_name, member_emails: prepared.member_emails }
    }
}
