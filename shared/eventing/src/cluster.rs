//! Detection of a move of the database to another PostgreSQL cluster. Outbox rows and reader positions
//! contain transaction ids (`xid8`), which are valid in their own cluster only. After `pg_dump` and a restore
//! elsewhere, an event whose id is above the new cluster's current one would not be read.

use sqlx::{Connection, query, query_scalar};

use chassis::Db;

/// Compares the cluster with the one that the stored transaction ids are from. If it is another, sets the id
/// of all events to the lowest one, so that their positions order them, and deletes the positions of all
/// readers. Events are then delivered again; the inbox of each subscriber skips those that it has handled.
pub async fn reset_after_move(db: &Db) -> anyhow::Result<()> {
    let mut connection = db.pool().acquire().await?;
    let mut tx = connection.begin().await?;
    // The outbox can contain the events of a week.
    query!("set local statement_timeout = 0").execute(&mut *tx).await?;
    let current = query_scalar!(r#"select system_identifier as "here!" from pg_control_system()"#);
    let current = current.fetch_one(&mut *tx).await?;
    let recorded = query_scalar!("select system_identifier from home_cluster");
    let recorded = recorded.fetch_optional(&mut *tx).await?;
    // A move before the cluster was recorded shows by ids above the current one.
    let is_ahead = query_scalar!(
        r#"select exists (select from outbox
                          where written_by >= pg_snapshot_xmax(pg_current_snapshot()))
               or exists (select from outbox_cursor
                          where horizon > pg_snapshot_xmax(pg_current_snapshot())) as "is_ahead!""#
    );
    if is_ahead.fetch_one(&mut *tx).await? || recorded.is_some_and(|it| it != current) {
        let events = query!("update outbox set written_by = '3'").execute(&mut *tx).await?;
        query!("delete from outbox_cursor").execute(&mut *tx).await?;
        tracing::warn!(
            service = db.name(),
            events = events.rows_affected(),
            "the database was moved to another cluster; its events are delivered again"
        );
    }
    if recorded != Some(current) {
        query!(
            "insert into home_cluster (system_identifier) values ($1)
             on conflict (only_row) do update set system_identifier = excluded.system_identifier",
            current
        )
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(())
}
