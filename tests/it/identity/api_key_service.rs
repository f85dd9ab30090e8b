//! API keys: scopes, expiry and rate limits.

use api::identity::{GetPermissionMatrixRequest, access_service_client::AccessServiceClient};
use serde_json::{Value, json};
use testkit::{Person, Suite};

use crate::support::{
    raw,
    world::{World, text},
};

const KEYS: &str = "identity.v1.ApiKeyService";
const GET: &str = "project.v1.ProjectService/GetProject";
const ENVIRONMENT: &str = "project.v1.EnvironmentService/CreateEnvironment";

/// Creates an API key; returns its owner with the key as credential, and the key as JSON.
pub(crate) async fn create_key(world: &World, owner: &Person, fields: Value) -> (Person, Value) {
    let create = world.org_request(fields);
    let created = owner.call_ok(&format!("{KEYS}/CreateApiKey"), create).await;
    (owner.with_token(&text(&created["token"])), created["apiKey"].clone())
}

/// PL-7 to PL-11, PL-14 to PL-16, PE-13, ID-20, I-13: limits of a key.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_limited_by_its_scope_and_its_owner() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let create = format!("{KEYS}/CreateApiKey");
    let ci = world.org_request(json!({ "name": "ci" }));
    assert_eq!(world.developer.call_err(&create, ci.clone()).await, "MISSING_PERMISSION");
    let free = json!({ "orgId": world.org, "plan": "PLAN_FREE" });
    world.owner.call_ok("identity.v1.BillingService/ChangePlan", free).await;
    assert_eq!(world.owner.call_err(&create, ci).await, "PLAN_FEATURE_REQUIRED");
    world.owner.change_plan(&world.org, api::identity::Plan::Starter).await.unwrap();

    let (reader, reader_key) = create_key(&world, &world.owner, json!({ "name": "reader" })).await;
    assert!(
        reader.token.starts_with(&text(&reader_key["hint"]))
            && reader.token.starts_with("tny_key_")
    );
    reader.call_ok(GET, world.project_request(json!({}))).await;
    let name = json!({ "name": "main" });
    assert_eq!(
        reader.call_err(ENVIRONMENT, world.project_request(name.clone())).await,
        "READ_ONLY_KEY"
    );
    let (full, _) = create_key(&world, &world.owner, json!({ "name": "full", "full": true })).await;
    full.call_ok(ENVIRONMENT, world.project_request(name)).await;
    for (method, body) in [
        ("identity.v1.ApiKeyService/CreateApiKey", json!({ "name": "more" })),
        ("identity.v1.MemberService/ListMembers", json!({})),
        ("audit.v1.AuditService/ListEntries", json!({})),
    ] {
        assert_eq!(
            full.call_err(method, world.org_request(body)).await,
            "SESSION_REQUIRED",
            "{method}"
        );
    }
    assert_eq!(full.call_err("identity.v1.UserService/GetMe", json!({})).await, "SESSION_REQUIRED");
    full.call_ok("identity.v1.AccessService/GetPermissionMatrix", json!({})).await;

    // A key of a project has no access to other projects or to the organization.
    let bound = json!({ "name": "bound", "full": true, "projectId": world.project });
    let (bound, _) = create_key(&world, &world.owner, bound).await;
    let two = json!({ "name": "Two", "repositoryUrl": "https://git.example.com/a.git" });
    let create = "project.v1.ProjectService/CreateProject";
    assert_eq!(bound.call_err(create, world.org_request(two.clone())).await, "ORG_SCOPE_REQUIRED");
    let delete = world.project_request(json!({ "confirmName": "Shop", "confirm": true }));
    let method = "project.v1.ProjectService/DeleteProject";
    assert_eq!(bound.call_err(method, delete).await, "ORG_SCOPE_REQUIRED");
    let two = full.call_ok(create, world.org_request(two)).await;
    let two = world.org_request(json!({ "projectId": two["project"]["id"] }));
    assert_eq!(bound.call_err(GET, two.clone()).await, "NOT_FOUND");
    full.call_ok(GET, two).await;
    let listed =
        bound.call_ok("project.v1.ProjectService/ListProjects", world.org_request(json!({}))).await;
    assert_eq!(listed["projects"].as_array().unwrap().len(), 1);
    let revoke = |id: &Value| world.org_request(json!({ "apiKeyId": id }));
    let method = format!("{KEYS}/RevokeApiKey");
    assert_eq!(bound.call_err(&method, revoke(&reader_key["id"])).await, "ORG_SCOPE_REQUIRED");
    full.call_ok(&method, revoke(&reader_key["id"])).await;
    assert_eq!(reader.call_err(GET, world.project_request(json!({}))).await, "INVALID_CREDENTIAL");

    // A key loses the permissions that its owner loses.
    let (admin_key, _) =
        create_key(&world, &world.admin, json!({ "name": "admin", "full": true })).await;
    let check_webhooks =
        json!({ "orgId": world.org, "permission": "org.webhooks.manage", "write": true });
    let check = "identity.v1.AccessService/Check";
    assert_eq!(admin_key.call_ok(check, check_webhooks.clone()).await["allowed"], true);
    let demote =
        world.org_request(json!({ "userId": world.admin.user_id, "role": "ORG_ROLE_VIEWER" }));
    world.owner.call_ok("identity.v1.MemberService/ChangeMemberRole", demote).await;
    assert_eq!(admin_key.call_ok(check, check_webhooks.clone()).await["allowed"], Value::Null);
    let remove = world.org_request(json!({ "userId": world.admin.user_id }));
    let removed = world.owner.call_ok("identity.v1.MemberService/RemoveMember", remove).await;
    assert_eq!(removed["revokedKeyCount"], 1);
    suite.clock.advance(chassis::clock::Duration::seconds(2));
    let after_removal = admin_key.call(check, check_webhooks).await.map(|it| it["allowed"].clone());
    assert!(
        matches!(&after_removal, Ok(Value::Null))
            || after_removal.is_err_and(|it| it.reason == "INVALID_CREDENTIAL")
    );
    suite.finish().await;
}

/// PL-12, PL-13: requests of a key are limited; keys from an address that guesses are blocked for 15 minutes,
/// sessions are not.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_rate_limits_and_guessing_addresses_are_blocked() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let (reader, _) = create_key(&world, &world.owner, json!({ "name": "reader" })).await;
    let mut reads = 0;
    let refusal = loop {
        match reader.call(GET, world.project_request(json!({}))).await {
            Ok(_) => reads += 1,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal.reason, "RATE_LIMITED");
    assert!((120..130).contains(&reads), "{reads} reads within a minute");
    suite.clock.advance(chassis::clock::Duration::minutes(1));
    reader.call_ok(GET, world.project_request(json!({}))).await;

    let mut wrong = reader.token.clone();
    let last = if wrong.pop() == Some('a') { 'b' } else { 'a' };
    wrong.push(last);
    let guesser = reader.with_token(&wrong);
    for _ in 0..10 {
        assert_eq!(
            guesser.call_err(GET, world.project_request(json!({}))).await,
            "INVALID_CREDENTIAL"
        );
    }
    assert_eq!(guesser.call_err(GET, world.project_request(json!({}))).await, "ADDRESS_BLOCKED");
    assert_eq!(reader.call_err(GET, world.project_request(json!({}))).await, "ADDRESS_BLOCKED");
    world.owner.call_ok(GET, world.project_request(json!({}))).await;
    suite.clock.advance(chassis::clock::Duration::minutes(16));
    reader.call_ok(GET, world.project_request(json!({}))).await;
    suite.finish().await;
}

/// PL-15: every credential is in `authorization`; other headers are ignored.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_read_from_one_header_only() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let (reader, _) = create_key(&world, &world.owner, json!({ "name": "reader" })).await;
    let channel = raw::connect(suite.address).await;
    for (header, value, accepted) in [
        ("x-api-key", reader.token.clone(), false),
        ("authorization", reader.token.clone(), false),
        ("authorization", format!("Bearer {}", reader.token), true),
        ("authorization", format!("bearer {}", reader.token), true),
    ] {
        let mut client = AccessServiceClient::new(channel.clone());
        let mut request = tonic::Request::new(GetPermissionMatrixRequest {});
        request.metadata_mut().insert(header, value.parse().unwrap());
        let answer = client.get_permission_matrix(request).await;
        assert_eq!(answer.is_ok(), accepted, "{header} {answer:?}");
    }
    suite.finish().await;
}

/// A key expires; lists show the time of its last use and never its secret.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_expires_and_its_last_use_is_listed() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let (short, _) =
        create_key(&world, &world.owner, json!({ "name": "short", "expiresInDays": 1 })).await;
    let list = format!("{KEYS}/ListApiKeys");
    let last_use = async || {
        let listed =
            world.owner.sign_in_again().await.call_ok(&list, world.org_request(json!({}))).await;
        assert!(!listed.to_string().contains(&short.token));
        listed["apiKeys"][0]["lastUseTime"].clone()
    };
    assert_eq!(last_use().await, Value::Null);
    short.call_ok(GET, world.project_request(json!({}))).await;
    assert_ne!(last_use().await, Value::Null);
    suite.clock.advance(chassis::clock::Duration::days(1));
    assert_eq!(short.call_err(GET, world.project_request(json!({}))).await, "INVALID_CREDENTIAL");
    let plain_secrets =
        "select count(*) from identity.api_key where encode(secret_hash, 'escape') like '%tny_%'";
    assert_eq!(suite.count(plain_secrets).await, 0);
    suite.finish().await;
}
