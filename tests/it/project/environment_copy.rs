//! Copies of environments whose database is busy.

use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};
use testkit::{Suite, eventually};

use crate::support::{
    hosting::{ENVIRONMENTS, Hosting, TASKS, response},
    world::text,
};

/// True if a process reads a database with `pg_dump`.
fn is_dumped(database: &str) -> bool {
    let read =
        |pid: &std::path::Path, name: &str| std::fs::read(pid.join(name)).unwrap_or_default();
    let variable = format!("PGDATABASE={database}\0");
    let all = std::fs::read_dir("/proc").unwrap().flatten().map(|it| it.path());
    let mut dumps = all.filter(|it| read(it, "comm") == b"pg_dump\n");
    dumps.any(|it| String::from_utf8_lossy(&read(&it, "environ")).contains(&variable))
}

/// PE-31, PE-40: the source serves while its database is copied; the copy is cancelled while it waits for a
/// lock, and leaves neither a process nor a change.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_serves_while_its_copy_waits_and_is_cancelled() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let attach = hosting.world.project_request(json!({ "addonKey": "postgresql" }));
    hosting.owner().call_ok("project.v1.AddonService/AttachAddon", attach).await;
    let id = hosting.environment("main", "DEVELOPMENT").await;
    let deployed = hosting.run_task("Deploy", &id, json!({})).await;
    assert_eq!(deployed["state"], "TASK_STATE_COMPLETED", "{deployed}");
    let page = hosting.page(&id, "/").await;
    let database = page.lines().find_map(|it| it.strip_prefix("db: ")).unwrap().to_owned();
    let name = database.rsplit_once('/').unwrap().1;
    let mut connection = PgConnection::connect(&database).await.unwrap();
    connection.execute("create table fruit as select 'apples' as name").await.unwrap();
    let mut lock = connection.begin().await.unwrap();
    lock.execute("lock table fruit in access exclusive mode").await.unwrap();

    let clone = hosting.request(&id, json!({ "name": "copy" }));
    let copy = hosting.owner().call_ok(&format!("{ENVIRONMENTS}/CloneEnvironment"), clone).await;
    let task = text(&copy["task"]["id"]);
    let waits = async || {
        let is_copying = hosting.task(&task).await["currentStep"] == "database";
        (is_copying && is_dumped(name)).then_some(())
    };
    eventually("the copy of the database", waits).await;
    let url = text(&hosting.get(&id).await["url"]);
    assert!(response(&url, "/").await.starts_with("one\n"), "the source serves");

    let cancel = hosting.world.project_request(json!({ "taskId": task }));
    hosting.owner().call_ok(&format!("{TASKS}/CancelTask"), cancel).await;
    assert_eq!(hosting.finished_task(&task).await["state"], "TASK_STATE_CANCELLED");
    assert_eq!(hosting.state(&id).await, "RUNNING");
    assert!(!is_dumped(name), "pg_dump has ended");
    lock.rollback().await.unwrap();
    let copies = "select count(*)::text from pg_database where datname like '%incoming'";
    let count: String = sqlx::query_scalar(copies).fetch_one(&mut connection).await.unwrap();
    assert_eq!(count, "0", "the incomplete copy is removed");

    // Without the lock the copy succeeds.
    let copied = hosting.run_task("Clone", &id, json!({ "name": "second" })).await;
    assert_eq!(copied["state"], "TASK_STATE_COMPLETED", "{copied}");
    suite.finish().await;
}
