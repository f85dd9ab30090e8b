//! Notification types of alerts and webhooks.

use api::{
    event::Envelope,
    notification::{
        Alert, AlertChanged, AlertClosed, AlertKind, AlertOpened, MailRuleMailFailed,
        NotificationCategory::{Integration, Monitoring},
        Severity::{Critical, Info, Warning},
        WebhookAutoDisabled,
    },
};

use super::{Audience, Content, NotificationType};

pub(super) fn all() -> [NotificationType; 5] {
    [
        NotificationType::of(
            "alert.changed",
            Monitoring,
            Warning,
            "The severity of an alert changed; the notification has the new one. To members who see the \
             project, or who can list servers.",
            |event: AlertChanged, _| event.after.map(|alert| open_problem(&alert)),
        ),
        NotificationType::of(
            "alert.closed",
            Monitoring,
            Info,
            "The target of an alert recovered. To members who see the project, or who can list servers.",
            |event: AlertClosed, _| {
                let alert = event.after?;
                let title = format!("{} recovered", alert.target_name);
                let body = format!("The problem was: {}.", condition(&alert));
                Some(Content::new(title, body, audience(&alert)))
            },
        ),
        NotificationType::of(
            "alert.opened",
            Monitoring,
            Warning,
            "A server or an environment has a problem; the notification has the severity of the alert. To \
             members who see the project, or who can list servers.",
            |event: AlertOpened, _| event.after.map(|alert| open_problem(&alert)),
        ),
        // Not for mail rules, whose mails it reports.
        NotificationType::of(
            "mail_rule.mail_failed",
            Integration,
            Warning,
            "A mail of a mail rule was refused, or not accepted within five days. To members who manage mail \
             rules.",
            |event: MailRuleMailFailed, envelope| {
                let title = format!("A mail rule's mail to {} was not delivered", event.email);
                let body = "The mail server of the recipient did not accept it. Correct the address in the \
                            mail rule; an address that was refused gets no more mails until it is cleared \
                            from the silenced addresses.";
                Some(Content::new(title, body, managers(envelope)))
            },
        )
        .personal(),
        NotificationType::of(
            "webhook.auto_disabled",
            Integration,
            Critical,
            "A webhook was disabled because its receiver failed. To members who manage webhooks.",
            |event: WebhookAutoDisabled, envelope| webhook_disabled(&event.reason, envelope),
        ),
    ]
}

fn open_problem(alert: &Alert) -> Content {
    let condition = condition(alert);
    // The title has the condition.
    let body = if alert.value.is_empty() {
        "The alert closes when its target recovers.".to_owned()
    } else {
        format!("Measured value: {}.", alert.value)
    };
    let content =
        Content::new(format!("{}: {condition}", alert.target_name), body, audience(alert));
    Content { severity: Some(alert.severity()), ..content }
}

fn condition(alert: &Alert) -> &'static str {
    match alert.kind() {
        AlertKind::HighCpu => "CPU usage is high",
        AlertKind::HighMemory => "memory usage is high",
        AlertKind::LowDisk => "disk space is low",
        AlertKind::ProcessDown => "a process is down",
        AlertKind::Unhealthy => "HTTP requests fail",
        AlertKind::Restarting => "the program is restarted again and again",
        AlertKind::DeploymentFailed => "the last deployment failed",
        AlertKind::CertificateExpiring => "a certificate expires soon",
        AlertKind::ServerUnreachable => "the server is unreachable",
        AlertKind::Unspecified => "unknown problem",
    }
}

fn audience(alert: &Alert) -> Audience {
    let is_of_project = !alert.project_id.is_empty();
    Audience::holders(if is_of_project { "project.view" } else { "org.servers.list" })
}

fn webhook_disabled(reason: &str, envelope: &Envelope) -> Option<Content> {
    let host = &envelope.resource.as_ref()?.name;
    let title = format!("The webhook to {host} was disabled");
    let body = format!("Reason: {reason}. Fix the receiver, then enable the webhook.");
    Some(Content::new(title, body, managers(envelope)))
}

/// Members who manage webhooks and mail rules.
fn managers(envelope: &Envelope) -> Audience {
    let is_of_project = !envelope.project_id.is_empty();
    Audience::holders(if is_of_project { "project.webhooks.manage" } else { "org.webhooks.manage" })
}
