//! gRPC methods of members.

use api::identity::{self as pb, member_service_server::MemberService};
use chassis::{Access, Call, Db, Reply, Tx, page::Pager, reply};
use identity_rules::{member::Admission, policy::OrgRole};
use tonic::Request;

use super::{
    commands::{self, InvitationTerms},
    store, wire,
};
use crate::organization::peers::Peers;

/// The service and what its methods need.
pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) peers: Peers,
}

#[tonic::async_trait]
impl MemberService for Rpc {
    async fn list_members(
        &self,
        request: Request<pb::ListMembersRequest>,
    ) -> Reply<pb::ListMembersResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let authorization = self.access.org(&call, &message.org_id).await?;
        let role = match message.role() {
            pb::OrgRole::Unspecified => None,
            role => Some(OrgRole::try_from(role)?),
        };
        let filter = [&message.org_id, &message.query, message.role().as_str_name()];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter)?;
        let org_id = authorization.org_id();
        let rows = store::list(&self.db, org_id, &message.query, role, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.to_string());
        let members = rows.iter().map(Into::into).collect();
        reply(pb::ListMembersResponse { members, next_page_token })
    }

    async fn get_member(
        &self,
        request: Request<pb::GetMemberRequest>,
    ) -> Reply<pb::GetMemberResponse> {
        let call = Call::of(request)?;
        let authorization = self.access.org(&call, &call.message.org_id).await?;
        let user_id = call.message.user_id.parse()?;
        let member = store::get(&self.db, authorization.org_id(), user_id).await?;
        reply(pb::GetMemberResponse { member: Some((&member).into()) })
    }

    async fn change_member_role(
        &self,
        request: Request<pb::ChangeMemberRoleRequest>,
    ) -> Reply<pb::ChangeMemberRoleResponse> {
        let call = Call::of(request)?;
        let authorization = self.access.org(&call, &call.message.org_id).await?;
        let user_id = call.message.user_id.parse()?;
        let role = OrgRole::try_from(call.message.role())?;
        let change = async |tx: &mut Tx| {
            Ok(commands::change_role(tx, &authorization, user_id, role).await?.into())
        };
        reply(self.db.write(&call, change).await?)
    }

    async fn remove_member(
        &self,
        request: Request<pb::RemoveMemberRequest>,
    ) -> Reply<pb::RemoveMemberResponse> {
        let call = Call::of(request)?;
        let authorization = self.access.org(&call, &call.message.org_id).await?;
        let user_id = call.message.user_id.parse()?;
        // Before the transaction, so that a repeated call returns the stored response.
        let open_ids = self.peers.open_invitations(&call, authorization.org_id()).await;
        let remove = async |tx: &mut Tx| {
            let removal = commands::remove(tx, &authorization, user_id).await?;
            Ok(wire::removed(&removal, open_ids))
        };
        reply(self.db.write(&call, remove).await?)
    }

    async fn leave_organization(
        &self,
        request: Request<pb::LeaveOrganizationRequest>,
    ) -> Reply<pb::LeaveOrganizationResponse> {
        let call = Call::of(request)?;
        let authorization = self.access.org(&call, &call.message.org_id).await?;
        let leave = async |tx: &mut Tx| {
            let token = commands::leave(tx, &authorization).await?;
            Ok(pb::LeaveOrganizationResponse { consistency_token: token.encode() })
        };
        reply(self.db.write(&call, leave).await?)
    }

    async fn prepare_invitation(
        &self,
        request: Request<pb::PrepareInvitationRequest>,
    ) -> Reply<pb::PrepareInvitationResponse> {
        let call = Call::of(request)?;
        let terms = InvitationTerms::try_from(&call.message)?;
        let prepared = commands::prepare_invitation(&self.db, call.account()?, &terms).await?;
        reply(prepared.into())
    }

    async fn admit_member(
        &self,
        request: Request<pb::AdmitMemberRequest>,
    ) -> Reply<pb::AdmitMemberResponse> {
        let call = Call::of(request)?;
        let invitee = call.account()?;
        let admission = Admission::try_from(&call.message)?;
        let org_id = call.message.org_id.parse()?;
        let admit =
            async |tx: &mut Tx| Ok(commands::admit(tx, org_id, invitee, &admission).await?.into());
        reply(self.db.write(&call, admit).await?)
    }
}
