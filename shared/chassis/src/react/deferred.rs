//! Events that are set aside: one on which a subscriber failed, and the later ones of its group (an
//! organization, or an account), so that their order stays. Other groups go on meanwhile.

use std::{collections::BTreeSet, time::Duration};

use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{ATTEMPTS_MAX, Subscriber};
use crate::{
    Result,
    bus::back_off,
    db::{Db, Tx},
    outbox::Delivery,
};

/// Groups whose first event is tried again at a time.
const GROUPS_MAX: i64 = 100;

/// Interval of the search for due events while some wait.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Interval of the search while none wait here: another process may have set some aside, and ended.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// Longest text of an error that is kept.
const ERROR_CHARS_MAX: usize = 2_000;

/// A set-aside event that is first in its group.
struct Head {
    event_id: Uuid,
    source: String,
    name: String,
    org_id: Option<Uuid>,
    envelope: Vec<u8>,
    attempts: i32,
    due_at: OffsetDateTime,
}

/// Groups with a set-aside event.
pub(super) async fn groups(db: &Db) -> Result<BTreeSet<Uuid>> {
    let groups = query_scalar!("select distinct group_id from deferred_event");
    Ok(groups.fetch_all(db.pool()).await?.into_iter().collect())
}

/// Sets an event aside: after a failure until its back-off ends, without one until its turn in the group.
pub(super) async fn put(
    db: &Db,
    group: Uuid,
    event: &Delivery,
    failure: Option<&crate::Error>,
) -> Result<()> {
    let attempts = i32::from(failure.is_some());
    let error = failure.map(describe).unwrap_or_default();
    let put = async |tx: &mut Tx| {
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
            event.name,
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
    db.write_as_system("deferred events", put).await
}

/// Text of an error for an operator.
fn describe(error: &crate::Error) -> String {
    format!("{error:?}").chars().take(ERROR_CHARS_MAX).collect()
}

/// First event of each group, the longest-waiting group first.
async fn heads(db: &Db) -> Result<Vec<Head>> {
    let heads = query_as!(
        Head,
        r#"select event_id, source, type as "name!", org_id, envelope, attempts, due_at
           from deferred_event as it
           where number = (select min(number) from deferred_event where group_id = it.group_id)
           order by due_at limit $1"#,
        GROUPS_MAX
    );
    Ok(heads.fetch_all(db.pool()).await?)
}

/// Locks a set-aside event for this transaction. `false`: another process works on it, or it is done.
async fn claim(tx: &mut Tx, event_id: Uuid) -> Result<bool> {
    let claimed = query!(
        "select event_id from deferred_event where event_id = $1 for update skip locked",
        event_id
    );
    Ok(claimed.fetch_optional(tx.conn()).await?.is_some())
}

async fn delete(tx: &mut Tx, event_id: Uuid) -> Result<()> {
    query!("delete from deferred_event where event_id = $1", event_id).execute(tx.conn()).await?;
    Ok(())
}

/// Notes one more failure.
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
    /// Tries set-aside events again until `stop`.
    pub(crate) async fn retry_deferred(self, stop: CancellationToken) {
        let mut pause = RETRY_INTERVAL;
        while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            pause = match self.retry_due().await {
                Ok(0) => IDLE_INTERVAL,
                Ok(_) => RETRY_INTERVAL,
                Err(error) => {
                    tracing::warn!(service = self.db.name(), %error, "set-aside events wait");
                    IDLE_INTERVAL
                }
            };
        }
    }

    /// Tries the due event of each group, and after a success the next ones. Answers how many groups waited.
    async fn retry_due(&self) -> Result<usize> {
        let mut waiting = 0;
        loop {
            let heads = heads(&self.db).await?;
            waiting = waiting.max(heads.len());
            let now = self.db.now();
            let mut is_progress = false;
            for head in heads.into_iter().filter(|it| it.due_at <= now) {
                is_progress |= self.retry(head).await?;
            }
            if !is_progress {
                return Ok(waiting);
            }
        }
    }

    /// Tries an event again. Answers whether it is out of the way: done, or dead after too many failures.
    async fn retry(&self, head: Head) -> Result<bool> {
        let Head { event_id: id, source, name, org_id, envelope, attempts, .. } = head;
        let event = Delivery { id, source, name, org_id, envelope };
        let work = async |tx: &mut Tx| {
            if !claim(tx, id).await? {
                return Ok(false);
            }
            self.act(tx, &event).await?;
            delete(tx, id).await?;
            Ok(true)
        };
        let error = match self.db.write_as_system(&id.to_string(), work).await {
            Ok(is_done) => return Ok(is_done),
            Err(error) => error,
        };
        let attempts = attempts.saturating_add(1);
        // The log loses nothing: its events are tried until they are in.
        if self.wants().is_some() && u32::try_from(attempts).is_ok_and(|it| it >= ATTEMPTS_MAX) {
            let bury = async |tx: &mut Tx| {
                self.bury(tx, &event, &error).await?;
                delete(tx, id).await
            };
            self.db.write_as_system(&id.to_string(), bury).await?;
            return Ok(true);
        }
        tracing::warn!(event = %id, name = event.name, attempts, ?error, "an event waits");
        let text = describe(&error);
        let postpone = async |tx: &mut Tx| postpone(tx, id, attempts, &text).await;
        self.db.write_as_system("deferred events", postpone).await?;
        Ok(false)
    }
}
