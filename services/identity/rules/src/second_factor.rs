//! The second factor: time-based codes of an authenticator app (TOTP, RFC 6238), and recovery codes for its
//! loss.

use api::error::Reason;
use chassis::{Code, Refusal, UserId, key};
use data_encoding::BASE32_NOPAD;
use time::OffsetDateTime;
use totp_rs::{Builder, Totp};

/// Number of recovery codes.
const RECOVERY_CODES: usize = 10;

/// Reasons for which a code or a change of the second factor is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the code is wrong, already used or expired; enter the current code")]
    Code,
    #[error("the second factor is already enabled; disable it first")]
    AlreadyEnabled,
    #[error("the second factor is not enabled; enroll and confirm it first")]
    NotEnabled,
    #[error("the e-mail address is not confirmed; follow the link in the confirmation mail first")]
    Unverified,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::Code => Code::Unauthenticated,
            Self::AlreadyEnabled | Self::NotEnabled | Self::Unverified => Code::FailedPrecondition,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::Code => Reason::InvalidCode,
            Self::AlreadyEnabled | Self::NotEnabled => Reason::SecondFactorState,
            Self::Unverified => Reason::EmailNotVerified,
        }
    }
}

/// The shared secret of an authenticator app.
#[derive(Clone)]
pub struct Authenticator(Vec<u8>);

impl Authenticator {
    /// Returns a new secret: 160 random bits, as RFC 4226 recommends.
    pub fn random() -> Self {
        Self(key::random()[..20].to_vec())
    }

    /// Returns the secret as it is stored: encrypted, and bound to its account.
    pub fn seal(&self, sealer: &key::DerivedKeys, user_id: UserId) -> Vec<u8> {
        sealer.seal(user_id.0.as_bytes(), &self.0)
    }

    /// Decrypts a stored secret; `None` if it belongs to another account or was changed.
    pub fn open(sealer: &key::DerivedKeys, user_id: UserId, sealed: &[u8]) -> Option<Self> {
        sealer.open(user_id.0.as_bytes(), sealed).map(Self)
    }

    /// Returns the secret in base32, for manual entry.
    pub fn base32(&self) -> String {
        BASE32_NOPAD.encode(&self.0)
    }

    /// Returns the `otpauth://` URI, for a QR code.
    pub fn uri(&self, email: &str) -> String {
        let label: String = email.bytes().map(percent_encode).collect();
        format!("otpauth://totp/Tenantry:{label}?secret={}&issuer=Tenantry", self.base32())
    }

    /// Verifies a code and returns its time step. Accepts one step of clock skew on either side, and no
    /// step up to `last_used_step`, so that a code cannot be replayed. Ignores the separators with which apps
    /// show codes ("123 456").
    pub fn verify(&self, code: &str, last_used_step: i64, now: OffsetDateTime) -> Option<i64> {
        let code: String = code.chars().filter(|it| !it.is_whitespace() && *it != '-').collect();
        let seconds = u64::try_from(now.unix_timestamp()).ok()?;
        let step = i64::try_from(self.totp().check(&code, seconds)?).ok()?;
        (step > last_used_step).then_some(step)
    }

    /// Six digits, a step of 30 seconds, SHA-1. "Noncompliant" only skips the checks of digits and secret
    /// length.
    fn totp(&self) -> Totp {
        Builder::new().with_secret(self.0.clone()).with_skew(1).build_noncompliant()
    }
}

/// Percent-encodes a byte of a URI path segment.
fn percent_encode(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b".-_@".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

/// The kinds of codes that a method accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeKind {
    /// Codes of the authenticator app only.
    Authenticator,
    /// Codes of the authenticator app, and recovery codes.
    AuthenticatorOrRecovery,
}

/// Returns new recovery codes: 80 random bits each, in two groups.
pub fn new_recovery_codes() -> Vec<String> {
    let new_code = |_| {
        let text = BASE32_NOPAD.encode(&key::random()[..10]).to_lowercase();
        format!("{}-{}", &text[..8], &text[8..])
    };
    (0..RECOVERY_CODES).map(new_code).collect()
}

/// Returns the stored hash of a recovery code. Case and separators are ignored. SHA-256 is enough for 80
/// random bits; no slow hash is needed.
pub fn hash_recovery_code(code: &str) -> Vec<u8> {
    let normalized: String = code.chars().filter(char::is_ascii_alphanumeric).collect();
    key::hash(normalized.to_lowercase().as_bytes()).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(seconds).unwrap()
    }

    /// The test vectors of RFC 6238, appendix B, in six digits.
    #[test]
    fn codes_are_those_of_the_standard() {
        let authenticator = Authenticator(b"12345678901234567890".to_vec());
        for (seconds, code) in
            [(59, "287082"), (1_111_111_109, "081804"), (20_000_000_000, "353130")]
        {
            assert_eq!(authenticator.verify(code, 0, at(seconds)), Some(seconds / 30), "{seconds}");
        }
    }

    #[test]
    fn a_code_works_once_and_for_a_minute_and_a_half() {
        let authenticator = Authenticator(b"12345678901234567890".to_vec());
        assert_eq!(authenticator.verify("287082", 0, at(89)), Some(1));
        assert_eq!(authenticator.verify(" 287 082 ", 0, at(89)), Some(1));
        assert_eq!(authenticator.verify("287082", 0, at(0)), Some(1));
        assert_eq!(authenticator.verify("287082", 0, at(90)), None);
        assert_eq!(authenticator.verify("287082", 1, at(59)), None);
        assert_eq!(authenticator.verify("287083", 0, at(59)), None);
    }

    #[test]
    fn a_secret_opens_for_its_account_only() {
        let ann = UserId::new();
        let bob = UserId::new();
        let sealer = key::Key::new(&[[7; 32]]).derive("second factors");
        let authenticator = Authenticator::random();
        let sealed = authenticator.seal(&sealer, ann);
        assert_eq!(Authenticator::open(&sealer, ann, &sealed).unwrap().0, authenticator.0);
        assert!(Authenticator::open(&sealer, bob, &sealed).is_none());
        assert!(!sealed.windows(20).any(|part| part == authenticator.0));
    }

    #[test]
    fn a_recovery_code_is_read_as_people_type_it() {
        let codes = new_recovery_codes();
        assert_eq!(codes.len(), RECOVERY_CODES);
        let typed = codes[0].to_uppercase().replace('-', " ");
        assert_eq!(hash_recovery_code(&typed), hash_recovery_code(&codes[0]));
        assert_ne!(hash_recovery_code(&codes[1]), hash_recovery_code(&codes[0]));
    }
}
