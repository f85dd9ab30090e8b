//! Changes of the stored audit log by a superuser.

use sqlx::PgPool;

/// Runs statements as a superuser with all triggers disabled.
pub(crate) async fn tamper(pool: &PgPool, statements: &[&str]) {
    let mut tx = pool.begin().await.unwrap();
    let off = "do $$ declare name text; begin
        for name in select relname from pg_class join pg_namespace on pg_namespace.oid = relnamespace
                    where nspname = 'audit' and relkind = 'r' loop
            execute format('alter table audit.%I disable trigger all', name);
        end loop; end $$";
    sqlx::raw_sql(off).execute(&mut *tx).await.unwrap();
    for statement in statements {
        sqlx::raw_sql(sqlx::AssertSqlSafe((*statement).to_owned()))
            .execute(&mut *tx)
            .await
            .unwrap();
    }
    // The triggers of the log are enabled for all roles again.
    let on = sqlx::AssertSqlSafe(off.replace("disable trigger all", "enable trigger all"));
    sqlx::raw_sql(on).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// Copies the tables of the log into the schema `kept`.
pub(crate) async fn back_up(pool: &PgPool) {
    sqlx::raw_sql("create schema if not exists kept").execute(pool).await.unwrap();
    for table in ["entry", "tile", "tree", "checkpoint"] {
        let copy = format!("create table kept.{table} as select * from audit.{table}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(copy)).execute(pool).await.unwrap();
    }
}

/// Restores the copies.
pub(crate) async fn restore(pool: &PgPool) {
    tamper(
        pool,
        &[
            "delete from audit.entry; insert into audit.entry select * from kept.entry",
            "delete from audit.checkpoint; insert into audit.checkpoint select * from kept.checkpoint",
            "delete from audit.tile; insert into audit.tile select * from kept.tile",
            "update audit.tree set size = kept.tree.size, edge = kept.tree.edge, signed = kept.tree.signed,
                 note = kept.tree.note, signed_at = kept.tree.signed_at,
                 suite_index = kept.tree.suite_index
             from kept.tree where kept.tree.number = audit.tree.number",
            "drop table kept.entry, kept.tile, kept.tree, kept.checkpoint",
        ],
    )
    .await;
}
