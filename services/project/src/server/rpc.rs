//! The gRPC surface of servers, for people.

use api::{
    identity::{GetLimitsRequest, organization_service_client::OrganizationServiceClient},
    project::{self as pb, server_service_server::ServerService},
};
use chassis::{
    Access, Call, Db, Reply, Result, Tx,
    call::Context,
    error::remote,
    link::Link,
    page::Pager,
    reply,
    token::{Kind, Token},
};
use secrecy::ExposeSecret;
use tonic::Request;

use super::{Server, ServerId, store, wire};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) identity: Link,
}

impl Rpc {
    /// How many servers the organization's plan allows (PL-18).
    async fn limit(&self, context: &Context, org_id: &str) -> Result<Option<i64>> {
        let question = GetLimitsRequest { org_id: org_id.to_owned() };
        let mut identity = OrganizationServiceClient::new(self.identity.clone());
        let limits = identity.get_limits(context.forward(question)).await;
        let limits = limits.map_err(remote("identity"))?.into_inner().limits;
        Ok(limits.into_iter().find(|it| it.key == "servers").and_then(|it| it.value))
    }
}

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
        let limit = self.limit(&call, &call.message.org_id).await?;
        let connect = async |tx: &mut Tx| {
            let (org_id, id) = (grant.org_id(), ServerId::new());
            let (others, token) = (store::count(tx, org_id).await?, Token::random(id.0));
            let draft = (&call.message).into();
            let server = Server::connect(org_id, id, draft, token.hash(), (others, limit), tx.now)?;
            let server = Some((&store::insert(tx, server).await?).into());
            Ok(pb::ConnectServerResponse { server, agent_token: reveal(&token) })
        };
        reply(self.db.write(&call, connect).await?)
    }

    async fn get_server(
        &self,
        request: Request<pb::GetServerRequest>,
    ) -> Reply<pb::GetServerResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let server = store::get(&self.db, &grant, call.message.server_id.parse()?).await?;
        let allocated = store::allocations(&self.db, &[server.id.0]).await?;
        let allocated = allocated.first().map(|it| it.1).unwrap_or_default();
        let server = Some(wire::seen(&server, allocated, self.db.now()));
        reply(pb::GetServerResponse { server })
    }

    async fn list_servers(
        &self,
        request: Request<pb::ListServersRequest>,
    ) -> Reply<pb::ListServersResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.org(&call, &it.org_id).await?;
        let page = self.pager.page(&call, it.page_size, &it.page_token, &[&it.org_id])?;
        let rows = store::list(&self.db, &grant, &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.id.into());
        let ids: Vec<_> = rows.iter().map(|it| it.id.0).collect();
        let allocated = store::allocations(&self.db, &ids).await?;
        let of = |id| allocated.iter().find(|it| it.0 == id).map(|it| it.1).unwrap_or_default();
        let now = self.db.now();
        let servers = rows.iter().map(|it| wire::seen(it, of(it.id), now)).collect();
        reply(pb::ListServersResponse { servers, next_page_token })
    }

    async fn update_server(
        &self,
        request: Request<pb::UpdateServerRequest>,
    ) -> Reply<pb::UpdateServerResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.org(&call, &it.org_id).await?;
        let patch = wire::patch(it)?;
        let update = async |tx: &mut Tx| {
            let server = store::lock_own(tx, grant.org_id(), it.server_id.parse()?).await?;
            let unchanged = pb::Server::from(&server);
            let server = match server.edit(patch, &it.etag)? {
                Some(changed) => (&store::update(tx, changed).await?).into(),
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
        let it = &call.message;
        let grant = self.access.org(&call, &it.org_id).await?;
        let rotate = async |tx: &mut Tx| {
            let server = store::lock_own(tx, grant.org_id(), it.server_id.parse()?).await?;
            let token = Token::random(server.id.0);
            let server = store::update(tx, server.rotate(token.hash())).await?;
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
        let it = &call.message;
        let grant = self.access.org(&call, &it.org_id).await?;
        let remove = async |tx: &mut Tx| {
            let server = store::lock_to_remove(tx, grant.org_id(), it.server_id.parse()?).await?;
            let on_it = store::allocated(tx, server.id, None).await?.environments;
            store::delete(tx, server.remove(on_it)?).await?;
            Ok(pb::RemoveServerResponse {})
        };
        reply(self.db.write(&call, remove).await?)
    }
}
