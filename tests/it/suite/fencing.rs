//! Fencing of stale authorizations (P-03): a decision is checked again before a late commit.

use serde_json::json;
use tenantry::client::Client;
use testkit::{Nats, Options, Process, ReservedPort, Suite, eventually};

use crate::support::{hosting::PROJECTS, world::World};

/// Waits until a change waits for the lock of a project.
async fn wait_for_blocked_change(suite: &Suite) {
    let blocked = async || (suite.count_blocked("from project").await > 0).then_some(());
    eventually("the blocked change", blocked).await;
}

/// P-03: a change that is delayed between authorization and commit fails if its caller has lost the
/// permission, and succeeds if not.
#[tokio::test(flavor = "multi_thread")]
async fn a_permission_lost_during_a_delay_stops_the_change() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let developer = json!({ "userId": world.developer.user_id });
    let update = format!("{PROJECTS}/UpdateProject");
    for (name, revoked) in [("Revoked", true), ("Kept", false)] {
        world.grant(developer.clone(), "ADMIN").await;
        // A row lock delays the authorized change.
        let mut lock = suite.pool.begin().await.unwrap();
        let lock_row = "select version from project.project where id::text = $1 for update";
        let before: i64 =
            sqlx::query_scalar(lock_row).bind(&world.project).fetch_one(&mut *lock).await.unwrap();
        let change = world.project_request(json!({ "name": name, "updateMask": "name" }));
        let developer_call = world.developer.clone();
        let method = update.clone();
        let waiting = tokio::task::spawn(async move { developer_call.call(&method, change).await });
        wait_for_blocked_change(&suite).await;
        if revoked {
            let revoke = world.project_request(json!({ "principal": developer }));
            let method = "identity.v1.ProjectAccessService/RemoveProjectAccess";
            world.owner.call_ok(method, revoke).await;
        }
        // Longer than the second for which a decision is valid, shorter than the lock time-out.
        let wait = "select pg_sleep(1.2)";
        sqlx::query_scalar::<_, ()>(wait).fetch_optional(&suite.pool).await.unwrap_or_default();
        lock.rollback().await.unwrap();
        let answer = waiting.await.unwrap();
        let version = "select version from project.project where id::text = $1";
        let after: i64 =
            sqlx::query_scalar(version).bind(&world.project).fetch_one(&suite.pool).await.unwrap();
        match answer {
            Err(refusal) if revoked => {
                assert_eq!((refusal.reason.as_str(), after), ("NOT_FOUND", before));
            }
            Ok(updated) if !revoked => {
                assert_eq!((&updated["project"]["name"], after), (&json!(name), before + 1));
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    suite.finish().await;
}

/// P-03, G-18: the change of a process that is stopped (SIGSTOP) between authorization and commit fails if
/// the permission has been revoked through another process.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_process_commits_no_stale_change() {
    let nats = Nats::start();
    let options = Options { nats_url: Some(nats.url()), ..Options::default() };
    let suite = Suite::start_with(options).await;
    let world = World::new(&suite).await;
    let developer = json!({ "userId": world.developer.user_id });
    world.grant(developer.clone(), "ADMIN").await;

    let folder = tempfile::tempdir().unwrap();
    let key = suite.data_dir().join("secret.key");
    let reserved = ReservedPort::new();
    let port = reserved.number();
    let arguments = [
        format!("--listen=127.0.0.1:{port}"),
        format!("--data-dir={}", folder.path().display()),
        format!("--key-file={}", key.display()),
        format!("--database-url={}", suite.database_url()),
        format!("--nats-url={}", nats.url()),
    ];
    let second = Process::start("tenantry", &arguments, &folder.path().join("log"));
    let url = format!("http://127.0.0.1:{port}");
    let client =
        eventually("a second process", async || Client::connect(&url, None).await.ok()).await;
    let client = client.with_token(&world.developer.token);

    let mut lock = suite.pool.begin().await.unwrap();
    let lock_row = "select version from project.project where id::text = $1 for update";
    let before: i64 =
        sqlx::query_scalar(lock_row).bind(&world.project).fetch_one(&mut *lock).await.unwrap();
    let change = world.project_request(json!({ "name": "Stale", "updateMask": "name" }));
    let waiting = tokio::task::spawn(async move {
        client.call_json(&format!("{PROJECTS}/UpdateProject"), change).await
    });
    wait_for_blocked_change(&suite).await;
    second.suspend();
    let revoke = world.project_request(json!({ "principal": developer }));
    world.owner.call_ok("identity.v1.ProjectAccessService/RemoveProjectAccess", revoke).await;
    lock.rollback().await.unwrap();
    let wait = "select pg_sleep(1.2)";
    sqlx::query_scalar::<_, ()>(wait).fetch_optional(&suite.pool).await.unwrap_or_default();
    second.resume();
    assert_eq!(waiting.await.unwrap().unwrap_err().reason, "NOT_FOUND");
    let version = "select version from project.project where id::text = $1";
    let after: i64 =
        sqlx::query_scalar(version).bind(&world.project).fetch_one(&suite.pool).await.unwrap();
    assert_eq!(after, before, "the project was changed");
    assert!(second.stop(), "the process does not drain");
    suite.finish().await;
}
