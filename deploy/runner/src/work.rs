//! One task from its lease to its end.

use std::time::Duration;

use api::project::{
    FinishTaskRequest, Lease, ReportProgressRequest, TaskKind,
    runner_service_client::RunnerServiceClient,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, client::GrpcService};

use crate::driver::Processes;

/// How far a task is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) percent: i32,
    pub(crate) step: &'static str,
    pub(crate) lines: Vec<String>,
}

/// A task ends, well or badly.
pub(crate) struct Deployed {
    pub(crate) commit: String,
    pub(crate) url: String,
}

/// Deploys, reporting all the while; gives the work up as soon as the lease is lost.
pub(crate) async fn work<C>(
    mut client: RunnerServiceClient<C>,
    processes: &Processes,
    lease: Lease,
    stop: &CancellationToken,
) where
    C: GrpcService<Body> + Clone + Send + Sync + 'static,
    C::Future: Send,
    C::ResponseBody: tonic::transport::Body<Data = tonic::codegen::Bytes> + Send + 'static,
    <C::ResponseBody as tonic::transport::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    tracing::info!(
        task = lease.task_id,
        environment = lease.environment_id,
        kind = lease.kind().as_str_name(),
        "a task starts"
    );
    let (report, reports) = mpsc::channel(16);
    let work = async {
        match lease.kind() {
            TaskKind::Stop => processes.stop(&lease, report).await,
            _ => processes.deploy(&lease, report).await,
        }
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        () = keep(client.clone(), &lease, reports) => {
            tracing::warn!(task = lease.task_id, "the lease was lost; another runner goes on");
            return;
        }
        // The lease runs out, and the next runner starts over.
        () = stop.cancelled() => return,
    };
    let mut finish = FinishTaskRequest {
        task_id: lease.task_id.clone(),
        lease_id: lease.lease_id.clone(),
        ..Default::default()
    };
    match outcome {
        Ok(it) => (finish.commit, finish.url) = (it.commit, it.url),
        Err(error) => {
            tracing::info!(task = lease.task_id, error = format!("{error:#}"), "a task failed");
            finish.error_message = printable(&format!("{error:#}"), 2_000);
        }
    }
    if let Err(status) = client.finish_task(finish).await {
        tracing::warn!(
            task = lease.task_id,
            message = status.message(),
            "the end was not reported"
        );
    }
}

/// Reports progress and renews the lease. Returns when the lease is lost, and only then.
async fn keep<C>(
    mut client: RunnerServiceClient<C>,
    lease: &Lease,
    mut reports: mpsc::Receiver<Progress>,
) where
    C: GrpcService<Body> + Clone + Send + Sync + 'static,
    C::Future: Send,
    C::ResponseBody: tonic::transport::Body<Data = tonic::codegen::Bytes> + Send + 'static,
    <C::ResponseBody as tonic::transport::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    let ttl = lease.ttl.as_ref().and_then(|it| u64::try_from(it.seconds).ok()).unwrap_or(15);
    let pause = Duration::from_secs(ttl) / 3;
    loop {
        let progress = match tokio::time::timeout(pause, reports.recv()).await {
            Ok(Some(progress)) => progress,
            // The deployment has ended and will say so itself.
            Ok(None) => std::future::pending().await,
            Err(_) => Progress::default(),
        };
        let report = ReportProgressRequest {
            task_id: lease.task_id.clone(),
            lease_id: lease.lease_id.clone(),
            progress_percent: progress.percent,
            current_step: progress.step.to_owned(),
            log_lines: progress.lines.iter().map(|it| printable(it, 4_096)).collect(),
        };
        if let Err(status) = client.report_progress(report).await {
            match status.code() {
                tonic::Code::FailedPrecondition | tonic::Code::NotFound => return,
                _ => tracing::warn!(message = status.message(), "progress was not reported"),
            }
        }
    }
}

/// Text that the contract accepts: no control characters, and not too long.
fn printable(text: &str, max: usize) -> String {
    text.chars().map(|it| if it.is_control() && it != '\n' { ' ' } else { it }).take(max).collect()
}
