//! Blocked and deleted organizations, and projects in deletion: no task starts, no notification is sent.

use api::identity::Subscription;
use serde_json::{Value, json};
use testkit::{Options, Receiver, Suite, eventually};

use crate::{
    project::push_webhook::{push, rotate_hook},
    support::{
        fake_runner::{FakeRunner, success_result},
        hosting::{ENVIRONMENTS, PROJECTS, TASKS},
        world::{World, text},
    },
};

/// Waits until the project service has processed every event of a type of identity.
async fn wait_for_reaction(suite: &Suite, event: &str) {
    let missing = "select count(*) from identity.outbox as it where type = $1
                   and not exists (select from project.inbox where event_id = it.id)";
    eventually("the project service's reaction", async || {
        let name = format!("tenantry.identity.v1.{event}");
        let missing = sqlx::query_scalar::<_, i64>(missing).bind(name).fetch_one(&suite.pool);
        (missing.await.unwrap() == 0).then_some(())
    })
    .await;
}

/// Sets the subscription and waits for the reaction of the project service.
async fn set_subscription(suite: &Suite, runner: &FakeRunner, subscription: Subscription) {
    suite.set_subscription(&runner.hosting.world.org, subscription).await;
    wait_for_reaction(suite, "SubscriptionChanged").await;
}

const TASK_COUNT: &str = "select count(*) from project.task";

/// PL-4, PE-46: while the organization is blocked neither pushes nor waiting pushes nor queued tasks start;
/// queued tasks start when it is active again. PAST_DUE blocks nothing.
#[tokio::test(flavor = "multi_thread")]
async fn no_task_starts_for_a_blocked_organization() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    runner.heartbeat().await;
    let create = json!({ "name": "main", "autoDeploy": true, "serverId": runner.server });
    let id = hosting.create_environment(create).await;
    let hook = rotate_hook(hosting).await;

    set_subscription(&suite, &runner, Subscription::Blocked).await;
    let (status, answer) = push(&suite, &hook, "main").await;
    assert!(status == 200 && answer.contains("subscription is blocked"), "{status} {answer}");
    assert_eq!(
        (suite.count(TASK_COUNT).await, hosting.state(&id).await),
        (0, "PENDING".to_owned())
    );

    set_subscription(&suite, &runner, Subscription::PastDue).await;
    assert_eq!(push(&suite, &hook, "main").await.1, "1 deployed, 0 waiting");
    assert_eq!(push(&suite, &hook, "main").await.1, "0 deployed, 1 waiting");
    let lease = runner.lease_task().await;
    set_subscription(&suite, &runner, Subscription::Blocked).await;
    runner.finish_task(&lease, success_result()).await.unwrap();
    assert_eq!(
        (suite.count(TASK_COUNT).await, hosting.state(&id).await),
        (1, "RUNNING".to_owned())
    );

    set_subscription(&suite, &runner, Subscription::Active).await;
    let task = hosting.start_task("Deploy", &id, json!({})).await;
    set_subscription(&suite, &runner, Subscription::Blocked).await;
    assert_eq!(runner.lease_task().await, Value::Null, "a queued task was leased");
    set_subscription(&suite, &runner, Subscription::Active).await;
    let lease = runner.lease_task().await;
    assert_eq!(lease["taskId"], json!(task));
    runner.finish_task(&lease, success_result()).await.unwrap();
    suite.finish().await;
}

/// ID-34, PE-46: the environments of a deleted organization are stopped; neither pushes nor queued tasks
/// start.
#[tokio::test(flavor = "multi_thread")]
async fn no_task_starts_for_a_deleted_organization() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    runner.heartbeat().await;
    let fields =
        |name: &str| json!({ "name": name, "autoDeploy": true, "serverId": runner.server });
    let main = hosting.create_environment(fields("main")).await;
    let idle = hosting.create_environment(fields("idle")).await;
    hosting.start_task("Deploy", &main, json!({})).await;
    runner.finish_task(&runner.lease_task().await, success_result()).await.unwrap();
    let hook = rotate_hook(hosting).await;
    let delete = hosting.world.org_request(json!({ "confirmName": "acme", "cascade": true }));
    hosting.owner().call_ok("identity.v1.OrganizationService/DeleteOrganization", delete).await;
    wait_for_reaction(&suite, "OrganizationDeleted").await;

    let (status, answer) = push(&suite, &hook, "main").await;
    assert!(status == 200 && answer.contains("organization is deleted"), "{status} {answer}");
    assert_eq!(suite.count(TASK_COUNT).await, 2, "only the deployment and the stop");
    let stop = runner.lease_task().await;
    assert_eq!(stop["kind"], "TASK_KIND_STOP");
    runner.finish_task(&stop, json!({})).await.unwrap();

    // A task of a call that was authorized before the deletion and committed after it.
    let late_task =
        "insert into project.task (id, org_id, project_id, environment_id, kind, state, cause,
                    triggered_by, server_id, created_at)
                select gen_random_uuid(), org_id, project_id, id, 'deploy', 'queued', 'user',
                    gen_random_uuid(), server_id, now()
                from project.environment where id = $1::uuid";
    sqlx::query(late_task).bind(&idle).execute(&suite.pool).await.unwrap();
    assert_eq!(runner.lease_task().await, Value::Null);
    suite.finish().await;
}

/// ID-34: events of a deleted organization are sent to no person, webhook or team inbox.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_deleted_organization_are_not_sent() {
    let receiver = Receiver::start().await;
    let webhook_exceptions = vec![receiver.exception()];
    let suite = Suite::start_with(Options { webhook_exceptions, ..Options::default() }).await;
    let world = World::new(&suite).await;
    world.create_webhook(&receiver.url("/org"), json!({})).await;
    let rule = world.org_request(json!({ "recipients": ["team@example.com"] }));
    world.owner.call_ok("notification.v1.MailRuleService/CreateMailRule", rule).await;
    let alert = |target: &str| api::notification::ReportAlertRequest {
        org_id: world.org.clone(),
        kind: api::notification::AlertKind::ServerUnreachable.into(),
        target: target.to_owned(),
        target_name: target.to_owned(),
        severity: api::notification::Severity::Critical.into(),
        ..Default::default()
    };
    let requests = |target: &str| {
        receiver.requests_at("/org").iter().filter(|it| it.body.contains(target)).count()
    };
    suite.report_alert(alert("first-target")).await;
    eventually("the alert", async || (requests("first-target") > 0).then_some(())).await;
    let delete = world.org_request(json!({ "confirmName": "acme", "cascade": true }));
    world.owner.call_ok("identity.v1.OrganizationService/DeleteOrganization", delete).await;
    suite.report_alert(alert("second-target")).await;
    suite.wait_for_log().await;
    let unprocessed = "select count(*) from invitation.outbox as it
                where type = 'tenantry.notification.v1.AlertOpened'
                  and not exists (select from invitation.inbox where event_id = it.id)";
    eventually("the reaction", async || (suite.count(unprocessed).await == 0).then_some(())).await;
    let pending = "select count(*) from invitation.pending_event";
    eventually("the fan-out", async || (suite.count(pending).await == 0).then_some(())).await;
    let sent = "select (select count(*) from invitation.webhook_delivery
                        where body like '%second-target%')
                     + (select count(*) from invitation.digest_item
                        where title || body like '%second-target%')";
    assert_eq!((suite.count(sent).await, requests("second-target")), (0, 0));
    suite.finish().await;
}

/// PE-15, PE-46: neither a waiting push nor a person deploys into a project in deletion.
#[tokio::test(flavor = "multi_thread")]
async fn no_task_starts_in_a_project_in_deletion() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    runner.heartbeat().await;
    let create = json!({ "name": "main", "autoDeploy": true, "serverId": runner.server });
    let id = hosting.create_environment(create).await;
    for verb in ["Deploy", "Stop"] {
        hosting.start_task(verb, &id, json!({})).await;
        runner.finish_task(&runner.lease_task().await, success_result()).await.unwrap();
    }
    let hook = rotate_hook(hosting).await;
    suite.clock.advance(chassis::clock::Duration::seconds(60));
    assert_eq!(push(&suite, &hook, "main").await.1, "0 deployed, 1 waiting");
    runner.heartbeat().await;
    let delete = hosting.world.project_request(json!({ "confirmName": "Hosted", "confirm": true }));
    hosting.owner().call_ok(&format!("{PROJECTS}/DeleteProject"), delete.clone()).await;
    let tasks = hosting.request(&id, json!({}));
    let tasks = hosting.owner().call_ok(&format!("{TASKS}/ListTasks"), tasks).await;
    let cancel = hosting.world.project_request(json!({ "taskId": tasks["tasks"][0]["id"] }));
    hosting.owner().call_ok(&format!("{TASKS}/CancelTask"), cancel).await;
    assert_eq!(suite.count(TASK_COUNT).await, 3, "the waiting push is dropped");
    assert_eq!(hosting.call_err("Deploy", &id, json!({})).await, "INVALID_STATE");
    let update = hosting.request(&id, json!({ "branch": "x", "updateMask": "branch" }));
    let reason =
        hosting.owner().call_err(&format!("{ENVIRONMENTS}/UpdateEnvironment"), update).await;
    assert_eq!(reason, "INVALID_STATE");

    hosting.owner().call_ok(&format!("{PROJECTS}/DeleteProject"), delete).await;
    let destroy = runner.lease_task().await;
    assert_eq!(text(&destroy["kind"]), "TASK_KIND_DESTROY");
    runner.finish_task(&destroy, json!({})).await.unwrap();
    assert_eq!(suite.count("select count(*) from project.project where name = 'Hosted'").await, 0);
    suite.finish().await;
}
