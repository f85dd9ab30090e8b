//! Plans of the statements that read pages of lists: each begins at the place of the page in an index that
//! has the order of the list, whatever the parameters are. So the cost of a page does not grow with the list.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use testkit::Suite;

/// Schemas in which a statement may run.
const SCHEMAS: [&str; 4] = ["identity", "project", "invitation", "audit"];

/// Statements that sort two short ranges of an index, one for own rows and one for shared rows.
const TWO_RANGES: [&str; 1] = ["from server where id in"];

/// Lists of the contract whose rows are in tables, in each order and with each parent.
const STATEMENTS_MIN: usize = 25;

/// The checked statements of the suite that read a page: those with a place and a limit.
fn paged_statements() -> Vec<String> {
    let folder = std::fs::read_dir("../.sqlx").unwrap();
    let statements = folder.map(|it| {
        let query = std::fs::read_to_string(it.unwrap().path()).unwrap();
        let query: Value = serde_json::from_str(&query).unwrap();
        query["query"].as_str().unwrap().to_owned()
    });
    // The second form is a filter: a generic plan reads everything before the page.
    let has_place = |it: &String| it.contains("coalesce($") || it.contains("is null or id ");
    let is_paged = |it: &String| it.contains("limit $") && has_place(it);
    let mut statements: Vec<String> = statements.filter(is_paged).collect();
    statements.sort();
    statements
}

/// Returns the generic plan of a statement in the schema in which it can run.
async fn generic_plan(connection: &mut PgConnection, statement: &str) -> Value {
    let parameters = (1..=99).take_while(|it| statement.contains(&format!("${it}"))).count();
    let nulls = vec!["null"; parameters].join(", ");
    for schema in SCHEMAS {
        let prepare = format!("set search_path = {schema}; prepare page as {statement}");
        if sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut *connection).await.is_err() {
            continue;
        }
        let explain = format!("explain (format json) execute page({nulls})");
        let plan: Value =
            sqlx::query_scalar(AssertSqlSafe(explain)).fetch_one(&mut *connection).await.unwrap();
        sqlx::raw_sql("deallocate page").execute(&mut *connection).await.unwrap();
        return plan[0]["Plan"].clone();
    }
    panic!("no schema has the tables of {statement}");
}

/// Counts the nodes of a plan by their type, and the conditions of indexes that name the place of the page.
fn count_nodes(plan: &Value, nodes: &mut BTreeMap<String, usize>) {
    let mut add = |name: &str| *nodes.entry(name.to_owned()).or_default() += 1;
    add(plan["Node Type"].as_str().unwrap());
    if plan["Index Cond"].as_str().is_some_and(|it| it.contains("COALESCE")) {
        add("place");
    }
    for child in plan["Plans"].as_array().into_iter().flatten() {
        count_nodes(child, nodes);
    }
}

/// AIP-158: a page costs the same at each place of a list.
#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_a_range_of_an_index() {
    let suite = Suite::start().await;
    let mut connection = PgConnection::connect(&suite.database_url()).await.unwrap();
    // Sorts and scans of whole tables are planned only where no index has the order.
    let settings = "set plan_cache_mode = force_generic_plan; set enable_sort = off;
                    set enable_seqscan = off; set enable_bitmapscan = off";
    sqlx::raw_sql(settings).execute(&mut connection).await.unwrap();
    let statements = paged_statements();
    let mut violations = vec![];
    for statement in &statements {
        let plan = generic_plan(&mut connection, statement).await;
        let mut nodes = BTreeMap::new();
        count_nodes(&plan, &mut nodes);
        let sorts = nodes.contains_key("Sort") || nodes.contains_key("Incremental Sort");
        let may_sort = TWO_RANGES.iter().any(|it| statement.contains(it));
        if !nodes.contains_key("place") || sorts && !may_sort {
            violations.push(format!("{statement}\n{plan:#}"));
        }
    }
    let count = format!("{} of {} statements", violations.len(), statements.len());
    assert!(violations.is_empty(), "{count}: {}", violations.join("\n"));
    assert!(statements.len() >= STATEMENTS_MIN, "{} statements", statements.len());
    suite.finish().await;
}
