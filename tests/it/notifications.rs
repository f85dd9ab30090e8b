//! What people are told, in the application and by mail, and how they want it.

use api::invitation as inv;
use chassis::clock::Duration;
use serde_json::{Value, json};
use testkit::{Person, Suite, eventually};
use tonic::Request;

use crate::world::{World, admit, merge, text};

const LIST: &str = "invitation.v1.NotificationService/ListNotifications";
const UNREAD: &str = "invitation.v1.NotificationService/GetUnreadCount";
const READ: &str = "invitation.v1.NotificationService/MarkNotificationsRead";
const DISMISS: &str = "invitation.v1.NotificationService/DismissNotifications";
const PREFER: &str = "invitation.v1.NotificationService/SetNotificationPreference";
const QUIET: &str = "invitation.v1.NotificationService/SetQuietHours";
const PREFERENCES: &str = "invitation.v1.NotificationService/GetNotificationPreferences";
const RULE: &str = "invitation.v1.MailRuleService/CreateMailRule";
const RULES: &str = "invitation.v1.MailRuleService/ListMailRules";
const CHANGE_RULE: &str = "invitation.v1.MailRuleService/UpdateMailRule";
const DELETE_RULE: &str = "invitation.v1.MailRuleService/DeleteMailRule";
const ALERTS: &str = "invitation.v1.AlertService/ListAlerts";

/// Mails about events that were not sent.
const SUPPRESSED: &str =
    "select count(*) from invitation.mail where template = 'digest' and outcome = 'SUPPRESSED'";

/// What a person says about a category and a channel.
fn say(category: &str, channel: &str, enabled: bool) -> Value {
    json!({ "preference": {
        "category": format!("NOTIFICATION_CATEGORY_{category}"),
        "channel": format!("NOTIFICATION_CHANNEL_{channel}"),
        "enabled": enabled,
    } })
}

/// A person's notifications of a type, oldest first.
async fn told(person: &Person, kind: &str) -> Vec<Value> {
    let answer = person.tell(LIST, json!({ "pageSize": 100 })).await;
    let all = answer["notifications"].as_array().cloned().unwrap_or_default();
    all.into_iter().rev().filter(|it| it["eventType"] == kind).collect()
}

pub(crate) async fn until_told(person: &Person, kind: &str, count: usize) -> Vec<Value> {
    let what = format!("{count} × {kind}");
    eventually(&what, async || {
        let all = told(person, kind).await;
        (all.len() >= count).then_some(all)
    })
    .await
}

/// Waits until everything that happened so far was told: each event was heard, and none waits.
async fn all_told(suite: &Suite) {
    let waiting = "select (select count(*) from invitation.news) + count(*)
         from (select id, type from identity.outbox union all select id, type from invitation.outbox) as it
         where type like any (array['%.Member%', '%.Invitation%ed', '%.Alert%', '%.ProjectAccess%ed'])
           and type not like all (array['%.InvitationLinkCopied', '%.InvitationExpired',
                                        '%.ProjectAccessChanged'])
           and not exists (select from invitation.inbox where event_id = it.id)";
    eventually("the news", async || (suite.count(waiting).await == 0).then_some(())).await;
}

/// The mails in the suite's folder, as text, to an address.
fn mails(suite: &Suite, to: &str) -> Vec<String> {
    let files = std::fs::read_dir(suite.folder().join("mail")).into_iter().flatten().flatten();
    let mut paths: Vec<_> = files.map(|it| it.path()).collect();
    paths.sort();
    let read = |it: std::path::PathBuf| std::fs::read_to_string(it).ok();
    let texts = paths.into_iter().filter_map(read).map(|it| it.replace("=\r\n", ""));
    texts.filter(|it| it.contains(&format!("To: {to}"))).collect()
}

fn alert(world: &World, project: bool, severity: inv::Severity) -> inv::ReportAlertRequest {
    inv::ReportAlertRequest {
        org_id: world.org.clone(),
        project_id: if project { world.project.clone() } else { String::new() },
        kind: inv::AlertKind::LowDisk.into(),
        target: "server-1".to_owned(),
        target_name: "Server 1".to_owned(),
        severity: severity.into(),
        value: "91 %".to_owned(),
    }
}

/// NO-11: a person reads, counts, marks and dismisses their own, and no one else's.
#[tokio::test(flavor = "multi_thread")]
async fn everybody_has_their_own_notifications() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let joined = until_told(&world.owner, "member.joined", 3).await;
    all_told(&suite).await;
    assert_eq!(text(&joined[0]["orgId"]), world.org);
    let unread = async |person: &Person| {
        let answer = person.tell(UNREAD, json!({})).await;
        answer["unreadCount"].as_i64().unwrap_or(0)
    };
    let before = unread(&world.owner).await;
    let id = joined[0]["id"].clone();
    // Somebody else's ids do nothing.
    let theirs = json!({ "notificationIds": [id] });
    assert_eq!(world.viewer.tell(READ, theirs.clone()).await["count"], json!(null));
    assert_eq!(world.viewer.tell(DISMISS, theirs.clone()).await["count"], json!(null));
    assert_eq!(unread(&world.owner).await, before);
    assert_eq!(world.owner.tell(READ, theirs.clone()).await["count"], 1);
    assert_eq!(unread(&world.owner).await, before - 1);
    assert_eq!(told(&world.owner, "member.joined").await[0]["read"], json!(true));
    assert_eq!(world.owner.tell(DISMISS, json!({})).await["count"], 1);
    assert_eq!(told(&world.owner, "member.joined").await.len(), 2);
    world.owner.tell(READ, json!({})).await;
    assert_eq!(unread(&world.owner).await, 0);
    let only = json!({ "unreadOnly": true });
    assert_eq!(world.owner.tell(LIST, only).await["notifications"], json!(null));
    // Who did it is not told of it, and who manages nobody neither.
    assert!(told(&world.viewer, "member.joined").await.is_empty());
    suite.finish().await;
}

/// NO-10: about a project only those are told who see it when they are told; a mail asks again when it
/// leaves.
#[tokio::test(flavor = "multi_thread")]
async fn about_a_project_only_those_are_told_who_see_it() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    world.grant(json!({ "userId": world.viewer.user_id }), "VIEWER").await;
    suite.report(alert(&world, true, inv::Severity::Warning)).await.unwrap();
    until_told(&world.owner, "monitoring.alert", 1).await;
    until_told(&world.viewer, "monitoring.alert", 1).await;
    all_told(&suite).await;
    for other in [&world.admin, &world.developer] {
        assert!(told(other, "monitoring.alert").await.is_empty());
    }
    let open = async |person: &Person| {
        person.tell(ALERTS, world.here(json!({}))).await["alerts"].as_array().map_or(0, Vec::len)
    };
    assert_eq!((open(&world.viewer).await, open(&world.developer).await), (1, 0));

    // The viewer wants such mails; the mail waits for more, and meanwhile they lose the project.
    let want = say("MONITORING", "EMAIL", true);
    world.viewer.tell(PREFER, want.clone()).await;
    world.owner.tell(PREFER, want).await;
    suite.report(alert(&world, true, inv::Severity::Unspecified)).await.unwrap();
    until_told(&world.viewer, "monitoring.recovered", 1).await;
    let revoke = world.there(json!({ "principal": { "userId": world.viewer.user_id } }));
    world.owner.tell("identity.v1.ProjectAccessService/RemoveProjectAccess", revoke).await;
    suite.clock.advance(Duration::minutes(16));
    let mailed = async |email: &str| mails(&suite, email).iter().any(|it| it.contains("recovered"));
    eventually("the owner's mail", async || mailed(&world.owner.email).await.then_some(())).await;
    eventually("the viewer's mail", async || (suite.count(SUPPRESSED).await == 1).then_some(()))
        .await;
    assert!(!mailed(&world.viewer.email).await);
    suite.finish().await;
}

/// NO-14, NO-15: one alert is open for each kind and target; warnings come together, what is critical at
/// once, the recovery once.
#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_told_when_it_opens_changes_and_ends() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let want = say("MONITORING", "EMAIL", true);
    world.owner.tell(PREFER, want).await;
    let warning = alert(&world, false, inv::Severity::Warning);
    let first = suite.report(warning.clone()).await.unwrap();
    let again = suite.report(warning.clone()).await.unwrap();
    assert_eq!(first.id, again.id);
    let mut other = warning.clone();
    other.target = "server-2".to_owned();
    other.target_name = "Server 2".to_owned();
    suite.report(other).await.unwrap();
    until_told(&world.owner, "monitoring.alert", 2).await;
    all_told(&suite).await;
    assert_eq!(told(&world.owner, "monitoring.alert").await.len(), 2);
    let about = |what: &str| {
        mails(&suite, &world.owner.email)
            .into_iter()
            .filter(|it| it.contains(what))
            .collect::<Vec<_>>()
    };
    assert!(about("Server").is_empty(), "warnings wait for more");

    let critical = alert(&world, false, inv::Severity::Critical);
    suite.report(critical).await.unwrap();
    until_told(&world.owner, "monitoring.alert_changed", 1).await;
    eventually("the critical mail", async || (about("Server 1").len() == 1).then_some(())).await;
    suite.clock.advance(Duration::minutes(15));
    eventually("the mail of warnings", async || {
        (about("things happened").len() == 1).then_some(())
    })
    .await;
    assert!(about("things happened")[0].contains("Server 2"));

    suite.report(alert(&world, false, inv::Severity::Unspecified)).await.unwrap();
    assert!(suite.report(alert(&world, false, inv::Severity::Unspecified)).await.is_none());
    until_told(&world.owner, "monitoring.recovered", 1).await;
    all_told(&suite).await;
    assert_eq!(told(&world.owner, "monitoring.recovered").await.len(), 1);
    suite.finish().await;
}

/// NO-13, 3.7: preferences are heard, the narrowest first; security notices cannot be switched off.
#[tokio::test(flavor = "multi_thread")]
async fn people_say_how_they_are_told_but_for_security() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let off = say("SECURITY", "EMAIL", false);
    assert_eq!(world.viewer.refused(PREFER, off).await, "NOTICE_REQUIRED");
    let mut wrong = say("BILLING", "EMAIL", true);
    wrong["preference"]["projectId"] = json!(world.project);
    assert_eq!(world.viewer.refused(PREFER, wrong).await, "INVALID_FIELD");
    until_told(&world.owner, "member.joined", 3).await;
    world.owner.tell(PREFER, say("MEMBERSHIP", "IN_APP", false)).await;
    let bob = suite.person("bob@example.com").await;
    admit(&world.admin, &world.org, &bob, "VIEWER").await;
    until_told(&world.admin, "invitation.accepted", 1).await;
    all_told(&suite).await;
    assert_eq!(told(&world.owner, "member.joined").await.len(), 3);

    // A role is lost, and a membership: told in the application and by mail, whatever was said.
    let change = world.here(json!({ "userId": bob.user_id, "role": "ORG_ROLE_DEVELOPER" }));
    world.owner.tell("identity.v1.MemberService/ChangeMemberRole", change).await;
    world
        .owner
        .tell(
            "identity.v1.MemberService/RemoveMember",
            world.here(json!({ "userId": bob.user_id })),
        )
        .await;
    until_told(&bob, "security.role_changed", 1).await;
    until_told(&bob, "security.removed", 1).await;
    eventually("two mails", async || {
        (mails(&suite, &bob.email).iter().filter(|it| it.contains("You ")).count() >= 2)
            .then_some(())
    })
    .await;
    let password =
        json!({ "currentPassword": testkit::PASSWORD, "newPassword": "another long password" });
    bob.tell("identity.v1.UserService/ChangePassword", password).await;
    until_told(&bob, "account.password_changed", 1).await;
    suite.finish().await;
}

/// 3.7: in quiet hours mails wait until their end, but for what is critical.
#[tokio::test(flavor = "multi_thread")]
async fn quiet_hours_hold_mails_back() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    all_told(&suite).await;
    let minute = |at: time::OffsetDateTime| i32::from(at.hour()) * 60 + i32::from(at.minute());
    let now = suite.clock.now();
    // From a minute ago, for an hour, wherever midnight is.
    let (start, end) = (minute(now - Duration::minutes(1)), minute(now + Duration::minutes(59)));
    let hours =
        json!({ "quietHours": { "startMinute": start, "endMinute": end, "timeZone": "Etc/UTC" } });
    let wrong =
        json!({ "quietHours": { "startMinute": 0, "endMinute": 1, "timeZone": "Mars/Olympus" } });
    assert_eq!(world.owner.refused(QUIET, wrong).await, "INVALID_FIELD");
    world.owner.tell(QUIET, hours.clone()).await;
    assert_eq!(world.owner.tell(PREFERENCES, json!({})).await["quietHours"], hours["quietHours"]);
    let bob = suite.person("bob@example.com").await;
    admit(&world.admin, &world.org, &bob, "VIEWER").await;
    until_told(&world.owner, "member.joined", 4).await;
    let joined =
        || mails(&suite, &world.owner.email).iter().filter(|it| it.contains("bob joined")).count();
    suite.clock.advance(Duration::minutes(30));
    suite.report(alert(&world, false, inv::Severity::Critical)).await.unwrap();
    eventually("the critical mail", async || {
        mails(&suite, &world.owner.email).iter().any(|it| it.contains("Server 1")).then_some(())
    })
    .await;
    assert_eq!(joined(), 0);
    suite.clock.advance(Duration::minutes(31));
    eventually("the morning", async || (joined() == 1).then_some(())).await;
    suite.finish().await;
}

/// A watcher gets what is new as it comes, and after a break what it missed.
#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_misses_nothing() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let first = until_told(&world.owner, "member.joined", 3).await;
    all_told(&suite).await;
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{}", suite.address)).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut client = inv::notification_service_client::NotificationServiceClient::new(channel);
    let ask = |after: &str| {
        let after_notification_id = after.to_owned();
        let mut request = Request::new(inv::WatchNotificationsRequest { after_notification_id });
        let bearer = format!("Bearer {}", world.owner.token);
        request.metadata_mut().insert("authorization", bearer.parse().unwrap());
        request
    };
    let mut stream = client.watch_notifications(ask("")).await.unwrap().into_inner();
    let bob = suite.person("bob@example.com").await;
    admit(&world.admin, &world.org, &bob, "VIEWER").await;
    let new = stream.message().await.unwrap().unwrap();
    assert_eq!(new.notification.unwrap().title, "bob joined");
    assert!(new.unread_count >= 4);
    drop(stream);
    let mut again =
        client.watch_notifications(ask(&text(&first[1]["id"]))).await.unwrap().into_inner();
    let mut titles = vec![];
    while titles.last().is_none_or(|it| it != "bob joined") {
        titles.push(again.message().await.unwrap().unwrap().notification.unwrap().title);
    }
    assert!(titles.contains(&"viewer joined".to_owned()), "{titles:?}");
    assert!(!titles.contains(&"admin joined".to_owned()), "{titles:?}");
    // A stream ends with its session.
    let other = world.owner.again().await;
    let mut ended = client.watch_notifications(ask("")).await.unwrap().into_inner();
    other.tell("identity.v1.SessionService/RevokeOtherSessions", json!({})).await;
    let refused = loop {
        match ended.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    // A stream that stays open does not hold the end.
    suite.finish().await;
}

/// NO-2, NO-10: team inboxes are mailed as managers say; an address that is a stranger's to the project
/// is not.
#[tokio::test(flavor = "multi_thread")]
async fn team_inboxes_are_mailed_what_their_readers_may_see() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let recipients = json!(["oncall@example.org", world.developer.email]);
    let rule = json!({ "recipients": recipients, "eventTypes": ["monitoring.alert"] });
    assert_eq!(world.developer.refused(RULE, world.here(rule.clone())).await, "MISSING_PERMISSION");
    let wrong = [
        json!({ "recipients": ["nobody"] }),
        json!({ "recipients": [] }),
        json!({ "recipients": ["a@example.org"], "eventTypes": ["no.such"] }),
        json!({ "recipients": ["a@example.org"], "eventTypes": ["security.removed"] }),
    ];
    for it in wrong {
        assert_eq!(world.owner.refused(RULE, world.here(it)).await, "INVALID_FIELD");
    }
    let made = world.owner.tell(RULE, world.there(rule)).await;
    suite.report(alert(&world, true, inv::Severity::Critical)).await.unwrap();
    eventually("the mail", async || (mails(&suite, "oncall@example.org").len() == 1).then_some(()))
        .await;
    let mail = mails(&suite, "oncall@example.org").remove(0);
    assert!(mail.contains("List-Unsubscribe: <http://localhost"), "{mail}");
    eventually("no mail", async || (suite.count(SUPPRESSED).await == 1).then_some(())).await;
    assert!(!mails(&suite, &world.developer.email).iter().any(|it| it.contains("Server 1")));

    // One click, and no more.
    let link = mail.split("List-Unsubscribe: <").nth(1).unwrap().split('>').next().unwrap();
    let link = link.replace("localhost", "127.0.0.1");
    let http = reqwest::Client::new();
    let click = http.post(&link).form(&[("List-Unsubscribe", "One-Click")]).send().await.unwrap();
    assert_eq!(click.status(), 200);
    suite.report(alert(&world, true, inv::Severity::Warning)).await.unwrap();
    suite.report(alert(&world, true, inv::Severity::Unspecified)).await.unwrap();
    suite.report(alert(&world, true, inv::Severity::Critical)).await.unwrap();
    eventually("no more mail", async || (suite.count(SUPPRESSED).await >= 3).then_some(())).await;
    assert_eq!(mails(&suite, "oncall@example.org").len(), 1);

    let id = json!({ "mailRuleId": made["mailRule"]["id"] });
    let change =
        world.here(merge(id.clone(), json!({ "enabled": false, "updateMask": "enabled" })));
    world.owner.tell(CHANGE_RULE, change).await;
    let listed = world.owner.tell(RULES, world.here(json!({}))).await;
    assert_eq!(listed["mailRules"][0]["enabled"], json!(null));
    world.owner.tell(DELETE_RULE, world.here(id.clone())).await;
    assert_eq!(world.owner.refused(DELETE_RULE, world.here(id)).await, "NOT_FOUND");
    suite.finish().await;
}
