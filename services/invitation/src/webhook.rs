//! Webhooks: an HTTP POST for each event. At least once, in no order, and no receiver delays another.

pub(crate) mod dispatch;
pub(crate) mod format;
pub(crate) mod rpc;
pub(crate) mod sender;
mod signature;
pub(crate) mod store;
pub(crate) mod target;
mod wire;

use api::{error::Reason, invitation as pb};
use chassis::{About, Changed, Code, OrgId, ProjectId, Refusal, key};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

pub(crate) use self::signature::Signer;

chassis::id!(
    /// Identifies a webhook.
    WebhookId,
    "webhook"
);

/// Webhooks of one organization.
pub(crate) const WEBHOOKS_MAX: i64 = 200;

/// How long deliveries are signed with the old secret, too.
const OVERLAP: Duration = Duration::hours(24);

/// A receiver that fails for so long is given up.
const PATIENCE: Duration = Duration::days(5);

/// How long after a failed try the next one comes (N-14).
const PAUSES: [Duration; 9] = [
    Duration::seconds(5),
    Duration::minutes(5),
    Duration::minutes(30),
    Duration::hours(2),
    Duration::hours(5),
    Duration::hours(10),
    Duration::hours(14),
    Duration::hours(20),
    Duration::hours(24),
];

/// Where events go.
#[derive(Clone, Debug)]
pub(crate) struct Webhook {
    pub(crate) id: WebhookId,
    pub(crate) org_id: OrgId,
    pub(crate) project_id: Option<ProjectId>,
    pub(crate) url: String,
    pub(crate) event_types: Vec<String>,
    pub(crate) description: String,
    /// A number of the contract.
    pub(crate) format: i32,
    pub(crate) enabled: bool,
    pub(crate) disabled_reason: String,
    pub(crate) secret: Vec<u8>,
    pub(crate) old_secret: Option<Vec<u8>>,
    pub(crate) old_secret_until: Option<OffsetDateTime>,
    pub(crate) failure_count: i32,
    pub(crate) failing_since: Option<OffsetDateTime>,
    pub(crate) last_triggered_at: Option<OffsetDateTime>,
    pub(crate) created_at: OffsetDateTime,
}

/// What its manager decides.
pub(crate) struct Draft {
    pub(crate) url: String,
    pub(crate) event_types: Vec<String>,
    pub(crate) description: String,
    pub(crate) format: i32,
    pub(crate) enabled: bool,
}

/// Why a webhook is not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the organization has {0} webhooks, and may not have more; delete one")]
    TooMany(i64),
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        Code::ResourceExhausted
    }

    fn reason(&self) -> Reason {
        Reason::HookLimitReached
    }
}

/// What became of a delivery after a try; numbers of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Pending = 1,
    Delivered = 2,
    Failed = 3,
}

/// Why a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It can be tried again.
    Passing,
    /// The receiver says that it is gone for good (410).
    Gone,
}

/// When a delivery that has failed so often is tried again; `None` means never. `spread` is between 0 and 1:
/// receivers that failed together are not tried together.
pub(crate) fn next_try(attempts: i32, spread: f64, now: OffsetDateTime) -> Option<OffsetDateTime> {
    let pause = PAUSES.get(usize::try_from(attempts).ok()?.checked_sub(1)?)?;
    Some(now + *pause * (1.0 + 0.1 * spread))
}

impl Webhook {
    /// A new webhook, with its secret.
    pub(crate) fn create(
        (org_id, project_id): (OrgId, Option<ProjectId>),
        draft: Draft,
        others: i64,
        seal: &key::Secret,
        now: OffsetDateTime,
    ) -> Result<(Changed<Self>, String), Refused> {
        if others >= WEBHOOKS_MAX {
            return Err(Refused::TooMany(others));
        }
        let id = WebhookId::new();
        let (secret, shown) = signature::new_secret(seal, id.0);
        let it = Self {
            id,
            org_id,
            project_id,
            url: draft.url,
            event_types: draft.event_types,
            description: draft.description,
            format: draft.format,
            enabled: true,
            disabled_reason: String::new(),
            secret,
            old_secret: None,
            old_secret_until: None,
            failure_count: 0,
            failing_since: None,
            last_triggered_at: None,
            created_at: now,
        };
        let event = pb::WebhookCreated { after: Some(it.told()) };
        let about = it.about();
        Ok((Changed::new(it, &event, about), shown))
    }

    /// Something about it is different from now on. Enabling it again forgets its failures.
    pub(crate) fn change(self, draft: Draft) -> Changed<Self> {
        let before = Some(self.told());
        let again = draft.enabled && !self.enabled;
        let it = Self {
            url: draft.url,
            event_types: draft.event_types,
            description: draft.description,
            format: draft.format,
            enabled: draft.enabled,
            ..self
        };
        let it = if again {
            let disabled_reason = String::new();
            Self { disabled_reason, failure_count: 0, failing_since: None, ..it }
        } else {
            it
        };
        let event = pb::WebhookUpdated { before, after: Some(it.told()) };
        let about = it.about();
        Changed::new(it, &event, about)
    }

    /// A new secret; the old one lives on for a day (overrules NO-4).
    pub(crate) fn rotate(self, seal: &key::Secret, now: OffsetDateTime) -> (Changed<Self>, String) {
        let (secret, shown) = signature::new_secret(seal, self.id.0);
        let old_secret = Some(self.secret);
        let it = Self { secret, old_secret, old_secret_until: Some(now + OVERLAP), ..self };
        let event = pb::WebhookSecretRotated { after: Some(it.told()) };
        let about = it.about();
        (Changed::new(it, &event, about), shown)
    }

    /// It was tried by its manager.
    pub(crate) fn tested(self, success: bool, response_status: i32) -> Changed<Self> {
        let event = pb::WebhookTested { after: Some(self.told()), success, response_status };
        let about = self.about();
        Changed::new(self, &event, about)
    }

    /// Its deliveries are made again.
    pub(crate) fn replayed(self, count: i32) -> Changed<Self> {
        let event = pb::DeliveriesReplayed { after: Some(self.told()), count };
        let about = self.about();
        Changed::new(self, &event, about)
    }

    /// It is gone.
    pub(crate) fn delete(self) -> Changed<Self> {
        let event = pb::WebhookDeleted { before: Some(self.told()) };
        let about = self.about();
        Changed::new(self, &event, about)
    }

    /// Whether a failure is one too many, and why (N-14).
    pub(crate) fn hopeless(&self, failure: Failure, now: OffsetDateTime) -> Option<&'static str> {
        if failure == Failure::Gone {
            return Some("the receiver answered 410: it is gone for good");
        }
        let since = self.failing_since?;
        (since + PATIENCE <= now).then_some("the receiver failed for five days")
    }

    /// The suite gives it up, and tells.
    pub(crate) fn disable(self, reason: &str) -> Changed<Self> {
        let before = Some(self.told());
        let it = Self { enabled: false, disabled_reason: reason.to_owned(), ..self };
        let event =
            pb::WebhookAutoDisabled { before, after: Some(it.told()), reason: reason.to_owned() };
        let about = it.about();
        Changed::new(it, &event, about)
    }

    fn about(&self) -> About {
        // By its host only: the rest of an address is often a secret (NO-16).
        let about = About::object("webhook", self.id, wire::host(&self.url)).of(self.org_id);
        match self.project_id {
            Some(project_id) => about.in_project(project_id),
            None => about,
        }
    }
}

/// The id under which something is sent, as the key of its signature.
pub(crate) type MessageId = Uuid;

#[cfg(test)]
mod tests {
    use super::*;

    /// NO-5, as N-14 has it: ten tries within 75 hours and 35 minutes, plus their spread.
    #[test]
    fn a_delivery_is_tried_ten_times_in_three_days() {
        let start = OffsetDateTime::UNIX_EPOCH;
        let (mut now, mut attempts) = (start, 1);
        while let Some(next) = next_try(attempts, 0.0, now) {
            (now, attempts) = (next, attempts + 1);
        }
        assert_eq!(attempts, 10);
        assert_eq!(now - start, Duration::minutes(75 * 60 + 35) + Duration::seconds(5));
        assert_eq!(next_try(1, 1.0, start), Some(start + Duration::milliseconds(5_500)));
        assert_eq!(next_try(0, 0.0, start), None);
    }
}
