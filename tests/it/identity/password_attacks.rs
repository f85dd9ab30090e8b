//! Attacks on sign-in: floods of forged links, races with a password reset, guesses of codes on several
//! replicas, and accounts with an address of somebody else.

use chassis::FaultInjection;
use serde_json::{Value, json};
use testkit::{Nats, Options, PASSWORD, Person, Suite, eventually};
use tokio::task::{JoinHandle, spawn};
use totp_rs::Builder;

use crate::support::{sealed_values::require_sealed_values, world::text};

const USERS: &str = "identity.v1.UserService";
const SESSIONS: &str = "identity.v1.SessionService";
const FACTOR: &str = "identity.v1.SecondFactorService";
const NEW: &str = "a password of another kind";

/// A well-formed reset token that the suite has not issued.
fn forged_token() -> String {
    let token = chassis::token::Token::random(chassis::id::new());
    secrecy::ExposeSecret::expose_secret(&token.reveal(chassis::token::Kind::Reset)).to_owned()
}

/// Requests a password reset; returns the mailed token.
async fn reset_token(suite: &Suite, email: &str) -> String {
    let request = format!("{USERS}/RequestPasswordReset");
    suite.client.call_json(&request, json!({ "email": email })).await.unwrap();
    suite.mailbox.token(email, "tny_rst_").await.unwrap()
}

/// Starts a call in the background.
fn spawn_call(suite: &Suite, method: String, request: Value) -> JoinHandle<Result<Value, String>> {
    let client = suite.client.clone();
    spawn(async move { client.call_json(&method, request).await.map_err(|it| it.reason) })
}

/// Starts a suite whose calls wait for a lock for as long as a slow machine needs to hash passwords.
async fn start_with_long_lock_waits() -> Suite {
    let faults = FaultInjection { long_lock_waits: true, ..FaultInjection::default() };
    Suite::start_with(Options { faults, ..Options::default() }).await
}

/// Waits until `count` calls wait for the lock of an account.
async fn wait_for_blocked(suite: &Suite, count: i64) {
    eventually("blocked calls", async || {
        (suite.count_blocked(" account ").await == count).then_some(())
    })
    .await;
}

/// Locks the row of an account. The lock leaves statements alone that only refer to the account by a foreign
/// key, for example those of background tasks.
async fn lock_account(suite: &Suite, email: &str) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut lock = suite.pool.begin().await.unwrap();
    let row = "select id from identity.account where email = $1 for no key update";
    sqlx::query(row).bind(email).fetch_one(&mut *lock).await.unwrap();
    lock
}

/// The enabled TOTP factor of a person.
pub(crate) struct Totp<'s> {
    suite: &'s Suite,
    secret: Vec<u8>,
}

impl<'s> Totp<'s> {
    pub(crate) async fn enable(suite: &'s Suite, person: &Person) -> Self {
        let enrolled = person.call_ok(&format!("{FACTOR}/EnrollTotp"), json!({})).await;
        let secret = text(&enrolled["secret"]);
        let secret = data_encoding::BASE32_NOPAD.decode(secret.as_bytes()).unwrap();
        let factor = Self { suite, secret };
        person.call_ok(&format!("{FACTOR}/ConfirmTotp"), json!({ "code": factor.code() })).await;
        suite.clock.advance(chassis::clock::Duration::seconds(90));
        factor
    }

    /// The current code.
    fn code(&self) -> String {
        let totp = Builder::new().with_secret(self.secret.clone()).build_noncompliant();
        totp.generate(self.suite.clock.now().unix_timestamp().try_into().unwrap()).to_string()
    }

    /// A code other than the current one.
    fn wrong_code(&self) -> String {
        let right: u32 = self.code().parse().unwrap();
        format!("{:06}", (right + 500_000) % 1_000_000)
    }
}

/// Signs in with the password; returns the challenge for the code.
async fn start_login(suite: &Suite, email: &str) -> String {
    let login = json!({ "email": email, "password": PASSWORD });
    let answer = suite.client.call_json(&format!("{SESSIONS}/Login"), login).await.unwrap();
    text(&answer["challenge"])
}

/// I-06: forged reset tokens are rejected before a password is hashed, so they take no slot of the hashing
/// queue.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_forged_reset_links_does_not_delay_sign_ins() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let reset = || json!({ "token": forged_token(), "newPassword": NEW });
    let forged: Vec<_> =
        (0..100).map(|_| spawn_call(&suite, format!("{USERS}/ResetPassword"), reset())).collect();
    ann.sign_in_again().await;
    for answer in forged {
        assert_eq!(answer.await.unwrap().unwrap_err(), "VERIFICATION_INVALID");
    }
    suite.finish().await;
}

/// Registrations take at most half of the slots of the hashing queue.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_registrations_does_not_delay_sign_ins() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let register = |i| json!({ "email": format!("guest{i}@example.com"), "password": PASSWORD });
    let flood: Vec<_> =
        (0..100).map(|i| spawn_call(&suite, format!("{USERS}/Register"), register(i))).collect();
    let login = json!({ "email": ann.email, "password": PASSWORD });
    // While at least one registration is pending.
    let mut sign_ins = 0;
    while flood.iter().any(|it| !it.is_finished()) {
        suite.client.call_json(&format!("{SESSIONS}/Login"), login.clone()).await.unwrap();
        sign_ins += 1;
    }
    assert!(sign_ins > 0);
    let mut refused = 0;
    for answer in flood {
        refused += i32::from(answer.await.unwrap().is_err_and(|it| it == "RATE_LIMITED"));
    }
    assert!(refused > 0, "the flood fits into the queue");
    suite.finish().await;
}

/// I-16: a sign-in that has checked the old password before the reset commits opens no session after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_overlaps_a_reset_opens_no_session() {
    let suite = start_with_long_lock_waits().await;
    let ann = suite.person("ann@example.com").await;
    let link = reset_token(&suite, &ann.email).await;
    let lock = lock_account(&suite, &ann.email).await;
    let reset = json!({ "token": link, "newPassword": NEW });
    let reset = spawn_call(&suite, format!("{USERS}/ResetPassword"), reset);
    wait_for_blocked(&suite, 1).await;
    let login = json!({ "email": ann.email, "password": PASSWORD });
    let login = spawn_call(&suite, format!("{SESSIONS}/Login"), login);
    wait_for_blocked(&suite, 2).await;
    lock.rollback().await.unwrap();
    reset.await.unwrap().unwrap();
    assert_eq!(login.await.unwrap().unwrap_err(), "INVALID_LOGIN");
    let open_sessions = "select count(*) from identity.session where revoked_at is null";
    assert_eq!(suite.count(open_sessions).await, 0);
    suite.finish().await;
}

/// I-16: a call of a session that the reset ends fails if it continues after the reset.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_ended_by_a_reset_changes_nothing_afterwards() {
    let suite = start_with_long_lock_waits().await;
    let password = json!({ "currentPassword": PASSWORD, "newPassword": "yet another password" });
    let change_email = json!({ "password": PASSWORD, "newEmail": "eve@example.com" });
    let calls = [
        (format!("{USERS}/ChangePassword"), password),
        (format!("{USERS}/RequestEmailChange"), change_email),
        (
            format!("{USERS}/UpdateProfile"),
            json!({ "displayName": "Eve", "updateMask": "displayName" }),
        ),
        (format!("{FACTOR}/EnrollTotp"), json!({})),
        (format!("{SESSIONS}/RevokeOtherSessions"), json!({})),
        (format!("{USERS}/DeleteAccount"), json!({ "confirmEmail": "ann5@example.com" })),
    ];
    for (i, (method, request)) in calls.into_iter().enumerate() {
        let ann = suite.person(&format!("ann{i}@example.com")).await;
        let link = reset_token(&suite, &ann.email).await;
        let lock = lock_account(&suite, &ann.email).await;
        let reset = json!({ "token": link, "newPassword": NEW });
        let reset = spawn_call(&suite, format!("{USERS}/ResetPassword"), reset);
        wait_for_blocked(&suite, 1).await;
        let name = method.clone();
        let late = spawn(async move { ann.call(&method, request).await });
        wait_for_blocked(&suite, 2).await;
        lock.rollback().await.unwrap();
        reset.await.unwrap().unwrap();
        assert_eq!(late.await.unwrap().unwrap_err().reason, "INVALID_CREDENTIAL", "{name}");
    }
    suite.finish().await;
}

/// I-02, I-16: the renewal of an outdated hash at sign-in does not overwrite a new password.
#[tokio::test(flavor = "multi_thread")]
async fn a_rehash_that_overlaps_a_reset_does_not_restore_the_old_password() {
    let suite = start_with_long_lock_waits().await;
    let ann = suite.person("ann@example.com").await;
    let link = reset_token(&suite, &ann.email).await;
    let params = argon2::Params::new(8, 1, 1, Some(32)).unwrap();
    let weak = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut hash = [0; 32];
    weak.hash_password_into(PASSWORD.as_bytes(), b"saltsaltsaltsalt", &mut hash).unwrap();
    let old = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$".to_owned();
    sqlx::query("update identity.account set password_hash = $1")
        .bind(old + &data_encoding::BASE64_NOPAD.encode(&hash))
        .execute(&suite.pool)
        .await
        .unwrap();
    let lock = lock_account(&suite, &ann.email).await;
    let reset = json!({ "token": link, "newPassword": NEW });
    let reset = spawn_call(&suite, format!("{USERS}/ResetPassword"), reset);
    wait_for_blocked(&suite, 1).await;
    let login = |password: &str| json!({ "email": "ann@example.com", "password": password });
    let late = spawn_call(&suite, format!("{SESSIONS}/Login"), login(PASSWORD));
    wait_for_blocked(&suite, 2).await;
    lock.rollback().await.unwrap();
    reset.await.unwrap().unwrap();
    assert_eq!(late.await.unwrap().unwrap_err(), "INVALID_LOGIN");
    suite.client.call_json(&format!("{SESSIONS}/Login"), login(NEW)).await.unwrap();
    suite.finish().await;
}

/// I-16: a login that waits for its code is invalid after a change of the password.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_challenge_ends_with_its_password() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let factor = Totp::enable(&suite, &ann).await;
    let challenge = start_login(&suite, &ann.email).await;
    let reset = json!({ "token": reset_token(&suite, &ann.email).await, "newPassword": NEW });
    suite.client.call_json(&format!("{USERS}/ResetPassword"), reset).await.unwrap();
    let complete = json!({ "challenge": challenge, "code": factor.code() });
    let answer = suite.client.call_json(&format!("{SESSIONS}/CompleteLogin"), complete).await;
    assert_eq!(answer.unwrap_err().reason, "INVALID_CODE");
    suite.finish().await;
}

/// Five wrong codes end a login, also if they arrive at several replicas at once.
#[tokio::test(flavor = "multi_thread")]
async fn five_wrong_codes_end_a_login_on_all_replicas() {
    let nats = Nats::start();
    let options = Options { nats_url: Some(nats.url()), ..Options::default() };
    let suite = Suite::start_with(options).await;
    let ann = suite.person("ann@example.com").await;
    let factor = Totp::enable(&suite, &ann).await;
    let replica = suite.replica().await;
    let challenge = start_login(&suite, &ann.email).await;
    let complete = |code: String| json!({ "challenge": challenge, "code": code });
    let method = format!("{SESSIONS}/CompleteLogin");
    let mut guesses = vec![];
    for i in 0..5 {
        let target = if i % 2 == 0 { &suite } else { &replica };
        guesses.push(spawn_call(target, method.clone(), complete(factor.wrong_code())));
    }
    for guess in guesses {
        assert_eq!(guess.await.unwrap().unwrap_err(), "INVALID_CODE");
    }
    // The limit of codes for the account has recovered.
    suite.clock.advance(chassis::clock::Duration::minutes(1));
    let late = replica.client.call_json(&method, complete(factor.code())).await.unwrap_err();
    assert_eq!(late.reason, "INVALID_CODE", "the login has ended");
    // A new login succeeds.
    let challenge = start_login(&replica, &ann.email).await;
    let complete = json!({ "challenge": challenge, "code": factor.code() });
    replica.client.call_json(&method, complete).await.unwrap();
    require_sealed_values(&suite, &["identity.account.totp_secret"]).await;
    replica.stop_replica().await;
    suite.finish().await;
}

/// I-05: a change of the address gets the same answers for an address with and without an account; only a
/// mail to that address reveals it.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_address_does_not_reveal_accounts() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    suite.person("bob@example.com").await;
    let request = format!("{USERS}/RequestEmailChange");
    let mut answers = vec![];
    for email in ["bob@example.com", "nobody@example.com"] {
        let change = json!({ "newEmail": email, "password": PASSWORD });
        let first = ann.call(&request, change.clone()).await.map_err(|it| it.reason);
        let second = ann.call(&request, change).await.map_err(|it| it.reason);
        answers.push((first, second));
        suite.clock.advance(chassis::clock::Duration::minutes(2));
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0].1, Err("RATE_LIMITED".to_owned()));
    suite.mailbox.token("nobody@example.com", "tny_ver_").await.unwrap();
    eventually("the notice", async || {
        let mails = mails_to(&suite, "bob@example.com");
        mails.iter().any(|it| it.contains("already has an account")).then_some(())
    })
    .await;
    let notice = mails_to(&suite, "bob@example.com").pop().unwrap();
    assert!(!notice.contains("tny_") && !notice.contains("ann"), "{notice}");
    suite.finish().await;
}

/// The mails to an address, oldest first.
fn mails_to(suite: &Suite, email: &str) -> Vec<String> {
    let folder = std::fs::read_dir(suite.data_dir().join("mail")).into_iter().flatten().flatten();
    let mut paths: Vec<_> = folder.map(|it| it.path()).collect();
    paths.sort();
    let mails = paths.iter().filter_map(|it| std::fs::read_to_string(it).ok());
    let is_to =
        |mail: &String| mail.lines().any(|line| line.starts_with("To:") && line.contains(email));
    mails.filter(is_to).collect()
}

/// An account with an unconfirmed address cannot enable a second factor, which would lock out the owner of
/// the mailbox.
#[tokio::test(flavor = "multi_thread")]
async fn an_unconfirmed_account_has_no_second_factor() {
    let suite = Suite::start().await;
    let register = json!({ "email": "ann@example.com", "password": "the password of eve" });
    suite.client.call_json(&format!("{USERS}/Register"), register).await.unwrap();
    let login = |password: &str| json!({ "email": "ann@example.com", "password": password });
    let method = format!("{SESSIONS}/Login");
    let eve = suite.client.call_json(&method, login("the password of eve")).await.unwrap();
    let eve = suite.client.with_token(&text(&eve["token"]));
    let enrolled = eve.call_json(&format!("{FACTOR}/EnrollTotp"), json!({})).await;
    assert_eq!(enrolled.unwrap_err().reason, "EMAIL_NOT_VERIFIED");
    // The owner of the mailbox resets the password and signs in.
    let reset =
        json!({ "token": reset_token(&suite, "ann@example.com").await, "newPassword": NEW });
    suite.client.call_json(&format!("{USERS}/ResetPassword"), reset).await.unwrap();
    let ann = suite.client.call_json(&method, login(NEW)).await.unwrap();
    assert!(text(&ann["token"]).starts_with("tny_ses_"), "{ann}");
    let refused = eve.call_json(&format!("{USERS}/GetMe"), json!({})).await;
    assert_eq!(refused.unwrap_err().reason, "INVALID_CREDENTIAL");
    suite.finish().await;
}
