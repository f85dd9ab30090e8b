//! The identity service in another process.

use std::time::Duration;

use api::identity::{self as pb, access_service_client::AccessServiceClient};
use secrecy::{ExposeSecret, SecretString};

use super::{Authority, Decision, Question};
use crate::{
    Error, Result,
    call::{Account, Context, KeyPower},
    clock::moment,
    error::remote,
    link::Link,
};

/// The identity service in another process.
pub(crate) struct RemoteAuthority(pub(crate) Link);

#[tonic::async_trait]
impl Authority for RemoteAuthority {
    async fn authenticate(&self, bearer: &SecretString, fresh: bool) -> Result<Account> {
        let mut request = tonic::Request::new(pb::AuthenticateRequest { fresh });
        let value = format!("Bearer {}", bearer.expose_secret());
        let value = value.parse().map_err(|_| Error::bad_credential())?;
        request.metadata_mut().insert("authorization", value);
        request.set_timeout(Duration::from_secs(5));
        let mut client = AccessServiceClient::new(self.0.clone());
        let it = client.authenticate(request).await.map_err(remote("identity"))?.into_inner();
        let power = |it: pb::KeyPower| {
            let project_id = Some(it.project_id).filter(|it| !it.is_empty());
            Ok::<_, Error>(KeyPower {
                org_id: it.org_id.parse()?,
                project_id: project_id.map(|it| it.parse()).transpose()?,
                full: it.full,
                name: it.name,
            })
        };
        Ok(Account {
            user_id: it.user_id.parse()?,
            email: it.email,
            display_name: it.display_name,
            email_verified: it.email_verified,
            credential_id: it.credential_id.parse().map_err(anyhow::Error::from)?,
            key: it.key.map(power).transpose()?,
            authenticated_at: it.authenticate_time.and_then(moment),
        })
    }

    async fn decide(&self, context: &Context, question: &Question<'_>) -> Result<Decision> {
        let question = pb::CheckRequest {
            org_id: question.org_id.to_string(),
            project_id: question.project_id.map(String::from).unwrap_or_default(),
            permission: question.permission.to_owned(),
            write: question.write,
            consistency: None,
        };
        let mut client = AccessServiceClient::new(self.0.clone());
        let answer = client.check(context.forward(question)).await.map_err(remote("identity"))?;
        let it = answer.into_inner();
        let reason = it.reason();
        let (allowed, visible, token) = (it.allowed, it.visible, it.consistency_token);
        Ok(Decision { allowed, visible, reason, token })
    }
}
