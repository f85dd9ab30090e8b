//! Passwords: argon2id, on a bounded number of threads of their own, so that a flood of logins neither
//! stalls other calls nor takes the memory.

pub(crate) mod pool;

pub(crate) use pool::Passwords;

/// Passwords that everybody tries first. Longer than the shortest allowed one, so length does not help.
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

/// Why a password is too weak; `None` if it is not. Its length is declared in the contract.
pub(crate) fn weakness(password: &str, email: &str) -> Option<&'static str> {
    let lower = password.to_lowercase();
    if COMMON.contains(&lower.as_str()) {
        return Some("is one of the passwords that everybody tries first");
    }
    if lower == email.to_lowercase() {
        return Some("must not be the e-mail address");
    }
    None
}
