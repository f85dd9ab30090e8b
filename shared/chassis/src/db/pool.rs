//! Connection pools.

use std::time::{Duration, Instant};

use sqlx::{
    PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
    query_scalar,
};

use super::failover::Failover;

/// Largest number of connections in each of the two pools.
pub const CONNECTIONS_MAX: u32 = 8;

/// Returns a pool for the schema `name`, whose connections are made on first use.
pub(super) fn lazy(name: &'static str, options: PgConnectOptions, failover: Failover) -> PgPool {
    PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(Duration::from_secs(2))
        .max_lifetime(Duration::from_secs(30 * 60))
        // A test would cost a round trip for each use; a broken connection fails its first query.
        .test_before_acquire(false)
        .after_connect(move |connection, _| Box::pin(require_search_path(connection, name)))
        .before_acquire(move |_, metadata| {
            let opened = Instant::now().checked_sub(metadata.age);
            let is_outdated = opened.is_some_and(|it| failover.is_outdated(it));
            Box::pin(async move { Ok(!is_outdated) })
        })
        .connect_lazy_with(options)
}

/// Fails if a session does not have the schema `name` as its search path. Poolers such as PgBouncer can drop
/// the start-up options of a connection.
async fn require_search_path(connection: &mut PgConnection, name: &str) -> sqlx::Result<()> {
    let path = query_scalar!(r#"select current_setting('search_path') as "path!""#);
    let path = path.fetch_one(connection).await?;
    if path == name {
        return Ok(());
    }
    let message = format!(
        "the search path of the session is {path:?} instead of {name:?}: a connection pooler in front of \
         the database ignores start-up options; connect to PostgreSQL itself"
    );
    Err(sqlx::Error::Configuration(message.into()))
}
