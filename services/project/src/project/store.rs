//! Every SQL statement about projects.

use chassis::{
    Changed, Db, Error, OnConstraint, OrgId, ProjectGrant, ProjectId, Result, Tx, page::Page,
};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::{Project, Refused};

/// Keeps others from deciding whether this project exists, until the transaction ends.
pub(crate) async fn lock_id(tx: &mut Tx, id: ProjectId) -> Result<()> {
    query!("select pg_advisory_xact_lock(hashtextextended($1::text, 0))", id.to_string())
        .fetch_one(tx.conn())
        .await?;
    Ok(())
}

/// Whether a project exists.
pub(crate) async fn exists(tx: &mut Tx, org_id: OrgId, id: ProjectId) -> Result<bool> {
    let found = query_scalar!(
        r#"select exists (select from project where org_id = $1 and id = $2) as "found!""#,
        org_id.0,
        id.0
    );
    Ok(found.fetch_one(tx.conn()).await?)
}

/// The slugs of an organization that begin like this one.
pub(crate) async fn slugs_like(tx: &mut Tx, org_id: OrgId, slug: &str) -> Result<Vec<String>> {
    let slugs = query_scalar!(
        "select slug from project where org_id = $1 and starts_with(lower(slug), lower($2))",
        org_id.0,
        slug
    );
    Ok(slugs.fetch_all(tx.conn()).await?)
}

/// Stores a new project and its event.
pub(crate) async fn insert(tx: &mut Tx, created: Changed<Project>) -> Result<Project> {
    let it = created.state();
    query!(
        "insert into project (id, org_id, name, slug, repository_url, default_branch, creator_id, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        it.id as _,
        it.org_id as _,
        it.name,
        it.slug,
        it.repository_url,
        it.default_branch,
        it.creator_id as _,
        it.created_at,
    )
    .execute(tx.conn())
    .await
    .on_constraint("project_slug", Refused::SlugTaken(it.slug.clone()))?;
    tx.emit(created).await
}

/// One project.
pub(crate) async fn get(db: &Db, grant: &ProjectGrant) -> Result<Project> {
    let project = query_as!(
        Project,
        "select id, org_id, name, slug, repository_url, default_branch, creator_id, created_at
         from project where org_id = $1 and id = $2",
        grant.org_id().0,
        grant.project_id().0
    );
    project.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(ProjectId::NOUN))
}

/// A page of the projects of an organization; of these only, if some are named.
pub(crate) async fn list(
    db: &Db,
    org_id: OrgId,
    only: Option<Vec<Uuid>>,
    page: &Page,
) -> Result<Vec<Project>> {
    let projects = query_as!(
        Project,
        "select id, org_id, name, slug, repository_url, default_branch, creator_id, created_at
         from project
         where org_id = $1 and ($2::uuid[] is null or id = any ($2)) and ($3::uuid is null or id > $3)
         order by id limit $4",
        org_id.0,
        only.as_deref(),
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(projects.fetch_all(db.pool()).await?)
}
