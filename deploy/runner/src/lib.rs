//! Executes deployments: leases tasks from the project service over gRPC, works, reports. The project
//! service never knows how. The one driver so far runs processes on this machine.

mod driver;
mod http;
mod work;

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use api::project::{LeaseTaskRequest, runner_service_client::RunnerServiceClient};
use chassis::Host;
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, client::GrpcService};

use driver::Processes;

/// How often an idle runner asks for work.
const IDLE: Duration = Duration::from_millis(200);

/// Adds a runner to a process.
pub fn install(host: &mut Host) -> anyhow::Result<()> {
    let project = host.client("runner", "project");
    let folder = host.folder().path().join("runner");
    host.task("the runner", move |stop| run(RunnerServiceClient::new(project), folder, stop));
    Ok(())
}

/// Takes tasks, one at a time, until `stop`. What is deployed goes on running without the runner.
pub async fn run<C>(
    client: RunnerServiceClient<C>,
    folder: PathBuf,
    stop: CancellationToken,
) -> anyhow::Result<()>
where
    C: GrpcService<Body> + Clone + Send + Sync + 'static,
    C::Future: Send,
    C::ResponseBody: tonic::transport::Body<Data = tonic::codegen::Bytes> + Send + 'static,
    <C::ResponseBody as tonic::transport::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    let processes = Processes::new(folder).context("the runner has no folder to work in")?;
    let name = format!("runner {}", std::process::id());
    while !stop.is_cancelled() {
        let mut asking = client.clone();
        match asking.lease_task(LeaseTaskRequest { runner: name.clone() }).await {
            Ok(answer) => {
                if let Some(lease) = answer.into_inner().lease {
                    work::work(client.clone(), &processes, lease, &stop).await;
                    continue;
                }
            }
            Err(status) => {
                tracing::warn!(code = ?status.code(), message = status.message(), "no work");
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(IDLE) => {}
        }
    }
    Ok(())
}
