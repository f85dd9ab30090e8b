//! Mails about events: a mail at once for each urgent event, one mail for all other events of 15 minutes
//! (NO-14). Permissions are checked again when the mail is sent (NO-10).

pub(crate) mod mail;
pub(super) mod store;

use api::notification::{NotificationCategory, Severity};
use chassis::{OrgId, ProjectId};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::catalogue::Notification;

/// Template of these mails.
pub(crate) const MAIL_TEMPLATE: &str = "digest";

/// Time for which a mail collects events that are not urgent.
const WINDOW: Duration = Duration::minutes(15);

/// Largest number of mails of mail rules that one organization sends in an hour.
const RULE_MAILS_MAX: i64 = 200;

/// Recipient of a mail about events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Recipient {
    /// An account. The mail goes to the e-mail address that it has when the mail is sent.
    Person { user_id: Uuid },
    /// An address of a mail rule.
    Rule { rule_id: Uuid, address: String },
}

/// One event in a mail to one recipient.
#[derive(Debug)]
pub(super) struct DigestItem {
    org_id: Option<OrgId>,
    project_id: Option<ProjectId>,
    recipient: Recipient,
    /// Permission that the recipient needs when the mail is sent; empty if the event affects the recipient's
    /// own account.
    permission: &'static str,
    title: String,
    body: String,
    /// True if the mail is sent at once and contains nothing else.
    urgent: bool,
    /// End of the recipient's quiet hours, if the mail waits for it.
    quiet_until: Option<OffsetDateTime>,
}

impl DigestItem {
    /// The item of a notification. Quiet hours do not delay urgent ones.
    pub(super) fn new(
        notification: &Notification,
        recipient: Recipient,
        quiet_until: Option<OffsetDateTime>,
    ) -> Self {
        let urgent = notification.severity == Severity::Critical
            || notification.notification_type.category == NotificationCategory::Security;
        let audience = &notification.audience;
        let affects_recipient = matches!(&recipient, Recipient::Person { user_id }
            if audience.user_ids.contains(&user_id.to_string()) || audience.email.is_some());
        let permission = audience.permission.unwrap_or_default();
        Self {
            org_id: notification.org_id,
            project_id: notification.project_id,
            recipient,
            permission: if affects_recipient { "" } else { permission },
            title: notification.title.clone(),
            body: notification.body.clone(),
            urgent,
            quiet_until: quiet_until.filter(|_| !urgent),
        }
    }

    /// Time at which a new mail with this item is sent.
    fn due_at(&self, now: OffsetDateTime) -> OffsetDateTime {
        if self.urgent { now } else { self.quiet_until.unwrap_or(now + WINDOW) }
    }
}
