//! SQL of members.

use chassis::{Changed, Db, Error, OnConstraint, OrgId, Result, Tx, UserId, fold, page::Page};
use identity_rules::{
    member::{Member, Refused},
    policy::OrgRole,
};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::column::Stored;

/// Stores a membership without emitting an event. For the owner of a new organization, whose event includes
/// the membership.
pub(crate) async fn insert_row(tx: &mut Tx, member: &Member) -> Result<()> {
    query!(
        "insert into member (id, org_id, user_id, role, invitation_id, created_at)
         values ($1, $2, $3, $4, $5, $6)",
        member.id,
        member.org_id as _,
        member.user_id as _,
        Stored(member.role) as _,
        member.invitation_id,
        member.created_at,
    )
    .execute(tx.conn())
    .await
    .on_constraint("member_pkey", Refused::AlreadyMember)?;
    Ok(())
}

/// Stores a new membership and its event.
pub(crate) async fn insert(tx: &mut Tx, joined: Changed<Member>) -> Result<Member> {
    insert_row(tx, joined.state()).await?;
    Ok(tx.emit(joined))
}

/// Returns a member; the transaction must hold the organization's lock.
pub(crate) async fn find(tx: &mut Tx, org_id: OrgId, user_id: UserId) -> Result<Option<Member>> {
    let member = query_as!(
        Member,
        r#"select member.id, org_id, user_id, email as "email: String", display_name,
                  email_verified_at is not null as "email_verified!", role, invitation_id,
                  member.created_at
           from member join account on account.id = member.user_id
           where org_id = $1 and user_id = $2"#,
        org_id.0,
        user_id.0
    );
    Ok(member.fetch_optional(tx.conn()).await?)
}

/// Returns the time at which the last membership of an account in an organization ended.
pub(crate) async fn last_end(
    tx: &mut Tx,
    org_id: OrgId,
    user_id: UserId,
) -> Result<Option<OffsetDateTime>> {
    let ended_at = query_scalar!(
        "select max(changed_at) from access_fact
         join access_change on access_change.org_id = access_fact.org_id and version = to_version
         where access_fact.org_id = $1 and kind = 'member' and subject_id = $2",
        org_id.0,
        user_id.0
    );
    Ok(ended_at.fetch_one(tx.conn()).await?)
}

/// Stores a changed role and its event.
pub(crate) async fn update_role(tx: &mut Tx, changed: Changed<Member>) -> Result<Member> {
    update_role_row(tx, changed.state()).await?;
    Ok(tx.emit(changed))
}

/// Stores a changed role without emitting an event.
pub(crate) async fn update_role_row(tx: &mut Tx, member: &Member) -> Result<()> {
    query!(
        "update member set role = $3 where org_id = $1 and user_id = $2",
        member.org_id as _,
        member.user_id as _,
        Stored(member.role) as _,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Deletes a membership and stores the event; its grants and team memberships must be deleted before.
pub(crate) async fn delete(tx: &mut Tx, removed: Changed<Member>) -> Result<Member> {
    let member = removed.state();
    query!(
        "delete from member where org_id = $1 and user_id = $2",
        member.org_id as _,
        member.user_id as _
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(removed))
}

/// Returns a member, or `NotFound`.
pub(crate) async fn get(db: &Db, org_id: OrgId, user_id: UserId) -> Result<Member> {
    let member = query_as!(
        Member,
        r#"select member.id, org_id, user_id, email as "email: String", display_name,
                  email_verified_at is not null as "email_verified!", role, invitation_id,
                  member.created_at
           from member join account on account.id = member.user_id
           where org_id = $1 and user_id = $2"#,
        org_id.0,
        user_id.0
    );
    member.fetch_optional(db.pool()).await?.ok_or(Error::NotFound("member"))
}

/// Returns those of the canonical addresses that belong to members.
pub(crate) async fn find_addresses(
    db: &Db,
    org_id: OrgId,
    canonical: &[String],
) -> Result<Vec<String>> {
    let found = query_scalar!(
        "select account.canonical_email from member join account on account.id = member.user_id
         where member.org_id = $1 and account.canonical_email = any($2)",
        org_id.0,
        canonical
    );
    Ok(found.fetch_all(db.pool()).await?)
}

/// Returns a page of the members whose name or address contains `text`; with `role`, only those with that
/// role.
pub(crate) async fn list(
    db: &Db,
    org_id: OrgId,
    text: &str,
    role: Option<OrgRole>,
    page: &Page,
) -> Result<Vec<Member>> {
    let members = query_as!(
        Member,
        r#"select member.id, org_id, user_id, email as "email: String", display_name,
                  email_verified_at is not null as "email_verified!", role, invitation_id,
                  member.created_at
           from member join account on account.id = member.user_id
           where org_id = $1 and member.id > coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid)
                 and ($5::text is null or role = $5)
                 and ($4 = '' or strpos(search_key, $4) > 0)
           order by member.id limit $3"#,
        org_id.0,
        page.after::<Uuid>()?,
        page.limit(),
        fold::key(text),
        role.map(Stored) as _,
    );
    Ok(members.fetch_all(db.pool()).await?)
}
