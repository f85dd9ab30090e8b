//! Authentication of the caller, and the check that the method's audience includes it.

use api::error::Reason;
use http::{HeaderMap, request::Parts};
use secrecy::SecretString;
use tonic::Code;

use super::{Peer, Shared};
use crate::{
    Error,
    access::Verification,
    call::Account,
    rule::{Audience, Rule},
    token,
};

/// An authenticated caller: an account, a service, a service on behalf of an account, or neither.
#[derive(Default)]
pub(super) struct Caller {
    pub(super) account: Option<Account>,
    pub(super) service: Option<String>,
}

/// Extension of a request that a page handler makes for its client: the first call with this credential,
/// which counts against the rate limit of an API key like a call of the client itself.
#[derive(Clone, Copy, Debug)]
pub struct FirstCall;

impl Shared {
    /// Authenticates the caller; fails if the rule of the method does not admit it. The first call with an
    /// API key counts against its rate limit; calls that services make on behalf of it do not.
    pub(super) async fn identify(
        &self,
        rule: &Rule,
        peer: &Peer,
        bearer: Option<&SecretString>,
        address: &str,
        parts: &Parts,
    ) -> Result<Caller, Error> {
        let is_first_call =
            matches!(peer, Peer::Client) || parts.extensions.get::<FirstCall>().is_some();
        let service = match peer {
            Peer::Service(name) => Some(name.clone()),
            Peer::Client => None,
        };
        let needs_account = match &rule.audience {
            Audience::Public => return Ok(Caller { account: None, service }),
            Audience::Account | Audience::Permission(_) => true,
            // The method itself verifies the agent token.
            Audience::Services(_) if rule.agents && bearer.is_some_and(token::is_agent_token) => {
                return Ok(Caller::default());
            }
            Audience::Services(names) => {
                admit_service(names, service.as_deref(), bearer.is_some())?;
                false
            }
        };
        let account = match bearer {
            Some(bearer) => {
                let is_key = token::is_api_key(bearer);
                if is_key {
                    self.keys.check_address(address)?;
                }
                let authority = self.access.authority()?;
                let account = authority.authenticate(bearer, verification(rule)).await;
                if is_key
                    && account.as_ref().is_err_and(|it| it.reason() == Reason::InvalidCredential)
                {
                    self.keys.record_failure(address).await?;
                }
                let account = account?;
                admit_key(rule, &account)?;
                if account.key.is_some() && is_first_call {
                    self.keys.check(account.credential_id, rule.read).await?;
                }
                Some(account)
            }
            None if needs_account => {
                let message = "send a credential as `authorization: Bearer <token>`";
                return Err(Error::Unauthenticated(Reason::MissingCredential, message));
            }
            None => None,
        };
        Ok(Caller { account, service })
    }
}

/// Returns the time at which the credential of a call is verified. A change verifies it at once and again
/// with each decision. A service verifies the credential that it forwards before it calls another one.
fn verification(rule: &Rule) -> Verification {
    match &rule.audience {
        _ if !rule.read => Verification::Now,
        Audience::Permission(_) | Audience::Services(_) => Verification::WithDecision,
        _ if rule.decides => Verification::WithDecision,
        Audience::Account | Audience::Public => Verification::Now,
    }
}

/// Checks the restrictions of API keys that do not depend on the object: methods without a permission need
/// `Rule::keys`, and a read-only key changes nothing (PL-9). The identity service checks the organization and
/// project of the key's scope together with the permission.
fn admit_key(rule: &Rule, account: &Account) -> Result<(), Error> {
    let Some(key) = &account.key else { return Ok(()) };
    let (reason, message) = match &rule.audience {
        Audience::Account if !rule.keys => (
            Reason::SessionRequired,
            "API keys are not accepted for this; log in and use the session",
        ),
        Audience::Account | Audience::Permission(_) if !rule.read && !key.full => (
            Reason::ReadOnlyKey,
            "this API key is read-only; use a key with full access, or a session",
        ),
        _ => return Ok(()),
    };
    Err(Error::Refused {
        code: Code::PermissionDenied,
        reason,
        message: message.to_owned(),
        metadata: vec![],
    })
}

/// Fails unless the caller is one of the named services.
fn admit_service(names: &[String], service: Option<&str>, has_bearer: bool) -> Result<(), Error> {
    match service {
        Some(service) if names.iter().any(|it| it == service) => Ok(()),
        None if !has_bearer => {
            let message =
                "only services of the suite may call this; connect with a service's certificate";
            Err(Error::Unauthenticated(Reason::MissingCredential, message))
        }
        _ => Err(Error::Refused {
            code: Code::PermissionDenied,
            reason: Reason::ServiceOnly,
            message: format!("only these services may call this: {}", names.join(", ")),
            metadata: vec![("services", names.join(","))],
        }),
    }
}

/// Returns the credential of a request (`authorization: Bearer <token>`).
pub(super) fn bearer(headers: &HeaderMap) -> Option<SecretString> {
    let value = headers.get("authorization")?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().into())
}
