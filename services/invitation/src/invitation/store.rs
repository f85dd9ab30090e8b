//! Every SQL statement about invitations.

use std::collections::HashMap;

use api::invitation::{InvitationState, MailState};
use chassis::{Changed, Db, Error, Grant, OrgId, ProjectId, Result, Tx, UserId, fold, page::Page};
use sqlx::{query, query_as, query_scalar};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;
use worker::retention::BATCH;

use super::{Invitation, InvitationId};

/// Retention of invitations after their expiry; the audit log keeps their events for longer.
const RETENTION: Duration = Duration::days(90);

/// Selects whole invitations. Takes the rest of the statement after `from invitation`, and its arguments.
macro_rules! invitations {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        query_as!(
            Invitation,
            "select id, org_id, email, canonical_email, role, project_access, message, max_uses, use_count,
                    secret_hash, inviter_id, inviter_name, org_name, created_at, expires_at, revoked_at,
                    team_ids, copied_hash, mailed_at, mail_count, revoke_cause, revoker_id, expiry_event_at,
                    cleaned_at, link_generation, renewed_at
             from invitation " + $rest
            $(, $argument)*
        )
    };
}

pub(crate) mod by_person;

/// Filter of a list.
pub(crate) struct Filter<'a> {
    /// UNSPECIFIED for all states.
    pub(crate) state: InvitationState,
    /// Part of the e-mail address; empty for all addresses.
    pub(crate) search: &'a str,
}

/// The pending single-use invitation to an address. Until the transaction ends, no other transaction creates
/// one.
pub(crate) async fn lock_pending_for(
    tx: &mut Tx,
    org_id: OrgId,
    canonical_email: &str,
) -> Result<Option<InvitationId>> {
    let key = format!("{org_id} {canonical_email}");
    // The seed of the hash (1) differs from those of other locks, so that equal keys do not collide.
    query!("select pg_advisory_xact_lock(hashtextextended($1, 1))", key)
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

/// Time for which an organization must wait before its next invitation, with `max` invitations in an hour and
/// four times as many in a day. Not exact: concurrent calls can exceed the limit.
pub(crate) async fn rate_limit_wait(
    tx: &mut Tx,
    org_id: OrgId,
    max: i64,
) -> Result<Option<Duration>> {
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
    let invitation = created.state();
    query!(
        "insert into invitation (id, org_id, email, canonical_email, role, project_access, message, max_uses,
             secret_hash, copied_hash, inviter_id, inviter_name, org_name, created_at, expires_at, team_ids,
             mailed_at, mail_count, search_key)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)",
        invitation.id as _,
        invitation.org_id as _,
        invitation.email as _,
        invitation.canonical_email,
        invitation.role as _,
        &invitation.project_access as _,
        invitation.message,
        invitation.max_uses,
        invitation.secret_hash,
        invitation.copied_hash,
        invitation.inviter_id as _,
        invitation.inviter_name,
        invitation.org_name,
        invitation.created_at,
        invitation.expires_at,
        &invitation.team_ids,
        &invitation.mailed_at,
        invitation.mail_count,
        fold::key(&invitation.email.0),
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(created))
}

/// Locks an invitation by the id in its link.
pub(crate) async fn lock_by_link(tx: &mut Tx, id: Uuid) -> Result<Option<Invitation>> {
    // By id alone (no org_id): the caller checks the secret of the link or the e-mail address.
    let invitation = invitations!("where id = $1 for update", id);
    Ok(invitation.fetch_optional(tx.conn()).await?)
}

/// Locks an invitation that was not removed from the list.
pub(crate) async fn lock(tx: &mut Tx, org_id: OrgId, id: InvitationId) -> Result<Invitation> {
    let invitation = invitations!("where org_id = $1 and id = $2 for update", org_id.0, id.0);
    let invitation = invitation.fetch_optional(tx.conn()).await?;
    let listed = invitation.filter(|it| it.cleaned_at.is_none());
    listed.ok_or(Error::NotFound(InvitationId::NOUN))
}

/// Locks the pending invitations of an organization, of one inviter if one is given.
pub(crate) async fn lock_pending(
    tx: &mut Tx,
    org_id: OrgId,
    inviter_id: Option<UserId>,
) -> Result<Vec<Invitation>> {
    let now = tx.now;
    let invitations = invitations!(
        "where org_id = $1 and revoked_at is null and use_count < max_uses and expires_at > $2
           and ($3::uuid is null or inviter_id = $3)
         order by id for update",
        org_id.0,
        now,
        inviter_id.map(|it| it.0),
    );
    Ok(invitations.fetch_all(tx.conn()).await?)
}

/// Locks expired invitations without an event of the expiry; skips those that another process has locked.
pub(crate) async fn lock_expired(tx: &mut Tx, limit: i64) -> Result<Vec<Invitation>> {
    let now = tx.now;
    // Of every organization (no org_id): the job works for all.
    let invitations = invitations!(
        "where expiry_event_at is null and revoked_at is null and expires_at <= $1
         order by expires_at limit $2 for update skip locked",
        now,
        limit
    );
    Ok(invitations.fetch_all(tx.conn()).await?)
}

/// Counts the pending invitations of an organization.
pub(crate) async fn count_pending(db: &Db, org_id: OrgId) -> Result<i64> {
    let count = query_scalar!(
        r#"select count(*) as "count!" from invitation
           where org_id = $1 and revoked_at is null and use_count < max_uses and expires_at > $2"#,
        org_id.0,
        db.now()
    );
    Ok(count.fetch_one(db.pool()).await?)
}

/// Removes ended invitations from the list. Returns their number (IN-23).
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

/// Removes a project from the project access of invitations.
pub(crate) async fn remove_project(tx: &mut Tx, org_id: OrgId, id: ProjectId) -> Result<()> {
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

/// Deletes the invitations of an organization.
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

/// Locks the invitations to an address.
pub(crate) async fn lock_of_address(tx: &mut Tx, canonical_email: &str) -> Result<Vec<Invitation>> {
    // Of every organization (no org_id): the address belongs to one person.
    let invitations =
        invitations!("where canonical_email = $1 order by id for update", canonical_email);
    Ok(invitations.fetch_all(tx.conn()).await?)
}

/// Stores the replaced address of an invitation, and deletes the error messages of its mails, which can
/// contain the address.
pub(crate) async fn replace_address(tx: &mut Tx, invitation: &Invitation) -> Result<()> {
    query!(
        "update invitation set email = $3, canonical_email = $4, search_key = $4
         where org_id = $1 and id = $2",
        invitation.org_id as _,
        invitation.id as _,
        &invitation.email as _,
        invitation.canonical_email,
    )
    .execute(tx.conn())
    .await?;
    // (no org_id): the subject is an invitation that is locked already.
    query!("update mail set last_error = null where subject_id = $1", invitation.id.0)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Stores the new state of an invitation and its event.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<Invitation>) -> Result<Invitation> {
    let invitation = changed.state();
    query!(
        "update invitation set use_count = $3, revoked_at = $4, revoke_cause = $5, revoker_id = $6,
             mailed_at = $7, mail_count = $8, expiry_event_at = $9, expires_at = $10, secret_hash = $11,
             copied_hash = $12, link_generation = $13, renewed_at = $14
         where org_id = $1 and id = $2",
        invitation.org_id as _,
        invitation.id as _,
        invitation.use_count,
        invitation.revoked_at,
        invitation.revoke_cause as _,
        invitation.revoker_id.map(|it| it.0),
        &invitation.mailed_at,
        invitation.mail_count,
        invitation.expiry_event_at,
        invitation.expires_at,
        invitation.secret_hash,
        invitation.copied_hash,
        invitation.link_generation,
        invitation.renewed_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(changed))
}

/// An invitation that was not removed from the list.
pub(crate) async fn get(db: &Db, grant: &Grant, id: InvitationId) -> Result<Invitation> {
    let invitation = invitations!(
        "where org_id = $1 and id = $2 and cleaned_at is null",
        grant.org_id().0,
        id.0
    );
    invitation.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(InvitationId::NOUN))
}

/// An invitation by the id in its link.
pub(crate) async fn get_by_link(db: &Db, id: Uuid) -> Result<Option<Invitation>> {
    // By id alone (no org_id): the caller checks the secret of the link.
    let invitation = invitations!("where id = $1", id);
    Ok(invitation.fetch_optional(db.pool()).await?)
}

/// A page of the invitations of an organization, newest first.
pub(crate) async fn list(
    db: &Db,
    grant: &Grant,
    filter: &Filter<'_>,
    page: &Page,
) -> Result<Vec<Invitation>> {
    let state = match filter.state {
        InvitationState::Unspecified => None,
        InvitationState::Pending => Some("pending"),
        InvitationState::Expired => Some("expired"),
        InvitationState::Revoked => Some("revoked"),
    };
    let invitations = invitations!(
        "where org_id = $1 and cleaned_at is null
           and id < coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
           and ($3::text is null or $3 = case
               when revoked_at is not null then 'revoked'
               when use_count >= max_uses or expires_at <= $4 then 'expired'
               else 'pending' end)
           and ($6 = '' or strpos(search_key, $6) > 0)
         order by id desc limit $5",
        grant.org_id().0,
        page.after::<Uuid>()?,
        state,
        db.now(),
        page.limit(),
        fold::key(filter.search),
    );
    Ok(invitations.fetch_all(db.pool()).await?)
}

/// A page of the pending single-use invitations to an address, newest first.
pub(crate) async fn list_mine(
    db: &Db,
    canonical_email: &str,
    page: &Page,
) -> Result<Vec<Invitation>> {
    // Of every organization (no org_id): the caller has confirmed the address.
    let invitations = invitations!(
        "where canonical_email = $1 and revoked_at is null and max_uses = 1 and use_count = 0
           and expires_at > $2 and id < coalesce($3, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
         order by id desc limit $4",
        canonical_email,
        db.now(),
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(invitations.fetch_all(db.pool()).await?)
}

/// State of the newest mail of each invitation.
pub(crate) async fn mail_states(db: &Db, ids: &[Uuid]) -> Result<HashMap<Uuid, MailState>> {
    // (no org_id): the subjects are invitations of one organization.
    let rows = query!(
        "select distinct on (subject_id) subject_id, outcome from mail
         where subject_id = any($1) order by subject_id, id desc",
        ids
    );
    let state = |outcome: &str| {
        MailState::from_str_name(&format!("MAIL_STATE_{outcome}")).unwrap_or_default()
    };
    let rows = rows.fetch_all(db.pool()).await?;
    Ok(rows.into_iter().map(|row| (row.subject_id, state(&row.outcome))).collect())
}

/// Counts the other invitations that all organizations mailed to the same address since a time.
pub(crate) async fn mailed_since(
    db: &Db,
    invitation: &Invitation,
    since: OffsetDateTime,
) -> Result<i64> {
    // Of every organization (no org_id): the limit is per recipient.
    let count = query_scalar!(
        r#"select count(distinct invitation.id) as "count!"
           from invitation join mail on mail.subject_id = invitation.id
           where invitation.canonical_email = $1 and invitation.id <> $2
             and mail.outcome = 'SENT' and mail.sent_at > $3"#,
        invitation.canonical_email,
        invitation.id as _,
        since,
    );
    Ok(count.fetch_one(db.pool()).await?)
}

/// Deletes invitations that expired long ago, with their acceptances, one batch at a time. Those without an
/// event of the expiry wait for it.
pub(crate) async fn delete_old(tx: &mut Tx) -> Result<u64> {
    let before = tx.now - RETENTION;
    // Of every organization (no org_id): the retention job works for all.
    let ids = query_scalar!(
        "select id from invitation
         where expires_at < $1 and (expiry_event_at is not null or revoked_at is not null)
         order by expires_at limit $2 for update",
        before,
        BATCH
    );
    let ids: Vec<Uuid> = ids.fetch_all(tx.conn()).await?.into_iter().map(|it| it.0).collect();
    query!("delete from acceptance where invitation_id = any($1)", &ids).execute(tx.conn()).await?;
    let deleted = query!("delete from invitation where id = any($1)", &ids);
    Ok(deleted.execute(tx.conn()).await?.rows_affected())
}
