//! Passwords: rejection of weak ones. The service hashes them.

use api::error::Reason;
use chassis::{Code, Refusal, fold};
use secrecy::{ExposeSecret, SecretString};
use unicode_normalization::UnicodeNormalization;

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

/// A password as it is compared and hashed: the profile `OpaqueString` of RFC 8265, so that a password is the
/// same whether a keyboard composes accents or not. Texts that the profile refuses are kept, because they may
/// be passwords of former versions; [`NewPassword`] refuses them.
#[derive(Clone)]
pub struct Password {
    prepared: SecretString,
    typed: SecretString,
}

impl Password {
    /// Prepares a password as a person typed it: other spaces become U+0020, then NFC.
    pub fn new(typed: &str) -> Self {
        let to_space = |it: char| if it != ' ' && is_space(it) { ' ' } else { it };
        let prepared: String = typed.chars().map(to_space).nfc().collect();
        Self { prepared: prepared.into(), typed: typed.into() }
    }

    /// Returns the text that is hashed.
    pub fn prepared(&self) -> &SecretString {
        &self.prepared
    }

    /// Returns the text that former versions have hashed, if it differs.
    pub fn typed_if_different(&self) -> Option<&SecretString> {
        let differs = self.typed.expose_secret() != self.prepared.expose_secret();
        differs.then_some(&self.typed)
    }
}

/// A password that an account may get. Every way of setting a password makes it here.
#[derive(Clone)]
pub struct NewPassword(Password);

impl NewPassword {
    /// Fails with the description of the violation if a password is too weak for the account with an address.
    /// The contract limits its length.
    pub fn new(typed: &str, email: &str) -> Result<Self, &'static str> {
        let password = Password::new(typed);
        let text = password.prepared.expose_secret();
        if text.chars().any(char::is_control) {
            return Err("must not contain control characters, such as line breaks or tabs");
        }
        let key = fold::key(text);
        if COMMON.contains(&key.as_str()) {
            return Err("must not be a common password; choose another one");
        }
        if key == fold::key(email) {
            return Err("must not be the e-mail address of the account");
        }
        Ok(Self(password))
    }

    /// Returns the password, to be hashed.
    pub fn password(&self) -> &Password {
        &self.0
    }
}

/// Returns true for the characters of the category "space separator" (Zs).
fn is_space(it: char) -> bool {
    matches!(
        it,
        ' ' | '\u{a0}' | '\u{1680}' | '\u{2000}'
            ..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(typed: &str) -> String {
        Password::new(typed).prepared().expose_secret().to_owned()
    }

    /// The examples of RFC 8265, section 4.3, and composed and decomposed letters.
    #[test]
    fn passwords_are_prepared_as_the_standard_says() {
        assert_eq!(prepared("correct horse battery staple"), "correct horse battery staple");
        assert_eq!(prepared("Correct Horse Battery Staple"), "Correct Horse Battery Staple");
        assert_eq!(prepared("πßå"), "πßå");
        assert_eq!(prepared("foo\u{1680}bar"), "foo bar");
        assert_eq!(prepared("Jack of \u{2666}s"), "Jack of \u{2666}s");
        assert_eq!(prepared("e\u{301}"), "\u{e9}");
        assert!(Password::new("plain").typed_if_different().is_none());
    }

    #[test]
    fn weak_passwords_are_refused() {
        let refuse = |typed: &str| NewPassword::new(typed, "Ann@example.com").is_err();
        assert!(refuse("PasswordPassword"));
        assert!(refuse("ann@EXAMPLE.com"));
        assert!(refuse("a long\tpassword"));
        assert!(!refuse("a long enough password"));
    }
}
