//! The queue of mails, for operators.

use chassis::{Db, Result};
use sqlx::query;
use worker::queue::{COUNT_MAX, QueueState};

/// Returns the mails of a service that are not sent.
pub async fn state(db: Db) -> Result<QueueState> {
    let state = query!(
        r#"with waiting as (select created_at from mail where sent_at is null limit $1)
           select count(*) as "waiting!", min(created_at) as oldest_at from waiting"#,
        COUNT_MAX
    );
    let state = state.fetch_one(db.pool()).await?;
    Ok(QueueState { waiting: state.waiting, oldest_at: state.oldest_at })
}
