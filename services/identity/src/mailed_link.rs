//! Links on their way to a mailbox, and notices without one. A link is bound to its account, its purpose, the
//! address it goes to and the password of that time; it works once, for half an hour (I-16, I-17).

pub(crate) mod mail;
pub(crate) mod store;

use api::error::Reason;
use chassis::{
    Code, Refusal, UserId,
    email::{Address, Email},
    key::{Key, Secret},
    token::{Kind, Token},
};
use secrecy::ExposeSecret;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::user::User;

/// How long a link works.
pub(crate) const LIFETIME: Duration = Duration::minutes(30);

/// Between two mails of a kind to the same account.
const PAUSE: Duration = Duration::seconds(60);

/// What a mail is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub(crate) enum Purpose {
    /// Confirms the address of an account.
    Verify,
    /// Sets a new password.
    Reset,
    /// Moves the account to the address that the link goes to.
    Change,
    /// Tells that somebody tried to open an account with the address.
    ToldRegistered,
    /// Tells the old address that the account has moved.
    ToldChanged,
}

impl Purpose {
    /// The template of its mail.
    pub(crate) fn template(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Reset => "reset",
            Self::Change => "change",
            Self::ToldRegistered => "told_registered",
            Self::ToldChanged => "told_changed",
        }
    }
}

/// A link, or a notice.
#[derive(Clone, Debug)]
pub(crate) struct MailedLink {
    pub(crate) id: Uuid,
    pub(crate) user_id: UserId,
    pub(crate) purpose: Purpose,
    pub(crate) email: Email,
    pub(crate) canonical_email: String,
    pub(crate) secret_hash: Vec<u8>,
    pub(crate) password_version: i64,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) expires_at: OffsetDateTime,
    pub(crate) used_at: Option<OffsetDateTime>,
}

/// Why a link does not work, or is not sent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the link is unknown, was used, or is too old; ask for a new one")]
    Invalid,
    #[error("a mail was sent less than a minute ago; look into your mailbox, then retry")]
    TooSoon,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::Invalid => Code::FailedPrecondition,
            Self::TooSoon => Code::ResourceExhausted,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::Invalid => Reason::VerificationInvalid,
            Self::TooSoon => Reason::RateLimited,
        }
    }
}

impl MailedLink {
    /// A new link of an account to an address.
    pub(crate) fn new(
        links: &Links,
        purpose: Purpose,
        user: &User,
        to: &Address,
        now: OffsetDateTime,
    ) -> Self {
        let id = chassis::id::new();
        Self {
            id,
            user_id: user.id,
            purpose,
            email: to.typed.clone(),
            canonical_email: to.canonical.clone(),
            secret_hash: links.token(id).hash(),
            password_version: user.password_version,
            created_at: now,
            expires_at: now + LIFETIME,
            used_at: None,
        }
    }

    /// Whether the token opens it, for this purpose, for the account as it is now.
    pub(crate) fn open(
        &self,
        purpose: Purpose,
        token: &Token,
        user: &User,
        now: OffsetDateTime,
    ) -> Result<(), Refused> {
        let good = self.used_at.is_none()
            && self.expires_at > now
            && self.purpose == purpose
            && self.user_id == user.id
            && self.password_version == user.password_version
            && token.matches(&self.secret_hash);
        if good { Ok(()) } else { Err(Refused::Invalid) }
    }
}

/// A mail of a kind is sent again, but not at once.
pub(crate) fn pause(last: Option<OffsetDateTime>, now: OffsetDateTime) -> Result<(), Refused> {
    if last.is_some_and(|it| it + PAUSE > now) { Err(Refused::TooSoon) } else { Ok(()) }
}

/// Makes links.
#[derive(Clone)]
pub(crate) struct Links {
    key: Secret,
    base_url: String,
}

impl Links {
    pub(crate) fn new(key: &Key, base_url: String) -> Self {
        Self { key: key.derive("verification links"), base_url }
    }

    fn token(&self, id: Uuid) -> Token {
        Token::derived(id, &self.key)
    }

    /// The link. A browser that opens the page of a confirmation without scripts must send the token, so
    /// that one has it in its path; the page is kept by nobody and told to nobody. The pages for the others
    /// are the application's, which reads the fragment.
    pub(crate) fn link(&self, purpose: Purpose, id: Uuid) -> String {
        let (page, kind) = match purpose {
            Purpose::Reset => ("reset", Kind::Reset),
            Purpose::Change => ("change", Kind::Verification),
            _ => ("verify", Kind::Verification),
        };
        let token = self.token(id).reveal(kind);
        let mark = if page == "verify" { '/' } else { '#' };
        format!("{}/{page}{mark}{}", self.base_url, token.expose_secret())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::tests::user;

    /// I-16, I-17: each thing that a link is bound to, swapped.
    #[test]
    fn a_link_opens_for_what_it_was_made_for() {
        let links = Links { key: [7; 32], base_url: String::new() };
        let (ann, now) = (user(), OffsetDateTime::UNIX_EPOCH);
        let to = chassis::email::parse("ann@example.com").unwrap();
        let link = MailedLink::new(&links, Purpose::Reset, &ann, &to, now);
        let token = links.token(link.id);
        let open = |link: &MailedLink, purpose, token: &Token, user: &User, now| {
            link.open(purpose, token, user, now).is_ok()
        };
        assert!(open(&link, Purpose::Reset, &token, &ann, now));
        assert!(!open(&link, Purpose::Verify, &token, &ann, now));
        assert!(!open(&link, Purpose::Reset, &links.token(Uuid::nil()), &ann, now));
        assert!(!open(&link, Purpose::Reset, &token, &ann, now + LIFETIME));
        assert!(!open(&link, Purpose::Reset, &token, &user(), now));
        let later = User { password_version: 2, ..ann.clone() };
        assert!(!open(&link, Purpose::Reset, &token, &later, now));
        let used = MailedLink { used_at: Some(now), ..link };
        assert!(!open(&used, Purpose::Reset, &token, &ann, now));
        assert_eq!(pause(Some(now), now), Err(Refused::TooSoon));
        assert_eq!(pause(Some(now), now + PAUSE), Ok(()));
    }
}
