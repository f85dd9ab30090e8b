//! Who calls: an account, a service, both or nobody; and whether the method's rule lets them in.

use api::error::Reason;
use http::HeaderMap;
use secrecy::SecretString;
use tonic::Code;

use super::{Peer, Shared};
use crate::{
    Error,
    call::Account,
    rule::{Audience, Rule},
    token,
};

impl Shared {
    /// The account and the service behind a call, or why its rule does not let it in.
    pub(super) async fn identify(
        &self,
        rule: &Rule,
        peer: &Peer,
        bearer: Option<&SecretString>,
        address: &str,
    ) -> Result<(Option<Account>, Option<String>), Error> {
        let service = match peer {
            Peer::Service(name) => Some(name.clone()),
            Peer::Client => None,
        };
        let needs_account = match &rule.audience {
            Audience::Public => return Ok((None, service)),
            Audience::Account | Audience::Permission(_) => true,
            // The method knows the servers, and checks the token.
            Audience::Services(_) if rule.agents && bearer.is_some_and(token::is_agent) => {
                return Ok((None, None));
            }
            Audience::Services(names) => {
                admit_service(names, service.as_deref(), bearer.is_some())?;
                false
            }
        };
        let account = match bearer {
            // A read may rest on what was true a second ago; a change may not.
            Some(bearer) => {
                let is_key = token::is_key(bearer);
                if is_key {
                    self.keys.check_address(address)?;
                }
                let account = self.access.authority()?.authenticate(bearer, !rule.read).await;
                if is_key
                    && account.as_ref().is_err_and(|it| it.reason() == Reason::InvalidCredential)
                {
                    self.keys.refused(address);
                }
                let account = account?;
                admit_key(rule, &account)?;
                if account.key.is_some() && matches!(peer, Peer::Client) {
                    self.keys.check(account.credential_id, rule.read)?;
                }
                Some(account)
            }
            None if needs_account => {
                let message = "send a credential as `authorization: Bearer <token>`";
                return Err(Error::Unauthenticated(Reason::MissingCredential, message));
            }
            None => None,
        };
        Ok((account, service))
    }
}

/// What an API key may do by permission is decided with the permission; here is what no permission guards,
/// and what is told before anything else: a read-only key changes nothing (PL-9).
fn admit_key(rule: &Rule, account: &Account) -> Result<(), Error> {
    let Some(key) = &account.key else { return Ok(()) };
    let (reason, message) = match &rule.audience {
        Audience::Account if !rule.keys => {
            (Reason::SessionRequired, "no API key may do this; sign in and use the session")
        }
        Audience::Account | Audience::Permission(_) if !rule.read && !key.full => {
            (Reason::ReadOnlyKey, "this API key is read-only")
        }
        _ => return Ok(()),
    };
    let (code, message) = (Code::PermissionDenied, message.to_owned());
    Err(Error::Refused { code, reason, message, metadata: vec![] })
}

/// Only the named services may call.
fn admit_service(names: &[String], service: Option<&str>, has_bearer: bool) -> Result<(), Error> {
    match service {
        Some(service) if names.iter().any(|it| it == service) => Ok(()),
        None if !has_bearer => {
            let message = "only services of the suite may call this, with their certificate";
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

pub(super) fn bearer(headers: &HeaderMap) -> Option<SecretString> {
    let value = headers.get("authorization")?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().into())
}
