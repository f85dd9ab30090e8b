//! Every SQL statement about invitations.

use chassis::{Changed, Db, Error, Grant, OrgId, Result, Tx, UserId, page::Page};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Invitation, InvitationId};

/// One use of an invitation.
pub(crate) struct Acceptance {
    pub(crate) user_id: UserId,
    pub(crate) accepted_at: OffsetDateTime,
}

/// The pending single-use invitation for an address. Keeps others from making one, until the transaction
/// ends.
pub(crate) async fn pending_for(
    tx: &mut Tx,
    org_id: OrgId,
    canonical_email: &str,
) -> Result<Option<InvitationId>> {
    let place = format!("{org_id} {canonical_email}");
    query!("select pg_advisory_xact_lock(hashtextextended($1, 1))", place)
        .fetch_one(tx.conn())
        .await?;
    let now = tx.now;
    let id = query_scalar!(
        "select id from invitation
         where org_id = $1 and canonical_email = $2 and max_uses = 1 and use_count = 0
           and revoked_at is null and expires_at > $3",
        org_id.0,
        canonical_email,
        now,
    );
    Ok(id.fetch_optional(tx.conn()).await?)
}

/// Stores a new invitation and its event.
pub(crate) async fn insert(tx: &mut Tx, created: Changed<Invitation>) -> Result<Invitation> {
    let it = created.state();
    query!(
        "insert into invitation (id, org_id, email, canonical_email, role, project_access, message, max_uses,
             secret_hash, inviter_id, inviter_name, org_name, created_at, expires_at, team_ids)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        it.id as _,
        it.org_id as _,
        it.email as _,
        it.canonical_email,
        it.role,
        &it.project_access as _,
        it.message,
        it.max_uses,
        it.secret_hash,
        it.inviter_id as _,
        it.inviter_name,
        it.org_name,
        it.created_at,
        it.expires_at,
        &it.team_ids,
    )
    .execute(tx.conn())
    .await?;
    tx.emit(created).await
}

/// Loads an invitation by the id in its link and keeps others from changing it.
pub(crate) async fn lock_by_link(tx: &mut Tx, id: Uuid) -> Result<Option<Invitation>> {
    // By id alone (no org_id): the link's secret, checked next, is the proof.
    let invitation = query_as!(
        Invitation,
        "select id, org_id, email, canonical_email, role, project_access, team_ids, message,
                max_uses, use_count, secret_hash, inviter_id, inviter_name, org_name, created_at, expires_at,
                revoked_at
         from invitation where id = $1 for update",
        id
    );
    Ok(invitation.fetch_optional(tx.conn()).await?)
}

/// Loads an invitation and keeps others from changing it.
pub(crate) async fn lock(tx: &mut Tx, org_id: OrgId, id: InvitationId) -> Result<Invitation> {
    let invitation = query_as!(
        Invitation,
        "select id, org_id, email, canonical_email, role, project_access, team_ids, message,
                max_uses, use_count, secret_hash, inviter_id, inviter_name, org_name, created_at, expires_at,
                revoked_at
         from invitation where org_id = $1 and id = $2 for update",
        org_id.0,
        id.0
    );
    invitation.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(InvitationId::NOUN))
}

/// Loads the unrevoked invitations of an inviter and keeps others from changing them.
pub(crate) async fn lock_of_inviter(
    tx: &mut Tx,
    org_id: OrgId,
    inviter_id: UserId,
) -> Result<Vec<Invitation>> {
    let invitations = query_as!(
        Invitation,
        "select id, org_id, email, canonical_email, role, project_access, team_ids, message,
                max_uses, use_count, secret_hash, inviter_id, inviter_name, org_name, created_at, expires_at,
                revoked_at
         from invitation where org_id = $1 and inviter_id = $2 and revoked_at is null
         order by id for update",
        org_id.0,
        inviter_id.0
    );
    Ok(invitations.fetch_all(tx.conn()).await?)
}

/// The invitations of an organization that were not revoked, locked.
pub(crate) async fn lock_all(tx: &mut Tx, org_id: OrgId) -> Result<Vec<Invitation>> {
    let invitations = query_as!(
        Invitation,
        "select id, org_id, email, canonical_email, role, project_access, team_ids, message,
                max_uses, use_count, secret_hash, inviter_id, inviter_name, org_name, created_at, expires_at,
                revoked_at
         from invitation where org_id = $1 and revoked_at is null
         order by id for update",
        org_id.0
    );
    Ok(invitations.fetch_all(tx.conn()).await?)
}

/// How many invitations of an organization are pending.
pub(crate) async fn pending(db: &Db, org_id: OrgId) -> Result<i64> {
    let count = query_scalar!(
        r#"select count(*) as "count!" from invitation
           where org_id = $1 and revoked_at is null and use_count < max_uses and expires_at > $2"#,
        org_id.0,
        db.now()
    );
    Ok(count.fetch_one(db.pool()).await?)
}

/// Deletes everything of an organization.
pub(crate) async fn purge(tx: &mut Tx, org_id: OrgId) -> Result<()> {
    query!(
        "delete from acceptance using invitation
         where invitation.id = acceptance.invitation_id and invitation.org_id = $1",
        org_id.0
    )
    .execute(tx.conn())
    .await?;
    query!("delete from invitation where org_id = $1", org_id.0).execute(tx.conn()).await?;
    Ok(())
}

/// Whether an account used an invitation.
pub(crate) async fn accepted(tx: &mut Tx, id: InvitationId, user_id: UserId) -> Result<bool> {
    let found = query_scalar!(
        r#"select exists (select from acceptance where invitation_id = $1 and user_id = $2) as "found!""#,
        id.0,
        user_id.0
    );
    Ok(found.fetch_one(tx.conn()).await?)
}

/// Stores a use and its event.
pub(crate) async fn accept(
    tx: &mut Tx,
    accepted: Changed<Invitation>,
    user_id: UserId,
) -> Result<Invitation> {
    let (it, now) = (accepted.state(), tx.now);
    query!(
        "insert into acceptance (invitation_id, user_id, accepted_at) values ($1, $2, $3)",
        it.id as _,
        user_id.0,
        now,
    )
    .execute(tx.conn())
    .await?;
    update(tx, accepted).await
}

/// Stores an invitation as it is now, and its event.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<Invitation>) -> Result<Invitation> {
    let it = changed.state();
    query!(
        "update invitation set use_count = $3, revoked_at = $4 where org_id = $1 and id = $2",
        it.org_id as _,
        it.id as _,
        it.use_count,
        it.revoked_at,
    )
    .execute(tx.conn())
    .await?;
    tx.emit(changed).await
}

/// One invitation.
pub(crate) async fn get(db: &Db, grant: &Grant, id: InvitationId) -> Result<Invitation> {
    let invitation = query_as!(
        Invitation,
        "select id, org_id, email, canonical_email, role, project_access, team_ids, message,
                max_uses, use_count, secret_hash, inviter_id, inviter_name, org_name, created_at, expires_at,
                revoked_at
         from invitation where org_id = $1 and id = $2",
        grant.org_id().0,
        id.0
    );
    invitation.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(InvitationId::NOUN))
}

/// One invitation by the id in its link.
pub(crate) async fn get_by_link(db: &Db, id: Uuid) -> Result<Option<Invitation>> {
    // By id alone (no org_id): the link's secret, checked next, is the proof.
    let invitation = query_as!(
        Invitation,
        "select id, org_id, email, canonical_email, role, project_access, team_ids, message,
                max_uses, use_count, secret_hash, inviter_id, inviter_name, org_name, created_at, expires_at,
                revoked_at
         from invitation where id = $1",
        id
    );
    Ok(invitation.fetch_optional(db.pool()).await?)
}

/// Who used an invitation, oldest first.
pub(crate) async fn acceptances(db: &Db, id: InvitationId) -> Result<Vec<Acceptance>> {
    let acceptances = query_as!(
        Acceptance,
        "select user_id, accepted_at from acceptance where invitation_id = $1 order by accepted_at",
        id.0
    );
    Ok(acceptances.fetch_all(db.pool()).await?)
}

/// A page of the invitations of an organization, newest first; of one state only, if one is named.
pub(crate) async fn list(
    db: &Db,
    grant: &Grant,
    state: Option<&str>,
    page: &Page,
) -> Result<Vec<Invitation>> {
    let invitations = query_as!(
        Invitation,
        "select id, org_id, email, canonical_email, role, project_access, team_ids, message,
                max_uses, use_count, secret_hash, inviter_id, inviter_name, org_name, created_at, expires_at,
                revoked_at
         from invitation
         where org_id = $1 and ($2::uuid is null or id < $2)
           and ($3::text is null or $3 = case
               when revoked_at is not null then 'revoked'
               when use_count >= max_uses or expires_at <= $4 then 'expired'
               else 'pending' end)
         order by id desc limit $5",
        grant.org_id().0,
        page.after::<Uuid>()?,
        state,
        db.now(),
        page.limit(),
    );
    Ok(invitations.fetch_all(db.pool()).await?)
}
