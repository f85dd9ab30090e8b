//! PostgreSQL roles of the services: injected statements of a service reach its own schema only.

use std::process::Command;

use chassis::Config;
use embedded_postgres as postgres;
use host::{DataDir, Host};
use serde_json::json;
use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgDatabaseError},
};
use testkit::{Database, Person, Suite};

fn service_names() -> Vec<&'static str> {
    chassis::registry::SERVICES.iter().map(|it| it.name).collect()
}

/// Executes a statement and rolls it back. Returns the SQLSTATE of its error; `None` if it succeeds.
async fn error_code(connection: &mut PgConnection, sql: &str) -> Option<String> {
    let mut tx = connection.begin().await.unwrap();
    let result = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut *tx).await;
    tx.rollback().await.unwrap();
    let error = result.err()?.into_database_error().expect("an error of the database");
    Some(error.downcast_ref::<PgDatabaseError>().code().to_owned())
}

/// SQLSTATE `insufficient_privilege`.
const FORBIDDEN: &str = "42501";

/// Schema, name and first updatable column of every table and partition of the services.
async fn tables(pool: &PgPool) -> Vec<(String, String, String)> {
    let sql = "select nspname::text, relname::text,
                      (select attname::text from pg_attribute where attrelid = pg_class.oid and attnum > 0
                       and not attisdropped and attidentity = '' order by attnum limit 1)
               from pg_class join pg_namespace on pg_namespace.oid = relnamespace
               where nspname = any ($1) and relkind in ('r', 'p') order by 1, 2";
    let tables: Vec<_> = sqlx::query_as(sql).bind(service_names()).fetch_all(pool).await.unwrap();
    assert!(tables.len() > 60, "only {} tables were found: {tables:?}", tables.len());
    tables
}

/// Connects as a role.
async fn log_in(suite: &Suite, role: &str) -> PgConnection {
    let options: PgConnectOptions = suite.database_url().parse().unwrap();
    PgConnection::connect_with(&options.username(role)).await.unwrap()
}

/// Each service is connected as its own role, which is no superuser, creates nothing and owns nothing.
#[tokio::test(flavor = "multi_thread")]
async fn each_service_connects_as_its_own_role() {
    let suite = Suite::start().await;
    suite.person("ann@example.com").await;
    suite.wait_for_log().await;
    let sessions = "select distinct application_name::text, usename::text from pg_stat_activity
                    where datname = current_database() and application_name = any ($1) order by 1";
    let sessions: Vec<(String, String)> =
        sqlx::query_as(sessions).bind(service_names()).fetch_all(&suite.pool).await.unwrap();
    for (service, role) in &sessions {
        assert_eq!(*role, format!("tenantry_{service}"));
    }
    assert_eq!(sessions.len(), service_names().len());
    let privileged = "select count(*) from pg_roles where rolname like 'tenantry\\_%'
                  and (rolsuper or rolcreatedb or rolcreaterole or rolreplication or rolbypassrls)";
    assert_eq!(suite.count(privileged).await, 0);
    let owned = "select count(*) from pg_class join pg_roles on pg_roles.oid = relowner
                 where rolname like 'tenantry\\_%'";
    assert_eq!(suite.count(owned).await, 0);
    suite.finish().await;
}

/// Injected statements cannot access tables of other schemas, change the role, create objects, or reach files
/// and programs of the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_reaches_no_schema_but_its_own() {
    let suite = Suite::start().await;
    let tables = tables(&suite.pool).await;
    for service in service_names() {
        let mut connection = log_in(&suite, &format!("tenantry_{service}")).await;
        for (schema, table, column) in tables.iter().filter(|it| it.0 != service) {
            for sql in [
                format!("select from {schema}.{table} where false"),
                format!("insert into {schema}.{table} select * from {schema}.{table} where false"),
                format!("update {schema}.{table} set {column} = {column} where false"),
                format!("delete from {schema}.{table} where false"),
                format!("truncate {schema}.{table}"),
            ] {
                let code = error_code(&mut connection, &sql).await;
                assert_eq!(code.as_deref(), Some(FORBIDDEN), "{service}: {sql}");
            }
        }
        let others = service_names().into_iter().filter(|it| *it != service);
        let mut escapes: Vec<String> = others.map(|it| format!("set role tenantry_{it}")).collect();
        escapes.extend([
            "set role tenantry".to_owned(),
            "set session authorization tenantry".to_owned(),
            "select set_config('role', 'tenantry', false)".to_owned(),
            "copy (select 1) to program 'true'".to_owned(),
            "select pg_read_file('/etc/passwd')".to_owned(),
            "select lo_import('/etc/passwd')".to_owned(),
            "create schema mine".to_owned(),
            format!("create table {service}.mine ()"),
            format!("create function {service}.mine() returns int language sql return 1"),
            format!("update {service}._sqlx_migrations set checksum = ''"),
            format!("delete from {service}._chassis_migrations"),
            format!("alter table {service}.outbox disable trigger all"),
            format!("drop table {service}.outbox"),
        ]);
        for sql in escapes {
            let code = error_code(&mut connection, &sql).await;
            assert_eq!(code.as_deref(), Some(FORBIDDEN), "{service}: {sql}");
        }
        let own = format!("select from {service}.outbox");
        assert_eq!(error_code(&mut connection, &own).await, None);
        connection.close().await.unwrap();
    }
    suite.finish().await;
}

/// A-10, AU-3: the role of the log can append and read, and cannot change or delete leaves, hashes,
/// checkpoints or purge positions.
#[tokio::test(flavor = "multi_thread")]
async fn the_role_of_the_log_appends_and_reads() {
    let suite = Suite::start().await;
    suite.person("ann@example.com").await;
    suite.wait_for_log().await;
    let month: String = sqlx::query_scalar(
        "select inhrelid::regclass::text from pg_inherits where inhparent = $1::regclass",
    )
    .bind("audit.entry")
    .fetch_one(&suite.pool)
    .await
    .unwrap();
    let mut connection = log_in(&suite, "tenantry_audit").await;
    for table in ["audit.entry", &month, "audit.tile", "audit.checkpoint"] {
        let column = if table == "audit.tile" { "hashes" } else { "leaf" };
        for sql in [
            format!("update {table} set {column} = {column}"),
            format!("delete from {table}"),
            format!("truncate {table}"),
            format!("alter table {table} disable trigger all"),
            format!("drop table {table}"),
        ] {
            let code = error_code(&mut connection, &sql).await;
            assert_eq!(code.as_deref(), Some(FORBIDDEN), "{sql}");
        }
    }
    for sql in [
        "set session_replication_role = replica",
        "update audit.tree set purged_before = size",
        "update audit.tree set deleted_before = 0",
        "update audit.tree set org_id = org_id",
        "insert into audit.tree (org_id, purged_before) values (gen_random_uuid(), 5)",
        "delete from audit.tree",
        "update audit.retention set days = 1",
        "delete from audit.producer",
        "update audit.term set value = value",
        "delete from audit.term_name",
        "update audit.person set id = id",
        "delete from audit.person",
        "delete from audit.person_erased",
        "delete from audit.cosigned",
        "select audit.make_month('mine', '2030-01-01')",
    ] {
        assert_eq!(error_code(&mut connection, sql).await.as_deref(), Some(FORBIDDEN), "{sql}");
    }
    connection.close().await.unwrap();
    suite.finish().await;
}

/// Privileges of the tables of the log; a new table has to be added here.
#[tokio::test(flavor = "multi_thread")]
async fn every_privilege_of_the_log_is_listed() {
    let suite = Suite::start().await;
    let sql = "select relname::text || ': ' || string_agg(privilege, ' ' order by privilege)
               from pg_class join pg_namespace on pg_namespace.oid = relnamespace and nspname = 'audit'
               cross join unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) as privilege
               where relkind in ('r', 'p') and not relispartition
                 and has_table_privilege('tenantry_audit', pg_class.oid, privilege)
               group by relname order by relname";
    let granted: Vec<String> = sqlx::query_scalar(sql).fetch_all(&suite.pool).await.unwrap();
    let common_tables = [
        "consumer_pause",
        "dead_letter",
        "deferred_event",
        "home_cluster",
        "idempotency",
        "inbox",
        "key_user",
        "mail",
        "outbox",
        "outbox_cursor",
        "outbox_sequence",
        "rate_limit",
        "retained_key",
    ];
    let (common, own): (Vec<_>, Vec<_>) = granted
        .into_iter()
        .partition(|it| common_tables.iter().any(|name| it.starts_with(&format!("{name}: "))));
    let has_all = |it: &String| it.ends_with(": DELETE INSERT SELECT UPDATE");
    assert!(common.iter().all(has_all), "a common table lacks a privilege: {common:?}");
    let expected = [
        "_chassis_migrations: SELECT",
        "_sqlx_migrations: SELECT",
        "checkpoint: INSERT SELECT",
        "cosigned: INSERT SELECT",
        "deployment_key: DELETE INSERT SELECT UPDATE",
        "entry: INSERT SELECT",
        "export_sink: DELETE INSERT SELECT UPDATE",
        "export_storage_use: DELETE INSERT SELECT UPDATE",
        "fsck_run: DELETE INSERT SELECT UPDATE",
        "person: INSERT SELECT",
        "person_address: INSERT SELECT",
        "person_erased: SELECT",
        "person_interim_key: INSERT SELECT",
        "producer: INSERT SELECT",
        "quarantine: DELETE INSERT SELECT",
        "retention: SELECT",
        "signer: SELECT",
        "signer_replica: DELETE INSERT SELECT UPDATE",
        "signing_stop: DELETE INSERT SELECT",
        "term: INSERT SELECT",
        "term_name: INSERT SELECT",
        "tile: INSERT SELECT",
        "tree: SELECT",
    ];
    assert_eq!(own, expected);
    suite.finish().await;
}

/// A host of all services with a `--database-url` of this user.
fn host(database: &Database, user: &str, folder: &std::path::Path) -> Host {
    let config = Config { database_url: Some(database.url().into()), ..testkit::config() };
    let options = database.options.clone().username(user);
    let data = DataDir::open(Some(folder)).unwrap();
    let mut host = Host::new(config, options, data).unwrap();
    for install in tenantry::INSTALLS {
        install(&mut host).unwrap();
    }
    host
}

/// With a `--database-url` connections switch to the role of their service, also for an owner that is no
/// superuser; a user who cannot create the roles gets an error with the statement to run.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_takes_the_role_of_each_service_or_gets_the_remedy() {
    let database = Database::new().await;
    let folder = tempfile::tempdir().unwrap();
    let owner = format!("owner_{}", uuid::Uuid::new_v4().simple());
    let mut admin = PgConnection::connect_with(&database.options).await.unwrap();
    let run = async |connection: &mut PgConnection, sql: String| {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.unwrap();
    };
    let schemas = service_names().join(", ");
    run(
        &mut admin,
        format!(
            "create role {owner} login; drop schema {schemas} cascade;
             do $$ begin execute format('alter database %I owner to {owner}', current_database()); end $$"
        ),
    )
    .await;
    let error = host(&database, &owner, folder.path()).migrate().await.unwrap_err().to_string();
    assert!(
        error.contains("create role tenantry_identity login; grant tenantry_identity to"),
        "the error has no remedy: {error}"
    );
    let roles: Vec<_> = service_names().iter().map(|it| format!("tenantry_{it}")).collect();
    let roles = roles.join(", ");
    run(&mut admin, format!("grant {roles} to {owner}")).await;
    let owned = host(&database, &owner, folder.path());
    owned.migrate().await.unwrap();
    for db in owned.databases() {
        let user = sqlx::query_scalar("select current_user::text || ' ' || session_user::text");
        let user: String = user.fetch_one(db.pool()).await.unwrap();
        assert_eq!(user, format!("tenantry_{} {owner}", db.name()));
        // `reset role` does not switch back to the owner.
        let reset = sqlx::raw_sql("reset role; select from identity.account; reset role");
        assert_eq!(reset.execute(db.pool()).await.is_ok(), db.name() == "identity");
        db.close().await;
    }
    run(
        &mut admin,
        format!(
            "do $$ begin execute format('alter database %I owner to tenantry', current_database()); end $$;
             reassign owned by {owner} to tenantry; drop owned by {owner}; drop role {owner}"
        ),
    )
    .await;
    admin.close().await.unwrap();
    database.drop().await;
}

/// A `--database-url` with the role of the service: it cannot migrate, and the start fails with the remedy if
/// a migration is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_runs_with_its_own_role_only() {
    let database = Database::new().await;
    let folder = tempfile::tempdir().unwrap();
    let own_role_host = || {
        let config = Config { database_url: Some(database.url().into()), ..testkit::config() };
        let options = database.options.clone().username("tenantry_identity");
        let data = DataDir::open(Some(folder.path())).unwrap();
        let mut host = Host::new(config, options, data).unwrap();
        install_identity(&mut host);
        host
    };
    own_role_host().migrate().await.unwrap();
    let mut admin = PgConnection::connect_with(&database.options).await.unwrap();
    let remove_migration = "delete from identity._sqlx_migrations where version = 1";
    sqlx::raw_sql(remove_migration).execute(&mut admin).await.unwrap();
    let error = own_role_host().migrate().await.unwrap_err().to_string();
    let remedy = "run `tenantry migrate` with the owner's --database-url";
    assert!(error.contains(remedy), "the error has no remedy: {error}");
    admin.close().await.unwrap();
    database.drop().await;
}

/// Installs the identity service alone.
fn install_identity(host: &mut Host) {
    // The first of the installers is that of identity.
    tenantry::INSTALLS[0](host).unwrap();
}

/// After the restore of a dump without owners and privileges the next start grants all privileges.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_dump_gets_the_same_privileges() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    ann.create_organization("acme").await.unwrap();
    suite.wait_for_log().await;
    let url = suite.database_url();
    let suite = suite
        .restart(async |pool| {
            let program = |name: &str| Command::new(postgres::program(name).unwrap());
            let dump = program("pg_dump").args(["--no-owner", "--no-privileges", &url]).output();
            let dump = dump.unwrap();
            assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
            let drop = format!("drop schema {} cascade", service_names().join(", "));
            sqlx::raw_sql(AssertSqlSafe(drop)).execute(pool).await.unwrap();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), dump.stdout).unwrap();
            let restore = program("psql")
                .args(["-q", "-v", "ON_ERROR_STOP=1", "-f", &file.path().to_string_lossy(), &url])
                .output()
                .unwrap();
            assert!(restore.status.success(), "{}", String::from_utf8_lossy(&restore.stderr));
        })
        .await;
    let ann = Person { client: suite.client.with_token(&ann.token), ..ann };
    let second = json!({ "name": "second", "slug": "second" });
    ann.call_ok("identity.v1.OrganizationService/CreateOrganization", second).await;
    suite.wait_for_log().await;
    let mut connection = log_in(&suite, "tenantry_audit").await;
    for sql in ["delete from audit.entry", "select audit.make_month('mine', '2030-01-01')"] {
        assert_eq!(error_code(&mut connection, sql).await.as_deref(), Some(FORBIDDEN), "{sql}");
    }
    connection.close().await.unwrap();
    let found = suite.fsck().await;
    assert!(found.differences.is_empty(), "the log has differences: {found}");
    suite.finish().await;
}
