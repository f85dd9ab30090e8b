//! Migrations, run by the owner of the schemas on a connection of their own.
//!
//! A migration has no time-out, but waits for a lock for two seconds only, because other transactions queue
//! for the same lock behind it. After the time-out it is retried until it gets the lock.
//!
//! Replicas of two versions run at the same time during an upgrade, so a program also works with the
//! migrations of the next version if they are compatible: if their names begin with `expand`.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, PgPool, Row,
    error::DatabaseError,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
    query_scalar,
};
use tokio::time::timeout;

use crate::{host::Schema, roles};

static CHASSIS: &Migrator = &chassis::MIGRATIONS;

/// Longest wait for a lock before a migration is retried.
const LOCK_TIMEOUT: &str = "2s";
/// Pause before a retry.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Time after which a migration that does not get its lock fails.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Time-out of an attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// First pause between two attempts to connect; it doubles each time.
const CONNECT_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause between two attempts to connect.
const CONNECT_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Search path of the owner's session at its start.
const START_PATH: &str = "pg_catalog";
/// First word of the description of a migration with which older programs work.
const COMPATIBLE: &str = "expand";

/// Opens a connection of the owner without time-outs. Waits until `deadline` for a server that starts.
pub(crate) async fn connect(
    options: &PgConnectOptions,
    deadline: Instant,
) -> anyhow::Result<PgConnection> {
    let options = options.clone().application_name("tenantry migrate").options([
        ("search_path", START_PATH),
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
    ]);
    let mut pause = CONNECT_PAUSE;
    loop {
        let connected = timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options)).await;
        match connected.unwrap_or_else(|elapsed| Err(std::io::Error::from(elapsed).into())) {
            Err(error) if is_transient(&error) && Instant::now() < deadline => {
                let remaining = deadline.saturating_duration_since(Instant::now());
                let remaining_s = remaining.as_secs();
                tracing::warn!(%error, remaining_s, "the database does not respond; retrying");
                tokio::time::sleep(pause.min(remaining)).await;
                pause = (pause * 2).min(CONNECT_PAUSE_MAX);
            }
            Err(error) if has_no_free_connection(&error) => {
                return Err(error).context(
                    "the database has no free connection; raise the limit on connections of the server, the \
                     database or the user, or lower --database-connections-max of the processes that use it",
                );
            }
            Err(error @ sqlx::Error::Database(_)) => {
                return Err(error)
                    .context("the database refuses the connection; check --database-url");
            }
            connected => {
                let mut connection =
                    connected.context("the database does not respond; check --database-url")?;
                require_start_options(&mut connection).await?;
                return Ok(connection);
            }
        }
    }
}

/// Fails if the session does not have the start-up options: without them, tables would be created in another
/// schema.
async fn require_start_options(connection: &mut PgConnection) -> anyhow::Result<()> {
    let path = query_scalar!(r#"select current_setting('search_path') as "path!""#);
    let path = path.fetch_one(connection).await?;
    ensure!(
        path == START_PATH,
        "a connection pooler in front of the database ignores start-up options (`ignore_startup_parameters` \
         of PgBouncer); set --database-url to PostgreSQL itself"
    );
    Ok(())
}

/// True if a connection failed because the server is not reachable yet, starts, stops, or has no free
/// connection.
fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|it| ["57P01", "57P02", "57P03", "53300"].contains(&&*it))
        }
        _ => false,
    }
}

/// True if the server, the database or the user has reached its limit on connections (53300).
fn has_no_free_connection(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(DatabaseError::code).is_some_and(|it| it == "53300")
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
    let mut has_newer = false;
    for migrator in [CHASSIS, schema.migrations] {
        let state = SchemaState::read(owner, migrator).await?;
        state.check_compatible(name)?;
        has_newer |= !state.newer.is_empty();
        let applied = apply(&pool, name, migrator, state.pending).await;
        applied.with_context(|| format!("the schema {name} cannot be migrated"))?;
    }
    pool.close().await;
    if has_newer {
        // The privileges of the newer version stay: this one has no statements for its tables.
        return Ok(());
    }
    roles::grant(owner, name, schema.privileges).await
}

/// Applies pending migrations, one after the other.
async fn apply(
    pool: &PgPool,
    schema: &str,
    migrator: &Migrator,
    pending: Vec<Migration>,
) -> anyhow::Result<()> {
    // The migrations of a newer version have been checked before.
    let migrator = &Migrator {
        migrations: migrator.migrations.clone(),
        table_name: migrator.table_name.clone(),
        create_schemas: migrator.create_schemas.clone(),
        ignore_missing: true,
        ..*migrator
    };
    for Migration { version, description } in pending {
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

/// A migration.
struct Migration {
    version: i64,
    description: String,
}

/// Migrations that a database and a program do not have in common.
struct SchemaState {
    /// Migrations that are not applied.
    pending: Vec<Migration>,
    /// Applied migrations that this program does not have.
    newer: Vec<Migration>,
}

impl SchemaState {
    async fn read(connection: &mut PgConnection, migrator: &Migrator) -> anyhow::Result<Self> {
        let table = &*migrator.table_name;
        let exists =
            query_scalar!(r#"select to_regclass($1::text) is not null as "exists!""#, table);
        let mut applied = vec![];
        if exists.fetch_one(&mut *connection).await? {
            // The name is a constant of the code, never a value of a request.
            let sql = AssertSqlSafe(format!("select version, description from {table}"));
            for row in connection.fetch_all(sql).await? {
                let (version, description) = (row.try_get(0)?, row.try_get(1)?);
                applied.push(Migration { version, description });
            }
        }
        let is_applied = |version| applied.iter().any(|it| it.version == version);
        let pending = migrator.iter().filter(|it| !is_applied(it.version));
        let pending = pending.map(|it| Migration {
            version: it.version,
            description: it.description.clone().into_owned(),
        });
        let pending = pending.collect();
        applied.retain(|it| !migrator.version_exists(it.version));
        Ok(Self { pending, newer: applied })
    }

    /// Fails if a newer version has applied a migration with which this one does not work.
    fn check_compatible(&self, schema: &str) -> anyhow::Result<()> {
        let is_compatible =
            |it: &&Migration| it.description.split_whitespace().next() == Some(COMPATIBLE);
        if let Some(it) = self.newer.iter().find(|it| !is_compatible(it)) {
            anyhow::bail!(
                "the schema {schema} has the migration {} ({}) of a newer version of this program, which is \
                 not compatible with this one; start the newer version",
                it.version,
                it.description
            );
        }
        Ok(())
    }
}

/// Returns the number of migrations of a schema that are not applied; fails if a newer version has applied
/// one with which this one does not work.
pub(crate) async fn pending(
    connection: &mut PgConnection,
    name: &str,
    schema: Schema,
) -> anyhow::Result<usize> {
    let sql = format!("set search_path = {name}");
    // The name is a constant of the code, never a value of a request.
    connection.execute(AssertSqlSafe(sql)).await?;
    let mut pending = 0;
    for migrator in [CHASSIS, schema.migrations] {
        let state = SchemaState::read(connection, migrator).await;
        let state = state.with_context(|| format!("the schema {name} cannot be read"))?;
        state.check_compatible(name)?;
        pending += state.pending.len();
    }
    Ok(pending)
}

/// True if a migration failed because it did not get a lock in time (55P03).
fn is_lock_timeout(error: &MigrateError) -> bool {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else {
        return false;
    };
    error.as_database_error().and_then(DatabaseError::code).is_some_and(|it| it == "55P03")
}

/// Waits until another process has applied the migrations of a schema; fails at `deadline`. For a process
/// that connects as the role of a service and so cannot migrate, or that is not to migrate.
pub(crate) async fn wait_until_migrated(
    connection: &mut PgConnection,
    name: &str,
    schema: Schema,
    deadline: Instant,
) -> anyhow::Result<()> {
    let sql = format!("set search_path = {name}");
    // The name is a constant of the code, never a value of a request.
    connection.execute(AssertSqlSafe(sql)).await?;
    for migrator in [CHASSIS, schema.migrations] {
        loop {
            let state = SchemaState::read(connection, migrator).await;
            let state = state.with_context(|| format!("the schema {name} cannot be read"))?;
            state.check_compatible(name)?;
            if state.pending.is_empty() {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "the schema {name} has pending migrations, and this process does not apply them: the user of \
                 --database-url is the service's role, or --migrate is false; run `tenantry migrate` with \
                 the owner's --database-url first"
            );
            tracing::info!(schema = name, "waiting for `tenantry migrate`");
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
    Ok(())
}
