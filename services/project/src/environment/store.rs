//! Every SQL statement about environments.

use chassis::{Changed, Db, Error, OrgId, ProjectGrant, ProjectId, Result, Tx, page::Page};
use sqlx::{PgConnection, query, query_as, query_scalar};
use uuid::Uuid;

use super::{Environment, EnvironmentId, Refused, State};
use crate::{
    project::{Project, production::Facts},
    server::ServerId,
    task::{self, Order, Task},
};

/// Selects whole environments: the rest of the statement after `from environment`, and its arguments.
macro_rules! environments {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        query_as!(
            Environment,
            "select id, org_id, project_id, name, kind, state, stable_state, pause_reason, resumes, branch,
                commit,
                    url, last_error, auto_deploy, server_id, cpu_millis, memory_mb, disk_gb, deployment_id,
                    version,
                    created_at, updated_at
             from environment " + $rest
            $(, $argument)*
        )
    };
}

/// The names of a project's environments.
pub(crate) async fn names(tx: &mut Tx, project: &Project) -> Result<Vec<String>> {
    let names = query_scalar!(
        "select name from environment where org_id = $1 and project_id = $2",
        project.org_id.0,
        project.id.0
    );
    Ok(names.fetch_all(tx.conn()).await?)
}

/// Stores a new environment and its event.
pub(crate) async fn insert(tx: &mut Tx, created: Changed<Environment>) -> Result<Environment> {
    let it = created.state();
    query!(
        "insert into environment (id, org_id, project_id, name, kind, state, stable_state, branch,
            auto_deploy,
             server_id, cpu_millis, memory_mb, disk_gb, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        it.id as _,
        it.org_id as _,
        it.project_id as _,
        it.name,
        it.kind as _,
        it.state as _,
        it.stable_state as _,
        it.branch,
        it.auto_deploy,
        it.server_id.map(|it| it.0),
        it.cpu_millis,
        it.memory_mb,
        it.disk_gb,
        it.created_at,
        it.updated_at,
    )
    .execute(tx.conn())
    .await
    .map_err(taken)?;
    Ok(tx.emit(created))
}

/// The rule behind a constraint.
fn taken(error: sqlx::Error) -> Error {
    let name = error.as_database_error().and_then(|it| it.constraint().map(str::to_owned));
    match name.as_deref() {
        Some("environment_production") => Refused::ProductionExists.into(),
        Some("environment_name") => Refused::NameTaken.into(),
        _ => error.into(),
    }
}

/// Loads an environment and keeps others from changing it or its tasks.
pub(crate) async fn lock(
    tx: &mut Tx,
    (org_id, project_id): (OrgId, ProjectId),
    id: EnvironmentId,
) -> Result<Environment> {
    let environment = environments!(
        "where org_id = $1 and project_id = $2 and id = $3 for update",
        org_id.0,
        project_id.0,
        id.0
    );
    environment.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(EnvironmentId::NOUN))
}

/// The environments of a project that follow a branch, locked by id.
pub(crate) async fn lock_following(
    tx: &mut Tx,
    (org_id, project_id): (OrgId, ProjectId),
    branch: &str,
) -> Result<Vec<Environment>> {
    let environments = environments!(
        "where org_id = $1 and project_id = $2 and branch = $3 and auto_deploy
         order by id for update",
        org_id.0,
        project_id.0,
        branch
    );
    Ok(environments.fetch_all(tx.conn()).await?)
}

/// Every environment of an organization, locked by id.
pub(crate) async fn lock_of_organization(tx: &mut Tx, org_id: OrgId) -> Result<Vec<Environment>> {
    let environments = environments!("where org_id = $1 order by id for update", org_id.0);
    Ok(environments.fetch_all(tx.conn()).await?)
}

/// Facts about a task of an environment that decide whether it concerns PRODUCTION.
pub(crate) async fn production_facts(
    conn: &mut PgConnection,
    at: &Environment,
    order: &Order,
) -> Result<Facts> {
    let source = order.source_environment_id.filter(|_| order.kind == task::Kind::Clone);
    let facts = query_as!(
        Facts,
        r#"select exists (select from environment
                          where org_id = $1 and id = $3::uuid and kind = 'production')
                   as "copies_production!",
                  exists (select from environment
                          where org_id = $1 and id = $2 and configured_at > coalesce(
                              (select max(started_at) from task
                               where org_id = $1 and environment_id = $2 and state = 'completed'
                                 and kind in ('deploy', 'start', 'restart', 'rollback', 'promote', 'clone')),
                              '-infinity')) as "is_reconfigured!""#,
        at.org_id.0,
        at.id.0,
        source.map(|it| it.0)
    );
    Ok(facts.fetch_one(conn).await?)
}

/// Loads an environment as it is.
pub(crate) async fn load(
    tx: &mut Tx,
    (org_id, project_id): (OrgId, ProjectId),
    id: EnvironmentId,
) -> Result<Environment> {
    let environment = environments!(
        "where org_id = $1 and project_id = $2 and id = $3",
        org_id.0,
        project_id.0,
        id.0
    );
    environment.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(EnvironmentId::NOUN))
}

async fn write(tx: &mut Tx, it: &Environment) -> Result<()> {
    query!(
        "update environment set name = $3, state = $4, stable_state = $5, pause_reason = $6, resumes = $7,
             branch = $8, commit = $9, url = $10, last_error = $11, auto_deploy = $12, server_id = $13,
             cpu_millis = $14, memory_mb = $15, disk_gb = $16, deployment_id = $17, updated_at = $18,
             version = version + 1
         where org_id = $1 and id = $2",
        it.org_id as _,
        it.id as _,
        it.name,
        it.state as _,
        it.stable_state as _,
        it.pause_reason as _,
        it.resumes,
        it.branch,
        it.commit,
        it.url,
        it.last_error,
        it.auto_deploy,
        it.server_id.map(|it| it.0),
        it.cpu_millis,
        it.memory_mb,
        it.disk_gb,
        it.deployment_id.map(|it| it.0),
        it.updated_at,
    )
    .execute(tx.conn())
    .await
    .map_err(taken)?;
    Ok(())
}

/// Stores an environment as it is now, and its event.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<Environment>) -> Result<Environment> {
    write(tx, changed.state()).await?;
    let mut it = tx.emit(changed);
    it.version += 1;
    Ok(it)
}

/// Stores an environment with its new task, and their event.
pub(crate) async fn begin(
    tx: &mut Tx,
    begun: Changed<(Environment, Task)>,
) -> Result<(Environment, Task)> {
    let (it, task) = begun.state();
    write(tx, it).await?;
    task::store::insert(tx, task).await.map_err(|error| match error {
        // Two that begin at once lock the same row; only a copy of the same source can still collide.
        Error::Database(error)
            if error
                .as_database_error()
                .is_some_and(sqlx::error::DatabaseError::is_unique_violation) =>
        {
            Refused::TaskInProgress("a copy of the same source".to_owned()).into()
        }
        other => other,
    })?;
    let (mut it, task) = tx.emit(begun);
    it.version += 1;
    Ok((it, task))
}

/// Stores an environment at the end of its task, and their event. What is DELETED goes.
pub(crate) async fn end(tx: &mut Tx, ended: Changed<(Environment, Task)>) -> Result<Task> {
    let (it, task) = ended.state();
    task::store::update(tx, task).await?;
    if it.state == State::Deleted {
        delete(tx, it).await?;
    } else {
        write(tx, it).await?;
    }
    Ok(tx.emit(ended).1)
}

/// Deletes an environment whose record is dropped, and stores its event.
pub(crate) async fn remove(tx: &mut Tx, dropped: Changed<Environment>) -> Result<()> {
    delete(tx, dropped.state()).await?;
    Ok(tx.emit(dropped)).map(|_| ())
}

async fn delete(tx: &mut Tx, it: &Environment) -> Result<()> {
    // Under the environment, which is of the tenant (no org_id).
    query!("delete from environment_report where environment_id = $1", it.id.0)
        .execute(tx.conn())
        .await?;
    query!("delete from environment where org_id = $1 and id = $2", it.org_id.0, it.id.0)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Puts an environment on a server.
pub(crate) async fn place(tx: &mut Tx, it: &Environment, server_id: ServerId) -> Result<()> {
    query!(
        "update environment set server_id = $3 where org_id = $1 and id = $2",
        it.org_id.0,
        it.id.0,
        server_id.0
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// An environment stands still while it is copied.
pub(crate) async fn hold(tx: &mut Tx, it: &Environment) -> Result<()> {
    query!(
        "update environment set stable_state = state, state = 'cloning', version = version + 1
         where org_id = $1 and id = $2",
        it.org_id.0,
        it.id.0
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// An environment that was copied is as it was before.
pub(crate) async fn let_go(tx: &mut Tx, task: &Task) -> Result<()> {
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

/// One environment.
pub(crate) async fn get(db: &Db, grant: &ProjectGrant, id: EnvironmentId) -> Result<Environment> {
    let environment = environments!(
        "where org_id = $1 and project_id = $2 and id = $3",
        grant.org_id().0,
        grant.project_id().0,
        id.0
    );
    environment.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(EnvironmentId::NOUN))
}

/// A page of the environments of a project.
pub(crate) async fn list(db: &Db, grant: &ProjectGrant, page: &Page) -> Result<Vec<Environment>> {
    let environments = environments!(
        "where org_id = $1 and project_id = $2 and ($3::uuid is null or id > $3) order by id limit $4",
        grant.org_id().0,
        grant.project_id().0,
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(environments.fetch_all(db.pool()).await?)
}

/// Every environment of a project, to look at.
pub(crate) async fn of_project(db: &Db, grant: &ProjectGrant) -> Result<Vec<Environment>> {
    let environments = environments!(
        "where org_id = $1 and project_id = $2 order by id",
        grant.org_id().0,
        grant.project_id().0
    );
    Ok(environments.fetch_all(db.pool()).await?)
}

/// Every environment of a project; a plan, or a machine, has only so many.
pub(crate) async fn all(
    tx: &mut Tx,
    (org_id, project_id): (OrgId, ProjectId),
) -> Result<Vec<Environment>> {
    let environments = environments!(
        "where org_id = $1 and project_id = $2 order by id for update",
        org_id.0,
        project_id.0
    );
    Ok(environments.fetch_all(tx.conn()).await?)
}

/// The production environment of a project.
pub(crate) async fn production(
    tx: &mut Tx,
    (org_id, project_id): (OrgId, ProjectId),
) -> Result<Option<EnvironmentId>> {
    let id = query_scalar!(
        "select id from environment where org_id = $1 and project_id = $2 and kind = 'production'",
        org_id.0,
        project_id.0
    );
    Ok(id.fetch_optional(tx.conn()).await?)
}

/// How many environments an organization has. Until the transaction ends, nobody else counts them.
pub(crate) async fn count(tx: &mut Tx, org_id: OrgId) -> Result<i64> {
    query!("select pg_advisory_xact_lock(hashtextextended($1, 0))", org_id.to_string())
        .execute(tx.conn())
        .await?;
    let count = query_scalar!(
        r#"select count(*) as "count!" from environment where org_id = $1"#,
        org_id.0
    );
    Ok(count.fetch_one(tx.conn()).await?)
}
