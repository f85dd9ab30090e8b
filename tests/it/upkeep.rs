//! Upkeep: rows that nothing needs any more are deleted, and no others.

use chassis::clock::Duration;
use serde_json::json;
use testkit::{Suite, eventually};

use crate::{passwords::Factor, world::World};

/// More than one batch.
const SIGN_INS: i64 = 2_500;

/// Leaves something in every table that grows with time.
async fn leave_traces(suite: &Suite) {
    let world = World::new(suite).await;
    Factor::enable(suite, &world.viewer).await;
    let login = json!({ "email": world.viewer.email, "password": testkit::PASSWORD });
    suite.client.ask("identity.v1.SessionService/Login", login).await.unwrap();
    let forgotten = json!({ "email": world.owner.email });
    suite.client.ask("identity.v1.UserService/RequestPasswordReset", forgotten).await.unwrap();
    suite.mailbox.token(&world.owner.email, "tny_rst_").await.unwrap();
    let begun = "insert into identity.external_login (id, sealed, expires_at)
                 select gen_random_uuid(), '', $2 from generate_series(1, $1)";
    let begun = sqlx::query(begun).bind(SIGN_INS).bind(suite.clock.now());
    begun.execute(&suite.pool).await.unwrap();
    let dead = "insert into invitation.dead_letter (event_id, type, envelope, error, died_at)
                values (gen_random_uuid(), 'x', '', '', $1)";
    sqlx::query(dead).bind(suite.clock.now()).execute(&suite.pool).await.unwrap();
    suite.logged().await;
}

async fn rows(suite: &Suite, table: &'static str) -> i64 {
    let count = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
    sqlx::query_scalar(count).fetch_one(&suite.pool).await.unwrap()
}

/// Moves the clock and starts the suite anew, which runs the job; waits until these tables are empty, and
/// answers which of the others are.
async fn later(suite: Suite, days: i64, gone: &[&'static str], kept: &[&'static str]) -> Suite {
    suite.clock.advance(Duration::days(days));
    let suite = suite.restart(async |_| {}).await;
    eventually("the end of old rows", async || {
        for table in gone {
            if rows(&suite, table).await > 0 {
                return None;
            }
        }
        Some(())
    })
    .await;
    for table in kept {
        assert!(rows(&suite, table).await > 0, "{table} after {days} days more");
    }
    suite
}

/// Each table keeps its rows for its own time. The last step of identity's job is the one for mailed links.
#[tokio::test(flavor = "multi_thread")]
async fn old_rows_are_deleted_and_others_stay() {
    let suite = Suite::start().await;
    leave_traces(&suite).await;
    let sign_ins = ["identity.login_challenge", "identity.external_login", "identity.mailed_link"];
    let long = ["identity.mail", "identity.session", "invitation.inbox", "invitation.invitation"];
    let suite = later(suite, 2, &sign_ins, &long).await;
    let kept = ["identity.mail", "invitation.inbox", "invitation.invitation"];
    let suite = later(suite, 29, &["identity.session"], &kept).await;
    let kept = ["invitation.inbox", "invitation.invitation", "invitation.dead_letter"];
    let suite = later(suite, 30, &["identity.mail"], &kept).await;
    let gone = [
        "identity.inbox",
        "invitation.inbox",
        "invitation.dead_letter",
        "invitation.invitation",
        "invitation.acceptance",
        "identity.idempotency",
        "invitation.idempotency",
    ];
    let suite = later(suite, 60, &gone, &["identity.account", "identity.member"]).await;
    suite.finish().await;
}
