//! Formats of the body of a delivery: JSON for programs, and messages for chat applications.

use api::notification::WebhookFormat;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::WebhookId;
use crate::notification::catalogue::Notification;

/// Largest number of characters of the title of a Discord embed.
const DISCORD_TITLE_MAX: usize = 256;

/// Largest number of characters of the description of a Discord embed.
const DISCORD_DESCRIPTION_MAX: usize = 4096;

/// A message for a chat application.
struct ChatMessage<'a> {
    event_type: &'a str,
    title: &'a str,
    body: &'a str,
    /// Time in RFC 3339.
    time: String,
}

/// The body of a notification in a format; these bytes are signed.
pub(crate) fn body(notification: &Notification, format: WebhookFormat) -> String {
    let message = ChatMessage {
        event_type: notification.notification_type.name,
        title: &notification.title,
        body: &notification.body,
        time: rfc3339(notification.occurred_at),
    };
    chat(&message, format).unwrap_or_else(|| raw(notification)).to_string()
}

/// The body of a test request in a format.
pub(crate) fn ping(webhook_id: WebhookId, format: WebhookFormat, now: OffsetDateTime) -> String {
    let message = ChatMessage {
        event_type: "ping",
        title: "Test of the webhook",
        body: "The webhook works: notifications are sent here.",
        time: rfc3339(now),
    };
    let raw = || json!({ "type": "ping", "timestamp": message.time, "data": { "webhook_id": webhook_id.0 } });
    chat(&message, format).unwrap_or_else(raw).to_string()
}

/// The body of a message in the format of a chat application; `None` for the format for programs.
fn chat(message: &ChatMessage<'_>, format: WebhookFormat) -> Option<Value> {
    match format {
        WebhookFormat::Slack => Some(slack(message)),
        WebhookFormat::Teams => Some(teams(message)),
        WebhookFormat::Discord => Some(discord(message)),
        WebhookFormat::Unspecified | WebhookFormat::Raw => None,
    }
}

/// `{"type", "timestamp", "data"}`. Contains only data that every manager of webhooks may see: no secrets,
/// tokens or messages of people (NO-16).
fn raw(notification: &Notification) -> Value {
    let time = rfc3339(notification.occurred_at);
    let severity = notification.severity.as_str_name().trim_start_matches("SEVERITY_");
    let resource = &notification.resource;
    json!({
        "type": notification.notification_type.name,
        "timestamp": time,
        "data": {
            "event_id": notification.event_id,
            "org_id": notification.org_id.map(|it| it.0),
            "project_id": notification.project_id.map(|it| it.0),
            "severity": severity,
            "title": notification.title,
            "text": notification.body,
            "actor": { "id": notification.actor.id, "name": notification.actor.name },
            "resource": { "kind": resource.kind, "id": resource.id, "name": resource.name },
            "time": time,
        }
    })
}

fn slack(message: &ChatMessage<'_>) -> Value {
    // The three characters that Slack's text formatting reserves.
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let title = escape(message.title);
    let text = format!("*{title}*\n{}", escape(message.body));
    let event_type = message.event_type;
    json!({
        "text": title,
        "blocks": [
            { "type": "section", "text": { "type": "mrkdwn", "text": text } },
            { "type": "context", "elements": [{ "type": "plain_text", "text": event_type }] },
        ]
    })
}

fn teams(message: &ChatMessage<'_>) -> Value {
    let title = escape_markdown(message.title);
    let text = escape_markdown(message.body);
    let event_type = message.event_type;
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "body": [
                    { "type": "TextBlock", "weight": "Bolder", "wrap": true, "text": title },
                    { "type": "TextBlock", "wrap": true, "text": text },
                    { "type": "TextBlock", "isSubtle": true, "text": event_type },
                ]
            }
        }]
    })
}

fn discord(message: &ChatMessage<'_>) -> Value {
    let title: String = escape_markdown(message.title).chars().take(DISCORD_TITLE_MAX).collect();
    let description: String =
        escape_markdown(message.body).chars().take(DISCORD_DESCRIPTION_MAX).collect();
    json!({
        // A name in an event must not mention anybody.
        "allowed_mentions": { "parse": [] },
        "embeds": [{
            "title": title,
            "description": description,
            "timestamp": message.time,
            "footer": { "text": message.event_type },
        }]
    })
}

fn rfc3339(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}

/// Escapes every character that Markdown interprets.
fn escape_markdown(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        if "\\`*_{}[]()<>#+!|~@".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification::catalogue::{self, tests};

    /// NO-16: no format contains messages of people, hints of keys or paths of URLs. The URL of a completed
    /// deployment is public.
    #[test]
    fn bodies_contain_no_secrets() {
        use api::notification::WebhookFormat::{Discord, Raw, Slack, Teams, Unspecified};
        let pool = tests::descriptors();
        let events = catalogue::event_names();
        for notification in
            events.iter().flat_map(|it| catalogue::render(&tests::envelope(&pool, it)))
        {
            let is_public = notification.notification_type.name == "deployment.completed";
            for format in [Unspecified, Raw, Slack, Teams, Discord] {
                let body = body(&notification, format);
                for secret in ["the-message", "the-hint", "the-url", "the-token", "the-secret"] {
                    assert!(is_public || !body.contains(secret), "{body}");
                }
            }
        }
    }
}
