//! What a deletion takes along in other services.

use api::{
    identity as pb, invitation::invitation_service_client::InvitationServiceClient,
    project::project_service_client::ProjectServiceClient,
};
use chassis::{Db, OrgId, Result, call::Context, error::remote, link::Link};

use super::store;
use crate::api_key;

/// How many blockers a preview names; how many there are it counts.
const BLOCKERS_MAX: usize = 20;

/// Asks the services that have something of an organization.
#[derive(Clone)]
pub(crate) struct Deletion {
    pub(crate) db: Db,
    pub(crate) project: Link,
    pub(crate) invitation: Link,
}

impl Deletion {
    /// What would go, and what stands against it (ID-34).
    pub(crate) async fn preview(
        &self,
        context: &Context,
        org_id: OrgId,
    ) -> Result<pb::DeletionPreview> {
        let it = store::get(&self.db, org_id).await?;
        let there = self.projects(context, org_id).await?;
        let question = api::invitation::DescribeOrganizationRequest { org_id: org_id.into() };
        let mut invitation = InvitationServiceClient::new(self.invitation.clone());
        let invitations = invitation.describe_organization(context.forward(question)).await;
        let invitations = invitations.map_err(remote("invitation"))?.into_inner();
        let small = |count: i64| i32::try_from(count).unwrap_or(i32::MAX);
        let blocker = |name: &String| format!("the environment {name} runs or deploys");
        let blockers = there.running_environments.iter().take(BLOCKERS_MAX).map(blocker);
        Ok(pb::DeletionPreview {
            members: small(it.members),
            teams: small(store::teams(&self.db, org_id).await?),
            projects: there.projects,
            environments: there.environments,
            running_environments: there.running_environment_count,
            pending_invitations: invitations.pending_invitations,
            api_keys: small(api_key::store::count(&self.db, org_id).await?),
            blockers: blockers.collect(),
        })
    }

    /// How many environments an organization has.
    pub(crate) async fn environments(&self, context: &Context, org_id: OrgId) -> Result<i64> {
        Ok(self.projects(context, org_id).await?.environments.into())
    }

    async fn projects(
        &self,
        context: &Context,
        org_id: OrgId,
    ) -> Result<api::project::DescribeOrganizationResponse> {
        let question = api::project::DescribeOrganizationRequest { org_id: org_id.into() };
        let mut project = ProjectServiceClient::new(self.project.clone());
        let answer = project.describe_organization(context.forward(question)).await;
        Ok(answer.map_err(remote("project"))?.into_inner())
    }
}
