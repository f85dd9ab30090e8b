//! The authority for a process without the identity service: a client of its access service.

use std::time::Duration;

use api::identity::{self as pb, access_service_client::AccessServiceClient};
use secrecy::{ExposeSecret, SecretString};

use super::{AccessCheck, Authority, Decision, Verification};
use crate::{
    Error, Result,
    call::{Account, ApiKeyScope, Context},
    channel::ServiceChannel,
    clock::datetime,
    error::remote,
};

/// Authority that calls the identity service of another process through a channel.
pub struct RemoteAuthority(pub ServiceChannel);

/// Time-out of an authentication. An access check has the deadline of its call.
const AUTHENTICATE_TIMEOUT: Duration = Duration::from_secs(5);

#[tonic::async_trait]
impl Authority for RemoteAuthority {
    async fn authenticate(
        &self,
        bearer: &SecretString,
        verification: Verification,
    ) -> Result<Account> {
        let fresh = verification == Verification::Now;
        let mut request = tonic::Request::new(pb::AuthenticateRequest { fresh });
        let value = format!("Bearer {}", bearer.expose_secret());
        let value = value.parse().map_err(|_| Error::invalid_credential())?;
        request.metadata_mut().insert("authorization", value);
        request.set_timeout(AUTHENTICATE_TIMEOUT);
        let mut client = AccessServiceClient::new(self.0.clone());
        let response = client.authenticate(request).await.map_err(remote("identity"))?;
        let account = response.into_inner();
        let scope = |key: pb::ApiKeyScope| {
            let project_id = Some(key.project_id).filter(|it| !it.is_empty());
            Ok::<_, Error>(ApiKeyScope {
                org_id: key.org_id.parse()?,
                project_id: project_id.map(|it| it.parse()).transpose()?,
                full: key.full,
                name: key.name,
            })
        };
        Ok(Account {
            user_id: account.user_id.parse()?,
            email: account.email,
            display_name: account.display_name,
            email_verified: account.email_verified,
            credential_id: account.credential_id.parse().map_err(anyhow::Error::from)?,
            key: account.key.map(scope).transpose()?,
            authenticated_at: account.authenticate_time.and_then(datetime),
        })
    }

    async fn decide(&self, context: &Context, check: &AccessCheck<'_>) -> Result<Decision> {
        let request = pb::CheckRequest {
            org_id: check.org_id.to_string(),
            project_id: check.project_id.map(String::from).unwrap_or_default(),
            permission: check.permission.to_owned(),
            write: check.write,
            consistency: None,
        };
        let mut client = AccessServiceClient::new(self.0.clone());
        let response = client.check(context.forward(request)).await.map_err(remote("identity"))?;
        let response = response.into_inner();
        Ok(Decision {
            allowed: response.allowed,
            visible: response.visible,
            reason: response.reason(),
            token: response.consistency_token,
        })
    }
}
