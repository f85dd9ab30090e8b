//! What was decided too long ago does not count any more (P-03).

use serde_json::json;
use tenantry::client::Client;
use testkit::{Nats, Options, Process, Suite, eventually};

use crate::{hosting::PROJECTS, world::World};

/// P-03: a change that waits between its decision and its commit, while its caller loses the right, does not
/// commit; and the same change commits if the right is still there.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_lost_while_a_change_waits_stops_it() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let developer = json!({ "userId": world.developer.user_id });
    let update = format!("{PROJECTS}/UpdateProject");
    for (name, revoked) in [("Held", true), ("Kept", false)] {
        world.grant(developer.clone(), "ADMIN").await;
        // Somebody else holds the row: the change has its permission, and waits.
        let mut held = suite.pool.begin().await.unwrap();
        let hold = "select version from project.project where id::text = $1 for update";
        let before: i64 =
            sqlx::query_scalar(hold).bind(&world.project).fetch_one(&mut *held).await.unwrap();
        let change = world.there(json!({ "name": name, "updateMask": "name" }));
        let (who, method) = (world.developer.clone(), update.clone());
        let waiting = tokio::task::spawn(async move { who.ask(&method, change).await });
        let blocked = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'
                       and datname = current_database()";
        eventually("a change that waits", async || (suite.count(blocked).await > 0).then_some(()))
            .await;
        if revoked {
            let revoke = world.there(json!({ "principal": developer }));
            let method = "identity.v1.ProjectAccessService/RemoveProjectAccess";
            world.owner.tell(method, revoke).await;
        }
        // Longer than a decision is good for, and shorter than a lock is waited for.
        let old = "select pg_sleep(1.2)";
        sqlx::query_scalar::<_, ()>(old).fetch_optional(&suite.pool).await.unwrap_or_default();
        held.rollback().await.unwrap();
        let answer = waiting.await.unwrap();
        let version = "select version from project.project where id::text = $1";
        let after: i64 =
            sqlx::query_scalar(version).bind(&world.project).fetch_one(&suite.pool).await.unwrap();
        match answer {
            Err(refusal) if revoked => {
                assert_eq!((refusal.reason.as_str(), after), ("NOT_FOUND", before));
            }
            Ok(it) if !revoked => {
                assert_eq!((&it["project"]["name"], after), (&json!(name), before + 1));
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    suite.finish().await;
}

/// P-03, G-18: the same for a process that stands still (SIGSTOP) between the decision and the commit, while
/// the right is taken elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stood_still_commits_nothing_stale() {
    let nats = Nats::start();
    let options = Options { nats_url: Some(nats.url()), ..Options::default() };
    let suite = Suite::start_with(options).await;
    let world = World::new(&suite).await;
    let developer = json!({ "userId": world.developer.user_id });
    world.grant(developer.clone(), "ADMIN").await;

    let folder = tempfile::tempdir().unwrap();
    let key = suite.folder().join("secret.key");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let arguments = [
        format!("--listen=127.0.0.1:{port}"),
        format!("--data-dir={}", folder.path().display()),
        format!("--key-file={}", key.display()),
        format!("--database-url={}", suite.database_url()),
        format!("--nats-url={}", nats.url()),
    ];
    let beside = Process::start("tenantry", &arguments, &folder.path().join("log"));
    let url = format!("http://127.0.0.1:{port}");
    let client =
        eventually("a second process", async || Client::connect(&url, None).await.ok()).await;
    let client = client.with_token(&world.developer.token);

    let mut held = suite.pool.begin().await.unwrap();
    let hold = "select version from project.project where id::text = $1 for update";
    let before: i64 =
        sqlx::query_scalar(hold).bind(&world.project).fetch_one(&mut *held).await.unwrap();
    let change = world.there(json!({ "name": "Stale", "updateMask": "name" }));
    let waiting = tokio::task::spawn(async move {
        client.ask(&format!("{PROJECTS}/UpdateProject"), change).await
    });
    let blocked = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'
                   and datname = current_database()";
    eventually("a change that waits", async || (suite.count(blocked).await > 0).then_some(()))
        .await;
    beside.freeze();
    let revoke = world.there(json!({ "principal": developer }));
    world.owner.tell("identity.v1.ProjectAccessService/RemoveProjectAccess", revoke).await;
    held.rollback().await.unwrap();
    let old = "select pg_sleep(1.2)";
    sqlx::query_scalar::<_, ()>(old).fetch_optional(&suite.pool).await.unwrap_or_default();
    beside.thaw();
    assert_eq!(waiting.await.unwrap().unwrap_err().reason, "NOT_FOUND");
    let version = "select version from project.project where id::text = $1";
    let after: i64 =
        sqlx::query_scalar(version).bind(&world.project).fetch_one(&suite.pool).await.unwrap();
    assert_eq!(after, before);
    assert!(beside.stop(), "it drains");
    suite.finish().await;
}
