//! gRPC service of add-ons.

use api::project::{self as pb, addon_service_server::AddonService};
use chassis::{Access, Call, Db, ProjectGrant, Reply, Result, Tx, reply};
use project_rules::{
    addon::{Addon, Config, catalog, catalog_entry, wire::addon_with_instances},
    environment::Kind,
    variable::Vault,
};
use tonic::Request;

use super::commands;
use crate::{environment::production_gate::ProductionGate, store};

/// Implementation of `AddonService`.
pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) vault: Vault,
}

impl Rpc {
    async fn with_instances(
        &self,
        grant: &ProjectGrant,
        addons: &[Addon],
    ) -> Result<Vec<pb::Addon>> {
        let instances = store::addon::list_instances(&self.db, grant).await?;
        let environments = store::environment::list_all(&self.db, grant).await?;
        let deployed = environments.iter().filter(|it| it.deployment_id.is_some());
        let deployed: Vec<_> = deployed.map(|it| it.id).collect();
        let to_wire = |addon: &Addon| {
            let own: Vec<_> = instances.iter().filter(|it| it.addon_id == addon.id).collect();
            addon_with_instances(addon, &own, &deployed)
        };
        Ok(addons.iter().map(to_wire).collect())
    }
}

#[tonic::async_trait]
impl AddonService for Rpc {
    async fn list_addon_catalog(
        &self,
        request: Request<pb::ListAddonCatalogRequest>,
    ) -> Reply<pb::ListAddonCatalogResponse> {
        Call::of(request)?;
        let entries = catalog().iter().map(Into::into).collect();
        reply(pb::ListAddonCatalogResponse { entries })
    }

    async fn attach_addon(
        &self,
        request: Request<pb::AttachAddonRequest>,
    ) -> Reply<pb::AttachAddonResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let entry = catalog_entry(&message.addon_key)?;
        let config = entry.configure(&Config::new(), &message.config)?;
        let attach = async |tx: &mut Tx| {
            let addon = commands::attach(tx, &grant, entry, config, &self.vault).await?;
            Ok(pb::AttachAddonResponse { addon: Some((&addon).into()) })
        };
        reply(self.db.write(&call, attach).await?)
    }

    async fn get_addon(
        &self,
        request: Request<pb::GetAddonRequest>,
    ) -> Reply<pb::GetAddonResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let addon = store::addon::get(&self.db, &grant, message.addon_id.parse()?).await?;
        let addon = self.with_instances(&grant, &[addon]).await?.pop();
        reply(pb::GetAddonResponse { addon })
    }

    async fn list_addons(
        &self,
        request: Request<pb::ListAddonsRequest>,
    ) -> Reply<pb::ListAddonsResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let addons = store::addon::list(&self.db, &grant).await?;
        reply(pb::ListAddonsResponse { addons: self.with_instances(&grant, &addons).await? })
    }

    async fn update_addon(
        &self,
        request: Request<pb::UpdateAddonRequest>,
    ) -> Reply<pb::UpdateAddonResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let id = message.addon_id.parse()?;
        let update = async |tx: &mut Tx| {
            let addon = commands::update(tx, &grant, id, &message.config, &message.etag).await?;
            Ok(pb::UpdateAddonResponse { addon: Some((&addon).into()) })
        };
        reply(self.db.write(&call, update).await?)
    }

    async fn detach_addon(
        &self,
        request: Request<pb::DetachAddonRequest>,
    ) -> Reply<pb::DetachAddonResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let id = message.addon_id.parse()?;
        let detach = async |tx: &mut Tx| {
            let addon = commands::detach(tx, &grant, id, &message.confirm_key).await?;
            Ok(pb::DetachAddonResponse { addon: Some((&addon).into()) })
        };
        reply(self.db.write(&call, detach).await?)
    }

    async fn reveal_addon_connection(
        &self,
        request: Request<pb::RevealAddonConnectionRequest>,
    ) -> Reply<pb::RevealAddonConnectionResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let addon = store::addon::get(&self.db, &grant, message.addon_id.parse()?).await?;
        let environment_id = message.environment_id.parse()?;
        let environment = store::environment::get(&self.db, &grant, environment_id).await?;
        let gate =
            ProductionGate { db: &self.db, access: &self.access, context: &call, grant: &grant };
        gate.authorize(environment.kind == Kind::Production).await?;
        let address = store::addon::database_address(&self.db, &environment).await?;
        let vault = &self.vault;
        let reveal = async |tx: &mut Tx| {
            let connection =
                commands::reveal_connection(tx, &addon, &environment, &address, vault).await?;
            let commands::Connection { variable, url } = connection;
            Ok(pb::RevealAddonConnectionResponse { variable, value: url })
        };
        reply(self.db.write(&call, reveal).await?)
    }
}
