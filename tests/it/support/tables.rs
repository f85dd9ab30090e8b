//! Search for bytes in all tables.

use data_encoding::HEXLOWER;
use sqlx::AssertSqlSafe;
use testkit::Suite;

/// Tables of all services with these bytes in a row, as text or as bytes.
pub(crate) async fn tables_with(suite: &Suite, bytes: &[u8]) -> Vec<String> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select format('%I.%I', schemaname, tablename) from pg_tables
         where schemaname in ('identity', 'project', 'invitation', 'audit')",
    )
    .fetch_all(&suite.pool)
    .await
    .unwrap();
    let hex = HEXLOWER.encode(bytes);
    // PostgreSQL has no text with invalid UTF-8 or a zero byte.
    let text = str::from_utf8(bytes).ok().filter(|it| !it.contains('\0'));
    let mut found = vec![];
    for table in tables {
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
