//! Deferred events: an event whose handling failed or waits, and the later ones of its group (an
//! organization, or an account), so that their order stays. The first event of each group is retried with
//! back-off; other groups are not affected.

use std::{collections::BTreeSet, time::Duration};

use chassis::{Db, Error, Result, Tx};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;
use worker::back_off;

use super::{ATTEMPTS_MAX, NotReady, Subscriber};
use crate::delivery::Delivery;

/// Largest number of groups that are retried at a time.
const GROUPS_MAX: i64 = 100;

/// Interval of the search for due events while there are deferred ones.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Interval of the search while there are none: another process can defer events and end. Those that this
/// process defers are searched at once.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);

/// Longest stored text of an error, in characters.
const ERROR_CHARS_MAX: usize = 2_000;

/// The first deferred event of a group.
struct FirstOfGroup {
    event_id: Uuid,
    source: String,
    /// Event type.
    name: String,
    org_id: Option<Uuid>,
    envelope: Vec<u8>,
    attempts: i32,
    due_at: OffsetDateTime,
}

/// Returns the groups with deferred events.
pub(super) async fn groups(db: &Db) -> Result<BTreeSet<Uuid>> {
    let groups = query_scalar!("select distinct group_id from deferred_event");
    Ok(groups.fetch_all(db.pool()).await?.into_iter().collect())
}

/// Defers an event: after a failure until a back-off ends, without one until the events before it are
/// handled.
async fn insert(db: &Db, group: Uuid, event: &Delivery, failure: Option<&Error>) -> Result<()> {
    let attempts = i32::from(failure.is_some_and(|it| NotReady::of(it).is_none()));
    let error = failure.map(describe).unwrap_or_default();
    let insert = async |tx: &mut Tx| {
        let due_at = tx.now + if failure.is_some() { back_off(1) } else { Duration::ZERO };
        query!(
            "insert into deferred_event
                 (event_id, group_id, source, type, org_id, envelope, attempts, due_at, last_error)
             select $1, $2, $3, $4, $5, $6, $7, $8, $9
             where not exists (select from inbox where event_id = $1)
             on conflict (event_id) do nothing",
            event.id,
            group,
            event.source,
            event.event_type,
            event.org_id,
            event.envelope,
            attempts,
            due_at,
            error,
        )
        .execute(tx.conn())
        .await?;
        Ok(())
    };
    db.write_as_system("deferred events", insert).await
}

/// Returns the stored text of an error, for operators.
fn describe(error: &Error) -> String {
    format!("{error:?}").chars().take(ERROR_CHARS_MAX).collect()
}

/// Returns the first event of each group, the one with the earliest due time first.
async fn first_of_groups(db: &Db) -> Result<Vec<FirstOfGroup>> {
    let events = query_as!(
        FirstOfGroup,
        r#"select event_id, source, type as "name!", org_id, envelope, attempts, due_at
           from deferred_event as it
           where number = (select min(number) from deferred_event where group_id = it.group_id)
           order by due_at limit $1"#,
        GROUPS_MAX
    );
    Ok(events.fetch_all(db.pool()).await?)
}

/// Locks a deferred event for this transaction. Returns false if another process has it locked, or it is
/// handled.
async fn lock(tx: &mut Tx, event_id: Uuid) -> Result<bool> {
    let locked = query!(
        "select event_id from deferred_event where event_id = $1 for update skip locked",
        event_id
    );
    Ok(locked.fetch_optional(tx.conn()).await?.is_some())
}

async fn delete(tx: &mut Tx, event_id: Uuid) -> Result<()> {
    query!("delete from deferred_event where event_id = $1", event_id).execute(tx.conn()).await?;
    Ok(())
}

/// Stores an error and the next due time of an event.
async fn postpone(tx: &mut Tx, event_id: Uuid, attempts: i32, error: &str) -> Result<()> {
    let due_at = tx.now + back_off(u32::try_from(attempts).unwrap_or(u32::MAX));
    query!(
        "update deferred_event set attempts = $2, due_at = $3, last_error = $4 where event_id = $1",
        event_id,
        attempts,
        due_at,
        error
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

impl Subscriber {
    /// Defers an event: after a failure until a back-off ends, otherwise until the events before it in its
    /// group are handled.
    pub(crate) async fn defer(&self, event: &Delivery, failure: Option<&Error>) -> Result<()> {
        let event_type = &event.event_type;
        match failure.map(|error| (error, NotReady::of(error))) {
            Some((_, Some(wait))) => {
                tracing::debug!(event = %event.id, event_type, %wait, "a reaction waits for a retry");
            }
            Some((error, None)) => {
                tracing::warn!(event = %event.id, event_type, ?error, "an event failed and is deferred");
            }
            None => {}
        }
        insert(&self.db, self.group(event), event, failure).await?;
        self.deferred.notify_one();
        Ok(())
    }

    /// Retries deferred events until `stop`.
    pub(crate) async fn retry_deferred(self, stop: CancellationToken) {
        let mut pause = RETRY_INTERVAL;
        let wait = async |pause| {
            // The time-out is the interval.
            let _ = tokio::time::timeout(pause, self.deferred.notified()).await;
        };
        while stop.run_until_cancelled(wait(pause)).await.is_some() {
            pause = match self.retry_due().await {
                Ok(0) => IDLE_INTERVAL,
                Ok(_) => RETRY_INTERVAL,
                Err(error) => {
                    let service = self.db.name();
                    tracing::warn!(
                        service,
                        error = chassis::error::causes(&error),
                        "deferred events cannot be read; this is retried"
                    );
                    IDLE_INTERVAL
                }
            };
        }
    }

    /// Retries the first event of each group if it is due, and after a success the next ones. Returns the
    /// number of groups with deferred events.
    async fn retry_due(&self) -> Result<usize> {
        if self.is_paused().await? {
            return Ok(0);
        }
        let mut groups = 0;
        loop {
            let events = first_of_groups(&self.db).await?;
            groups = groups.max(events.len());
            let now = self.db.now();
            let mut is_progress = false;
            for event in events.into_iter().filter(|it| it.due_at <= now) {
                is_progress |= self.retry(event).await?;
            }
            if !is_progress {
                return Ok(groups);
            }
        }
    }

    /// Retries an event. Returns true if it is no longer deferred: handled, or a dead letter after too many
    /// failures.
    async fn retry(&self, deferred: FirstOfGroup) -> Result<bool> {
        let id = deferred.event_id;
        let event = Delivery {
            id,
            source: deferred.source,
            event_type: deferred.name,
            org_id: deferred.org_id,
            envelope: deferred.envelope,
        };
        let work = async |tx: &mut Tx| {
            if !lock(tx, id).await? {
                return Ok(false);
            }
            self.handle(tx, &event).await?;
            delete(tx, id).await?;
            Ok(true)
        };
        let span = self.span(&event);
        let error = match self.db.write_as_system(&id.to_string(), work).instrument(span).await {
            Ok(is_handled) => return Ok(is_handled),
            Err(error) => error,
        };
        let wait = NotReady::of(&error);
        let attempts = deferred.attempts.saturating_add(i32::from(wait.is_none()));
        // The audit log must be complete: its events are retried without limit.
        if wait.is_none()
            && self.event_types().is_some()
            && u32::try_from(attempts).is_ok_and(|it| it >= ATTEMPTS_MAX)
        {
            let dead_letter = async |tx: &mut Tx| {
                self.dead_letter(tx, &event, &error).await?;
                delete(tx, id).await
            };
            self.db.write_as_system(&id.to_string(), dead_letter).await?;
            return Ok(true);
        }
        let event_type = &event.event_type;
        match wait {
            Some(wait) => tracing::debug!(event = %id, event_type, %wait, "a reaction still waits"),
            None => {
                tracing::warn!(event = %id, event_type, attempts, ?error, "a deferred event failed again");
            }
        }
        let text = describe(&error);
        let postpone = async |tx: &mut Tx| postpone(tx, id, attempts, &text).await;
        self.db.write_as_system("deferred events", postpone).await?;
        Ok(false)
    }
}
