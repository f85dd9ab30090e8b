//! gRPC service of the output of programs.

use api::project::{self as pb, environment_log_service_server::EnvironmentLogService};
use chassis::{Access, Call, Db, Reply};
use futures::{StreamExt, future::ready};
use project_rules::log;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response};
use worker::watch::Messages;

use crate::{store, stream::RunnerStreams};

/// Implementation of `EnvironmentLogService`.
pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) streams: RunnerStreams,
    /// Ends streams when the process shuts down.
    pub(crate) draining: CancellationToken,
}

#[tonic::async_trait]
impl EnvironmentLogService for Rpc {
    type ReadLogsStream = Messages<pb::ReadLogsResponse>;

    async fn read_logs(
        &self,
        request: Request<pb::ReadLogsRequest>,
    ) -> Reply<Self::ReadLogsStream> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let id = message.environment_id.parse()?;
        let query = message.query.clone().unwrap_or_default();
        log::check_query(&query)?;
        let environment = store::environment::get(&self.db, &grant, id).await?;
        let Some(server_id) = environment.server_id else {
            // Nothing was ever deployed.
            return Ok(Response::new(futures::stream::empty().boxed()));
        };
        let lease = pb::StreamLease {
            environment_id: id.into(),
            log: Some(query),
            ..pb::StreamLease::default()
        };
        let stream_id = chassis::id::new();
        let parts = self.streams.open(server_id, stream_id, lease, self.draining.clone()).await?;
        let responses = parts.map(|part| {
            let lines = part?.log.map(|it| log::lines(&it));
            Ok(pb::ReadLogsResponse { lines: lines.unwrap_or_default() })
        });
        let responses = responses.filter(|it| ready(!matches!(it, Ok(it) if it.lines.is_empty())));
        Ok(Response::new(responses.boxed()))
    }
}
