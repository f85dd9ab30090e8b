//! PostgreSQL roles: each service works as `tenantry_<schema>`, which has privileges on that schema only, so
//! that SQL injected into one service neither reads nor writes the data of another.

use anyhow::{Context, bail};
use sqlx::{
    AssertSqlSafe, Executor, PgConnection, error::DatabaseError, postgres::PgConnectOptions,
    query_scalar,
};

/// How sessions of a service take its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// They log in as the role: a session cannot become anybody else. For the private server, which lets in
    /// whoever reaches its socket, and for a `--database-url` that names the role itself.
    Login,
    /// They log in as the owner and set `role` in the startup message. An injected statement that can change
    /// settings can go back to the owner.
    Startup,
}

/// The role of the service with this schema.
pub(super) fn name(schema: &str) -> String {
    format!("tenantry_{schema}")
}

/// Connection options of a service: those of the owner, with the service's role.
pub(super) fn options(owner: &PgConnectOptions, schema: &str, mode: Mode) -> PgConnectOptions {
    let role = name(schema);
    match mode {
        _ if owner.get_username() == role => owner.clone(),
        Mode::Login => owner.clone().username(&role),
        Mode::Startup => owner.clone().options([("role", role)]),
    }
}

/// Creates the role of a service, if there is none, and lets the owner take it where sessions have to.
pub(super) async fn create(
    owner: &mut PgConnection,
    schema: &str,
    mode: Mode,
) -> anyhow::Result<()> {
    let role = name(schema);
    let exists = query_scalar!(
        r#"select exists (select from pg_roles where rolname = $1) as "exists!""#,
        role
    );
    if !exists.fetch_one(&mut *owner).await? {
        let create = format!("create role {role} login");
        match run(owner, create).await {
            // Another database of the same server has just made it.
            Err(error) if ["42710", "23505"].contains(&&*code(&error)) => {}
            created => created.or_else(|error| refused(error, advice(schema, &role)))?,
        }
    }
    if mode == Mode::Login {
        return Ok(());
    }
    // Tried rather than asked for: membership means less from PostgreSQL 16 on.
    if run(owner, format!("set role {role}")).await.is_err() {
        let granted = run(owner, format!("grant {role} to current_user")).await;
        granted.or_else(|error| refused(error, advice(schema, &role)))?;
    }
    Ok(run(owner, "reset role".to_owned()).await?)
}

/// Gives the role its privileges, and takes what it had besides, in one step.
pub(super) async fn grant(
    owner: &mut PgConnection,
    schema: &str,
    privileges: &str,
) -> anyhow::Result<()> {
    let role = name(schema);
    let sql = format!(
        "begin;
         -- Not while a partition is attached, which changes the same row of the catalog.
         select pg_advisory_xact_lock(hashtext(current_schema()), 3);
         revoke all on schema {schema} from public, {role};
         revoke all on all tables in schema {schema} from public, {role};
         grant usage on schema {schema} to {role};
         grant select, insert, update, delete on all tables in schema {schema} to {role};
         revoke insert, update, delete on _sqlx_migrations, _chassis_migrations from {role};
         {privileges}
         commit;"
    );
    let granted = run(owner, sql).await;
    granted.with_context(|| format!("the role {role} cannot be given its privileges"))
}

async fn run(owner: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    // Names of the code, never of a request.
    owner.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.map(|_| ())
}

fn code(error: &sqlx::Error) -> String {
    error.as_database_error().and_then(DatabaseError::code).unwrap_or_default().into_owned()
}

fn advice(schema: &str, role: &str) -> String {
    format!(
        "the user of --database-url may not make {role}, the role that the service {schema} works as; \
         either `alter role … createrole` for that user, or run this once as a superuser, with that user \
         for …: create role {role} login; grant {role} to …"
    )
}

fn refused(error: sqlx::Error, advice: String) -> anyhow::Result<()> {
    if code(&error) == "42501" {
        bail!(advice);
    }
    Err(error.into())
}
