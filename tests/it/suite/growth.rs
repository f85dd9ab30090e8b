//! Growth of the tables that keep what happened: partitions that come and go over months, sizes that stay in
//! bounds, and plans of the statements that list.

use std::collections::BTreeMap;

use chassis::clock::Duration;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use testkit::{Receiver, Suite, eventually};

use crate::{
    notification::webhook_service,
    support::{hosting::Hosting, world::text},
};

/// Days of the simulation.
const DAYS: i64 = 154;

/// Days between two runs of the retention job. It runs at each start.
const STEP_DAYS: i64 = 14;

/// Rows of each table in a day.
const ROWS: i64 = 200;

/// Tables with partitions, and the days for which they keep rows.
const TABLES: [(&str, i32); 9] = [
    ("identity.inbox", 90),
    ("project.inbox", 90),
    ("invitation.inbox", 90),
    ("audit.inbox", 90),
    ("invitation.notification", 90),
    ("invitation.webhook_delivery", 30),
    ("project.task_log", 90),
    ("project.metric_minute", 2),
    ("project.metric_hour", 91),
];

/// An installation, and the owners of the rows that are added to it.
struct Installation {
    user: String,
    org: String,
    hook: String,
    environment: String,
    /// Days since its begin.
    day: i64,
}

impl Installation {
    /// Adds the rows of some days, as the services write them: identifiers begin with the time.
    async fn live(&mut self, suite: &Suite, days: i64) {
        let now = suite.clock.now();
        let day = Duration::days(1);
        for ago in (0..days).rev() {
            let at = now - day * i32::try_from(ago).unwrap();
            self.add_rows(suite, at).await;
        }
        self.day += days;
    }

    async fn add_rows(&self, suite: &Suite, at: time::OffsetDateTime) {
        // Times of the day before, and random bits.
        let id = "overlay(invitation.lowest_id($1::timestamptz - interval '400 s' * n)::text
                      placing right(gen_random_uuid()::text, 22) from 15)::uuid";
        let from = "from generate_series(1, $2) as n";
        for schema in ["identity", "project", "invitation", "audit"] {
            let inbox = format!("insert into {schema}.inbox select {id}, $1 {from}");
            self.execute(suite, inbox, at).await;
        }
        let Self { user, org, hook, environment, .. } = self;
        let notification = format!(
            "insert into invitation.notification (id, user_id, org_id, event_id, event_type, category,
                 severity, title, body, created_at, read_at)
             select {id}, '{user}', '{org}', gen_random_uuid(), 'member.added', 1, 1, 'A title',
                    'A text of usual length, with a name and a project.', $1,
                    case when n % 10 > 0 then $1 end {from}"
        );
        let delivery = format!(
            "insert into invitation.webhook_delivery (id, org_id, webhook_id, event_id, event_type, body,
                 state, due_at, created_at, delivered_at)
             select {id}, '{org}', '{hook}', gen_random_uuid(), 'member.added', repeat('x', 800), 2, $1, $1,
                    $1 {from}"
        );
        let task = format!(
            "with new as (
                 insert into project.task (id, org_id, project_id, environment_id, kind, state, triggered_by,
                     created_at)
                 select {id}, org_id, project_id, id, 'deploy', 'completed', '{user}', $1
                 from project.environment, generate_series(1, $2 / 20) as n where id = '{environment}'
                 returning id)
             insert into project.task_log (task_id, first_line, lines)
             select id, line * 10, array_fill('a line of a build'::text, array[10])
             from new, generate_series(0, 19) as line"
        );
        let metric = |table| {
            format!(
                "insert into project.{table}
                     select '{environment}', {id}, 12, 6.5, 1.5, 1e9, 100000000, 1048576 {from}"
            )
        };
        let metrics = [metric("metric_minute"), metric("metric_hour")];
        for statement in [notification, delivery, task].into_iter().chain(metrics) {
            self.execute(suite, statement, at).await;
        }
    }

    async fn execute(&self, suite: &Suite, statement: String, at: time::OffsetDateTime) {
        let query = sqlx::query(AssertSqlSafe(statement)).bind(at).bind(ROWS);
        query.execute(&suite.pool).await.unwrap();
    }
}

/// Partitions of a table.
async fn partitions(suite: &Suite, table: &str) -> Vec<String> {
    let list = "select inhrelid::regclass::text from pg_inherits where inhparent = $1::regclass order by 1";
    sqlx::query_scalar(list).bind(table).fetch_all(&suite.pool).await.unwrap()
}

/// Sizes of tables with their indexes, in bytes.
async fn sizes(suite: &Suite) -> BTreeMap<&'static str, i64> {
    let mut sizes = BTreeMap::new();
    for (table, _) in TABLES {
        let size = "select sum(pg_total_relation_size(inhrelid))::bigint from pg_inherits
                    where inhparent = $1::regclass";
        let size = sqlx::query_scalar(size).bind(table).fetch_one(&suite.pool).await.unwrap();
        sizes.insert(table, size);
    }
    sizes
}

/// Largest number of rows that one node of a plan reads, discarded ones included.
fn rows_read(plan: &Value) -> f64 {
    let number = |name: &str| plan[name].as_f64().unwrap_or(0.0);
    let own = (number("Actual Rows") + number("Rows Removed by Filter")) * number("Actual Loops");
    let children = plan["Plans"].as_array().into_iter().flatten().map(rows_read);
    children.fold(own, f64::max)
}

/// Statement about rows of a partitioned table, as a service sends it.
struct Statement {
    sql: String,
    /// Largest number of rows that it may read.
    rows_max: f64,
}

fn statements(it: &Installation) -> [Statement; 6] {
    let Installation { user, hook, environment, .. } = it;
    let of_webhook = format!("from invitation.webhook_delivery where webhook_id = '{hook}'");
    let task = format!("select id from project.task where environment_id = '{environment}'");
    let inbox = "select event_id from invitation.inbox order by event_id desc limit 1";
    let read = |sql, rows_max| Statement { sql, rows_max };
    [
        read(
            format!(
                "select id from invitation.notification where user_id = '{user}'
                     and dismissed_at is null order by id desc limit 51"
            ),
            51.0,
        ),
        read(format!("select id {of_webhook} order by id desc limit 51"), 51.0),
        read(format!("select min(due_at) {of_webhook} and state = 1"), 1.0),
        read(
            format!(
                "select lines from project.task_log where task_id = ({task} order by id desc limit 1)
                 order by first_line limit 20"
            ),
            20.0,
        ),
        read(
            format!(
                "select cpu_cores_sum from project.metric_minute where environment_id = '{environment}'
                     order by id desc limit 100"
            ),
            // The rows of the partitions of three days, which are of this environment only.
            600.0,
        ),
        read(
            format!("insert into invitation.inbox values (({inbox}), now()) on conflict do nothing"),
            1.0,
        ),
    ]
}

async fn check_plans(suite: &Suite, it: &Installation) {
    for Statement { sql, rows_max } in statements(it) {
        let explain = format!("explain (analyze, format json) {sql}");
        let plan: Value =
            sqlx::query_scalar(AssertSqlSafe(explain)).fetch_one(&suite.pool).await.unwrap();
        let rows = rows_read(&plan[0]["Plan"]);
        assert!(rows <= rows_max, "day {}: {rows} rows for {sql}: {plan:#}", it.day);
    }
}

/// Waits until the retention job has made partitions for the next days and dropped the old ones.
async fn retention_has_run(suite: &Suite) {
    for (table, days) in TABLES {
        let pending = "with partition as (
                           select substring(pg_get_expr(relpartbound, pg_class.oid)
                                            from 'TO \\(''([0-9a-f-]+)''\\)')::uuid as upper
                           from pg_inherits join pg_class on pg_class.oid = inhrelid
                           where inhparent = $1::regclass)
                       select (select count(*) from partition
                               where upper <= invitation.lowest_id($2 - make_interval(days => $3)))
                            + (select count(*) from (select) as it
                               where not exists (
                                   select from partition
                                   where upper >= invitation.lowest_id($2 + interval '14 days')))";
        eventually(&format!("retention of {table}"), async || {
            let pending =
                sqlx::query_scalar(pending).bind(table).bind(suite.clock.now()).bind(days);
            let pending: i64 = pending.fetch_one(&suite.pool).await.unwrap();
            (pending == 0).then_some(())
        })
        .await;
    }
}

/// Rows of five months are in partitions; old ones are dropped, the size of each table stays in bounds, and
/// statements read no more rows than at the begin.
#[tokio::test(flavor = "multi_thread")]
async fn old_partitions_are_dropped_and_plans_stay() {
    let receiver = Receiver::start().await;
    let mut suite = webhook_service::suite(&[&receiver]).await;
    let hosting = Hosting::new(&suite).await;
    let environment = hosting.create_environment(json!({ "name": "main" })).await;
    let world = &hosting.world;
    let types = json!({ "eventTypes": ["api_key.created"] });
    let hook = world.create_webhook(&receiver.url("/a"), types).await;
    let mut it = Installation {
        user: world.owner.user_id.clone(),
        org: world.org.clone(),
        hook: text(&webhook_service::by_id(&hook)["webhookId"]),
        environment,
        day: 0,
    };
    let mut full = None;
    while it.day < DAYS {
        suite.clock.advance(Duration::days(STEP_DAYS));
        it.live(&suite, STEP_DAYS).await;
        suite = suite.restart(async |_| {}).await;
        retention_has_run(&suite).await;
        sqlx::query("analyze").execute(&suite.pool).await.unwrap();
        check_plans(&suite, &it).await;
        if it.day == 140 {
            full = Some(sizes(&suite).await);
        }
    }
    let full = full.expect("the simulation has more than 140 days");
    for (table, size) in sizes(&suite).await {
        assert!(size <= full[table] * 5 / 4, "{table}: {size} bytes after {}", full[table]);
    }
    for (table, _) in TABLES {
        let partitions = partitions(&suite, table).await;
        let initial = format!("{table}_initial");
        assert!(!partitions.contains(&initial), "{partitions:?}");
        assert!((4..=20).contains(&partitions.len()), "{partitions:?}");
        let default = AssertSqlSafe(format!("select count(*) from {table}_default"));
        assert_eq!(suite.count(default).await, 0, "{table}");
    }
    suite.stop_unchecked().await;
}

/// After a time in which no partition was created, rows are in the default partition, are found, and are
/// deleted; later ones have partitions again.
#[tokio::test(flavor = "multi_thread")]
async fn rows_without_a_partition_are_kept_and_deleted() {
    let suite = Suite::start().await;
    let future = suite.clock.now() + Duration::days(60);
    let row = "insert into invitation.inbox select invitation.lowest_id($1), $1";
    sqlx::query(row).bind(future).execute(&suite.pool).await.unwrap();
    let default = "select count(*) from invitation.inbox_default";
    assert_eq!(suite.count(default).await, 1);
    suite.clock.advance(Duration::days(60));
    let suite = suite.restart(async |_| {}).await;
    let created = "select count(*) from pg_inherits where inhparent = 'invitation.inbox'::regclass";
    eventually("partitions", async || (suite.count(created).await >= 3).then_some(())).await;
    assert_eq!(suite.count(default).await, 1, "its partition is not created");
    suite.clock.advance(Duration::days(91));
    let suite = suite.restart(async |_| {}).await;
    eventually("the deletion", async || (suite.count(default).await == 0).then_some(())).await;
    suite.finish().await;
}

/// A query of a table that keeps running while its partitions are created and dropped is not ended by a
/// deadlock: no transaction has locked a partition while it waits for the table.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_partitions_end_no_query() {
    let suite = Suite::start().await;
    let name = sqlx::query_scalar("select current_database()::text").fetch_one(&suite.pool);
    let name: String = name.await.unwrap();
    // Deadlocks are found before the job stops waiting for the lock (300 ms).
    let timeout = format!("alter database {name} set deadlock_timeout = '20ms'");
    sqlx::query(AssertSqlSafe(timeout)).execute(&suite.pool).await.unwrap();
    suite.clock.advance(Duration::days(130));

    let table = "invitation.inbox";
    let before = partitions(&suite, table).await;
    let mut connection = PgConnection::connect(&suite.database_url()).await.unwrap();
    let mut query = connection.begin().await.unwrap();
    let lock = "lock table only invitation.inbox in access share mode";
    sqlx::query(lock).execute(&mut *query).await.unwrap();
    let suite = suite.restart(async |_| {}).await;
    let locked = "select count(*) from pg_locks
                  where relation = 'invitation.inbox_default'::regclass
                    and mode = 'AccessExclusiveLock' and granted";
    eventually("a new partition", async || {
        let is_created = partitions(&suite, table).await.len() > before.len();
        (is_created || suite.count(locked).await > 0).then_some(())
    })
    .await;
    let rows = sqlx::query("select from invitation.inbox").fetch_all(&mut *query).await;
    rows.expect("no deadlock");
    query.commit().await.unwrap();

    let suite = suite.restart(async |_| {}).await;
    retention_has_run(&suite).await;
    suite.finish().await;
}
