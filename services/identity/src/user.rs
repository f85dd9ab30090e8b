//! Accounts: a person, in every organization.

pub(crate) mod mail;
pub(crate) mod rpc;
pub(crate) mod store;
mod wire;

use api::{error::Reason, identity as pb};
use chassis::{
    About, Changed, Code, Refusal, UserId,
    email::{Address, Email},
    key::{Key, Secret},
    token::{Kind, Token},
};
use secrecy::ExposeSecret;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// The template of the mail that confirms an address.
pub(crate) const VERIFY: &str = "verify";

/// How long a mailed link confirms an address (I-16).
const LINK_LIFETIME: Duration = Duration::minutes(30);

/// Between two mails to the same account.
const RESEND_PAUSE: Duration = Duration::seconds(60);

/// An account.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) id: UserId,
    pub(crate) email: Email,
    pub(crate) display_name: String,
    pub(crate) email_verified_at: Option<OffsetDateTime>,
    pub(crate) created_at: OffsetDateTime,
}

/// What a person gives to open an account.
pub(crate) struct Draft {
    pub(crate) address: Address,
    pub(crate) display_name: String,
}

/// A link on its way to a mailbox.
#[derive(Debug)]
pub(crate) struct Verification {
    pub(crate) id: Uuid,
    pub(crate) user_id: UserId,
    pub(crate) canonical_email: String,
    pub(crate) secret_hash: Vec<u8>,
    pub(crate) expires_at: OffsetDateTime,
    pub(crate) used_at: Option<OffsetDateTime>,
}

/// Why an account does not change.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the link is unknown, was used, or is too old; ask for a new one")]
    VerificationInvalid,
    #[error("a mail was sent less than a minute ago; look into your mailbox, then retry")]
    ResentTooSoon,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::VerificationInvalid => Code::FailedPrecondition,
            Self::ResentTooSoon => Code::ResourceExhausted,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::VerificationInvalid => Reason::VerificationInvalid,
            Self::ResentTooSoon => Reason::RateLimited,
        }
    }
}

impl User {
    /// A new account, not confirmed yet.
    pub(crate) fn register(draft: Draft, now: OffsetDateTime) -> Changed<Self> {
        let Draft { address, display_name } = draft;
        let id = UserId::new();
        let it = Self {
            id,
            email: address.typed,
            display_name,
            email_verified_at: None,
            created_at: now,
        };
        let event = pb::UserRegistered { after: Some((&it).into()) };
        let about = it.about();
        Changed::new(it, &event, about)
    }

    /// The mailed link works once, in its time, for the account and address it was made for (I-17).
    pub(crate) fn verify(
        mut self,
        link: &Verification,
        token: &Token,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        let good =
            link.used_at.is_none() && link.expires_at > now && token.matches(&link.secret_hash);
        if !good || link.user_id != self.id {
            return Err(Refused::VerificationInvalid);
        }
        let before = Some((&self).into());
        self.email_verified_at = Some(self.email_verified_at.unwrap_or(now));
        let event = pb::UserEmailVerified { before, after: Some((&self).into()) };
        let about = self.about();
        Ok(Changed::new(self, &event, about))
    }

    /// A link is sent again, but not at once.
    pub(crate) fn resend(
        self,
        last_sent_at: Option<OffsetDateTime>,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        if last_sent_at.is_some_and(|it| it + RESEND_PAUSE > now) {
            return Err(Refused::ResentTooSoon);
        }
        let event = pb::VerificationSent { after: Some((&self).into()) };
        let about = self.about();
        Ok(Changed::new(self, &event, about))
    }

    fn about(&self) -> About {
        About::object("user", self.id, &self.display_name)
    }
}

impl Verification {
    /// A new link for an address.
    pub(crate) fn new(
        links: &Links,
        user_id: UserId,
        canonical_email: &str,
        now: OffsetDateTime,
    ) -> Self {
        let id = chassis::id::new();
        Self {
            id,
            user_id,
            canonical_email: canonical_email.to_owned(),
            secret_hash: links.token(id).hash(),
            expires_at: now + LINK_LIFETIME,
            used_at: None,
        }
    }
}

/// Makes the links that confirm addresses.
#[derive(Clone)]
pub(crate) struct Links {
    key: Secret,
    base_url: String,
}

impl Links {
    pub(crate) fn new(key: &Key, base_url: &str) -> Self {
        let base_url = base_url.trim_end_matches('/').to_owned();
        Self { key: key.derive("verification links"), base_url }
    }

    fn token(&self, id: Uuid) -> Token {
        Token::derived(id, &self.key)
    }

    /// The link, with its token in the fragment, which browsers do not send to servers.
    pub(crate) fn link(&self, id: Uuid) -> String {
        let token = self.token(id).reveal(Kind::Verification);
        format!("{}/verify#{}", self.base_url, token.expose_secret())
    }
}
