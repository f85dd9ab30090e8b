//! gRPC service of collaborators.

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
    Access, Call, Error, Reply, Result, call::Context, channel::ServiceChannel, error::remote,
    reply,
};
use project_rules::collaborator::{find_by_email, org_role_for};
use tonic::Request;

/// Implementation of `CollaboratorService`.
pub(crate) struct Rpc {
    pub(crate) access: Access,
    pub(crate) identity: ServiceChannel,
    pub(crate) invitation: ServiceChannel,
}

#[tonic::async_trait]
impl CollaboratorService for Rpc {
    async fn list_collaborators(
        &self,
        request: Request<pb::ListCollaboratorsRequest>,
    ) -> Reply<pb::ListCollaboratorsResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        self.access.project(&call, &message.org_id, &message.project_id).await?;
        let list = id::ListProjectHoldersRequest {
            org_id: message.org_id.clone(),
            project_id: message.project_id.clone(),
            page_size: message.page_size,
            page_token: message.page_token.clone(),
        };
        let mut identity = AccessServiceClient::new(self.identity.clone());
        let page = identity.list_project_holders(call.forward(list)).await;
        let page = page.map_err(remote("identity"))?.into_inner();
        let holders = page.holders.into_iter().zip(page.emails);
        let collaborators =
            holders.map(|(holder, email)| pb::Collaborator { holder: Some(holder), email });
        let is_first_page = message.page_token.is_empty();
        let grants = if is_first_page { self.list_grants(&call, message).await? } else { vec![] };
        reply(pb::ListCollaboratorsResponse {
            collaborators: collaborators.collect(),
            grants,
            next_page_token: page.next_page_token,
        })
    }

    async fn add_collaborator(
        &self,
        request: Request<pb::AddCollaboratorRequest>,
    ) -> Reply<pb::AddCollaboratorResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        self.access.project(&call, &message.org_id, &message.project_id).await?;
        if message.email.is_empty() == message.team_id.is_empty() {
            return Err(Error::invalid("email", "set either email or team_id, not both").into());
        }
        let principal = if message.team_id.is_empty() {
            let user_id = self.find_member(&call, &message.org_id, &message.email).await?;
            let Some(user_id) = user_id else {
                let created = self.invite(&call).await?;
                return reply(pb::AddCollaboratorResponse {
                    invitation: created.invitation,
                    grant: None,
                    warnings: created.warnings,
                });
            };
            id::principal::Principal::UserId(user_id)
        } else {
            id::principal::Principal::TeamId(message.team_id.clone())
        };
        let set = id::SetProjectAccessRequest {
            org_id: message.org_id.clone(),
            project_id: message.project_id.clone(),
            principal: Some(id::Principal { principal: Some(principal) }),
            role: message.role,
            request_id: message.request_id.clone(),
        };
        let set = self.set_access(&call, set).await?;
        let warnings = warnings(&set);
        reply(pb::AddCollaboratorResponse { grant: set.grant, invitation: None, warnings })
    }

    async fn update_collaborator(
        &self,
        request: Request<pb::UpdateCollaboratorRequest>,
    ) -> Reply<pb::UpdateCollaboratorResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        self.access.project(&call, &message.org_id, &message.project_id).await?;
        let set = id::SetProjectAccessRequest {
            org_id: message.org_id.clone(),
            project_id: message.project_id.clone(),
            principal: message.principal.clone(),
            role: message.role,
            request_id: message.request_id.clone(),
        };
        let set = self.set_access(&call, set).await?;
        let warnings = warnings(&set);
        reply(pb::UpdateCollaboratorResponse { grant: set.grant, warnings })
    }

    async fn remove_collaborator(
        &self,
        request: Request<pb::RemoveCollaboratorRequest>,
    ) -> Reply<pb::RemoveCollaboratorResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        self.access.project(&call, &message.org_id, &message.project_id).await?;
        let remove = id::RemoveProjectAccessRequest {
            org_id: message.org_id.clone(),
            project_id: message.project_id.clone(),
            principal: message.principal.clone(),
            request_id: message.request_id.clone(),
        };
        let mut identity = ProjectAccessServiceClient::new(self.identity.clone());
        let removed = identity.remove_project_access(call.forward(remove)).await;
        removed.map_err(remote("identity"))?;
        reply(pb::RemoveCollaboratorResponse {})
    }
}

/// The warnings of a changed grant.
fn warnings(set: &id::SetProjectAccessResponse) -> Vec<i32> {
    let is_warning = |it: &i32| *it != i32::from(id::AccessWarning::Unspecified);
    Some(set.warning).filter(is_warning).into_iter().collect()
}

impl Rpc {
    /// Grants a role on a project, or changes it.
    async fn set_access(
        &self,
        context: &Context,
        set: id::SetProjectAccessRequest,
    ) -> Result<id::SetProjectAccessResponse> {
        let mut identity = ProjectAccessServiceClient::new(self.identity.clone());
        let set = identity.set_project_access(context.forward(set)).await;
        Ok(set.map_err(remote("identity"))?.into_inner())
    }

    /// Returns the user id of the member with an e-mail address.
    async fn find_member(
        &self,
        context: &Context,
        org_id: &str,
        email: &str,
    ) -> Result<Option<String>> {
        let list = id::ListMembersRequest {
            org_id: org_id.to_owned(),
            page_size: 100,
            query: email.trim().chars().take(100).collect(),
            ..Default::default()
        };
        let mut identity = MemberServiceClient::new(self.identity.clone());
        let members = identity.list_members(context.forward(list)).await;
        let members = members.map_err(remote("identity"))?.into_inner().members;
        Ok(find_by_email(&members, email).map(|it| it.user_id.clone()))
    }

    /// Invites a person who is not a member to the organization, with a role on the project.
    async fn invite(
        &self,
        call: &Call<pb::AddCollaboratorRequest>,
    ) -> Result<inv::CreateInvitationResponse> {
        let message = &call.message;
        let access =
            id::ProjectAccess { project_id: message.project_id.clone(), role: message.role };
        let create = inv::CreateInvitationRequest {
            org_id: message.org_id.clone(),
            email: message.email.clone(),
            role: org_role_for(message.role()).into(),
            message: message.message.clone(),
            project_access: vec![access],
            request_id: message.request_id.clone(),
            ..Default::default()
        };
        let mut invitation = InvitationServiceClient::new(self.invitation.clone());
        let created = invitation.create_invitation(call.forward(create)).await;
        Ok(created.map_err(remote("invitation"))?.into_inner())
    }

    /// Returns the oldest grants on the project.
    async fn list_grants(
        &self,
        context: &Context,
        message: &pb::ListCollaboratorsRequest,
    ) -> Result<Vec<id::ProjectGrant>> {
        let list = id::ListProjectAccessRequest {
            org_id: message.org_id.clone(),
            project_id: message.project_id.clone(),
            page_size: 100,
            page_token: String::new(),
        };
        let mut identity = ProjectAccessServiceClient::new(self.identity.clone());
        let page = identity.list_project_access(context.forward(list)).await;
        Ok(page.map_err(remote("identity"))?.into_inner().grants)
    }
}
