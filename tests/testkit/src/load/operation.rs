//! The calls of a load.

use api::{
    audit::{ListEntriesRequest, audit_service_client::AuditServiceClient},
    identity::{
        ChangeMemberRoleRequest, CreateTeamRequest, ListTeamsRequest, OrgRole,
        member_service_client::MemberServiceClient, team_service_client::TeamServiceClient,
    },
    invitation::{
        CreateInvitationRequest, ListInvitationsRequest, RevokeInvitationRequest,
        invitation_service_client::InvitationServiceClient,
    },
    project::{
        CreateProjectRequest, ListProjectsRequest, project_service_client::ProjectServiceClient,
    },
};
use tonic::{Request, Response, Status, transport::Channel};
use uuid::Uuid;

use super::{Endpoints, Tenant};
use crate::Person;

/// A call of the Owner.
pub(super) enum Operation {
    /// Creates a team with this name.
    CreateTeam(String),
    /// Sets the role of a member.
    ChangeRole(String, OrgRole),
    /// Creates a project with this name: a call of project, which calls identity.
    CreateProject(String),
    /// Invites this address.
    CreateInvitation(String),
    /// Revokes an invitation by its id.
    RevokeInvitation(String),
    ListTeams,
    ListProjects,
    ListInvitations,
    ListEntries,
}

/// Circumstances of an attempt of a call.
pub(super) struct Attempt<'a> {
    pub(super) tenant: &'a Tenant,
    pub(super) endpoints: &'a Endpoints,
    /// Number of the attempt; successive ones go to different replicas.
    pub(super) replica: usize,
    pub(super) request_id: Uuid,
}

/// Content of a response.
pub(super) struct Answer {
    /// Ids of the acknowledged events, from the metadata `tenantry-event-ids`.
    pub(super) event_ids: Vec<String>,
    /// The created invitation.
    pub(super) invitation_id: Option<String>,
}

impl Answer {
    fn of<M>(response: &Response<M>) -> Self {
        let ids = response.metadata().get("tenantry-event-ids");
        let ids = ids.map(|it| it.to_str().unwrap().split(',').map(str::to_owned).collect());
        Self { event_ids: ids.unwrap_or_default(), invitation_id: None }
    }
}

impl Operation {
    /// Number of operations that a worker repeats.
    const COUNT: usize = 8;

    /// Returns the operation of a turn of a worker, which changes the role of `member`.
    pub(super) fn of_turn(turn: usize, member: &str) -> Self {
        let name = chassis::id::new();
        let is_even = (turn / Self::COUNT).is_multiple_of(2);
        match turn % Self::COUNT {
            0 => Self::CreateTeam(format!("team {name}")),
            1 => Self::ListTeams,
            2 => Self::CreateProject(format!("project {name}")),
            3 => Self::ListProjects,
            4 => Self::CreateInvitation(format!("{name}@example.com")),
            5 => Self::ListInvitations,
            6 if is_even => Self::ChangeRole(member.to_owned(), OrgRole::Developer),
            6 => Self::ChangeRole(member.to_owned(), OrgRole::Viewer),
            _ => Self::ListEntries,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::CreateTeam(_) => "CreateTeam",
            Self::ChangeRole(..) => "ChangeMemberRole",
            Self::CreateProject(_) => "CreateProject",
            Self::CreateInvitation(_) => "CreateInvitation",
            Self::RevokeInvitation(_) => "RevokeInvitation",
            Self::ListTeams => "ListTeams",
            Self::ListProjects => "ListProjects",
            Self::ListInvitations => "ListInvitations",
            Self::ListEntries => "ListEntries",
        }
    }

    /// Calls the method once.
    pub(super) async fn attempt(&self, attempt: &Attempt<'_>) -> Result<Answer, Status> {
        match self {
            Self::CreateTeam(_) | Self::ListTeams | Self::ChangeRole(..) => {
                self.call_identity(attempt).await
            }
            Self::CreateProject(_) | Self::ListProjects => self.call_project(attempt).await,
            Self::CreateInvitation(_) | Self::RevokeInvitation(_) | Self::ListInvitations => {
                self.call_invitation(attempt).await
            }
            Self::ListEntries => {
                let mut audit = AuditServiceClient::new(attempt.replica_of(|it| &it.audit));
                let org_id = attempt.tenant.org_id.clone();
                let list = ListEntriesRequest { org_id, page_size: 10, ..Default::default() };
                audit
                    .list_entries(as_person(&attempt.tenant.owner, list))
                    .await
                    .map(|it| Answer::of(&it))
            }
        }
    }

    async fn call_identity(&self, attempt: &Attempt<'_>) -> Result<Answer, Status> {
        let Attempt { tenant: Tenant { org_id, owner, .. }, request_id, .. } = attempt;
        let (org_id, request_id) = (org_id.clone(), request_id.to_string());
        let channel = attempt.replica_of(|it| &it.identity);
        let mut teams = TeamServiceClient::new(channel.clone());
        match self {
            Self::CreateTeam(name) => {
                let name = name.clone();
                let create = CreateTeamRequest { org_id, name, request_id, ..Default::default() };
                teams.create_team(as_person(owner, create)).await.map(|it| Answer::of(&it))
            }
            Self::ChangeRole(user_id, role) => {
                let (user_id, role) = (user_id.clone(), (*role).into());
                let change = ChangeMemberRoleRequest { org_id, user_id, role, request_id };
                let mut members = MemberServiceClient::new(channel);
                members.change_member_role(as_person(owner, change)).await.map(|it| Answer::of(&it))
            }
            _ => {
                let list = ListTeamsRequest { org_id, page_size: 10, ..Default::default() };
                teams.list_teams(as_person(owner, list)).await.map(|it| Answer::of(&it))
            }
        }
    }

    async fn call_project(&self, attempt: &Attempt<'_>) -> Result<Answer, Status> {
        let Attempt { tenant: Tenant { org_id, owner, .. }, request_id, .. } = attempt;
        let (org_id, request_id) = (org_id.clone(), request_id.to_string());
        let mut projects = ProjectServiceClient::new(attempt.replica_of(|it| &it.project));
        let Self::CreateProject(name) = self else {
            let list = ListProjectsRequest { org_id, page_size: 10, ..Default::default() };
            return projects.list_projects(as_person(owner, list)).await.map(|it| Answer::of(&it));
        };
        let create = CreateProjectRequest {
            org_id,
            request_id,
            name: name.clone(),
            repository_url: "https://git.example.com/acme/shop.git".to_owned(),
            ..Default::default()
        };
        projects.create_project(as_person(owner, create)).await.map(|it| Answer::of(&it))
    }

    async fn call_invitation(&self, attempt: &Attempt<'_>) -> Result<Answer, Status> {
        let Attempt { tenant: Tenant { org_id, owner, .. }, request_id, .. } = attempt;
        let (org_id, request_id) = (org_id.clone(), request_id.to_string());
        let channel = attempt.replica_of(|it| &it.invitation);
        let mut invitations = InvitationServiceClient::new(channel);
        match self {
            Self::CreateInvitation(email) => {
                let create = CreateInvitationRequest {
                    org_id,
                    request_id,
                    email: email.clone(),
                    role: OrgRole::Viewer.into(),
                    ..Default::default()
                };
                let created = invitations.create_invitation(as_person(owner, create)).await?;
                let invitation_id = created.get_ref().invitation.as_ref().map(|it| it.id.clone());
                Ok(Answer { invitation_id, ..Answer::of(&created) })
            }
            Self::RevokeInvitation(id) => {
                let invitation_id = id.clone();
                let revoke = RevokeInvitationRequest { org_id, invitation_id, request_id };
                invitations
                    .revoke_invitation(as_person(owner, revoke))
                    .await
                    .map(|it| Answer::of(&it))
            }
            _ => {
                let list = ListInvitationsRequest { org_id, page_size: 10, ..Default::default() };
                invitations.list_invitations(as_person(owner, list)).await.map(|it| Answer::of(&it))
            }
        }
    }
}

/// Adds the session token of a person to a request.
pub(crate) fn as_person<M>(person: &Person, message: M) -> Request<M> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {}", person.token).parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

impl Attempt<'_> {
    fn replica_of(&self, service: impl Fn(&Endpoints) -> &Vec<Channel>) -> Channel {
        let replicas = service(self.endpoints);
        replicas[self.replica % replicas.len()].clone()
    }
}
