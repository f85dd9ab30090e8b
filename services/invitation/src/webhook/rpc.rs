//! The gRPC surface of webhooks.

use std::sync::Arc;

use api::{
    check::Check,
    invitation::{self as pb, webhook_service_server::WebhookService},
};
use chassis::{
    Access, Call, Db, Error, Reply, Result, ScopeGrant, Tx, key, mask, page::Pager, reply,
    throttle::Throttle,
};
use tonic::Request;
use uuid::Uuid;

use super::{
    Signer, Webhook, WebhookId,
    sender::{Answer, Line, Parcel, Sender},
    store,
    target::Target,
    wire,
};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) sender: Arc<Sender>,
    pub(crate) seal: key::Secret,
    /// Changes of one API key in a minute, besides the key's own limit (NO-9).
    pub(crate) changes: Throttle<Uuid>,
}

/// What the mask of a change may name.
const PATHS: [&str; 5] = ["url", "event_types", "description", "format", "enabled"];

#[tonic::async_trait]
impl WebhookService for Rpc {
    async fn create_webhook(
        &self,
        request: Request<pb::CreateWebhookRequest>,
    ) -> Reply<pb::CreateWebhookResponse> {
        let call = Call::of(request)?;
        let grant = self.manage(&call, &call.message.org_id, &call.message.project_id).await?;
        let draft = wire::draft(&call.message)?;
        self.look_at(&draft.url).await?;
        let create = async |tx: &mut Tx| {
            let others = store::count(tx, grant.org_id()).await?;
            let place = (grant.org_id(), grant.project_id());
            let (created, secret) = Webhook::create(place, draft, others, &self.seal, tx.now)?;
            let webhook = store::insert(tx, created).await?;
            Ok(pb::CreateWebhookResponse { webhook: Some((&webhook).into()), secret })
        };
        reply(self.db.write(&call, create).await?)
    }

    async fn get_webhook(
        &self,
        request: Request<pb::GetWebhookRequest>,
    ) -> Reply<pb::GetWebhookResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.scope(&call, &it.org_id, &it.project_id).await?;
        let webhook = store::get(&self.db, &grant, it.webhook_id.parse()?).await?;
        reply(pb::GetWebhookResponse { webhook: Some((&webhook).into()) })
    }

    async fn list_webhooks(
        &self,
        request: Request<pb::ListWebhooksRequest>,
    ) -> Reply<pb::ListWebhooksResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.scope(&call, &it.org_id, &it.project_id).await?;
        let filter = [it.org_id.as_str(), &it.project_id];
        let page = self.pager.page(&call, it.page_size, &it.page_token, &filter)?;
        let rows = store::list(&self.db, &grant, &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.id.into());
        let webhooks = rows.iter().map(Into::into).collect();
        reply(pb::ListWebhooksResponse { webhooks, next_page_token })
    }

    async fn update_webhook(
        &self,
        request: Request<pb::UpdateWebhookRequest>,
    ) -> Reply<pb::UpdateWebhookResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.manage(&call, &it.org_id, &it.project_id).await?;
        let paths = mask::paths(it.update_mask.as_ref(), &PATHS)?;
        if !it.url.is_empty() {
            self.look_at(&it.url).await?;
        }
        let update = async |tx: &mut Tx| {
            let webhook = store::lock(tx, &grant, it.webhook_id.parse()?).await?;
            let draft = wire::change(it, &paths, &webhook)?;
            let webhook = store::update(tx, webhook.change(draft)).await?;
            Ok(pb::UpdateWebhookResponse { webhook: Some((&webhook).into()) })
        };
        reply(self.db.write(&call, update).await?)
    }

    async fn rotate_webhook_secret(
        &self,
        request: Request<pb::RotateWebhookSecretRequest>,
    ) -> Reply<pb::RotateWebhookSecretResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.manage(&call, &it.org_id, &it.project_id).await?;
        let rotate = async |tx: &mut Tx| {
            let webhook = store::lock(tx, &grant, it.webhook_id.parse()?).await?;
            let (rotated, secret) = webhook.rotate(&self.seal, tx.now);
            let webhook = store::update(tx, rotated).await?;
            Ok(pb::RotateWebhookSecretResponse { webhook: Some((&webhook).into()), secret })
        };
        reply(self.db.write(&call, rotate).await?)
    }

    async fn test_webhook(
        &self,
        request: Request<pb::TestWebhookRequest>,
    ) -> Reply<pb::TestWebhookResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.manage(&call, &it.org_id, &it.project_id).await?;
        let webhook = store::get(&self.db, &grant, it.webhook_id.parse()?).await?;
        let Answer { status, duration_ms, body, failure } = self.ping(&webhook).await;
        let success = failure.is_none();
        let told = async |tx: &mut Tx| {
            tx.emit(webhook.tested(success, status));
            Ok(pb::TestWebhookResponse {
                success,
                response_status: status,
                duration_ms,
                response_body: body,
                failure: failure.map(|it| it.1).unwrap_or_default(),
            })
        };
        reply(self.db.write(&call, told).await?)
    }

    async fn delete_webhook(
        &self,
        request: Request<pb::DeleteWebhookRequest>,
    ) -> Reply<pb::DeleteWebhookResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.manage(&call, &it.org_id, &it.project_id).await?;
        let delete = async |tx: &mut Tx| {
            let webhook = store::lock(tx, &grant, it.webhook_id.parse()?).await?;
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
        let it = &call.message;
        let grant = self.access.scope(&call, &it.org_id, &it.project_id).await?;
        let id: WebhookId = it.webhook_id.parse()?;
        store::get(&self.db, &grant, id).await?;
        let state = (it.state() != pb::DeliveryState::Unspecified).then_some(it.state);
        let filter = [it.webhook_id.as_str(), it.state().as_str_name()];
        let page = self.pager.page(&call, it.page_size, &it.page_token, &filter)?;
        let rows = store::deliveries(&self.db, &grant, (id, state), &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.id.to_string());
        let deliveries = rows.iter().map(Into::into).collect();
        reply(pb::ListDeliveriesResponse { deliveries, next_page_token })
    }

    async fn replay_deliveries(
        &self,
        request: Request<pb::ReplayDeliveriesRequest>,
    ) -> Reply<pb::ReplayDeliveriesResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.manage(&call, &it.org_id, &it.project_id).await?;
        let after = Some(&it.after_delivery_id).filter(|it| !it.is_empty());
        let after = after.map(|it| chassis::id::parse("after_delivery_id", it)).transpose()?;
        let replay = async |tx: &mut Tx| {
            let webhook = store::lock(tx, &grant, it.webhook_id.parse()?).await?;
            let count = store::replay(tx, &webhook, (after, it.failed_only)).await?;
            tx.emit(webhook.replayed(count));
            Ok(pb::ReplayDeliveriesResponse { count })
        };
        reply(self.db.write(&call, replay).await?)
    }
}

impl Rpc {
    /// The grant to change a webhook. Programs do so ten times a minute at most (NO-9).
    async fn manage<M: Check>(
        &self,
        call: &Call<M>,
        org_id: &str,
        project_id: &str,
    ) -> Result<ScopeGrant> {
        let grant = self.access.scope(call, org_id, project_id).await?;
        if grant.account().key.is_some() {
            let often = "this API key changed webhooks ten times within a minute; retry later";
            self.changes.check(&grant.account().credential_id, often)?;
        }
        Ok(grant)
    }

    /// Refuses an address to which nothing would be sent (NO-1).
    async fn look_at(&self, url: &str) -> Result<()> {
        let target = Target::parse(url).map_err(Error::from)?;
        self.sender.resolve(&target).await?;
        Ok(())
    }

    /// Sends a `ping` (NO-6).
    async fn ping(&self, it: &Webhook) -> Answer {
        let now = self.db.now();
        let body = serde_json::json!({ "type": "ping", "data": { "webhook_id": it.id.0 } });
        let (body, signer) = (body.to_string(), Signer::new(&self.seal, it, now));
        let parcel =
            Parcel { id: chassis::id::new(), body: &body, timestamp: now.unix_timestamp() };
        self.sender.send(&it.url, &mut Line::default(), &signer, &parcel).await
    }
}
