//! Steps of the scenario that revoke access, and check that the next call is denied.

use anyhow::{Result, bail, ensure};
use api::{identity as id, project as prj};
use tonic::Code;

use super::scenario::{Person, SampleProject, Scenario, request_id};

const IDENTITY: &str = "tenantry.identity.v1";
const PROJECT: &str = "tenantry.project.v1";

impl Scenario<'_> {
    /// Changes a member's role in the organization and the project; checks that deploying is denied.
    pub(super) async fn demote(
        &self,
        ann: &Person,
        bob: &Person,
        sample: &SampleProject,
    ) -> Result<()> {
        let identity = self.services.identity.with_token(&ann.token);
        let change = id::ChangeMemberRoleRequest {
            org_id: sample.org_id.clone(),
            user_id: bob.user_id.clone(),
            role: id::OrgRole::Viewer.into(),
            request_id: request_id(),
        };
        let method = format!("{IDENTITY}.MemberService/ChangeMemberRole");
        let _: id::ChangeMemberRoleResponse = self.console.call(&identity, &method, change).await?;
        let set = id::SetProjectAccessRequest {
            org_id: sample.org_id.clone(),
            project_id: sample.project_id.clone(),
            principal: Some(id::Principal {
                principal: Some(id::principal::Principal::UserId(bob.user_id.clone())),
            }),
            role: id::ProjectRole::Viewer.into(),
            request_id: request_id(),
        };
        let method = format!("{IDENTITY}.ProjectAccessService/SetProjectAccess");
        let _: id::SetProjectAccessResponse = self.console.call(&identity, &method, set).await?;
        self.expect_deploy_error(bob, sample, Code::PermissionDenied, "MISSING_PERMISSION").await
    }

    /// Removes a member; checks that the organization appears as not found to them.
    pub(super) async fn remove_member(
        &self,
        ann: &Person,
        bob: &Person,
        sample: &SampleProject,
    ) -> Result<()> {
        let identity = self.services.identity.with_token(&ann.token);
        let remove = id::RemoveMemberRequest {
            org_id: sample.org_id.clone(),
            user_id: bob.user_id.clone(),
            request_id: request_id(),
        };
        let method = format!("{IDENTITY}.MemberService/RemoveMember");
        let removed: id::RemoveMemberResponse =
            self.console.call(&identity, &method, remove).await?;
        ensure!(
            removed.removed_grant_count == 1,
            "the project grant was not removed with the membership"
        );
        self.expect_deploy_error(bob, sample, Code::NotFound, "NOT_FOUND").await?;
        let get = id::GetOrganizationRequest { org_id: sample.org_id.clone() };
        let method = format!("{IDENTITY}.OrganizationService/GetOrganization");
        let identity = self.services.identity.with_token(&bob.token);
        let got: Result<id::GetOrganizationResponse, _> =
            self.console.call(&identity, &method, get).await;
        ensure!(got.is_err_and(|it| it.code == Code::NotFound), "Bob can still see Acme");
        Ok(())
    }

    /// Tries to deploy; fails unless the call fails with this code and reason.
    async fn expect_deploy_error(
        &self,
        bob: &Person,
        sample: &SampleProject,
        code: Code,
        reason: &str,
    ) -> Result<()> {
        let project = self.services.project.with_token(&bob.token);
        let method = format!("{PROJECT}.EnvironmentService/DeployEnvironment");
        let result: Result<prj::DeployEnvironmentResponse, _> =
            self.console.call(&project, &method, sample.deploy_request()).await;
        match result {
            Err(error) if error.code == code && error.reason == reason => Ok(()),
            Err(error) => bail!("unexpected error of the deployment: {error}"),
            Ok(_) => bail!("Bob could deploy without permission"),
        }
    }
}
