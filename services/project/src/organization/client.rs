//! Calls to identity about organizations.

use api::identity::{GetLimitsRequest, organization_service_client::OrganizationServiceClient};
use chassis::{OrgId, Result, call::Context, channel::ServiceChannel, error::remote};

/// Limit of a plan that this service enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlanLimit {
    Environments,
    Servers,
}

impl PlanLimit {
    /// Key of the limit in identity's response.
    fn key(self) -> &'static str {
        match self {
            Self::Environments => "environments",
            Self::Servers => "servers",
        }
    }
}

/// Returns a limit of the organization's plan; `None` means unlimited.
pub(crate) async fn plan_limit(
    identity: &ServiceChannel,
    context: &Context,
    org_id: OrgId,
    limit: PlanLimit,
) -> Result<Option<i64>> {
    let request = GetLimitsRequest { org_id: org_id.into() };
    let mut identity = OrganizationServiceClient::new(identity.clone());
    let limits = identity.get_limits(context.forward(request)).await;
    let limits = limits.map_err(remote("identity"))?.into_inner().limits;
    Ok(limits.into_iter().find(|it| it.key == limit.key()).and_then(|it| it.value))
}
