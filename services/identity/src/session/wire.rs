//! Conversions of sessions and results of sign-ins to the contract.

use api::identity as pb;
use identity_rules::session::Session;

use super::commands::{NewSession, SignInOutcome};

use uuid::Uuid;

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
