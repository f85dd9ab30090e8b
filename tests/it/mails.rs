//! Mails over a real mail server: that is away, that cuts connections, that refuses.

use chassis::clock::Duration;
use serde_json::{Value, json};
use sqlx::{PgPool, postgres::PgConnectOptions};
use testkit::{Options, PASSWORD, Person, Process, Smtp, Suite, eventually};

use crate::{invitation_life::CREATE, notifications::until_told, world::text};

/// A new person, whose mails go through a mail server.
pub(crate) async fn join(suite: &Suite, smtp: &Smtp, email: &str) -> Person {
    let client = suite.client.clone();
    let (user_id, token) = (String::new(), String::new());
    let nobody = Person { client, user_id, email: email.to_owned(), token };
    let register = json!({ "email": email, "password": PASSWORD });
    nobody.tell("identity.v1.UserService/Register", register.clone()).await;
    let to = format!("To: {email}");
    let first = || smtp.mails().into_iter().find(|it| it.contains(&to));
    let mail = eventually("the mail", async || first()).await.replace("=\r\n", "");
    let token = mail.split("/verify/").nth(1).and_then(|it| it.split_whitespace().next()).unwrap();
    nobody.tell("identity.v1.UserService/VerifyEmail", json!({ "token": token })).await;
    let login = nobody.tell("identity.v1.SessionService/Login", register).await;
    nobody.with_token(&text(&login["token"]))
}

/// A line of a mail's head.
fn header<'a>(mail: &'a str, name: &str) -> &'a str {
    let start = format!("{name}: ");
    mail.lines().find_map(|it| it.strip_prefix(&start)).unwrap_or_default()
}

/// NO-12: a mail server that is away for a minute fails no call and loses no mail.
#[tokio::test(flavor = "multi_thread")]
async fn a_mail_server_that_is_away_loses_nothing() {
    let mut smtp = Smtp::start().await;
    let smtp_url = Some(smtp.url());
    let suite = Suite::start_with(Options { smtp_url, ..Options::default() }).await;
    let ann = join(&suite, &smtp, "ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    smtp.go().await;
    for number in 0..5 {
        let email = format!("guest{number}@example.com");
        ann.tell(CREATE, json!({ "orgId": org, "email": email, "role": "ORG_ROLE_VIEWER" })).await;
    }
    let failed = "select count(*) from invitation.mail where last_error is not null";
    eventually("failures", async || (suite.count(failed).await == 5).then_some(())).await;
    smtp.come_back().await;
    suite.clock.advance(Duration::seconds(61));
    let arrived = || smtp.mails().iter().filter(|it| it.contains("To: guest")).count();
    eventually("five mails", async || (arrived() == 5).then_some(())).await;
    let mail = smtp.mails().into_iter().find(|it| it.contains("To: guest0")).unwrap();
    assert!(mail.contains("multipart/alternative") && mail.contains("text/html"), "{mail}");
    suite.finish().await;
    assert_eq!(arrived(), 5, "each once");
}

/// N-11: killed after the server took a mail and before that was written down: the mail comes again, and its
/// Message-ID says that it is the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_comes_twice_says_that_it_is_the_same() {
    let (smtp, mut taken) = Smtp::cutting().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let arguments = [
        format!("--data-dir={}", folder.path().display()),
        format!("--listen=127.0.0.1:{port}"),
        format!("--smtp-url={}", smtp.url()),
    ];
    let log = folder.path().join("log");
    let suite = Process::start("tenantry", &arguments, &log);
    let endpoint = format!("http://127.0.0.1:{port}");
    let there = async || tenantry::client::Client::connect(&endpoint, None).await.ok();
    let client = eventually("the suite", there).await;
    let register = json!({ "email": "ann@example.com", "password": PASSWORD });
    client.ask("identity.v1.UserService/Register", register).await.unwrap();
    taken.recv().await.unwrap();
    suite.kill();

    let suite = Process::start("tenantry", &arguments, &log);
    eventually("the suite", there).await;
    // The next try would be in half a minute.
    let database = PgConnectOptions::new_without_pgpass().socket(folder.path().join("run"));
    let database = database.username("tenantry").database("tenantry");
    let pool = PgPool::connect_with(database).await.unwrap();
    sqlx::query("update identity.mail set due_at = now()").execute(&pool).await.unwrap();
    taken.recv().await.unwrap();
    let ids: Vec<_> = smtp.mails().iter().map(|it| header(it, "Message-ID").to_owned()).collect();
    assert!(!ids[0].is_empty() && ids[0] == ids[1], "{ids:?}");
    pool.close().await;
    suite.kill();
}

/// N-10, 3.6: a mail that is refused for good is told to the inviter, and the invitation still works; who
/// wants no invitations gets none by mail; nobody gets more than a few a day.
#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_spared() {
    let smtp = Smtp::refusing("gone@example.com").await;
    let suite = Suite::start_with(Options {
        smtp_url: Some(smtp.url()),
        invitation_mails_max: 2,
        ..Options::default()
    })
    .await;
    let mailed =
        |to: &str| smtp.mails().iter().filter(|it| it.contains(&format!("To: {to}"))).count();
    let ann = join(&suite, &smtp, "ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    let invite = async |org: &str, email: &str| {
        let create = json!({ "orgId": org, "email": email, "role": "ORG_ROLE_VIEWER" });
        ann.tell(CREATE, create).await["invitation"].clone()
    };
    let state = async |it: &Value| {
        let get = json!({ "orgId": it["orgId"], "invitationId": it["id"] });
        let got = ann.tell("invitation.v1.InvitationService/GetInvitation", get).await;
        (text(&got["invitation"]["mailState"]), text(&got["invitation"]["state"]))
    };
    let until = async |it: &Value, expected: &str| {
        eventually(expected, async || (state(it).await.0 == expected).then_some(())).await;
    };
    let bounced = invite(&org, "gone@example.com").await;
    until(&bounced, "MAIL_STATE_BOUNCED").await;
    assert_eq!(state(&bounced).await.1, "INVITATION_STATE_PENDING");
    until_told(&ann, "invitation.bounced", 1).await;

    // Two a day to one address, whoever invites.
    let second = ann.create_organization("second").await.unwrap();
    let third = ann.create_organization("third").await.unwrap();
    until(&invite(&org, "bob@example.com").await, "MAIL_STATE_SENT").await;
    until(&invite(&second, "BOB@example.com").await, "MAIL_STATE_SENT").await;
    until(&invite(&third, "bob@example.com").await, "MAIL_STATE_SUPPRESSED").await;

    // No more, by one click in the mail.
    until(&invite(&org, "cem@example.com").await, "MAIL_STATE_SENT").await;
    let mail =
        smtp.mails().into_iter().find(|it| it.contains("To: cem@")).unwrap().replace("=\r\n", "");
    let head = mail.split("\r\n\r\n").next().unwrap().replace("\r\n ", "");
    let link =
        head.split("List-Unsubscribe: <").nth(1).unwrap().split('>').next().unwrap().to_owned();
    let link = link.replace("localhost", "127.0.0.1");
    let seen = reqwest::get(&link).await.unwrap();
    assert!(seen.text().await.unwrap().contains("<button>"), "looking changes nothing");
    reqwest::Client::new().post(&link).form(&[("x", "y")]).send().await.unwrap();
    until(&invite(&second, "cem@example.com").await, "MAIL_STATE_SUPPRESSED").await;
    assert_eq!((mailed("bob@"), mailed("BOB@"), mailed("cem@")), (1, 1, 1));
    suite.finish().await;
}
