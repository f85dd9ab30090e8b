//! SQL statements about projects.

use chassis::{
    Changed, Db, Error, Grant, OrgId, ProjectGrant, ProjectId, Result, Tx, fold,
    page::{Page, Place, UnixMicros},
};
use project_rules::{
    project::{Project, registration::RegistrationState},
    types::ProjectRef,
};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

/// Selects rows of projects: the rest of the statement after `from project`, and its arguments. `counted`
/// includes the number of environments; `uncounted` sets it to 0.
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
            "select id, org_id, name, slug, description, repository_url, repository_token,
                    git_connection_id, default_branch, odoo_version, server_id, production_deploy_min_role,
                    state, version, creator_id, created_at, updated_at, " + $count + "
             from project " + $rest
            $(, $argument)*
        )
    };
}

/// True if the project exists.
pub(crate) async fn exists(tx: &mut Tx, project: ProjectRef) -> Result<bool> {
    let found = query_scalar!(
        r#"select exists (select from project where org_id = $1 and id = $2) as "found!""#,
        project.org_id.0,
        project.project_id.0
    );
    Ok(found.fetch_one(tx.conn()).await?)
}

/// Stores a new project and its event. `None`: the slug is taken, or the registration of the project was
/// abandoned.
pub(crate) async fn insert(tx: &mut Tx, created: Changed<Project>) -> Result<Option<Project>> {
    let project = created.state();
    let inserted = query!(
        r#"insert into project (id, org_id, name, slug, description, repository_url, default_branch,
             odoo_version, server_id, production_deploy_min_role, creator_id, created_at, updated_at,
             repository_token, name_key, search_key, git_connection_id)
         select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17
         where not exists (select from project_registration where org_id = $2 and project_id = $1
                           and state = 'abandoned')
         on conflict (org_id, lower(slug collate "C")) do nothing"#,
        project.id as _,
        project.org_id as _,
        project.name,
        project.slug,
        project.description,
        project.repository_url,
        project.default_branch,
        project.odoo_version,
        project.server_id.map(|id| id.0),
        project.production_deploy_min_role as _,
        project.creator_id as _,
        project.created_at,
        project.updated_at,
        project.repository_token,
        fold::key(&project.name),
        search_key(project),
        project.git_connection_id.map(|id| id.0),
    );
    let is_inserted = inserted.execute(tx.conn()).await?.rows_affected() == 1;
    Ok(is_inserted.then(|| tx.emit(created)))
}

/// True if a project of the organization has a slug, in any case.
pub(crate) async fn has_slug(db: &Db, grant: &Grant, slug: &str) -> Result<bool> {
    let found = query_scalar!(
        r#"select exists (select from project where org_id = $1
                          and lower(slug collate "C") = lower($2 collate "C")) as "found!""#,
        grant.org_id().0,
        slug
    );
    Ok(found.fetch_one(db.pool()).await?)
}

/// Returns the slugs of the organization's projects that begin with a text, in any case.
pub(crate) async fn slugs_with_prefix(
    tx: &mut Tx,
    org_id: OrgId,
    prefix: &str,
) -> Result<Vec<String>> {
    let slugs = query_scalar!(
        r#"select slug from project where org_id = $1
             and starts_with(lower(slug collate "C"), lower($2 collate "C"))"#,
        org_id.0,
        prefix
    );
    Ok(slugs.fetch_all(tx.conn()).await?)
}

/// Stores the new state of a project and its event.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<Project>) -> Result<Project> {
    let project = changed.state();
    query!(
        "update project set name = $3, description = $4, repository_url = $5, default_branch = $6,
             odoo_version = $7, server_id = $8, production_deploy_min_role = $9, state = $10,
             updated_at = $11, repository_token = $12, name_key = $13, search_key = $14,
             git_connection_id = $15, version = version + 1
         where org_id = $1 and id = $2",
        project.org_id as _,
        project.id as _,
        project.name,
        project.description,
        project.repository_url,
        project.default_branch,
        project.odoo_version,
        project.server_id.map(|id| id.0),
        project.production_deploy_min_role as _,
        project.state as _,
        project.updated_at,
        project.repository_token,
        fold::key(&project.name),
        search_key(project),
        project.git_connection_id.map(|id| id.0),
    )
    .execute(tx.conn())
    .await?;
    let mut project = tx.emit(changed);
    project.version += 1;
    Ok(project)
}

/// Deletes a project with its tasks and add-ons, and stores its event. Its registration with identity is
/// marked as deleted, so that a late event about it is ignored.
pub(crate) async fn delete(tx: &mut Tx, deleted: Changed<Project>) -> Result<()> {
    let org_id = deleted.state().org_id.0;
    let id = deleted.state().id.0;
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
    query!("delete from addon where org_id = $1 and project_id = $2", org_id, id)
        .execute(tx.conn())
        .await?;
    query!("delete from project where org_id = $1 and id = $2", org_id, id)
        .execute(tx.conn())
        .await?;
    let project = deleted.state().project_ref();
    super::registration::set_state(tx, project, RegistrationState::Deleted).await?;
    tx.emit(deleted);
    Ok(())
}

/// Locks a project against changes.
pub(crate) async fn lock(tx: &mut Tx, project: ProjectRef) -> Result<Project> {
    let project = projects!(
        counted "where org_id = $1 and id = $2 for update",
        project.org_id.0,
        project.project_id.0
    );
    project.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(ProjectId::NOUN))
}

/// Locks a project whose URL contains a credential, which an older version has stored.
pub(crate) async fn lock_with_credential(tx: &mut Tx) -> Result<Option<Project>> {
    // Any tenant (no org_id). The condition is that of the index `project_url_credential`.
    let project = projects!(
        uncounted "where repository_url ~ '^https?://[^/?#]*@|^ssh://[^/?#]*:[^/?#]*@|^[a-z]+://.*[?#]'
         order by id limit 1 for no key update skip locked"
    );
    Ok(project.fetch_optional(tx.conn()).await?)
}

/// Loads a project and locks it against deletion.
pub(crate) async fn load(tx: &mut Tx, project: ProjectRef) -> Result<Project> {
    let project = projects!(
        uncounted "where org_id = $1 and id = $2 for key share",
        project.org_id.0,
        project.project_id.0
    );
    project.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(ProjectId::NOUN))
}

/// Returns a project.
pub(crate) async fn get(db: &Db, grant: &ProjectGrant) -> Result<Project> {
    let project =
        projects!(counted "where org_id = $1 and id = $2", grant.org_id().0, grant.project_id().0);
    project.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(ProjectId::NOUN))
}

/// Returns the key by which a project is found.
fn search_key(project: &Project) -> String {
    fold::key(&format!("{} {} {}", project.name, project.slug, project.description))
}

/// Selection of projects for a list.
pub(crate) struct Filter<'a> {
    pub(crate) org_id: OrgId,
    /// Ids of the projects that the caller may see; `None`: all of the organization.
    pub(crate) ids: Option<Vec<Uuid>>,
    /// Text that the name, slug or description contains, in any case; empty: no filter.
    pub(crate) query: &'a str,
}

impl Filter<'_> {
    /// Pattern for `like`, in which the query's own wildcards are escaped.
    fn pattern(&self) -> Option<String> {
        let key = fold::key(self.query);
        let escaped = key.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        (!key.is_empty()).then(|| format!("%{escaped}%"))
    }
}

/// Returns a page of projects, oldest first. The conditions on the id have a form that PostgreSQL finds in
/// the primary key also with a plan for all parameters.
pub(crate) async fn list(db: &Db, filter: &Filter<'_>, page: &Page) -> Result<Vec<Project>> {
    if let Some(ids) = &filter.ids {
        let projects = projects!(
            counted "where org_id = $1 and id = any ($2)
               and ($3::text is null or search_key like $3)
               and id > coalesce($4, '00000000-0000-0000-0000-000000000000'::uuid)
             order by id limit $5",
            filter.org_id.0,
            ids.as_slice(),
            filter.pattern(),
            page.after::<Uuid>()?,
            page.limit(),
        );
        return Ok(projects.fetch_all(db.pool()).await?);
    }
    let projects = projects!(
        counted "where org_id = $1
           and ($2::text is null or search_key like $2)
           and id > coalesce($3, '00000000-0000-0000-0000-000000000000'::uuid)
         order by id limit $4",
        filter.org_id.0,
        filter.pattern(),
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(projects.fetch_all(db.pool()).await?)
}

/// Returns a page of projects by the key of their names.
pub(crate) async fn list_by_name(
    db: &Db,
    filter: &Filter<'_>,
    page: &Page,
) -> Result<Vec<Project>> {
    let place = page.after::<Place<String>>()?;
    let projects = projects!(
        counted "where org_id = $1 and ($2::uuid[] is null or id = any ($2))
           and ($3::text is null or search_key like $3)
           and (name_key, id) > (coalesce($6, ''), coalesce($4, '00000000-0000-0000-0000-000000000000'::uuid))
         order by name_key, id limit $5",
        filter.org_id.0,
        filter.ids.as_deref(),
        filter.pattern(),
        place.as_ref().map(|it| it.id),
        page.limit(),
        place.map(|it| it.value),
    );
    Ok(projects.fetch_all(db.pool()).await?)
}

/// Returns a page of projects, last updated first.
pub(crate) async fn list_by_update_time(
    db: &Db,
    filter: &Filter<'_>,
    page: &Page,
) -> Result<Vec<Project>> {
    let place = page.after::<Place<UnixMicros>>()?;
    let projects = projects!(
        counted "where org_id = $1 and ($2::uuid[] is null or id = any ($2))
           and ($3::text is null or search_key like $3)
           and (updated_at, id) < (coalesce($6, 'infinity'::timestamptz),
               coalesce($4, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid))
         order by updated_at desc, id desc limit $5",
        filter.org_id.0,
        filter.ids.as_deref(),
        filter.pattern(),
        place.as_ref().map(|it| it.id),
        page.limit(),
        place.map(|it| it.value.0),
    );
    Ok(projects.fetch_all(db.pool()).await?)
}

/// Counts the tasks of a project, in any state.
pub(crate) async fn count_tasks(db: &Db, grant: &ProjectGrant) -> Result<i64> {
    let count = query_scalar!(
        r#"select count(*) as "count!" from task where org_id = $1 and project_id = $2"#,
        grant.org_id().0,
        grant.project_id().0
    );
    Ok(count.fetch_one(db.pool()).await?)
}
