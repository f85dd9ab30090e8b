//! Erasure of personal data after the deletion of an account.

use std::collections::BTreeSet;

use chassis::clock::Duration;
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};
use testkit::{PASSWORD, Person, Suite, eventually};

use crate::support::{
    audit_client::AuditClient,
    tables,
    world::{World, add_member, text},
};

const USERS: &str = "identity.v1.UserService";
const INVITATIONS: &str = "invitation.v1.InvitationService";

/// Addresses of Ann: the first one, the one after a change, and one of an unconfirmed change.
const ADDRESSES: [&str; 3] =
    ["ann.first@example.com", "ann.second@example.com", "ann.third@example.com"];

/// Tables with one of the addresses in any column.
async fn tables_with_address(pool: &PgPool) -> BTreeSet<String> {
    let tables = tables::names(pool).await;
    assert!(tables.len() > 50, "{tables:?}");
    let mut found = BTreeSet::new();
    for table in tables {
        // `to_jsonb` shows byte strings in hexadecimal digits.
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

/// Invites an address of Ann.
async fn invite(by: &Person, org: &str, email: &str) {
    let invite = json!({ "orgId": org, "email": email, "role": "ORG_ROLE_VIEWER" });
    by.call_ok(&format!("{INVITATIONS}/CreateInvitation"), invite).await;
}

/// Requests a change of the address.
async fn request_email_change(ann: &Person, email: &str) {
    let change = json!({ "newEmail": email, "password": PASSWORD });
    ann.call_ok(&format!("{USERS}/RequestEmailChange"), change).await;
}

/// Creates Ann: a member, invited to her addresses by another organization, with one confirmed and one
/// unconfirmed change of her address. Returns her and the other organization.
async fn create_ann(suite: &Suite, world: &World) -> (Person, String) {
    let other = world.admin.create_organization("other").await.unwrap();
    // Others use her second address before she does.
    invite(&world.admin, &other, ADDRESSES[1]).await;
    suite.wait_for_log().await;
    let ann = suite.person(ADDRESSES[0]).await;
    add_member(&world.owner, &world.org, &ann, "VIEWER").await;
    invite(&world.admin, &other, ADDRESSES[0]).await;
    request_email_change(&ann, ADDRESSES[2]).await;
    suite.mailbox.token(ADDRESSES[2], "tny_ver_").await.unwrap();
    // From here on the log has a key for each person and address.
    suite.wait_for_log().await;
    suite.clock.advance(Duration::minutes(2));
    request_email_change(&ann, ADDRESSES[1]).await;
    let token = suite.mailbox.token(ADDRESSES[1], "tny_ver_").await.unwrap();
    let confirm = json!({ "token": token, "password": PASSWORD });
    suite.client.call_json(&format!("{USERS}/ConfirmEmailChange"), confirm).await.unwrap();
    let ann = Person { email: ADDRESSES[1].to_owned(), ..ann }.sign_in_again().await;
    let rename = json!({ "displayName": "Ann", "updateMask": "displayName" });
    ann.call_ok(&format!("{USERS}/UpdateProfile"), rename).await;
    (ann, other)
}

/// after the deletion of an account none of its current and former addresses is readable: at once,
/// except in queues and caches, and after their retention in no table at all.
#[tokio::test(flavor = "multi_thread")]
async fn no_address_of_a_deleted_account_is_readable() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let (ann, other) = create_ann(&suite, &world).await;
    suite.wait_for_log().await;
    let before = tables_with_address(&suite.pool).await;
    for table in ["identity.account", "identity.mailed_link", "invitation.invitation"] {
        assert!(before.contains(table), "the search finds addresses: {before:?}");
    }
    let log = async |org: &str, owner: &Person| {
        let log = AuditClient::new(&suite, owner, org).await;
        String::from_utf8(log.export(api::audit::ExportFormat::Json).await).unwrap()
    };
    assert!(log(&world.org, &world.owner).await.contains(ADDRESSES[0]));
    assert!(log(&other, &world.admin).await.contains(ADDRESSES[1]));

    let delete = json!({ "confirmEmail": ann.email });
    ann.call_ok(&format!("{USERS}/DeleteAccount"), delete).await;
    // Outboxes keep events for a week; idempotency records, notifications and deliveries have their own
    // retention.
    let temporary = [
        "identity.outbox",
        "project.outbox",
        "invitation.outbox",
        "audit.outbox",
        "identity.idempotency",
        "invitation.idempotency",
        "invitation.pending_event",
        "invitation.notification",
        "invitation.digest",
        "invitation.digest_item",
        "invitation.webhook_delivery",
    ];
    eventually("the erasure", async || {
        let tables = tables_with_address(&suite.pool).await;
        tables.iter().all(|it| temporary.contains(&it.as_str())).then_some(())
    })
    .await;
    suite.wait_for_log().await;
    for text in [log(&world.org, &world.owner).await, log(&other, &world.admin).await] {
        let readable: Vec<_> = ADDRESSES.iter().filter(|it| text.contains(**it)).collect();
        assert!(readable.is_empty(), "{readable:?} in {text}");
    }
    let sessions = "select count(*) from identity.session where user_id::text = $1";
    let sessions = sqlx::query_scalar(sessions).bind(&ann.user_id);
    let sessions: i64 = sessions.fetch_one(&suite.pool).await.unwrap();
    assert_eq!(sessions, 0, "network addresses are personal data");
    let list = json!({ "orgId": other, "state": "INVITATION_STATE_REVOKED" });
    let revoked = world.admin.call_ok(&format!("{INVITATIONS}/ListInvitations"), list).await;
    let causes: Vec<_> = revoked["invitations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| text(&it["revokeCause"]))
        .collect();
    assert_eq!(causes, ["REVOKE_CAUSE_RECIPIENT_GONE"; 2]);

    // The log has the events, so the outboxes delete them after a week.
    suite.clock.advance(Duration::days(8));
    eventually("the end of old events", async || {
        let tables = tables_with_address(&suite.pool).await;
        (!tables.iter().any(|it| it.ends_with(".outbox"))).then_some(())
    })
    .await;
    suite.clock.advance(Duration::days(92));
    let suite = suite.restart(async |_| {}).await;
    eventually("the deletion of temporary data", async || {
        tables_with_address(&suite.pool).await.is_empty().then_some(())
    })
    .await;
    suite.finish().await;
}
