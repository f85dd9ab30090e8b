//! The gRPC surface of organizations.

use api::identity::{self as pb, organization_service_server::OrganizationService};
use chassis::{Access, Call, Db, Error, Reply, Tx, page::Pager, reply, timestamp};
use tonic::Request;

use super::{
    Draft, Organization, Patch, Plan, RESTORABLE, Subscription, deletion::Deletion, store,
    wire::consistency_token,
};
use crate::{access, api_key, member};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) created_orgs_max: i64,
    pub(crate) deletion: Deletion,
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
        let it = &call.message;
        let deleted = if it.show_deleted { "deleted" } else { "" };
        let page = self.pager.page(&call, it.page_size, &it.page_token, &[deleted])?;
        let user_id = call.account()?.user_id;
        let rows = store::list_of(&self.db, user_id, it.show_deleted, &page).await?;
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
            let organization = access::lock(tx, &grant).await?;
            let changed = organization.change_plan(plan, &call.message.etag)?;
            store::bump(tx, grant.org_id(), &changed).await?;
            let it = store::update(tx, changed).await?;
            let consistency_token = consistency_token(it.id, it.access_version);
            Ok(pb::ChangePlanResponse { organization: Some((&it).into()), consistency_token })
        };
        reply(self.db.write(&call, change).await?)
    }

    async fn update_organization(
        &self,
        request: Request<pb::UpdateOrganizationRequest>,
    ) -> Reply<pb::UpdateOrganizationResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let patch = Patch::try_from(&call.message)?;
        let update = async |tx: &mut Tx| {
            let organization = access::lock(tx, &grant).await?;
            let it = match organization.update(patch, &call.message.etag)? {
                Some(changed) => store::update(tx, changed).await?,
                None => organization,
            };
            Ok(pb::UpdateOrganizationResponse { organization: Some((&it).into()) })
        };
        reply(self.db.write(&call, update).await?)
    }

    async fn transfer_ownership(
        &self,
        request: Request<pb::TransferOwnershipRequest>,
    ) -> Reply<pb::TransferOwnershipResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.org(&call, &it.org_id).await?;
        let (org_id, to) = (grant.org_id(), it.user_id.parse()?);
        let transfer = async |tx: &mut Tx| {
            let organization = access::lock(tx, &grant).await?;
            organization.confirmed(&it.confirm_name, grant.account(), tx.now)?;
            let from = member::store::find(tx, org_id, organization.owner_id).await?;
            let from = from.ok_or(Error::NotFound("member"))?;
            let to = member::store::find(tx, org_id, to).await?;
            let changed = organization.transfer(from, to, &it.etag)?;
            store::bump(tx, org_id, &changed).await?;
            let it = store::transfer(tx, changed).await?;
            let consistency_token = consistency_token(it.id, it.access_version);
            Ok(pb::TransferOwnershipResponse {
                organization: Some((&it).into()),
                consistency_token,
            })
        };
        reply(self.db.write(&call, transfer).await?)
    }

    async fn preview_organization_deletion(
        &self,
        request: Request<pb::PreviewOrganizationDeletionRequest>,
    ) -> Reply<pb::PreviewOrganizationDeletionResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let preview = self.deletion.preview(&call, grant.org_id()).await?;
        reply(pb::PreviewOrganizationDeletionResponse { preview: Some(preview) })
    }

    async fn delete_organization(
        &self,
        request: Request<pb::DeleteOrganizationRequest>,
    ) -> Reply<pb::DeleteOrganizationResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.org(&call, &it.org_id).await?;
        let preview = self.deletion.preview(&call, grant.org_id()).await?;
        let delete = async |tx: &mut Tx| {
            let organization = access::lock(tx, &grant).await?;
            organization.confirmed(&it.confirm_name, grant.account(), tx.now)?;
            let deleted = organization.delete(preview.clone(), it.cascade, tx.now)?;
            store::bump(tx, grant.org_id(), &deleted).await?;
            store::insert_closing(tx, deleted.state()).await?;
            // From here on the other services take along what is theirs, whenever they get to it.
            store::update(tx, deleted).await?;
            let purge_time = Some(timestamp(tx.now + RESTORABLE));
            Ok(pb::DeleteOrganizationResponse { purge_time, preview: Some(preview) })
        };
        reply(self.db.write(&call, delete).await?)
    }

    async fn restore_organization(
        &self,
        request: Request<pb::RestoreOrganizationRequest>,
    ) -> Reply<pb::RestoreOrganizationResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let slug = Some(call.message.slug.clone()).filter(|it| !it.is_empty());
        let restore = async |tx: &mut Tx| {
            let organization = access::lock(tx, &grant).await?;
            let restored = organization.restore(slug, tx.now)?;
            store::bump(tx, grant.org_id(), &restored).await?;
            store::delete_closing(tx, grant.org_id()).await?;
            let it = store::update(tx, restored).await?;
            let consistency_token = consistency_token(it.id, it.access_version);
            Ok(pb::RestoreOrganizationResponse {
                organization: Some((&it).into()),
                consistency_token,
            })
        };
        reply(self.db.write(&call, restore).await?)
    }

    async fn get_usage(
        &self,
        request: Request<pb::GetUsageRequest>,
    ) -> Reply<pb::GetUsageResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let it = store::get(&self.db, grant.org_id()).await?;
        let elsewhere = self.deletion.environments(&call, it.id).await?;
        let keys = api_key::store::count(&self.db, it.id).await?;
        let used = [
            ("members", it.members),
            ("projects", it.projects),
            ("environments", elsewhere),
            ("api_keys", keys),
            ("teams", store::teams(&self.db, it.id).await?),
        ];
        let usage = |(key, used): (&str, i64)| {
            let limit = it.limits.of(key);
            pb::Usage { key: key.to_owned(), used, limit }
        };
        reply(pb::GetUsageResponse {
            plan: pb::Plan::from(it.plan).into(),
            subscription: pb::Subscription::from(it.subscription).into(),
            usage: used.into_iter().map(usage).collect(),
        })
    }

    async fn set_subscription(
        &self,
        request: Request<pb::SetSubscriptionRequest>,
    ) -> Reply<pb::SetSubscriptionResponse> {
        let call = Call::of(request)?;
        let org_id = call.message.org_id.parse()?;
        let subscription = Subscription::try_from(call.message.subscription())?;
        let set = async |tx: &mut Tx| {
            let organization = store::lock(tx, org_id).await?;
            let it = match organization.subscribe(subscription) {
                Some(changed) => {
                    store::bump(tx, org_id, &changed).await?;
                    store::update(tx, changed).await?
                }
                None => organization,
            };
            let consistency_token = consistency_token(it.id, it.access_version);
            Ok(pb::SetSubscriptionResponse { organization: Some((&it).into()), consistency_token })
        };
        reply(self.db.write(&call, set).await?)
    }

    async fn get_limits(
        &self,
        request: Request<pb::GetLimitsRequest>,
    ) -> Reply<pb::GetLimitsResponse> {
        let call = Call::of(request)?;
        let limits = store::limits(&self.db, call.message.org_id.parse()?).await?;
        let limit = |(key, value)| pb::Limit { key, value };
        reply(pb::GetLimitsResponse { limits: limits.0.into_iter().map(limit).collect() })
    }
}
