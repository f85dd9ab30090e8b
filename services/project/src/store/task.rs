//! SQL statements about tasks.

use chassis::{Changed, Db, Error, OrgId, ProjectGrant, Result, Tx, page::Page};
use project_rules::{
    environment::Environment,
    runner::AuthenticatedRunner,
    task::{
        Task,
        lease::{LEASE_DURATION, LeaseRef},
    },
    types::{EnvironmentId, ServerId, TaskId},
};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;
use worker::queue::{COUNT_MAX, QueueState};

/// Number of log lines in the response of `GetTask`, the newest ones.
const LOG_LINES_MAX: i64 = 1_000;

/// Selects rows of tasks: the rest of the statement after `from task`, and its arguments.
macro_rules! tasks {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        query_as!(
            Task,
            "select id, org_id, project_id, environment_id, kind, state, progress_percent, current_step,
                    steps_completed, total_steps, error_message, triggered_by, cause, server_id, branch,
                    commit, modules, source_environment_id, deployment_id, retry_of, rolled_back,
                    cancel_requested, created_at, started_at, completed_at, lease_id, lease_ends_at, attempts,
                    commit_subject, commit_author, log_bytes, request_event_id
             from task " + $rest
            $(, $argument)*
        )
    };
}

pub(crate) use tasks;

/// Topic of new tasks for any shared server. The topic of new tasks for one server is its id.
pub(crate) const SHARED_SERVERS_TOPIC: Uuid = Uuid::nil();

/// Stores a new task with the event that requests it, and wakes the runners that wait for one.
pub(crate) async fn insert(tx: &mut Tx, task: &Task, request_event_id: Uuid) -> Result<()> {
    tx.publish(task.server_id.map_or(SHARED_SERVERS_TOPIC, |id| id.0));
    query!(
        "insert into task (id, org_id, project_id, environment_id, kind, state, triggered_by, cause,
             server_id, branch, commit, modules, source_environment_id, deployment_id, retry_of, created_at,
             request_event_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
        task.id as _,
        task.org_id as _,
        task.project_id as _,
        task.environment_id as _,
        task.kind as _,
        task.state as _,
        task.triggered_by as _,
        task.cause as _,
        task.server_id.map(|id| id.0),
        task.branch,
        task.commit,
        &task.modules,
        task.source_environment_id.map(|id| id.0),
        task.deployment_id.map(|id| id.0),
        task.retry_of.map(|id| id.0),
        task.created_at,
        request_event_id,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Stores the new state of a task.
pub(crate) async fn update(tx: &mut Tx, task: &Task) -> Result<()> {
    tx.publish(task.id.0);
    query!(
        "update task set state = $3, progress_percent = $4, current_step = $5, steps_completed = $6,
             total_steps = $7, error_message = $8, server_id = $9, commit = $10, cancel_requested = $11,
             started_at = $12, completed_at = $13, lease_id = $14, lease_ends_at = $15, attempts = $16,
             commit_subject = $17, commit_author = $18, log_bytes = $19
         where org_id = $1 and id = $2",
        task.org_id as _,
        task.id as _,
        task.state as _,
        task.progress_percent,
        task.current_step,
        task.steps_completed,
        task.total_steps,
        task.error_message,
        task.server_id.map(|id| id.0),
        task.commit,
        task.cancel_requested,
        task.started_at,
        task.completed_at,
        task.lease_id,
        task.lease_ends_at,
        task.attempts,
        task.commit_subject,
        task.commit_author,
        task.log_bytes,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Stores the new state of a task and its event.
pub(crate) async fn save(tx: &mut Tx, changed: Changed<Task>) -> Result<Task> {
    update(tx, changed.state()).await?;
    Ok(tx.emit(changed))
}

/// Returns the queued or running task of a locked environment, or the clone task of which it is the source.
pub(crate) async fn active(tx: &mut Tx, environment: &Environment) -> Result<Option<Task>> {
    let task = tasks!(
        "where org_id = $1 and state in ('queued', 'running')
           and (environment_id = $2 or (source_environment_id = $2 and kind = 'clone'))",
        environment.org_id.0,
        environment.id.0
    );
    Ok(task.fetch_optional(tx.conn()).await?)
}

/// Returns the oldest task that a runner may lease: it is queued, or its lease has ended. In a deleted or
/// blocked organization only tasks that end programs are leased. The task is not locked, because its
/// environment has to be locked first.
pub(crate) async fn next_leasable(
    tx: &mut Tx,
    runner: AuthenticatedRunner,
) -> Result<Option<Task>> {
    let now = tx.now;
    // Tasks of all organizations (no org_id): a shared server works for all of them; the tasks of another
    // server are those of its organization.
    let task = tasks!(
        "where (server_id = $1 or (server_id is null and $2))
           and (state = 'queued' or (state = 'running' and lease_ends_at <= $3))
           and (kind in ('stop', 'pause', 'destroy') or not exists (
               select from organization
               where organization.org_id = task.org_id and (deleted or blocked)))
         order by created_at limit 1",
        runner.server_id.0,
        runner.shared,
        now
    );
    Ok(task.fetch_optional(tx.conn()).await?)
}

/// Returns a task of a server, for a runner. The caller checks its lease.
pub(crate) async fn find(tx: &mut Tx, id: TaskId, server_id: ServerId) -> Result<Task> {
    // By id and server (no org_id): the requests of runners name no organization.
    let task = tasks!("where id = $1 and server_id = $2", id.0, server_id.0);
    task.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(TaskId::NOUN))
}

/// Locks a task against changes.
pub(crate) async fn lock(tx: &mut Tx, org_id: OrgId, id: TaskId) -> Result<Task> {
    let task = tasks!("where org_id = $1 and id = $2 for update", org_id.0, id.0);
    task.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(TaskId::NOUN))
}

/// A task whose lease was renewed.
pub(crate) struct RenewedLease {
    pub(crate) task_id: TaskId,
    pub(crate) cancel_requested: bool,
}

/// Renews the leases of a runner that have not ended, and returns their tasks.
pub(crate) async fn renew_leases(
    tx: &mut Tx,
    server_id: ServerId,
    leases: &[LeaseRef],
) -> Result<Vec<RenewedLease>> {
    let task_ids: Vec<_> = leases.iter().map(|it| it.task_id.0).collect();
    let lease_ids: Vec<_> = leases.iter().map(|it| it.lease_id).collect();
    let now = tx.now;
    // By lease (no org_id): the requests of runners name no organization.
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
        &task_ids,
        &lease_ids,
        now + LEASE_DURATION,
        now
    );
    let renewed = renewed.fetch_all(tx.conn()).await?;
    let renewed = renewed
        .into_iter()
        .map(|it| RenewedLease { task_id: it.id, cancel_requested: it.cancel_requested });
    Ok(renewed.collect())
}

/// Appends lines to the log of a locked task, up to its limit. The caller stores the task itself by
/// [`update`].
pub(crate) async fn append_log(tx: &mut Tx, task: &mut Task, lines: &[String]) -> Result<()> {
    let id = task.id;
    let lines = task.accept_log_lines(lines);
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

/// Batch of consecutive lines of a task's log.
pub(crate) struct Lines {
    pub(crate) first_line: i64,
    pub(crate) lines: Vec<String>,
}

/// Returns the batches of a task's log that have a line with at least this number, oldest first.
pub(crate) async fn lines_from(
    db: &Db,
    task: &Task,
    first_line: i64,
    limit: i64,
) -> Result<Vec<Lines>> {
    // The batch with the first line may begin before it.
    let lines = query_as!(
        Lines,
        "select first_line, lines from task_log
         where task_id = $1 and first_line >= coalesce(
             (select max(first_line) from task_log where task_id = $1 and first_line <= $2), 0)
         order by first_line limit $3",
        task.id.0,
        first_line,
        limit
    );
    Ok(lines.fetch_all(db.pool()).await?)
}

/// Returns a task.
pub(crate) async fn get(db: &Db, grant: &ProjectGrant, id: TaskId) -> Result<Task> {
    let task = tasks!(
        "where org_id = $1 and project_id = $2 and id = $3",
        grant.org_id().0,
        grant.project_id().0,
        id.0
    );
    task.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(TaskId::NOUN))
}

/// Returns the newest lines of a task's log, oldest first.
pub(crate) async fn log_lines(db: &Db, task: &Task) -> Result<Vec<String>> {
    let lines = query_scalar!(
        r#"select line as "line!" from task_log, unnest(lines) with ordinality as of (line, number)
           where task_id = $1 order by first_line desc, number desc limit $2"#,
        task.id.0,
        LOG_LINES_MAX
    );
    let mut lines = lines.fetch_all(db.pool()).await?;
    lines.reverse();
    Ok(lines)
}

/// Returns a page of the tasks of a project, newest first.
pub(crate) async fn list(db: &Db, grant: &ProjectGrant, page: &Page) -> Result<Vec<Task>> {
    let tasks = tasks!(
        "where org_id = $1 and project_id = $2
           and id < coalesce($3, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
         order by id desc limit $4",
        grant.org_id().0,
        grant.project_id().0,
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(tasks.fetch_all(db.pool()).await?)
}

/// Returns a page of the tasks of an environment, newest first.
pub(crate) async fn list_of_environment(
    db: &Db,
    grant: &ProjectGrant,
    environment_id: EnvironmentId,
    page: &Page,
) -> Result<Vec<Task>> {
    let tasks = tasks!(
        "where org_id = $1 and project_id = $2 and environment_id = $3
           and id < coalesce($4, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
         order by id desc limit $5",
        grant.org_id().0,
        grant.project_id().0,
        environment_id.0,
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(tasks.fetch_all(db.pool()).await?)
}

/// Returns the deployment that a rollback restores: the completed deployment with this id, or the newest
/// one before the current release. Deployments that were rolled back are skipped.
pub(crate) async fn earlier_deployment(
    tx: &mut Tx,
    environment: &Environment,
    id: Option<TaskId>,
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
        id.map(|it| it.0),
    );
    Ok(task.fetch_optional(tx.conn()).await?)
}

/// Marks a deployment as replaced by a rollback (PE-33).
pub(crate) async fn mark_rolled_back(tx: &mut Tx, org_id: OrgId, id: TaskId) -> Result<()> {
    query!("update task set rolled_back = true where org_id = $1 and id = $2", org_id.0, id.0)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Returns the id of the newest deployment of an environment, in any state.
pub(crate) async fn last_deployment_id(
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

/// Returns the state of the queue of tasks that no runner has taken, for operators.
pub(crate) async fn queue(db: Db) -> Result<QueueState> {
    // Of all organizations (no org_id): only a number and a time.
    let state = query!(
        r#"with waiting as (select created_at from task where state = 'queued' limit $1)
           select count(*) as "waiting!", min(created_at) as oldest_at from waiting"#,
        COUNT_MAX
    );
    let state = state.fetch_one(db.pool()).await?;
    Ok(QueueState { waiting: state.waiting, oldest_at: state.oldest_at })
}
