//! Tenant isolation in SQL: every statement on rows of tenants is bound to one tenant. The tables are read
//! from the catalog of a migrated database, so that none can be forgotten.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{Connection, PgConnection};
use testkit::Database;

use super::{Source, assert_none, files, layers::is_store, services};

/// Tables without a column for the tenant. Each needs another key for its rows.
const OTHER_TABLES: [&str; 41] = [
    // Of the deployment.
    "_chassis_migrations",
    "_sqlx_migrations",
    "consumer_pause",
    "dead_letter",
    "deployment_key",
    "fsck_run",
    "home_cluster",
    "inbox",
    "key_user",
    "outbox_cursor",
    "plan_limit",
    "rate_limit",
    "retained_key",
    "retention",
    "signer",
    "signer_replica",
    "cosigned",
    // Of an account, or of an address without one.
    "account",
    "external_identity",
    "external_login",
    "former_address",
    "idempotency",
    "login_challenge",
    "mailed_link",
    "person",
    "person_address",
    "person_erased",
    "person_interim_key",
    "quiet_hours",
    "recovery_code",
    "session",
    // The tenant itself, by its id.
    "organization",
    // Of a row that belongs to a tenant, by the id of that row.
    "acceptance",
    "digest_item",
    "environment_report",
    "metric_hour",
    "metric_minute",
    "pending_event",
    "recipient",
    "reservation",
    "task_log",
];

/// Tables by schema, each with true if it has a column for the tenant: `org_id`, or `tree` in the audit log,
/// which has one tree per tenant.
async fn tables() -> BTreeMap<String, BTreeMap<String, bool>> {
    let sql = "select nspname::text, relname::text, exists (
                   select from pg_attribute
                   where attrelid = pg_class.oid and attname in ('org_id', 'tree') and not attisdropped)
               from pg_class join pg_namespace on pg_namespace.oid = relnamespace
               where nspname = any ($1) and relkind in ('r', 'p') and not relispartition";
    let database = Database::new().await;
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    let schemas: Vec<_> = services().collect();
    let rows: Vec<(String, String, bool)> =
        sqlx::query_as(sql).bind(schemas).fetch_all(&mut connection).await.unwrap();
    database.drop().await;
    let mut tables: BTreeMap<String, BTreeMap<String, bool>> = BTreeMap::new();
    for (schema, table, has_tenant) in rows {
        tables.entry(schema).or_default().insert(table, has_tenant);
    }
    tables
}

/// Names of the tables with a column for the tenant.
fn tenant_tables(tables: &BTreeMap<String, bool>) -> BTreeSet<&str> {
    tables.iter().filter(|(_, has_tenant)| **has_tenant).map(|(name, _)| name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_on_rows_of_a_tenant_are_bound_to_it() {
    for (schema, tables) in tables().await {
        let tenant_tables = tenant_tables(&tables);
        for Source { path, text } in files(&format!("services/{schema}"), &[".rs"]) {
            if !is_store(&path) {
                continue;
            }
            for function in functions(&text) {
                let is_bound = is_bound_to_tenant(function, &tenant_tables);
                assert!(is_bound, "{path}: no tenant in {function}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_has_a_tenant_or_is_known_to_have_none() {
    let tables = tables().await;
    let mut violations = vec![];
    let mut found = BTreeSet::new();
    for (schema, tables) in &tables {
        for (table, _) in tables.iter().filter(|(_, has_tenant)| !**has_tenant) {
            found.insert(table.as_str());
            if !OTHER_TABLES.contains(&table.as_str()) {
                violations.push(format!("{schema}.{table} has no column org_id"));
            }
        }
    }
    let missing = OTHER_TABLES.iter().filter(|it| !found.contains(*it));
    violations.extend(missing.map(|it| format!("{it} has a tenant, or does not exist")));
    assert_none(&violations, "tables have a tenant or are in OTHER_TABLES");
}

/// Counter-check: naming the column is not enough, and an exception holds for one function.
#[test]
fn a_statement_without_its_tenant_is_found() {
    let tables = BTreeSet::from(["task"]);
    let is_bound = |function: &str| is_bound_to_tenant(function, &tables);
    let unbound = "fn get() { query!(\"select id, org_id from task where id = $1\") }";
    let excepted =
        "fn lease() { // By id alone (no org_id): why.\n query!(\"select id from task\") }";
    let text = format!("{excepted}\n{unbound}\n");
    assert_eq!(functions(&text).iter().filter(|it| !is_bound(it)).count(), 1);
    assert!(is_bound("query!(\"select id from task where org_id = $1 and id = $2\")"));
    assert!(!is_bound("tasks!(\"where id = $1\", id)"));
    assert!(is_bound("query!(\"insert into task (id, org_id) values ($1, $2)\")"));
}

/// Functions of a file, each with the comments in its body.
fn functions(text: &str) -> Vec<&str> {
    text.split("fn ").skip(1).collect()
}

/// True if a function has no statement on rows of tenants, or compares or inserts their tenant, or gives a
/// reason with `(no org_id)`.
fn is_bound_to_tenant(function: &str, tenant_tables: &BTreeSet<&str>) -> bool {
    let words: Vec<&str> = function.split_whitespace().collect();
    let names_table = words.windows(2).any(|pair| {
        let table = pair[1].trim_end_matches(['"', ',', ')', '#']);
        let verb = pair[0].trim_start_matches(['"', '(']);
        ["from", "join", "update", "into"].contains(&verb) && tenant_tables.contains(table)
    });
    // A macro that selects whole rows is named like its table, in the plural.
    let calls_macro = tenant_tables.iter().any(|table| function.contains(&format!("{table}s!(")));
    let inserts = function.contains("insert into") && function.contains("org_id");
    // The audit log has one tree per tenant; its tables refer to the tree.
    let inserts = inserts || (function.contains("insert into") && function.contains("(tree,"));
    let compares = ["org_id = ", "tree = "].iter().any(|term| function.contains(term));
    let has_reason = function.contains("(no org_id)");
    !(names_table || calls_macro) || inserts || compares || has_reason
}
