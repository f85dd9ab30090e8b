//! Concurrent acceptances and deployments, for which limits hold exactly, and starts.

use std::{collections::BTreeMap, sync::Arc};

use api::{identity as id, project as prj};
use chassis::{Db, FaultInjection, clock::Clock, key::Key};
use sqlx::{Connection, Executor, PgConnection, PgPool};
use tenantry::client::CallError;
use testkit::{Database, Suite, eventually};

use crate::{
    invitation::acceptance::{accept_with, invite},
    support::world::create_project,
};

/// IN-13, ID-12: ten guests on a link with three uses, then on one free seat.
#[tokio::test(flavor = "multi_thread")]
async fn acceptances_are_limited_by_uses_and_seats() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let org_id = ann.create_organization("acme").await.unwrap();
    let mut guests = vec![];
    for i in 0..10 {
        guests.push(suite.person(&format!("guest{i}@example.com")).await);
    }
    invite(&ann, &org_id, "link@example.com", id::OrgRole::Viewer, 3, vec![]).await.unwrap();
    let token = suite.mailbox.token("link@example.com", "tny_inv_").await.unwrap();
    assert_eq!(
        all_accept(&guests, &token).await,
        outcomes(&[("INVITATION_EXHAUSTED", 7), ("OK", 3)])
    );

    // The organization has four members now, and the plan STARTER has five seats.
    invite(&ann, &org_id, "more@example.com", id::OrgRole::Viewer, 10, vec![]).await.unwrap();
    let token = suite.mailbox.token("more@example.com", "tny_inv_").await.unwrap();
    ann.change_plan(&org_id, id::Plan::Starter).await.unwrap();
    let outcome_counts = all_accept(&guests, &token).await;
    let expected = outcomes(&[("ALREADY_MEMBER", 3), ("MEMBER_LIMIT_REACHED", 6), ("OK", 1)]);
    assert_eq!(outcome_counts, expected);
    assert_eq!(suite.count("select count(*) from identity.member").await, 5);
    suite.finish().await;
}

/// Expected numbers of guests by outcome.
fn outcomes(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
    counts.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
}

/// All guests accept at once and retry conflicts; returns the number of guests by outcome.
async fn all_accept(guests: &[testkit::Person], token: &str) -> BTreeMap<String, usize> {
    let mut tasks = tokio::task::JoinSet::new();
    for guest in guests {
        let guest = guest.clone();
        let token = token.to_owned();
        tasks.spawn(async move {
            loop {
                match accept_with(&guest, &token).await {
                    Ok(_) => return "OK".to_owned(),
                    Err(refusal) if refusal.reason == "CONFLICT" => {}
                    Err(refusal) => return refusal.reason,
                }
            }
        });
    }
    let mut outcomes = BTreeMap::new();
    for outcome in tasks.join_all().await {
        *outcomes.entry(outcome).or_default() += 1;
    }
    outcomes
}

/// PE-24, PE-25: of concurrent deployments one starts a task; the same request id returns the same task.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_deployments_start_one_task() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let org_id = ann.create_organization("acme").await.unwrap();
    let project_id = create_project(&ann, &org_id).await;
    let create = prj::CreateEnvironmentRequest {
        org_id: org_id.clone(),
        project_id: project_id.clone(),
        name: "main".to_owned(),
        ..Default::default()
    };
    let method = "tenantry.project.v1.EnvironmentService/CreateEnvironment";
    let created: prj::CreateEnvironmentResponse = ann.client.call(method, create).await.unwrap();
    let environment_id = created.environment.unwrap().id;
    let request_id = chassis::id::new().to_string();
    let deploy = |request_id: String| prj::DeployEnvironmentRequest {
        org_id: org_id.clone(),
        project_id: project_id.clone(),
        environment_id: environment_id.clone(),
        request_id,
        modules: vec![],
    };
    let mut tasks = tokio::task::JoinSet::new();
    let client = Arc::new(ann.client.clone());
    for i in 0..16 {
        let request_id =
            if i % 2 == 0 { request_id.clone() } else { chassis::id::new().to_string() };
        let client = client.clone();
        let deploy = deploy(request_id.clone());
        tasks.spawn(async move {
            let method = "tenantry.project.v1.EnvironmentService/DeployEnvironment";
            let answer: Result<prj::DeployEnvironmentResponse, CallError> =
                client.call(method, deploy).await;
            answer.map(|it| it.task.unwrap().id).map_err(|it| it.reason)
        });
    }
    let answers = tasks.join_all().await;
    let mut ids: Vec<_> = answers.iter().filter_map(|it| it.as_ref().ok()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 1, "number of started tasks: {answers:?}");
    let reasons = answers.iter().filter_map(|it| it.as_ref().err());
    assert!(reasons.clone().all(|it| it == "TASK_IN_PROGRESS"), "unexpected reason: {answers:?}");
    // At least 7 of the 8 calls with request ids of their own.
    assert!(reasons.count() >= 7, "too few calls failed: {answers:?}");
    let queued = "select count(*) from project.task";
    assert_eq!(suite.count(queued).await, 1);
    suite.finish().await;
}

/// Replicas that start on a new database at the same time register their key one after the other: the same
/// key once, and no second one.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_register_their_key_at_the_same_time() {
    let database = Database::new().await;
    let folder = tempfile::tempdir().unwrap();
    let (right, wrong) = (folder.path().join("right.key"), folder.path().join("wrong.key"));
    std::fs::write(&right, "1".repeat(64)).unwrap();
    std::fs::write(&wrong, "2".repeat(64)).unwrap();
    let (right, wrong) = (Key::read(&right).unwrap(), Key::read(&wrong).unwrap());
    let faults = FaultInjection::default();
    let db = Db::new("identity", database.options.clone(), Clock::default(), faults, &right, 4);
    let mut other = PgConnection::connect(&database.url()).await.unwrap();
    other.execute("delete from identity.deployment_key").await.unwrap();
    other.execute("begin").await.unwrap();
    // The replica that is faster, just before its commit.
    sqlx::query("insert into identity.deployment_key (check_value) values ($1)")
        .bind(&right.check_value()[..])
        .execute(&mut other)
        .await
        .unwrap();
    let registering = [&right, &wrong].map(|key| {
        let (db, key) = (db.clone(), key.clone());
        tokio::spawn(async move { db.register_key(&key).await })
    });
    let observer = PgPool::connect(&database.url()).await.unwrap();
    let waiting = "select count(*) from pg_stat_activity
                   where datname = current_database() and wait_event_type = 'Lock'";
    eventually("a replica that waits", async || {
        let count: i64 = sqlx::query_scalar(waiting).fetch_one(&observer).await.unwrap();
        (count > 0).then_some(())
    })
    .await;
    observer.close().await;
    other.execute("commit").await.unwrap();
    let [same, different] = registering;
    same.await.unwrap().unwrap();
    let error = different.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("was set up with the key"), "{error}");
    let keys = "select count(*) from identity.deployment_key";
    assert_eq!(sqlx::query_scalar::<_, i64>(keys).fetch_one(&mut other).await.unwrap(), 1);
    db.close().await;
    database.drop().await;
}
