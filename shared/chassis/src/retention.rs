//! Retention: rows that nothing needs any more are deleted, by one job for each database, in bounded batches.
//! A service adds the steps for its own tables; the tables of every service are cleaned here.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::{
    Result,
    db::{Db, Tx},
    id, idempotency,
};

/// Time between two runs of the job.
const INTERVAL: Duration = Duration::from_secs(3600);

/// How many rows a step deletes in one transaction. Small enough for the time-out of a statement.
pub const BATCH: i64 = 1_000;

/// How long it is known that an event was acted on. An outbox keeps an event for a week after every reader
/// has it, so one that comes again after so long was held back by a reader that was away for months.
const INBOX_KEPT: time::Duration = time::Duration::days(90);

/// How long an event that a reaction could not take waits for an operator.
const DEAD_LETTERS_KEPT: time::Duration = time::Duration::days(90);

/// How long the outcome of a mail is known: as long as an invitation can be pending, and some time to look.
const MAILS_KEPT: time::Duration = time::Duration::days(60);

/// An `async fn(&mut Tx) -> Result<u64>`: deletes at most [`BATCH`] rows, and answers how many.
pub trait Step<'t>: Send + Sync + 'static {
    /// The type of its future.
    type Future: Future<Output = Result<u64>> + Send + 't;
    /// Runs it.
    fn run(&self, tx: &'t mut Tx) -> Self::Future;
}

impl<'t, F, Fut> Step<'t> for F
where
    F: Fn(&'t mut Tx) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<u64>> + Send + 't,
{
    type Future = Fut;
    fn run(&self, tx: &'t mut Tx) -> Fut {
        self(tx)
    }
}

type Running<'t> = Pin<Box<dyn Future<Output = Result<u64>> + Send + 't>>;
pub(crate) type BoxedStep = Arc<dyn for<'t> Fn(&'t mut Tx) -> Running<'t> + Send + Sync>;

/// A step behind a pointer.
pub(crate) fn boxed<S: for<'t> Step<'t>>(step: S) -> BoxedStep {
    Arc::new(move |tx| Box::pin(step.run(tx)))
}

/// Runs the steps of a database at once, then every hour until `stop`.
pub(crate) async fn run(db: Db, steps: Vec<BoxedStep>, stop: CancellationToken) {
    let own = [boxed(idempotency::forget), boxed(inbox), boxed(dead_letters), boxed(mails)];
    let steps: Vec<_> = own.into_iter().chain(steps).collect();
    loop {
        for step in &steps {
            if let Err(error) = clean(&db, step, &stop).await {
                tracing::warn!(%error, service = db.name(), "old rows were not deleted");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// Runs a step until it finds nothing more.
async fn clean(db: &Db, step: &BoxedStep, stop: &CancellationToken) -> Result<()> {
    let batch = async |tx: &mut Tx| step(tx).await;
    while !stop.is_cancelled() && db.write_as_system("retention", batch).await? > 0 {}
    Ok(())
}

async fn inbox(tx: &mut Tx) -> Result<u64> {
    // Ids of events begin with the time of their making, so the primary key finds the oldest.
    let before: OffsetDateTime = tx.now - INBOX_KEPT;
    let gone = sqlx::query!(
        "delete from inbox where event_id in (
             select event_id from inbox where event_id < $1 and received_at < $2
             order by event_id limit $3)",
        id::first_at(before),
        before,
        BATCH,
    );
    Ok(gone.execute(tx.conn()).await?.rows_affected())
}

async fn dead_letters(tx: &mut Tx) -> Result<u64> {
    let gone = sqlx::query!(
        "delete from dead_letter where event_id in (
             select event_id from dead_letter where died_at < $1 limit $2)",
        tx.now - DEAD_LETTERS_KEPT,
        BATCH,
    );
    Ok(gone.execute(tx.conn()).await?.rows_affected())
}

/// Mails that were sent or given up.
async fn mails(tx: &mut Tx) -> Result<u64> {
    let before = tx.now - MAILS_KEPT;
    let gone = sqlx::query!(
        "delete from mail where id in (
             select id from mail where id < $1 and coalesce(sent_at, due_at) < $2
             order by id limit $3)",
        id::first_at(before),
        before,
        BATCH,
    );
    Ok(gone.execute(tx.conn()).await?.rows_affected())
}
