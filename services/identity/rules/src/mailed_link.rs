//! Mailed links, and mailed notices without a link. A link is bound to its account, its purpose, the
//! address to which it is mailed and the account's password; it works once, within half an hour (I-16).

use api::error::Reason;
use chassis::{
    Code, Refusal, UserId,
    email::{Address, Email},
    key::{DerivedKeys, Key},
    token::{Kind, Token},
};
use secrecy::ExposeSecret;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::{types::StoredText, user::User};

/// Time in which a link can be used.
pub const LIFETIME: Duration = Duration::minutes(30);

/// Time for which an expired link or notice is kept: mails to an unreachable server are retried for five
/// days.
pub const RETENTION: Duration = Duration::days(6);

/// Shortest time between two mails of one purpose to the same account.
const INTERVAL_MIN: Duration = Duration::seconds(60);

/// The purpose of a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Confirms the address of an account.
    VerifyEmail,
    /// Sets a new password.
    ResetPassword,
    /// Changes the address of an account to the one to which the link is mailed.
    ChangeEmail,
    /// Notifies the owner of an account that somebody tried to register with the same address.
    AlreadyRegistered,
    /// Notifies the address of an account that a change to another one was requested.
    ChangeRequested,
    /// Notifies the old address of an account that the address was changed.
    AddressChanged,
}

/// Stored links have the texts `told_…` from before the notices got their present names.
impl StoredText for Purpose {
    const TEXTS: &'static [(Self, &'static str)] = &[
        (Self::VerifyEmail, "verify"),
        (Self::ResetPassword, "reset"),
        (Self::ChangeEmail, "change"),
        (Self::AlreadyRegistered, "told_registered"),
        (Self::ChangeRequested, "change_requested"),
        (Self::AddressChanged, "told_changed"),
    ];
}

impl Purpose {
    /// Returns the name of the mail's template.
    pub fn template(self) -> &'static str {
        match self {
            Self::VerifyEmail => "verify",
            Self::ResetPassword => "reset",
            Self::ChangeEmail => "change",
            Self::AlreadyRegistered => "already_registered",
            Self::ChangeRequested => "change_requested",
            Self::AddressChanged => "address_changed",
        }
    }
}

/// A mailed link or notice.
#[derive(Clone, Debug)]
pub struct MailedLink {
    pub id: Uuid,
    pub user_id: UserId,
    pub purpose: Purpose,
    pub email: Email,
    pub canonical_email: String,
    pub secret_hash: Vec<u8>,
    pub password_version: i64,
    pub created_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
    pub used_at: Option<OffsetDateTime>,
}

/// Reasons for which a link is refused, or not mailed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the link is unknown, already used or expired; request a new one")]
    Invalid,
    #[error("a mail was sent less than a minute ago; check the mailbox, then retry")]
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
    /// Creates a link of an account, to be mailed to an address.
    pub fn new(
        links: &LinkFactory,
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

    /// Refuses a wrong token, purpose or account, a used or expired link, and one from before the last
    /// change of the password.
    pub fn require_valid(
        &self,
        purpose: Purpose,
        token: &Token,
        user: &User,
        now: OffsetDateTime,
    ) -> Result<(), Refused> {
        let is_valid = self.used_at.is_none()
            && self.expires_at > now
            && self.purpose == purpose
            && self.user_id == user.id
            && self.password_version == user.password_version
            && token.matches(&self.secret_hash);
        if is_valid { Ok(()) } else { Err(Refused::Invalid) }
    }
}

impl MailedLink {
    /// True if this is a used link that confirms an address, and the account has confirmed the address:
    /// whoever follows the link a second time has reached what they want.
    pub fn has_confirmed(&self, token: &Token, user: &User) -> bool {
        self.purpose == Purpose::VerifyEmail
            && self.used_at.is_some()
            && token.matches(&self.secret_hash)
            && user.email_verified_at.is_some()
            && user.canonical_email == self.canonical_email
    }
}

/// Refuses another mail of one purpose too soon after the last one.
pub fn require_interval(
    last_sent_at: Option<OffsetDateTime>,
    now: OffsetDateTime,
) -> Result<(), Refused> {
    if last_sent_at.is_some_and(|it| it + INTERVAL_MIN > now) {
        return Err(Refused::TooSoon);
    }
    Ok(())
}

/// Creates the tokens and URLs of links.
#[derive(Clone)]
pub struct LinkFactory {
    /// Derive the secret of a token from the id of its link. Only hashes of secrets are stored, and a mail
    /// that is sent again must have the same link.
    keys: DerivedKeys,
    base_url: String,
}

impl LinkFactory {
    /// Creates a factory under the deployment's key; `base_url` is the address of the site.
    pub fn new(key: &Key, base_url: String) -> Self {
        Self { keys: key.derive("verification links"), base_url }
    }

    fn token(&self, id: Uuid) -> Token {
        Token::derived(id, &self.keys.current())
    }

    /// Returns the token of a stored link, also if a previous key has made it.
    fn token_of(&self, link: &MailedLink) -> Token {
        let mut tokens = self.keys.secrets().map(|it| Token::derived(link.id, &it));
        tokens.find(|it| it.matches(&link.secret_hash)).unwrap_or_else(|| self.token(link.id))
    }

    /// Returns the URL of a link. The page that confirms an address is rendered by the server, without
    /// scripts, so its token is in the path; the page is sent with `no-store` and `no-referrer`. The other
    /// pages belong to the web application, whose script reads the token from the fragment, which browsers do
    /// not send.
    pub fn url(&self, link: &MailedLink) -> String {
        let (page, kind) = match link.purpose {
            Purpose::ResetPassword => ("reset", Kind::Reset),
            Purpose::ChangeEmail => ("change", Kind::Verification),
            _ => ("verify", Kind::Verification),
        };
        let token = self.token_of(link).reveal(kind);
        let separator = if page == "verify" { '/' } else { '#' };
        format!("{}/{page}{separator}{}", self.base_url, token.expose_secret())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::tests::user;

    /// I-16: each property to which a link is bound is changed in turn.
    #[test]
    fn a_link_is_valid_only_for_what_it_was_created_for() {
        let links = LinkFactory::new(&Key::new(&[[7; 32]]), String::new());
        let ann = user();
        let now = OffsetDateTime::UNIX_EPOCH;
        let to = chassis::email::parse("ann@example.com").unwrap();
        let link = MailedLink::new(&links, Purpose::ResetPassword, &ann, &to, now);
        let token = links.token(link.id);
        let is_valid = |link: &MailedLink, purpose, token: &Token, user: &User, now| {
            link.require_valid(purpose, token, user, now).is_ok()
        };
        assert!(is_valid(&link, Purpose::ResetPassword, &token, &ann, now));
        assert!(!is_valid(&link, Purpose::VerifyEmail, &token, &ann, now));
        assert!(!is_valid(&link, Purpose::ResetPassword, &links.token(Uuid::nil()), &ann, now));
        assert!(!is_valid(&link, Purpose::ResetPassword, &token, &ann, now + LIFETIME));
        assert!(!is_valid(&link, Purpose::ResetPassword, &token, &user(), now));
        let later = User { password_version: 2, ..ann.clone() };
        assert!(!is_valid(&link, Purpose::ResetPassword, &token, &later, now));
        let used = MailedLink { used_at: Some(now), ..link.clone() };
        assert!(!is_valid(&used, Purpose::ResetPassword, &token, &ann, now));
        // After a rotation of the secret key, a mail that is sent again has the same link.
        let rotated = LinkFactory::new(&Key::new(&[[8; 32], [7; 32]]), String::new());
        assert_eq!(rotated.url(&link), links.url(&link));
        assert_eq!(require_interval(Some(now), now), Err(Refused::TooSoon));
        assert_eq!(require_interval(Some(now), now + INTERVAL_MIN), Ok(()));
    }
}
