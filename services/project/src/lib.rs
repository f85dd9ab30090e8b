//! Projects, their environments, and the tasks that runners take to deploy them.
//!
//! | concept | file |
//! |---|---|
//! | blueprints | `project` |
//! | deployed branches and their states | `environment` |
//! | units of work, their leases and logs | `task` |
//! | who works on a project | `collaborator` |
//! | what programs are told | `variable` |
//! | extra services | `attachment` |
//! | pushes that deploy | `push` |
//! | the machines that they run on | `server` |
//! | where code may come from | `repository` |
//! | text of programs, commits and git | `foreign_text` |
//! | what follows from the end of an organization | `organization`, `reactions` |

mod attachment;
mod collaborator;
mod environment;
mod foreign_text;
#[cfg(test)]
mod fuzz;
mod organization;
mod project;
mod push;
mod reactions;
mod repository;
mod server;
mod task;
mod variable;

use api::project::{
    attachment_service_server::AttachmentServiceServer,
    collaborator_service_server::CollaboratorServiceServer,
    environment_service_server::EnvironmentServiceServer,
    project_service_server::ProjectServiceServer, runner_service_server::RunnerServiceServer,
    server_service_server::ServerServiceServer, task_service_server::TaskServiceServer,
};
use chassis::Host;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Adds the project service to a process.
pub fn install(host: &mut Host) -> anyhow::Result<()> {
    let db = host.database("project", &MIGRATIONS);
    let (access, pager) = (host.access(), host.pager());
    let identity = host.client("project", "identity");
    let invitation = host.client("project", "invitation");
    let vault = variable::Vault::new(host.key());
    host.rpc(ProjectServiceServer::new(project::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager: pager.clone(),
        identity: identity.clone(),
        local_repositories: host.config().local_repositories,
        base_url: host.config().base_url(),
        seal: host.key().derive("push secrets"),
    }));
    host.rpc(EnvironmentServiceServer::new(environment::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager: pager.clone(),
        identity: identity.clone(),
        vault: vault.clone(),
    }));
    host.rpc(AttachmentServiceServer::new(attachment::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        vault: vault.clone(),
    }));
    host.rpc(CollaboratorServiceServer::new(collaborator::rpc::Rpc {
        access: access.clone(),
        identity: identity.clone(),
        invitation,
    }));
    host.rpc(ServerServiceServer::new(server::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager: pager.clone(),
        identity,
    }));
    let draining = host.draining();
    host.rpc(RunnerServiceServer::new(task::runner::Rpc {
        db: db.clone(),
        vault,
        draining: draining.clone(),
    }));
    let hook = push::hook::Hook { project: host.client("project", "project") };
    host.site(push::hook::PATHS, hook);
    host.rpc(TaskServiceServer::new(task::rpc::Rpc { db: db.clone(), access, pager, draining }));
    let swept = db.clone();
    host.task("the look at silent servers", move |stop| reactions::sweep(swept, stop));
    host.on(&db, reactions::project_registered);
    host.on(&db, reactions::organization_deleted);
    host.on(&db, reactions::organization_restored);
    host.on(&db, reactions::organization_purged);
    host.on(&db, reactions::subscription_changed);
    Ok(())
}
