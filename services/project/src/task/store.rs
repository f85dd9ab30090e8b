//! Every SQL statement about tasks.

use chassis::{Changed, Db, Error, OrgId, ProjectGrant, Result, Tx, page::Page};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::{Task, TaskId, lease::LEASE};
use crate::{
    environment::{Environment, EnvironmentId},
    server::{Agent, ServerId},
};

/// Lines of its log that an answer shows, the newest ones.
const LOG_MAX: i64 = 1_000;

/// Selects whole tasks: the rest of the statement after `from task`, and its arguments.
macro_rules! tasks {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        query_as!(
            Task,
            "select id, org_id, project_id, environment_id, kind, state, progress_percent, current_step,
                    steps_completed, total_steps, error_message, triggered_by, cause, server_id, branch,
                    commit,
                    modules, source_environment_id, deployment_id, retry_of, rolled_back, cancel_requested,
                    created_at, started_at, completed_at, lease_id, lease_ends_at, attempts, commit_subject,
                    commit_author, log_bytes
             from task " + $rest
            $(, $argument)*
        )
    };
}

pub(crate) use tasks;

/// Topic of tasks that wait for any shared server; those of one server have its id as topic.
pub(crate) const ANY_SERVER: Uuid = Uuid::nil();

/// Stores a new task and wakes the runners that wait for one.
pub(crate) async fn insert(tx: &mut Tx, it: &Task) -> Result<()> {
    tx.publish(it.server_id.map_or(ANY_SERVER, |it| it.0));
    query!(
        "insert into task (id, org_id, project_id, environment_id, kind, state, triggered_by, cause,
            server_id,
             branch, commit, modules, source_environment_id, deployment_id, retry_of, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
        it.id as _,
        it.org_id as _,
        it.project_id as _,
        it.environment_id as _,
        it.kind as _,
        it.state as _,
        it.triggered_by as _,
        it.cause as _,
        it.server_id.map(|it| it.0),
        it.branch,
        it.commit,
        &it.modules,
        it.source_environment_id.map(|it| it.0),
        it.deployment_id.map(|it| it.0),
        it.retry_of.map(|it| it.0),
        it.created_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Stores a task as it is now.
pub(crate) async fn update(tx: &mut Tx, it: &Task) -> Result<()> {
    tx.publish(it.id.0);
    query!(
        "update task set state = $3, progress_percent = $4, current_step = $5, steps_completed = $6,
             total_steps = $7, error_message = $8, server_id = $9, commit = $10, cancel_requested = $11,
             started_at = $12, completed_at = $13, lease_id = $14, lease_ends_at = $15, attempts = $16,
             commit_subject = $17, commit_author = $18, log_bytes = $19
         where org_id = $1 and id = $2",
        it.org_id as _,
        it.id as _,
        it.state as _,
        it.progress_percent,
        it.current_step,
        it.steps_completed,
        it.total_steps,
        it.error_message,
        it.server_id.map(|it| it.0),
        it.commit,
        it.cancel_requested,
        it.started_at,
        it.completed_at,
        it.lease_id,
        it.lease_ends_at,
        it.attempts,
        it.commit_subject,
        it.commit_author,
        it.log_bytes,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Stores a task as it is now, and its event.
pub(crate) async fn save(tx: &mut Tx, changed: Changed<Task>) -> Result<Task> {
    update(tx, changed.state()).await?;
    Ok(tx.emit(changed))
}

/// The task that is queued or running in a locked environment, or that copies it.
pub(crate) async fn active(tx: &mut Tx, environment: &Environment) -> Result<Option<Task>> {
    let task = tasks!(
        "where org_id = $1 and state in ('queued', 'running')
           and (environment_id = $2 or (source_environment_id = $2 and kind = 'clone'))",
        environment.org_id.0,
        environment.id.0
    );
    Ok(task.fetch_optional(tx.conn()).await?)
}

/// The task that waits longest for this server, if one waits or its runner went silent; in an organization
/// that is deleted or blocked only one that ends something. Locks nothing: the environment is locked before
/// its tasks, here as everywhere.
pub(crate) async fn waiting(tx: &mut Tx, agent: &Agent) -> Result<Option<Task>> {
    let now = tx.now;
    // Of every tenant (no org_id): a shared server works for all of them, another one only has its own.
    let task = tasks!(
        "where (server_id = $1 or (server_id is null and $2))
           and (state = 'queued' or (state = 'running' and lease_ends_at <= $3))
           and (kind in ('stop', 'pause', 'destroy') or not exists (
               select from organization
               where organization.org_id = task.org_id and (deleted or blocked)))
         order by created_at limit 1",
        agent.server_id.0,
        agent.shared,
        now
    );
    Ok(task.fetch_optional(tx.conn()).await?)
}

/// A task of this server. The runner's lease, checked next, is the proof that it may know.
pub(crate) async fn find(tx: &mut Tx, id: TaskId, server_id: ServerId) -> Result<Task> {
    // By id and server (no org_id): a runner knows no tenants.
    let task = tasks!("where id = $1 and server_id = $2", id.0, server_id.0);
    task.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(TaskId::NOUN))
}

/// Loads a task and keeps others from changing it.
pub(crate) async fn lock(tx: &mut Tx, org_id: OrgId, id: TaskId) -> Result<Task> {
    let task = tasks!("where org_id = $1 and id = $2 for update", org_id.0, id.0);
    task.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(TaskId::NOUN))
}

/// Renews the leases that a runner still holds. Answers which tasks those are, and whether each is to end.
pub(crate) async fn renew(
    tx: &mut Tx,
    server_id: ServerId,
    held: &[(Uuid, Uuid)],
) -> Result<Vec<(Uuid, bool)>> {
    let (tasks, leases): (Vec<_>, Vec<_>) = held.iter().copied().unzip();
    let now = tx.now;
    // By lease (no org_id): a runner knows no tenants.
    let renewed = query!(
        "with renewed as (
             select task.id from task
             join unnest($2::uuid[], $3::uuid[]) as held (id, lease_id) using (id, lease_id)
             where task.server_id = $1 and task.state = 'running' and task.lease_ends_at > $5
             order by task.id for update of task
         )
         update task set lease_ends_at = $4 from renewed where task.id = renewed.id
         returning task.id, task.cancel_requested",
        server_id.0,
        &tasks,
        &leases,
        now + LEASE,
        now
    );
    let renewed = renewed.fetch_all(tx.conn()).await?;
    Ok(renewed.into_iter().map(|it| (it.id.0, it.cancel_requested)).collect())
}

/// Adds lines to the log of a locked task, as far as its limit allows. The task itself is stored by
/// [`update`].
pub(crate) async fn log(tx: &mut Tx, task: &mut Task, lines: &[String]) -> Result<()> {
    let (id, lines) = (task.id, task.take_lines(lines));
    if lines.is_empty() {
        return Ok(());
    }
    tx.publish(id.0);
    query!(
        "insert into task_log (task_id, first_line, lines)
         select $1, coalesce((select first_line + cardinality(lines) from task_log where task_id = $1
                              order by first_line desc limit 1), 0), $2",
        id.0,
        &lines
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Lines of a task's log.
pub(crate) struct Lines {
    pub(crate) first_line: i64,
    pub(crate) lines: Vec<String>,
}

/// The batches of a task's log that have lines from this one on, so many at most, oldest first.
pub(crate) async fn lines_from(
    db: &Db,
    task: &Task,
    line: i64,
    batches: i64,
) -> Result<Vec<Lines>> {
    // The batch that has the line begins at or before it.
    let lines = query_as!(
        Lines,
        "select first_line, lines from task_log
         where task_id = $1 and first_line >= coalesce(
             (select max(first_line) from task_log where task_id = $1 and first_line <= $2), 0)
         order by first_line limit $3",
        task.id.0,
        line,
        batches
    );
    Ok(lines.fetch_all(db.pool()).await?)
}

/// One task.
pub(crate) async fn get(db: &Db, grant: &ProjectGrant, id: TaskId) -> Result<Task> {
    let task = tasks!(
        "where org_id = $1 and project_id = $2 and id = $3",
        grant.org_id().0,
        grant.project_id().0,
        id.0
    );
    task.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(TaskId::NOUN))
}

/// The newest lines of a task's log, oldest first.
pub(crate) async fn log_lines(db: &Db, task: &Task) -> Result<Vec<String>> {
    let lines = query_scalar!(
        r#"select line as "line!" from task_log, unnest(lines) with ordinality as of (line, number)
           where task_id = $1 order by first_line desc, number desc limit $2"#,
        task.id.0,
        LOG_MAX
    );
    let mut lines = lines.fetch_all(db.pool()).await?;
    lines.reverse();
    Ok(lines)
}

/// A page of the tasks of an environment, or of a whole project, newest first.
pub(crate) async fn list(
    db: &Db,
    grant: &ProjectGrant,
    environment_id: Option<EnvironmentId>,
    page: &Page,
) -> Result<Vec<Task>> {
    let tasks = tasks!(
        "where org_id = $1 and project_id = $2 and ($3::uuid is null or environment_id = $3)
           and ($4::uuid is null or id < $4)
         order by id desc limit $5",
        grant.org_id().0,
        grant.project_id().0,
        environment_id.map(|it| it.0),
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(tasks.fetch_all(db.pool()).await?)
}

/// A good deployment of an environment to go back to: this one, or the newest that serves something else than
/// what is there.
pub(crate) async fn earlier(
    tx: &mut Tx,
    environment: &Environment,
    wanted: Option<TaskId>,
) -> Result<Option<Task>> {
    let task = tasks!(
        "where org_id = $1 and environment_id = $2 and state = 'completed'
           and kind in ('deploy', 'promote', 'clone') and not rolled_back
           and id is distinct from $3::uuid and ($4::uuid is null or id = $4)
           and ($3::uuid is null or id < $3 or $4 is not null)
         order by id desc limit 1",
        environment.org_id.0,
        environment.id.0,
        environment.deployment_id.map(|it| it.0),
        wanted.map(|it| it.0),
    );
    Ok(task.fetch_optional(tx.conn()).await?)
}

/// Marks a deployment as replaced by a rollback (PE-33).
pub(crate) async fn rolled_back(tx: &mut Tx, org_id: OrgId, id: TaskId) -> Result<()> {
    query!("update task set rolled_back = true where org_id = $1 and id = $2", org_id.0, id.0)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// The last deployment of an environment, whatever became of it.
pub(crate) async fn last_deployment(
    db: &Db,
    grant: &ProjectGrant,
    id: EnvironmentId,
) -> Result<Option<TaskId>> {
    let id = query_scalar!(
        "select id from task where org_id = $1 and environment_id = $2
           and kind in ('deploy', 'rollback', 'promote') order by id desc limit 1",
        grant.org_id().0,
        id.0
    );
    Ok(id.fetch_optional(db.pool()).await?)
}
