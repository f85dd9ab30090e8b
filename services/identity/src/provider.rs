//! Signing in with an outside identity provider: OpenID Connect, authorization code with PKCE. The provider's
//! answer must match what was asked for; an account is found by an address only if both sides verified it.

mod client;
mod flow;
pub(crate) mod store;

use api::error::Reason;
use chassis::{Code, Refusal};

pub(crate) use client::Settings;
pub(crate) use flow::Provider;

/// Why a person is not signed in by their provider.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("no identity provider is configured; set --oidc-issuer and --oidc-client-id")]
    NoProvider,
    #[error("the sign-in is unknown, was used, or is too old; start again")]
    Unknown,
    #[error("the answer of the identity provider is not what was asked for: {0}")]
    Rejected(String),
    #[error("the identity provider does not vouch for an e-mail address")]
    Unverified,
    #[error(
        "an account with this address exists, and its address is not confirmed; confirm it first"
    )]
    EmailTaken,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::NoProvider | Self::Unverified | Self::EmailTaken => Code::FailedPrecondition,
            Self::Unknown | Self::Rejected(_) => Code::Unauthenticated,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::NoProvider => Reason::DependencyUnavailable,
            Self::Unknown | Self::Rejected(_) => Reason::ProviderRejected,
            Self::Unverified => Reason::ProviderUnverified,
            Self::EmailTaken => Reason::EmailTaken,
        }
    }
}
