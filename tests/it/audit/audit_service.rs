//! Lists and streams of audit entries: filters, order, permissions.

use std::time::Duration;

use api::audit::{self as pb, audit_service_client::AuditServiceClient};
use serde_json::{Value, json};
use testkit::{Suite, eventually};

use crate::support::{
    audit_client::{AuditClient, as_person},
    world::{World, text},
};

/// Actions of entries.
fn actions(entries: &[Value]) -> Vec<String> {
    entries.iter().map(|it| text(&it["action"])).collect()
}

/// Indexes of entries.
fn indexes(entries: &[Value]) -> Vec<u64> {
    entries.iter().map(|it| it["index"].as_str().unwrap_or("0").parse().unwrap()).collect()
}

/// AU-12, AU-13: every filter, alone and combined; newest entries first.
#[tokio::test(flavor = "multi_thread")]
async fn entries_are_filtered_by_every_field() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    let team = world.create_team("The Night Crew", &[&world.viewer]).await;
    world.grant(json!({ "userId": world.viewer.user_id }), "VIEWER").await;
    suite.wait_for_log().await;
    let all = log.entries(json!({})).await;
    let mut sorted = indexes(&all);
    sorted.sort_by_key(|it| std::cmp::Reverse(*it));
    assert_eq!(indexes(&all), sorted, "newest first");

    let exact = log.entries(json!({ "action": "team.member_added" })).await;
    assert_eq!(actions(&exact), ["team.member_added"]);
    let prefix = log.entries(json!({ "action": "team.*" })).await;
    assert_eq!(actions(&prefix), ["team.member_added", "team.created"]);
    assert!(log.entries(json!({ "action": "team.deleted" })).await.is_empty());
    let by_actor = log.entries(json!({ "actorId": world.admin.user_id })).await;
    assert!(
        by_actor.iter().all(|it| it["envelope"]["actor"]["id"] == world.admin.user_id.as_str())
    );
    let by_type = log.entries(json!({ "resourceType": "team" })).await;
    assert_eq!(by_type.len(), 2);
    let by_resource = log.entries(json!({ "resourceId": team })).await;
    assert_eq!(by_resource.len(), 2);
    let combined = json!({ "resourceId": team, "action": "team.created", "resourceType": "team",
                       "actorId": world.owner.user_id, "outcome": "OUTCOME_SUCCESS" });
    assert_eq!(log.entries(combined).await.len(), 1);
    let contradiction = json!({ "resourceId": team, "actorId": world.viewer.user_id });
    assert!(log.entries(contradiction).await.is_empty());
    // Free text: names of resources and people without case, and addresses.
    for (words, count) in [("night", 2), ("NIGHT CREW", 2), ("no such", 0)] {
        assert_eq!(log.entries(json!({ "text": words })).await.len(), count, "{words}");
    }
    assert!(!log.entries(json!({ "text": "viewer@" })).await.is_empty());
    let some = log.entries(json!({ "text": "night", "action": "team.created" })).await;
    assert_eq!(some.len(), 1);
    // Times: `from` is inclusive, `to` is exclusive.
    let time = text(&exact[0]["receiveTime"]);
    let later = log.entries(json!({ "from": time })).await;
    let earlier = log.entries(json!({ "to": time })).await;
    assert_eq!(later.len() + earlier.len(), all.len());
    assert!(indexes(&later).contains(&indexes(&exact)[0]));
    let list = log.org_request(json!({ "filter": { "from": time, "to": time } }));
    let reason = world.owner.call_err("audit.v1.AuditService/ListEntries", list).await;
    assert_eq!(reason, "INVALID_FIELD");
    suite.finish().await;
}

/// An entry has the changed fields, and the name and address of the actor at that time.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_shows_changes_and_the_actor_at_that_time() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    let promote =
        world.org_request(json!({ "userId": world.viewer.user_id, "role": "ORG_ROLE_DEVELOPER" }));
    world.owner.call_ok("identity.v1.MemberService/ChangeMemberRole", promote).await;
    let rename = json!({ "displayName": "Olga", "updateMask": "displayName" });
    world.owner.call_ok("identity.v1.UserService/UpdateProfile", rename).await;
    world.create_team("crew", &[]).await;
    suite.wait_for_log().await;
    let found = log.entries(json!({ "action": "member.role_changed" })).await;
    let change = &found[0]["changes"][0];
    assert_eq!(change["field"], "role");
    assert_eq!(change["before"], "\"ORG_ROLE_VIEWER\"");
    assert_eq!(change["after"], "\"ORG_ROLE_DEVELOPER\"");
    let before = &found[0]["envelope"]["actor"];
    assert_eq!(before["email"], "owner@example.com");
    assert_ne!(before["name"], "Olga");
    let after = log.entries(json!({ "action": "team.created" })).await;
    assert_eq!(after[0]["envelope"]["actor"]["name"], "Olga");
    // The text search finds entries by the name at their time.
    assert_eq!(log.entries(json!({ "text": "olga", "action": "team.*" })).await.len(), 1);
    suite.finish().await;
}

/// AU-12: new entries do not shift pages; a page token is bound to its filter.
#[tokio::test(flavor = "multi_thread")]
async fn pages_are_stable_while_entries_arrive() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    suite.wait_for_log().await;
    let all = indexes(&log.entries(json!({})).await);
    let mut listed = vec![];
    let mut token = String::new();
    for n in 0.. {
        let list = log.org_request(json!({ "pageSize": 3, "pageToken": token }));
        let page = world.owner.call_ok("audit.v1.AuditService/ListEntries", list).await;
        listed.extend(indexes(page["entries"].as_array().unwrap()));
        world.create_team(&format!("crew {n}"), &[]).await;
        suite.wait_for_log().await;
        token = text(&page["nextPageToken"]);
        if token.is_empty() {
            break;
        }
        let other =
            log.org_request(json!({ "pageToken": token, "filter": { "action": "team.*" } }));
        let reason = world.owner.call_err("audit.v1.AuditService/ListEntries", other).await;
        assert_eq!(reason, "INVALID_PAGE_TOKEN");
    }
    assert_eq!(listed, all);
    suite.finish().await;
}

/// AU-7, AU-8, AU-17: Owner and Admins read the whole log, the ADMIN of a project reads its entries, others
/// nothing; logs of other organizations are not readable.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_readable_with_permission_only() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    world.grant(json!({ "userId": world.developer.user_id }), "ADMIN").await;
    suite.wait_for_log().await;
    let list = "audit.v1.AuditService/ListEntries";
    for reader in [&world.owner, &world.admin] {
        reader.call_ok(list, world.org_request(json!({}))).await;
        let of_project = reader.call_ok(list, world.project_request(json!({}))).await;
        let entries = of_project["entries"].as_array().unwrap();
        assert!(!entries.is_empty());
        assert!(entries.iter().all(|it| it["envelope"]["projectId"] == world.project.as_str()));
    }
    let of_project = world.developer.call_ok(list, world.project_request(json!({}))).await;
    assert!(!of_project["entries"].as_array().unwrap().is_empty());
    for (reader, request) in [
        (&world.developer, world.org_request(json!({}))),
        (&world.viewer, world.org_request(json!({}))),
        (&world.viewer, world.project_request(json!({}))),
    ] {
        let reason = reader.call_err(list, request).await;
        assert!(["MISSING_PERMISSION", "NOT_FOUND"].contains(&reason.as_str()), "{reason}");
    }
    let mallory = suite.person("mallory@example.com").await;
    let her_org = mallory.create_organization("mallory").await.unwrap();
    assert_eq!(mallory.call_err(list, world.org_request(json!({}))).await, "NOT_FOUND");
    let mixed = json!({ "orgId": her_org, "projectId": world.project });
    assert_eq!(mallory.call_err(list, mixed).await, "NOT_FOUND");
    let hers = mallory.call_ok(list, json!({ "orgId": her_org })).await.to_string();
    assert!(!hers.contains("owner@example.com") && !hers.contains(&world.org));
    suite.finish().await;
}

/// AU-20: the entries of a deleted project stay readable for the Owner and Admins, by project and in the list
/// of the organization; for others, and with an unknown id, the project does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_deleted_project_stays_readable() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    world.grant(json!({ "userId": world.developer.user_id }), "ADMIN").await;
    let delete = world.project_request(json!({ "confirmName": "Shop", "confirm": true }));
    world.owner.call_ok("project.v1.ProjectService/DeleteProject", delete).await;
    let get = "project.v1.ProjectService/GetProject";
    eventually("the deletion of the project", async || {
        let found = world.owner.call(get, world.project_request(json!({}))).await;
        found.is_err().then_some(())
    })
    .await;
    suite.wait_for_log().await;
    let list = "audit.v1.AuditService/ListEntries";
    eventually("the removal of the grants", async || {
        let found = world.developer.call(list, world.project_request(json!({}))).await;
        found.is_err().then_some(())
    })
    .await;
    suite.wait_for_log().await;
    for reader in [&world.owner, &world.admin] {
        let of_project = reader.call_ok(list, world.project_request(json!({}))).await;
        let actions = actions(of_project["entries"].as_array().unwrap());
        for action in ["project.created", "project.deleted"] {
            assert!(actions.contains(&action.to_owned()), "{action} in {actions:?}");
        }
    }
    let deleted = log.entries(json!({ "action": "project.deleted" })).await;
    assert_eq!(deleted[0]["envelope"]["projectId"], world.project.as_str());
    let watch = pb::WatchEntriesRequest {
        org_id: world.org.clone(),
        project_id: world.project.clone(),
        from_index: Some(0),
        ..Default::default()
    };
    let mut client = AuditServiceClient::new(log.channel.clone());
    let stream = client.watch_entries(as_person(&world.owner, watch)).await.unwrap();
    let first = stream.into_inner().message().await.unwrap().unwrap().entry.unwrap();
    assert_eq!(first.envelope.unwrap().project_id, world.project);

    for reader in [&world.developer, &world.viewer] {
        let reason = reader.call_err(list, world.project_request(json!({}))).await;
        assert_eq!(reason, "NOT_FOUND");
    }
    let mallory = suite.person("mallory@example.com").await;
    let reason = mallory.call_err(list, world.project_request(json!({}))).await;
    assert_eq!(reason, "NOT_FOUND");
    let unknown = world.org_request(json!({ "projectId": chassis::id::new().to_string() }));
    assert_eq!(world.owner.call_err(list, unknown).await, "NOT_FOUND");
    suite.finish().await;
}

/// AU-7: people read the entries about their own account, including failed sign-ins of others.
#[tokio::test(flavor = "multi_thread")]
async fn people_read_the_entries_about_their_account() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let bob = suite.person("bob@example.com").await;
    let wrong = json!({ "email": "ann@example.com", "password": "not her password" });
    assert_eq!(bob.call_err("identity.v1.SessionService/Login", wrong).await, "INVALID_LOGIN");
    suite.wait_for_log().await;
    let hers = ann.call_ok("audit.v1.AuditService/ListAccountEntries", json!({})).await;
    let hers = actions(hers["entries"].as_array().unwrap());
    for action in ["user.registered", "user.email_verified", "user.logged_in", "user.login_failed"]
    {
        assert!(hers.contains(&action.to_owned()), "{action} in {hers:?}");
    }
    let his = bob.call_ok("audit.v1.AuditService/ListAccountEntries", json!({})).await;
    assert!(!his.to_string().contains("ann@example.com"));
    suite.finish().await;
}

/// A stream delivers new entries, resumes at an index, and ends with the permission of its reader.
#[tokio::test(flavor = "multi_thread")]
async fn entries_are_streamed_as_they_arrive() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    suite.wait_for_log().await;
    let watch = pb::WatchEntriesRequest {
        org_id: world.org.clone(),
        filter: Some(pb::EntryFilter { action: "team.*".to_owned(), ..Default::default() }),
        ..Default::default()
    };
    let mut client = AuditServiceClient::new(log.channel.clone());
    let answer = client.watch_entries(as_person(&world.admin, watch.clone())).await.unwrap();
    let mut stream = answer.into_inner();
    world.create_team("crew", &[&world.viewer]).await;
    let mut received = vec![];
    for _ in 0..2 {
        let next = tokio::time::timeout(Duration::from_secs(30), stream.message());
        let entry = next.await.unwrap().unwrap().unwrap().entry.unwrap();
        received.push((entry.index, entry.action));
    }
    assert_eq!(received[0].1, "team.created");
    assert_eq!(received[1].1, "team.member_added");
    let from = pb::WatchEntriesRequest { from_index: Some(received[1].0), ..watch };
    let answer = client.watch_entries(as_person(&world.admin, from)).await.unwrap();
    let first = answer.into_inner().message().await.unwrap().unwrap().entry.unwrap();
    assert_eq!(first.index, received[1].0);
    let demote =
        world.org_request(json!({ "userId": world.admin.user_id, "role": "ORG_ROLE_VIEWER" }));
    world.owner.call_ok("identity.v1.MemberService/ChangeMemberRole", demote).await;
    let error = async {
        loop {
            if let Err(status) = stream.message().await {
                return status;
            }
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(30), error).await.unwrap();
    assert_eq!(ended.code(), tonic::Code::PermissionDenied);
    suite.finish().await;
}

/// AU-6: denials are logged at most once a minute, with their number; calls of strangers are not in the log
/// of the organization.
#[tokio::test(flavor = "multi_thread")]
async fn denials_are_logged_once_a_minute() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    let create = "identity.v1.TeamService/CreateTeam";
    for _ in 0..5 {
        let reason = world.viewer.call_err(create, world.org_request(json!({ "name": "x" }))).await;
        assert_eq!(reason, "MISSING_PERMISSION");
    }
    let mallory = suite.person("mallory@example.com").await;
    assert_eq!(
        mallory.call_err(create, world.org_request(json!({ "name": "x" }))).await,
        "NOT_FOUND"
    );
    suite.wait_for_log().await;
    let denied = log.entries(json!({ "outcome": "OUTCOME_DENIED" })).await;
    assert_eq!(denied.len(), 1);
    let envelope = &denied[0]["envelope"];
    assert_eq!(denied[0]["action"], "permission.denied");
    assert_eq!(envelope["actor"]["id"], world.viewer.user_id.as_str());
    assert_eq!(envelope["reason"], "MISSING_PERMISSION");
    assert_eq!(envelope["event"]["permission"], "org.teams.manage");
    assert_eq!(envelope["event"]["count"], 1);
    suite.clock.advance(chassis::clock::Duration::seconds(61));
    world.viewer.call_err(create, world.org_request(json!({ "name": "x" }))).await;
    suite.wait_for_log().await;
    let denied = log.entries(json!({ "outcome": "OUTCOME_DENIED" })).await;
    let counted: i64 =
        denied.iter().filter_map(|it| it["envelope"]["event"]["count"].as_i64()).sum();
    assert_eq!(counted, 6, "all six denials are counted");
    suite.finish().await;
}
