//! The gRPC surface of tasks, for people.

use api::project::{self as pb, task_service_server::TaskService};
use chassis::{Access, Call, Db, Reply, page::Pager, reply};
use tonic::Request;

use super::store;
use crate::environment;

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
}

#[tonic::async_trait]
impl TaskService for Rpc {
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
        // An environment that is not there has no tasks, but is still not there.
        let environment =
            environment::store::get(&self.db, &grant, it.environment_id.parse()?).await?;
        let rows = store::list(&self.db, &grant, environment.id, &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.id.into());
        reply(pb::ListTasksResponse {
            tasks: rows.iter().map(Into::into).collect(),
            next_page_token,
        })
    }
}
