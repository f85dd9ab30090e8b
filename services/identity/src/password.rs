//! Passwords: rejection of weak ones, and hashing with argon2id in a pool of threads.

pub(crate) mod pool;

pub(crate) use pool::PasswordHasher;

use api::error::Reason;
use chassis::{Code, Refusal};

/// Common passwords that are not shorter than the minimum length.
const COMMON: &[&str] = &[
    "123456789012",
    "1234567890123",
    "password1234",
    "passwordpassword",
    "qwertyuiop12",
    "qwertyuiop123",
    "administrator",
    "letmeinletmein",
    "iloveyou1234",
    "welcome12345",
    "changeme1234",
    "aaaaaaaaaaaa",
    "000000000000",
    "111111111111",
];

/// Refusal of a sign-in or a repeated authentication. Does not reveal if the address or the password was
/// wrong.
#[derive(Debug, thiserror::Error)]
#[error("e-mail address or password is wrong")]
pub(crate) struct InvalidLogin;

impl Refusal for InvalidLogin {
    fn code(&self) -> Code {
        Code::Unauthenticated
    }

    fn reason(&self) -> Reason {
        Reason::InvalidLogin
    }
}

/// Returns the reason for which a password is too weak; `None` if it is acceptable. The contract limits its
/// length.
pub(crate) fn weakness(password: &str, email: &str) -> Option<&'static str> {
    let lower = password.to_lowercase();
    if COMMON.contains(&lower.as_str()) {
        return Some("must not be a common password; choose another one");
    }
    if lower == email.to_lowercase() {
        return Some("must not be the e-mail address of the account");
    }
    None
}
