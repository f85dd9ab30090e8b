//! Refusals of sign-ins with an external identity provider.

use api::error::Reason;
use chassis::{Code, Refusal};

/// Reasons for which a sign-in with the identity provider is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("no identity provider is configured; set --oidc-issuer and --oidc-client-id")]
    NoProvider,
    #[error("the sign-in is unknown, already completed or expired; start again")]
    Unknown,
    #[error("the response of the identity provider is invalid: {0}; start again")]
    Rejected(String),
    #[error(
        "the identity provider has not verified your e-mail address; verify it there, then retry"
    )]
    Unverified,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::NoProvider | Self::Unverified => Code::FailedPrecondition,
            Self::Unknown | Self::Rejected(_) => Code::Unauthenticated,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::NoProvider => Reason::DependencyUnavailable,
            Self::Unknown | Self::Rejected(_) => Reason::ProviderRejected,
            Self::Unverified => Reason::ProviderUnverified,
        }
    }
}
