//! Sessions: proof that a person signed in. Opaque references, so that ending one acts at once.

pub(crate) mod rpc;
pub(crate) mod store;

use api::{error::Reason, identity as pb};
use chassis::{About, Changed, Code, Refusal, UserId, timestamp};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// At the latest after this long a person signs in again.
const LIFETIME: Duration = Duration::days(30);

/// A session.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) id: Uuid,
    pub(crate) user_id: UserId,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) expires_at: OffsetDateTime,
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
    /// A person has shown their password.
    pub(crate) fn open(user_id: UserId, now: OffsetDateTime) -> Changed<Self> {
        let it =
            Self { id: chassis::id::new(), user_id, created_at: now, expires_at: now + LIFETIME };
        let event = pb::UserLoggedIn { after: Some((&it).into()) };
        let about = it.about();
        Changed::new(it, &event, about)
    }

    /// A person leaves.
    pub(crate) fn end(self) -> Changed<Self> {
        let event = pb::UserLoggedOut { before: Some((&self).into()) };
        let about = self.about();
        Changed::new(self, &event, about)
    }

    fn about(&self) -> About {
        About::object("session", self.id.to_string(), "")
    }
}

impl From<&Session> for pb::Session {
    fn from(it: &Session) -> Self {
        Self {
            id: it.id.to_string(),
            user_id: it.user_id.into(),
            create_time: Some(timestamp(it.created_at)),
            expire_time: Some(timestamp(it.expires_at)),
        }
    }
}
