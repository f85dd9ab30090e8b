//! How the body of a delivery is written, for programs and for chats.

use api::invitation::WebhookFormat;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

use crate::catalogue::Story;

/// The body of a story in a format; the bytes that are signed.
pub(crate) fn body(story: &Story, format: i32) -> String {
    let format = WebhookFormat::try_from(format).unwrap_or_default();
    let body = match format {
        WebhookFormat::Slack => slack(story),
        WebhookFormat::Teams => teams(story),
        WebhookFormat::Discord => discord(story),
        WebhookFormat::Unspecified | WebhookFormat::Raw => raw(story),
    };
    body.to_string()
}

/// `{"type", "timestamp", "data"}`. What is in it everybody who manages webhooks may know; secrets,
/// tokens and messages of people are not (NO-16).
fn raw(it: &Story) -> Value {
    let time = it.time.format(&Rfc3339).unwrap_or_default();
    json!({
        "type": it.kind.name,
        "timestamp": time,
        "data": {
            "event_id": it.event_id,
            "org_id": it.org_id.map(|it| it.0),
            "project_id": it.project_id.map(|it| it.0),
            "severity": it.severity.as_str_name().trim_start_matches("SEVERITY_"),
            "title": it.title,
            "text": it.body,
            "actor": { "id": it.actor_id, "name": it.actor_name },
            "resource": { "kind": it.resource.0, "id": it.resource.1, "name": it.resource.2 },
            "time": time,
        }
    })
}

fn slack(it: &Story) -> Value {
    // Slack's own three characters (its formatting reference).
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let text = format!("*{}*\n{}", escape(&it.title), escape(&it.body));
    json!({
        "text": escape(&it.title),
        "blocks": [
            { "type": "section", "text": { "type": "mrkdwn", "text": text } },
            { "type": "context", "elements": [{ "type": "plain_text", "text": it.kind.name }] },
        ]
    })
}

fn teams(it: &Story) -> Value {
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "body": [
                    { "type": "TextBlock", "weight": "Bolder", "wrap": true, "text": markdown(&it.title) },
                    { "type": "TextBlock", "wrap": true, "text": markdown(&it.body) },
                    { "type": "TextBlock", "isSubtle": true, "text": it.kind.name },
                ]
            }
        }]
    })
}

fn discord(it: &Story) -> Value {
    json!({
        // Nobody is called by a name in an event.
        "allowed_mentions": { "parse": [] },
        "embeds": [{
            "title": markdown(&it.title).chars().take(256).collect::<String>(),
            "description": markdown(&it.body).chars().take(4096).collect::<String>(),
            "timestamp": it.time.format(&Rfc3339).unwrap_or_default(),
            "footer": { "text": it.kind.name },
        }]
    })
}

/// Text that a reader of Markdown shows as it is.
fn markdown(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        if "\\`*_{}[]()<>#+!|~@".contains(letter) {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}
