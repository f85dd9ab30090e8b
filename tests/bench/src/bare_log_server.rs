//! Reference for reading logs: a tonic server without middleware that streams the same messages from memory.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Result;
use api::project::{
    self as pb,
    environment_log_service_server::{EnvironmentLogService, EnvironmentLogServiceServer},
};
use chassis::Reply;
use futures::{StreamExt, stream, stream::BoxStream};
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status, transport::Server};

/// Implementation of `ReadLogs` that answers each call with these messages.
struct BareLogService(Arc<Vec<pb::ReadLogsResponse>>);

/// Starts the server.
pub(crate) async fn start(
    responses: Vec<pb::ReadLogsResponse>,
) -> Result<(SocketAddr, JoinHandle<()>)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let service = EnvironmentLogServiceServer::new(BareLogService(Arc::new(responses)));
    let server = Server::builder().add_service(service);
    #[expect(clippy::disallowed_methods, reason = "a benchmark has no host that drains its tasks")]
    let serving = tokio::spawn(async move { _ = server.serve_with_incoming(incoming).await });
    Ok((address, serving))
}

#[tonic::async_trait]
impl EnvironmentLogService for BareLogService {
    type ReadLogsStream = BoxStream<'static, Result<pb::ReadLogsResponse, Status>>;

    async fn read_logs(&self, _: Request<pb::ReadLogsRequest>) -> Reply<Self::ReadLogsStream> {
        let responses = self.0.clone();
        let numbers = stream::iter(0..responses.len());
        Ok(Response::new(numbers.map(move |it| Ok(responses[it].clone())).boxed()))
    }
}
