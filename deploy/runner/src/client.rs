//! The task queue as a runner sees it: the project service over gRPC, in this process or elsewhere.

use std::time::Duration;

use api::project::{
    FinishTaskRequest, HeartbeatRequest, HeartbeatResponse, Lease, LeaseTaskRequest,
    ReportProgressRequest, runner_service_client::RunnerServiceClient,
};
use tonic::{
    Request, Status,
    body::Body,
    client::GrpcService,
    metadata::{Ascii, MetadataValue},
};

/// Deadline of a question for work; it waits at the service for at most 20 s.
const LEASE_DEADLINE: Duration = Duration::from_secs(28);

/// Deadline of every other call.
const DEADLINE: Duration = Duration::from_secs(10);

/// The project service.
#[tonic::async_trait]
pub(crate) trait TaskClient: Send + Sync + 'static {
    async fn lease(&self, request: LeaseTaskRequest) -> Result<Option<Lease>, Status>;
    /// Returns whether the task is to be cancelled.
    async fn report(&self, request: ReportProgressRequest) -> Result<bool, Status>;
    async fn finish(&self, request: FinishTaskRequest) -> Result<(), Status>;
    async fn heartbeat(&self, request: HeartbeatRequest) -> Result<HeartbeatResponse, Status>;
}

/// A client with the agent token of its server, if the server is a connected one.
pub(crate) struct RemoteClient<C> {
    pub(crate) client: RunnerServiceClient<C>,
    pub(crate) bearer: Option<MetadataValue<Ascii>>,
}

impl<C> RemoteClient<C> {
    fn request<M>(&self, message: M, deadline: Duration) -> Request<M> {
        let mut request = Request::new(message);
        request.set_timeout(deadline);
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        request
    }
}

#[tonic::async_trait]
impl<C> TaskClient for RemoteClient<C>
where
    C: GrpcService<Body> + Clone + Send + Sync + 'static,
    C::Future: Send,
    C::ResponseBody: tonic::transport::Body<Data = tonic::codegen::Bytes> + Send + 'static,
    <C::ResponseBody as tonic::transport::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    async fn lease(&self, request: LeaseTaskRequest) -> Result<Option<Lease>, Status> {
        let request = self.request(request, LEASE_DEADLINE);
        Ok(self.client.clone().lease_task(request).await?.into_inner().lease)
    }

    async fn report(&self, request: ReportProgressRequest) -> Result<bool, Status> {
        let request = self.request(request, DEADLINE);
        Ok(self.client.clone().report_progress(request).await?.into_inner().cancel)
    }

    async fn finish(&self, request: FinishTaskRequest) -> Result<(), Status> {
        let request = self.request(request, DEADLINE);
        self.client.clone().finish_task(request).await.map(|_| ())
    }

    async fn heartbeat(&self, request: HeartbeatRequest) -> Result<HeartbeatResponse, Status> {
        let request = self.request(request, DEADLINE);
        Ok(self.client.clone().heartbeat(request).await?.into_inner())
    }
}
