//! Migrations, run by the owner of the schemas on a connection of their own.
//!
//! A migration may take as long as it takes, but it waits for a lock only for moments: whoever comes behind
//! it in the queue of that lock would wait, too. It gives way and tries again until it gets the lock.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, PgPool,
    error::DatabaseError,
    migrate::{Migrate, MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
    query_scalar,
};

use super::{Schema, roles};

static CHASSIS: Migrator = sqlx::migrate!();

/// The longest wait for a lock before a migration gives way.
const LOCK_TIMEOUT: &str = "2s";
/// The pause before a migration that gave way tries again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long a migration tries before the start fails.
const RETRY_MAX: Duration = Duration::from_secs(30 * 60);

/// A connection of the owner, without the time-outs of calls.
pub(super) async fn connect(options: &PgConnectOptions) -> anyhow::Result<PgConnection> {
    let options = options.clone().application_name("tenantry migrate").options([
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
    ]);
    let connection = PgConnection::connect_with(&options).await;
    connection.context("the database does not answer; check --database-url")
}

/// Waits until no other process migrates this database. The lock ends with the connection.
pub(super) async fn lock(owner: &mut PgConnection) -> anyhow::Result<()> {
    let alone = query_scalar!(r#"select pg_try_advisory_lock(2) as "alone!""#);
    if !alone.fetch_one(&mut *owner).await? {
        tracing::info!("another process migrates the database; waiting for its end");
        owner.execute("select pg_advisory_lock(2)").await?;
    }
    Ok(())
}

/// Brings one schema up to date: its role, its tables, the privileges of the role.
pub(super) async fn schema(
    owner: &mut PgConnection,
    options: &PgConnectOptions,
    name: &str,
    schema: Schema,
    mode: roles::Mode,
) -> anyhow::Result<()> {
    roles::create(owner, name, mode).await?;
    let sql = format!("create schema if not exists {name}; set search_path = {name}");
    // A name of the code, never of a request.
    owner.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    let options = options.clone().options([
        ("search_path", name),
        ("statement_timeout", "0"),
        ("lock_timeout", LOCK_TIMEOUT),
    ]);
    let migrating = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
    for migrator in [&CHASSIS, schema.migrations] {
        let pending = pending(owner, migrator).await?;
        let applied = apply(&migrating, name, migrator, pending).await;
        applied.with_context(|| format!("the schema {name} cannot be brought up to date"))?;
    }
    migrating.close().await;
    roles::grant(owner, name, schema.privileges).await
}

/// Applies what is pending, one migration after the other.
async fn apply(
    pool: &PgPool,
    schema: &str,
    migrator: &Migrator,
    pending: Vec<(i64, String)>,
) -> anyhow::Result<()> {
    for (version, description) in pending {
        tracing::info!(schema, version, description, "migrating");
        let began = Instant::now();
        while let Err(error) = migrator.run_to(version, pool).await {
            if !waits_for_lock(&error) || began.elapsed() > RETRY_MAX {
                return Err(error.into());
            }
            let waited_s = began.elapsed().as_secs();
            tracing::info!(
                schema,
                version,
                waited_s,
                "the migration waits for a lock that another session holds; it tries again"
            );
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        let took_ms = began.elapsed().as_millis();
        tracing::info!(schema, version, took_ms, "migrated");
    }
    // Compares the checksums of what was applied before.
    Ok(migrator.run(pool).await?)
}

/// Migrations that are not applied.
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

/// Whether a migration failed because it did not get a lock in time.
fn waits_for_lock(error: &MigrateError) -> bool {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else {
        return false;
    };
    error.as_database_error().and_then(DatabaseError::code).is_some_and(|it| it == "55P03")
}

/// Fails if a schema is not up to date: the role of a service does not migrate.
pub(super) async fn check(
    connection: &mut PgConnection,
    name: &str,
    schema: Schema,
) -> anyhow::Result<()> {
    let sql = format!("set search_path = {name}");
    // A name of the code, never of a request.
    connection.execute(AssertSqlSafe(sql)).await?;
    for migrator in [&CHASSIS, schema.migrations] {
        let pending = pending(connection, migrator).await;
        let pending = pending.with_context(|| format!("the schema {name} cannot be read"))?;
        ensure!(
            pending.is_empty(),
            "the schema {name} is not up to date, and the user of --database-url is the service's role, \
             which does not migrate; run `tenantry migrate` with the owner's --database-url first"
        );
    }
    Ok(())
}
