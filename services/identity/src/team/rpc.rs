//! gRPC methods of teams.

use api::identity::{self as pb, team_service_server::TeamService};
use chassis::{Access, Call, Db, Reply, Tx, page::Pager, reply};
use identity_rules::team::{Draft, Patch};
use tonic::Request;

use super::{commands, store};

/// The service and what its methods need.
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
        let authorization = self.access.org(&call, &call.message.org_id).await?;
        let draft = Draft::try_from(&call.message)?;
        let create =
            async |tx: &mut Tx| Ok(commands::create(tx, &authorization, draft).await?.into());
        reply(self.db.write(&call, create).await?)
    }

    async fn get_team(&self, request: Request<pb::GetTeamRequest>) -> Reply<pb::GetTeamResponse> {
        let call = Call::of(request)?;
        let authorization = self.access.org(&call, &call.message.org_id).await?;
        let team_id = call.message.team_id.parse()?;
        let team = store::get(&self.db, authorization.org_id(), team_id).await?;
        reply(pb::GetTeamResponse { team: Some((&team).into()) })
    }

    async fn list_teams(
        &self,
        request: Request<pb::ListTeamsRequest>,
    ) -> Reply<pb::ListTeamsResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let authorization = self.access.org(&call, &message.org_id).await?;
        let filter: [&str; 2] = [&message.org_id, &message.query];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter)?;
        let rows = store::list(&self.db, authorization.org_id(), &message.query, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.to_string());
        let teams = rows.iter().map(Into::into).collect();
        reply(pb::ListTeamsResponse { teams, next_page_token })
    }

    async fn update_team(
        &self,
        request: Request<pb::UpdateTeamRequest>,
    ) -> Reply<pb::UpdateTeamResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let authorization = self.access.org(&call, &message.org_id).await?;
        let team_id = message.team_id.parse()?;
        let patch = Patch::try_from(message)?;
        let update = async |tx: &mut Tx| {
            let team = commands::update(tx, &authorization, team_id, patch, &message.etag).await?;
            Ok(pb::UpdateTeamResponse { team: Some((&team).into()) })
        };
        reply(self.db.write(&call, update).await?)
    }

    async fn delete_team(
        &self,
        request: Request<pb::DeleteTeamRequest>,
    ) -> Reply<pb::DeleteTeamResponse> {
        let call = Call::of(request)?;
        let authorization = self.access.org(&call, &call.message.org_id).await?;
        let team_id = call.message.team_id.parse()?;
        let delete =
            async |tx: &mut Tx| Ok(commands::delete(tx, &authorization, team_id).await?.into());
        reply(self.db.write(&call, delete).await?)
    }

    async fn add_team_member(
        &self,
        request: Request<pb::AddTeamMemberRequest>,
    ) -> Reply<pb::AddTeamMemberResponse> {
        let call = Call::of(request)?;
        let authorization = self.access.org(&call, &call.message.org_id).await?;
        let team_id = call.message.team_id.parse()?;
        let user_id = call.message.user_id.parse()?;
        let add = async |tx: &mut Tx| {
            Ok(commands::add_member(tx, &authorization, team_id, user_id).await?.into())
        };
        reply(self.db.write(&call, add).await?)
    }

    async fn remove_team_member(
        &self,
        request: Request<pb::RemoveTeamMemberRequest>,
    ) -> Reply<pb::RemoveTeamMemberResponse> {
        let call = Call::of(request)?;
        let authorization = self.access.org(&call, &call.message.org_id).await?;
        let team_id = call.message.team_id.parse()?;
        let user_id = call.message.user_id.parse()?;
        let remove = async |tx: &mut Tx| {
            Ok(commands::remove_member(tx, &authorization, team_id, user_id).await?.into())
        };
        reply(self.db.write(&call, remove).await?)
    }

    async fn list_team_members(
        &self,
        request: Request<pb::ListTeamMembersRequest>,
    ) -> Reply<pb::ListTeamMembersResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let org_id = self.access.org(&call, &message.org_id).await?.org_id();
        let filter: [&str; 2] = [&message.org_id, &message.team_id];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter)?;
        let team = store::get(&self.db, org_id, message.team_id.parse()?).await?;
        let rows = store::list_members(&self.db, org_id, team.id, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.to_string());
        let members = rows.iter().map(|it| (&it.member).into()).collect();
        reply(pb::ListTeamMembersResponse { members, next_page_token })
    }
}
