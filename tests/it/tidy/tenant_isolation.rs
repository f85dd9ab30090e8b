//! Tenant isolation in SQL: every statement on rows of tenants is bound to one tenant.

use super::{Source, files, layers::is_store};

/// Tables whose rows belong to a tenant.
const TENANT_TABLES: [&str; 20] = [
    "addon",
    "addon_instance",
    "server",
    "project",
    "project_registration",
    "environment",
    "task",
    "invitation",
    "member",
    "project_grant",
    "team",
    "team_member",
    "api_key",
    "alert",
    "mail_rule",
    "webhook",
    "webhook_delivery",
    "entry",
    "tile",
    "term",
];

#[test]
fn statements_on_rows_of_a_tenant_are_bound_to_it() {
    for Source { path, text } in files("services", &[".rs"]) {
        if !is_store(&path) {
            continue;
        }
        for function in functions(&text) {
            assert!(is_bound_to_tenant(function), "{path}: no tenant in {function}");
        }
    }
}

/// Counter-check: naming the column is not enough, and an exception holds for one function.
#[test]
fn a_statement_without_its_tenant_is_found() {
    let unbound = "fn get() { query!(\"select id, org_id from task where id = $1\") }";
    let excepted =
        "fn lease() { // By id alone (no org_id): why.\n query!(\"select id from task\") }";
    let text = format!("{excepted}\n{unbound}\n");
    assert_eq!(functions(&text).iter().filter(|it| !is_bound_to_tenant(it)).count(), 1);
    assert!(is_bound_to_tenant("query!(\"select id from task where org_id = $1 and id = $2\")"));
    assert!(!is_bound_to_tenant("tasks!(\"where id = $1\", id)"));
    assert!(is_bound_to_tenant("query!(\"insert into task (id, org_id) values ($1, $2)\")"));
}

/// Functions of a file, each with the comments in its body.
fn functions(text: &str) -> Vec<&str> {
    text.split("fn ").skip(1).collect()
}

/// True if a function has no statement on rows of tenants, or compares or inserts their tenant, or gives a
/// reason with `(no org_id)`.
fn is_bound_to_tenant(function: &str) -> bool {
    let words: Vec<&str> = function.split_whitespace().collect();
    let names_table = words.windows(2).any(|pair| {
        let table = pair[1].trim_end_matches(['"', ',', ')', '#']);
        let verb = pair[0].trim_start_matches(['"', '(']);
        ["from", "join", "update", "into"].contains(&verb) && TENANT_TABLES.contains(&table)
    });
    // A macro that selects whole rows is named like its table, in the plural.
    let calls_macro = TENANT_TABLES.iter().any(|table| function.contains(&format!("{table}s!(")));
    let inserts = function.contains("insert into") && function.contains("org_id");
    // The audit log has one tree per tenant; its tables refer to the tree.
    let inserts = inserts || (function.contains("insert into") && function.contains("(tree,"));
    let compares = ["org_id = ", "tree = "].iter().any(|term| function.contains(term));
    let has_reason = function.contains("(no org_id)");
    !(names_table || calls_macro) || inserts || compares || has_reason
}
