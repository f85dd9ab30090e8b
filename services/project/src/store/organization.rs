//! SQL statements about the status of organizations, and about everything that an organization has here.

use chassis::{Db, OrgId, Result, Tx};
use project_rules::organization::Status;
use sqlx::{query, query_as, query_scalar};

/// Stores the status of an organization at a revision, unless a newer revision is stored: events of an
/// organization may arrive in another order. Returns true if it was stored.
pub(crate) async fn set_status(
    tx: &mut Tx,
    org_id: OrgId,
    revision: i64,
    status: Status,
) -> Result<bool> {
    let deleted = status == Status::Deleted;
    let blocked = status == Status::Blocked;
    let stored = query!(
        "insert into organization (org_id, revision, deleted, blocked) values ($1, $2, $3, $4)
         on conflict (org_id) do update
             set revision = excluded.revision, deleted = excluded.deleted, blocked = excluded.blocked
         where organization.revision < excluded.revision",
        org_id.0,
        revision,
        deleted,
        blocked
    );
    Ok(stored.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Returns the status that identity's events last reported; active if there was none.
pub(crate) async fn status(tx: &mut Tx, org_id: OrgId) -> Result<Status> {
    let row = query!("select deleted, blocked from organization where org_id = $1", org_id.0);
    let row = row.fetch_optional(tx.conn()).await?;
    Ok(row.map_or(Status::Active, |it| Status::from_flags(it.deleted, it.blocked)))
}

/// Deletes everything that an organization has here. The rows are locked first, in the order of every
/// operation: environments, tasks, projects, servers, connections.
pub(crate) async fn purge(tx: &mut Tx, org_id: OrgId) -> Result<()> {
    query!("select id from environment where org_id = $1 order by id for update", org_id.0)
        .fetch_all(tx.conn())
        .await?;
    query!("select id from task where org_id = $1 order by id for update", org_id.0)
        .fetch_all(tx.conn())
        .await?;
    query!("select id from project where org_id = $1 order by id for update", org_id.0)
        .fetch_all(tx.conn())
        .await?;
    query!("select id from server where org_id = $1 order by id for update", org_id.0)
        .fetch_all(tx.conn())
        .await?;
    query!(
        "delete from task_log using task where task.id = task_log.task_id and task.org_id = $1",
        org_id.0
    )
    .execute(tx.conn())
    .await?;
    query!("delete from task where org_id = $1", org_id.0).execute(tx.conn()).await?;
    query!(
        "with minute as (
             delete from metric_minute using environment
             where environment.id = metric_minute.environment_id and environment.org_id = $1)
         delete from metric_hour using environment
         where environment.id = metric_hour.environment_id and environment.org_id = $1",
        org_id.0
    )
    .execute(tx.conn())
    .await?;
    query!(
        "delete from environment_report using environment
         where environment.id = environment_report.environment_id and environment.org_id = $1",
        org_id.0
    )
    .execute(tx.conn())
    .await?;
    query!("delete from alert where org_id = $1", org_id.0).execute(tx.conn()).await?;
    // Files that are left on a server are deleted after the next heartbeat of its runner, which reports the
    // environment and learns that it does not exist.
    query!("delete from environment where org_id = $1", org_id.0).execute(tx.conn()).await?;
    query!("delete from addon where org_id = $1", org_id.0).execute(tx.conn()).await?;
    query!("delete from project where org_id = $1", org_id.0).execute(tx.conn()).await?;
    query!("delete from server where org_id = $1", org_id.0).execute(tx.conn()).await?;
    // Records on the DNS servers of the organization stay there: without the connection nobody may remove
    // them.
    query!("delete from dns_record where org_id = $1", org_id.0).execute(tx.conn()).await?;
    query!("delete from dns_connection where org_id = $1", org_id.0).execute(tx.conn()).await?;
    query!("delete from git_connection where org_id = $1", org_id.0).execute(tx.conn()).await?;
    query!("delete from storage_connection_use where org_id = $1", org_id.0)
        .execute(tx.conn())
        .await?;
    query!("delete from storage_connection where org_id = $1", org_id.0).execute(tx.conn()).await?;
    query!("delete from git_deploy_key where org_id = $1", org_id.0).execute(tx.conn()).await?;
    query!("delete from project_registration where org_id = $1", org_id.0)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Numbers of projects, environments and servers of an organization.
pub(crate) struct ResourceCounts {
    pub(crate) projects: i64,
    pub(crate) environments: i64,
    /// Environments that are RUNNING, DEPLOYING, CLONING or PAUSED, or serve although their last task failed.
    pub(crate) running: i64,
    pub(crate) servers: i64,
}

/// Counts the projects, environments and servers of an organization.
pub(crate) async fn count_resources(db: &Db, org_id: OrgId) -> Result<ResourceCounts> {
    let counts = query_as!(
        ResourceCounts,
        r#"select (select count(*) from project where org_id = $1) as "projects!",
                  (select count(*) from server where org_id = $1) as "servers!",
                  count(*) as "environments!",
                  count(*) filter (where state in ('running', 'deploying', 'cloning', 'paused')
                                      or (state = 'error' and observed = 'running')) as "running!"
           from environment where org_id = $1"#,
        org_id.0
    );
    Ok(counts.fetch_one(db.pool()).await?)
}

/// Returns the names of at most 100 environments that [`ResourceCounts::running`] counts.
pub(crate) async fn running_names(db: &Db, org_id: OrgId) -> Result<Vec<String>> {
    let names = query_scalar!(
        "select name from environment
         where org_id = $1 and (state in ('running', 'deploying', 'cloning', 'paused')
             or (state = 'error' and observed = 'running')) order by id limit 100",
        org_id.0
    );
    Ok(names.fetch_all(db.pool()).await?)
}
