//! Migrations, run by the owner of the schemas on a connection of their own.
//!
//! A migration has no time-out, but waits for a lock for two seconds only, because other transactions queue
//! for the same lock behind it. After the time-out it is retried until it gets the lock.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, PgPool,
    error::DatabaseError,
    migrate::{Migrate, MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
    query_scalar,
};

use crate::{host::Schema, roles};

static CHASSIS: &Migrator = &chassis::MIGRATIONS;

/// Longest wait for a lock before a migration is retried.
const LOCK_TIMEOUT: &str = "2s";
/// Pause before a retry.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Time after which a migration that does not get its lock fails.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Opens a connection of the owner without time-outs.
pub(crate) async fn connect(options: &PgConnectOptions) -> anyhow::Result<PgConnection> {
    let options = options.clone().application_name("tenantry migrate").options([
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
    ]);
    let connection = PgConnection::connect_with(&options).await;
    connection.context("the database does not respond; check --database-url")
}

/// Locks the migrations of this database; waits until no other process runs any. The lock ends with the
/// connection.
pub(crate) async fn lock(owner: &mut PgConnection) -> anyhow::Result<()> {
    let is_locked = query_scalar!(r#"select pg_try_advisory_lock(2) as "alone!""#);
    if !is_locked.fetch_one(&mut *owner).await? {
        tracing::info!("another process migrates the database; waiting until it has finished");
        owner.execute("select pg_advisory_lock(2)").await?;
    }
    Ok(())
}

/// Migrates one schema: creates its role, applies migrations, sets the privileges of the role.
pub(crate) async fn schema(
    owner: &mut PgConnection,
    options: &PgConnectOptions,
    name: &str,
    schema: Schema,
    mode: roles::Mode,
) -> anyhow::Result<()> {
    roles::create(owner, name, mode).await?;
    let sql = format!("create schema if not exists {name}; set search_path = {name}");
    // The name is a constant of the code, never a value of a request.
    owner.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    let options = options.clone().options([
        ("search_path", name),
        ("statement_timeout", "0"),
        ("lock_timeout", LOCK_TIMEOUT),
    ]);
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
    for migrator in [CHASSIS, schema.migrations] {
        let pending = pending(owner, migrator).await?;
        let applied = apply(&pool, name, migrator, pending).await;
        applied.with_context(|| format!("the schema {name} cannot be migrated"))?;
    }
    pool.close().await;
    roles::grant(owner, name, schema.privileges).await
}

/// Applies pending migrations, one after the other.
async fn apply(
    pool: &PgPool,
    schema: &str,
    migrator: &Migrator,
    pending: Vec<(i64, String)>,
) -> anyhow::Result<()> {
    for (version, description) in pending {
        tracing::info!(schema, version, description, "migrating");
        let started = Instant::now();
        while let Err(error) = migrator.run_to(version, pool).await {
            if !is_lock_timeout(&error) || started.elapsed() > RETRY_TIMEOUT {
                return Err(error.into());
            }
            let waited_s = started.elapsed().as_secs();
            tracing::info!(
                schema,
                version,
                waited_s,
                "another session holds a lock that the migration needs; it is retried"
            );
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        let took_ms = started.elapsed().as_millis();
        tracing::info!(schema, version, took_ms, "migrated");
    }
    // Compares the checksums of applied migrations.
    Ok(migrator.run(pool).await?)
}

/// Returns the version and description of migrations that are not applied.
async fn pending(
    connection: &mut PgConnection,
    migrator: &Migrator,
) -> anyhow::Result<Vec<(i64, String)>> {
    let table = &*migrator.table_name;
    let exists = query_scalar!(r#"select to_regclass($1::text) is not null as "exists!""#, table);
    let applied = if exists.fetch_one(&mut *connection).await? {
        connection.list_applied_migrations(table).await?
    } else {
        vec![]
    };
    let is_applied = |version| applied.iter().any(|it| it.version == version);
    let pending = migrator.iter().filter(|it| !is_applied(it.version));
    Ok(pending.map(|it| (it.version, it.description.clone().into_owned())).collect())
}

/// True if a migration failed because it did not get a lock in time (55P03).
fn is_lock_timeout(error: &MigrateError) -> bool {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else {
        return false;
    };
    error.as_database_error().and_then(DatabaseError::code).is_some_and(|it| it == "55P03")
}

/// Fails if a schema has pending migrations, for a process that connects as the role of a service and so
/// cannot migrate.
pub(crate) async fn check(
    connection: &mut PgConnection,
    name: &str,
    schema: Schema,
) -> anyhow::Result<()> {
    let sql = format!("set search_path = {name}");
    // The name is a constant of the code, never a value of a request.
    connection.execute(AssertSqlSafe(sql)).await?;
    for migrator in [CHASSIS, schema.migrations] {
        let pending = pending(connection, migrator).await;
        let pending = pending.with_context(|| format!("the schema {name} cannot be read"))?;
        ensure!(
            pending.is_empty(),
            "the schema {name} has pending migrations, and the user of --database-url is the service's role, \
             which may not apply them; run `tenantry migrate` with the owner's --database-url first"
        );
    }
    Ok(())
}
