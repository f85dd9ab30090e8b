//! Signing in with an outside identity provider, a real one.

use reqwest::redirect::Policy;
use serde_json::{Value, json};
use testkit::{Oidc, Options, Suite};

use crate::world::text;

const SESSIONS: &str = "identity.v1.SessionService";

fn person(sub: &str, email: &str, verified: bool) -> String {
    json!({ "sub": sub, "email": email, "email_verified": verified, "name": "Ann" }).to_string()
}

/// What a browser does: the provider's page, the person's choice, and the way back. Answers code and state.
async fn visit(suite: &Suite, sub: &str) -> Value {
    let started =
        suite.client.ask(&format!("{SESSIONS}/StartExternalLogin"), json!({})).await.unwrap();
    let url = text(&started["authorizationUrl"]);
    assert!(url.contains("code_challenge_method=S256"), "{url}");
    let http = reqwest::Client::builder().redirect(Policy::none()).build().unwrap();
    let answer = http.post(&url).form(&[("sub", sub)]).send().await.unwrap();
    let back = answer.headers()["location"].to_str().unwrap().to_owned();
    let back = reqwest::Url::parse(&back).unwrap();
    let of = |name: &str| back.query_pairs().find(|it| it.0 == name).map(|it| it.1.into_owned());
    assert_eq!(of("state"), started["state"].as_str().map(str::to_owned));
    json!({ "code": of("code"), "state": of("state") })
}

async fn complete(suite: &Suite, answer: Value) -> Result<Value, String> {
    let done = suite.client.ask(&format!("{SESSIONS}/CompleteExternalLogin"), answer).await;
    done.map_err(|it| it.reason)
}

async fn who(suite: &Suite, session: &Value) -> Value {
    let client = suite.client.with_token(&text(&session["token"]));
    client.ask("identity.v1.UserService/GetMe", json!({})).await.unwrap()["user"].clone()
}

/// Code with PKCE, state and nonce; an account by its link, by an address that both verified, or a new
/// one; and new keys of the provider.
#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_with_their_provider() {
    let people = [
        person("ann", "Ann@example.com", true),
        person("new", "new@example.com", true),
        person("shady", "shady@example.com", false),
        person("trap", "trap@example.com", true),
    ];
    let provider = Oidc::start(None, &people).await;
    let options = Options { oidc_issuer: Some(provider.issuer()), ..Options::default() };
    let suite = Suite::start_with(options).await;
    let ann = suite.person("ann@example.com").await;

    let answer = visit(&suite, "ann").await;
    let session = complete(&suite, answer.clone()).await.unwrap();
    let me = who(&suite, &session).await;
    assert_eq!(me["id"], ann.user_id);
    assert_eq!(me["linkedIssuers"], json!([provider.issuer()]));
    assert_eq!(complete(&suite, answer).await.unwrap_err(), "PROVIDER_REJECTED", "used");

    let session = complete(&suite, visit(&suite, "new").await).await.unwrap();
    let new = who(&suite, &session).await;
    assert_eq!((&new["email"], &new["emailVerified"]), (&json!("new@example.com"), &json!(true)));
    let again = complete(&suite, visit(&suite, "new").await).await.unwrap();
    assert_eq!(who(&suite, &again).await["id"], new["id"]);

    let refused = complete(&suite, visit(&suite, "shady").await).await.unwrap_err();
    assert_eq!(refused, "PROVIDER_UNVERIFIED");
    // Somebody opened an account with the address of another and never confirmed it.
    let register = json!({ "email": "trap@example.com", "password": testkit::PASSWORD });
    suite.client.ask("identity.v1.UserService/Register", register).await.unwrap();
    assert_eq!(complete(&suite, visit(&suite, "trap").await).await.unwrap_err(), "EMAIL_TAKEN");

    // The answer of one sign-in is none of another.
    let (one, other) = (visit(&suite, "ann").await, visit(&suite, "new").await);
    let mixed = json!({ "code": one["code"], "state": other["state"] });
    assert_eq!(complete(&suite, mixed).await.unwrap_err(), "PROVIDER_REJECTED");
    let made_up = json!({ "code": "x", "state": "tny_ext_x" });
    assert_eq!(complete(&suite, made_up).await.unwrap_err(), "PROVIDER_REJECTED");

    // The provider comes back with other keys, and then not at all.
    let port = provider.stop();
    let provider = Oidc::start(Some(port), &people).await;
    let session = testkit::eventually("the new keys", async || {
        complete(&suite, visit(&suite, "ann").await).await.ok()
    });
    assert_eq!(who(&suite, &session.await).await["id"], ann.user_id);
    let answer = visit(&suite, "ann").await;
    provider.stop();
    assert_eq!(complete(&suite, answer).await.unwrap_err(), "DEPENDENCY_UNAVAILABLE");
    suite.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_provider_its_sign_in_says_so() {
    let suite = Suite::start().await;
    let refusal = suite.client.ask(&format!("{SESSIONS}/StartExternalLogin"), json!({})).await;
    assert!(refusal.unwrap_err().message.contains("--oidc-issuer"));
    suite.finish().await;
}
