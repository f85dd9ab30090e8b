//! Search for bytes in all tables.

use data_encoding::HEXLOWER;
use sqlx::{AssertSqlSafe, PgPool};
use testkit::Suite;

/// Names of the tables of all services, without partitions: the log drops empty ones at any time, and their
/// rows are in the partitioned table.
pub(crate) async fn names(pool: &PgPool) -> Vec<String> {
    let tables = "select format('%I.%I', nspname, relname) from pg_class
                  join pg_namespace on pg_namespace.oid = relnamespace
                  where relkind in ('r', 'p') and not relispartition
                    and nspname in ('identity', 'project', 'invitation', 'audit')";
    sqlx::query_scalar(tables).fetch_all(pool).await.unwrap()
}

/// Tables of all services with these bytes in a row, as text or as bytes.
pub(crate) async fn tables_with(suite: &Suite, bytes: &[u8]) -> Vec<String> {
    let hex = HEXLOWER.encode(bytes);
    // PostgreSQL has no text with invalid UTF-8 or a zero byte.
    let text = str::from_utf8(bytes).ok().filter(|it| !it.contains('\0'));
    let mut found = vec![];
    for table in names(&suite.pool).await {
        let search = format!(
            "select exists (select from {table} as it
                            where strpos(it::text, $1) > 0 or coalesce(strpos(it::text, $2), 0) > 0)"
        );
        let search = sqlx::query_scalar(AssertSqlSafe(search)).bind(&hex).bind(text);
        if search.fetch_one(&suite.pool).await.unwrap() {
            found.push(table);
        }
    }
    found
}
