//! API keys: what they may, for how long, and how often.

use api::identity::{GetPermissionMatrixRequest, access_service_client::AccessServiceClient};
use serde_json::{Value, json};
use testkit::{Person, Suite};

use crate::world::{World, text};

const KEYS: &str = "identity.v1.ApiKeyService";
const GET: &str = "project.v1.ProjectService/GetProject";
const ENVIRONMENT: &str = "project.v1.EnvironmentService/CreateEnvironment";

async fn key(world: &World, of: &Person, more: Value) -> (Person, Value) {
    let create = world.here(more);
    let created = of.tell(&format!("{KEYS}/CreateApiKey"), create).await;
    (of.with_token(&text(&created["token"])), created["apiKey"].clone())
}

/// PL-7 to PL-11, PL-14 to PL-16, PE-13, ID-20, I-13: what bounds a key.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_bounded_by_its_scope_and_by_its_owner() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let create = format!("{KEYS}/CreateApiKey");
    let ci = world.here(json!({ "name": "ci" }));
    assert_eq!(world.developer.refused(&create, ci.clone()).await, "MISSING_PERMISSION");
    let free = json!({ "orgId": world.org, "plan": "PLAN_FREE" });
    world.owner.tell("identity.v1.OrganizationService/ChangePlan", free).await;
    assert_eq!(world.owner.refused(&create, ci).await, "PLAN_FEATURE_REQUIRED");
    world.owner.change_plan(&world.org, api::identity::Plan::Starter).await.unwrap();

    let (reader, told) = key(&world, &world.owner, json!({ "name": "reader" })).await;
    assert!(reader.token.starts_with(&text(&told["hint"])) && reader.token.starts_with("tny_key_"));
    reader.tell(GET, world.there(json!({}))).await;
    let name = json!({ "name": "main" });
    assert_eq!(reader.refused(ENVIRONMENT, world.there(name.clone())).await, "READ_ONLY_KEY");
    let (full, _) = key(&world, &world.owner, json!({ "name": "full", "full": true })).await;
    full.tell(ENVIRONMENT, world.there(name)).await;
    for (method, body) in [
        ("identity.v1.ApiKeyService/CreateApiKey", json!({ "name": "more" })),
        ("identity.v1.MemberService/ListMembers", json!({})),
        ("audit.v1.AuditService/ListEntries", json!({})),
    ] {
        assert_eq!(full.refused(method, world.here(body)).await, "SESSION_REQUIRED", "{method}");
    }
    assert_eq!(full.refused("identity.v1.UserService/GetMe", json!({})).await, "SESSION_REQUIRED");
    full.tell("identity.v1.AccessService/GetPermissionMatrix", json!({})).await;

    // A key of one project knows of no other, and does nothing in the organization.
    let bound = json!({ "name": "bound", "full": true, "projectId": world.project });
    let (bound, _) = key(&world, &world.owner, bound).await;
    let two = json!({ "name": "Two", "repositoryUrl": "https://git.example.com/a.git" });
    let create = "project.v1.ProjectService/CreateProject";
    assert_eq!(bound.refused(create, world.here(two.clone())).await, "ORG_SCOPE_REQUIRED");
    let delete = world.there(json!({ "confirmName": "Shop", "confirm": true }));
    let method = "project.v1.ProjectService/DeleteProject";
    assert_eq!(bound.refused(method, delete).await, "ORG_SCOPE_REQUIRED");
    let two = full.tell(create, world.here(two)).await;
    let two = world.here(json!({ "projectId": two["project"]["id"] }));
    assert_eq!(bound.refused(GET, two.clone()).await, "NOT_FOUND");
    full.tell(GET, two).await;
    let seen = bound.tell("project.v1.ProjectService/ListProjects", world.here(json!({}))).await;
    assert_eq!(seen["projects"].as_array().unwrap().len(), 1);
    let revoke = |id: &Value| world.here(json!({ "apiKeyId": id }));
    let method = format!("{KEYS}/RevokeApiKey");
    assert_eq!(bound.refused(&method, revoke(&told["id"])).await, "ORG_SCOPE_REQUIRED");
    full.tell(&method, revoke(&told["id"])).await;
    assert_eq!(reader.refused(GET, world.there(json!({}))).await, "INVALID_CREDENTIAL");

    // What its owner loses, it loses.
    let (admins, _) = key(&world, &world.admin, json!({ "name": "admin", "full": true })).await;
    let hooks = json!({ "orgId": world.org, "permission": "org.webhooks.manage", "write": true });
    let check = "identity.v1.AccessService/Check";
    assert_eq!(admins.tell(check, hooks.clone()).await["allowed"], true);
    let lower = world.here(json!({ "userId": world.admin.user_id, "role": "ORG_ROLE_VIEWER" }));
    world.owner.tell("identity.v1.MemberService/ChangeMemberRole", lower).await;
    assert_eq!(admins.tell(check, hooks.clone()).await["allowed"], Value::Null);
    let remove = world.here(json!({ "userId": world.admin.user_id }));
    let removed = world.owner.tell("identity.v1.MemberService/RemoveMember", remove).await;
    assert_eq!(removed["revokedKeyCount"], 1);
    suite.clock.advance(chassis::clock::Duration::seconds(2));
    let gone = admins.ask(check, hooks).await.map(|it| it["allowed"].clone());
    assert!(
        matches!(&gone, Ok(Value::Null)) || gone.is_err_and(|it| it.reason == "INVALID_CREDENTIAL")
    );
    suite.finish().await;
}

/// PL-12, PL-13: a key has its rates, and an address that guesses is blocked for a while; sessions are not.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_its_rates_and_a_guesser_is_blocked() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let (reader, _) = key(&world, &world.owner, json!({ "name": "reader" })).await;
    let mut served = 0;
    let refused = loop {
        match reader.ask(GET, world.there(json!({}))).await {
            Ok(_) => served += 1,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refused.reason, "RATE_LIMITED");
    assert!((120..130).contains(&served), "{served} reads within a minute");
    suite.clock.advance(chassis::clock::Duration::minutes(1));
    reader.tell(GET, world.there(json!({}))).await;

    let mut wrong = reader.token.clone();
    let last = if wrong.pop() == Some('a') { 'b' } else { 'a' };
    wrong.push(last);
    let guesser = reader.with_token(&wrong);
    for _ in 0..10 {
        assert_eq!(guesser.refused(GET, world.there(json!({}))).await, "INVALID_CREDENTIAL");
    }
    assert_eq!(guesser.refused(GET, world.there(json!({}))).await, "ADDRESS_BLOCKED");
    assert_eq!(reader.refused(GET, world.there(json!({}))).await, "ADDRESS_BLOCKED");
    world.owner.tell(GET, world.there(json!({}))).await;
    suite.clock.advance(chassis::clock::Duration::minutes(16));
    reader.tell(GET, world.there(json!({}))).await;
    suite.finish().await;
}

/// PL-15: there is one header for every credential; no other is looked at.
#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_header_for_credentials() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let (reader, _) = key(&world, &world.owner, json!({ "name": "reader" })).await;
    let channel = crate::raw::connect(suite.address).await;
    for (header, value, served) in [
        ("x-api-key", reader.token.clone(), false),
        ("authorization", reader.token.clone(), false),
        ("authorization", format!("Bearer {}", reader.token), true),
        ("authorization", format!("bearer {}", reader.token), true),
    ] {
        let mut client = AccessServiceClient::new(channel.clone());
        let mut request = tonic::Request::new(GetPermissionMatrixRequest {});
        request.metadata_mut().insert(header, value.parse().unwrap());
        let answer = client.get_permission_matrix(request).await;
        assert_eq!(answer.is_ok(), served, "{header} {answer:?}");
    }
    suite.finish().await;
}

/// A key ends when it says, and its list tells when it was last used, and never its secret.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_ends_in_its_time() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let (short, _) =
        key(&world, &world.owner, json!({ "name": "short", "expiresInDays": 1 })).await;
    let list = format!("{KEYS}/ListApiKeys");
    let used = async || {
        let listed = world.owner.again().await.tell(&list, world.here(json!({}))).await;
        assert!(!listed.to_string().contains(&short.token));
        listed["apiKeys"][0]["lastUseTime"].clone()
    };
    assert_eq!(used().await, Value::Null);
    short.tell(GET, world.there(json!({}))).await;
    assert_ne!(used().await, Value::Null);
    suite.clock.advance(chassis::clock::Duration::days(1));
    assert_eq!(short.refused(GET, world.there(json!({}))).await, "INVALID_CREDENTIAL");
    let dump =
        "select count(*) from identity.api_key where encode(secret_hash, 'escape') like '%tny_%'";
    assert_eq!(suite.count(dump).await, 0);
    suite.finish().await;
}
