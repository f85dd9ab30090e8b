//! The gRPC surface of tasks, for people.

use api::project::{self as pb, task_service_server::TaskService};
use chassis::{
    Access, Call, Db, Error, Reply, Tx,
    follow::{Messages, follow},
    page::Pager,
    reply,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response};

use super::{Cancelled, NotFailed, Order, Outcome, State, runner, store, watch::TaskLog};
use crate::{
    environment::{
        self,
        admission::{self, Initiator},
    },
    project::production::Gate,
};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) draining: CancellationToken,
}

#[tonic::async_trait]
impl TaskService for Rpc {
    type WatchTaskLogStream = Messages<pb::WatchTaskLogResponse>;

    async fn get_task(&self, request: Request<pb::GetTaskRequest>) -> Reply<pb::GetTaskResponse> {
        let call = Call::of(request)?;
        let grant =
            self.access.project(&call, &call.message.org_id, &call.message.project_id).await?;
        let task = store::get(&self.db, &grant, call.message.task_id.parse()?).await?;
        let log_lines = store::log_lines(&self.db, &task).await?;
        reply(pb::GetTaskResponse { task: Some(pb::Task { log_lines, ..(&task).into() }) })
    }

    async fn list_tasks(
        &self,
        request: Request<pb::ListTasksRequest>,
    ) -> Reply<pb::ListTasksResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let filter = [it.org_id.as_str(), &it.project_id, &it.environment_id];
        let page = self.pager.page(&call, it.page_size, &it.page_token, &filter)?;
        let only = Some(&it.environment_id).filter(|it| !it.is_empty());
        let only = only.map(|it| it.parse()).transpose()?;
        let rows = store::list(&self.db, &grant, only, &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.id.into());
        reply(pb::ListTasksResponse {
            tasks: rows.iter().map(Into::into).collect(),
            next_page_token,
        })
    }

    async fn cancel_task(
        &self,
        request: Request<pb::CancelTaskRequest>,
    ) -> Reply<pb::CancelTaskResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let task = store::get(&self.db, &grant, it.task_id.parse()?).await?;
        let cancel = async |tx: &mut Tx| {
            let place = (grant.org_id(), grant.project_id());
            let environment = environment::locking::of_task(tx, &task).await;
            let task = store::lock(tx, place.0, task.id).await?;
            let task = match (task.cancel(tx.now)?, environment) {
                (Cancelled::Asked(asked), _) => store::save(tx, asked).await?,
                (Cancelled::Now(task), environment) => {
                    runner::over(tx, environment?, task.clone(), Outcome::Cancelled).await?;
                    task
                }
            };
            Ok(pb::CancelTaskResponse { task: Some((&task).into()) })
        };
        reply(self.db.write(&call, cancel).await?)
    }

    async fn retry_task(
        &self,
        request: Request<pb::RetryTaskRequest>,
    ) -> Reply<pb::RetryTaskResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let failed = store::get(&self.db, &grant, it.task_id.parse()?).await?;
        if failed.state != State::Failed {
            return Err(Error::from(NotFailed).into());
        }
        let environment = environment::store::get(&self.db, &grant, failed.environment_id).await?;
        let order = Order::again(&failed);
        let gate = Gate { db: &self.db, access: &self.access, context: &call, grant: &grant };
        let right = gate.pass_task(&environment, &order).await?;
        // As much as the first call needed (PE-41, PE-44, PE-37).
        if let Some(permission) = failed.kind.needs_more() {
            self.access.also(&call, &grant, permission).await?;
        }
        let retry = async |tx: &mut Tx| {
            let environment = environment::locking::to_repeat(tx, &failed).await?;
            let by = Initiator::person(&grant, right);
            let task = admission::queue(tx, environment, order, by).await?.1;
            Ok(pb::RetryTaskResponse { task: Some((&task).into()) })
        };
        reply(self.db.write(&call, retry).await?)
    }

    async fn watch_task_log(
        &self,
        request: Request<pb::WatchTaskLogRequest>,
    ) -> Reply<Self::WatchTaskLogStream> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let task = store::get(&self.db, &grant, it.task_id.parse()?).await?;
        let (db, task_id, next_line) = (self.db.clone(), task.id, it.from_line);
        let log = TaskLog { db, grant, task_id, next_line, sent: None };
        Ok(Response::new(follow(&self.db, task_id.0, self.draining.clone(), log)))
    }
}
