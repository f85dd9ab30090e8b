//! Errors of invitations: a reason for programs, and a message with the next step for people.

use api::{
    error::Reason,
    invitation::{InvitationRefusal, RevokeCause},
};
use chassis::{Code, Error, Refusal};
use time::Duration;

use super::{InvitationId, state::State};

/// Reasons for refusing to create, use or change an invitation.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("this address already has a pending invitation; resend it, or revoke it first")]
    Pending(InvitationId),
    #[error("this person is already a member; change their role instead")]
    AlreadyMember,
    #[error("the invitation has expired; ask the person who invited you for a new one")]
    Expired,
    #[error("the invitation has no uses left; ask the person who invited you for a new one")]
    Exhausted,
    #[error("{}", revoked_message(*.0))]
    Revoked(RevokeCause),
    #[error("the invitation is for {0}; sign in with that account")]
    EmailMismatch(String),
    #[error(
        "your e-mail address is not confirmed; confirm it with the link that was mailed to you"
    )]
    EmailNotVerified,
    #[error("you have already accepted this invitation; open the organization")]
    AlreadyAccepted,
    #[error("only a pending invitation can be changed, and this one {}", next_step(*.0))]
    NotPending(State),
    #[error("an invitation with more than one use cannot be declined; ignore it instead")]
    OpenLink,
    #[error(
        "this link was not sent by mail, so it does not confirm your e-mail address; register instead, and \
         confirm the address by mail"
    )]
    ProvesNothing,
    #[error(
        "the link was mailed less than a minute ago, or five times today; retry in {} s",
        .0.whole_seconds() + 1
    )]
    TooSoon(Duration),
    #[error("the organization created too many invitations; retry in {} s", .0.whole_seconds() + 1)]
    TooMany(Duration),
}

/// State of an invitation that cannot be changed, with the next step of its manager.
fn next_step(state: State) -> &'static str {
    match state {
        State::Pending => "has just changed; retry",
        State::Expired => "has expired; resend it, which renews it",
        State::Exhausted => "has no uses left; create a new one",
        State::Revoked => "was revoked or declined; create a new one",
    }
}

/// Message for an invited person, with the next step for each cause.
fn revoked_message(cause: RevokeCause) -> &'static str {
    match cause {
        RevokeCause::Declined => {
            "the invitation was declined; ask the person who invited you for a new one"
        }
        RevokeCause::InviterDemoted | RevokeCause::InviterGone => {
            "the person who invited you may no longer invite; ask an administrator of the organization for a \
             new invitation"
        }
        RevokeCause::OrganizationDeleted => "the organization was deleted",
        RevokeCause::RecipientJoined => {
            "you joined the organization by another invitation; ask an administrator for another role"
        }
        RevokeCause::RecipientLeft => {
            "your membership ended, which revoked the invitation; ask for a new one"
        }
        RevokeCause::SubscriptionBlocked => {
            "the organization accepts no new members at the moment; ask the person who invited you"
        }
        _ => "the invitation was revoked; ask the person who invited you for a new one",
    }
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::Pending(_) | Self::AlreadyAccepted | Self::AlreadyMember => Code::AlreadyExists,
            Self::EmailMismatch(_) => Code::PermissionDenied,
            Self::TooSoon(_) | Self::TooMany(_) => Code::ResourceExhausted,
            _ => Code::FailedPrecondition,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::Pending(_) => Reason::InvitationPending,
            Self::Expired => Reason::InvitationExpired,
            Self::Exhausted => Reason::InvitationExhausted,
            Self::Revoked(_) => Reason::InvitationRevoked,
            Self::EmailMismatch(_) => Reason::InvitationEmailMismatch,
            Self::EmailNotVerified => Reason::EmailNotVerified,
            Self::AlreadyAccepted | Self::AlreadyMember => Reason::AlreadyMember,
            Self::NotPending(_) => Reason::InvitationNotPending,
            Self::OpenLink => Reason::InvitationOpenLink,
            Self::ProvesNothing => Reason::LinkProvesNothing,
            Self::TooSoon(_) => Reason::ResendTooSoon,
            Self::TooMany(_) => Reason::RateLimited,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Pending(id) => vec![("invitation_id", id.to_string())],
            Self::EmailMismatch(masked) => vec![("email", masked.clone())],
            Self::NotPending(state) => vec![("state", state.name().to_owned())],
            Self::Revoked(cause) => {
                let name = cause.as_str_name().trim_start_matches("REVOKE_CAUSE_");
                vec![("cause", name.to_owned())]
            }
            _ => vec![],
        }
    }

    fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            Self::TooSoon(wait) | Self::TooMany(wait) => (*wait).try_into().ok(),
            _ => None,
        }
    }
}

/// The error of one address in the response to a batch.
pub(super) fn to_message(error: &Error) -> InvitationRefusal {
    InvitationRefusal { reason: error.reason().into(), message: error.to_string() }
}
