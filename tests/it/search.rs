//! Looking into the audit log: who may, what is found, and in which order.

use std::time::Duration;

use api::audit::{self as pb, audit_service_client::AuditServiceClient};
use serde_json::{Value, json};
use testkit::Suite;

use crate::{
    ledger::{Ledger, as_person},
    world::{World, text},
};

fn actions(entries: &[Value]) -> Vec<String> {
    entries.iter().map(|it| text(&it["action"])).collect()
}

fn indexes(entries: &[Value]) -> Vec<u64> {
    entries.iter().map(|it| it["index"].as_str().unwrap_or("0").parse().unwrap()).collect()
}

/// AU-13: every filter, alone and together. AU-12: newest first.
#[tokio::test(flavor = "multi_thread")]
async fn entries_are_found_by_everything_that_is_given() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let ledger = Ledger::new(&suite, &world.owner, &world.org).await;
    let team = world.team("The Night Crew", &[&world.viewer]).await;
    world.grant(json!({ "userId": world.viewer.user_id }), "VIEWER").await;
    suite.logged().await;
    let all = ledger.find(json!({})).await;
    let mut sorted = indexes(&all);
    sorted.sort_by_key(|it| std::cmp::Reverse(*it));
    assert_eq!(indexes(&all), sorted, "newest first");

    let exact = ledger.find(json!({ "action": "team.member_added" })).await;
    assert_eq!(actions(&exact), ["team.member_added"]);
    let prefix = ledger.find(json!({ "action": "team.*" })).await;
    assert_eq!(actions(&prefix), ["team.member_added", "team.created"]);
    assert!(ledger.find(json!({ "action": "team.deleted" })).await.is_empty());
    let by = ledger.find(json!({ "actorId": world.admin.user_id })).await;
    assert!(by.iter().all(|it| it["envelope"]["actor"]["id"] == world.admin.user_id.as_str()));
    let kind = ledger.find(json!({ "resourceType": "team" })).await;
    assert_eq!(kind.len(), 2);
    let object = ledger.find(json!({ "resourceId": team })).await;
    assert_eq!(object.len(), 2);
    let both = json!({ "resourceId": team, "action": "team.created", "resourceType": "team",
                       "actorId": world.owner.user_id, "outcome": "OUTCOME_SUCCESS" });
    assert_eq!(ledger.find(both).await.len(), 1);
    let neither = json!({ "resourceId": team, "actorId": world.viewer.user_id });
    assert!(ledger.find(neither).await.is_empty());
    // Free text: names of objects and of people, in any case, and addresses.
    for (letters, count) in [("night", 2), ("NIGHT CREW", 2), ("no such", 0)] {
        assert_eq!(ledger.find(json!({ "text": letters })).await.len(), count, "{letters}");
    }
    assert!(!ledger.find(json!({ "text": "viewer@" })).await.is_empty());
    let some = ledger.find(json!({ "text": "night", "action": "team.created" })).await;
    assert_eq!(some.len(), 1);
    // Times: what was received at a moment or later, and before another one.
    let moment = text(&exact[0]["receiveTime"]);
    let later = ledger.find(json!({ "from": moment })).await;
    let earlier = ledger.find(json!({ "to": moment })).await;
    assert_eq!(later.len() + earlier.len(), all.len());
    assert!(indexes(&later).contains(&indexes(&exact)[0]));
    let list = ledger.here(json!({ "filter": { "from": moment, "to": moment } }));
    let refused = world.owner.refused("audit.v1.AuditService/ListEntries", list).await;
    assert_eq!(refused, "INVALID_FIELD");
    suite.finish().await;
}

/// The difference of before and after, and who it was with name and address as of then.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_tells_what_changed_and_who_it_was_then() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let ledger = Ledger::new(&suite, &world.owner, &world.org).await;
    let promote =
        world.here(json!({ "userId": world.viewer.user_id, "role": "ORG_ROLE_DEVELOPER" }));
    world.owner.tell("identity.v1.MemberService/ChangeMemberRole", promote).await;
    let rename = json!({ "displayName": "Olga", "updateMask": "displayName" });
    world.owner.tell("identity.v1.UserService/UpdateProfile", rename).await;
    world.team("crew", &[]).await;
    suite.logged().await;
    let found = ledger.find(json!({ "action": "member.role_changed" })).await;
    let change = &found[0]["changes"][0];
    assert_eq!(change["field"], "role");
    assert_eq!(change["before"], "\"ORG_ROLE_VIEWER\"");
    assert_eq!(change["after"], "\"ORG_ROLE_DEVELOPER\"");
    let before = &found[0]["envelope"]["actor"];
    assert_eq!(before["email"], "owner@example.com");
    assert_ne!(before["name"], "Olga");
    let after = ledger.find(json!({ "action": "team.created" })).await;
    assert_eq!(after[0]["envelope"]["actor"]["name"], "Olga");
    // Both names find what was done under either.
    assert_eq!(ledger.find(json!({ "text": "olga", "action": "team.*" })).await.len(), 1);
    suite.finish().await;
}

/// AU-12: pages do not move while new entries arrive, and a token is good for its own list only.
#[tokio::test(flavor = "multi_thread")]
async fn pages_stay_where_they_are_while_entries_arrive() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let ledger = Ledger::new(&suite, &world.owner, &world.org).await;
    suite.logged().await;
    let all = indexes(&ledger.find(json!({})).await);
    let (mut seen, mut token) = (vec![], String::new());
    for n in 0.. {
        let list = ledger.here(json!({ "pageSize": 3, "pageToken": token }));
        let page = world.owner.tell("audit.v1.AuditService/ListEntries", list).await;
        seen.extend(indexes(page["entries"].as_array().unwrap()));
        world.team(&format!("crew {n}"), &[]).await;
        suite.logged().await;
        token = text(&page["nextPageToken"]);
        if token.is_empty() {
            break;
        }
        let other = ledger.here(json!({ "pageToken": token, "filter": { "action": "team.*" } }));
        let refused = world.owner.refused("audit.v1.AuditService/ListEntries", other).await;
        assert_eq!(refused, "INVALID_PAGE_TOKEN");
    }
    assert_eq!(seen, all);
    suite.finish().await;
}

/// AU-7, AU-8, AU-17: Owner and Admins read all, a project's ADMIN reads that project, others nothing; nobody
/// reads another organization's.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_which_log() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    world.grant(json!({ "userId": world.developer.user_id }), "ADMIN").await;
    suite.logged().await;
    let list = "audit.v1.AuditService/ListEntries";
    for reader in [&world.owner, &world.admin] {
        reader.tell(list, world.here(json!({}))).await;
        let of_project = reader.tell(list, world.there(json!({}))).await;
        let entries = of_project["entries"].as_array().unwrap();
        assert!(!entries.is_empty());
        assert!(entries.iter().all(|it| it["envelope"]["projectId"] == world.project.as_str()));
    }
    let of_project = world.developer.tell(list, world.there(json!({}))).await;
    assert!(!of_project["entries"].as_array().unwrap().is_empty());
    for (reader, question) in [
        (&world.developer, world.here(json!({}))),
        (&world.viewer, world.here(json!({}))),
        (&world.viewer, world.there(json!({}))),
    ] {
        let refused = reader.refused(list, question).await;
        assert!(["MISSING_PERMISSION", "NOT_FOUND"].contains(&refused.as_str()), "{refused}");
    }
    let mallory = suite.person("mallory@example.com").await;
    let hers = mallory.create_organization("mallory").await.unwrap();
    assert_eq!(mallory.refused(list, world.here(json!({}))).await, "NOT_FOUND");
    let mixed = json!({ "orgId": hers, "projectId": world.project });
    assert_eq!(mallory.refused(list, mixed).await, "NOT_FOUND");
    let hers = mallory.tell(list, json!({ "orgId": hers })).await.to_string();
    assert!(!hers.contains("owner@example.com") && !hers.contains(&world.org));
    suite.finish().await;
}

/// AU-7: everybody reads what happened to their own account, also what others tried.
#[tokio::test(flavor = "multi_thread")]
async fn everybody_reads_what_happened_to_their_account() {
    let suite = Suite::start().await;
    let (ann, bob) = (suite.person("ann@example.com").await, suite.person("bob@example.com").await);
    let wrong = json!({ "email": "ann@example.com", "password": "not her password" });
    assert_eq!(bob.refused("identity.v1.SessionService/Login", wrong).await, "INVALID_LOGIN");
    suite.logged().await;
    let hers = ann.tell("audit.v1.AuditService/ListAccountEntries", json!({})).await;
    let told = actions(hers["entries"].as_array().unwrap());
    for action in ["auth.registered", "auth.email_verified", "auth.login", "auth.login_failed"] {
        assert!(told.contains(&action.to_owned()), "{action} in {told:?}");
    }
    let his = bob.tell("audit.v1.AuditService/ListAccountEntries", json!({})).await;
    assert!(!his.to_string().contains("ann@example.com"));
    suite.finish().await;
}

/// Entries are watched as they come, from where the reader left off, until the right is gone.
#[tokio::test(flavor = "multi_thread")]
async fn entries_are_watched_as_they_come() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let ledger = Ledger::new(&suite, &world.owner, &world.org).await;
    suite.logged().await;
    let watch = pb::WatchEntriesRequest {
        org_id: world.org.clone(),
        filter: Some(pb::EntryFilter { action: "team.*".to_owned(), ..Default::default() }),
        ..Default::default()
    };
    let mut client = AuditServiceClient::new(ledger.channel.clone());
    let answer = client.watch_entries(as_person(&world.admin, watch.clone())).await.unwrap();
    let mut stream = answer.into_inner();
    world.team("crew", &[&world.viewer]).await;
    let mut told = vec![];
    for _ in 0..2 {
        let next = tokio::time::timeout(Duration::from_secs(30), stream.message());
        let entry = next.await.unwrap().unwrap().unwrap().entry.unwrap();
        told.push((entry.index, entry.action));
    }
    assert_eq!(told[0].1, "team.created");
    assert_eq!(told[1].1, "team.member_added");
    let from = pb::WatchEntriesRequest { from_index: told[1].0, ..watch };
    let answer = client.watch_entries(as_person(&world.admin, from)).await.unwrap();
    let first = answer.into_inner().message().await.unwrap().unwrap().entry.unwrap();
    assert_eq!(first.index, told[1].0);
    let demote = world.here(json!({ "userId": world.admin.user_id, "role": "ORG_ROLE_VIEWER" }));
    world.owner.tell("identity.v1.MemberService/ChangeMemberRole", demote).await;
    let ended = async {
        loop {
            if let Err(status) = stream.message().await {
                return status;
            }
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(30), ended).await.unwrap();
    assert_eq!(ended.code(), tonic::Code::PermissionDenied);
    suite.finish().await;
}

/// AU-6: who is refused is in the log, at most once a minute, with how often; who may not know that there is
/// something leaves no trace in a log that is not theirs.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_once_a_minute() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let ledger = Ledger::new(&suite, &world.owner, &world.org).await;
    let create = "identity.v1.TeamService/CreateTeam";
    for _ in 0..5 {
        let refused = world.viewer.refused(create, world.here(json!({ "name": "x" }))).await;
        assert_eq!(refused, "MISSING_PERMISSION");
    }
    let mallory = suite.person("mallory@example.com").await;
    assert_eq!(mallory.refused(create, world.here(json!({ "name": "x" }))).await, "NOT_FOUND");
    suite.logged().await;
    let denied = ledger.find(json!({ "outcome": "OUTCOME_DENIED" })).await;
    assert_eq!(denied.len(), 1);
    let it = &denied[0]["envelope"];
    assert_eq!(denied[0]["action"], "permission.denied");
    assert_eq!(it["actor"]["id"], world.viewer.user_id.as_str());
    assert_eq!(it["reason"], "MISSING_PERMISSION");
    assert_eq!(it["event"]["permission"], "org.teams.manage");
    assert_eq!(it["event"]["count"], 1);
    suite.clock.advance(chassis::clock::Duration::seconds(61));
    world.viewer.refused(create, world.here(json!({ "name": "x" }))).await;
    suite.logged().await;
    let denied = ledger.find(json!({ "outcome": "OUTCOME_DENIED" })).await;
    let counted: i64 =
        denied.iter().filter_map(|it| it["envelope"]["event"]["count"].as_i64()).sum();
    assert_eq!(counted, 6, "none of the six is forgotten");
    suite.finish().await;
}
