//! Accounts of people. One account can be a member of many organizations.

pub mod claim;
mod wire;

use api::{error::Reason, identity as pb};
use chassis::{
    Account, Changed, Code, EventTarget, OrgId, Refusal, UserId,
    email::{Address, Email},
};
use prost::{Message, Name};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use crate::password::{InvalidLogin, NewPassword};

/// An account.
#[derive(Clone, Debug)]
pub struct User {
    pub id: UserId,
    pub email: Email,
    /// The normalized address, unique among accounts with a confirmed address.
    pub canonical_email: String,
    pub display_name: String,
    pub email_verified_at: Option<OffsetDateTime>,
    /// Incremented with every change of the password.
    pub password_version: i64,
    pub totp_enabled_at: Option<OffsetDateTime>,
    pub deleted_at: Option<OffsetDateTime>,
    pub created_at: OffsetDateTime,
    /// Identity providers that are linked to the account.
    pub issuers: Vec<String>,
}

/// The fields of a new account.
pub struct Draft {
    pub address: Address,
    pub display_name: String,
}

impl Draft {
    /// Returns a draft; an empty name is replaced by the local part of the address.
    pub fn new(address: Address, name: &str) -> Self {
        let local_part = address.typed.0.split('@').next().unwrap_or_default();
        let display_name = if name.is_empty() { local_part } else { name }.to_owned();
        Self { address, display_name }
    }
}

/// A new account with its password.
pub struct Registration {
    pub draft: Draft,
    pub password: NewPassword,
}

/// An account whose password was verified. Valid until the account gets another password.
#[derive(Clone, Copy, Debug)]
pub struct VerifiedPassword {
    pub user_id: UserId,
    pub password_version: i64,
}

/// Addresses per event at most.
const EVENT_ADDRESSES_MAX: usize = 50;

/// An organization that an account owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnedOrganization {
    pub org_id: OrgId,
    /// `None` if the organization is not deleted.
    pub restorable_until: Option<OffsetDateTime>,
}

/// Reasons for which an account is not created, changed or deleted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{}", owns_message(.0))]
    OwnsOrganizations(Vec<OwnedOrganization>),
    #[error("the confirmation must be the e-mail address of the account")]
    Confirmation,
    #[error("another account has this e-mail address; use another address or sign in")]
    EmailTaken,
}

/// Message for an account that owns organizations, with the next step.
fn owns_message(owned: &[OwnedOrganization]) -> String {
    if owned.iter().any(|it| it.restorable_until.is_none()) {
        return "the account owns organizations; transfer or delete them first".to_owned();
    }
    let last = owned.iter().filter_map(|it| it.restorable_until).max();
    format!(
        "the account owns deleted organizations that can be restored until {}; restore and transfer them, \
         wait until then, or set give_up_restore",
        last.map(to_text).unwrap_or_default()
    )
}

/// Returns a time in RFC 3339, to the second.
fn to_text(time: OffsetDateTime) -> String {
    let time = time.replace_nanosecond(0).unwrap_or(time);
    time.format(&Rfc3339).unwrap_or_default()
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::EmailTaken => Code::AlreadyExists,
            Self::OwnsOrganizations(_) | Self::Confirmation => Code::FailedPrecondition,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::OwnsOrganizations(_) => Reason::AccountOwnsOrganizations,
            Self::Confirmation => Reason::ConfirmationMismatch,
            Self::EmailTaken => Reason::EmailTaken,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::OwnsOrganizations(owned) => {
                let (deleted, live): (Vec<&OwnedOrganization>, Vec<_>) =
                    owned.iter().partition(|it| it.restorable_until.is_some());
                let ids = |list: &[&OwnedOrganization]| {
                    let ids: Vec<_> = list.iter().map(|it| it.org_id.to_string()).collect();
                    ids.join(",")
                };
                let times = deleted.iter().filter_map(|it| it.restorable_until);
                let times: Vec<_> = times.map(to_text).collect();
                vec![
                    ("org_ids", ids(&live)),
                    ("deleted_org_ids", ids(&deleted)),
                    ("restorable_until", times.join(",")),
                ]
            }
            Self::Confirmation | Self::EmailTaken => vec![],
        }
    }
}

impl User {
    /// Creates an account; `verified_at` is set if its address is confirmed already.
    pub fn register(
        draft: Draft,
        verified_at: Option<OffsetDateTime>,
        now: OffsetDateTime,
    ) -> Changed<Self> {
        let Draft { address, display_name } = draft;
        let user = Self {
            id: UserId::new(),
            email: address.typed,
            canonical_email: address.canonical,
            display_name,
            email_verified_at: verified_at,
            password_version: 1,
            totp_enabled_at: None,
            deleted_at: None,
            created_at: now,
            issuers: vec![],
        };
        let event = pb::UserRegistered { after: Some((&user).into()) };
        user.with_event(&event)
    }

    /// Confirms the address; keeps the time of the first confirmation.
    pub fn verify_email(mut self, now: OffsetDateTime) -> Changed<Self> {
        let before = Some((&self).into());
        self.email_verified_at = Some(self.email_verified_at.unwrap_or(now));
        let event = pb::UserEmailVerified { before, after: Some((&self).into()) };
        self.with_event(&event)
    }

    /// Changes the display name.
    pub fn rename(mut self, display_name: String) -> Changed<Self> {
        let before = Some((&self).into());
        self.display_name = display_name;
        let event = pb::UserProfileUpdated { before, after: Some((&self).into()) };
        self.with_event(&event)
    }

    /// Refuses if the account has got another password since the verification.
    pub fn require_current(&self, verified: &VerifiedPassword) -> Result<(), InvalidLogin> {
        let is_current =
            verified.user_id == self.id && verified.password_version == self.password_version;
        if is_current { Ok(()) } else { Err(InvalidLogin) }
    }

    /// Changes the password. Mailed links become invalid, because they are bound to the password version.
    pub fn change_password(mut self) -> Changed<Self> {
        self.password_version += 1;
        let event = pb::UserPasswordChanged { after: Some((&self).into()) };
        self.with_event(&event)
    }

    /// Changes the password by a mailed link, which also confirms the address.
    pub fn reset_password(mut self, now: OffsetDateTime) -> Changed<Self> {
        self.password_version += 1;
        self.email_verified_at = Some(self.email_verified_at.unwrap_or(now));
        let event = pb::UserPasswordReset { after: Some((&self).into()) };
        self.with_event(&event)
    }

    /// Changes the address to one that a mailed link has confirmed.
    pub fn change_email(
        mut self,
        email: Email,
        canonical: String,
        now: OffsetDateTime,
    ) -> Changed<Self> {
        let before = Some((&self).into());
        self.email = email;
        self.canonical_email = canonical;
        self.email_verified_at = Some(now);
        let event = pb::UserEmailChanged { before, after: Some((&self).into()) };
        self.with_event(&event)
    }

    /// Enables the second factor.
    pub fn enable_totp(mut self, now: OffsetDateTime) -> Changed<Self> {
        self.totp_enabled_at = Some(now);
        let event = pb::UserTotpEnabled { after: Some((&self).into()) };
        self.with_event(&event)
    }

    /// Disables the second factor.
    pub fn disable_totp(mut self) -> Changed<Self> {
        self.totp_enabled_at = None;
        let event = pb::UserTotpDisabled { after: Some((&self).into()) };
        self.with_event(&event)
    }

    /// Deletes the account and erases its name and address. Refused while it owns organizations. The events
    /// list the current and the former addresses, so that other services can erase them, too.
    pub fn delete(
        mut self,
        owned_orgs: Vec<OwnedOrganization>,
        confirm_email: Option<&str>,
        former_addresses: &[Address],
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        if !owned_orgs.is_empty() {
            return Err(Refused::OwnsOrganizations(owned_orgs));
        }
        if confirm_email != Some(self.canonical_email.as_str()) {
            return Err(Refused::Confirmation);
        }
        let event = pb::UserDeleted { before: Some((&self).into()) };
        let id = self.id;
        let target = self.event_target();
        let erased = |batch: &[Address]| pb::UserFormerAddressesErased {
            user_id: id.into(),
            emails: batch.iter().map(|it| it.typed.0.clone()).collect(),
        };
        let erasures = former_addresses.chunks(EVENT_ADDRESSES_MAX).map(erased);
        let placeholder = format!("deleted-{id}@deleted.invalid");
        self.email = Email(placeholder.clone());
        self.canonical_email = placeholder;
        "Deleted account".clone_into(&mut self.display_name);
        self.email_verified_at = None;
        self.totp_enabled_at = None;
        self.password_version += 1;
        self.deleted_at = Some(now);
        Ok(Changed::new(self, &event, target).followed_by(erasures))
    }

    /// Returns the account as a change with an event.
    pub fn with_event<E: Message + Name>(self, event: &E) -> Changed<Self> {
        let target = self.event_target();
        Changed::new(self, event, target)
    }

    /// Returns the address to which mails are sent.
    pub fn address(&self) -> Address {
        Address { typed: self.email.clone(), canonical: self.canonical_email.clone() }
    }

    /// Returns the account as the actor of a call that authenticates by itself, for example with a mailed
    /// link.
    pub fn account(&self, credential_id: Uuid) -> Account {
        Account {
            user_id: self.id,
            email: self.email.0.clone(),
            display_name: self.display_name.clone(),
            email_verified: self.email_verified_at.is_some(),
            credential_id,
            key: None,
            authenticated_at: None,
        }
    }

    fn event_target(&self) -> EventTarget {
        EventTarget::object("user", self.id, &self.display_name)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Returns a new account of Ann.
    pub fn user() -> User {
        let address = chassis::email::parse("ann@example.com").unwrap();
        User::register(Draft::new(address, "Ann"), None, OffsetDateTime::UNIX_EPOCH).state().clone()
    }

    #[test]
    fn an_owner_is_not_deleted_and_a_deleted_account_is_anonymous() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let org_id = OrgId(Uuid::from_u128(7));
        let owned = OwnedOrganization { org_id, restorable_until: None };
        let confirm_email = Some("ann@example.com");
        let refused = user().delete(vec![owned], confirm_email, &[], now).map(|_| ());
        assert_eq!(refused, Err(Refused::OwnsOrganizations(vec![owned])));
        let refused = user().delete(vec![], Some("bob@example.com"), &[], now).map(|_| ());
        assert_eq!(refused, Err(Refused::Confirmation));
        let deleted = user().delete(vec![], confirm_email, &[], now).unwrap();
        assert!(!format!("{:?}", deleted.state()).to_lowercase().contains("ann"));
    }
}
