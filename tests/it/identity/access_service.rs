//! Permission checks: roles, API keys, replicas, consistency tokens, explanations, history and simulation.

use api::identity as id;
use serde_json::{Value, json};
use testkit::{Nats, Options, Person, Suite};

use crate::support::world::{World, text};

const CHECK: &str = "identity.v1.AccessService/Check";
const EXPLAIN: &str = "identity.v1.AccessService/Explain";

/// G-05, ID-46 to ID-51: a change of a role through one replica takes effect for the next call through the
/// other.
#[tokio::test(flavor = "multi_thread")]
async fn role_changes_take_effect_on_every_replica() {
    let nats = Nats::start();
    let options = Options { nats_url: Some(nats.url()), ..Options::default() };
    let first = Suite::start_with(options).await;
    let world = World::new(&first).await;
    let second = first.replica().await;
    let admin =
        Person { client: second.client.with_token(&world.admin.token), ..world.admin.clone() };
    let with_role =
        |role: &str| world.org_request(json!({ "userId": admin.user_id, "role": role }));
    for round in 0..20 {
        assert!(world.is_allowed(&admin, "org.teams.manage").await, "round {round}");
        let change = "identity.v1.MemberService/ChangeMemberRole";
        world.owner.call_ok(change, with_role("ORG_ROLE_VIEWER")).await;
        assert!(!world.is_allowed(&admin, "org.teams.manage").await, "round {round}");
        let create = world.org_request(json!({ "name": "x" }));
        let reason = admin.call_err("identity.v1.TeamService/CreateTeam", create).await;
        assert_eq!(reason, "MISSING_PERMISSION");
        world.owner.call_ok(change, with_role("ORG_ROLE_ADMIN")).await;
    }
    second.stop_replica().await;
    first.finish().await;
}

/// A consistency token makes a check see a change; the token of a future version is rejected; `maxAgeMs`
/// allows cached decisions of up to one second.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_is_as_fresh_as_its_consistency_token() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let check = |consistency: Value| {
        let permission = "org.teams.manage";
        world.org_request(json!({ "permission": permission, "consistency": consistency }))
    };
    let before = world.admin.call_ok(CHECK, check(json!({}))).await;
    let change =
        world.org_request(json!({ "userId": world.admin.user_id, "role": "ORG_ROLE_VIEWER" }));
    let changed = world.owner.call_ok("identity.v1.MemberService/ChangeMemberRole", change).await;
    let current =
        world.admin.call_ok(CHECK, check(json!({ "atLeast": changed["consistencyToken"] }))).await;
    assert_eq!(current["allowed"], Value::Null, "{current}");
    assert_ne!(current["consistencyToken"], before["consistencyToken"]);
    let cached = world.admin.call_ok(CHECK, check(json!({ "maxAgeMs": 1000 }))).await;
    assert_eq!(cached["allowed"], Value::Null, "the cache holds the newer decision");

    let mut ahead = decode(&text(&changed["consistencyToken"]));
    *ahead.last_mut().unwrap() += 9;
    let ahead = encode(&ahead);
    let reason = world.admin.call_err(CHECK, check(json!({ "atLeast": ahead }))).await;
    assert_eq!(reason, "CONSISTENCY_TOKEN_AHEAD");
    let reason = world.admin.call_err(CHECK, check(json!({ "atLeast": "no token" }))).await;
    assert_eq!(reason, "INVALID_FIELD");
    let reason = world.admin.call_err(CHECK, check(json!({ "maxAgeMs": 1001 }))).await;
    assert_eq!(reason, "INVALID_FIELD");
    suite.finish().await;
}

fn decode(token: &str) -> Vec<u8> {
    data_encoding::BASE64URL_NOPAD.decode(token.as_bytes()).unwrap()
}

fn encode(bytes: &[u8]) -> String {
    data_encoding::BASE64URL_NOPAD.encode(bytes)
}

/// I-22: answers of a batch are in the order of their items, duplicates included.
#[tokio::test(flavor = "multi_thread")]
async fn batch_answers_are_in_the_order_of_their_items() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let item = |permission: &str| json!({ "orgId": world.org, "permission": permission });
    let unknown = json!({ "orgId": chassis::id::new(), "permission": "org.view" });
    let items = json!([item("org.view"), item("org.update"), unknown, item("org.view")]);
    let method = "identity.v1.AccessService/BatchCheck";
    let answer = world.viewer.call_ok(method, json!({ "items": items })).await;
    let allowed: Vec<_> =
        answer["answers"].as_array().unwrap().iter().map(|it| &it["allowed"]).collect();
    assert_eq!(allowed, [&json!(true), &Value::Null, &Value::Null, &json!(true)]);
    assert_eq!(answer["answers"][1]["reason"], "REASON_MISSING_PERMISSION");
    assert_eq!(answer["answers"][2]["reason"], "REASON_NOT_FOUND");
    let many = vec![item("org.view"); 129];
    assert_eq!(world.viewer.call_err(method, json!({ "items": many })).await, "INVALID_FIELD");
    let wrong = json!({ "items": [item("org.view"), item("org.nope")] });
    let refusal = world.viewer.call(method, wrong).await.unwrap_err();
    assert!(refusal.message.contains("items[1].permission"), "{refusal}");
    suite.finish().await;
}

/// ID-30: Explain returns the path of a decision, the missing role, the smallest remedies, and the event of a
/// grant.
#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_explained() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let team = world.create_team("Support", &[]).await;
    world.grant(json!({ "teamId": team }), "DEVELOPER").await;
    world.grant(json!({ "userId": world.developer.user_id }), "VIEWER").await;
    let deploy = world.project_request(json!({ "permission": "project.environments.deploy" }));
    let denied = world.developer.call_ok(EXPLAIN, deploy.clone()).await;
    assert_eq!(denied["allowed"], Value::Null);
    assert_eq!(
        denied["explanation"],
        "developer@example.com lacks project.environments.deploy: developer@example.com has the role VIEWER \
         on the project by a direct grant, but the role DEVELOPER on the project is required."
    );
    let remedies: Vec<_> =
        denied["remedies"].as_array().unwrap().iter().map(|it| text(&it["text"])).collect();
    assert_eq!(
        remedies,
        [
            "give developer@example.com the role DEVELOPER on the project",
            "add developer@example.com to the team Support, which has the role DEVELOPER on the project"
        ]
    );

    let add = world.org_request(json!({ "teamId": team, "userId": world.developer.user_id }));
    world.owner.call_ok("identity.v1.TeamService/AddTeamMember", add).await;
    let allowed = world.developer.call_ok(EXPLAIN, deploy.clone()).await;
    assert_eq!(allowed["allowed"], true);
    let step = &allowed["path"][0];
    assert_eq!(step["kind"], "STEP_KIND_TEAM_GRANT");
    suite.wait_for_log().await;
    let event = text(&step["eventId"]);
    let list = json!({ "orgId": world.org, "pageSize": 100 });
    let entries = world.owner.call_ok("audit.v1.AuditService/ListEntries", list).await;
    let entry =
        entries["entries"].as_array().unwrap().iter().find(|it| it["envelope"]["id"] == event);
    let kind = text(&entry.unwrap()["envelope"]["event"]["@type"]);
    assert!(kind.ends_with("ProjectAccessGranted"), "{kind}");

    // Only Admins get explanations about other people.
    let about_other = world.project_request(json!({
        "permission": "project.view", "userId": world.viewer.user_id
    }));
    assert_eq!(world.developer.call_err(EXPLAIN, about_other.clone()).await, "MISSING_PERMISSION");
    let explained = world.admin.call_ok(EXPLAIN, about_other).await;
    let explanation = text(&explained["explanation"]);
    assert!(explanation.contains("no role on the project"), "{explained}");
    suite.finish().await;
}

/// Versioned grants: holders of a permission at a time of the past, and the effect of a simulated change.
#[tokio::test(flavor = "multi_thread")]
async fn past_holders_and_simulated_changes_are_reported() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let team = world.create_team("Support", &[&world.developer]).await;
    world.grant(json!({ "teamId": team }), "DEVELOPER").await;
    let before_deletion = chassis::timestamp(suite.clock.now());
    suite.clock.advance(chassis::clock::Duration::minutes(1));

    let changes = json!([{ "deleteTeam": { "teamId": team } }]);
    let simulate = world.org_request(json!({ "changes": changes }));
    let method = "identity.v1.AccessService/SimulateAccess";
    let simulated = world.admin.call_ok(method, simulate).await;
    let difference = &simulated["differences"][0];
    assert_eq!(difference["userId"], world.developer.user_id);
    assert_eq!(
        (&difference["roleBefore"], &difference["roleAfter"]),
        (&json!("DEVELOPER"), &Value::Null)
    );
    assert!(difference["lost"].as_array().unwrap().contains(&json!("project.environments.deploy")));
    let remove_owner = json!([{ "removeMember": { "userId": world.owner.user_id } }]);
    let reason =
        world.admin.call_err(method, world.org_request(json!({ "changes": remove_owner }))).await;
    assert_eq!(reason, "OWNER_CANNOT_LEAVE");

    let holders = async |time: Option<&Value>| {
        let deploy = json!({ "permission": "project.environments.deploy", "time": time });
        let method = if time.is_some() { "WhoCouldOn" } else { "ListWhoCan" };
        let mut request = world.project_request(deploy);
        if time.is_none() {
            request.as_object_mut().unwrap().remove("time");
        }
        let method = format!("identity.v1.AccessService/{method}");
        let answer = world.admin.call_ok(&method, request).await;
        let holders = answer["holders"].as_array().cloned().unwrap_or_default();
        holders.iter().map(|it| text(&it["userId"])).collect::<Vec<_>>()
    };
    let both = [world.owner.user_id.clone(), world.developer.user_id.clone()];
    assert_eq!(holders(None).await, both);
    let delete = world.org_request(json!({ "teamId": team }));
    world.owner.call_ok("identity.v1.TeamService/DeleteTeam", delete).await;
    assert_eq!(holders(None).await, both[..1]);
    let before_deletion = json_time(&before_deletion);
    assert_eq!(holders(Some(&before_deletion)).await, both);
    assert!(holders(Some(&json!("2020-01-01T00:00:00Z"))).await.is_empty());
    suite.finish().await;
}

fn json_time(time: &prost_types::Timestamp) -> Value {
    let message = prost_reflect::DynamicMessage::decode(
        prost_reflect::DescriptorPool::global()
            .get_message_by_name("google.protobuf.Timestamp")
            .unwrap(),
        prost::Message::encode_to_vec(time).as_slice(),
    );
    serde_json::to_value(message.unwrap()).unwrap()
}

/// PL-4, PL-5: a blocked subscription allows reads and rejects changes until it is active again; only the
/// Owner sees its state.
#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_subscription_rejects_changes_and_allows_reads() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    suite.set_subscription(&world.org, id::Subscription::Blocked).await;
    let create = world.org_request(json!({ "name": "Support" }));
    let method = "identity.v1.TeamService/CreateTeam";
    assert_eq!(world.owner.call_err(method, create.clone()).await, "SUBSCRIPTION_BLOCKED");
    let project = world
        .org_request(json!({ "name": "Two", "repositoryUrl": "https://git.example.com/a.git" }));
    let reason = world.owner.call_err("project.v1.ProjectService/CreateProject", project).await;
    assert_eq!(reason, "SUBSCRIPTION_BLOCKED");
    // Only the Owner sees the state of the subscription.
    let get = "identity.v1.OrganizationService/GetOrganization";
    for (person, expected) in [
        (&world.owner, json!("SUBSCRIPTION_BLOCKED")),
        (&world.admin, Value::Null),
        (&world.viewer, Value::Null),
    ] {
        let got = person.call_ok(get, world.org_request(json!({}))).await;
        assert_eq!(got["organization"]["subscription"], expected);
        let usage = "identity.v1.OrganizationService/GetUsage";
        let usage = person.call_ok(usage, world.org_request(json!({}))).await;
        assert_eq!(usage["subscription"], expected);
    }
    // A missing permission is reported before the subscription.
    assert_eq!(world.viewer.call_err(method, create.clone()).await, "MISSING_PERMISSION");
    world
        .owner
        .call_ok("identity.v1.MemberService/ListMembers", world.org_request(json!({})))
        .await;
    world
        .owner
        .call_ok("project.v1.ProjectService/GetProject", world.project_request(json!({})))
        .await;
    suite.set_subscription(&world.org, id::Subscription::Active).await;
    world.owner.call_ok(method, create).await;
    // Only the billing system may set a subscription.
    let set = world.org_request(json!({ "subscription": "SUBSCRIPTION_ACTIVE" }));
    let reason = world.owner.call_err("identity.v1.OrganizationService/SetSubscription", set).await;
    assert_eq!(reason, "SERVICE_ONLY");
    suite.finish().await;
}

/// The published permission matrix agrees with Check for every role.
#[tokio::test(flavor = "multi_thread")]
async fn the_permission_matrix_is_enforced() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let matrix =
        world.viewer.call_ok("identity.v1.AccessService/GetPermissionMatrix", json!({})).await;
    let people = [
        ("OWNER", &world.owner),
        ("ADMIN", &world.admin),
        ("DEVELOPER", &world.developer),
        ("VIEWER", &world.viewer),
    ];
    for (role, person) in people {
        for row in matrix["organization"].as_array().unwrap() {
            let permission = text(&row["permission"]);
            let listed = row["roles"].as_array().unwrap().contains(&json!(role));
            assert_eq!(world.is_allowed(person, &permission).await, listed, "{role} {permission}");
        }
    }
    for role in ["VIEWER", "DEVELOPER", "ADMIN"] {
        world.grant(json!({ "userId": world.developer.user_id }), role).await;
        let mine = world.project_request(json!({}));
        let mine =
            world.developer.call_ok("identity.v1.AccessService/ListMyPermissions", mine).await;
        for row in matrix["project"].as_array().unwrap() {
            let listed = row["roles"].as_array().unwrap().contains(&json!(role));
            let held = mine["permissions"].as_array().unwrap().contains(&row["permission"]);
            assert_eq!(held, listed, "{role} {row}");
        }
    }
    suite.finish().await;
}
