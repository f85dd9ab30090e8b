//! The gRPC surface of collaborators.

use api::{
    identity::{
        self as id, access_service_client::AccessServiceClient,
        member_service_client::MemberServiceClient,
        project_access_service_client::ProjectAccessServiceClient,
    },
    invitation::{self as inv, invitation_service_client::InvitationServiceClient},
    project::{self as pb, collaborator_service_server::CollaboratorService},
};
use chassis::{
    Access, Call, Error, Reply, Result, call::Context, error::remote, link::Link, reply,
};
use tonic::Request;

use super::{org_role, with_address};

pub(crate) struct Rpc {
    pub(crate) access: Access,
    pub(crate) identity: Link,
    pub(crate) invitation: Link,
}

#[tonic::async_trait]
impl CollaboratorService for Rpc {
    async fn list_collaborators(
        &self,
        request: Request<pb::ListCollaboratorsRequest>,
    ) -> Reply<pb::ListCollaboratorsResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        self.access.project(&call, &it.org_id, &it.project_id).await?;
        let (org_id, project_id) = (it.org_id.clone(), it.project_id.clone());
        let (page_size, page_token) = (it.page_size, it.page_token.clone());
        let holders = id::ListProjectHoldersRequest { org_id, project_id, page_size, page_token };
        let mut identity = AccessServiceClient::new(self.identity.clone());
        let holders = identity.list_project_holders(call.forward(holders)).await;
        let holders = holders.map_err(remote("identity"))?.into_inner();
        let next_page_token = holders.next_page_token;
        let people = holders.holders.into_iter().zip(holders.emails);
        let people = people.map(|(it, email)| pb::Collaborator { holder: Some(it), email });
        let collaborators = people.collect();
        let first = it.page_token.is_empty();
        let grants = if first { self.grants(&call, it).await? } else { vec![] };
        reply(pb::ListCollaboratorsResponse { collaborators, grants, next_page_token })
    }

    async fn add_collaborator(
        &self,
        request: Request<pb::AddCollaboratorRequest>,
    ) -> Reply<pb::AddCollaboratorResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        self.access.project(&call, &it.org_id, &it.project_id).await?;
        if it.email.is_empty() == it.team_id.is_empty() {
            return Err(Error::invalid("email", "name an address, or a team, and not both").into());
        }
        let principal = if it.team_id.is_empty() {
            let Some(member) = self.member(&call, &it.org_id, &it.email).await? else {
                let invitation = Some(self.invite(&call).await?);
                return reply(pb::AddCollaboratorResponse { invitation, grant: None });
            };
            id::principal::Principal::UserId(member)
        } else {
            id::principal::Principal::TeamId(it.team_id.clone())
        };
        let set = id::SetProjectAccessRequest {
            org_id: it.org_id.clone(),
            project_id: it.project_id.clone(),
            principal: Some(id::Principal { principal: Some(principal) }),
            role: it.role,
            request_id: it.request_id.clone(),
        };
        let grant = self.set(&call, set).await?;
        reply(pb::AddCollaboratorResponse { grant, invitation: None })
    }

    async fn update_collaborator(
        &self,
        request: Request<pb::UpdateCollaboratorRequest>,
    ) -> Reply<pb::UpdateCollaboratorResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        self.access.project(&call, &it.org_id, &it.project_id).await?;
        let set = id::SetProjectAccessRequest {
            org_id: it.org_id.clone(),
            project_id: it.project_id.clone(),
            principal: it.principal.clone(),
            role: it.role,
            request_id: it.request_id.clone(),
        };
        let grant = self.set(&call, set).await?;
        reply(pb::UpdateCollaboratorResponse { grant })
    }

    async fn remove_collaborator(
        &self,
        request: Request<pb::RemoveCollaboratorRequest>,
    ) -> Reply<pb::RemoveCollaboratorResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        self.access.project(&call, &it.org_id, &it.project_id).await?;
        let remove = id::RemoveProjectAccessRequest {
            org_id: it.org_id.clone(),
            project_id: it.project_id.clone(),
            principal: it.principal.clone(),
            request_id: it.request_id.clone(),
        };
        let mut identity = ProjectAccessServiceClient::new(self.identity.clone());
        let removed = identity.remove_project_access(call.forward(remove)).await;
        removed.map_err(remote("identity"))?;
        reply(pb::RemoveCollaboratorResponse {})
    }
}

impl Rpc {
    async fn set(
        &self,
        context: &Context,
        set: id::SetProjectAccessRequest,
    ) -> Result<Option<id::ProjectGrant>> {
        let mut identity = ProjectAccessServiceClient::new(self.identity.clone());
        let set = identity.set_project_access(context.forward(set)).await;
        Ok(set.map_err(remote("identity"))?.into_inner().grant)
    }

    /// The account of the member with an address.
    async fn member(&self, context: &Context, org_id: &str, email: &str) -> Result<Option<String>> {
        let list = id::ListMembersRequest {
            org_id: org_id.to_owned(),
            page_size: 100,
            query: email.trim().chars().take(100).collect(),
            ..Default::default()
        };
        let mut identity = MemberServiceClient::new(self.identity.clone());
        let members = identity.list_members(context.forward(list)).await;
        let members = members.map_err(remote("identity"))?.into_inner().members;
        Ok(with_address(&members, email).map(|it| it.user_id.clone()))
    }

    /// Whoever is no member is invited, with the role on this project.
    async fn invite(&self, call: &Call<pb::AddCollaboratorRequest>) -> Result<inv::Invitation> {
        let it = &call.message;
        let access = id::ProjectAccess { project_id: it.project_id.clone(), role: it.role };
        let create = inv::CreateInvitationRequest {
            org_id: it.org_id.clone(),
            email: it.email.clone(),
            role: org_role(it.role()).into(),
            message: it.message.clone(),
            project_access: vec![access],
            request_id: it.request_id.clone(),
            ..Default::default()
        };
        let mut invitation = InvitationServiceClient::new(self.invitation.clone());
        let created = invitation.create_invitation(call.forward(create)).await;
        let created = created.map_err(remote("invitation"))?.into_inner().invitation;
        created.ok_or_else(|| anyhow::anyhow!("an invitation without itself").into())
    }

    /// The oldest grants.
    async fn grants(
        &self,
        context: &Context,
        it: &pb::ListCollaboratorsRequest,
    ) -> Result<Vec<id::ProjectGrant>> {
        let list = id::ListProjectAccessRequest {
            org_id: it.org_id.clone(),
            project_id: it.project_id.clone(),
            page_size: 100,
            page_token: String::new(),
        };
        let mut identity = ProjectAccessServiceClient::new(self.identity.clone());
        let page = identity.list_project_access(context.forward(list)).await;
        Ok(page.map_err(remote("identity"))?.into_inner().grants)
    }
}
