//! Between the contract and the rules.

use api::invitation as pb;
use chassis::{About, Changed, Error, Result, UserId, timestamp};
use uuid::Uuid;

use super::Notification;
use crate::{
    catalogue::KINDS,
    preference::{Preference, QuietHours},
};

impl From<&Notification> for pb::Notification {
    fn from(it: &Notification) -> Self {
        let text = |it: Option<Uuid>| it.map(|it| it.to_string()).unwrap_or_default();
        Self {
            id: it.id.to_string(),
            org_id: text(it.org_id),
            project_id: text(it.project_id),
            event_type: it.event_type.clone(),
            category: it.category,
            severity: it.severity,
            title: it.title.clone(),
            body: it.body.clone(),
            event_id: it.event_id.to_string(),
            read: it.read_at.is_some(),
            create_time: Some(timestamp(it.created_at)),
        }
    }
}

/// The catalogue.
pub(super) fn catalogue() -> Vec<pb::EventType> {
    let entry = |it: &crate::catalogue::Kind| pb::EventType {
        name: it.name.to_owned(),
        category: it.category.into(),
        severity: it.severity.into(),
        for_webhooks: it.for_hooks,
        description: it.about.to_owned(),
    };
    KINDS.iter().map(entry).collect()
}

/// An id that may be missing.
pub(super) fn id(field: &'static str, text: &str) -> Result<Option<Uuid>> {
    if text.is_empty() { Ok(None) } else { Ok(Some(chassis::id::parse(field, text)?)) }
}

/// Several ids.
pub(super) fn ids(texts: &[String]) -> Result<Vec<Uuid>> {
    texts.iter().map(|it| chassis::id::parse("notification_ids", it)).collect()
}

/// What a person says about how they are told.
pub(super) fn preference(it: Option<&pb::NotificationPreference>) -> Result<Preference> {
    let it = it.ok_or_else(|| Error::invalid("preference", "must be given"))?;
    let project_id = id("preference.project_id", &it.project_id)?.unwrap_or_default();
    let org_id = id("preference.org_id", &it.org_id)?.unwrap_or_default();
    if !project_id.is_nil() && org_id.is_nil() {
        return Err(Error::invalid("preference.org_id", "must name the project's organization"));
    }
    let (category, channel, enabled) = (it.category, it.channel, it.enabled);
    Ok(Preference { category, channel, org_id, project_id, enabled })
}

impl From<&Preference> for pb::NotificationPreference {
    fn from(it: &Preference) -> Self {
        let text = |it: Uuid| if it.is_nil() { String::new() } else { it.to_string() };
        Self {
            category: it.category,
            channel: it.channel,
            org_id: text(it.org_id),
            project_id: text(it.project_id),
            enabled: it.enabled,
        }
    }
}

impl From<&pb::QuietHours> for QuietHours {
    fn from(it: &pb::QuietHours) -> Self {
        let time_zone = it.time_zone.clone();
        Self { start_minute: it.start_minute, end_minute: it.end_minute, time_zone }
    }
}

impl From<&QuietHours> for pb::QuietHours {
    fn from(it: &QuietHours) -> Self {
        let time_zone = it.time_zone.clone();
        Self { start_minute: it.start_minute, end_minute: it.end_minute, time_zone }
    }
}

/// A person is told in another way from now on.
pub(super) fn changed(
    user_id: UserId,
    set: Option<&Preference>,
    quiet: Option<&QuietHours>,
) -> Changed<()> {
    let event = pb::NotificationPreferencesUpdated {
        preferences: set.into_iter().map(Into::into).collect(),
        quiet_hours: quiet.map(Into::into),
    };
    Changed::new((), &event, About::object("user", user_id, ""))
}

/// A person has read notifications.
pub(super) fn read(user_id: UserId, count: i32) -> Changed<()> {
    let event = pb::NotificationsRead { count };
    Changed::new((), &event, About::object("user", user_id, ""))
}

/// A person took notifications out of their list.
pub(super) fn dismissed(user_id: UserId, count: i32) -> Changed<()> {
    let event = pb::NotificationsDismissed { count };
    Changed::new((), &event, About::object("user", user_id, ""))
}
