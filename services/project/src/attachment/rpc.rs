//! The gRPC surface of extra services.

use api::project::{self as pb, attachment_service_server::AttachmentService};
use chassis::{Access, Call, Changed, Db, Error, ProjectGrant, Reply, Result, Tx, reply};
use tonic::Request;

use super::{Attachment, Config, Refused, State, catalogue, entry, name, provide, store, wire};
use crate::{
    environment::{self, admission},
    project::production::Gate,
    variable::Vault,
};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) vault: Vault,
}

impl Rpc {
    /// Attachments with what each environment has of them.
    async fn whole(&self, grant: &ProjectGrant, all: &[Attachment]) -> Result<Vec<pb::Attachment>> {
        let instances = store::instances(&self.db, grant).await?;
        let environments = environment::store::of_project(&self.db, grant).await?;
        let deployed = environments.iter().filter(|it| it.deployment_id.is_some()).map(|it| it.id);
        let deployed: Vec<_> = deployed.collect();
        let of = |it: &Attachment| {
            let mine = instances.iter().filter(|instance| instance.attachment_id == it.id);
            let mine: Vec<_> = mine.cloned().collect();
            wire::whole(it, &mine, &deployed)
        };
        Ok(all.iter().map(of).collect())
    }
}

#[tonic::async_trait]
impl AttachmentService for Rpc {
    async fn list_service_catalogue(
        &self,
        request: Request<pb::ListServiceCatalogueRequest>,
    ) -> Reply<pb::ListServiceCatalogueResponse> {
        Call::of(request)?;
        let entries = catalogue().iter().map(Into::into).collect();
        reply(pb::ListServiceCatalogueResponse { entries })
    }

    async fn attach_service(
        &self,
        request: Request<pb::AttachServiceRequest>,
    ) -> Reply<pb::AttachServiceResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let entry = entry(&it.service_key)?;
        let config = entry.configure(&Config::new(), &it.config)?;
        let attach = async |tx: &mut Tx| {
            let (place, by) = ((grant.org_id(), grant.project_id()), grant.account().user_id);
            let environments = environment::store::all(tx, place).await?;
            admission::active_project(tx, place).await?;
            let attached = Attachment::attach(place, entry, config, by, tx.now);
            let attachment = store::insert(tx, attached).await?;
            for environment in environments {
                provide::give(tx, &attachment, environment.id, &self.vault).await?;
            }
            provide::reconcile(tx, &attachment, by).await?;
            Ok(pb::AttachServiceResponse { attachment: Some((&attachment).into()) })
        };
        reply(self.db.write(&call, attach).await?)
    }

    async fn get_attachment(
        &self,
        request: Request<pb::GetAttachmentRequest>,
    ) -> Reply<pb::GetAttachmentResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let one = store::get(&self.db, &grant, it.attachment_id.parse()?).await?;
        let attachment = self.whole(&grant, &[one]).await?.pop();
        reply(pb::GetAttachmentResponse { attachment })
    }

    async fn list_attachments(
        &self,
        request: Request<pb::ListAttachmentsRequest>,
    ) -> Reply<pb::ListAttachmentsResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let all = store::list(&self.db, &grant).await?;
        reply(pb::ListAttachmentsResponse { attachments: self.whole(&grant, &all).await? })
    }

    async fn update_attachment(
        &self,
        request: Request<pb::UpdateAttachmentRequest>,
    ) -> Reply<pb::UpdateAttachmentResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let update = async |tx: &mut Tx| {
            let place = (grant.org_id(), grant.project_id());
            environment::store::all(tx, place).await?;
            admission::active_project(tx, place).await?;
            let attachment = store::lock(tx, place, it.attachment_id.parse()?).await?;
            let entry = entry(&attachment.service_key)?;
            let config = entry.configure(&attachment.config, &it.config)?;
            let unchanged = attachment.clone();
            let attachment = match attachment.configure(config, &it.etag)? {
                None => unchanged,
                Some(changed) => {
                    let attachment = store::update(tx, changed).await?;
                    store::mark(tx, &attachment, State::Waiting).await?;
                    provide::reconcile(tx, &attachment, grant.account().user_id).await?;
                    attachment
                }
            };
            Ok(pb::UpdateAttachmentResponse { attachment: Some((&attachment).into()) })
        };
        reply(self.db.write(&call, update).await?)
    }

    async fn detach_service(
        &self,
        request: Request<pb::DetachServiceRequest>,
    ) -> Reply<pb::DetachServiceResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let detach = async |tx: &mut Tx| {
            let place = (grant.org_id(), grant.project_id());
            environment::store::all(tx, place).await?;
            admission::active_project(tx, place).await?;
            let attachment = store::lock(tx, place, it.attachment_id.parse()?).await?;
            let attachment = store::update(tx, attachment.detach(&it.confirm_key)?).await?;
            store::mark(tx, &attachment, State::Removing).await?;
            provide::reconcile(tx, &attachment, grant.account().user_id).await?;
            let told = pb::Attachment::from(&attachment);
            if store::count(tx, &attachment).await? == 0 {
                store::delete(tx, attachment.gone()).await?;
            }
            Ok(pb::DetachServiceResponse { attachment: Some(told) })
        };
        reply(self.db.write(&call, detach).await?)
    }

    async fn reveal_connection(
        &self,
        request: Request<pb::RevealConnectionRequest>,
    ) -> Reply<pb::RevealConnectionResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let attachment = store::get(&self.db, &grant, it.attachment_id.parse()?).await?;
        let environment =
            environment::store::get(&self.db, &grant, it.environment_id.parse()?).await?;
        let gate = Gate { db: &self.db, access: &self.access, context: &call, grant: &grant };
        gate.pass(environment.kind == environment::Kind::Production).await?;
        let address = store::database_address(&self.db, &environment).await?;
        let reveal = async |tx: &mut Tx| {
            let all = store::of_environment(tx, &environment).await?;
            let mine = all.into_iter().find(|it| it.attachment_id == attachment.id);
            let mine = mine.ok_or(Error::NotFound("instance"))?;
            if mine.state != State::Ready || address.is_empty() {
                return Err(Refused::NotYet.into());
            }
            let event = pb::ConnectionRevealed {
                attachment_id: attachment.id.into(),
                environment_id: environment.id.into(),
                service_key: attachment.service_key.clone(),
            };
            tx.emit(Changed::new((), &event, attachment.about()));
            let name = name(environment.id);
            let password = self.vault.unseal(grant.org_id(), &name, &mine.sealed)?;
            let value = format!("postgres://{name}:{password}@{address}/{name}");
            let variable = entry(&attachment.service_key)?.variable.clone();
            Ok(pb::RevealConnectionResponse { variable, value })
        };
        reply(self.db.write(&call, reveal).await?)
    }
}
