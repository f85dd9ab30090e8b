//! gRPC service for runners.

use std::time::Duration;

use api::project::{self as pb, runner_service_server::RunnerService};
use chassis::{Call, Db, Reply, Tx, reply};
use project_rules::{
    runner::{Heartbeat, wire},
    variable::Vault,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use super::{auth, commands, heartbeat};
use crate::{
    dns::{challenge::Challenge, publisher::Publisher},
    store,
    stream::RunnerStreams,
};

/// Implementation of `RunnerService`.
pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) vault: Vault,
    pub(crate) publisher: Publisher,
    pub(crate) streams: RunnerStreams,
    /// Ends waiting calls when the process shuts down.
    pub(crate) draining: CancellationToken,
}

/// Longest time that a call waits for a task.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// Interval at which a waiting call searches without being woken: leases end, and other processes enqueue
/// tasks.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

#[tonic::async_trait]
impl RunnerService for Rpc {
    async fn lease_task(
        &self,
        request: Request<pb::LeaseTaskRequest>,
    ) -> Reply<pb::LeaseTaskResponse> {
        let call = Call::of(request)?;
        let wait = call.message.wait.and_then(|it| Duration::try_from(it).ok());
        let wait_until = Instant::now() + wait.unwrap_or_default().min(WAIT_MAX);
        let mut runner = auth::authenticate(&self.db, &call, &call.message.runner).await?;
        let mut own_tasks = self.db.subscribe(runner.server_id.0);
        let mut shared_tasks = self.db.subscribe(store::task::SHARED_SERVERS_TOPIC);
        loop {
            own_tasks.mark_read();
            shared_tasks.mark_read();
            if call.disconnected.is_cancelled() {
                return reply(pb::LeaseTaskResponse { lease: None });
            }
            let lease = async |tx: &mut Tx| {
                let leased = commands::lease_task(tx, runner).await?;
                // Inside the transaction: a task whose secrets cannot be opened must not stay leased.
                let lease = leased.map(|it| wire::lease(it, &self.vault)).transpose()?;
                Ok(pb::LeaseTaskResponse { lease })
            };
            let response = self.db.write(&call, lease).await?;
            let now = Instant::now();
            let is_ended = now >= wait_until
                || self.draining.is_cancelled()
                || call.disconnected.is_cancelled();
            if response.lease.is_some() || is_ended {
                return reply(response);
            }
            tokio::select! {
                () = own_tasks.changed() => {}
                () = shared_tasks.changed(), if runner.shared => {}
                () = tokio::time::sleep(POLL_INTERVAL.min(wait_until - now)) => {}
                () = self.draining.cancelled() => {}
                // A task that is leased to a disconnected runner would wait for the end of the lease.
                () = call.disconnected.cancelled() => return reply(response),
            }
            // The agent token may have been rotated while the call waited.
            runner = auth::authenticate(&self.db, &call, &call.message.runner).await?;
        }
    }

    async fn report_progress(
        &self,
        request: Request<pb::ReportProgressRequest>,
    ) -> Reply<pb::ReportProgressResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let runner = auth::authenticate(&self.db, &call, &message.runner).await?;
        let server_id = runner.server_id;
        let lease = wire::lease_ref(&message.task_id, &message.lease_id)?;
        let progress = wire::progress(message);
        let report = async |tx: &mut Tx| {
            let lines = &message.log_lines;
            let task = commands::report_progress(tx, server_id, lease, progress, lines).await?;
            Ok(pb::ReportProgressResponse { cancel: task.cancel_requested })
        };
        reply(self.db.write(&call, report).await?)
    }

    async fn finish_task(
        &self,
        request: Request<pb::FinishTaskRequest>,
    ) -> Reply<pb::FinishTaskResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let runner = auth::authenticate(&self.db, &call, &message.runner).await?;
        let lease = wire::lease_ref(&message.task_id, &message.lease_id)?;
        let report = wire::report(message);
        let finish = async |tx: &mut Tx| {
            commands::finish_leased_task(tx, runner.server_id, lease, report).await?;
            Ok(pb::FinishTaskResponse {})
        };
        reply(self.db.write(&call, finish).await?)
    }

    async fn heartbeat(
        &self,
        request: Request<pb::HeartbeatRequest>,
    ) -> Reply<pb::HeartbeatResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let address = wire::machine_text(&message.shared_address);
        let runner =
            auth::authenticate_or_register(&self.db, &call, &message.runner, &address).await?;
        let record = async |tx: &mut Tx| {
            let result = heartbeat::record(tx, runner, Heartbeat::try_from(message)?).await?;
            Ok(pb::HeartbeatResponse::from(result))
        };
        reply(self.db.write(&call, record).await?)
    }

    async fn lease_stream(
        &self,
        request: Request<pb::LeaseStreamRequest>,
    ) -> Reply<pb::LeaseStreamResponse> {
        let call = Call::of(request)?;
        let wait = call.message.wait.and_then(|it| Duration::try_from(it).ok());
        let wait = wait.unwrap_or_default().min(WAIT_MAX);
        let runner = auth::authenticate(&self.db, &call, &call.message.runner).await?;
        let mut waiting = self.streams.wait_for_readers(runner.server_id).await?;
        let lease = tokio::select! {
            lease = waiting.next() => lease,
            () = tokio::time::sleep(wait) => None,
            () = self.draining.cancelled() => None,
            () = call.disconnected.cancelled() => None,
        };
        reply(pb::LeaseStreamResponse { lease })
    }

    async fn send_stream_data(
        &self,
        request: Request<pb::SendStreamDataRequest>,
    ) -> Reply<pb::SendStreamDataResponse> {
        let mut call = Call::of(request)?;
        let runner = auth::authenticate(&self.db, &call, &call.message.runner).await?;
        let stream_id = wire::stream_id(&call.message.stream_id)?;
        let part = call.message.part.take().unwrap_or_default();
        let state = self.streams.send(runner.server_id, stream_id, &part).await?;
        reply(pb::SendStreamDataResponse { state: state.into() })
    }

    async fn receive_stream_input(
        &self,
        request: Request<pb::ReceiveStreamInputRequest>,
    ) -> Reply<pb::ReceiveStreamInputResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let runner = auth::authenticate(&self.db, &call, &message.runner).await?;
        let stream_id = wire::stream_id(&message.stream_id)?;
        let receive = self.streams.receive_input(runner.server_id, stream_id, message.next_number);
        let inputs = tokio::select! {
            inputs = receive => Some(inputs?),
            () = self.draining.cancelled() => None,
            () = call.disconnected.cancelled() => None,
        };
        reply(pb::ReceiveStreamInputResponse { inputs })
    }

    async fn set_dns_challenge(
        &self,
        request: Request<pb::SetDnsChallengeRequest>,
    ) -> Reply<pb::SetDnsChallengeResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let runner = auth::authenticate(&self.db, &call, &message.runner).await?;
        let environment_id = message.environment_id.parse()?;
        let challenge = Challenge { runner, environment_id, hostname: message.hostname.clone() };
        challenge.set(&self.publisher, message.value.clone()).await?;
        reply(pb::SetDnsChallengeResponse {})
    }

    async fn clear_dns_challenge(
        &self,
        request: Request<pb::ClearDnsChallengeRequest>,
    ) -> Reply<pb::ClearDnsChallengeResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let runner = auth::authenticate(&self.db, &call, &message.runner).await?;
        let environment_id = message.environment_id.parse()?;
        let challenge = Challenge { runner, environment_id, hostname: message.hostname.clone() };
        challenge.clear(&self.publisher).await?;
        reply(pb::ClearDnsChallengeResponse {})
    }
}
