//! Claims: accounts whose address is not confirmed. Any number of people may claim an address; it belongs to
//! the account that follows a link that was mailed to it, and all other claims to the address end.

use api::{error::Reason, identity as pb};
use chassis::{Changed, Code, Refusal};
use time::{Duration, OffsetDateTime};

use super::User;

/// Open claims to one address at most. Further registrations get a link that sets a password for the newest
/// claim, so that nobody can fill the places of others.
pub const CLAIMS_PER_ADDRESS_MAX: i64 = 5;

/// Time after a registration in which its address must be confirmed. Then the claim is deleted.
pub const CLAIM_LIFETIME: Duration = Duration::days(7);

/// Mails with links to an address without a confirmed account in 24 hours at most, for all claims together.
const MAILS_PER_ADDRESS_MAX: i64 = 20;

/// Refusal of another mail to an address that no account has confirmed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this address got too many mails in the last 24 hours; use a link from one of them, or retry tomorrow"
)]
pub struct TooManyMails;

impl Refusal for TooManyMails {
    fn code(&self) -> Code {
        Code::ResourceExhausted
    }

    fn reason(&self) -> Reason {
        Reason::RateLimited
    }
}

/// Refuses another mail to an address that no account has confirmed, after `sent` mails in 24 hours.
pub fn require_mail_allowance(sent: i64) -> Result<(), TooManyMails> {
    if sent < MAILS_PER_ADDRESS_MAX { Ok(()) } else { Err(TooManyMails) }
}

impl User {
    /// Returns true if the address of the account is not confirmed.
    pub fn is_claim(&self) -> bool {
        self.email_verified_at.is_none()
    }

    /// Confirms the address, and sets a new password, because the person who followed the link did not enter
    /// the password of the claim.
    pub fn verify_email_with_new_password(self, now: OffsetDateTime) -> Changed<Self> {
        let before = Some((&self).into());
        let mut user = self;
        user.email_verified_at = Some(user.email_verified_at.unwrap_or(now));
        user.password_version += 1;
        let after: Option<pb::User> = Some((&user).into());
        let event = pb::UserEmailVerified { before, after: after.clone() };
        user.with_event(&event).followed_by([pb::UserPasswordReset { after }])
    }

    /// Ends a claim: its address was confirmed by another account, or not within [`CLAIM_LIFETIME`].
    pub fn end_claim(self) -> Changed<Self> {
        let event = pb::UserClaimEnded { before: Some((&self).into()) };
        self.with_event(&event)
    }
}
