//! Accounts: sessions, password reset, second factor, deletion, and answers that reveal no accounts.

use serde_json::{Value, json};
use testkit::{Options, PASSWORD, Person, Suite};
use totp_rs::Builder;

use crate::support::world::{World, text};

const USERS: &str = "identity.v1.UserService";
const SESSIONS: &str = "identity.v1.SessionService";
const FACTOR: &str = "identity.v1.SecondFactorService";
const NEW: &str = "a password of another kind";

fn login(email: &str, password: &str) -> Value {
    json!({ "email": email, "password": password })
}

/// The account of a session, or the reason of the error.
async fn me(person: &Person) -> Result<Value, String> {
    person.call(&format!("{USERS}/GetMe"), json!({})).await.map_err(|it| it.reason)
}

/// I-09: sessions are listed, revoked one by one or all others at once, and expire when they are not used.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_and_ended() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let phone = ann.sign_in_again().await;
    let laptop = ann.sign_in_again().await;
    let list = format!("{SESSIONS}/ListSessions");
    let sessions = ann.call_ok(&list, json!({})).await;
    let sessions = sessions["sessions"].as_array().unwrap().clone();
    assert_eq!(sessions.len(), 3);
    let current: Vec<_> = sessions.iter().filter(|it| it["current"] == true).collect();
    assert_eq!(current.len(), 1);
    assert_eq!(current[0]["address"], "127.0.0.1");
    // The newest session, which is the laptop, is the first.
    let revoke = json!({ "sessionId": sessions[0]["id"] });
    ann.call_ok(&format!("{SESSIONS}/RevokeSession"), revoke.clone()).await;
    assert_eq!(me(&laptop).await.unwrap_err(), "INVALID_CREDENTIAL");
    assert_eq!(ann.call_err(&format!("{SESSIONS}/RevokeSession"), revoke).await, "NOT_FOUND");
    let eve = suite.person("eve@example.com").await;
    let foreign = json!({ "sessionId": sessions[1]["id"] });
    assert_eq!(eve.call_err(&format!("{SESSIONS}/RevokeSession"), foreign).await, "NOT_FOUND");
    let ended = ann.call_ok(&format!("{SESSIONS}/RevokeOtherSessions"), json!({})).await;
    assert_eq!(ended["revokedCount"], 1);
    assert_eq!(me(&phone).await.unwrap_err(), "INVALID_CREDENTIAL");
    me(&ann).await.unwrap();
    ann.call_ok(&format!("{SESSIONS}/Logout"), json!({})).await;
    assert_eq!(me(&ann).await.unwrap_err(), "INVALID_CREDENTIAL");

    let idle = ann.sign_in_again().await;
    suite.clock.advance(chassis::clock::Duration::hours(11));
    me(&idle).await.unwrap();
    suite.clock.advance(chassis::clock::Duration::hours(11));
    me(&idle).await.unwrap();
    suite.clock.advance(chassis::clock::Duration::hours(13));
    assert_eq!(me(&idle).await.unwrap_err(), "INVALID_CREDENTIAL");
    suite.finish().await;
}

/// I-05, I-10, I-16: a mailed token resets the password once and ends all sessions and tokens; the answer
/// does not reveal accounts.
#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_password_is_reset_by_mail() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let anyone = suite.client.clone();
    let reset_for = |email: &str| json!({ "email": email });
    let request = format!("{USERS}/RequestPasswordReset");
    let registered = anyone.call_json(&request, reset_for("ANN@example.com")).await;
    let unknown = anyone.call_json(&request, reset_for("nobody@example.com")).await;
    assert_eq!(registered, unknown);
    let token = suite.mailbox.token("ann@example.com", "tny_rst_").await.unwrap();
    let reset = format!("{USERS}/ResetPassword");
    let set = |token: &str, password: &str| json!({ "token": token, "newPassword": password });
    let weak = anyone.call_json(&reset, set(&token, "passwordpassword")).await.unwrap_err();
    assert_eq!(weak.reason, "INVALID_FIELD");
    // A reset token is not accepted as a verification token.
    let verify = json!({ "token": token });
    let wrong = anyone.call_json(&format!("{USERS}/VerifyEmail"), verify).await.unwrap_err();
    assert_eq!(wrong.reason, "VERIFICATION_INVALID");
    anyone.call_json(&reset, set(&token, NEW)).await.unwrap();
    assert_eq!(me(&ann).await.unwrap_err(), "INVALID_CREDENTIAL");
    let second = anyone.call_json(&reset, set(&token, PASSWORD)).await.unwrap_err();
    assert_eq!(second.reason, "VERIFICATION_INVALID");
    let old =
        anyone.call_json(&format!("{SESSIONS}/Login"), login("ann@example.com", PASSWORD)).await;
    assert_eq!(old.unwrap_err().reason, "INVALID_LOGIN");
    anyone.call_json(&format!("{SESSIONS}/Login"), login("ann@example.com", NEW)).await.unwrap();
    suite.finish().await;
}

/// I-07, I-10, I-15: changes of password and address need the password and end other sessions.
#[tokio::test(flavor = "multi_thread")]
async fn password_address_and_name_change() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let other = ann.sign_in_again().await;
    let rename = json!({ "displayName": "Ann B.", "updateMask": "displayName" });
    ann.call_ok(&format!("{USERS}/UpdateProfile"), rename).await;
    assert_eq!(me(&ann).await.unwrap()["user"]["displayName"], "Ann B.");

    let change = |current: &str| json!({ "currentPassword": current, "newPassword": NEW });
    let method = format!("{USERS}/ChangePassword");
    assert_eq!(ann.call_err(&method, change("not my password")).await, "INVALID_LOGIN");
    ann.call_ok(&method, change(PASSWORD)).await;
    assert_eq!(me(&other).await.unwrap_err(), "INVALID_CREDENTIAL");
    me(&ann).await.unwrap();

    let change_to = |email: &str| json!({ "newEmail": email, "password": NEW });
    let request = format!("{USERS}/RequestEmailChange");
    ann.call_ok(&request, change_to("Ann@example.org")).await;
    let token = suite.mailbox.token("Ann@example.org", "tny_ver_").await.unwrap();
    assert_eq!(me(&ann).await.unwrap()["user"]["email"], "ann@example.com");
    let confirm = format!("{USERS}/ConfirmEmailChange");
    // The reader of the mail may have never asked for the change.
    let alone = suite.client.call_json(&confirm, json!({ "token": token })).await.unwrap_err();
    assert_eq!(alone.reason, "INVALID_FIELD");
    let confirmed = ann.call_ok(&confirm, json!({ "token": token })).await;
    assert_eq!(confirmed["user"]["email"], "Ann@example.org");
    assert_eq!(me(&ann).await.unwrap_err(), "INVALID_CREDENTIAL");
    let second = suite.client.call_json(&confirm, json!({ "token": token })).await.unwrap_err();
    assert_eq!(second.reason, "VERIFICATION_INVALID");
    let back = login("ann@example.org", NEW);
    suite.client.call_json(&format!("{SESSIONS}/Login"), back).await.unwrap();
    suite.finish().await;
}

/// TOTP: enrolment, confirmation, sign-in, replay, recovery codes, guesses and removal.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_factor_is_required_and_used_once() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let other = ann.sign_in_again().await;
    let enrolled = ann.call_ok(&format!("{FACTOR}/EnrollTotp"), json!({})).await;
    assert!(text(&enrolled["uri"]).starts_with("otpauth://totp/Tenantry:ann@example.com?secret="));
    let secret = data_encoding::BASE32_NOPAD.decode(text(&enrolled["secret"]).as_bytes()).unwrap();
    let code = || {
        let totp = Builder::new().with_secret(secret.clone()).build_noncompliant();
        totp.generate(suite.clock.now().unix_timestamp().try_into().unwrap()).to_string()
    };
    let next_code = || suite.clock.advance(chassis::clock::Duration::seconds(60));
    let with_code = |code: &str| json!({ "code": code });
    let confirm = format!("{FACTOR}/ConfirmTotp");
    assert_eq!(ann.call_err(&confirm, with_code("000000")).await, "INVALID_CODE");
    let confirmed = ann.call_ok(&confirm, with_code(&code())).await;
    let recovery: Vec<_> =
        confirmed["recoveryCodes"].as_array().unwrap().iter().map(text).collect();
    assert_eq!(recovery.len(), 10);
    assert_eq!(me(&other).await.unwrap_err(), "INVALID_CREDENTIAL");

    let sign_in = async || {
        let method = format!("{SESSIONS}/Login");
        let answer =
            suite.client.call_json(&method, login("ann@example.com", PASSWORD)).await.unwrap();
        assert_eq!(answer["token"], Value::Null, "no session before the second factor");
        text(&answer["challenge"])
    };
    let complete = async |challenge: &str, code: &str| {
        let complete = json!({ "challenge": challenge, "code": code });
        suite.client.call_json(&format!("{SESSIONS}/CompleteLogin"), complete).await
    };
    let challenge = sign_in().await;
    let used = complete(&challenge, &code()).await.unwrap_err();
    assert_eq!(used.reason, "INVALID_CODE", "a code is accepted once");
    next_code();
    let session = complete(&challenge, &code()).await.unwrap();
    let ann = ann.with_token(&text(&session["token"]));
    assert_eq!(me(&ann).await.unwrap()["user"]["totpEnabled"], true);
    next_code();
    assert_eq!(complete(&challenge, &code()).await.unwrap_err().reason, "INVALID_CODE", "used");
    let challenge = sign_in().await;
    complete(&challenge, &recovery[0].to_uppercase()).await.unwrap();
    let challenge = sign_in().await;
    assert_eq!(complete(&challenge, &recovery[0]).await.unwrap_err().reason, "INVALID_CODE");
    suite.clock.advance(chassis::clock::Duration::minutes(2));
    let guesses = async {
        for _ in 0..4 {
            assert_eq!(complete(&challenge, "000000").await.unwrap_err().reason, "INVALID_CODE");
        }
        complete(&challenge, "000000").await.unwrap_err().reason
    };
    assert!(["INVALID_CODE", "RATE_LIMITED"].contains(&guesses.await.as_str()));
    assert_eq!(complete(&challenge, &code()).await.unwrap_err().reason, "RATE_LIMITED");
    suite.clock.advance(chassis::clock::Duration::minutes(5));
    assert_eq!(
        complete(&challenge, &code()).await.unwrap_err().reason,
        "INVALID_CODE",
        "the challenge has expired"
    );

    // The removal needs a fresh authentication with password and code.
    let disable = format!("{FACTOR}/DisableTotp");
    next_code();
    assert_eq!(ann.call_err(&disable, with_code(&code())).await, "FRESH_LOGIN_REQUIRED");
    let reauthenticate = json!({ "password": PASSWORD, "code": code() });
    ann.call_ok(&format!("{SESSIONS}/Reauthenticate"), reauthenticate).await;
    next_code();
    let codes = ann.call_ok(&format!("{FACTOR}/RegenerateRecoveryCodes"), with_code(&code())).await;
    assert_eq!(codes["recoveryCodes"].as_array().unwrap().len(), 10);
    next_code();
    ann.call_ok(&disable, with_code(&code())).await;
    ann.sign_in_again().await;
    let stored = "select count(*) from identity.account where totp_secret is not null";
    assert_eq!(suite.count(stored).await, 0);
    suite.finish().await;
}

/// I-24: an account that owns organizations cannot be deleted; a deleted account leaves all organizations and
/// cannot sign in.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_account_leaves_every_organization() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let delete = format!("{USERS}/DeleteAccount");
    let confirm = |person: &Person| json!({ "confirmEmail": person.email });
    let refusal = world.owner.call(&delete, confirm(&world.owner)).await.unwrap_err();
    assert_eq!(refusal.reason, "ACCOUNT_OWNS_ORGANIZATIONS");
    assert_eq!(
        world.viewer.call_err(&delete, confirm(&world.owner)).await,
        "CONFIRMATION_MISMATCH"
    );
    let other = world.viewer.sign_in_again().await;
    world.viewer.call_ok(&delete, confirm(&world.viewer)).await;
    for session in [&world.viewer, &other] {
        assert_eq!(me(session).await.unwrap_err(), "INVALID_CREDENTIAL");
    }
    let method = format!("{SESSIONS}/Login");
    let sign_in = suite.client.call_json(&method, login(&world.viewer.email, PASSWORD)).await;
    assert_eq!(sign_in.unwrap_err().reason, "INVALID_LOGIN");
    let members = world
        .owner
        .call_ok("identity.v1.MemberService/ListMembers", world.org_request(json!({})))
        .await;
    assert_eq!(members["members"].as_array().unwrap().len(), 3);
    let personal_rows = "select count(*) from identity.account
                         where email like 'viewer%' or display_name = 'viewer'";
    assert_eq!(suite.count(personal_rows).await, 0);
    // The address can be registered again.
    let register = json!({ "email": "viewer@example.com", "password": PASSWORD });
    suite.client.call_json(&format!("{USERS}/Register"), register).await.unwrap();
    suite.client.call_json(&method, login("viewer@example.com", PASSWORD)).await.unwrap();
    suite.finish().await;
}

/// I-06: guesses are limited per account and per source address; a known address of the account still signs
/// in.
#[tokio::test(flavor = "multi_thread")]
async fn password_guesses_are_throttled_without_lockout() {
    let suite = Suite::start_with(Options { sign_ins_max: 40, ..Options::default() }).await;
    let ann = suite.person("ann@example.com").await;
    let method = format!("{SESSIONS}/Login");
    let guess = async |email: &str| {
        suite.client.call_json(&method, login(email, "not the password")).await.unwrap_err().reason
    };
    // The account has no earlier session from the address of this test.
    sqlx::query("update identity.session set address = '192.0.2.7'")
        .execute(&suite.pool)
        .await
        .unwrap();
    let mut reasons = vec![];
    for _ in 0..7 {
        reasons.push(guess("ann@example.com").await);
    }
    assert_eq!(
        reasons.iter().filter(|it| *it == "INVALID_LOGIN").count(),
        4,
        "the registration used one"
    );
    assert_eq!(reasons.last().unwrap(), "RATE_LIMITED");
    let mut unknown = vec![];
    for _ in 0..7 {
        unknown.push(guess("nobody@example.com").await);
    }
    assert_eq!(unknown.iter().filter(|it| *it == "INVALID_LOGIN").count(), 5);
    // The account has an earlier session from this address.
    sqlx::query("update identity.session set address = '127.0.0.1'")
        .execute(&suite.pool)
        .await
        .unwrap();
    ann.sign_in_again().await;
    // The limit per source address counts all accounts.
    let mut last = String::new();
    for i in 0..40 {
        last = guess(&format!("user{i}@example.com")).await;
    }
    assert_eq!(last, "RATE_LIMITED");
    suite.clock.advance(chassis::clock::Duration::minutes(2));
    assert_eq!(guess("user1@example.com").await, "INVALID_LOGIN");
    suite.finish().await;
}

/// I-02: a hash with outdated parameters is renewed by a successful sign-in only.
#[tokio::test(flavor = "multi_thread")]
async fn an_outdated_password_hash_is_renewed_at_sign_in() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    // argon2id of "a long enough password" without pepper, with fewer rounds.
    let old = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$";
    let params = argon2::Params::new(8, 1, 1, Some(32)).unwrap();
    let weak = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut hash = [0; 32];
    weak.hash_password_into(PASSWORD.as_bytes(), b"saltsaltsaltsalt", &mut hash).unwrap();
    let old = old.to_owned() + &data_encoding::BASE64_NOPAD.encode(&hash);
    sqlx::query("update identity.account set password_hash = $1")
        .bind(&old)
        .execute(&suite.pool)
        .await
        .unwrap();
    let stored = async || {
        let hash = "select password_hash from identity.account";
        sqlx::query_scalar::<_, String>(hash).fetch_one(&suite.pool).await.unwrap()
    };
    let wrong =
        suite.client.call_json(&format!("{SESSIONS}/Login"), login("ann@example.com", NEW)).await;
    assert_eq!(wrong.unwrap_err().reason, "INVALID_LOGIN");
    assert_eq!(stored().await, old);
    ann.sign_in_again().await;
    assert!(stored().await.starts_with("p1$argon2id$v=19$m=19456,t=2,p=1$"));
    ann.sign_in_again().await;
    suite.finish().await;
}

/// I-04: a wrong password and an unknown address get the same error. A unit test shows that both do the same
/// work; the benchmark `logins` measures their duration.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sign_in_does_not_reveal_accounts() {
    let suite = Suite::start().await;
    suite.person("ann@example.com").await;
    let mut answers = std::collections::BTreeSet::new();
    for email in ["ann@example.com", "eve@example.com"] {
        let method = format!("{SESSIONS}/Login");
        let refusal = suite.client.call_json(&method, login(email, "not the password")).await;
        answers.insert(format!("{}", refusal.unwrap_err()));
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    suite.finish().await;
}

/// A refused call stores no response: with the same `request_id` it is decided again, and succeeds only by
/// doing what it says. A successful call is answered from its stored response, although its password is not
/// the current one any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_call_with_a_password_is_answered_as_its_request_says() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let id = || chassis::id::new().to_string();
    let method = format!("{USERS}/ChangePassword");
    let change = |current: &str, new: &str| {
        let id = id();
        json!({ "currentPassword": current, "newPassword": new, "requestId": id })
    };
    let third = "a password of a third kind";
    let early = change(NEW, third);
    let email_method = format!("{USERS}/RequestEmailChange");
    let early_email = json!({ "newEmail": "ann@example.org", "password": NEW, "requestId": id() });
    let refused = ann.call(&method, early.clone()).await.unwrap_err();
    assert_eq!(refused.reason, "INVALID_LOGIN");
    let refused = ann.call(&email_method, early_email.clone()).await.unwrap_err();
    assert_eq!(refused.reason, "INVALID_LOGIN");
    let first = change(PASSWORD, NEW);
    ann.call_ok(&method, first.clone()).await;
    // The password of the refused calls is right now.
    ann.call_ok(&email_method, early_email).await;
    suite.mailbox.token("ann@example.org", "tny_ver_").await.unwrap();
    ann.call_ok(&method, early).await;
    let sign_in = async |password: &str| {
        let method = format!("{SESSIONS}/Login");
        let answer = suite.client.call_json(&method, login("ann@example.com", password)).await;
        answer.map(|_| ()).map_err(|it| it.reason)
    };
    assert_eq!(sign_in(third).await, Ok(()));
    ann.call_ok(&method, first).await;
    assert_eq!(sign_in(third).await, Ok(()), "a repetition changes nothing");
    assert_eq!(sign_in(NEW).await, Err("INVALID_LOGIN".to_owned()));
    suite.finish().await;
}
