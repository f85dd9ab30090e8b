//! Notification types: the events of the suite that people, webhooks and mail rules are notified of, and the
//! text of each notification. A type is named like the audit action of its event. No text contains a secret,
//! a token or the message of an invitation (NO-16).

mod identity_types;
mod invitation_types;
mod notification_types;
mod project_types;
#[cfg(test)]
pub(super) mod tests;

use std::{collections::BTreeSet, fmt, sync::LazyLock};

use api::{
    event::{Actor, Envelope, Resource},
    notification::{NotificationCategory, Severity},
};
use chassis::{Error, OrgId, ProjectId, Result, datetime};
use prost::{Message, Name};
use time::OffsetDateTime;
use uuid::Uuid;

/// Function from an event (its envelope and its encoded message) to the text and the audience of the
/// notification; `None` if nobody is notified.
type Render = Box<dyn Fn(&Envelope, &[u8]) -> Option<Content> + Send + Sync>;

/// A notification type.
pub(crate) struct NotificationType {
    /// Name, for example `deployment.failed`: the audit action of the event.
    pub(crate) name: &'static str,
    /// Category, by which people choose channels.
    pub(crate) category: NotificationCategory,
    /// Severity of notifications that have none of their own.
    pub(crate) severity: Severity,
    /// True if webhooks and mail rules can subscribe to it; otherwise only the affected account receives it.
    pub(crate) for_webhooks: bool,
    /// Full name of the event's message, for example `tenantry.project.v1.DeploymentFailed`. Several types
    /// can have the same event.
    pub(crate) event: String,
    /// Condition and recipients, for clients that list the types.
    pub(crate) description: &'static str,
    render: Render,
}

/// All notification types, by name.
static TYPES: LazyLock<Vec<NotificationType>> = LazyLock::new(|| {
    let mut types = identity_types::all();
    types.extend(invitation_types::all());
    types.extend(notification_types::all());
    types.extend(project_types::all());
    types.sort_by_key(|it| it.name);
    types
});

/// A notification, rendered from an event.
#[derive(Debug)]
pub(crate) struct Notification {
    pub(crate) notification_type: &'static NotificationType,
    pub(crate) severity: Severity,
    pub(crate) event_id: Uuid,
    pub(crate) occurred_at: OffsetDateTime,
    pub(crate) org_id: Option<OrgId>,
    pub(crate) project_id: Option<ProjectId>,
    pub(crate) actor: Actor,
    /// Object of the event.
    pub(crate) resource: Resource,
    /// Title, in a few words.
    pub(crate) title: String,
    /// Body, in one or two sentences.
    pub(crate) body: String,
    pub(crate) audience: Audience,
}

/// People who receive a notification.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Audience {
    /// Permission whose present holders are notified, except the actor.
    pub(crate) permission: Option<&'static str>,
    /// Accounts that are affected by the event.
    pub(crate) user_ids: Vec<String>,
    /// E-mail address. Its account is notified; an address without an account is not.
    pub(crate) email: Option<String>,
}

/// Text and audience of a notification.
struct Content {
    title: String,
    body: String,
    audience: Audience,
    /// Severity, if it differs from the severity of the type.
    severity: Option<Severity>,
    /// URL that the suite has assigned, as the end of the body; empty for none.
    url: String,
}

impl NotificationType {
    /// A type of the event `E` that people, webhooks and mail rules can receive.
    fn of<E: Message + Name + Default>(
        name: &'static str,
        category: NotificationCategory,
        severity: Severity,
        description: &'static str,
        render: impl Fn(E, &Envelope) -> Option<Content> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            category,
            severity,
            for_webhooks: true,
            event: E::full_name(),
            description,
            render: Box::new(move |envelope, body| render(E::decode(body).ok()?, envelope)),
        }
    }

    /// The same type, for accounts only: webhooks and mail rules cannot receive it.
    fn personal(self) -> Self {
        Self { for_webhooks: false, ..self }
    }

    fn notification(&'static self, envelope: &Envelope, body: &[u8]) -> Option<Notification> {
        let content = (self.render)(envelope, body)?;
        Some(Notification {
            notification_type: self,
            severity: content.severity.unwrap_or(self.severity),
            event_id: Uuid::try_parse(&envelope.id).ok()?,
            occurred_at: envelope
                .occur_time
                .and_then(datetime)
                .unwrap_or(OffsetDateTime::UNIX_EPOCH),
            org_id: envelope.org_id.parse().ok(),
            project_id: envelope.project_id.parse().ok(),
            actor: envelope.actor.clone().unwrap_or_default(),
            resource: envelope.resource.clone().unwrap_or_default(),
            // Names, branches and error messages are typed by people (N-10).
            title: mail::neutralize_links(&content.title),
            body: mail::neutralize_links(&content.body) + &content.url,
            audience: content.audience,
        })
    }
}

impl fmt::Debug for NotificationType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NotificationType").field(&self.name).finish()
    }
}

impl Content {
    fn new(title: impl Into<String>, body: impl Into<String>, audience: Audience) -> Self {
        Self {
            title: title.into(),
            body: body.into(),
            audience,
            severity: None,
            url: String::new(),
        }
    }
}

impl Audience {
    /// Holders of a permission.
    fn holders(permission: &'static str) -> Self {
        Self { permission: Some(permission), ..Self::default() }
    }

    /// One account.
    fn user(user_id: impl Into<String>) -> Self {
        Self { user_ids: vec![user_id.into()], ..Self::default() }
    }
}

/// All notification types, by name.
pub(crate) fn types() -> &'static [NotificationType] {
    &TYPES
}

/// Finds a notification type by its name.
pub(crate) fn find(name: &str) -> Option<&'static NotificationType> {
    types().iter().find(|it| it.name == name)
}

/// Returns names of notification types, if webhooks and mail rules can receive all of them.
pub(crate) fn subscribable(names: &[String]) -> Result<Vec<String>> {
    let is_allowed = |name: &String| find(name).is_some_and(|it| it.for_webhooks);
    match names.iter().find(|it| !is_allowed(it)) {
        Some(name) => Err(Error::invalid(
            "event_types",
            format!("must be names from ListEventTypes with for_webhooks; \"{name}\" is not one"),
        )),
        None => Ok(names.to_vec()),
    }
}

/// Full names of the messages of all events that have a notification type.
pub(crate) fn event_names() -> BTreeSet<String> {
    types().iter().map(|it| it.event.clone()).collect()
}

/// Renders the notifications of an event.
pub(crate) fn render(envelope: &Envelope) -> Vec<Notification> {
    let Some(event) = &envelope.event else { return vec![] };
    let name = event.type_url.trim_start_matches('/');
    let types = types().iter().filter(|it| it.event == name);
    types.filter_map(|it| it.notification(envelope, &event.value)).collect()
}

/// Name of the actor in a sentence.
fn actor_name(envelope: &Envelope) -> &str {
    match &envelope.actor {
        Some(actor) if !actor.name.is_empty() => &actor.name,
        _ => "Somebody",
    }
}
