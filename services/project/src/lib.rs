//! Projects, their environments, and the tasks that runners take to deploy them.
//!
//! | concept | file |
//! |---|---|
//! | blueprints | `project` |
//! | deployed branches and their states | `environment` |
//! | units of work, their leases and logs | `task` |
//! | where code may come from | `repository` |
//! | what follows from the end of an organization | `organization`, `reactions` |

mod environment;
mod organization;
mod project;
mod reactions;
mod repository;
mod task;

use api::project::{
    environment_service_server::EnvironmentServiceServer,
    project_service_server::ProjectServiceServer, runner_service_server::RunnerServiceServer,
    task_service_server::TaskServiceServer,
};
use chassis::Host;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Adds the project service to a process.
pub fn install(host: &mut Host) -> anyhow::Result<()> {
    let db = host.database("project", &MIGRATIONS);
    let (access, pager) = (host.access(), host.pager());
    let identity = host.client("project", "identity");
    host.rpc(ProjectServiceServer::new(project::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager: pager.clone(),
        identity: identity.clone(),
        local_repositories: host.config().local_repositories,
    }));
    host.rpc(EnvironmentServiceServer::new(environment::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager: pager.clone(),
        identity,
    }));
    host.rpc(TaskServiceServer::new(task::rpc::Rpc { db: db.clone(), access, pager }));
    host.rpc(RunnerServiceServer::new(task::runner::Rpc { db: db.clone() }));
    host.on(&db, reactions::project_registered);
    host.on(&db, reactions::organization_deleted);
    host.on(&db, reactions::organization_restored);
    host.on(&db, reactions::organization_purged);
    Ok(())
}
