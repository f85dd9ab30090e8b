//! Conversion between the contract and webhooks and deliveries.

use api::notification::{self as pb, DeliveryState};
use chassis::{Error, Result, timestamp};

use super::{Settings, Webhook, delivery::Delivery, target};
use crate::notification::catalogue;

impl From<&Webhook> for pb::Webhook {
    fn from(webhook: &Webhook) -> Self {
        Self {
            id: webhook.id.into(),
            org_id: webhook.org_id.into(),
            project_id: webhook.project_id.map(String::from).unwrap_or_default(),
            url: webhook.url.clone(),
            event_types: webhook.event_types.clone(),
            description: webhook.description.clone(),
            format: webhook.format.into(),
            enabled: webhook.enabled,
            disabled_reason: webhook.disabled_reason.clone(),
            failure_count: webhook.failure_count,
            failing_since: webhook.failing_since.map(timestamp),
            last_trigger_time: webhook.last_triggered_at.map(timestamp),
            create_time: Some(timestamp(webhook.created_at)),
            old_secret_expire_time: webhook.old_secret_until.map(timestamp),
        }
    }
}

impl Webhook {
    /// The message in events, with only the host of the URL: path and query are often secret, and the audit
    /// log deletes nothing (NO-16).
    pub(super) fn to_event_message(&self) -> pb::Webhook {
        pb::Webhook { url: format!("https://{}/…", target::host_name(&self.url)), ..self.into() }
    }
}

impl From<&Delivery> for pb::Delivery {
    fn from(delivery: &Delivery) -> Self {
        let is_pending = delivery.state.0 == DeliveryState::Pending;
        Self {
            id: delivery.id.to_string(),
            event_id: delivery.event_id.to_string(),
            event_type: delivery.event_type.clone(),
            state: delivery.state.into(),
            attempt_count: delivery.attempts,
            response_status: delivery.response_status,
            duration_ms: delivery.duration_ms,
            response_body: delivery.response_body.clone(),
            failure: delivery.failure.clone(),
            create_time: Some(timestamp(delivery.created_at)),
            deliver_time: delivery.delivered_at.map(timestamp),
            next_attempt_time: is_pending.then(|| timestamp(delivery.due_at)),
        }
    }
}

/// RAW is the default format.
fn or_raw(format: pb::WebhookFormat) -> pb::WebhookFormat {
    if format == pb::WebhookFormat::Unspecified { pb::WebhookFormat::Raw } else { format }
}

/// Settings of a new webhook.
pub(super) fn new_settings(request: &pb::CreateWebhookRequest) -> Result<Settings> {
    Ok(Settings {
        url: request.url.clone(),
        event_types: catalogue::subscribable(&request.event_types)?,
        description: request.description.clone(),
        format: or_raw(request.format()),
        enabled: true,
    })
}

/// Settings of a webhook after an update of the fields that the mask names.
pub(super) fn updated_settings(
    request: &pb::UpdateWebhookRequest,
    paths: &[&str],
    webhook: &Webhook,
) -> Result<Settings> {
    let mut settings = Settings {
        url: webhook.url.clone(),
        event_types: webhook.event_types.clone(),
        description: webhook.description.clone(),
        format: webhook.format.0,
        enabled: webhook.enabled,
    };
    for path in paths {
        match *path {
            "url" if request.url.is_empty() => {
                return Err(Error::invalid("url", "must not be empty"));
            }
            "url" => settings.url.clone_from(&request.url),
            "event_types" => {
                settings.event_types = catalogue::subscribable(&request.event_types)?;
            }
            "description" => settings.description.clone_from(&request.description),
            "format" => settings.format = or_raw(request.format()),
            _ => settings.enabled = request.enabled,
        }
    }
    Ok(settings)
}
