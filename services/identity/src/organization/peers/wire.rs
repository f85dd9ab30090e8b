//! Requests to the services that keep data of organizations.

use api::{invitation, project};
use chassis::OrgId;

/// Returns the request for the data of an organization in the project service.
pub(super) fn describe_projects(org_id: OrgId) -> project::DescribeOrganizationRequest {
    project::DescribeOrganizationRequest { org_id: org_id.into() }
}

/// Returns the request for the data of an organization in the invitation service.
pub(super) fn describe_invitations(org_id: OrgId) -> invitation::DescribeOrganizationRequest {
    invitation::DescribeOrganizationRequest { org_id: org_id.into() }
}
