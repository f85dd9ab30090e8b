//! gRPC service of tasks, for people.

use api::project::{self as pb, task_service_server::TaskService};
use chassis::{Access, Call, Db, Reply, Tx, page::Pager, reply};
use project_rules::{task::TaskSpec, types::parse_optional_id};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response};
use worker::watch::{Messages, follow};

use super::{commands, watch::TaskLog};
use crate::{environment::production_gate::ProductionGate, store};

/// Implementation of `TaskService`.
pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    /// Ends streams when the process shuts down.
    pub(crate) draining: CancellationToken,
}

#[tonic::async_trait]
impl TaskService for Rpc {
    type WatchTaskLogStream = Messages<pb::WatchTaskLogResponse>;

    async fn get_task(&self, request: Request<pb::GetTaskRequest>) -> Reply<pb::GetTaskResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let task = store::task::get(&self.db, &grant, message.task_id.parse()?).await?;
        let log_lines = store::task::log_lines(&self.db, &task).await?;
        reply(pb::GetTaskResponse { task: Some(pb::Task { log_lines, ..(&task).into() }) })
    }

    async fn list_tasks(
        &self,
        request: Request<pb::ListTasksRequest>,
    ) -> Reply<pb::ListTasksResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let filter = [message.org_id.as_str(), &message.project_id, &message.environment_id];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter)?;
        let rows = match parse_optional_id(&message.environment_id)? {
            Some(id) => store::task::list_of_environment(&self.db, &grant, id, &page).await?,
            None => store::task::list(&self.db, &grant, &page).await?,
        };
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.into());
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
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let task = store::task::get(&self.db, &grant, message.task_id.parse()?).await?;
        let cancel = async |tx: &mut Tx| {
            let task = commands::request_cancellation(tx, &task).await?;
            Ok(pb::CancelTaskResponse { task: Some((&task).into()) })
        };
        reply(self.db.write(&call, cancel).await?)
    }

    async fn retry_task(
        &self,
        request: Request<pb::RetryTaskRequest>,
    ) -> Reply<pb::RetryTaskResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let failed = store::task::get(&self.db, &grant, message.task_id.parse()?).await?;
        commands::require_failed(&failed)?;
        let gate =
            ProductionGate { db: &self.db, access: &self.access, context: &call, grant: &grant };
        let id = failed.environment_id;
        let right = gate.authorize_task(id, &TaskSpec::retry(&failed)).await?;
        // The permission that the original method needs (PE-41, PE-44, PE-37).
        if let Some(permission) = failed.kind.additional_retry_permission() {
            self.access.require_additional(&call, &grant, permission).await?;
        }
        let retry = async |tx: &mut Tx| {
            let task = commands::retry(tx, &grant, &failed, right).await?;
            Ok(pb::RetryTaskResponse { task: Some((&task).into()) })
        };
        reply(self.db.write(&call, retry).await?)
    }

    async fn watch_task_log(
        &self,
        request: Request<pb::WatchTaskLogRequest>,
    ) -> Reply<Self::WatchTaskLogStream> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let task = store::task::get(&self.db, &grant, message.task_id.parse()?).await?;
        let log = TaskLog {
            db: self.db.clone(),
            grant,
            task_id: task.id,
            next_line: message.from_line,
            last_sent: None,
        };
        Ok(Response::new(follow(&self.db, task.id.0, self.draining.clone(), log)))
    }
}
