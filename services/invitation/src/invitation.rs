//! Invitations: offers of a role in an organization, by a mailed or a copied link. An invitation is pending
//! until it is used up, expires or is revoked.
//!
//! | concept | module |
//! |---|---|
//! | states, and reasons for revoking | `state` |
//! | creation, for one address or many | `commands` |
//! | acceptance, and uses that are being granted | `acceptance` |
//! | links and their secrets | `link` |
//! | the mail with the link | `mail` |
//! | pages for browsers | `page` |
//! | events of expired invitations | `expiry` |
//! | reactions to events of other services | `reactions` |
//! | errors | `refused` |

mod acceptance;
mod commands;
mod expiry;
pub(crate) mod install;
pub(crate) mod link;
pub(crate) mod mail;
mod page;
mod reactions;
mod refused;
mod rpc;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod wire;

use api::{
    identity::{OrgRole, ProjectRole},
    invitation::{self as pb, RevokeCause},
};
use chassis::{
    Account, Changed, EventTarget, Grant, OrgId, UserId,
    email::{self, Address, Email},
    token::Token,
};
use prost::{Message, Name};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use self::{
    link::{LinkKind, Links},
    refused::Refused,
    state::State,
};
use crate::db_enum::DbEnum;

/// Template of the mail with the link.
pub(crate) const MAIL_TEMPLATE: &str = "invitation";

/// Shortest time between two mails of an invitation (IN-20).
const RESEND_INTERVAL: Duration = Duration::seconds(60);

/// Largest number of mails of an invitation in a day (IN-20).
const MAILS_PER_DAY_MAX: usize = 5;

const DAY: Duration = Duration::hours(24);

chassis::id!(
    /// Identifies an invitation.
    InvitationId,
    "invitation"
);

/// Role on a project that the new member receives.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ProjectAccess {
    pub(crate) project_id: Uuid,
    pub(crate) role: DbEnum<ProjectRole>,
}

/// An offer of a role in an organization.
#[derive(Clone, Debug)]
pub(crate) struct Invitation {
    pub(crate) id: InvitationId,
    pub(crate) org_id: OrgId,
    pub(crate) email: Email,
    /// The e-mail address in the form in which addresses are compared.
    pub(crate) canonical_email: String,
    pub(crate) role: DbEnum<OrgRole>,
    pub(crate) project_access: Json<Vec<ProjectAccess>>,
    pub(crate) message: String,
    /// 1 for the invited person only; more for anybody who has the link.
    pub(crate) max_uses: i32,
    pub(crate) use_count: i32,
    /// Hash of the secret in the mailed link.
    pub(crate) secret_hash: Vec<u8>,
    /// Hash of the secret in the copied link.
    pub(crate) copied_hash: Vec<u8>,
    pub(crate) inviter_id: UserId,
    pub(crate) inviter_name: String,
    pub(crate) org_name: String,
    pub(crate) team_ids: Vec<Uuid>,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) expires_at: OffsetDateTime,
    /// Number of renewals after an expiry. Each has links of its own.
    pub(crate) link_generation: i32,
    /// Time of the last renewal.
    pub(crate) renewed_at: Option<OffsetDateTime>,
    /// Times of the mails of the last day, oldest first.
    pub(crate) mailed_at: Vec<OffsetDateTime>,
    pub(crate) mail_count: i32,
    pub(crate) revoked_at: Option<OffsetDateTime>,
    pub(crate) revoke_cause: DbEnum<RevokeCause>,
    /// The account that revoked the invitation; none if the suite did.
    pub(crate) revoker_id: Option<UserId>,
    /// Time of the event `InvitationExpired`.
    pub(crate) expiry_event_at: Option<OffsetDateTime>,
    /// Time of the removal from the list.
    pub(crate) cleaned_at: Option<OffsetDateTime>,
}

/// An offer to one e-mail address.
#[derive(Clone)]
pub(crate) struct NewInvitation {
    pub(crate) address: Address,
    pub(crate) offer: Offer,
}

/// The part of a new invitation that is the same for all addresses of a batch.
#[derive(Clone)]
pub(crate) struct Offer {
    pub(crate) role: OrgRole,
    pub(crate) lifetime: Duration,
    pub(crate) max_uses: i32,
    pub(crate) message: String,
    pub(crate) project_access: Vec<ProjectAccess>,
    pub(crate) team_ids: Vec<Uuid>,
}

/// Relation of an e-mail address to the organization before it is invited.
pub(crate) struct AddressStatus {
    pub(crate) org_name: String,
    /// True if the address is that of a member (IN-8).
    pub(crate) is_member: bool,
    /// A pending single-use invitation to the address (IN-9).
    pub(crate) pending: Option<InvitationId>,
}

impl Invitation {
    /// Creates an invitation. The offered role is never above the inviter's: only Owner and Admin may invite,
    /// and the contract refuses OWNER (IN-2, IN-3).
    pub(crate) fn create(
        grant: &Grant,
        new: NewInvitation,
        status: &AddressStatus,
        links: &Links,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        let NewInvitation { address, offer } = new;
        if status.is_member {
            return Err(Refused::AlreadyMember);
        }
        if let Some(id) = status.pending
            && offer.max_uses == 1
        {
            return Err(Refused::Pending(id));
        }
        let id = InvitationId::new();
        let invitation = Self {
            id,
            org_id: grant.org_id(),
            email: address.typed,
            canonical_email: address.canonical,
            role: DbEnum(offer.role),
            project_access: Json(offer.project_access),
            team_ids: offer.team_ids,
            message: offer.message,
            max_uses: offer.max_uses,
            use_count: 0,
            secret_hash: links.secret_hash(id.0, 0, LinkKind::Mailed),
            copied_hash: links.secret_hash(id.0, 0, LinkKind::Copied),
            inviter_id: grant.account().user_id,
            inviter_name: grant.account().display_name.clone(),
            org_name: status.org_name.clone(),
            created_at: now,
            expires_at: now + offer.lifetime,
            link_generation: 0,
            renewed_at: None,
            mailed_at: vec![now],
            mail_count: 1,
            revoked_at: None,
            revoke_cause: DbEnum(RevokeCause::Unspecified),
            revoker_id: None,
            expiry_event_at: None,
            cleaned_at: None,
        };
        let event = pb::InvitationCreated { after: Some(invitation.to_message(now)) };
        Ok(invitation.with_event(&event))
    }

    /// Refuses an invited person unless the invitation is pending (IN-13).
    pub(crate) fn check_pending(&self, now: OffsetDateTime) -> Result<(), Refused> {
        match self.state(now) {
            State::Pending => Ok(()),
            State::Expired => Err(Refused::Expired),
            State::Exhausted => Err(Refused::Exhausted),
            State::Revoked => Err(Refused::Revoked(self.revoke_cause.0)),
        }
    }

    /// Refuses a manager unless the invitation is pending.
    fn check_changeable(&self, now: OffsetDateTime) -> Result<(), Refused> {
        match self.state(now) {
            State::Pending => Ok(()),
            state => Err(Refused::NotPending(state)),
        }
    }

    /// Refuses an account that may not accept now (IN-13, IN-14, IN-17). An invitation with more than one use
    /// is for anybody who has the link.
    pub(crate) fn check_acceptable(
        &self,
        account: &Account,
        already_accepted: bool,
        now: OffsetDateTime,
    ) -> Result<(), Refused> {
        if already_accepted {
            return Err(Refused::AlreadyAccepted);
        }
        self.check_pending(now)?;
        if self.max_uses == 1 && !email::matches_canonical(&account.email, &self.canonical_email) {
            return Err(Refused::EmailMismatch(email::masked(&self.canonical_email)));
        }
        if !account.email_verified {
            return Err(Refused::EmailNotVerified);
        }
        Ok(())
    }

    /// Counts a use. After the last one the invitation has expired.
    pub(crate) fn accept(mut self, now: OffsetDateTime) -> Changed<Self> {
        let before = Some(self.to_message(now));
        self.use_count += 1;
        let is_exhausted = self.use_count >= self.max_uses;
        if is_exhausted && self.expiry_event_at.is_none() && self.revoked_at.is_none() {
            self.expiry_event_at = Some(now);
        }
        let event = pb::InvitationAccepted { before, after: Some(self.to_message(now)) };
        self.with_event(&event)
    }

    /// Declines a single-use invitation for the invited person.
    pub(crate) fn decline(
        mut self,
        account: &Account,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        if self.max_uses > 1 {
            return Err(Refused::OpenLink);
        }
        self.check_acceptable(account, false, now)?;
        let before = Some(self.to_message(now));
        self.set_revoked(RevokeCause::Declined, Some(account.user_id), now);
        let event = pb::InvitationDeclined { before, after: Some(self.to_message(now)) };
        Ok(self.with_event(&event))
    }

    /// Revokes a pending invitation. Members who joined through it stay (IN-22).
    pub(crate) fn revoke(
        mut self,
        cause: RevokeCause,
        revoker_id: Option<UserId>,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        self.check_changeable(now)?;
        let before = Some(self.to_message(now));
        self.set_revoked(cause, revoker_id, now);
        let after = Some(self.to_message(now));
        let cause = state::describe(cause).to_owned();
        let event = pb::InvitationRevoked { before, after, cause };
        Ok(self.with_event(&event))
    }

    /// Replaces the e-mail address, whose account was deleted, with a placeholder.
    pub(crate) fn without_address(self) -> Self {
        let placeholder = format!("deleted-{}@deleted.invalid", self.id);
        Self { email: Email(placeholder.clone()), canonical_email: placeholder, ..self }
    }

    /// Mails the link again. A pending invitation keeps its link and its time of expiry; one whose lifetime
    /// is over is renewed (IN-19, IN-20).
    pub(crate) fn resend(
        mut self,
        links: &Links,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        let is_expired = self.state(now) == State::Expired;
        if !is_expired {
            self.check_changeable(now)?;
        }
        self.mailed_at.retain(|it| *it + DAY > now);
        let after_last = self.mailed_at.last().map(|it| *it + RESEND_INTERVAL);
        let oldest_counted = self.mailed_at.iter().rev().nth(MAILS_PER_DAY_MAX - 1);
        let allowed_at = after_last.max(oldest_counted.map(|it| *it + DAY));
        if let Some(allowed_at) = allowed_at.filter(|it| *it > now) {
            return Err(Refused::TooSoon(allowed_at - now));
        }
        let before = Some(self.to_message(now));
        if is_expired {
            self.renew(links, now);
        }
        self.mailed_at.push(now);
        self.mail_count += 1;
        let event = pb::InvitationResent { before, after: Some(self.to_message(now)) };
        Ok(self.with_event(&event))
    }

    /// Begins another lifetime of the same length with new links: the expired ones stay invalid.
    fn renew(&mut self, links: &Links, now: OffsetDateTime) {
        let lifetime = self.expires_at - self.renewed_at.unwrap_or(self.created_at);
        self.expires_at = now + lifetime;
        self.renewed_at = Some(now);
        self.expiry_event_at = None;
        self.link_generation += 1;
        let hash = |kind| links.secret_hash(self.id.0, self.link_generation, kind);
        (self.secret_hash, self.copied_hash) = (hash(LinkKind::Mailed), hash(LinkKind::Copied));
    }

    /// The event of the disclosure of the link to a manager: the link is a credential.
    pub(crate) fn copy_link(self, now: OffsetDateTime) -> Result<Changed<Self>, Refused> {
        self.check_changeable(now)?;
        let event = pb::InvitationLinkCopied { after: Some(self.to_message(now)) };
        Ok(self.with_event(&event))
    }

    /// Sets the time of the event `InvitationExpired`, and returns the event.
    pub(crate) fn expire(mut self, now: OffsetDateTime) -> Changed<Self> {
        self.expiry_event_at = Some(now);
        self.expired(now)
    }

    /// The event `InvitationExpired`.
    pub(crate) fn expired(self, now: OffsetDateTime) -> Changed<Self> {
        let event = pb::InvitationExpired { after: Some(self.to_message(now)) };
        self.with_event(&event)
    }

    /// The event of a mail that was permanently rejected. The invitation stays pending: its link can still be
    /// copied.
    pub(crate) fn bounce(self, said: String, now: OffsetDateTime) -> Changed<Self> {
        let event = pb::InvitationBounced { after: Some(self.to_message(now)), said };
        self.with_event(&event)
    }

    /// The event of a mail that the mail server did not accept within five days. The invitation stays
    /// pending: it can be resent, and its link can be copied.
    pub(crate) fn mail_failed(self, said: String, now: OffsetDateTime) -> Changed<Self> {
        let event = pb::InvitationMailFailed { after: Some(self.to_message(now)), said };
        self.with_event(&event)
    }

    /// Kind of the link that a token belongs to; `None` for a token of another invitation.
    pub(crate) fn link_kind(&self, token: &Token) -> Option<LinkKind> {
        if token.id != self.id.0 {
            return None;
        }
        // Both hashes are always compared, so that the duration does not depend on the kind.
        let is_mailed = token.matches(&self.secret_hash);
        let is_copied = token.matches(&self.copied_hash);
        if is_mailed { Some(LinkKind::Mailed) } else { is_copied.then_some(LinkKind::Copied) }
    }

    fn set_revoked(&mut self, cause: RevokeCause, revoker_id: Option<UserId>, now: OffsetDateTime) {
        self.revoked_at = Some(now);
        self.revoke_cause = DbEnum(cause);
        self.revoker_id = revoker_id;
    }

    fn with_event<E: Message + Name>(self, event: &E) -> Changed<Self> {
        let object = EventTarget::object("invitation", self.id, &self.email.0);
        let target = object.in_org(self.org_id);
        Changed::new(self, event, target)
    }
}
