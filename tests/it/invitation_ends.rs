//! How invitations end: by time, by their inviter, by their organization; and that nobody guesses a link.

use chassis::clock::Duration;
use serde_json::{Value, json};
use testkit::{Options, Suite, eventually};

use crate::{
    invitation_life::{ACCEPT, CLEAN, CREATE, GET, PREVIEW},
    world::{World, text},
};

/// IN-13, 3.2: expiry is what the clock says at every look, and it is told once.
#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_is_told_once() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let told = "select count(*) from invitation.outbox where type like '%InvitationExpired'";
    // The guests of the world used theirs up.
    assert_eq!(suite.count(told).await, 3);
    world.invite("late@example.com", json!({ "expiresInDays": 1 })).await;
    let token = suite.mailbox.token("late@example.com", "tny_inv_").await.unwrap();
    suite.clock.advance(Duration::hours(24));
    let state = world.viewer.tell(PREVIEW, json!({ "token": token })).await;
    assert_eq!(
        (text(&state["state"]), text(&state["expiryReason"])),
        ("INVITATION_STATE_EXPIRED".to_owned(), "EXPIRY_REASON_TIME".to_owned())
    );
    eventually("the telling", async || (suite.count(told).await == 4).then_some(())).await;
    world.owner.again().await.tell(CLEAN, world.here(json!({}))).await;
    suite.clock.advance(Duration::hours(24));
    suite.logged().await;
    assert_eq!(suite.count(told).await, 4);
    suite.finish().await;
}

/// IN-13, G-17: the clock of the database says when it is over, whatever the machine's own says.
#[tokio::test(flavor = "multi_thread")]
async fn the_clock_of_the_database_counts() {
    for wrong in [Duration::hours(-30), Duration::hours(30)] {
        let clock_wrong_by = wrong;
        let suite = Suite::start_with(Options { clock_wrong_by, ..Options::default() }).await;
        let world = World::new(&suite).await;
        let invitation = world.invite("x@example.com", json!({ "expiresInDays": 1 })).await;
        let rest =
            "select extract(epoch from max(expires_at) - now())::bigint from invitation.invitation
                    where use_count = 0";
        let rest = suite.count(rest).await;
        assert!((86_300..=86_400).contains(&rest), "{rest} s are left");
        let one = world.here(json!({ "invitationId": invitation["id"] }));
        let shown = world.owner.tell(GET, one).await;
        assert_eq!(shown["invitation"]["state"], "INVITATION_STATE_PENDING");
        suite.finish().await;
    }
}

/// IN-25, IN-24: whoever cannot invite any more, and an organization that takes no members, end what is
/// pending, with the reason.
#[tokio::test(flavor = "multi_thread")]
async fn pending_invitations_end_with_their_reason() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let guest = suite.person("guest@example.com").await;
    let by_admin = async |email: &str| {
        let create = world.here(json!({ "email": email, "role": "ORG_ROLE_VIEWER" }));
        world.admin.tell(CREATE, create).await["invitation"].clone()
    };
    let cause = async |it: &Value, expected: &str| {
        let one = world.here(json!({ "invitationId": it["id"] }));
        eventually(expected, async || {
            let it = world.owner.tell(GET, one.clone()).await;
            (it["invitation"]["revokeCause"] == expected).then_some(())
        })
        .await;
    };
    let demoted = by_admin(&guest.email).await;
    let change = |role: &str| world.here(json!({ "userId": world.admin.user_id, "role": role }));
    let method = "identity.v1.MemberService/ChangeMemberRole";
    world.owner.tell(method, change("ORG_ROLE_DEVELOPER")).await;
    cause(&demoted, "REVOKE_CAUSE_INVITER_DEMOTED").await;
    let refusal = guest.ask(ACCEPT, json!({ "invitationId": demoted["id"] })).await.unwrap_err();
    assert_eq!(refusal.reason, "INVITATION_REVOKED");
    assert!(refusal.message.contains("ask an administrator"), "{refusal}");

    world.owner.tell(method, change("ORG_ROLE_ADMIN")).await;
    let gone = by_admin(&guest.email).await;
    let remove = world.here(json!({ "userId": world.admin.user_id }));
    world.owner.tell("identity.v1.MemberService/RemoveMember", remove).await;
    cause(&gone, "REVOKE_CAUSE_INVITER_GONE").await;

    let blocked = world.invite(&guest.email, json!({})).await;
    suite.subscribe(&world.org, api::identity::Subscription::Blocked).await;
    // At once, whether the reaction ran already or not.
    let refused = guest.refused(ACCEPT, json!({ "invitationId": blocked["id"] })).await;
    assert!(
        ["SUBSCRIPTION_BLOCKED", "INVITATION_REVOKED"].contains(&refused.as_str()),
        "{refused}"
    );
    cause(&blocked, "REVOKE_CAUSE_SUBSCRIPTION_BLOCKED").await;
    // It does not come back with the subscription.
    suite.subscribe(&world.org, api::identity::Subscription::Active).await;
    assert_eq!(
        guest.refused(ACCEPT, json!({ "invitationId": blocked["id"] })).await,
        "INVITATION_REVOKED"
    );
    suite.finish().await;
}

/// IN-26, N-01: a damaged link is an unknown one, and who tries many is stopped for a while.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_guesses_a_link() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    world.invite("bob@example.com", json!({})).await;
    let token = suite.mailbox.token("bob@example.com", "tny_inv_").await.unwrap();
    let guesser = &world.viewer;
    for place in [9, 20, 40, 60, 80] {
        let mut bytes = token.clone().into_bytes();
        bytes[place] = if bytes[place] == b'a' { b'b' } else { b'a' };
        let damaged = json!({ "token": String::from_utf8(bytes).unwrap() });
        assert_eq!(guesser.refused(PREVIEW, damaged.clone()).await, "NOT_FOUND");
        assert_eq!(guesser.refused(ACCEPT, damaged).await, "NOT_FOUND");
    }
    assert_eq!(guesser.refused(PREVIEW, json!({ "token": token })).await, "ADDRESS_BLOCKED");
    suite.clock.advance(Duration::minutes(16));
    guesser.tell(PREVIEW, json!({ "token": token })).await;
    suite.finish().await;
}
