//! Installation of a project's push webhook on its Git server, with the access token of its connection.

use api::{check::Check, project as pb};
use chassis::{Call, Changed, Db, ProjectGrant, Result, Tx, key::DerivedKeys};
use project_rules::{
    connection::git::host_api::ApiFailure, project::Project, types::ProjectRef, variable::Vault,
};
use prost::{Message, Name};

use super::secret::{self, PushSecret};
use crate::{
    connection::{
        host_api::{HostApi, PushWebhook},
        probe::Prober,
    },
    store,
};

/// Installation of the push webhook of the project of a grant.
pub(crate) struct Installation<'a> {
    pub(crate) db: &'a Db,
    pub(crate) grant: &'a ProjectGrant,
    pub(crate) vault: &'a Vault,
    pub(crate) prober: &'a Prober,
    /// Keys that seal the secrets of push webhooks.
    pub(crate) secret_keys: &'a DerivedKeys,
    /// URL of the webhook.
    pub(crate) target: &'a str,
}

impl Installation<'_> {
    /// Installs the webhook with the secret of the project, and makes one if it has none: a webhook that was
    /// configured by hand with it goes on. After a failure, a repeated call completes the installation.
    pub(crate) async fn run<M, R>(&self, call: &Call<M>, response: R) -> Result<R>
    where
        M: Message + Check,
        R: Message + Name + Default,
    {
        if let Some(first) = self.db.stored_response(call).await? {
            return Ok(first);
        }
        let project = store::project::get(self.db, self.grant).await?;
        let api = self.api(&project).await?;
        let sealed = self.sealed_secret().await?;
        let plain = secret::open(self.secret_keys, project.id, &sealed);
        let plain = plain.ok_or_else(|| anyhow::anyhow!("the push secret cannot be decrypted"))?;
        api.install_push_webhook(&PushWebhook {
            repository_url: &project.repository_url,
            target: self.target,
            secret: &plain,
        })
        .await?;
        let record = async |tx: &mut Tx| {
            let project_ref = ProjectRef::from(self.grant);
            store::push::require_secret(tx, project_ref, &sealed).await?;
            let event = pb::ProjectPushWebhookInstalled {
                project_id: project.id.into(),
                repository_url: project.repository_url.clone(),
                url: self.target.to_owned(),
            };
            tx.emit(Changed::new((), &event, project_ref.event_target(&project.name)));
            Ok(response)
        };
        self.db.write(call, record).await
    }

    /// Returns the API of the Git server of a project.
    async fn api(&self, project: &Project) -> Result<HostApi> {
        let id = project.git_connection_id.ok_or(ApiFailure::NoApi)?;
        let connection = store::git_connection::get(self.db, self.grant, id).await?;
        let access = connection.settings(self.vault)?.api_access()?;
        HostApi::connect(self.prober, access).await
    }

    /// Returns the sealed secret of the project; stores a new one if it has none. No webhook has a secret
    /// that is not stored.
    async fn sealed_secret(&self) -> Result<Vec<u8>> {
        let new = PushSecret::generate(self.secret_keys, self.grant.project_id()).sealed;
        let project = ProjectRef::from(self.grant);
        let ensure = async |tx: &mut Tx| store::push::ensure_secret(tx, project, &new).await;
        self.db.write_as_system("push webhook", ensure).await
    }
}
