//! Cleanup jobs: each table keeps its rows for its retention time.

use chassis::clock::Duration;
use serde_json::json;
use testkit::{Suite, eventually};

use crate::{
    identity::password_attacks::Totp,
    support::{
        fake_runner::{FakeRunner, success_result},
        world::World,
    },
};

/// Number of unfinished external logins: more than the 1,000 rows that the job deletes at a time.
const EXTERNAL_LOGINS: i64 = 2_500;

/// Creates rows in every table that grows with time.
async fn create_rows(suite: &Suite) {
    let world = World::new(suite).await;
    Totp::enable(suite, &world.viewer).await;
    let login = json!({ "email": world.viewer.email, "password": testkit::PASSWORD });
    suite.client.call_json("identity.v1.SessionService/Login", login).await.unwrap();
    let reset = json!({ "email": world.owner.email });
    suite.client.call_json("identity.v1.UserService/RequestPasswordReset", reset).await.unwrap();
    suite.mailbox.token(&world.owner.email, "tny_rst_").await.unwrap();
    let logins = "insert into identity.external_login (id, sealed, expires_at)
                 select gen_random_uuid(), '', $2 from generate_series(1, $1)";
    let logins = sqlx::query(logins).bind(EXTERNAL_LOGINS).bind(suite.clock.now());
    logins.execute(&suite.pool).await.unwrap();
    let dead_letter =
        "insert into invitation.dead_letter (event_id, type, envelope, error, died_at)
                values (gen_random_uuid(), 'x', '', '', $1)";
    sqlx::query(dead_letter).bind(suite.clock.now()).execute(&suite.pool).await.unwrap();
    suite.wait_for_log().await;
}

/// Number of rows of a table.
async fn rows(suite: &Suite, table: &'static str) -> i64 {
    let count = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
    sqlx::query_scalar(count).fetch_one(&suite.pool).await.unwrap()
}

/// Advances the clock and restarts the suite, because the jobs run at its start. Waits until the tables
/// `emptied` are empty and checks that the tables `kept` are not.
async fn after_days(
    suite: Suite,
    days: i64,
    emptied: &[&'static str],
    kept: &[&'static str],
) -> Suite {
    suite.clock.advance(Duration::days(days));
    let suite = suite.restart(async |_| {}).await;
    eventually("the deletion of old rows", async || {
        for table in emptied {
            if rows(&suite, table).await > 0 {
                return None;
            }
        }
        Some(())
    })
    .await;
    for table in kept {
        assert!(rows(&suite, table).await > 0, "{table} is empty after {days} more days");
    }
    suite
}

/// Each table keeps its rows for its own time.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_deleted_after_their_retention() {
    let suite = Suite::start().await;
    create_rows(&suite).await;
    let emptied = ["identity.login_challenge", "identity.external_login"];
    let kept = [
        "identity.mailed_link",
        "identity.mail",
        "identity.session",
        "invitation.inbox",
        "invitation.invitation",
    ];
    let suite = after_days(suite, 2, &emptied, &kept).await;
    let suite = after_days(suite, 6, &["identity.mailed_link"], &kept[1..]).await;
    let kept = ["identity.mail", "invitation.inbox", "invitation.invitation"];
    let suite = after_days(suite, 23, &["identity.session"], &kept).await;
    let kept = ["invitation.inbox", "invitation.invitation", "invitation.dead_letter"];
    let suite = after_days(suite, 30, &["identity.mail"], &kept).await;
    let emptied = [
        "identity.inbox",
        "invitation.inbox",
        "invitation.dead_letter",
        "invitation.invitation",
        "invitation.acceptance",
        "identity.idempotency",
        "invitation.idempotency",
    ];
    let suite = after_days(suite, 60, &emptied, &["identity.account", "identity.member"]).await;
    suite.finish().await;
}

/// The log of a task is deleted after 90 days; the task stays, and so do logs of younger tasks.
#[tokio::test(flavor = "multi_thread")]
async fn logs_of_old_tasks_are_deleted() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    runner.heartbeat().await;
    let id = runner.environment("main").await;
    runner.hosting.start_task("Deploy", &id, json!({})).await;
    let lease = runner.lease_task().await;
    let progress = json!({ "logLines": ["an old line"] });
    runner.report_progress(&lease, progress).await.unwrap();
    runner.finish_task(&lease, success_result()).await.unwrap();
    let younger = chassis::id::lower_bound(suite.clock.now() + Duration::days(60));
    let copies = [
        "insert into project.task
             select (jsonb_populate_record(task, jsonb_build_object('id', $1))).* from project.task",
        "insert into project.task_log (task_id, first_line, lines) values ($1, 0, '{a line}')",
    ];
    for copy in copies {
        sqlx::query(copy).bind(younger).execute(&suite.pool).await.unwrap();
    }
    suite.wait_for_log().await;
    assert_eq!(rows(&suite, "project.task_log").await, 2);
    let suite = after_days(suite, 91, &[], &["project.task"]).await;
    let remaining = "select task_id from project.task_log";
    eventually("the deletion of the log", async || {
        let ids = sqlx::query_scalar::<_, uuid::Uuid>(remaining).fetch_all(&suite.pool).await;
        (ids.unwrap() == [younger]).then_some(())
    })
    .await;
    assert_eq!(rows(&suite, "project.task").await, 2, "tasks stay");
    suite.finish().await;
}
