//! Every SQL statement about a project as a whole.

use chassis::{Db, ProjectGrant, Result};
use sqlx::{query_as, query_scalar};
use time::OffsetDateTime;

use crate::{
    environment::EnvironmentId,
    task::{Task, store::tasks},
};

/// What an environment uses.
pub(crate) struct Used {
    pub(crate) environment_id: EnvironmentId,
    pub(crate) cpu_cores: f64,
    pub(crate) memory_bytes: i64,
    pub(crate) disk_bytes: i64,
    pub(crate) reported_at: OffsetDateTime,
}

/// What each environment uses, as far as its server has said.
pub(super) async fn used(db: &Db, grant: &ProjectGrant) -> Result<Vec<Used>> {
    let used = query_as!(
        Used,
        "select environment.id as environment_id, cpu_cores, memory_bytes, disk_bytes, reported_at
         from environment join environment_report on environment_id = environment.id
         where org_id = $1 and project_id = $2 order by environment.id",
        grant.org_id().0,
        grant.project_id().0
    );
    Ok(used.fetch_all(db.pool()).await?)
}

/// The last deployments, whatever became of them.
pub(super) async fn recent(db: &Db, grant: &ProjectGrant) -> Result<Vec<Task>> {
    let tasks = tasks!(
        "where org_id = $1 and project_id = $2 and kind in ('deploy', 'rollback', 'promote')
         order by id desc limit 10",
        grant.org_id().0,
        grant.project_id().0
    );
    Ok(tasks.fetch_all(db.pool()).await?)
}

/// How many deployments were completed.
pub(super) async fn deployments(db: &Db, grant: &ProjectGrant) -> Result<i64> {
    let count = query_scalar!(
        r#"select count(*) as "count!" from task
           where org_id = $1 and project_id = $2 and state = 'completed'
             and kind in ('deploy', 'rollback', 'promote')"#,
        grant.org_id().0,
        grant.project_id().0
    );
    Ok(count.fetch_one(db.pool()).await?)
}
