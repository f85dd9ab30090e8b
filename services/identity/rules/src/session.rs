//! Sessions of signed-in people. Their tokens are opaque references to a row, so that a session can be
//! ended at once.

mod wire;

use api::{event, identity as pb};
use chassis::{Changed, EventTarget, UserId};
use prost::{Message, Name};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// Longest duration of a session.
const LIFETIME: Duration = Duration::days(30);

/// A session ends after this time without use (I-09).
pub const IDLE_TIMEOUT: Duration = Duration::hours(12);

/// A session.
#[derive(Clone, Debug)]
pub struct Session {
    pub id: Uuid,
    pub user_id: UserId,
    pub created_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
    /// Updated at most once a minute.
    pub last_used_at: OffsetDateTime,
    /// Time of the last authentication: the sign-in, or a later call of `Reauthenticate`.
    pub proved_at: OffsetDateTime,
    /// Network address of the sign-in.
    pub address: String,
    pub user_agent: String,
}

impl Session {
    /// Starts a session after a successful sign-in. `method` names how the person authenticated, for example
    /// `password+code`.
    pub fn start(
        user_id: UserId,
        method: &str,
        origin: &event::Origin,
        now: OffsetDateTime,
    ) -> Changed<Self> {
        let session = Self {
            id: chassis::id::new(),
            user_id,
            created_at: now,
            expires_at: now + LIFETIME,
            last_used_at: now,
            proved_at: now,
            address: origin.address.clone(),
            user_agent: origin.user_agent.clone(),
        };
        let method = method.to_owned();
        let event = pb::UserLoggedIn { after: Some((&session).into()), method };
        session.with_event(&event)
    }

    /// Records a repeated authentication.
    pub fn reauthenticate(self, now: OffsetDateTime) -> Changed<Self> {
        let session = Self { proved_at: now, ..self };
        let event = pb::UserReauthenticated { after: Some((&session).into()) };
        session.with_event(&event)
    }

    /// Ends the session with which the person calls.
    pub fn log_out(self) -> Changed<Self> {
        let event = pb::UserLoggedOut { before: Some((&self).into()) };
        self.with_event(&event)
    }

    /// Ends the session at the request of its owner, from another session.
    pub fn revoke(self) -> Changed<Self> {
        let event = pb::SessionRevoked { before: Some((&self).into()) };
        self.with_event(&event)
    }

    /// Ends the session at the request of an operator. The object of the event is the account, so that its
    /// owner finds it in the log of the account.
    pub fn revoke_as_operator(self) -> Changed<Self> {
        let event = pb::SessionRevoked { before: Some((&self).into()) };
        let target = EventTarget::object("user", self.user_id, "");
        Changed::new(self, &event, target)
    }

    fn with_event<E: Message + Name>(self, event: &E) -> Changed<Self> {
        let target = EventTarget::object("session", self.id.to_string(), "");
        Changed::new(self, event, target)
    }
}

/// Returns the event of a failed sign-in; `reason` is the rejected factor, `password` or `code`. Emitted also
/// for an address without an account, so that the reply takes as long as for a known one.
pub fn login_failed(user_id: Option<UserId>, reason: &str) -> Changed<()> {
    let id = user_id.map(String::from).unwrap_or_default();
    let event = pb::UserLoginFailed { user_id: id.clone(), reason: reason.to_owned() };
    Changed::new((), &event, EventTarget::object("user", id, ""))
}
