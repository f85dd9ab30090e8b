//! Where a runner gets its work and hands it in: the project service, over gRPC, in this process or
//! elsewhere.

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

/// The project service, as a runner sees it.
#[tonic::async_trait]
pub(crate) trait Desk: Send + Sync + 'static {
    async fn lease(&self, it: LeaseTaskRequest) -> Result<Option<Lease>, Status>;
    /// Answers whether the task is to end.
    async fn report(&self, it: ReportProgressRequest) -> Result<bool, Status>;
    async fn finish(&self, it: FinishTaskRequest) -> Result<(), Status>;
    async fn beat(&self, it: HeartbeatRequest) -> Result<HeartbeatResponse, Status>;
}

/// A client, and the agent token with which it proves which server it is of.
pub(crate) struct Remote<C> {
    pub(crate) client: RunnerServiceClient<C>,
    pub(crate) bearer: Option<MetadataValue<Ascii>>,
}

impl<C> Remote<C> {
    fn with<M>(&self, message: M, seconds: u64) -> Request<M> {
        let mut request = Request::new(message);
        request.set_timeout(std::time::Duration::from_secs(seconds));
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        request
    }
}

#[tonic::async_trait]
impl<C> Desk for Remote<C>
where
    C: GrpcService<Body> + Clone + Send + Sync + 'static,
    C::Future: Send,
    C::ResponseBody: tonic::transport::Body<Data = tonic::codegen::Bytes> + Send + 'static,
    <C::ResponseBody as tonic::transport::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    async fn lease(&self, it: LeaseTaskRequest) -> Result<Option<Lease>, Status> {
        let answer = self.client.clone().lease_task(self.with(it, 28)).await?;
        Ok(answer.into_inner().lease)
    }

    async fn report(&self, it: ReportProgressRequest) -> Result<bool, Status> {
        let answer = self.client.clone().report_progress(self.with(it, 10)).await?;
        Ok(answer.into_inner().cancel)
    }

    async fn finish(&self, it: FinishTaskRequest) -> Result<(), Status> {
        self.client.clone().finish_task(self.with(it, 10)).await.map(|_| ())
    }

    async fn beat(&self, it: HeartbeatRequest) -> Result<HeartbeatResponse, Status> {
        Ok(self.client.clone().heartbeat(self.with(it, 10)).await?.into_inner())
    }
}
