//! Notifications in the application and by mail: recipients, preferences, quiet hours, alerts and mail rules.

use api::notification as ntf;
use chassis::clock::Duration;
use serde_json::{Value, json};
use testkit::{Person, Suite, eventually};
use tonic::Request;

use crate::support::world::{World, add_member, merge, text};

const LIST: &str = "notification.v1.NotificationService/ListNotifications";
const UNREAD: &str = "notification.v1.NotificationService/GetUnreadCount";
const READ: &str = "notification.v1.NotificationService/MarkNotificationsRead";
const DISMISS: &str = "notification.v1.NotificationService/DismissNotifications";
pub(crate) const PREFER: &str = "notification.v1.NotificationService/SetNotificationPreference";
const QUIET: &str = "notification.v1.NotificationService/SetQuietHours";
const PREFERENCES: &str = "notification.v1.NotificationService/GetNotificationPreferences";
const RULE: &str = "notification.v1.MailRuleService/CreateMailRule";
const RULES: &str = "notification.v1.MailRuleService/ListMailRules";
const CHANGE_RULE: &str = "notification.v1.MailRuleService/UpdateMailRule";
const DELETE_RULE: &str = "notification.v1.MailRuleService/DeleteMailRule";
pub(crate) const ALERTS: &str = "notification.v1.AlertService/ListAlerts";

/// Number of mails about events that were suppressed.
const SUPPRESSED: &str =
    "select count(*) from invitation.mail where template = 'digest' and outcome = 'SUPPRESSED'";

/// A preference for a category and a channel.
pub(crate) fn preference(category: &str, channel: &str, enabled: bool) -> Value {
    json!({ "preference": {
        "category": format!("NOTIFICATION_CATEGORY_{category}"),
        "channel": format!("NOTIFICATION_CHANNEL_{channel}"),
        "enabled": enabled,
    } })
}

/// Notifications of a type in the inbox of a person, oldest first.
pub(crate) async fn notifications(person: &Person, kind: &str) -> Vec<Value> {
    let answer = person.call_ok(LIST, json!({ "pageSize": 100 })).await;
    let all = answer["notifications"].as_array().cloned().unwrap_or_default();
    all.into_iter().rev().filter(|it| it["eventType"] == kind).collect()
}

/// Waits for `count` notifications of a type.
pub(crate) async fn wait_for_notifications(
    person: &Person,
    kind: &str,
    count: usize,
) -> Vec<Value> {
    let what = format!("{count} × {kind}");
    eventually(&what, async || {
        let all = notifications(person, kind).await;
        (all.len() >= count).then_some(all)
    })
    .await
}

/// Waits until all events so far are processed and no notification is pending.
async fn wait_for_all(suite: &Suite) {
    let pending = "select (select count(*) from invitation.pending_event) + count(*)
         from (select id, type from identity.outbox union all select id, type from invitation.outbox) as it
         where type like any (array['%.Member%', '%.Invitation%ed', '%.Alert%', '%.ProjectAccess%ed'])
           and type not like all (array['%.InvitationLinkCopied', '%.InvitationExpired',
                                        '%.ProjectAccessChanged'])
           and not exists (select from invitation.inbox where event_id = it.id)";
    eventually("the fan-out", async || (suite.count(pending).await == 0).then_some(())).await;
}

/// Mails to an address that the suite has written to files, as text.
pub(crate) fn mails(suite: &Suite, to: &str) -> Vec<String> {
    let files = std::fs::read_dir(suite.data_dir().join("mail")).into_iter().flatten().flatten();
    let mut paths: Vec<_> = files.map(|it| it.path()).collect();
    paths.sort();
    let read = |it: std::path::PathBuf| std::fs::read_to_string(it).ok();
    let texts = paths.into_iter().filter_map(read).map(|it| it.replace("=\r\n", ""));
    texts.filter(|it| it.contains(&format!("To: {to}"))).collect()
}

/// An alert about a disk, of the project or of the organization.
fn alert(world: &World, project: bool, severity: ntf::Severity) -> ntf::ReportAlertRequest {
    ntf::ReportAlertRequest {
        org_id: world.org.clone(),
        project_id: if project { world.project.clone() } else { String::new() },
        kind: ntf::AlertKind::LowDisk.into(),
        target: "server-1".to_owned(),
        target_name: "Server 1".to_owned(),
        severity: severity.into(),
        value: "91 %".to_owned(),
    }
}

/// NO-11: people list, count, mark and dismiss their own notifications only.
#[tokio::test(flavor = "multi_thread")]
async fn people_see_their_own_notifications() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let joined = wait_for_notifications(&world.owner, "member.joined", 3).await;
    wait_for_all(&suite).await;
    assert_eq!(text(&joined[0]["orgId"]), world.org);
    let unread = async |person: &Person| {
        let answer = person.call_ok(UNREAD, json!({})).await;
        answer["unreadCount"].as_i64().unwrap_or(0)
    };
    let before = unread(&world.owner).await;
    let id = joined[0]["id"].clone();
    // Ids of another person have no effect.
    let by_id = json!({ "notificationIds": [id] });
    assert_eq!(world.viewer.call_ok(READ, by_id.clone()).await["count"], json!(null));
    assert_eq!(world.viewer.call_ok(DISMISS, by_id.clone()).await["count"], json!(null));
    assert_eq!(unread(&world.owner).await, before);
    assert_eq!(world.owner.call_ok(READ, by_id.clone()).await["count"], 1);
    assert_eq!(unread(&world.owner).await, before - 1);
    assert_eq!(notifications(&world.owner, "member.joined").await[0]["read"], json!(true));
    assert_eq!(world.owner.call_ok(DISMISS, json!({})).await["count"], 1);
    assert_eq!(notifications(&world.owner, "member.joined").await.len(), 2);
    world.owner.call_ok(READ, json!({})).await;
    assert_eq!(unread(&world.owner).await, 0);
    let unread_only = json!({ "unreadOnly": true });
    assert_eq!(world.owner.call_ok(LIST, unread_only).await["notifications"], json!(null));
    // Neither the actor nor members without the permission to manage members are notified.
    assert!(notifications(&world.viewer, "member.joined").await.is_empty());
    suite.finish().await;
}

/// NO-10: notifications about a project go to people who see it at that time; the permission is checked again
/// when a mail is sent.
#[tokio::test(flavor = "multi_thread")]
async fn notifications_about_a_project_need_access_to_it() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    world.grant(json!({ "userId": world.viewer.user_id }), "VIEWER").await;
    suite.report_alert(alert(&world, true, ntf::Severity::Warning)).await.unwrap();
    wait_for_notifications(&world.owner, "alert.opened", 1).await;
    wait_for_notifications(&world.viewer, "alert.opened", 1).await;
    wait_for_all(&suite).await;
    for other in [&world.admin, &world.developer] {
        assert!(notifications(other, "alert.opened").await.is_empty());
    }
    let open_alerts = async |person: &Person| {
        person.call_ok(ALERTS, world.org_request(json!({}))).await["alerts"]
            .as_array()
            .map_or(0, Vec::len)
    };
    assert_eq!((open_alerts(&world.viewer).await, open_alerts(&world.developer).await), (1, 0));

    // The viewer enables the mails and loses the project while the digest is pending.
    let enable = preference("MONITORING", "EMAIL", true);
    world.viewer.call_ok(PREFER, enable.clone()).await;
    world.owner.call_ok(PREFER, enable).await;
    suite.report_alert(alert(&world, true, ntf::Severity::Unspecified)).await.unwrap();
    wait_for_notifications(&world.viewer, "alert.closed", 1).await;
    let revoke = world.project_request(json!({ "principal": { "userId": world.viewer.user_id } }));
    world.owner.call_ok("identity.v1.ProjectAccessService/RemoveProjectAccess", revoke).await;
    suite.clock.advance(Duration::minutes(16));
    let mailed = async |email: &str| mails(&suite, email).iter().any(|it| it.contains("recovered"));
    eventually("the owner's mail", async || mailed(&world.owner.email).await.then_some(())).await;
    eventually("the viewer's mail", async || (suite.count(SUPPRESSED).await == 1).then_some(()))
        .await;
    assert!(!mailed(&world.viewer.email).await);
    suite.finish().await;
}

/// NO-14, NO-15: at most one alert is open per kind and target; warnings are mailed in a digest, critical
/// alerts at once, a recovery once.
#[tokio::test(flavor = "multi_thread")]
async fn an_alert_notifies_when_it_opens_changes_and_ends() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let enable = preference("MONITORING", "EMAIL", true);
    world.owner.call_ok(PREFER, enable).await;
    let warning = alert(&world, false, ntf::Severity::Warning);
    let first = suite.report_alert(warning.clone()).await.unwrap();
    let second = suite.report_alert(warning.clone()).await.unwrap();
    assert_eq!(first.id, second.id);
    let mut other = warning.clone();
    other.target = "server-2".to_owned();
    other.target_name = "Server 2".to_owned();
    suite.report_alert(other).await.unwrap();
    wait_for_notifications(&world.owner, "alert.opened", 2).await;
    wait_for_all(&suite).await;
    assert_eq!(notifications(&world.owner, "alert.opened").await.len(), 2);
    let mails_with = |text: &str| {
        mails(&suite, &world.owner.email)
            .into_iter()
            .filter(|it| it.contains(text))
            .collect::<Vec<_>>()
    };
    assert!(mails_with("Server").is_empty(), "warnings wait for the digest");

    let critical = alert(&world, false, ntf::Severity::Critical);
    suite.report_alert(critical).await.unwrap();
    wait_for_notifications(&world.owner, "alert.changed", 1).await;
    eventually("the critical mail", async || (mails_with("Server 1").len() == 1).then_some(()))
        .await;
    suite.clock.advance(Duration::minutes(15));
    eventually("the mail of warnings", async || {
        (mails_with("2 notifications").len() == 1).then_some(())
    })
    .await;
    assert!(mails_with("2 notifications")[0].contains("Server 2"));

    suite.report_alert(alert(&world, false, ntf::Severity::Unspecified)).await.unwrap();
    assert!(suite.report_alert(alert(&world, false, ntf::Severity::Unspecified)).await.is_none());
    wait_for_notifications(&world.owner, "alert.closed", 1).await;
    wait_for_all(&suite).await;
    assert_eq!(notifications(&world.owner, "alert.closed").await.len(), 1);
    suite.finish().await;
}

/// NO-13: the most specific preference applies; security notices cannot be disabled.
#[tokio::test(flavor = "multi_thread")]
async fn preferences_apply_except_to_security_notices() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let disable = preference("SECURITY", "EMAIL", false);
    assert_eq!(world.viewer.call_err(PREFER, disable).await, "NOTICE_REQUIRED");
    let mut wrong = preference("BILLING", "EMAIL", true);
    wrong["preference"]["projectId"] = json!(world.project);
    assert_eq!(world.viewer.call_err(PREFER, wrong).await, "INVALID_FIELD");
    wait_for_notifications(&world.owner, "member.joined", 3).await;
    world.owner.call_ok(PREFER, preference("MEMBERSHIP", "IN_APP", false)).await;
    let bob = suite.person("bob@example.com").await;
    add_member(&world.admin, &world.org, &bob, "VIEWER").await;
    wait_for_notifications(&world.admin, "invitation.accepted", 1).await;
    wait_for_all(&suite).await;
    assert_eq!(notifications(&world.owner, "member.joined").await.len(), 3);

    // The loss of a role and of a membership is notified on both channels, independent of preferences.
    let change = world.org_request(json!({ "userId": bob.user_id, "role": "ORG_ROLE_DEVELOPER" }));
    world.owner.call_ok("identity.v1.MemberService/ChangeMemberRole", change).await;
    world
        .owner
        .call_ok(
            "identity.v1.MemberService/RemoveMember",
            world.org_request(json!({ "userId": bob.user_id })),
        )
        .await;
    wait_for_notifications(&bob, "user.role_changed", 1).await;
    wait_for_notifications(&bob, "user.removed_from_organization", 1).await;
    eventually("two mails", async || {
        (mails(&suite, &bob.email).iter().filter(|it| it.contains("You ")).count() >= 2)
            .then_some(())
    })
    .await;
    let password =
        json!({ "currentPassword": testkit::PASSWORD, "newPassword": "another long password" });
    bob.call_ok("identity.v1.UserService/ChangePassword", password).await;
    wait_for_notifications(&bob, "user.password_changed", 1).await;
    suite.finish().await;
}

/// Mails wait for the end of quiet hours, except critical alerts.
#[tokio::test(flavor = "multi_thread")]
async fn quiet_hours_delay_mails() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    wait_for_all(&suite).await;
    let minute_of_day =
        |at: time::OffsetDateTime| i32::from(at.hour()) * 60 + i32::from(at.minute());
    let now = suite.clock.now();
    // One hour that began a minute ago, possibly across midnight.
    let start = minute_of_day(now - Duration::minutes(1));
    let end = minute_of_day(now + Duration::minutes(59));
    let hours =
        json!({ "quietHours": { "startMinute": start, "endMinute": end, "timeZone": "Etc/UTC" } });
    let wrong =
        json!({ "quietHours": { "startMinute": 0, "endMinute": 1, "timeZone": "Mars/Olympus" } });
    assert_eq!(world.owner.call_err(QUIET, wrong).await, "INVALID_FIELD");
    world.owner.call_ok(QUIET, hours.clone()).await;
    assert_eq!(
        world.owner.call_ok(PREFERENCES, json!({})).await["quietHours"],
        hours["quietHours"]
    );
    let bob = suite.person("bob@example.com").await;
    add_member(&world.admin, &world.org, &bob, "VIEWER").await;
    wait_for_notifications(&world.owner, "member.joined", 4).await;
    let joined =
        || mails(&suite, &world.owner.email).iter().filter(|it| it.contains("bob joined")).count();
    suite.clock.advance(Duration::minutes(30));
    suite.report_alert(alert(&world, false, ntf::Severity::Critical)).await.unwrap();
    eventually("the critical mail", async || {
        mails(&suite, &world.owner.email).iter().any(|it| it.contains("Server 1")).then_some(())
    })
    .await;
    assert_eq!(joined(), 0);
    suite.clock.advance(Duration::minutes(31));
    eventually("the mail after the quiet hours", async || (joined() == 1).then_some(())).await;
    suite.finish().await;
}

/// A stream delivers new notifications, and after a reconnect those since its last id.
#[tokio::test(flavor = "multi_thread")]
async fn a_notification_stream_resumes_without_gaps() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let first = wait_for_notifications(&world.owner, "member.joined", 3).await;
    wait_for_all(&suite).await;
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{}", suite.address)).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut client = ntf::notification_service_client::NotificationServiceClient::new(channel);
    let watch_after = |after: &str| {
        let after_notification_id = after.to_owned();
        let mut request = Request::new(ntf::WatchNotificationsRequest { after_notification_id });
        let bearer = format!("Bearer {}", world.owner.token);
        request.metadata_mut().insert("authorization", bearer.parse().unwrap());
        request
    };
    let mut stream = client.watch_notifications(watch_after("")).await.unwrap().into_inner();
    let bob = suite.person("bob@example.com").await;
    add_member(&world.admin, &world.org, &bob, "VIEWER").await;
    let new = stream.message().await.unwrap().unwrap();
    assert_eq!(new.notification.unwrap().title, "bob joined");
    assert!(new.unread_count >= 4);
    drop(stream);
    let mut resumed =
        client.watch_notifications(watch_after(&text(&first[1]["id"]))).await.unwrap().into_inner();
    let mut titles = vec![];
    while titles.last().is_none_or(|it| it != "bob joined") {
        titles.push(resumed.message().await.unwrap().unwrap().notification.unwrap().title);
    }
    assert!(titles.contains(&"viewer joined".to_owned()), "{titles:?}");
    assert!(!titles.contains(&"admin joined".to_owned()), "{titles:?}");
    // A stream ends with its session.
    let other = world.owner.sign_in_again().await;
    let mut ended = client.watch_notifications(watch_after("")).await.unwrap().into_inner();
    other.call_ok("identity.v1.SessionService/RevokeOtherSessions", json!({})).await;
    let refused = loop {
        match ended.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    // An open stream does not delay the stop of the suite.
    suite.finish().await;
}

/// NO-2, NO-10: mail rules send to team inboxes; a recipient with an account that may not see the project
/// gets no mail.
#[tokio::test(flavor = "multi_thread")]
async fn mail_rules_send_only_permitted_events() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let recipients = json!(["oncall@example.org", world.developer.email]);
    let rule = json!({ "recipients": recipients, "eventTypes": ["alert.opened"] });
    assert_eq!(
        world.developer.call_err(RULE, world.org_request(rule.clone())).await,
        "MISSING_PERMISSION"
    );
    let invalid = [
        json!({ "recipients": ["nobody"] }),
        json!({ "recipients": [] }),
        json!({ "recipients": ["a@example.org"], "eventTypes": ["no.such"] }),
        json!({ "recipients": ["a@example.org"], "eventTypes": ["user.removed_from_organization"] }),
    ];
    for rule in invalid {
        assert_eq!(world.owner.call_err(RULE, world.org_request(rule)).await, "INVALID_FIELD");
    }
    let created = world.owner.call_ok(RULE, world.project_request(rule)).await;
    suite.report_alert(alert(&world, true, ntf::Severity::Critical)).await.unwrap();
    eventually("the mail", async || (mails(&suite, "oncall@example.org").len() == 1).then_some(()))
        .await;
    let mail = mails(&suite, "oncall@example.org").remove(0);
    assert!(mail.contains("List-Unsubscribe: <http://localhost"), "{mail}");
    eventually("no mail", async || (suite.count(SUPPRESSED).await == 1).then_some(())).await;
    assert!(!mails(&suite, &world.developer.email).iter().any(|it| it.contains("Server 1")));

    // One click unsubscribes the inbox.
    let link = mail.split("List-Unsubscribe: <").nth(1).unwrap().split('>').next().unwrap();
    let link = link.replace("localhost", "127.0.0.1");
    let http = reqwest::Client::new();
    let click = http.post(&link).form(&[("List-Unsubscribe", "One-Click")]).send().await.unwrap();
    assert_eq!(click.status(), 200);
    suite.report_alert(alert(&world, true, ntf::Severity::Warning)).await.unwrap();
    suite.report_alert(alert(&world, true, ntf::Severity::Unspecified)).await.unwrap();
    suite.report_alert(alert(&world, true, ntf::Severity::Critical)).await.unwrap();
    eventually("no more mail", async || (suite.count(SUPPRESSED).await >= 3).then_some(())).await;
    assert_eq!(mails(&suite, "oncall@example.org").len(), 1);

    let id = json!({ "mailRuleId": created["mailRule"]["id"] });
    let change =
        world.org_request(merge(id.clone(), json!({ "enabled": false, "updateMask": "enabled" })));
    world.owner.call_ok(CHANGE_RULE, change).await;
    let listed = world.owner.call_ok(RULES, world.org_request(json!({}))).await;
    assert_eq!(listed["mailRules"][0]["enabled"], json!(null));
    world.owner.call_ok(DELETE_RULE, world.org_request(id.clone())).await;
    assert_eq!(world.owner.call_err(DELETE_RULE, world.org_request(id)).await, "NOT_FOUND");
    suite.finish().await;
}
