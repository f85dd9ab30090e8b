//! Client of the project service's `RunnerService`, as the runner uses it.

use std::time::Duration;

use api::project::{
    ClearDnsChallengeRequest, FinishTaskRequest, HeartbeatRequest, HeartbeatResponse, Lease,
    LeaseStreamRequest, LeaseTaskRequest, ReceiveStreamInputRequest, ReportProgressRequest,
    SendStreamDataRequest, SetDnsChallengeRequest, StreamInputs, StreamLease, StreamState,
    runner_service_client::RunnerServiceClient,
};
use tonic::{Request, Status, body::Body, client::GrpcService};

/// Deadline of long polls (`LeaseTask`, `LeaseStream`, `ReceiveStreamInput`), which the service answers
/// within 20 seconds.
const LEASE_DEADLINE: Duration = Duration::from_secs(28);

/// Deadline of the calls that change a record on a DNS server.
const DNS_DEADLINE: Duration = Duration::from_secs(30);

/// Deadline of every other call.
const DEADLINE: Duration = Duration::from_secs(10);

/// Calls of the project service that a runner makes. Implemented by the generated client over any transport;
/// a trait, so that the runner's own code does not depend on the transport's type.
#[tonic::async_trait]
pub trait TaskClient: Send + Sync + 'static {
    /// Leases the next task of this server; `None` if there is none within the requested wait.
    async fn lease(&self, request: LeaseTaskRequest) -> Result<Option<Lease>, Status>;
    /// Reports progress, which renews the lease. Returns true if the task is to be cancelled.
    async fn report(&self, request: ReportProgressRequest) -> Result<bool, Status>;
    /// Reports the result of a task, which ends its lease.
    async fn finish(&self, request: FinishTaskRequest) -> Result<(), Status>;
    /// Reports the state of the server and its environments, and renews all leases.
    async fn send_heartbeat(&self, request: HeartbeatRequest) -> Result<HeartbeatResponse, Status>;
    /// Leases the next stream that a reader has opened; `None` if there is none within the requested wait.
    async fn lease_stream(
        &self,
        request: LeaseStreamRequest,
    ) -> Result<Option<StreamLease>, Status>;
    /// Sends the next part of a stream.
    async fn send_part(&self, request: SendStreamDataRequest) -> Result<StreamState, Status>;
    /// Receives the next messages to a command; `None` if the service shuts down.
    async fn receive_input(
        &self,
        request: ReceiveStreamInputRequest,
    ) -> Result<Option<StreamInputs>, Status>;
    /// Publishes the record of a DNS-01 challenge; returns when the DNS server has it.
    async fn set_challenge(&self, request: SetDnsChallengeRequest) -> Result<(), Status>;
    /// Removes that record.
    async fn clear_challenge(&self, request: ClearDnsChallengeRequest) -> Result<(), Status>;
}

#[tonic::async_trait]
impl<C> TaskClient for RunnerServiceClient<C>
where
    C: GrpcService<Body> + Clone + Send + Sync + 'static,
    C::Future: Send,
    C::ResponseBody: tonic::transport::Body<Data = tonic::codegen::Bytes> + Send + 'static,
    <C::ResponseBody as tonic::transport::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    async fn lease(&self, request: LeaseTaskRequest) -> Result<Option<Lease>, Status> {
        let request = with_deadline(request, LEASE_DEADLINE);
        Ok(self.clone().lease_task(request).await?.into_inner().lease)
    }

    async fn report(&self, request: ReportProgressRequest) -> Result<bool, Status> {
        let request = with_deadline(request, DEADLINE);
        Ok(self.clone().report_progress(request).await?.into_inner().cancel)
    }

    async fn finish(&self, request: FinishTaskRequest) -> Result<(), Status> {
        let request = with_deadline(request, DEADLINE);
        self.clone().finish_task(request).await.map(|_| ())
    }

    async fn send_heartbeat(&self, request: HeartbeatRequest) -> Result<HeartbeatResponse, Status> {
        let request = with_deadline(request, DEADLINE);
        Ok(self.clone().heartbeat(request).await?.into_inner())
    }

    async fn lease_stream(
        &self,
        request: LeaseStreamRequest,
    ) -> Result<Option<StreamLease>, Status> {
        let request = with_deadline(request, LEASE_DEADLINE);
        Ok(RunnerServiceClient::lease_stream(&mut self.clone(), request).await?.into_inner().lease)
    }

    async fn send_part(&self, request: SendStreamDataRequest) -> Result<StreamState, Status> {
        let request = with_deadline(request, DEADLINE);
        Ok(self.clone().send_stream_data(request).await?.into_inner().state())
    }

    async fn receive_input(
        &self,
        request: ReceiveStreamInputRequest,
    ) -> Result<Option<StreamInputs>, Status> {
        let request = with_deadline(request, LEASE_DEADLINE);
        Ok(self.clone().receive_stream_input(request).await?.into_inner().inputs)
    }

    async fn set_challenge(&self, request: SetDnsChallengeRequest) -> Result<(), Status> {
        let request = with_deadline(request, DNS_DEADLINE);
        self.clone().set_dns_challenge(request).await.map(|_| ())
    }

    async fn clear_challenge(&self, request: ClearDnsChallengeRequest) -> Result<(), Status> {
        let request = with_deadline(request, DNS_DEADLINE);
        self.clone().clear_dns_challenge(request).await.map(|_| ())
    }
}

fn with_deadline<M>(message: M, deadline: Duration) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}
