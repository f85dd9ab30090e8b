//! Every SQL statement about environments.

use chassis::{
    Changed, Db, Error, OnConstraint, OrgId, ProjectGrant, ProjectId, Result, Tx, page::Page,
};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::{Environment, EnvironmentId, Refused};
use crate::task::{self, Task};

/// The branch that environments of a project deploy unless they say otherwise.
pub(crate) async fn default_branch(tx: &mut Tx, grant: &ProjectGrant) -> Result<String> {
    let branch = query_scalar!(
        "select default_branch from project where org_id = $1 and id = $2",
        grant.org_id().0,
        grant.project_id().0
    );
    branch.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(ProjectId::NOUN))
}

/// Stores a new environment and its event.
pub(crate) async fn insert(tx: &mut Tx, created: Changed<Environment>) -> Result<Environment> {
    let it = created.state();
    let inserted = query!(
        "insert into environment (id, org_id, project_id, name, kind, state, branch, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        it.id as _,
        it.org_id as _,
        it.project_id as _,
        it.name,
        it.kind as _,
        it.state as _,
        it.branch,
        it.created_at,
    )
    .execute(tx.conn())
    .await;
    if let Err(sqlx::Error::Database(error)) = &inserted
        && error.constraint() == Some("environment_production")
    {
        return Err(Refused::ProductionExists.into());
    }
    inserted.on_constraint("environment_name", Refused::NameTaken)?;
    tx.emit(created).await
}

/// Loads an environment and keeps others from changing it or its tasks.
pub(crate) async fn lock(
    tx: &mut Tx,
    (org_id, project_id): (OrgId, ProjectId),
    id: EnvironmentId,
) -> Result<Environment> {
    let environment = query_as!(
        Environment,
        "select id, org_id, project_id, name, kind, state, branch, commit, url, last_error, created_at
         from environment where org_id = $1 and project_id = $2 and id = $3 for update",
        org_id.0,
        project_id.0,
        id.0
    );
    environment.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(EnvironmentId::NOUN))
}

/// Stores an environment and its task as they are now, and their event.
pub(crate) async fn save(
    tx: &mut Tx,
    changed: Changed<(Environment, Task)>,
) -> Result<(Environment, Task)> {
    let (it, task) = changed.state();
    query!(
        "update environment set state = $3, commit = $4, url = $5, last_error = $6
         where org_id = $1 and id = $2",
        it.org_id as _,
        it.id as _,
        it.state as _,
        it.commit,
        it.url,
        it.last_error,
    )
    .execute(tx.conn())
    .await?;
    task::store::upsert(tx, task).await?;
    tx.emit(changed).await
}

/// One environment.
pub(crate) async fn get(db: &Db, grant: &ProjectGrant, id: EnvironmentId) -> Result<Environment> {
    let environment = query_as!(
        Environment,
        "select id, org_id, project_id, name, kind, state, branch, commit, url, last_error, created_at
         from environment where org_id = $1 and project_id = $2 and id = $3",
        grant.org_id().0,
        grant.project_id().0,
        id.0
    );
    environment.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(EnvironmentId::NOUN))
}

/// A page of the environments of a project.
pub(crate) async fn list(db: &Db, grant: &ProjectGrant, page: &Page) -> Result<Vec<Environment>> {
    let environments = query_as!(
        Environment,
        "select id, org_id, project_id, name, kind, state, branch, commit, url, last_error, created_at
         from environment
         where org_id = $1 and project_id = $2 and ($3::uuid is null or id > $3)
         order by id limit $4",
        grant.org_id().0,
        grant.project_id().0,
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(environments.fetch_all(db.pool()).await?)
}

/// The environments of an organization that run, are about to, or may.
pub(crate) async fn busy(tx: &mut Tx, org_id: OrgId) -> Result<Vec<(ProjectId, EnvironmentId)>> {
    let rows = query!(
        "select project_id, id from environment
         where org_id = $1 and state in ('running', 'deploying', 'error', 'stopping') order by id",
        org_id.0
    );
    Ok(rows.fetch_all(tx.conn()).await?.into_iter().map(|it| (it.project_id, it.id)).collect())
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
