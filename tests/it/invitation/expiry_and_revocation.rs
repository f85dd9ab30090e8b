//! End of invitations by time, with their inviter or their organization; protection of links against
//! guessing.

use chassis::clock::Duration;
use serde_json::{Value, json};
use testkit::{Options, Suite, eventually};

use crate::{
    invitation::invitation_service::{ACCEPT, CLEAN, CREATE, GET, PREVIEW},
    support::world::{World, text},
};

/// IN-13: expiry depends on the clock at each read; its event is written once.
#[tokio::test(flavor = "multi_thread")]
async fn the_expiry_event_is_written_once() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let expiry_events =
        "select count(*) from invitation.outbox where type like '%InvitationExpired'";
    // The invitations of the three members of the world are used up.
    assert_eq!(suite.count(expiry_events).await, 3);
    world.invite("late@example.com", json!({ "expiresInDays": 1 })).await;
    let token = suite.mailbox.token("late@example.com", "tny_inv_").await.unwrap();
    suite.clock.advance(Duration::hours(24));
    let state = world.viewer.call_ok(PREVIEW, json!({ "token": token })).await;
    assert_eq!(
        (text(&state["state"]), text(&state["expiryReason"])),
        ("INVITATION_STATE_EXPIRED".to_owned(), "EXPIRY_REASON_TIME".to_owned())
    );
    eventually("the event", async || (suite.count(expiry_events).await == 4).then_some(())).await;
    world.owner.sign_in_again().await.call_ok(CLEAN, world.org_request(json!({}))).await;
    suite.clock.advance(Duration::hours(24));
    suite.wait_for_log().await;
    assert_eq!(suite.count(expiry_events).await, 4);
    suite.finish().await;
}

/// IN-13, G-17: the clock of the database determines expiry, not the clock of the machine.
#[tokio::test(flavor = "multi_thread")]
async fn the_clock_of_the_database_determines_expiry() {
    for wrong in [Duration::hours(-30), Duration::hours(30)] {
        let clock_error = wrong;
        let suite = Suite::start_with(Options { clock_error, ..Options::default() }).await;
        let world = World::new(&suite).await;
        let invitation = world.invite("x@example.com", json!({ "expiresInDays": 1 })).await;
        let remaining =
            "select extract(epoch from max(expires_at) - now())::bigint from invitation.invitation
                    where use_count = 0";
        let remaining = suite.count(remaining).await;
        assert!((86_300..=86_400).contains(&remaining), "{remaining} s");
        let get = world.org_request(json!({ "invitationId": invitation["id"] }));
        let shown = world.owner.call_ok(GET, get).await;
        assert_eq!(shown["invitation"]["state"], "INVITATION_STATE_PENDING");
        suite.finish().await;
    }
}

/// IN-24, IN-25: pending invitations are revoked, with the cause, when their inviter is demoted or removed,
/// or the subscription of the organization is blocked.
#[tokio::test(flavor = "multi_thread")]
async fn pending_invitations_are_revoked_with_their_cause() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let guest = suite.person("guest@example.com").await;
    let invite_as_admin = async |email: &str| {
        let create = world.org_request(json!({ "email": email, "role": "ORG_ROLE_VIEWER" }));
        world.admin.call_ok(CREATE, create).await["invitation"].clone()
    };
    let wait_for_cause = async |invitation: &Value, expected: &str| {
        let get = world.org_request(json!({ "invitationId": invitation["id"] }));
        eventually(expected, async || {
            let shown = world.owner.call_ok(GET, get.clone()).await;
            (shown["invitation"]["revokeCause"] == expected).then_some(())
        })
        .await;
    };
    let demoted = invite_as_admin(&guest.email).await;
    let change =
        |role: &str| world.org_request(json!({ "userId": world.admin.user_id, "role": role }));
    let method = "identity.v1.MemberService/ChangeMemberRole";
    world.owner.call_ok(method, change("ORG_ROLE_DEVELOPER")).await;
    wait_for_cause(&demoted, "REVOKE_CAUSE_INVITER_DEMOTED").await;
    let refusal = guest.call(ACCEPT, json!({ "invitationId": demoted["id"] })).await.unwrap_err();
    assert_eq!(refusal.reason, "INVITATION_REVOKED");
    assert!(refusal.message.contains("ask an administrator"), "{refusal}");

    world.owner.call_ok(method, change("ORG_ROLE_ADMIN")).await;
    let orphaned = invite_as_admin(&guest.email).await;
    let remove = world.org_request(json!({ "userId": world.admin.user_id }));
    world.owner.call_ok("identity.v1.MemberService/RemoveMember", remove).await;
    wait_for_cause(&orphaned, "REVOKE_CAUSE_INVITER_GONE").await;

    let blocked = world.invite(&guest.email, json!({})).await;
    suite.set_subscription(&world.org, api::identity::Subscription::Blocked).await;
    // Rejected at once; the reason depends on the progress of the reaction.
    let reason = guest.call_err(ACCEPT, json!({ "invitationId": blocked["id"] })).await;
    assert!(["SUBSCRIPTION_BLOCKED", "INVITATION_REVOKED"].contains(&reason.as_str()), "{reason}");
    wait_for_cause(&blocked, "REVOKE_CAUSE_SUBSCRIPTION_BLOCKED").await;
    // The active subscription does not restore it.
    suite.set_subscription(&world.org, api::identity::Subscription::Active).await;
    assert_eq!(
        guest.call_err(ACCEPT, json!({ "invitationId": blocked["id"] })).await,
        "INVITATION_REVOKED"
    );
    suite.finish().await;
}

/// IN-26: a damaged token is treated as unknown; an address with many of them is blocked for 15 minutes.
#[tokio::test(flavor = "multi_thread")]
async fn guessed_links_are_blocked() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    world.invite("bob@example.com", json!({})).await;
    let token = suite.mailbox.token("bob@example.com", "tny_inv_").await.unwrap();
    let guesser = &world.viewer;
    for position in [9, 20, 40, 60, 80] {
        let mut bytes = token.clone().into_bytes();
        bytes[position] = if bytes[position] == b'a' { b'b' } else { b'a' };
        let damaged = json!({ "token": String::from_utf8(bytes).unwrap() });
        assert_eq!(guesser.call_err(PREVIEW, damaged.clone()).await, "NOT_FOUND");
        assert_eq!(guesser.call_err(ACCEPT, damaged).await, "NOT_FOUND");
    }
    assert_eq!(guesser.call_err(PREVIEW, json!({ "token": token })).await, "ADDRESS_BLOCKED");
    suite.clock.advance(Duration::minutes(16));
    guesser.call_ok(PREVIEW, json!({ "token": token })).await;
    suite.finish().await;
}
