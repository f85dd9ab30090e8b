//! Queries of the identity service for the accounts that may receive a notification now (NO-10).

use std::time::Duration;

use api::identity::{
    ListAudienceRequest, ListAudienceResponse, access_service_client::AccessServiceClient,
};
use chassis::{OrgId, ProjectId, Result, channel::ServiceChannel, error::remote};
use uuid::Uuid;

/// Time limit of a query.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Permission that every member has.
const MEMBER_PERMISSION: &str = "org.view";

/// Accounts to look up in an organization.
pub(super) struct AudienceQuery<'a> {
    /// `None` for an event of an account, which belongs to no organization.
    pub(super) org_id: Option<OrgId>,
    pub(super) project_id: Option<ProjectId>,
    /// Permission that a member must have to be listed; empty for all members.
    pub(super) permission: &'a str,
    /// E-mail addresses whose accounts are listed.
    pub(super) emails: Vec<String>,
    /// Accounts that are listed even if they lack the permission.
    pub(super) user_ids: Vec<String>,
}

/// Lists the members with a permission, and the accounts of addresses and ids.
pub(super) async fn list(
    identity: &ServiceChannel,
    query: AudienceQuery<'_>,
) -> Result<ListAudienceResponse> {
    let permission = if query.permission.is_empty() { MEMBER_PERMISSION } else { query.permission };
    // The request names a project only for a permission on projects.
    let project_id = query.project_id.filter(|_| permission.starts_with("project."));
    let mut request = tonic::Request::new(ListAudienceRequest {
        // No organization has the nil id, so no members are listed for an event of an account.
        org_id: query.org_id.unwrap_or(OrgId(Uuid::nil())).into(),
        project_id: project_id.map(String::from).unwrap_or_default(),
        permission: permission.to_owned(),
        emails: query.emails,
        user_ids: query.user_ids,
    });
    request.set_timeout(TIMEOUT);
    let mut identity = AccessServiceClient::new(identity.clone());
    let response = identity.list_audience(request).await;
    Ok(response.map_err(remote("identity"))?.into_inner())
}
