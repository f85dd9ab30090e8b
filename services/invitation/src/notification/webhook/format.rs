//! Formats of the body of a delivery: JSON for programs, and messages for chat applications.

use api::notification::WebhookFormat;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

use crate::notification::catalogue::Notification;

/// Largest number of characters of the title of a Discord embed.
const DISCORD_TITLE_MAX: usize = 256;

/// Largest number of characters of the description of a Discord embed.
const DISCORD_DESCRIPTION_MAX: usize = 4096;

/// The body of a notification in a format; these bytes are signed.
pub(crate) fn body(notification: &Notification, format: WebhookFormat) -> String {
    let body = match format {
        WebhookFormat::Slack => slack(notification),
        WebhookFormat::Teams => teams(notification),
        WebhookFormat::Discord => discord(notification),
        WebhookFormat::Unspecified | WebhookFormat::Raw => raw(notification),
    };
    body.to_string()
}

/// `{"type", "timestamp", "data"}`. Contains only data that every manager of webhooks may see: no secrets,
/// tokens or messages of people (NO-16).
fn raw(notification: &Notification) -> Value {
    let time = rfc3339(notification);
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

fn slack(notification: &Notification) -> Value {
    // The three characters that Slack's text formatting reserves.
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let title = escape(&notification.title);
    let text = format!("*{title}*\n{}", escape(&notification.body));
    let event_type = notification.notification_type.name;
    json!({
        "text": title,
        "blocks": [
            { "type": "section", "text": { "type": "mrkdwn", "text": text } },
            { "type": "context", "elements": [{ "type": "plain_text", "text": event_type }] },
        ]
    })
}

fn teams(notification: &Notification) -> Value {
    let title = escape_markdown(&notification.title);
    let text = escape_markdown(&notification.body);
    let event_type = notification.notification_type.name;
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

fn discord(notification: &Notification) -> Value {
    let title: String =
        escape_markdown(&notification.title).chars().take(DISCORD_TITLE_MAX).collect();
    let description: String =
        escape_markdown(&notification.body).chars().take(DISCORD_DESCRIPTION_MAX).collect();
    json!({
        // A name in an event must not mention anybody.
        "allowed_mentions": { "parse": [] },
        "embeds": [{
            "title": title,
            "description": description,
            "timestamp": rfc3339(notification),
            "footer": { "text": notification.notification_type.name },
        }]
    })
}

fn rfc3339(notification: &Notification) -> String {
    notification.occurred_at.format(&Rfc3339).unwrap_or_default()
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
