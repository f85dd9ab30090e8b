//! How a person wants to be told.

pub(crate) mod store;

use api::{
    error::Reason,
    invitation::{NotificationCategory, NotificationChannel, Severity},
};
use chassis::{Code, Refusal};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::catalogue::Story;

/// One thing that a person said.
#[derive(Clone, Debug)]
pub(crate) struct Preference {
    /// Numbers of the contract.
    pub(crate) category: i32,
    pub(crate) channel: i32,
    /// Where; nil means everywhere.
    pub(crate) org_id: Uuid,
    pub(crate) project_id: Uuid,
    pub(crate) enabled: bool,
}

/// When mails wait.
#[derive(Clone, Debug)]
pub(crate) struct QuietHours {
    pub(crate) start_minute: i32,
    pub(crate) end_minute: i32,
    pub(crate) time_zone: String,
}

/// Everything that a person said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Preferences {
    pub(crate) said: Vec<Preference>,
    /// When the quiet hours end in which it is now.
    pub(crate) quiet_until: Option<OffsetDateTime>,
}

/// Why a preference is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(
        "security notices cannot be switched off: they tell you when somebody else acts in your name"
    )]
    Required,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        Code::InvalidArgument
    }

    fn reason(&self) -> Reason {
        Reason::NoticeRequired
    }
}

impl Preference {
    /// Whether it may be said (NO-13).
    pub(crate) fn check(&self) -> Result<(), Refused> {
        let security = self.category == i32::from(NotificationCategory::Security);
        if security && !self.enabled { Err(Refused::Required) } else { Ok(()) }
    }

    /// Whether it is about a story; the narrower, the greater the answer.
    fn narrowness(&self, story: &Story, channel: NotificationChannel) -> Option<u8> {
        let org_id = story.org_id.map(|it| it.0).unwrap_or_default();
        let project_id = story.project_id.map(|it| it.0).unwrap_or_default();
        let fits = self.category == i32::from(story.kind.category)
            && self.channel == i32::from(channel)
            && (self.org_id.is_nil() || self.org_id == org_id)
            && (self.project_id.is_nil() || self.project_id == project_id);
        fits.then(|| 2 * u8::from(!self.project_id.is_nil()) + u8::from(!self.org_id.is_nil()))
    }
}

impl Preferences {
    /// Whether a person is told of a story by a channel (3.7): what they said, the narrowest first; otherwise
    /// the default. Security notices always (NO-13).
    pub(crate) fn wants(&self, story: &Story, channel: NotificationChannel) -> bool {
        if story.kind.category == NotificationCategory::Security {
            return true;
        }
        let said = self.said.iter().filter_map(|it| Some((it.narrowness(story, channel)?, it)));
        match said.max_by_key(|it| it.0) {
            Some((_, it)) => it.enabled,
            None => by_default(story, channel),
        }
    }
}

/// In the application everything; by mail what is critical, and membership.
fn by_default(story: &Story, channel: NotificationChannel) -> bool {
    // An invitation has a mail of its own.
    let mailed = story.kind.category == NotificationCategory::Membership
        && story.kind.name != "invitation.received";
    channel == NotificationChannel::InApp || story.severity == Severity::Critical || mailed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{Audience, find};

    fn story(kind: &str, project: u128) -> Story {
        let kind = find(kind).unwrap();
        Story {
            kind,
            severity: kind.severity,
            event_id: Uuid::nil(),
            time: OffsetDateTime::UNIX_EPOCH,
            org_id: Some(chassis::OrgId(Uuid::from_u128(1))),
            project_id: Some(chassis::ProjectId(Uuid::from_u128(project))),
            actor_id: String::new(),
            actor_name: String::new(),
            resource: Default::default(),
            title: String::new(),
            body: String::new(),
            audience: Audience::default(),
        }
    }

    fn said(category: NotificationCategory, org: u128, project: u128, enabled: bool) -> Preference {
        let channel = NotificationChannel::Email.into();
        let (org_id, project_id) = (Uuid::from_u128(org), Uuid::from_u128(project));
        Preference { category: category.into(), channel, org_id, project_id, enabled }
    }

    /// 3.7: the narrowest word counts, then the default.
    #[test]
    fn the_narrowest_word_counts() {
        use NotificationCategory::Deployment;
        let mail = NotificationChannel::Email;
        let nothing = Preferences::default();
        assert!(nothing.wants(&story("deploy.failed", 2), mail));
        assert!(!nothing.wants(&story("deploy.completed", 2), mail));
        assert!(nothing.wants(&story("deploy.completed", 2), NotificationChannel::InApp));
        assert!(nothing.wants(&story("member.joined", 2), mail));
        assert!(!nothing.wants(&story("invitation.received", 2), mail));
        let words = vec![
            said(Deployment, 0, 0, false),
            said(Deployment, 1, 0, true),
            said(Deployment, 1, 2, false),
            said(Deployment, 9, 0, false),
        ];
        let words = Preferences { said: words, quiet_until: None };
        assert!(!words.wants(&story("deploy.failed", 2), mail));
        assert!(words.wants(&story("deploy.completed", 3), mail));
    }

    /// NO-13.
    #[test]
    fn security_notices_cannot_be_switched_off() {
        let off = said(NotificationCategory::Security, 0, 0, false);
        assert!(off.check().is_err());
        assert!(said(NotificationCategory::Billing, 0, 0, false).check().is_ok());
        let words = Preferences { said: vec![off], quiet_until: None };
        assert!(words.wants(&story("security.removed", 2), NotificationChannel::Email));
    }
}
