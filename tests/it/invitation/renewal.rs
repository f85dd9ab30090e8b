//! Links that are followed a second time, and expired invitations that are resent.

use chassis::clock::Duration;
use serde_json::json;
use testkit::{Suite, eventually};

use super::invitation_service::{ACCEPT, CREATE, GET, PREVIEW};
use crate::support::world::{World, text};

const RESEND: &str = "invitation.v1.InvitationService/ResendInvitation";

/// IN-19: resending an expired invitation renews it with new links; the old ones stay invalid.
#[tokio::test(flavor = "multi_thread")]
async fn resending_an_expired_invitation_renews_it() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let bob = suite.person("bob@example.com").await;
    let invitation = world.invite("bob@example.com", json!({ "expiresInDays": 2 })).await;
    let old_token = suite.mailbox.token("bob@example.com", "tny_inv_").await.unwrap();
    suite.clock.advance(Duration::days(3));
    let owner = world.owner.sign_in_again().await;
    let by_id = world.org_request(json!({ "invitationId": invitation["id"] }));
    let expired = "select count(*) from invitation.invitation where expiry_event_at is not null
                     and email = 'bob@example.com'";
    eventually("the expiry", async || (suite.count(expired).await == 1).then_some(())).await;

    // Only one invitation to an address is pending.
    let again = world.org_request(json!({ "email": "bob@example.com", "role": "ORG_ROLE_VIEWER" }));
    let second = owner.call_ok(CREATE, again).await["invitation"].clone();
    assert_eq!(owner.call_err(RESEND, by_id.clone()).await, "INVITATION_PENDING");
    let revoke = world.org_request(json!({ "invitationId": second["id"] }));
    owner.call_ok("invitation.v1.InvitationService/RevokeInvitation", revoke.clone()).await;
    let refusal = owner.call(RESEND, revoke).await.unwrap_err();
    assert_eq!(refusal.reason, "INVITATION_NOT_PENDING");
    assert!(refusal.message.contains("was revoked"), "{refusal}");

    let renewed = owner.call_ok(RESEND, by_id.clone()).await["invitation"].clone();
    assert_eq!(renewed["state"], "INVITATION_STATE_PENDING");
    assert_eq!(renewed["expiryReason"], json!(null));
    let token = eventually("the new link", async || {
        let newest = suite.mailbox.token("bob@example.com", "tny_inv_").await.unwrap();
        let preview = bob.call(PREVIEW, json!({ "token": newest })).await.ok()?;
        (preview["state"] == "INVITATION_STATE_PENDING").then_some(newest)
    })
    .await;
    assert_ne!(token, old_token);
    assert_eq!(bob.call_err(PREVIEW, json!({ "token": old_token })).await, "NOT_FOUND");
    let bob = bob.sign_in_again().await;
    assert_eq!(bob.call_err(ACCEPT, json!({ "token": old_token })).await, "NOT_FOUND");
    bob.call_ok(ACCEPT, json!({ "token": token })).await;
    let used = owner.call(RESEND, by_id.clone()).await.unwrap_err();
    assert_eq!(used.reason, "INVITATION_NOT_PENDING");
    assert!(used.message.contains("has no uses left"), "{used}");

    // Nobody who is a member already is invited by a renewal.
    let viewer = world.viewer.email.clone();
    let get = owner.call_ok(GET, by_id).await;
    assert_eq!(get["invitation"]["useCount"], 1);
    let stale = owner
        .call_ok(
            CREATE,
            world.org_request(json!({
                "email": "cem@example.com", "role": "ORG_ROLE_VIEWER", "expiresInDays": 1,
            })),
        )
        .await;
    let id = text(&stale["invitation"]["id"]);
    sqlx::query(
        "update invitation.invitation set email = $1, canonical_email = $1 where id = $2::uuid",
    )
    .bind(&viewer)
    .bind(&id)
    .execute(&suite.pool)
    .await
    .unwrap();
    suite.clock.advance(Duration::days(2));
    let owner = owner.sign_in_again().await;
    let by_id = world.org_request(json!({ "invitationId": id }));
    assert_eq!(owner.call_err(RESEND, by_id).await, "ALREADY_MEMBER");
    suite.finish().await;
}

/// The second click on a confirmation succeeds: the address is confirmed.
#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_that_is_followed_twice_succeeds() {
    let suite = Suite::start().await;
    let bob = suite.person("bob@example.com").await;
    let token = suite.mailbox.token("bob@example.com", "tny_ver_").await.unwrap();
    let verify = json!({ "token": token });
    let verified = suite.client.call_json("identity.v1.UserService/VerifyEmail", verify);
    assert_eq!(text(&verified.await.unwrap()["user"]["id"]), bob.user_id);
    let page = format!("http://127.0.0.1:{}/verify/{token}", suite.address.port());
    let click = reqwest::Client::new().post(&page).form(&[("x", "y")]).send().await.unwrap();
    assert_eq!(click.status(), 200);
    assert!(click.text().await.unwrap().contains("is confirmed"));
    suite.finish().await;
}
