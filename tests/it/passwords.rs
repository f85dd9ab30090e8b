//! Credentials under attack: floods of forged links, races with a reset of the password, guesses of codes on
//! several replicas, and accounts that claim an address of somebody else.

use serde_json::{Value, json};
use testkit::{Nats, Options, PASSWORD, Person, Suite, eventually};
use tokio::task::{JoinHandle, spawn};
use totp_rs::Builder;

use crate::world::text;

const USERS: &str = "identity.v1.UserService";
const SESSIONS: &str = "identity.v1.SessionService";
const FACTOR: &str = "identity.v1.SecondFactorService";
const NEW: &str = "a password of another kind";

/// A link as the suite writes it, which it never wrote.
fn forged_link() -> String {
    let link = chassis::token::Token::random(chassis::id::new());
    secrecy::ExposeSecret::expose_secret(&link.reveal(chassis::token::Kind::Reset)).to_owned()
}

/// The mailed link that sets a new password.
async fn reset_link(suite: &Suite, email: &str) -> String {
    let request = format!("{USERS}/RequestPasswordReset");
    suite.client.ask(&request, json!({ "email": email })).await.unwrap();
    suite.mailbox.token(email, "tny_rst_").await.unwrap()
}

/// A call that runs at the side.
fn call(suite: &Suite, method: String, question: Value) -> JoinHandle<Result<Value, String>> {
    let client = suite.client.clone();
    spawn(async move { client.ask(&method, question).await.map_err(|it| it.reason) })
}

/// Waits until so many connections wait for a lock.
async fn waiting(suite: &Suite, count: i64) {
    let blocked = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'
                   and datname = current_database()";
    eventually("calls that wait", async || (suite.count(blocked).await == count).then_some(()))
        .await;
}

/// Holds the row of every account.
async fn hold_accounts(suite: &Suite) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut held = suite.pool.begin().await.unwrap();
    sqlx::query("select id from identity.account for update").fetch_all(&mut *held).await.unwrap();
    held
}

/// The second factor of a person, switched on.
pub(crate) struct Factor<'s> {
    suite: &'s Suite,
    secret: Vec<u8>,
}

impl<'s> Factor<'s> {
    pub(crate) async fn enable(suite: &'s Suite, person: &Person) -> Self {
        let enrolled = person.tell(&format!("{FACTOR}/EnrollTotp"), json!({})).await;
        let secret = text(&enrolled["secret"]);
        let secret = data_encoding::BASE32_NOPAD.decode(secret.as_bytes()).unwrap();
        let factor = Self { suite, secret };
        person.tell(&format!("{FACTOR}/ConfirmTotp"), json!({ "code": factor.code() })).await;
        suite.clock.advance(chassis::clock::Duration::seconds(90));
        factor
    }

    /// The code of this moment.
    fn code(&self) -> String {
        let totp = Builder::new().with_secret(self.secret.clone()).build_noncompliant();
        totp.generate(self.suite.clock.now().unix_timestamp().try_into().unwrap()).to_string()
    }

    /// A code that is wrong at this moment.
    fn wrong_code(&self) -> String {
        let right: u32 = self.code().parse().unwrap();
        format!("{:06}", (right + 500_000) % 1_000_000)
    }
}

/// A login that asks for a code.
async fn challenge(suite: &Suite, email: &str) -> String {
    let login = json!({ "email": email, "password": PASSWORD });
    let answer = suite.client.ask(&format!("{SESSIONS}/Login"), login).await.unwrap();
    text(&answer["challenge"])
}

/// I-06: a flood of forged links is refused before a password is hashed, so it takes no place in the queue
/// of those who sign in.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_forged_reset_links_keeps_nobody_from_signing_in() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let reset = || json!({ "token": forged_link(), "newPassword": NEW });
    let forged: Vec<_> =
        (0..100).map(|_| call(&suite, format!("{USERS}/ResetPassword"), reset())).collect();
    ann.again().await;
    for answer in forged {
        assert_eq!(answer.await.unwrap().unwrap_err(), "VERIFICATION_INVALID");
    }
    suite.finish().await;
}

/// Strangers who open accounts take half of the places at most.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_registrations_keeps_nobody_from_signing_in() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let register = |i| json!({ "email": format!("guest{i}@example.com"), "password": PASSWORD });
    let flood: Vec<_> =
        (0..100).map(|i| call(&suite, format!("{USERS}/Register"), register(i))).collect();
    let login = json!({ "email": ann.email, "password": PASSWORD });
    // As long as the flood lasts, which is when at least one call has no answer.
    let mut sign_ins = 0;
    while flood.iter().any(|it| !it.is_finished()) {
        suite.client.ask(&format!("{SESSIONS}/Login"), login.clone()).await.unwrap();
        sign_ins += 1;
    }
    assert!(sign_ins > 0);
    let mut refused = 0;
    for answer in flood {
        refused += i32::from(answer.await.unwrap().is_err_and(|it| it == "RATE_LIMITED"));
    }
    assert!(refused > 0, "the flood was larger than the queue");
    suite.finish().await;
}

/// I-16: what was proven with the old password dies with it. Each call has compared the old password before
/// the reset commits, and goes on after.
#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_overlaps_a_reset_opens_nothing() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let link = reset_link(&suite, &ann.email).await;
    let held = hold_accounts(&suite).await;
    let reset = json!({ "token": link, "newPassword": NEW });
    let reset = call(&suite, format!("{USERS}/ResetPassword"), reset);
    waiting(&suite, 1).await;
    let login = json!({ "email": ann.email, "password": PASSWORD });
    let login = call(&suite, format!("{SESSIONS}/Login"), login);
    waiting(&suite, 2).await;
    held.rollback().await.unwrap();
    reset.await.unwrap().unwrap();
    assert_eq!(login.await.unwrap().unwrap_err(), "INVALID_LOGIN");
    let open = "select count(*) from identity.session where revoked_at is null";
    assert_eq!(suite.count(open).await, 0);
    suite.finish().await;
}

/// The same for calls of a session that the reset ends: they change nothing after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_a_reset_ends_changes_nothing_after_it() {
    let suite = Suite::start().await;
    let password = json!({ "currentPassword": PASSWORD, "newPassword": "yet another password" });
    let move_away = json!({ "password": PASSWORD, "newEmail": "eve@example.com" });
    let calls = [
        (format!("{USERS}/ChangePassword"), password),
        (format!("{USERS}/RequestEmailChange"), move_away),
        (
            format!("{USERS}/UpdateProfile"),
            json!({ "displayName": "Eve", "updateMask": "displayName" }),
        ),
        (format!("{FACTOR}/EnrollTotp"), json!({})),
        (format!("{SESSIONS}/RevokeOtherSessions"), json!({})),
        (format!("{USERS}/DeleteAccount"), json!({ "confirmEmail": "ann5@example.com" })),
    ];
    for (i, (method, question)) in calls.into_iter().enumerate() {
        let ann = suite.person(&format!("ann{i}@example.com")).await;
        let link = reset_link(&suite, &ann.email).await;
        let held = hold_accounts(&suite).await;
        let reset = json!({ "token": link, "newPassword": NEW });
        let reset = call(&suite, format!("{USERS}/ResetPassword"), reset);
        waiting(&suite, 1).await;
        let name = method.clone();
        let late = spawn(async move { ann.ask(&method, question).await });
        waiting(&suite, 2).await;
        held.rollback().await.unwrap();
        reset.await.unwrap().unwrap();
        assert_eq!(late.await.unwrap().unwrap_err().reason, "INVALID_CREDENTIAL", "{name}");
    }
    suite.finish().await;
}

/// I-02, I-16: a hash that is made anew at sign-in does not bring the old password back.
#[tokio::test(flavor = "multi_thread")]
async fn a_rehash_that_overlaps_a_reset_does_not_bring_the_old_password_back() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let link = reset_link(&suite, &ann.email).await;
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
    let held = hold_accounts(&suite).await;
    let reset = json!({ "token": link, "newPassword": NEW });
    let reset = call(&suite, format!("{USERS}/ResetPassword"), reset);
    waiting(&suite, 1).await;
    let login = |password: &str| json!({ "email": "ann@example.com", "password": password });
    let late = call(&suite, format!("{SESSIONS}/Login"), login(PASSWORD));
    waiting(&suite, 2).await;
    held.rollback().await.unwrap();
    reset.await.unwrap().unwrap();
    assert_eq!(late.await.unwrap().unwrap_err(), "INVALID_LOGIN");
    suite.client.ask(&format!("{SESSIONS}/Login"), login(NEW)).await.unwrap();
    suite.finish().await;
}

/// I-16: a login that waits for its code is of the password that it began with.
#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_ends_with_the_password_that_it_began_with() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let factor = Factor::enable(&suite, &ann).await;
    let begun = challenge(&suite, &ann.email).await;
    let reset = json!({ "token": reset_link(&suite, &ann.email).await, "newPassword": NEW });
    suite.client.ask(&format!("{USERS}/ResetPassword"), reset).await.unwrap();
    let complete = json!({ "challenge": begun, "code": factor.code() });
    let answer = suite.client.ask(&format!("{SESSIONS}/CompleteLogin"), complete).await;
    assert_eq!(answer.unwrap_err().reason, "INVALID_CODE");
    suite.finish().await;
}

/// Five wrong codes end a login, wherever they are tried, and however many arrive at once.
#[tokio::test(flavor = "multi_thread")]
async fn five_wrong_codes_end_a_login_on_all_replicas() {
    let nats = Nats::start();
    let options = Options { nats_url: Some(nats.url()), ..Options::default() };
    let suite = Suite::start_with(options).await;
    let ann = suite.person("ann@example.com").await;
    let factor = Factor::enable(&suite, &ann).await;
    let replica = suite.replica().await;
    let begun = challenge(&suite, &ann.email).await;
    let complete = |code: String| json!({ "challenge": begun, "code": code });
    let method = format!("{SESSIONS}/CompleteLogin");
    let mut guesses = vec![];
    for i in 0..5 {
        let place = if i % 2 == 0 { &suite } else { &replica };
        guesses.push(call(place, method.clone(), complete(factor.wrong_code())));
    }
    for guess in guesses {
        assert_eq!(guess.await.unwrap().unwrap_err(), "INVALID_CODE");
    }
    let late = replica.client.ask(&method, complete(factor.code())).await.unwrap_err();
    assert_eq!(late.reason, "INVALID_CODE", "the right code is too late");
    // The person begins anew.
    let begun = challenge(&replica, &ann.email).await;
    let complete = json!({ "challenge": begun, "code": factor.code() });
    replica.client.ask(&method, complete).await.unwrap();
    replica.leave().await;
    suite.finish().await;
}

/// I-05: a person who moves to another address does not learn whether it has an account: not by the first
/// answer, not by the second, and not by what the log says; only its mailbox is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_to_an_address_does_not_tell_whether_it_has_an_account() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    suite.person("bob@example.com").await;
    let request = format!("{USERS}/RequestEmailChange");
    let mut answers = vec![];
    for email in ["bob@example.com", "nobody@example.com"] {
        let to = json!({ "newEmail": email, "password": PASSWORD });
        let first = ann.ask(&request, to.clone()).await.map_err(|it| it.reason);
        let second = ann.ask(&request, to).await.map_err(|it| it.reason);
        answers.push((first, second));
        suite.clock.advance(chassis::clock::Duration::minutes(2));
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0].1, Err("RATE_LIMITED".to_owned()));
    suite.mailbox.token("nobody@example.com", "tny_ver_").await.unwrap();
    eventually("the notice", async || {
        let mails = mails_to(&suite, "bob@example.com");
        mails.iter().any(|it| it.contains("has an account already")).then_some(())
    })
    .await;
    let told = mails_to(&suite, "bob@example.com").pop().unwrap();
    assert!(!told.contains("tny_") && !told.contains("ann"), "{told}");
    suite.finish().await;
}

/// The mails to an address, oldest first.
fn mails_to(suite: &Suite, email: &str) -> Vec<String> {
    let folder = std::fs::read_dir(suite.folder().join("mail")).into_iter().flatten().flatten();
    let mut paths: Vec<_> = folder.map(|it| it.path()).collect();
    paths.sort();
    let mails = paths.iter().filter_map(|it| std::fs::read_to_string(it).ok());
    let to = |it: &String| it.lines().any(|it| it.starts_with("To:") && it.contains(email));
    mails.filter(to).collect()
}

/// Whoever claims an address without its mailbox cannot lock out who has the mailbox.
#[tokio::test(flavor = "multi_thread")]
async fn an_unconfirmed_account_has_no_second_factor() {
    let suite = Suite::start().await;
    let register = json!({ "email": "ann@example.com", "password": "the password of eve" });
    suite.client.ask(&format!("{USERS}/Register"), register).await.unwrap();
    let login = |password: &str| json!({ "email": "ann@example.com", "password": password });
    let method = format!("{SESSIONS}/Login");
    let eve = suite.client.ask(&method, login("the password of eve")).await.unwrap();
    let eve = suite.client.with_token(&text(&eve["token"]));
    let enrolled = eve.ask(&format!("{FACTOR}/EnrollTotp"), json!({})).await;
    assert_eq!(enrolled.unwrap_err().reason, "EMAIL_NOT_VERIFIED");
    // Ann sets a password by mail, and is in.
    let reset = json!({ "token": reset_link(&suite, "ann@example.com").await, "newPassword": NEW });
    suite.client.ask(&format!("{USERS}/ResetPassword"), reset).await.unwrap();
    let ann = suite.client.ask(&method, login(NEW)).await.unwrap();
    assert!(text(&ann["token"]).starts_with("tny_ses_"), "{ann}");
    let left = eve.ask(&format!("{USERS}/GetMe"), json!({})).await;
    assert_eq!(left.unwrap_err().reason, "INVALID_CREDENTIAL");
    suite.finish().await;
}
