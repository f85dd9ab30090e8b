//! Conversions of sessions between the contract and the rules.

use api::identity as pb;
use chassis::timestamp;
use uuid::Uuid;

use super::{
    Session,
    commands::{NewSession, SignInOutcome},
};

impl From<&Session> for pb::Session {
    fn from(session: &Session) -> Self {
        Self {
            id: session.id.to_string(),
            user_id: session.user_id.into(),
            create_time: Some(timestamp(session.created_at)),
            expire_time: Some(timestamp(session.expires_at)),
            last_use_time: Some(timestamp(session.last_used_at)),
            address: session.address.clone(),
            user_agent: session.user_agent.clone(),
            current: false,
            prove_time: Some(timestamp(session.proved_at)),
        }
    }
}

/// Returns a session as its owner sees it; `current` is the id of the session with which they call.
pub(super) fn owned(session: &Session, current: Uuid) -> pb::Session {
    pb::Session { current: session.id == current, ..session.into() }
}

impl From<SignInOutcome> for pb::LoginResponse {
    fn from(outcome: SignInOutcome) -> Self {
        match outcome {
            SignInOutcome::Session(NewSession { session, token }) => {
                Self { session: Some((&session).into()), token, ..Self::default() }
            }
            SignInOutcome::Challenge(challenge) => Self { challenge, ..Self::default() },
        }
    }
}

impl From<SignInOutcome> for pb::CompleteExternalLoginResponse {
    fn from(outcome: SignInOutcome) -> Self {
        match outcome {
            SignInOutcome::Session(NewSession { session, token }) => {
                Self { session: Some((&session).into()), token, ..Self::default() }
            }
            SignInOutcome::Challenge(challenge) => Self { challenge, ..Self::default() },
        }
    }
}

impl From<NewSession> for pb::CompleteLoginResponse {
    fn from(new: NewSession) -> Self {
        Self { session: Some((&new.session).into()), token: new.token }
    }
}
