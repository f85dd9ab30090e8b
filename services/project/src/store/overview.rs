//! SQL statements about the overview of a project.

use chassis::{Db, ProjectGrant, Result};
use project_rules::{project::overview::EnvironmentUsage, task::Task};
use sqlx::{query_as, query_scalar};

use super::task::tasks;

/// Returns the usage of each environment that has a report.
pub(crate) async fn usages(db: &Db, grant: &ProjectGrant) -> Result<Vec<EnvironmentUsage>> {
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
pub(crate) async fn recent_deployments(db: &Db, grant: &ProjectGrant) -> Result<Vec<Task>> {
    let tasks = tasks!(
        "where org_id = $1 and project_id = $2 and kind in ('deploy', 'rollback', 'promote')
         order by id desc limit 10",
        grant.org_id().0,
        grant.project_id().0
    );
    Ok(tasks.fetch_all(db.pool()).await?)
}

/// Counts the completed deployments.
pub(crate) async fn count_completed_deployments(db: &Db, grant: &ProjectGrant) -> Result<i64> {
    let count = query_scalar!(
        r#"select count(*) as "count!" from task
           where org_id = $1 and project_id = $2 and state = 'completed'
             and kind in ('deploy', 'rollback', 'promote')"#,
        grant.org_id().0,
        grant.project_id().0
    );
    Ok(count.fetch_one(db.pool()).await?)
}
