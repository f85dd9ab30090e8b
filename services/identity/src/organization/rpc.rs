//! gRPC methods of organizations.

use api::identity::{self as pb, organization_service_server::OrganizationService};
use chassis::{Access, Call, Db, Error, Reply, Tx, page::Pager, reply, timestamp};
use identity_rules::{
    billing,
    organization::{Draft, Patch, Subscription},
};
use tonic::Request;

use super::{
    commands::{self, Confirmation},
    peers::Peers,
    store,
};

/// The service and what its methods need.
pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    /// Organizations that an account may create.
    pub(crate) created_orgs_max: i64,
    pub(crate) peers: Peers,
    /// True if a billing provider is the source of the state of subscriptions.
    pub(crate) has_billing_provider: bool,
}

#[tonic::async_trait]
impl OrganizationService for Rpc {
    async fn create_organization(
        &self,
        request: Request<pb::CreateOrganizationRequest>,
    ) -> Reply<pb::CreateOrganizationResponse> {
        let call = Call::of(request)?;
        let creator = call.account()?;
        let draft = Draft::try_from(&call.message)?;
        let created_max = self.created_orgs_max;
        let create =
            async |tx: &mut Tx| Ok(commands::create(tx, creator, draft, created_max).await?.into());
        reply(self.db.write(&call, create).await?)
    }

    async fn get_organization(
        &self,
        request: Request<pb::GetOrganizationRequest>,
    ) -> Reply<pb::GetOrganizationResponse> {
        let call = Call::of(request)?;
        let authorization = self.access.org(&call, &call.message.org_id).await?;
        let organization = store::get(&self.db, authorization.org_id()).await?;
        let organization = organization.message_for(authorization.account().user_id);
        reply(pb::GetOrganizationResponse { organization: Some(organization) })
    }

    async fn list_organizations(
        &self,
        request: Request<pb::ListOrganizationsRequest>,
    ) -> Reply<pb::ListOrganizationsResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let filter = [if message.show_deleted { "deleted" } else { "" }];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter)?;
        let user_id = call.account()?.user_id;
        let rows = store::list_of_user(&self.db, user_id, message.show_deleted, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.into());
        let organizations = rows.iter().map(|it| it.message_for(user_id)).collect();
        reply(pb::ListOrganizationsResponse { organizations, next_page_token })
    }

    async fn update_organization(
        &self,
        request: Request<pb::UpdateOrganizationRequest>,
    ) -> Reply<pb::UpdateOrganizationResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let authorization = self.access.org(&call, &message.org_id).await?;
        let patch = Patch::try_from(message)?;
        let update = async |tx: &mut Tx| {
            let updated = commands::update(tx, &authorization, patch, &message.etag).await?;
            let organization = updated.message_for(authorization.account().user_id);
            Ok(pb::UpdateOrganizationResponse { organization: Some(organization) })
        };
        reply(self.db.write(&call, update).await?)
    }

    async fn transfer_ownership(
        &self,
        request: Request<pb::TransferOwnershipRequest>,
    ) -> Reply<pb::TransferOwnershipResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let authorization = self.access.org(&call, &message.org_id).await?;
        let new_owner_id = message.user_id.parse()?;
        let confirmation = Confirmation { name: &message.confirm_name };
        let transfer = async |tx: &mut Tx| {
            let etag = &message.etag;
            let transferred =
                commands::transfer_ownership(tx, &authorization, new_owner_id, confirmation, etag);
            Ok(transferred.await?.into())
        };
        reply(self.db.write(&call, transfer).await?)
    }

    async fn preview_organization_deletion(
        &self,
        request: Request<pb::PreviewOrganizationDeletionRequest>,
    ) -> Reply<pb::PreviewOrganizationDeletionResponse> {
        let call = Call::of(request)?;
        let org_id = self.access.org(&call, &call.message.org_id).await?.org_id();
        let preview = commands::preview_deletion(&self.db, &self.peers, &call, org_id).await?;
        reply(pb::PreviewOrganizationDeletionResponse { preview: Some(preview) })
    }

    async fn delete_organization(
        &self,
        request: Request<pb::DeleteOrganizationRequest>,
    ) -> Reply<pb::DeleteOrganizationResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let authorization = self.access.org(&call, &message.org_id).await?;
        let org_id = authorization.org_id();
        let preview = commands::preview_deletion(&self.db, &self.peers, &call, org_id).await?;
        let confirmation = Confirmation { name: &message.confirm_name };
        let delete = async |tx: &mut Tx| {
            let removed = preview.clone();
            let purge_time =
                commands::delete(tx, &authorization, removed, confirmation, message.cascade);
            let purge_time = Some(timestamp(purge_time.await?));
            Ok(pb::DeleteOrganizationResponse { purge_time, preview: Some(preview) })
        };
        reply(self.db.write(&call, delete).await?)
    }

    async fn restore_organization(
        &self,
        request: Request<pb::RestoreOrganizationRequest>,
    ) -> Reply<pb::RestoreOrganizationResponse> {
        let call = Call::of(request)?;
        let authorization = self.access.org(&call, &call.message.org_id).await?;
        let slug = Some(call.message.slug.clone()).filter(|it| !it.is_empty());
        let restore =
            async |tx: &mut Tx| Ok(commands::restore(tx, &authorization, slug).await?.into());
        reply(self.db.write(&call, restore).await?)
    }

    async fn get_usage(
        &self,
        request: Request<pb::GetUsageRequest>,
    ) -> Reply<pb::GetUsageResponse> {
        let call = Call::of(request)?;
        let authorization = self.access.org(&call, &call.message.org_id).await?;
        let organization = store::get(&self.db, authorization.org_id()).await?;
        let usage = commands::usage(&self.db, &self.peers, &call, &organization).await?;
        reply(pb::GetUsageResponse {
            plan: pb::Plan::from(organization.plan).into(),
            subscription: organization.subscription_for(authorization.account().user_id).into(),
            usage: usage.into_iter().map(Into::into).collect(),
        })
    }

    async fn set_subscription(
        &self,
        request: Request<pb::SetSubscriptionRequest>,
    ) -> Reply<pb::SetSubscriptionResponse> {
        let call = Call::of(request)?;
        let org_id = call.message.org_id.parse()?;
        let subscription = Subscription::try_from(call.message.subscription())?;
        if self.has_billing_provider {
            return Err(Error::from(billing::Refused::Managed).into());
        }
        let set = async |tx: &mut Tx| {
            let organization = store::lock(tx, org_id).await?;
            Ok(commands::set_subscription(tx, organization, subscription).await?.into())
        };
        reply(self.db.write(&call, set).await?)
    }

    async fn get_limits(
        &self,
        request: Request<pb::GetLimitsRequest>,
    ) -> Reply<pb::GetLimitsResponse> {
        let call = Call::of(request)?;
        let limits = store::limits(&self.db, call.message.org_id.parse()?).await?;
        let limits = limits.0.into_iter().map(|(key, value)| pb::Limit { key, value });
        reply(pb::GetLimitsResponse { limits: limits.collect() })
    }
}
