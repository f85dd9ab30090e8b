//! Invitations: an offer of a role, by mail. Pending until it is used up, over or withdrawn.

pub(crate) mod mail;
pub(crate) mod rpc;
pub(crate) mod store;
mod wire;

use api::{error::Reason, invitation as pb};
use chassis::{
    About, Account, Changed, Code, Grant, OrgId, Refusal, UserId,
    email::{self, Address, Email},
    token::Token,
};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::link::Links;

/// The template of the mail with the link.
pub(crate) const MAIL: &str = "invitation";

chassis::id!(
    /// Identifies an invitation.
    InvitationId,
    "invitation"
);

/// Access to a project that comes with the membership. The role is a number of the contract.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Access {
    pub(crate) project_id: Uuid,
    pub(crate) role: i32,
}

/// Where an invitation is in its life (3.2). Follows from the clock and the counters; nothing stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Pending,
    /// Its time is over.
    Late,
    /// It was used as often as it allows.
    UsedUp,
    Revoked,
}

/// An offer of a role in an organization.
#[derive(Clone, Debug)]
pub(crate) struct Invitation {
    pub(crate) id: InvitationId,
    pub(crate) org_id: OrgId,
    pub(crate) email: Email,
    pub(crate) canonical_email: String,
    /// A number of the contract; identity knows what it means.
    pub(crate) role: i32,
    pub(crate) project_access: Json<Vec<Access>>,
    pub(crate) team_ids: Vec<Uuid>,
    pub(crate) message: String,
    pub(crate) max_uses: i32,
    pub(crate) use_count: i32,
    pub(crate) secret_hash: Vec<u8>,
    pub(crate) inviter_id: UserId,
    pub(crate) inviter_name: String,
    pub(crate) org_name: String,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) expires_at: OffsetDateTime,
    pub(crate) revoked_at: Option<OffsetDateTime>,
}

/// What the inviter decides.
pub(crate) struct Draft {
    pub(crate) address: Address,
    pub(crate) role: i32,
    pub(crate) lifetime: Duration,
    pub(crate) max_uses: i32,
    pub(crate) message: String,
    pub(crate) project_access: Vec<Access>,
    pub(crate) team_ids: Vec<Uuid>,
}

/// Why an invitation is not made, used or changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("this person has a pending invitation; revoke it first")]
    Pending(InvitationId),
    #[error("the invitation's time is over; ask for a new one")]
    Expired,
    #[error("the invitation was used as often as it allows; ask for a new one")]
    Exhausted,
    #[error("the invitation was withdrawn; ask for a new one")]
    Revoked,
    #[error("the invitation is for {0}; sign in with that account")]
    EmailMismatch(String),
    #[error("confirm your e-mail address first")]
    EmailNotVerified,
    #[error("you accepted this invitation already")]
    AlreadyAccepted,
    #[error("only a pending invitation can be changed; this one is {0:?}")]
    NotPending(State),
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::Pending(_) | Self::AlreadyAccepted => Code::AlreadyExists,
            Self::EmailMismatch(_) => Code::PermissionDenied,
            _ => Code::FailedPrecondition,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::Pending(_) => Reason::InvitationPending,
            Self::Expired => Reason::InvitationExpired,
            Self::Exhausted => Reason::InvitationExhausted,
            Self::Revoked => Reason::InvitationRevoked,
            Self::EmailMismatch(_) => Reason::InvitationEmailMismatch,
            Self::EmailNotVerified => Reason::EmailNotVerified,
            Self::AlreadyAccepted => Reason::AlreadyMember,
            Self::NotPending(_) => Reason::InvitationNotPending,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Pending(id) => vec![("invitation_id", id.to_string())],
            Self::EmailMismatch(masked) => vec![("email", masked.clone())],
            Self::NotPending(state) => vec![("state", format!("{state:?}").to_uppercase())],
            _ => vec![],
        }
    }
}

impl Invitation {
    /// Whoever may invite offers a role below or equal to their own: only Owner and Admin may invite, and
    /// the contract refuses OWNER (IN-2, IN-3). `pending` is another one for the same address (IN-9).
    pub(crate) fn create(
        grant: &Grant,
        draft: Draft,
        org_name: String,
        pending: Option<InvitationId>,
        links: &Links,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        if let Some(id) = pending
            && draft.max_uses == 1
        {
            return Err(Refused::Pending(id));
        }
        let id = InvitationId::new();
        let it = Self {
            id,
            org_id: grant.org_id(),
            email: draft.address.typed,
            canonical_email: draft.address.canonical,
            role: draft.role,
            project_access: Json(draft.project_access),
            team_ids: draft.team_ids,
            message: draft.message,
            max_uses: draft.max_uses,
            use_count: 0,
            secret_hash: links.hash(id.0),
            inviter_id: grant.account().user_id,
            inviter_name: grant.account().display_name.clone(),
            org_name,
            created_at: now,
            expires_at: now + draft.lifetime,
            revoked_at: None,
        };
        let event = pb::InvitationCreated { after: Some(it.message_at(now)) };
        let about = it.about();
        Ok(Changed::new(it, &event, about))
    }

    /// Where it is in its life at this moment.
    pub(crate) fn state(&self, now: OffsetDateTime) -> State {
        match () {
            () if self.revoked_at.is_some() => State::Revoked,
            () if self.use_count >= self.max_uses => State::UsedUp,
            () if self.expires_at <= now => State::Late,
            () => State::Pending,
        }
    }

    /// Whether this account may accept at this moment (IN-13, IN-14, IN-17). An open link, with more than
    /// one use, is for anyone who holds it.
    pub(crate) fn check_guest(
        &self,
        guest: &Account,
        accepted: bool,
        now: OffsetDateTime,
    ) -> Result<(), Refused> {
        if accepted {
            return Err(Refused::AlreadyAccepted);
        }
        match self.state(now) {
            State::Pending => {}
            State::Late => return Err(Refused::Expired),
            State::UsedUp => return Err(Refused::Exhausted),
            State::Revoked => return Err(Refused::Revoked),
        }
        if self.max_uses == 1 && !email::same(&guest.email, &self.canonical_email) {
            return Err(Refused::EmailMismatch(email::masked(&self.canonical_email)));
        }
        if !guest.email_verified {
            return Err(Refused::EmailNotVerified);
        }
        Ok(())
    }

    /// One use is consumed: identity has made the guest a member.
    pub(crate) fn accept(mut self, now: OffsetDateTime) -> Changed<Self> {
        let before = Some(self.message_at(now));
        self.use_count += 1;
        let event = pb::InvitationAccepted { before, after: Some(self.message_at(now)) };
        let about = self.about();
        Changed::new(self, &event, about)
    }

    /// Withdraws it. Who joined through it stays (IN-22).
    pub(crate) fn revoke(
        mut self,
        cause: &str,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        self.require_pending(now)?;
        let before = Some(self.message_at(now));
        self.revoked_at = Some(now);
        let after = Some(self.message_at(now));
        let event = pb::InvitationRevoked { before, after, cause: cause.to_owned() };
        let about = self.about();
        Ok(Changed::new(self, &event, about))
    }

    /// A manager looks at the link, which is a credential: the log tells.
    pub(crate) fn copy_link(self, now: OffsetDateTime) -> Result<Changed<Self>, Refused> {
        self.require_pending(now)?;
        let event = pb::InvitationLinkCopied { after: Some(self.message_at(now)) };
        let about = self.about();
        Ok(Changed::new(self, &event, about))
    }

    /// Whether a token is the link's.
    pub(crate) fn opens_with(&self, token: &Token) -> bool {
        token.id == self.id.0 && token.matches(&self.secret_hash)
    }

    fn require_pending(&self, now: OffsetDateTime) -> Result<(), Refused> {
        match self.state(now) {
            State::Pending => Ok(()),
            other => Err(Refused::NotPending(other)),
        }
    }

    fn about(&self) -> About {
        About::object("invitation", self.id, &self.email.0).of(self.org_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invitation(max_uses: i32, use_count: i32) -> Invitation {
        Invitation {
            id: InvitationId(Uuid::nil()),
            org_id: OrgId(Uuid::nil()),
            email: Email("Bob@example.com".to_owned()),
            canonical_email: "bob@example.com".to_owned(),
            role: 2,
            project_access: Json(vec![]),
            team_ids: vec![],
            message: String::new(),
            max_uses,
            use_count,
            secret_hash: vec![],
            inviter_id: UserId(Uuid::nil()),
            inviter_name: String::new(),
            org_name: String::new(),
            created_at: OffsetDateTime::UNIX_EPOCH,
            expires_at: OffsetDateTime::UNIX_EPOCH + Duration::days(7),
            revoked_at: None,
        }
    }

    fn guest(email: &str) -> Account {
        Account {
            user_id: UserId(Uuid::nil()),
            email: email.to_owned(),
            display_name: String::new(),
            email_verified: true,
            credential_id: Uuid::nil(),
            key: None,
            authenticated_at: None,
        }
    }

    /// IN-13, IN-14, IN-17.
    #[test]
    fn a_guest_comes_in_time_with_the_right_address_and_once() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let late = now + Duration::days(7);
        let bob = guest("BOB@Example.com");
        let check = |it: &Invitation, guest: &Account, now| it.check_guest(guest, false, now);
        let one = invitation(1, 0);

        assert_eq!(check(&one, &bob, now), Ok(()));
        assert_eq!(check(&one, &bob, late), Err(Refused::Expired));
        assert_eq!(check(&invitation(1, 1), &bob, now), Err(Refused::Exhausted));
        assert_eq!(one.check_guest(&bob, true, now), Err(Refused::AlreadyAccepted));
        let eve = guest("eve@example.com");
        assert_eq!(
            check(&one, &eve, now),
            Err(Refused::EmailMismatch("b…@example.com".to_owned()))
        );
        assert_eq!(check(&invitation(3, 2), &eve, now), Ok(()));
        let unknown = Account { email_verified: false, ..bob };
        assert_eq!(check(&one, &unknown, now), Err(Refused::EmailNotVerified));
    }

    /// IN-22, and 3.2: nothing leads out of REVOKED or EXPIRED.
    #[test]
    fn only_a_pending_invitation_is_withdrawn() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let revoked = invitation(1, 0).revoke("asked", now).unwrap();
        let revoked = revoked.state().clone();
        assert_eq!(revoked.state(now), State::Revoked);
        assert_eq!(
            revoked.clone().revoke("asked", now).unwrap_err(),
            Refused::NotPending(State::Revoked)
        );
        assert_eq!(revoked.copy_link(now).unwrap_err(), Refused::NotPending(State::Revoked));
        let used = invitation(1, 1).revoke("asked", now);
        assert_eq!(used.unwrap_err(), Refused::NotPending(State::UsedUp));
    }
}
