//! SQL of organizations.

use chassis::{Changed, Db, Error, OnConstraint, OrgId, Result, Tx, UserId, page::Page};
use identity_rules::{
    member::Member,
    organization::{CLEANUP_PARTICIPANTS, Limits, Organization, Plan, Refused},
    types::{ConsistencyToken, StoredText},
};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    column::{Stored, StoredLimits},
    member,
};

/// Locks an organization and returns it. Every change of members, teams, grants, API keys and limits takes
/// this lock first.
pub(crate) async fn lock(tx: &mut Tx, id: OrgId) -> Result<Organization> {
    // A statement of its own: the next one also reads other tables, and must see rows that were committed
    // while this one waited.
    query!("select id from organization where id = $1 for update", id.0)
        .fetch_optional(tx.conn())
        .await?;
    let organization = query_as!(
        Organization,
        r#"select organization.id, name, slug, plan, owner_id, subscription, access_version, revision,
                  organization.created_at, deleted_at,
                  member_count as members, project_count as projects, seat_limit,
                  coalesce((select jsonb_object_agg(key, value) from plan_limit
                   where plan_limit.plan = organization.plan), '{}') as "limits!: StoredLimits",
                  array(select service from closing where closing.org_id = organization.id
                        and closed_at is null order by service) as "pending_cleanup!"
           from organization where id = $1"#,
        id.0
    );
    organization.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound("organization"))
}

/// Increments the access version, and records the event that causes it. Must be called before the rows of
/// members, teams, projects or grants change: triggers on them record the new version.
pub(crate) async fn bump_access_version<T>(
    tx: &mut Tx,
    id: OrgId,
    cause: &Changed<T>,
) -> Result<ConsistencyToken> {
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
    let access_version = version.fetch_one(tx.conn()).await?;
    Ok(ConsistencyToken { org_id: id, access_version })
}

/// Counts the organizations that an account has created and not deleted. Locks the account, so that
/// concurrent creations count each other.
pub(crate) async fn count_created_by(tx: &mut Tx, user_id: UserId) -> Result<i64> {
    query!("select id from account where id = $1 for update", user_id.0)
        .fetch_optional(tx.conn())
        .await?;
    let count = query_scalar!(
        r#"select count(*) as "count!" from organization where created_by = $1 and deleted_at is null"#,
        user_id.0
    );
    Ok(count.fetch_one(tx.conn()).await?)
}

/// Returns true if an organization has the slug. Concurrent calls for the same slug wait for the end of this
/// transaction.
pub(crate) async fn is_slug_taken(tx: &mut Tx, slug: &str) -> Result<bool> {
    query!("select pg_advisory_xact_lock(4, hashtext($1))", slug).execute(tx.conn()).await?;
    let is_taken = query_scalar!(
        r#"select exists (
               select from organization where slug = $1 and deleted_at is null
           ) as "is_taken!""#,
        slug
    );
    Ok(is_taken.fetch_one(tx.conn()).await?)
}

/// Stores a new organization, its owner and its event.
pub(crate) async fn insert(
    tx: &mut Tx,
    created: Changed<(Organization, Member)>,
) -> Result<(Organization, Member)> {
    let (organization, owner) = created.state();
    query!(
        "insert into organization (id, name, slug, plan, owner_id, created_by, access_version, created_at)
         values ($1, $2, $3, $4, $5, $5, $6, $7)",
        organization.id as _,
        organization.name,
        organization.slug,
        Stored(organization.plan) as _,
        organization.owner_id as _,
        organization.access_version,
        organization.created_at,
    )
    .execute(tx.conn())
    .await
    .on_constraint("organization_slug", Refused::SlugTaken(organization.slug.clone()))?;
    let event_id = created.event_id();
    let now = tx.now;
    query!(
        "insert into access_change (org_id, version, event_id, changed_at) values ($1, $2, $3, $4)",
        organization.id as _,
        organization.access_version,
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
    // Read again: the plan may have other limits, and the access version has changed.
    lock(tx, id).await
}

/// Stores a change of the owner and its event. The old owner's role changes first, so that there are never
/// two owners.
pub(crate) async fn transfer(
    tx: &mut Tx,
    changed: Changed<(Organization, Member, Member)>,
) -> Result<Organization> {
    let (organization, from, to) = changed.state();
    update_row(tx, organization).await?;
    member::store::update_role_row(tx, from).await?;
    member::store::update_role_row(tx, to).await?;
    let id = organization.id;
    tx.emit(changed);
    lock(tx, id).await
}

/// Stores a changed organization without emitting an event.
async fn update_row(tx: &mut Tx, organization: &Organization) -> Result<()> {
    query!(
        "update organization set name = $2, slug = $3, plan = $4, owner_id = $5, subscription = $6,
                deleted_at = $7, revision = $8
         where id = $1",
        organization.id as _,
        organization.name,
        organization.slug,
        Stored(organization.plan) as _,
        organization.owner_id as _,
        Stored(organization.subscription) as _,
        organization.deleted_at,
        organization.revision,
    )
    .execute(tx.conn())
    .await
    .on_constraint("organization_slug", Refused::SlugTaken(organization.slug.clone()))?;
    Ok(())
}

/// Returns an organization, or `NotFound`.
pub(crate) async fn get(db: &Db, id: OrgId) -> Result<Organization> {
    let organization = query_as!(
        Organization,
        r#"select organization.id, name, slug, plan, owner_id, subscription, access_version, revision,
                  organization.created_at, deleted_at,
                  member_count as members, project_count as projects, seat_limit,
                  coalesce((select jsonb_object_agg(key, value) from plan_limit
                   where plan_limit.plan = organization.plan), '{}') as "limits!: StoredLimits",
                  array(select service from closing where closing.org_id = organization.id
                        and closed_at is null order by service) as "pending_cleanup!"
           from organization where id = $1"#,
        id.0
    );
    organization.fetch_optional(db.pool()).await?.ok_or(Error::NotFound("organization"))
}

/// Returns a page of the organizations of an account; with `deleted`, also the deleted ones that it owns.
pub(crate) async fn list_of_user(
    db: &Db,
    user_id: UserId,
    deleted: bool,
    page: &Page,
) -> Result<Vec<Organization>> {
    let organizations = query_as!(
        Organization,
        r#"select organization.id, name, slug, plan, owner_id, subscription, access_version, revision,
                  organization.created_at, deleted_at,
                  member_count as members, project_count as projects, seat_limit,
                  coalesce((select jsonb_object_agg(key, value) from plan_limit
                   where plan_limit.plan = organization.plan), '{}') as "limits!: StoredLimits",
                  array(select service from closing where closing.org_id = organization.id
                        and closed_at is null order by service) as "pending_cleanup!"
           from organization join member on member.org_id = organization.id
           where member.user_id = $1
                 and member.org_id > coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid)
                 and (deleted_at is null or ($4 and owner_id = $1))
           order by member.org_id limit $3"#,
        user_id.0,
        page.after::<Uuid>()?,
        page.limit(),
        deleted,
    );
    Ok(organizations.fetch_all(db.pool()).await?)
}

/// Records that every cleanup participant must delete its data of a deleted organization.
pub(crate) async fn start_cleanup(tx: &mut Tx, organization: &Organization) -> Result<()> {
    query!(
        "insert into closing (org_id, service, revision) select $1, unnest($2::text[]), $3
         on conflict (org_id, service) do update set revision = excluded.revision, closed_at = null",
        organization.id as _,
        &CLEANUP_PARTICIPANTS.map(str::to_owned),
        organization.revision
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Records that a service has deleted its data. Ignored if the organization was restored and deleted again
/// since: `revision` identifies the deletion.
pub(crate) async fn finish_cleanup(
    tx: &mut Tx,
    id: OrgId,
    service: &str,
    revision: i64,
) -> Result<()> {
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

/// Deletes the records of the cleanup of a restored organization.
pub(crate) async fn cancel_cleanup(tx: &mut Tx, id: OrgId) -> Result<()> {
    query!("delete from closing where org_id = $1", id.0).execute(tx.conn()).await?;
    Ok(())
}

/// Returns the organization that was deleted first among those deleted until `before`, without `excluded`,
/// and without those whose subscription has not ended at the billing provider.
pub(crate) async fn next_for_purge(
    db: &Db,
    before: OffsetDateTime,
    excluded: &[OrgId],
) -> Result<Option<OrgId>> {
    let excluded: Vec<Uuid> = excluded.iter().map(|it| it.0).collect();
    let id = query_scalar!(
        "select id from organization where deleted_at <= $1 and id <> all ($2)
             and not exists (select from subscription where org_id = id and provider_id is not null)
         order by deleted_at limit 1",
        before,
        &excluded
    );
    Ok(id.fetch_optional(db.pool()).await?)
}

/// Deletes an organization with everything that belongs to it, and stores the event.
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
    query!("delete from billing_event where org_id = $1", id.0).execute(tx.conn()).await?;
    query!("delete from subscription where org_id = $1", id.0).execute(tx.conn()).await?;
    query!("delete from organization where id = $1", id.0).execute(tx.conn()).await?;
    tx.emit(purged);
    Ok(())
}

/// Stores the largest number of members that the paid seats allow.
pub(crate) async fn set_seat_limit(tx: &mut Tx, id: OrgId, limit: Option<i64>) -> Result<()> {
    query!("update organization set seat_limit = $2 where id = $1", id.0, limit)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Returns the limits of a plan.
pub(crate) async fn limits_of_plan(db: &Db, plan: Plan) -> Result<Limits> {
    let rows = query!("select key, value from plan_limit where plan = $1", plan.as_text());
    let rows = rows.fetch_all(db.pool()).await?;
    Ok(Limits(rows.into_iter().map(|row| (row.key, row.value)).collect()))
}

/// Counts the teams of an organization.
pub(crate) async fn count_teams(db: &Db, id: OrgId) -> Result<i64> {
    let count = query_scalar!(r#"select count(*) as "count!" from team where org_id = $1"#, id.0);
    Ok(count.fetch_one(db.pool()).await?)
}

/// Returns the limits of an organization's plan. Reads nothing else: other services call this before each
/// creation.
pub(crate) async fn limits(db: &Db, id: OrgId) -> Result<Limits> {
    let rows = query!(
        "select key, value from plan_limit join organization using (plan) where organization.id = $1",
        id.0
    );
    let rows = rows.fetch_all(db.pool()).await?;
    Ok(Limits(rows.into_iter().map(|row| (row.key, row.value)).collect()))
}
