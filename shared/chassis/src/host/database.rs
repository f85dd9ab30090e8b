//! Schemas and their upkeep.

use std::time::Duration;

use anyhow::{Context, ensure};
use sqlx::{Executor, PgConnection, Row, postgres::PgConnectOptions};
use tokio_util::sync::CancellationToken;

use super::{Schema, migrate, roles};
use crate::{db::Db, outbox};

/// Checks the server's settings and brings every schema up to date.
pub(super) async fn prepare(
    options: &PgConnectOptions,
    databases: &[(Db, Schema)],
    mode: roles::Mode,
) -> anyhow::Result<()> {
    let mut connection = migrate::connect(options).await?;
    check_settings(&mut connection).await?;
    // One at a time: another replica, or a start that was killed and whose last statement still runs.
    migrate::lock(&mut connection).await?;
    for (db, schema) in databases {
        if options.get_username() == roles::name(db.name()) {
            migrate::check(&mut connection, db.name(), *schema).await?;
        } else {
            migrate::schema(&mut connection, options, db.name(), *schema, mode).await?;
        }
        outbox::cluster::adopt(db)
            .await
            .with_context(|| format!("the events of {} cannot be taken over", db.name()))?;
    }
    Ok(())
}

async fn check_settings(connection: &mut PgConnection) -> anyhow::Result<()> {
    let settings = connection
        .fetch_one(
            "select current_setting('server_version_num')::int / 10000, current_setting('server_encoding'),
                    current_setting('synchronous_commit'), current_setting('fsync')",
        )
        .await?;
    let (major, encoding): (i32, String) = (settings.try_get(0)?, settings.try_get(1)?);
    ensure!(major >= 15, "PostgreSQL {major} is too old: 15 or newer is needed");
    ensure!(encoding == "UTF8", "the database has the encoding {encoding}; create it with UTF8");
    let (commit, fsync): (String, String) = (settings.try_get(2)?, settings.try_get(3)?);
    if commit == "off" || fsync == "off" {
        tracing::warn!(
            "PostgreSQL runs without fsync or synchronous_commit: a power cut loses data"
        );
    }
    Ok(())
}

/// How often the clock of the database is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Looks at the clock of the database once.
pub(super) async fn set_clock(db: &Db) -> anyhow::Result<()> {
    let now = sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#);
    db.clock().follow(now.fetch_one(db.pool())).await.context("the database's clock")
}

/// Follows the clock of the database.
pub(super) async fn keep_time(db: Db, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        // While the database is away, the machine's own clock counts on.
        if let Err(error) = set_clock(&db).await {
            tracing::debug!(error = format!("{error:#}"), "the clock counts on by itself");
        }
    }
}
