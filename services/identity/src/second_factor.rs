//! The second factor: codes of an authenticator app (RFC 6238), and recovery codes that stand in for it.

pub(crate) mod rpc;
pub(crate) mod store;

use api::error::Reason;
use chassis::{Code, Refusal, UserId, key};
use data_encoding::BASE32_NOPAD;
use time::OffsetDateTime;
use totp_rs::{Builder, Totp};

/// How many recovery codes there are.
const RECOVERY_CODES: usize = 10;

/// Why the second factor says no.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the code is wrong, was used, or is too old")]
    Code,
    #[error("the second factor is on already; disable it first")]
    On,
    #[error("the second factor is not on; enroll and confirm it first")]
    Off,
    #[error("the e-mail address is not confirmed; follow the link in its mail first")]
    Unverified,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::Code => Code::Unauthenticated,
            Self::On | Self::Off | Self::Unverified => Code::FailedPrecondition,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::Code => Reason::InvalidCode,
            Self::On | Self::Off => Reason::SecondFactorState,
            Self::Unverified => Reason::EmailNotVerified,
        }
    }
}

/// An authenticator's secret.
#[derive(Clone)]
pub(crate) struct Authenticator(Vec<u8>);

impl Authenticator {
    /// A new one: 160 random bits, as RFC 4226 recommends.
    pub(crate) fn new() -> Self {
        Self(key::random()[..20].to_vec())
    }

    /// As it is stored: sealed, bound to its account.
    pub(crate) fn seal(&self, sealer: &key::Secret, user_id: UserId) -> Vec<u8> {
        key::seal(sealer, user_id.0.as_bytes(), &self.0)
    }

    /// From what is stored.
    pub(crate) fn open(sealer: &key::Secret, user_id: UserId, sealed: &[u8]) -> Option<Self> {
        key::open(sealer, user_id.0.as_bytes(), sealed).map(Self)
    }

    /// For typing.
    pub(crate) fn base32(&self) -> String {
        BASE32_NOPAD.encode(&self.0)
    }

    /// For a QR code.
    pub(crate) fn uri(&self, email: &str) -> String {
        let label: String = email.bytes().map(escape).collect();
        format!("otpauth://totp/Tenantry:{label}?secret={}&issuer=Tenantry", self.base32())
    }

    /// The step of time whose code this is; a step on either side is forgiven, one that was used is not.
    pub(crate) fn step(&self, code: &str, last: i64, now: OffsetDateTime) -> Option<i64> {
        let seconds = u64::try_from(now.unix_timestamp()).ok()?;
        let step = i64::try_from(self.totp().check(code, seconds)?).ok()?;
        (step > last).then_some(step)
    }

    fn totp(&self) -> Totp {
        Builder::new().with_secret(self.0.clone()).with_skew(1).build_noncompliant()
    }
}

fn escape(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b".-_@".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

/// New recovery codes: 80 random bits each, in two groups.
pub(crate) fn recovery_codes() -> Vec<String> {
    let code = |_| {
        let text = BASE32_NOPAD.encode(&key::random()[..10]).to_lowercase();
        format!("{}-{}", &text[..8], &text[8..])
    };
    (0..RECOVERY_CODES).map(code).collect()
}

/// What is stored of a recovery code. 80 random bits need no slow hash.
pub(crate) fn code_hash(code: &str) -> Vec<u8> {
    let plain: String = code.chars().filter(char::is_ascii_alphanumeric).collect();
    key::hash(plain.to_lowercase().as_bytes()).to_vec()
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
        let it = Authenticator(b"12345678901234567890".to_vec());
        for (seconds, code) in
            [(59, "287082"), (1_111_111_109, "081804"), (20_000_000_000, "353130")]
        {
            assert_eq!(it.step(code, 0, at(seconds)), Some(seconds / 30), "{seconds}");
        }
    }

    #[test]
    fn a_code_works_once_and_for_a_minute_and_a_half() {
        let it = Authenticator(b"12345678901234567890".to_vec());
        assert_eq!(it.step("287082", 0, at(89)), Some(1));
        assert_eq!(it.step("287082", 0, at(0)), Some(1));
        assert_eq!(it.step("287082", 0, at(90)), None);
        assert_eq!(it.step("287082", 1, at(59)), None);
        assert_eq!(it.step("287083", 0, at(59)), None);
    }

    #[test]
    fn a_secret_opens_for_its_account_only() {
        let (ann, bob, sealer) = (UserId::new(), UserId::new(), [7; 32]);
        let it = Authenticator::new();
        let sealed = it.seal(&sealer, ann);
        assert_eq!(Authenticator::open(&sealer, ann, &sealed).unwrap().0, it.0);
        assert!(Authenticator::open(&sealer, bob, &sealed).is_none());
        assert!(!sealed.windows(20).any(|part| part == it.0));
    }

    #[test]
    fn a_recovery_code_is_read_as_people_type_it() {
        let codes = recovery_codes();
        assert_eq!(codes.len(), RECOVERY_CODES);
        let typed = codes[0].to_uppercase().replace('-', " ");
        assert_eq!(code_hash(&typed), code_hash(&codes[0]));
        assert_ne!(code_hash(&codes[1]), code_hash(&codes[0]));
    }
}
