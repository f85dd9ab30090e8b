//! Accounts: a person, in every organization.

pub(crate) mod rpc;
pub(crate) mod store;
mod wire;

use api::{error::Reason, identity as pb};
use chassis::{
    About, Account, Changed, Code, OrgId, Refusal, UserId,
    email::{Address, Email},
};
use prost::{Message, Name};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::session::InvalidLogin;

/// An account.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) id: UserId,
    pub(crate) email: Email,
    pub(crate) canonical_email: String,
    pub(crate) display_name: String,
    pub(crate) email_verified_at: Option<OffsetDateTime>,
    /// Grows with every change of the password.
    pub(crate) password_version: i64,
    pub(crate) totp_enabled_at: Option<OffsetDateTime>,
    pub(crate) deleted_at: Option<OffsetDateTime>,
    pub(crate) created_at: OffsetDateTime,
    /// Identity providers with which it can sign in.
    pub(crate) issuers: Vec<String>,
}

/// What a person gives to open an account.
pub(crate) struct Draft {
    pub(crate) address: Address,
    pub(crate) display_name: String,
}

/// A password that was right. Good for as long as the account keeps that password.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PasswordProof {
    pub(crate) user_id: UserId,
    pub(crate) password_version: i64,
}

/// How many addresses an event lists at most.
const ADDRESSES_MAX: usize = 50;

/// Why an account does not change.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the account owns organizations; transfer or delete them first")]
    Owns(Vec<OrgId>),
    #[error("the address that was typed is not the account's")]
    Confirmation,
    #[error("another account has this address")]
    EmailTaken,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::EmailTaken => Code::AlreadyExists,
            Self::Owns(_) | Self::Confirmation => Code::FailedPrecondition,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::Owns(_) => Reason::AccountOwnsOrganizations,
            Self::Confirmation => Reason::ConfirmationMismatch,
            Self::EmailTaken => Reason::EmailTaken,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Owns(ids) => {
                let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
                vec![("org_ids", ids.join(","))]
            }
            Self::Confirmation | Self::EmailTaken => vec![],
        }
    }
}

impl User {
    /// A new account, whose address is confirmed or not yet.
    pub(crate) fn register(
        draft: Draft,
        verified_at: Option<OffsetDateTime>,
        now: OffsetDateTime,
    ) -> Changed<Self> {
        let Draft { address, display_name } = draft;
        let it = Self {
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
        let event = pb::UserRegistered { after: Some((&it).into()) };
        it.told(&event)
    }

    /// The address is confirmed, once.
    pub(crate) fn verify(mut self, now: OffsetDateTime) -> Changed<Self> {
        let before = Some((&self).into());
        self.email_verified_at = Some(self.email_verified_at.unwrap_or(now));
        let event = pb::UserEmailVerified { before, after: Some((&self).into()) };
        self.told(&event)
    }

    /// Another name.
    pub(crate) fn rename(mut self, display_name: String) -> Changed<Self> {
        let before = Some((&self).into());
        self.display_name = display_name;
        let event = pb::ProfileUpdated { before, after: Some((&self).into()) };
        self.told(&event)
    }

    /// Refuses a proof of a password that was replaced since (I-16).
    pub(crate) fn require_current(&self, proof: &PasswordProof) -> Result<(), InvalidLogin> {
        let current = proof.user_id == self.id && proof.password_version == self.password_version;
        if current { Ok(()) } else { Err(InvalidLogin) }
    }

    /// Another password; links that set one were for the old one.
    pub(crate) fn change_password(mut self) -> Changed<Self> {
        self.password_version += 1;
        let event = pb::PasswordChanged { after: Some((&self).into()) };
        self.told(&event)
    }

    /// The same by a mailed link, which also proves the address.
    pub(crate) fn reset_password(mut self, now: OffsetDateTime) -> Changed<Self> {
        self.password_version += 1;
        self.email_verified_at = Some(self.email_verified_at.unwrap_or(now));
        let event = pb::PasswordReset { after: Some((&self).into()) };
        self.told(&event)
    }

    /// The account moves to an address that its owner has just proven.
    pub(crate) fn change_email(
        mut self,
        email: Email,
        canonical: String,
        now: OffsetDateTime,
    ) -> Changed<Self> {
        let before = Some((&self).into());
        (self.email, self.canonical_email) = (email, canonical);
        self.email_verified_at = Some(now);
        let event = pb::EmailChanged { before, after: Some((&self).into()) };
        self.told(&event)
    }

    /// The second factor goes on or off.
    pub(crate) fn second_factor(mut self, on: bool, now: OffsetDateTime) -> Changed<Self> {
        self.totp_enabled_at = on.then_some(now);
        let after = Some((&self).into());
        if on {
            self.told(&pb::TotpEnabled { after })
        } else {
            self.told(&pb::TotpDisabled { after })
        }
    }

    /// The end (1.8): refused while it owns an organization. Name and address are erased; the events name the
    /// addresses, also those of before, for services that have some.
    pub(crate) fn delete(
        mut self,
        owns: Vec<OrgId>,
        typed: Option<&str>,
        former: &[Address],
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        if !owns.is_empty() {
            return Err(Refused::Owns(owns));
        }
        if typed != Some(self.canonical_email.as_str()) {
            return Err(Refused::Confirmation);
        }
        let event = pb::AccountDeleted { before: Some((&self).into()) };
        let (id, about) = (self.id, self.about());
        let former = former.chunks(ADDRESSES_MAX).map(|part| pb::FormerAddressesErased {
            user_id: id.into(),
            emails: part.iter().map(|it| it.typed.0.clone()).collect(),
        });
        let nowhere = format!("deleted-{}@deleted.invalid", self.id);
        (self.email, self.canonical_email) = (Email(nowhere.clone()), nowhere);
        "Deleted account".clone_into(&mut self.display_name);
        (self.email_verified_at, self.totp_enabled_at) = (None, None);
        self.password_version += 1;
        self.deleted_at = Some(now);
        Ok(Changed::new(self, &event, about).followed_by(former))
    }

    /// The account with an event about it.
    pub(crate) fn told<E: Message + Name>(self, event: &E) -> Changed<Self> {
        let about = self.about();
        Changed::new(self, event, about)
    }

    /// Where its mail goes.
    pub(crate) fn address(&self) -> Address {
        Address { typed: self.email.clone(), canonical: self.canonical_email.clone() }
    }

    /// The account as an actor of a call that proves it by itself.
    pub(crate) fn account(&self, credential_id: Uuid) -> Account {
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

    pub(crate) fn about(&self) -> About {
        About::object("user", self.id, &self.display_name)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Ann, whoever she is.
    pub(crate) fn user() -> User {
        let address = chassis::email::parse("ann@example.com").unwrap();
        let draft = Draft { address, display_name: "Ann".to_owned() };
        User::register(draft, None, OffsetDateTime::UNIX_EPOCH).state().clone()
    }

    #[test]
    fn an_account_that_owns_stays_and_a_deleted_one_is_nobody() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let owned = OrgId(Uuid::from_u128(7));
        let typed = Some("ann@example.com");
        let refused = user().delete(vec![owned], typed, &[], now).map(|_| ());
        assert_eq!(refused, Err(Refused::Owns(vec![owned])));
        let refused = user().delete(vec![], Some("bob@example.com"), &[], now).map(|_| ());
        assert_eq!(refused, Err(Refused::Confirmation));
        let gone = user().delete(vec![], typed, &[], now).unwrap();
        assert!(!format!("{:?}", gone.state()).to_lowercase().contains("ann"));
    }
}
