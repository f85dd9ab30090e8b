//! Plans of the statements that read the log, as the suite sends them: PostgreSQL writes them to its log
//! (`auto_explain`). A page costs the same at the beginning, in the middle and at the end of the log.

use std::collections::{BTreeMap, BTreeSet};

use api::audit::{
    ExportEntriesRequest, ExportFormat, WatchEntriesRequest,
    audit_service_client::AuditServiceClient,
};
use chassis::clock::Duration;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use testkit::{Suite, eventually};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use crate::support::{
    audit_client::{AuditClient, as_person},
    large_log::LargeLog,
    world::{World, merge, text},
};

/// Entries of the organization.
const ENTRIES: i64 = 20_000;
/// Entries in the log of accounts.
const ACCOUNT_ENTRIES: i64 = 6_000;
/// Entries of another organization, beside which the log of the first one is a small part of all entries.
const OTHER_ENTRIES: i64 = 50_000;
/// Rows of a page, for statements that return fewer.
const PAGE: f64 = 100.0;

/// Tables that grow with the log.
const TABLES: [&str; 5] = ["entry", "tile", "term", "term_name", "checkpoint"];

/// Names of one object, which a search by another text must not read.
const NAMES: i64 = 5_000;

/// Statements without pages: `fsck` counts the tiles of each tree once, and the outboxes ask whether single
/// events are in the log.
const OTHER_STATEMENTS: [&str; 2] =
    [r#"select count(*) as "count!" from tile"#, "from entry where event_id = any ($1)"];

/// A statement of the suite with its plan.
struct Plan {
    sql: String,
    root: Value,
}

/// Cost of a plan. A table that has no more rows than a page may be read as a whole.
#[derive(Default)]
struct Cost {
    /// Rows of growing tables that were read, discarded ones included.
    rows: f64,
    /// Number of scans of growing tables and their indexes.
    scans: f64,
}

impl Cost {
    fn add(&mut self, node: &Value) {
        let number = |name: &str| node[name].as_f64().unwrap_or(0.0);
        let loops = number("Actual Loops");
        // A scan for a bitmap has the name of the index only.
        let is_bitmap = node["Node Type"] == "Bitmap Index Scan";
        let table = text(&node[if is_bitmap { "Index Name" } else { "Relation Name" }]);
        let is_growing = TABLES.contains(&&*table) || table.starts_with("entry_");
        if is_growing {
            let rows = number("Actual Rows")
                + number("Rows Removed by Filter")
                + number("Rows Removed by Index Recheck");
            self.rows += rows * loops;
            self.scans += loops;
        }
        for child in node["Plans"].as_array().into_iter().flatten() {
            self.add(child);
        }
    }
}

impl Plan {
    /// Rows that the statement returns.
    fn returned(&self) -> f64 {
        self.root["Actual Rows"].as_f64().unwrap_or(0.0)
    }

    /// Blocks of tables and indexes that the statement reads.
    fn blocks(&self) -> f64 {
        let number = |name: &str| self.root[name].as_f64().unwrap_or(0.0);
        number("Shared Hit Blocks") + number("Shared Read Blocks")
    }

    /// Cost of a statement that lists; `None` for any other statement.
    fn cost(&self) -> Option<Cost> {
        let mut cost = Cost::default();
        cost.add(&self.root);
        let is_change = self.root["Node Type"] == "ModifyTable";
        let is_other = OTHER_STATEMENTS.iter().any(|it| self.sql.contains(it));
        (cost.scans > 0.0 && !is_change && !is_other).then_some(cost)
    }

    /// Returns why the statement costs more than its page; `None` if it does not.
    fn excess(&self) -> Option<String> {
        let cost = self.cost()?;
        // Conditions without an index hold for every second entry, and a list may scan several terms.
        let rows_max = 4.0 * self.returned().max(PAGE);
        if cost.rows > rows_max {
            return Some(format!("reads {} rows, more than {rows_max}", cost.rows));
        }
        // A scan reads three blocks of its index before the first entry; then an entry takes at most one
        // block of the index and one of the table.
        let blocks_max = 50.0 + 4.0 * cost.scans + 2.0 * cost.rows;
        let blocks = self.blocks();
        (blocks > blocks_max).then(|| format!("reads {blocks} blocks, more than {blocks_max}"))
    }
}

/// Returns a statement that reads the same numbers of rows at two positions, and far more blocks at one of
/// them: it walks over index entries before its page. `None` if there is none.
fn uneven(plans: &[Plan]) -> Option<String> {
    let mut fewest: BTreeMap<(&str, String), f64> = BTreeMap::new();
    let listing = || plans.iter().filter_map(|plan| Some((plan, plan.cost()?.rows)));
    let key = |plan: &'_ Plan, rows: f64| format!("{rows} rows read, {} returned", plan.returned());
    for (plan, rows) in listing() {
        let blocks = fewest.entry((&plan.sql, key(plan, rows))).or_insert(f64::MAX);
        *blocks = blocks.min(plan.blocks());
    }
    listing().find_map(|(plan, rows)| {
        let key = key(plan, rows);
        let blocks = plan.blocks();
        let fewest = fewest[&(&*plan.sql, key.clone())];
        let excess =
            || format!("{key}: {blocks} blocks, elsewhere {fewest}: {:#} {}", plan.root, plan.sql);
        (blocks > 2.0 * fewest + 15.0).then(excess)
    })
}

/// Makes PostgreSQL write the plan of every statement of new sessions to its log.
async fn explain(pool: &PgPool) {
    for setting in [
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_analyze = on",
        "auto_explain.log_buffers = on",
        "auto_explain.log_timing = off",
        "auto_explain.log_format = 'json'",
    ] {
        let set = format!(
            "do $$ begin execute format('alter database %I set {}', current_database()); end $$",
            setting.replace('\'', "''")
        );
        sqlx::raw_sql(AssertSqlSafe(set)).execute(pool).await.unwrap();
    }
}

/// Plans of the statements of the suite so far.
fn plans(suite: &Suite) -> Vec<Plan> {
    let mut log = suite.server_log();
    // The server may be writing it.
    log.pop();
    let messages = log.iter().filter_map(|it| it.split_once("  plan:"));
    let plans = messages.map(|(_, json)| {
        let explained: Value =
            serde_json::from_str(json).unwrap_or_else(|it| panic!("{it}: {json}"));
        Plan { sql: text(&explained["Query Text"]), root: explained["Plan"].clone() }
    });
    plans.collect()
}

/// Filters of a list, alone and together.
fn filters(actor: Uuid) -> Vec<Value> {
    let actor = json!({ "actorId": actor.to_string() });
    let success = json!({ "outcome": "OUTCOME_SUCCESS" });
    let object = json!({ "resourceId": LargeLog::object(2).to_string() });
    vec![
        json!({}),
        actor.clone(),
        success.clone(),
        object.clone(),
        json!({ "resourceType": "environment" }),
        json!({ "environmentId": LargeLog::object(0).to_string() }),
        json!({ "action": "environment.updated" }),
        json!({ "action": "environment.*" }),
        json!({ "text": "person 4 " }),
        merge(actor.clone(), success.clone()),
        merge(actor, json!({ "action": "environment.updated" })),
        merge(object, merge(success, json!({ "action": "environment.updated" }))),
    ]
}

/// Time filters whose lists begin at the newest entry, in the middle of the log and near its first entry, and
/// those whose streams and exports do.
fn ranges(now: OffsetDateTime) -> [Value; 5] {
    let ago = |days: i32, hours: i32| {
        let time = now - Duration::days(days.into()) - Duration::hours(hours.into());
        json!(time.format(&Rfc3339).unwrap())
    };
    [
        json!({}),
        json!({ "to": ago(15, 0) }),
        json!({ "to": ago(28, 20) }),
        json!({ "from": ago(15, 0), "to": ago(14, 12) }),
        json!({ "from": ago(0, 12) }),
    ]
}

/// Lists with every filter at each position.
async fn list(log: &AuditClient, project: &str, now: OffsetDateTime, actor: Uuid) {
    for range in ranges(now) {
        for filter in filters(actor) {
            for project in ["", project] {
                let filter = merge(filter.clone(), range.clone());
                let list = json!({ "filter": filter, "projectId": project, "pageSize": 50 });
                let method = "audit.v1.AuditService/ListEntries";
                let page = log.owner.call_ok(method, log.org_request(list)).await;
                let count = page["entries"].as_array().map_or(0, Vec::len);
                assert!(count > 0, "{filter} of {project:?} finds nothing");
            }
        }
    }
    let nothing = json!({ "filter": { "text": "no such name" } });
    let page =
        log.owner.call_ok("audit.v1.AuditService/ListEntries", log.org_request(nothing)).await;
    assert!(page.get("entries").is_none(), "{page}");
    let mut token = json!("");
    for _ in 0..2 {
        let list = json!({ "pageSize": 50, "pageToken": token });
        let method = "audit.v1.AuditService/ListAccountEntries";
        let page = log.owner.call_ok(method, list).await;
        assert_eq!(page["entries"].as_array().unwrap().len(), 50);
        token = page["nextPageToken"].clone();
    }
}

/// Exports and streams from each position on: all entries, and those of each index.
async fn export_and_watch(log: &AuditClient, project: &str, now: OffsetDateTime, actor: Uuid) {
    let mut client = AuditServiceClient::new(log.channel.clone());
    let filters = [
        json!({}),
        json!({ "actor_id": actor.to_string() }),
        json!({ "resource_id": LargeLog::object(2).to_string() }),
        json!({ "action": "environment.updated" }),
        json!({ "text": "person 4 " }),
    ];
    let newest = log.newest_checkpoint().await.unwrap().size.cast_signed();
    for filter in filters {
        for hours in [29 * 24, 15 * 24, 12] {
            let field = |name: &str| text(&filter[name]);
            let from = now - Duration::hours(hours.into());
            let filter = api::audit::EntryFilter {
                actor_id: field("actor_id"),
                resource_id: field("resource_id"),
                action: field("action"),
                text: field("text"),
                from: Some(chassis::timestamp(from)),
                to: Some(chassis::timestamp(from + Duration::hours(12))),
                ..Default::default()
            };
            for project_id in ["", project] {
                let request = ExportEntriesRequest {
                    project_id: project_id.to_owned(),
                    format: ExportFormat::Json.into(),
                    filter: Some(filter.clone()),
                    ..Default::default()
                };
                log.export_as(&log.owner, request).await.unwrap();
                let filter = api::audit::EntryFilter { from: None, to: None, ..filter.clone() };
                let watch = WatchEntriesRequest {
                    org_id: log.org.clone(),
                    project_id: project_id.to_owned(),
                    filter: Some(filter),
                    from_index: Some(newest - i64::from(hours) * newest / (30 * 24)),
                };
                let watched = client.watch_entries(as_person(&log.owner, watch)).await.unwrap();
                assert!(watched.into_inner().message().await.unwrap().is_some());
            }
        }
    }
}

/// Proofs of entries at the beginning, in the middle and at the end, and of the growth since the middle.
async fn prove(log: &AuditClient, events: &[Uuid]) {
    for event in events {
        let get = log.org_request(json!({ "eventId": event.to_string() }));
        log.owner.call_ok("audit.v1.LogService/GetInclusionProof", get).await;
    }
    let grown = log.org_request(json!({ "fromSize": ENTRIES / 2 }));
    log.owner.call_ok("audit.v1.LogService/GetConsistencyProof", grown).await;
}

/// AU-12: no statement that lists, streams, exports, proves, signs, purges or checks entries reads more than
/// its page, wherever the page is, with every filter.
#[tokio::test(flavor = "multi_thread")]
async fn the_cost_of_a_page_does_not_depend_on_its_position() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    suite.wait_for_log().await;
    let now = suite.clock.now();
    let mut actors: Vec<Uuid> = (1..40).map(|it| Uuid::from_u128(it * 7)).collect();
    actors.push(world.owner.user_id.parse().unwrap());
    let projects = vec![world.project.clone(), LargeLog::object(5).to_string()];
    let org = LargeLog {
        org_id: world.org.parse().unwrap(),
        count: ENTRIES,
        actors: actors.clone(),
        projects,
    };
    let accounts = LargeLog {
        org_id: Uuid::nil(),
        count: ACCOUNT_ENTRIES,
        actors: actors.clone(),
        projects: vec![String::new()],
    };
    let other = LargeLog {
        org_id: chassis::id::new(),
        count: OTHER_ENTRIES,
        actors: actors.clone(),
        projects: vec![String::new()],
    };
    let suite = suite
        .restart(async |pool| {
            org.write(pool, now).await;
            accounts.write(pool, now).await;
            other.write(pool, now).await;
            let names = format!(
                "insert into audit.term_name (term, name)
                 select number, case value when '{}' then 'Person 4 ' else 'Somebody ' || number end
                 from audit.term where kind in (1, 2) on conflict do nothing;
                 insert into audit.term_name (term, name)
                 select (select min(number) from audit.term where kind = 2), 'A former name ' || n
                 from generate_series(1, {NAMES}) as n;
                 analyze",
                actors[4]
            );
            sqlx::raw_sql(AssertSqlSafe(names)).execute(pool).await.unwrap();
            explain(pool).await;
        })
        .await;
    read_everything(&suite, &world, &actors, now).await;
    suite.stop_unchecked().await;
}

/// Calls everything that reads entries, and checks the plans.
async fn read_everything(suite: &Suite, world: &World, actors: &[Uuid], now: OffsetDateTime) {
    let owner = world.owner.with_client(&suite.client);
    let log = AuditClient::new(suite, &owner, &world.org).await;
    eventually("a checkpoint of the whole log", async || {
        log.newest_checkpoint().await.filter(|it| it.size.cast_signed() >= ENTRIES)
    })
    .await;
    // The actor of even entries: all conditions hold for every second entry at least.
    let actor = actors[4];
    list(&log, &world.project, now, actor).await;
    export_and_watch(&log, &world.project, now, actor).await;
    let events = "select event_id from audit.entry join audit.tree on number = tree
                  where org_id = $1::uuid and index in (100, 10000, 19990)";
    let events = sqlx::query_scalar(events).bind(&world.org);
    let events: Vec<Uuid> = events.fetch_all(&suite.pool).await.unwrap();
    prove(&log, &events).await;
    let found = suite.fsck().await;
    assert!(found.differences.is_empty(), "{found}");

    let plans = plans(suite);
    let proofs = plans.iter().filter(|it| it.sql.contains("from stored cross join found")).count();
    assert_eq!(proofs, events.len(), "a proof is one statement");
    let lists: BTreeSet<&str> =
        plans.iter().map(|it| &*it.sql).filter(|it| it.contains("as followed")).collect();
    assert_eq!(lists.len(), 10, "five indexes in two directions: {lists:#?}");
    let mut excesses: BTreeMap<&str, String> = BTreeMap::new();
    for plan in &plans {
        if let Some(excess) = plan.excess() {
            excesses.entry(&plan.sql).or_insert_with(|| format!("{excess}: {:#}", plan.root));
        }
    }
    assert!(excesses.is_empty(), "of {} plans: {excesses:?}", plans.len());
    assert_eq!(uneven(&plans), None);
}
