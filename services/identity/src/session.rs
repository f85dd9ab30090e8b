//! Sessions: proof that a person signed in. Opaque references, so that ending one acts at once.

pub(crate) mod rpc;
pub(crate) mod sign_in;
pub(crate) mod store;

use api::{error::Reason, event, identity as pb};
use chassis::{About, Changed, Code, Refusal, UserId, timestamp};
use prost::{Message, Name};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// At the latest after this long a person signs in again.
const LIFETIME: Duration = Duration::days(30);

/// After so long without use a session has ended (I-09).
pub(crate) const IDLE_MAX: Duration = Duration::hours(12);

/// A session.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) id: Uuid,
    pub(crate) user_id: UserId,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) expires_at: OffsetDateTime,
    /// To the minute.
    pub(crate) last_used_at: OffsetDateTime,
    /// When the person last proved who they are.
    pub(crate) proved_at: OffsetDateTime,
    pub(crate) address: String,
    pub(crate) user_agent: String,
}

/// Why a person is not signed in. Which half was wrong is not said.
#[derive(Debug, thiserror::Error)]
#[error("e-mail address or password is wrong")]
pub(crate) struct InvalidLogin;

impl Refusal for InvalidLogin {
    fn code(&self) -> Code {
        Code::Unauthenticated
    }

    fn reason(&self) -> Reason {
        Reason::InvalidLogin
    }
}

impl Session {
    /// A person has shown who they are.
    pub(crate) fn open(
        user_id: UserId,
        method: &str,
        origin: &event::Origin,
        now: OffsetDateTime,
    ) -> Changed<Self> {
        let it = Self {
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
        let event = pb::UserLoggedIn { after: Some((&it).into()), method };
        it.told(&event)
    }

    /// The person has shown it again.
    pub(crate) fn renew(self, now: OffsetDateTime) -> Changed<Self> {
        let it = Self { proved_at: now, ..self };
        let event = pb::SessionRenewed { after: Some((&it).into()) };
        it.told(&event)
    }

    /// A person leaves.
    pub(crate) fn end(self) -> Changed<Self> {
        let event = pb::UserLoggedOut { before: Some((&self).into()) };
        self.told(&event)
    }

    /// A person ends it from elsewhere.
    pub(crate) fn revoke(self) -> Changed<Self> {
        let event = pb::SessionRevoked { before: Some((&self).into()) };
        self.told(&event)
    }

    fn told<E: Message + Name>(self, event: &E) -> Changed<Self> {
        let about = About::object("session", self.id.to_string(), "");
        Changed::new(self, event, about)
    }
}

/// Somebody did not sign in. Told also for an address without an account, so that it takes as long.
pub(crate) fn failed(user_id: Option<UserId>, reason: &str) -> Changed<()> {
    let id = user_id.map(String::from).unwrap_or_default();
    let event = pb::LoginFailed { user_id: id.clone(), reason: reason.to_owned() };
    Changed::new((), &event, About::object("user", id, ""))
}

impl From<&Session> for pb::Session {
    fn from(it: &Session) -> Self {
        Self {
            id: it.id.to_string(),
            user_id: it.user_id.into(),
            create_time: Some(timestamp(it.created_at)),
            expire_time: Some(timestamp(it.expires_at)),
            last_use_time: Some(timestamp(it.last_used_at)),
            address: it.address.clone(),
            user_agent: it.user_agent.clone(),
            current: false,
            prove_time: Some(timestamp(it.proved_at)),
        }
    }
}
