//! Conversions of the requests and results of commands on members.

use api::identity as pb;
use chassis::Error;
use identity_rules::types::count_i32;

use super::commands::{InvitationTerms, MemberChange, MemberRemoval, PreparedInvitation};

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

/// Returns the response to a removal. `open_ids` has the open links of the organization; `None` if the
/// invitation service did not respond.
pub(super) fn removed(
    removal: &MemberRemoval,
    open_ids: Option<Vec<String>>,
) -> pb::RemoveMemberResponse {
    pb::RemoveMemberResponse {
        removed_grant_count: count_i32(&removal.associations.grants),
        removed_team_count: count_i32(&removal.associations.team_ids),
        revoked_key_count: count_i32(&removal.associations.key_ids),
        consistency_token: removal.token.encode(),
        open_invitations_unknown: open_ids.is_none(),
        open_invitation_ids: open_ids.unwrap_or_default(),
    }
}

impl From<PreparedInvitation> for pb::PrepareInvitationResponse {
    fn from(prepared: PreparedInvitation) -> Self {
        Self { org_name: prepared.org_name, member_emails: prepared.member_emails }
    }
}
