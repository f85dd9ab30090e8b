//! Sign-in with an `OpenID` provider.

use reqwest::redirect::Policy;
use serde_json::{Value, json};
use testkit::{OidcProvider, Options, Suite};

use crate::support::{sealed_values::require_sealed_values, world::text};

const SESSIONS: &str = "identity.v1.SessionService";

/// Claims of a user of the provider.
fn claims(sub: &str, email: &str, verified: bool) -> String {
    json!({ "sub": sub, "email": email, "email_verified": verified, "name": "Ann" }).to_string()
}

/// Signs in at the provider like a browser; returns the code and the state of the redirect.
async fn sign_in_at_provider(suite: &Suite, sub: &str) -> Value {
    let started =
        suite.client.call_json(&format!("{SESSIONS}/StartExternalLogin"), json!({})).await.unwrap();
    let url = text(&started["authorizationUrl"]);
    assert!(url.contains("code_challenge_method=S256"), "{url}");
    let http = reqwest::Client::builder().redirect(Policy::none()).build().unwrap();
    let answer = http.post(&url).form(&[("sub", sub)]).send().await.unwrap();
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    let location = reqwest::Url::parse(&location).unwrap();
    let parameter = |name: &str| {
        location.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    };
    assert_eq!(parameter("state"), started["state"].as_str().map(str::to_owned));
    json!({ "code": parameter("code"), "state": parameter("state") })
}

async fn complete(suite: &Suite, answer: Value) -> Result<Value, String> {
    let done = suite.client.call_json(&format!("{SESSIONS}/CompleteExternalLogin"), answer).await;
    done.map_err(|it| it.reason)
}

/// The account of a session.
async fn account(suite: &Suite, session: &Value) -> Value {
    let client = suite.client.with_token(&text(&session["token"]));
    client.call_json("identity.v1.UserService/GetMe", json!({})).await.unwrap()["user"].clone()
}

/// Authorization code flow with PKCE, state and nonce: an existing account is found by its linked issuer or
/// by an address that both sides have verified, else one is created; the provider may rotate its keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_with_an_openid_provider() {
    let people = [
        claims("ann", "Ann@example.com", true),
        claims("new", "new@example.com", true),
        claims("shady", "shady@example.com", false),
        claims("trap", "trap@example.com", true),
    ];
    let mut provider = OidcProvider::start(people.to_vec()).await;
    let options = Options { oidc_issuer: Some(provider.issuer()), ..Options::default() };
    let suite = Suite::start_with(options).await;
    let ann = suite.person("ann@example.com").await;

    let answer = sign_in_at_provider(&suite, "ann").await;
    let session = complete(&suite, answer.clone()).await.unwrap();
    let me = account(&suite, &session).await;
    assert_eq!(me["id"], ann.user_id);
    assert_eq!(me["linkedIssuers"], json!([provider.issuer()]));
    assert_eq!(complete(&suite, answer).await.unwrap_err(), "PROVIDER_REJECTED", "used");

    let session = complete(&suite, sign_in_at_provider(&suite, "new").await).await.unwrap();
    let new = account(&suite, &session).await;
    assert_eq!((&new["email"], &new["emailVerified"]), (&json!("new@example.com"), &json!(true)));
    let second = complete(&suite, sign_in_at_provider(&suite, "new").await).await.unwrap();
    assert_eq!(account(&suite, &second).await["id"], new["id"]);

    let refused = complete(&suite, sign_in_at_provider(&suite, "shady").await).await.unwrap_err();
    assert_eq!(refused, "PROVIDER_UNVERIFIED");
    // An unconfirmed account with the same address.
    let register = json!({ "email": "trap@example.com", "password": testkit::PASSWORD });
    suite.client.call_json("identity.v1.UserService/Register", register).await.unwrap();
    let trapped = complete(&suite, sign_in_at_provider(&suite, "trap").await).await.unwrap();
    assert_eq!(account(&suite, &trapped).await["emailVerified"], true);
    let stranger = testkit::Person::login(&suite.client, "trap@example.com").await.unwrap_err();
    assert_eq!(stranger.reason, "INVALID_LOGIN", "the unconfirmed account has ended");

    // The code of one sign-in with the state of another.
    let one = sign_in_at_provider(&suite, "ann").await;
    let other = sign_in_at_provider(&suite, "new").await;
    require_sealed_values(&suite, &["identity.external_login.sealed"]).await;
    let mixed = json!({ "code": one["code"], "state": other["state"] });
    assert_eq!(complete(&suite, mixed).await.unwrap_err(), "PROVIDER_REJECTED");
    let made_up = json!({ "code": "x", "state": "tny_ext_x" });
    assert_eq!(complete(&suite, made_up).await.unwrap_err(), "PROVIDER_REJECTED");

    // The provider restarts with new keys, then stays down.
    provider.stop();
    provider.restart().await;
    let session = testkit::eventually("the new keys", async || {
        complete(&suite, sign_in_at_provider(&suite, "ann").await).await.ok()
    });
    assert_eq!(account(&suite, &session.await).await["id"], ann.user_id);
    let answer = sign_in_at_provider(&suite, "ann").await;
    provider.stop();
    assert_eq!(complete(&suite, answer).await.unwrap_err(), "DEPENDENCY_UNAVAILABLE");
    suite.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_provider_external_login_names_the_setting() {
    let suite = Suite::start().await;
    let refusal =
        suite.client.call_json(&format!("{SESSIONS}/StartExternalLogin"), json!({})).await;
    assert!(refusal.unwrap_err().message.contains("--oidc-issuer"));
    suite.finish().await;
}
