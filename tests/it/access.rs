//! Who may do what, asked and done: roles, keys, replicas, consistency, and why.

use api::identity as id;
use serde_json::{Value, json};
use testkit::{Nats, Options, Person, Suite};
use tonic::Code;

use crate::world::{World, text};

const CHECK: &str = "identity.v1.AccessService/Check";
const EXPLAIN: &str = "identity.v1.AccessService/Explain";

/// The nine capabilities of the brief: a call that needs each, which of the four roles (owner, admin,
/// developer, viewer) may, and whether an API key may at all. Each call is malformed in a field that is
/// looked at only after the permission, so that it changes nothing.
fn capabilities() -> [(&'static str, &'static str, Value, [bool; 4], bool); 9] {
    let odd = json!({ "requestId": "x" });
    [
        ("view projects", "project.v1.ProjectService/GetProject", json!({}), [true; 4], true),
        (
            "deploy environments",
            "project.v1.EnvironmentService/DeployEnvironment",
            odd.clone(),
            [true, false, true, false],
            true,
        ),
        (
            "create projects",
            "project.v1.ProjectService/CreateProject",
            odd.clone(),
            [true, true, true, false],
            true,
        ),
        (
            "invite and remove members",
            "identity.v1.MemberService/RemoveMember",
            odd.clone(),
            [true, true, false, false],
            false,
        ),
        (
            "change roles",
            "identity.v1.MemberService/ChangeMemberRole",
            odd.clone(),
            [true, true, false, false],
            false,
        ),
        (
            "manage teams",
            "identity.v1.TeamService/CreateTeam",
            odd.clone(),
            [true, true, false, false],
            false,
        ),
        ("manage servers and settings", CHECK, json!({}), [true, true, false, false], false),
        (
            "manage billing",
            "identity.v1.OrganizationService/ChangePlan",
            odd.clone(),
            [true, false, false, false],
            false,
        ),
        (
            "delete the organization",
            "identity.v1.OrganizationService/DeleteOrganization",
            odd,
            [true, false, false, false],
            false,
        ),
    ]
}

/// PL-7, PL-9, PL-16, I-13, ID-14, ID-24, ID-34, ID-36, ID-42: the table of the brief holds by calls,
/// with a session and with a full key of the organization. A developer and a viewer have their role on
/// the project, an admin has none.
#[tokio::test(flavor = "multi_thread")]
async fn nine_capabilities_hold_for_four_roles_and_their_keys() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    world.grant(json!({ "userId": world.developer.user_id }), "DEVELOPER").await;
    world.grant(json!({ "userId": world.viewer.user_id }), "VIEWER").await;
    let people = [&world.owner, &world.admin, &world.developer, &world.viewer];
    let roles = ["OWNER", "ADMIN", "DEVELOPER", "VIEWER"];
    let mut keys = vec![];
    for (person, role) in people.iter().zip(roles) {
        keys.push(key_of(&world, person, role).await);
    }
    for (what, method, body, allowed, by_key) in capabilities() {
        for (i, may) in allowed.into_iter().enumerate() {
            let got = tried(&world, people[i], method, &body).await;
            assert_eq!(got, may, "{} and {what}", roles[i]);
            let got = tried(&world, &keys[i], method, &body).await;
            assert_eq!(got, may && by_key, "the key of {} and {what}", roles[i]);
        }
    }
    suite.finish().await;
}

/// A full key of the organization that belongs to somebody. Only Admins make keys, so who is less is raised
/// for that moment: the key's power is what its owner may at use.
async fn key_of(world: &World, person: &Person, role: &str) -> Person {
    let raised = matches!(role, "DEVELOPER" | "VIEWER");
    let set = async |role: &str| {
        let role = format!("ORG_ROLE_{role}");
        let change = world.here(json!({ "userId": person.user_id, "role": role }));
        world.owner.tell("identity.v1.MemberService/ChangeMemberRole", change).await;
    };
    if raised {
        set("ADMIN").await;
    }
    let create = world.here(json!({ "name": "ci", "full": true }));
    let created = person.tell("identity.v1.ApiKeyService/CreateApiKey", create).await;
    if raised {
        set(role).await;
    }
    person.with_token(&text(&created["token"]))
}

/// Whether a call gets past the permission.
async fn tried(world: &World, who: &Person, method: &str, body: &Value) -> bool {
    if method == CHECK {
        return world.may(who, "org.servers.manage").await;
    }
    let answer = who.ask(method, world.there_or_here(method, body.clone())).await;
    match answer.map_err(|it| it.code) {
        Ok(_) | Err(Code::InvalidArgument) => true,
        Err(Code::PermissionDenied | Code::NotFound) => false,
        Err(other) => panic!("{method}: {other:?}"),
    }
}

impl World {
    fn there_or_here(&self, method: &str, body: Value) -> Value {
        let of_project = method.ends_with("Environment") || method.ends_with("GetProject");
        if of_project { self.there(body) } else { self.here(body) }
    }
}

/// G-05, ID-46 to ID-51: a role that is lowered through one replica is lowered for the next call through the
/// other, and a right that is won is won at once, too.
#[tokio::test(flavor = "multi_thread")]
async fn what_changes_through_one_replica_is_so_through_the_other() {
    let nats = Nats::start();
    let options = Options { nats_url: Some(nats.url()), ..Options::default() };
    let first = Suite::start_with(options).await;
    let world = World::new(&first).await;
    let second = first.replica().await;
    let admin =
        Person { client: second.client.with_token(&world.admin.token), ..world.admin.clone() };
    let set = |role: &str| world.here(json!({ "userId": admin.user_id, "role": role }));
    for round in 0..20 {
        assert!(world.may(&admin, "org.teams.manage").await, "round {round}");
        let change = "identity.v1.MemberService/ChangeMemberRole";
        world.owner.tell(change, set("ORG_ROLE_VIEWER")).await;
        assert!(!world.may(&admin, "org.teams.manage").await, "round {round}");
        let create = world.here(json!({ "name": "x" }));
        let refused = admin.refused("identity.v1.TeamService/CreateTeam", create).await;
        assert_eq!(refused, "MISSING_PERMISSION");
        world.owner.tell(change, set("ORG_ROLE_ADMIN")).await;
    }
    second.leave().await;
    first.finish().await;
}

/// A token makes an answer know of a change; one of a change that nobody knows is refused; an age allows an
/// older answer, and never one older than a second.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_as_fresh_as_it_is_asked_to_be() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let ask = |consistency: Value| {
        let permission = "org.teams.manage";
        world.here(json!({ "permission": permission, "consistency": consistency }))
    };
    let before = world.admin.tell(CHECK, ask(json!({}))).await;
    let change = world.here(json!({ "userId": world.admin.user_id, "role": "ORG_ROLE_VIEWER" }));
    let changed = world.owner.tell("identity.v1.MemberService/ChangeMemberRole", change).await;
    let known =
        world.admin.tell(CHECK, ask(json!({ "atLeast": changed["consistencyToken"] }))).await;
    assert_eq!(known["allowed"], Value::Null, "{known}");
    assert_ne!(known["consistencyToken"], before["consistencyToken"]);
    let old = world.admin.tell(CHECK, ask(json!({ "maxAgeMs": 1000 }))).await;
    assert_eq!(old["allowed"], Value::Null, "what was read since is remembered");

    let mut ahead = data(&text(&changed["consistencyToken"]));
    *ahead.last_mut().unwrap() += 9;
    let ahead = token_of(&ahead);
    let refused = world.admin.refused(CHECK, ask(json!({ "atLeast": ahead }))).await;
    assert_eq!(refused, "CONSISTENCY_TOKEN_AHEAD");
    let refused = world.admin.refused(CHECK, ask(json!({ "atLeast": "no token" }))).await;
    assert_eq!(refused, "INVALID_FIELD");
    let refused = world.admin.refused(CHECK, ask(json!({ "maxAgeMs": 1001 }))).await;
    assert_eq!(refused, "INVALID_FIELD");
    suite.finish().await;
}

fn data(token: &str) -> Vec<u8> {
    data_encoding::BASE64URL_NOPAD.decode(token.as_bytes()).unwrap()
}

fn token_of(bytes: &[u8]) -> String {
    data_encoding::BASE64URL_NOPAD.encode(bytes)
}

/// I-22: answers of a batch stand where their questions stand, duplicates included.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_answers_by_index() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let item = |permission: &str| json!({ "orgId": world.org, "permission": permission });
    let nowhere = json!({ "orgId": chassis::id::new(), "permission": "org.view" });
    let items = json!([item("org.view"), item("org.update"), nowhere, item("org.view")]);
    let method = "identity.v1.AccessService/BatchCheck";
    let answer = world.viewer.tell(method, json!({ "items": items })).await;
    let allowed: Vec<_> =
        answer["answers"].as_array().unwrap().iter().map(|it| &it["allowed"]).collect();
    assert_eq!(allowed, [&json!(true), &Value::Null, &Value::Null, &json!(true)]);
    assert_eq!(answer["answers"][1]["reason"], "REASON_MISSING_PERMISSION");
    assert_eq!(answer["answers"][2]["reason"], "REASON_NOT_FOUND");
    let many = vec![item("org.view"); 129];
    assert_eq!(world.viewer.refused(method, json!({ "items": many })).await, "INVALID_FIELD");
    let wrong = json!({ "items": [item("org.view"), item("org.nope")] });
    let refusal = world.viewer.ask(method, wrong).await.unwrap_err();
    assert!(refusal.message.contains("items[1].permission"), "{refusal}");
    suite.finish().await;
}

/// ID-30: Explain tells the path, the missing role, the nearest changes, and the event behind a grant.
#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_explained() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let team = world.team("Support", &[]).await;
    world.grant(json!({ "teamId": team }), "DEVELOPER").await;
    world.grant(json!({ "userId": world.viewer.user_id }), "VIEWER").await;
    let deploy = world.there(json!({ "permission": "project.environments.deploy" }));
    let denied = world.viewer.tell(EXPLAIN, deploy.clone()).await;
    assert_eq!(denied["allowed"], Value::Null);
    assert_eq!(
        denied["explanation"],
        "viewer@example.com lacks project.environments.deploy: viewer@example.com has a grant of VIEWER on \
         the project, and it takes DEVELOPER on the project."
    );
    let remedies: Vec<_> =
        denied["remedies"].as_array().unwrap().iter().map(|it| text(&it["text"])).collect();
    assert_eq!(
        remedies,
        [
            "give viewer@example.com DEVELOPER on the project",
            "put viewer@example.com into the team Support, which has DEVELOPER on the project"
        ]
    );

    let add = world.here(json!({ "teamId": team, "userId": world.viewer.user_id }));
    world.owner.tell("identity.v1.TeamService/AddTeamMember", add).await;
    let allowed = world.viewer.tell(EXPLAIN, deploy.clone()).await;
    assert_eq!(allowed["allowed"], true);
    let step = &allowed["path"][0];
    assert_eq!(step["kind"], "STEP_KIND_TEAM_GRANT");
    suite.logged().await;
    let event = text(&step["eventId"]);
    let list = json!({ "orgId": world.org, "pageSize": 100 });
    let entries = world.owner.tell("audit.v1.AuditService/ListEntries", list).await;
    let told =
        entries["entries"].as_array().unwrap().iter().find(|it| it["envelope"]["id"] == event);
    let kind = text(&told.unwrap()["envelope"]["event"]["@type"]);
    assert!(kind.ends_with("ProjectAccessGranted"), "{kind}");

    // About others only Admins ask; an Admin without a grant sees how far their own right goes.
    let about = world.there(json!({
        "permission": "project.view", "userId": world.developer.user_id
    }));
    assert_eq!(world.viewer.refused(EXPLAIN, about.clone()).await, "MISSING_PERMISSION");
    let told = world.admin.tell(EXPLAIN, about).await;
    assert!(text(&told["explanation"]).contains("no role on the project"), "{told}");
    suite.finish().await;
}

/// Versioned grants: who could do something at a moment of the past, and what a change would do.
#[tokio::test(flavor = "multi_thread")]
async fn the_past_and_what_if_are_answered() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let team = world.team("Support", &[&world.viewer]).await;
    world.grant(json!({ "teamId": team }), "DEVELOPER").await;
    let moment = chassis::timestamp(suite.clock.now());
    suite.clock.advance(chassis::clock::Duration::minutes(1));

    let changes = json!([{ "deleteTeam": { "teamId": team } }]);
    let simulate = world.here(json!({ "changes": changes }));
    let method = "identity.v1.AccessService/SimulateAccess";
    let would = world.admin.tell(method, simulate).await;
    let difference = &would["differences"][0];
    assert_eq!(difference["userId"], world.viewer.user_id);
    assert_eq!(
        (&difference["roleBefore"], &difference["roleAfter"]),
        (&json!("DEVELOPER"), &Value::Null)
    );
    assert!(difference["lost"].as_array().unwrap().contains(&json!("project.environments.deploy")));
    let owner = json!([{ "removeMember": { "userId": world.owner.user_id } }]);
    let refused = world.admin.refused(method, world.here(json!({ "changes": owner }))).await;
    assert_eq!(refused, "OWNER_CANNOT_LEAVE");

    let holders = async |time: Option<&Value>| {
        let deploy = json!({ "permission": "project.environments.deploy", "time": time });
        let method = if time.is_some() { "WhoCouldOn" } else { "ListWhoCan" };
        let mut ask = world.there(deploy);
        if time.is_none() {
            ask.as_object_mut().unwrap().remove("time");
        }
        let method = format!("identity.v1.AccessService/{method}");
        let answer = world.admin.tell(&method, ask).await;
        let holders = answer["holders"].as_array().cloned().unwrap_or_default();
        holders.iter().map(|it| text(&it["userId"])).collect::<Vec<_>>()
    };
    let both = [world.owner.user_id.clone(), world.viewer.user_id.clone()];
    assert_eq!(holders(None).await, both);
    let delete = world.here(json!({ "teamId": team }));
    world.owner.tell("identity.v1.TeamService/DeleteTeam", delete).await;
    assert_eq!(holders(None).await, both[..1]);
    let moment = time_of(&moment);
    assert_eq!(holders(Some(&moment)).await, both, "as it was then");
    assert!(holders(Some(&json!("2020-01-01T00:00:00Z"))).await.is_empty());
    suite.finish().await;
}

fn time_of(at: &prost_types::Timestamp) -> Value {
    let it = prost_reflect::DynamicMessage::decode(
        prost_reflect::DescriptorPool::global()
            .get_message_by_name("google.protobuf.Timestamp")
            .unwrap(),
        prost::Message::encode_to_vec(at).as_slice(),
    );
    serde_json::to_value(it.unwrap()).unwrap()
}

/// PL-4, and 9.20: reads go on, changes are refused with the reason, and a restored subscription undoes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_subscription_refuses_changes_and_lets_reads_go_on() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    suite.subscribe(&world.org, id::Subscription::Blocked).await;
    let create = world.here(json!({ "name": "Support" }));
    let method = "identity.v1.TeamService/CreateTeam";
    assert_eq!(world.owner.refused(method, create.clone()).await, "SUBSCRIPTION_BLOCKED");
    let project =
        world.here(json!({ "name": "Two", "repositoryUrl": "https://git.example.com/a.git" }));
    let refused = world.owner.refused("project.v1.ProjectService/CreateProject", project).await;
    assert_eq!(refused, "SUBSCRIPTION_BLOCKED");
    // Who may not do it anyway is told that, not about money.
    assert_eq!(world.viewer.refused(method, create.clone()).await, "MISSING_PERMISSION");
    world.owner.tell("identity.v1.MemberService/ListMembers", world.here(json!({}))).await;
    world.owner.tell("project.v1.ProjectService/GetProject", world.there(json!({}))).await;
    suite.subscribe(&world.org, id::Subscription::Active).await;
    world.owner.tell(method, create).await;
    // Only the billing system says so.
    let set = world.here(json!({ "subscription": "SUBSCRIPTION_ACTIVE" }));
    let refused = world.owner.refused("identity.v1.OrganizationService/SetSubscription", set).await;
    assert_eq!(refused, "SERVICE_ONLY");
    suite.finish().await;
}

/// The matrix is the table that decides: what it says of each role is what Check says.
#[tokio::test(flavor = "multi_thread")]
async fn the_matrix_is_what_is_enforced() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let matrix =
        world.viewer.tell("identity.v1.AccessService/GetPermissionMatrix", json!({})).await;
    let people = [
        ("OWNER", &world.owner),
        ("ADMIN", &world.admin),
        ("DEVELOPER", &world.developer),
        ("VIEWER", &world.viewer),
    ];
    for (role, person) in people {
        for row in matrix["organization"].as_array().unwrap() {
            let permission = text(&row["permission"]);
            let says = row["roles"].as_array().unwrap().contains(&json!(role));
            assert_eq!(world.may(person, &permission).await, says, "{role} {permission}");
        }
    }
    for role in ["VIEWER", "DEVELOPER", "ADMIN"] {
        world.grant(json!({ "userId": world.viewer.user_id }), role).await;
        let mine = world.there(json!({}));
        let mine = world.viewer.tell("identity.v1.AccessService/ListMyPermissions", mine).await;
        for row in matrix["project"].as_array().unwrap() {
            let says = row["roles"].as_array().unwrap().contains(&json!(role));
            let held = mine["permissions"].as_array().unwrap().contains(&row["permission"]);
            assert_eq!(held, says, "{role} {row}");
        }
    }
    suite.finish().await;
}
