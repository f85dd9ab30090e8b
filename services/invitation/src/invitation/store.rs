//! Every SQL statement about invitations.

use std::collections::HashMap;

use chassis::{Changed, Db, Error, Grant, OrgId, ProjectId, Result, Tx, UserId, page::Page};
use sqlx::{query, query_as, query_scalar};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{Invitation, InvitationId};

/// Selects whole invitations: the rest of the statement after `from invitation`, and its arguments.
macro_rules! invitations {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        query_as!(
            Invitation,
            "select id, org_id, email, canonical_email, role, project_access, message, max_uses, use_count,
                    secret_hash, inviter_id, inviter_name, org_name, created_at, expires_at, revoked_at,
                    team_ids, copied_hash, mailed_at, mail_count, revoke_cause, revoker_id, expiry_told_at,
                    cleaned_at
             from invitation " + $rest
            $(, $argument)*
        )
    };
}

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

/// How long an organization has to wait before it may make one more invitation: `max` in an hour, four times
/// as many in a day. Calls at the same time can each take the last place; it is a guard, not a quota.
pub(crate) async fn wait(tx: &mut Tx, org_id: OrgId, max: i64) -> Result<Option<Duration>> {
    let row = query!(
        r#"select (select created_at from invitation where org_id = $1
                   order by created_at desc offset $2 limit 1) + interval '1 hour' as hour,
                  (select created_at from invitation where org_id = $1
                   order by created_at desc offset $3 limit 1) + interval '1 day' as day"#,
        org_id.0,
        max - 1,
        max * 4 - 1,
    )
    .fetch_one(tx.conn())
    .await?;
    let until = row.hour.max(row.day).filter(|it| *it > tx.now);
    Ok(until.map(|it| it - tx.now))
}

/// Stores a new invitation and its event.
pub(crate) async fn insert(tx: &mut Tx, created: Changed<Invitation>) -> Result<Invitation> {
    let it = created.state();
    query!(
        "insert into invitation (id, org_id, email, canonical_email, role, project_access, message, max_uses,
             secret_hash, copied_hash, inviter_id, inviter_name, org_name, created_at, expires_at, team_ids,
             mailed_at, mail_count)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
        it.id as _,
        it.org_id as _,
        it.email as _,
        it.canonical_email,
        it.role,
        &it.project_access as _,
        it.message,
        it.max_uses,
        it.secret_hash,
        it.copied_hash,
        it.inviter_id as _,
        it.inviter_name,
        it.org_name,
        it.created_at,
        it.expires_at,
        &it.team_ids,
        &it.mailed_at,
        it.mail_count,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(created))
}

/// Loads an invitation by the id in its link and keeps others from changing it.
pub(crate) async fn lock_by_link(tx: &mut Tx, id: Uuid) -> Result<Option<Invitation>> {
    // By id alone (no org_id): the link's secret or the invited address, checked next, is the proof.
    let it = invitations!("where id = $1 for update", id);
    Ok(it.fetch_optional(tx.conn()).await?)
}

/// Loads an invitation and keeps others from changing it.
pub(crate) async fn lock(tx: &mut Tx, org_id: OrgId, id: InvitationId) -> Result<Invitation> {
    let it = invitations!("where org_id = $1 and id = $2 for update", org_id.0, id.0);
    let it = it.fetch_optional(tx.conn()).await?.filter(|it| it.cleaned_at.is_none());
    it.ok_or(Error::NotFound(InvitationId::NOUN))
}

/// Loads the unrevoked invitations of an inviter and keeps others from changing them.
pub(crate) async fn lock_of_inviter(
    tx: &mut Tx,
    org_id: OrgId,
    inviter_id: UserId,
) -> Result<Vec<Invitation>> {
    let invitations = invitations!(
        "where org_id = $1 and inviter_id = $2 and revoked_at is null
         order by id for update",
        org_id.0,
        inviter_id.0
    );
    Ok(invitations.fetch_all(tx.conn()).await?)
}

/// The invitations of an organization that were not revoked, locked.
pub(crate) async fn lock_all(tx: &mut Tx, org_id: OrgId) -> Result<Vec<Invitation>> {
    let invitations =
        invitations!("where org_id = $1 and revoked_at is null order by id for update", org_id.0);
    Ok(invitations.fetch_all(tx.conn()).await?)
}

/// Invitations whose expiry is not told yet, locked; what another replica tells is left to it.
pub(crate) async fn lock_expired(tx: &mut Tx, limit: i64) -> Result<Vec<Invitation>> {
    let now = tx.now;
    // Of every organization (no org_id): a timer works for all.
    let invitations = invitations!(
        "where expiry_told_at is null and revoked_at is null and expires_at <= $1
         order by expires_at limit $2 for update skip locked",
        now,
        limit
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

/// Takes what is no longer pending out of the list; answers how many (IN-23).
pub(crate) async fn clean_up(tx: &mut Tx, org_id: OrgId) -> Result<u64> {
    let now = tx.now;
    let cleaned = query!(
        "update invitation set cleaned_at = $2
         where org_id = $1 and cleaned_at is null
           and (revoked_at is not null or use_count >= max_uses or expires_at <= $2)",
        org_id.0,
        now
    );
    Ok(cleaned.execute(tx.conn()).await?.rows_affected())
}

/// Takes a project that is gone out of the invitations that name it.
pub(crate) async fn forget_project(tx: &mut Tx, org_id: OrgId, id: ProjectId) -> Result<()> {
    query!(
        "update invitation set project_access = coalesce(
             (select jsonb_agg(it) from jsonb_array_elements(project_access) as it
              where it ->> 'project_id' <> $2), '[]')
         where org_id = $1
           and project_access @> jsonb_build_array(jsonb_build_object('project_id', $2::text))",
        org_id.0,
        id.to_string()
    )
    .execute(tx.conn())
    .await?;
    Ok(())
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

/// Loads the invitations to an address and keeps others from changing them.
pub(crate) async fn lock_to(tx: &mut Tx, canonical_email: &str) -> Result<Vec<Invitation>> {
    // Of every organization (no org_id): the address is one person's.
    let invitations =
        invitations!("where canonical_email = $1 order by id for update", canonical_email);
    Ok(invitations.fetch_all(tx.conn()).await?)
}

/// Stores an invitation without the address that it went to, and without what a mail server said of it.
pub(crate) async fn erase(tx: &mut Tx, it: &Invitation) -> Result<()> {
    query!(
        "update invitation set email = $3, canonical_email = $4 where org_id = $1 and id = $2",
        it.org_id as _,
        it.id as _,
        &it.email as _,
        it.canonical_email,
    )
    .execute(tx.conn())
    .await?;
    query!("update mail set last_error = null where subject_id = $1", it.id.0)
        .execute(tx.conn())
        .await?;
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

/// Stores a use and its event; with the last use, also that the invitation has expired.
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
    let it = update(tx, accepted).await?;
    if it.expiry_told_at == Some(now) { Ok(tx.emit(it.expired(now))) } else { Ok(it) }
}

/// Stores an invitation as it is now, and its event.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<Invitation>) -> Result<Invitation> {
    let it = changed.state();
    query!(
        "update invitation set use_count = $3, revoked_at = $4, revoke_cause = $5, revoker_id = $6,
             mailed_at = $7, mail_count = $8, expiry_told_at = $9
         where org_id = $1 and id = $2",
        it.org_id as _,
        it.id as _,
        it.use_count,
        it.revoked_at,
        it.revoke_cause,
        it.revoker_id.map(|it| it.0),
        &it.mailed_at,
        it.mail_count,
        it.expiry_told_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(changed))
}

/// One invitation.
pub(crate) async fn get(db: &Db, grant: &Grant, id: InvitationId) -> Result<Invitation> {
    let it = invitations!(
        "where org_id = $1 and id = $2 and cleaned_at is null",
        grant.org_id().0,
        id.0
    );
    it.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(InvitationId::NOUN))
}

/// One invitation by the id in its link.
pub(crate) async fn get_by_link(db: &Db, id: Uuid) -> Result<Option<Invitation>> {
    // By id alone (no org_id): the link's secret, checked next, is the proof.
    let it = invitations!("where id = $1", id);
    Ok(it.fetch_optional(db.pool()).await?)
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

/// A page of the invitations of an organization, newest first; of one state only, if one is named, and with
/// a part of the address, if one is.
pub(crate) async fn list(
    db: &Db,
    grant: &Grant,
    (state, part): (Option<&str>, &str),
    page: &Page,
) -> Result<Vec<Invitation>> {
    let invitations = invitations!(
        "where org_id = $1 and cleaned_at is null and ($2::uuid is null or id < $2)
           and ($3::text is null or $3 = case
               when revoked_at is not null then 'revoked'
               when use_count >= max_uses or expires_at <= $4 then 'expired'
               else 'pending' end)
           and ($6 = '' or strpos(lower(email), lower($6)) > 0)
         order by id desc limit $5",
        grant.org_id().0,
        page.after::<Uuid>()?,
        state,
        db.now(),
        page.limit(),
        part,
    );
    Ok(invitations.fetch_all(db.pool()).await?)
}

/// A page of the pending single-use invitations to an address, newest first.
pub(crate) async fn list_mine(
    db: &Db,
    canonical_email: &str,
    page: &Page,
) -> Result<Vec<Invitation>> {
    // Of every organization (no org_id): the confirmed address is the proof.
    let invitations = invitations!(
        "where canonical_email = $1 and revoked_at is null and max_uses = 1 and use_count = 0
           and expires_at > $2 and ($3::uuid is null or id < $3)
         order by id desc limit $4",
        canonical_email,
        db.now(),
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(invitations.fetch_all(db.pool()).await?)
}

/// What became of the newest mail of each invitation.
pub(crate) async fn mails(db: &Db, ids: &[Uuid]) -> Result<HashMap<Uuid, String>> {
    let rows = query!(
        "select distinct on (subject_id) subject_id, outcome from mail
         where subject_id = any($1) order by subject_id, id desc",
        ids
    );
    let rows = rows.fetch_all(db.pool()).await?;
    Ok(rows.into_iter().map(|it| (it.subject_id, it.outcome)).collect())
}

/// How many other invitations were mailed to an address since a moment, by all organizations together.
pub(crate) async fn mailed_since(db: &Db, it: &Invitation, since: OffsetDateTime) -> Result<i64> {
    // Of every organization (no org_id): the recipient is one, whoever sends.
    let count = query_scalar!(
        r#"select count(distinct invitation.id) as "count!"
           from invitation join mail on mail.subject_id = invitation.id
           where invitation.canonical_email = $1 and invitation.id <> $2
             and mail.outcome = 'SENT' and mail.sent_at > $3"#,
        it.canonical_email,
        it.id as _,
        since,
    );
    Ok(count.fetch_one(db.pool()).await?)
}
