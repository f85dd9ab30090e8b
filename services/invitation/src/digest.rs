//! Mails that tell of events: of one at once, if it is critical; of several together, if they can wait
//! (NO-14). Who may see what is asked once more when the mail leaves (NO-10).

pub(crate) mod mail;
pub(crate) mod store;

use api::invitation::{NotificationCategory, Severity};
use chassis::{OrgId, ProjectId};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::catalogue::Story;

/// The template of these mails.
pub(crate) const MAIL: &str = "digest";

/// How long what is not critical waits for more.
pub(crate) const WINDOW: Duration = Duration::minutes(15);

/// Mails of rules that one organization sends in an hour.
pub(crate) const RULE_MAILS_MAX: i64 = 200;

/// Whom a mail is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Recipient {
    /// An account, at the address it has now.
    Person(Uuid, String),
    /// An address of a rule.
    Rule(Uuid, String),
}

/// One event for one recipient.
pub(crate) struct Letter {
    pub(crate) org_id: Option<OrgId>,
    pub(crate) project_id: Option<ProjectId>,
    pub(crate) to: Recipient,
    /// What the recipient must be allowed to see; empty for what happened to themselves.
    pub(crate) permission: &'static str,
    pub(crate) title: String,
    pub(crate) body: String,
    /// Leaves at once, and alone.
    pub(crate) urgent: bool,
    /// When the quiet hours of the recipient end, if it must wait for that.
    pub(crate) quiet_until: Option<OffsetDateTime>,
}

impl Letter {
    /// How a story is mailed to somebody.
    pub(crate) fn of(story: &Story, to: Recipient, quiet_until: Option<OffsetDateTime>) -> Self {
        let urgent = story.severity == Severity::Critical
            || story.kind.category == NotificationCategory::Security;
        let own = matches!(&to, Recipient::Person(id, _)
            if story.audience.users.contains(&id.to_string()) || story.audience.address.is_some());
        Self {
            org_id: story.org_id,
            project_id: story.project_id,
            permission: if own { "" } else { story.audience.holders.unwrap_or_default() },
            title: story.title.clone(),
            body: story.body.clone(),
            urgent,
            quiet_until: quiet_until.filter(|_| !urgent),
            to,
        }
    }

    /// When it leaves at the latest.
    pub(crate) fn due(&self, now: OffsetDateTime) -> OffsetDateTime {
        if self.urgent { now } else { self.quiet_until.unwrap_or(now + WINDOW) }
    }
}
