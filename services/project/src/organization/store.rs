//! Every SQL statement about organizations, as far as this service knows of them.

use chassis::{Db, OrgId, Result, Tx};
use sqlx::{query, query_scalar};

use super::Standing;

/// Notes the standing of an organization at a revision; `false` if a newer one is known already.
pub(crate) async fn advance(
    tx: &mut Tx,
    org_id: OrgId,
    revision: i64,
    standing: Standing,
) -> Result<bool> {
    let (deleted, blocked) = (standing == Standing::Deleted, standing == Standing::Blocked);
    let advanced = query!(
        "insert into organization (org_id, revision, deleted, blocked) values ($1, $2, $3, $4)
         on conflict (org_id) do update
             set revision = excluded.revision, deleted = excluded.deleted, blocked = excluded.blocked
         where organization.revision < excluded.revision",
        org_id.0,
        revision,
        deleted,
        blocked
    );
    Ok(advanced.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Standing of an organization, as far as identity's events have reported it.
pub(crate) async fn standing(tx: &mut Tx, org_id: OrgId) -> Result<Standing> {
    let row = query!("select deleted, blocked from organization where org_id = $1", org_id.0);
    let row = row.fetch_optional(tx.conn()).await?;
    Ok(row.map_or(Standing::Good, |it| Standing::of(it.deleted, it.blocked)))
}

/// Deletes everything of an organization. Locks first, in the order of all operations.
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
        "delete from environment_report using environment
         where environment.id = environment_report.environment_id and environment.org_id = $1",
        org_id.0
    )
    .execute(tx.conn())
    .await?;
    // Whatever still lies on a server goes when its runner next says so.
    query!("delete from environment where org_id = $1", org_id.0).execute(tx.conn()).await?;
    query!("delete from attachment where org_id = $1", org_id.0).execute(tx.conn()).await?;
    query!("delete from project where org_id = $1", org_id.0).execute(tx.conn()).await?;
    query!("delete from server where org_id = $1", org_id.0).execute(tx.conn()).await?;
    Ok(())
}

/// How much an organization has.
pub(crate) struct Holdings {
    pub(crate) projects: i64,
    pub(crate) environments: i64,
    pub(crate) running: i64,
}

/// How much an organization has.
pub(crate) async fn holdings(db: &Db, org_id: OrgId) -> Result<Holdings> {
    let holdings = sqlx::query_as!(
        Holdings,
        r#"select (select count(*) from project where org_id = $1) as "projects!",
                  count(*) as "environments!",
                  count(*) filter (where state in ('running', 'deploying', 'cloning', 'paused')) as "running!"
           from environment where org_id = $1"#,
        org_id.0
    );
    Ok(holdings.fetch_one(db.pool()).await?)
}

/// Names of environments that run or deploy, a hundred at most.
pub(crate) async fn running(db: &Db, org_id: OrgId) -> Result<Vec<String>> {
    let names = query_scalar!(
        "select name from environment
         where org_id = $1 and state in ('running', 'deploying', 'cloning', 'paused') order by id limit 100",
        org_id.0
    );
    Ok(names.fetch_all(db.pool()).await?)
}
