//! Erasure: what is left of a person who has deleted their account.

use std::collections::BTreeSet;

use chassis::clock::Duration;
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};
use testkit::{PASSWORD, Person, Suite, eventually};

use crate::{
    ledger::Ledger,
    world::{World, admit, text},
};

const USERS: &str = "identity.v1.UserService";
const INVITATIONS: &str = "invitation.v1.InvitationService";

/// The addresses of Ann: the one that she began with, the one that she moved to, and one that she did not
/// move to in the end.
const ADDRESSES: [&str; 3] =
    ["ann.first@example.com", "ann.second@example.com", "ann.third@example.com"];

/// The tables in which one of the addresses can be read, in a column of whatever type.
async fn tables_with_address(pool: &PgPool) -> BTreeSet<String> {
    let tables = "select format('%I.%I', schemaname, tablename) from pg_tables
                  where schemaname in ('identity', 'project', 'invitation', 'audit')";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(pool).await.unwrap();
    assert!(tables.len() > 50, "{tables:?}");
    let mut found = BTreeSet::new();
    for table in tables {
        // Byte strings are in hexadecimal there.
        let rows = format!(
            "select count(*) from {table} as row where exists (
                 select from unnest($1::text[]) as address
                 where strpos(lower(to_jsonb(row)::text), address) > 0
                    or strpos(to_jsonb(row)::text, encode(address::bytea, 'hex')) > 0)"
        );
        let rows = sqlx::query_scalar(AssertSqlSafe(rows)).bind(ADDRESSES.as_slice());
        let count: i64 = rows.fetch_one(pool).await.unwrap();
        if count > 0 {
            found.insert(table);
        }
    }
    found
}

/// An invitation to an address of Ann.
async fn invite(by: &Person, org: &str, email: &str) {
    let invite = json!({ "orgId": org, "email": email, "role": "ORG_ROLE_VIEWER" });
    by.tell(&format!("{INVITATIONS}/CreateInvitation"), invite).await;
}

async fn request_move(ann: &Person, to: &str) {
    let to = json!({ "newEmail": to, "password": PASSWORD });
    ann.tell(&format!("{USERS}/RequestEmailChange"), to).await;
}

/// A person with a past: a member, invited by others to each address, who has moved once and wanted to again.
async fn ann_with_a_past(suite: &Suite, world: &World) -> (Person, String) {
    let other = world.admin.create_organization("other").await.unwrap();
    // Others know her next address before she has it.
    invite(&world.admin, &other, ADDRESSES[1]).await;
    suite.logged().await;
    let ann = suite.person(ADDRESSES[0]).await;
    admit(&world.owner, &world.org, &ann, "VIEWER").await;
    invite(&world.admin, &other, ADDRESSES[0]).await;
    request_move(&ann, ADDRESSES[2]).await;
    suite.mailbox.token(ADDRESSES[2], "tny_ver_").await.unwrap();
    // From here on no event brings a person or an address that the log has no key of yet.
    suite.logged().await;
    suite.clock.advance(Duration::minutes(2));
    request_move(&ann, ADDRESSES[1]).await;
    let token = suite.mailbox.token(ADDRESSES[1], "tny_ver_").await.unwrap();
    let confirm = json!({ "token": token });
    suite.client.ask(&format!("{USERS}/ConfirmEmailChange"), confirm).await.unwrap();
    let ann = Person { email: ADDRESSES[1].to_owned(), ..ann }.again().await;
    let rename = json!({ "displayName": "Ann", "updateMask": "displayName" });
    ann.tell(&format!("{USERS}/UpdateProfile"), rename).await;
    (ann, other)
}

/// after an account is deleted none of its addresses can be read in any table, also not one of before
/// a move: at once where it is not needed, and everywhere once the last copies on their way are gone.
#[tokio::test(flavor = "multi_thread")]
async fn no_address_of_a_deleted_account_can_be_read_anywhere() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let (ann, other) = ann_with_a_past(&suite, &world).await;
    suite.logged().await;
    let known = tables_with_address(&suite.pool).await;
    for table in ["identity.account", "identity.mailed_link", "invitation.invitation"] {
        assert!(known.contains(table), "the test finds what is there: {known:?}");
    }
    let log = async |org: &str, who: &Person| {
        let ledger = Ledger::new(&suite, who, org).await;
        String::from_utf8(ledger.export(api::audit::ExportFormat::Json).await).unwrap()
    };
    assert!(log(&world.org, &world.owner).await.contains(ADDRESSES[0]));
    assert!(log(&other, &world.admin).await.contains(ADDRESSES[1]));

    let delete = json!({ "confirmEmail": ann.email });
    ann.tell(&format!("{USERS}/DeleteAccount"), delete).await;
    // What is still on its way: events for a week, so that no reader misses one, and what was answered and
    // told lately.
    let on_their_way = [
        "identity.outbox",
        "project.outbox",
        "invitation.outbox",
        "audit.outbox",
        "identity.idempotency",
        "invitation.idempotency",
        "invitation.news",
        "invitation.notification",
        "invitation.digest",
        "invitation.digest_item",
        "invitation.webhook_delivery",
    ];
    eventually("the erasure", async || {
        let left = tables_with_address(&suite.pool).await;
        left.iter().all(|it| on_their_way.contains(&it.as_str())).then_some(())
    })
    .await;
    suite.logged().await;
    for text in [log(&world.org, &world.owner).await, log(&other, &world.admin).await] {
        let readable: Vec<_> = ADDRESSES.iter().filter(|it| text.contains(**it)).collect();
        assert!(readable.is_empty(), "{readable:?} in {text}");
    }
    let sessions = "select count(*) from identity.session where user_id::text = $1";
    let sessions = sqlx::query_scalar(sessions).bind(&ann.user_id);
    let sessions: i64 = sessions.fetch_one(&suite.pool).await.unwrap();
    assert_eq!(sessions, 0, "network addresses are personal, too");
    let list = json!({ "orgId": other, "state": "INVITATION_STATE_REVOKED" });
    let revoked = world.admin.tell(&format!("{INVITATIONS}/ListInvitations"), list).await;
    let causes: Vec<_> = revoked["invitations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| text(&it["revokeCause"]))
        .collect();
    assert_eq!(causes, ["REVOKE_CAUSE_RECIPIENT_GONE"; 2]);

    // The log has the events, so they go from the outboxes after a week.
    suite.clock.advance(Duration::days(8));
    eventually("the end of old events", async || {
        let left = tables_with_address(&suite.pool).await;
        (!left.iter().any(|it| it.ends_with(".outbox"))).then_some(())
    })
    .await;
    suite.clock.advance(Duration::days(92));
    let suite = suite.restart(async |_| {}).await;
    eventually("the end of the last copies", async || {
        tables_with_address(&suite.pool).await.is_empty().then_some(())
    })
    .await;
    suite.finish().await;
}
