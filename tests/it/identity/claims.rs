//! Account pre-hijacking: strangers who register, keep sessions, request changes or sign in with the address
//! of another person before that person does.

use chassis::clock::Duration;
use serde_json::{Value, json};
use testkit::{PASSWORD, Person, Suite, eventually};

use crate::{
    invitation::invitation_service::ACCEPT,
    support::world::{World, text},
};

const USERS: &str = "identity.v1.UserService";
const SESSIONS: &str = "identity.v1.SessionService";
const SIGN_UP: &str = "invitation.v1.InvitationService/SignUp";
const OWNER: &str = "ann@example.com";
const STRANGERS_PASSWORD: &str = "the password of eve";

/// Registers an address; returns the person with a session of the unconfirmed account.
async fn claim(suite: &Suite, email: &str, password: &str) -> Person {
    let register = json!({ "email": email, "password": password });
    suite.client.call_json(&format!("{USERS}/Register"), register).await.unwrap();
    let session = login(suite, email, password).await.unwrap();
    let client = suite.client.with_token(&session);
    Person { client, user_id: String::new(), email: email.to_owned(), token: session }
}

/// Signs in; returns the token of the session, or the reason of the error.
async fn login(suite: &Suite, email: &str, password: &str) -> Result<String, String> {
    let login = json!({ "email": email, "password": password });
    let answer = suite.client.call_json(&format!("{SESSIONS}/Login"), login).await;
    answer.map(|it| text(&it["token"])).map_err(|it| it.reason)
}

/// Waits for `count` mails with a token to an address; returns the tokens, oldest first.
async fn tokens(suite: &Suite, email: &str, prefix: &str, count: usize) -> Vec<String> {
    eventually("the mails", async || {
        let found = tokens_now(suite, email, prefix);
        (found.len() >= count).then_some(found)
    })
    .await
}

/// The tokens in the mails to an address, oldest first.
fn tokens_now(suite: &Suite, email: &str, prefix: &str) -> Vec<String> {
    let folder = std::fs::read_dir(suite.data_dir().join("mail")).into_iter().flatten().flatten();
    let mut paths: Vec<_> = folder.map(|it| it.path()).collect();
    paths.sort();
    let mut found: Vec<String> = vec![];
    for path in paths {
        let mail = std::fs::read_to_string(path).unwrap_or_default().replace("=\r\n", "");
        if !mail.lines().any(|it| it.starts_with("To:") && it.contains(email)) {
            continue;
        }
        let start = mail.find(prefix);
        let is_end = |it: char| !(it.is_ascii_alphanumeric() || it == '_' || it == '-');
        let token = start.and_then(|it| mail[it..].split(is_end).next());
        found.extend(token.filter(|it| !found.iter().any(|known| known == it)).map(str::to_owned));
    }
    found
}

async fn verify(suite: &Suite, token: &str, more: Value) -> Result<Value, String> {
    let request = crate::support::world::merge(json!({ "token": token }), more);
    let answer = suite.client.call_json(&format!("{USERS}/VerifyEmail"), request).await;
    answer.map_err(|it| it.reason)
}

async fn reason_of_me(person: &Person) -> Option<String> {
    person.call(&format!("{USERS}/GetMe"), json!({})).await.err().map(|it| it.reason)
}

/// Asserts that nothing of a stranger's claim is left.
async fn assert_ended(suite: &Suite, stranger: &Person) {
    assert_eq!(reason_of_me(stranger).await.as_deref(), Some("INVALID_CREDENTIAL"));
    let signed_in = login(suite, &stranger.email, STRANGERS_PASSWORD).await;
    assert_eq!(signed_in.unwrap_err(), "INVALID_LOGIN");
    let claims = "select count(*) from identity.account where email_verified_at is null
                  and deleted_at is null";
    assert_eq!(suite.count(claims).await, 0);
}

/// I-25: the unexpired session. The stranger registers first and keeps a session; the owner of the mailbox
/// registers, too, and follows the own link.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_from_before_the_confirmation_has_ended() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let stranger = claim(&suite, OWNER, STRANGERS_PASSWORD).await;
    tokens(&suite, OWNER, "tny_ver_", 1).await;
    let owner = claim(&suite, OWNER, PASSWORD).await;
    let links = tokens(&suite, OWNER, "tny_ver_", 2).await;
    world.invite(OWNER, json!({ "role": "ORG_ROLE_ADMIN" })).await;
    // The call comes from the session of the claim.
    let confirmed =
        owner.call_ok(&format!("{USERS}/VerifyEmail"), json!({ "token": links[1] })).await;
    assert_eq!(confirmed["user"]["emailVerified"], true);
    assert_ended(&suite, &stranger).await;
    assert_eq!(verify(&suite, &links[0], json!({})).await.unwrap_err(), "VERIFICATION_INVALID");
    let invitation = tokens(&suite, OWNER, "tny_inv_", 1).await.remove(0);
    owner.call_ok(ACCEPT, json!({ "token": invitation })).await;
    login(&suite, OWNER, PASSWORD).await.unwrap();
    suite.finish().await;
}

/// I-25: the owner of the mailbox follows the link of a stranger's registration, which they never asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_nobody_asked_for_confirms_no_password_of_a_stranger() {
    let suite = Suite::start().await;
    let stranger = claim(&suite, OWNER, STRANGERS_PASSWORD).await;
    let link = tokens(&suite, OWNER, "tny_ver_", 1).await.remove(0);
    assert_eq!(verify(&suite, &link, json!({})).await.unwrap_err(), "INVALID_FIELD");
    let wrong = json!({ "password": PASSWORD });
    assert_eq!(verify(&suite, &link, wrong).await.unwrap_err(), "INVALID_LOGIN");
    let own_address = json!({ "newPassword": OWNER });
    assert_eq!(verify(&suite, &link, own_address).await.unwrap_err(), "INVALID_FIELD");
    let foreign = suite.person("bob@example.com").await;
    let method = format!("{USERS}/VerifyEmail");
    assert_eq!(foreign.call_err(&method, json!({ "token": link })).await, "INVALID_FIELD");
    let confirmed = verify(&suite, &link, json!({ "newPassword": PASSWORD })).await.unwrap();
    assert_eq!(confirmed["user"]["emailVerified"], true);
    assert_ended(&suite, &stranger).await;
    login(&suite, OWNER, PASSWORD).await.unwrap();
    suite.finish().await;
}

/// I-25: the unexpired change of the address, which is also the trojan identifier: the stranger's claim gets
/// a second way in, which must not survive the confirmation.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_address_from_before_the_confirmation_has_ended() {
    let suite = Suite::start().await;
    let stranger = claim(&suite, OWNER, STRANGERS_PASSWORD).await;
    let change = json!({ "newEmail": "eve@example.com", "password": STRANGERS_PASSWORD });
    stranger.call_ok(&format!("{USERS}/RequestEmailChange"), change).await;
    let trojan = tokens(&suite, "eve@example.com", "tny_ver_", 1).await.remove(0);
    let enrolled = stranger.call_err("identity.v1.SecondFactorService/EnrollTotp", json!({})).await;
    assert_eq!(enrolled, "EMAIL_NOT_VERIFIED");
    let link = tokens(&suite, OWNER, "tny_ver_", 1).await.remove(0);
    verify(&suite, &link, json!({ "newPassword": PASSWORD })).await.unwrap();
    let confirm = json!({ "token": trojan, "password": STRANGERS_PASSWORD });
    let method = format!("{USERS}/ConfirmEmailChange");
    let refused = suite.client.call_json(&method, confirm).await.unwrap_err();
    assert_eq!(refused.reason, "VERIFICATION_INVALID");
    assert_ended(&suite, &stranger).await;

    // The other direction: the address of the stranger's account becomes that of somebody who only clicks.
    let eve = suite.person("eve2@example.com").await;
    let change = json!({ "newEmail": "cem@example.com", "password": PASSWORD });
    eve.call_ok(&format!("{USERS}/RequestEmailChange"), change).await;
    let clicked = tokens(&suite, "cem@example.com", "tny_ver_", 1).await.remove(0);
    let refused = suite.client.call_json(&method, json!({ "token": clicked })).await.unwrap_err();
    assert_eq!(refused.reason, "INVALID_FIELD");
    let cem = claim(&suite, "cem@example.com", STRANGERS_PASSWORD).await;
    let own = tokens(&suite, "cem@example.com", "tny_ver_", 2).await.remove(1);
    cem.call_ok(&format!("{USERS}/VerifyEmail"), json!({ "token": own })).await;
    suite.finish().await;
}

/// I-25, IN-18: no unconfirmed claim is in the way of somebody who signs up by a mailed invitation.
#[tokio::test(flavor = "multi_thread")]
async fn a_mailed_invitation_signs_up_although_strangers_claim_the_address() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let stranger = claim(&suite, OWNER, STRANGERS_PASSWORD).await;
    world.invite(OWNER, json!({})).await;
    let link = tokens(&suite, OWNER, "tny_inv_", 1).await.remove(0);
    // The stranger deletes the claim of another address, which revokes no invitation of its owner.
    let bob = claim(&suite, "bob@example.com", STRANGERS_PASSWORD).await;
    let invitation = world.invite("bob@example.com", json!({})).await;
    let delete = json!({ "confirmEmail": "bob@example.com" });
    bob.call_ok(&format!("{USERS}/DeleteAccount"), delete).await;
    let sign_up = json!({ "token": link, "password": PASSWORD });
    let session = suite.client.call_json(SIGN_UP, sign_up).await.unwrap();
    assert_ended(&suite, &stranger).await;
    let ann = world.owner.with_token(&text(&session["token"]));
    ann.call_ok(ACCEPT, json!({ "token": link })).await;
    suite.wait_for_log().await;
    let get = world.org_request(json!({ "invitationId": invitation["id"] }));
    let kept = world.owner.call_ok("invitation.v1.InvitationService/GetInvitation", get).await;
    assert_eq!(kept["invitation"]["state"], "INVITATION_STATE_PENDING");
    assert_eq!(kept["invitation"]["email"], "bob@example.com");
    suite.finish().await;
}

/// IN-14: the mailed link of a personal invitation confirms the address of the account that follows it; a
/// copied link does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_mailed_invitation_confirms_the_address_of_the_account_that_accepts() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let stranger = claim(&suite, OWNER, STRANGERS_PASSWORD).await;
    let owner = claim(&suite, OWNER, PASSWORD).await;
    let invitation = world.invite(OWNER, json!({})).await;
    let copied = world.copied_link_token(&invitation).await;
    let mailed = tokens(&suite, OWNER, "tny_inv_", 1).await.remove(0);
    assert_eq!(stranger.call_err(ACCEPT, json!({ "token": copied })).await, "EMAIL_NOT_VERIFIED");
    owner.call_ok(ACCEPT, json!({ "token": mailed })).await;
    assert_ended(&suite, &stranger).await;
    let me = owner.call_ok(&format!("{USERS}/GetMe"), json!({})).await;
    assert_eq!(me["user"]["emailVerified"], true);
    suite.finish().await;
}

/// I-26: claims to one address and mails to it are limited, nobody can fill the places of others, and a claim
/// that is not confirmed is deleted after a week.
#[tokio::test(flavor = "multi_thread")]
async fn claims_are_limited_and_expire() {
    let suite = Suite::start().await;
    let method = format!("{USERS}/Register");
    for number in 0..7 {
        let register = json!({ "email": OWNER, "password": format!("password number {number}") });
        suite.client.call_json(&method, register).await.unwrap();
    }
    let claims = "select count(*) from identity.account where canonical_email = 'ann@example.com'";
    assert_eq!(suite.count(claims).await, 5);
    assert_eq!(tokens(&suite, OWNER, "tny_ver_", 5).await.len(), 5);
    // The registrations above the limit get a link that sets a password.
    let reset = tokens(&suite, OWNER, "tny_rst_", 1).await;
    assert_eq!(reset.len(), 1);
    for _ in 0..20 {
        suite.clock.advance(Duration::minutes(2));
        let request = json!({ "email": OWNER });
        let method = format!("{USERS}/RequestPasswordReset");
        suite.client.call_json(&method, request).await.unwrap();
    }
    let mails =
        "select count(*) from identity.mailed_link where canonical_email = 'ann@example.com'";
    assert_eq!(suite.count(mails).await, 20);
    claim(&suite, "bob@example.com", PASSWORD).await;
    suite.clock.advance(Duration::days(8));
    let suite = suite.restart(async |_| {}).await;
    eventually("the deletion of claims", async || {
        (suite.count("select count(*) from identity.account").await == 0).then_some(())
    })
    .await;
    assert_eq!(login(&suite, "bob@example.com", PASSWORD).await.unwrap_err(), "INVALID_LOGIN");
    suite.finish().await;
}

/// I-25: a link that resets a password proves the mailbox, and makes an account of the newest claim.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_reset_ends_all_other_claims() {
    let suite = Suite::start().await;
    let first = claim(&suite, OWNER, STRANGERS_PASSWORD).await;
    let second = claim(&suite, OWNER, "another password of eve").await;
    let request = json!({ "email": format!(" {OWNER} ") });
    suite.client.call_json(&format!("{USERS}/RequestPasswordReset"), request).await.unwrap();
    let link = tokens(&suite, OWNER, "tny_rst_", 1).await.remove(0);
    let reset = json!({ "token": link, "newPassword": PASSWORD });
    suite.client.call_json(&format!("{USERS}/ResetPassword"), reset).await.unwrap();
    for stranger in [&first, &second] {
        assert_ended(&suite, stranger).await;
    }
    login(&suite, OWNER, PASSWORD).await.unwrap();
    suite.finish().await;
}
