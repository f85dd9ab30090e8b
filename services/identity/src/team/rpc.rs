//! The gRPC surface of teams.

use api::identity::{self as pb, team_service_server::TeamService};
use chassis::{Access, Call, Db, Error, Grant, Reply, Result, Tx, UserId, page::Pager, reply};
use tonic::Request;

use super::{Draft, Patch, Team, TeamId, store};
use crate::{
    access, member,
    organization::{self, wire::consistency_token},
    project_access,
    snapshot::Principal,
};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
}

#[tonic::async_trait]
impl TeamService for Rpc {
    async fn create_team(
        &self,
        request: Request<pb::CreateTeamRequest>,
    ) -> Reply<pb::CreateTeamResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let draft = Draft::try_from(&call.message)?;
        let create = async |tx: &mut Tx| {
            access::lock(tx, &grant).await?;
            let created = Team::create(&grant, draft, tx.now);
            let version = organization::store::bump(tx, grant.org_id(), &created).await?;
            let team = store::insert(tx, created).await?;
            let consistency_token = consistency_token(grant.org_id(), version);
            Ok(pb::CreateTeamResponse { team: Some((&team).into()), consistency_token })
        };
        reply(self.db.write(&call, create).await?)
    }

    async fn get_team(&self, request: Request<pb::GetTeamRequest>) -> Reply<pb::GetTeamResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let team = store::get(&self.db, grant.org_id(), call.message.team_id.parse()?).await?;
        reply(pb::GetTeamResponse { team: Some((&team).into()) })
    }

    async fn list_teams(
        &self,
        request: Request<pb::ListTeamsRequest>,
    ) -> Reply<pb::ListTeamsResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.org(&call, &it.org_id).await?;
        let page =
            self.pager.page(&call, it.page_size, &it.page_token, &[&it.org_id, &it.query])?;
        let rows = store::list(&self.db, grant.org_id(), &it.query, &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.id.to_string());
        reply(pb::ListTeamsResponse {
            teams: rows.iter().map(Into::into).collect(),
            next_page_token,
        })
    }

    async fn update_team(
        &self,
        request: Request<pb::UpdateTeamRequest>,
    ) -> Reply<pb::UpdateTeamResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let (id, patch) = (call.message.team_id.parse()?, Patch::try_from(&call.message)?);
        let update = async |tx: &mut Tx| {
            access::lock(tx, &grant).await?;
            let team = store::find(tx, grant.org_id(), id).await?;
            let team = match team.update(patch, &call.message.etag)? {
                Some(changed) => store::update(tx, changed).await?,
                None => team,
            };
            Ok(pb::UpdateTeamResponse { team: Some((&team).into()) })
        };
        reply(self.db.write(&call, update).await?)
    }

    async fn delete_team(
        &self,
        request: Request<pb::DeleteTeamRequest>,
    ) -> Reply<pb::DeleteTeamResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let id = call.message.team_id.parse()?;
        let delete = async |tx: &mut Tx| self.delete(tx, &grant, id).await;
        reply(self.db.write(&call, delete).await?)
    }

    async fn add_team_member(
        &self,
        request: Request<pb::AddTeamMemberRequest>,
    ) -> Reply<pb::AddTeamMemberResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let (id, user_id) = (call.message.team_id.parse()?, call.message.user_id.parse()?);
        let add = async |tx: &mut Tx| {
            let (team, consistency_token) = place(tx, &grant, id, user_id, true).await?;
            Ok(pb::AddTeamMemberResponse { team: Some((&team).into()), consistency_token })
        };
        reply(self.db.write(&call, add).await?)
    }

    async fn remove_team_member(
        &self,
        request: Request<pb::RemoveTeamMemberRequest>,
    ) -> Reply<pb::RemoveTeamMemberResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let (id, user_id) = (call.message.team_id.parse()?, call.message.user_id.parse()?);
        let remove = async |tx: &mut Tx| {
            let (team, consistency_token) = place(tx, &grant, id, user_id, false).await?;
            Ok(pb::RemoveTeamMemberResponse { team: Some((&team).into()), consistency_token })
        };
        reply(self.db.write(&call, remove).await?)
    }

    async fn list_team_members(
        &self,
        request: Request<pb::ListTeamMembersRequest>,
    ) -> Reply<pb::ListTeamMembersResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.org(&call, &it.org_id).await?;
        let page =
            self.pager.page(&call, it.page_size, &it.page_token, &[&it.org_id, &it.team_id])?;
        let team = store::get(&self.db, grant.org_id(), it.team_id.parse()?).await?;
        let rows = store::members(&self.db, grant.org_id(), team.id, &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.0.to_string());
        let members = rows.iter().map(|it| (&it.1).into()).collect();
        reply(pb::ListTeamMembersResponse { members, next_page_token })
    }
}

impl Rpc {
    async fn delete(
        &self,
        tx: &mut Tx,
        grant: &Grant,
        id: TeamId,
    ) -> Result<pb::DeleteTeamResponse> {
        let org_id = grant.org_id();
        access::lock(tx, grant).await?;
        let team = store::find(tx, org_id, id).await?;
        let members = store::members_of(tx, org_id, id).await?;
        let grants = project_access::store::all_of(tx, org_id, Principal::Team(id)).await?;
        let deleted = team.delete(&members, &grants);
        let version = organization::store::bump(tx, org_id, &deleted).await?;
        project_access::store::delete_all_of(tx, org_id, Principal::Team(id)).await?;
        store::remove_all(tx, org_id, id).await?;
        store::delete(tx, deleted).await?;
        Ok(pb::DeleteTeamResponse {
            removed_member_count: member::count(&members),
            removed_grant_count: member::count(&grants),
            consistency_token: consistency_token(org_id, version),
        })
    }
}

/// Puts a member into a team, or takes them out. Who is where they shall be stays there (ID-26).
async fn place(
    tx: &mut Tx,
    grant: &Grant,
    id: TeamId,
    user_id: UserId,
    inside: bool,
) -> Result<(Team, String)> {
    let org_id = grant.org_id();
    let organization = access::lock(tx, grant).await?;
    let team = store::find(tx, org_id, id).await?;
    let member = member::store::find(tx, org_id, user_id).await?;
    member.ok_or(Error::NotFound("member"))?;
    if store::has(tx, org_id, id, user_id).await? == inside {
        return Ok((team, consistency_token(org_id, organization.access_version)));
    }
    let changed = if inside { team.add(user_id) } else { team.remove(user_id) };
    let version = organization::store::bump(tx, org_id, &changed).await?;
    if inside {
        store::add(tx, org_id, id, user_id).await?;
    } else {
        store::remove(tx, org_id, id, user_id).await?;
    }
    Ok((tx.emit(changed), consistency_token(org_id, version)))
}
