//! The PostgreSQL cluster behind an outbox. Transaction numbers (`xid8`) mean something in their own cluster
//! only: after `pg_dump` and a restore elsewhere, those that are stored are of the old one, and no event with
//! a number that the new one has not reached yet would be read.

use sqlx::{Connection, query, query_scalar};

use crate::Db;

/// Compares the cluster with the one that the stored transaction numbers are of. If it is another, all
/// events of the outbox get the lowest number, which leaves their order to their positions, and every reader
/// starts over: what was delivered before comes again, and the inbox knows it.
pub(crate) async fn adopt(db: &Db) -> anyhow::Result<()> {
    let mut connection = db.pool().acquire().await?;
    let mut tx = connection.begin().await?;
    // As many events as a week brings.
    query!("set local statement_timeout = 0").execute(&mut *tx).await?;
    let here = query_scalar!(r#"select system_identifier as "here!" from pg_control_system()"#);
    let here = here.fetch_one(&mut *tx).await?;
    let home = query_scalar!("select system_identifier from home_cluster");
    let home = home.fetch_optional(&mut *tx).await?;
    // Moved before the cluster was noted: numbers from the future.
    let is_ahead = query_scalar!(
        r#"select exists (select from outbox
                          where written_by >= pg_snapshot_xmax(pg_current_snapshot()))
               or exists (select from outbox_cursor
                          where horizon > pg_snapshot_xmax(pg_current_snapshot())) as "is_ahead!""#
    );
    if is_ahead.fetch_one(&mut *tx).await? || home.is_some_and(|it| it != here) {
        let events = query!("update outbox set written_by = '3'").execute(&mut *tx).await?;
        query!("delete from outbox_cursor").execute(&mut *tx).await?;
        let (service, events) = (db.name(), events.rows_affected());
        tracing::warn!(service, events, "the database was moved; its events are delivered again");
    }
    if home != Some(here) {
        query!(
            "insert into home_cluster (system_identifier) values ($1)
             on conflict (only_row) do update set system_identifier = excluded.system_identifier",
            here
        )
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(())
}
