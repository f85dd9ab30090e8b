//! SQL of registered projects and the grants on them.

use chassis::{Changed, Db, Error, OrgId, ProjectId, Result, Tx, page::Page};
use identity_rules::{project_access::ProjectGrant, types::Principal};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use crate::column::Stored;

/// Returns the ids of every project of an organization, in no order.
pub(crate) async fn project_ids(tx: &mut Tx, org_id: OrgId) -> Result<Vec<ProjectId>> {
    let ids = query_scalar!("select id from project where org_id = $1", org_id.0);
    Ok(ids.fetch_all(tx.conn()).await?)
}

/// Stores a project. Does nothing if it is registered already.
pub(crate) async fn insert_project(tx: &mut Tx, org_id: OrgId, id: ProjectId) -> Result<()> {
    query!(
        "insert into project (org_id, id) values ($1, $2) on conflict (org_id, id) do nothing",
        org_id.0,
        id.0
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Returns true if a project is registered.
pub(crate) async fn is_registered(tx: &mut Tx, org_id: OrgId, id: ProjectId) -> Result<bool> {
    let found = query_scalar!(
        r#"select exists (select from project where org_id = $1 and id = $2) as "found!""#,
        org_id.0,
        id.0
    );
    Ok(found.fetch_one(tx.conn()).await?)
}

/// Deletes a project; its grants must be deleted before.
pub(crate) async fn delete_project(tx: &mut Tx, org_id: OrgId, id: ProjectId) -> Result<()> {
    query!("delete from project where org_id = $1 and id = $2", org_id.0, id.0)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Deletes every grant on a project.
pub(crate) async fn delete_all_on_project(
    tx: &mut Tx,
    org_id: OrgId,
    project_id: ProjectId,
) -> Result<()> {
    query!(
        "delete from project_grant where org_id = $1 and project_id = $2",
        org_id.0,
        project_id.0
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Returns every grant on a project; the transaction must hold the organization's lock.
pub(crate) async fn list_on_project(
    tx: &mut Tx,
    org_id: OrgId,
    project_id: ProjectId,
) -> Result<Vec<ProjectGrant>> {
    let grants = query_as!(
        ProjectGrant,
        "select id, org_id, project_id, user_id, team_id, role, granted_by, created_at
         from project_grant where org_id = $1 and project_id = $2 order by id",
        org_id.0,
        project_id.0
    );
    Ok(grants.fetch_all(tx.conn()).await?)
}

/// Returns the grant of a principal on a project; the transaction must hold the organization's lock.
pub(crate) async fn find(
    tx: &mut Tx,
    org_id: OrgId,
    project_id: ProjectId,
    principal: Principal,
) -> Result<Option<ProjectGrant>> {
    let grant = query_as!(
        ProjectGrant,
        "select id, org_id, project_id, user_id, team_id, role, granted_by, created_at
         from project_grant where org_id = $1 and project_id = $2 and principal_id = $3",
        org_id.0,
        project_id.0,
        principal.id()
    );
    Ok(grant.fetch_optional(tx.conn()).await?)
}

/// Stores the grants of a new member, which the event of the membership lists.
pub(crate) async fn insert_rows(tx: &mut Tx, grants: &[ProjectGrant]) -> Result<()> {
    for grant in grants {
        upsert(tx, grant).await?;
    }
    Ok(())
}

/// Stores a grant and its event.
pub(crate) async fn save(tx: &mut Tx, changed: Changed<ProjectGrant>) -> Result<ProjectGrant> {
    upsert(tx, changed.state()).await?;
    Ok(tx.emit(changed))
}

async fn upsert(tx: &mut Tx, grant: &ProjectGrant) -> Result<()> {
    query!(
        "insert into project_grant (id, org_id, project_id, user_id, team_id, role, granted_by, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)
         on conflict (org_id, project_id, principal_id)
         do update set role = excluded.role, granted_by = excluded.granted_by",
        grant.id,
        grant.org_id as _,
        grant.project_id as _,
        grant.user_id as _,
        grant.team_id as _,
        Stored(grant.role) as _,
        grant.granted_by as _,
        grant.created_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Deletes a grant and stores the event.
pub(crate) async fn delete(tx: &mut Tx, revoked: Changed<ProjectGrant>) -> Result<ProjectGrant> {
    let grant = revoked.state();
    query!("delete from project_grant where org_id = $1 and id = $2", grant.org_id as _, grant.id)
        .execute(tx.conn())
        .await?;
    Ok(tx.emit(revoked))
}

/// Deletes every grant of a principal.
pub(crate) async fn delete_all_of_principal(
    tx: &mut Tx,
    org_id: OrgId,
    principal: Principal,
) -> Result<()> {
    query!(
        "delete from project_grant where org_id = $1 and principal_id = $2",
        org_id.0,
        principal.id()
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Returns every grant of a principal; the transaction must hold the organization's lock.
pub(crate) async fn list_of_principal(
    tx: &mut Tx,
    org_id: OrgId,
    principal: Principal,
) -> Result<Vec<ProjectGrant>> {
    let grants = query_as!(
        ProjectGrant,
        "select id, org_id, project_id, user_id, team_id, role, granted_by, created_at
         from project_grant where org_id = $1 and principal_id = $2 order by id",
        org_id.0,
        principal.id()
    );
    Ok(grants.fetch_all(tx.conn()).await?)
}

/// Returns a page of the grants on a project.
pub(crate) async fn list(
    db: &Db,
    org_id: OrgId,
    project_id: ProjectId,
    page: &Page,
) -> Result<Vec<ProjectGrant>> {
    let grants = query_as!(
        ProjectGrant,
        "select id, org_id, project_id, user_id, team_id, role, granted_by, created_at
         from project_grant
         where org_id = $1 and project_id = $2
               and id > coalesce($3, '00000000-0000-0000-0000-000000000000'::uuid)
         order by id limit $4",
        org_id.0,
        project_id.0,
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(grants.fetch_all(db.pool()).await?)
}

/// Returns the ids of every project of an organization, ordered by id.
pub(crate) async fn read_project_ids(db: &Db, org_id: OrgId) -> Result<Vec<ProjectId>> {
    let ids = query_scalar!("select id from project where org_id = $1 order by id", org_id.0);
    Ok(ids.fetch_all(db.pool()).await?)
}

/// Refuses a project that does not belong to the organization (ID-31).
pub(crate) async fn require_project(tx: &mut Tx, org_id: OrgId, id: ProjectId) -> Result<()> {
    let found = query!("select id from project where org_id = $1 and id = $2", org_id.0, id.0);
    found.fetch_optional(tx.conn()).await?.map(|_| ()).ok_or(Error::NotFound(ProjectId::NOUN))
}
