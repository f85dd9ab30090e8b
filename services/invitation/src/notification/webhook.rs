//! Webhooks: one signed HTTP POST for each event. Delivery is at least once and in no order; a slow receiver
//! delays no other.

mod commands;
pub(crate) mod delivery;
pub(crate) mod dispatcher;
pub(crate) mod format;
pub(crate) mod rpc;
pub(crate) mod sender;
mod signature;
pub(crate) mod store;
pub(crate) mod target;
mod wire;

use api::notification::{self as pb, WebhookFormat};
use chassis::{Changed, EventTarget, OrgId, ProjectId, key};
use prost::{Message, Name};
use time::{Duration, OffsetDateTime};

use self::sender::FailureKind;
use super::scope::{LimitReached, Scope, check_limit};
use crate::db_enum::DbEnum;

chassis::id!(
    /// Identifies a webhook.
    WebhookId,
    "webhook"
);

/// Largest number of webhooks of one organization.
const WEBHOOKS_MAX: i64 = 200;

/// Time after a rotation in which deliveries are also signed with the former secret.
const OLD_SECRET_VALIDITY: Duration = Duration::hours(24);

/// Time of uninterrupted failures after which a webhook is disabled.
const FAILING_MAX: Duration = Duration::days(5);

/// A receiver of events of an organization or a project.
#[derive(Clone, Debug)]
pub(crate) struct Webhook {
    pub(crate) id: WebhookId,
    pub(crate) org_id: OrgId,
    pub(crate) project_id: Option<ProjectId>,
    pub(crate) url: String,
    /// Names of notification types; empty for all.
    pub(crate) event_types: Vec<String>,
    pub(crate) description: String,
    /// Format of the bodies of requests.
    pub(crate) format: DbEnum<WebhookFormat>,
    pub(crate) enabled: bool,
    /// Reason for which the suite disabled the webhook; empty if it did not.
    pub(crate) disabled_reason: String,
    /// Signing secret, encrypted under the deployment's key.
    pub(crate) secret: Vec<u8>,
    /// Signing secret before the last rotation, encrypted under the same key.
    pub(crate) old_secret: Option<Vec<u8>>,
    pub(crate) old_secret_until: Option<OffsetDateTime>,
    /// Failed attempts since the last success.
    pub(crate) failure_count: i32,
    /// Time of the first of these failures.
    pub(crate) failing_since: Option<OffsetDateTime>,
    pub(crate) last_triggered_at: Option<OffsetDateTime>,
    pub(crate) created_at: OffsetDateTime,
}

/// Settings of a webhook.
pub(crate) struct Settings {
    pub(crate) url: String,
    pub(crate) event_types: Vec<String>,
    pub(crate) description: String,
    pub(crate) format: WebhookFormat,
    pub(crate) enabled: bool,
}

/// A change together with the new signing secret, which is shown once.
pub(crate) struct WithSecret {
    pub(crate) changed: Changed<Webhook>,
    /// Secret as text, for example `whsec_…`.
    pub(crate) secret: String,
}

impl Webhook {
    /// Creates a webhook with a new secret.
    pub(crate) fn create(
        scope: Scope,
        settings: Settings,
        existing_count: i64,
        secret_keys: &key::DerivedKeys,
        now: OffsetDateTime,
    ) -> Result<WithSecret, LimitReached> {
        check_limit(existing_count, WEBHOOKS_MAX, "webhooks")?;
        let id = WebhookId::new();
        let secret = signature::NewSecret::generate(secret_keys, id);
        let webhook = Self {
            id,
            org_id: scope.org_id,
            project_id: scope.project_id,
            url: settings.url,
            event_types: settings.event_types,
            description: settings.description,
            format: DbEnum(settings.format),
            enabled: true,
            disabled_reason: String::new(),
            secret: secret.sealed,
            old_secret: None,
            old_secret_until: None,
            failure_count: 0,
            failing_since: None,
            last_triggered_at: None,
            created_at: now,
        };
        let event = pb::WebhookCreated { after: Some(webhook.to_event_message()) };
        Ok(WithSecret { changed: webhook.with_event(&event), secret: secret.text })
    }

    /// Changes the settings. Enabling a disabled webhook resets its failures.
    pub(crate) fn update(self, settings: Settings) -> Changed<Self> {
        let before = Some(self.to_event_message());
        let was_disabled = !self.enabled;
        let mut webhook = Self {
            url: settings.url,
            event_types: settings.event_types,
            description: settings.description,
            format: DbEnum(settings.format),
            enabled: settings.enabled,
            ..self
        };
        if webhook.enabled && was_disabled {
            webhook.disabled_reason.clear();
            webhook.failure_count = 0;
            webhook.failing_since = None;
        }
        let event = pb::WebhookUpdated { before, after: Some(webhook.to_event_message()) };
        webhook.with_event(&event)
    }

    /// Generates a new secret. The former one stays valid for a day (NO-4).
    pub(crate) fn rotate_secret(
        self,
        secret_keys: &key::DerivedKeys,
        now: OffsetDateTime,
    ) -> WithSecret {
        let secret = signature::NewSecret::generate(secret_keys, self.id);
        let webhook = Self {
            secret: secret.sealed,
            old_secret: Some(self.secret),
            old_secret_until: Some(now + OLD_SECRET_VALIDITY),
            ..self
        };
        let event = pb::WebhookSecretRotated { after: Some(webhook.to_event_message()) };
        WithSecret { changed: webhook.with_event(&event), secret: secret.text }
    }

    /// The event of a test request.
    pub(crate) fn tested(self, success: bool, response_status: i32) -> Changed<Self> {
        let after = Some(self.to_event_message());
        let event = pb::WebhookTested { after, success, response_status };
        self.with_event(&event)
    }

    /// The event of a replay of deliveries.
    pub(crate) fn replayed(self, count: i32) -> Changed<Self> {
        let after = Some(self.to_event_message());
        let event = pb::WebhookDeliveriesReplayed { after, count };
        self.with_event(&event)
    }

    /// Deletes the webhook.
    pub(crate) fn delete(self) -> Changed<Self> {
        let event = pb::WebhookDeleted { before: Some(self.to_event_message()) };
        self.with_event(&event)
    }

    /// Reason for disabling the webhook after a failed attempt, if there is one (N-14).
    pub(crate) fn disable_reason(
        &self,
        failure: FailureKind,
        now: OffsetDateTime,
    ) -> Option<&'static str> {
        if failure == FailureKind::Gone {
            return Some("the receiver answered 410 Gone");
        }
        let failing_since = self.failing_since?;
        let failed_too_long = failing_since + FAILING_MAX <= now;
        failed_too_long.then_some("the receiver failed for five days")
    }

    /// Disables the webhook because its receiver failed.
    pub(crate) fn auto_disable(self, reason: &str) -> Changed<Self> {
        let before = Some(self.to_event_message());
        let webhook = Self { enabled: false, disabled_reason: reason.to_owned(), ..self };
        let after = Some(webhook.to_event_message());
        let event = pb::WebhookAutoDisabled { before, after, reason: reason.to_owned() };
        webhook.with_event(&event)
    }

    fn with_event<E: Message + Name>(self, event: &E) -> Changed<Self> {
        let scope = Scope { org_id: self.org_id, project_id: self.project_id };
        // Only the host: path and query of a webhook URL are often secret (NO-16).
        let object = EventTarget::object("webhook", self.id, target::host_name(&self.url));
        Changed::new(self, event, scope.add_to(object))
    }
}
