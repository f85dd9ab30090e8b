//! The gRPC surface of members.

use std::collections::BTreeSet;

use api::identity::{self as pb, member_service_server::MemberService};
use chassis::{
    Access, Account, Call, Changed, Db, Error, OrgId, ProjectId, Reply, Result, Tx, UserId, email,
    page::Pager, reply,
};
use tonic::Request;

use super::{Admission, Belongings, Member, Refused, count, store};
use crate::{
    access, api_key,
    organization::{self, wire::consistency_token},
    policy::OrgRole,
    project_access,
    snapshot::Principal,
    team::{self, TeamId},
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
        let role = match message.role() {
            pb::OrgRole::Unspecified => None,
            role => Some(OrgRole::try_from(role)?),
        };
        let filter = [&message.org_id, &message.query, message.role().as_str_name()];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter)?;
        let rows = store::list(&self.db, grant.org_id(), &message.query, role, &page).await?;
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
            let organization = access::lock(tx, &grant).await?;
            let changer = member(tx, organization.id, grant.account().user_id).await?;
            let member = member(tx, organization.id, user_id).await?;
            let (member, version) = match member.change_role(&changer, role)? {
                None => (member, organization.access_version),
                Some(changed) => {
                    let version = organization::store::bump(tx, organization.id, &changed).await?;
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
            let organization = access::lock(tx, &grant).await?;
            let member = member(tx, organization.id, user_id).await?;
            let lost = belongings(tx, &member).await?;
            let version = go(tx, member.remove(&grant, &lost)?).await?;
            Ok(pb::RemoveMemberResponse {
                removed_grant_count: count(&lost.grants),
                removed_team_count: count(&lost.team_ids),
                revoked_key_count: count(&lost.key_ids),
                consistency_token: consistency_token(organization.id, version),
            })
        };
        reply(self.db.write(&call, remove).await?)
    }

    async fn leave_organization(
        &self,
        request: Request<pb::LeaveOrganizationRequest>,
    ) -> Reply<pb::LeaveOrganizationResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let leave = async |tx: &mut Tx| {
            let organization = access::lock(tx, &grant).await?;
            let member = member(tx, organization.id, grant.account().user_id).await?;
            let lost = belongings(tx, &member).await?;
            let version = go(tx, member.leave(&lost)?).await?;
            let consistency_token = consistency_token(organization.id, version);
            Ok(pb::LeaveOrganizationResponse { consistency_token })
        };
        reply(self.db.write(&call, leave).await?)
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
        let member_emails = members_among(&self.db, org_id, &it.emails).await?;
        if !it.project_access.is_empty() {
            let existing = project_access::store::all(&self.db, org_id).await?;
            for access in &it.project_access {
                if !existing.contains(&access.project_id.parse()?) {
                    return Err(Error::NotFound(ProjectId::NOUN).into());
                }
            }
        }
        let ids: Result<Vec<TeamId>> = it.team_ids.iter().map(|it| it.parse()).collect();
        let ids: BTreeSet<_> = ids?.into_iter().map(|it| it.0).collect();
        let ids: Vec<_> = ids.into_iter().collect();
        if !ids.is_empty() {
            let known = team::store::count(&self.db, org_id, &ids).await?;
            if usize::try_from(known).ok() != Some(ids.len()) {
                return Err(Error::NotFound(TeamId::NOUN).into());
            }
        }
        reply(pb::PrepareInvitationResponse { org_name: organization.name, member_emails })
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

/// Those of some addresses that are a member's.
async fn members_among(db: &Db, org_id: OrgId, emails: &[String]) -> Result<Vec<String>> {
    let canonical = |it: &String| email::parse(it).map(|it| it.canonical);
    let addresses: Vec<_> = emails.iter().filter_map(canonical).collect();
    let members = store::addresses(db, org_id, &addresses).await?;
    let is_member = |it: &&String| canonical(it).is_some_and(|it| members.contains(&it));
    Ok(emails.iter().filter(is_member).cloned().collect())
}

async fn member(tx: &mut Tx, org_id: OrgId, user_id: UserId) -> Result<Member> {
    store::find(tx, org_id, user_id).await?.ok_or(Error::NotFound("member"))
}

/// What a member has in the organization.
pub(crate) async fn belongings(tx: &mut Tx, it: &Member) -> Result<Belongings> {
    let principal = Principal::User(it.user_id);
    Ok(Belongings {
        grants: project_access::store::all_of(tx, it.org_id, principal).await?,
        team_ids: team::store::of_member(tx, it.org_id, it.user_id).await?,
        key_ids: api_key::store::of_owner(tx, it.org_id, it.user_id).await?,
    })
}

/// Ends a membership and all that went with it, in one transaction (ID-19). Answers the version of access.
pub(crate) async fn go(tx: &mut Tx, gone: Changed<Member>) -> Result<i64> {
    let (org_id, user_id) = (gone.state().org_id, gone.state().user_id);
    let version = organization::store::bump(tx, org_id, &gone).await?;
    project_access::store::delete_all_of(tx, org_id, Principal::User(user_id)).await?;
    team::store::remove_everywhere(tx, org_id, user_id).await?;
    api_key::store::revoke_all_of(tx, org_id, user_id).await?;
    store::delete(tx, gone).await?;
    Ok(version)
}

/// Seat, membership, teams and grants in one transaction, under the organization's lock (IN-15).
async fn admit(
    tx: &mut Tx,
    org_id: OrgId,
    guest: &Account,
    admission: &Admission,
) -> Result<(Member, i64)> {
    let organization = organization::store::lock(tx, org_id).await?;
    organization.living()?;
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
    let teams = team::store::existing(tx, org_id).await?;
    let mut team_ids = admission.team_ids.clone();
    team_ids.sort_unstable();
    team_ids.dedup();
    team_ids.retain(|it| teams.contains(it));
    let grants = project_access::promised(tx, org_id, guest, admission).await?;
    let with = Belongings { grants, team_ids, key_ids: vec![] };
    let joined = Member::admit(&organization, guest, admission, inviter.as_ref(), &with, tx.now)?;
    let version = organization::store::bump(tx, org_id, &joined).await?;
    let member = store::insert(tx, joined).await?;
    for team_id in with.team_ids {
        team::store::add(tx, org_id, team_id, guest.user_id).await?;
    }
    project_access::store::insert_rows(tx, &with.grants).await?;
    Ok((member, version))
}
