//! Between the contract and the rules.

use api::invitation as pb;
use chassis::{Error, Result, timestamp};

use super::{Draft, Webhook, store::Delivery, target::Target};
use crate::catalogue;

/// The name of the host in an address, to be shown.
pub(super) fn host(url: &str) -> String {
    Target::parse(url).ok().and_then(|it| it.url.host_str().map(str::to_owned)).unwrap_or_default()
}

impl From<&Webhook> for pb::Webhook {
    fn from(it: &Webhook) -> Self {
        Self {
            id: it.id.into(),
            org_id: it.org_id.into(),
            project_id: it.project_id.map(String::from).unwrap_or_default(),
            url: it.url.clone(),
            event_types: it.event_types.clone(),
            description: it.description.clone(),
            format: it.format,
            enabled: it.enabled,
            disabled_reason: it.disabled_reason.clone(),
            failure_count: it.failure_count,
            failing_since: it.failing_since.map(timestamp),
            last_trigger_time: it.last_triggered_at.map(timestamp),
            create_time: Some(timestamp(it.created_at)),
            old_secret_expire_time: it.old_secret_until.map(timestamp),
        }
    }
}

impl Webhook {
    /// As the log keeps it: of the address only its host, because the rest is often a secret, and the log
    /// forgets nothing (NO-16).
    pub(super) fn told(&self) -> pb::Webhook {
        pb::Webhook { url: format!("https://{}/…", host(&self.url)), ..self.into() }
    }
}

impl From<&Delivery> for pb::Delivery {
    fn from(it: &Delivery) -> Self {
        let waits = it.state == pb::DeliveryState::Pending as i32;
        Self {
            id: it.id.to_string(),
            event_id: it.event_id.to_string(),
            event_type: it.event_type.clone(),
            state: it.state,
            attempt_count: it.attempts,
            response_status: it.response_status,
            duration_ms: it.duration_ms,
            response_body: it.response_body.clone(),
            failure: it.failure.clone(),
            create_time: Some(timestamp(it.created_at)),
            deliver_time: it.delivered_at.map(timestamp),
            next_attempt_time: waits.then(|| timestamp(it.due_at)),
        }
    }
}

fn format(it: pb::WebhookFormat) -> i32 {
    let format = if it == pb::WebhookFormat::Unspecified { pb::WebhookFormat::Raw } else { it };
    format.into()
}

/// What a new webhook is to be.
pub(super) fn draft(it: &pb::CreateWebhookRequest) -> Result<Draft> {
    Ok(Draft {
        url: it.url.clone(),
        event_types: catalogue::for_hooks(&it.event_types)?,
        description: it.description.clone(),
        format: format(it.format()),
        enabled: true,
    })
}

/// What a webhook is to be, where the mask names it.
pub(super) fn change(
    request: &pb::UpdateWebhookRequest,
    paths: &[&str],
    it: &Webhook,
) -> Result<Draft> {
    let named = |name: &str| paths.contains(&name);
    if named("url") && request.url.is_empty() {
        return Err(Error::invalid("url", "must not be empty"));
    }
    let pick = |name: &str, new: &String, old: &String| {
        if named(name) { new.clone() } else { old.clone() }
    };
    Ok(Draft {
        url: pick("url", &request.url, &it.url),
        event_types: if named("event_types") {
            catalogue::for_hooks(&request.event_types)?
        } else {
            it.event_types.clone()
        },
        description: pick("description", &request.description, &it.description),
        format: if named("format") { format(request.format()) } else { it.format },
        enabled: if named("enabled") { request.enabled } else { it.enabled },
    })
}
