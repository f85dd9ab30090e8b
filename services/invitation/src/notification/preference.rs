//! Notification preferences: channels that a person turned on or off, and quiet hours without mails.

pub(super) mod store;

use api::{
    error::Reason,
    notification::{NotificationCategory, NotificationChannel, Severity},
};
use chassis::{Code, Refusal};
use time::OffsetDateTime;
use uuid::Uuid;

use super::catalogue::Notification;
use crate::db_enum::DbEnum;

/// A channel, turned on or off for one category.
#[derive(Clone, Debug)]
pub(super) struct Preference {
    pub(super) category: DbEnum<NotificationCategory>,
    pub(super) channel: DbEnum<NotificationChannel>,
    /// Organization to which the preference is restricted; nil for all.
    pub(super) org_id: Uuid,
    /// Project to which the preference is restricted; nil for all.
    pub(super) project_id: Uuid,
    pub(super) enabled: bool,
}

/// All preferences of a person.
#[derive(Clone, Debug, Default)]
pub(super) struct Preferences {
    pub(super) preferences: Vec<Preference>,
    /// End of the present quiet hours; `None` outside of quiet hours.
    pub(super) quiet_until: Option<OffsetDateTime>,
}

/// Reasons for refusing a preference.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("security notifications report changes of your own account; they cannot be turned off")]
    Security,
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
    /// Refuses to turn off security notifications (NO-13).
    pub(super) fn check(&self) -> Result<(), Refused> {
        let is_security = self.category.0 == NotificationCategory::Security;
        if is_security && !self.enabled { Err(Refused::Security) } else { Ok(()) }
    }

    /// Specificity of the preference for a notification, greater for a project than for an organization;
    /// `None` if it does not apply.
    fn specificity(&self, notification: &Notification, channel: NotificationChannel) -> Option<u8> {
        let org_id = notification.org_id.map(|it| it.0).unwrap_or_default();
        let project_id = notification.project_id.map(|it| it.0).unwrap_or_default();
        let applies = self.category.0 == notification.notification_type.category
            && self.channel.0 == channel
            && (self.org_id.is_nil() || self.org_id == org_id)
            && (self.project_id.is_nil() || self.project_id == project_id);
        applies.then(|| 2 * u8::from(!self.project_id.is_nil()) + u8::from(!self.org_id.is_nil()))
    }
}

impl Preferences {
    /// True if a person receives a notification by a channel: by their most specific preference, or else by
    /// the default. Security notifications are always received (NO-13).
    pub(super) fn allow(&self, notification: &Notification, channel: NotificationChannel) -> bool {
        if notification.notification_type.category == NotificationCategory::Security {
            return true;
        }
        let applicable = self.preferences.iter().filter_map(|preference| {
            Some((preference.specificity(notification, channel)?, preference))
        });
        match applicable.max_by_key(|(specificity, _)| *specificity) {
            Some((_, preference)) => preference.enabled,
            None => is_on_by_default(notification, channel),
        }
    }
}

/// True if a channel is on without a preference: in the application for every notification, by mail for
/// critical ones and for those about membership and payments.
fn is_on_by_default(notification: &Notification, channel: NotificationChannel) -> bool {
    let notification_type = notification.notification_type;
    // An invited person gets the mail of the invitation itself.
    let is_mailed_membership = notification_type.category == NotificationCategory::Membership
        && notification_type.name != "user.invited";
    let is_critical = notification.severity == Severity::Critical;
    let is_billing = notification_type.category == NotificationCategory::Billing;
    channel == NotificationChannel::InApp || is_critical || is_mailed_membership || is_billing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification::catalogue::{Audience, find};

    fn notification(name: &str, project: u128) -> Notification {
        let notification_type = find(name).unwrap();
        Notification {
            notification_type,
            severity: notification_type.severity,
            event_id: Uuid::nil(),
            occurred_at: OffsetDateTime::UNIX_EPOCH,
            org_id: Some(chassis::OrgId(Uuid::from_u128(1))),
            project_id: Some(chassis::ProjectId(Uuid::from_u128(project))),
            actor: api::event::Actor::default(),
            resource: api::event::Resource::default(),
            title: String::new(),
            body: String::new(),
            audience: Audience::default(),
        }
    }

    fn mail_preference(
        category: NotificationCategory,
        org: u128,
        project: u128,
        enabled: bool,
    ) -> Preference {
        Preference {
            category: DbEnum(category),
            channel: DbEnum(NotificationChannel::Email),
            org_id: Uuid::from_u128(org),
            project_id: Uuid::from_u128(project),
            enabled,
        }
    }

    #[test]
    fn the_most_specific_preference_counts() {
        use NotificationCategory::Deployment;
        let mail = NotificationChannel::Email;
        let default = Preferences::default();
        assert!(default.allow(&notification("deployment.failed", 2), mail));
        assert!(!default.allow(&notification("deployment.completed", 2), mail));
        let in_app = NotificationChannel::InApp;
        assert!(default.allow(&notification("deployment.completed", 2), in_app));
        assert!(default.allow(&notification("member.joined", 2), mail));
        assert!(!default.allow(&notification("user.invited", 2), mail));
        let preferences = vec![
            mail_preference(Deployment, 0, 0, false),
            mail_preference(Deployment, 1, 0, true),
            mail_preference(Deployment, 1, 2, false),
            mail_preference(Deployment, 9, 0, false),
        ];
        let chosen = Preferences { preferences, quiet_until: None };
        assert!(chosen.allow(&notification("subscription.changed", 2), mail));
        assert!(!chosen.allow(&notification("deployment.failed", 2), mail));
        assert!(chosen.allow(&notification("deployment.completed", 3), mail));
    }

    /// NO-13.
    #[test]
    fn security_notifications_cannot_be_turned_off() {
        let off = mail_preference(NotificationCategory::Security, 0, 0, false);
        assert!(off.check().is_err());
        assert!(mail_preference(NotificationCategory::Billing, 0, 0, false).check().is_ok());
        let preferences = Preferences { preferences: vec![off], quiet_until: None };
        let removed = notification("user.removed_from_organization", 2);
        assert!(preferences.allow(&removed, NotificationChannel::Email));
    }
}
