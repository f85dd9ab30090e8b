//! Every SQL statement about the mail queue.

use chassis::{Result, Tx, id};
use sqlx::{query, query_as};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{NewMail, Priority, QueuedMail};

/// Mails to be claimed.
pub(super) struct Claim {
    pub(super) priority: Priority,
    /// Only mails of organizations with a greater id, if there is one.
    pub(super) after_org: Option<Uuid>,
    /// Largest number of mails.
    pub(super) limit: usize,
}

/// Stores a new mail.
pub(super) async fn insert(tx: &mut Tx, mail: NewMail<'_>) -> Result<()> {
    let now = tx.now;
    let traceparent = tx.traceparent().to_owned();
    query!(
        "insert into mail (id, template, subject_id, org_id, priority, due_at, created_at, traceparent)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        id::new(),
        mail.template,
        mail.subject_id,
        mail.org_id.map(|it| it.0).unwrap_or_default(),
        mail.priority as i16,
        mail.due_at,
        now,
        traceparent,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Claims mails that are due: of each organization in the order of their ids first the oldest mail, then the
/// second one. Moves the due time of each by the back-off (30 seconds, doubled with each attempt, at most 4
/// hours and 16 minutes), so that no other worker claims the mail while it is being sent.
pub(super) async fn claim(tx: &mut Tx, claim: &Claim) -> Result<Vec<QueuedMail>> {
    let now = tx.now;
    let limit = i64::try_from(claim.limit).unwrap_or(i64::MAX);
    // The recursion reads one index entry for each organization instead of all mails that are due.
    let mails = query_as!(
        QueuedMail,
        "with recursive sender as (
             (select org_id from mail
              where sent_at is null and priority = $1 and due_at <= $2 and ($3::uuid is null or org_id > $3)
              order by org_id limit 1)
             union all
             select (select mail.org_id from mail
                     where sent_at is null and priority = $1 and due_at <= $2 and mail.org_id > sender.org_id
                     order by mail.org_id limit 1)
             from sender where sender.org_id is not null
         ),
         candidate as (
             select queued.id
             from (select org_id from sender where org_id is not null limit $4) as chosen
             cross join lateral (
                 select id, due_at, row_number() over (order by due_at, id) as turn
                 from (select id, due_at from mail
                       where sent_at is null and priority = $1 and due_at <= $2
                         and mail.org_id = chosen.org_id
                       order by due_at, id limit $4) as oldest
             ) as queued
             order by queued.turn, queued.due_at limit $4
         )
         update mail
         set attempts = attempts + 1, due_at = $2 + interval '30 seconds' * power(2, least(attempts, 9))
         where id in (select id from mail where id in (select id from candidate)
                        and sent_at is null and due_at <= $2 for update skip locked)
         returning id, template, subject_id, org_id, created_at, traceparent",
        claim.priority as i16,
        now,
        claim.after_org,
        limit,
    );
    Ok(mails.fetch_all(tx.conn()).await?)
}

/// Result of an attempt to send a mail.
pub(super) struct Attempt<'a> {
    pub(super) mail_id: Uuid,
    /// QUEUED for another attempt, or the final outcome.
    pub(super) outcome: &'a str,
    /// Error message, or reason of the outcome.
    pub(super) error: Option<&'a str>,
    /// Time of the final outcome.
    pub(super) ended_at: Option<OffsetDateTime>,
}

/// Stores the result of an attempt.
pub(super) async fn record(tx: &mut Tx, attempt: &Attempt<'_>) -> Result<()> {
    query!(
        "update mail set sent_at = $2, last_error = $3, outcome = $4 where id = $1",
        attempt.mail_id,
        attempt.ended_at,
        attempt.error,
        attempt.outcome,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
