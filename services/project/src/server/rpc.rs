//! gRPC service of servers, for people.

use api::project::{self as pb, server_service_server::ServerService};
use chassis::{
    Access, Call, Db, Reply, Tx,
    channel::ServiceChannel,
    page::Pager,
    reply,
    token::{Kind, Token},
};
use project_rules::{
    server::{Patch, Server, ServerQuota, wire::server_to_wire},
    types::ServerId,
};
use secrecy::ExposeSecret;
use tonic::Request;

use crate::{
    organization::client::{PlanLimit, plan_limit},
    store,
};

/// Implementation of `ServerService`.
pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) identity: ServiceChannel,
}

/// Text of an agent token, which is shown once.
fn reveal(token: &Token) -> String {
    token.reveal(Kind::Agent).expose_secret().to_owned()
}

#[tonic::async_trait]
impl ServerService for Rpc {
    async fn connect_server(
        &self,
        request: Request<pb::ConnectServerRequest>,
    ) -> Reply<pb::ConnectServerResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let org_id = grant.org_id();
        // PL-18.
        let limit = plan_limit(&self.identity, &call, org_id, PlanLimit::Servers).await?;
        let connect = async |tx: &mut Tx| {
            let quota =
                ServerQuota { count: store::server::lock_and_count(tx, org_id).await?, limit };
            let id = ServerId::new();
            let token = Token::random(id.0);
            let draft = (&call.message).into();
            let connected = Server::connect(org_id, id, draft, token.hash(), quota, tx.now)?;
            let server = store::server::insert(tx, connected).await?;
            Ok(pb::ConnectServerResponse {
                server: Some((&server).into()),
                agent_token: reveal(&token),
            })
        };
        reply(self.db.write(&call, connect).await?)
    }

    async fn get_server(
        &self,
        request: Request<pb::GetServerRequest>,
    ) -> Reply<pb::GetServerResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let server = store::server::get(&self.db, &grant, call.message.server_id.parse()?).await?;
        let allocated = store::server::allocated_by_server(&self.db, &[server.id.0]).await?;
        let allocated = allocated.get(&server.id).copied().unwrap_or_default();
        let server = Some(server_to_wire(&server, allocated, self.db.now()));
        reply(pb::GetServerResponse { server })
    }

    async fn list_servers(
        &self,
        request: Request<pb::ListServersRequest>,
    ) -> Reply<pb::ListServersResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let page =
            self.pager.page(&call, message.page_size, &message.page_token, &[&message.org_id])?;
        let rows = store::server::list(&self.db, &grant, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.into());
        let ids: Vec<_> = rows.iter().map(|it| it.id.0).collect();
        let allocated = store::server::allocated_by_server(&self.db, &ids).await?;
        let now = self.db.now();
        let servers = rows.iter().map(|it| {
            let allocated = allocated.get(&it.id).copied().unwrap_or_default();
            server_to_wire(it, allocated, now)
        });
        reply(pb::ListServersResponse { servers: servers.collect(), next_page_token })
    }

    async fn update_server(
        &self,
        request: Request<pb::UpdateServerRequest>,
    ) -> Reply<pb::UpdateServerResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let patch = Patch::try_from(message)?;
        let update = async |tx: &mut Tx| {
            let server =
                store::server::lock_connected(tx, grant.org_id(), message.server_id.parse()?)
                    .await?;
            if let Some(Some(id)) = patch.dns_connection_id {
                store::dns_connection::load(tx, grant.org_id(), id).await?;
            }
            let unchanged = pb::Server::from(&server);
            let server = match server.update(patch, &message.etag)? {
                Some(changed) => (&store::server::update(tx, changed).await?).into(),
                None => unchanged,
            };
            Ok(pb::UpdateServerResponse { server: Some(server) })
        };
        reply(self.db.write(&call, update).await?)
    }

    async fn rotate_server_token(
        &self,
        request: Request<pb::RotateServerTokenRequest>,
    ) -> Reply<pb::RotateServerTokenResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let rotate = async |tx: &mut Tx| {
            let server =
                store::server::lock_connected(tx, grant.org_id(), message.server_id.parse()?)
                    .await?;
            let token = Token::random(server.id.0);
            let server = store::server::update(tx, server.rotate_token(token.hash())).await?;
            let server = Some((&server).into());
            Ok(pb::RotateServerTokenResponse { server, agent_token: reveal(&token) })
        };
        reply(self.db.write(&call, rotate).await?)
    }

    async fn remove_server(
        &self,
        request: Request<pb::RemoveServerRequest>,
    ) -> Reply<pb::RemoveServerResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let remove = async |tx: &mut Tx| {
            let server =
                store::server::lock_to_remove(tx, grant.org_id(), message.server_id.parse()?)
                    .await?;
            let environments = store::server::allocated(tx, server.id, None).await?.environments;
            store::server::delete(tx, server.remove(environments)?).await?;
            Ok(pb::RemoveServerResponse {})
        };
        reply(self.db.write(&call, remove).await?)
    }
}
