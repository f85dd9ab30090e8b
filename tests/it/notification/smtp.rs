//! Delivery over SMTP: a server that is down, closes connections, or rejects an address.

use chassis::clock::Duration;
use serde_json::{Value, json};
use sqlx::{PgPool, postgres::PgConnectOptions};
use tenantry::client::Client;
use testkit::{Options, PASSWORD, Person, Process, ReservedPort, Smtp, Suite, eventually};

use crate::{
    invitation::invitation_service::CREATE,
    notification::notification_service::wait_for_notifications, support::world::text,
};

/// Registers a person whose mails go through a mail server.
pub(crate) async fn register(client: &Client, smtp: &Smtp, email: &str) -> Person {
    let client = client.clone();
    let person =
        Person { client, user_id: String::new(), email: email.to_owned(), token: String::new() };
    let register = json!({ "email": email, "password": PASSWORD });
    person.call_ok("identity.v1.UserService/Register", register.clone()).await;
    let to = format!("To: {email}");
    let first = || smtp.mails().into_iter().find(|it| it.contains(&to));
    let mail = eventually("the mail", async || first()).await.replace("=\r\n", "");
    let token = mail.split("/verify/").nth(1).and_then(|it| it.split_whitespace().next()).unwrap();
    let verify = json!({ "token": token, "password": PASSWORD });
    let verified = person.call_ok("identity.v1.UserService/VerifyEmail", verify).await;
    let login = person.call_ok("identity.v1.SessionService/Login", register).await;
    let person = person.with_token(&text(&login["token"]));
    Person { user_id: text(&verified["user"]["id"]), ..person }
}

/// Value of a header of a mail.
fn header<'a>(mail: &'a str, name: &str) -> &'a str {
    let start = format!("{name}: ");
    mail.lines().find_map(|it| it.strip_prefix(&start)).unwrap_or_default()
}

/// NO-12: while the mail server is down no call fails, and no mail is lost.
#[tokio::test(flavor = "multi_thread")]
async fn no_mail_is_lost_while_the_server_is_down() {
    let mut smtp = Smtp::start().await;
    let smtp_url = Some(smtp.url());
    let suite = Suite::start_with(Options { smtp_url, ..Options::default() }).await;
    let ann = register(&suite.client, &smtp, "ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    smtp.stop().await;
    for number in 0..5 {
        let email = format!("guest{number}@example.com");
        ann.call_ok(CREATE, json!({ "orgId": org, "email": email, "role": "ORG_ROLE_VIEWER" }))
            .await;
    }
    let failed = "select count(*) from invitation.mail where last_error is not null";
    eventually("failures", async || (suite.count(failed).await == 5).then_some(())).await;
    smtp.restart().await;
    suite.clock.advance(Duration::seconds(61));
    let received = || smtp.mails().iter().filter(|it| it.contains("To: guest")).count();
    eventually("five mails", async || (received() == 5).then_some(())).await;
    let mail = smtp.mails().into_iter().find(|it| it.contains("To: guest0")).unwrap();
    assert!(mail.contains("multipart/alternative") && mail.contains("text/html"), "{mail}");
    suite.finish().await;
    assert_eq!(received(), 5, "each mail once");
}

/// A mail that the server has accepted before a crash is sent again with the same Message-ID.
#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_is_sent_twice_keeps_its_message_id() {
    let (smtp, mut accepted) = Smtp::dropping_acks().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let reserved = ReservedPort::new();
    let port = reserved.number();
    let arguments = [
        format!("--data-dir={}", folder.path().display()),
        format!("--listen=127.0.0.1:{port}"),
        format!("--smtp-url={}", smtp.url()),
    ];
    let log = folder.path().join("log");
    let suite = Process::start("tenantry", &arguments, &log);
    let endpoint = format!("http://127.0.0.1:{port}");
    let connect = async || Client::connect(&endpoint, None).await.ok();
    let client = eventually("the suite", connect).await;
    let register = json!({ "email": "ann@example.com", "password": PASSWORD });
    client.call_json("identity.v1.UserService/Register", register).await.unwrap();
    accepted.recv().await.unwrap();
    suite.kill();

    let suite = Process::start("tenantry", &arguments, &log);
    eventually("the suite", connect).await;
    // The next attempt is due in half a minute.
    let database = PgConnectOptions::new_without_pgpass().socket(folder.path().join("run"));
    let database = database.username("tenantry").database("tenantry");
    let pool = PgPool::connect_with(database).await.unwrap();
    sqlx::query("update identity.mail set due_at = now()").execute(&pool).await.unwrap();
    accepted.recv().await.unwrap();
    let ids: Vec<_> = smtp.mails().iter().map(|it| header(it, "Message-ID").to_owned()).collect();
    assert!(!ids[0].is_empty() && ids[0] == ids[1], "{ids:?}");
    pool.close().await;
    suite.kill();
}

/// The inviter is notified of a rejected mail, and the invitation stays valid; unsubscribed addresses and
/// addresses with too many mails a day get none.
#[tokio::test(flavor = "multi_thread")]
async fn bounced_unsubscribed_and_flooded_addresses_get_no_mail() {
    let smtp = Smtp::rejecting("bounce@example.com").await;
    let suite = Suite::start_with(Options {
        smtp_url: Some(smtp.url()),
        invitation_mails_max: 2,
        ..Options::default()
    })
    .await;
    let mailed =
        |to: &str| smtp.mails().iter().filter(|it| it.contains(&format!("To: {to}"))).count();
    let ann = register(&suite.client, &smtp, "ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    let invite = async |org: &str, email: &str| {
        let create = json!({ "orgId": org, "email": email, "role": "ORG_ROLE_VIEWER" });
        ann.call_ok(CREATE, create).await["invitation"].clone()
    };
    let state = async |invitation: &Value| {
        let get = json!({ "orgId": invitation["orgId"], "invitationId": invitation["id"] });
        let got = ann.call_ok("invitation.v1.InvitationService/GetInvitation", get).await;
        (text(&got["invitation"]["mailState"]), text(&got["invitation"]["state"]))
    };
    let wait_for_mail_state = async |invitation: &Value, expected: &str| {
        eventually(expected, async || (state(invitation).await.0 == expected).then_some(())).await;
    };
    let bounced = invite(&org, "bounce@example.com").await;
    wait_for_mail_state(&bounced, "MAIL_STATE_BOUNCED").await;
    assert_eq!(state(&bounced).await.1, "INVITATION_STATE_PENDING");
    wait_for_notifications(&ann, "invitation.bounced", 1).await;

    // Two mails a day per address, over all inviters.
    let second = ann.create_organization("second").await.unwrap();
    let third = ann.create_organization("third").await.unwrap();
    wait_for_mail_state(&invite(&org, "bob@example.com").await, "MAIL_STATE_SENT").await;
    wait_for_mail_state(&invite(&second, "BOB@example.com").await, "MAIL_STATE_SENT").await;
    wait_for_mail_state(&invite(&third, "bob@example.com").await, "MAIL_STATE_SUPPRESSED").await;

    // Unsubscription by a link in the mail.
    wait_for_mail_state(&invite(&org, "cem@example.com").await, "MAIL_STATE_SENT").await;
    let mail =
        smtp.mails().into_iter().find(|it| it.contains("To: cem@")).unwrap().replace("=\r\n", "");
    let head = mail.split("\r\n\r\n").next().unwrap().replace("\r\n ", "");
    let link =
        head.split("List-Unsubscribe: <").nth(1).unwrap().split('>').next().unwrap().to_owned();
    let link = link.replace("localhost", "127.0.0.1");
    let page = reqwest::get(&link).await.unwrap();
    assert!(page.text().await.unwrap().contains("<button>"), "GET changes nothing");
    reqwest::Client::new().post(&link).form(&[("x", "y")]).send().await.unwrap();
    wait_for_mail_state(&invite(&second, "cem@example.com").await, "MAIL_STATE_SUPPRESSED").await;
    assert_eq!((mailed("bob@"), mailed("BOB@"), mailed("cem@")), (1, 1, 1));
    suite.finish().await;
}
