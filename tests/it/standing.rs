//! Organizations that are deleted or blocked, and projects that are being deleted: nothing starts there by
//! itself.

use api::identity::Subscription;
use serde_json::{Value, json};
use testkit::{Options, Receiver, Suite, eventually};

use crate::{
    hosting::{ENVIRONMENTS, PROJECTS, TASKS},
    pushes::{hook, push},
    tasks::{Hand, served},
    world::{World, text},
};

/// Waits until the project service has acted on every event of this type.
async fn learned(suite: &Suite, event: &str) {
    let missing = "select count(*) from identity.outbox as it where type = $1
                   and not exists (select from project.inbox where event_id = it.id)";
    eventually("the project service's reaction", async || {
        let name = format!("tenantry.identity.v1.{event}");
        let missing = sqlx::query_scalar::<_, i64>(missing).bind(name).fetch_one(&suite.pool);
        (missing.await.unwrap() == 0).then_some(())
    })
    .await;
}

async fn subscribe(suite: &Suite, hand: &Hand, subscription: Subscription) {
    suite.subscribe(&hand.hosting.world.org, subscription).await;
    learned(suite, "SubscriptionChanged").await;
}

const TASK_COUNT: &str = "select count(*) from project.task";

/// PE-46, PL-4: a push, one that waited, and a runner that asks for work start nothing as long as the
/// organization is blocked. What people queued goes on when it no longer is. A late payment blocks nothing.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_starts_for_a_blocked_organization() {
    let suite = Suite::start().await;
    let hand = Hand::new(&suite).await;
    let it = &hand.hosting;
    hand.beat().await;
    let draft = json!({ "name": "main", "autoDeploy": true, "serverId": hand.server });
    let id = it.environment_with(draft).await;
    let hook = hook(it).await;

    subscribe(&suite, &hand, Subscription::Blocked).await;
    let (status, answer) = push(&suite, &hook, "main").await;
    assert!(status == 200 && answer.contains("subscription is blocked"), "{status} {answer}");
    assert_eq!((suite.count(TASK_COUNT).await, it.state(&id).await), (0, "PENDING".to_owned()));

    subscribe(&suite, &hand, Subscription::PastDue).await;
    assert_eq!(push(&suite, &hook, "main").await.1, "1 deployed, 0 waiting");
    assert_eq!(push(&suite, &hook, "main").await.1, "0 deployed, 1 waiting");
    let lease = hand.lease().await;
    subscribe(&suite, &hand, Subscription::Blocked).await;
    hand.finish(&lease, served()).await.unwrap();
    assert_eq!((suite.count(TASK_COUNT).await, it.state(&id).await), (1, "RUNNING".to_owned()));

    subscribe(&suite, &hand, Subscription::Active).await;
    let task = it.queue("Deploy", &id, json!({})).await;
    subscribe(&suite, &hand, Subscription::Blocked).await;
    assert_eq!(hand.lease().await, Value::Null, "it waits in its queue");
    subscribe(&suite, &hand, Subscription::Active).await;
    let lease = hand.lease().await;
    assert_eq!(lease["taskId"], json!(task));
    hand.finish(&lease, served()).await.unwrap();
    suite.finish().await;
}

/// ID-34, PE-46: a deleted organization ends what it runs; a push, and what waits for a runner, start
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_starts_for_a_deleted_organization() {
    let suite = Suite::start().await;
    let hand = Hand::new(&suite).await;
    let it = &hand.hosting;
    hand.beat().await;
    let draft = |name: &str| json!({ "name": name, "autoDeploy": true, "serverId": hand.server });
    let (main, idle) =
        (it.environment_with(draft("main")).await, it.environment_with(draft("idle")).await);
    it.queue("Deploy", &main, json!({})).await;
    hand.finish(&hand.lease().await, served()).await.unwrap();
    let hook = hook(it).await;
    let delete = it.world.here(json!({ "confirmName": "acme", "cascade": true }));
    it.owner().tell("identity.v1.OrganizationService/DeleteOrganization", delete).await;
    learned(&suite, "OrganizationDeleted").await;

    let (status, answer) = push(&suite, &hook, "main").await;
    assert!(status == 200 && answer.contains("organization was deleted"), "{status} {answer}");
    assert_eq!(suite.count(TASK_COUNT).await, 2, "the deployment, and the stop that follows");
    let stop = hand.lease().await;
    assert_eq!(stop["kind"], "TASK_KIND_STOP");
    hand.finish(&stop, json!({})).await.unwrap();

    // As if a call that was let in before the deletion had come to its end after it.
    let late =
        "insert into project.task (id, org_id, project_id, environment_id, kind, state, cause,
                    triggered_by, server_id, created_at)
                select gen_random_uuid(), org_id, project_id, id, 'deploy', 'queued', 'user',
                    gen_random_uuid(), server_id, now()
                from project.environment where id = $1::uuid";
    sqlx::query(late).bind(&idle).execute(&suite.pool).await.unwrap();
    assert_eq!(hand.lease().await, Value::Null);
    suite.finish().await;
}

/// ID-34: nobody is told of a deleted organization, no webhook and no team inbox, either.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_of_a_deleted_organization() {
    let receiver = Receiver::start().await;
    let webhook_exceptions = vec![receiver.exception()];
    let suite = Suite::start_with(Options { webhook_exceptions, ..Options::default() }).await;
    let world = World::new(&suite).await;
    world.hook(&receiver.url("/org"), json!({})).await;
    let rule = world.here(json!({ "recipients": ["team@example.com"] }));
    world.owner.tell("invitation.v1.MailRuleService/CreateMailRule", rule).await;
    let alert = |target: &str| api::invitation::ReportAlertRequest {
        org_id: world.org.clone(),
        kind: api::invitation::AlertKind::ServerUnreachable.into(),
        target: target.to_owned(),
        target_name: target.to_owned(),
        severity: api::invitation::Severity::Critical.into(),
        ..Default::default()
    };
    let posts = |target: &str| {
        receiver.posts_at("/org").iter().filter(|it| it.body.contains(target)).count()
    };
    suite.report(alert("first-target")).await;
    eventually("the alert", async || (posts("first-target") > 0).then_some(())).await;
    let delete = world.here(json!({ "confirmName": "acme", "cascade": true }));
    world.owner.tell("identity.v1.OrganizationService/DeleteOrganization", delete).await;
    suite.report(alert("second-target")).await;
    suite.logged().await;
    let kept = "select count(*) from invitation.outbox as it
                where type = 'tenantry.invitation.v1.AlertOpened'
                  and not exists (select from invitation.inbox where event_id = it.id)";
    eventually("the reaction", async || (suite.count(kept).await == 0).then_some(())).await;
    let waits = "select count(*) from invitation.news";
    eventually("the editor", async || (suite.count(waits).await == 0).then_some(())).await;
    let told = "select (select count(*) from invitation.webhook_delivery
                        where body like '%second-target%')
                     + (select count(*) from invitation.digest_item
                        where title || body like '%second-target%')";
    assert_eq!((suite.count(told).await, posts("second-target")), (0, 0));
    suite.finish().await;
}

/// PE-15, PE-46: a push that waited does not deploy into a project that is being deleted, and nobody else
/// does.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_starts_in_a_project_that_is_being_deleted() {
    let suite = Suite::start().await;
    let hand = Hand::new(&suite).await;
    let it = &hand.hosting;
    hand.beat().await;
    let draft = json!({ "name": "main", "autoDeploy": true, "serverId": hand.server });
    let id = it.environment_with(draft).await;
    for verb in ["Deploy", "Stop"] {
        it.queue(verb, &id, json!({})).await;
        hand.finish(&hand.lease().await, served()).await.unwrap();
    }
    let hook = hook(it).await;
    suite.clock.advance(chassis::clock::Duration::seconds(60));
    assert_eq!(push(&suite, &hook, "main").await.1, "0 deployed, 1 waiting");
    hand.beat().await;
    let delete = it.world.there(json!({ "confirmName": "Hosted", "confirm": true }));
    it.owner().tell(&format!("{PROJECTS}/DeleteProject"), delete.clone()).await;
    let tasks = it.of(&id, json!({}));
    let tasks = it.owner().tell(&format!("{TASKS}/ListTasks"), tasks).await;
    let cancel = it.world.there(json!({ "taskId": tasks["tasks"][0]["id"] }));
    it.owner().tell(&format!("{TASKS}/CancelTask"), cancel).await;
    assert_eq!(suite.count(TASK_COUNT).await, 3, "what waited stays undone");
    assert_eq!(it.refused("Deploy", &id, json!({})).await, "INVALID_STATE");
    let update = it.of(&id, json!({ "branch": "x", "updateMask": "branch" }));
    let refused = it.owner().refused(&format!("{ENVIRONMENTS}/UpdateEnvironment"), update).await;
    assert_eq!(refused, "INVALID_STATE");

    it.owner().tell(&format!("{PROJECTS}/DeleteProject"), delete).await;
    let destroy = hand.lease().await;
    assert_eq!(text(&destroy["kind"]), "TASK_KIND_DESTROY");
    hand.finish(&destroy, json!({})).await.unwrap();
    assert_eq!(suite.count("select count(*) from project.project where name = 'Hosted'").await, 0);
    suite.finish().await;
}
