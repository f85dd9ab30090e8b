//! The gRPC surface of organizations.

use api::identity::{self as pb, organization_service_server::OrganizationService};
use chassis::{Access, Call, Db, Reply, Tx, page::Pager, reply};
use tonic::Request;

use super::{Draft, Organization, Plan, store, wire::consistency_token};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) created_orgs_max: i64,
}

#[tonic::async_trait]
impl OrganizationService for Rpc {
    async fn create_organization(
        &self,
        request: Request<pb::CreateOrganizationRequest>,
    ) -> Reply<pb::CreateOrganizationResponse> {
        let call = Call::of(request)?;
        let (creator, draft) = (call.account()?, Draft::try_from(&call.message)?);
        let create = async |tx: &mut Tx| {
            let created = store::created_by(tx, creator.user_id).await?;
            let new = Organization::create(creator, draft, created, self.created_orgs_max, tx.now)?;
            let id = store::insert(tx, new).await?.0.id;
            // With the limits of its plan.
            let it = store::lock(tx, id).await?;
            let consistency_token = consistency_token(it.id, it.access_version);
            Ok(pb::CreateOrganizationResponse {
                organization: Some((&it).into()),
                consistency_token,
            })
        };
        reply(self.db.write(&call, create).await?)
    }

    async fn get_organization(
        &self,
        request: Request<pb::GetOrganizationRequest>,
    ) -> Reply<pb::GetOrganizationResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let organization = store::get(&self.db, grant.org_id()).await?;
        reply(pb::GetOrganizationResponse { organization: Some((&organization).into()) })
    }

    async fn list_organizations(
        &self,
        request: Request<pb::ListOrganizationsRequest>,
    ) -> Reply<pb::ListOrganizationsResponse> {
        let call = Call::of(request)?;
        let page = self.pager.page(&call, call.message.page_size, &call.message.page_token, &[])?;
        let rows = store::list_of(&self.db, call.account()?.user_id, &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.id.into());
        let organizations = rows.iter().map(Into::into).collect();
        reply(pb::ListOrganizationsResponse { organizations, next_page_token })
    }

    async fn change_plan(
        &self,
        request: Request<pb::ChangePlanRequest>,
    ) -> Reply<pb::ChangePlanResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let plan = Plan::try_from(call.message.plan())?;
        let change = async |tx: &mut Tx| {
            let organization = store::lock(tx, grant.org_id()).await?;
            let it =
                store::update_plan(tx, organization.change_plan(plan, &call.message.etag)?).await?;
            let consistency_token = consistency_token(it.id, it.access_version);
            Ok(pb::ChangePlanResponse { organization: Some((&it).into()), consistency_token })
        };
        reply(self.db.write(&call, change).await?)
    }
}
