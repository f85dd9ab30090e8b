//! Move of the database to another PostgreSQL cluster, which has other transaction ids: no event is lost or
//! processed twice.

use std::process::Command;

use embedded_postgres::{Durability, Postgres, program};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, postgres::PgConnectOptions};
use testkit::{Nats, Options, Person, Suite, eventually};

use crate::support::world::World;

/// Runs a program of PostgreSQL on a server.
fn run(name: &str, server: &PgConnectOptions, arguments: &[&str]) {
    let socket = server.get_socket().unwrap().display().to_string();
    let database = server.get_database().unwrap();
    let mut command = Command::new(program(name).unwrap());
    command.args(["-h", &socket, "-U", "tenantry", "-d", database]).args(arguments);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Copies a database to a new server, after consuming 20,000 transaction ids of the old one, so that those of
/// the new server are far lower.
async fn copy(from: &PgConnectOptions, to: &Postgres, dump: &str) -> PgConnectOptions {
    let to = to.options().database("t_moved");
    let mut old = PgConnection::connect_with(from).await.unwrap();
    let consume_ids = "do $$ begin for i in 1..20000 loop
                    perform pg_current_xact_id(); commit; end loop; end $$";
    old.execute(consume_ids).await.unwrap();
    run("pg_dump", from, &["-Fc", "-f", dump]);
    let admin = to.clone().database("postgres");
    let mut new = PgConnection::connect_with(&admin).await.unwrap();
    new.execute(AssertSqlSafe("create database t_moved".to_owned())).await.unwrap();
    run("pg_restore", &to, &["--no-owner", "--no-privileges", dump]);
    to
}

/// Moves the database while an event is not delivered yet.
async fn check_move(nats: Option<&Nats>) {
    let suite =
        Suite::start_with(Options { nats_url: nats.map(Nats::url), ..Options::default() }).await;
    let world = World::new(&suite).await;
    suite.wait_for_log().await;
    let invite =
        world.org_request(json!({ "email": "bob@example.com", "role": "ORG_ROLE_VIEWER" }));
    world.admin.call_ok("invitation.v1.InvitationService/CreateInvitation", invite).await;
    suite.wait_for_log().await;
    // The locks prevent the processing of events until the suite has stopped.
    let mut locks = PgConnection::connect(&suite.database_url()).await.unwrap();
    let lock = "begin; lock table audit.tree, invitation.invitation in exclusive mode";
    locks.execute(lock).await.unwrap();
    let demote = json!({ "userId": world.admin.user_id, "role": "ORG_ROLE_VIEWER" });
    let method = "identity.v1.MemberService/ChangeMemberRole";
    world.owner.call_ok(method, world.org_request(demote)).await;
    let pending = "select count(*) from invitation.invitation
                   where email = 'bob@example.com' and revoked_at is null";
    let folder = tempfile::tempdir().unwrap();
    let second = tempfile::tempdir().unwrap();
    std::fs::set_permissions(second.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let to = Postgres::start(second.path(), None, Durability::Fast).await.unwrap();
    let dump = folder.path().join("dump").display().to_string();
    let suite = suite
        .relocate(async |from| {
            locks.close().await.unwrap();
            let mut old = PgConnection::connect_with(from).await.unwrap();
            let pending: i64 = sqlx::query_scalar(pending).fetch_one(&mut old).await.unwrap();
            assert_eq!(pending, 1, "the event was processed before the move");
            old.close().await.unwrap();
            copy(from, &to, &dump).await
        })
        .await;
    eventually("the reaction", async || (suite.count(pending).await == 0).then_some(())).await;
    let owner = Person { client: suite.client.with_token(&world.owner.token), ..world.owner };
    owner.create_organization("later").await.unwrap();
    suite.wait_for_log().await;
    let duplicates = "select count(*) - count(distinct event_id) from audit.entry";
    assert_eq!(suite.count(duplicates).await, 0);
    assert_eq!(suite.count_entries("invitation.revoked").await, 1, "number of reactions");
    suite.finish().await;
    to.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_database_delivers_pending_events() {
    check_move(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_database_delivers_pending_events_through_nats() {
    check_move(Some(&Nats::start())).await;
}
