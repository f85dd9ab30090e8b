//! Accounts: ways in, ways back in, and out; what a stranger learns, and what an attacker gets.

use serde_json::{Value, json};
use testkit::{Options, PASSWORD, Person, Suite};
use totp_rs::Builder;

use crate::world::{World, text};

const USERS: &str = "identity.v1.UserService";
const SESSIONS: &str = "identity.v1.SessionService";
const FACTOR: &str = "identity.v1.SecondFactorService";
const NEW: &str = "a password of another kind";

fn login(email: &str, password: &str) -> Value {
    json!({ "email": email, "password": password })
}

async fn me(who: &Person) -> Result<Value, String> {
    who.ask(&format!("{USERS}/GetMe"), json!({})).await.map_err(|it| it.reason)
}

/// I-09: sessions are listed and ended, each by itself or all others, at once; and they end when nobody uses
/// them.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_and_ended() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let (phone, laptop) = (ann.again().await, ann.again().await);
    let list = format!("{SESSIONS}/ListSessions");
    let sessions = ann.tell(&list, json!({})).await;
    let sessions = sessions["sessions"].as_array().unwrap().clone();
    assert_eq!(sessions.len(), 3);
    let current: Vec<_> = sessions.iter().filter(|it| it["current"] == true).collect();
    assert_eq!(current.len(), 1);
    assert_eq!(current[0]["address"], "127.0.0.1");
    // The newest first: the laptop.
    let revoke = json!({ "sessionId": sessions[0]["id"] });
    ann.tell(&format!("{SESSIONS}/RevokeSession"), revoke.clone()).await;
    assert_eq!(me(&laptop).await.unwrap_err(), "INVALID_CREDENTIAL");
    assert_eq!(ann.refused(&format!("{SESSIONS}/RevokeSession"), revoke).await, "NOT_FOUND");
    let eve = suite.person("eve@example.com").await;
    let foreign = json!({ "sessionId": sessions[1]["id"] });
    assert_eq!(eve.refused(&format!("{SESSIONS}/RevokeSession"), foreign).await, "NOT_FOUND");
    let ended = ann.tell(&format!("{SESSIONS}/RevokeOtherSessions"), json!({})).await;
    assert_eq!(ended["revokedCount"], 1);
    assert_eq!(me(&phone).await.unwrap_err(), "INVALID_CREDENTIAL");
    me(&ann).await.unwrap();
    ann.tell(&format!("{SESSIONS}/Logout"), json!({})).await;
    assert_eq!(me(&ann).await.unwrap_err(), "INVALID_CREDENTIAL");

    let idle = ann.again().await;
    suite.clock.advance(chassis::clock::Duration::hours(11));
    me(&idle).await.unwrap();
    suite.clock.advance(chassis::clock::Duration::hours(11));
    me(&idle).await.unwrap();
    suite.clock.advance(chassis::clock::Duration::hours(13));
    assert_eq!(me(&idle).await.unwrap_err(), "INVALID_CREDENTIAL");
    suite.finish().await;
}

/// I-05, I-10, I-16: a forgotten password is set by a mailed link, once; every session and link dies with it;
/// and whether an address has an account is told to its mailbox only.
#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_password_is_set_by_mail() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let anyone = suite.client.clone();
    let ask = |email: &str| json!({ "email": email });
    let request = format!("{USERS}/RequestPasswordReset");
    let known = anyone.ask(&request, ask("ANN@example.com")).await;
    let unknown = anyone.ask(&request, ask("nobody@example.com")).await;
    assert_eq!(known, unknown);
    let token = suite.mailbox.token("ann@example.com", "tny_rst_").await.unwrap();
    let reset = format!("{USERS}/ResetPassword");
    let set = |token: &str, password: &str| json!({ "token": token, "newPassword": password });
    let weak = anyone.ask(&reset, set(&token, "passwordpassword")).await.unwrap_err();
    assert_eq!(weak.reason, "INVALID_FIELD");
    // Not with the token of another kind, and not by using it as one.
    let verify = json!({ "token": token });
    let wrong = anyone.ask(&format!("{USERS}/VerifyEmail"), verify).await.unwrap_err();
    assert_eq!(wrong.reason, "VERIFICATION_INVALID");
    anyone.ask(&reset, set(&token, NEW)).await.unwrap();
    assert_eq!(me(&ann).await.unwrap_err(), "INVALID_CREDENTIAL");
    let again = anyone.ask(&reset, set(&token, PASSWORD)).await.unwrap_err();
    assert_eq!(again.reason, "VERIFICATION_INVALID");
    let old = anyone.ask(&format!("{SESSIONS}/Login"), login("ann@example.com", PASSWORD)).await;
    assert_eq!(old.unwrap_err().reason, "INVALID_LOGIN");
    anyone.ask(&format!("{SESSIONS}/Login"), login("ann@example.com", NEW)).await.unwrap();
    suite.finish().await;
}

/// I-07, I-10, I-15: password and address change with the password; the rest of the sessions ends.
#[tokio::test(flavor = "multi_thread")]
async fn password_address_and_name_change() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let other = ann.again().await;
    let rename = json!({ "displayName": "Ann B.", "updateMask": "displayName" });
    ann.tell(&format!("{USERS}/UpdateProfile"), rename).await;
    assert_eq!(me(&ann).await.unwrap()["user"]["displayName"], "Ann B.");

    let change = |current: &str| json!({ "currentPassword": current, "newPassword": NEW });
    let method = format!("{USERS}/ChangePassword");
    assert_eq!(ann.refused(&method, change("not my password")).await, "INVALID_LOGIN");
    ann.tell(&method, change(PASSWORD)).await;
    assert_eq!(me(&other).await.unwrap_err(), "INVALID_CREDENTIAL");
    me(&ann).await.unwrap();

    let to = |email: &str| json!({ "newEmail": email, "password": NEW });
    let request = format!("{USERS}/RequestEmailChange");
    ann.tell(&request, to("Ann@example.org")).await;
    let token = suite.mailbox.token("Ann@example.org", "tny_ver_").await.unwrap();
    assert_eq!(me(&ann).await.unwrap()["user"]["email"], "ann@example.com");
    let confirm = format!("{USERS}/ConfirmEmailChange");
    let moved = suite.client.ask(&confirm, json!({ "token": token })).await.unwrap();
    assert_eq!(moved["user"]["email"], "Ann@example.org");
    assert_eq!(me(&ann).await.unwrap_err(), "INVALID_CREDENTIAL");
    let again = suite.client.ask(&confirm, json!({ "token": token })).await.unwrap_err();
    assert_eq!(again.reason, "VERIFICATION_INVALID");
    let back = login("ann@example.org", NEW);
    suite.client.ask(&format!("{SESSIONS}/Login"), back).await.unwrap();
    suite.finish().await;
}

/// The second factor: enrolled, confirmed, asked for, replayed, replaced by a recovery code, and turned off.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_factor_is_asked_for() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let other = ann.again().await;
    let enrolled = ann.tell(&format!("{FACTOR}/EnrollTotp"), json!({})).await;
    assert!(text(&enrolled["uri"]).starts_with("otpauth://totp/Tenantry:ann@example.com?secret="));
    let secret = data_encoding::BASE32_NOPAD.decode(text(&enrolled["secret"]).as_bytes()).unwrap();
    let code = || {
        let totp = Builder::new().with_secret(secret.clone()).build_noncompliant();
        totp.generate(suite.clock.now().unix_timestamp().try_into().unwrap()).to_string()
    };
    let later = || suite.clock.advance(chassis::clock::Duration::seconds(60));
    let give = |code: &str| json!({ "code": code });
    let confirm = format!("{FACTOR}/ConfirmTotp");
    assert_eq!(ann.refused(&confirm, give("000000")).await, "INVALID_CODE");
    let confirmed = ann.tell(&confirm, give(&code())).await;
    let recovery: Vec<_> =
        confirmed["recoveryCodes"].as_array().unwrap().iter().map(text).collect();
    assert_eq!(recovery.len(), 10);
    assert_eq!(me(&other).await.unwrap_err(), "INVALID_CREDENTIAL");

    let sign_in = async || {
        let method = format!("{SESSIONS}/Login");
        let answer = suite.client.ask(&method, login("ann@example.com", PASSWORD)).await.unwrap();
        assert_eq!(answer["token"], Value::Null, "no session before the second factor");
        text(&answer["challenge"])
    };
    let complete = async |challenge: &str, code: &str| {
        let complete = json!({ "challenge": challenge, "code": code });
        suite.client.ask(&format!("{SESSIONS}/CompleteLogin"), complete).await
    };
    let challenge = sign_in().await;
    let used = complete(&challenge, &code()).await.unwrap_err();
    assert_eq!(used.reason, "INVALID_CODE", "no code works twice");
    later();
    let session = complete(&challenge, &code()).await.unwrap();
    let ann = ann.with_token(&text(&session["token"]));
    assert_eq!(me(&ann).await.unwrap()["user"]["totpEnabled"], true);
    later();
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
    assert_eq!(complete(&challenge, &code()).await.unwrap_err().reason, "INVALID_CODE", "too late");

    // What cannot be undone takes a fresh proof: password and code.
    let disable = format!("{FACTOR}/DisableTotp");
    later();
    assert_eq!(ann.refused(&disable, give(&code())).await, "FRESH_LOGIN_REQUIRED");
    let again = json!({ "password": PASSWORD, "code": code() });
    ann.tell(&format!("{SESSIONS}/Reauthenticate"), again).await;
    later();
    let codes = ann.tell(&format!("{FACTOR}/RegenerateRecoveryCodes"), give(&code())).await;
    assert_eq!(codes["recoveryCodes"].as_array().unwrap().len(), 10);
    later();
    ann.tell(&disable, give(&code())).await;
    ann.again().await;
    let stored = "select count(*) from identity.account where totp_secret is not null";
    assert_eq!(suite.count(stored).await, 0);
    suite.finish().await;
}

/// 1.8, I-24: an account that owns stays; one that goes leaves everywhere, and nothing of it signs in again.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_account_is_nowhere() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let delete = format!("{USERS}/DeleteAccount");
    let confirm = |who: &Person| json!({ "confirmEmail": who.email });
    let refusal = world.owner.ask(&delete, confirm(&world.owner)).await.unwrap_err();
    assert_eq!(refusal.reason, "ACCOUNT_OWNS_ORGANIZATIONS");
    assert_eq!(world.viewer.refused(&delete, confirm(&world.owner)).await, "CONFIRMATION_MISMATCH");
    let other = world.viewer.again().await;
    world.viewer.tell(&delete, confirm(&world.viewer)).await;
    for session in [&world.viewer, &other] {
        assert_eq!(me(session).await.unwrap_err(), "INVALID_CREDENTIAL");
    }
    let method = format!("{SESSIONS}/Login");
    let back = suite.client.ask(&method, login(&world.viewer.email, PASSWORD)).await;
    assert_eq!(back.unwrap_err().reason, "INVALID_LOGIN");
    let members =
        world.owner.tell("identity.v1.MemberService/ListMembers", world.here(json!({}))).await;
    assert_eq!(members["members"].as_array().unwrap().len(), 3);
    let left = "select count(*) from identity.account where email like 'viewer%' or display_name = 'viewer'";
    assert_eq!(suite.count(left).await, 0);
    // The address is free for whoever has it.
    let register = json!({ "email": "viewer@example.com", "password": PASSWORD });
    suite.client.ask(&format!("{USERS}/Register"), register).await.unwrap();
    suite.client.ask(&method, login("viewer@example.com", PASSWORD)).await.unwrap();
    suite.finish().await;
}

/// I-06: guesses are slowed down by account and by source, and the person at their own machine still
/// signs in.
#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slow_and_locks_nobody_out() {
    let suite = Suite::start_with(Options { sign_ins_max: 40, ..Options::default() }).await;
    let ann = suite.person("ann@example.com").await;
    let method = format!("{SESSIONS}/Login");
    let guess = async |email: &str| {
        suite.client.ask(&method, login(email, "not the password")).await.unwrap_err().reason
    };
    // A place that the account has never signed in from, as far as it is known.
    sqlx::query("update identity.session set address = '192.0.2.7'")
        .execute(&suite.pool)
        .await
        .unwrap();
    let mut reasons = vec![];
    for _ in 0..7 {
        reasons.push(guess("ann@example.com").await);
    }
    assert_eq!(reasons.iter().filter(|it| *it == "INVALID_LOGIN").count(), 4, "one was her own");
    assert_eq!(reasons.last().unwrap(), "RATE_LIMITED");
    let mut unknown = vec![];
    for _ in 0..7 {
        unknown.push(guess("nobody@example.com").await);
    }
    assert_eq!(unknown.iter().filter(|it| *it == "INVALID_LOGIN").count(), 5);
    // Ann signs in from where she always does, while others guess.
    sqlx::query("update identity.session set address = '127.0.0.1'")
        .execute(&suite.pool)
        .await
        .unwrap();
    ann.again().await;
    // The source is counted over all accounts.
    let mut last = String::new();
    for i in 0..40 {
        last = guess(&format!("user{i}@example.com")).await;
    }
    assert_eq!(last, "RATE_LIMITED");
    suite.clock.advance(chassis::clock::Duration::minutes(2));
    assert_eq!(guess("user1@example.com").await, "INVALID_LOGIN");
    suite.finish().await;
}

/// I-02: a hash of an older making is made anew when its password is at hand, and only then.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_hash_is_made_anew_at_sign_in() {
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
    let wrong = suite.client.ask(&format!("{SESSIONS}/Login"), login("ann@example.com", NEW)).await;
    assert_eq!(wrong.unwrap_err().reason, "INVALID_LOGIN");
    assert_eq!(stored().await, old);
    ann.again().await;
    assert!(stored().await.starts_with("p1$argon2id$v=19$m=19456,t=2,p=1$"));
    ann.again().await;
    suite.finish().await;
}

/// I-04: a wrong password and an unknown address are answered alike, word for word. That they are also the
/// same work is seen where passwords are compared; how long both take is measured by the benchmark `logins`.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_does_not_tell_who_has_an_account() {
    let suite = Suite::start().await;
    suite.person("ann@example.com").await;
    let mut answers = std::collections::BTreeSet::new();
    for email in ["ann@example.com", "eve@example.com"] {
        let method = format!("{SESSIONS}/Login");
        let refusal = suite.client.ask(&method, login(email, "not the password")).await;
        answers.insert(format!("{}", refusal.unwrap_err()));
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    suite.finish().await;
}
