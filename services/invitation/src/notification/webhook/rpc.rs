//! gRPC service of webhooks and their deliveries.

use std::sync::Arc;

use api::{
    check::Check,
    notification::{self as pb, webhook_service_server::WebhookService},
};
use chassis::{
    Access, Call, Db, Reply, Result, ScopeGrant, Tx, key, mask, page::Pager, rate_limit::RateLimit,
    reply,
};
use tonic::Request;

use super::{
    Webhook, WebhookId, WithSecret,
    delivery::{self, store::ReplayFilter},
    sender::Sender,
    store, wire,
};
use crate::notification::scope::Scope;

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) sender: Arc<Sender>,
    /// Key under which the signing secrets are encrypted.
    pub(crate) secret_keys: key::DerivedKeys,
    /// Changes by one API key in a minute, besides the rate limit of the key itself (NO-9).
    pub(crate) changes: RateLimit,
}

/// Fields that can be changed.
const PATHS: [&str; 5] = ["url", "event_types", "description", "format", "enabled"];

#[tonic::async_trait]
impl WebhookService for Rpc {
    async fn create_webhook(
        &self,
        request: Request<pb::CreateWebhookRequest>,
    ) -> Reply<pb::CreateWebhookResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access_to_change(&call, &message.org_id, &message.project_id).await?;
        let settings = wire::new_settings(message)?;
        self.check_url(&settings.url).await?;
        let create = async |tx: &mut Tx| {
            let count = store::lock_count(tx, grant.org_id()).await?;
            let scope = Scope::of_grant(&grant);
            let WithSecret { changed, secret } =
                Webhook::create(scope, settings, count, &self.secret_keys, tx.now)?;
            let webhook = store::insert(tx, changed).await?;
            Ok(pb::CreateWebhookResponse { webhook: Some((&webhook).into()), secret })
        };
        reply(self.db.write(&call, create).await?)
    }

    async fn get_webhook(
        &self,
        request: Request<pb::GetWebhookRequest>,
    ) -> Reply<pb::GetWebhookResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.scope(&call, &message.org_id, &message.project_id).await?;
        let webhook = store::get(&self.db, &grant, message.webhook_id.parse()?).await?;
        reply(pb::GetWebhookResponse { webhook: Some((&webhook).into()) })
    }

    async fn list_webhooks(
        &self,
        request: Request<pb::ListWebhooksRequest>,
    ) -> Reply<pb::ListWebhooksResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.scope(&call, &message.org_id, &message.project_id).await?;
        let filter_key = [message.org_id.as_str(), &message.project_id];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter_key)?;
        let rows = store::list(&self.db, &grant, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.into());
        let webhooks = rows.iter().map(Into::into).collect();
        reply(pb::ListWebhooksResponse { webhooks, next_page_token })
    }

    async fn update_webhook(
        &self,
        request: Request<pb::UpdateWebhookRequest>,
    ) -> Reply<pb::UpdateWebhookResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access_to_change(&call, &message.org_id, &message.project_id).await?;
        let paths = mask::paths(message.update_mask.as_ref(), &PATHS)?;
        if !message.url.is_empty() {
            self.check_url(&message.url).await?;
        }
        let update = async |tx: &mut Tx| {
            let webhook = store::lock(tx, &grant, message.webhook_id.parse()?).await?;
            let settings = wire::updated_settings(message, &paths, &webhook)?;
            let webhook = store::update(tx, webhook.update(settings)).await?;
            Ok(pb::UpdateWebhookResponse { webhook: Some((&webhook).into()) })
        };
        reply(self.db.write(&call, update).await?)
    }

    async fn rotate_webhook_secret(
        &self,
        request: Request<pb::RotateWebhookSecretRequest>,
    ) -> Reply<pb::RotateWebhookSecretResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access_to_change(&call, &message.org_id, &message.project_id).await?;
        let rotate = async |tx: &mut Tx| {
            let webhook = store::lock(tx, &grant, message.webhook_id.parse()?).await?;
            let WithSecret { changed, secret } = webhook.rotate_secret(&self.secret_keys, tx.now);
            let webhook = store::update(tx, changed).await?;
            Ok(pb::RotateWebhookSecretResponse { webhook: Some((&webhook).into()), secret })
        };
        reply(self.db.write(&call, rotate).await?)
    }

    async fn test_webhook(
        &self,
        request: Request<pb::TestWebhookRequest>,
    ) -> Reply<pb::TestWebhookResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access_to_change(&call, &message.org_id, &message.project_id).await?;
        let webhook = store::get(&self.db, &grant, message.webhook_id.parse()?).await?;
        let response = self.ping(&webhook).await;
        let success = response.failure.is_none();
        let record = async |tx: &mut Tx| {
            tx.emit(webhook.tested(success, response.status));
            Ok(pb::TestWebhookResponse {
                success,
                response_status: response.status,
                duration_ms: response.duration_ms,
                failure: response.error().to_owned(),
                response_body: response.body,
            })
        };
        reply(self.db.write(&call, record).await?)
    }

    async fn delete_webhook(
        &self,
        request: Request<pb::DeleteWebhookRequest>,
    ) -> Reply<pb::DeleteWebhookResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access_to_change(&call, &message.org_id, &message.project_id).await?;
        let delete = async |tx: &mut Tx| {
            let webhook = store::lock(tx, &grant, message.webhook_id.parse()?).await?;
            store::delete(tx, webhook.delete()).await?;
            Ok(pb::DeleteWebhookResponse {})
        };
        reply(self.db.write(&call, delete).await?)
    }

    async fn list_deliveries(
        &self,
        request: Request<pb::ListDeliveriesRequest>,
    ) -> Reply<pb::ListDeliveriesResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.scope(&call, &message.org_id, &message.project_id).await?;
        let webhook_id: WebhookId = message.webhook_id.parse()?;
        store::get(&self.db, &grant, webhook_id).await?;
        let state = Some(message.state()).filter(|it| *it != pb::DeliveryState::Unspecified);
        let filter_key = [message.webhook_id.as_str(), message.state().as_str_name()];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter_key)?;
        let rows = delivery::store::list(&self.db, &grant, webhook_id, state, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.to_string());
        let deliveries = rows.iter().map(Into::into).collect();
        reply(pb::ListDeliveriesResponse { deliveries, next_page_token })
    }

    async fn replay_deliveries(
        &self,
        request: Request<pb::ReplayDeliveriesRequest>,
    ) -> Reply<pb::ReplayDeliveriesResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access_to_change(&call, &message.org_id, &message.project_id).await?;
        let after = Some(&message.after_delivery_id).filter(|it| !it.is_empty());
        let after = after.map(|it| chassis::id::parse("after_delivery_id", it)).transpose()?;
        let filter = ReplayFilter { after, failed_only: message.failed_only };
        let replay = async |tx: &mut Tx| {
            let webhook = store::lock(tx, &grant, message.webhook_id.parse()?).await?;
            let count = delivery::store::replay(tx, &webhook, &filter).await?;
            tx.emit(webhook.replayed(count));
            Ok(pb::ReplayDeliveriesResponse { count })
        };
        reply(self.db.write(&call, replay).await?)
    }
}

impl Rpc {
    /// Access for a change. An API key makes ten changes in a minute at most (NO-9).
    async fn access_to_change<M: Check>(
        &self,
        call: &Call<M>,
        org_id: &str,
        project_id: &str,
    ) -> Result<ScopeGrant> {
        let grant = self.access.scope(call, org_id, project_id).await?;
        if grant.account().key.is_some() {
            self.changes.check(&grant.account().credential_id).await?;
        }
        Ok(grant)
    }
}
