//! Which projects somebody sees, and a page of them.

use api::{
    identity::{ListVisibleProjectsRequest, access_service_client::AccessServiceClient},
    project::{self as pb, ProjectOrder},
};
use chassis::{Call, Grant, Result, error::remote, page::Page};
use uuid::Uuid;

use super::{Project, rpc::Rpc, store};

/// A page of what the caller sees, and the first row of the next one. Identity says what that is: if the
/// page is by age and of everything, only as much as the page needs.
pub(super) async fn rows(
    rpc: &Rpc,
    call: &Call<pb::ListProjectsRequest>,
    grant: &Grant,
    page: &Page,
) -> Result<Vec<Project>> {
    let it = &call.message;
    let by_age = matches!(it.order_by(), ProjectOrder::Unspecified | ProjectOrder::CreateTime);
    if by_age && it.query.is_empty() {
        let limit = i32::try_from(page.limit()).unwrap_or(0);
        let only = visible(rpc, call, page.after::<Uuid>()?, limit).await?;
        let asked = only.as_ref().map_or(0, Vec::len);
        let rows = list(rpc, call, grant, only, page).await?;
        // Fewer than identity named: some are gone here, and those behind them take their place.
        if asked <= rows.len() || i64::try_from(asked).is_ok_and(|it| it < page.limit()) {
            return Ok(rows);
        }
    }
    let only = visible(rpc, call, None, 0).await?;
    list(rpc, call, grant, only, page).await
}

/// The projects that the caller sees; `None` is all of the organization.
async fn visible(
    rpc: &Rpc,
    call: &Call<pb::ListProjectsRequest>,
    after: Option<Uuid>,
    limit: i32,
) -> Result<Option<Vec<Uuid>>> {
    let question = ListVisibleProjectsRequest {
        org_id: call.message.org_id.clone(),
        after_project_id: after.map(|it| it.to_string()).unwrap_or_default(),
        limit,
    };
    let mut identity = AccessServiceClient::new(rpc.identity.clone());
    let visible = identity.list_visible_projects(call.forward(question)).await;
    let visible = visible.map_err(remote("identity"))?.into_inner();
    let ids = visible.projects.iter().filter_map(|it| Uuid::try_parse(&it.project_id).ok());
    Ok((!visible.all).then(|| ids.collect()))
}

async fn list(
    rpc: &Rpc,
    call: &Call<pb::ListProjectsRequest>,
    grant: &Grant,
    only: Option<Vec<Uuid>>,
    page: &Page,
) -> Result<Vec<Project>> {
    let it = &call.message;
    let listing = store::Listing { org_id: grant.org_id(), only, query: &it.query };
    match it.order_by() {
        ProjectOrder::Name => store::list_by_name(&rpc.db, &listing, page).await,
        ProjectOrder::UpdateTime => store::list_by_change(&rpc.db, &listing, page).await,
        _ => store::list(&rpc.db, &listing, page).await,
    }
}
