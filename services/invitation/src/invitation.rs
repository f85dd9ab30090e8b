//! Invitations: an offer of a role, by mail. Pending until it is used up, over or withdrawn.

mod batch;
pub(crate) mod mail;
mod refused;
pub(crate) mod rpc;
pub(crate) mod store;
pub(crate) mod sweep;
#[cfg(test)]
mod tests;
mod wire;

use api::invitation as pb;
use chassis::{
    About, Account, Changed, Grant, OrgId, UserId,
    email::{self, Address, Email},
    token::Token,
};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

pub(crate) use self::refused::Refused;
use crate::link::{Links, Way};

/// The template of the mail with the link.
pub(crate) const MAIL: &str = "invitation";

/// Between two mails of the same invitation (IN-20).
const PAUSE: Duration = Duration::seconds(60);
/// Mails of the same invitation in a day (IN-20).
const MAILS_MAX: usize = 5;
const DAY: Duration = Duration::hours(24);

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

/// Why an invitation was revoked; numbers of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Manager = 1,
    Declined = 2,
    InviterDemoted = 3,
    InviterGone = 4,
    OrganizationDeleted = 5,
    SubscriptionBlocked = 6,
    RecipientGone = 7,
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
    pub(crate) team_ids: Vec<Uuid>,
    pub(crate) copied_hash: Vec<u8>,
    pub(crate) mailed_at: Vec<OffsetDateTime>,
    pub(crate) mail_count: i32,
    pub(crate) revoke_cause: i32,
    pub(crate) revoker_id: Option<UserId>,
    pub(crate) expiry_told_at: Option<OffsetDateTime>,
    pub(crate) cleaned_at: Option<OffsetDateTime>,
}

/// What the inviter decides.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) address: Address,
    pub(crate) offer: Offer,
}

/// What is the same for everybody who is invited at once.
#[derive(Clone)]
pub(crate) struct Offer {
    pub(crate) role: i32,
    pub(crate) lifetime: Duration,
    pub(crate) max_uses: i32,
    pub(crate) message: String,
    pub(crate) project_access: Vec<Access>,
    pub(crate) team_ids: Vec<Uuid>,
}

/// What is known about an address before it is invited.
pub(crate) struct Standing {
    /// The organization's name.
    pub(crate) org_name: String,
    /// Whether it is a member's (IN-8).
    pub(crate) member: bool,
    /// Another single-use invitation to it that is pending (IN-9).
    pub(crate) pending: Option<InvitationId>,
}

impl Invitation {
    /// Whoever may invite offers a role below or equal to their own: only Owner and Admin may invite, and
    /// the contract refuses OWNER (IN-2, IN-3).
    pub(crate) fn create(
        grant: &Grant,
        draft: Draft,
        standing: &Standing,
        links: &Links,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        let Draft { address, offer } = draft;
        if standing.member {
            return Err(Refused::AlreadyMember);
        }
        if let Some(id) = standing.pending
            && offer.max_uses == 1
        {
            return Err(Refused::Pending(id));
        }
        let id = InvitationId::new();
        let it = Self {
            id,
            org_id: grant.org_id(),
            email: address.typed,
            canonical_email: address.canonical,
            role: offer.role,
            project_access: Json(offer.project_access),
            team_ids: offer.team_ids,
            message: offer.message,
            max_uses: offer.max_uses,
            use_count: 0,
            secret_hash: links.hash(id.0, Way::Mailed),
            copied_hash: links.hash(id.0, Way::Copied),
            inviter_id: grant.account().user_id,
            inviter_name: grant.account().display_name.clone(),
            org_name: standing.org_name.clone(),
            created_at: now,
            expires_at: now + offer.lifetime,
            mailed_at: vec![now],
            mail_count: 1,
            revoked_at: None,
            revoke_cause: 0,
            revoker_id: None,
            expiry_told_at: None,
            cleaned_at: None,
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

    /// Whether it can be answered at this moment (IN-13); if not, why not.
    pub(crate) fn check_open(&self, now: OffsetDateTime) -> Result<(), Refused> {
        match self.state(now) {
            State::Pending => Ok(()),
            State::Late => Err(Refused::Expired),
            State::UsedUp => Err(Refused::Exhausted),
            State::Revoked => Err(Refused::Revoked(self.revoke_cause)),
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
        self.check_open(now)?;
        if self.max_uses == 1 && !email::same(&guest.email, &self.canonical_email) {
            return Err(Refused::EmailMismatch(email::masked(&self.canonical_email)));
        }
        if !guest.email_verified {
            return Err(Refused::EmailNotVerified);
        }
        Ok(())
    }

    /// One use is consumed: identity has made the guest a member. With the last one it has expired.
    pub(crate) fn accept(mut self, now: OffsetDateTime) -> Changed<Self> {
        let before = Some(self.message_at(now));
        self.use_count += 1;
        if self.use_count >= self.max_uses {
            self.expiry_told_at = Some(now);
        }
        let event = pb::InvitationAccepted { before, after: Some(self.message_at(now)) };
        let about = self.about();
        Changed::new(self, &event, about)
    }

    /// The invited person says no. An open link is nobody's to decline.
    pub(crate) fn decline(
        mut self,
        guest: &Account,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        if self.max_uses > 1 {
            return Err(Refused::OpenLink);
        }
        self.check_guest(guest, false, now)?;
        let before = Some(self.message_at(now));
        self.end(Cause::Declined, Some(guest.user_id), now);
        let event = pb::InvitationDeclined { before, after: Some(self.message_at(now)) };
        let about = self.about();
        Ok(Changed::new(self, &event, about))
    }

    /// Withdraws it. Who joined through it stays (IN-22).
    pub(crate) fn revoke(
        mut self,
        cause: Cause,
        by: Option<UserId>,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        self.require_pending(now)?;
        let before = Some(self.message_at(now));
        self.end(cause, by, now);
        let after = Some(self.message_at(now));
        let event = pb::InvitationRevoked { before, after, cause: cause.words().to_owned() };
        let about = self.about();
        Ok(Changed::new(self, &event, about))
    }

    /// The same invitation, to nobody: its recipient has deleted their account.
    pub(crate) fn without_address(self) -> Self {
        let nowhere = format!("deleted-{}@deleted.invalid", self.id);
        Self { email: Email(nowhere.clone()), canonical_email: nowhere, ..self }
    }

    /// The same link is mailed again; its end stays (IN-19, IN-20).
    pub(crate) fn resend(mut self, now: OffsetDateTime) -> Result<Changed<Self>, Refused> {
        self.require_pending(now)?;
        self.mailed_at.retain(|it| *it + DAY > now);
        let last = self.mailed_at.last().map(|it| *it + PAUSE);
        let oldest = self.mailed_at.iter().rev().nth(MAILS_MAX - 1).map(|it| *it + DAY);
        if let Some(at) = last.max(oldest).filter(|it| *it > now) {
            return Err(Refused::TooSoon(at - now));
        }
        let before = Some(self.message_at(now));
        self.mailed_at.push(now);
        self.mail_count += 1;
        let event = pb::InvitationResent { before, after: Some(self.message_at(now)) };
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

    /// Its expiry is told, once.
    pub(crate) fn tell_expiry(mut self, now: OffsetDateTime) -> Changed<Self> {
        self.expiry_told_at = Some(now);
        self.expired(now)
    }

    /// That it has expired.
    pub(crate) fn expired(self, now: OffsetDateTime) -> Changed<Self> {
        let event = pb::InvitationExpired { after: Some(self.message_at(now)) };
        let about = self.about();
        Changed::new(self, &event, about)
    }

    /// The recipient's server refuses its mail. It stays pending: its link can still be copied.
    pub(crate) fn bounce(self, said: &str, now: OffsetDateTime) -> Changed<Self> {
        let said = said.chars().take(500).collect();
        let event = pb::InvitationBounced { after: Some(self.message_at(now)), said };
        let about = self.about();
        Changed::new(self, &event, about)
    }

    /// How a token opens it; `None` if it does not.
    pub(crate) fn opened_by(&self, token: &Token) -> Option<Way> {
        if token.id != self.id.0 {
            return None;
        }
        // Both are compared, always: which one it was takes no longer to tell.
        let (mailed, copied) = (token.matches(&self.secret_hash), token.matches(&self.copied_hash));
        if mailed { Some(Way::Mailed) } else { copied.then_some(Way::Copied) }
    }

    fn end(&mut self, cause: Cause, by: Option<UserId>, now: OffsetDateTime) {
        self.revoked_at = Some(now);
        self.revoke_cause = cause as i32;
        self.revoker_id = by;
    }

    fn require_pending(&self, now: OffsetDateTime) -> Result<(), Refused> {
        match self.state(now) {
            State::Pending => Ok(()),
            other => Err(Refused::NotPending(other)),
        }
    }

    pub(crate) fn about(&self) -> About {
        About::object("invitation", self.id, &self.email.0).of(self.org_id)
    }
}

impl Cause {
    /// For the event, in words.
    fn words(self) -> &'static str {
        match self {
            Self::Manager => "asked for",
            Self::Declined => "declined",
            Self::InviterDemoted => "the inviter may no longer invite",
            Self::InviterGone => "the inviter is no longer a member",
            Self::OrganizationDeleted => "the organization was deleted",
            Self::SubscriptionBlocked => "the subscription was blocked",
            Self::RecipientGone => "the invited person deleted their account",
        }
    }
}
