//! The databases of a process: migration at the start, and synchronization of the clock.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use chassis::{Db, key::Key};
use opentelemetry::{KeyValue, global, metrics::AsyncInstrument};
use sqlx::{Executor, PgConnection, Row, postgres::PgConnectOptions};
use tokio_util::sync::CancellationToken;

use crate::{connection_limit, host::Schema, migrate, roles};

/// Settings of the start.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    pub(crate) mode: roles::Mode,
    /// False if another process migrates.
    pub(crate) migrates: bool,
    /// Setting `--database-connections-max`.
    pub(crate) connections_max: u32,
    /// Longest wait for the server, and for the other process that migrates.
    pub(crate) patience: Duration,
}

/// Waits for the server, checks its settings, and migrates every schema.
pub(crate) async fn prepare(
    options: &PgConnectOptions,
    databases: &[(Db, Schema)],
    start: Start,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + start.patience;
    let mut connection = migrate::connect(options, deadline).await?;
    if !check_settings(&mut connection).await?.is_durable {
        tracing::warn!("{NOT_DURABLE}");
    }
    connection_limit::apply(&mut connection, databases, start.connections_max).await?;
    let is_owner = |db: &Db| options.get_username() != roles::name(db.name());
    if start.migrates && databases.iter().any(|(db, _)| is_owner(db)) {
        // One process at a time: another replica, or a killed process whose last statement is still running.
        migrate::lock(&mut connection).await?;
    }
    for (db, schema) in databases {
        if start.migrates && is_owner(db) {
            migrate::schema(&mut connection, options, db.name(), *schema, start.mode).await?;
        } else {
            migrate::wait_until_migrated(&mut connection, db.name(), *schema, deadline).await?;
        }
        eventing::cluster::reset_after_move(db)
            .await
            .with_context(|| format!("the outbox of {} cannot be prepared", db.name()))?;
    }
    Ok(())
}

/// Checks that all schemas were set up with the secret key; new schemas are set up with it.
pub(crate) async fn claim(
    databases: &[(Db, Schema)],
    key: &Key,
    key_file: &Path,
) -> anyhow::Result<()> {
    require_key(databases, key, key_file).await?;
    for (db, _) in databases {
        db.register_key(key).await?;
    }
    Ok(())
}

/// Checks that all schemas were set up with the secret key, or with none yet.
pub(crate) async fn require_key(
    databases: &[(Db, Schema)],
    key: &Key,
    key_file: &Path,
) -> anyhow::Result<()> {
    for (db, _) in databases {
        db.require_key(key).await.with_context(|| {
            format!(
                "{} is not the key file of this database; put the key of the deployment there, or set \
                 --key-file to its file",
                key_file.display()
            )
        })?;
    }
    Ok(())
}

/// Records that this process does not use the secret key any more. Nothing seals values after it.
pub(crate) async fn release_key(databases: &[(Db, Schema)]) {
    for (db, _) in databases {
        if let Err(error) = db.release_key().await {
            let service = db.name();
            tracing::debug!(%error, service, "the use of the secret key expires in two minutes");
        }
    }
}

/// Settings of a database server.
pub(crate) struct ServerSettings {
    /// Version, for example `15.8`.
    pub(crate) version: String,
    /// False if a power failure loses committed changes.
    pub(crate) is_durable: bool,
}

/// Warning about a server that is not durable.
pub(crate) const NOT_DURABLE: &str =
    "fsync or synchronous_commit is off, so a power failure loses data; turn both on in production";

/// Checks the version and encoding of the server.
pub(crate) async fn check_settings(
    connection: &mut PgConnection,
) -> anyhow::Result<ServerSettings> {
    let settings = connection
        .fetch_one(
            "select current_setting('server_version_num')::int / 10000, current_setting('server_encoding'),
                    current_setting('synchronous_commit'), current_setting('fsync'),
                    current_setting('server_version')",
        )
        .await?;
    let major: i32 = settings.try_get(0)?;
    ensure!(major >= 15, "PostgreSQL {major} is too old; install 15 or newer");
    let encoding: String = settings.try_get(1)?;
    ensure!(encoding == "UTF8", "the database has the encoding {encoding}; create it with UTF8");
    let synchronous_commit: String = settings.try_get(2)?;
    let fsync: String = settings.try_get(3)?;
    let is_durable = synchronous_commit != "off" && fsync != "off";
    Ok(ServerSettings { version: settings.try_get(4)?, is_durable })
}

/// Interval of the synchronization with the database's clock.
const CLOCK_INTERVAL: Duration = Duration::from_secs(10);

/// Synchronizes the clock with the database's.
pub(crate) async fn synchronize_clock(db: &Db) -> anyhow::Result<()> {
    let now = sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#);
    db.clock()
        .synchronize(now.fetch_one(db.pool()))
        .await
        .context("the database's clock cannot be read")
}

/// Synchronizes the clock in intervals, and at once after a jump of the machine's clock, until `stop`.
pub(crate) async fn keep_clock_synchronized(db: Db, stop: CancellationToken) {
    let pause = async || {
        // The time-out is the interval.
        if tokio::time::timeout(CLOCK_INTERVAL, db.clock().jump()).await.is_ok() {
            tracing::warn!("this machine's clock has jumped; the database's is used");
        }
    };
    while stop.run_until_cancelled(pause()).await.is_some() {
        // Without the database, the last offset to the machine's clock stays in use.
        if let Err(error) = synchronize_clock(&db).await {
            tracing::debug!(error = format!("{error:#}"), "the clock is not synchronized");
        }
    }
}

/// Registers the gauge `tenantry.database.connections`, with the attributes `service` and `state` (`used` or
/// `idle`).
pub(crate) fn measure_connections(databases: Vec<Db>) {
    let meter = global::meter("tenantry");
    let gauge = meter.u64_observable_gauge("tenantry.database.connections");
    let observe = move |observer: &dyn AsyncInstrument<u64>| {
        for db in &databases {
            let connections = db.connections();
            for (state, count) in [("used", connections.used), ("idle", connections.idle)] {
                let labels = [KeyValue::new("service", db.name()), KeyValue::new("state", state)];
                observer.observe(count, &labels);
            }
        }
    };
    gauge.with_callback(observe).build();
}
