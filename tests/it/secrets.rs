//! What is stored of secrets: nothing that whoever reads the tables could use.

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use testkit::{Person, Suite};

use crate::{
    hosting::{PROJECTS, SERVERS},
    world::{World, merge, text},
};

/// The tables of every service in which some row contains these bytes, as text or as bytes.
async fn tables_with(suite: &Suite, wanted: &[u8]) -> Vec<String> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select format('%I.%I', schemaname, tablename) from pg_tables
         where schemaname in ('identity', 'project', 'invitation', 'audit')",
    )
    .fetch_all(&suite.pool)
    .await
    .unwrap();
    let hex = HEXLOWER.encode(wanted);
    // Bytes that are no text are in no text, and PostgreSQL takes no text with a zero byte.
    let text = str::from_utf8(wanted).ok().filter(|it| !it.contains('\0'));
    let mut found = vec![];
    for table in tables {
        let search = format!(
            "select exists (select from {table} as it
                            where strpos(it::text, $1) > 0 or coalesce(strpos(it::text, $2), 0) > 0)"
        );
        let search = sqlx::query_scalar(AssertSqlSafe(search)).bind(&hex).bind(text);
        if search.fetch_one(&suite.pool).await.unwrap() {
            found.push(table);
        }
    }
    found
}

/// Calls a method twice with one request id: the answer is the same; its secret is at this field.
async fn twice(person: &Person, method: &str, body: Value, field: &str) -> String {
    let body = merge(body, json!({ "requestId": chassis::id::new().to_string() }));
    let first = person.tell(method, body.clone()).await;
    assert_eq!(person.tell(method, body).await, first, "{method}");
    text(&first[field])
}

/// Secrets that are shown once, and answered again to whoever repeats the request, are in no table.
#[tokio::test(flavor = "multi_thread")]
async fn no_table_holds_a_secret_that_was_answered() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let owner = &world.owner;
    let webhook = json!({ "url": "https://1.1.1.1/hook", "eventTypes": ["member.joined"] });
    let server = json!({ "name": "eu-1", "address": "a.example.com" });
    let secrets = [
        twice(
            owner,
            "identity.v1.ApiKeyService/CreateApiKey",
            world.here(json!({ "name": "ci" })),
            "token",
        )
        .await,
        twice(owner, &format!("{SERVERS}/ConnectServer"), world.here(server), "agentToken").await,
        twice(owner, &format!("{PROJECTS}/RotatePushSecret"), world.there(json!({})), "secret")
            .await,
        twice(owner, "invitation.v1.WebhookService/CreateWebhook", world.here(webhook), "secret")
            .await,
        owner.token.clone(),
    ];
    suite.logged().await;
    for secret in &secrets {
        assert!(secret.len() > 20, "a secret");
        assert_eq!(tables_with(&suite, secret.as_bytes()).await, Vec::<String>::new());
    }
    // The search finds what is there.
    assert!(!tables_with(&suite, owner.email.as_bytes()).await.is_empty());
    suite.finish().await;
}

/// A password is not stored as a plain hash of the request that carried it, which could be guessed offline.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_password_leaves_no_hash_of_it() {
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
    let kept = "select count(*) from identity.idempotency";
    assert_eq!(suite.count(kept).await, 1, "the first answer is kept");
    suite.finish().await;
}
