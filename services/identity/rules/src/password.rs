//! Passwords: rejection of weak ones. The service hashes them.

use api::error::Reason;
use chassis::{Code, Refusal};

/// Common passwords of at least 12 characters, the minimum of the contract.
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

/// Refusal of a sign-in or a repeated authentication. The same for an unknown address and a wrong password.
#[derive(Debug, thiserror::Error)]
#[error("e-mail address or password is wrong")]
pub struct InvalidLogin;

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
pub fn weakness(password: &str, email: &str) -> Option<&'static str> {
    let lower = password.to_lowercase();
    if COMMON.contains(&lower.as_str()) {
        return Some("must not be a common password; choose another one");
    }
    if lower == email.to_lowercase() {
        return Some("must not be the e-mail address of the account");
    }
    None
}
