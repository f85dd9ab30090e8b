//! The mail queue: replies of mail servers, retries, silenced addresses, and the order of mails.

use api::notification as ntf;
use chassis::clock::Duration;
use serde_json::{Value, json};
use testkit::{Options, Person, Smtp, Suite, eventually};

use super::{notification_service::wait_for_notifications, smtp::register};
use crate::{
    invitation::invitation_service::{CREATE, GET},
    support::world::text,
};

const BATCH: &str = "invitation.v1.InvitationService/BatchCreateInvitations";
const RESEND: &str = "invitation.v1.InvitationService/ResendInvitation";
const RULE: &str = "notification.v1.MailRuleService/CreateMailRule";
const SILENCED: &str = "notification.v1.MailRuleService/ListSilencedAddresses";
const CLEAR: &str = "notification.v1.MailRuleService/ClearSilencedAddress";

async fn suite_with(url: String) -> Suite {
    Suite::start_with(Options { smtp_url: Some(url), ..Options::default() }).await
}

/// Creates an invitation, and returns it.
async fn invite(by: &Person, org: &str, email: &str) -> Value {
    let create =
        json!({ "orgId": org, "email": email, "role": "ORG_ROLE_VIEWER", "expiresInDays": 30 });
    by.call_ok(CREATE, create).await["invitation"].clone()
}

/// Waits for the state of the mail of an invitation.
async fn wait_for_mail_state(by: &Person, invitation: &Value, expected: &str) {
    let get = json!({ "orgId": invitation["orgId"], "invitationId": invitation["id"] });
    let state = async || text(&by.call_ok(GET, get.clone()).await["invitation"]["mailState"]);
    eventually(expected, async || (state().await == expected).then_some(())).await;
}

/// Silenced addresses of an organization.
async fn silenced(by: &Person, org: &str) -> Vec<String> {
    let listed = by.call_ok(SILENCED, json!({ "orgId": org })).await;
    let rows = listed["silencedAddresses"].as_array().cloned().unwrap_or_default();
    rows.iter().map(|it| text(&it["email"])).collect()
}

/// A critical alert of an organization.
fn alert(org: &str, target: &str) -> ntf::ReportAlertRequest {
    ntf::ReportAlertRequest {
        org_id: org.to_owned(),
        kind: ntf::AlertKind::LowDisk.into(),
        target: target.to_owned(),
        target_name: target.to_owned(),
        severity: ntf::Severity::Critical.into(),
        ..Default::default()
    }
}

/// NO-17: a refusal of the sender, of the session or of the content is no bounce: the mail waits, the
/// readiness has the reply, and nothing is silenced.
#[tokio::test(flavor = "multi_thread")]
async fn mails_wait_while_the_server_refuses_the_sender() {
    let mut smtp = Smtp::start().await;
    let suite = suite_with(smtp.url_with_password()).await;
    let ann = register(&suite.client, &smtp, "ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    let refusals = [
        ("GREETING", "554 5.3.2 no service"),
        ("AUTH", "535 5.7.8 wrong password"),
        ("MAIL", "530 5.7.0 authenticate first"),
        ("MAIL", "550 5.7.1 this sender may not send"),
        ("RCPT", "530 5.7.0 authenticate first"),
        ("RCPT", "451 4.7.1 greylisted"),
        ("DATA", "554 5.5.1 no valid recipients"),
        (".", "554 5.7.1 refused as spam"),
    ];
    for (number, (verb, reply)) in refusals.into_iter().enumerate() {
        // New connections, which are greeted and authenticate.
        smtp.stop().await;
        smtp.restart().await;
        smtp.refuse(verb, "", reply);
        let invitation = invite(&ann, &org, &format!("guest{number}@example.com")).await;
        let status = &reply[4..];
        let failed =
            format!("select count(*) from invitation.mail where last_error like '%{status}%'");
        let failed = || sqlx::AssertSqlSafe(failed.clone());
        eventually(reply, async || (suite.count(failed()).await == 1).then_some(())).await;
        wait_for_mail_state(&ann, &invitation, "MAIL_STATE_QUEUED").await;
        let details = suite.readiness.details();
        let is_about_sender = ["GREETING", "AUTH", "MAIL"].contains(&verb);
        assert_eq!(details.contains(status), is_about_sender, "{reply}: {details}");
        smtp.accept_all();
        suite.clock.advance(Duration::seconds(31));
        wait_for_mail_state(&ann, &invitation, "MAIL_STATE_SENT").await;
    }
    assert_eq!(suite.readiness.details(), "", "the mails are sent");
    assert!(silenced(&ann, &org).await.is_empty());
    assert_eq!(
        suite.count("select count(*) from invitation.mail where outcome = 'BOUNCED'").await,
        0
    );
    suite.finish().await;
}

/// NO-17: a refused recipient is silenced for one organization, shown, and cleared by a manager.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_address_is_silenced_for_one_organization_until_it_is_cleared() {
    let smtp = Smtp::start().await;
    let suite = suite_with(smtp.url()).await;
    let ann = register(&suite.client, &smtp, "ann@example.com").await;
    let (acme, other) = (
        ann.create_organization("acme").await.unwrap(),
        ann.create_organization("other").await.unwrap(),
    );
    // A mailbox that a rule names several times, in several spellings.
    let recipients = ["oncall@example.org", "OnCall@example.org", "oncall@EXAMPLE.org"];
    for org in [&acme, &other] {
        let rule =
            json!({ "orgId": org, "recipients": recipients, "eventTypes": ["alert.opened"] });
        let created = ann.call_ok(RULE, rule.clone()).await;
        assert_eq!(created["mailRule"]["recipients"], json!(["oncall@example.org"]));
        // A second rule for the same mailbox.
        ann.call_ok(RULE, rule).await;
    }
    let received = |part: &str| {
        let is_for_rule = |it: &&String| it.contains("To: oncall@") && it.contains(part);
        smtp.mails().iter().filter(is_for_rule).count()
    };
    let rejected = "550 5.2.2 the mailbox is full";
    smtp.refuse(".", "To: oncall@", rejected);
    suite.report_alert(alert(&acme, "first")).await.unwrap();
    eventually("the silenced address", async || {
        (silenced(&ann, &acme).await == ["oncall@example.org"]).then_some(())
    })
    .await;
    smtp.accept_all();
    // Not silenced for another organization, which gets one mail although two rules name the mailbox.
    assert!(silenced(&ann, &other).await.is_empty());
    suite.report_alert(alert(&other, "second")).await.unwrap();
    eventually("the mail of the other organization", async || {
        (received("second") > 0).then_some(())
    })
    .await;
    suite.clock.advance(Duration::seconds(11));
    suite.report_alert(alert(&acme, "third")).await.unwrap();
    let suppressed = "select count(*) from invitation.mail where outcome = 'SUPPRESSED'
                        and last_error like '%rejected a mail%'";
    eventually("a suppressed mail", async || (suite.count(suppressed).await == 1).then_some(()))
        .await;

    let clear = json!({ "orgId": acme, "email": "ONCALL@example.org" });
    ann.call_ok(CLEAR, clear.clone()).await;
    assert_eq!(ann.call_err(CLEAR, clear).await, "NOT_FOUND");
    assert!(silenced(&ann, &acme).await.is_empty());
    suite.clock.advance(Duration::seconds(11));
    suite.report_alert(alert(&acme, "fourth")).await.unwrap();
    eventually("the mail after the clearing", async || (received("fourth") == 1).then_some(()))
        .await;
    assert_eq!((received("second"), received("third")), (1, 0));
    suite.finish().await;
}

/// NO-18: a mail is retried for five days; then the inviter is notified, and resends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_mail_fails_after_five_days_and_is_sent_again_on_request() {
    let mut smtp = Smtp::start().await;
    let suite = suite_with(smtp.url()).await;
    let ann = register(&suite.client, &smtp, "ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    smtp.stop().await;
    let invitation = invite(&ann, &org, "bob@example.com").await;
    let attempts = "select coalesce(max(attempts), 0)::bigint from invitation.mail
                    where last_error is not null";
    for attempt in 1..=12 {
        eventually("an attempt", async || (suite.count(attempts).await == attempt).then_some(()))
            .await;
        suite.clock.advance(Duration::hours(5));
    }
    let ann = ann.sign_in_again().await;
    wait_for_mail_state(&ann, &invitation, "MAIL_STATE_QUEUED").await;
    suite.clock.advance(Duration::days(3));
    let ann = ann.sign_in_again().await;
    wait_for_mail_state(&ann, &invitation, "MAIL_STATE_FAILED").await;
    wait_for_notifications(&ann, "invitation.mail_failed", 1).await;
    smtp.restart().await;
    let by_id = json!({ "orgId": org, "invitationId": invitation["id"] });
    ann.call_ok(RESEND, by_id).await;
    wait_for_mail_state(&ann, &invitation, "MAIL_STATE_SENT").await;
    suite.finish().await;
}

/// NO-17, NO-18: the managers of a mail rule are notified of its mails that are not retried any more, because
/// five days are over or because the recipient was refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_mail_of_a_mail_rule_is_reported_to_its_managers() {
    let smtp = Smtp::start().await;
    let suite = suite_with(smtp.url()).await;
    let ann = register(&suite.client, &smtp, "ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    let recipients = ["late@example.org", "gone@example.org"];
    let rule = json!({ "orgId": org, "recipients": recipients, "eventTypes": ["alert.opened"] });
    ann.call_ok(RULE, rule).await;
    smtp.refuse("RCPT", "late@", "451 4.3.0 try later");
    smtp.refuse("RCPT", "gone@", "550 5.1.1 no such user");
    suite.report_alert(alert(&org, "disk")).await.unwrap();
    wait_for_notifications(&ann, "mail_rule.mail_failed", 1).await;
    let waiting = "select count(*) from invitation.mail where last_error like '%451%'";
    eventually("an attempt", async || (suite.count(waiting).await == 1).then_some(())).await;
    suite.clock.advance(Duration::days(6));
    let ann = ann.sign_in_again().await;
    wait_for_notifications(&ann, "mail_rule.mail_failed", 2).await;
    let list = json!({ "orgId": org });
    let listed = ann.call_ok("notification.v1.NotificationService/ListNotifications", list).await;
    let titles = listed["notifications"].to_string();
    for name in ["late", "gone"] {
        let title = format!("A mail rule's mail to {name}@example[.]org was not delivered");
        assert!(titles.contains(&title), "{titles}");
    }
    suite.finish().await;
}

/// NO-19: many mails of one organization do not delay the mail of another, and links go before notices.
#[tokio::test(flavor = "multi_thread")]
async fn organizations_take_turns_and_links_go_before_notices() {
    let mut smtp = Smtp::start().await;
    let suite = suite_with(smtp.url()).await;
    let ann = register(&suite.client, &smtp, "ann@example.com").await;
    let (acme, other) = (
        ann.create_organization("acme").await.unwrap(),
        ann.create_organization("other").await.unwrap(),
    );
    let recipients: Vec<_> = (0..20).map(|it| format!("inbox{it}@example.org")).collect();
    let rule = json!({ "orgId": acme, "recipients": recipients, "eventTypes": ["alert.opened"] });
    ann.call_ok(RULE, rule).await;
    smtp.stop().await;
    suite.report_alert(alert(&acme, "disk")).await.unwrap();
    let failed = "select count(*) from invitation.mail where last_error is not null";
    // One for the Owner, and one for each inbox.
    eventually("notices", async || (suite.count(failed).await == 21).then_some(())).await;
    let emails: Vec<_> = (0..90).map(|it| format!("guest{it}@example.com")).collect();
    let batch = json!({ "orgId": acme, "role": "ORG_ROLE_VIEWER", "emails": emails });
    ann.call_ok(BATCH, batch).await;
    invite(&ann, &other, "bob@example.com").await;
    eventually("112 failures", async || (suite.count(failed).await == 112).then_some(())).await;
    let before = smtp.mails().len();
    smtp.restart().await;
    suite.clock.advance(Duration::minutes(2));
    let received = || smtp.mails().split_off(before);
    eventually("all mails", async || (received().len() >= 112).then_some(())).await;
    let place = |part: &str| received().iter().position(|it| it.contains(part)).unwrap();
    assert!(place("To: bob@example.com") < 30, "{}", place("To: bob@example.com"));
    let last_link = received().iter().rposition(|it| it.contains("To: guest")).unwrap();
    let notices_before =
        received()[..last_link].iter().filter(|it| it.contains("To: inbox")).count();
    // Notices use free slots only while no link is due.
    assert!(notices_before < 21, "{notices_before} notices before the last link");
    suite.finish().await;
}

/// NO-14: of a burst of urgent notices the first is mailed at once, and the others are gathered.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_urgent_notices_is_gathered() {
    let smtp = Smtp::start().await;
    let suite = suite_with(smtp.url()).await;
    let ann = register(&suite.client, &smtp, "ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    for number in 0..12 {
        suite.report_alert(alert(&org, &format!("disk-{number:02}"))).await.unwrap();
    }
    wait_for_notifications(&ann, "alert.opened", 12).await;
    suite.clock.advance(Duration::seconds(11));
    let all = || smtp.mails().concat().replace("=\r\n", "");
    let all_mentioned = || (0..12).all(|it| all().contains(&format!("disk-{it:02}")));
    eventually("every alert in a mail", async || all_mentioned().then_some(())).await;
    let alerts = smtp.mails().iter().filter(|it| it.contains("disk-")).count();
    assert!(alerts <= 3, "{alerts} mails");
    suite.finish().await;
}

/// An address with an international domain is mailed by servers without SMTPUTF8.
#[tokio::test(flavor = "multi_thread")]
async fn international_domains_are_sent_in_their_ascii_form() {
    let smtp = Smtp::start().await;
    let suite = suite_with(smtp.url()).await;
    let ann = register(&suite.client, &smtp, "ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    let invitation = invite(&ann, &org, "Bob@bücher.example").await;
    wait_for_mail_state(&ann, &invitation, "MAIL_STATE_SENT").await;
    let recipients = smtp.commands("RCPT");
    assert!(
        recipients.contains(&"RCPT TO:<Bob@xn--bcher-kva.example>".to_owned()),
        "{recipients:?}"
    );
    let mail = smtp.mails().pop().unwrap();
    assert!(mail.contains("To: Bob@xn--bcher-kva.example"), "{mail}");
    suite.finish().await;
}
