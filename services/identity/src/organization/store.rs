//! Every SQL statement about organizations.

use chassis::{Changed, Db, Error, OnConstraint, OrgId, Result, Tx, UserId, page::Page};
use sqlx::{query, query_as, query_scalar, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Limits, Organization, PARTIES, Refused};
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
        r#"select organization.id, name, slug, plan, owner_id, subscription, access_version, revision,
                  organization.created_at, deleted_at,
                  (select count(*) from member as m where m.org_id = organization.id) as "members!",
                  (select count(*) from project where org_id = organization.id) as "projects!",
                  coalesce((select jsonb_object_agg(key, value) from plan_limit
                   where plan_limit.plan = organization.plan), '{}') as "limits!: Json<Limits>",
                  array(select service from closing where closing.org_id = organization.id
                        and closed_at is null order by service) as "closing!"
           from organization where id = $1"#,
        id.0
    );
    organization.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound("organization"))
}

/// Raises the version of an organization's access, before the rows change that the event tells of: no change
/// of access without its event.
pub(crate) async fn bump<T>(tx: &mut Tx, id: OrgId, cause: &Changed<T>) -> Result<i64> {
    let now = tx.now;
    let version = query_scalar!(
        "with raised as (
             update organization set access_version = access_version + 1 where id = $1
             returning access_version
         )
         insert into access_change (org_id, version, event_id, changed_at)
         select $1, access_version, $2, $3 from raised returning version",
        id.0,
        cause.event_id(),
        now
    );
    Ok(version.fetch_one(tx.conn()).await?)
}

/// How many organizations an account created. Locks the account, so that two creations count each other.
pub(crate) async fn created_by(tx: &mut Tx, user_id: UserId) -> Result<i64> {
    query!("select id from account where id = $1 for update", user_id.0)
        .fetch_optional(tx.conn())
        .await?;
    let count = query_scalar!(
        r#"select count(*) as "count!" from organization where created_by = $1 and deleted_at is null"#,
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
    let (id, event_id, now) = (it.id, created.event_id(), tx.now);
    query!(
        "insert into access_change (org_id, version, event_id, changed_at) values ($1, $2, $3, $4)",
        id as _,
        it.access_version,
        event_id,
        now
    )
    .execute(tx.conn())
    .await?;
    member::store::insert_row(tx, owner).await?;
    Ok(tx.emit(created))
}

/// Stores a changed organization and its event.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<Organization>) -> Result<Organization> {
    let id = changed.state().id;
    update_row(tx, changed.state()).await?;
    tx.emit(changed);
    // With the limits of its plan, and at its version.
    lock(tx, id).await
}

/// Stores a change of the owner and its event. At no moment of the transaction are there two.
pub(crate) async fn transfer(
    tx: &mut Tx,
    changed: Changed<(Organization, Member, Member)>,
) -> Result<Organization> {
    let (it, from, to) = changed.state();
    update_row(tx, it).await?;
    member::store::update_role_row(tx, from).await?;
    member::store::update_role_row(tx, to).await?;
    let id = it.id;
    tx.emit(changed);
    lock(tx, id).await
}

/// Stores a changed organization whose event is stored elsewhere.
pub(crate) async fn update_row(tx: &mut Tx, it: &Organization) -> Result<()> {
    query!(
        "update organization set name = $2, slug = $3, plan = $4, owner_id = $5, subscription = $6,
                deleted_at = $7, revision = $8
         where id = $1",
        it.id as _,
        it.name,
        it.slug,
        it.plan as _,
        it.owner_id as _,
        it.subscription as _,
        it.deleted_at,
        it.revision,
    )
    .execute(tx.conn())
    .await
    .on_constraint("organization_slug", Refused::SlugTaken(it.slug.clone()))?;
    Ok(())
}

/// One organization.
pub(crate) async fn get(db: &Db, id: OrgId) -> Result<Organization> {
    let organization = query_as!(
        Organization,
        r#"select organization.id, name, slug, plan, owner_id, subscription, access_version, revision,
                  organization.created_at, deleted_at,
                  (select count(*) from member as m where m.org_id = organization.id) as "members!",
                  (select count(*) from project where org_id = organization.id) as "projects!",
                  coalesce((select jsonb_object_agg(key, value) from plan_limit
                   where plan_limit.plan = organization.plan), '{}') as "limits!: Json<Limits>",
                  array(select service from closing where closing.org_id = organization.id
                        and closed_at is null order by service) as "closing!"
           from organization where id = $1"#,
        id.0
    );
    organization.fetch_optional(db.pool()).await?.ok_or(Error::NotFound("organization"))
}

/// A page of the organizations of an account.
pub(crate) async fn list_of(
    db: &Db,
    user_id: UserId,
    deleted: bool,
    page: &Page,
) -> Result<Vec<Organization>> {
    let organizations = query_as!(
        Organization,
        r#"select organization.id, name, slug, plan, owner_id, subscription, access_version, revision,
                  organization.created_at, deleted_at,
                  (select count(*) from member as m where m.org_id = organization.id) as "members!",
                  (select count(*) from project where org_id = organization.id) as "projects!",
                  coalesce((select jsonb_object_agg(key, value) from plan_limit
                   where plan_limit.plan = organization.plan), '{}') as "limits!: Json<Limits>",
                  array(select service from closing where closing.org_id = organization.id
                        and closed_at is null order by service) as "closing!"
           from organization join member on member.org_id = organization.id
           where member.user_id = $1 and ($2::uuid is null or organization.id > $2)
                 and (deleted_at is null or ($4 and owner_id = $1))
           order by organization.id limit $3"#,
        user_id.0,
        page.after::<Uuid>()?,
        page.limit(),
        deleted,
    );
    Ok(organizations.fetch_all(db.pool()).await?)
}

/// Who must take along what they have of a deleted organization.
pub(crate) async fn insert_closing(tx: &mut Tx, it: &Organization) -> Result<()> {
    query!(
        "insert into closing (org_id, service, revision) select $1, unnest($2::text[]), $3
         on conflict (org_id, service) do update set revision = excluded.revision, closed_at = null",
        it.id as _,
        &PARTIES.map(str::to_owned),
        it.revision
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// A service has taken along what it had, as of a revision of the organization.
pub(crate) async fn closed(tx: &mut Tx, id: OrgId, service: &str, revision: i64) -> Result<()> {
    let now = tx.now;
    query!(
        "update closing set closed_at = $4 where org_id = $1 and service = $2 and revision <= $3",
        id.0,
        service,
        revision,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Nobody has anything to take along any more.
pub(crate) async fn delete_closing(tx: &mut Tx, id: OrgId) -> Result<()> {
    query!("delete from closing where org_id = $1", id.0).execute(tx.conn()).await?;
    Ok(())
}

/// The organization that was deleted longest before a moment, but for some, and can be restored no more. Of
/// every tenant.
pub(crate) async fn due_for_purge(
    db: &Db,
    before: OffsetDateTime,
    but: &[OrgId],
) -> Result<Option<OrgId>> {
    let but: Vec<Uuid> = but.iter().map(|it| it.0).collect();
    let id = query_scalar!(
        "select id from organization where deleted_at <= $1 and id <> all ($2)
         order by deleted_at limit 1",
        before,
        &but
    );
    Ok(id.fetch_optional(db.pool()).await?)
}

/// Deletes an organization with all that is in it, and stores the event.
pub(crate) async fn purge(tx: &mut Tx, purged: Changed<Organization>) -> Result<()> {
    let id = purged.state().id;
    query!("delete from project_grant where org_id = $1", id.0).execute(tx.conn()).await?;
    query!("delete from team_member where org_id = $1", id.0).execute(tx.conn()).await?;
    query!("delete from team where org_id = $1", id.0).execute(tx.conn()).await?;
    query!("delete from api_key where org_id = $1", id.0).execute(tx.conn()).await?;
    query!("delete from project where org_id = $1", id.0).execute(tx.conn()).await?;
    query!("delete from member where org_id = $1", id.0).execute(tx.conn()).await?;
    query!("delete from access_fact where org_id = $1", id.0).execute(tx.conn()).await?;
    query!("delete from access_change where org_id = $1", id.0).execute(tx.conn()).await?;
    query!("delete from closing where org_id = $1", id.0).execute(tx.conn()).await?;
    query!("delete from organization where id = $1", id.0).execute(tx.conn()).await?;
    tx.emit(purged);
    Ok(())
}

/// How many teams an organization has.
pub(crate) async fn teams(db: &Db, id: OrgId) -> Result<i64> {
    let count = query_scalar!(r#"select count(*) as "count!" from team where org_id = $1"#, id.0);
    Ok(count.fetch_one(db.pool()).await?)
}

/// What the plan of an organization allows, and nothing else: it is asked for before each creation elsewhere.
pub(crate) async fn limits(db: &Db, id: OrgId) -> Result<Limits> {
    let rows = query!(
        "select key, value from plan_limit join organization using (plan) where organization.id = $1",
        id.0
    );
    let rows = rows.fetch_all(db.pool()).await?;
    Ok(Limits(rows.into_iter().map(|it| (it.key, it.value)).collect()))
}
