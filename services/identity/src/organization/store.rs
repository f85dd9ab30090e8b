//! Every SQL statement about organizations.

use chassis::{Changed, Db, Error, OnConstraint, OrgId, Result, Tx, UserId, page::Page};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::{Organization, Refused};
use crate::member::{self, Member};

/// Loads an organization and keeps others from changing anything in it. Every change of members, grants
/// and limits begins here.
pub(crate) async fn lock(tx: &mut Tx, id: OrgId) -> Result<Organization> {
    // In a statement of its own: what the next one counts is then committed and stays.
    query!("select id from organization where id = $1 for update", id.0)
        .fetch_optional(tx.conn())
        .await?;
    let organization = query_as!(
        Organization,
        r#"select id, name, slug, plan, owner_id, access_version, created_at,
                  (select count(*) from member where org_id = organization.id) as "members!",
                  (select value from plan_limit where plan_limit.plan = organization.plan
                   and key = 'members') as member_limit,
                  (select count(*) from project where org_id = organization.id) as "projects!",
                  (select value from plan_limit where plan_limit.plan = organization.plan
                   and key = 'projects') as project_limit
           from organization where id = $1"#,
        id.0
    );
    organization.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound("organization"))
}

/// Marks that access in an organization changed.
pub(crate) async fn bump(tx: &mut Tx, id: OrgId) -> Result<i64> {
    let version = query_scalar!(
        "update organization set access_version = access_version + 1 where id = $1 returning access_version",
        id.0
    );
    Ok(version.fetch_one(tx.conn()).await?)
}

/// How many organizations an account created. Locks the account, so that two creations count each other.
pub(crate) async fn created_by(tx: &mut Tx, user_id: UserId) -> Result<i64> {
    query!("select id from account where id = $1 for update", user_id.0)
        .fetch_optional(tx.conn())
        .await?;
    let count = query_scalar!(
        r#"select count(*) as "count!" from organization where created_by = $1"#,
        user_id.0
    );
    Ok(count.fetch_one(tx.conn()).await?)
}

/// Stores a new organization, its owner and its event.
pub(crate) async fn insert(
    tx: &mut Tx,
    created: Changed<(Organization, Member)>,
) -> Result<(Organization, Member)> {
    let (it, owner) = created.state();
    query!(
        "insert into organization (id, name, slug, plan, owner_id, created_by, access_version, created_at)
         values ($1, $2, $3, $4, $5, $5, $6, $7)",
        it.id as _,
        it.name,
        it.slug,
        it.plan as _,
        it.owner_id as _,
        it.access_version,
        it.created_at,
    )
    .execute(tx.conn())
    .await
    .on_constraint("organization_slug", Refused::SlugTaken(it.slug.clone()))?;
    member::store::insert_row(tx, owner).await?;
    tx.emit(created).await
}

/// Stores a changed plan and its event.
pub(crate) async fn update_plan(
    tx: &mut Tx,
    changed: Changed<Organization>,
) -> Result<Organization> {
    let it = changed.state();
    query!(
        "update organization set plan = $2, access_version = $3 where id = $1",
        it.id as _,
        it.plan as _,
        it.access_version,
    )
    .execute(tx.conn())
    .await?;
    let id = it.id;
    tx.emit(changed).await?;
    // With the limits of the new plan.
    lock(tx, id).await
}

/// One organization.
pub(crate) async fn get(db: &Db, id: OrgId) -> Result<Organization> {
    let organization = query_as!(
        Organization,
        r#"select id, name, slug, plan, owner_id, access_version, created_at,
                  (select count(*) from member where org_id = organization.id) as "members!",
                  (select value from plan_limit where plan_limit.plan = organization.plan
                   and key = 'members') as member_limit,
                  (select count(*) from project where org_id = organization.id) as "projects!",
                  (select value from plan_limit where plan_limit.plan = organization.plan
                   and key = 'projects') as project_limit
           from organization where id = $1"#,
        id.0
    );
    organization.fetch_optional(db.pool()).await?.ok_or(Error::NotFound("organization"))
}

/// A page of the organizations of an account.
pub(crate) async fn list_of(db: &Db, user_id: UserId, page: &Page) -> Result<Vec<Organization>> {
    let organizations = query_as!(
        Organization,
        r#"select organization.id, name, slug, plan, owner_id, access_version, organization.created_at,
                  (select count(*) from member as m where m.org_id = organization.id) as "members!",
                  (select value from plan_limit where plan_limit.plan = organization.plan
                   and key = 'members') as member_limit,
                  (select count(*) from project where org_id = organization.id) as "projects!",
                  (select value from plan_limit where plan_limit.plan = organization.plan
                   and key = 'projects') as project_limit
           from organization join member on member.org_id = organization.id
           where member.user_id = $1 and ($2::uuid is null or organization.id > $2)
           order by organization.id limit $3"#,
        user_id.0,
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(organizations.fetch_all(db.pool()).await?)
}
