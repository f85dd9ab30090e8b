//! Why an invitation is not made, used or changed: a reason for programs, a sentence that says what to do.

use api::{error::Reason, invitation as pb};
use chassis::{Code, Error, Refusal};
use time::Duration;

use super::{InvitationId, State};

/// Why an invitation is not made, used or changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("this person has a pending invitation; resend it, or revoke it first")]
    Pending(InvitationId),
    #[error("this person is a member already; change their role instead")]
    AlreadyMember,
    #[error("the invitation's time is over; ask whoever invited you for a new one")]
    Expired,
    #[error("the invitation was used as often as it allows; ask whoever invited you for a new one")]
    Exhausted,
    #[error("{}", withdrawn(*.0))]
    Revoked(i32),
    #[error("the invitation is for {0}; sign in with that account")]
    EmailMismatch(String),
    #[error("confirm your e-mail address first, by the link that was mailed to you")]
    EmailNotVerified,
    #[error("you accepted this invitation already; just open the organization")]
    AlreadyAccepted,
    #[error("only a pending invitation can be changed; this one is {0:?}; make a new one")]
    NotPending(State),
    #[error("an open link is for many, so it is nobody's to decline; just do not use it")]
    OpenLink,
    #[error(
        "this link was handed over, not mailed, so it does not prove the address; register, and \
             confirm the address by mail"
    )]
    ProvesNothing,
    #[error("the link was mailed a moment ago, or five times today; wait {} s", .0.whole_seconds() + 1)]
    TooSoon(Duration),
    #[error("no more invitations for a while; wait {} s", .0.whole_seconds() + 1)]
    TooMany(Duration),
}

/// Why it ended decides whom to ask.
fn withdrawn(cause: i32) -> &'static str {
    match pb::RevokeCause::try_from(cause) {
        Ok(pb::RevokeCause::Declined) => {
            "the invitation was declined; ask whoever invited you for a new one"
        }
        Ok(pb::RevokeCause::InviterDemoted | pb::RevokeCause::InviterGone) => {
            "whoever invited you may no longer invite; ask an administrator of the organization for a new \
             invitation"
        }
        Ok(pb::RevokeCause::OrganizationDeleted) => "the organization was deleted",
        Ok(pb::RevokeCause::SubscriptionBlocked) => {
            "the organization takes no new members at the moment; ask whoever invited you"
        }
        _ => "the invitation was withdrawn; ask whoever invited you for a new one",
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
            Self::NotPending(state) => vec![("state", format!("{state:?}").to_uppercase())],
            Self::Revoked(cause) => {
                let cause = pb::RevokeCause::try_from(*cause).unwrap_or_default();
                let word = cause.as_str_name().trim_start_matches("REVOKE_CAUSE_");
                vec![("cause", word.to_owned())]
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

impl Refused {
    /// The reason and the sentence, for the answer of one address among many.
    pub(super) fn told(error: &Error) -> pb::InvitationRefusal {
        pb::InvitationRefusal { reason: error.reason().into(), message: error.to_string() }
    }
}
