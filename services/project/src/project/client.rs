//! Calls to identity about projects.

use api::identity::{
    ListVisibleProjectsRequest, RegisterProjectRequest, access_service_client::AccessServiceClient,
    project_access_service_client::ProjectAccessServiceClient,
};
use chassis::{OrgId, Result, call::Context, channel::ServiceChannel, error::remote};
use project_rules::types::ProjectRef;
use uuid::Uuid;

/// Registers a project, which counts it towards the plan and makes its creator an admin. Idempotent by the
/// project id. Returns identity's consistency token.
pub(super) async fn register_project(
    identity: &ServiceChannel,
    context: &Context,
    project: ProjectRef,
) -> Result<String> {
    let request = RegisterProjectRequest {
        org_id: project.org_id.into(),
        project_id: project.project_id.into(),
    };
    let mut identity = ProjectAccessServiceClient::new(identity.clone());
    let registered = identity.register_project(context.forward(request)).await;
    Ok(registered.map_err(remote("identity"))?.into_inner().consistency_token)
}

/// Projects of an organization that a caller may see.
pub(super) enum VisibleProjects {
    All,
    Only(Vec<Uuid>),
}

/// Returns the projects that the caller may see, from the one after `after` on; `limit` 0 means no limit.
pub(super) async fn list_visible_projects(
    identity: &ServiceChannel,
    context: &Context,
    org_id: OrgId,
    after: Option<Uuid>,
    limit: i64,
) -> Result<VisibleProjects> {
    let request = ListVisibleProjectsRequest {
        org_id: org_id.into(),
        after_project_id: after.map(|it| it.to_string()).unwrap_or_default(),
        limit: i32::try_from(limit).unwrap_or(0),
    };
    let mut identity = AccessServiceClient::new(identity.clone());
    let visible = identity.list_visible_projects(context.forward(request)).await;
    let visible = visible.map_err(remote("identity"))?.into_inner();
    if visible.all {
        return Ok(VisibleProjects::All);
    }
    let ids = visible.projects.iter().filter_map(|it| Uuid::try_parse(&it.project_id).ok());
    Ok(VisibleProjects::Only(ids.collect()))
}
