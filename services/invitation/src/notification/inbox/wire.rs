//! Conversion between the contract and notifications and preferences.

use api::notification as pb;
use chassis::{Changed, Error, EventTarget, Result, UserId, timestamp};
use prost::{Message, Name};
use uuid::Uuid;

use super::InboxItem;
use crate::{
    db_enum::DbEnum,
    notification::{
        catalogue::{self, NotificationType},
        preference::Preference,
    },
};

impl From<&InboxItem> for pb::Notification {
    fn from(item: &InboxItem) -> Self {
        let text = |id: Option<Uuid>| id.map(|it| it.to_string()).unwrap_or_default();
        Self {
            id: item.id.to_string(),
            org_id: text(item.org_id),
            project_id: text(item.project_id),
            event_type: item.event_type.clone(),
            category: item.category.into(),
            severity: item.severity.into(),
            title: item.title.clone(),
            body: item.body.clone(),
            event_id: item.event_id.to_string(),
            read: item.read_at.is_some(),
            create_time: Some(timestamp(item.created_at)),
        }
    }
}

/// All notification types.
pub(super) fn event_types() -> Vec<pb::EventType> {
    let message = |it: &NotificationType| pb::EventType {
        name: it.name.to_owned(),
        category: it.category.into(),
        severity: it.severity.into(),
        for_webhooks: it.for_webhooks,
        description: it.description.to_owned(),
    };
    catalogue::types().iter().map(message).collect()
}

/// Parses an id that may be empty.
pub(super) fn optional_id(field: &'static str, text: &str) -> Result<Option<Uuid>> {
    if text.is_empty() { Ok(None) } else { Ok(Some(chassis::id::parse(field, text)?)) }
}

/// Parses the ids of notifications.
pub(super) fn notification_ids(texts: &[String]) -> Result<Vec<Uuid>> {
    texts.iter().map(|it| chassis::id::parse("notification_ids", it)).collect()
}

/// Parses a preference. A project needs its organization.
pub(super) fn preference(message: Option<&pb::NotificationPreference>) -> Result<Preference> {
    let message = message.ok_or_else(|| Error::invalid("preference", "must be set"))?;
    let project_id = optional_id("preference.project_id", &message.project_id)?;
    let org_id = optional_id("preference.org_id", &message.org_id)?;
    if project_id.is_some() && org_id.is_none() {
        return Err(Error::invalid("preference.org_id", "must be the organization of the project"));
    }
    Ok(Preference {
        category: DbEnum(message.category()),
        channel: DbEnum(message.channel()),
        org_id: org_id.unwrap_or_default(),
        project_id: project_id.unwrap_or_default(),
        enabled: message.enabled,
    })
}

impl From<&Preference> for pb::NotificationPreference {
    fn from(preference: &Preference) -> Self {
        let text = |id: Uuid| if id.is_nil() { String::new() } else { id.to_string() };
        Self {
            category: preference.category.into(),
            channel: preference.channel.into(),
            org_id: text(preference.org_id),
            project_id: text(preference.project_id),
            enabled: preference.enabled,
        }
    }
}

/// An event of the account itself.
pub(super) fn user_event<E: Message + Name>(user_id: UserId, event: &E) -> Changed<()> {
    Changed::new((), event, EventTarget::object("user", user_id, ""))
}

/// The event of changed preferences or quiet hours.
pub(super) fn preferences_updated(
    preference: Option<&Preference>,
    quiet_hours: Option<pb::QuietHours>,
) -> pb::NotificationPreferencesUpdated {
    let preferences = preference.into_iter().map(Into::into).collect();
    pb::NotificationPreferencesUpdated { preferences, quiet_hours }
}
