//! Every SQL statement about projects.

use chassis::{
    Changed, Db, Error, OnConstraint, OrgId, ProjectGrant, ProjectId, Result, Tx, page::Page,
};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::{Project, Refused};

/// Selects whole projects: the rest of the statement after `from project`, and its arguments. Their
/// environments are counted where somebody asks.
macro_rules! projects {
    (uncounted $rest:literal $(, $argument:expr)* $(,)?) => {
        projects!(r#"0::bigint as "environment_count!" "#, $rest $(, $argument)*)
    };
    (counted $rest:literal $(, $argument:expr)* $(,)?) => {
        projects!(
            r#"(select count(*) from environment
                where environment.org_id = project.org_id and environment.project_id = project.id)
               as "environment_count!" "#,
            $rest $(, $argument)*
        )
    };
    ($count:literal, $rest:literal $(, $argument:expr)*) => {
        query_as!(
            Project,
            "select id, org_id, name, slug, description, repository_url, default_branch, odoo_version,
                server_id,
                    production_deploy_min_role, state, version, creator_id, created_at, updated_at,
                        " + $count + "
             from project " + $rest
            $(, $argument)*
        )
    };
}

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
        "insert into project (id, org_id, name, slug, description, repository_url, default_branch,
            odoo_version,
             server_id, production_deploy_min_role, creator_id, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        it.id as _,
        it.org_id as _,
        it.name,
        it.slug,
        it.description,
        it.repository_url,
        it.default_branch,
        it.odoo_version,
        it.server_id.map(|it| it.0),
        it.production_deploy_min_role as _,
        it.creator_id as _,
        it.created_at,
        it.updated_at,
    )
    .execute(tx.conn())
    .await
    .on_constraint("project_slug", Refused::SlugTaken(it.slug.clone()))?;
    Ok(tx.emit(created))
}

/// Stores a project as it is now, and its event.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<Project>) -> Result<Project> {
    let it = changed.state();
    query!(
        "update project set name = $3, description = $4, repository_url = $5, default_branch = $6,
             odoo_version = $7, server_id = $8, production_deploy_min_role = $9, state = $10,
             updated_at = $11,
             version = version + 1
         where org_id = $1 and id = $2",
        it.org_id as _,
        it.id as _,
        it.name,
        it.description,
        it.repository_url,
        it.default_branch,
        it.odoo_version,
        it.server_id.map(|it| it.0),
        it.production_deploy_min_role as _,
        it.state as _,
        it.updated_at,
    )
    .execute(tx.conn())
    .await?;
    let mut it = tx.emit(changed);
    it.version += 1;
    Ok(it)
}

/// Deletes a project with its history, and stores its event.
pub(crate) async fn delete(tx: &mut Tx, gone: Changed<Project>) -> Result<()> {
    let (org_id, id) = (gone.state().org_id.0, gone.state().id.0);
    query!(
        "delete from task_log using task
         where task.id = task_log.task_id and task.org_id = $1 and task.project_id = $2",
        org_id,
        id
    )
    .execute(tx.conn())
    .await?;
    query!("delete from task where org_id = $1 and project_id = $2", org_id, id)
        .execute(tx.conn())
        .await?;
    query!("delete from attachment where org_id = $1 and project_id = $2", org_id, id)
        .execute(tx.conn())
        .await?;
    query!("delete from project where org_id = $1 and id = $2", org_id, id)
        .execute(tx.conn())
        .await?;
    Ok(tx.emit(gone)).map(|_| ())
}

/// Loads a project and keeps others from changing it.
pub(crate) async fn lock(tx: &mut Tx, (org_id, id): (OrgId, ProjectId)) -> Result<Project> {
    let project = projects!(counted "where org_id = $1 and id = $2 for update", org_id.0, id.0);
    project.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(ProjectId::NOUN))
}

/// Loads a project, which stays as long as the transaction goes on.
pub(crate) async fn load(tx: &mut Tx, (org_id, id): (OrgId, ProjectId)) -> Result<Project> {
    let project =
        projects!(uncounted "where org_id = $1 and id = $2 for key share", org_id.0, id.0);
    project.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(ProjectId::NOUN))
}

/// One project.
pub(crate) async fn get(db: &Db, grant: &ProjectGrant) -> Result<Project> {
    let project =
        projects!(counted "where org_id = $1 and id = $2", grant.org_id().0, grant.project_id().0);
    project.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(ProjectId::NOUN))
}

/// Which projects, and in what order.
pub(crate) struct Listing<'a> {
    pub(crate) org_id: OrgId,
    /// Of these only.
    pub(crate) only: Option<Vec<Uuid>>,
    /// Only those that have this in them.
    pub(crate) query: &'a str,
}

impl Listing<'_> {
    /// What `like` looks for; nothing in a text of a person has a meaning of its own.
    fn pattern(&self) -> Option<String> {
        let escaped = self.query.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        (!self.query.is_empty()).then(|| format!("%{}%", escaped.to_lowercase()))
    }
}

/// A page of projects, oldest first.
pub(crate) async fn list(db: &Db, it: &Listing<'_>, page: &Page) -> Result<Vec<Project>> {
    let projects = projects!(
        counted "where org_id = $1 and ($2::uuid[] is null or id = any ($2))
           and ($3::text is null or lower(name || ' ' || slug || ' ' || description) like $3)
           and ($4::uuid is null or id > $4)
         order by id limit $5",
        it.org_id.0,
        it.only.as_deref(),
        it.pattern(),
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(projects.fetch_all(db.pool()).await?)
}

/// A page of projects, by name. The cursor is `<id>`: the name it stands at is looked up, so that it may have
/// changed meanwhile.
pub(crate) async fn list_by_name(db: &Db, it: &Listing<'_>, page: &Page) -> Result<Vec<Project>> {
    let projects = projects!(
        counted "where org_id = $1 and ($2::uuid[] is null or id = any ($2))
           and ($3::text is null or lower(name || ' ' || slug || ' ' || description) like $3)
           and ($4::uuid is null or (lower(name), id) >
                (select lower(last.name), last.id from project last where last.org_id = $1 and last.id = $4))
         order by lower(name), id limit $5",
        it.org_id.0,
        it.only.as_deref(),
        it.pattern(),
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(projects.fetch_all(db.pool()).await?)
}

/// A page of projects, the last changed first.
pub(crate) async fn list_by_change(db: &Db, it: &Listing<'_>, page: &Page) -> Result<Vec<Project>> {
    let projects = projects!(
        counted "where org_id = $1 and ($2::uuid[] is null or id = any ($2))
           and ($3::text is null or lower(name || ' ' || slug || ' ' || description) like $3)
           and ($4::uuid is null or (updated_at, id) <
                (select last.updated_at, last.id from project last where last.org_id = $1 and last.id = $4))
         order by updated_at desc, id desc limit $5",
        it.org_id.0,
        it.only.as_deref(),
        it.pattern(),
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(projects.fetch_all(db.pool()).await?)
}

/// How many tasks a project has had.
pub(crate) async fn count_tasks(db: &Db, grant: &ProjectGrant) -> Result<i64> {
    let count = query_scalar!(
        r#"select count(*) as "count!" from task where org_id = $1 and project_id = $2"#,
        grant.org_id().0,
        grant.project_id().0
    );
    Ok(count.fetch_one(db.pool()).await?)
}
