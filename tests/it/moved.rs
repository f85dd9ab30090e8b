//! A database that moves to another PostgreSQL: its transaction numbers are of another cluster, and no event
//! is lost or acted on twice.

use std::process::Command;

use chassis::postgres::{Durability, Postgres, program};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, postgres::PgConnectOptions};
use testkit::{Nats, Options, Person, Suite, eventually};

use crate::world::World;

/// Runs a program of PostgreSQL against a server.
fn run(name: &str, server: &PgConnectOptions, arguments: &[&str]) {
    let socket = server.get_socket().unwrap().display().to_string();
    let database = server.get_database().unwrap();
    let mut command = Command::new(program(name).unwrap());
    command.args(["-h", &socket, "-U", "tenantry", "-d", database]).args(arguments);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Moves a database to a new server, which has seen far fewer transactions.
async fn relocate(from: &PgConnectOptions, to: &Postgres, dump: &str) -> PgConnectOptions {
    let to = to.options().database("t_moved");
    let mut old = PgConnection::connect_with(from).await.unwrap();
    let busy = "do $$ begin for i in 1..20000 loop
                    perform pg_current_xact_id(); commit; end loop; end $$";
    old.execute(busy).await.unwrap();
    run("pg_dump", from, &["-Fc", "-f", dump]);
    let admin = to.clone().database("postgres");
    let mut new = PgConnection::connect_with(&admin).await.unwrap();
    new.execute(AssertSqlSafe("create database t_moved".to_owned())).await.unwrap();
    run("pg_restore", &to, &["--no-owner", "--no-privileges", dump]);
    to
}

async fn moves(nats: Option<&Nats>) {
    let suite =
        Suite::start_with(Options { nats_url: nats.map(Nats::url), ..Options::default() }).await;
    let world = World::new(&suite).await;
    suite.logged().await;
    let invite = world.here(json!({ "email": "bob@example.com", "role": "ORG_ROLE_VIEWER" }));
    world.admin.tell("invitation.v1.InvitationService/CreateInvitation", invite).await;
    suite.logged().await;
    // Until the suite has ended, nobody can act on what happens now.
    let mut held = PgConnection::connect(&suite.database_url()).await.unwrap();
    let lock = "begin; lock table audit.tree, invitation.invitation in exclusive mode";
    held.execute(lock).await.unwrap();
    let demote = json!({ "userId": world.admin.user_id, "role": "ORG_ROLE_VIEWER" });
    let method = "identity.v1.MemberService/ChangeMemberRole";
    world.owner.tell(method, world.here(demote)).await;
    let pending = "select count(*) from invitation.invitation
                   where email = 'bob@example.com' and revoked_at is null";
    let (folder, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::set_permissions(second.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let to = Postgres::start(second.path(), None, Durability::Fast).await.unwrap();
    let dump = folder.path().join("dump").display().to_string();
    let suite = suite
        .relocate(async |from| {
            held.close().await.unwrap();
            let mut old = PgConnection::connect_with(from).await.unwrap();
            let left: i64 = sqlx::query_scalar(pending).fetch_one(&mut old).await.unwrap();
            assert_eq!(left, 1, "nobody has acted on it yet");
            old.close().await.unwrap();
            relocate(from, &to, &dump).await
        })
        .await;
    eventually("what was not delivered", async || (suite.count(pending).await == 0).then_some(()))
        .await;
    let owner = Person { client: suite.client.with_token(&world.owner.token), ..world.owner };
    owner.create_organization("later").await.unwrap();
    suite.logged().await;
    let twice = "select count(*) - count(distinct event_id) from audit.entry";
    assert_eq!(suite.count(twice).await, 0);
    assert_eq!(suite.told("invitation.revoked").await, 1, "it was acted on once");
    suite.finish().await;
    to.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_database_delivers_what_was_not_delivered() {
    moves(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_database_delivers_what_was_not_delivered_through_nats() {
    moves(Some(&Nats::start())).await;
}
