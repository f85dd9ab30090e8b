//! Reference for access checks: a tonic server without middleware that answers `Check` with a constant,
//! optionally after reading one row.

use std::net::SocketAddr;

use anyhow::Result;
use api::identity::{
    self as pb,
    access_service_server::{AccessService, AccessServiceServer},
};
use chassis::Reply;
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status, transport::Server};

/// Implementation of `Check`; reads a row if it has a database.
pub(crate) struct BareAccessService {
    database: Option<PgPool>,
}

/// Starts the server. With a database it reads a row for each call, with as many connections as the identity
/// service has.
pub(crate) async fn start(
    options: Option<PgConnectOptions>,
) -> Result<(SocketAddr, JoinHandle<()>)> {
    let pool = |options: PgConnectOptions| {
        let options = options.options([("search_path", "identity")]);
        PgPoolOptions::new()
            .max_connections(8)
            .test_before_acquire(false)
            .connect_lazy_with(options)
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let service = AccessServiceServer::new(BareAccessService { database: options.map(pool) });
    let server = Server::builder().add_service(service);
    #[expect(clippy::disallowed_methods, reason = "a benchmark has no host that drains its tasks")]
    let serving = tokio::spawn(async move { _ = server.serve_with_incoming(incoming).await });
    Ok((address, serving))
}

/// Error of methods that the benchmark does not call.
fn unimplemented<M>() -> Reply<M> {
    Err(Status::unimplemented("the benchmark does not call this method"))
}

#[tonic::async_trait]
impl AccessService for BareAccessService {
    async fn check(&self, request: Request<pb::CheckRequest>) -> Reply<pb::CheckResponse> {
        // As long as a real consistency token.
        let mut token = "x".repeat(32);
        if let Some(pool) = &self.database {
            let read = "select access_version from organization where id = $1";
            let id = sqlx::types::Uuid::try_parse(&request.get_ref().org_id).unwrap_or_default();
            let row = sqlx::query_scalar::<_, i64>(read).bind(id).fetch_one(pool).await;
            // The access version is a part of the token, as in the identity service.
            token += &row.map_err(|error| Status::unknown(error.to_string()))?.to_string();
        }
        Ok(Response::new(pb::CheckResponse {
            allowed: true,
            visible: true,
            consistency_token: token,
            ..Default::default()
        }))
    }

    async fn batch_check(
        &self,
        _: Request<pb::BatchCheckRequest>,
    ) -> Reply<pb::BatchCheckResponse> {
        unimplemented()
    }

    async fn list_my_permissions(
        &self,
        _: Request<pb::ListMyPermissionsRequest>,
    ) -> Reply<pb::ListMyPermissionsResponse> {
        unimplemented()
    }

    async fn list_visible_projects(
        &self,
        _: Request<pb::ListVisibleProjectsRequest>,
    ) -> Reply<pb::ListVisibleProjectsResponse> {
        unimplemented()
    }

    async fn list_who_can(
        &self,
        _: Request<pb::ListWhoCanRequest>,
    ) -> Reply<pb::ListWhoCanResponse> {
        unimplemented()
    }

    async fn list_project_holders(
        &self,
        _: Request<pb::ListProjectHoldersRequest>,
    ) -> Reply<pb::ListProjectHoldersResponse> {
        unimplemented()
    }

    async fn explain(&self, _: Request<pb::ExplainRequest>) -> Reply<pb::ExplainResponse> {
        unimplemented()
    }

    async fn who_could_on(
        &self,
        _: Request<pb::WhoCouldOnRequest>,
    ) -> Reply<pb::WhoCouldOnResponse> {
        unimplemented()
    }

    async fn simulate_access(
        &self,
        _: Request<pb::SimulateAccessRequest>,
    ) -> Reply<pb::SimulateAccessResponse> {
        unimplemented()
    }

    async fn get_permission_matrix(
        &self,
        _: Request<pb::GetPermissionMatrixRequest>,
    ) -> Reply<pb::GetPermissionMatrixResponse> {
        unimplemented()
    }

    async fn list_audience(
        &self,
        _: Request<pb::ListAudienceRequest>,
    ) -> Reply<pb::ListAudienceResponse> {
        unimplemented()
    }

    async fn authenticate(
        &self,
        _: Request<pb::AuthenticateRequest>,
    ) -> Reply<pb::AuthenticateResponse> {
        unimplemented()
    }
}
