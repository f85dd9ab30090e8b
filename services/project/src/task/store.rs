//! Every SQL statement about tasks.

use chassis::{Changed, Db, Error, OrgId, ProjectGrant, ProjectId, Result, Tx, page::Page};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::{Task, TaskId};
use crate::environment::{Environment, EnvironmentId};

/// Lines of its log that an answer shows, the newest ones.
const LOG_MAX: i64 = 1_000;

/// Stores a task as it is now.
pub(crate) async fn upsert(tx: &mut Tx, it: &Task) -> Result<()> {
    query!(
        "insert into task (id, org_id, project_id, environment_id, state, progress_percent, current_step,
             error_message, triggered_by, created_at, started_at, completed_at, lease_id, lease_ends_at,
             attempts, kind)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
         on conflict (org_id, id) do update set
             state = excluded.state, progress_percent = excluded.progress_percent,
             current_step = excluded.current_step, error_message = excluded.error_message,
             started_at = excluded.started_at, completed_at = excluded.completed_at,
             lease_id = excluded.lease_id, lease_ends_at = excluded.lease_ends_at,
             attempts = excluded.attempts",
        it.id as _,
        it.org_id as _,
        it.project_id as _,
        it.environment_id as _,
        it.state as _,
        it.progress_percent,
        it.current_step,
        it.error_message,
        it.triggered_by as _,
        it.created_at,
        it.started_at,
        it.completed_at,
        it.lease_id,
        it.lease_ends_at,
        it.attempts,
        it.kind as _,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Stores a task as it is now, and its event.
pub(crate) async fn save(tx: &mut Tx, changed: Changed<Task>) -> Result<Task> {
    upsert(tx, changed.state()).await?;
    tx.emit(changed).await
}

/// The task that is queued or running in a locked environment.
pub(crate) async fn active(tx: &mut Tx, environment: &Environment) -> Result<Option<Task>> {
    let task = query_as!(
        Task,
        "select id, org_id, project_id, environment_id, kind, state, progress_percent, current_step,
                error_message, triggered_by, created_at, started_at, completed_at, lease_id, lease_ends_at,
                attempts
         from task where org_id = $1 and environment_id = $2 and state in ('queued', 'running')",
        environment.org_id.0,
        environment.id.0
    );
    Ok(task.fetch_optional(tx.conn()).await?)
}

/// Where the task that waits longest is, if one waits or its runner went silent. Locks nothing: the
/// environment is locked before its tasks, here as everywhere.
pub(crate) async fn waiting(tx: &mut Tx) -> Result<Option<(OrgId, ProjectId, EnvironmentId)>> {
    let now = tx.now;
    // Of every tenant (no org_id): a runner works for all of them.
    let place = query!(
        "select org_id, project_id, environment_id from task
         where state = 'queued' or (state = 'running' and lease_ends_at <= $1)
         order by created_at limit 1",
        now
    );
    let place = place.fetch_optional(tx.conn()).await?;
    Ok(place.map(|it| (it.org_id, it.project_id, it.environment_id)))
}

/// Where a task is. The runner's lease, checked next, is the proof that it may know.
pub(crate) async fn place(tx: &mut Tx, id: TaskId) -> Result<(OrgId, ProjectId, EnvironmentId)> {
    // By id alone (no org_id): a runner knows no tenants.
    let place = query!("select org_id, project_id, environment_id from task where id = $1", id.0);
    let place = place.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(TaskId::NOUN))?;
    Ok((place.org_id, place.project_id, place.environment_id))
}

/// Loads a task and keeps others from changing it.
pub(crate) async fn lock(tx: &mut Tx, org_id: OrgId, id: TaskId) -> Result<Task> {
    let task = query_as!(
        Task,
        "select id, org_id, project_id, environment_id, kind, state, progress_percent, current_step,
                error_message, triggered_by, created_at, started_at, completed_at, lease_id, lease_ends_at,
                attempts
         from task where org_id = $1 and id = $2 for update",
        org_id.0,
        id.0
    );
    task.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(TaskId::NOUN))
}

/// What a runner needs to know of an environment's project.
pub(crate) async fn repository(tx: &mut Tx, org_id: OrgId, id: ProjectId) -> Result<String> {
    let url = query_scalar!(
        "select repository_url from project where org_id = $1 and id = $2",
        org_id.0,
        id.0
    );
    Ok(url.fetch_one(tx.conn()).await?)
}

/// Adds lines to a task's log.
pub(crate) async fn log(tx: &mut Tx, id: TaskId, lines: &[String]) -> Result<()> {
    query!("insert into task_log (task_id, line) select $1, unnest($2::text[])", id.0, lines)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// One task.
pub(crate) async fn get(db: &Db, grant: &ProjectGrant, id: TaskId) -> Result<Task> {
    let task = query_as!(
        Task,
        "select id, org_id, project_id, environment_id, kind, state, progress_percent, current_step,
                error_message, triggered_by, created_at, started_at, completed_at, lease_id, lease_ends_at,
                attempts
         from task where org_id = $1 and project_id = $2 and id = $3",
        grant.org_id().0,
        grant.project_id().0,
        id.0
    );
    task.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(TaskId::NOUN))
}

/// The newest lines of a task's log, oldest first.
pub(crate) async fn log_lines(db: &Db, task: &Task) -> Result<Vec<String>> {
    let lines = query_scalar!(
        "select line from task_log where task_id = $1 order by position desc limit $2",
        task.id.0,
        LOG_MAX
    );
    let mut lines = lines.fetch_all(db.pool()).await?;
    lines.reverse();
    Ok(lines)
}

/// A page of the tasks of an environment, newest first.
pub(crate) async fn list(
    db: &Db,
    grant: &ProjectGrant,
    environment_id: EnvironmentId,
    page: &Page,
) -> Result<Vec<Task>> {
    let tasks = query_as!(
        Task,
        "select id, org_id, project_id, environment_id, kind, state, progress_percent, current_step,
                error_message, triggered_by, created_at, started_at, completed_at, lease_id, lease_ends_at,
                attempts
         from task
         where org_id = $1 and project_id = $2 and environment_id = $3 and ($4::uuid is null or id < $4)
         order by id desc limit $5",
        grant.org_id().0,
        grant.project_id().0,
        environment_id.0,
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(tasks.fetch_all(db.pool()).await?)
}
