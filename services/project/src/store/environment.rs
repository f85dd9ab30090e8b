//! SQL statements about environments.

use chassis::{Changed, Db, Error, OrgId, ProjectGrant, Result, Tx, page::Page};
use project_rules::{
    environment::{Environment, Refused, State},
    task::Task,
    types::{EnvironmentId, ProjectRef, ServerId},
};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

/// Selects rows of environments: the rest of the statement after `from environment`, and its arguments.
macro_rules! environments {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        query_as!(
            Environment,
            "select id, org_id, project_id, name, kind, state, stable_state, pause_reason, resumes, branch,
                    commit, url, hostname, last_error, observed, last_task_state, auto_deploy, server_id,
                    cpu_millis, memory_mb, disk_gb, deployment_id, version, created_at, updated_at
             from environment " + $rest
            $(, $argument)*
        )
    };
}

/// Returns the names of a project's environments.
pub(crate) async fn names(tx: &mut Tx, project: ProjectRef) -> Result<Vec<String>> {
    let names = query_scalar!(
        "select name from environment where org_id = $1 and project_id = $2",
        project.org_id.0,
        project.project_id.0
    );
    Ok(names.fetch_all(tx.conn()).await?)
}

/// Stores a new environment and its event.
pub(crate) async fn insert(tx: &mut Tx, created: Changed<Environment>) -> Result<Environment> {
    let environment = created.state();
    query!(
        "insert into environment (id, org_id, project_id, name, kind, state, stable_state, branch,
             auto_deploy, server_id, cpu_millis, memory_mb, disk_gb, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        environment.id as _,
        environment.org_id as _,
        environment.project_id as _,
        environment.name,
        environment.kind as _,
        environment.state as _,
        environment.stable_state as _,
        environment.branch,
        environment.auto_deploy,
        environment.server_id.map(|id| id.0),
        environment.cpu_millis,
        environment.memory_mb,
        environment.disk_gb,
        environment.created_at,
        environment.updated_at,
    )
    .execute(tx.conn())
    .await
    .map_err(refusal_of_constraint)?;
    Ok(tx.emit(created))
}

/// Converts the violation of a unique constraint to the refusal that it stands for.
fn refusal_of_constraint(error: sqlx::Error) -> Error {
    let name = error.as_database_error().and_then(|it| it.constraint().map(str::to_owned));
    match name.as_deref() {
        Some("environment_production") => Refused::ProductionExists.into(),
        Some("environment_name") => Refused::NameTaken.into(),
        _ => error.into(),
    }
}

/// Locks an environment, and with it its tasks, against changes.
pub(crate) async fn lock(
    tx: &mut Tx,
    project: ProjectRef,
    id: EnvironmentId,
) -> Result<Environment> {
    let environment = environments!(
        "where org_id = $1 and project_id = $2 and id = $3 for update",
        project.org_id.0,
        project.project_id.0,
        id.0
    );
    environment.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(EnvironmentId::NOUN))
}

/// Locks the environments of a project that deploy pushes to a branch, in the order of their ids.
pub(crate) async fn lock_auto_deployed(
    tx: &mut Tx,
    project: ProjectRef,
    branch: &str,
) -> Result<Vec<Environment>> {
    let environments = environments!(
        "where org_id = $1 and project_id = $2 and branch = $3 and auto_deploy
         order by id for update",
        project.org_id.0,
        project.project_id.0,
        branch
    );
    Ok(environments.fetch_all(tx.conn()).await?)
}

/// Locks every environment of an organization, in the order of their ids.
pub(crate) async fn lock_of_organization(tx: &mut Tx, org_id: OrgId) -> Result<Vec<Environment>> {
    let environments = environments!("where org_id = $1 order by id for update", org_id.0);
    Ok(environments.fetch_all(tx.conn()).await?)
}

/// Loads an environment without a lock.
pub(crate) async fn load(
    tx: &mut Tx,
    project: ProjectRef,
    id: EnvironmentId,
) -> Result<Environment> {
    let environment = environments!(
        "where org_id = $1 and project_id = $2 and id = $3",
        project.org_id.0,
        project.project_id.0,
        id.0
    );
    environment.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(EnvironmentId::NOUN))
}

async fn update_row(tx: &mut Tx, environment: &Environment) -> Result<()> {
    query!(
        "update environment set name = $3, state = $4, stable_state = $5, pause_reason = $6, resumes = $7,
             branch = $8, commit = $9, url = $10, last_error = $11, auto_deploy = $12, server_id = $13,
             cpu_millis = $14, memory_mb = $15, disk_gb = $16, deployment_id = $17, updated_at = $18,
             observed = $19, last_task_state = $20, version = version + 1
         where org_id = $1 and id = $2",
        environment.org_id as _,
        environment.id as _,
        environment.name,
        environment.state as _,
        environment.stable_state as _,
        environment.pause_reason as _,
        environment.resumes,
        environment.branch,
        environment.commit,
        environment.url,
        environment.last_error,
        environment.auto_deploy,
        environment.server_id.map(|id| id.0),
        environment.cpu_millis,
        environment.memory_mb,
        environment.disk_gb,
        environment.deployment_id.map(|id| id.0),
        environment.updated_at,
        environment.observed as _,
        environment.last_task_state as _,
    )
    .execute(tx.conn())
    .await
    .map_err(refusal_of_constraint)?;
    Ok(())
}

/// Stores the new state of an environment and its event.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<Environment>) -> Result<Environment> {
    update_row(tx, changed.state()).await?;
    let mut environment = tx.emit(changed);
    environment.version += 1;
    Ok(environment)
}

/// Stores an environment, its new task, and their event.
pub(crate) async fn enqueue_task(
    tx: &mut Tx,
    enqueued: Changed<(Environment, Task)>,
) -> Result<(Environment, Task)> {
    let (environment, task) = enqueued.state();
    update_row(tx, environment).await?;
    let event_id = enqueued.event_id();
    super::task::insert(tx, task, event_id).await.map_err(|error| match error {
        // Tasks of one environment are serialized by the lock on its row. Only two clones of the same
        // source into different environments can violate the unique index.
        Error::Database(error)
            if error
                .as_database_error()
                .is_some_and(sqlx::error::DatabaseError::is_unique_violation) =>
        {
            Refused::TaskInProgress("another clone of the same source".to_owned()).into()
        }
        other => other,
    })?;
    let (mut environment, mut task) = tx.emit(enqueued);
    environment.version += 1;
    task.request_event_id = Some(event_id);
    Ok((environment, task))
}

/// Stores an environment, its finished task, and their event. An environment in state DELETED is deleted.
pub(crate) async fn finish_task(
    tx: &mut Tx,
    finished: Changed<(Environment, Task)>,
) -> Result<Task> {
    let (environment, task) = finished.state();
    super::task::update(tx, task).await?;
    if environment.state == State::Deleted {
        delete_rows(tx, environment).await?;
    } else {
        update_row(tx, environment).await?;
    }
    let (_, task) = tx.emit(finished);
    Ok(task)
}

/// Deletes an environment without a task, and stores its event.
pub(crate) async fn delete(tx: &mut Tx, deleted: Changed<Environment>) -> Result<Environment> {
    delete_rows(tx, deleted.state()).await?;
    Ok(tx.emit(deleted))
}

async fn delete_rows(tx: &mut Tx, environment: &Environment) -> Result<()> {
    super::dns_record::remove_of_environment(tx, environment.org_id, environment.id).await?;
    // A row of the environment, whose organization is checked below (no org_id).
    query!("delete from environment_report where environment_id = $1", environment.id.0)
        .execute(tx.conn())
        .await?;
    super::metric::delete(tx, environment.id).await?;
    super::alert::close_of_target(tx, environment.id.0).await?;
    query!(
        "delete from environment where org_id = $1 and id = $2",
        environment.org_id.0,
        environment.id.0
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Assigns an environment to a server.
pub(crate) async fn assign_server(
    tx: &mut Tx,
    environment: &Environment,
    server_id: ServerId,
) -> Result<()> {
    query!(
        "update environment set server_id = $3 where org_id = $1 and id = $2",
        environment.org_id.0,
        environment.id.0,
        server_id.0
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Returns true if no environment has a host name. Other calls of this function for the host name wait until
/// the transaction ends.
pub(crate) async fn lock_unused_hostname(tx: &mut Tx, hostname: &str) -> Result<bool> {
    // The second argument separates the advisory locks, see `lock_and_count`.
    query!("select pg_advisory_xact_lock(hashtextextended($1, 24))", hostname)
        .execute(tx.conn())
        .await?;
    // Host names are unique among the environments of all organizations (no org_id).
    let is_used = query_scalar!(
        r#"select exists (select from environment where hostname = $1) as "is_used!""#,
        hostname
    );
    Ok(!is_used.fetch_one(tx.conn()).await?)
}

/// Stores the host name of an environment.
pub(crate) async fn set_hostname(tx: &mut Tx, environment: &Environment) -> Result<()> {
    query!(
        "update environment set hostname = $3 where org_id = $1 and id = $2",
        environment.org_id.0,
        environment.id.0,
        environment.hostname
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Sets the source of a clone to CLONING, in which it allows no other task.
pub(crate) async fn lock_source(tx: &mut Tx, source: &Environment) -> Result<()> {
    query!(
        "update environment set stable_state = state, state = 'cloning', version = version + 1
         where org_id = $1 and id = $2",
        source.org_id.0,
        source.id.0
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Restores the state of the source of a clone after the task.
pub(crate) async fn unlock_source(tx: &mut Tx, task: &Task) -> Result<()> {
    query!(
        "update environment set state = stable_state, version = version + 1
         where org_id = $1 and id = $2 and state = 'cloning'",
        task.org_id.0,
        task.source_environment_id.map(|it| it.0)
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Returns an environment.
pub(crate) async fn get(db: &Db, grant: &ProjectGrant, id: EnvironmentId) -> Result<Environment> {
    let environment = environments!(
        "where org_id = $1 and project_id = $2 and id = $3",
        grant.org_id().0,
        grant.project_id().0,
        id.0
    );
    environment.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(EnvironmentId::NOUN))
}

/// Returns a page of the environments of a project.
pub(crate) async fn list(db: &Db, grant: &ProjectGrant, page: &Page) -> Result<Vec<Environment>> {
    let environments = environments!(
        "where org_id = $1 and project_id = $2
           and id > coalesce($3, '00000000-0000-0000-0000-000000000000'::uuid)
         order by id limit $4",
        grant.org_id().0,
        grant.project_id().0,
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(environments.fetch_all(db.pool()).await?)
}

/// Returns every environment of a project.
pub(crate) async fn list_all(db: &Db, grant: &ProjectGrant) -> Result<Vec<Environment>> {
    let environments = environments!(
        "where org_id = $1 and project_id = $2 order by id",
        grant.org_id().0,
        grant.project_id().0
    );
    Ok(environments.fetch_all(db.pool()).await?)
}

/// Locks every environment of a project, in the order of their ids. Their number is bounded by the plan and
/// by the capacity of the servers.
pub(crate) async fn lock_of_project(tx: &mut Tx, project: ProjectRef) -> Result<Vec<Environment>> {
    let environments = environments!(
        "where org_id = $1 and project_id = $2 order by id for update",
        project.org_id.0,
        project.project_id.0
    );
    Ok(environments.fetch_all(tx.conn()).await?)
}

/// Returns the id of the production environment of a project.
pub(crate) async fn production_id(
    tx: &mut Tx,
    project: ProjectRef,
) -> Result<Option<EnvironmentId>> {
    let id = query_scalar!(
        "select id from environment where org_id = $1 and project_id = $2 and kind = 'production'",
        project.org_id.0,
        project.project_id.0
    );
    Ok(id.fetch_optional(tx.conn()).await?)
}

/// Counts the environments of an organization. Other calls of this function for the organization wait until
/// the transaction ends.
pub(crate) async fn lock_and_count(tx: &mut Tx, org_id: OrgId) -> Result<i64> {
    // The second argument separates the advisory locks of environments (0), servers (1), project ids (2),
    // connections (3) and host names (24).
    query!("select pg_advisory_xact_lock(hashtextextended($1, 0))", org_id.to_string())
        .execute(tx.conn())
        .await?;
    let count = query_scalar!(
        r#"select count(*) as "count!" from environment where org_id = $1"#,
        org_id.0
    );
    Ok(count.fetch_one(tx.conn()).await?)
}
