//! Content of mails: text of people is no link, and links turn categories of mails off.

use api::notification as ntf;
use chassis::clock::Duration;
use serde_json::{Value, json};
use testkit::{Person, Suite, eventually};

use super::notification_service::wait_for_notifications;
use crate::support::world::{World, merge, text};

const PREFERENCES: &str = "notification.v1.NotificationService/GetNotificationPreferences";
const LIST: &str = "notification.v1.NotificationService/ListNotifications";

/// Mails to an address that the suite has written to files, as text.
fn mails(suite: &Suite, to: &str) -> Vec<String> {
    let files = std::fs::read_dir(suite.data_dir().join("mail")).into_iter().flatten().flatten();
    let texts = files.filter_map(|it| std::fs::read_to_string(it.path()).ok());
    let texts = texts.map(|it| it.replace("=\r\n", ""));
    texts.filter(|it| it.contains(&format!("To: {to}\r\n"))).collect()
}

/// Waits for a mail to an address that contains a text.
async fn wait_for_mail(suite: &Suite, to: &str, part: &str) -> String {
    let find = || mails(suite, to).into_iter().find(|it| it.contains(part));
    eventually(part, async || find()).await
}

/// Value of a header, unfolded.
fn header(mail: &str, name: &str) -> Option<String> {
    let (head, _) = mail.split_once("\r\n\r\n")?;
    let head = head.replace("\r\n ", "");
    let start = format!("{name}: ");
    head.lines().find_map(|it| it.strip_prefix(&start)).map(str::to_owned)
}

fn alert(world: &World, target: &str) -> ntf::ReportAlertRequest {
    ntf::ReportAlertRequest {
        org_id: world.org.clone(),
        kind: ntf::AlertKind::LowDisk.into(),
        target: target.to_owned(),
        target_name: target.to_owned(),
        severity: ntf::Severity::Critical.into(),
        ..Default::default()
    }
}

/// Sends the request of a mail program after a click on its button (RFC 8058).
async fn one_click(mail: &str) {
    assert_eq!(
        header(mail, "List-Unsubscribe-Post").as_deref(),
        Some("List-Unsubscribe=One-Click")
    );
    let link = header(mail, "List-Unsubscribe").unwrap();
    let link = link.trim_start_matches('<').trim_end_matches('>').replace("localhost", "127.0.0.1");
    let http = reqwest::Client::new();
    let click = http.post(&link).form(&[("List-Unsubscribe", "One-Click")]).send().await.unwrap();
    assert_eq!(click.status(), 200);
}

/// NO-20: one click turns the mails of one category off; security notices have no such link.
#[tokio::test(flavor = "multi_thread")]
async fn one_click_turns_a_category_off() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let owner = &world.owner;
    suite.report_alert(alert(&world, "disk one")).await.unwrap();
    let mail = wait_for_mail(&suite, &owner.email, "disk one").await;
    one_click(&mail).await;
    let shown = owner.call_ok(PREFERENCES, json!({})).await;
    let off = json!({
        "category": "NOTIFICATION_CATEGORY_MONITORING",
        "channel": "NOTIFICATION_CHANNEL_EMAIL",
    });
    assert_eq!(shown["preferences"], json!([off]));
    suite.clock.advance(Duration::seconds(11));
    suite.report_alert(alert(&world, "disk two")).await.unwrap();
    wait_for_notifications(owner, "alert.opened", 2).await;

    // Another category is still mailed. The mail is queued after the one that is not sent.
    let change =
        world.org_request(json!({ "userId": world.viewer.user_id, "role": "ORG_ROLE_DEVELOPER" }));
    owner.call_ok("identity.v1.MemberService/ChangeMemberRole", change).await;
    let security = wait_for_mail(&suite, &world.viewer.email, "You are now Developer").await;
    assert_eq!(header(&security, "List-Unsubscribe"), None);
    assert!(!mails(&suite, &owner.email).iter().any(|it| it.contains("disk two")));
    suite.finish().await;
}

/// NO-20: a mail that waits while its category is turned off is not sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_mail_of_a_category_that_is_turned_off_is_not_sent() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let owner = &world.owner;
    suite.report_alert(alert(&world, "disk one")).await.unwrap();
    let mail = wait_for_mail(&suite, &owner.email, "disk one").await;
    // Gathered for ten seconds.
    suite.report_alert(alert(&world, "disk two")).await.unwrap();
    wait_for_notifications(owner, "alert.opened", 2).await;
    one_click(&mail).await;
    suite.clock.advance(Duration::seconds(11));
    let suppressed = "select count(*) from invitation.mail where last_error like '%category%'";
    eventually("a suppressed mail", async || (suite.count(suppressed).await == 1).then_some(()))
        .await;
    suite.finish().await;
}

/// N-10: what people typed is no link in a mail or a notice; the mail of an invitation has the moment of its
/// end.
#[tokio::test(flavor = "multi_thread")]
async fn typed_text_is_no_link_in_mails_and_notices() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let rename = json!({ "displayName": "Dr. med. A. B. bit.ly/win", "updateMask": "displayName" });
    world.owner.call_ok("identity.v1.UserService/UpdateProfile", rename).await;
    let organization =
        world.org_request(json!({ "name": "Shop v2.0 spam.example", "updateMask": "name" }));
    world.owner.call_ok("identity.v1.OrganizationService/UpdateOrganization", organization).await;
    let message = "Look at https://spam.example/offer and spam.example";
    world.invite("bob@example.com", json!({ "message": message })).await;
    let mail = wait_for_mail(&suite, "bob@example.com", "Open the invitation").await;
    for link in ["spam.example", "bit.ly"] {
        assert!(!mail.contains(link), "{link}: {mail}");
    }
    assert!(mail.contains("Shop v2.0 spam[.]example"), "{mail}");
    assert!(mail.contains("Dr. med. A. B."), "{mail}");
    let valid_until = mail.split("The link is valid until ").nth(1).unwrap();
    let valid_until = valid_until.split_once(" UTC.").unwrap().0;
    assert!(valid_until.contains(':') && valid_until.len() < 40, "{valid_until}");

    let key = world.org_request(json!({ "name": "key https://spam.example", "full": false }));
    world.owner.call_ok("identity.v1.ApiKeyService/CreateApiKey", key).await;
    wait_for_notifications(&world.admin, "api_key.created", 1).await;
    let listed = notices(&world.admin).await;
    assert!(!listed.contains("spam.example") && !listed.contains("bit.ly"), "{listed}");
    suite.finish().await;
}

/// Titles and bodies of the notices of a person.
async fn notices(person: &Person) -> String {
    let listed = person.call_ok(LIST, merge(json!({}), json!({ "pageSize": 100 }))).await;
    let rows = listed["notifications"].as_array().cloned().unwrap_or_default();
    let row = |it: &Value| format!("{}\n{}\n", text(&it["title"]), text(&it["body"]));
    rows.iter().map(row).collect()
}
