//! Mails about events: one mail at once for an urgent event, and one for those of the next ten seconds; one
//! mail for all other events of 15 minutes (NO-14). A mail to a person has events of one category, which a
//! link in the mail turns off. Permissions are checked again when the mail is sent (NO-10).

pub(crate) mod mail;
pub(super) mod store;

use api::notification::{NotificationCategory, Severity};
use chassis::{OrgId, ProjectId};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::catalogue::Notification;
use crate::db_enum::DbEnum;

/// Template of these mails.
pub(crate) const MAIL_TEMPLATE: &str = "digest";

/// Time for which a mail collects events that are not urgent.
const WINDOW: Duration = Duration::minutes(15);

/// Time for which a mail collects urgent events after another urgent mail to the same recipient.
const URGENT_WINDOW: Duration = Duration::seconds(10);

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
    /// Category of all items of the mail; none for mail rules.
    category: Option<DbEnum<NotificationCategory>>,
    /// True if the mail is sent at once, and contains urgent items only.
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
        let is_to_person = matches!(&recipient, Recipient::Person { .. });
        let category = notification.notification_type.category;
        Self {
            category: is_to_person.then_some(DbEnum(category)),
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

    /// Time at which a new mail with this item is sent. `urgent_mail_at` is the time of another urgent mail
    /// to the recipient within the last [`URGENT_WINDOW`].
    fn due_at(
        &self,
        urgent_mail_at: Option<OffsetDateTime>,
        now: OffsetDateTime,
    ) -> OffsetDateTime {
        match urgent_mail_at {
            Some(last) => last + URGENT_WINDOW,
            None if self.urgent => now,
            None => self.quiet_until.unwrap_or(now + WINDOW),
        }
    }
}
