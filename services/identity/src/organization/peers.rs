//! Calls to the services that keep data of organizations.

mod wire;

use std::time::Duration;

use api::{
    invitation::invitation_service_client::InvitationServiceClient,
    project::project_service_client::ProjectServiceClient,
};
use chassis::{OrgId, Result, call::Context, channel::ServiceChannel, error::remote};

/// Longest wait for the open links of an organization.
const OPEN_INVITATIONS_TIMEOUT: Duration = Duration::from_secs(1);

/// The channels to the project and invitation services.
#[derive(Clone)]
pub(crate) struct Peers {
    pub(crate) project: ServiceChannel,
    pub(crate) invitation: ServiceChannel,
}

/// The data of an organization in the project service.
pub(crate) struct ProjectSummary {
    pub(crate) projects: i32,
    pub(crate) environments: i32,
    /// Number of connected servers.
    pub(crate) servers: i32,
    /// Number of environments that are running or deploying.
    pub(super) running_environments: i32,
    /// Names of some of them.
    pub(super) running_environment_names: Vec<String>,
}

impl Peers {
    /// Returns the data of an organization in the project service.
    pub(crate) async fn project_summary(
        &self,
        context: &Context,
        org_id: OrgId,
    ) -> Result<ProjectSummary> {
        let request = context.forward(wire::describe_projects(org_id));
        let mut client = ProjectServiceClient::new(self.project.clone());
        let response = client.describe_organization(request).await.map_err(remote("project"))?;
        let summary = response.into_inner();
        Ok(ProjectSummary {
            projects: summary.projects,
            environments: summary.environments,
            servers: summary.servers,
            running_environments: summary.running_environment_count,
            running_environment_names: summary.running_environments,
        })
    }

    /// Returns the ids of the open links of an organization; `None` if the invitation service does not
    /// respond, because the removal of a member does not depend on them.
    pub(crate) async fn open_invitations(
        &self,
        context: &Context,
        org_id: OrgId,
    ) -> Option<Vec<String>> {
        let mut request = context.forward(wire::describe_invitations(org_id));
        request.set_timeout(OPEN_INVITATIONS_TIMEOUT);
        let mut client = InvitationServiceClient::new(self.invitation.clone());
        match client.describe_organization(request).await {
            Ok(response) => Some(response.into_inner().open_invitation_ids),
            Err(error) => {
                tracing::warn!(%error, "the open links of an organization cannot be listed");
                None
            }
        }
    }

    /// Returns the number of pending invitations to an organization.
    pub(super) async fn pending_invitations(
        &self,
        context: &Context,
        org_id: OrgId,
    ) -> Result<i32> {
        let request = context.forward(wire::describe_invitations(org_id));
        let mut client = InvitationServiceClient::new(self.invitation.clone());
        let response = client.describe_organization(request).await;
        Ok(response.map_err(remote("invitation"))?.into_inner().pending_invitations)
    }
}
