//! SQL statements about projects as a whole.

use chassis::{Db, ProjectGrant, Result};
use sqlx::{query_as, query_scalar};
use time::OffsetDateTime;

use crate::{
    environment::EnvironmentId,
    task::{Task, store::tasks},
};

/// Resource usage of an environment, as its server last reported it.
pub(crate) struct EnvironmentUsage {
    pub(crate) environment_id: EnvironmentId,
    pub(crate) cpu_cores: f64,
    pub(crate) memory_bytes: i64,
    pub(crate) disk_bytes: i64,
    pub(crate) reported_at: OffsetDateTime,
}

/// Returns the usage of each environment that has a report.
pub(super) async fn usages(db: &Db, grant: &ProjectGrant) -> Result<Vec<EnvironmentUsage>> {
    let usages = query_as!(
        EnvironmentUsage,
        "select environment.id as environment_id, cpu_cores, memory_bytes, disk_bytes, reported_at
         from environment join environment_report on environment_id = environment.id
         where org_id = $1 and project_id = $2 order by environment.id",
        grant.org_id().0,
        grant.project_id().0
    );
    Ok(usages.fetch_all(db.pool()).await?)
}

/// Returns the newest deployments, in any state.
pub(super) async fn recent_deployments(db: &Db, grant: &ProjectGrant) -> Result<Vec<Task>> {
    let tasks = tasks!(
        "where org_id = $1 and project_id = $2 and kind in ('deploy', 'rollback', 'promote')
         order by id desc limit 10",
        grant.org_id().0,
        grant.project_id().0
    );
    Ok(tasks.fetch_all(db.pool()).await?)
}

/// Counts the completed deployments.
pub(super) async fn count_completed_deployments(db: &Db, grant: &ProjectGrant) -> Result<i64> {
    let count = query_scalar!(
        r#"select count(*) as "count!" from task
           where org_id = $1 and project_id = $2 and state = 'completed'
             and kind in ('deploy', 'rollback', 'promote')"#,
        grant.org_id().0,
        grant.project_id().0
    );
    Ok(count.fetch_one(db.pool()).await?)
}
