//! The gRPC surface of tasks, for runners.

use api::project::{self as pb, runner_service_server::RunnerService};
use chassis::{Call, Db, Error, Reply, Result, Tx, reply};
use tonic::Request;
use uuid::Uuid;

use super::{LEASE, Leased, Outcome, Task, TaskId, store};
use crate::environment;

pub(crate) struct Rpc {
    pub(crate) db: Db,
}

#[tonic::async_trait]
impl RunnerService for Rpc {
    async fn lease_task(
        &self,
        request: Request<pb::LeaseTaskRequest>,
    ) -> Reply<pb::LeaseTaskResponse> {
        let call = Call::of(request)?;
        let lease = async |tx: &mut Tx| {
            let Some(place) = store::waiting(tx).await? else {
                return Ok(pb::LeaseTaskResponse { lease: None });
            };
            Ok(pb::LeaseTaskResponse { lease: take(tx, place).await? })
        };
        reply(self.db.write(&call, lease).await?)
    }

    async fn report_progress(
        &self,
        request: Request<pb::ReportProgressRequest>,
    ) -> Reply<pb::ReportProgressResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let (id, lease_id) = (it.task_id.parse()?, lease_id(&it.lease_id)?);
        let report = async |tx: &mut Tx| {
            let (org_id, ..) = store::place(tx, id).await?;
            let task = store::lock(tx, org_id, id).await?;
            let task =
                task.report(lease_id, it.progress_percent, it.current_step.clone(), tx.now)?;
            store::upsert(tx, &task).await?;
            store::log(tx, id, &it.log_lines).await?;
            Ok(pb::ReportProgressResponse {})
        };
        reply(self.db.write(&call, report).await?)
    }

    async fn finish_task(
        &self,
        request: Request<pb::FinishTaskRequest>,
    ) -> Reply<pb::FinishTaskResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let (id, lease_id): (TaskId, _) = (it.task_id.parse()?, lease_id(&it.lease_id)?);
        let outcome = match it.error_message.as_str() {
            "" => Outcome::Completed { commit: it.commit.clone(), url: it.url.clone() },
            error => Outcome::Failed { error: error.to_owned() },
        };
        let finish = async |tx: &mut Tx| {
            let (org_id, project_id, environment_id) = store::place(tx, id).await?;
            let environment =
                environment::store::lock(tx, (org_id, project_id), environment_id).await?;
            let task = store::lock(tx, org_id, id).await?.finish(lease_id, &outcome, tx.now)?;
            environment::store::save(tx, environment.finish(task, outcome)).await?;
            Ok(pb::FinishTaskResponse {})
        };
        reply(self.db.write(&call, finish).await?)
    }
}

fn lease_id(text: &str) -> Result<Uuid> {
    Uuid::try_parse(text).map_err(|_| Error::invalid("lease_id", "must be a UUID"))
}

/// Hands the active task of an environment to the caller, or ends it.
async fn take(
    tx: &mut Tx,
    (org_id, project_id, environment_id): (
        chassis::OrgId,
        chassis::ProjectId,
        environment::EnvironmentId,
    ),
) -> Result<Option<pb::Lease>> {
    let environment = environment::store::lock(tx, (org_id, project_id), environment_id).await?;
    let task = store::active(tx, &environment).await?;
    // Another runner was quicker.
    let Some(task) = task.filter(|it| it.waits(tx.now)) else { return Ok(None) };
    let task = match task.lease(tx.now) {
        Leased::First(changed) => store::save(tx, changed).await?,
        Leased::Again(task) => {
            store::upsert(tx, &task).await?;
            task
        }
        Leased::GivenUp(task, outcome) => {
            environment::store::save(tx, environment.finish(task, outcome)).await?;
            return Ok(None);
        }
    };
    lease(tx, task, environment.branch).await.map(Some)
}

async fn lease(tx: &mut Tx, task: Task, branch: String) -> Result<pb::Lease> {
    Ok(pb::Lease {
        task_id: task.id.into(),
        lease_id: task.lease_id.map(|it| it.to_string()).unwrap_or_default(),
        environment_id: task.environment_id.into(),
        repository_url: store::repository(tx, task.org_id, task.project_id).await?,
        branch,
        kind: pb::TaskKind::from(task.kind).into(),
        ttl: Some(prost_types::Duration { seconds: LEASE.whole_seconds(), nanos: 0 }),
    })
}
