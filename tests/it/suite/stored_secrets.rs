//! Secrets in tables: neither the secrets themselves nor hashes that can be guessed.

use serde_json::{Value, json};
use testkit::{Person, Suite};

use crate::support::{
    hosting::{PROJECTS, SERVERS},
    tables::tables_with,
    world::{World, merge, text},
};

/// Calls a method twice with one request id, which must give the same response; returns the secret in a field
/// of it.
async fn call_twice(person: &Person, method: &str, body: Value, field: &str) -> String {
    let body = merge(body, json!({ "requestId": chassis::id::new().to_string() }));
    let first = person.call_ok(method, body.clone()).await;
    assert_eq!(person.call_ok(method, body).await, first, "{method}");
    text(&first[field])
}

/// Secrets in responses, which a repeated request returns again, are in no table.
#[tokio::test(flavor = "multi_thread")]
async fn no_table_has_a_secret_of_a_response() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let owner = &world.owner;
    let webhook = json!({ "url": "https://1.1.1.1/hook", "eventTypes": ["member.joined"] });
    let server = json!({ "name": "eu-1", "address": "a.example.com" });
    let secrets = [
        call_twice(
            owner,
            "identity.v1.ApiKeyService/CreateApiKey",
            world.org_request(json!({ "name": "ci" })),
            "token",
        )
        .await,
        call_twice(
            owner,
            &format!("{SERVERS}/ConnectServer"),
            world.org_request(server),
            "agentToken",
        )
        .await,
        call_twice(
            owner,
            &format!("{PROJECTS}/RotatePushSecret"),
            world.project_request(json!({})),
            "secret",
        )
        .await,
        call_twice(
            owner,
            "notification.v1.WebhookService/CreateWebhook",
            world.org_request(webhook),
            "secret",
        )
        .await,
        owner.token.clone(),
    ];
    suite.wait_for_log().await;
    for secret in &secrets {
        assert!(secret.len() > 20, "{secret:?} is no secret");
        assert_eq!(tables_with(&suite, secret.as_bytes()).await, Vec::<String>::new());
    }
    // Counter-check: the search finds a value that is stored.
    assert!(!tables_with(&suite, owner.email.as_bytes()).await.is_empty());
    suite.finish().await;
}

/// No plain hash of a request with a password is stored, because it would allow offline guesses.
#[tokio::test(flavor = "multi_thread")]
async fn no_plain_hash_of_a_password_request_is_stored() {
    use prost::Message;
    let suite = Suite::start().await;
    let request = api::identity::RegisterRequest {
        email: "ann@example.com".to_owned(),
        password: testkit::PASSWORD.to_owned(),
        request_id: chassis::id::new().to_string(),
        ..Default::default()
    };
    let method = "tenantry.identity.v1.UserService/Register";
    let _: api::identity::RegisterResponse =
        suite.client.call(method, request.clone()).await.unwrap();
    let hash = chassis::key::hash(&request.encode_to_vec());
    assert_eq!(tables_with(&suite, &hash).await, Vec::<String>::new());
    let records = "select count(*) from identity.idempotency";
    assert_eq!(suite.count(records).await, 1, "the response is stored");
    suite.finish().await;
}
