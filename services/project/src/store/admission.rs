//! SQL statements about the conditions of new tasks.

use chassis::{Db, Error, ProjectGrant, ProjectId, Result, Tx};
use project_rules::{
    environment::{Environment, admission::AdmissionFacts, production::ProductionFacts},
    organization::Status,
    task::{Kind, TaskSpec},
    types::EnvironmentId,
};
use sqlx::{query, query_as};
use uuid::Uuid;

/// Source of the clone that a task makes.
fn clone_source_id(spec: &TaskSpec) -> Option<Uuid> {
    spec.source_environment_id.filter(|_| spec.kind == Kind::Clone).map(|it| it.0)
}

/// Returns the data on which the right to enqueue a task in an environment depends.
pub(crate) async fn production_facts(
    db: &Db,
    grant: &ProjectGrant,
    id: EnvironmentId,
    spec: &TaskSpec,
) -> Result<ProductionFacts> {
    let facts = query_as!(
        ProductionFacts,
        r#"select environment.kind, project.production_deploy_min_role as min_role,
                  exists (select from environment source
                          where source.org_id = $1 and source.id = $4::uuid and source.kind = 'production')
                   as "copies_production!",
                  coalesce(configured_at > coalesce(
                      (select max(started_at) from task
                       where task.org_id = $1 and environment_id = $3 and task.state = 'completed'
                         and task.kind in ('deploy', 'start', 'restart', 'rollback', 'promote', 'clone')),
                      '-infinity'), false) as "is_reconfigured!"
           from environment join project on project.id = environment.project_id
           where environment.org_id = $1 and project.org_id = $1 and project.id = $2
             and environment.id = $3"#,
        grant.org_id().0,
        grant.project_id().0,
        id.0,
        clone_source_id(spec)
    );
    facts.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(EnvironmentId::NOUN))
}

/// Returns the data on which the admission of a task in a locked environment depends, and locks the project
/// against deletion.
pub(crate) async fn admission_facts(
    tx: &mut Tx,
    environment: &Environment,
    spec: &TaskSpec,
) -> Result<AdmissionFacts> {
    // The server of a locked environment, or any shared server (no org_id).
    let row = query!(
        r#"select (project.state = 'deleting') as "is_project_deleting!", production_deploy_min_role,
                  coalesce(organization.deleted, false) as "is_deleted!",
                  coalesce(organization.blocked, false) as "is_blocked!",
                  exists (select from environment source
                          where source.org_id = $1 and source.id = $5::uuid and source.kind = 'production')
                   as "copies_production!",
                  exists (select from environment
                          where org_id = $1 and id = $3 and configured_at > coalesce(
                              (select max(started_at) from task
                               where org_id = $1 and environment_id = $3 and state = 'completed'
                                 and kind in ('deploy', 'start', 'restart', 'rollback', 'promote', 'clone')),
                              '-infinity')) as "is_reconfigured!",
                  coalesce((select last_seen_at from server where server.id = $4),
                           (select max(last_seen_at) from server where $4 is null and server.org_id is null))
                   as server_last_seen_at
           from project left join organization on organization.org_id = project.org_id
           where project.org_id = $1 and project.id = $2 for key share of project"#,
        environment.org_id.0,
        environment.project_id.0,
        environment.id.0,
        environment.server_id.map(|it| it.0),
        clone_source_id(spec)
    );
    let row = row.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(ProjectId::NOUN))?;
    Ok(AdmissionFacts {
        is_project_deleting: row.is_project_deleting,
        production: ProductionFacts {
            kind: environment.kind,
            min_role: row.production_deploy_min_role,
            copies_production: row.copies_production,
            is_reconfigured: row.is_reconfigured,
        },
        organization: Status::from_flags(row.is_deleted, row.is_blocked),
        server_last_seen_at: row.server_last_seen_at,
    })
}
