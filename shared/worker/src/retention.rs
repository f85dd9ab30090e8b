//! Retention: deletion of old rows, by one job for each database. Tables that grow with time lose whole
//! partitions ([`crate::partition`]), others rows in bounded batches. The plan for the tables that every
//! service has is here; a service adds its own tables.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use chassis::{Db, Result, Tx, id, idempotency};
use tokio_util::sync::CancellationToken;

use crate::partition::{self, PartitionedTable};

/// Interval of the job.
const INTERVAL: Duration = Duration::from_secs(3600);

/// Largest number of rows that a step deletes in one transaction, so that it ends within the time-out of
/// statements.
pub const BATCH: i64 = 1_000;

/// Entries of the inbox, by which redelivered events are recognized. An outbox deletes an event a week after
/// all readers have read it, so an event is redelivered later only if a reader was down for months.
const INBOX: PartitionedTable = PartitionedTable {
    name: "inbox",
    interval: time::Duration::days(28),
    retention: time::Duration::days(90),
    age_column: Some("received_at"),
};

/// Retention of dead letters, in which an operator can handle them.
const DEAD_LETTER_RETENTION: time::Duration = time::Duration::days(90);

/// Retention of the outcomes of mails: the longest validity of an invitation, and some time for
/// investigations.
const MAIL_RETENTION: time::Duration = time::Duration::days(60);

/// A step: an `async fn(&mut Tx) -> Result<u64>` that deletes at most [`BATCH`] rows and returns their
/// number.
pub trait Step<'t>: Send + Sync + 'static {
    /// Type of its future.
    type Future: Future<Output = Result<u64>> + Send + 't;
    /// Runs the step in a transaction.
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

type StepFuture<'t> = Pin<Box<dyn Future<Output = Result<u64>> + Send + 't>>;

/// A step of any type.
pub type BoxedStep = Arc<dyn for<'t> Fn(&'t mut Tx) -> StepFuture<'t> + Send + Sync>;

/// Boxes a step.
pub fn boxed<S: for<'t> Step<'t>>(step: S) -> BoxedStep {
    Arc::new(move |tx| Box::pin(step.run(tx)))
}

/// Retention of the tables of one database.
#[derive(Default)]
pub struct Plan {
    /// Steps that delete rows.
    pub steps: Vec<BoxedStep>,
    /// Tables with partitions.
    pub tables: Vec<PartitionedTable>,
}

/// Carries out the plan of a database at once, then every hour until `stop`.
pub async fn run(db: Db, plan: Plan, stop: CancellationToken) {
    let common =
        [boxed(idempotency::delete_expired), boxed(delete_dead_letters), boxed(delete_mails)];
    let steps: Vec<_> = common.into_iter().chain(plan.steps).collect();
    loop {
        for table in [INBOX].iter().chain(&plan.tables) {
            if let Err(error) = partition::maintain(&db, table).await {
                let (service, table) = (db.name(), table.name);
                tracing::warn!(
                    error = chassis::error::causes(&error),
                    service,
                    table,
                    "partitions were not changed; this is retried"
                );
            }
        }
        for step in &steps {
            if let Err(error) = run_step(&db, step, &stop).await {
                tracing::warn!(
                    error = chassis::error::causes(&error),
                    service = db.name(),
                    "old rows were not deleted; this is retried"
                );
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// Repeats a step until it finds no more rows.
async fn run_step(db: &Db, step: &BoxedStep, stop: &CancellationToken) -> Result<()> {
    let batch = async |tx: &mut Tx| step(tx).await;
    while !stop.is_cancelled() && db.write_as_system("retention", batch).await? > 0 {}
    Ok(())
}

async fn delete_dead_letters(tx: &mut Tx) -> Result<u64> {
    let expired = sqlx::query!(
        "delete from dead_letter where event_id in (
             select event_id from dead_letter where died_at < $1 limit $2)",
        tx.now - DEAD_LETTER_RETENTION,
        BATCH,
    );
    Ok(expired.execute(tx.conn()).await?.rows_affected())
}

/// Deletes mails that were sent, or not sent after all attempts.
async fn delete_mails(tx: &mut Tx) -> Result<u64> {
    let before = tx.now - MAIL_RETENTION;
    let expired = sqlx::query!(
        "delete from mail where id in (
             select id from mail where id < $1 and coalesce(sent_at, due_at) < $2
             order by id limit $3)",
        id::lower_bound(before),
        before,
        BATCH,
    );
    Ok(expired.execute(tx.conn()).await?.rows_affected())
}
