//! The gRPC surface of members.

use api::identity::{self as pb, member_service_server::MemberService};
use chassis::{
    Access, Account, Call, Db, Error, OrgId, ProjectId, Reply, Result, Tx, UserId, email,
    page::Pager, reply,
};
use tonic::Request;

use super::{Admission, Member, Refused, store};
use crate::{
    organization::{self, wire::consistency_token},
    policy::OrgRole,
    project_access,
};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
}

#[tonic::async_trait]
impl MemberService for Rpc {
    async fn list_members(
        &self,
        request: Request<pb::ListMembersRequest>,
    ) -> Reply<pb::ListMembersResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let page =
            self.pager.page(&call, message.page_size, &message.page_token, &[&message.org_id])?;
        let rows = store::list(&self.db, grant.org_id(), &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.id.to_string());
        reply(pb::ListMembersResponse {
            members: rows.iter().map(Into::into).collect(),
            next_page_token,
        })
    }

    async fn get_member(
        &self,
        request: Request<pb::GetMemberRequest>,
    ) -> Reply<pb::GetMemberResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let member = store::get(&self.db, grant.org_id(), call.message.user_id.parse()?).await?;
        reply(pb::GetMemberResponse { member: Some((&member).into()) })
    }

    async fn change_member_role(
        &self,
        request: Request<pb::ChangeMemberRoleRequest>,
    ) -> Reply<pb::ChangeMemberRoleResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let (user_id, role) =
            (call.message.user_id.parse()?, OrgRole::try_from(call.message.role())?);
        let change = async |tx: &mut Tx| {
            let organization = organization::store::lock(tx, grant.org_id()).await?;
            // Under the lock: what the caller may do now, not when the call began.
            let changer = member(tx, organization.id, grant.account().user_id).await?;
            let member = member(tx, organization.id, user_id).await?;
            let (member, version) = match member.change_role(&changer, role)? {
                None => (member, organization.access_version),
                Some(changed) => {
                    let version = organization::store::bump(tx, organization.id).await?;
                    (store::update_role(tx, changed).await?, version)
                }
            };
            let consistency_token = consistency_token(organization.id, version);
            Ok(pb::ChangeMemberRoleResponse { member: Some((&member).into()), consistency_token })
        };
        reply(self.db.write(&call, change).await?)
    }

    async fn remove_member(
        &self,
        request: Request<pb::RemoveMemberRequest>,
    ) -> Reply<pb::RemoveMemberResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let user_id = call.message.user_id.parse()?;
        let remove = async |tx: &mut Tx| {
            let organization = organization::store::lock(tx, grant.org_id()).await?;
            let member = member(tx, organization.id, user_id).await?;
            let lost = project_access::store::delete_all_of(tx, organization.id, user_id).await?;
            store::delete(tx, member.remove(&grant, &lost)?).await?;
            let version = organization::store::bump(tx, organization.id).await?;
            Ok(pb::RemoveMemberResponse {
                removed_grants: lost.iter().map(Into::into).collect(),
                consistency_token: consistency_token(organization.id, version),
            })
        };
        reply(self.db.write(&call, remove).await?)
    }

    async fn prepare_invitation(
        &self,
        request: Request<pb::PrepareInvitationRequest>,
    ) -> Reply<pb::PrepareInvitationResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let org_id: OrgId = it.org_id.parse()?;
        // The invitation service has proven that the inviter may invite here; this reads, no more.
        store::get(&self.db, org_id, call.account()?.user_id).await?;
        let organization = organization::store::get(&self.db, org_id).await?;
        organization.seat().map_err(Error::from)?;
        let address = email::parse(&it.email);
        let address =
            address.ok_or_else(|| Error::invalid("email", "must be an e-mail address"))?;
        if store::has_address(&self.db, org_id, &address.canonical).await? {
            return Err(Error::from(Refused::AlreadyMember).into());
        }
        let existing = project_access::store::all(&self.db, org_id).await?;
        for access in &it.project_access {
            if !existing.contains(&access.project_id.parse()?) {
                return Err(Error::NotFound(ProjectId::NOUN).into());
            }
        }
        reply(pb::PrepareInvitationResponse { org_name: organization.name })
    }

    async fn admit_member(
        &self,
        request: Request<pb::AdmitMemberRequest>,
    ) -> Reply<pb::AdmitMemberResponse> {
        let call = Call::of(request)?;
        let (guest, admission) = (call.account()?, Admission::try_from(&call.message)?);
        let org_id = call.message.org_id.parse()?;
        let admit = async |tx: &mut Tx| {
            let (member, version) = admit(tx, org_id, guest, &admission).await?;
            let consistency_token = consistency_token(org_id, version);
            Ok(pb::AdmitMemberResponse { member: Some((&member).into()), consistency_token })
        };
        reply(self.db.write(&call, admit).await?)
    }
}

async fn member(tx: &mut Tx, org_id: OrgId, user_id: UserId) -> Result<Member> {
    store::find(tx, org_id, user_id).await?.ok_or(Error::NotFound("member"))
}

/// Seat, membership and grants in one transaction, under the organization's lock (IN-15).
async fn admit(
    tx: &mut Tx,
    org_id: OrgId,
    guest: &Account,
    admission: &Admission,
) -> Result<(Member, i64)> {
    let organization = organization::store::lock(tx, org_id).await?;
    if let Some(member) = store::find(tx, org_id, guest.user_id).await? {
        // The same acceptance again, after its answer was lost, is no second one.
        let again = member.invitation_id == Some(admission.invitation_id);
        return if again {
            Ok((member, organization.access_version))
        } else {
            Err(Refused::AlreadyMember.into())
        };
    }
    let inviter = store::find(tx, org_id, admission.inviter_id).await?;
    let grants = project_access::promised(tx, org_id, guest, admission).await?;
    let joined = Member::admit(&organization, guest, admission, inviter.as_ref(), &grants, tx.now)?;
    let member = store::insert(tx, joined).await?;
    project_access::store::insert_rows(tx, &grants).await?;
    Ok((member, organization::store::bump(tx, org_id).await?))
}
