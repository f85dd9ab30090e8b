//! PostgreSQL roles. Each service uses the role `tenantry_<schema>`, which has privileges on its schema only,
//! so that an SQL injection in one service cannot read or write data of another.

use anyhow::{Context, bail};
use sqlx::{
    AssertSqlSafe, Executor, PgConnection, error::DatabaseError, postgres::PgConnectOptions,
    query_scalar,
};

/// Method by which the sessions of a service get its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// They log in as the role, and cannot change to another one. For the private server, which accepts any
    /// role on its socket, and for a `--database-url` with the role as its user.
    Login,
    /// They log in as the owner and set `role` in the startup message. An injected `RESET ROLE` would return
    /// to the owner.
    Startup,
}

/// Returns the role of the service with a schema.
pub(crate) fn name(schema: &str) -> String {
    format!("tenantry_{schema}")
}

/// Returns the connection options of a service: those of the owner, with the service's role.
pub(crate) fn options(owner: &PgConnectOptions, schema: &str, mode: Mode) -> PgConnectOptions {
    let role = name(schema);
    match mode {
        _ if owner.get_username() == role => owner.clone(),
        Mode::Login => owner.clone().username(&role),
        Mode::Startup => owner.clone().options([("role", role)]),
    }
}

/// Creates the role of a service if it is missing. In [`Mode::Startup`] also makes the owner a member of it.
pub(crate) async fn create(
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
            // Created at the same time by a process for another database of this server.
            Err(error) if ["42710", "23505"].contains(&&*code(&error)) => {}
            created => created.or_else(|error| explain(error, &remedy(schema, &role)))?,
        }
    }
    if mode == Mode::Login {
        return Ok(());
    }
    // Tested by use, because from PostgreSQL 16 on membership does not imply the privilege to set the role.
    if run(owner, format!("set role {role}")).await.is_err() {
        let granted = run(owner, format!("grant {role} to current_user")).await;
        granted.or_else(|error| explain(error, &remedy(schema, &role)))?;
    }
    Ok(run(owner, "reset role".to_owned()).await?)
}

/// Sets the privileges of the role in one transaction; others are revoked.
pub(crate) async fn grant(
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
    granted.with_context(|| format!("the privileges of the role {role} cannot be set"))
}

async fn run(owner: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    // Identifiers are constants of the code, never values of a request.
    owner.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.map(|_| ())
}

/// Returns the SQLSTATE of an error.
fn code(error: &sqlx::Error) -> String {
    error.as_database_error().and_then(DatabaseError::code).unwrap_or_default().into_owned()
}

/// Returns the error message for an owner without CREATEROLE.
fn remedy(schema: &str, role: &str) -> String {
    format!(
        "the user of --database-url may not create {role}, the role of the service {schema}; run `alter role \
         … createrole` for that user, or run this once as a superuser, with that user for …: create role \
         {role} login; grant {role} to …"
    )
}

/// Replaces a missing privilege (42501) with a message that has the remedy.
fn explain(error: sqlx::Error, remedy: &str) -> anyhow::Result<()> {
    if code(&error) == "42501" {
        bail!(remedy.to_owned());
    }
    Err(error.into())
}
