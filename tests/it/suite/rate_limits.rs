//! Rate limits of two replicas together: calls that alternate between them are admitted as often as those to
//! one.

use serde_json::json;
use testkit::{Nats, Options, Person, Suite};

use crate::support::world::World;

const KEYS: &str = "identity.v1.ApiKeyService/CreateApiKey";
const RENAME: &str = "project.v1.ProjectService/UpdateProject";
const GET: &str = "project.v1.ProjectService/GetProject";

/// Two replicas with a limit of sign-ins.
struct Replicas {
    nats: Nats,
    first: Suite,
    second: Suite,
}

impl Replicas {
    async fn start() -> Self {
        let nats = Nats::start();
        let options =
            Options { nats_url: Some(nats.url()), sign_ins_max: 40, ..Options::default() };
        let first = Suite::start_with(options).await;
        let second = first.replica().await;
        Self { nats, first, second }
    }

    async fn finish(self) {
        self.second.stop_replica().await;
        self.first.finish().await;
        drop(self.nats);
    }
}

/// I-06: five attempts for an account, and 40 of a network, in a minute.
#[tokio::test(flavor = "multi_thread")]
async fn sign_ins_are_limited_on_all_replicas_together() {
    let replicas = Replicas::start().await;
    let log_in = async |number: usize, email: &str| {
        let suite = if number.is_multiple_of(2) { &replicas.first } else { &replicas.second };
        let request = json!({ "email": email, "password": "wrong-password-1" });
        suite
            .client
            .call_json("identity.v1.SessionService/Login", request)
            .await
            .unwrap_err()
            .reason
    };
    replicas.first.clock.stop();
    let mut reasons = vec![];
    for number in 0..8 {
        reasons.push(log_in(number, "ann@example.com").await);
    }
    assert_eq!(reasons[..5], ["INVALID_LOGIN"; 5]);
    assert_eq!(reasons[5..], ["RATE_LIMITED"; 3]);
    // The attempts for one account counted for the network, too, also those that were refused.
    let mut admitted = 0;
    for number in 0..40 {
        let reason = log_in(number, &format!("person{number}@example.com")).await;
        admitted += usize::from(reason == "INVALID_LOGIN");
    }
    assert_eq!(admitted, 32);
    replicas.first.clock.advance(chassis::clock::Duration::minutes(1));
    assert_eq!(log_in(0, "ann@example.com").await, "INVALID_LOGIN");
    replicas.finish().await;
}

/// PL-12, PL-13: 20 changes of a key in a minute. After ten invalid keys on one replica, the other one
/// accepts one more before it refuses the network.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_limited_on_all_replicas_together() {
    let replicas = Replicas::start().await;
    let world = World::new(&replicas.first).await;
    let create = world.org_request(json!({ "name": "key", "full": true }));
    let created = world.owner.call_ok(KEYS, create).await;
    let token = created["token"].as_str().unwrap();
    let on = |suite: &Suite, token: &str| Person {
        client: suite.client.with_token(token),
        ..world.owner.clone()
    };
    let keys = [on(&replicas.first, token), on(&replicas.second, token)];
    replicas.first.clock.stop();
    let mut admitted = 0;
    for (number, key) in keys.iter().cycle().take(30).enumerate() {
        let name = json!({ "name": format!("Shop {number}"), "updateMask": "name" });
        match key.call(RENAME, world.project_request(name)).await {
            Ok(_) => admitted += 1,
            Err(refusal) => assert_eq!(refusal.reason, "RATE_LIMITED", "{refusal}"),
        }
    }
    assert_eq!(admitted, 20);

    let mut wrong = token.to_owned();
    let last = if wrong.pop() == Some('a') { 'b' } else { 'a' };
    wrong.push(last);
    let guess = async |suite: &Suite| {
        on(suite, &wrong).call_err(GET, world.project_request(json!({}))).await
    };
    for _ in 0..10 {
        assert_eq!(guess(&replicas.first).await, "INVALID_CREDENTIAL");
    }
    assert_eq!(guess(&replicas.first).await, "ADDRESS_BLOCKED");
    assert_eq!(guess(&replicas.second).await, "INVALID_CREDENTIAL");
    assert_eq!(guess(&replicas.second).await, "ADDRESS_BLOCKED");
    replicas.finish().await;
}
