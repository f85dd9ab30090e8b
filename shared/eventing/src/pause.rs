//! Pause of the reactions of a service, by an operator. It is stored in the database, so that it holds on all
//! replicas and after a restart.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use chassis::{Db, Result, Tx};
use sqlx::{query, query_scalar};

/// Age up to which the state of a pause is remembered.
const AGE_MAX: Duration = Duration::from_secs(1);

/// Pauses the reactions of a service. It takes effect on all replicas within a second.
pub async fn pause(db: &Db) -> Result<()> {
    let pause = async |tx: &mut Tx| {
        let now = tx.now;
        let insert = query!(
            "insert into consumer_pause (paused_at) values ($1) on conflict (only_row) do nothing",
            now
        );
        insert.execute(tx.conn()).await?;
        Ok(())
    };
    db.write_as_system("pause of the consumer", pause).await
}

/// Ends the pause. No effect without one.
pub async fn resume(db: &Db) -> Result<()> {
    let resume = async |tx: &mut Tx| {
        query!("delete from consumer_pause").execute(tx.conn()).await?;
        tx.wake();
        Ok(())
    };
    db.write_as_system("pause of the consumer", resume).await
}

/// True if the reactions of a service are paused.
pub async fn is_paused(db: &Db) -> Result<bool> {
    let exists = query_scalar!(r#"select exists (select from consumer_pause) as "exists!""#);
    Ok(exists.fetch_one(db.pool()).await?)
}

/// The state of the pause of one service, at most a second old.
#[derive(Debug, Default)]
pub(crate) struct PauseState(Mutex<Option<Read>>);

#[derive(Clone, Copy, Debug)]
struct Read {
    at: Instant,
    is_paused: bool,
}

impl PauseState {
    /// True if the reactions are paused.
    pub(crate) async fn is_paused(&self, db: &Db) -> Result<bool> {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = last.filter(|it| it.at.elapsed() < AGE_MAX) {
            return Ok(read.is_paused);
        }
        let is_paused = is_paused(db).await?;
        let read = Read { at: Instant::now(), is_paused };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
        Ok(is_paused)
    }
}
