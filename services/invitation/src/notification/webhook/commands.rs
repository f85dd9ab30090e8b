//! Commands of webhooks that send requests, or need the resolver.

use chassis::{Error, Result};

use super::{
    Webhook, format,
    rpc::Rpc,
    sender::{Connection, Response, WebhookRequest},
    signature::Signer,
    target::Target,
};

impl Rpc {
    /// Refuses a URL to which no delivery would be sent (NO-1).
    pub(super) async fn check_url(&self, url: &str) -> Result<()> {
        let target = Target::parse(url).map_err(Error::from)?;
        self.sender.resolve(&target).await?;
        Ok(())
    }

    /// Sends a `ping` to a webhook (NO-6).
    pub(super) async fn ping(&self, webhook: &Webhook) -> Response {
        let now = self.db.now();
        let body = format::ping(webhook.id, webhook.format.0, now);
        let signer = Signer::new(&self.secret_keys, webhook, now);
        let request =
            WebhookRequest { id: chassis::id::new(), body: &body, timestamp: now.unix_timestamp() };
        self.sender.send(&webhook.url, &mut Connection::default(), &signer, &request).await
    }
}
